"""Variance of the impulse estimate of the drift, given the past.

Source: arXiv 2603.24594; the cross terms of nested coins are derived in docs/theory.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mlsde import checks
from mlsde.theory import arguments


@arguments.within_floats
def weight_covariance(p: Sequence[float] | np.ndarray | Tensor, coins: str = "independent") -> np.ndarray:
    """Covariance of the weights ``w_k = B_k / p_k`` of one step, shape ``(K, K)``.

    ``1/p_k - 1`` on the diagonal; off it 0 for independent coins and ``1 / max(p_j, p_k) - 1`` for nested ones.

    Args:
        p: firing probabilities, one per level, in (0, 1].
        coins: ``"independent"`` or ``"nested"``; evenly spaced coins have no variance given the past.

    Returns:
        The covariance, float64.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> weight_covariance([1.0, 0.5], coins="nested").tolist()
        [[0.0, 0.0], [0.0, 1.0]]
    """
    checks.one_of("coins", coins, ("independent", "nested"))
    row = checks.as_float64("p", p)
    if len(row) == 0 or not ((row > 0) & (row <= 1)).all():
        raise ValueError(f"p must hold probabilities above 0 and up to 1, one per level, got {row.tolist()}.")
    return np.diag(1 / row - 1) if coins == "independent" else 1 / np.maximum.outer(row, row) - 1


@arguments.within_floats
def estimator_variance(differences: Tensor, p: Sequence[float] | Tensor, coins: str = "independent") -> Tensor:
    """Variance ``E|F - f^K|^2`` of the impulse estimate ``F`` given the past, shape ``(samples,)``.

    ``sum_k (1/p_k - 1) |D_k|^2``, and for nested coins ``2 sum_{j<k} (1 / max(p_j, p_k) - 1) <D_j, D_k>`` besides.
    Source: arXiv 2603.24594; the cross terms: derivation in docs/theory.md.

    Args:
        differences: ``D_k = f^k - f^(k-1)`` with ``f^0 = 0``, shape ``(K, samples, ...)``. For ``control``, ``D_k``
            minus its memory.
        p: firing probabilities, one per level, in (0, 1].
        coins: ``"independent"`` or ``"nested"``.

    Returns:
        The variance of each sample, in the dtype of ``differences``.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> estimator_variance(torch.ones(2, 3, 4), p=[1.0, 0.5])
        tensor([4., 4., 4.])
    """
    covariance = torch.as_tensor(weight_covariance(p, coins))
    if not isinstance(differences, Tensor) or not differences.dtype.is_floating_point:
        raise TypeError("differences must be a tensor of a floating dtype, one difference per level stacked.")
    if differences.ndim < 2 or len(differences) != len(covariance):
        raise ValueError(
            f"differences has shape {tuple(differences.shape)}, expected (K, samples, ...) "
            f"with the K={len(covariance)} levels of p."
        )
    if not bool(checks.dense("differences", differences).isfinite().all()):
        raise ValueError("differences must be finite, but they hold NaN or infinity.")
    flat = differences.reshape(*differences.shape[:2], -1)
    return torch.einsum("jk,jsi,ksi->s", covariance.to(flat), flat, flat)
