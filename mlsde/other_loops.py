"""The ladder as one drift, for loops of other packages: torchsde's, torchdiffeq's, your own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mlsde import checks
from mlsde.estimator import PlannedEstimator, estimator
from mlsde.hierarchy import CountedLevels, DriftHierarchy
from mlsde.multilevel import Multilevel
from mlsde.plan import Plan, fixed_plan, multilevel_plan

_NEAR = 0.1
"""Part of a step by which a time may miss its grid: loops add up their times, in float32 too."""


class MultilevelDrift:
    """The multilevel estimate of a drift as one function ``f(t, y)``, for a loop that calls it once a step.

    Which levels fire belongs to the steps, so those must be known: ``drift(t, y)`` is to be called at each time of the
    grid once, in order, as Euler's method and Milstein's do, and is refused elsewhere. A call at the first time begins
    another run, with the same coins. Where the choice is yours, :func:`mlsde.solve` has more steppers and less to mind.

    Args:
        drift: the ladder.
        times: the grid of the loop, ``N + 1`` times, strictly monotone; the last one ends the last step.
        multilevel: how the ladder is used; ``None`` calls the top level at every step.
        seed: of the coins; one integer, or one per sample with ``share="sample"``.

    Raises:
        TypeError, ValueError: naming the argument; at a call, for a time that is not the next one.

    Example:
        >>> ladder = DriftHierarchy([lambda t, y: -y, lambda t, y: -torch.sin(y)], costs=[1.0, 50.0])
        >>> from mlsde import Constant
        >>> times = torch.linspace(0, 1, 101)
        >>> drift = MultilevelDrift(ladder, times, Multilevel(Constant([1.0, 0.1])))
        >>> y = torch.ones(8, 1)
        >>> for t, t_next in zip(times[:-1], times[1:]):
        ...     y = y + (t_next - t) * drift(t, y)
        >>> drift.evaluations
        (100.0, 11.0)
    """

    def __init__(
        self,
        drift: DriftHierarchy,
        times: Sequence[float] | np.ndarray | Tensor,
        multilevel: Multilevel | None = None,
        *,
        seed: int | Sequence[int] = 0,
    ) -> None:
        if not isinstance(drift, DriftHierarchy):
            raise TypeError(f"drift must be an mlsde.DriftHierarchy, got {type(drift).__name__}.")
        if multilevel is not None and not isinstance(multilevel, Multilevel):
            raise TypeError(f"multilevel must be an mlsde.Multilevel or None, got {multilevel!r}.")
        grid = checks.time_grid(None, None, checks.as_float64("times", times))
        self.drift, self.times, self.multilevel = drift, grid, multilevel
        self._batch = len(seed) if isinstance(seed, (list, tuple, np.ndarray)) else 1
        self._seed = checks.seed_or_seeds(seed, self._batch)
        self.plan = self._plan(self._batch)
        self._next = 0
        self._levels: CountedLevels | None = None
        self._estimate: PlannedEstimator | None = None

    def __repr__(self) -> str:
        return f"MultilevelDrift({self.drift!r}, {self.plan!r})"

    def _plan(self, batch: int) -> Plan:
        if self.multilevel is None:
            return fixed_plan(None, self.times, self.drift)
        return multilevel_plan(self.multilevel, self.times, self.drift, seed=self._seed, batch=batch)

    @property
    def evaluations(self) -> tuple[float, ...]:
        """Evaluations of each level per trajectory in the current run."""
        if self._levels is None:
            return (0.0,) * len(self.drift)
        return tuple(samples / self._batch for samples in self._levels.samples)

    @property
    def cost(self) -> float | None:
        """Their price per trajectory in the units of ``costs``; ``None`` without costs."""
        if self.drift.costs is None:
            return None
        return sum(c * e for c, e in zip(self.drift.costs, self.evaluations, strict=True))

    def __call__(self, t: float | Tensor, y: Tensor) -> Tensor:
        """Estimate the drift at ``(t, y)``, shape and dtype of ``y``."""
        n = self._step(checks.finite_number("t", t))
        if n == 0:
            self._begin(y)
        assert self._levels is not None and self._estimate is not None, "the first step begins a run"
        if y.shape[0] != self._batch:
            raise ValueError(f"y has {y.shape[0]} samples, but the run began with {self._batch}; begin another run.")
        self._next = n + 1
        work = torch.float32 if y.dtype in checks.HALF_PRECISIONS else y.dtype
        when, state = torch.as_tensor(t, dtype=work, device=y.device), y.to(work)
        if n == len(self.times) - 1:  # the last time again: torchsde's float32 times take a step of rounding
            return one_level(self._levels, self.drift.differences, len(self.drift), when, state).to(y.dtype)
        return self._estimate(n, when, state).to(y.dtype)

    def _step(self, t: float) -> int:
        """Number of the step that begins at ``t``, which must be the first or the next."""
        n = int(np.abs(self.times - t).argmin())
        lengths = np.abs(np.diff(self.times))
        near = abs(float(self.times[n]) - t) <= _NEAR * float(lengths[max(n - 1, 0) : n + 1].min())
        if near and n in (0, self._next):
            return n
        expected = self.times[self._next] if self._next < len(self.times) else self.times[0]
        raise ValueError(
            f"the drift was asked for at t={t:g}, expected t={expected:g}: it serves loops that call it once at each "
            "of its times, in order, so use method='euler' with steps between these times, or mlsde.solve."
        )

    def _begin(self, y: Tensor) -> None:
        checks.state("y", y)
        if y.shape[0] != self._batch:
            self._batch = y.shape[0]
            self._seed = checks.seed_or_seeds(self._seed, self._batch)
            self.plan = self._plan(self._batch)
        self._levels = CountedLevels(self.drift.levels, y.dtype)
        self._estimate = estimator(self._levels, self.plan)


def one_level(levels: CountedLevels, differences: bool, number: int, t: Tensor, y: Tensor) -> Tensor:
    """Value of one level, numbered from 1: of a ladder of differences, the sum of the first ``number``."""
    value = levels(0 if differences else number - 1, t, y)
    for k in range(1, number if differences else 1):
        value = value + levels(k, t, y)
    return value
