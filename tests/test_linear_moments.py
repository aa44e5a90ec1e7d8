"""Moment recursions of linear ladders against a full enumeration of solver runs, coins and two-point noise alike."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from enumeration import Table, every_run
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import mlsde
from mlsde import theory
from mlsde.problems import analytic, linear
from mlsde.problems.linear import LinearProblem, euler_moments, multilevel_moments, ornstein_uhlenbeck, poisson_moments

EXACT = settings(deadline=None, max_examples=25)
numbers = st.floats(-2, 2, allow_subnormal=False)
STEPS = 3
OU = ornstein_uhlenbeck([0.5, 1.5], sigma=0.7, means=[0.2, 1.0])
Y0 = torch.tensor([1.5], dtype=torch.float64)
TIMES = np.array([0.0, 0.25, 0.4, 1.0])
TABLE = np.array([[0.75, 0.5], [0.5, 0.25], [0.3, 0.6]])


def enumerated(problem, y0, times, table, coin, share="sample"):
    """Exact mean, second moment and squared error to EM of real solver runs."""
    motions = 0 if problem.noise is None else problem.noise.shape[1]
    rule = mlsde.Multilevel(Table(table), coins=coin, correction="impulse", share=share)
    runs = every_run(problem.sde(), y0, times, rule, motions)
    em = every_run(problem.sde(), y0, times, replace(rule, probabilities=Table(np.ones_like(table))), motions)
    squared_error = (runs.states - em.states).square().sum(dim=-1)
    outer = runs.states[..., :, None] * runs.states[..., None, :]
    return runs.mean(runs.states), runs.mean(outer), runs.mean(squared_error)


def assert_moments_are(moments, expected):
    for value, exact in zip((moments.mean, moments.second, moments.squared_error), expected, strict=True):
        torch.testing.assert_close(value, exact, rtol=1e-9, atol=1e-9)


@st.composite
def problems(draw):
    """One or two dimensions, one or two levels, with and without noise, forwards and backwards in time."""
    levels, d = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    tensor = lambda *shape: torch.as_tensor(draw(arrays(np.float64, shape, elements=numbers)))  # noqa: E731
    problem = LinearProblem(tensor(levels, d, d), tensor(levels, d), draw(st.sampled_from([None, tensor(d, 1)])))
    times = np.cumsum([0.0, *draw(arrays(np.float64, STEPS, elements=st.floats(0.05, 1)))])
    table = draw(arrays(np.float64, (STEPS, levels), elements=st.floats(0.1, 1)))
    return problem, tensor(d), draw(st.sampled_from([times, times[::-1].copy()])), table


@EXACT
@given(drawn=problems())
@pytest.mark.parametrize("coin", ["independent", "nested"])
def test_moments_of_multilevel_runs_are_those_of_the_enumeration(coin, drawn):
    problem, y0, times, table = drawn
    assert_moments_are(multilevel_moments(problem, y0, times, table, coin), enumerated(problem, y0, times, table, coin))


@EXACT
@given(drawn=problems())
def test_moments_of_euler_maruyama_are_those_of_the_enumeration(drawn):
    problem, y0, times, table = drawn
    moments = euler_moments(problem, y0, times)
    assert_moments_are(moments, enumerated(problem, y0, times, np.ones_like(table), "independent"))
    assert not moments.squared_error.any()


@pytest.mark.parametrize("share", ["batch", "sample"])
@pytest.mark.parametrize("coin", ["independent", "nested"])
def test_an_ornstein_uhlenbeck_ladder_has_these_moments_with_coins_of_either_share(coin, share):
    moments = multilevel_moments(OU, Y0, TIMES, TABLE, coin)
    assert_moments_are(moments, enumerated(OU, Y0, TIMES, TABLE, coin, share))
    em = euler_moments(OU, Y0, TIMES)
    torch.testing.assert_close(moments.mean, em.mean)  # unbiased for linear drifts,
    assert (moments.second[-1] > 1.1 * em.second[-1]).all()  # at the price of variance


def test_moments_of_euler_maruyama_are_the_closed_form_of_the_scheme():
    """``f = a y``, constant step: mean ``(1 + ha)^n y0``, variance ``h s^2 ((1 + ha)^2n - 1) / ((1 + ha)^2 - 1)``."""
    a, sigma, h, n = -1.5, 0.7, 0.1, 50
    moments = euler_moments(ornstein_uhlenbeck([-a], sigma), Y0, np.linspace(0.0, h * n, n + 1))
    q = 1 + h * a
    variance = h * sigma**2 * (q ** (2 * n) - 1) / (q**2 - 1)
    assert float(moments.mean[-1]) == pytest.approx(1.5 * q**n, rel=1e-11)
    assert float(moments.second[-1]) == pytest.approx(variance + (1.5 * q**n) ** 2, rel=1e-11)


def without_coin_noise(p, coins):
    return np.zeros((len(p), len(p)))


def without_cross_terms(p, coins):
    return np.diag(1 / np.asarray(p) - 1)


def with_weights_not_squared(p, coins):
    return np.diag(np.sqrt(1 / np.asarray(p) - 1))


def with_smaller_probability(p, coins):
    return 1 / np.minimum.outer(p, p) - 1


@pytest.mark.parametrize(
    ("coin", "wrong"),
    [
        ("independent", without_coin_noise),
        ("independent", with_weights_not_squared),
        ("independent", with_smaller_probability),
        ("nested", without_coin_noise),
        ("nested", without_cross_terms),
        ("nested", with_smaller_probability),
    ],
)
def test_recursions_with_a_wrong_variance_of_the_coins_are_found_out(coin, wrong, monkeypatch):
    expected = enumerated(OU, Y0, TIMES, TABLE, coin)
    assert_moments_are(multilevel_moments(OU, Y0, TIMES, TABLE, coin), expected)
    monkeypatch.setattr(theory, "weight_covariance", wrong)
    with pytest.raises(AssertionError):
        assert_moments_are(multilevel_moments(OU, Y0, TIMES, TABLE, coin), expected)


@pytest.mark.parametrize("coin", ["systematic", "periodic"])
def test_runs_with_coins_that_depend_on_their_past_do_not_follow_the_recursions(coin):
    with pytest.raises(AssertionError):
        assert_moments_are(multilevel_moments(OU, Y0, TIMES, TABLE), enumerated(OU, Y0, TIMES, TABLE, coin))
    with pytest.raises(ValueError, match=f"coins='{coin}' is not known"):
        multilevel_moments(OU, Y0, TIMES, TABLE, coin)


def test_runs_with_wrong_weights_are_found_out(monkeypatch):
    monkeypatch.setattr("mlsde.plan._inverse", np.ones_like)
    with pytest.raises(AssertionError):
        assert_moments_are(multilevel_moments(OU, Y0, TIMES, TABLE), enumerated(OU, Y0, TIMES, TABLE, "independent"))


def test_one_row_of_probabilities_serves_all_steps():
    row = multilevel_moments(OU, Y0, TIMES, [1.0, 0.25])
    rows = multilevel_moments(OU, Y0, TIMES, [[1.0, 0.25]] * 3)
    assert torch.equal(row.second, rows.second)
    assert torch.equal(row.squared_error, rows.squared_error)


def test_an_ornstein_uhlenbeck_ladder_is_what_it_says():
    y = torch.tensor([[2.0]], dtype=torch.float64)
    values = [float(level(torch.tensor(0.0), y)) for level in OU.drift([1.0, 8.0]).levels]
    assert values == pytest.approx([0.5 * (0.2 - 2.0), 1.5 * (1.0 - 2.0)])
    assert OU.sde([1.0, 8.0]).drift.costs == (1.0, 8.0)
    assert LinearProblem(OU.matrices, OU.offsets).sde().is_ode


RATES = (4.0, np.inf, 9.0)
THREE = LinearProblem(
    torch.tensor([[[-1.0, 0.5], [0.0, -0.5]], [[-1.2, 0.8], [-0.3, -0.6]], [[-1.3, 0.7], [-0.6, -0.4]]]).double(),
    torch.tensor([[0.3, 0.0], [0.5, -0.2], [0.4, 0.1]]).double(),
    torch.tensor([[0.4], [0.2]]).double(),
)
TWO = torch.tensor([1.0, -0.5], dtype=torch.float64)


def distances(limit, coins, steps):
    """How far the moments at time 1 of ML-EM with ``p_k = min(1, rate_k h)`` are from a limit."""
    table = np.minimum(1.0, np.array(RATES) / steps)
    found = multilevel_moments(THREE, TWO, np.linspace(0.0, 1.0, steps + 1), table, coins)
    pairs = ((getattr(found, name)[-1], getattr(limit, name)[-1]) for name in ("mean", "second", "squared_error"))
    return np.array([float((a - b).norm()) for a, b in pairs])


@pytest.mark.parametrize("coins", ["independent", "nested"])
def test_multilevel_moments_tend_to_those_of_the_jump_process_at_first_order(coins):
    limit = poisson_moments(THREE, TWO, 1.0, RATES, coins=coins)
    coarse, middle, fine = (distances(limit, coins, steps) for steps in (128, 256, 512))
    np.testing.assert_allclose(coarse / middle, 2.0, rtol=0.1)
    np.testing.assert_allclose(middle / fine, 2.0, rtol=0.05)


WRONG = {
    "1/rate for rate": lambda weights: torch.where(weights > 0, 1 / weights, 0.0),
    "no jumps": torch.zeros_like,
    "1/rate^2": lambda weights: weights**2,
    "a factor 2": lambda weights: 2 * weights,
}


@pytest.mark.parametrize("coins", ["independent", "nested"])
@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_jumps_of_a_wrong_size_are_found_out(wrong, coins, monkeypatch):
    true = linear._jump_weights
    monkeypatch.setattr(linear, "_jump_weights", lambda *given: wrong(true(*given)))
    limit = poisson_moments(THREE, TWO, 1.0, RATES, coins=coins)
    middle, fine = (distances(limit, coins, steps) for steps in (256, 512))
    assert ((middle / fine)[1:] < 1.5).all()  # second moment and error no longer converge
    assert (middle / fine)[0] == pytest.approx(2.0, rel=0.05)  # the mean knows nothing of the coins


def test_nested_jumps_without_their_cross_terms_are_found_out():
    independent = poisson_moments(THREE, TWO, 1.0, RATES)
    middle, fine = (distances(independent, "nested", steps) for steps in (256, 512))
    assert ((middle / fine)[1:] < 1.5).all()


def test_the_jump_process_of_one_linear_level_has_the_closed_form():
    """``dY = -(a Y / rate) dN`` from 1: ``E Y = exp(-a t)``, ``E Y^2 = exp((a^2 / rate - 2 a) t)``."""
    a, rate = 0.7, 3.0
    moments = poisson_moments(LinearProblem(OU.matrices[:1] / 0.5 * a, OU.offsets[:1] * 0), Y0 / Y0, 2.0, [rate], 4)
    t = torch.linspace(0, 2, 5, dtype=torch.float64)
    torch.testing.assert_close(moments.mean[:, 0], torch.exp(-a * t))
    torch.testing.assert_close(moments.second[:, 0, 0], torch.exp((a**2 / rate - 2 * a) * t))
    torch.testing.assert_close(moments.squared_error, torch.exp((a**2 / rate - 2 * a) * t) - torch.exp(-2 * a * t))


def test_levels_that_are_always_on_leave_the_exact_solution_itself():
    problem = analytic.ornstein_uhlenbeck(rate=1.5, level=0.5, volatility=0.8, y0=2.0)
    ladder = ornstein_uhlenbeck([0.7, 1.5], sigma=0.8, means=[0.1, 0.5])
    moments = poisson_moments(ladder, torch.tensor([2.0], dtype=torch.float64), 1.0, [np.inf, np.inf], 3)
    assert not moments.squared_error.any()
    for n in range(4):
        torch.testing.assert_close(moments.mean[n], problem.mean(n / 3))
        torch.testing.assert_close(moments.second[n], problem.second_moment(n / 3))


def test_moments_of_the_jump_process_do_not_depend_on_the_points_between():
    whole, parts = (poisson_moments(THREE, TWO, 1.0, RATES, points) for points in (1, 7))
    for name in ("mean", "second", "squared_error"):
        assert len(getattr(parts, name)) == 8
        torch.testing.assert_close(getattr(whole, name)[-1], getattr(parts, name)[-1])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"y0": torch.ones(3).double()}, ValueError, r"y0 has shape \(3,\), expected \(1,\)"),
        ({"duration": 0.0}, ValueError, "duration must be above zero"),
        ({"rates": [1.0]}, ValueError, r"rates must hold 2 numbers above zero, one per level, got \[1.0\]"),
        ({"rates": [1.0, 0.0]}, ValueError, "rates must hold 2 numbers above zero"),
        ({"rates": [1.0, np.nan]}, ValueError, "rates must hold 2 numbers above zero"),
        ({"rates": "ab"}, TypeError, "rates must hold numbers"),
        ({"points": 0}, ValueError, "points must be a positive integer"),
        ({"coins": "systematic"}, ValueError, "coins='systematic' is not known"),
    ],
)
def test_bad_arguments_of_the_jump_process_are_named(change, error, message):
    with pytest.raises(error, match=message):
        poisson_moments(**{"problem": OU, "y0": Y0, "duration": 1.0, "rates": [1.0, 2.0], **change})


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: LinearProblem(torch.ones(2, 2), torch.ones(2, 2)),
            ValueError,
            r"matrices must be .* shape \(K, d, d\)",
        ),
        (lambda: LinearProblem([[1.0]], torch.ones(1, 1)), ValueError, r"matrices must be a tensor of shape"),
        (lambda: LinearProblem(torch.ones(1, 2, 2), OU.offsets), TypeError, "matrices must be a tensor of float64"),
        (lambda: LinearProblem(OU.matrices * torch.nan, OU.offsets), ValueError, "matrices must be finite"),
        (lambda: LinearProblem(OU.matrices, Y0), ValueError, r"offsets has shape \(1,\), expected \(2, 1\)"),
        (lambda: LinearProblem(OU.matrices, OU.offsets, Y0), ValueError, r"noise has shape \(1,\), expected \(1, 1\)"),
        (
            lambda: LinearProblem(OU.matrices, OU.offsets, 0.5),
            TypeError,
            "noise must be a tensor of float64, got float",
        ),
        (lambda: ornstein_uhlenbeck([1.0, 2.0], 0.5, [0.0]), ValueError, "means holds 1 values, but rates has 2"),
        (lambda: ornstein_uhlenbeck([1.0], "a"), TypeError, "sigma must be a number"),
        (lambda: euler_moments(OU, torch.ones(2).double(), TIMES), ValueError, r"y0 has shape \(2,\), expected \(1,\)"),
        (lambda: euler_moments(OU, 1.5, TIMES), TypeError, "y0 must be a tensor of float64, got float"),
        (lambda: euler_moments(OU, Y0, [0.0, 0.0]), ValueError, "times must give strictly"),
        (lambda: multilevel_moments(OU, Y0, TIMES, [1.0]), ValueError, r"probabilities has shape \(1,\), expected"),
        (lambda: multilevel_moments(OU, Y0, TIMES, [1.0, 0.0]), ValueError, "probabilities must be above 0"),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
