"""Denoisers in every convention of the literature, and ladders of them that speak one language.

A network sees a noisy ``x = alpha x0 + sigma eps`` and predicts a combination ``a x0 + b eps``:

=========== ============== ============== ======================================
``predicts`` ``a``          ``b``          source
=========== ============== ============== ======================================
``"noise"`` 0              1              J. Ho et al., arXiv 2006.11239
``"clean"`` 1              0              J. Ho et al., arXiv 2006.11239
``"v"``     ``-sigma``     ``alpha``      T. Salimans & J. Ho, arXiv 2202.00512
``"flow"``  ``alpha'``     ``sigma'``     X. Liu et al., arXiv 2209.03003
``"edm"``   1              0              T. Karras et al., arXiv 2206.00364
=========== ============== ============== ======================================

Any two of them are exchanged through ``x`` (:func:`convert`). An ``"edm"`` network is shown ``x / alpha`` and told
``sigma / alpha``.

The same log-SNR means the same noisy sample up to a factor. So a network that was trained on one process serves a run
on another: it is shown ``x`` times that factor, at its own time of equal log-SNR.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mlsde import checks
from mlsde.diffusion.conditioning import doubled, for_batch, tensors
from mlsde.diffusion.processes import SPACES, Process
from mlsde.hierarchy import DriftHierarchy

PREDICTIONS = ("noise", "clean", "v", "flow", "edm")


def coefficients(predicts: str, process: Process, t: float) -> tuple[float, float]:
    """``(a, b)`` of a prediction ``a x0 + b eps`` at time ``t``.

    Raises:
        ValueError: for an unknown convention.
    """
    checks.one_of("predicts", predicts, PREDICTIONS)
    if predicts == "noise":
        return 0.0, 1.0
    if predicts == "v":
        return -process.sigma(t), process.alpha(t)
    return (process.alpha_slope(t), process.sigma_slope(t)) if predicts == "flow" else (1.0, 0.0)


def exchange(source: str, target: str, process: Process, t: float) -> tuple[float, float]:
    """``(p, m)`` with ``target = p source + m x`` at time ``t``: ``(a, b)`` and ``(alpha, sigma)`` span every other.

    Raises:
        ValueError: where the source, seen through ``x``, says nothing of the target: noise where ``alpha = 0``, the
            clean sample where ``sigma = 0``.
    """
    (a, b), (c, d) = (coefficients(name, process, t) for name in (source, target))
    if (a, b) == (c, d):
        return 1.0, 0.0
    alpha, sigma = process.alpha(t), process.sigma(t)
    determinant = a * sigma - b * alpha
    if determinant == 0:
        raise ValueError(
            f"a prediction of {source!r} cannot be turned into {target!r} at t={t:g}, where alpha={alpha:g} and "
            f"sigma={sigma:g}; begin or end beside that time, or solve in the other space."
        )
    return (c * sigma - d * alpha) / determinant, (a * d - b * c) / determinant


def convert(value: Tensor, x: Tensor, process: Process, t: float, *, source: str, target: str) -> Tensor:
    """Turn a prediction into another convention.

    Args:
        value: prediction for ``x``, shape of ``x``.
        x: noisy samples.
        process: of which ``x`` are samples.
        t: their time.
        source: convention of ``value``: ``"noise"``, ``"clean"``, ``"v"``, ``"flow"`` or ``"edm"``.
        target: that of the answer.

    Raises:
        ValueError: for an unknown convention, or where ``value`` and ``x`` do not determine the target.
    """
    return _affine(value, x, *exchange(source, target, process, t))


def to_noise(value: Tensor, x: Tensor, process: Process, t: float, predicts: str) -> Tensor:
    """The noise in ``x`` from a prediction in the convention ``predicts``; see :func:`convert`."""
    return convert(value, x, process, t, source=predicts, target="noise")


def to_clean(value: Tensor, x: Tensor, process: Process, t: float, predicts: str) -> Tensor:
    """The clean sample in ``x`` from a prediction in the convention ``predicts``; see :func:`convert`."""
    return convert(value, x, process, t, source=predicts, target="clean")


def to_v(value: Tensor, x: Tensor, process: Process, t: float, predicts: str) -> Tensor:
    """``alpha eps - sigma x0`` from a prediction in the convention ``predicts``; see :func:`convert`."""
    return convert(value, x, process, t, source=predicts, target="v")


def to_flow(value: Tensor, x: Tensor, process: Process, t: float, predicts: str) -> Tensor:
    """``alpha' x0 + sigma' eps`` from a prediction in the convention ``predicts``; see :func:`convert`."""
    return convert(value, x, process, t, source=predicts, target="flow")


def _affine(value: Tensor, x: Tensor, p: float, m: float) -> Tensor:
    """``p value + m x``, and ``value`` itself where it is that."""
    scaled = value if p == 1 else p * value
    return scaled if m == 0 else torch.add(scaled, x, alpha=m)


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance: ``unconditional + scale (conditional - unconditional)``; see :func:`guided`."""

    scale: float
    conditional: Mapping[str, Any]
    unconditional: Mapping[str, Any]


@dataclass(frozen=True, eq=False, repr=False)
class Denoiser:
    """A network, and all there is to know to ask it.

    Args:
        model: called as ``model(x, told, **conditioning)``, with ``told`` of shape ``(samples,)``; returns a tensor, a
            tuple with one, or an object whose ``.sample`` is one, shape of ``x``.
        predicts: ``"noise"``, ``"clean"``, ``"v"``, ``"flow"`` (in the process's own time) or ``"edm"``.
        process: what it was trained on. By default what it is used on; of no concern for ``"edm"``.
        timestep: what the network is told at its time ``t``; by default ``t`` itself, or the ratio ``sigma / alpha``
            for ``"edm"``. For instance ``lambda t: 1000 * t`` or ``lambda t: math.log(t) / 4``.
        call: ``call(model, x, told, **conditioning)`` in place of ``model(x, told, **conditioning)``.
        conditioning: what else it is given, by name. Tensors have the samples in dimension 0, or 1 there to be
            shared; so have those within dictionaries and lists. Everything else, such as tables of positions, belongs
            into ``call``.
        guidance: made by :func:`guided`.

    Outside the log-SNRs of ``inner_span`` and its own noise end the network is asked at the nearest it was trained on.

    Raises:
        TypeError, ValueError: naming the argument.
    """

    model: Callable[..., Any]
    predicts: str
    process: Process | None = None
    timestep: Callable[[float], float] | None = None
    call: Callable[..., Any] | None = None
    conditioning: Mapping[str, Any] = field(default_factory=dict)
    guidance: Guidance | None = None

    def __post_init__(self) -> None:
        checks.callable_as("model", "model(x, told)", self.model)
        checks.one_of("predicts", self.predicts, PREDICTIONS)
        if self.process is not None and not isinstance(self.process, Process):
            raise TypeError(f"process must be a Process, such as RectifiedFlow(), got {self.process!r}.")
        for name, call in (("timestep", "timestep(t)"), ("call", "call(model, x, told)")):
            if getattr(self, name) is not None:
                checks.callable_as(name, call, getattr(self, name))
        if not isinstance(self.conditioning, Mapping):
            raise TypeError(f"conditioning must be a dictionary of arguments by name, got {self.conditioning!r}.")

    def __repr__(self) -> str:
        guided = "" if self.guidance is None else f", guided by {self.guidance.scale:g}"
        return f"Denoiser({type(self.model).__name__}, {self.predicts!r}, process={self.process}{guided})"

    def output(self, t: float, x: Tensor) -> Tensor:
        """What the network says of ``x`` at its own time ``t`` (``"edm"``: of ``x / alpha`` at that ratio).

        Raises:
            TypeError, ValueError: if that is no tensor of the shape, dtype and device of ``x``, or if the conditioning
                is of other samples.
        """
        told = t if self.timestep is None else checks.number("timestep(t)", self.timestep(t))
        if self.guidance is None:
            return self._asked(x, told, self.conditioning)
        rules = self.guidance
        pair = [for_batch(part, len(x), "") for part in (rules.unconditional, rules.conditional)]
        shared = for_batch(self.conditioning, len(x), "")
        both = {**doubled(shared, shared), **doubled(*pair)}
        unconditional, conditional = self._asked(torch.cat([x, x]), told, both).chunk(2)
        return unconditional + rules.scale * (conditional - unconditional)

    def _asked(self, x: Tensor, told: float, conditioning: Mapping[str, Any]) -> Tensor:
        dtype = torch.float32 if x.dtype in checks.HALF_PRECISIONS else x.dtype
        times = torch.full((len(x),), told, dtype=dtype, device=x.device)
        arguments = for_batch(conditioning, len(x), "")
        ask = self.model if self.call is None else partial(self.call, self.model)
        try:
            out = ask(x, times, **arguments)
        except Exception as error:
            error.add_note(f"raised by the denoiser {type(self.model).__name__}, told {told:g}")
            raise
        return self._checked(out, x)

    def _checked(self, out: Any, x: Tensor) -> Tensor:
        value = getattr(out, "sample", None) if not isinstance(out, (Tensor, tuple, list)) else out
        if isinstance(value, (tuple, list)) and len(value) == 1:
            value = value[0]
        name = type(self.model).__name__
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must return a tensor, a tuple with one or .sample, got {type(out).__name__}.")
        if value.shape != x.shape:
            raise ValueError(
                f"{name} returned shape {tuple(value.shape)}, expected that of x, {tuple(x.shape)}; "
                "if it also predicts a variance, drop that in call=."
            )
        if value.layout != x.layout:
            raise TypeError(f"{name} returned a tensor of {value.layout}, expected a dense one as x.")
        if value.dtype != x.dtype or value.device != x.device:
            raise TypeError(
                f"{name} returned {value.dtype} on {value.device}, expected {x.dtype} on {x.device} as x; "
                "move it there, or cast in call=."
            )
        return value

    def matched(self, process: Process, t: float) -> tuple[float, float, Process, float]:
        """How the network is asked about a state of ``process`` at time ``t``.

        Returns:
            The factor of the state, the time (or ratio) of the network, and the process and time of the prediction.

        Raises:
            ValueError: for ``"edm"`` where there is no signal left to divide by.
        """
        if self.predicts == "edm":
            if process.alpha(t) == 0:
                raise ValueError(f"a denoiser of 'edm' is shown x / alpha, and alpha is 0 at t={t:g}; begin beside it.")
            return 1.0 / process.alpha(t), process.sigma(t) / process.alpha(t), process, t
        if self.process is None or self.process == process:
            return 1.0, t, process, t
        own, log_snr = self.process, process.log_snr(t)
        time = own.time(min(max(log_snr, own.log_snr(own.t_span[0])), own.log_snr(own.inner_span[1])))
        # equal log-SNR makes the two quotients equal; where it was beyond reach, the larger part is kept
        factor = own.alpha(time) / process.alpha(t) if log_snr > 0 else own.sigma(time) / process.sigma(t)
        return factor, time, own, time

    @property
    def weight(self) -> Tensor | None:
        """The network's first weight, which has its dtype and device; ``None`` for a plain function."""
        parameters = self.model.parameters() if isinstance(self.model, torch.nn.Module) else iter(())
        return next((weight for weight in parameters if weight.dtype.is_floating_point), None)

    @property
    def per_sample(self) -> bool:
        """Whether some conditioning differs between samples, so that it needs all of them, in their order."""
        parts = [self.conditioning]
        if self.guidance is not None:
            parts += [self.guidance.conditional, self.guidance.unconditional]
        return any(tensor.ndim > 0 and len(tensor) > 1 for part in parts for tensor in tensors(part))

    def check(self, y: Tensor) -> None:
        """Refuse states that the network cannot take, as far as its weights and configuration tell.

        Args:
            y: a state, shape ``(samples, ...)``.

        Raises:
            TypeError, ValueError: naming what does not fit.
        """
        if self.call is not None:
            return
        name, weight = type(self.model).__name__, self.weight
        if weight is not None and (weight.dtype != y.dtype or weight.device != y.device):
            raise TypeError(
                f"the weights of {name} are {weight.dtype} on {weight.device}, but the state is {y.dtype} on "
                f"{y.device}; make them agree, or cast in call=."
            )
        for which in ("in_channels", "out_channels"):
            channels = _channels(self.model, which)
            if channels is not None and y.ndim == 4 and channels != y.shape[1]:
                raise ValueError(f"{name} has {which}={channels}, but the state has {y.shape[1]} channels.")


def guided(
    denoiser: Denoiser, scale: float, *, conditional: Mapping[str, Any], unconditional: Mapping[str, Any]
) -> Denoiser:
    """Denoiser with classifier-free guidance, evaluated as one doubled batch ``[unconditional, conditional]``.

    The guided denoiser is one function: a level of a ladder, which a coin skips as a whole. Its price is that of two
    evaluations.

    Args:
        denoiser: the network; what it is conditioned on already serves both halves.
        scale: 1 is the conditional network alone, 0 the unconditional.
        conditional: conditioning of one half, as of :class:`Denoiser`.
        unconditional: that of the other, under the same names.

    Returns:
        The guided denoiser.

    Raises:
        TypeError, ValueError: if they are no dictionaries, or if their names or kinds differ.

    Source: J. Ho & T. Salimans, arXiv 2207.12598 (there the scale is counted from 0 at the conditional network).
    """
    if not isinstance(denoiser, Denoiser):
        raise TypeError(f"denoiser must be a Denoiser, got {type(denoiser).__name__}.")
    checks.finite_number("scale", scale)
    for name, value in (("conditional", conditional), ("unconditional", unconditional)):
        if not isinstance(value, Mapping):
            raise TypeError(f"{name} must be a dictionary of arguments by name, got {value!r}.")
    if set(conditional) != set(unconditional):
        raise ValueError(
            f"conditional and unconditional must have the same names, got {sorted(conditional)} and "
            f"{sorted(unconditional)}; give both, such as the empty prompt's embedding."
        )
    return replace(denoiser, guidance=Guidance(float(scale), dict(conditional), dict(unconditional)))


@dataclass(frozen=True)
class DenoiserLevel:
    """Level of a ladder: a denoiser's prediction for the states of a process, in one space.

    Args:
        denoiser: the network.
        process: what is being solved.
        space: ``"noise"`` or ``"clean"``, what is returned.
        difference: whether the network predicts the difference to the level below.
    """

    denoiser: Denoiser
    process: Process
    space: str
    difference: bool = False

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        """Prediction for ``y`` at time ``t``, shape of ``y``."""
        factor, told, own, time = self.denoiser.matched(self.process, float(t))
        x = y if factor == 1 else factor * y
        out = self.denoiser.output(told, x)
        if self.denoiser.predicts == "edm":  # clean already, but x is not a state of the process
            return _affine(out, y, *self._exchange("clean", own, time))
        return _affine(out, x, *self._exchange(self.denoiser.predicts, own, time))

    def check(self, t: float, y: Tensor) -> None:
        """Refuse states that the denoiser cannot take, and times at which its prediction says nothing of the space.

        Raises:
            TypeError, ValueError: naming what does not fit.
        """
        self.denoiser.check(y)
        _, _, own, time = self.denoiser.matched(self.process, t)
        self._exchange(self.denoiser.predicts, own, time)

    def _exchange(self, source: str, process: Process, time: float) -> tuple[float, float]:
        p, m = exchange(source, self.space, process, time)
        return p, 0.0 if self.difference else m


@dataclass(frozen=True)
class ConvertedLevel:
    """A plain function that predicts noise, as a level of clean space.

    Args:
        level: ``eps(t, y)``.
        process: what is being solved.
        difference: whether it predicts the difference to the level below.
    """

    level: Callable[[Tensor, Tensor], Tensor]
    process: Process
    difference: bool

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        """Prediction of the clean sample for ``y`` at time ``t``, shape of ``y``."""
        p, m = exchange("noise", "clean", self.process, float(t))
        value = self.level(t, y)  # what is not like y is refused where levels are counted
        return _affine(value, y, p, 0.0 if self.difference else m) if checks.like(value, y) else value

    def check(self, t: float, y: Tensor) -> None:
        """Refuse times at which the noise says nothing of the clean sample, with a ``ValueError``."""
        exchange("noise", "clean", self.process, t)


def denoiser_ladder(
    denoisers: Sequence[Denoiser],
    *,
    process: Process,
    space: str = "noise",
    costs: Sequence[float] | None = None,
    names: Sequence[str] | None = None,
    differences: bool = False,
) -> DriftHierarchy:
    """Ladder of denoisers, whatever their conventions, for ``process.reverse(ladder, space=space)``.

    Args:
        denoisers: cheapest first.
        process: what will be solved; a denoiser of another process is asked at equal log-SNR.
        space: what all levels are turned into: ``"noise"`` or ``"clean"``.
        costs: price of one evaluation of each for one sample, such as :func:`flops`.
        names: of the levels.
        differences: whether each network above the first predicts what is to be added to the level below.

    Returns:
        The ladder.

    Raises:
        TypeError, ValueError: naming the argument, also for networks whose channels differ.
    """
    if not isinstance(process, Process):
        raise TypeError(f"process must be a Process, such as RectifiedFlow(), got {process!r}.")
    checks.one_of("space", space, SPACES)
    if not isinstance(denoisers, Sequence) or not all(isinstance(denoiser, Denoiser) for denoiser in denoisers):
        raise TypeError(
            f"denoisers must be a sequence of Denoiser(model, predicts), cheapest first, got {denoisers!r}."
        )
    if len(denoisers) == 0:
        raise ValueError("denoisers must hold at least one Denoiser(model, predicts), got none.")
    for which in ("in_channels", "out_channels"):
        found = {_channels(denoiser.model, which) for denoiser in denoisers if denoiser.call is None} - {None}
        if len(found) > 1:
            raise ValueError(f"denoisers must agree in {which}, got {sorted(filter(None, found))}; adapt with call=.")
    differences = checks.truth("differences", differences)
    levels = [DenoiserLevel(d, process, space, differences and k > 0) for k, d in enumerate(denoisers)]
    make = DriftHierarchy.from_differences if differences else DriftHierarchy
    return make(levels, costs, names=names)


def in_space(ladder: DriftHierarchy, process: Process, space: str) -> DriftHierarchy:
    """The same ladder in another space.

    Args:
        ladder: made by :func:`denoiser_ladder`, or of plain functions that predict noise.
        process: what is solved.
        space: ``"noise"`` or ``"clean"``.

    Raises:
        ValueError: if the ladder was made for another process.
    """
    checks.one_of("space", space, SPACES)
    levels = [_in_space(level, process, space, ladder.differences and k > 0) for k, level in enumerate(ladder.levels)]
    make = DriftHierarchy.from_differences if ladder.differences else DriftHierarchy
    return make(levels, ladder.costs, names=ladder.names)


def _in_space(level: Any, process: Process, space: str, difference: bool) -> Any:
    if not isinstance(level, DenoiserLevel):
        return level if space == "noise" else ConvertedLevel(level, process, difference)
    if level.process != process:
        raise ValueError(f"the ladder was made for {level.process}, not for {process}; make it for the one you solve.")
    return replace(level, space=space)


def flops(model: Callable[..., Any], sample: Tensor, t: float = 0.5) -> float:
    """Floating-point operations of one evaluation for one sample, a multiply-add counted as two.

    Matrix products, convolutions and attention are counted, the rest is small beside them.

    Args:
        model: a :class:`Denoiser` (guidance and all), or a network ``model(x, told)``.
        sample: noisy samples, shape ``(samples, ...)``.
        t: time at which to ask.

    Raises:
        ValueError: if nothing was counted.
    """
    from torch.utils.flop_counter import FlopCounterMode  # noqa: PLC0415, seldom needed

    denoiser = model if isinstance(model, Denoiser) else Denoiser(model, "noise")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        denoiser.output(t, sample)
    if counter.get_total_flops() == 0:
        raise ValueError("model has no matrix products or convolutions to count; give its costs yourself.")
    return counter.get_total_flops() / len(sample)


def _channels(model: Any, which: str) -> int | None:
    """Channels as a network's configuration states them."""
    value = getattr(getattr(model, "config", None), which, None)
    return value if isinstance(value, int) else None
