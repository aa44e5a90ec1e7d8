"""What the benchmark found, as a table for people and numbers for machines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mlsde.bench.contenders import BARE, DIFFUSION, ONE_LEVEL, PATH, STEP, TORCHSDE
from mlsde.bench.memory import Memory

Quartiles = tuple[float, float, float]


@dataclass(frozen=True)
class Timing:
    """Runs of one contender with one ladder at one shape of the state.

    Attributes:
        shape: shape of the state.
        contender: a key of :data:`mlsde.bench.CONTENDERS`.
        steps: steps of each run.
        evaluations: evaluations of each level in a run, cheapest first.
        seconds: wall-clock of each run.
        drift_seconds: what as many evaluations took by themselves, measured beside each run.
        compile_seconds: what compiling took, once and apart; ``None`` if nothing is compiled.
        peak: most bytes that a run held at once beyond what the process held before it; ``None`` if the system does
            not tell.
    """

    shape: tuple[int, ...]
    contender: str
    steps: int
    evaluations: tuple[int, ...]
    seconds: tuple[float, ...]
    drift_seconds: tuple[float, ...]
    compile_seconds: float | None = None
    peak: int | None = None

    @property
    def microseconds(self) -> Quartiles:
        """Lower quartile, median and upper quartile of the wall-clock per step."""
        return self._quartiles(np.array(self.seconds))

    @property
    def overhead(self) -> Quartiles:
        """Those of the wall-clock per step besides the evaluations of the drift: noise, update, and all around them."""
        return self._quartiles(np.array(self.seconds) - np.array(self.drift_seconds))

    def _quartiles(self, seconds: np.ndarray) -> Quartiles:
        low, middle, high = np.percentile(seconds, [25, 50, 75]) / self.steps * 1e6
        return float(low), float(middle), float(high)

    def as_dict(self) -> dict[str, Any]:
        """Numbers for JSON."""
        return {**asdict(self), "microseconds_per_step": self.microseconds, "overhead_per_step": self.overhead}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Timing:
        """Return the timing that :meth:`as_dict` wrote."""
        return cls(
            tuple(data["shape"]), data["contender"], data["steps"], tuple(data["evaluations"]), tuple(data["seconds"]),
            tuple(data["drift_seconds"]), data["compile_seconds"], data["peak"],
        )  # fmt: skip


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

_TIMING_HEADER = (
    "state", "contender", "us per step", "quartiles", "x bare loop", "besides the drift", "runs", "drift evaluations",
    "compiled in (s)", "peak (MiB)",
)  # fmt: skip
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

    def figure(self, file: str) -> str:
        """Draw how many times the bare loop's a step of each contender costs; returns the file's name."""
        from mlsde import drawing  # noqa: PLC0415, matplotlib is imported when it is asked for

        names = tuple(dict.fromkeys(t.contender for t in self.timings))
        canvas = drawing.canvas(9.0, 1.2 + 0.42 * len(names))
        axes = canvas.subplots()
        for i, shape in enumerate(self.shapes):
            found = [t for t in self.timings if t.shape == shape]
            bare = next(t.microseconds[1] for t in found if t.contender == BARE)
            rows = [names.index(t.contender) + 0.2 * (i - 1) for t in found]
            middle = [t.microseconds[1] / bare for t in found]
            spread = [
                [(t.microseconds[1] - t.microseconds[0]) / bare for t in found],
                [(t.microseconds[2] - t.microseconds[1]) / bare for t in found],
            ]
            axes.errorbar(
                middle, rows, xerr=spread, fmt="o", color=drawing.COLOURS[i + 1], markersize=5, label=f"state {shape}"
            )
        axes.axvline(1.0, color="grey", linewidth=0.8)
        axes.set(xscale="log", xlabel="a step, times the bare loop's")
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.legend(frameon=False)
        return drawing.save(canvas, file)

    def as_dict(self) -> dict[str, Any]:
        """Numbers for JSON: every run, and what the tables say."""
        return {
            "equation": {"drift": "-y", "diffusion": DIFFUSION, "step": STEP, "method": "euler"},
            "dtype": "float32",
            "threads": 1,
            "seed": self.seed,
            "timings": [{**t.as_dict(), "over_bare": self.ratio(t.shape, t.contender, BARE)} for t in self.timings],
            "figures": [{**asdict(figure), "verdict": figure.verdict} for figure in self.figures],
            "memory": [{**asdict(run), "constant": run.constant} for run in self.memory],
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> CoreBenchmark:
        """Return the result that :meth:`as_dict` wrote."""
        timings = map(Timing.from_dict, data["timings"])
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
        return [(str(t.shape), *cells(t, self.ratio(t.shape, t.contender, BARE))) for t in self.timings]

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


def cells(t: Timing, over_bare: float | None) -> tuple[str, ...]:
    """What the tables say of a timing, its ratio to the bare loop given."""
    low, middle, high = t.microseconds
    return (
        t.contender, short(middle), f"{short(low)} to {short(high)}", "-" if over_bare is None else f"{over_bare:.2f}",
        short(t.overhead[1]), str(len(t.seconds)), evaluated(t.evaluations),
        "-" if t.compile_seconds is None else f"{t.compile_seconds:.1f}", mebibytes(t.peak),
    )  # fmt: skip


def evaluated(evaluations: Sequence[float]) -> str:
    """Evaluations of the levels that have any, cheapest first."""
    return " + ".join(f"{round(count):,}" for count in evaluations if count > 0)


def mebibytes(size: float | None) -> str:
    """A size in MiB, or a dash."""
    return "-" if size is None else f"{size / 2**20:.2f}"


def short(microseconds: float) -> str:
    """Microseconds, to a tenth where they are few."""
    return f"{microseconds:,.0f}" if abs(microseconds) >= 100 else f"{microseconds:.1f}"


def aligned(header: Row, rows: Sequence[Row]) -> list[str]:
    """Columns of even width, for a terminal."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    return [
        "  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in (header, *rows)
    ]


def piped(header: Row, rows: Sequence[Row]) -> list[str]:
    """A table in Markdown."""
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]
