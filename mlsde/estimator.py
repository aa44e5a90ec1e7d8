"""The multilevel estimate of the drift: a plan becomes a value at each step. ML-EM stands here and nowhere else.

With the difference of a level ``D_k = f^k - f^(k-1)``, its memory ``m_k`` and its weight ``w_k`` (0 between firings),
the estimate is

    sum_k  m_k + w_k (D_k - m_k)  =  sum_k (1 - w_k) m_k  +  sum_k (w_k - w_{k+1}) f^k ,

and ``f^k`` is evaluated only where its coefficient is not zero. With impulses, ``m = 0`` and ``w = B / p``, this is the
drift of the Multilevel Euler-Maruyama method (arXiv 2603.24594).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from mlsde.hierarchy import CountedLevels
from mlsde.plan import BLOCK, Plan, PlanBlock
from mlsde.transfer import sent

Factor = float | Tensor

_MOST_KNOWN = 4096

_STEPS_AT_ONCE = 16 * BLOCK
"""Steps read from a plan with coins for the batch at once: enough to hide the price of asking."""


class Estimator(Protocol):
    """A drift value for each step: what a stepper calls."""

    def __call__(self, n: int, t: Tensor, y: Tensor, stage: int = 0) -> Tensor:
        """Estimate the drift at ``(t, y)``, stage ``stage`` of step ``n``, shape of ``y``."""
        ...


@dataclass(frozen=True)
class _Memory:
    """What a level remembers of its difference: its last value, when that was, and the slope through the last two."""

    value: Tensor
    time: float | np.ndarray
    slope: Tensor | None = None

    def at(self, t: float) -> Tensor:
        """``m_k`` at time ``t``."""
        if self.slope is None:
            return self.value
        gap = self._gap(t)
        if isinstance(gap, Tensor):
            return torch.addcmul(self.value, gap, self.slope)
        return torch.add(self.value, self.slope, alpha=gap)

    def after(self, difference: Tensor, t: float, extrapolate: bool) -> _Memory:
        """Memory once ``difference`` was seen at time ``t``."""
        return _Memory(difference, t, (difference - self.value).div_(self._gap(t)) if extrapolate else None)

    def _gap(self, t: float) -> Factor:
        """Time since then; from the host's times, because float32 may not tell two steps apart."""
        gap = t - self.time
        return _column(gap, self.value) if isinstance(gap, np.ndarray) else gap


class SharedEstimator:
    """Estimate with coins shared by the batch: a level is evaluated for all samples or for none.

    Args:
        levels: the counted levels.
        plan: a plan with ``share="batch"``.
    """

    def __init__(self, levels: CountedLevels, plan: Plan) -> None:
        self._levels, self._plan = levels, plan
        self._extrapolates = plan.correction == "extrapolate"
        self.memory: tuple[_Memory | None, ...] = (None,) * plan.table.shape[1]
        self._steps: list[_SharedStep] = []
        self._known: dict[bytes, _SharedStep] = {}
        self._start = 0

    def __call__(self, n: int, t: Tensor, y: Tensor, stage: int = 0) -> Tensor:
        """Estimate the drift at ``(t, y)``, stage ``stage`` of step ``n``."""
        row = n - self._start
        step = self._steps[row] if 0 <= row < len(self._steps) else self._step(n)
        if step.alone is not None:
            return self._levels(step.alone, t, y)
        now = float(self._plan.grid[n + stage])
        estimate, f = _Sum(), dict[int, Tensor]()
        keeps = stage == 0 and bool(step.kept)
        if keeps:
            f = {k: self._levels(k, t, y) for k in step.evaluates}
        for k, coefficient in step.coefficients:
            estimate.add(coefficient, f[k] if keeps else self._levels(k, t, y))  # sum_k (w_k - w_{k+1}) f^k
        for k, coefficient in step.memories:
            memory = self.memory[k]
            assert memory is not None, "corrections with a memory fire every level at the first step"
            estimate.add(coefficient, memory.at(now))  # sum_k (1 - w_k) m_k
        if keeps:
            self._remember(step, f, now)
        return torch.zeros_like(y) if estimate.total is None else estimate.total

    def _remember(self, step: _SharedStep, f: dict[int, Tensor], now: float) -> None:
        memory = list(self.memory)
        for k in step.kept:
            before, difference = memory[k], _difference(k, f, self._plan.differences)
            memory[k] = (
                _Memory(difference, now) if before is None else before.after(difference, now, self._extrapolates)
            )
        self.memory = tuple(memory)

    def _step(self, n: int) -> _SharedStep:
        """Read on from step ``n`` in the plan, and return it."""
        block = self._plan.block(n, min(n + _STEPS_AT_ONCE, self._plan.steps))
        self._start, self._steps = n, _shared_steps(block, self._plan.remembers, self._known)
        return self._steps[0]


class OneLevel:
    """Estimate of one level at every step."""

    memory: tuple[_Memory | None, ...] = ()

    def __init__(self, levels: CountedLevels, level: int) -> None:
        self._levels, self._level = levels, level

    def __call__(self, n: int, t: Tensor, y: Tensor, stage: int = 0) -> Tensor:
        """Evaluate the level at ``(t, y)``."""
        return self._levels(self._level, t, y)


@dataclass(frozen=True)
class _SharedStep:
    """One step of a plan, as short lists of levels."""

    evaluates: tuple[int, ...]
    coefficients: tuple[tuple[int, float], ...]
    memories: tuple[tuple[int, float], ...]
    kept: tuple[int, ...]

    @cached_property
    def alone(self) -> int | None:
        """The level whose value is the estimate: most steps of a run at one level are that."""
        only = len(self.coefficients) == 1 and self.coefficients[0][1] == 1.0
        return self.coefficients[0][0] if only and not self.memories and not self.kept else None


def _shared_steps(block: PlanBlock, remembers: bool, known: dict[bytes, _SharedStep]) -> list[_SharedStep]:
    """Steps of a block. Few of them differ, so those already ``known`` are used again."""
    columns = (block.evaluates, block.fires & block.keeps, block.coefficients, block.weights)
    steps = []
    for row, key in enumerate(map(bytes, np.concatenate(columns, axis=1, dtype=np.float64))):
        if key not in known:
            if len(known) == _MOST_KNOWN:
                known.clear()
            known[key] = _shared_step(block, row, remembers)
        steps.append(known[key])
    return steps


def _shared_step(block: PlanBlock, row: int, remembers: bool) -> _SharedStep:
    coefficients, weights = block.coefficients[row], block.weights[row]
    return _SharedStep(
        evaluates=tuple(np.flatnonzero(block.evaluates[row]).tolist()),
        coefficients=tuple((k, float(coefficients[k])) for k in np.flatnonzero(coefficients).tolist()),
        memories=tuple((k, float(1.0 - w)) for k, w in enumerate(weights) if w != 1.0) if remembers else (),
        kept=tuple(np.flatnonzero(block.fires[row] & block.keeps[row]).tolist()),
    )


class _Sum:
    """A sum of tensors times numbers, exact where a number is 1; in place once it is a tensor of its own."""

    def __init__(self) -> None:
        self.total: Tensor | None = None
        self._own = False

    def add(self, factor: float, value: Tensor) -> None:
        """Add ``factor * value``, which is not written into."""
        if self.total is None:
            self.total, self._own = (value, False) if factor == 1.0 else (factor * value, True)
        elif self._own:
            self.total.add_(value, alpha=factor)
        else:
            self.total, self._own = torch.add(self.total, value, alpha=factor), True


def _difference(k: int, f: dict[int, Tensor], differences: bool) -> Tensor:
    """``D_k``; never the level's own tensor, which a level with a buffer overwrites at its next evaluation."""
    return f[k].clone() if k == 0 or differences else f[k] - f[k - 1]


class PerSampleEstimator:
    """Estimate with coins of each sample's own: those that need a level are evaluated as one smaller batch.

    Args:
        levels: the counted levels.
        plan: a plan with ``share="sample"``.
    """

    def __init__(self, levels: CountedLevels, plan: Plan) -> None:
        self._levels, self._plan = levels, plan
        self._extrapolates = plan.correction == "extrapolate"
        self.memory: tuple[_Memory | None, ...] = (None,) * plan.table.shape[1]
        self._block: PlanBlock | None = None

    def __call__(self, n: int, t: Tensor, y: Tensor, stage: int = 0) -> Tensor:
        """Estimate the drift at ``(t, y)``, stage ``stage`` of step ``n``."""
        block, row = self._row(n)
        evaluates = block.evaluates[row] if stage == 0 else block.coefficients[row] != 0
        now = float(self._plan.grid[n + stage])
        keeps = self._plan.remembers and stage == 0
        estimate: Tensor | None = None
        f: dict[int, Tensor] = {}
        for k in np.flatnonzero(evaluates.any(axis=1)).tolist():
            value = self._scattered(k, evaluates[k], t, y)
            factor = _column(block.coefficients[row, k], y)
            estimate = (
                factor * value if estimate is None else estimate.addcmul_(factor, value)
            )  # sum_k (w_k-w_{k+1}) f^k
            if keeps:
                f[k] = value
            del value
        estimate = torch.zeros_like(y) if estimate is None else estimate
        if self._plan.remembers:
            for k, memory in enumerate(self.memory):
                if memory is not None:
                    estimate.addcmul_(_column(1.0 - block.weights[row, k], y), memory.at(now))  # sum_k (1 - w_k) m_k
            if keeps:
                self._remember(block.fires[row] & block.keeps[row][:, None], f, now)
        return estimate

    def _scattered(self, k: int, chosen: np.ndarray, t: Tensor, y: Tensor) -> Tensor:
        """``f^k`` on the chosen samples, zero elsewhere."""
        if chosen.all():
            return self._levels(k, t, y)
        index = sent(np.flatnonzero(chosen), y.device)
        return torch.zeros_like(y).index_copy(0, index, self._levels(k, t, y.index_select(0, index)))

    def _remember(self, kept: np.ndarray, f: dict[int, Tensor], now: float) -> None:
        levels = np.flatnonzero(kept.any(axis=1)).tolist()
        differences = {k: _difference(k, f, self._plan.differences) for k in levels}
        f.clear()  # what is not needed any more makes room
        memory = list(self.memory)
        for k in levels:
            memory[k] = self._updated(memory[k], kept[k], differences.pop(k), now)
        self.memory = tuple(memory)

    def _updated(self, before: _Memory | None, fires: np.ndarray, difference: Tensor, now: float) -> _Memory:
        """Memory of one level in which only the samples that fired are renewed."""
        if before is None:
            return _Memory(difference, np.full(len(fires), now))
        fired = _column(fires, difference) != 0
        after = before.after(difference, now, self._extrapolates)
        slope = after.slope
        if slope is not None:
            slope = torch.where(fired, slope, torch.zeros_like(slope) if before.slope is None else before.slope)
        value = torch.where(fired, difference, before.value)
        return replace(after, value=value, time=np.where(fires, now, before.time), slope=slope)

    def _row(self, n: int) -> tuple[PlanBlock, int]:
        block = self._block
        if block is None or not block.start <= n < block.stop:
            block = self._block = self._plan.block(n, min(n + BLOCK, self._plan.steps))
        return block, n - block.start


def _column(values: np.ndarray, y: Tensor) -> Tensor:
    """One number per sample, shaped to multiply ``y``."""
    column = sent(values.astype(np.float64), y.device, y.dtype)
    return column.view(-1, *[1] * (y.ndim - 1))


PlannedEstimator = SharedEstimator | PerSampleEstimator | OneLevel
"""What :func:`estimator` makes: an estimate of the drift for each step, with a memory."""


def estimator(levels: CountedLevels, plan: Plan) -> PlannedEstimator:
    """Return the estimator that a plan asks for."""
    level = plan.alone
    if level is not None:
        return OneLevel(levels, level)
    return PerSampleEstimator(levels, plan) if plan.share == "sample" else SharedEstimator(levels, plan)


def remembered(memory: tuple[_Memory | None, ...]) -> list[tuple[int, Tensor]]:
    """Level (from 0) and value of each difference in memory."""
    return [(k, m.value) for k, m in enumerate(memory) if m is not None]
