"""A hundred thousand particles over a rough double well, on one process or on many.

The dear force feels 200 small ripples of the ground, the cheap one the two wells alone. The particles begin on the
left; the script follows the spread of their places, how many have crossed the hill, and what that costs.

    python examples/ensemble.py
    torchrun --standalone --nproc-per-node 2 examples/ensemble.py      # the same numbers, bit for bit

Either goes on where it was killed: finished chunks lie in out/ensemble.
"""

from pathlib import Path

import torch

import mlsde

N, STEPS, T, LEVELS = 100_000, 400, 4.0, (0.05, 0.25, 0.5, 0.75, 0.95)
FOLDER, PICTURE = Path("out/ensemble"), Path("out/ensemble.png")
RIPPLES = 200


def wells(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Force of two wells at -1 and 1."""
    return 4.0 * (y - y**3)


def rough(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The same, and ripples."""
    waves = torch.arange(1.0, RIPPLES + 1.0, dtype=y.dtype, device=y.device)
    return wells(t, y) + 0.3 * (torch.sin(waves * y) / waves).sum(-1, keepdim=True)


def main() -> None:
    """Run, print, draw."""
    torch.set_num_threads(1)  # as many in each process, for the same bits
    drift = mlsde.DriftHierarchy([wells, rough], costs=[1.0, float(RIPPLES)], names=["wells", "ripples too"])
    found = mlsde.ensemble(
        mlsde.SDE(drift, diffusion=1.0), lambda count: -1.0 + 0.1 * torch.randn(count, 1), N, (0.0, T), steps=STEPS,
        multilevel=mlsde.Multilevel(mlsde.Constant([1.0, 0.125])), save_at=[T * k / 20 for k in range(21)],
        keep=mlsde.Statistics(LEVELS, {"crossed": lambda ys: (ys[:, :, 0] > 0).double().T}), folder=FOLDER, seed=0,
    )  # fmt: skip
    if torch.distributed.is_initialized() and torch.distributed.get_rank() > 0:
        return
    print(found)
    crossed, error = found.statistics.functionals["crossed"]
    for k in range(0, 21, 5):
        print(f"  at t={found.ts[k]:.0f} {crossed[k]:.4f} ± {error[k]:.4f} have crossed")
    draw(found, crossed, error)


def draw(found: mlsde.Ensemble, crossed: torch.Tensor, error: torch.Tensor) -> None:
    """Bands of the quantiles, and the part that crossed."""
    from matplotlib.figure import Figure  # noqa: PLC0415, it takes its time

    figure = Figure((9, 3.6), layout="constrained")
    places, counts = figure.subplots(1, 2)
    bands = found.statistics.quantiles[:, :, 0]
    for low, high, shade in ((0, 4, 0.25), (1, 3, 0.5)):
        label = f"{LEVELS[low]:.0%} to {LEVELS[high]:.0%}"
        places.fill_between(found.ts, bands[low], bands[high], color="#0072b2", alpha=shade, linewidth=0, label=label)
    places.plot(found.ts, bands[2], color="#0072b2", label="median")
    places.set(xlabel="time", ylabel="place", title=f"{found.done:,} particles")
    places.legend(frameon=False, loc="upper left")
    counts.errorbar(found.ts, crossed, 2 * error, color="#d55e00", capsize=2)
    saving = f"{found.full_cost / found.cost:.1f} times less than the dear force at every step"
    counts.set(xlabel="time", ylabel="part that crossed the hill", title=saving)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE, dpi=120)
    print(f"picture: {PICTURE}")


if __name__ == "__main__":
    main()
