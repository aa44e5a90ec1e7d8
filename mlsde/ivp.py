"""ODEs in numpy the way SciPy has them: ``solve_ivp(fun, t_span, y0)``, with a list of functions in place of one.

SciPy is not needed. The call and what comes back follow ``scipy.integrate.solve_ivp``
(P. Virtanen et al., Nature Methods 17 (2020), doi:10.1038/s41592-019-0686-2) where the two do the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from mlsde import checks
from mlsde.hierarchy import DriftHierarchy, Level, from_numpy
from mlsde.integrate import solve
from mlsde.multilevel import Multilevel
from mlsde.sde import SDE
from mlsde.solution import NonFiniteError, Solution

Function = Callable[..., Any]

_METHODS = ("euler", "heun")
_REFUSED = {
    "events": "no step is taken back to seek an event; look for sign changes along .y",
    "rtol": "steps are settled beforehand and no local error is steered; give steps=, or tol= for the error at the end",
    "max_step": "steps are settled beforehand; give steps=",
    "jac": "no implicit equation is solved",
}
_REFUSED |= {"atol": _REFUSED["rtol"], "first_step": _REFUSED["max_step"], "min_step": _REFUSED["max_step"]}
_REFUSED |= dict.fromkeys(("jac_sparsity", "lband", "uband"), _REFUSED["jac"])


@dataclass(frozen=True, eq=False)
class LinearInterpolant:
    """A solution between its steps, by straight lines: an error of second order in the step.

    Attributes:
        ts: times of the steps, shape ``(points,)``.
        ys: states there, shape ``(n, points)``.
    """

    ts: np.ndarray
    ys: np.ndarray

    def __call__(self, t: float | np.ndarray) -> np.ndarray:
        """State at ``t``: shape ``(n,)`` for a number, ``(n, len(t))`` for an array; ``ValueError`` outside."""
        wanted = checks.numbers("t", t)
        lo, hi = sorted((float(self.ts[0]), float(self.ts[-1])))
        if wanted.ndim > 1 or not ((wanted >= lo) & (wanted <= hi)).all():
            raise ValueError(f"t must be a time, or a one-dimensional array of times, within [{lo}, {hi}], got {t!r}.")
        order = slice(None) if self.ts[0] < self.ts[-1] else slice(None, None, -1)
        return np.stack([np.interp(wanted, self.ts[order], row[order]) for row in self.ys])


@dataclass(frozen=True, eq=False)
class IvpSolution:
    """What :func:`solve_ivp` returns: the attributes of SciPy's ``OdeResult``, and what the ladder cost.

    Attributes:
        t: times, shape ``(points,)``.
        y: states there, shape ``(n, points)``.
        sol: the solution between its steps, with ``dense_output``; else ``None``.
        status: 0 if the end was reached, -1 if a state became NaN or infinite; ``t`` and ``y`` end before that.
        message: a sentence on how it ended.
        success: whether the end was reached.
        nfev: evaluations of all functions together.
        evaluations: evaluations of each function, cheapest first.
        cost: their price in the units of ``costs``; ``None`` without costs. A pilot's is in ``solution.stats``.
        solution: what :func:`mlsde.solve` returned: the plan, the price by level, what a pilot chose.
        njev, nlu, t_events, y_events: SciPy's, where they count what is not done here: 0 and ``None``.
    """

    t: np.ndarray
    y: np.ndarray
    sol: LinearInterpolant | None
    status: int
    message: str
    success: bool
    nfev: int
    evaluations: tuple[int, ...]
    cost: float | None
    solution: Solution = field(repr=False)
    njev: int = field(default=0, repr=False)
    nlu: int = field(default=0, repr=False)
    t_events: None = field(default=None, repr=False)
    y_events: None = field(default=None, repr=False)


def solve_ivp(
    funs: Function | Sequence[Function],
    t_span: Sequence[float],
    y0: Sequence[complex] | np.ndarray,
    method: Literal["euler", "heun"] = "euler",
    t_eval: Sequence[float] | np.ndarray | None = None,
    dense_output: bool = False,
    *,
    costs: Sequence[float] | None = None,
    steps: int | None = None,
    multilevel: Multilevel | Literal["auto"] | None = None,
    level: int | Callable[[float], int] | None = None,
    budget: float | None = None,
    tol: float | None = None,
    seed: int = 0,
    vectorized: bool = False,
    args: Sequence[Any] | None = None,
    **others: Any,
) -> IvpSolution:
    """Solve ``dy/dt = f(t, y)``, ``y(t0) = y0``, where ``f`` can be had at several prices, in numpy.

    Args:
        funs: functions ``fun(t, y)`` of a float and an array of shape ``(n,)`` that return as many numbers; cheapest
            first, the last is the equation. One function alone is an equation without a ladder.
        t_span: ``(t0, t1)``; ``t1 < t0`` runs backwards.
        y0: initial state, shape ``(n,)``; float64, or complex128 if it is complex.
        method: ``"euler"``, or ``"heun"``, which takes two evaluations a step and has order 2.
        t_eval: times to return, within ``t_span`` and in its direction, interpolated linearly between the steps;
            by default every step.
        dense_output: whether ``.sol`` is wanted, a function of time: straight lines between the steps.
        costs: price of one evaluation of each function, in any unit.
        steps: number of equal steps.
        multilevel: how the ladder is used: an :class:`mlsde.Multilevel`, ``"auto"``, or ``None`` for the last function
            (or ``level``) at every step.
        level: one function, 1 … K, or a function of ``t`` that chooses it.
        budget: price of the run, pilot included, for which a pilot chooses the rule and, unless given, the steps.
        tol: root mean square error per component at ``t1`` for which a pilot does so.
        seed: of the coins.
        vectorized: whether functions take and return arrays of shape ``(n, k)``.
        args: more arguments of every function, after ``t`` and ``y``.
        others: SciPy's ``events``, ``rtol``, ``atol``, ``first_step``, ``max_step`` and ``jac`` have no meaning here
            and are refused with the reason.

    Returns:
        An :class:`IvpSolution`, with ``t``, ``y``, ``nfev``, ``status``, ``message`` and ``success`` as of SciPy.

    Raises:
        TypeError, ValueError: for bad input, naming the argument.

    Example:
        >>> cheap, dear = lambda t, y: -y, lambda t, y: -np.sin(y)
        >>> rule = Multilevel(lambda t: [1.0, 0.1])
        >>> found = solve_ivp([cheap, dear], (0, 2), [1.0, 0.5], "heun", costs=[1, 50], steps=100, multilevel=rule)
        >>> found.y.shape, found.success, found.evaluations
        ((2, 101), True, (189, 22))
    """
    _refuse_others(others)
    checks.one_of("method", method, _METHODS)
    span, start = checks.time_span(t_span), _state(y0)
    wanted = None if t_eval is None else _times(t_eval, span)
    if steps is None and budget is None and tol is None:
        raise ValueError("give steps= (a number of equal steps), tol= (an error at t1) or budget= (a price), got none.")
    levels = [_level(k, f, start, vectorized, args) for k, f in enumerate(_functions(funs))]
    sde, dense = SDE(DriftHierarchy(levels, costs)), wanted is None or dense_output
    try:
        solution = solve(
            sde, torch.from_numpy(start.view(np.float64).copy()).unsqueeze(0), span, steps=steps, method=method,
            multilevel=multilevel, level=level, budget=budget, tol=tol, seed=checks.one_seed(seed),
            save_at="steps" if dense else wanted,
        )  # fmt: skip
    except NonFiniteError as error:
        solution = error.solution
    return _result(solution, start.dtype, wanted if dense_output else None, dense_output)


def _result(solution: Solution, dtype: np.dtype[Any], wanted: np.ndarray | None, dense: bool) -> IvpSolution:
    ts, ys = solution.ts.numpy(), np.ascontiguousarray(solution.ys[:, 0].numpy()).view(dtype).T
    sol = LinearInterpolant(ts, ys) if dense else None
    if wanted is not None and sol is not None:
        ts = wanted if solution.success else wanted[np.abs(wanted - ts[0]) <= abs(ts[-1] - ts[0])]
        ys = sol(ts)
    evaluations = tuple(int(count) for count in solution.stats.evaluations)
    return IvpSolution(
        ts, ys, sol, 0 if solution.success else -1, solution.message, solution.success, sum(evaluations), evaluations,
        solution.stats.cost, solution,
    )  # fmt: skip


def _level(k: int, function: Function, start: np.ndarray, vectorized: bool, args: Sequence[Any] | None) -> Level:
    """A level of a ladder of a function of one state; a pilot has several, one in each row."""
    more = () if args is None else _unpacked(args)

    def values(t: float, rows: np.ndarray) -> np.ndarray:
        states = rows.copy().view(start.dtype)
        if vectorized:
            found = [np.asarray(function(t, state[:, None], *more)).reshape(-1) for state in states]
        else:
            found = [np.asarray(function(t, state, *more)) for state in states]
        return np.stack([_checked(k, value, start) for value in found]).view(np.float64)

    return from_numpy(values)


def _checked(k: int, value: np.ndarray, start: np.ndarray) -> np.ndarray:
    """What function ``k`` returned, as the state is."""
    if value.dtype.kind not in ("biufc" if start.dtype.kind == "c" else "biuf"):
        raise TypeError(f"funs[{k}] must return numbers of {start.dtype}, as y0 holds, got {value.dtype}.")
    if value.shape != start.shape and not (value.ndim == 0 and start.size == 1):
        raise ValueError(f"funs[{k}] must return shape {start.shape}, that of y0, got {value.shape}.")
    return value.reshape(start.shape).astype(start.dtype)


def _functions(funs: Any) -> list[Function]:
    functions = [funs] if callable(funs) else funs
    if not isinstance(functions, Sequence) or isinstance(functions, str) or not functions:
        raise TypeError(f"funs must be a function fun(t, y) or a sequence of them, cheapest first, got {funs!r}.")
    for k, function in enumerate(functions):
        checks.callable_as(f"funs[{k}]", "fun(t, y)", function)
    return list(functions)


def _unpacked(args: Any) -> tuple[Any, ...]:
    try:
        return tuple(args)
    except TypeError:
        raise TypeError(f"args must be a tuple of more arguments, such as args=({args!r},), got {args!r}.") from None


def _state(y0: Any) -> np.ndarray:
    """``y0`` in float64 or complex128."""
    try:
        state = np.array(y0)
    except ValueError:
        state = np.array(None)
    if state.dtype.kind not in "biufc":
        raise TypeError(f"y0 must hold numbers, got {y0!r}.")
    if state.ndim != 1 or state.size == 0:
        raise ValueError(f"y0 must be one-dimensional, with at least one number, got shape {state.shape}.")
    if not np.isfinite(state).all():
        raise ValueError("y0 must be finite, but it holds NaN or infinity.")
    return state.astype(np.complex128 if state.dtype.kind == "c" else np.float64)


def _times(t_eval: Any, span: tuple[float, float]) -> np.ndarray:
    wanted, (t0, t1) = checks.as_float64("t_eval", t_eval), span
    lo, hi = min(span), max(span)
    if len(wanted) == 0 or wanted.min() < lo or wanted.max() > hi or (np.diff(wanted) * np.sign(t1 - t0) <= 0).any():
        raise ValueError(f"t_eval must hold times that run strictly from {t0} towards {t1}, got {t_eval!r}.")
    return wanted


def _refuse_others(others: dict[str, Any]) -> None:
    for name, value in others.items():
        if name not in _REFUSED:
            raise TypeError(f"solve_ivp knows no option {name!r}.")
        if value is not None:
            raise ValueError(f"{name}= is not taken, because {_REFUSED[name]}.")
