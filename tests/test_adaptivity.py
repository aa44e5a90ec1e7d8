"""The study of adaptivity: a plan redrawn within the run, bounds on its gain, and wrong plans that must show one."""

import json
import math

import numpy as np
import pytest
import torch

import mlsde
from mlsde.calibration import measure, pilot
from mlsde.calibration.recommendation import Recommendation
from mlsde.calibration.shaped import Shaped
from mlsde.problems.kinds import ladder, system
from mlsde.study import adaptivity as room
from mlsde.study.adaptivity import WAYS, OwnRun, adaptivity_study, own_path
from mlsde.study.redrawing import WatchedLevels, redrawn_run

WRONG = 1e-3
"""Of the pilot's variances of the dearest level: its probabilities are then ten times too small."""

SETTINGS = {"seed": 0, "coins": 4, "seeds": 4, "own_steps": 32, "reference_steps": 1536}


@pytest.fixture(scope="module")
def quick():
    return adaptivity_study(quick=True)


def problem(noise="ode"):
    return ladder("smooth", system("rotations", 8), noise, gamma=3.0, levels=4)


def rule(budget, correction="hold", coins="systematic", values=(1.0, 0.25, 0.125, 0.0625)):
    edges = np.linspace(0.0, 1.0, 9)
    return mlsde.Multilevel(Shaped(edges, np.tile(values, (8, 1)), budget), coins, correction)


def variances(given, y0, steps):
    return pilot.record(given.sde, y0, np.linspace(0.0, 1.0, steps + 1)).variances


def test_a_study_says_what_each_plan_gains_in_every_cell(quick):
    assert len(quick.cells) + len(quick.plain) == 2
    for cell in quick.cells:
        assert set(cell.gains) == set(WAYS)
        assert 0.0 < cell.pilot < 0.5
        for gain in cell.gains.values():
            assert gain.total[1] <= gain.total[0] <= gain.total[2]
            assert gain.cost == pytest.approx(1.0, abs=0.1)
    assert "redrawn: on average" in repr(quick)
    assert set(quick.summary()) == set(WAYS)


def test_a_study_goes_on_where_it_was_killed_and_survives_json_and_a_picture(quick, tmp_path, monkeypatch):
    whole = quick.as_dict()
    assert json.loads(json.dumps(whole, allow_nan=False)) == json.loads(json.dumps(whole))
    pytest.importorskip("matplotlib")
    assert (tmp_path / "a.png").samefile(quick.figure(tmp_path / "a.png"))
    monkeypatch.setattr(room, "_cell", lambda *unused: {"chosen": "level 3 alone"})
    first = adaptivity_study(quick=True, folder=tmp_path / "kept")
    monkeypatch.setattr(room, "_cell", lambda *unused: pytest.fail("computed again"))
    assert adaptivity_study(quick=True, folder=tmp_path / "kept").as_dict() == first.as_dict()
    assert len(first.plain) == 2 and first.summary() == {} and "0 cells" in repr(first)
    with pytest.raises(ValueError, match="another computation"):
        adaptivity_study(quick=True, folder=tmp_path / "kept", wrong=2.0)


def advised(given, budget, values):
    """Advice that does not depend on how a chooser chooses."""
    times = np.linspace(0.0, 1.0, 257)
    multilevel = rule(budget, "impulse", values=values)
    return Recommendation(
        given.sde, times, "euler", (1, 2, 3, 4), None, multilevel, 0.1, budget, "multilevel", "", (), ()
    )  # fmt: skip


@pytest.mark.parametrize("noise", ["ode", "additive"])
def test_a_plan_made_from_wrong_variances_shows_what_there_is_to_gain(noise):
    # the wrong twin: bounds that did not see it would prove nothing
    given, budget = problem(noise), 8000.0
    run = OwnRun(given, advised(given, budget, (0.5, 0.3, 0.1, 0.03)), budget, given.initial(16, 0), SETTINGS)
    right = min(run.recorded(), key=lambda one: run.errors(one, test=False).of_coins)
    values = right.values * np.array([1.0, 1.0, 1.0, WRONG ** (1 / 3)])
    wrong = Shaped(right.times, values, budget)
    best, words = run.searched([wrong, right])
    mine, own = run.errors(wrong, test=True), run.errors(right, test=True)
    assert run.gain(mine, own, "").coins[1] > 1.5
    assert run.gain(mine, run.errors(best, test=True), words).coins[1] > 1.5 and words != "the pilot's"
    assert run.gain(own, own, "").coins == (1.0, 1.0, 1.0)
    assert mine.cost == pytest.approx(budget, rel=0.05) and own.cost == pytest.approx(budget, rel=0.05)


def test_a_pilot_is_made_wrong_in_its_plan_and_in_what_it_expects():
    given, budget = problem(), 8000.0
    y0, advice = given.initial(16, 0), advised(given, budget, (1.0, 0.3, 0.1, 0.03))
    known = mlsde.calibrate(given.sde, y0, (0.0, 1.0), steps=256, pilot_steps=8, pilot_samples=4)
    (right, seen), (wrong, spoilt) = (room._spoilt(known, advice, y0, {"seed": 0, "wrong": w}) for w in (1.0, WRONG))
    assert (right.values == advice.multilevel.probabilities.values).all()
    factors = np.array([1.0, 1.0, 1.0, WRONG])
    assert np.allclose(spoilt, seen * factors, rtol=1e-12)
    assert np.allclose(wrong.values, right.values * factors ** (1 / 3), rtol=1e-12)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="wrong"):
        adaptivity_study(quick=True, wrong=0.0)
    with pytest.raises(TypeError, match="seed"):
        adaptivity_study(quick=True, seed="one")


def test_a_recording_runs_on_the_path_that_is_handed_to_the_run():
    given = problem("additive")
    y0, grid = given.initial(8, 0), np.linspace(0.0, 1.0, 17)
    seen, path = pilot.record(given.sde, y0, grid, seed=3), own_path(given.sde, y0, grid, 3)
    with torch.no_grad():
        low, top = (mlsde.solve(given.sde, y0, times=grid, level=k, brownian=path).y1 for k in (2, 4))
    assert seen.gaps[1] == pytest.approx(float((low - top).square().mean().sqrt()), rel=1e-12)


@pytest.mark.parametrize("correction", ["impulse", "hold", "extrapolate"])
@pytest.mark.parametrize("noise", ["ode", "additive"])
def test_one_block_is_the_run_without_redrawing_bit_for_bit(correction, noise):
    given = problem(noise)
    y0, times = given.initial(4, 0), np.linspace(0.0, 1.0, 65)
    multilevel = rule(4000.0, correction)
    states, cost, _ = redrawn_run(given.sde, y0, times, multilevel, np.ones((64, 4)), blocks=1, seed=5)
    done = mlsde.solve(given.sde, y0, times=times, multilevel=multilevel, seed=5)
    assert torch.equal(states, done.y1)
    assert cost == pytest.approx(done.stats.cost, rel=1e-12)


@pytest.mark.parametrize("coins", ["independent", "systematic", "periodic"])
def test_a_redrawn_run_keeps_its_budget_and_is_the_same_again(coins):
    given = problem()
    y0, times = given.initial(8, 0), np.linspace(0.0, 1.0, 257)
    seen = variances(given, y0, 256) * np.array([1.0, 1.0, 1.0, 1e-3])
    runs = [
        redrawn_run(given.sde, y0, times, rule(15_000.0, "impulse", coins), seen, seed=seed) for seed in (0, 0, 1, 2, 3)
    ]
    assert torch.equal(runs[0][0], runs[1][0])
    assert np.mean([cost for _, cost, _ in runs[1:]]) == pytest.approx(15_000.0, rel=0.05)


def test_redrawing_mends_a_plan_that_was_made_from_wrong_variances():
    given = problem()
    y0, times = given.initial(8, 0), np.linspace(0.0, 1.0, 257)
    seen = variances(given, y0, 256)
    true = (seen.mean(axis=0) / np.array(given.sde.drift.costs)) ** (1 / 3)
    wrong = true * np.array([1.0, 1.0, 1.0, WRONG ** (1 / 3)])
    with torch.no_grad():
        full = mlsde.solve(given.sde, y0, times=times).y1
    errors = {}
    for blocks in (1, 8):
        found = [
            redrawn_run(
                given.sde, y0, times, rule(15_000.0, "hold", values=wrong / 2 / wrong.max()),
                seen * np.array([1.0, 1.0, 1.0, WRONG]), blocks=blocks, seed=seed,
            )[0] - full
            for seed in range(4)
        ]  # fmt: skip
        errors[blocks] = math.sqrt(float(torch.stack(found).square().mean()))
    assert errors[8] < errors[1] / 1.5


def test_differences_count_where_both_values_were_had_in_one_step():
    given = problem()
    y, t = given.initial(4, 0), torch.tensor(0.0, dtype=torch.float64)
    levels = WatchedLevels(given.sde, y.dtype)
    levels.at_step(np.array([1.0, 2.0, 3.0, 4.0]))
    values = {k: levels(k, t, y) for k in (1, 2)}
    levels.at_step(np.ones(4))
    levels(3, t, y)
    assert levels.expected.tolist() == [0.0, 0.0, 3.0, 0.0]
    assert levels.seen[2] == pytest.approx(float((values[2] - values[1]).square().sum()) / 4)


def test_cells_of_a_grid_are_found_forwards_and_backwards():
    edges, times = np.linspace(0.0, 1.0, 5), np.linspace(0.0, 1.0, 9)
    assert room._cells(edges, times).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert room._cells(edges[::-1], times[::-1]).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert measure.thinned(times, 4).tolist() == edges.tolist()
