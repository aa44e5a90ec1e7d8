"""Learned probabilities against those of a formula, at one price and with the paper's independent impulses.

On a linear problem in one dimension the mean squared error of any table of probabilities is an exact recursion, and
the best table is known in closed form. On a nonlinear one, made so that it matters when and in which direction the
levels differ, the errors are measured.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear as linear_map

from mlsde import checks
from mlsde.drawing import COLOURS, canvas, level_style, save
from mlsde.hierarchy import DriftHierarchy
from mlsde.integrate import solve
from mlsde.learning import learn
from mlsde.multilevel import Multilevel
from mlsde.plan import Plan, multilevel_plan
from mlsde.probabilities import Optimal, PowerLaw, ProbabilityRule
from mlsde.problems import linear
from mlsde.problems.ladder import LadderProblem, scattered_start
from mlsde.sde import SDE
from mlsde.showing import Rows, as_html, as_text
from mlsde.study.prediction import sensitivity
from mlsde.study.trials import Trials
from mlsde.variances import level_variances

KINDS = ("linear", "nonlinear")

CLOSED, MEASURED, ALONE = "closed form", "optimal, V and w measured", "optimal, V alone"
SURROGATE, SCORE, POWER = "learned, surrogate", "learned, score", "power law"

_GAMMA, _COSTS, _SHARE = 3.0, (1.0, 8.0, 64.0), 8.0
_BOOTSTRAP = 1000

Exact = Callable[[Plan], tuple[float | None, float | None]]


@dataclass(frozen=True, eq=False)
class LearnedRow:
    """One way to choose the probabilities.

    Attributes:
        name: what it is.
        cost: expected cost per trajectory.
        error: root mean square distance from the top level at every step of the same path and grid.
        ratio: its square over that of the first row, and its 95 % bootstrap interval over the seeds.
        exact: the same distance by recursion, on the linear problem.
        overhead: what it costs over what the closed form costs at the same exact error, less 1.
        table: the probabilities, shape ``(N, K)``.
    """

    name: str
    cost: float
    error: float
    ratio: tuple[float, float, float]
    exact: float | None
    overhead: float | None
    table: np.ndarray


@dataclass(frozen=True, eq=False)
class LearnedStudy:
    """Ways to choose probabilities at one price.

    Attributes:
        problem: name of the problem.
        budget: expected cost per trajectory.
        full_cost: that of the top level at every step.
        times: starts of the steps.
        rows: the ways; the ratios are to the first.
        settings: what else makes the study what it is.
    """

    problem: str
    budget: float
    full_cost: float
    times: np.ndarray
    rows: tuple[LearnedRow, ...]
    settings: dict[str, Any]

    def __getitem__(self, name: str) -> LearnedRow:
        """The row of that name; ``KeyError`` with the names there are."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"{name!r} is none of {[row.name for row in self.rows]}.")

    __repr__ = as_text
    _repr_html_ = as_html

    def _report(self) -> list[str | Rows]:
        s = self.settings
        cells = [("", "cost", "error", f"squared, over {self.rows[0].name}", "exact", "overhead")]
        for row in self.rows:
            ratio = f"{row.ratio[0]:.3f} [{row.ratio[1]:.3f}, {row.ratio[2]:.3f}]"
            exact = "-" if row.exact is None else f"{row.exact:.5f}"
            overhead = "-" if row.overhead is None else f"{100 * row.overhead:+.1f} %"
            cells.append((row.name, f"{row.cost:.4g}", f"{row.error:.5f}", ratio, exact, overhead))
        words = ["", "overhead: cost over that of the closed form at the same exact error, less 1"]
        return [
            f"{self.problem}: independent impulses at {self.full_cost / self.budget:.3g} times less than the cost of "
            f"{len(self.times)} steps of the top level; {s['seeds']} seeds of {s['samples']} samples",
            f"learned from {s['iterations']} iterations of {s['learning_samples']} trajectories",
            "",
            Rows(cells, ("28", ">9", ">11", ">45", ">11", ">10"), gap="", indent=""),
            *(words if self.rows[0].exact is not None else []),
        ]

    def as_dict(self) -> dict[str, Any]:
        """As JSON; the tables at 17 of the steps."""
        shown = np.unique(np.linspace(0, len(self.times) - 1, 17).round().astype(int))
        return {
            "problem": self.problem,
            "budget": self.budget,
            "full_cost": self.full_cost,
            "settings": self.settings,
            "times": self.times[shown].tolist(),
            "rows": [
                {
                    "name": row.name,
                    "cost": row.cost,
                    "error": row.error,
                    "ratio": list(row.ratio),
                    "exact": row.exact,
                    "overhead": row.overhead,
                    "probabilities": row.table[shown].tolist(),
                }
                for row in self.rows
            ],
        }

    def figure(self, file: str | os.PathLike[str]) -> str:
        """Draw the probabilities over time, and the errors as bars; returns the file's name."""
        return _draw(self, file)


def learned_study(kind: str, *, quick: bool = False, seed: int = 0, progress: bool = False) -> LearnedStudy:
    """Compare learned probabilities with :class:`mlsde.Optimal` and the power law at the same expected cost.

    Args:
        kind: ``"linear"``: an Ornstein-Uhlenbeck ladder in one dimension that starts far from its mean; both the
            differences and what an error does to the end change with time. ``"nonlinear"``: a double well with a fast
            variable, of which only the last errors are seen at the end, and a pulse in which the slow one is hard.
        quick: a rough version, in seconds.
        seed: of everything random.
        progress: show bars.

    Raises:
        TypeError, ValueError: naming the argument.
    """
    checks.one_of("kind", kind, KINDS)
    checks.one_seed(seed)
    steps, seeds, samples = (32, 40, 8) if quick else (128, 400, 16)
    options: dict[str, Any] = {"iterations": 60 if quick else 200, "samples": 256 if quick else 1024}
    problem = _linear() if kind == "linear" else _nonlinear()
    times = np.linspace(*problem.t_span, steps + 1)
    full = steps * _COSTS[-1]
    budget = full / _SHARE
    rules = _formulas(problem, times, budget, seed)
    states = problem.initial(1024, (seed << 16) + 2**15)  # none of those of the trials
    for name, gradient in ((SURROGATE, "surrogate"), (SCORE, "score")):
        rules[name] = learn(
            problem.sde, states, times=times, budget=budget, gradient=gradient, seed=seed,
            progress=progress, **options,
        )  # fmt: skip
    if kind == "linear":
        rules = {CLOSED: closed_form(_LADDER, _START, times, budget), **rules}
    trials = Trials(problem, _GAMMA, seeds, samples, seed, "sample", 1)
    rows = _measured(trials, times, rules, seed, _exactly if kind == "linear" else _unknown)
    settings = {"seeds": seeds, "samples": samples, "seed": seed, "iterations": options["iterations"]}
    settings["learning_samples"] = options["samples"]
    return LearnedStudy(problem.name, budget, full, times[:-1], tuple(rows), settings)


_LADDER = linear.ornstein_uhlenbeck([2.2, 2.9, 3.0], 0.5, [0.6, -0.2, 0.0])
_START = torch.tensor([2.0], dtype=torch.float64)


def _linear() -> LadderProblem:
    """The ladder with each level in one product, which torch differentiates quickest."""
    maps = zip(_LADDER.matrices, _LADDER.offsets, strict=True)
    drift = DriftHierarchy([_affine(a, b) for a, b in maps], _COSTS)
    return LadderProblem("Ornstein-Uhlenbeck ladder", SDE(drift, 0.5), _START[None], gamma=_GAMMA)


def _affine(a: Tensor, b: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda t, y: linear_map(y, a, b)


def _nonlinear() -> LadderProblem:
    drift = DriftHierarchy([_well(error) for error in (1.0, 0.5, 0.25)], _COSTS)
    start = scattered_start(torch.tensor([0.5, 0.5], dtype=torch.float64), 1.0)
    return LadderProblem("double well with a fast variable", SDE(drift, 0.3), start, gamma=_GAMMA)


def _well(error: float) -> Callable[[Tensor, Tensor], Tensor]:
    """``a' = 2 (a - a^3)``, ``b' = 20 (a^2 - b)``; wrong by ``error`` in ``b``, and in ``a`` for a while.

    The frequency of what is wrong depends on the level, so that differences of two levels are not in proportion.
    """
    frequencies = (1.0 + error) * torch.eye(2, dtype=torch.float64)
    phases = torch.tensor([1.0, 0.5 * math.pi], dtype=torch.float64)

    def drift(t: Tensor, y: Tensor) -> Tensor:
        pulse = 2.0 * math.exp(-(((float(t) - 0.3) / 0.1) ** 2))
        wrong = torch.sin(linear_map(y, frequencies, phases))
        # of a, b, a^2, b^2, a^3, b^3 and what is wrong in either, in one product: torch differentiates that quickest
        rows = [
            [2.0, 0.0, 0.0, 0.0, -2.0, 0.0, error * pulse, 0.0],
            [0.0, -20.0, 20.0, 0.0, 0.0, 0.0, 0.0, 4.0 * error],
        ]
        return linear_map(torch.cat([y, y * y, y**3, wrong], dim=1), torch.tensor(rows, dtype=torch.float64))

    return drift


def _formulas(problem: LadderProblem, times: np.ndarray, budget: float, seed: int) -> dict[str, ProbabilityRule]:
    """The rules that need no learning; variances and sensitivity from a pilot of 512 samples."""
    pilot = Trials(problem, _GAMMA, 1, 512, seed + 1, "sample", 1).batches[0]
    steps = len(times) - 1
    noise = pilot.noise(steps)
    variances = level_variances(problem.sde, pilot.y0, times=times, brownian=noise)
    grown = sensitivity(problem.sde, pilot.y0, problem.t_span, steps, pilot)
    return {
        MEASURED: Optimal(variances, budget, sensitivity=_at(times, grown)),
        ALONE: Optimal(variances, budget),
        POWER: PowerLaw(_GAMMA, budget=budget),
    }


def _at(times: np.ndarray, values: np.ndarray) -> Callable[[float], Any]:
    """Values by the start of the step."""
    return lambda t: values[int(np.argmin(np.abs(times[:-1] - t)))]


def closed_form(problem: linear.LinearProblem, y0: Tensor, times: np.ndarray, budget: float) -> Optimal:
    """The best probabilities of a linear ladder in one dimension, from the exact variances and sensitivity.

    Args:
        problem: the ladder.
        y0: where the run starts, shape ``(1,)``.
        times: the grid.
        budget: expected cost per trajectory.
    """
    moments = linear.euler_moments(problem, y0, times)
    mean, second = moments.mean[:-1], moments.second[:-1, 0]  # (N, 1)
    a = torch.diff(problem.matrices[:, 0, 0], prepend=torch.zeros(1, dtype=torch.float64))
    b = torch.diff(problem.offsets[:, 0], prepend=torch.zeros(1, dtype=torch.float64))
    variances = (a * a * second + 2.0 * a * b * mean + b * b).numpy()
    growth = (1.0 + np.diff(times) * float(problem.matrices[-1, 0, 0])) ** 2
    later = np.append(np.cumprod(growth[::-1])[-2::-1], 1.0)  # from the end of each step on
    return Optimal(_at(times, variances), budget, sensitivity=_at(times, later))


def exact_mse(problem: linear.LinearProblem, y0: Tensor, times: np.ndarray, table: np.ndarray) -> float:
    """Mean squared distance from the top level at every step, by recursion."""
    return float(linear.multilevel_moments(problem, y0, times, table).squared_error[-1])


def overhead(problem: linear.LinearProblem, y0: Tensor, times: np.ndarray, drift: DriftHierarchy, plan: Plan) -> float:
    """What a plan costs over what the closed form costs at the same exact error, less 1.

    Args:
        problem: the ladder.
        y0: where the run starts, shape ``(1,)``.
        times: the grid.
        drift: the ladder with its prices.
        plan: of independent impulses.
    """
    error, cost = exact_mse(problem, y0, times, plan.probabilities), plan.expected_cost
    assert cost is not None
    low, high = 0.1 * cost, 10.0 * cost
    while high > 1.0001 * low:
        middle = math.sqrt(low * high)
        table = _plan(closed_form(problem, y0, times, middle), times, drift).probabilities
        low, high = (middle, high) if exact_mse(problem, y0, times, table) > error else (low, middle)
    return cost / math.sqrt(low * high) - 1.0


def _plan(rule: ProbabilityRule, times: np.ndarray, drift: DriftHierarchy) -> Plan:
    return multilevel_plan(Multilevel(rule, "independent", "impulse"), times, drift)


def _exactly(plan: Plan) -> tuple[float | None, float | None]:
    """Root mean square error by recursion, and the overhead."""
    exact = math.sqrt(exact_mse(_LADDER, _START, plan.times, plan.probabilities))
    return exact, overhead(_LADDER, _START, plan.times, _LADDER.drift(_COSTS), plan)


def _unknown(plan: Plan) -> tuple[float | None, float | None]:
    return None, None


def _measured(
    trials: Trials, times: np.ndarray, rules: dict[str, ProbabilityRule], seed: int, exactly: Exact
) -> list[LearnedRow]:
    batch, problem = trials.batches[0], trials.batches[0].problem
    noise = batch.noise(len(times) - 1)
    full = solve(problem.sde, batch.y0, times=times, brownian=noise).y1
    rows: list[LearnedRow] = []
    first = None
    for name, rule in rules.items():
        multi = Multilevel(rule, "independent", "impulse", "sample")
        done = solve(problem.sde, batch.y0, times=times, multilevel=multi, seed=batch.seeds, brownian=noise)
        squares = (done.y1 - full).double().flatten(1).square().sum(1).view(-1, trials.samples).mean(1).numpy()
        first = squares if first is None else first
        cost, error = float(done.plan.expected_cost or 0.0), float(np.sqrt(squares.mean()))
        rows.append(
            LearnedRow(name, cost, error, _ratio(squares, first, seed), *exactly(done.plan), done.plan.probabilities)
        )
    return rows


def _ratio(squares: np.ndarray, first: np.ndarray, seed: int) -> tuple[float, float, float]:
    """Ratio of two means over seeds, and its 95 % interval when the seeds are drawn anew."""
    picks = np.random.default_rng(seed).integers(0, len(first), (_BOOTSTRAP, len(first)))
    low, high = np.percentile(squares[picks].mean(axis=1) / first[picks].mean(axis=1), [2.5, 97.5])
    return float(squares.mean() / first.mean()), float(low), float(high)


def _draw(study: LearnedStudy, file: str | os.PathLike[str]) -> str:

    shown = [row for row in study.rows if row.name in (study.rows[0].name, SURROGATE, SCORE, POWER)]
    figure = canvas(11.0, 3.8)
    over_time, bars = figure.subplots(1, 2, width_ratios=[3, 2])
    for row, style in zip(shown, ("-", "--", ":", "-."), strict=False):
        for k, values in enumerate(row.table.T):
            label = row.name if k == 0 else None
            over_time.plot(study.times, values, ls=style, lw=1.3, color=level_style(k + 1)["color"], label=label)
    over_time.set_yscale("log")
    over_time.set_xlabel("t")
    over_time.set_ylabel("$p_k(t)$, a colour for each level")
    over_time.set_title(study.problem, fontsize=9)
    over_time.legend(fontsize=7, frameon=False)
    places = np.arange(len(study.rows))[::-1]
    bars.barh(places, [row.error for row in study.rows], color=COLOURS[2])
    bars.set_yticks(places, [row.name for row in study.rows], fontsize=8)
    bars.set_xlabel("root mean square error of the coins")
    return save(figure, file)
