"""Probabilities given at a few times and scaled to a price: what a calibration recommends."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mlsde.hierarchy import DriftHierarchy
from mlsde.probabilities import Price


@dataclass(frozen=True, eq=False)
class Shaped:
    """Probabilities in cells of time; those below 1 share a factor that spends a budget.

    Attributes:
        times: ends of the cells, monotone, shape ``(N + 1,)``.
        values: shape ``(N, K)``, above zero; from 1 on a level is sure to fire.
        budget: expected cost per trajectory.
    """

    times: np.ndarray
    values: np.ndarray
    budget: float

    def table(self, times: np.ndarray, drift: DriftHierarchy, price: Price) -> np.ndarray:
        """Return the table whose price is the budget, or the dearest below it."""
        ahead = math.copysign(1.0, self.times[-1] - self.times[0])
        cells = np.searchsorted(ahead * self.times, ahead * times[:-1], side="right") - 1
        base = self.values[np.clip(cells, 0, len(self.values) - 1)]
        sure = base >= 1.0

        def at(scale: float) -> np.ndarray:
            return np.where(sure, 1.0, np.minimum(1.0, scale * base))

        low, high = 1e-6, 1.0 / max(float(base[~sure].min(initial=1.0)), 1e-12)
        if price(at(high)) <= self.budget:
            return at(high)
        while high > (1.0 + 1e-6) * low:
            middle = math.sqrt(low * high)
            low, high = (middle, high) if price(at(middle)) <= self.budget else (low, middle)
        return at(low)

    def __repr__(self) -> str:
        means = ", ".join(f"{p:.3g}" for p in self.values.mean(axis=0))
        return f"Shaped(mean probabilities {means}; budget {self.budget:g})"
