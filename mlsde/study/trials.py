"""Trials: a method with its settings is run on many paths, and its error and price are measured."""

from __future__ import annotations

import statistics
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlsde import norms
from mlsde.brownian import Brownian, BrownianPath
from mlsde.integrate import solve
from mlsde.multilevel import Multilevel
from mlsde.problems.ladder import LadderProblem
from mlsde.sde import NoiseTerm
from mlsde.showing import as_call
from mlsde.solution import NonFiniteError, Solution
from mlsde.steppers import scheme
from mlsde.study.methods import Candidate, chosen_level, rule

_MOST_KEPT = 2**27
"""Bytes of increments that are kept, so that candidates with the same steps need not draw them again."""


@dataclass(frozen=True)
class Trial:
    """What was measured of a candidate.

    Attributes:
        errors: root mean square over samples of ``|Y_T - reference|``, one per seed; infinite if the run broke.
        cost: mean cost per trajectory in the units of ``costs``.
        seconds: median wall-clock of one run of all its samples, plan included.
    """

    errors: tuple[float, ...]
    cost: float
    seconds: float

    __repr__ = as_call

    @property
    def error(self) -> float:
        """Median over the seeds."""
        return statistics.median(self.errors)

    def as_dict(self, timed: bool) -> dict[str, Any]:
        """As JSON; wall-clock only if asked for, because it is never the same again."""
        whole: dict[str, Any] = {"errors": list(self.errors), "cost": self.cost}
        return {**whole, "seconds": self.seconds} if timed else whole

    @classmethod
    def from_dict(cls, whole: dict[str, Any]) -> Trial:
        """Read what :meth:`as_dict` wrote."""
        errors = tuple(float(error) for error in whole["errors"])
        return cls(errors, float(whole["cost"]), float(whole.get("seconds", 0.0)))


def higher_order(problem: LadderProblem, y0: Tensor) -> str:
    """A stepper of higher order than Euler-Maruyama, or of smaller error with additive noise, or nothing."""
    if problem.strong_order == 1.0:
        return "heun"
    try:
        solve(problem.sde, y0[:1], problem.t_span, steps=1, method="milstein")
    except NonFiniteError:  # but it takes the noise
        return "milstein"
    except ValueError:
        return ""
    return "milstein"


class _GridNoise:
    """Increments of a path over equal steps, drawn once and looked up."""

    def __init__(self, rows: tuple[Tensor, ...], t_span: tuple[float, float]) -> None:
        self._rows, self._t0, self._h = rows, t_span[0], (t_span[1] - t_span[0]) / len(rows)

    def __call__(self, ta: float, tb: float, /) -> Tensor:
        return self._rows[round((ta - self._t0) / self._h)]


@dataclass
class Batch:
    """Samples on paths of their own, and where each of them really ends.

    Args:
        problem: the problem.
        y0: initial states.
        seeds: one seed per sample, of its coins if they are its own; the first one seeds the paths of all.
        reference_steps: steps of the reference where the problem has none of its own.
    """

    problem: LadderProblem
    y0: Tensor
    seeds: tuple[int, ...]
    reference_steps: int
    path: BrownianPath | None = field(init=False, default=None)
    _kept: OrderedDict[int, _GridNoise] = field(init=False, default_factory=OrderedDict)
    _reference: Tensor | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        sde, (t0, t1) = self.problem.sde, self.problem.t_span
        if not sde.is_ode:
            dtype = self.y0.dtype if self.y0.dtype == torch.float64 else torch.float32
            noise = NoiseTerm(sde, torch.tensor(t0, dtype=dtype, device=self.y0.device), self.y0, dtype)
            # through 3, so that 2^j and 3 * 2^j steps are both cheap
            like = torch.empty(0, dtype=dtype, device=self.y0.device)
            self.path = BrownianPath(t0, t1, shape=noise.shape, like=like, seed=self.seeds[0], grids=(3,))

    @property
    def reference(self) -> Tensor:
        """Where the samples end: the problem's reference, or a fine run of the top level."""
        if self._reference is None:
            self._reference = self._checked(self._found_reference())
        return self._reference

    def _found_reference(self) -> Any:
        problem = self.problem
        if problem.reference is not None:
            return problem.reference(self.y0, self.path)
        steps = self.reference_steps
        # of higher order than what is measured against it, where that is to be had
        method = scheme(higher_order(problem, self.y0) or "euler")
        try:
            return solve(problem.sde, self.y0, problem.t_span, steps=steps, method=method, brownian=self.path).y1
        except NonFiniteError as error:
            error.add_note(f"raised by the reference, a run of the top level with reference_steps={steps}")
            raise

    def _checked(self, reference: Any) -> Tensor:
        if not isinstance(reference, Tensor):
            raise TypeError(f"reference must return a torch.Tensor, got {type(reference).__name__}.")
        if reference.shape != self.y0.shape or not bool(torch.isfinite(reference).all()):
            raise ValueError(
                f"reference must return finite states of shape {tuple(self.y0.shape)}, like y0, got shape "
                f"{tuple(reference.shape)}, or NaN or infinity; see LadderProblem(reference=...)."
            )
        return reference

    def run(self, candidate: Candidate, gamma: float, share: str) -> Solution:
        """Solve with a candidate; seeds of the samples also seed their coins."""
        problem, method = self.problem, candidate.method
        drift = problem.sde.drift
        multilevel: Multilevel | None = None
        level: int | Callable[[float], int] | None = None
        if method.coins is None:
            level = chosen_level(candidate, problem.t_span)
        else:
            drift = drift.select(range(1, candidate.levels + 1))
            multilevel = rule(method, drift, gamma, candidate.steps, candidate.setting, share)
        return solve(
            problem.sde.with_drift(drift),
            self.y0,
            problem.t_span,
            steps=candidate.steps,
            method=scheme(method.stepper),
            multilevel=multilevel,
            level=level,
            seed=self.seeds if share == "sample" else self.seeds[0],
            brownian=self.noise(candidate.steps),
        )

    def end(self, candidate: Candidate, gamma: float, share: str) -> tuple[Tensor, float | None]:
        """States at the end of a run with a candidate, and its cost per trajectory."""
        if candidate.method.run is not None:
            return self._own_end(candidate), candidate.cost
        solution = self.run(candidate, gamma, share)
        return solution.y1, solution.stats.cost

    def _own_end(self, candidate: Candidate) -> Tensor:
        """Where a method of somebody's own ends."""
        method, problem = candidate.method, self.problem
        assert method.run is not None
        sde = problem.sde.with_drift(problem.sde.drift.select(range(1, candidate.levels + 1)))
        with torch.no_grad():
            end = method.run(sde, self.y0, problem.t_span, candidate.steps, candidate.setting, self.path, self.seeds[0])
        if not isinstance(end, Tensor) or end.shape != self.y0.shape:
            came = f"shape {tuple(end.shape)}" if isinstance(end, Tensor) else type(end).__name__
            raise TypeError(f"run of {method.name!r} must return a tensor of shape {tuple(self.y0.shape)}, got {came}.")
        return end

    def prepare(self, steps: int) -> None:
        """Have the reference and the noise ready, so that neither is timed."""
        _ = self.reference
        self.noise(steps)

    def errors(self, y1: Tensor) -> Tensor:
        """Squared distance of each sample from its reference, summed over components, shape ``(samples,)``."""
        return norms.squares(y1 - self.reference)

    def of_laws(self, y1: Tensor) -> float:
        """Distance of the samples' law from that of their references, :func:`mlsde.norms.of_laws`."""
        return norms.of_laws(y1, self.reference)

    def noise(self, steps: int) -> Brownian | None:
        """The samples' path on a grid of equal steps, drawn once if it is not too large; ``None`` for an ODE."""
        if self.path is None:
            return None
        size = int(np.prod(self.path.shape)) * (8 if self.path.dtype == torch.float64 else 4)
        if steps * size > _MOST_KEPT:
            return self.path
        if steps not in self._kept:
            times = np.linspace(*self.problem.t_span, steps + 1)
            rows = tuple(self.path(a, b) for a, b in pairwise(times))
            self._kept[steps] = _GridNoise(rows, self.problem.t_span)
            while sum(self._kept) * size > _MOST_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(steps)
        return self._kept[steps]


class Trials:
    """Runs candidates of one problem on the same paths.

    Args:
        problem: the problem.
        gamma: exponent that shapes the probabilities.
        seeds: number of groups of samples, each with initial states, paths and coins of its own.
        samples: samples per seed.
        seed: the first seed.
        share: ``"sample"``: every sample has its own coins, all seeds run as one batch. ``"batch"``: the samples of a
            seed share their coins, and each seed is a run of its own, which is then timed.
        reference_steps: steps of the reference where the problem has none.
    """

    def __init__(
        self,
        problem: LadderProblem,
        gamma: float,
        seeds: int,
        samples: int,
        seed: int,
        share: str,
        reference_steps: int,
    ) -> None:
        self.gamma, self.seeds, self.samples, self.share = gamma, seeds, samples, share
        numbers = [(seed << 16) + i for i in range(seeds)]  # the groups of two seeds have nothing in common
        names = [tuple((number << 20) + j for j in range(samples)) for number in numbers]
        starts = [problem.initial(samples, number) for number in numbers]
        if share == "sample":
            whole = tuple(name for group in names for name in group)
            self.batches = [Batch(problem, torch.cat(starts), whole, reference_steps)]
        else:
            self.batches = [Batch(problem, y0, group, reference_steps) for y0, group in zip(starts, names, strict=True)]

    def measure(self, candidate: Candidate) -> Trial:
        """Run a candidate on every seed."""
        errors: list[float] = []
        costs, seconds = [], []
        for batch in self.batches:
            batch.prepare(candidate.steps)
            begin = time.perf_counter()  # the coins' plan is a part of the price, which a solution does not count
            try:
                end, cost = batch.end(candidate, self.gamma, self.share)
            except NonFiniteError:  # too long a step for this level: an error without bound, and a price all the same
                errors += [float("inf")] * (self.seeds // len(self.batches))
                costs.append(candidate.cost)
                seconds.append(time.perf_counter() - begin)
                continue
            seconds.append(time.perf_counter() - begin)
            squares = batch.errors(end).view(-1, self.samples).mean(dim=1)
            errors += squares.nan_to_num(nan=float("inf"), posinf=float("inf")).sqrt().tolist()
            costs.append(candidate.cost if cost is None else cost)
        return Trial(tuple(errors), statistics.mean(costs), statistics.median(seconds))
