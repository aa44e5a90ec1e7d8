"""The crowd: many samples of which a cheap level alone is run, because a few do not tell what a few of many do.

What the few miss by, times the ratio that the cheap level shows, is a ratio estimator (W. G. Cochran, *Sampling
Techniques*, 1977, chapter 6).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlsde import norms
from mlsde.brownian import BrownianPath
from mlsde.calibration.runs import ended
from mlsde.chunks.store import Piece
from mlsde.sde import SDE

CHEAP_ENOUGH = 4.0
"""How many times cheaper than the top a level must be to do something in its stead."""

_MOST, _LEAST = 1024, 8
"""Most samples of a crowd, and how many times those of the pilot it is at least."""

_PARTS = (1, 2)
"""It runs on all times, and on every second one."""


@dataclass(frozen=True)
class Crowd:
    """Samples, and the level that is run on them.

    Attributes:
        level: from 1.
        start: initial states, shape ``(many, ...)``.
    """

    level: int
    start: Tensor

    @classmethod
    def of(
        cls, y0: Tensor, costs: np.ndarray, differences: bool, price: float, samples: int, ode: bool
    ) -> Crowd | None:
        """The crowd that a price per step allows; ``None`` where it would be hardly larger than the pilot.

        Args:
            y0: initial states of the run; those of the crowd are some of them, with noise taken again.
            costs: of the ladder.
            differences: whether these are of differences.
            price: of all evaluations of the crowd in one step.
            samples: of the pilot.
            ode: whether the equation is one.
        """
        prices = np.cumsum(costs) if differences else costs
        for k in reversed(np.flatnonzero(costs * CHEAP_ENOUGH <= costs[-1]).tolist()):
            many = min(_MOST, int(price / (1.5 * prices[k])), len(y0) if ode else _MOST)
            if many >= _LEAST * samples:
                return cls(k + 1, picked(y0, many))
        return None

    def runs(
        self, sde: SDE, times: np.ndarray, method: str, path: BrownianPath | None
    ) -> dict[str, Callable[[], Piece]]:
        """The runs, by name."""
        how: dict[str, Any] = {"method": method, "level": self.level, "brownian": path}
        return {f"crowd-of-{part}": partial(ended, sde, self.start, times=times[::part], **how) for part in _PARTS}

    def tail(self, made: Mapping[str, Piece], ends: Mapping[tuple[int, int], Tensor]) -> float:
        """Mean square of what halving the steps changes, over that of the same level on the pilot's samples.

        Args:
            made: the runs.
            ends: of the pilot's samples, by level and part.
        """
        many = norms.distance(*(made[f"crowd-of-{part}"].tensors["end"] for part in _PARTS))
        few = norms.distance(*(ends[self.level, part] for part in _PARTS))
        return (many / few) ** 2 if math.isfinite(few) and few > 0 else 1.0


def picked(y0: Tensor, samples: int) -> Tensor:
    """Some of the states, evenly picked; the same ones again if there are too few."""
    rows = np.floor((np.arange(samples) + 0.5) * len(y0) / samples).astype(int)
    return y0.detach()[torch.as_tensor(rows, device=y0.device)].clone()
