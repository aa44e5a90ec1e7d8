"""Firing probabilities ``p_k(t_n)`` of the levels: rules that turn prices and variances into a table.

Any function of time that returns one probability per level serves as well.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from mlsde import checks
from mlsde.chunks import write_atomically
from mlsde.grids import EvenGrid, Grid, Rows, Table, asked, changed, highest, kept, lowest_above_zero, pieces, repeated
from mlsde.hierarchy import DriftHierarchy
from mlsde.showing import as_call

Price = Callable[[np.ndarray], float]
"""The expected cost per trajectory of a run with a given table."""

PriceOfRows = Callable[[Table], float]


@runtime_checkable
class Probabilities(Protocol):
    """A rule for the probabilities."""

    def table(self, times: np.ndarray, drift: DriftHierarchy, price: Price) -> np.ndarray:
        """Return ``p_k(t_n)``, shape ``(N, K)``.

        Args:
            times: the grid, shape ``(N + 1,)``; row ``n`` holds from ``times[n]`` to ``times[n + 1]``.
            drift: the ladder, for its prices.
            price: the expected cost per trajectory of a run with a given table.
        """
        ...


class ByRows:
    """A rule that works out its table in parts, so that a long run need not keep it whole."""

    def rows(self, times: Grid, drift: DriftHierarchy, price: PriceOfRows) -> Table:
        """Return :meth:`table`, or what gives parts of it when sliced."""
        raise NotImplementedError

    def table(self, times: np.ndarray, drift: DriftHierarchy, price: Price) -> np.ndarray:
        """Return ``p_k(t_n)``, shape ``(N, K)``.

        Args:
            times: the grid, shape ``(N + 1,)``; row ``n`` holds from ``times[n]`` to ``times[n + 1]``.
            drift: the ladder, for its prices.
            price: the expected cost per trajectory of a run with a given table.

        Raises:
            ValueError: for a ladder of another number of levels, a grid that leaves the times that the rule is for, or
                a budget below the least that the plan costs.
        """
        return np.asarray(self.rows(times, drift, lambda table: price(np.asarray(table))))


ProbabilityRule = Probabilities | Callable[[float], Sequence[float] | np.ndarray]


@dataclass(frozen=True)
class PowerLaw(ByRows):
    """``p_k = min(1, scale * (c_k / c_1)^-(1/2 + 1/gamma))``: the optimum for a ladder of a power law.

    If ``|f^k - f| ~ 2^-k`` costs ``c_k ~ 2^(gamma k)``, this is ``p_k ~ 2^-(1 + gamma/2) k``. A ladder of one level
    always fires. Source: arXiv 2603.24594. For rules whose mean squared error falls like ``p^-s`` the exponent is
    ``(1 + 2/gamma) / (s + 1)``.

    Args:
        gamma: exponent of the price of accuracy, above zero.
        scale: the larger, the more accurate and the dearer; 1 by default.
        budget: expected cost per trajectory, in the units of ``costs``, that the scale is fitted to instead.
        order: ``s``, as of :class:`Optimal`; 1, the paper's, by default.

    Example:
        >>> import mlsde, torch
        >>> drift = DriftHierarchy([lambda t, y: -y, lambda t, y: -torch.sin(y)], costs=[1.0, 16.0])
        >>> rule = mlsde.Multilevel(PowerLaw(gamma=2.0), coins="independent", correction="impulse")
        >>> plan = mlsde.solve(mlsde.SDE(drift), torch.ones(1, 1), (0, 1), steps=2, multilevel=rule).plan
        >>> plan.probabilities.tolist()
        [[1.0, 0.0625], [1.0, 0.0625]]
    """

    gamma: float
    scale: float = 1.0
    budget: float | None = None
    order: float = 1.0

    __repr__ = as_call

    def __post_init__(self) -> None:
        object.__setattr__(self, "gamma", checks.positive_number("gamma", self.gamma))
        object.__setattr__(self, "scale", checks.positive_number("scale", self.scale))
        object.__setattr__(self, "order", checks.positive_number("order", self.order))
        if self.budget is not None:
            object.__setattr__(self, "budget", checks.positive_number("budget", self.budget))
            if self.scale != 1.0:
                raise ValueError(f"scale={self.scale:g} was given with budget={self.budget:g}; give one of the two.")

    def rows(self, times: Grid, drift: DriftHierarchy, price: PriceOfRows) -> Table:
        """Return the same row at every time."""
        steps = len(times) - 1
        if len(drift) == 1:
            return repeated(np.ones(1), steps)
        costs = np.array(drift.required_costs("PowerLaw"))
        law = (costs / costs[0]) ** (-(1.0 + 2.0 / self.gamma) / (self.order + 1.0))

        def at(scale: float) -> Table:
            return repeated(np.minimum(1.0, scale * law), steps)

        if self.budget is None:
            return at(self.scale)
        if price(at(np.inf)) <= self.budget:
            return at(np.inf)
        return at(_largest_scale(lambda scale: price(at(scale)), self.budget, 1e-12, 1.0 / float(law.min())))


@dataclass(frozen=True)
class Constant(ByRows):
    """The same probabilities at every time.

    Args:
        values: one probability per level, in [0, 1].

    Example:
        >>> import mlsde
        >>> mlsde.Multilevel(Constant([1.0, 0.1]))
        Multilevel(probabilities=Constant(values=[1, 0.1]), coins='systematic', correction='hold')
    """

    values: Sequence[float]

    __repr__ = as_call

    def rows(self, times: Grid, drift: DriftHierarchy, price: PriceOfRows) -> Table:
        """Return the same row at every time."""
        row = checks.as_float64("values", self.values)
        if len(row) != len(drift):
            raise ValueError(f"values holds {len(row)} probabilities, but the ladder has {len(drift)} levels.")
        return repeated(row, len(times) - 1)


# Levels that are sure to fire with those below them spare their evaluation, which the rule of proportions does not
# know of: so tables in which values from here on are raised to 1 compete.
_SURE = (1.0, 0.5, 0.25, 0.125)


@dataclass(frozen=True)
class Optimal(ByRows):
    """The best allocation of a budget for known variances ``V_k(t) = E|f^k - f^(k-1)|^2``.

    A rule whose mean squared error falls like ``a_k p^-s`` is served best by ``p_k ~ (a_k / c_k)^(1 / (s + 1))`` with
    ``a_k = h_n^2 w(t_n) V_k(t_n)``; values above 1 are clamped and the budget is spent on the others. For ``s = 1`` it
    is the paper's ``p ~ h sqrt(w V_k / c_k)`` (arXiv 2603.24594). Large values are raised to 1 besides where that
    lowers the predicted error, because levels that are sure to fire together cost one evaluation.

    Args:
        variances: one per level, or a function of ``t`` that returns them; not negative.
        budget: expected cost per trajectory, in the units of ``costs``.
        order: ``s``: 1 for independent and nested coins, 2 for systematic impulse and hold, up to 4 for
            ``extrapolate`` on an ODE.
        sensitivity: ``w(t) = |dY_T / dY_t|^2``, a function of ``t``; 1 by default.

    Example:
        >>> import mlsde, torch
        >>> drift = DriftHierarchy([lambda t, y: -y, lambda t, y: -torch.sin(y)], costs=[1.0, 16.0])
        >>> rule = mlsde.Multilevel(Optimal([1.0, 0.04], budget=200.0), coins="independent", correction="impulse")
        >>> plan = mlsde.solve(mlsde.SDE(drift), torch.ones(1, 1), (0, 1), steps=100, multilevel=rule).plan
        >>> round(plan.expected_cost, 6)
        200.0
    """

    variances: Sequence[float] | np.ndarray | Callable[[float], Sequence[float] | np.ndarray]
    budget: float
    order: float = 1.0
    sensitivity: Callable[[float], float] | None = field(default=None)

    __repr__ = as_call

    def __post_init__(self) -> None:
        object.__setattr__(self, "budget", checks.positive_number("budget", self.budget))
        object.__setattr__(self, "order", checks.positive_number("order", self.order))
        if self.sensitivity is not None and not callable(self.sensitivity):
            raise TypeError(f"sensitivity must be a function of t, got {self.sensitivity!r}.")

    def rows(self, times: Grid, drift: DriftHierarchy, price: PriceOfRows) -> Table:
        """Return the table whose price is the budget, or all ones where the budget pays for that."""
        costs = np.array(drift.required_costs("Optimal"))
        everything = repeated(np.ones(len(drift)), len(times) - 1)
        if price(everything) <= self.budget:
            return everything
        errors = kept(self._weights(times, len(drift)))
        if not (highest(errors) > 0).all():
            raise ValueError(
                "variances must be above zero somewhere for every level; leave out a level that is never needed."
            )
        urgency = kept(changed(lambda a: (a / costs) ** (1.0 / (self.order + 1.0)), errors))
        most = highest(urgency).max()
        urgency = kept(changed(lambda u: u / most, urgency))
        scales = 1e-12, 1.0 / max(lowest_above_zero(urgency), 1e-300)

        def dearest(at: Callable[[float], Table]) -> Table:
            return at(_largest_scale(lambda scale: price(at(scale)), self.budget, *scales))

        def raised_from(sure: float) -> Callable[[float], Table]:
            return lambda scale: changed(lambda u: np.where(scale * u >= sure, 1.0, scale * u), urgency)

        tables = [kept(dearest(raised_from(sure))) for sure in _SURE]
        best = min(tables, key=lambda table: self._predicted(errors, table))

        def at_most_one(scale: float) -> Table:
            return changed(lambda b, u: np.where(b == 1.0, 1.0, np.minimum(1.0, scale * u)), best, urgency)

        return dearest(at_most_one)

    def _predicted(self, errors: Table, table: Table) -> float:
        """``sum_{n,k} a_k p_k^-s``, up to a constant the mean squared error of a table."""
        total = 0.0
        for start, a in pieces(errors):
            p, needed = table[start : start + len(a)], a > 0
            with np.errstate(over="ignore"):
                total += float((a[needed] / p[needed] ** self.order).sum())
        return total

    def _weights(self, times: Grid, levels: int) -> Table:
        """``a_k(t_n) = h_n^2 w(t_n) V_k(t_n)``, shape ``(N, K)``; of functions the values are kept."""
        steps = len(times) - 1
        if callable(self.variances):
            variances: Table = np.array([_row("variances", self.variances(t), levels) for t in times[:-1].tolist()])
        else:
            variances = repeated(_row("variances", self.variances, levels), steps)
        least = min(float(rows.min()) for _, rows in pieces(variances))
        if least < 0:
            raise ValueError(f"variances must not be negative, got {least:g}.")
        w = None
        if self.sensitivity is not None:
            w = checks.as_float64("sensitivity", [self.sensitivity(t) for t in times[:-1].tolist()])
            if (w < 0).any():
                raise ValueError(f"sensitivity must not be negative, got {w.min():g}.")

        if isinstance(times, EvenGrid) and isinstance(variances, Rows) and w is None:
            return changed(lambda v: times.length**2 * v, variances)

        def rows(start: int, stop: int) -> np.ndarray:
            weights = np.diff(times[start : stop + 1])[:, None] ** 2 * variances[start:stop]
            return weights if w is None else weights * w[start:stop, None]

        return Rows((steps, levels), rows)


_KIND = "mlsde.Learned"
"""What a file says that it holds."""


@dataclass(frozen=True)
class Learned(ByRows):
    """Probabilities at knots in time, as :func:`mlsde.learn` finds them, or written by hand.

    Between knots they are interpolated geometrically: ``log p`` is linear in time. Knots may run forwards or backwards,
    and so may the grid that they are used on, which must not leave their span.

    They are probabilities *per step*. On a grid with other steps they are the same numbers at the same times, so that
    twice the steps cost twice as much, and their coins then add about half the mean squared error. To spend the same
    give a ``budget``: ``min(1, scale * p)`` is then used, with the scale that meets it. Values of 1 stay 1 as long as
    the budget pays for them. ``dataclasses.replace(learned, budget=...)`` sets another one.

    Args:
        times: the knots, strictly monotone, shape ``(J,)``; a single one holds at all times.
        values: the probabilities there, in (0, 1], shape ``(J, K)``.
        budget: expected cost per trajectory, in the units of ``costs``, to scale them to; ``None`` takes them as they
            are.
        history: of the learning, a pair for each iteration: the loss, and the expected cost of the table it was
            measured with.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> Learned(times=[0.0, 1.0], values=[[1.0, 0.01], [1.0, 0.1]], budget=500.0)
        Learned(2 knots from t=0 to 1, 2 levels, probabilities from 0.01 to 1, budget=500)
    """

    times: Sequence[float]
    values: Sequence[Sequence[float]]
    budget: float | None = None
    history: Sequence[tuple[float, float]] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        times, values = checks.as_float64("times", self.times), checks.numbers("values", self.values)
        if len(times) == 0 or not ((np.diff(times) > 0).all() or (np.diff(times) < 0).all()):
            raise ValueError(f"times must hold knots that strictly increase or decrease, got {times.tolist()}.")
        if values.ndim != 2 or len(values) != len(times) or values.shape[1] == 0:
            raise ValueError(f"values has shape {values.shape}, expected ({len(times)}, K): a row for each knot.")
        if not ((values > 0) & (values <= 1)).all():
            wrong = values[~((values > 0) & (values <= 1))][0]
            raise ValueError(f"values must be probabilities in (0, 1], got {wrong:g}.")
        history = checks.numbers("history", self.history)
        if history.size and (history.ndim != 2 or history.shape[1] != 2):
            raise ValueError(f"history must hold pairs of a loss and a cost, got the shape {history.shape}.")
        object.__setattr__(self, "times", tuple(times.tolist()))
        object.__setattr__(self, "values", tuple(map(tuple, values.tolist())))
        object.__setattr__(self, "history", tuple(map(tuple, history.tolist())))
        if self.budget is not None:
            object.__setattr__(self, "budget", checks.positive_number("budget", self.budget))

    def rows(self, times: Grid, drift: DriftHierarchy, price: PriceOfRows) -> Table:
        """Return the probabilities at the start of each step, scaled to the budget if there is one."""
        if len(self.values[0]) != len(drift):
            raise ValueError(
                f"values holds {len(self.values[0])} probabilities at each knot, but the ladder has {len(drift)} "
                "levels; learn them for this ladder."
            )
        self._check_span(times)
        knots, values, shape = np.array(self.times), np.array(self.values), (len(times) - 1, len(drift))
        table = kept(Rows(shape, lambda start, stop: geometric(knots, values, times[start:stop])))
        if self.budget is None:
            return table
        drift.required_costs("Learned(budget=...)")
        everything = repeated(np.ones(len(drift)), len(table))
        if price(everything) <= self.budget:
            return everything
        low, high = 1e-12, 1.0 / lowest_above_zero(table)
        certain = changed(lambda p: np.where(p == 1.0, 1.0, low * p), table)
        stay = price(certain) <= self.budget

        def at(scale: float) -> Table:
            return changed(lambda p: np.where((p == 1.0) & stay, 1.0, np.minimum(1.0, scale * p)), table)

        return at(_largest_scale(lambda scale: price(at(scale)), self.budget, low, high))

    def __repr__(self) -> str:
        knots = f"{len(self.times)} knots from t={self.times[0]:g} to {self.times[-1]:g}"
        low, high = min(map(min, self.values)), max(map(max, self.values))
        within = f"{len(self.values[0])} levels, probabilities from {low:.3g} to {high:.3g}"
        return f"Learned({knots}, {within}{'' if self.budget is None else f', budget={self.budget:g}'})"

    def _check_span(self, times: Grid) -> None:
        """Raise ``ValueError`` if the grid leaves the span of the knots."""
        first, last = min(self.times), max(self.times)
        low, high = sorted((float(times[0]), float(times[-1])))
        slack = 1e-6 * (last - first)
        if len(self.times) > 1 and not (first - slack <= low and high <= last + slack):
            raise ValueError(
                f"times of the knots run from {first:g} to {last:g}, but the solve from {times[0]:g} to {times[-1]:g}; "
                "learn them for this span."
            )

    def save(self, file: str | os.PathLike[str]) -> str:
        """Write them as JSON, whole or not at all; returns the file's name. Numbers come back bit for bit."""
        write_atomically(Path(file), json.dumps({"kind": _KIND, **asdict(self)}, indent=1) + "\n")
        return str(file)

    @classmethod
    def load(cls, file: str | os.PathLike[str]) -> Learned:
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError, ValueError: if there is no such file, if it is damaged, or holds something else.
        """
        name = f"file={str(file)!r}"
        try:
            whole = json.loads(Path(file).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise FileNotFoundError(f"{name} does not exist; learned.save(file) writes one.") from None
        except (json.JSONDecodeError, UnicodeDecodeError):
            raise ValueError(f"{name} is damaged or no JSON; save the probabilities again.") from None
        if not isinstance(whole, dict) or whole.pop("kind", None) != _KIND:
            raise ValueError(f"{name} holds something else; give a file that Learned.save wrote.")
        try:
            return cls(**whole)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name} is damaged, {str(error).rstrip('.')}; save the probabilities again.") from None


def geometric(knots: np.ndarray, values: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Interpolate values above zero, shape ``(J, K)``, linearly in their logarithm; constant beyond the knots."""
    order = np.argsort(knots)
    logs = np.log(values[order])
    columns = [np.interp(times, knots[order], logs[:, k]) for k in range(values.shape[1])]
    return np.exp(np.stack(columns, axis=-1))


def _largest_scale(price: Callable[[float], float], budget: float, low: float, high: float) -> float:
    """A scale between ``low`` and ``high`` at which the price reaches the budget from below."""
    least = price(low)
    if least > budget:
        raise ValueError(f"budget={budget:g} does not pay for the least that this plan costs, {least:g}.")
    while high > (1.0 + 1e-9) * low:  # bisect the exponent: probabilities may span many orders of magnitude
        middle = math.sqrt(low) * math.sqrt(high)
        low, high = (middle, high) if price(middle) <= budget else (low, middle)
    return low


def _row(name: str, values: Any, levels: int) -> np.ndarray:
    row = checks.as_float64(name, values)
    if len(row) != levels:
        raise ValueError(f"{name} gives {len(row)} values, but the ladder has {levels} levels.")
    return row


def probability_table(rule: ProbabilityRule, times: Grid, drift: DriftHierarchy, price: PriceOfRows) -> Table:
    """Evaluate and check a rule: every value in [0, 1], and no level that is never seen.

    Raises:
        TypeError, ValueError: naming the level and the first time at which its probability is wrong.
    """
    shape = len(times) - 1, len(drift)
    if isinstance(rule, ByRows) and type(rule).table is ByRows.table:
        table = kept(rule.rows(times, drift, price))
    elif isinstance(rule, Probabilities) and not isinstance(rule, type):
        table = checks.numbers("probabilities", rule.table(np.asarray(times), drift, price))
        if table.shape != shape:
            raise ValueError(f"probabilities gave a table of shape {table.shape}, expected {shape}.")
    elif callable(rule) and not isinstance(rule, type):
        function = rule
        table = asked(lambda some: np.array([_probabilities_at(function, t, len(drift)) for t in some]), times)
    else:
        raise TypeError(
            "probabilities must be PowerLaw, Constant, Optimal or a function of t that returns one value per level, "
            f"got {rule!r} of type {type(rule).__name__}."
        )
    most = np.zeros(len(drift))
    for start, rows in pieces(table):
        most = np.maximum(most, rows.max(axis=0))
        wrong = ~((rows >= 0) & (rows <= 1))
        if wrong.any():
            n, k = (int(i) for i in np.argwhere(wrong)[0])
            when = float(times[start + n])
            raise ValueError(f"the probability of level {k + 1} at t={when:g} is {rows[n, k]}, outside [0, 1].")
    never = np.flatnonzero(most == 0)
    if len(never):
        raise ValueError(
            f"the probability of level {never[0] + 1} is 0 at every step, so it would never be seen; "
            "raise it, or leave the level out with drift.select(...)."
        )
    return table


def _probabilities_at(rule: Callable[[float], Any], t: float, levels: int) -> np.ndarray:
    array = checks.numbers(f"probabilities at t={t:g}", rule(t))
    if array.shape != (levels,):
        raise ValueError(f"probabilities at t={t:g} have shape {array.shape}, expected {(levels,)}: one per level.")
    return array
