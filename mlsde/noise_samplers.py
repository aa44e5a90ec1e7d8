"""Noise for samplers written in the manner of k-diffusion: unit normals that belong to one path."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mlsde import checks
from mlsde.brownian import BrownianPath

_ROUNDED = 2.0**-16
"""Part of an end by which a noise level may lie beyond it: samplers take the logarithm and back, in float32."""


class BrownianNoiseSampler:
    """Unit normals ``noise_sampler(sigma, sigma_next)`` that are increments of one Brownian path.

    What a sampler of k-diffusion takes as ``noise_sampler``, and what the ``noise_sampler`` of diffusers'
    ``DPMSolverSDEScheduler`` may be set to. One seed is one path, so a picture stays the same picture when the number
    of steps changes, up to the error of the steps. It returns ``(W(v) - W(u)) / sqrt(|v - u|)`` with ``u, v`` the
    transforms of ``sigma, sigma_next``, so over a divided interval the noises add up to that of the whole, each times
    its ``sqrt(|v - u|)``.

    Args:
        x: the state, shape ``(samples, ...)``, whose shape, dtype and device the noise takes.
        sigma_min, sigma_max: the interval of noise levels, in either order; both ends belong to it. The path depends
            on it, so keep it where the steps change.
        seed: one integer for the batch, or one per sample, so that a batch can be split.
        transform: a strictly monotone function of the noise level, given as a 0-d float64 tensor, in whose values the
            path runs; by default the noise level itself.

    Raises:
        TypeError, ValueError: naming the argument; at a call, for noise levels that are equal or outside the interval.

    Example:
        Euler ancestral, for a denoiser of normal data of variance 1; ``noise_sampler`` is all that is not k-diffusion's
        own way:

        >>> import torch
        >>> def sample_euler_ancestral(model, x, sigmas, noise_sampler):
        ...     for sigma, after in zip(sigmas[:-1], sigmas[1:]):
        ...         up = after * (sigma**2 - after**2) ** 0.5 / sigma
        ...         down = after**2 / sigma
        ...         x = x + (down - sigma) * (x - model(x, sigma)) / sigma
        ...         x = x + up * noise_sampler(sigma, after) if after > 0 else x
        ...     return x
        >>> x = 10.0 * torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
        >>> noise_sampler = BrownianNoiseSampler(x, sigma_min=0.0, sigma_max=10.0, seed=0)
        >>> denoiser = lambda x, sigma: x / (1 + sigma**2)
        >>> few, many = (
        ...     sample_euler_ancestral(denoiser, x, torch.linspace(10.0, 0.0, steps + 1), noise_sampler)
        ...     for steps in (500, 1000)
        ... )
        >>> bool((few - many).abs().max() < 0.1)
        True
    """

    def __init__(
        self,
        x: Tensor,
        sigma_min: float,
        sigma_max: float,
        seed: int | Sequence[int] = 0,
        transform: Callable[[Any], Any] | None = None,
    ) -> None:
        checks.state("x", x)
        if transform is not None:
            checks.callable_as("transform", "transform(sigma)", transform)
        self._transform, self._dtype = transform, x.dtype
        self.sigma_min, self.sigma_max = sorted(
            checks.finite_number(name, end) for name, end in (("sigma_min", sigma_min), ("sigma_max", sigma_max))
        )
        ends = self._time(self.sigma_min), self._time(self.sigma_max)
        if ends[0] == ends[1]:
            raise ValueError(
                "sigma_min and sigma_max must be two different noise levels, also when transformed, "
                f"got {self.sigma_min} and {self.sigma_max}."
            )
        self.path = BrownianPath(*ends, like=x, seed=seed)

    def __repr__(self) -> str:
        return f"BrownianNoiseSampler(sigma_min={self.sigma_min}, sigma_max={self.sigma_max}, path={self.path})"

    def __call__(self, sigma: float | Tensor, sigma_next: float | Tensor, /) -> Tensor:
        """Return the unit normal of the step from ``sigma`` to ``sigma_next``, like ``x``."""
        u, v = self._time(sigma), self._time(sigma_next)
        if u == v:
            raise ValueError(f"sigma and sigma_next must be two different noise levels, got {float(sigma)} twice.")
        noise = self.path(u, v) / math.sqrt(abs(v - u))
        return noise if noise.dtype == self._dtype else noise.to(self._dtype)

    def _time(self, sigma: float | Tensor) -> float:
        """Where a noise level lies on the path; ends that were rounded on the way are those ends."""
        level = checks.finite_number("sigma", sigma)
        low, high = (_ROUNDED * abs(end) for end in (self.sigma_min, self.sigma_max))
        if not self.sigma_min - low <= level <= self.sigma_max + high:
            raise ValueError(
                f"sigma={level} lies outside [sigma_min, sigma_max] = [{self.sigma_min}, {self.sigma_max}]."
            )
        level = min(max(level, self.sigma_min), self.sigma_max)
        if self._transform is None:
            return level
        return checks.finite_number("transform(sigma)", self._transform(torch.tensor(level, dtype=torch.float64)))
