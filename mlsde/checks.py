"""Validators: each raises one sentence that names the argument, what came and what was expected."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlsde.grids import LONG, EvenGrid, Grid, stretches

HALF_PRECISIONS = (torch.bfloat16, torch.float16)
MOST_STEPS = 10**9
FLOATING = (torch.float32, torch.float64, *HALF_PRECISIONS)


def truth(name: str, value: Any) -> bool:
    """Return whether ``value`` counts as true, as Python has it; an array of several values does not count."""
    try:
        return bool(value)
    except (TypeError, ValueError, RuntimeError, NotImplementedError):
        raise TypeError(f"{name} must be True or False, got {value!r}.") from None


def one_of(name: str, value: object, valid: Sequence[str]) -> str:
    """Return ``value`` if it is one of ``valid``; raise ``ValueError`` with the list otherwise."""
    if not isinstance(value, str) or value not in valid:
        raise ValueError(f"{name}={value!r} is not known; choose one of {', '.join(map(repr, valid))}.")
    return value


def positive_integer(name: str, value: object, most: float = 10**12) -> int:
    """Return ``value`` as an int from 1 to ``most`` (bool and float are refused, whole or not)."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be a positive integer, got {value!r} of type {type(value).__name__}.")
    if value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value}.")
    if value > most:
        raise ValueError(f"{name} must be at most {most:g}, got {value}.")
    return int(value)


def number(name: str, value: Any) -> float:
    """Return ``value`` as a float, which may be infinite or NaN."""
    if type(value) is float:
        return value
    try:
        if isinstance(value, (str, bytes, bool)) or np.iscomplexobj(value):
            raise TypeError("not a number, though float() would take it")
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be a number, got {value!r} of type {type(value).__name__}.") from None
    except OverflowError:
        return math.inf


def finite_number(name: str, value: Any) -> float:
    """Return ``value`` as a finite float."""
    finite = number(name, value)
    if not math.isfinite(finite):
        raise ValueError(f"{name} must be finite, got {finite}.")
    return finite


def positive_number(name: str, value: Any) -> float:
    """Return ``value`` as a finite float above zero."""
    positive = finite_number(name, value)
    if positive <= 0:
        raise ValueError(f"{name} must be above zero, got {positive}.")
    return positive


def non_negative_number(name: str, value: Any) -> float:
    """Return ``value`` as a finite float of at least zero."""
    finite = finite_number(name, value)
    if finite < 0:
        raise ValueError(f"{name} must not be negative, got {finite}.")
    return finite


def squarable(name: str, value: Any) -> float:
    """Return ``value`` as a float whose square float64 holds too."""
    finite = finite_number(name, value)
    if abs(finite) > 1e150:
        raise ValueError(f"{name} must lie between -1e150 and 1e150, got {finite:g}.")
    return finite


def torch_seed(seed: object) -> int:
    """Return ``seed`` as an int that a generator of torch takes."""
    if (number := one_seed(seed)) >= 2**63:
        raise ValueError(f"seed must be below 2^63, got {number}.")
    return number


def one_seed(seed: object) -> int:
    """Return ``seed`` as an int that is not negative."""
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise TypeError(f"seed must be an integer, got {seed!r} of type {type(seed).__name__}.")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}.")
    return int(seed)


def within(name: str, value: float, dtype: torch.dtype) -> None:
    """Raise ``ValueError`` if ``dtype`` holds no number as large as ``value``."""
    if abs(value) > torch.finfo(dtype).max:
        raise ValueError(f"{name} must lie within the range of {dtype}, in which the run is summed, got {value:g}.")


def items(name: str, values: Any, what: str) -> list[Any]:
    """Return ``values`` (any iterable, an array or a tensor) as a list of ``what``; text and tables are none."""
    if isinstance(values, (Tensor, np.ndarray)):
        values = (dense(name, values) if isinstance(values, Tensor) else values).tolist()
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a sequence of {what}, got {values!r}.")
    return list(values)


def seed_or_seeds(seed: object, batch: int) -> int | tuple[int, ...]:
    """Return one seed for the whole batch, or a tuple with one seed for each of its ``batch`` samples."""
    seed = dense("seed", seed) if isinstance(seed, Tensor) else seed
    seeds = seed.tolist() if isinstance(seed, (np.ndarray, Tensor)) else seed
    if isinstance(seeds, (int, np.integer)):
        return one_seed(seeds)
    if not isinstance(seeds, (Sequence, Iterator)) or isinstance(seeds, (str, bytes)):
        raise TypeError(f"seed must be an integer or a sequence of integers, got {seed!r} of {type(seed).__name__}.")
    seeds = tuple(seeds)
    if len(seeds) != batch:
        raise ValueError(f"seed holds {len(seeds)} seeds, but there are {batch} samples; give one seed for each.")
    if any(isinstance(s, bool) or not isinstance(s, (int, np.integer)) or s < 0 for s in seeds):
        raise ValueError(f"seed must hold non-negative integers, got {seeds!r}.")
    return tuple(int(s) for s in seeds)


def device(name: str, value: Any) -> torch.device:
    """Return ``value`` as a device that there is here and that holds values."""
    try:
        found = torch.device(value)
        torch.empty(0, device=found)
    except (TypeError, ValueError, RuntimeError, AssertionError, NotImplementedError):
        raise ValueError(f"{name} must be a device that there is here, such as 'cpu', got {value!r}.") from None
    if found.type == "meta":
        raise ValueError(f"{name} must be a device that holds values, such as 'cpu', got {value!r}.")
    return found


def dense(name: str, tensor: Tensor) -> Tensor:
    """Return ``tensor`` if it is neither sparse nor without values."""
    if tensor.layout != torch.strided or tensor.device.type == "meta":
        raise TypeError(f"{name} must be a dense tensor that holds values, got {tensor.layout} on {tensor.device}.")
    return tensor


def like(value: Any, y: Tensor) -> bool:
    """Whether ``value`` is a tensor of the shape, dtype, device and layout of ``y``."""
    if not isinstance(value, Tensor) or value.shape != y.shape:
        return False
    return (value.dtype, value.device, value.layout) == (y.dtype, y.device, y.layout)


def state(name: str, y: object) -> Tensor:
    """Return ``y`` if it is a finite floating-point tensor with a samples dimension."""
    if not isinstance(y, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(y).__name__}; use torch.as_tensor(...).")
    if y.dtype not in FLOATING:
        mend = f"torch.view_as_real({name})" if y.is_complex() else f"{name}.float() or {name}.double()"
        raise TypeError(f"{name} must be of a floating dtype, got {y.dtype}; use {mend}.")
    dense(name, y)
    if y.ndim == 0 or y.numel() == 0:
        raise ValueError(f"{name} needs at least one sample in dimension 0, and no empty one, got {tuple(y.shape)}.")
    if not bool(torch.isfinite(y).all()):
        raise ValueError(f"{name} must be finite, but it holds NaN or infinity.")
    return y


def vectors(name: str, y: Tensor, size: int) -> Tensor:
    """Return ``y`` if its shape is ``(samples, size)``."""
    if y.ndim != 2 or y.shape[1] != size:
        raise ValueError(f"{name} has shape {tuple(y.shape)}, expected (samples, {size}).")
    return y


def as_float64(name: str, values: Any) -> np.ndarray:
    """Return ``values`` (sequence, array or tensor) as a one-dimensional finite float64 array."""
    array = numbers(name, values)
    if array.ndim != 1:
        raise ValueError(f"{name} must be a one-dimensional sequence of numbers, got {values!r}.")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got {array[~np.isfinite(array)][0]} among its {len(array)} values.")
    return array


def numbers(name: str, values: Any) -> np.ndarray:
    """Return ``values`` (a number, sequence, array or tensor) as a float64 array of any shape."""
    if isinstance(values, Tensor):
        values = dense(name, values).detach().cpu()
        values = values.numpy() if values.dtype not in HALF_PRECISIONS else values.float().numpy()
    elif isinstance(values, Sequence) and any(isinstance(value, Tensor) for value in values):
        values = [dense(name, value).tolist() if isinstance(value, Tensor) else value for value in values]
    try:
        array = np.asarray(values)
        if array.dtype.kind == "O" and all(isinstance(value, Real) for value in array.flat):  # fractions, long ints
            array = np.array([number(name, value) for value in array.flat]).reshape(array.shape)
        if array.dtype.kind not in "biuf":
            raise TypeError("not numbers, though numpy would make some of them")
        return array.astype(np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must hold numbers, got {values!r}.") from None


def callable_as(name: str, call: str, value: object) -> None:
    """Raise ``TypeError`` unless ``value`` can be called, which is done as ``call``."""
    if not callable(value):
        raise TypeError(f"{name} must be callable as {call}, got {value!r} of type {type(value).__name__}.")


def time_span(t_span: Any) -> tuple[float, float]:
    """Return ``(t0, t1)`` as two different finite floats; ``t1 < t0`` runs backwards."""
    if t_span is None:
        raise TypeError("t_span must be two different times (t0, t1) unless times= is given, got None.")
    if isinstance(t_span, str) or not isinstance(t_span, (Sequence, np.ndarray, Tensor)):
        raise TypeError(f"t_span must be two different times (t0, t1), got {t_span!r}.")
    span = as_float64("t_span", t_span)
    if len(span) != 2 or span[0] == span[1]:
        raise ValueError(f"t_span must be two different times (t0, t1), got {tuple(span.tolist())}.")
    return float(span[0]), float(span[1])


def time_grid(t_span: Any, steps: Any, times: Any) -> np.ndarray:
    """Return the grid ``t_0 … t_N`` in float64, from ``steps`` equal steps or from explicit ``times``."""
    return np.asarray(run_grid(t_span, steps, times))


def run_grid(t_span: Any, steps: Any, times: Any) -> Grid:
    """The same grid, which is not kept whole if it has many equal steps."""
    if (steps is None) == (times is None):
        came = "neither" if steps is None else "both"
        raise ValueError(f"give one of steps= (a number of equal steps) and times= (an explicit grid), got {came}.")
    if times is None:
        t0, t1 = time_span(t_span)
        count = positive_integer("steps", steps, MOST_STEPS)
        long = count > LONG
        return _strictly_monotone("steps", EvenGrid(t0, t1, count) if long else np.linspace(t0, t1, count + 1))
    grid = times if isinstance(times, EvenGrid) else as_float64("times", times)
    if len(grid) < 2:
        raise ValueError(f"times must hold at least two times, got {len(grid)}.")
    if t_span is not None and time_span(t_span) != (grid[0], grid[-1]):
        raise ValueError(f"times runs from {grid[0]} to {grid[-1]}, but t_span={tuple(t_span)}; make them agree.")
    return _strictly_monotone("times", grid)


def _strictly_monotone(name: str, grid: Grid) -> Grid:
    ahead = np.sign(grid[-1] - grid[0])
    for start, stop in stretches(len(grid) - 1):
        part = grid[start : stop + 1]
        steps = np.diff(part) * ahead
        if not (steps > 0).all():
            at = int(np.argmin(steps))
            raise ValueError(
                f"{name} must give strictly increasing or strictly decreasing times, "
                f"but times {start + at} and {start + at + 1} are {part[at]} and {part[at + 1]}."
            )
    return grid
