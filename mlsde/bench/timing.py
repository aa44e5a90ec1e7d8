"""Timing the contenders against each other, in one process and in turn."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from mlsde import checks
from mlsde.bench import contenders, diffrax_euler, levels
from mlsde.bench.contenders import CONTENDERS
from mlsde.bench.levels import Counted, Drift, free
from mlsde.bench.memory import memory, peak_bytes
from mlsde.bench.results import CoreBenchmark, Timing
from mlsde.progress import bar

SHAPES = ((1, 1), (1000, 10), (10_000, 64))
"""Shapes of the states that :func:`core` measures."""

LEVELS = 3
"""Levels of the ladder of the multilevel contenders; probabilities 1, 1/4, 1/16."""

_SLOW = (contenders.TORCHSDE, contenders.TREE, contenders.UNSAFE)
_LONG = 10_000_000
"""Numbers in a state times steps from which the slow ones, seconds a run there, join every third repeat only."""


def core(
    repeats: int = 9,
    *,
    steps: int = 1000,
    shapes: Sequence[Sequence[int]] = SHAPES,
    memory_steps: Sequence[int] = (100_000, 1_000_000),
    seed: int = 0,
    progress: bool = False,
) -> CoreBenchmark:
    """Compare the price of a step with a bare loop, torchsde and diffrax, and watch the memory of a long run.

    The drift is ``-y``, the cheapest there is that is not a constant, so that what is compared is the machinery around
    it; so is each of the three levels of the ladder. Every repeat runs every contender once, each time another one
    first; torch and JAX work with one thread meanwhile. torchsde and diffrax are left out, with a line, where they are
    not installed.

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
    names, notes = contenders.present(torch.device("cpu"))
    if importlib.util.find_spec("resource") is None:
        lengths, notes = [], (*notes, "This system does not tell how much memory a process holds, so it is left out.")
    total = len(lengths) + len(states) * len(names) * (repeats + 1)
    with one_thread(), bar(total=total, disable=not progress, unit="run") as shown:
        watched = []
        for length in lengths:  # first, while the process is small
            watched.append(memory(length, seed))
            shown.update()
        timings = []
        for y0 in states:
            timings += timed(names, [free] * LEVELS, y0, steps, repeats, seed, ran=shown.update)
    return CoreBenchmark(tuple(timings), tuple(watched), seed, notes)


def timed(
    names: Sequence[str],
    ladder: Sequence[Drift],
    y0: Tensor,
    steps: int,
    repeats: int,
    seed: int,
    ran: Callable[[], Any] = lambda: None,
) -> list[Timing]:
    """Time contenders in turn, and beside them the evaluations of their drift by themselves.

    Args:
        names: of contenders.
        ladder: the levels; all but the multilevel contenders use the last alone.
        y0: the state, whose device is used.
        steps: of each run.
        repeats: of each contender; the slow ones rest in two of three where a run is long.
        seed: of the runs.
        ran: called after each run, and for each that rests.
    """
    compiled = {name: contenders.compile_seconds(name, ladder, y0) for name in names}
    counts = {name: evaluations(name, len(ladder), steps, seed) for name in names}
    long = steps * y0.numel() >= _LONG
    peaks = {}
    for name in names:
        work = _run(name, ladder, y0, steps, seed)
        runs = 1 if long else 2  # the first may also load what stays, which is little beside a long one
        found = [peak_bytes(work, y0.device) for _ in range(runs)]
        peaks[name] = min((peak for peak in found if peak is not None), default=None)
        ran()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    inside: dict[str, list[float]] = {name: [] for name in names}
    for turns in _schedule(list(names), repeats, long):
        prices = _prices(ladder, y0, any(map(contenders.speaks_jax, turns)))
        for name in turns:
            seconds[name].append(levels.clock(_run(name, ladder, y0, steps, seed), y0.device))
            each = prices[contenders.speaks_jax(name)]
            inside[name].append(sum(n * p for n, p in zip(counts[name], each, strict=True)))
            ran()
        for _ in range(len(names) - len(turns)):
            ran()
    return [
        Timing(tuple(y0.shape), name, steps, counts[name], tuple(seconds[name]), tuple(inside[name]),
               compiled[name], peaks[name])
        for name in names
    ]  # fmt: skip


def _run(name: str, ladder: Sequence[Drift], y0: Tensor, steps: int, seed: int) -> Callable[[], None]:
    def run() -> None:
        y1 = CONTENDERS[name](ladder, y0, steps, seed)
        if y1.shape != y0.shape or not math.isfinite(float(y1.sum())):
            shape = tuple(y0.shape)
            raise RuntimeError(f"{name} returned no finite state of shape {shape}; its time would mean nothing.")

    return run


def _schedule(names: list[str], repeats: int, long: bool) -> list[list[str]]:
    """Whose turn it is: in repeat ``r`` contender ``r`` comes first, and the others follow in order."""
    schedule = []
    for r in range(repeats):
        first = r % len(names)
        rotated = names[first:] + names[:first]
        schedule.append([name for name in rotated if not (long and r % 3 > 0 and name in _SLOW)])
    return schedule


def _prices(ladder: Sequence[Drift], y0: Tensor, in_jax: bool) -> dict[bool, list[float]]:
    """Seconds of one evaluation of each level, in torch and in JAX; the same level is timed once."""
    torchs = {level: levels.price(level, y0) for level in dict.fromkeys(ladder)}
    jaxs = dict.fromkeys(ladder, 0.0)
    if in_jax:
        jaxs[ladder[-1]] = diffrax_euler.price(ladder[-1], y0)
    return {False: [torchs[level] for level in ladder], True: [jaxs[level] for level in ladder]}


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


@lru_cache(maxsize=64)
def evaluations(name: str, count: int, steps: int, seed: int) -> tuple[int, ...]:
    """Evaluations of each of ``count`` levels in one run, counted apart, so that counting costs the timed runs nothing.

    They depend neither on the drift nor on the state.
    """
    ladder = _counters(count)
    for level in ladder:
        level.count = 0
    CONTENDERS[name](ladder, torch.ones(1, 1), steps, seed)
    if contenders.speaks_jax(name):
        diffrax_euler.settle()
    return tuple(level.count for level in ladder)


@lru_cache(maxsize=8)
def _counters(count: int) -> tuple[Counted, ...]:
    """Counting levels, the same for each call, so that they are compiled once."""
    return tuple(Counted(free) for _ in range(count))
