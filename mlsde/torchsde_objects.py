"""Equations of torchsde, read: what their methods mean here. Nothing of torchsde is imported.

An object of torchsde has a ``noise_type``, an ``sde_type`` and some of five methods: the drift ``f``, the diffusion
``g``, both (``f_and_g``), and the product of the diffusion with a vector (``g_prod``, ``f_and_g_prod``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mlsde import checks
from mlsde.hierarchy import Level

OURS = {"diagonal": "diagonal", "additive": "general", "scalar": "scalar", "general": "general"}
"""Our noise for each noise type: torchsde returns a matrix for additive noise too."""


@dataclass(frozen=True)
class TorchsdeDiffusion:
    """The diffusion of a torchsde object, in the shape that :class:`mlsde.SDE` wants.

    Attributes:
        g: ``g(t, y)`` as torchsde has it: like ``y`` for diagonal noise, else ``(samples, size, motions)``.
        noise_type: of the object.
    """

    g: Callable[[Tensor, Tensor], Tensor]
    noise_type: str

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        """Evaluate; the one column of scalar noise is returned like ``y``."""
        value = self.g(t, y)
        if self.noise_type != "scalar" or not isinstance(value, Tensor):
            return value
        if value.ndim != y.ndim + 1 or value.shape[-1] != 1:
            raise ValueError(f"scalar noise of torchsde has g of shape y.shape + (1,), got {tuple(value.shape)}.")
        return value.squeeze(-1)


def drifts(sde: Any) -> list[Level]:
    """Drifts of a torchsde object, cheapest first: ``f``, which may be a list of them, or the first of ``f_and_g``.

    Raises:
        TypeError: if it has no drift.
    """
    f = getattr(sde, "f", None)
    if f is not None:
        return list(f) if isinstance(f, (list, tuple, torch.nn.ModuleList)) else [f]
    if hasattr(sde, "f_and_g"):
        return [lambda t, y: sde.f_and_g(t, y)[0]]
    if hasattr(sde, "f_and_g_prod"):
        raise TypeError(
            f"the drift of {type(sde).__name__} comes with f_and_g_prod alone, which wants a vector at each call; "
            "give the object a method f or f_and_g."
        )
    raise TypeError(f"a torchsde object needs a drift, f or f_and_g, which {type(sde).__name__} lacks.")


def diffusion(sde: Any, motions: int | None) -> TorchsdeDiffusion:
    """Diffusion of a torchsde object: ``g``, the second of ``f_and_g``, or ``g_prod`` of unit vectors.

    Args:
        sde: the object.
        motions: number of Brownian motions, which ``g_prod`` alone does not tell for additive and general noise.

    Raises:
        TypeError, ValueError: if it has no diffusion, or the number of motions is missing.
    """
    noise_type = checks.one_of("noise_type", getattr(sde, "noise_type", None), tuple(OURS))
    if getattr(sde, "g", None) is not None:
        return TorchsdeDiffusion(sde.g, noise_type)
    if hasattr(sde, "f_and_g"):
        return TorchsdeDiffusion(lambda t, y: sde.f_and_g(t, y)[1], noise_type)
    if not hasattr(sde, "g_prod"):
        raise TypeError(f"a torchsde object needs a diffusion, g, f_and_g or g_prod, which {type(sde).__name__} lacks.")
    if noise_type == "diagonal":
        return TorchsdeDiffusion(lambda t, y: sde.g_prod(t, y, torch.ones_like(y)), noise_type)
    if noise_type != "scalar" and motions is None:
        raise ValueError(
            f"motions must be the number of Brownian motions where {noise_type} noise has g_prod alone, got None."
        )
    count = 1 if noise_type == "scalar" else checks.positive_integer("motions", motions)
    return TorchsdeDiffusion(lambda t, y: _columns(sde.g_prod, count, t, y), noise_type)


def _columns(g_prod: Callable[[Tensor, Tensor, Tensor], Tensor], motions: int, t: Tensor, y: Tensor) -> Tensor:
    """The matrix ``g``, shape ``y.shape + (motions,)``, a column for each unit vector."""
    units = torch.eye(motions, dtype=y.dtype, device=y.device)
    return torch.stack([g_prod(t, y, unit.expand(len(y), motions)) for unit in units], dim=-1)
