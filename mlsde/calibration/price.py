"""The price of accuracy: ``gamma`` of ``|f^k - f| ~ c_k^(-1/gamma)``, from what a pilot run saw of a ladder.

A pilot sees the differences of neighbouring levels and not their errors. Where levels err in ways of their own,
``V_(k+1) = E|f^(k+1) - f^k|^2 = e_k^2 + e_(k+1)^2``. On a power law that is ``e_k^2`` times
``1 + (c_(k+1) / c_k)^(-2/gamma)``. If prices grow by a constant ratio the factor is the same for all levels and drops
out, whether levels err in ways of their own or not. Next to a level that is off the law, its error is subtracted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from mlsde import checks

_FLAT = 1e-9
"""Slope of the logarithms of the errors that is none, but for rounding."""

_GROUPS = 32
"""Of samples that the jackknife leaves out one at a time."""

_BENT = 0.1
"""Relative change of the local exponent along the levels below which a curvature does not matter."""

_LEAST = 1e-300
"""Stands for a square of zero where its logarithm is needed."""

_PLATEAU = 0.5
"""Share of the fall that the rest of the ladder promises below which the first levels are a plateau."""

_USELESS = 0.25
"""Share of the promised fall below which a level among others is useless."""

_FEWEST = 3
"""Levels that are left for the fit, and that it takes to have an interval."""

_MOST_CHOICES = 5
_MOST_STEPS = 60


@dataclass(frozen=True, repr=False)
class PriceExponent:
    """Exponent of the price of accuracy: a level whose error is ``eps`` costs ``eps^-gamma``.

    Attributes:
        gamma: the exponent; infinite where errors do not fall, NaN with fewer than two usable differences.
        interval: its 95 % interval; NaN with fewer than three usable differences. An infinite end says that errors
            which do not fall at all cannot be excluded.
        used: the levels that were fitted, numbered from 1. The top level is what the others are measured against.
        errors: root mean square of ``|f^k - f|`` of the levels used, as the differences tell it.
        dropped: levels that were left out, each with the reason.
        scatter: standard deviation of the logarithms of the errors about the line: 0.1 is 10 % of an error; NaN with
            fewer than three.
        warning: a sentence where the levels follow no power law or are too few to tell; else ``None``.
    """

    gamma: float
    interval: tuple[float, float]
    used: tuple[int, ...]
    errors: tuple[float, ...]
    dropped: tuple[tuple[int, str], ...]
    scatter: float
    warning: str | None

    def __repr__(self) -> str:
        interval = "[{:.2f}, {:.2f}]".format(*self.interval) if self.interval[0] > 0 else "without an interval"
        levels = ", ".join(map(str, self.used)) or "none"
        scatter = "" if math.isnan(self.scatter) else f"; scatter {self.scatter:.1%}"
        lines = [f"gamma {self.gamma:.2f} {interval}, from the errors of levels {levels}{scatter}"]
        lines += [f"left out: level {level}, {reason}" for level, reason in self.dropped]
        return "\n".join([*lines, *([] if self.warning is None else [f"warning: {self.warning}"])])

    def as_dict(self) -> dict[str, Any]:
        """As JSON; numbers that are infinite or NaN become ``None``."""
        return {
            "gamma": _finite(self.gamma),
            "interval": [_finite(end) for end in self.interval],
            "used": list(self.used),
            "errors": list(self.errors),
            "dropped": [{"level": level, "reason": reason} for level, reason in self.dropped],
            "scatter": _finite(self.scatter),
            "warning": self.warning,
        }


def fit_gamma(costs: Any, squares: Any) -> PriceExponent:
    """Recover ``gamma`` from the squares of the differences of a ladder.

    Left out of the fit are levels that equal the one below them, that cost no less than the one that follows, that
    come hardly nearer than a cheaper one, and a coarse plateau: the first levels, while the error falls from one to
    the next by less than half of what the rest makes of it. At least three are left for the fit.

    The interval adds, in quadrature, the scatter of the levels about the line (Student's t, with the correlation of
    differences that share a level) and the error of the samples (a jackknife over them). Sampling errors of their own
    of each level are then counted twice, so that one which tilts the whole line is counted once. Where levels were
    left out, or could have been, it is the hull of the intervals of every choice that the scatter does not rule out:
    choosing does not make it too short.

    Args:
        costs: price of each level, shape ``(K,)``, cheapest first.
        squares: ``|f^k - f^(k-1)|^2`` of each sample, averaged over the time, shape ``(S, K)`` with ``f^0 = 0``; or
            their means over samples, shape ``(K,)``, whose sampling error is then seen in their scatter alone. The
            first column is no difference and is not used.

    Returns:
        :class:`PriceExponent`; ``print`` it.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> fit_gamma([1, 8, 64, 512, 4096], [1.0, 1.0, 0.25, 0.0625, 0.015625])
        gamma 3.00 [3.00, 3.00], from the errors of levels 1, 2, 3, 4; scatter 0.0%
    """
    ladder, dropped = _Ladder.of(*_checked(costs, squares))
    if len(ladder.levels) < 2:
        return _unknown(dropped)
    choice = _chosen(ladder)
    fit = _Fit.of(ladder, choice.kept)
    ends = [end for kept in (choice.kept, *choice.others) for end in _Fit.of(ladder, kept).interval]
    gamma, low, high = (1.0 / rate if rate > _FLAT else math.inf for rate in (fit.rate, max(ends), min(ends)))
    if len(choice.kept) < 3:
        low, high = math.nan, math.nan
    reasons = tuple((int(ladder.levels[i]), reason) for i, reason in choice.dropped.items())
    return PriceExponent(
        gamma=gamma,
        interval=(low, high),
        used=tuple(ladder.levels[list(choice.kept)].tolist()),
        errors=tuple(np.exp(fit.logs[0]).tolist()),
        dropped=tuple(sorted(dropped + reasons)),
        scatter=fit.scatter,
        warning=_warning(fit, gamma, high),
    )


def student(freedom: int) -> float:
    """97.5 % quantile of Student's t (tabulated up to five degrees; the series is within 1 % from there on)."""
    table = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571}
    return table.get(freedom, 1.96 + 2.4 / freedom + 2.8 / freedom**2)


@dataclass(frozen=True, eq=False)
class _Ladder:
    """Levels whose errors the differences tell.

    Attributes:
        levels: their numbers, from 1.
        prices: of them.
        growths: price of the next level of the telescope over this one's.
        joined: whether the next level is the next entry here too, so that its error is told as well.
        squares: mean squares of the differences to it: of all samples, then with each group of them left out.
    """

    levels: np.ndarray
    prices: np.ndarray
    growths: np.ndarray
    joined: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, prices: np.ndarray, samples: np.ndarray) -> tuple[_Ladder, tuple[tuple[int, str], ...]]:
        """Pair every difference with the level whose error it tells; levels it tells nothing of come with why."""
        means, dropped, distinct = samples.mean(axis=0), [], [0]
        for k in range(1, len(prices)):
            if means[k] > 0:
                distinct.append(k)
            else:
                dropped.append((k + 1, f"equal to level {distinct[-1] + 1}"))
        pairs: dict[float, tuple[int, int]] = {}
        for lower, upper in pairwise(distinct):
            if prices[upper] <= prices[lower]:
                dropped.append((lower + 1, f"not cheaper than level {upper + 1}, which follows it"))
            elif prices[lower] in pairs:
                dropped.append((lower + 1, f"at the price of level {pairs[prices[lower]][0] + 1}"))
            else:
                pairs[prices[lower]] = (lower, upper)
        lowers, uppers = np.array([*pairs.values()], dtype=int).reshape(-1, 2).T
        joined = np.append(uppers[:-1] == lowers[1:], False)[: len(lowers)]
        squares = np.maximum(_resampled(samples[:, uppers]), _LEAST)
        return cls(lowers + 1, prices[lowers], prices[uppers] / prices[lowers], joined, squares), tuple(dropped)

    def log_errors(self, rates: np.ndarray, lawful: Sequence[int] = ()) -> np.ndarray:
        """Logarithms of the errors, shape of ``squares``, from the dearest level downwards.

        Between two ``lawful`` levels, and where nothing tells ``e_(k+1)``, it is ``e_k`` times ``growth^-rate``.
        Elsewhere ``e_k^2 = V_(k+1) - e_(k+1)^2``. A difference below the error of the level above belongs to two
        levels that are wrong in one way: they are then equally wrong. No level is taken to be nearer than half of its
        difference.
        """
        found = np.empty_like(self.squares)
        for k in reversed(range(len(self.levels))):
            square = self.squares[:, k]
            if not self.joined[k] or (k in lawful and k + 1 in lawful):
                found[:, k] = square / (1.0 + self.growths[k] ** (-2.0 * rates))
            else:
                above = found[:, k + 1]
                found[:, k] = np.where(square < above, above, np.maximum(square - above, 0.25 * square))
        return 0.5 * np.log(found)

    def correlations(self, rate: float, chosen: list[int]) -> np.ndarray:
        """Correlations of the logarithms of the errors of some entries, shape ``(n, n)``.

        ``V_(k+1)`` and ``V_(k+2)`` share ``e_(k+1)^2``, which weighs ``growth^(-2 rate)`` in the first of them.
        """
        found = np.eye(len(chosen))
        for i, (k, after) in enumerate(pairwise(chosen)):
            if after == k + 1 and self.joined[k]:
                weight = self.growths[k] ** (-2.0 * rate)
                found[i, i + 1] = found[i + 1, i] = weight / (1.0 + weight**2)
        return found


def _resampled(squares: np.ndarray) -> np.ndarray:
    """Means over all samples, and over all but one group of them for each group; shape ``(1 + G, m)``."""
    rows, groups = [squares.mean(axis=0)], min(len(squares), _GROUPS)
    if groups > 1:
        total = squares.sum(axis=0)
        rows += [(total - part.sum(axis=0)) / (len(squares) - len(part)) for part in np.array_split(squares, groups)]
    return np.array(rows)


def _checked(costs: Any, squares: Any) -> tuple[np.ndarray, np.ndarray]:
    """Prices of shape ``(K,)`` and squares of shape ``(S, K)``."""
    prices, samples = checks.as_float64("costs", costs), checks.numbers("squares", squares)
    if len(prices) == 0 or not (prices > 0).all():
        raise ValueError(f"costs must hold the price of each level, all above zero, got {prices.tolist()}.")
    if samples.ndim not in (1, 2) or samples.shape[-1] != len(prices) or samples.size == 0:
        raise ValueError(
            f"squares must be of shape (samples, {len(prices)}) or ({len(prices)},), a column for each of the costs, "
            f"got {samples.shape}."
        )
    sound = np.isfinite(samples) & (samples >= 0)
    if not sound.all():
        raise ValueError(f"squares must be finite and not below zero, got {samples[~sound][0]}.")
    return prices, np.atleast_2d(samples)


@dataclass(frozen=True, eq=False)
class _Fit:
    """A line through the logarithms of some of the errors.

    Attributes:
        x: logarithms of their prices.
        logs: of the errors, a row for all samples and one for each group left out.
        rates: ``1/gamma`` of each row; not above zero where errors do not fall.
        correlations: of the logarithms of the errors: neighbours are told by differences that share a level.
    """

    x: np.ndarray
    logs: np.ndarray
    rates: np.ndarray
    correlations: np.ndarray

    @classmethod
    def of(cls, ladder: _Ladder, kept: Sequence[int]) -> _Fit:
        """Fit the entries ``kept`` such that their errors, and that of the top level, follow one law."""
        chosen = list(kept)
        x = np.log(ladder.prices[chosen])
        weights = (x - x.mean()) / float((x - x.mean()) @ (x - x.mean()))
        rates = _root(lambda rates: -ladder.log_errors(rates, chosen)[:, chosen] @ weights, len(ladder.squares))
        falling = np.maximum(rates, 0.0)
        correlations = ladder.correlations(float(falling[0]), chosen)
        return cls(x, ladder.log_errors(falling, chosen)[:, chosen], rates, correlations)

    @property
    def rate(self) -> float:
        """``1/gamma``."""
        return float(self.rates[0])

    @property
    def scatter(self) -> float:
        """Standard deviation of the errors' logarithms about the line; NaN with fewer than three."""
        return math.sqrt(_rest(self.x, self.logs[0]) / (len(self.x) - 2)) if len(self.x) > 2 else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the rate."""
        if len(self.x) < 3:
            return self.rate, self.rate
        half = math.hypot(self.leading(1)[1], _jackknifed(self.rates[1:]))
        return self.rate - half, self.rate + half

    def leading(self, degree: int) -> tuple[np.ndarray, float]:
        """Leading coefficient of a polynomial through the errors, of each row, and its half width by the scatter."""
        basis = np.vander(self.x - self.x.mean(), degree + 1)
        inverse = np.linalg.pinv(basis)
        rest = self.logs[0] - basis @ (inverse @ self.logs[0])
        free = float(np.trace(self.correlations - basis @ inverse @ self.correlations))
        variance = float(rest @ rest) / free * float(inverse[0] @ self.correlations @ inverse[0])
        return self.logs @ inverse[0], student(len(self.x) - degree - 1) * math.sqrt(variance)


def _root(fitted: Callable[[np.ndarray], np.ndarray], count: int) -> np.ndarray:
    """Rates for which ``fitted(rates) = rates``, by secant steps: the difference is nearly linear."""
    before = np.zeros(count)
    first = miss = fitted(before)
    most = 4.0 * np.maximum(first, 0.0)
    rates = np.clip(first, 0.0, most)
    for _ in range(_MOST_STEPS):
        now = fitted(rates) - rates
        change = np.where(now == miss, 0.0, now * (rates - before) / np.where(now == miss, 1.0, miss - now))
        before, miss, rates = rates, now, np.clip(rates + change, 0.0, most)
        if np.abs(rates - before).max() <= 1e-14 * rates.max():
            break
    return np.where(first > 0, rates, first)


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Least squares: the rate at which ``y`` falls, and its value at ``x = 0``."""
    centred = x - x.mean()
    rate = -float(centred @ y / (centred @ centred))
    return rate, float(y.mean() + rate * x.mean())


def _rest(x: np.ndarray, y: np.ndarray) -> float:
    """Sum of the squares about the line."""
    rate, at_zero = _line(x, y)
    rest = y - at_zero + rate * x
    return float(rest @ rest)


def _jackknifed(values: np.ndarray) -> float:
    """Half width of the 95 % interval of a value, from those with one group left out each; 0 without groups."""
    groups = len(values)
    return 0.0 if groups < 2 else student(groups - 1) * math.sqrt((groups - 1) * float(np.var(values)))


@dataclass(frozen=True)
class _Choice:
    """Entries to be fitted, cheapest first; other choices that are not ruled out; what was dropped and why."""

    kept: tuple[int, ...]
    others: tuple[tuple[int, ...], ...]
    dropped: dict[int, str]


def _chosen(ladder: _Ladder) -> _Choice:
    order = tuple(np.argsort(ladder.prices).tolist())
    choice = _Choice(order, (), {})
    for _ in range(_MOST_CHOICES if len(order) > _FEWEST else 0):  # the top level's error depends on the choice, too
        rates = np.maximum(_Fit.of(ladder, choice.kept).rates, 0.0)
        found = _choice(np.log(ladder.prices), ladder.log_errors(rates)[0], order, ladder.levels.tolist())
        settled, choice = found.kept == choice.kept, found
        if settled:
            break
    return choice


def _choice(x: np.ndarray, y: np.ndarray, order: tuple[int, ...], names: list[int]) -> _Choice:
    """Choose by the logarithms of prices and errors."""
    cuts = _plateaus(x, y, order)
    cut = max(cuts, default=0)
    useless = _useless(x, y, order[cut:], names)
    kept = tuple(i for i in order[cut:] if i not in useless)
    plateau = dict.fromkeys(order[:cut], f"on the coarse plateau, as wrong as level {names[order[cut]]}")
    others = {
        tuple(i for i in order[start:] if i not in out)
        for start in {0, *cuts, *([cut + 1] if cut else [])}
        for out in ((), tuple(useless))
    }
    open_ones = [o for o in others if o != kept and len(o) >= _FEWEST and not _ruled_out(x, y, o, kept)]
    return _Choice(kept, tuple(sorted(open_ones)), {**plateau, **useless})


def _plateaus(x: np.ndarray, y: np.ndarray, order: tuple[int, ...]) -> list[int]:
    """Numbers of first entries that may be a coarse plateau: as wrong as the one after them.

    The entry after them lies near the line of the rest and the last of them below it. If instead it lies above the
    line, further than the other below, then it is the one that is useless.
    """
    found = []
    for cut in range(1, len(order) - _FEWEST + 1):
        first, last, here = order[0], order[cut - 1], order[cut]
        rate, _ = _line(x[list(order[cut:])], y[list(order[cut:])])
        hardly = [y[i] - y[here] < _PLATEAU * rate * (x[here] - x[i]) for i in (first, last)]
        if rate <= _FLAT or not all(hardly):
            continue
        beyond = list(order[cut + 1 :])
        rate, at_zero = _line(x[beyond], y[beyond])
        above = y - at_zero + rate * x
        if above[here] <= -above[last]:
            found.append(cut)
    return found


def _useless(x: np.ndarray, y: np.ndarray, kept: tuple[int, ...], names: list[int]) -> dict[int, str]:
    """Entries that come hardly nearer than a cheaper one: the rest is the envelope, the best error by price."""
    rate, _ = _line(x[list(kept)], y[list(kept)])
    best = kept[0]
    found: dict[int, str] = {}
    for i in kept[1:]:
        if y[best] - y[i] >= max(_USELESS * rate * (x[i] - x[best]), _FLAT):
            best = i
        elif len(kept) - len(found) > _FEWEST:
            found[i] = f"hardly nearer than level {names[best]}"
    return found


def _ruled_out(x: np.ndarray, y: np.ndarray, more: tuple[int, ...], kept: tuple[int, ...]) -> bool:
    """Whether entries that ``more`` holds besides lie off the line of ``kept``, by an F test at 5 %.

    The limit is that of one entry, Student's t squared: for more of them it is too large, and rules out less.
    """
    if len(more) <= len(kept):
        return False
    rest = max(_rest(x[list(kept)], y[list(kept)]), _FLAT**2)
    excess = (_rest(x[list(more)], y[list(more)]) - rest) / (len(more) - len(kept))
    return excess > student(len(kept) - 2) ** 2 * rest / (len(kept) - 2)


def _warning(fit: _Fit, gamma: float, high: float) -> str | None:
    if gamma == math.inf:
        return "the errors of the levels do not fall as their prices grow, so gamma is infinite or hidden by a plateau."
    if len(fit.x) < 3:
        return (
            "an interval cannot be given with two differences: gamma is the slope between two levels, and nothing "
            "tells whether the ladder follows a power law."
        )
    bend = _bend(fit)
    if bend:
        ends = f"{_exponent(fit.rate - bend / 2)} at the cheap end to {_exponent(fit.rate + bend / 2)} at the dear end"
        return f"the levels follow no power law: gamma goes from {ends}, by more than the scatter explains."
    if high == math.inf:
        return (
            f"the errors scatter by {fit.scatter:.0%} about a power law, or too few levels are left, to tell that they "
            "fall at all; take more levels or a wider range of prices."
        )
    return None


def _exponent(rate: float) -> str:
    return f"{1.0 / rate:.2g}" if rate > _FLAT else "infinity"


def _bend(fit: _Fit) -> float | None:
    """Change of ``1/gamma`` from the cheapest to the dearest level, if fewer than 1 in 20 power laws show as much.

    By the curvature of a parabola through the logarithms, against their scatter about it and the samples' error.
    """
    if len(fit.x) < 4:
        return None
    curvatures, half = fit.leading(2)
    half = math.hypot(half, _jackknifed(curvatures[1:]))
    change = -2.0 * float(curvatures[0]) * float(fit.x[-1] - fit.x[0])
    return change if abs(change) > _BENT * fit.rate and abs(curvatures[0]) > half else None


def _unknown(dropped: tuple[tuple[int, str], ...]) -> PriceExponent:
    warning = (
        "gamma cannot be told: the differences tell the errors of fewer than two levels, so take a ladder of at least "
        "three levels that differ, cheapest first, and better of five."
    )
    return PriceExponent(math.nan, (math.nan, math.nan), (), (), tuple(sorted(dropped)), math.nan, warning)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
