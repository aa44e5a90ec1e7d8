"""Tables of the documentation, made from the JSON of the studies, so that a page never says what was not measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

Numbers = dict[str, Any]


def rates(studies: dict[str, Numbers]) -> str:
    """Exponents of every method of every study: fitted, foreseen on the same errors, and in the limit."""
    head = [
        "study",
        "method",
        "errors fitted",
        "exponent, 95 % interval",
        "theory, same errors",
        "limit",
        "cheaper than EM",
    ]
    rows = []
    for name, study in studies.items():
        for i, method in enumerate(study["methods"]):
            fitted = method["exponent"]
            rows.append(
                [
                    f"`{name}`" if i == 0 else "",
                    method["name"],
                    _span(fitted["errors"]),
                    _exponent(fitted),
                    "-" if method["theory"] is None else _number(method["theory"]["exponent"]),
                    "-" if method["limit"] is None else f"{method['limit']:.3g}",
                    "" if i == 0 else _ratio(study, i),
                ]
            )
    return markdown_table(head, rows)


def slopes(studies: dict[str, Numbers]) -> str:
    """Local slopes, over factors of about 8 in the error, from the loosest to the tightest."""
    rows = []
    for name, study in studies.items():
        for i, method in enumerate(study["methods"]):
            if method["theory"] is None:
                continue
            measured = _windows(study["errors"], method["costs"])
            foreseen = _windows(study["errors"], method["theory"]["costs"])
            cells = [f"{a} ({b})" for a, b in zip(measured, foreseen, strict=True)]
            rows.append([f"`{name}`" if i == 0 else "", method["name"], *cells, f"{method['limit']:.3g}"])
    width = max(len(row) for row in rows)
    rows = [[*row[:-1], *[""] * (width - len(row)), row[-1]] for row in rows]
    head = ["study", "method", *[f"stretch {i}" for i in range(1, width - 2)], "limit"]
    return markdown_table(head, rows)


def costs(study: Numbers) -> str:
    """Least cost of every method for every second error of one study."""
    every = range(0, len(study["errors"]), 2 if len(study["errors"]) > 9 else 1)
    head = ["error", *(f"{study['errors'][i]:.3g}" for i in every)]
    rows = [[method["name"], *(_cost(method["costs"][i]) for i in every)] for method in study["methods"]]
    first, *rest = study["verdicts"]
    return (
        markdown_table(head, rows)
        + f"\n\n{first[0].upper()}{first[1:]} "
        + "; ".join(_words(line) for line in rest)
        + "."
    )


def comparison(study: Numbers) -> str:
    """Rules and rivals at one price."""
    first = study["rows"][0]["name"]
    head = ["", "cost", "error of the coins", "error", "of the law", f"{first} over it"]
    full = f"{study['full_cost']:.4g}", "-", f"{study['full_error']:.4f}", f"{study['full_law']:.4f}"
    rows = [["*top level at every step*", *full, ""]]
    for row in study["rows"]:
        ratio = "" if row["ratio"] is None else f"{row['ratio'][0]:.2f} [{row['ratio'][1]:.2f}, {row['ratio'][2]:.2f}]"
        coins = "-" if row["coins_error"] is None else f"{row['coins_error']:.5f}"
        rows.append([row["name"], f"{row['cost']:.4g}", coins, f"{row['error']:.4f}", f"{row['law']:.4f}", ratio])
    return markdown_table(head, rows)


def levels(diagnosis: Numbers) -> str:
    """Level by level, what a ladder is like."""
    head = ["level", "cost", "root mean square of the difference", "kurtosis"]
    rows = [
        [str(k), f"{cost:g}", f"{math.sqrt(variance):.3g}", f"{kurtosis:.3g}"]
        for k, (cost, variance, kurtosis) in enumerate(
            zip(diagnosis["costs"], diagnosis["variances"], diagnosis["kurtoses"], strict=True), start=1
        )
    ]
    low, high = (_number(end) for end in diagnosis["gamma_interval"])
    return markdown_table(head, rows) + f"\n\nMeasured gamma: {_number(diagnosis['gamma'])} [{low}, {high}]."


def ran(environment: Numbers) -> str:
    """Where and when the studies ran."""
    rows = [
        [f"`{run['command']}`", run["date"], str(run["commit"]), f"{run['seconds']} s"] for run in environment.values()
    ]
    first = next(iter(environment.values()))
    where = (
        f"On {first['machine']}, {first['cores']} cores, one thread: torch {first['torch']}, Python {first['python']}."
    )
    return where + "\n\n" + markdown_table(["command", "date", "commit", "took"], rows)


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with a head."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _words(line: str) -> str:
    """A line of a verdict without the blanks that align it."""
    return " ".join(line.split())


def _exponent(fitted: Numbers) -> str:
    shown = f"{_number(fitted['value'])} [{', '.join(_number(end) for end in fitted['interval'])}]"
    return shown if fitted["verdict"].startswith("fitted") else f"{shown}, {fitted['verdict'].partition(':')[0]}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _cost(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _span(errors: Sequence[float]) -> str:
    return "-" if not errors else f"{len(errors)}, {errors[0]:.3g} … {errors[-1]:.2g}"


def _ratio(study: Numbers, i: int) -> str:
    """How many times cheaper method ``i`` is than the first, at the tightest error both reach."""
    first, other = study["methods"][0]["costs"], study["methods"][i]["costs"]
    both = [(a / b, e) for a, b, e in zip(first, other, study["errors"], strict=True) if a and b]
    return "-" if not both else f"{both[-1][0]:.3g}x at {both[-1][1]:.2g}"


def _windows(errors: Sequence[float], costs: Sequence[float | None]) -> list[str]:
    """Slopes over stretches of a factor 8 in the error."""
    per_halving = round(1.0 / math.log2(errors[0] / errors[1]))
    stride = 3 * per_halving
    found = []
    for i in range(0, len(errors) - stride, stride):
        a, b = costs[i], costs[i + stride]
        known = a is not None and b is not None
        found.append(f"{math.log(b / a) / math.log(errors[i] / errors[i + stride]):.2f}" if known and a and b else "-")
    return found
