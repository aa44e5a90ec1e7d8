"""What an ensemble comes to: states or statistics, price, and which chunks failed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mlsde.chunks.store import Piece, Store
from mlsde.ensembles.starts import Starts
from mlsde.ensembles.statistics import Estimates, Statistics
from mlsde.showing import Rows, as_html, as_text
from mlsde.solution import Solution


@dataclass(frozen=True, eq=False)
class Failure:
    """A chunk that could not be finished; :meth:`replay` is the same run.

    Attributes:
        chunk: its number, from 0.
        seed: of its noise and coins.
        message: what went wrong.
        starts: of the ensemble.
        run: runs a chunk by its number.
    """

    chunk: int
    seed: int
    message: str
    starts: Starts = field(repr=False)
    run: Callable[[int], Solution] = field(repr=False)

    def replay(self) -> Solution:
        """Run the chunk again, on the same numbers; raises what it raised."""
        return self.run(self.chunk)

    @property
    def y0(self) -> Tensor:
        """Its initial states, drawn again."""
        return self.starts.draw(self.chunk)


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Many independent trajectories.

    Attributes:
        n: trajectories that were asked for.
        done: trajectories that were finished.
        ts: saved times, float64, shape ``(saved,)``.
        shape: of one trajectory's state.
        chunk: trajectories in a chunk.
        seed: of everything.
        names: of the levels that were used.
        evaluations: of each, per trajectory.
        cost: per trajectory in the units of ``costs``; ``None`` without costs.
        full_cost: of the top level at every step, likewise.
        pilot_cost: of the pilot per trajectory; ``None`` without one.
        error: that the pilot predicted, as of :class:`mlsde.Solution`.
        chosen: what the pilot chose, in words.
        wall_seconds: of this call on this process; chunks that were found are not in it.
        found, computed: chunks that were there, and that this call computed, on all processes.
        failures: chunks that failed.
        statistics: with ``keep=Statistics(...)``; else ``None``.
        store: where the chunks are kept.
        finished: numbers of the chunks that are there.
        keeps_states: whether states were kept.

    Example:
        >>> import mlsde
        >>> found = mlsde.ensemble(mlsde.SDE(lambda t, y: -y, diffusion=1.0), torch.zeros(1, 1), 1000, (0, 1), steps=50)
        >>> found.done, found.y1.shape, len(found.failures)
        (1000, torch.Size([1000, 1]), 0)
    """

    n: int
    done: int
    ts: Tensor
    shape: tuple[int, ...]
    chunk: int
    seed: int
    names: tuple[str, ...]
    evaluations: tuple[float, ...]
    cost: float | None
    full_cost: float | None
    pilot_cost: float | None
    error: float | None
    chosen: str | None
    wall_seconds: float
    found: int
    computed: int
    failures: tuple[Failure, ...]
    statistics: Estimates | None
    store: Store[Piece]
    finished: tuple[int, ...]
    keeps_states: bool

    @property
    def folder(self) -> Path | None:
        """Where the chunks are; ``None`` for in memory."""
        return self.store.folder

    def chunks(self) -> Iterator[Tensor]:
        """Saved states of one finished chunk after another, shape ``(saved, samples, ...)``, on the host.

        Raises:
            ValueError: if statistics were kept and no states.
        """
        return (piece.tensors["ys"] for piece in self._pieces())

    @property
    def ys(self) -> Tensor:
        """All saved states, shape ``(saved, done, ...)``, on the host; read from their files each time."""
        return torch.cat(list(self.chunks()), dim=1)

    @property
    def y1(self) -> Tensor:
        """Last saved states, shape ``(done, ...)``."""
        return torch.cat([part[-1] for part in self.chunks()])

    def summary(self, statistics: Statistics | None = None) -> Estimates:
        """Statistics of states that were kept, one chunk at a time.

        Args:
            statistics: which; means and variances by default.

        Raises:
            ValueError: if no states were kept.
        """
        kept = Statistics() if statistics is None else statistics
        parts = [
            Piece(kept.reduce(piece.tensors["ys"], piece.note["shared"]), {"shared": piece.note["shared"]})
            for piece in self._pieces()
        ]
        return kept.combine(lambda: parts, (len(self.ts), *self.shape))

    def _pieces(self) -> Iterator[Piece]:
        if not self.keeps_states:
            raise ValueError("this ensemble kept statistics and no states; leave keep= out to have them.")
        return self.store.pieces(self.finished)

    __repr__ = as_text
    _repr_html_ = as_html

    def _report(self) -> list[str | Rows]:
        head = f"Ensemble: {self.done} of {self.n} trajectories in chunks of {self.chunk}, {len(self.ts)} saved times"
        lines = [head, f"  seed {self.seed}; {self.computed} chunks computed, {self.found} found"]
        counts = ", ".join(f"{name} {count:g}" for name, count in zip(self.names, self.evaluations, strict=True))
        lines.append(f"  evaluations per trajectory: {counts}")
        if self.cost and self.full_cost is not None:
            times = f", {self.full_cost / self.cost:.3g} times less than the top level at every step"
            lines.append(f"  cost per trajectory {self.cost:g}{times if self.cost < self.full_cost else ''}")
        if self.chosen is not None:
            lines.append(f"  chosen: {self.chosen}; pilot {self.pilot_cost:.4g} per trajectory")
        lines += [f"  chunk {one.chunk} failed (seed {one.seed}): {one.message}" for one in self.failures]
        return [*lines, *([] if self.statistics is None else self.statistics._report())]


class EnsembleError(RuntimeError):
    """Some chunks of an ensemble failed; the others are finished and kept.

    Attributes:
        ensemble: what was finished, with ``.failures``.
    """

    def __init__(self, message: str, ensemble: Ensemble) -> None:
        super().__init__(message)
        self.ensemble = ensemble

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.ensemble)
