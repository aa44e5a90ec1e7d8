"""``mlsde.ensemble``: many independent trajectories, in chunks, on one process or many, through faults."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from mlsde import checks, manifests
from mlsde.calibration import Calibration
from mlsde.chunks import write_bytes
from mlsde.chunks.describe import check_sum, describe
from mlsde.chunks.engine import Outcome, numbers_of, open_store, share
from mlsde.chunks.ranks import Ranks, ranks
from mlsde.chunks.store import Piece, Store
from mlsde.ensembles.choice import Settled, settle
from mlsde.ensembles.memory import in_parts
from mlsde.ensembles.result import Ensemble, EnsembleError, Failure
from mlsde.ensembles.starts import SampleY0, Starts
from mlsde.ensembles.statistics import Statistics
from mlsde.grids import Grid
from mlsde.integrate import Run, solve, wants_pilot
from mlsde.multilevel import Multilevel
from mlsde.plan import Plan
from mlsde.saving import Saver
from mlsde.sde import SDE
from mlsde.solution import Solution
from mlsde.steppers import METHODS, Scheme


def ensemble(
    sde: SDE,
    sample_y0: SampleY0 | Tensor,
    n: int,
    t_span: Sequence[float] | None = None,
    *,
    steps: int | None = None,
    times: Sequence[float] | np.ndarray | Tensor | None = None,
    method: Scheme = "euler",
    multilevel: Multilevel | Literal["auto"] | None = None,
    level: int | Callable[[float], int] | None = None,
    budget: float | None = None,
    tol: float | None = None,
    calibration: Calibration | None = None,
    seed: int = 0,
    save_at: Sequence[float] | np.ndarray | Tensor | str | None = None,
    keep: Statistics | str = "states",
    chunk: int | None = None,
    folder: str | os.PathLike[str] | None = None,
    identity: str | None = None,
    most_failures: int = 3,
    progress: bool = False,
) -> Ensemble:
    """Integrate many independent trajectories, in chunks.

    Each chunk has its own noise, coins and initial states, which are found by ``(seed, number of the chunk)``: the
    result is the same bit for bit for any number of processes and after any interruption, on one type of device, with
    as many threads of torch. Under ``torchrun`` the processes share the chunks and all return the same.

    Args:
        sde: the equation.
        sample_y0: called as ``sample_y0(count)`` for the initial states of a chunk, shape ``(count, ...)``; torch's
            own generators are seeded before, so that ``torch.randn`` may be used. Or a tensor: one state for all,
            shape ``(1, ...)``, or one for each, shape ``(n, ...)``.
        n: trajectories.
        t_span: ``(t0, t1)``; like what follows, as of :func:`mlsde.solve`.
        steps: number of equal steps.
        times: an explicit grid instead.
        method: the stepper.
        multilevel: how the ladder is used. With ``"auto"`` a pilot is run once, and its price is shared out among all
            trajectories.
        level: one level, or a function of ``t`` that chooses it.
        budget: price per trajectory, the pilot included, with ``"auto"``.
        tol: root mean square error per component at the end, with ``"auto"``.
        calibration: in place of a pilot.
        seed: of everything.
        save_at: times to save.
        keep: ``"states"``, the saved ones of each trajectory; or :class:`Statistics`, and no states.
        chunk: trajectories in a chunk. The result depends on it; by default as many as make a state of a quarter of a
            million numbers, or a 32nd of ``n`` if that is less and the trajectories of a chunk share coins.
        folder: where each finished chunk is kept, in one file; with the same arguments a call goes on from there.
            ``None`` keeps them in memory.
        identity: says what the equation and its initial states are, in place of the description of their functions
            that the folder's manifest otherwise holds.
        most_failures: chunks that may fail before a process gives up.
        progress: show a bar.

    Returns:
        An :class:`Ensemble`.

    Raises:
        TypeError, ValueError: for bad input, naming the argument; also if the folder holds another computation.
        EnsembleError: if chunks failed, a level having raised or the state having become NaN: after all others are
            finished, with the result in its ``ensemble``.
        OSError: if a chunk could not be written; those before are kept.

    Example:
        >>> from mlsde import SDE
        >>> sde = SDE(lambda t, y: -y, diffusion=1.0)
        >>> found = ensemble(sde, torch.zeros(1, 1), 1000, (0, 1), steps=50, keep=Statistics(quantiles=[0.5]))
        >>> found.statistics.count
        1000
    """
    begin = time.perf_counter()
    if not isinstance(sde, SDE):
        raise TypeError(f"sde must be an mlsde.SDE, which mlsde.SDE(drift, ...) makes, got {type(sde).__name__}.")
    if not isinstance(keep, Statistics) and not (isinstance(keep, str) and keep == "states"):
        raise ValueError(f"keep={keep!r} is not known; give 'states' or mlsde.Statistics(...).")
    checks.positive_integer("most_failures", most_failures)
    if folder is not None and not isinstance(folder, (str, os.PathLike)):
        raise TypeError(
            f"folder must be the path of a folder, or None, got {folder!r} of type {type(folder).__name__}."
        )
    pilot = wants_pilot(multilevel, level, budget=budget, tol=tol, calibration=calibration)
    if not pilot and multilevel is not None and not isinstance(multilevel, Multilevel):
        raise TypeError(f'multilevel must be an mlsde.Multilevel, "auto" or None, got {multilevel!r}.')
    if isinstance(multilevel, Multilevel) and multilevel.seed is not None:
        raise ValueError(
            f"multilevel has a seed of its own, {multilevel.seed}, which would toss the same coins in every chunk; "
            "leave it out: the chunks' seeds serve the coins too."
        )
    checks.one_of("method", method, tuple(METHODS))
    free = pilot and steps is None and times is None
    grid = np.array(checks.time_span(t_span)) if free else checks.run_grid(t_span, steps, times)  # or its two ends
    starts = Starts(sample_y0, n, seed, chunk, pilot or _shares_coins(multilevel), _saved_times(save_at, grid))
    job = _Job(in_parts(sde), starts, method, grid, None, None, save_at, keep)
    if not pilot:
        job = replace(job, multilevel=multilevel if isinstance(multilevel, Multilevel) else None, level=level)
        job.rehearse()  # before the folder is claimed
    work = ranks(starts.example.device)
    asked = {"method": method, "budget": budget, "tol": tol}
    manifest = {}
    if folder is not None:
        manifest = manifests.of_equation(sde, starts.example, identity, sample_y0=starts.source) | {
            **asked, "n": starts.n, "chunk": starts.size, "seed": starts.seed, "grid": describe(np.asarray(grid)),
            "multilevel": describe(multilevel), "level": describe(level), "save_at": describe(_plain(save_at)),
            "keep": describe(keep), "calibration": None if calibration is None else repr(calibration),
        }  # fmt: skip
    store = open_store(work, None if folder is None else Path(folder), manifest, Piece)
    choice: Settled | None = None
    if pilot:
        choice = _settled(work, store, lambda: settle(
            sde, starts.some(), (grid[0], grid[-1]), n, steps=steps, times=times, calibration=calibration, seed=seed,
            work=work, **asked,
        ))  # fmt: skip
        store.stamp = check_sum(choice.to_bytes())
        part, rule = choice.arguments(sde)
        job = replace(job, sde=in_parts(part), **rule)
    plan, wanted = job.rehearse()
    outcome = share(range(starts.count), job.compute, store, work, most_failures=most_failures, progress=progress)
    found = _result(job, store, outcome, plan, wanted, choice, seed, time.perf_counter() - begin)
    if outcome.errors:
        raise EnsembleError(_complaint(found, outcome), found)
    return found


def _shares_coins(multilevel: Multilevel | str | None) -> bool:
    """Whether chance ties the trajectories of a chunk to each other."""
    return isinstance(multilevel, Multilevel) and multilevel.share == "batch" and multilevel.coins != "periodic"


def _plain(save_at: Any) -> Any:
    return save_at if save_at is None or isinstance(save_at, str) else checks.as_float64("save_at", save_at)


def _saved_times(save_at: Any, grid: Grid) -> int:
    """How many times are saved, as far as is known before a pilot."""
    if save_at is None:
        return 1
    return len(grid) if isinstance(save_at, str) else max(1, len(_plain(save_at)))


def _settled(work: Ranks, store: Store[Piece], choose: Callable[[], Settled]) -> Settled:
    """What the pilot chose: from the folder, or now, by all processes, as the first one has it."""
    file = None if store.folder is None else store.folder / "choice.safetensors"

    def known() -> bytes:
        try:
            data = b"" if file is None else file.read_bytes()
            Settled.from_bytes(data)
        except (FileNotFoundError, ValueError):
            return b""
        return data

    data = work.first(known)
    if not data:
        data = work.broadcast(choose().to_bytes())
        if file is not None:
            work.first(partial(write_bytes, file, data))
    return Settled.from_bytes(data)


@dataclass(frozen=True, eq=False)
class _Job:
    """One chunk after another."""

    sde: SDE
    starts: Starts
    method: Scheme
    times: Grid
    multilevel: Multilevel | None
    level: int | Callable[[float], int] | None
    save_at: Any
    keep: Statistics | str

    @property
    def shared(self) -> bool:
        """Whether the trajectories of a chunk share coins."""
        return _shares_coins(self.multilevel)

    def rehearse(self) -> tuple[Plan, np.ndarray]:
        """Check all that can be checked before the first step; returns a plan and the times to be saved."""
        y0 = self.starts.example
        run = Run(self.sde, y0, self.times, self.method, self.multilevel, self.level, 0, None)
        wanted = Saver(self.save_at, run.times, y0).wanted
        if isinstance(self.keep, Statistics):
            self.keep.reduce(torch.cat([y0, y0]).expand(len(wanted), 2, *y0.shape[1:]), self.shared)
        return run.plan, wanted

    def run(self, number: int) -> Solution:
        """Run a chunk."""
        y0 = self.starts.draw(number)
        with self.starts.seeded(number):  # for levels that draw numbers themselves
            return solve(
                self.sde, y0, times=cast("np.ndarray", self.times), method=self.method, multilevel=self.multilevel,
                level=self.level, seed=self.starts.noise_seed(number), save_at=self.save_at,
            )  # fmt: skip

    def compute(self, number: int) -> Piece:
        """Run a chunk and keep what is to be kept of it."""
        found = self.run(number)
        kept = self.keep.reduce(found.ys, self.shared) if isinstance(self.keep, Statistics) else {"ys": found.ys.cpu()}
        note = {
            "samples": self.starts.samples(number),
            "evaluations": list(found.stats.evaluations),
            "shared": self.shared,
        }
        return Piece(kept, note | {"seed": self.starts.noise_seed(number)})


def _result(
    job: _Job, store: Store[Piece], outcome: Outcome[int], plan: Plan, wanted: np.ndarray, choice: Settled | None,
    seed: int, seconds: float,
) -> Ensemble:  # fmt: skip
    starts, drift = job.starts, job.sde.drift
    samples = np.array([note["samples"] for note in outcome.notes.values()], dtype=np.float64)
    counts = np.array([note["evaluations"] for note in outcome.notes.values()]).reshape(-1, len(drift))
    evaluations = samples @ counts / max(1.0, samples.sum())
    shape = tuple(starts.example.shape[1:])
    statistics = None
    if isinstance(job.keep, Statistics) and outcome.notes:
        statistics = job.keep.combine(lambda: store.pieces(outcome.notes), (len(wanted), *shape))
    failures = [
        Failure(number, starts.noise_seed(number), words, starts, job.run) for number, words in outcome.errors.items()
    ]
    return Ensemble(
        n=starts.n, done=int(samples.sum()), ts=torch.from_numpy(wanted.copy()), shape=shape, chunk=starts.size,
        seed=seed, names=drift.names, evaluations=tuple(evaluations.tolist()),
        cost=None if drift.costs is None else float(evaluations @ np.array(drift.costs)), full_cost=plan.full_cost,
        pilot_cost=None if choice is None else choice.pilot_cost, error=None if choice is None else choice.error,
        chosen=None if choice is None else choice.words, wall_seconds=seconds, found=outcome.found,
        computed=len(outcome.notes) - outcome.found, failures=tuple(failures), statistics=statistics,
        store=store, finished=tuple(outcome.notes), keeps_states=isinstance(job.keep, str),
    )  # fmt: skip


def _complaint(found: Ensemble, outcome: Outcome[int]) -> str:
    first, numbers = found.failures[0], [one.chunk for one in found.failures]
    words = (
        f"{len(numbers)} of {-(-found.n // found.chunk)} chunks failed: {numbers_of(numbers)}. Chunk {first.chunk} "
        f"(seed {first.seed}): {first.message} .ensemble.failures[0].replay() is the same run. "
    )
    if outcome.untried:
        words += f"Not tried any more: {numbers_of(outcome.untried)}. "
    kept = "in .ensemble" if found.folder is None else f"in {str(found.folder)!r}, where the same call goes on"
    return f"{words}The finished chunks are {kept}."
