"""``solve(multilevel="auto")`` and ``tol=``: what is charged, what is warned of, and what is refused."""

import math
import re
from functools import cache

import numpy as np
import pytest
import torch

import mlsde

F64 = torch.float64
SPIN = torch.tensor([[-0.5, 1.5], [-1.5, -0.5]], dtype=F64)
SAMPLES = 64


def spin(t, y):
    return y @ SPIN.to(y).T


def near(t, y):
    return spin(t, y) + 0.2 * torch.sin(y.flip(1))


def far(t, y):
    return spin(t, y) + 2.0 * torch.cos(3.0 * y)


def start(samples=SAMPLES, dtype=F64):
    return torch.as_tensor(np.random.default_rng(0).standard_normal((samples, 2)), dtype=dtype)


def equation(diffusion=0.3, levels=(near, spin), costs=(1.0, 100.0), **options):
    return mlsde.SDE(mlsde.DriftHierarchy(list(levels), costs and list(costs)), diffusion, **options)


def auto(sde=None, y0=None, t_span=(0.0, 1.0), **options):
    """Let a pilot choose for a sound equation in which one thing was changed."""
    if "tol" not in options:
        options.setdefault("multilevel", "auto")
    return mlsde.solve(equation() if sde is None else sde, start() if y0 is None else y0, t_span, **options)


@cache
def calibrated(method="euler", span=(0.0, 1.0)):
    options = {"steps": 64, "pilot_steps": 16, "pilot_samples": 8}
    return mlsde.calibrate(equation(), start(), span, method=method, **options)


class Counter:
    """A level that counts the samples it is evaluated for."""

    def __init__(self, level):
        self.level, self.samples = level, 0

    def __call__(self, t, y):
        self.samples += len(y)
        return self.level(t, y)


def assert_sound(found, y0=None):
    assert found.success
    assert bool(torch.isfinite(found.ys).all())
    assert found.y1.shape == (start() if y0 is None else y0).shape
    assert "chosen: " in repr(found) and found.recommendation.describe() in repr(found)


# what is charged


@pytest.mark.parametrize("budget", [800.0, 3200.0, 12_800.0])
@pytest.mark.parametrize("diffusion", [None, 0.3], ids=["ODE", "noise"])
def test_pilot_and_run_together_stay_within_the_budget(budget, diffusion):
    found = auto(equation(diffusion), budget=budget)
    assert found.stats.pilot_cost + found.plan.expected_cost <= budget * (1 + 1e-9)
    assert found.stats.pilot_cost + found.stats.cost <= 1.1 * budget
    assert 0 < found.stats.pilot_cost <= 0.102 * budget
    assert found.plan.expected_cost > 0.8 * budget
    assert found.recommendation.kind == "multilevel"
    assert found.error == found.recommendation.predicted_error
    assert_sound(found)


def test_the_levels_themselves_count_no_more_than_that_but_for_products_and_a_look():
    """Products with a derivative are charged as two evaluations, so that less is counted; prices are looked at once or
    twice on a sample.
    """
    levels = [Counter(near), Counter(spin)]
    found = auto(equation(levels=levels), budget=3200.0)
    counted = sum(cost * level.samples for cost, level in zip((1.0, 100.0), levels, strict=True)) / SAMPLES
    charged = found.stats.pilot_cost + found.stats.cost
    assert charged - 0.05 * 3200.0 < counted < charged + 2 * 101.0 / SAMPLES + 1e-6


def test_with_steps_alone_it_is_as_accurate_as_the_top_level_on_them_for_less():
    sde, y0 = equation(), start()
    path = mlsde.BrownianPath(0.0, 1.0, like=y0, seed=3)
    found = auto(steps=64, brownian=path)
    assert len(found.plan.times) == 65
    assert found.stats.cost < 0.7 * 6400
    exact, plain = (mlsde.solve(sde, y0, (0, 1), steps=n, brownian=path).y1 for n in (2048, 64))
    errors = [float((y - exact).square().mean().sqrt()) for y in (found.y1, plain)]
    assert errors[0] < 1.3 * errors[1]


def test_a_budget_with_steps_keeps_the_steps():
    found = auto(budget=3200.0, steps=100)
    assert found.plan.steps == 100
    assert found.stats.pilot_cost + found.plan.expected_cost <= 3200.0 * (1 + 1e-9)


def test_an_explicit_grid_is_kept_or_thinned():
    times = np.linspace(0.0, 1.0, 65) ** 2
    np.testing.assert_array_equal(auto(times=times, t_span=None).plan.times, times)
    np.testing.assert_array_equal(auto(times=times, t_span=None, budget=3200.0).plan.times, times)


@pytest.mark.parametrize("tol", [0.05, 0.01])
def test_a_tolerance_alone_implies_auto_and_is_kept(tol):
    y0 = start()
    path = mlsde.BrownianPath(0.0, 1.0, like=y0, seed=3)
    found = auto(tol=tol, brownian=path)
    exact = mlsde.solve(equation(), y0, (0, 1), steps=2048, brownian=path).y1
    assert float((found.y1 - exact).square().mean().sqrt()) < tol
    assert found.error < tol
    assert found.stats.pilot_cost > 0
    again = auto(tol=tol, brownian=path, multilevel="auto")
    assert torch.equal(found.y1, again.y1)


def test_a_calibration_is_used_instead_of_a_pilot_and_costs_nothing():
    cal = calibrated()
    for options in ({"budget": 3200.0}, {"tol": 0.01}, {"steps": 64}, {"budget": 3200.0, "steps": 80}):
        found = auto(calibration=cal, seed=4, **options)
        steps = options.pop("steps", None)
        expected = cal.recommend(**options, steps=steps)
        assert found.stats.pilot_cost == 0.0
        assert found.recommendation.describe() == expected.describe()
        assert torch.equal(found.y1, expected.solve(start(), seed=4).y1)


def test_a_calibration_alone_implies_auto():
    assert auto(calibration=calibrated(), budget=3200.0, multilevel=None).recommendation.kind == "multilevel"


def test_with_a_calibration_the_equation_that_is_given_is_run_and_not_the_one_that_was_measured():
    """They may differ in the noise: the levels are the same."""
    loud = auto(equation(3.0), calibration=calibrated(), budget=3200.0)
    assert float(loud.y1.std()) > 1.5
    assert float(auto(calibration=calibrated(), budget=3200.0).y1.std()) < 1.0


# chance


@pytest.mark.parametrize("options", [{"budget": 3200.0}, {"steps": 64}, {"tol": 0.02}])
def test_the_same_seed_chooses_and_runs_the_same_whatever_else_was_drawn(options):
    first = auto(seed=5, **options)
    torch.manual_seed(1)
    torch.rand(7)
    again, other = auto(seed=5, **options), auto(seed=6, **options)
    assert torch.equal(first.y1, again.y1)
    assert first.recommendation.why == again.recommendation.why
    assert first.stats.pilot_cost == again.stats.pilot_cost
    assert not torch.equal(first.y1, other.y1)


def test_nobodys_random_numbers_are_touched():
    before = torch.get_rng_state()
    auto(budget=3200.0)
    assert torch.equal(before, torch.get_rng_state())


def dear_and_rough(diffusion=0.3):
    flutter = lambda t, y: spin(t, y) + 5.0 * torch.sin(1000.0 * t)  # noqa: E731
    return equation(diffusion, levels=(spin, flutter), costs=(1.0, 1.0 + 1e-7))


@pytest.mark.parametrize("given", ["seed", "brownian"])
def test_where_one_level_is_taken_alone_the_run_is_the_plain_one_bit_for_bit(given):
    sde, y0 = dear_and_rough(), start()
    options = {"seed": 8} if given == "seed" else {"brownian": mlsde.BrownianPath(0.0, 1.0, like=y0, seed=8)}
    found = auto(sde, steps=64, **options)
    assert found.recommendation.kind == "plain" and found.recommendation.level == 2
    assert torch.equal(found.y1, mlsde.solve(sde, y0, (0, 1), steps=64, **options).y1)


def test_coins_ride_the_path_that_was_given():
    """On the same path the end is the top level's but for the error that was predicted; on another it is not."""
    y0 = start()
    path, other = (mlsde.BrownianPath(0.0, 1.0, like=y0, seed=seed) for seed in (3, 4))
    found = auto(budget=12_800.0, brownian=path)
    errors = [
        float((found.y1 - mlsde.solve(equation(), y0, (0, 1), steps=512, brownian=one).y1).square().mean().sqrt())
        for one in (path, other)
    ]
    assert errors[0] < 0.02
    assert errors[1] > 0.1


def test_seeds_per_sample_run_each_sample_as_in_a_part_of_the_batch():
    cal, seeds = calibrated(), list(range(SAMPLES))
    for budget in 100.0 * 2.0 ** np.arange(3, 9):  # with some of them the coins are of chance
        found = auto(calibration=cal, budget=budget, seed=seeds)
        part = auto(y0=start()[8:24], calibration=cal, budget=budget, seed=seeds[8:24])
        assert torch.equal(found.y1[8:24], part.y1)


def test_seeds_per_sample_serve_where_no_coins_are_tossed():
    found = auto(dear_and_rough(), steps=64, seed=list(range(SAMPLES)))
    assert torch.equal(found.y1, mlsde.solve(dear_and_rough(), start(), (0, 1), steps=64, seed=list(range(SAMPLES))).y1)


# what passes through


def test_what_is_saved_and_called_back_is_as_ever():
    seen = []
    found = auto(
        budget=3200.0, save_at=[0.0, 0.25, 1.0], callback=lambda n, t, y: seen.append(n), progress=False, seed=2
    )
    assert found.ts.tolist() == [0.0, 0.25, 1.0]
    assert found.ys.shape == (3, SAMPLES, 2)
    assert torch.equal(found.ys[0], start())
    assert seen == list(range(1, found.plan.steps + 1))
    steps = auto(budget=3200.0, save_at="steps", seed=2)
    assert len(steps.ts) == found.plan.steps + 1
    assert torch.equal(steps.y1, found.y1)


def test_a_callback_may_stop_the_run_and_then_no_error_is_predicted():
    found = auto(budget=3200.0, callback=lambda n, t, y: n == 3)
    assert not found.success and found.error is None
    assert "no error predicted" in repr(found)


def test_gradients_flow_through_what_was_chosen():
    y0 = start().requires_grad_(True)
    found = auto(y0=y0, budget=3200.0, gradients=True)
    found.y1.sum().backward()
    assert float(y0.grad.abs().min()) > 0


@pytest.mark.parametrize("method", ["heun", "exponential"])
def test_other_steppers_are_chosen_for(method):
    sde = equation(None if method == "heun" else 0.3, linear=None if method == "heun" else -0.5)
    found = auto(sde, budget=6400.0, method=method)
    assert found.method == method
    assert found.stats.pilot_cost + found.plan.expected_cost <= 6400.0 * (1 + 1e-9)
    if method == "heun":
        assert found.plan.correction in ("hold", "extrapolate")


def test_without_costs_the_levels_are_timed():
    def slow(t, y):
        for _ in range(200):
            y.sin()
        return spin(t, y)

    found = auto(equation(levels=(near, slow), costs=None), steps=64)
    assert found.plan.costs is not None and found.plan.costs[-1] < 1e-2
    assert_sound(found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precisions_are_chosen_for(dtype):
    found = auto(y0=start(dtype=dtype), budget=3200.0)
    assert found.y1.dtype == dtype
    assert_sound(found)


# warnings: each is one sentence, and the run is sound


def warned(call, *words):
    """``call`` gives one warning, a sentence that holds all of ``words``; its solution is sound."""
    with pytest.warns(UserWarning, match=r"\.$") as caught:
        found = call()
    assert len(caught) == 1, [str(one.message) for one in caught]
    message = str(caught[0].message)
    assert message.endswith(".") and "\n" not in message
    assert len(re.findall(r"[a-z)][.] [A-Z]", message)) == 0, "more than one sentence"
    missing = [word for word in words if word not in message]
    assert not missing, f"{missing} not in {message!r}"
    assert caught[0].filename == __file__ or "mlsde" in caught[0].filename
    assert_sound(found, found.y1)
    return found


def test_a_sound_ladder_gives_no_warning():
    """Warnings are errors in this suite, so that the other tests say it too."""
    auto(budget=3200.0)


def test_one_level_is_warned_of_and_taken():
    found = warned(lambda: auto(equation(levels=[spin], costs=[100.0]), budget=3200.0), "one level", "cheaper one")
    assert (found.plan.steps, found.stats.cost, found.stats.pilot_cost) == (32, 3200.0, 0.0)
    assert math.isnan(found.error)
    warned(lambda: auto(equation(levels=[spin], costs=[100.0]), steps=20), "one level")


def test_one_level_with_a_tolerance_gets_its_steps_from_a_pilot():
    y0 = start()
    found = warned(lambda: auto(equation(None, levels=[spin], costs=[100.0]), tol=0.02), "one level")
    exact = y0 @ torch.linalg.matrix_exp(SPIN).T
    assert float((found.y1 - exact).square().mean().sqrt()) < 0.02
    assert found.stats.pilot_cost > 0


def test_a_dearer_level_that_is_farther_off_is_named():
    levels, costs = (near, far, spin), (1.0, 10.0, 100.0)
    found = warned(
        lambda: auto(equation(levels=levels, costs=costs), budget=3200.0), "level 2", "dearer than level 1", "farther"
    )
    assert 2 not in found.recommendation.levels


def test_a_level_that_costs_less_than_the_one_below_is_named():
    levels, costs = (near, near, spin), (10.0, 1.0, 100.0)
    slightly = lambda t, y: near(t, y) + 0.01 * torch.cos(y)  # noqa: E731
    warned(
        lambda: auto(equation(levels=(slightly, *levels[1:]), costs=costs), budget=3200.0),
        "level 2 is not dearer than level 1",
    )


def test_identical_levels_are_named():
    levels, costs = (near, spin, spin), (1.0, 50.0, 100.0)
    found = warned(
        lambda: auto(equation(levels=levels, costs=costs), budget=3200.0), "levels 2 and 3 are the same", "leave"
    )
    assert 3 not in found.recommendation.levels


def test_a_run_too_small_for_a_pilot_takes_the_top_level_unseen():
    found = warned(lambda: auto(y0=start(1), budget=800.0), "1 trajectories", "too small for a pilot", "calibration=")
    assert (found.recommendation.level, found.plan.steps, found.stats.pilot_cost) == (2, 8, 0.0)
    assert found.stats.cost == 800.0
    assert math.isnan(found.error)
    found = warned(lambda: auto(y0=start(1), steps=12), "too small for a pilot")
    assert torch.equal(found.y1, mlsde.solve(equation(), start(1), (0, 1), steps=12).y1)


def test_a_budget_below_a_step_of_the_top_level_takes_one_that_it_pays_for():
    found = warned(lambda: auto(y0=start(1), budget=40.0), "too small for a pilot")
    assert (found.recommendation.level, found.plan.steps) == (1, 40)


def test_so_of_a_ladder_of_differences_whose_levels_cost_what_is_summed_up():
    parts = mlsde.DriftHierarchy.from_differences([near, lambda t, y: -0.1 * y, lambda t, y: 0.1 * y], [30, 10, 100])
    found = warned(lambda: auto(mlsde.SDE(parts), start(1), budget=95.0), "too small for a pilot")
    assert (found.recommendation.level, found.plan.steps, found.stats.cost) == (2, 2, 80.0)


def test_a_tolerance_below_the_rounding_of_float32_is_warned_of():
    sde, y0 = equation(None, levels=[near, spin]), start(dtype=torch.float32)
    found = warned(lambda: auto(sde, y0, tol=1e-8, method="heun"), "tol=1e-08 is below", "float32", "use float64")
    assert found.error > 1e-8


def test_a_tolerance_that_no_sensible_number_of_steps_reaches_is_warned_of():
    """Of 32 steps at most, because 20 000 would take long to run."""
    found = warned(lambda: auto(tol=1e-7, steps=32), "tol=1e-07 is below what the step of the top level lets this run")
    assert found.plan.steps == 32
    exact = mlsde.solve(equation(), start(), (0, 1), steps=32).y1
    assert float((found.y1 - exact).square().mean().sqrt()) < 0.01


# refusals


def refused(call, error, *words):
    """``call`` raises ``error`` from a check of this package or a room of it, in one sentence with ``words``."""
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert type(caught.value) is error
    assert "/mlsde/" in str(caught.traceback[-1].path), "raised in the depths, not by a check"
    assert "raise " in str(caught.traceback[-1].statement)
    assert message.endswith((".", ").")), message
    assert "\n" not in message
    assert len(re.findall(r"[a-z)][.] [A-Z]", message)) == 0, "more than one sentence"
    missing = [word for word in words if word not in message]
    assert not missing, f"{missing} not in {message!r}"


def other_ladder():
    return equation(levels=(far, spin))


REFUSALS = {
    "level with auto": (lambda: auto(budget=3200.0, level=1), ValueError, ("level=1", "auto", "give one of the two")),
    "level with a tolerance": (lambda: auto(tol=0.1, level=2), ValueError, ("level=2", "give one of the two")),
    "budget with tol": (lambda: auto(budget=3200.0, tol=0.1), ValueError, ("budget=", "tol=", "got both")),
    "nothing to go by": (auto, ValueError, ("budget=", "tol=", "steps=", "times=", "got none")),
    "budget without auto": (
        lambda: auto(budget=3200.0, multilevel=mlsde.Multilevel(mlsde.Constant([1.0, 0.5]))),
        ValueError,
        ("budget= goes with multilevel=",),
    ),
    "calibration without auto": (
        lambda: auto(calibration=calibrated(), steps=8, multilevel=mlsde.Multilevel(mlsde.Constant([1.0, 0.5]))),
        ValueError,
        ("calibration= goes with multilevel=",),
    ),
    "a word that is not auto": (lambda: auto(steps=8, multilevel="best"), TypeError, ("multilevel", "'best'")),
    "steps and times": (lambda: auto(budget=800.0, steps=8, times=[0.0, 1.0]), ValueError, ("got both",)),
    "no span": (lambda: auto(budget=800.0, t_span=None), TypeError, ("t_span",)),
    "a negative budget": (lambda: auto(budget=-1.0), ValueError, ("budget must be above zero, got -1.0",)),
    "a budget that is not finite": (lambda: auto(budget=math.inf), ValueError, ("budget must be finite",)),
    "a budget in words": (lambda: auto(budget="much"), TypeError, ("budget must be a number",)),
    "no tolerance": (lambda: auto(tol=0), ValueError, ("tol must be above zero",)),
    "a budget below the least": (lambda: auto(budget=0.5), ValueError, ("budget=0.5", "does not pay for")),
    "so with a calibration": (
        lambda: auto(budget=0.5, calibration=calibrated()),
        ValueError,
        ("budget=0.5", "does not pay for the least"),
    ),
    "a method that is not known": (lambda: auto(budget=800.0, method="rk4"), ValueError, ("method='rk4'",)),
    "a method that makes no sense": (lambda: auto(budget=3200.0, method="milstein"), ValueError, ("milstein",)),
    "no calibration": (
        lambda: auto(budget=800.0, calibration=0.1),
        TypeError,
        ("calibration must be an mlsde.Calibration", "float"),
    ),
    "a calibration of another ladder": (
        lambda: auto(other_ladder(), budget=800.0, calibration=calibrated()),
        ValueError,
        ("calibration is of another ladder",),
    ),
    "a calibration with another method": (
        lambda: auto(equation(), budget=800.0, method="heun", calibration=calibrated()),
        ValueError,
        ("method='euler'", "'heun'", "make them agree"),
    ),
    "a calibration of another span": (
        lambda: auto(t_span=(0.0, 9.0), budget=800.0, calibration=calibrated()),
        ValueError,
        ("calibration was measured from t=0 to 1", "from 0 to 9"),
    ),
    "so with steps": (
        lambda: auto(t_span=(1.0, 0.0), steps=20, calibration=calibrated()),
        ValueError,
        ("calibration was measured from t=0 to 1", "from 1 to 0"),
    ),
    "so with times": (
        lambda: auto(t_span=None, times=[0.5, 0.7, 1.0], calibration=calibrated()),
        ValueError,
        ("calibration was measured from t=0 to 1", "from 0.5 to 1"),
    ),
    "no equation": (lambda: auto(near, budget=800.0), TypeError, ("sde must be an mlsde.SDE",)),
    "no state": (lambda: auto(y0=[1.0], budget=800.0), TypeError, ("y0 must be a torch.Tensor",)),
    "a state that is not finite": (
        lambda: auto(y0=start() * math.nan, tol=0.1),
        ValueError,
        ("y0 must be finite",),
    ),
    "too few seeds": (lambda: auto(budget=3200.0, seed=[1, 2]), ValueError, ("seed holds 2 seeds", "64 samples")),
    "a negative seed": (lambda: auto(budget=3200.0, seed=-1), ValueError, ("seed must not be negative",)),
}


@pytest.mark.parametrize(("call", "error", "words"), REFUSALS.values(), ids=REFUSALS.keys())
def test_what_makes_no_sense_is_refused_in_a_sentence(call, error, words):
    refused(call, error, *words)


def test_a_top_level_that_breaks_in_the_pilot_stops_with_its_name():
    sde = equation(None, levels=(spin, lambda t, y: 1e9 * y**5))
    with pytest.raises(mlsde.NonFiniteError, match="drift level 2 became NaN or infinite"):
        auto(sde, budget=3200.0)


def test_a_level_that_is_not_finite_along_the_pilot_is_not_chosen():
    def broken(t, y):
        return torch.full_like(y, math.nan)

    with pytest.warns(UserWarning, match="level 1 became NaN or infinite along the pilot"):
        found = auto(equation(levels=(broken, near, spin), costs=(1.0, 10.0, 100.0)), budget=12_800.0)
    assert 1 not in found.recommendation.levels
    assert_sound(found)


def test_a_budget_of_a_ladder_without_prices_is_in_seconds_and_says_so():
    sde = mlsde.SDE(mlsde.DriftHierarchy([lambda t, y: -y, lambda t, y: -torch.sin(y)]), 0.5)
    with pytest.raises(ValueError, match=r"budget=2500.0 is in seconds .* costs="):
        mlsde.solve(sde, torch.zeros(10, 2), (0.0, 1.0), multilevel="auto", budget=2500.0)


def test_what_a_pilot_warns_of_points_to_the_caller():
    drift = mlsde.DriftHierarchy([lambda t, y: -y, lambda t, y: -y], costs=[1.0, 50.0])
    with pytest.warns(UserWarning, match="are the same along the pilot") as caught:
        mlsde.solve(mlsde.SDE(drift, 0.5), torch.ones(200, 2), (0.0, 1.0), multilevel="auto", budget=2500.0)
    assert all(one.filename == __file__ for one in caught)
