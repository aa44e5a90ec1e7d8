"""Two wells with a hill between them: the few samples that end on another side rule the mean square of an error."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mlsde import checks
from mlsde.hierarchy import DriftHierarchy, Level
from mlsde.problems.ladder import LadderProblem
from mlsde.sde import SDE

_WAVES = 8
"""Ripples of the top level's force."""


def double_well(
    prices: tuple[float, ...] = (1.0, 40.0),
    *,
    noise: float = 0.6,
    ripple: float = 0.05,
    span: float = 2.0,
    seed: int = 0,
) -> LadderProblem:
    """``dY = (Y - Y^3 + ripples) dt + noise dW`` in one dimension, which starts at the top of the hill.

    The top level has eight ripples ``ripple sin(j Y + phase_j) / j^2``; the level below it the first half of them,
    the one below that a quarter, and the cheapest none.

    Args:
        prices: of the levels, two to four.
        noise: of the diffusion, a number above 0.
        ripple: size of the first ripple.
        span: of time.
        seed: of the phases.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> problem = double_well((1.0, 8.0, 64.0))
        >>> len(problem.sde.drift), problem.initial(3).shape
        (3, torch.Size([3, 1]))
    """
    if not 2 <= len(checks.as_float64("prices", prices)) <= 4:
        raise ValueError(f"prices must be of two to four levels, got {len(prices)}.")
    checks.positive_number("span", span)
    phases = np.random.default_rng([checks.one_seed(seed), 11]).uniform(0.0, 2.0 * np.pi, _WAVES).tolist()
    size, counts = checks.finite_number("ripple", ripple), [0]
    counts += [_WAVES >> (len(prices) - 1 - k) for k in range(1, len(prices))]
    drift = DriftHierarchy([_force(size, phases[:count]) for count in counts], prices)
    sde = SDE(drift, checks.positive_number("noise", noise))
    return LadderProblem("double well", sde, torch.zeros(1, 1, dtype=torch.float64), (0.0, span))


def _force(ripple: float, phases: list[float]) -> Level:
    def force(t: Tensor, y: Tensor) -> Tensor:
        total = y - y**3
        for j, phase in enumerate(phases, start=1):
            total += torch.sin(j * y + phase) * (ripple / j**2)
        return total

    return force
