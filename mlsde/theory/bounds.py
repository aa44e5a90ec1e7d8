"""Bounds on the mean squared error of ML-EM against Euler-Maruyama of the top level on the same path.

They hold for impulses whose coins are independent in time (independent or nested ones), for steps of one length and in
the limit of short steps. Derivations in docs/theory.md.
"""

from __future__ import annotations

import math

from mlsde import checks
from mlsde.theory import arguments
from mlsde.theory.arguments import Row

_NO_GROWTH = 1e-290
"""Growth below which the quotient of two roundings says less than its limit."""


@arguments.within_floats
def mse_bound(h: float, steps: int, lipschitz: float, variance: float, diffusion_lipschitz: float = 0.0) -> float:
    """Bound on ``E|Y_N - X_N|^2`` after ``N`` steps, ``X`` the top level at every step on the same path.

    ``h^2 S (q^N - 1) / (q - 1)`` with ``q = (1 + h L)^2 + h L_g^2``. Derivation in docs/theory.md.

    Args:
        h: length of a step, above zero (also backwards in time).
        steps: their number ``N``.
        lipschitz: ``L``, of the top level.
        variance: ``S``, the largest mean of :func:`estimator_variance` along the run.
        diffusion_lipschitz: ``L_g``, of the diffusion in the Frobenius norm; 0 for additive noise.

    Returns:
        The bound; infinite if it is beyond the largest float.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> mse_bound(h=0.5, steps=2, lipschitz=1.0, variance=1.0)
        0.8125
    """
    h, steps = checks.positive_number("h", h), checks.positive_integer("steps", steps, math.inf)
    slope = checks.non_negative_number("lipschitz", lipschitz)
    spread = checks.non_negative_number("diffusion_lipschitz", diffusion_lipschitz)
    local = h**2 * checks.non_negative_number("variance", variance)
    growth = h * (2 * slope + h * slope**2 + spread**2)  # q - 1
    if growth < _NO_GROWTH or local == 0:
        return local * steps
    try:
        return local * (math.expm1(steps * math.log1p(growth)) / growth)
    except OverflowError:
        return math.inf


@arguments.within_floats
def contractive_mse_bound(h: float, rate: float, lipschitz: float, variance: float) -> float:
    """Bound on ``E|Y_N - X_N|^2`` for every ``N``, for a top level that contracts: ``h S / (2 mu - h L^2)``.

    Contraction at rate ``mu`` means ``<f(y) - f(x), y - x> <= -mu |y - x|^2`` (in the direction of the run). Additive
    noise. Derivation in docs/theory.md.

    Args:
        h: length of a step, in (0, 2 mu / L^2).
        rate: ``mu``, above zero.
        lipschitz: ``L``, of the top level; at least ``mu``.
        variance: ``S``, the largest mean of :func:`estimator_variance` along the run.

    Returns:
        The bound.

    Raises:
        TypeError, ValueError: naming the argument; also for a step too long for the error to stay bounded.

    Example:
        >>> contractive_mse_bound(h=0.5, rate=1.0, lipschitz=1.0, variance=3.0)
        1.0
    """
    h, rate = checks.positive_number("h", h), checks.positive_number("rate", rate)
    lipschitz, variance = (
        checks.positive_number("lipschitz", lipschitz),
        checks.non_negative_number("variance", variance),
    )
    if lipschitz < rate:
        raise ValueError(f"rate={rate:g} must not be above lipschitz={lipschitz:g}: no drift contracts faster than L.")
    if h >= 2 * rate / lipschitz**2:
        raise ValueError(
            f"h={h:g} is too long a step for the bound, which needs h < 2 rate / lipschitz^2 = "
            f"{2 * rate / lipschitz**2:g}; take shorter steps, or use mse_bound."
        )
    return h * variance / (2 * rate - h * lipschitz**2)


@arguments.within_floats
def poisson_mse_bound(
    duration: float, rates: Row, variances: Row, lipschitz: float, diffusion_lipschitz: float = 0.0
) -> float:
    """Limit of :func:`mse_bound` for short steps whose levels fire at given rates, ``p_k = rate_k h``.

    ``sum_k V_k / rate_k * (e^(aT) - 1) / a`` with ``a = 2 L + L_g^2``. It also bounds the error at every step at which
    all ``rate_k h`` are at most 1, and with ``p_k = min(1, rate_k h)``. Derivation in docs/theory.md.

    Args:
        duration: ``T``, above zero (also backwards in time).
        rates: expected firings per unit of time, above zero, shape ``(K,)``; infinite for a level that always fires.
        variances: ``V_k``, bounds on ``E|f^k - f^(k-1)|^2`` along the run, shape ``(K,)``.
        lipschitz: ``L``, of the top level.
        diffusion_lipschitz: ``L_g``, of the diffusion in the Frobenius norm; 0 for additive noise.

    Returns:
        The bound; infinite if it is beyond the largest float.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> poisson_mse_bound(1.0, rates=[4.0, 2.0], variances=[1.0, 0.5], lipschitz=0.0)
        0.5
    """
    duration = checks.positive_number("duration", duration)
    slope = checks.non_negative_number("lipschitz", lipschitz)
    spread = checks.non_negative_number("diffusion_lipschitz", diffusion_lipschitz)
    intensity, growth = _intensity(rates, variances), 2 * slope + spread**2
    if growth < _NO_GROWTH or intensity == 0:
        return intensity * duration
    try:
        return intensity * (math.expm1(growth * duration) / growth)
    except OverflowError:
        return math.inf


@arguments.within_floats
def contractive_poisson_mse_bound(rates: Row, variances: Row, rate: float) -> float:
    """Limit of :func:`contractive_mse_bound` for short steps, ``sum_k V_k / rate_k / (2 mu)``, at every time.

    Derivation in docs/theory.md.

    Args:
        rates: as of :func:`poisson_mse_bound`.
        variances: likewise.
        rate: ``mu``, at which the top level contracts, above zero.

    Returns:
        The bound.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> contractive_poisson_mse_bound(rates=[4.0, 2.0], variances=[1.0, 0.5], rate=1.0)
        0.25
    """
    return _intensity(rates, variances) / (2 * checks.positive_number("rate", rate))


def _intensity(rates: Row, variances: Row) -> float:
    """``sum_k V_k / rate_k``: the mean square that the impulses bring in per unit of time."""
    row = arguments.non_negative_row("variances", variances)
    return float((row / arguments.rates("rates", rates, len(row))).sum())
