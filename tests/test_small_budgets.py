"""What is said of a budget that pays for no run that can be trusted, and of what the top level alone would do."""

import warnings

import pytest
import torch

import mlsde
from mlsde.calibration import advice, choice
from mlsde.calibration.candidates import Candidate

LADDER = mlsde.DriftHierarchy([lambda t, y: -0.9 * y**3, lambda t, y: -(y**3)], costs=[1.0, 20.0])
WIDE = torch.linspace(-3.0, 3.0, 256)[:, None]


def solved(budget, **options):
    return mlsde.solve(mlsde.SDE(LADDER), WIDE, (0.0, 5.0), multilevel="auto", budget=budget, **options)


def test_a_pilot_that_bursts_says_that_it_was_the_pilot_and_what_to_do():
    with pytest.raises(
        mlsde.NonFiniteError, match=r"It was the pilot that did, of 9 samples and 16 steps.*pilot_steps=32"
    ):
        solved(320.0)
    cal = mlsde.calibrate(mlsde.SDE(LADDER), WIDE, (0.0, 5.0), steps=64, pilot_steps=128, pilot_samples=16)
    assert solved(320.0, calibration=cal).success


def test_a_run_that_was_chosen_unseen_and_bursts_says_so():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        with pytest.raises(mlsde.NonFiniteError, match=r"This run \(level 1 alone, 10 steps\) was chosen unseen"):
            solved(10.0)


def test_so_few_steps_as_burst_in_the_pilot_are_not_recommended():
    with pytest.raises(
        ValueError, match=r"pays for no run that is known to stay finite: with 8 steps the pilot did not"
    ):
        solved(160.0)
    cal = mlsde.calibrate(mlsde.SDE(LADDER), WIDE, (0.0, 5.0), steps=64, pilot_steps=64, pilot_samples=64)
    burst = cal.model.burst
    assert burst in (8, 16, 32)
    assert cal.predicted_step_error(burst) == float("inf") > cal.predicted_step_error(burst + 1)
    with pytest.raises(ValueError, match=f"steps=5 are too few: a run of the pilot with {burst}"):
        cal.recommend(steps=5)
    assert cal.recommend(steps=64).steps == 64


def test_an_error_as_large_as_the_solution_is_told():
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always", UserWarning)
        solved(40.0)
    assert any("the budget is too small for this equation" in str(one.message) for one in heard)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        mild = mlsde.SDE(LADDER, 0.5)
        mlsde.solve(mild, WIDE / 3, (0.0, 1.0), multilevel="auto", budget=2000.0)


def candidate(kind, levels, square, steps=10):
    rule, share = (("systematic", "hold") if kind == "multilevel" else None), 0.5
    return Candidate(kind, levels, steps, 1.0, square, square, rule=rule, share=share)


COINS, TOP, CHEAP = ("multilevel", (1, 2), 4.0), ("plain", (2,), 4.0), ("plain", (1,), 4.0)
ALONE = "The top level, level 2 alone with 10 steps, is predicted to miss by 3 times as much."


def best(one):
    return (*one[:2], 1.0)


@pytest.mark.parametrize(
    ("chosen", "rivals", "top", "said", "not_said"),
    [
        (best(COINS), [TOP], 4.0, "level 2 alone with 10 steps is predicted to miss by 2 times", "The top level,"),
        (best(COINS), [CHEAP], 9.0, ALONE, "does not pay"),
        (best(CHEAP), [COINS], 9.0, "Using levels together does not pay here", "The ladder does not pay"),
        (best(CHEAP), [COINS], 9.0, ALONE, "The ladder does not pay"),
        (best(TOP), [COINS], 1.0, "The ladder does not pay here", "The top level,"),
        (best(CHEAP), [], None, "It does not pay for the top level alone.", "does not pay here"),
    ],
)
def test_why_names_the_next_best_and_the_top_level_alone(chosen, rivals, top, said, not_said):
    first = candidate(*chosen)
    others = tuple(candidate(*one) for one in rivals)
    alone = None if top is None else first if chosen[:2] == TOP[:2] else candidate("plain", (2,), top)
    why = advice.for_budget(choice.Choice(first, others, alone))
    assert said in why and not_said not in why


def test_a_tolerance_that_takes_many_steps_of_euler_on_an_ode_names_heun():
    drift = mlsde.DriftHierarchy([lambda t, y: -y, lambda t, y: -torch.sin(y)], costs=[1.0, 50.0])
    many = {"steps": 64, "pilot_steps": 32, "pilot_samples": 4}
    y0 = torch.linspace(0.1, 2.0, 64, dtype=torch.float64)[:, None]
    cal = mlsde.calibrate(mlsde.SDE(drift), y0, (0.0, 2.0), **many)
    assert "method='heun' may need far fewer steps" in cal.recommend(tol=1e-5).why
    assert "heun" not in cal.recommend(tol=0.05).why
    assert "heun" not in mlsde.calibrate(mlsde.SDE(drift, 0.5), y0, (0.0, 2.0), **many).recommend(tol=1e-3).why


def test_gamma_of_two_levels_is_unknown_in_words():
    drift = mlsde.DriftHierarchy([lambda t, y: -y, lambda t, y: -torch.sin(y)], costs=[1.0, 50.0])
    cal = mlsde.calibrate(mlsde.SDE(drift, 0.5), torch.zeros(100, 1), (0, 1), steps=100)
    assert "gamma unknown, which takes three levels that differ" in repr(cal) and "nan" not in repr(cal)


def test_a_ladder_given_the_wrong_way_round_is_warned_of_at_the_callers_line():
    def made(costs):
        return mlsde.DriftHierarchy([lambda t, y: -y, lambda t, y: -torch.sin(y)], costs=costs)

    with pytest.warns(UserWarning, match="costs fall from 50 for the first level to 1 for the last") as heard:
        made([50.0, 1.0])
    assert heard[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made([1.0, 1.0])
        made([1.0, 50.0]).priced([2.0, 1.0])
        mlsde.DriftHierarchy.from_differences([lambda t, y: -y, lambda t, y: 0.1 * y], costs=[50.0, 1.0])
