# %% [markdown]
"""# Learning when to look: a slow ocean under a fast atmosphere.

The atmosphere forgets within days what was wrong with it; the ocean remembers for years. Two expensive schemes
correct a simple model: *eddies* in the ocean, small, and *clouds* in the atmosphere, large. Whoever looks at sizes
alone spends everything on clouds, and most of that is forgotten before the end.

Levels: the simple model, with eddies (64 waves), and with clouds too (512 waves). Price: waves summed. `mlsde.learn`
finds probabilities `p_k(t)` by gradient descent on the error at the end, the paper's way, for the paper's rule:
independent coins, impulses. What to expect: the closed form, with measured variances `V_k(t)` and one sensitivity
`w(t)` for all, cannot tell ocean from atmosphere; learning can, and should win clearly. It costs a great many full
runs, so it is for equations that are solved again and again; and coins that are spread evenly are another lever,
which may beat it for nothing.

    python examples/learning.py            # --quick for a first look, --picture FILE
"""

# %%
import argparse
import functools

import torch
from torch.nn.functional import linear

import mlsde
from mlsde import study
from mlsde.drawing import COLOURS, canvas, save
from mlsde.problems import LadderProblem
from mlsde.study.figure import draw_comparison

parser = argparse.ArgumentParser(description="Probabilities in time, learned.", allow_abbrev=False)
parser.add_argument("--quick", action="store_true", help="smaller, in seconds")
parser.add_argument("--picture", default="out/learning.png", help="where the picture goes")
asked, _ = parser.parse_known_args()  # a notebook has arguments of its own
torch.set_num_threads(1)

# %% [markdown]
# ## The two media
#
# Two boxes of each, `y = (ocean, ocean, air, air)`: `ocean' = (air - ocean) / 2 + eddies`, `air' = 20 (ocean - air) +
# clouds`, with weather in the air. Products of matrices are what torch differentiates quickly.

# %%
EDDIES, CLOUDS = (8, 32) if asked.quick else (64, 512)
chance = torch.Generator().manual_seed(0)
exchange = torch.tensor(
    [[-0.5, 0.0, 0.5, 0.0], [0.0, -0.5, 0.0, 0.5], [20.0, 0.0, -20.0, 0.0], [0.0, 20.0, 0.0, -20.0]],
    dtype=torch.float64,
)


def scheme(count: int, rows: slice, size: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random waves of the state that act on some components: frequencies, phases, amplitudes."""
    frequencies = torch.randn(count, 4, generator=chance, dtype=torch.float64)
    phases = 6.3 * torch.rand(count, generator=chance, dtype=torch.float64)
    amplitudes = torch.zeros(4, count, dtype=torch.float64)
    amplitudes[rows] = torch.randn(2, count, generator=chance, dtype=torch.float64)
    return frequencies, phases, size * amplitudes * (2.0 / count) ** 0.5


eddies, clouds = scheme(EDDIES, slice(0, 2), 0.25), scheme(CLOUDS, slice(2, 4), 4.0)


def simple(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Exchange alone."""
    return linear(y, exchange)


def waves(y: torch.Tensor, scheme: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """What a scheme adds."""
    frequencies, phases, amplitudes = scheme
    return linear(torch.cos(linear(y, frequencies, phases)), amplitudes)


def with_eddies(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """And the ocean's eddies."""
    return linear(y, exchange) + waves(y, eddies)


def with_clouds(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """And the clouds."""
    return linear(y, exchange) + waves(y, eddies) + waves(y, clouds)


prices = [4.0, 4.0 + EDDIES, 4.0 + EDDIES + CLOUDS]
drift = mlsde.DriftHierarchy([simple, with_eddies, with_clouds], prices, names=["simple", "eddies", "clouds"])
sde = mlsde.SDE(drift, torch.tensor([0.1, 0.1, 1.0, 1.0], dtype=torch.float64))
SPAN, STEPS, SHARE = (0.0, 1.0), 48 if asked.quick else 96, 6.0
SEEDS, SAMPLES = (4, 4) if asked.quick else (20, 8)


def start(samples: int, seed: int) -> torch.Tensor:
    """Some year."""
    return torch.randn(samples, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


problem = LadderProblem("ocean and air", sde, start, SPAN, gamma=2.5)  # of the paper, for its power law
print(study.diagnose(problem, samples=64))

# %% [markdown]
# ## Learning
#
# A pilot measures `V_k(t)` and `w(t)`; the closed form of these, `p ~ h sqrt(w V / c)`, is where the descent begins.

# %%
budget = STEPS * prices[-1] / SHARE
cal = mlsde.calibrate(sde, problem.initial(512, seed=7), SPAN, steps=STEPS, pilot_steps=64, pilot_samples=32)
closed = mlsde.Optimal(cal.variances, budget, sensitivity=cal.sensitivity)
ITERATIONS, BATCH = (6, 16) if asked.quick else (100, 96)
learned = mlsde.learn(
    sde, problem.initial(512, seed=7), SPAN, steps=STEPS, budget=budget, start=closed, iterations=ITERATIONS,
    samples=BATCH, knots=16,
)  # fmt: skip
first, last = (sum(loss for loss, _ in part) / len(part) for part in (learned.history[:5], learned.history[-5:]))
print(f"loss {first:.3g} at the beginning, {last:.3g} at the end of {ITERATIONS} iterations")

# %% [markdown]
# ## The comparison
#
# The rules have the power law of the paper, constant in time. The others' probabilities go with the paper's coins,
# and the learned ones also with coins spread evenly, for which they were not learned.

# %%


def way(law: object, coins: str = "independent", correction: str = "impulse") -> functools.partial:
    """A run with these probabilities."""
    rule = mlsde.Multilevel(law, coins, correction, "sample")
    return functools.partial(mlsde.solve, sde, t_span=SPAN, steps=STEPS, multilevel=rule)


ways = {
    "independent impulse, V alone": way(mlsde.Optimal(cal.variances, budget)),
    "independent impulse, V and w": way(closed),
    "independent impulse, learned": way(learned),
    "systematic impulse, learned": way(learned, "systematic"),
    "systematic hold, learned": way(learned, "systematic", "hold"),
}
pairs = ("independent", "impulse"), ("systematic", "impulse"), ("systematic", "hold")
compared = study.equal_cost(
    problem, [study.multilevel(*pair) for pair in pairs], ways=ways, share=SHARE, steps=STEPS, seeds=SEEDS,
    samples=SAMPLES, patterns=3 if asked.quick else 15, reference_steps=(8 if asked.quick else 16) * STEPS,
)  # fmt: skip
print(compared)

# %% [markdown]
# ## The picture

# %%
figure = canvas(11.5, 4.4)
when, bars = figure.subplots(1, 2, width_ratios=[4, 5])
for law, style, name in ((learned, "-", "learned"), (closed, ":", "closed form")):
    plan = mlsde.solve(sde, problem.initial(1), SPAN, steps=STEPS, multilevel=mlsde.Multilevel(law)).plan
    for k, colour in ((1, COLOURS[2]), (2, COLOURS[1])):
        label = f"{drift.names[k]}, {name}"
        when.semilogy(plan.times[:-1], plan.probabilities[:, k], style, color=colour, label=label)
when.set(xlabel="time", ylabel="$p_k(t)$")
when.legend(fontsize=8, frameon=False)
draw_comparison(compared, bars)
print(f"picture: {save(figure, asked.picture)}")

# %% [markdown]
# ## Does it pay here?
#
# Whether the ladder pays; and whether learning does against the closed form. An iteration costs a batch of full runs
# with derivatives, counted here as three runs each. Compare with stitching in time, which looks late as well, and
# with coins spread evenly, which cost nothing to find.

# %%
print(compared.verdict())
form, found = (compared[f"independent impulse, {name}"].coins_error for name in ("V and w", "learned"))
print(
    f"The coins of the learned probabilities miss by {found / form:.2f} times what those of the closed form do. "
    f"To learn them took about {3 * ITERATIONS * BATCH:,} full runs, and the pilot {cal.price / budget / SHARE:.0f}."
)
