"""The variance-preserving diffusion process, as an equation that ``mlsde`` solves backwards in time.

Source: Y. Song et al., *Score-Based Generative Modeling through Stochastic Differential Equations*, arXiv 2011.13456;
the exponential stepper of the reverse ODE is DDIM, J. Song et al., arXiv 2010.02502.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from mlsde import checks
from mlsde.hierarchy import DriftHierarchy
from mlsde.linear import LinearPart
from mlsde.sde import SDE


@dataclass(frozen=True)
class VariancePreserving:
    """``dX = -1/2 beta(t) X dt + sqrt(beta(t)) dW`` with ``beta`` linear in ``t``, on ``[0, 1]``.

    A clean ``x`` becomes ``alpha(t) x + sigma(t) noise`` with ``alpha^2 + sigma^2 = 1``.

    Args:
        beta_min: ``beta(0)``.
        beta_max: ``beta(1)``.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        checks.positive_number("beta_min", self.beta_min)
        if checks.positive_number("beta_max", self.beta_max) < self.beta_min:
            raise ValueError(f"beta_max must be at least beta_min, got {self.beta_max} < {self.beta_min}.")

    def beta(self, t: Any) -> Any:
        """Rate of the noise at time ``t``, a float or a tensor."""
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def alpha(self, t: float) -> float:
        """What is left of the clean signal at time ``t``: ``exp(-1/2 integral_0^t beta)``."""
        return math.exp(-0.5 * self._log(t))

    def sigma(self, t: float) -> float:
        """Standard deviation of the noise at time ``t``."""
        return math.sqrt(-math.expm1(-self._log(t)))

    def _log(self, t: float) -> float:
        return t * (self.beta_min + 0.5 * t * (self.beta_max - self.beta_min))

    def reverse(self, denoisers: DriftHierarchy, *, churn: float = 1.0) -> SDE:
        """Equation that turns noise at ``t = 1`` into samples at ``t = 0``; solve it from 1 to a time above 0.

        Its drift is ``-1/2 beta y + 1/2 (1 + churn^2) beta / sigma eps(t, y)`` and its diffusion ``churn sqrt(beta)``,
        in reverse time. Its linear part is known in closed form: ``method="exponential"`` without churn is DDIM.

        Args:
            denoisers: ladder of predictions ``eps^k(t, y)`` of the noise in ``y``, shape of ``y``.
            churn: 1 for the reverse-time SDE, 0 for the probability-flow ODE; not negative.

        Raises:
            ValueError: for a negative churn.
        """
        if checks.finite_number("churn", churn) < 0:
            raise ValueError(f"churn must not be negative, got {churn}.")
        weight = 0.5 * (1.0 + churn**2)

        def propagator(t: float, s: float) -> float:
            return math.exp(0.5 * (self._log(t) - self._log(s)))

        linear = LinearPart(
            rate=lambda t: -0.5 * self.beta(t),
            gain=lambda t: weight * self.beta(t) / self.sigma(t),
            propagator=propagator,
            source=lambda t, s: 2.0 * weight * (self.sigma(s) - propagator(t, s) * self.sigma(t)),
            deviation=lambda t, s: churn * math.sqrt(abs(math.expm1(self._log(t) - self._log(s)))),
        )
        if churn == 0:
            return SDE(denoisers, linear=linear)
        return SDE(denoisers, lambda t: churn * self.beta(t) ** 0.5, linear=linear)
