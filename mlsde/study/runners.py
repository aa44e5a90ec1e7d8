"""Who spends a budget, or reaches a tolerance, in a study of the choices: what is asked of it and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from mlsde.brownian import Brownian
from mlsde.problems.ladder import LadderProblem


@dataclass(frozen=True, eq=False)
class Spent:
    """What came of it.

    Attributes:
        states: at the end, shape of ``y0``.
        cost: of the run per trajectory, in the units of ``costs``, without the pilot.
        pilot: that of the pilot per trajectory, 0 if nothing is charged for it.
        predicted_error: root mean square over samples and components that was foreseen; ``None`` if nothing was.
        predicted_cost: of the run, likewise.
        chosen: what was chosen, in words.
    """

    states: Tensor
    cost: float
    pilot: float = 0.0
    predicted_error: float | None = None
    predicted_cost: float | None = None
    chosen: str = ""


class Spender(Protocol):
    """Spends a budget."""

    def __call__(
        self,
        problem: LadderProblem,
        y0: Tensor,
        budget: float,
        *,
        charged: bool,
        seed: int,
        brownian: Brownian | None,
    ) -> Spent:
        """Solve a problem as well as a budget allows.

        Args:
            problem: the problem, of which the ladder, the span and the noise may be looked at.
            y0: initial states.
            budget: cost per trajectory, in the units of ``costs``.
            charged: whether a pilot is paid from the budget; if not, one is made once and used again.
            seed: of the coins, and of the pilot if it is charged.
            brownian: the path of the samples, ``None`` for an ODE.
        """
        ...


class Reacher(Protocol):
    """Reaches a tolerance."""

    def __call__(
        self, problem: LadderProblem, y0: Tensor, tol: float, *, seed: int, brownian: Brownian | None
    ) -> Spent:
        """Solve a problem so that its error, root mean square over samples and components, is below ``tol``.

        Args:
            problem: the problem.
            y0: initial states.
            tol: the tolerance.
            seed: of the coins and the pilot.
            brownian: the path of the samples, ``None`` for an ODE.
        """
        ...
