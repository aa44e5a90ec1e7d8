"""Linear ladders, whose first two moments under Euler-Maruyama and ML-EM are known without Monte Carlo.

The levels are ``f^k(y) = A_k y + b_k`` and the noise is additive and constant, ``dY = f(Y) dt + G dW``. One step is
``Y + h sum_k w_k (a_k Y + beta_k) + G dW`` with ``a_k = A_k - A_{k-1}``, ``beta_k = b_k - b_{k-1}`` and weights ``w_k``
that do not depend on the past, of mean 1 and covariance ``C``. In ``z = (Y, 1)``, with
``D_k = [[a_k, beta_k], [0, 0]]``, its second moment ``M = E z z^T`` follows

    M' = (I + h F) M (I + h F)^T + h^2 sum_{j,k} C_jk D_j M D_k^T + |h| [[G G^T, 0], [0, 0]],      F = sum_k D_k,

and the last column of ``M`` is the mean. Derivation in docs/theory.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mlsde import checks, theory
from mlsde.hierarchy import DriftHierarchy
from mlsde.sde import SDE


@dataclass(frozen=True, eq=False)
class LinearProblem:
    """Ladder of linear drifts ``f^k(y) = A_k y + b_k`` with additive noise: ``dY = f(Y) dt + G dW``.

    Args:
        matrices: ``A_k``, shape ``(K, d, d)``, float64.
        offsets: ``b_k``, shape ``(K, d)``, float64.
        noise: ``G``, shape ``(d, m)``, float64, or ``None`` for an ODE.

    Raises:
        TypeError, ValueError: naming the argument.
    """

    matrices: Tensor
    offsets: Tensor
    noise: Tensor | None = None

    def __post_init__(self) -> None:
        shape = tuple(self.matrices.shape) if isinstance(self.matrices, Tensor) else ()
        if len(shape) != 3 or shape[1] != shape[2] or 0 in shape:
            raise ValueError(f"matrices must be a tensor of shape (K, d, d), got {shape or self.matrices!r}.")
        _check("matrices", self.matrices, shape)
        _check("offsets", self.offsets, shape[:2])
        if self.noise is not None:
            width = self.noise.shape[-1] if isinstance(self.noise, Tensor) and self.noise.ndim else 1
            _check("noise", self.noise, (shape[1], width))

    def drift(self, costs: Sequence[float] | None = None) -> DriftHierarchy:
        """The ladder, of states of shape ``(samples, d)`` in float64."""
        return DriftHierarchy([_Affine(a, b) for a, b in zip(self.matrices, self.offsets, strict=True)], costs)

    def sde(self, costs: Sequence[float] | None = None) -> SDE:
        """The equation; its noise is ``general``, so that ``dW`` has shape ``(samples, m)``."""
        return SDE(self.drift(costs), self.noise, noise=None if self.noise is None else "general")


@dataclass(frozen=True, eq=False)
class Moments:
    """Moments along a run of ``N`` steps.

    Attributes:
        mean: ``E Y_n``, shape ``(N + 1, d)``.
        second: ``E Y_n Y_n^T``, shape ``(N + 1, d, d)``.
        squared_error: ``E|Y_n - X_n|^2`` to Euler-Maruyama with the top level on the same path, shape ``(N + 1,)``.
    """

    mean: Tensor
    second: Tensor
    squared_error: Tensor


def ornstein_uhlenbeck(rates: Sequence[float], sigma: float, means: Sequence[float] | None = None) -> LinearProblem:
    """Ladder of Ornstein-Uhlenbeck drifts in one dimension, ``f^k(y) = rates[k] (means[k] - y)``, ``G = sigma``.

    Args:
        rates: one per level.
        sigma: of the noise.
        means: one per level; 0 by default.
    """
    speeds = torch.as_tensor(checks.as_float64("rates", rates))
    centres = torch.zeros_like(speeds) if means is None else torch.as_tensor(checks.as_float64("means", means))
    if centres.shape != speeds.shape:
        raise ValueError(f"means holds {len(centres)} values, but rates has {len(speeds)} levels.")
    noise = torch.tensor([[checks.finite_number("sigma", sigma)]], dtype=torch.float64)
    return LinearProblem(-speeds[:, None, None], (speeds * centres)[:, None], noise)


def euler_moments(problem: LinearProblem, y0: Tensor, times: Sequence[float] | np.ndarray) -> Moments:
    """Exact moments of Euler-Maruyama with the top level, started at ``y0`` of shape ``(d,)``."""
    return multilevel_moments(problem, y0, times, [1.0] * len(problem.matrices))


def multilevel_moments(
    problem: LinearProblem,
    y0: Tensor,
    times: Sequence[float] | np.ndarray,
    probabilities: Sequence[float] | Sequence[Sequence[float]] | np.ndarray,
    coins: str = "independent",
) -> Moments:
    """Exact moments of ML-EM with impulses.

    Args:
        problem: the ladder.
        y0: where the run starts, shape ``(d,)``, float64.
        times: the grid, ``N + 1`` times.
        probabilities: firing probabilities in (0, 1], shape ``(K,)``, or ``(N, K)`` for those of each step.
        coins: ``"independent"`` or ``"nested"``. Others depend on their past, and these recursions do not hold.

    Raises:
        TypeError, ValueError: naming the argument.
    """
    levels, d = problem.offsets.shape
    _check("y0", y0, (d,))
    steps = np.diff(checks.time_grid(None, None, times)).tolist()
    table = np.asarray(probabilities, dtype=np.float64)
    if table.shape not in ((levels,), (len(steps), levels)):
        raise ValueError(
            f"probabilities has shape {table.shape}, expected {(levels,)}, or {(len(steps), levels)} for each step."
        )
    rows = np.broadcast_to(table, (len(steps), levels))
    covariances = [torch.as_tensor(theory.weight_covariance(row, coins)) for row in rows]

    differences, drift, spread = _augmented(problem)
    start = torch.cat([y0, torch.ones(1, dtype=torch.float64)])
    moment = torch.outer(start, start)  # E z z^T
    error = torch.zeros_like(moment)  # E (Y - X)(Y - X)^T, bordered by zeros
    moments, errors = [moment], [error]
    for h, covariance in zip(steps, covariances, strict=True):
        step = torch.eye(d + 1, dtype=torch.float64) + h * drift
        chance = h**2 * torch.einsum("jk,jab,bc,kdc->ad", covariance, differences, moment, differences)
        moment = step @ moment @ step.T + chance + abs(h) * spread
        error = step @ error @ step.T + chance
        moments.append(moment)
        errors.append(error)
    z = torch.stack(moments)
    return Moments(z[:, :d, d], z[:, :d, :d], torch.stack([e.trace() for e in errors]))


def _augmented(problem: LinearProblem) -> tuple[Tensor, Tensor, Tensor]:
    """``D_k``, shape ``(K, d + 1, d + 1)``, their sum, and ``[[G G^T, 0], [0, 0]]``."""
    levels, d = problem.offsets.shape
    values = torch.zeros(levels, d + 1, d + 1, dtype=torch.float64)
    values[:, :d] = torch.cat([problem.matrices, problem.offsets[..., None]], dim=-1)
    differences = torch.diff(values, dim=0, prepend=torch.zeros_like(values[:1]))
    spread = torch.zeros(d + 1, d + 1, dtype=torch.float64)
    if problem.noise is not None:
        spread[:d, :d] = problem.noise @ problem.noise.T
    return differences, values[-1], spread


@dataclass(frozen=True, eq=False)
class _Affine:
    matrix: Tensor
    offset: Tensor

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        return y @ self.matrix.T + self.offset


def _check(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    if not isinstance(value, Tensor) or value.dtype != torch.float64:
        raise TypeError(f"{name} must be a tensor of float64, got {getattr(value, 'dtype', type(value).__name__)}.")
    if tuple(value.shape) != shape:
        raise ValueError(f"{name} has shape {tuple(value.shape)}, expected {shape}.")
    if not bool(torch.isfinite(value).all()):
        raise ValueError(f"{name} must be finite, but it holds NaN or infinity.")
