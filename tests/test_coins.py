from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mlsde import coins

KEY = ((7,),)
RANDOM = ("independent", "nested", "systematic")

offsets_ = st.one_of(st.floats(0, 1, exclude_max=True), st.sampled_from([0.0, 0.5, 1 - 2**-53]))
probabilities = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0, 1 - 2**-53]))
tables = st.integers(1, 60).flatmap(lambda n: arrays(np.float64, (n, 2), elements=probabilities))


def toss(rule, table, keys=KEY, start=0, stop=None, **options):
    stop = len(table) if stop is None else stop
    running = coins.running_sums(table)[start : stop + 1]
    return coins.fires(rule, table[start:stop], running, keys, start, **options)


def assert_counts_are_floor_or_ceiling_of_their_mean(fires, table):
    """Over every stretch of sure and unsure steps alike; sums of probabilities are known to rounding only."""
    mean, count = table.sum(axis=0), fires.sum(axis=0)
    assert (count >= np.floor(mean - 1e-8)).all(), (count, mean)
    assert (count <= np.ceil(mean + 1e-8)).all(), (count, mean)


@settings(deadline=None, max_examples=300)
@given(table=tables, u=st.tuples(offsets_, offsets_), data=st.data())
def test_systematic_counts_are_the_floor_or_ceiling_of_their_mean_over_every_stretch(table, u, data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coins, "_offsets", lambda *_: np.array(u)[:, None])
        fires = toss("systematic", table)
    assert_counts_are_floor_or_ceiling_of_their_mean(fires, table)
    start = data.draw(st.integers(0, len(table) - 1))
    stretch = slice(start, data.draw(st.integers(start + 1, len(table))))
    assert_counts_are_floor_or_ceiling_of_their_mean(fires[stretch], table[stretch])


@settings(deadline=None, max_examples=100)
@given(table=tables)
def test_after_a_forced_first_firing_the_count_is_that_of_the_remaining_steps(table):
    forced = np.concatenate([np.ones((1, 2)), table])
    for rule in ("systematic", "periodic"):
        fires = toss(rule, forced, offset=0.0)
        assert fires[0].all()
        assert_counts_are_floor_or_ceiling_of_their_mean(fires[1:], table)


def test_counts_of_independent_and_nested_coins_are_not_the_floor_or_ceiling_of_their_mean():
    table = np.full((400, 2), 0.3)
    for rule in ("independent", "nested"):
        with pytest.raises(AssertionError):
            assert_counts_are_floor_or_ceiling_of_their_mean(toss(rule, table), table)


@settings(deadline=None, max_examples=50)
@given(table=tables, seed=st.integers(0, 2**64))
def test_certain_levels_always_fire_and_impossible_ones_never(table, seed):
    for rule in coins.COINS:
        fires = toss(rule, table, keys=((seed,),))
        assert fires[table == 1].all()
        assert not fires[table == 0].any()


@settings(deadline=None, max_examples=50)
@given(table=tables, seed=st.integers(0, 2**64))
def test_with_nested_coins_a_level_fires_only_with_every_likelier_one(table, seed):
    fires = toss("nested", table, keys=((seed,),))
    order = np.argsort(-table, axis=1)
    sorted_fires = np.take_along_axis(fires, order, axis=1)
    assert (sorted_fires[:, 1] <= sorted_fires[:, 0]).all()


def test_independent_coins_are_not_nested():
    table = np.tile([0.6, 0.3], (200, 1))
    fires = toss("independent", table)
    assert (fires[:, 1] & ~fires[:, 0]).any()


def test_periodic_coins_are_the_same_for_every_seed_and_evenly_spaced():
    table = np.full((40, 1), 0.25)
    fires = toss("periodic", table, offset=0.5)
    assert np.array_equal(fires, toss("periodic", table, keys=((99,),), offset=0.5))
    assert np.flatnonzero(fires[:, 0]).tolist() == list(range(1, 40, 4))
    assert np.flatnonzero(toss("periodic", table, offset=0.0)[:, 0]).tolist() == list(range(3, 40, 4))


def test_ten_times_a_tenth_is_one_firing():
    table = np.full((100_000, 1), 0.1)
    fires = toss("periodic", table, offset=0.0)[:, 0]
    assert np.array_equal(np.flatnonzero(fires), np.arange(9, 100_000, 10))


@pytest.mark.parametrize("rule", coins.COINS)
@pytest.mark.parametrize("per_sample", [False, True])
def test_a_block_is_the_same_wherever_it_starts(rule, per_sample):
    table = np.random.default_rng(0).random((700, 3))
    keys = ((3, 0), (3, 1)) if per_sample else KEY
    whole = toss(rule, table, keys, per_sample=per_sample)
    assert whole.shape == ((700, 3, 2) if per_sample else (700, 3))
    for start, stop in ((0, 1), (255, 257), (250, 600), (512, 700), (699, 700)):
        assert np.array_equal(toss(rule, table, keys, start, stop, per_sample=per_sample), whole[start:stop])


@pytest.mark.parametrize("rule", RANDOM)
def test_seeds_and_samples_have_their_own_coins_and_a_sample_keeps_its_coins_in_any_batch(rule):
    table = np.random.default_rng(0).random((64, 3))
    fires = toss(rule, table, ((3, 0), (3, 1), (4, 0)), per_sample=True)
    assert len({fires[..., i].tobytes() for i in range(3)}) == 3
    assert np.array_equal(toss(rule, table, ((4, 0),), per_sample=True)[..., 0], fires[..., 2])


def assert_frequencies_are(fires, p):
    """Fires of shape (trials,): within 6 standard deviations, a false alarm of 2e-9 each."""
    assert abs(fires.mean() - p) < 6 * (p * (1 - p) / len(fires)) ** 0.5, (fires.mean(), p)


@pytest.mark.parametrize("rule", ["independent", "nested"])
def test_levels_fire_as_often_as_their_probability_says(rule):
    p = np.array([0.5, 0.2, 0.05])
    fires = toss(rule, np.tile(p, (100_000, 1)))
    for k in range(3):
        assert_frequencies_are(fires[:, k], p[k])
        with pytest.raises(AssertionError):
            assert_frequencies_are(fires[:, k], 1.25 * p[k])
    both, now_and_next = fires[:, 0] & fires[:, 1], fires[:-1, 0] & fires[1:, 0]
    assert_frequencies_are(both, 0.1 if rule == "independent" else 0.2)
    assert_frequencies_are(now_and_next[::2], 0.25)


def test_offsets_of_systematic_coins_are_uniform_and_independent_of_each_other():
    table = np.tile([0.5, 0.2], (1, 1))
    keys = tuple((5, i) for i in range(20_000))
    fires = toss("systematic", table, keys, per_sample=True)[0]
    assert_frequencies_are(fires[0], 0.5)
    assert_frequencies_are(fires[1], 0.2)
    assert_frequencies_are(fires[0] & fires[1], 0.1)


def test_running_sums_leave_out_sure_steps():
    table = np.array([[1.0, 0.5], [0.25, 1.0], [0.5, 0.5]])
    assert coins.running_sums(table).tolist() == [[0, 0], [0, 0.5], [0.25, 0.5], [0.75, 1.0]]


def test_running_sums_of_a_million_steps_are_exact_to_a_billionth():
    table = np.tile([0.1, 1 / 3, 1e-7], (1_000_000, 1))
    expected = [float(Fraction(p) * len(table)) for p in table[0].tolist()]
    np.testing.assert_allclose(coins.running_sums(table)[-1], expected, rtol=0, atol=1e-9)
    assert abs(np.cumsum(table[:, 1])[-1] - expected[1]) > 1e-9  # a plain sum is not
