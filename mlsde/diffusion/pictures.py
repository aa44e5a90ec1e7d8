"""``mlsde sample``: draw images from a trained ladder in several ways, on the same noise, side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mlsde import checks, drawing
from mlsde.diffusion.arena import Arena, Measured, Way
from mlsde.diffusion.data import as_bytes
from mlsde.diffusion.ladders import TrainedLadder

EQUATIONS = {"ode": 0.0, "sde": 1.0}


@dataclass(frozen=True)
class Row:
    """One way and the images it drew.

    Attributes:
        name: of the way, in words.
        steps: of its sampler.
        measured: its cost, in evaluations of the top level; wall-clock; errors to the fine run.
        images: bytes, shape ``(samples, channels, size, size)``.
    """

    name: str
    steps: int
    measured: Measured
    images: Tensor = field(repr=False, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """Numbers only."""
        return {"name": self.name, "steps": self.steps, **self.measured.as_dict()}


def draw(
    ladder: TrainedLadder,
    *,
    equation: str = "ode",
    samples: int = 8,
    budgets: Sequence[float] = (10.0, 20.0),
    full_steps: int = 100,
    seed: int = 0,
    report: Callable[[str], None] = lambda _line: None,
) -> list[Row]:
    """Draw the same samples in several ways.

    Args:
        ladder: the nets.
        equation: ``"ode"`` or ``"sde"``.
        samples: images of each way.
        budgets: costs of what has coins and of its rivals, in evaluations of the top level.
        full_steps: of the full run, whose fine companion has three times as many.
        seed: of everything.
        report: called with a line as each way is done.

    Returns:
        The fine run, the full run, and at each budget the coins and their rivals.

    Raises:
        ValueError: naming the argument.
    """
    checks.one_of("equation", equation, tuple(EQUATIONS))
    checks.positive_integer("full_steps", full_steps)
    for budget in budgets:
        if checks.positive_number("budgets", budget) < 2:
            raise ValueError(f"budgets must be at least 2 evaluations of the top level, got {budget:g}.")
    arena = Arena(
        ladder, churn=EQUATIONS[equation], samples=samples, seed=seed, reference_steps=3 * full_steps,
        pilot_samples=min(4, samples),
    )  # fmt: skip
    whole = tuple(range(1, len(ladder) + 1))
    fine = Measured(
        (*[0.0] * (len(ladder) - 1), 3.0 * full_steps), 3.0 * full_steps, math.nan, 0.0, 0.0, arena.reference
    )
    rows = [Row("fine run of the top level", 3 * full_steps, fine, as_bytes(arena.reference.cpu()))]
    ways = [("full run, DPM-Solver++(2M)", Way("dpm++2m", full_steps, whole))]
    for budget in budgets:
        ways.append((f"multilevel at {budget:g}", coins(ladder, equation, budget)))
        n = math.floor(budget)
        ways += [(f"top level, {name}", Way(sampler, n, whole)) for name, sampler in _RIVALS]
        ways.append(("stitched, DPM-Solver++(2M)", Way("dpm++2m", 2 * n, (len(ladder) - 1, len(ladder)), switch=0.5)))
    for name, way in ways:
        done = arena.measure(way, seed)
        rows.append(Row(name, way.steps, done, as_bytes(done.states.cpu())))
        report(f"{name}: cost {done.cost:.1f}, error {done.rmse:.4f}")
    return rows


_RIVALS = (("DPM-Solver++(2M)", "dpm++2m"), ("DDIM", "ddim"))


def coins(ladder: TrainedLadder, equation: str, budget: float) -> Way:
    """Settings of the coins: those that the ladder's benchmark chose at the nearest budget, or usual ones."""
    kept = (ladder.about.tuned or {}).get(equation, [])
    if not kept:
        return Way("dpm++2m", round(1.5 * budget), tuple(range(1, len(ladder) + 1)), budget, correction="hold")
    near = min(kept, key=lambda one: abs(math.log(float(one["budget"]) / budget)))
    steps = max(2, round(near["steps"] * budget / near["budget"]))
    return Way(**(near | {"levels": tuple(near["levels"]), "budget": budget, "steps": steps}))


def table(rows: Sequence[Row]) -> str:
    """Cost, evaluations, wall-clock and errors of each way, as text."""
    lines = [f"{'':32}{'steps':>6}{'cost':>8}{'seconds':>9}{'RMSE':>9}{'typical':>9}  evaluations"]
    for row in rows:
        m = row.measured
        counts = " ".join(f"{count:.0f}" for count in m.evaluations)
        lines.append(f"{row.name:32}{row.steps:6d}{m.cost:8.1f}{m.seconds:9.2f}{m.rmse:9.4f}{m.typical:9.4f}  {counts}")
    return "\n".join(lines)


def picture(rows: Sequence[Row], file: str | Path, *, title: str = "") -> str:
    """Write the images, a line for each way with its numbers beside it; returns the file's name."""
    count, size = min(12, len(rows[0].images)), rows[0].images.shape[-1]
    figure = drawing.canvas(0.62 * count + 3.4, 0.72 * len(rows) + 0.4)
    for axes, row in zip(figure.subplots(len(rows), 1, squeeze=False)[:, 0], rows, strict=True):
        strip = torch.cat([torch.nn.functional.pad(image, (1, 1, 1, 1), value=255) for image in row.images[:count]], 2)
        shown = strip.permute(1, 2, 0).numpy()
        grey = shown.shape[2] == 1
        axes.imshow(shown[:, :, 0] if grey else shown, cmap="gray" if grey else None, vmin=0, vmax=255)
        axes.set_xticks([])
        axes.set_yticks([])
        m = row.measured
        wall = "" if math.isnan(m.seconds) else f", {m.seconds:.2g} s"
        axes.text(
            1.01, 0.5, f"{row.name}\ncost {m.cost:.3g}{wall}\nRMSE {m.rmse:.3g}", transform=axes.transAxes,
            va="center", fontsize=7,
        )  # fmt: skip
    figure.suptitle(title or f"{size} x {size} pixels; cost in evaluations of the top level", fontsize=9)
    return drawing.save(figure, file)
