"""What a few samples of a pilot hide: a cheap level is run on many, and tolerances are enlarged by what that shows."""

import math

import pytest
import torch

import mlsde
from mlsde.calibration.crowd import Crowd, picked
from mlsde.problems.wells import double_well

WILD = 40.0


def stiff(t, y):
    """Decays at a rate that is the state's second component."""
    return torch.stack([-y[:, 1] * y[:, 0], torch.zeros_like(y[:, 1])], dim=1)


def nearly(t, y):
    return 1.01 * stiff(t, y)


STIFF = mlsde.SDE(mlsde.DriftHierarchy([nearly, stiff], costs=[1.0, 1000.0]))


def mostly_tame(count=512, *, wild=True):
    """States that decay at rate 1; a few of those that no small pilot picks do so at another."""
    y0 = torch.ones(count, 2, dtype=torch.float64)
    if wild:
        y0[3::64, 1] = WILD
    return y0


def test_the_crowd_is_as_large_as_its_price_allows_and_the_dearest_cheap_level_runs_it():
    y0, costs = torch.zeros(2000, 1), torch.tensor([1.0, 10.0, 100.0]).double().numpy()

    def crowd(price, *, differences=False, ode=False, start=y0, samples=8):
        found = Crowd.of(start, costs, differences, price, samples, ode)
        return None if found is None else (found.level, len(found.start))

    assert crowd(15.0 * 64) == (2, 64)
    assert crowd(15.0 * 63) == (1, 630)  # too few of level 2
    assert crowd(16.5 * 64, differences=True) == (2, 64)  # a value of level 2 is then both differences
    assert crowd(1e9) == (2, 1024)
    assert crowd(1.5 * 63) is None
    assert crowd(1e9, ode=True, start=y0[:100]) == (2, 100)  # no noise tells a state from itself
    assert crowd(1e9, ode=True, start=y0[:63]) is None
    assert crowd(1e9, start=y0[:1]) == (2, 1024)
    assert Crowd.of(y0, costs[:1], False, 1e9, 8, False) is None


def test_the_tail_is_what_the_crowd_changes_by_over_what_the_pilots_samples_do():
    y0 = mostly_tame()
    cal = mlsde.calibrate(STIFF, y0, (0.0, 1.0), steps=1024, pilot_steps=64, pilot_samples=4, crowd=True)
    many, level = cal.recording.crowd
    assert (many, level) == (512, 1)

    def change(states):
        ends = [mlsde.solve(STIFF, states, (0.0, 1.0), steps=n, level=1).y1 for n in (64, 32)]
        return float((ends[0] - ends[1]).square().mean())

    assert cal.recording.tail == pytest.approx(change(y0) / change(picked(y0, 4)), rel=1e-9)
    assert cal.recording.tail != pytest.approx(1.0, rel=0.01)
    assert f"the step of level 1 on 512 samples: {math.sqrt(cal.recording.tail):.2g} times" in repr(cal)
    assert mlsde.calibrate(
        STIFF, mostly_tame(wild=False), (0, 1), steps=64, crowd=True
    ).recording.tail == pytest.approx(1.0)


def test_it_is_saved_and_read_and_costs_what_it_costs(tmp_path):
    y0 = mostly_tame()
    cal = mlsde.calibrate(STIFF, y0, (0.0, 1.0), steps=1024, crowd=True)
    cal.save(tmp_path / "cal.npz")
    again = mlsde.Calibration.load(tmp_path / "cal.npz", STIFF, steps=1024).recording
    assert (again.tail, again.crowd) == (cal.recording.tail, cal.recording.crowd)
    n, many = cal.recording.steps, cal.recording.crowd[0]
    calls = [0]

    def counted(t, y):
        calls[0] += len(y)
        return stiff(t, y)

    sde = mlsde.SDE(mlsde.DriftHierarchy([counted, stiff], costs=[1.0, 1000.0]))
    mlsde.calibrate(sde, y0, (0.0, 1.0), steps=1024, crowd=True)
    assert calls[0] > 1.5 * n * many


def test_some_of_the_many_that_do_not_stay_finite_are_told():
    y0 = mostly_tame()
    y0[3, 1] = 1e30
    cal = mlsde.calibrate(STIFF, y0, (0.0, 1.0), steps=1024, pilot_steps=64, pilot_samples=4, crowd=True)
    assert math.isinf(cal.recording.tail)
    assert any("level 1 became NaN or infinite on some of 512 samples" in warning for warning in cal.warnings)
    assert cal.recommend(tol=0.1).predicted_error <= 0.1


def test_a_tolerance_is_enlarged_by_it_and_a_budget_is_not():
    y0 = mostly_tame()
    y0[3::64, 1] = -1.5  # these grow
    cal = mlsde.calibrate(STIFF, y0, (0.0, 1.0), steps=1024, pilot_steps=64, pilot_samples=4, crowd=True)
    tame = mlsde.calibrate(STIFF, y0[:3], (0.0, 1.0), steps=1024, pilot_steps=64, pilot_samples=3, crowd=True)
    assert cal.recording.tail > 2 and tame.recording.tail == 1.0
    few, many = (one.recommend(tol=1e-3) for one in (tame, cal))
    assert few.predicted_cost < many.predicted_cost
    assert 1e-3 / 10 < many.predicted_error <= 1e-3 / 1.5 * 1.001
    one, other = (known.recommend(budget=1e5).predicted_error for known in (cal, tame))
    assert one == pytest.approx(other, rel=0.5)
    reference = mlsde.solve(STIFF, y0, (0.0, 1.0), steps=20_000).y1

    def missed(known, tol):
        return float((known.recommend(tol=tol).solve(y0).y1 - reference).square().mean().sqrt()) > tol

    tols = (1e-3, 3e-3, 1e-2, 3e-2)
    assert not any(missed(cal, tol) for tol in tols) and any(missed(tame, tol) for tol in tols)


@pytest.mark.parametrize(("tol", "seed"), [(0.1, 0), (0.02, 0), (0.01, 0), (0.1, 5), (0.01, 5)])
def test_between_two_wells_tolerances_are_kept_that_a_few_samples_would_have_missed(tol, seed):
    problem = double_well(seed=1)
    y0 = problem.initial(512)
    path = mlsde.BrownianPath(0.0, 2.0, like=y0, seed=1000 + seed, grids=(1,))
    exact = mlsde.solve(problem.sde, y0, problem.t_span, steps=4096, brownian=path).y1
    done = mlsde.solve(problem.sde, y0, problem.t_span, tol=tol, brownian=path, seed=seed)
    assert float((done.y1 - exact).square().mean().sqrt()) <= tol
