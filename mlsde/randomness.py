"""Random streams in which every draw has an address, so that it can be found again in any order.

Coins are drawn on the host (:func:`host_generator`), noise on the state's device (:class:`NormalRows`). A stream is
named by ``(seed, stream)``: coins and noise of one seed never share numbers, so EM and ML-EM with the same seed ride
the same path.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

# Numbered from 1, because numpy reads (seed, 0) and (seed,) as the same entropy.
NOISE, PATH, COINS, OFFSETS, PROBE, LEARNING, PILOT, TRAINING, PRIOR, ENSEMBLE = range(1, 11)

SCATTERED, IN_ORDER = (1024, 16), (65_536, 512)
"""Most elements and rows drawn at once: they hide the price of a call, but neighbours may never be asked for."""


def host_generator(*key: int) -> np.random.Generator:
    """Generator on the host for the stream named by non-negative integers, e.g. ``(seed, COINS, block)``."""
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(key)))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's own generators under a seed; as they were afterwards."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def _mix32(x: int) -> int:
    """Bijection of 32-bit integers that scatters neighbours (the finaliser of MurmurHash3, A. Appleby)."""
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) & 0xFFFFFFFF
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) & 0xFFFFFFFF
    return x ^ (x >> 16)


class _Stream:
    """Seeds of one named stream, by index.

    torch's CPU generator uses the low 32 bits of a seed only. The map below is a bijection in ``index``, so two draws
    of one stream never share a seed, and it depends on 64 bits of the name, so two streams hardly ever coincide
    throughout. Single draws of two streams do share a seed now and then: among n draws about n^2 / 2^33 pairs.
    """

    def __init__(self, *key: int) -> None:
        self._shift, self._mask = (int(word) for word in np.random.SeedSequence(key).generate_state(2))

    def seed(self, index: int) -> int:
        return _mix32(_mix32((index + self._shift) & 0xFFFFFFFF) ^ self._mask)


class NormalRows:
    """Rows of standard normals of one shape: row ``j`` is the same whenever and in whatever order it is asked for.

    Args:
        shape: shape of one row; dimension 0 is the samples.
        dtype: float32 or float64. Both are drawn in float32, so that runs in either ride the same path.
        device: where the rows are drawn and live. Different device types draw different rows.
        seed: one seed for all samples, or a tuple with one for each (a sample's rows then depend on its seed alone).
        stream: which stream of the seed.
        most: about how many elements and rows to draw at once; the rows depend on it.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device,
        seed: int | tuple[int, ...],
        stream: int,
        most: tuple[int, int],
    ) -> None:
        self.shape, self.dtype, self.device = shape, dtype, device
        self._generator = torch.Generator(device)
        elements, rows = most
        if isinstance(seed, int):
            self._streams = [_Stream(seed, stream)]
            self._part = shape
        else:
            # a marker keeps the sample streams apart from the batch stream of the same seed
            self._streams = [_Stream(s, stream, 1) for s in seed]
            # one chunk per sample, whose seeding is then what costs, and not its rows
            self._part, elements, rows = shape[1:], elements // 4, 512
        self._per_sample = not isinstance(seed, int)
        self.rows_per_chunk = max(1, min(rows, elements // max(1, math.prod(self._part))))

    def _draw(self, stream: _Stream, index: int, deviation: float, out: Tensor | None = None) -> Tensor:
        self._generator.manual_seed(stream.seed(index))
        drawn = self.empty() if out is None else out
        return drawn.normal_(0.0, deviation, generator=self._generator)

    def empty(self) -> Tensor:
        """Memory for what is drawn at once, of all samples or of one."""
        return torch.empty((self.rows_per_chunk, *self._part), device=self.device, dtype=torch.float32)

    def chunk(self, index: int, deviation: float = 1.0, out: Tensor | None = None) -> Tensor:
        """Rows ``index * rows_per_chunk …`` times ``deviation``, one tensor of shape ``(rows_per_chunk, *shape)``.

        Args:
            index: of the chunk.
            deviation: factor.
            out: what :meth:`empty` returned, to be drawn into; with one seed in float32 it is what is returned.
        """
        if self._per_sample:
            drawn = torch.stack([self._draw(stream, index, deviation) for stream in self._streams], dim=1)
        else:
            drawn = self._draw(self._streams[0], index, deviation, out)
        return drawn.to(self.dtype)
