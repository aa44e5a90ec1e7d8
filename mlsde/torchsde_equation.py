"""Our equations as objects that torchsde accepts. Nothing of torchsde is imported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mlsde.hierarchy import CountedLevels
from mlsde.multilevel import Multilevel
from mlsde.other_loops import MultilevelDrift, one_level
from mlsde.plan import level_number
from mlsde.sde import SDE, NoiseTerm

LevelChoice = int | Callable[[float], int] | None


class TorchsdeEquation(nn.Module):
    """An equation as ``torchsde.sdeint`` and ``sdeint_adjoint`` take it; made by :meth:`mlsde.SDE.to_torchsde`.

    Args:
        sde: the equation.
        level: as of :meth:`mlsde.SDE.to_torchsde`.
        multilevel: the estimate in the place of a level, or ``None``.

    Attributes:
        equation: the equation.
        multilevel: the drift in the place of a level, which says what was spent, or ``None``.
        noise_type, sde_type: as torchsde has them. Additive noise whose ``g`` broadcasts to ``y`` is ``"diagonal"``
            there, as is the noise of an ODE, whose ``g`` is 0.
    """

    def __init__(self, sde: SDE, level: LevelChoice, multilevel: MultilevelDrift | None) -> None:
        super().__init__()
        self.equation, self.multilevel, self._level = sde, multilevel, level
        self.noise_type, self.sde_type = noise_type(sde), sde.calculus
        # registered, so that torchsde's adjoint finds the parameters
        parts = (*sde.drift.levels, sde.diffusion, *_owners(sde))
        self.parts = nn.ModuleList(part for part in parts if isinstance(part, nn.Module))
        self._noise: NoiseTerm | None = None
        self._noise_of: tuple[Any, ...] = ()

    def f(self, t: Tensor, y: Tensor) -> Tensor:
        """Full drift at ``(t, y)``, linear part included, shape of ``y``."""
        sde, t = self.equation, torch.as_tensor(t, dtype=y.dtype, device=y.device)
        value = self._one_level(t, y) if self.multilevel is None else self.multilevel(t, y)
        if sde.linear is None:
            return value
        return sde.linear.rate(float(t)) * y + sde.linear.gain(float(t)) * value

    def _one_level(self, t: Tensor, y: Tensor) -> Tensor:
        drift = self.equation.drift
        wanted = self._level(float(t)) if callable(self._level) else self._level
        number = level_number(len(drift) if wanted is None else wanted, len(drift))
        return one_level(CountedLevels(drift.levels, y.dtype), drift.differences, number, t, y)

    def g(self, t: Tensor, y: Tensor) -> Tensor:
        """Diffusion at ``(t, y)``: shape of ``y`` for diagonal noise, else ``(samples, size, motions)``."""
        sde = self.equation
        if sde.is_ode:
            return torch.zeros_like(y)
        t = torch.as_tensor(t, dtype=y.dtype, device=y.device)
        value = self._noise_term(t, y).value(t, y)
        value = value if isinstance(value, Tensor) else torch.full_like(y, value)
        if sde.noise == "general":
            return value.expand(*y.shape, value.shape[-1])
        return value.expand_as(y).unsqueeze(-1) if sde.noise == "scalar" else value.expand_as(y)

    def _noise_term(self, t: Tensor, y: Tensor) -> NoiseTerm:
        """The checked noise; made anew for states of another kind."""
        kind = (y.shape, y.dtype, y.device)
        if self._noise is None or kind != self._noise_of:
            self._noise, self._noise_of = NoiseTerm(self.equation, t, y.detach(), y.dtype), kind
        return self._noise


def noise_type(sde: SDE) -> str:
    """What torchsde calls the noise of an equation."""
    if sde.is_ode or sde.noise == "additive":
        return "diagonal"
    return "additive" if sde.noise == "general" and sde.additive else str(sde.noise)


def _owners(sde: SDE) -> list[Any]:
    """Objects whose methods the levels and the diffusion are."""
    functions = (*sde.drift.levels, getattr(sde.diffusion, "g", sde.diffusion))
    return list({id(owner): owner for f in functions if (owner := getattr(f, "__self__", None)) is not None}.values())


def to_torchsde(
    sde: SDE,
    level: LevelChoice = None,
    *,
    multilevel: Multilevel | None = None,
    times: Sequence[float] | np.ndarray | Tensor | None = None,
    seed: int | Sequence[int] = 0,
) -> TorchsdeEquation:
    """See :meth:`mlsde.SDE.to_torchsde`."""
    if multilevel is None:
        if times is not None:
            raise ValueError("times= goes with multilevel=, whose coins belong to the steps; give both or neither.")
        if not callable(level):
            level_number(len(sde.drift) if level is None else level, len(sde.drift))
        return TorchsdeEquation(sde, level, None)
    if level is not None:
        raise ValueError(f"level={level!r} was given with multilevel=; give one of the two.")
    if times is None:
        raise ValueError(
            "multilevel= needs times=, the grid on which torchsde will step, because coins belong to steps."
        )
    return TorchsdeEquation(sde, None, MultilevelDrift(sde.drift, times, multilevel, seed=seed))
