"""Handwritten digits as a diffusion that needs no training: the score of smoothed data is known exactly.

The 1,797 digits of scikit-learn (8 x 8 pixels, E. Alpaydin & C. Kaynak, UCI repository, doi:10.24432/C50P49), each
smoothed by a small Gaussian shaped like the data's covariance, are a Gaussian mixture; its exact denoiser is one pass
over the data. Cluster centres give the cheaper levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mlsde import checks, extras
from mlsde.diffusion.mixture import GaussianMixture
from mlsde.diffusion.variance_preserving import VariancePreserving
from mlsde.hierarchy import DriftHierarchy
from mlsde.showing import as_call


@dataclass(frozen=True)
class DigitsLadder:
    """The digits as a ladder; states are principal components, a rotation of the 64 pixels.

    Attributes:
        drift: denoisers, cheapest first; the cost of each is its number of components.
        process: the diffusion they belong to.
        data: the smoothed data itself: the top level as a mixture.
        mean, basis: ``pixels = mean + state @ basis``, pixels in [-1, 1].
    """

    drift: DriftHierarchy
    process: VariancePreserving
    data: GaussianMixture
    mean: Tensor
    basis: Tensor

    __repr__ = as_call

    def images(self, states: Tensor) -> Tensor:
        """Turn states ``(samples, 64)`` into pixels ``(samples, 8, 8)``."""
        return (self.mean + states @ self.basis).view(-1, 8, 8)


def digits_ladder(
    *, clusters: Sequence[int] = (28, 224), smoothing: float = 0.35, pixel_noise: float = 0.05, seed: int = 0
) -> DigitsLadder:
    """Make the ladder: one mixture per number of k-means clusters, and on top one component per digit.

    Args:
        clusters: numbers of clusters of the cheaper levels, increasing.
        smoothing: standard deviation of the smoothing in units of the data's own, along each principal direction.
        pixel_noise: standard deviation of what is added in every direction, pixels spanning [-1, 1].
        seed: seed of k-means.

    Returns:
        The ladder, its process, and what turns states into images.

    Raises:
        ValueError: for numbers of clusters that do not increase, or deviations that are not above zero.
        ModuleNotFoundError: without scikit-learn, with the command that installs it.
    """
    for name, value in (("smoothing", smoothing), ("pixel_noise", pixel_noise)):
        checks.positive_number(name, value)
    counts = [checks.positive_integer("clusters", count) for count in clusters]
    if counts != sorted(set(counts)) or counts[-1:] > [1796]:
        raise ValueError(f"clusters must increase and stay below the 1797 digits, got {list(clusters)}.")
    try:
        from sklearn.cluster import KMeans  # noqa: PLC0415
        from sklearn.datasets import load_digits  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise extras.missing("the ladder of digits", error) from error
    pixels = load_digits().data / 8.0 - 1.0
    mean = pixels.mean(axis=0)
    _, _, basis = np.linalg.svd(pixels - mean, full_matrices=False)
    states = (pixels - mean) @ basis.T
    kernel = smoothing**2 * states.var(axis=0) + pixel_noise**2
    process = VariancePreserving()
    mixtures = []
    for count in clusters:
        found = KMeans(count, n_init=1, random_state=seed).fit(states)
        within = ((states - found.cluster_centers_[found.labels_]) ** 2).mean(axis=0)
        members = np.bincount(found.labels_, minlength=count)
        mixtures.append(_mixture(found.cluster_centers_, kernel + within, members, process))
    top = _mixture(states, kernel, np.ones(len(states)), process)
    costs = [float(count) for count in (*clusters, len(states))]
    names = [f"{count} clusters" for count in clusters] + [f"all {len(states)} digits"]
    drift = DriftHierarchy([*mixtures, top], costs, names=names)
    return DigitsLadder(drift, process, top, _float(mean), _float(basis))


def _mixture(
    centres: np.ndarray, variances: np.ndarray, weights: np.ndarray, process: VariancePreserving
) -> GaussianMixture:
    return GaussianMixture(_float(centres), _float(variances), _float(weights), process=process)


def _float(values: np.ndarray) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float32)
