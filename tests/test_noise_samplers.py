"""Noise in the manner of k-diffusion: unit normals, on one path, the same at every number of steps."""

import math
from itertools import pairwise

import pytest
import torch
from refusals import refused, table

import mlsde
from mlsde import BrownianNoiseSampler, BrownianPath

LOW, HIGH = 0.03, 14.0
X = torch.zeros(3, 2, 4, dtype=torch.float64)


def sampler(x=X, low=LOW, high=HIGH, **options):
    return BrownianNoiseSampler(x, low, high, **options)


def log(sigma):
    return sigma.log()


def inverse(sigma):
    return 1 / sigma


def levels(steps, low=LOW, high=HIGH, rho=7.0):
    """Noise levels of Karras et al., arXiv 2206.00364, falling."""
    ramp = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    return (high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho


TRANSFORMS = pytest.mark.parametrize("transform", [None, log, inverse])


@TRANSFORMS
def test_noises_of_a_divided_step_add_up_to_that_of_the_whole(transform):
    noise, time = sampler(transform=transform), transform or (lambda sigma: sigma)

    def increment(a, b):
        length = abs(time(torch.tensor(b).double()) - time(torch.tensor(a).double()))
        return noise(a, b) * length.sqrt()

    whole = increment(9.0, 0.5)
    torch.testing.assert_close(increment(9.0, 2.0) + increment(2.0, 0.5), whole, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(increment(0.5, 9.0), -whole, rtol=1e-12, atol=1e-12)
    assert (noise(9.0, 2.0) + noise(2.0, 0.5) - noise(9.0, 0.5)).abs().max() > 0.1


def test_a_step_down_has_the_increment_of_the_path_down():
    noise = sampler(seed=3)
    path = BrownianPath(LOW, HIGH, like=X, seed=3)
    assert torch.equal(noise(9.0, 2.0), (path.value(2.0) - path.value(9.0)) / math.sqrt(7.0))
    turned = sampler(seed=3, transform=inverse)
    path = BrownianPath(1 / HIGH, 1 / LOW, like=X, seed=3)
    expected = (path.value(1 / 2.0) - path.value(1 / 9.0)) / math.sqrt(1 / 2 - 1 / 9)
    torch.testing.assert_close(turned(9.0, 2.0), expected, rtol=1e-9, atol=1e-9)


@TRANSFORMS
def test_the_noise_is_a_unit_normal_and_that_of_another_step_is_another(transform):
    """20,000 normals each: mean within 5 and variance within 6 standard errors, wrong by chance once in 1e6 runs."""
    x = torch.zeros(20_000, 1, dtype=torch.float64)
    noise = sampler(x, transform=transform)
    drawn = torch.stack([noise(a, b).flatten() for a, b in pairwise(levels(5))])
    count = drawn.shape[1]
    assert drawn.mean(1).abs().max() < 5 / math.sqrt(count)
    assert (drawn.var(1) - 1).abs().max() < 6 * math.sqrt(2 / count)
    across = torch.corrcoef(drawn) - torch.eye(5)
    assert across.abs().max() < 6 / math.sqrt(count)
    assert (2 * drawn[0] / math.sqrt(3)).var() > 1 + 6 * math.sqrt(2 / count)  # 4/3 would be seen


@TRANSFORMS
def test_the_path_is_the_same_at_twice_the_steps(transform):
    """Both walks pass the same noise levels, where both have come equally far."""
    time = transform or (lambda sigma: sigma)

    def walked(steps):
        noise, sigmas, place, places = sampler(transform=transform), levels(steps), torch.zeros_like(X), []
        for sigma, after in pairwise(sigmas):
            place = place + noise(sigma, after) * (time(after) - time(sigma)).abs().sqrt()
            places.append(place)
        return torch.stack(places)

    torch.testing.assert_close(walked(40)[1::2], walked(20), rtol=1e-3, atol=1e-3)


def euler_ancestral(noise, steps, x):
    """With the denoiser of normal data of variance 1."""
    sigmas = levels(steps)
    for sigma, after in pairwise(sigmas):
        up = after * (sigma**2 - after**2).sqrt() / sigma
        x = x + (after**2 / sigma - sigma) * (x - x / (1 + sigma**2)) / sigma + up * noise(sigma, after)
    return x


def test_a_picture_stays_when_the_steps_double_and_does_not_with_noise_drawn_afresh():
    x = HIGH * torch.randn(50, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise, generator = sampler(x), torch.Generator().manual_seed(1)

    def fresh(_sigma, _after):
        return torch.randn(x.shape, generator=generator, dtype=x.dtype)

    def moved(source):
        return float((euler_ancestral(source, 200, x) - euler_ancestral(source, 400, x)).square().mean().sqrt())

    assert moved(noise) < 0.05
    assert moved(fresh) > 1.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_the_noise_is_like_x(dtype):
    noise = sampler(X.to(dtype))(torch.tensor(9.0), torch.tensor(2.0))
    assert (noise.shape, noise.dtype) == (X.shape, dtype)
    torch.testing.assert_close(noise.double(), sampler()(9.0, 2.0), rtol=1e-2, atol=1e-2)


def test_seeds_per_sample_split_a_batch():
    whole, part = sampler(seed=[4, 5, 6])(9.0, 2.0), sampler(X[1:], seed=[5, 6])(9.0, 2.0)
    assert torch.equal(whole[1:], part)
    assert not torch.equal(sampler(seed=0)(9.0, 2.0), sampler(seed=1)(9.0, 2.0))


def test_ends_may_come_in_either_order_and_rounded():
    noise = sampler(low=0.1, high=14.6)
    torch.testing.assert_close(noise(torch.tensor(14.6), torch.tensor(0.1)), noise(14.6, 0.1), rtol=1e-9, atol=0)
    there_and_back = 14.60000228881836  # k-diffusion's dpmpp_sde takes the logarithm and its exponential in float32
    torch.testing.assert_close(noise(there_and_back, 0.1), noise(14.6, 0.1), rtol=1e-9, atol=0)
    assert torch.equal(sampler(low=14.6, high=0.1)(14.6, 0.1), noise(14.6, 0.1))
    assert repr(noise).startswith("BrownianNoiseSampler(sigma_min=0.1, sigma_max=14.6, path=BrownianPath(")


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of diffusers 0.42 with numpy 2
def test_it_takes_the_place_of_the_noise_of_a_scheduler_of_diffusers():
    """Their own sampler, given our path, says the same; ours makes their pictures stay when the steps change."""
    sde = pytest.importorskip("diffusers.schedulers.scheduling_dpmsolver_sde")
    x = torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    noise = sampler(x, low=1e-3, high=200.0)
    theirs = sde.BrownianTreeNoiseSampler(x, 1e-3, 200.0, 0)
    theirs.tree = noise.path
    torch.testing.assert_close(noise(9.0, 2.0), theirs(9.0, 2.0))

    def picture(steps, source):
        scheduler = sde.DPMSolverSDEScheduler(use_karras_sigmas=True)
        scheduler.set_timesteps(steps)
        scheduler.noise_sampler, y = source, x * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            scaled = scheduler.scale_model_input(y, t)
            y = scheduler.step(0.5 * scaled, t, y).prev_sample
        return y

    few, many, other = picture(20, noise), picture(40, noise), picture(20, sampler(x, low=1e-3, high=200.0, seed=1))
    assert (few - many).square().mean() < 0.1 * (few - other).square().mean()


REFUSALS = {
    "no tensor": (lambda: sampler([1.0]), TypeError, ["x must be a torch.Tensor", "list"]),
    "no numbers": (lambda: sampler(X.int()), TypeError, ["x", "floating"]),
    "one level": (lambda: sampler(low=2.0, high=2.0), ValueError, ["sigma_min", "sigma_max", "2.0"]),
    "an endless level": (lambda: sampler(high=math.inf), ValueError, ["sigma_max", "inf"]),
    "a word": (lambda: sampler(low="low"), TypeError, ["sigma_min", "'low'"]),
    "no function": (lambda: sampler(transform=3), TypeError, ["transform", "3"]),
    "a transform of no number": (
        lambda: sampler(transform=lambda sigma: "x"), TypeError, ["transform(sigma)", "'x'"],
    ),
    "an endless transform": (lambda: sampler(low=0.0, transform=log), ValueError, ["transform(sigma)", "-inf"]),
    "a constant transform": (lambda: sampler(transform=lambda sigma: 1.0), ValueError, ["sigma_min", "transformed"]),
    "too high": (lambda: sampler()(15.0, 1.0), ValueError, ["sigma=15.0", "[0.03, 14.0]"]),
    "too low": (lambda: sampler()(1.0, 0.0), ValueError, ["sigma=0.0", "[0.03, 14.0]"]),
    "no step": (lambda: sampler()(1.0, 1.0), ValueError, ["sigma_next", "1.0 twice"]),
    "no number": (lambda: sampler()(None, 1.0), TypeError, ["sigma", "None"]),
    "levels of samples": (lambda: sampler()(torch.ones(3), 1.0), TypeError, ["sigma must be a number"]),
    "chance": (lambda: sampler(seed=None), TypeError, ["seed", "None"]),
    "too few seeds": (lambda: sampler(seed=[1]), ValueError, ["seed", "1 seeds", "3 samples"]),
    "no step of a path": (
        lambda: BrownianPath(0, 1, like=X).noise_sampler(0.5, 0.5), ValueError, ["t_next", "0.5 twice"],
    ),
}  # fmt: skip


@table(REFUSALS)
def test_a_sampler_that_makes_no_sense_is_refused_in_one_sentence(call, error, words):
    refused(call, error, *words)


def test_it_drives_our_own_solve_too():
    sde, y0 = mlsde.SDE(lambda t, y: -y, 0.5), torch.ones_like(X)
    noise = BrownianNoiseSampler(y0, 0.0, 1.0, seed=2)
    wrapped = mlsde.solve(sde, y0, (1.0, 0.0), steps=20, brownian=mlsde.NoiseSampler(noise))
    direct = mlsde.solve(sde, y0, (1.0, 0.0), steps=20, brownian=noise.path)
    torch.testing.assert_close(wrapped.y1, direct.y1)
