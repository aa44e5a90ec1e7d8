"""Gaussian mixtures as ladders: scores against automatic differentiation, one component against its closed form."""

import math
import sys

import numpy as np
import pytest
import torch
from increments import Given

import mlsde
from mlsde.diffusion.variance_preserving import VariancePreserving
from mlsde.problems.mixtures import gaussian_mixture
from mlsde.problems.science import level_errors

SMALL = gaussian_mixture((3, 9), 40, 2, families=(3, 9))


def normal(*shape, seed=0):
    return torch.as_tensor(np.random.default_rng(seed).standard_normal(shape))


def log_density(mixture, t, y):
    """``log p_t(y)`` of one state up to a constant, from the components' own normal densities."""
    alpha, sigma = mixture.process.alpha(t), mixture.process.sigma(t)
    law = torch.distributions.Normal(alpha * mixture.centres, (alpha**2 * mixture.variances + sigma**2).sqrt())
    return torch.logsumexp(mixture.log_weights + law.log_prob(y).sum(1), dim=0)


@pytest.mark.parametrize("t", [1e-3, 0.1, 0.6, 1.0])
def test_every_level_predicts_the_noise_of_its_own_density(t):
    """``-sigma grad log p_t``, the gradient by automatic differentiation."""
    for mixture in SMALL.sde.drift.levels:
        for y in normal(4, 2):
            score = torch.autograd.functional.jacobian(lambda y, m=mixture: log_density(m, t, y), y)
            found = mixture(torch.tensor(t, dtype=torch.float64), y[None])[0]
            torch.testing.assert_close(found, -mixture.process.sigma(t) * score, rtol=1e-9, atol=1e-9)


def test_prices_are_numbers_of_components():
    assert SMALL.sde.drift.costs == (3.0, 9.0, 40.0)
    assert [len(mixture.centres) for mixture in SMALL.sde.drift.levels] == [3, 9, 40]
    assert SMALL.sde.drift.names == ("3 clusters", "9 clusters", "all 40 components")
    assert gaussian_mixture().sde.drift.costs == (8.0, 64.0, 512.0)


def test_clusters_keep_the_mean_and_the_variance_of_the_data_along_each_axis():
    moments = []
    for mixture in SMALL.sde.drift.levels:
        weights = mixture.log_weights.exp()
        mean = weights @ mixture.centres
        moments.append(torch.stack([mean, weights @ mixture.centres**2 + mixture.variances]))
    torch.testing.assert_close(moments[0], moments[2])
    torch.testing.assert_close(moments[1], moments[2])
    assert float(moments[2][1].mean()) == pytest.approx(1.0)  # scaled to it


def test_levels_come_closer_to_the_top_one_and_all_agree_at_high_noise():
    problem = gaussian_mixture()
    errors = level_errors(problem)
    assert errors[0] > 1.5 * errors[1] > 0.1
    assert errors[2] == 0.0
    y, t = problem.initial(20), torch.tensor(1.0, dtype=torch.float64)
    values = [level(t, y) for level in problem.sde.drift.levels]
    assert (values[0] - values[2]).square().sum(1).mean().sqrt() < 0.1 * errors[1]


def test_families_are_what_clusters_can_find():
    """Of a cloud without structure 64 clusters know little more than 8."""
    tree, cloud = (level_errors(gaussian_mixture(families=families)) for families in ((8, 64), ()))
    assert tree[1] / tree[0] < 0.7
    assert cloud[1] / cloud[0] > 0.85


def test_leaves_lie_about_their_parents_by_the_decay():
    """Mean square of a leaf about its parent over that of all centres, which varies by 16 % from seed to seed."""
    centres = gaussian_mixture((), 4096, 4, families=(16, 512), decay=0.5, width=1e-3).sde.drift.levels[0].centres
    families = centres.view(512, 8, 4)
    within = float((families - families.mean(1, keepdim=True)).square().mean()) * 8 / 7
    share = within / float(centres.square().mean())
    assert share == pytest.approx(0.0625 / (1 + 0.25 + 0.0625), rel=0.5)
    assert share != pytest.approx(0.25 / (1 + 0.5 + 0.25), rel=0.5)


# One component: e = y - alpha c follows a linear equation, whose map from 1 to t is
# k(t) = (S(t) / S(1))^((1 + churn^2) / 2) (alpha(1) / alpha(t))^(churn^2), S = alpha^2 v + sigma^2,
# because (log S)' = beta / S - beta; and as S is the variance of the process itself, that of a run which starts with
# variance V is S(t) + k(t)^2 (V - S(1)).


def one_component(churn):
    problem = gaussian_mixture((), 1, 2, families=(), width=0.7, churn=churn, end=0.01)
    mixture = problem.sde.drift.levels[0]
    process = mixture.process

    def spread(t):
        return process.alpha(t) ** 2 * mixture.variances + process.sigma(t) ** 2

    def factor(t):
        tail = (process.alpha(1.0) / process.alpha(t)) ** (churn**2)
        return (spread(t) / spread(1.0)) ** (0.5 * (1 + churn**2)) * tail

    return problem, mixture, spread, factor


def final_states(problem, y0, steps, brownian, method):
    times = np.linspace(1.0, math.sqrt(problem.t_span[1]), steps + 1) ** 2
    return mlsde.solve(problem.sde, y0, times=times, brownian=brownian, method=method).y1, times


@pytest.mark.parametrize("method", ["euler", "exponential"])
@pytest.mark.parametrize("churn", [0.0, 0.5, 1.0])
def test_runs_of_one_component_without_noise_converge_to_the_known_linear_map(churn, method):
    problem, mixture, _, factor = one_component(churn)
    y0, end = problem.initial(3), problem.t_span[1]
    mean = [mixture.process.alpha(t) * mixture.centres[0] for t in (1.0, end)]
    expected = mean[1] + factor(end) * (y0 - mean[0])
    still = None if churn == 0 else lambda ta, tb: torch.zeros_like(y0)
    errors = [float((final_states(problem, y0, n, still, method)[0] - expected).abs().max()) for n in (500, 1000)]
    assert errors[1] < 0.02
    assert errors[0] / errors[1] == pytest.approx(2.0, abs=0.2)
    assert (expected - y0).abs().max() > 0.2  # which a run that does nothing would miss


def variance_of_runs(problem, steps, method):
    """Variance of the linear scheme from a unit variance: squared responses to the start and to each increment."""
    d = len(problem.initial(1)[0])
    states, times = torch.zeros(steps + 2, d, dtype=torch.float64), np.linspace(1.0, 0.1, steps + 1) ** 2
    states[1] = 1.0
    rows = torch.zeros(steps, steps + 2, d, dtype=torch.float64)
    for n, h in enumerate(np.abs(np.diff(times))):
        rows[n, n + 2] = math.sqrt(h)
    done = mlsde.solve(problem.sde, states, times=times, brownian=Given(times, rows), method=method).y1
    return (done[1:] - done[0]).square().sum(0)


@pytest.mark.parametrize("method", ["euler", "exponential"])
@pytest.mark.parametrize("churn", [0.5, 1.0])
def test_the_variance_of_runs_of_one_component_converges_to_the_known_one(churn, method):
    """Exactly the scheme's variance, as it is linear in its increments: no Monte Carlo."""
    problem, _, spread, factor = one_component(churn)
    expected = spread(0.01) + factor(0.01) ** 2 * (1.0 - spread(1.0))
    coarse, fine = (float((variance_of_runs(problem, n, method) - expected).abs().max()) for n in (400, 800))
    assert fine < 0.01
    assert coarse / fine == pytest.approx(2.0, abs=0.2)
    assert float((factor(0.01) ** 2 - expected).abs().max()) > 0.1  # which is the variance without the noise


def test_without_churn_it_is_an_ode_and_with_churn_an_sde_of_additive_noise():
    assert SMALL.sde.is_ode
    noisy = gaussian_mixture((3,), 40, 2, families=(), churn=1.0)
    assert not noisy.sde.is_ode
    assert noisy.sde.additive
    assert (SMALL.t_span, SMALL.reference, SMALL.gamma) == ((1.0, 1e-3), None, None)


def test_a_seed_makes_the_same_problem_again_and_another_one_another():
    y, t = SMALL.initial(3), torch.tensor(0.1, dtype=torch.float64)
    values = [
        torch.stack([m(t, y) for m in gaussian_mixture((3, 9), 40, 2, families=(3, 9), seed=seed).sde.drift.levels])
        for seed in (0, 0, 1)
    ]
    assert torch.equal(values[0], values[1])
    assert not torch.isclose(values[0], values[2]).any()
    assert float(SMALL.initial(10_000).square().mean()) == pytest.approx(1.0, rel=0.04)


def test_a_multilevel_run_of_ddim_samples_the_mixture():
    problem = gaussian_mixture()
    rule = mlsde.Multilevel(mlsde.PowerLaw(3.4, scale=4.0), correction="hold")
    y0 = problem.initial(16)
    full, cheap = (
        mlsde.solve(problem.sde, y0, problem.t_span, steps=100, method="exponential", multilevel=multilevel)
        for multilevel in (None, rule)
    )
    assert cheap.stats.cost < 0.75 * full.stats.cost
    alone = mlsde.solve(problem.sde, y0, problem.t_span, steps=100, method="exponential", level=1).y1
    missed = [float((y - full.y1).square().mean().sqrt()) for y in (cheap.y1, alone)]
    assert 0.0 < 2.0 * missed[0] < missed[1]


def test_another_process_is_taken():
    mixture = gaussian_mixture((), 2, 1, families=(), process=VariancePreserving(beta_max=10.0)).sde.drift.levels[0]
    assert mixture.process.beta_max == 10.0


CASES = {
    "components": (lambda: gaussian_mixture((), 0), ValueError, "components must be a positive integer"),
    "clusters": (lambda: gaussian_mixture((8, 4)), ValueError, "clusters must increase and stay below the 512"),
    "too many": (lambda: gaussian_mixture((512,)), ValueError, "clusters must increase and stay below the 512"),
    "families": (lambda: gaussian_mixture(families=(600,)), ValueError, "families must increase and stay below"),
    "dimension": (lambda: gaussian_mixture(dimension=0), ValueError, "dimension must be a positive integer"),
    "decay": (lambda: gaussian_mixture(decay=0.0), ValueError, "decay must be above zero"),
    "width": (lambda: gaussian_mixture(width=0.0), ValueError, "width must be above zero"),
    "churn": (lambda: gaussian_mixture(churn=-1.0), ValueError, "churn must not be negative"),
    "end": (lambda: gaussian_mixture(end=0.0), ValueError, "end must lie between 0 and 1, got 0.0"),
    "late": (lambda: gaussian_mixture(end=1.0), ValueError, "end must lie between 0 and 1, got 1.0"),
    "seed": (lambda: gaussian_mixture(seed=-1), ValueError, "seed must not be negative"),
}


@pytest.mark.parametrize(("call", "error", "message"), CASES.values(), ids=CASES.keys())
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_without_scipy_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.cluster.vq", None)
    with pytest.raises(ModuleNotFoundError, match="pip install 'mlsde\\[demo\\]'"):
        gaussian_mixture()
    assert gaussian_mixture(()).sde.drift.costs == (512.0,)
