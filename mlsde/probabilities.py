"""Firing probabilities ``p_k(t_n)`` of the levels: rules that turn prices and variances into a table.

Any function of time that returns one probability per level serves as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from mlsde import checks
from mlsde.hierarchy import DriftHierarchy

Price = Callable[[np.ndarray], float]


@runtime_checkable
class Probabilities(Protocol):
    """A rule for the probabilities."""

    def table(self, times: np.ndarray, drift: DriftHierarchy, price: Price) -> np.ndarray:
        """Return ``p_k(t_n)``, shape ``(N, K)``.

        Args:
            times: the grid, shape ``(N + 1,)``; row ``n`` holds from ``times[n]`` to ``times[n + 1]``.
            drift: the ladder, for its prices.
            price: the expected cost per trajectory of a run with a given table.
        """
        ...


ProbabilityRule = Probabilities | Callable[[float], Sequence[float]]


@dataclass(frozen=True)
class PowerLaw:
    """``p_k = min(1, scale * (c_k / c_1)^-(1/2 + 1/gamma))``: the optimum for a ladder of a power law.

    If ``|f^k - f| ~ 2^-k`` costs ``c_k ~ 2^(gamma k)``, this is ``p_k ~ 2^-(1 + gamma/2) k``. A ladder of one level
    always fires. Source: arXiv 2603.24594.

    Args:
        gamma: exponent of the price of accuracy, above zero.
        scale: the larger, the more accurate and the dearer.
    """

    gamma: float
    scale: float = 1.0

    def __post_init__(self) -> None:
        checks.positive_number("gamma", self.gamma)
        checks.positive_number("scale", self.scale)

    def table(self, times: np.ndarray, drift: DriftHierarchy, price: Price) -> np.ndarray:
        """Return the same row at every time."""
        if len(drift) == 1:
            return np.ones((len(times) - 1, 1))
        costs = np.array(drift.required_costs("PowerLaw"))
        row = np.minimum(1.0, self.scale * (costs / costs[0]) ** -(0.5 + 1.0 / self.gamma))
        return np.tile(row, (len(times) - 1, 1))


@dataclass(frozen=True)
class Constant:
    """The same probabilities at every time.

    Args:
        values: one probability per level, in [0, 1].
    """

    values: Sequence[float]

    def table(self, times: np.ndarray, drift: DriftHierarchy, price: Price) -> np.ndarray:
        """Return the same row at every time."""
        row = checks.as_float64("values", self.values)
        if len(row) != len(drift):
            raise ValueError(f"values holds {len(row)} probabilities, but the ladder has {len(drift)} levels.")
        return np.tile(row, (len(times) - 1, 1))


@dataclass(frozen=True)
class Optimal:
    """The best allocation of a budget for known variances ``V_k(t) = E|f^k - f^(k-1)|^2``.

    A rule whose mean squared error falls like ``a_k p^-s`` is served best by ``p_k ~ (a_k / c_k)^(1 / (s + 1))`` with
    ``a_k = h_n^2 w(t_n) V_k(t_n)``; values above 1 are clamped and the budget is spent on the others. For ``s = 1`` it
    is the paper's ``p ~ h sqrt(w V_k / c_k)`` (arXiv 2603.24594).

    Args:
        variances: one per level, or a function of ``t`` that returns them; not negative.
        budget: expected cost per trajectory, in the units of ``costs``.
        order: ``s``: 1 for independent and nested coins, 2 for systematic impulse and hold, up to 4 for
            ``extrapolate`` on an ODE.
        sensitivity: ``w(t) = |dY_T / dY_t|^2``, a function of ``t``; 1 by default.
    """

    variances: Sequence[float] | Callable[[float], Sequence[float]]
    budget: float
    order: float = 1.0
    sensitivity: Callable[[float], float] | None = field(default=None)

    def __post_init__(self) -> None:
        checks.positive_number("budget", self.budget)
        checks.positive_number("order", self.order)
        if self.sensitivity is not None and not callable(self.sensitivity):
            raise TypeError(f"sensitivity must be a function of t, got {type(self.sensitivity).__name__}.")

    def table(self, times: np.ndarray, drift: DriftHierarchy, price: Price) -> np.ndarray:
        """Return the table whose price is the budget, or all ones where the budget pays for that.

        Raises:
            ValueError: if the budget does not pay for the forced first step and a single firing of the levels.
        """
        costs = np.array(drift.required_costs("Optimal"))
        shape = (len(times) - 1, len(drift))
        if price(np.ones(shape)) <= self.budget:
            return np.ones(shape)
        urgency = (self._weights(times, len(drift)) / costs) ** (1.0 / (self.order + 1.0))
        if not (urgency.max(axis=0) > 0).all():
            raise ValueError(
                "variances must be above zero somewhere for every level; leave out a level that is never needed."
            )

        def at(scale: float) -> np.ndarray:
            return np.minimum(1.0, scale * urgency)

        low, high = 0.0, 1.0 / float(urgency[urgency > 0].min())
        if price(at(1e-12 * high)) > self.budget:
            least = price(at(1e-12 * high))
            raise ValueError(f"budget={self.budget:g} does not pay for the least that this plan costs, {least:g}.")
        for _ in range(200):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if price(at(middle)) <= self.budget else (low, middle)
            if high - low <= 1e-12 * high:
                break
        return at(low)

    def _weights(self, times: np.ndarray, levels: int) -> np.ndarray:
        """``a_k(t_n) = h_n^2 w(t_n) V_k(t_n)``, shape ``(N, K)``."""
        left = times[:-1].tolist()
        if callable(self.variances):
            variances = np.array([_row("variances", self.variances(t), levels) for t in left])
        else:
            variances = np.tile(_row("variances", self.variances, levels), (len(left), 1))
        if (variances < 0).any():
            raise ValueError("variances must not be negative.")
        weights = np.diff(times)[:, None] ** 2 * variances
        if self.sensitivity is not None:
            w = checks.as_float64("sensitivity", [self.sensitivity(t) for t in left])
            if (w < 0).any():
                raise ValueError("sensitivity must not be negative.")
            weights = weights * w[:, None]
        return weights


def _row(name: str, values: Any, levels: int) -> np.ndarray:
    row = checks.as_float64(name, values)
    if len(row) != levels:
        raise ValueError(f"{name} gives {len(row)} values, but the ladder has {levels} levels.")
    return row


def probability_table(rule: ProbabilityRule, times: np.ndarray, drift: DriftHierarchy, price: Price) -> np.ndarray:
    """Evaluate and check a rule: every value in [0, 1], and no level that is never seen.

    Raises:
        TypeError, ValueError: naming the level and the first time at which its probability is wrong.
    """
    if isinstance(rule, Probabilities):
        table = np.asarray(rule.table(times, drift, price), dtype=np.float64)
        if table.shape != (len(times) - 1, len(drift)):
            raise ValueError(
                f"probabilities gave a table of shape {table.shape}, expected {(len(times) - 1, len(drift))}."
            )
    elif callable(rule):
        table = np.array([_probabilities_at(rule, t, len(drift)) for t in times[:-1].tolist()])
    else:
        raise TypeError(
            "probabilities must be PowerLaw, Constant, Optimal or a function of t that returns one value per level, "
            f"got {type(rule).__name__}."
        )
    wrong = ~((table >= 0) & (table <= 1))
    if wrong.any():
        n, k = (int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(f"the probability of level {k + 1} at t={times[n]:g} is {table[n, k]}, outside [0, 1].")
    never = np.flatnonzero(table.max(axis=0) == 0)
    if len(never):
        raise ValueError(
            f"the probability of level {never[0] + 1} is 0 at every step, so it would never be seen; "
            "raise it, or leave the level out with drift.select(...)."
        )
    return table


def _probabilities_at(rule: Callable[[float], Any], t: float, levels: int) -> np.ndarray:
    values = rule(t)
    values = values.tolist() if isinstance(values, Tensor) else values
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (levels,):
        raise ValueError(f"probabilities at t={t:g} have shape {array.shape}, expected {(levels,)}: one per level.")
    return array
