"""The measurement of V_k(t)."""

import math

import numpy as np
import pytest
import torch

import mlsde


def levels():
    return [lambda t, y: -y, lambda t, y: -y + 0.5 * torch.cos(t) * torch.ones_like(y)]


def test_variances_are_the_squared_norms_of_the_differences_along_the_run():
    drift = mlsde.DriftHierarchy(levels(), costs=[1.0, 10.0])
    y0 = torch.ones(3, 4, dtype=torch.float64)
    found = mlsde.level_variances(mlsde.SDE(drift), y0, (0.0, 1.0), steps=20)
    assert found.values.shape == (20, 2)
    np.testing.assert_allclose(found.values[:, 1], 4 * (0.5 * np.cos(found.times)) ** 2, rtol=1e-12)
    states = mlsde.solve(mlsde.SDE(drift), y0, (0.0, 1.0), steps=20, save_at="steps").ys[:-1]
    np.testing.assert_allclose(found.values[:, 0], states.square().sum(-1).mean(-1), rtol=1e-12)
    assert found.cost == 20 * 11.0


def test_differences_and_the_gain_of_a_linear_part_count():
    corrections = [lambda t, y: -y, lambda t, y: torch.full_like(y, 0.5)]
    drift = mlsde.DriftHierarchy.from_differences(corrections, costs=[1.0, 10.0])
    linear = mlsde.LinearPart(
        rate=lambda t: 0.0, propagator=lambda t, s: 1.0, source=lambda t, s: 3.0 * (s - t), gain=lambda t: 3.0
    )
    found = mlsde.level_variances(mlsde.SDE(drift, linear=linear), torch.ones(2, 5), (0.0, 1.0), steps=4)
    np.testing.assert_allclose(found.values[:, 1], 5 * (3.0 * 0.5) ** 2, rtol=1e-6)


def test_between_its_times_it_interpolates_geometrically_and_beyond_them_not_at_all():
    found = mlsde.LevelVariances(np.array([0.0, 1.0]), np.array([[1.0, 4.0], [1.0, 16.0]]), None)
    np.testing.assert_allclose(found(0.5), [1.0, 8.0])
    np.testing.assert_allclose(found(7.0), [1.0, 16.0])


def test_it_serves_optimal_probabilities_backwards_in_time_too():
    drift = mlsde.DriftHierarchy(levels(), costs=[1.0, 10.0])
    sde, y0 = mlsde.SDE(drift, diffusion=0.3), torch.ones(3, 4)
    found = mlsde.level_variances(sde, y0, (1.0, 0.0), steps=10)
    assert (np.diff(found.times) > 0).all()
    rule = mlsde.Multilevel(mlsde.Optimal(found, budget=400.0, order=2))
    solution = mlsde.solve(sde, y0, (1.0, 0.0), steps=100, multilevel=rule)
    assert solution.plan.expected_cost == pytest.approx(400.0, rel=1e-3)
    assert math.isfinite(float(solution.y1.sum()))


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (lambda t, y: y[:, :1], r"drift level 2 returned shape \(3, 1\)"),
        (lambda t, y: y.double(), "drift level 2 returned torch.float64"),
        (lambda t, y: y / 0 * 0, "drift level 2 became NaN or infinite in the pilot, at t=0"),
    ],
)
def test_a_bad_level_is_named_whichever_it_is(bad, words):
    sde = mlsde.SDE(mlsde.DriftHierarchy([lambda t, y: -y, bad, lambda t, y: -y]))
    with pytest.raises((TypeError, ValueError), match=words):
        mlsde.level_variances(sde, torch.ones(3, 4), (0.0, 1.0), steps=4)


def test_an_exception_of_a_level_is_noted_with_that_level():
    def broken(t, y):
        raise RuntimeError("mine")

    sde = mlsde.SDE(mlsde.DriftHierarchy([lambda t, y: -y, broken, lambda t, y: -y]))
    with pytest.raises(RuntimeError, match="mine") as caught:
        mlsde.level_variances(sde, torch.ones(3, 4), (0.0, 1.0), steps=4)
    assert caught.value.__notes__[0].startswith("raised by drift level 2")
