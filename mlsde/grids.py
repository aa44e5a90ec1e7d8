"""Grids and tables of long runs, worked out in pieces when they are asked for, so that none is kept whole.

Ordinary runs have arrays. What is written here gives the same numbers, bit for bit, to whoever slices it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, overload

import numpy as np

LONG = 2**16
"""Runs of more steps than these do not keep their grid and their table of probabilities."""


class EvenGrid:
    """Times of equal steps, those of ``numpy.linspace(t0, t1, steps + 1)``.

    Args:
        t0, t1: the ends.
        steps: number of steps ``N``.
    """

    def __init__(self, t0: float, t1: float, steps: int) -> None:
        self._t0, self._t1, self._steps = t0, t1, steps
        self._h = (t1 - t0) / steps

    def __len__(self) -> int:
        return self._steps + 1

    @overload
    def __getitem__(self, at: int) -> float: ...

    @overload
    def __getitem__(self, at: slice) -> np.ndarray: ...

    def __getitem__(self, at: int | slice) -> float | np.ndarray:
        """Return one time, or an array of them."""
        if isinstance(at, slice):
            return self._times(np.arange(*at.indices(len(self))))
        n = at + len(self) if at < 0 else at
        if not 0 <= n <= self._steps:
            raise IndexError(f"there are {len(self)} times, got the number {at}.")
        return self._t1 if n == self._steps else n * self._h + self._t0

    @property
    def length(self) -> float:
        """Length of a step, above zero."""
        return abs(self._h)

    def _times(self, n: np.ndarray) -> np.ndarray:
        times = n * self._h + self._t0
        times[n == self._steps] = self._t1
        return times

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Return all times, for NumPy."""
        return self[:].astype(dtype or np.float64, copy=False)

    def __repr__(self) -> str:
        return f"EvenGrid({self._t0:g} to {self._t1:g} in {self._steps} steps)"

    def first_at_or_after(self, times: np.ndarray) -> np.ndarray:
        """As the function of this name."""
        ahead = math.copysign(1.0, self._h)
        n = np.clip(np.floor((times - self._t0) / self._h) - 1, 0, self._steps).astype(np.int64)  # before it, or it
        while (early := (n < self._steps) & (ahead * self._times(n) < ahead * times)).any():
            n[early] += 1
        return n


class Rows:
    """A table of shape ``(N, K)`` that is given by a function of the numbers of rows.

    Args:
        shape: of the table.
        make: ``make(start, stop)``, the rows ``start … stop - 1``; the same whenever they are asked for.
        alike: whether all rows but the first are known to be equal.
    """

    def __init__(self, shape: tuple[int, int], make: Callable[[int, int], np.ndarray], alike: bool = False) -> None:
        self.shape, self._make, self.alike = shape, make, alike

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, at: slice) -> np.ndarray:
        """Return consecutive rows as an array; ``TypeError`` if anything else is asked for."""
        if not isinstance(at, slice) or at.step not in (None, 1):
            raise TypeError(
                f"the table of a long run gives consecutive rows, table[start:stop], got table[{at!r}]; "
                "plan.probabilities, or numpy.asarray(table), is the whole as an array."
            )
        start, stop, _ = at.indices(len(self))
        return self._make(start, max(start, stop))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Return the whole table, for NumPy."""
        return self[:].astype(dtype or np.float64, copy=False)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies, and what is read from a pickle, are the whole table: functions do not travel."""
        return np.asarray, (self[:],)

    def __repr__(self) -> str:
        return f"Rows(shape {self.shape})"


Grid = np.ndarray | EvenGrid
"""Times, shape ``(N + 1,)``."""

Table = np.ndarray | Rows
"""Numbers for each step and level, shape ``(N, K)``."""


def first_at_or_after(grid: Grid, times: np.ndarray) -> np.ndarray:
    """For each time, which lies within a strictly monotone grid, the number of the first node not before it."""
    if isinstance(grid, EvenGrid):
        return grid.first_at_or_after(times)
    ahead = np.sign(grid[-1] - grid[0])
    return np.searchsorted(grid * ahead, times * ahead, side="left")


def repeated(row: np.ndarray, steps: int) -> Rows:
    """A table of the same row at every step."""
    return Rows((steps, len(row)), lambda start, stop: np.tile(row, (stop - start, 1)), alike=True)


def changed(change: Callable[..., np.ndarray], *tables: Table) -> Rows:
    """The table whose rows are a function of those of others of its shape."""
    steps, levels = tables[0].shape
    alike = all(isinstance(table, Rows) and table.alike for table in tables)
    return Rows((steps, levels), lambda start, stop: change(*(table[start:stop] for table in tables)), alike)


def asked(rows: Callable[[list[float]], np.ndarray], times: Grid) -> Table:
    """The table of a function of time, which is asked once for each step; of a long one equal rows are kept once.

    Args:
        rows: the rows of some times, shape ``(len(times), K)``.
        times: the grid.
    """
    starts, values = list[np.ndarray](), list[np.ndarray]()
    for start, stop in stretches(len(times) - 1):
        part = rows(times[start:stop].tolist())
        if len(times) - 1 <= LONG:
            return part
        before = np.concatenate([values[-1][-1:] if values else np.full_like(part[:1], np.nan), part[:-1]])
        new = np.flatnonzero((part != before).any(axis=1))
        if len(new):
            starts.append(start + new)
            values.append(part[new])
    firsts, distinct = np.concatenate(starts), np.concatenate(values)

    def make(start: int, stop: int) -> np.ndarray:
        return np.asarray(distinct[np.searchsorted(firsts, np.arange(start, stop), side="right") - 1])

    return Rows((len(times) - 1, distinct.shape[1]), make, alike=bool(firsts[-1] <= 1))


def kept(table: Table) -> Table:
    """The table as an array, unless it is long."""
    return table if len(table) > LONG else np.asarray(table)


def pieces(table: Table) -> Iterator[tuple[int, np.ndarray]]:
    """The table in pieces that are not long, each with the number of its first row."""
    for start in range(0, len(table), LONG):
        yield start, table[start : start + LONG]


def stretches(steps: int) -> Iterator[tuple[int, int]]:
    """Number of the first step of each piece, and one past that of its last."""
    return ((start, min(start + LONG, steps)) for start in range(0, steps, LONG))


def highest(table: Table) -> np.ndarray:
    """Largest value of each level, shape ``(K,)``."""
    return np.asarray(np.max([piece.max(axis=0) for _, piece in pieces(table)], axis=0))


def lowest_above_zero(table: Table) -> float:
    """Least of the values above zero, infinite if there is none."""
    return min(float(piece.min(where=piece > 0, initial=math.inf)) for _, piece in pieces(table))
