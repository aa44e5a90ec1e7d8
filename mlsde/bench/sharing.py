"""From which batch on coins of each sample's own are better than one set of coins for the batch.

Sample by sample they are not: a sample cannot tell whose its coins are. Shared coins make the errors of all samples
alike, so that they do not average out in the mean of a batch; coins of each sample's own do, and cost more calls of
smaller batches. So the question is about the error of a mean at equal wall-clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from tqdm.auto import tqdm

import mlsde
from mlsde import checks
from mlsde.bench.coin_results import CoinBenchmark, CoinClock, CoinError, Work
from mlsde.bench.levels import Laboured, clock, price
from mlsde.bench.timing import one_thread
from mlsde.problems import perturbed

RULES = (("independent", "impulse"), ("systematic", "impulse"), ("systematic", "hold"))
SAMPLES = (1, 4, 16, 64, 256, 1024, 4096)
WIDTHS = (0, 32, 128)
"""Of the matrices whose products (1, 8 and 64 by level) are taken besides; none for 0."""

_NUMBERS, _PRODUCTS, _PROBABILITIES = 4, (1, 8, 64), (1.0, 0.25, 0.0625)


def coins(
    repeats: int = 5,
    *,
    replicates: int = 32,
    samples: Sequence[int] = SAMPLES,
    widths: Sequence[int] = WIDTHS,
    steps: int = 64,
    device: str = "cpu",
    progress: bool = False,
) -> CoinBenchmark:
    """Compare coins of each sample's own with shared ones, by the clock and by the error of the mean of a batch.

    The ladder is ``f^k = -y + 2^-k phi_k`` of :func:`mlsde.problems.perturbed`, three levels, in four dimensions, with
    noise 0.5 and probabilities 1, 1/4, 1/16. Work whose outcome is thrown away makes it dearer, so that errors do not
    depend on the price. Runs take turns in one process and one thread.

    Args:
        repeats: of each run that is timed; medians are used.
        replicates: runs of the largest batch that the errors are estimated from, with paths and coins of their own.
        samples: in the batches, increasing; each divides the next.
        widths: of the matrices of the added work; 0 for none.
        steps: of each run.
        device: of the state and the levels.
        progress: show a bar.

    Returns:
        A :class:`CoinBenchmark`.

    Raises:
        TypeError, ValueError: naming the argument.
    """
    for name, value in (("repeats", repeats), ("replicates", replicates), ("steps", steps)):
        checks.positive_integer(name, value)
    batches = [checks.positive_integer("samples", n) for n in samples]
    if not batches or any(later % n or later <= n for n, later in pairwise(batches)):
        raise ValueError(f"samples must be increasing batches of which each divides the next, got {samples}.")
    matrices = [0 if width == 0 else checks.positive_integer("widths", width) for width in widths]
    y0 = torch.ones(batches[-1], _NUMBERS, device=device)
    total = len(RULES) * replicates + len(matrices) * len(batches)
    with one_thread(), tqdm(total=total, disable=not progress, unit="case") as bar:
        errors = []
        for rule in RULES:
            found = []
            for seed in range(replicates):
                found.append(_errors(rule, y0, steps, seed))
                bar.update()
            errors += _means(" ".join(rule), found, batches)
        works, clocks = [], []
        for width in matrices:
            ladder = _ladder(width)
            top = ladder.levels[-1]
            works.append(Work(width, price(top, y0[:1]), price(top, y0) / len(y0)))
            for n in batches:
                clocks += _clocks(ladder, width, y0[:n], steps, repeats)
                bar.update()
    return CoinBenchmark(tuple(works), tuple(clocks), tuple(errors), steps, repeats, device)


def _ladder(width: int) -> mlsde.DriftHierarchy:
    plain = perturbed(lambda t, y: -y, _NUMBERS, gamma=3.0, levels=len(_PRODUCTS))
    products = _PRODUCTS if width > 0 else (0,) * len(_PRODUCTS)
    levels = [Laboured(level, count, max(width, 1)) for level, count in zip(plain.levels, products, strict=True)]
    return mlsde.DriftHierarchy(levels, plain.costs)


def _solved(
    ladder: mlsde.DriftHierarchy, y0: Tensor, steps: int, seed: int, rule: tuple[str, str] | None, share: str = "batch"
) -> Tensor:
    multilevel = None
    if rule is not None:
        multilevel = mlsde.Multilevel(mlsde.Constant(_PROBABILITIES), coins=rule[0], correction=rule[1], share=share)
    return mlsde.solve(mlsde.SDE(ladder, 0.5), y0, (0.0, 1.0), steps=steps, seed=seed, multilevel=multilevel).y1


def _errors(rule: tuple[str, str], y0: Tensor, steps: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Errors with shared and with own coins, and the top level's states, on one set of paths; shape ``(B, d)`` each."""
    ladder = _ladder(0)
    top = _solved(ladder, y0, steps, seed, None).double()
    shared, own = (_solved(ladder, y0, steps, seed, rule, share).double() - top for share in ("batch", "sample"))
    return shared, own, top


def _means(rule: str, found: Sequence[tuple[Tensor, Tensor, Tensor]], batches: Sequence[int]) -> list[CoinError]:
    """Mean squares of the errors of batch means, each replicate cut into as many batches as it holds."""
    shared, own, top = (torch.stack(values) for values in zip(*found, strict=True))  # (replicates, B, d)
    bias = float(own.mean((0, 1)).square().mean())
    variance = float(top.var((0, 1)).mean())
    return [CoinError(rule, n, _mean_squares(shared, n), _mean_squares(own, n), bias, variance / n) for n in batches]


def _mean_squares(errors: Tensor, samples: int) -> tuple[float, ...]:
    means = errors.reshape(len(errors), -1, samples, errors.shape[-1]).mean(2)
    return tuple(means.square().mean((1, 2)).tolist())


def _clocks(ladder: mlsde.DriftHierarchy, width: int, y0: Tensor, steps: int, repeats: int) -> list[CoinClock]:
    seconds: dict[tuple[tuple[str, str], str], list[float]] = {
        (rule, share): [] for rule in RULES for share in ("batch", "sample")
    }
    for seed in range(-1, repeats):  # the first is not counted
        for (rule, share), its in seconds.items():
            its.append(clock(lambda r=rule, s=share, n=seed: _solved(ladder, y0, steps, max(0, n), r, s), y0.device))  # type: ignore[misc]
    return [
        CoinClock(" ".join(rule), width, len(y0), tuple(seconds[rule, "batch"][1:]), tuple(seconds[rule, "sample"][1:]))
        for rule in RULES
    ]
