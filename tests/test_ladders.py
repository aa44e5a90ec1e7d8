"""Ladders of every problem: their limit, prices, differences and reference, and what a ladder problem refuses."""

import inspect
import math

import numpy as np
import pytest
import torch

import mlsde
from mlsde.problems import analytic, ladder
from mlsde.problems.ladder import LadderProblem, perturbed, scattered_start

MAKERS = [make for _, make in inspect.getmembers(analytic, inspect.isfunction) if make.__module__ == analytic.__name__]
PROBLEMS = [make() for make in MAKERS if make.__annotations__.get("return") == "Problem"] + [
    analytic.geometric_brownian_motion(calculus="stratonovich"),
    analytic.kubo_oscillator(calculus="ito"),
]
EXACT = [problem for problem in PROBLEMS if problem.exact is not None]
GAMMA = 2.5
DRIFT = mlsde.DriftHierarchy([lambda t, y: -y, lambda t, y: -torch.sin(y)], costs=[1.0, 50.0])
PENDULUM = LadderProblem("pendulum", mlsde.SDE(DRIFT, 0.5), torch.tensor([[1.0], [2.0]]))


def named(problems):
    return pytest.mark.parametrize("problem", problems, ids=lambda problem: problem.name)


def method_of(problem):
    multiplicative_ito = problem.sde.noise not in (None, "additive") and not problem.sde.additive
    return "euler" if multiplicative_ito and problem.sde.calculus == "ito" else "heun"


def path_of(problem, y0, seed=0):
    """A path in the shape of the equation's increments, ``None`` for an ODE."""
    if problem.sde.is_ode:
        return None
    start = torch.zeros((), dtype=y0.dtype)
    shape = mlsde.sde.NoiseTerm(problem.sde, start, y0, y0.dtype).shape
    return mlsde.BrownianPath(*problem.t_span, shape=shape, dtype=y0.dtype, seed=seed, grids=(1,))


def scattered(d, count=400, width=20.0):
    """States over many wavelengths of the features, so that a mean over them is that over all phases."""
    return width * torch.as_tensor(np.random.default_rng(0).standard_normal((count, d)))


def misses(problem, drift, y):
    """``f^k - f`` at random times, shape (K, samples, d)."""
    limit, t = problem.sde.drift.levels[-1], torch.tensor(0.7, dtype=torch.float64)
    return torch.stack([level(t, y) - limit(t, y) for level in drift.levels])


def rms(values):
    return values.square().sum(-1).mean(-1).sqrt()


def test_every_problem_is_here():
    assert len(PROBLEMS) == 14
    assert {problem.sde.noise for problem in PROBLEMS} == {None, "additive", "diagonal", "scalar", "general"}


@named(PROBLEMS)
@pytest.mark.parametrize("differences", ladder.DIFFERENCES)
def test_levels_miss_the_drift_by_the_size_times_a_half_to_the_level(problem, differences):
    drift = problem.ladder(GAMMA, 5, differences=differences, features=64, size=3.0).sde.drift
    found = rms(misses(problem, drift, scattered(len(problem.y0)))).tolist()
    assert found == pytest.approx([3.0 * 2.0**-k for k in range(1, 6)], rel=0.15)


def slopes(problem, drift, y, h=1e-5):
    """Root mean square of the derivative of ``f^k - f`` along a random direction, shape (K,)."""
    v = torch.nn.functional.normalize(scattered(y.shape[1], len(y), 1.0).flip(0), dim=1)
    return rms((misses(problem, drift, y + h * v) - misses(problem, drift, y - h * v)) / (2 * h))


@named(PROBLEMS)
def test_smooth_differences_grow_flatter_with_the_level_and_rough_ones_do_not(problem):
    y, levels = scattered(len(problem.y0), width=30.0), 5
    flat, steep = (
        slopes(problem, problem.ladder(GAMMA, levels, differences=differences, features=512).sde.drift, y)
        for differences in ladder.DIFFERENCES
    )
    halvings = 2.0 ** -torch.arange(levels, dtype=torch.float64)
    assert 0.2 < float(flat[0]) < 1.0  # of order 2^-1 times the frequency
    torch.testing.assert_close(flat / flat[0], halvings, rtol=0.35, atol=0)
    torch.testing.assert_close(steep / steep[0], torch.ones_like(steep), rtol=0.35, atol=0)


@named(PROBLEMS)
def test_prices_grow_by_two_to_the_gamma_and_real_levels_do_the_work_they_are_priced_at(problem):
    declared = problem.ladder(GAMMA, 4, features=8).sde.drift
    assert declared.costs == pytest.approx([2.0 ** (GAMMA * k) for k in range(4)])
    assert [len(level.phases) for level in declared.levels] == [8] * 4
    real = problem.ladder(GAMMA, 4, features=8, work="real").sde.drift
    assert real.costs == tuple(round(8 * 2.0 ** (GAMMA * k)) for k in range(4))
    for level, cost in zip(real.levels, real.costs, strict=True):
        assert (level.frequencies.shape, level.amplitudes.shape) == ((len(problem.y0), cost), (cost, len(problem.y0)))
        assert float(level.amplitudes.count_nonzero()) == level.amplitudes.numel()


@pytest.mark.parametrize(("differences", "speed"), [("smooth", 1.0), ("rough", 4.0)])
def test_differences_move_with_time_as_fast_as_they_vary_in_space(differences, speed):
    drift = perturbed(lambda t, y: 0 * y, 2, gamma=2.0, levels=3, differences=differences, features=512)
    t = torch.tensor(0.4, dtype=torch.float64)
    y = scattered(2)
    found = (drift.levels[2](t + 1e-5, y) - drift.levels[2](t - 1e-5, y)) / 2e-5
    assert float(rms(found)) == pytest.approx(2.0**-3 * speed, rel=0.2)


def test_a_level_evaluated_in_blocks_is_the_one_evaluated_at_once(monkeypatch):
    drift = perturbed(lambda t, y: -y, 3, gamma=2.0, levels=3, work="real")
    y, t = scattered(3, 5), torch.tensor(0.3, dtype=torch.float64)
    whole = [level(t, y) for level in drift.levels]
    monkeypatch.setattr(ladder, "_FEATURES_AT_ONCE", 7)
    for level, expected in zip(drift.levels, whole, strict=True):
        torch.testing.assert_close(level(t, y), expected, rtol=1e-12, atol=1e-12)


@named(PROBLEMS)
def test_the_ladder_keeps_the_equation_and_is_reproduced_by_its_seed(problem):
    made = problem.ladder(GAMMA, 3, seed=4)
    assert (made.sde.noise, made.sde.calculus) == (problem.sde.noise, problem.sde.calculus)
    assert made.sde.diffusion is problem.sde.diffusion
    assert made.sde.linear is problem.sde.linear
    assert (made.t_span, made.gamma) == (problem.t_span, GAMMA)
    assert problem.name in made.name
    y, t = scattered(len(problem.y0), 5), torch.tensor(0.3, dtype=torch.float64)
    values, again, other = (
        torch.stack([level(t, y) for level in problem.ladder(GAMMA, 3, seed=seed).sde.drift.levels])
        for seed in (4, 4, 5)
    )
    assert torch.equal(values, again)
    assert not torch.isclose(values, other).any()
    assert not torch.equal(values[0] - values[1], values[1] - values[2])


@named(PROBLEMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_ladder_can_be_solved_in_both_precisions(problem, dtype):
    made = problem.ladder(GAMMA, 3)
    rule = mlsde.Multilevel(mlsde.PowerLaw(GAMMA), correction="hold")
    done = mlsde.solve(
        made.sde, made.initial(3).to(dtype), made.t_span, steps=20, method=method_of(problem), multilevel=rule
    )
    assert done.y1.shape == (3, len(problem.y0))
    assert bool(torch.isfinite(done.y1).all())


@named(EXACT)
def test_the_reference_is_the_exact_solution_on_the_path(problem):
    made = problem.ladder(GAMMA, 2, spread=0.1)
    y0 = made.initial(3, seed=1)
    path = path_of(problem, y0)
    w = torch.zeros_like(y0) if path is None else path.value(1.0)
    assert torch.equal(made.reference(y0, path), problem.exact(1.0, y0, w))


@named(PROBLEMS)
def test_with_increments_that_are_no_path_the_reference_is_a_fine_run_which_agrees_with_it(problem):
    made = problem.ladder(GAMMA, 2, reference_steps=1024)
    y0 = made.initial(20)
    path, other = path_of(problem, y0), path_of(problem, y0, seed=1)
    if path is None:
        return
    fine = made.reference(y0, path.__call__)
    limit = mlsde.solve(problem.sde, y0, (0.0, 1.0), steps=1024, brownian=path, method=method_of(problem)).y1
    assert torch.equal(fine, limit)
    close = float(rms(fine - made.reference(y0, path)))
    assert close < 0.05 * float(rms(made.reference(y0, other) - made.reference(y0, path)))


def test_the_reference_of_an_ode_needs_no_path():
    problem = analytic.linear_ode()
    y0 = problem.ladder(GAMMA, 2).initial(2)
    torch.testing.assert_close(problem.ladder(GAMMA, 2).reference(y0, None)[0], problem.mean(1.0))


@named(PROBLEMS)
def test_strong_order_is_one_where_the_noise_does_not_depend_on_the_state(problem):
    first = {"additive system", "Ornstein-Uhlenbeck", "linear ODE", "linear system", "Langevin, harmonic"}
    assert problem.ladder(GAMMA, 2).strong_order == (1.0 if problem.name in first else 0.5)


@named(PROBLEMS)
def test_initial_states_are_scattered_about_the_problems_own(problem):
    own = torch.tensor(problem.y0, dtype=torch.float64)
    assert torch.equal(problem.ladder(GAMMA, 2).initial(2), own.repeat(2, 1))
    made = problem.ladder(GAMMA, 2, spread=0.25)
    y0 = made.initial(50, seed=3)
    assert bool(((y0 - own).abs() <= 0.25 * own.abs()).all())
    assert bool(((y0 - own).abs().amax(0) >= 0.2 * own.abs()).all())
    assert torch.equal(y0, made.initial(50, seed=3))
    assert not bool((own != 0).any()) or not torch.equal(y0, made.initial(50, seed=4))


def test_states_of_a_tensor_are_repeated_as_copies():
    assert torch.equal(PENDULUM.initial(1, seed=0), torch.tensor([[1.0]]))
    assert torch.equal(PENDULUM.initial(1, seed=1), torch.tensor([[2.0]]))  # the next rows
    y0 = PENDULUM.initial(5)
    assert y0.flatten().tolist() == [1.0, 2.0, 1.0, 2.0, 1.0]
    y0.zero_()
    assert PENDULUM.initial(1).item() == 1.0


def test_another_drift_leaves_the_rest_of_the_equation_as_it_is():
    for problem in PROBLEMS:
        sde = problem.sde.with_drift(lambda t, y: 2 * y)
        assert (sde.diffusion, sde.noise, sde.calculus, sde.linear) == (
            problem.sde.diffusion,
            problem.sde.noise,
            problem.sde.calculus,
            problem.sde.linear,
        )
        assert (len(sde.drift), sde.drift.costs) == (1, None)
    cut = PENDULUM.sde.with_drift(DRIFT.select([2]))
    assert cut.drift.costs == (50.0,)
    assert PENDULUM.sde.drift is DRIFT


@pytest.mark.parametrize(("order", "exponent"), [(1.0, 0.9), (2.0, 0.6), (4.0, 0.36)])
def test_a_power_law_for_a_rule_of_order_s_falls_with_its_own_exponent(order, exponent):
    """``(1 + 2/gamma) / (s + 1)`` for gamma 2.5; the paper's is that of order 1."""
    made = analytic.wave().ladder(GAMMA, 4)
    costs = np.array(made.sde.drift.costs)
    found = mlsde.PowerLaw(GAMMA, order=order).table(np.array([0.0, 0.5, 1.0]), made.sde.drift, lambda table: 0.0)
    np.testing.assert_allclose(found, np.tile(costs**-exponent, (2, 1)), rtol=1e-12)
    assert math.isclose(exponent, (1 + 2 / GAMMA) / (order + 1))


def make(**options):
    return analytic.wave().ladder(**{"gamma": GAMMA, "levels": 3, **options})


def problem_with(**options):
    given = {"name": "pendulum", "sde": PENDULUM.sde, "start": PENDULUM.start, **options}
    return LadderProblem(**given)


CASES = {
    "gamma": (lambda: make(gamma=0.0), ValueError, ["gamma must be above zero"]),
    "levels": (lambda: make(levels=2.0), TypeError, ["levels must be a positive integer"]),
    "differences": (lambda: make(differences="bumpy"), ValueError, ["differences='bumpy'", "'smooth', 'rough'"]),
    "work": (lambda: make(work="none"), ValueError, ["work='none'", "'declared', 'real'"]),
    "size": (lambda: make(size=-1.0), ValueError, ["size must not be negative"]),
    "frequency": (lambda: make(frequency=0.0), ValueError, ["frequency must be above zero"]),
    "features": (lambda: make(features=0), ValueError, ["features must be a positive integer"]),
    "spread": (lambda: make(spread=-0.1), ValueError, ["spread must not be negative"]),
    "reference_steps": (lambda: make(reference_steps=0), ValueError, ["reference_steps must be a positive"]),
    "too much work": (lambda: make(levels=12, work="real"), ValueError, ["levels=12", "features, more than"]),
    "samples of a problem": (lambda: analytic.wave().start(0), ValueError, ["samples must be a positive"]),
    "base": (lambda: perturbed(1.0, 2, gamma=1.0, levels=1), TypeError, ["base must be callable as f(t, y)"]),
    "dimension": (lambda: perturbed(torch.sin, 0, gamma=1.0, levels=1), ValueError, ["dimension must be"]),
    "scatter": (lambda: scattered_start(torch.ones(1), math.inf), ValueError, ["spread must be finite"]),
    "sde": (lambda: problem_with(sde=DRIFT), TypeError, ["sde must be an mlsde.SDE, got DriftHierarchy"]),
    "costs": (
        lambda: problem_with(sde=mlsde.SDE(lambda t, y: y)),
        ValueError,
        ["a ladder problem needs the price of each level"],
    ),
    "t_span": (lambda: problem_with(t_span=(1.0, 1.0)), ValueError, ["t_span must be two different times"]),
    "start": (lambda: problem_with(start=1.0), TypeError, ["start must be callable as start(samples, seed)"]),
    "states": (lambda: problem_with(start=torch.ones(2, 1) * torch.nan), ValueError, ["start must be finite"]),
    "reference": (
        lambda: problem_with(reference=1.0),
        TypeError,
        ["reference must be callable as reference(y0, p"],
    ),
    "known gamma": (lambda: problem_with(gamma=-1.0), ValueError, ["gamma must be above zero"]),
    "samples": (lambda: PENDULUM.initial(0), ValueError, ["samples must be a positive integer"]),
    "too few states": (
        lambda: problem_with(start=lambda samples, seed: torch.ones(1, 1)).initial(2, 7),
        ValueError,
        ["start(2, 7) returned 1 states, expected 2"],
    ),
    "states that are none": (
        lambda: problem_with(start=lambda samples, seed: [1.0]).initial(1),
        TypeError,
        ["what start returned must be a torch.Tensor"],
    ),
    "order": (lambda: mlsde.PowerLaw(2.0, order=0.0), ValueError, ["order must be above zero"]),
    "matrix": (lambda: analytic.linear_ode([[1.0, 2.0]]), ValueError, ["matrix must have d rows of d", "(1, 2)"]),
    "no matrix": (lambda: analytic.linear_ode("a"), TypeError, ["matrix must hold numbers"]),
    "y0": (lambda: analytic.linear_ode([[1.0]]), ValueError, ["y0 holds 4 numbers, but matrix has 1 rows"]),
    "phase space": (lambda: analytic.langevin_harmonic(y0=[1.0]), ValueError, ["a position and a momentum"]),
    "friction": (lambda: analytic.langevin_harmonic(friction=0.0), ValueError, ["friction must be above zero"]),
    "temperature": (lambda: analytic.langevin_harmonic(temperature=-1.0), ValueError, ["temperature must be"]),
    "well": (lambda: analytic.langevin_harmonic(frequency=math.inf), ValueError, ["frequency must be finite"]),
}


@pytest.mark.parametrize(("call", "error", "words"), CASES.values(), ids=CASES.keys())
def test_bad_arguments_are_named(call, error, words):
    with pytest.raises(error) as caught:
        call()
    assert all(word in str(caught.value) for word in words), caught.value
