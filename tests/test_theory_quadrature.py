"""Spread coins are a quadrature of the differences: the formulas of the page, against every offset and every coin.

Everything runs through the code of a solve; nothing is sampled. Also here: no allocation makes an infinite ladder pay.
"""

import itertools

import numpy as np
import pytest
import torch
from enumeration import every_run
from hypothesis import given, settings
from hypothesis import strategies as st

import mlsde
from mlsde import theory

H = 0.125
IMPULSE, HOLD, EXTRAPOLATE = ("systematic", "impulse"), ("periodic", "hold"), ("periodic", "extrapolate")
CONTROL, PAPER = ("independent", "control"), ("independent", "impulse")


def missed(values, rule, m, h=H):
    """``E|e|^2`` for each row of values ``D(t_n)``, shape (rows, N): a ladder of nothing and of a function of time."""
    table = torch.as_tensor(np.array(values))
    steps = table.shape[1]
    levels = [lambda t, y: 0 * y, lambda t, y: table[:, round(float(t) / h)].expand(y.shape)]
    sde = mlsde.SDE(mlsde.DriftHierarchy(levels, costs=[1.0, 8.0]))
    multilevel = mlsde.Multilevel(mlsde.Constant([1.0, 1 / m]), *rule, share="sample")
    runs = every_run(sde, torch.zeros(len(table), dtype=torch.float64), h * np.arange(steps + 1), multilevel)
    off = runs.states[-1] - h * table.sum(dim=1)
    return runs.mean(off.square()[None])[0].numpy()


def grid(gaps, m, h=H):
    return h * np.arange(gaps * m)


def age_squares(m, steps):
    """``E a_n^2`` of the steps since the last firing, from the second step on; the first fires."""
    p, ages = 1 / m, {1: 1.0}
    for _ in range(1, steps):
        yield sum(a**2 * chance for a, chance in ages.items())
        ages = {1: p, **{a + 1: (1 - p) * chance for a, chance in ages.items()}}


# ``E|e|^2`` of D = a + b t over ``gaps`` gaps of m steps of length h, as the page has it
LINE = {
    IMPULSE: lambda a, b, m, h, n: ((m * h) ** 2 - h**2) / 12 * (b * n * h) ** 2,
    HOLD: lambda a, b, m, h, n: (m * h - h) ** 2 / 4 * (b * n * h) ** 2,
    CONTROL: lambda a, b, m, h, n: (m - 1) * h**4 * b**2 * sum(age_squares(m, n)),
    PAPER: lambda a, b, m, h, n: (m * h - h) * h * sum((a + b * h * k) ** 2 for k in range(n)),
}


@pytest.mark.parametrize(("gaps", "m"), [(4, 2), (2, 4), (8, 1)])
@pytest.mark.parametrize("rule", LINE, ids=" ".join)
def test_on_a_line_the_formulas_are_exact(rule, gaps, m):
    a, b = 0.7, -1.3
    found = missed([a + b * grid(gaps, m)], rule, m)
    np.testing.assert_allclose(found, LINE[rule](a, b, m, H, gaps * m), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("rule", LINE, ids=" ".join)
def test_formulas_of_other_rules_are_found_out(rule):
    found = missed([1.1 - 1.3 * grid(2, 4)], rule, 4)
    others = [formula(1.1, -1.3, 4, H, 8) for other, formula in LINE.items() if other != rule]
    assert np.abs(np.array(others) / found - 1).min() > 0.1


def test_the_age_of_a_memory_has_the_moment_of_the_page():
    """``E a^2 = (2 - p) / p^2`` in the long run."""
    assert list(age_squares(4, 400))[-1] == pytest.approx((2 - 0.25) / 0.25**2, rel=1e-12)


def after_two_values(m, h, gaps, first, curvature):
    """``e`` of extrapolation on a quadratic function with ``D'(0) = first`` and ``D'' = curvature``."""
    tau, end = m * h, gaps * m * h
    rest = h**2 * (m - 1) * (5 * m - 1) / 12 * curvature * (end - tau)
    return -rest - h**2 * m * (m - 1) / 2 * first - h**3 * m * (m - 1) * (2 * m - 1) / 12 * curvature


@pytest.mark.parametrize(("gaps", "m"), [(4, 2), (3, 4), (2, 8), (5, 1)])
def test_extrapolation_misses_a_quadratic_function_by_the_formula(gaps, m):
    t = grid(gaps, m)
    found = missed([0.4 - 0.9 * t + 1.1 * t**2, 0.4 - 0.9 * t], EXTRAPOLATE, m)
    expected = [after_two_values(m, H, gaps, -0.9, 2.2), after_two_values(m, H, gaps, -0.9, 0.0)]
    np.testing.assert_allclose(found, np.square(expected), rtol=1e-10, atol=1e-15)


def slopes(rule, formula=None, m=8):
    """Exponent in the spacing of ``E|e|^2``, or of what a formula leaves of it, on ``exp(sin 2t)`` up to 1."""
    rest = []
    for steps in (256, 512, 1024):
        t = np.arange(steps) / steps
        found = float(missed([np.exp(np.sin(2 * t))], rule, m, 1 / steps)[0])
        rest.append(abs(found - (formula(m, 1 / steps) if formula else 0.0)))
    return np.log2(np.array(rest)[:-1] / np.array(rest)[1:])


def test_on_smooth_functions_orders_are_those_of_the_page_and_impulses_leave_a_higher_one():
    """The rest is of order ``h tau^2 + tau^4``; where ``tau = 8 h`` that is ``tau^3``."""
    assert slopes(IMPULSE) == pytest.approx(2.0, abs=0.1)
    assert slopes(HOLD) == pytest.approx(2.0, abs=0.1)
    assert slopes(EXTRAPOLATE) == pytest.approx(4.0, abs=0.3)
    change = np.exp(np.sin(2.0)) - 1.0
    assert slopes(IMPULSE, lambda m, h: ((m * h) ** 2 - h**2) / 12 * change**2) == pytest.approx(3.0, abs=0.1)


def signs(steps):
    return np.array(list(itertools.product((-1.0, 1.0), repeat=steps)))


NOISY = {  # times sigma^2 h^3, over gaps of m steps
    IMPULSE: lambda m, gaps: gaps * m * (m**2 - 1) / 6,
    HOLD: lambda m, gaps: gaps * m * (m - 1) * (2 * m - 1) / 6,
    EXTRAPOLATE: lambda m, gaps: (gaps - 1) * m * (m**2 - 1) / 12 + m * (m - 1) * (2 * m - 1) / 6,
}


@pytest.mark.parametrize(("gaps", "m"), [(2, 4), (4, 2), (2, 5)])
@pytest.mark.parametrize("rule", NOISY, ids=" ".join)
def test_along_a_path_of_independent_increments_all_rules_have_order_two(rule, gaps, m):
    """Increments ``+-sigma sqrt(h)``, all patterns; the last gap of extrapolation gives nothing back."""
    increments = signs(gaps * m - 1)
    walk = np.concatenate([np.zeros((len(increments), 1)), np.cumsum(increments, axis=1)], axis=1)
    found = missed(0.6 * np.sqrt(H) * walk, rule, m).mean()
    assert found == pytest.approx(0.6**2 * H**3 * NOISY[rule](m, gaps), rel=1e-10)


@pytest.mark.parametrize(("gaps", "m"), [(2, 4), (4, 2)])
@pytest.mark.parametrize("rule", [IMPULSE, HOLD, PAPER], ids=" ".join)
def test_values_unrelated_from_step_to_step_gain_nothing_by_spreading_or_remembering(rule, gaps, m):
    found = missed(0.6 * signs(gaps * m), rule, m).mean()
    assert found == pytest.approx((m * H - H) * 0.6**2 * gaps * m * H, rel=1e-10)


# Why the ladder is cut


@pytest.mark.parametrize("gamma", [1.0, 1.5, 2.0, 2.5, 3.0])
@pytest.mark.parametrize("count", [3, 10])
def test_variance_times_price_of_the_telescope_is_the_bound_of_cauchy_and_schwarz(gamma, count):
    k = np.arange(1, count + 1)
    v, c = 4.0**-k, 2.0 ** (gamma * k)
    p = theory.optimal_probabilities(v, c, budget=1e-3)
    product = (theory.allocation_mse(p, v) + v.sum()) * theory.additive_cost(p, c)
    assert product == pytest.approx(np.sqrt(v * c).sum() ** 2, rel=1e-9)
    other = p ** np.linspace(0.8, 1.2, count)
    assert (theory.allocation_mse(other, v) + v.sum()) * theory.additive_cost(other, c) > 1.001 * product


@settings(deadline=None, max_examples=50)
@given(p=st.lists(st.floats(0.01, 1.0), min_size=6, max_size=6), k=st.integers(1, 6))
def test_two_ladders_that_agree_below_a_level_force_its_price(p, k):
    """Ladders that are 0 below level ``k`` and ``+-2^-k`` from there on, all coins of the telescope."""
    moment, chances, asks = 0.0, 0.0, 0.0
    for coins in itertools.product((0, 1), repeat=6):
        chance = float(np.prod([q if fired else 1 - q for q, fired in zip(p, coins, strict=True)]))
        chances += chance
        asks += chance * any(coins[k - 1 :])
        moment += chance * (2.0**-k * coins[k - 1] / p[k - 1]) ** 2
    assert chances == pytest.approx(1.0)
    assert moment >= 4.0**-k / asks * (1 - 1e-9)
