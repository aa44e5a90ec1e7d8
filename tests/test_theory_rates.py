"""Exponents against the optimum that they describe, found numerically; levels and steps against their definition."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlsde import theory

QUICK = settings(deadline=None, max_examples=60)


def optimal_costs(gamma, order, strong_order, errors):
    """Least cost at each error with ``V_k = 4^-k``, ``c_k = 2^(gamma k)`` and just enough steps: no power law assumed.

    Levels of bias beyond the error are left out; the mean squared error of the coins is that of the ladder and step.
    """
    costs = []
    for error in errors:
        levels = np.arange(1, theory.levels_for(error) + 1)
        steps = float(theory.steps_for(error, 1.0, strong_order))
        variances, prices = 4.0**-levels * steps**-order, 2.0 ** (gamma * levels)
        p = theory.optimal_probabilities(variances, prices, mse=error**2, order=order)
        costs.append(theory.additive_cost(p, prices) * steps)
    return costs


FAR = 2.0 ** -np.arange(40, 81)
CASES = [
    (gamma, order, strong_order)
    for gamma, order, strong_order in itertools.product((0.25, 0.75, 1.25, 1.5, 2.5, 3.0, 4.0), (1, 2, 4), (0.5, 1, 2))
    if abs(order * gamma - 2) >= 0.5
]


def error_of(exponent, gamma, order, strong_order):
    """How far an exponent is from the fitted one over ``2^-40 … 2^-80``."""
    fitted = theory.fitted_exponent(FAR, optimal_costs(gamma, order, strong_order, FAR))
    return abs(fitted - exponent(gamma, order, strong_order))


@pytest.mark.parametrize(("gamma", "order", "strong_order"), CASES)
def test_the_exponent_is_that_of_the_optimum(gamma, order, strong_order):
    assert error_of(theory.multilevel_exponent, gamma, order, strong_order) < 0.02


WRONG = {
    "plain": lambda gamma, s, r: theory.euler_exponent(gamma, r),
    "no share of sure levels": lambda gamma, s, r: max(gamma, 2 / s),
    "a floor of 1/r though steps are free": lambda gamma, s, r: max(gamma, 2 / s, 1 / r),
    "threshold 2 for every order": lambda gamma, s, r: theory.multilevel_exponent(gamma, 1, r),
    "always the price of one evaluation": lambda gamma, s, r: gamma,
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_exponents_are_found_out(name):
    assert max(error_of(WRONG[name], *case) for case in CASES) > 0.2


@QUICK
@given(gamma=st.floats(0.1, 6), order=st.floats(0.5, 5), strong_order=st.floats(0.25, 3), every_step=st.booleans())
def test_exponents_are_ordered(gamma, order, strong_order, every_step):
    """Never below gamma, never above the plain method's, and gamma itself exactly from the threshold on."""
    exponent = theory.multilevel_exponent(gamma, order, strong_order, every_step=every_step)
    assert gamma <= exponent
    free = theory.multilevel_exponent(gamma, order, strong_order)
    assert free <= max(gamma, theory.threshold(order)) + 1e-12
    assert exponent == (max(free, 1 / strong_order) if every_step else free)
    assert free == pytest.approx(gamma, rel=1e-12) or gamma < theory.threshold(order)
    if order <= 2 * strong_order or gamma >= theory.threshold(order):
        assert exponent < theory.euler_exponent(gamma, strong_order)


def test_the_exponents_of_the_paper():
    """arXiv 2603.24594: ``gamma + 1`` and ``gamma + 2`` for Euler-Maruyama, ``gamma`` for ML-EM above 2."""
    assert theory.euler_exponent(2.5) == 3.5
    assert theory.euler_exponent(2.5, 0.5) == 4.5
    assert theory.multilevel_exponent(2.5) == theory.multilevel_exponent(2.5, 1.0, 0.5) == 2.5
    assert theory.threshold() == 2.0
    assert theory.threshold(2) == 1.0
    assert theory.multilevel_exponent(1.5) == 1.75  # half the levels always fire
    assert theory.multilevel_exponent(1.5, 2.0, 0.5) == 1.5
    assert theory.multilevel_exponent(1.5, 2.0, 0.5, every_step=True) == 2.0


def test_the_cost_at_the_threshold_has_the_stated_logarithm():
    """``s gamma = 2``, ``s = 2 r`` (no sure level): cost times ``eps^(2/s)`` grows like ``log^(1 + 1/s)``."""
    for order, strong_order in ((1, 0.5), (2, 1)):
        errors = 2.0 ** -np.array([64, 128, 256])
        costs = np.array(optimal_costs(2 / order, order, strong_order, errors))
        growth = np.log2(costs * errors ** (2 / order))
        assert np.diff(growth) == pytest.approx(1 + 1 / order, abs=0.06)


def test_the_price_of_accuracy():
    assert theory.htmc_cost(0.1, 2.0) == pytest.approx(100.0)
    assert theory.htmc_cost(0.5, 3.0, 10.0) == 80.0
    assert theory.htmc_cost(1e-200, 2.0) == math.inf


@QUICK
@given(error=st.floats(1e-6, 10), bias=st.floats(1e-3, 1e3), ratio=st.floats(1.01, 10))
def test_the_levels_are_the_least_that_reach_the_error(error, bias, ratio):
    levels = theory.levels_for(error, bias, ratio)
    assert bias * ratio**-levels <= error
    assert levels == 1 or bias * ratio ** -(levels - 1) > error


@QUICK
@given(error=st.floats(1e-6, 10), constant=st.floats(1e-3, 1e3), order=st.floats(0.25, 4))
def test_the_steps_are_the_least_that_reach_the_error(error, constant, order):
    steps = theory.steps_for(error, constant, order)
    assert constant * float(steps) ** -order <= error
    assert steps == 1 or constant * float(steps - 1) ** -order > error


def test_levels_and_steps_by_hand():
    assert theory.levels_for(2.0**-10) == 10
    assert theory.levels_for(0.3, bias=0.1) == 1
    assert theory.levels_for(0.01, bias=1.0, ratio=10.0) == 2
    assert theory.steps_for(0.001) == 1000
    assert theory.steps_for(2.0**-20, 1.0, 0.5) == 2**40
    assert theory.steps_for(5.0) == 1


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: theory.htmc_cost(0.0, 2.0), ValueError, "error must be above zero"),
        (lambda: theory.htmc_cost(0.1, -2.0), ValueError, "gamma must be above zero"),
        (lambda: theory.htmc_cost(0.1, 2.0, "a"), TypeError, "constant must be a number"),
        (lambda: theory.euler_exponent(2.0, 0.0), ValueError, "strong_order must be above zero"),
        (lambda: theory.euler_exponent(math.nan), ValueError, "gamma must be finite"),
        (lambda: theory.threshold(0), ValueError, "order must be above zero"),
        (lambda: theory.multilevel_exponent(2.0, -1.0), ValueError, "order must be above zero"),
        (lambda: theory.levels_for(0.1, ratio=1.0), ValueError, "ratio must be above 1, .* got 1"),
        (lambda: theory.levels_for(-0.1), ValueError, "error must be above zero"),
        (lambda: theory.steps_for(1e-300, 1.0, 0.01), ValueError, "error=1e-300 is out of reach"),
        (lambda: theory.steps_for(0.1, 0.0), ValueError, "constant must be above zero"),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
