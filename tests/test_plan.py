import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from enumeration import Table, heard, outcomes, tossed
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import mlsde
from mlsde import coins
from mlsde.multilevel import CORRECTIONS, SHARES
from mlsde.plan import fixed_plan, multilevel_plan

COSTS = [1.0, 8.0, 64.0]
RULES = [
    (coin, correction, stages)
    for coin, correction, stages in itertools.product(coins.COINS, CORRECTIONS, (1, 2))
    if (correction != "extrapolate" or coin in ("systematic", "periodic"))
    and (stages == 1 or correction in ("hold", "extrapolate"))
]
MAKERS = (mlsde.DriftHierarchy, mlsde.DriftHierarchy.from_differences)


def ladder(make=mlsde.DriftHierarchy, count=3):
    return make([lambda t, y, k=k: torch.cos(y * (k + 1)) for k in range(count)], COSTS[:count])


def plan_of(table, coin, correction="impulse", share="batch", make=mlsde.DriftHierarchy, stages=1, seed=0, batch=4):
    table = np.array(table, dtype=np.float64)
    rule = mlsde.Multilevel(Table(table), coins=coin, correction=correction, share=share, seed=seed)
    times = np.linspace(0.0, 1.0, len(table) + 1)
    return multilevel_plan(rule, times, ladder(make, table.shape[1]), stages=stages, batch=batch)


def random_table(steps, levels=3, seed=0):
    """Probabilities among which equal ones, zeros and ones are frequent."""
    rng = np.random.default_rng(seed)
    return rng.choice([0.0, 0.25, 0.5, 0.5, 1.0, 1.0, 1.0], size=(steps, levels))


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize(("coin", "correction", "stages"), RULES)
def test_the_plan_costs_what_the_counters_saw(coin, correction, stages, share, make):
    for seed in range(2):
        table = random_table(80, seed=seed)
        rule = mlsde.Multilevel(Table(table), coins=coin, correction=correction, share=share)
        run = mlsde.solve(
            mlsde.SDE(ladder(make)), torch.linspace(-1, 1, 5)[:, None], (0, 1), steps=80, multilevel=rule, seed=seed,
            method="euler" if stages == 1 else "heun",
        )  # fmt: skip
        assert run.plan.evaluations == pytest.approx(run.stats.evaluations, rel=1e-12)
        assert run.plan.cost == pytest.approx(run.stats.cost, rel=1e-12)
        if share == "batch":
            assert run.plan.evaluations.tolist() == list(run.stats.calls)
        full = 80 * stages * (sum(COSTS) if run.plan.differences else COSTS[-1])
        assert run.plan.full_cost == run.stats.full_cost == full


# multiples of 1/64, so that the cells of systematic offsets are wide and equal probabilities have equal weights
coarse = st.one_of(st.integers(0, 64).map(lambda i: i / 64), st.sampled_from([0.0, 0.5, 1.0]))


@settings(deadline=None, max_examples=25)
@given(
    table=st.sampled_from([(3, 2), (2, 3), (3, 1)])
    .flatmap(lambda shape: arrays(np.float64, shape, elements=coarse))
    .filter(lambda table: table.max(axis=0).min() > 0),
    make=st.sampled_from(MAKERS),
)
@pytest.mark.parametrize(("coin", "correction", "stages"), RULES)
def test_expected_evaluations_are_the_mean_over_all_outcomes_of_the_coins(coin, correction, stages, table, make):
    assume(heard(coin, correction, table))
    assert_mean_evaluations(plan_of(table, coin, correction, "sample", make, stages))


def assert_mean_evaluations(drawn, expected=None):
    every = outcomes(drawn)
    with tossed(every):
        keys = tuple((0, i) for i in range(len(every)))
        counts = np.stack([replace(drawn, keys=(key,)).evaluations for key in keys])
    expected = drawn.expected_evaluations if expected is None else expected
    np.testing.assert_allclose(every.chances @ counts, expected, rtol=1e-9, atol=1e-9)
    assert drawn.expected_cost == pytest.approx(every.chances @ counts @ drawn.costs, rel=1e-9)


@pytest.mark.parametrize("coin", ["independent", "systematic"])
def test_the_sum_of_the_probabilities_is_not_the_mean_of_the_evaluations(coin):
    """A level is also evaluated where only the one above it fires."""
    drawn = plan_of([[0.5, 0.25]] * 2, coin, share="sample")
    assert_mean_evaluations(drawn)
    with pytest.raises(AssertionError):
        assert_mean_evaluations(drawn, drawn.probabilities.sum(axis=0))


def test_nothing_that_cancels_is_evaluated():
    """By hand: impulses of equal weight cancel the lower level, those of different weight do not."""
    block = plan_of([[1, 1, 0], [0.5, 0.5, 1], [1, 0.5, 0.5]], "periodic").block(0, 3)
    assert block.fires.tolist() == [[True, True, False], [True, True, True], [True, False, True]]
    assert block.weights.tolist() == [[1, 1, 0], [2, 2, 1], [1, 0, 2]]
    assert block.coefficients.tolist() == [[0, 1, 0], [0, 1, 1], [1, -2, 2]]
    assert block.evaluates.tolist() == [[False, True, False], [False, True, True], [True, True, True]]


@pytest.mark.parametrize("correction", ["hold", "control", "extrapolate"])
def test_a_prefix_that_always_fires_costs_one_evaluation_with_a_memory_too(correction):
    drawn = plan_of([[1, 1, 0.25]] * 42, "periodic", correction)
    assert drawn.evaluations.tolist() == [0, 42, 11]
    assert drawn.expected_evaluations.tolist() == [0, 42, 11]


@pytest.mark.parametrize("correction", ["hold", "control", "extrapolate"])
def test_corrections_with_a_memory_fire_every_level_at_the_first_step(correction):
    drawn = plan_of([[0.5, 0.25, 0]] * 3 + [[0.5, 0.25, 0.125]], "systematic", correction)
    assert drawn.probabilities[0].tolist() == [1, 1, 1]
    assert drawn.block(0, 1).fires.all()
    assert plan_of([[0.5, 0.25, 0.125]], "systematic").probabilities[0].tolist() == [0.5, 0.25, 0.125]


@pytest.mark.parametrize("coin", coins.COINS)
@pytest.mark.parametrize("share", SHARES)
def test_a_plan_served_in_any_blocks_is_the_same_plan(coin, share):
    drawn = plan_of(random_table(300), coin, "hold", share)
    whole = drawn.block(0, 300)
    for start, stop in ((0, 64), (63, 65), (250, 300)):
        block = drawn.block(start, stop)
        for field in ("fires", "weights", "coefficients", "evaluates"):
            assert np.array_equal(getattr(block, field), getattr(whole, field)[start:stop]), field


def test_exact_cost_follows_the_expected_one_within_its_standard_deviation():
    """Independent coins, 10,000 steps: within 6 standard deviations of a sum of bounded terms (false alarm 2e-9)."""
    drawn = plan_of([[1, 0.25, 0.125]] * 10_000, "independent")
    counts = drawn.evaluations
    assert (abs(counts - drawn.expected_evaluations) < 6 * 0.5 * 100).all()
    assert (counts != drawn.expected_evaluations).any()
    systematic = plan_of([[1, 0.25, 0.125]] * 10_000, "systematic")
    assert abs(systematic.evaluations[2] - 1250) <= 1


def test_periodic_plans_are_expected_to_cost_what_they_cost_and_know_no_seed():
    first, second = (plan_of(random_table(50), "periodic", "hold", seed=seed) for seed in (0, 1))
    assert first.cost == first.expected_cost == second.cost


@pytest.mark.parametrize("make", MAKERS)
def test_plans_without_coins_call_one_level_or_stitch_levels_by_time(make):
    times, drift = np.linspace(0, 1, 11), ladder(make)
    differences = drift.differences
    top, second = fixed_plan(None, times, drift), fixed_plan(2, times, drift, stages=2)
    assert top.evaluations.tolist() == ([10, 10, 10] if differences else [0, 0, 10])
    assert top.cost == top.full_cost == top.expected_cost
    assert second.evaluations.tolist() == ([20, 20, 0] if differences else [0, 20, 0])
    stitched = fixed_plan(lambda t: 1 if t < 0.35 else 3, times, drift)
    assert stitched.evaluations.tolist() == ([10, 6, 6] if differences else [4, 0, 6])


def test_a_plan_without_costs_has_evaluations_but_no_cost():
    rule = mlsde.Multilevel(mlsde.Constant([1.0, 0.5]))
    drawn = multilevel_plan(rule, np.linspace(0, 1, 5), mlsde.DriftHierarchy([torch.sin, torch.cos]))
    assert drawn.cost is drawn.full_cost is drawn.expected_cost is None
    assert "4 steps, systematic hold" in repr(drawn)


def test_samples_have_their_own_coins_and_a_seed_each_where_they_are_given():
    table = random_table(64)
    both = plan_of(table, "independent", share="sample", batch=2)
    assert len(both.keys) == 2
    assert not np.array_equal(*np.moveaxis(both.block(0, 64).fires, -1, 0))
    rule = mlsde.Multilevel(Table(table), coins="independent", correction="impulse", share="sample")
    times = np.linspace(0, 1, 65)
    seeded = multilevel_plan(rule, times, ladder(), seed=(5, 6), batch=2).block(0, 64)
    alone = multilevel_plan(rule, times, ladder(), seed=(6,), batch=1).block(0, 64)
    assert np.array_equal(seeded.fires[..., 1], alone.fires[..., 0])


def test_one_coin_for_all_samples_needs_one_seed():
    rule = mlsde.Multilevel(mlsde.Constant([0.5] * 3), correction="impulse")
    with pytest.raises(ValueError, match=r"seed holds one seed per sample, but share='batch'"):
        multilevel_plan(rule, np.linspace(0, 1, 5), ladder(), seed=(1, 2), batch=2)
    own = replace(rule, seed=3)
    assert multilevel_plan(own, np.linspace(0, 1, 5), ladder(), seed=(1, 2), batch=2).keys == ((3,),)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"coins": "fair"}, "coins='fair' is not known; choose one of 'independent', 'nested', 'systematic'"),
        ({"correction": "none"}, "correction='none' is not known; choose one of 'impulse', 'hold'"),
        ({"share": "all"}, "share='all' is not known; choose one of 'batch', 'sample'"),
        ({"seed": -1}, "seed must not be negative, got -1"),
        ({"coins": "independent", "correction": "extrapolate"}, "the slope explodes; use coins='systematic'"),
        ({"coins": "nested", "correction": "extrapolate"}, "correction='extrapolate' with coins='nested' is refused"),
    ],
)
def test_a_multilevel_rule_refuses_what_it_does_not_know(wrong, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        mlsde.Multilevel(mlsde.PowerLaw(2.5), **wrong)


@pytest.mark.parametrize(("level", "error"), [(0, ValueError), (4, ValueError), (1.0, TypeError), (True, TypeError)])
def test_a_level_must_be_one_of_the_ladder(level, error):
    for choice in (level, lambda t: level):
        with pytest.raises(error, match=r"level must be"):
            fixed_plan(choice, np.linspace(0, 1, 5), ladder())


def test_a_misspelt_keyword_is_refused():
    with pytest.raises(TypeError, match="corection"):
        mlsde.Multilevel(mlsde.PowerLaw(2.5), corection="hold")


@pytest.mark.parametrize("share", ["batch", "sample"])
def test_periodic_impulses_that_would_never_fire_a_level_are_refused(share):
    """Half a firing in the whole run: systematic coins may have it, periodic ones never do."""
    drift = mlsde.DriftHierarchy([lambda t, y: -y] * 2, costs=[1.0, 9.0])
    times, probabilities = np.linspace(0, 1, 41), mlsde.Constant([1.0, 0.012])
    with pytest.raises(ValueError, match=r"level 2 would never fire in 40 steps.*0\.48; .*systematic"):
        multilevel_plan(mlsde.Multilevel(probabilities, "periodic", "impulse", share), times, drift, batch=3)
    multilevel_plan(mlsde.Multilevel(probabilities, "systematic", "impulse", share), times, drift, batch=3)
    multilevel_plan(mlsde.Multilevel(probabilities, "periodic", "hold", share), times, drift, batch=3)
