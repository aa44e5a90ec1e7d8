"""Diffusion processes: Gaussian interpolants between data and noise, and the equations that lead back.

Every process mixes a clean sample ``x0`` with standard normal noise, ``x_t = alpha(t) x0 + sigma(t) eps``. What a step
of a sampler needs depends on the two functions through the log signal-to-noise ratio ``lambda = log(alpha / sigma)``
alone, so one set of closed forms (:meth:`Process.reverse`) serves them all.

Sources: Y. Song et al., arXiv 2011.13456 (the reverse equations); D. Kingma et al., arXiv 2107.00630 (log-SNR);
T. Karras et al., arXiv 2206.00364 (variance exploding, its grid); X. Liu et al., arXiv 2209.03003 (rectified flow);
J. Ho et al., arXiv 2006.11239 (the discrete process).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlsde import checks
from mlsde.hierarchy import DriftHierarchy
from mlsde.linear import LinearPart
from mlsde.sde import SDE

SPACES = ("noise", "clean")
_LEAST_RHO, _MOST_RHO = 0.1, 1e6


class Process(ABC):
    """A Gaussian interpolant ``x_t = alpha(t) x0 + sigma(t) eps``; times are floats and may run either way."""

    @property
    @abstractmethod
    def t_span(self) -> tuple[float, float]:
        """Times of the noise and of the clean data, where ``alpha`` or ``sigma`` may vanish."""

    @property
    @abstractmethod
    def inner_span(self) -> tuple[float, float]:
        """The part of ``t_span`` in which the log-SNR is finite and networks are usually trained."""

    @abstractmethod
    def alpha(self, t: float) -> float:
        """What is left of the clean signal at time ``t``."""

    @abstractmethod
    def sigma(self, t: float) -> float:
        """Standard deviation of the noise at time ``t``."""

    @abstractmethod
    def alpha_slope(self, t: float) -> float:
        """Derivative of ``alpha`` in time."""

    @abstractmethod
    def sigma_slope(self, t: float) -> float:
        """Derivative of ``sigma`` in time, infinite where it is."""

    @abstractmethod
    def _time(self, log_snr: float) -> float:
        """Inverse of ``log_snr``, for finite values within the process."""

    def variance_slope(self, t: float) -> float:
        """Derivative of ``sigma^2`` in time, finite also where that of ``sigma`` is not."""
        return 2.0 * self.sigma(t) * self.sigma_slope(t)

    def diffusion(self, t: Any) -> Any:
        """Diffusion ``g(t)`` of the forward equation: ``g^2 = (sigma^2)' - 2 sigma^2 alpha' / alpha``."""
        t = float(t)
        decay = ratio(2.0 * self.sigma(t) ** 2 * self.alpha_slope(t), self.alpha(t))
        return math.sqrt(max(0.0, self.variance_slope(t) - decay))

    def log_snr(self, t: float) -> float:
        """``log(alpha / sigma)`` at time ``t``, infinite at ends without noise or without signal."""
        alpha, sigma = self.alpha(t), self.sigma(t)
        if sigma == 0:
            return math.inf
        return math.log(alpha / sigma) if alpha > 0 else -math.inf

    def time(self, log_snr: float) -> float:
        """Time of a log signal-to-noise ratio, the inverse of :meth:`log_snr`.

        Raises:
            ValueError: if the process never has this ratio.
        """
        log_snr = checks.number("log_snr", log_snr)
        least, most = (self.log_snr(t) for t in self.t_span)
        slack = 1e-9 * (1.0 + abs(log_snr)) if math.isfinite(log_snr) else 0.0
        if not least - slack <= log_snr <= most + slack:
            raise ValueError(f"log_snr must lie within [{least:.6g}, {most:.6g}] for {self}, got {log_snr}.")
        if log_snr <= least:
            return self.t_span[0]
        return self.t_span[1] if log_snr >= most else self._time(log_snr)

    @property
    def prior_scale(self) -> float:
        """Standard deviation of the state at the noise end, for data of unit variance."""
        return math.hypot(self.alpha(self.t_span[0]), self.sigma(self.t_span[0]))

    def prior(
        self,
        shape: Sequence[int],
        generator: torch.Generator | None = None,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Draw states at the noise end, normal with deviation ``prior_scale``.

        Args:
            shape: of the states, ``(samples, ...)``.
            generator: torch's; its global one by default.
            dtype: torch's default by default.
            device: the generator's by default.

        Raises:
            TypeError, ValueError: naming the argument.
        """
        size = [checks.positive_integer("shape", n) for n in checks.items("shape", shape, "sizes (samples, ...)")]
        if generator is not None and not isinstance(generator, torch.Generator):
            raise TypeError(f"generator must be a torch.Generator, got {type(generator).__name__}.")
        if dtype is not None and (not isinstance(dtype, torch.dtype) or not dtype.is_floating_point):
            raise TypeError(f"dtype must be a floating dtype of torch, got {dtype!r}.")
        device = device if device is None else checks.device("device", device)
        device = generator.device if device is None and generator is not None else device
        return self.prior_scale * torch.randn(size, generator=generator, dtype=dtype, device=device)

    def noised(self, x0: Tensor, t: float | Tensor, noise: Tensor) -> Tensor:
        """``alpha(t) x0 + sigma(t) noise``.

        Args:
            x0: clean samples, shape ``(samples, ...)``.
            t: one time, or shape ``(samples,)``.
            noise: like ``x0``.

        Raises:
            TypeError, ValueError: naming the argument; also if there is neither one time nor one for each sample.
        """
        for name, value in (("x0", x0), ("noise", noise)):
            if not isinstance(value, Tensor) or value.ndim == 0:
                raise TypeError(f"{name} must be a tensor of shape (samples, ...), got {value!r}.")
        if noise.shape != x0.shape:
            raise ValueError(f"noise has shape {tuple(noise.shape)}, expected that of x0, {tuple(x0.shape)}.")
        if not isinstance(t, Tensor) or t.ndim == 0:
            when = checks.finite_number("t", t)
            return self.alpha(when) * x0 + self.sigma(when) * noise
        if t.shape != x0.shape[:1]:
            raise ValueError(f"t must be one time, or one for each of {len(x0)} samples, got shape {tuple(t.shape)}.")
        times = t.tolist()
        columns = torch.tensor([[self.alpha(s) for s in times], [self.sigma(s) for s in times]], dtype=torch.float64)
        alpha, sigma = columns.to(x0).view(2, -1, *[1] * (x0.ndim - 1))
        return alpha * x0 + sigma * noise

    def uniform_grid(self, steps: int, *, to_clean: bool = True) -> np.ndarray:
        """Equal steps of time, shape ``(steps + 1,)``.

        Args:
            steps: number of steps.
            to_clean: end at the clean data; otherwise where ``inner_span`` ends.
        """
        end = self.t_span[1] if checks.truth("to_clean", to_clean) else self.inner_span[1]
        return np.linspace(self.t_span[0], end, checks.positive_integer("steps", steps) + 1)

    def log_snr_grid(self, steps: int, *, to_clean: bool = True) -> np.ndarray:
        """Equal steps of the log-SNR over ``inner_span``, shape ``(steps + 1,)``.

        One more step leads to the clean data, and one from pure noise, where the log-SNR is infinite there; they are
        among the ``steps``.

        Args:
            steps: number of steps.
            to_clean: end at the clean data; otherwise where ``inner_span`` ends.
        """
        return self._grid(steps, to_clean, lambda x: x, lambda x: x)

    def karras_grid(self, steps: int, rho: float = 7.0, *, to_clean: bool = True) -> np.ndarray:
        """Equal steps of ``(sigma / alpha)^(1 / rho)`` over ``inner_span``, shape ``(steps + 1,)``.

        On :class:`VarianceExploding` this is equation 5 of arXiv 2206.00364, with its last step to 0.

        Args:
            steps: number of steps.
            rho: the larger, the shorter the last steps.
            to_clean: end at the clean data; otherwise where ``inner_span`` ends.
        """
        rho = checks.positive_number("rho", rho)
        if not _LEAST_RHO <= rho <= _MOST_RHO:  # powers of it would leave float64, or not tell times apart
            raise ValueError(f"rho must lie between {_LEAST_RHO:g} and {_MOST_RHO:g}, got {rho:g}.")
        return self._grid(steps, to_clean, lambda x: np.exp(-x / rho), lambda power: -rho * np.log(power))

    def _grid(self, steps: int, to_clean: bool, scale: Any, inverse: Any) -> np.ndarray:
        """Equal steps of ``scale(log_snr)`` over ``inner_span``, and the outer steps."""
        (noise, clean), (first, last) = self.t_span, self.inner_span
        before = [noise] if first != noise else []
        after = [clean] if checks.truth("to_clean", to_clean) and last != clean else []
        points = checks.positive_integer("steps", steps) + 1 - len(before) - len(after)
        if points < 1:
            return np.array([noise, clean])
        start, stop = (float(scale(self.log_snr(t))) for t in (first, last))
        inner = [self.time(value) for value in inverse(np.linspace(start, stop, points)).tolist()]
        inner[0] = first
        if points > 1:
            inner[-1] = last
        return np.array([*before, *inner, *after])

    def reverse(self, denoisers: DriftHierarchy, *, churn: float = 1.0, space: str = "noise") -> SDE:
        """Equation that turns noise into samples; solve it from the noise end of ``t_span`` towards the clean one.

        With ``w = (1 + churn^2) / 2`` its drift is ``alpha' / alpha y + w g^2 / sigma eps(t, y)`` and its diffusion
        ``churn g``, in reverse time. What a denoiser predicts enters linearly, and the rest is known in closed form:
        ``method="exponential"`` holds the prediction over a step and solves everything else exactly.

        =========== ========================= ==========================================================
        ``space``   ``method="exponential"``
        =========== ========================= ==========================================================
        ``"noise"`` holds ``eps``             DDIM without churn; cannot start where ``alpha = 0``
        ``"clean"`` holds the clean sample    DDIM without churn, DDPM's ancestral sampling with churn 1
        =========== ========================= ==========================================================

        The two differ by a part of the state itself, so they agree only where the coefficients of the levels add up
        to 1. With ``correction="impulse"`` these add up to the weight of the first level: if it is skipped in clean
        space, the step loses the whole sample and not a small correction. Keep its probability at 1, or combine in
        noise space.

        Args:
            denoisers: ladder of predictions of ``eps^k(t, y)``, or in ``space="clean"`` of ``x0^k(t, y)``; shape of
                ``y``.
            churn: 1 for the reverse-time SDE, 0 for the probability-flow ODE; not negative.
            space: ``"noise"`` or ``"clean"``.

        Raises:
            ValueError: for a negative churn or an unknown space.
        """
        churn = checks.squarable("churn", churn)
        if churn < 0:
            raise ValueError(f"churn must not be negative, got {churn}.")
        checks.one_of("space", space, SPACES)
        linear = noise_part(self, churn) if space == "noise" else clean_part(self, churn)
        if churn == 0:
            return SDE(denoisers, linear=linear)
        return SDE(denoisers, lambda t: churn * self.diffusion(t), linear=linear)


def noise_part(process: Process, churn: float) -> LinearPart:
    """Closed forms of the reverse equation with the noise ``eps`` held over a step.

    With ``w = (1 + churn^2) / 2``: propagator ``alpha_s / alpha_t``, source
    ``2 w (sigma_s - alpha_s / alpha_t sigma_t)``, variance ``churn^2 |sigma_s^2 - alpha_s^2 sigma_t^2 / alpha_t^2|``.
    """
    twice_w = 1.0 + churn**2

    def propagator(t: float, s: float) -> float:
        if process.alpha(t) == 0:
            raise ValueError(
                f"space='noise' cannot start at t={t:g}, where alpha is 0 and the noise says nothing of the sample; "
                "use space='clean'."
            )
        return process.alpha(s) / process.alpha(t)

    def gain(t: float) -> float:
        return twice_w * (process.sigma_slope(t) - process.sigma(t) * ratio(process.alpha_slope(t), process.alpha(t)))

    return LinearPart(
        rate=lambda t: ratio(process.alpha_slope(t), process.alpha(t)),
        gain=gain,
        propagator=propagator,
        source=lambda t, s: twice_w * (process.sigma(s) - propagator(t, s) * process.sigma(t)),
        deviation=lambda t, s: (
            churn * math.sqrt(abs(process.sigma(s) ** 2 - (propagator(t, s) * process.sigma(t)) ** 2))
        ),
    )


def clean_part(process: Process, churn: float) -> LinearPart:
    """Closed forms of the reverse equation with the clean sample held over a step.

    With ``h = lambda_s - lambda_t``, which may be infinite: propagator ``sigma_s / sigma_t exp(-churn^2 h)``, source
    ``alpha_s (1 - exp(-(1 + churn^2) h))``, variance ``sigma_s^2 (1 - exp(-2 churn^2 h))``. With churn 1 these are the
    posterior mean and variance of DDPM (equation 7 of arXiv 2006.11239).
    """
    square = churn**2

    def backwards(t: float, s: float) -> float:
        """``-h``; noise is what clean space cannot do without."""
        if process.sigma(t) == 0:
            raise ValueError(f"space='clean' cannot start at t={t:g}, where there is no noise; use space='noise'.")
        return process.log_snr(t) - process.log_snr(s)

    def propagator(t: float, s: float) -> float:
        decay = math.exp(square * backwards(t, s)) if churn else 1.0
        return process.sigma(s) / process.sigma(t) * decay

    def rate(t: float) -> float:
        noise = ratio(process.sigma_slope(t), process.sigma(t))
        return noise - square * (ratio(process.alpha_slope(t), process.alpha(t)) - noise) if churn else noise

    def gain(t: float) -> float:
        noise = ratio(process.sigma_slope(t), process.sigma(t))
        return (1.0 + square) * (process.alpha_slope(t) - process.alpha(t) * noise)

    return LinearPart(
        rate=rate,
        gain=gain,
        propagator=propagator,
        source=lambda t, s: -process.alpha(s) * math.expm1((1.0 + square) * backwards(t, s)),
        deviation=lambda t, s: (
            process.sigma(s) * math.sqrt(abs(math.expm1(2.0 * square * backwards(t, s)))) if churn else 0.0
        ),
    )


def as_floats(process: Process, *names: str) -> None:
    """Keep parameters of a process, which were checked, as floats: they may have come as tensors."""
    for name in names:
        object.__setattr__(process, name, float(getattr(process, name)))


def ratio(a: float, b: float) -> float:
    """``a / b`` for ``b >= 0``, infinite at 0."""
    return a / b if b else math.copysign(math.inf, a)


@dataclass(frozen=True)
class VarianceExploding(Process):
    """``x_t = x0 + t eps``: time is the deviation of the noise.

    Args:
        sigma_min: least deviation at which networks are asked.
        sigma_max: deviation at the noise end.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        if checks.positive_number("sigma_max", self.sigma_max) <= checks.positive_number("sigma_min", self.sigma_min):
            raise ValueError(f"sigma_max must be above sigma_min, got {self.sigma_max} and {self.sigma_min}.")
        as_floats(self, "sigma_min", "sigma_max")

    @property
    def t_span(self) -> tuple[float, float]:
        """Noise at ``sigma_max``, clean data at 0."""
        return self.sigma_max, 0.0

    @property
    def inner_span(self) -> tuple[float, float]:
        """Down to ``sigma_min``."""
        return self.sigma_max, self.sigma_min

    @property
    def prior_scale(self) -> float:
        """``sigma_max``, as the literature has it: the data are lost in the noise."""
        return self.sigma_max

    def alpha(self, t: float) -> float:
        """1: the signal is kept."""
        return 1.0

    def sigma(self, t: float) -> float:
        """The time itself."""
        return t

    def alpha_slope(self, t: float) -> float:
        """0."""
        return 0.0

    def sigma_slope(self, t: float) -> float:
        """1."""
        return 1.0

    def _time(self, log_snr: float) -> float:
        return math.exp(-log_snr)


@dataclass(frozen=True)
class RectifiedFlow(Process):
    """``x_t = (1 - t) x0 + t eps`` on ``[0, 1]``, from pure noise at ``t = 1``: flow matching with straight paths.

    The equation of its samples has no linear part of its own at ``t = 1``: start there in ``space="clean"``.

    Args:
        margin: how far ``inner_span`` stays away from both ends.

    Example:
        >>> flow = RectifiedFlow()
        >>> flow.alpha(0.25), flow.sigma(0.25)
        (0.75, 0.25)
    """

    margin: float = 1e-3

    def __post_init__(self) -> None:
        if not 0 < checks.finite_number("margin", self.margin) < 0.5:
            raise ValueError(f"margin must be between 0 and 0.5, got {self.margin}.")
        as_floats(self, "margin")

    @property
    def t_span(self) -> tuple[float, float]:
        """Pure noise at 1, clean data at 0."""
        return 1.0, 0.0

    @property
    def inner_span(self) -> tuple[float, float]:
        """All but the ``margin`` at both ends."""
        return 1.0 - self.margin, self.margin

    def alpha(self, t: float) -> float:
        """``1 - t``."""
        return 1.0 - t

    def sigma(self, t: float) -> float:
        """The time itself."""
        return t

    def alpha_slope(self, t: float) -> float:
        """-1."""
        return -1.0

    def sigma_slope(self, t: float) -> float:
        """1."""
        return 1.0

    def _time(self, log_snr: float) -> float:
        return 1.0 / (1.0 + math.exp(log_snr))
