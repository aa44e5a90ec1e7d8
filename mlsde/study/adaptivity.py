"""What a plan could gain if it were redrawn within the run, and what it does gain: the pilot's plan against oracles.

In the cells where a pilot of a tenth of the run chooses coins, its plan is compared with others of the same levels,
rule, steps and budget. Two know what nobody knows beforehand, and bound what redrawing could gain, which knows less and
later: ``recorded`` is made as the pilot's is, but from a recording of the run's own trajectories and path; ``searched``
is the best of those and of plans with one level's share enlarged, by the errors themselves. The third is causal:
``redrawn`` of :mod:`mlsde.study.redrawing`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlsde import checks, randomness
from mlsde.brownian import BrownianPath
from mlsde.calibration import Calibration, Recommendation, calibrate, candidates, choice, measure, pilot
from mlsde.calibration.model import Model
from mlsde.calibration.shaped import Shaped
from mlsde.chunks.ranks import ranks
from mlsde.chunks.results import Results, share_results
from mlsde.integrate import solve
from mlsde.multilevel import Multilevel
from mlsde.problems.kinds import kinds
from mlsde.problems.ladder import LadderProblem
from mlsde.sde import NoiseTerm
from mlsde.showing import Rows, as_html, as_text
from mlsde.study.hindsight import fine_run, prices
from mlsde.study.redrawing import redrawn_run

WAYS = ("recorded", "searched", "redrawn")
"""The plans that are compared with the pilot's."""

GAIN = 1.1
"""Error of the pilot's plan over another's from which on the other counts as better."""

_BOOTSTRAP = 1000
_ENLARGED = 1.6
"""Factor of one level's probabilities in the search, before all are scaled to the budget."""

_NEARBY = np.exp(np.linspace(-0.1, 0.1, 8))
"""Budgets, over the one asked for, that stand for seeds where coins have no chance: one pattern may be lucky."""

_ORDERS = {"extrapolate": 3.0}
"""Of the fall of a rule's mean squared error, for redrawing; 2 for the others."""

_FULL: dict[str, Any] = {
    "problems": None, "budgets": (16.0, 64.0), "trajectories": 256, "measured": 64, "coins": 2, "seeds": 12,
    "most_steps": 1024, "own_steps": 64, "reference_steps": 6144,
}  # fmt: skip
_QUICK: dict[str, Any] = {
    **_FULL, "problems": ("gamma-3-ode", "smooth-sde"), "budgets": (32.0,), "measured": 32, "seeds": 4,
    "most_steps": 256, "own_steps": 32, "reference_steps": 1536,
}  # fmt: skip


@dataclass(frozen=True)
class Gain:
    """What another plan gains over the pilot's: above 1 it is better.

    Attributes:
        coins: error of the pilot's plan over that of the other, of the coins alone, and its 95 % interval.
        total: the same of the errors against the exact solution of the top level.
        cost: cost of the other over that of the pilot's plan, as they came about.
        what: the other in a word.
    """

    coins: tuple[float, float, float]
    total: tuple[float, float, float]
    cost: float
    what: str


@dataclass(frozen=True)
class Cell:
    """One problem at one budget, at which the pilot chose coins.

    Attributes:
        problem: its name.
        evaluations: the budget in evaluations of the top level per trajectory, the pilot included.
        chosen: what the pilot chose, in words.
        pilot: its price over the budget.
        step_error: root mean square distance of the same levels without coins, on the same grid, from the solution.
        coins_error: of the pilot's plan from that run.
        total_error: of the pilot's plan from the solution.
        apart: by how much redrawing changed one level's probabilities more than another's at most, a mean over seeds.
        gains: by the names of :data:`WAYS`.
    """

    problem: str
    evaluations: float
    chosen: str
    pilot: float
    step_error: float
    coins_error: float
    total_error: float
    apart: float
    gains: dict[str, Gain]


@dataclass(frozen=True)
class AdaptivityStudy:
    """The pilot's plan against others, in every cell with coins.

    Attributes:
        cells: those cells.
        plain: the others: problem, budget in evaluations, and what was chosen.
        settings: what else makes the study what it is.
    """

    cells: tuple[Cell, ...]
    plain: tuple[tuple[str, float, str], ...]
    settings: dict[str, Any]

    def summary(self) -> dict[str, dict[str, float]]:
        """For each way: geometric means of its gains, and the share of cells in which it is surely beyond ``GAIN``."""
        found = {}
        for way in WAYS if self.cells else ():
            gains = [cell.gains[way] for cell in self.cells]
            found[way] = {
                "coins": _geometric([gain.coins[0] for gain in gains]),
                "total": _geometric([gain.total[0] for gain in gains]),
                "better": _share([gain.total[0] >= GAIN and gain.total[1] > 1.0 for gain in gains]),
                "worse": _share([gain.total[0] <= 1.0 / GAIN and gain.total[2] < 1.0 for gain in gains]),
            }
        return found

    __repr__ = as_text
    _repr_html_ = as_html

    def _report(self) -> list[str | Rows]:
        formats = ["15", ">7", ">9", ">9", *[">27"] * len(WAYS), ">8"]
        head = ["problem", "budget", "step", "coins", *WAYS, "apart"]
        return [
            "error of the pilot's plan over that of another at the same budget: of the coins alone, and of all "
            "(95 % interval)",
            "apart: by how much redrawing changed the probabilities of one level more than those of another",
            f"budget in evaluations of the top level; {len(self.cells)} cells with coins, {len(self.plain)} without",
            "",
            Rows([head, *map(_row, self.cells)], formats, gap="", indent=""),
            "",
            *(
                f"{way}: on average {row['coins']:.2f} of the coins, {row['total']:.2f} of all; of all at least "
                f"{GAIN:g} in {row['better']:.0%} of the cells, at most 1/{GAIN:g} in {row['worse']:.0%}"
                for way, row in self.summary().items()
            ),
            "",
            *(f"{cell.problem} at {cell.evaluations:g}: {cell.chosen}" for cell in self.cells),
            *(f"{name} at {budget:g}: {what}" for name, budget, what in self.plain),
        ]

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        plain = [{"problem": name, "evaluations": budget, "chosen": what} for name, budget, what in self.plain]
        cells = [asdict(cell) for cell in self.cells]
        whole = {"problem": "adaptivity", "settings": self.settings, "summary": self.summary()}
        return _finite({**whole, "cells": cells, "plain": plain})

    def figure(self, file: str | os.PathLike[str]) -> str:
        """Draw the gains of all errors with their intervals; returns the file's name."""
        from mlsde.drawing import COLOURS, canvas, save  # noqa: PLC0415, matplotlib

        figure = canvas(8.0, 1.2 + 0.28 * max(1, len(self.cells)))
        ax, places = figure.subplots(), np.arange(len(self.cells))[::-1]
        for i, way in enumerate(WAYS):
            ends = np.array([cell.gains[way].total for cell in self.cells]).reshape(-1, 3)
            bars = np.maximum(np.abs(ends[:, 1:] - ends[:, :1]).T, 0.0)
            style: dict[str, Any] = {"color": COLOURS[i + 1], "marker": "osD"[i], "ms": 4, "ls": "", "lw": 1.0}
            ax.errorbar(ends[:, 0], places + 0.2 * (1 - i), xerr=bars, label=way, **style)
        ax.axvline(1.0, color="grey", lw=0.8)
        ax.set_yticks(places, [f"{cell.problem}, {cell.evaluations:g}" for cell in self.cells], fontsize=7)
        ax.set_xscale("log")
        ax.set_xlabel("error of the pilot's plan over that of the other")
        ax.legend(fontsize=7, frameon=False)
        return save(figure, file)


def adaptivity_study(
    *, quick: bool = False, seed: int = 0, folder: str | os.PathLike[str] | None = None, wrong: float = 1.0
) -> AdaptivityStudy:
    """Measure what redrawing a plan within the run could gain over the pilot's plan, and what it does gain.

    Args:
        quick: two problems, few steps and samples, in seconds and rough.
        seed: of everything random, the differences of the ladders included.
        folder: where finished cells are kept, so that a killed study goes on.
        wrong: factor by which the pilot's ``V_K`` is made wrong for the dearest level, and its plan with it: to see
            that the study would show what there is to gain.

    Raises:
        TypeError, ValueError: naming the argument.
    """
    settings = {**(_QUICK if quick else _FULL), "seed": checks.one_seed(seed)}
    settings["wrong"] = checks.positive_number("wrong", wrong)
    work = ranks(torch.device("cpu"))
    chunks = Results(folder, settings, work)
    known = settings["problems"]
    asked = {
        (name, budget): partial(chunks.result, f"{name}-{budget:g}", partial(_cell, problem, budget, settings))
        for name, problem in kinds(seed).items() if known is None or name in known for budget in settings["budgets"]
    }  # fmt: skip
    share_results(list(asked.values()), [chunks], work)
    cells: list[Cell] = []
    plain: list[tuple[str, float, str]] = []
    for (name, budget), ask in asked.items():
        found = ask()
        if "gains" in found:
            gains = {way: _gain(row) for way, row in found["gains"].items()}
            cells.append(Cell(**{**found, "problem": name, "evaluations": budget, "gains": gains}))
        else:
            plain.append((name, budget, found["chosen"]))
    return AdaptivityStudy(tuple(cells), tuple(plain), settings)


def _gain(row: dict[str, Any]) -> Gain:
    coins, total = ((float(ratio), float(low), float(high)) for ratio, low, high in (row["coins"], row["total"]))
    return Gain(coins, total, float(row["cost"]), str(row["what"]))


def _cell(problem: LadderProblem, evaluations: float, settings: dict[str, Any]) -> dict[str, Any]:
    """One cell, as JSON; without gains where no coins were chosen."""
    budget = evaluations * prices(problem.sde.drift)[-1]
    y0 = problem.initial(settings["trajectories"], settings["seed"])
    known, advice, left = recommended(problem, y0, budget, settings["most_steps"], settings["seed"])
    if advice.multilevel is None:
        return {"chosen": advice.describe()}
    table, variances = _spoilt(known, advice, y0, settings)
    run = OwnRun(problem, advice, left, y0[: settings["measured"]], settings)
    mine = run.errors(table, test=True)
    recorded = run.recorded()
    searched, words = run.searched([table, *recorded])
    own = min(recorded, key=lambda one: run.errors(one, test=False).of_coins, default=table)
    before, after, apart = run.redrawn(table, variances)
    gains = {
        "recorded": run.gain(mine, run.errors(own, test=True), "from a recording of the run itself"),
        "searched": run.gain(mine, run.errors(searched, test=True), words),
        "redrawn": run.gain(before, after, "causal"),
    }
    return {
        "chosen": advice.describe(), "pilot": known.cost / budget, "step_error": run.step_error,
        "coins_error": mine.of_coins, "total_error": math.sqrt(float(mine.total.mean())),
        "apart": apart,
        "gains": {way: asdict(gain) for way, gain in gains.items()},
    }  # fmt: skip


def recommended(
    problem: LadderProblem, y0: Tensor, budget: float, most_steps: int, seed: int
) -> tuple[Calibration, Recommendation, float]:
    """What a pilot of a tenth of the budget recommends for the rest, in at most so many steps, and that rest."""
    steps = max(1, int(budget / prices(problem.sde.drift)[-1]))
    known = calibrate(problem.sde, y0, problem.t_span, steps=steps, budget=budget, seed=seed)
    left = budget - known.cost
    advice = known.recommend(budget=left)
    if advice.steps > most_steps:
        advice = known.recommend(budget=left, steps=most_steps)
    return known, advice, left


def _spoilt(
    known: Calibration, advice: Recommendation, y0: Tensor, settings: dict[str, Any]
) -> tuple[Shaped, np.ndarray]:
    """The pilot's probabilities, and the variances it saw of the levels used, made wrong if that was asked for."""
    assert advice.multilevel is not None and isinstance(advice.multilevel.probabilities, Shaped)
    mine, seen, wrong = advice.multilevel.probabilities, known.recording, settings["wrong"]
    start = measure.pilot_start(y0, seen.samples, advice.sde.is_ode)
    # the same pilot, of which only the levels used are looked at
    variances = pilot.record(advice.sde, start, seen.times, seed=settings["seed"]).variances.copy()
    values, last = mine.values.copy(), mine.values[:, -1]
    values[:, -1] = np.where(last < 1.0, np.minimum(0.999, last * wrong ** (1.0 / 3.0)), 1.0)
    variances[:, -1] *= wrong
    return Shaped(mine.times, values, mine.budget), variances[_cells(mine.times, advice.times)]


def _cells(edges: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Number of the cell between ``edges`` that each step of the grid ``times`` starts in."""
    ahead = math.copysign(1.0, edges[-1] - edges[0])
    found = np.searchsorted(ahead * edges, ahead * times[:-1], side="right") - 1
    return np.asarray(np.clip(found, 0, len(edges) - 2))


@dataclass(frozen=True, eq=False)
class Errors:
    """Squared errors of a plan, means over components.

    Attributes:
        coins: against the same grid without coins, shape ``(coins, trajectories)``.
        total: against the solution, likewise.
        cost: per trajectory.
    """

    coins: np.ndarray
    total: np.ndarray
    cost: float

    @property
    def of_coins(self) -> float:
        """Root mean square of the coins."""
        return math.sqrt(float(self.coins.mean()))


class _Repeated:
    """A path whose trajectories are taken several times over; increments are kept."""

    def __init__(self, path: BrownianPath, count: int) -> None:
        self._path, self._count, self._kept = path, count, dict[tuple[float, float], Tensor]()

    def __call__(self, ta: float, tb: float, /) -> Tensor:
        if (ta, tb) not in self._kept:
            self._kept[ta, tb] = torch.cat([self._path(ta, tb)] * self._count)
        return self._kept[ta, tb]


class OwnRun:
    """The trajectories of a run, and plans for them.

    Args:
        problem: the problem.
        advice: what the pilot recommends: levels, rule and grid.
        budget: of each plan, per trajectory.
        y0: initial states.
        settings: of the study.
    """

    def __init__(
        self, problem: LadderProblem, advice: Recommendation, budget: float, y0: Tensor, settings: dict[str, Any]
    ) -> None:
        assert advice.multilevel is not None
        self.sde, self.times, self.rule = advice.sde, advice.times, advice.multilevel
        self.budget, self.y0, self.settings, self.seed = budget, y0, settings, settings["seed"] + 1
        self.grid = measure.thinned(self.times, settings["own_steps"])
        path = None if self.sde.is_ode else own_path(self.sde, y0, self.grid, self.seed)
        self.once, self.often = (None if path is None else _Repeated(path, n) for n in (1, settings["coins"]))
        self.full = solve(self.sde, y0, times=self.times, brownian=self.once).y1
        steps = settings["reference_steps"] // (4 if self.sde.is_ode else 1)
        self.fine = fine_run(problem, y0, path, steps)
        self._known: dict[tuple[int, bool], tuple[Shaped, Errors]] = {}

    @property
    def step_error(self) -> float:
        """Of the same grid without coins."""
        return math.sqrt(float((self.full - self.fine).square().mean()))

    def errors(self, table: Shaped, *, test: bool) -> Errors:
        """Errors of a plan with coins of each trajectory's own; other coins for the search than for the test."""
        key = id(table), test
        if key not in self._known:
            made = self._nearby(table, 0.01 * test) if self.rule.coins == "periodic" else self._own_coins(table, test)
            self._known[key] = table, made
        return self._known[key][1]

    def _own_coins(self, table: Shaped, test: bool) -> Errors:
        count = self.settings["coins"]
        rule = Multilevel(table, self.rule.coins, self.rule.correction, "sample")
        done = solve(
            self.sde, torch.cat([self.y0] * count), times=self.times, multilevel=rule, seed=int(test),
            brownian=self.often,
        )  # fmt: skip
        return self._against(done.y1.view(count, *self.y0.shape), [float(done.stats.cost or 0.0)])

    def _nearby(self, table: Shaped, shift: float) -> Errors:
        runs = [self._shared(table, 0, float(near) * (1.0 + shift)) for near in _NEARBY]
        return self._against(torch.stack([states for states, _ in runs]), [cost for _, cost in runs])

    def _shared(self, table: Shaped, seed: int, near: float) -> tuple[Tensor, float]:
        """States and cost with coins for the batch."""
        rule = self._rule(table, near)
        done = solve(self.sde, self.y0, times=self.times, multilevel=rule, seed=seed, brownian=self.once)
        return done.y1, float(done.stats.cost or 0.0)

    def _rule(self, table: Shaped, near: float) -> Multilevel:
        scaled = Shaped(table.times, table.values, near * self.budget)
        return Multilevel(scaled, self.rule.coins, self.rule.correction)

    def _against(self, states: Tensor, costs: list[float]) -> Errors:
        coins, total = (
            (states - end).square().flatten(2).mean(dim=2).double().numpy() for end in (self.full, self.fine)
        )
        return Errors(coins, total, float(np.mean(costs)))

    def recorded(self) -> list[Shaped]:
        """The chooser's own plans for the rule, from a recording of the run itself: flat in time, and shaped."""
        recording = pilot.record(self.sde, self.y0, self.grid, seed=self.seed)
        model, levels = Model(recording), tuple(range(1, recording.levels + 1))
        pair, steps = (self.rule.coins, self.rule.correction), len(self.times) - 1
        found = candidates.multilevel(model, self.budget, steps, rules=[pair])
        made = []
        for one in (one for one in found if one.levels == levels and one.table is not None):
            flat = np.asarray(one.table)
            for shape in (np.ones_like(flat), *choice.shapes(model, levels, pair)):
                table, _ = choice.fitted(model, one, np.where(flat >= 1.0, 1.0, flat * shape), self.budget)
                if table is not None:
                    made.append(Shaped(self.grid, table, self.budget))
        return made

    def searched(self, tables: list[Shaped]) -> tuple[Shaped, str]:
        """The best of some plans and of the best of them with one level enlarged, in words where that was."""
        best = min(tables, key=lambda one: self.errors(one, test=False).of_coins)
        words = "the pilot's" if best is tables[0] else "from a recording of the run itself"
        base = best
        for k, enlarged in self._enlarged(base):
            if self.errors(enlarged, test=False).of_coins < self.errors(best, test=False).of_coins:
                best, words = enlarged, f"more of level {k + 1} of {base.values.shape[1]}"
        return best, words

    def _enlarged(self, table: Shaped) -> Iterator[tuple[int, Shaped]]:
        for k in np.flatnonzero((table.values < 1.0).any(axis=0)).tolist():
            values = table.values.copy()
            column = values[:, k]
            values[:, k] = np.where(column < 1.0, np.minimum(0.999, _ENLARGED * column), 1.0)
            yield k, Shaped(table.times, values, table.budget)

    def redrawn(self, table: Shaped, variances: np.ndarray) -> tuple[Errors, Errors, float]:
        """Errors of the pilot's plan and of the same redrawn, with coins for the batch, and how far it was changed."""
        before, after = [], []
        order = _ORDERS.get(self.rule.correction, 2.0)
        chance = self.rule.coins != "periodic"
        for i in range(self.settings["seeds"] if chance else len(_NEARBY)):
            seed, near = (i, 1.0) if chance else (0, float(_NEARBY[i]))
            before.append(self._shared(table, seed, near))
            after.append(
                redrawn_run(
                    self.sde, self.y0, self.times, self._rule(table, near), variances, order=order, seed=seed,
                    brownian=self.once,
                )
            )  # fmt: skip
        errors = [
            self._against(torch.stack([run[0] for run in runs]), [run[1] for run in runs]) for runs in (before, after)
        ]
        return errors[0], errors[1], float(np.mean([run.apart for run in after]))

    def gain(self, mine: Errors, other: Errors, what: str) -> Gain:
        """What another plan gains, with a bootstrap over the coins shared by the batch, or over trajectories."""
        axis = 0 if len(mine.coins) > self.settings["coins"] else 1
        coins, total = (
            _ratio(a.mean(axis=1 - axis), b.mean(axis=1 - axis))
            for a, b in ((mine.coins, other.coins), (mine.total, other.total))
        )
        return Gain(coins, total, other.cost / mine.cost, what)


def own_path(sde: Any, y0: Tensor, grid: np.ndarray, seed: int) -> BrownianPath:
    """The path on which ``pilot.record(sde, y0, grid, seed=seed)`` runs, for the run itself."""
    drawn = int(randomness.host_generator(seed, randomness.PILOT).integers(2**31))
    shape = NoiseTerm(sde, torch.tensor(grid[0], dtype=y0.dtype), y0, y0.dtype).shape
    like = torch.empty(0, dtype=y0.dtype)
    return BrownianPath(float(grid[0]), float(grid[-1]), shape=shape, like=like, seed=drawn, grids=(3,))


def _ratio(mine: np.ndarray, other: np.ndarray) -> tuple[float, float, float]:
    """Ratio of two root mean squares, and its 95 % interval when the rows are drawn anew, in pairs."""
    picks = np.random.default_rng(0).integers(0, len(mine), (_BOOTSTRAP, len(mine)))
    draws = np.sqrt(mine[picks].mean(axis=1) / other[picks].mean(axis=1))
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(np.sqrt(mine.mean() / other.mean())), float(low), float(high)


def _row(cell: Cell) -> list[str]:
    parts = []
    for way in WAYS:
        coins, (total, low, high) = cell.gains[way].coins[0], cell.gains[way].total
        parts.append(f"{coins:.2f}, {total:.2f} [{low:.2f}, {high:.2f}]")
    errors = f"{cell.step_error:.2g}", f"{cell.coins_error:.2g}"
    return [cell.problem, f"{cell.evaluations:g}", *errors, *parts, f"{cell.apart:.2f}"]


def _geometric(values: list[float]) -> float:
    return math.exp(float(np.mean(np.log(values))))


def _share(marks: list[bool]) -> float:
    return sum(marks) / len(marks)


def _finite(value: Any) -> Any:
    from mlsde.study.choice_report import finite  # noqa: PLC0415, a report of another study

    return finite(value)
