"""Sentences and tables: why a method was chosen, and what is wrong with a ladder, a wish or a pilot."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from mlsde.calibration import recommendation
from mlsde.calibration.candidates import Candidate
from mlsde.calibration.choice import Choice
from mlsde.calibration.recording import FARTHER, Recording
from mlsde.showing import Rows

if TYPE_CHECKING:
    from mlsde.calibration.result import Calibration

MARGIN = 1.5
"""The predicted error is kept below a tolerance by this factor, because the pilot saw a few runs only."""

AS_ACCURATE = 1.1
"""Error over that of the top level on the same grid that still counts as accurate as it."""

_UNSTABLE = 1e8
"""Mean square growth of an error along a pilot above which it is the pilot's steps that make it grow."""

_MANY_STEPS = 256
"""Steps of Euler's from which on it is worth to say that there are steppers of higher order."""

_EQUAL = 1e-12
"""Relative size of a difference that is none."""


def for_budget(found: Choice) -> str:
    """Why this for a price."""
    best = found.best
    first = f"At this price {recommendation.in_words(best)} has the least predicted error, {_root(best.square):.3g}."
    return f"{first} {_rival(found)}"


def for_tolerance(found: Choice, tol: float, recording: Recording) -> str:
    """Why this for a tolerance."""
    best = found.best
    words = recommendation.in_words(best)
    first = (
        f"{words[0].upper()}{words[1:]} is the cheapest way seen to stay below tol={tol:g} with a margin of "
        f"{MARGIN:g}: predicted error {_root(best.square):.3g} at {best.cost:.4g} per trajectory."
    )
    higher = recording.deterministic and recording.method == "euler" and best.steps >= _MANY_STEPS
    hint = " Without noise method='heun' may need far fewer steps." if higher else ""
    return f"{first} {_rival(found)}{hint}"


def as_accurate(found: Choice, steps: int) -> str:
    """Why this in place of the top level at every step."""
    words = recommendation.in_words(found.best)
    first = (
        f"{words[0].upper()}{words[1:]} is the cheapest way seen that is predicted to be as accurate as the top level "
        f"at every one of {steps} steps, at {found.best.cost:.4g} per trajectory."
    )
    return f"{first} {_rival(found, with_top=False)}"


def out_of_reach(found: Choice, tol: float, recording: Recording) -> tuple[str, str]:
    """Why this where a tolerance cannot be met, and the warning that says so."""
    reached = _root(found.best.square)
    dtype = "float32" if recording.epsilon > 1e-10 else "float64"
    rounding = recording.epsilon * recording.size * math.sqrt(found.best.steps)
    cause = f"the rounding of {dtype}" if rounding > 0.3 * reached else "the step of the top level"
    mend = "use float64" if cause.endswith("float32") else "take a stepper of higher order, or a larger tol"
    warning = (
        f"tol={tol:g} is below what {cause} lets this run reach within a sensible price, about {reached:.2g}; "
        f"the most accurate run was chosen instead, so {mend}."
    )
    return for_budget(found), warning


def useless(found: Choice, recording: Recording) -> str | None:
    """A warning where what is predicted to be missed is as large as the solution."""
    error = _root(found.best.square)
    if error <= recording.size:
        return None
    return (
        f"the predicted error, {error:.2g}, is no less than the end state itself, {recording.size:.2g}: the budget is "
        "too small for this equation; give more, or a shorter span."
    )


def _rival(found: Choice, *, with_top: bool = True) -> str:
    """What the next best kind would have done at the same price, and the top level alone if that is another way."""
    best, top = found.best, found.top
    sentences = []
    if found.rivals:
        rival = found.rivals[0]
        ratio, words = _ratio(rival, best), recommendation.in_words(rival)
        if best.kind != "plain":
            sentences.append(f"For the same price {words} is predicted to miss by {ratio:.3g} times as much.")
        else:
            verdict = "The ladder does not pay here" if best is top else "Using levels together does not pay here"
            missed = (
                f"at {ratio:.2g} times that, too little for its risk"
                if ratio < 1.0
                else f"to miss by {ratio:.3g} times as much"
            )
            sentences.append(f"{verdict}: {words} is predicted {missed}.")
    named = [(one.kind, one.levels) for one in (best, *found.rivals[:1])]
    if with_top and top is None:
        sentences.append("It does not pay for the top level alone.")
    elif with_top and top is not None and (top.kind, top.levels) not in named:
        ratio, words = _ratio(top, best), recommendation.in_words(top)
        sentences.append(f"The top level, {words}, is predicted to miss by {ratio:.3g} times as much.")
    return " ".join(sentences) or "The price pays for nothing else."


def _ratio(one: Candidate, best: Candidate) -> float:
    """Predicted error of one over that of another, infinite where the other has none."""
    return _root(one.square) / _root(best.square) if best.square > 0 else math.inf


def about_the_ladder(recording: Recording) -> list[str]:
    """What is wrong with a ladder, a sentence each."""
    found, count = [], recording.levels
    if count == 1:
        return [
            "the ladder has one level, so there is nothing to gain but the number of steps; give a cheaper one too."
        ]
    variances, sound = recording.variances.mean(axis=0), recording.sound
    for k in (np.flatnonzero(~sound) + 1).tolist():
        found.append(f"level {k} became NaN or infinite along the pilot; leave it out.")
    first = variances[sound][0]
    for k in range(2, count + 1):
        if sound[k - 2] and variances[k - 1] <= _EQUAL * first:
            found.append(f"levels {k - 1} and {k} are the same along the pilot; leave the dearer one out.")
    if recording.differences:
        return found
    for k in range(1, count):
        if recording.costs[k] <= recording.costs[k - 1]:
            found.append(f"level {k + 1} is not dearer than level {k}; order the levels by price, or leave {k} out.")
        below, here = recording.gaps[k - 1], recording.gaps[k]
        if k < count - 1 and here > FARTHER * below and recording.costs[k] > recording.costs[k - 1]:
            found.append(
                f"level {k + 1} is dearer than level {k} but farther from the top level ({here:.2g} after "
                f"{below:.2g}); leave it out, or put the levels in order."
            )
    return found


def about_the_pilot(recording: Recording) -> list[str]:
    """What cannot be trusted of a pilot."""
    many, level = recording.crowd
    if not math.isfinite(recording.tail):
        return [
            f"level {level} became NaN or infinite on some of {many} samples, but on none of the pilot's "
            f"{recording.samples}: {recording.steps} steps are too few for all; give pilot_steps=, as many as the run "
            "needs to be stable."
        ]
    grown = float(recording.sensitivity.max())
    if grown > _UNSTABLE:
        return [
            f"errors grow {math.sqrt(grown):.2g} times along the pilot: its {recording.steps} steps are too long for "
            "this equation, or nothing can be foreseen of it; give pilot_steps=, as many as the run needs to be stable."
        ]
    worst = max(recording.trials, key=lambda off: max(off, 1.0 / max(off, 1e-9)))
    if not 1 / 3 < worst < 3:
        off = f"{worst:.2g} times as much as" if worst > 1 else f"{1 / max(worst, 1e-9):.2g} times less than"
        return [
            f"coins on the pilot's own samples missed by {off} first order foresees, so predictions are rough here; a "
            "pilot with more steps may help."
        ]
    return []


def report(calibration: Calibration) -> list[str | Rows]:
    """A calibration as a table."""
    recording = calibration.recording
    flops = recording.flops or (math.nan,) * recording.levels
    cells = [("", "cost", "seconds", "FLOPs", "V_k", "smoothness", "alone")]
    rows = zip(
        recording.names, recording.costs, recording.seconds, flops, recording.variances.mean(axis=0),
        calibration.smoothness, recording.gaps, strict=True,
    )  # fmt: skip
    for name, cost, seconds, count, variance, smooth, gap in rows:
        counted = f"{count:.3g}" if math.isfinite(count) else "-"
        cells.append(
            (name[:12], f"{cost:.4g}", f"{seconds:.3g}", counted, f"{variance:.3g}", f"{smooth:.2f}", f"{gap:.3g}")
        )
    n = len(calibration.times) - 1
    return [
        f"Calibration: {recording.samples} runs of {recording.steps} steps by {recording.method}, "
        f"price {recording.price:.4g} ({calibration.cost:.4g} per trajectory of the run); costs {recording.unit}",
        Rows(cells, ("12", ">11", ">11", ">11", ">11", ">12", ">11"), gap=""),
        f"  {_gamma(calibration)}; sensitivity {_range(recording.sensitivity)}",
        f"  error of the step, predicted for {n} steps of the top level: {calibration.predicted_step_error(n):.3g}",
        *_of_the_crowd(recording),
        *(f"  warning: {warning}" for warning in calibration.warnings),
    ]


def _of_the_crowd(recording: Recording) -> list[str]:
    many, level = recording.crowd
    if many == 0 or not math.isfinite(recording.tail):
        return []
    off = math.sqrt(recording.tail)
    return [
        f"  the step of level {level} on {many} samples: {off:.2g} times the error on the pilot's {recording.samples}"
    ]


def _gamma(calibration: Calibration) -> str:
    low, high = calibration.gamma_interval
    if math.isnan(calibration.gamma):
        return "gamma unknown, which takes three levels that differ"
    interval = "" if math.isnan(low) else f" [{low:.2f}, {high:.2f}]"
    return f"gamma {calibration.gamma:.2f}{interval}"


def _range(values: np.ndarray) -> str:
    return f"{values.min():.3g} to {values.max():.3g}"


def _root(square: float) -> float:
    return math.sqrt(square)
