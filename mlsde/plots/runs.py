"""Pictures of a run: its sample paths, when each level fired, and where its cost went."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from mlsde import checks, drawing
from mlsde.plan import BLOCK, Plan
from mlsde.solution import Solution

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ONE_BY_ONE = 2000
"""Steps that are drawn one by one; of more, or of coins for each sample, the share that fired is drawn."""

_BINS = 400
"""Shares that are drawn of a level at most."""

_ROW = 0.8
"""Height of a level's row."""


def paths(
    solution: Solution,
    *,
    component: int | Sequence[int] = 0,
    lines: int = 30,
    band: float = 0.9,
    ax: Axes | None = None,
) -> Axes:
    """Draw sample paths over time, with the mean of all samples and a band that holds most of them.

    Args:
        solution: of a run that saved more than one time, ``mlsde.solve(..., save_at="steps")`` for example.
        component: of a sample's state: its index, or its place in the state as one row of numbers.
        lines: paths to draw, those of the first samples; 0 for none.
        band: share of the samples between the edges of the band, at each time; 0 draws none.
        ax: axes to draw on; those of a new figure by default.

    Returns:
        The axes.

    Raises:
        TypeError, ValueError: naming the argument.
        ImportError: without matplotlib.

    Example:
        >>> import mlsde, torch
        >>> sde = mlsde.SDE(lambda t, y: -y, diffusion=1.0)
        >>> solution = mlsde.solve(sde, torch.zeros(100, 2), (0, 1), steps=50, save_at="steps")
        >>> paths(solution, component=1).get_ylabel()
        'state, component 1'
    """
    states = _component(_a_solution("paths", solution), component)
    if not 0 <= checks.finite_number("band", band) <= 1:
        raise ValueError(f"band must be a share of the samples within 0 … 1, got {band}.")
    if isinstance(lines, bool) or not isinstance(lines, (int, np.integer)) or lines < 0:
        raise ValueError(f"lines must be a number of paths, 0 or more, got {lines!r}.")
    ax = drawing.axes(ax)
    times, count = solution.ts.numpy(), states.shape[1]
    if lines:
        faint: dict[str, Any] = {"color": "#7f7f7f", "linewidth": 0.5, "alpha": 0.7}
        if count == 1:
            faint = {"color": drawing.COLOURS[2], "linewidth": 1.0}
        label = f"{min(lines, count)} of {count} samples" if count > lines else f"{count} samples"
        drawn = ax.plot(times, states[:, :lines], **faint)
        drawn[0].set_label("the sample" if count == 1 else label)
    if count > 1:
        if band:
            edges = np.quantile(states, [0.5 - band / 2, 0.5 + band / 2], axis=1)
            shade: dict[str, Any] = {"color": drawing.COLOURS[2], "alpha": 0.25, "linewidth": 0}
            ax.fill_between(times, *edges, label=f"{100 * band:g} % of the samples", **shade)
        ax.plot(times, states.mean(axis=1), color=drawing.COLOURS[2], linewidth=1.8, label="mean")
    one = math.prod(solution.ys.shape[2:]) == 1
    return drawing.dressed(ax, "time", "state" if one else f"state, component {component}")


def _component(solution: Solution, component: int | Sequence[int]) -> np.ndarray:
    """One component of the saved states, float64 of shape ``(saved, samples)``."""
    if len(solution.ts) < 2:
        raise ValueError(
            f"solution holds {len(solution.ts)} saved time{'' if len(solution.ts) == 1 else 's'}, which is no path; "
            'solve with save_at="steps", or at some times.'
        )
    shape = tuple(solution.ys.shape[2:])
    place = tuple(component) if isinstance(component, (tuple, list)) else (component,)
    if any(isinstance(one, bool) or not isinstance(one, (int, np.integer)) for one in place):
        raise TypeError(f"component must be an integer or a tuple of integers, got {component!r}.")
    sizes = shape if len(place) == len(shape) else (math.prod(shape),)
    if len(place) != len(sizes) or not all(0 <= one < size for one, size in zip(place, sizes, strict=True)):
        raise ValueError(f"component must lie within a state of shape {shape}, got {component!r}.")
    row = int(np.ravel_multi_index(place, sizes))
    chosen: Tensor = solution.ys.detach().reshape(*solution.ys.shape[:2], -1)[:, :, row]
    return chosen.double().cpu().numpy()


def firings(run: Solution | Plan, *, ax: Axes | None = None) -> Axes:
    r"""Draw when each level fired, a row for each, the cheapest at the bottom.

    With coins for the batch a level is drawn over each step at which it fired. With coins for each sample, or more than
    2000 steps, the height of a row is the share of the samples, or of the steps, that fired; its label names the share
    at full height, the largest after the first step, at which a memory fires every level. Without coins the rows show
    where a level was evaluated. A run that was cut short is shown as it was planned. Nothing is kept of a run for this:
    its coins are tossed again, from their seed, in blocks.

    Args:
        run: a solution, or its plan.
        ax: axes to draw on; those of a new figure by default.

    Returns:
        The axes; the labels of the rows say how often each level fired per trajectory.

    Raises:
        TypeError: for anything else.
        ImportError: without matplotlib.

    Example:
        >>> import mlsde, torch
        >>> solution = mlsde.solve(mlsde.SDE(lambda t, y: -y), torch.ones(1, 1), (0, 1), steps=10)
        >>> [label.get_text() for label in firings(solution).get_yticklabels()]
        ['level 1\n10 of 10']
    """
    plan, names, numbers = described("firings", run)
    ax = drawing.axes(ax, height=1.2 + 0.55 * len(names))
    shares, labels = _shares(plan), []
    one_by_one = plan.share == "batch" and plan.steps <= _ONE_BY_ONE
    for row, (name, number, share) in enumerate(zip(names, numbers, shares.T, strict=True), start=1):
        low, colour = row - _ROW / 2, drawing.level_style(number)["color"]
        labels.append(f"{name}\n{_number(share.sum())} of {plan.steps:,}")
        if one_by_one:
            ax.broken_barh(_stretches(plan.times, share > 0), (low, _ROW), color=colour, linewidth=0.6)
        else:
            heights, ends = _binned(share, plan.times)
            full = float(heights[1:].max(initial=0.0) or heights[0] or 1.0)
            ax.stairs(low + _ROW * np.minimum(1.0, heights / full), ends, baseline=low, fill=True, color=colour)
            labels[-1] += f", up to {100 * full:.3g} %"
    ax.set_yticks(range(1, len(names) + 1), labels)
    ax.set_ylim(0.5, len(names) + 0.5)
    ax.set_xlim(*np.sort(plan.times[[0, -1]]))
    ax.tick_params(axis="y", length=0)
    what = f"each level {'is evaluated' if plan.coins == 'none' else 'fires'}"
    of = "samples for" if plan.share == "sample" else "steps at"
    title = f"steps at which {what}" if one_by_one else f"share of the {of} which {what}"
    ax.set_title(title, fontsize=8)
    ax.set_xlabel("time")
    return ax


def _stretches(times: np.ndarray, fired: np.ndarray) -> list[tuple[float, float]]:
    """Start and length of each stretch of steps that follow each other."""
    changes = np.flatnonzero(np.diff(fired, prepend=False, append=False))
    return [(times[a], times[b] - times[a]) for a, b in changes.reshape(-1, 2).tolist()]


def _binned(share: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means over stretches of steps of about the same number, and their ends."""
    ends = np.linspace(0, len(share), min(len(share), _BINS) + 1).round().astype(int)
    return np.add.reduceat(share, ends[:-1]) / np.diff(ends), times[ends]


def _shares(plan: Plan) -> np.ndarray:
    """Share of the samples that fired each level at each step, shape ``(N, K)``; 0 and 1 with coins for the batch."""
    parts = []
    for start in range(0, plan.steps, BLOCK):
        block = plan.block(start, min(start + BLOCK, plan.steps))
        fired = block.evaluates if plan.coins == "none" else block.fires
        parts.append(fired.mean(axis=-1) if fired.ndim == 3 else fired.astype(np.float64))
    return np.concatenate(parts)


def costs(run: Solution | Plan, *, ax: Axes | None = None) -> Axes:
    """Draw what each level cost, a bar for each, the cheapest at the bottom; the pilot is a bar of its own.

    Args:
        run: a solution; or a plan, for what it will cost. Of a ladder without costs the evaluations are drawn.
        ax: axes to draw on; those of a new figure by default.

    Returns:
        The axes; the title compares with the top level at every step.

    Raises:
        TypeError: for anything else.
        ImportError: without matplotlib.

    Example:
        >>> import mlsde, torch
        >>> drift = mlsde.DriftHierarchy([lambda t, y: -y, lambda t, y: -torch.sin(y)], costs=[1.0, 50.0])
        >>> solution = mlsde.solve(mlsde.SDE(drift), torch.ones(1, 1), (0, 1), steps=10)
        >>> [float(bar.get_width()) for bar in costs(solution).patches]
        [0.0, 500.0]
    """
    plan, names, numbers = described("costs", run)
    counts = run.stats.evaluations if isinstance(run, Solution) else tuple(plan.evaluations.tolist())
    paid = list(counts) if plan.costs is None else [c * n for c, n in zip(plan.costs, counts, strict=True)]
    notes = [_number(n) + ("" if plan.costs is None else f" at {_number(plan.costs[k])}") for k, n in enumerate(counts)]
    colours = [drawing.level_style(number)["color"] for number in numbers]
    pilot = run.stats.pilot_cost if isinstance(run, Solution) else None
    if pilot:
        names, paid, notes, colours = [*names, "pilot"], [*paid, pilot], [*notes, _number(pilot)], [*colours, "#bbbbbb"]
    ax = drawing.axes(ax, height=1.4 + 0.4 * len(names))
    bars = ax.barh(range(1, len(names) + 1), paid, color=colours, tick_label=names)
    ax.bar_label(bars, [f" {note}" for note in notes], fontsize=8)
    ax.margins(x=0.22)
    ax.set_title(_price(run, plan), fontsize=8)
    unit = "evaluations per trajectory" if plan.costs is None else drawing.PER_TRAJECTORY
    ax.set_xlabel(unit)
    return ax


def _price(run: Solution | Plan, plan: Plan) -> str:
    """The cost in all, and beside that of the top level at every step."""
    cost = run.stats.cost if isinstance(run, Solution) else plan.cost
    if cost is None or plan.full_cost is None:
        return "no costs were given"
    whole = f"{_number(cost)} in all"
    finished = run.success if isinstance(run, Solution) else True
    if not finished or not 0 < cost < plan.full_cost:
        return whole
    return (
        f"{whole}, {plan.full_cost / cost:.3g} times less than the top level at every step ({_number(plan.full_cost)})"
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) or abs(value) >= 1000 else f"{value:.4g}"


def _a_solution(asker: str, solution: Any) -> Solution:
    if not isinstance(solution, Solution):
        raise TypeError(f"{asker} draws an mlsde.Solution, which mlsde.solve(...) returns, got {_kind(solution)}.")
    return solution


def described(asker: str, run: Any) -> tuple[Plan, list[str], list[int]]:
    """The plan of a run, and the names of its levels and their numbers in the whole ladder.

    Raises:
        TypeError: for what is neither a solution nor a plan.
    """
    if isinstance(run, Plan):
        count = run.probabilities.shape[1]
        return run, drawing.level_names(count), list(range(1, count + 1))
    if not isinstance(run, Solution):
        raise TypeError(f"{asker} draws an mlsde.Solution or its plan, got {_kind(run)}.")
    chosen, names = run.recommendation, list(run.stats.names)
    part = chosen is not None and chosen.multilevel is not None
    return run.plan, names, list(chosen.levels) if chosen is not None and part else list(range(1, len(names) + 1))


def _kind(thing: Any) -> str:
    return "None" if thing is None else type(thing).__name__
