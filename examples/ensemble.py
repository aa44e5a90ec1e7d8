# %% [markdown]
"""# A hundred thousand particles over a rough double well, on one process or on many.

Overdamped particles begin on the left and wander over a hill: how many have crossed it by when, and where are they?
Averages need many trajectories, and many trajectories need several processes, and time in which something breaks.

Levels: the force of two wells (1), and the same with 200 small ripples of the ground (200). Price: terms summed. What
to expect: one call, `mlsde.ensemble`, which works in chunks; bit for bit the same numbers on one process and under
`torchrun`; and where the call was killed, the same call goes on, because finished chunks lie in a folder.

    python examples/ensemble.py            # --quick for a first look, --picture FILE, --folder FOLDER
    torchrun --standalone --nproc-per-node 2 examples/ensemble.py
"""

# %%
import argparse
import os
import subprocess
import sys
import tempfile

import torch

import mlsde
from mlsde import study
from mlsde.drawing import canvas, save
from mlsde.problems import LadderProblem
from mlsde.study.figure import draw_comparison

parser = argparse.ArgumentParser(description="Many particles over a rough double well.", allow_abbrev=False)
parser.add_argument("--quick", action="store_true", help="smaller, in seconds")
parser.add_argument("--picture", default="out/ensemble.png", help="where the picture goes")
parser.add_argument("--folder", help="where finished chunks are kept (default out/ensemble or out/ensemble-quick)")
parser.add_argument("--part", metavar="FOLDER", help="run a part of it there and say nothing")
asked, _ = parser.parse_known_args()  # a notebook has arguments of its own
torch.set_num_threads(1)  # as many in each process, for the same bits

# %% [markdown]
# ## The particles

# %%
COUNT, STEPS, SPAN = 3_000 if asked.quick else 100_000, 40 if asked.quick else 400, (0.0, 4.0)
RIPPLES, BANDS = 200, (0.05, 0.25, 0.5, 0.75, 0.95)
TIMES = [SPAN[1] * k / 20 for k in range(21)]


def wells(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Force of two wells at -1 and 1."""
    return 4.0 * (y - y**3)


def rough(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The same, and ripples."""
    waves = torch.arange(1.0, RIPPLES + 1.0, dtype=y.dtype, device=y.device)
    return wells(t, y) + 0.3 * (torch.sin(waves * y) / waves).sum(-1, keepdim=True)


def crossed(ys: torch.Tensor) -> torch.Tensor:
    """Whether each particle is right of the hill, at each saved time: (particles, saved)."""
    return (ys[:, :, 0] > 0).double().T


def left(count: int) -> torch.Tensor:
    """In the left well."""
    return -1.0 + 0.1 * torch.randn(count, 1)


drift = mlsde.DriftHierarchy([wells, rough], costs=[1.0, float(RIPPLES)], names=["wells", "ripples too"])
sde = mlsde.SDE(drift, diffusion=1.0)
rule = mlsde.Multilevel(mlsde.Constant([1.0, 0.125]))


def run(count: int, folder: str | None, **options: object) -> mlsde.Ensemble:
    """So many particles; statistics, and no states, are kept."""
    return mlsde.ensemble(
        sde, left, count, SPAN, steps=STEPS, save_at=TIMES, keep=mlsde.Statistics(BANDS, {"crossed": crossed}),
        folder=folder, seed=0, **options,
    )  # fmt: skip


PART = 1_600
if asked.part:
    run(PART, asked.part, multilevel=rule)
    raise SystemExit

# %% [markdown]
# ## The run

# %%
folder = asked.folder or ("out/ensemble-quick" if asked.quick else "out/ensemble")
found = run(COUNT, folder, multilevel=rule)
without = run(COUNT // 4, None, level=1)  # the wells alone, to compare with; all processes must take part
if torch.distributed.is_initialized() and torch.distributed.get_rank() > 0:
    raise SystemExit  # the first process tells
print(found)
over, doubt = found.statistics.functionals["crossed"]
for k in range(0, 21, 5):
    print(f"  at t={found.ts[k]:.0f} {over[k]:.4f} ± {doubt[k]:.4f} have crossed")

# %% [markdown]
# ## Two processes
#
# A small part of it under `torchrun`, from here, and again on this process alone. The pieces that the two processes
# left in their folder are found, not computed, when the same call opens it.

# %%
if "__file__" in globals() and not torch.distributed.is_initialized():
    with tempfile.TemporaryDirectory() as shared:
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__]
        subprocess.run(
            [*launch, *(["--quick"] if asked.quick else []), "--part", shared], check=True, stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        two, one = run(PART, shared, multilevel=rule), run(PART, None, multilevel=rule)
        print(f"of two processes: {two.found} chunks found, {two.computed} computed; of one: {one.computed} computed")
        same = all(torch.equal(a, b) for a, b in zip(two.statistics.functionals["crossed"],
                                                     one.statistics.functionals["crossed"], strict=True))  # fmt: skip
        print(f"the same bits: {same and torch.equal(two.statistics.mean, one.statistics.mean)}")

# %% [markdown]
# ## Is the rule any good?
#
# The ripples are felt at one step in eight, and held in between. Every way at that price, path by path: a particle
# that crosses at another time counts for many that do not, so errors scatter, and only wide gaps mean anything. And
# how many cross if there are no ripples, which is what all this is for.

# %%
problem = LadderProblem(
    "a rough double well", sde, lambda samples, seed: -1 + 0.1 * torch.randn(
        samples, 1, generator=torch.Generator().manual_seed(seed)), SPAN,
)  # fmt: skip
compared = study.equal_cost(
    problem, share=found.full_cost / found.cost, steps=STEPS, seeds=4 if asked.quick else 16,
    samples=8 if asked.quick else 32, patterns=3 if asked.quick else 15,
    reference_steps=(4 if asked.quick else 8) * STEPS,
)  # fmt: skip
print(compared)
smooth, spread = without.statistics.functionals["crossed"]
print(f"without ripples {smooth[-1]:.4f} ± {spread[-1]:.4f} have crossed at the end")

# %% [markdown]
# ## The picture
#
# Bands of the quantiles, the part that crossed, and the comparison.

# %%
figure = canvas(13.0, 3.8)
places, counts, bars = figure.subplots(1, 3, width_ratios=[3, 3, 4])
quantiles = found.statistics.quantiles[:, :, 0]
for low, high, shade in ((0, 4, 0.25), (1, 3, 0.5)):
    label = f"{BANDS[low]:.0%} to {BANDS[high]:.0%}"
    places.fill_between(
        found.ts, quantiles[low], quantiles[high], color="#0072b2", alpha=shade, linewidth=0, label=label
    )
places.plot(found.ts, quantiles[2], color="#0072b2", label="median")
places.set(xlabel="time", ylabel="place")
places.set_title(f"{found.done:,} particles", fontsize=9)
places.legend(frameon=False, fontsize=8, loc="upper left")
counts.errorbar(found.ts, over, 2 * doubt, color="#d55e00", capsize=2, label="two wells and ripples")
counts.errorbar(found.ts, smooth, 2 * spread, color="#7f7f7f", ls="--", capsize=2, label="two wells alone")
counts.set(xlabel="time", ylabel="part that crossed the hill")
counts.legend(frameon=False, fontsize=8, loc="upper left")
draw_comparison(compared, bars)
print(f"picture: {save(figure, asked.picture)}")

# %% [markdown]
# ## Does it pay here?

# %%
print(f"{found.full_cost / found.cost:.2f} times less than ripples at every step. {compared.verdict()}")
