"""Rules at one price: their errors on the same paths, and how sure the ratios are."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor

from mlsde import checks, norms
from mlsde.integrate import solve
from mlsde.multilevel import Multilevel
from mlsde.probabilities import PowerLaw
from mlsde.problems import ladder
from mlsde.problems.ladder import LadderProblem
from mlsde.showing import Rows, as_html, as_text
from mlsde.solution import Solution
from mlsde.steppers import scheme
from mlsde.study.methods import Method, multilevel
from mlsde.study.rivals import Ended, Way, plain_rivals, way_end
from mlsde.study.trials import Batch, Trials

_BOOTSTRAP = 1000

_OVER_BUDGET = 1.1
"""A way may cost so many budgets and still be called one at this price: expected costs are not exact ones."""


@dataclass(frozen=True)
class Row:
    """One way to spend the budget.

    Attributes:
        name: what it is.
        cost: mean cost per trajectory, a pilot included.
        coins_error: root mean square distance from the top level at every step of the same grid; ``None`` for ways
            with another grid.
        error: root mean square distance from the solution.
        ratio: error of the coins of the first rule over this one's, and its bootstrap interval over the seeds.
        errors: root mean square distance from the solution, one for each seed.
        law: distance of the law of the states at the end from that of the solution: 2-Wasserstein, of the marginals,
            together over the components; at most ``error``, because both ride the same paths.
        kind: ``"rule"`` or ``"way"``, which use the ladder, ``"rival"``, which does not, or ``"search"``: the best of
            several patterns of coins, which pays for all of them.
    """

    name: str
    cost: float
    coins_error: float | None
    error: float
    ratio: tuple[float, float, float] | None
    errors: tuple[float, ...] = field(default=(), repr=False)
    kind: str = "rule"
    law: float = math.nan

    @property
    def spread(self) -> float:
        """Standard deviation of the errors of the seeds; NaN of one seed."""
        return float(np.std(self.errors, ddof=1)) if len(self.errors) > 1 else math.nan


@dataclass(frozen=True)
class Comparison:
    """Ways to spend one budget.

    Attributes:
        problem: name of the problem.
        budget: cost per trajectory.
        full_cost: that of the top level at every step.
        full_error: and its error.
        rows: the ways, the first of which the ratios are of.
        settings: what else makes the comparison what it is.
        full_law: distance of the law at the end, of the top level at every step.
    """

    problem: str
    budget: float
    full_cost: float
    full_error: float
    rows: tuple[Row, ...]
    settings: dict[str, Any]
    full_law: float = math.nan

    def __getitem__(self, name: str) -> Row:
        """The row of that name; ``KeyError`` with the names there are."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"{name!r} is none of {[row.name for row in self.rows]}.")

    def verdict(self, name: str | None = None) -> str:
        """Whether the ladder pays at this price, in a sentence.

        Errors are compared with that of the best plain way, seed by seed: a ratio is sure if its bootstrap interval of
        95 % over the seeds does not hold 1. Both sides are the best in hindsight, so name the row of a way that was
        chosen beforehand to judge that choice.

        Args:
            name: of a row; by default the one of least error that uses the ladder and keeps to the budget.

        Raises:
            KeyError: if there is no such row.
            ValueError: if there is nothing to compare.
        """
        paid = [row for row in self.rows if row.cost <= _OVER_BUDGET * self.budget]
        ours = [row for row in paid if row.kind in ("rule", "way")] if name is None else [self[name]]
        plain = [row for row in paid if row.kind == "rival"]
        if not ours or not plain:
            raise ValueError(
                "there is nothing to compare: no way with the ladder, or none without, keeps to the budget."
            )
        best, other = (min(rows, key=lambda row: row.error) for rows in (ours, plain))
        value, low, high = _ratio(np.square(other.errors), np.square(best.errors), self.settings["seed"])
        if low > 1:
            sure = f"{best.name} misses by {value:.2f} [{low:.2f}, {high:.2f}] times less than the best plain way"
            return f"{sure} ({other.name}): here the ladder pays."
        if high < 1:
            sure = f"{1 / value:.2f} [{1 / high:.2f}, {1 / low:.2f}] times less than {best.name}"
            return f"The best plain way ({other.name}) misses by {sure}: here the ladder does not pay."
        same = f"{best.name} and the best plain way ({other.name}) miss by as much, ratio {value:.2f}"
        return f"{same} [{low:.2f}, {high:.2f}]: here the ladder does not pay."

    __repr__ = as_text
    _repr_html_ = as_html

    def _report(self) -> list[str | Rows]:
        share = self.full_cost / self.budget
        cells = [("", "cost", "of coins", "of all", "+-", "of law", f"   {self.rows[0].name} over it")]
        law = _shown(self.full_law)
        cells.append(("top level at every step", f"{self.full_cost:.4g}", "-", f"{self.full_error:.5f}", "", law, ""))
        for row in self.rows:
            coins = "-" if row.coins_error is None else _shown(row.coins_error)
            ratio = "" if row.ratio is None else f"   {row.ratio[0]:.2f} [{row.ratio[1]:.2f}, {row.ratio[2]:.2f}]"
            shown = _shown(row.error), _shown(row.spread), _shown(row.law)
            cells.append((row.name, f"{row.cost:.4g}", coins, *shown, ratio))
        wide = str(max(36, *(len(row.name) + 2 for row in self.rows)))
        return [
            f"{self.problem}: errors at {share:.3g} times less than the cost of {self.settings['steps']} steps of the "
            f"top level; {self.settings['seeds']} seeds of {self.settings['samples']} samples",
            "",
            Rows(cells, (wide, ">10", ">11", ">11", ">10", ">10", ""), gap="", indent=""),
        ]

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "problem": self.problem,
            "budget": self.budget,
            "full_cost": self.full_cost,
            "full_error": self.full_error,
            "full_law": _number(self.full_law),
            "settings": self.settings,
            "rows": [
                {
                    "name": r.name,
                    "kind": r.kind,
                    "cost": r.cost,
                    "coins_error": r.coins_error,
                    "error": r.error,
                    "spread": _number(r.spread),
                    "law": _number(r.law),
                    "ratio": _finite(r.ratio),
                }
                for r in self.rows
            ],
        }

    def figure(self, file: str | os.PathLike[str]) -> str:
        """Draw the errors as bars; returns the file's name."""
        from mlsde.study.figure import save_comparison  # noqa: PLC0415, matplotlib

        return save_comparison(self, file)


def equal_cost(
    problem: LadderProblem,
    rules: Sequence[Method] | None = None,
    *,
    ways: Mapping[str, Way] | None = None,
    rivals: Mapping[str, Way] | None = None,
    share: float = 16.0,
    steps: int = 512,
    patterns: int = 0,
    seeds: int = 200,
    samples: int = 4,
    seed: int = 0,
    reference_steps: int = 8192,
) -> Comparison:
    """Compare rules, and their rivals, at the same expected cost.

    Every sample has its own coins. The probabilities of a rule are the power law of its order, scaled to the budget.
    Rivals, with as many steps as the budget pays for: the top level by Euler-Maruyama and, where it has an order to
    gain, by Heun (ODEs, additive noise) or Milstein (diagonal and scalar noise); the best of the lower levels by
    either; the best two neighbouring levels stitched in time. "Best" is in hindsight, over levels and switch times. A
    rival whose steps are too long to stay finite is left out.

    Args:
        problem: the ladder; with three levels or more it knows its ``gamma``.
        rules: multilevel methods, the paper's first by default.
        ways: further runs that use the ladder, by name: each is called as ``way(y0, brownian=path, seed=seeds)``, with
            a seed for each sample and ``None`` for the path of an ODE, and returns a :class:`mlsde.Solution`, or a pair
            of the states at the end and the cost per trajectory. So ``calibration.recommend(budget=…,
            share="sample").solve`` is one, and so is ``functools.partial(mlsde.solve, sde, t_span=(0, 1), steps=512,
            multilevel=rule)``. Their cost is what they spend, a pilot included; those on the grid of the rules have
            their coins compared as well.
        rivals: further runs that do not, likewise.
        share: how many times less to spend than the top level at every step costs.
        steps: of the rules; and of the top level at every step, which has the stepper of the first rule.
        patterns: number of patterns of coins, shared by all samples, from which the best of the first rule is taken in
            hindsight: 15 as in the paper; its cost is that of all of them. None by default.
        seeds: number of seeds.
        samples: samples per seed.
        seed: of everything random; comparisons of two seeds have nothing in common.
        reference_steps: of the reference, where the problem has none.

    Returns:
        A :class:`Comparison`; ``print`` it.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> from mlsde.problems import analytic
        >>> problem = analytic.linear_ode().ladder(gamma=3.0, levels=4)
        >>> found = equal_cost(problem, share=8, steps=32, seeds=3, samples=2, reference_steps=100)
        >>> found.full_cost, found.rows[0].name
        (16384.0, 'independent impulse')
    """
    ladder.checked(problem)
    chosen = _rules(default_rules() if rules is None else rules)
    if checks.positive_number("share", share) <= 1:
        raise ValueError(f"share must be above 1, got {share:g}.")
    for name, count in (("steps", steps), ("seeds", seeds), ("samples", samples), ("reference_steps", reference_steps)):
        checks.positive_integer(name, count)
    if patterns != 0:
        checks.positive_integer("patterns", patterns)
    named = [*_named("way", ways), *_named("rival", rivals)]
    gamma = _gamma(problem)
    batch = Trials(problem, gamma, seeds, samples, checks.one_seed(seed), "sample", reference_steps).batches[0]
    runs = _Runs(batch, gamma, steps, share, samples, seed, chosen[0].stepper)
    rows = [runs.of_rule(method) for method in chosen]
    if patterns:
        rows.append(runs.best_pattern(chosen[0], patterns))
    for kind, name, way in named:
        rows.append(runs.of_way(kind, name, way_end(f"{kind}s[{name!r}]", way, batch)))
    rows += [runs.row("rival", rival.name, rival.cost, rival.states) for rival in plain_rivals(batch, runs.budget)]
    settings = {"share": share, "steps": steps, "seeds": seeds, "samples": samples, "seed": seed}
    full = runs.full(chosen[0].stepper).y1
    errors = _root(batch.errors(full)), tuple(rows), settings, batch.of_laws(full)
    return Comparison(problem.name, runs.budget, runs.budget * share, *errors)


def _gamma(problem: LadderProblem) -> float:
    """Exponent that shapes the probabilities; of two levels, the first at every step, the budget decides alone."""
    if problem.gamma is None and len(problem.sde.drift) > 2:
        raise ValueError("problem must know its gamma; measure it with mlsde.study.diagnose(problem).gamma.")
    return 1.0 if problem.gamma is None else problem.gamma


def _named(kind: str, given: Mapping[str, Way] | None) -> list[tuple[str, str, Way]]:
    """Runs of somebody's own, each with its kind and its name."""
    if given is not None and not isinstance(given, Mapping):
        raise TypeError(f"{kind}s must be a mapping of names to functions, got {type(given).__name__}.")
    return [(kind, name, way) for name, way in (given or {}).items()]


class _Runs:
    """Runs of rules at one price on the samples of one batch."""

    def __init__(
        self, batch: Batch, gamma: float, steps: int, share: float, samples: int, seed: int, stepper: str
    ) -> None:
        self._batch, self._gamma, self._steps, self._share = batch, gamma, steps, share
        self._samples, self._seed = samples, seed
        self._full: dict[str, Solution] = {}
        self._first: np.ndarray | None = None
        self.budget = float(self.full(stepper).stats.cost or 0.0) / share

    def full(self, stepper: str) -> Solution:
        """The top level at every step."""
        if stepper not in self._full:
            self._full[stepper] = self._solve(stepper)
        return self._full[stepper]

    def _solve(self, stepper: str, **options: Any) -> Solution:
        problem, noise = self._batch.problem, self._batch.noise(self._steps)
        return solve(
            problem.sde,
            self._batch.y0,
            problem.t_span,
            steps=self._steps,
            method=scheme(stepper),
            brownian=noise,
            **options,
        )

    def of_rule(self, method: Method) -> Row:
        """A rule; the error of the coins of the first one is the measure of the others."""
        done = self._rule(method)
        row = self.row("rule", method.name, float(done.stats.cost or 0.0), done.y1)
        return self._with_coins(row, done)

    def of_way(self, kind: str, name: str, ended: Ended) -> Row:
        """Somebody's own way; it has an error of the coins if it keeps to the grid."""
        row, done = self.row(kind, name, ended.cost, ended.states), ended.solution
        if kind == "rival" or done is None or not np.array_equal(done.plan.times, self.full(done.method).plan.times):
            return row
        return self._with_coins(row, done)

    def _with_coins(self, row: Row, done: Solution) -> Row:
        apart = norms.squares(done.y1 - self.full(done.method).y1)
        coins = _by_seed(apart, self._samples)
        self._first = coins if self._first is None else self._first
        return replace(row, coins_error=_root(apart), ratio=_ratio(self._first, coins, self._seed))

    def best_pattern(self, method: Method, patterns: int) -> Row:
        """The best of so many patterns of coins that all samples share, at the price of all."""
        done = [self._rule(method, pattern) for pattern in range(patterns)]
        best = min((one.y1 for one in done), key=lambda states: _root(self._batch.errors(states)))
        spent = sum(float(one.stats.cost or 0.0) for one in done)
        return self.row("search", f"{method.name}, best of {patterns} patterns", spent, best)

    def _rule(self, method: Method, pattern: int | None = None) -> Solution:
        """A rule at the budget, with coins of each sample's own, or with one pattern of them for all."""
        law = PowerLaw(self._gamma, budget=self.budget, order=method.order)
        share = "sample" if pattern is None else "batch"
        multi = Multilevel.named(law, method.coins or "", method.correction or "", share)
        try:
            seed = self._batch.seeds if pattern is None else pattern
            return self._solve(method.stepper, multilevel=multi, seed=seed)
        except ValueError as error:
            if not str(error).startswith("budget="):
                raise
            raise ValueError(
                f"share={self._share:g} leaves too little for {method.name}, take a smaller one: {error}"
            ) from None

    def row(self, kind: str, name: str, cost: float, states: Tensor) -> Row:
        """A row of where the samples end."""
        squares = self._batch.errors(states)
        errors = np.sqrt(_by_seed(squares, self._samples))
        return Row(name, cost, None, _root(squares), None, tuple(errors.tolist()), kind, self._batch.of_laws(states))


def _by_seed(squares: Tensor, samples: int) -> np.ndarray:
    """Mean of each seed."""
    return squares.view(-1, samples).mean(dim=1).numpy()


def default_rules() -> list[Method]:
    """The paper's rule, and those whose coins are spread evenly."""
    rules = [
        ("independent", "impulse"),
        ("systematic", "impulse"),
        ("systematic", "hold"),
        ("systematic", "extrapolate"),
    ]
    return [multilevel(*rule) for rule in rules]


def _rules(rules: Sequence[Method]) -> list[Method]:
    chosen = [] if not isinstance(rules, Iterable) else checks.items("rules", rules, "methods of a study")
    if not chosen or not all(isinstance(method, Method) and method.coins is not None for method in chosen):
        raise ValueError(
            f"rules must hold multilevel methods, made by study.multilevel(coins, correction), got {rules!r}."
        )
    return chosen


def _ratio(first: np.ndarray, other: np.ndarray, seed: int) -> tuple[float, float, float]:
    """Ratio of two root mean squares over seeds, and its 95 % interval when the seeds are drawn anew."""
    picks = np.random.default_rng(seed).integers(0, len(first), (_BOOTSTRAP, len(first)))
    with np.errstate(divide="ignore", invalid="ignore"):  # a rule may make no error at all
        draws = np.sqrt(first[picks].mean(axis=1) / other[picks].mean(axis=1))
        low, high = np.percentile(draws, [2.5, 97.5])
        return float(np.sqrt(first.mean() / other.mean())), float(low), float(high)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _finite(ratio: tuple[float, float, float] | None) -> list[float | None] | None:
    """As JSON."""
    return None if ratio is None else [value if math.isfinite(value) else None for value in ratio]


def _shown(error: float) -> str:
    """An error in a column of a table."""
    if math.isnan(error):
        return "-"
    return f"{error:.5f}" if error < 1000 else f"{error:.3g}"


def _root(squares: Tensor) -> float:
    return math.sqrt(float(squares.mean()))
