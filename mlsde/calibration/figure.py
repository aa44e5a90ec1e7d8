"""The picture of a calibration: variances and probabilities in time, and the predicted error against the price."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from mlsde.drawing import COLOURS, canvas, save

if TYPE_CHECKING:
    from mlsde.calibration.recommendation import Recommendation
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
    top = recording.evaluation(recording.levels) * recording.stages * (len(calibration.times) - 1)
    price = top / 8.0 if budget is None else budget
    figure = canvas(12.0, 3.8)
    left, middle, right = figure.subplots(1, 3)
    _variances(calibration, left)
    _probabilities(calibration.recommend(budget=price), middle)
    _frontier(calibration, np.geomspace(price / 16.0, 16.0 * price, 9), price, right)
    return save(figure, file)


def _variances(calibration: Calibration, ax: Any) -> None:
    recording = calibration.recording
    for k, values in enumerate(recording.variances.T):
        label = recording.names[k] if k == 0 else f"{recording.names[k]} less the one below"
        ax.plot(recording.times[:-1], values, color=COLOURS[k % len(COLOURS)], label=label)
    ax.set_yscale("log")
    _dressed(ax, "time", "mean square of the difference")


def _probabilities(advice: Recommendation, ax: Any) -> None:
    times, table = advice.times, advice.table()
    for k, level in enumerate(advice.levels):
        ax.step(
            times[:-1], table[:, k], where="post", color=COLOURS[(level - 1) % len(COLOURS)], label=f"level {level}"
        )
    ax.set_yscale("log")
    ax.set_title(advice.describe(), fontsize=8)
    _dressed(ax, "time", "probability of firing")


def _frontier(calibration: Calibration, budgets: np.ndarray, price: float, ax: Any) -> None:
    names = {"plain": "one level", "paper": "independent impulse (the paper)", "recommended": "recommended"}
    for colour, (name, errors) in zip(COLOURS, calibration.frontier(budgets).items(), strict=False):
        known = np.isfinite(errors)
        ax.plot(budgets[known], np.array(errors)[known], "o-", ms=3, color=colour, label=names[name])
    ax.axvline(price, color="grey", lw=0.7, ls=":")
    ax.set_xscale("log")
    ax.set_yscale("log")
    _dressed(ax, "cost per trajectory", "predicted root mean square error")


def _dressed(ax: Any, x: str, y: str) -> None:
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.grid(True, which="major", alpha=0.25, linewidth=0.5)
    ax.legend(fontsize=7, frameon=False)
