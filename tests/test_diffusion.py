"""The variance-preserving process, exact mixtures and distances."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import quad

import mlsde
from mlsde.diffusion import GaussianMixture, VariancePreserving, digits_ladder, rmse, sliced_wasserstein
from mlsde.diffusion.dpm_solver import dpm_solver_2m, log_snr_grid

PROCESS = VariancePreserving()


def one_gaussian(mean: float, variance: float, dimensions: int = 2) -> GaussianMixture:
    centres = torch.full((1, dimensions), mean, dtype=torch.float64)
    return GaussianMixture(centres, torch.full((dimensions,), variance, dtype=torch.float64), process=PROCESS)


def mixture(seed: int = 0) -> GaussianMixture:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    variances = torch.tensor([0.3, 0.05, 0.01], dtype=torch.float64)
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0], dtype=torch.float64)
    return GaussianMixture(centres, variances, weights, process=PROCESS)


@pytest.mark.parametrize("t", [0.01, 0.3, 1.0])
def test_signal_and_noise_have_unit_power_and_follow_beta(t):
    alpha, sigma = PROCESS.alpha(t), PROCESS.sigma(t)
    assert alpha**2 + sigma**2 == pytest.approx(1.0, abs=1e-12)
    assert alpha == pytest.approx(math.exp(-0.5 * quad(PROCESS.beta, 0, t)[0]), rel=1e-9)


@pytest.mark.parametrize("churn", [0.0, 0.5, 1.0])
def test_closed_forms_of_the_linear_part_are_the_integrals_they_stand_for(churn):
    linear = PROCESS.reverse(mlsde.DriftHierarchy([mixture()]), churn=churn).linear
    t, s = 0.6, 0.35
    rate = quad(linear.rate, t, s)[0]
    source = quad(lambda r: linear.propagator(r, s) * linear.gain(r), t, s)[0]
    variance = quad(lambda r: linear.propagator(r, s) ** 2 * churn**2 * PROCESS.beta(r), s, t)[0]
    assert linear.propagator(t, s) == pytest.approx(math.exp(rate), rel=1e-9)
    assert linear.source(t, s) == pytest.approx(source, rel=1e-8)
    assert linear.deviation(t, s) == pytest.approx(math.sqrt(variance), rel=1e-8, abs=1e-12)


@pytest.mark.parametrize("t", [0.02, 0.2, 0.9])
def test_denoiser_of_a_mixture_is_the_gradient_of_its_log_density(t):
    data = mixture()
    y = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    alpha, sigma = PROCESS.alpha(t), PROCESS.sigma(t)
    components = torch.distributions.Normal(alpha * data.centres, (alpha**2 * data.variances + sigma**2).sqrt())
    log_density = torch.logsumexp(data.log_weights + components.log_prob(y[:, None]).sum(-1), dim=1)
    (score,) = torch.autograd.grad(log_density.sum(), y)
    torch.testing.assert_close(
        data(torch.tensor(t, dtype=torch.float64), y.detach()), -sigma * score, rtol=1e-9, atol=1e-9
    )


def test_exponential_stepper_without_churn_is_ddim():
    data, y = mixture(), torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    times = [1.0, 0.7, 0.3, 0.05]
    sde = PROCESS.reverse(mlsde.DriftHierarchy([data]), churn=0.0)
    ours = mlsde.solve(sde, y, times=times, method="exponential").y1
    for t, s in pairwise(times):
        noise = data(torch.tensor(t, dtype=torch.float64), y)
        clean = (y - PROCESS.sigma(t) * noise) / PROCESS.alpha(t)
        y = PROCESS.alpha(s) * clean + PROCESS.sigma(s) * noise
    torch.testing.assert_close(ours, y, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("method", ["euler", "heun", "exponential"])
def test_probability_flow_carries_noise_to_the_data_gaussian(method):
    mean, variance = 0.7, 0.09
    sde = PROCESS.reverse(mlsde.DriftHierarchy([one_gaussian(mean, variance)]), churn=0.0)
    y0 = torch.tensor([[-1.3, 0.4]], dtype=torch.float64)
    end = mlsde.solve(sde, y0, (1.0, 1e-3), steps=4000, method=method).y1

    def marginal(t):
        return PROCESS.alpha(t) * mean, math.sqrt(PROCESS.alpha(t) ** 2 * variance + PROCESS.sigma(t) ** 2)

    # the flow of a Gaussian keeps the number of standard deviations from the mean
    (start_mean, start_sd), (end_mean, end_sd) = marginal(1.0), marginal(1e-3)
    torch.testing.assert_close(end, end_mean + end_sd * (y0 - start_mean) / start_sd, rtol=0, atol=3e-3)


def test_reverse_sde_reaches_the_data_gaussian_in_law():
    mean, variance = 0.7, 0.09
    sde = PROCESS.reverse(mlsde.DriftHierarchy([one_gaussian(mean, variance, 1)]), churn=1.0)
    n = 40_000
    y0 = torch.randn(n, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    end = mlsde.solve(sde, y0, (1.0, 1e-3), steps=300, seed=5).y1
    # five standard errors, and the bias of 300 steps
    assert float(end.mean()) == pytest.approx(mean, abs=5 * math.sqrt(variance / n) + 0.01)
    assert float(end.var()) == pytest.approx(variance, rel=5 * math.sqrt(2 / n) + 0.06)


def test_mixture_draws_have_its_mean_and_variance():
    data = mixture()
    draws = data.sample(60_000, torch.Generator().manual_seed(0))
    weights = data.log_weights.exp()
    mean = weights @ data.centres
    variance = weights @ (data.centres - mean) ** 2 + data.variances
    assert float(((draws.mean(0) - mean) / (variance / 60_000).sqrt()).abs().max()) < 5
    torch.testing.assert_close(draws.var(0), variance, rtol=0.04, atol=0)


def test_sliced_wasserstein_is_zero_for_the_same_sample_and_grows_with_a_shift():
    a = torch.randn(300, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shift = torch.zeros(8, dtype=torch.float64)
    shift[0] = 2.0
    assert sliced_wasserstein(a, a) == pytest.approx(0.0, abs=1e-12)
    # the mean over directions of (theta . shift)^2 is |shift|^2 / d
    assert sliced_wasserstein(a, a + shift, projections=4000) == pytest.approx(2.0 / math.sqrt(8), rel=0.05)
    assert rmse(a, a + shift) == pytest.approx(2.0 / math.sqrt(8))


def test_levels_of_the_digits_get_closer_to_the_top_as_they_get_dearer():
    ladder = digits_ladder(clusters=(10, 80))
    assert ladder.drift.costs == (10.0, 80.0, 1797.0)
    t = torch.tensor(0.15)
    clean = ladder.data.sample(64, torch.Generator().manual_seed(0))
    noise = torch.randn(64, 64, generator=torch.Generator().manual_seed(1))
    y = ladder.process.alpha(0.15) * clean + ladder.process.sigma(0.15) * noise
    low, middle, top = (level(t, y) for level in ladder.drift.levels)
    assert rmse(middle, top) < 0.9 * rmse(low, top)
    assert ladder.images(clean).shape == (64, 8, 8)
    back = (ladder.images(clean).view(64, 64) - ladder.mean) @ ladder.basis.T
    torch.testing.assert_close(back, clean, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: VariancePreserving(beta_min=0.0), "beta_min"),
        (lambda: VariancePreserving(beta_min=2.0, beta_max=1.0), "beta_max"),
        (lambda: PROCESS.reverse(mlsde.DriftHierarchy([mixture()]), churn=-1.0), "churn"),
        (lambda: GaussianMixture(torch.zeros(3, 2), torch.ones(3), process=PROCESS), "variances"),
        (lambda: GaussianMixture(torch.zeros(3, 2), torch.zeros(2), process=PROCESS), "above zero"),
        (lambda: digits_ladder(clusters=(80, 10)), r"clusters must increase.*\[80, 10\]"),
        (lambda: digits_ladder(clusters=(10, 1797)), "clusters must increase"),
        (lambda: digits_ladder(smoothing=-1.0), "smoothing"),
    ],
)
def test_bad_input_is_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_dpm_solver_is_of_second_order_and_ddim_of_first():
    data = mixture()
    y0 = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    sde = PROCESS.reverse(mlsde.DriftHierarchy([data]), churn=0.0)
    span = (1.0, 0.05)
    exact = mlsde.solve(sde, y0, span, steps=6000, method="heun").y1
    second = [rmse(dpm_solver_2m(PROCESS, data, y0, log_snr_grid(PROCESS, span, n)), exact) for n in (160, 320)]
    times = [log_snr_grid(PROCESS, span, n) for n in (160, 320)]
    first = [rmse(mlsde.solve(sde, y0, times=grid, method="exponential").y1, exact) for grid in times]
    assert math.log2(second[0] / second[1]) == pytest.approx(2.0, abs=0.3)
    assert math.log2(first[0] / first[1]) == pytest.approx(1.0, abs=0.2)


def test_one_step_of_dpm_solver_is_one_of_ddim():
    data, y0 = mixture(), torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    sde = PROCESS.reverse(mlsde.DriftHierarchy([data]), churn=0.0)
    ddim = mlsde.solve(sde, y0, (0.8, 0.5), steps=1, method="exponential").y1
    torch.testing.assert_close(dpm_solver_2m(PROCESS, data, y0, np.array([0.8, 0.5])), ddim, rtol=1e-10, atol=1e-10)


def test_log_snr_grid_has_equal_steps_of_the_log():
    grid = log_snr_grid(PROCESS, (1.0, 0.01), 20)
    logs = [math.log(PROCESS.alpha(t) / PROCESS.sigma(t)) for t in grid.tolist()]
    np.testing.assert_allclose(np.diff(logs), (logs[-1] - logs[0]) / 20, rtol=2e-2)
    assert (grid[0], grid[-1]) == (1.0, 0.01)
