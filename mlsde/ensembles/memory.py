"""Levels that are short of memory: they are evaluated for half of the samples at a time, or for fewer."""

from __future__ import annotations

import gc

import torch
from torch import Tensor

from mlsde.hierarchy import Level
from mlsde.log import log
from mlsde.sde import SDE


class InParts:
    """A level that is evaluated for fewer samples at a time whenever memory does not suffice for all.

    The state and the noise are as they were, so that the result is the same to rounding. The number of parts is
    remembered.

    Args:
        level: ``f(t, y)``.
        name: of the level, for the log.
    """

    def __init__(self, level: Level, name: str) -> None:
        self._level, self._name, self.parts = level, name, 1

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        """Evaluate, in as many parts as it takes; what the level raises for a single sample is raised."""
        while True:
            try:
                if self.parts == 1:
                    return self._level(t, y)
                return torch.cat([self._level(t, part) for part in torch.tensor_split(y, min(self.parts, len(y)))])
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error) or self.parts >= len(y):
                    raise
            self._free(y)
            self.parts *= 2
            log.warning("%s is out of memory; evaluating %d samples in %d parts.", self._name, len(y), self.parts)

    def _free(self, y: Tensor) -> None:
        gc.collect()
        if y.device.type == "cuda":
            torch.cuda.empty_cache()


def out_of_memory(error: BaseException) -> bool:
    """Whether memory was what lacked; torch says so on a CPU by a sentence alone."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def in_parts(sde: SDE) -> SDE:
    """The same equation, each of whose levels makes do with less memory."""
    drift = sde.drift
    levels = [InParts(level, name) for level, name in zip(drift.levels, drift.names, strict=True)]
    return sde.with_drift(drift.with_levels(levels))
