"""Levels made faster: compiled, or in a lower precision; each stands where the level stood."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_Function = Callable[[Tensor, Tensor], Tensor]

PRECISIONS = (torch.bfloat16, torch.float16)


def padded_size(samples: int) -> int:
    """The next of a few sizes, four in each doubling: 1 … 8, 10, 12, 14, 16, 20, …; at most a quarter more."""
    step = 2 ** max(0, (samples - 1).bit_length() - 3)
    return -(-samples // step) * step


class CompiledLevel:
    """A level compiled by :func:`torch.compile` at its first call.

    Args:
        level: ``f(t, y)``.
        options: of :func:`torch.compile`. Modes that capture CUDA graphs write every result to the same place, so it is
            copied from there.
        few_sizes: whether samples are padded to :func:`padded_size`.
    """

    def __init__(self, level: _Function, options: dict[str, Any], few_sizes: bool = False) -> None:
        self.level, self._few_sizes = level, few_sizes
        self._compiled: _Function = torch.compile(level, **options)
        self._copies = options.get("mode") in ("reduce-overhead", "max-autotune")

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        """Evaluate."""
        count = y.shape[0]
        missing = padded_size(count) - count if self._few_sizes else 0
        if missing:  # with a state that there is, because a level may fail at others
            y = torch.cat([y, y[:1].expand(missing, *y.shape[1:])])
        if not self._copies:
            return self._compiled(t, y)[:count] if missing else self._compiled(t, y)
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        return self._compiled(t, y)[:count].clone()

    def __repr__(self) -> str:
        return f"compiled {self.level!r}"


class RoundedLevel:
    """A level whose matrix products and convolutions run in half precision; its argument and its value do not.

    Args:
        level: ``f(t, y)``.
        dtype: ``torch.bfloat16`` or ``torch.float16``.
    """

    def __init__(self, level: _Function, dtype: torch.dtype) -> None:
        self.level, self.dtype = level, dtype

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        """Evaluate under :class:`torch.autocast`."""
        with torch.autocast(y.device.type, self.dtype):
            value = self.level(t, y)
        # what is no number of the kind is left to those who check levels
        return value.to(y.dtype) if isinstance(value, Tensor) and value.dtype.is_floating_point else value

    def __repr__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')} {self.level!r}"
