"""The package's own chooser, ``multilevel="auto"`` of :func:`mlsde.solve`, as the studies of choices call it."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from mlsde import calibration
from mlsde.brownian import Brownian
from mlsde.calibration import Calibration, Recommendation, auto
from mlsde.problems.ladder import LadderProblem
from mlsde.study.runners import Spent

_MOST_STEPS = 8192


@dataclass
class Auto:
    """Spends a budget as ``solve(multilevel="auto", budget=...)`` does.

    A pilot that is not charged is run once for each problem, and serves all its budgets.

    Args:
        most_steps: what would take more steps is asked for again with so many, and with a quarter of them.
        trajectories: of the run among which a pilot's price is shared out; by default those of ``y0``.
        evaluations: of the top level per trajectory, in the run that sizes a pilot which is not charged.
    """

    most_steps: int = _MOST_STEPS
    trajectories: int | None = None
    evaluations: int = 512
    _kept: dict[int, tuple[LadderProblem, Calibration]] = field(default_factory=dict, init=False)

    def __call__(
        self, problem: LadderProblem, y0: Tensor, budget: float, *, charged: bool, seed: int, brownian: Brownian | None
    ) -> Spent:
        """As :class:`mlsde.study.runners.Spender`."""
        known = None if charged else self._known(problem, y0)
        advice, pilot = advised(
            problem, y0, self.most_steps, budget=budget, calibration=known, seed=seed, trajectories=self.trajectories
        )
        return _run(advice, pilot, y0, seed, brownian)

    def _known(self, problem: LadderProblem, y0: Tensor) -> Calibration:
        if id(problem) not in self._kept:  # with the problem, so that no other one gets its id
            found = calibration.calibrate(
                problem.sde, y0, problem.t_span, steps=self.evaluations, trajectories=self.trajectories
            )
            self._kept[id(problem)] = problem, found
        return self._kept[id(problem)][1]


def reach(problem: LadderProblem, y0: Tensor, tol: float, *, seed: int, brownian: Brownian | None) -> Spent:
    """Reaches a tolerance as ``solve(tol=...)`` does; as :class:`mlsde.study.runners.Reacher`."""
    advice, pilot = advised(problem, y0, _MOST_STEPS, tol=tol, seed=seed)
    return _run(advice, pilot, y0, seed, brownian)


def advised(problem: LadderProblem, y0: Tensor, most_steps: int, **options: Any) -> tuple[Recommendation, float]:
    """What ``solve`` would run, and the price of its pilot per trajectory; without its warnings.

    Args:
        problem: the problem.
        y0: initial states.
        most_steps: of the run: by its declared price a cheap level in millions of steps costs nothing, but hours.
        **options: ``budget`` or ``tol``, ``calibration`` and ``seed``, as there.
    """
    asked: dict[str, Any] = {"times": None, "method": "euler", "budget": None, "tol": None, "calibration": None}
    asked |= options

    def chosen(steps: int | None) -> tuple[Recommendation, float]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return auto.chosen(problem.sde, y0, problem.t_span, steps=steps, **asked)

    free = chosen(None)
    if free[0].steps <= most_steps:
        return free
    key = "predicted_cost" if asked["tol"] is not None else "predicted_error"
    return min((chosen(n) for n in (most_steps, most_steps // 4)), key=lambda one: float(getattr(one[0], key)))


def _run(advice: Recommendation, pilot: float, y0: Tensor, seed: int, brownian: Brownian | None) -> Spent:
    done = advice.solve(y0, seed=seed, brownian=brownian)
    known = math.isfinite(advice.predicted_error)
    return Spent(
        done.y1, float(done.stats.cost or 0.0), pilot, advice.predicted_error if known else None,
        advice.predicted_cost, advice.describe(),
    )  # fmt: skip
