"""From a recording to predictions: the error of any level, stitching or rule of coins, at any number of steps.

The mean squared error of a run is taken to be the sum of three parts: what the ladder is cut off at, what the step
costs and what each level's coins add. Each is measured by the pilot at its own numbers of steps and firings, and
carried to others by the order at which it was seen to fall.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from mlsde.calibration import replay
from mlsde.calibration.recording import LAGS, Recording
from mlsde.multilevel import MEMORY

THINNED = (0.5, 0.25, 0.125)
"""Probabilities at which a constant rule is replayed."""

RULES = (
    ("independent", "impulse"), ("independent", "hold"), ("independent", "control"),
    ("nested", "impulse"), ("nested", "hold"), ("nested", "control"),
    ("systematic", "impulse"), ("systematic", "hold"), ("systematic", "control"), ("systematic", "extrapolate"),
    ("periodic", "impulse"), ("periodic", "hold"), ("periodic", "control"), ("periodic", "extrapolate"),
)  # fmt: skip

_STEEPEST = {"extrapolate": 4.0, "control": 3.0}
"""Order in the number of firings that is trusted beyond the pilot's on an ODE; else, and with noise, it is 2."""

_SMOOTH = 1.7
"""Exponent of the increments' mean square in the lag from which on a difference counts as smooth in time."""

_STEADY = 1.25
"""How much faster than by its order the error of the step may fall and still be taken to have settled."""

_MOST_DOUBT, _LEAST_DOUBT = 8.0, 1.0

_NEARBY = tuple(2.0 ** (i / 12) for i in range(-4, 5))
"""Factors of the probabilities of coins without chance over which their error is averaged: one pattern may be lucky."""

Interval = tuple[int, int]
"""Difference between two levels of a ladder, ``(0, 2)`` for ``f^2`` itself."""


def spacing_factor(rule: tuple[str, str], p: np.ndarray | float) -> np.ndarray:
    """What is left of a rule's error at a probability ``p``, where it would fall by a law of the firings alone.

    From counting the errors of a level between firings that are ``1 / p`` steps apart: with a memory they grow with
    the steps since the last one, with evenly spread impulses the place of the firing matters, with independent ones
    the variance is ``1 / p - 1``.
    """
    p = np.asarray(p)
    if rule[1] in MEMORY:
        return np.asarray((1.0 - p) * (1.0 - 0.5 * p))
    return np.asarray(1.0 - p if by_chance(rule) else 1.0 - p**2)


def by_chance(rule: tuple[str, str]) -> bool:
    """Whether a rule's error is known from the variances alone."""
    return rule[0] in ("independent", "nested") and rule[1] == "impulse"


@dataclass(frozen=True, eq=False)
class Curve:
    """How a rule's error on each difference falls with the number of firings.

    Attributes:
        firings: at which it was replayed, increasing, shape ``(J,)``.
        squares: mean squared errors there, were steps infinitely short, shape ``(J, I)``.
        orders: of the fall, as it goes on beyond both ends, shape ``(2, I)``.
        scale, order: of the law ``scale * firings^-order`` that shapes an allocation, shape ``(I,)``.
    """

    firings: np.ndarray
    squares: np.ndarray
    orders: np.ndarray
    scale: np.ndarray
    order: np.ndarray

    def at(self, which: np.ndarray, firings: np.ndarray) -> np.ndarray:
        """Mean squared error of the differences ``which`` at ``firings``, shape ``(..., k)``."""
        x = np.log(np.maximum(firings, 1e-9))
        knots, logs = np.log(self.firings), np.log(np.maximum(self.squares, 1e-300))
        out = np.empty(x.shape)
        for i, interval in enumerate(which):
            inside = np.interp(x[..., i], knots, logs[:, interval])
            below = np.minimum(x[..., i] - knots[0], 0.0) * self.orders[0, interval]
            beyond = np.maximum(x[..., i] - knots[-1], 0.0) * self.orders[1, interval]
            out[..., i] = np.exp(inside - below - beyond)
        return out


class Model:
    """Predictions from a recording. Squared errors are means over samples and components."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        count = recording.levels
        self.intervals: list[Interval] = (
            [(k - 1, k) for k in range(1, count + 1)]
            if recording.differences
            else [(a, b) for a in range(count) for b in range(a + 1, count + 1)]
        )
        self.index = {interval: i for i, interval in enumerate(self.intervals)}
        self._curves: dict[tuple[str, str], Curve] = {}
        self._parts: dict[tuple[int, ...], np.ndarray] = {}

    def __repr__(self) -> str:
        return f"Model({self.recording!r})"

    def part(self, levels: tuple[int, ...]) -> np.ndarray:
        """Responses of a sub-ladder's differences, shape ``(P, k, N, N)``; made once."""
        if levels not in self._parts:
            self._parts[levels] = self.recording.part(levels)
        return self._parts[levels]

    def floor(self, level: int, steps: np.ndarray | float) -> np.ndarray:
        """Mean squared error of one level at every step, against the exact solution of the top level."""
        gap = self.recording.gaps[level - 1]
        return np.asarray(gap**2 + self.step_square(steps))

    def step_square(self, steps: np.ndarray | float) -> np.ndarray:
        """Mean squared error of the step, and of rounding; infinite for as few steps as did not stay finite."""
        n = np.asarray(steps, dtype=np.float64)
        return np.where(n > self.burst, self._finite_step_square(n), np.inf)

    @property
    def tail(self) -> float:
        """What mean squares over the pilot's samples are multiplied with, for a tolerance, to be those over many.

        Not below 1: the few may be unlucky by chance alone.
        """
        return max(1.0, self.recording.tail) if math.isfinite(self.recording.tail) else 1.0

    @property
    def burst(self) -> int:
        """Most steps with which a run of the pilot did not stay finite; 0 if all did."""
        return int(self.recording.steps_seen[~np.isfinite(self.recording.changes)].max(initial=0)) // 2

    def _finite_step_square(self, n: np.ndarray) -> np.ndarray:
        r, known, errors = self.recording.strong_order, *self._step_errors
        rounding = (self.recording.epsilon * self.recording.size) ** 2 * n
        if r < 1 and len(known) > 1:
            a, b = self._two_orders
            return np.asarray(a / n + b / n**2 + rounding)
        x, logs, knots = np.log(n), np.log(errors), np.log(known)
        inside = np.interp(x, knots, logs)
        slope = r if len(known) < 2 else max(r, -(logs[1] - logs[0]) / (knots[1] - knots[0]))
        below = np.minimum(x - knots[0], 0.0) * slope
        beyond = np.maximum(x - knots[-1], 0.0) * r
        return np.asarray(np.exp(2.0 * (inside - below - beyond)) + rounding)

    @cached_property
    def _step_errors(self) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of steps, increasing, and the error of each, from the changes when their number is halved.

        That of the finest run is what the changes go on to; errors of whole order point the same way, so that those of
        coarser runs are it and the changes in between. At order 1/2 a change is as large as the error.
        """
        changes, r = self.recording.changes, self.recording.strong_order
        known = changes[: int(np.argmin(np.isfinite(changes)))] if not np.isfinite(changes).all() else changes
        if not len(known):
            return np.array([float(self.recording.steps)]), np.array([math.inf])
        seen = self.recording.steps_seen[: len(known)].astype(np.float64)
        if r < 1:
            return seen[::-1], np.maximum(known, 1e-150)[::-1]
        fall = 2.0**r
        if len(known) > 1 and 0 < known[0] < known[1]:  # falls faster while steps are coarse
            fall *= math.sqrt(min(2.0, max(1.0, known[1] / known[0] / fall / _STEADY)))
        errors = np.cumsum([known[0] / (fall - 1.0), *known])
        return np.append(seen, seen[-1] / 2.0)[::-1], np.maximum(errors, 1e-150)[::-1]

    @cached_property
    def _two_orders(self) -> tuple[float, float]:
        """``A, B >= 0`` of ``A / n + B / n^2``: order 1/2, and order 1 before it.

        ``A`` is what Milstein's step adds where that was run; else both are by least squares of the relative errors.
        """
        n, errors = self._step_errors
        if math.isfinite(self.recording.half_order):
            half = self.recording.half_order * self.recording.steps
            rest = np.maximum(errors**2 - half / n, 0.0) * n**2
            return half, float(np.median(rest))
        columns = np.stack([1.0 / n, 1.0 / n**2], axis=1) / errors[:, None] ** 2
        best, least = (0.0, 0.0), math.inf
        for used in ([0, 1], [0], [1]):
            found = np.linalg.lstsq(columns[:, used], np.ones(len(n)), rcond=None)[0]
            rest = float(((columns[:, used] @ found - 1.0) ** 2).sum())
            if (found >= 0).all() and rest < least:
                whole = np.zeros(2)
                whole[used] = found
                best, least = (float(whole[0]), float(whole[1])), rest
        return best

    def curve(self, rule: tuple[str, str]) -> Curve:
        """The curve of a rule on every difference; replayed once."""
        if rule not in self._curves:
            self._curves[rule] = self._replayed(rule)
        return self._curves[rule]

    def columns(self, levels: tuple[int, ...]) -> np.ndarray:
        """Numbers of a sub-ladder's differences among :attr:`intervals`."""
        return np.array([self.index[pair] for pair in zip((0, *levels), levels, strict=False)])

    def _replayed(self, rule: tuple[str, str]) -> Curve:
        correction = rule[1]
        steps, squares = self.recording.steps, []
        for p in THINNED[::-1]:
            if by_chance(rule):
                square = replay.impulse_squares(self._whole).sum(axis=0) / p
            else:
                table = np.full((steps, len(self.intervals)), p)
                square = self._replay(self._whole, rule, table).mean(axis=0) / spacing_factor(rule, p)
            squares.append(square)
        firings, logs = steps * np.array(THINNED[::-1]), np.log(np.maximum(np.array(squares), 1e-300))
        slopes = -np.diff(logs, axis=0) / np.log(2.0)
        steepest = np.array([1.0 if by_chance(rule) else self.steepest(pair, correction) for pair in self.intervals])
        ends = np.clip(np.stack([slopes[0], slopes[-1]]), 0.5, steepest)
        order = np.clip(slopes.mean(axis=0), 0.5, steepest)
        scale = np.exp(logs.mean(axis=0) + order * np.log(firings).mean())
        return Curve(firings, np.array(squares), ends, scale, order)

    def steepest(self, interval: Interval, correction: str) -> float:
        """Largest order in the number of firings that is trusted beyond those that were replayed.

        A difference whose increments over a lag have mean square ``lag^s`` is integrated from ``m`` of its values with
        a mean squared error of order ``m^-(1 + s)``; where errors add up coherently it is no better than ``m^-2``.
        """
        a, b = interval
        slope = float(np.polyfit(np.log(LAGS), np.log(self._increments[:, a:b].sum(axis=1)), 1)[0])
        most = _STEEPEST.get(correction, 2.0) if self.recording.deterministic and slope > _SMOOTH else 2.0
        # a slope is seen at lags of the pilot's steps; below them a rough difference may be rougher still
        return min(most, 1.0 + max(0.0, 1.5 * slope - 0.5)) if slope <= _SMOOTH else most

    @cached_property
    def _increments(self) -> np.ndarray:
        return np.maximum(self.recording.increments, 1e-300)

    @cached_property
    def _whole(self) -> np.ndarray:
        """Responses of every difference between two levels, shape ``(P, I, N, N)``."""
        if self.recording.differences:
            return self.recording.responses
        sums = np.cumsum(self.recording.responses, axis=1)
        parts = [sums[:, b - 1] - (sums[:, a - 1] if a else 0.0) for a, b in self.intervals]
        return np.stack(parts, axis=1)

    def coins_squares(
        self, levels: tuple[int, ...], rule: tuple[str, str], table: np.ndarray, steps: int
    ) -> np.ndarray:
        """Mean squared error that a table of probabilities adds, for each sample of the pilot, shape ``(S,)``.

        A table that is denser than the pilot's grid is thinned until it fits, and what the thinned one adds is
        carried back by the order at which it falls.

        Args:
            levels: of the sub-ladder.
            rule: coins and correction.
            table: probabilities of a run, at the pilot's times, shape ``(N, k)``.
            steps: of that run.
        """
        part, scale, unsure = self.part(levels), steps / self.recording.steps, table < 1.0
        if by_chance(rule):
            return self._by_sample(self._chance(part, rule[0], table) / scale * self.trust(rule))
        dense = np.where(unsure, table * scale, 0.0).max(axis=0)
        thin = 2.0 ** np.maximum(0.0, np.ceil(np.log2(np.maximum(dense, 1e-12) / THINNED[0])))
        found = [
            self._replay(part, rule, np.where(unsure, table * scale / thin / factor, 1.0)) for factor in (2.0, 1.0)
        ]
        means = [np.maximum(squares.mean(axis=0), 1e-300) for squares in found]
        steepest = np.array([self.steepest(pair, rule[1]) for pair in pairwise((0, *levels))])
        order = np.clip(np.log2(means[0] / means[1]), 0.5, steepest)
        mean = (table * unsure).sum(axis=0) / np.maximum(unsure.sum(axis=0), 1)
        shown = np.minimum(mean * scale / thin, 1.0)
        rest = spacing_factor(rule, mean) / np.maximum(spacing_factor(rule, shown), 1e-3)
        factors = np.where(unsure.any(axis=0), thin**-order * rest * self.trust(rule), 0.0)
        return self._by_sample(found[1] @ factors)

    def luck(self, levels: tuple[int, ...], rule: tuple[str, str], table: np.ndarray, steps: int) -> float:
        """Standard deviation over the coins of the mean square that they add, in parts of its mean."""
        scale, unsure = steps / self.recording.steps, table < 1.0
        dense = np.where(unsure, table * scale, 0.0).max(axis=0)
        thin = 2.0 ** np.maximum(0.0, np.ceil(np.log2(np.maximum(dense, 1e-12) / THINNED[0])))
        thinned = np.where(unsure, table * scale / thin, 1.0)
        found = replay.defects(self.part(levels), self.recording.times, thinned, *rule)
        squares = (found.sum(axis=1) ** 2).mean(axis=0)
        return float(squares.std() / max(squares.mean(), 1e-300))

    def _by_sample(self, squares: np.ndarray) -> np.ndarray:
        """Means over the projections of each sample."""
        return np.asarray(squares.reshape(-1, self.recording.samples).mean(axis=0))

    def _replay(self, part: np.ndarray, rule: tuple[str, str], table: np.ndarray) -> np.ndarray:
        """Mean squares of what each difference adds to the projections, shape ``(P, k)``."""
        times, (coin, correction) = self.recording.times, rule
        if coin != "periodic":
            return np.asarray((replay.defects(part, times, table, coin, correction) ** 2).mean(axis=2))
        squares = [
            replay.defects(part, times, np.where(table < 1.0, np.minimum(table * near, 0.95), 1.0), coin, correction)
            ** 2
            for near in _NEARBY
        ]
        return np.asarray(np.mean(squares, axis=0)[..., 0])

    @cached_property
    def doubt(self) -> float:
        """By how much squares of stitched runs are enlarged, where the pilot gives reason to doubt them.

        Where first order is seen to be off, in either direction; and where errors were carried to the end by a level
        whose derivative is not the top level's.
        """
        off, unlike = self.recording.linearity, self.recording.unlike
        factor = (max(off, 1.0 / off) if off > 0 else _MOST_DOUBT) * (1.0 + unlike)
        return min(_MOST_DOUBT, factor) ** 2

    def trust(self, rule: tuple[str, str]) -> float:
        """What squares foreseen for a rule are multiplied with: what coins did on the pilot's own samples.

        Impulses are trusted less where the level that carried them to the end has not the top level's derivative.
        """
        impulse, memory = self.recording.trials
        off = memory if rule[1] in MEMORY else max(impulse, 1.0 + 0.5 * self.recording.unlike)
        return min(_MOST_DOUBT, max(_LEAST_DOUBT, off)) ** 2

    def _chance(self, part: np.ndarray, coin: str, table: np.ndarray) -> np.ndarray:
        """Independent and nested impulses, without chance, for each projection, shape ``(P,)``."""
        p, here = np.maximum(table, 1e-12), replay.diagonal(part)
        own = np.einsum("nk,pkn->p", 1.0 / p - 1.0, here**2)
        if coin == "independent":
            return np.asarray(own)
        shared = 1.0 / np.maximum(p[:, :, None], p[:, None, :]) - 1.0
        both = np.einsum("njk,pjn,pkn->p", shared, here, here)
        return np.asarray(np.maximum(both, 0.0))
