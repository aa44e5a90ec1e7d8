"""Is a tolerance kept? ``solve(tol=...)`` on random problems, against much finer runs on the same paths."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from mlsde import checks
from mlsde.chunks.ranks import ranks
from mlsde.chunks.results import Results, share_results
from mlsde.problems.kinds import LADDERS, NOISES, SYSTEMS, ladder, system
from mlsde.problems.ladder import LadderProblem
from mlsde.problems.wells import double_well
from mlsde.progress import bar
from mlsde.showing import Rows, as_html, as_text
from mlsde.solution import NonFiniteError
from mlsde.study.hindsight import error_of, fine_batch, fingerprint, prices, root_mean_square
from mlsde.study.runners import Reacher

_DECADES = 0.5, 2.25
"""A tolerance lies so many decades below the scale of the solution."""

_DECADES_OF_HALF_ORDER = 0.5, 1.75
"""With multiplicative noise the Euler-Maruyama steps for the tightest of the others would take minutes."""

Made = Callable[[int], tuple[LadderProblem, str]]
"""Makes a problem of its number, and says what noise it has."""

_QUICK = 6, 32, 1536
_NO_VOLATILITY = "ode", "volatility"


@dataclass(frozen=True)
class Row:
    """One problem and tolerance.

    Attributes:
        number: of the problem, its seed.
        name: what it is.
        noise: ``"ode"``, ``"additive"`` or ``"multiplicative"``.
        scale: root mean square of the solution at the end.
        tol: the tolerance.
        error: true error, root mean square over samples and components; infinite if the run broke.
        gap: distance of the reference from one with half the steps.
        predicted_error: what was foreseen; ``None`` if nothing was.
        cost: per trajectory with the pilot, in evaluations of the top level.
        chosen: what was chosen, in words.
    """

    number: int
    name: str
    noise: str
    scale: float
    tol: float
    error: float
    gap: float
    predicted_error: float | None
    cost: float
    chosen: str

    @property
    def kept(self) -> bool:
        """Whether the error is at most the tolerance."""
        return self.error <= self.tol

    @property
    def margin(self) -> float:
        """Tolerance over error: below 1 it was missed, far above 1 too much was spent."""
        return self.tol / self.error if self.error > 0 else math.inf


@dataclass(frozen=True)
class Tolerances:
    """How tolerances were kept.

    Attributes:
        rows: one for each problem.
        settings: what else makes the study what it is.
    """

    rows: tuple[Row, ...]
    settings: dict[str, Any]

    def summary(self) -> dict[str, Any]:
        """Share of the tolerances that were kept, by noise as well, and by how much."""
        kept = sum(row.kept for row in self.rows)
        by_noise = {noise: [row.kept for row in self.rows if row.noise == noise] for noise in NOISES}
        factors = [row.predicted_error / row.error for row in self.rows if row.predicted_error and row.error > 0]
        return {
            "kept": kept / len(self.rows),
            "interval of 95 %": list(wilson(kept, len(self.rows))),
            "median of tolerance over error": statistics.median(row.margin for row in self.rows),
            "the worst": min(row.margin for row in self.rows),
            "kept, by noise": {noise: sum(marks) / len(marks) for noise, marks in by_noise.items() if marks},
            "foreseen errors within 1.5": sum(2 / 3 <= factor <= 1.5 for factor in factors) / len(self.rows),
        }

    __repr__ = as_text
    _repr_html_ = as_html

    def _report(self) -> list[str | Rows]:
        from mlsde.study.choice_report import tolerance_report  # noqa: PLC0415, which needs the classes of this module

        return tolerance_report(self)

    def as_dict(self) -> dict[str, Any]:
        """As JSON: numbers that are not finite become ``null``."""
        from mlsde.study.choice_report import finite  # noqa: PLC0415, which needs the classes of this module

        rows = [{**asdict(row), "kept": row.kept, "margin": row.margin} for row in self.rows]
        whole = {"problem": "tolerances", "settings": self.settings, "summary": self.summary(), "rows": rows}
        return dict(finite(whole))

    def figure(self, file: str | os.PathLike[str]) -> str:
        """Draw errors against tolerances; returns the file's name."""
        from mlsde.study.choice_report import save_tolerances  # noqa: PLC0415, matplotlib

        return save_tolerances(self, file)


def random_problem(number: int) -> tuple[LadderProblem, str]:
    """A ladder at random, and its noise: kind, system, dimension, ``gamma``, size, frequency and volatility.

    Args:
        number: its seed; the kinds of noise take turns.

    Raises:
        TypeError, ValueError: for another seed.
    """
    rng = np.random.default_rng([checks.one_seed(number), 7])
    kind, base, noise = str(rng.choice(LADDERS)), str(rng.choice(SYSTEMS)), NOISES[number % len(NOISES)]
    options: dict[str, Any] = {
        "gamma": float(rng.uniform(1.5, 3.5)),
        "levels": int(rng.integers(3, 7)),
        "size": float(2.0 ** rng.uniform(-1.0, 2.0)),
        "frequency": float(2.0 ** rng.uniform(-1.0, 1.0)),
        "volatility": float(rng.uniform(0.1, 0.8)),
    }
    dimension = int(rng.choice([8, 12, 16]))
    made = ladder(kind, system(base, dimension), noise, seed=number, **options)
    shown = ", ".join(f"{name} {value:.2g}" for name, value in options.items() if (noise, name) != _NO_VOLATILITY)
    return _named(made, f"{kind}, {base} of {dimension}, {noise}, {shown}"), noise


def random_well(number: int) -> tuple[LadderProblem, str]:
    """Two wells at random, where a few samples rule the error: prices, noise, ripples and span.

    Args:
        number: its seed.

    Raises:
        TypeError, ValueError: for another seed.
    """
    rng = np.random.default_rng([checks.one_seed(number), 9])
    ratio = float(2.0 ** rng.uniform(3.0, 6.0))
    prices = (1.0, ratio) if rng.integers(2) else (1.0, ratio, ratio**2)
    noise, ripple, span = float(rng.uniform(0.3, 0.9)), float(rng.uniform(0.01, 0.2)), float(rng.uniform(1.0, 4.0))
    made = double_well(prices, noise=noise, ripple=ripple, span=span, seed=number)
    shown = f"{len(prices)} levels {ratio:.2g} apart, noise {noise:.2g}, ripple {ripple:.2g}, span {span:.2g}"
    return _named(made, f"two wells, {shown}"), "additive"


def _named(problem: LadderProblem, name: str) -> LadderProblem:
    return LadderProblem(name, problem.sde, problem.start, problem.t_span, problem.reference, problem.gamma)


def tolerances(
    reach: Reacher | None = None,
    *,
    count: int = 120,
    trajectories: int = 64,
    seed: int = 0,
    reference_steps: int = 6144,
    problem: Made | None = None,
    quick: bool = False,
    folder: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> Tolerances:
    """Solve random problems to random tolerances, and see how many are kept.

    Problems are those of :func:`random_problem`. A tolerance lies half a decade to 2.25 decades below the solution's
    root mean square, to 1.75 with multiplicative noise.

    Args:
        reach: who keeps the tolerance; ``solve(tol=...)`` by default.
        count: number of problems.
        trajectories: samples of each.
        seed: the first problem's; studies whose seeds are ``count`` apart have nothing in common.
        reference_steps: of the references; half with multiplicative noise.
        problem: makes a problem of each number; :func:`random_problem` by default, or :func:`random_well`.
        quick: six problems, in seconds and rough.
        folder: where finished pieces are kept, so that a killed study goes on; ``reached`` in it is to be removed when
            the chooser changes.
        progress: show a bar.

    Raises:
        TypeError, ValueError: naming the argument.
    """
    if quick:
        count, trajectories, reference_steps = _QUICK
    count = checks.positive_integer("count", count)
    if problem is not None:
        checks.callable_as("problem", "problem(number)", problem)
    made, keeper = random_problem if problem is None else problem, _auto() if reach is None else reach
    settings = {
        "count": count,
        "trajectories": checks.positive_integer("trajectories", trajectories),
        "seed": checks.one_seed(seed),
        "reference_steps": checks.positive_integer("reference_steps", reference_steps),
    }
    parts = [None if folder is None else os.path.join(folder, part) for part in ("references", "reached")]
    whole = {**settings, "first": fingerprint(made(seed)[0])}
    work = ranks(torch.device("cpu"))
    references, reached = (Results(part, whole, work) for part in parts)
    numbers = range(seed, seed + count)
    progress = progress and work.rank == 0
    tasks = [partial(_row, made, keeper, number, settings, references, reached) for number in numbers]
    share_results(tasks, [references, reached], work, progress=progress)
    shown = bar(numbers, unit="problems") if progress else numbers
    rows = (_row(made, keeper, number, settings, references, reached) for number in shown)
    return Tolerances(tuple(rows), settings)


def _auto() -> Reacher:
    from mlsde.study.auto import reach  # noqa: PLC0415, the calibration is not needed to compare others

    return reach


def _row(
    made: Made, reach: Reacher, number: int, settings: dict[str, Any], references: Results, reached: Results
) -> Row:
    problem, noise = made(number)
    half_order = noise == "multiplicative"
    steps = settings["reference_steps"] // (2 if half_order else 1)
    batch, gap = fine_batch(problem, settings["trajectories"], max(steps, 2), number, references, f"problem-{number}")
    scale = root_mean_square(batch.reference)
    low, high = _DECADES_OF_HALF_ORDER if half_order else _DECADES
    tol = scale * 10.0 ** -float(np.random.default_rng([number, 8]).uniform(low, high))
    top = prices(problem.sde.drift)[-1]

    def compute() -> dict[str, Any]:
        try:
            with torch.no_grad():
                done = reach(batch.problem, batch.y0, tol, seed=number, brownian=batch.path)
        except (NonFiniteError, ValueError) as error:  # a tolerance that is not reached is a tolerance missed
            return {"error": math.inf, "predicted_error": None, "cost": 0.0, "chosen": f"gave up: {error}"}
        foreseen = None if done.predicted_error is None else float(done.predicted_error)
        cost = (done.cost + done.pilot) / top
        return {
            "error": error_of(batch, done.states), "predicted_error": foreseen, "cost": cost, "chosen": done.chosen
        }  # fmt: skip

    return Row(number, problem.name, noise, scale, tol, gap=gap, **reached.result(f"problem-{number}", compute))


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Interval of 95 % for the probability of a success.

    Source: E. B. Wilson, J. Amer. Statist. Assoc. 22 (1927), doi:10.1080/01621459.1927.10502953.

    Args:
        successes: their number.
        trials: that of all trials, at least 1.

    Raises:
        ValueError: unless ``0 <= successes <= trials``.
    """
    if not 0 <= successes <= checks.positive_integer("trials", trials):
        raise ValueError(f"successes must lie between 0 and trials={trials}, got {successes}.")
    z, share = 1.959963984540054, successes / trials
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials**2))
    return max(0.0, middle - half), min(1.0, middle + half)
