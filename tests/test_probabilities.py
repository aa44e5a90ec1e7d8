import math

import numpy as np
import pytest
import torch
from enumeration import Table
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import mlsde
from mlsde.plan import multilevel_plan
from mlsde.probabilities import probability_table

COSTS = (1.0, 8.0, 64.0)
VARIANCES = (1.0, 0.25, 0.0625)
EXACT = settings(deadline=None, max_examples=40)


def ladder(costs=COSTS, differences=False, levels=3):
    make = mlsde.DriftHierarchy.from_differences if differences else mlsde.DriftHierarchy
    return make([torch.sin] * (levels if costs is None else len(costs)), costs)


def plan_of(rule, drift, times=None, coins="independent", correction="impulse"):
    times = np.linspace(0.0, 1.0, 21) if times is None else times
    return multilevel_plan(mlsde.Multilevel(rule, coins=coins, correction=correction), times, drift)


def table_of(rule, drift, times=None):
    return plan_of(rule, drift, times).probabilities


def test_power_law_is_the_formula():
    """``min(1, scale (c_k / c_1)^-(1/2 + 1/gamma))``, by hand for gamma = 2: the inverse of the price."""
    assert table_of(mlsde.PowerLaw(gamma=2.0), ladder()).tolist() == [[1, 1 / 8, 1 / 64]] * 20
    assert table_of(mlsde.PowerLaw(gamma=2.0, scale=4.0), ladder()).tolist() == [[1, 1 / 2, 1 / 16]] * 20
    assert table_of(mlsde.PowerLaw(gamma=2.0, scale=0.5), ladder()).tolist() == [[1 / 2, 1 / 16, 1 / 128]] * 20


@EXACT
@given(gamma=st.floats(0.5, 6), scale=st.floats(0.1, 10))
def test_power_law_is_the_theory_of_a_ladder_of_a_power_law(gamma, scale):
    """``|f^k - f| = 2^-k`` at the price ``2^(gamma k)``: ``p_k ~ 2^-(1 + gamma/2) k``, which is ``sqrt(V / c)``."""
    k = np.arange(4)
    costs, variances = 2.0 ** (gamma * k), 4.0**-k
    row = table_of(mlsde.PowerLaw(gamma, scale), ladder(costs))[0]
    np.testing.assert_allclose(row, np.minimum(1, scale * 2.0 ** (-(1 + gamma / 2) * k)), rtol=1e-12)
    np.testing.assert_allclose(row, np.minimum(1, scale * np.sqrt(variances / costs)), rtol=1e-12)


def test_a_single_level_always_fires_under_a_power_law_even_without_a_price():
    assert table_of(mlsde.PowerLaw(2.5, scale=1e-3), ladder(None, levels=1)).tolist() == [[1.0]] * 20


def test_constant_probabilities_and_functions_of_time_fill_the_table():
    assert table_of(mlsde.Constant([1.0, 0.5, 0.1]), ladder()).tolist() == [[1, 0.5, 0.1]] * 20
    times = np.array([0.0, 0.25, 1.0, 2.0])
    falling = table_of(
        lambda t: torch.tensor([1.0, 1 / (1 + t), 0.5 * (t < 0.5)], dtype=torch.float64), ladder(), times
    )
    assert falling.tolist() == [[1, 1, 0.5], [1, 0.8, 0.5], [1, 0.5, 0]]
    backwards = table_of(lambda t: [1.0, t, t], ladder(), np.array([1.0, 0.5, 0.0]))
    assert backwards.tolist() == [[1, 1, 1], [1, 0.5, 0.5]]


@st.composite
def problems(draw, differences):
    """Variances that change with time, prices, and a grid of unequal steps."""
    steps, levels = draw(st.integers(2, 8)), draw(st.integers(1, 3))
    positive = st.floats(0.01, 100)
    variances = draw(arrays(np.float64, (steps, levels), elements=positive))
    gaps = draw(arrays(np.float64, levels, elements=st.floats(1.5, 20)))
    times = np.cumsum([0.0, *draw(arrays(np.float64, steps, elements=st.floats(0.1, 1)))])
    return variances, ladder(tuple(np.cumprod(gaps)), differences), times


def by_time(values, times):
    """A table of values as a function of time."""
    return lambda t: values[int(np.argmin(np.abs(times - t)))]


def predicted(variances, table, times, order=1.0):
    """Mean squared error up to a constant."""
    return (np.diff(times)[:, None] ** 2 * variances / table**order).sum()


@EXACT
@given(problem=st.booleans().flatmap(problems), share=st.floats(0.01, 0.95), order=st.sampled_from([1.0, 2.0, 4.0]))
@pytest.mark.parametrize(
    ("coin", "correction"), [("independent", "impulse"), ("nested", "impulse"), ("systematic", "hold")]
)
def test_optimal_spends_its_budget_and_is_proportional_where_it_is_not_clamped(coin, correction, problem, share, order):
    variances, drift, times = problem
    full = plan_of(mlsde.Constant([1.0] * len(drift)), drift, times, coin, correction).expected_cost
    least = plan_of(mlsde.Constant([1e-9] * len(drift)), drift, times, coin, correction).expected_cost
    budget = least * 1.01 + share * (full - least)
    assume(budget < full)
    drawn = plan_of(mlsde.Optimal(by_time(variances, times), budget, order), drift, times, coin, correction)
    assert 0.99 * budget <= drawn.expected_cost <= budget * (1 + 1e-9)
    p = drawn.probabilities[1 if correction == "hold" else 0 :]
    rows = slice(len(variances) - len(p), None)
    a = np.diff(times)[rows, None] ** 2 * variances[rows]
    ratio = p / (a / np.array(drift.costs)) ** (1 / (order + 1))
    free = p < 1
    if free.any():
        np.testing.assert_allclose(ratio[free], ratio[free][0], rtol=1e-9)
        assert (ratio[~free] < 8.001 * ratio[free][0]).all()  # no further than from 1/8 is anything raised to 1


def test_optimal_is_proportional_to_the_root_of_weighted_variance_over_price():
    """By hand, ``s = 1``: ``h sqrt(w V / c)``; a wrong exponent or a forgotten weight is another table."""
    times, drift = np.array([0.0, 1.0, 3.0]), ladder((1.0, 16.0), differences=True)
    rule = mlsde.Optimal(lambda t: [4.0, 1.0 + t], 0.5, sensitivity=lambda t: 1.0 if t < 0.5 else 9.0)
    expected = np.array([[2.0, 1 / 4], [2 * 3 * 2, 2 * 3 * math.sqrt(2 / 16)]])
    p = table_of(rule, drift, times)
    np.testing.assert_allclose(p / p[0, 0], expected / expected[0, 0], rtol=1e-8)
    assert (p @ [1.0, 16.0]).sum() == pytest.approx(0.5, rel=1e-8)
    for wrong in (expected**2, expected / [[1], [2]], expected / [[1], [3]], expected * [1, 4]):
        assert not np.allclose(p / p[0, 0], wrong / wrong[0, 0])


def test_what_a_clamp_leaves_over_is_spent_on_the_other_levels():
    drift, times = ladder((1.0, 16.0), differences=True), np.linspace(0, 1, 11)
    p = table_of(mlsde.Optimal([100.0, 1.0], 10 + 16.0), drift, times)
    assert p[:, 0].tolist() == [1.0] * 10
    np.testing.assert_allclose(p[:, 1], 0.1, rtol=1e-8)


def test_a_budget_that_pays_for_the_top_level_at_every_step_buys_it():
    for budget in (64.0 * 20, 1e9):
        assert (table_of(mlsde.Optimal(VARIANCES, budget), ladder()) == 1).all()
        assert (table_of(mlsde.Optimal(VARIANCES, budget / 64 * 73), ladder(differences=True)) == 1).all()


def rescaled(shape, budget, price):
    """``min(1, s * shape)`` with the largest ``s`` within the budget."""
    low, high = 1e-9, 1e9
    for _ in range(80):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if price(np.minimum(1, middle * shape)) <= budget else (low, middle)
    return np.minimum(1, low * shape)


@EXACT
@given(
    problem=problems(differences=True), share=st.floats(0.05, 0.9), order=st.sampled_from([1.0, 2.0]), data=st.data()
)
def test_no_table_of_equal_cost_beats_optimal_where_each_firing_pays_for_itself(problem, share, order, data):
    """On a ladder of differences the price is linear and the rule of proportions is the optimum itself."""
    variances, drift, times = problem
    budget = share * len(variances) * sum(drift.costs)
    best = table_of(mlsde.Optimal(by_time(variances, times), budget, order), drift, times)
    noise = data.draw(arrays(np.float64, variances.shape, elements=st.floats(-2, 2)))
    for size in (1.0, 0.1):
        other = rescaled(best * np.exp(size * noise), budget, lambda p: (p @ drift.costs).sum())
        error, least = (predicted(variances, p, times, order) for p in (other, best))
        assert least <= error * (1 + 1e-6)


@settings(deadline=None, max_examples=10)
@given(problem=problems(differences=False), share=st.floats(0.05, 0.9), data=st.data())
def test_hardly_any_table_of_equal_cost_beats_optimal_on_a_ladder_summed_by_parts(problem, share, data):
    """A firing there pays for the level below too, which the rule of proportions neglects.

    No theorem says by how much: of 3,199 such comparisons two were beyond a tenth, by 1.12 and 1.27.
    """
    variances, drift, times = problem
    variances = np.repeat(variances[:1], len(variances), axis=0)
    budget = share * len(variances) * drift.costs[-1]
    best = table_of(mlsde.Optimal(by_time(variances, times), budget), drift, times)
    noise = data.draw(arrays(np.float64, variances.shape[1], elements=st.floats(-2, 2)))
    for prefix in range(len(drift)):
        shape = best * np.exp(noise)
        shape[:, :prefix] = 1e12
        price = lambda p: plan_of(Table(p), drift, times).expected_cost  # noqa: E731
        other = rescaled(shape, budget, price)
        if price(other) <= budget:
            assert predicted(variances, best, times) <= 1.5 * predicted(variances, other, times)


def test_levels_are_raised_to_sure_where_that_spares_the_evaluations_below():
    """The rule of proportions would keep the second level at 0.65 and pay for the first at every firing."""
    drift, times = ladder((1.0, 4.0, 16.0)), np.linspace(0, 1, 101)
    drawn = plan_of(mlsde.Optimal(VARIANCES, 0.4 * 1600), drift, times)
    np.testing.assert_allclose(drawn.probabilities, np.tile([1, 1, 0.15], (100, 1)), rtol=1e-7)
    plain = rescaled(
        np.tile([1, 1 / 4, 1 / 16], (100, 1)), 640, lambda p: plan_of(Table(p), drift, times).expected_cost
    )
    plain_error, error = ((VARIANCES * (1 / p - 1)).sum() for p in (plain, drawn.probabilities))
    assert plain_error > 1.3 * error


@pytest.mark.parametrize("budget", [1.0, 100.0, 500.0])
def test_optimal_follows_variances_over_many_orders_of_magnitude(budget):
    rule = mlsde.Optimal(lambda t: np.array(VARIANCES) * math.exp(-60 * (1 - t)), budget)
    drawn = plan_of(rule, ladder(), np.linspace(0, 1, 51))
    assert 0.99 * budget <= drawn.expected_cost <= budget
    assert (np.diff(drawn.probabilities, axis=0) >= 0).all()


def test_a_level_without_variance_at_some_time_is_left_out_there():
    drift, times = ladder((1.0, 8.0), differences=True), np.linspace(0, 1, 5)
    p = table_of(mlsde.Optimal(lambda t: [1.0, float(t > 0.4)], 8.0), drift, times)
    assert (p[:2, 1] == 0).all()
    assert (p[2:, 1] > 0).all()
    assert (p @ [1.0, 8.0]).sum() == pytest.approx(8.0, rel=1e-8)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: mlsde.PowerLaw(0.0), ValueError, "gamma must be above zero"),
        (lambda: mlsde.PowerLaw(math.nan), ValueError, "gamma must be finite"),
        (lambda: mlsde.PowerLaw("2.5"), TypeError, "gamma must be a number"),
        (lambda: mlsde.PowerLaw(2.5, scale=-1.0), ValueError, "scale must be above zero"),
        (lambda: mlsde.Optimal(VARIANCES, 0.0), ValueError, "budget must be above zero"),
        (lambda: mlsde.Optimal(VARIANCES, math.inf), ValueError, "budget must be finite"),
        (lambda: mlsde.Optimal(VARIANCES, 1.0, order=0.0), ValueError, "order must be above zero"),
        (lambda: mlsde.Optimal(VARIANCES, 1.0, sensitivity=2.0), TypeError, "sensitivity must be a function of t"),
    ],
)
def test_a_rule_refuses_a_bad_argument_at_once(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("rule", "error", "message"),
    [
        (mlsde.Constant([1.0, 0.5]), ValueError, "values holds 2 probabilities, but the ladder has 3 levels"),
        (mlsde.Constant([1.0, math.nan, 0.5]), ValueError, "values must be finite"),
        (mlsde.Constant([1.0, 1.5, 0.5]), ValueError, "probability of level 2 at t=0 is 1.5, outside"),
        (mlsde.Constant([1.0, -0.1, 0.5]), ValueError, "probability of level 2 at t=0 is -0.1, outside"),
        (mlsde.Constant([1.0, 0.5, 0.0]), ValueError, "probability of level 3 is 0 at every step.*drift.select"),
        (lambda t: [1.0, 0.5, math.nan], ValueError, "probability of level 3 at t=0 is nan, outside"),
        (lambda t: [1.0, 0.5, 1 + t], ValueError, "probability of level 3 at t=0.05 is 1.05, outside"),
        (lambda t: [1.0, 0.5], ValueError, r"probabilities at t=0 have shape \(2,\), expected \(3,\)"),
        (lambda t: 0.5, ValueError, r"probabilities at t=0 have shape \(\), expected \(3,\)"),
        (lambda t: ["1", "0.5", "x"], TypeError, "probabilities at t=0 must hold numbers"),
        (lambda t: None, TypeError, "probabilities at t=0 must hold numbers"),
        (Table(np.ones((3, 3))), ValueError, r"probabilities gave a table of shape \(3, 3\), expected \(20, 3\)"),
        ([1.0, 0.5, 0.1], TypeError, "probabilities must be PowerLaw, Constant, Optimal or a function of t"),
        (mlsde.PowerLaw, TypeError, "probabilities must be PowerLaw, Constant, Optimal or a function of t"),
        (mlsde.Optimal([1.0, 1.0], 100.0), ValueError, "variances gives 2 values, but the ladder has 3 levels"),
        (mlsde.Optimal([1.0, -1.0, 1.0], 100.0), ValueError, "variances must not be negative"),
        (mlsde.Optimal([1.0, math.nan, 1.0], 100.0), ValueError, "variances must be finite"),
        (mlsde.Optimal([1.0, 0.0, 1.0], 100.0), ValueError, "variances must be above zero somewhere for every level"),
        (mlsde.Optimal(VARIANCES, 100.0, sensitivity=lambda t: -1.0), ValueError, "sensitivity must not be negative"),
        (mlsde.Optimal(VARIANCES, 100.0, sensitivity=lambda t: math.nan), ValueError, "sensitivity must be finite"),
    ],
)
def test_a_rule_that_gives_no_probabilities_is_named(rule, error, message):
    with pytest.raises(error, match=message):
        table_of(rule, ladder())


@pytest.mark.parametrize(
    ("rule", "name"), [(mlsde.PowerLaw(2.5), "PowerLaw"), (mlsde.Optimal(VARIANCES, 1), "Optimal")]
)
def test_a_rule_that_needs_prices_says_so(rule, name):
    with pytest.raises(ValueError, match=f"{name} needs the price of each level.*drift.measured"):
        table_of(rule, ladder(None))


def test_a_budget_below_the_forced_first_step_says_what_the_least_is():
    with pytest.raises(ValueError, match="budget=50 does not pay for the least that this plan costs, 73"):
        plan_of(mlsde.Optimal(VARIANCES, 50.0), ladder(), correction="hold")


def test_the_price_is_asked_of_the_plan_itself():
    asked = []

    def price(table):
        asked.append(table.shape)
        return 1.0

    times = np.linspace(0, 1, 6)
    assert (probability_table(mlsde.Optimal(VARIANCES, 2.0), times, ladder(), price) == 1).all()
    assert asked == [(5, 3)]


@pytest.mark.parametrize("budget", [30.0, 300.0, 2000.0])
def test_a_power_law_meets_its_budget_by_its_scale_alone(budget):
    drift = mlsde.DriftHierarchy([lambda t, y: -y] * 3, costs=[1.0, 8.0, 64.0])
    rule = mlsde.Multilevel(mlsde.PowerLaw(2.5, budget=budget), "independent", "impulse")
    plan = multilevel_plan(rule, np.linspace(0, 1, 101), drift)
    assert plan.expected_cost == pytest.approx(budget, rel=1e-6)
    row = plan.probabilities[0]
    unclamped = row < 1
    law = np.array([1.0, 8.0, 64.0]) ** -(0.5 + 1 / 2.5)
    np.testing.assert_allclose(row[unclamped] / law[unclamped], (row / law)[unclamped].mean())


def test_a_power_law_with_money_for_all_always_fires_and_with_too_little_says_so():
    drift = mlsde.DriftHierarchy([lambda t, y: -y] * 2, costs=[1.0, 8.0])
    times = np.linspace(0, 1, 11)
    rich = multilevel_plan(mlsde.Multilevel(mlsde.PowerLaw(2.5, budget=80.0)), times, drift)
    assert (rich.probabilities == 1).all()
    with pytest.raises(ValueError, match="budget=5 does not pay"):
        multilevel_plan(mlsde.Multilevel(mlsde.PowerLaw(2.5, budget=5.0)), times, drift)
    with pytest.raises(ValueError, match="give one of the two"):
        mlsde.PowerLaw(2.5, scale=2.0, budget=5.0)
