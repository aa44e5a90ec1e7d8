"""A study in words and numbers: the table that is printed, and JSON for machines."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from mlsde import theory
from mlsde.showing import Rows
from mlsde.study.methods import Method

if TYPE_CHECKING:
    from mlsde.study.convergence import Convergence, Frontier


def asymptotic_exponent(method: Method, study: Convergence) -> float | None:
    """Exponent that theory foresees for small errors; ``None`` where it makes no statement."""
    if method.stitched or method.run is not None or method.stepper == "exponential":
        return None
    order = {"euler": study.strong_order, "heun": study.strong_order, "milstein": 1.0}[method.stepper]
    if method.stepper == "heun" and study.settings["noise"] is None:
        order = 2.0
    if method.coins is None:
        return theory.euler_exponent(study.gamma, order)
    return theory.multilevel_exponent(study.gamma, method.order, order)


def slopes_of(errors: tuple[float, ...], costs: tuple[float, ...], stride: int = 2) -> list[float]:
    """Local slopes between errors ``stride`` apart, loosest first; NaN where one of them is not reached."""
    found = []
    for a, b, c, d in zip(errors[:-stride], errors[stride:], costs[:-stride], costs[stride:], strict=True):
        known = math.isfinite(c) and math.isfinite(d)
        found.append(float(theory.local_slopes([a, b], [c, d])[0]) if known else math.nan)
    return found


def report(study: Convergence) -> list[str | Rows]:
    """The study as tables and sentences."""
    unit = "seconds" if study.settings["cost"] == "seconds" else "in units of costs, per trajectory"
    cells = [["error", *(f"{error:.4g}" for error in study.errors)]]
    for frontier in study.frontiers:
        cells.append([frontier.method.name, *map(_number, frontier.costs)])
        if frontier.predicted is not None:
            cells.append(["  theory", *map(_number, frontier.predicted)])
    best = [(frontier.method.name, frontier.found[-1].candidate) for frontier in study.frontiers]
    settings = [(name, "not reached" if one is None else one.describe()) for name, one in best]
    return [
        f"{study.problem}: least cost that reaches each error ({unit}); {study.settings['seeds']} seeds "
        f"of {study.settings['samples']} samples, {study.trials} settings tried",
        "",
        Rows(cells, ["34", *[">10"] * len(study.errors)], gap="", indent=""),
        "",
        "exponents of cost in 1/error",
        _named([(frontier.method.name, _exponent(frontier, study)) for frontier in study.frontiers]),
        "",
        f"cheapest settings at error {study.errors[-1]:.4g}",
        _named(settings),
        "",
        *_verdicts(study),
    ]


def _named(cells: list[tuple[str, str]]) -> Rows:
    return Rows(cells, ("32", ""), gap=" ", head=False)


def _verdicts(study: Convergence) -> list[str]:
    """How the methods compare with the best plain one at the tightest error that it reaches, in sentences."""
    plain = [one for one in study.frontiers if one.method.coins is None and one.method.run is None]
    reached = [i for i in range(len(study.errors)) if any(math.isfinite(frontier.costs[i]) for frontier in plain)]
    if not reached:
        return ["no plain method reaches any of the errors"]
    i = reached[-1]
    best = min(plain, key=lambda frontier: frontier.costs[i])
    lines = [f"at error {study.errors[i]:.4g}, against the cheapest plain method ({best.method.name}):"]
    for frontier in study.frontiers:
        if frontier is not best and math.isfinite(frontier.costs[i]):
            lines.append(f"  {frontier.method.name:32s} {_times(best.costs[i] / frontier.costs[i])}")
    rules = [frontier.costs[i] for frontier in study.frontiers if frontier.method.coins is not None]
    if rules and min(rules) >= best.costs[i]:
        lines.append(f"  here the ladder does not pay: {best.method.name} is as cheap as every multilevel rule")
    return lines


def _times(ratio: float) -> str:
    if ratio == 1:
        return "the same cost"
    return f"{ratio:.3g} times cheaper" if ratio > 1 else f"{1 / ratio:.3g} times dearer"


def _number(cost: float) -> str:
    return "-" if not math.isfinite(cost) else f"{cost:.3g}"


def _exponent(frontier: Frontier, study: Convergence) -> str:
    fitted = frontier.exponent
    limit = asymptotic_exponent(frontier.method, study)
    shown = [f"{fitted.value:.2f} [{fitted.interval[0]:.2f}, {fitted.interval[1]:.2f}]"]
    if frontier.predicted_exponent is not None:
        shown.append(f"theory on this range {frontier.predicted_exponent:.2f}")
    if limit is not None:
        shown.append(f"in the limit {limit:.3g}")
    return "; ".join([*shown, fitted.verdict])


def as_dict(study: Convergence) -> dict[str, Any]:
    """The study as JSON: numbers that are not finite become ``null``."""
    return {
        "problem": study.problem,
        "gamma": study.gamma,
        "strong_order": study.strong_order,
        "settings": study.settings,
        "trials": study.trials,
        "errors": list(study.errors),
        "verdicts": _verdicts(study),
        "methods": [_method(frontier, study) for frontier in study.frontiers],
    }


def _method(frontier: Frontier, study: Convergence) -> dict[str, Any]:
    fitted = frontier.exponent
    limit = asymptotic_exponent(frontier.method, study)
    return {
        "name": frontier.method.name,
        "order": frontier.method.order,
        "costs": [_finite(cost) for cost in frontier.costs],
        "intervals": [[_finite(low), _finite(high)] for low, high in frontier.intervals],
        "errors": [None if found.trial is None else _finite(found.trial.error) for found in frontier.found],
        "settings": [None if found.candidate is None else found.candidate.describe() for found in frontier.found],
        "local_slopes": [_finite(value) for value in slopes_of(study.errors, frontier.costs)],
        "exponent": {
            "value": _finite(fitted.value),
            "interval": [_finite(end) for end in fitted.interval],
            "errors": list(fitted.used),
            "verdict": fitted.verdict,
        },
        "theory": None
        if frontier.predicted is None
        else {
            "costs": [_finite(cost) for cost in frontier.predicted],
            "exponent": _finite(math.nan if frontier.predicted_exponent is None else frontier.predicted_exponent),
        },
        "limit": limit,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
