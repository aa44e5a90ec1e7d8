"""The study of learned probabilities: what is exact in it, its quick version, and how it is shown."""

import json
import math

import numpy as np
import pytest
from refusals import refused

import mlsde
from mlsde import theory
from mlsde.plan import multilevel_plan
from mlsde.study import learned as study

TIMES = np.linspace(0.0, 1.0, 33)
BUDGET = 32 * 64 / 8


def plan(rule, budget=BUDGET):
    return multilevel_plan(mlsde.Multilevel(rule, "independent", "impulse"), TIMES, study._linear().sde.drift)


def closed(budget):
    return study.closed_form(study._LADDER, study._START, TIMES, budget)


def overhead(made):
    return study.overhead(study._LADDER, study._START, TIMES, study._linear().sde.drift, made)


def test_the_closed_form_has_the_variances_and_the_sensitivity_of_the_theory():
    """By its exact error, which the first-order prediction differs from by the variance that the coins add."""
    rule = closed(BUDGET)
    starts = TIMES[:-1].tolist()
    variances, w = (np.array([f(t) for t in starts]) for f in (rule.variances, rule.sensitivity))
    p = plan(rule).probabilities
    exact = study.exact_mse(study._LADDER, study._START, TIMES, p)
    assert theory.predicted_mse(TIMES, variances, p, w) == pytest.approx(exact, rel=0.1)
    assert theory.predicted_mse(TIMES, variances, p, w[::-1]) != pytest.approx(exact, rel=0.3)
    assert theory.predicted_mse(TIMES, variances[::-1], p, w) != pytest.approx(exact, rel=0.2)


def test_the_closed_form_costs_nothing_over_itself_and_waste_is_seen():
    assert overhead(plan(closed(BUDGET))) == pytest.approx(0.0, abs=1e-3)
    assert overhead(plan(closed(3 * BUDGET))) == pytest.approx(0.0, abs=1e-3)
    doubled = plan(lambda t: np.minimum(1.0, closed(BUDGET).variances(t) * 0.0 + [1.0, 0.5, 0.1]))
    assert overhead(doubled) > 0.2


@pytest.fixture(scope="module")
def quick():
    return study.learned_study("linear", quick=True)


def test_learned_probabilities_come_within_five_percent_of_the_closed_form(quick):
    """The wrong twins: without the sensitivity, or without the variances in time, it takes half as much again."""
    assert quick[study.SURROGATE].overhead < 0.05
    assert quick[study.MEASURED].overhead < 0.05
    assert quick[study.ALONE].overhead > 0.5
    assert quick[study.POWER].overhead > 0.5


def test_measured_errors_are_the_exact_ones_and_costs_the_budget(quick):
    """The mean square over 40 seeds of 8 samples is within a fifth: about three of its standard deviations."""
    for row in quick.rows:
        assert row.cost == pytest.approx(quick.budget, rel=1e-6)
        assert row.error == pytest.approx(row.exact, rel=0.2)
        assert row.ratio[1] <= row.ratio[0] <= row.ratio[2]
    assert quick[study.POWER].ratio[1] > 1.5


def test_the_result_is_a_table_json_and_a_picture(quick, tmp_path):
    text = repr(quick)
    assert all(row.name in text for row in quick.rows)
    assert "overhead" in text
    whole = json.loads(json.dumps(quick.as_dict(), allow_nan=False))
    assert whole["problem"] == quick.problem
    assert len(whole["rows"][0]["probabilities"]) == len(whole["times"]) == 17
    file = tmp_path / "deep" / "learned.png"
    assert quick.figure(file) == str(file)
    assert file.stat().st_size > 10_000
    with pytest.raises(KeyError, match="closed form"):
        quick["none"]


def test_what_is_not_known_is_refused():
    refused(lambda: study.learned_study("cubic"), ValueError, "kind='cubic'", "linear", "nonlinear")
    refused(lambda: study.learned_study("linear", seed=-1), ValueError, "seed", "negative")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_the_long_version_meets_the_five_percent_and_learns_what_a_formula_cannot_know(seed):
    linear, nonlinear = (study.learned_study(kind, seed=seed) for kind in study.KINDS)
    assert linear[study.SURROGATE].overhead < 0.05
    assert linear[study.SCORE].overhead < 0.1, "noisier: 3 and 6 percent for these seeds"
    assert nonlinear[study.SURROGATE].ratio[2] < 0.8
    assert math.isfinite(nonlinear[study.SCORE].error)
