"""The noise of one run on its grid: independent increments, or those of a path."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from mlsde import randomness
from mlsde.brownian import Brownian, rounding
from mlsde.grids import Grid, stretches
from mlsde.transfer import sent


class IndependentIncrements:
    """Increments on one grid only: the fastest noise, which is not the same path on another grid.

    Args:
        times: the grid, ``N + 1`` times.
        shape, dtype, device, seed: as of :class:`BrownianPath`.
    """

    def __init__(
        self,
        times: Grid,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device,
        seed: int | tuple[int, ...],
    ) -> None:
        self._times = times
        first, low, high = float(self._roots(0, 1)[0]), math.inf, 0.0
        for start, stop in stretches(len(times) - 1):
            roots = self._roots(start, stop)
            low, high = min(low, float(roots.min())), max(high, float(roots.max()))
        self._root = first if high - low < 1e-9 * first else None
        self._rows = randomness.NormalRows(shape, dtype, device, seed, randomness.NOISE, randomness.IN_ORDER)
        self._chunk = -1
        self._increments: tuple[Tensor, ...] = ()
        self._memory: Tensor | None = None

    def _roots(self, start: int, stop: int) -> np.ndarray:
        """Roots of the lengths of the steps ``start … stop - 1``."""
        return np.sqrt(np.abs(np.diff(self._times[start : stop + 1])))

    def increment(self, n: int) -> Tensor:
        """Increment over step ``n``, shape ``shape``; the same whenever it is asked for."""
        chunk, row = divmod(n, self._rows.rows_per_chunk)
        if chunk != self._chunk:
            self._increments = ()  # freed first, so that the new chunk can take its memory
            self._chunk, self._increments = chunk, self._scaled(chunk)
        return self._increments[row]

    def between(self, start: int, stop: int) -> Iterator[Tensor]:
        """Increments over the steps ``start … stop - 1``, in turn: less work for each than to ask for it."""
        while start < stop:
            self.increment(start)
            row = start % self._rows.rows_per_chunk
            rows = self._increments[row : row + stop - start]
            start += len(rows)
            yield from rows
            del rows  # freed first, likewise

    def _scaled(self, chunk: int) -> tuple[Tensor, ...]:
        out = self._reused()
        if self._root is not None:
            return self._rows.chunk(chunk, self._root, out).unbind(0)
        normals = self._rows.chunk(chunk, out=out)
        size = self._rows.rows_per_chunk
        roots = self._roots(chunk * size, (chunk + 1) * size)
        scale = sent(roots, normals.device, normals.dtype)
        return normals[: len(roots)].mul_(scale.view(-1, *[1] * (normals.ndim - 1))).unbind(0)

    def _reused(self) -> Tensor | None:
        """Memory that is drawn into again and again, because fresh pages cost as much as some of the numbers.

        None where the graph is kept, which remembers increments, and of tensors that may not be written into.
        """
        if torch.is_grad_enabled() or torch.is_inference_mode_enabled():
            return None
        if self._memory is None:
            self._memory = self._rows.empty()
        return self._memory


class PathIncrements:
    """Increments of a path or of any ``bm(ta, tb)`` on one grid; the first is checked, and every shape."""

    def __init__(self, brownian: Brownian, times: Grid, shape: tuple[int, ...], like: Tensor) -> None:
        self._brownian, self._times, self._shape, self._like = brownian, times, shape, like
        theirs = getattr(brownian, "shape", None)
        if theirs is not None and tuple(theirs) != shape:
            raise ValueError(f"brownian has shape {tuple(theirs)}, but this equation needs noise of shape {shape}.")
        theirs_too = type(brownian).__module__.partition(".")[0] == "torchsde"
        t0, t1 = _torchsde_ends(brownian) if theirs_too else (getattr(brownian, end, None) for end in ("t0", "t1"))
        lo, hi = sorted((float(times[0]), float(times[-1])))
        if t0 is not None and t1 is not None:
            slack = rounding(float(t0), float(t1))
            if not (float(t0) - slack <= lo and hi <= float(t1) + slack):
                raise ValueError(f"brownian covers [{float(t0)}, {float(t1)}], but the solve needs [{lo}, {hi}].")
        # torchsde's paths know forward times alone
        self._mirrored = bool(times[-1] < times[0]) and theirs_too

    def between(self, start: int, stop: int) -> Iterator[Tensor]:
        """Increments over the steps ``start … stop - 1``, in turn."""
        return map(self.increment, range(start, stop))

    def increment(self, n: int) -> Tensor:
        """Increment over step ``n``; ``TypeError`` or ``ValueError`` if its kind is not the equation's."""
        ta, tb = float(self._times[n]), float(self._times[n + 1])
        try:
            increment = self._brownian(tb, ta) if self._mirrored else self._brownian(ta, tb)
        except Exception as error:
            error.add_note(f"raised by brownian from t={ta:g} to {tb:g}")
            raise
        if not isinstance(increment, Tensor):
            raise TypeError(f"brownian must return a torch.Tensor, got {type(increment).__name__}.")
        if tuple(increment.shape) != self._shape:
            raise ValueError(f"brownian returned shape {tuple(increment.shape)}, expected {self._shape}.")
        if increment.layout != torch.strided:
            raise TypeError(f"brownian returned a tensor of {increment.layout}, expected a dense one.")
        if increment.dtype != self._like.dtype or increment.device != self._like.device:
            raise TypeError(
                f"brownian returned {increment.dtype} on {increment.device}, "
                f"expected {self._like.dtype} on {self._like.device}."
            )
        return -increment if self._mirrored else increment


def _torchsde_ends(brownian: Brownian) -> tuple[float | None, float | None]:
    """Ends of a path of torchsde, which keeps them to itself, and stands still beyond them with a warning alone."""
    interval = getattr(brownian, "_interval", brownian)
    return getattr(interval, "_start", None), getattr(interval, "_end", None)
