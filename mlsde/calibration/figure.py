"""The picture of a calibration: variances and probabilities in time, and the predicted error against the price."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from mlsde import checks, drawing
from mlsde.drawing import COLOURS, canvas, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from mlsde.calibration.result import Calibration


def save_calibration(calibration: Calibration, file: str | os.PathLike[str], budget: float | None) -> str:
    """Draw ``V_k(t)``, the recommended ``p_k(t)`` and the predicted frontier into a file.

    Args:
        calibration: what is drawn.
        file: its ending says in which format.
        budget: of the recommendation; by default an eighth of the top level's price on the grid of the run.

    Returns:
        The file's name.

    Raises:
        ModuleNotFoundError: without matplotlib, with the command that installs it.
    """
    recording = calibration.recording
    price = _usual_price(calibration) if budget is None else budget
    figure = canvas(12.0, 3.8)
    left, middle, right = figure.subplots(1, 3)
    drawing.variances(left, recording.times[:-1], recording.variances, recording.names)
    advice = calibration.recommend(budget=price)
    drawing.probabilities(middle, advice.times, advice.table(), levels=advice.levels)
    figure.suptitle(f"recommended: {advice.describe()}", fontsize=9)
    draw_frontier(calibration, _around(price), right)
    right.axvline(price, color="grey", lw=0.7, ls=":")
    return save(figure, file)


def draw_frontier(calibration: Calibration, budgets: Any, ax: Axes) -> Axes:
    """Draw the predicted error at each budget, of the best single level, of the paper's rule and of what is chosen.

    Args:
        calibration: what predicts.
        budgets: costs per trajectory.
        ax: where.

    Returns:
        The axes.

    Raises:
        TypeError, ValueError: for budgets that are no numbers above zero.
    """
    names = {"plain": "one level", "paper": "independent impulse (the paper)", "recommended": "recommended"}
    prices = checks.as_float64("budgets", budgets)
    if not (prices > 0).all() or len(prices) == 0:
        raise ValueError(f"budgets must hold numbers above zero, got {prices.tolist()}.")
    for colour, (name, errors) in zip(COLOURS, calibration.frontier(prices).items(), strict=False):
        known = np.isfinite(errors)
        ax.plot(prices[known], np.array(errors)[known], "o-", ms=3, color=colour, label=names[name])
    drawing.log_scales(ax)
    unit = {"seconds": "seconds", "flops": "FLOPs"}.get(calibration.recording.unit, "units of costs")
    return drawing.dressed(ax, f"cost per trajectory, in {unit}", "predicted root mean square error")


def usual_budgets(calibration: Calibration) -> np.ndarray:
    """A sixteenth to sixteen times an eighth of the top level's price on the grid of the run."""
    return _around(_usual_price(calibration))


def _usual_price(calibration: Calibration) -> float:
    recording = calibration.recording
    return recording.evaluation(recording.levels) * recording.stages * (len(calibration.times) - 1) / 8.0


def _around(price: float) -> np.ndarray:
    return np.geomspace(price / 16.0, 16.0 * price, 9)
