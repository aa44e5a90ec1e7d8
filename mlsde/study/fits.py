"""Exponents: slopes of cost against error, where they may be read off, and how sure they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlsde.showing import as_call
from mlsde.theory import fitted_exponent, local_slopes

_FEWEST = 4
"""Errors that a fit needs."""

_SHORTEST = 8.0
"""Least ratio of the loosest to the tightest error of a fit."""


@dataclass(frozen=True)
class Exponent:
    """Fit of ``cost ~ error^-exponent``.

    Attributes:
        value: the exponent; NaN if there was nothing to fit.
        interval: from the 2.5 to the 97.5 percentile of the bootstrap.
        used: the errors it was fitted to.
        verdict: a sentence that says what the range allows.
    """

    value: float
    interval: tuple[float, float]
    used: tuple[float, ...]
    verdict: str

    __repr__ = as_call

    @property
    def short(self) -> bool:
        """True if the exponent is not to be relied on: too few errors, too short a range, or too noisy seeds."""
        return not self.verdict.startswith("fitted")


def after_plateau(errors: Sequence[float], costs: Sequence[float]) -> int:
    """Number of leading errors to drop: those where the cost has not begun to grow.

    Loose errors are reached by the cheapest settings there are, and cost the same whatever they are. The first error
    is dropped, again and again, while the cost grows from it to the second by less than half of what the slope of the
    rest would make of it; at least two are left.
    """
    start = 0
    while len(errors) - start > 2:
        first = local_slopes(errors[start : start + 2], costs[start : start + 2])[0]
        if first >= 0.5 * fitted_exponent(errors[start + 1 :], costs[start + 1 :]):
            break
        start += 1
    return start


def fit(errors: Sequence[float], costs: Sequence[float], resampled: Sequence[Sequence[float]]) -> Exponent:
    """Fit an exponent.

    Args:
        errors: the errors sought, loosest first.
        costs: least cost that reaches each; infinite if none does.
        resampled: the same with the seeds drawn anew, one sequence per draw of the bootstrap.
    """
    reached = [i for i, cost in enumerate(costs) if 0 < cost < math.inf]  # nothing is told by what cost nothing
    if len(reached) < 2:
        return Exponent(math.nan, (math.nan, math.nan), (), "not fitted: fewer than two of the errors were reached")
    kept = reached[after_plateau([errors[i] for i in reached], [costs[i] for i in reached]) :]
    used = tuple(errors[i] for i in kept)
    value = fitted_exponent(used, [costs[i] for i in kept])
    slopes = []
    for draw in resampled:
        found = [i for i in kept if 0 < draw[i] < math.inf]
        if len(found) >= 2:
            slopes.append(fitted_exponent([errors[i] for i in found], [draw[i] for i in found]))
    interval = tuple(float(x) for x in np.percentile(slopes, [2.5, 97.5])) if slopes else (math.nan, math.nan)
    return Exponent(value, (interval[0], interval[1]), used, _verdict(used, interval[1] - interval[0]))


def _verdict(used: tuple[float, ...], width: float) -> str:
    span = used[0] / used[-1]
    if len(used) < _FEWEST or span < _SHORTEST * (1 - 1e-9):
        return f"too short to tell: {len(used)} errors over a factor {span:.3g} are left beyond the plateau"
    if not width <= 1.0:
        return f"too noisy to tell: the interval is {width:.2g} wide; take more seeds or samples"
    return f"fitted to {len(used)} errors over a factor {span:.3g}"
