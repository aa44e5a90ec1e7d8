"""The best that each plain way, and the paper's rule, would have made of a budget, found by trying.

Everything is measured on the same paths, against the exact solution of the top level: a much finer run of it by Heun's
method, or by Milstein's where the noise depends on the state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from mlsde.brownian import Brownian
from mlsde.chunks.results import Results
from mlsde.hierarchy import DriftHierarchy
from mlsde.integrate import solve
from mlsde.multilevel import Multilevel
from mlsde.probabilities import PowerLaw
from mlsde.problems.ladder import LadderProblem
from mlsde.sde import SDE
from mlsde.solution import NonFiniteError
from mlsde.steppers import Scheme
from mlsde.study.methods import SWITCHES, round_numbers, stitched_levels
from mlsde.study.trials import Batch

USUAL_GAMMA = 2.5
"""Of the paper's rule where the ladder does not know its own: what the paper measured on its networks."""

_LEVELS_LEFT_OUT = 2
"""Of the paper's rule: ladders that are cut by up to so many levels at the top are tried too."""

_REFINEMENTS = (1, 4, 16)
"""Steps of the paper's rule, in multiples of those that the budget buys of the top level."""


@dataclass(frozen=True)
class Best:
    """The best of many runs within a budget.

    Attributes:
        error: root mean square over samples and components; infinite if none stayed finite.
        cost: per trajectory.
        what: the settings in words.
    """

    error: float
    cost: float
    what: str


def fine_run(problem: LadderProblem, y0: Tensor, path: Brownian | None, steps: int) -> Tensor:
    """Where the exact solution of the top level ends, to the accuracy of so many steps.

    Args:
        problem: the problem.
        y0: initial states.
        path: their path, ``None`` for an ODE.
        steps: number of steps.

    Raises:
        TypeError, ValueError: as of :func:`mlsde.solve`.
    """
    method: Scheme = "heun" if problem.sde.is_ode or problem.sde.additive else "milstein"
    return solve(problem.sde, y0, problem.t_span, steps=steps, method=method, brownian=path).y1


def fine_batch(
    problem: LadderProblem, trajectories: int, steps: int, seed: int, chunks: Results, key: str
) -> tuple[Batch, float]:
    """Samples on their paths with the end of their exact solutions, and how far that is from one of half the steps.

    Args:
        problem: the problem; errors are against its top level whatever its ``reference`` is.
        trajectories: number of samples.
        steps: of the fine run.
        seed: of initial states and paths.
        chunks: where the fine run is kept.
        key: its name there.
    """
    y0 = problem.initial(trajectories, seed)
    names = tuple((seed << 20) + j for j in range(trajectories))
    path = Batch(problem, y0, names, steps).path

    def compute() -> dict[str, Any]:
        fine, coarse = (fine_run(problem, y0, path, n) for n in (steps, steps // 2))
        return {"states": fine.tolist(), "gap": root_mean_square(fine - coarse)}

    found = chunks.result(key, compute)
    states = torch.tensor(found["states"], dtype=y0.dtype)
    batch = Batch(replace(problem, reference=lambda start, path: states), y0, names, steps)
    return batch, float(found["gap"])


def root_mean_square(difference: Tensor) -> float:
    """Over samples and components."""
    return math.sqrt(float(difference.double().square().mean()))


def error_of(batch: Batch, states: Tensor) -> float:
    """Root mean square distance of the samples from their references, over samples and components."""
    return root_mean_square(states - batch.reference)


def prices(drift: DriftHierarchy) -> tuple[float, ...]:
    """What one evaluation of each level costs alone: a ladder of differences pays for those below as well."""
    costs = drift.required_costs("this study")
    return tuple(accumulate(costs)) if drift.differences else costs


def fingerprint(problem: LadderProblem) -> dict[str, Any]:
    """Prices, and values of the levels at one state, by which another problem of the same name is told apart."""
    y0, t0 = problem.initial(2, 0), problem.t_span[0]
    with torch.no_grad():
        values = [float(level(torch.tensor(t0, dtype=y0.dtype), y0).sum()) for level in problem.sde.drift.levels]
    return {"costs": list(problem.sde.drift.required_costs("this study")), "values": [f"{v:.6g}" for v in values]}


class Hindsight:
    """Tries every way on one batch and keeps what it found.

    Args:
        batch: the samples.
        budgets: cost per trajectory that there is to spend: runs of plain methods are shared between them.
        most_steps: of a plain run; a cheap level alone could take more, but its bias is by then all that is left.
        most_coin_steps: of a run with coins.
        chunks: where the runs are kept.
    """

    def __init__(
        self, batch: Batch, budgets: Sequence[float], most_steps: int, most_coin_steps: int, chunks: Results
    ) -> None:
        self.batch, self.budgets, self.most_steps = batch, tuple(budgets), most_steps
        self.most_coin_steps = most_coin_steps
        self._chunks = chunks
        self._prices = prices(batch.problem.sde.drift)

    def plain(self, budget: float) -> Best:
        """Any level alone by Euler-Maruyama, with any number of steps."""
        return self._cheap_enough("plain", budget, lambda: self._alone("euler", 1))

    def heun(self, budget: float) -> Best:
        """Likewise by Heun's method, for an ODE or additive noise."""
        return self._cheap_enough("heun", budget, lambda: self._alone("heun", 2))

    def stitched(self, budget: float) -> Best:
        """Two neighbouring levels near the best one, on either side of a switch time."""
        return self._cheap_enough("stitched", budget, lambda: [run for b in self.budgets for run in self._stitches(b)])

    def paper(self, budget: float) -> Best:
        """Independent impulses with the probabilities of theory, any number of levels, in the mean over the coins."""
        key = f"paper-{self.budgets.index(budget)}"
        return self._cheap_enough(key, math.inf, lambda: self._impulses(budget))

    def _cheap_enough(self, way: str, budget: float, runs: Callable[[], list[Best]]) -> Best:
        def compute() -> dict[str, Any]:
            return {"runs": [asdict(run) for run in runs()]}

        found = [Best(**run) for run in self._chunks.result(way, compute)["runs"]]
        affordable = [run for run in found if run.cost <= budget * (1.0 + 1e-9)]
        return min(affordable, key=lambda run: run.error, default=Best(math.inf, 0.0, "nothing is affordable"))

    def _alone(self, method: str, stages: int) -> list[Best]:
        made = []
        for level, price in enumerate(self._prices, start=1):
            for n in self._numbers_of_steps(price * stages):
                error = self._error(steps=n, level=level, method=method)
                made.append(Best(error, n * price * stages, f"level {level}, {n} steps"))
        return made

    def _numbers_of_steps(self, price: float) -> list[int]:
        """Round numbers up to what the largest budget pays for, and exactly what each budget does."""
        affordable = {min(int(budget / price * (1.0 + 1e-9)), self.most_steps) for budget in self.budgets}
        if (most := max(affordable)) < 1:
            return []
        return sorted({*(n for n in affordable if n), *(int(n) for n in round_numbers(1.0, most) if n == int(n))})

    def _stitches(self, budget: float) -> list[Best]:
        best = int(self.plain(budget).what.split()[1].rstrip(","))
        top = len(self._prices)
        uppers = sorted({level for level in (best, best + 1, top) if 2 <= level <= top})
        return [run for upper in uppers for share in SWITCHES for run in self._stitch(budget, upper, share)]

    def _stitch(self, budget: float, upper: int, share: float) -> list[Best]:
        mean = abs(share) * self._prices[upper - 2] + (1.0 - abs(share)) * self._prices[upper - 1]
        span = self.batch.problem.t_span
        n = min(int(budget / mean), self.most_steps)
        if n < 2:
            return []
        done = self._run(steps=n, level=stitched_levels(upper, share, span))
        words = f"levels {upper - 1} and {upper}, {share:+g}, {n} steps"
        return [] if done is None else [Best(done[0], done[1], words)]

    def _impulses(self, budget: float) -> list[Best]:
        """Every sample has its own coins: the root mean square over samples is that over the coins' seeds as well."""
        problem, top = self.batch.problem, len(self._prices)
        law = PowerLaw(problem.gamma or USUAL_GAMMA, budget=budget)
        made = []
        for count in range(max(1, top - _LEVELS_LEFT_OUT), top + 1):
            sde = problem.sde.with_drift(problem.sde.drift.select(range(1, count + 1)))
            for n in sorted(
                {min(int(budget / self._prices[-1] * more), self.most_coin_steps) for more in _REFINEMENTS}
            ):
                rule = Multilevel(law, "independent", "impulse", "sample")
                done = self._run(steps=n, sde=sde, multilevel=rule, seed=self.batch.seeds)
                made += [] if done is None else [Best(done[0], done[1], f"{count} levels, {n} steps")]
        return made

    def _run(self, *, steps: int, sde: SDE | None = None, **options: Any) -> tuple[float, float] | None:
        """Error and cost of a run; ``None`` where its steps are too long to stay finite."""
        batch = self.batch
        sde = batch.problem.sde if sde is None else sde
        try:
            done = solve(sde, batch.y0, batch.problem.t_span, steps=steps, brownian=batch.noise(steps), **options)
        except NonFiniteError:
            return None
        return error_of(batch, done.y1), float(done.stats.cost or 0.0)

    def _error(self, **options: Any) -> float:
        done = self._run(**options)
        return math.inf if done is None else done[0]
