"""How an ensemble is run, settled once for all its chunks, processes and restarts."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlsde.calibration import auto
from mlsde.chunks.store import Piece
from mlsde.hierarchy import DriftHierarchy
from mlsde.multilevel import Multilevel
from mlsde.probabilities import Price
from mlsde.sde import SDE


@dataclass(frozen=True)
class Tabled:
    """Probabilities that were settled before, step by step.

    Args:
        values: shape ``(steps, levels)``.
    """

    values: np.ndarray

    def table(self, times: np.ndarray, drift: DriftHierarchy, price: Price) -> np.ndarray:
        """Return them."""
        return self.values


@dataclass(frozen=True)
class Settled:
    """What a pilot chose, in numbers that a file holds.

    Attributes:
        times: the grid.
        levels: of the whole ladder, from 1.
        table: probabilities of these levels, shape ``(steps, levels)``; 0 or 1 without coins.
        rule: coins, correction and share; ``None`` without coins.
        error: predicted, NaN without a prediction.
        pilot_cost: per trajectory.
        words: the choice.
    """

    times: np.ndarray
    levels: tuple[int, ...]
    table: np.ndarray
    rule: tuple[str, str, str] | None
    error: float
    pilot_cost: float
    words: str

    def arguments(self, sde: SDE) -> tuple[SDE, dict[str, Any]]:
        """Equation, and ``times``, ``level`` and ``multilevel`` of :func:`mlsde.solve`."""
        if self.rule is None:
            return sde, {"times": self.times, "level": self._stitched()}
        part = sde.with_drift(sde.drift.select(self.levels))
        coins, correction, share = self.rule
        return part, {"times": self.times, "multilevel": Multilevel.named(Tabled(self.table), coins, correction, share)}

    def _stitched(self) -> Callable[[float], int]:
        used, starts = np.array(self.levels)[self.table.argmax(axis=1)], self.times[:-1]
        return lambda t: int(used[int(np.argmin(np.abs(starts - t)))])

    def to_bytes(self) -> bytes:
        """As a piece of a store."""
        note = {"levels": self.levels, "rule": self.rule, "words": self.words, "pilot": self.pilot_cost}
        note["error"] = None if math.isnan(self.error) else self.error
        held = {"times": torch.from_numpy(self.times), "table": torch.from_numpy(self.table)}
        return Piece(held, note).to_bytes({})

    @classmethod
    def from_bytes(cls, data: bytes) -> Settled:
        """Read it; ``ValueError`` if it is damaged."""
        piece, _ = Piece.from_bytes(data)
        note = json.loads(json.dumps(piece.note))
        rule = None if note["rule"] is None else tuple(note["rule"])
        error = math.nan if note["error"] is None else float(note["error"])
        times, table = (piece.tensors[name].numpy() for name in ("times", "table"))
        return cls(times, tuple(note["levels"]), table, rule, error, note["pilot"], note["words"])


def settle(sde: SDE, y0: Tensor, t_span: Any, trajectories: int, **asked: Any) -> Settled:
    """Have a pilot choose for so many trajectories.

    Args:
        sde: the equation.
        y0: states like those of the run, on some of which the pilot is run.
        t_span: as of :func:`mlsde.solve`.
        trajectories: of the whole run, among which the pilot's price is shared out.
        **asked: ``steps``, ``times``, ``method``, ``budget``, ``tol`` and ``calibration`` as there, one ``seed``, and
            the processes that share the pilot's ``work``.
    """
    found, cost = auto.chosen(sde, y0, t_span, trajectories=trajectories, **asked)
    multilevel = found.multilevel
    rule = None if multilevel is None else (multilevel.coins, multilevel.correction, multilevel.share)
    return Settled(found.times, found.levels, found.table(), rule, found.predicted_error, cost, found.describe())
