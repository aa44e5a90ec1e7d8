"""Where the trajectories of an ensemble begin, and the seeds of each chunk."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from torch import Tensor

from mlsde import checks, randomness

SampleY0 = Callable[[int], Tensor]

_ELEMENTS = 2**18
"""Numbers in the state of a chunk, by default: enough to hide the price of a step, few enough for a cache."""

_PILOT = 4096
"""Initial states for a pilot, at most."""

_CHUNKS = 32
"""Chunks to have at least, by default, where the trajectories of one share coins: errors come from their scatter."""


class Starts:
    """Initial states and seeds of the chunks.

    Attributes:
        n: trajectories.
        seed: of everything.
        source: of the states.
        size: of a chunk; the last may be smaller.
        example: one initial state, shape ``(1, ...)``.

    Args:
        source: a function of a count, or a tensor with one state or ``n``.
        n: trajectories.
        seed: of everything.
        size: of a chunk; ``None`` chooses.
        shared: whether the trajectories of a chunk share coins.
        saved: times at which states are saved, which are held too.

    Raises:
        TypeError, ValueError: naming the argument.
    """

    def __init__(
        self,
        source: SampleY0 | Tensor,
        n: int,
        seed: int,
        size: int | None = None,
        shared: bool = False,
        saved: int = 1,
    ) -> None:
        self.n, self.seed = checks.positive_integer("n", n), checks.one_seed(seed)
        self.source = source
        if isinstance(source, Tensor):
            if len(checks.state("sample_y0", source)) not in (1, n):
                raise ValueError(f"sample_y0 holds {len(source)} states, but n={n}; give one for all, or one for each.")
        else:
            checks.callable_as("sample_y0", "sample_y0(count)", source)
        self.example = self._states(0, 0, 1)
        if size is None:
            numbers = math.prod(self.example.shape[1:])
            size = max(1, min(_ELEMENTS // numbers, 8 * _ELEMENTS // (numbers * saved)))
            size = min(size, max(1, n // _CHUNKS)) if shared else size
        self.size = min(checks.positive_integer("chunk", size), n)

    @property
    def count(self) -> int:
        """Number of chunks."""
        return -(-self.n // self.size)

    def samples(self, chunk: int) -> int:
        """Trajectories of a chunk."""
        return min(self.size, self.n - chunk * self.size)

    def noise_seed(self, chunk: int) -> int:
        """Seed of the noise and the coins of a chunk."""
        return self._seeds(chunk)[0]

    def draw(self, chunk: int) -> Tensor:
        """Initial states of a chunk, shape ``(samples, ...)``."""
        begin = chunk * self.size
        return self._states(chunk, begin, begin + self.samples(chunk))

    def some(self) -> Tensor:
        """Some initial states, for a pilot: not those of the run if they are drawn."""
        return self._states(0, 0, min(self.n, max(1, min(_PILOT, _ELEMENTS // math.prod(self.example.shape[1:])))))

    def _seeds(self, chunk: int) -> tuple[int, int, int]:
        """Seeds of noise and coins, of the initial states, and of what the levels draw themselves."""
        words = np.random.SeedSequence((self.seed, randomness.ENSEMBLE, chunk)).generate_state(3, np.uint64)
        return int(words[0]) >> 1, int(words[1]) >> 1, int(words[2]) >> 1

    def _states(self, chunk: int, begin: int, end: int) -> Tensor:
        if isinstance(self.source, Tensor):
            if len(self.source) == 1:
                return self.source.expand(end - begin, *self.source.shape[1:]).clone()
            return self.source[begin:end]
        with self.seeded(chunk, start=True):
            return self._checked(self.source(end - begin), end - begin)

    def _checked(self, states: object, count: int) -> Tensor:
        found = checks.state("what sample_y0 returned", states)
        if len(found) != count:
            raise ValueError(f"sample_y0({count}) returned {len(found)} states, expected {count} in dimension 0.")
        example = getattr(self, "example", found)
        for name in ("dtype", "device"):
            if getattr(found, name) != getattr(example, name):
                raise TypeError(
                    f"sample_y0 returned {getattr(found, name)} here and {getattr(example, name)} before; "
                    f"make the {name} of its states always the same."
                )
        if found.shape[1:] != example.shape[1:]:
            raise ValueError(
                f"sample_y0 returned states of shape {tuple(found.shape[1:])} here and {tuple(example.shape[1:])} "
                "before; make it always the same."
            )
        return found

    @contextmanager
    def seeded(self, chunk: int, *, start: bool = False) -> Iterator[None]:
        """Torch's own generators, seeded for the initial states of a chunk or for its run; as they were afterwards."""
        with randomness.seeded(self._seeds(chunk)[1 if start else 2]):
            yield
