"""``mlsde bench diffusion``: error against cost for every way to draw from a trained ladder, on the same noise.

Plain ways are run at many numbers of steps; what has coins is tuned on other samples, by what it misses there, and
then run with several seeds. Every piece is kept in a folder, so that a killed benchmark goes on.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlsde import checks
from mlsde.chunks import write_atomically
from mlsde.chunks.results import Results
from mlsde.diffusion.arena import Arena, Way
from mlsde.diffusion.ladders import TrainedLadder

_FINALISTS, _FINAL_SEEDS = 6, 3
"""Of the settings tried once in the tuning, how many are tried again on other samples, with how many seeds."""

STEPS = (5, 7, 10, 14, 20, 28, 40, 57, 80, 113, 160, 226, 320, 453, 640)
"""Numbers of evaluations of plain ways: a factor of the square root of 2 apart."""

_MEASURES = ("rmse", "typical")


@dataclass(frozen=True)
class Size:
    """Size of a benchmark.

    Args:
        churn: 0 for the ODE, 1 for the reverse SDE.
        unit: ``"flops"`` or ``"seconds"``.
        samples: trajectories of the comparison.
        budgets: of what has coins, in evaluations of the top level.
        seeds: of the coins.
        patterns: of the paper's rule, of which the best is also told.
        tuning_samples: other trajectories, on which many settings of the coins are tried.
        choosing_samples: others again, on which the best of them and the plain ways are compared: what wins among many
            on few samples owes a part of that to them.
        reference_steps: of the reference.
        most_steps: of a plain way.
        tilts: of the variances, that the tuning tries; see :class:`Way`.
        seed: of everything.
    """

    churn: float = 0.0
    unit: str = "flops"
    samples: int = 32
    budgets: tuple[float, ...] = (5.0, 10.0, 20.0, 40.0)
    seeds: int = 5
    patterns: int = 15
    tuning_samples: int = 16
    choosing_samples: int = 32
    reference_steps: int = 300
    most_steps: int = 320
    tilts: tuple[float, ...] = (0.0, 1.0, 2.0)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("samples", "seeds", "patterns", "tuning_samples", "choosing_samples", "reference_steps",
                     "most_steps"):  # fmt: skip
            checks.positive_integer(name, getattr(self, name))
        if not self.budgets:
            raise ValueError("budgets must hold at least one number of evaluations, got none.")
        for budget in self.budgets:
            checks.positive_number("budgets", budget)
        if self.seeds > self.patterns:
            raise ValueError(f"patterns={self.patterns} must be at least seeds={self.seeds}, which are among them.")


def plain_ways(size: Size, levels: int) -> list[Way]:
    """Every way without coins: the top level by each solver, each level alone, two levels stitched."""
    full = tuple(range(1, levels + 1))
    counts = [n for n in STEPS if n <= size.most_steps]
    few = [n for n in counts if n <= 80]
    ways = [Way(name, n, full) for name in ("ddim", "ddim-log") for n in counts]
    ways += [Way("dpm++2m", n, full) for n in few]
    if size.churn == 0:
        ways += [Way(name, n, full) for name in ("dpm++3m", "unipc") for n in few]
        ways += [Way("edm-heun", math.ceil(n / 2), full) for n in few]
    else:
        ways += [Way("ddpm", n, full) for n in counts]
    ways += [Way(name, n, (k,)) for name in ("ddim", "dpm++2m") for k in range(1, levels) for n in (20, 57)]
    switches = [place / 10 for place in range(1, 10)]
    for name, low, n, switch in itertools.product(("ddim", "dpm++2m"), range(1, levels), (10, 20, 40), switches):
        ways.append(Way(name, n, (low, levels), switch=switch))
    return ways


def paper_ways(size: Size, levels: int, residual: bool = False) -> list[Way]:
    """Independent coins with the paper's probabilities, in Euler-type steps, on every ladder that ends at the top."""
    return [
        Way("ddim", n, part, budget, "independent", "impulse", "power")
        for budget in size.budgets for n in (50, 100, 200) for part in _parts(levels, residual) if n > budget
    ]  # fmt: skip


def candidates(
    budget: float, levels: int, tilts: Sequence[float], residual: bool = False, churn: float = 0.0
) -> list[Way]:
    """What the coins' settings are chosen from at one budget."""
    ways = []
    corrections = ("impulse", "hold", "extrapolate")
    samplers: list[tuple[str, tuple[float, ...]]] = [
        ("ddim", (3, 8)), ("ddim-log", (3, 8)), ("dpm++2m", (1.4, 2, 3)),
    ]  # fmt: skip
    if churn == 0:
        samplers.append(("dpm++3m", (1.4, 2, 3)))
    for sampler, multiples in samplers:
        for multiple, correction, tilt, part in itertools.product(
            multiples, corrections, tilts, _parts(levels, residual)
        ):
            steps = min(400, round(multiple * budget))
            ways.append(Way(sampler, steps, part, budget, "systematic", correction, tilt=tilt))
    return list(dict.fromkeys(ways))


def rivals(budget: float, costs: Sequence[float], churn: float) -> list[Way]:
    """Plain ways that a budget pays: the top level by each solver, each lower level alone, two levels stitched.

    Args:
        budget: in evaluations of the top level.
        costs: of the whole levels, the top's being 1.
        churn: 0 for the ODE.
    """
    steps, levels = max(2, math.floor(budget)), len(costs)
    names = ("ddim", "dpm++2m", "dpm++3m", "unipc") if churn == 0 else ("ddim", "dpm++2m", "ddpm")
    ways = [Way(name, steps, tuple(range(1, levels + 1))) for name in names]
    for k in range(1, levels):
        ways.append(Way("dpm++2m", min(80, max(2, math.floor(budget / costs[k - 1]))), (k,)))
        for switch in (0.3, 0.5, 0.7):
            price = switch * costs[k - 1] + 1.0 - switch
            ways.append(Way("dpm++2m", max(2, math.floor(budget / price)), (k, levels), switch=switch))
    return ways


def _parts(levels: int, residual: bool) -> list[tuple[int, ...]]:
    """The whole ladder, and each lower level with the top; residual nets cannot leave out those they add to."""
    if residual:
        return [tuple(range(1, levels + 1))]
    whole = tuple(range(1, levels + 1))
    return list(dict.fromkeys([whole, *((k, levels) for k in range(1, levels))]))


class Benchmark:
    """A benchmark of one ladder on one equation.

    Args:
        ladder: the nets.
        name: of the ladder, for the manifest.
        size: of the benchmark.
        folder: of the pieces; ``None`` keeps none.
        report: called with a line as each piece is done.
    """

    def __init__(
        self,
        ladder: TrainedLadder,
        name: str,
        size: Size,
        *,
        folder: str | Path | None = None,
        report: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self.ladder, self.name, self.size, self._report = ladder, name, size, report
        held_out = [round(error, 6) for error in ladder.about.held_out]
        self._chunks = Results(folder, {"ladder": name, "held_out": held_out, "size": asdict(size)})
        self._arenas: dict[str, Arena] = {}

    def arena(self, place: str = "main") -> Arena:
        """Where ways meet: ``"main"``, ``"tuning"`` or ``"choosing"``, each with states and a path of its own."""
        size = self.size
        if place not in self._arenas:
            samples = {"main": size.samples, "tuning": size.tuning_samples, "choosing": size.choosing_samples}[place]
            self._arenas[place] = Arena(
                self.ladder, churn=size.churn, unit=size.unit, reference_steps=size.reference_steps, samples=samples,
                seed=size.seed + {"main": 0, "tuning": 1000, "choosing": 2000}[place],
            )  # fmt: skip
        return self._arenas[place]

    def row(self, way: Way, seeds: int = 1, *, place: str = "main") -> dict[str, Any]:
        """Run a way with so many seeds of its coins; errors of each, means of the rest."""

        def compute() -> dict[str, Any]:
            runs: list[dict[str, Any]] = []
            for seed in range(seeds):
                try:
                    runs.append(self.arena(place).measure(way, seed).as_dict())
                except ValueError as error:
                    if way.budget is None:
                        raise
                    return {"refused": str(error)}  # a budget that does not pay for a single firing
            told: dict[str, Any] = {name: [run[name] for run in runs] for name in _MEASURES}
            for name in ("cost", "seconds"):
                told[name] = float(np.mean([run[name] for run in runs]))
            told["evaluations"] = np.mean([run["evaluations"] for run in runs], axis=0).tolist()
            return told

        kept = self._chunks.result(f"{place}_{way.key}_x{seeds}", compute)
        found = {"way": asdict(way), "words": str(way), **kept}
        if "refused" in found:
            self._report(f"{place}: {way}: left out, {found['refused']}")
        else:
            found["error"] = float(np.sqrt(np.mean(np.square(found["rmse"]))))
            found["typical error"] = float(np.exp(np.mean(np.log(found["typical"]))))
            found["spread"] = float(np.std(found["rmse"]))
            self._report(f"{place}: {way}: cost {found['cost']:.3g}, error {found['error']:.4g}")
        return found

    def rows(self, ways: Iterable[Way], seeds: int = 1, *, place: str = "main") -> list[dict[str, Any]]:
        """Run many; those that cannot be had at their budget are left out."""
        found = [self.row(way, seeds, place=place) for way in ways]
        return [row for row in found if "refused" not in row]

    def reference_error(self) -> float:
        """Distance of the reference to one of two thirds of its steps."""

        def compute() -> dict[str, Any]:
            arena = self.arena()
            steps = 2 * self.size.reference_steps // 3
            return {"distance": float((arena.fine(steps) - arena.reference).square().mean().sqrt())}

        return float(self._chunks.result("reference", compute)["distance"])

    def seconds(self) -> list[float]:
        """Wall-clock of each level's own net for one image, at the batch of the comparison."""
        found = self._chunks.result("seconds", lambda: {"seconds": list(self.arena().seconds())})
        return [float(value) for value in found["seconds"]]

    def tuned(self, budget: float) -> Way:
        """The settings of the coins at a budget: the best on the samples of the tuning meet again on others."""
        size = self.size
        ways = candidates(budget, len(self.ladder), size.tilts, self.ladder.about.residual, size.churn)
        rows = self.rows(ways, place="tuning")
        within = [row for row in rows if row["cost"] <= 1.1 * budget] or rows
        best = sorted(within, key=_typical)[:_FINALISTS]
        again = self.rows([_way(row) for row in best], _FINAL_SEEDS, place="choosing")
        return _way(min(again, key=_typical))

    def chosen(self, budget: float, tuned: Way) -> Way:
        """The method to run at a budget: the tuned coins, or the best plain way that it pays.

        Coins only if they miss less on the samples of the choice, both typically and in the root mean square.
        """
        costs = self.arena().costs
        if self.ladder.about.residual:  # a level pays for those that it adds to
            costs = tuple(np.cumsum(costs).tolist())
        plain = self.rows(rivals(budget, costs, self.size.churn), place="choosing")
        coins, best = self.row(tuned, _FINAL_SEEDS, place="choosing"), min(plain, key=_typical)
        wins = all(coins[name] < min(row[name] for row in plain) for name in ("error", "typical error"))
        return tuned if wins else _way(best)

    def result(self) -> dict[str, Any]:
        """Run everything."""
        size, levels = self.size, len(self.ladder)
        arena = self.arena()
        plain = self.rows(plain_ways(size, levels))
        paper = self.rows(paper_ways(size, levels, self.ladder.about.residual), size.seeds)
        patterns = self.rows(self._best_at_each_budget(paper), size.patterns)
        ours, choices, full = [], [], []
        for budget in size.budgets:
            tuned = self.tuned(budget)
            ours.append(self.row(tuned, size.seeds))
            full.append(self.row(Way(tuned.sampler, tuned.steps, tuple(range(1, levels + 1)))))
            choice = self.chosen(budget, tuned)
            choices.append(self.row(choice, size.seeds if choice.budget is not None else 1))
        return {
            "ladder": self.name,
            "levels": {"megaflops": self.ladder.about.megaflops, "held_out": self.ladder.about.held_out},
            "size": asdict(size),
            "costs": arena.costs,
            "seconds": self.seconds(),
            "variances": {"times": arena.variances.times.tolist(), "values": arena.variances.values.tolist()},
            "reference_error": self.reference_error(),
            "plain": plain,
            "paper": paper,
            "patterns": patterns,
            "ours": ours,
            "full": full,
            "chosen": choices,
        }

    def _best_at_each_budget(self, rows: list[dict[str, Any]]) -> list[Way]:
        at = [[row for row in rows if row["way"]["budget"] == budget] for budget in self.size.budgets]
        return [_way(min(group, key=lambda row: float(row["error"]))) for group in at if group]


def repriced(result: dict[str, Any]) -> dict[str, Any]:
    """The same rows at the prices of the clock: evaluations times the measured seconds of each level."""
    seconds = np.array(result["seconds"])
    # a residual ladder pays for all its nets at the top, whose prices add up to 1
    costs = seconds / (seconds.sum() if math.isclose(sum(result["costs"]), 1.0) else seconds[-1])

    def again(row: dict[str, Any]) -> dict[str, Any]:
        return row | {"cost": float(np.array(row["evaluations"]) @ costs)}

    rows = {
        name: [again(row) for row in result[name]] for name in ("plain", "paper", "patterns", "ours", "full", "chosen")
    }
    return result | rows | {"costs": costs.tolist()}


def _way(row: dict[str, Any]) -> Way:
    kept = dict(row["way"])
    return Way(**(kept | {"levels": tuple(kept["levels"])}))


def keep(results: Sequence[dict[str, Any]], folder: str | Path) -> None:
    """Write the settings that benchmarks chose beside their ladder, where ``mlsde sample`` looks for them.

    Args:
        results: of one ladder, in FLOPs; one for each equation.
        folder: of the ladder.
    """
    page = Path(folder) / "ladder.json"
    about = json.loads(page.read_text(encoding="utf-8"))
    tuned = dict(about.get("tuned") or {})
    for result in results:
        tuned["ode" if result["size"]["churn"] == 0 else "sde"] = [row["way"] for row in result["ours"]]
    write_atomically(page, json.dumps(about | {"tuned": tuned}, indent=2) + "\n")


def _typical(row: dict[str, Any]) -> float:
    return float(row["typical error"])


def frontier(rows: Sequence[dict[str, Any]], name: str = "error") -> tuple[np.ndarray, np.ndarray]:
    """Costs, and the least error that any of the rows has at or below each.

    Args:
        rows: of a benchmark.
        name: of the error: ``"error"``, the root mean square, or ``"typical error"``.
    """
    ordered = sorted(rows, key=lambda row: float(row["cost"]))
    costs = np.array([row["cost"] for row in ordered])
    return costs, np.minimum.accumulate([row[name] for row in ordered])


def cost_at(rows: Sequence[dict[str, Any]], error: float, name: str = "error") -> float:
    """Cost at which the rows' frontier comes down to an error, interpolated in logarithms; infinite if it does not."""
    costs, errors = frontier(rows, name)
    below = np.flatnonzero(errors <= error)
    if not len(below):
        return math.inf
    i = int(below[0])
    if i == 0 or errors[i] == errors[i - 1]:
        return float(costs[i])
    part = (math.log(errors[i - 1]) - math.log(error)) / (math.log(errors[i - 1]) - math.log(errors[i]))
    return float(np.exp(np.log(costs[i - 1]) + part * (np.log(costs[i]) - np.log(costs[i - 1]))))
