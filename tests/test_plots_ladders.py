"""Pictures of ladders and of error against cost; what cannot be drawn is refused."""

import dataclasses
import math
import re

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from plots_toys import COLOURS, LADDER, RULE, SDE, data, run
from refusals import table, told_in_a_sentence

import mlsde
from mlsde import Learned, LevelVariances, Multilevel, PowerLaw, drawing, plots, study
from mlsde.problems import analytic


@pytest.fixture
def ax():
    return Figure().subplots()


@pytest.fixture(scope="module")
def calibration():
    return mlsde.calibrate(SDE, torch.ones(16, 2), (0.0, 2.0), steps=200)


@pytest.fixture(scope="module")
def convergence():
    methods = [study.plain(), study.multilevel("independent", "impulse")]
    problem = analytic.linear_ode().ladder(gamma=3.0, levels=4)
    return study.convergence(problem, methods, [1.0, 0.5, 1e-6], seeds=2, samples=4, most_steps=16)


# --- variances and probabilities


def test_variances_are_drawn_by_level_on_a_logarithmic_scale_without_those_that_are_0(ax):
    measured = LevelVariances(np.array([0.0, 1.0]), np.array([[4.0, 0.0], [2.0, 1e-3]]), None)
    assert plots.variances(measured, ax=ax) is ax
    assert data(ax.lines[0]) == ([0.0, 1.0], [4.0, 2.0])
    times, values = data(ax.lines[1])
    assert times == [0.0, 1.0]
    assert math.isnan(values[0]) and values[1] == 1e-3
    assert (ax.get_xscale(), ax.get_yscale(), ax.get_xlabel()) == ("linear", "log", "time")
    assert ax.get_legend_handles_labels()[1] == ["level 1", "level 2"]
    assert [to_rgba(line.get_color()) for line in ax.lines] == COLOURS[:2]


def test_variances_of_a_calibration_have_the_names_of_its_levels(calibration, ax):
    plots.variances(calibration, ax=ax)
    found = calibration.variances
    assert [data(line) for line in ax.lines] == [(found.times.tolist(), column.tolist()) for column in found.values.T]
    assert ax.get_legend_handles_labels()[1] == ["coarse", "medium", "fine"]


def drawn(ax):
    """Times of the lines, and the values at them."""
    assert len({tuple(line.get_xdata()) for line in ax.lines}) == 1
    return ax.lines[0].get_xdata(), np.array([line.get_ydata() for line in ax.lines]).T


def test_probabilities_of_a_run_hold_over_its_steps(ax):
    solution = run(multilevel=Multilevel(lambda t: [1.0, 0.5, 0.1 + t / 4]))
    assert plots.probabilities(solution, ax=ax) is ax
    times, values = drawn(ax)
    assert times.tolist() == solution.plan.times.tolist()
    assert values[:-1].tolist() == solution.plan.probabilities.tolist()
    assert {line.get_drawstyle() for line in ax.lines} == {"steps-post"}, "each from its step to the next"
    assert values[-1].tolist() == values[-2].tolist(), "the last holds to the end"
    assert ax.get_yscale() == "log"
    assert ax.get_ylim()[1] == 1.3
    assert ax.get_legend_handles_labels()[1] == list(LADDER.names)
    assert drawn(plots.probabilities(solution.plan))[1].tolist() == values.tolist()


@pytest.mark.parametrize(
    "rule", [PowerLaw(2.5, 0.5), RULE, Multilevel(PowerLaw(2.5, budget=500.0)), lambda t: [1.0, 0.5, t + 0.1]]
)
def test_probabilities_of_a_rule_are_those_of_its_run(rule, ax):
    plots.probabilities(rule, SDE, (0.0, 0.5), steps=20, ax=ax)
    multilevel = rule if isinstance(rule, Multilevel) else Multilevel(rule, "independent", "impulse")
    plan = mlsde.solve(SDE, torch.ones(1, 1), (0.0, 0.5), steps=20, multilevel=multilevel).plan
    assert drawn(ax)[1][:-1].tolist() == plan.probabilities.tolist()
    by_grid = plots.probabilities(rule, SDE, times=np.linspace(0.0, 0.5, 21))
    assert drawn(by_grid)[1].tolist() == drawn(ax)[1].tolist()


def test_the_price_of_a_method_with_two_stages_counts():
    rule = PowerLaw(2.5, budget=500.0)
    one, two = (plots.probabilities(rule, SDE, (0, 1), steps=20, method=method) for method in ("euler", "heun"))
    assert (drawn(two)[1][:, 2] < 0.7 * drawn(one)[1][:, 2]).all()


def test_learned_probabilities_are_drawn_between_their_knots_and_one_knot_across(ax):
    learned = Learned([1.0, 0.5, 0.0], [[1.0, 0.5], [1.0, 0.2], [1.0, 0.1]])
    plots.probabilities(learned, ax=ax)
    times, values = drawn(ax)
    assert (times.tolist(), values.tolist()) == ([1.0, 0.5, 0.0], [list(row) for row in learned.values])
    assert {line.get_drawstyle() for line in ax.lines} == {"default"}
    across = plots.probabilities(Learned([0.0], [[1.0, 0.2]]))
    assert [data(line) for line in across.lines] == [([0, 1], [1.0, 1.0]), ([0, 1], [0.2, 0.2])]
    assert across.get_legend_handles_labels()[1] == ["level 1", "level 2"]
    budgeted = plots.probabilities(dataclasses.replace(learned, budget=30.0), mlsde.SDE(LADDER.select([1, 3])),
                                   (0.0, 1.0), steps=10)  # fmt: skip
    assert len(budgeted.lines) == 2


def test_a_recommendation_shows_its_levels_by_their_numbers(calibration, ax):
    advice = calibration.recommend(budget=2000.0)
    plots.probabilities(advice, ax=ax)
    times, values = drawn(ax)
    assert times.tolist() == advice.times.tolist()
    assert values[:-1].tolist() == advice.table().tolist()
    assert ax.get_legend_handles_labels()[1] == [LADDER.names[level - 1] for level in advice.levels]
    assert [to_rgba(line.get_color()) for line in ax.lines] == [COLOURS[level - 1] for level in advice.levels]
    plain = calibration.recommend(budget=1.0)
    assert plain.kind == "plain"
    assert plots.probabilities(plain).get_legend_handles_labels()[1] == ["coarse"]


def test_levels_that_fire_together_all_show():
    widths = [line.get_linewidth() for line in plots.probabilities(run()).lines]
    assert widths == sorted(widths, reverse=True) and len(set(widths)) == 3


# --- frontiers


def test_costs_and_errors_of_ones_own_take_one_colour_after_another(ax):
    assert plots.frontier([1.0, 10.0, 100.0, 5.0], [0.5, math.inf, 0.1, 0.0], label="mine", ax=ax) is ax
    plots.frontier(torch.tensor([2.0, 4.0]), np.array([0.3, 0.2]), label="theirs", ax=ax)
    assert [data(line) for line in ax.lines] == [([1.0, 100.0], [0.5, 0.1]), ([2.0, 4.0], [0.3, 0.2])]
    assert [line.get_color() for line in ax.lines] == list(drawing.COLOURS[:2])
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert ax.get_legend_handles_labels()[1] == ["mine", "theirs"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("cost per trajectory, in units of costs", "error")


def ticks(axis):
    """Places and labels of the ticks that are seen."""
    low, high = axis.get_view_interval()
    seen = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    assert {label.get_text() for label in axis.get_ticklabels(minor=True)} <= {""}
    return [tick.get_loc() for tick in seen], [tick.label1.get_text() for tick in seen]


def test_a_scale_of_few_decades_has_labels_between_them_too():
    narrow = plots.frontier([4e3, 6e4], [1e-2, 1e-6])
    narrow.figure.canvas.draw()
    places, labels = ticks(narrow.xaxis)
    assert places == pytest.approx([5e3, 1e4, 2e4, 5e4])
    assert [re.sub(r"[^\d]", "", label.replace("times", "")) for label in labels] == ["5103", "104", "2104", "5104"]
    assert all(math.log10(place) % 1 == pytest.approx(0) for place in ticks(narrow.yaxis)[0])


def test_a_calibration_shows_the_errors_that_it_predicts(calibration, ax):
    budgets = [500.0, 2000.0]
    assert plots.frontier(calibration, budgets=budgets, ax=ax) is ax
    predicted = calibration.frontier(budgets)
    assert [data(line) for line in ax.lines] == [(budgets, errors) for errors in predicted.values()]
    assert ax.get_legend_handles_labels()[1] == ["one level", "independent impulse (the paper)", "recommended"]
    usual = plots.frontier(calibration).lines[0].get_xdata()
    assert usual[[0, -1]] == pytest.approx([64 * 200 / 8 / 16, 64 * 200 / 8 * 16])


def test_a_recommendation_stands_beside_its_rivals(calibration, ax):
    advice = calibration.recommend(budget=2000.0)
    plots.frontier(advice, ax=ax)
    ways = [(advice.describe(), advice.predicted_error), *advice.rivals]
    assert len(ways) > 1
    assert [(line.get_label(), *data(line)) for line in ax.lines] == [
        (name, [advice.predicted_cost], [error]) for name, error in ways
    ]
    assert ax.get_xlim() == (1e3, 1e4), "whole decades"


def test_a_study_is_drawn_with_the_error_upwards(convergence, ax):
    assert plots.frontier(convergence, ax=ax) is ax
    assert not ax.xaxis_inverted()
    bars = ax.containers
    for frontier, bar in zip(convergence.frontiers, bars, strict=True):
        reached = [i for i, cost in enumerate(frontier.costs) if math.isfinite(cost)]
        expected = [frontier.costs[i] for i in reached], [convergence.errors[i] for i in reached]
        assert data(bar.lines[0]) == expected
        assert bar.has_xerr and not bar.has_yerr
    assert ax.get_xlabel() == "cost per trajectory"
    assert ax.get_ylabel() == "root mean square error sought (median over seeds)"


def test_the_figure_of_a_study_keeps_the_cost_upwards(convergence, ax):
    from mlsde.study.figure import draw_frontiers

    draw_frontiers(convergence, ax)
    assert ax.xaxis_inverted()
    frontier = convergence.frontiers[0]
    assert data(ax.containers[0].lines[0]) == (list(convergence.errors[:2]), list(frontier.costs[:2]))
    assert ax.containers[0].has_yerr


def test_a_comparison_is_one_point_for_each_way(ax):
    problem = analytic.linear_ode().ladder(gamma=3.0, levels=4)
    found = study.equal_cost(problem, share=8, steps=32, seeds=3, samples=2, reference_steps=100)
    plots.frontier(found, ax=ax)
    rows = [("top level at every step", found.full_cost, found.full_error)]
    rows += [(row.name, row.cost, row.error) for row in found.rows]
    assert [(line.get_label(), *data(line)) for line in ax.lines] == [(n, [c], [e]) for n, c, e in rows]
    looks = {(line.get_color(), line.get_marker(), line.get_fillstyle()) for line in ax.lines}
    assert len(looks) == len(rows)


# --- what is refused


SAVED = run(save_at="steps")
REFUSED = {
    "paths of a plan": (lambda: plots.paths(SAVED.plan), TypeError, ["mlsde.Solution", "Plan"]),
    "paths of one time": (lambda: plots.paths(run()), ValueError, ["1 saved time,", 'save_at="steps"']),
    "paths outside the state": (lambda: plots.paths(SAVED, component=6), ValueError, ["component", "(2, 3)", "6"]),
    "paths below the state": (lambda: plots.paths(SAVED, component=-1), ValueError, ["component", "-1"]),
    "paths of three indices": (lambda: plots.paths(SAVED, component=(0, 0, 0)), ValueError, ["component", "(2, 3)"]),
    "paths of a name": (lambda: plots.paths(SAVED, component="x"), TypeError, ["component", "'x'"]),
    "a band of 2": (lambda: plots.paths(SAVED, band=2.0), ValueError, ["band", "2.0"]),
    "half a line": (lambda: plots.paths(SAVED, lines=0.5), ValueError, ["lines", "0.5"]),
    "firings of nothing": (lambda: plots.firings(None), TypeError, ["firings", "Solution", "None"]),
    "costs of states": (lambda: plots.costs(SAVED.ys), TypeError, ["costs", "Solution", "Tensor"]),
    "axes of another kind": (lambda: plots.firings(SAVED, ax=3), TypeError, ["ax", "axes of matplotlib", "int"]),
    "variances of an array": (lambda: plots.variances(np.ones(3)), TypeError, ["level_variances", "ndarray"]),
    "a rule without an equation": (
        lambda: plots.probabilities(PowerLaw(2.0)), TypeError, ["sde", "PowerLaw", "NoneType"],
    ),
    "a rule without a grid": (
        lambda: plots.probabilities(PowerLaw(2.0), SDE, (0, 1)), ValueError, ["steps", "neither"],
    ),
    "a method that is none": (
        lambda: plots.probabilities(RULE, SDE, (0, 1), steps=3, method="rk"), ValueError, ["method", "'rk'"],
    ),
    "no rule": (lambda: plots.probabilities([1.0, 0.5], SDE, (0, 1), steps=3), TypeError, ["probabilities", "list"]),
    "a plan with an equation": (lambda: plots.probabilities(SAVED.plan, SDE), ValueError, ["sde", "Plan", "its own"]),
    "a frontier of nothing": (lambda: plots.frontier(SAVED), TypeError, ["frontier", "Solution"]),
    "costs without errors": (lambda: plots.frontier([1.0]), TypeError, ["errors", "None"]),
    "other errors than costs": (lambda: plots.frontier([1.0, 2.0], [1.0]), ValueError, ["errors", "(2,)", "(1,)"]),
    "costs that are no numbers": (lambda: plots.frontier(["a"], [1.0]), TypeError, ["costs"]),
    "budgets of costs": (lambda: plots.frontier([1.0], [1.0], budgets=[1.0]), ValueError, ["budgets", "list"]),
}  # fmt: skip


@table(REFUSED)
def test_what_cannot_be_drawn_is_refused_in_a_sentence(call, error, words):
    told_in_a_sentence(call, error, words)


def test_what_does_not_go_with_a_calibration_is_refused(calibration):
    told_in_a_sentence(lambda: plots.frontier(calibration, [1.0]), ValueError, ["errors=", "Calibration"])
    told_in_a_sentence(lambda: plots.frontier(calibration, budgets=[-1.0]), ValueError, ["budgets", "-1.0"])
    told_in_a_sentence(lambda: plots.frontier(calibration, budgets=[]), ValueError, ["budgets"])


def test_nothing_is_drawn_on_axes_where_the_call_is_refused(ax):
    for name, (call, error, _) in REFUSED.items():
        if name != "axes of another kind":
            with pytest.raises(error):
                call()
    for call in (
        lambda: plots.paths(SAVED, band=2.0, ax=ax), lambda: plots.frontier([1.0], ax=ax),
        lambda: plots.firings(None, ax=ax), lambda: plots.variances(3, ax=ax),
    ):  # fmt: skip
        with pytest.raises((TypeError, ValueError)):
            call()
    assert not ax.lines and not ax.collections and not ax.patches and ax.get_xlabel() == ""
