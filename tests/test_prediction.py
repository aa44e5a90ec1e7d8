"""What theory makes of a problem before it is searched: the pilot's constants against their closed forms."""

import json
import math

import numpy as np
import pytest
import torch

import mlsde
from mlsde import study, theory
from mlsde.problems import analytic, linear
from mlsde.problems.ladder import LadderProblem
from mlsde.study import prediction
from mlsde.study.methods import Candidate
from mlsde.study.trials import Trials

F64 = torch.float64
PAPER = study.multilevel("independent", "impulse")


def batch_of(problem, samples=4, seed=0):
    return Trials(problem, 3.0, 1, samples, seed, "sample", 512).batches[0]


def affine(matrix):
    a = torch.as_tensor(matrix, dtype=F64)
    return lambda t, y: y @ a.to(y).T


def problem_of(levels, d=1, *, span=(0.0, 1.0), reference=None, **equation):
    drift = mlsde.DriftHierarchy(levels, [8.0**k for k in range(len(levels))])
    return LadderProblem("made up", mlsde.SDE(drift, **equation), torch.ones(1, d, dtype=F64), span, reference)


def growth(problem, steps, samples=4):
    batch = batch_of(problem, samples)
    return prediction.sensitivity(problem.sde, batch.y0, problem.t_span, steps, batch), batch


# sensitivity: how an error grows from the end of each step to the end of the run


@pytest.mark.parametrize("equation", [{}, {"diffusion": 0.7}], ids=["ODE", "additive noise"])
@pytest.mark.parametrize("span", [(0.0, 2.0), (2.0, 0.0)])
def test_in_one_dimension_an_error_grows_by_1_plus_h_a_at_every_step_still_to_come(equation, span):
    steps = 10
    found, _ = growth(problem_of([affine([[-1.5]])], span=span, **equation), steps)
    h = (span[1] - span[0]) / steps
    expected = [(1 - 1.5 * h) ** (2 * (steps - 1 - n)) for n in range(steps)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert found[-1] == 1.0


def test_with_a_diagonal_matrix_it_is_the_mean_over_the_components_whatever_the_signs():
    rates, steps = np.array([-3.0, 0.0, 2.0]), 5
    found, _ = growth(problem_of([affine(np.diag(rates))], 3), steps)
    expected = [((1 + rates / steps) ** (2 * (steps - 1 - n))).mean() for n in range(steps)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def jacobian_norms(a, steps, h):
    """``|J|_F^2 / d`` of the rest of the run, and the variance of ``|J^T v|^2 / d`` over random signs ``v``."""
    step, d = np.eye(len(a)) + h * a, len(a)
    rest = [np.linalg.matrix_power(step, steps - 1 - n) for n in range(steps)]
    grams = [j @ j.T for j in rest]
    spread = [2 * ((g - np.diag(np.diag(g))) ** 2).sum() / d**2 for g in grams]
    return np.array([np.trace(g) / d for g in grams]), np.array(spread), rest


@pytest.mark.parametrize("equation", [{}, {"diffusion": 0.5}], ids=["ODE", "additive noise"])
def test_of_a_coupled_system_it_is_the_frobenius_norm_in_the_mean_over_signs(equation):
    """Ten values within 5 deviations each: a false alarm in 100,000. The spectral norm is none of them."""
    a = np.array([[-0.5, 4.0, 2.0], [-4.0, -0.5, 0.0], [1.0, 0.0, -2.0]])
    steps, samples = 11, 4000
    found, _ = growth(problem_of([affine(a)], 3, **equation), steps, samples)
    expected, variances, rest = jacobian_norms(a, steps, 1 / steps)
    bound = 5 * np.sqrt(variances / samples) + 1e-12
    assert (np.abs(found - expected) < bound).all()
    spectral = np.array([np.linalg.norm(j, 2) ** 2 for j in rest])
    assert (np.abs(found - spectral)[:-1] > bound[:-1]).all()


def test_noise_that_multiplies_the_state_is_part_of_the_growth():
    """``prod (1 + h a + b dW_m)`` over the steps still to come, path by path."""
    levels, b, steps = [affine([[0.5]])], 0.8, 8
    problem = problem_of(levels, diffusion=lambda t, y: b * y, noise="diagonal")
    found, batch = growth(problem, steps, samples=6)
    times, noise = np.linspace(0.0, 1.0, steps + 1), batch.noise(steps)
    factors = torch.stack([1 + 0.5 / steps + b * noise(times[n], times[n + 1]) for n in range(steps)])
    expected = [float(factors[n + 1 :].prod(0).square().mean()) for n in range(steps)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_of_several_levels_the_top_one_is_differentiated():
    found, _ = growth(problem_of([affine([[5.0]]), affine([[-1.0]])]), 4)
    assert found[0] == pytest.approx(0.75**6)


# biases of the levels and the error of the step


def gaps_of(levels):
    """``E|Y^k - Y^K|^2`` of biases ``2^-k`` that do not know of each other."""
    squares = 4.0 ** -np.arange(1.0, levels + 1)
    return np.append(squares[:-1] + squares[-1], 0.0), np.sqrt(squares)


def test_of_four_levels_that_halve_their_biases_all_are_recovered():
    gaps, biases = gaps_of(4)
    np.testing.assert_allclose(prediction._biases(gaps, limit=True), biases, rtol=1e-12)


@pytest.mark.parametrize("levels", [5, 6, 9, 12])
def test_of_more_levels_they_are_recovered_within_two_percent(levels):
    gaps, biases = gaps_of(levels)
    np.testing.assert_allclose(prediction._biases(gaps, limit=True), biases, rtol=0.02)


def test_where_the_top_level_is_the_limit_its_bias_is_nothing():
    gaps, _ = gaps_of(6)
    np.testing.assert_allclose(prediction._biases(gaps, limit=False), np.sqrt(gaps))
    np.testing.assert_allclose(prediction._biases([0.25, 0.04, 0.0], limit=True), [0.5, 0.2, 0.0])


def test_a_level_that_happens_to_be_nearer_than_the_top_one_keeps_the_top_ones_bias():
    """Of five levels the last but one: its distance from the top one is less than the top one's bias would be."""
    top = 0.2 / 17
    found = prediction._biases([1.0, 0.25, 0.2, 0.001, 0.0], limit=True)
    np.testing.assert_allclose(found**2, [1 - top, 0.25 - top, 0.2 - top, top, top], rtol=1e-12)


def shifted(shifts, rate=-1.0):
    return [lambda t, y, shift=shift: rate * y + shift for shift in shifts]


def test_biases_and_step_error_of_a_linear_ode_are_the_closed_forms():
    """``y' = -y + shift``: a shift ends up as ``shift (1 - (1-h)^n)``, the step as ``(1-h)^n - exp(-1)``."""
    shifts, steps = [0.5, 0.25, 0.0], 40
    problem = problem_of(shifted(shifts), reference=lambda y0, path: y0 * math.exp(-1.0))
    model = prediction.error_model(Trials(problem, 3.0, 2, 3, 0, "sample", 512), study.plain(), steps)
    kept = (1 - 1 / steps) ** steps
    np.testing.assert_allclose(model.biases, np.array(shifts) * (1 - kept), rtol=1e-10)
    assert model.step_error == pytest.approx(abs(kept - math.exp(-1.0)) * steps)
    assert model.level_errors.tolist() == [0.0, 0.0, 0.0]
    assert model.costs.tolist() == [1.0, 8.0, 64.0]
    assert (model.strong_order, model.order) == (1.0, 1.0)


def test_the_bias_of_the_top_level_is_no_part_of_the_step_error():
    """Four levels that are shifted by ``2^-k``, each along an axis of its own, and a limit that moves along a fifth."""
    steps, axes = 40, torch.eye(5, dtype=F64)
    levels = [lambda t, y, k=k: -y + 2.0**-k * axes[k] for k in range(1, 5)]
    drift = mlsde.DriftHierarchy(levels, [8.0**k for k in range(4)])
    problem = LadderProblem(
        "on axes", mlsde.SDE(drift), axes[:1], reference=lambda y0, path: y0 * math.exp(-1.0), gamma=3.0
    )
    model = prediction.error_model(Trials(problem, 3.0, 2, 3, 0, "sample", 512), study.plain(), steps)
    kept = (1 - 1 / steps) ** steps
    np.testing.assert_allclose(model.biases, 2.0 ** -np.arange(1.0, 5) * (1 - kept), rtol=1e-10)
    assert model.step_error == pytest.approx(abs(kept - math.exp(-1.0)) * steps)


def test_the_step_error_of_multiplicative_noise_is_scaled_by_the_root_of_the_steps():
    problem = analytic.geometric_brownian_motion(0.5, 0.5).ladder(3.0, 3, size=0.0)
    trials = Trials(problem, 3.0, 1, 50, 0, "sample", 512)
    run = trials.batches[0].run(Candidate(study.plain(), 3, 64, 0.0, 0.0), 3.0, "sample").y1
    model = prediction.error_model(trials, study.plain(), 64)
    assert model.strong_order == 0.5
    assert model.step_error == pytest.approx(math.sqrt(float(trials.batches[0].errors(run).mean())) * 8)


def test_without_a_reference_the_top_level_is_measured_against_its_own_fine_run():
    problem = problem_of(shifted([0.5, 0.0]))
    model = prediction.error_model(Trials(problem, 3.0, 2, 3, 0, "sample", 4000), study.plain(), 40)
    assert model.biases[-1] == 0.0
    assert model.step_error == pytest.approx(abs((1 - 1 / 40) ** 40 - (1 - 1 / 4000 + 0.5 / 4000**2) ** 4000) * 40)


# what the coins of each level add


@pytest.mark.parametrize("sigma", [0.0, 0.6])
def test_by_formula_they_add_up_to_the_exact_moments_of_a_linear_ladder(sigma):
    """Differences that do not depend on the state: to first order is then all there is, whatever the noise."""
    rate, means, p, steps = 1.5, [0.0, 0.8, 1.0], [1.0, 0.4, 0.1], 32
    moments = linear.ornstein_uhlenbeck([rate] * 3, sigma, means)
    exact = linear.multilevel_moments(moments, torch.ones(1, dtype=F64), np.linspace(0, 1, steps + 1), p)
    problem = problem_of(moments.drift().levels, diffusion=sigma or None)
    a = prediction._by_formula(batch_of(problem), steps)
    firings = np.array(p) * steps
    assert a @ (1 / firings - 1 / steps) == pytest.approx(float(exact.squared_error[-1]), rel=1e-10)
    model = theory.ErrorModel(np.ones(3), np.zeros(3), 0.0, a)
    assert model.multilevel(3, steps, p)[1] == pytest.approx(math.sqrt(float(exact.squared_error[-1])), rel=1e-10)


@pytest.mark.parametrize("span", [(0.0, 1.5), (1.5, 0.0)])
def test_by_formula_each_step_counts_at_its_own_time_whichever_way_time_runs(span):
    """Against ``theory.predicted_mse``, with differences ``cos t`` and growth that change along the run."""
    levels, steps = [lambda t, y: -y, lambda t, y: -y + torch.cos(t)], 24
    a = prediction._by_formula(batch_of(problem_of(levels, span=span)), steps)
    times = np.linspace(*span, steps + 1)
    h = (span[1] - span[0]) / steps
    growths = (1 - h) ** (2 * np.arange(steps)[::-1])
    variances = np.stack([np.zeros(steps), np.cos(times[:-1]) ** 2], axis=1)
    expected = theory.predicted_mse(times, variances, [1.0, 0.25], growths)
    assert a[1] * (1 / (0.25 * steps) - 1 / steps) == pytest.approx(expected, rel=1e-6)


def thinned(problem, method, k, steps=64, samples=3000):
    batch = batch_of(problem, samples)
    top = batch.run(Candidate(study.plain(), len(problem.sde.drift), steps, 0.0, 0.0), 3.0, "sample").y1
    return prediction._by_thinning(batch, method, top, steps, k)


@pytest.mark.parametrize("share", [1 / 8, 1 / 2])
def test_thinning_agrees_with_the_formula_for_independent_coins_however_thin(share, monkeypatch):
    """The squared error of a sum of 64 coins has a deviation of at most 1.6 times its mean, so that 5 deviations of a
    mean over 3000 are 0.15 of it: a false alarm in 1.7 million for each of two. A rule of order 2 is far off.
    """
    monkeypatch.setattr(prediction, "_THINNED", share)
    problem = problem_of(shifted([0.0, 0.8, 1.0]), diffusion=0.6)
    formula = prediction._by_formula(batch_of(problem), 64)
    wrong = study.multilevel("independent", "impulse", order=2.0)
    for k in (1, 2):
        assert thinned(problem, PAPER, k) == pytest.approx(formula[k], rel=0.15)
        assert thinned(problem, wrong, k) != pytest.approx(formula[k], rel=0.5)


@pytest.mark.parametrize("coins", ["systematic", "periodic"])
def test_thinning_finds_nothing_where_a_rule_makes_no_error(coins):
    """A difference that is constant is held without error. Without growth, eighths of it sum up to it too."""
    flat = problem_of(shifted([0.0, 0.8], rate=0.0))
    assert thinned(flat, study.multilevel(coins, "impulse"), 1, samples=5) == pytest.approx(0.0, abs=1e-20)
    assert thinned(flat, PAPER, 1, samples=5) > 0.01
    for rate in (0.0, -2.0):
        constant = problem_of(shifted([0.0, 0.8], rate=rate))
        assert thinned(constant, study.multilevel(coins, "hold"), 1, samples=5) == pytest.approx(0.0, abs=1e-20)


@pytest.mark.parametrize(
    ("method", "used"), [(PAPER, "formula"), (study.multilevel("systematic", "hold"), "thinning"), (study.plain(), "")]
)
def test_the_formula_serves_the_papers_rule_and_thinning_the_others(method, used, monkeypatch):
    monkeypatch.setattr(prediction, "_by_formula", lambda batch, steps: np.array([5.0, 5.0]))
    monkeypatch.setattr(prediction, "_by_thinning", lambda batch, method, top, steps, k: 7.0 + k)
    trials = Trials(problem_of(shifted([0.5, 0.0])), 3.0, 1, 2, 0, "sample", 64)
    model = prediction.error_model(trials, method, 8)
    assert model.level_errors.tolist() == {"formula": [5.0, 5.0], "thinning": [7.0, 8.0], "": [0.0, 0.0]}[used]
    assert model.order == method.order


# the frontier, JSON, and what can be foreseen


def model_of(method):
    trials = Trials(analytic.linear_ode().ladder(3.0, 4, spread=0.5), 3.0, 1, 4, 0, "sample", 64)
    return prediction.error_model(trials, method, 16)


def test_the_plain_frontier_is_the_cheapest_of_all_levels_and_steps():
    model, steps, errors = model_of(study.plain()), [1, 4, 16, 64, 256], [1.0, 0.5, 0.3, 1e-9]
    runs = [model.plain(k, n) for k in range(1, 5) for n in steps]
    expected = [min((cost for cost, error in runs if error <= target), default=math.inf) for target in errors]
    assert prediction.frontier(model, study.plain(), errors, steps, 3.0) == pytest.approx(expected)
    assert expected[-1] == math.inf


@pytest.mark.parametrize("method", [PAPER, study.multilevel("systematic", "impulse")])
def test_the_frontier_of_coins_is_never_dearer_than_the_plain_one(method):
    model, steps, errors = model_of(method), [4, 16, 64, 256, 1024], [1.0, 0.5, 0.25, 0.15]
    ours = prediction.frontier(model, method, errors, steps, 3.0)
    plain = prediction.frontier(model, study.plain(), errors, steps, 3.0)
    assert all(a <= b for a, b in zip(ours, plain, strict=True))
    assert ours[-1] < plain[-1]


@pytest.mark.parametrize("method", [study.plain(), PAPER, study.multilevel("systematic", "hold")])
def test_an_error_model_survives_json_to_the_last_bit(method):
    model = model_of(method)
    again = prediction.from_dict(json.loads(json.dumps(prediction.as_dict(model), allow_nan=False)))
    for name in ("costs", "biases", "level_errors"):
        np.testing.assert_array_equal(getattr(again, name), getattr(model, name))
    for name in ("step_error", "strong_order", "order"):
        assert getattr(again, name) == getattr(model, name)


def test_theory_makes_statements_of_euler_and_of_coins_that_are_tossed():
    rules = [("independent", "impulse"), ("nested", "control"), ("systematic", "extrapolate"), ("systematic", "hold")]
    assert prediction.predictable(study.plain())
    assert all(prediction.predictable(study.multilevel(*rule)) for rule in rules)
    silent = [study.plain("heun"), study.stitching(), study.multilevel("systematic", "hold", stepper="heun")]
    assert not any(map(prediction.predictable, [*silent, study.multilevel("periodic", "hold")]))
