"""Pictures of a ladder over time: how far its levels are apart, and how probably each fires."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from mlsde import checks, drawing
from mlsde.calibration import Calibration, Recommendation
from mlsde.multilevel import Multilevel
from mlsde.plan import Plan, multilevel_plan
from mlsde.plots.runs import described
from mlsde.probabilities import Learned, Probabilities, ProbabilityRule
from mlsde.sde import SDE
from mlsde.solution import Solution
from mlsde.steppers import METHODS, Scheme
from mlsde.variances import LevelVariances

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def variances(measured: LevelVariances | Calibration, *, ax: Axes | None = None) -> Axes:
    """Draw ``V_k(t) = E|f^k - f^(k-1)|^2`` over time, a line for each level.

    Args:
        measured: by :func:`mlsde.level_variances` or :func:`mlsde.calibrate`.
        ax: axes to draw on; those of a new figure by default.

    Returns:
        The axes; a variance of 0 is left out of their logarithmic scale.

    Raises:
        TypeError: for anything else.
        ImportError: without matplotlib.

    Example:
        >>> import mlsde, torch
        >>> drift = mlsde.DriftHierarchy([lambda t, y: -y, lambda t, y: -torch.sin(y)])
        >>> ax = variances(mlsde.level_variances(mlsde.SDE(drift), torch.ones(4, 1), (0, 1), steps=10))
        >>> [line.get_label() for line in ax.lines]
        ['level 1', 'level 2']
    """
    if not isinstance(measured, (LevelVariances, Calibration)):
        raise TypeError(
            "variances draws what mlsde.level_variances(...) or mlsde.calibrate(...) measured, got "
            f"{type(measured).__name__}."
        )
    names = measured.recording.names if isinstance(measured, Calibration) else None
    found = measured.variances if isinstance(measured, Calibration) else measured
    ax = drawing.axes(ax)
    drawing.variances(ax, found.times, found.values, names)
    return ax


def probabilities(
    rule: Plan | Solution | Recommendation | Multilevel | ProbabilityRule,
    sde: SDE | None = None,
    t_span: Sequence[float] | None = None,
    *,
    steps: int | None = None,
    times: Sequence[float] | np.ndarray | Tensor | None = None,
    method: Scheme = "euler",
    ax: Axes | None = None,
) -> Axes:
    """Draw the probabilities ``p_k(t)`` with which the levels fire, a line for each.

    A plan, a solution and a recommendation know their grid and the prices of the levels. Other rules are drawn for an
    equation on a grid, as :func:`mlsde.solve` would take them; but for :class:`mlsde.Learned` without a budget, which
    is drawn between its knots.

    Args:
        rule: a plan, a solution, a recommendation, :class:`mlsde.Multilevel`, or what it takes as probabilities.
        sde: the equation, for a rule that does not know it.
        t_span: likewise, as of :func:`mlsde.solve`.
        steps: likewise.
        times: likewise, in place of ``steps``.
        method: likewise.
        ax: axes to draw on; those of a new figure by default.

    Returns:
        The axes; a probability of 0 is left out of their logarithmic scale.

    Raises:
        TypeError, ValueError: naming the argument.
        ImportError: without matplotlib.

    Example:
        >>> import mlsde
        >>> drift = mlsde.DriftHierarchy([lambda t, y: -y, lambda t, y: -y / 2], costs=[1.0, 16.0])
        >>> ax = probabilities(mlsde.PowerLaw(gamma=2.0), mlsde.SDE(drift), (0, 1), steps=10)
        >>> [float(line.get_ydata()[0]) for line in ax.lines]
        [1.0, 0.0625]
    """
    given = [name for name, value in (("sde", sde), ("t_span", t_span), ("steps", steps), ("times", times))
             if value is not None]  # fmt: skip
    if isinstance(rule, (Plan, Solution, Recommendation)):
        if given:
            raise ValueError(f"{given[0]} was given with a {type(rule).__name__}, which has its own; leave it out.")
        grid, table, names, levels = _known(rule)
    elif isinstance(rule, Learned) and rule.budget is None and not given:
        grid, table, names, levels = np.array(rule.times), np.array(rule.values), None, None
    else:
        grid, table, names, levels = _planned(rule, sde, t_span, steps, times, method)
    ax = drawing.axes(ax)
    drawing.probabilities(ax, grid, table, names, levels)
    return ax


_Drawn = tuple[np.ndarray, np.ndarray, Sequence[str] | None, Sequence[int] | None]


def _known(rule: Plan | Solution | Recommendation) -> _Drawn:
    """Grid, probabilities, names and numbers of the levels."""
    if isinstance(rule, Recommendation):
        names = rule.sde.drift.names  # of the levels that are used, or without coins of all
        used = names if rule.multilevel is not None else [names[level - 1] for level in rule.levels]
        return rule.times, rule.table(), used, rule.levels
    plan, named, numbers = described("probabilities", rule)
    return plan.times, plan.probabilities, named, numbers


def _planned(rule: Any, sde: Any, t_span: Any, steps: Any, times: Any, method: str) -> _Drawn:
    """The same of a rule for an equation on a grid."""
    if not isinstance(rule, (Multilevel, Probabilities)) and not callable(rule):
        raise TypeError(
            "probabilities draws a plan, a solution, a recommendation, an mlsde.Multilevel or its probabilities, got "
            f"{type(rule).__name__}."
        )
    if not isinstance(sde, SDE):
        raise TypeError(
            f"sde must be the mlsde.SDE that {type(rule).__name__} is to be used on, with t_span and steps, got "
            f"{type(sde).__name__}."
        )
    grid = checks.time_grid(t_span, steps, times)
    checks.one_of("method", method, tuple(METHODS))
    multilevel = rule if isinstance(rule, Multilevel) else Multilevel(rule, "independent", "impulse")
    plan = multilevel_plan(multilevel, grid, sde.drift, stages=METHODS[method].stages)
    return grid, plan.probabilities, sde.drift.names, None
