"""Any problem is one that can be run, with moments and levels that agree with it, or one clear error."""

import math

import numpy as np
import pytest
import torch
from fuzzing import LADDERS, STATES, attempt, counts, fuzz, numbered, odd_ladder, tried, with_odds
from hypothesis import given
from hypothesis import strategies as st

from mlsde import SDE, DriftHierarchy, checks, solve, study
from mlsde.problems import LadderProblem, analytic, kinds, linear, mixtures, perturbed, science
from mlsde.problems.ladder import scattered_start

pytestmark = pytest.mark.filterwarnings("ignore:costs fall")  # prices are drawn in any order

EXACT = {
    analytic.geometric_brownian_motion: {"growth": 1.01, "volatility": 0.87, "y0": [0.5, 1.0], "calculus": "ito"},
    analytic.cubic: {"y0": 0.5},
    analytic.wave: {"amplitude": 0.1, "y0": 1.0},
    analytic.debrabant_roessler: {"y0": 0.0},
    analytic.additive_system: {"noise": [0.1, 0.2], "drift": [0.5, 0.25]},
    analytic.ornstein_uhlenbeck: {"rate": 1.5, "level": 0.5, "volatility": 0.8, "y0": 2.0},
    analytic.kubo_oscillator: {"frequency": 2.0, "strength": 0.5, "calculus": "stratonovich"},
    analytic.linear_ode: {"matrix": [[-1.0, 0.5], [0.0, -1.0]], "y0": [1.0, 2.0]},
    analytic.linear_system: {"matrix": [[-1.0, 0.5], [0.0, -1.0]], "y0": [1.0, 2.0], "volatility": 0.5},
    analytic.langevin_harmonic: {"frequency": 2.0, "friction": 1.0, "temperature": 0.5, "y0": [1.0, 0.0]},
}
GBM = analytic.geometric_brownian_motion()
BASE = kinds.system("rotations", 4)
OU = linear.ornstein_uhlenbeck([1.0, 1.5], 0.5)
LADDER = {
    "gamma": 2.5, "levels": 3, "differences": "smooth", "work": "declared", "size": 1.0, "frequency": 1.0,
    "features": 4, "seed": 0,
}  # fmt: skip
MADE = {
    GBM.ladder: {**LADDER, "spread": 0.1, "reference_steps": 20},
    science.charges: {
        "count": 64, "sides": (2,), "softening": 0.5, "strength": 2.0, "trap": 2.0, "temperature": 0.2,
        "assignment": "cell", "seed": 0,
    },
    science.learned_force: {
        "points": (4, 8), "dimension": 2, "smoothness": 1.5, "length": 4.0, "strength": 1.0, "temperature": 1.0,
        "noise": 0.0, "waves": 10, "seed": 0, "reference_steps": 20,
    },
    mixtures.gaussian_mixture: {
        "clusters": (2, 4), "components": 16, "dimension": 2, "families": (2,), "decay": 0.5, "width": 0.2,
        "churn": 0.0, "end": 0.1, "process": None, "seed": 0,
    },
    kinds.mixture: {"churn": 1.0, "clusters": (2,), "components": 8},
    kinds.ladder: {
        "kind": "smooth", "base": BASE, "noise": "additive", "gamma": 2.5, "levels": 3, "size": 2.0, "frequency": 1.0,
        "volatility": 0.5, "seed": 0,
    },
    LadderProblem: {
        "name": "mine", "sde": GBM.ladder(2.5, 2).sde, "start": torch.ones(2, 1), "t_span": (0.0, 1.0),
        "reference": None, "gamma": 2.5,
    },
}  # fmt: skip
SYSTEM = {"name": "pendulums", "dimension": 4}


def runs(problem):
    """It can be run, and what it says of itself agrees in shape."""
    y0 = problem.initial(2) if isinstance(problem, LadderProblem) else problem.start(2)
    done = solve(problem.sde, y0, problem.t_span, steps=2, method="heun" if stratonovich(problem.sde) else "euler")
    assert done.ys.isfinite().all() and done.y1.shape == y0.shape
    return done


def stratonovich(sde):
    return not sde.is_ode and not sde.additive and sde.calculus == "stratonovich"


@fuzz()
@given(st.data(), st.sampled_from(list(EXACT)))
def test_an_equation_with_something_odd_in_it_has_its_moments_or_gives_a_clear_error(data, function):
    if data.draw(st.booleans(), label="any numbers"):
        arguments = {name: data.draw(numbered(value), label=name) for name, value in EXACT[function].items()}
    else:
        arguments = with_odds(data, EXACT[function])
    problem = attempt(lambda: function(**arguments), *EXACT[function])
    if problem is None or tried(lambda: runs(problem), *EXACT[function], "y0") is None:
        return
    sizes = [np.abs(checks.numbers(name, value)).max() for name, value in arguments.items() if name != "calculus"]
    size = min(1.0 + max(sizes), 1e150)  # rounding grows with the largest number
    for moment, shape in ((problem.mean, 1), (problem.second_moment, 2)):
        if moment is not None:
            assert moment(0.0).shape == (len(problem.y0),) * shape
            start = torch.tensor(problem.y0, dtype=torch.float64)
            expected = start if shape == 1 else torch.outer(start, start)
            torch.testing.assert_close(moment(0.0), expected, rtol=1e-9, atol=1e-9 * size**shape)
    if problem.exact is not None:
        y0 = problem.start(2)
        torch.testing.assert_close(problem.exact(0.0, y0, torch.zeros_like(y0)), y0, rtol=1e-9, atol=1e-9 * size)


@fuzz()
@given(st.data(), st.sampled_from(list(MADE)))
def test_a_ladder_with_something_odd_in_it_is_a_problem_or_a_clear_error(data, function):
    if data.draw(st.booleans(), label="any numbers"):
        arguments = {name: data.draw(numbered(value, counts), label=name) for name, value in MADE[function].items()}
    else:
        arguments = with_odds(data, MADE[function])
    problem = attempt(lambda: function(**arguments), *MADE[function])
    if problem is not None:
        assert isinstance(problem, LadderProblem)
        tried(lambda: runs(problem), *MADE[function], "y0", "level", "t_span", "times")
        costs = problem.sde.drift.costs
        assert all(math.isfinite(cost) and cost > 0 for cost in costs)


@fuzz()
@given(st.data())
def test_smaller_pieces_with_something_odd_in_them_are_made_or_refused_clearly(data):
    pieces = {
        kinds.system: SYSTEM,
        kinds.kinds: {"seed": 0},
        perturbed: {"base": lambda t, y: -y, "dimension": 2, **LADDER},
        scattered_start: {"y0": torch.ones(2), "spread": 0.1},
        GBM.start: {"samples": 2, "dtype": torch.float32},
        MIXTURE.initial: {"samples": 2, "seed": 0},
        science.grouped: {"places": torch.zeros(4, 3), "charges": torch.ones(4), "side": 2, "assignment": "mean"},
        science.level_errors: {"problem": GBM.ladder(2.5, 2), "samples": 2, "steps": 2, "seed": 0},
        science.price_exponent: {"costs": [1.0, 8.0], "errors": [0.5, 0.25]},
    }
    function = data.draw(st.sampled_from(list(pieces)))
    arguments = with_odds(data, pieces[function])
    found = tried(lambda: function(**arguments), *pieces[function])
    if isinstance(found, (float, np.ndarray)):
        assert np.isfinite(found).all()


MIXTURE = mixtures.gaussian_mixture((2,), 8, 2, families=(), end=0.1)
MOMENTS = {
    linear.ornstein_uhlenbeck: {"rates": [1.0, 1.5], "sigma": 0.5, "means": [0.0, 1.0]},
    linear.LinearProblem: {"matrices": OU.matrices, "offsets": OU.offsets, "noise": OU.noise},
    OU.drift: {"costs": [1.0, 8.0]},
    linear.euler_moments: {"problem": OU, "y0": torch.ones(1, dtype=torch.float64), "times": [0.0, 0.5, 1.0]},
    linear.multilevel_moments: {
        "problem": OU, "y0": torch.ones(1, dtype=torch.float64), "times": [0.0, 0.5, 1.0],
        "probabilities": [1.0, 0.5], "coins": "nested",
    },
    linear.poisson_moments: {
        "problem": OU, "y0": torch.ones(1, dtype=torch.float64), "duration": 1.0, "rates": [math.inf, 2.0],
        "points": 2, "coins": "independent",
    },
}  # fmt: skip


@fuzz()
@given(st.data(), st.sampled_from(list(MOMENTS)))
def test_linear_ladders_with_something_odd_in_them_have_moments_or_give_a_clear_error(data, function):
    arguments = with_odds(data, MOMENTS[function])
    found = attempt(lambda: function(**arguments), *MOMENTS[function])
    if isinstance(found, linear.Moments):
        assert all(part.isfinite().all() for part in (found.mean, found.second, found.squared_error))
        assert (found.squared_error >= -1e-12).all()


CONVERGENCE = {
    "problem": GBM.ladder(2.5, 2), "methods": [study.plain()], "errors": [1.0, 0.7], "seeds": 2, "samples": 2,
    "seed": 0, "steps": [1, 2, 4], "most_steps": 8, "gamma": None, "cost": "declared", "reference_steps": 8,
    "folder": None,
}  # fmt: skip
DIAGNOSE = {"problem": GBM.ladder(2.5, 3), "samples": 4, "steps": 4, "seed": 0, "method": "euler"}
METHODS = {
    study.plain: {"stepper": "euler"},
    study.stitching: {"stepper": "euler"},
    study.multilevel: {"coins": "systematic", "correction": "hold", "order": None, "stepper": "euler"},
}


@fuzz(0.5)
@given(st.data())
def test_a_study_with_something_odd_in_it_has_frontiers_or_gives_a_clear_error(data):
    arguments = with_odds(data, CONVERGENCE, never=("folder",))  # any string is a folder to make
    found = tried(lambda: study.convergence(**arguments), *CONVERGENCE)
    if found is not None:
        costs = [cost for frontier in found.frontiers for cost in frontier.costs]
        assert costs and all(cost > 0 for cost in costs) and "gamma" in repr(found)


@fuzz(0.5)
@given(st.data())
def test_a_diagnosis_with_something_odd_in_it_has_numbers_or_gives_a_clear_error(data):
    arguments = with_odds(data, DIAGNOSE)
    told(tried(lambda: study.diagnose(**arguments), *DIAGNOSE))


def told(found):
    if found is not None:
        for row in (found.costs, found.means, found.variances, found.kurtoses, found.repeats):
            assert np.isfinite(row).all()
        assert "gamma" in repr(found)


@fuzz(0.5)
@given(st.data(), st.lists(st.sampled_from(LADDERS), min_size=1, max_size=3), STATES)
def test_a_diagnosis_of_odd_levels_and_states_has_numbers_or_gives_a_clear_error(data, levels, start):
    drift = odd_ladder(data, levels)

    def diagnosis():
        return study.diagnose(LadderProblem("odd", SDE(drift), start), samples=3, steps=2)

    told(tried(diagnosis, "level", "start", "y0"))


@fuzz(0.1)
@given(st.data(), st.lists(st.sampled_from(LADDERS), min_size=1, max_size=3), STATES)
def test_a_study_of_odd_levels_and_states_has_frontiers_or_gives_a_clear_error(data, levels, start):
    drift = odd_ladder(data, levels)

    def frontiers():
        problem = LadderProblem("odd", SDE(drift, data.draw(st.sampled_from([None, 0.3]))), start, gamma=2.5)
        rules = [study.plain(), study.multilevel("independent", "impulse")]
        return study.convergence(problem, rules, [1.0, 0.5], seeds=2, samples=2, steps=[1, 2, 4])

    found = tried(frontiers, "level", "start", "y0", "diffusion", "reference")
    assert found is None or all(cost >= 0 for frontier in found.frontiers for cost in frontier.costs)


@fuzz()
@given(st.data(), st.sampled_from(list(METHODS)))
def test_a_method_with_something_odd_in_it_is_a_method_or_a_clear_error(data, function):
    arguments = with_odds(data, METHODS[function])
    found = attempt(lambda: function(**arguments), *METHODS[function])
    assert found is None or isinstance(found, study.Method)


@fuzz(0.5)
@given(
    st.lists(st.floats(-2.0, 2.0), min_size=1, max_size=3), st.floats(0.0, 1.0), st.integers(1, 6),
    st.floats(0.05, 1.0),
)  # fmt: skip
def test_the_moments_of_linear_ladders_are_those_of_the_recursion(rates, sigma, steps, p):
    problem = linear.ornstein_uhlenbeck(rates, sigma)
    start = torch.tensor([1.5], dtype=torch.float64)
    found = linear.multilevel_moments(problem, start, np.linspace(0, 1, steps + 1), [p] * len(rates))
    mean, second, error, h = 1.5, 1.5**2, 0.0, 1 / steps
    differences = np.diff([-rate for rate in rates], prepend=0.0)
    for _ in range(steps):
        chance = h**2 * (1 / p - 1) * float(differences @ differences) * second
        factor = 1 - h * rates[-1]
        mean, second, error = factor * mean, factor**2 * second + chance + h * sigma**2, factor**2 * error + chance
    assert float(found.mean[-1]) == pytest.approx(mean, rel=1e-9, abs=1e-12)
    assert float(found.second[-1]) == pytest.approx(second, rel=1e-9, abs=1e-12)
    assert float(found.squared_error[-1]) == pytest.approx(error, rel=1e-9, abs=1e-12)


@fuzz(0.5)
@given(st.integers(1, 4), st.integers(1, 5), st.floats(0.5, 4.0), st.sampled_from(["smooth", "rough"]))
def test_a_perturbed_drift_has_levels_as_far_off_as_it_says(dimension, count, gamma, differences):
    drift = perturbed(
        lambda t, y: torch.zeros_like(y), dimension, gamma=gamma, levels=count, differences=differences, features=400
    )
    assert isinstance(drift, DriftHierarchy) and len(drift) == count
    assert drift.costs == pytest.approx([2.0 ** (gamma * k) for k in range(count)])
    y = torch.randn(200, dimension, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for k, level in enumerate(drift.levels, start=1):
        square = float(level(torch.zeros(()), 1e3 * y).square().sum(1).mean())
        assert square == pytest.approx(4.0**-k, rel=0.5)
