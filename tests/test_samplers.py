"""Samplers: against diffusers' schedulers to rounding, closed forms at their orders, and with ladders inside."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from refusals import table, told_in_a_sentence

import mlsde
from mlsde.diffusion import GaussianMixture
from mlsde.diffusion.denoisers import Denoiser, convert, denoiser_ladder
from mlsde.diffusion.processes import RectifiedFlow, VarianceExploding
from mlsde.diffusion.samplers import SAMPLERS, multistep_weights, sample
from mlsde.diffusion.variance_preserving import (
    CosineVariancePreserving,
    DiscreteVariancePreserving,
    VariancePreserving,
)

# diffusers makes arrays of tensors
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

DDPM, FLOW = DiscreteVariancePreserving.linear(), RectifiedFlow()
PROCESSES = [VariancePreserving(), CosineVariancePreserving(), DDPM, VarianceExploding(sigma_max=20.0), FLOW]
every_process = pytest.mark.parametrize("process", PROCESSES, ids=repr)
START = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
MEAN, VARIANCE = 0.7, 0.09


def network(x, told):
    """Smooth in both arguments, and of no Gaussian."""
    return torch.sin(1.3 * x + 0.01 * told.view(-1, *[1] * (x.ndim - 1))) + 0.2 * x


def gaussian(process):
    """The noise of data ``N(MEAN, VARIANCE)``."""
    mean, variance = (torch.tensor([[value]], dtype=torch.float64) for value in (MEAN, VARIANCE))
    return mlsde.DriftHierarchy([GaussianMixture(mean, variance[0], process=process)])


def marginal(process, t):
    return process.alpha(t) * MEAN, math.sqrt(process.alpha(t) ** 2 * VARIANCE + process.sigma(t) ** 2)


def log_snr_times(process, steps, last=1.5):
    """Equal steps of the log-SNR over ``inner_span``, but not to where all has been said."""
    first = process.inner_span[0]
    values = np.linspace(process.log_snr(first), last, steps + 1)
    return [first, *map(process.time, values[1:].tolist())]


# diffusers


def scheduler_of(name, **options):
    """A scheduler that sums in double precision."""
    diffusers = pytest.importorskip("diffusers")
    scheduler = getattr(diffusers, name)(**options)
    for attribute in ("alphas_cumprod", "alphas", "betas"):
        if hasattr(scheduler, attribute):
            setattr(scheduler, attribute, getattr(scheduler, attribute).double())
    return scheduler


def theirs(scheduler, y, timesteps, **options):
    for t in timesteps:
        model_output = network(y, torch.full((len(y),), float(t), dtype=torch.float64))
        y = scheduler.step(model_output, t, y, **options).prev_sample
    return y


def in_double_precision(scheduler):
    """Its own table of sigmas, which ends at 0, is in single precision."""
    kept = scheduler.alphas_cumprod[scheduler.timesteps]
    scheduler.sigmas = torch.cat([((1 - kept) / kept).sqrt(), torch.zeros(1, dtype=torch.float64)])


PREDICTS = {"epsilon": "noise", "sample": "clean", "v_prediction": "v"}


@pytest.mark.parametrize("prediction", PREDICTS)
@pytest.mark.parametrize("space", ["noise", "clean"])
@pytest.mark.parametrize("spacing", ["trailing", "leading"])
def test_ddim_is_that_of_diffusers(prediction, space, spacing):
    scheduler = scheduler_of(
        "DDIMScheduler", clip_sample=False, prediction_type=prediction, timestep_spacing=spacing, set_alpha_to_one=True
    )
    scheduler.set_timesteps(20)
    process = DiscreteVariancePreserving.from_scheduler(scheduler)
    ladder = denoiser_ladder([Denoiser(network, PREDICTS[prediction])], process=process)
    grid = process.uniform_grid(20) if spacing == "trailing" else process.leading_grid(20)
    ours = sample(process, ladder, START, sampler="ddim", grid=grid, space=space).y1
    torch.testing.assert_close(ours, theirs(scheduler, START, scheduler.timesteps), rtol=1e-9, atol=1e-9)
    if spacing == "trailing":  # the default grid
        torch.testing.assert_close(sample(process, ladder, START, steps=20, space=space).y1, ours)


def test_ddim_may_end_at_the_first_timestep_as_without_set_alpha_to_one():
    scheduler = scheduler_of("DDIMScheduler", clip_sample=False, timestep_spacing="leading", set_alpha_to_one=False)
    scheduler.set_timesteps(20)
    scheduler.final_alpha_cumprod = scheduler.alphas_cumprod[0]
    process = DiscreteVariancePreserving.from_scheduler(scheduler)
    ladder = denoiser_ladder([Denoiser(network, "noise")], process=process)
    ours = sample(process, ladder, START, grid=process.leading_grid(20)[:-1]).y1
    torch.testing.assert_close(ours, theirs(scheduler, START, scheduler.timesteps), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("prediction", PREDICTS)
@pytest.mark.parametrize("steps", [20, 1000])
def test_ddpm_is_that_of_diffusers_on_the_same_noise(prediction, steps):
    scheduler = scheduler_of(
        "DDPMScheduler", clip_sample=False, prediction_type=prediction, variance_type="fixed_small",
        timestep_spacing="trailing",
    )  # fmt: skip
    scheduler.set_timesteps(steps)
    expected = theirs(scheduler, START, scheduler.timesteps, generator=torch.Generator().manual_seed(7))
    process = DiscreteVariancePreserving.from_scheduler(scheduler)
    ladder = denoiser_ladder([Denoiser(network, PREDICTS[prediction])], process=process)
    generator = torch.Generator().manual_seed(7)
    noise = mlsde.NoiseSampler(lambda t, s: torch.randn(START.shape, generator=generator, dtype=torch.float64))
    ours = sample(process, ladder, START, sampler="ddpm", steps=steps, brownian=noise).y1
    torch.testing.assert_close(ours, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("steps", [4, 10, 20, 50])
@pytest.mark.parametrize("noisy", [False, True])
def test_dpm_solver_is_that_of_diffusers(steps, noisy):
    kind = "sde-dpmsolver++" if noisy else "dpmsolver++"
    scheduler = scheduler_of(
        "DPMSolverMultistepScheduler", algorithm_type=kind, solver_order=2, solver_type="midpoint",
        timestep_spacing="trailing", final_sigmas_type="zero",
    )  # fmt: skip
    scheduler.set_timesteps(steps)
    in_double_precision(scheduler)
    generator = torch.Generator().manual_seed(7)
    expected = theirs(scheduler, START, scheduler.timesteps, generator=torch.Generator().manual_seed(7))
    noise = mlsde.NoiseSampler(lambda t, s: torch.randn(START.shape, generator=generator).double())
    process = DiscreteVariancePreserving.from_scheduler(scheduler)
    ladder = denoiser_ladder([Denoiser(network, "noise")], process=process)
    options = {"sampler": "dpm++2m", "steps": steps, "grid": "uniform", "churn": float(noisy), "brownian": noise}
    ours = sample(process, ladder, START, **options).y1
    # it sums in single precision, whatever the state, and draws its noise there
    tolerance = 2e-5 if noisy else 5e-6
    torch.testing.assert_close(ours.to(expected.dtype), expected, rtol=tolerance, atol=tolerance)


def halved(log_snrs, order, churn):
    """A wrong twin of the weights: half the term of second differences, as in widely used code."""
    right = multistep_weights(log_snrs, order, churn)
    for n, weights in enumerate(right):
        if len(weights) == 3:
            h, back, further = np.diff(log_snrs)[[n, n - 1, n - 2]]
            moment = 1.0 - 2.0 * (1.0 + math.expm1(-h) / h) / h
            difference = np.array([1 / back, -1 / back - 1 / further, 1 / further]) * h**2 / (back + further)
            right[n] = (np.array(weights) - 0.5 * moment * difference).tolist()
    return right


def test_the_third_order_differs_from_that_of_diffusers_by_half_a_second_difference(monkeypatch):
    scheduler = scheduler_of(
        "DPMSolverMultistepScheduler", solver_order=3, timestep_spacing="trailing", final_sigmas_type="zero"
    )
    scheduler.set_timesteps(20)
    in_double_precision(scheduler)
    expected = theirs(scheduler, START, scheduler.timesteps)
    process = DiscreteVariancePreserving.from_scheduler(scheduler)
    ladder = denoiser_ladder([Denoiser(network, "noise")], process=process)
    options = {"sampler": "dpm++3m", "steps": 20, "grid": "uniform"}
    assert float((sample(process, ladder, START, **options).y1 - expected).abs().max()) > 1e-3
    monkeypatch.setattr("mlsde.diffusion.samplers.multistep_weights", halved)
    torch.testing.assert_close(sample(process, ladder, START, **options).y1, expected, rtol=5e-6, atol=5e-6)


def test_flow_matching_is_that_of_diffusers():
    scheduler = scheduler_of("FlowMatchEulerDiscreteScheduler", shift=3.0)
    scheduler.set_timesteps(12)
    expected = theirs(scheduler, START.float(), scheduler.timesteps)
    ladder = denoiser_ladder([Denoiser(network, "flow", timestep=lambda t: 1000.0 * t)], process=FLOW)
    for sampler in ("ddim", "euler"):
        ours = sample(FLOW, ladder, START, sampler=sampler, grid=scheduler.sigmas.double()).y1
        torch.testing.assert_close(ours.float(), expected.float(), rtol=2e-5, atol=2e-5)


def test_euler_is_that_of_diffusers_in_variables_that_explode():
    scheduler = scheduler_of("EulerDiscreteScheduler", timestep_spacing="trailing")
    scheduler.set_timesteps(15)
    y0 = START.float() * float(scheduler.init_noise_sigma)
    y = y0
    for t in scheduler.timesteps:
        shown = scheduler.scale_model_input(y, t)
        y = scheduler.step(network(shown, torch.full((3,), float(t))), t, y).prev_sample
    process = VarianceExploding(sigma_max=float(scheduler.sigmas[0]))
    trained = DiscreteVariancePreserving.from_scheduler(scheduler)
    ladder = denoiser_ladder([Denoiser(network, "noise", trained)], process=process)
    ours = sample(process, ladder, y0.double(), sampler="euler", grid=scheduler.sigmas.double()).y1
    torch.testing.assert_close(ours.float(), y, rtol=2e-4, atol=2e-4)


# closed forms

ORDER = {"ddim": 1, "euler": 1, "heun": 2, "dpm++2m": 2, "dpm++3m": 3}


@every_process
@pytest.mark.parametrize("sampler", ORDER)
def test_every_sampler_converges_to_the_flow_of_a_gaussian_at_its_order(process, sampler):
    errors = []
    for steps in (80, 160):
        grid = log_snr_times(process, steps)
        (mean, deviation), (end_mean, end_deviation) = (marginal(process, t) for t in (grid[0], grid[-1]))
        y0 = process.prior_scale * torch.tensor([[-1.3], [0.4]], dtype=torch.float64)
        # the flow keeps the number of standard deviations from the mean
        exact = end_mean + end_deviation * (y0 - mean) / deviation
        errors.append(
            float((sample(process, gaussian(process), y0, sampler=sampler, grid=grid).y1 - exact).abs().max())
        )
    assert math.log2(errors[0] / errors[1]) == pytest.approx(ORDER[sampler], abs=0.2)
    assert errors[1] < 5e-3


def test_the_third_order_of_widely_used_code_is_a_second_order(monkeypatch):
    process = VariancePreserving()

    def error(steps):
        grid = log_snr_times(process, steps, last=3.0)
        (mean, deviation), (end_mean, end_deviation) = (marginal(process, t) for t in (grid[0], grid[-1]))
        end = sample(process, gaussian(process), START[:, :1], sampler="dpm++3m", grid=grid).y1
        return float((end - end_mean - end_deviation * (START[:, :1] - mean) / deviation).abs().max())

    right = error(200)
    monkeypatch.setattr("mlsde.diffusion.samplers.multistep_weights", halved)
    assert math.log2(error(200) / error(400)) == pytest.approx(2.0, abs=0.2)
    assert error(200) > 10 * right


@pytest.mark.parametrize("churn", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_weights_integrate_polynomials_of_their_order(order, churn):
    log_snrs = np.cumsum([-2.0, *np.random.default_rng(0).uniform(0.1, 0.6, 20)])
    a = 1.0 + churn**2
    for n, weights in enumerate(multistep_weights(log_snrs, order, churn)):
        h = log_snrs[n + 1] - log_snrs[n]
        x = np.linspace(0.0, h, 20_001)
        for degree in range(len(weights)):
            heights = a * np.exp(-a * (h - x)) * x**degree
            exact = (0.5 * np.diff(x) * (heights[1:] + heights[:-1])).sum()
            if degree == 1 and len(weights) == 2:
                exact = 0.5 * h * -math.expm1(-a * h)  # as the paper has it
            values = (log_snrs[n - np.arange(len(weights))] - log_snrs[n]) ** degree
            assert float(values @ weights) == pytest.approx(exact, rel=1e-6, abs=1e-12)
        assert len(weights) == min(order, n + 1)


def test_runs_of_few_steps_begin_and_end_in_lower_order():
    def orders(steps, last):
        log_snrs = np.linspace(-3.0, 3.0, steps + 1)
        return [len(weights) for weights in multistep_weights(np.append(log_snrs[:-1], last), 3, 0.0)]

    assert orders(8, 3.0) == [1, 2, 3, 3, 3, 3, 2, 1]
    assert orders(20, 3.0) == [1, 2, *[3] * 18]
    assert orders(20, math.inf) == [1, 2, *[3] * 17, 1]
    from_noise = np.array([-math.inf, *np.linspace(-3.0, 3.0, 20)])
    assert [len(weights) for weights in multistep_weights(from_noise, 3, 0.0)][:4] == [1, 1, 2, 3]


# ladders inside


def ladder_of(process, costs=(1.0, 8.0, 64.0)):
    """Mixtures that share their first centres: a level's centres are some of the next one's."""
    generator = torch.Generator().manual_seed(5)
    centres = torch.randn(32, 4, generator=generator, dtype=torch.float64)
    variances = torch.full((4,), 0.05, dtype=torch.float64)
    return mlsde.DriftHierarchy(
        [GaussianMixture(centres[:count], variances, process=process) for count in (4, 12, 32)], costs
    )


@every_process
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_with_probability_one_a_ladder_is_its_top_level(process, sampler):
    ladder = ladder_of(process)
    y0 = process.prior((2, 4), torch.Generator().manual_seed(1), dtype=torch.float64)
    steps = {"steps": 7}
    if process == FLOW:  # at pure noise a prediction of noise says nothing
        steps = {"grid": process.log_snr_grid(8, to_clean=sampler != "heun")[1:]}
    for correction in ("impulse", "hold") if sampler != "heun" else ("hold",):
        coins = mlsde.Multilevel(mlsde.Constant([1.0] * 3), coins="periodic", correction=correction)
        run = sample(process, ladder, y0, sampler=sampler, multilevel=coins, **steps)
        alone = sample(process, ladder, y0, sampler=sampler, **steps)
        assert torch.equal(run.y1, alone.y1)
        assert run.stats.evaluations == alone.stats.evaluations
        assert alone.stats.evaluations[:2] == (0.0, 0.0)
    assert bool(torch.isfinite(run.y1).all())


@pytest.mark.parametrize("space", ["noise", "clean"])
@pytest.mark.parametrize("sampler", ["dpm++2m", "dpm++3m"])
def test_an_impulse_inside_dpm_solver_is_the_sum_by_parts(sampler, space):
    """A run in which the second level fires at every other step, written out."""
    process, order = VariancePreserving(), int(sampler[5])
    ladder = ladder_of(process).select([1, 3])
    grid = log_snr_times(process, 20)
    coins = mlsde.Multilevel(mlsde.Constant([1.0, 0.5]), coins="periodic", correction="impulse")
    run = sample(process, ladder, START, sampler=sampler, grid=grid, multilevel=coins, space=space)
    log_snrs = np.array([process.log_snr(t) for t in grid])
    weights, y, history = multistep_weights(log_snrs, order, 0.0), START, []
    fires = run.plan.block(0, 20).fires[:, 1]
    for n, (t, s) in enumerate(pairwise(grid)):
        low, high = (level(torch.tensor(t, dtype=torch.float64), y) for level in ladder.levels)
        noise = low + 2.0 * (high - low) if fires[n] else low
        history = [convert(noise, y, process, t, source="noise", target="clean"), *history]
        y = process.sigma(s) / process.sigma(t) * y
        y = y + process.alpha(s) * sum(w * clean for w, clean in zip(weights[n], history, strict=False))
    torch.testing.assert_close(run.y1, y, rtol=1e-9, atol=1e-9)
    assert run.stats.evaluations == (20.0, 10.0)
    assert (run.stats.cost, run.stats.full_cost, run.method) == (20 * 1.0 + 10 * 64.0, 20 * 64.0, sampler)


def test_in_clean_space_a_skipped_first_level_loses_the_sample():
    """The trap that the docstring of ``reverse`` names; these ten seeds are fixed."""
    process = VariancePreserving()
    ladder = ladder_of(process)
    full = sample(process, ladder, START, steps=100).y1

    def error(space, first):
        squares = []
        for seed in range(10):
            coins = mlsde.Multilevel(mlsde.Constant([first, 0.9, 0.9]), coins="nested", correction="impulse", seed=seed)
            end = sample(process, ladder, START, steps=100, space=space, multilevel=coins).y1
            squares.append(float((end - full).square().mean()))
        return math.sqrt(sum(squares) / 10)

    assert error("clean", 0.9) > 3 * error("noise", 0.9)
    assert error("clean", 1.0) == pytest.approx(error("noise", 1.0), rel=1e-6)


@pytest.mark.parametrize(("sampler", "clock"), [("ddim", None), ("dpm++2m", None), ("dpm++2m", "time")])
def test_extrapolation_follows_a_difference_that_is_a_line(sampler, clock):
    """In log-SNR with ``dpm++``, in time with the others; a line of the other is not followed."""
    line = clock or ("time" if sampler == "ddim" else "log_snr")
    process = VariancePreserving()
    base = ladder_of(process).levels[0]
    grid = log_snr_times(process, 24)

    def error(along):
        def with_line(t, y):
            x = process.log_snr(float(t)) if along == "log_snr" else float(t)
            clean = convert(base(t, y), y, process, float(t), source="noise", target="clean")
            return convert(clean + 0.1 * x, y, process, float(t), source="clean", target="noise")

        ladder = mlsde.DriftHierarchy([base, with_line])
        # two firings give the line, those after it are rare
        coins = mlsde.Multilevel(
            lambda t: [1.0, 1.0 if t >= grid[1] else 0.2], coins="periodic", correction="extrapolate"
        )
        options = {"sampler": sampler, "grid": grid, "space": "clean", "extrapolate_in": clock}
        run = sample(process, ladder, START, multilevel=coins, **options)
        assert run.stats.evaluations[1] <= 7
        return float((run.y1 - sample(process, ladder, START, **options).y1).abs().max())

    assert error(line) < 1e-12
    assert error("time" if line == "log_snr" else "log_snr") > 1e-6


@pytest.mark.filterwarnings("ignore:coins on the pilot's own samples")  # whatever the pilot thinks of its few samples
def test_a_pilot_may_choose():
    process = VariancePreserving()
    y0 = process.prior((64, 4), torch.Generator().manual_seed(0), dtype=torch.float64)
    run = sample(process, ladder_of(process), y0, steps=100, multilevel="auto")
    assert run.recommendation is not None
    assert run.stats.cost <= run.stats.full_cost


def test_per_sample_coins_and_seeds_do_not_depend_on_the_batch():
    process = VariancePreserving()
    ladder = ladder_of(process)
    coins = mlsde.Multilevel(mlsde.Constant([1.0, 0.5, 0.3]), correction="hold", share="sample")
    for sampler in ("ddpm", "dpm++2m"):
        options = {"sampler": sampler, "steps": 20, "multilevel": coins, "churn": 1.0}
        together = sample(process, ladder, START, seed=[3, 4, 5], **options).y1
        apart = [sample(process, ladder, START[i : i + 1], seed=[3 + i], **options).y1 for i in range(3)]
        torch.testing.assert_close(together, torch.cat(apart), rtol=1e-9, atol=1e-9)


def test_starts_are_drawn_from_the_seed():
    process = VarianceExploding(sigma_max=20.0)
    ladder = mlsde.DriftHierarchy([lambda t, y: torch.zeros_like(y)])  # no noise: the state stays
    drawn = sample(process, ladder, (5000, 3), steps=2, seed=1).y1
    assert drawn.shape == (5000, 3)
    assert float(drawn.std()) == pytest.approx(20.0, rel=5 / math.sqrt(2 * 15_000))
    assert torch.equal(drawn, sample(process, ladder, (5000, 3), steps=3, seed=1).y1)
    assert not torch.equal(drawn, sample(process, ladder, (5000, 3), steps=2, seed=2).y1)
    # each sample's own, and not the increments of the same seed
    of_each = sample(process, ladder, (3, 2), steps=2, seed=[4, 5, 6]).y1
    assert torch.equal(of_each[1:2], sample(process, ladder, (1, 2), steps=2, seed=[5]).y1)
    noise = mlsde.solve(mlsde.SDE(lambda t, y: 0 * y, 1.0), torch.zeros(5000, 3), (0, 1), steps=1, seed=1).y1
    assert abs(float((drawn * noise).mean()) / 20.0) < 5 / math.sqrt(15_000)


def test_saving_callbacks_and_progress_serve_the_multistep_samplers_too(capsys):
    process, seen = VariancePreserving(), []
    run = sample(
        process, ladder_of(process), START, sampler="dpm++2m", steps=10, save_at="steps", progress=True,
        callback=lambda n, t, y: seen.append(n),
    )  # fmt: skip
    assert (len(run.ts), seen) == (11, list(range(1, 11)))
    np.testing.assert_allclose(run.ts, process.log_snr_grid(10))
    assert "cost" in capsys.readouterr().err
    assert "reached t=0 in 10 steps" in repr(run)
    stopped = sample(process, ladder_of(process), START, sampler="dpm++3m", steps=10, callback=lambda n, t, y: n == 4)
    assert not stopped.success


@pytest.mark.parametrize("step", [3, 64, 70, 130])
def test_a_level_that_fails_within_a_multistep_run_is_named_with_its_step(step):
    process = VariancePreserving()
    grid = process.log_snr_grid(150)
    good = ladder_of(process).levels[0]

    def bad(t, y):
        return good(t, y) * (math.nan if float(t) == grid[step] else 1.0)

    with pytest.raises(mlsde.NonFiniteError, match=f"drift level 2 became NaN or infinite at step {step}"):
        sample(process, mlsde.DriftHierarchy([good, bad]), START, sampler="dpm++2m", grid=grid)


def test_a_replay_remembers_the_steps_before_its_block():
    """A state that overflows by the history of the block before is found at its step."""
    process = VariancePreserving()
    grid = process.log_snr_grid(150)
    ladder = ladder_of(process)
    states = sample(process, ladder, START, sampler="dpm++2m", grid=grid, save_at="steps").ys
    seen = {}

    def good(t, y):
        n = grid.tolist().index(float(t))
        if n in seen:
            assert torch.equal(seen[n], y), n
        seen[n] = y
        return ladder.levels[-1](t, y) * (math.nan if n == 70 else 1.0)

    with pytest.raises(mlsde.NonFiniteError, match="step 70"):
        sample(process, mlsde.DriftHierarchy([good]), START, sampler="dpm++2m", grid=grid)
    torch.testing.assert_close(seen[69], states[69])


# where spaces and samplers end


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_flow_starts_from_pure_noise_with_every_sampler(sampler):
    """The state at the clean end is the last prediction of the clean sample."""
    ladder = denoiser_ladder([Denoiser(lambda x, told: (x - MEAN) / told[0], "flow")], process=FLOW)
    run = sample(FLOW, ladder, (2, 3), sampler=sampler, steps=12, seed=3)
    left = run.plan.times[-1]
    bound = 1e-5 if left == 0 else 20 * left
    torch.testing.assert_close(run.y1, torch.full((2, 3), MEAN), rtol=0, atol=bound)


def silent(*_):
    raise AssertionError("evaluated")


SILENT = mlsde.DriftHierarchy([silent])
VELOCITY = denoiser_ladder([Denoiser(silent, "flow")], process=FLOW)


def asked(process=DDPM, ladder=SILENT, start=START, **options):
    return lambda: sample(process, ladder, start, **options)


@table({
    "sampler": (asked(sampler="plms", steps=3), ValueError, ["'plms'", "ddim"]),
    "process": (asked(3, steps=3), TypeError, ["process", "3"]),
    "ladder": (asked(ladder=silent, steps=3), TypeError, ["ladder", "denoiser_ladder"]),
    "no steps": (asked(), ValueError, ["steps=", "neither"]),
    "steps and times": (asked(steps=3, grid=[1, 0]), ValueError, ["both"]),
    "grid": (asked(steps=3, grid="cosine"), ValueError, ["grid='cosine'"]),
    "space": (asked(steps=3, space="v"), ValueError, ["space='v'"]),
    "start": (asked(start=3, steps=3), TypeError, ["start", "int"]),
    "shape": (asked(start=(3, 0), steps=3), ValueError, ["start", "0"]),
    "clock": (asked(steps=3, extrapolate_in="log_snr"), ValueError, ["extrapolate_in='log_snr'", "'ddim'"]),
    "auto": (asked(sampler="dpm++2m", steps=3, multilevel="auto"), ValueError, ["'dpm++2m'", "multilevel='auto'"]),
    "heun to clean": (asked(FLOW, VELOCITY, sampler="heun", grid=[1.0, 0.5, 0.0]), ValueError, ["'heun'", "t=0"]),
    "euler from noise": (asked(FLOW, VELOCITY, sampler="euler", steps=5, churn=1.0), ValueError, ["infinite"]),
    "noise space from noise": (asked(FLOW, steps=5, space="noise"), ValueError, ["use space='clean'"]),
    "noise from noise": (asked(FLOW, steps=5), ValueError, ["'noise'", "alpha=0"]),
})  # fmt: skip
def test_bad_input_is_named(call, error, words):
    told_in_a_sentence(call, error, words)
