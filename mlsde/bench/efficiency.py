"""How much of the saving that evaluation counts promise the clock sees, and what a step of a ladder costs besides."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

import mlsde
from mlsde import checks
from mlsde.bench.contenders import bare_loop
from mlsde.bench.results import aligned, piped
from mlsde.bench.timing import one_thread
from mlsde.progress import bar

_RATIO, _PROBABILITIES = (1.0, 8.0, 64.0), (1.0, 0.25, 0.0625)
_STATE = (64, 64)
"""Samples and numbers in the states of the busy levels."""


VARIED: Mapping[str, Sequence[int]] = {
    "steps": (100, 1000, 10_000), "levels": (1, 2, 3, 5), "samples": (1, 100, 10_000), "numbers": (1, 10, 100),
}  # fmt: skip
"""What is varied for the price of a step; what is not is 1000 steps, 3 levels, 100 samples of 10 numbers."""


class BusyLevel:
    """A level that works: ``-y`` and a little of what so many products with a matrix make of ``y``.

    Args:
        products: number of matrix products.
        numbers: in the state of a sample.
        size: of the little, by which levels differ.
    """

    def __init__(self, products: int, numbers: int, size: float) -> None:
        self.products, self._size = products, size
        generator = torch.Generator().manual_seed(0)
        self._matrix = torch.randn(numbers, numbers, generator=generator) / math.sqrt(numbers)

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        """Evaluate."""
        matrix, hidden = self._matrix.to(y), y
        for _ in range(self.products):
            hidden = torch.tanh(hidden @ matrix)
        return torch.add(-y, hidden, alpha=self._size)


def busy_ladder(milliseconds: float, y: Tensor, ratio: Sequence[float] = _RATIO) -> mlsde.DriftHierarchy:
    """A ladder whose cheapest level takes about so long at a state, the others so many times as long.

    Args:
        milliseconds: of one evaluation of the cheapest.
        y: the state, shape ``(samples, numbers)``.
        ratio: prices over the cheapest's.
    """
    trial, t = BusyLevel(20, y.shape[1], 0.1), torch.zeros(())
    each = min(_timed(lambda: trial(t, y)) for _ in range(5)) / 20
    least = max(1, round(1e-3 * milliseconds / each))
    levels = [BusyLevel(round(least * r), y.shape[1], 0.1 / (k + 1)) for k, r in enumerate(ratio)]
    return mlsde.DriftHierarchy(levels, [float(r) for r in ratio])


@dataclass(frozen=True)
class Efficiency:
    """Wall-clock of a multilevel run beside that of the top level at every step.

    Attributes:
        coins: whose: ``"batch"`` or ``"sample"``.
        samples: in the batch.
        milliseconds: of one evaluation of the cheapest level for the batch, the median over the repeats.
        promised: speed-up that the evaluations promise at the measured prices of the levels, in each repeat.
        measured: that of the clock, in each repeat.
    """

    coins: str
    samples: int
    milliseconds: float
    promised: tuple[float, ...]
    measured: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """Efficiency: the measured speed-up over the promised, the median over the repeats."""
        return float(np.median(np.array(self.measured) / np.array(self.promised)))


@dataclass(frozen=True)
class StepPrice:
    """What a step costs besides its evaluations, as nearly as levels that cost nothing tell.

    Attributes:
        varied: what was varied: ``"steps"``, ``"levels"``, ``"samples"`` or ``"numbers"``.
        value: its value.
        bare: microseconds per step of a bare loop with one evaluation.
        ladder: those of a multilevel run whose levels are as cheap.
    """

    varied: str
    value: int
    bare: float
    ladder: float


@dataclass(frozen=True)
class EfficiencyBenchmark:
    """Result of :func:`efficiency`. It prints as tables.

    Attributes:
        runs: efficiencies, by the price of the cheapest level and by whose coins.
        steps: prices of a step.
        repeats: of each.
    """

    runs: tuple[Efficiency, ...]
    steps: tuple[StepPrice, ...]
    repeats: int

    def as_dict(self) -> dict[str, Any]:
        """Numbers for JSON."""
        runs = [{**asdict(run), "efficiency": run.ratio} for run in self.runs]
        return {"runs": runs, "steps": [asdict(step) for step in self.steps], "repeats": self.repeats}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> EfficiencyBenchmark:
        """Return the result that :meth:`as_dict` wrote."""
        runs = [
            Efficiency(r["coins"], r["samples"], r["milliseconds"], tuple(r["promised"]), tuple(r["measured"]))
            for r in data["runs"]
        ]
        return cls(tuple(runs), tuple(StepPrice(**step) for step in data["steps"]), data["repeats"])

    def __repr__(self) -> str:
        return "\n".join([*aligned(_RUNS, self._run_rows()), "", *aligned(_STEPS, self._step_rows())])

    def markdown(self) -> str:
        """The same as tables in Markdown."""
        return "\n".join([*piped(_RUNS, self._run_rows()), "", *piped(_STEPS, self._step_rows())])

    def _run_rows(self) -> list[tuple[str, ...]]:
        return [
            (
                "the batch's" if run.coins == "batch" else "each sample's", str(run.samples), f"{run.milliseconds:.3g}",
                f"{np.median(run.promised):.2f}", f"{np.median(run.measured):.2f}", f"{run.ratio:.2f}",
            )
            for run in self.runs
        ]  # fmt: skip

    def _step_rows(self) -> list[tuple[str, ...]]:
        return [
            (step.varied, f"{step.value:,}", f"{step.bare:.1f}", f"{step.ladder:.1f}", f"{step.ladder - step.bare:.1f}")
            for step in self.steps
        ]

    def figure(self, file: str) -> str:
        """Draw efficiency against the price of the cheapest level, and the price of a step; returns the file's name."""
        from mlsde import drawing  # noqa: PLC0415, matplotlib is imported when it is asked for

        canvas = drawing.canvas(13.0, 3.8)
        left, middle, right = canvas.subplots(1, 3)
        rows = sorted((run.milliseconds, run.ratio) for run in self.runs if run.coins == "batch" and run.samples == 64)
        left.plot(*zip(*rows, strict=True), marker="o", color=drawing.COLOURS[1])
        left.set(xscale="log", xlabel="ms of the cheapest level, 64 samples", ylabel="efficiency")
        for i, coins in enumerate(("batch", "sample")):
            found = {run.samples: run.ratio for run in self.runs if run.coins == coins and run.milliseconds > 0.5}
            label = "coins of the batch" if coins == "batch" else "coins of each sample"
            middle.plot(
                *zip(*sorted(found.items()), strict=True), marker="o", color=drawing.COLOURS[i + 1], label=label
            )
        middle.set(xscale="log", xlabel="samples, cheapest level of 1 ms", ylabel="efficiency")
        middle.legend(frameon=False, loc="lower right")
        for axes in (left, middle):
            axes.axhline(1.0, color="grey", linewidth=0.8)
            axes.set_ylim(0, 1.15)
        for i, varied in enumerate(dict.fromkeys(step.varied for step in self.steps)):
            points = [(step.value, step.ladder) for step in self.steps if step.varied == varied]
            right.plot(*zip(*points, strict=True), marker="o", color=drawing.COLOURS[i], label=varied)
        right.set(xscale="log", yscale="log", xlabel="how many", ylabel="microseconds a step")
        right.legend(frameon=False)
        return drawing.save(canvas, file)


_RUNS = ("coins", "samples", "ms of the cheapest level", "promised", "by the clock", "efficiency")
_STEPS = ("varied", "value", "bare loop, us per step", "ladder of 3, us per step", "more")


def efficiency(
    repeats: int = 5,
    *,
    milliseconds: Sequence[float] = (0.1, 0.3, 1.0, 3.0),
    samples: Sequence[int] = (8, 64, 512),
    steps: int = 32,
    varied: Mapping[str, Sequence[int]] = VARIED,
    progress: bool = False,
) -> EfficiencyBenchmark:
    """Measure how much of the promised saving the clock sees.

    Levels that work (products with a matrix, 1, 8 and 64 times as many) are run at the given prices, with coins of the
    batch and of each sample; the top level alone, the ladder, and single evaluations take turns in one process and one
    thread, so that a busy neighbour slows them alike.

    Args:
        repeats: of everything; medians are shown.
        milliseconds: of the cheapest level, at 64 samples and coins of the batch.
        samples: batches of the comparison of whose coins, at one millisecond.
        steps: of each run of levels that work, a multiple of 16.
        varied: what is varied for the price of a step, by the names of :class:`StepPrice`, and its values.
        progress: show a bar.

    Returns:
        An :class:`EfficiencyBenchmark`.
    """
    checks.positive_integer("repeats", repeats)
    checks.positive_integer("steps", steps)
    cases = [("batch", _STATE[0], checks.positive_number("milliseconds", price)) for price in milliseconds]
    for count in samples:
        cases += [(whose, checks.positive_integer("samples", count), 1.0) for whose in ("batch", "sample")]
    sizes = [(name, checks.positive_integer(name, value)) for name, values in varied.items() for value in values]
    with one_thread(), bar(total=len(cases) + len(sizes), disable=not progress, unit="case") as shown:
        runs = []
        for whose, count, price in cases:
            runs.append(_efficiency(whose, count, price, steps, repeats))
            shown.update()
        prices = []
        for name, value in sizes:
            prices.append(_step_price(name, value, repeats))
            shown.update()
    return EfficiencyBenchmark(tuple(runs), tuple(prices), repeats)


def _efficiency(whose: str, samples: int, milliseconds: float, steps: int, repeats: int) -> Efficiency:
    y0 = torch.ones(samples, _STATE[1])
    drift = busy_ladder(milliseconds, y0)
    sde = mlsde.SDE(drift, 0.5)
    rule = mlsde.Multilevel(mlsde.Constant(_PROBABILITIES), share=whose)
    promised, measured, cheapest = [], [], []
    for seed in range(-1, repeats):  # the first is not counted
        full, top = _run(sde, y0, steps, max(0, seed), None)
        ladder, counts = _run(sde, y0, steps, max(0, seed), rule)
        prices = np.array(drift.measured(0.0, y0, repeats=3).costs) * samples
        if seed >= 0:
            promised.append(float((np.array(top) @ prices) / (np.array(counts) @ prices)))
            measured.append(full / ladder)
            cheapest.append(1e3 * float(prices[0]))
    return Efficiency(whose, samples, float(np.median(cheapest)), tuple(promised), tuple(measured))


def _run(
    sde: mlsde.SDE, y0: Tensor, steps: int, seed: int, rule: mlsde.Multilevel | None
) -> tuple[float, tuple[float, ...]]:
    begin = time.perf_counter()
    found = mlsde.solve(sde, y0, (0.0, 1.0), steps=steps, seed=seed, multilevel=rule)
    return time.perf_counter() - begin, found.stats.evaluations


def _step_price(varied: str, value: int, repeats: int) -> StepPrice:
    """Medians of interleaved runs; what is not varied is 1000 steps, 3 levels, 100 samples of 10 numbers."""
    size = {"steps": 1000, "levels": 3, "samples": 100, "numbers": 10} | {varied: value}
    y0 = torch.ones(size["samples"], size["numbers"])
    probabilities = [0.25**k for k in range(size["levels"])]
    sde = mlsde.SDE(mlsde.DriftHierarchy([_cheap] * size["levels"]), 0.5)
    rule = mlsde.Multilevel(mlsde.Constant(probabilities))
    bare, ladder = [], []
    for seed in range(repeats):
        bare.append(_timed(lambda seed=seed: bare_loop(_cheap, y0, size["steps"], seed)))  # type: ignore[misc]
        ladder.append(_run(sde, y0, size["steps"], seed, rule)[0])
    each = [1e6 * float(np.median(seconds)) / size["steps"] for seconds in (bare, ladder)]
    return StepPrice(varied, value, *each)


def _cheap(t: Tensor, y: Tensor) -> Tensor:
    return -y


def _timed(work: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin
