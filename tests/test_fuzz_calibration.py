"""Any pilot, and anything that is asked of it, gives numbers that can be run with, or one clear error."""

import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from fuzzing import LADDERS, STATES, attempt, fuzz, odd_ladder, tried, with_odds
from hypothesis import given
from hypothesis import strategies as st
from test_fuzz_ensembles import befall, damages

from mlsde import SDE, Calibration, DriftHierarchy, Recommendation, Solution, calibrate, solve

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # what a pilot says of a ladder or a wish

DRIFT = DriftHierarchy([lambda t, y: -y, lambda t, y: -torch.sin(y)], [1.0, 8.0])
SDES = {"ode": SDE(DRIFT), "additive": SDE(DRIFT, 0.5), "diagonal": SDE(DRIFT, lambda t, y: 0.3 * y, noise="diagonal")}
CALIBRATE = {
    "sde": SDES["additive"], "y0": torch.ones(3, 2), "t_span": (0.0, 1.0), "steps": 8, "times": None, "budget": None,
    "trajectories": None, "share": 0.1, "method": "euler", "unit": None, "seed": 0, "pilot_steps": 8,
    "pilot_samples": 2,
}  # fmt: skip
RECOMMEND = {"budget": 100.0, "tol": None, "steps": None, "share": "batch"}
SOLVE = {
    "sde": SDES["additive"], "y0": torch.ones(3, 2), "t_span": (0.0, 1.0), "steps": None, "times": None,
    "method": "euler", "multilevel": "auto", "level": None, "budget": None, "tol": None, "calibration": None, "seed": 0,
    "brownian": None, "save_at": None, "callback": None, "progress": False,
    "gradients": False,
}  # fmt: skip
LOAD = {"file": None, "sde": SDES["additive"], "t_span": None, "steps": None, "times": None, "trajectories": 5}


def sound(calibration):
    """What a pilot that went well holds."""
    recording = calibration.recording
    for measured in (recording.costs, recording.sensitivity, recording.responses, recording.increments):
        assert np.isfinite(measured).all()
    assert (np.isfinite(recording.variances).all(axis=0) == recording.sound).all()
    told = [f"level {k + 1} became NaN or infinite" for k in np.flatnonzero(~recording.sound)]
    assert all(any(words in warning for warning in calibration.warnings) for words in told)
    assert (recording.variances >= 0).all() and recording.price > 0 and calibration.cost > 0
    assert math.isfinite(calibration.predicted_step_error(10))
    assert "Calibration" in repr(calibration)


def runs(advice, y0):
    """What is recommended can be run, at about the price that was said."""
    assert isinstance(advice, Recommendation)
    done = advice.solve(y0)
    assert done.ys.isfinite().all() and done.stats.cost >= 0 and "Solution" in repr(done)
    assert done.plan.expected_cost == pytest.approx(advice.predicted_cost, rel=0.3, abs=2 * sum(DRIFT.costs))


KNOWN = calibrate(**CALIBRATE)


@fuzz(0.5)
@given(st.data())
def test_a_pilot_with_something_odd_in_it_is_a_calibration_or_a_clear_error(data):
    arguments = with_odds(data, CALIBRATE)
    found = tried(lambda: calibrate(**arguments), *CALIBRATE, "level")
    if found is not None:
        assert isinstance(found, Calibration)
        sound(found)


@fuzz(0.25)
@given(st.data(), st.lists(st.sampled_from(LADDERS), min_size=1, max_size=3), STATES, st.sampled_from(list(SDES)))
def test_a_pilot_of_odd_levels_and_states_is_a_calibration_or_a_clear_error(data, kinds, y0, noise):
    drift = odd_ladder(data, kinds)
    sde = SDES[noise].with_drift(drift)
    span = data.draw(st.sampled_from([(0.0, 1.0), (1.0, 0.0), (-3.0, 4.0)]))
    method = data.draw(st.sampled_from(["euler", "heun", "milstein"]))
    found = tried(
        lambda: calibrate(sde, y0, span, steps=data.draw(st.integers(1, 20)), method=method, pilot_samples=1),
        "level", "method", "y0", "diffusion", "noise", "correction",
    )  # fmt: skip
    if found is not None:
        sound(found)
        tried(lambda: runs(found.recommend(), y0), "level")  # one sample of a pilot may not have shown what is wrong


@fuzz(0.25)
@given(st.data())
def test_a_wish_with_something_odd_in_it_is_a_recommendation_or_a_clear_error(data):
    arguments = with_odds(data, RECOMMEND)
    advice = attempt(lambda: KNOWN.recommend(**arguments), *RECOMMEND)
    if advice is not None:
        runs(advice, torch.ones(2, 2))


@fuzz(0.25)
@given(st.floats(1e-3, 1e6), st.none() | st.integers(1, 300), st.sampled_from(["budget", "tol"]))
def test_any_budget_is_kept_and_any_tolerance_is_met_or_said_to_be_out_of_reach(wish, steps, what):
    wish = wish if what == "budget" else wish / 1e3
    advice = attempt(lambda: KNOWN.recommend(**{what: wish, "steps": steps}), "budget", "tol")
    if advice is None:
        assert what == "budget" and wish < 8.0 * (steps or 1)
    elif what == "budget":
        assert advice.predicted_cost <= wish * (1 + 1e-6)
        assert steps in (None, advice.steps)
    else:
        assert advice.predicted_error < wish or any("tol=" in warning for warning in advice.warnings)


@fuzz(0.5)
@given(st.data())
def test_other_questions_with_something_odd_in_them_are_answered_or_refused_clearly(data):
    calls = {
        "predicted_step_error": (KNOWN.predicted_step_error, {"steps": 10}),
        "frontier": (KNOWN.frontier, {"budgets": [100.0]}),
        "grid": (KNOWN.grid, {"steps": 10}),
        "sensitivity": (KNOWN.sensitivity, {"t": 0.5}),
        "variances": (KNOWN.variances, {"t": 0.5}),
    }
    call, arguments = calls[data.draw(st.sampled_from(list(calls)))]
    given = with_odds(data, arguments)
    found = attempt(lambda: call(**given), *arguments)
    if isinstance(found, dict):
        assert not any(math.isnan(error) for row in found.values() for error in row)
    elif found is not None:
        assert np.isfinite(found).all()


@fuzz(0.25)
@given(
    st.data(), st.sampled_from([{"tol": 0.3}, {"budget": 60.0}, {"budget": 5e4}, {"steps": 6}, {"calibration": KNOWN}])
)
def test_a_chosen_run_with_something_odd_in_it_is_a_solution_or_a_clear_error(data, wish):
    arguments = with_odds(data, {**SOLVE, **wish})
    found = tried(lambda: solve(**arguments), *SOLVE)
    if found is not None:
        assert isinstance(found, Solution) and found.ys.isfinite().all()


@fuzz(0.25)
@given(st.data())
def test_a_file_with_something_odd_about_it_is_a_calibration_or_a_clear_error(data):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "calibration.npz"
        KNOWN.save(file)
        damaged = data.draw(st.none() | damages())
        if damaged is not None:
            befall(file, *damaged)
        arguments = with_odds(data, {**LOAD, "file": file}, never=("file",))
        try:
            found = attempt(lambda: Calibration.load(**arguments), *LOAD)
        except FileNotFoundError:
            if damaged[0] != "gone":
                raise
            return
        if found is not None:
            sound(found)
            if damaged is None:
                assert np.array_equal(found.recording.responses, KNOWN.recording.responses)
