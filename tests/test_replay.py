"""Coins replayed on a recording: against runs of the real estimator with the same coins, and over every outcome."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from enumeration import Table, outcomes, tossed

import mlsde
from mlsde import coins
from mlsde.calibration import pilot, replay
from mlsde.calibration.model import Model
from mlsde.multilevel import CORRECTIONS
from mlsde.plan import multilevel_plan

F64 = torch.float64
RULES = [
    (coin, correction)
    for coin, correction in itertools.product(coins.COINS, CORRECTIONS)
    if correction != "extrapolate" or coin in ("systematic", "periodic")
]
STEPS, LEVELS, SIZE, RUNS = 14, 3, 2, 5
GRIDS = {
    "even": np.linspace(0.0, 1.0, STEPS + 1),
    "uneven": np.linspace(0.0, 1.0, STEPS + 1) ** 2 + 0.3,
    "backwards": np.linspace(1.0, -1.0, STEPS + 1),
}


def tables():
    rng = np.random.default_rng(5)
    changing = rng.uniform(0.2, 0.9, (STEPS, LEVELS))
    some_sure = changing.copy()
    some_sure[:, 0], some_sure[4:7, 1], some_sure[-2:, 2] = 1.0, 1.0, 1.0
    some_never = changing.copy()
    some_never[3:6, 1] = 0.0
    return {
        "constant": np.tile([0.7, 0.5, 0.25], (STEPS, 1)),
        "changing with time": changing,
        "sure at times": some_sure,
        "never at times": some_never,
        "all sure": np.ones((STEPS, LEVELS)),
    }


TABLES = tables()


def differences(seed=0):
    """Values of ``D_k`` at every step, shape (K, N, d): chance, so that no two firings are alike."""
    return np.random.default_rng(seed).standard_normal((LEVELS, STEPS, SIZE))


def ladder(values, times, from_differences=False):
    """Levels that depend on time alone: they look their value up."""
    table = torch.as_tensor(values if from_differences else values.cumsum(axis=0))

    def level(k):
        return lambda t, y: table[k, int(np.argmin(np.abs(times - float(t))))].expand_as(y)

    make = mlsde.DriftHierarchy.from_differences if from_differences else mlsde.DriftHierarchy
    return make([level(k) for k in range(len(values))], [8.0**k for k in range(len(values))])


def responses_of(values, times, vectors):
    """``psi_n . D_k(t_m)`` of a drift that only adds up: ``psi_n`` is the projection times the step."""
    out = np.einsum("n,pd,kmd->pknm", np.diff(times), vectors, values)
    return out * np.tri(STEPS)


def missed(drift, times, table, coin, correction, share, seed=3):
    """Distance of the end of a run from that of the top level, and the keys of its coins."""
    rule = mlsde.Multilevel(Table(table), coin, correction, share)
    y0 = torch.zeros(RUNS, SIZE, dtype=F64)
    plain = mlsde.solve(mlsde.SDE(drift), y0, times=times).y1
    run = mlsde.solve(mlsde.SDE(drift), y0, times=times, multilevel=rule, seed=seed)
    return (run.y1 - plain).numpy(), run.plan.keys


def assert_replayed(coin, correction, grid="even", kind="changing with time", share="sample", from_differences=False):
    times, table, values = GRIDS[grid], TABLES[kind], differences()
    vectors = np.random.default_rng(1).standard_normal((4, SIZE))
    drift = ladder(values, times, from_differences)
    expected, keys = missed(drift, times, table, coin, correction, share)
    responses = responses_of(values, times, vectors)
    found = replay.defects(responses, times, table, coin, correction, keys=keys).sum(axis=1)  # (P, repeats)
    expected = np.broadcast_to(vectors @ expected.T, (len(vectors), RUNS))
    np.testing.assert_allclose(np.broadcast_to(found, expected.shape), expected, rtol=1e-9, atol=1e-11)
    return expected


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("coin", "correction"), RULES)
def test_what_is_replayed_is_what_a_run_with_the_same_coins_misses_the_top_level_by(coin, correction, grid, kind):
    size = np.abs(assert_replayed(coin, correction, grid, kind)).max()
    assert size == pytest.approx(0.0, abs=1e-12) if kind == "all sure" else size > 0.01


@pytest.mark.parametrize(("coin", "correction"), RULES)
def test_so_it_is_with_coins_for_the_batch_and_for_ladders_of_differences(coin, correction):
    assert_replayed(coin, correction, share="batch")
    assert_replayed(coin, correction, share="batch", from_differences=True)


def inclusive(fires):
    last = np.maximum.accumulate(np.where(fires, np.arange(len(fires))[:, None, None], 0), axis=0)
    return last, np.take_along_axis(last, last, axis=0)


def one_before(fires):
    last, _ = replay_previous(fires)
    return last, np.maximum(last - 1, 0)


replay_previous = replay._previous
replay_fires = replay._fires

TWINS = {
    "the last firing may be this step's": ("_previous", inclusive, [("systematic", "control")]),
    "lines go through the step before": ("_previous", one_before, [("systematic", "extrapolate")]),
    "no memory": ("MEMORY", (), [("independent", "hold"), ("nested", "control")]),
    "offsets of impulses": (
        "_fires",
        lambda table, coin, keys, remembers: replay_fires(table, coin, keys, False),
        [("periodic", "hold")],
    ),
    "nested coins that are independent": (
        "_fires",
        lambda table, coin, keys, remembers: replay_fires(table, "independent", keys, remembers),
        [("nested", "impulse"), ("nested", "hold")],
    ),
}


@pytest.mark.parametrize("twin", TWINS)
def test_replays_of_another_rule_are_found_out(twin, monkeypatch):
    name, wrong, rules = TWINS[twin]
    monkeypatch.setattr(replay, name, wrong)
    for coin, correction in rules:
        with pytest.raises(AssertionError):
            assert_replayed(coin, correction, "uneven")


def test_each_level_has_its_own_share_of_what_is_missed():
    """Where the others are sure, a level's share is the whole."""
    times, values, vectors = GRIDS["uneven"], differences(), np.eye(SIZE)
    responses = responses_of(values, times, vectors)
    for k in range(LEVELS):
        alone = np.ones((STEPS, LEVELS))
        alone[:, k] = TABLES["changing with time"][:, k]
        expected, keys = missed(ladder(values, times), times, alone, "systematic", "hold", "sample")
        found = replay.defects(responses, times, alone, "systematic", "hold", keys=keys)
        np.testing.assert_allclose(found[:, k], expected.T, rtol=1e-9, atol=1e-12)
        assert np.abs(np.delete(found, k, axis=1)).max() == 0.0


@pytest.mark.parametrize("levels", [(1, 3), (2, 3), (1, 2), (3,), (1, 2, 3)])
@pytest.mark.parametrize(("coin", "correction"), [("systematic", "hold"), ("independent", "impulse")])
def test_merged_responses_are_those_of_the_sub_ladder(levels, coin, correction):
    times, values, vectors = GRIDS["uneven"], differences(), np.eye(SIZE)
    part = replay.merged(responses_of(values, times, vectors), levels)
    table = TABLES["changing with time"][:, : len(levels)]
    drift = ladder(values, times).select(levels)
    expected, keys = missed(drift, times, table, coin, correction, "sample")
    found = replay.defects(part, times, table, coin, correction, keys=keys).sum(axis=1)
    np.testing.assert_allclose(found, expected.T, rtol=1e-9, atol=1e-12)


def test_the_coins_are_the_same_for_every_rule_and_every_call_unless_they_are_given():
    times, table = GRIDS["even"], TABLES["changing with time"]
    responses = responses_of(differences(), times, np.eye(SIZE))
    first, again = (replay.defects(responses, times, table, "independent", "impulse", repeats=3) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert first.shape == (SIZE, LEVELS, 3)
    assert len(np.unique(first.sum(axis=1)[0])) == 3
    assert replay.defects(responses, times, table, "periodic", "hold").shape == (SIZE, LEVELS, 1)


def test_diagonals_increments_and_squares_are_what_they_say():
    times, values, vectors = GRIDS["uneven"], differences(), np.eye(SIZE)
    responses, h = responses_of(values, times, vectors), np.diff(times)
    at = np.einsum("n,pd,knd->pkn", h, vectors, values)
    np.testing.assert_allclose(replay.diagonal(responses), at)
    np.testing.assert_allclose(replay.impulse_squares(responses), (at**2).mean(axis=0).T)
    for lag in (1, 4):
        change = np.einsum("n,pd,knd->pkn", h[lag:], vectors, values[:, lag:] - values[:, :-lag])
        found = replay.increments(responses, lag)
        assert found.shape == (STEPS - lag, LEVELS)
        np.testing.assert_allclose(found, (change**2).mean(axis=0).T)


# means over every outcome of the coins


def model_of(responses, times):
    """A model that knows nothing but responses."""
    drift = mlsde.DriftHierarchy([lambda t, y: -y, lambda t, y: -1.1 * y, lambda t, y: -1.2 * y], [1.0, 8.0, 64.0])
    recording = pilot.record(mlsde.SDE(drift), torch.ones(1, 1, dtype=F64), np.linspace(0.0, 1.0, 9))
    return Model(replace(recording, times=times, responses=responses, samples=len(responses)))


def every_square(responses, times, table, coin):
    """Mean square over all outcomes of the coins, for each projection."""
    drift = ladder(differences(), GRIDS["even"])
    every = outcomes(multilevel_plan(mlsde.Multilevel(Table(table), coin, "impulse"), times, drift))
    with tossed(every):
        keys = tuple((0, i) for i in range(len(every)))
        found = replay.defects(responses, times, table, coin, "impulse", keys=keys).sum(axis=1)
    return (found**2) @ every.chances


@pytest.mark.parametrize("coin", ["independent", "nested"])
def test_expected_squares_of_impulses_are_the_means_over_every_outcome(coin, monkeypatch):
    monkeypatch.setattr(Model, "trust", lambda *_: 1.0)  # what is made of them is another matter
    times = GRIDS["uneven"][:4]
    responses = responses_of(differences(), GRIDS["uneven"], np.eye(SIZE))[..., :3, :3]
    table = np.array([[0.9, 0.5, 0.2], [1.0, 0.3, 0.6], [0.7, 0.7, 0.1]])
    expected = every_square(responses, times, table, coin)
    found = model_of(responses, times).coins_squares((1, 2, 3), (coin, "impulse"), table, 3)
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    other = "nested" if coin == "independent" else "independent"
    wrong = model_of(responses, times).coins_squares((1, 2, 3), (other, "impulse"), table, 3)
    assert (np.abs(wrong / expected - 1.0) > 0.01).any(), "cross terms can be left out"


def test_impulse_squares_times_1_over_p_less_1_are_the_mean_square_of_independent_impulses():
    times = GRIDS["uneven"][:4]
    responses = responses_of(differences(), GRIDS["uneven"], np.eye(SIZE))[..., :3, :3]
    table = np.array([[0.9, 0.5, 0.2], [1.0, 0.3, 0.6], [0.7, 0.7, 0.1]])
    formula = ((1.0 / table - 1.0) * replay.impulse_squares(responses)).sum()
    assert formula == pytest.approx(every_square(responses, times, table, "independent").mean(), rel=1e-10)


def test_the_replays_of_independent_impulses_scatter_about_their_expected_square():
    """Of 4000 replays the mean square is within 5 standard errors: a false alarm in 1.7 million."""
    times, table = GRIDS["even"], TABLES["changing with time"]
    responses = responses_of(differences(), times, np.eye(SIZE)[:1])
    squares = replay.defects(responses, times, table, "independent", "impulse", repeats=4000).sum(axis=1)[0] ** 2
    expected = ((1.0 / table - 1.0) * replay.impulse_squares(responses)).sum()
    assert abs(squares.mean() - expected) < 5 * squares.std() / np.sqrt(4000)
    assert abs(squares.mean() - 1.5 * expected) > 5 * squares.std() / np.sqrt(4000)
