"""The path as a random function: its finite-dimensional distributions, and bridges built wrongly that must fail.

Divided by the roots of their variances, the increments over a grid are independent standard normals if and only if
the values at its times have the covariance ``min(s, t)`` of Brownian motion: they are the values whitened by it.
"""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from mlsde import randomness
from mlsde.brownian import BrownianPath
from mlsde.increments import IndependentIncrements

SAMPLES = 20_000
FALSE_ALARM = 1e-4  # per call of the test, by Bonferroni over its parts; the seeds are fixed
CAUGHT = 1e-9

DYADIC = [0.125, 0.25, 0.375, 0.5, 0.75, 1.0]
DECIMAL = [0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0]
OFF_TREE = [0.01, 1 / 7, 1 / 3, 0.3334, 2**-0.5, 0.98765]


def probability_of_brownian(values, times):
    """Smallest p-value, times their number, that values at increasing times come from Brownian motion.

    Chi-square for the variance of each increment, Kolmogorov-Smirnov for its law, and chi-square for all pairwise
    correlations together, of the increments and of their squares. ``values`` has the shape (times, samples).
    """
    gaps = torch.tensor(np.diff(times, prepend=0.0)).sqrt()
    normals = (torch.diff(values.double(), dim=0, prepend=torch.zeros_like(values[:1]).double()).T / gaps).T
    count, samples = normals.shape
    below = stats.chi2.cdf((normals**2).sum(dim=1).numpy(), samples)
    p_values = [*(2 * np.minimum(below, 1 - below)), *(stats.kstest(row, "norm").pvalue for row in normals.numpy())]
    for scores in (normals, (normals**2 - 1) / 2**0.5):
        products = scores @ scores.T / samples**0.5
        off_diagonal = sum(float(products[i, j]) ** 2 for i, j in itertools.combinations(range(count), 2))
        p_values.append(stats.chi2.sf(off_diagonal, count * (count - 1) / 2) if count > 1 else 1.0)
    return min(1.0, min(p_values) * len(p_values))


def values_of(kind=BrownianPath, times=DYADIC, seed=1, shape=(SAMPLES,), **options):
    """Values at the times, asked for in a scrambled order."""
    path = kind(0.0, 1.0, shape=shape, seed=seed, **options)
    order = np.random.default_rng(3).permutation(len(times)).tolist()
    values = {i: path.value(times[i]).clone() for i in order}
    return torch.stack([values[i] for i in range(len(times))])


@pytest.mark.parametrize("grids", [(50, 100, 1000, 10_000), (1,), (10,), (3, 21)])
@pytest.mark.parametrize("times", [DYADIC, DECIMAL, OFF_TREE], ids=["dyadic", "decimal", "off the tree"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_values_have_the_law_of_brownian_motion(times, grids, dtype):
    values = values_of(times=times, grids=grids, dtype=dtype)
    assert probability_of_brownian(values, times) > FALSE_ALARM


@pytest.mark.parametrize("times", [DYADIC, OFF_TREE], ids=["dyadic", "off the tree"])
def test_with_a_seed_per_sample_they_have_it_too(times):
    values = values_of(times=times, shape=(2000,), seed=tuple(range(2000)))
    assert probability_of_brownian(values, times) > FALSE_ALARM


def test_neighbouring_leaves_of_the_tree_have_it_too():
    fine = 1000 * 2**-20
    times = [0.3 - fine, 0.3, 0.3 + fine, 0.5 - 3 * fine, 0.5 - fine, 0.5]
    assert probability_of_brownian(values_of(times=times), times) > FALSE_ALARM


class TooWide(BrownianPath):
    """The bridge's variance is 20 % too large."""

    def _normal(self, stage, point):
        return 1.2**0.5 * super()._normal(stage, point)


class WithoutNoise(BrownianPath):
    """Middles are interpolated and not drawn."""

    def _normal(self, stage, point):
        return torch.zeros_like(super()._normal(stage, point))


class SameAtTwoLevels(BrownianPath):
    """The quarter points take the normal of the middle."""

    def _normal(self, stage, point):
        return super()._normal(0, 1) if stage == 1 else super()._normal(stage, point)


class SameInTwoHalves(BrownianPath):
    """Both quarter points take one normal."""

    def _normal(self, stage, point):
        return super()._normal(stage, 1 if stage == 1 else point)


class SignOfTheMiddle(BrownianPath):
    """The quarter points take the middle's normal up to a sign of their own: uncorrelated but dependent."""

    def _normal(self, stage, point):
        own = super()._normal(stage, point)
        return own.sign() * super()._normal(0, 1).abs() if stage == 1 else own


@pytest.mark.parametrize("wrong", [TooWide, WithoutNoise, SameAtTwoLevels, SameInTwoHalves, SignOfTheMiddle])
def test_a_wrong_bridge_is_caught(wrong):
    assert probability_of_brownian(values_of(wrong, grids=(1,)), DYADIC) < CAUGHT
    assert probability_of_brownian(values_of(grids=(1,)), DYADIC) > FALSE_ALARM


def test_a_bridge_whose_mean_ignores_unequal_halves_is_caught(monkeypatch):
    lerp = torch.lerp
    monkeypatch.setattr(torch, "lerp", lambda a, b, _weight: lerp(a, b, 0.5))
    times = [1 / 3, 2 / 3, 1.0]
    assert probability_of_brownian(values_of(times=times, grids=(3,)), times) < CAUGHT


@pytest.mark.parametrize("factor", [0.95, 1.05])
def test_an_end_of_the_wrong_variance_is_caught(factor):
    values = values_of(times=[1.0]) * factor
    assert probability_of_brownian(values, [1.0]) < CAUGHT


def test_a_wrong_covariance_is_caught_even_if_every_variance_is_right():
    """The same normal for all times, scaled by the root of each."""
    end = values_of(times=[1.0])
    values = torch.cat([np.sqrt(t) * end for t in DYADIC])
    assert probability_of_brownian(values, DYADIC) < CAUGHT


# Independence of the streams; each correlation lies beyond 5 standard deviations with probability 6e-7


def correlations(a, b):
    """Correlations of the rows of two arrays, times the root of the number of samples."""
    a, b = ((x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True) for x in (a.double(), b.double()))
    return (a @ b.T / a.shape[1] ** 0.5).abs()


@pytest.mark.parametrize("other", [2, 1 + 2**32, 1 + 2**33, 2**40, 0])
def test_paths_of_different_seeds_are_independent(other):
    assert correlations(values_of(seed=1), values_of(seed=other)).max() < 5


def test_one_seed_is_not_independent_of_itself_which_the_test_would_see():
    assert correlations(values_of(seed=1), values_of(seed=1)).max() > 100


def on_grid(times, seed=1, shape=(SAMPLES,)):
    source = IndependentIncrements(np.asarray(times), shape, torch.float64, torch.device("cpu"), seed)
    return torch.stack([source.increment(n) for n in range(len(times) - 1)])


def test_the_noise_of_one_grid_is_independent_of_the_path_of_its_seed():
    assert correlations(on_grid([0.0, *DYADIC]), values_of(seed=1)).max() < 5


def test_coins_are_independent_of_the_noise_of_their_seed():
    coins = randomness.host_generator(1, randomness.COINS, 0).random((3, SAMPLES))
    offsets = randomness.host_generator(1, randomness.OFFSETS).random((1, SAMPLES))
    uniforms = torch.tensor(np.concatenate([coins, offsets]))
    assert correlations(uniforms, on_grid([0.0, *DYADIC])).max() < 5
    assert correlations(uniforms, values_of(seed=1)).max() < 5


@pytest.mark.parametrize(
    "times",
    [np.linspace(0, 1, 9), np.linspace(0, 1, 9) ** 2, np.array([0, 1e-6, 0.3, 0.31, 5.0])],
    ids=["equal", "growing", "wild"],
)
def test_increments_on_one_grid_have_the_law_of_brownian_motion(times):
    values = on_grid(times).cumsum(0)
    assert probability_of_brownian(values, times[1:]) > FALSE_ALARM
    assert probability_of_brownian(values * 1.05, times[1:]) < CAUGHT


def test_increments_on_one_grid_run_backwards_with_the_same_variance():
    times = 1.0 - np.linspace(0, 1, 9) ** 2
    assert probability_of_brownian(on_grid(times).cumsum(0), 1.0 - times[1:]) > FALSE_ALARM


def test_increments_on_one_grid_with_a_seed_per_sample_have_it_too():
    times = np.linspace(0, 1, 6) ** 2
    values = on_grid(times, seed=tuple(range(3000)), shape=(3000,)).cumsum(0)
    assert probability_of_brownian(values, times[1:]) > FALSE_ALARM
