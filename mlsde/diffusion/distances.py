"""How far the drawn images are from the data: distances between distributions, for the ways of a benchmark."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlsde import checks
from mlsde.diffusion.arena import Arena, Way
from mlsde.diffusion.classifier import Classifier
from mlsde.diffusion.data import Images, as_floats
from mlsde.diffusion.ladders import TrainedLadder
from mlsde.diffusion.metrics import frechet, kernel_mmd, sliced_wasserstein

_BATCH = 100


@dataclass(frozen=True)
class Distances:
    """Distances of some images to held-out data.

    Attributes:
        name: of what drew them.
        count: images.
        cost: per image, in evaluations of the top level; 0 for the data themselves.
        sliced_wasserstein: between pixels in [-1, 1].
        kernel_mmd: squared, between features.
        frechet: squared, between features; of this project's own classifier, so not the literature's "FID".
    """

    name: str
    count: int
    cost: float
    sliced_wasserstein: float
    kernel_mmd: float
    frechet: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dict(self.__dict__)


def distance(name: str, images: Tensor, cost: float, data: Tensor, classifier: Classifier) -> Distances:
    """Distances of images to data, both floats in [-1, 1], shapes ``(n, c, h, w)`` and ``(m, c, h, w)``."""
    features = [classifier.features_of(part) for part in (images, data)]
    pixels = [part.flatten(1) for part in (images, data)]
    return Distances(
        name, len(images), cost, sliced_wasserstein(*pixels), kernel_mmd(*features), frechet(*features)
    )  # fmt: skip


def distances(
    ladder: TrainedLadder,
    images: Images,
    classifier: Classifier,
    ways: Sequence[tuple[str, Way]],
    *,
    count: int = 5000,
    churn: float = 0.0,
    seed: int = 0,
    report: Callable[[str], None] = lambda _line: None,
) -> list[Distances]:
    """Draw so many images in each way, from the same noise, and compare them with as many that were held out.

    Args:
        ladder: the nets.
        images: the data; its training part, as many, is compared first: what perfection shows.
        classifier: whose features are compared.
        ways: names and ways.
        count: images of each; with 1000 a Fréchet distance does not see what 5000 show.
        churn: of the equation.
        seed: of noise and coins.
        report: called with a line as each way is done.
    """
    checks.positive_integer("count", count)
    data = as_floats(images.held_out[:count])
    rng = np.random.default_rng(seed)
    chosen = torch.as_tensor(rng.choice(len(images.train), min(count, len(images.train)), replace=False))
    found = [distance("the data themselves (training part)", as_floats(images.train[chosen]), 0.0, data, classifier)]
    arenas: list[Arena] = []
    for i, begin in enumerate(range(0, count, _BATCH)):
        known = arenas[0].variances if arenas else None
        samples = min(_BATCH, count - begin)
        arenas.append(Arena(ladder, churn=churn, samples=samples, seed=seed + 1 + i, variances=known))
    for name, way in ways:
        drawn, costs = [], []
        for i, arena in enumerate(arenas):
            states, evaluations, _ = arena.draw(way, seed + i)
            drawn.append(states.cpu().clamp(-1.0, 1.0))
            costs.append(float(np.array(evaluations) @ np.array(arena.costs)))
        row = distance(name, torch.cat(drawn), float(np.mean(costs)), data, classifier)
        found.append(row)
        report(f"{name}: Fréchet {row.frechet:.3g}, MMD {row.kernel_mmd:.3g}, SW {row.sliced_wasserstein:.3g}")
    return found


def table(rows: Sequence[Distances]) -> str:
    """The distances as text."""
    lines = [f"{'':44}{'images':>8}{'cost':>8}{'Fréchet':>10}{'MMD':>10}{'SW2':>9}"]
    for row in rows:
        numbers = f"{row.count:8d}{row.cost:8.1f}{row.frechet:10.4g}{row.kernel_mmd:10.3g}{row.sliced_wasserstein:9.4f}"
        lines.append(f"{row.name:44}{numbers}")
    return "\n".join(lines)
