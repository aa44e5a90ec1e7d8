"""Any Brownian path is one function of time, and any change of a ladder keeps what it should; or one clear error."""

import math

import pytest
import torch
from fuzzing import LEVELS, attempt, fuzz, odd, raises, with_odds
from hypothesis import assume, given
from hypothesis import strategies as st

from mlsde import SDE, BrownianPath, DriftHierarchy, NoiseSampler, solve

ends = st.floats(-1e3, 1e3)
shapes = st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple)
grids = st.sampled_from([(50, 100, 1000, 10_000), (1,), (3,), (7, 49), ()])
PATH = {
    "t0": 0.0, "t1": 1.0, "shape": (2, 3), "like": None, "dtype": torch.float64, "device": "cpu", "seed": 0,
    "grids": (10, 100),
}  # fmt: skip


@fuzz()
@given(ends, st.floats(1e-3, 1e3), shapes, grids, st.lists(st.floats(0.0, 1.0), min_size=1, max_size=6), st.data())
def test_a_path_is_one_function_of_time_whatever_is_asked_of_it_before(t0, length, shape, cells, places, data):
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    seed = data.draw(st.integers(0, 2**70) | st.lists(st.integers(0, 99), min_size=shape[0], max_size=shape[0]))
    span = (t0, t0 + length) if data.draw(st.booleans()) else (t0 + length, t0)
    made = {"shape": shape, "dtype": dtype, "seed": seed, "grids": cells}
    path, other = (BrownianPath(*span, **made) for _ in range(2))
    times = [min(path.t0 + place * (path.t1 - path.t0), path.t1) for place in places]
    asked = [path.value(t).clone() for t in times]
    for t in data.draw(st.permutations(times)):
        other.value(t)
    for t, value in zip(times, asked, strict=True):
        assert torch.equal(other.value(t), value)
        assert value.shape == shape and value.dtype == dtype and value.isfinite().all()
        total = path(path.t0, path.t1)
        if path._leaf(t) not in (path._leaf(path.t0), path._leaf(path.t1)):
            parts = path(path.t0, t) + path(t, path.t1)
            torch.testing.assert_close(parts, total, rtol=1e-4, atol=1e-4 * math.sqrt(length))
    if isinstance(seed, list):
        alone = BrownianPath(*span, shape=(1, *shape[1:]), dtype=dtype, seed=[seed[-1]], grids=cells)
        assert torch.equal(alone.value(times[0]), asked[0][-1:])


@fuzz()
@given(st.data())
def test_a_path_with_something_odd_in_it_is_a_path_or_a_clear_error(data):
    arguments = with_odds(data, PATH)
    path = attempt(lambda: BrownianPath(**arguments), *PATH)
    if path is not None:
        increment = path(path.t0, path.t1)
        assert increment.shape == path.shape and increment.dtype == path.dtype and increment.isfinite().all()


@fuzz()
@given(odd | st.floats(-1.0, 2.0), odd | st.floats(-1.0, 2.0), st.sampled_from(["call", "noise_sampler", "value"]))
def test_a_path_asked_at_odd_times_answers_or_gives_a_clear_error(ta, tb, what):
    path = BrownianPath(0.0, 1.0, shape=(2,), seed=0)
    calls = {"call": lambda: path(ta, tb), "noise_sampler": lambda: path.noise_sampler(ta, tb)}
    calls["value"] = lambda: path.value(ta)
    found = attempt(calls[what], "t", "ta", "tb", "t_next", "times")
    assert found is None or (found.shape == (2,) and found.isfinite().all())


@fuzz(0.5)
@given(st.data())
def test_a_solve_on_an_odd_path_is_a_solution_or_a_clear_error(data):
    made = data.draw(st.sampled_from([lambda a, b: torch.ones(2, 2), lambda a, b: None, lambda: 1, raises, 3]))
    odds = [NoiseSampler, lambda f: f]
    wrap = data.draw(st.sampled_from(odds))
    found = attempt(
        lambda: solve(SDE(lambda t, y: -y, 0.5), torch.ones(2, 2), (0, 1), steps=3, brownian=wrap(made)),
        "brownian", "noise_sampler",
    )  # fmt: skip
    assert found is None or found.ys.isfinite().all()


def linear(t, y):
    return -y @ torch.full((2, 2), 0.3, dtype=y.dtype)


levels = st.lists(st.sampled_from(list(LEVELS)), min_size=1, max_size=3)
states = st.sampled_from([torch.float32, torch.float64, torch.bfloat16]).map(
    lambda dtype: torch.ones(3, 2, dtype=dtype)
)
NAMES = ["levels", "costs", "names", "dtypes", "t", "y", "repeats", "level"]


@fuzz()
@given(st.data(), levels, st.booleans())
def test_a_ladder_changed_oddly_is_a_ladder_or_a_clear_error(data, kinds, differences):
    make = DriftHierarchy.from_differences if differences else DriftHierarchy
    count = len(kinds)
    drift = make([LEVELS[kind] for kind in kinds], [4.0**k for k in range(count)], names=kinds)
    precisions = st.lists(
        st.sampled_from([None, torch.bfloat16, torch.float16, torch.float64]), min_size=count, max_size=count
    )
    value = data.draw(odd | st.just(drift.levels) | precisions | st.just(tuple(range(1, count + 1))), label="value")
    what = data.draw(st.sampled_from(["in_precision", "with_levels", "select", "priced"]), label="what")
    found = attempt(lambda: getattr(drift, what)(value), *NAMES)
    if found is None:
        return
    assert isinstance(found, DriftHierarchy) and found.differences == differences
    if what == "priced" and value is None:
        assert found.costs is None
        return
    assert len(found.costs) == len(found.names) == len(found.levels)
    assert all(math.isfinite(cost) and cost > 0 for cost in found.costs)
    if what != "select":
        assert found.names == drift.names and len(found) == count


@fuzz()
@given(st.data(), levels, states)
def test_rounding_and_prices_of_odd_levels_are_numbers_or_a_clear_error(data, kinds, y):
    drift = DriftHierarchy([LEVELS[kind] for kind in kinds])
    precise = data.draw(st.sampled_from([None, torch.bfloat16, torch.float16]), label="dtype")
    t, state = data.draw(st.just(0.5) | odd, label="t"), data.draw(st.just(y) | odd, label="y")
    assume(t is not y)
    if data.draw(st.booleans(), label="rounding"):
        found = attempt(lambda: drift.in_precision([precise] * len(drift)).rounding(t, state), *NAMES)
        assert found is None or (len(found) == len(kinds) and all(math.isfinite(off) and off >= 0 for off in found))
        if found is not None and precise is None:
            assert set(found) == {0.0}
    else:
        repeats = data.draw(st.just(1) | odd, label="repeats")
        found = attempt(lambda: drift.measured(t, state, repeats=repeats), *NAMES)
        assert found is None or all(math.isfinite(cost) and cost > 0 for cost in found.costs)


@fuzz(0.5)
@given(st.data(), states, st.sampled_from([torch.bfloat16, torch.float16]))
def test_the_rounding_of_a_matrix_product_is_that_of_its_dtype(data, y, dtype):
    scale = data.draw(st.floats(0.1, 10.0))
    drift = DriftHierarchy([linear, linear]).in_precision([dtype, None])
    off, none = drift.rounding(0.0, scale * y)
    with torch.autocast("cpu", dtype):
        low = linear(torch.zeros(()), scale * y).to(y.dtype)
    exact = linear(torch.zeros(()), scale * y)
    assert none == 0.0
    assert off == pytest.approx(float((low - exact).double().square().mean().sqrt()))
