"""The bounds hold on enumerated runs, and are reached: a bound with a factor less fails."""

import math

import numpy as np
import pytest
import torch
from enumeration import every_run
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import mlsde
from mlsde import theory
from mlsde.problems.linear import LinearProblem, multilevel_moments

EXACT = settings(deadline=None, max_examples=20)
numbers = st.floats(-2, 2, allow_subnormal=False)
RULES = [("independent", "batch"), ("independent", "sample"), ("nested", "sample")]


def test_the_variance_of_the_estimate_is_the_formula():
    """By hand: p = 1/2, 1/4; |D_1|^2 = 5, |D_2|^2 = 10, <D_1, D_2> = 7, and (1/max(p) - 1) = 1."""
    differences = torch.tensor([[[1.0, 2.0]], [[1.0, 3.0]]])
    assert theory.estimator_variance(differences, [0.5, 0.25]).tolist() == [1 * 5 + 3 * 10]
    assert theory.estimator_variance(differences, [0.5, 0.25], "nested").tolist() == [1 * 5 + 3 * 10 + 2 * 1 * 7]
    images = torch.arange(24.0).reshape(2, 3, 2, 2)  # a state of any shape: one number per sample
    flat = theory.estimator_variance(images.reshape(2, 3, 4), [1.0, 0.5])
    assert torch.equal(theory.estimator_variance(images, [1.0, 0.5]), flat)
    assert torch.equal(flat, images[1].square().sum(dim=(1, 2)))


def test_the_covariance_of_the_weights_is_that_of_the_coins():
    assert theory.weight_covariance([0.5, 0.25]).tolist() == [[1, 0], [0, 3]]
    assert theory.weight_covariance([0.5, 0.25], "nested").tolist() == [[1, 1], [1, 3]]
    assert not theory.weight_covariance([1.0, 1.0], "nested").any()


def test_the_bound_is_the_sum_of_its_recursion():
    """``E' = q E + h^2 S`` from zero, for growth above and near 0, and multiplicative noise."""
    for h, steps, lipschitz, spread in ((0.1, 7, 2.0, 0.0), (0.1, 7, 2.0, 1.5), (1e-9, 50, 1e-3, 0.0), (0.5, 3, 0, 2)):
        error = 0.0
        for _ in range(steps):
            error = ((1 + h * lipschitz) ** 2 + h * spread**2) * error + h**2 * 3.0
        assert theory.mse_bound(h, steps, lipschitz, 3.0, spread) == pytest.approx(error, rel=1e-12)
    assert theory.mse_bound(0.1, 10, 0.0, 3.0) == pytest.approx(10 * 0.01 * 3.0, rel=1e-15)
    assert theory.mse_bound(0.1, 10, 5.0, 0.0) == 0.0
    assert theory.mse_bound(1.0, 10**6, 5.0, 1.0) == math.inf


def worst_variance(runs, problem, coin):
    """``S``: the largest mean of the estimate's variance over the steps of enumerated runs."""
    states = runs.states[:-1]
    f = [level(torch.tensor(0.0), states) for level in problem.drift().levels]
    gaps = torch.diff(torch.stack(f), dim=0, prepend=torch.zeros(1, *states.shape))
    means = []
    for n, p in enumerate(runs.plan.probabilities):
        outcomes = gaps[:, n].reshape(len(f), -1, gaps.shape[-1])
        means.append(runs.chances @ theory.estimator_variance(outcomes, p, coin).view(len(runs.chances), -1).mean(1))
    return float(torch.stack(means).max())


def squared_errors(sde, y0, times, multilevel, motions=0):
    """Mean over every outcome of ``|Y_n - X_n|^2``, shape (N + 1,), and the runs."""
    runs = every_run(sde, y0, times, multilevel, motions)
    em = every_run(sde, y0, times, mlsde.Multilevel(mlsde.Constant([1.0] * len(sde.drift))), motions).states
    return runs.mean((runs.states - em).square().sum(dim=-1)), runs


@st.composite
def problems(draw, contracting=False):
    matrices = torch.as_tensor(draw(arrays(np.float64, (2, 2, 2), elements=numbers)))
    offsets = torch.as_tensor(draw(arrays(np.float64, (2, 2), elements=numbers)))
    if contracting:  # the symmetric part becomes at most -rate
        top = matrices[-1]
        rate = draw(st.floats(0.1, 2))
        largest = torch.linalg.eigvalsh((top + top.T) / 2).max()
        matrices[-1] = top - (largest + rate) * torch.eye(2)
    y0 = torch.as_tensor(draw(arrays(np.float64, 2, elements=numbers)))
    p = [draw(st.floats(0.1, 1)), draw(st.floats(0.1, 1))]
    return LinearProblem(matrices, offsets, torch.eye(2, dtype=torch.float64)[:, :1]), y0, p


def lipschitz_of(problem):
    return float(torch.linalg.matrix_norm(problem.matrices[-1], 2))


def rate_of(problem):
    top = problem.matrices[-1]
    return -float(torch.linalg.eigvalsh((top + top.T) / 2).max())


@EXACT
@given(drawn=problems(), h=st.floats(0.01, 1))
@pytest.mark.parametrize(("coin", "share"), RULES)
def test_the_bound_holds_on_enumerated_runs_of_random_linear_drifts(coin, share, drawn, h):
    problem, y0, p = drawn
    rule = mlsde.Multilevel(mlsde.Constant(p), coins=coin, correction="impulse", share=share)
    times, motions = h * np.arange(4), 1 if share == "sample" else 0
    sde = problem.sde() if motions else mlsde.SDE(problem.drift())
    errors, runs = squared_errors(sde, y0, times, rule, motions)
    variance = worst_variance(runs, problem, coin)
    for n in range(1, len(times)):
        bound = theory.mse_bound(h, n, lipschitz_of(problem), variance)
        assert float(errors[n]) <= bound * (1 + 1e-9) + 1e-12


@EXACT
@given(drawn=problems(contracting=True), share_of_limit=st.floats(0.01, 0.95))
@pytest.mark.parametrize("coin", ["independent", "nested"])
def test_the_bound_for_contracting_drifts_holds_on_enumerated_runs_and_far_beyond(coin, drawn, share_of_limit):
    problem, y0, p = drawn
    lipschitz, rate = lipschitz_of(problem), rate_of(problem)
    h = share_of_limit * 2 * rate / lipschitz**2
    rule = mlsde.Multilevel(mlsde.Constant(p), coins=coin, correction="impulse", share="sample")
    errors, runs = squared_errors(problem.sde(), y0, h * np.arange(4), rule, motions=1)
    bound = theory.contractive_mse_bound(h, rate, lipschitz, worst_variance(runs, problem, coin))
    assert float(errors.max()) <= bound * (1 + 1e-9) + 1e-12
    long = multilevel_moments(problem, y0, h * np.arange(101), p, coin)
    torch.testing.assert_close(long.squared_error[:4], errors, rtol=1e-8, atol=1e-10)
    worst = max(variances_along(problem, long, p, coin))
    assume(math.isfinite(worst))
    bound = theory.contractive_mse_bound(h, rate, lipschitz, worst)
    assert float(long.squared_error.max()) <= bound * (1 + 1e-9) + 1e-12


def variances_along(problem, moments, p, coin):
    """``E`` of the variance formula at each step, from moments: ``sum_jk C_jk E <D_j, D_k>``."""
    covariance = theory.weight_covariance(p, coin)
    matrices = torch.diff(problem.matrices, dim=0, prepend=torch.zeros(1, 2, 2))
    offsets = torch.diff(problem.offsets, dim=0, prepend=torch.zeros(1, 2))
    for mean, second in zip(moments.mean, moments.second, strict=True):
        z = torch.cat([torch.cat([second, mean[:, None]], 1), torch.cat([mean, torch.ones(1)])[None]])
        full = torch.cat([matrices, offsets[..., None]], dim=-1)
        inner = torch.einsum("jab,bc,kac->jk", full, z, full)
        yield float((torch.as_tensor(covariance) * inner).sum())


def constant_difference(slope, gap=1.0):
    """``f^1 = slope y + gap``, ``f^2 = slope y``, noise 1/2: the difference, and so ``S``, does not know the state."""
    matrices = torch.full((2, 1, 1), slope, dtype=torch.float64)
    offsets = torch.tensor([[gap], [0.0]], dtype=torch.float64)
    return LinearProblem(matrices, offsets, torch.tensor([[0.5]], dtype=torch.float64))


BOUNDS = {
    "bound": theory.mse_bound,
    "h for h^2": lambda h, n, lip, s: theory.mse_bound(h, n, lip, s) / h,
    "half": lambda h, n, lip, s: theory.mse_bound(h, n, lip, s) / 2,
    "one step less": lambda h, n, lip, s: theory.mse_bound(h, n - 1, lip, s),
    "growth not squared": lambda h, n, lip, s: h**2 * s * ((1 + h * lip) ** n - 1) / (h * lip),
    "no cross term in the growth": lambda h, n, lip, s: h**2 * s * ((1 + (h * lip) ** 2) ** n - 1) / (h * lip) ** 2,
}


@pytest.mark.parametrize("name", BOUNDS)
def test_the_bound_is_reached_so_that_every_wrong_one_is_found_out(name):
    """An expanding drift and a constant difference: each inequality of the derivation is an equality."""
    h, steps, slope = 0.25, 4, 1.5
    rule = mlsde.Multilevel(mlsde.Constant([1.0, 0.2]), coins="independent", correction="impulse", share="sample")
    problem = constant_difference(slope)
    errors, runs = squared_errors(problem.sde(), torch.ones(1).double(), h * np.arange(steps + 1), rule, motions=1)
    variance = worst_variance(runs, problem, "independent")
    assert variance == pytest.approx(4.0)  # 1/p - 1
    reached = math.isclose(float(errors[-1]), BOUNDS[name](h, steps, slope, variance), rel_tol=1e-10)
    assert reached == (name == "bound")


def test_the_bound_for_multiplicative_noise_is_reached():
    """``g = 1.2 y`` besides; two-point increments have the two moments that the bound uses."""
    h, steps, slope, spread = 0.25, 4, 1.5, 1.2
    sde = mlsde.SDE(constant_difference(slope).drift(), lambda t, y: spread * y, noise="diagonal")
    rule = mlsde.Multilevel(mlsde.Constant([1.0, 0.2]), coins="independent", correction="impulse", share="sample")
    errors, _ = squared_errors(sde, torch.ones(1).double(), h * np.arange(steps + 1), rule, motions=1)
    assert float(errors[-1]) == pytest.approx(theory.mse_bound(h, steps, slope, 4.0, spread), rel=1e-10)
    assert float(errors[-1]) > 1.4 * theory.mse_bound(h, steps, slope, 4.0)


def test_the_bound_for_contracting_drifts_is_reached_in_the_long_run_and_wrong_ones_are_found_out():
    """``f = -mu y`` and a constant difference: the stationary error is the bound; without ``- h L^2`` it is broken."""
    h, rate = 0.5, 1.2
    errors = multilevel_moments(constant_difference(-rate), torch.ones(1).double(), h * np.arange(200), [1.0, 0.2])
    error, variance = float(errors.squared_error[-1]), 4.0
    assert error == pytest.approx(theory.contractive_mse_bound(h, rate, rate, variance), rel=1e-12)
    assert error > 1.3 * h * variance / (2 * rate)
    assert error > 1.3 * h**2 * variance / (2 * rate - h * rate**2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: theory.mse_bound(0.0, 10, 1.0, 1.0), ValueError, "h must be above zero"),
        (lambda: theory.mse_bound(0.1, 10.0, 1.0, 1.0), TypeError, "steps must be a positive integer"),
        (lambda: theory.mse_bound(0.1, 10, -1.0, 1.0), ValueError, "lipschitz must not be negative"),
        (lambda: theory.mse_bound(0.1, 10, 1.0, -1.0), ValueError, "variance must not be negative"),
        (lambda: theory.mse_bound(0.1, 10, 1.0, math.nan), ValueError, "variance must be finite"),
        (lambda: theory.mse_bound(0.1, 10, 1.0, 1.0, -1.0), ValueError, "diffusion_lipschitz must not be negative"),
        (lambda: theory.contractive_mse_bound(0.1, 0.0, 1.0, 1.0), ValueError, "rate must be above zero"),
        (lambda: theory.contractive_mse_bound(0.1, 2.0, 1.0, 1.0), ValueError, "rate=2 must not be above lipschitz=1"),
        (lambda: theory.contractive_mse_bound(0.5, 1.0, 2.0, 1.0), ValueError, "h=0.5 is too long a step.*h < .*0.5"),
        (lambda: theory.contractive_mse_bound(0.6, 1.0, 2.0, 1.0), ValueError, "take shorter steps, or use mse_bound"),
        (lambda: theory.weight_covariance([0.5, 0.0]), ValueError, "p must hold probabilities above 0"),
        (lambda: theory.weight_covariance([0.5, 1.5]), ValueError, "p must hold probabilities above 0 and up to 1"),
        (lambda: theory.weight_covariance([]), ValueError, "p must hold probabilities"),
        (lambda: theory.weight_covariance([0.5], "systematic"), ValueError, "coins='systematic' is not known"),
        (
            lambda: theory.estimator_variance(torch.ones(3, 1, 1), [0.5]),
            ValueError,
            r"shape \(3, 1, 1\), .*the K=1 lev",
        ),
        (lambda: theory.estimator_variance(torch.ones(1), [0.5]), ValueError, r"shape \(1,\), expected \(K, samples"),
        (lambda: theory.estimator_variance([1.0], [0.5]), TypeError, "differences must be a tensor of a floating"),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
