"""Rules of coins replayed on a pilot's recording: what each would have added to the error, without new evaluations.

Between and at firings the estimate differs from the top level by ``sum_k (1 - w_k) (m_k - D_k)``, with the memory
``m_k`` and the weight ``w_k`` of :mod:`mlsde.estimator`. To first order that reaches the end as
``sum_n psi_n . (1 - w_k) (m_k - D_k)(t_n)``, where ``psi_n`` is the derivative of a random projection of the end with
respect to the drift at step ``n``. A recording holds the products ``psi_n . D_k(t_m)`` for all pairs of steps, so every
rule is a choice of columns. Derivation in docs/calibration.md.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import numpy as np

from mlsde import coins
from mlsde.multilevel import MEMORY

_KEY = 7919
"""Seed of the coins that are replayed: the same for every rule, so that rules are compared on the same luck."""


def defects(
    responses: np.ndarray,
    times: np.ndarray,
    probabilities: np.ndarray,
    coin: str,
    correction: str,
    repeats: int = 16,
    keys: tuple[tuple[int, ...], ...] | None = None,
) -> np.ndarray:
    """What each level of a rule adds to the projections of the end, replayed with many coins.

    Args:
        responses: ``psi_n . D_k(t_m)``, shape ``(P, K, N, N)`` with ``n`` before ``m``, for ``P`` projections.
        times: the grid, shape ``(N + 1,)``.
        probabilities: shape ``(N, K)``.
        coin: ``coins`` of :class:`mlsde.Multilevel`.
        correction: likewise.
        repeats: runs with coins of their own.
        keys: stream keys of these coins, as of :class:`mlsde.plan.Plan`; by default some that are always the same.

    Returns:
        Shape ``(P, K, repeats)``.
    """
    remembers = correction in MEMORY
    table = np.concatenate([np.ones_like(probabilities[:1]), probabilities[1:]]) if remembers else probabilities
    fires, running = _fires(table, coin, keys or _keys(repeats), remembers), np.arange(len(table))
    heights = np.divide(1.0, table, out=np.zeros_like(table), where=table > 0)[..., None]
    weights = np.where(fires, heights if correction in ("impulse", "control") else 1.0, 0.0)
    here = diagonal(responses)
    rest = 1.0 - weights
    if not remembers:
        return -np.einsum("pkn,nkr->pkr", here, rest)
    last, before = _previous(fires)
    out = np.empty((len(responses), table.shape[1], fires.shape[-1]))
    for k in range(table.shape[1]):
        rows = responses[:, k]
        value = rows[:, running[:, None], last[:, k]]  # psi_n . D_k at the last firing before n, (P, N, repeats)
        if correction == "extrapolate":
            older = rows[:, running[:, None], before[:, k]]
            gaps = times[last[:, k]] - times[before[:, k]]
            ahead = times[:-1, None] - times[last[:, k]]
            slope = np.divide(ahead, gaps, out=np.zeros_like(ahead), where=gaps != 0)
            value = value + slope * (value - older)
        out[:, k] = ((value - here[:, k, :, None]) * rest[:, k]).sum(axis=1)
    return out


def _fires(table: np.ndarray, coin: str, keys: tuple[tuple[int, ...], ...], remembers: bool) -> np.ndarray:
    """Firings, shape ``(N, K, repeats)``."""
    keys = keys[:1] if coin == "periodic" else keys
    return coins.fires(coin, table, coins.running_sums(table), keys, offset=0.0 if remembers else 0.5, per_sample=True)


@lru_cache(maxsize=4)
def _keys(count: int) -> tuple[tuple[int, ...], ...]:
    return tuple((_KEY, i) for i in range(count))


def _previous(fires: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Steps of the last firing before each step and of the one before that; step 0 where there is none."""
    steps = np.arange(len(fires))[:, None, None]
    up_to = np.maximum.accumulate(np.where(fires, steps, 0), axis=0)
    last = np.concatenate([np.zeros_like(up_to[:1]), up_to[:-1]])
    before = np.take_along_axis(last, last, axis=0)
    return last, before


def diagonal(responses: np.ndarray) -> np.ndarray:
    """``psi_n . D_k(t_n)``, shape ``(P, K, N)``; in float64, because squares are taken of it."""
    steps = np.arange(responses.shape[-1])
    return responses[:, :, steps, steps].astype(np.float64)


def impulse_squares(responses: np.ndarray) -> np.ndarray:
    """Mean square of ``psi_n . D_k(t_n)``, shape ``(N, K)``: what ``1/p - 1`` multiplies with independent impulses."""
    return np.asarray((diagonal(responses) ** 2).mean(axis=0).T)


def increments(responses: np.ndarray, lag: int = 1) -> np.ndarray:
    """Mean square of ``psi_n . (D_k(t_n) - D_k(t_(n - lag)))``, shape ``(N - lag, K)``: what a memory gets wrong."""
    steps = np.arange(lag, responses.shape[-1])
    change = diagonal(responses)[..., lag:] - responses[:, :, steps, steps - lag]
    return np.asarray((change**2).mean(axis=0).T)


def merged(responses: np.ndarray, levels: tuple[int, ...]) -> np.ndarray:
    """Responses of the differences of a sub-ladder, levels numbered from 1: differences of skipped levels add up."""
    parts = [responses[:, a:b].sum(axis=1) for a, b in pairwise((0, *levels))]
    return np.stack(parts, axis=1)
