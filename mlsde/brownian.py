"""Brownian motion: a refinable path, and an adapter for other people's noise.

:class:`BrownianPath` is one fixed function of time, drawn from one seed by Lévy's midpoint construction over a tree of
integer grids: however it is queried, ``W(t)`` is the same. A grid whose points are nodes of the tree costs one normal
per point; others cost several.

Source: P. Lévy, *Processus stochastiques et mouvement brownien* (1948); for a seeded tree in place of stored nodes
J. G. Gaines & T. J. Lyons, SIAM J. Appl. Math. 57 (1997), doi:10.1137/S0036139995286515.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from mlsde import checks, randomness
from mlsde.showing import as_call


class Brownian(Protocol):
    """Anything that returns ``W(tb) - W(ta)``: :class:`BrownianPath`, a torchsde Brownian motion, your function."""

    def __call__(self, ta: float, tb: float, /) -> Tensor:
        """Return the increment over ``[ta, tb]``."""
        ...


@dataclass(frozen=True)
class NoiseSampler:
    """Adapter for a sampler of *unit* normals ``noise_sampler(t, t_next)``, as diffusion samplers use.

    The increment is ``sqrt(|t_next - t|)`` times what the sampler returns. A sampler that draws afresh at each call
    makes no refinable path: runs with different numbers of steps are then not coupled. The other way,
    :class:`mlsde.BrownianNoiseSampler` is a sampler made of a path.

    Example:
        >>> NoiseSampler(lambda t, t_next: torch.ones(2))(0.0, 0.25).tolist()
        [0.5, 0.5]
    """

    noise_sampler: Callable[[float, float], Tensor]

    __repr__ = as_call

    def __post_init__(self) -> None:
        checks.callable_as("noise_sampler", "noise_sampler(t, t_next)", self.noise_sampler)

    def __call__(self, ta: float, tb: float, /) -> Tensor:
        """Return the increment over ``[ta, tb]``."""
        unit = self.noise_sampler(ta, tb)
        if not isinstance(unit, Tensor):
            raise TypeError(f"noise_sampler must return a torch.Tensor, got {type(unit).__name__}.")
        return math.sqrt(abs(tb - ta)) * unit


# Leaves of the tree: 10^4 * 2^18 = 2.6e9, the most for which every node still has a seed of its own (32 bits).
_MOST_LEAVES = 2**32 - 1


@dataclass
class _Cell:
    """A cell of the tree, ends and middle in leaves, with the path's values there; the middle is drawn when needed."""

    stage: int
    lo: int
    hi: int
    w_lo: Tensor
    w_hi: Tensor
    mid: int = -1
    w_mid: Tensor | None = None


class BrownianPath:
    """One Brownian path on ``[t0, t1]``, the same at every number of steps.

    Args:
        t0, t1: the ends of the interval, in either order; ``W`` is zero at the earlier one.
        shape: shape of ``W(t)``; dimension 0 is the samples. Or give ``like``.
        like: a tensor whose shape, dtype and device the path takes (explicit arguments win).
        dtype: float32 or float64 (half precisions get float32). Both give the same path to rounding.
        device: where the increments live. Different device types draw different paths from one seed.
        seed: one integer for the batch, or one per sample, so that a batch can be split.
        grids: numbers of equal cells, each a multiple of the one before, through which the tree is refined before it
            is halved on and on. Equal steps cost one normal each when their number is among these, or such a number
            times a power of two that divides the next (any power after the last); others cost up to 25. The path
            depends on this argument. Choose ``grids=(1,)`` for powers of two.

    Times are resolved to about 4e-10 of the interval (equal times to the nearest such leaf); memory grows with the
    logarithm of that number and not with the number of queries.

    Example:
        >>> path = BrownianPath(0.0, 1.0, shape=(5,), seed=0)
        >>> whole, parts = path(0.0, 1.0), path(0.0, 0.3) + path(0.3, 1.0)
        >>> bool(torch.allclose(whole, parts, atol=1e-6))
        True
    """

    levy_area_approximation = "none"  # torchsde asks for it; with it a path serves there too

    def __init__(
        self,
        t0: float,
        t1: float,
        *,
        shape: Sequence[int] | None = None,
        like: Tensor | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        seed: int | Sequence[int] = 0,
        grids: Sequence[int] = (50, 100, 1000, 10_000),
    ) -> None:
        ends = checks.finite_number("t0", t0), checks.finite_number("t1", t1)
        if ends[0] == ends[1]:
            raise ValueError(f"t0 and t1 must be two different times, got {t0} and {t1}.")
        self.t0, self.t1 = min(ends), max(ends)
        self.shape, self.dtype, self.device = _layout(shape, like, dtype, device)
        self.seed = checks.seed_or_seeds(seed, self.shape[0])
        if not isinstance(grids, Sequence):
            raise TypeError(f"grids must be a sequence of numbers of cells, got {grids!r}.")
        self.grids = tuple(grids)
        radices = _radices(self.grids)
        self._units = [math.prod(radices[s + 1 :]) for s in range(len(radices))]
        self._radices = radices
        self._leaves = math.prod(radices)
        self._rows = randomness.NormalRows(
            self.shape, self.dtype, self.device, self.seed, randomness.PATH, randomness.SCATTERED
        )
        self._first_chunk = self._number_chunks()
        self._chunks: dict[int, tuple[int, tuple[Tensor, ...]]] = {}
        start = torch.zeros(self.shape, dtype=self.dtype, device=self.device)
        end = math.sqrt(self.t1 - self.t0) * self._rows.chunk(0)[0]
        self._stack = [_Cell(0, 0, self._leaves, start, end)]

    def __repr__(self) -> str:
        return f"BrownianPath({self.t0}, {self.t1}, shape={self.shape}, dtype={self.dtype}, seed={self.seed})"

    def __call__(self, ta: float, tb: float, /, *, return_U: bool = False, return_A: bool = False) -> Tensor:  # noqa: N803
        """Return ``W(tb) - W(ta)``, shape ``shape``; ``ValueError`` outside ``[t0, t1]`` or below the resolution.

        torchsde may ask for integrals of the path with ``return_U`` and ``return_A``: those are refused.
        """
        if return_U or return_A:
            raise ValueError(
                "a BrownianPath has increments alone, but return_U or return_A asks for integrals of the path; "
                "use another method, or torchsde.BrownianInterval with a levy_area_approximation."
            )
        a, b = self._leaf(ta), self._leaf(tb)
        if a == b and ta != tb:
            raise ValueError(
                f"the times {float(ta)} and {float(tb)} are closer than the path resolves, "
                f"{(self.t1 - self.t0) / self._leaves:.1e}; take larger steps or a path on a shorter interval."
            )
        w_a = self._at(a)
        return self._at(b) - w_a

    def noise_sampler(self, t: float, t_next: float, /) -> Tensor:
        """Return the increment over ``[t, t_next]`` divided by ``sqrt(|t_next - t|)``: a unit normal.

        ``ValueError`` for equal times. See also :class:`mlsde.BrownianNoiseSampler`.
        """
        increment, length = self(t, t_next), abs(float(t_next) - float(t))  # which checks the times
        if length == 0:
            raise ValueError(f"t and t_next must be two different times, got {float(t)} twice.")
        return increment / math.sqrt(length)

    def value(self, t: float) -> Tensor:
        """Return ``W(t)``, shape ``shape``, not to be written into; ``ValueError`` outside ``[t0, t1]``."""
        return self._at(self._leaf(t))

    def _leaf(self, t: float) -> int:
        t = checks.finite_number("t", t)
        slack = rounding(self.t0, self.t1)
        if not self.t0 - slack <= t <= self.t1 + slack:
            raise ValueError(f"t={t} lies outside the path's interval [{self.t0}, {self.t1}]; make the path longer.")
        within = min(max(t, self.t0), self.t1)
        return round((within - self.t0) / (self.t1 - self.t0) * self._leaves)

    def _at(self, leaf: int) -> Tensor:
        """Value at a leaf: leave the cells that do not hold it, then split until it is an end."""
        while True:
            cell = self._stack[-1]
            if leaf == cell.lo:
                return cell.w_lo
            if leaf == cell.hi:
                return cell.w_hi
            if cell.lo < leaf < cell.hi:
                self._stack.append(self._child(cell, leaf))
            else:
                self._stack.pop()

    def _child(self, cell: _Cell, leaf: int) -> _Cell:
        """The half of ``cell`` that holds ``leaf``; its middle is drawn from the Brownian bridge.

        Given both ends, ``W(mid)`` is normal about their interpolation, with variance
        ``(mid - lo) (hi - mid) / (hi - lo)``.
        """
        stage = cell.stage if cell.hi - cell.lo > self._units[cell.stage] else cell.stage + 1
        if cell.w_mid is None:
            unit = self._units[stage]
            cell.mid = cell.lo + (cell.hi - cell.lo) // unit // 2 * unit
            left, right = cell.mid - cell.lo, cell.hi - cell.mid
            deviation = math.sqrt(left / self._leaves * right / (left + right) * (self.t1 - self.t0))
            mean = torch.lerp(cell.w_lo, cell.w_hi, left / (left + right))
            cell.w_mid = mean.add_(self._normal(stage, cell.mid // unit), alpha=deviation)
        if leaf <= cell.mid:
            return _Cell(stage, cell.lo, cell.mid, cell.w_lo, cell.w_mid)
        return _Cell(stage, cell.mid, cell.hi, cell.w_mid, cell.w_hi)

    def _normal(self, stage: int, point: int) -> Tensor:
        """The normal of one node: the points that a stage adds are numbered in order of time."""
        number = point - point // self._radices[stage] - 1
        chunk, row = divmod(number, self._rows.rows_per_chunk)
        if self._chunks.get(stage, (-1, ()))[0] != chunk:
            self._chunks.pop(stage, None)  # freed first, so that the new chunk can take its memory
            self._chunks[stage] = chunk, self._rows.chunk(self._first_chunk[stage] + chunk).unbind(0)
        return self._chunks[stage][1][row]

    def _number_chunks(self) -> list[int]:
        """Number of each stage's first chunk of normals, so that no two chunks of the path share one."""
        first, cells = [1], 1
        for radix in self._radices:
            added = cells * (radix - 1)
            first.append(first[-1] + -(-added // self._rows.rows_per_chunk))
            cells *= radix
        return first


def rounding(t0: float, t1: float) -> float:
    """By how much an end may lie outside, because times may come rounded to float32."""
    return 2.0**-23 * max(abs(t0), abs(t1))


def _radices(grids: tuple[int, ...]) -> list[int]:
    """Into how many cells each stage cuts a cell of the one before: through ``grids``, then by two."""
    radices, cells = [], 1
    for grid in grids:
        if checks.positive_integer("grids", grid) % cells or grid > _MOST_LEAVES:
            raise ValueError(f"grids={grids} must be numbers below 2**32, each a multiple of the one before.")
        radices.append(grid // cells)
        cells = grid
    radices = [radix for radix in radices if radix > 1]
    while cells * 2 <= _MOST_LEAVES:
        radices.append(2)
        cells *= 2
    return radices


def _layout(
    shape: Sequence[int] | None, like: Tensor | None, dtype: torch.dtype | None, device: torch.device | str | None
) -> tuple[tuple[int, ...], torch.dtype, torch.device]:
    if like is None and shape is None:
        raise ValueError("a Brownian path needs shape=(samples, ...) or like=<a tensor of that shape>.")
    if like is not None:
        if not isinstance(like, Tensor):
            raise TypeError(f"like must be a torch.Tensor, got {like!r} of type {type(like).__name__}.")
        shape = tuple(like.shape) if shape is None else shape
        dtype = like.dtype if dtype is None else dtype
        device = like.device if device is None else device
    if not isinstance(shape, Sequence):
        raise TypeError(f"shape must be a sequence of sizes (samples, ...), got {shape!r}.")
    size = tuple(checks.positive_integer("shape", n) for n in shape)
    if not size:
        raise ValueError("shape needs at least one dimension: dimension 0 is the samples.")
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise TypeError(f"dtype must be float32 or float64, got {dtype!r}.")
    dtype = torch.get_default_dtype() if dtype is None else dtype
    dtype = torch.float32 if dtype in checks.HALF_PRECISIONS else dtype
    if dtype not in (torch.float32, torch.float64):
        raise TypeError(f"dtype must be float32 or float64, got {dtype}.")
    return size, dtype, checks.device("device", "cpu" if device is None else device)
