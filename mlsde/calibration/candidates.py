"""Everything that could be run for a price, with its predicted error: plain, stitched and multilevel candidates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations, permutations

import numpy as np

from mlsde.calibration.model import RULES, Curve, Model, spacing_factor
from mlsde.multilevel import MEMORY
from mlsde.showing import as_call
from mlsde.theory.allocation import evaluation_probabilities

SWITCHES = tuple(i / 16 for i in range(1, 16))
"""Share of the time that the first of two stitched levels runs."""

_SURE = (1.0, 0.5, 0.25)
"""Probabilities from here on are raised to 1 in turn: levels that are sure to fire together cost one evaluation."""

_MOST_LEVELS = 4
"""Of a sub-ladder, where the whole has more than twice as many sub-ladders as this allows for quickly."""

_BISECTIONS = 22

_STEPS_AT_MOST = (4096, 16)
"""Steps that cheap levels are given: so many, or so many for each time that the budget pays for the top level."""

_NEAR = 1.05
"""Mean squared error over the least at which fewer steps are preferred."""


@dataclass(frozen=True)
class Candidate:
    """One way to run.

    Attributes:
        kind: ``"plain"``, ``"stitched"`` or ``"multilevel"``.
        levels: the level; the first and the last of stitching; the levels of the sub-ladder. Numbered from 1.
        steps: number of steps.
        cost: expected, per trajectory.
        square: predicted mean squared error, a mean over components.
        risk: the same with what the few samples of the pilot may hide.
        rule: coins and correction of a multilevel rule.
        share: of the time that the first of two stitched levels runs.
        table: probabilities at the pilot's times, shape ``(N, k)``, of a multilevel rule.
    """

    kind: str
    levels: tuple[int, ...]
    steps: int
    cost: float
    square: float
    risk: float
    rule: tuple[str, str] | None = None
    share: float | None = None
    table: np.ndarray | None = field(default=None, compare=False, repr=False)

    __repr__ = as_call


def plain(model: Model, budget: float, steps: int | None = None) -> list[Candidate]:
    """One level at every step, as often as the budget pays for it."""
    recording, found = model.recording, []
    for level in range(1, recording.levels + 1):
        price = recording.evaluation(level) * recording.stages
        n = min(math.floor(budget / price * (1.0 + 1e-12)), most_steps(model, budget)) if steps is None else steps
        if n >= 1 and n * price <= budget * (1.0 + 1e-9):
            square = float(model.floor(level, n))
            found.append(Candidate("plain", (level,), n, n * price, square, square))
    return found


def top_level(model: Model, steps: int, price: float) -> Candidate:
    """The top level at every one of so many steps."""
    square = float(model.floor(model.recording.levels, steps))
    return Candidate("plain", (model.recording.levels,), steps, price, square, square)


def most_steps(model: Model, budget: float) -> int:
    """More steps than these are not tried: each has a price besides that of the levels."""
    recording, (least, factor) = model.recording, _STEPS_AT_MOST
    return max(least, math.ceil(factor * budget / (recording.evaluation(recording.levels) * recording.stages)))


def stitched(model: Model, budget: float, steps: int | None = None) -> list[Candidate]:
    """Two levels, one on each side of a switch time. The idea of T-Stitch, arXiv 2402.14167."""
    recording, found = model.recording, []
    phase = np.arange(recording.steps) / recording.steps
    cuts = {level: recording.cut(level) for level in _sound(model)}
    for share in SWITCHES:
        early = phase < share - 1e-9
        for pair in permutations(_sound(model), 2):
            missed = cuts[pair[0]][:, early].sum(axis=1) + cuts[pair[1]][:, ~early].sum(axis=1)
            first, last = (recording.evaluation(level) * recording.stages for level in pair)
            price = share * first + (1.0 - share) * last
            n = min(math.floor(budget / price), most_steps(model, budget)) if steps is None else steps
            if n * min(share, 1.0 - share) >= 1 and _stitched_cost(n, share, first, last) <= budget * (1 + 1e-9):
                square = float((missed**2).mean() * model.doubt + model.step_square(n))
                cost = _stitched_cost(n, share, first, last)
                found.append(Candidate("stitched", pair, n, cost, square, square, share=share))
    return found


def _stitched_cost(n: int, share: float, first: float, last: float) -> float:
    early = math.ceil(share * n - 1e-9)
    return early * first + (n - early) * last


def sub_ladders(model: Model) -> list[tuple[int, ...]]:
    """Sub-ladders of two levels and more; of a ladder of differences those that are cut at the top."""
    count, sound = model.recording.levels, _sound(model)
    if model.recording.differences:
        return [tuple(range(1, top + 1)) for top in range(2, count + 1)]
    most = count if count <= _MOST_LEVELS + 1 else _MOST_LEVELS
    return [levels for size in range(2, most + 1) for levels in combinations(sound, size)]


def _sound(model: Model) -> list[int]:
    """The levels that stayed finite along the pilot, numbered from 1."""
    return (np.flatnonzero(model.recording.sound) + 1).tolist()


def step_counts(model: Model, levels: tuple[int, ...], budget: float, steps: int | None) -> np.ndarray:
    """Numbers of steps worth trying, ``2^j`` and ``3 * 2^j``: the cheapest level may be called at every one."""
    recording = model.recording
    if steps is not None:
        return np.array([float(steps)])
    top, base = (recording.evaluation(level) * recording.stages for level in (levels[-1], levels[0]))
    low = max(4.0, 0.5 * budget / top)
    high = min(0.9 * budget / base, float(most_steps(model, budget)))
    if high < low:
        return np.zeros(0)
    return np.array([n for j in range(40) for n in (2.0**j, 1.5 * 2.0**j) if low <= n <= high and n == math.floor(n)])


def allowed(rules: Sequence[tuple[str, str]], method: str) -> list[tuple[str, str]]:
    """The rules that a stepper takes: impulses destroy the order of Heun."""
    return [rule for rule in rules if method != "heun" or rule[1] not in ("impulse", "control")]


def fewest(rule: tuple[str, str]) -> float:
    """Expected firings that a level has at least.

    Periodic impulses fire a whole number of times, and a budget for less than one pays for none.
    """
    return 1.0 if rule == ("periodic", "impulse") else 0.5


def multilevel(
    model: Model, budget: float, steps: int | None = None, rules: Sequence[tuple[str, str]] = RULES
) -> list[Candidate]:
    """The best constant probabilities for every sub-ladder and rule, at its best number of steps."""
    found, rules = [], allowed(rules, model.recording.method)
    for levels in sub_ladders(model):
        n = step_counts(model, levels, budget, steps)
        if len(n):
            found += [one for rule in rules if (one := _allocated(model, levels, rule, budget, n)) is not None]
    return found


def _allocated(
    model: Model, levels: tuple[int, ...], rule: tuple[str, str], budget: float, steps: np.ndarray
) -> Candidate | None:
    curve, which = model.curve(rule), model.columns(levels)
    n, sure = (grid.ravel() for grid in np.meshgrid(steps, np.array(_SURE)))
    prices = Prices(model, levels, rule)
    p = spread(model, curve, which, prices, n, sure, budget)
    cost = prices.of(p, n)
    # what fires at every step adds nothing
    add = np.where(p < 1.0, curve.at(which, p * n[:, None]) * spacing_factor(rule, p), 0.0).sum(axis=1)
    squares = model.floor(levels[-1], n) + add
    squares[(cost > budget * (1.0 + 1e-9)) | (p * n[:, None] < fewest(rule)).any(axis=1)] = np.inf
    if not np.isfinite(squares).any():
        return None
    # more steps of the cheapest level always help a little, and each has a price that costs do not show
    near = np.flatnonzero(squares <= _NEAR * squares.min())
    best = int(near[np.argmin(n[near])])
    table = np.tile(p[best], (model.recording.steps, 1))
    square = float(squares[best])
    return Candidate("multilevel", levels, int(n[best]), float(cost[best]), square, square, rule=rule, table=table)


class Prices:
    """Expected cost per trajectory of constant probabilities, summed by parts."""

    def __init__(self, model: Model, levels: tuple[int, ...], rule: tuple[str, str]) -> None:
        recording = model.recording
        self.costs, self.stages = recording.costs[np.array(levels) - 1], recording.stages
        self.differences, self.nested = recording.differences, rule[0] == "nested"
        self.first = float(self.costs.sum()) if rule[1] in MEMORY else 0.0

    def of(self, p: np.ndarray, steps: np.ndarray | float) -> np.ndarray:
        """Cost of probabilities ``(..., k)`` held for so many steps; the forced first step included."""
        shown = p if self.differences else evaluation_probabilities(p, "nested" if self.nested else "independent")
        return np.asarray(steps * self.stages * (shown @ self.costs) + self.first)

    def weights(self) -> np.ndarray:
        """What one more firing of each level costs: mostly the value of the level below is asked for, too."""
        below = np.concatenate([[0.0], self.costs[:-1]])
        return self.costs if self.differences else np.asarray(self.costs + below)


def spread(
    model: Model, curve: Curve, which: np.ndarray, prices: Prices, n: np.ndarray, sure: np.ndarray, budget: float
) -> np.ndarray:
    """Probabilities, shape ``(G, k)``, that spend the budget so that a unit of it saves as much at every level."""
    a, s, c = curve.scale[which], curve.order[which], prices.weights()

    def at(logs: np.ndarray) -> np.ndarray:
        firings = np.exp((np.log(np.maximum(a * s, 1e-300) / c) - logs[:, None]) / (s + 1.0))
        p = np.minimum(1.0, firings / n[:, None])
        return np.where(p >= sure[:, None], 1.0, np.maximum(p, 1e-9))

    low, high = np.full(len(n), -400.0), np.full(len(n), 100.0)  # a low price of error spends much
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        dear = prices.of(at(middle), n) > budget
        low, high = np.where(dear, middle, low), np.where(dear, high, middle)
    return at(high)
