"""What a pilot foresees of runs far from its own: the error of the step, and what coins add, against what they do."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import mlsde
from mlsde import theory
from mlsde.calibration import model as room
from mlsde.calibration import pilot
from mlsde.calibration.model import RULES, Model
from mlsde.problems import analytic

F64 = torch.float64
GBM = analytic.geometric_brownian_motion


def root(square):
    return math.sqrt(float(square))


# the error of the step

PROBLEMS = {
    "linear ODE": (analytic.linear_ode(), "euler", 1.4),
    "linear ODE, Heun": (analytic.linear_ode(), "heun", 1.2),
    "additive noise": (analytic.ornstein_uhlenbeck(), "euler", 1.5),
    "additive noise that changes with time": (analytic.additive_system(), "euler", 1.3),
    "multiplicative noise": (GBM(0.5, 0.5), "euler", 1.3),
    "multiplicative noise, Milstein": (GBM(0.5, 0.5), "milstein", 1.3),
    "multiplicative noise, strong": (analytic.debrabant_roessler(), "euler", 2.1),
    "noise that vanishes at walls": (analytic.cubic(), "euler", 1.3),
    "Stratonovich, Milstein": (GBM(0.5, 0.5, calculus="stratonovich"), "milstein", 1.3),
}


def recorded(problem, method, samples=128, steps=16):
    drift = mlsde.DriftHierarchy([problem.sde.drift.levels[-1]], [1.0])
    sde, y0 = problem.sde.with_drift(drift), problem.start(samples)
    return pilot.record(sde, y0, np.linspace(*problem.t_span, steps + 1), method=method)


def step_error(problem, method, steps, samples=400):
    """Of a run on another path than the pilot's, against the exact solution or a fine run."""
    y0, path = problem.start(samples), None
    if not problem.sde.is_ode:
        path = mlsde.BrownianPath(*problem.t_span, like=y0, seed=9)
    end = mlsde.solve(problem.sde, y0, problem.t_span, steps=steps, method=method, brownian=path).y1
    if problem.exact is None:
        exact = mlsde.solve(problem.sde, y0, problem.t_span, steps=4096, method=method, brownian=path).y1
    else:
        t = problem.t_span[1]
        exact = problem.exact(t, y0, torch.zeros_like(y0) if path is None else path.value(t).to(y0))
    return root((end - exact).square().mean())


@pytest.mark.parametrize(("problem", "method", "factor"), PROBLEMS.values(), ids=PROBLEMS.keys())
def test_the_error_of_the_step_is_foreseen_within_a_factor_at_4_and_at_32_times_the_pilots_steps(
    problem, method, factor
):
    recording = recorded(problem, method)
    wrong = replace(recording, strong_order={0.5: 1.0, 1.0: 2.0, 2.0: 1.0}[recording.strong_order])
    for steps in (64, 512):
        true = step_error(problem, method, steps)
        ratio = root(Model(recording).step_square(steps)) / true
        assert 1 / factor < ratio < factor
    assert not 1 / factor < root(Model(wrong).step_square(512)) / true < factor, "any order will do"


def test_of_the_pilots_own_steps_and_fewer_the_errors_are_those_it_saw():
    """An ODE with Euler's method, whose error is known: ``(1 - h)^n - exp(-1)``."""
    drift = mlsde.DriftHierarchy([lambda t, y: -y], [1.0])
    found = Model(pilot.record(mlsde.SDE(drift), torch.ones(1, 1, dtype=F64), np.linspace(0.0, 1.0, 65)))
    for steps in (8, 16, 32, 64):
        true = abs((1 - 1 / steps) ** steps - math.exp(-1))
        assert root(found.step_square(steps)) == pytest.approx(true, rel=0.03)


def test_the_error_of_the_step_falls_with_the_steps_until_rounding_stops_it():
    drift, steps = mlsde.DriftHierarchy([lambda t, y: -y], [1.0]), 2.0 ** np.arange(3, 40)
    errors = {
        dtype: Model(
            pilot.record(mlsde.SDE(drift), torch.ones(1, 1, dtype=dtype), np.linspace(0.0, 1.0, 17))
        ).step_square(steps)
        for dtype in (torch.float32, F64)
    }
    assert (np.diff(errors[F64][:24]) < 0).all()
    assert errors[torch.float32][-1] > errors[torch.float32].min() > 1e4 * errors[F64].min()


def test_the_floor_of_a_level_is_its_gap_and_the_step_together():
    found = Model(linear_recording())
    for level in (1, 2):
        gap = found.recording.gaps[level - 1]
        assert float(found.floor(level, 50)) == pytest.approx(gap**2 + float(found.step_square(50)))
    assert found.recording.gaps.tolist()[1] == 0.0


def test_a_top_level_that_is_only_stable_on_the_pilots_grid_is_foreseen_from_there_on():
    stiff = mlsde.DriftHierarchy([lambda t, y: torch.where(y.abs() > 0.15, math.inf * y, -14.0 * y)], [1.0])
    found = Model(pilot.record(mlsde.SDE(stiff), torch.full((2, 1), 0.1, dtype=F64), np.linspace(0.0, 1.0, 17)))
    assert np.isinf(found.recording.changes).any()
    assert np.isfinite(found.step_square(np.array([16.0, 64.0, 1024.0]))).all()


# coins of which the expected square is known


def linear_recording(steps=24, rate=-1.5):
    levels = [lambda t, y: rate * y, lambda t, y: rate * y + torch.cos(2 * t)]
    drift = mlsde.DriftHierarchy(levels, [1.0, 64.0])
    return pilot.record(mlsde.SDE(drift), torch.ones(1, 1, dtype=F64), np.linspace(0.0, 1.5, steps + 1))


def exact_mse(steps, p, rate=-1.5):
    """Of independent impulses in one dimension: ``theory.predicted_mse`` with closed forms."""
    times = np.linspace(0.0, 1.5, steps + 1)
    growth = (1.0 + rate * 1.5 / steps) ** (2 * np.arange(steps)[::-1])
    variances = np.stack([np.zeros(steps), np.cos(2 * times[:-1]) ** 2], axis=1)
    return theory.predicted_mse(times, variances, p, growth)


@pytest.fixture
def _trusted(monkeypatch):
    """What is foreseen, without what experience makes of it."""
    monkeypatch.setattr(Model, "trust", lambda *_: 1.0)


@pytest.mark.usefixtures("_trusted")
@pytest.mark.parametrize("kind", ["constant", "changing"])
def test_independent_impulses_are_foreseen_exactly_on_the_pilots_grid_in_one_dimension(kind):
    p = np.stack([np.ones(24), 0.3 * np.ones(24) if kind == "constant" else np.linspace(0.1, 1.0, 24)], axis=1)
    found = Model(linear_recording()).coins_squares((1, 2), ("independent", "impulse"), p, 24)
    assert found.shape == (1,)
    assert found[0] == pytest.approx(exact_mse(24, p), rel=1e-6)


@pytest.mark.usefixtures("_trusted")
def test_and_at_16_times_the_steps_to_within_what_the_grids_differ_by():
    p = np.tile([1.0, 0.3], (24, 1))
    found = Model(linear_recording()).coins_squares((1, 2), ("independent", "impulse"), p, 24 * 16)[0]
    assert found == pytest.approx(exact_mse(24 * 16, [1.0, 0.3]), rel=0.1)
    assert found == pytest.approx(exact_mse(24, [1.0, 0.3]) / 16, rel=1e-6)


@pytest.mark.usefixtures("_trusted")
@pytest.mark.parametrize("rule", RULES)
def test_levels_that_always_fire_add_nothing(rule):
    found = Model(linear_recording()).coins_squares((1, 2), rule, np.ones((24, 2)), 48)
    np.testing.assert_array_equal(found, 0.0)


@pytest.mark.usefixtures("_trusted")
@pytest.mark.parametrize("rule", RULES)
def test_the_more_a_level_fires_the_less_its_coins_add(rule):
    found, steps = Model(linear_recording()), 96
    squares = [found.coins_squares((1, 2), rule, np.tile([1.0, p], (24, 1)), steps)[0] for p in (0.05, 0.15, 0.6)]
    assert squares[0] > squares[1] > squares[2] > 0.0


# coins of which only runs can tell


def bent_levels(sizes):
    a = torch.tensor([[-0.5, 1.5], [-1.5, -0.5]], dtype=F64)
    return [lambda t, y, e=e: y @ a.T + e * torch.sin(2 * y.flip(1) + 3 * t) for e in sizes]


def bent(sizes=(0.4, 0.0), diffusion=None):
    """An equation, initial states, and what a pilot of 32 steps and 8 samples sees of them."""
    costs = [8.0**k for k in range(len(sizes))]
    sde = mlsde.SDE(mlsde.DriftHierarchy(bent_levels(sizes), costs), diffusion)
    y0 = torch.as_tensor(np.random.default_rng(0).standard_normal((8, 2)))
    return sde, y0, Model(pilot.record(sde, y0, np.linspace(0.0, 1.0, 33)))


def added(sde, y0, rule, p, steps, repeats=48):
    """Root mean square that coins add, over many of them, on another path than the pilot's."""
    many = y0.repeat(repeats, 1)
    path = None if sde.is_ode else mlsde.BrownianPath(0.0, 1.0, like=many, seed=5)
    multilevel = mlsde.Multilevel(mlsde.Constant(p), *rule, share="sample")
    options = {"steps": steps, "brownian": path}
    top = mlsde.solve(sde, many, (0, 1), **options).y1
    return root((mlsde.solve(sde, many, (0, 1), multilevel=multilevel, **options).y1 - top).square().mean())


FACTORS = {
    ("independent", "impulse"): 1.2,
    ("systematic", "impulse"): 1.3,
    ("systematic", "hold"): 1.3,
    ("systematic", "extrapolate"): 1.8,
}


@pytest.mark.usefixtures("_trusted")
@pytest.mark.parametrize("steps", [32, 128])
@pytest.mark.parametrize("diffusion", [None, 0.4], ids=["ODE", "noise"])
@pytest.mark.parametrize("rule", FACTORS)
def test_what_coins_add_is_foreseen_within_a_factor_on_the_pilots_grid_and_a_finer_one(rule, diffusion, steps):
    sde, y0, found = bent(diffusion=diffusion)
    factor = FACTORS[rule]
    for p in (0.5, 0.25):
        foreseen = root(found.coins_squares((1, 2), rule, np.tile([1.0, p], (32, 1)), steps).mean())
        true = added(sde, y0, rule, (1.0, p), steps)
        assert 1 / factor < foreseen / true < factor


@pytest.mark.usefixtures("_trusted")
@pytest.mark.parametrize(
    ("rule", "other"),
    [
        (("systematic", "impulse"), ("independent", "impulse")),
        (("systematic", "extrapolate"), ("systematic", "hold")),
        (("independent", "impulse"), ("systematic", "hold")),
    ],
)
def test_what_is_foreseen_of_another_rule_is_not_within_it(rule, other):
    sde, y0, found = bent()
    foreseen = root(found.coins_squares((1, 2), other, np.tile([1.0, 0.25], (32, 1)), 128).mean())
    assert abs(math.log(foreseen / added(sde, y0, rule, (1.0, 0.25), 128))) > math.log(2.0)


@pytest.mark.usefixtures("_trusted")
def test_probabilities_that_change_with_time_are_foreseen_as_well():
    sde, y0, found = bent()
    table = np.stack([np.ones(32), np.linspace(0.6, 0.1, 32)], axis=1)
    many, rule = y0.repeat(48, 1), ("systematic", "hold")
    multilevel = mlsde.Multilevel(lambda t: (1.0, 0.6 - 0.5 * t), *rule, share="sample")
    top = mlsde.solve(sde, many, (0, 1), steps=64).y1
    true = root((mlsde.solve(sde, many, (0, 1), steps=64, multilevel=multilevel).y1 - top).square().mean())
    foreseen, turned = (
        root(found.coins_squares((1, 2), rule, one, 64).mean()) for one in (table, np.c_[table[:, 0], table[::-1, 1]])
    )
    assert foreseen == pytest.approx(true, rel=0.2)
    assert abs(turned / true - 1.0) > 0.22, "the order in time does not matter"


@pytest.mark.usefixtures("_trusted")
def test_a_sub_ladder_is_foreseen_from_the_whole_ones_pilot():
    sde, y0, found = bent((0.5, 0.1, 0.0))
    foreseen = root(found.coins_squares((1, 3), ("systematic", "hold"), np.tile([1.0, 0.25], (32, 1)), 64).mean())
    part = sde.with_drift(sde.drift.select([1, 3]))
    assert foreseen == pytest.approx(added(part, y0, ("systematic", "hold"), (1.0, 0.25), 64), rel=0.3)


@pytest.mark.usefixtures("_trusted")
@pytest.mark.parametrize(
    ("rule", "factor"),
    [(("independent", "impulse"), 1 + 1e-4), (("systematic", "impulse"), 2.5), (("systematic", "hold"), 2.5)],
)
def test_curves_on_the_pilots_grid_are_what_tables_of_the_same_probability_replay_but_for_luck(rule, factor):
    _, _, found = bent()
    for p in room.THINNED:
        table = np.tile([1.0, p], (32, 1))
        added_up = found.curve(rule).at(found.columns((1, 2)), 32 * table)[0] * room.spacing_factor(rule, table[0])
        expected = found.coins_squares((1, 2), rule, table, 32).mean()
        assert 1 / factor < added_up[1] / expected < factor


def test_rules_scatter_about_what_is_foreseen_by_luck_and_those_without_chance_do_not():
    _, _, found = bent()
    table = np.tile([1.0, 0.25], (32, 1))
    assert found.luck((1, 2), ("periodic", "hold"), table, 32) == 0.0
    assert 0.05 < found.luck((1, 2), ("independent", "impulse"), table, 32) < 3.0


# doubt


def test_there_is_no_doubt_where_differences_are_small_and_smooth():
    _, _, found = bent((2e-3, 1e-3, 0.0))
    assert found.doubt == pytest.approx(1.0, abs=0.1)
    for rule in RULES:
        assert 1.0 <= found.trust(rule) < 2.0


def test_there_is_much_where_a_cheap_level_has_nothing_to_do_with_the_top_one():
    levels = [lambda t, y: -y, lambda t, y: 6.0 * torch.sin(5.0 * y + 20 * t), lambda t, y: 6.0 * torch.cos(5.0 * y)]
    drift = mlsde.DriftHierarchy(levels, [1.0, 8.0, 64.0])
    y0 = torch.as_tensor(np.random.default_rng(0).standard_normal((8, 2)))
    found = Model(pilot.record(mlsde.SDE(drift), y0, np.linspace(0.0, 1.0, 17)))
    assert found.doubt > 2.0


def test_the_orders_that_are_trusted_are_those_of_the_differences_in_time():
    """Smooth in time on an ODE: steep. With noise, lines are no better than what is held."""
    _, _, still = bent()
    _, _, noisy = bent(diffusion=0.4)
    rough = [lambda t, y: -y, lambda t, y: -y + 0.1 * torch.sin(1e4 * t)]
    drift = mlsde.DriftHierarchy(rough, [1.0, 64.0])
    scattered = Model(pilot.record(mlsde.SDE(drift), torch.ones(2, 1, dtype=F64), np.linspace(0.0, 1.0, 33)))
    orders = [one.steepest((1, 2), "extrapolate") for one in (still, noisy, scattered)]
    assert orders[0] > orders[1] > orders[2] == 1.0
    assert orders[1] <= 2.0 and still.steepest((1, 2), "hold") == 2.0
