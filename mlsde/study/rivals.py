"""Rivals of a multilevel rule: plain ways to spend a budget, with as many steps as it pays for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from torch import Tensor

from mlsde import checks
from mlsde.integrate import solve
from mlsde.problems.ladder import LadderProblem
from mlsde.solution import NonFiniteError, Solution
from mlsde.steppers import METHODS
from mlsde.study.methods import SWITCHES, stitched_levels
from mlsde.study.trials import Batch, higher_order

Way = Callable[..., Solution | tuple[Tensor, float]]
"""``way(y0, brownian=path, seed=seeds)``, such as ``functools.partial(mlsde.solve, sde, …)`` or ``advice.solve``."""

_MOST_STEPS = 4096
"""Of a rival: a cheap level alone could take more, but its bias is by then all that is left."""


class Rival(NamedTuple):
    """A plain run: its name, its cost per trajectory, the squared error of each sample, and where they end."""

    name: str
    cost: float
    squares: Tensor
    states: Tensor

    @property
    def error(self) -> float:
        """Mean square, to compare."""
        return float(self.squares.mean())


def plain_rivals(batch: Batch, budget: float) -> list[Rival]:
    """Runs without coins at a price.

    The top level by Euler-Maruyama, and by Heun or Milstein where they have an order to gain; the best of the lower
    levels by either; the best two neighbouring levels stitched in time. What does not stay finite is left out.

    Args:
        batch: the samples.
        budget: cost per trajectory.
    """
    problem = batch.problem
    costs, top = total_costs(problem), len(problem.sde.drift)
    euler = [_run(batch, budget, f"level {k} alone", costs[k - 1], level=k) for k in range(1, top)]
    method = higher_order(problem, batch.y0)
    higher = [
        _run(
            batch,
            budget,
            f"level {k}, {method.capitalize()}",
            costs[k - 1],
            METHODS[method].stages,
            level=k,
            method=method,
        )
        for k in range(1, top + 1)
        if method
    ]
    stitched = [
        _run(
            batch,
            budget,
            f"levels {k - 1} and {k} stitched",
            abs(share) * costs[k - 2] + (1.0 - abs(share)) * costs[k - 1],
            level=stitched_levels(k, share, problem.t_span),
        )
        for k in range(2, top + 1)
        for share in SWITCHES
    ]
    top_level = _run(batch, budget, "top level", costs[-1])
    found = [top_level, *higher[-1:], *(_best(runs) for runs in (euler, higher[:-1], stitched))]
    return [one for one in found if one is not None]


def total_costs(problem: LadderProblem) -> tuple[float, ...]:
    """Price of the value of each level; in a ladder of differences a level is the sum of those up to it."""
    drift = problem.sde.drift
    costs = drift.required_costs("a comparison")
    return tuple(accumulate(costs)) if drift.differences else costs


def _run(batch: Batch, budget: float, name: str, price: float, stages: int = 1, **options: Any) -> Rival | None:
    n = min(int(budget / price / stages), _MOST_STEPS)
    if n < 1:
        return None
    problem = batch.problem
    try:
        done = solve(problem.sde, batch.y0, problem.t_span, steps=n, brownian=batch.path, **options)
    except NonFiniteError:  # too long a step for it
        return None
    return Rival(f"{name}, {n} steps", n * price * stages, batch.errors(done.y1), done.y1)


def _best(rivals: Sequence[Rival | None]) -> Rival | None:
    return min((one for one in rivals if one is not None), key=lambda one: one.error, default=None)


class Ended(NamedTuple):
    """Where somebody's own way ended, what was spent per trajectory, and the solution if it returned one."""

    states: Tensor
    cost: float
    solution: Solution | None


def way_end(name: str, way: Way, batch: Batch) -> Ended:
    """Run somebody's own way on the samples of a batch.

    Raises:
        TypeError, ValueError: if it returns no :class:`mlsde.Solution` or pair with states like ``y0`` and a cost.
    """
    checks.callable_as(name, "way(y0, brownian=path, seed=seeds)", way)
    done = way(batch.y0, brownian=batch.path, seed=batch.seeds)
    states, cost = _of_solution(name, done) if isinstance(done, Solution) else _of_pair(name, done)
    if states.shape != batch.y0.shape:
        raise ValueError(f"{name} returned states of shape {tuple(states.shape)}, expected {tuple(batch.y0.shape)}.")
    cost = checks.positive_number(f"the cost that {name} returned", cost)
    return Ended(states, cost, done if isinstance(done, Solution) else None)


def _of_solution(name: str, done: Solution) -> tuple[Tensor, float]:
    if done.stats.cost is None:
        raise ValueError(f"{name} returned a solution without a cost; give its DriftHierarchy costs=.")
    return done.y1, done.stats.cost + (done.stats.pilot_cost or 0.0)


def _of_pair(name: str, done: object) -> tuple[Tensor, float]:
    if not (isinstance(done, tuple) and len(done) == 2 and isinstance(done[0], Tensor)):
        raise TypeError(
            f"{name} must return an mlsde.Solution or a pair of the states at the end and the cost, got "
            f"{type(done).__name__}."
        )
    return done
