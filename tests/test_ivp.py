"""solve_ivp: SciPy's answers where the two do the same, and its semantics; what is not done is refused."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused, table, told_in_a_sentence

import mlsde
from mlsde import SDE, Constant, DriftHierarchy, Multilevel, from_numpy, solve_ivp

integrate = pytest.importorskip("scipy.integrate")

Y0 = [1.0, -0.5, 0.25]
MATRIX = np.array([[-0.5, 1.0, 0.0], [-1.0, -0.5, 0.2], [0.1, 0.0, -0.3]])


def linear(t, y):
    return MATRIX @ y


def bent(t, y):
    return MATRIX @ y + 0.2 * np.sin(3 * y + t)


def full(t, y):
    return MATRIX @ y + 0.2 * np.sin(3 * y + t) + 0.02 * np.cos(9 * y)


FUNS, COSTS = [linear, bent, full], [1.0, 8.0, 64.0]
RULE = Multilevel(Constant([1.0, 0.4, 0.2]))


def scipys(fun, t_span=(0.0, 2.0), y0=Y0, **options):
    return integrate.solve_ivp(fun, t_span, y0, method="DOP853", rtol=1e-12, atol=1e-12, **options)


def ours(t_span=(0.0, 2.0), y0=Y0, funs=FUNS, **options):
    return solve_ivp(funs, t_span, y0, **{"costs": COSTS[: len(funs)], "steps": 64, **options})


@pytest.mark.parametrize("level", [1, 2, 3])
@pytest.mark.parametrize("t_span", [(0.0, 2.0), (2.0, 0.5)])
@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("heun", 2)])
def test_every_level_goes_to_scipys_answer_at_the_order_of_the_method(level, t_span, method, order):
    exact = scipys(FUNS[level - 1], t_span).y[:, -1]
    errors = [np.abs(ours(t_span, method=method, level=level, steps=n).y[:, -1] - exact).max() for n in (256, 512)]
    assert errors[1] < {1: 1e-2, 2: 2e-5}[order]
    assert 0.8 * 2**order < errors[0] / errors[1] < 1.25 * 2**order


def test_the_ladder_goes_to_scipys_answer_for_its_last_function_and_calls_it_rarely():
    exact = scipys(full).y[:, -1]
    found = ours(method="heun", steps=512, multilevel=RULE)
    assert np.abs(found.y[:, -1] - exact).max() < 1e-3
    assert np.abs(ours(method="heun", steps=512, level=2).y[:, -1] - exact).max() > 5e-3
    assert found.evaluations[2] < 0.25 * 1024


def test_what_comes_back_has_the_shapes_and_attributes_of_scipys():
    theirs, found = scipys(full, t_eval=[0.5, 1.0]), ours(t_eval=[0.5, 1.0])
    assert set(theirs) <= set(dir(found))
    for name, value in theirs.items():
        mine = getattr(found, name)
        assert type(mine) is type(value), name
        if isinstance(value, np.ndarray):
            assert (mine.shape, mine.dtype) == (value.shape, value.dtype)
    assert (found.status, found.success, found.njev, found.nlu) == (0, True, 0, 0)
    assert found.message == "reached t=2 in 64 steps."


def test_without_t_eval_every_step_comes_back():
    found = ours(steps=10)
    np.testing.assert_array_equal(found.t, np.linspace(0, 2, 11))
    np.testing.assert_array_equal(found.y[:, 0], Y0)
    assert found.y.shape == (3, 11) and found.sol is None


def test_the_steps_are_those_of_solve():
    ladder = DriftHierarchy([from_numpy(lambda t, y, f=f: f(t, y[0])[None]) for f in FUNS], COSTS)
    y0 = torch.tensor([Y0], dtype=torch.float64)
    expected = mlsde.solve(SDE(ladder), y0, (0, 2), steps=64, multilevel=RULE, seed=4, save_at="steps")
    found = ours(multilevel=RULE, seed=4)
    np.testing.assert_array_equal(found.y, expected.ys[:, 0].numpy().T)
    assert found.evaluations == expected.stats.evaluations
    assert found.cost == expected.stats.cost == sum(c * n for c, n in zip(COSTS, found.evaluations, strict=True))
    assert found.nfev == sum(found.evaluations)


def test_evaluations_are_those_that_the_functions_saw():
    calls = [0, 0, 0]

    def counted(k):
        def fun(t, y):
            calls[k] += 1
            return FUNS[k](t, y)

        return fun

    found = ours(funs=[counted(k) for k in range(3)], method="heun", multilevel=RULE)
    assert found.evaluations == tuple(calls)


@pytest.mark.parametrize("t_span", [(0.0, 2.0), (2.0, 0.0)])
def test_between_the_steps_there_are_straight_lines(t_span):
    grid = ours(t_span, steps=8)
    wanted = np.linspace(*t_span, 13)[1:-1]
    rising = slice(None) if t_span[0] < t_span[1] else slice(None, None, -1)
    expected = np.stack([np.interp(wanted, grid.t[rising], row[rising]) for row in grid.y])
    found, dense = ours(t_span, steps=8, t_eval=wanted), ours(t_span, steps=8, t_eval=wanted, dense_output=True)
    np.testing.assert_array_equal(found.t, wanted)
    np.testing.assert_allclose(found.y, expected, rtol=1e-13)
    np.testing.assert_allclose(dense.y, expected, rtol=1e-13)
    np.testing.assert_array_equal(dense.t, wanted)
    np.testing.assert_allclose(dense.sol(grid.t), grid.y, rtol=1e-13)
    theirs = scipys(full, t_span, dense_output=True).sol
    assert dense.sol(1.1).shape == theirs(1.1).shape == (3,)
    assert dense.sol(wanted).shape == theirs(wanted).shape
    assert dense.sol([1.1]).shape == (3, 1)


def test_args_are_handed_to_every_function_as_scipy_does():
    def fun(t, y, rate, shift):
        return rate * y + shift

    expected = scipys(fun, args=(-2.0, 0.5)).y[:, -1]
    found = ours(
        funs=[fun, fun], args=(-2.0, 0.5), method="heun", steps=2000, multilevel=Multilevel(Constant([1, 0.5]))
    )
    np.testing.assert_allclose(found.y[:, -1], expected, rtol=1e-5)


def test_vectorized_functions_see_columns_as_in_scipy():
    shapes = set()

    def fun(t, y):
        shapes.add(y.shape)
        return MATRIX @ y

    found = ours(funs=[fun], vectorized=True)
    assert shapes == {(3, 1)}
    np.testing.assert_array_equal(found.y, ours(funs=[linear]).y)


def test_a_complex_state_is_solved_as_such():
    def turn(t, y):
        return 2j * y - 0.1 * y * np.abs(y)

    y0 = [1.0 + 0.5j, -0.3j]
    found = solve_ivp(turn, (0, 1), y0, "heun", [0.5, 1.0], steps=2000)
    theirs = scipys(turn, (0, 1), np.array(y0), t_eval=[0.5, 1.0])
    assert found.y.dtype == theirs.y.dtype == np.complex128
    np.testing.assert_allclose(found.y, theirs.y, rtol=1e-5)
    dense = solve_ivp(turn, (0, 1), y0, "heun", dense_output=True, steps=2000)
    np.testing.assert_allclose(dense.sol(0.5), theirs.y[:, 0], rtol=1e-5)


@pytest.mark.parametrize("y0", [[1, 2], (1.0, 2.0), np.array([1, 2], dtype=np.float32), np.array([True, True])])
def test_states_of_any_numbers_become_float64_as_in_scipy(y0):
    found, theirs = solve_ivp(lambda t, y: -y, (0, 1), y0, steps=3), scipys(lambda t, y: -y, (0, 1), y0)
    assert found.y.dtype == theirs.y.dtype == np.float64


@pytest.mark.parametrize("returned", [list, tuple, np.array, lambda y: y.astype(np.float32), lambda y: y[0]])
def test_functions_may_return_anything_that_numpy_reads_as_the_state(returned):
    found = solve_ivp(lambda t, y: returned(-y), (0, 1), [1.0], steps=50)
    np.testing.assert_allclose(found.y, solve_ivp(lambda t, y: -y, (0, 1), [1.0], steps=50).y, rtol=1e-5)


def test_the_state_that_a_function_sees_is_its_own():
    def careless(t, y):
        y *= -1
        return y

    y0 = np.array([1.0, 2.0])
    found = solve_ivp(careless, (0, 1), y0, "heun", steps=20)
    np.testing.assert_array_equal(found.y, solve_ivp(lambda t, y: -y, (0, 1), y0, "heun", steps=20).y)
    np.testing.assert_array_equal(y0, [1.0, 2.0])


def test_functions_see_a_float_and_an_array():
    seen = set()
    solve_ivp(lambda t, y: (seen.add((type(t), type(y), y.dtype, y.shape)), -y)[1], (0, 1), [1, 2], steps=2)
    assert seen == {(float, np.ndarray, np.dtype(float), (2,))}


def test_a_state_that_blows_up_ends_the_run_as_in_scipy_without_an_exception():
    def late(t, y):
        return y if t < 0.5 else np.full_like(y, math.nan)

    for options in ({}, {"dense_output": True, "t_eval": [0.25, 0.75]}, {"t_eval": [0.25, 0.75]}):
        found = solve_ivp(late, (0, 1), [1.0], steps=100, **options)
        assert (found.status, found.success) == (-1, False)
        assert "NaN or infinite at step 50, t=0.5" in found.message
        assert found.t[-1] == (0.25 if options else 0.5)
        assert np.isfinite(found.y).all() and found.y.shape == (1, len(found.t))
        assert scipys(late, (0, 1), [1.0]).status == -1


def test_none_is_no_wish_for_what_is_not_done():
    assert solve_ivp(linear, (0, 1), Y0, steps=2, events=None, jac=None).success


def test_a_pilot_chooses_for_a_budget_and_for_a_tolerance():
    exact = scipys(full).y[:, -1]
    cheap = ours(steps=None, budget=1e5)
    assert cheap.cost + cheap.solution.stats.pilot_cost <= 1e5 * 1.001
    tight = ours(steps=None, tol=1e-2)
    assert np.sqrt(np.square(tight.y[:, -1] - exact).mean()) < 2e-2
    assert tight.solution.recommendation is not None
    assert ours(multilevel="auto", steps=5000).success


@settings(max_examples=40, deadline=None)
@given(
    size=st.integers(1, 4),
    steps=st.integers(1, 30),
    span=st.tuples(st.floats(-5, 5), st.floats(-5, 5)).filter(lambda s: abs(s[0] - s[1]) > 1e-2),
    method=st.sampled_from(["euler", "heun"]),
    p=st.floats(0.05, 1.0),
    points=st.integers(0, 5),
    dense=st.booleans(),
    vectorized=st.booleans(),
)
def test_any_sound_call_gives_finite_states_of_the_right_shape(size, steps, span, method, p, points, dense, vectorized):
    def cheap(t, y):
        return -0.5 * y

    def dear(t, y):
        return -0.5 * np.sin(y) + 0.1 * t

    t_eval = np.linspace(*span, points + 2)[1:-1] if points else None
    found = solve_ivp(
        [cheap, dear], span, np.linspace(-1, 1, size), method, t_eval, dense, costs=[1, 9], steps=steps,
        multilevel=Multilevel(Constant([1.0, p])), vectorized=vectorized,
    )  # fmt: skip
    count = points or steps + 1
    assert found.success and found.y.shape == (size, count) and found.t.shape == (count,)
    assert np.isfinite(found.y).all()
    assert (found.sol is not None) == dense
    assert found.nfev <= 2 * 2 * steps and found.cost > 0


def call(**options):
    """A sound call in which one thing was made unsound."""
    given_ = {"funs": [linear, full], "t_span": (0.0, 1.0), "y0": Y0, "costs": [1.0, 9.0], "steps": 10, **options}
    return lambda: solve_ivp(**given_)


REFUSALS = {
    "no functions": (call(funs=[]), TypeError, ["funs", "[]"]),
    "one that is no function": (call(funs=[linear, 3]), TypeError, ["funs[1]", "3"]),
    "a number": (call(funs=3), TypeError, ["funs", "3"]),
    "prices of others": (call(costs=[1.0]), ValueError, ["costs", "1", "2"]),
    "no span": (call(t_span=1.0), TypeError, ["t_span", "1.0"]),
    "an empty span": (call(t_span=(1.0, 1.0)), ValueError, ["t_span", "(1.0, 1.0)"]),
    "a state of words": (call(y0=["a"]), TypeError, ["y0", "'a'"]),
    "a ragged state": (call(y0=[[1.0], [1.0, 2.0]]), TypeError, ["y0", "[1.0, 2.0]"]),
    "a matrix": (call(y0=[Y0]), ValueError, ["y0", "one-dimensional", "(1, 3)"]),
    "a number as state": (call(y0=1.0), ValueError, ["y0", "one-dimensional", "()"]),
    "an empty state": (call(y0=[]), ValueError, ["y0", "at least one"]),
    "an endless state": (call(y0=[1.0, math.inf, 0.0]), ValueError, ["y0", "finite"]),
    "a method of SciPy": (call(method="RK45"), ValueError, ["method='RK45'", "'euler'", "'heun'"]),
    "a method for noise": (call(method="milstein"), ValueError, ["method='milstein'", "'heun'"]),
    "times that turn": (call(t_eval=[0.5, 0.25]), ValueError, ["t_eval", "[0.5, 0.25]"]),
    "times beyond": (call(t_eval=[0.5, 1.5]), ValueError, ["t_eval", "1.0"]),
    "no times": (call(t_eval=[]), ValueError, ["t_eval", "[]"]),
    "a time": (call(t_eval=0.5), ValueError, ["t_eval", "0.5"]),
    "no steps": (call(steps=None), ValueError, ["steps=", "tol=", "budget="]),
    "auto alone": (call(steps=None, multilevel="auto"), ValueError, ["steps=", "tol=", "budget="]),
    "half a step": (call(steps=2.5), TypeError, ["steps", "2.5"]),
    "impulses in Heun": (
        call(method="heun", multilevel=Multilevel(Constant([1, 0.5]), correction="impulse")),
        ValueError, ["impulse", "'hold'"],
    ),
    "level and rule": (call(level=1, multilevel=Multilevel(Constant([1, 1]))), ValueError, ["level=1"]),
    "a level too high": (call(level=3), ValueError, ["level", "3"]),
    "seeds": (call(seed=[1]), TypeError, ["seed", "[1]"]),
    "args of one": (call(args=3), TypeError, ["args", "(3,)"]),
    "events": (call(events=lambda t, y: y[0]), ValueError, ["events", ".y"]),
    "a local tolerance": (call(rtol=1e-6), ValueError, ["rtol=", "tol="]),
    "another": (call(atol=1e-6), ValueError, ["atol=", "tol="]),
    "a longest step": (call(max_step=0.1), ValueError, ["max_step=", "steps="]),
    "a Jacobian": (call(jac=MATRIX), ValueError, ["jac", "implicit"]),
    "a slip": (call(step=3), TypeError, ["'step'"]),
    "a wrong shape": (call(funs=[lambda t, y: y[:2]]  , costs=None), ValueError, ["funs[0]", "(3,)", "(2,)"]),
    "a matrix back": (call(funs=[lambda t, y: y[:, None]], costs=None), ValueError, ["funs[0]", "(3,)", "(3, 1)"]),
    "a number back": (call(funs=[lambda t, y: y[0]], costs=None), ValueError, ["funs[0]", "(3,)", "()"]),
    "nothing back": (call(funs=[lambda t, y: None], costs=None), TypeError, ["funs[0]", "object"]),
    "complex back": (call(funs=[lambda t, y: 1j * y], costs=None), TypeError, ["funs[0]", "float64", "complex128"]),
    "beyond the solution": (lambda: call(dense_output=True)().sol(1.5), ValueError, ["[0.0, 1.0]", "1.5"]),
    "no time of the solution": (lambda: call(dense_output=True)().sol(math.nan), ValueError, ["nan"]),
}  # fmt: skip


@table(REFUSALS)
def test_what_is_unsound_or_not_done_is_refused_in_one_sentence(call, error, words):
    if words[0].startswith("funs[0]"):  # with a note on where
        told_in_a_sentence(call, error, words)
    else:
        refused(call, error, *words)


def test_what_a_function_raises_comes_through_with_a_note():
    def broken(t, y):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        solve_ivp([linear, broken], (0, 1), Y0, steps=3)
    assert "drift level 2 at t=0" in caught.value.__notes__[0]
