"""What runs on the host runs on a CUDA device, with the same coins and the same counts."""

import warnings

import pytest
import torch

import mlsde
from mlsde.diffusion import MultilevelDenoiser
from mlsde.diffusion.arena import Arena, Way
from mlsde.diffusion.ladders import load_ladder

pytestmark = pytest.mark.cuda

RULES = [("independent", "impulse"), ("nested", "control"), ("systematic", "hold"), ("periodic", "extrapolate")]


def spin(t, y):
    return torch.stack([y[:, 1], -y[:, 0]], dim=1) - 0.1 * y


def near(t, y):
    return spin(t, y) + 0.1 * torch.sin(y)


@pytest.mark.parametrize(("coins", "correction"), RULES)
@pytest.mark.parametrize("share", ["batch", "sample"])
def test_an_ode_is_solved_as_on_the_host(coins, correction, share):
    sde = mlsde.SDE(mlsde.DriftHierarchy([near, spin], [1.0, 20.0]))
    rule = mlsde.Multilevel(mlsde.Constant([1.0, 0.3]), coins, correction, share)
    y0 = torch.randn(16, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    runs = [mlsde.solve(sde, y0.to(device), (0, 1), steps=50, multilevel=rule) for device in ("cpu", "cuda")]
    assert runs[0].stats.evaluations == runs[1].stats.evaluations
    torch.testing.assert_close(runs[0].y1, runs[1].y1.cpu(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("share", ["batch", "sample"])
@pytest.mark.parametrize("noise", [None, 0.5])
def test_the_host_waits_for_the_device_once_in_a_block_of_steps(share, noise, recwarn):
    sde = mlsde.SDE(mlsde.DriftHierarchy([near, spin], [1.0, 20.0]), noise)
    rule = mlsde.Multilevel(mlsde.Constant([1.0, 0.3]), share=share)
    y0 = torch.randn(16, 2, device="cuda")

    def waits(blocks):
        recwarn.clear()
        torch.cuda.set_sync_debug_mode("warn")
        try:
            mlsde.solve(sde, y0, (0, 1), steps=64 * blocks, multilevel=rule)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return sum("synchroniz" in str(warning.message) for warning in recwarn)

    warnings.simplefilter("always")
    waits(1)
    one, two, four = (waits(blocks) for blocks in (1, 2, 4))
    assert four - two == 2 * (two - one) and two - one <= 4


def test_one_brownian_path_serves_all_numbers_of_steps_on_the_device():
    sde = mlsde.SDE(spin, diffusion=0.5)
    y0 = torch.zeros(64, 2, device="cuda", dtype=torch.float64)
    path = mlsde.BrownianPath(0.0, 1.0, like=y0, seed=0)
    coarse, fine = (mlsde.solve(sde, y0, (0, 1), steps=n, brownian=path).y1 for n in (100, 1000))
    assert float((coarse - fine).square().mean().sqrt()) < 0.02


@pytest.fixture(scope="module")
def ladder():
    return load_ladder("digits", device="cuda")


def test_probabilities_of_one_are_the_plain_pipeline_on_the_device(ladder):
    import diffusers

    def picture(net):
        scheduler = diffusers.DDIMScheduler(prediction_type="v_prediction", clip_sample=False)
        pipe = diffusers.DDIMPipeline(net, scheduler)
        pipe.set_progress_bar_config(disable=True)
        generator = torch.Generator("cuda").manual_seed(0)
        return pipe(batch_size=4, generator=generator, num_inference_steps=10, output_type="np").images

    rule = mlsde.Multilevel(mlsde.Constant([1.0, 1.0, 1.0]))
    plain = picture(ladder.models[-1])
    assert (picture(MultilevelDenoiser(list(ladder.models), multilevel=rule, steps=10)) == plain).all()


@pytest.mark.parametrize("churn", [0.0, 1.0])
def test_the_arena_counts_alike_and_comes_to_the_same_images(ladder, churn):
    way = Way("dpm++2m", 20, (1, 2, 3), 10.0)
    arenas = [Arena(one, churn=churn, samples=8, reference_steps=60) for one in (load_ladder("digits"), ladder)]
    host, device = (arena.measure(way) for arena in arenas)
    assert sum(abs(a - b) for a, b in zip(host.evaluations, device.evaluations, strict=True)) <= 2
    assert device.rmse < 3.0 * host.rmse
    if churn == 0:
        torch.testing.assert_close(arenas[0].reference, arenas[1].reference.cpu(), atol=5e-3, rtol=0)
