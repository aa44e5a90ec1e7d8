"""The loop: problem, plan and noise go in, a solution with its price comes out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from itertools import repeat
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mlsde import checks
from mlsde.brownian import Brownian
from mlsde.estimator import PlannedEstimator, estimator, remembered
from mlsde.grids import Grid
from mlsde.hierarchy import CountedLevels
from mlsde.increments import IndependentIncrements, PathIncrements
from mlsde.multilevel import Multilevel, Share
from mlsde.plan import BLOCK, fixed_plan, multilevel_plan
from mlsde.progress import bar
from mlsde.saving import Saver
from mlsde.sde import SDE, NoiseTerm
from mlsde.solution import NonFiniteError, Solution, Stats
from mlsde.steppers import Equation, Scheme, Step, Stepper, compatible
from mlsde.transfer import sent

if TYPE_CHECKING:
    from tqdm import tqdm

    from mlsde.calibration import Calibration, Recommendation

Callback = Callable[[int, float, Tensor], Any]


def solve(
    sde: SDE,
    y0: Tensor,
    t_span: Sequence[float] | None = None,
    *,
    steps: int | None = None,
    times: Sequence[float] | np.ndarray | Tensor | None = None,
    method: Scheme = "euler",
    multilevel: Multilevel | Literal["auto"] | None = None,
    level: int | Callable[[float], int] | None = None,
    budget: float | None = None,
    tol: float | None = None,
    calibration: Calibration | None = None,
    seed: int | Sequence[int] = 0,
    brownian: Brownian | None = None,
    save_at: Sequence[float] | np.ndarray | Tensor | str | None = None,
    callback: Callback | None = None,
    progress: bool = False,
    gradients: bool = False,
) -> Solution:
    """Integrate an equation whose drift can be had at several prices.

    Args:
        sde: the equation.
        y0: initial state, shape ``(samples, ...)``, a floating dtype, any device. Half precisions are summed in
            float32; the levels see the half.
        t_span: ``(t0, t1)``; ``t1 < t0`` runs backwards. May be left out with ``times``.
        steps: number of equal steps.
        times: an explicit grid instead, strictly monotone.
        method: ``"euler"``, ``"milstein"``, ``"heun"`` or ``"exponential"``.
        multilevel: how the ladder is used; ``None`` calls the top level (or ``level``) at every step. ``"auto"``
            leaves that to a pilot of at most a tenth of the run's price (:func:`mlsde.calibrate`): with ``budget`` the
            least error, with ``tol`` the least cost, with neither what is as accurate as the top level on this grid,
            for less.
        level: one level, 1 … K, or a function of ``t`` that chooses it (stitching).
        budget: price per trajectory, the pilot included, with ``multilevel="auto"``; steps are then chosen too,
            unless they are given.
        tol: root mean square error per component at the end, against the exact solution of the top level; implies
            ``"auto"``.
        calibration: made by :func:`mlsde.calibrate`, in place of a pilot.
        seed: seed of noise and coins; one integer, or one per sample so that a batch can be split.
        brownian: a :class:`BrownianPath`, any ``bm(ta, tb)``, or :class:`NoiseSampler`; by default independent
            increments of this grid, which are the fastest but not the same path on another grid.
        save_at: times to save, interpolated linearly between steps; ``"steps"`` for all of the grid; by default the
            last time alone.
        callback: called as ``callback(n, t, y)`` after each step with the number of steps done, the time and the
            state (not to be written into); if it returns ``True`` the run ends there, so do not return what something
            else answered, such as a progress bar's ``update``.
        progress: show a bar in units of cost.
        gradients: keep the graph, to differentiate through the solve.

    Returns:
        A :class:`Solution`.

    Raises:
        TypeError, ValueError: for bad input, naming the argument.
        NonFiniteError: if a state or level became NaN or infinite, naming step, time and level; what had been saved
            is in its ``solution``.

    Example:
        >>> from mlsde import DriftHierarchy, PowerLaw
        >>> drift = DriftHierarchy([lambda t, y: -y, lambda t, y: -torch.sin(y)], costs=[1.0, 50.0])
        >>> multilevel = Multilevel(PowerLaw(gamma=2.5))
        >>> solve(SDE(drift, diffusion=0.5), torch.zeros(8, 1), (0, 1), steps=100, multilevel=multilevel).success
        True
    """
    pilot: _Pilot | None = None
    if wants_pilot(multilevel, level, budget=budget, tol=tol, calibration=calibration):
        pilot = _piloted(
            sde, y0, t_span, steps=steps, times=times, method=method, budget=budget, tol=tol, calibration=calibration,
            seed=seed,
        )  # fmt: skip
        chosen = pilot.recommendation
        sde, multilevel, level, t_span, steps, times = (
            chosen.sde, chosen.multilevel, chosen.level, None, None, chosen.times,
        )  # fmt: skip
    run = Run(sde, y0, checks.run_grid(t_span, steps, times), method, multilevel, level, seed, brownian, pilot)
    saver = Saver(save_at, run.times, y0)
    if callback is not None:
        checks.callable_as("callback", "callback(n, t, y)", callback)
    bar, kept = checks.truth("progress", progress), checks.truth("gradients", gradients)
    with nullcontext() if kept else torch.no_grad(), run.bar() if bar else nullcontext() as shown:
        return run.to_end(saver, callback, shown)


class _Pilot(NamedTuple):
    """What a pilot recommends, and its price per trajectory."""

    recommendation: Recommendation
    cost: float


def wants_pilot(multilevel: Any, level: Any, **asked: Any) -> bool:
    """Whether a pilot is to choose how the ladder is used.

    Args:
        multilevel: as of :func:`solve`.
        level: likewise.
        **asked: ``budget``, ``tol`` and ``calibration``, likewise.

    Raises:
        ValueError: if what was asked for contradicts the others.
    """
    auto = isinstance(multilevel, str) and multilevel == "auto"
    given = [name for name, value in asked.items() if value is not None]
    if given and not (auto or multilevel is None):
        raise ValueError(f'{given[0]}= goes with multilevel="auto", got {multilevel!r}.')
    if (given or auto) and level is not None:
        raise ValueError(f'level={level!r} was given with multilevel="auto", which chooses it; give one of the two.')
    return auto or bool(given)


def _piloted(sde: SDE, y0: Tensor, t_span: Any, *, seed: Any, **options: Any) -> _Pilot:
    """Have a pilot choose."""
    from mlsde.calibration import auto  # noqa: PLC0415, a higher room, which only this call asks for

    if not isinstance(sde, SDE):
        raise TypeError(f"sde must be an mlsde.SDE, which mlsde.SDE(drift, ...) makes, got {type(sde).__name__}.")
    number = checks.seed_or_seeds(seed, checks.state("y0", y0).shape[0])
    first = number if isinstance(number, int) else number[0]
    share: Share = "batch" if isinstance(number, int) else "sample"
    return _Pilot(*auto.chosen(sde, y0, t_span, seed=first, share=share, **options))


_SNAPSHOT = 2**20
"""Numbers in a state of which a copy is kept at the start of each block; a fault in a larger one is found by replaying
from the beginning."""


class _Replayed(NamedTuple):
    """Where a replay begins: a step, the state before it (``None`` is the initial one), and what was remembered."""

    step: int
    y: Tensor | None
    memory: Any


class Run:
    """One run: everything that is settled before the first step, and the loop."""

    def __init__(
        self,
        sde: SDE,
        y0: Tensor,
        times: Grid,
        method: str,
        multilevel: Multilevel | str | None,
        level: int | Callable[[float], int] | None,
        seed: int | Sequence[int],
        brownian: Brownian | None,
        pilot: _Pilot | None = None,
    ) -> None:
        if not isinstance(sde, SDE):
            raise TypeError(f"sde must be an mlsde.SDE, which mlsde.SDE(drift, ...) makes, got {type(sde).__name__}.")
        if multilevel is not None and not isinstance(multilevel, Multilevel):
            raise TypeError(f'multilevel must be an mlsde.Multilevel, "auto" or None, got {multilevel!r}.')
        if multilevel is not None and level is not None:
            raise ValueError(f"level={level!r} was given with multilevel=; give one of the two.")
        if brownian is not None:
            checks.callable_as("brownian", "brownian(ta, tb)", brownian)
        self.sde, self.method, self.times, self._pilot = sde, method, times, pilot
        self.y0 = checks.state("y0", y0)
        self.seed = checks.seed_or_seeds(seed, y0.shape[0])
        chosen = compatible(method, sde, multilevel)
        if multilevel is None:
            self.plan = fixed_plan(level, times, sde.drift, stages=chosen.stages)
        else:
            self.plan = multilevel_plan(
                multilevel, times, sde.drift, stages=chosen.stages, seed=self.seed, batch=y0.shape[0]
            )
        self.levels = CountedLevels(sde.drift.levels, y0.dtype)
        self.dtype = torch.float32 if y0.dtype in checks.HALF_PRECISIONS else y0.dtype
        checks.within("times", max(abs(float(times[0])), abs(float(times[-1]))), self.dtype)
        t0 = torch.tensor(times[0], dtype=self.dtype, device=y0.device)
        self.noise = None if sde.is_ode else NoiseTerm(sde, t0, y0, self.dtype)
        if sde.linear is not None:
            sde.linear.check(float(times[0]), float(times[1]), y0.to(self.dtype))
        source = self._noise_source(brownian)
        self.increment: Callable[[int], Tensor | None] = _none if source is None else source.increment
        """Increment of the noise over step ``n``; ``None`` for an ODE."""
        self._increments: Callable[[int, int], Iterator[Tensor | None]]
        self._increments = (lambda start, stop: repeat(None)) if source is None else source.between
        self._estimator, self._stepper = self._machinery(self.levels)

    def _noise_source(self, brownian: Brownian | None) -> IndependentIncrements | PathIncrements | None:
        if self.noise is None:
            return None
        if brownian is None:
            return IndependentIncrements(self.times, self.noise.shape, self.dtype, self.y0.device, self.seed)
        like = torch.empty(0, dtype=self.dtype, device=self.y0.device)
        return PathIncrements(brownian, self.times, self.noise.shape, like)

    def _machinery(self, levels: CountedLevels) -> tuple[PlannedEstimator, Stepper]:
        estimate = estimator(levels, self.plan)
        method = compatible(self.method, self.sde, None)
        return estimate, method.make(Equation(self.sde, estimate, self.noise))

    def steps(self, start: int, stop: int) -> Iterator[Step]:
        """Times and lengths of the steps ``start … stop - 1``."""
        grid = self.times[start : stop + 1]
        ts = sent(grid, self.y0.device, self.dtype).unbind(0)
        floats, lengths = grid.tolist(), np.diff(grid).tolist()
        return map(Step._make, zip(ts[:-1], ts[1:], floats[:-1], floats[1:], lengths, strict=True))

    def to_end(self, saver: Saver, callback: Callback | None, shown: tqdm[Any] | None) -> Solution:
        """Step through the grid in blocks, looking at the end of each whether the state is still finite."""
        begin = time.perf_counter()
        y = self.y0 if self.y0.dtype == self.dtype else self.y0.to(self.dtype)
        saver.start(y)
        n, stopped = 0, False
        replayed = _Replayed(0, None, self._estimator.memory)
        stepper = self._stepper
        while n < self.plan.steps and not stopped:
            if y.numel() <= _SNAPSHOT:
                replayed = _Replayed(n, y, self._estimator.memory)
            stop = min(n + BLOCK, self.plan.steps)
            for step, dw in zip(self.steps(n, stop), self._increments(n, stop), strict=False):
                y_next = stepper(n, step, y, dw)
                n += 1
                if n == saver.due:
                    saver.save(y, y_next)
                y = y_next
                if shown is not None:
                    shown.update(self._share_of_bar())
                if callback is not None and _says_stop(callback(n, step.stop, self._shown(y))):
                    stopped = True
                    break
            if not self._finite(y):
                self._stop_at_fault(replayed, n, saver, begin)
        message = f"reached t={self.times[-1]:g} in {n} steps."
        if stopped and n < self.plan.steps:
            saver.stopped(float(self.times[n]), y)
            message = f"stopped by the callback after {n} of {self.plan.steps} steps, at t={self.times[n]:g}."
        return self._solution(saver, begin, n == self.plan.steps, message)

    def _shown(self, y: Tensor) -> Tensor:
        return y if y.dtype == self.y0.dtype else y.to(self.y0.dtype)

    def _finite(self, y: Tensor) -> bool:
        memory = (value for _, value in remembered(self._estimator.memory))
        return all(_finite(value) for value in (self._shown(y), *memory))

    def bar(self) -> tqdm[Any]:
        """A progress bar in units of cost, or of steps where there are no costs."""
        total = self.plan.steps if self.plan.cost is None else self.plan.cost
        self._shown_cost = 0.0
        return bar(total=total, unit="steps" if self.plan.cost is None else "cost", unit_scale=True)

    def _share_of_bar(self) -> float:
        """What the bar advances by: the price of the evaluations since it last did."""
        if self.plan.costs is None:
            return 1.0
        batch = self.y0.shape[0]
        now = sum(c * s / batch for c, s in zip(self.plan.costs, self.levels.samples, strict=True))
        share, self._shown_cost = now - self._shown_cost, now
        return share

    def _stop_at_fault(self, known: _Replayed, stop: int, saver: Saver, begin: float) -> None:
        """Replay steps with every value looked at; raise an error that names what went wrong first."""
        start = known.step
        y = self.y0.to(self.dtype) if known.y is None else known.y
        step, culprit = self._replay(start, stop, y, known.memory)
        if step is None:
            when, where = None, f"between steps {start} and {stop - 1}, which a replay did not reproduce"
        else:
            when = float(self.times[step])
            where = f"at step {step}, t={when:g}"
        saver.keep_until(start if step is None else step)
        message = f"{culprit} became NaN or infinite {where}; take smaller steps, or look at it there."
        if self._pilot is not None:
            unseen = math.isnan(self._pilot.recommendation.predicted_error)
            how = "was chosen unseen, because it is too small for a pilot" if unseen else "was chosen by a pilot"
            message += (
                f" This run ({self._pilot.recommendation.describe()}) {how}: give more, or calibrate with more "
                "pilot_samples= and pilot_steps=, and hand that over with calibration=."
            )
        saved = self._solution(saver, begin, False, f"stopped: {message}")
        message += " What had been saved is in this error's .solution."
        raise NonFiniteError(message, step, when, culprit, saved)

    def _replay(self, start: int, stop: int, y: Tensor, memory: Any) -> tuple[int | None, str]:
        watched = _WatchedLevels(self.sde.drift.levels, self.y0.dtype)
        estimate, stepper = self._machinery(watched)
        estimate.memory = memory
        for n, step in enumerate(self.steps(start, stop), start):
            dw = self.increment(n)
            if dw is not None and not bool(torch.isfinite(dw).all()):
                return n, "brownian"
            y_next = stepper(n, step, y, dw)
            if watched.fault is not None:
                return n, f"drift level {watched.fault + 1}"
            if not bool(torch.isfinite(self._shown(y_next)).all()):
                return n, self._whose_fault(step, y)
            y = y_next
        return None, "state"

    def _whose_fault(self, step: Step, y: Tensor) -> str:
        if self.noise is not None:
            g = torch.as_tensor(self.noise.value(step.t, y))
            if not bool(torch.isfinite(g).all()):
                return "diffusion"
        return "state"

    def _solution(self, saver: Saver, begin: float, success: bool, message: str) -> Solution:
        batch = self.y0.shape[0]
        evaluations = tuple(samples / batch for samples in self.levels.samples)
        costs = self.plan.costs
        stats = Stats(
            names=self.sde.drift.names,
            calls=tuple(self.levels.calls),
            evaluations=evaluations,
            seconds=tuple(self.levels.seconds),
            cost=None if costs is None else sum(c * e for c, e in zip(costs, evaluations, strict=True)),
            full_cost=self.plan.full_cost,
            wall_seconds=time.perf_counter() - begin,
            pilot_cost=None if self._pilot is None else self._pilot.cost,
        )
        ts, ys = saver.result()
        chosen = None if self._pilot is None else self._pilot.recommendation
        error = None if chosen is None or not success else chosen.predicted_error
        return Solution(ts, ys, stats, self.seed, self.plan, self.method, success, message, error, chosen)


def _none(n: int) -> None:
    """Increment of an ODE's noise."""


def _finite(value: Tensor) -> bool:
    """Whether every element is finite. A finite sum is quick to find and proves it; a sum can also overflow."""
    value = value.detach()
    return bool(torch.isfinite(value.sum())) or bool(torch.isfinite(value).all())


def _says_stop(answer: object) -> bool:
    """Whether a callback asked to stop, with a true boolean; what else counts as true is no answer."""
    if isinstance(answer, (np.bool_, np.ndarray, Tensor)) and answer.dtype in (np.bool_, torch.bool):
        return math.prod(answer.shape) == 1 and bool(answer)
    return answer is True


class _WatchedLevels(CountedLevels):
    """Levels that note which of them was the first to return a value that is not finite."""

    fault: int | None = None

    def __call__(self, k: int, t: Tensor, y: Tensor) -> Tensor:
        out = super().__call__(k, t, y)
        sound = bool(torch.isfinite(y.to(self._dtype)).all())
        if self.fault is None and sound and not bool(torch.isfinite(out).all()):
            self.fault = k
        return out
