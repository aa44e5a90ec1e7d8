"""What a benchmark of a trained ladder says: verdicts, a table, a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import brentq

from mlsde import drawing
from mlsde.diffusion.benchmark import cost_at, frontier, repriced

_EULER = ("ddim", "ddim-log", "ddpm")
"""First order, one evaluation a step: the paper's kind of stepping."""

_ERRORS = {"error": "RMSE", "typical error": "typical error"}

_LABELS = {
    "ddim": "DDIM",
    "ddim-log": "DDIM in log-SNR",
    "ddpm": "DDPM",
    "dpm++2m": "DPM-Solver++(2M)",
    "dpm++3m": "DPM-Solver++(3M)",
    "unipc": "UniPC",
    "edm-heun": "Heun (EDM)",
}


def families(result: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Rows by what they are: the top level by each solver, lower levels alone, stitched, the paper's rule, ours."""
    top = len(result["costs"])
    found: dict[str, list[dict[str, Any]]] = {}
    for row in result["plain"]:
        way = row["way"]
        if way["switch"] is not None:
            name = f"two levels stitched, {_LABELS[way['sampler']]}"
        elif way["levels"][-1] < top:
            name = "a lower level alone"
        else:
            name = f"top level, {_LABELS[way['sampler']]}"
        found.setdefault(name, []).append(row)
    found["the paper's rule (independent coins)"] = result["paper"]
    found["spread coins, tuned"] = result["ours"]
    found["the method chosen on other samples"] = result["chosen"]
    return found


def verdicts(result: dict[str, Any]) -> dict[str, Any]:
    """Whether it pays, at every budget, in numbers.

    Speed-ups are costs of the rival at the error of ours over our cost: above 1 ours is cheaper. A rival is its own
    frontier over all its settings, in hindsight.
    """
    plain, top = result["plain"], len(result["costs"])
    alone = [row for row in plain if row["way"]["levels"][-1] == top and row["way"]["switch"] is None]
    euler_top = [row for row in alone if row["way"]["sampler"] in _EULER]
    euler_all = [row for row in plain if row["way"]["sampler"] in _EULER]
    second = [row for row in alone if row["way"]["sampler"] == "dpm++2m"]
    told: dict[str, Any] = {"ceiling": 1.0 / result["costs"][0], "budgets": []}
    for place, budget in enumerate(result["size"]["budgets"]):
        paper = _best_at(result["paper"], budget)
        pattern = _best_at(result["patterns"], budget)
        ours, full, chosen = (result[name][place] for name in ("ours", "full", "chosen"))
        row: dict[str, Any] = {"budget": budget}
        if paper is not None:
            row["paper"] = {"error": paper["error"], "speed-up over the top by Euler": _gain(euler_top, paper)}
        if pattern is not None:
            best = min(pattern["rmse"])
            row["paper, best of patterns"] = {
                "error": best,
                "speed-up over the top by Euler": cost_at(euler_top, best) / pattern["cost"],
                "the same with the search charged": cost_at(euler_top, best) / pattern["cost"] / len(pattern["rmse"]),
            }
        row["ours"] = {
            "words": ours["words"],
            "cost": ours["cost"],
            "error": ours["error"],
            "speed-up over the top by Euler": _gain(euler_top, ours),
            "speed-up over every Euler-type way": _gain(euler_all, ours),
            "speed-up over the top by DPM-Solver++(2M)": _gain(second, ours),
            "speed-up over every plain way": _gain(plain, ours),
            "typical error": ours["typical error"],
            "by it over the top by Euler": _gain(euler_top, ours, "typical error"),
            "by it over every Euler-type way": _gain(euler_all, ours, "typical error"),
            "by it over the top by DPM-Solver++(2M)": _gain(second, ours, "typical error"),
            "by it over every plain way": _gain(plain, ours, "typical error"),
            "fewer evaluations than its own full run, counted": full["cost"] / ours["cost"],
            "the same in wall-clock": full["seconds"] / ours["seconds"],
        }
        row["chosen"] = {
            "words": chosen["words"],
            "error": chosen["error"],
            "error over DPM-Solver++(2M)'s": chosen["error"] / _error_at(second, chosen["cost"]),
            "typical error over its": chosen["typical error"] / _error_at(second, chosen["cost"], "typical error"),
        }
        told["budgets"].append(row)
    return told


def as_json(value: Any) -> Any:
    """The same with ``None`` for what is infinite: speed-ups over a rival that never gets so low."""
    if isinstance(value, dict):
        return {name: as_json(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _best_at(rows: Sequence[dict[str, Any]], budget: float) -> dict[str, Any] | None:
    at = [row for row in rows if row["way"]["budget"] == budget]
    return min(at, key=lambda row: float(row["error"])) if at else None


def _gain(rivals: Sequence[dict[str, Any]], row: dict[str, Any], name: str = "error") -> float:
    return cost_at(rivals, row[name], name) / float(row["cost"])


def _error_at(rows: Sequence[dict[str, Any]], cost: float, name: str = "error") -> float:
    """Error of a frontier at a cost, interpolated in logarithms."""
    costs, errors = frontier(rows, name)
    return float(np.exp(np.interp(math.log(cost), np.log(costs), np.log(errors))))


def gamma(costs: Sequence[float], held_out: Sequence[float]) -> tuple[float, float]:
    """``gamma`` and the error that no net removes, from three levels or more: ``mse = floor + a cost^(-2/gamma)``.

    The first, middle and last level fix the three unknowns; NaN if their errors do not fall ever more slowly.

    Args:
        costs: of the levels.
        held_out: mean square errors on held-out images, with that floor in them.
    """
    places = [0, (len(costs) - 1) // 2, len(costs) - 1]
    if len(set(places)) < 3:
        return math.nan, math.nan
    c, e = (np.array([values[i] for i in places]) for values in (costs, held_out))
    logs = np.log(c)

    def gap(floor: float) -> float:
        above = np.log(e - floor)
        return float((above[0] - above[1]) / (logs[1] - logs[0]) - (above[1] - above[2]) / (logs[2] - logs[1]))

    low, high = -10.0 * float(e[-1]), float(e[-1]) * (1.0 - 1e-9)
    if not (np.diff(e) < 0).all() or gap(low) * gap(high) > 0:
        return math.nan, math.nan
    floor = float(brentq(gap, low, high))
    slope = (math.log(e[0] - floor) - math.log(e[1] - floor)) / (logs[1] - logs[0])
    return 2.0 / float(slope), floor


def least_errors(result: dict[str, Any], of: str = "error") -> list[tuple[str, list[float]]]:
    """Of each family the least error within 5 % of each budget, NaN where it has none so cheap."""
    found = []
    for name, rows in families(result).items():
        cells = []
        for budget in result["size"]["budgets"]:
            within = [float(row[of]) for row in rows if row["cost"] <= 1.05 * budget]
            cells.append(min(within) if within else math.nan)
        found.append((name, cells))
    return found


def title(result: dict[str, Any]) -> str:
    """What was measured, in a line."""
    size = result["size"]
    equation = "ODE" if size["churn"] == 0 else "reverse SDE"
    levels = ", ".join(f"{cost:.4g}" for cost in result["costs"])
    return f"{result['ladder']}, {equation}, costs in {size['unit']}: levels at {levels} of the top level's"


def _sentences(result: dict[str, Any]) -> list[str]:
    told = verdicts(result)
    lines = [f"ceiling of every speed-up, the ratio of the dearest level to the cheapest: {told['ceiling']:.3g}"]
    if result.get("gamma") is not None:
        lines.append(
            f"gamma of the held-out errors over these costs, fitted with a floor of {result['floor']:.3g}: "
            f"{result['gamma']:.2f}"
        )
    for row in told["budgets"]:
        for who in ("paper", "paper, best of patterns", "ours", "chosen"):
            if who in row:
                shown = ", ".join(
                    f"{name} {value:.3g}" if isinstance(value, float) else str(value)
                    for name, value in row[who].items()
                )
                lines.append(f"at {row['budget']:g}, {who}: {shown}")
    return lines


def table(result: dict[str, Any]) -> str:
    """Errors of every family at every budget, and the verdicts, as text."""
    size = result["size"]
    lines = [
        f"{title(result)}; {size['samples']} samples; reference off by about {result['reference_error']:.2g}",
    ]
    for of, words in _ERRORS.items():
        lines.append(f"least {words} at a cost of".ljust(44) + "".join(f"{budget:>9g}" for budget in size["budgets"]))
        for name, cells in least_errors(result, of):
            shown = "".join(" " * 8 + "-" if math.isnan(cell) else f"{cell:9.4f}" for cell in cells)
            lines.append(name.ljust(44) + shown)
    return "\n".join([*lines, *_sentences(result)])


def _table_of(result: dict[str, Any], of: str, words: str) -> str:
    budgets = result["size"]["budgets"]
    rows = [
        f"| least {words} at a cost of | {' | '.join(f'{b:g}' for b in budgets)} |",
        f"|---|{'---|' * len(budgets)}",
    ]
    for name, cells in least_errors(result, of):
        rows.append(f"| {name} | " + " | ".join("-" if math.isnan(cell) else f"{cell:.4f}" for cell in cells) + " |")
    return "\n".join(rows) + "\n"


_PAIRS = (
    ("the top by Euler", "speed-up over the top by Euler", "by it over the top by Euler"),
    ("every Euler-type way", "speed-up over every Euler-type way", "by it over every Euler-type way"),
    (
        "the top by DPM-Solver++(2M)",
        "speed-up over the top by DPM-Solver++(2M)",
        "by it over the top by DPM-Solver++(2M)",
    ),
    ("every plain way", "speed-up over every plain way", "by it over every plain way"),
)
"""Rivals, and what the verdicts call the speed-up over them by RMSE and by the typical error."""


def _speed_ups(result: dict[str, Any]) -> str:
    """The verdicts as two tables: of the tuned coins with what was chosen, and of the paper's rule."""
    told = verdicts(result)
    rivals = " | over ".join(name for name, *_ in _PAIRS)
    rows = [
        f"| tuned coins at | what | RMSE, spread over the seeds | over {rivals} | evaluations saved, by the clock "
        "| chosen, error over DPM-Solver++(2M)'s |",
        "|---|---|---|" + "---|" * 6,
    ]
    for at, run in zip(told["budgets"], result["ours"], strict=True):
        ours, chosen = at["ours"], at["chosen"]
        cells = [f"{_times(ours[a])} / {_times(ours[b])}" for _, a, b in _PAIRS]
        counted, clock = (
            ours[name] for name in ("fewer evaluations than its own full run, counted", "the same in wall-clock")
        )
        cells.append(f"{counted:.2f}x, {clock:.2f}x")
        over = (chosen[name] for name in ("error over DPM-Solver++(2M)'s", "typical error over its"))
        cells.append(" / ".join(f"{one:.2f}" for one in over))
        spread = f"{run['error']:.4f} ± {run['spread']:.4f}"
        rows.append(f"| {ours['cost']:.3g} | {ours['words']} | {spread} | {' | '.join(cells)} |")
    rows += [
        "",
        "| the paper's rule at | over the top by Euler | best of patterns | with the search charged |",
        "|---|---|---|---|",
    ]
    for at in told["budgets"]:
        if "paper" in at and "paper, best of patterns" in at:
            best = at["paper, best of patterns"]
            shown = [at["paper"]["speed-up over the top by Euler"], best["speed-up over the top by Euler"],
                     best["the same with the search charged"]]  # fmt: skip
            rows.append(f"| {at['budget']:g} | " + " | ".join(_times(one) for one in shown) + " |")
    rows += ["", *_by_the_clock(result)]
    limits = f"No speed-up can exceed {told['ceiling']:.3g}, the price of the dearest level over that of the cheapest."
    if result.get("gamma") is not None:
        limits += (
            f" Held-out errors over these costs, above a fitted floor of {result['floor']:.3g}, have a gamma of "
            f"{result['gamma']:.2f}."
        )
    head = "Speed-ups at equal error, by RMSE / by the typical error; `>` where the rival never gets so low."
    return f"{limits} {head}\n\n" + "\n".join(rows) + "\n"


def _by_the_clock(result: dict[str, Any]) -> list[str]:
    """The same speed-ups where every evaluation costs the seconds that it was measured to take."""
    again = repriced(result)
    told = verdicts(again)
    exponent, _ = gamma(again["costs"], result["levels"]["held_out"])
    known = "" if math.isnan(exponent) else f"; gamma of the held-out errors over these prices is {exponent:.2f}"
    milliseconds = ", ".join(f"{1e3 * value:.3g}" for value in result["seconds"])
    lines = [
        f"By the clock an evaluation takes {milliseconds} ms an image at this batch, so nothing can exceed "
        f"{told['ceiling']:.3g}{known}. The same runs at these prices:",
        "",
        f"| tuned coins at | over {' | over '.join(name for name, *_ in _PAIRS)} |",
        "|---|" + "---|" * len(_PAIRS),
    ]
    for at, row in zip(told["budgets"], again["ours"], strict=True):
        cells = [f"{_times(at['ours'][a])} / {_times(at['ours'][b])}" for _, a, b in _PAIRS]
        lines.append(f"| {row['cost']:.3g} | {' | '.join(cells)} |")
    return lines


def _times(value: float) -> str:
    return f"{value:.2f}x" if math.isfinite(value) else ">"


def section(result: dict[str, Any]) -> str:
    """One result for a page."""
    size, where = result["size"], result["environment"]
    return (
        f"### {title(result)}\n\n"
        f"{size['samples']} samples, {size['seeds']} seeds of the coins; the reference is off by about "
        f"{result['reference_error']:.2g}. Measured on {where['date']} at {where['commit']}, {where['device']} of "
        f"{where['cores']} cores, {where['threads']} thread, torch {where['torch']}.\n\n"
        + "\n".join(_table_of(result, of, words) for of, words in _ERRORS.items())
        + "\n"
        + _speed_ups(result)
    )


def markdown(results: Sequence[dict[str, Any]]) -> str:
    """Results for a page: what they come to together, and a section for each."""
    return "\n" + "\n".join([goals(results), *map(section, results)]) + "\n"


_GOALS = (
    ("independent coins, over the top by Euler (goal 4)", "paper", "speed-up over the top by Euler", None, 4.0),
    ("best of 15 patterns, search free", "paper, best of patterns", "speed-up over the top by Euler", None, 4.0),
    ("spread coins, over the top by Euler (goal 8)", "ours", *_PAIRS[0][1:], 8.0),
    ("over the best Euler-type way (goal 2)", "ours", *_PAIRS[1][1:], 2.0),
    ("over every plain way", "ours", *_PAIRS[3][1:], 1.0),
    ("chosen: error over DPM-Solver++(2M)'s (goal 1 at most)", "chosen", "error over DPM-Solver++(2M)'s",
     "typical error over its", -1.0),
)  # fmt: skip
"""What is asked of a ladder: words, whose row, its name by RMSE and by the typical error, the figure (negative: at
most)."""


def goals(results: Sequence[dict[str, Any]]) -> str:
    """A table of the goals: least and largest over the budgets, and at how many of them the figure is met."""
    names = [f"{r['ladder']}, {'ODE' if r['size']['churn'] == 0 else 'SDE'}" for r in results]
    lines = [f"| least to largest over the budgets, by RMSE / by the typical error | {' | '.join(names)} |"]
    lines.append("|---|" + "---|" * len(names))
    for words, who, by_rmse, by_typical, figure in _GOALS:
        cells = []
        for result in results:
            rows = [at[who] for at in verdicts(result)["budgets"] if who in at]
            spans = [_span([row[name] for row in rows], figure) for name in (by_rmse, by_typical) if name is not None]
            cells.append(" / ".join(spans))
        lines.append(f"| {words} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _span(values: Sequence[float], figure: float) -> str:
    met = sum(value >= figure if figure > 0 else value <= -figure for value in values)
    ends = " to ".join(f"{value:.2f}" if math.isfinite(value) else "beyond" for value in (min(values), max(values)))
    return f"{ends} ({met} of {len(values)})"


def compared(results: Sequence[dict[str, Any]]) -> str:
    """One table of ladders that differ in their training alone: errors, what levels add, what coins then miss by.

    The variances are means over the measured times, as parts of the first level's; the last column is the cost that the
    first ladder's coins need for the typical error of this one's at each budget, over the cost of this one's.
    """
    budgets = results[0]["size"]["budgets"]
    lines = [
        "| ladder | MFLOP | held-out errors | `V_k / V_1` | typical error of spread coins at "
        f"{', '.join(f'{b:g}' for b in budgets)} | the top level by DPM-Solver++(2M) | cost at equal error |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results:
        values = np.array(result["variances"]["values"]).mean(axis=0)
        second = families(result)["top level, DPM-Solver++(2M)"]
        cells = [
            result["ladder"],
            _list(result["levels"]["megaflops"], ".3g"),
            _list(result["levels"]["held_out"], ".4f"),
            _list(values[1:] / values[0], ".2g"),
            _list([row["typical error"] for row in result["ours"]], ".4f"),
            _list([_error_at(second, row["cost"], "typical error") for row in result["ours"]], ".4f"),
        ]
        gains = [_gain(results[0]["ours"], row, "typical error") for row in result["ours"]]
        cells.append(", ".join(map(_times, gains)))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _list(values: Sequence[float] | np.ndarray, form: str) -> str:
    return ", ".join(format(value, form) for value in values)


def picture(results: Sequence[dict[str, Any]], file: str | Path) -> str:
    """Error against cost, a row for each result, by RMSE and by the typical error; returns the file's name."""
    figure = drawing.canvas(12.0, 4.8 * len(results))
    for row, result in zip(figure.subplots(len(results), 2, squeeze=False), results, strict=True):
        for axes, (of, words) in zip(row, _ERRORS.items(), strict=True):
            _panel(axes, result, of)
            axes.set_ylabel(f"{words} to the fine run of the top level")
        row[0].legend(frameon=False, fontsize=7)
    return drawing.save(figure, file)


_STYLES = {
    "spread coins, tuned": {"color": drawing.COLOURS[1], "marker": "o", "linewidth": 2.4, "markersize": 6},
    "the method chosen on other samples": {
        "color": "black", "marker": "o", "linestyle": "none", "fillstyle": "none", "markersize": 11,
    },
    "the paper's rule (independent coins)": {"color": drawing.COLOURS[2], "marker": "s", "linewidth": 1.4},
}  # fmt: skip


def _panel(axes: Any, result: dict[str, Any], of: str) -> None:
    greys = iter(((0.0, "-"), (0.25, "-"), (0.45, "-"), (0.6, "-"), (0.0, ":"), (0.35, ":"), (0.6, ":"), (0.0, "--"),
                  (0.45, "--")))  # fmt: skip
    for name, rows in families(result).items():
        costs, errors = frontier(rows, of)
        style: dict[str, Any] = _STYLES.get(name, {})
        if not style:
            grey, line = next(greys)
            style = {"color": str(grey), "linestyle": line, "linewidth": 1.0}
        axes.plot(costs, errors, **({"markersize": 3} | style), label=name)
    axes.axhline(result["reference_error"], color="#bbbbbb", linewidth=0.8)
    size = result["size"]
    axes.set(
        xscale="log", yscale="log", xlabel=f"cost ({size['unit']}), evaluations of the top level",
        title=f"{result['ladder']}, {'ODE' if size['churn'] == 0 else 'reverse SDE'}",
    )  # fmt: skip


def variances_picture(results: Sequence[dict[str, Any]], file: str | Path) -> str:
    """``V_k(t)`` over the timesteps, a panel for each result; returns the file's name."""
    figure = drawing.canvas(5.0 * len(results), 4.0)
    for axes, result in zip(np.atleast_1d(figure.subplots(1, len(results), sharey=True)), results, strict=True):
        values = np.array(result["variances"]["values"])
        labels = ["level 1", *(f"level {k + 1} less level {k}" for k in range(1, values.shape[1]))]
        drawing.by_level(axes, result["variances"]["times"], values, labels, marker=".")
        equation = "ODE" if result["size"]["churn"] == 0 else "reverse SDE"
        axes.set(yscale="log", xlabel="timestep", title=f"{result['ladder']}, {equation}")
        axes.invert_xaxis()
        axes.legend(frameon=False, fontsize=8)
    figure.axes[0].set_ylabel("mean square of the drift's part, per image")
    return drawing.save(figure, file)
