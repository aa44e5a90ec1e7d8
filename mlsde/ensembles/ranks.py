"""The processes that share a computation: those that ``torchrun`` started, or this one alone."""

from __future__ import annotations

import atexit
import contextlib
import datetime
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed

_PATIENCE, _FAREWELL = datetime.timedelta(days=30), datetime.timedelta(seconds=30)

_ERRORS: dict[str, type[Exception]] = {"TypeError": TypeError, "ValueError": ValueError, "OSError": OSError}


@dataclass(frozen=True)
class Ranks:
    """This process among those that share a computation.

    Attributes:
        rank: of this process, from 0.
        count: of processes.
    """

    rank: int = 0
    count: int = 1

    def broadcast(self, thing: Any) -> Any:
        """What the first rank holds; numbers, strings, bytes, lists and dictionaries of them."""
        if self.count == 1:
            return thing
        box = [thing]
        distributed.broadcast_object_list(box, src=0)
        return box[0]

    def first(self, compute: Callable[[], Any]) -> Any:
        """Have the first rank compute something for all; what it raises is raised on every rank.

        Args:
            compute: returns numbers, strings, bytes, lists and dictionaries of them.
        """
        if self.count == 1:
            return compute()
        outcome: tuple[bool, Any] = (False, None)
        raised: Exception | None = None
        if self.rank == 0:
            try:
                outcome = True, compute()
            except Exception as error:
                raised, outcome = error, (False, (_kind(error), str(error)))
        done, value = self.broadcast(outcome)
        if done:
            return value
        if raised is not None:
            raise raised
        kind, message = value
        raise _ERRORS.get(kind, RuntimeError)(message)

    def gather(self, thing: Any) -> list[Any]:
        """What each rank holds, in their order; on every rank."""
        if self.count == 1:
            return [thing]
        boxes: list[Any] = [None] * self.count
        distributed.all_gather_object(boxes, thing)
        return boxes


def ranks(device: torch.device) -> Ranks:
    """Join the processes that ``torchrun`` started, or a group that the caller made; one process without either.

    The backend is gloo on a CPU and nccl on CUDA; a group that is there already is used as it is.

    Args:
        device: of the states. On CUDA each process must have chosen its own.
    """
    if not distributed.is_available():
        return Ranks()
    if not distributed.is_initialized():
        if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "RANK" not in os.environ:
            return Ranks()
        # what is exchanged lies on the host; a process may wait for the slowest, and chunks may take their time
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        distributed.init_process_group(backend, timeout=_PATIENCE)
        atexit.register(_leave)
    return Ranks(distributed.get_rank(), distributed.get_world_size())


def _kind(error: Exception) -> str:
    """Name of the error's class, or of the first above it that another process knows."""
    return next((kind.__name__ for kind in type(error).__mro__ if kind.__name__ in _ERRORS), "RuntimeError")


def _leave() -> None:
    """Go together: a process that closes its connections while another still makes its own may abort it."""
    if distributed.is_initialized():
        with contextlib.suppress(RuntimeError, ValueError):  # another process died, or the backend has no such barrier
            distributed.monitored_barrier(timeout=_FAREWELL)
        distributed.destroy_process_group()
