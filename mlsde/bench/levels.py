"""Levels to measure with: one that costs next to nothing, ones that work, and wrappers that count or add work."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

import mlsde

Drift = Callable[[Tensor, Tensor], Tensor]

RATIO = (1.0, 8.0, 64.0)
"""Prices of the levels that work, over the cheapest's."""


class InJax(Protocol):
    """A level that can say itself in JAX."""

    def in_jax(self) -> Callable[[Any, Any], Any]:
        """The same function of JAX arrays."""
        ...


def free(t: Tensor, y: Tensor) -> Tensor:
    """``-y``: the cheapest drift that is not a constant. It is one for JAX arrays too."""
    return -y


class BusyLevel:
    """A level that works: ``-y`` and a little of what so many products with a matrix make of ``y``.

    Args:
        products: number of matrix products; with none the little is ``y`` itself.
        numbers: in the state of a sample.
        size: of the little, by which levels differ.
    """

    def __init__(self, products: int, numbers: int, size: float) -> None:
        self.products, self._size = products, size
        generator = torch.Generator().manual_seed(0)
        self._matrix = torch.randn(numbers, numbers, generator=generator) / math.sqrt(numbers)

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        """Evaluate."""
        self._matrix = self._matrix.to(y)  # moves once
        hidden = y
        for _ in range(self.products):
            hidden = torch.tanh(hidden @ self._matrix)
        return torch.add(-y, hidden, alpha=self._size)

    def in_jax(self) -> Callable[[Any, Any], Any]:
        """The same in JAX."""
        import jax.numpy as jnp  # noqa: PLC0415, a peer to compare with, not a dependency

        matrix, size, products = jnp.asarray(self._matrix.cpu().numpy()), self._size, self.products

        def drift(t: Any, y: Any) -> Any:
            hidden = y
            for _ in range(products):
                hidden = jnp.tanh(hidden @ matrix)
            return -y + size * hidden

        return drift


def busy_ladder(milliseconds: float, y: Tensor, ratio: Sequence[float] = RATIO) -> mlsde.DriftHierarchy:
    """A ladder whose cheapest level takes about so long at a state, the others so many times as long.

    Args:
        milliseconds: of one evaluation of the cheapest.
        y: the state, shape ``(samples, numbers)``.
        ratio: prices over the cheapest's.
    """
    trial, t = BusyLevel(20, y.shape[1], 0.1), torch.zeros((), device=y.device)
    each = min(clock(lambda: trial(t, y), y.device) for _ in range(5)) / 20
    least = max(1, round(1e-3 * milliseconds / each))
    levels = [BusyLevel(round(least * r), y.shape[1], 0.1 / (k + 1)) for k, r in enumerate(ratio)]
    return mlsde.DriftHierarchy(levels, [float(r) for r in ratio])


class Laboured:
    """A level with work added whose outcome is thrown away: the same values at another price.

    Args:
        level: the level.
        products: matrix products that are added.
        width: of the matrix.
    """

    def __init__(self, level: Drift, products: int, width: int) -> None:
        self._level, self.products = level, products
        generator = torch.Generator().manual_seed(0)
        self._matrix = torch.randn(width, width, generator=generator) / math.sqrt(width)

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        """Evaluate, and work."""
        value = self._level(t, y)
        if self.products == 0:
            return value
        self._matrix = self._matrix.to(y)
        hidden = y.repeat(1, -(-len(self._matrix) // y.shape[1]))[:, : len(self._matrix)]
        for _ in range(self.products):
            hidden = torch.tanh(hidden @ self._matrix)
        return torch.add(value, hidden[:, :1], alpha=0.0)


class Counted:
    """A level that counts its evaluations, in torch and in compiled JAX."""

    def __init__(self, level: Drift) -> None:
        self._level, self.count = level, 0

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        """Evaluate and count."""
        self.count += 1
        return self._level(t, y)

    def in_jax(self) -> Callable[[Any, Any], Any]:
        """The same in JAX, counting when it is run and not when it is traced."""
        import jax  # noqa: PLC0415

        def counted() -> None:
            self.count += 1

        def drift(t: Any, y: Any) -> Any:
            jax.debug.callback(counted)
            return self._level(t, y)

        return drift


def clock(work: Callable[[], Any], device: torch.device) -> float:
    """Seconds that some work takes, its device's included."""
    _finish(device)
    begin = time.perf_counter()
    work()
    _finish(device)
    return time.perf_counter() - begin


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def price(level: Drift, y: Tensor, seconds: float = 2e-2) -> float:
    """Seconds of one evaluation at a state, the mean over as many as so many seconds hold, and at least three."""
    t = torch.zeros((), dtype=y.dtype, device=y.device)

    def evaluated(times: int) -> None:
        for _ in range(times):
            level(t, y)

    with torch.no_grad():
        evaluated(1)
        times = max(3, min(10_000, int(seconds / clock(lambda: evaluated(3), y.device) * 3)))
        return clock(lambda: evaluated(times), y.device) / times
