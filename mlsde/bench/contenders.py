"""The contenders: the same Euler-Maruyama steps of ``dY = f dt + 0.5 dW``, taken in four ways.

Each is called as ``contender(drift, y0, steps, seed)`` and returns the last state. What a user would set up for one
run (the equation, the path, the grid) is set up inside, and so is timed.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

import mlsde

Drift = Callable[[Tensor, Tensor], Tensor]
Contender = Callable[[Drift, Tensor, int, int], Tensor]

STEP = 2.0**-10
"""Length of a step, a power of two so that ``t += dt`` is exact in float32 too and nobody takes one step more."""

DIFFUSION = 0.5
"""The noise term of the equation that every contender solves."""


def bare_loop(drift: Drift, y0: Tensor, steps: int, seed: int) -> Tensor:
    """Hand-written torch: what a step costs if nothing stands around it.

    Its loop is ``y = y + h f + g sqrt(h) randn``, with the sums fused and in place where that is safe::

        for t in times:
            y = torch.add(y, drift(t, y), alpha=h).add_(torch.randn_like(y), alpha=g * math.sqrt(h))

    under ``torch.no_grad()``, its times in one tensor. The formula as it stands would make three more tensors a step.
    """
    h, deviation, y = STEP, DIFFUSION * math.sqrt(STEP), y0
    torch.manual_seed(seed)
    times = torch.arange(steps, dtype=y0.dtype, device=y0.device) * h
    with torch.no_grad():
        for t in times.unbind(0):
            y = torch.add(y, drift(t, y), alpha=h).add_(torch.randn_like(y), alpha=deviation)
    return y


def one_level(drift: Drift, y0: Tensor, steps: int, seed: int) -> Tensor:
    """:func:`mlsde.solve` as it comes: increments of this grid alone."""
    return mlsde.solve(mlsde.SDE(drift, DIFFUSION), y0, (0.0, steps * STEP), steps=steps, seed=seed).y1


def brownian_path(drift: Drift, y0: Tensor, steps: int, seed: int) -> Tensor:
    """:func:`mlsde.solve` on a new :class:`mlsde.BrownianPath`, which could be refined or coarsened afterwards."""
    path = mlsde.BrownianPath(0.0, steps * STEP, like=y0, seed=seed)
    sde = mlsde.SDE(drift, DIFFUSION)
    return mlsde.solve(sde, y0, (0.0, steps * STEP), steps=steps, seed=seed, brownian=path).y1


def torchsde_euler(drift: Drift, y0: Tensor, steps: int, seed: int) -> Tensor:
    """``torchsde.sdeint(method="euler")`` with the path that it makes by default, a refinable one.

    Diagonal noise with a diffusion made once is the cheapest way to tell torchsde of a constant. It evaluates the drift
    once more than it steps, to look at its shape, and seeds its path itself: ``seed`` is not used.
    """
    import torchsde  # noqa: PLC0415 -- a peer to compare with, not a dependency

    with torch.no_grad():
        ends = torch.tensor([0.0, steps * STEP], dtype=y0.dtype, device=y0.device)
        return torchsde.sdeint(_TorchsdeEquation(drift, y0), y0, ends, dt=STEP, method="euler")[-1]


class _TorchsdeEquation:
    noise_type, sde_type = "diagonal", "ito"

    def __init__(self, drift: Drift, y0: Tensor) -> None:
        self.f, self._diffusion = drift, torch.full_like(y0, DIFFUSION)

    def g(self, t: Tensor, y: Tensor) -> Tensor:
        """The constant."""
        return self._diffusion


BARE, ONE_LEVEL, PATH, TORCHSDE = "bare loop", "mlsde, one level", "mlsde, BrownianPath", "torchsde"

CONTENDERS: dict[str, Contender] = {
    BARE: bare_loop,
    ONE_LEVEL: one_level,
    PATH: brownian_path,
    TORCHSDE: torchsde_euler,
}
"""What is measured, by name: each solves the equation of a drift from a state, over so many steps, with a seed."""
