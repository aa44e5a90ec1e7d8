"""The contenders: the same Euler-Maruyama steps of ``dY = f dt + 0.5 dW``, taken in several ways.

Each is called as ``contender(levels, y0, steps, seed)`` and returns the last state; all but the multilevel ones use the
top level alone. What a user would set up for one run (the equation, the path, the grid) is set up inside, and so is
timed. What is compiled once for many runs is compiled apart, by :func:`compile_seconds`.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

import mlsde
from mlsde.bench import diffrax_euler
from mlsde.bench.levels import Drift

Contender = Callable[[Sequence[Drift], Tensor, int, int], Tensor]

STEP = 2.0**-10
"""Length of a step, a power of two so that ``t += dt`` is exact in float32 too and nobody takes one step more."""

DIFFUSION = 0.5
"""The noise term of the equation that every contender solves."""

FEWER = 0.25
"""Probability of a level over that of the one below it."""


def bare_loop(levels: Sequence[Drift], y0: Tensor, steps: int, seed: int) -> Tensor:
    """Hand-written torch: what a step costs if nothing stands around it.

    Its loop is ``y = y + h f + g sqrt(h) randn``, with the sums fused and in place where that is safe::

        for t in times:
            y = torch.add(y, drift(t, y), alpha=h).add_(torch.randn_like(y), alpha=g * math.sqrt(h))

    under ``torch.no_grad()``, its times in one tensor. The formula as it stands would make three more tensors a step.
    """
    h, deviation, y, drift = STEP, DIFFUSION * math.sqrt(STEP), y0, levels[-1]
    torch.manual_seed(seed)
    times = torch.arange(steps, dtype=y0.dtype, device=y0.device) * h
    with torch.no_grad():
        for t in times.unbind(0):
            y = torch.add(y, drift(t, y), alpha=h).add_(torch.randn_like(y), alpha=deviation)
    return y


def one_level(levels: Sequence[Drift], y0: Tensor, steps: int, seed: int) -> Tensor:
    """:func:`mlsde.solve` as it comes: increments of this grid alone."""
    return mlsde.solve(mlsde.SDE(levels[-1], DIFFUSION), y0, (0.0, steps * STEP), steps=steps, seed=seed).y1


def brownian_path(levels: Sequence[Drift], y0: Tensor, steps: int, seed: int) -> Tensor:
    """:func:`mlsde.solve` on a new :class:`mlsde.BrownianPath`, which could be refined or coarsened afterwards."""
    path = mlsde.BrownianPath(0.0, steps * STEP, like=y0, seed=seed)
    sde = mlsde.SDE(levels[-1], DIFFUSION)
    return mlsde.solve(sde, y0, (0.0, steps * STEP), steps=steps, seed=seed, brownian=path).y1


def systematic_hold(levels: Sequence[Drift], y0: Tensor, steps: int, seed: int) -> Tensor:
    """:func:`mlsde.solve` with the whole ladder, coins spread evenly and differences that are held."""
    return _multilevel("systematic", "hold", levels, y0, steps, seed)


def independent_impulse(levels: Sequence[Drift], y0: Tensor, steps: int, seed: int) -> Tensor:
    """:func:`mlsde.solve` with the whole ladder and the paper's rule."""
    return _multilevel("independent", "impulse", levels, y0, steps, seed)


def _multilevel(coins: str, correction: str, levels: Sequence[Drift], y0: Tensor, steps: int, seed: int) -> Tensor:
    probabilities = mlsde.Constant([FEWER**k for k in range(len(levels))])
    rule = mlsde.Multilevel.named(probabilities, coins=coins, correction=correction)
    sde = mlsde.SDE(mlsde.DriftHierarchy(levels), DIFFUSION)
    return mlsde.solve(sde, y0, (0.0, steps * STEP), steps=steps, seed=seed, multilevel=rule).y1


def torchsde_euler(levels: Sequence[Drift], y0: Tensor, steps: int, seed: int) -> Tensor:
    """``torchsde.sdeint(method="euler")`` with the path that it makes by default, a refinable one.

    Diagonal noise with a diffusion made once is the cheapest way to tell torchsde of a constant. It evaluates the drift
    once more than it steps, to look at its shape, and seeds its path itself: ``seed`` is not used.
    """
    import torchsde  # noqa: PLC0415 -- a peer to compare with, not a dependency

    with torch.no_grad():
        ends = torch.tensor([0.0, steps * STEP], dtype=y0.dtype, device=y0.device)
        return torchsde.sdeint(_TorchsdeEquation(levels[-1], y0), y0, ends, dt=STEP, method="euler")[-1]


class _TorchsdeEquation:
    noise_type, sde_type = "diagonal", "ito"

    def __init__(self, drift: Drift, y0: Tensor) -> None:
        self.f, self._diffusion = drift, torch.full_like(y0, DIFFUSION)

    def g(self, t: Tensor, y: Tensor) -> Tensor:
        """The constant."""
        return self._diffusion


def diffrax_tree(levels: Sequence[Drift], y0: Tensor, steps: int, seed: int) -> Tensor:
    """``diffrax.Euler`` on a ``VirtualBrownianTree``, which could be asked at other times; compiled."""
    return diffrax_euler.euler("VirtualBrownianTree", levels[-1], y0, steps, seed, STEP, DIFFUSION)


def diffrax_unsafe(levels: Sequence[Drift], y0: Tensor, steps: int, seed: int) -> Tensor:
    """``diffrax.Euler`` on an ``UnsafeBrownianPath``, increments of this grid alone; compiled."""
    return diffrax_euler.euler("UnsafeBrownianPath", levels[-1], y0, steps, seed, STEP, DIFFUSION)


BARE, ONE_LEVEL, PATH = "bare loop", "mlsde, one level", "mlsde, BrownianPath"
HOLD, IMPULSE = "mlsde, systematic hold", "mlsde, independent impulse"
TORCHSDE, TREE, UNSAFE = "torchsde", "diffrax, VirtualBrownianTree", "diffrax, UnsafeBrownianPath"

CONTENDERS: dict[str, Contender] = {
    BARE: bare_loop,
    ONE_LEVEL: one_level,
    PATH: brownian_path,
    HOLD: systematic_hold,
    IMPULSE: independent_impulse,
    TORCHSDE: torchsde_euler,
    TREE: diffrax_tree,
    UNSAFE: diffrax_unsafe,
}
"""What is measured, by name: each solves the equation of a drift from a state, over so many steps, with a seed."""

MULTILEVEL = (HOLD, IMPULSE)
"""The contenders that use every level."""

STYLES = {
    BARE: (0, "-", "o"), ONE_LEVEL: (2, "-", "o"), PATH: (2, "--", "s"), HOLD: (3, "-", "o"), IMPULSE: (1, "-", "o"),
    TORCHSDE: (4, "-", "^"), TREE: (5, "--", "s"), UNSAFE: (5, "-", "o"),
}  # fmt: skip
"""Number of a colour, line and marker of each in the figures: dashed where a path can be asked at other times."""

_JAX = {TREE: "VirtualBrownianTree", UNSAFE: "UnsafeBrownianPath"}


def compile_seconds(name: str, levels: Sequence[Drift], y0: Tensor) -> float | None:
    """Compile what a contender compiles for a drift and a shape; the seconds, or ``None`` if it compiles nothing."""
    if name not in _JAX:
        return None
    shape = tuple(y0.shape)
    return diffrax_euler.compiled(_JAX[name], levels[-1], shape, STEP, DIFFUSION).seconds


def speaks_jax(name: str) -> bool:
    """Whether a contender evaluates the drift in JAX."""
    return name in _JAX


def present(device: torch.device) -> tuple[list[str], tuple[str, ...]]:
    """Contenders that can run here, and a line for each library whose contenders cannot."""
    names, notes = list(CONTENDERS), []
    for library, its in (("torchsde", (TORCHSDE,)), ("diffrax", (TREE, UNSAFE))):
        note = None
        if importlib.util.find_spec(library) is None:
            note = f"{library} is not installed: left out; pip install 'mlsde[bench]'."
        elif library == "diffrax" and device.type != "cpu":
            note = f"diffrax is compared on the CPU alone: left out on {device.type}."
        if note is not None:
            notes.append(note)
            names = [name for name in names if name not in its]
    return names, tuple(notes)
