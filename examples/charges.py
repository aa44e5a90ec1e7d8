"""Langevin motion in the field of many charges: clusters of charges are the cheap drift, all of them the dear one.

Particles move in a trap, `dY = (-2 Y + field(Y)) dt + 0.3 dW`, pushed by 4,000 softened charges in the plane. Grouping
the charges in cells of a grid gives fields of 25 and 400 cells. The script compares, on one path, the full sum at every
step, fewer steps of it, and multilevel runs at the same cost.

    python examples/charges.py
"""

import torch

import mlsde

CHARGES, PARTICLES, STEPS, SOFTENING = 4000, 200, 500, 0.1


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
    drift = mlsde.DriftHierarchy(
        [make_level(*source) for source in sources],
        costs=[float(len(source[1])) for source in sources],
        names=["25 cells", "400 cells", "4000 charges"],
    )
    sde = mlsde.SDE(drift, diffusion=0.3)
    y0 = torch.rand(PARTICLES, 2, generator=generator) - 0.5
    path = mlsde.BrownianPath(0, 1, like=y0, seed=0, grids=(STEPS, 10 * STEPS))

    def run(steps: int, **options: object) -> mlsde.Solution:
        return mlsde.solve(sde, y0, (0.0, 1.0), steps=steps, brownian=path, **options)  # type: ignore[arg-type]

    exact = run(10 * STEPS).y1
    full = run(STEPS)
    budget = full.stats.cost / 8
    variances = mlsde.level_variances(sde, y0[:20], (0.0, 1.0), steps=25)
    pilot = variances.cost * 20 / PARTICLES
    runs = {"all charges, every step": full, "all charges, an eighth of the steps": run(STEPS // 8)}
    runs |= {f"{name} alone": run(STEPS, level=k) for k, name in enumerate(drift.names[:2], 1)}
    for coins, correction, order in (
        ("independent", "impulse", 1),
        ("systematic", "impulse", 2),
        ("systematic", "hold", 2),
        ("systematic", "extrapolate", 2),
    ):
        best = mlsde.Optimal(variances, budget - pilot, order)
        runs[f"{coins} {correction}"] = run(STEPS, multilevel=mlsde.Multilevel(best, coins, correction))
    print(f"{'method':38s}{'cost':>8s}{'seconds':>9s}{'RMSE':>10s}")
    for name, solution in runs.items():
        error = (solution.y1 - exact).square().mean().sqrt()
        cost = solution.stats.cost + (pilot if "systematic" in name or "independent" in name else 0.0)
        print(f"{name:38s}{cost / full.stats.cost:8.3f}{solution.stats.wall_seconds:9.2f}{error:10.5f}")
    print(full, runs["systematic hold"], sep="\n")


if __name__ == "__main__":
    main()
