"""The ladder: approximations of one drift, cheapest first, and the one wrapper that counts their evaluations."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlsde import checks
from mlsde.levels import PRECISIONS, CompiledLevel, RoundedLevel

_FALLING = (
    "costs fall from {first:g} for the first level to {last:g} for the last, which is the one that a run is to be as "
    "accurate as; give the levels cheapest first."
)

Level = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, init=False)
class DriftHierarchy:
    """Approximations ``f^1 … f^K`` of one drift, cheapest first.

    Args:
        levels: callables ``f(t, y) -> like y``: functions, ``nn.Module``s, numpy functions through
            :func:`from_numpy`. ``y`` has the samples in dimension 0, which a level may see fewer of at a time, and
            must not be written into; ``t`` is a 0-d tensor.
        costs: price of one evaluation of each level for one sample, in any unit. May be left out; whatever needs
            prices then says so, and :meth:`measured` finds them.
        names: what to call the levels in tables; ``level 1 …`` by default.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> drift = DriftHierarchy([lambda t, y: -y, lambda t, y: -torch.sin(y)], costs=[1.0, 10.0])
        >>> len(drift)
        2
    """

    levels: tuple[Level, ...]
    costs: tuple[float, ...] | None
    names: tuple[str, ...]
    differences: bool
    """True if level ``k`` returns the correction ``f^k - f^{k-1}`` and not ``f^k``."""

    def __init__(
        self, levels: Sequence[Level], costs: Sequence[float] | None = None, *, names: Sequence[str] | None = None
    ) -> None:
        functions = _callables(levels)
        prices = _costs(costs, len(functions))
        if prices is not None and prices[-1] < prices[0]:
            warnings.warn(_FALLING.format(first=prices[0], last=prices[-1]), UserWarning, stacklevel=2)
        self._set(functions, prices, names, differences=False)

    @classmethod
    def from_differences(
        cls, differences: Sequence[Level], costs: Sequence[float] | None = None, *, names: Sequence[str] | None = None
    ) -> DriftHierarchy:
        """Ladder given by its corrections: ``f^k`` is the sum of the first ``k`` of them.

        A fired level then pays for its correction alone (a long-range force, a residual network), and ``costs[k]`` is
        the price of that correction.
        """
        new = object.__new__(cls)
        new._set(_callables(differences), _costs(costs, len(differences)), names, differences=True)
        return new

    def _set(
        self,
        levels: tuple[Level, ...],
        costs: tuple[float, ...] | None,
        names: Sequence[str] | None,
        differences: bool,
    ) -> None:
        if names is not None:
            _one_each("names", "names", names, len(levels))
        labels = tuple(f"level {k + 1}" for k in range(len(levels))) if names is None else tuple(map(str, names))
        for field, value in (("levels", levels), ("costs", costs), ("names", labels), ("differences", differences)):
            object.__setattr__(self, field, value)

    def __len__(self) -> int:
        return len(self.levels)

    def __repr__(self) -> str:
        kind = "DriftHierarchy.from_differences" if self.differences else "DriftHierarchy"
        price = "not measured" if self.costs is None else ", ".join(f"{cost:g}" for cost in self.costs)
        return f"{kind}({len(self)} levels, costs: {price})"

    def select(self, levels: Sequence[int]) -> DriftHierarchy:
        """Ladder of some of the levels, numbered from 1 and increasing: skipping a level is often better."""
        chosen = self._numbers(levels)
        if self.differences and chosen != list(range(1, chosen[-1] + 1)):
            raise ValueError("a ladder of differences can only be cut at the top: levels must be 1, 2, … j.")
        new = object.__new__(type(self))
        costs = None if self.costs is None else tuple(self.costs[k - 1] for k in chosen)
        names = [self.names[k - 1] for k in chosen]
        new._set(tuple(self.levels[k - 1] for k in chosen), costs, names, self.differences)
        return new

    def measured(self, t: float | Tensor, y: Tensor, *, repeats: int = 5) -> DriftHierarchy:
        """The same ladder with its costs measured: the median over ``repeats`` of seconds per sample at ``(t, y)``."""
        checks.positive_integer("repeats", repeats)
        checks.state("y", y)
        when, seen = _time_like("t", t, y), CountedLevels(self.levels, y.dtype)
        with torch.no_grad():
            for k in range(len(self)):
                seen(k, when, y)
            costs = [_median_seconds(level, when, y, repeats) / y.shape[0] for level in self.levels]
        return self.priced(costs)

    def priced(self, costs: Sequence[float]) -> DriftHierarchy:
        """The same ladder at other prices, one for each level."""
        new = object.__new__(type(self))
        new._set(self.levels, _costs(costs, len(self)), self.names, self.differences)
        return new

    def compile(
        self, levels: Sequence[int] | None = None, *, few_sizes: bool = False, **options: Any
    ) -> DriftHierarchy:
        """The same ladder with levels compiled by :func:`torch.compile` at their first evaluation.

        Worth it where launching a level's kernels takes longer than running them: small networks, above all on CUDA.
        The plan settles beforehand which levels fire, so nothing of the loop is in the way. The result agrees to
        rounding. Compiling takes seconds to minutes, once for each level and again if the number of samples changes.

        Args:
            levels: which to compile, numbered from 1; all by default.
            few_sizes: pad the samples to a few sizes, four in each doubling, with copies of the first. Coins per sample
                (``share="sample"``) change the number of samples from step to step, and each size is compiled or
                captured anew. A padded level takes up to a quarter longer, which the counts do not show.
            **options: of :func:`torch.compile`. ``mode="reduce-overhead"`` captures CUDA graphs, one for each number of
                samples; ``dynamic=True`` compiles once for all of them and captures none.

        Raises:
            TypeError, ValueError: for numbers that are no levels.
        """
        chosen = set(range(1, len(self) + 1) if levels is None else self._numbers(levels))
        return self.with_levels(
            [CompiledLevel(f, options, few_sizes) if k in chosen else f for k, f in enumerate(self.levels, start=1)]
        )

    def in_precision(self, dtypes: Sequence[torch.dtype | None]) -> DriftHierarchy:
        """The same ladder with the matrix products and convolutions of some levels in half precision.

        State, noise, sums and differences stay as they are. Cheap levels bear it best: their rounding is part of a
        difference that a dearer level corrects, while that of the top level stays. :meth:`rounding` tells how large
        it is.

        Args:
            dtypes: for each level ``torch.bfloat16``, ``torch.float16``, or ``None`` for as it is.

        Raises:
            TypeError, ValueError: naming ``dtypes``.
        """
        _one_each("dtypes", "dtypes", dtypes, len(self))
        for k, dtype in enumerate(dtypes):
            if dtype is not None and dtype not in PRECISIONS:
                raise ValueError(f"dtypes[{k}] must be torch.bfloat16, torch.float16 or None, got {dtype!r}.")
        return self.with_levels(
            [f if dtype is None else RoundedLevel(f, dtype) for f, dtype in zip(self.levels, dtypes, strict=True)]
        )

    def rounding(self, t: float | Tensor, y: Tensor) -> tuple[float, ...]:
        """Root mean square by which each level's lower precision moves its value at ``(t, y)``; 0 for the others.

        Args:
            t: a time.
            y: states, shape ``(samples, ...)``.

        Returns:
            One number for each level; infinite where the lower precision does not hold the value.

        Raises:
            TypeError, ValueError: naming the argument, or a level whose value is not finite.
        """
        when = _time_like("t", t, checks.state("y", y))
        low = [f.level if isinstance(f, CompiledLevel) else f for f in self.levels]
        high = [f.level if isinstance(f, RoundedLevel) else f for f in low]
        rounded, exact = CountedLevels(low, y.dtype), CountedLevels(high, y.dtype)
        found = []
        with torch.no_grad():
            for k in range(len(self)):
                value = exact(k, when, y).double()
                if not bool(value.isfinite().all()):
                    raise ValueError(f"drift level {k + 1} is NaN or infinite at t={float(when):g}, y.")
                off = float((rounded(k, when, y).double() - value).square().mean().sqrt()) if low[k] != high[k] else 0.0
                found.append(off if math.isfinite(off) else math.inf)
        return tuple(found)

    def with_levels(self, levels: Sequence[Level]) -> DriftHierarchy:
        """The same ladder, each level replaced by what stands for it: prices, names and kind are kept.

        Args:
            levels: as many as there are.

        Raises:
            TypeError, ValueError: naming ``levels``.
        """
        if len(_callables(levels)) != len(self):
            raise ValueError(f"levels holds {len(levels)} callables, but there are {len(self)} levels; give as many.")
        new = object.__new__(type(self))
        new._set(tuple(levels), self.costs, self.names, self.differences)
        return new

    def _numbers(self, levels: Sequence[int]) -> list[int]:
        """Numbers of levels, increasing.

        Raises:
            TypeError, ValueError: if they are none.
        """
        chosen = [checks.positive_integer("levels", k) for k in checks.items("levels", levels, "level numbers")]
        if not chosen or chosen != sorted(set(chosen)) or chosen[-1] > len(self):
            raise ValueError(f"levels must increase within 1 … {len(self)}, got {chosen}.")
        return chosen

    def required_costs(self, asker: str) -> tuple[float, ...]:
        """Return the costs; ``ValueError`` that names ``asker`` if there are none."""
        if self.costs is None:
            raise ValueError(
                f"{asker} needs the price of each level: give DriftHierarchy(..., costs=[...]), "
                "or measure them with drift.measured(t0, y0)."
            )
        return self.costs


def from_numpy(function: Callable[[float, np.ndarray], np.ndarray]) -> Level:
    """Make a level of a numpy function.

    Args:
        function: ``f(t, y)`` of a float and an array, which returns an array like ``y``. As numpy has no bfloat16,
            it sees float32 there, and its result is rounded.

    Returns:
        The level, ``f(t, y)`` of tensors.

    Raises:
        TypeError: if ``function`` is not callable.

    Example:
        >>> level = from_numpy(lambda t, y: -t * y)
        >>> level(torch.tensor(2.0), torch.ones(1, 2)).tolist()
        [[-2.0, -2.0]]
    """
    checks.callable_as("function", "function(t, y)", function)

    def level(t: Tensor, y: Tensor) -> Tensor:
        seen = y.detach().cpu()
        seen = seen.float() if seen.dtype == torch.bfloat16 else seen
        out = np.array(function(float(t), seen.numpy()), order="C")
        if out.dtype != seen.numpy().dtype:
            raise TypeError(f"function must return an array of {seen.numpy().dtype}, like y, got {out.dtype}.")
        return torch.from_numpy(out).to(y)

    return level


def _time_like(name: str, t: Any, y: Tensor) -> Tensor:
    """A time as levels see it beside ``y``: on its device, in its dtype, in float32 beside half precisions."""
    dtype = torch.float32 if y.dtype in checks.HALF_PRECISIONS else y.dtype
    when = checks.finite_number(name, t)
    checks.within(name, when, dtype)
    return torch.as_tensor(when, dtype=dtype, device=y.device)


def _median_seconds(level: Level, t: Tensor, y: Tensor, repeats: int) -> float:
    def synchronise() -> None:
        if y.device.type == "cuda":
            torch.cuda.synchronize(y.device)

    seconds = []
    for _ in range(repeats):
        synchronise()
        start = time.perf_counter()
        level(t, y)
        synchronise()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def _callables(levels: Sequence[Level]) -> tuple[Level, ...]:
    if isinstance(levels, torch.nn.ModuleList):
        levels = list(levels)
    if callable(levels) or not isinstance(levels, Sequence):
        raise TypeError(f"levels must be a sequence of callables f(t, y), got {type(levels).__name__}.")
    if not levels:
        raise ValueError("levels must hold at least one callable f(t, y), got none.")
    for k, level in enumerate(levels):
        if not callable(level):
            raise TypeError(f"levels[{k}] must be a callable f(t, y), got {type(level).__name__}.")
    return tuple(levels)


def _costs(costs: Sequence[float] | None, count: int) -> tuple[float, ...] | None:
    if costs is None:
        return None
    _one_each("costs", "prices", costs, count)
    return tuple(checks.positive_number(f"costs[{k}]", cost) for k, cost in enumerate(costs))


def _one_each(name: str, what: str, values: object, count: int) -> None:
    """Raise unless ``values`` is a sequence (or one-dimensional array) with one entry for each level."""
    shape = getattr(values, "shape", None)
    if not isinstance(values, (list, tuple)) and (shape is None or len(shape) != 1):
        raise TypeError(f"{name} must be a sequence of {count} {what}, one for each level, got {values!r}.")
    if len(values) != count:  # type: ignore[arg-type]
        raise ValueError(f"{name} holds {len(values)} {what}, but there are {count} levels; give one for each.")  # type: ignore[arg-type]


class CountedLevels:
    """The levels of a ladder as one run sees them: each evaluation is counted, timed and checked here.

    Attributes:
        calls: calls of each level.
        samples: samples that each level was evaluated for.
        seconds: wall-clock inside each level (on a GPU the time to launch it).
    """

    def __init__(self, levels: Sequence[Level], state_dtype: torch.dtype) -> None:
        self._levels, self._dtype = tuple(levels), state_dtype
        self.calls, self.samples, self.seconds = [0] * len(levels), [0] * len(levels), [0.0] * len(levels)

    def __call__(self, k: int, t: Tensor, y: Tensor) -> Tensor:
        """Evaluate level ``k`` (from 0) at ``y``, handed over and checked in the user's dtype, returned in ``y``'s."""
        dtype = y.dtype
        seen = y if dtype is self._dtype else y.to(self._dtype)
        first = not self.calls[k]
        version = _version(seen) if first else None
        start = time.perf_counter()
        try:
            out = self._levels[k](t, seen)
        except Exception as error:
            error.add_note(f"raised by drift level {k + 1} at t={float(t):g}")
            raise
        self.seconds[k] += time.perf_counter() - start
        self.calls[k] += 1
        shape = seen.shape
        self.samples[k] += shape[0]
        if first:
            self._look_at(k, seen, out, version)
        if not isinstance(out, Tensor) or out.shape != shape or out.dtype is not self._dtype:
            self._refuse(k, seen, out)
        return out if seen is y else out.to(dtype)

    def _look_at(self, k: int, seen: Tensor, out: Any, version: int | None) -> None:
        """What is looked at when a level is called for the first time; later torch itself refuses other devices."""
        if isinstance(out, Tensor) and version is not None and _version(seen) != version:
            raise ValueError(f"drift level {k + 1} wrote into its argument y, expected it to return a new tensor.")
        self._refuse(k, seen, out)

    def _refuse(self, k: int, seen: Tensor, out: Any) -> None:
        """Say what is wrong with what a level returned, if anything is."""
        if not isinstance(out, Tensor):
            raise TypeError(f"drift level {k + 1} must return a torch.Tensor, got {type(out).__name__}.")
        if out.shape != seen.shape:
            raise ValueError(
                f"drift level {k + 1} returned shape {tuple(out.shape)}, expected that of y, {tuple(seen.shape)}."
            )
        if out.layout is not seen.layout:
            raise TypeError(f"drift level {k + 1} returned a tensor of {out.layout}, expected a dense one like y.")
        if out.dtype is not self._dtype or out.device != seen.device:
            raise TypeError(
                f"drift level {k + 1} returned {out.dtype} on {out.device}, expected {seen.dtype} on {seen.device}."
            )


def _version(y: Tensor) -> int | None:
    """How often ``y`` was written into; torch does not count it for inference tensors."""
    return None if y.is_inference() else y._version
