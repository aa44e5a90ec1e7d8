"""Any measurement of variances and any learning of probabilities gives numbers that agree, or one clear error."""

import math

import numpy as np
import pytest
import torch
from fuzzing import LADDERS, STATES, attempt, fuzz, odd_ladder, tried, with_odds
from hypothesis import given
from hypothesis import strategies as st

from mlsde import (
    SDE,
    Constant,
    DriftHierarchy,
    Learned,
    LevelVariances,
    Multilevel,
    learn,
    level_variances,
    solve,
)

pytestmark = pytest.mark.filterwarnings("ignore:costs fall")  # prices are drawn in any order

SOUND = SDE(DriftHierarchy([lambda t, y: -y, lambda t, y: -torch.sin(y)], [1.0, 8.0]), 0.5)
VARIANCES = {
    "sde": SOUND, "y0": torch.ones(3, 2), "t_span": (0.0, 1.0), "steps": 3, "times": None, "method": "euler",
    "seed": 0, "brownian": None,
}  # fmt: skip
LEARN = {
    "sde": SOUND, "y0": torch.ones(3, 2), "t_span": (0.0, 1.0), "budget": 15.0, "steps": 3, "times": None,
    "method": "euler", "knots": 2, "iterations": 2, "samples": 3, "gradient": "surrogate", "learning_rate": 0.2,
    "start": Constant([1.0, 0.5]), "seed": 0, "progress": False,
}  # fmt: skip


@fuzz()
@given(st.data())
def test_a_measurement_with_something_odd_in_it_gives_variances_or_a_clear_error(data):
    arguments = with_odds(data, VARIANCES)
    found = tried(lambda: level_variances(**arguments), *VARIANCES)
    if found is not None:
        assert isinstance(found, LevelVariances) and sound(found)


def sound(found):
    arrays = [found.values, found.means, found.kurtoses, found(0.3)]
    return all(np.isfinite(array).all() and (array >= 0).all() for array in arrays)


@fuzz()
@given(st.data(), st.lists(st.sampled_from(LADDERS), min_size=1, max_size=3), STATES)
def test_odd_levels_and_states_give_variances_or_a_clear_error(data, kinds, y0):
    sde = SDE(odd_ladder(data, kinds), data.draw(st.sampled_from([None, 0.3])))
    span = data.draw(st.sampled_from([(0.0, 1.0), (1.0, 0.0)]))
    found = tried(lambda: level_variances(sde, y0, span, steps=2), "level", "y0", "diffusion")
    assert found is None or sound(found)


@fuzz(0.5)
@given(
    st.lists(st.floats(-2.0, 2.0), min_size=1, max_size=4),
    st.lists(st.floats(-2.0, 2.0), min_size=1, max_size=6),
    st.booleans(),
)
def test_constant_levels_have_their_own_variances(values, states, differences):
    y0 = torch.tensor(states, dtype=torch.float64)[:, None]
    levels = [lambda t, y, v=v: torch.full_like(y, v) for v in values]
    make = DriftHierarchy.from_differences if differences else DriftHierarchy
    found = level_variances(SDE(make(levels)), y0, (0, 1), steps=2)
    expected = np.array(values) if differences else np.diff(values, prepend=0.0)
    np.testing.assert_allclose(found.values, np.tile(expected**2, (2, 1)), rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(found.means, np.tile(np.abs(expected), (2, 1)), rtol=1e-12, atol=1e-300)


@fuzz(0.25)
@given(st.data())
def test_learning_with_something_odd_in_it_gives_probabilities_or_a_clear_error(data):
    arguments = with_odds(data, LEARN)
    check(attempt(lambda: learn(**arguments), *LEARN, "level"))


def check(found):
    if found is None:
        return
    assert isinstance(found, Learned) and len(found.times) > 0
    values = np.array(found.values)
    assert np.isfinite(values).all() and (values > 0).all() and (values <= 1).all()
    assert all(math.isfinite(loss) and math.isfinite(cost) for loss, cost in found.history)


@fuzz(0.25)
@given(st.data(), st.lists(st.sampled_from(LADDERS), min_size=1, max_size=3), STATES)
def test_learning_on_odd_levels_and_states_gives_probabilities_or_a_clear_error(data, kinds, y0):
    sde = SDE(odd_ladder(data, kinds), data.draw(st.sampled_from([None, 0.3])))
    gradient = data.draw(st.sampled_from(["surrogate", "score"]))
    check(
        attempt(
            lambda: learn(sde, y0, (0, 1), steps=2, budget=3.0, knots=1, iterations=2, samples=2, gradient=gradient),
            "level", "y0", "sde", "budget", "diffusion", "variances",
        )
    )  # fmt: skip


@fuzz(0.1)
@given(st.data(), st.integers(1, 3), st.integers(2, 4), st.sampled_from(["surrogate", "score"]))
def test_what_was_learned_costs_the_budget(data, knots, count, gradient):
    levels = [lambda t, y, k=k: -y + torch.sin(3 * y) / 4**k for k in range(count)]
    drift = DriftHierarchy(levels, [4.0**k for k in range(count)])
    steps = data.draw(st.integers(knots, 6))
    budget = data.draw(st.floats(0.1, 0.9)) * steps * 4.0 ** (count - 1)
    found = learn(
        SDE(drift), torch.ones(3, 1), (0, 1), steps=steps, budget=budget, knots=knots, iterations=3, samples=4,
        gradient=gradient,
    )  # fmt: skip
    check(found)
    plan = solve(
        SDE(drift), torch.ones(1, 1), (0, 1), steps=steps, multilevel=Multilevel(found, "independent", "impulse")
    ).plan
    assert plan.expected_cost == pytest.approx(budget, rel=1e-6)
