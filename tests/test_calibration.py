"""Calibration from end to end: what is recommended, what it is said to cost and to miss by, and what it really does."""

import math
from functools import cache

import numpy as np
import pytest
import torch

import mlsde
from mlsde.calibration import advice
from mlsde.plan import fixed_plan, multilevel_plan
from mlsde.steppers import METHODS

F64 = torch.float64
SPIN = torch.tensor([[-0.5, 1.5], [-1.5, -0.5]], dtype=F64)
NOISES = {
    "ode": {},
    "additive": {"diffusion": 0.3},
    "diagonal": {"diffusion": lambda t, y: 0.3 * y, "noise": "diagonal"},
    "linear": {"diffusion": 0.3, "linear": -0.5},
}
METHODS_AND_NOISES = [
    ("euler", "ode"), ("euler", "additive"), ("euler", "diagonal"), ("heun", "ode"), ("heun", "additive"),
    ("milstein", "diagonal"), ("exponential", "linear"),
]  # fmt: skip
BUDGETS = (400.0, 1600.0, 6400.0)


def spin(t, y):
    return y @ SPIN.to(y).T


def near(t, y):
    return spin(t, y) + 0.2 * torch.sin(y.flip(1))


def flutter(t, y):
    return spin(t, y) + 5.0 * torch.sin(400.0 * y + 1000.0 * t)


def start(samples=64):
    return torch.as_tensor(np.random.default_rng(0).standard_normal((samples, 2)))


def smooth(noise="ode", costs=(1.0, 100.0)):
    """Two levels that differ a little, and smoothly."""
    return mlsde.SDE(mlsde.DriftHierarchy([near, spin], list(costs)), **NOISES[noise])


def rough():
    """Two levels of nearly the same price that differ much, and roughly."""
    return mlsde.SDE(mlsde.DriftHierarchy([spin, flutter], [1.0, 1.0 + 1e-7]))


def split(noise="ode"):
    """The smooth ladder by its differences."""
    parts = [near, lambda t, y: -0.2 * torch.sin(y.flip(1))]
    return mlsde.SDE(mlsde.DriftHierarchy.from_differences(parts, [1.0, 100.0]), **NOISES[noise])


LADDERS = {"smooth": smooth, "split": split}


@cache
def calibrated(noise="ode", method="euler", ladder="smooth", steps=64):
    return mlsde.calibrate(
        LADDERS[ladder](noise), start(), (0, 1), steps=steps, method=method, pilot_steps=16, pilot_samples=16
    )


@cache
def truth(noise, fine=1024):
    """A path and where the exact solution of the top level ends on it."""
    sde, y0 = smooth(noise), start()
    path = None if sde.is_ode else mlsde.BrownianPath(0.0, 1.0, like=y0, seed=77)
    method = "heun" if sde.is_ode or sde.additive else "milstein"
    return path, mlsde.solve(sde, y0, (0, 1), steps=fine, method=method, brownian=path).y1


def true_error(noise, found):
    return math.sqrt(float((found.y1 - truth(noise)[1]).square().mean()))


def expected_cost(found):
    """Of a recommendation, by the plan of the run itself."""
    stages = METHODS[found.method].stages
    if found.multilevel is None:
        return fixed_plan(found.level, found.times, found.sde.drift, stages=stages).expected_cost
    return multilevel_plan(found.multilevel, found.times, found.sde.drift, stages=stages).expected_cost


# what is chosen


def test_where_nothing_pays_one_level_is_taken_alone_and_the_reason_is_given():
    cal = mlsde.calibrate(rough(), start(), (0, 1), steps=64, pilot_steps=16, pilot_samples=4)
    for budget in (32.0, 128.0):
        found = cal.recommend(budget=budget)
        assert found.kind == "plain" and found.multilevel is None
        assert (found.levels, found.level) == ((2,), 2)
        assert found.steps == int(budget / (1.0 + 1e-7))
        assert "The ladder does not pay here" in found.why or "has the least predicted error" in found.why


@pytest.mark.parametrize("noise", ["ode", "additive", "diagonal"])
def test_where_it_pays_coins_are_chosen_and_are_better_than_the_best_plain_run_in_hindsight(noise):
    budget, (path, _) = 1600.0, truth(noise)
    found = calibrated(noise).recommend(budget=budget)
    assert found.kind == "multilevel" and found.levels == (1, 2)
    run = found.solve(start(), brownian=path)
    error = true_error(noise, run)
    plain = [
        mlsde.solve(smooth(noise), start(), (0, 1), steps=n, level=level, brownian=path)
        for level, n in ((1, 512), (1, 64), (2, 16), (2, 8))
    ]
    assert error < 0.5 * min(true_error(noise, one) for one in plain)
    assert error == pytest.approx(found.predicted_error, rel=1.0)
    assert run.stats.cost <= 1.1 * budget


def test_its_rivals_are_worse_by_its_own_account_and_told_in_words():
    found = calibrated().recommend(budget=1600.0)
    assert len(found.rivals) >= 1
    for words, error in found.rivals:
        assert error > found.predicted_error
        assert "level" in words and "steps" in words
    assert f"predicted to miss by {found.rivals[0][1] / found.predicted_error:.3g} times as much" in found.why


def test_a_stranger_below_the_top_is_left_out_and_what_helps_is_kept():
    levels = [near, lambda t, y: spin(t, y) + 3.0 * torch.sin(5.0 * y), spin]
    sde = mlsde.SDE(mlsde.DriftHierarchy(levels, [1.0, 10.0, 100.0]))
    cal = mlsde.calibrate(sde, start(), (0, 1), steps=64, pilot_steps=16, pilot_samples=4)
    found = cal.recommend(budget=1600.0)
    assert found.levels == (1, 3)
    assert any("level 2 is dearer than level 1 but farther from the top level" in one for one in cal.warnings)


# what it costs


def by_the_clock(found):
    """Whether its coins are without chance, so that what they cost is a whole number of firings."""
    return found.multilevel is not None and found.multilevel.coins == "periodic"


@pytest.mark.parametrize("ladder", LADDERS)
@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize(("method", "noise"), METHODS_AND_NOISES)
def test_the_predicted_cost_is_the_plans_and_within_the_budget(method, noise, budget, ladder):
    found = calibrated(noise, method, ladder).recommend(budget=budget)
    whole = 101.0 * METHODS[method].stages if by_the_clock(found) else 0.0
    assert found.predicted_cost == pytest.approx(expected_cost(found), rel=0.02, abs=whole)
    assert max(found.predicted_cost, expected_cost(found)) <= budget * (1 + 1e-6)
    assert expected_cost(found) > 0.5 * budget
    assert found.method == method
    if method == "heun" and found.multilevel is not None:
        assert found.multilevel.correction in ("hold", "extrapolate")


@pytest.mark.parametrize("budget", BUDGETS)
def test_a_larger_budget_is_predicted_to_miss_by_less(budget):
    cal = calibrated()
    assert cal.recommend(budget=2 * budget).predicted_error < cal.recommend(budget=budget).predicted_error


def test_a_budget_pays_for_the_steps_that_are_asked_for_or_is_refused():
    cal = calibrated()
    found = cal.recommend(budget=1600.0, steps=200)
    assert found.steps == 200 and len(found.times) == 201
    assert expected_cost(found) <= 1600.0 * (1 + 1e-6)
    with pytest.raises(ValueError, match="budget=20 does not pay for the least that a run costs"):
        cal.recommend(budget=20.0, steps=200)
    with pytest.raises(ValueError, match=r"budget=0\.5 does not pay for the least that a run costs"):
        cal.recommend(budget=0.5)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"budget": 1.0, "tol": 1.0}, ValueError, "give one of budget= and tol=, got both"),
        ({"budget": -1.0}, ValueError, "budget must be above zero"),
        ({"budget": "much"}, TypeError, "budget must be a number"),
        ({"tol": 0.0}, ValueError, "tol must be above zero"),
        ({"tol": math.nan}, ValueError, "tol must be finite"),
        ({"budget": 100.0, "steps": 2.5}, TypeError, "steps must be a positive integer"),
        ({"budget": 100.0, "share": "all"}, ValueError, "share='all' is not known"),
    ],
)
def test_senseless_wishes_are_refused(options, error, words):
    with pytest.raises(error, match=words):
        calibrated().recommend(**options)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"pilot_steps": 12}, ValueError, "pilot_steps must be a multiple of 8"),
        ({"pilot_steps": 0}, ValueError, "pilot_steps must be a positive integer"),
        ({"pilot_samples": 0}, ValueError, "pilot_samples must be a positive integer"),
        ({"share": 0.0}, ValueError, "share must be above 0 and at most 1, got 0.0"),
        ({"share": 1.5}, ValueError, "share must be above 0 and at most 1, got 1.5"),
        ({"trajectories": 0}, ValueError, "trajectories must be a positive integer"),
        ({"budget": 0}, ValueError, "budget must be above zero"),
        ({"seed": -1}, ValueError, "seed must not be negative"),
        ({"method": "rk4"}, ValueError, "method='rk4' is not known"),
        ({"steps": None}, ValueError, "give one of steps="),
    ],
)
def test_senseless_pilots_are_refused(options, error, words):
    with pytest.raises(error, match=words):
        mlsde.calibrate(smooth(), start(), (0, 1), **{"steps": 64, **options})


# a tolerance, or neither


@pytest.mark.parametrize("tol", [0.03, 0.003])
@pytest.mark.parametrize(("method", "noise"), METHODS_AND_NOISES)
def test_a_tolerance_is_kept_in_truth(method, noise, tol):
    """Coins of three seeds; by their luck one may miss, but not all of them."""
    found, (path, _) = calibrated(noise, method).recommend(tol=tol), truth(noise)
    assert found.predicted_error <= tol / advice.MARGIN * (1 + 1e-9)
    errors = [true_error(noise, found.solve(start(), brownian=path, seed=seed)) for seed in range(3)]
    assert np.median(errors) < tol


def test_a_tighter_tolerance_costs_more():
    costs = [calibrated().recommend(tol=tol).predicted_cost for tol in (0.1, 0.01, 0.001)]
    assert costs[0] < costs[1] < costs[2]


@pytest.mark.parametrize(("noise", "method"), [("ode", "euler"), ("additive", "euler"), ("ode", "heun")])
def test_a_tolerance_with_steps_that_cannot_reach_it_warns_and_takes_the_best(noise, method):
    cal = calibrated(noise, method)
    found = cal.recommend(tol=1e-9, steps=10)
    assert found.steps == 10
    assert any(one.startswith("tol=1e-09 is below what the step of the top level") for one in found.warnings)
    top = math.sqrt(float(cal.model.step_square(10)))
    assert found.predicted_error <= 1.01 * top


def test_with_neither_it_is_as_accurate_as_the_top_level_on_the_grid_for_less():
    found, (path, _) = calibrated("additive").recommend(), truth("additive")
    assert found.steps == 64
    assert found.predicted_cost < 0.7 * 6400
    plain = true_error("additive", mlsde.solve(smooth("additive"), start(), (0, 1), steps=64, brownian=path))
    assert true_error("additive", found.solve(start(), brownian=path)) < 1.3 * plain


def test_where_nothing_is_cheaper_it_is_the_top_level_itself():
    cal = mlsde.calibrate(rough(), start(), (0, 1), steps=64, pilot_steps=16, pilot_samples=4)
    found = cal.recommend()
    assert (found.kind, found.level, found.steps) == ("plain", 2, 64)


# grids


def test_an_explicit_uneven_grid_is_thinned_and_refined_evenly():
    times = np.linspace(0.0, 1.0, 65) ** 2
    cal = mlsde.calibrate(smooth(), start(), times=times, pilot_steps=16, pilot_samples=4)
    np.testing.assert_allclose(cal.recording.times, times[::4])
    np.testing.assert_array_equal(cal.grid(64), times)
    np.testing.assert_allclose(cal.grid(32), times[::2])
    np.testing.assert_allclose(cal.grid(128)[::2], times)
    found = cal.recommend(budget=1600.0)
    assert found.times[0] == 0.0 and found.times[-1] == 1.0 and (np.diff(found.times) > 0).all()
    gaps = np.diff(found.times)
    assert gaps[-1] > 3 * gaps[0]
    assert true_error("ode", found.solve(start())) == pytest.approx(found.predicted_error, rel=1.0)


def test_time_may_run_backwards():
    cal = mlsde.calibrate(smooth(), start(), (1, 0), steps=64, pilot_steps=16, pilot_samples=4)
    found = cal.recommend(budget=1600.0)
    assert (found.times[0], found.times[-1]) == (1.0, 0.0)
    end = found.solve(start()).y1
    exact = start() @ torch.linalg.matrix_exp(-SPIN).T
    error = math.sqrt(float((end - exact).square().mean()))
    assert error == pytest.approx(found.predicted_error, rel=1.0)
    assert cal.variances.times[0] < cal.variances.times[-1]
    assert cal.sensitivity(0.0) == pytest.approx(1.0, rel=0.2)


# what it tells of a ladder


def test_the_fields_terms_are_those_of_the_package():
    cal = calibrated("additive")
    assert isinstance(cal.variances, mlsde.LevelVariances)
    np.testing.assert_array_equal(cal.variances.values, cal.recording.variances)
    rule = mlsde.Optimal(cal.variances, budget=800.0, sensitivity=cal.sensitivity)
    run = mlsde.solve(cal.sde, start(), (0, 1), steps=64, multilevel=mlsde.Multilevel(rule))
    assert run.plan.expected_cost == pytest.approx(800.0, rel=0.01)
    assert cal.cost == cal.price / 64
    assert cal.predicted_step_error(64) == pytest.approx(math.sqrt(float(cal.model.step_square(64))))


def test_smoothness_is_the_exponent_of_the_increments():
    levels = [spin, lambda t, y: spin(t, y) + torch.cos(t) * torch.ones_like(y), lambda t, y: spin(t, y) + 0.1]
    sde = mlsde.SDE(mlsde.DriftHierarchy([levels[2], *levels[:2]], [1.0, 8.0, 64.0]))
    cal = mlsde.calibrate(sde, start(), (0, 1), steps=64, pilot_steps=32, pilot_samples=2)
    assert math.isnan(cal.smoothness[1])
    assert cal.smoothness[0] == pytest.approx(2.0, abs=0.1) and cal.smoothness[2] == pytest.approx(2.0, abs=0.1)
    noisy = mlsde.SDE(mlsde.DriftHierarchy([near, spin], [1.0, 100.0]), 1.0)
    cal = mlsde.calibrate(noisy, start(), (0, 1), steps=64, pilot_steps=32, pilot_samples=16)
    assert cal.smoothness[0] == pytest.approx(1.0, abs=0.3)


def test_the_frontier_falls_and_what_is_recommended_is_never_worse_than_the_best_plain():
    cal = calibrated()
    frontier = cal.frontier([200.0, 800.0, 3200.0])
    assert set(frontier) == {"plain", "paper", "recommended"}
    for row in frontier.values():
        assert (np.diff(row) < 0).all()
    assert all(a <= b for a, b in zip(frontier["recommended"], frontier["plain"], strict=True))
    assert cal.frontier([0.1])["plain"] == [math.inf]


def test_printing_a_calibration_and_a_recommendation_tells_the_numbers():
    cal = calibrated("additive")
    shown = repr(cal)
    assert "16 runs of 16 steps by euler" in shown and "costs declared" in shown
    assert all(name in shown for name in ("level 1", "level 2", "V_k", "smoothness", "gamma", "sensitivity"))
    assert "predicted for 64 steps of the top level" in shown
    found = cal.recommend(budget=1600.0)
    assert repr(found).startswith(f"Recommendation: {found.describe()}")
    assert found.why in repr(found) and f"{found.predicted_cost:g}" in repr(found)
    assert 1 <= len(found.why.rstrip(".").split(". ")) <= 3


def test_the_table_of_a_recommendation_is_what_its_run_fires_with():
    found = calibrated().recommend(budget=1600.0)
    table = found.table()
    assert table.shape == (found.steps, 2)
    np.testing.assert_array_equal(table, found.solve(start()).plan.probabilities)
    plain = mlsde.calibrate(rough(), start(), (0, 1), steps=64, pilot_steps=8, pilot_samples=2).recommend(budget=32.0)
    np.testing.assert_array_equal(plain.table(), np.ones((plain.steps, 1)))


def test_coins_can_be_each_samples_own():
    found = calibrated("additive").recommend(budget=1600.0, share="sample")
    assert found.multilevel.share == "sample"
    run = found.solve(start(), seed=list(range(64)))
    assert run.stats.cost == pytest.approx(found.predicted_cost, rel=0.1)
    part = found.solve(start()[10:20], seed=list(range(10, 20)))
    assert torch.equal(part.y1, run.y1[10:20])
    assert calibrated("additive").recommend(budget=1600.0).multilevel.share == "batch"


def test_a_pilot_grows_steadily_and_never_beyond_its_price():
    from mlsde.calibration.measure import size

    sizes = [size(pairs) for pairs in range(16, 4000)]
    products = [n * samples for n, samples in sizes]
    assert all(product <= pairs for product, pairs in zip(products, range(16, 4000), strict=True))
    assert all(n % 8 == 0 for n, _ in sizes)
    assert (np.diff(products) >= 0).all()


def test_without_sizes_the_pilot_costs_its_share_of_the_run():
    for share in (0.05, 0.2):
        cal = mlsde.calibrate(smooth("additive"), start(), (0, 1), steps=400, share=share)
        assert 0.5 * share < cal.cost / (400 * 100.0) <= 1.02 * share
        assert cal.recording.crowd == (0, 0)
        many = mlsde.calibrate(smooth("additive"), start(), (0, 1), steps=400, share=share, crowd=True)
        assert 0.5 * share < many.cost / (400 * 100.0) <= 1.02 * share
        assert many.recording.crowd[0] >= 8 * many.recording.samples


def test_a_share_that_pays_for_nothing_warns_in_a_sentence():
    cal = mlsde.calibrate(smooth(), start(1), (0, 1), steps=8)
    assert cal.warnings[0].startswith("share=0.1 of a run of 1 trajectories pays for no pilot")
    assert (cal.recording.steps, cal.recording.samples) == (8, 1)


def test_a_pilot_whose_steps_are_too_long_for_a_stiff_equation_says_so_and_one_of_enough_steps_does_not():
    """``1 - 100 / 16`` is far from a decay, ``1 - 100 / 200`` is one."""
    levels = [lambda t, y: -100.0 * y, lambda t, y: -100.0 * y + 0.1 * torch.sin(y)]
    sde = mlsde.SDE(mlsde.DriftHierarchy(levels, [1.0, 20.0]), 0.5)
    y0 = torch.ones(64, 2, dtype=torch.float64)
    stiff = mlsde.calibrate(sde, y0, (0.0, 1.0), steps=400, pilot_steps=16)
    (warning,) = [one for one in stiff.warnings if "errors grow" in one]
    assert "its 16 steps are too long for this equation" in warning and "give pilot_steps=" in warning
    assert warning in stiff.recommend(budget=1000.0).warnings
    fine = mlsde.calibrate(sde, y0, (0.0, 1.0), steps=400, pilot_steps=400)
    assert not any("errors grow" in one for one in fine.warnings)


# files


def same(a, b):
    assert a.describe() == b.describe() and a.why == b.why and a.rivals == b.rivals
    assert (a.predicted_error, a.predicted_cost) == (b.predicted_error, b.predicted_cost)
    np.testing.assert_array_equal(a.times, b.times)
    np.testing.assert_array_equal(a.table(), b.table())


@pytest.mark.parametrize("ladder", LADDERS)
def test_a_calibration_that_was_saved_recommends_the_same(tmp_path, ladder):
    cal = calibrated("additive", "euler", ladder)
    cal.save(tmp_path / "deep" / "pilot.npz")
    sde = cal.sde.with_drift(cal.sde.drift.priced([5.0, 6.0]))
    known = mlsde.Calibration.load(tmp_path / "deep" / "pilot.npz", sde, (0, 1), steps=64, trajectories=64)
    for options in ({"budget": 1600.0}, {"budget": 700.0, "steps": 48}, {"tol": 0.01}, {}):
        same(cal.recommend(**options), known.recommend(**options))
    assert (known.gamma, known.cost) == (pytest.approx(cal.gamma, nan_ok=True), cal.cost)
    assert repr(known) == repr(cal)
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["pilot.npz"]


def test_it_serves_another_grid_of_the_same_span_with_or_without_saying_the_span(tmp_path):
    calibrated().save(tmp_path / "pilot.npz")
    times = np.linspace(0, 1, 101) ** 2
    load = mlsde.Calibration.load
    assert len(load(tmp_path / "pilot.npz", smooth(), steps=100).times) == 101
    assert len(load(tmp_path / "pilot.npz", smooth(), (0, 1), steps=100).times) == 101
    np.testing.assert_array_equal(load(tmp_path / "pilot.npz", smooth(), times=times).times, times)
    assert len(load(tmp_path / "pilot.npz", smooth()).times) == 17


def of_another_format(file):
    with np.load(file) as archive:
        arrays = dict(archive)
    arrays["rest"] = np.array(str(arrays["rest"]).replace('"format": ', '"format": 9'))
    np.savez(file, **arrays)


def without_an_array(file):
    with np.load(file) as archive:
        arrays = {name: archive[name] for name in archive.files if name != "gaps"}
    np.savez(file, **arrays)


DAMAGES = {
    "half of it": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "nothing": lambda file: file.write_bytes(b""),
    "text": lambda file: file.write_text("gamma is 2.5"),
    "a byte": lambda file: file.write_bytes(file.read_bytes()[:5000] + b"?" + file.read_bytes()[5001:]),
    "an array": lambda file: file.write_bytes(b"") or np.save(file.open("wb"), np.ones(3)),
    "another archive": lambda file: np.savez(file, a=np.ones(3)),
    "another format": of_another_format,
    "an array less": without_an_array,
}


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused_in_a_sentence(tmp_path, damage):
    file = tmp_path / "pilot.npz"
    calibrated().save(file)
    DAMAGES[damage](file)
    with pytest.raises(ValueError, match=r"^file='.*pilot.npz' is not a whole calibration .*; calibrate anew, .*\.$"):
        mlsde.Calibration.load(file, smooth())


def test_a_file_that_is_not_there_is_another_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        mlsde.Calibration.load(tmp_path / "pilot.npz", smooth())


def test_a_calibration_of_another_ladder_or_span_is_refused(tmp_path):
    file = tmp_path / "pilot.npz"
    calibrated().save(file)
    three = mlsde.SDE(mlsde.DriftHierarchy([near, near, spin], [1.0, 2.0, 3.0]))
    named = mlsde.SDE(mlsde.DriftHierarchy([near, spin], [1.0, 2.0], names=["small", "large"]))
    for other, name in ((three, "level 3"), (named, "small, large")):
        with pytest.raises(ValueError, match=f"is of a ladder with levels level 1, level 2, but this one has .*{name}"):
            mlsde.Calibration.load(file, other)
    for options in ({"steps": 10, "t_span": (0, 2)}, {"times": [0.5, 1.0]}, {"t_span": (1, 0)}):
        with pytest.raises(ValueError, match=r"was measured from 0.0 to 1.0; calibrate anew"):
            mlsde.Calibration.load(file, smooth(), **options)


def test_prices_in_seconds_are_those_of_a_batch_like_the_runs():
    """In a small batch both cost a call, and a ladder of a thousand to one looks like one of nearly equal prices."""
    sizes = []

    def level(work):
        def drift(t, y):
            sizes.append(len(y))
            for _ in range(work):
                y = y * 1.0000001
            return -y

        return drift

    sde = mlsde.SDE(mlsde.DriftHierarchy([level(1), level(200)]), 0.5)
    cal = mlsde.calibrate(sde, torch.ones(4096, 4), (0, 1), steps=1000, pilot_steps=8, pilot_samples=2)
    assert cal.recording.unit == "seconds" and sizes.count(4096) == 2 * (3 + 1)
    sizes.clear()
    mlsde.calibrate(sde, torch.ones(20, 4), (0, 1), steps=1000, pilot_steps=8, pilot_samples=2)
    assert set(sizes) == {1, 2, 20}
    sizes.clear()
    declared = mlsde.SDE(mlsde.DriftHierarchy([level(1), level(200)], [1.0, 200.0]), 0.5)
    mlsde.calibrate(declared, torch.ones(4096, 4), (0, 1), steps=1000, pilot_steps=8, pilot_samples=2)
    assert set(sizes) == {1, 2}
