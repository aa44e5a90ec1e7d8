"""Every outcome of the coins, run through the real code: expectations are finite sums and not averages over seeds.

The coins compare uniforms with thresholds, so the unit interval of each uniform falls into finitely many cells on
which the outcome is the same. One draw from each cell, weighed by the cell's length, gives exact expectations.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

import mlsde
from mlsde import coins
from mlsde.estimator import estimator
from mlsde.hierarchy import CountedLevels
from mlsde.plan import Plan, multilevel_plan


@dataclass(frozen=True)
class Table:
    """A rule that returns a given table, of shape (N, K)."""

    values: np.ndarray

    def table(self, times, drift, price):
        return np.array(self.values, dtype=np.float64)


@dataclass(frozen=True)
class Outcomes:
    """Draws, shape (outcomes, N, K), or (outcomes, K) for offsets, and the probability of each."""

    draws: np.ndarray
    chances: np.ndarray

    def __len__(self) -> int:
        return len(self.chances)


def cells(cuts: Iterable[float]) -> list[tuple[float, float]]:
    """Middle and length of the intervals into which ``cuts`` divide the unit interval."""
    edges = [0.0, *sorted({float(cut) for cut in cuts if 0 < cut < 1}), 1.0]
    return [((a + b) / 2, b - a) for a, b in itertools.pairwise(edges)]


def outcomes(plan: Plan) -> Outcomes:
    """All outcomes of a plan's coins."""
    p = plan.probabilities
    if plan.coins == "independent":
        axes = [cells([q]) for q in p.ravel()]
    elif plan.coins == "nested":
        axes = [cells(row) for row in p]
    elif plan.coins == "systematic":
        axes = [cells(-sums % 1) for sums in coins.running_sums(p).T]
    else:
        axes = []
    combinations = list(itertools.product(*axes))
    drawn = np.array(combinations).reshape(len(combinations), len(axes), 2)
    draws, chances = drawn[..., 0], drawn[..., 1].prod(axis=1)
    assert abs(chances.sum() - 1) < 1e-12
    if plan.coins == "independent":
        draws = draws.reshape(-1, *p.shape)
    if plan.coins == "nested":  # all levels must use the first uniform: the others are no numbers
        draws = np.concatenate([draws[..., None], np.full((*draws.shape, p.shape[1] - 1), np.nan)], axis=-1)
    return Outcomes(draws, chances)


@contextmanager
def tossed(every: Outcomes, repeats: int = 1) -> Iterator[None]:
    """Coins whose key ends in ``i`` draw outcome ``i // repeats``."""
    periodic = coins._offsets

    def uniforms(key, levels, start, stop):
        return every.draws[key[-1] // repeats][start:stop]

    def offsets(rule, keys, levels, offset):
        if rule == "periodic":
            return periodic(rule, keys, levels, offset)
        return np.stack([every.draws[key[-1] // repeats] for key in keys], axis=-1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coins, "_uniforms", uniforms)
        patch.setattr(coins, "_offsets", offsets)
        yield


@dataclass(frozen=True)
class TwoPoint:
    """Increments ``+-sqrt(h)``: the first two moments of Brownian ones, and finitely many outcomes."""

    times: np.ndarray
    signs: Tensor

    def __call__(self, ta: float, tb: float) -> Tensor:
        n = int(np.argmin(np.abs(self.times - ta)))
        return self.signs[:, n] * abs(tb - ta) ** 0.5


def all_signs(steps: int, motions: int) -> Tensor:
    """All signs of ``motions`` increments at each step, shape (2 ** (steps * motions), steps, motions)."""
    signs = itertools.product((-1.0, 1.0), repeat=steps * motions)
    return torch.tensor(list(signs), dtype=torch.float64).reshape(-1, steps, motions)


@dataclass(frozen=True)
class Runs:
    """States of every run, shape (N + 1, outcomes, noises, d), and the probability of each coin outcome."""

    states: Tensor
    chances: Tensor
    plan: Plan

    def mean(self, values: Tensor) -> Tensor:
        """Expectation of values of shape (N + 1, outcomes, noises, ...) over coins and noise."""
        return torch.einsum("o,nom...->n...", self.chances, values) / values.shape[2]


def every_run(sde: mlsde.SDE, y0: Tensor, times: np.ndarray, multilevel: mlsde.Multilevel, motions: int = 0) -> Runs:
    """Solve for every outcome of the coins and, with ``motions``, of two-point noise; ``y0`` has shape (d,)."""
    signs = all_signs(len(times) - 1, motions) if motions else torch.zeros(1, len(times) - 1, 0)
    plan = multilevel_plan(multilevel, times, sde.drift)
    every, noises = outcomes(plan), len(signs)

    def solved(rule: mlsde.Multilevel, copies: int) -> Tensor:
        noise = TwoPoint(times, signs.repeat(copies, 1, 1)) if motions else None
        start = y0.expand(copies * noises, -1).clone()
        return mlsde.solve(sde, start, times=times, multilevel=rule, brownian=noise, save_at="steps").ys

    if multilevel.share == "sample":
        with tossed(every, noises):
            states = solved(multilevel, len(every)).view(len(times), len(every), noises, -1)
    else:
        with tossed(every):
            states = torch.stack([solved(replace(multilevel, seed=i), 1) for i in range(len(every))], dim=1)
    return Runs(states, torch.as_tensor(every.chances), plan)


def every_estimate(drift: mlsde.DriftHierarchy, plan: Plan, ys: Tensor) -> tuple[Outcomes, Tensor, np.ndarray]:
    """Drift estimates along given states ``ys`` of shape (N, d) for every outcome of the coins.

    Returns the outcomes, the estimates, shape (outcomes, N, d), and what fired, shape (outcomes, N, K).
    """
    every, times = outcomes(plan), torch.as_tensor(plan.times)
    count = len(every)
    if plan.share == "sample":
        plans = [(replace(plan, keys=tuple((0, i) for i in range(count))), count)]
    else:
        plans = [(replace(plan, keys=((i,),)), 1) for i in range(count)]
    values, fired = [], []
    with tossed(every):
        for one, batch in plans:
            estimate = estimator(CountedLevels(drift.levels, ys.dtype), one)
            states = [y.expand(batch, -1) for y in ys]
            values.append(torch.stack([estimate(n, times[n], y) for n, y in enumerate(states)], dim=1))
            fires = one.block(0, one.steps).fires
            fired.append(np.moveaxis(fires, -1, 0) if one.share == "sample" else fires[None])
    return every, torch.cat(values), np.concatenate(fired)


def heard(coin, correction, table):
    """Whether every level has a firing: periodic impulses that sum to less than a half have none, and are refused."""
    sums = np.where(table >= 1, 1.0, table).sum(axis=0)
    return coin != "periodic" or correction != "impulse" or bool(((table >= 1).any(axis=0) | (sums > 0.501)).all())
