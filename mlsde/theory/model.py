"""An error model: a few numbers per level that predict the error and the cost of every method on a problem."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlsde import checks
from mlsde.showing import as_call
from mlsde.theory import arguments
from mlsde.theory.allocation import evaluation_probabilities
from mlsde.theory.arguments import Row


@dataclass(frozen=True, eq=False)
class ErrorModel:
    """What a ladder, an equation and a rule of coins are, as far as error and cost go.

    The squared error of a run of ``n`` steps and ``K`` levels that fire ``m_k = p_k n`` times is modelled as
    ``bias_K^2 + C^2 n^-2r + sum_{k<=K} a_k (m_k^-s - n^-s)``: cut of the ladder, step and coins. The last vanishes
    where all levels fire at every step; there the model is that of the plain method. Derivation in docs/theory.md.

    Args:
        costs: price of one evaluation of each level for one sample, above zero, shape ``(K,)``.
        biases: root mean square error of the exact solution driven by each level instead of the limit, shape ``(K,)``.
        step_error: ``C``, root mean square error of a single step over the whole time span.
        level_errors: ``a_k``, the mean squared error of a level that fires once in a run of short steps, shape
            ``(K,)``. For independent impulses ``T^2 V_k`` times the mean sensitivity.
        strong_order: ``r``: 1 for additive noise and ODEs, 1/2 for multiplicative noise.
        order: ``s``: 1 for independent impulses, 2 for systematic impulse and hold, up to 4 for ``extrapolate``.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> model = ErrorModel([1.0, 8.0], biases=[0.1, 0.0], step_error=1.0, level_errors=[1.0, 0.04])
        >>> model.plain(level=2, steps=100), model.multilevel(2, 100, [1.0, 0.5])[0]
        ((800.0, 0.01), 500.0)
    """

    costs: np.ndarray
    biases: np.ndarray
    step_error: float
    level_errors: np.ndarray
    strong_order: float = 1.0
    order: float = 1.0

    __repr__ = as_call

    def __post_init__(self) -> None:
        costs = arguments.positive_row("costs", self.costs)
        rows = {"costs": costs}
        for name in ("biases", "level_errors"):
            rows[name] = arguments.non_negative_row(name, getattr(self, name), len(costs))
        for name, row in rows.items():
            object.__setattr__(self, name, row)
        object.__setattr__(self, "step_error", checks.non_negative_number("step_error", self.step_error))
        for name in ("strong_order", "order"):
            object.__setattr__(self, name, checks.positive_number(name, getattr(self, name)))

    @arguments.within_floats
    def plain(self, level: int, steps: int) -> tuple[float, float]:
        """Cost per trajectory and root mean square error of one level at every step.

        Args:
            level: from 1 to ``K``.
            steps: ``n``.
        """
        k, n = self._count("level", level), checks.positive_integer("steps", steps, math.inf)
        return float(self.costs[k - 1] * n), float(np.sqrt(self.floor(k, float(n))))

    @arguments.within_floats
    def multilevel(
        self, levels: int, steps: int, probabilities: Row, coins: str = "independent"
    ) -> tuple[float, float]:
        """Expected cost per trajectory and root mean square error of impulses of the first levels.

        Args:
            levels: their number, from 1 to ``K``.
            steps: ``n``.
            probabilities: in (0, 1], shape ``(levels,)``.
            coins: for the price, as of :func:`mlsde.theory.evaluation_probabilities`.
        """
        count, n = self._count("levels", levels), checks.positive_integer("steps", steps, math.inf)
        p = arguments.probabilities(probabilities, count, 1, zero=False).ravel()
        cost, squared = self.predict(count, np.float64(n), p, coins)
        return float(cost), float(np.sqrt(squared))

    def floor(self, levels: int, steps: Any) -> Any:
        """Mean squared error without that of the coins, at one number of steps or an array of them."""
        return self.biases[levels - 1] ** 2 + self.step_error**2 * steps ** (-2.0 * self.strong_order)

    def predict(self, levels: int, steps: Any, p: np.ndarray, coins: str) -> tuple[Any, Any]:
        """Cost and mean squared error of many runs at once.

        Args:
            levels: their number.
            steps: float or array of floats, shape ``(...)``.
            p: probabilities, shape ``(..., levels)``.
            coins: as of :meth:`multilevel`.
        """
        cost = steps * (evaluation_probabilities(p, coins) @ self.costs[:levels])
        chance = (p**-self.order - 1.0) @ self.level_errors[:levels] * steps**-self.order
        # a level that never fires where its error is 0 leaves 0 infinity: unknown counts as out of reach
        return cost, np.nan_to_num(self.floor(levels, steps) + chance, nan=np.inf, posinf=np.inf)

    def _count(self, name: str, value: int) -> int:
        count = checks.positive_integer(name, value)
        if count > len(self.costs):
            raise ValueError(f"{name} must be within 1 … {len(self.costs)}, got {count}.")
        return count
