"""Denoisers of increasing size: UNets of the diffusers library, that may work on patches instead of pixels.

A net on patches of 2 x 2 or 4 x 4 pixels sees a smaller image of more channels. It does the same arithmetic in fewer,
larger pieces, so that a cheap level is cheap in seconds too and not in floating-point operations alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle
from torch.utils.flop_counter import FlopCounterMode

from mlsde import checks, extras

try:
    from diffusers import ConfigMixin, ModelMixin, UNet2DModel
    from diffusers.configuration_utils import register_to_config
    from diffusers.models.unets.unet_2d import UNet2DOutput
except ModuleNotFoundError as error:
    raise extras.missing("a trained ladder", error) from error


class PatchUNet(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """UNet over patches of pixels, called as diffusers' ``UNet2DModel`` is.

    Args:
        sample_size: height and width of an image in pixels, a multiple of ``patch * 2^(len(widths) - 1)``.
        in_channels: channels of the image; the output has as many.
        patch: height and width of a patch; 1 is a UNet over pixels.
        widths: channels at each resolution, the finest first, each a multiple of ``groups``; with one width the net
            is a chain of residual blocks.
        layers_per_block: residual blocks per resolution on the way down, one more on the way up.
        groups: groups of the normalisation.
        classes: number of class labels for conditioning; ``None`` for none.

    Raises:
        ValueError: if the image is no whole number of patches at every resolution, or a width of groups.
    """

    config_name = "config.json"

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        sample_size: int = 32,
        in_channels: int = 1,
        patch: int = 1,
        widths: Sequence[int] = (32,),
        layers_per_block: int = 1,
        groups: int = 8,
        classes: int | None = None,
    ) -> None:
        super().__init__()
        sizes = {"sample_size": sample_size, "in_channels": in_channels, "patch": patch}
        for name, count in (sizes | {"layers_per_block": layers_per_block, "groups": groups}).items():
            checks.positive_integer(name, count)
        if not widths or any(width < 1 or width % groups for width in widths):
            raise ValueError(f"widths must be one or more multiples of groups={groups}, got {list(widths)}.")
        if sample_size % (patch * 2 ** (len(widths) - 1)):
            raise ValueError(
                f"sample_size={sample_size} must be a multiple of {patch * 2 ** (len(widths) - 1)} for patch={patch} "
                f"and {len(widths)} widths; pad the images or take fewer widths."
            )
        self.patch, stages = patch, len(widths)
        self.unet = UNet2DModel(
            sample_size=sample_size // patch,
            in_channels=in_channels * patch**2,
            out_channels=in_channels * patch**2,
            block_out_channels=tuple(widths),
            layers_per_block=layers_per_block,
            down_block_types=("DownBlock2D",) * stages,
            up_block_types=("UpBlock2D",) * stages,
            add_attention=False,
            norm_num_groups=groups,
            num_class_embeds=classes,
        )

    def forward(
        self, sample: Tensor, timestep: Tensor | float, class_labels: Tensor | None = None, return_dict: bool = True
    ) -> UNet2DOutput | tuple[Tensor]:
        """Predict for noisy images.

        Args:
            sample: shape ``(samples, in_channels, sample_size, sample_size)``.
            timestep: one for all samples, or shape ``(samples,)``.
            class_labels: shape ``(samples,)``, for a net with classes.
            return_dict: whether to return an object with ``.sample`` or a tuple.
        """
        patches = pixel_unshuffle(sample, self.patch) if self.patch > 1 else sample
        out = self.unet(patches, timestep, class_labels).sample
        out = pixel_shuffle(out, self.patch) if self.patch > 1 else out
        return UNet2DOutput(sample=out) if return_dict else (out,)


@dataclass(frozen=True)
class Architecture:
    """Size of one level; see :class:`PatchUNet`.

    Attributes:
        patch: height and width of a patch.
        widths: channels at each resolution, the finest first, multiples of 8.
        layers_per_block: residual blocks per resolution.
    """

    patch: int
    widths: tuple[int, ...]
    layers_per_block: int = 1


LADDERS: dict[str, tuple[int, int, tuple[Architecture, ...]]] = {
    "digits": (8, 1, (Architecture(2, (16,)), Architecture(1, (24,)), Architecture(1, (48, 96)))),
    "fashion": (32, 1, (Architecture(4, (16,)), Architecture(4, (32, 64)), Architecture(2, (64, 96, 128)))),
    "colour": (
        64,
        3,
        (
            Architecture(8, (32,)),
            Architecture(4, (64, 96)),
            Architecture(2, (96, 192, 256)),
            Architecture(1, (128, 256, 384, 512), 2),
        ),
    ),
}
"""Ladders by name: image size, channels, and levels whose arithmetic grows by a factor of 8 or more (7.3 and 12.4 in
``"fashion"``)."""


def unet_ladder(
    sample_size: int = 32,
    channels: int = 1,
    architectures: Sequence[Architecture] = LADDERS["fashion"][2],
    *,
    classes: int | None = None,
    seed: int = 0,
) -> list[PatchUNet]:
    """Make untrained denoisers, cheapest first.

    Args:
        sample_size: height and width of the images.
        channels: of the images.
        architectures: sizes of the levels.
        classes: number of class labels; ``None`` for none.
        seed: of the initial weights.

    Returns:
        The nets.

    Raises:
        ValueError: if the sizes do not fit the images, or a level takes no more arithmetic than the one before.

    Example:
        >>> [net.config.patch for net in unet_ladder(sample_size=16)]
        [4, 4, 2]
    """
    checks.positive_integer("sample_size", sample_size)
    checks.positive_integer("channels", channels)
    if not architectures:
        raise ValueError("architectures must hold at least one level, got none.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(checks.torch_seed(seed))
        models = [
            PatchUNet(sample_size, channels, one.patch, one.widths, one.layers_per_block, classes=classes).eval()
            for one in architectures
        ]
    prices = [megaflops(model) for model in models]
    for k, (below, here) in enumerate(itertools.pairwise(prices), start=2):
        if here <= below:
            raise ValueError(
                f"architectures must grow, but level {k} takes {here:.3g} MFLOP and level {k - 1} {below:.3g}."
            )
    return models


def megaflops(model: Any) -> float:
    """Millions of floating-point operations of one evaluation for one image, by torch's counter.

    Args:
        model: a denoiser with ``config.in_channels`` and ``config.sample_size``.
    """
    config, like = model.config, next(model.parameters())
    image = torch.zeros(1, config.in_channels, config.sample_size, config.sample_size).to(like)
    labels = [torch.zeros(1, dtype=torch.long, device=like.device)] if getattr(config, "classes", None) else []
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image, torch.zeros(1).to(like), *labels)
    return counter.get_total_flops() / 1e6
