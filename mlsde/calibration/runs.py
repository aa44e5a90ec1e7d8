"""The runs of a pilot, each a piece of its own: alone, shared out among processes, kept in a folder.

The pieces are the pilot's runs, and not parts of its few samples: what comes of a run does not depend on who made it,
so that a pilot is the same bit for bit on any number of processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlsde import randomness
from mlsde.brownian import BrownianPath
from mlsde.chunks.engine import share
from mlsde.chunks.ranks import Ranks
from mlsde.chunks.store import Piece, Store
from mlsde.hierarchy import CountedLevels
from mlsde.integrate import Run, solve
from mlsde.sde import SDE
from mlsde.solution import NonFiniteError
from mlsde.steppers import Equation, compatible, scheme


class Runs:
    """Makes runs, or finds them made.

    Args:
        work: the processes, all of which ask for the same; this one alone by default.
        store: where runs are kept; in memory by default.
    """

    def __init__(self, work: Ranks | None = None, store: Store[Piece] | None = None) -> None:
        self.work = Ranks() if work is None else work
        self.store = Store(None, {}, Piece) if store is None else store

    def settled(self, stamp: str) -> None:
        """Take no runs but those of this stamp.

        Raises:
            ValueError: if another process has another one.
        """
        stamps = self.work.gather(stamp)
        if len(set(stamps)) > 1:
            others = [rank for rank, theirs in enumerate(stamps) if theirs != stamps[0]]
            raise ValueError(
                f"process {others[0]} was given other arguments than process 0; all processes of a group share one "
                "pilot, so give all of them the same."
            )
        self.store.stamp = stamp

    def all(self, runs: Mapping[str, Callable[[], Piece]], seed: int) -> dict[str, Piece]:
        """Make runs, each with torch's own generators seeded for it: a level may draw numbers itself.

        Args:
            runs: by name.
            seed: of the pilot.

        Raises:
            Exception: what the first run that failed raised, on every process.
            OSError: if one could not be kept; those before are.
        """

        def make(name: str) -> Piece:
            words = np.random.SeedSequence((seed, randomness.PILOT, *name.encode())).generate_state(1, np.uint64)
            with randomness.seeded(int(words[0]) >> 1):
                return runs[name]()

        if self.work.count == 1 and self.store.folder is None:
            return {name: make(name) for name in runs}
        outcome = share(list(runs), make, self.store, self.work, most_failures=1)
        if outcome.failure is not None:
            outcome.failure.add_note(f"raised by the pilot's run {next(iter(outcome.errors))!r}")
            raise outcome.failure
        return dict(zip(runs, self.store.pieces(runs), strict=True))


class Recorder:
    """Estimate of the top level that keeps every level's difference on its way."""

    def __init__(self, levels: CountedLevels, differences: bool) -> None:
        self._levels, self._differences = levels, differences
        self._count = len(levels.samples)
        self.seen: list[Tensor] = []
        self.finite: list[Tensor] = []

    def __call__(self, n: int, t: Tensor, y: Tensor, stage: int = 0) -> Tensor:
        """Value of the top level; at the first stage all differences are kept, shape ``(samples, K, ...)``.

        What is not finite of a cheaper level is taken from the next, so that the differences of the others are known.
        """
        if stage and not self._differences:
            return self._levels(self._count - 1, t, y)
        values = [self._levels(k, t, y) for k in range(self._count)]
        values = [value.clone() for value in values]  # a level may return one buffer again and again
        if stage == 0:
            self.finite.append(torch.stack([value.isfinite().all() for value in values]))
            known = values if self._differences else _filled(values)
            differences = values if self._differences else [known[0], *(b - a for a, b in pairwise(known))]
            self.seen.append(torch.stack(differences, dim=1))
        return torch.stack(values).sum(dim=0) if self._differences else values[-1]


def _filled(values: list[Tensor]) -> list[Tensor]:
    filled = values[-1:]
    for value in reversed(values[:-1]):
        filled.insert(0, torch.where(value.isfinite(), value, filled[0]))
    return filled


@torch.no_grad()
def recorded(sde: SDE, y0: Tensor, times: np.ndarray, method: str, seed: int, path: BrownianPath | None) -> Piece:
    """The top level with every level evaluated beside it.

    Args:
        sde: the equation.
        y0: initial states, shape ``(samples, ...)``.
        times: shape ``(N + 1,)``.
        method: the stepper.
        seed: of the pilot.
        path: of the samples.

    Returns:
        ``states`` at every time, shape ``(N + 1, samples, ...)``; ``differences`` at the start of every step, shape
        ``(samples, N, K, ...)``; ``finite``, which levels stayed so, shape ``(K,)``.

    Raises:
        NonFiniteError: if it does not stay finite.
    """
    run = Run(sde, y0, times, method, None, None, seed, path)
    recorder = Recorder(run.levels, sde.drift.differences)
    step_of = compatible(method, sde, None).make(Equation(sde, recorder, run.noise))
    y = run.y0.to(run.dtype)
    states = [y]
    for n, step in enumerate(run.steps(0, len(times) - 1)):
        y = step_of(n, step, y, run.increment(n))
        states.append(y)
    if not bool(torch.isfinite(y).all()):
        solve(sde, run.y0, times=times, method=scheme(method), brownian=path)  # says what broke, and where
        raise FloatingPointError
    seen = {"states": torch.stack(states), "differences": torch.stack(recorder.seen, dim=1)}
    return Piece({**seen, "finite": torch.stack(recorder.finite).all(dim=0)}, spent(run))


def ended(sde: SDE, y0: Tensor, **how: Any) -> Piece:
    """Where a run ends, infinite if it does not stay finite, and its price in all.

    Args:
        sde: the equation.
        y0: initial states.
        **how: as of :func:`mlsde.solve`.
    """
    try:
        done = solve(sde, y0, **how)
        end, cost = done.y1, done.stats.cost
    except NonFiniteError as error:
        end, cost = torch.full_like(y0, math.inf), error.solution.stats.cost
    return Piece({"end": end.detach()}, {"price": (cost or 0.0) * len(y0)})


def spent(run: Run) -> dict[str, Any]:
    """Evaluations of each level, and the seconds within it."""
    return {"samples": list(run.levels.samples), "seconds": list(run.levels.seconds)}
