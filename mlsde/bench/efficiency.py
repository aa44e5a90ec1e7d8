"""How much of the saving that evaluation counts promise the clock sees, and what it holds in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

import mlsde
from mlsde import checks
from mlsde.bench.levels import busy_ladder, clock
from mlsde.bench.memory import peak_bytes
from mlsde.bench.results import aligned, mebibytes, piped
from mlsde.bench.timing import one_thread
from mlsde.progress import bar

_PROBABILITIES = (1.0, 0.25, 0.0625)
_STATE = (64, 64)
"""Samples and numbers in the states of the busy levels."""

_LONG = 0.9
"""Milliseconds of the cheapest level from which the machinery hardly matters."""


@dataclass(frozen=True)
class Efficiency:
    """Wall-clock of a multilevel run beside that of the top level at every step.

    Attributes:
        coins: whose: ``"batch"`` or ``"sample"``.
        samples: in the batch.
        milliseconds: of one evaluation of the cheapest level for the batch, the median over the repeats.
        promised: speed-up that the evaluations promise at the measured prices of the levels, in each repeat.
        measured: that of the clock, in each repeat.
        peak: most bytes that the multilevel run held at once; ``None`` if the system does not tell.
        peak_top: likewise of the run of the top level.
    """

    coins: str
    samples: int
    milliseconds: float
    promised: tuple[float, ...]
    measured: tuple[float, ...]
    peak: int | None = None
    peak_top: int | None = None

    @property
    def ratio(self) -> float:
        """Efficiency: the measured speed-up over the promised, the median over the repeats."""
        return float(np.median(np.array(self.measured) / np.array(self.promised)))


@dataclass(frozen=True)
class EfficiencyBenchmark:
    """Result of :func:`efficiency`. It prints as a table.

    Attributes:
        runs: efficiencies, by the price of the cheapest level and by whose coins.
        repeats: of each.
        device: on which.
    """

    runs: tuple[Efficiency, ...]
    repeats: int
    device: str = "cpu"

    def as_dict(self) -> dict[str, Any]:
        """Numbers for JSON."""
        runs = [{**asdict(run), "efficiency": run.ratio} for run in self.runs]
        return {"runs": runs, "repeats": self.repeats, "device": self.device}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> EfficiencyBenchmark:
        """Return the result that :meth:`as_dict` wrote."""
        runs = [
            Efficiency(
                r["coins"], r["samples"], r["milliseconds"], tuple(r["promised"]), tuple(r["measured"]), r["peak"],
                r["peak_top"],
            )
            for r in data["runs"]
        ]  # fmt: skip
        return cls(tuple(runs), data["repeats"], data["device"])

    @property
    def sentences(self) -> tuple[str, ...]:
        """What the runs say, as far as they were measured."""
        long = [run.ratio for run in self.runs if run.coins == "batch" and run.milliseconds > _LONG]
        own = {run.samples: run.ratio for run in self.runs if run.coins == "sample"}
        said = []
        if long:
            said.append(
                f"Where the cheapest level takes {_LONG:g} ms or more, the clock sees {min(long):.0%} of the promised "
                "saving or more with shared coins."
            )
        if own:
            few, many = min(own), max(own)
            said.append(
                f"With coins of each sample's own it sees {own[few]:.0%} at {few} samples and {own[many]:.0%} at "
                f"{many}."
            )
        return tuple(said)

    def __repr__(self) -> str:
        return "\n".join([*aligned(_RUNS, self._run_rows()), *self.sentences])

    def markdown(self) -> str:
        """The same in Markdown."""
        return "\n".join([*self.sentences, "", *piped(_RUNS, self._run_rows())]).lstrip()

    def _run_rows(self) -> list[tuple[str, ...]]:
        return [
            (
                "the batch's" if run.coins == "batch" else "each sample's", str(run.samples), f"{run.milliseconds:.3g}",
                f"{np.median(run.promised):.2f}", f"{np.median(run.measured):.2f}", f"{run.ratio:.2f}",
                mebibytes(run.peak), mebibytes(run.peak_top),
            )
            for run in self.runs
        ]  # fmt: skip

    def figure(self, file: str) -> str:
        """Draw efficiency against the price of the cheapest level and against the samples; returns the file's name."""
        from mlsde import drawing  # noqa: PLC0415, matplotlib is imported when it is asked for

        canvas = drawing.canvas(9.0, 3.8)
        left, right = canvas.subplots(1, 2)
        rows = sorted((run.milliseconds, run.ratio) for run in self.runs if run.coins == "batch" and run.samples == 64)
        left.plot(*zip(*rows, strict=True), marker="o", color=drawing.COLOURS[1])
        left.set(xscale="log", xlabel="ms of the cheapest level, 64 samples", ylabel="efficiency")
        for i, coins in enumerate(("batch", "sample")):
            found = {run.samples: run.ratio for run in self.runs if run.coins == coins and run.milliseconds > 0.5}
            label = "coins of the batch" if coins == "batch" else "coins of each sample"
            right.plot(*zip(*sorted(found.items()), strict=True), marker="o", color=drawing.COLOURS[i + 1], label=label)
        right.set(xscale="log", xlabel="samples, cheapest level of 1 ms", ylabel="efficiency")
        right.legend(frameon=False, loc="lower right")
        for axes in (left, right):
            axes.axhline(1.0, color="grey", linewidth=0.8)
            axes.set_ylim(0, 1.15)
        return drawing.save(canvas, file)


_RUNS = (
    "coins", "samples", "ms of the cheapest level", "promised", "by the clock", "efficiency", "peak (MiB)",
    "peak of the top level (MiB)",
)  # fmt: skip


def efficiency(
    repeats: int = 5,
    *,
    milliseconds: Sequence[float] = (0.1, 0.3, 1.0, 3.0),
    samples: Sequence[int] = (8, 64, 512),
    steps: int = 32,
    device: str = "cpu",
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
        device: of the state and the levels.
        progress: show a bar.

    Returns:
        An :class:`EfficiencyBenchmark`.
    """
    checks.positive_integer("repeats", repeats)
    checks.positive_integer("steps", steps)
    cases = [("batch", _STATE[0], checks.positive_number("milliseconds", price)) for price in milliseconds]
    for count in samples:
        cases += [(whose, checks.positive_integer("samples", count), 1.0) for whose in ("batch", "sample")]
    where = torch.device(device)
    with one_thread(), bar(total=len(cases), disable=not progress, unit="case") as shown:
        runs = []
        for whose, count, price in cases:
            runs.append(_efficiency(whose, count, price, steps, repeats, where))
            shown.update()
    return EfficiencyBenchmark(tuple(runs), repeats, device)


def _efficiency(
    whose: str, samples: int, milliseconds: float, steps: int, repeats: int, device: torch.device
) -> Efficiency:
    y0 = torch.ones(samples, _STATE[1], device=device)
    drift = busy_ladder(milliseconds, y0)
    sde = mlsde.SDE(drift, 0.5)
    rule = mlsde.Multilevel.named(mlsde.Constant(_PROBABILITIES), "systematic", "hold", whose)
    peak_top, peak = (_peak(sde, y0, steps, rule) for rule in (None, rule))
    promised, measured, cheapest = [], [], []
    for seed in range(repeats):
        full, top = _timed(sde, y0, steps, seed, None)
        ladder, counts = _timed(sde, y0, steps, seed, rule)
        prices = np.array(drift.measured(0.0, y0, repeats=3).costs) * samples
        promised.append(float((np.array(top) @ prices) / (np.array(counts) @ prices)))
        measured.append(full / ladder)
        cheapest.append(1e3 * float(prices[0]))
    return Efficiency(whose, samples, float(np.median(cheapest)), tuple(promised), tuple(measured), peak, peak_top)


def _peak(sde: mlsde.SDE, y0: Tensor, steps: int, rule: mlsde.Multilevel | None) -> int | None:
    """Of the second of two runs, the first of which may also load what stays."""
    peaks = [peak_bytes(lambda: _timed(sde, y0, steps, 0, rule), y0.device) for _ in range(2)]
    return peaks[-1]


def _timed(
    sde: mlsde.SDE, y0: Tensor, steps: int, seed: int, rule: mlsde.Multilevel | None
) -> tuple[float, tuple[float, ...]]:
    counts: list[tuple[float, ...]] = []

    def run() -> None:
        solution = mlsde.solve(sde, y0, (0.0, 1.0), steps=steps, seed=seed, multilevel=rule)
        counts.append(solution.stats.evaluations)

    return clock(run, y0.device), counts[0]
