"""The pilot: a few short runs of the ladder, and what is learned from them.

On one path per sample it runs the top level with every level evaluated beside it, each cheaper level alone, and the top
level with a half, a quarter and an eighth of the steps; and it carries errors to the end by
:mod:`mlsde.calibration.sensitivity`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlsde import checks, norms, randomness
from mlsde.brownian import BrownianPath
from mlsde.calibration import replay, sensitivity
from mlsde.calibration.crowd import CHEAP_ENOUGH, Crowd
from mlsde.calibration.recording import FARTHER, LAGS, TRIAL, Recording
from mlsde.calibration.runs import Runs, ended, recorded, spent
from mlsde.chunks.store import Piece
from mlsde.hierarchy import CountedLevels, DriftHierarchy
from mlsde.integrate import Run, solve
from mlsde.multilevel import Multilevel
from mlsde.probabilities import Constant
from mlsde.sde import SDE, NoiseTerm
from mlsde.solution import NonFiniteError
from mlsde.steppers import METHODS
from mlsde.theory.allocation import evaluation_probabilities

COARSER = (1, 2, 4, 8)
"""The top level is run with the pilot's steps and with these parts of them."""

_PROJECTIONS = ((16, 4), (math.inf, 2))
"""Random projections per sample in a pilot of fewer samples than so many: many samples are projections enough."""

TRIALS = ("impulse", "extrapolate")
"""Corrections that are run by coins on the pilot's own samples, to see how far first order foresees them."""

_LARGEST = 1e60
"""Square of a difference or of what it does to the end from which on a pilot is of no use."""

_MOST_SETTLED = 0.75
"""Part of a measured distance between levels that a trend towards finer grids may leave of it."""


def projection_count(size: int, samples: int = 1) -> int:
    """Random projections of the end per sample; with as many as components they are exact."""
    return min(size, next(count for most, count in _PROJECTIONS if samples < most))


def step_price(costs: np.ndarray, differences: bool, size: int, stages: int) -> float:
    """Price of one step of one sample of the pilot, all runs together, in units of ``costs``."""
    top = float(costs.sum() if differences else costs[-1])
    below = float((np.cumsum(costs)[:-1] if differences else costs[:-1]).sum())
    carrier = _carrier(costs, differences, np.zeros(len(costs)))  # the dearest it may be
    level = float(costs[: carrier + 1].sum() if differences else costs[carrier])
    record = float(costs.sum()) + (stages - 1) * top
    halves = top * sum(1.0 / part for part in COARSER[1:]) * stages
    level *= stages + 2 * projection_count(size) + 1  # and Milstein's run, where the noise depends on the state
    return record + halves + 1.5 * below * stages + level + _trial_price(costs, differences) * stages


def _trial_price(costs: np.ndarray, differences: bool) -> float:
    """Price of one step of both trials together."""
    if len(costs) == 1:
        return 0.0
    p = np.array([1.0, *[TRIAL] * (len(costs) - 1)])
    return 2.0 * float((p if differences else evaluation_probabilities(p)) @ costs)


def _carrier(costs: np.ndarray, differences: bool, gaps: np.ndarray) -> int:
    """Level (from 0) whose derivative carries errors to the end: the dearest that is much cheaper than the top.

    One that ends farther from the top than a cheaper one does is passed over: its derivative is not the top's either.
    """
    enough = np.flatnonzero(costs * CHEAP_ENOUGH <= costs[-1])
    cheap = [k for k in enough if gaps[k] <= FARTHER * min(gaps[: k + 1])]
    return len(costs) - 1 if differences or not cheap else int(cheap[-1])


def record(
    sde: SDE,
    y0: Tensor,
    times: np.ndarray,
    *,
    method: str = "euler",
    unit: str = "declared",
    flops: tuple[float, ...] | None = None,
    seed: int = 0,
    runs: Runs | None = None,
    crowd: Crowd | None = None,
) -> Recording:
    """Run the pilot on the samples ``y0`` and the grid ``times``, whose number of steps is a multiple of 8.

    Args:
        sde: the equation; its ladder has costs.
        y0: initial states, shape ``(samples, ...)``.
        times: shape ``(N + 1,)``.
        method: the stepper.
        unit: of the costs.
        flops: of one evaluation of each level for one sample, if they were counted.
        seed: of the pilot's noise and projections, and of what its levels draw themselves.
        runs: who makes the runs; this process by default.
        crowd: many more samples, of which a cheap level alone is run.

    Raises:
        NonFiniteError: if the top level does not stay finite on this grid.
        OSError: if a run could not be kept.
    """
    runs = Runs() if runs is None else runs
    rng = randomness.host_generator(seed, randomness.PILOT)
    path = _path(sde, y0, times, int(rng.integers(2**31)))
    costs, top = np.array(sde.drift.required_costs("a calibration")), len(sde.drift)
    first = _first_runs(sde, y0, times, method, seed, path)
    if crowd is not None:
        theirs = int(randomness.host_generator(seed, randomness.PILOT, 1).integers(2**31))
        first |= crowd.runs(sde, times, method, _path(sde, crowd.start, times, theirs))
    made = runs.all(first, seed)
    held = {name: value.to(y0.device) for name, value in made["record"].tensors.items()}
    states = list(held["states"].unbind(0))
    end, differences = states.pop(), held["differences"]
    differences = differences.reshape(*differences.shape[:3], -1)  # (S, N, K, d)
    gains = np.array([1.0 if sde.linear is None else _number(sde.linear.gain(t)) for t in times[:-1]])
    cheaper = [(k, part) for k in range(1, top) for part in (1, 2)] + [(top, part) for part in COARSER[1:]]
    ends = {key: made["level-{}-of-{}".format(*key)].tensors["end"].to(y0.device) for key in cheaper}
    gaps = _settled(
        np.array([*(norms.distance(ends[k, 1], end) for k in range(1, top)), 0.0]),
        np.array([*(norms.distance(ends[k, 2], ends[top, 2]) for k in range(1, top)), 0.0]),
    )
    count = len(times) - 1
    coarse = [end, *(ends[top, part] for part in COARSER[1:])]
    changes = [norms.distance(a, b) for a, b in pairwise(coarse)]
    vectors = sensitivity.projections(y0.to(states[0].dtype), projection_count(math.prod(y0.shape[1:]), len(y0)), rng)
    carrier = _carrier(costs, sde.drift.differences, gaps)
    ends[top, 1] = end
    squares = (differences.double().flatten(3).square().sum(3)).cpu().numpy()  # (S, N, K)
    squares *= gains[None, :, None] ** 2
    if not (squares < _LARGEST).all():
        k = int(np.argmax(squares.max((0, 1))))
        raise ValueError(f"drift level {k + 1} is too large in the pilot for its square, {squares[..., k].max():.2g}.")
    sound = held["finite"].cpu().numpy()
    used = tuple((np.flatnonzero(sound) + 1).tolist())
    later: dict[str, Callable[[], Piece]] = {
        "responses": partial(_carried, sde, y0, times, method, seed, path, states, differences, carrier, vectors, rng)
    }
    if not sound.all():  # the first trials had a level in them that broke them
        part = sde.with_drift(sde.drift.select(used))
        later |= {f"sound-{name}": run for name, run in _trial_runs(part, y0, times, method, path).items()}
    if method == "euler" and has_milstein(sde):
        later["half-order"] = partial(_half_order, sde, y0, times, path, carrier + 1)
    made |= runs.all(later, seed)
    responses, growth = (made["responses"].tensors[name].numpy() for name in ("responses", "growth"))
    half_order = _of_half_order(made, ends[carrier + 1, 1])
    carrier = made["responses"].note["carrier"]
    evaluations = np.array(made["record"].note["samples"]) + np.array(made["responses"].note["samples"])
    seconds = np.array(made["record"].note["seconds"]) + np.array(made["responses"].note["seconds"])
    price = sum(made["level-{}-of-{}".format(*key)].note["price"] for key in cheaper)
    price += made["half-order"].note["price"] if "half-order" in made else 0.0
    price += sum(made[name].note["price"] for name in made if "trial-" in name or name.startswith("crowd-"))
    price += float(evaluations @ costs)
    squares[..., ~sound] = math.inf
    scaled = differences.double().flatten(3) * torch.as_tensor(gains, device=y0.device).view(1, -1, 1, 1)
    increments = [(scaled[:, lag:] - scaled[:, :-lag]).square().sum(3).mean((0, 1)).tolist() for lag in LAGS]
    return Recording(
        times=times, costs=costs, responses=responses, variances=squares.mean(axis=0), squares=squares.mean(axis=1),
        increments=np.array(increments), sensitivity=growth, gaps=gaps,
        steps_seen=np.array([count // part for part in COARSER[:-1]]), changes=np.array(changes), half_order=half_order,
        seconds=seconds / np.maximum(evaluations, 1), flops=flops, unit=unit,
        strong_order=strong_order(sde, method), stages=METHODS[method].stages, differences=sde.drift.differences,
        deterministic=sde.is_ode, size=float(end.double().square().mean().sqrt()),
        epsilon=float(torch.finfo(end.dtype).eps), price=price, samples=len(y0), method=method,
        sensitivity_level=carrier + 1, unlike=_unlike(differences, carrier), linearity=_linearity(responses, gaps),
        tail=1.0 if crowd is None else crowd.tail(made, ends),
        crowd=(0, 0) if crowd is None else (len(crowd.start), crowd.level),
        trials=_trials(made, "trial" if sound.all() else "sound-trial", times, end, replay.merged(responses, used)),
        names=sde.drift.names,
    )  # fmt: skip


def _first_runs(
    sde: SDE, y0: Tensor, times: np.ndarray, method: str, seed: int, path: BrownianPath | None
) -> dict[str, Callable[[], Piece]]:
    """The runs that need nothing of others, the dearest first.

    The top level on all times, on every second, fourth and eighth; with coins; the cheaper levels alone on all times
    and on every second one.
    """
    top = len(sde.drift)
    how: dict[str, Any] = {"method": method, "brownian": path}
    made: dict[str, Callable[[], Piece]] = {"record": partial(recorded, sde, y0, times, method, seed, path)}
    for part in COARSER[1:]:
        made[f"level-{top}-of-{part}"] = partial(ended, sde, y0, times=times[::part], level=top, **how)
    made |= _trial_runs(sde, y0, times, method, path)
    for k in range(top - 1, 0, -1):
        for part in (1, 2):
            made[f"level-{k}-of-{part}"] = partial(ended, sde, y0, times=times[::part], level=k, **how)
    return made


def _trial_runs(
    sde: SDE, y0: Tensor, times: np.ndarray, method: str, path: BrownianPath | None
) -> dict[str, Callable[[], Piece]]:
    """A run with coins for each correction, where there are levels for it."""
    top = len(sde.drift)
    made: dict[str, Callable[[], Piece]] = {}
    for correction in TRIALS if top > 1 else ():
        if method != "heun" or correction != "impulse":
            rule = Multilevel.named(Constant(_trial_values(top)), "systematic", correction, seed=0)
            how: dict[str, Any] = {"method": method, "brownian": path, "multilevel": rule}
            made[f"trial-{correction}"] = partial(ended, sde, y0, times=times, **how)
    return made


def strong_order(sde: SDE, method: str) -> float:
    """Order at which the stepper's error on one path falls with the step."""
    if method == "heun":
        return 2.0 if sde.is_ode else 1.0 if sde.additive else 0.5
    return 1.0 if sde.is_ode or sde.additive or method == "milstein" else 0.5


def _half_order(sde: SDE, y0: Tensor, times: np.ndarray, path: BrownianPath | None, level: int) -> Piece:
    """A cheap level by Milstein's step: what Euler-Maruyama leaves out of it; nothing where it cannot be had."""
    try:
        done = solve(sde, y0, times=times, method="milstein", level=level, brownian=path)
    except (NonFiniteError, ValueError):  # a diffusion that mixes components
        return Piece({}, {"price": 0.0})
    return Piece({"end": done.y1}, {"price": (done.stats.cost or 0.0) * len(y0)})


def _of_half_order(made: dict[str, Piece], end: Tensor) -> float:
    """Mean square of what Milstein's step adds; NaN where that is not known."""
    if "half-order" not in made or not made["half-order"].tensors:
        return math.nan
    square = norms.distance(made["half-order"].tensors["end"].to(end.device), end) ** 2
    return square if math.isfinite(square) else math.nan


def has_milstein(sde: SDE) -> bool:
    """Whether the stepper of order 1 takes the noise."""
    return not sde.is_ode and not sde.additive and sde.noise in ("diagonal", "scalar")


def _trial_values(levels: int) -> tuple[float, ...]:
    return (1.0, *[TRIAL] * (levels - 1))


def _trials(
    made: dict[str, Piece], name: str, times: np.ndarray, end: Tensor, responses: np.ndarray
) -> tuple[float, ...]:
    """Distance that coins make over the one foreseen for the very same coins, for each of :data:`TRIALS`."""
    found = []
    for correction in TRIALS:
        if f"{name}-{correction}" not in made:
            found.append(1.0)
            continue
        true = norms.distance(made[f"{name}-{correction}"].tensors["end"].to(end.device), end)
        table = np.tile(_trial_values(responses.shape[1]), (len(times) - 1, 1))
        foreseen = replay.defects(responses, times, table, "systematic", correction, keys=((0,),)).sum(axis=1)
        size = math.sqrt(float((foreseen**2).mean()))
        found.append(true / size if size > 0 else 1.0)
    return tuple(found)


def _number(value: Any) -> float:
    return float(torch.as_tensor(value).double().square().mean().sqrt())


def _path(sde: SDE, y0: Tensor, times: np.ndarray, seed: int) -> BrownianPath | None:
    if sde.is_ode:
        return None
    dtype = torch.float32 if y0.dtype in checks.HALF_PRECISIONS else y0.dtype
    shape = NoiseTerm(sde, torch.tensor(times[0], dtype=dtype, device=y0.device), y0, dtype).shape
    like = torch.empty(0, dtype=dtype, device=y0.device)
    return BrownianPath(float(times[0]), float(times[-1]), shape=shape, like=like, seed=seed, grids=(3,))


def _settled(fine: np.ndarray, coarse: np.ndarray) -> np.ndarray:
    """Distances between levels where they still fall with the step, as a rough difference does that is not resolved."""
    sound = np.isfinite(coarse) & (coarse > 0) & np.isfinite(fine)
    fall = np.divide(fine, coarse, out=np.ones_like(fine), where=sound)
    return np.where(sound, fine * np.clip(fall, _MOST_SETTLED, 1.0), fine)


def _carried(
    sde: SDE, y0: Tensor, times: np.ndarray, method: str, seed: int, path: BrownianPath | None, states: list[Tensor],
    differences: Tensor, k: int, vectors: Tensor, rng: np.random.Generator,
) -> Piece:  # fmt: skip
    """:func:`_responses` as a piece; ``carrier`` is the level that carried them, which may be the top in ``k``'s place.

    Raises:
        ValueError: if errors grow beyond all bounds.
    """
    run, top = Run(sde, y0, times, method, None, None, seed, path), len(sde.drift) - 1
    responses, growth = _responses(run, states, differences, k, vectors, rng)
    if not _holds(responses, growth) and k < top:  # it bursts where the top level does not
        k = top
        responses, growth = _responses(run, states, differences, k, vectors, rng)
    if not _holds(responses, growth):
        raise ValueError(
            "y0 leads to a pilot in which errors grow beyond what float32 holds, so nothing can be foretold; calibrate "
            "with more pilot_steps, or on a shorter time span."
        )
    tensors = {"responses": torch.from_numpy(responses), "growth": torch.from_numpy(growth)}
    return Piece(tensors, {**spent(run), "carrier": k})


def _holds(responses: np.ndarray, growth: np.ndarray) -> bool:
    """Whether a recording can be reckoned with: its squares are finite."""
    return bool((np.abs(responses) < math.sqrt(_LARGEST)).all() and np.isfinite(growth).all())


def _responses(
    run: Run, states: list[Tensor], differences: Tensor, k: int, vectors: Tensor, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """``psi_n . D_k(t_m)``, shape ``(R S, K, N, N)``, and the growth of errors, shape ``(N,)``."""
    samples, steps, levels = differences.shape[:3]
    seen = differences.flatten(3)  # (S, N, K, d)
    out = np.zeros((len(vectors), samples, levels, steps, steps), dtype=np.float32)
    growth = np.zeros(steps)

    def keep(reaches: Iterable[sensitivity.Reach]) -> None:
        for reach in reaches:
            n = reach.step
            growth[n] = reach.growth
            psi = reach.psi.reshape(len(vectors), samples, -1).transpose(0, 1)  # (S, R, d)
            products = torch.einsum("srd,smkd->rskm", psi, seen[:, : n + 1])
            with np.errstate(over="ignore"):  # seen to afterwards
                out[:, :, :, n, : n + 1] = products.double().cpu().numpy()

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # some functions warn when they are differentiated
            keep(sensitivity.backwards(run, states, k, vectors))
        # functions that are finite may have derivatives that are not; a cheap level that bursts is left for the top one
        followed = k == levels - 1 and not _holds(out, growth)
    except (sensitivity.OpaqueLevelError, RuntimeError):
        followed = True
    if followed:
        keep(sensitivity.by_perturbation(run, states, k, vectors, rng))
    return out.reshape(-1, levels, steps, steps), growth


def _unlike(differences: Tensor, k: int) -> float:
    """Root mean square change per step of the differences above level ``k`` (from 0), over that of its value."""
    d = differences.double().flatten(3)
    above, below = (
        (part[:, 1:] - part[:, :-1]).square().mean() for part in (d[:, :, k + 1 :].sum(2), d[:, :, : k + 1].sum(2))
    )
    return math.sqrt(float(above) / max(float(below), 1e-300))


def _linearity(responses: np.ndarray, gaps: np.ndarray) -> float:
    """Measured distance of the level below the top over the one predicted; 1 if there is none."""
    if len(gaps) == 1 or not 0 < gaps[-2] < math.inf:
        return 1.0
    steps = np.arange(responses.shape[-1])
    predicted = math.sqrt(float((responses[:, -1, steps, steps].sum(axis=1, dtype=np.float64) ** 2).mean()))
    return float(gaps[-2] / predicted) if predicted > 0 else math.inf


def counted_flops(drift: DriftHierarchy, t: float, y: Tensor) -> tuple[float, ...] | None:
    """Floating-point operations of each level for one sample, by torch's counter; ``None`` where it sees none."""
    from torch.utils.flop_counter import FlopCounterMode  # noqa: PLC0415, slow to import

    when = torch.as_tensor(t, dtype=torch.float32 if y.dtype in checks.HALF_PRECISIONS else y.dtype, device=y.device)
    counts = []
    levels = CountedLevels(drift.levels, y.dtype)
    with torch.no_grad():
        for k in range(len(drift)):
            counter = FlopCounterMode(display=False)
            with counter:
                levels(k, when, y)
            counts.append(counter.get_total_flops() / len(y))
    return tuple(counts) if all(count > 0 for count in counts) else None
