"""The processes that share a computation: those that ``torchrun`` started, or this one alone."""

from __future__ import annotations

import atexit
import contextlib
import datetime
import os
import pickle
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed

_PATIENCE, _FAREWELL = datetime.timedelta(days=30), datetime.timedelta(seconds=30)

_APART: ContextVar[bool] = ContextVar("apart", default=False)
"""Whether this process is at a piece of its own: whatever that calls must not wait for the others."""


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
        """Have the first rank compute something for all, within :func:`apart`; what it raises is raised on every rank.

        Args:
            compute: returns numbers, strings, bytes, lists and dictionaries of them.
        """
        if self.count == 1:
            return compute()
        value, raised, told = None, None, None
        if self.rank == 0:
            try:
                with apart():
                    value = compute()
            except Exception as error:
                raised, told = error, portable(error)
        value, told = self.broadcast((value, told))
        if raised is not None:
            raise raised
        if told is not None:
            raise told
        return value

    def gather(self, thing: Any) -> list[Any]:
        """What each rank holds, in their order; on every rank."""
        if self.count == 1:
            return [thing]
        boxes: list[Any] = [None] * self.count
        distributed.all_gather_object(boxes, thing)
        return boxes

    def agree(self, error: Exception | None) -> None:
        """Raise on every rank what one of them met: the error of the first that met any; its own on that one."""
        met = [one for one in self.gather(None if error is None else (self.rank, portable(error))) if one is not None]
        if met and error is not None and met[0][0] == self.rank:
            raise error
        if met:
            raise met[0][1]


def ranks(device: torch.device, *, join: bool = True) -> Ranks:
    """Join the processes that ``torchrun`` started, or a group that the caller made; one process without either.

    The backend is gloo on a CPU and nccl on CUDA; a group that is there already is used as it is. Within :func:`apart`
    a process is alone.

    Args:
        device: of the states. On CUDA each process must have chosen its own.
        join: make a group of those that ``torchrun`` started; else one that is there already is joined, and no other.
    """
    if _APART.get() or not distributed.is_available():
        return Ranks()
    if not distributed.is_initialized():
        if not join or not started_by_torchrun():
            return Ranks()
        # what is exchanged lies on the host; a process may wait for the slowest, and chunks may take their time
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        distributed.init_process_group(backend, timeout=_PATIENCE)
        atexit.register(_leave)
    return Ranks(distributed.get_rank(), distributed.get_world_size())


def started_by_torchrun() -> bool:
    """Whether ``torchrun`` started this process among several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """While it lasts this process computes by itself, whatever it calls: the others are at pieces of their own."""
    token = _APART.set(True)
    try:
        yield
    finally:
        _APART.reset(token)


def is_apart() -> bool:
    """Whether this process is within :func:`apart`."""
    return _APART.get()


def portable(error: Exception) -> Exception:
    """An error as another process can raise it: itself, or if it cannot be sent its sentence."""
    try:
        back = pickle.loads(pickle.dumps(error))
        if type(back) is type(error) and str(back) == str(error):
            return error
    except Exception:  # whatever a class of somebody else's does
        pass
    return RuntimeError(sentence(error))


def sentence(error: BaseException) -> str:
    """An error in words, with what was noted on its way."""
    return "; ".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())])


def _leave() -> None:
    """Go together: a process that closes its connections while another still makes its own may abort it."""
    if distributed.is_initialized():
        with contextlib.suppress(RuntimeError, ValueError):  # another process died, or the backend has no such barrier
            distributed.monitored_barrier(timeout=_FAREWELL)
        distributed.destroy_process_group()
