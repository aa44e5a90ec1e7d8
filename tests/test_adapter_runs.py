"""Runs of the adapter: steps, stages and slots, schedules, samplers of EDM and k-diffusion, noise."""

import itertools

import numpy as np
import pytest
import torch
from adapter_toys import GRID, KINDS, Gaussian, calls, denoiser, euler, karras, nets, rule, scheduler, start

import mlsde
from mlsde.diffusion import runs
from mlsde.diffusion.adapter import MultilevelDenoiser
from mlsde.estimator import estimator
from mlsde.plan import multilevel_plan


def heun(model, x):
    """The calls of diffusers' Heun: each inner time first as the corrector's, then as the next predictor's."""
    for n, (t, t_next) in enumerate(itertools.pairwise(GRID)):
        first = model(x, torch.tensor(t))
        predicted = x + (t_next - t) * first
        second = first if n == len(GRID) - 2 else model(predicted, torch.tensor(t_next))
        x = x + (t_next - t) * (first + second) / 2
    return x


def heun_of_the_core(multilevel, x, restore=True):
    """The same by hand: the estimator at each node, its memory put back before the second visit."""
    drift = mlsde.DriftHierarchy([lambda t, y, net=net: net(y, t) for net in nets()])
    estimate = estimator(
        mlsde.hierarchy.CountedLevels(drift.levels, x.dtype), multilevel_plan(multilevel, GRID, drift, seed=0, batch=3)
    )
    before = estimate.memory
    for n, (t, t_next) in enumerate(itertools.pairwise(GRID)):
        if restore:
            estimate.memory = before
        first = estimate(n, torch.tensor(t), x)
        before = estimate.memory
        if n == len(GRID) - 2:
            return x + (t_next - t) * first
        second = estimate(n + 1, torch.tensor(t_next), x + (t_next - t) * first)
        x = x + (t_next - t) * (first + second) / 2
    return x


@pytest.mark.parametrize("share", ["batch", "sample"])
@pytest.mark.parametrize(("coins", "correction"), KINDS)
def test_the_second_stage_of_heun_sees_the_coins_and_the_memory_of_its_node(coins, correction, share):
    multilevel = rule(coins=coins, correction=correction, share=share)
    model = denoiser(multilevel, timesteps=GRID[:-1])
    torch.testing.assert_close(heun(model, start()), heun_of_the_core(multilevel, start()), rtol=0, atol=1e-14)


def test_heun_without_putting_the_memory_back_divides_by_a_gap_of_zero():
    assert not bool(torch.isfinite(heun_of_the_core(rule(correction="extrapolate"), start(), restore=False)).all())


def test_a_freed_state_is_not_taken_for_the_next_one_in_its_memory():
    """The second state is often allocated where the first was; it is another stage all the same."""
    model = denoiser(rule(correction="extrapolate"))
    for t in GRID[:-1]:
        for _ in range(2):
            assert bool(torch.isfinite(model(torch.randn(64, 64), t)).all())
            assert model._run._slot == 0


def test_a_state_that_was_written_into_is_another_state():
    model, x = denoiser(rule(correction="hold")), start()
    model(x, 1.0)
    x.mul_(0.5)
    model(x, 1.0)
    assert model._run._slot == 0
    model(x, 1.0)
    assert model._run._slot == 1
    with torch.inference_mode():
        y = start() + 1.0
        model(y, 0.9)
        model(y, 0.9)
    assert model._run._slot == 1


@pytest.mark.parametrize("share", ["batch", "sample"])
@pytest.mark.parametrize("correction", ["impulse", "hold", "extrapolate"])
def test_a_call_that_some_steps_make_and_others_do_not_begins_with_all_levels(correction, share):
    """As SD3's guidance by skipped layers does, for half of the batch and some of the steps."""
    model, x = denoiser(rule(correction=correction, share=share), timesteps=GRID[:-1]), start(4)
    top, outputs = nets()[-1], []
    both = torch.cat([x, x])
    for n, t in enumerate(GRID[:-1]):
        model(both, torch.tensor(t))
        if n in (4, 5, 6, 9, 10):
            outputs.append((n, model(2 * x, torch.tensor(t)), top(2 * x, torch.tensor(t))))
            assert model._run._slot == 1
    exact = [n for n, ours, theirs in outputs if torch.allclose(ours, theirs)]
    assert {4, 9} <= set(exact) if correction != "impulse" else 4 not in exact


@pytest.mark.parametrize("share", ["batch", "sample"])
def test_the_other_coins_stay_as_they_are_where_a_call_begins_late(share):
    model = denoiser(rule(share=share, correction="hold"), timesteps=GRID[:-1])
    model(start(), 1.0)
    plan = model.plan
    fires, later = (p.block(0, 12).fires for p in (plan, runs.late(plan, 5)))
    assert later[5].all() and not fires[5].all()
    assert np.array_equal(np.delete(fires, 5, axis=0), np.delete(later, 5, axis=0))
    moved = mlsde.plan.replace(plan, table=runs.late(plan, 5).probabilities).block(0, 12).fires
    assert not np.array_equal(np.delete(fires, 5, axis=0), np.delete(moved, 5, axis=0)), "the plain way moves coins"


def test_guidance_that_is_switched_off_midway_goes_on_with_half_the_batch():
    for share in ("batch", "sample"):
        model, x = denoiser(rule(share=share)), start(4)
        for n, t in enumerate(GRID[:-1]):
            out = model(torch.cat([x, x]) if n < 6 else x, t)
            assert out.shape[0] == (8 if n < 6 else 4)
        assert model._run.nodes == 12


def test_runs_follow_one_another_without_a_word():
    model, x = denoiser(rule(coins="independent")), start()
    first = euler(model, x)
    assert torch.equal(euler(model, x), first)
    assert model.stats.evaluations[2] < 12, "the numbers are of the last run"
    model(x, 1.0)
    model.reset()
    assert not model._run._slots and model.stats.evaluations[0] > 0, "memories are freed, numbers stay"
    assert torch.equal(euler(model, x), first)


def test_whoever_tries_again_after_a_failure_begins_anew():
    failing = [True]

    def fragile(x, t):
        if failing[0]:
            raise MemoryError("no room")
        return -x

    model, x = denoiser(rule(), [*nets()[:2], fragile]), start()
    with pytest.raises(MemoryError):
        euler(model, x)
    failing[0] = False
    assert torch.equal(euler(model, x), euler(denoiser(rule(), [*nets()[:2], fragile]), x))


def test_a_run_may_rise_in_time():
    model = denoiser(rule(coins="independent"), steps=12)
    rising = [euler(model, start(), GRID[::-1]) for _ in range(2)]
    assert torch.equal(*rising)
    timed = denoiser(rule(), timesteps=GRID[:0:-1])
    euler(timed, start(), np.append(GRID[:0:-1], 2.0))
    assert timed.plan.times[-1] == pytest.approx(1.0)


def test_a_plan_of_one_step_begins_anew_at_every_call_but_not_within_guidance():
    model = denoiser(rule(correction="hold"), steps=1)
    for t in (0.5, 0.5, 0.7, 0.2):
        x = torch.randn(3, 2)
        model(x, t)
        model(x, t)
        assert model._run._slot == 1 and model._run.nodes == 1


def test_a_run_that_was_shorter_than_planned_warns_once():
    model, x = denoiser(steps=24), start()
    euler(model, x)
    with pytest.warns(UserWarning, match=r"the last run took 12 of the 24 steps that steps=24 planned"):
        euler(model, x)
    euler(model, x)


def test_a_run_that_goes_on_beyond_its_steps_stops_before_anything_is_evaluated():
    model, x = denoiser(steps=5), start()
    for t in GRID[:5]:
        model(x, t)
    before = calls(model)
    with pytest.raises(ValueError, match=r"the run goes beyond steps=5 at timestep 0\.58"):
        model(x, GRID[5])
    assert calls(model) == before


def test_a_scheduler_gives_the_times_of_the_rule_its_repetitions_are_one_step():
    seen = []

    def probabilities(t):
        seen.append(t)
        return (1.0, 0.5, 0.5)

    heuns = scheduler([900, 600, 600, 300, 300])
    model = denoiser(mlsde.Multilevel(probabilities), scheduler=heuns)
    model(start(), torch.tensor(900))
    assert seen == [900.0, 600.0, 300.0]
    assert model.plan.times.tolist() == [900.0, 600.0, 300.0, 0.0]


@pytest.mark.parametrize(
    ("timesteps", "first", "times"),
    [
        ([900, 600, 300], 600, [600, 300, 0]),
        ([900, 600, 300], 300, [300, 0]),
        ([40, 20, 0], 40, [40, 20, 0, -20]),
        ([40, 20, 0], 0, [0, -1]),
        ([0, 20, 40], 0, [0, 20, 40, 60]),
        ([1.2, 0.4, -0.3], 1.2, [1.2, 0.4, -0.3, -1.0]),
        ([1000.0, 500.0], 1.0, [1000, 500, 0]),
        ([1000.0, 700.0, 400.0], 0.69921875, [700, 400, 0]),
    ],
)
def test_a_run_may_begin_midway_and_the_host_may_divide_by_the_timesteps_of_the_training(timesteps, first, times):
    model = denoiser(scheduler=scheduler(timesteps))
    model(start(), first)
    assert model.plan.times == pytest.approx(times)


def test_midway_with_bfloat16_times_a_run_goes_through():
    plan = scheduler(torch.linspace(1000.0, 20.0, 25).tolist())
    model = denoiser(scheduler=plan)
    for t in plan.timesteps[10:]:
        model(start(), t.to(torch.bfloat16) / 1000)
    assert model._run.nodes == 15 and model._run.complete


def test_steps_may_be_given_beside_a_scheduler_whole_or_from_midway_but_must_agree():
    for steps in (3, 2):
        denoiser(scheduler=scheduler([900, 600, 300]), steps=steps)(start(), 600)
    model = denoiser(scheduler=scheduler([900, 600, 300]), steps=4)
    with pytest.raises(ValueError, match=r"steps=4 was given with scheduler=, which has 3 distinct timesteps"):
        model(start(), 600)
    assert calls(model) == [0, 0, 0]


def edm_heun(net, x, sigmas, labels=None):
    """Algorithm 2 of T. Karras et al., arXiv 2206.00364, without churn."""
    for n, (s, s_next) in enumerate(itertools.pairwise(sigmas)):
        d = (x - net(x, s, labels)) / s
        y = x + (s_next - s) * d
        if n < len(sigmas) - 2:
            d = (d + (y - net(y, s_next, labels)) / s_next) / 2
        x = x + (s_next - s) * d
    return x


def test_edm_and_k_diffusion_call_it_as_they_call_a_net():
    sigmas, x = karras(18), 10.0 * start()
    ladder = [Gaussian(1.3), Gaussian(1.1), Gaussian(1.0)]
    model = MultilevelDenoiser(ladder, multilevel=rule(correction="extrapolate"), steps=18)
    exact, cheap = (edm_heun(net, x, sigmas, None) for net in (ladder[-1], ladder[0]))
    ours = edm_heun(model, x, sigmas)
    assert model._run.nodes == 18 and model.sigma_max == 80.0
    assert float((ours - exact).norm()) < 0.05 * float((cheap - exact).norm())
    per_sample = MultilevelDenoiser(ladder, multilevel=rule(share="sample", coins="independent"), timesteps=sigmas[:-1])
    for s in sigmas[:-1]:
        assert per_sample(x, s.expand(len(x))).shape == x.shape


def test_churn_that_raises_the_noise_again_is_told_as_a_run_broken_off():
    model = MultilevelDenoiser([Gaussian(1.1), Gaussian(1.0)], multilevel=rule((1.0, 0.5)), steps=4)
    model(start(), torch.tensor(10.0))
    model(start(), torch.tensor(5.0))
    with pytest.warns(UserWarning, match="the last run took 2 of the 4 steps"):
        model(start(), torch.tensor(6.0))


def ancestral(model, x, sigmas, noise_sampler):
    """Euler ancestral sampling, as k-diffusion has it; the noise comes from ``noise_sampler(sigma, sigma_next)``."""
    for s, s_next in zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True):
        up = min(s_next, (s_next**2 * (s**2 - s_next**2) / s**2) ** 0.5)
        down = (s_next**2 - up**2) ** 0.5
        d = (x - model(x, torch.full((len(x),), s, dtype=x.dtype))) / s
        x = x + (down - s) * d
        if s_next > 0:
            x = x + up * noise_sampler(s, s_next)
    return x


def test_one_brownian_path_makes_one_picture_at_20_and_at_200_steps():
    x = 10.0 * torch.randn(64, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ladder = [Gaussian(1.1), Gaussian(1.0)]

    def picture(steps, path):
        model = MultilevelDenoiser(ladder, multilevel=rule((1.0, 0.5)), steps=steps)
        return ancestral(model, x, karras(steps), path)

    def correlation(a, b):
        return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])

    def path(seed):
        # a fixed domain: a path whose ends follow the run's would be another path
        return mlsde.BrownianPath(0.0, 80.0, like=x, seed=seed).noise_sampler

    few, many, other = picture(20, path(0)), picture(200, path(0)), picture(200, path(1))
    fresh = torch.Generator().manual_seed(0)
    uncoupled = [picture(n, lambda s, s_next: torch.randn(x.shape, generator=fresh, dtype=x.dtype)) for n in (20, 200)]
    assert correlation(few, many) > 0.95
    assert abs(correlation(many, other)) < 0.2 and abs(correlation(*uncoupled)) < 0.2
    assert float(many.var()) == pytest.approx(1.0, abs=0.2)
