"""How far the drawn images are from the data: distances between distributions, for the ways of a benchmark."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlsde import checks
from mlsde.chunks.engine import open_store, share
from mlsde.chunks.ranks import ranks
from mlsde.chunks.store import Piece
from mlsde.diffusion.arena import Arena, Way
from mlsde.diffusion.classifier import Classifier
from mlsde.diffusion.data import Images, as_floats
from mlsde.diffusion.ladders import TrainedLadder
from mlsde.diffusion.metrics import frechet, kernel_mmd, sliced_wasserstein

_BATCH = 100
_GROUPS = 5
METRICS = ("frechet", "kernel_mmd", "sliced_wasserstein")


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
        errors: standard error of each of the three, by the jackknife over five groups of the drawn images; the held-out
            images are as they are.
    """

    name: str
    count: int
    cost: float
    sliced_wasserstein: float
    kernel_mmd: float
    frechet: float
    errors: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def distance(name: str, images: Tensor, cost: float, data: Tensor, classifier: Classifier) -> Distances:
    """Distances of images to data, both floats in [-1, 1], shapes ``(n, c, h, w)`` and ``(m, c, h, w)``.

    Raises:
        ValueError: for fewer than ten images.
    """
    if len(images) < 2 * _GROUPS:
        raise ValueError(f"distances want {2 * _GROUPS} images or more, got {len(images)}.")
    features, real = (classifier.features_of(part) for part in (images, data))
    pixels, real_pixels = images.flatten(1), data.flatten(1)

    def metrics(kept: Tensor) -> dict[str, float]:
        a = features[kept]
        return {
            "frechet": frechet(a, real),
            "kernel_mmd": kernel_mmd(a, real),
            "sliced_wasserstein": sliced_wasserstein(pixels[kept], real_pixels),
        }

    group = torch.arange(len(images)) % _GROUPS
    parts = [metrics(group != left_out) for left_out in range(_GROUPS)]
    errors = {of: _jackknife([part[of] for part in parts]) for of in METRICS}
    return Distances(name, len(images), cost, **metrics(torch.ones(len(images), dtype=torch.bool)), errors=errors)


def _jackknife(values: Sequence[float]) -> float:
    """Standard error from the values that the groups leave, each left out once."""
    return math.sqrt((len(values) - 1) * float(np.var(values)))


def distances(
    ladder: TrainedLadder,
    images: Images,
    classifier: Classifier,
    ways: Sequence[tuple[str, Way]],
    *,
    count: int = 5000,
    churn: float = 0.0,
    seed: int = 0,
    folder: str | Path | None = None,
    report: Callable[[str], None] = lambda _line: None,
) -> list[Distances]:
    """Draw so many images in each way, from the same noise, and compare them with as many that were held out.

    They are drawn a hundred at a time; under ``torchrun`` the processes share them, and all return the same.

    Args:
        ladder: the nets.
        images: the data; its training part, as many, is compared first: what perfection shows.
        classifier: whose features are compared.
        ways: names and ways.
        count: images of each; with 1000 a Fréchet distance does not see what 5000 show.
        churn: of the equation.
        seed: of noise and coins.
        folder: of the images, so that a killed comparison goes on; ``None`` keeps them in memory.
        report: called with a line as each way is done.

    Raises:
        ValueError: if the folder holds another comparison.
        RuntimeError: if images could not be drawn; those that could are in the folder.
    """
    checks.positive_integer("count", count)
    data = as_floats(images.held_out[:count])
    rng = np.random.default_rng(seed)
    chosen = torch.as_tensor(rng.choice(len(images.train), min(count, len(images.train)), replace=False))
    manifest = {
        "data": images.name, "held_out": [round(error, 6) for error in ladder.about.held_out], "count": count,
        "churn": churn, "seed": seed,
    }  # fmt: skip
    work = ranks(next(ladder.models[0].parameters()).device)
    batches = _Batches(ladder, count, churn, seed)
    found = [distance("the data themselves (training part)", as_floats(images.train[chosen]), 0.0, data, classifier)]
    for name, way in ways:
        place = None if folder is None else Path(folder) / way.key
        store = open_store(work, place, manifest | {"way": way.key}, Piece)
        outcome = share(range(len(batches)), partial(batches.draw, way=way), store, work, most_failures=1)
        if outcome.errors:
            number, words = next(iter(outcome.errors.items()))
            raise RuntimeError(f"{name}: batch {number} of the images could not be drawn: {words}")
        pieces = list(store.pieces(outcome.notes))
        drawn = torch.cat([piece.tensors["images"] for piece in pieces])
        cost = sum(piece.note["cost"] * len(piece.tensors["images"]) for piece in pieces) / len(drawn)
        row = distance(name, drawn, cost, data, classifier)
        found.append(row)
        report(f"{name}: Fréchet {row.frechet:.3g}, MMD {row.kernel_mmd:.3g}, SW {row.sliced_wasserstein:.3g}")
    return found


class _Batches:
    """The images, a hundred at a time, each with its noise; the variances are measured once."""

    def __init__(self, ladder: TrainedLadder, count: int, churn: float, seed: int) -> None:
        self._ladder, self._count, self._churn, self._seed = ladder, count, churn, seed
        self._arenas: dict[int, Arena] = {}

    def __len__(self) -> int:
        return math.ceil(self._count / _BATCH)

    def draw(self, number: int, way: Way) -> Piece:
        """Images of one batch and their price."""
        arena = self._arena(number)
        states, evaluations, _ = arena.draw(way, self._seed + number)
        cost = float(np.array(evaluations) @ np.array(arena.costs))
        return Piece({"images": states.cpu().clamp(-1.0, 1.0)}, {"cost": cost})

    def _arena(self, number: int) -> Arena:
        if number not in self._arenas:
            first = None if number == 0 else self._arena(0).variances
            self._arenas[number] = Arena(
                self._ladder, churn=self._churn, samples=min(_BATCH, self._count - number * _BATCH),
                seed=self._seed + 1 + number, variances=first,
            )  # fmt: skip
        return self._arenas[number]


def table(rows: Sequence[Distances]) -> str:
    """The distances as text, with their standard errors."""
    lines = [f"{'':44}{'images':>8}{'cost':>8}{'Fréchet':>20}{'MMD':>20}{'SW2':>20}"]
    for row in rows:
        cells = "".join(f"{_told(row, of):>20}" for of in METRICS)
        lines.append(f"{row.name:44}{row.count:8d}{row.cost:8.1f}{cells}")
    return "\n".join(lines)


def markdown(result: dict[str, Any]) -> str:
    """What ``mlsde bench distances`` wrote, for a page."""
    where, rows = result["environment"], [Distances(**row) for row in result["rows"]]
    lines = [
        f"### {result['ladder']}, {'ODE' if result['equation'] == 'ode' else 'reverse SDE'}: {rows[-1].count} images\n",
        f"The classifier names {result['accuracy']:.1%} of the held-out images rightly. Measured on {where['date']} at "
        f"{where['commit']}, {where['cores']} cores, {where['threads']} thread, torch {where['torch']}.\n",
        "| | cost | Fréchet | kernel MMD | sliced Wasserstein |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(f"| {row.name} | {row.cost:.1f} | {' | '.join(_told(row, of) for of in METRICS)} |")
    return "\n".join(lines) + "\n"


def _told(row: Distances, of: str) -> str:
    return f"{getattr(row, of):.4g} ± {row.errors[of]:.2g}"
