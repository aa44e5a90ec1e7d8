"""Langevin motion in the field of many charges: clusters of charges are the cheap drift, all of them the dear one.

Particles move in a trap, `dY = (-2 Y + field(Y)) dt + 0.3 dW`, pushed by 4,000 softened charges in the plane. Grouping
the charges in cells of a grid gives fields of 25 and 400 cells. The script compares, on one path at an eighth of the
full run's cost (in charges summed), multilevel runs with every rival: fewer steps, Heun, each cheaper level alone, two
levels stitched in time, and the paper's rule, also as the best of 15 patterns (which costs 15 times as much).

    python examples/charges.py
"""

import itertools
import statistics
from typing import Any

import torch

import mlsde

CHARGES, PARTICLES, STEPS, SOFTENING = 4000, 200, 500, 0.1
PART, SEEDS, PATTERNS = 8, 5, 15


def make_level(places: torch.Tensor, charges: torch.Tensor) -> mlsde.hierarchy.Level:
    """Drift of the trap and of charges at some places."""

    def drift(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        # sum_j q_j (y - x_j) / (|y - x_j|^2 + softening^2), by matrix products
        squares = y.square().sum(1, keepdim=True) - 2 * y @ places.T + places.square().sum(1)
        pull = charges / (squares + SOFTENING**2)
        return -2 * y + (y * pull.sum(1, keepdim=True) - pull @ places)

    return drift


def grouped(places: torch.Tensor, charges: torch.Tensor, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One charge per cell of a grid of `side` by `side`, at the mean place of the cell's charges."""
    cell = ((places + 1) / 2 * side).long().clamp(0, side - 1) @ torch.tensor([side, 1])
    count = torch.zeros(side**2).index_add_(0, cell, torch.ones(len(cell)))
    total = torch.zeros(side**2).index_add_(0, cell, charges)
    centre = torch.zeros(side**2, 2).index_add_(0, cell, places)
    filled = count > 0
    return centre[filled] / count[filled, None], total[filled]


def main() -> None:
    """Compare the ways to integrate at one cost."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    places = 2 * torch.rand(CHARGES, 2, generator=generator) - 1
    charges = torch.randn(CHARGES, generator=generator) * 0.05
    sources = [grouped(places, charges, 5), grouped(places, charges, 20), (places, charges)]
    prices = [float(len(source[1])) for source in sources]
    drift = mlsde.DriftHierarchy(
        [make_level(*source) for source in sources], prices, names=["25 cells", "400 cells", "4000 charges"]
    )
    sde = mlsde.SDE(drift, diffusion=0.3)
    y0 = torch.rand(PARTICLES, 2, generator=generator) - 0.5
    path = mlsde.BrownianPath(0, 1, like=y0, seed=0, grids=(STEPS, 10 * STEPS))

    def run(steps: int, **options: Any) -> mlsde.Solution:
        return mlsde.solve(sde, y0, (0.0, 1.0), steps=steps, brownian=path, **options)

    exact = run(10 * STEPS).y1
    full_cost = STEPS * prices[-1]
    variances = mlsde.level_variances(sde, y0[:20], (0.0, 1.0), steps=25)
    pilot = variances.cost * 20 / PARTICLES

    def error(solution: mlsde.Solution) -> float:
        return float((solution.y1 - exact).square().mean().sqrt())

    def show(name: str, runs: list[mlsde.Solution], extra: float = 0.0, times: int = 1) -> None:
        errors = torch.tensor([error(solution) for solution in runs])
        cost = times * statistics.mean(solution.stats.cost for solution in runs) + extra
        seconds = statistics.median(solution.stats.wall_seconds for solution in runs)
        spread = f"{errors.std(correction=0):10.5f}" if len(runs) > 1 else ""
        print(f"{name:40s}{cost / full_cost:8.3f}{seconds:9.2f}{errors.mean():10.5f}{spread}")

    def stitched(low: int, switch: float, low_first: bool) -> mlsde.Solution:
        """A cheap level on one side of the switch; as many steps as an eighth of the cost pays."""
        dear = 1 - switch if low_first else switch
        steps = int(full_cost / PART / (dear * prices[-1] + (1 - dear) * prices[low - 1]))
        return run(min(steps, STEPS), level=lambda t: low if (t < switch) == low_first else 3)

    def seeded(rule: mlsde.Multilevel, seeds: int) -> list[mlsde.Solution]:
        return [run(STEPS, multilevel=rule, seed=seed) for seed in range(seeds)]

    print(f"{'method':40s}{'cost':>8s}{'seconds':>9s}{'RMSE':>10s}{'+-':>10s}")
    show("all charges, every step", [run(STEPS)])
    show("all charges, fewer steps", [run(STEPS // PART)])
    show("all charges, Heun", [run(STEPS // PART // 2, method="heun")])
    for k, name in enumerate(drift.names[:2], 1):
        show(f"{name} alone", [run(STEPS, level=k)])
    choices = [stitched(*c) for c in itertools.product((1, 2), (0.25, 0.5, 0.75), (True, False))]
    show(f"two levels stitched, best of {len(choices)}", [min(choices, key=error)])
    power_law = mlsde.PowerLaw(2.5, budget=full_cost / PART)
    paper = seeded(mlsde.Multilevel(power_law, "independent", "impulse"), PATTERNS)
    show("independent impulse (the paper)", paper)
    show(f"the paper's, best of {PATTERNS} patterns", [min(paper, key=error)], times=PATTERNS)
    for correction in ("impulse", "hold", "extrapolate"):
        best = mlsde.Optimal(variances, full_cost / PART - pilot, order=2)
        show(f"systematic {correction}", seeded(mlsde.Multilevel(best, "systematic", correction), SEEDS), pilot)


if __name__ == "__main__":
    main()
