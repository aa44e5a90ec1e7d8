"""Timing the contenders against each other, in one process and in turn."""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from mlsde import checks
from mlsde.bench.contenders import CONTENDERS, TORCHSDE
from mlsde.bench.memory import memory
from mlsde.bench.results import CoreBenchmark, Timing
from mlsde.progress import bar

SHAPES = ((1, 1), (1000, 10), (10_000, 64))
_LARGE = 100_000
"""Elements of a state from which torchsde, which takes half a minute a run there, joins every third repeat only."""


def core(
    repeats: int = 9,
    *,
    steps: int = 1000,
    shapes: Sequence[Sequence[int]] = SHAPES,
    memory_steps: Sequence[int] = (100_000, 1_000_000),
    seed: int = 0,
    progress: bool = False,
) -> CoreBenchmark:
    """Compare the price of a step with a bare loop and with torchsde, and watch the memory of a long run.

    The drift is ``-y``, the cheapest there is that is not a constant, so that what is compared is the machinery around
    it. Every repeat runs every contender once, each time another one first; torch works with one thread meanwhile.

    Args:
        repeats: runs of each contender at each shape.
        steps: steps of each run. ``BrownianPath`` is cheapest at the default, which is among its default grids.
        shapes: shapes of the state, float32.
        memory_steps: lengths of the runs whose memory is watched; may be empty.
        seed: seed of the runs.
        progress: show a bar.

    Returns:
        A :class:`CoreBenchmark`.

    Example:
        >>> result = core(repeats=1, steps=10, shapes=[(2, 3)], memory_steps=())
        >>> result.shapes
        ((2, 3),)
    """
    checks.positive_integer("repeats", repeats)
    checks.positive_integer("steps", steps)
    states = [torch.ones([checks.positive_integer("shapes", n) for n in shape]) for shape in shapes]
    lengths = [checks.positive_integer("memory_steps", length) for length in memory_steps]
    names, notes = _present()
    if importlib.util.find_spec("resource") is None:
        lengths, notes = [], (*notes, "This system does not tell how much memory a process holds, so it is left out.")
    total = len(lengths) + sum(map(len, _schedule(names, states, repeats)))
    with one_thread(), bar(total=total, disable=not progress, unit="run") as shown:
        watched = []
        for length in lengths:  # first, while the process is small
            watched.append(memory(length, seed))
            shown.update()
        evaluations = {name: _count(name, steps, seed) for name in names}
        timings = []
        for y0, turns in zip(states, _schedule(names, states, repeats), strict=True):
            seconds: dict[str, list[float]] = {name: [] for name in names}
            for name in turns:
                seconds[name].append(_seconds(name, y0, steps, seed))
                shown.update()
            timings += [Timing(tuple(y0.shape), name, steps, evaluations[name], tuple(seconds[name])) for name in names]
    return CoreBenchmark(tuple(timings), tuple(watched), seed, notes)


def _present() -> tuple[list[str], tuple[str, ...]]:
    if importlib.util.find_spec("torchsde") is not None:
        return list(CONTENDERS), ()
    note = "torchsde is not installed, so there is no comparison with it: pip install torchsde."
    return [name for name in CONTENDERS if name != TORCHSDE], (note,)


def _schedule(names: list[str], states: list[Tensor], repeats: int) -> list[list[str]]:
    """For each state, whose turn it is: in repeat ``r`` contender ``r`` comes first, and the others follow in order."""
    schedule = []
    for y0 in states:
        turns: list[str] = []
        for r in range(repeats):
            first = r % len(names)
            rotated = names[first:] + names[:first]
            rests = y0.numel() >= _LARGE and r % 3 > 0
            turns += [name for name in rotated if not (rests and name == TORCHSDE)]
        schedule.append(turns)
    return schedule


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread, and torch's own generator left as it was."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(threads)


def _drift(t: Tensor, y: Tensor) -> Tensor:
    return -y


def _seconds(name: str, y0: Tensor, steps: int, seed: int) -> float:
    start = time.perf_counter()
    y1 = CONTENDERS[name](_drift, y0, steps, seed)
    seconds = time.perf_counter() - start
    if y1.shape != y0.shape or not math.isfinite(float(y1.sum())):
        raise RuntimeError(f"{name} returned no finite state of shape {tuple(y0.shape)}; its time would mean nothing.")
    return seconds


def _count(name: str, steps: int, seed: int) -> int:
    """Drift evaluations of one run, counted apart, so that counting costs the timed runs nothing."""
    count = 0

    def drift(t: Tensor, y: Tensor) -> Tensor:
        nonlocal count
        count += 1
        return _drift(t, y)

    CONTENDERS[name](drift, torch.ones(1, 1), steps, seed)
    return count
