"""Keeping the states that were asked for, and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlsde import checks
from mlsde.grids import Grid, first_at_or_after


class Saver:
    """Collects the states at the wanted times while a run goes by.

    Args:
        save_at: times, ``"steps"`` for the whole grid, or ``None`` for its last time.
        times: the grid.
        y0: the initial state, whose dtype the saved states take.

    Attributes:
        due: the node of the grid whose step comes next to be saved, 0 for the initial state and -1 for none any more.
    """

    def __init__(self, save_at: Any, times: Grid, y0: Tensor) -> None:
        self._times, self._dtype = times, y0.dtype
        self._last_only = save_at is None
        self._wanted = self._checked(save_at)
        # the step that ends at or first passes each time; 0 is the initial state
        self._after = [*first_at_or_after(times, self._wanted).tolist(), -1]
        self.due: int = self._after[0]
        self._saved: list[tuple[float, Tensor]] = []
        self._like = y0

    @property
    def wanted(self) -> np.ndarray:
        """Times to save, float64."""
        return self._wanted

    def _checked(self, save_at: Any) -> np.ndarray:
        times = self._times
        if save_at is None:
            return times[-1:]
        if isinstance(save_at, str):
            if save_at != "steps":
                raise ValueError(f"save_at={save_at!r} is not known; give 'steps', a sequence of times or None.")
            return np.asarray(times)
        wanted = checks.as_float64("save_at", save_at)
        direction = np.sign(times[-1] - times[0])
        if len(wanted) == 0 or (np.diff(wanted) * direction <= 0).any():
            raise ValueError(f"save_at must hold times that run strictly from t0 towards t1, got {save_at!r}.")
        lo, hi = min(times[0], times[-1]), max(times[0], times[-1])
        # an end that was rounded to float32 is that end
        slack = min(2.0**-23 * max(abs(lo), abs(hi)), 1e-3 * (hi - lo))
        if wanted.min() < lo - slack or wanted.max() > hi + slack:
            raise ValueError(
                f"save_at must lie between {lo} and {hi}, got times from {wanted.min()} to {wanted.max()}."
            )
        return np.clip(wanted, lo, hi)

    def start(self, y: Tensor) -> None:
        """Save the initial state if it was asked for."""
        if self.due == 0:
            self.save(y, y)

    def save(self, y: Tensor, y_next: Tensor) -> None:
        """Save what lies within the step that ends at node :attr:`due`, from ``y`` to ``y_next``."""
        node = self.due
        while self.due == node:
            t = float(self._wanted[len(self._saved)])
            state = y_next
            if t != self._times[node]:
                left, right = self._times[node - 1], self._times[node]
                state = torch.lerp(y, y_next, float((t - left) / (right - left)))
            self._keep(t, state)
            self.due = self._after[len(self._saved)]

    def stopped(self, t: float, y: Tensor) -> None:
        """Save where a callback ended the run, if it was the last state that was asked for."""
        if self._last_only:
            self._keep(t, y)

    def _keep(self, t: float, y: Tensor) -> None:
        self._saved.append((t, y if y.dtype == self._dtype else y.to(self._dtype)))

    def keep_until(self, node: int) -> None:
        """Drop what was saved beyond the end of step ``node - 1``."""
        kept = sum(after <= node for after in self._after[: len(self._saved)])
        del self._saved[kept:]

    def result(self) -> tuple[Tensor, Tensor]:
        """Saved times and states."""
        ts = torch.tensor([t for t, _ in self._saved], dtype=torch.float64, device="cpu")
        if not self._saved:
            return ts, self._like.new_empty((0, *self._like.shape))
        return ts, torch.stack([state for _, state in self._saved])
