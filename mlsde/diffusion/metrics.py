"""Distances between samples: along the path, and between distributions."""

from __future__ import annotations

import torch
from torch import Tensor


def rmse(a: Tensor, b: Tensor) -> float:
    """Root mean square of ``a - b`` over all samples and components."""
    return float((a - b).square().mean().sqrt())


def sliced_wasserstein(a: Tensor, b: Tensor, *, projections: int = 256, seed: int = 0) -> float:
    """Sliced 2-Wasserstein distance of two samples, shapes ``(n, d)`` and ``(m, d)``.

    The mean over random directions of the squared distance of the projected samples' quantiles, then the root. Source:
    N. Bonneel et al., J. Math. Imaging Vis. 51 (2015), doi:10.1007/s10851-014-0506-3.

    Args:
        a: the first sample.
        b: the second.
        projections: number of random directions.
        seed: seed of the directions.
    """
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(a.shape[1], projections, generator=generator).to(a)
    directions = directions / directions.norm(dim=0)
    levels = (torch.arange(512, dtype=a.dtype, device=a.device) + 0.5) / 512
    quantiles = [torch.quantile(sample @ directions, levels, dim=0) for sample in (a, b)]
    return float((quantiles[0] - quantiles[1]).square().mean().sqrt())
