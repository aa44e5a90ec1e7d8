"""The least cost that reaches an error: candidates are tried from the cheapest up, the hopeless ones left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mlsde.hierarchy import DriftHierarchy
from mlsde.showing import as_call
from mlsde.study.methods import Candidate, Method, plain_run
from mlsde.study.trials import Trial

_MARGIN = 1.5
"""Candidates up to this much dearer than the best are tried too, so that resampling the seeds has where to go."""

_WIDE_MARGIN = 4.0
"""The same for coins where prices are measured: the expected cost that orders them knows no price of a step."""

_FLOOR_SLACK = 1.1
"""A candidate is left out if its error is foreseen to be this much too large: estimates have noise."""

_COINS_LEFT = 0.6
"""What is counted on to be left of a contribution of the coins that is foreseen from fewer firings."""

_COINS_KEPT = 0.8
"""The same, from as many firings at another number of steps."""


@dataclass(frozen=True)
class Found:
    """The cheapest candidate of a method that reaches an error, and its trial; ``None`` if none does."""

    target: float
    candidate: Candidate | None
    trial: Trial | None

    __repr__ = as_call


class Search:
    """Search for one method at a time; trials are remembered across methods.

    Args:
        drift: the ladder.
        measure: tries a candidate.
        price: what a trial cost: in declared units or in seconds.
        plain_runs: whether the plain run of a candidate's level and steps may be tried to see what its coins could
            reach at best. It is cheap where prices are declared, and not where they are real.
    """

    def __init__(
        self,
        drift: DriftHierarchy,
        measure: Callable[[Candidate], Trial],
        price: Callable[[Trial], float],
        plain_runs: bool,
    ) -> None:
        self._drift, self._measure, self._price = drift, measure, price
        self._plain_runs = plain_runs
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
                declared = self._plain_runs or candidate.method.coins is None
                limit = (_MARGIN if declared else _WIDE_MARGIN) * candidate.cost
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
        if candidate.method.plain:  # few steps do not tell what more of them reach: it may still be far from its order
            return False
        if candidate.method.run is not None:  # nothing is known of it
            return False
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
        known = self._plain.get((stepper, level, steps))
        if known is not None:
            return known
        above = [error for (s, k, n), error in self._plain.items() if s == stepper and k >= level and n >= steps]
        if max(above, default=0.0) > _FLOOR_SLACK * target or not self._plain_runs:
            return max(above, default=0.0)
        return self.trial(plain_run(candidate, self._drift)).error

    def _foreseen(self, candidate: Candidate) -> float:
        """What the coins hardly get below, from candidates of as many levels and no more firings.

        Their part of the squared error falls like ``firings^-s - steps^-s``, ``s`` the order that the method was given:
        it vanishes where every level fires at every step. Half an order more is allowed for, and as much again near
        that end, which the lower levels reach before the top one.
        """
        if candidate.sure:
            return 0.0
        order, steps, setting = candidate.method.order, candidate.steps, candidate.setting
        part, worst = setting**-order - steps**-order, 0.0
        for n, firings, square in self._coins.get((candidate.method, candidate.levels), []):
            known = self._plain.get((candidate.method.stepper, candidate.levels, n))
            if firings <= setting and (known is not None or n == steps):
                coins = max(0.0, square - (0.0 if known is None else known**2))
                fallen = min(1.0, part / (firings**-order - n**-order)) * (firings / setting) ** 0.5
                worst = max(worst, (_COINS_KEPT if firings == setting else _COINS_LEFT) * coins * fallen)
        return worst * part * setting**order
