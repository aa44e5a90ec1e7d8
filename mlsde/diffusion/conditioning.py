"""What a denoiser is given besides the noisy samples: spread over a batch, and doubled for guidance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def for_batch(value: Any, count: int, name: str) -> Any:
    """Conditioning for ``count`` samples: shared tensors are spread."""
    if isinstance(value, Mapping):
        return {key: for_batch(part, count, f"{name}[{key!r}]") for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(for_batch(part, count, f"{name}[{i}]") for i, part in enumerate(value))
    if not isinstance(value, Tensor) or value.ndim == 0 or len(value) == count:
        return value
    if len(value) == 1:
        return value.expand(count, *value.shape[1:])
    raise ValueError(
        f"conditioning{name} is of {len(value)} samples, but the denoiser was shown {count}; give one for each, and "
        "use share='batch', because with share='sample' a level sees some samples alone."
    )


def doubled(first: Any, second: Any) -> Any:
    """Conditioning of both halves of a doubled batch."""
    if isinstance(first, Mapping) and isinstance(second, Mapping) and set(first) == set(second):
        return {key: doubled(part, second[key]) for key, part in first.items()}
    if isinstance(first, (list, tuple)) and type(first) is type(second) and len(first) == len(second):
        return type(first)(doubled(*pair) for pair in zip(first, second, strict=True))
    if isinstance(first, Tensor) and isinstance(second, Tensor) and first.ndim > 0:
        if first.shape != second.shape:
            raise ValueError(
                "conditional and unconditional must have tensors of the same shape, "
                f"got {tuple(second.shape)} and {tuple(first.shape)}; pad the shorter."
            )
        if first.device != second.device:
            raise ValueError(
                f"conditional and unconditional must be on one device, got {second.device} and {first.device}."
            )
        return torch.cat([first, second])
    if not _same(first, second):
        raise ValueError(f"conditional and unconditional must be tensors where they differ, got {first!r}, {second!r}.")
    return first


def _same(first: Any, second: Any) -> bool:
    try:
        return first is second or (type(first) is type(second) and bool(first == second))
    except (TypeError, ValueError, RuntimeError):  # arrays do not say whether they are the same
        return False


def tensors(value: Any) -> list[Tensor]:
    """All tensors within dictionaries and lists."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [tensor for part in value for tensor in tensors(part)]
    return [value] if isinstance(value, Tensor) else []
