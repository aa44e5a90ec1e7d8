"""Coins: when a level fires. One function per rule, all drawn on the host, all addressable by step.

``fires[n, k]`` says whether level ``k`` fires at step ``n``; with coins per sample there is a third axis.

* ``independent``: one coin per step and level, as in the paper (arXiv 2603.24594).
* ``nested``: one uniform per step serves all levels, so that a dear level fires only with the cheaper ones.
* ``systematic``: level ``k`` fires when ``floor(u_k + P)`` steps up, ``P`` the running sum of its probabilities: the
  count over any stretch is within one of its mean (systematic sampling; W. G. Madow & L. H. Madow, Ann. Math. Statist.
  15 (1944), doi:10.1214/aoms/1177731312).
* ``periodic``: the same with a fixed offset, without chance.

Plans of plain methods have coins ``none``: probabilities of 0 and 1.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, get_args

import numpy as np

from mlsde import randomness

Coins = Literal["independent", "nested", "systematic", "periodic"]
COINS = get_args(Coins)

# Uniforms are drawn for this many steps at once, so that a block of a plan can start anywhere. Plans of coins per
# sample are served in blocks of as many.
_STEPS_PER_DRAW = 64


def fires(
    coins: str,
    probabilities: np.ndarray,
    running: np.ndarray | None,
    keys: tuple[tuple[int, ...], ...],
    start: int,
    stop: int,
    *,
    offset: float = 0.5,
    per_sample: bool = False,
) -> np.ndarray:
    """Return which levels fire at steps ``start … stop - 1``.

    Args:
        coins: one of :data:`COINS`.
        probabilities: shape ``(N, K)``.
        running: their :func:`running_sums`, for ``systematic`` and ``periodic`` coins.
        keys: stream keys: one for the batch, or one per sample.
        start: first step of the block.
        stop: one past its last step.
        offset: the fixed offset of ``periodic`` coins.
        per_sample: return shape ``(stop - start, K, samples)`` and not ``(stop - start, K)``.
    """
    if coins in ("independent", "nested"):
        uniforms = np.stack([_uniforms(key, probabilities.shape[1], start, stop) for key in keys], axis=-1)
        if coins == "nested":
            uniforms = uniforms[:, :1]
        fired = uniforms < probabilities[start:stop, :, None]
    elif running is None:
        fired = np.repeat(probabilities[start:stop, :, None] >= 1, len(keys), axis=-1)
    else:
        # Sums such as ten times 0.1 fall a little short of the integer they mean.
        sums = running[start : stop + 1, :, None] + _offsets(coins, keys, probabilities.shape[1], offset) + 1e-9
        fired = (probabilities[start:stop, :, None] >= 1) | (np.diff(np.floor(sums), axis=0) > 0)
    return fired if per_sample else fired[..., 0]


def _uniforms(key: tuple[int, ...], levels: int, start: int, stop: int) -> np.ndarray:
    first, last = start // _STEPS_PER_DRAW, (stop - 1) // _STEPS_PER_DRAW
    draws = [
        randomness.host_generator(*key, randomness.COINS, block).random((_STEPS_PER_DRAW, levels))
        for block in range(first, last + 1)
    ]
    return np.concatenate(draws)[start - first * _STEPS_PER_DRAW : stop - first * _STEPS_PER_DRAW]


@lru_cache(maxsize=2)  # every block of a plan asks again
def _offsets(coins: str, keys: tuple[tuple[int, ...], ...], levels: int, offset: float) -> np.ndarray:
    """Offsets ``u_k``, shape ``(K, keys)``."""
    if coins == "periodic":
        return np.full((levels, len(keys)), offset)
    return np.stack([randomness.host_generator(*key, randomness.OFFSETS).random(levels) for key in keys], axis=-1)


def running_sums(probabilities: np.ndarray) -> np.ndarray:
    """Sums ``P_n`` before each step, shape ``(N + 1, K)``; sure steps, which fire anyway, are left out of them."""
    # whole units of 2^-32 add up without rounding: a million roundings of a plain sum would move firings
    scaled = np.where(probabilities >= 1, 0.0, probabilities) * 2.0**32
    whole = np.floor(scaled)
    scaled -= whole
    running = np.zeros((len(scaled) + 1, scaled.shape[1]))
    running[1:] = (np.cumsum(whole.astype(np.int64), axis=0) + np.cumsum(scaled, axis=0)) / 2.0**32
    return running
