"""Quantiles of more numbers than are kept: a summary of each chunk, and summaries put together two by two."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Summary:
    """Numbers that stand for more of them, at each place of an array.

    Attributes:
        values: shape ``(points, places)``, rising along the first dimension; each point stands for ``weight / points``.
        weight: how many numbers they stand for.
        compactions: how often numbers were replaced by fewer points on the way here, at most.
    """

    values: np.ndarray
    weight: float
    compactions: int = 0

    @classmethod
    def of(cls, numbers: np.ndarray, points: int) -> Summary:
        """Summarise numbers, shape ``(count, places)``; exact if they are no more than ``points``."""
        ordered, weight = np.sort(numbers, axis=0), float(len(numbers))
        if len(ordered) <= points:
            return cls(ordered, weight)
        return cls(_interpolated(ordered, np.ones_like(ordered), points), weight, 1)

    def merged(self, other: Summary, points: int) -> Summary:
        """Put two together, in ``points`` points or fewer."""
        count = len(self.values), len(other.values)
        values = np.concatenate([self.values, other.values])
        shares = np.repeat([self.weight / count[0], other.weight / count[1]], count)
        order = np.argsort(values, axis=0, kind="stable")
        values, weight = np.take_along_axis(values, order, axis=0), self.weight + other.weight
        compactions = max(self.compactions, other.compactions)
        if len(values) <= points and shares[0] == shares[-1]:
            return Summary(values, weight, compactions)
        return Summary(_interpolated(values, shares[order], min(points, len(values))), weight, compactions + 1)

    def at(self, levels: np.ndarray) -> np.ndarray:
        """Quantiles, shape ``(levels, places)``, interpolated linearly between points."""
        points = len(self.values)
        place = np.clip(np.asarray(levels) * points - 0.5, 0.0, points - 1.0)
        low = np.floor(place).astype(np.int64)
        part = (place - low)[:, None]
        return (1.0 - part) * self.values[low] + part * self.values[np.minimum(low + 1, points - 1)]

    def part_below(self, values: np.ndarray) -> np.ndarray:
        """Part of the numbers below values, shape ``(levels, places)``; those that are equal count by half."""
        below = (self.values[:, None] < values).mean(axis=0)
        return 0.5 * (below + (self.values[:, None] <= values).mean(axis=0))

    def width(self, levels: np.ndarray, off: np.ndarray) -> np.ndarray:
        """Distance of the quantiles at ``levels + off`` and ``levels - off``; shapes ``(levels, places)``."""
        ends = [self._each(np.clip(levels[:, None] + sign * off, 0.0, 1.0)) for sign in (1.0, -1.0)]
        return ends[0] - ends[1]

    def _each(self, levels: np.ndarray) -> np.ndarray:
        """Quantiles of another level at each place, shape of ``levels``; NaN where the level is."""
        known = np.where(np.isnan(levels), 0.5, levels)
        found = np.stack([self.at(known[:, i])[:, i] for i in range(known.shape[1])], axis=1)
        return np.where(np.isnan(levels), np.nan, found)

    def rank_error(self, points: int) -> float:
        """Bound of the part of the numbers by which a quantile's rank is off: half a point for each compaction."""
        return self.compactions * 0.5 / points


def _interpolated(values: np.ndarray, weights: np.ndarray, points: int) -> np.ndarray:
    """So many quantiles, evenly spaced, of weighted values that rise along each column.

    A value stands in the middle of its weight, and between two such places the quantile is linear.
    """
    rows, columns = values.shape
    middles = np.cumsum(weights, axis=0) - 0.5 * weights
    wanted = np.broadcast_to((np.arange(points) + 0.5)[:, None] / points * weights.sum(axis=0), (points, columns))
    offsets = 2.0 * weights.sum(axis=0).max() * np.arange(columns)  # columns one after the other rise as a whole
    found = np.searchsorted((middles + offsets).T.ravel(), (wanted + offsets).T.ravel()).reshape(columns, -1).T
    high = np.clip(found - rows * np.arange(columns), 1, rows - 1)
    low_at, high_at, low, above = (
        np.take_along_axis(part, at, axis=0) for part in (middles, values) for at in (high - 1, high)
    )
    part = np.clip((wanted - low_at) / (high_at - low_at), 0.0, 1.0)
    return (1.0 - part) * low + part * above


class Quantiles:
    """Summaries of chunks, put together as they come: two of a size make one of the next, as a counter carries.

    What comes out depends on the chunks and their order alone, and what is held grows with the logarithm of their
    number.

    Args:
        points: of a summary.
    """

    def __init__(self, points: int) -> None:
        self.points = points
        self._held: list[Summary | None] = []

    def add(self, summary: Summary) -> None:
        """Take the next chunk's."""
        carried, size = summary, 0
        while size < len(self._held) and (there := self._held[size]) is not None:
            carried, self._held[size] = there.merged(carried, self.points), None
            size += 1
        self._held[size : size + 1] = [carried]

    def total(self) -> Summary:
        """All that came; ``ValueError`` if nothing did."""
        held = [summary for summary in self._held if summary is not None]
        if not held:
            raise ValueError("there are no numbers to take quantiles of.")
        whole = held[0]
        for summary in held[1:]:
            whole = summary.merged(whole, self.points)
        return whole
