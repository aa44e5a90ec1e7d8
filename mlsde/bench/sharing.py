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

import mlsde
from mlsde import checks
from mlsde.bench.coin_results import CoinBenchmark, CoinClock, CoinError, Work
from mlsde.bench.levels import Laboured, clock, price
from mlsde.bench.timing import one_thread
from mlsde.problems import perturbed
from mlsde.progress import bar

RULES = (("independent", "impulse"), ("systematic", "impulse"), ("systematic", "hold"))
SAMPLES = (1, 4, 16, 64, 256, 1024, 4096)
WIDTHS = (0, 16, 64)
"""Of the matrices whose products (1, 8 and 64 by level) are taken besides; none for 0."""

FACTORS = (1.0, 2.0, 4.0)
"""Of the probabilities of shared coins, which may spend the time that they save on firing more often."""

_NUMBERS, _PRODUCTS, _PROBABILITIES = 4, (1, 8, 64), (1.0, 0.25, 0.0625)
_MUCH_LONGER = 1.5

Rule = tuple[str, str]
Errors = tuple[list[Tensor], list[Tensor], Tensor]
"""With shared and with own coins for each factor, and the states of the top level; shape ``(samples, d)`` each."""


def coins(
    repeats: int = 3,
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
    depend on the price. Runs take turns in one process and one thread. Shared coins are also run at probabilities that
    are twice and four times as large.

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
    with one_thread(), bar(total=total, disable=not progress, unit="case") as shown:
        errors = []
        for rule in RULES:
            found = []
            for seed in range(replicates):
                found.append(_errors(rule, y0, steps, seed))
                shown.update()
            errors += _means(" ".join(rule), found, batches)
        works, clocks = [], []
        for width in matrices:
            ladder = _ladder(width)
            top = ladder.levels[-1]
            works.append(Work(width, price(top, y0[:1]), price(top, y0) / len(y0)))
            for n in batches:
                clocks += [_clock(rule, ladder, width, y0[:n], steps, repeats) for rule in RULES]
                shown.update()
    return CoinBenchmark(tuple(works), tuple(clocks), tuple(errors), steps, repeats, device)


def _ladder(width: int) -> mlsde.DriftHierarchy:
    plain = perturbed(lambda t, y: -y, _NUMBERS, gamma=3.0, levels=len(_PRODUCTS))
    products = _PRODUCTS if width > 0 else (0,) * len(_PRODUCTS)
    levels = [Laboured(level, count, max(width, 1)) for level, count in zip(plain.levels, products, strict=True)]
    return mlsde.DriftHierarchy(levels, plain.costs)


def _solved(
    ladder: mlsde.DriftHierarchy, y0: Tensor, steps: int, seed: int, multilevel: mlsde.Multilevel | None = None
) -> Tensor:
    return mlsde.solve(mlsde.SDE(ladder, 0.5), y0, (0.0, 1.0), steps=steps, seed=seed, multilevel=multilevel).y1


def _multilevel(rule: Rule, share: str, factor: float = 1.0) -> mlsde.Multilevel:
    probabilities = mlsde.Constant([min(1.0, factor * p) for p in _PROBABILITIES])
    return mlsde.Multilevel.named(probabilities, coins=rule[0], correction=rule[1], share=share)


def _errors(rule: Rule, y0: Tensor, steps: int, seed: int) -> Errors:
    """Errors of both kinds of coins on one set of paths, for each factor."""
    ladder = _ladder(0)
    top = _solved(ladder, y0, steps, seed).double()
    shared, own = (
        [_solved(ladder, y0, steps, seed, _multilevel(rule, share, factor)).double() - top for factor in FACTORS]
        for share in ("batch", "sample")
    )
    return shared, own, top


def _means(rule: str, found: Sequence[Errors], batches: Sequence[int]) -> list[CoinError]:
    """Mean squares of the errors of batch means, each replicate cut into as many batches as it holds.

    The bias is that of own coins, whose mean over all samples is nearest to it.
    """
    top = torch.stack([states for _, _, states in found])  # (replicates, samples, d)
    shared, own = (
        [torch.stack(errors) for errors in zip(*kind, strict=True)]
        for kind in zip(*((shared, own) for shared, own, _ in found), strict=True)
    )
    bias = tuple(float(errors.mean((0, 1)).square().mean()) for errors in own)
    variance = float(top.var((0, 1)).mean())
    return [
        CoinError(
            rule, n, FACTORS, tuple(_mean_squares(errors, n) for errors in shared), bias, _mean_squares(own[0], n),
            variance / n,
        )
        for n in batches
    ]  # fmt: skip


def _mean_squares(errors: Tensor, samples: int) -> tuple[float, ...]:
    means = errors.reshape(len(errors), -1, samples, errors.shape[-1]).mean(2)
    return tuple(means.square().mean((1, 2)).tolist())


def _clock(rule: Rule, ladder: mlsde.DriftHierarchy, width: int, y0: Tensor, steps: int, repeats: int) -> CoinClock:
    """Own and shared coins in turn; a first run of each is not counted, and says which factors take much longer."""

    def seconds(share: str, factor: float, seed: int) -> float:
        multilevel = _multilevel(rule, share, factor)
        return clock(lambda: _solved(ladder, y0, steps, seed, multilevel), y0.device)

    first = seconds("sample", 1.0, 0)
    factors = tuple(f for f in FACTORS if seconds("batch", f, 0) <= _MUCH_LONGER * first or f == FACTORS[0])
    own: list[float] = []
    shared: dict[float, list[float]] = {factor: [] for factor in factors}
    for seed in range(repeats):
        own.append(seconds("sample", 1.0, seed))
        for factor, its in shared.items():
            its.append(seconds("batch", factor, seed))
    return CoinClock(" ".join(rule), width, len(y0), factors, tuple(map(tuple, shared.values())), tuple(own))
