"""Diffusions whose data are a Gaussian mixture: the score is exact, and its clusters make the cheap levels."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch

from mlsde import checks, extras
from mlsde.diffusion.mixture import GaussianMixture
from mlsde.diffusion.variance_preserving import VariancePreserving
from mlsde.hierarchy import DriftHierarchy
from mlsde.problems.ladder import LadderProblem
from mlsde.problems.science import normal_start


def gaussian_mixture(
    clusters: Sequence[int] = (8, 64),
    components: int = 512,
    dimension: int = 8,
    *,
    families: Sequence[int] = (8, 64),
    decay: float = 0.5,
    width: float = 0.2,
    churn: float = 0.0,
    end: float = 1e-3,
    process: VariancePreserving | None = None,
    seed: int = 0,
) -> LadderProblem:
    """Reverse-time diffusion of a Gaussian mixture, from noise at ``t = 1`` to samples at ``t = end``.

    The centres of the data are the leaves of a tree: those of ``families[0]`` families are standard normal, each
    child lies ``decay`` times a normal from its parent, and so on down to the ``components``, which are smoothed by
    ``width``; the whole is scaled to a mean square of 1 per component. The top level knows them all; the level of
    ``n`` clusters is the mixture of the ``n`` centres that k-means finds, whose variances are enlarged by the mean
    square within a cluster. The price of a level is the number of its components. Levels predict the noise in the
    state and the rest of the drift is linear in it, so ``method="exponential"`` without churn is DDIM. There is no
    reference but a fine run of the top level. States are float64.

    Measured, ``price_exponent(costs[:-1], level_errors(problem)[:-1])`` of :mod:`mlsde.problems.science`: 3.4 for the
    default (over seeds 0 … 15 the median is 3.5, between 2.6 and 4.7), and above 20 for ``families=()``. The levels
    agree at high noise and differ most where it has fallen to the distances between the clusters.

    Args:
        clusters: numbers of clusters of the cheaper levels, increasing and below ``components``; may be empty.
        components: of the mixture.
        dimension: ``d``.
        families: numbers of nodes of the tree's generations before the last, increasing and below ``components``; an
            empty sequence makes a cloud without structure, which clusters approximate badly.
        decay: of the spread from one generation to the next, above zero.
        width: standard deviation of a component before the scaling, above zero.
        churn: 0 for the probability-flow ODE, 1 for the reverse-time SDE; not negative.
        end: the time at which it stops, in (0, 1); the drift grows without bound towards 0 as the width does to 0.
        process: the diffusion; the default one of :class:`VariancePreserving` if left out.
        seed: of the centres and of k-means.

    Raises:
        TypeError, ValueError: naming the argument.
        ModuleNotFoundError: without scipy, if there are clusters, with the command that installs it.
    """
    count, d = checks.positive_integer("components", components), checks.positive_integer("dimension", dimension)
    counts, nodes = _below("clusters", clusters, count), _below("families", families, count)
    if not 0.0 < checks.finite_number("end", end) < 1.0:
        raise ValueError(f"end must lie between 0 and 1, got {end}.")
    width, decay = checks.squarable("width", width), checks.squarable("decay", decay)
    rng = np.random.default_rng(checks.one_seed(seed))
    centres = _tree(rng, [*nodes, count], d, checks.positive_number("decay", decay))
    scale = 1.0 / np.sqrt((centres**2).mean() + checks.positive_number("width", width) ** 2)
    centres, variance = scale * centres, (scale * width) ** 2
    process = VariancePreserving() if process is None else process
    if not isinstance(process, VariancePreserving):
        raise TypeError(f"process must be a VariancePreserving, got {type(process).__name__}.")
    parts = [_clustered(centres, number, seed) for number in counts]
    parts.append((centres, np.zeros(d), np.ones(count)))
    mixtures = [_mixture(places, variance + within, weights, process) for places, within, weights in parts]
    costs = [float(len(mixture.centres)) for mixture in mixtures]
    names = [f"{cost:g} clusters" for cost in costs[:-1]] + [f"all {count} components"]
    sde = process.reverse(DriftHierarchy(mixtures, costs, names=names), churn=churn)
    return LadderProblem(f"Gaussian mixture, churn {churn:g}", sde, normal_start(d), (1.0, float(end)))


def _below(name: str, values: Sequence[int], most: int) -> list[int]:
    counts = [checks.positive_integer(name, value) for value in checks.items(name, values, "integers")]
    if counts != sorted(set(counts)) or counts[-1:] >= [most]:
        raise ValueError(f"{name} must increase and stay below the {most} components, got {counts}.")
    return counts


def _tree(rng: np.random.Generator, nodes: Sequence[int], dimension: int, decay: float) -> np.ndarray:
    """Leaves of a tree with so many nodes in each generation, shape ``(nodes[-1], dimension)``."""
    places = np.zeros((1, dimension))
    for generation, number in enumerate(nodes):
        parents = np.arange(number) * len(places) // number
        places = places[parents] + decay**generation * rng.standard_normal((number, dimension))
    return places


def _mixture(
    centres: np.ndarray, variances: np.ndarray, weights: np.ndarray, process: VariancePreserving
) -> GaussianMixture:
    return GaussianMixture(*map(torch.as_tensor, (centres, variances, weights)), process=process)


def _clustered(centres: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means, mean square within along each axis and sizes of the clusters; those that come out empty are left out."""
    try:
        from scipy.cluster.vq import kmeans2  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise extras.missing("clustering", error) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that one is empty
        _, found = kmeans2(centres, count, iter=50, minit="++", seed=seed)
    _, labels, sizes = np.unique(found, return_inverse=True, return_counts=True)
    means = np.stack([centres[labels == cluster].mean(axis=0) for cluster in range(len(sizes))])
    return means, ((centres - means[labels]) ** 2).mean(axis=0), sizes.astype(np.float64)
