"""Pipelines of diffusers with tiny nets of random weights."""

import diffusers
import torch

import mlsde
from mlsde.diffusion.adapter import MultilevelDenoiser

STEPS, COUNT = 8, 2


def seeded(seed, make, **options):
    torch.manual_seed(seed)
    net = make(**options).eval().requires_grad_(False)
    if hasattr(net, "conv_out"):
        net.conv_out.weight *= 0.05  # or pictures would be black and white, and hide what differs
    return net


def unets(*widths):
    return [
        seeded(
            k, diffusers.UNet2DModel, sample_size=8, in_channels=1, out_channels=1, norm_num_groups=4,
            block_out_channels=(width, 2 * width), layers_per_block=1, down_block_types=("DownBlock2D",) * 2,
            up_block_types=("UpBlock2D",) * 2,
        )
        for k, width in enumerate(widths or (4, 8))
    ]  # fmt: skip


def conditional_unets():
    return [
        seeded(
            k, diffusers.UNet2DConditionModel, sample_size=8, block_out_channels=(width, 2 * width), layers_per_block=1,
            norm_num_groups=4, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=8, attention_head_dim=2,
        )
        for k, width in enumerate((4, 8))
    ]  # fmt: skip


def sd3_transformers():
    return [
        seeded(
            k, diffusers.SD3Transformer2DModel, sample_size=8, patch_size=2, in_channels=4, out_channels=4,
            num_layers=k + 1, attention_head_dim=4, num_attention_heads=2, joint_attention_dim=8,
            caption_projection_dim=8, pooled_projection_dim=8, pos_embed_max_size=8,
        )
        for k in range(2)
    ]  # fmt: skip


def flux_transformers():
    return [
        seeded(
            k, diffusers.FluxTransformer2DModel, patch_size=1, in_channels=16, num_layers=k + 1,
            num_single_layers=k + 1, attention_head_dim=8, num_attention_heads=2, joint_attention_dim=8,
            pooled_projection_dim=8, axes_dims_rope=(2, 2, 4),
        )
        for k in range(2)
    ]  # fmt: skip


def autoencoder():
    return seeded(9, diffusers.AutoencoderKL, block_out_channels=(4,), norm_num_groups=4, sample_size=8)


PROMPT, NEGATIVE = torch.randn(2, COUNT, 7, 8, generator=torch.Generator().manual_seed(1)).unbind(0)


class Host:
    """A pipeline, where its net is, and a call of it."""

    def __init__(self, pipe, nets, name="unet", **options):
        self.pipe, self.nets, self.name, self.options = pipe, nets, name, options
        pipe.set_progress_bar_config(disable=True)

    def set(self, net):
        setattr(self.pipe, self.name, net)

    def __call__(self, net=None, **options):
        if net is not None:
            self.set(net)
        options = {"num_inference_steps": STEPS, **self.options, **options}
        return torch.as_tensor(self.pipe(generator=torch.Generator().manual_seed(0), **options).images)


def ddpm():
    nets = unets()
    pipe = diffusers.DDPMPipeline(nets[-1], diffusers.DDPMScheduler(clip_sample=False))
    return Host(pipe, nets, batch_size=COUNT, output_type="pt")


def ddim():
    nets = unets()
    pipe = diffusers.DDIMPipeline(nets[-1], diffusers.DDIMScheduler(clip_sample=False))
    return Host(pipe, nets, batch_size=COUNT, output_type="pt", eta=0.5)


def stable_diffusion(scale=1.0, scheduler=None, pipeline=None, **options):
    nets = conditional_unets()
    parts = {"vae": autoencoder(), "text_encoder": None, "tokenizer": None, "safety_checker": None}
    scheduler = scheduler or diffusers.DDIMScheduler(clip_sample=False, steps_offset=1)
    pipe = (pipeline or diffusers.StableDiffusionPipeline)(
        **parts, unet=nets[-1], scheduler=scheduler, feature_extractor=None, requires_safety_checker=False
    )
    embeds = {"prompt_embeds": PROMPT, "negative_prompt_embeds": NEGATIVE}
    return Host(pipe, nets, guidance_scale=scale, output_type="latent", **embeds, **options)


def pooled():
    return {
        "prompt_embeds": PROMPT, "negative_prompt_embeds": NEGATIVE, "pooled_prompt_embeds": PROMPT[:, 0],
        "negative_pooled_prompt_embeds": NEGATIVE[:, 0], "output_type": "latent",
    }  # fmt: skip


def sd3(scale=1.0, **options):
    nets = sd3_transformers()
    encoders = {f"{kind}{i}": None for kind in ("text_encoder", "tokenizer") for i in ("", "_2", "_3")}
    pipe = diffusers.StableDiffusion3Pipeline(
        transformer=nets[-1],
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder(),
        **encoders,
    )
    return Host(pipe, nets, "transformer", guidance_scale=scale, height=8, width=8, **pooled(), **options)


def flux(scale=1.0, dtype=torch.float32):
    nets = [net.to(dtype) for net in flux_transformers()]
    encoders = {f"{kind}{i}": None for kind in ("text_encoder", "tokenizer") for i in ("", "_2")}
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    pipe = diffusers.FluxPipeline(transformer=nets[-1], scheduler=scheduler, vae=autoencoder(), **encoders)
    texts = {name: value.to(dtype) if torch.is_tensor(value) else value for name, value in pooled().items()}
    return Host(pipe, nets, "transformer", true_cfg_scale=scale, height=16, width=16, **texts)


def ladder(host, p=(1.0, 0.4), coins="systematic", correction="hold", share="batch", **options):
    multilevel = mlsde.Multilevel(mlsde.Constant(p), coins=coins, correction=correction, share=share)
    if "steps" not in options:
        options["scheduler"] = host.pipe.scheduler
    return MultilevelDenoiser(host.nets, multilevel=multilevel, **options)
