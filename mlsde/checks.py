"""Validators: each raises one sentence that names the argument, what came and what was expected."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

HALF_PRECISIONS = (torch.bfloat16, torch.float16)
FLOATING = (torch.float32, torch.float64, *HALF_PRECISIONS)


def one_of(name: str, value: object, valid: Sequence[str]) -> str:
    """Return ``value`` if it is one of ``valid``; raise ``ValueError`` with the list otherwise."""
    if value not in valid:
        raise ValueError(f"{name}={value!r} is not known; choose one of {', '.join(map(repr, valid))}.")
    return str(value)


def positive_integer(name: str, value: object) -> int:
    """Return ``value`` as an int of at least 1 (bool and float are refused, whole or not)."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be a positive integer, got {value!r} of type {type(value).__name__}.")
    if value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value}.")
    return int(value)


def finite_number(name: str, value: Any) -> float:
    """Return ``value`` as a finite float."""
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be a number, got {value!r} of type {type(value).__name__}.") from None
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {number}.")
    return number


def positive_number(name: str, value: Any) -> float:
    """Return ``value`` as a finite float above zero."""
    number = finite_number(name, value)
    if number <= 0:
        raise ValueError(f"{name} must be above zero, got {number}.")
    return number


def seed_or_seeds(seed: object, batch: int) -> int | tuple[int, ...]:
    """Return one seed for the whole batch, or a tuple with one seed for each of its ``batch`` samples."""
    if isinstance(seed, (int, np.integer)) and not isinstance(seed, bool):
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}.")
        return int(seed)
    if isinstance(seed, (np.ndarray, Tensor)):
        seed = seed.tolist()
    if not isinstance(seed, Iterable) or isinstance(seed, (str, bytes)):
        raise TypeError(f"seed must be an integer or a sequence of integers, got {seed!r}.")
    seeds = tuple(seed)
    if len(seeds) != batch:
        raise ValueError(f"seed holds {len(seeds)} seeds, but y0 has {batch} samples; give one seed for each.")
    if any(isinstance(s, bool) or not isinstance(s, (int, np.integer)) or s < 0 for s in seeds):
        raise ValueError(f"seed must hold non-negative integers, got {seeds!r}.")
    return tuple(int(s) for s in seeds)


def state(name: str, y: object) -> Tensor:
    """Return ``y`` if it is a finite floating-point tensor with a samples dimension."""
    if not isinstance(y, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(y).__name__}; use torch.as_tensor(...).")
    if y.dtype not in FLOATING:
        raise TypeError(f"{name} must be of a floating dtype, got {y.dtype}; use {name}.float() or {name}.double().")
    if y.ndim == 0 or y.shape[0] == 0:
        raise ValueError(f"{name} needs at least one sample in dimension 0, got shape {tuple(y.shape)}.")
    if not bool(torch.isfinite(y).all()):
        raise ValueError(f"{name} must be finite, but it holds NaN or infinity.")
    return y


def as_float64(name: str, values: Any) -> np.ndarray:
    """Return ``values`` (sequence, array or tensor) as a one-dimensional finite float64 array."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().double().numpy()
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must hold numbers, got {values!r}.") from None
    if array.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, got shape {array.shape}.")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, but it holds NaN or infinity.")
    return array


def time_span(t_span: Any) -> tuple[float, float]:
    """Return ``(t0, t1)`` as two different finite floats; ``t1 < t0`` runs backwards."""
    span = as_float64("t_span", t_span)
    if len(span) != 2 or span[0] == span[1]:
        raise ValueError(f"t_span must be two different times (t0, t1), got {tuple(span.tolist())}.")
    return float(span[0]), float(span[1])


def time_grid(t_span: Any, steps: Any, times: Any) -> np.ndarray:
    """Return the grid ``t_0 … t_N`` in float64, from ``steps`` equal steps or from explicit ``times``."""
    if (steps is None) == (times is None):
        raise ValueError("give exactly one of steps= (a number of equal steps) and times= (an explicit grid).")
    if times is None:
        t0, t1 = time_span(t_span)
        return _strictly_monotone("steps", np.linspace(t0, t1, positive_integer("steps", steps) + 1))
    grid = as_float64("times", times)
    if len(grid) < 2:
        raise ValueError(f"times must hold at least two times, got {len(grid)}.")
    if t_span is not None and time_span(t_span) != (grid[0], grid[-1]):
        raise ValueError(f"times runs from {grid[0]} to {grid[-1]}, but t_span={tuple(t_span)}; make them agree.")
    return _strictly_monotone("times", grid)


def _strictly_monotone(name: str, grid: np.ndarray) -> np.ndarray:
    steps = np.diff(grid)
    if not ((steps > 0).all() or (steps < 0).all()):
        at = int(np.argmin(steps * np.sign(grid[-1] - grid[0])))
        raise ValueError(
            f"{name} must give strictly increasing or strictly decreasing times, "
            f"but times {at} and {at + 1} are {grid[at]} and {grid[at + 1]}."
        )
    return grid
