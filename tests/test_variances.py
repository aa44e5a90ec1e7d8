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


def moments(y0, level=lambda t, y: y, steps=1, **equation):
    """``level_variances`` of a ladder whose first difference is the level and whose second is nothing."""
    drift = mlsde.DriftHierarchy([level, level])
    return mlsde.level_variances(mlsde.SDE(drift, **equation), y0, (0.0, 1.0), steps=steps)


def column(*values):
    return torch.tensor(values, dtype=torch.float64)[:, None]


def test_a_difference_that_is_a_constant_has_that_mean_and_nothing_about_it():
    found = moments(torch.zeros(5, 3, dtype=torch.float64), lambda t, y: torch.full_like(y, -2.0), steps=4)
    np.testing.assert_allclose(found.means[:, 0], 2 * math.sqrt(3), rtol=1e-14)
    np.testing.assert_allclose(found.values[:, 0], 12.0, rtol=1e-14)
    assert found.kurtoses[:, 0].tolist() == [1.0] * 4
    assert (found.means[:, 1].tolist(), found.kurtoses[:, 1].tolist()) == ([0.0] * 4, [1.0] * 4)


@pytest.mark.parametrize("ones", [1, 2, 5, 9])
def test_a_difference_of_two_values_has_the_kurtosis_of_a_bernoulli_variable(ones):
    q = ones / 10
    found = moments(column(*[1.0] * ones, *[0.0] * (10 - ones)))
    assert found.means[0, 0] == pytest.approx(q)
    assert found.values[0, 0] == pytest.approx(q)
    assert found.kurtoses[0, 0] == pytest.approx((1 - 3 * q * (1 - q)) / (q * (1 - q)))


def test_a_difference_with_the_moments_of_a_normal_has_kurtosis_3_wherever_its_mean_is():
    """Gauss-Hermite's three points match the first five moments of a normal: exactly, without sampling."""
    normal = torch.tensor([0.0, 0.0, 0.0, 0.0, 3**0.5, -(3**0.5)], dtype=torch.float64)
    for shift, scale in ((0.0, 1.0), (7.0, 1.0), (7.0, 0.01)):
        found = moments((shift + scale * normal)[:, None])
        assert found.kurtoses[0, 0] == pytest.approx(3.0, rel=1e-9)
        assert found.means[0, 0] == pytest.approx(shift, abs=1e-12)
        assert found.values[0, 0] == pytest.approx(shift**2 + scale**2)


def test_components_count_into_the_kurtosis_by_their_variance_squared():
    """``sum_i E d_i^4 / sum_i (E d_i^2)^2``: of two values (kurtosis 1) and of three points (3), twice as wide."""
    two = [1.0, -1.0, 1.0, -1.0, 1.0, -1.0]
    three = [0.0, 0.0, 0.0, 0.0, 2 * 3**0.5, -2 * 3**0.5]
    found = moments(torch.tensor([two, three], dtype=torch.float64).T.reshape(6, 1, 2))
    assert found.kurtoses[0, 0] == pytest.approx((1.0 * 1 + 3.0 * 16) / (1 + 16))


def test_along_a_linear_run_means_shrink_with_the_state_and_kurtoses_stay():
    y0, h = column(3.0, 1.0, 1.0, 1.0), 0.25
    found = moments(y0, lambda t, y: -y, steps=4)
    shrunk = (1 - h) ** np.arange(4)
    np.testing.assert_allclose(found.means[:, 0], 1.5 * shrunk, rtol=1e-13)
    np.testing.assert_allclose(found.values[:, 0], 3.0 * shrunk**2, rtol=1e-13)
    q = 0.25
    np.testing.assert_allclose(found.kurtoses[:, 0], (1 - 3 * q * (1 - q)) / (q * (1 - q)), rtol=1e-12)


def test_normal_differences_have_kurtosis_3_within_its_statistical_error():
    """``sqrt(24 / n)`` is its deviation; 5 of them are left in 1 of 1.7 million runs. A uniform one has 1.8."""
    n, rng = 40_000, np.random.default_rng(0)
    bound = 5 * math.sqrt(24 / n)
    assert abs(moments(torch.as_tensor(rng.standard_normal((n, 1)))).kurtoses[0, 0] - 3) < bound
    assert abs(moments(torch.as_tensor(rng.uniform(size=(n, 1)))).kurtoses[0, 0] - 3) > bound


def test_the_gain_of_a_linear_part_scales_means_and_leaves_kurtoses():
    linear = mlsde.LinearPart(
        rate=lambda t: 0.0, propagator=lambda t, s: 1.0, source=lambda t, s: 3.0 * (s - t), gain=lambda t: -3.0
    )
    y0 = column(3.0, 1.0, 1.0, 1.0)
    plain, gained = moments(y0), moments(y0, linear=linear)
    np.testing.assert_allclose(gained.means, 3 * plain.means)
    np.testing.assert_allclose(gained.values, 9 * plain.values)
    np.testing.assert_allclose(gained.kurtoses, plain.kurtoses)


def test_variances_made_by_hand_need_no_means_or_kurtoses():
    made = mlsde.LevelVariances(np.array([0.0]), np.array([[4.0]]), None)
    assert (made.means, made.kurtoses) == (None, None)
    assert made(0.3).tolist() == pytest.approx([4.0])
