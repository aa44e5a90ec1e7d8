"""Runs that carry their derivative by the probabilities with them: forward gradients, without stored activations.

Each sample carries the derivative of its state along a direction ``u`` of its own in the space of the parameters; the
mean of ``u (u . grad)`` is the gradient. The weights of a run are coins over their probability, or noise of the same
variance, and both are a function of the probabilities that has a derivative; the coins also have a score.
Source: arXiv 2603.24594; formulas in docs/learning.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from mlsde import checks, norms, randomness
from mlsde.estimator import estimator
from mlsde.hierarchy import CountedLevels
from mlsde.increments import IndependentIncrements
from mlsde.knots import Knots
from mlsde.plan import BLOCK, fixed_plan
from mlsde.sde import SDE, NoiseTerm
from mlsde.steppers import Equation, Step, Stepper, _load_forward_mode, compatible

GRADIENTS = ("surrogate", "score")


@dataclass(frozen=True, eq=False)
class Draw:
    """What chance decides of a batch of runs.

    Attributes:
        y0: initial states, shape ``(S, ...)``.
        increment: ``increment(n)``, of the noise.
        uniforms: ``uniforms(start, stop)``, those of the coins, shape ``(stop - start, K, S)``; asked for in order.
        directions: in the space of the logits, of mean square 1 and uncorrelated, shape ``(J, K, S)``.
    """

    y0: Tensor
    increment: Callable[[int], Tensor | None]
    uniforms: Callable[[int, int], np.ndarray]
    directions: np.ndarray


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of a batch of runs, for each of its samples.

    Attributes:
        losses: ``|Y_T - X_T|^2``, shape ``(S,)``.
        slopes: its derivative along the sample's direction, coins held fast, shape ``(S,)``.
        scores: derivative of the logarithm of the probability of its coins by the logits, shape ``(J, K, S)``; 0 for
            the surrogate.
    """

    losses: np.ndarray
    slopes: np.ndarray
    scores: np.ndarray

    def gradient(self, directions: np.ndarray) -> np.ndarray:
        """Estimate of the derivative of the mean loss by the logits, shape ``(J, K)``.

        A score has mean 0, so that anything which does not depend on the sample's own coins may be taken from its loss:
        the mean of the others, which takes out part of its variance.
        """
        count = len(self.losses)
        centred = (self.losses - self.losses.mean()) * count / (count - 1)
        return (self.slopes * directions + centred * self.scores).mean(axis=-1)


def weights(gradient: str, p: np.ndarray, uniforms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights of mean 1 and variance ``1/p - 1``, and their derivative by ``log p``.

    Args:
        gradient: ``"score"``: coins, ``B / p``. ``"surrogate"``: ``1 + sqrt(1/p - 1) xi`` with signs ``xi``.
        p: probabilities, broadcasting to
        uniforms: one for each weight.
    """
    if gradient == "score":
        fired = (uniforms < p) / p
        return fired, -fired
    signs = np.where(uniforms < 0.5, -1.0, 1.0)
    spread = np.sqrt(np.maximum(1.0 / p - 1.0, 0.0))
    slope = np.divide(-0.5 / p, spread, out=np.zeros_like(p), where=spread > 0)
    return 1.0 + spread * signs, slope * signs


def _score(fires: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Derivative of the logarithm of the probability of coins by ``log p``: ``(B - p) / (1 - p)``; 0 of sure ones."""
    return np.divide(fires - p, 1.0 - p, out=np.zeros(fires.shape), where=p < 1.0)


class _Weighed:
    """The estimate ``sum_k (w_k - w_{k+1}) f^k``, with weights of each sample's own that carry their derivative."""

    def __init__(self, levels: CountedLevels, differences: bool, like: Tensor) -> None:
        self._levels, self._differences, self._like = levels, differences, like
        self._start, self.dual = 0, False

    def load(self, start: int, values: np.ndarray, tangents: np.ndarray | None) -> None:
        """Take the weights of the steps from ``start`` on, shape ``(steps, K, S)``."""
        slopes = np.zeros_like(values) if tangents is None else tangents
        factors = [self._summed_by_parts(array) for array in (values, slopes)]
        self._start, self._needed = start, (factors[0] != 0) | (factors[1] != 0)
        self._values, self._slopes = (
            torch.as_tensor(array, dtype=self._like.dtype, device=self._like.device).view(
                *array.shape, *[1] * (self._like.ndim - 1)
            )
            for array in factors
        )
        self.dual = tangents is not None

    def _summed_by_parts(self, values: np.ndarray) -> np.ndarray:
        if self._differences:
            return values
        return values - np.concatenate([values[:, 1:], np.zeros_like(values[:, :1])], axis=1)

    def __call__(self, n: int, t: Tensor, y: Tensor, stage: int = 0) -> Tensor:
        row, parts = n - self._start, []
        for k, needed in enumerate(self._needed[row]):
            if needed.all():
                parts.append(self._factor(row, k) * self._levels(k, t, y))
            elif needed.any():  # the others are spared, as in a run
                index = torch.as_tensor(np.flatnonzero(needed), device=y.device)
                value = self._factor(row, k).index_select(0, index) * self._levels(k, t, y.index_select(0, index))
                parts.append(value.new_zeros(y.shape).index_copy(0, index, value))
        # no sum begins at 0: torch is slow at adding what has no derivative to what has one
        return sum(parts[1:], parts[0]) if parts else torch.zeros_like(y)

    def _factor(self, row: int, k: int) -> Tensor:
        value = self._values[row, k]
        return _dual(value, self._slopes[row, k]) if self.dual else value


class Runs:
    """Batches of runs with weights, and of the top level at every step on the same paths.

    Args:
        sde, y0, method: as of :func:`learn`.
        grid: the times.
        samples: per batch.
        seed: of everything random.
    """

    def __init__(self, sde: SDE, y0: Tensor, grid: np.ndarray, method: str, samples: int, seed: int) -> None:
        self._sde, self._states, self._grid, self._samples, self._seed = sde, y0, grid, samples, seed
        self._dtype = torch.float32 if y0.dtype in checks.HALF_PRECISIONS else y0.dtype
        checks.within("times", float(np.abs(grid).max()), self._dtype)
        first = y0[torch.arange(samples, device=y0.device) % len(y0)]
        t0 = torch.tensor(grid[0], dtype=self._dtype, device=y0.device)
        self._noise = None if sde.is_ode else NoiseTerm(sde, t0, first, self._dtype)
        if sde.linear is not None:
            sde.linear.check(float(grid[0]), float(grid[1]), first.to(self._dtype))
        levels = CountedLevels(sde.drift.levels, y0.dtype)
        _refuse_without_derivative(levels, t0, first.to(self._dtype), len(sde.drift))
        make = compatible(method, sde, None).make
        self._weighed = _Weighed(levels, sde.drift.differences, first.to(self._dtype))
        top = estimator(levels, fixed_plan(None, grid, sde.drift))
        self._steppers: tuple[Stepper, Stepper] = (
            make(Equation(sde, self._weighed, self._noise)),
            make(Equation(sde, top, self._noise)),
        )

    def draw(self, number: int, knots: int) -> Draw:
        """Draw batch ``number``; the same whenever it is asked for."""
        chance = randomness.host_generator(self._seed, randomness.LEARNING, number)
        rows = np.resize(chance.permutation(len(self._states)), self._samples)
        y0 = self._states[torch.as_tensor(rows, device=self._states.device)].to(self._dtype)
        increment: Callable[[int], Tensor | None] = lambda n: None  # noqa: E731
        noise_seed = int(chance.integers(2**62))
        if self._noise is not None:
            shape, device = self._noise.shape, y0.device
            increment = IndependentIncrements(self._grid, shape, self._dtype, device, noise_seed).increment
        levels = len(self._sde.drift)
        directions = np.where(chance.random((knots, levels, self._samples)) < 0.5, -1.0, 1.0)
        return Draw(y0, increment, lambda a, b: chance.random((b - a, levels, self._samples)), directions)

    def outcome(self, gradient: str, table: Knots, logits: np.ndarray, draw: Draw, slopes: bool = True) -> Outcome:
        """Run a batch, with derivatives or without."""
        p, y, x = table.table(logits), draw.y0, draw.y0
        scores = np.zeros_like(draw.directions)
        with forward_ad.dual_level() if slopes else nullcontext():
            for start in range(0, len(p), BLOCK):
                stop = min(start + BLOCK, len(p))
                chances, uniforms = p[start:stop, :, None], draw.uniforms(start, stop)
                values, derivatives = weights(gradient, chances, uniforms)
                if slopes:
                    derivatives = derivatives * table.pushed(draw.directions, logits, start, stop)
                if slopes and gradient == "score":
                    scores += table.pulled(_score(uniforms < chances, chances), logits, start)
                self._weighed.load(start, values, derivatives if slopes else None)
                y, x = self._stepped(start, stop, y, x, draw)
            losses = norms.squares(y - x)
            along = _tangent(losses) if slopes else None
            along = torch.zeros_like(losses) if along is None else along
            return Outcome(losses.cpu().numpy(), along.cpu().numpy(), scores)

    def _stepped(self, start: int, stop: int, y: Tensor, x: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        grid = self._grid[start : stop + 1]
        ts = torch.as_tensor(grid, dtype=self._dtype, device=y.device).unbind(0)
        for i, n in enumerate(range(start, stop)):
            step = Step(ts[i], ts[i + 1], float(grid[i]), float(grid[i + 1]), float(grid[i + 1] - grid[i]))
            dw = draw.increment(n)
            still = _dual(dw, torch.zeros_like(dw)) if self._weighed.dual and dw is not None else dw
            y, x = self._steppers[0](n, step, y, still), self._steppers[1](n, step, x, dw)
        return y, x


def _dual(value: Tensor, tangent: Tensor) -> Tensor:
    return forward_ad.make_dual(value, tangent)  # type: ignore[no-untyped-call]


def _tangent(value: Tensor) -> Tensor | None:
    return forward_ad.unpack_dual(value).tangent  # type: ignore[no-untyped-call]


def _refuse_without_derivative(levels: CountedLevels, t: Tensor, y: Tensor, count: int) -> None:
    """Refuse levels that forward differentiation stops at, with an error or by leaving the tangent behind."""
    _load_forward_mode()
    along = 0.01 * (1.0 + y.abs())
    for k in range(count):
        here, there = levels(k, t, y), levels(k, t, y + along)
        reason = "it moves with the state, but its derivative is lost on the way"
        try:
            with forward_ad.dual_level():
                tangent = _tangent(levels(k, t, _dual(y, along)))
        except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
            tangent, here = None, here + math.nan
            reason = str(error).strip().splitlines()[0].rstrip(".")
        if tangent is None and not torch.equal(here, there):
            raise ValueError(
                f"sde has a drift level {k + 1} that torch cannot differentiate forwards ({reason}); write it in torch "
                "without numpy and detach(), or use mlsde.Optimal, which needs no derivative."
            )
