"""Any call of the theory gives numbers that agree with its formula, infinity at most, or one clear error."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from fuzzing import attempt, fuzz, numbered, with_odds
from hypothesis import assume, given
from hypothesis import strategies as st

from mlsde import theory

MODEL = theory.ErrorModel([1.0, 8.0, 64.0], [0.1, 0.05, 0.02], 1.0, [1.0, 0.1, 0.01])
ROW, PRICES = [1.0, 0.5, 0.1], [1.0, 8.0, 64.0]
CALLS = {
    theory.mse_bound: {"h": 0.1, "steps": 10, "lipschitz": 1.0, "variance": 0.5, "diffusion_lipschitz": 0.2},
    theory.contractive_mse_bound: {"h": 0.1, "rate": 0.5, "lipschitz": 1.0, "variance": 0.5},
    theory.poisson_mse_bound: {
        "duration": 1.0, "rates": [math.inf, 2.0], "variances": [1.0, 0.1], "lipschitz": 1.0,
        "diffusion_lipschitz": 0.0,
    },
    theory.contractive_poisson_mse_bound: {"rates": [math.inf, 2.0], "variances": [1.0, 0.1], "rate": 0.5},
    theory.htmc_cost: {"error": 0.1, "gamma": 2.5, "constant": 1.0},
    theory.euler_exponent: {"gamma": 2.5, "strong_order": 1.0},
    theory.threshold: {"order": 2.0},
    theory.multilevel_exponent: {"gamma": 2.5, "order": 1.0, "strong_order": 1.0, "every_step": True},
    theory.levels_for: {"error": 0.1, "bias": 1.0, "ratio": 2.0},
    theory.steps_for: {"error": 0.1, "constant": 1.0, "strong_order": 0.5},
    theory.evaluation_probabilities: {"probabilities": ROW, "coins": "nested"},
    theory.expected_cost: {
        "probabilities": ROW, "costs": PRICES, "steps": 5, "coins": "systematic", "correction": "hold", "stages": 2,
        "differences": False,
    },
    theory.additive_cost: {"probabilities": ROW, "costs": PRICES, "steps": 5},
    theory.allocation_mse: {"probabilities": ROW, "variances": ROW, "order": 2.0},
    theory.optimal_probabilities: {"variances": ROW, "costs": PRICES, "budget": 3.0, "mse": None, "order": 1.0},
    theory.predicted_mse: {
        "times": [0.0, 0.5, 1.0], "variances": ROW, "probabilities": ROW, "sensitivity": [1.0, 2.0],
        "coins": "independent",
    },
    theory.weight_covariance: {"p": ROW, "coins": "nested"},
    theory.estimator_variance: {"differences": torch.ones(3, 2, 4), "p": ROW, "coins": "independent"},
    theory.ErrorModel: {
        "costs": PRICES, "biases": ROW, "step_error": 1.0, "level_errors": ROW, "strong_order": 0.5, "order": 2.0,
    },
    MODEL.plain: {"level": 2, "steps": 10},
    MODEL.multilevel: {"levels": 2, "steps": 10, "probabilities": [1.0, 0.2], "coins": "nested"},
    theory.plain_frontier: {"model": MODEL, "errors": [0.3, 0.2], "steps_grid": [1, 10, 100]},
    theory.multilevel_frontier: {
        "model": MODEL, "errors": [0.3, 0.2], "steps_grid": [10, 100], "firings_grid": [1.0, 10.0], "gamma": 2.5,
        "coins": "independent", "order": 1.0,
    },
    theory.local_slopes: {"errors": [0.3, 0.2, 0.1], "costs": PRICES},
    theory.fitted_exponent: {"errors": [0.3, 0.2, 0.1], "costs": PRICES},
}  # fmt: skip


def values(found):
    """All the numbers in an answer."""
    if dataclasses.is_dataclass(found):
        return [v for field in dataclasses.fields(found) for v in values(getattr(found, field.name))]
    if isinstance(found, (tuple, list)):
        return [v for part in found for v in values(part)]
    return [] if found is None else np.asarray(found, dtype=np.float64).ravel().tolist()


@fuzz()
@given(st.data(), st.sampled_from(list(CALLS)))
def test_a_call_with_something_odd_in_it_gives_numbers_or_a_clear_error(data, function):
    arguments = with_odds(data, CALLS[function])
    found = attempt(lambda: function(**arguments), *CALLS[function])
    assert not any(map(math.isnan, values(found)))


positive = st.floats(1e-6, 1e6)


@fuzz()
@given(st.data(), st.sampled_from(list(CALLS)))
def test_a_call_with_numbers_of_any_size_gives_numbers_or_a_clear_error(data, function):
    arguments = {name: data.draw(numbered(value), label=name) for name, value in CALLS[function].items()}
    found = attempt(lambda: function(**arguments), *CALLS[function])
    assert not any(map(math.isnan, values(found)))


@fuzz()
@given(positive, positive, positive, positive, st.integers(1, 40))
def test_sound_numbers_give_what_the_formulas_give(h, slope, variance, spread, steps):
    q = (1 + h * slope) ** 2 + h * spread**2
    assume(steps * math.log(q) < 500)
    series = math.fsum(q**n for n in range(steps))
    assert theory.mse_bound(h, steps, slope, variance, spread) == pytest.approx(h**2 * variance * series, rel=1e-6)
    rates, variances = [h, math.inf, spread], [slope, 1.0, variance]
    intensity = slope / h + variance / spread
    assert theory.contractive_poisson_mse_bound(rates, variances, slope) == pytest.approx(intensity / (2 * slope))
    assert theory.euler_exponent(h, slope) == pytest.approx(h + 1 / slope)
    assert theory.threshold(h) == pytest.approx(2 / h)
    least = theory.levels_for(h, slope, 1 + spread)
    assert slope * (1 + spread) ** -least <= h * (1 + 1e-9)
    assert least == 1 or slope * (1 + spread) ** (1.0 - least) > h * (1 - 1e-9)


@fuzz()
@given(st.lists(st.tuples(positive, positive), min_size=1, max_size=5), st.floats(0.01, 3.0), st.floats(0.5, 4.0))
def test_the_best_probabilities_keep_to_their_price_and_their_error(pairs, part, order):
    variances, costs = map(list, zip(*pairs, strict=True))
    budget = part * sum(costs)
    p = theory.optimal_probabilities(variances, costs, budget=budget, order=order)
    assert ((p > 0) & (p <= 1)).all()
    assert theory.additive_cost(p, costs) == pytest.approx(min(budget, sum(costs)), rel=1e-6)
    mse = theory.allocation_mse(p, variances, order)
    again = theory.optimal_probabilities(variances, costs, mse=mse, order=order)
    assert theory.additive_cost(again, costs) == pytest.approx(min(budget, sum(costs)), rel=1e-4)


@fuzz()
@given(st.lists(st.tuples(positive, positive), min_size=2, max_size=6), st.floats(0.1, 9.0))
def test_a_power_law_has_its_exponent(points, exponent):
    errors = sorted({round(math.log(error), 2) for error, _ in points})
    if len(errors) < 2:
        return
    errors = np.exp(errors)
    costs = errors**-exponent
    assert theory.fitted_exponent(errors, costs) == pytest.approx(exponent, rel=1e-6)
    assert theory.local_slopes(errors, costs) == pytest.approx(exponent, rel=1e-6)
