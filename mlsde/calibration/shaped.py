"""Probabilities given at a few times and scaled to a price: what a calibration recommends."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mlsde.grids import Grid, Rows, Table, changed, kept, pieces
from mlsde.hierarchy import DriftHierarchy
from mlsde.probabilities import ByRows, PriceOfRows


@dataclass(frozen=True, eq=False)
class Shaped(ByRows):
    """Probabilities in cells of time; those below 1 share a factor that spends a budget.

    Attributes:
        times: ends of the cells, monotone, shape ``(N + 1,)``.
        values: shape ``(N, K)``, above zero; from 1 on a level is sure to fire.
        budget: expected cost per trajectory.
    """

    times: np.ndarray
    values: np.ndarray
    budget: float

    def rows(self, times: Grid, drift: DriftHierarchy, price: PriceOfRows) -> Table:
        """Return the table whose price is the budget, or the dearest below it."""
        ahead = math.copysign(1.0, self.times[-1] - self.times[0])

        def of_cells(start: int, stop: int) -> np.ndarray:
            cells = np.searchsorted(ahead * self.times, ahead * times[start:stop], side="right") - 1
            return np.asarray(self.values[np.clip(cells, 0, len(self.values) - 1)])

        base = kept(Rows((len(times) - 1, self.values.shape[1]), of_cells))

        def at(scale: float) -> Table:
            return changed(lambda p: np.where(p >= 1.0, 1.0, np.minimum(1.0, scale * p)), base)

        least = min(float(p.min(initial=1.0)) for _, p in pieces(base))  # of those below 1
        low, high = 1e-6, 1.0 / max(least, 1e-12)
        if price(at(high)) <= self.budget:
            return at(high)
        while high > (1.0 + 1e-6) * low:
            middle = math.sqrt(low * high)
            low, high = (middle, high) if price(at(middle)) <= self.budget else (low, middle)
        return at(low)

    def __repr__(self) -> str:
        means = ", ".join(f"{p:.3g}" for p in self.values.mean(axis=0))
        return f"Shaped(mean probabilities {means}; budget {self.budget:g})"
