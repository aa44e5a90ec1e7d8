"""The plan: which levels fire at which step, with which weight, for which samples, and what that costs.

It is settled on the host before the first evaluation, and served in blocks, so that nothing large is kept: of a run of
more than :data:`mlsde.grids.LONG` steps neither the grid, if they are equal, nor the table of this package's rules.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from mlsde import coins
from mlsde.coins import RunningSums
from mlsde.grids import Grid, Rows, Table, asked, kept, pieces, repeated, stretches
from mlsde.hierarchy import DriftHierarchy
from mlsde.multilevel import MEMORY, Multilevel
from mlsde.probabilities import probability_table

BLOCK = 64
"""Steps between two looks at whether the state is finite; plans are served in blocks of this many."""


@dataclass(frozen=True)
class PlanBlock:
    """A plan for the steps ``start … stop - 1``; arrays of shape ``(steps, K)`` or ``(steps, K, samples)``.

    Attributes:
        fires: which levels fire.
        weights: ``w_k``, 0 where a level does not fire.
        coefficients: what multiplies the value of level ``k`` in the estimate.
        evaluates: which levels are evaluated at the (first stage of the) step; ``coefficients`` may be 0 there if the
            value is needed to remember two differences apart.
        keeps: shape ``(steps, K)``: where a level that fires must be remembered, because it may not fire next.
    """

    start: int
    stop: int
    fires: np.ndarray
    weights: np.ndarray
    coefficients: np.ndarray
    evaluates: np.ndarray
    keeps: np.ndarray

    def __repr__(self) -> str:
        fired = ", ".join(f"{count:g}" for count in _per_trajectory(self.fires))
        return f"PlanBlock(steps {self.start} to {self.stop - 1}, firings per trajectory: {fired})"


@dataclass(frozen=True, eq=False)
class Plan:
    """Which levels are evaluated at which step.

    Attributes:
        grid: the times, an array or what gives parts of one when sliced.
        table: the probabilities, likewise; the first row is all ones for corrections with a memory.
        coins, correction, share: as of :class:`Multilevel`; the coins of a plain method are ``"none"``.
        keys: stream keys of the coins, one or one per sample.
        differences: whether the ladder is given by its differences.
        stages: drift estimates per step: 1, or 2 for Heun.
        costs: price of each level, or ``None``.

    Example:
        >>> import mlsde, torch
        >>> drift = mlsde.DriftHierarchy([lambda t, y: -y, lambda t, y: -torch.sin(y)], costs=[1.0, 50.0])
        >>> rule = mlsde.Multilevel(mlsde.Constant([1.0, 0.25]), coins="periodic")
        >>> plan = mlsde.solve(mlsde.SDE(drift), torch.ones(1, 1), (0, 1), steps=8, multilevel=rule).plan
        >>> plan.cost, plan.block(0, 8).fires[:, 1].nonzero()[0].tolist()
        (108.0, [0, 4])
    """

    grid: Grid
    table: Table
    coins: str
    correction: str
    share: str
    keys: tuple[tuple[int, ...], ...]
    differences: bool
    stages: int
    costs: tuple[float, ...] | None

    @property
    def steps(self) -> int:
        """Number of steps ``N``."""
        return len(self.table)

    @property
    def times(self) -> np.ndarray:
        """The grid, shape ``(N + 1,)``; made anew each time if the run is long."""
        return np.asarray(self.grid)

    @property
    def probabilities(self) -> np.ndarray:
        """The table of probabilities, shape ``(N, K)``; likewise."""
        return np.asarray(self.table)

    @property
    def alone(self) -> int | None:
        """The level (from 0) whose value is the estimate at every step; ``None`` with coins, or if it changes.

        Of a ladder of differences that is the first, because the value of another is a sum.
        """
        if self.coins != "none":
            return None
        first = self.table[:1]
        highest = int(first.sum()) - 1
        sum_of_many = self.differences and highest > 0
        return None if sum_of_many or any((rows != first).any() for _, rows in pieces(self.table)) else highest

    @property
    def remembers(self) -> bool:
        """True if differences are kept between firings."""
        return self.correction in MEMORY

    def __repr__(self) -> str:
        counts = ", ".join(f"{count:g}" for count in self.evaluations)
        rule = "no coins" if self.coins == "none" else f"{self.coins} {self.correction}"
        return f"Plan({self.steps} steps, {rule}, evaluations per trajectory: {counts})"

    def block(self, start: int, stop: int) -> PlanBlock:
        """Return the plan for the steps ``start … stop - 1``; the same whenever it is asked for."""
        per_sample = self.share == "sample"
        ahead = self.table[start : stop + self._ahead]
        table = ahead[: stop - start]
        fires = coins.fires(
            self.coins,
            table,
            self._running.before(start, table) if self.coins in ("systematic", "periodic") else None,
            self.keys,
            start,
            offset=0.0 if self.remembers else 0.5,
            per_sample=per_sample,
        )
        p = table[..., None] if per_sample else table
        heights = _inverse(p) if self.correction in ("impulse", "control") else np.ones_like(p)
        weights = np.where(fires, heights, 0.0)
        keeps = self._keeps(len(table), ahead)
        if self.differences:
            return PlanBlock(start, stop, fires, weights, weights, fires, keeps)
        # w_k - w_{k+1}, with w_{K+1} = 0
        coefficients = weights - np.concatenate([weights[:, 1:], np.zeros_like(weights[:, :1])], axis=1)
        apart = _apart(keeps)
        apart = apart[..., None] if per_sample else apart
        both = fires & np.concatenate([fires[:, 1:], np.zeros_like(fires[:, :1])], axis=1)
        evaluates = (coefficients != 0) | (both & apart)
        return PlanBlock(start, stop, fires, weights, coefficients, evaluates, keeps)

    @cached_property
    def _running(self) -> RunningSums:
        return RunningSums(self.table)

    @property
    def _ahead(self) -> int:
        """Steps ahead at which a level must be known to fire for its difference not to be remembered."""
        return 0 if not self.remembers else 2 if self.correction == "extrapolate" else 1

    def _keeps(self, steps: int, ahead: np.ndarray) -> np.ndarray:
        """Where a firing must be remembered: not if the level is sure to fire before the memory is used.

        Args:
            steps: how many.
            ahead: their rows of the table and the next :attr:`_ahead`; beyond the end everything counts as sure.

        Returns:
            Shape ``(steps, K)``.
        """
        if not self.remembers:
            return np.zeros((steps, ahead.shape[1]), dtype=bool)
        sure = np.ones((steps + self._ahead, ahead.shape[1]), dtype=bool)
        sure[: len(ahead)] = ahead >= 1
        return ~np.logical_and.reduce([sure[lag : lag + steps] for lag in range(1, self._ahead + 1)])

    @cached_property
    def evaluations(self) -> np.ndarray:
        """Exact number of evaluations of each level per trajectory, shape ``(K,)``."""
        total = np.zeros(self.table.shape[1])
        length = BLOCK * max(1, 16 // len(self.keys))
        for start in range(0, self.steps, length):
            block = self.block(start, min(start + length, self.steps))
            total += _per_trajectory(block.evaluates)
            total += (self.stages - 1) * _per_trajectory(block.coefficients != 0)
        return total

    @cached_property
    def cost(self) -> float | None:
        """Exact cost per trajectory in the units of ``costs``, or ``None``."""
        return None if self.costs is None else float(self.evaluations @ np.array(self.costs))

    @property
    def full_cost(self) -> float | None:
        """Cost per trajectory of a run that calls the top level at every step."""
        if self.costs is None:
            return None
        return self.steps * self.stages * (sum(self.costs) if self.differences else self.costs[-1])

    @cached_property
    def expected_evaluations(self) -> np.ndarray:
        """Mean of :attr:`evaluations` over the coins, shape ``(K,)``."""
        if self.coins in ("periodic", "none"):
            return self.evaluations
        alike = isinstance(self.table, Rows) and self.table.alike
        total, known = np.zeros(self.table.shape[1]), None
        for start, stop in stretches(self.steps):
            within = alike and start > 0 and stop + self._ahead < self.steps  # neither the first nor at the end
            part = self._expected(start, stop) if known is None or not within else known
            known = part if within else known
            total += part
        return total

    def _expected(self, start: int, stop: int) -> np.ndarray:
        ahead = self.table[start : stop + self._ahead]
        p = ahead[: stop - start]
        if self.differences:
            return np.asarray(self.stages * p.sum(axis=0))
        above = np.concatenate([p[:, 1:], np.zeros_like(p[:, :1])], axis=1)
        both = np.minimum(p, above) if self.coins == "nested" else p * above
        apart = _apart(self._keeps(stop - start, ahead))
        unequal = (p != above) if self.correction in ("impulse", "control") else np.zeros_like(apart)
        changes = p + above - 2 * both + both * unequal
        return np.asarray((self.stages * changes + both * (~unequal & apart)).sum(axis=0))

    @property
    def expected_cost(self) -> float | None:
        """Mean of :attr:`cost` over the coins, or ``None``."""
        return None if self.costs is None else float(self.expected_evaluations @ np.array(self.costs))


def multilevel_plan(
    multilevel: Multilevel,
    times: Grid,
    drift: DriftHierarchy,
    *,
    stages: int = 1,
    seed: int | tuple[int, ...] = 0,
    batch: int = 1,
) -> Plan:
    """Draw up the plan of a multilevel run on a grid of times.

    Args:
        multilevel: how the ladder is used.
        times: the grid, shape ``(N + 1,)``.
        drift: the ladder.
        stages: drift estimates per step.
        seed: seed of the solve; a tuple holds one per sample.
        batch: number of samples.
    """
    keys = _keys(multilevel, seed, batch)

    def plan_for(table: Table) -> Plan:
        if multilevel.correction in MEMORY:
            table = kept(_with_a_sure_start(table))
        return Plan(
            times, table, multilevel.coins, multilevel.correction, multilevel.share, keys, drift.differences, stages,
            drift.costs,
        )  # fmt: skip

    def price(table: Table) -> float:
        cost = plan_for(kept(table)).expected_cost
        assert cost is not None, "rules ask for the costs before they ask for a price"
        return cost

    plan = plan_for(probability_table(multilevel.probabilities, times, drift, price))
    if multilevel.coins == "periodic":
        _refuse_silent_levels(plan)
    return plan


def _refuse_silent_levels(plan: Plan) -> None:
    """Coins without chance that never fire a level drop its difference from every run, not from an unlucky one."""
    alike = replace(plan, share="batch", keys=plan.keys[:1])
    fired = np.any([alike.block(*piece).fires.any(axis=0) for piece in stretches(plan.steps)], axis=0)
    if not fired.all():
        k = int(np.argmin(fired))
        raise ValueError(
            f"with coins='periodic' level {k + 1} would never fire in {plan.steps} steps, its probabilities summing to "
            f"{sum(rows[:, k].sum() for _, rows in pieces(plan.table)):.3g}; raise them, or use coins='systematic'."
        )


def fixed_plan(
    level: int | Callable[[float], int] | None, times: Grid, drift: DriftHierarchy, *, stages: int = 1
) -> Plan:
    """Plan without coins: the top level, one level, or a level chosen by time. Levels are numbered from 1.

    It is a multilevel plan in which the levels up to the chosen one always fire, and the others never.
    """
    count, steps, numbers = len(drift), len(times) - 1, np.arange(1, len(drift) + 1)

    if callable(level):
        choose = level

        def rows(some: list[float]) -> np.ndarray:
            return (numbers <= np.array([level_number(choose(t), count) for t in some])[:, None]).astype(np.float64)

        table = asked(rows, times)
    else:
        chosen = level_number(count if level is None else level, count)
        table = kept(repeated((numbers <= chosen).astype(np.float64), steps))
    return Plan(times, table, "none", "impulse", "batch", ((0,),), drift.differences, stages, drift.costs)


def level_number(level: object, count: int) -> int:
    """Return ``level`` as an int within 1 … ``count``; ``TypeError`` or ``ValueError`` otherwise."""
    if isinstance(level, bool) or not isinstance(level, (int, np.integer)):
        raise TypeError(f"level must be an integer within 1 … {count}, got {level!r} of type {type(level).__name__}.")
    if not 1 <= level <= count:
        raise ValueError(f"level must be within 1 … {count}, got {level}.")
    return int(level)


def _keys(multilevel: Multilevel, seed: int | tuple[int, ...], batch: int) -> tuple[tuple[int, ...], ...]:
    if multilevel.share == "sample" and not isinstance(seed, int):
        return tuple((s,) if multilevel.seed is None else (int(multilevel.seed), s) for s in seed)
    if multilevel.seed is not None:
        seed = int(multilevel.seed)
    if multilevel.coins == "periodic" and multilevel.share == "batch":
        return ((0,),)
    if not isinstance(seed, int):
        raise ValueError(
            "seed holds one seed per sample, but share='batch' tosses one coin for all: "
            "give the coins a seed with Multilevel(..., seed=...), or use share='sample'."
        )
    if multilevel.share == "sample":
        return tuple((seed, i) for i in range(batch))
    return ((seed,),)


def _inverse(p: np.ndarray) -> np.ndarray:
    return np.divide(1.0, p, out=np.zeros_like(p), where=p > 0)


def _apart(keeps: np.ndarray) -> np.ndarray:
    """Where levels ``k`` and ``k + 1``, firing together, must be remembered apart; shape ``(steps, K)``.

    There ``f^k`` is evaluated although it cancels from the estimate. Where neither is remembered it is not: so an
    always-on prefix costs one evaluation with a memory too.
    """
    return np.concatenate([keeps[:, :-1] | keeps[:, 1:], np.zeros_like(keeps[:, :1])], axis=1)


def _with_a_sure_start(table: Table) -> Rows:
    """The table with ones in its first row."""

    def rows(start: int, stop: int) -> np.ndarray:
        part = table[start:stop]
        return np.concatenate([np.ones_like(part[:1]), part[1:]]) if start == 0 else part

    return Rows(table.shape, rows, isinstance(table, Rows) and table.alike)


def _per_trajectory(evaluated: np.ndarray) -> np.ndarray:
    counts = evaluated.sum(axis=0, dtype=np.float64)
    return counts.mean(axis=-1) if counts.ndim == 2 else counts
