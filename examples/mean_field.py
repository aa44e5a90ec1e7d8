# %% [markdown]
"""# A mean-field particle system with batches of growing size.

A flock of 256 self-propelled birds in the plane: each keeps its speed by itself, and is drawn to and pushed from the
mean of all the others. That mean is the expensive part; the obvious surrogate is a mean over some of them.

Levels: the first 8, the first 64, and all 256 birds stand for the flock. Price: the number of birds summed over. The
error of such a batch falls like the root of its size, so accuracy costs `gamma = 2`: the border case, in which Monte
Carlo is exactly as hard. What to expect: no miracle from the independent coins of the paper; but the difference of
two batches changes as slowly as the flock moves, and whoever spreads the firings evenly or remembers them gains. The
rival of the trade is the *random batch method*: a new small batch at each step.

    python examples/mean_field.py          # --quick for a first look, --picture FILE
"""

# %%
import argparse

import torch

import mlsde
from mlsde import study
from mlsde.drawing import COLOURS, canvas, save
from mlsde.problems import LadderProblem
from mlsde.study.figure import draw_comparison

parser = argparse.ArgumentParser(description="A flock, whose mean field is taken over batches.", allow_abbrev=False)
parser.add_argument("--quick", action="store_true", help="smaller, in seconds")
parser.add_argument("--picture", default="out/mean_field.png", help="where the picture goes")
asked, _ = parser.parse_known_args()  # a notebook has arguments of its own
torch.set_num_threads(1)

# %% [markdown]
# ## The flock
#
# A *sample* is a whole flock, shape `(birds, 4)`, places and velocities: dimension 0 of a state is what the package
# may split, and the birds of one flock feel each other. The model is that of M. R. D'Orsogna et al., Phys. Rev. Lett.
# 96 (2006): `dx = v dt`, `dv = [(1.6 - |v|^2 / 2) v + F(x)] dt + 0.2 dW`, `F` the mean over the flock of a pull `4
# exp(-r / 2) - 8 exp(-2 r)`. Noise acts on the velocities alone, so the diffusion is a tensor with zeros.

# %%
BIRDS = 128 if asked.quick else 256
SIZES = (8, 32, 128) if asked.quick else (8, 64, 256)
SPAN, STEPS = ((0.0, 1.0), 96) if asked.quick else ((0.0, 4.0), 384)
NOISE = torch.tensor([0.0, 0.0, 0.2, 0.2])


def pull(batch: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Mean pull of the birds at `batch`, (flocks, n, 2), on those at `x`, (flocks, birds, 2)."""
    squares = x.square().sum(-1, keepdim=True) - 2 * x @ batch.mT + batch.square().sum(-1).unsqueeze(1)
    r = squares.clamp(min=1e-4).sqrt()
    strength = (4 * torch.exp(-r / 2) - 8 * torch.exp(-2 * r)) / r
    return (strength @ batch - strength.sum(-1, keepdim=True) * x) / batch.shape[1]


def motion(y: torch.Tensor, members: torch.Tensor | slice) -> torch.Tensor:
    """Drift, with some members of the flock in place of all."""
    x, v = y[..., :2], y[..., 2:]
    return torch.cat([v, (1.6 - 0.5 * v.square().sum(-1, keepdim=True)) * v + pull(x[:, members], x)], dim=-1)


def start(samples: int, seed: int) -> torch.Tensor:
    """A loose flock that flies to the right."""
    chance = torch.Generator().manual_seed(seed)
    return torch.randn(samples, BIRDS, 4, generator=chance) + torch.tensor([0.0, 0.0, 1.0, 0.0])


levels = [lambda t, y, n=n: motion(y, slice(n)) for n in SIZES]
drift = mlsde.DriftHierarchy(levels, [float(n) for n in SIZES], names=[f"{n} birds" for n in SIZES])
sde = mlsde.SDE(drift, NOISE)
problem = LadderProblem("a flock", sde, start, SPAN, gamma=2.0)

# %% [markdown]
# ## The ladder, measured
#
# `gamma = 2` is the law of large numbers. A ladder of three levels that ends at *all* birds looks better than that,
# because the last difference, between 64 birds and the 256 they belong to, is smaller than the error of 64
# independent ones.

# %%
print(study.diagnose(problem, samples=4, steps=STEPS // 4))

# %% [markdown]
# ## Every way at an eighth of the price
#
# A pilot recommends a way; its price is shared by the thousand flocks to come, and taken from the budget.

# %%
SHARE = 8.0
PILOT = {"pilot_steps": 16, "pilot_samples": 8} if asked.quick else {}
budget = STEPS * SIZES[-1] / SHARE
cal = mlsde.calibrate(sde, problem.initial(8), SPAN, steps=STEPS, trajectories=1000, **PILOT)
print(f"the pilot costs {cal.cost:.0f} per flock of a budget of {budget:.0f}")
advice = cal.recommend(budget=budget - cal.cost, share="sample")
print(advice)

# %% [markdown]
# The random batch method (S. Jin, L. Li & J.-G. Liu, arXiv 1812.10575) as a rival: as many birds at each step as the
# budget pays for, drawn anew each time.

# %%
PART = int(SIZES[-1] / SHARE)


def random_batch(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Drift with a batch that depends on the time alone."""
    chance = torch.Generator().manual_seed(round(1e6 * float(t)))
    return motion(y, torch.randperm(BIRDS, generator=chance)[:PART])


random_batches = mlsde.SDE(mlsde.DriftHierarchy([random_batch], [float(PART)]), NOISE)


def by_random_batches(y0: torch.Tensor, **options: object) -> mlsde.Solution:
    """Solve with them."""
    return mlsde.solve(random_batches, y0, SPAN, steps=STEPS, **options)


compared = study.equal_cost(
    problem, share=SHARE, steps=STEPS, seeds=2 if asked.quick else 6, samples=1, patterns=3 if asked.quick else 15,
    ways={"recommended": advice.solve}, rivals={f"random batches of {PART}": by_random_batches},
    reference_steps=(4 if asked.quick else 6) * STEPS,
)  # fmt: skip
print(compared)

# %% [markdown]
# ## The picture
#
# One flock at the end, by all birds at every step and by what was recommended; and who misses by how much.

# %%
y0 = problem.initial(1, seed=99)
path = mlsde.BrownianPath(*SPAN, like=y0, seed=1, grids=(STEPS,))
full = mlsde.solve(sde, y0, SPAN, steps=STEPS, brownian=path).y1[0]
cheap = advice.solve(y0, brownian=path, seed=[0]).y1[0]
some = by_random_batches(y0, brownian=path).y1[0]
figure = canvas(10.5, 4.0)
sky, bars = figure.subplots(1, 2, width_ratios=[4, 5])
sky.quiver(*full.T, color=COLOURS[0], width=0.003, label="all birds at every step")
sky.plot(*cheap[:, :2].T, "o", color=COLOURS[3], ms=2.5, label="recommended")
sky.plot(*some[:, :2].T, "o", mfc="none", color=COLOURS[1], ms=5, mew=0.6, label=f"random batches of {PART}")
sky.set_aspect("equal", adjustable="datalim")
sky.set_title(f"a flock at t = {SPAN[1]:g}", fontsize=9)
sky.legend(fontsize=8, frameon=False)
draw_comparison(compared, bars)
print(f"picture: {save(figure, asked.picture)}")

# %% [markdown]
# ## Does it pay here?
#
# First the best rule in hindsight against the best rival in hindsight; then the way that the pilot chose before the
# run; then the paper's rule.

# %%
print(compared.verdict())
print(compared.verdict("recommended"))
print(compared.verdict("independent impulse"))
