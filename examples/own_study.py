# %% [markdown]
"""# A convergence-rate study of a method of your own.

The problem: a particle in a rough landscape, a sum of 2,048 waves whose amplitudes fall like `j^-0.9`. Levels: the
first 8, 64, 512 or all of them. Price: their number. What a level leaves out falls like `n^-0.4`, so that accuracy
costs `gamma = 1/0.4 = 2.5`.

The method, which `mlsde` does not have: *Strang splitting*. Of `r` small steps with the cheapest level and the noise,
one half; then one kick by what the dear level adds, for the whole time; then the other half. Two lines say what it
costs, twenty what it does, and `mlsde.study.convergence` does the rest: it tries every number of steps and small
steps on the same paths as all other methods, finds the least cost that reaches each error, and fits the exponent with
an interval.

What to expect: splitting is multilevel hold with periodic coins in disguise, and should come out near it.

    python examples/own_study.py           # --quick for a first look, --picture FILE
"""

# %%
import argparse
from collections.abc import Sequence

import torch

import mlsde
from mlsde import study
from mlsde.drawing import COLOURS, canvas, save
from mlsde.problems import LadderProblem
from mlsde.study.figure import draw_frontiers

parser = argparse.ArgumentParser(description="A method of one's own in a convergence study.", allow_abbrev=False)
parser.add_argument("--quick", action="store_true", help="smaller, in seconds")
parser.add_argument("--picture", default="out/own_study.png", help="where the picture goes")
asked, _ = parser.parse_known_args()  # a notebook has arguments of its own
torch.set_num_threads(1)

# %% [markdown]
# ## The problem

# %%
SIZES = (8, 64) if asked.quick else (8, 64, 512, 2048)
chance = torch.Generator().manual_seed(0)
waves = torch.randn(3, SIZES[-1], generator=chance, dtype=torch.float64)
phases = 2 * torch.pi * torch.rand(SIZES[-1], generator=chance, dtype=torch.float64)
sizes = (torch.arange(SIZES[-1]) + 1.0).double() ** -0.9
sizes *= 1.5 / sizes.square().sum().sqrt()


def level(count: int) -> mlsde.hierarchy.Level:
    """A trap, and minus the gradient of the first waves."""
    k, phase, size = waves[:, :count], phases[:count], sizes[:count]
    return lambda t, y: torch.addmm(-y, torch.sin(torch.addmm(phase, y, k)) * size, k.T)


names = [f"{count} waves" for count in SIZES]
drift = mlsde.DriftHierarchy([level(count) for count in SIZES], [float(count) for count in SIZES], names=names)
sde = mlsde.SDE(drift, 0.5)


def start(samples: int, seed: int) -> torch.Tensor:
    """Anywhere near the trap."""
    return torch.randn(samples, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


problem = LadderProblem("a rough landscape", sde, start, (0.0, 1.0), gamma=2.5)
found = study.diagnose(problem, samples=64)
print(found)

# %% [markdown]
# ## The method
#
# `sde` comes with the ladder up to some level: the study tries them all. `brownian(ta, tb)` is the increment of the
# samples' own paths, at whatever times the method likes.

# %%
SPLITS = (1, 2, 4, 8, 16)  # small steps on either side of a kick


def splitting(sde, y0, t_span, steps, small, brownian, seed):
    """Strang splitting into the cheapest level with the noise, and what the dearest adds."""
    cheap, dear = sde.drift.levels[0], sde.drift.levels[-1]
    parts = 2 * int(small)
    h = (t_span[1] - t_span[0]) / (steps * parts)
    times = [t_span[0] + h * n for n in range(steps * parts)] + [t_span[1]]
    y = y0
    for n in range(steps * parts):
        if n % parts == parts // 2:
            y = y + h * parts * (dear(times[n], y) - cheap(times[n], y))
        y = y + h * cheap(times[n], y) + sde.diffusion * brownian(times[n], times[n + 1])
    return y


def splitting_price(costs: Sequence[float], steps: int, small: float) -> float:
    """One kick and the small steps; with one level there is nothing to split."""
    return steps * (2 * small * costs[0] + costs[0] + costs[-1]) if len(costs) > 1 else -1.0


mine = study.own("Strang splitting (mine)", splitting, splitting_price, settings=SPLITS)

# %% [markdown]
# ## The study
#
# Errors are root mean squares over samples, medians over seeds; costs are waves summed. The exponents have intervals
# from a bootstrap over the seeds, and where theory makes a statement it stands beside. Of a method of one's own it
# makes none.

# %%
methods = [study.plain(), study.plain("heun"), study.stitching(), study.multilevel("independent", "impulse"),
           study.multilevel("periodic", "hold"), study.multilevel("systematic", "extrapolate"), mine]  # fmt: skip
errors = (0.5, 0.35, 0.25) if asked.quick else (0.25, 0.18, 0.125, 0.09, 0.063, 0.045, 0.032, 0.022, 0.016)
result = study.convergence(
    problem, methods, errors,
    seeds=2 if asked.quick else 5, samples=8, most_steps=32 if asked.quick else 512,
)  # fmt: skip
print(result)

# %% [markdown]
# ## The picture

# %%
figure = canvas(11.5, 4.6)
left, right = figure.subplots(1, 2, width_ratios=[2, 3])
left.loglog(found.costs, [variance**0.5 for variance in found.variances], "o-", color=COLOURS[2])
left.set(xlabel="waves summed", ylabel="root mean square of the difference to the level below")
draw_frontiers(result, right)
right.set_ylim(top=10 * right.get_ylim()[1])  # room for the legend
print(f"picture: {save(figure, asked.picture)}")

# %% [markdown]
# ## Does it pay here?
#
# Splitting against the others at the tightest error that both reach.

# %%
for method in methods[:-1]:
    ratio = result.ratio(method.name, mine.name)
    print(f"{mine.name} is {ratio:.2f} times cheaper than {method.name}" if ratio > 1 else
          f"{mine.name} is {1 / ratio:.2f} times dearer than {method.name}")  # fmt: skip
