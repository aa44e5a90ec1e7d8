"""What a solve returns: its numbers agree with each other, and it prints as a short table."""

import io
import re
from contextlib import redirect_stderr

import pytest
import torch

import mlsde
from mlsde import SDE, Constant, DriftHierarchy, Multilevel, Solution, solve

LADDER = DriftHierarchy(
    [lambda t, y: -y, lambda t, y: -torch.sin(y), lambda t, y: -torch.sin(y) + 0.01 * y],
    costs=[1.0, 8.0, 64.0],
    names=["coarse", "medium", "fine"],
)
RULE = Multilevel(Constant([1.0, 0.25, 0.05]), coins="periodic", correction="hold")


def run(drift=LADDER, multilevel=RULE, y0=None, **options):
    y0 = torch.ones(4, 2) if y0 is None else y0
    return solve(SDE(drift, 0.5), y0, (0.0, 1.0), steps=100, multilevel=multilevel, **options)


def test_a_solution_prints_as_a_short_table():
    lines = repr(run(seed=7)).splitlines()
    assert lines[0] == "Solution: reached t=1 in 100 steps."
    assert lines[1].split() == ["price", "evaluations", "seconds"]
    assert [line.split()[0] for line in lines[2:5]] == ["coarse", "medium", "fine"]
    assert [float(line.split()[1]) for line in lines[2:5]] == [1, 8, 64]
    assert lines[4].split()[2] == "5"
    ends = {tuple(cell.end() for cell in list(re.finditer(r"\S+", line))[-3:]) for line in lines[1:5]}
    assert len(ends) == 1, "the columns are aligned"
    paid, full = re.fullmatch(
        r"  cost per trajectory ([\d.]+), ([\d.]+) times less than the top level at every step \(6400\)", lines[5]
    ).groups()
    assert float(full) == pytest.approx(6400 / float(paid), rel=0.01)
    assert re.fullmatch(r"  wall-clock [\d.e-]+ s; seed 7", lines[6])
    assert len(lines) == 7
    assert all(len(line) < 100 for line in lines)


def test_a_solution_without_prices_prints_without_prices():
    text = repr(solve(SDE(lambda t, y: -y), torch.ones(2), (0, 1), steps=3, seed=[1, 2]))
    assert "cost" not in text
    assert re.search(r"level 1 +- +3 ", text)
    assert text.endswith("seed per sample")


def test_a_run_of_the_top_level_does_not_boast():
    text = repr(run(multilevel=None))
    assert "cost per trajectory 6400\n" in text
    assert "times less" not in text


def test_the_price_paid_is_the_price_that_the_plan_announced():
    for share in ("batch", "sample"):
        for multilevel in (RULE, Multilevel(Constant([1.0, 0.25, 0.05]), "independent", "impulse", share=share)):
            solution = run(multilevel=multilevel)
            stats = solution.stats
            assert stats.cost == pytest.approx(solution.plan.cost)
            assert stats.evaluations == pytest.approx(solution.plan.evaluations.tolist())
            assert stats.cost == pytest.approx(sum(c * e for c, e in zip(LADDER.costs, stats.evaluations, strict=True)))
            assert stats.full_cost == 6400


def test_a_solution_carries_all_that_it_came_from():
    solution = run(seed=3, save_at=[0.5, 1.0])
    assert isinstance(solution, Solution)
    assert (solution.seed, solution.method, solution.success) == (3, "euler", True)
    assert solution.message == "reached t=1 in 100 steps."
    assert solution.ts.dtype == torch.float64
    assert solution.ys.shape == (2, 4, 2)
    assert torch.equal(solution.y1, solution.ys[1])
    stats = solution.stats
    assert stats.names == ("coarse", "medium", "fine")
    assert stats.calls == tuple(int(e) for e in stats.evaluations)
    assert all(0 < s < stats.wall_seconds for s in stats.seconds)
    assert sum(stats.seconds) < stats.wall_seconds
    with pytest.raises(AttributeError):
        solution.seed = 4


def test_a_plan_prints_what_it_will_do():
    assert repr(run().plan) == "Plan(100 steps, periodic hold, evaluations per trajectory: 100, 25, 5)"


def test_ladders_and_equations_print_what_they_are():
    assert repr(LADDER) == "DriftHierarchy(3 levels, costs: 1, 8, 64)"
    assert repr(SDE(lambda t, y: -y)) == "SDE(DriftHierarchy(1 levels, costs: not measured), ODE)"
    noisy = SDE(DriftHierarchy.from_differences([lambda t, y: -y], [2]), 0.1, linear=-1.0)
    assert repr(noisy) == "SDE(DriftHierarchy.from_differences(1 levels, costs: 2), additive noise, ito, linear part)"


def bar_of(**options):
    """What a progress bar wrote, last line."""
    with redirect_stderr(io.StringIO()) as written:
        solution = run(progress=True, **options)
    return solution, written.getvalue().rstrip().rsplit("\r", 1)[-1]


@pytest.mark.parametrize("share", ["batch", "sample"])
def test_the_progress_bar_is_in_units_of_cost_and_ends_at_the_plan_s(share):
    solution, last = bar_of(multilevel=Multilevel(Constant([1.0, 0.25, 0.05]), "nested", "impulse", share=share))
    assert last.startswith("100%")
    done, total = re.search(r"\| ([\d.]+)k?/([\d.]+)k? \[", last).groups()
    assert done == total
    scale = 1000 if solution.plan.cost >= 999.5 else 1
    assert float(total) * scale == pytest.approx(solution.plan.cost, rel=0.006)
    assert "cost/s" in last


def test_the_progress_bar_counts_steps_where_there_are_no_costs():
    _, last = bar_of(drift=DriftHierarchy([lambda t, y: -y]), multilevel=None)
    assert last.startswith("100%")
    assert "100/100" in last
    assert "steps/s" in last


def test_a_bar_is_closed_when_a_run_is_cut_short():
    def callback(n, t, y):
        if n == 50:
            raise LookupError("mine")

    with redirect_stderr(io.StringIO()) as written, pytest.raises(LookupError) as caught:
        run(progress=True, callback=callback)
    assert caught.tb is not None, "what holds the frame, and so the bar, alive"
    assert written.getvalue().endswith("\n")
    _, last = bar_of(multilevel=None, callback=lambda n, t, y: n == 50)
    assert last.startswith(" 50%")


def test_without_progress_nothing_is_written(capfd):
    run()
    assert capfd.readouterr() == ("", "")


def test_a_run_that_was_stopped_claims_no_saving():
    sde = mlsde.SDE(mlsde.DriftHierarchy([lambda t, y: -y], costs=[5.0]))
    stopped = mlsde.solve(sde, torch.ones(2, 1), (0, 1), steps=100, callback=lambda n, t, y: n == 10)
    assert "cost per trajectory 50\n" in repr(stopped)
    assert "times less" not in repr(stopped)


def test_the_plan_of_a_plain_run_names_no_coins():
    solution = mlsde.solve(mlsde.SDE(lambda t, y: -y), torch.ones(2, 1), (0, 1), steps=10)
    assert repr(solution.plan) == "Plan(10 steps, no coins, evaluations per trajectory: 10)"
