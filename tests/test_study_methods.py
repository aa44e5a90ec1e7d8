"""What a study may try: its candidates, their prices, and that they are what is really solved."""

import re
from itertools import pairwise, product

import numpy as np
import pytest
import torch

import mlsde
from mlsde import theory
from mlsde.coins import COINS
from mlsde.multilevel import CORRECTIONS
from mlsde.plan import fixed_plan, multilevel_plan
from mlsde.problems.ladder import LadderProblem
from mlsde.steppers import METHODS
from mlsde.study import methods
from mlsde.study.methods import Candidate, candidates, multilevel, plain, plain_run, stitched_levels, stitching
from mlsde.study.trials import Batch

SPAN = (0.0, 1.0)
GAMMA = 2.5
STEPS = [1, 2, 3, 8]
COSTS = (1.0, 6.0, 40.0)


def levels(count=3):
    return [lambda t, y, k=k: -y + 2.0**-k * torch.cos(3.0 * y + k + t) for k in range(1, count + 1)]


LADDER = mlsde.DriftHierarchy(levels(), COSTS)
DIFFERENCES = mlsde.DriftHierarchy.from_differences(
    [levels()[0], *(lambda t, y, a=a, b=b: b(t, y) - a(t, y) for a, b in pairwise(levels()))], COSTS
)
LADDERS = pytest.mark.parametrize("drift", [LADDER, DIFFERENCES], ids=["levels", "differences"])
RULES = [pair for pair in product(COINS, CORRECTIONS) if pair[1] != "extrapolate" or pair[0] in COINS[2:]]
MULTILEVEL = [multilevel(*pair) for pair in RULES]
EVERY = [
    plain(),
    plain("heun"),
    stitching(),
    stitching("heun"),
    *MULTILEVEL,
    multilevel("periodic", "hold", stepper="heun"),
]
named = pytest.mark.parametrize("method", EVERY, ids=lambda method: method.key)


def batch(drift, samples=4, span=SPAN, noise=None):
    y0 = torch.linspace(-1.0, 1.0, 2 * samples, dtype=torch.float64).view(samples, 2)
    problem = LadderProblem("test", mlsde.SDE(drift, noise), y0, span, gamma=GAMMA)
    return Batch(problem, problem.initial(samples), tuple(range(100, 100 + samples)), 64)


def written_out(method, drift, count, n, m):
    """Price of a candidate from its probabilities, by the formula of the theory."""
    costs = np.array(COSTS[:count])
    stages = METHODS[method.stepper].stages
    p = np.minimum(1.0, m / n * (costs / costs[-1]) ** (-(1.0 + 2.0 / GAMMA) / (method.order + 1.0)))
    how = {"coins": method.coins, "correction": method.correction, "stages": stages}
    return theory.expected_cost(p, costs, n, differences=drift.differences, **how)


@LADDERS
@named
def test_the_cost_of_a_candidate_is_the_expected_cost_of_the_plan_that_is_solved(method, drift):
    one = batch(drift)
    for candidate in candidates(method, drift, SPAN, GAMMA, [1, 5]):
        solution = one.run(candidate, GAMMA, "sample")
        assert solution.plan.steps == candidate.steps
        assert len(solution.plan.probabilities.T) == (candidate.levels if method.coins else 3)
        assert candidate.cost == pytest.approx(solution.plan.expected_cost, rel=1e-12)
        if method.coins in (None, "periodic") or candidate.sure:
            assert solution.stats.cost == pytest.approx(candidate.cost, rel=1e-12)


@LADDERS
@pytest.mark.parametrize("method", MULTILEVEL, ids=lambda method: method.key)
def test_the_cost_of_a_candidate_is_that_of_its_probabilities_written_out(method, drift):
    found = [c for c in candidates(method, drift, SPAN, GAMMA, STEPS) if not c.sure]
    assert len(found) > 20
    for candidate in found:
        expected = written_out(method, drift, candidate.levels, candidate.steps, candidate.setting)
        assert candidate.cost == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("coins", COINS[:3])
def test_a_solve_costs_what_its_candidate_says_in_the_mean(coins):
    """Within 6 standard errors of 1,000 samples, a false alarm of 2e-9 each; 10 % more is too much."""
    candidate = Candidate(multilevel(coins, "impulse"), 3, 8, 2.0, 0.0)
    (candidate,) = [c for c in candidates(candidate.method, LADDER, SPAN, GAMMA, [8]) if c == candidate]
    one = batch(LADDER, 1_000)
    plan = one.run(candidate, GAMMA, "sample").plan
    spent = COSTS @ plan.block(0, 8).evaluates.sum(axis=0)
    assert spent.mean() == pytest.approx(plan.cost)
    error = 6 * spent.std() / 1_000**0.5
    assert abs(plan.cost - candidate.cost) < error < 0.1 * candidate.cost
    assert abs(1.1 * plan.cost - candidate.cost) > error


@LADDERS
@named
def test_candidates_come_by_cost_and_are_all_different(method, drift):
    found = candidates(method, drift, SPAN, GAMMA, STEPS)
    assert [c.cost for c in found] == sorted(c.cost for c in found)
    assert len(set(found)) == len({c.key for c in found}) == len({c.describe() for c in found}) == len(found)
    assert {c.levels for c in found} == ({2, 3} if method.stitched else {1, 2, 3})
    assert {c.method for c in found} == {method}


def test_a_multilevel_method_may_use_every_number_of_levels_steps_and_firings():
    found = candidates(multilevel("independent", "impulse"), LADDER, SPAN, GAMMA, [1, 4])
    tried = {(c.levels, c.steps, c.setting) for c in found}
    some = {1: [0.25, 0.375, 0.5, 0.75, 1.0], 4: [0.25, 0.375, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0]}
    assert tried == {(1, 1, 1.0), (1, 4, 4.0)} | {(k, n, m) for k in (2, 3) for n in some for m in some[n]}
    periodic = candidates(multilevel("periodic", "impulse"), LADDER, SPAN, GAMMA, [4])
    assert {c.setting for c in periodic} == {1.0, 1.5, 2.0, 3.0, 4.0}


@pytest.mark.parametrize(("stepper", "stages"), [("euler", 1), ("heun", 2)])
def test_a_plain_candidate_costs_its_level_times_its_steps_and_stages(stepper, stages):
    for drift, prices in ((LADDER, COSTS), (DIFFERENCES, np.cumsum(COSTS))):
        found = candidates(plain(stepper), drift, SPAN, GAMMA, STEPS)
        assert {(c.levels, c.steps): c.cost for c in found} == {
            (k, n): prices[k - 1] * n * stages for k in (1, 2, 3) for n in STEPS
        }
        top = Candidate(multilevel("nested", "hold", stepper=stepper), 2, 5, 1.5, 77.0)
        assert plain_run(top, drift) == Candidate(plain(stepper), 2, 5, 0.0, 0.0)
        assert plain_run(top, drift).cost == prices[1] * 5 * stages


@pytest.mark.parametrize("gamma", [1.5, 2.0, 3.0])
@pytest.mark.parametrize("method", MULTILEVEL, ids=lambda method: method.key)
def test_where_the_top_level_fires_at_every_step_the_cost_is_exactly_the_plain_one(method, gamma):
    """Rounding in the power law would leave the top level's probability short of 1, and pay for the one below too."""
    drift = mlsde.DriftHierarchy(levels(5), [2.0 ** (gamma * k) for k in range(5)])
    sure = [c for c in candidates(method, drift, SPAN, gamma, STEPS) if c.sure]
    assert len(sure) == 5 * len(STEPS)
    assert all(c.cost == plain_run(c, drift).cost for c in sure)


@LADDERS
@pytest.mark.parametrize("share", ["sample", "batch"])
@pytest.mark.parametrize("method", MULTILEVEL, ids=lambda method: method.key)
def test_a_sure_candidate_solves_bit_for_bit_like_the_plain_run(method, share, drift):
    one = batch(drift, noise=0.5)
    for count in (1, 2, 3):
        sure = Candidate(method, count, 6, 6.0, 0.0)
        assert sure.sure
        a, b = (one.run(candidate, GAMMA, share) for candidate in (sure, plain_run(sure, drift)))
        assert torch.equal(a.y1, b.y1)
        assert a.stats.cost == b.stats.cost
    less = Candidate(method, 3, 6, 1.5, 0.0)
    assert not less.sure
    assert not torch.equal(one.run(less, GAMMA, share).y1, b.y1)


@pytest.mark.parametrize("span", [(0.0, 1.0), (1.0, 0.3), (0.1, 0.7)], ids=["forwards", "backwards", "elsewhere"])
@pytest.mark.parametrize("share", [0.25, 0.5, 0.875])
def test_stitched_levels_are_those_of_a_count_of_steps(span, share):
    for n in range(8, 40):
        times = np.linspace(*span, n + 1)[:-1].tolist()
        early = int(np.ceil(n * share))  # steps that begin before the share of the time is over
        assert [stitched_levels(3, share, span)(t) for t in times] == [2] * early + [3] * (n - early)
        early = int(np.ceil(n * (1 - share)))
        assert [stitched_levels(3, -share, span)(t) for t in times] == [3] * early + [2] * (n - early)


@pytest.mark.parametrize("span", [(0.0, 1.0), (1.0, 0.0)], ids=["forwards", "backwards"])
def test_stitched_candidates_call_both_levels_and_cost_what_those_calls_do(span):
    found = candidates(stitching(), LADDER, span, GAMMA, [1, 2, 4, 8, 12])
    assert {c.steps for c in found if abs(c.setting) == 0.5} == {2, 4, 8, 12}
    assert {c.steps for c in found if abs(c.setting) == 0.75} == {4, 8, 12}
    assert {c.steps for c in found if abs(c.setting) == 0.875} == {8, 12}
    for c in found:
        share = abs(c.setting)
        cheap = np.ceil(c.steps * share) if c.setting > 0 else c.steps - np.ceil(c.steps * (1 - share))
        assert 0 < cheap < c.steps
        assert c.cost == pytest.approx(cheap * COSTS[c.levels - 2] + (c.steps - cheap) * COSTS[c.levels - 1])
        evaluations = batch(LADDER, span=span).run(c, GAMMA, "sample").stats.evaluations
        assert evaluations[c.levels - 2 : c.levels] == (cheap, c.steps - cheap)
        plan = fixed_plan(methods.chosen_level(c, span), np.linspace(*span, c.steps + 1), LADDER)
        assert (plan.probabilities.sum(axis=1)[0] < c.levels) == (c.setting > 0)  # the cheap level first


@pytest.mark.parametrize(("stepper", "cost"), [("euler", 16.0), ("heun", 30.0)])
def test_a_memory_and_the_stages_of_heun_are_paid_as_counted_by_hand(stepper, cost):
    """Two levels of prices 1 and 6, the first always on, the other at steps 0 and 2 of 4.

    First stages: level 1 at every step, level 2 twice. Second ones: level 2 twice, level 1 where level 2 is silent.
    """
    method = multilevel("periodic", "hold", stepper=stepper)
    wanted = Candidate(method, 2, 4, 2.0, 0.0)
    (found,) = [c for c in candidates(method, LADDER, SPAN, GAMMA, [4]) if c == wanted]
    assert found.cost == cost
    assert batch(LADDER).run(found, GAMMA, "sample").stats.cost == cost


@pytest.mark.parametrize("costs", [COSTS, (1.0, 50.0, 6.0), (9.0, 3.0, 1.0), (1.0, 1.0, 1.0)], ids=str)
@pytest.mark.parametrize("order", [1.0, 2.0, 4.0])
def test_periodic_impulses_are_never_refused_for_a_level_that_stays_silent(order, costs):
    """Also where a middle level is the dearest one, which then fires least."""
    drift = mlsde.DriftHierarchy.from_differences(list(DIFFERENCES.levels), costs)
    method = multilevel("periodic", "impulse", order=order)
    one = batch(drift)
    found = candidates(method, drift, SPAN, GAMMA, [1, 3, 12])
    assert sum(c.sure for c in found) == 9
    for c in found:
        plan = one.run(c, GAMMA, "sample").plan
        assert plan.block(0, c.steps).fires.any(axis=0).all()
    times, silent = np.linspace(0.0, 1.0, 25), methods.rule(method, drift, GAMMA, 24, 0.4, "batch")
    with pytest.raises(ValueError, match="would never fire"):
        multilevel_plan(silent, times, drift)


def test_names_and_keys_are_unique_and_serve_as_file_names():
    orders = [multilevel(*pair, order=order) for pair in RULES for order in (0.5, 3.0, 4.0)]
    heun = [multilevel(*pair, stepper="heun") for pair in RULES if pair[1] in ("hold", "extrapolate")]
    every = [*map(plain, METHODS), *map(stitching, METHODS), *MULTILEVEL, *orders, *heun]
    assert len({method.key for method in every}) == len({method.name for method in every}) == len(every)
    keys = [Candidate(method, 12, 98304, 0.375, 0.0).key for method in every]
    assert all(re.fullmatch(r"[A-Za-z0-9._+=-]{1,120}", key) for key in keys)


@pytest.mark.parametrize("correction", ["impulse", "control"])
def test_impulses_inside_heun_are_refused_before_a_study_begins(correction):
    with pytest.raises(ValueError, match=f"correction='{correction}'; use 'hold'"):
        multilevel("independent", correction, stepper="heun")


def test_keys_are_those_under_which_trials_have_been_kept():
    """Changing them would throw away the trials in folders that exist."""
    independent, hold = multilevel("independent", "impulse"), multilevel("systematic", "hold")
    assert Candidate(plain(), 3, 96, 0.0, 0.0).key == "plain-euler-K3-n96-m0"
    assert Candidate(independent, 2, 1024, 0.375, 0.0).key == "independent-impulse-euler-s1-K2-n1024-m0.375"
    assert Candidate(hold, 2, 8, 6.0, 0.0).key == "systematic-hold-euler-s2-K2-n8-m6"
    assert Candidate(stitching("heun"), 2, 8, -0.875, 0.0).key == "stitched-heun-K2-n8-m-0.875"


def test_chance_alone_has_order_one_and_every_other_rule_order_two():
    orders = {pair: multilevel(*pair).order for pair in RULES}
    chance = {pair for pair, order in orders.items() if order == 1.0}
    assert chance == set(product(("independent", "nested"), ("impulse", "control")))
    assert set(orders.values()) == {1.0, 2.0}


def test_settings_are_described_in_words():
    rule = multilevel("independent", "impulse")
    found = {
        Candidate(plain(), 2, 8, 0.0, 0.0): "level 2, 8 steps",
        Candidate(rule, 3, 8, 0.75, 0.0): "3 levels, 8 steps, top level fires 0.75 times",
        Candidate(rule, 3, 8, 8.0, 0.0): "level 3 at every one of 8 steps",
        Candidate(stitching(), 3, 8, 0.25, 0.0): "level 3, level 2 for the first 0.25 of the time, 8 steps",
        Candidate(stitching(), 3, 8, -0.25, 0.0): "level 3, level 2 for the last 0.25 of the time, 8 steps",
    }
    assert {candidate: candidate.describe() for candidate in found} == found


def test_round_numbers_are_powers_of_two_and_those_halfway():
    assert methods.round_numbers(1.0, 16) == [1, 1.5, 2, 3, 4, 6, 8, 12, 16]
    assert methods.round_numbers(0.3, 1.4) == [0.375, 0.5, 0.75, 1.0]
    assert methods.round_numbers(1.0, 0.99) == []


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: plain("rk4"), ValueError, "stepper='rk4' is not known"),
        (lambda: stitching("rk4"), ValueError, "stepper='rk4' is not known"),
        (lambda: multilevel("sometimes", "hold"), ValueError, "coins='sometimes' is not known"),
        (lambda: multilevel("nested", "hope"), ValueError, "correction='hope' is not known"),
        (lambda: multilevel("nested", "hold", stepper="rk4"), ValueError, "stepper='rk4' is not known"),
        (lambda: multilevel("nested", "hold", order=0.0), ValueError, "order must be above zero"),
        (lambda: multilevel("nested", "hold", order="2"), TypeError, "order must be a number"),
        (lambda: multilevel("nested", "extrapolate"), ValueError, "correction='extrapolate' with coins='nested'"),
        (
            lambda: candidates(plain(), mlsde.DriftHierarchy(levels()), SPAN, GAMMA, [1]),
            ValueError,
            "a convergence study needs the price of each level",
        ),
    ],
)
def test_bad_arguments_are_named(call, error, words):
    with pytest.raises(error, match=words):
        call()
