"""The measurement of ``V_k(t) = E|f^k - f^(k-1)|^2`` along a run: what :class:`mlsde.Optimal` wants to know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlsde import checks
from mlsde.brownian import Brownian
from mlsde.hierarchy import CountedLevels, DriftHierarchy
from mlsde.integrate import solve
from mlsde.sde import SDE
from mlsde.steppers import Scheme


@dataclass(frozen=True)
class LevelVariances:
    """``V_k(t)`` on a grid of times; called as a function of ``t`` it interpolates geometrically.

    Attributes:
        times: increasing, shape ``(M,)``.
        values: shape ``(M, K)``; squares summed over the components of a sample, averaged over samples.
        cost: what the measurement cost, per trajectory of the pilot, in the units of ``costs``; ``None`` without.
        means: norm of the mean over samples of the difference, ``|E (f^k - f^(k-1))|``, shape ``(M, K)``.
        kurtoses: of the components of the difference about that mean, ``sum_i E d_i^4 / sum_i (E d_i^2)^2``, shape
            ``(M, K)``: 3 if they are normal; 1 where nothing is left of them. Large ones say that a few samples rule
            the variance, which is then known badly.

    Example:
        >>> found = LevelVariances(np.array([0.0, 1.0]), np.array([[1.0, 0.01], [1.0, 0.0001]]), cost=None)
        >>> found(0.5).round(6).tolist()
        [1.0, 0.001]
    """

    times: np.ndarray
    values: np.ndarray
    cost: float | None
    means: np.ndarray | None = None
    kurtoses: np.ndarray | None = None

    def __repr__(self) -> str:
        means = ", ".join(f"{value:.3g}" for value in self.values.mean(axis=0))
        over = f"{len(self.times)} times from {self.times[0]:g} to {self.times[-1]:g}"
        return f"LevelVariances(E|f^k - f^(k-1)|^2 at {over}; means of the levels: {means})"

    def __call__(self, t: float) -> np.ndarray:
        """Return ``V_k(t)``, shape ``(K,)``; constant beyond the grid."""
        when, logs = checks.finite_number("t", t), np.log(np.maximum(self.values, 1e-300))
        return np.exp([np.interp(when, self.times, logs[:, k]) for k in range(logs.shape[1])])


def level_variances(
    sde: SDE,
    y0: Tensor,
    t_span: Sequence[float] | None = None,
    *,
    steps: int | None = None,
    times: Any = None,
    method: Scheme = "euler",
    seed: int = 0,
    brownian: Brownian | None = None,
) -> LevelVariances:
    """Measure ``V_k(t)`` in a pilot run of the top level that evaluates every level at every step.

    Args:
        sde: the equation; the gain of a linear part counts into the differences.
        y0: initial states of the pilot, shape ``(samples, ...)``: a few of those you will run.
        t_span: as of :func:`mlsde.solve`.
        steps: number of equal steps of the pilot: far fewer than the run's, but enough to be stable.
        times: an explicit grid instead.
        method: the stepper.
        seed: seed of the pilot's noise.
        brownian: the pilot's noise, as of :func:`mlsde.solve`.

    Returns:
        :class:`LevelVariances`, to be handed to :class:`mlsde.Optimal`.

    Raises:
        TypeError, ValueError: as :func:`mlsde.solve`, and if a level is not finite along the pilot.

    Example:
        >>> import mlsde
        >>> drift = mlsde.DriftHierarchy([lambda t, y: -y, lambda t, y: -torch.sin(y)], costs=[1.0, 50.0])
        >>> found = level_variances(SDE(drift, 0.5), torch.ones(16, 1), (0, 1), steps=20)
        >>> found.values.shape, mlsde.Optimal(found, budget=100.0).budget
        ((20, 2), 100.0)
    """
    if not isinstance(sde, SDE):
        raise TypeError(f"sde must be an mlsde.SDE, which mlsde.SDE(drift, ...) makes, got {type(sde).__name__}.")
    seen: dict[float, list[tuple[float, float, float]]] = {}
    drift = sde.drift
    levels = CountedLevels(drift.levels, checks.state("y0", y0).dtype)

    def top(t: Tensor, y: Tensor) -> Tensor:
        values = [levels(k, t, y) for k in range(len(drift))]
        for k, value in enumerate(values):
            if not bool(torch.isfinite(value).all()):
                raise ValueError(f"drift level {k + 1} became NaN or infinite in the pilot, at t={float(t):g}.")
        if drift.differences:
            differences, value = values, torch.stack(values).sum(dim=0)
        else:
            differences = [values[0], *(b - a for a, b in pairwise(values))]
            value = values[-1]
        gain = 1.0 if sde.linear is None else sde.linear.gain(float(t))
        seen[float(t)] = [_statistics(gain * d) for d in differences]
        for k, found in enumerate(seen[float(t)]):
            if not np.isfinite(found).all():
                raise ValueError(f"drift level {k + 1} is too large in the pilot for its square, at t={float(t):g}.")
        return value

    pilot = sde.with_drift(DriftHierarchy([top], [1.0]))
    done = solve(pilot, y0, t_span, steps=steps, times=times, method=method, seed=seed, brownian=brownian)
    order = sorted(seen)
    cost = None if drift.costs is None else done.stats.evaluations[0] * sum(drift.costs)
    values, means, kurtoses = np.moveaxis(np.array([seen[t] for t in order]), -1, 0)
    return LevelVariances(np.array(order), values, cost, means, kurtoses)


def _statistics(difference: Tensor) -> tuple[float, float, float]:
    """Mean square, norm of the mean, and kurtosis about it, of a difference of shape ``(samples, ...)``."""
    d = difference.double().reshape(len(difference), -1)
    mean = d.mean(dim=0)
    squares = (d - mean).square()
    squares = squares / squares.max().clamp_min(1e-300)  # the square of a square may leave float64
    variances = squares.mean(dim=0)
    spread = float(variances.square().sum())
    kurtosis = float(squares.square().mean(dim=0).sum()) / spread if spread > 0 else 1.0
    return float(d.square().sum(dim=1).mean()), float(mean.norm()), kurtosis
