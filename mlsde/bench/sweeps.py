"""How the price of a step grows: with steps, levels, samples, dimension, and the price of the drift."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mlsde import checks
from mlsde.bench import contenders
from mlsde.bench.contenders import BARE, HOLD, MULTILEVEL, ONE_LEVEL, PATH, STYLES, TREE
from mlsde.bench.levels import RATIO, BusyLevel, Drift, free
from mlsde.bench.results import Row, Timing, aligned, cells, evaluated, mebibytes, piped, short
from mlsde.bench.timing import one_thread, timed
from mlsde.progress import bar

BASE: Mapping[str, int] = {"steps": 1000, "levels": 3, "samples": 100, "numbers": 10, "products": 0}
"""The point around which one thing at a time is varied: 1000 steps, 3 levels, 100 samples of 10 numbers, and a drift
``-y`` at every level. With ``products`` the top level is so many products of the state with a matrix, and each level
below it an eighth of the next."""

VARIED: Mapping[str, Sequence[int]] = {
    "steps": (100, 1000, 10_000), "levels": (1, 2, 3, 5), "samples": (1, 100, 1000, 10_000), "numbers": (1, 10, 100),
    "products": (0, 1, 8, 64),
}  # fmt: skip

_MOST = 50_000_000
"""Numbers in a state times steps above which a tree of diffrax takes most of a minute a run, and is left out."""

_OURS = (ONE_LEVEL, PATH, *MULTILEVEL)

_LABELS = {
    "steps": "steps", "levels": "levels", "samples": "samples", "numbers": "numbers in the state of a sample",
    "products": "microseconds of an evaluation of the top level",
}  # fmt: skip


@dataclass(frozen=True)
class Point:
    """The contenders at one point.

    Attributes:
        varied: what was varied: ``"steps"``, ``"levels"``, ``"samples"``, ``"numbers"`` or ``"products"``.
        value: its value.
        price: seconds of one evaluation of the top level in torch.
        timings: of each contender that ran.
    """

    varied: str
    value: int
    price: float
    timings: tuple[Timing, ...]

    def timing(self, contender: str) -> Timing | None:
        """That of one contender; ``None`` if it was left out."""
        return next((t for t in self.timings if t.contender == contender), None)

    def over_bare(self, contender: str) -> float | None:
        """Median of a contender over that of the bare loop."""
        mine, bare = self.timing(contender), self.timing(BARE)
        return None if mine is None or bare is None else mine.microseconds[1] / bare.microseconds[1]


Cell = Callable[[Point, Timing], str]


@dataclass(frozen=True)
class ScalingBenchmark:
    """Result of :func:`scaling`. It prints as tables.

    Attributes:
        points: the base point as each of the quantities that are varied, and the others.
        repeats: of each contender at each point.
        device: on which.
        notes: what was left out, and why.
    """

    points: tuple[Point, ...]
    repeats: int
    device: str = "cpu"
    notes: tuple[str, ...] = ()

    @property
    def contenders(self) -> tuple[str, ...]:
        """Contenders that ran somewhere, in order."""
        ran = {t.contender for point in self.points for t in point.timings}
        return tuple(name for name in contenders.CONTENDERS if name in ran)

    def point(self, varied: str, value: int) -> Point:
        """One of the points.

        Raises:
            KeyError: if it was not measured.
        """
        for point in self.points:
            if (point.varied, point.value) == (varied, value):
                return point
        raise KeyError(f"{varied}={value} was not measured.")

    def as_dict(self) -> dict[str, Any]:
        """Numbers for JSON: every run."""
        points = [
            {"varied": p.varied, "value": p.value, "price": p.price, "timings": [t.as_dict() for t in p.timings]}
            for p in self.points
        ]
        return {
            "base": dict(BASE), "points": points, "repeats": self.repeats, "device": self.device,
            "notes": list(self.notes),
        }  # fmt: skip

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ScalingBenchmark:
        """Return the result that :meth:`as_dict` wrote."""
        points = [
            Point(p["varied"], p["value"], p["price"], tuple(map(Timing.from_dict, p["timings"])))
            for p in data["points"]
        ]
        return cls(tuple(points), data["repeats"], data["device"], tuple(data["notes"]))

    def __repr__(self) -> str:
        header = (
            "varied", "value", "contender", "us per step", "quartiles", "x bare loop", "besides the drift", "runs",
            "evaluations", "compiled in (s)", "peak (MiB)",
        )  # fmt: skip
        rows = [(p.varied, f"{p.value:,}", *cells(t, p.over_bare(t.contender))) for p in self.points for t in p.timings]
        return "\n".join([*aligned(header, rows), *self.sentences, *self.notes])

    @property
    def sentences(self) -> tuple[str, ...]:
        """What the base point and the prices of the drift say, as far as they were measured."""
        return tuple(sentence for sentence in (self._of_the_base(), self._of_the_price()) if sentence is not None)

    def _of_the_base(self) -> str | None:
        base = next((p for p in self.points if p.value == BASE[p.varied] and p.over_bare(ONE_LEVEL) is not None), None)
        if base is None:
            return None
        steps = {t.contender: t.microseconds[1] for t in base.timings}
        more = "; ".join(f"{short(steps[n] - steps[BARE])} us with {n}" for n in _OURS if n in steps)
        return f"At the base point a step takes {short(steps[BARE])} us in the bare loop, and so much more: {more}."

    def _of_the_price(self) -> str | None:
        points = sorted((p for p in self.points if p.varied == "products"), key=lambda p: p.price)
        quicker = {p.price: 1.0 / ratio for p in points if (ratio := p.over_bare(HOLD)) is not None}
        pays = [price for price in quicker if all(quicker[other] > 1 for other in quicker if other >= price)]
        if len(quicker) < 2 or not pays:
            return None
        return (
            f"Of the prices measured, the ladder with {HOLD.removeprefix('mlsde, ')} is quicker than a bare loop of "
            f"its top level from {short(1e6 * pays[0])} us an evaluation on, {quicker[pays[-1]]:.1f} times at "
            f"{short(1e6 * pays[-1])} us."
        )

    def markdown(self) -> str:
        """The same in Markdown: sentences, and four tables with a column for each contender."""

        def table(what: str, cell: Cell, varied: Sequence[str] = tuple(BASE)) -> list[str]:
            return [f"{what}\n", *piped(("varied", "value", *self.contenders), self._pivot(cell, varied)), ""]

        lines = [
            *(line for sentence in self.sentences for line in (sentence, "")),
            *table("Microseconds per step, and how many times the bare loop's:", _step),
            *table("Microseconds per step besides the evaluations of the drift:", lambda p, t: short(t.overhead[1])),
            *table("Peak memory of a run (MiB):", lambda p, t: mebibytes(t.peak)),
            *table("Evaluations of the levels:", lambda p, t: evaluated(t.evaluations), ("steps", "levels")),
        ]
        return "\n".join([*lines, *self.notes]).rstrip()

    def _pivot(self, cell: Cell, varied: Sequence[str]) -> list[Row]:
        rows: list[Row] = []
        for p in self.points:
            if p.varied not in varied:
                continue
            found = [p.timing(name) for name in self.contenders]
            value = f"{p.value:,}" if p.varied != "products" else f"{p.value} ({short(1e6 * p.price)} us)"
            rows.append((p.varied, value, *("" if t is None else cell(p, t) for t in found)))
        return rows

    def figure(self, file: str) -> str:
        """Draw microseconds per step against each of what was varied, with quartiles; returns the file's name."""
        from mlsde import drawing  # noqa: PLC0415, matplotlib is imported when it is asked for

        canvas = drawing.canvas(13.0, 7.4)
        panels = canvas.subplots(2, 3, sharey=True).ravel()
        for axes, varied in zip(panels, dict.fromkeys(p.varied for p in self.points), strict=False):
            points = [p for p in self.points if p.varied == varied]
            for name in self.contenders:
                self._draw(axes, points, name, drawing.COLOURS)
            axes.set(yscale="log", xlabel=_LABELS[varied])
            if varied == "levels":
                axes.set_xticks([p.value for p in points])
            else:
                axes.set_xscale("log")
        for axes in panels[::3]:
            axes.set_ylabel("microseconds a step")
        handles, labels = panels[0].get_legend_handles_labels()
        panels[-1].axis("off")
        panels[-1].legend(handles, labels, frameon=False, loc="center left")
        return drawing.save(canvas, file)

    def _draw(self, axes: Any, points: Sequence[Point], name: str, colours: Sequence[str]) -> None:
        found = [(1e6 * p.price if p.varied == "products" else p.value, t) for p in points if (t := p.timing(name))]
        if not found or len(found) == 1 < len(points):  # what does not depend on what is varied
            return
        colour, line, marker = STYLES[name]
        x, quartiles = [x for x, _ in found], [t.microseconds for _, t in found]
        middle = [m for _, m, _ in quartiles]
        spread = [[m - low for low, m, _ in quartiles], [high - m for _, m, high in quartiles]]
        axes.errorbar(
            x, middle, spread, color=colours[colour], linestyle=line, marker=marker, markersize=4, label=name,
            elinewidth=0.8,
        )  # fmt: skip


def _step(point: Point, timing: Timing) -> str:
    ratio = point.over_bare(timing.contender)
    return short(timing.microseconds[1]) + ("" if ratio is None else f" ({ratio:.3g}x)")


def scaling(
    repeats: int = 5,
    *,
    varied: Mapping[str, Sequence[int]] = VARIED,
    base: Mapping[str, int] = BASE,
    device: str = "cpu",
    seed: int = 0,
    progress: bool = False,
) -> ScalingBenchmark:
    """Measure how the price of a step grows with each thing that a run has, one at a time.

    Contenders take turns in one process and one thread, as in :func:`mlsde.bench.core`.

    Args:
        repeats: runs of each contender at each point; medians and quartiles are shown.
        varied: what is varied, by the names of :data:`BASE`, and its values.
        base: the values of what is not.
        device: of the state; on a CUDA device diffrax is left out, and memory is the device's.
        seed: of the runs.
        progress: show a bar.

    Returns:
        A :class:`ScalingBenchmark`.

    Raises:
        TypeError, ValueError: naming the argument.
    """
    checks.positive_integer("repeats", repeats)
    for name in varied:
        checks.one_of("varied", name, tuple(BASE))
    sizes = [(name, {**BASE, **base, name: value}) for name, values in varied.items() for value in values]
    for _, size in sizes:
        for name, value in size.items():
            if (name, value) != ("products", 0):
                checks.positive_integer(name, value)
    names, notes = contenders.present(torch.device(device))
    known: dict[tuple[int, ...], Point] = {}
    with one_thread(), bar(total=len(sizes), disable=not progress, unit="point") as shown:
        points = []
        for name, size in sizes:
            key = tuple(size.values())
            if key not in known:  # the base point is one of each
                known[key] = _measured(name, size, names, repeats, device, seed)
            points.append(Point(name, size[name], known[key].price, known[key].timings))
            shown.update()
    if TREE in names and any(_too_large(size) for _, size in sizes):
        where = ", ".join(f"{name}={size[name]:,}" for name, size in sizes if _too_large(size))
        notes = (*notes, f"{TREE} is left out at {where}, where it takes most of a minute a run.")
    return ScalingBenchmark(tuple(points), repeats, device, notes)


def _measured(
    varied: str, size: Mapping[str, int], names: Sequence[str], repeats: int, device: str, seed: int
) -> Point:
    y0 = torch.ones(size["samples"], size["numbers"], device=device)
    ladder = _ladder(size)
    if varied == "levels" and size["levels"] != BASE["levels"]:  # the others use the top level alone
        names = [BARE, *MULTILEVEL]
    if _too_large(size):
        names = [name for name in names if name != TREE]
    timings = timed(names, ladder, y0, size["steps"], repeats, seed)
    bare = next(t for t in timings if t.contender == BARE)
    price = float(np.median(bare.drift_seconds)) / bare.evaluations[-1]
    return Point(varied, size[varied], price, tuple(timings))


def _too_large(size: Mapping[str, int]) -> bool:
    return size["steps"] * size["samples"] * size["numbers"] > _MOST


def _ladder(size: Mapping[str, int]) -> list[Drift]:
    if size["products"] == 0:
        return [free] * size["levels"]
    eighth = RATIO[1] / RATIO[0]
    products = [round(size["products"] / eighth**k) for k in reversed(range(size["levels"]))]
    return [BusyLevel(count, size["numbers"], 0.1 / (k + 1)) for k, count in enumerate(products)]
