"""Probabilities at knots in time as parameters: logits that become a table, its price, and the derivatives of both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mlsde.hierarchy import DriftHierarchy
from mlsde.probabilities import geometric


def probabilities(logits: np.ndarray) -> np.ndarray:
    """``1 / (1 + exp(-theta))``; an infinite logit is a probability of 1."""
    return np.exp(-np.logaddexp(0.0, -logits))


@dataclass(frozen=True, eq=False)
class Knots:
    """Logits at knots as a table of probabilities, and what it costs.

    Attributes:
        times: the knots, shape ``(J,)``.
        shares: ``log p_n = sum_j shares[n, j] log p_j``, shape ``(N, J)``.
        costs: of the levels, shape ``(K,)``.
        differences: whether the ladder is given by its differences.
        budget: the price of every table.
    """

    times: np.ndarray
    shares: np.ndarray
    costs: np.ndarray
    differences: bool
    budget: float

    @classmethod
    def of(cls, grid: np.ndarray, count: int, drift: DriftHierarchy, budget: float) -> Knots:
        """Knots equally many steps apart on a grid; a single one at its start."""
        steps = len(grid) - 1
        times = np.interp(np.linspace(0, steps, count), np.arange(steps + 1), grid)
        shares = np.log(geometric(times, np.exp(np.eye(count)), grid[:-1]))
        costs = np.array(drift.required_costs("learn"))
        return cls(times, shares, costs, drift.differences, budget)

    def table(self, logits: np.ndarray) -> np.ndarray:
        """``p_k(t_n)``, shape ``(N, K)``."""
        return np.exp(self.shares @ -np.logaddexp(0.0, -logits))

    def logits(self, table: np.ndarray) -> np.ndarray:
        """Logits that come nearest to a table, short of 0 and 1, at the price of the budget."""
        logs = np.log(np.clip(table, 1e-4 / len(table), 1.0))
        p = np.exp(np.linalg.lstsq(self.shares, logs, rcond=None)[0])
        p = np.clip(p, 1e-4 / len(table), 0.95)
        return self.at_budget(np.log(p) - np.log1p(-p))

    def price(self, table: np.ndarray) -> float:
        """Expected cost per trajectory, as of :func:`mlsde.theory.expected_cost`.

        Levels that share an evaluation because their probabilities are equal do so here only where both are 1: below,
        equality is a matter of rounding, and the price would jump along a descent.
        """
        if self.differences:
            return float((table @ self.costs).sum())
        above = np.concatenate([table[:, 1:], np.zeros_like(table[:, :1])], axis=1)
        both = table * above
        return float(((table + above - both - (both == 1.0)) @ self.costs).sum())

    def price_slopes(self, logits: np.ndarray) -> np.ndarray:
        """Derivative of the price by the logits, shape ``(J, K)``.

        Level ``k`` is evaluated with probability ``p_k + p_{k+1} - p_k p_{k+1}``, and what is 1 has no slope.
        """
        p = self.table(logits)
        slopes = np.tile(self.costs, (len(p), 1))
        if not self.differences:
            slopes[:, :-1] -= self.costs[:-1] * p[:, 1:]
            slopes[:, 1:] += self.costs[:-1] * (1.0 - p[:, :-1])
        return self.pulled((p * slopes)[..., None], logits, 0)[..., 0]

    def pushed(self, directions: np.ndarray, logits: np.ndarray, start: int, stop: int) -> np.ndarray:
        """Derivative of ``log p_n`` along directions of shape ``(J, K, S)``, shape ``(stop - start, K, S)``."""
        inner = 1.0 - probabilities(logits)  # d log p / d theta
        return np.tensordot(self.shares[start:stop], inner[..., None] * directions, 1)

    def pulled(self, slopes: np.ndarray, logits: np.ndarray, start: int) -> np.ndarray:
        """Derivatives by ``log p_n`` from step ``start`` on, shape ``(steps, K, S)``, as such by the logits."""
        inner = 1.0 - probabilities(logits)
        return inner[..., None] * np.tensordot(self.shares[start : start + len(slopes)].T, slopes, 1)

    def at_budget(self, logits: np.ndarray) -> np.ndarray:
        """The logits plus the common number that makes their price the budget."""
        low, high = -60.0, 60.0
        while high - low > 1e-10:
            middle = 0.5 * (low + high)
            low, high = (middle, high) if self.price(self.table(logits + middle)) <= self.budget else (low, middle)
        return logits + low

    def raised(self, logits: np.ndarray, least: float) -> np.ndarray:
        """Logits in which probabilities from ``least`` on are 1 where that of a neighbouring level is so too.

        Only such levels share an evaluation, and of a ladder of differences none do.
        """
        sure = np.pad(probabilities(logits) >= least, ((0, 0), (1, 1)))
        both = sure[:, 1:-1] & (sure[:, :-2] | sure[:, 2:])
        return logits if self.differences else np.where(both, np.inf, logits)

    def pays_for(self, logits: np.ndarray) -> bool:
        """Whether the budget pays for the logits that are infinite, and a little more."""
        return self.price(self.table(np.where(np.isinf(logits), logits, -60.0))) < 0.99 * self.budget
