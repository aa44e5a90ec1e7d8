"""The choice: candidates for a price or an error, the promising ones looked at more closely, and the best of them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from mlsde.calibration import candidates, replay
from mlsde.calibration.candidates import Candidate
from mlsde.calibration.model import Model, by_chance
from mlsde.multilevel import MEMORY
from mlsde.showing import as_call

_LOOKED_AT = 8
"""Multilevel candidates whose probabilities are given a shape in time and replayed."""

_WORTH = 0.75
"""Part of the best plain error that a multilevel rule may be predicted to have at most, to be worth its risk."""

_LUCK = 0.5
"""How much of the scatter over the coins counts against a rule: one run has one set of coins."""

_FLOOR = 0.05
"""Of the mean: what the shape in time of a level's probabilities is at least."""

_WINDOW = 5
"""Steps of the pilot over which a shape is smoothed."""


@dataclass(frozen=True)
class Choice:
    """What was chosen, and the best of each kind, in the order of the predicted error.

    Attributes:
        best: the choice.
        rivals: the best of the other kinds.
        top: the top level alone at the same price; ``None`` if that does not pay for a step of it.
    """

    best: Candidate
    rivals: tuple[Candidate, ...]
    top: Candidate | None = None

    __repr__ = as_call

    def enlarged(self, factor: float) -> Choice:
        """The same with squared errors so many times as large."""

        def larger(one: Candidate) -> Candidate:
            return replace(one, square=factor * one.square, risk=factor * one.risk)

        best = larger(self.best)
        top = best if self.top is self.best else self.top and larger(self.top)
        return Choice(best, tuple(map(larger, self.rivals)), top)


def for_budget(model: Model, budget: float, steps: int | None = None, *, closely: bool = True) -> Choice | None:
    """Least predicted error at a price; ``None`` if it pays for nothing.

    Args:
        model: of the ladder.
        budget: expected cost per trajectory.
        steps: number of steps, if it is settled.
        closely: whether promising candidates get probabilities that change with time.
    """
    alone = candidates.plain(model, budget, steps)
    simple, top = _best(alone), next((one for one in alone if one.levels == (model.recording.levels,)), None)
    halves = _best(candidates.stitched(model, budget, steps))
    rules = sorted(candidates.multilevel(model, budget, steps), key=lambda one: one.square)
    rules = rules[:_LOOKED_AT] if closely else rules[:1]
    looked_at = [shaped for one in rules for shaped in _closely(model, one, budget)] if closely else rules
    found = [one for one in (simple, halves, _best(looked_at)) if one is not None]
    return _chosen(found, top) if found else None


def _chosen(found: list[Candidate], top: Candidate | None = None) -> Choice:
    """The least error, where a simpler kind is preferred to one that is hardly better."""
    best = found[0]
    for one in found[1:]:
        if one.risk < _WORTH**2 * best.risk:
            best = one
    return Choice(best, tuple(sorted((one for one in found if one is not best), key=lambda one: one.square)), top)


def for_error(model: Model, square: float, steps: int | None = None, most: float = math.inf) -> Choice | None:
    """Least cost at which the mean squared error is predicted to stay below ``square``, with what the pilot may hide.

    ``None`` if ``most`` is too little.

    The price is bisected: the error of the best candidate falls with it.
    """
    low = high = least_price(model, steps)
    reached = None
    while reached is None:
        choice = for_budget(model, high, steps, closely=False)
        if choice is not None and choice.best.square <= square:
            reached = high
        elif high >= most:
            return None
        else:
            low, high = high, min(4.0 * high, most)
    while high > 1.05 * low:
        middle = math.sqrt(low * high)
        choice = for_budget(model, middle, steps, closely=False)
        low, high = (low, middle) if choice is not None and choice.best.square <= square else (middle, high)
    return _closely_for_error(model, square, high, steps)


def _closely_for_error(model: Model, square: float, price: float, steps: int | None) -> Choice | None:
    """What a closer look makes of the price: a shape in time may reach the error for less, a replay may need more."""
    for factor in (0.5, 0.7, 0.85, 1.0, 1.15, 1.3, 1.6, 2.0, 4.0):
        choice = for_budget(model, factor * price, steps)
        if choice is not None and choice.best.risk <= square:
            return choice
    return None


def least_price(model: Model, steps: int | None) -> float:
    """Price of the cheapest run."""
    return float(model.recording.costs.min()) * model.recording.stages * (1 if steps is None else steps)


def frontier_point(model: Model, budget: float) -> dict[str, float]:
    """Predicted errors at a price: of the best plain method, the paper's rule and what would be chosen."""
    paper = candidates.multilevel(model, budget, rules=[("independent", "impulse")])
    chosen = for_budget(model, budget)
    found = {
        "plain": _best(candidates.plain(model, budget)),
        "paper": _best(paper),
        "recommended": None if chosen is None else chosen.best,
    }
    return {name: math.inf if one is None else math.sqrt(one.square) for name, one in found.items()}


def _best(found: Iterable[Candidate]) -> Candidate | None:
    return min(found, key=lambda one: (one.risk, one.cost), default=None)


def _closely(model: Model, one: Candidate, budget: float) -> list[Candidate]:
    """A constant candidate replayed, and with shapes in time besides."""
    assert one.table is not None and one.rule is not None
    flat = one.table[0]
    # at 1 throughout a level needs no shape
    bases = [one.table] + [
        np.where(flat >= 1.0, 1.0, flat * shape) for shape in shapes(model, one.levels, one.rule) if len(one.levels) > 1
    ]
    made = []
    for base in bases:
        table, cost = fitted(model, one, base, budget)
        if table is None:
            continue
        floor, squares = float(model.floor(one.levels[-1], one.steps)), coins_squares(model, one, table)
        # the least of many estimates is too low: a standard error makes up for that
        square = floor + float(squares.mean() + squares.std() / math.sqrt(max(1, len(squares) - 1)))
        luck = _LUCK * float(squares.mean()) * model.luck(one.levels, one.rule, table, one.steps)
        made.append(replace(one, table=table, cost=cost, square=square, risk=square + luck))
    return made


def coins_squares(model: Model, one: Candidate, table: np.ndarray) -> np.ndarray:
    """What the coins of a candidate add, for each sample of the pilot."""
    assert one.rule is not None
    return model.coins_squares(one.levels, one.rule, table, one.steps)


def shapes(model: Model, levels: tuple[int, ...], rule: tuple[str, str]) -> list[np.ndarray]:
    """Shapes in time of the probabilities, each of mean 1, shape ``(N, k)``: where a level's errors come from."""
    part = model.part(levels)
    sizes = replay.impulse_squares(part)
    made = [sizes ** (0.5 if by_chance(rule) else 1.0 / 3.0)]
    if rule[1] in MEMORY:
        changes = replay.increments(part)
        changes = np.concatenate([changes[:1], changes])
        made = [changes ** (1.0 / 3.0), changes**0.25]
    return [_smoothed(shape) for shape in made]


def _smoothed(shape: np.ndarray) -> np.ndarray:
    kernel = np.ones(_WINDOW) / _WINDOW
    padded = np.pad(shape, ((_WINDOW // 2, _WINDOW // 2), (0, 0)), mode="edge")
    smooth = np.stack([np.convolve(column, kernel, mode="valid") for column in padded.T], axis=1)
    smooth = np.maximum(smooth, 1e-300)
    return np.asarray(np.maximum(smooth / smooth.mean(axis=0), _FLOOR))


def fitted(model: Model, one: Candidate, base: np.ndarray, budget: float) -> tuple[np.ndarray | None, float]:
    """Scale the probabilities that are below 1 so that they cost the budget; ``None`` if nothing of them is left."""
    assert one.rule is not None
    prices, sure = candidates.Prices(model, one.levels, one.rule), base >= 1.0
    each = one.steps / len(base)

    def at(scale: float) -> np.ndarray:
        return np.where(sure, 1.0, np.minimum(1.0, scale * base))

    def cost(table: np.ndarray) -> float:
        return float((prices.of(table, each) - prices.first).sum() + prices.first)

    low, high = 1e-6, 1.0 / max(float(base[~sure].min(initial=1.0)), 1e-12)
    if cost(at(low)) > budget:
        return None, math.inf
    for _ in range(40):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if cost(at(middle)) <= budget else (low, middle)
    table = at(low)
    if (table.mean(axis=0) * one.steps < candidates.fewest(one.rule)).any():
        return None, math.inf
    return table, cost(table)
