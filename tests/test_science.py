"""Charges and learned forces: sums against sums written out, what grids and regressions conserve, measured gammas."""

import math

import numpy as np
import pytest
import torch

import mlsde
from mlsde.problems import science
from mlsde.problems.ladder import LadderProblem
from mlsde.problems.science import charges, grouped, learned_force, level_errors, price_exponent

ZERO = torch.zeros((), dtype=torch.float64)
CHARGES = charges(400, (2, 4), softening=0.3, trap=1.5)
FORCE = learned_force((16, 64), 3, waves=50)
FORCE_2D = learned_force((20,), 2, waves=50)
BOTH = pytest.mark.parametrize("problem", [CHARGES, FORCE], ids=lambda problem: problem.name)


def normal(*shape, seed=0):
    return torch.as_tensor(np.random.default_rng(seed).standard_normal(shape))


def written_out(level, y):
    """The drift of a trap and of charges at one state, one charge after another."""
    out = [-level.trap * float(x) for x in y]
    for place, charge in zip(level.places.tolist(), level.charges.tolist(), strict=True):
        apart = [float(x) - p for x, p in zip(y, place, strict=True)]
        cubed = (sum(a * a for a in apart) + level.softening**2) ** 1.5
        out = [o + charge * a / cubed for o, a in zip(out, apart, strict=True)]
    return torch.tensor(out, dtype=torch.float64)


def test_every_level_of_the_charges_is_the_sum_over_its_sources_and_the_top_one_over_all():
    y = normal(3, 3)
    for level in CHARGES.sde.drift.levels:
        torch.testing.assert_close(level(ZERO, y), torch.stack([written_out(level, state) for state in y]))
    assert len(CHARGES.sde.drift.levels[-1].charges) == 400
    assert (CHARGES.sde.drift.levels[-1].trap, CHARGES.sde.drift.levels[-1].softening) == (1.5, 0.3)


@pytest.mark.parametrize("assignment", science.ASSIGNMENTS)
@pytest.mark.parametrize("side", [1, 2, 5])
def test_grouping_conserves_the_charge_of_every_cell(side, assignment):
    places, values = 2.0 * torch.rand(300, 3, generator=torch.Generator().manual_seed(0)).double() - 1.0, normal(300)
    centres, totals = grouped(places, values, side, assignment)
    torch.testing.assert_close(totals.sum(), values.sum())
    cell = lambda x: ((x + 1.0) / 2.0 * side).floor()  # noqa: E731
    assert len(torch.unique(cell(centres), dim=0)) == len(centres) == len(torch.unique(cell(places), dim=0))
    for centre, total in zip(centres, totals, strict=True):
        inside = (cell(places) == cell(centre)).all(dim=1)
        torch.testing.assert_close(total, values[inside].sum())
        middle = (cell(centre) + 0.5) / side * 2.0 - 1.0 if assignment == "cell" else places[inside].mean(dim=0)
        torch.testing.assert_close(centre, middle)


def test_a_charge_on_the_far_side_of_the_box_belongs_to_the_last_cell():
    centres, totals = grouped(torch.ones(1, 3).double(), torch.ones(1).double(), 4)
    assert centres.tolist() == [[0.75, 0.75, 0.75]]
    assert totals.tolist() == [1.0]


def test_prices_of_the_charges_are_the_sources_that_are_summed():
    assert CHARGES.sde.drift.costs == (8.0, 64.0, 400.0)
    assert [len(level.charges) for level in CHARGES.sde.drift.levels] == [8, 64, 400]
    assert CHARGES.sde.drift.names == ("2^3 cells", "4^3 cells", "all 400 charges")
    filled = charges(100, (2, 8)).sde.drift  # most of the 512 cells hold none
    assert filled.costs[-1] == 100.0
    assert filled.costs[1] < 100.0


def test_charges_are_of_random_sign_in_the_box_and_of_the_asked_strength():
    top = charges(400, (2,), strength=3.0).sde.drift.levels[-1]
    torch.testing.assert_close(top.charges.abs(), torch.full((400,), 3.0 / 20.0, dtype=torch.float64))
    assert -60 < float(top.charges.sign().sum()) < 60
    assert 0.95 < float(top.places.abs().max()) <= 1.0


def test_learned_levels_reproduce_the_true_force_at_their_own_points_and_not_elsewhere():
    true = FORCE.reference.sde.drift.levels[-1]
    places = FORCE.sde.drift.levels[-1].places
    for level, count in zip(FORCE.sde.drift.levels, (16, 64), strict=True):
        assert torch.equal(level.places, places[:count])
        torch.testing.assert_close(level(ZERO, places[:count]), true(ZERO, places[:count]), rtol=0, atol=1e-6)
    coarse = FORCE.sde.drift.levels[0]
    assert (coarse(ZERO, places[16:]) - true(ZERO, places[16:])).abs().max() > 0.1


@pytest.mark.parametrize("smoothness", science.SMOOTHNESS)
def test_the_kernel_is_that_of_matern(smoothness):
    """Against its definition by the modified Bessel function of the second kind."""
    from scipy.special import gamma, kv

    r = torch.linspace(0.01, 3.0, 30, dtype=torch.float64)
    x = math.sqrt(2 * smoothness) * r.numpy() / 0.7
    expected = 2 ** (1 - smoothness) / gamma(smoothness) * x**smoothness * kv(smoothness, x)
    np.testing.assert_allclose(science._matern(r**2, smoothness, 0.7).numpy(), expected, rtol=1e-12)
    assert float(science._matern(ZERO, smoothness, 0.7)) == pytest.approx(1.0, abs=1e-12)


def test_with_noise_a_level_is_the_ridge_regression_of_perturbed_forces():
    """What it was fitted to is ``(K + noise^2 I) a``: the forces and errors in proportion to the noise."""

    def errors(noise):
        level = learned_force((20,), 2, waves=50, noise=noise).sde.drift.levels[0]
        gram = science._matern(science._squared_distances(level.places, level.places), 1.5, 4.0)
        true = FORCE_2D.reference.sde.drift.levels[-1].force(level.places)
        return gram @ level.coefficients + noise**2 * level.coefficients - true

    torch.testing.assert_close(errors(0.5), 2.0 * errors(0.25), rtol=0, atol=1e-7)
    # 0.5 times the deviation of a component, 1 / sqrt(2): four standard errors of one from 40 numbers are 45 %
    assert float(errors(0.5).std()) == pytest.approx(0.5 / math.sqrt(2.0), rel=0.45)
    assert errors(0.0).abs().max() < 1e-7


def test_the_true_force_is_minus_the_gradient_of_a_potential():
    """Its derivative is symmetric, which a force that is learned component by component need not be."""
    true, learned = FORCE.reference.sde.drift.levels[-1], FORCE.sde.drift.levels[0]
    slope, other = (
        torch.autograd.functional.jacobian(lambda y, f=f: f(ZERO, y[None])[0], normal(3)) for f in (true, learned)
    )
    torch.testing.assert_close(slope, slope.T)
    assert (other - other.T).abs().max() > 1e-3


def test_waves_have_the_spectrum_of_the_gradient_of_a_matern_process():
    """The covariance of the force is that of a gradient, ``-K''``; along one axis at distance 0 its mean is 1/d.

    For smoothness 5/2 of the process, ``K = (1 + x + x^2/3) exp(-x)``; along the separation the correlation of the
    force is ``(1 + x - x^2) exp(-x)``, ``x = sqrt(5) r / length``. Mean over 200,000 waves: at most 0.005 off, four
    standard errors; another number of degrees of freedom is farther away.
    """
    rng = np.random.default_rng(0)
    for smoothness, right in ((1.5, True), (2.5, False)):
        waves = science._Waves.draw(rng, 200_000, 3, smoothness, 2.0)
        along = waves.frequencies / waves.frequencies.norm(dim=1, keepdim=True)
        for r in (0.5, 1.0, 2.0):
            x = math.sqrt(5.0) * r / 2.0
            found = 3.0 * float((along[:, 0] ** 2 * torch.cos(waves.frequencies[:, 0] * r)).mean())
            assert (abs(found - (1 + x - x * x) * math.exp(-x)) < 0.01) == right


def test_prices_of_the_learned_force_are_its_points():
    assert FORCE.sde.drift.costs == (16.0, 64.0)
    assert [len(level.coefficients) for level in FORCE.sde.drift.levels] == [16, 64]


def test_forces_have_the_asked_strength_at_the_reference_points():
    problem = learned_force((64,), 3, waves=50, strength=2.5)
    force = problem.reference.sde.drift.levels[-1](ZERO, problem.sde.drift.levels[0].places)
    force = force + problem.sde.drift.levels[0].places
    assert float(force.square().sum(1).mean().sqrt()) == pytest.approx(2.5)


def test_the_reference_of_the_learned_force_is_a_run_of_the_true_one_on_the_same_path():
    problem = learned_force((16, 64), 3, waves=50, reference_steps=64)
    y0 = problem.initial(4)
    path = mlsde.BrownianPath(0.0, 1.0, like=y0, seed=3)
    fine = mlsde.solve(problem.reference.sde, y0, (0.0, 1.0), steps=64, brownian=path).y1
    assert torch.equal(problem.reference(y0, path), fine)
    assert charges(50, (2,)).reference is None


@BOTH
def test_levels_summed_in_blocks_are_those_summed_at_once(problem, monkeypatch):
    y = normal(5, 3)
    whole = [level(ZERO, y) for level in problem.sde.drift.levels]
    monkeypatch.setattr(science, "_NUMBERS_AT_ONCE", 1)
    assert len(list(science._blocks(400, 5))) == 7
    for level, expected in zip(problem.sde.drift.levels, whole, strict=True):
        torch.testing.assert_close(level(ZERO, y), expected, rtol=1e-11, atol=1e-11)


@BOTH
def test_levels_take_both_precisions(problem):
    y = normal(5, 3)
    for level in problem.sde.drift.levels:
        single = level(torch.zeros(()), y.float())
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), level(ZERO, y), rtol=1e-4, atol=1e-4)


@BOTH
def test_levels_can_be_differentiated(problem):
    y = normal(2, 3).requires_grad_()
    for level in problem.sde.drift.levels:
        assert torch.autograd.gradcheck(lambda y, level=level: level(ZERO, y), (y,))


@pytest.mark.parametrize(
    "make", [lambda seed: charges(50, (2,), seed=seed), lambda seed: learned_force((9,), seed=seed)]
)
def test_a_seed_makes_the_same_problem_again_and_another_one_another(make):
    y = make(0).initial(3)
    values = [torch.stack([level(ZERO, y) for level in make(seed).sde.drift.levels]) for seed in (0, 0, 1)]
    assert torch.equal(values[0], values[1])
    assert not torch.isclose(values[0], values[2]).all()
    assert torch.equal(y, make(1).initial(3))
    assert not torch.equal(y, make(0).initial(3, seed=1))


def test_both_motions_start_from_the_gibbs_law_of_the_trap_and_are_shaken_at_its_temperature():
    """Four standard errors of a variance estimated from 30,000 numbers are 3.3 %."""
    cold = charges(50, (2,), trap=4.0, temperature=0.5)
    assert float(cold.initial(10_000).square().mean()) == pytest.approx(0.5 / 4.0, rel=0.033)
    assert cold.sde.diffusion == pytest.approx(1.0)
    warm = learned_force((9,), 3, temperature=2.0)
    assert float(warm.initial(10_000).square().mean()) == pytest.approx(2.0, rel=0.033)
    assert warm.sde.diffusion == pytest.approx(2.0)
    assert (cold.strong_order, warm.strong_order) == (1.0, 1.0)


def test_errors_of_levels_are_their_distances_to_the_limit_along_its_run():
    drift = mlsde.DriftHierarchy([lambda t, y: -y + t, lambda t, y: -y + 2.0, lambda t, y: -y], costs=[1.0, 2.0, 3.0])
    sde = mlsde.SDE(drift)
    problem = LadderProblem("shifts", sde, torch.ones(1, 3, dtype=torch.float64))
    times = np.arange(32) / 32
    expected = [math.sqrt(3.0 * np.mean(times**2)), 2.0 * math.sqrt(3.0), 0.0]
    np.testing.assert_allclose(level_errors(problem, samples=2), expected, rtol=1e-12)
    limit = science.FineRun(sde.with_drift(lambda t, y: -y + 1.0), (0.0, 1.0), 4)
    problem = LadderProblem("shifts", sde, torch.ones(1, 3, dtype=torch.float64), reference=limit)
    np.testing.assert_allclose(level_errors(problem, samples=2)[1:], [math.sqrt(3.0)] * 2, rtol=1e-12)


def test_the_price_exponent_is_the_gamma_of_a_power_law():
    costs = np.array([1.0, 8.0, 100.0])
    assert price_exponent(costs, 3.0 * costs ** (-1 / 2.7)) == pytest.approx(2.7)


@pytest.mark.parametrize(
    ("problem", "below_top"), [(charges(), 3), (learned_force(), 4), (learned_force(noise=0.3), 4)]
)
def test_the_errors_fall_along_the_ladder_and_are_harder_than_monte_carlo(problem, below_top):
    """Measured 2.8, 3.6 and 5.0."""
    errors = level_errors(problem)
    assert (np.diff(errors) < 0).all()
    assert 2.3 < price_exponent(problem.sde.drift.costs[:below_top], errors[:below_top]) < 6.0


def test_an_easy_force_is_found_to_be_easier_than_monte_carlo():
    """The twin of the measurement above: in the plane, and smoother, ``gamma`` tends to 4/5."""
    problem = learned_force((32, 128, 512), 2, smoothness=2.5)
    assert price_exponent(problem.sde.drift.costs, level_errors(problem)) < 1.8


CASES = {
    "count": (lambda: charges(0), ValueError, "count must be a positive integer"),
    "sides": (lambda: charges(50, (4, 2)), ValueError, "sides must hold at least one number and increase, got"),
    "no sides": (lambda: charges(50, ()), ValueError, "sides must hold at least one number"),
    "sides that are none": (lambda: charges(50, 2), TypeError, "sides must be a sequence of integers, got 2"),
    "too fine": (lambda: charges(5, (64, 128)), ValueError, r"sides=\[64, 128\] make levels of .* which must grow"),
    "softening": (lambda: charges(50, softening=0.0), ValueError, "softening must be above zero"),
    "strength": (lambda: charges(50, strength=-1.0), ValueError, "strength must be above zero"),
    "trap": (lambda: charges(50, (2,), trap=0.0), ValueError, "trap must be above zero"),
    "temperature": (lambda: charges(50, (2,), temperature=0.0), ValueError, "temperature must be above zero"),
    "assignment": (lambda: charges(50, assignment="cloud"), ValueError, "assignment='cloud' is not known"),
    "seed": (lambda: charges(50, seed=-1), ValueError, "seed must not be negative"),
    "points": (lambda: learned_force((8, 8)), ValueError, "points must hold at least one number and increase"),
    "dimension": (lambda: learned_force((8,), 0), ValueError, "dimension must be a positive integer"),
    "smoothness": (lambda: learned_force((8,), smoothness=2.0), ValueError, "smoothness must be one of 0.5, 1.5, 2.5"),
    "length": (lambda: learned_force((8,), length=0.0), ValueError, "length must be above zero"),
    "size": (lambda: learned_force((8,), strength=0.0), ValueError, "strength must be above zero"),
    "cold": (lambda: learned_force((8,), temperature=0.0), ValueError, "temperature must be above zero"),
    "noise": (lambda: learned_force((8,), noise=-0.1), ValueError, "noise must not be negative"),
    "waves": (lambda: learned_force((8,), waves=0), ValueError, "waves must be a positive integer"),
    "steps": (lambda: learned_force((8,), reference_steps=0), ValueError, "reference_steps must be a positive"),
    "one level": (lambda: price_exponent([1.0], [1.0]), ValueError, "of two levels or more"),
    "unequal": (lambda: price_exponent([1.0, 2.0], [1.0]), ValueError, "one number for each"),
    "the limit": (lambda: price_exponent([1.0, 2.0], [1.0, 0.0]), ValueError, "leave out the limit itself"),
    "no law": (lambda: price_exponent([1.0, 2.0], [1.0, 2.0]), ValueError, "errors must fall as the costs grow"),
}


@pytest.mark.parametrize(("call", "error", "message"), CASES.values(), ids=CASES.keys())
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
