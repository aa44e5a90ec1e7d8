"""The named studies in their quick versions: each runs, and comes out as theory says, within wide bounds.

They are reproduced by their seed, so nothing here is up to chance but for the processor's rounding. The bounds hold for
short ranges of loose errors, where the exponents are not yet those of the limit: each is compared with what theory
foresees on the same range. The long versions, with narrow bounds, are in test_evidence.py.
"""

import json
import math

import numpy as np
import pytest

from mlsde import plan, study
from mlsde.study import catalogue
from mlsde.study.catalogue import STUDIES, How, halvings, system

PLAIN, PAPER, SPREAD = "one level, Euler-Maruyama", "independent impulse", "systematic impulse"
DONE = {}


def quick(name):
    """The result of a study, which is run once."""
    if name not in DONE:
        DONE[name] = STUDIES[name].run(How(quick=True))
    return DONE[name]


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_runs_in_small_and_becomes_a_table_and_json(name):
    done = quick(name)
    assert len(repr(done).splitlines()) > 3
    assert "inf" not in repr(done)
    whole = json.loads(json.dumps(done.as_dict(), allow_nan=False))
    assert whole["problem"]
    costs = [cost for method in whole.get("methods", []) for cost in method["costs"]]
    assert all(cost is not None for cost in costs), "an error of the quick version is out of reach"


def test_the_studies_are_those_that_the_issue_asks_for():
    rates = {f"{kind}-{gamma}" for kind in ("ode", "additive") for gamma in ("2.5", "3", "4")}
    rates |= {"multiplicative-3", "smooth-1.5"}
    assert rates | {"equal-cost-smooth", "equal-cost-rough", "wall-clock", "charges", "learned-force"} <= set(STUDIES)
    assert sum(name.startswith("no-gain") for name in STUDIES) == 4
    for name in rates:
        kind, gamma = name.rsplit("-", 1)
        done = quick(name)
        assert done.gamma == float(gamma)
        assert done.strong_order == (0.5 if kind == "multiplicative" else 1.0)
    assert [study.title for study in STUDIES.values()] == list(dict.fromkeys(s.title for s in STUDIES.values()))


BOUNDS = {"ode-3": 0.6, "additive-3": 0.6, "multiplicative-3": 1.0, "smooth-1.5": 0.4}


def close(done, measured, foreseen, bound):
    """Whether one method's measured exponent is near what theory foresees of a method."""
    return abs(done[measured].exponent.value - done[foreseen].predicted_exponent) <= bound


@pytest.mark.parametrize(("name", "bound"), BOUNDS.items())
def test_exponents_are_near_those_that_theory_foresees_on_the_same_range(name, bound):
    done = quick(name)
    names = [frontier.method.name for frontier in done.frontiers if frontier.predicted is not None]
    assert {PLAIN, PAPER} <= set(names)
    assert all(close(done, one, one, bound) for one in names)
    cheapest = names[-1]  # that of the plain method is too large for the others: the bound can tell them apart
    assert not close(done, PLAIN, cheapest, bound)


@pytest.mark.parametrize("name", ["ode-3", "additive-3", "smooth-1.5"])
def test_at_the_tightest_error_spread_coins_are_cheaper_than_independent_ones_and_those_than_none(name):
    done = quick(name)
    assert done.ratio(PLAIN, PAPER) > 1.5
    assert done.ratio(PAPER, SPREAD) > 1.5
    if name != "smooth-1.5":
        assert done.ratio(PLAIN, SPREAD) > 10
    assert done[PAPER].found[-1].candidate.setting < done[PAPER].found[-1].candidate.steps / 2


@pytest.mark.parametrize("name", [name for name in STUDIES if name.endswith(("-2.5", "-4"))] + ["multiplicative-3"])
def test_at_the_tightest_error_the_papers_rule_is_cheaper_than_the_plain_method(name):
    assert quick(name).ratio(PLAIN, PAPER) > 2


def tightest():
    return study.convergence(
        system("ode", 3.0, 5), [study.plain(), catalogue._PAPER], [2.0**-4], seeds=4, samples=4, steps=[96, 128]
    )


def test_impulses_that_are_not_weighed_by_their_probabilities_gain_less_than_half_as_much(monkeypatch):
    """The wrong twin: its estimate is biased, so that a level is left out or fires almost always."""
    right = tightest().ratio(PLAIN, PAPER)
    monkeypatch.setattr(plan, "_inverse", np.ones_like)
    assert right > 4
    assert tightest().ratio(PLAIN, PAPER) < right / 2


@pytest.mark.parametrize("name", ["no-gain-loose", "no-gain-cheap", "no-gain-pair", "no-gain-useless"])
def test_where_it_does_not_pay_no_rule_is_cheaper_and_the_table_says_so(name):
    done = quick(name)
    for frontier in done.frontiers:
        if frontier.method.coins is not None:
            assert done.ratio(PLAIN, frontier.method.name) == pytest.approx(1.0)
    assert "does not pay" in repr(done)


def test_the_useless_level_is_as_good_as_the_one_below_it_and_eight_times_dearer():
    """It is never the one that the plain method takes."""
    done = quick("no-gain-useless")
    assert done.settings["costs"] == [1.0, 8.0, 64.0, 512.0, 4096.0]
    assert all(found.candidate.levels != 4 for found in done[PLAIN].found)


def test_spread_coins_win_on_smooth_differences_and_do_not_lose_on_rough_ones():
    """Intervals of 95 % over 25 seeds; ``extrapolate`` on rough differences shows that a loss would be seen."""
    smooth, rough = quick("equal-cost-smooth"), quick("equal-cost-rough")
    for rule in (SPREAD, "systematic hold"):
        assert smooth[rule].ratio[1] > 2
        assert rough[rule].ratio[2] > 1
        assert smooth[rule].ratio[0] > 1.3 * rough[rule].ratio[0]
    assert rough["systematic extrapolate"].ratio[2] < 1


def test_gammas_from_science_are_measured_and_above_the_threshold():
    charges = quick("charges")
    assert 2 < charges.gamma < 6
    assert charges.warnings == ()
    learned = quick("learned-force")
    assert learned[SPREAD].ratio[1] > 1.5


def test_wall_clock_is_in_seconds_and_reaches_every_error():
    done = quick("wall-clock")
    assert done.settings["cost"] == "seconds"
    assert all(0 < cost < 10 for frontier in done.frontiers for cost in frontier.costs)


def test_a_study_keeps_its_trials_where_it_is_told_to(tmp_path):
    done = STUDIES["wall-clock"].run(How(quick=True, folder=tmp_path))
    assert len(list(tmp_path.glob("*.json"))) > 20
    again = STUDIES["wall-clock"].run(How(quick=True, folder=tmp_path))
    assert again.as_dict() == done.as_dict()


def test_another_seed_gives_another_result():
    first, second = (STUDIES["no-gain-pair"].run(How(quick=True, seed=seed)) for seed in (0, 1))
    assert first.as_dict() == quick("no-gain-pair").as_dict()
    assert first.frontiers[0].found[0].trial.errors != second.frontiers[0].found[0].trial.errors


def test_halvings_go_from_one_power_of_two_to_another():
    assert halvings(-1, 1, 1) == [2.0, 1.0, 0.5]
    assert halvings(0, 1) == pytest.approx([1.0, math.sqrt(0.5), 0.5])


@pytest.mark.parametrize(("kind", "noise"), [("ode", None), ("additive", "additive"), ("multiplicative", "diagonal")])
def test_the_systems_have_sixteen_components_at_the_prices_of_their_gamma(kind, noise):
    made = system(kind, 2.0, 3)
    assert made.sde.noise == noise
    assert made.sde.drift.costs == (1.0, 4.0, 16.0)
    assert made.initial(5).shape == (5, 16)
    assert made.gamma == 2.0
