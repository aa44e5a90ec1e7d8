"""One run of a host through a ladder of denoisers: which step and which slot a call belongs to, and its estimate.

A *node* is a distinct timestep of the run, numbered in order of appearance: it is the step whose coins hold. Several
calls at one node with the same state, or for branches of guidance that the host names, are its *slots*, which share the
coins and have a memory each. A call at the same node with another state is a further *stage* of the solver (Heun): it
sees the same coins, and the memory as it was before the node, so that no extrapolation divides by a gap of zero.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlsde import checks
from mlsde.coins import RunningSums
from mlsde.diffusion.hosts import Call, ModelLevels, copies, default_form, flops
from mlsde.estimator import PlannedEstimator, estimator
from mlsde.hierarchy import DriftHierarchy
from mlsde.multilevel import Multilevel
from mlsde.plan import Plan, multilevel_plan
from mlsde.solution import Stats

_ROUNDING = 2.0**-7
"""By how much, relatively, a host may round the timesteps of its scheduler: bfloat16, as pipelines pass them."""


@dataclass(frozen=True)
class Schedule:
    """The timesteps of a run.

    Attributes:
        steps: their number, or ``None`` if it is not known.
        source: the argument that told it, for messages.
        timesteps: the distinct timesteps, shape ``(steps,)``, or ``None`` if only their number is known.
        scale: what the host multiplies them with before it hands them over.
    """

    steps: int | None
    source: str
    timesteps: np.ndarray | None = None
    scale: float = 1.0

    @property
    def times(self) -> np.ndarray:
        """Times of the plan, shape ``(steps + 1,)``: the timesteps and where they lead, or evenly from 1 to 0."""
        assert self.steps is not None, "a plan is only drawn up where the number of steps is known"
        if self.timesteps is None:
            return np.linspace(1.0, 0.0, self.steps + 1)
        last = float(self.timesteps[-1])
        gap = float(self.timesteps[-2]) - last if self.steps > 1 else 1.0
        return np.append(self.timesteps, 0.0 if gap > 0 and last > 0 else last - gap)

    @property
    def direction(self) -> float | None:
        """-1 if the timesteps fall, 1 if they rise, ``None`` if they do not tell."""
        if self.timesteps is None or len(self.timesteps) == 1:
            return None
        return float(np.sign(self.timesteps[1] - self.timesteps[0]))

    def check(self, n: int, when: float) -> None:
        """Raise ``ValueError`` if node ``n`` lies beyond the run, or ``when`` is not its timestep."""
        if self.steps is not None and n >= self.steps:
            raise ValueError(
                f"the run goes beyond {self.source} at timestep {when:g}: its {self.steps} steps are done; give the "
                "number of distinct timesteps at which the denoiser is called, or call reset() before a new run."
            )
        if self.timesteps is not None and not _near(self.timesteps, n, when / self.scale):
            raise ValueError(
                f"timestep {when:g} came at step {n}, where {self.source} has {self.timesteps[n] * self.scale:g}; "
                "give the very scheduler, or the timesteps, that the host uses."
            )


def _near(values: np.ndarray, n: int, value: float) -> bool:
    miss = np.abs(values - value)
    return bool(miss[n] == miss.min() or miss[n] <= _ROUNDING * abs(values[n]))


def listed(values: Sequence[float] | np.ndarray, call: Call, source: str, thousand: float = 1000.0) -> Schedule:
    """Schedule of explicit timesteps, from that of the first call on (image-to-image begins midway).

    Args:
        values: the timesteps, with repetitions.
        call: the first call of the run; its time is one of them, or one divided by ``thousand``.
        source: the argument that gave them.
        thousand: number of timesteps of the training, which some transformers divide by.

    Raises:
        ValueError: if the call's time is none of them.
    """
    distinct = np.array(list(dict.fromkeys(checks.as_float64(source, values).tolist())))
    gaps = np.diff(distinct)
    if len(distinct) == 0 or not ((gaps < 0).all() or (gaps > 0).all()):
        raise ValueError(
            f"{source} must hold timesteps that fall or rise throughout, got {distinct.tolist()}; "
            "a host that goes back in time, such as RePaint, is not served."
        )
    found = []
    for scale in (1.0,) if call.whole_numbers else (1.0, 1.0 / thousand):
        at = int(np.argmin(np.abs(distinct * scale - call.time)))
        miss = abs(distinct[at] * scale - call.time)
        if miss <= _ROUNDING * abs(call.time) or miss == 0.0:
            found.append((at, -scale))
    if not found:
        raise ValueError(
            f"timestep {call.time:g} is none of the {len(distinct)} of {source} (from {distinct[0]:g} to "
            f"{distinct[-1]:g}); give the very scheduler, or the timesteps, that the host uses."
        )
    start, minus_scale = min(found)
    return Schedule(len(distinct) - start, source, distinct[start:], -minus_scale)


class PricedWhenAsked(DriftHierarchy):
    """A ladder whose prices are measured when a rule first asks for them."""

    measure: Callable[[], tuple[float, ...]]

    def required_costs(self, asker: str) -> tuple[float, ...]:
        """Return the costs, measured if there are none yet."""
        if self.costs is None:
            object.__setattr__(self, "costs", self.measure())
        return super().required_costs(asker)


class _FirstSums(RunningSums):
    """Running sums of a table, whatever has become of the rows since."""

    def before(self, start: int, rows: np.ndarray) -> np.ndarray:
        return super().before(start, self._probabilities[start : start + len(rows)])


@dataclass(frozen=True, eq=False)
class _LatePlan(Plan):
    """A plan in which every level fires at one step besides, all other coins being those of ``origin``.

    A slot that begins there, or was left out at the step before, has nothing to remember yet.
    """

    origin: Plan

    @cached_property
    def _running(self) -> RunningSums:
        return _FirstSums(self.origin.table)


def late(plan: Plan, n: int) -> Plan:
    """The plan for a slot whose memory begins at step ``n``."""
    if n == 0 or not plan.remembers:
        return plan
    table = plan.probabilities.copy()
    table[n] = 1.0
    return _LatePlan(**{**_fields(plan), "table": table}, origin=plan)


def _fields(plan: Plan) -> dict[str, Any]:
    return {name: getattr(plan, name) for name in Plan.__dataclass_fields__}


@dataclass(frozen=True)
class Ladder:
    """What the runs of a denoiser have in common.

    Attributes:
        models: the nets, cheapest first.
        multilevel: how they are used; ``None`` calls the last at every step.
        seed: of the coins, one or one per picture.
        costs: price of each net for one sample, ``None`` to count FLOPs when a rule asks, ``"flops"`` to count anyway.
        names: of the levels.
        counted: the FLOPs found so far, by shape and dtype of a sample.
    """

    models: tuple[Callable[..., Any], ...]
    multilevel: Multilevel | None
    seed: int | tuple[int, ...]
    costs: tuple[float, ...] | str | None
    names: tuple[str, ...]
    counted: dict[Any, tuple[float, ...]] = field(default_factory=dict)

    def hierarchy(self, call: Call) -> PricedWhenAsked:
        """The ladder for the core, which asks it for its size and its prices alone."""
        priced = PricedWhenAsked(self.models, None if isinstance(self.costs, str) else self.costs, names=self.names)
        object.__setattr__(priced, "measure", lambda: self._flops(call))
        if self.costs == "flops":
            priced.required_costs('costs="flops"')
        return priced

    def _flops(self, call: Call) -> tuple[float, ...]:
        key = call.sample.shape[1:], call.sample.dtype
        if key not in self.counted:
            self.counted[key] = flops(self.models, call)
        return self.counted[key]


@dataclass(frozen=True, eq=False)
class _Seen:
    """A state that a call brought, to recognise it: kept, so that its memory is not used again in between."""

    sample: Tensor
    version: int | None
    branch: str | None

    @classmethod
    def of(cls, call: Call) -> _Seen:
        return cls(call.sample, _version(call.sample), call.branch)

    def holds(self, sample: Tensor) -> bool:
        """Whether ``sample`` is the very state that was brought, or a copy of it."""
        kept = self.sample
        if sample.shape != kept.shape or sample.dtype != kept.dtype or sample.device != kept.device:
            return False
        if sample.data_ptr() == kept.data_ptr() and sample.stride() == kept.stride():
            return _version(sample) == self.version
        # the kept state may have been written into since; then it is not what was seen
        return _version(kept) == self.version and torch.equal(sample, kept)


def _version(sample: Tensor) -> int | None:
    """How often a tensor was written into, which torch does not count in inference mode."""
    return None if sample.is_inference() else sample._version


@dataclass(eq=False)
class _Slot:
    """One of the calls that a node makes with the same state, and its memory."""

    estimate: PlannedEstimator
    shape: torch.Size
    node: int
    before: Any = ()


class DenoisingRun:
    """One run of a host.

    Args:
        ladder: the nets and how they are used.
        schedule: the run's timesteps.
        call: its first call, which is not evaluated here.

    Raises:
        TypeError, ValueError: if the rule for the probabilities does not fit.
    """

    def __init__(self, ladder: Ladder, schedule: Schedule, call: Call) -> None:
        half = call.sample.dtype in checks.HALF_PRECISIONS
        multilevel = ladder.multilevel
        per_sample = multilevel is not None and multilevel.share == "sample"
        self.levels = ModelLevels(ladder.models, torch.float32 if half else call.sample.dtype, per_sample)
        self.schedule, self._ladder, self._first_batch = schedule, ladder, call.batch
        self._pictures = self._count_pictures(call) if per_sample else call.batch
        self.plan: Plan | None = None
        priced = ladder.hierarchy(call)
        if multilevel is not None:
            seed = ladder.seed
            self.plan = multilevel_plan(multilevel, schedule.times, priced, seed=seed, batch=self._pictures)
        self.costs = priced.costs
        self._node, self._time, self._direction = -1, call.time, schedule.direction
        self._stage: list[_Seen] = []
        self._slots: list[_Slot] = []
        self._slot = 0
        self.rows, self._begin, self._seconds = 0, time.perf_counter(), 0.0
        self.over = False

    def _count_pictures(self, call: Call) -> int:
        """How many samples have coins of their own: the halves of a guided batch share theirs."""
        seed = self._ladder.seed
        pictures = call.batch // copies(call.sample) if isinstance(seed, int) else len(seed)
        if call.batch % pictures:
            raise ValueError(
                f"seed holds {pictures} seeds, but the batch has {call.batch} samples; give one seed for each picture."
            )
        return pictures

    @property
    def complete(self) -> bool:
        """Whether all steps that were planned have been begun."""
        return self.schedule.steps is None or self._node + 1 >= self.schedule.steps

    @property
    def nodes(self) -> int:
        """Number of steps begun."""
        return self._node + 1

    def continues(self, call: Call) -> bool:
        """Whether a call belongs to this run: it does not if it goes against the run's direction in time."""
        if self.over:
            return False
        if self._node < 0 or (call.time == self._time and self._is_slot(call)):
            return True
        if self.schedule.steps == 1:
            return False
        ahead = np.sign(call.time - self._time)
        return ahead == 0 or self._direction is None or ahead == self._direction

    def __call__(self, call: Call) -> Any:
        """Output for a call, in the form that the levels return."""
        levels = self.levels
        slot = self._enter(call)
        levels.current = call
        self.rows += call.batch
        try:
            value = slot.estimate(self._node, torch.empty(()), levels.numbered(call)) if slot else self._top(call)
        except BaseException:
            self.end()  # what a memory holds is not known: whoever tries again begins anew
            raise
        levels.current = None
        self._seconds = time.perf_counter() - self._begin
        dtype = levels.dtype or call.sample.dtype
        form = levels.form or default_form(call, getattr(self._ladder.models[-1], "forward", self._ladder.models[-1]))
        return form(value if value.dtype == dtype else value.to(dtype))

    def end(self) -> None:
        """Close the run and let go of what it remembers; its numbers stay."""
        self.over = True
        self._slots.clear()
        self._stage.clear()
        self.levels.current = None

    def _top(self, call: Call) -> Tensor:
        return self.levels(len(self._ladder.models) - 1, torch.empty(()), self.levels.numbered(call))

    def _enter(self, call: Call) -> _Slot | None:
        """Find node, stage and slot of a call; ``None`` without a plan."""
        if self._node < 0 or call.time != self._time:
            self._next_node(call)
        elif self._is_slot(call):
            self._stage.append(_Seen.of(call))
            self._slot += 1
        else:
            self._stage, self._slot = [_Seen.of(call)], 0
        return None if self.plan is None else self._slot_for(call, self.plan)

    def _next_node(self, call: Call) -> None:
        self.schedule.check(self._node + 1, call.time)
        if self._node == 0 and self._direction is None:
            self._direction = float(np.sign(call.time - self._time))
        self._node, self._time = self._node + 1, call.time
        self._stage, self._slot = [_Seen.of(call)], 0

    def _is_slot(self, call: Call) -> bool:
        """Whether a call at the time of the last is a further slot of the same stage, and not another stage."""
        named = call.branch is not None and all(call.branch != seen.branch for seen in self._stage)
        shaped = all(call.sample.shape != seen.sample.shape for seen in self._stage)
        return named or shaped or any(seen.holds(call.sample) for seen in self._stage)

    def _slot_for(self, call: Call, plan: Plan) -> _Slot:
        """The slot at work, its memory as it was before this node."""
        slot = self._slots[self._slot] if self._slot < len(self._slots) else None
        missed = slot is not None and plan.remembers and slot.node < self._node - 1
        if slot is None or missed or slot.shape != call.sample.shape:
            own = late(self._for_batch(plan, call.batch), self._node)
            slot = _Slot(estimator(self.levels, own), call.sample.shape, self._node)
            slot.before = slot.estimate.memory
            self._slots[self._slot : self._slot + 1] = [slot]
        elif slot.node == self._node:
            slot.estimate.memory = slot.before
        else:
            slot.before, slot.node = slot.estimate.memory, self._node
        return slot

    def _for_batch(self, plan: Plan, batch: int) -> Plan:
        """The plan for a batch that holds every picture a number of times."""
        if plan.share == "batch" or batch == len(plan.keys):
            return plan
        if batch % len(plan.keys):
            raise ValueError(
                f"a call has {batch} samples, expected a multiple of the {len(plan.keys)} pictures of its run; "
                "give one seed for each picture, or share='batch'."
            )
        return replace(plan, keys=plan.keys * (batch // len(plan.keys)))

    @property
    def stats(self) -> Stats:
        """What the run has spent up to now; see :class:`mlsde.Stats`, a trajectory being a row of the first batch."""
        rows = self._first_batch
        evaluations = tuple(samples / rows for samples in self.levels.samples)
        costs = self.costs
        return Stats(
            names=self._ladder.names,
            calls=tuple(self.levels.calls),
            evaluations=evaluations,
            seconds=tuple(self.levels.seconds),
            cost=None if costs is None else sum(c * e for c, e in zip(costs, evaluations, strict=True)),
            full_cost=None if costs is None else costs[-1] * self.rows / rows,
            wall_seconds=self._seconds,
        )
