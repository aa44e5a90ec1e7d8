"""How a change of the drift at each step reaches the end of the run, seen through random projections.

One pass backwards over the stored states: at each step the products of the projections with the step's derivative are
taken and its activations forgotten, so the memory is that of one evaluation, however many steps there are. Levels that
hide their derivative (numpy functions, ``torch.no_grad``) are perturbed instead, forwards, a sample at each of a few
times. The mean square of a random projection is that of the vector (M. F. Hutchinson, doi:10.1080/03610919008812866).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mlsde.hierarchy import CountedLevels
from mlsde.integrate import Run
from mlsde.steppers import Equation, Step, Stepper, compatible

_NUDGE = 1e-3
"""Relative size of a finite perturbation: small, but far above the rounding of float32."""


class OpaqueLevelError(Exception):
    """A level hides its derivative."""


@dataclass(frozen=True, eq=False)
class Reach:
    """How one step's drift reaches the end.

    Attributes:
        step: its number.
        growth: mean square growth of an error from its end to the end of the run.
        psi: derivative of each projection with respect to its drift, shape ``(R, samples, ...)``.
    """

    step: int
    growth: float
    psi: Tensor


class OneLevel:
    """Estimate of the drift by one level, of a ladder of differences by the sum up to it, plus a perturbation."""

    def __init__(self, levels: CountedLevels, k: int, differences: bool = False) -> None:
        self.levels, self.used = levels, range(k + 1) if differences else (k,)
        self.delta: Tensor | None = None

    def __call__(self, n: int, t: Tensor, y: Tensor, stage: int = 0) -> Tensor:
        """Value of the level, with :attr:`delta` added."""
        values = []
        for k in self.used:
            value = self.levels(k, t, y)
            if self.delta is not None and y.requires_grad and not value.requires_grad:
                value = value.clone()  # a level may return one buffer again and again
                if _depends(self.levels, k, t, y, value):
                    raise OpaqueLevelError
            values.append(value)
        total = sum(values[1:], values[0])
        return total if self.delta is None else total + self.delta


def _depends(levels: CountedLevels, k: int, t: Tensor, y: Tensor, value: Tensor) -> bool:
    with torch.no_grad():
        return not torch.equal(levels(k, t, y + 0.1 * (1.0 + y.abs())), value)


def projections(y: Tensor, count: int, rng: np.random.Generator) -> Tensor:
    """Orthonormal vectors for each sample, shape ``(count, *y.shape)``."""
    samples, size = len(y), math.prod(y.shape[1:])
    drawn = torch.as_tensor(rng.standard_normal((samples, size, count)))
    rows = torch.linalg.qr(drawn).Q.permute(2, 0, 1)  # (count, samples, size)
    return rows.reshape(count, *y.shape).to(y)


def stepper(run: Run, estimate: OneLevel) -> Stepper:
    """The run's stepper with another estimate of the drift."""
    return compatible(run.method, run.sde, None).make(Equation(run.sde, estimate, run.noise))


def backwards(run: Run, states: list[Tensor], k: int, vectors: Tensor) -> Iterator[Reach]:
    """Yield the steps from the last to the first.

    Args:
        run: of the pilot; its levels are counted, a product as two evaluations besides the one it needs.
        states: the state at the start of each step.
        k: level whose derivative is taken, from 0.
        vectors: projections of the end, shape ``(R, samples, ...)``.

    Raises:
        OpaqueLevelError: if the level hides its derivative.
    """
    level = OneLevel(run.levels, k, run.sde.drift.differences)
    step_of = stepper(run, level)
    steps = list(run.steps(0, len(states)))
    carried = list(vectors)
    for n in reversed(range(len(states))):
        growth = float(torch.stack(carried).double().square().flatten(1).sum(1).mean()) / len(states[n])
        y = states[n].detach().clone().requires_grad_(True)
        level.delta = torch.zeros_like(y).requires_grad_(True)
        with torch.enable_grad():
            end = step_of(n, steps[n], y, run.increment(n))
        psi = []
        for r, vector in enumerate(carried):
            last = r == len(carried) - 1
            carried[r], to_drift = torch.autograd.grad(end, (y, level.delta), vector, retain_graph=not last)
            psi.append(to_drift)
        for used in level.used:
            run.levels.samples[used] += 2 * len(y) * len(carried)
        yield Reach(n, growth, torch.stack(psi))


def by_perturbation(run: Run, states: list[Tensor], k: int, vectors: Tensor, seed: np.random.Generator) -> list[Reach]:
    """The same without derivatives: errors are taken to grow alike in all directions, and not to turn.

    Sample ``i`` is nudged at a time of its own and followed to the end beside the run that was not.
    """
    level = OneLevel(run.levels, k, run.sde.drift.differences)
    step_of = stepper(run, level)
    count, samples = len(states), len(states[0])
    at = [min(count - 1, round((i + 0.5) * count / samples)) for i in range(samples)]
    nudges = projections(states[0], 1, seed)[0] * _NUDGE * float(states[-1].square().mean().sqrt() + 1e-6)
    plain, nudged = states[0], states[0].clone()
    steps, lengths = list(run.steps(0, count)), []
    for n in range(count):
        dw = run.increment(n)
        starts = torch.tensor([a == n for a in at], device=plain.device).view(-1, *[1] * (plain.ndim - 1))
        nudged = torch.where(starts, plain + nudges, nudged)
        lengths.append(_reaction(run, steps[n], n, plain, dw))
        plain, nudged = step_of(n, steps[n], plain, dw), step_of(n, steps[n], nudged, dw)
    grown, before = ((a.double().reshape(samples, -1) ** 2).sum(1) for a in (nudged - plain, nudges))
    grown = grown / before
    order = np.argsort(at, kind="stable")
    logs = np.log(np.maximum(grown.cpu().numpy()[order], 1e-30))
    w = np.exp(np.interp(np.arange(1, count + 1), [*np.array(at)[order].tolist(), count], [*logs.tolist(), 0.0]))
    return [Reach(n, float(w[n]), lengths[n] * math.sqrt(w[n]) * vectors) for n in range(count)]


def _reaction(run: Run, step: Step, n: int, y: Tensor, dw: Tensor | None) -> float:
    """How far a unit of drift moves the state in one step: its length, or what the linear part makes of it."""
    linear = run.sde.linear
    if linear is None:
        return step.h
    factor = linear.source(step.start, step.stop) if run.method == "exponential" else step.h * linear.gain(step.start)
    return float(torch.as_tensor(factor).double().mean())
