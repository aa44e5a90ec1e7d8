"""Convergence-rate studies: for every method the least cost that reaches each error, and the exponent of that."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlsde import checks
from mlsde.chunks.ranks import ranks
from mlsde.chunks.results import Results, share_results
from mlsde.hierarchy import CountedLevels
from mlsde.problems import ladder
from mlsde.problems.ladder import LadderProblem
from mlsde.progress import bar
from mlsde.sde import NoiseTerm
from mlsde.showing import Rows, as_html, as_text
from mlsde.solution import NonFiniteError
from mlsde.study import prediction
from mlsde.study.fits import Exponent, fit
from mlsde.study.methods import Candidate, Method, candidates, multilevel, plain, round_numbers
from mlsde.study.search import Found, Search
from mlsde.study.trials import Trial, Trials
from mlsde.theory import fitted_exponent

COSTS = ("declared", "seconds")
_BOOTSTRAP = 400
_FEWEST_SEEN = 2.0
"""Firings of the top level where a pattern of coins is shared: what fires less is missed by most of the patterns."""


@dataclass(frozen=True)
class Frontier:
    """What one method needs.

    Attributes:
        method: the method.
        found: the cheapest candidate for each error, loosest first.
        costs: its price, infinite where no candidate reaches the error.
        intervals: 2.5 and 97.5 percentiles of the price when the seeds are drawn anew.
        exponent: of the price.
        predicted: the prices that theory foresees with constants from a short pilot; ``None`` where it makes no
            statement.
        predicted_exponent: their exponent, fitted to the errors that :attr:`exponent` is fitted to.
    """

    method: Method
    found: tuple[Found, ...]
    costs: tuple[float, ...]
    intervals: tuple[tuple[float, float], ...]
    exponent: Exponent
    predicted: tuple[float, ...] | None = None
    predicted_exponent: float | None = None

    def __repr__(self) -> str:
        low, high = self.exponent.interval
        prices = ", ".join(f"{cost:.4g}" for cost in self.costs)
        return (
            f"Frontier({self.method.name}: costs {prices}; exponent {self.exponent.value:.2f} [{low:.2f}, {high:.2f}])"
        )

    def cost_at(self, error: float) -> float:
        """Price at one of the errors; ``KeyError`` with those there are."""
        for cost, found in zip(self.costs, self.found, strict=True):
            if found.target == error:
                return cost
        raise KeyError(f"{error!r} is none of the errors {[found.target for found in self.found]}.")


@dataclass(frozen=True)
class Convergence:
    """A study's results.

    Attributes:
        problem: name of the problem.
        gamma: exponent that shaped the probabilities.
        strong_order: of Euler-Maruyama on the problem.
        errors: the errors sought, loosest first.
        frontiers: one per method.
        settings: seeds, samples and whatever else makes the study what it is.
        trials: how many candidates were tried.
    """

    problem: str
    gamma: float
    strong_order: float
    errors: tuple[float, ...]
    frontiers: tuple[Frontier, ...]
    settings: dict[str, Any]
    trials: int

    def __getitem__(self, name: str) -> Frontier:
        """Frontier of the method of that name; ``KeyError`` with the names there are."""
        for frontier in self.frontiers:
            if frontier.method.name == name:
                return frontier
        raise KeyError(f"{name!r} is none of {[frontier.method.name for frontier in self.frontiers]}.")

    def ratio(self, dear: str, cheap: str) -> float:
        """How many times dearer one method is than another at the tightest error that both reach; NaN if none."""
        a, b = self[dear].costs, self[cheap].costs
        both = [x / y for x, y in zip(a, b, strict=True) if math.isfinite(x) and math.isfinite(y)]
        return both[-1] if both else math.nan

    __repr__ = as_text
    _repr_html_ = as_html

    def _report(self) -> list[str | Rows]:
        from mlsde.study.report import report  # noqa: PLC0415, what is only shown

        return report(self)

    def as_dict(self) -> dict[str, Any]:
        """As JSON; the same for the same seed unless prices are seconds."""
        from mlsde.study.report import as_dict  # noqa: PLC0415

        return as_dict(self)

    def figure(self, file: str | os.PathLike[str]) -> str:
        """Draw error against cost with fitted and theoretical slopes; returns the file's name."""
        from mlsde.study.figure import save_frontiers  # noqa: PLC0415

        return save_frontiers(self, file)


def default_methods() -> list[Method]:
    """Euler-Maruyama of one level, the paper's rule, and the rules whose coins are spread evenly.

    Returns:
        The methods.

    Example:
        >>> [method.name for method in default_methods()]
        ['one level, Euler-Maruyama', 'independent impulse', 'systematic impulse', 'systematic hold']
    """
    rules = [("independent", "impulse"), ("systematic", "impulse"), ("systematic", "hold")]
    return [plain(), *(multilevel(*rule) for rule in rules)]


def convergence(
    problem: LadderProblem,
    methods: Sequence[Method] | None = None,
    errors: Sequence[float] | np.ndarray | Tensor = (),
    *,
    seeds: int = 10,
    samples: int = 32,
    seed: int = 0,
    steps: Sequence[int] | None = None,
    most_steps: int = 4096,
    gamma: float | None = None,
    cost: str = "declared",
    reference_steps: int | None = None,
    folder: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> Convergence:
    """Find for every method the least cost that reaches each error, and fit the exponent of that.

    A method is free to use any level, or number of levels, any of the numbers of steps and any scale of its
    probabilities. Its error is the root mean square over samples of ``|Y_T - reference|`` (summed over components, all
    methods on the same paths), the median over seeds. Exponents come with intervals from a bootstrap over the seeds.

    Args:
        problem: the ladder and what its solution really is.
        methods: from :func:`plain`, :func:`multilevel`, :func:`stitching` and :func:`own`; by default
            :func:`default_methods`.
        errors: errors sought.
        seeds: number of seeds, at least 2; fewer than 10 give rough intervals.
        samples: samples per seed.
        seed: of everything random; studies of two seeds have nothing in common.
        steps: numbers of steps to try; by default powers of two and the numbers halfway up to ``most_steps``.
        most_steps: see ``steps``.
        gamma: exponent that shapes the probabilities; the problem's own by default.
        cost: ``"declared"``: prices are the ladder's costs, and every sample tosses its own coins. ``"seconds"``:
            prices are the median wall-clock of a run of ``samples`` samples that share their coins; the top level then
            fires twice or more in the mean, because a median over a few patterns does not see what fires less.
        reference_steps: steps of the reference where the problem has none of its own; 10 times the most steps by
            default.
        folder: where trials are kept as they come, so that a killed study goes on where it stopped; ``None`` keeps
            them in memory. Under ``torchrun`` the processes share the trials, and all return the same.
        progress: show a bar.

    Returns:
        :class:`Convergence`.

    Raises:
        TypeError, ValueError: for bad input, naming the argument; also if ``folder`` holds another study.

    Example:
        >>> from mlsde.problems import analytic
        >>> problem = analytic.geometric_brownian_motion().ladder(gamma=3.0, levels=3)
        >>> done = convergence(problem, [plain()], [0.8, 0.4], seeds=2, samples=4, steps=[1, 2, 4, 8, 16])
        >>> len(done["one level, Euler-Maruyama"].costs)
        2
    """
    ladder.checked(problem)
    chosen = _methods(default_methods() if methods is None else methods)
    targets = _targets(errors)
    checks.one_of("cost", cost, COSTS)
    if checks.positive_integer("seeds", seeds) < 2:
        raise ValueError("seeds must be at least 2, so that there is a spread, got 1.")
    checks.positive_integer("samples", samples)
    grid = _grid(steps, checks.positive_integer("most_steps", most_steps, checks.MOST_STEPS))
    power = _gamma(gamma, problem)
    finest = 10 * grid[-1] if reference_steps is None else checks.positive_integer("reference_steps", reference_steps)
    share = "sample" if cost == "declared" else "batch"
    progress = checks.truth("progress", progress)
    settings = {
        "problem": problem.name,
        "costs": list(problem.sde.drift.required_costs("a convergence study")),
        "gamma": power,
        "seeds": seeds,
        "samples": samples,
        "seed": checks.one_seed(seed),
        "cost": cost,
        "reference_steps": finest,
    }
    trials = Trials(problem, power, seeds, samples, seed, share, finest)
    made_by = {"fingerprint": _fingerprint(problem, trials.batches[0].y0[:4]), "versions": _versions()}
    work = ranks(trials.batches[0].y0.device)
    chunks = Results(folder, {**settings, **made_by}, work)

    def measure(candidate: Candidate) -> Trial:
        timed = cost == "seconds"
        return Trial.from_dict(chunks.result(candidate.key, lambda: trials.measure(candidate).as_dict(timed)))

    def price(trial: Trial) -> float:
        return trial.seconds if cost == "seconds" else trial.cost

    def foreseen(method: Method) -> list[float] | None:
        # the error model prices levels by their values
        if cost == "seconds" or problem.sde.drift.differences or not prediction.predictable(method):
            return None
        if problem.reference is not None and len(problem.sde.drift) < prediction.FEWEST_LEVELS:
            return None
        try:
            constants = chunks.result(
                f"pilot-{method.key}", lambda: prediction.as_dict(prediction.error_model(trials, method))
            )
        except NonFiniteError:  # the pilot's steps are too long for the problem
            return None
        return prediction.frontier(prediction.from_dict(constants), method, targets, grid, power)

    def searched(search: Search, method: Method, advance: Callable[[str, int], None]) -> list[Found]:
        tried = candidates(method, problem.sde.drift, problem.t_span, power, grid)
        if cost == "seconds":
            tried = [one for one in tried if one.method.coins is None or one.setting >= _FEWEST_SEEN]
        found = []
        for target in targets:
            found.append(search.least(tried, target))
            advance(method.name, len(search.trials))
        return found

    def scouted(method: Method) -> None:
        """Try what a search for this method alone would; that for all then finds nearly all of its trials made."""
        searched(Search(problem.sde.drift, measure, price, plain_runs=True), method, lambda name, tried: None)
        foreseen(method)

    progress = progress and work.rank == 0
    if cost == "declared":  # what is timed, one process times while the others wait
        share_results([partial(scouted, method) for method in chosen], [chunks], work, progress=progress)
    search = Search(problem.sde.drift, measure, price, plain_runs=cost == "declared")
    frontiers = []
    with _bar(progress, len(chosen) * len(targets)) as advance:
        for method in chosen:
            found = searched(search, method, advance)
            frontier = _frontier(method, found, search.trials, price, seed)
            frontiers.append(_with_theory(frontier, foreseen(method)))
    settings |= {"steps": grid, "noise": problem.sde.noise}
    return Convergence(
        problem.name, power, problem.strong_order, targets, tuple(frontiers), settings, len(search.trials)
    )


def _frontier(
    method: Method,
    found: Sequence[Found],
    trials: dict[Candidate, Trial],
    price: Callable[[Trial], float],
    seed: int,
) -> Frontier:
    """Costs, and what they are when the seeds are drawn anew."""
    costs = tuple(math.inf if one.trial is None else price(one.trial) for one in found)
    targets = [one.target for one in found]
    mine = [trial for candidate, trial in trials.items() if candidate.method == method]
    draws = _resampled(mine, targets, price, seed)
    intervals = tuple(
        (float(low), float(high))
        for low, high in zip(*np.percentile(draws, [2.5, 97.5], axis=0, method="nearest"), strict=True)
    )
    return Frontier(method, tuple(found), costs, intervals, fit(targets, costs, draws.tolist()))


def _with_theory(frontier: Frontier, costs: list[float] | None) -> Frontier:
    """The frontier beside the one that theory foresees, whose exponent is read off the same errors."""
    if costs is None:
        return frontier
    used = [
        (found.target, cost)
        for found, cost in zip(frontier.found, costs, strict=True)
        if found.target in frontier.exponent.used and math.isfinite(cost)
    ]
    exponent = fitted_exponent(*zip(*used, strict=True)) if len(used) > 1 else None
    return replace(frontier, predicted=tuple(costs), predicted_exponent=exponent)


def _resampled(
    trials: Sequence[Trial], targets: Sequence[float], price: Callable[[Trial], float], seed: int
) -> np.ndarray:
    """Least costs with the seeds drawn anew, shape ``(draws, targets)``; infinite where no trial reaches a target."""
    if not trials:
        return np.full((1, len(targets)), math.inf)
    errors = np.array([trial.errors for trial in trials])
    costs = np.array([price(trial) for trial in trials])
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, errors.shape[1], (_BOOTSTRAP, errors.shape[1]))
    medians = np.median(errors[:, picks], axis=-1)  # (trials, draws)
    return np.array([np.where(medians <= target, costs[:, None], math.inf).min(axis=0) for target in targets]).T


def _versions() -> dict[str, str]:
    """What trials were made with; those of another version are not mixed with them."""
    from mlsde import __version__  # noqa: PLC0415, the package imports its modules before it has a version

    return {"mlsde": __version__, "torch": torch.__version__}


@torch.no_grad()
def _fingerprint(problem: LadderProblem, y0: Tensor) -> list[str]:
    """Values of the levels and the diffusion at two places: a folder's trials are of no use once they have changed."""
    sde, (t0, t1) = problem.sde, problem.t_span
    dtype = torch.float32 if y0.dtype in checks.HALF_PRECISIONS else y0.dtype
    found = [f"{t0:g} … {t1:g}"]
    levels = CountedLevels(sde.drift.levels, y0.dtype)
    for when, y in ((t0, y0), (0.5 * (t0 + t1), 0.7 * y0 + 0.1)):
        t = torch.tensor(when, dtype=dtype, device=y.device)
        values = [levels(k, t, y) for k in range(len(sde.drift))]
        if not sde.is_ode:
            values.append(torch.as_tensor(NoiseTerm(sde, t, y, dtype).value(t, y)))
        found += [f"{float(value.double().norm()):.6g}" for value in values]
    return found


def _methods(methods: Sequence[Method]) -> list[Method]:
    chosen = [] if not isinstance(methods, Iterable) else checks.items("methods", methods, "methods of a study")
    if not chosen or not all(isinstance(method, Method) for method in chosen):
        raise TypeError(
            "methods must be a sequence of methods, made by study.plain(), study.multilevel(coins, correction), "
            f"study.stitching() or study.own(), got {methods!r}."
        )
    names = [method.name for method in chosen]
    if len(set(names)) < len(names):
        raise ValueError(f"methods must have different names, got {names}.")
    return chosen


def _targets(errors: Any) -> tuple[float, ...]:
    targets = checks.as_float64("errors", errors)
    if len(targets) < 1 or not (targets > 0).all():
        raise ValueError(f"errors must hold at least one error above zero, got {targets.tolist()}.")
    return tuple(sorted({float(target) for target in targets}, reverse=True))


def _grid(steps: Sequence[int] | None, most: int) -> list[int]:
    if steps is None:
        return [int(n) for n in round_numbers(1, most) if n == int(n)]
    given = checks.items("steps", steps, "numbers of steps")
    grid = sorted({checks.positive_integer("steps", n, checks.MOST_STEPS) for n in given})
    if not grid:
        raise ValueError("steps must hold at least one number of steps, got none.")
    return grid


def _gamma(gamma: float | None, problem: LadderProblem) -> float:
    value = problem.gamma if gamma is None else gamma
    if value is None:
        raise ValueError(
            "gamma is not known for this problem: give convergence(..., gamma=...), "
            "measured by mlsde.study.diagnose(problem).gamma."
        )
    return checks.positive_number("gamma", value)


@contextmanager
def _bar(shown: bool, total: int) -> Iterator[Callable[[str, int], None]]:
    """Progress over methods and errors; silent if not asked for."""
    if not shown:
        yield lambda name, tried: None
        return
    with bar(total=total, unit="errors") as moving:

        def advance(name: str, tried: int) -> None:
            moving.set_postfix_str(f"{name}, {tried} trials", refresh=False)
            moving.update(1)

        yield advance
