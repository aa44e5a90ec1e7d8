"""A plan that is redrawn while it runs, from the differences that were paid for: tried, measured, and not built in.

After each block of steps the probabilities of the rest are multiplied, level by level, by
``(seen / expected)^(1 / (s + 1))``: ``seen`` is the mean of ``|f^k - f^(k-1)|^2`` where the run had both values anyway,
``expected`` what a pilot had measured for the same times, and ``s`` the order at which the rule's mean squared error
falls. What is left of the budget then scales them. All that is used lies in the past of the coins it governs, and
nothing is drawn anew, so a seed gives the same run again. What :mod:`mlsde.study.adaptivity` finds decides its fate.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mlsde.brownian import Brownian
from mlsde.estimator import SharedEstimator
from mlsde.hierarchy import CountedLevels
from mlsde.integrate import Run
from mlsde.multilevel import Multilevel
from mlsde.plan import Plan
from mlsde.sde import SDE
from mlsde.steppers import Equation, compatible

_MOST = 8.0
"""Factor by which a level's probabilities may change at most: a few firings may say anything."""

_BISECTIONS = 40


class WatchedLevels(CountedLevels):
    """Levels that keep the squares of the differences which a run happens to see.

    Attributes:
        seen: sum over the steps at which level ``k`` and the one below were evaluated of ``E|f^k - f^(k-1)|^2``.
        expected: sum of what was expected there.
    """

    def __init__(self, sde: SDE, dtype: torch.dtype) -> None:
        super().__init__(sde.drift.levels, dtype)
        count = len(sde.drift)
        self.seen, self.expected = np.zeros(count), np.zeros(count)
        self._values: dict[int, Tensor] = {}
        self._row = np.zeros(count)

    def at_step(self, row: np.ndarray) -> None:
        """Begin a step at which the squares ``row`` are expected."""
        self._values, self._row = {}, row

    def __call__(self, k: int, t: Tensor, y: Tensor) -> Tensor:
        """Evaluate level ``k`` (from 0); the levels of a step are asked in their order."""
        value = super().__call__(k, t, y)
        if k == 0 or k - 1 in self._values:
            difference = value if k == 0 else value - self._values[k - 1]
            self.seen[k] += float(difference.double().square().sum()) / len(y)
            self.expected[k] += self._row[k]
        self._values[k] = value.clone()  # a level may return one buffer again and again
        return value


class Redrawn(NamedTuple):
    """A run whose plan was redrawn.

    Attributes:
        states: at the end.
        cost: per trajectory.
        apart: by how much the factors of two levels that were not sure to fire differed at most: 1 where the pilot was
            right, or where there was nothing to share out.
    """

    states: Tensor
    cost: float
    apart: float


def redrawn_run(
    sde: SDE,
    y0: Tensor,
    times: np.ndarray,
    multilevel: Multilevel,
    expected: np.ndarray,
    *,
    order: float = 2.0,
    blocks: int = 8,
    least: float = 1.0,
    seed: int = 0,
    brownian: Brownian | None = None,
) -> Redrawn:
    """Run with a plan that is redrawn between blocks of steps; the first block is that of :func:`mlsde.solve`.

    Args:
        sde: the equation, with a ladder that has costs and is not one of differences.
        y0: initial states.
        times: the grid, shape ``(N + 1,)``.
        multilevel: the rule, with coins for the batch; what its plan is expected to cost is the budget.
        expected: ``E|f^k - f^(k-1)|^2`` that the probabilities were made for, shape ``(N, K)``.
        order: ``s``.
        blocks: how many.
        least: by how much the factors of two levels must differ for the plan to be redrawn; 1 redraws at each block.
        seed: of the coins, and of the noise without a path.
        brownian: the path.

    Returns:
        :class:`Redrawn`.
    """
    run = Run(sde, y0, times, "euler", multilevel, None, seed, brownian)
    levels, plan, y = WatchedLevels(sde, y0.dtype), run.plan, y0
    estimate = SharedEstimator(levels, plan)
    costs = np.array(sde.drift.required_costs("a plan that is redrawn"))
    edges = np.linspace(0, plan.steps, blocks + 1).round().astype(int).tolist()
    used, apart = np.ones(len(costs)), 1.0
    with torch.no_grad():
        for start, stop in pairwise(edges):
            factors = _factors(levels, order)
            apart = max(apart, _apart(factors, plan.probabilities[start:]))
            if start and _apart(factors / used, plan.probabilities[start:]) >= least:
                used, spent = factors, float(np.array(levels.samples) @ costs) / len(y0)
                plan = _redrawn(run.plan, plan, start, factors, spent)
                memory, estimate = estimate.memory, SharedEstimator(levels, plan)
                estimate.memory = memory
            step_of = compatible("euler", sde, None).make(Equation(sde, estimate, run.noise))
            for n, step in enumerate(run.steps(start, stop), start):
                levels.at_step(expected[n])
                y = step_of(n, step, y, run.increment(n))
    return Redrawn(y, float(np.array(levels.samples) @ costs) / len(y0), apart)


def _factors(levels: WatchedLevels, order: float) -> np.ndarray:
    """What each level's probabilities are to be multiplied by; 1 where nothing was seen of it."""
    known = (levels.seen > 0) & (levels.expected > 0)
    ratios = np.where(known, levels.seen, 1.0) / np.where(known, levels.expected, 1.0)
    return np.asarray(np.clip(ratios ** (1.0 / (order + 1.0)), 1.0 / _MOST, _MOST))


def _apart(changes: np.ndarray, ahead: np.ndarray) -> float:
    """Largest over least change among the levels that are not sure to fire: a common one only meets the budget."""
    unsure = changes[(ahead < 1.0).any(axis=0)]
    return float(unsure.max() / unsure.min()) if len(unsure) else 0.0


def _redrawn(first: Plan, plan: Plan, start: int, factors: np.ndarray, spent: float) -> Plan:
    """The plan from step ``start`` on: the first one's probabilities times factors, scaled to what is left to spend."""
    assert first.expected_cost is not None
    left, rest = first.expected_cost - spent, first.probabilities[start:]
    sure = (rest >= 1.0) | (plan.probabilities[start:] >= 1.0)
    # the coins without chance are priced as if they had some: a count of firings is a step function of the scale
    priced = replace(plan, grid=plan.grid[start:], coins="systematic" if plan.coins == "periodic" else plan.coins)

    def at(scale: float) -> np.ndarray:
        return np.where(sure, 1.0, np.minimum(1.0, scale * factors * rest))

    low, high = 1e-3, 1e3
    for _ in range(_BISECTIONS):
        middle = math.sqrt(low * high)
        cost = replace(priced, table=at(middle)).expected_cost
        assert cost is not None
        low, high = (middle, high) if cost <= left else (low, middle)
    return replace(plan, table=np.concatenate([plan.probabilities[:start], at(low)]))
