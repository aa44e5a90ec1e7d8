"""The studies of choices in words and pictures: tables, JSON without infinities, figures."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from mlsde.drawing import COLOURS, MARKERS, canvas, dressed, save
from mlsde.showing import Rows

if TYPE_CHECKING:
    from mlsde.study.choice import Cell, Choice
    from mlsde.study.tolerance import Tolerances

_COLUMNS = ("problem", "budget", "best plain", "auto", "ratio", "reused", "ratio", "stitched", "paper", "over auto")
_FACTORS = ("error x", "cost x")


def report(study: Choice) -> list[str | Rows]:
    """A study of choices: a row for each cell, what was chosen, and the summary."""
    names = [study.settings[name] for name in ("trajectories", "seeds")]
    return [
        "errors at equal cost; budget in evaluations of the top level per trajectory; "
        f"{names[0]} trajectories, {names[1]} seeds of the coins",
        "auto pays for its pilot, reused has it for nothing; factors: foreseen over true, of auto",
        "",
        _rows([[*_COLUMNS, *_FACTORS], *(_cells_of(cell) for cell in study.cells)]),
        "",
        *(f"{name}: {_words(value)}" for name, value in study.summary().items()),
        "",
        "cells beyond a goal, what was chosen there and what was best",
        *(line for cell in _missed(study) for line in _why(cell)),
    ]


def _rows(cells: list[list[str]]) -> Rows:
    return Rows(cells, ["15", *[">11"] * (len(cells[0]) - 1)], gap="", indent="")


def _cells_of(cell: Cell) -> list[str]:
    charged, reused = cell.charged, cell.reused
    return [
        cell.problem, f"{cell.evaluations:g}", _number(cell.plain.error), _number(charged.error),
        f"{cell.charged_ratio:.2f}", _number(reused.error), f"{cell.reused_ratio:.2f}",
        _number(cell.stitched.error), _number(cell.paper.error), f"{cell.paper_ratio:.2f}",
        _factor(charged.error_factor), _factor(charged.cost_factor),
    ]  # fmt: skip


def _missed(study: Choice) -> list[Cell]:
    from mlsde.study.choice import CHARGED, REUSED  # noqa: PLC0415, which imports this module

    return [cell for cell in study.cells if cell.charged_ratio > CHARGED or cell.reused_ratio > REUSED]


def _why(cell: Cell) -> list[str]:
    return [
        f"  {cell.problem} at {cell.evaluations:g}: {cell.charged_ratio:.2f} and, reused, {cell.reused_ratio:.2f}",
        f"    auto chose {'; or '.join(cell.charged.chosen)}",
        f"    reused chose {'; or '.join(cell.reused.chosen)}",
        f"    best plain way: {cell.plain.what}",
    ]


def tolerance_report(study: Tolerances) -> list[str | Rows]:
    """A study of tolerances: the summary, then the problems that miss, then all of them."""
    cells = [["tol / error", "tol", "error", "foreseen", "cost", "problem"]]
    for row in sorted(study.rows, key=lambda row: row.margin):
        numbers = map(_number, (row.tol, row.error, row.predicted_error, row.cost))
        cells.append([f"{row.margin:.2f}", *numbers, f"  {row.name}: {row.chosen}"])
    return [
        f"root mean square errors against tolerances; {study.settings['count']} problems "
        f"of {study.settings['trajectories']} trajectories",
        "",
        *(f"{name}: {_words(value)}" for name, value in study.summary().items()),
        "",
        _rows(cells),
    ]


def finite(value: Any) -> Any:
    """Replace numbers that are not finite by ``None``, at any depth."""
    if isinstance(value, dict):
        return {name: finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def save_choice(study: Choice, file: str | os.PathLike[str]) -> str:
    """Draw the errors of the chooser, and of the paper's rule, over those of the best plain way; returns the name."""
    figure = canvas(10.0, 4.4)
    axes = figure.subplots(1, 2, sharex=True)
    titles = "auto, pilot paid, over the best plain way", "the paper's rule over auto, pilot paid"
    for ax, how, title in zip(axes, ("charged_ratio", "paper_ratio"), titles, strict=True):
        for i, name in enumerate(dict.fromkeys(cell.problem for cell in study.cells)):
            points = [(cell.evaluations, getattr(cell, how)) for cell in study.cells if cell.problem == name]
            shown = np.array([(x, y) for x, y in points if math.isfinite(y) and y > 0]).reshape(-1, 2)
            # the two of a kind follow each other: one colour, without noise and with it
            style = {"color": COLOURS[i // 2 % 7], "marker": MARKERS[i // 2 % 7], "ls": "-" if i % 2 == 0 else "--"}
            ax.plot(*shown.T, ms=4, lw=1.0, label=name, **style)
        ends = [extreme(cell.evaluations for cell in study.cells) for extreme in (min, max)]
        ax.plot(ends, [1.0, 1.0], color="grey", lw=0.8)
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        dressed(ax, "budget, in evaluations of the top level", "", legend=False)
        ax.set_title(title, fontsize=9)
    axes[0].set_ylabel("ratio of errors")
    axes[1].legend(fontsize=6, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return save(figure, file)


def save_tolerances(study: Tolerances, file: str | os.PathLike[str]) -> str:
    """Draw errors against tolerances, both over the scale of the solution; returns the name."""
    figure = canvas(5.6, 4.4)
    ax = figure.subplots()
    for i, noise in enumerate(dict.fromkeys(row.noise for row in study.rows)):
        rows = [row for row in study.rows if row.noise == noise and math.isfinite(row.error) and row.error > 0]
        ends = np.array([(row.tol / row.scale, row.error / row.scale) for row in rows]).reshape(-1, 2)
        ax.plot(*ends.T, ls="", marker=MARKERS[i % 7], color=COLOURS[i % 7], ms=4, alpha=0.7, label=noise)
    low, high = (extreme(row.tol / row.scale for row in study.rows) for extreme in (min, max))
    ax.plot([low, high], [low, high], color="grey", lw=0.9, label="error = tolerance")
    ax.plot([low, high], [low / 3.0, high / 3.0], color="grey", lw=0.9, ls="--", label="a third of it")
    ax.set_xscale("log")
    ax.set_yscale("log")
    dressed(ax, "tolerance, over the solution's root mean square", "true error, likewise")
    return save(figure, file)


def _number(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.3g}"


def _factor(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_words(part)}" for name, part in value.items())
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_words, value))}]"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
