"""Chunks of an ensemble that memory does not hold: they are evaluated in parts, with the noise already drawn."""

import logging

import pytest
import torch

from mlsde import SDE, EnsembleError, ensemble
from mlsde.ensembles.memory import InParts


class Memory:
    """A level that holds so many samples at once."""

    def __init__(self, most, error):
        self.most, self.error, self.seen = most, error, []

    def __call__(self, t, y):
        self.seen.append(len(y))
        if len(y) > self.most:
            raise self.error
        return -torch.sin(y)


LACKS = [
    torch.OutOfMemoryError("CUDA out of memory."),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried ..."),
]


@pytest.mark.parametrize("error", LACKS, ids=["cuda", "python", "torch"])
def test_a_chunk_that_memory_does_not_hold_is_evaluated_in_parts_on_the_same_noise(error, caplog):
    level = Memory(30, error)
    with caplog.at_level(logging.WARNING, "mlsde"):
        found = ensemble(SDE(level, 0.5), torch.ones(1, 2), 200, (0, 1), steps=5, chunk=100)
    plain = ensemble(SDE(Memory(1000, error), 0.5), torch.ones(1, 2), 200, (0, 1), steps=5, chunk=100)
    torch.testing.assert_close(found.ys, plain.ys)
    assert level.seen[:7] == [100, 50, 25, 25, 25, 25, 25]  # and never more than a quarter afterwards
    assert max(level.seen[2:]) == 25
    assert "level 1 is out of memory; evaluating 100 samples in 4 parts." in caplog.text


def test_memory_that_does_not_hold_one_sample_is_a_failure():
    with pytest.raises(EnsembleError, match="MemoryError"):
        ensemble(SDE(Memory(0, MemoryError())), torch.ones(1, 2), 4, (0, 1), steps=2, chunk=4)


def test_another_error_of_a_level_is_not_taken_for_a_lack_of_memory():
    level = InParts(Memory(0, RuntimeError("shape mismatch")), "mine")
    with pytest.raises(RuntimeError, match="shape mismatch"):
        level(torch.tensor(0.0), torch.ones(4, 1))
    assert level.parts == 1
