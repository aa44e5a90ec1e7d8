"""Memory of a long run: what is held before its first step, what grows while it runs; the peak of any work."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import mlsde
from mlsde.bench.contenders import DIFFUSION, STEP

_STATM, _STATUS, _FORGET = (Path("/proc/self") / name for name in ("statm", "status", "clear_refs"))


@dataclass(frozen=True)
class Memory:
    """Memory of one run of a state of shape (1, 1).

    Attributes:
        steps: number of steps.
        held: bytes of resident memory per step that the run takes before its first step: the grid and the plan, which
            a long run does not keep.
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
            seen[n] = _settled(), live_tensors()

    sde, y0 = mlsde.SDE(lambda t, y: -y, DIFFUSION), torch.ones(1, 1)
    _settle(sde, y0)
    before = _settled()
    mlsde.solve(sde, y0, (0.0, steps * STEP), steps=steps, seed=seed, callback=watch)
    held = (seen[1][0] - before) / steps
    growth = (seen[steps][0] - seen[early][0]) / (steps - early)
    return Memory(steps, held, growth, seen[steps][1] - seen[early][1])


def _settle(sde: mlsde.SDE, y0: Tensor) -> None:
    """Take a few steps first, so that what torch loads once is not counted."""
    mlsde.solve(sde, y0, (0.0, 1.0), steps=200, callback=lambda n, t, y: None)
    live_tensors()


def _settled() -> int:
    """Resident memory once what is unreachable has gone and the allocator gave back what it keeps."""
    gc.collect()
    _give_back()
    return resident_bytes()


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


def peak_bytes(work: Callable[[], Any], device: torch.device) -> int | None:
    """Most memory that some work held at once, beyond what was held before it.

    On a CPU: resident memory of the process, whose peak Linux can be told to forget; what the allocator had kept from
    earlier work is given back first. On a CUDA device: what torch had allocated there.

    Returns:
        Bytes, or ``None`` where the system does not tell.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    _give_back()
    try:
        _FORGET.write_text("5")
    except OSError:
        return None
    before = _status("VmRSS")
    work()
    return max(0, _status("VmHWM") - before)


def _status(field: str) -> int:
    """A size in bytes from what the system says of this process."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return 1024 * int(line.split()[1])


def _give_back() -> None:
    """Have the allocator of the C library give back what it keeps, where it can."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return
    trim(0)
