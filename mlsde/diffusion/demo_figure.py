"""The demo's picture: digits side by side, and error against cost. matplotlib is imported on use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from mlsde.diffusion.demo import Comparison, Demo
from mlsde.drawing import canvas, save

SHOWN = 12

# one colour per method in every panel, told apart by the start of its name
COLOURS = {
    "top level, fewer": "tab:blue",
    "top level, Heun": "tab:cyan",
    "top level, DPM": "tab:pink",
    "two levels stitched": "tab:orange",
    "independent impulse": "tab:red",
    "systematic impulse": "tab:green",
    "systematic hold": "tab:purple",
    "systematic extrapolate": "tab:brown",
    "systematic extrapolate in Heun": "black",
}


def save_demo_figure(demo: Demo, path: str | Path, *, budget: int | None = None) -> Path:
    """Draw the demo and write it as a picture.

    Args:
        demo: the result.
        path: where to; the ending chooses the format.
        budget: which of its budgets the digits are shown at; the middle one by default.

    Returns:
        The path written.
    """
    budgets = demo.comparisons[0].budgets()
    chosen = budgets[len(budgets) // 2] if budget is None else budget
    figure = canvas(17, 7.2)
    left, right = figure.subfigures(1, 2, width_ratios=(1.2, 1))  # type: ignore[misc]
    _draw_digits(left, demo, chosen)
    panels = right.subplots(len(demo.comparisons), 2)
    for line, comparison in zip(panels, demo.comparisons, strict=True):
        _draw_errors(line[0], comparison, "rmse", "RMSE per pixel")
        _draw_errors(line[1], comparison, "median", "median error of a sample")
    handles, labels = panels[1, 0].get_legend_handles_labels()
    right.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=7, columnspacing=1.0)
    return Path(save(figure, path, dpi=110))


def _draw_digits(figure: Any, demo: Demo, budget: int) -> None:
    comparison = demo.comparisons[0]
    rows: list[tuple[str, Tensor]] = [(f"reference\n{10 * comparison.steps} steps", comparison.reference)]
    rows += [(_label(row.method, row.rmse), row.states) for row in comparison.at(None)[:2]]
    rows += [
        (_label(row.method, row.rmse), row.states) for row in comparison.at(budget) if "best of 15" not in row.method
    ]
    grid: Any = figure.subplots(len(rows), SHOWN)
    for line, (label, states) in zip(grid, rows, strict=True):
        images = demo.ladder.images(states[:SHOWN])
        for axes, image in zip(line, images, strict=False):
            axes.imshow(image.numpy(), cmap="gray_r", vmin=-1, vmax=1)
            axes.set(xticks=[], yticks=[])
            for spine in axes.spines.values():
                spine.set_visible(False)
        line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
    figure.suptitle(f"{comparison.equation}; lower rows at 1/{budget} of the full cost (RMSE per pixel)", fontsize=10)


def _key(method: str) -> str | None:
    """The colour's name of a method: the longest that it starts with."""
    return max((key for key in COLOURS if method.startswith(key)), key=len, default=None)


def _label(method: str, error: float) -> str:
    words = method.replace(", ", ",\n").replace("impulse (", "impulse\n(")
    return f"{words}\n{error:.3f}"


def _draw_errors(axes: Any, comparison: Comparison, error: str, label: str) -> None:
    for method, colour in COLOURS.items():
        rows = [row for row in comparison.rows if _key(row.method) == method]
        if not rows:
            continue
        style = "o-" if rows[0].multilevel else "s--"
        axes.errorbar(
            [row.cost / comparison.full_cost for row in rows],
            [getattr(row, error) for row in rows],
            yerr=[row.spread for row in rows] if error == "rmse" else None,
            fmt=style,
            markersize=4,
            linewidth=1.2,
            capsize=2,
            color=colour,
            label=rows[0].method,
        )
    full = comparison.at(None)[0]
    axes.plot(1.0, getattr(full, error), "k*", markersize=10, label=full.method)
    axes.set(xscale="log", yscale="log", xlabel="cost, as part of the full run's", ylabel=label)
    axes.set_title(comparison.equation, fontsize=10)
    axes.grid(alpha=0.3, which="both")
