"""What the benchmark found, as a table for people and numbers for machines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mlsde.bench.contenders import BARE, DIFFUSION, ONE_LEVEL, PATH, STEP, TORCHSDE
from mlsde.bench.memory import Memory


@dataclass(frozen=True)
class Timing:
    """Runs of one contender at one shape of the state.

    Attributes:
        shape: shape of the state.
        contender: a key of :data:`mlsde.bench.CONTENDERS`.
        steps: steps of each run.
        evaluations: drift evaluations of each run.
        seconds: wall-clock of each run.
    """

    shape: tuple[int, ...]
    contender: str
    steps: int
    evaluations: int
    seconds: tuple[float, ...]

    @property
    def microseconds(self) -> tuple[float, float, float]:
        """Lower quartile, median and upper quartile of the wall-clock per step."""
        low, middle, high = np.percentile(self.seconds, [25, 50, 75]) / self.steps * 1e6
        return float(low), float(middle), float(high)


@dataclass(frozen=True)
class Figure:
    """A figure that the package holds itself to.

    Attributes:
        what: what is measured.
        measured: ratio of medians; ``None`` if a contender or shape was left out.
        limit: the number it must keep.
        at_least: whether ``limit`` is the least (a speed-up) or the most (a price).
    """

    what: str
    measured: float | None
    limit: float
    at_least: bool = False

    @property
    def met(self) -> bool | None:
        """Whether it is met; ``None`` if it was not measured."""
        if self.measured is None:
            return None
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit

    @property
    def verdict(self) -> str:
        """``"met"``, ``"missed"`` or ``"not measured"``."""
        return {True: "met", False: "missed", None: "not measured"}[self.met]


Row = Sequence[str]
Layout = Callable[[Row, Sequence[Row]], list[str]]

_AT_MOST = (
    (ONE_LEVEL, (1, 1), 2.5),
    (ONE_LEVEL, (1000, 10), 1.3),
    (ONE_LEVEL, (10_000, 64), 1.1),
    (PATH, (1000, 10), 2.0),
)
_TORCHSDE_OVER_PATH = 4.0

_TIMING_HEADER = ("state", "contender", "us per step", "quartiles", "x bare loop", "runs", "drift evaluations")
_FIGURE_HEADER = ("figure", "limit", "measured", "")
_MEMORY_HEADER = ("steps", "held before the first (B/step)", "growth (B/step)", "change in live tensors", "")


@dataclass(frozen=True)
class CoreBenchmark:
    """Result of :func:`mlsde.bench.core`. It prints as tables.

    Attributes:
        timings: one entry per shape and contender.
        memory: one entry per length of run; empty if it was left out.
        seed: seed of the runs.
        notes: what was left out, and why.
    """

    timings: tuple[Timing, ...]
    memory: tuple[Memory, ...]
    seed: int
    notes: tuple[str, ...] = ()

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the state, in order."""
        return tuple(dict.fromkeys(timing.shape for timing in self.timings))

    @property
    def figures(self) -> tuple[Figure, ...]:
        """The figures, each with what was measured."""
        prices = [
            Figure(f"{name} / {BARE} at {shape}", self.ratio(shape, name, BARE), limit)
            for name, shape, limit in _AT_MOST
        ]
        gains = [
            Figure(f"{TORCHSDE} / {PATH} at {shape}", self.ratio(shape, TORCHSDE, PATH), _TORCHSDE_OVER_PATH, True)
            for shape in self.shapes
        ]
        return (*prices, *gains)

    @property
    def met(self) -> bool:
        """Whether every figure was measured and met, and memory did not grow."""
        return all(figure.met is True for figure in self.figures) and all(run.constant for run in self.memory)

    def ratio(self, shape: tuple[int, ...], contender: str, other: str) -> float | None:
        """Median of one contender over that of another; ``None`` if either was left out."""
        medians = {t.contender: t.microseconds[1] for t in self.timings if t.shape == tuple(shape)}
        if contender not in medians or other not in medians:
            return None
        return medians[contender] / medians[other]

    def __repr__(self) -> str:
        return "\n".join([self._heading(), *self._tables(aligned), *self.notes]).rstrip()

    def markdown(self) -> str:
        """The same as tables in Markdown."""
        return "\n".join([self._heading() + "\n", *self._tables(piped), *self.notes]).rstrip()

    def as_dict(self) -> dict[str, Any]:
        """Numbers for JSON: every run, and what the tables say."""
        return {
            "equation": {"drift": "-y", "diffusion": DIFFUSION, "step": STEP, "method": "euler"},
            "dtype": "float32",
            "threads": 1,
            "seed": self.seed,
            "timings": [
                {
                    **asdict(t),
                    "microseconds_per_step": t.microseconds,
                    "over_bare": self.ratio(t.shape, t.contender, BARE),
                }
                for t in self.timings
            ],
            "figures": [{**asdict(figure), "verdict": figure.verdict} for figure in self.figures],
            "memory": [{**asdict(run), "constant": run.constant} for run in self.memory],
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> CoreBenchmark:
        """Return the result that :meth:`as_dict` wrote."""
        timings = [
            Timing(tuple(t["shape"]), t["contender"], t["steps"], t["evaluations"], tuple(t["seconds"]))
            for t in data["timings"]
        ]
        runs = [Memory(m["steps"], m["held"], m["growth"], m["tensors"]) for m in data["memory"]]
        return cls(tuple(timings), tuple(runs), data["seed"], tuple(data["notes"]))

    def _heading(self) -> str:
        steps = ", ".join(f"{steps:,}" for steps in sorted({timing.steps for timing in self.timings}))
        return (
            f"dY = -Y dt + {DIFFUSION:g} dW by Euler-Maruyama, {steps} steps of 2^-10, float32, one thread; "
            "medians of interleaved runs in one process, with quartiles."
        )

    def _tables(self, layout: Layout) -> list[str]:
        lines = [*layout(_TIMING_HEADER, self._timing_rows()), ""]
        lines += [*layout(_FIGURE_HEADER, self._figure_rows()), ""]
        if self.memory:
            lines += [*layout(_MEMORY_HEADER, self._memory_rows()), ""]
        return lines

    def _timing_rows(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = []
        for t in self.timings:
            low, middle, high = t.microseconds
            over = self.ratio(t.shape, t.contender, BARE)
            price = "-" if over is None else f"{over:.2f}"
            quartiles = f"{_short(low)} to {_short(high)}"
            runs, count = str(len(t.seconds)), f"{t.evaluations:,}"
            rows.append((str(t.shape), t.contender, _short(middle), quartiles, price, runs, count))
        return rows

    def _figure_rows(self) -> list[tuple[str, ...]]:
        return [
            (
                figure.what,
                f"{'at least' if figure.at_least else 'at most'} {figure.limit:g}",
                "-" if figure.measured is None else f"{figure.measured:.2f}",
                figure.verdict,
            )
            for figure in self.figures
        ]

    def _memory_rows(self) -> list[tuple[str, ...]]:
        return [
            (
                f"{run.steps:,}",
                f"{run.held:.1f}",
                f"{run.growth:.3f}",
                str(run.tensors),
                "does not grow" if run.constant else "grows",
            )
            for run in self.memory
        ]


def _short(microseconds: float) -> str:
    return f"{microseconds:,.0f}" if microseconds >= 100 else f"{microseconds:.1f}"


def aligned(header: Row, rows: Sequence[Row]) -> list[str]:
    """Columns of even width, for a terminal."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    return [
        "  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in (header, *rows)
    ]


def piped(header: Row, rows: Sequence[Row]) -> list[str]:
    """A table in Markdown."""
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]
