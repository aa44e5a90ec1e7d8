"""Linear part of a drift with its closed forms over a step, for exponential integrators.

The drift is ``a(t) y + b(t) f(t, y)``; over a step from ``t`` to ``s`` the variation of constants gives

    y(s) = Phi(t, s) y(t) + integral_t^s Phi(r, s) b(r) f(r, y(r)) dr + integral_t^s Phi(r, s) g dW(r),

with ``Phi(t, s) = exp(integral_t^s a)``. Source: M. Hochbruck & A. Ostermann, Acta Numerica 19 (2010),
doi:10.1017/S0962492910000048.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mlsde import checks
from mlsde.showing import as_call

Coefficient = float | Tensor
OverStep = Callable[[float, float], Coefficient]


def _one(_t: float) -> float:
    return 1.0


@dataclass(frozen=True)
class LinearPart:
    """Closed forms of the linear part; all functions take times as floats and return numbers or tensors like ``y``.

    Attributes:
        rate: ``a(t)``.
        propagator: ``Phi(t, s)``.
        source: ``integral_t^s Phi(r, s) b(r) dr``.
        deviation: standard deviation of ``integral_t^s Phi(r, s) g(r) dW(r)`` for additive noise, in place of
            ``g sqrt(|s - t|)``; ``None`` multiplies by ``g(t, y)`` instead, see ``spread``.
        gain: ``b(t)``, 1 by default.
        spread: square root of the mean of ``Phi(r, s)^2`` over the step, what ``g(t, y) dW`` is scaled with when
            ``deviation`` is ``None``.

    Example:
        >>> from mlsde import SDE
        >>> decay = LinearPart(lambda t: -1.0, lambda t, s: math.exp(t - s), lambda t, s: 1.0 - math.exp(t - s))
        >>> SDE(lambda t, y: torch.sin(y), linear=decay)
        SDE(DriftHierarchy(1 levels, costs: not measured), ODE, linear part)
    """

    rate: Callable[[float], Coefficient]
    propagator: OverStep
    source: OverStep
    deviation: OverStep | None = None
    gain: Callable[[float], Coefficient] = _one
    spread: OverStep | None = None

    __repr__ = as_call

    def check(self, t: float, s: float, y: Tensor) -> None:
        """Refuse closed forms that would change the shape, dtype or device of ``y``, looked at over one step.

        Raises:
            ValueError, TypeError: naming the closed form.
        """
        forms: dict[str, Coefficient | None] = {
            "rate": self.rate(t),
            "gain": self.gain(t),
            "propagator": self.propagator(t, s),
            "source": self.source(t, s),
            "deviation": self.deviation and self.deviation(t, s),
            "spread": self.spread and self.spread(t, s),
        }
        for name, form in forms.items():
            if isinstance(form, Tensor):
                _check_like(f"linear.{name}", form, y)
            elif form is not None or name not in ("deviation", "spread"):
                checks.number(f"linear.{name}", form)


def constant(rate: Coefficient) -> LinearPart:
    """Linear part ``rate * y``: a number, or a tensor that broadcasts with ``y`` (a diagonal matrix)."""

    def propagator(t: float, s: float) -> Coefficient:
        z = rate * (s - t)
        return torch.exp(z) if isinstance(z, Tensor) else _or_infinity(math.exp, z)

    def source(t: float, s: float) -> Coefficient:
        return (s - t) * _phi1(rate * (s - t))

    def spread(t: float, s: float) -> Coefficient:
        return _phi1(2 * rate * (s - t)) ** 0.5

    return LinearPart(lambda _t: rate, propagator, source, spread=spread)


def _check_like(name: str, form: Tensor, y: Tensor) -> None:
    shape, state = tuple(form.shape), tuple(y.shape)
    if len(shape) > len(state) or any(a not in (1, b) for a, b in zip(shape[::-1], state[::-1], strict=False)):
        raise ValueError(f"{name} has shape {shape}, expected one that broadcasts to y, {state}.")
    if form.layout != torch.strided:
        raise TypeError(f"{name} is a tensor of {form.layout}, expected a dense one.")
    if form.device != y.device:
        raise TypeError(f"{name} is on {form.device}, expected the device of y, {y.device}.")
    if torch.result_type(form, y) != y.dtype:
        raise TypeError(f"{name} is of {form.dtype}, expected the dtype of y, {y.dtype}.")


def _phi1(z: Any) -> Any:
    """``(exp(z) - 1) / z``, and 1 at 0."""
    if isinstance(z, Tensor):
        safe = torch.where(z == 0, torch.ones_like(z), z)
        return torch.where(z == 0, torch.ones_like(z), torch.expm1(safe) / safe)
    return _or_infinity(math.expm1, z) / z if z else 1.0


def _or_infinity(function: Callable[[float], float], z: float) -> float:
    """``function(z)``; infinity where it overflows, so that the run stops with a word on where."""
    try:
        return function(z)
    except OverflowError:
        return math.inf


def as_linear_part(linear: Any) -> LinearPart | None:
    """Turn what :class:`mlsde.SDE` accepts as ``linear`` into a :class:`LinearPart`."""
    if linear is None or isinstance(linear, LinearPart):
        return linear
    if isinstance(linear, Tensor):
        if not bool(torch.isfinite(checks.dense("linear", linear)).all()):
            raise ValueError("linear must be finite, but it holds NaN or infinity.")
        return constant(linear)
    if callable(linear):
        raise TypeError("linear must be a number, a tensor or an mlsde.LinearPart; a function has no closed form.")
    return constant(checks.finite_number("linear", linear))
