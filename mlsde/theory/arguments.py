"""Validators of numbers per level: each raises one sentence that names the argument."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import numpy as np
from torch import Tensor

from mlsde import checks

Row = Sequence[float] | np.ndarray | Tensor
"""One number per level, or per point."""

Table = Row | Sequence[Sequence[float]]
"""A row, or one row per step."""


_Given = ParamSpec("_Given")
_Answer = TypeVar("_Answer")


def within_floats(function: Callable[_Given, _Answer]) -> Callable[_Given, _Answer]:
    """Make a formula say where its numbers leave float64: infinity where it comes to that, else ``ValueError``."""
    parameters = inspect.signature(function).parameters.values()
    names = ", ".join(p.name for p in parameters if p.name != "self" and p.annotation not in ("str", "bool"))

    @functools.wraps(function)
    def told(*args: _Given.args, **kwargs: _Given.kwargs) -> _Answer:
        cause = None
        try:
            with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
                answer = function(*args, **kwargs)
            if not _holds_nan(answer):
                return answer
        except ArithmeticError as error:
            cause = error
        raise ValueError(f"{names} must lie nearer to 1: {function.__name__} leaves the range of float64.") from cause

    return told


def _holds_nan(answer: Any) -> bool:
    if isinstance(answer, Tensor):
        return bool(answer.isnan().any())
    return isinstance(answer, (float, tuple, np.ndarray)) and bool(np.isnan(answer).any())


def positive_row(name: str, values: Any, levels: int | None = None) -> np.ndarray:
    """Return finite numbers above zero, one per level, shape ``(K,)``."""
    row = _row(name, values, levels)
    if not (row > 0).all():
        raise ValueError(f"{name} must be above zero, got {row.min():g}.")
    return row


def non_negative_row(name: str, values: Any, levels: int | None = None) -> np.ndarray:
    """Return finite numbers of at least zero, one per level, shape ``(K,)``."""
    row = _row(name, values, levels)
    if not (row >= 0).all():
        raise ValueError(f"{name} must not be negative, got {row.min():g}.")
    return row


def rates(name: str, values: Any, levels: int) -> np.ndarray:
    """Return numbers above zero, which may be infinite, one per level, shape ``(K,)``."""
    row = checks.numbers(name, values)
    if row.shape != (levels,):
        raise ValueError(f"{name} has shape {row.shape}, expected {(levels,)}: one per level.")
    if not (row > 0).all():
        raise ValueError(f"{name} must be above zero (infinity is allowed), got {row.tolist()}.")
    return row


def table(name: str, values: Any, levels: int | None = None, steps: int | None = None) -> np.ndarray:
    """Return finite numbers of at least zero, shape ``(K,)``, or ``(N, K)`` for those of each step."""
    array = checks.numbers(name, values)
    wanted = ("K" if levels is None else levels, "N" if steps is None else steps)
    fits = array.ndim in (1, 2) and array.size > 0
    fits = fits and levels in (None, array.shape[-1]) and (array.ndim == 1 or steps in (None, len(array)))
    if not fits:
        raise ValueError(f"{name} has shape {array.shape}, expected ({wanted[0]},) or ({wanted[1]}, {wanted[0]}).")
    if not (np.isfinite(array) & (array >= 0)).all():
        raise ValueError(f"{name} must be finite and not negative, got {array.min():g}.")
    return array


def probabilities(values: Any, levels: int | None = None, steps: int | None = None, *, zero: bool = True) -> np.ndarray:
    """Return probabilities, shape ``(K,)`` or ``(N, K)``; with ``zero=False`` all of them above zero."""
    array = table("probabilities", values, levels, steps)
    if (array > 1).any():
        raise ValueError(f"probabilities must be at most 1, got {array.max():g}.")
    if not zero and not (array > 0).all():
        raise ValueError("probabilities must be above zero, because a level that never fires is never seen, got 0.")
    return array


def _row(name: str, values: Any, levels: int | None) -> np.ndarray:
    row = checks.as_float64(name, values)
    if len(row) == 0 or levels not in (None, len(row)):
        raise ValueError(f"{name} holds {len(row)} values, expected {'at least 1' if levels is None else levels}.")
    return row
