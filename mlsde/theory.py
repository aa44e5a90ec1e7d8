"""What is known of the method before a run: the variance of the drift estimate and bounds on the error it causes.

The variance is that of the Multilevel Euler-Maruyama method (arXiv 2603.24594); the cross terms of nested coins and the
error bounds are derived in docs/theory.md. The bounds are for impulses whose coins are independent in time (independent
or nested ones) and compare with Euler-Maruyama of the top level on the same path.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mlsde import checks


def weight_covariance(p: Sequence[float] | np.ndarray | Tensor, coins: str = "independent") -> np.ndarray:
    """Covariance of the weights ``w_k = B_k / p_k`` of one step, shape ``(K, K)``.

    ``1/p_k - 1`` on the diagonal; off it 0 for independent coins and ``1 / max(p_j, p_k) - 1`` for nested ones.

    Args:
        p: firing probabilities, one per level, in (0, 1].
        coins: ``"independent"`` or ``"nested"``; evenly spaced coins have no variance given the past.

    Raises:
        TypeError, ValueError: naming the argument.
    """
    checks.one_of("coins", coins, ("independent", "nested"))
    row = checks.as_float64("p", p)
    if len(row) == 0 or not ((row > 0) & (row <= 1)).all():
        raise ValueError(f"p must hold probabilities above 0 and up to 1, one per level, got {row.tolist()}.")
    return np.diag(1 / row - 1) if coins == "independent" else 1 / np.maximum.outer(row, row) - 1


def estimator_variance(differences: Tensor, p: Sequence[float] | Tensor, coins: str = "independent") -> Tensor:
    """Variance ``E|F - f^K|^2`` of the impulse estimate ``F`` given the past, shape ``(samples,)``.

    ``sum_k (1/p_k - 1) |D_k|^2``, and for nested coins ``2 sum_{j<k} (1 / max(p_j, p_k) - 1) <D_j, D_k>`` besides.
    Source: arXiv 2603.24594; the cross terms: derivation in docs/theory.md.

    Args:
        differences: ``D_k = f^k - f^(k-1)`` with ``f^0 = 0``, shape ``(K, samples, ...)``. For ``control``, ``D_k``
            minus its memory.
        p: firing probabilities, one per level, in (0, 1].
        coins: ``"independent"`` or ``"nested"``.

    Raises:
        TypeError, ValueError: naming the argument.
    """
    covariance = torch.as_tensor(weight_covariance(p, coins))
    if not isinstance(differences, Tensor) or not differences.dtype.is_floating_point:
        raise TypeError("differences must be a tensor of a floating dtype, one difference per level stacked.")
    if differences.ndim < 2 or len(differences) != len(covariance):
        raise ValueError(
            f"differences has shape {tuple(differences.shape)}, expected (K, samples, ...) "
            f"with the K={len(covariance)} levels of p."
        )
    flat = differences.reshape(*differences.shape[:2], -1)
    return torch.einsum("jk,jsi,ksi->s", covariance.to(flat), flat, flat)


def mse_bound(h: float, steps: int, lipschitz: float, variance: float, diffusion_lipschitz: float = 0.0) -> float:
    """Bound on ``E|Y_N - X_N|^2`` after ``N`` steps, ``X`` the top level at every step on the same path.

    ``h^2 S (q^N - 1) / (q - 1)`` with ``q = (1 + h L)^2 + h L_g^2``. Derivation in docs/theory.md.

    Args:
        h: length of a step, above zero (also backwards in time).
        steps: their number ``N``.
        lipschitz: ``L``, of the top level.
        variance: ``S``, the largest mean of :func:`estimator_variance` along the run.
        diffusion_lipschitz: ``L_g``, of the diffusion in the Frobenius norm; 0 for additive noise.

    Raises:
        TypeError, ValueError: naming the argument.
    """
    h, steps = checks.positive_number("h", h), checks.positive_integer("steps", steps)
    slope = checks.non_negative_number("lipschitz", lipschitz)
    spread = checks.non_negative_number("diffusion_lipschitz", diffusion_lipschitz)
    local = h**2 * checks.non_negative_number("variance", variance)
    growth = h * (2 * slope + h * slope**2 + spread**2)  # q - 1
    if growth == 0 or local == 0:
        return local * steps
    try:
        return local * math.expm1(steps * math.log1p(growth)) / growth
    except OverflowError:
        return math.inf


def contractive_mse_bound(h: float, rate: float, lipschitz: float, variance: float) -> float:
    """Bound on ``E|Y_N - X_N|^2`` for every ``N``, for a top level that contracts: ``h S / (2 mu - h L^2)``.

    Contraction at rate ``mu`` means ``<f(y) - f(x), y - x> <= -mu |y - x|^2`` (in the direction of the run). Additive
    noise. Derivation in docs/theory.md.

    Args:
        h: length of a step, in (0, 2 mu / L^2).
        rate: ``mu``, above zero.
        lipschitz: ``L``, of the top level; at least ``mu``.
        variance: ``S``, the largest mean of :func:`estimator_variance` along the run.

    Raises:
        TypeError, ValueError: naming the argument; also for a step too long for the error to stay bounded.
    """
    h, rate = checks.positive_number("h", h), checks.positive_number("rate", rate)
    lipschitz, variance = (
        checks.positive_number("lipschitz", lipschitz),
        checks.non_negative_number("variance", variance),
    )
    if lipschitz < rate:
        raise ValueError(f"rate={rate:g} must not be above lipschitz={lipschitz:g}: no drift contracts faster than L.")
    if h >= 2 * rate / lipschitz**2:
        raise ValueError(
            f"h={h:g} is too long a step for the bound, which needs h < 2 rate / lipschitz^2 = "
            f"{2 * rate / lipschitz**2:g}; take shorter steps, or use mse_bound."
        )
    return h * variance / (2 * rate - h * lipschitz**2)
