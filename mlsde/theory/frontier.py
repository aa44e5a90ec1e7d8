"""Predicted frontiers: the least cost of reaching an error, over levels, steps and firings; and their slopes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from mlsde import checks
from mlsde.showing import as_call
from mlsde.theory import arguments
from mlsde.theory.arguments import Row
from mlsde.theory.model import ErrorModel


@dataclass(frozen=True)
class FrontierPoint:
    """The cheapest way to an error.

    Attributes:
        error: root mean square error asked for.
        cost: least cost per trajectory; infinite if nothing on the grid reaches the error.
        levels: how many levels are used, or the one level of a plain method; ``None`` out of reach.
        steps: number of steps; ``None`` out of reach.
        firings: expected firings of the top level; of a plain method its steps; ``None`` out of reach.
    """

    error: float
    cost: float
    levels: int | None
    steps: int | None
    firings: float | None

    __repr__ = as_call


@arguments.within_floats
def plain_frontier(model: ErrorModel, errors: Row, steps_grid: Row) -> list[FrontierPoint]:
    """Least predicted cost of one level at every step, over the levels and the numbers of steps.

    Args:
        model: of the problem.
        errors: root mean square errors asked for, above zero.
        steps_grid: numbers of steps to choose from.

    Returns:
        A point for each error.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> from mlsde.theory import ErrorModel
        >>> model = ErrorModel([1.0, 8.0], biases=[0.1, 0.01], step_error=1.0, level_errors=[1.0, 0.01])
        >>> plain_frontier(model, [0.05], steps_grid=[10, 100])
        [FrontierPoint(error=0.05, cost=800, levels=2, steps=100, firings=100)]
    """
    _refuse_others(model)
    n = _whole("steps_grid", steps_grid)
    runs = [
        _Runs(model.costs[k - 1] * n, model.floor(k, n), np.full(len(n), k), n, n)
        for k in range(1, len(model.costs) + 1)
    ]
    return _cheapest(runs, errors)


@arguments.within_floats
def multilevel_frontier(
    model: ErrorModel,
    errors: Row,
    steps_grid: Row,
    firings_grid: Row,
    gamma: float,
    coins: str = "independent",
    order: float | None = None,
) -> list[FrontierPoint]:
    """Least predicted cost of ML-EM, over the numbers of levels, of steps and of firings of the top level.

    The probabilities are those of :class:`mlsde.PowerLaw`, ``min(1, scale (c_k / c_1)^-((1 + 2/gamma) / (s + 1)))``,
    scaled so that the top level fires ``m`` times on average, at most at every step: with an ``m`` of at least the
    number of steps the top level is run plainly.

    Args:
        model: of the problem.
        errors: root mean square errors asked for, above zero.
        steps_grid: numbers of steps to choose from.
        firings_grid: numbers ``m`` to choose from, above zero.
        gamma: exponent of the price of accuracy, for the probabilities.
        coins: for the price, as of :func:`mlsde.theory.evaluation_probabilities`.
        order: ``s``, for the probabilities; that of the model by default.

    Returns:
        A point for each error.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> from mlsde.theory import ErrorModel
        >>> model = ErrorModel([1.0, 8.0], biases=[0.1, 0.01], step_error=1.0, level_errors=[1.0, 0.01])
        >>> multilevel_frontier(model, [0.05], steps_grid=[100], firings_grid=[10, 20, 50], gamma=3.0)
        [FrontierPoint(error=0.05, cost=260, levels=2, steps=100, firings=20)]
    """
    _refuse_others(model)
    n, m = _whole("steps_grid", steps_grid), arguments.positive_row("firings_grid", firings_grid)
    s = model.order if order is None else checks.positive_number("order", order)
    exponent = (1.0 + 2.0 / checks.positive_number("gamma", gamma)) / (s + 1.0)
    if not np.isfinite(exponent):
        raise ValueError(f"gamma={gamma:g} is too small: no float64 holds 2 / gamma.")
    steps, firings = (grid.ravel() for grid in np.meshgrid(n, m))
    firings = np.minimum(firings, steps)
    runs = []
    for k in range(1, len(model.costs) + 1):
        law = exponent * (np.log(model.costs[k - 1]) - np.log(model.costs[:k]))
        p = np.minimum(1.0, np.exp((np.log(firings) - np.log(steps))[:, None] + law))  # a product could be 0 infinity
        cost, squared = model.predict(k, steps, p, coins)
        runs.append(_Runs(cost, squared, np.full(len(steps), k), steps, firings))
    return _cheapest(runs, errors)


def _refuse_others(model: object) -> None:
    if not isinstance(model, ErrorModel):
        raise TypeError(f"model must be an mlsde.theory.ErrorModel, got {type(model).__name__}.")


@dataclass(frozen=True, eq=False)
class _Runs:
    """Predictions of many runs, each field of shape ``(runs,)``."""

    cost: np.ndarray
    squared_error: np.ndarray
    levels: np.ndarray
    steps: np.ndarray
    firings: np.ndarray

    def joined(self, others: Iterable[_Runs]) -> _Runs:
        """All runs in one."""
        parts = [(run.cost, run.squared_error, run.levels, run.steps, run.firings) for run in (self, *others)]
        return _Runs(*(np.concatenate(field) for field in zip(*parts, strict=True)))


def _cheapest(runs: list[_Runs], errors: Row) -> list[FrontierPoint]:
    """The cheapest run at or below each error, from the running minimum of the costs in order of the errors."""
    every, targets = runs[0].joined(runs[1:]), arguments.positive_row("errors", errors)
    ranked = np.argsort(every.squared_error, kind="stable")
    costs, reached = every.cost[ranked], np.sqrt(every.squared_error[ranked])
    cheaper = costs < np.concatenate([[np.inf], np.minimum.accumulate(costs)[:-1]])
    best = np.maximum.accumulate(np.where(cheaper, np.arange(len(costs)), 0))
    counts = np.searchsorted(reached, targets, side="right")
    points = []
    for error, count in zip(targets.tolist(), counts.tolist(), strict=True):
        if count == 0:
            points.append(FrontierPoint(error, np.inf, None, None, None))
            continue
        i = ranked[best[count - 1]]
        levels, steps = int(every.levels[i]), int(every.steps[i])
        points.append(FrontierPoint(error, float(every.cost[i]), levels, steps, float(every.firings[i])))
    return points


@arguments.within_floats
def local_slopes(errors: Row, costs: Row) -> np.ndarray:
    """Local exponents ``-d log cost / d log error`` between neighbours, shape ``(points - 1,)``.

    Args:
        errors: above zero, no two neighbours alike, shape ``(points,)``.
        costs: finite, above zero, shape ``(points,)``.

    Returns:
        The exponents.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> local_slopes([1.0, 0.1, 0.01], costs=[1.0, 100.0, 100_000.0]).round(6).tolist()
        [2.0, 3.0]
    """
    x, y = _logarithms(errors, costs)
    if (np.diff(x) == 0).any():
        raise ValueError("errors must differ from one point to the next, but two neighbours are alike.")
    return np.diff(y) / np.diff(x)


@arguments.within_floats
def fitted_exponent(errors: Row, costs: Row) -> float:
    """Slope of the least squares line through ``log cost`` against ``log(1 / error)``.

    Args:
        errors: above zero, not all alike, shape ``(points,)``.
        costs: finite, above zero, shape ``(points,)``.

    Returns:
        The slope.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> round(fitted_exponent([1.0, 0.1, 0.01], costs=[1.0, 1000.0, 1_000_000.0]), 6)
        3.0
    """
    x, y = _logarithms(errors, costs)
    centred = x - x.mean()
    if not (x != x[0]).any():
        raise ValueError("errors must hold two different values at least, to fit a slope.")
    return float(centred @ (y - y.mean()) / (centred @ centred))


def _logarithms(errors: Row, costs: Row) -> tuple[np.ndarray, np.ndarray]:
    """``log(1 / error)`` and ``log cost`` of at least two points."""
    x = arguments.positive_row("errors", errors)
    if len(x) < 2:
        raise ValueError(f"errors must hold two points at least, got {len(x)}.")
    return -np.log(x), np.log(arguments.positive_row("costs", costs, len(x)))


def _whole(name: str, values: Row) -> np.ndarray:
    """Whole numbers of at least 1, as floats."""
    row = arguments.positive_row(name, values)
    if (row != np.floor(row)).any():
        raise ValueError(f"{name} must hold whole numbers, got {row[row != np.floor(row)][0]:g}.")
    return row
