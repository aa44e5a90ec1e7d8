"""The study of choices: what counts as best in hindsight, what is charged, and choosers that must fail it."""

import json
import math
import shutil
from dataclasses import replace

import pytest
import torch

import mlsde
from mlsde import problems
from mlsde.chunks.results import Results
from mlsde.problems.kinds import ladder, system
from mlsde.study import auto as room_of_auto
from mlsde.study import choice as room
from mlsde.study import choice_report, hindsight
from mlsde.study.auto import Auto
from mlsde.study.choice import Choice, choice
from mlsde.study.hindsight import Best, Hindsight, error_of, fine_batch, fine_run
from mlsde.study.runners import Spent
from mlsde.study.trials import Batch

SMALL = {
    "trajectories": 16,
    "budgets": (8, 32),
    "seeds": 2,
    "most_steps": 128,
    "most_coin_steps": 128,
    "reference_steps": 6144,
}


def smooth():
    return ladder("smooth", system("rotations", 8), gamma=3.0)


def exact_error(problem, y0, states, brownian):
    """What a clairvoyant would foresee."""
    return hindsight.root_mean_square(states - fine_run(problem, y0, brownian, 1536))


def spread_coins(problem, y0, budget, *, charged, seed, brownian):
    """The rule that suits smooth differences, with its true error as the prediction."""
    pilot = 0.05 * budget if charged else 0.0
    law = mlsde.PowerLaw(problem.gamma, budget=0.9 * (budget - pilot), order=2.0)
    done = mlsde.solve(
        problem.sde, y0, problem.t_span, steps=1024, seed=seed, brownian=brownian,
        multilevel=mlsde.Multilevel(law, "systematic", "impulse"),
    )  # fmt: skip
    foreseen = exact_error(problem, y0, done.y1, brownian)
    return Spent(done.y1, done.stats.cost, pilot, foreseen, done.stats.cost, "spread coins")


def always_top(problem, y0, budget, *, charged, seed, brownian):
    """The wrong twin that does not choose."""
    n = int(0.9 * budget / problem.sde.drift.costs[-1])
    done = mlsde.solve(problem.sde, y0, problem.t_span, steps=n, brownian=brownian)
    foreseen = exact_error(problem, y0, done.y1, brownian)
    return Spent(done.y1, done.stats.cost, 0.0, foreseen, done.stats.cost, f"the top level, {n} steps")


def liar(*arguments, **options):
    """The wrong twin that promises twice as much."""
    told = spread_coins(*arguments, **options)
    return Spent(told.states, told.cost, told.pilot, told.predicted_error / 2, told.predicted_cost / 2, "a lie")


def spendthrift(problem, y0, budget, **options):
    """The wrong twin that does not count its pilot."""
    told = spread_coins(problem, y0, budget / 0.8, **options)
    return Spent(told.states, told.cost, told.pilot, told.predicted_error, told.predicted_cost, "too dear")


def broken(*arguments, **options):
    """The wrong twin whose steps are too long."""
    raise mlsde.NonFiniteError("state became NaN.", None, None, "state", None)


@pytest.fixture(scope="module")
def of(tmp_path_factory):
    """The study of a chooser, which is run once; the rivals are the same for all, so they are kept."""
    kept, done = tmp_path_factory.mktemp("kept"), {}

    def run(spend):
        if spend not in done:
            shutil.rmtree(kept / "chooser", ignore_errors=True)
            done[spend] = choice({"smooth-ode": smooth()}, spend, folder=kept, **SMALL)
        return done[spend]

    return run


def test_a_chooser_that_suits_the_problem_meets_every_goal(of):
    summary = of(spread_coins).summary()
    assert summary["charged within 1.25 of the best plain way"] == 1.0
    assert summary["reused within 1.1 of the best plain way"] == 1.0
    assert summary["smooth: error at most a third of the paper's"] == 1.0
    assert summary["foreseen errors within 1.5"] == summary["foreseen costs within 1.5"] == 1.0
    assert summary["within the budget, pilot included"] == 1.0


def test_a_chooser_that_always_takes_the_top_level_fails_but_is_believed(of):
    summary = of(always_top).summary()
    assert summary["smooth: error at most a third of the paper's"] == 0.0
    assert summary["charged within 1.25 of the best plain way"] == 0.0
    assert summary["worst charged"]["ratio"] > 2
    assert summary["foreseen errors within 1.5"] == 1.0


def test_a_chooser_that_lies_fails_the_predictions_alone(of):
    summary = of(liar).summary()
    assert summary["foreseen errors within 1.5"] == summary["foreseen costs within 1.5"] == 0.0
    assert summary["charged within 1.25 of the best plain way"] == 1.0


def test_a_chooser_that_does_not_count_its_pilot_exceeds_the_budget(of):
    assert of(spendthrift).summary()["within the budget, pilot included"] == 0.0


def test_a_chooser_whose_run_breaks_has_an_infinite_error_and_json_says_null(of):
    done = of(broken)
    assert all(math.isinf(cell.charged.error) for cell in done.cells)
    assert done.summary()["charged within 1.25 of the best plain way"] == 0.0
    whole = json.loads(json.dumps(done.as_dict(), allow_nan=False))
    assert whole["cells"][0]["charged"]["error"] is None
    assert "gave up: state became NaN" in repr(done)


def test_one_that_foresees_nothing_is_not_counted_as_right(of):
    def silent(*arguments, **options):
        told = spread_coins(*arguments, **options)
        return Spent(told.states, told.cost, told.pilot)

    summary = of(silent).summary()
    assert summary["foreseen errors within 1.5"] == summary["foreseen costs within 1.5"] == 0.0


def test_the_table_has_a_row_for_each_cell_and_names_those_that_miss(of):
    shown = repr(of(always_top))
    rows = [line for line in shown.splitlines() if line.startswith("smooth-ode")]
    assert len(rows) == 2
    assert "best plain way: level" in shown and "auto chose the top level, 7 steps" in shown
    assert "auto chose" not in repr(of(spread_coins))


def test_json_holds_the_ratios_and_the_summary(of):
    done = of(spread_coins)
    whole = json.loads(json.dumps(done.as_dict(), allow_nan=False))
    cell = whole["cells"][0]
    assert cell["charged_ratio"] == pytest.approx(cell["charged"]["error"] / cell["plain"]["error"])
    assert cell["reused_ratio"] == pytest.approx(cell["reused"]["error"] / cell["plain"]["error"])
    assert cell["paper_ratio"] == pytest.approx(cell["paper"]["error"] / cell["charged"]["error"])
    assert whole["summary"]["worst charged"]["problem"] == "smooth-ode"
    assert whole["smooth"] == ["smooth-ode"]
    assert cell["budget"] == 8 * 8.0**4 and cell["evaluations"] == 8


def test_the_figure_is_drawn_also_where_a_run_broke(of, tmp_path):
    for spend in (spread_coins, broken):
        file = of(spend).figure(tmp_path / "new" / "choice.png")
        assert (tmp_path / "new" / "choice.png").stat().st_size > 10_000 and file.endswith("choice.png")


def test_errors_over_seeds_are_added_in_squares_and_the_dearest_run_counts():
    calls = []

    def counted(problem, y0, budget, *, charged, seed, brownian):
        calls.append((charged, seed))
        return Spent(y0 * 0.0 + 2.0 * seed, 1.0 + seed, 0.5, float(seed), 1.0, f"seed {seed}")

    done = choice({"one": smooth()}, counted, **{**SMALL, "budgets": (8,)})
    assert calls == [(True, 0), (True, 1), (False, 0), (False, 1)]
    measured = done.cells[0].charged
    assert measured.most == 2.5 and measured.cost == 1.5
    assert measured.predicted_error == pytest.approx(math.sqrt(0.5))
    assert measured.chosen == ("seed 0", "seed 1")
    batch, _ = fine_batch(smooth(), 16, 1536, 0, Results(None, {}), "r")
    squares = [error_of(batch, torch.full_like(batch.y0, value)) ** 2 for value in (0.0, 2.0)]
    assert measured.error == pytest.approx(math.sqrt(sum(squares) / 2))


def test_a_killed_study_goes_on_and_comes_out_the_same(of, tmp_path):
    class KilledError(Exception):
        pass

    def killed(problem, y0, budget, *, charged, seed, brownian):
        if not charged and seed == 1:
            raise KilledError
        return spread_coins(problem, y0, budget, charged=charged, seed=seed, brownian=brownian)

    whole = of(spread_coins)
    with pytest.raises(KilledError):
        choice({"smooth-ode": smooth()}, killed, folder=tmp_path, **SMALL)
    asked = []

    def again(*arguments, **options):
        asked.append(options["seed"])
        return spread_coins(*arguments, **options)

    done = choice({"smooth-ode": smooth()}, again, folder=tmp_path, **SMALL)
    assert done == whole and repr(done) == repr(whole)
    assert len(asked) == 2 * 4 - 3
    with pytest.raises(ValueError, match="another computation"):
        choice({"smooth-ode": smooth()}, again, folder=tmp_path, **{**SMALL, "trajectories": 8})
    other = ladder("smooth", system("rotations", 8), gamma=3.0, seed=1)
    with pytest.raises(ValueError, match="another computation"):
        choice({"smooth-ode": other}, again, folder=tmp_path, **SMALL)


@pytest.mark.parametrize(
    "name", ["trajectories", "seeds", "most_steps", "most_coin_steps", "reference_steps", "budgets"]
)
def test_bad_numbers_are_named(name):
    with pytest.raises(ValueError, match=name):
        choice({"one": smooth()}, always_top, **{**SMALL, name: (0,) if name == "budgets" else 0})


def test_what_is_no_problem_is_refused_and_so_is_nothing():
    with pytest.raises(TypeError, match="LadderProblem"):
        choice({"one": smooth().sde}, always_top)
    with pytest.raises(ValueError, match="at least one"):
        choice({}, always_top)


# the best in hindsight


def batch_of(problem, trajectories=16, steps=1536):
    return fine_batch(problem, trajectories, steps, 0, Results(None, {}), "reference")[0]


@pytest.mark.parametrize("noise", ["ode", "additive", "multiplicative"])
def test_the_reference_is_the_exact_solution_of_the_top_level_to_the_gap_it_names(noise):
    made = ladder("smooth", system("rotations", 8), noise, levels=3)
    _, gap = fine_batch(made, 8, 384, 0, Results(None, {}), "r")
    batch, finer_gap = fine_batch(made, 8, 1536, 0, Results(None, {}), "r")
    coarse = fine_run(made, batch.y0, batch.path, 384)
    assert error_of(batch, coarse) < 2 * gap < 0.02
    assert finer_gap < (0.5 if noise != "ode" else 0.1) * gap
    level_2 = mlsde.solve(made.sde, batch.y0, (0.0, 1.0), steps=384, level=2, brownian=batch.path).y1
    assert error_of(batch, level_2) > 5 * gap, "a reference of another level would be seen"


def test_errors_are_root_mean_squares_over_samples_and_components():
    made = smooth()
    batch = batch_of(made)
    off = torch.zeros_like(batch.y0)
    off[0, 0], off[3, 2] = 3.0, 4.0
    assert error_of(batch, batch.reference + off) == pytest.approx(5.0 / math.sqrt(off.numel()))


def every_plain_run(batch, budget, most):
    """Brute force: the least error of every level with every number of steps."""
    best = math.inf
    for level, price in enumerate(batch.problem.sde.drift.costs, start=1):
        for n in range(1, min(int(budget / price), most) + 1):
            done = mlsde.solve(batch.problem.sde, batch.y0, (0.0, 1.0), steps=n, level=level, brownian=batch.path)
            best = min(best, error_of(batch, done.y1))
    return best


def test_the_best_plain_way_is_as_good_as_trying_every_level_with_every_number_of_steps():
    batch = batch_of(ladder("smooth", system("rotations", 8), "additive", gamma=2.0, levels=3))
    budgets = [16 * 4.0, 16 * 11.0]
    found = Hindsight(batch, budgets, 48, 48, Results(None, {}))
    for budget in budgets:
        exact = every_plain_run(batch, budget, 48)
        best = found.plain(budget)
        assert exact * (1 - 1e-12) <= best.error < 1.05 * exact
        assert best.cost <= budget
    top_only = min(error for error in [found._error(steps=n, level=3) for n in (2, 4)])
    assert found.plain(budgets[0]).error < 0.8 * top_only, "a rival that is the top level alone is too weak"


def test_no_rival_spends_more_than_the_budget_and_more_budget_is_never_worse():
    batch = batch_of(smooth())
    budgets = [4096.0 * 2, 4096.0 * 8, 4096.0 * 32]
    found = Hindsight(batch, budgets, 128, 128, Results(None, {}))
    for way in (found.plain, found.heun, found.stitched):
        runs = [way(budget) for budget in budgets]
        assert all(run.cost <= budget * (1 + 1e-9) for run, budget in zip(runs, budgets, strict=True))
        errors = [run.error for run in runs]
        assert errors == sorted(errors, reverse=True)
    for budget in budgets:
        assert found.paper(budget).cost == pytest.approx(budget, rel=0.25)


def test_the_papers_rule_with_coins_of_its_own_for_each_sample_errs_as_in_the_mean_over_seeds_of_shared_coins():
    """Of 40 seeds; the standard error of the mean square is about a twelfth of it: within 5, a false alarm in 10^6."""
    problem, steps = smooth(), 64
    batch = batch_of(problem, 64)
    law = mlsde.PowerLaw(3.0, budget=8 * 4096.0)

    def square(share, seed):
        rule = mlsde.Multilevel(law, "independent", "impulse", share)
        done = mlsde.solve(problem.sde, batch.y0, (0.0, 1.0), steps=steps, multilevel=rule, seed=seed)
        return error_of(batch, done.y1) ** 2

    shared = torch.tensor([square("batch", seed) for seed in range(40)])
    own = torch.tensor([square("sample", seed) for seed in range(4)])
    slack = 5 * float(shared.std() / math.sqrt(40) + own.std() / 2)
    assert abs(float(shared.mean() - own.mean())) < slack < 0.8 * float(own.mean())


def test_a_ladder_of_differences_pays_for_the_levels_below():
    drift = mlsde.DriftHierarchy.from_differences([lambda t, y: -y, lambda t, y: 0.1 * y], [1.0, 3.0])
    assert hindsight.prices(drift) == (1.0, 4.0)
    assert hindsight.prices(smooth().sde.drift) == (1.0, 8.0, 64.0, 512.0, 4096.0)


def test_a_rival_whose_steps_are_too_long_to_stay_finite_is_not_the_best():
    wild = mlsde.DriftHierarchy([lambda t, y: -(y**7), lambda t, y: -(y**7) * 1.001], [1.0, 2.0])
    problem = problems.LadderProblem("wild", mlsde.SDE(wild), 3.0 * torch.ones(2, 1, dtype=torch.float64))
    batch = Batch(replace(problem, reference=lambda y, path: torch.zeros_like(y)), problem.initial(2), (0, 1), 8)
    best = Hindsight(batch, [32.0], 16, 16, Results(None, {})).plain(32.0)
    assert best == Best(math.inf, best.cost, best.what) or math.isfinite(best.error)
    assert Hindsight(batch, [0.5], 16, 16, Results(None, {})).plain(0.5).error == math.inf


def test_numbers_that_are_not_finite_become_null_at_any_depth():
    found = choice_report.finite({"a": [math.inf, (1.0, {"b": math.nan})], "c": "x", "d": None, "e": True})
    assert found == {"a": [None, [1.0, {"b": None}]], "c": "x", "d": None, "e": True}


def test_a_study_of_no_smooth_problem_has_nothing_to_say_of_the_paper(of):
    cells = of(spread_coins).cells
    summary = Choice(cells, (), {}).summary()
    assert summary["smooth: error at most a third of the paper's"] is None
    assert summary["smooth: geometric mean of the paper's error over it"] is None


@pytest.mark.parametrize(("factor", "near"), [(1.49, True), (1.51, False), (0.67, True), (0.66, False), (None, False)])
def test_a_prediction_is_near_within_a_factor_of_one_and_a_half(factor, near):
    assert room._near(factor) is near


def test_a_remembered_path_is_the_path_is_asked_once_and_forgets_when_it_has_grown_too_large(monkeypatch):
    path, asked = mlsde.BrownianPath(0.0, 1.0, shape=(4, 2), seed=1, dtype=torch.float64), []

    def counted(ta, tb):
        asked.append((ta, tb))
        return path(ta, tb)

    kept = room._Remembered(counted)
    for _ in range(2):
        for ta, tb in ((0.0, 0.5), (0.5, 1.0)):
            assert torch.equal(kept(ta, tb), path(ta, tb))
    assert asked == [(0.0, 0.5), (0.5, 1.0)]
    monkeypatch.setattr(room, "_MOST_KEPT", 64)
    assert torch.equal(kept(0.0, 0.25), path(0.0, 0.25))
    assert torch.equal(kept(0.0, 0.5), path(0.0, 0.5))
    assert len(asked) == 4


# the package's own chooser


def noisy():
    """A problem with its samples and their path."""
    problem = ladder("smooth", system("rotations", 8), "additive", gamma=2.0, levels=3)
    y0 = problem.initial(64)
    return problem, y0, mlsde.BrownianPath(0.0, 1.0, like=y0, seed=3)


def test_the_default_chooser_does_what_solve_does_and_counts_the_same_pilot():
    problem, y0, path = noisy()
    budget = 32 * problem.sde.drift.costs[-1]
    told = Auto()(problem, y0, budget, charged=True, seed=1, brownian=path)
    done = mlsde.solve(problem.sde, y0, (0.0, 1.0), multilevel="auto", budget=budget, seed=1, brownian=path)
    assert torch.equal(told.states, done.y1)
    assert (told.cost, told.pilot) == (done.stats.cost, done.stats.pilot_cost)
    assert (told.predicted_error, told.chosen) == (done.error, done.recommendation.describe())


def test_a_pilot_that_is_not_charged_is_run_once_and_costs_nothing(monkeypatch):
    problem, y0, path = noisy()
    budget, calls = 32 * problem.sde.drift.costs[-1], []
    true = room_of_auto.calibration.calibrate
    monkeypatch.setattr(room_of_auto.calibration, "calibrate", lambda *a, **o: calls.append(1) or true(*a, **o))
    chooser = Auto()
    first, second = (chooser(problem, y0, budget, charged=False, seed=seed, brownian=path) for seed in (0, 1))
    assert len(calls) == 1 and first.pilot == second.pilot == 0.0
    known = mlsde.calibrate(problem.sde, y0, (0.0, 1.0), steps=512)
    done = mlsde.solve(
        problem.sde, y0, (0.0, 1.0), multilevel="auto", budget=budget, calibration=known, seed=1, brownian=path
    )
    assert torch.equal(second.states, done.y1)
    chooser(problem, y0, 2 * budget, charged=False, seed=0, brownian=path)
    assert len(calls) == 1


def test_what_would_take_too_many_steps_is_asked_for_again_with_fewer():
    problem, y0, _ = noisy()
    budget = 32 * problem.sde.drift.costs[-1]
    free, _ = room_of_auto.advised(problem, y0, 10**6, budget=budget, seed=0)
    capped, pilot = room_of_auto.advised(problem, y0, 64, budget=budget, seed=0)
    assert free.steps > 64 and capped.steps in (16, 64)
    assert capped.predicted_cost + pilot <= budget * (1 + 1e-9)


def test_a_run_too_small_for_a_pilot_foresees_no_error():
    problem, y0, _ = noisy()
    path = mlsde.BrownianPath(0.0, 1.0, like=y0[:1])
    told = Auto()(problem, y0[:1], 2.0, charged=True, seed=0, brownian=path)
    assert told.predicted_error is None and told.pilot == 0.0


def test_the_quick_study_of_the_default_chooser_runs(tmp_path):
    """Where it should beat all plain ways it does, even on a few trajectories; the rest is for the long version."""
    done = choice(quick=True, folder=tmp_path)
    assert len(done.cells) == 4 and done.smooth == ("smooth-ode",)
    assert all(math.isfinite(cell.charged.error) for cell in done.cells)
    best = min(cell.charged_ratio for cell in done.cells if cell.problem == "smooth-ode")
    assert best < 0.8
    json.dumps(done.as_dict(), allow_nan=False)
    assert choice(quick=True, folder=tmp_path).as_dict() == done.as_dict()
