"""Linear ladders, whose first two moments under Euler-Maruyama and ML-EM are known without Monte Carlo.

The levels are ``f^k(y) = A_k y + b_k`` and the noise is additive and constant, ``dY = f(Y) dt + G dW``. One step is
``Y + h sum_k w_k (a_k Y + beta_k) + G dW`` with ``a_k = A_k - A_{k-1}``, ``beta_k = b_k - b_{k-1}`` and weights ``w_k``
that do not depend on the past, of mean 1 and covariance ``C``. In ``z = (Y, 1)``, with
``D_k = [[a_k, beta_k], [0, 0]]``, its second moment ``M = E z z^T`` follows

    M' = (I + h F) M (I + h F)^T + h^2 sum_{j,k} C_jk D_j M D_k^T + |h| [[G G^T, 0], [0, 0]],      F = sum_k D_k,

and the last column of ``M`` is the mean. Derivation in docs/theory.md.

As ``h -> 0`` with ``p_k = rate_k h`` the scheme becomes a process that jumps: :func:`poisson_moments`.
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
from mlsde.showing import as_call


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

    __repr__ = as_call

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
        squared_error: ``E|Y_n - X_n|^2`` to Euler-Maruyama with the top level on the same path, shape ``(N + 1,)``;
            for :func:`poisson_moments` to the exact solution of the top level.
    """

    mean: Tensor
    second: Tensor
    squared_error: Tensor

    __repr__ = as_call


def ornstein_uhlenbeck(rates: Sequence[float], sigma: float, means: Sequence[float] | None = None) -> LinearProblem:
    """Ladder of Ornstein-Uhlenbeck drifts in one dimension, ``f^k(y) = rates[k] (means[k] - y)``, ``G = sigma``.

    Args:
        rates: one per level.
        sigma: of the noise.
        means: one per level; 0 by default.
    """
    speeds = torch.as_tensor(checks.as_float64("rates", rates))
    if len(speeds) == 0:
        raise ValueError("rates must hold one number for each level, got none.")
    centres = torch.zeros_like(speeds) if means is None else torch.as_tensor(checks.as_float64("means", means))
    if centres.shape != speeds.shape:
        raise ValueError(f"means holds {len(centres)} values, but rates has {len(speeds)} levels.")
    noise = torch.tensor([[checks.finite_number("sigma", sigma)]], dtype=torch.float64)
    return LinearProblem(-speeds[:, None, None], (speeds * centres)[:, None], noise)


def euler_moments(problem: LinearProblem, y0: Tensor, times: Sequence[float] | np.ndarray) -> Moments:
    """Exact moments of Euler-Maruyama with the top level, started at ``y0`` of shape ``(d,)``."""
    return multilevel_moments(problem, y0, times, [1.0] * len(_checked(problem).matrices))


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
    levels, d = _checked(problem).offsets.shape
    _check("y0", y0, (d,))
    steps = np.diff(checks.time_grid(None, None, times)).tolist()
    table = checks.numbers("probabilities", probabilities)
    if table.shape not in ((levels,), (len(steps), levels)):
        raise ValueError(
            f"probabilities has shape {table.shape}, expected {(levels,)}, or {(len(steps), levels)} for each step."
        )
    if not ((table > 0) & (table <= 1)).all():
        raise ValueError(f"probabilities must be above 0 and at most 1, got {table.min():g} to {table.max():g}.")
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


def poisson_moments(
    problem: LinearProblem,
    y0: Tensor,
    duration: float,
    rates: Sequence[float] | np.ndarray,
    points: int = 1,
    coins: str = "independent",
) -> Moments:
    """Exact moments of the process that ML-EM with impulses tends to as ``h -> 0`` with ``p_k = rates[k] h``.

    Level ``k`` fires at the times of a Poisson process of intensity ``rates[k]``, and then kicks the state by
    ``D_k z / rates[k]``: ``dz = F_on z dt + sum_k (D_k z / rates[k]) dN_k + G dW``, where ``F_on`` sums the levels
    that are always on. With the weights ``C_jk = 1 / rates[k]`` for ``j = k`` (of nested coins, all of which fire when
    the rarest does, ``1 / max(rates[j], rates[k])``) and 0 otherwise, the compensated jumps are martingales, and

        M' = F M + M F^T + J(M) + [[G G^T, 0], [0, 0]],   E' = F E + E F^T + J(M),   J(M) = sum_{j,k} C_jk D_j M D_k^T,

    for the second moment ``M`` of ``z`` and for that of the error, ``E``: one linear system for both.

    Args:
        problem: the ladder.
        y0: where the run starts, shape ``(d,)``, float64.
        duration: its length in time, above zero.
        rates: mean number of firings per unit of time, one per level, above zero; infinite for a level always on.
        points: the moments are returned at ``points + 1`` equally spaced times from 0 to ``duration``.
        coins: ``"independent"`` or ``"nested"``.

    Raises:
        TypeError, ValueError: naming the argument.
    """
    levels, d = _checked(problem).offsets.shape
    _check("y0", y0, (d,))
    step = checks.positive_number("duration", duration) / checks.positive_integer("points", points)
    weights = _jump_weights(rates, levels, checks.one_of("coins", coins, ("independent", "nested")))
    differences, drift, spread = _augmented(problem)
    start = torch.cat([y0, torch.ones(1, dtype=torch.float64)])
    moment = torch.outer(start, start)
    state = torch.cat([moment.flatten(), torch.zeros(moment.numel(), dtype=torch.float64)])
    propagator = torch.linalg.matrix_exp(step * _jump_generator(differences, drift, spread, weights))
    states = [state]
    for _ in range(points):
        states.append(propagator @ states[-1])
    z, errors = torch.stack(states).view(points + 1, 2, d + 1, d + 1).unbind(1)
    return Moments(z[:, :d, d], z[:, :d, :d], errors.diagonal(dim1=1, dim2=2).sum(-1))


def _jump_weights(rates: Sequence[float] | np.ndarray, levels: int, coins: str) -> Tensor:
    """``C_jk``, the limit of ``h`` times the covariance of the weights of one step, shape ``(K, K)``."""
    row = checks.numbers("rates", rates)
    if row.shape != (levels,) or not bool((row > 0).all()):
        raise ValueError(f"rates must hold {levels} numbers above zero, one per level, got {row.tolist()}.")
    return torch.as_tensor(np.diag(1.0 / row) if coins == "independent" else 1.0 / np.maximum.outer(row, row))


def _jump_generator(differences: Tensor, drift: Tensor, spread: Tensor, weights: Tensor) -> Tensor:
    """Matrix of the system of ``M`` and ``E``, each read row by row; the 1 at the end of ``z`` carries ``G G^T``."""
    one = torch.eye(len(drift), dtype=torch.float64)
    flow = torch.kron(drift, one) + torch.kron(one, drift)
    jumps = torch.einsum("jk,jab,kcd->acbd", weights, differences, differences).reshape(flow.shape)
    noise = torch.zeros_like(flow)
    noise[:, -1] = spread.flatten()
    return torch.cat([torch.cat([flow + jumps + noise, torch.zeros_like(flow)], 1), torch.cat([jumps, flow], 1)])


def _augmented(problem: LinearProblem) -> tuple[Tensor, Tensor, Tensor]:
    """``D_k``, shape ``(K, d + 1, d + 1)``, their sum, and ``[[G G^T, 0], [0, 0]]``."""
    levels, d = _checked(problem).offsets.shape
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
        checks.vectors("y", y.flatten(0, -2) if y.ndim > 2 else y, len(self.offset))
        return y @ self.matrix.T + self.offset


def _checked(problem: object) -> LinearProblem:
    if not isinstance(problem, LinearProblem):
        raise TypeError(f"problem must be a LinearProblem, got {type(problem).__name__}.")
    return problem


def _check(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    if not isinstance(value, Tensor) or value.dtype != torch.float64:
        raise TypeError(f"{name} must be a tensor of float64, got {getattr(value, 'dtype', type(value).__name__)}.")
    if tuple(value.shape) != shape:
        raise ValueError(f"{name} has shape {tuple(value.shape)}, expected {shape}.")
    if not bool(torch.isfinite(value).all()):
        raise ValueError(f"{name} must be finite, but it holds NaN or infinity.")
