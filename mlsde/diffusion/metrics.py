"""Distances between samples: along the path, and between distributions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mlsde import checks


def rmse(a: Tensor, b: Tensor) -> float:
    """Root mean square of ``a - b`` over all samples and components.

    Args:
        a: of any shape.
        b: of the same.

    Returns:
        The root mean square.

    Raises:
        ValueError: if the two are not of one shape.

    Example:
        >>> rmse(torch.ones(2, 3), torch.zeros(2, 3))
        1.0
    """
    if a.shape != b.shape:
        raise ValueError(f"a and b must be of one shape, got {tuple(a.shape)} and {tuple(b.shape)}.")
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

    Returns:
        The distance.

    Raises:
        ValueError: for samples of other shapes.

    Example:
        >>> a = torch.tensor([[0.0], [2.0]])
        >>> round(sliced_wasserstein(a, a + 3.0), 6)
        3.0
    """
    _same_components(a, b)
    checks.positive_integer("projections", projections)
    generator = torch.Generator().manual_seed(checks.torch_seed(seed))
    directions = torch.randn(a.shape[1], projections, generator=generator).to(a)
    directions = directions / directions.norm(dim=0)
    levels = (torch.arange(512, dtype=a.dtype, device=a.device) + 0.5) / 512
    # torch.quantile takes 2^24 numbers at once
    parts = torch.split(directions, max(1, 2**24 // max(len(a), len(b))), dim=1)
    quantiles = [
        torch.cat([torch.quantile(sample @ part, levels, dim=0) for part in parts], dim=1) for sample in (a, b)
    ]
    return float((quantiles[0] - quantiles[1]).square().mean().sqrt())


def kernel_mmd(a: Tensor, b: Tensor, *, degree: int = 3, block: int = 1000) -> float:
    """Unbiased squared maximum mean discrepancy of two samples, shapes ``(n, d)`` and ``(m, d)``; may be negative.

    The kernel is ``(x . y / d + 1)^degree``, whose third degree is that of the kernel inception distance; here on
    whatever features are given. Sources: A. Gretton et al., J. Mach. Learn. Res. 13 (2012), eq. 3; M. Bińkowski et
    al., arXiv 1801.01401.

    Args:
        a: the first sample.
        b: the second.
        degree: of the kernel.
        block: rows of the kernel's matrix at a time.

    Returns:
        The squared discrepancy.

    Raises:
        ValueError: for samples of other shapes, or of one row.

    Example:
        >>> a = torch.tensor([[0.0], [2.0]])
        >>> kernel_mmd(a, a) < 0
        True
    """
    checks.positive_integer("degree", degree)
    checks.positive_integer("block", block)
    _same_components(a, b, least=2)

    def mean(x: Tensor, y: Tensor, itself: bool) -> float:
        total = 0.0
        for rows in torch.split(x.double(), block):
            total += float((rows @ y.double().T / x.shape[1] + 1.0).pow(degree).sum())
        if not itself:
            return total / (len(x) * len(y))
        diagonal = float((x.double().square().sum(1) / x.shape[1] + 1.0).pow(degree).sum())
        return (total - diagonal) / (len(x) * (len(x) - 1))

    return mean(a, a, True) + mean(b, b, True) - 2.0 * mean(a, b, False)


def frechet(a: Tensor, b: Tensor) -> float:
    """Squared Fréchet distance of the normal distributions fitted to two samples, shapes ``(n, d)`` and ``(m, d)``.

    ``|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a^(1/2) C_b C_a^(1/2))^(1/2))``. Its estimate is biased upwards by finite
    samples: compare at equal numbers. On features of a net of one's own it is not the "FID" of the literature. Source:
    D. C. Dowson & B. V. Landau, J. Multivariate Anal. 12 (1982), doi:10.1016/0047-259X(82)90077-X.

    Args:
        a: the first sample.
        b: the second.

    Returns:
        The squared distance.

    Raises:
        ValueError: for samples of other shapes, or of one row.

    Example:
        >>> a = torch.tensor([[0.0], [2.0]])
        >>> round(frechet(a, a + 3.0), 6)
        9.0
    """
    _same_components(a, b, least=2)
    centres = [sample.double().mean(0) for sample in (a, b)]
    roots = [(x.double() - m) / math.sqrt(len(x) - 1) for x, m in zip((a, b), centres, strict=True)]
    # the singular values of A B^T, where C_a = A^T A and C_b = B^T B, have the sum that the trace asks for
    r_a, r_b = (torch.linalg.qr(root, mode="r").R for root in roots)
    cross = torch.linalg.svdvals(r_a @ r_b.T).sum()
    spread = roots[0].square().sum() + roots[1].square().sum()
    return float((centres[0] - centres[1]).square().sum() + spread - 2.0 * cross)


def _same_components(a: Tensor, b: Tensor, least: int = 1) -> None:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < least:
        came = f"got {tuple(a.shape)} and {tuple(b.shape)}"
        raise ValueError(f"samples must have shapes (n, d) and (m, d), with {least} or more rows, {came}.")
