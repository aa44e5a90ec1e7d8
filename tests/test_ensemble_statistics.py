"""Statistics of ensembles: against the states themselves, against exact laws, and errors against redrawing."""

import math
from pathlib import Path

import ensemble_toys as toys
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mlsde
from mlsde import SDE, DriftHierarchy, Multilevel, Statistics, ensemble
from mlsde.ensembles.quantiles import Quantiles, Summary

LEVELS = (0.05, 0.5, 0.9)


pytestmark = pytest.mark.usefixtures("one_thread")


def both(**options):
    """The same ensemble by its states and by its statistics."""
    kept = Statistics(quantiles=LEVELS, functionals={"sum": lambda ys: ys[-1].sum(1), "end": lambda ys: ys[-1]})
    return toys.run(**options), toys.run(keep=kept, **options).statistics


def test_statistics_are_those_of_the_states():
    states, found = both(save_at=[0.5, 1.0])
    ys = states.ys.double()
    assert found.count == toys.N
    torch.testing.assert_close(found.mean, ys.mean(1))
    torch.testing.assert_close(found.variance, ys.var(1))
    # no more than a summary's points, so the quantiles are exact
    expected = np.quantile(ys.numpy(), LEVELS, axis=1, method="hazen")
    np.testing.assert_allclose(found.quantiles, expected, rtol=1e-12)
    assert found.rank_error == 0.0
    torch.testing.assert_close(found.functionals["sum"][0], ys[-1].sum(1).mean())
    torch.testing.assert_close(found.functionals["end"][0], ys[-1].mean(0))
    assert states.summary(Statistics(quantiles=LEVELS)).quantiles.equal(found.quantiles)


def test_errors_of_independent_trajectories_are_the_textbooks():
    apart = Multilevel(mlsde.Constant([1.0, 0.3]), share="sample")
    states, found = both(multilevel=apart)
    ys = states.ys[0].double()
    torch.testing.assert_close(found.mean_error[0], ys.std(0) / math.sqrt(toys.N))
    torch.testing.assert_close(found.functionals["sum"][1], ys.sum(1).std() / math.sqrt(toys.N))


def test_errors_under_shared_coins_are_those_of_the_chunks():
    states, found = both()
    means = torch.stack([part[0].double().mean(0) for part in states.chunks()])
    torch.testing.assert_close(found.mean_error[0], means.std(0) / math.sqrt(len(means)))


def pushed(seed, share):
    """A drift of 0 or 1 that a coin tosses at each step: with shared coins a chunk moves as one."""
    sde = SDE(DriftHierarchy([lambda t, y: 0 * y, lambda t, y: torch.ones_like(y)]), 0.3)
    coins = Multilevel(mlsde.Constant([1.0, 0.3]), "independent", "impulse", share)
    kept = Statistics(quantiles=LEVELS)
    options = {"steps": 10, "multilevel": coins, "chunk": 40, "seed": seed, "keep": kept}
    return ensemble(sde, torch.zeros(1, 1), 1600, (0, 1), **options).statistics


@pytest.fixture(scope="module")
def redrawn():
    return {share: [pushed(seed, share) for seed in range(40)] for share in ("batch", "sample")}


@pytest.mark.parametrize("share", ["batch", "sample"])
def test_errors_are_those_of_redrawing(share, redrawn):
    runs = redrawn[share]
    for what in ("mean", "variance", "quantiles"):
        values = np.array([getattr(run, what).flatten()[0] for run in runs])
        errors = "quantile_errors" if what == "quantiles" else f"{what}_error"
        claimed = np.array([getattr(run, errors).flatten()[0] for run in runs])
        assert 0.7 < np.median(claimed) / np.std(values, ddof=1) < 1.4, what


def test_the_textbooks_error_would_be_far_too_small_under_shared_coins(redrawn):
    runs = redrawn["batch"]
    textbook = np.median([float(run.variance) ** 0.5 / math.sqrt(run.count) for run in runs])
    assert textbook < 0.4 * np.std([float(run.mean) for run in runs], ddof=1)


def test_an_ornstein_uhlenbeck_process_has_its_exact_law():
    steps, rate, noise = 64, 1.0, 0.8
    found = ensemble(
        SDE(lambda t, y: -rate * y, noise), torch.full((1, 1), 2.0), 40_000, (0, 1), steps=steps, chunk=4000, seed=1,
        keep=Statistics(quantiles=LEVELS, functionals={"above 1": lambda ys: (ys[-1, :, 0] > 1).double()}),
    ).statistics  # fmt: skip
    factor = 1 - rate / steps  # of Euler's own recursion, so that no step error stands between
    mean = 2.0 * factor**steps
    variance = noise**2 / steps * (1 - factor ** (2 * steps)) / (1 - factor**2)
    normal = torch.distributions.Normal(mean, math.sqrt(variance))
    assert abs(float(found.mean) - mean) < 4 * float(found.mean_error)
    assert abs(float(found.variance) - variance) < 4 * float(found.variance_error)
    above, error = found.functionals["above 1"]
    assert abs(float(above) - (1 - float(normal.cdf(torch.tensor(1.0))))) < 4 * float(error)
    exact = normal.icdf(torch.tensor(LEVELS))
    slack = found.rank_error / normal.log_prob(exact).exp()
    assert ((found.quantiles.flatten() - exact).abs() < 4 * found.quantile_errors.flatten() + slack).all()
    assert float(found.mean_error) == pytest.approx(math.sqrt(variance / 40_000), rel=0.05)
    wrong = 2.0 * (1 - 0.95 * rate / steps) ** steps  # of a rate that is a twentieth less
    assert abs(float(found.mean) - wrong) > 4 * float(found.mean_error)


def test_one_chunk_of_shared_coins_has_no_error_to_tell():
    found = toys.run(chunk=toys.N, keep=Statistics()).statistics
    assert found.mean_error.isnan().all() and not found.mean.isnan().any()


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 300), min_size=1, max_size=30),
    points=st.sampled_from([10, 50, 100]),
    seed=st.integers(0, 1000),
)
def test_ranks_of_quantiles_are_within_their_bound(sizes, points, seed):
    rng = np.random.default_rng(seed)
    parts = [rng.normal(size=(size, 2)) * [1.0, 100.0] + rng.normal() for size in sizes]
    kept = Quantiles(points)
    for part in parts:
        kept.add(Summary.of(part, points))
    whole, total = np.concatenate(parts), kept.total()
    assert total.weight == len(whole)
    levels = np.array([0.1, 0.37, 0.5, 0.8])
    slack = total.rank_error(points) + 1.0 / min(points, len(whole))
    for column, found in enumerate(total.at(levels).T):
        below = (whole[:, column, None] <= found + 1e-12).mean(0)
        assert (np.abs(below - levels) <= slack + 1e-9).all()


def test_what_is_held_for_quantiles_grows_with_the_logarithm_of_the_chunks():
    kept = Quantiles(10)
    for number in range(1000):
        kept.add(Summary.of(np.full((50, 1), float(number)), 10))
    assert len(kept._held) == 10
    with pytest.raises(ValueError, match="no numbers"):
        Quantiles(10).total()


def test_ties_and_constants_have_quantiles_too():
    found = ensemble(
        SDE(lambda t, y: 0 * y), torch.ones(1, 2), 3000, (0, 1), steps=1, chunk=100, keep=Statistics(quantiles=LEVELS)
    ).statistics
    assert (found.quantiles == 1.0).all() and (found.quantile_errors == 0.0).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"quantiles": (0.0,)}, "quantiles must lie between 0 and 1"),
        ({"quantiles": ("a",)}, "quantiles must hold numbers"),
        ({"functionals": [abs]}, "functionals must be a dictionary"),
        ({"functionals": {"a": 3}}, r"functionals\['a'\] must be callable"),
        ({"points": 5}, "points must lie within 10"),
    ],
)
def test_bad_statistics_are_named(arguments, words):
    with pytest.raises((TypeError, ValueError), match=words):
        Statistics(**arguments)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda ys: 3.0, "must return a torch.Tensor, got float"),
        (lambda ys: ys.mean(), "expected one for each of 2 samples"),
        (lambda ys: ys[:, 0], "expected one for each of 2 samples"),
    ],
)
def test_a_functional_of_another_shape_is_named(function, words):
    with pytest.raises((TypeError, ValueError), match=words):  # before the first chunk
        toys.run(keep=Statistics(functionals={"mine": function}))


@pytest.mark.parametrize("share", ["batch", "sample"])
def test_a_last_chunk_of_one_trajectory_has_the_weight_of_one(share):
    apart = Multilevel(mlsde.Constant([1.0, 0.3]), share=share)
    kept = Statistics(quantiles=(0.5,))
    whole, more = (
        ensemble(
            toys.equation(), toys.start, n, toys.SPAN, steps=5, multilevel=apart, chunk=64, seed=1, keep=kept
        ).statistics
        for n in (2048, 2049)
    )
    for name in ("mean_error", "variance_error", "quantile_errors"):
        torch.testing.assert_close(getattr(more, name), getattr(whole, name), rtol=0.05, atol=0)


def test_states_are_not_there_where_statistics_were_kept():
    found = toys.run(keep=Statistics(quantiles=LEVELS))
    with pytest.raises(ValueError, match="kept statistics and no states"):
        _ = found.ys
    assert "0.05-quantile" in repr(found) and "mean" in repr(found)


def test_the_page_says_how_far_off_a_level_may_be():
    kept = Quantiles(10)
    for number in range(1000):
        kept.add(Summary.of(np.arange(11.0)[:, None] + number, 10))
    bound = kept.total().rank_error(1000)  # as many compactions whatever the points
    page = Path(__file__).parent.parent / "docs" / "ensembles.md"
    assert f"({bound:.4f} for a thousand chunks of more than 1000)" in page.read_text()
