"""What is kept of an ensemble whose states are not: means, variances, quantiles and the user's own, with errors."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlsde import checks
from mlsde.chunks.store import Piece
from mlsde.ensembles.quantiles import Quantiles, Summary
from mlsde.showing import Rows, as_call, as_html, as_text

Functional = Callable[[Tensor], Tensor]

_BLOCKS, _LEAST = 32, 8
"""Blocks that independent trajectories of a chunk are cut into, and the least number of trajectories in one."""


@dataclass(frozen=True)
class Statistics:
    """Keep statistics and no states.

    Args:
        quantiles: levels in (0, 1) of the quantiles to keep.
        functionals: functions of the saved states of some trajectories, shape ``(saved, samples, ...)``, that return
            one number, or an array of them, for each: shape ``(samples, ...)``. Their means are kept.
        points: that stand for the distribution of each component in the quantiles: a level is met within a few halves
            of ``1 / points``, see :attr:`Estimates.rank_error`.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> kept = Statistics(quantiles=(0.05, 0.95), functionals={"end above 0": lambda ys: (ys[-1] > 0).double()})
    """

    quantiles: tuple[float, ...] = ()
    functionals: Mapping[str, Functional] = field(default_factory=dict)
    points: int = 1000

    __repr__ = as_call

    def __post_init__(self) -> None:
        levels = checks.as_float64("quantiles", self.quantiles)
        if ((levels <= 0) | (levels >= 1)).any():
            raise ValueError(f"quantiles must lie between 0 and 1, got {self.quantiles}.")
        object.__setattr__(self, "quantiles", tuple(levels.tolist()))
        if not isinstance(self.functionals, Mapping):
            raise TypeError(f"functionals must be a dictionary of functions by name, got {self.functionals!r}.")
        for name, function in self.functionals.items():
            checks.callable_as(f"functionals[{name!r}]", "function(ys)", function)
        if not 10 <= checks.positive_integer("points", self.points) <= 10**6:
            raise ValueError(f"points must lie within 10 … 1000000, got {self.points}.")

    def reduce(self, ys: Tensor, shared: bool) -> dict[str, Tensor]:
        """What is kept of one chunk.

        Args:
            ys: saved states, shape ``(saved, samples, ...)``.
            shared: whether its trajectories share coins, so that they are not independent.
        """
        states = ys.detach().double().cpu().movedim(1, 0).numpy()
        kept = _moments("state", states, _blocks(len(states), shared), variances=True)
        for name, function in self.functionals.items():
            values = _values(name, function(ys), ys.shape[1])
            kept |= _moments(f"functional {name}", values, _blocks(len(values), shared))
        if self.quantiles:
            summary = Summary.of(states.reshape(len(states), -1), self.points)
            kept["points"], kept["compactions"] = summary.values, np.array(summary.compactions)
        return {name: torch.from_numpy(np.array(value, order="C")) for name, value in kept.items()}

    def combine(self, pieces: Callable[[], Iterable[Piece]], shape: tuple[int, ...]) -> Estimates:
        """What the chunks come to together, in their order.

        Args:
            pieces: called twice for what :meth:`reduce` made of each: errors are about the means of all.
            shape: of the saved states of one trajectory, ``(saved, ...)``.

        Raises:
            ValueError: if there are none.
        """
        names = ["state", *(f"functional {name}" for name in self.functionals)]
        moments = {name: _Moments() for name in names}
        sketch = Quantiles(self.points)
        for piece in pieces():
            for name in names:
                moments[name].add(piece, name)
            if self.quantiles:
                sketch.add(_summary(piece))
        state = moments["state"]
        if not state.count:
            raise ValueError("no chunk was finished, so there are no statistics.")
        whole = sketch.total() if self.quantiles else None
        squares, below = _Spread(), _Spread()
        levels = np.array(self.quantiles)
        for piece in pieces():
            about = piece.tensors["state block means"].numpy() - state.mean
            sizes = piece.tensors["state block sizes"].numpy()
            squares.add(piece.tensors["state block variances"].numpy() + about**2, sizes)
            if whole is not None and state.shared:
                below.add(_summary(piece).part_below(whole.at(levels))[None], sizes.sum(keepdims=True))
        quantiles = quantile_errors = None
        if whole is not None:
            if state.shared:
                off = below.error()
            else:
                off = np.sqrt(levels * (1.0 - levels) / state.count)[:, None] * np.ones_like(whole.at(levels))
            quantiles = _tensor(whole.at(levels).reshape(-1, *shape))
            # by how much the quantile moves if its level is off by a standard error
            quantile_errors = _tensor(0.5 * whole.width(levels, off).reshape(-1, *shape))
        return Estimates(
            count=state.count, mean=_tensor(state.mean), mean_error=_tensor(state.error()),
            variance=_tensor(state.variance()), variance_error=_tensor(squares.error()),
            levels=self.quantiles, quantiles=quantiles, quantile_errors=quantile_errors,
            rank_error=0.0 if whole is None else whole.rank_error(self.points),
            functionals={name: _functional(moments[f"functional {name}"]) for name in self.functionals},
        )  # fmt: skip


def _summary(piece: Piece) -> Summary:
    held = piece.tensors
    return Summary(held["points"].numpy(), float(held["state count"]), int(held["compactions"]))


@dataclass(frozen=True)
class Estimates:
    """Statistics of an ensemble, float64; an error is the Monte Carlo standard error of what it stands behind.

    Errors come from the scatter of independent trajectories; where the trajectories of a chunk share coins, from that
    of the chunks. NaN where there are too few.

    Attributes:
        count: trajectories.
        mean, mean_error: shape ``(saved, ...)``.
        variance, variance_error: unbiased, likewise.
        levels: of the quantiles.
        quantiles, quantile_errors: shape ``(levels, saved, ...)``; ``None`` if none were asked for.
        rank_error: by how much the level of a quantile may be off, because points stand for the distribution.
        functionals: name: mean and its error.
    """

    count: int
    mean: Tensor
    mean_error: Tensor
    variance: Tensor
    variance_error: Tensor
    levels: tuple[float, ...]
    quantiles: Tensor | None
    quantile_errors: Tensor | None
    rank_error: float
    functionals: dict[str, tuple[Tensor, Tensor]]

    __repr__ = as_text
    _repr_html_ = as_html

    def _report(self) -> list[str | Rows]:
        cells = [("mean", _range(self.mean[-1], self.mean_error[-1]))]
        cells.append(("variance", _range(self.variance[-1], self.variance_error[-1])))
        if self.quantiles is not None and self.quantile_errors is not None:
            for i, level in enumerate(self.levels):
                cells.append((f"{level:g}-quantile", _range(self.quantiles[i, -1], self.quantile_errors[i, -1])))
        cells += [(name, _range(value, error)) for name, (value, error) in self.functionals.items()]
        head = f"statistics of {self.count} trajectories, at the last saved time (means over components):"
        return [head, Rows(cells, ("", ""), gap=" ", head=False)]


def _range(value: Tensor, error: Tensor) -> str:
    return f"{float(value.mean()):.6g} ± {float(error.mean()):.2g}"


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array, order="C"))


def _functional(moments: _Moments) -> tuple[Tensor, Tensor]:
    return _tensor(moments.mean), _tensor(moments.error())


def _values(name: str, values: Any, samples: int) -> np.ndarray:
    """What a functional returned, as float64.

    Raises:
        TypeError, ValueError: if it is not one thing for each sample.
    """
    if not isinstance(values, Tensor):
        raise TypeError(f"functionals[{name!r}] must return a torch.Tensor, got {type(values).__name__}.")
    if values.ndim == 0 or len(values) != samples:
        raise ValueError(
            f"functionals[{name!r}] returned shape {tuple(values.shape)}, expected one for each of {samples} samples "
            "in dimension 0; it is given ys of shape (saved, samples, ...)."
        )
    return np.asarray(values.detach().double().cpu().numpy())


def _blocks(samples: int, shared: bool) -> list[slice]:
    """Parts of a chunk that are independent of each other."""
    count = 1 if shared else max(1, min(_BLOCKS, samples // _LEAST))
    ends = np.linspace(0, samples, count + 1).astype(int).tolist()
    return [slice(a, b) for a, b in itertools.pairwise(ends)]


def _moments(name: str, values: np.ndarray, blocks: Sequence[slice], variances: bool = False) -> dict[str, np.ndarray]:
    kept = {f"{name} count": np.array(len(values)), f"{name} mean": values.mean(axis=0)}
    kept[f"{name} squares"] = np.square(values - kept[f"{name} mean"]).sum(axis=0)
    if variances:
        kept[f"{name} block sizes"] = np.array([part.stop - part.start for part in blocks])
        kept[f"{name} block means"] = np.stack([values[part].mean(axis=0) for part in blocks])
        kept[f"{name} block variances"] = np.stack([np.var(values[part], axis=0) for part in blocks])
    return kept


class _Spread:
    """Error of a mean of independent estimates, each weighed by the trajectories behind it."""

    def __init__(self) -> None:
        self._count, self._about = 0, np.zeros(())
        self._sums = [np.zeros(()) for _ in range(5)]

    def add(self, estimates: np.ndarray, weights: np.ndarray) -> None:
        """Take estimates, shape ``(blocks, ...)``, and their weights, shape ``(blocks,)``."""
        if not self._count:
            self._about = estimates[0]  # sums of what is near 0 lose less
        w = weights.reshape(-1, *[1] * (estimates.ndim - 1)).astype(np.float64)
        d = estimates - self._about
        new = (w.sum(0), (w * d).sum(0), (w**2).sum(0), (w**2 * d).sum(0), (w**2 * d**2).sum(0))
        self._sums = [old + one for old, one in zip(self._sums, new, strict=True)]
        self._count += len(estimates)

    def error(self) -> np.ndarray:
        """Standard error of the weighted mean; NaN for fewer than two."""
        if self._count < 2:
            return np.full_like(self._about, math.nan, dtype=np.float64)
        w, wd, ww, wwd, wwdd = self._sums
        mean = wd / w
        squares = np.maximum(wwdd - 2.0 * mean * wwd + mean**2 * ww, 0.0)  # sum of w^2 (x - mean)^2
        return np.sqrt(squares * self._count / (self._count - 1)) / w


class _Welford:
    """Count, mean and sum of squares about it, put together from parts (T. F. Chan et al., 1979)."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, np.zeros(()), np.zeros(())

    def merge(self, count: int, mean: np.ndarray, squares: np.ndarray) -> None:
        """Take a part."""
        total, gap = self.count + count, mean - self.mean
        self.squares = self.squares + squares + gap**2 * (self.count * count / total)
        self.mean, self.count = self.mean + gap * (count / total), total

    def variance(self) -> np.ndarray:
        """Unbiased; NaN for fewer than two."""
        return self.squares / (self.count - 1) if self.count > 1 else np.full_like(self.squares, math.nan)

    def error(self) -> np.ndarray:
        """Standard error of the mean if all that came was independent."""
        return np.sqrt(self.variance() / max(1, self.count))


class _Moments:
    """Moments of one quantity over the chunks, and the error of its mean."""

    def __init__(self) -> None:
        self._all, self._chunks, self.shared = _Welford(), _Spread(), False

    def add(self, piece: Piece, name: str) -> None:
        """Take a chunk's."""
        count, mean, squares = (piece.tensors[f"{name} {of}"].numpy() for of in ("count", "mean", "squares"))
        self._all.merge(int(count), mean, squares)
        self._chunks.add(mean[None], count.reshape(1))
        self.shared = self.shared or piece.note["shared"]

    @property
    def count(self) -> int:
        """Of trajectories."""
        return self._all.count

    @property
    def mean(self) -> np.ndarray:
        """Over all."""
        return self._all.mean

    def variance(self) -> np.ndarray:
        """Over all, unbiased."""
        return self._all.variance()

    def error(self) -> np.ndarray:
        """Of the mean."""
        return self._chunks.error() if self.shared else self._all.error()
