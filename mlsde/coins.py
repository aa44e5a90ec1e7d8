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
from mlsde.grids import LONG, Table

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
    start: int = 0,
    *,
    offset: float = 0.5,
    per_sample: bool = False,
) -> np.ndarray:
    """Return which levels fire at some consecutive steps.

    Args:
        coins: one of :data:`COINS`.
        probabilities: those of these steps, shape ``(steps, K)``.
        running: their :func:`running_sums`, shape ``(steps + 1, K)``, for ``systematic`` and ``periodic`` coins.
        keys: stream keys: one for the batch, or one per sample.
        start: number of the first of the steps.
        offset: the fixed offset of ``periodic`` coins.
        per_sample: return shape ``(steps, K, samples)`` and not ``(steps, K)``.
    """
    steps, levels = probabilities.shape
    p = probabilities[..., None]
    if coins in ("independent", "nested"):
        uniforms = np.stack([_uniforms(key, levels, start, start + steps) for key in keys], axis=-1)
        if coins == "nested":
            uniforms = uniforms[:, :1]
        fired = uniforms < p
    elif running is None:
        fired = np.repeat(p >= 1, len(keys), axis=-1)
    else:
        # Sums such as ten times 0.1 fall a little short of the integer they mean.
        sums = running[..., None] + _offsets(coins, keys, levels, offset) + 1e-9
        fired = (p >= 1) | (np.diff(np.floor(sums), axis=0) > 0)
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
    return RunningSums(probabilities).before(0, probabilities)


class RunningSums:
    """The same sums for a part of the steps at a time, whichever; in turn it is little work.

    Args:
        probabilities: of all steps, shape ``(N, K)``.
    """

    def __init__(self, probabilities: Table) -> None:
        self._probabilities = probabilities
        levels = probabilities.shape[1]
        self._begin = (0, np.zeros(levels, dtype=np.int64), np.zeros(levels))
        self._known = self._begin

    def before(self, start: int, rows: np.ndarray) -> np.ndarray:
        """Sums before each step from ``start`` on, and after the last, whose probabilities are ``rows``."""
        at, whole, rest = self._known if self._known[0] <= start else self._begin
        for first in range(at, start, LONG):
            wholes, rests = _sums(self._probabilities[first : min(first + LONG, start)], whole, rest)
            whole, rest = wholes[-1], rests[-1]
        wholes, rests = _sums(rows, whole, rest)
        self._known = start + len(rows), wholes[-1], rests[-1]
        return np.asarray((wholes + rests) / 2.0**32)


def _sums(p: np.ndarray, whole: np.ndarray, rest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Running sums in units of 2^-32, whole units and what is left, beginning with what is known."""
    # whole units add up without rounding: a million roundings of a plain sum would move firings
    scaled = np.where(p >= 1, 0.0, p) * 2.0**32
    wholes = np.floor(scaled)
    steps = np.concatenate([whole[None], wholes.astype(np.int64)])
    return np.cumsum(steps, axis=0), np.cumsum(np.concatenate([rest[None], scaled - wholes]), axis=0)
