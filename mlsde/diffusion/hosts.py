"""What hosts hand to a denoiser and want back: where the state and the time are, parts of a batch, outputs, prices.

A host is whatever calls a denoising network: a pipeline of diffusers, a sampler of k-diffusion or EDM, your own loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mlsde import checks
from mlsde.hierarchy import CountedLevels

STATES, TIMES = ("sample", "hidden_states", "x"), ("timestep", "t", "sigma")
"""Keywords that hosts use for the state and for the time."""

_TOKENS = ("img_ids", "txt_ids")
"""Positions of tokens, of shape ``(tokens, 3)`` and the same for all samples: never cut with the batch."""

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class DenoiserOutput:
    """Output of a denoiser where no level was evaluated to show the form of its own."""

    sample: Tensor

    def __getitem__(self, index: int) -> Tensor:
        return (self.sample,)[index]


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a denoiser.

    Attributes:
        args, kwargs: as they came.
        sample: the state, shape ``(batch, ...)``.
        time: the timestep or noise level, one for all samples.
        whole_numbers: whether the time came as an integer.
        branch: which branch of guidance it is, where the host says so.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    sample: Tensor
    time: float
    whole_numbers: bool
    branch: str | None = None

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: dict[str, Any], branch: str | None = None) -> Call:
        """Find the state and the time among the arguments of a call.

        Raises:
            TypeError, ValueError: if there is no state, no time, or not one time for all samples.
        """
        positional = list(args)
        sample = _taken("the state", STATES, positional, kwargs)
        when = _taken("the time", TIMES, positional, kwargs)
        if not isinstance(sample, Tensor) or sample.ndim == 0:
            raise TypeError(f"the state must be a tensor of shape (batch, ...), got {_brief(sample)}.")
        if not checks.dense("the state", sample).is_floating_point():
            raise TypeError(f"the state must be of a floating dtype, got {sample.dtype}.")
        if sample.numel() == 0:
            raise ValueError(f"the state needs at least one sample, and no empty one, got {tuple(sample.shape)}.")
        when = checks.dense("the time", when) if isinstance(when, Tensor) else when
        values = when.detach().flatten().tolist() if isinstance(when, Tensor) else [when]
        first = checks.finite_number("the time", values[0] if values else None)
        if any(value != first for value in values):
            raise ValueError(
                f"the time must be the same for all samples of a call, because coins belong to a step, got {values}."
            )
        whole = not (when.is_floating_point() if isinstance(when, Tensor) else isinstance(when, float))
        return cls(args, kwargs, sample, first, whole, branch)

    @property
    def batch(self) -> int:
        """Number of samples."""
        return self.sample.shape[0]

    def part(self, index: Tensor) -> Arguments:
        """Arguments for some of the samples: every tensor whose dimension 0 is the batch is cut alike."""
        args = tuple(_cut(value, index, self.batch) for value in self.args)
        return args, {name: _cut(value, index, self.batch, name) for name, value in self.kwargs.items()}


def _taken(what: str, names: tuple[str, ...], positional: list[Any], kwargs: dict[str, Any]) -> Any:
    for name in names:
        if name in kwargs:
            return kwargs[name]
    if not positional:
        raise TypeError(f"a denoiser needs {what}, as a positional argument or one of {', '.join(names)}, got neither.")
    return positional.pop(0)


def _cut(value: Any, index: Tensor, batch: int, name: str = "") -> Any:
    if isinstance(value, Tensor):
        whole = value.ndim == 0 or value.shape[0] != batch or (name in _TOKENS and value.ndim == 2)
        return value if whole else value.index_select(0, index.to(value.device))
    if isinstance(value, dict):
        return {key: _cut(inner, index, batch, str(key)) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        inner = [_cut(part, index, batch) for part in value]
        return type(value)(*inner) if hasattr(value, "_fields") else type(value)(inner)
    return value


def copies(sample: Tensor) -> int:
    """How often the batch holds the same samples: 2 for the ``cat([x, x])`` of guidance, 3 for its kin, else 1."""
    for count in (2, 3):
        first, *others = sample.chunk(count) if sample.shape[0] % count == 0 else [sample]
        if others and all(torch.equal(first, other) for other in others):
            return count
    return 1


def output_shape(sample: Tensor, model: Any) -> tuple[int, ...]:
    """Shape of one sample's output as far as a net's config tells: packed tokens have their channels last."""
    config = getattr(model, "config", None)
    channels, shape = getattr(config, "out_channels", None), list(sample.shape[1:])
    if isinstance(channels, int) and len(shape) == 2:
        patch = getattr(config, "patch_size", 1)
        shape[1] = channels * (patch**2 if isinstance(patch, int) else 1)
    elif isinstance(channels, int) and len(shape) > 2:
        shape[0] = channels
    return tuple(shape)


def unpacked(output: Any, level: str) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """Return the tensor of an output, and how to make such an output of another tensor.

    Raises:
        TypeError: if it is no tensor, 1-tuple or object with ``.sample``, naming the level.
    """
    if isinstance(output, Tensor):
        return output, _itself
    if isinstance(output, tuple) and len(output) == 1 and isinstance(output[0], Tensor):
        return output[0], _in_tuple
    if isinstance(getattr(output, "sample", None), Tensor):
        return output.sample, _Maker(type(output))
    raise TypeError(f"{level} must return a tensor, a 1-tuple or an object with .sample, got {_brief(output)}.")


def default_form(call: Call, forward: Callable[..., Any]) -> Callable[[Tensor], Any]:
    """How to make an output when no level has shown one yet: as ``return_dict`` says."""
    import inspect  # noqa: PLC0415, only a run whose first step evaluates nothing comes here

    parameter = inspect.signature(forward).parameters.get("return_dict")
    wished = call.kwargs.get("return_dict", None if parameter is None else parameter.default)
    return _itself if wished is None else DenoiserOutput if wished else _in_tuple


def _itself(value: Tensor) -> Tensor:
    return value


def _in_tuple(value: Tensor) -> tuple[Tensor]:
    return (value,)


@dataclass(frozen=True)
class _Maker:
    kind: type

    def __call__(self, value: Tensor) -> Any:
        return self.kind(sample=value)


def _brief(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, (list, tuple)) else "")


class ModelLevels(CountedLevels):
    """The nets of a ladder as one run sees them: level ``k`` is the net at the arguments of the current call.

    The states that the estimator hands over only say which samples are wanted: each holds its number in the batch
    (:meth:`numbered`). So the sum is taken in the space of the outputs, whatever their shape.

    Args:
        models: the nets, cheapest first.
        work_dtype: dtype of the sums.
        per_sample: whether samples have coins of their own, so that outputs must be of the shape foreseen.

    Attributes:
        shape: of one sample's output, ``None`` before the first.
        dtype: of the outputs.
        form: how to make an output of a tensor.
    """

    def __init__(self, models: Sequence[Callable[..., Any]], work_dtype: torch.dtype, per_sample: bool) -> None:
        super().__init__(models, work_dtype)
        self._work_dtype, self._per_sample = work_dtype, per_sample
        self.current: Call | None = None
        self.shape: tuple[int, ...] | None = None
        self.dtype: torch.dtype | None = None
        self.form: Callable[[Tensor], Any] | None = None

    def numbered(self, call: Call) -> Tensor:
        """The batch as the estimator sees it: each sample is filled with its number."""
        shape = output_shape(call.sample, self._levels[-1]) if self.shape is None else self.shape
        numbers = torch.arange(call.batch, dtype=self._work_dtype, device=call.sample.device)
        return numbers.view(-1, *[1] * len(shape)).expand(-1, *shape)

    def __call__(self, k: int, t: Tensor, y: Tensor) -> Tensor:
        """Output of level ``k`` (from 0) for the samples whose numbers ``y`` holds, shape ``(samples, ...)``."""
        call = self.current
        assert call is not None, "a run sets the current call before it asks for an estimate"
        whole = y.shape[0] == call.batch
        args, kwargs = (call.args, call.kwargs) if whole else call.part(y.reshape(y.shape[0], -1)[:, 0].long())
        start = time.perf_counter()
        try:
            output = self._levels[k](*args, **kwargs)
        except Exception as error:
            error.add_note(f"raised by level {k + 1} of the ladder at timestep {call.time:g}")
            raise
        self.seconds[k] += time.perf_counter() - start
        self.calls[k] += 1
        self.samples[k] += y.shape[0]
        value, self.form = unpacked(output, f"level {k + 1}")
        self._check(k, value, y)
        self.shape, self.dtype = tuple(value.shape[1:]), value.dtype
        return value if value.dtype == y.dtype else value.to(y.dtype)

    def _check(self, k: int, value: Tensor, y: Tensor) -> None:
        foreseen = tuple(y.shape[1:]) if self._per_sample else tuple(value.shape[1:])
        expected = (y.shape[0], *(foreseen if self.shape is None else self.shape))
        if tuple(value.shape) != expected:
            raise ValueError(
                f"level {k + 1} returned shape {tuple(value.shape)}, expected {expected}, as of the other levels; "
                "a net that also predicts its variance has twice the channels: give nets with equal outputs."
            )
        if value.layout != torch.strided:
            raise ValueError(f"level {k + 1} returned a tensor of {value.layout}, expected a dense one.")
        if value.device != y.device:
            raise ValueError(f"level {k + 1} returned a tensor on {value.device}, expected {y.device}, the state's.")


def flops(models: Sequence[Callable[..., Any]], call: Call) -> tuple[float, ...]:
    """Floating-point operations of each net for the first sample of a call, counted while it is evaluated once.

    Raises:
        ValueError: for a net in which torch's counter finds nothing.
    """
    args, kwargs = call.part(torch.zeros(1, dtype=torch.long, device=call.sample.device))
    found = []
    for k, model in enumerate(models):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(*args, **kwargs)
        if counter.get_total_flops() == 0:
            raise ValueError(
                f"level {k + 1} does nothing that torch's FLOP counter counts; give the prices with costs=[...]."
            )
        found.append(float(counter.get_total_flops()))
    return tuple(found)


def placement(model: Any) -> tuple[torch.device, torch.dtype] | None:
    """Device and dtype of a net: those of its first floating parameter or buffer, ``None`` without any."""
    if not isinstance(model, nn.Module):
        return None
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            return tensor.device, tensor.dtype
    return None
