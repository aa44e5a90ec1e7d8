"""Steppers: one step of each scheme, written like its algorithm box.

A stepper gets the step number ``n``, its :class:`Step` (times and length), the state ``y``, the increment ``dw`` (or
``None`` for an ODE), the drift estimate ``f(n, step, y, stage)`` and the noise term ``g``, and returns the next state.

Orders: Euler-Maruyama strong 1/2 (1 for additive noise), weak 1; Milstein strong 1; Heun 2 on an ODE, strong 1 on
additive and on commuting Stratonovich noise (1/2 if it does not commute), weak 1; exponential Euler as
Euler-Maruyama, exact in its linear part. Source: P. E. Kloeden & E. Platen, *Numerical Solution of Stochastic
Differential Equations* (1992), doi:10.1007/978-3-662-12616-5.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from mlsde import checks, randomness
from mlsde.estimator import Estimator
from mlsde.multilevel import Multilevel
from mlsde.sde import SDE, NoiseTerm


class Step(NamedTuple):
    """Times of a step, as tensors for the user's functions and as floats; ``h`` is negative backwards in time."""

    t: Tensor
    t_next: Tensor
    start: float
    stop: float
    h: float


class Stepper(Protocol):
    """One step of a scheme."""

    def __call__(self, n: int, step: Step, y: Tensor, dw: Tensor | None) -> Tensor:
        """Return the next state."""
        ...


@dataclass(frozen=True)
class Equation:
    """An equation ready to be stepped: the drift estimate with its linear part, and the noise term."""

    sde: SDE
    estimate: Estimator
    noise: NoiseTerm | None

    def f(self, n: int, step: Step, y: Tensor, stage: int = 0) -> Tensor:
        """Full drift at the start of a step, or at its end in stage 1: ``a(t) y + b(t) f``."""
        if self.sde.linear is None:
            return self.estimate(n, step.t_next if stage else step.t, y, stage)
        t, now = (step.t_next, step.stop) if stage else (step.t, step.start)
        value, linear = self.estimate(n, t, y, stage), self.sde.linear
        return linear.rate(now) * y + linear.gain(now) * value


def _euler_maruyama(equation: Equation) -> Stepper:
    """``y + h f + g dW``."""
    f, g, estimate = equation.f, equation.noise, equation.estimate
    number = None if g is None or equation.sde.linear is not None else g.number

    def with_a_number(n: int, step: Step, y: Tensor, dw: Tensor | None) -> Tensor:
        """The same where the noise is a number: what that does not need would be paid at each step."""
        assert number is not None and dw is not None
        return torch.add(y, estimate(n, step.t, y), alpha=step.h).add_(dw, alpha=number)

    def step(n: int, step: Step, y: Tensor, dw: Tensor | None) -> Tensor:
        euler = torch.add(y, f(n, step, y), alpha=step.h)
        return euler if g is None or dw is None else g.add_to(euler, step.t, y, dw)

    return step if number is None else with_a_number


def _milstein(equation: Equation) -> Stepper:
    """``y + h f + g dW + 1/2 (dg/dy) g (dW^2 - |h|)``; without ``- |h|`` in the Stratonovich sense."""
    f, g = equation.f, equation.noise
    ito = equation.sde.calculus == "ito"
    first = True
    _load_forward_mode()

    def step(n: int, step: Step, y: Tensor, dw: Tensor | None) -> Tensor:
        nonlocal first
        assert g is not None and dw is not None, "refused by compatible()"
        if first and g.noise == "diagonal":
            _refuse_mixing(g, step.t, y, instead=_general_method(equation.sde))
        first = False
        value, slope = _value_and_slope(g, step.t, y)
        square = dw * dw - abs(step.h) if ito else dw * dw
        return y + step.h * f(n, step, y) + value * dw + 0.5 * slope * square

    return step


def _load_forward_mode() -> None:
    """Have torch load its forward mode now: it scripts helpers at first use, by a function it has itself deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.func.jvp(torch.sin, (torch.zeros(1),), (torch.ones(1),))


def _value_and_slope(g: NoiseTerm, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """``g`` and its derivative along itself: ``g_i dg_i/dy_i`` for diagonal noise, ``(g . grad) g`` for scalar."""
    value = g.value(t, y)
    return value, torch.func.jvp(lambda state: g.value(t, state), (y,), (value,))[1]


@torch.no_grad()
def _refuse_mixing(g: NoiseTerm, t: Tensor, y: Tensor, instead: str) -> None:
    """Diagonal noise needs a diagonal Jacobian ``J``: then flipping signs by ``v`` gives ``v * (J v) = J 1``."""

    def flipped(v: Tensor) -> Tensor:
        return v * torch.func.jvp(lambda state: g.value(t, state), (y,), (v,))[1]

    diagonal = flipped(torch.ones_like(y))
    scale = float(diagonal.abs().max()) + 1e-30
    coins = randomness.host_generator(0, randomness.PROBE).random((8, *y.shape))
    for signs in np.where(coins < 0.5, -1.0, 1.0):
        v = torch.as_tensor(signs, dtype=y.dtype, device=y.device)
        if float((flipped(v) - diagonal).abs().max()) > 1e-4 * scale:
            raise ValueError(
                "method='milstein' with noise='diagonal' needs each g_i to depend on y_i alone, but here some g_i "
                f"depends on another component; use {instead}."
            )


def _heun(equation: Equation) -> Stepper:
    """Predict with Euler, then average the drift (and in the Stratonovich sense the diffusion) of both ends."""
    f, g = equation.f, equation.noise

    def step(n: int, step: Step, y: Tensor, dw: Tensor | None) -> Tensor:
        slope = f(n, step, y)
        predicted = torch.add(y, slope, alpha=step.h)
        out = torch.add(y, slope, alpha=0.5 * step.h)  # now: a level may return one buffer again and again
        del slope
        if g is None or dw is None:
            return out.add_(f(n, step, predicted, stage=1), alpha=0.5 * step.h)
        if not callable(equation.sde.diffusion):
            predicted = g.add_to(predicted, step.t, y, dw)
            out.add_(f(n, step, predicted, stage=1), alpha=0.5 * step.h)
            return g.add_to(out, step.t, y, dw)
        noise = g.apply(g.value(step.t, y), dw)
        predicted.add_(noise)
        out.add_(f(n, step, predicted, stage=1), alpha=0.5 * step.h)
        return out.add_(noise.add_(g.apply(g.value(step.t_next, predicted), dw)), alpha=0.5)

    return step


def _exponential(equation: Equation) -> Stepper:
    """``Phi y + Psi f + noise``: the linear part is exact over the step, ``f`` is held (exponential Euler; DDIM)."""
    estimate, g, linear = equation.estimate, equation.noise, equation.sde.linear
    assert linear is not None, "refused by compatible()"

    def step(n: int, step: Step, y: Tensor, dw: Tensor | None) -> Tensor:
        drift = linear.source(step.start, step.stop) * estimate(n, step.t, y)
        out = (linear.propagator(step.start, step.stop) * y).add_(drift)
        del drift
        if g is None or dw is None:
            return out
        if linear.deviation is not None:
            return out.add_(linear.deviation(step.start, step.stop) / abs(step.h) ** 0.5 * dw)
        noise = g.apply(g.value(step.t, y), dw)
        return out.add_(noise if linear.spread is None else linear.spread(step.start, step.stop) * noise)

    return step


@dataclass(frozen=True)
class Method:
    """A stepper's maker and how many drift estimates one step takes."""

    make: Callable[[Equation], Stepper]
    stages: int


Scheme = Literal["euler", "milstein", "heun", "exponential"]

METHODS = {
    "euler": Method(_euler_maruyama, 1),
    "milstein": Method(_milstein, 1),
    "heun": Method(_heun, 2),
    "exponential": Method(_exponential, 1),
}


def scheme(name: str) -> Scheme:
    """A stepper's name, from a word that no type checker knows; ``ValueError`` with the names there are for another."""
    return cast(Scheme, checks.one_of("method", name, tuple(METHODS)))


def _general_method(sde: SDE) -> str:
    """What serves every noise in the equation's calculus."""
    return "method='euler'" if sde.calculus == "ito" else "method='heun'"


def compatible(name: str, sde: SDE, multilevel: Multilevel | None) -> Method:
    """Return the method of that name; refuse what makes no mathematical sense.

    Raises:
        ValueError: with the reason and what to use.
    """
    method = METHODS[checks.one_of("method", name, tuple(METHODS))]
    multiplicative = not sde.is_ode and not sde.additive
    if name in ("euler", "exponential") and multiplicative and sde.calculus == "stratonovich":
        raise ValueError(
            f"method={name!r} converges to the Itô solution, but this equation is Stratonovich with multiplicative "
            "noise; use method='heun' (or 'milstein' for diagonal and scalar noise)."
        )
    if name == "heun" and multiplicative and sde.calculus == "ito":
        raise ValueError(
            "method='heun' on an Itô equation with multiplicative noise would converge to the Stratonovich solution; "
            "use method='euler' (or 'milstein' for diagonal and scalar noise), "
            "or state the equation with calculus='stratonovich'."
        )
    if name == "heun" and multilevel is not None and multilevel.correction in ("impulse", "control"):
        raise ValueError(
            f"correction={multilevel.correction!r} weighs a firing by 1/p, and such impulses destroy the order of "
            "method='heun'; use correction='hold' or 'extrapolate'."
        )
    if name == "milstein" and (not multiplicative or sde.noise not in ("diagonal", "scalar")):
        what = "an ODE" if sde.is_ode else "additive noise" if sde.additive else f"{sde.noise} noise"
        raise ValueError(
            f"method='milstein' is for diagonal and scalar noise that depends on the state, and this is {what}; "
            + (f"use {_general_method(sde)}." if multiplicative else "use method='euler', which is the same there.")
        )
    if name == "exponential" and sde.linear is None:
        raise ValueError("method='exponential' needs a linear part in closed form: SDE(..., linear=...).")
    instead = None if sde.linear is None else sde.linear.deviation
    if name == "exponential" and instead is not None and (multiplicative or sde.noise == "general"):
        what = "general noise" if sde.noise == "general" else "noise that depends on the state"
        raise ValueError(
            "linear has a deviation, which method='exponential' takes in place of an additive diffusion, "
            f"and this is {what}; use LinearPart(..., spread=...) instead."
        )
    return method
