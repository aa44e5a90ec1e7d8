# %% [markdown]
"""# Bayesian posterior sampling with nested subsets of the data.

Logistic regression, 4,096 observations, eight coefficients: Langevin dynamics `dY = 1/2 grad log posterior dt + dW`
samples the posterior, and each gradient is a sum over all the data. Subsets make it cheap and wrong.

Levels: the first 8, 64, 512 and all 4,096 observations, each around the posterior's mode, where the full gradient is
known (a control variate, J. Baker et al., arXiv 1706.05439). Price: observations summed over. A mean over `m` of them
errs by `m^(-1/2)`, so accuracy costs `gamma = 2`: the border case of the theorem. What to expect: plain
Euler-Maruyama needs `eps^-3`, the paper's rule `eps^-2` with logarithms; but so do the stochastic gradients that
everybody uses, without a ladder and without the logarithms. Spread coins can win all the same, because these
differences are smooth. By how much, is measured.

    python examples/bayesian_subsets.py    # --quick for a first look, --picture FILE
"""

# %%
import argparse

import torch

import mlsde
from mlsde import study
from mlsde.drawing import canvas, save
from mlsde.problems import LadderProblem
from mlsde.study.figure import draw_comparison, draw_frontiers

parser = argparse.ArgumentParser(description="A posterior, sampled with nested subsets.", allow_abbrev=False)
parser.add_argument("--quick", action="store_true", help="smaller, in seconds")
parser.add_argument("--picture", default="out/bayesian_subsets.png", help="where the picture goes")
asked, _ = parser.parse_known_args()  # a notebook has arguments of its own
torch.set_num_threads(1)

# %% [markdown]
# ## The data, the mode, and good coordinates
#
# Newton's method finds the mode; `Y` is the distance from it, in units in which the posterior is nearly a standard
# normal.

# %%
SIZES = (8, 64, 512) if asked.quick else (8, 64, 512, 4096)
COUNT, DIMENSION = SIZES[-1], 8
chance = torch.Generator().manual_seed(0)
features = torch.randn(COUNT, DIMENSION, generator=chance, dtype=torch.float64)
features[:, 0] = 1.0
truth = torch.randn(DIMENSION, generator=chance, dtype=torch.float64)
labels = (torch.rand(COUNT, generator=chance, dtype=torch.float64) < torch.sigmoid(features @ truth)).double()

mode = torch.zeros(DIMENSION, dtype=torch.float64)
for _ in range(20):
    p = torch.sigmoid(features @ mode)
    slope = features.T @ (labels - p) - mode  # with a standard normal prior
    curvature = (features.T * (p * (1 - p))) @ features + torch.eye(DIMENSION, dtype=torch.float64)
    mode = mode + torch.linalg.solve(curvature, slope)
scale = torch.linalg.inv(torch.linalg.cholesky(curvature)).T  # coefficients are mode + scale @ y

rows, offsets = (features @ scale).float(), (features @ mode).float()
at_mode, prior = torch.sigmoid(offsets), (scale.T @ scale).float()


def level(size: int) -> mlsde.hierarchy.Level:
    """Half the gradient of the log posterior, the likelihood from the first observations."""
    x, offset, known = rows[:size], offsets[:size], at_mode[:size]

    def drift(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        change = torch.sigmoid(torch.addmm(offset, y, x.T)) - known
        return -0.5 * (y @ prior + COUNT / size * change @ x)

    return drift


def start(samples: int, seed: int) -> torch.Tensor:
    """Three posterior deviations out."""
    return 3 * torch.randn(samples, DIMENSION, generator=torch.Generator().manual_seed(seed))


SPAN, STEPS, SHARE = (0.0, 4.0), 64 if asked.quick else 128, 8.0
names = [f"{size} rows" for size in SIZES]
drift = mlsde.DriftHierarchy([level(size) for size in SIZES], [float(size) for size in SIZES], names=names)
sde = mlsde.SDE(drift, 1.0)
problem = LadderProblem("a posterior", sde, start, SPAN, gamma=2.0)

# %% [markdown]
# ## The ladder, measured
#
# `gamma` should come out as 2.

# %%
print(study.diagnose(problem, samples=32, steps=64))

# %% [markdown]
# ## Every way at an eighth of the price
#
# With stochastic gradients as the rival of the trade: as many observations at each step as the budget pays for, drawn
# anew at each step, around the mode as well.


# %%
def stochastic(size: int) -> mlsde.SDE:
    """The same equation with a new subset at each time."""

    def minibatch(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        picks = torch.randperm(COUNT, generator=torch.Generator().manual_seed(round(1e6 * float(t))))[:size]
        change = torch.sigmoid(torch.addmm(offsets[picks], y, rows[picks].T)) - at_mode[picks]
        return -0.5 * (y @ prior + COUNT / size * change @ rows[picks])

    return mlsde.SDE(mlsde.DriftHierarchy([minibatch], [float(size)]), 1.0)


PART = int(COUNT / SHARE)


def stochastic_gradients(y0: torch.Tensor, **options: object) -> mlsde.Solution:
    """Solve with an eighth of the data at each step."""
    return mlsde.solve(stochastic(PART), y0, SPAN, steps=STEPS, **options)


PILOT = {"pilot_steps": 16, "pilot_samples": 8} if asked.quick else {}
budget = STEPS * COUNT / SHARE
cal = mlsde.calibrate(sde, problem.initial(8), SPAN, steps=STEPS, trajectories=10_000, **PILOT)
advice = cal.recommend(budget=budget - cal.cost, share="sample")
print(advice)
compared = study.equal_cost(
    problem, share=SHARE, steps=STEPS, seeds=2 if asked.quick else 8, samples=4, patterns=3 if asked.quick else 15,
    ways={"recommended": advice.solve}, rivals={f"stochastic gradients of {PART}": stochastic_gradients},
    reference_steps=(4 if asked.quick else 8) * STEPS,
)  # fmt: skip
print(compared, "\n")

# %% [markdown]
# ## The border, as a rate
#
# The least cost that reaches each error, for the ladder's rules and for plain Euler-Maruyama with any of the subsets.
# The range of errors that data of this size can show is short: look at the curves more than at the limits.


# %%
def sgld(sde, y0, t_span, steps, size, brownian, seed):
    """Stochastic gradients of any size as a method of the study."""
    return mlsde.solve(stochastic(int(size)), y0, t_span, steps=steps, brownian=brownian).y1


def sgld_price(costs, steps, size):
    """Observations that they sum over; tried once, beside the whole ladder."""
    return steps * size if costs[-1] == COUNT else -1.0


methods = [
    study.plain(), study.own("stochastic gradients", sgld, sgld_price, settings=(64, 128, 256, 512, 1024)),
    study.multilevel("independent", "impulse"), study.multilevel("systematic", "impulse"),
]  # fmt: skip
frontiers = study.convergence(
    problem, methods, errors=(1.0, 0.7, 0.5) if asked.quick else (1.0, 0.7, 0.5, 0.35, 0.25, 0.18, 0.125),
    seeds=2 if asked.quick else 5, samples=4, most_steps=32 if asked.quick else 128, reference_steps=1024,
)  # fmt: skip
print(frontiers)
figure = canvas(10.5, 4.2)
left, right = figure.subplots(1, 2)
draw_comparison(compared, left)
draw_frontiers(frontiers, right)
right.set_ylim(top=10 * right.get_ylim()[1])  # room for the legend
print(f"picture: {save(figure, asked.picture)}")

# %% [markdown]
# ## Does it pay here?
#
# The theorem's rule, and the best way with the ladder in hindsight.

# %%
print("the paper's rule:", compared.verdict("independent impulse"))
print("the best way:", compared.verdict())
gain = frontiers.ratio("systematic impulse", "stochastic gradients")
words = f"{gain:.1f} times cheaper" if gain > 1 else f"{1 / gain:.1f} times dearer"
print(f"At the tightest error of the study stochastic gradients of the best size are {words} than systematic impulses.")
