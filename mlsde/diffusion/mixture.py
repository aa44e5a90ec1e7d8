"""Gaussian mixtures, whose denoiser under a diffusion is known exactly and costs one pass over the components."""

from __future__ import annotations

import torch
from torch import Tensor

from mlsde import checks
from mlsde.diffusion.processes import Process


class GaussianMixture:
    """Mixture ``sum_j w_j N(c_j, diag(v))`` of components that share a diagonal covariance.

    Called as ``mixture(t, y)`` it returns the exact prediction of the noise in ``y`` under the process,
    ``-sigma(t) grad log p_t(y)``, where ``p_t = sum_j w_j N(alpha c_j, alpha^2 v + sigma^2)``.

    Args:
        centres: shape ``(components, dimensions)``.
        variances: ``v``, shape ``(dimensions,)``, above zero.
        weights: shape ``(components,)``, above zero; equal by default.
        process: the diffusion.

    Raises:
        ValueError: if the shapes do not fit, or a variance or weight is not above zero.

    Example:
        >>> from mlsde.diffusion import VariancePreserving
        >>> GaussianMixture(torch.zeros(3, 2), torch.ones(2), process=VariancePreserving())
        GaussianMixture(3 components in 2 dimensions)
    """

    def __init__(self, centres: Tensor, variances: Tensor, weights: Tensor | None = None, *, process: Process) -> None:
        weights = torch.ones_like(centres[:, 0]) if weights is None else weights
        if centres.ndim != 2 or variances.shape != centres.shape[1:] or weights.shape != centres.shape[:1]:
            raise ValueError(
                f"centres, variances and weights must have shapes (n, d), (d,) and (n,), got {tuple(centres.shape)}, "
                f"{tuple(variances.shape)} and {tuple(weights.shape)}."
            )
        if not bool((variances > 0).all()) or not bool((weights > 0).all()):
            raise ValueError("variances and weights must be above zero.")
        self.centres, self.variances, self.process = centres, variances, process
        self._squares = centres**2
        self.log_weights = torch.log(weights / weights.sum())

    def __repr__(self) -> str:
        return f"GaussianMixture({self.centres.shape[0]} components in {self.centres.shape[1]} dimensions)"

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        """Noise in ``y`` at time ``t``, shape ``(samples, dimensions)``."""
        checks.vectors("y", y, self.centres.shape[1])
        alpha, sigma = self.process.alpha(float(t)), self.process.sigma(float(t))
        precision = 1.0 / (alpha**2 * self.variances + sigma**2)
        # log w_j - 1/2 |y - alpha c_j|^2 in the metric of the precision, up to what all j share
        shifted = self.log_weights - 0.5 * alpha**2 * (self._squares @ precision)
        logits = torch.addmm(shifted, y * precision, self.centres.T, alpha=alpha)
        mean = torch.softmax(logits, dim=1) @ self.centres
        return sigma * precision * (y - alpha * mean)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw ``count`` clean samples, shape ``(count, dimensions)``."""
        which = torch.multinomial(self.log_weights.exp(), count, replacement=True, generator=generator)
        noise = torch.randn(
            (count, self.centres.shape[1]), generator=generator, device=self.centres.device, dtype=self.centres.dtype
        )
        return self.centres[which] + self.variances.sqrt() * noise
