"""Long runs: what they work out in pieces is bit for bit what ordinary runs keep, and nothing grows with the steps."""

import copy
import math
import pickle
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mlsde
from mlsde import SDE, DriftHierarchy, Multilevel
from mlsde.calibration.shaped import Shaped
from mlsde.coins import RunningSums, running_sums
from mlsde.grids import (
    LONG,
    EvenGrid,
    Rows,
    asked,
    changed,
    first_at_or_after,
    highest,
    kept,
    lowest_above_zero,
    repeated,
)
from mlsde.increments import IndependentIncrements
from mlsde.integrate import Run
from mlsde.plan import fixed_plan, multilevel_plan
from mlsde.saving import Saver

pytestmark = pytest.mark.usefixtures("one_thread")

LEVELS = [lambda t, y: -y, lambda t, y: -torch.sin(y), lambda t, y: -torch.sin(y) - 0.1 * y.pow(3)]
LADDER = DriftHierarchy(LEVELS, costs=[1.0, 8.0, 64.0])
PIECE, STEPS = 70, 500
"""Not a multiple of a block of steps, and some seven pieces of it."""


def learned(budget=None):
    return mlsde.Learned([0.0, 0.3, 1.0], [[1.0, 0.5, 0.1], [0.9, 0.3, 0.05], [1.0, 1.0, 0.02]], budget=budget)


def shaped():
    values = np.array([[2.0, 0.3, 0.1], [1.0, 0.1, 0.2], [0.5, 0.4, 0.01]])
    return Shaped(np.array([0.0, 0.2, 0.7, 1.0]), values, 8.0 * STEPS)


RULES = {
    "constant": mlsde.Constant([1.0, 0.3, 0.07]),
    "power law": mlsde.PowerLaw(2.5),
    "power law, budget": mlsde.PowerLaw(2.5, budget=9.0 * STEPS),
    "power law, all": mlsde.PowerLaw(2.5, budget=900.0 * STEPS),
    "optimal, functions": mlsde.Optimal(lambda t: [1.0, 0.1 + t, 0.02], 9.0 * STEPS, 2.0, lambda t: 1.0 + t),
    "optimal, all": mlsde.Optimal([1.0, 0.1, 0.01], 900.0 * STEPS),
    "learned": learned(),
    "learned, budget": learned(9.0 * STEPS),
    "learned, all": learned(900.0 * STEPS),
    "shaped": shaped(),
    "function": lambda t: [1.0, 0.5 - 0.4 * t, 0.1 if t < 0.5 else 1.0],
}


@pytest.fixture
def in_pieces(monkeypatch):
    """Calls what it is given twice: as ordinary runs go, and with all that has more than a few steps in pieces."""

    def both(call):
        ordinary = call()
        for module in ("grids", "checks", "coins"):
            monkeypatch.setattr(f"mlsde.{module}.LONG", PIECE)
        return ordinary, call()

    return both


def solved(rule, steps=STEPS, span=(0.0, 1.0), seed=3, **options):
    sde = SDE(LADDER, 0.3)
    return mlsde.solve(
        sde, torch.linspace(-1, 1, 6).view(3, 2), span, steps=steps, multilevel=rule, seed=seed, **options
    )


@pytest.mark.parametrize("name", list(RULES))
@pytest.mark.parametrize(("coins", "correction"), [("systematic", "extrapolate"), ("independent", "impulse")])
def test_a_run_in_pieces_is_the_ordinary_one(name, coins, correction, in_pieces):
    plain, long = in_pieces(lambda: solved(Multilevel(RULES[name], coins, correction), save_at=[0.1, 0.5, 1.0]))
    assert isinstance(plain.plan.table, np.ndarray) and isinstance(long.plan.table, Rows)
    assert isinstance(plain.plan.grid, np.ndarray) and isinstance(long.plan.grid, EvenGrid)
    assert plain.plan.times.tolist() == long.plan.times.tolist()
    # of a budget the prices of pieces are added up in another order
    tolerance = 1e-6 if "budget" in name or "shaped" in name or "functions" in name else 0.0
    np.testing.assert_allclose(plain.plan.probabilities, long.plan.probabilities, rtol=tolerance)
    if tolerance == 0.0:
        assert torch.equal(plain.ys, long.ys) and plain.stats.evaluations == long.stats.evaluations
        assert plain.plan.evaluations.tolist() == long.plan.evaluations.tolist()
    assert plain.plan.expected_cost == pytest.approx(long.plan.expected_cost, rel=1e-6)
    assert plain.ts.tolist() == long.ts.tolist()


KINDS = [
    (c, how) for c in ("independent", "nested", "systematic", "periodic") for how in ("impulse", "hold", "control")
]
KINDS += [(c, "extrapolate") for c in ("systematic", "periodic")]


@pytest.mark.parametrize(("coins", "correction"), KINDS)
@pytest.mark.parametrize("share", ["batch", "sample"])
def test_every_kind_of_coins_and_correction(coins, correction, share, in_pieces):
    rule = Multilevel(RULES["function"], coins, correction, share)
    plain, long = in_pieces(lambda: solved(rule, span=(1.0, 0.0)))  # backwards
    assert torch.equal(plain.ys, long.ys)
    assert plain.plan.expected_cost == pytest.approx(long.plan.expected_cost, rel=1e-12)


class Floor(mlsde.PowerLaw):
    def table(self, times, drift, price):
        return np.maximum(0.3, super().table(times, drift, price))


def test_a_rule_of_ones_own_that_changes_the_table_of_another_is_heard(in_pieces):
    for plan in in_pieces(lambda: solved(Multilevel(Floor(2.0))).plan):
        assert plan.probabilities[1:].min() == 0.3


FUNCTIONS = {
    "constant": (lambda t: [1.0, 0.5, 0.25], 1),
    "in three stretches": (lambda t: [1.0, 0.5, 0.1 + 0.2 * (t >= 0.3) + 0.2 * (t >= PIECE / STEPS)], 3),
    "smooth": (lambda t: [1.0, 0.5 + 0.1 * t, 0.25], STEPS),
}


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_a_function_of_time_is_asked_once_for_each_step_and_what_changes_is_kept(name, monkeypatch):
    function, stretches = FUNCTIONS[name]
    monkeypatch.setattr("mlsde.grids.LONG", PIECE)
    times, seen = np.linspace(0.0, 1.0, STEPS + 1), []
    table = asked(lambda some: np.array([seen.append(t) or function(t) for t in some]), times)
    assert isinstance(table, Rows) and seen == times[:-1].tolist()
    assert np.asarray(table).tolist() == [function(t) for t in seen] and len(seen) == STEPS
    assert table[PIECE - 3 : PIECE + 3].tolist() == [function(t) for t in seen[PIECE - 3 : PIECE + 3]]
    kept = {len(cell.cell_contents) for cell in table._make.__closure__}
    assert kept == {stretches} and table.alike == (stretches == 1)


def test_a_run_that_is_over_does_not_change_with_what_its_functions_read(in_pieces):
    def sweep():
        found = []
        for q in (0.2, 0.4):
            rule = Multilevel(lambda t: [1.0, q, 0.1])  # noqa: B023
            found.append(solved(rule))
        return [run.plan.probabilities[1, 1] for run in found], [run.plan.evaluations[1] for run in found]

    plain, long = in_pieces(sweep)
    assert plain == long and plain[0] == [0.2, 0.4]


def test_a_block_ends_with_the_run(in_pieces):
    for plan in in_pieces(lambda: solved(Multilevel(RULES["constant"], "systematic", "extrapolate")).plan):
        block = plan.block(STEPS - 5, STEPS + 20)
        assert {len(getattr(block, name)) for name in ("fires", "weights", "coefficients", "evaluates", "keeps")} == {5}


def test_a_solution_travels(in_pieces):
    plain, long = in_pieces(lambda: pickle.loads(pickle.dumps(solved(Multilevel(RULES["function"])))))
    assert plain.plan.evaluations.tolist() == long.plan.evaluations.tolist()
    assert plain.plan.times.tolist() == long.plan.times.tolist()
    assert copy.deepcopy(long).plan.probabilities.tolist() == plain.plan.probabilities.tolist()


def test_all_states_of_a_run_in_pieces(in_pieces):
    plain, long = in_pieces(lambda: solved(Multilevel(RULES["constant"]), save_at="steps"))
    assert torch.equal(plain.ys, long.ys) and plain.ts.tolist() == long.ts.tolist() == long.plan.times.tolist()


def test_unequal_steps_have_noise_of_their_lengths(in_pieces):
    """Of pieces each of which is even, and over several draws of normals."""
    times = np.cumsum([0.0, *[0.001] * (3 * PIECE), *[0.004] * 90])

    def noise():
        return solved(None, steps=None, span=None, times=times, save_at="steps", level=1).ys

    plain, long = in_pieces(noise)
    assert torch.equal(plain, long)
    shape = 2**15, 3
    even, uneven = (
        IndependentIncrements(grid, shape, torch.float32, torch.device("cpu"), 0) for grid in (np.arange(301.0), times)
    )
    assert uneven._rows.rows_per_chunk < 100
    for n, h in [(0, 0.001), (3 * PIECE - 1, 0.001), (3 * PIECE, 0.004), (299, 0.004)]:
        torch.testing.assert_close(uneven.increment(n), h**0.5 * even.increment(n), rtol=1e-5, atol=0.0)


def test_what_a_table_is_predicted_to_miss_by_is_summed_over_its_pieces(in_pieces):
    errors, table = numbered(0, STEPS), 1.0 / (1.0 + numbered(0, STEPS))
    plain, long = in_pieces(lambda: mlsde.Optimal([1.0, 0.1], 9.0, 2.0)._predicted(errors, table))
    n = np.arange(STEPS)
    assert plain == pytest.approx(long) == pytest.approx(2.0 * (n * (1.0 + n) ** 2).sum())


@pytest.mark.parametrize("level", [None, 2, lambda t: 1 if t < 0.6 else 3], ids=["top", "second", "stitched"])
def test_plans_without_coins(level, in_pieces):
    plain, long = in_pieces(lambda: solved(None, level=level))
    assert torch.equal(plain.ys, long.ys) and plain.plan.alone == long.plan.alone
    assert isinstance(long.plan.table, Rows) and plain.stats.evaluations == long.stats.evaluations


@pytest.mark.parametrize("table", [Rows, np.asarray])
def test_blocks_may_be_asked_for_in_any_order(table):
    rule = Multilevel(RULES["function"], "systematic", "extrapolate")
    plan = multilevel_plan(rule, np.linspace(0.0, 1.0, STEPS + 1), LADDER, seed=1)
    whole = plan.block(0, STEPS)
    for start, stop in [(400, 450), (10, 20), (20, 90), (499, 500), (0, 1), (63, 65)]:
        part = plan.block(start, stop)
        for name in ("fires", "weights", "coefficients", "evaluates", "keeps"):
            np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[start:stop])


def test_running_sums_do_not_depend_on_where_they_are_asked_for(monkeypatch):
    table = np.random.default_rng(0).random((300, 2)) ** 4
    whole = running_sums(table)
    monkeypatch.setattr("mlsde.coins.LONG", 32)
    sums = RunningSums(table)
    for start, stop in [(200, 210), (3, 4), (4, 150), (299, 300), (0, 300), (150, 150)]:
        np.testing.assert_array_equal(sums.before(start, table[start:stop]), whole[start : stop + 1])


def test_a_plan_that_begins_late_has_the_other_coins_of_the_first():
    from mlsde.diffusion.runs import late

    rule = Multilevel(mlsde.Constant([1.0, 0.3, 0.1]), "systematic", "hold")
    plan = multilevel_plan(rule, np.linspace(0, 1, 201), LADDER)
    fires, later = (p.block(0, 200).fires for p in (plan, late(plan, 5)))
    assert later[5].all() and not fires[5].all()
    np.testing.assert_array_equal(np.delete(fires, 5, axis=0), np.delete(later, 5, axis=0))


spans = st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)).filter(lambda span: abs(span[0] - span[1]) > 1e-3)


@given(span=spans, steps=st.integers(1, 300), part=st.slices(301), share=st.floats(0, 1))
def test_an_even_grid_is_linspace(span, steps, part, share):
    grid, array = EvenGrid(*span, steps), np.linspace(*span, steps + 1)
    assert len(grid) == len(array) and np.asarray(grid).tolist() == array.tolist()
    assert grid[part].tolist() == array[part].tolist()
    assert [grid[n] for n in (0, steps // 2, -1)] == [array[n] for n in (0, steps // 2, -1)]
    assert grid.length == abs(span[1] - span[0]) / steps
    between = np.clip(span[0] + share * (span[1] - span[0]), min(span), max(span))
    wanted = np.array([array[0], between, array[steps // 3], array[-1]])
    assert first_at_or_after(grid, wanted).tolist() == first_at_or_after(array, wanted).tolist()
    with pytest.raises(IndexError, match="got the number"):
        grid[steps + 1]


def test_steps_that_rounding_makes_equal_are_refused_in_a_long_grid():
    with pytest.raises(
        ValueError, match=r"steps must give strictly increasing .* but times 0 and 1 are 1000000\.0 and"
    ):
        mlsde.checks.run_grid((1e6, math.nextafter(1e6, 2e6) + 1e-6), 2 * LONG, None)


def test_times_that_rounding_blurs_are_found_in_a_long_grid():
    grid = EvenGrid(1e6, 1e6 + 1000 * 1.05 * np.spacing(1e6), 1000)  # steps of hardly more than a rounding
    array = np.asarray(grid)
    wanted = np.sort(np.concatenate([array, np.nextafter(array, 0.0)[1:], np.nextafter(array, 2e6)[:-1]]))
    assert (np.diff(array) > 0).all()
    assert first_at_or_after(grid, wanted).tolist() == np.searchsorted(array, wanted).tolist()


@pytest.mark.parametrize("at", [0, PIECE - 1, PIECE, 2 * PIECE + 9])
def test_times_that_stand_still_are_named_wherever_they_are(at, in_pieces):
    times = np.linspace(0.0, 1.0, STEPS + 1)
    times[at + 1] = times[at]

    def refused():
        with pytest.raises(ValueError, match=f"but times {at} and {at + 1} are {times[at]} and {times[at]}"):
            mlsde.checks.time_grid(None, None, times)

    in_pieces(refused)


def test_a_price_is_that_of_three_pieces_where_all_rows_are_alike(in_pieces, monkeypatch):
    asked, expected = [], mlsde.Plan._expected
    monkeypatch.setattr(mlsde.Plan, "_expected", lambda *args: asked.append(args[1:]) or expected(*args))
    in_pieces(lambda: solved(Multilevel(RULES["power law"])).plan.expected_cost)
    assert asked == [(0, STEPS), (0, PIECE), (PIECE, 2 * PIECE), (STEPS - STEPS % PIECE, STEPS)]


def test_levels_that_fire_in_some_pieces_only_are_not_silent(in_pieces):
    in_pieces(lambda: solved(Multilevel(lambda t: [1.0, 1.0, 0.5 if t < 0.5 else 0.0])))
    rule = Multilevel(mlsde.Constant([1.0, 0.5, 0.004]), "periodic", "impulse")
    plain, long = in_pieces(lambda: solved(rule))
    assert plain.stats.evaluations == long.stats.evaluations and plain.plan.block(0, STEPS).fires[:, 2].sum() == 2


@pytest.mark.parametrize("span", [(0.0, 1e39), (-1e39, 0.0)])
@pytest.mark.parametrize("steps", [4, 2 * LONG])
def test_times_that_float32_does_not_reach_are_refused(span, steps):
    with pytest.raises(ValueError, match="times"):
        mlsde.solve(SDE(LEVELS[0]), torch.ones(1, 1), span, steps=steps)


def test_a_wrong_probability_late_in_a_long_run_is_told_before_the_first_step(in_pieces):
    called = []
    sde, steps = (
        SDE(DriftHierarchy([lambda t, y: called.append(t) or -y, LEVELS[1]])),
        2000,
    )  # more than are read at once

    def run(rule=None, **options):
        return mlsde.solve(sde, torch.ones(1, 1), (0.0, 1.0), steps=steps, multilevel=rule, **options)

    def failing():
        with pytest.raises(ValueError, match=r"level 2 at t=0\.9 is 1\.5, outside \[0, 1\]"):
            run(Multilevel(lambda t: [1.0, 0.5 if t < 0.9 else 1.5]))
        with pytest.raises(ValueError, match="level must be within 1 … 2, got 3"):
            run(level=lambda t: 1 + (t > 0.01) + (t > 0.9))
        with pytest.raises(ValueError, match="level 2 is 0 at every step"):
            run(Multilevel(lambda t: [1.0, 0.0]))
        with pytest.raises(ValueError, match=r"level 2 would never fire in 2000 steps, its .* summing to 0\.1"):
            run(Multilevel(mlsde.Constant([1.0, 0.00005]), "periodic", "impulse"))

    in_pieces(failing)
    assert not called


def test_tables_in_pieces(in_pieces):
    rows = changed(lambda a, b: a * b, repeated(np.array([2.0, 3.0]), STEPS), Rows((STEPS, 2), numbered))
    assert not rows.alike and repeated(np.ones(2), 3).alike and changed(np.sqrt, repeated(np.ones(2), 3)).alike
    plain, long = in_pieces(lambda: kept(rows))
    assert isinstance(plain, np.ndarray) and long is rows and repr(long) == "Rows(shape (500, 2))"
    assert highest(long).tolist() == highest(plain).tolist() == [2.0 * 499, 3.0 * 499]
    assert lowest_above_zero(long) == lowest_above_zero(plain) == 2.0
    assert lowest_above_zero(np.zeros((3, 2))) == math.inf
    assert np.asarray(rows, dtype=np.float32).dtype == np.float32


@pytest.mark.parametrize("at", [3, slice(0, 9, 2), slice(None, None, -1), (slice(0, 2), 1)])
def test_a_long_table_gives_consecutive_rows_alone_and_says_so(at):
    table = Rows((STEPS, 2), numbered)
    assert table[5:7].tolist() == table[-495:-493:1].tolist() == [[5.0, 5.0], [6.0, 6.0]] and table[7:5].shape == (0, 2)
    with pytest.raises(TypeError, match=r"gives consecutive rows.*plan\.probabilities"):
        table[at]


def test_a_function_that_changes_after_the_second_step_has_rows_that_differ(monkeypatch):
    monkeypatch.setattr("mlsde.grids.LONG", PIECE)
    times = np.arange(STEPS + 1.0)
    late = asked(lambda some: np.array([[1.0 * (t < 2.0)] for t in some]), times)
    early = asked(lambda some: np.array([[1.0 * (t < 1.0)] for t in some]), times)
    assert isinstance(late, Rows) and not late.alike
    assert isinstance(early, Rows) and early.alike


def numbered(start, stop):
    return np.repeat(np.arange(start, stop, dtype=float)[:, None], 2, axis=1)


def test_an_ensemble_in_pieces_is_the_ordinary_one(tmp_path, in_pieces, monkeypatch):
    kinds = []

    class Watched(Saver):
        def __init__(self, save_at, times, y0):
            kinds.append(type(times))
            super().__init__(save_at, times, y0)

    monkeypatch.setattr("mlsde.ensembles.run.Saver", Watched)

    def run():
        rule = Multilevel(RULES["constant"], "systematic", "hold")
        return mlsde.ensemble(
            SDE(LADDER, 0.3), torch.ones(1, 2), 6, (0.0, 1.0), steps=200, multilevel=rule, chunk=3, folder=tmp_path
        )

    plain, long = in_pieces(run)
    assert set(kinds[: len(kinds) // 2]) == {np.ndarray} and set(kinds[len(kinds) // 2 :]) == {EvenGrid}
    assert plain.computed == 2 and long.found == 2  # the folder is the same computation's
    assert torch.equal(plain.ys, long.ys)


LONG_RULES = {
    "one level": lambda n: None,
    "constant": lambda n: Multilevel(mlsde.Constant([1.0, 0.3]), "systematic", "hold"),
    "power law, budget": lambda n: Multilevel(mlsde.PowerLaw(2.5, budget=5.0 * n), "independent", "impulse"),
    "optimal": lambda n: Multilevel(mlsde.Optimal([1.0, 0.1], budget=5.0 * n, order=2), "systematic", "extrapolate"),
    "learned": lambda n: Multilevel(mlsde.Learned([0.0, 1.0], [[1.0, 0.1], [1.0, 0.5]]), "periodic", "hold"),
}


def host_bytes(rule, steps):
    """What a run holds on the host once all of its plan and some of its noise were asked for, and the peak."""
    tracemalloc.start()
    try:
        grid = mlsde.checks.run_grid((0.0, 1.0), steps, None)
        run = Run(SDE(LADDER.select([1, 3]), 0.5), torch.ones(2, 1), grid, "euler", rule, None, 0, None)
        assert run.plan.evaluations[-1] > 0 and len(list(run.steps(steps - 9, steps))) == 9
        assert len(list(run._increments(steps - 9, steps))) == 9
        return tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", list(LONG_RULES))
def test_nothing_on_the_host_grows_with_the_steps(name, monkeypatch):
    piece = 2**12  # of a long run: 16 times less than it is, for the tests' sake
    for module in ("grids", "checks", "coins"):
        monkeypatch.setattr(f"mlsde.{module}.LONG", piece)
    host_bytes(LONG_RULES[name](2 * piece), 2 * piece)  # the first meets what is lazy
    few, many = (host_bytes(LONG_RULES[name](n), n) for n in (2 * piece, 32 * piece))
    assert many[0] < few[0] + 50_000 and many[1] < few[1] + 100_000  # an array of so many times is 1 MB


def test_a_grid_that_is_kept_is_seen():
    times = np.linspace(0.0, 1.0, 6 * LONG + 1)
    tracemalloc.start()
    try:
        plan = fixed_plan(None, times.copy(), LADDER)
        assert tracemalloc.get_traced_memory()[0] > times.nbytes and plan.steps == 6 * LONG
    finally:
        tracemalloc.stop()
