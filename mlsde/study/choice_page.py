"""Tables of the page on calibration, made from the JSON of its studies."""

from __future__ import annotations

import math
from typing import Any

from mlsde.study.page import Numbers, markdown_table


def choices(study: Numbers) -> str:
    """Errors of the choice over those of the best plain way, cell by cell, and the shares that meet each goal."""
    budgets = [f"{value:g}" for value in study["settings"]["budgets"]]
    head = ["ladder", *(f"{budget}: charged / reused (paper)" for budget in budgets)]
    names = list(dict.fromkeys(cell["problem"] for cell in study["cells"]))
    rows = []
    for name in names:
        cells = {f"{cell['evaluations']:g}": cell for cell in study["cells"] if cell["problem"] == name}
        rows.append([f"`{name}`", *(_cell(cells[budget]) for budget in budgets)])
    return markdown_table(head, rows) + "\n\n" + choice_goals(study)


def choice_goals(study: Numbers) -> str:
    """The goals, as a table."""
    found = study["summary"]
    rows = [[name, _shown(value)] for name, value in found.items() if not isinstance(value, dict)]
    rows += [[name, _worst(value)] for name, value in found.items() if isinstance(value, dict)]
    return markdown_table(["goal", "measured"], rows)


def tolerances(study: Numbers) -> str:
    """How tolerances were kept, by noise and by kind of ladder."""
    found, rows = study["summary"], study["rows"]
    low, high = found["interval of 95 %"]
    lines = [
        ["problems", str(len(rows))],
        ["true error below the tolerance", f"{found['kept']:.1%} [{low:.1%}, {high:.1%}]"],
        ["median of tolerance over true error", f"{found['median of tolerance over error']:.2f}"],
        ["the worst tolerance over true error", f"{found['the worst']:.2f}"],
        ["foreseen error within 1.5 of the true one", f"{found['foreseen errors within 1.5']:.1%}"],
        *[[f"kept, {noise}", f"{share:.1%}"] for noise, share in found["kept, by noise"].items()],
    ]
    kinds = dict.fromkeys(row["name"].partition(",")[0] for row in rows)
    for kind in kinds if len(kinds) > 1 else ():
        kept = [row["kept"] for row in rows if row["name"].startswith(f"{kind},")]
        lines.append([f"kept, {kind} ladders", f"{sum(kept)} of {len(kept)}"])
    return markdown_table(["", "measured"], lines)


def gammas(study: Numbers) -> str:
    """How well gamma was recovered, by sort of ladder."""
    head = ["ladders", "number", "within 0.2", "interval covers", "median width"]
    rows = []
    for row in study["rows"]:
        if row["name"].count(",") > 1 and "levels" in row["name"]:
            continue
        near, covered = (f"{a:.3f} [{b:.3f}, {c:.3f}]" for a, b, c in (row["near"], row["covered"]))
        rows.append([row["name"], str(row["count"]), near, covered, _number(row["width"])])
    return markdown_table(head, rows)


def learned(studies: dict[str, Numbers]) -> str:
    """Learned probabilities against measured ones at one price."""
    head = ["study", "probabilities", "error", "squared error over the first", "cost over the closed form's"]
    rows = []
    for name, study in studies.items():
        for i, row in enumerate(study["rows"]):
            ratio = f"{row['ratio'][0]:.3f} [{row['ratio'][1]:.3f}, {row['ratio'][2]:.3f}]"
            overhead = "-" if row["overhead"] is None else f"{100 * row['overhead']:+.1f} %"
            rows.append([f"`{name}`" if i == 0 else "", row["name"], f"{row['error']:.5f}", ratio, overhead])
    return markdown_table(head, rows)


def adaptivity(study: Numbers) -> str:
    """What other plans gain over the pilot's, cell by cell."""
    ways = list(study["summary"])
    head = ["ladder", "budget", "chosen", *ways]
    rows = [
        [
            f"`{cell['problem']}`",
            f"{cell['evaluations']:g}",
            cell["chosen"],
            *(_gain(cell["gains"][way]) for way in ways),
        ]
        for cell in study["cells"]
    ]
    means = [f"{study['summary'][way]['total']:.2f}" for way in ways]
    return markdown_table(head, [*rows, ["*geometric mean*", "", "", *means]])


def _gain(gain: Numbers) -> str:
    low, high = gain["total"][1:]
    return f"{gain['total'][0]:.2f} [{low:.2f}, {high:.2f}]"


def _cell(cell: Numbers) -> str:
    ratios = (cell["charged_ratio"], cell["reused_ratio"], cell["paper_ratio"])
    charged, reused, paper = (_number(ratio) for ratio in ratios)
    shown = f"{charged} / {reused}"
    return f"{f'**{shown}**' if _missed(cell) else shown} ({paper})"


def _missed(cell: Numbers) -> bool:
    return not (cell["charged_ratio"] or math.inf) <= 1.25 or not (cell["reused_ratio"] or math.inf) <= 1.1


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if value < 10 else f"{value:.0f}"


def _shown(value: Any) -> str:
    return "-" if value is None else f"{value:.3f}"


def _worst(cell: Numbers) -> str:
    return ", ".join(f"{name} {value:.3g}" if isinstance(value, float) else f"{value}" for name, value in cell.items())
