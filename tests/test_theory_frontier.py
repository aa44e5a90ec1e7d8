"""Frontiers against a search by hand, and their slopes over a long range against the exponents of the theory."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import mlsde
from mlsde import theory
from mlsde.problems.linear import LinearProblem, multilevel_moments

QUICK = settings(deadline=None, max_examples=40)
CASES = list(itertools.product((1.5, 2.5, 3.0, 4.0), (1, 2), (1.0, 0.5)))


def power_law(gamma, order=1.0, strong_order=1.0, levels=33):
    """``c_k = 2^(gamma (k-1))``, biases ``2^-k``, level errors ``5 * 4^-k`` and a step error of 1."""
    k = np.arange(1, levels + 1)
    return theory.ErrorModel(2.0 ** (gamma * (k - 1)), 2.0**-k, 1.0, 5 * 4.0**-k, strong_order, order)


@pytest.fixture(scope="module")
def frontiers():
    """Costs of the plain and of the multilevel frontier of each case at errors ``2^-1 … 2^-30``."""
    errors = 2.0 ** -np.arange(1, 31)
    found = {}
    for gamma, order, strong_order in CASES:
        model = power_law(gamma, order, strong_order)
        steps = np.unique(np.floor(2.0 ** np.arange(0, 32 / strong_order, 0.25)))
        firings = np.concatenate([2.0 ** np.arange(-2, 10, 0.25), steps[-1:]])
        plain = theory.plain_frontier(model, errors, steps)
        multilevel = theory.multilevel_frontier(model, errors, steps, firings, gamma)
        found[gamma, order, strong_order] = [np.array([point.cost for point in row]) for row in (plain, multilevel)]
    return errors, found


SHORT, MIDDLE, FAR = slice(0, 6), slice(6, 15), slice(19, 30)


@pytest.mark.parametrize("case", CASES)
def test_the_slopes_of_the_frontiers_approach_the_exponents_of_the_theory(case, frontiers):
    """Fitted over 2^-20 … 2^-30; the slowest sum, of ratio 2^(1/4), leaves 0.04, the grid of the steps 0.02."""
    errors, found = frontiers
    gamma, order, strong_order = case
    plain, multilevel = (theory.fitted_exponent(errors[FAR], costs[FAR]) for costs in found[case])
    assert plain == pytest.approx(theory.euler_exponent(gamma, strong_order), abs=0.001)
    assert multilevel == pytest.approx(theory.multilevel_exponent(gamma, order, strong_order), abs=0.045)


@pytest.mark.parametrize("case", CASES)
def test_the_slopes_over_a_short_range_lie_between_the_exponents(case, frontiers):
    """From few steps, where every level always fires and ML-EM is the plain method, the slope falls towards theory."""
    errors, found = frontiers
    gamma, order, strong_order = case
    short, middle, far = (theory.fitted_exponent(errors[part], found[case][1][part]) for part in (SHORT, MIDDLE, FAR))
    exponent = theory.multilevel_exponent(gamma, order, strong_order)
    assert exponent + 0.01 < short < theory.euler_exponent(gamma, strong_order)
    assert short > middle > far - 0.025


def test_the_numbers_of_the_page_on_theory(frontiers):
    errors, found = frontiers
    slopes = {
        case: [round(theory.fitted_exponent(errors[part], found[case][1][part]), 1) for part in (SHORT, MIDDLE, FAR)]
        for case in CASES
    }
    assert slopes[3.0, 1, 1.0] == [3.4, 3.1, 3.0]
    assert slopes[2.5, 1, 1.0] == [3.0, 2.7, 2.5]
    assert slopes[2.5, 2, 1.0] == [2.7, 2.5, 2.5]
    assert slopes[1.5, 1, 1.0] == [2.2, 1.9, 1.8]


def test_wrong_exponents_are_found_out(frontiers):
    errors, found = frontiers
    wrong = {
        "plain": lambda gamma, s, r: theory.euler_exponent(gamma, r),
        "no share of sure levels": lambda gamma, s, r: max(gamma, 2 / s),
        "a floor of 1/r": lambda gamma, s, r: max(gamma, 1 / r),
        "order 1": lambda gamma, s, r: theory.multilevel_exponent(gamma, 1, r),
    }
    for name, exponent in wrong.items():
        gaps = [abs(theory.fitted_exponent(errors[FAR], found[case][1][FAR]) - exponent(*case)) for case in CASES]
        assert max(gaps) > 0.2, name


@pytest.mark.parametrize("case", CASES)
def test_multilevel_never_costs_more_than_the_plain_method_where_every_level_may_fire(case, frontiers):
    plain, multilevel = frontiers[1][case]
    assert (multilevel <= plain * (1 + 1e-12)).all()
    assert multilevel[-1] < 1e-3 * plain[-1]


@st.composite
def allocations(draw):
    """``a_k``, ``c_k``, an order and two errors."""
    levels = draw(st.integers(1, 5))
    a, c = (draw(arrays(np.float64, levels, elements=st.floats(0.01, 1000))) for _ in range(2))
    return a, c, draw(st.sampled_from([1.0, 2.0, 4.0])), sorted(draw(st.tuples(*[st.floats(1e-4, 1e4)] * 2)))


@QUICK
@given(drawn=allocations())
def test_clamped_levels_make_the_optimum_flatter_than_two_over_s(drawn):
    """With levels and steps fixed. Proof in docs/theory.md; without a clamp, and far from it, it is an equality."""
    a, c, order, (small, large) = drawn
    if large < 1.01 * small:
        return
    costs = [
        theory.additive_cost(theory.optimal_probabilities(a, c, mse=mse, order=order), c) for mse in (small, large)
    ]
    (slope,) = theory.local_slopes(np.sqrt([small, large]), costs)
    assert slope <= 2 / order + 1e-6
    far = [theory.additive_cost(theory.optimal_probabilities(a, c, mse=m, order=order), c) for m in (1e12, 1e13)]
    assert theory.local_slopes(np.sqrt([1e12, 1e13]), far) == pytest.approx(2 / order, rel=1e-4)


@QUICK
@given(
    levels=st.integers(1, 3),
    order=st.sampled_from([1.0, 2.0]),
    gamma=st.floats(1, 4),
    errors=st.lists(st.floats(0.05, 2), min_size=1, max_size=4),
    coins=st.sampled_from(["independent", "nested", "systematic"]),
)
def test_the_frontiers_are_those_of_a_search_run_by_run(levels, order, gamma, errors, coins):
    model, steps, firings = power_law(gamma, order, levels=levels), [1, 4, 16, 64], [0.5, 2.0, 8.0, 64.0]
    costs = model.costs
    plain = [model.plain(k, n) for k in range(1, levels + 1) for n in steps]
    multilevel = []
    for k, n, m in itertools.product(range(1, levels + 1), steps, firings):
        law = (costs[:k] / costs[0]) ** (-(1 + 2 / gamma) / (order + 1))
        p = np.minimum(1.0, law * min(m, n) / n / law[-1])
        multilevel.append(model.multilevel(k, n, p, coins))
    for points, every in (
        (theory.plain_frontier(model, errors, steps), plain),
        (theory.multilevel_frontier(model, errors, steps, firings, gamma, coins), multilevel),
    ):
        assert [point.error for point in points] == errors
        for point in points:
            least = min((cost for cost, error in every if error <= point.error * (1 + 1e-12)), default=np.inf)
            assert point.cost == pytest.approx(least, rel=1e-9)


def test_a_point_of_a_frontier_says_how_it_is_reached():
    model = power_law(2.5, levels=8)
    (plain,) = theory.plain_frontier(model, [0.01], [64, 128, 256])
    assert (plain.cost, plain.firings) == (model.costs[plain.levels - 1] * plain.steps, plain.steps)
    assert model.plain(plain.levels, plain.steps) == (plain.cost, pytest.approx(0.01, abs=0.002))
    (point,) = theory.multilevel_frontier(model, [0.01], [64, 128, 256, 512], 2.0 ** np.arange(10), 2.5)
    law = mlsde.PowerLaw(2.5).table(np.array([0.0, 1.0]), ladder(model, point.levels), lambda table: 0.0)[0]
    p = np.minimum(1.0, law * point.firings / point.steps / law[-1])
    cost, error = model.multilevel(point.levels, point.steps, p)
    assert cost == pytest.approx(point.cost, rel=1e-12)
    assert error <= 0.01
    assert point.cost < plain.cost


def ladder(model, levels):
    return mlsde.DriftHierarchy([lambda t, y: y] * levels, model.costs[:levels].tolist())


def test_what_is_out_of_reach_says_so():
    model = power_law(2.5, levels=3)
    far, near = theory.plain_frontier(model, [1e-6, 1.0], [4, 8])
    assert far == theory.FrontierPoint(1e-6, np.inf, None, None, None)
    assert (near.levels, near.steps) == (1, 4)
    assert theory.multilevel_frontier(model, [1e-6], [4], [1.0], 2.5)[0].cost == np.inf


@QUICK
@given(data=st.data(), coins=st.sampled_from(["independent", "nested", "systematic"]), steps=st.integers(1, 100))
def test_the_price_of_the_model_is_the_expected_cost_of_the_plan(data, coins, steps):
    model = power_law(2.5, levels=4)
    levels = data.draw(st.integers(1, 4))
    p = data.draw(arrays(np.float64, levels, elements=st.floats(0.01, 1)))
    expected = theory.expected_cost(p, model.costs[:levels], steps, coins=coins)
    assert model.multilevel(levels, steps, p, coins)[0] == pytest.approx(expected, rel=1e-12)
    assert model.multilevel(levels, steps, np.ones(levels), coins) == model.plain(levels, steps)


def test_the_error_of_the_model_is_that_of_independent_impulses():
    """A drift of slope 0: exact moments give the model's ``a_k = T^2 V_k`` without any approximation."""
    offsets = torch_column([1.0, 0.4, 0.5])
    problem = LinearProblem(0 * offsets[:, :, None], offsets)
    p, steps, duration = [0.75, 0.5, 0.125], 32, 2.0
    moments = multilevel_moments(problem, torch_column([0.0])[0], np.linspace(0, duration, steps + 1), p)
    differences = np.diff([0.0, 1.0, 0.4, 0.5])
    model = theory.ErrorModel([1.0, 8.0, 64.0], [0.0] * 3, 0.0, duration**2 * differences**2)
    assert model.multilevel(3, steps, p)[1] ** 2 == pytest.approx(float(moments.squared_error[-1]), rel=1e-12)
    wrong = theory.ErrorModel([1.0, 8.0, 64.0], [0.0] * 3, 0.0, duration * differences**2)
    assert wrong.multilevel(3, steps, p)[1] ** 2 != pytest.approx(float(moments.squared_error[-1]), rel=0.3)


def torch_column(values):
    return torch.tensor(values, dtype=torch.float64)[:, None]


def test_slopes_by_hand():
    assert theory.local_slopes([0.1, 0.01], [1.0, 1000.0]) == pytest.approx([3.0])
    assert theory.fitted_exponent([0.1, 0.01, 0.001], [1.0, 100.0, 10_000.0]) == pytest.approx(2.0)
    errors, costs = np.array([0.5, 0.2, 0.1, 0.03]), np.array([1.0, 9.0, 20.0, 300.0])
    assert theory.fitted_exponent(errors, costs) == pytest.approx(np.polyfit(-np.log(errors), np.log(costs), 1)[0])


MODEL = power_law(2.5, levels=2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: theory.ErrorModel([0.0], [1.0], 1.0, [1.0]), ValueError, "costs must be above zero"),
        (lambda: theory.ErrorModel([1.0], [-1.0], 1.0, [1.0]), ValueError, "biases must not be negative"),
        (lambda: theory.ErrorModel([1.0], [1.0], 1.0, [1.0, 1.0]), ValueError, "level_errors holds 2 values"),
        (lambda: theory.ErrorModel([1.0], [1.0], -1.0, [1.0]), ValueError, "step_error must not be negative"),
        (lambda: theory.ErrorModel([1.0], [1.0], 1.0, [1.0], 0.0), ValueError, "strong_order must be above zero"),
        (lambda: theory.ErrorModel([1.0], [1.0], 1.0, [1.0], 1.0, 0.0), ValueError, "order must be above zero"),
        (lambda: MODEL.plain(3, 10), ValueError, "level must be within 1 … 2, got 3"),
        (lambda: MODEL.plain(1, 0), ValueError, "steps must be a positive integer"),
        (lambda: MODEL.multilevel(3, 10, [0.5]), ValueError, "levels must be within 1 … 2, got 3"),
        (lambda: MODEL.multilevel(1, 10, [0.5, 0.5]), ValueError, "probabilities has shape"),
        (lambda: MODEL.multilevel(1, 10, [0.5], "fair"), ValueError, "coins='fair' is not known"),
        (lambda: theory.plain_frontier(MODEL, [0.0], [10]), ValueError, "errors must be above zero"),
        (lambda: theory.plain_frontier(MODEL, [0.1], [1.5]), ValueError, "steps_grid must hold whole numbers, got 1.5"),
        (lambda: theory.plain_frontier(MODEL, [0.1], []), ValueError, "steps_grid holds 0 values"),
        (lambda: theory.multilevel_frontier(MODEL, [0.1], [10], [0.0], 2.5), ValueError, "firings_grid must be above"),
        (lambda: theory.multilevel_frontier(MODEL, [0.1], [10], [1.0], 0.0), ValueError, "gamma must be above zero"),
        (lambda: theory.multilevel_frontier(MODEL, [0.1], [10], [1.0], 2.0, order=0), ValueError, "order must be"),
        (lambda: theory.local_slopes([0.1], [1.0]), ValueError, "errors must hold two points at least, got 1"),
        (lambda: theory.local_slopes([0.1, 0.1], [1.0, 2.0]), ValueError, "errors must differ"),
        (lambda: theory.local_slopes([0.1, 0.2], [1.0, np.inf]), ValueError, "costs must be finite"),
        (lambda: theory.local_slopes([0.1, 0.2], [1.0]), ValueError, "costs holds 1 values, expected 2"),
        (lambda: theory.fitted_exponent([0.1, 0.1], [1.0, 2.0]), ValueError, "errors must hold two different"),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
