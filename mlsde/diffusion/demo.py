"""The demo: digits drawn by a ladder of exact denoisers, against every rival at equal cost.

Costs are per trajectory in components of a mixture; errors are root mean squares per pixel (pixels span [-1, 1])
against the top level with ten times the steps on the same path.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlsde import checks
from mlsde.brownian import BrownianPath
from mlsde.diffusion.digits import DigitsLadder, digits_ladder
from mlsde.diffusion.dpm_solver import dpm_solver_2m, log_snr_grid
from mlsde.diffusion.metrics import rmse, sliced_wasserstein
from mlsde.integrate import solve
from mlsde.multilevel import Multilevel
from mlsde.probabilities import Optimal, PowerLaw
from mlsde.sde import SDE
from mlsde.solution import Solution
from mlsde.variances import LevelVariances, level_variances

T_SPAN = (1.0, 1e-3)
PATTERNS = 15


@dataclass(frozen=True)
class Row:
    """One method at one budget; errors and distances are means over ``seeds`` seeds of the coins.

    Attributes:
        method: its name.
        budget: how many times less than the full run it may cost; ``None`` if it was not fitted to a budget.
        steps: number of steps.
        evaluations: of each level, per trajectory.
        cost: per trajectory, the share of a pilot included.
        seconds: median wall-clock.
        rmse: to the reference.
        spread: standard deviation of ``rmse`` over the seeds.
        median: median over the samples of each one's own error; the RMSE is ruled by the few that end as another digit.
        distance: sliced Wasserstein distance to the data.
        seeds: number of seeds.
        multilevel: whether it uses coins.
        states: final states of the first seed, for pictures.
        errors: mean square error of each sample, shape ``(seeds, samples)``.
    """

    method: str
    budget: int | None
    steps: int
    evaluations: tuple[float, ...]
    cost: float
    seconds: float
    rmse: float
    spread: float
    median: float
    distance: float
    seeds: int
    multilevel: bool
    states: Tensor = field(repr=False, compare=False)
    errors: Tensor = field(repr=False, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """Numbers only, for JSON."""
        numbers = {name: value for name, value in self.__dict__.items() if not isinstance(value, Tensor)}
        return numbers | {"evaluations": list(self.evaluations)}


@dataclass(frozen=True)
class Comparison:
    """All methods on one equation.

    Attributes:
        equation: what was solved, and by which stepper.
        steps: steps of the full run and of every multilevel one.
        full_cost: cost of the full run.
        rows: the methods.
        reference: final states of the reference.
        exact_distance: sliced Wasserstein distance to the data of as many exact draws: what perfection shows.
        novelty: median distance, root mean square per pixel, of the reference's digits to the nearest one of the data.
    """

    equation: str
    steps: int
    full_cost: float
    rows: tuple[Row, ...]
    reference: Tensor = field(repr=False, compare=False)
    exact_distance: float
    novelty: float

    def at(self, budget: int | None) -> list[Row]:
        """Rows of one budget."""
        return [row for row in self.rows if row.budget == budget]

    def budgets(self) -> list[int]:
        """Budgets, increasing."""
        return sorted({row.budget for row in self.rows if row.budget is not None})

    def verdict(self, budget: int) -> str:
        """A sentence on who wins at a budget, made from the rows; the search over patterns does not take part."""
        rows = [row for row in self.at(budget) if "patterns" not in row.method]
        return f"at 1/{budget} of the cost, by RMSE {_judged(rows, 'rmse')}; by median {_judged(rows, 'median')}."

    def as_dict(self) -> dict[str, Any]:
        """Numbers only, for JSON."""
        return {
            "equation": self.equation,
            "steps": self.steps,
            "full_cost": self.full_cost,
            "exact_distance": self.exact_distance,
            "novelty": self.novelty,
            "rows": [row.as_dict() for row in self.rows],
            "verdicts": [self.verdict(budget) for budget in self.budgets()],
        }


@dataclass(frozen=True)
class Setting:
    """Size of the demo: samples, steps of the full run, budgets as parts of its cost, seeds of the coins, the pilot."""

    samples: int = 192
    steps: int = 400
    budgets: tuple[int, ...] = (3, 6, 12)
    seeds: int = 5
    seed: int = 0
    pilot_samples: int = 8
    pilot_steps: int = 25

    def __post_init__(self) -> None:
        checks.torch_seed(self.seed)
        for name in ("samples", "steps", "seeds", "pilot_samples", "pilot_steps"):
            checks.positive_integer(name, getattr(self, name))
        if not self.budgets:
            raise ValueError("budgets must hold at least one part of the full cost, got none.")
        for budget in self.budgets:
            checks.positive_integer("budgets", budget)
        # a pilot step costs about one step of the full run, for each of its samples
        share = self.pilot_samples * self.pilot_steps / (self.samples * self.steps) * max(self.budgets)
        if share > 0.5:
            raise ValueError(
                f"the pilot would take {share:.0%} of the smallest budget; raise samples={self.samples} or "
                f"steps={self.steps}, or lower pilot_samples={self.pilot_samples} or pilot_steps={self.pilot_steps}."
            )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Contest:
    """The methods of the demo on one equation.

    Args:
        ladder: the digits.
        churn: 1 for the reverse-time SDE, 0 for the probability-flow ODE.
        setting: the size.
        report: called with a line when a method is done.
    """

    def __init__(
        self, ladder: DigitsLadder, churn: float, setting: Setting, report: Callable[[str], None] = lambda _line: None
    ) -> None:
        self.ladder, self.setting, self._report = ladder, setting, report
        self.sde: SDE = ladder.process.reverse(ladder.drift, churn=churn)
        assert ladder.drift.costs is not None
        self.costs = ladder.drift.costs
        self.full_cost = setting.steps * self.costs[-1]
        generator = torch.Generator().manual_seed(setting.seed)
        self.y0 = torch.randn(setting.samples, 64, generator=generator)
        self.path = None if churn == 0 else self._path(self.y0, setting.seed)
        self.data = ladder.data.sample(4 * setting.samples, generator)
        self.exact_distance = sliced_wasserstein(ladder.data.sample(setting.samples, generator), self.data)
        self.reference = self.solve(10 * setting.steps).y1
        self.pilot = self._measure_variances()

    def solve(self, steps: int, **options: Any) -> Solution:
        """Solve on the common path."""
        return solve(self.sde, self.y0, T_SPAN, steps=steps, brownian=self.path, **options)

    def _path(self, like: Tensor, seed: int) -> BrownianPath:
        """A path that is cheapest at the steps of the full run and of the reference."""
        return BrownianPath(*T_SPAN, like=like, seed=seed, grids=(self.setting.steps, 10 * self.setting.steps))

    def _measure_variances(self) -> LevelVariances:
        few = self.y0[: self.setting.pilot_samples]
        path = None if self.path is None else self._path(few, self.setting.seed + 1)
        return level_variances(self.sde, few, T_SPAN, steps=self.setting.pilot_steps, brownian=path)

    @property
    def pilot_cost(self) -> float:
        """Cost of the pilot, shared among the trajectories of the run."""
        assert self.pilot.cost is not None
        return self.pilot.cost * self.setting.pilot_samples / self.setting.samples

    def row(self, method: str, budget: int | None, runs: Sequence[Solution], *, pilot: bool = False) -> Row:
        """Sum up the runs of one method."""
        evaluations = np.mean([run.stats.evaluations for run in runs], axis=0)
        row = Row(
            method=method,
            budget=budget,
            steps=runs[0].plan.steps,
            evaluations=tuple(evaluations.tolist()),
            cost=float(evaluations @ np.array(self.costs)) + (self.pilot_cost if pilot else 0.0),
            seconds=float(np.median([run.stats.wall_seconds for run in runs])),
            multilevel=runs[0].plan.coins != "none",
            **self._errors([run.y1 for run in runs]),
        )
        self._report(f"{method}: {row.rmse:.4f}")
        return row

    def _errors(self, states: Sequence[Tensor]) -> dict[str, Any]:
        """What a row says of the final states of one method, one tensor per seed."""
        squares = torch.stack([(state - self.reference).square().mean(dim=1) for state in states])
        by_seed = squares.mean(dim=1).sqrt()
        return {
            "rmse": float(by_seed.mean()),
            "spread": float(by_seed.std(correction=0)),
            "median": float(squares.median(dim=1).values.sqrt().mean()),
            "distance": float(np.mean([sliced_wasserstein(state, self.data) for state in states])),
            "seeds": len(states),
            "states": states[0],
            "errors": squares,
        }

    def plain(self) -> Iterator[Row]:
        """The full run, and each cheaper level alone at every step."""
        steps = self.setting.steps
        yield self.row(f"top level, {steps} steps", None, [self.solve(steps)])
        for k, name in enumerate(self.ladder.drift.names[:-1], 1):
            yield self.row(f"{name} alone", None, [self.solve(steps, level=k)])

    def rivals(self, budget: int) -> Iterator[Row]:
        """Plain methods at a budget: fewer steps, a higher order, two levels stitched in time."""
        fewer = max(2, self.setting.steps // budget)
        yield self.row("top level, fewer steps", budget, [self.solve(fewer)])
        if self.sde.is_ode:
            yield self.row("top level, DDIM", budget, [self.solve(fewer, method="exponential")])
            yield self.row("top level, Heun", budget, [self.solve(max(1, fewer // 2), method="heun")])
            yield self._dpm_solver(budget, fewer)
        stitched = [self._stitched(budget, low, switch) for low in (1, 2) for switch in (0.2, 0.3, 0.4, 0.5)]
        best = min(stitched, key=lambda run: rmse(run.y1, self.reference))
        yield self.row(f"two levels stitched, best of {len(stitched)}", budget, [best])

    def _dpm_solver(self, budget: int, steps: int) -> Row:
        """DPM-Solver++(2M) with the top level, on its usual grid of equal steps of the signal-to-noise ratio's log."""
        begin, levels = time.perf_counter(), len(self.costs)
        times = log_snr_grid(self.ladder.process, T_SPAN, steps)
        end = dpm_solver_2m(self.ladder.process, self.ladder.drift.levels[-1], self.y0, times)
        seconds = time.perf_counter() - begin
        evaluations = (*[0.0] * (levels - 1), float(steps))
        name, cost = "top level, DPM-Solver++(2M)", steps * self.costs[-1]
        row = Row(name, budget, steps, evaluations, cost, seconds, multilevel=False, **self._errors([end]))
        self._report(f"{name}: {row.rmse:.4f}")
        return row

    def _stitched(self, budget: int, low: int, switch: float) -> Solution:
        """A cheap level early and the top level after ``switch``, with as many steps as the budget pays."""
        part = (switch - T_SPAN[1]) / (T_SPAN[0] - T_SPAN[1])
        price = part * self.costs[-1] + (1 - part) * self.costs[low - 1]
        steps = max(2, int(self.full_cost / budget / price))
        return self.solve(min(steps, self.setting.steps), level=lambda t: low if t > switch else len(self.costs))

    def multilevel(self, budget: int) -> Iterator[Row]:
        """The paper's rule with a power law, then spread coins and memories with measured variances."""
        paper = Multilevel(PowerLaw(2.5, budget=self.full_cost / budget), coins="independent", correction="impulse")
        runs = self._seeded(paper, PATTERNS)
        yield self.row("independent impulse (the paper)", budget, runs)
        best = min(runs, key=lambda run: rmse(run.y1, self.reference))
        row = self.row(f"the paper's, best of {PATTERNS} patterns", budget, [best])
        yield Row(**{**row.__dict__, "cost": PATTERNS * row.cost})
        affordable = self.full_cost / budget - self.pilot_cost
        for coins, correction, order in (
            ("systematic", "impulse", 2.0),
            ("systematic", "hold", 2.0),
            ("systematic", "extrapolate", 4.0),
        ):
            rule = Multilevel.named(Optimal(self.pilot, affordable, order), coins=coins, correction=correction)
            yield self.row(f"{coins} {correction}", budget, self._seeded(rule, self.setting.seeds), pilot=True)

        if self.sde.is_ode:
            yield self._multilevel_heun(budget, affordable)

    def _multilevel_heun(self, budget: int, affordable: float) -> Row:
        """Extrapolation inside Heun, whose higher order wants fewer steps: the best number of them in hindsight."""
        rule = Multilevel(Optimal(self.pilot, affordable, 4.0), coins="systematic", correction="extrapolate")
        steps = [self.setting.steps // part for part in (2, 3, 4, 6)]
        runs = [self._seeded(rule, self.setting.seeds, steps=n, method="heun") for n in steps]
        errors = [np.mean([rmse(run.y1, self.reference) for run in row]) for row in runs]
        name = f"systematic extrapolate in Heun, best of {len(steps)}"
        return self.row(name, budget, runs[int(np.argmin(errors))], pilot=True)

    def _seeded(
        self, rule: Multilevel, seeds: int, *, steps: int | None = None, method: str = "euler"
    ) -> list[Solution]:
        steps = steps or self.setting.steps
        return [self.solve(steps, method=method, multilevel=rule, seed=self.setting.seed + s) for s in range(seeds)]

    def result(self) -> Comparison:
        """Run every method."""
        rows = list(self.plain())
        for budget in self.setting.budgets:
            rows += [*self.rivals(budget), *self.multilevel(budget)]
        what = "probability-flow ODE, Euler" if self.sde.is_ode else "reverse SDE, Euler-Maruyama"
        nearest = torch.cdist(self.reference, self.ladder.data.centres).min(dim=1).values
        novelty = float(nearest.median()) / math.sqrt(self.reference.shape[1])
        return Comparison(
            what, self.setting.steps, self.full_cost, tuple(rows), self.reference, self.exact_distance, novelty
        )


def _judged(rows: Sequence[Row], error: str) -> str:
    """The best multilevel row against the best plain one, by one of their errors."""
    plain, ours = (
        min((row for row in rows if row.multilevel == multilevel), key=lambda row: float(getattr(row, error)))
        for multilevel in (False, True)
    )
    ratio = getattr(plain, error) / getattr(ours, error)
    low, high = _ratio_interval(plain.errors, ours.errors, torch.mean if error == "rmse" else _median)
    word = "multilevel wins" if low > 1 else "multilevel does not pay" if high < 1 else "undecided"
    names = f"{plain.method} {getattr(plain, error):.2g} against {ours.method} {getattr(ours, error):.2g}"
    return f"{word} ({names}, ratio {ratio:.2f}, 95 %: {low:.2f} to {high:.2f})"


def _median(values: Tensor, dim: int) -> Tensor:
    return values.median(dim=dim).values


def _ratio_interval(
    above: Tensor, below: Tensor, typical: Callable[..., Tensor], draws: int = 2000
) -> tuple[float, float]:
    """Bootstrap interval of a ratio of errors, 95 %, drawing samples with replacement, the same for both."""
    samples = above.shape[1]
    drawn = torch.randint(samples, (draws, samples), generator=torch.Generator().manual_seed(0))
    means = [typical(errors[:, drawn], dim=2).sqrt().mean(dim=0) for errors in (above, below)]
    ratios = means[0] / means[1]
    low, high = torch.quantile(ratios, torch.tensor([0.025, 0.975], dtype=ratios.dtype)).tolist()
    return low, high


def digits_demo(setting: Setting | None = None, report: Callable[[str], None] = lambda _line: None) -> Demo:
    """Draw digits with every method; see :class:`Setting` for the size.

    Args:
        setting: the size of the demo.
        report: called with a line as each method is done.
    """
    setting = setting or Setting()
    ladder = digits_ladder(seed=setting.seed)
    return Demo(setting, ladder, tuple(Contest(ladder, churn, setting, report).result() for churn in (1.0, 0.0)))


@dataclass(frozen=True)
class Demo:
    """Result of the demo: one comparison per equation."""

    setting: Setting
    ladder: DigitsLadder
    comparisons: tuple[Comparison, ...]

    def as_dict(self) -> dict[str, Any]:
        """Numbers only, for JSON."""
        return {
            "setting": self.setting.as_dict(),
            "levels": dict(zip(self.ladder.drift.names, self.ladder.drift.costs or (), strict=True)),
            "comparisons": [comparison.as_dict() for comparison in self.comparisons],
        }

    def __repr__(self) -> str:
        return "\n\n".join(_table(comparison) for comparison in self.comparisons)


def _table(comparison: Comparison) -> str:
    """All rows as text: evaluations of each level, cost, wall-clock, errors, and the verdicts below."""
    head = ("method", "cost", "evaluations", "seconds", "RMSE", "+-", "median", "SW2")
    lines: list[tuple[str, ...]] = []
    for budget in (None, *comparison.budgets()):
        lines.append(("" if budget is None else f"at 1/{budget} of the cost", *[""] * 7))
        for row in comparison.at(budget):
            evaluations = " ".join(f"{count:.0f}".rjust(4) for count in row.evaluations)
            spread = f"{row.spread:.4f}" if row.seeds > 1 else ""
            cost = f"{row.cost / comparison.full_cost:.3f}"
            numbers = (f"{row.seconds:.2f}", f"{row.rmse:.4f}", spread, f"{row.median:.4f}", f"{row.distance:.3f}")
            lines.append((f"  {row.method}", cost, evaluations, *numbers))
    widths = [max(len(line[i]) for line in (head, *lines)) for i in range(8)]

    def text(line: tuple[str, ...]) -> str:
        cells = [
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    title = (
        f"{comparison.equation}: {comparison.steps} steps; SW2 of exact draws {comparison.exact_distance:.3f}; "
        f"a drawn digit is {comparison.novelty:.2f} per pixel from the nearest in the data"
    )
    return "\n".join(
        [title, text(head), *(text(line) for line in lines[1:]), *(comparison.verdict(b) for b in comparison.budgets())]
    )
