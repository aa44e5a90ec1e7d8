"""The mean squared error to first order: what each step and level adds, carried to the end of the run."""

from __future__ import annotations

import numpy as np

from mlsde import checks
from mlsde.theory import arguments
from mlsde.theory.arguments import Row, Table


@arguments.within_floats
def predicted_mse(
    times: Row, variances: Table, probabilities: Table, sensitivity: Row | None = None, coins: str = "independent"
) -> float:
    """First-order ``E|Y_N - X_N|^2`` of independent impulses, ``X`` the top level at every step on the same path.

    ``sum_n h_n^2 w_n sum_k (1/p_k(t_n) - 1) V_k(t_n)``. Exact for linear drifts in one dimension with
    ``w_n = prod_{m>n} (1 + h_m f')^2`` and the exact ``V_k``; otherwise the leading term for small differences.
    Derivation in docs/theory.md.

    Args:
        times: the grid, ``N + 1`` times.
        variances: ``V_k(t_n) = E|f^k - f^(k-1)|^2`` at the steps, shape ``(N, K)``, or ``(K,)`` for all of them.
        probabilities: in (0, 1], shape ``(N, K)`` or ``(K,)``.
        sensitivity: ``w_n = |dY_N / dY_{n+1}|^2``, mean square growth of an error from the *end* of step ``n`` to
            the end of the run (in ``d`` dimensions ``|J|_F^2 / d``), shape ``(N,)``; 1 by default.
        coins: ``"independent"``. The error of nested coins has cross terms ``<D_j, D_k>``, which ``variances`` do not
            hold; that of others depends on their past.

    Returns:
        The mean squared error, summed over the components.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> predicted_mse([0.0, 0.5, 1.0], variances=[1.0, 0.04], probabilities=[1.0, 0.5])
        0.02
    """
    if not isinstance(coins, str) or coins != "independent":
        raise ValueError(f"coins={coins!r} cannot be predicted from variances alone; use coins='independent'.")
    h = np.diff(checks.time_grid(None, None, times))
    gaps = arguments.table("variances", variances, steps=len(h))
    p = arguments.probabilities(probabilities, gaps.shape[-1], len(h), zero=False)
    local = np.broadcast_to((1.0 / p - 1.0) * gaps, (len(h), gaps.shape[-1])).sum(axis=1)
    w = np.ones(len(h)) if sensitivity is None else arguments.non_negative_row("sensitivity", sensitivity, len(h))
    return float(h**2 * w @ local)
