"""The study of tolerances: whose problems they are, what counts as kept, and keepers that must fail it."""

import json
import math

import numpy as np
import pytest
import torch

import mlsde
from mlsde.chunks.results import Results
from mlsde.problems.kinds import ladder, system
from mlsde.study import tolerance as room
from mlsde.study.auto import reach
from mlsde.study.hindsight import error_of, fine_batch, root_mean_square
from mlsde.study.runners import Spent
from mlsde.study.tolerance import Row, Tolerances, random_problem, tolerances, wilson

SMALL = {"count": 6, "trajectories": 8, "reference_steps": 1536}


def doubling(problem, y0, tol, *, seed, brownian, margin=2.0):
    """Doubles the steps of the top level until two runs are nearer than the tolerance; foresees that distance."""
    runs, cost, n = [], 0.0, 8
    while True:
        try:
            done = mlsde.solve(problem.sde, y0, problem.t_span, steps=n, brownian=brownian)
        except mlsde.NonFiniteError:
            n *= 2
            continue
        runs.append(done.y1)
        if len(runs) > 1:
            gap = root_mean_square(runs[-1] - runs[-2])
            if gap < tol / margin or n >= 1024:
                return Spent(done.y1, done.stats.cost, cost, gap, done.stats.cost, f"{n} steps")
        cost += done.stats.cost
        n *= 2


def hasty(problem, y0, tol, *, seed, brownian):
    """The wrong twin: eight steps, and the tolerance itself as its prediction."""
    done = mlsde.solve(problem.sde, y0, problem.t_span, steps=8, level=1, brownian=brownian)
    return Spent(done.y1, done.stats.cost, 0.0, tol, done.stats.cost, "8 steps")


def wasteful(problem, y0, tol, *, seed, brownian):
    """The wrong twin that keeps everything at any price."""
    return doubling(problem, y0, tol / 50, seed=seed, brownian=brownian)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """The study of a careful keeper, and the folder of its references."""
    folder = tmp_path_factory.mktemp("kept")
    return tolerances(doubling, folder=folder, **SMALL), folder


def again(kept, reach, tmp_path):
    """The study of another keeper, with the references of the first."""
    (tmp_path / "references").symlink_to(kept[1] / "references")
    return tolerances(reach, folder=tmp_path, **SMALL)


def test_a_careful_keeper_keeps_them(kept):
    summary = kept[0].summary()
    assert summary["kept"] == 1.0
    assert summary["interval of 95 %"][0] == pytest.approx(0.61, abs=0.01)
    assert 1 < summary["median of tolerance over error"] < 5
    assert set(summary["kept, by noise"]) == {"ode", "additive", "multiplicative"}


def test_a_hasty_keeper_does_not_and_is_not_believed(kept, tmp_path):
    summary = again(kept, hasty, tmp_path).summary()
    assert summary["kept"] < 0.5
    assert summary["median of tolerance over error"] < 1
    assert summary["foreseen errors within 1.5"] < 0.5


def test_a_wasteful_keeper_is_seen_by_its_margin(kept, tmp_path):
    wasted = again(kept, wasteful, tmp_path)
    assert wasted.summary()["kept"] == 1.0
    medians = [done.summary()["median of tolerance over error"] for done in (wasted, kept[0])]
    assert medians[0] > 5 and medians[0] > 2 * medians[1]
    assert sum(row.cost for row in wasted.rows) > 2 * sum(row.cost for row in kept[0].rows)


def test_a_keeper_that_gives_up_has_missed_and_json_says_null(kept, tmp_path):
    def refuses(problem, y0, tol, **options):
        raise ValueError(f"tol={tol:g} is out of reach.")

    done = again(kept, refuses, tmp_path)
    assert done.summary()["kept"] == 0.0
    whole = json.loads(json.dumps(done.as_dict(), allow_nan=False))
    assert whole["rows"][0]["error"] is None and whole["rows"][0]["kept"] is False
    assert "gave up: tol=" in repr(done)


def test_what_is_foreseen_is_counted_over_all_problems_also_where_nothing_is(kept, tmp_path):
    def silent(*arguments, **options):
        told = doubling(*arguments, **options)
        return Spent(told.states, told.cost, told.pilot)

    assert again(kept, silent, tmp_path).summary()["foreseen errors within 1.5"] == 0.0


def test_errors_are_true_ones_on_the_same_path_and_costs_are_in_evaluations_of_the_top_level(kept):
    row = kept[0].rows[1]
    problem, noise = random_problem(1)
    assert row.noise == noise == "additive"
    batch, _ = fine_batch(problem, 8, 1536, 1, Results(None, {}), "r")
    told = doubling(problem, batch.y0, row.tol, seed=1, brownian=batch.path)
    assert row.error == pytest.approx(error_of(batch, told.states), rel=1e-9)
    assert row.scale == pytest.approx(root_mean_square(batch.reference), rel=1e-9)
    assert row.cost == pytest.approx((told.cost + told.pilot) / problem.sde.drift.costs[-1])
    assert row.gap < 0.1 * row.tol


def test_tolerances_span_what_they_should(kept):
    for row in kept[0].rows:
        decades = -math.log10(row.tol / row.scale)
        assert 0.5 <= decades <= (1.75 if row.noise == "multiplicative" else 2.25)


def test_the_table_the_json_and_the_figure(kept, tmp_path):
    done = kept[0]
    lines = repr(done).splitlines()
    assert sum("rotations of" in x or "pendulums of" in x or "weather of" in x for x in lines) == 6
    margins = [float(line.split()[0]) for line in lines[-6:]]
    assert margins == sorted(margins)
    whole = json.loads(json.dumps(done.as_dict(), allow_nan=False))
    assert [row["margin"] for row in whole["rows"]] == [row.margin for row in done.rows]
    assert whole["summary"]["kept"] == 1.0
    file = done.figure(tmp_path / "new" / "tolerances.png")
    assert (tmp_path / "new" / "tolerances.png").stat().st_size > 10_000 and file.endswith(".png")


def test_a_killed_study_goes_on_and_comes_out_the_same(kept, tmp_path, monkeypatch):
    class KilledError(Exception):
        pass

    asked = []

    def killed(*arguments, **options):
        asked.append(options["seed"])
        if len(asked) == 4:
            raise KilledError
        return doubling(*arguments, **options)

    with pytest.raises(KilledError):
        again(kept, killed, tmp_path)
    done = tolerances(killed, folder=tmp_path, **SMALL)
    assert done == kept[0]
    assert asked == [0, 1, 2, 3, 3, 4, 5]
    with pytest.raises(ValueError, match="another computation"):
        tolerances(killed, folder=tmp_path, **{**SMALL, "trajectories": 9})
    monkeypatch.setattr(room, "random_problem", lambda number: random_problem(number + 1))
    with pytest.raises(ValueError, match="another computation"):
        tolerances(killed, folder=tmp_path, **SMALL)


def test_random_problems_are_of_every_kind_system_and_noise_and_reproduced_by_their_number():
    made = [random_problem(number) for number in range(60)]
    names = [problem.name for problem, _ in made]
    assert len(set(names)) == 60
    for word in (*room.LADDERS, *room.SYSTEMS, *room.NOISES):
        assert sum(word in name for name in names) >= 4
    sizes = {problem.initial(1).shape[1] for problem, _ in made}
    assert sizes == {8, 12, 16}
    assert all(("volatility" in problem.name) == (noise != "ode") for problem, noise in made)
    assert random_problem(3)[0].name == names[3]
    y = made[3][0].initial(2)
    t = torch.tensor(0.3, dtype=y.dtype)
    first, second = (random_problem(3)[0].sde.drift.levels[-1](t, y) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (9, 10, 0.5958, 0.9821), (108, 120, 0.8333, 0.9419)],
)
def test_wilsons_interval(successes, trials, low, high):
    """The ends solve ``|p - share| = z sqrt(p (1 - p) / n)``; the plain normal interval does not."""
    found = wilson(successes, trials)
    np.testing.assert_allclose(found, (low, high), atol=6e-5)
    for end in found:
        if 0 < end < 1:
            z = abs(end - successes / trials) / math.sqrt(end * (1 - end) / trials)
            assert z == pytest.approx(1.96, abs=1e-3)
    share = successes / trials
    normal = share + 1.96 * math.sqrt(share * (1 - share) / trials)
    assert abs(normal - high) > 0.005


@pytest.mark.parametrize(("successes", "trials"), [(-1, 4), (5, 4), (0, 0)])
def test_wilsons_interval_refuses_what_is_no_share(successes, trials):
    with pytest.raises(ValueError, match=r"trials|successes"):
        wilson(successes, trials)


def test_a_row_that_has_no_error_at_all_has_been_kept_with_any_margin():
    row = Row(0, "x", "ode", 1.0, 0.1, 0.0, 0.0, None, 1.0, "")
    assert row.kept and row.margin == math.inf
    whole = Tolerances((row,), {}).as_dict()
    assert whole["rows"][0]["margin"] is None


@pytest.mark.parametrize("name", ["count", "trajectories", "reference_steps"])
def test_bad_numbers_are_named(name):
    with pytest.raises(ValueError, match=name):
        tolerances(doubling, **{**SMALL, name: 0})
    with pytest.raises(ValueError, match="seed"):
        tolerances(doubling, seed=-1)


# the package's own


def test_the_default_keeper_does_what_solve_does_and_counts_the_same_pilot():
    problem = ladder("smooth", system("rotations", 8), "additive", gamma=2.0, levels=3)
    y0 = problem.initial(32)
    path = mlsde.BrownianPath(0.0, 1.0, like=y0, seed=3)
    told = reach(problem, y0, 0.2, seed=1, brownian=path)
    done = mlsde.solve(problem.sde, y0, (0.0, 1.0), tol=0.2, seed=1, brownian=path)
    assert torch.equal(told.states, done.y1)
    assert (told.cost, told.pilot) == (done.stats.cost, done.stats.pilot_cost)
    assert (told.predicted_error, told.chosen) == (done.error, done.recommendation.describe())


@pytest.mark.slow  # a pilot takes seconds to look for the cheapest way to a tolerance
def test_the_quick_study_of_the_default_keeper_runs_and_most_are_kept(tmp_path):
    done = tolerances(quick=True, folder=tmp_path)
    assert len(done.rows) == 6
    assert done.summary()["kept"] >= 4 / 6
    json.dumps(done.as_dict(), allow_nan=False)
