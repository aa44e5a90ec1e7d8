"""Rules at one price: their errors on the same paths, and how sure the ratios are."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from torch import Tensor

from mlsde import checks
from mlsde.integrate import solve
from mlsde.multilevel import Multilevel
from mlsde.probabilities import PowerLaw
from mlsde.problems import ladder
from mlsde.problems.ladder import LadderProblem
from mlsde.showing import Rows, as_html, as_text
from mlsde.solution import NonFiniteError
from mlsde.study.methods import SWITCHES, Method, multilevel, stitched_levels
from mlsde.study.trials import Trials

_BOOTSTRAP = 1000
_MOST_STEPS = 4096
"""Of a rival: a cheap level alone could take more, but its bias is by then all that is left."""


@dataclass(frozen=True)
class Row:
    """One way to spend the budget.

    Attributes:
        name: what it is.
        cost: mean cost per trajectory.
        coins_error: root mean square distance from the top level at every step of the same grid; ``None`` for ways
            with another grid.
        error: root mean square distance from the solution.
        ratio: error of the coins of the first rule over this one's, and its bootstrap interval over the seeds.
    """

    name: str
    cost: float
    coins_error: float | None
    error: float
    ratio: tuple[float, float, float] | None


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
    """

    problem: str
    budget: float
    full_cost: float
    full_error: float
    rows: tuple[Row, ...]
    settings: dict[str, Any]

    def __getitem__(self, name: str) -> Row:
        """The row of that name; ``KeyError`` with the names there are."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"{name!r} is none of {[row.name for row in self.rows]}.")

    __repr__ = as_text
    _repr_html_ = as_html

    def _report(self) -> list[str | Rows]:
        share = self.full_cost / self.budget
        cells = [("", "cost", "of coins", "of all", f"   {self.rows[0].name} over it")]
        cells.append(("top level at every step", f"{self.full_cost:.4g}", "-", f"{self.full_error:.5f}", ""))
        for row in self.rows:
            coins = "-" if row.coins_error is None else f"{row.coins_error:.5f}"
            ratio = "" if row.ratio is None else f"   {row.ratio[0]:.2f} [{row.ratio[1]:.2f}, {row.ratio[2]:.2f}]"
            cells.append((row.name, f"{row.cost:.4g}", coins, f"{row.error:.5f}", ratio))
        return [
            f"{self.problem}: errors at {share:.3g} times less than the cost of {self.settings['steps']} steps of the "
            f"top level; {self.settings['seeds']} seeds of {self.settings['samples']} samples",
            "",
            Rows(cells, ("36", ">10", ">11", ">11", ""), gap="", indent=""),
        ]

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "problem": self.problem,
            "budget": self.budget,
            "full_cost": self.full_cost,
            "full_error": self.full_error,
            "settings": self.settings,
            "rows": [
                {
                    "name": r.name,
                    "cost": r.cost,
                    "coins_error": r.coins_error,
                    "error": r.error,
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
    share: float = 16.0,
    steps: int = 512,
    seeds: int = 200,
    samples: int = 4,
    seed: int = 0,
    reference_steps: int = 8192,
) -> Comparison:
    """Compare rules, and their rivals, at the same expected cost.

    Every sample has its own coins. The probabilities of a rule are the power law of its order, scaled to the budget.
    Rivals, with as many steps as the budget pays for: the top level by Euler-Maruyama and, where noise does not forbid
    it, by Heun; the best of the lower levels by either; the best two neighbouring levels stitched in time. "Best" is
    in hindsight, over levels and switch times. A rival whose steps are too long to stay finite is left out.

    Args:
        problem: the ladder; it knows its ``gamma``.
        rules: multilevel methods, the paper's first by default.
        share: how many times less to spend than the top level at every step costs.
        steps: of the rules.
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
    if problem.gamma is None:
        raise ValueError("problem must know its gamma; measure it with mlsde.study.diagnose(problem).gamma.")
    chosen = _rules(default_rules() if rules is None else rules)
    if checks.positive_number("share", share) <= 1:
        raise ValueError(f"share must be above 1, got {share:g}.")
    for name, count in (("seeds", seeds), ("samples", samples), ("reference_steps", reference_steps)):
        checks.positive_integer(name, count)
    checks.one_seed(seed)
    trials = Trials(problem, problem.gamma, seeds, samples, seed, "sample", reference_steps)
    batch, sde = trials.batches[0], problem.sde
    noise = batch.noise(checks.positive_integer("steps", steps))
    full = solve(sde, batch.y0, problem.t_span, steps=steps, brownian=noise)
    budget = float(full.stats.cost or 0.0) / share

    def groups(squares: Tensor) -> np.ndarray:
        return squares.view(-1, samples).mean(dim=1).numpy()

    rows, first = [], None
    for method in chosen:
        law = PowerLaw(problem.gamma, budget=budget, order=method.order)
        multi = Multilevel(law, method.coins or "", method.correction or "", "sample")
        try:
            done = solve(
                sde, batch.y0, problem.t_span, steps=steps, method=method.stepper, multilevel=multi,
                seed=batch.seeds, brownian=noise,
            )  # fmt: skip
        except ValueError as error:
            if not str(error).startswith("budget="):
                raise
            raise ValueError(
                f"share={share:g} leaves too little for {method.name}, take a smaller one: {error}"
            ) from None
        coins = groups((done.y1 - full.y1).double().flatten(1).square().sum(1))
        first = coins if first is None else first
        rows.append(
            Row(
                method.name,
                float(done.stats.cost or 0.0),
                float(np.sqrt(coins.mean())),
                _root(batch.errors(done.y1)),
                _ratio(first, coins, seed),
            )
        )
    rows += _rivals(trials, budget)
    settings = {"share": share, "steps": steps, "seeds": seeds, "samples": samples, "seed": seed}
    cost = float(full.stats.cost or 0.0)
    return Comparison(problem.name, budget, cost, _root(batch.errors(full.y1)), tuple(rows), settings)


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
    chosen = [] if isinstance(rules, Method) or not isinstance(rules, Iterable) else list(rules)
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


def _finite(ratio: tuple[float, float, float] | None) -> list[float | None] | None:
    """As JSON."""
    return None if ratio is None else [value if math.isfinite(value) else None for value in ratio]


def _root(squares: Tensor) -> float:
    return math.sqrt(float(squares.mean()))


def _rivals(trials: Trials, budget: float) -> list[Row]:
    """Plain ways to spend the budget, with as many steps as it pays for."""
    batch = trials.batches[0]
    problem, drift = batch.problem, batch.problem.sde.drift
    costs, top = drift.required_costs("a comparison"), len(drift)
    if drift.differences:  # a level is the sum of those up to it
        costs = tuple(accumulate(costs))

    def row(name: str, price: float, stages: int = 1, **options: Any) -> Row | None:
        n = min(int(budget / price / stages), _MOST_STEPS)
        if n < 1:
            return None
        try:
            done = solve(problem.sde, batch.y0, problem.t_span, steps=n, brownian=batch.path, **options)
        except NonFiniteError:  # too long a step for it
            return None
        return Row(f"{name}, {n} steps", n * price * stages, None, _root(batch.errors(done.y1)), None)

    euler = [row(f"level {k} alone", costs[k - 1], level=k) for k in range(1, top)]
    heun = []
    if problem.strong_order == 1.0:
        heun = [row(f"level {k}, Heun", costs[k - 1], 2, level=k, method="heun") for k in range(1, top + 1)]
    stitched = [
        row(
            f"levels {k - 1} and {k} stitched",
            abs(share) * costs[k - 2] + (1.0 - abs(share)) * costs[k - 1],
            level=stitched_levels(k, share, problem.t_span),
        )
        for k in range(2, top + 1)
        for share in SWITCHES
    ]
    found = [row("top level", costs[-1]), *heun[-1:], *(_best(rows) for rows in (euler, heun[:-1], stitched))]
    return [one for one in found if one is not None]


def _best(rows: Sequence[Row | None]) -> Row | None:
    return min((row for row in rows if row is not None), key=lambda row: row.error, default=None)
