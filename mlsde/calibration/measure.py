"""``calibrate``: how large a pilot may be, and the pilot itself."""

from __future__ import annotations

import json
import math
import os
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from torch import Tensor

from mlsde import checks, manifests
from mlsde.calibration import advice, pilot
from mlsde.calibration.crowd import Crowd, picked
from mlsde.calibration.recording import Recording
from mlsde.calibration.result import Calibration
from mlsde.calibration.runs import Runs
from mlsde.chunks.describe import check_sum, describe, tensor_bytes
from mlsde.chunks.engine import open_store
from mlsde.chunks.ranks import ranks
from mlsde.chunks.store import Piece
from mlsde.hierarchy import DriftHierarchy
from mlsde.integrate import Run
from mlsde.log import log
from mlsde.sde import SDE
from mlsde.solution import NonFiniteError
from mlsde.steppers import METHODS, Scheme

Unit = Literal["declared", "seconds", "flops"]
UNITS = get_args(Unit)

CROWDED = 0.2
"""Price of the crowd that runs a cheap level alone, in parts of that of the pilot's other runs."""

_FEW, _QUICK_SECONDS, _MOST_SECONDS = 32, 0.5, 30.0
"""Samples on which levels are timed first, and seconds of one evaluation of all levels on all samples up to which they
are timed there three times, or at all."""

_STAGES = ((8, 2), (16, 2), (16, 8), (32, 8), (32, 16), (48, 16), (48, 32), (64, 32))
"""Steps and samples of a pilot as it may cost more: first one grows, and then the other."""


def calibrate(
    sde: SDE,
    y0: Tensor,
    t_span: Any = None,
    *,
    steps: int | None = None,
    times: Any = None,
    budget: float | None = None,
    trajectories: int | None = None,
    share: float = 0.1,
    method: Scheme = "euler",
    unit: Unit | None = None,
    seed: int = 0,
    pilot_steps: int | None = None,
    pilot_samples: int | None = None,
    crowd: bool = False,
    folder: str | os.PathLike[str] | None = None,
    identity: str | None = None,
) -> Calibration:
    """Measure a ladder in a short pilot.

    It runs a few trajectories of the run to come on a coarse grid and on noise of its own, and measures the cost of
    each level, ``V_k(t) = E|f^k - f^(k-1)|^2`` and how the differences change in time, ``gamma``, the sensitivity of
    the end to errors along the way, how far each level alone ends from the top level, and the error of the step.

    Where there is a group of processes (``torch.distributed``), or with ``folder`` under ``torchrun``, all of them must
    call this with the same arguments: they share the runs of the pilot, and all return the same.

    Args:
        sde: the equation. A ladder without costs is priced in seconds, on all of ``y0``.
        y0: initial states of the run to come, shape ``(samples, ...)``; the pilot takes a few of them.
        t_span: as of :func:`mlsde.solve`.
        steps: number of steps of the run to come.
        times: its explicit grid instead.
        budget: its cost per trajectory, which sizes the pilot; by default that of the top level at every step.
        trajectories: how many it will have; by default those of ``y0``.
        share: of the run's price that the pilot may cost.
        method: the stepper.
        unit: of the costs: ``"declared"``; ``"seconds"``, measured here; ``"flops"``, counted by torch. By default
            declared ones where there are some, else seconds.
        seed: of the pilot's noise, and of what levels draw themselves.
        pilot_steps: number of steps of the pilot, a multiple of 8, whatever it costs.
        pilot_samples: trajectories of the pilot, whatever they cost.
        crowd: run a cheap level on many samples too, for a sixth of the pilot's price: a tolerance is then kept where a
            few samples rule the error. ``solve(tol=...)`` has that by itself.
        folder: where each run of the pilot is kept in a file, and the prices: the same call goes on from there, and a
            finished one evaluates nothing. ``None`` keeps nothing.
        identity: says what the equation and its initial states are, in place of the description of their functions
            that the folder's manifest otherwise holds.

    Returns:
        :class:`Calibration`; ``print`` it, and ask it to ``recommend``.

    Raises:
        TypeError, ValueError: for bad input, naming the argument; also if the folder holds another pilot, or if
            another process was given other arguments.
        NonFiniteError: if the top level does not stay finite on the pilot's grid, however fine.
        OSError: if a run could not be kept; those before are.

    Example:
        >>> import torch
        >>> from mlsde import DriftHierarchy
        >>> drift = DriftHierarchy([lambda t, y: -y, lambda t, y: -torch.sin(y)], costs=[1.0, 50.0])
        >>> cal = calibrate(SDE(drift, diffusion=0.5), torch.zeros(1000, 1), (0.0, 1.0), steps=100)
        >>> cal.recommend(budget=500.0).kind
        'multilevel'
    """
    grid = checks.time_grid(t_span, steps, times)
    Run(
        sde, y0, grid, method, None, None, 0, None
    )  # refuses what the run to come would refuse, before a folder is claimed
    asked: dict[str, Any] = {
        "budget": budget, "trajectories": trajectories, "share": share, "method": method, "unit": unit, "seed": seed,
        "pilot_steps": pilot_steps, "pilot_samples": pilot_samples, "crowd": crowd,
    }  # fmt: skip
    work, store = ranks(y0.device, join=folder is not None), None
    if folder is not None:
        told = manifests.of_equation(sde, y0, identity, y0=y0) | describe({**asked, "grid": grid})
        store = open_store(work, Path(folder), told, Piece)
    return measured(sde, y0, grid, Runs(work, store), **asked)


def measured(
    sde: SDE,
    y0: Tensor,
    grid: np.ndarray,
    runs: Runs,
    *,
    budget: float | None = None,
    trajectories: int | None = None,
    share: float = 0.1,
    method: str = "euler",
    unit: str | None = None,
    seed: int = 0,
    pilot_steps: int | None = None,
    pilot_samples: int | None = None,
    crowd: bool = False,
) -> Calibration:
    """:func:`calibrate` on a grid that was checked, by whoever makes its runs."""
    Run(sde, y0, grid, method, None, None, 0, None)  # likewise, for who calls this without that
    count = len(y0) if trajectories is None else checks.positive_integer("trajectories", trajectories)
    if not 0 < checks.finite_number("share", share) <= 1:
        raise ValueError(f"share must be above 0 and at most 1, got {share}.")
    priced, unit, flops = prices(sde, float(grid[0]), y0, unit, runs)
    costs = np.array(priced.drift.required_costs("a calibration"))
    top = float(costs.sum() if priced.drift.differences else costs[-1]) * METHODS[method].stages
    price = top * (len(grid) - 1) if budget is None else checks.positive_number("budget", budget)
    each = pilot.step_price(costs, priced.drift.differences, math.prod(y0.shape[1:]), METHODS[method].stages)
    crowded = CROWDED if checks.truth("crowd", crowd) else 0.0
    sized = size(share * price * count / each / (1.0 + crowded))
    warnings = [] if sized is not None or pilot_steps is not None else [_too_small(share, count)]
    n, samples = sized or _STAGES[0]
    n = n if pilot_steps is None else _multiple_of_8(pilot_steps)
    samples = samples if pilot_samples is None else checks.positive_integer("pilot_samples", pilot_samples)
    start = pilot_start(y0, samples, priced.is_ode)
    many = Crowd.of(y0, costs, priced.drift.differences, crowded * each * samples, samples, priced.is_ode)
    settled = [costs.tolist(), n, samples, method, checks.one_seed(seed), grid.tolist()]
    settled += [] if many is None else [[many.level, len(many.start)]]
    runs.settled(check_sum(json.dumps(settled).encode(), tensor_bytes(start)))
    how: dict[str, Any] = {"method": method, "unit": unit, "flops": flops, "seed": seed, "runs": runs, "crowd": many}
    try:
        recording = pilot.record(priced, start, thinned(grid, n), **how)
    except NonFiniteError as error:
        raise _with_words(error, _pilot_burst(n, samples)) from error
    if runs.work.count > 1:  # numbers were added up on each process, and these may be of different kinds
        recording = Recording.from_bytes(runs.work.broadcast(recording.to_bytes()))
    log.info("pilot: %d runs of %d steps for %.4g in all", recording.samples, recording.steps, recording.price)
    warnings += advice.about_the_ladder(recording) + advice.about_the_pilot(recording)
    return Calibration(priced, grid, recording, count, tuple(warnings))


def prices(
    sde: SDE, t: float, y0: Tensor, unit: str | None, runs: Runs
) -> tuple[SDE, str, tuple[float, ...] | None]:  # fmt: skip
    """The equation with its ladder priced in a unit, the unit, and FLOPs where torch can count them.

    What is measured, one process measures for all.
    """
    declared = sde.drift.costs is not None
    unit = ("declared" if declared else "seconds") if unit is None else checks.one_of("unit", unit, UNITS)
    if unit == "declared":
        sde.drift.required_costs("unit='declared'")
    note = runs.all({"prices": partial(_looked_at, sde.drift, t, y0, unit)}, 0)["prices"].note
    flops = None if note["flops"] is None else tuple(note["flops"])
    return sde if unit == "declared" else sde.with_drift(sde.drift.priced(note["costs"])), unit, flops


def _looked_at(drift: DriftHierarchy, t: float, y0: Tensor, unit: str) -> Piece:
    """FLOPs, and the prices that are not declared."""
    flops = pilot.counted_flops(drift, t, y0[:1])  # as little as can be: it is charged to nobody
    if unit == "flops" and flops is None:
        raise ValueError("unit='flops' needs levels whose operations torch can count (products of matrices); "
                         "use unit='seconds', or declare costs.")  # fmt: skip
    costs = _seconds(drift, t, y0) if unit == "seconds" else flops
    return Piece({}, {"flops": flops and list(flops), "costs": costs and list(costs)})


def _seconds(drift: DriftHierarchy, t: float, y0: Tensor) -> tuple[float, ...] | None:
    """Seconds of one sample in a batch like the run's: in a small one the price of a call hides what a level costs."""
    few = drift.measured(t, y0[:_FEW], repeats=3).costs
    assert few is not None
    whole = sum(few) * len(y0)  # at most: larger batches are cheaper by the sample
    if len(y0) <= _FEW or whole > _MOST_SECONDS:
        return few
    return drift.measured(t, y0, repeats=3 if whole < _QUICK_SECONDS else 1).costs


def size(pairs: float) -> tuple[int, int] | None:
    """Steps and samples of a pilot that may take so many steps of a sample; ``None`` if that is too few to tell."""
    if pairs < math.prod(_STAGES[0]):
        return None
    for (n, samples), (most_n, most_samples) in pairwise(_STAGES):
        if pairs < most_n * most_samples:
            steps = n if most_n == n else int(pairs / samples) // 8 * 8
            return steps, int(pairs / steps)
    return _STAGES[-1]


def pilot_start(y0: Tensor, samples: int, deterministic: bool) -> Tensor:
    """Initial states of the pilot: some of the run's, evenly picked; with noise they may be taken again."""
    samples = min(samples, len(y0)) if deterministic else samples
    return picked(y0, samples)


def thinned(grid: np.ndarray, steps: int) -> np.ndarray:
    """A grid of so many steps that is as uneven as the run's."""
    count = len(grid) - 1
    return np.asarray(np.interp(np.linspace(0.0, count, steps + 1), np.arange(count + 1.0), grid))


def _multiple_of_8(steps: object) -> int:
    n = checks.positive_integer("pilot_steps", steps)
    if n % 8:
        raise ValueError(f"pilot_steps must be a multiple of 8, so that it can be halved three times, got {n}.")
    return n


def _with_words(error: NonFiniteError, words: str) -> NonFiniteError:
    return NonFiniteError(f"{error} {words}", error.step, error.time, error.culprit, error.solution)


def _pilot_burst(steps: int, samples: int) -> str:
    return (
        f"It was the pilot that did, of {samples} samples and {steps} steps: if those are too long for this equation, "
        f"a run that pays for a pilot of {2 * steps} does better (a larger budget, more trajectories), or calibrate "
        f"once with pilot_steps={2 * steps} and hand it over with calibration=."
    )


def _too_small(share: float, trajectories: int) -> str:
    return (
        f"share={share:g} of a run of {trajectories} trajectories pays for no pilot that could tell anything, so the "
        "smallest one was run and cost more; calibrate for more trajectories, or save and reuse a calibration."
    )
