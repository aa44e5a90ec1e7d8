"""The least cost that reaches an error: candidates are tried from the cheapest up, the hopeless ones left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mlsde.hierarchy import DriftHierarchy
from mlsde.study.methods import Candidate, Method, plain_run
from mlsde.study.trials import Trial

_MARGIN = 1.5
"""Candidates up to this much dearer than the best are tried too, so that resampling the seeds has where to go."""

_FLOOR_SLACK = 1.1
"""A candidate is left out if its error is foreseen to be this much too large: estimates have noise."""

_COINS_LEFT = 0.6
"""What is counted on to be left of a foreseen contribution of the coins."""


@dataclass(frozen=True)
class Found:
    """The cheapest candidate of a method that reaches an error, and its trial; ``None`` if none does."""

    target: float
    candidate: Candidate | None
    trial: Trial | None


class Search:
    """Search for one method at a time; trials are remembered across methods.

    Args:
        drift: the ladder.
        measure: tries a candidate.
        price: what a trial cost: in declared units or in seconds.
        strong_order: of the plain method.
        plain_runs: whether the plain run of a candidate's level and steps may be tried to see what its coins could
            reach at best. It is cheap where prices are declared, and not where they are real.
    """

    def __init__(
        self,
        drift: DriftHierarchy,
        measure: Callable[[Candidate], Trial],
        price: Callable[[Trial], float],
        strong_order: float,
        plain_runs: bool,
    ) -> None:
        self._drift, self._measure, self._price = drift, measure, price
        self._strong_order, self._plain_runs = strong_order, plain_runs
        self.trials: dict[Candidate, Trial] = {}
        self._plain: dict[tuple[str, int, int], float] = {}
        self._coins: dict[tuple[Method, int], list[tuple[int, float, float]]] = {}

    def least(self, candidates: Sequence[Candidate], target: float) -> Found:
        """The cheapest of the candidates, which come by expected cost, whose median error is at most ``target``."""
        best: Candidate | None = None
        limit = float("inf")
        for candidate in candidates:
            if candidate.cost > limit:
                break
            if candidate not in self.trials and self._hopeless(candidate, target):
                continue
            trial = self.trial(candidate)
            if trial.error > target:
                continue
            if best is None:
                limit = _MARGIN * candidate.cost
            if best is None or self._price(trial) < self._price(self.trials[best]):
                best = candidate
        return Found(target, best, None if best is None else self.trials[best])

    def trial(self, candidate: Candidate) -> Trial:
        """Try a candidate, or remember."""
        if candidate not in self.trials:
            method = candidate.method
            if candidate.sure:
                return self.trials.setdefault(candidate, self.trial(plain_run(candidate, self._drift)))
            trial = self.trials[candidate] = self._measure(candidate)
            if method.plain:
                self._plain[method.stepper, candidate.levels, candidate.steps] = trial.error
            elif method.coins is not None:
                seen = self._coins.setdefault((method, candidate.levels), [])
                seen.append((candidate.steps, candidate.setting, trial.error**2))
        return self.trials[candidate]

    def _hopeless(self, candidate: Candidate, target: float) -> bool:
        if self._floor(candidate, target) > _FLOOR_SLACK * target:
            return True
        if candidate.method.coins is None:
            return False
        floor = self._plain.get((candidate.method.stepper, candidate.levels, candidate.steps), 0.0)
        return floor**2 + self._foreseen(candidate) > target**2

    def _floor(self, candidate: Candidate, target: float) -> float:
        """What the level and the steps alone leave of the error, as far as it is known.

        A plain run's error is a bias and a discretisation error; the first falls with the level, the second with the
        steps. Coins only add to it.
        """
        stepper, level, steps = candidate.method.stepper, candidate.levels, candidate.steps
        if candidate.method.plain:
            return self._plateau(stepper, level, steps)
        known = self._plain.get((stepper, level, steps))
        if known is not None:
            return known
        above = [error for (s, k, n), error in self._plain.items() if s == stepper and k >= level and n >= steps]
        if max(above, default=0.0) > _FLOOR_SLACK * target or not self._plain_runs:
            return max(above, default=0.0)
        return self.trial(plain_run(candidate, self._drift)).error

    def _plateau(self, stepper: str, level: int, steps: int) -> float:
        """What more steps at one level cannot get below, from the last two numbers of steps that were tried."""
        tried = sorted(n for (s, k, n) in self._plain if s == stepper and k == level and n < steps)
        if len(tried) < 3:
            return 0.0
        few, many = tried[-2], tried[-1]
        e_few, e_many = (self._plain[stepper, level, n] ** 2 for n in (few, many))
        if not e_few > e_many:
            return float(min(e_few, e_many) ** 0.5) / _FLOOR_SLACK
        decay = (many / few) ** (2.0 * self._strong_order)  # of the part that falls
        bias = e_many - (e_few - e_many) / (decay - 1.0)
        return float(max(0.0, bias) ** 0.5)

    def _foreseen(self, candidate: Candidate) -> float:
        """What the coins hardly get below, from candidates of as many levels and no more firings.

        Their part of the squared error falls like ``firings^-s``, ``s`` the order that the method was given (half an
        order more is allowed for), and hardly depends on the number of steps.
        """
        order = candidate.method.order + 0.5
        worst = 0.0
        for steps, firings, square in self._coins.get((candidate.method, candidate.levels), []):
            if firings <= candidate.setting:
                floor = self._plain.get((candidate.method.stepper, candidate.levels, steps), 0.0) ** 2
                worst = max(worst, max(0.0, square - floor) * (firings / candidate.setting) ** order)
        return _COINS_LEFT * worst
