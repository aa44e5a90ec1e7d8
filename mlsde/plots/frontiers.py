"""The picture of error against cost: of a study, a calibration, a recommendation, or of numbers of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from mlsde import checks, drawing
from mlsde.calibration import Calibration, Recommendation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from mlsde.study import Comparison, Convergence

Numbers = Sequence[float] | np.ndarray | Tensor


def frontier(
    found: Convergence | Comparison | Calibration | Recommendation | Numbers,
    errors: Numbers | None = None,
    *,
    label: str | None = None,
    budgets: Numbers | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw error against cost, both on logarithmic scales.

    Args:
        found: a study's result, :class:`mlsde.study.Convergence` or :class:`mlsde.study.Comparison`; a calibration,
            for the errors that it predicts; a recommendation, for its prediction beside those of its rivals; or costs.
        errors: with costs: the error at each. Several calls on the same ``ax`` take one colour after another.
        label: with costs: what they are of.
        budgets: with a calibration: the costs per trajectory; by default a sixteenth to sixteen times an eighth of the
            top level's price on the grid of the run.
        ax: axes to draw on; those of a new figure by default.

    Returns:
        The axes; points without a finite error above zero are left out.

    Raises:
        TypeError, ValueError: naming the argument.
        ImportError: without matplotlib.

    Example:
        >>> ax = frontier([10.0, 100.0, 1000.0], [0.3, 0.1, 0.03], label="mine")
        >>> ax.get_xscale(), ax.get_yscale(), ax.get_legend_handles_labels()[1]
        ('log', 'log', ['mine'])
    """
    from mlsde.study import Comparison, Convergence  # noqa: PLC0415, a leaf, which only this call asks for

    if budgets is not None and not isinstance(found, Calibration):
        raise ValueError(f"budgets= goes with a calibration, but found is a {type(found).__name__}.")
    if not isinstance(found, (Convergence, Comparison, Calibration, Recommendation)):
        return _numbers(found, errors, label, ax)
    if errors is not None or label is not None:
        raise ValueError(f"errors= and label= go with costs, but found is a {type(found).__name__}, which has its own.")
    if isinstance(found, Convergence):
        from mlsde.study.figure import draw_frontiers  # noqa: PLC0415

        return draw_frontiers(found, _axes(ax), error_up=True)
    if isinstance(found, Calibration):
        from mlsde.calibration.figure import draw_frontier, usual_budgets  # noqa: PLC0415

        return draw_frontier(found, usual_budgets(found) if budgets is None else budgets, _axes(ax))
    ax = _axes(ax)
    if isinstance(found, Comparison):
        rows = [(row.name, row.cost, row.error) for row in found.rows]
        drawing.points(ax, [("top level at every step", found.full_cost, found.full_error), *rows])
        return _dressed(ax, "root mean square error")
    ways = [(found.describe(), found.predicted_error), *found.rivals]
    drawing.points(ax, [(name, found.predicted_cost, error) for name, error in ways])
    return _dressed(ax, "predicted root mean square error")


def _axes(ax: Axes | None) -> Axes:
    return drawing.axes(ax, height=4.4)


def _numbers(costs: Any, errors: Any, label: str | None, ax: Axes | None) -> Axes:
    if not isinstance(costs, (Sequence, np.ndarray, Tensor)) or isinstance(costs, (str, bytes)):
        raise TypeError(
            "frontier draws a study's result, a calibration, a recommendation, or costs with errors=, got "
            f"{type(costs).__name__}."
        )
    if errors is None:
        raise TypeError("errors must hold the error at each of the costs, got None.")
    x, y = checks.numbers("costs", costs), checks.numbers("errors", errors)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"errors must hold one number for each of the costs, got shapes {x.shape} and {y.shape}.")
    ax = _axes(ax)
    colour = drawing.COLOURS[len(ax.lines) % len(drawing.COLOURS)]
    known = np.isfinite(x) & np.isfinite(y) & (x > 0) & (y > 0)
    ax.plot(x[known], y[known], "o-", markersize=4, linewidth=1.3, color=colour, label=label)
    return _dressed(ax, "error")


def _dressed(ax: Axes, error: str) -> Axes:
    drawing.log_scales(ax)
    return drawing.dressed(ax, drawing.PER_TRAJECTORY, error)
