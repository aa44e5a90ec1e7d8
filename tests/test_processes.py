"""Processes: their functions, the closed forms of their reverse equations, grids, and the ends where those are hard."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import table, told_in_a_sentence
from scipy.integrate import quad

import mlsde
from mlsde.diffusion.processes import Process, RectifiedFlow, VarianceExploding
from mlsde.diffusion.variance_preserving import (
    CosineVariancePreserving,
    DiscreteVariancePreserving,
    VariancePreserving,
)

DDPM = DiscreteVariancePreserving.linear()
PROCESSES = [
    VariancePreserving(),
    CosineVariancePreserving(),
    DDPM,
    DiscreteVariancePreserving.squared_cosine(200),
    VarianceExploding(sigma_max=20.0),
    RectifiedFlow(),
]
every_process = pytest.mark.parametrize("process", PROCESSES, ids=repr)
QUICK = settings(deadline=None, max_examples=60)


def at(process, part):
    """A time within ``inner_span``: 0 is its noisy end, 1 its clean one."""
    first, last = process.inner_span
    return first + part * (last - first)


def silent(t, y):
    raise AssertionError("evaluated")


SILENT = mlsde.DriftHierarchy([silent])


@every_process
@pytest.mark.parametrize("part", [0.031, 0.37, 0.7212])
def test_slopes_are_the_derivatives(process, part):
    t = at(process, part)
    step = 1e-5 * abs(process.t_span[0] - process.t_span[1])
    for function, slope in ((process.alpha, process.alpha_slope), (process.sigma, process.sigma_slope)):
        central = (function(t + step) - function(t - step)) / (2 * step)
        assert slope(t) == pytest.approx(central, rel=1e-5, abs=1e-12)
    variance = (process.sigma(t + step) ** 2 - process.sigma(t - step) ** 2) / (2 * step)
    assert process.variance_slope(t) == pytest.approx(variance, rel=1e-5)


@every_process
@QUICK
@given(part=st.floats(0, 1))
def test_time_is_the_inverse_of_the_log_snr(process, part):
    t = at(process, part)
    log_snr = process.log_snr(t)
    assert log_snr == pytest.approx(math.log(process.alpha(t) / process.sigma(t)), abs=1e-12)
    assert process.time(log_snr) == pytest.approx(t, rel=1e-7, abs=1e-9)


@every_process
def test_log_snr_rises_from_noise_to_data(process):
    values = [process.log_snr(t) for t in np.linspace(*process.t_span, 700).tolist()]
    assert (np.diff(values) > 0).all()
    assert values[-1] == math.inf
    assert process.alpha(process.t_span[1]) == 1.0
    assert process.sigma(process.t_span[1]) == 0.0
    assert process.time(math.inf) == process.t_span[1]


@every_process
@pytest.mark.parametrize("space", ["noise", "clean"])
@pytest.mark.parametrize("churn", [0.0, 0.5, 1.0])
def test_closed_forms_of_the_reverse_equation_are_the_integrals_they_stand_for(process, churn, space):
    # between two neighbouring timesteps of the discrete processes, whose cubic has kinks there
    inside = isinstance(process, DiscreteVariancePreserving)
    t, s = (80.9, 80.2) if inside else (at(process, 0.4), at(process, 0.65))
    sde = process.reverse(SILENT, churn=churn, space=space)
    linear = sde.linear
    variance = quad(lambda r: (linear.propagator(r, s) * churn * process.diffusion(r)) ** 2, s, t)[0]
    assert linear.propagator(t, s) == pytest.approx(math.exp(quad(linear.rate, t, s)[0]), rel=1e-8)
    source = quad(lambda r: linear.propagator(r, s) * linear.gain(r), t, s)[0]
    assert linear.source(t, s) == pytest.approx(source, rel=1e-8)
    assert linear.deviation(t, s) == pytest.approx(math.sqrt(variance), rel=1e-7, abs=1e-12)
    assert sde.is_ode == (churn == 0)
    assert churn == 0 or sde.diffusion(t) == pytest.approx(churn * process.diffusion(t))


@every_process
@pytest.mark.parametrize("churn", [0.0, 0.5, 1.0])
def test_both_spaces_state_the_same_drift(process, churn):
    t, y, noise = at(process, 0.43), 0.7, -1.1
    clean = (y - process.sigma(t) * noise) / process.alpha(t)
    drifts = []
    for space, prediction in (("noise", noise), ("clean", clean)):
        linear = process.reverse(SILENT, churn=churn, space=space).linear
        drifts.append(linear.rate(t) * y + linear.gain(t) * prediction)
    assert drifts[0] == pytest.approx(drifts[1], rel=1e-9)


@every_process
@pytest.mark.parametrize("parts", [(0.1, 0.2), (0.0, 0.9), (0.97, 1.0)])
def test_without_churn_a_step_is_ddim_in_either_space(process, parts):
    (t, s), y, noise = (at(process, part) for part in parts), 0.7, -1.1
    clean = (y - process.sigma(t) * noise) / process.alpha(t)
    ddim = process.alpha(s) * clean + process.sigma(s) * noise
    for space, prediction in (("noise", noise), ("clean", clean)):
        linear = process.reverse(SILENT, churn=0.0, space=space).linear
        step = linear.propagator(t, s) * y + linear.source(t, s) * prediction
        assert step == pytest.approx(ddim, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(("t", "s"), [(999.0, 998.0), (500.0, 480.0), (1.0, 0.0), (0.0, -1.0), (40.0, -1.0)])
def test_clean_space_with_churn_one_is_the_posterior_of_ddpm(t, s):
    kept, kept_next = DDPM.alphas_cumprod[int(t)], DDPM.alphas_cumprod[int(s)] if s >= 0 else 1.0
    beta = 1.0 - kept / kept_next
    linear = DDPM.reverse(SILENT, churn=1.0, space="clean").linear
    assert linear.source(t, s) == pytest.approx(math.sqrt(kept_next) * beta / (1 - kept), rel=1e-9)
    propagator = math.sqrt(kept / kept_next) * (1 - kept_next) / (1 - kept)
    assert linear.propagator(t, s) == pytest.approx(propagator, rel=1e-9)
    assert linear.deviation(t, s) ** 2 == pytest.approx((1 - kept_next) / (1 - kept) * beta, rel=1e-9)


@pytest.mark.parametrize("churn", [0.0, 0.5, 1.0])
def test_clean_space_starts_from_pure_noise_and_ends_at_the_prediction(churn):
    flow = RectifiedFlow()
    linear = flow.reverse(SILENT, churn=churn, space="clean").linear
    # from pure noise all that is known of the clean sample is the prediction
    assert linear.source(1.0, 0.25) == 0.75
    assert linear.propagator(1.0, 0.25) ** 2 + linear.deviation(1.0, 0.25) ** 2 == pytest.approx(0.25**2)
    assert linear.propagator(1.0, 0.25) == (0.0 if churn else 0.25)
    for process in PROCESSES:
        t, s = process.inner_span[1], process.t_span[1]
        ending = process.reverse(SILENT, churn=churn, space="clean").linear
        assert (ending.propagator(t, s), ending.source(t, s), ending.deviation(t, s)) == (0.0, 1.0, 0.0)


def test_a_run_in_noise_space_from_where_there_is_no_signal_is_refused_before_any_evaluation():
    sde = RectifiedFlow().reverse(SILENT, space="noise")
    y0 = torch.ones(2, 3)
    with pytest.raises(ValueError, match="use space='clean'"):
        mlsde.solve(sde, y0, (1.0, 0.0), steps=4, method="exponential")
    with pytest.raises(ValueError, match="use space='noise'"):
        mlsde.solve(RectifiedFlow().reverse(SILENT, space="clean"), y0, (0.0, 0.5), steps=4, method="exponential")


def test_flow_without_churn_is_the_straight_ode_of_its_velocity():
    linear = RectifiedFlow().reverse(SILENT, churn=0.0, space="clean").linear
    y, clean = 1.3, -0.4  # the velocity eps - x0 is (y - x0) / t
    for t in (1.0, 0.6, 0.01):
        assert linear.rate(t) * y + linear.gain(t) * clean == pytest.approx((y - clean) / t)


def test_the_diffusion_of_known_processes_is_that_of_the_literature():
    assert VariancePreserving().diffusion(0.3) == pytest.approx(math.sqrt(VariancePreserving().beta(0.3)))
    assert VarianceExploding().diffusion(3.0) == pytest.approx(math.sqrt(6.0))
    assert RectifiedFlow().diffusion(0.75) == pytest.approx(math.sqrt(2 * 0.75 / 0.25))
    assert RectifiedFlow().diffusion(1.0) == math.inf
    # the general formula agrees with the shorter one of processes that keep the variance
    general = Process.diffusion(VariancePreserving(), 0.3)
    assert general == pytest.approx(VariancePreserving().diffusion(0.3))


# the reverse equation in law

MEAN, VARIANCE = 0.7, 0.09


def marginal(process, t):
    """Mean and deviation at time ``t`` of data ``N(MEAN, VARIANCE)``."""
    return process.alpha(t) * MEAN, math.sqrt(process.alpha(t) ** 2 * VARIANCE + process.sigma(t) ** 2)


def log_snr_times(process, steps, last):
    """Equal steps of the log-SNR over ``inner_span``, down to ``last``."""
    first = process.inner_span[0]
    values = np.linspace(process.log_snr(first), last, steps + 1)
    return [first, *map(process.time, values[1:].tolist())]


def moments(process, churn, space, grid, wrong=0.0):
    """Mean and variance at the end of the exponential stepper for Gaussian data, exactly, as the drift is linear.

    A step is ``y -> slope y + shift + deviation z``; the prediction of either space is affine in ``y``.
    """
    linear = process.reverse(SILENT, churn=churn, space=space).linear
    mean, variance = marginal(process, grid[0])
    variance = variance**2
    for t, s in pairwise(grid):
        m, sd = marginal(process, t)
        slope = process.sigma(t) / sd**2  # eps(y) = sigma (y - alpha MEAN) / sd^2
        shift = -slope * m
        if space == "clean":
            slope, shift = (
                (1 - process.sigma(t) * slope) / process.alpha(t),
                -process.sigma(t) * shift / process.alpha(t),
            )
        source = linear.source(t, s)
        factor = linear.propagator(t, s) + source * slope
        mean = factor * mean + source * shift
        variance = factor**2 * variance + (1 + wrong) * linear.deviation(t, s) ** 2
    return mean, variance


@every_process
@pytest.mark.parametrize("space", ["noise", "clean"])
@pytest.mark.parametrize("churn", [0.3, 1.0, 1.5])
def test_with_any_churn_the_reverse_sde_has_the_marginals_of_the_process(process, churn, space):
    def errors(steps, wrong=0.0):
        grid = log_snr_times(process, steps, last=3.0)
        mean, deviation = marginal(process, grid[-1])
        found = moments(process, churn, space, grid, wrong)
        return abs(found[0] - mean), abs(found[1] / deviation**2 - 1)

    coarse, fine = errors(500), errors(2000)
    assert max(fine) < 0.02
    assert fine[0] <= 0.3 * coarse[0] + 1e-9
    assert fine[1] == pytest.approx(0.25 * coarse[1], rel=0.1)
    assert errors(2000, wrong=0.1 / churn**2)[1] > 2 * fine[1], "a wrong twin: a little more noise"


@pytest.mark.parametrize("space", ["noise", "clean"])
def test_the_recursion_of_the_moments_is_the_solver(space):
    """With unit noise at each step in turn and two starts, a run shows its slope, shift and deviations."""
    process, churn = VariancePreserving(), 0.8
    grid = log_snr_times(process, 6, last=2.0)

    def prediction(t, y):
        alpha, sigma, (mean, deviation) = process.alpha(t), process.sigma(t), marginal(process, float(t))
        noise = sigma * (y - mean) / deviation**2
        return noise if space == "noise" else (y - sigma * noise) / alpha

    sde = process.reverse(mlsde.DriftHierarchy([prediction]), churn=churn, space=space)

    def run(y0, which=None):
        noise = mlsde.NoiseSampler(lambda t, s: torch.full((1, 1), float(t == which), dtype=torch.float64))
        start = torch.tensor([[y0]], dtype=torch.float64)
        return float(mlsde.solve(sde, start, times=grid, method="exponential", brownian=noise).y1)

    mean, deviation = marginal(process, grid[0])
    factor = run(1.0) - run(0.0)
    variance = (factor * deviation) ** 2 + sum((run(0.0, t) - run(0.0)) ** 2 for t in grid[:-1])
    assert moments(process, churn, space, grid) == pytest.approx((run(mean), variance), rel=1e-9)


# the discrete process


def test_discrete_process_has_its_alphas_at_integer_times_and_clean_data_at_minus_one():
    for k in (0, 1, 500, 998, 999):
        assert DDPM.alpha(float(k)) ** 2 == pytest.approx(DDPM.alphas_cumprod[k], rel=1e-12)
        assert DDPM.alpha(float(k)) ** 2 + DDPM.sigma(float(k)) ** 2 == pytest.approx(1.0, abs=1e-12)
    assert DDPM.alpha(-1e-12) == pytest.approx(DDPM.alpha(0.0), abs=1e-12)
    assert DDPM.sigma(-1e-12) == pytest.approx(DDPM.sigma(0.0), rel=1e-9)
    assert DDPM.alpha(-0.5) ** 2 == pytest.approx(math.sqrt(DDPM.alphas_cumprod[0]))
    for log_snr in (6.0, 11.0):
        assert DDPM.log_snr(DDPM.time(log_snr)) == pytest.approx(log_snr)


def test_between_timesteps_the_log_snr_is_smooth():
    t = np.linspace(0.0, 999.0, 9991)
    slopes = np.diff([DDPM.log_snr(x) for x in t.tolist()])
    assert (slopes < 0).all()
    assert np.abs(np.diff(slopes[200:]) / slopes[201:]).max() < 0.01
    linear = np.interp(t, np.arange(1000), [DDPM.log_snr(float(k)) for k in range(1000)])
    jumps = np.diff(linear)
    assert np.abs(np.diff(jumps[200:]) / jumps[201:]).max() > 0.03, "a wrong twin: straight lines have kinks"


@pytest.mark.parametrize(
    ("process", "schedule", "ends"),
    [
        (DDPM, "linear", (1e-4, 0.02)),
        (DiscreteVariancePreserving.scaled_linear(), "scaled_linear", (0.00085, 0.012)),
        (DiscreteVariancePreserving.squared_cosine(), "squaredcos_cap_v2", (1e-4, 0.02)),
    ],
    ids=["linear", "scaled_linear", "squared_cosine"],
)
def test_named_schedules_are_those_of_diffusers(process, schedule, ends):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDPMScheduler(beta_schedule=schedule, beta_start=ends[0], beta_end=ends[1])
    np.testing.assert_allclose(process.alphas_cumprod, scheduler.alphas_cumprod.double(), rtol=2e-4, atol=1e-9)
    theirs = DiscreteVariancePreserving.from_scheduler(scheduler)
    assert theirs.alphas_cumprod == tuple(scheduler.alphas_cumprod.double().tolist())
    assert theirs.inner_span == (999.0, 0.0)


def test_zero_terminal_snr_begins_at_pure_noise():
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(rescale_betas_zero_snr=True, beta_schedule="scaled_linear")
    process = DiscreteVariancePreserving.from_scheduler(scheduler)
    assert (process.alpha(999.0), process.sigma(999.0), process.log_snr(999.0)) == (0.0, 1.0, -math.inf)
    assert process.inner_span == (998.0, 0.0)
    for t in (998.0, 998.5, 998.999):
        assert process.time(process.log_snr(t)) == pytest.approx(t)
    central = (process.alpha(998.6) - process.alpha(998.4)) / 0.2
    assert process.alpha_slope(998.5) == pytest.approx(central)


def test_timesteps_are_those_of_diffusers():
    diffusers = pytest.importorskip("diffusers")
    for spacing, grid in (("trailing", DDPM.uniform_grid(30)), ("leading", DDPM.leading_grid(30, offset=1))):
        scheduler = diffusers.DDIMScheduler(timestep_spacing=spacing, steps_offset=1)
        scheduler.set_timesteps(30)
        assert grid.tolist() == [*scheduler.timesteps.tolist(), -1.0]
    assert DDPM.uniform_grid(999, to_clean=False).tolist() == list(range(999, -1, -1))
    assert DDPM.uniform_grid(1000).tolist() == list(range(999, -2, -1))


# the others


def test_the_cosine_is_that_of_the_paper_until_its_rate_is_clipped():
    process = CosineVariancePreserving()

    def paper(t):
        return math.cos(0.5 * math.pi * (t + 0.008) / 1.008) ** 2 / math.cos(0.5 * math.pi * 0.008 / 1.008) ** 2

    for t in (0.0, 0.001, 0.3, 0.9, 0.999):
        assert process.alpha(t) ** 2 == pytest.approx(paper(t), rel=1e-9)
        assert process.alpha(t) == pytest.approx(math.exp(-0.5 * quad(process.beta, 0, t)[0]), rel=1e-6)
    assert process.beta(1.0) == process.beta_max
    assert process.alpha(1.0) > 1e-5 > math.sqrt(paper(1.0))
    # sigma^2 = 1 - alpha^2 is a difference that loses no digits
    assert process.sigma(1e-9) ** 2 == pytest.approx(1e-9 * process.beta(0.0), rel=1e-6)


def test_grid_of_karras_is_equation_5_of_the_paper():
    process, n, rho = VarianceExploding(0.002, 80.0), 18, 7.0
    lo, hi = 0.002 ** (1 / rho), 80.0 ** (1 / rho)
    paper = [(hi + i / (n - 1) * (lo - hi)) ** rho for i in range(n)]
    np.testing.assert_allclose(process.karras_grid(n), [*paper, 0.0], rtol=1e-12)
    assert process.karras_grid(17, to_clean=False)[-1] == 0.002


@every_process
@pytest.mark.parametrize("name", ["uniform", "log_snr", "karras"])
@pytest.mark.parametrize("to_clean", [True, False])
@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_grids_lead_from_noise_to_data_in_that_many_steps(process, name, to_clean, steps):
    grid = getattr(process, f"{name}_grid")(steps, to_clean=to_clean)
    assert len(grid) == steps + 1 or (steps == 1 and len(grid) == 2)
    assert (np.diff(grid) < 0).all()
    assert grid[0] == process.t_span[0]
    if to_clean:
        assert grid[-1] == process.t_span[1]
    elif steps > 2:
        assert grid[-1] == process.inner_span[1]


@every_process
def test_log_snr_grid_has_equal_steps_of_the_log_snr(process):
    values = np.array([process.log_snr(t) for t in process.log_snr_grid(12).tolist()])
    inner = values[np.isfinite(values)]
    assert len(inner) >= 11
    np.testing.assert_allclose(np.diff(inner), (inner[-1] - inner[0]) / (len(inner) - 1), rtol=1e-7)


@every_process
def test_noised_samples_and_the_prior(process):
    generator = torch.Generator().manual_seed(3)
    clean, noise = torch.randn(2, 4, 5, generator=generator, dtype=torch.float64).unbind(0)
    times = torch.tensor([at(process, part) for part in (0.0, 0.2, 0.5, 1.0)], dtype=torch.float64)
    together = process.noised(clean, times, noise)
    for i, t in enumerate(times.tolist()):
        torch.testing.assert_close(together[i], process.noised(clean[i], t, noise[i]))
        torch.testing.assert_close(together[i], process.alpha(t) * clean[i] + process.sigma(t) * noise[i])
    drawn = process.prior((4, 5), torch.Generator().manual_seed(0), dtype=torch.float64)
    normal = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(drawn, process.prior_scale * normal)
    assert process.prior_scale == (20.0 if isinstance(process, VarianceExploding) else 1.0)


def test_processes_are_values():
    assert VariancePreserving() == VariancePreserving()
    assert VariancePreserving() != CosineVariancePreserving()
    assert len({RectifiedFlow(), RectifiedFlow(), RectifiedFlow(margin=0.01)}) == 2
    assert DiscreteVariancePreserving.linear() == DDPM


@table({
    "beta_max": (lambda: CosineVariancePreserving(beta_max=1e-3), ValueError, ["beta_max", "0.001"]),
    "offset": (lambda: CosineVariancePreserving(offset=0.0), ValueError, ["offset"]),
    "sigmas": (lambda: VarianceExploding(2.0, 1.0), ValueError, ["sigma_max", "1.0", "2.0"]),
    "margin": (lambda: RectifiedFlow(margin=0.7), ValueError, ["margin", "0.7"]),
    "one alpha": (lambda: DiscreteVariancePreserving((0.5,)), ValueError, ["alphas_cumprod", "at least two"]),
    "rising": (lambda: DiscreteVariancePreserving((0.5, 0.6)), ValueError, ["alphas_cumprod", "decrease"]),
    "betas": (lambda: DiscreteVariancePreserving.from_betas([0.1, 1.5]), ValueError, ["betas", "1.5"]),
    "scheduler": (lambda: DiscreteVariancePreserving.from_scheduler(3), TypeError, ["alphas_cumprod", "int"]),
    "too many steps": (lambda: DDPM.uniform_grid(1001), ValueError, ["steps", "1000", "1001"]),
    "leading": (lambda: DDPM.leading_grid(10, offset=100), ValueError, ["offset=100", "1000 timesteps"]),
    "rho": (lambda: VarianceExploding().karras_grid(10, rho=-1.0), ValueError, ["rho"]),
    "log-SNR": (lambda: VarianceExploding().time(-9.0), ValueError, ["log_snr", "-9"]),
    "times": (lambda: DDPM.noised(torch.ones(3, 2), torch.ones(2), torch.ones(3, 2)), ValueError, ["t must", "3"]),
    "churn": (lambda: DDPM.reverse(SILENT, churn=-0.5), ValueError, ["churn", "-0.5"]),
    "space": (lambda: DDPM.reverse(SILENT, space="flow"), ValueError, ["space='flow'", "'clean'"]),
})  # fmt: skip
def test_bad_input_is_named(call, error, words):
    told_in_a_sentence(call, error, words)
