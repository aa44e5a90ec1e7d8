# %% [markdown]
"""# Langevin dynamics with a cheap and an expensive force.

Nineteen argon atoms in a drop, in reduced units, move by `dX = F(X) dt + sqrt(2 T) dW`. Two forces act on them:

* the **pair force** of Lennard-Jones, 171 pairs: stiff, so it dictates the length of the step;
* the **three-body force** of Axilrod and Teller, 969 triplets: a few per cent of the energy, nearly all of the work.

Levels: pairs; pairs and triplets. Price: the number of distances that enter, 1 for a pair and 3 for a triplet, so 171
and 2,907 more (on a processor the ratio is rather larger). What to expect: with fewer steps the stiff force blows up,
so the plain way out is to leave the triplets away. Evaluating them at some of the steps only is what multiple time
stepping (r-RESPA) has always done; the question is whether other coins and corrections do better.

    python examples/langevin.py            # --quick for a first look, --picture FILE
"""

# %%
import argparse

import torch

import mlsde
from mlsde import study
from mlsde.drawing import COLOURS, canvas, save
from mlsde.problems import LadderProblem
from mlsde.study.figure import draw_comparison

parser = argparse.ArgumentParser(description="A drop of argon: pair forces and three-body forces.", allow_abbrev=False)
parser.add_argument("--quick", action="store_true", help="smaller, in seconds")
parser.add_argument("--picture", default="out/langevin.png", help="where the picture goes (default out/langevin.png)")
asked, _ = parser.parse_known_args()  # a notebook has arguments of its own
torch.set_num_threads(1)

# %% [markdown]
# ## The forces
#
# Both are sums over squared distances `R`, so a force is `-2 dU/dR (x_i - x_j)` for each pair. With `a, b, c` the
# squared sides of a triangle, Axilrod and Teller's energy (J. Chem. Phys. 11, 1943) is `nu [(abc)^(-3/2) + 3/8 (b + c
# - a)(a + c - b)(a + b - c) (abc)^(-5/2)]`, `nu = 0.072` for argon.

# %%
ATOMS, NU, TEMPERATURE = 10 if asked.quick else 19, 0.072, 0.15
FIRST, SECOND = torch.triu_indices(ATOMS, ATOMS, 1)
number = torch.zeros(ATOMS, ATOMS, dtype=torch.long)
number[FIRST, SECOND] = torch.arange(len(FIRST))
triangles = torch.combinations(torch.arange(ATOMS), 3).T
A, B, C = number[triangles[1], triangles[2]], number[triangles[0], triangles[2]], number[triangles[0], triangles[1]]


def distances(y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors between the atoms of each pair, (samples, pairs, 3), and their squared lengths."""
    x = y.view(len(y), ATOMS, 3)
    between = x[:, FIRST] - x[:, SECOND]
    return between, between.square().sum(-1)


def force(slope: torch.Tensor, between: torch.Tensor) -> torch.Tensor:
    """What `slope = dU/dR` of each pair does to the atoms, (samples, 3 atoms)."""
    pull = -2 * slope.unsqueeze(-1) * between
    total = torch.zeros(len(slope), ATOMS, 3, dtype=slope.dtype)
    return total.index_add_(1, FIRST, pull).index_add_(1, SECOND, -pull).flatten(1)


def pairs(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Lennard-Jones: `U = 4 (R^-6 - R^-3)`."""
    between, r = distances(y)
    sixth = r**-3
    return force(12 * (sixth - 2 * sixth**2) / r, between)


def triplets(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Axilrod-Teller."""
    between, r = distances(y)
    a, b, c = r[:, A], r[:, B], r[:, C]
    u, v, w = b + c - a, a + c - b, a + b - c
    product = a * b * c
    scale = 0.375 * NU * product**-2.5
    by_product = -scale * (4 + 2.5 * u * v * w / product)
    slope = torch.zeros_like(r)
    slope.index_add_(1, A, by_product * b * c + scale * (u * w + u * v - v * w))
    slope.index_add_(1, B, by_product * a * c + scale * (v * w + u * v - u * w))
    slope.index_add_(1, C, by_product * a * b + scale * (v * w + u * w - u * v))
    return force(slope, between)


# %% [markdown]
# ## The ladder
#
# The three-body force *adds to* the pair force, so the ladder is given by its differences: a fired level pays for its
# own part alone. The drop starts as a ball cut out of the crystal, relaxed and warmed up by the pair force; then the
# three-body force, which repels, is switched on, and the drop swells.

# %%
drift = mlsde.DriftHierarchy.from_differences(
    [pairs, triplets], costs=[float(len(FIRST)), 3.0 * triangles.shape[1]], names=["pairs", "triplets"]
)
sde = mlsde.SDE(drift, diffusion=(2 * TEMPERATURE) ** 0.5)
SPAN, STEPS = ((0.0, 0.04), 96) if asked.quick else ((0.0, 0.2), 384)

sites = torch.cartesian_prod(*[torch.arange(-3.0, 4.0, dtype=torch.float64)] * 3)
sites = sites[sites.sum(1) % 2 == 0] * (1.12 / 2**0.5)  # face-centred cubic
ball = sites[sites.square().sum(1).argsort(stable=True)[:ATOMS]].reshape(1, -1)
cold = mlsde.solve(mlsde.SDE(pairs), ball, (0.0, 0.4), steps=2000).y1


def start(samples: int, seed: int) -> torch.Tensor:
    """Drops that the pair force has warmed up."""
    warm = mlsde.SDE(pairs, diffusion=sde.diffusion)
    return mlsde.solve(warm, cold.repeat(samples, 1), (0.0, 0.05), steps=100, seed=10_000 + seed).y1


problem = LadderProblem(f"{ATOMS} argon atoms", sde, start, SPAN)
print(study.diagnose(problem, samples=4, steps=STEPS))

# %% [markdown]
# ## Every way at an eighth of the price
#
# The full run evaluates all triplets at every step. Its rivals are whatever else an eighth of the price buys: fewer
# steps, Heun, the pair force alone (with more steps), the triplets during a part of the time. *Periodic impulse* is
# r-RESPA. With two levels there is nothing to calibrate: the budget says how often the triplets are evaluated. Errors
# are distances in the space of all coordinates, from a run of many more steps on the same Brownian path.

# %%
names = ("independent", "impulse"), ("independent", "control"), ("periodic", "impulse"), ("systematic", "hold")
rules = [study.multilevel(*each) for each in (*names, ("systematic", "extrapolate"))]
compared = study.equal_cost(
    problem, rules, share=8.0 if not asked.quick else 4.0, steps=STEPS, patterns=3 if asked.quick else 15,
    seeds=2 if asked.quick else 8, samples=2, reference_steps=(4 if asked.quick else 8) * STEPS,
)  # fmt: skip
print(compared)

# %% [markdown]
# ## What a physicist sees
#
# The radius of gyration of the drops on one path: by the full force, by pairs alone, and by the best rule of the
# table.

# %%
best = min((row for row in compared.rows if row.kind == "rule"), key=lambda row: row.error)
rule = mlsde.Multilevel(mlsde.PowerLaw(1.0, budget=compared.budget), *best.name.split(), share="sample")
y0 = problem.initial(4 if asked.quick else 16, seed=99)
path = mlsde.BrownianPath(*SPAN, like=y0, seed=1, grids=(STEPS,))
runs = {"pairs and triplets": {}, "pairs alone": {"level": 1}, best.name: {"multilevel": rule}}
figure = canvas(10.5, 4.0)
seen, bars = figure.subplots(1, 2, width_ratios=[4, 5])
for (name, options), colour, style in zip(runs.items(), COLOURS, ("-", "-", "--"), strict=False):
    found = mlsde.solve(sde, y0, SPAN, steps=STEPS, brownian=path, save_at="steps", **options)
    x = found.ys.unflatten(-1, (ATOMS, 3))
    radius = (x - x.mean(2, keepdim=True)).square().sum(-1).mean(-1).sqrt().mean(1)
    share = found.stats.evaluations[1] / STEPS
    label = f"{name}: triplets at one step in {1 / share:.0f}" if 0 < share < 1 else name
    seen.plot(found.ts, radius, color=colour, ls=style, lw=1.2, label=label)
seen.set(xlabel="time", ylabel="radius of gyration")
seen.set_title(f"mean of {len(y0)} drops", fontsize=9)
seen.margins(y=0.2)
seen.legend(fontsize=8, frameon=False, loc="lower right")
draw_comparison(compared, bars)
print(f"picture: {save(figure, asked.picture)}")

# %% [markdown]
# ## Does it pay here?
#
# The verdict is computed from the table. Against r-RESPA, which physicists have had for decades, the gain is smaller
# than against the other rivals, and comes from remembering the last force in place of kicking with a multiple of it.

# %%
print(compared.verdict())
respa = compared["periodic impulse"]
print(f"Against r-RESPA (periodic impulse) {best.name} misses by {respa.error / best.error:.2f} times less.")
