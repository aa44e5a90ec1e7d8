"""The search for the least cost finds what trying every candidate does, from far fewer trials.

Errors come from :class:`mlsde.theory.ErrorModel`, so the whole truth is known and nothing is solved.
"""

import functools
import math
import zlib
from collections import Counter

import numpy as np
import pytest

import mlsde
from mlsde import theory
from mlsde.study import search as searching
from mlsde.study.methods import Candidate, candidates, multilevel, plain, plain_run, stitching
from mlsde.study.search import Search
from mlsde.study.trials import Trial

LEVELS = 5
STEPS = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256]
TARGETS = [2.0 ** (-i / 2) for i in range(-1, 10)]
PAPER, SPREAD, HOLD = (
    multilevel("independent", "impulse"),
    multilevel("systematic", "impulse"),
    multilevel("nested", "hold"),
)


def model_of(gamma, order, strong_order, step_error, coins_error):
    halvings = 2.0 ** -np.arange(1, LEVELS + 1)
    costs = 2.0 ** (gamma * np.arange(LEVELS))
    return theory.ErrorModel(costs, halvings, step_error, 4.0 * coins_error * halvings**2, strong_order, order)


class World:
    """Every candidate of some methods on a model, with its true error and what a trial finds, and how often it ran."""

    def __init__(self, gamma, order=1.0, strong_order=1.0, step_error=2.0, coins_error=1.0, method=None, noise=0.0):
        self.key = gamma, order, strong_order, step_error, coins_error
        self.model = model_of(*self.key)
        self.gamma, self.noise, self.method = gamma, noise, method
        self.drift = mlsde.DriftHierarchy([lambda t, y: -y] * LEVELS, self.model.costs.tolist())
        self.tried = Counter()
        self.plain, self.coins = self.candidates(plain()), [] if method is None else self.candidates(method)

    def candidates(self, method):
        return _candidates(method, self.gamma, self.drift.costs)

    def error(self, candidate):
        return _error(self.key, candidate)

    def true_error(self, candidate):
        if candidate.method.plain or candidate.sure:
            return self.model.plain(candidate.levels, candidate.steps)[1]
        costs, s = self.model.costs[: candidate.levels], candidate.method.order
        p = (costs / costs[-1]) ** (-(1.0 + 2.0 / self.gamma) / (s + 1.0)) * candidate.setting / candidate.steps
        squared = self.model.predict(candidate.levels, float(candidate.steps), np.minimum(1.0, p), "independent")[1]
        return math.sqrt(squared)

    def measure(self, candidate):
        self.tried[candidate] += 1
        luck = np.random.default_rng(zlib.crc32(candidate.key.encode())).standard_normal()
        return Trial((self.error(candidate) * math.exp(self.noise * luck),), candidate.cost, 0.0)

    def search(self, plain_runs=True):
        self.tried.clear()
        return Search(self.drift, self.measure, lambda trial: trial.cost, plain_runs)

    def least(self, every, target):
        """Of all candidates, by their true errors."""
        return min((c.cost for c in every if self.error(c) <= target), default=math.inf)


@functools.cache
def _error(key, candidate):
    return World(*key).true_error(candidate)


@functools.cache
def _candidates(method, gamma, costs):
    drift = mlsde.DriftHierarchy([lambda t, y: -y] * LEVELS, costs)
    return candidates(method, drift, (0.0, 1.0), gamma, STEPS)


def cost(found):
    return math.inf if found.trial is None else found.trial.cost


WORLDS = [
    {"gamma": gamma, "order": method.order, "strong_order": r, "method": method, "step_error": c, "coins_error": a}
    for gamma, c, a in ((1.2, 0.3, 1.0), (1.5, 10.0, 3.0), (2.5, 2.0, 1.0), (4.0, 2.0, 10.0))
    for r in (1.0, 0.5)
    for method in (PAPER, SPREAD, HOLD)
]
worlds = pytest.mark.parametrize(
    "options", WORLDS, ids=lambda w: f"{w['method'].key}-gamma{w['gamma']:g}-r{w['strong_order']:g}"
)


@worlds
@pytest.mark.parametrize("plain_first", [True, False])
def test_the_search_finds_the_least_cost_of_all_candidates_from_far_fewer_trials(options, plain_first):
    world = World(**options)
    search = world.search()
    for every in ([world.plain] if plain_first else []) + [world.coins]:
        for target in TARGETS:
            found = search.least(every, target)
            assert cost(found) == pytest.approx(world.least(every, target), rel=1e-12), target
            assert found.candidate is None or world.error(found.candidate) <= target
    assert max(world.tried.values()) == 1
    assert sum(c.method == world.method for c in world.tried) < 0.25 * len(world.coins)


def test_targets_may_come_in_any_order():
    world = World(2.5, method=PAPER)
    search = world.search()
    for target in TARGETS[::-1]:
        assert cost(search.least(world.coins, target)) == pytest.approx(world.least(world.coins, target), rel=1e-12)


@worlds
def test_without_plain_runs_the_search_tries_none_of_its_own_and_still_finds_it(options):
    world = World(**options)
    search = world.search(plain_runs=False)
    for target in TARGETS:
        assert cost(search.least(world.coins, target)) == pytest.approx(world.least(world.coins, target), rel=1e-12)
    sure = {plain_run(c, world.drift) for c in world.coins}  # where all levels fire, that is what is tried
    assert all(not c.method.plain or c in sure for c in world.tried)
    assert not any(c.sure for c in world.tried)


@worlds
def test_with_noise_on_the_errors_the_least_cost_lies_between_those_of_errors_a_sixth_off(options):
    """Noise of 3 % would have to be 5 standard deviations off."""
    world = World(**options, noise=0.03)
    search = world.search()
    for every in (world.plain, world.coins):
        for target in TARGETS[:-3]:
            found = cost(search.least(every, target))
            assert world.least(every, 1.17 * target) <= found * (1 + 1e-12)
            assert found <= world.least(every, target / 1.17) * (1 + 1e-12)


@pytest.mark.parametrize("strong_order", [1.0, 0.5])
def test_a_plain_level_is_not_given_up_for_how_it_does_with_few_steps(strong_order):
    """An unstable one grows worse at first, or breaks; near it the error falls slower than its order says."""
    world = World(2.5, strong_order=strong_order)

    def unstable(candidate):
        few = {1: 3.0, 2: 9.0, 3: 20.0, 4: math.inf, 6: math.inf, 8: 30.0, 12: 28.0, 16: 2.0}
        return Trial((few.get(candidate.steps, world.error(candidate)),), candidate.cost, 0.0)

    search = Search(world.drift, unstable, lambda trial: trial.cost, True)
    for target in TARGETS[3:]:
        expected = min((c.cost for c in world.plain if unstable(c).error <= target), default=math.inf)
        assert cost(search.least(world.plain, target)) == expected


@pytest.mark.parametrize("plain_runs", [True, False])
def test_errors_out_of_reach_give_none(plain_runs):
    world = World(2.5, method=PAPER)
    search = world.search(plain_runs)
    for every in (world.plain, world.coins, world.candidates(stitching())):
        found = search.least(every, 1e-4)
        assert (found.target, found.candidate, found.trial) == (1e-4, None, None)
    assert search.least([], 1.0).candidate is None
    assert cost(search.least(world.plain, 1.0)) == world.least(world.plain, 1.0)  # and it goes on from there


def missed(options, change, monkeypatch):
    """How many targets are missed by a search of which something was changed."""
    world = World(**options)
    with monkeypatch.context() as patch:
        for name, value in change.items():
            patch.setattr(searching, name, value)
        search = world.search()
        return sum(cost(search.least(world.coins, t)) > world.least(world.coins, t) * 1.001 for t in TARGETS)


EAGER = [{"_COINS_LEFT": 3.0}, {"_COINS_KEPT": 10.0}, {"_FLOOR_SLACK": 0.5}]


@pytest.mark.parametrize("change", EAGER, ids=lambda change: next(iter(change)))
def test_a_search_that_leaves_out_too_much_misses_the_least_cost(change, monkeypatch):
    some = [options for options in WORLDS if (options["gamma"], options["strong_order"]) == (2.5, 1.0)]
    assert sum(missed(options, {}, monkeypatch) for options in some) == 0
    assert sum(missed(options, change, monkeypatch) for options in some) > 3


def test_a_search_that_leaves_out_less_tries_far_more(monkeypatch):
    counts = []
    for coins_left, floors in ((0.6, True), (0.0, True), (0.0, False)):
        world = World(2.5, method=PAPER)
        with monkeypatch.context() as patch:
            patch.setattr(searching, "_COINS_LEFT", coins_left)
            patch.setattr(searching, "_COINS_KEPT", coins_left)
            if not floors:
                patch.setattr(Search, "_hopeless", lambda self, candidate, target: False)
            search = world.search()
            for target in TARGETS:
                search.least(world.coins, target)
        counts.append(sum(c.method == PAPER for c in world.tried))
    assert 2.0 * counts[0] < counts[1] < counts[2] / 1.2, counts


def test_candidates_somewhat_dearer_than_the_least_are_tried_too_and_none_beyond():
    world = World(2.5)
    search = world.search()
    best = search.least(world.plain, 0.5)
    expected = {c for c in world.plain if c.cost <= 1.5 * best.candidate.cost}
    assert set(world.tried) == expected


def test_the_best_by_the_price_paid_wins_over_the_best_by_the_price_expected():
    cheap, dear = (Candidate(plain(), 1, n, 0.0, float(n)) for n in (8, 10))
    seconds = {cheap: 5.0, dear: 4.0}
    drift = mlsde.DriftHierarchy([lambda t, y: -y], [1.0])
    search = Search(drift, lambda c: Trial((0.1,), c.cost, seconds[c]), lambda trial: trial.seconds, False)
    assert search.least([cheap, dear], 0.2).candidate == dear
    assert search.least([cheap, dear], 0.1).candidate == dear  # an error of just the target will do
    assert search.least([cheap, dear], 0.09).candidate is None


def test_the_error_of_a_trial_is_the_median_of_its_seeds():
    one = Candidate(plain(), 1, 8, 0.0, 8.0)
    search = Search(
        mlsde.DriftHierarchy([abs], [1.0]), lambda c: Trial((9.0, 0.1, 0.2), 8.0, 0.0), lambda t: t.cost, True
    )
    assert search.least([one], 0.2).candidate == one
    assert search.least([one], 0.19).candidate is None


def test_a_sure_candidate_is_tried_as_the_plain_run_and_remembered_under_both_names():
    world = World(2.5, method=PAPER)
    search = world.search()
    sure = next(c for c in world.coins if c.sure and c.levels == 3 and c.steps == 8)
    trial = search.trial(sure)
    assert trial is search.trial(plain_run(sure, world.drift)) is search.trial(sure)
    assert world.tried == {plain_run(sure, world.drift): 1}
    assert search.trials == {sure: trial, plain_run(sure, world.drift): trial}


def test_trials_are_remembered_across_methods_and_targets():
    world = World(2.5, method=PAPER)
    search = world.search()
    for _ in range(2):
        for every in (world.plain, world.coins, world.candidates(SPREAD)):
            for target in TARGETS[:5]:
                search.least(every, target)
    assert max(world.tried.values()) == 1
    assert set(world.tried) == {c for c in search.trials if not c.sure}
