"""``multilevel="auto"`` and ``tol=`` of :func:`mlsde.solve`: a pilot, a choice, and the run with the pilot charged."""

from __future__ import annotations

import math
import sys
import warnings
from typing import Any

import numpy as np
from torch import Tensor

from mlsde import checks
from mlsde.calibration import measure, pilot
from mlsde.calibration.recommendation import Recommendation
from mlsde.calibration.result import Calibration
from mlsde.calibration.runs import Runs
from mlsde.chunks.ranks import Ranks
from mlsde.log import log
from mlsde.multilevel import Share
from mlsde.sde import SDE
from mlsde.steppers import METHODS

_MANY_STEPS = 10_000_000
"""Steps beyond which a budget was hardly meant in seconds."""

SHARE = 0.1
"""Of the run's price that a pilot may cost."""

_PILOT_STEPS = (16, 32, 64)
"""Of the pilots for a tolerance, whose price is not known before: each is only run if the run is large enough."""


def chosen(
    sde: SDE,
    y0: Tensor,
    t_span: Any,
    *,
    steps: int | None,
    times: Any,
    method: str,
    budget: float | None,
    tol: float | None,
    calibration: Calibration | None,
    seed: int,
    trajectories: int | None = None,
    share: Share = "batch",
    work: Ranks | None = None,
) -> tuple[Recommendation, float]:
    """What to run, and the price of finding out per trajectory; warns of what is wrong.

    Args:
        sde: the equation.
        y0: initial states of the run.
        t_span: as of :func:`mlsde.solve`.
        steps: likewise; with ``budget`` or ``tol`` it may be left out.
        times: likewise.
        method: the stepper.
        budget: price per trajectory, the pilot included.
        tol: root mean square error per component.
        calibration: of an earlier pilot, which is then not run again.
        seed: of the pilot.
        trajectories: of the run, among which the pilot's price is shared out; by default those of ``y0``.
        share: who shares the coins, as of :class:`mlsde.Multilevel`.
        work: the processes that share the pilot, all of which call this alike; this one alone by default.

    Raises:
        TypeError, ValueError: for bad input, naming the argument.
    """
    if budget is not None and tol is not None:
        raise ValueError("give one of budget= and tol=, got both.")
    checks.one_of("method", method, tuple(METHODS))
    free = steps is None and times is None
    if free and budget is None and tol is None:
        raise ValueError('multilevel="auto" needs one of budget=, tol=, steps= and times=, got none.')
    fixed = None if free else len(checks.time_grid(t_span, steps, times)) - 1
    if calibration is not None:
        known = _checked(calibration, sde, method)
        grid = known.times if free else checks.time_grid(t_span, steps, times)
        _refuse_other_span(known, grid[[0, -1]] if t_span is None or not free else checks.time_span(t_span))
        priced = sde.with_drift(sde.drift.priced(known.recording.costs.tolist()))  # whatever noise this run has
        known = known.on_grid(grid, priced)
        return _told(known.recommend(budget=budget, tol=tol, steps=fixed, share=share)), 0.0
    count = checks.state("y0", y0).shape[0] if trajectories is None else trajectories
    if tol is not None:
        return _for_tolerance(sde, y0, t_span, steps, times, method, tol, fixed, seed, count, share, work)
    return _for_price(sde, y0, t_span, steps, times, method, budget, fixed, seed, count, share, work)


def _checked(calibration: object, sde: SDE, method: str) -> Calibration:
    if not isinstance(calibration, Calibration):
        raise TypeError(f"calibration must be an mlsde.Calibration, got {type(calibration).__name__}.")
    if calibration.sde.drift.levels != sde.drift.levels:
        raise ValueError("calibration is of another ladder; calibrate this one, or load it for this equation.")
    if calibration.recording.method != method:
        raise ValueError(
            f"calibration was made with method={calibration.recording.method!r}, but this run has {method!r}; "
            "make them agree."
        )
    return calibration


def _refuse_other_span(calibration: Calibration, ends: Any) -> None:
    theirs = calibration.recording.times[[0, -1]]
    if not np.allclose(ends, theirs, rtol=1e-6, atol=1e-12):
        raise ValueError(
            f"calibration was measured from t={theirs[0]:g} to {theirs[1]:g}, but this run goes from {ends[0]:g} to "
            f"{ends[1]:g}; calibrate anew."
        )


def _callers_level() -> int:
    """How far up the first function outside the package is, for a warning that points there."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "mlsde":
        frame, level = frame.f_back, level + 1
    return level


def _told(found: Recommendation) -> Recommendation:
    words = "chosen: %s; predicted error %.3g at %.6g per trajectory"
    log.info(words, found.describe(), found.predicted_error, found.predicted_cost)
    for sentence in found.warnings:
        warnings.warn(sentence, UserWarning, stacklevel=_callers_level())
    return found


def _priced(sde: SDE, y0: Tensor, t_span: Any, times: Any, method: str, work: Ranks | None) -> tuple[SDE, float]:
    """The equation with costs, and the price of one step of one sample of a pilot."""
    ends = np.array(checks.time_span(t_span)) if times is None else checks.time_grid(t_span, None, times)[[0, -1]]
    checks.state("y0", y0)
    priced, _, _ = measure.prices(sde, float(ends[0]), y0, None, Runs(work))
    costs, stages = np.array(priced.drift.required_costs("a pilot")), METHODS[method].stages
    each = pilot.step_price(costs, priced.drift.differences, math.prod(y0.shape[1:]), stages)
    return priced, each


def _for_price(
    sde: SDE,
    y0: Tensor,
    t_span: Any,
    steps: int | None,
    times: Any,
    method: str,
    budget: float | None,
    fixed: int | None,
    seed: int,
    trajectories: int,
    share: Share,
    work: Ranks | None,
) -> tuple[Recommendation, float]:
    checks.one_of("method", method, tuple(METHODS))
    priced, each = _priced(sde, y0, t_span, times, method, work)
    costs = priced.drift.required_costs("a pilot")
    top = (sum(costs) if priced.drift.differences else costs[-1]) * METHODS[method].stages
    if budget is None:
        assert fixed is not None
        price = top * fixed
    else:
        price = checks.positive_number("budget", budget)
    count = fixed if fixed is not None else max(1, math.ceil(price / top))
    if sde.drift.costs is None and fixed is None and count > _MANY_STEPS:
        raise ValueError(
            f"budget={budget} is in seconds per trajectory here, because the ladder has no prices, and would pay for "
            f"{count:.2g} steps; give DriftHierarchy(..., costs=[...]), or a budget in seconds."
        )
    grid: dict[str, Any] = {"steps": count} if times is None else {"times": times}
    if measure.size(SHARE * price * trajectories / each) is None or len(priced.drift) == 1:
        return _told(
            _without_pilot(priced, y0, t_span, grid, method, price, top, budget is not None, trajectories)
        ), 0.0
    known = measure.measured(
        priced,
        y0,
        checks.time_grid(t_span, grid.get("steps"), grid.get("times")),
        Runs(work),
        budget=price,
        share=SHARE,
        method=method,
        unit="declared",
        seed=seed,
        trajectories=trajectories,
    )
    if budget is None:
        return _told(known.recommend(steps=fixed, share=share)), known.cost
    return _told(known.recommend(budget=price - known.cost, steps=fixed, share=share)), known.cost


def _without_pilot(
    sde: SDE,
    y0: Tensor,
    t_span: Any,
    grid: dict[str, Any],
    method: str,
    price: float,
    top: float,
    limited: bool,
    trajectories: int,
) -> Recommendation:
    """The top level as often as it can be paid for; a run too small for a pilot has nothing better to go by."""
    times = checks.time_grid(t_span, grid.get("steps"), grid.get("times"))
    level = len(sde.drift)
    n = len(times) - 1
    if limited:
        costs = np.array(sde.drift.required_costs("a pilot")) * METHODS[method].stages
        prices = (np.cumsum(costs) if sde.drift.differences else costs).tolist()
        level = max((k + 1 for k, one in enumerate(prices) if one <= price * (1 + 1e-9)), default=0)
        if level == 0:
            raise ValueError(f"budget={price:g} does not pay for one step of the cheapest level, {min(prices):g}.")
        n = math.floor(price / prices[level - 1] * (1 + 1e-12))
        top = prices[level - 1]
    one_level = len(sde.drift) == 1
    reason = (
        "the ladder has one level, so there is nothing to choose but the number of steps; give a cheaper one too."
        if one_level
        else f"a run of {trajectories} trajectories at {price:.4g} each is too small for a pilot at {SHARE:.0%} of its "
        "price; the top level was taken unseen, so calibrate once, and hand it over with calibration=."
    )
    why = f"{reason[0].upper()}{reason[1:]} No error is predicted."
    return Recommendation(
        sde, measure.thinned(times, n), method, (level,), level, None, math.nan, n * top, "plain", why, (), (reason,)
    )


def _for_tolerance(
    sde: SDE,
    y0: Tensor,
    t_span: Any,
    steps: int | None,
    times: Any,
    method: str,
    tol: float,
    fixed: int | None,
    seed: int,
    trajectories: int,
    share: Share,
    work: Ranks | None,
) -> tuple[Recommendation, float]:
    """Pilots that double, as long as the run they point to is large enough to pay for the next."""
    checks.positive_number("tol", tol)
    checks.one_of("method", method, tuple(METHODS))
    priced, each = _priced(sde, y0, t_span, times, method, work)
    grid = checks.time_grid(t_span, (fixed or 1024) if times is None else None, times)
    spent, samples = 0.0, 8
    for n, after in zip(_PILOT_STEPS, (*_PILOT_STEPS[1:], None), strict=True):
        known = measure.measured(
            priced,
            y0,
            grid,
            Runs(work),
            method=method,
            unit="declared",
            seed=seed,
            pilot_steps=n,
            pilot_samples=samples,
            trajectories=trajectories,
            crowd=True,
        )
        spent += known.cost
        found = known.recommend(tol=tol, steps=fixed, share=share)
        allowed = SHARE * found.predicted_cost * trajectories
        if after is None or spent * trajectories + after * samples * each * (1.0 + measure.CROWDED) > allowed:
            break
    return _told(found), spent
