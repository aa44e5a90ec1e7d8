"""The processes that share a computation: those that ``torchrun`` started, or this one alone."""

from __future__ import annotations

import atexit
import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed


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
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(_leave)
    return Ranks(distributed.get_rank(), distributed.get_world_size())


def _leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()
