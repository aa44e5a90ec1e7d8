"""The studies behind the pages of the documentation, by name; each has a quick version for tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mlsde import DriftHierarchy
from mlsde.problems import analytic, science
from mlsde.problems.ladder import LadderProblem
from mlsde.study.comparison import equal_cost
from mlsde.study.convergence import convergence
from mlsde.study.diagnostics import diagnose
from mlsde.study.methods import Method, multilevel, plain, stitching

_PAPER = multilevel("independent", "impulse")
_ROUGH_REFERENCE = {"reference_steps": 1536}
_SPREAD = [multilevel("systematic", "impulse"), multilevel("systematic", "hold")]


class Result(Protocol):
    """What a study returns: it prints as a table, and becomes JSON and a picture."""

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        ...

    def figure(self, file: str | os.PathLike[str]) -> str:
        """Draw it into a file; returns its name."""
        ...


@dataclass(frozen=True)
class How:
    """How a study is run: ``quick`` is in seconds and rough; the rest as of :func:`mlsde.study.convergence`."""

    quick: bool = False
    folder: Path | None = None
    progress: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Study:
    """A named study.

    Attributes:
        title: a line on what it shows.
        run: makes the result.
        minutes: that it takes where nothing of it is kept, on one core, roughly.
        shared: whether the processes that ``torchrun`` started share its pieces; else the first one makes it.
    """

    title: str
    run: Callable[[How], Result]
    minutes: float
    shared: bool = True


def system(kind: str, gamma: float, levels: int, **options: Any) -> LadderProblem:
    """Sixteen components as a ladder: ``"ode"``, ``"additive"`` or ``"multiplicative"`` noise.

    Four copies of damped, coupled rotations; with multiplicative noise geometric Brownian motions.
    """
    matrix, y0 = np.kron(np.eye(4), analytic.SHEARED_ROTATIONS).tolist(), [1.0, 0.0, 1.0, -1.0] * 4
    problem = {
        "ode": lambda: analytic.linear_ode(matrix, y0),
        "additive": lambda: analytic.linear_system(matrix, y0),
        "multiplicative": lambda: analytic.geometric_brownian_motion(0.5, 0.5, [0.5] * 16),
    }[kind]()
    return problem.ladder(gamma, levels, **{"spread": 0.5, "features": 16, **options})


def halvings(loosest: float, tightest: float, parts: int = 2) -> list[float]:
    """Errors from one power of two to another, ``parts`` to each halving."""
    return [2.0 ** (-i / parts) for i in range(round(loosest * parts), round(tightest * parts) + 1)]


def _rate(
    kind: str, gamma: float, methods: Sequence[Method], errors: Sequence[float], most_steps: int, quick: Sequence[float]
) -> Callable[[How], Result]:
    def run(how: How) -> Result:
        return convergence(
            system(kind, gamma, 6, seed=how.seed, **_ROUGH_REFERENCE)
            if how.quick
            else system(kind, gamma, 12, seed=how.seed),
            methods,
            quick if how.quick else errors,
            seeds=10,
            samples=8 if how.quick else 16,
            seed=how.seed,
            most_steps=128 if how.quick else most_steps,
            folder=how.folder,
            progress=how.progress,
        )

    return run


def _equal_cost(differences: str) -> Callable[[How], Result]:
    def run(how: How) -> Result:
        options: dict[str, Any] = _ROUGH_REFERENCE if how.quick else {}
        levels = 4 if how.quick else 7
        problem = system("additive", 3.0, levels, differences=differences, seed=how.seed, **options)
        steps, seeds = (128, 25) if how.quick else (2048, 240)
        return equal_cost(
            problem, share=16.0 if how.quick else 64.0, steps=steps, seeds=seeds, samples=4, seed=how.seed
        )

    return run


def _real_work(cost: str) -> Callable[[How], Result]:
    """Levels that truly do ``2^(gamma k)`` work: prices are seconds, or declared for comparison."""

    def run(how: How) -> Result:
        problem = system("ode", 3.0, 4 if how.quick else 5, work="real", features=16, seed=how.seed)
        return convergence(
            problem,
            [plain(), _PAPER, *_SPREAD, plain("heun")],
            halvings(0, 2) if how.quick else halvings(0, 5.5),
            seeds=3 if how.quick else 11,
            samples=2 if how.quick else 4,
            seed=how.seed,
            most_steps=32 if how.quick else 1024,
            cost=cost,
            folder=how.folder,
            progress=how.progress,
        )

    return run


def _useless_level(how: How) -> Result:
    """A level that costs eight times more than the one below it and is no better."""
    good = system("ode", 3.0, 4 if how.quick else 6, seed=how.seed)
    drift = good.sde.drift
    costs = drift.required_costs("this study")
    levels = [*drift.levels[:3], drift.levels[2], *drift.levels[3:]]
    prices = [*costs[:3], costs[2] * 8.0, *(8.0 * cost for cost in costs[3:])]
    ladder = good.sde.with_drift(DriftHierarchy(levels, prices))
    problem = LadderProblem("a useless level 4", ladder, good.start, good.t_span, good.reference, 3.0)
    return _small(problem, how)


def _few_levels(how: How) -> Result:
    """Two levels of nearly one price."""
    good = system("ode", 3.0, 6, seed=how.seed)
    drift = good.sde.drift
    pair = DriftHierarchy([drift.levels[2], drift.levels[5]], [1.0, 3.0])
    problem = LadderProblem(
        "two levels, 3 times apart", good.sde.with_drift(pair), good.start, good.t_span, good.reference, 3.0
    )
    return _small(problem, how)


def _below_threshold(how: How) -> Result:
    """A cheap ladder: accuracy costs less than Monte Carlo makes of it."""
    return _small(system("ode", 0.8, 4 if how.quick else 10, seed=how.seed), how)


def _loose(how: How) -> Result:
    """Errors so loose that a few steps of a cheap level reach them."""
    return _small(system("ode", 3.0, 4 if how.quick else 6, seed=how.seed), how)


def _small(problem: LadderProblem, how: How) -> Result:
    errors = halvings(-1, 2, 1) if how.quick else halvings(-2, 5, 1)
    return convergence(
        problem,
        [plain(), _PAPER, *_SPREAD, plain("heun")],
        errors,
        seeds=10,
        samples=8,
        seed=how.seed,
        most_steps=64 if how.quick else 512,
        folder=how.folder,
        progress=how.progress,
    )


def _charges(how: How) -> Result:
    """Levels of a field of charges: gamma is measured."""
    count, sides = (1024, (2, 4)) if how.quick else (32_768, (2, 4, 8, 16))
    return diagnose(science.charges(count, sides, seed=how.seed), samples=32 if how.quick else 128, seed=how.seed)


def _learned_force(how: How) -> Result:
    """A force learned from points: gamma is measured, and the rules are compared where it is."""
    points, fine = ((16, 64, 256), 500) if how.quick else ((32, 128, 512, 2048), 2000)
    problem = science.learned_force(points, seed=how.seed, reference_steps=fine)
    gamma = diagnose(problem, seed=how.seed).gamma
    known = LadderProblem(problem.name, problem.sde, problem.start, problem.t_span, problem.reference, gamma)
    steps, seeds = (64, 10) if how.quick else (512, 100)
    return equal_cost(known, share=8.0, steps=steps, seeds=seeds, samples=4, seed=how.seed)


def _rivals(kind: str, gamma: float) -> list[Method]:
    """Methods of the studies of the theorem; Heun where it has an order to gain, more of them at gamma 3."""
    more = [_SPREAD[0], stitching()] if gamma == 3.0 else []
    return [plain(), _PAPER, *more, plain("heun")] if kind == "ode" or more else [plain(), _PAPER]


_ERRORS = halvings(0, 9)
STUDIES = {
    **{
        f"{kind}-{gamma:g}": Study(
            f"gamma {gamma:g}, {'no noise' if kind == 'ode' else 'additive noise'}: Euler-Maruyama and the paper's rule"
            + (", spread coins and rivals" if gamma == 3.0 else ""),
            _rate(
                kind,
                gamma,
                _rivals(kind, gamma),
                _ERRORS,
                8192,
                halvings(0, 4, 1),
            ),
            minutes,
        )
        for kind in ("ode", "additive")
        for gamma, minutes in ((2.5, 7), (3.0, 10), (4.0, 5))
    },
    "multiplicative-3": Study(
        "gamma 3, multiplicative noise: strong order 1/2",
        _rate(
            "multiplicative", 3.0, [plain(), _PAPER, plain("milstein")], halvings(0.5, 6.5), 12_288, halvings(1, 4, 1)
        ),
        11,
    ),
    "smooth-1.5": Study(
        "gamma 1.5, smooth differences: coins spread in time move the threshold",
        _rate("ode", 1.5, [plain(), _PAPER, *_SPREAD, plain("heun")], halvings(0, 8), 8192, halvings(0, 4, 1)),
        29,
    ),
    "equal-cost-smooth": Study(
        "gamma 3, smooth differences: every rule at one price", _equal_cost("smooth"), 2.5, False
    ),
    "equal-cost-rough": Study("gamma 3, rough differences: every rule at one price", _equal_cost("rough"), 2.5, False),
    "wall-clock": Study("gamma 3, levels that do the work they are priced at: seconds", _real_work("seconds"), 7),
    "wall-clock-declared": Study("the same levels at their declared prices", _real_work("declared"), 8),
    "charges": Study("a field of charges, cells for the cheap levels: gamma measured", _charges, 0.1, False),
    "learned-force": Study(
        "a force learned from points: gamma measured, every rule at one price", _learned_force, 1, False
    ),
    "no-gain-loose": Study("where it does not pay: loose errors", _loose, 1),
    "no-gain-cheap": Study("where it does not pay: gamma 0.8, below every threshold", _below_threshold, 1.5),
    "no-gain-pair": Study("where it does not pay: two levels of nearly one price", _few_levels, 0.2),
    "no-gain-useless": Study("where it pays less: a level that is no better than the one below it", _useless_level, 1),
}
