"""The adapter in pipelines of diffusers: bit identity, guidance, schedulers."""

import diffusers
import pytest
import torch
from adapter_hosts import COUNT, NEGATIVE, PROMPT, STEPS, ddim, ddpm, flux, ladder, sd3, stable_diffusion

# np.array(tensor) within the schedulers of diffusers, which numpy 2 warns of
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:diffusers")


HOSTS = {
    "ddpm": ddpm,
    "ddim": ddim,
    "sd": stable_diffusion,
    "sd guided": lambda: stable_diffusion(3.0),
    "sd heun": lambda: stable_diffusion(3.0, diffusers.HeunDiscreteScheduler(steps_offset=1)),
    "sd pndm": lambda: stable_diffusion(3.0, diffusers.PNDMScheduler(skip_prk_steps=True, steps_offset=1)),
    "sd pndm, Runge-Kutta": lambda: stable_diffusion(1.0, diffusers.PNDMScheduler(steps_offset=1)),
    "sd dpm++": lambda: stable_diffusion(3.0, diffusers.DPMSolverMultistepScheduler(steps_offset=1)),
    "sd3": sd3,
    "sd3 guided": lambda: sd3(3.0),
    "flux": flux,
    "flux guided": lambda: flux(3.0),
    "flux bfloat16": lambda: flux(3.0, torch.bfloat16),
}


@pytest.fixture(params=HOSTS.values(), ids=HOSTS.keys())
def host(request):
    return request.param()


def test_probabilities_of_one_make_the_plain_picture_bit_for_bit(host):
    plain = host()
    assert torch.equal(host(ladder(host, (1.0, 1.0), share="sample")), plain)
    assert torch.equal(host(ladder(host, (1.0, 1.0))), plain)
    stats = getattr(host.pipe, host.name).stats
    assert stats.calls[0] == 0 and stats.calls[1] > 0


@pytest.mark.parametrize(("correction", "share"), [("impulse", "sample"), ("hold", "sample"), ("extrapolate", "batch")])
def test_every_host_runs_and_runs_again_alike(host, correction, share):
    plain, model = host(), ladder(host, correction=correction, share=share)
    first = host(model)
    assert first.shape == plain.shape and first.dtype == plain.dtype
    assert bool(torch.isfinite(first).all()) and not torch.equal(first, plain)
    assert torch.equal(host(), first)
    assert 0 < model.stats.evaluations[1] < model.stats.evaluations[0]
    assert model._run.complete and model._run.nodes == model.plan.steps
    distinct = set(host.pipe.scheduler.timesteps.tolist())
    assert model.plan.times[:-1].tolist() == sorted(distinct, reverse=True)


def test_the_pipelines_generator_and_batch_move_no_coins():
    host = ddpm()
    model, fired = ladder(host, coins="independent", correction="impulse", steps=STEPS), []
    host.nets[-1].register_forward_pre_hook(lambda net, args: fired.append(int(args[1])))
    runs = []
    for generator, seed, count in ((0, 0, 2), (77, 0, 5), (0, 12, 2)):
        fired.clear()
        model.seed = seed
        host.set(model)
        host.pipe(count, torch.Generator().manual_seed(generator), STEPS, "pt")
        runs.append(tuple(fired))
    assert runs[0] == runs[1] != runs[2]


def test_guided_halves_share_the_coins_of_their_picture():
    host = stable_diffusion(3.0)
    model = ladder(host, coins="independent", share="sample", correction="impulse")
    host(model)
    assert len(model.plan.keys) == COUNT
    fires = model._run._slots[0].estimate._plan.block(0, STEPS).fires
    assert (fires[..., :COUNT] == fires[..., COUNT:]).all()
    assert not (fires[..., 0] == fires[..., 1]).all()


def test_a_picture_with_a_seed_of_its_own_does_not_depend_on_the_others():
    host = stable_diffusion(3.0)
    noise = torch.randn(COUNT, 4, 8, 8, generator=torch.Generator().manual_seed(4))
    both = host(ladder(host, share="sample", seed=[5, 6]), latents=noise)
    for i in range(COUNT):
        texts = {"prompt_embeds": PROMPT[i : i + 1], "negative_prompt_embeds": NEGATIVE[i : i + 1]}
        alone = host(ladder(host, share="sample", seed=[5 + i]), latents=noise[i : i + 1], **texts)
        torch.testing.assert_close(alone[0], both[i], rtol=1e-4, atol=1e-4)


def test_two_calls_of_true_guidance_are_two_slots():
    host = flux(3.0)
    model = ladder(host)
    host(model)
    assert len(model._run._slots) == 2
    assert model.stats.full_cost is None and model._run.rows == 2 * STEPS * COUNT


def test_image_to_image_begins_midway():
    host = stable_diffusion(3.0, pipeline=diffusers.StableDiffusionImg2ImgPipeline, strength=0.5)
    image = torch.randn(COUNT, 4, 8, 8, generator=torch.Generator().manual_seed(4))
    plain = host(image=image)
    assert torch.equal(host(ladder(host, (1.0, 1.0)), image=image), plain)
    model = ladder(host)
    host(model, image=image)
    assert model.plan.steps == STEPS // 2 and model.plan.times[0] < 500
    by_steps = ladder(host, steps=STEPS // 2)
    host(by_steps, image=image)
    assert by_steps._run.complete


def test_guidance_that_a_callback_switches_off_midway():
    host = stable_diffusion(3.0)

    def off(pipe, n, t, kwargs):
        if n == 4:
            pipe._guidance_scale = 0.0
            kwargs["prompt_embeds"] = kwargs["prompt_embeds"].chunk(2)[-1]
        return kwargs

    options = {"callback_on_step_end": off, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    plain = host(**options)
    for share in ("batch", "sample"):
        assert torch.equal(host(ladder(host, (1.0, 1.0), share=share), **options), plain)
        assert bool(torch.isfinite(host(ladder(host, share=share), **options)).all())


def test_guidance_by_skipped_layers_calls_a_third_time_in_some_steps():
    host = sd3(3.0, skip_guidance_layers=[0], skip_layer_guidance_start=0.3, skip_layer_guidance_stop=0.7)
    plain = host()
    for share in ("batch", "sample"):
        assert torch.equal(host(ladder(host, (1.0, 1.0), share=share)), plain)
        model = ladder(host, share=share)
        host(model)
        assert len(model._run._slots) == 2 and model._run.rows == COUNT * (2 * STEPS + 3)


def test_wrong_numbers_of_steps_are_told():
    host = ddpm()
    with pytest.raises(ValueError, match=r"the run goes beyond steps=7"):
        host(ladder(host, steps=7))
    host(ladder(host, steps=12))
    with pytest.warns(UserWarning, match="the last run took 8 of the 12 steps"):
        host()
    both = ladder(host, steps=STEPS)
    both.scheduler, both.steps = host.pipe.scheduler, 7
    with pytest.raises(ValueError, match="steps=7 was given with scheduler=, which has 8 distinct timesteps"):
        host(both)
    with pytest.raises(ValueError, match="has not been told its timesteps"):
        host(ladder(host, steps=STEPS, scheduler=diffusers.DDPMScheduler()))


def test_clipping_schedulers_are_told_and_the_hint_switches_it_off():
    host = ddpm()
    host.pipe.scheduler = diffusers.DDPMScheduler()
    with pytest.warns(UserWarning, match=r"DDPMScheduler has clip_sample=True") as caught:
        host(ladder(host))
    assert "register_to_config(clip_sample=False)" in str(caught[0].message)
    with pytest.raises(ValueError, match="DDPMScheduler has clip_sample=True"):
        host(ladder(host, clipping="refuse"))
    host.pipe.scheduler.register_to_config(clip_sample=False)
    host(ladder(host, clipping="refuse"))


def test_it_stands_for_the_top_net():
    host = stable_diffusion()
    model = ladder(host)
    assert model.config is host.nets[-1].config and model.time_proj is host.nets[-1].time_proj
    assert (model.dtype, model.device) == (torch.float32, torch.device("cpu"))
    host.set(model)
    host.pipe.to(torch.float64)
    assert {p.dtype for net in host.nets for p in net.parameters()} == {torch.float64}
    host.pipe.to(torch.float32)
    assert host.pipe.components["unet"] is model
