"""Does the chooser choose well? ``multilevel="auto"`` against the best of everything, in hindsight, at equal cost."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mlsde import checks
from mlsde.brownian import Brownian
from mlsde.chunks.ranks import ranks
from mlsde.chunks.results import Results, share_results
from mlsde.problems import ladder
from mlsde.problems.kinds import kinds
from mlsde.problems.ladder import LadderProblem
from mlsde.progress import bar
from mlsde.showing import Rows, as_html, as_text
from mlsde.solution import NonFiniteError
from mlsde.study.hindsight import Best, Hindsight, error_of, fine_batch, fingerprint, prices
from mlsde.study.runners import Spender, Spent
from mlsde.study.trials import Batch

CHARGED, REUSED, GAIN, WITHIN = 1.25, 1.1, 3.0, 1.5
"""Goals: errors over those of the best plain way, gain over the paper's rule, factor of a prediction."""

_MOST_KEPT = 2**28
"""Bytes of increments: 8192 steps of the default study."""

_QUICK: dict[str, Any] = {
    "trajectories": 128, "budgets": (16, 64), "seeds": 1, "most_steps": 128, "most_coin_steps": 512,
    "reference_steps": 1536,
}  # fmt: skip
_QUICK_KINDS = ("smooth-ode", "coarse-sde")


@dataclass(frozen=True)
class Measured:
    """What the chooser made of a budget.

    Attributes:
        error: root mean square over samples, components and seeds of the coins; infinite if a run broke.
        cost: of a run, mean over the seeds.
        most: the dearest run and its pilot together.
        predicted_error: foreseen error, root mean square over the seeds; ``None`` if nothing was foreseen.
        predicted_cost: foreseen cost, mean over the seeds, likewise.
        chosen: what was chosen, in words, each once.
    """

    error: float
    cost: float
    most: float
    predicted_error: float | None
    predicted_cost: float | None
    chosen: tuple[str, ...]

    @property
    def error_factor(self) -> float | None:
        """Foreseen over true error; ``None`` if nothing was foreseen, or the truth is no number."""
        return _ratio(self.predicted_error, self.error)

    @property
    def cost_factor(self) -> float | None:
        """Foreseen over true cost, likewise."""
        return _ratio(self.predicted_cost, self.cost)


@dataclass(frozen=True)
class Cell:
    """One problem at one budget.

    Attributes:
        problem: its name.
        evaluations: the budget in evaluations of the top level per trajectory.
        budget: the same in the units of ``costs``.
        gap: distance of the reference from one with half the steps: errors below it mean nothing.
        charged: the chooser where the pilot is paid from the budget.
        reused: and where it is not.
        plain: the best level and number of steps, by Euler-Maruyama.
        stitched: the best two neighbouring levels and switch time.
        paper: the paper's rule.
        heun: the best level and number of steps by Heun's method, for an ODE.
    """

    problem: str
    evaluations: float
    budget: float
    gap: float
    charged: Measured
    reused: Measured
    plain: Best
    stitched: Best
    paper: Best
    heun: Best | None

    @property
    def charged_ratio(self) -> float:
        """Error of the chooser that pays for its pilot over that of the best plain way."""
        return self.charged.error / self.plain.error

    @property
    def reused_ratio(self) -> float:
        """Error of the chooser that has its pilot for nothing over that of the best plain way."""
        return self.reused.error / self.plain.error

    @property
    def paper_ratio(self) -> float:
        """Error of the paper's rule over that of the chooser that pays for its pilot."""
        return self.paper.error / self.charged.error


@dataclass(frozen=True)
class Choice:
    """How well the chooser did.

    Attributes:
        cells: one for each problem and budget.
        smooth: names of the problems with smooth differences, on which it should beat the paper's rule.
        settings: what else makes the study what it is.
    """

    cells: tuple[Cell, ...]
    smooth: tuple[str, ...]
    settings: dict[str, Any]

    def summary(self) -> dict[str, Any]:
        """Shares of the cells that meet each goal, and the worst cells; ``None`` where there is nothing to count."""
        smooth = [cell for cell in self.cells if cell.problem in self.smooth]
        measured = [one for cell in self.cells for one in (cell.charged, cell.reused)]
        worst = {how: max(self.cells, key=lambda cell: getattr(cell, how)) for how in ("charged_ratio", "reused_ratio")}
        gains = [cell.paper_ratio for cell in smooth]
        return {
            "charged within 1.25 of the best plain way": _share(c.charged_ratio <= CHARGED for c in self.cells),
            "reused within 1.1 of the best plain way": _share(c.reused_ratio <= REUSED for c in self.cells),
            "worst charged": _worst(worst["charged_ratio"], "charged_ratio"),
            "worst reused": _worst(worst["reused_ratio"], "reused_ratio"),
            "smooth: error at most a third of the paper's": _share(gain >= GAIN for gain in gains),
            "smooth: geometric mean of the paper's error over it": _geometric(gains),
            "foreseen errors within 1.5": _share(_near(one.error_factor) for one in measured),
            "foreseen costs within 1.5": _share(_near(one.cost_factor) for one in measured),
            "within the budget, pilot included": _share(c.charged.most <= c.budget * (1.0 + 1e-9) for c in self.cells),
            "dearest run and pilot over the budget": max(c.charged.most / c.budget for c in self.cells),
        }

    __repr__ = as_text
    _repr_html_ = as_html

    def _report(self) -> list[str | Rows]:
        from mlsde.study.choice_report import report  # noqa: PLC0415, which needs the classes of this module

        return report(self)

    def as_dict(self) -> dict[str, Any]:
        """As JSON: numbers that are not finite become ``null``."""
        from mlsde.study.choice_report import finite  # noqa: PLC0415, which needs the classes of this module

        ratios = ("charged_ratio", "reused_ratio", "paper_ratio")
        cells = [{**asdict(cell), **{name: getattr(cell, name) for name in ratios}} for cell in self.cells]
        whole = {"problem": "choices", "settings": self.settings, "summary": self.summary()}
        return finite({**whole, "smooth": list(self.smooth), "cells": cells})

    def figure(self, file: str | os.PathLike[str]) -> str:
        """Draw the ratios of the cells; returns the file's name."""
        from mlsde.study.choice_report import save_choice  # noqa: PLC0415, matplotlib

        return save_choice(self, file)


def choice(
    problems: Mapping[str, LadderProblem] | None = None,
    spend: Spender | None = None,
    *,
    trajectories: int = 256,
    run: int = 1024,
    budgets: Sequence[float] = (8, 32, 128, 512),
    seeds: int = 3,
    seed: int = 0,
    most_steps: int = 2048,
    most_coin_steps: int = 8192,
    reference_steps: int = 24_576,
    smooth: Sequence[str] | None = None,
    quick: bool = False,
    folder: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> Choice:
    """Compare what the chooser makes of a budget with the best plain way and with the paper's rule, in hindsight.

    All run on the same paths, and share one batch's coins. "The best" is over levels, numbers of steps, switch times
    and, for the paper's rule, numbers of levels: what nobody knows beforehand. The chooser pays for its pilot, or has
    it for nothing.

    Args:
        problems: by name; :func:`mlsde.problems.kinds.kinds` by default.
        spend: the chooser; ``multilevel="auto"`` by default.
        trajectories: samples on which errors are measured.
        run: trajectories of the run that they are a part of, among which a pilot's price is shared out by default.
        budgets: per trajectory, in evaluations of the top level.
        seeds: of the chooser's coins, and of the pilot that it pays for.
        seed: of initial states and paths, and of the default problems.
        most_steps: of the plain rivals.
        most_coin_steps: of the paper's rule and of the chooser by default: a cheap level in millions of steps costs
            nothing by its declared price, but hours.
        reference_steps: of the references; a quarter without noise, half where the noise depends on the state.
        smooth: names of the problems on which the paper's rule should be beaten by far; by default those that begin
            with ``"smooth"`` or ``"gamma"``.
        quick: few problems, samples and steps, in seconds and rough.
        folder: where finished pieces are kept, so that a killed study goes on: rivals in ``rivals``, the chooser's in
            ``chooser``, which is to be removed when the chooser changes.
        progress: show a bar.

    Raises:
        TypeError, ValueError: naming the argument.
    """
    if quick:
        given = {name: kinds(seed)[name] for name in _QUICK_KINDS} if problems is None else problems
        return choice(given, spend, seed=seed, smooth=smooth, folder=folder, progress=progress, **_QUICK)
    given = kinds(checks.one_seed(seed)) if problems is None else problems
    chosen = {name: ladder.checked(problem) for name, problem in given.items()}
    counts = {
        "trajectories": trajectories, "seeds": seeds, "most_steps": most_steps, "most_coin_steps": most_coin_steps,
        "reference_steps": reference_steps,
    }  # fmt: skip
    multiples = sorted(checks.positive_number("budgets", value) for value in budgets)
    if not chosen or not multiples:
        raise ValueError("problems and budgets must hold at least one of each.")
    whole = {name: checks.positive_integer(name, count) for name, count in counts.items()}
    run = checks.positive_integer("run", run)
    settings = {**whole, "budgets": multiples, "seed": checks.one_seed(seed)}
    named = tuple(name for name in chosen if name.startswith(("smooth", "gamma"))) if smooth is None else tuple(smooth)
    study = _Study(
        chosen, _auto(most_coin_steps, run, max(multiples)) if spend is None else spend, settings, folder, run
    )
    return Choice(tuple(study.cells(progress)), named, {**settings, "run": run})


class _Remembered:
    """A path whose increments are kept while they fit, because runs of other seeds ask for the same ones."""

    def __init__(self, path: Brownian) -> None:
        self._path, self._kept, self._bytes = path, dict[tuple[float, float], Tensor](), 0

    def __call__(self, ta: float, tb: float, /) -> Tensor:
        if (ta, tb) not in self._kept:
            increment = self._path(ta, tb)
            self._bytes += increment.numel() * increment.element_size()
            if self._bytes > _MOST_KEPT:
                self._kept, self._bytes = {}, 0
            self._kept[ta, tb] = increment
        return self._kept[ta, tb]


def _auto(most_steps: int, trajectories: int, evaluations: float) -> Spender:
    from mlsde.study.auto import Auto  # noqa: PLC0415, the calibration is not needed to compare others

    return Auto(most_steps, trajectories, math.ceil(evaluations))


class _Study:
    """The pieces of a study, each of which is computed once."""

    def __init__(
        self,
        problems: dict[str, LadderProblem],
        spend: Spender,
        settings: dict[str, Any],
        folder: str | os.PathLike[str] | None,
        run: int,
    ) -> None:
        self.problems, self.spend, self.settings, self.folder, self.run = problems, spend, settings, folder, run
        self.work = ranks(torch.device("cpu"))
        self._kept = {(part, name): self._results(part, name) for name in problems for part in ("rivals", "chooser")}

    def _results(self, part: str, name: str) -> Results:
        """Pieces of one problem: a problem that has changed does not make those of the others worthless."""
        folder = None if self.folder is None else Path(self.folder) / part / name
        more = {} if part == "rivals" else {"run": self.run}
        return Results(folder, {**self.settings, **more, "problem": fingerprint(self.problems[name])}, self.work)

    def cells(self, progress: bool) -> Iterator[Cell]:
        progress = progress and self.work.rank == 0
        tasks = [partial(self._share_of, name) for name in self.problems]
        share_results(tasks, list(self._kept.values()), self.work, progress=progress)
        for name in bar(self.problems, unit="problems") if progress else self.problems:
            yield from self._cells_of(name, self.problems[name])

    def _share_of(self, name: str) -> None:
        """Have the pieces of a problem made."""
        for _ in self._cells_of(name, self.problems[name]):
            pass

    def _cells_of(self, name: str, problem: LadderProblem) -> Iterator[Cell]:
        settings, rivals, chooser = self.settings, self._kept["rivals", name], self._kept["chooser", name]
        steps = _reference_steps(problem, settings["reference_steps"])
        batch, gap = fine_batch(problem, settings["trajectories"], steps, settings["seed"], rivals, "reference")
        unit = prices(problem.sde.drift)[-1]
        budgets = [unit * multiple for multiple in settings["budgets"]]
        best = Hindsight(batch, budgets, settings["most_steps"], settings["most_coin_steps"], rivals)
        path = None if batch.path is None else _Remembered(batch.path)
        for multiple, budget in zip(settings["budgets"], budgets, strict=True):
            key = f"{multiple:g}"
            charged, reused = (self._measured(chooser, key, batch, path, budget, paid) for paid in (True, False))
            heun = best.heun(budget) if problem.sde.is_ode else None
            others = best.plain(budget), best.stitched(budget), best.paper(budget), heun
            yield Cell(name, multiple, budget, gap, charged, reused, *others)

    def _measured(
        self, chunks: Results, key: str, batch: Batch, path: Brownian | None, budget: float, charged: bool
    ) -> Measured:
        name = f"{key}-{'charged' if charged else 'reused'}"
        runs = [
            chunks.result(f"{name}-{coins}", partial(self._run, batch, path, budget, charged, coins))
            for coins in range(self.settings["seeds"])
        ]
        return Measured(
            math.sqrt(statistics.fmean(run["error"] ** 2 for run in runs)),
            statistics.fmean(run["cost"] for run in runs),
            max(run["cost"] + run["pilot"] for run in runs),
            _mean([run["predicted_error"] for run in runs], power=2),
            _mean([run["predicted_cost"] for run in runs], power=1),
            tuple(dict.fromkeys(run["chosen"] for run in runs)),
        )

    def _run(self, batch: Batch, path: Brownian | None, budget: float, charged: bool, coins: int) -> dict[str, Any]:
        try:
            with torch.no_grad():
                spent = self.spend(
                    batch.problem, batch.y0, budget, charged=charged, seed=coins, brownian=path
                )  # fmt: skip
        except (NonFiniteError, ValueError) as error:  # the worst of choices
            return _piece(Spent(torch.empty(0), 0.0, chosen=f"gave up: {error}"), math.inf)
        return _piece(spent, error_of(batch, spent.states))


def _piece(spent: Spent, error: float) -> dict[str, Any]:
    """As a finished piece: the states are only needed for the error."""
    return {
        "error": error,
        "cost": float(spent.cost),
        "pilot": float(spent.pilot),
        "predicted_error": None if spent.predicted_error is None else float(spent.predicted_error),
        "predicted_cost": None if spent.predicted_cost is None else float(spent.predicted_cost),
        "chosen": spent.chosen,
    }


def _reference_steps(problem: LadderProblem, steps: int) -> int:
    """Heun is of second order without noise, where it needs fewer; Milstein's steps are the dearest."""
    if problem.sde.is_ode:
        return max(steps // 4, 2)
    return steps if problem.sde.additive else max(steps // 2, 2)


def _ratio(foreseen: float | None, true: float) -> float | None:
    return foreseen / true if foreseen is not None and 0.0 < true < math.inf else None


def _near(factor: float | None) -> bool:
    """Whether a foreseen number is within a factor; one that is missing is not."""
    return factor is not None and 1.0 / WITHIN <= factor <= WITHIN


def _mean(values: Sequence[float | None], power: int) -> float | None:
    known = [value for value in values if value is not None]
    return None if len(known) < len(values) else statistics.fmean(v**power for v in known) ** (1.0 / power)


def _share(met: Iterator[bool]) -> float | None:
    marks = list(met)
    return sum(marks) / len(marks) if marks else None


def _geometric(ratios: Sequence[float]) -> float | None:
    return math.exp(statistics.fmean(math.log(max(ratio, 1e-300)) for ratio in ratios)) if ratios else None


def _worst(cell: Cell, how: str) -> dict[str, Any]:
    ratio = float(getattr(cell, how))
    return {"problem": cell.problem, "evaluations": cell.evaluations, "ratio": ratio}
