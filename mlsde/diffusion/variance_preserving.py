"""Variance-preserving diffusion processes, ``alpha^2 + sigma^2 = 1``: linear, cosine, and on the steps of DDPM.

Sources: Y. Song et al., *Score-Based Generative Modeling through Stochastic Differential Equations*, arXiv 2011.13456;
A. Nichol & P. Dhariwal, arXiv 2102.09672 (cosine); J. Ho et al., arXiv 2006.11239 (DDPM). The exponential stepper of
the reverse ODE is DDIM, J. Song et al., arXiv 2010.02502.
"""

from __future__ import annotations

import bisect
import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from mlsde import checks
from mlsde.diffusion.processes import Process, as_floats

_MOST = 10**6
"""Timesteps of a discrete process: each is kept as a number."""

_LAST = 1e-3
"""Where the continuous processes' ``inner_span`` ends: the noise of the first of DDPM's thousand steps."""


class _Decaying(Process):
    """A process given by ``L(t) = -log alpha^2`` and its rate ``beta = L'``: ``alpha^2 = exp(-L) = 1 - sigma^2``."""

    @abstractmethod
    def _log(self, t: float) -> float:
        """``L(t)``."""

    @abstractmethod
    def beta(self, t: Any) -> Any:
        """Rate of the noise at time ``t``."""

    @property
    def t_span(self) -> tuple[float, float]:
        """Noise at 1, clean data at 0."""
        return 1.0, 0.0

    @property
    def inner_span(self) -> tuple[float, float]:
        """From 1 to 0.001."""
        return 1.0, _LAST

    @property
    def prior_scale(self) -> float:
        """1."""
        return 1.0

    def alpha(self, t: float) -> float:
        """What is left of the clean signal at time ``t``: ``exp(-1/2 integral_0^t beta)``."""
        return math.exp(-0.5 * self._log(t))

    def sigma(self, t: float) -> float:
        """Standard deviation of the noise at time ``t``."""
        return math.sqrt(-math.expm1(-self._log(t)))

    def alpha_slope(self, t: float) -> float:
        """``-1/2 beta alpha``."""
        return -0.5 * self.beta(t) * self.alpha(t)

    def sigma_slope(self, t: float) -> float:
        """``1/2 beta alpha^2 / sigma``."""
        sigma = self.sigma(t)
        return 0.5 * self.variance_slope(t) / sigma if sigma else math.inf

    def variance_slope(self, t: float) -> float:
        """``beta alpha^2``."""
        return self.beta(t) * math.exp(-self._log(t))

    def diffusion(self, t: Any) -> Any:
        """``sqrt(beta)``."""
        return self.beta(t) ** 0.5


@dataclass(frozen=True)
class VariancePreserving(_Decaying):
    """``dX = -1/2 beta(t) X dt + sqrt(beta(t)) dW`` with ``beta`` linear in ``t``, on ``[0, 1]``.

    A clean ``x`` becomes ``alpha(t) x + sigma(t) noise`` with ``alpha^2 + sigma^2 = 1``.

    Args:
        beta_min: ``beta(0)``.
        beta_max: ``beta(1)``.

    Example:
        >>> round(VariancePreserving().alpha(1.0), 6)
        0.006572
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        checks.positive_number("beta_min", self.beta_min)
        if checks.positive_number("beta_max", self.beta_max) < self.beta_min:
            raise ValueError(f"beta_max must be at least beta_min, got {self.beta_max} < {self.beta_min}.")
        as_floats(self, "beta_min", "beta_max")

    def beta(self, t: Any) -> Any:
        """Rate of the noise at time ``t``, a float or a tensor."""
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def _log(self, t: float) -> float:
        return t * (self.beta_min + 0.5 * t * (self.beta_max - self.beta_min))

    def _time(self, log_snr: float) -> float:
        twice = 2.0 * _decay(log_snr)
        return twice / (self.beta_min + math.sqrt(self.beta_min**2 + (self.beta_max - self.beta_min) * twice))


@dataclass(frozen=True)
class CosineVariancePreserving(_Decaying):
    """``alpha(t) = cos(pi/2 (t + offset) / (1 + offset)) / cos(pi/2 offset / (1 + offset))`` on ``[0, 1]``.

    The rate ``beta`` of this cosine grows without bound towards 1, where nothing of the signal would be left. It stops
    at ``beta_max``: clipping DDPM's betas at 0.999, as Nichol & Dhariwal do with a thousand steps, is a rate of
    ``-1000 log(1 - 0.999)``.

    Args:
        offset: keeps the noise of the first steps above zero.
        beta_max: largest rate.
    """

    offset: float = 0.008
    beta_max: float = 1000.0 * math.log(1000.0)

    def __post_init__(self) -> None:
        checks.positive_number("offset", self.offset)
        as_floats(self, "offset")
        least = self._cosine_rate(0.0)
        if checks.positive_number("beta_max", self.beta_max) <= least:
            raise ValueError(f"beta_max must be above {least:.3g}, the rate at t=0, got {self.beta_max}.")
        as_floats(self, "beta_max")

    def beta(self, t: Any) -> float:
        """Rate of the noise at time ``t``."""
        return self._cosine_rate(float(t)) if float(t) < self._clipped_from else self.beta_max

    def _log(self, t: float) -> float:
        if t > self._clipped_from:
            return self._log(self._clipped_from) + self.beta_max * (t - self._clipped_from)
        # 1 - alpha^2 = sin(x - x0) sin(x + x0) / cos^2 x0, which loses no digits at small t
        noise = math.sin(self._angle(t) - self._angle(0.0)) * math.sin(self._angle(t) + self._angle(0.0))
        return -math.log1p(-noise / math.cos(self._angle(0.0)) ** 2)

    def _time(self, log_snr: float) -> float:
        decay, clipped = _decay(log_snr), self._log(self._clipped_from)
        if decay > clipped:
            return self._clipped_from + (decay - clipped) / self.beta_max
        cosine = math.exp(-0.5 * decay) * math.cos(self._angle(0.0))
        sine = math.sqrt(math.sin(self._angle(0.0)) ** 2 - math.expm1(-decay) * math.cos(self._angle(0.0)) ** 2)
        return max(0.0, math.atan2(sine, cosine) * 2.0 / math.pi * (1.0 + self.offset) - self.offset)

    def _angle(self, t: float) -> float:
        return 0.5 * math.pi * (t + self.offset) / (1.0 + self.offset)

    def _cosine_rate(self, t: float) -> float:
        return math.pi / (1.0 + self.offset) * math.tan(self._angle(t))

    @cached_property
    def _clipped_from(self) -> float:
        """Time at which the rate reaches ``beta_max``."""
        angle = math.atan(self.beta_max * (1.0 + self.offset) / math.pi)
        return angle * 2.0 / math.pi * (1.0 + self.offset) - self.offset


@dataclass(frozen=True, repr=False)
class DiscreteVariancePreserving(Process):
    """The process of DDPM, known at integer times ``0 … N - 1``: the timesteps that its networks are told.

    Between them the log-SNR is interpolated by a monotone cubic. Timestep 0 is noisy already. The clean data are at
    time -1, where diffusers' schedulers with ``set_alpha_to_one`` end; ``alpha^2`` decays exponentially from -1 to 0,
    where no network is asked. A run that is to end as one with ``set_alpha_to_one=False`` ends at 0.

    Args:
        alphas_cumprod: ``alpha^2`` at each timestep, decreasing between 1 and 0; 0 itself at the last alone ("zero
            terminal SNR"), before which ``alpha`` is linear.

    Raises:
        ValueError: if they are fewer than two or do not decrease between 1 and 0.

    Source of the cubic: F. Fritsch & J. Butland, SIAM J. Sci. Stat. Comput. 5 (1984), doi:10.1137/0905021.
    """

    alphas_cumprod: tuple[float, ...]

    def __post_init__(self) -> None:
        values = checks.as_float64("alphas_cumprod", self.alphas_cumprod)
        if len(values) < 2 or values[0] >= 1 or (np.diff(values) >= 0).any() or values[-1] < 0:
            raise ValueError(
                f"alphas_cumprod must hold at least two numbers that decrease between 1 and 0, got {_brief(values)}."
            )
        object.__setattr__(self, "alphas_cumprod", tuple(values.tolist()))

    @classmethod
    def from_betas(cls, betas: Sequence[float] | np.ndarray) -> DiscreteVariancePreserving:
        """Process with ``alpha^2 = prod (1 - beta)``.

        Args:
            betas: variance that each timestep adds, each between 0 and 1.

        Raises:
            ValueError: naming the argument.
        """
        values = checks.as_float64("betas", betas)
        if ((values <= 0) | (values > 1)).any():
            raise ValueError(f"betas must be above 0 and at most 1, got {_brief(values)}.")
        return cls(tuple(np.cumprod(1.0 - values).tolist()))

    @classmethod
    def linear(
        cls, timesteps: int = 1000, *, beta_start: float = 1e-4, beta_end: float = 0.02
    ) -> DiscreteVariancePreserving:
        """Betas at equal distances, those of DDPM by default."""
        first, last = _beta("beta_start", beta_start), _beta("beta_end", beta_end)
        return cls.from_betas(np.linspace(first, last, checks.positive_integer("timesteps", timesteps, _MOST)))

    @classmethod
    def scaled_linear(
        cls, timesteps: int = 1000, *, beta_start: float = 0.00085, beta_end: float = 0.012
    ) -> DiscreteVariancePreserving:
        """Square roots of the betas at equal distances, those of Stable Diffusion by default."""
        count = checks.positive_integer("timesteps", timesteps, _MOST)
        first, last = math.sqrt(_beta("beta_start", beta_start)), math.sqrt(_beta("beta_end", beta_end))
        return cls.from_betas(np.linspace(first, last, count) ** 2)

    @classmethod
    def squared_cosine(cls, timesteps: int = 1000, *, beta_max: float = 0.999) -> DiscreteVariancePreserving:
        """Betas of Nichol & Dhariwal's cosine, none above ``beta_max``."""
        angles = (np.linspace(0.0, 1.0, checks.positive_integer("timesteps", timesteps, _MOST) + 1) + 0.008) / 1.008
        kept = np.cos(0.5 * np.pi * angles) ** 2
        return cls.from_betas(np.minimum(1.0 - kept[1:] / kept[:-1], _beta("beta_max", beta_max)))

    @classmethod
    def from_scheduler(cls, scheduler: Any) -> DiscreteVariancePreserving:
        """Process of one of diffusers' schedulers.

        Args:
            scheduler: with ``alphas_cumprod``, as those of DDPM's kin have.

        Raises:
            TypeError: if it has none.
        """
        values = getattr(scheduler, "alphas_cumprod", None)
        if values is None:
            raise TypeError(
                f"scheduler must have alphas_cumprod, which {type(scheduler).__name__} lacks; for a scheduler of flow "
                "matching use RectifiedFlow(), for one of EDM VarianceExploding()."
            )
        return cls(tuple(checks.as_float64("alphas_cumprod", values).tolist()))

    def __repr__(self) -> str:
        return f"DiscreteVariancePreserving({len(self.alphas_cumprod)} timesteps)"

    @property
    def t_span(self) -> tuple[float, float]:
        """Noise at the last timestep, clean data at -1."""
        return len(self.alphas_cumprod) - 1.0, -1.0

    @property
    def inner_span(self) -> tuple[float, float]:
        """The timesteps themselves, those with a signal."""
        return len(self._nodes) - 1.0, 0.0

    @property
    def prior_scale(self) -> float:
        """1."""
        return 1.0

    def uniform_grid(self, steps: int, *, to_clean: bool = True) -> np.ndarray:
        """Nearly equal steps between integer times, shape ``(steps + 1,)``: diffusers' ``"trailing"`` timesteps.

        Args:
            steps: number of steps, at most as many as there are timesteps.
            to_clean: end at -1; otherwise at 0, which is ``"linspace"``.

        Raises:
            ValueError: for more steps.
        """
        most = len(self.alphas_cumprod) - (not checks.truth("to_clean", to_clean))
        if checks.positive_integer("steps", steps) > most:
            raise ValueError(f"steps must be at most {most}, the distances between integer times, got {steps}.")
        return np.round(super().uniform_grid(steps, to_clean=to_clean))

    def leading_grid(self, steps: int, *, offset: int = 0) -> np.ndarray:
        """The grid of diffusers' ``"leading"`` timesteps, shape ``(steps + 1,)``, with -1 as its last time.

        Args:
            steps: number of steps.
            offset: added to the timesteps, diffusers' ``steps_offset``.

        Raises:
            ValueError: if the timesteps are not enough.
        """
        count = len(self.alphas_cumprod)
        stride = count // checks.positive_integer("steps", steps)
        if stride == 0 or (steps - 1) * stride + offset >= count or offset < 0:
            raise ValueError(f"steps={steps} with offset={offset} do not fit into {count} timesteps; take fewer.")
        return np.append(np.arange(steps)[::-1] * float(stride) + offset, -1.0)

    def alpha(self, t: float) -> float:
        """What is left of the clean signal at time ``t``."""
        if t > self.inner_span[0]:
            return (self.t_span[0] - t) * math.sqrt(self.alphas_cumprod[len(self._nodes) - 1])
        return math.exp(-0.5 * self._log_before_first(t)) if t < 0 else math.sqrt(_sigmoid(2.0 * self._cubic(t)[0]))

    def sigma(self, t: float) -> float:
        """Standard deviation of the noise at time ``t``."""
        if t > self.inner_span[0]:
            return math.sqrt(1.0 - self.alpha(t) ** 2)
        variance = -math.expm1(-self._log_before_first(t)) if t < 0 else _sigmoid(-2.0 * self._cubic(t)[0])
        return math.sqrt(variance)

    def log_snr(self, t: float) -> float:
        """``log(alpha / sigma)`` at time ``t``."""
        return self._cubic(t)[0] if 0 <= t <= self.inner_span[0] else super().log_snr(t)

    def alpha_slope(self, t: float) -> float:
        """Derivative of ``alpha`` in time."""
        if t > self.inner_span[0]:
            return -math.sqrt(self.alphas_cumprod[len(self._nodes) - 1])
        if t < 0:
            return 0.5 * math.log(self.alphas_cumprod[0]) * self.alpha(t)
        return self.sigma(t) ** 2 * self._cubic(t)[1] * self.alpha(t)

    def variance_slope(self, t: float) -> float:
        """``-2 alpha alpha'``."""
        return -2.0 * self.alpha(t) * self.alpha_slope(t)

    def sigma_slope(self, t: float) -> float:
        """Derivative of ``sigma`` in time, infinite at -1."""
        sigma = self.sigma(t)
        return 0.5 * self.variance_slope(t) / sigma if sigma else math.inf

    def _time(self, log_snr: float) -> float:
        nodes = self._nodes
        if log_snr > nodes[0]:
            return _decay(log_snr) / -math.log(self.alphas_cumprod[0]) - 1.0
        if log_snr < nodes[-1]:
            return self.t_span[0] - math.sqrt(_sigmoid(2.0 * log_snr) / self.alphas_cumprod[len(nodes) - 1])
        i = min(bisect.bisect_left(nodes, -log_snr, key=lambda value: -value), len(nodes) - 1)
        lo, hi = max(i - 1, 0), i  # the cubic falls from lo to hi
        left, right = float(lo), float(hi)
        if log_snr == nodes[hi]:
            return right
        for _ in range(60):
            middle = 0.5 * (left + right)
            left, right = (middle, right) if self._cubic(middle)[0] > log_snr else (left, middle)
        return right

    def _log_before_first(self, t: float) -> float:
        """``-log alpha^2`` between -1 and 0."""
        return -(t + 1.0) * math.log(self.alphas_cumprod[0])

    @cached_property
    def _nodes(self) -> list[float]:
        """Log-SNR at the timesteps that have a signal."""
        values = np.array(self.alphas_cumprod)
        values = values[values > 0]
        return (0.5 * np.log(values / (1.0 - values))).tolist()

    @cached_property
    def _slopes(self) -> list[float]:
        """Slopes of the cubic at the nodes: harmonic means of the neighbouring differences."""
        chords = np.diff(self._nodes)
        if len(chords) == 0:
            return [0.0]
        inner = 2.0 * chords[1:] * chords[:-1] / (chords[1:] + chords[:-1])
        return [float(chords[0]), *inner.tolist(), float(chords[-1])]

    def _cubic(self, t: float) -> tuple[float, float]:
        """Log-SNR and its slope at a time between the timesteps."""
        i = min(int(t), max(len(self._nodes) - 2, 0))
        j, u = min(i + 1, len(self._nodes) - 1), t - i
        (a, b), (da, db) = (self._nodes[i], self._nodes[j]), (self._slopes[i], self._slopes[j])
        second, third = 3.0 * (b - a) - 2.0 * da - db, da + db - 2.0 * (b - a)
        return a + u * (da + u * (second + u * third)), da + u * (2.0 * second + 3.0 * u * third)


def _beta(name: str, value: object) -> float:
    if not 0.0 < checks.finite_number(name, value) <= 1.0:
        raise ValueError(f"{name} must be above 0 and at most 1, got {value}.")
    return checks.finite_number(name, value)


def _decay(log_snr: float) -> float:
    """``-log alpha^2`` of a process that keeps the variance: ``log(1 + exp(-2 lambda))``."""
    x = -2.0 * log_snr
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))


def _brief(values: np.ndarray) -> str:
    return f"{len(values)} from {values[0]:.4g} to {values[-1]:.4g}" if len(values) else "none"
