"""The equation: a drift hierarchy, a noise term, and nothing about how it is solved."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from mlsde import checks, torchsde_objects
from mlsde.hierarchy import DriftHierarchy, Level
from mlsde.linear import LinearPart, as_linear_part

if TYPE_CHECKING:
    from mlsde.multilevel import Multilevel
    from mlsde.torchsde_equation import TorchsdeEquation

Noise = Literal["additive", "diagonal", "scalar", "general"]
Calculus = Literal["ito", "stratonovich"]
NOISES, CALCULI = get_args(Noise), get_args(Calculus)

Diffusion = float | Tensor | Callable[..., Tensor]


@dataclass(frozen=True, init=False)
class SDE:
    """``dY = f(t, Y) dt + g(t, Y) dW``, or an ODE if there is no diffusion.

    Args:
        drift: a :class:`DriftHierarchy`, or one callable ``f(t, y) -> like y``.
        diffusion: ``None`` for an ODE; a number or tensor (additive); a function ``g(t, y)`` or ``g(t)``.
        noise: what ``g`` returns and how many Brownian motions drive each sample.

            ========== ============================ ================================ ===================
            noise      ``g``                        ``dW``                           ``g dW``
            ========== ============================ ================================ ===================
            additive   broadcasts to ``y``          like ``y``                       elementwise
            diagonal   like ``y``                   like ``y``                       elementwise
            scalar     like ``y``                   ``(samples, 1, …, 1)``           one motion a sample
            general    ``y.shape + (m,)``           ``(samples, m)``                 matrix times vector
            ========== ============================ ================================ ===================

            ``"additive"`` by default. A number, a tensor or a function of ``t`` alone does not depend on the state,
            whatever its noise (:attr:`additive`). An additive ``g(t, y)`` must not depend on its ``y``.
        calculus: ``"ito"`` or ``"stratonovich"``.
        linear: part of the drift known in closed form *besides* ``drift``, which the stepper
            ``"exponential"`` solves exactly: the full drift is ``linear * y + drift``. A number, a tensor that
            broadcasts with ``y``, or a :class:`LinearPart`.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> sde = SDE(lambda t, y: -y, diffusion=0.5)
        >>> sde.additive
        True
    """

    drift: DriftHierarchy
    diffusion: Diffusion | None
    noise: Noise | None
    calculus: Calculus
    linear: LinearPart | None

    def __init__(
        self,
        drift: DriftHierarchy | Level,
        diffusion: Diffusion | None = None,
        *,
        noise: Noise | None = None,
        calculus: Calculus = "ito",
        linear: float | Tensor | LinearPart | None = None,
    ) -> None:
        if not isinstance(drift, DriftHierarchy):
            if not callable(drift):
                raise TypeError(f"drift must be a DriftHierarchy or a callable f(t, y), got {type(drift).__name__}.")
            drift = DriftHierarchy([drift])
        object.__setattr__(self, "drift", drift)
        object.__setattr__(self, "diffusion", _diffusion(diffusion))
        object.__setattr__(self, "noise", _noise(noise, diffusion))
        object.__setattr__(self, "calculus", checks.one_of("calculus", calculus, CALCULI))
        object.__setattr__(self, "linear", as_linear_part(linear))

    @property
    def is_ode(self) -> bool:
        """True if there is no diffusion."""
        return self.diffusion is None

    @property
    def additive(self) -> bool:
        """True if the diffusion does not depend on the state, so that Itô and Stratonovich are the same."""
        if isinstance(self.diffusion, torchsde_objects.TorchsdeDiffusion):
            return self.diffusion.noise_type == "additive"
        return self.noise == "additive" or not callable(self.diffusion) or _arity(self.diffusion) == 1

    def __repr__(self) -> str:
        noise = "ODE" if self.is_ode else f"{self.noise} noise, {self.calculus}"
        return f"SDE({self.drift!r}, {noise}{', linear part' if self.linear else ''})"

    def with_drift(self, drift: DriftHierarchy | Level) -> SDE:
        """The same equation with another drift: a part of its ladder, ``sde.drift.select(...)``, or its limit."""
        return SDE(drift, self.diffusion, noise=self.noise, calculus=self.calculus, linear=self.linear)

    @classmethod
    def from_torchsde(cls, sde: Any, costs: Sequence[float] | None = None, *, motions: int | None = None) -> SDE:
        """Take a torchsde SDE object, of any ``noise_type`` and ``sde_type``.

        Args:
            sde: the object, with ``f`` and ``g``, or ``f_and_g`` (which is then called once for each of the two), or
                ``g_prod`` in the place of ``g`` (called once for each Brownian motion). ``sde.f`` may be one method or
                a list of them, cheapest first.
            costs: price of one evaluation of each, for one sample.
            motions: number of Brownian motions, where additive or general noise has ``g_prod`` alone.

        Raises:
            TypeError: if the object lacks a drift or a diffusion.
            ValueError: if its types are not known.
        """
        levels, diffusion = torchsde_objects.drifts(sde), torchsde_objects.diffusion(sde, motions)
        words: Any = {
            "calculus": checks.one_of("sde_type", getattr(sde, "sde_type", None), CALCULI),
            "noise": torchsde_objects.OURS[diffusion.noise_type],
        }
        return cls(DriftHierarchy(levels, costs), diffusion, **words)

    def to_torchsde(
        self,
        level: int | Callable[[float], int] | None = None,
        *,
        multilevel: Multilevel | None = None,
        times: Sequence[float] | np.ndarray | Tensor | None = None,
        seed: int | Sequence[int] = 0,
    ) -> TorchsdeEquation:
        """The equation as an object with ``f``, ``g``, ``noise_type`` and ``sde_type``, which torchsde accepts.

        A :class:`mlsde.BrownianPath` serves as its ``bm``. torchsde's states are of shape ``(samples, size)`` and its
        times rise. A linear part is added to ``f``. The object is an ``nn.Module`` that holds the parameters of levels
        and of a diffusion which are modules, or methods of one.

        Args:
            level: one level, 1 … K, or a function of ``t`` that chooses it; the top one by default.
            multilevel: the multilevel estimate instead, for methods that call ``f`` once a step: torchsde's ``euler``
                and ``milstein``; what it costs is then in ``.multilevel`` (:class:`mlsde.MultilevelDrift`).
            times: with it, the grid on which torchsde will step.
            seed: with it, that of the coins.

        Raises:
            TypeError, ValueError: naming the argument.
        """
        from mlsde import torchsde_equation  # noqa: PLC0415, a higher room, which only this call asks for

        return torchsde_equation.to_torchsde(self, level, multilevel=multilevel, times=times, seed=seed)


def _diffusion(diffusion: Any) -> Diffusion | None:
    if diffusion is None or callable(diffusion):
        return diffusion
    if isinstance(diffusion, Tensor):
        if not diffusion.dtype.is_floating_point:
            raise TypeError(f"diffusion must be of a floating dtype, got {diffusion.dtype}.")
        if not bool(torch.isfinite(checks.dense("diffusion", diffusion)).all()):
            raise ValueError("diffusion must be finite, but it holds NaN or infinity.")
        return diffusion
    return checks.finite_number("diffusion", diffusion)


def _noise(noise: Noise | None, diffusion: Any) -> Noise | None:
    if diffusion is None:
        if noise is not None:
            raise ValueError(f"noise={noise!r} was given without a diffusion; give diffusion= or leave noise out.")
        return None
    noise = "additive" if noise is None else noise
    checks.one_of("noise", noise, NOISES)
    if noise == "general" and not callable(diffusion) and not isinstance(diffusion, Tensor):
        raise TypeError(f"diffusion must be a tensor or a function for noise='general', got the number {diffusion!r}.")
    return noise


def _arity(function: Callable[..., Any]) -> int:
    """1 for ``g(t)``, else 2: the positional parameters that have no default."""
    function = function.forward if isinstance(function, torch.nn.Module) else function
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 2
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters):
        return 2
    return 1 if sum(p.kind in kinds and p.default is p.empty for p in parameters) == 1 else 2


class NoiseTerm:
    """The noise of an equation at work: evaluates and checks ``g``, and applies it to an increment.

    Args:
        sde: an equation with a diffusion.
        t0, y0: where ``g`` is looked at to learn the number of Brownian motions.
        work_dtype: dtype of the sums; ``g`` itself sees ``y`` in ``y0``'s dtype.
    """

    def __init__(self, sde: SDE, t0: Tensor, y0: Tensor, work_dtype: torch.dtype) -> None:
        assert sde.diffusion is not None and sde.noise is not None
        self.noise, self._state_dtype, self._work_dtype = sde.noise, y0.dtype, work_dtype
        self._shape, self._device = y0.shape, y0.device
        self._function = self._as_function(sde.diffusion)
        self._constant = None if callable(sde.diffusion) else sde.diffusion
        self._numbers = sde.additive and sde.noise != "general"
        self._motions: int | None = None
        self._most = torch.finfo(work_dtype).max
        if isinstance(self._constant, (int, float)):
            checks.within("diffusion", self._constant, work_dtype)
        if isinstance(self._constant, Tensor):
            self._constant = self._check(self._constant)
        with torch.no_grad():
            g = self.value(t0, y0)
            if sde.noise == "additive" and callable(sde.diffusion):
                self._refuse_state(g, self.value(t0, y0 + 0.1 * (1.0 + y0.abs())))
        self.shape = self._increment_shape(y0, g)

    @property
    def number(self) -> float | None:
        """The diffusion, if it is one number for all."""
        return self._constant if type(self._constant) is float and self.noise != "general" else None

    def _as_function(self, diffusion: Diffusion) -> Callable[[Tensor, Tensor], Any]:
        if not callable(diffusion):
            return lambda _t, _y: diffusion
        if _arity(diffusion) == 1:
            return lambda t, _y: diffusion(t)
        return diffusion

    def _refuse_state(self, g: Any, elsewhere: Any) -> None:
        here, there = (torch.nan_to_num(torch.as_tensor(value)) for value in (g, elsewhere))
        if not torch.equal(here, there):
            raise ValueError(
                "diffusion changes with the state, but noise='additive' expects that it does not; "
                "give noise='diagonal', 'scalar' or 'general'."
            )

    def _increment_shape(self, y0: Tensor, g: Any) -> tuple[int, ...]:
        if self.noise == "general":
            self._motions = g.shape[-1]
            return (y0.shape[0], g.shape[-1])
        return (y0.shape[0], *[1] * (y0.ndim - 1)) if self.noise == "scalar" else tuple(y0.shape)

    def value(self, t: Tensor, y: Tensor) -> Any:
        """``g(t, y)``, checked, in the working dtype; a number if the user gave one."""
        if self._constant is not None:
            return self._constant
        try:
            g = self._function(t, y if y.dtype == self._state_dtype else y.to(self._state_dtype))
        except Exception as error:
            error.add_note(f"raised by the diffusion at t={float(t):g}")
            raise
        if self._numbers and isinstance(g, (int, float)):
            # torch refuses to multiply with a number that the dtype cannot hold, but not with infinity
            return g if abs(g) <= self._most else g * math.inf
        return self._check(g)

    def _check(self, g: Any) -> Tensor:
        if not isinstance(g, Tensor):
            raise TypeError(f"diffusion must return a torch.Tensor, got {type(g).__name__}.")
        shape, state = tuple(g.shape), tuple(self._shape)
        if self.noise == "additive":
            fits = len(shape) <= len(state) and all(a in (1, b) for a, b in zip(shape[::-1], state[::-1], strict=False))
            expected = f"one that broadcasts to y, {state}"
        elif self.noise == "general":
            # a constant matrix may leave out the samples
            fits = len(shape) > 0 and shape[:-1] in (state, state[1:])
            fits = fits and self._motions in (None, shape[-1])
            expected = f"y.shape + (m,), that is {(*state, self._motions or 'm')}"
        else:
            fits, expected = shape == state, f"that of y, {state}"
        if not fits:
            raise ValueError(f"diffusion has shape {shape}, but noise={self.noise!r} expects {expected}.")
        if g.layout != torch.strided:
            raise TypeError(f"diffusion is a tensor of {g.layout}, expected a dense one.")
        if g.device != self._device:
            raise TypeError(f"diffusion is on {g.device}, expected the device of y, {self._device}.")
        if g.dtype not in (self._state_dtype, self._work_dtype):
            raise TypeError(f"diffusion is of {g.dtype}, expected the dtype of y, {self._state_dtype}.")
        return g if g.dtype == self._work_dtype else g.to(self._work_dtype)

    def apply(self, g: Any, dw: Tensor) -> Tensor:
        """``g dW``, shape of ``y``."""
        if self.noise != "general":
            return g * dw
        if len(self._shape) == 1:
            return (g * dw).sum(-1)
        return torch.matmul(g, dw.view(dw.shape[0], *[1] * (len(self._shape) - 2), -1, 1)).squeeze(-1)

    def add_to(self, out: Tensor, t: Tensor, y: Tensor, dw: Tensor) -> Tensor:
        """``out + g(t, y) dW``; ``out`` is a fresh tensor and may be written into."""
        g = self._constant
        if type(g) is float:
            return out.add_(dw, alpha=g)
        g = self.value(t, y) if g is None else g
        if self.noise == "general":
            return out.add_(self.apply(g, dw))
        if isinstance(g, Tensor):
            return out.addcmul_(g, dw) if g.shape == out.shape else out.add_(g * dw)
        return out.add_(dw, alpha=g)
