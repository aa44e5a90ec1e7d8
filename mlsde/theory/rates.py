"""How the cost grows as the error shrinks: exponents, and the levels and steps that an error needs.

A level of accuracy ``eps`` costs ``eps^-gamma`` per evaluation. Costs are prices of drift evaluations.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from mlsde import checks
from mlsde.theory import arguments

_MOST = 2**1000


@arguments.within_floats
def htmc_cost(error: float, gamma: float, constant: float = 1.0) -> float:
    """Price of one evaluation of a drift at an accuracy: ``constant * error^-gamma``.

    ``gamma > 2`` is harder than Monte Carlo. Source: arXiv 2603.24594.

    Args:
        error: root mean square error of the drift, above zero.
        gamma: exponent of the price of accuracy, above zero.
        constant: price at ``error = 1``.

    Returns:
        The price; infinity if it is beyond the largest float.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> htmc_cost(0.5, gamma=3.0)
        8.0
    """
    error, gamma = checks.positive_number("error", error), checks.positive_number("gamma", gamma)
    constant = checks.positive_number("constant", constant)
    try:
        return constant * error**-gamma
    except OverflowError:
        return math.inf


@arguments.within_floats
def euler_exponent(gamma: float, strong_order: float = 1.0) -> float:
    """Exponent of the cost ``eps^-(gamma + 1/r)`` of a plain method: ``eps^(-1/r)`` steps at ``eps^-gamma`` each.

    Source: arXiv 2603.24594.

    Args:
        gamma: exponent of the price of accuracy, above zero.
        strong_order: ``r``: 1 for Euler-Maruyama with additive noise and for Euler on an ODE, 1/2 with multiplicative
            noise.

    Returns:
        The exponent.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> euler_exponent(gamma=2.5), euler_exponent(2.5, strong_order=0.5)
        (3.5, 4.5)
    """
    return checks.positive_number("gamma", gamma) + 1.0 / checks.positive_number("strong_order", strong_order)


@arguments.within_floats
def threshold(order: float = 1.0) -> float:
    """``2 / s``, the ``gamma`` above which ML-EM costs ``eps^-gamma``, the price of one evaluation.

    2 for independent impulses (arXiv 2603.24594); for other orders: derivation in docs/theory.md.

    Args:
        order: ``s``, as of :func:`multilevel_exponent`.

    Returns:
        The threshold.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> threshold(), threshold(order=2.0)
        (2.0, 1.0)
    """
    return 2.0 / checks.positive_number("order", order)


@arguments.within_floats
def multilevel_exponent(
    gamma: float, order: float = 1.0, strong_order: float = 1.0, *, every_step: bool = False
) -> float:
    """Exponent of the cost of ML-EM whose level ``k`` errs by ``4^-k (h / p_k)^s`` in the mean square.

    ``gamma`` from :func:`threshold` on. Below it ``kappa gamma + (1 - kappa) 2/s`` with
    ``kappa = max(0, 1 - s / (2 r))``, the share of the levels that fire at every step and so cause no error: a mean of
    ``gamma`` and ``2/s``, at most ``2/s``. At the threshold itself the cost has a factor ``log(1/eps)^(1 + 1/s)``
    besides. Source for ``s = 1``, ``gamma > 2``: arXiv 2603.24594; the rest: derivation in docs/theory.md.

    Args:
        gamma: exponent of the price of accuracy, above zero.
        order: ``s``: 1 for independent impulses, 2 for systematic impulse and hold on differences smooth in time, up
            to 4 for ``extrapolate`` on an ODE.
        strong_order: ``r``, as of :func:`euler_exponent`: the run has ``eps^(-1/r)`` steps.
        every_step: whether something is paid at every step, be it a first level that always fires or a price of the
            step itself; then the exponent is at least ``1/r``.

    Returns:
        The exponent.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> multilevel_exponent(gamma=2.5), multilevel_exponent(1.5)
        (2.5, 1.75)
    """
    gamma, s = checks.positive_number("gamma", gamma), checks.positive_number("order", order)
    r = checks.positive_number("strong_order", strong_order)
    always_on = max(0.0, 1.0 - s / (2.0 * r))
    exponent = max(gamma, always_on * gamma + (1.0 - always_on) * threshold(s))
    return max(exponent, 1.0 / r) if checks.truth("every_step", every_step) else exponent


def levels_for(error: float, bias: float = 1.0, ratio: float = 2.0) -> int:
    """The least number of levels ``K >= 1`` with ``bias * ratio^-K <= error``.

    Args:
        error: root mean square error that the top level may leave, above zero.
        bias: that of a level 0, above zero.
        ratio: of the errors of neighbouring levels, above 1.

    Returns:
        Their number.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> levels_for(0.1)
        4
    """
    error, bias = checks.positive_number("error", error), checks.positive_number("bias", bias)
    ratio = checks.positive_number("ratio", ratio)
    if ratio <= 1:
        raise ValueError(f"ratio must be above 1, or no number of levels reaches the error, got {ratio:g}.")
    return _least("error", error, lambda levels: bias * ratio**-levels)


def steps_for(error: float, constant: float = 1.0, strong_order: float = 1.0) -> int:
    """The least number of steps ``N >= 1`` with ``constant * N^-strong_order <= error``.

    Args:
        error: root mean square error that the step may cause, above zero.
        constant: error of a single step over the whole time span, above zero.
        strong_order: as of :func:`euler_exponent`.

    Returns:
        Their number.

    Raises:
        TypeError, ValueError: naming the argument; also for more steps than a float can count.

    Example:
        >>> steps_for(0.1, strong_order=0.5)
        100
    """
    error, constant = checks.positive_number("error", error), checks.positive_number("constant", constant)
    order = checks.positive_number("strong_order", strong_order)
    return _least("error", error, lambda steps: constant * steps**-order)


def _least(name: str, error: float, error_at: Callable[[float], float]) -> int:
    """The least whole number at which a falling error is small enough, by doubling and bisection: exact in floats."""
    high = 1
    while error_at(float(high)) > error:
        high *= 2
        if high > _MOST:
            raise ValueError(f"{name}={error:g} is out of reach: it needs more than 2^1000.")
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if error_at(float(middle)) > error else (low, middle)
    return high
