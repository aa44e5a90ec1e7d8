"""What a calibration recommends: a way to run, what it is predicted to cost and to miss by, and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypedDict, Unpack

import numpy as np
from torch import Tensor

from mlsde.brownian import Brownian
from mlsde.calibration.candidates import Candidate
from mlsde.calibration.shaped import Shaped
from mlsde.integrate import Callback, solve
from mlsde.multilevel import Multilevel
from mlsde.plan import multilevel_plan
from mlsde.sde import SDE
from mlsde.showing import as_html, as_text
from mlsde.solution import Solution
from mlsde.steppers import METHODS, scheme


class Options(TypedDict, total=False):
    """What :func:`mlsde.solve` is still free in once a run is recommended."""

    seed: int | Sequence[int]
    brownian: Brownian | None
    save_at: Sequence[float] | np.ndarray | Tensor | str | None
    callback: Callback | None
    progress: bool
    gradients: bool


@dataclass(frozen=True, eq=False)
class Recommendation:
    """A way to run, chosen by :meth:`Calibration.recommend`; :meth:`solve` runs it.

    Attributes:
        sde: the equation with the levels that are used.
        times: the grid.
        method: the stepper.
        levels: levels of the whole ladder that are used, numbered from 1.
        level: what ``level=`` of :func:`mlsde.solve` is, ``None`` with coins.
        multilevel: what ``multilevel=`` is, ``None`` without.
        predicted_error: root mean square over samples and components, against the exact solution of the top level.
        predicted_cost: expected cost per trajectory, in units of the costs.
        kind: ``"plain"``, ``"stitched"`` or ``"multilevel"``.
        why: the choice explained in two sentences.
        rivals: the best of the other kinds at the same price, each in words with its predicted error.
        warnings: what is wrong with the ladder or the wish, a sentence each.

    Example:
        >>> import mlsde, torch
        >>> drift = mlsde.DriftHierarchy([lambda t, y: -y, lambda t, y: -torch.sin(y)], costs=[1.0, 50.0])
        >>> calibration = mlsde.calibrate(mlsde.SDE(drift, 0.5), torch.zeros(1000, 1), (0, 1), steps=100)
        >>> advice = calibration.recommend(budget=500.0)
        >>> advice.kind, advice.solve(torch.zeros(10, 1), seed=1).success
        ('multilevel', True)
    """

    sde: SDE
    times: np.ndarray
    method: str
    levels: tuple[int, ...]
    level: int | Callable[[float], int] | None
    multilevel: Multilevel | None
    predicted_error: float
    predicted_cost: float
    kind: str
    why: str
    rivals: tuple[tuple[str, float], ...]
    warnings: tuple[str, ...]

    @property
    def steps(self) -> int:
        """Number of steps."""
        return len(self.times) - 1

    def solve(self, y0: Tensor, **options: Unpack[Options]) -> Solution:
        """Run it: :func:`mlsde.solve` with this equation, grid, stepper and rule.

        Args:
            y0: initial state, shape ``(samples, ...)``.
            **options: ``seed``, ``brownian``, ``save_at``, ``callback``, ``progress`` and ``gradients`` as there.

        Returns:
            The solution; without the pilot's price in it.

        Raises:
            TypeError, ValueError: as there.
        """
        return solve(
            self.sde,
            y0,
            times=self.times,
            method=scheme(self.method),
            level=self.level,
            multilevel=self.multilevel,
            **options,
        )

    def table(self) -> np.ndarray:
        """Probabilities of the levels used at each step, shape ``(steps, len(levels))``; 1 or 0 without coins."""
        if self.multilevel is not None:
            stages = METHODS[self.method].stages
            return multilevel_plan(self.multilevel, self.times, self.sde.drift, stages=stages).probabilities
        level = self.level
        at = [level(t) if callable(level) else level for t in self.times[:-1].tolist()]
        return np.array([[float(one == used) for used in self.levels] for one in at])

    def describe(self) -> str:
        """The way to run, in words."""
        levels = ", ".join(map(str, self.levels))
        if self.multilevel is not None:
            return f"levels {levels} with {self.multilevel.coins} {self.multilevel.correction}, {self.steps} steps"
        if callable(self.level):
            return f"levels {levels} stitched in time, {self.steps} steps"
        return f"level {levels} alone, {self.steps} steps"

    __repr__ = as_text
    _repr_html_ = as_html

    def _report(self) -> list[str]:
        lines = [f"Recommendation: {self.describe()}", f"  {self.why}"]
        lines.append(f"  predicted: error {self.predicted_error:.3g}, cost per trajectory {self.predicted_cost:g}")
        return [*lines, *(f"  warning: {warning}" for warning in self.warnings)]


def stitching(pair: tuple[int, int], share: float, times: np.ndarray) -> Callable[[float], int]:
    """Level by time: the first of the pair for so much of the time, then the other."""
    t0, t1 = float(times[0]), float(times[-1])
    return lambda t: pair[0] if (t - t0) / (t1 - t0) < share - 1e-9 else pair[1]


def in_words(one: Candidate) -> str:
    """A candidate in words."""
    levels = [str(level) for level in one.levels]
    if one.kind == "plain":
        return f"level {levels[0]} alone with {one.steps} steps"
    if one.kind == "stitched":
        return (
            f"level {levels[0]} for the first {one.share:.0%} of the time and then level {levels[1]}, {one.steps} steps"
        )
    assert one.rule is not None
    return f"levels {', '.join(levels)} with {one.rule[0]} {one.rule[1]} and {one.steps} steps"


def arguments(
    sde: SDE, one: Candidate, times: np.ndarray, cells: np.ndarray, budget: float, share: str
) -> tuple[SDE, int | Callable[[float], int] | None, Multilevel | None]:
    """Equation, ``level=`` and ``multilevel=`` of a candidate."""
    if one.kind == "plain":
        return sde, one.levels[0], None
    if one.kind == "stitched":
        assert one.share is not None
        return sde, stitching((one.levels[0], one.levels[1]), one.share, times), None
    assert one.rule is not None and one.table is not None
    part = sde.with_drift(sde.drift.select(one.levels))
    return part, None, Multilevel.named(Shaped(cells, one.table, budget), one.rule[0], one.rule[1], share)
