"""Prices against the plan's own, and allocations that random ones of the same price do not beat."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import mlsde
from mlsde import theory
from mlsde.multilevel import CORRECTIONS
from mlsde.plan import multilevel_plan

pytestmark = pytest.mark.filterwarnings("ignore:costs fall")  # prices are drawn in any order

QUICK = settings(deadline=None, max_examples=60)
chances = st.one_of(st.floats(1e-6, 1), st.sampled_from([0.0, 0.25, 0.5, 1.0]))
prices = st.floats(0.01, 1000)


class Table:
    """A rule that returns a given table."""

    def __init__(self, values):
        self.values = np.array(values)

    def table(self, times, drift, price):
        return self.values


@st.composite
def runs(draw):
    """A table of probabilities and costs, with no level that is never seen."""
    steps, levels = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    table = draw(arrays(np.float64, (steps, levels), elements=chances).filter(lambda t: t.max(axis=0).min() > 0))
    return table, draw(arrays(np.float64, levels, elements=prices))


def planned_cost(table, costs, coins, correction="impulse", differences=False, stages=1):
    make = mlsde.DriftHierarchy.from_differences if differences else mlsde.DriftHierarchy
    ladder = make([lambda t, y: y] * len(costs), costs.tolist())
    rule = mlsde.Multilevel(Table(table), coins=coins, correction=correction)
    return multilevel_plan(rule, np.arange(len(table) + 1.0), ladder, stages=stages).expected_cost


@QUICK
@given(drawn=runs(), differences=st.booleans(), stages=st.integers(1, 2))
@pytest.mark.parametrize("coins", ["independent", "nested", "systematic"])
@pytest.mark.parametrize("correction", CORRECTIONS)
def test_the_expected_cost_is_that_of_the_plan(coins, correction, drawn, differences, stages):
    if correction == "extrapolate" and coins != "systematic":
        coins = "systematic"
    table, costs = drawn
    expected = planned_cost(table, costs, coins, correction, differences, stages)
    options = {"coins": coins, "correction": correction, "differences": differences, "stages": stages}
    assert theory.expected_cost(table, costs, **options) == expected
    row = np.where(table[0] > 0, table[0], 0.5)
    rows = planned_cost(np.tile(row, (len(table), 1)), costs, coins, correction, differences, stages)
    assert theory.expected_cost(row, costs, len(table), **options) == pytest.approx(rows, rel=1e-12)


def test_the_expected_cost_of_periodic_coins_is_what_they_cost():
    table, costs = np.tile([1.0, 0.25], (40, 1)), np.array([1.0, 8.0])
    assert theory.expected_cost([1.0, 0.25], costs, 40, coins="periodic") == planned_cost(table, costs, "periodic")
    assert theory.expected_cost([1.0, 0.25], costs, 40, coins="periodic") == 40 * 1.0 + 10 * 8.0


@QUICK
@given(drawn=runs())
@pytest.mark.parametrize("coins", ["independent", "nested", "systematic"])
def test_the_probability_of_an_evaluation_gives_the_price_of_the_plan(coins, drawn):
    table, costs = drawn
    expected = planned_cost(table, costs, coins)
    assert (theory.evaluation_probabilities(table, coins) @ costs).sum() == pytest.approx(expected, rel=1e-12)
    each = [theory.evaluation_probabilities(row, coins) for row in table]
    assert np.array_equal(theory.evaluation_probabilities(table, coins), each)


def test_the_probability_of_an_evaluation_by_hand():
    """Equal weights cancel the lower level where both fire; unequal ones do not; a sure prefix costs one evaluation."""
    assert theory.evaluation_probabilities([0.5, 0.5]).tolist() == [0.5, 0.5]
    assert theory.evaluation_probabilities([0.5, 0.25]).tolist() == [0.625, 0.25]
    assert theory.evaluation_probabilities([0.5, 0.25], "nested").tolist() == [0.5, 0.25]
    assert theory.evaluation_probabilities([1.0, 1.0, 0.25]).tolist() == [0.0, 1.0, 0.25]


@QUICK
@given(drawn=runs())
def test_paying_both_levels_of_a_difference_bounds_the_price_summed_by_parts(drawn):
    table, costs = drawn
    both = costs + np.concatenate([[0.0], costs[:-1]])
    for coins in ("independent", "nested"):
        assert theory.expected_cost(table, costs, coins=coins) <= theory.additive_cost(table, both) * (1 + 1e-12)
    additive = theory.expected_cost(table, costs, differences=True)
    assert theory.additive_cost(table, costs) == pytest.approx(additive, rel=1e-12)


def test_the_additive_price_lies_on_either_side_of_the_one_summed_by_parts():
    for row, sign in (([1.0, 1.0], -1), ([0.5, 0.25], 1)):
        gap = theory.expected_cost(row, [1.0, 8.0], 10) - theory.additive_cost(row, [1.0, 8.0], 10)
        assert np.sign(gap) == sign


@st.composite
def allocations(draw):
    """``a_k``, ``c_k``, an order, and a competitor."""
    levels = draw(st.integers(1, 5))
    rows = [draw(arrays(np.float64, levels, elements=elements)) for elements in (prices, prices, st.floats(0.01, 1))]
    return (*rows, draw(st.sampled_from([1.0, 2.0, 4.0])))


@QUICK
@given(drawn=allocations())
def test_no_allocation_of_the_same_price_has_a_smaller_error(drawn):
    a, c, rival, order = drawn
    p = theory.optimal_probabilities(a, c, budget=theory.additive_cost(rival, c), order=order)
    assert ((p > 0) & (p <= 1)).all()
    assert theory.additive_cost(p, c) == pytest.approx(theory.additive_cost(rival, c), rel=1e-9)
    rivals = theory.allocation_mse(rival, a, order)
    assert theory.allocation_mse(p, a, order) <= rivals + 1e-9 * (rivals + a.sum())


@QUICK
@given(drawn=allocations())
def test_no_allocation_of_the_same_error_has_a_smaller_price(drawn):
    a, c, rival, order = drawn
    error = theory.allocation_mse(rival, a, order)
    p = theory.optimal_probabilities(a, c, mse=error, order=order)
    assert ((p > 0) & (p <= 1)).all()
    assert theory.allocation_mse(p, a, order) == pytest.approx(error, rel=1e-9, abs=1e-9 * a.sum())
    assert theory.additive_cost(p, c) <= theory.additive_cost(rival, c) * (1 + 1e-9)


@QUICK
@given(drawn=allocations(), share=st.floats(0.01, 0.99))
def test_the_conditions_of_karush_kuhn_and_tucker_hold(drawn, share):
    """What a unit of price saves, ``s a p^-(s+1) / c``, is the same at every free level and more at the clamped ones.

    And the allocation of a budget is that of the error which it reaches.
    """
    a, c, _, order = drawn
    p = theory.optimal_probabilities(a, c, budget=share * c.sum(), order=order)
    savings, free = order * a * p ** -(order + 1) / c, p < 1
    assert free.any()
    assert savings[free] == pytest.approx(savings[free].max(), rel=1e-8)
    assert (savings[~free] >= savings[free].max() * (1 - 1e-8)).all()
    again = theory.optimal_probabilities(a, c, mse=theory.allocation_mse(p, a, order), order=order)
    assert again == pytest.approx(p, rel=1e-6)


WRONG = {
    "clipped at 1, the rest of the budget left over": lambda a, c, s: (a / c) ** (1 / (s + 1)),
    "exponent 1/s": lambda a, c, s: (a / c) ** (1 / s),
    "exponent 1/2 for every order": lambda a, c, s: (a / c) ** (1 / 2),
    "no price": lambda a, c, s: a ** (1 / (s + 1)),
}
EXAMPLES = [(2.0, 2.0), (20.0, 2.0), (5.0, 1.0)]


@pytest.mark.parametrize("name", WRONG)
def test_wrong_allocations_are_beaten(name):
    """Proportions that are scaled to the budget and clipped."""
    a, c, ratios = np.array([1.0, 0.25, 0.0625]), np.array([1.0, 8.0, 64.0]), []
    for budget, order in EXAMPLES:
        law = WRONG[name](a, c, order)
        wrong, right = (
            np.minimum(1.0, law * budget / (law @ c)),
            theory.optimal_probabilities(a, c, budget=budget, order=order),
        )
        assert theory.additive_cost(wrong, c) <= budget * (1 + 1e-9)
        ratios.append(theory.allocation_mse(wrong, a, order) / theory.allocation_mse(right, a, order))
    assert min(ratios) > 1 - 1e-9
    assert max(ratios) > 1.05


@pytest.mark.parametrize("gamma", [1.5, 2.5, 4.0])
@pytest.mark.parametrize("order", [1.0, 2.0, 4.0])
def test_the_optimum_of_a_power_law_is_the_rule_of_that_name(gamma, order):
    k = np.arange(1, 6)
    costs, variances = 2.0 ** (gamma * k), 4.0**-k
    ladder = mlsde.DriftHierarchy([lambda t, y: y] * 5, costs.tolist())
    for scale in (0.5, 3.0, 20.0):
        (law,) = mlsde.PowerLaw(gamma, scale, order=order).table(np.array([0.0, 1.0]), ladder, lambda table: 0.0)
        optimum = theory.optimal_probabilities(variances, costs, budget=theory.additive_cost(law, costs), order=order)
        assert optimum == pytest.approx(law, rel=1e-9)


def test_a_budget_for_everything_and_no_error_fire_every_level():
    assert theory.optimal_probabilities([1.0, 2.0], [1.0, 8.0], budget=9.0).tolist() == [1, 1]
    assert theory.optimal_probabilities([1.0, 2.0], [1.0, 8.0], budget=90.0).tolist() == [1, 1]
    assert theory.optimal_probabilities([1.0, 2.0], [1.0, 8.0], mse=0.0) == pytest.approx([1, 1], rel=1e-12)


def test_the_error_of_an_allocation_is_the_variance_of_the_estimate():
    variances, p = [5.0, 10.0], [0.5, 0.25]
    assert theory.allocation_mse(p, variances) == np.diag(theory.weight_covariance(p)) @ variances == 35.0
    assert theory.allocation_mse(p, variances, 2) == 5 * 3 + 10 * 15


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: theory.optimal_probabilities([1.0], [1.0]), ValueError, "give one of budget= and mse=, got neither"),
        (lambda: theory.optimal_probabilities([1.0], [1.0], budget=1.0, mse=1.0), ValueError, "got both"),
        (lambda: theory.optimal_probabilities([0.0], [1.0], mse=1.0), ValueError, "variances must be above zero"),
        (lambda: theory.optimal_probabilities([1.0], [1.0, 2.0], mse=1.0), ValueError, "costs holds 2 values, exp"),
        (lambda: theory.optimal_probabilities([1.0], [1.0], budget=0.0), ValueError, "budget must be above zero"),
        (lambda: theory.optimal_probabilities([1.0], [1.0], mse=-1.0), ValueError, "mse must not be negative"),
        (lambda: theory.optimal_probabilities([1.0], [1.0], mse=1.0, order=0), ValueError, "order must be above"),
        (lambda: theory.optimal_probabilities([], [], mse=1.0), ValueError, "variances holds 0 values"),
        (lambda: theory.expected_cost([0.5], [-1.0]), ValueError, "costs must be above zero"),
        (lambda: theory.expected_cost([1.5], [1.0]), ValueError, "probabilities must be at most 1, got 1.5"),
        (lambda: theory.expected_cost([-0.5], [1.0]), ValueError, "probabilities must be finite and not negative"),
        (lambda: theory.expected_cost([[0.5]] * 3, [1.0], 4), ValueError, r"has shape \(3, 1\), expected .* \(4, 1\)"),
        (lambda: theory.expected_cost([0.5], [1.0], 2.0), TypeError, "steps must be a positive integer"),
        (lambda: theory.expected_cost([0.5], [1.0], coins="fair"), ValueError, "coins='fair' is not known"),
        (lambda: theory.expected_cost([0.5], [1.0], correction="extrapolate"), ValueError, "is refused"),
        (lambda: theory.expected_cost([0.5], [1.0], stages=0), ValueError, "stages must be a positive integer"),
        (lambda: theory.additive_cost([0.5, 0.5], [1.0]), ValueError, r"probabilities has shape \(2,\), expected \(1"),
        (lambda: theory.evaluation_probabilities([0.5], "periodic"), ValueError, "coins='periodic' is not known"),
        (lambda: theory.evaluation_probabilities([2.0]), ValueError, "probabilities must hold numbers in"),
        (lambda: theory.evaluation_probabilities(["a"]), TypeError, "probabilities must hold numbers"),
        (lambda: theory.allocation_mse([0.0], [1.0]), ValueError, "probabilities must be above zero"),
        (lambda: theory.allocation_mse([0.5], [-1.0]), ValueError, "variances must not be negative"),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
