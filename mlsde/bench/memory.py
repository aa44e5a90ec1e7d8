"""Memory of a long run: what is held before its first step, and what grows while it runs."""

from __future__ import annotations

import gc
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import mlsde
from mlsde.bench.contenders import DIFFUSION, STEP

_STATM = Path("/proc/self/statm")


@dataclass(frozen=True)
class Memory:
    """Memory of one run of a state of shape (1, 1).

    Attributes:
        steps: number of steps.
        held: bytes of resident memory per step that the run takes before its first step: the grid and the plan.
        growth: bytes of resident memory per step that are added from its first tenth to its end.
        tensors: how many more tensors live at its end than after its first tenth; noise and times come in blocks,
            so some dozens either way mean nothing.
    """

    steps: int
    held: float
    growth: float
    tensors: int

    @property
    def constant(self) -> bool:
        """True if a step leaves behind less than a byte and a thousandth of a tensor (a reference takes 8 bytes)."""
        return self.growth < 1.0 and self.tensors < 1e-3 * self.steps


def memory(steps: int, seed: int = 0) -> Memory:
    """Watch the memory of one :func:`mlsde.solve` with a state of shape (1, 1)."""
    seen: dict[int, tuple[int, int]] = {}
    early = max(2, steps // 10)

    def watch(n: int, t: float, y: Tensor) -> None:
        if n in (1, early, steps):
            seen[n] = resident_bytes(), live_tensors()

    sde, y0 = mlsde.SDE(lambda t, y: -y, DIFFUSION), torch.ones(1, 1)
    _settle(sde, y0)
    before = resident_bytes()
    mlsde.solve(sde, y0, (0.0, steps * STEP), steps=steps, seed=seed, callback=watch)
    held = (seen[1][0] - before) / steps
    growth = (seen[steps][0] - seen[early][0]) / (steps - early)
    return Memory(steps, held, growth, seen[steps][1] - seen[early][1])


def _settle(sde: mlsde.SDE, y0: Tensor) -> None:
    """Take a few steps first, so that what torch loads once is not counted."""
    mlsde.solve(sde, y0, (0.0, 1.0), steps=200, callback=lambda n, t, y: None)
    live_tensors()


def live_tensors() -> int:
    """Number of tensors that Python holds, once what is unreachable has gone."""
    gc.collect()
    return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())


def resident_bytes() -> int:
    """Memory of this process now; where the system does not tell (it is not Linux), its peak so far."""
    import resource  # noqa: PLC0415 -- not on every system

    if _STATM.exists():
        return int(_STATM.read_text().split()[1]) * resource.getpagesize()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
