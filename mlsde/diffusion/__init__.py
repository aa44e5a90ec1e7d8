"""Diffusion processes, their denoisers as ladders, and the samplers that people run.

>>> from mlsde.diffusion import Denoiser, RectifiedFlow, denoiser_ladder
>>> process, small, large = RectifiedFlow(), lambda x, t: 0.5 * x, lambda x, t: 0.4 * x
>>> ladder = denoiser_ladder([Denoiser(small, "flow"), Denoiser(large, "flow")], process=process, costs=[1.0, 10.0])
>>> process.reverse(ladder)
SDE(DriftHierarchy(2 levels, costs: 1, 10), additive noise, ito, linear part)

What needs the diffusers library is loaded when it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mlsde import extras
from mlsde.diffusion.denoisers import Denoiser, denoiser_ladder, guided
from mlsde.diffusion.digits import DigitsLadder, digits_ladder
from mlsde.diffusion.linearity import Linearity, affine_in_output
from mlsde.diffusion.metrics import frechet, kernel_mmd, rmse, sliced_wasserstein
from mlsde.diffusion.mixture import GaussianMixture
from mlsde.diffusion.processes import Process, RectifiedFlow, VarianceExploding
from mlsde.diffusion.samplers import sample
from mlsde.diffusion.variance_preserving import (
    CosineVariancePreserving,
    DiscreteVariancePreserving,
    VariancePreserving,
)

if TYPE_CHECKING:
    from mlsde.diffusion.adapter import MultilevelDenoiser
    from mlsde.diffusion.data import Images, load_images
    from mlsde.diffusion.ladders import TrainedLadder, load_ladder, save_ladder
    from mlsde.diffusion.nets import Architecture, PatchUNet, unet_ladder
    from mlsde.diffusion.train import train_ladder
    from mlsde.diffusion.training import Settings, Times, Training

_LATER = {
    "MultilevelDenoiser": "adapter",
    "Images": "data",
    "load_images": "data",
    "TrainedLadder": "ladders",
    "load_ladder": "ladders",
    "save_ladder": "ladders",
    "Architecture": "nets",
    "PatchUNet": "nets",
    "unet_ladder": "nets",
    "train_ladder": "train",
    "Settings": "training",
    "Times": "training",
    "Training": "training",
}

__all__ = [
    "Architecture",
    "CosineVariancePreserving",
    "Denoiser",
    "DigitsLadder",
    "DiscreteVariancePreserving",
    "GaussianMixture",
    "Images",
    "Linearity",
    "MultilevelDenoiser",
    "PatchUNet",
    "Process",
    "RectifiedFlow",
    "Settings",
    "Times",
    "TrainedLadder",
    "Training",
    "VarianceExploding",
    "VariancePreserving",
    "affine_in_output",
    "denoiser_ladder",
    "digits_ladder",
    "frechet",
    "guided",
    "kernel_mmd",
    "load_images",
    "load_ladder",
    "rmse",
    "sample",
    "save_ladder",
    "sliced_wasserstein",
    "train_ladder",
    "unet_ladder",
]


def __getattr__(name: str) -> Any:
    """Load what needs diffusers."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        found = getattr(import_module(f"mlsde.diffusion.{_LATER[name]}"), name)
    except ModuleNotFoundError as error:
        raise extras.missing(name, error) from error
    globals()[name] = found
    return found
