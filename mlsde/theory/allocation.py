"""What probabilities cost, and the best ones: the price of a run by either account, and water filling.

*Summed by parts*, as this package evaluates, level ``k`` is paid where ``w_k != w_{k+1}``. In the *additive* account of
the theory a level that fires is paid once, whatever fires beside it.
"""

from __future__ import annotations

import math

import numpy as np

from mlsde import checks
from mlsde.multilevel import MEMORY, Multilevel
from mlsde.plan import Plan
from mlsde.theory import arguments
from mlsde.theory.arguments import Row, Table


def evaluation_probabilities(probabilities: Table, coins: str = "independent") -> np.ndarray:
    """Probability ``P(w_k != w_{k+1})`` that a step of impulses evaluates level ``k``, ``w_{K+1} = 0``.

    ``p_k + p_{k+1} - 2 b_k``, ``b_k = P(B_k = B_{k+1} = 1)``, plus ``b_k`` where ``p_k != p_{k+1}``, since the weights
    ``1/p`` then differ. ``b_k`` is ``p_k p_{k+1}``, and for nested coins ``min(p_k, p_{k+1})``. Derivation in
    docs/theory.md.

    Args:
        probabilities: in [0, 1], shape ``(..., K)``.
        coins: ``"independent"``, ``"systematic"`` (the offsets of the levels are independent) or ``"nested"``.

    Returns:
        Shape ``(..., K)``.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> evaluation_probabilities([1.0, 0.5, 0.5]).tolist()
        [1.0, 0.5, 0.5]
    """
    checks.one_of("coins", coins, ("independent", "nested", "systematic"))
    p = checks.numbers("probabilities", probabilities)
    if p.ndim == 0 or p.size == 0 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError("probabilities must hold numbers in [0, 1], one per level along the last axis.")
    above = np.concatenate([p[..., 1:], np.zeros_like(p[..., :1])], axis=-1)
    both = np.minimum(p, above) if coins == "nested" else p * above
    return p + above - 2 * both + both * (p != above)


_MOST_COUNTED, _SETTLED = 10**7, 64
"""Steps of periodic coins that are counted one by one; steps from which on every further one costs the same."""


@arguments.within_floats
def expected_cost(
    probabilities: Table,
    costs: Row,
    steps: int | None = None,
    *,
    coins: str = "independent",
    correction: str = "impulse",
    differences: bool = False,
    stages: int = 1,
) -> float:
    """Expected cost per trajectory, summed by parts: that of the plan that a run with these probabilities draws up.

    Args:
        probabilities: in [0, 1], shape ``(K,)``, or ``(N, K)`` for those of each step.
        costs: price of one evaluation of each level for one sample, shape ``(K,)``.
        steps: number of steps ``N`` of a single row; 1 by default.
        coins: as of :class:`mlsde.Multilevel`.
        correction: likewise; those with a memory fire every level at the first step.
        differences: whether the ladder is given by its differences, so that a firing pays for its own alone.
        stages: drift estimates per step.

    Returns:
        The cost, in the units of ``costs``.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> expected_cost([1.0, 0.5], costs=[1.0, 64.0], steps=100)
        3300.0
    """
    prices = arguments.positive_row("costs", costs)
    steps = None if steps is None else checks.positive_integer("steps", steps, math.inf)
    table = arguments.probabilities(probabilities, len(prices), steps)
    rule = Multilevel.named(lambda t: prices, coins, correction)  # checks the names
    differences = checks.truth("differences", differences)
    stages = checks.positive_integer("stages", stages)

    def cost_of(rows: np.ndarray) -> float:
        if correction in MEMORY:
            rows = np.concatenate([np.ones_like(rows[:1]), rows[1:]])
        plan = Plan(
            np.arange(len(rows) + 1.0), rows, rule.coins, rule.correction, "batch", ((0,),), differences, stages,
            tuple(prices.tolist()),
        )  # fmt: skip
        return float(plan.expected_evaluations @ prices)

    if table.ndim == 2:
        return cost_of(table)
    count = 1 if steps is None else steps
    if coins == "periodic":  # whose firings must be counted
        return cost_of(np.tile(table, (checks.positive_integer("steps", count, _MOST_COUNTED), 1)))
    if correction not in MEMORY:
        return count * cost_of(table[None])
    short = min(count, _SETTLED)
    cost = cost_of(np.tile(table, (short, 1)))
    return cost if short == count else cost + (count - short) * (cost - cost_of(np.tile(table, (short - 1, 1))))


@arguments.within_floats
def additive_cost(probabilities: Table, costs: Row, steps: int | None = None) -> float:
    """Expected cost per trajectory in the additive account, ``sum_n sum_k p_k c_k``.

    It is what allocations are optimised for, and the price of a ladder given by its differences. The paper pays a
    firing with ``c_k + c_{k-1}``, which is at most twice as much and is also a bound on :func:`expected_cost` of
    impulses; that may lie on either side of this one. Source: arXiv 2603.24594; derivation in docs/theory.md.

    Args:
        probabilities: as of :func:`expected_cost`.
        costs: likewise.
        steps: likewise.

    Returns:
        The cost, in the units of ``costs``.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> additive_cost([1.0, 0.5], costs=[1.0, 64.0], steps=100)
        3300.0
    """
    prices = arguments.positive_row("costs", costs)
    steps = None if steps is None else checks.positive_integer("steps", steps, math.inf)
    table = arguments.probabilities(probabilities, len(prices), steps)
    return float((table @ prices).sum()) * (1 if table.ndim == 2 or steps is None else steps)


@arguments.within_floats
def allocation_mse(probabilities: Row, variances: Row, order: float = 1.0) -> float:
    """Mean squared error that an allocation is charged, ``sum_k a_k (p_k^-s - 1)``: none where every level fires.

    For ``s = 1`` and ``a_k = V_k`` it is the variance of one estimate with independent coins (arXiv 2603.24594).

    Args:
        probabilities: in (0, 1], shape ``(K,)``.
        variances: ``a_k``, shape ``(K,)``.
        order: ``s``, above zero.

    Returns:
        The mean squared error.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> allocation_mse([1.0, 0.5], variances=[1.0, 0.04])
        0.04
    """
    a = arguments.non_negative_row("variances", variances)
    p = arguments.probabilities(probabilities, len(a), 1, zero=False).ravel()
    return float(a @ (p ** -checks.positive_number("order", order) - 1.0))


@arguments.within_floats
def optimal_probabilities(
    variances: Row, costs: Row, *, budget: float | None = None, mse: float | None = None, order: float = 1.0
) -> np.ndarray:
    """The probabilities of least error at a price, or of least price at an error: water filling.

    ``p_k = min(1, lambda (a_k / c_k)^(1/(s+1)))``, with ``lambda`` such that ``sum_k c_k p_k`` is the budget or
    :func:`allocation_mse` is ``mse``. Source for ``s = 1``: arXiv 2603.24594; derivation in docs/theory.md.
    :class:`mlsde.Optimal` does the same for a table in time, at the price summed by parts.

    Args:
        variances: ``a_k``, above zero, shape ``(K,)``; for ``s = 1`` the ``V_k = E|f^k - f^(k-1)|^2``.
        costs: ``c_k``, above zero, shape ``(K,)``.
        budget: expected cost of one step, in the additive account; above zero.
        mse: the error instead, not negative. Give one of the two.
        order: ``s``: 1 for independent impulses, 2 for systematic impulse and hold, up to 4 for ``extrapolate``.

    Returns:
        Shape ``(K,)``, in (0, 1]; all ones for a budget of ``sum_k c_k`` and more.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> optimal_probabilities([1.0, 0.25], costs=[1.0, 100.0], budget=6.0).round(9).tolist()
        [1.0, 0.05]
    """
    a = arguments.positive_row("variances", variances)
    c = arguments.positive_row("costs", costs, len(a))
    s = checks.positive_number("order", order)
    if (budget is None) == (mse is None):
        raise ValueError(f"give one of budget= and mse=, got {'neither' if budget is None else 'both'}.")
    target = checks.positive_number("budget", budget) if mse is None else checks.non_negative_number("mse", mse)
    urgency = np.exp((np.log(a) - np.log(c)) / (s + 1.0))

    def scale(clamped: np.ndarray, free: np.ndarray) -> float:
        if mse is None:
            return float((target - c[clamped].sum()) / (c[free] @ urgency[free]))
        return float(((a[free] @ urgency[free] ** -s) / (target + a[free].sum())) ** (1.0 / s))

    first = np.argsort(-urgency)
    for sure in range(len(a)):
        factor = scale(first[:sure], first[sure:])
        if factor * urgency[first[sure]] <= 1.0:  # else clamp it too: that raises the factor, so none comes back
            p = factor * urgency
            p[first[:sure]] = 1.0
            return p
    return np.ones_like(a)
