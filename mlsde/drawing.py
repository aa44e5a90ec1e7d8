"""Pictures: the palette, axes of one's own or of a new figure, and what several pictures share.

matplotlib is imported when something is drawn, never before.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlsde import extras

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#1b1b1b", "#d55e00", "#0072b2", "#009e73", "#e69f00", "#cc79a7", "#56b4e9")
"""Told apart with any colour vision: of M. Okabe & K. Ito (2008), without yellow."""

MARKERS = "osD^vP*"

ENDINGS = (".png", ".pdf", ".svg", ".jpg")
"""Of the pictures that can be drawn."""

DASHES = ("-", "--", ":", "-.")

PER_TRAJECTORY = "cost per trajectory, in units of costs"


def canvas(width: float, height: float) -> Figure:
    """Return a matplotlib figure of so many inches that needs no display.

    Raises:
        ModuleNotFoundError: without matplotlib, with the command that installs it.
    """
    extras.require("the figure", "matplotlib.figure")
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415, on use
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def axes(ax: Axes | None = None, width: float = 6.4, height: float = 3.8) -> Axes:
    """Return ``ax``, or the axes of a new figure of so many inches.

    The new figure is one of pyplot's where pyplot is in use, so that it is shown as others are: if it has been
    imported, or IPython runs. Elsewhere it belongs to nobody, and ``ax.figure.savefig(...)`` writes it.

    Raises:
        ModuleNotFoundError: without matplotlib, with the command that installs it.
        TypeError: if ``ax`` is given and not matplotlib's axes.
    """
    extras.require("the figure", "matplotlib.figure")
    from matplotlib.axes import Axes  # noqa: PLC0415, on use

    if ax is not None and not isinstance(ax, Axes):
        raise TypeError(f"ax must be axes of matplotlib, such as figure.subplots() makes, got {type(ax).__name__}.")
    if ax is not None:
        return ax
    if not _pyplot_in_use():
        return canvas(width, height).subplots()
    from matplotlib import pyplot  # noqa: PLC0415

    return pyplot.figure(figsize=(width, height), layout="constrained").subplots()


def _pyplot_in_use() -> bool:
    interactive = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)
    return "matplotlib.pyplot" in sys.modules or interactive() is not None


def level_style(level: int) -> dict[str, Any]:
    """Colour and dashes of a level, numbered from 1: the same in every picture, different for 28 levels."""
    turn, place = divmod(level - 1, len(COLOURS))
    return {"color": COLOURS[place], "linestyle": DASHES[turn % len(DASHES)]}


def by_level(
    ax: Axes,
    times: Any,
    values: np.ndarray,
    labels: Sequence[str | None],
    levels: Sequence[int] | None = None,
    **style: Any,
) -> None:
    """Draw one line per level over time, on a logarithmic scale; what is not above zero is left out.

    Args:
        ax: where.
        times: shape ``(N,)``, where a single one stands for all; or ``(N + 1,)``, the ends of steps over which the
            values hold.
        values: shape ``(N, K)``.
        labels: of the levels.
        levels: their numbers in the whole ladder; ``1 … K`` by default.
        **style: of the lines.
    """
    stairs = len(times) == len(values) + 1
    table = shown(np.concatenate([values, values[-1:]]) if stairs else values)
    for level, column, label in zip(levels or range(1, table.shape[1] + 1), table.T, labels, strict=True):
        drawn = {"drawstyle": "steps-post" if stairs else "default", "linewidth": 1.3, **level_style(level), **style}
        if len(times) == 1:
            ax.axhline(column[0], label=label, **drawn)  # holds at all times
        else:
            ax.plot(times, column, label=label, **drawn)
    ax.set_yscale("log")


def variances(ax: Axes, times: Any, values: np.ndarray, names: Sequence[str] | None = None) -> None:
    """Draw ``V_k(t)``, shape ``(N, K)``, of levels of these names."""
    labels = list(names or level_names(values.shape[1]))
    by_level(ax, times, values, labels)
    dressed(ax, "time", r"$V_k(t) = E|f^k - f^{k-1}|^2$", **_above(len(labels)))


def probabilities(
    ax: Axes, times: Any, table: np.ndarray, names: Sequence[str] | None = None, levels: Sequence[int] | None = None
) -> None:
    """Draw ``p_k(t)``, shape ``(N, K)``, of levels of these names and numbers; of lines that coincide all show."""
    numbers = list(levels or range(1, table.shape[1] + 1))
    labels = list(names or [f"level {number}" for number in numbers])
    for place, (number, label) in enumerate(zip(numbers, labels, strict=True)):
        width = max(1.3, 3.2 - 0.7 * place)
        by_level(ax, times, table[:, place : place + 1], [label], [number], linewidth=width)
    dressed(ax, "time", "probability of firing, $p_k(t)$", **_above(len(labels)))
    ax.set_ylim(min(0.1, ax.dataLim.minposy / 1.5), 1.3)


def points(ax: Axes, rows: Sequence[tuple[str, float, float]]) -> None:
    """Draw a named point for each name, cost and error; one without a finite error above zero is left out."""
    known = [row for row in rows if np.isfinite(row[1:]).all() and min(row[1:]) > 0]
    for i, (name, cost, error) in enumerate(known):
        look: dict[str, Any] = {"marker": MARKERS[i % len(MARKERS)], "color": COLOURS[i % len(COLOURS)]}
        look["fillstyle"] = "full" if i < len(COLOURS) else "none"
        ax.plot([cost], [error], linestyle="none", markersize=7, label=name, **look)
    log_scales(ax)
    if known:  # whole decades: the costs are often about the same
        ends = np.log10([cost for _, cost, _ in known])
        ax.set_xlim(10.0 ** np.floor(ends.min() - 0.01), 10.0 ** np.ceil(ends.max() + 0.01))


def log_scales(ax: Axes) -> None:
    """Make both axes logarithmic, with a label at 1, 2 and 5 where there are fewer than two decades to label."""
    from matplotlib.ticker import LogFormatterSciNotation, LogLocator, NullFormatter  # noqa: PLC0415

    ax.set_xscale("log")
    ax.set_yscale("log")
    for axis in (ax.xaxis, ax.yaxis):
        low, high = axis.get_view_interval()
        if high < 100.0 * low:
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.set_major_formatter(LogFormatterSciNotation(labelOnlyBase=False, minor_thresholds=(np.inf, np.inf)))
            axis.set_minor_formatter(NullFormatter())


def _above(labels: int) -> dict[str, Any]:
    """Where a legend hides no line: above the axes."""
    return {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0), "ncols": min(4, labels)}


def level_names(count: int) -> list[str]:
    """What levels without names are called."""
    return [f"level {k}" for k in range(1, count + 1)]


def shown(values: Any) -> np.ndarray:
    """What a logarithmic axis can show: numbers above zero; NaN for the rest, which is left out."""
    array = np.array(values, dtype=np.float64)
    return np.where(array > 0, array, np.nan)


def dressed(ax: Axes, x: str, y: str, *, legend: bool = True, **place: Any) -> Axes:
    """Name the axes, draw a faint grid and, if anything has a label, a legend; returns the axes."""
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.grid(True, which="major", alpha=0.25, linewidth=0.5)
    if legend and ax.get_legend_handles_labels()[0]:
        ax.legend(**{"fontsize": 7, "frameon": False} | place)
    return ax


def save(figure: Figure, file: str | os.PathLike[str], dpi: float = 130) -> str:
    """Write a figure, its format by the file's ending; its folder is made. Returns the file's name."""
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=dpi)
    return str(file)
