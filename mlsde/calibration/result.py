"""A calibration: what a pilot measured of a ladder, in the field's terms, and what it recommends."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from mlsde import checks
from mlsde.calibration import advice, candidates, choice, recommendation
from mlsde.calibration.candidates import Candidate
from mlsde.calibration.model import Model
from mlsde.calibration.price import PriceExponent, fit_gamma
from mlsde.calibration.recommendation import Recommendation
from mlsde.calibration.recording import LAGS, Recording
from mlsde.multilevel import SHARES, Share
from mlsde.sde import SDE
from mlsde.showing import Rows, as_html, as_text
from mlsde.variances import LevelVariances

_MOST_STEPS = 20_000
"""Of the top level: what a tolerance may cost before it is out of reach."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """What a pilot measured; made by :func:`mlsde.calibrate`.

    Errors are root mean squares over samples and components, against the exact solution of the top level.

    Attributes:
        sde: the equation; its ladder has costs.
        times: the grid of the run to come.
        recording: the measurements themselves.
        trajectories: of the run to come.
        warnings: what is wrong with the ladder or the pilot, a sentence each.

    Example:
        >>> import mlsde, torch
        >>> drift = mlsde.DriftHierarchy([lambda t, y: -y, lambda t, y: -torch.sin(y)], costs=[1.0, 50.0])
        >>> calibration = mlsde.calibrate(mlsde.SDE(drift, 0.5), torch.zeros(1000, 1), (0, 1), steps=100)
        >>> calibration.variances.values.shape[1], calibration.recommend(budget=500.0).kind
        (2, 'multilevel')
    """

    sde: SDE
    times: np.ndarray
    recording: Recording
    trajectories: int
    warnings: tuple[str, ...]

    @property
    def price(self) -> float:
        """Price of the pilot in all, in units of the costs."""
        return self.recording.price

    @property
    def cost(self) -> float:
        """Price of the pilot per trajectory of the run to come."""
        return self.recording.price / self.trajectories

    @cached_property
    def model(self) -> Model:
        """Predictions from the recording."""
        return Model(self.recording)

    @cached_property
    def price_exponent(self) -> PriceExponent:
        """Exponent of the price of accuracy with its interval, and the levels it was read off."""
        sound = self.recording.sound
        found = fit_gamma(self.recording.costs[sound], self.recording.squares[:, sound])
        number = (np.flatnonzero(sound) + 1).tolist()
        dropped = tuple((number[level - 1], reason) for level, reason in found.dropped)
        return replace(found, used=tuple(number[level - 1] for level in found.used), dropped=dropped)

    @property
    def gamma(self) -> float:
        """A level whose error is ``eps`` costs ``eps^-gamma``; infinite where errors do not fall, NaN if unknown."""
        return self.price_exponent.gamma

    @property
    def gamma_interval(self) -> tuple[float, float]:
        """95 % interval of :attr:`gamma`."""
        return self.price_exponent.interval

    @property
    def variances(self) -> LevelVariances:
        """``V_k(t)``, for :class:`mlsde.Optimal`; infinite for a level that was not finite along the pilot."""
        times, values = self.recording.times[:-1], self.recording.variances
        order = np.argsort(times)
        return LevelVariances(times[order], values[order], self.cost)

    def sensitivity(self, t: float) -> float:
        """``w(t) = |dY_T / dY_t|^2`` per component, for :class:`mlsde.Optimal`."""
        times, w = self.recording.times[1:], self.recording.sensitivity
        order = np.argsort(times)
        when = checks.finite_number("t", t)
        return float(np.exp(np.interp(when, times[order], np.log(np.maximum(w, 1e-300))[order])))

    @cached_property
    def smoothness(self) -> tuple[float, ...]:
        """Exponent of ``E|D_k(t + lag) - D_k(t)|^2`` in the lag, per level.

        2: the differences are smooth in time, and lines through them can be trusted; 1: they wander like a Brownian
        path; near 0: one firing tells nothing of the next step. NaN for a difference that does not change.
        """
        x = np.log(LAGS)
        rows = np.log(np.maximum(self.recording.increments, 1e-300))
        slopes = [float(np.polyfit(x, row, 1)[0]) for row in rows.T]
        still = (self.recording.increments <= 1e-24 * self.recording.variances.mean(axis=0)).all(axis=0)
        return tuple(math.nan if flat else slope for flat, slope in zip(still, slopes, strict=True))

    def predicted_step_error(self, steps: int) -> float:
        """Predicted error of the top level at every one of so many steps."""
        return float(np.sqrt(self.model.step_square(checks.positive_integer("steps", steps))))

    def recommend(
        self,
        *,
        budget: float | None = None,
        tol: float | None = None,
        steps: int | None = None,
        share: Share = "batch",
    ) -> Recommendation:
        """Choose among the top level, every single level, two-level stitching and ML-EM with every rule.

        Args:
            budget: expected cost per trajectory; the least predicted error is chosen.
            tol: root mean square error per component instead, against the exact solution of the top level; the least
                cost is chosen at which the predicted error leaves a margin. With neither, what is as accurate as the
                top level on the grid of the run to come, for less.
            steps: number of steps, if it is settled; free by default. Explicit grids are thinned or refined evenly.
            share: ``"batch"`` or ``"sample"``, as of :class:`mlsde.Multilevel`.

        Raises:
            TypeError, ValueError: for bad input, naming the argument, also for a budget that pays for nothing.
        """
        fixed = None if steps is None else checks.positive_integer("steps", steps, checks.MOST_STEPS)
        checks.one_of("share", share, SHARES)
        if budget is not None and tol is not None:
            raise ValueError("give one of budget= and tol=, got both.")
        if tol is not None:
            return self._within(checks.positive_number("tol", tol), fixed, share)
        if budget is None:
            return self._as_accurate(fixed, share)
        price = checks.positive_number("budget", budget)
        found = choice.for_budget(self.model, price, fixed)
        if found is None:
            least = choice.least_price(self.model, fixed)
            raise ValueError(f"budget={price:g} does not pay for the least that a run costs, {least:g}.")
        if not math.isfinite(found.best.square):
            raise ValueError(
                f"budget={price:g} pays for no run that is known to stay finite: with {self.model.burst} steps the "
                f"pilot did not, and {recommendation.in_words(found.best)} takes no more. Give more, or calibrate with "
                "more pilot_steps=."
            )
        return self._made(found, price, share, advice.for_budget(found), advice.useless(found, self.recording))

    def _within(self, tol: float, steps: int | None, share: str) -> Recommendation:
        tail = self.model.tail
        square = (tol / advice.MARGIN) ** 2 / tail
        most = _MOST_STEPS * self.recording.evaluation(self.recording.levels) * self.recording.stages
        found = choice.for_error(self.model, square, steps, most)
        if found is not None:
            found = found.enlarged(tail)
            return self._made(found, found.best.cost, share, advice.for_tolerance(found, tol, self.recording))
        most = most if steps is None else min(most, most * steps / _MOST_STEPS)
        best = choice.for_budget(self.model, most, steps)
        assert best is not None, "it pays for thousands of steps"
        best = best.enlarged(tail)
        return self._made(best, most, share, *advice.out_of_reach(best, tol, self.recording))

    def _as_accurate(self, steps: int | None, share: str) -> Recommendation:
        n = len(self.times) - 1 if steps is None else steps
        top = float(self.model.step_square(n))
        if not math.isfinite(top):
            raise ValueError(
                f"steps={n} are too few: a run of the pilot with {self.model.burst} became NaN or infinite."
            )
        found = choice.for_error(self.model, advice.AS_ACCURATE**2 * top, n)
        if found is None:  # the pilot's doubts leave nothing but the top level itself
            price = n * self.recording.evaluation(self.recording.levels) * self.recording.stages
            alone = candidates.top_level(self.model, n, price)
            found = choice.Choice(alone, (), alone)
        return self._made(found, found.best.cost, share, advice.as_accurate(found, n))

    def _made(
        self, found: choice.Choice, budget: float, share: str, why: str, warning: str | None = None
    ) -> Recommendation:
        one = found.best
        times = self.grid(one.steps)
        sde, level, multilevel = recommendation.arguments(self.sde, one, times, self.recording.times, budget, share)
        warnings = self.warnings if warning is None else (*self.warnings, warning)
        return Recommendation(
            sde, times, self.recording.method, tuple(sorted(one.levels)), level, multilevel, _root(one), one.cost,
            one.kind, why, tuple((recommendation.in_words(rival), _root(rival)) for rival in found.rivals), warnings,
        )  # fmt: skip

    def on_grid(self, times: np.ndarray, sde: SDE | None = None) -> Calibration:
        """The same measurements for a run on another grid, or of the same ladder with another noise."""
        other = replace(self, times=times, sde=self.sde if sde is None else sde)
        other.__dict__["model"] = self.model
        return other

    def grid(self, steps: int) -> np.ndarray:
        """The grid of the run to come, thinned or refined to another number of steps."""
        checks.positive_integer("steps", steps, checks.MOST_STEPS)
        count = len(self.times) - 1
        places = np.linspace(0.0, count, steps + 1)
        return np.asarray(np.interp(places, np.arange(count + 1.0), self.times))

    def frontier(self, budgets: Any) -> dict[str, list[float]]:
        """Predicted errors at each budget: of the best plain method, the paper's rule, and what is recommended."""
        prices = checks.as_float64("budgets", budgets)
        rows: dict[str, list[float]] = {"plain": [], "paper": [], "recommended": []}
        for price in prices.tolist():
            for name, error in choice.frontier_point(self.model, price).items():
                rows[name].append(error)
        return rows

    def save(self, file: str | os.PathLike[str]) -> None:
        """Write the measurements, to be read by :meth:`load`; ``OSError`` as the file system has it."""
        self.recording.save(file)

    @classmethod
    def load(
        cls, file: str | os.PathLike[str], sde: SDE, t_span: Any = None, *, steps: int | None = None, times: Any = None,
        trajectories: int = 1,
    ) -> Calibration:  # fmt: skip
        """Read a saved calibration of the same equation, for a run on another grid if need be.

        Args:
            file: that :meth:`save` wrote.
            sde: the equation; its ladder must have the levels that were measured.
            t_span: of the run to come; that of the pilot by default.
            steps: likewise.
            times: likewise.
            trajectories: of the run to come.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is damaged or of another ladder, naming what differs.
        """
        if not isinstance(sde, SDE):
            raise TypeError(f"sde must be an mlsde.SDE, which mlsde.SDE(drift, ...) makes, got {type(sde).__name__}.")
        recording = Recording.load(file)
        names = sde.drift.names
        if len(names) != recording.levels or (names != recording.names):
            raise ValueError(
                f"file={str(file)!r} is of a ladder with levels {', '.join(recording.names)}, but this one has "
                f"{', '.join(names)}; calibrate anew."
            )
        theirs = (float(recording.times[0]), float(recording.times[-1]))
        span = theirs if t_span is None and times is None else t_span
        grid = recording.times if steps is None and times is None else checks.time_grid(span, steps, times)
        ends = checks.time_span(span) if steps is None and times is None else (grid[0], grid[-1])
        if not np.allclose(ends, theirs, rtol=1e-6, atol=1e-12):
            raise ValueError(f"file={str(file)!r} was measured from {theirs[0]} to {theirs[1]}; calibrate anew.")
        with_costs = sde.with_drift(sde.drift.priced(recording.costs.tolist()))
        return cls(with_costs, grid, recording, checks.positive_integer("trajectories", trajectories), ())

    def figure(self, file: str | os.PathLike[str], *, budget: float | None = None) -> str:
        """Draw ``V_k(t)``, the recommended ``p_k(t)`` and the predicted frontier; returns the file's name."""
        from mlsde.calibration.figure import save_calibration  # noqa: PLC0415, matplotlib

        return save_calibration(self, file, budget)

    __repr__ = as_text
    _repr_html_ = as_html

    def _report(self) -> list[str | Rows]:
        return advice.report(self)


def _root(one: Candidate) -> float:
    return float(math.sqrt(one.square))
