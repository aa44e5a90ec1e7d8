"""What is known of the method before a run: variances, bounds, rates, allocations and predicted frontiers.

The method and its regime are those of arXiv 2603.24594; statements that the paper does not make are derived in
docs/theory.md. Bounds are for impulses whose coins are independent in time (independent or nested ones) and compare
with Euler-Maruyama of the top level on the same path. Rates, allocations and frontiers know of other rules only the
order ``s`` at which their mean squared error falls with the spacing of the firings.

>>> from mlsde import theory
>>> theory.euler_exponent(gamma=3.0), theory.multilevel_exponent(gamma=3.0)
(4.0, 3.0)
"""

from mlsde.theory.allocation import (
    additive_cost,
    allocation_mse,
    evaluation_probabilities,
    expected_cost,
    optimal_probabilities,
)
from mlsde.theory.bounds import (
    contractive_mse_bound,
    contractive_poisson_mse_bound,
    mse_bound,
    poisson_mse_bound,
)
from mlsde.theory.frontier import (
    FrontierPoint,
    fitted_exponent,
    local_slopes,
    multilevel_frontier,
    plain_frontier,
)
from mlsde.theory.model import ErrorModel
from mlsde.theory.prediction import predicted_mse
from mlsde.theory.rates import (
    euler_exponent,
    htmc_cost,
    levels_for,
    multilevel_exponent,
    steps_for,
    threshold,
)
from mlsde.theory.variance import estimator_variance, weight_covariance

__all__ = [
    "ErrorModel",
    "FrontierPoint",
    "additive_cost",
    "allocation_mse",
    "contractive_mse_bound",
    "contractive_poisson_mse_bound",
    "estimator_variance",
    "euler_exponent",
    "evaluation_probabilities",
    "expected_cost",
    "fitted_exponent",
    "htmc_cost",
    "levels_for",
    "local_slopes",
    "mse_bound",
    "multilevel_exponent",
    "multilevel_frontier",
    "optimal_probabilities",
    "plain_frontier",
    "poisson_mse_bound",
    "predicted_mse",
    "steps_for",
    "threshold",
    "weight_covariance",
]
