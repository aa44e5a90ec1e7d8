"""A study from end to end in small: what it finds, what it prints, and what it refuses."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import mlsde
from mlsde import study
from mlsde.problems import analytic
from mlsde.problems.ladder import LadderProblem
from mlsde.study.convergence import _resampled
from mlsde.study.methods import Candidate
from mlsde.study.trials import Trial, Trials

F64 = torch.float64
PAPER = study.multilevel("independent", "impulse")
HOLD = study.multilevel("systematic", "hold")
PLAIN = study.plain()
LADDER = analytic.linear_ode().ladder(3.0, 4, spread=0.5)
ERRORS = [1.5, 1.0, 0.5, 0.25, 1e-7]
SMALL = {"seeds": 3, "samples": 3, "steps": [2, 4, 8, 16, 32, 64]}


def small(problem=LADDER, methods=(PLAIN, PAPER), errors=(1.5, 0.7), **options):
    return study.convergence(problem, methods, errors, **{**SMALL, **options})


@pytest.fixture(scope="module")
def done():
    return small(methods=[PLAIN, PAPER, HOLD, study.stitching()], errors=ERRORS)


# what it finds


def test_what_is_found_reaches_the_error_at_the_price_that_is_told(done):
    """Each found candidate, run anew on the same samples, has that error and that price."""
    trials = Trials(LADDER, 3.0, 3, 3, 0, "sample", 640)
    for frontier in done.frontiers:
        for found, cost in zip(frontier.found, frontier.costs, strict=True):
            if found.candidate is not None:
                again = trials.measure(found.candidate)
                assert again.error <= found.target
                assert (again.errors, again.cost) == (found.trial.errors, cost)


def test_the_error_is_the_median_over_seeds_of_the_root_mean_square_distance_from_the_exact_solution(done):
    found = done[PLAIN.name].found[2]
    errors = []
    for seed in range(3):
        y0 = LADDER.initial(3, seed)
        level, n = found.candidate.levels, found.candidate.steps
        y1 = mlsde.solve(LADDER.sde, y0, LADDER.t_span, steps=n, level=level).y1
        errors.append(float((y1 - LADDER.reference(y0, None)).square().sum(1).mean().sqrt()))
    assert found.trial.errors == pytest.approx(errors)
    assert found.trial.error == pytest.approx(sorted(errors)[1])


def test_no_level_and_number_of_steps_is_cheaper_than_what_was_found_for_the_plain_method(done):
    trials = Trials(LADDER, 3.0, 3, 3, 0, "sample", 640)
    every = [Candidate(PLAIN, k, n, 0.0, 8.0 ** (k - 1) * n) for k in range(1, 5) for n in SMALL["steps"]]
    tried = [(candidate.cost, trials.measure(candidate).error) for candidate in every]
    least = [min((cost for cost, error in tried if error <= target), default=math.inf) for target in done.errors]
    assert list(done[PLAIN.name].costs) == pytest.approx(least)


def test_a_looser_error_never_costs_more(done):
    for frontier in done.frontiers:
        assert list(frontier.costs) == sorted(frontier.costs)
        lows, highs = zip(*frontier.intervals, strict=True)
        assert list(lows) == sorted(lows)
        assert list(highs) == sorted(highs)
        if frontier.predicted is not None:
            assert list(frontier.predicted) == sorted(frontier.predicted)


def test_the_interval_of_a_price_holds_it(done):
    for frontier in done.frontiers:
        for cost, (low, high) in zip(frontier.costs, frontier.intervals, strict=True):
            assert low <= high
            assert low <= cost * (1 + 1e-9)


def test_the_seeds_are_drawn_anew_by_chance_that_the_first_seed_settles():
    """400 draws of the cheapest of three trials whose medians depend on the draw."""
    rng = np.random.default_rng(0)
    trials = [Trial(tuple(rng.exponential(size=9)), cost, 0.0) for cost in (1.0, 2.0, 3.0)]
    draws, again, other = (_resampled(trials, [0.9, 0.6], lambda trial: trial.cost, seed) for seed in (5, 5, 6))
    assert draws.shape == (400, 2)
    assert set(draws.ravel().tolist()) == {1.0, 2.0, 3.0, math.inf}
    assert (draws[:, 0] <= draws[:, 1]).all()
    assert np.array_equal(draws, again)
    assert not np.array_equal(draws, other)


@pytest.mark.parametrize("method", [PAPER, HOLD], ids=lambda method: method.name)
def test_a_rule_of_coins_is_not_dearer_than_the_plain_method_which_is_among_its_settings(done, method):
    for ours, plain in zip(done[method.name].costs, done[PLAIN.name].costs, strict=True):
        assert ours <= plain or math.isinf(plain)


def test_a_ladder_of_one_level_leaves_every_method_the_plain_one():
    one = LadderProblem("one", LADDER.sde.with_drift(LADDER.sde.drift.select([3])), LADDER.start, gamma=3.0)
    found = small(one, [PLAIN, PAPER, HOLD], reference_steps=640)
    assert found[PAPER.name].costs == found[HOLD.name].costs == found[PLAIN.name].costs


def test_ratios_rows_and_prices_are_looked_up_by_name_and_error(done):
    plain, hold = done[PLAIN.name], done["systematic hold"]
    assert hold is done.frontiers[2]
    assert plain.cost_at(0.25) == plain.costs[3]
    assert done.ratio(PLAIN.name, "systematic hold") == plain.costs[3] / hold.costs[3]  # 1e-7 is out of reach
    assert done.ratio("systematic hold", PLAIN.name) == pytest.approx(hold.costs[3] / plain.costs[3])
    with pytest.raises(KeyError, match=r"'hold' is none of \['one level, Euler-Maruyama', 'independent impulse'"):
        done["hold"]
    with pytest.raises(KeyError, match=r"0.3 is none of the errors \[1.5, 1.0, 0.5, 0.25, 1e-07\]"):
        plain.cost_at(0.3)


def test_a_ratio_is_that_at_the_tightest_error_which_both_reach(done):
    first, second = done.frontiers[:2]
    made = replace(
        done,
        frontiers=(
            replace(first, costs=(6.0, 8.0, 9.0, math.inf, math.inf)),
            replace(second, costs=(3.0, 4.0, math.inf, 1.0, math.inf)),
        ),
    )
    assert made.ratio(first.method.name, second.method.name) == 2.0


def test_a_ratio_of_methods_that_reach_no_common_error_is_not_a_number():
    assert math.isnan(small(errors=[1e-7]).ratio(PLAIN.name, PAPER.name))


# what it prints


def test_what_is_out_of_reach_is_a_dash_in_the_table_and_null_in_json(done, tmp_path):
    lines = repr(done).splitlines()
    rows = [line for line in lines if line.startswith(("one level", "independent", "systematic", "two levels"))]
    assert [row.split()[-1] for row in rows] == ["-"] * 4
    assert lines[2].split() == ["error", "1.5", "1", "0.5", "0.25", "1e-07"]
    assert sum("not reached" in line for line in lines) == 4
    whole = json.loads(json.dumps(done.as_dict(), allow_nan=False))
    for method, frontier in zip(whole["methods"], done.frontiers, strict=True):
        assert method["costs"] == [*frontier.costs[:-1], None]
        assert method["intervals"][-1] == [None, None]
        assert (method["errors"][-1], method["settings"][-1]) == (None, None)
        assert all(error <= target for error, target in zip(method["errors"][:-1], ERRORS, strict=False))
    assert all(method["theory"] is None for method in whole["methods"])  # too few levels below a known limit
    assert whole["settings"]["steps"] == SMALL["steps"]
    assert whole["trials"] == done.trials


@pytest.mark.parametrize("errors", [ERRORS, [1e-7]], ids=["most reached", "none reached"])
@pytest.mark.parametrize("cost", ["declared", "seconds"])
def test_the_figure_is_drawn_whatever_was_reached(errors, cost, tmp_path):
    file = tmp_path / "pictures" / "study.png"
    assert small(errors=errors, cost=cost, steps=[2, 4]).figure(file) == str(file)
    assert file.read_bytes().startswith(b"\x89PNG")
    assert file.stat().st_size > 5_000


def test_a_bar_is_shown_only_if_asked_for(capsys):
    small(methods=[PLAIN], steps=[2, 4])
    assert capsys.readouterr() == ("", "")
    small(methods=[PLAIN], steps=[2, 4], progress=True)
    assert "one level, Euler-Maruyama" in capsys.readouterr().err


# errors, steps, seeds


def test_errors_are_sorted_and_each_is_sought_once():
    found = small(methods=[PLAIN], errors=np.array([0.7, 1.5, 0.7, 1.0]))
    assert found.errors == (1.5, 1.0, 0.7)
    assert found.frontiers == small(methods=[PLAIN], errors=torch.tensor([1.0, 0.7, 1.5], dtype=F64)).frontiers


def test_the_numbers_of_steps_are_those_given_or_powers_of_two_and_the_numbers_halfway():
    given = small(methods=[PLAIN], steps=[16, 5, np.int64(16)])
    assert given.settings["steps"] == [5, 16]
    assert {found.candidate.steps for found in given.frontiers[0].found if found.candidate} <= {5, 16}
    usual = small(methods=[PLAIN], steps=None, most_steps=17)
    assert usual.settings["steps"] == [1, 2, 3, 4, 6, 8, 12, 16]


def test_studies_of_two_seeds_have_no_group_of_samples_in_common():
    first, second = (small(methods=[PLAIN], errors=[1.5], seed=seed).frontiers[0].found[0] for seed in (0, 1))
    assert first.candidate == second.candidate
    assert not set(first.trial.errors) & set(second.trial.errors)


BAD = {
    "problem": ({"problem": LADDER.sde}, TypeError, "problem must be an mlsde.problems.LadderProblem, got SDE"),
    "no methods": ({"methods": []}, TypeError, "methods must be a sequence of methods, made by study.plain()"),
    "one method": ({"methods": PLAIN}, TypeError, "methods must be a sequence of methods, made by study.plain()"),
    "a name": ({"methods": ["plain"]}, TypeError, "methods must be a sequence of methods, made by study.plain()"),
    "twice": ({"methods": [PLAIN, study.plain()]}, ValueError, "methods must have different names, got"),
    "no errors": ({"errors": []}, ValueError, "errors must hold at least one error above zero, got []"),
    "negative error": ({"errors": [1.0, -0.5]}, ValueError, "errors must hold at least one error above zero, got [1.0"),
    "zero error": ({"errors": [0.0]}, ValueError, "errors must hold at least one error above zero, got [0.0]"),
    "one error": ({"errors": 0.5}, ValueError, "errors must be a one-dimensional sequence of numbers, got 0.5"),
    "error nan": ({"errors": [math.nan]}, ValueError, "errors must be finite, got nan"),
    "words": ({"errors": ["a"]}, TypeError, "errors must hold numbers, got ['a']"),
    "one seed": ({"seeds": 1}, ValueError, "seeds must be at least 2, so that there is a spread, got 1"),
    "no seeds": ({"seeds": 0}, ValueError, "seeds must be a positive integer, got 0"),
    "samples": ({"samples": 0}, ValueError, "samples must be a positive integer, got 0"),
    "seed": ({"seed": -1}, ValueError, "seed must not be negative, got -1"),
    "steps": ({"steps": [4, 0]}, ValueError, "steps must be a positive integer, got 0"),
    "half steps": ({"steps": [4.5]}, TypeError, "steps must be a positive integer, got 4.5"),
    "a number of steps": ({"steps": 8}, TypeError, "steps must be a sequence of numbers of steps, got 8"),
    "no steps": ({"steps": []}, ValueError, "steps must hold at least one number of steps, got none"),
    "most steps": ({"steps": None, "most_steps": 0}, ValueError, "most_steps must be a positive integer, got 0"),
    "gamma": ({"gamma": 0.0}, ValueError, "gamma must be above zero, got 0"),
    "gamma nan": ({"gamma": math.nan}, ValueError, "gamma must be finite, got nan"),
    "cost": ({"cost": "euro"}, ValueError, "cost='euro' is not known; choose one of 'declared', 'seconds'"),
    "reference": ({"reference_steps": 0}, ValueError, "reference_steps must be a positive integer, got 0"),
}


@pytest.mark.parametrize(("options", "error", "words"), BAD.values(), ids=BAD.keys())
def test_bad_arguments_are_named(options, error, words):
    with pytest.raises(error) as caught:
        small(**options)
    assert words in str(caught.value)


# a user's own equation


def own(gamma=None, reference=None, differences=False):
    levels = [lambda t, y: -y, lambda t, y: -y + y**3 / 6, lambda t, y: -torch.sin(y)]
    drift = mlsde.DriftHierarchy(levels, [1.0, 8.0, 64.0])
    if differences:
        parts = [levels[0], lambda t, y: y**3 / 6, lambda t, y: y - torch.sin(y) - y**3 / 6]
        drift = mlsde.DriftHierarchy.from_differences(parts, [1.0, 7.0, 56.0])
    return LadderProblem("pendulum", mlsde.SDE(drift, 0.5), torch.ones(1, 2), (0.0, 1.0), reference, gamma)


def test_an_equation_whose_gamma_is_not_known_is_refused_with_what_to_do():
    with pytest.raises(ValueError, match=r"give convergence\(..., gamma=...\), measured by mlsde.study.diagnose"):
        small(own())


def test_an_equation_without_a_reference_is_measured_against_a_fine_run_of_its_top_level():
    found = small(own(), [PLAIN, PAPER], [0.3, 0.02], gamma=3.0, steps=[1, 2, 4, 8, 16, 32], reference_steps=96)
    assert found.gamma == 3.0
    candidate = found[PLAIN.name].found[-1].candidate
    assert candidate.levels > 1
    trials = Trials(own(), 3.0, 3, 3, 0, "sample", 96)
    (batch,) = trials.batches
    fine = mlsde.solve(own().sde, batch.y0, (0.0, 1.0), steps=96, method="heun", brownian=batch.path).y1
    here = mlsde.solve(
        own().sde, batch.y0, (0.0, 1.0), steps=candidate.steps, level=candidate.levels, brownian=batch.path
    ).y1
    errors = (here - fine).double().square().sum(1).view(3, 3).mean(1).sqrt().tolist()
    assert found[PLAIN.name].found[-1].trial.errors == pytest.approx(errors, rel=1e-4)


def test_the_gamma_that_is_given_comes_before_the_problems_own():
    assert small(own(gamma=2.0), [PLAIN]).gamma == 2.0
    assert small(own(gamma=2.0), [PLAIN], gamma=4.0).gamma == 4.0


def test_a_ladder_by_differences_is_priced_by_what_it_sums_and_theory_says_nothing_of_it():
    given, summed = (
        small(own(3.0), [PLAIN], [0.3, 0.05]),
        small(own(3.0, differences=True), [PLAIN, PAPER], [0.3, 0.05]),
    )
    assert summed[PLAIN.name].costs == pytest.approx(given[PLAIN.name].costs)
    assert [frontier.predicted for frontier in summed.frontiers] == [None, None]


def test_a_reference_of_the_wrong_shape_is_named():
    with pytest.raises(ValueError, match=r"reference must return finite states of shape \(9, 2\), like y0, got shape"):
        small(own(3.0, lambda y0, path: y0[:1]))


def test_a_run_that_breaks_is_an_error_without_bound_and_not_the_end_of_the_study():
    """Few steps of a stiff cubic overflow, also those of the pilot of theory; enough of them do not."""
    drift = mlsde.DriftHierarchy([lambda t, y: -(y**3), lambda t, y: -(y**3) - 0.01 * y], [1.0, 8.0])
    start = torch.full((1, 1), 30.0, dtype=F64)
    problem = LadderProblem("stiff", mlsde.SDE(drift), start, gamma=3.0)
    found = small(problem, [PLAIN], [1.0], steps=[8, 16, 2048], reference_steps=8192)
    assert found[PLAIN.name].found[0].candidate.steps == 2048
    assert found[PLAIN.name].predicted is None


@pytest.mark.parametrize("rule", [("periodic", "extrapolate"), ("nested", "control"), ("systematic", "impulse")])
def test_every_rule_has_its_frontier(rule):
    found = small(methods=[study.multilevel(*rule)], steps=[4, 8, 16])
    assert all(map(math.isfinite, found.frontiers[0].costs))


def test_prices_in_seconds_are_the_wall_clock_of_the_trials():
    found = small(cost="seconds", steps=[2, 8, 32])
    for frontier in found.frontiers:
        assert list(frontier.costs) == [one.trial.seconds for one in frontier.found]
        assert all(0 < cost < 10 for cost in frontier.costs)
        assert frontier.predicted is None
    assert "(seconds)" in repr(found)
    assert found.as_dict()["settings"]["cost"] == "seconds"


def test_samples_of_a_seed_share_their_coins_where_prices_are_seconds_and_only_there(monkeypatch):
    """So that a level that fires is evaluated for all of them at once."""
    shares, run = set(), mlsde.study.trials.Batch.run

    def watched(batch, candidate, gamma, share):
        shares.add((share, len(batch.y0)))
        return run(batch, candidate, gamma, share)

    monkeypatch.setattr(mlsde.study.trials.Batch, "run", watched)
    small(methods=[PAPER], cost="seconds", steps=[4])
    assert shares == {("batch", 3)}
    shares.clear()
    small(methods=[PAPER], steps=[4])
    assert shares == {("sample", 9)}


def test_where_coins_are_shared_and_timed_the_top_level_fires_twice_or_more_and_else_it_may_fire_less(tmp_path):
    """A median over a few patterns would see neither the price nor the impulses of what fires less."""

    def fewest(cost):
        small(methods=[PAPER], errors=[1.5, 0.7], cost=cost, steps=[4, 8, 16], folder=tmp_path / cost)
        return min(
            float(file.stem.rpartition("-m")[2]) for file in (tmp_path / cost).glob("independent-impulse-*.json")
        )

    assert fewest("seconds") >= 2.0
    assert fewest("declared") < 2.0
