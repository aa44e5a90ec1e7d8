"""What a solve returns: states, price, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from mlsde.plan import Plan
from mlsde.showing import Rows, as_call, as_html, as_text

if TYPE_CHECKING:
    from mlsde.calibration import Recommendation


@dataclass(frozen=True)
class Stats:
    """What a run spent; tuples hold one entry per level, cheapest first.

    Attributes:
        names: names of the levels.
        calls: calls of each level.
        evaluations: evaluations of each level per trajectory.
        seconds: wall-clock inside each level.
        cost: cost paid per trajectory in the units of ``costs``; ``None`` without costs.
        full_cost: cost of the top level at every step, likewise.
        wall_seconds: wall-clock of the whole run.
        pilot_cost: what the pilot cost per trajectory, besides ``cost``; ``None`` without one.
    """

    names: tuple[str, ...]
    calls: tuple[int, ...]
    evaluations: tuple[float, ...]
    seconds: tuple[float, ...]
    cost: float | None
    full_cost: float | None
    wall_seconds: float
    pilot_cost: float | None = None

    __repr__ = as_call


@dataclass(frozen=True, eq=False)
class Solution:
    """Solution of an equation.

    Attributes:
        ts: saved times, float64, shape ``(saved,)``.
        ys: saved states, shape ``(saved, *y0.shape)``, in ``y0``'s dtype.
        stats: what it cost.
        seed: seed of the noise and, unless told otherwise, of the coins.
        plan: which levels were to fire when.
        method: the stepper.
        success: whether the run reached its end.
        message: a sentence on how it ended.
        error: where a pilot chose: predicted root mean square error per component at the end, against the exact
            solution of the top level; NaN if the run was too small for a pilot, else ``None``.
        recommendation: what the pilot chose, and why.

    Example:
        >>> import mlsde, torch
        >>> solution = mlsde.solve(mlsde.SDE(lambda t, y: -y), torch.ones(4, 2), (0, 1), steps=100)
        >>> solution.y1.shape, solution.stats.evaluations, solution.message
        (torch.Size([4, 2]), (100.0,), 'reached t=1 in 100 steps.')
    """

    ts: Tensor
    ys: Tensor
    stats: Stats
    seed: int | tuple[int, ...]
    plan: Plan
    method: str
    success: bool
    message: str
    error: float | None = None
    recommendation: Recommendation | None = None

    @property
    def y1(self) -> Tensor:
        """Last saved state, shape of ``y0``; ``IndexError`` if the run ended before the first."""
        if len(self.ys) == 0:
            raise IndexError(f"no state was saved: {self.message}")
        return self.ys[-1]

    __repr__ = as_text
    _repr_html_ = as_html

    def _report(self) -> list[str | Rows]:
        return [f"Solution: {self.message}", Rows(self._cells()), *self._price(), *self._choice()]

    def _choice(self) -> list[str]:
        if self.recommendation is None:
            return []
        error = "no error predicted" if self.error is None else f"predicted error {self.error:.3g}"
        pilot = f"pilot {self.stats.pilot_cost:.4g} per trajectory"
        return [f"  chosen: {self.recommendation.describe()}; {error}; {pilot}"]

    def _cells(self) -> list[tuple[str, ...]]:
        costs = self.plan.costs or (None,) * len(self.stats.names)
        rows: list[tuple[str, ...]] = [("", "price", "evaluations", "seconds")]
        for name, cost, count, seconds in zip(
            self.stats.names, costs, self.stats.evaluations, self.stats.seconds, strict=True
        ):
            rows.append((name, "-" if cost is None else f"{cost:g}", f"{count:g}", f"{seconds:.3g}"))
        return rows

    def _price(self) -> list[str]:
        cost, full = self.stats.cost, self.stats.full_cost
        seed = self.seed if isinstance(self.seed, int) else "per sample"
        spent = f"  wall-clock {self.stats.wall_seconds:.3g} s; seed {seed}"
        if cost is None or full is None:
            return [spent]
        less = f"{full / cost:.3g} times" if cost > 0 else "which is everything"
        ratio = f", {less} less than the top level at every step ({full:g})" if self.success and cost < full else ""
        return [f"  cost per trajectory {cost:g}{ratio}", spent]


class NonFiniteError(RuntimeError):
    """A run was stopped because its state, a level or the diffusion became NaN or infinite.

    Attributes:
        step: number of the step, from 0; ``None`` if the replay could not find it.
        time: time at the start of that step.
        culprit: ``"drift level 2"``, ``"diffusion"``, ``"brownian"`` or ``"state"``.
        solution: what had been saved until then.

    Example:
        >>> import mlsde, torch
        >>> try:
        ...     mlsde.solve(mlsde.SDE(lambda t, y: y**3), torch.ones(1, 1), (0, 9), steps=9)
        ... except mlsde.NonFiniteError as error:
        ...     print(error.step, error.culprit)
        5 drift level 1
    """

    def __init__(self, message: str, step: int | None, time: float | None, culprit: str, solution: Solution) -> None:
        super().__init__(message)
        self.step, self.time, self.culprit, self.solution = step, time, culprit, solution

    def __reduce__(self) -> tuple[Any, ...]:  # an exception is otherwise pickled with its message alone
        return type(self), (str(self), self.step, self.time, self.culprit, self.solution)
