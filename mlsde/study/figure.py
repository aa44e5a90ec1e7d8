"""The figure of a study: error against cost, with what was fitted and what theory says."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mlsde import drawing
from mlsde.drawing import COLOURS, MARKERS, canvas, dressed, save, shown
from mlsde.study.report import asymptotic_exponent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from mlsde.study.comparison import Comparison
    from mlsde.study.convergence import Convergence, Frontier
    from mlsde.study.diagnostics import Diagnosis


def draw_frontiers(study: Convergence, ax: Axes, *, error_up: bool = False) -> Axes:
    """Draw a study on matplotlib axes, and return them: markers with bootstrap intervals, theory dashed.

    Args:
        study: what is drawn.
        ax: where.
        error_up: draw error against cost; by default cost against error, the tight ones on the right.
    """
    for i, frontier in enumerate(study.frontiers):
        _draw(frontier, study, ax, COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)], error_up)
    if any(frontier.predicted is not None for frontier in study.frontiers):
        ax.plot([], [], color="grey", ls="--", lw=0.9, label="theory, constants from a pilot")
    if not any(np.isfinite(frontier.costs).any() for frontier in study.frontiers):
        ax.text(0.5, 0.5, "none of the errors was reached", transform=ax.transAxes, ha="center")
        errors, costs = (study.errors[-1] / 2, study.errors[0] * 2), (1.0, 10.0)
        ax.axis((*costs, *errors) if error_up else (*errors, *costs))
    ax.set_xscale("log")
    ax.set_yscale("log")
    _few_ticks(ax.yaxis if error_up else ax.xaxis)
    cost = "wall-clock [s]" if study.settings["cost"] == "seconds" else "cost per trajectory"
    error = "root mean square error sought (median over seeds)"
    ax.set_title(study.problem, fontsize=9)
    if error_up:
        _room_below(ax, len(ax.get_legend_handles_labels()[0]))
        drawing.log_scales(ax)
        return dressed(ax, cost, error, loc="lower left")
    ax.invert_xaxis()
    return dressed(ax, error, cost, loc="upper left")


def _room_below(ax: Axes, entries: int) -> None:
    """Make room for a legend below what is drawn."""
    low, high = ax.get_ylim()
    ax.set_ylim(low * (low / high) ** (0.07 * entries), high)


def _draw(frontier: Frontier, study: Convergence, ax: Axes, colour: str, marker: str, error_up: bool) -> None:
    errors, costs = np.array(study.errors), np.array(frontier.costs)
    known = np.isfinite(costs)
    if not known.any():
        return

    def place(error: Any, cost: Any) -> tuple[Any, Any]:
        return (cost, error) if error_up else (error, cost)

    errors, costs, ends = errors[known], costs[known], np.array(frontier.intervals)[known]
    high = np.where(np.isfinite(ends[:, 1]), ends[:, 1], costs)
    bars = np.abs(np.array([costs - np.minimum(ends[:, 0], costs), np.maximum(high, costs) - costs]))
    label = frontier.method.name
    if np.isfinite(frontier.exponent.value):
        label += f": {'exponent' if error_up else 'slope'} {frontier.exponent.value:.2f}"
    limit = asymptotic_exponent(frontier.method, study)
    if frontier.predicted_exponent is not None and limit is not None:
        label += f" (theory {frontier.predicted_exponent:.2f}, limit {limit:.3g})"
    elif limit is not None:
        label += f" (limit {limit:.3g})"
    style: dict[str, Any] = {"color": colour, "marker": marker, "ms": 4}
    x, y = place(errors, costs)
    ax.errorbar(x, y, xerr=bars if error_up else None, yerr=None if error_up else bars, lw=1.2, label=label, **style)
    left_out = ~np.isin(errors, frontier.exponent.used)
    ax.plot(*place(errors[left_out], costs[left_out]), ls="", mfc="white", **style)
    beyond = ~np.isfinite(ends[:, 1])
    arrow = r"$\rightarrow$" if error_up else r"$\uparrow$"
    ax.plot(*place(errors[beyond], 1.4 * costs[beyond]), ls="", marker=arrow, ms=6, color=colour)
    if len(frontier.exponent.used) > 1:
        used = np.array(frontier.exponent.used)
        middle = np.exp(np.log(costs[~left_out]).mean()), np.exp(np.log(used).mean())
        fitted = middle[0] * (used / middle[1]) ** -frontier.exponent.value
        ax.plot(*place(used, fitted), color=colour, lw=3.5, alpha=0.18)
    if frontier.predicted is not None:
        ax.plot(*place(study.errors, frontier.predicted), color=colour, ls="--", lw=0.9, alpha=0.8)


def save_frontiers(study: Convergence, file: str | os.PathLike[str]) -> str:
    """Draw a study into a file; returns its name.

    Raises:
        ModuleNotFoundError: without matplotlib, with the command that installs it.
    """
    return save_panels([study], file)


def save_panels(studies: Sequence[Convergence], file: str | os.PathLike[str], columns: int = 2) -> str:
    """Draw studies side by side into a file; returns its name."""
    columns = min(columns, len(studies))
    rows = -(-len(studies) // columns)
    figure = canvas(5.6 * columns, 4.4 * rows)
    axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for study, ax in zip(studies, axes, strict=False):
        draw_frontiers(study, ax)
    for ax in axes[len(studies) :]:
        ax.set_visible(False)
    return save(figure, file)


_MOST_SHOWN = 1000.0
"""Times the least error that a bar may be long: what blew up is cut there, with its number beside it."""


def draw_comparison(comparison: Comparison, ax: Any) -> Any:
    """Draw a comparison as bars on matplotlib axes, and return them: what uses the ladder is coloured."""
    names = ["top level at every step", *(row.name for row in comparison.rows)]
    errors = [comparison.full_error, *(row.error for row in comparison.rows)]
    places = np.arange(len(names))[::-1]
    colours = {"rule": COLOURS[2], "way": COLOURS[3], "search": "#9ecae1", "rival": "#c9c9c9"}
    ax.barh(places, errors, color=["#7f7f7f", *(colours[row.kind] for row in comparison.rows)])
    coins = [(place, row.coins_error) for place, row in zip(places[1:], comparison.rows, strict=True)]
    shown = [(place, error) for place, error in coins if error]
    ax.plot([error for _, error in shown], [place for place, _ in shown], "k|", ms=14, label="of the coins alone")
    ax.set_yticks(places, names, fontsize=8)
    ax.set_xscale("log")
    _few_ticks(ax.xaxis)
    _cut(ax, places, errors, [error for _, error in shown])
    ax.set_xlabel("root mean square error")
    ax.set_title(comparison.problem, fontsize=9)
    ax.legend(fontsize=7, frameon=False, loc="upper right")
    return ax


def _few_ticks(axis: Any) -> None:
    """Ticks of a logarithmic axis that may be short or long, and do not overlap."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter  # noqa: PLC0415

    axis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _cut(ax: Any, places: np.ndarray, errors: Sequence[float], others: Sequence[float]) -> None:
    """Limit an axis of errors to what is of interest."""
    known = [error for error in errors if error > 0]
    if not known:
        return
    most = _MOST_SHOWN * min(known)
    ax.set_xlim(0.5 * min([*known, *others]), 1.5 * max(error for error in known if error <= most))
    for place, error in zip(places, errors, strict=True):
        if error > most:
            ax.annotate(
                f"{error:.3g} ", (1.0, place), xycoords=("axes fraction", "data"), ha="right", va="center", fontsize=7
            )


def save_comparison(comparison: Comparison, file: str | os.PathLike[str]) -> str:
    """Draw a comparison as bars into a file; returns its name."""
    figure = canvas(7.0, 3.6)
    draw_comparison(comparison, figure.subplots())
    return save(figure, file)


def save_diagnosis(diagnosis: Diagnosis, file: str | os.PathLike[str]) -> str:
    """Draw ``V_k(t)`` and the decay of the differences against the price into a file; returns its name."""
    figure = canvas(10.0, 3.8)
    over_time, decay = figure.subplots(1, 2)
    costs, sizes = np.array(diagnosis.costs), np.sqrt(shown(diagnosis.variances))
    drawing.variances(over_time, diagnosis.measured.times, diagnosis.measured.values)
    decay.loglog(costs, sizes, "o-", color=COLOURS[2], lw=1.2)
    if np.isfinite(diagnosis.gamma) and len(costs) > 2:
        known = np.flatnonzero(np.isfinite(sizes[1:])) + 1
        middle = np.exp(np.log(costs[known]).mean()), np.exp(np.log(sizes[known]).mean())
        line = middle[1] * (costs[1:] / middle[0]) ** (-1.0 / diagnosis.gamma)
        decay.loglog(costs[1:], line, "--", color=COLOURS[0], lw=1, label=f"gamma {diagnosis.gamma:.2f}")
        decay.legend(fontsize=8, frameon=False)
    decay.set_xlabel("cost of one evaluation")
    decay.set_ylabel("root mean square of $f^k - f^{k-1}$")
    figure.suptitle(diagnosis.problem, fontsize=9)
    return save(figure, file)
