"""Runs of one's own in a comparison at one price, the search over patterns, Milstein as a rival, and the verdict."""

import dataclasses
import functools
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from refusals import told_in_a_sentence

import mlsde
from mlsde import study
from mlsde.problems import LadderProblem, analytic
from mlsde.study.comparison import Comparison, Row
from mlsde.study.trials import Trials

F64 = torch.float64
PAPER, HOLD = study.multilevel("independent", "impulse"), study.multilevel("systematic", "hold")
SMALL = {"share": 8.0, "steps": 64, "seeds": 4, "samples": 2}


def ladder(**options):
    return analytic.linear_system().ladder(
        3.0, **{"levels": 3, "spread": 0.5, "features": 16, "reference_steps": 768, **options}
    )


def compare(problem=None, rules=(PAPER,), **options):
    return study.equal_cost(ladder() if problem is None else problem, list(rules), **{**SMALL, **options})


def rule(law, correction="hold"):
    return mlsde.Multilevel(law, "systematic", correction, "sample")


# runs of one's own


def test_a_way_gets_the_samples_their_path_and_their_seeds():
    problem, seen = ladder(), {}

    def way(y0, *, brownian, seed):
        seen.update(y0=y0, brownian=brownian, seed=seed)
        return mlsde.solve(problem.sde, y0, (0.0, 1.0), steps=16, brownian=brownian)

    row = compare(problem, ways={"mine": way})["mine"]
    (batch,) = Trials(problem, 3.0, 4, 2, 0, "sample", 8192).batches
    torch.testing.assert_close(seen["y0"], batch.y0)
    torch.testing.assert_close(seen["brownian"](0.0, 1.0), batch.path(0.0, 1.0))
    assert seen["seed"] == batch.seeds
    direct = mlsde.solve(problem.sde, batch.y0, (0.0, 1.0), steps=16, brownian=batch.path).y1
    assert row.error == pytest.approx(math.sqrt(float((direct - batch.reference).square().sum(1).mean())))
    assert row.cost == 16 * 64.0
    assert (row.kind, row.coins_error, row.ratio) == ("way", None, None)


def test_a_way_on_the_grid_of_the_rules_that_is_the_rule_has_its_row():
    """The same probabilities, coins and seeds: the same numbers, that of the coins too."""
    problem = ladder()
    law = mlsde.PowerLaw(3.0, budget=64 * 64.0 / 8, order=2.0)
    way = functools.partial(mlsde.solve, problem.sde, t_span=(0.0, 1.0), steps=64, multilevel=rule(law))
    found = compare(problem, [PAPER, HOLD], ways={"mine": way}, rivals={"theirs": way})
    assert (found["theirs"].coins_error, found["theirs"].ratio) == (None, None)  # it is judged as a whole
    same = dataclasses.replace(found[HOLD.name], name="mine", kind="way")
    for name in ("cost", "coins_error", "error"):
        assert getattr(found["mine"], name) == pytest.approx(getattr(same, name))
    assert found["mine"].ratio == pytest.approx(same.ratio)
    assert found["mine"].errors == pytest.approx(same.errors)


def test_a_recommendation_is_a_way_and_a_pilot_is_paid_for():
    problem = ladder()
    cal = mlsde.calibrate(problem.sde, problem.initial(64), (0.0, 1.0), steps=64)
    budget = 64 * 64.0 / 8
    auto = functools.partial(mlsde.solve, problem.sde, t_span=(0.0, 1.0), multilevel="auto", budget=budget)
    found = compare(problem, ways={"advice": cal.recommend(budget=budget, share="sample").solve, "auto": auto},
                    seeds=64, samples=16)  # fmt: skip
    assert found["advice"].cost == pytest.approx(budget, rel=0.1)
    (batch,) = Trials(problem, 3.0, 64, 16, 0, "sample", 8192).batches
    done = auto(batch.y0, brownian=batch.path, seed=batch.seeds)
    assert done.stats.pilot_cost > 0
    assert found["auto"].cost == pytest.approx(done.stats.cost + done.stats.pilot_cost)


def test_a_rival_from_outside_returns_where_it_ends_and_what_it_cost():
    problem = ladder()

    def still(y0, **unused):
        return y0, 7.0

    row = compare(problem, rivals={"standing still": still})["standing still"]
    (batch,) = Trials(problem, 3.0, 4, 2, 0, "sample", 8192).batches
    squares = (batch.y0 - batch.reference).square().sum(1)
    assert (row.kind, row.cost) == ("rival", 7.0)
    assert row.error == pytest.approx(math.sqrt(float(squares.mean())))
    assert row.errors == pytest.approx(squares.view(4, 2).mean(1).sqrt().tolist())
    assert row.spread == pytest.approx(float(np.std(row.errors, ddof=1)))


WAYS = {
    "a number": (lambda y0, **unused: 1.0, TypeError, "ways['mine'] must return an mlsde.Solution or a pair"),
    "a triple": (lambda y0, **unused: (y0, 1.0, 2.0), TypeError, "must return an mlsde.Solution or a pair"),
    "a shape": (lambda y0, **unused: (y0[:1], 1.0), ValueError, "returned states of shape (1, 4), expected (8, 4)"),
    "no cost": (lambda y0, **unused: (y0, 0.0), ValueError, "the cost that ways['mine'] returned must be above zero"),
    "no prices": (
        functools.partial(mlsde.solve, mlsde.SDE(lambda t, y: -y), t_span=(0.0, 1.0), steps=2),
        ValueError, "ways['mine'] returned a solution without a cost; give its DriftHierarchy costs=",
    ),
    "no function": (3.0, TypeError, "ways['mine']"),
}  # fmt: skip


@pytest.mark.parametrize(("way", "error", "words"), WAYS.values(), ids=WAYS.keys())
def test_what_is_no_way_is_named(way, error, words):
    problem = ladder()
    dimension = problem.initial(1).shape[1]
    words = words.replace("4)", f"{dimension})")
    with pytest.raises(error) as caught:
        compare(problem, ways={"mine": way})
    assert words in str(caught.value)


def test_ways_must_have_names():
    told_in_a_sentence(lambda: compare(ways=[print]), TypeError, ["ways must be a mapping of names to functions"])
    told_in_a_sentence(lambda: compare(rivals=print), TypeError, ["rivals must be a mapping of names to functions"])
    told_in_a_sentence(lambda: compare(patterns=-1), ValueError, ["patterns must be a positive integer"])


# patterns, steppers, gamma


def test_the_best_pattern_is_the_best_of_shared_coins_and_pays_for_all():
    problem = ladder()
    (batch,) = Trials(problem, 3.0, 4, 2, 0, "sample", 8192).batches
    law = mlsde.PowerLaw(3.0, budget=64 * 64.0 / 8)
    shared = mlsde.Multilevel(law, "independent", "impulse", "batch")
    runs = [
        mlsde.solve(problem.sde, batch.y0, (0.0, 1.0), steps=64, multilevel=shared, seed=seed, brownian=batch.path)
        for seed in range(3)
    ]
    errors = [math.sqrt(float((run.y1 - batch.reference).square().sum(1).mean())) for run in runs]
    row = compare(problem, patterns=3)["independent impulse, best of 3 patterns"]
    assert row.error == pytest.approx(min(errors))
    assert max(errors) > 1.01 * min(errors)
    assert row.cost == pytest.approx(sum(run.stats.cost for run in runs))
    assert row.kind == "search"


def test_with_multiplicative_noise_milstein_is_a_rival_and_a_rule_is_measured_against_its_own_stepper():
    problem = analytic.geometric_brownian_motion().ladder(3.0, 3)
    hold = study.multilevel("systematic", "hold", stepper="milstein")
    found = compare(problem, [hold, HOLD])
    assert any(row.name.startswith("level 3, Milstein, ") for row in found.rows)
    (batch,) = Trials(problem, 3.0, 4, 2, 0, "sample", 8192).batches
    law = mlsde.PowerLaw(3.0, budget=64 * 64.0 / 8, order=2.0)
    options = {"steps": 64, "method": "milstein", "brownian": batch.path}
    full = mlsde.solve(problem.sde, batch.y0, (0.0, 1.0), **options)
    ours = mlsde.solve(problem.sde, batch.y0, (0.0, 1.0), multilevel=rule(law), seed=batch.seeds, **options)
    expected = math.sqrt(float((ours.y1 - full.y1).square().sum(1).mean()))
    assert found[hold.name].coins_error == pytest.approx(expected)
    assert found.full_error == pytest.approx(math.sqrt(float((full.y1 - batch.reference).square().sum(1).mean())))


def test_where_noise_mixes_components_milstein_is_no_rival():
    drift = mlsde.DriftHierarchy([lambda t, y: -y, lambda t, y: -torch.sin(y)], [1.0, 8.0])
    mixing = mlsde.SDE(drift, lambda t, y: 0.1 * y.flip(-1), noise="diagonal")
    problem = LadderProblem("mixing", mixing, torch.ones(1, 2, dtype=F64))
    names = [row.name for row in compare(problem, reference_steps=64).rows]
    assert not any("Milstein" in name for name in names)
    assert any(name.startswith("top level, ") for name in names)


def test_two_levels_need_no_gamma_and_it_changes_nothing_where_the_first_fires_at_every_step():
    drift = mlsde.DriftHierarchy([lambda t, y: -y, lambda t, y: -torch.sin(y)], [1.0, 8.0])
    problem = LadderProblem("two", mlsde.SDE(drift, 0.5), torch.ones(1, 1, dtype=F64))
    runs = (compare(dataclasses.replace(problem, gamma=gamma), share=2.0, reference_steps=64) for gamma in (None, 4.0))
    without, other = runs
    assert without[PAPER.name].error == pytest.approx(other[PAPER.name].error, rel=1e-6)


@pytest.mark.parametrize(("noise", "order"), [(None, 2.0), ("diagonal", 1.0)])
def test_references_are_of_higher_order_than_euler(noise, order):
    """With four times the steps they change by about ``4^order`` less; Euler's would by the root of that."""
    drift = mlsde.DriftHierarchy([lambda t, y: -torch.sin(3 * y)], [1.0])
    diffusion = None if noise is None else lambda t, y: 0.8 * torch.sin(y)
    problem = LadderProblem("one", mlsde.SDE(drift, diffusion, noise=noise), torch.full((1, 1), 1.0, dtype=F64))
    ends = [Trials(problem, 2.0, 64, 16, 0, "sample", n).batches[0].reference for n in (16, 64, 256)]
    coarse, fine = (float((b - a).square().mean().sqrt()) for a, b in pairwise(ends))
    assert coarse / fine > 0.8 * 4.0**order


# the verdict


def made(**errors):
    """A comparison of rows of given errors, by kind and name."""
    kinds = {"rule": "rule", "way": "way", "rival": "rival", "search": "search"}
    rows = [
        Row(name, cost, None, float(np.sqrt(np.mean(np.square(each)))), None, tuple(each), kinds[name.split("_")[0]])
        for name, (cost, each) in errors.items()
    ]
    return Comparison("made up", 10.0, 100.0, 0.1, tuple(rows), {"seed": 0, "share": 10.0, "steps": 1, "seeds": 4,
                                                                 "samples": 1})  # fmt: skip


def test_a_ladder_pays_where_the_ratio_is_surely_above_one():
    found = made(rule_a=(10, [1.0, 1.1, 0.9, 1.0]), rule_b=(10, [9.0] * 4), rival_c=(10, [2.0, 2.2, 1.8, 2.0]))
    assert found.verdict() == (
        "rule_a misses by 2.00 [2.00, 2.00] times less than the best plain way (rival_c): here the ladder pays."
    )
    assert found.verdict("rule_b").endswith("times less than rule_b: here the ladder does not pay.")


def test_a_ladder_does_not_pay_where_the_ratio_is_surely_below_one_or_unsure():
    worse = made(rule_a=(10, [4.0] * 4), rival_c=(10, [2.0] * 4))
    assert worse.verdict() == (
        "The best plain way (rival_c) misses by 2.00 [2.00, 2.00] times less than rule_a: here the ladder does not pay."
    )
    unsure = made(rule_a=(10, [1.0, 3.0, 1.0, 3.0]), rival_c=(10, [3.0, 1.0, 3.0, 1.1]))
    assert "miss by as much, ratio 1.01 [" in unsure.verdict()
    assert unsure.verdict().endswith("here the ladder does not pay.")


def test_a_verdict_counts_what_keeps_to_the_budget_and_searches_for_nobody():
    found = made(
        rule_a=(10, [1.0] * 4), way_dear=(12, [0.1] * 4), search_b=(10, [0.1] * 4),
        rival_dear=(100, [0.2] * 4), rival_c=(10, [2.0] * 4),
    )  # fmt: skip
    assert found.verdict().startswith("rule_a misses by 2.00")
    with pytest.raises(KeyError):
        found.verdict("nobody")
    told_in_a_sentence(made(rule_a=(10, [1.0] * 4)).verdict, ValueError, ["there is nothing to compare"])


def test_errors_that_blew_up_keep_to_their_column_and_to_the_picture(tmp_path):
    found = made(rule_a=(10, [1.0] * 4), rival_c=(10, [2e9] * 4))
    assert "2e+09" in repr(found)
    lines = repr(found).splitlines()
    assert len({line.index("+-") for line in lines if "+-" in line}) == 1
    assert found.figure(tmp_path / "bars.png") == str(tmp_path / "bars.png")
    from mlsde.drawing import canvas
    from mlsde.study.figure import draw_comparison

    ax = draw_comparison(found, canvas(4, 3).subplots())
    assert ax.get_xlim()[1] < 1e4
    assert [text.get_text().strip() for text in ax.texts] == ["2e+09"]
