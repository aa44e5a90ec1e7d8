"""The study of how well gamma is recovered: its ladders, its pilot, its summary."""

import json
import math

import numpy as np
import pytest
import torch

import mlsde
from mlsde.study.gamma import GAMMAS, KINDS, LEVELS, NEAR, SORTS, SOUND, Recovered, Row, gamma_study, ladder, squares


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("gamma")


@pytest.fixture(scope="module")
def quick(folder):
    return gamma_study(quick=True, folder=folder)


def by_change(change):
    return next(sort for sort in SORTS if sort.change == change)


# the ladders and the pilot


@pytest.mark.parametrize("kind", KINDS, ids=" ".join)
def test_the_squares_of_the_pilot_are_those_of_level_variances(kind):
    """A ladder made for it, seen by the package's own measurement on the same path."""
    problem = ladder(SORTS[0], kind, 2.5, 5, 3)
    ours = squares(problem, 16, 8, 3)
    theirs = mlsde.level_variances(problem.sde, problem.initial(16, 3), problem.t_span, steps=8, seed=3)
    assert ours.shape == (16, 5)
    assert ours.mean(axis=0) == pytest.approx(theirs.values.mean(axis=0))


@pytest.mark.parametrize("gamma", GAMMAS)
def test_levels_of_every_sort_grow_dearer_and_those_not_inserted_obey_the_law(gamma):
    for sort in SORTS:
        problem = ladder(sort, ("additive", "smooth"), gamma, 6, 5)
        costs = np.array(problem.sde.drift.required_costs("the test"))
        more = {"useless": 1, "plateau": 2, "alike": 2}.get(sort.change, 0)
        assert len(costs) == 6 - sort.fewer + more
        assert (np.diff(costs) > 0).all()
        assert problem.gamma == gamma


def sizes(change):
    """Roots of the differences, level 1 left out, in units of what the law makes of them."""
    problem = ladder(by_change(change), ("additive", "rough"), 2.0, 6, 1)
    measured = np.sqrt(squares(problem, 16, 16, 1).mean(axis=0))[1:]
    return measured / (math.sqrt(1.25) * 0.5 ** np.arange(1, len(measured) + 1))


def test_what_is_inserted_is_as_wrong_as_said():
    """Differences within some per cent: two levels as wrong as each other differ by the root of 2 of their error."""
    assert sizes("none") == pytest.approx(np.ones(5), rel=0.1)
    two = math.sqrt(2 / 1.25)
    assert sizes("useless") == pytest.approx([1, 1, two, 2, 2, 2], rel=0.1)  # those after it come one place later
    assert sizes("plateau") == pytest.approx([two, 2 * two, 4, 4, 4, 4, 4], rel=0.1)
    alike = sizes("alike")
    assert max(alike[:2]) < 0.5
    assert alike[2:] == pytest.approx([4] * 5, rel=0.1)


def test_ratios_vary_and_levels_are_those_of_the_long_ladder():
    drift = ladder(by_change("varying"), ("ode", "smooth"), 3.0, 8, 0).sde.drift
    steps = np.diff(np.log2(drift.required_costs("the test"))) / 3.0
    assert steps == pytest.approx(np.round(steps))
    assert len({*np.round(steps)}) > 1


# the study


def test_a_quick_study_takes_seconds_and_recovers_what_a_few_ladders_can_show(quick):
    """Of 64 sound ladders one in fifty misses and one in eighty is not covered; 6 of them a run in 1000."""
    sound = quick[SOUND]
    assert sound.count == 64
    assert sound.near[0] > 0.9
    assert sound.covered[0] > 0.9
    assert quick["4 components"].scatter > 2 * sound.scatter
    assert {row.count for row in quick.rows()[1 : len(SORTS)]} == {20}


def test_every_exponent_kind_and_number_of_levels_has_its_row(quick):
    names = [row.name for row in quick.rows()]
    assert names[: len(SORTS)] == [sort.name for sort in SORTS]
    assert names[len(SORTS) : len(SORTS) + 4] == [f"sound, gamma {gamma:g}" for gamma in GAMMAS]
    assert set(names[len(SORTS) + 4 :]) == {f"sound, {kind} {d}" for kind, d in KINDS} | {
        f"sound, gamma {gamma:g}, {levels} levels" for gamma in GAMMAS for levels in LEVELS
    }
    with pytest.raises(KeyError, match="none of"):
        quick["no such row"]


def test_the_table_has_a_line_for_each_row_and_json_holds_no_infinity(quick):
    lines = repr(quick).splitlines()
    assert [line[:34].strip() for line in lines[2:]] == [row.name for row in quick.rows()]
    whole = json.loads(json.dumps(quick.as_dict(), allow_nan=False))
    assert [row["name"] for row in whole["rows"]] == [row.name for row in quick.rows()]
    assert whole["settings"]["seed"] == 0


def test_the_figure_is_drawn(quick, tmp_path):
    file = tmp_path / "pictures" / "gamma.png"
    assert quick.figure(file) == str(file)
    assert file.stat().st_size > 10_000


def test_a_folder_keeps_what_was_found_and_refuses_another_seed(quick, folder, monkeypatch):
    monkeypatch.setattr("mlsde.study.gamma.squares", None)  # nothing is measured again
    assert repr(gamma_study(quick=True, folder=folder)) == repr(quick)
    with pytest.raises(ValueError, match="holds another computation"):
        gamma_study(quick=True, seed=1, folder=folder)


def test_a_bad_seed_is_refused():
    with pytest.raises(ValueError, match="seed must not be negative"):
        gamma_study(quick=True, seed=-1)


# the summary


def one(found, low, high, gamma=3.0):
    return Recovered(SOUND, gamma, 5, "ode smooth", found, low, high, 0.1, 4, 0, False)


def test_near_and_covered_are_counted_and_what_is_not_told_counts_as_missed():
    nothing = one(math.nan, math.nan, math.nan)
    open_end = one(math.inf, 2.0, math.inf)
    row = Row.of("four", [one(3.0 + NEAR / 2, 2.0, 4.0), one(3.3, 3.1, 4.0), nothing, open_end])
    assert (row.near[0], row.covered[0]) == (0.25, 0.5)
    assert row.near[1] < 0.25 < row.near[2]
    assert row.ratio[2] == math.inf


def test_the_pilot_leaves_the_random_state_alone(quick):
    before = torch.get_rng_state()
    squares(ladder(SORTS[0], KINDS[0], 2.5, 5, 0), 4, 4, 0)
    assert torch.equal(before, torch.get_rng_state())
