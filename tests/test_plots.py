"""Pictures of runs and plans: what is drawn is what was there, on the axes that were given."""

import dataclasses
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from plots_toys import COLOURS, LADDER, RULE, SDE, data, run

import mlsde
from mlsde import Constant, DriftHierarchy, LevelVariances, Multilevel, drawing, plots


@pytest.fixture
def ax():
    return Figure().subplots()


# --- paths


def test_paths_are_the_first_samples_the_mean_of_all_and_a_band_of_quantiles(ax):
    solution = run(save_at=[0.0, 0.5, 2.0], samples=50)
    assert plots.paths(solution, component=(1, 2), lines=4, band=0.8, ax=ax) is ax
    states = solution.ys[:, :, 1, 2].double().numpy()
    assert [data(line) for line in ax.lines[:4]] == [([0.0, 0.5, 2.0], states[:, i].tolist()) for i in range(4)]
    assert data(ax.lines[4]) == ([0.0, 0.5, 2.0], states.mean(axis=1).tolist())
    assert len(ax.lines) == 5
    (band,) = ax.collections
    edges = np.quantile(states, [0.1, 0.9], axis=1)
    corners = band.get_paths()[0].vertices
    for t, low, high in zip([0.0, 0.5, 2.0], *edges, strict=True):
        heights = corners[corners[:, 0] == t, 1]
        assert [heights.min(), heights.max()] == pytest.approx([low, high])
    assert ax.get_legend_handles_labels()[1] == ["4 of 50 samples", "80 % of the samples", "mean"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("time", "state, component (1, 2)")


@pytest.mark.parametrize(("component", "place"), [(0, (0, 0)), (5, (1, 2)), ((1, 2), (1, 2)), ([0, 1], (0, 1))])
def test_a_component_is_an_index_or_a_place_in_the_row_of_numbers(component, place, ax):
    solution = run(save_at="steps")
    plots.paths(solution, component=component, lines=1, ax=ax)
    assert ax.lines[0].get_ydata().tolist() == solution.ys[(slice(None), 0, *place)].tolist()


def test_a_lone_path_has_no_mean_and_no_band_and_nothing_is_drawn_that_was_not_asked_for(ax):
    plots.paths(run(save_at="steps", samples=1), ax=ax)
    assert (len(ax.lines), len(ax.collections)) == (1, 0)
    bare = plots.paths(run(save_at="steps"), lines=0, band=0)
    assert [line.get_label() for line in bare.lines] == ["mean"]
    assert len(bare.collections) == 0


def test_states_of_one_number_or_in_half_precision_and_runs_backwards_are_drawn(ax):
    done = mlsde.solve(mlsde.SDE(lambda t, y: -y), torch.ones(2).bfloat16(), (1.0, 0.0), steps=4, save_at="steps")
    plots.paths(done, ax=ax)
    assert data(ax.lines[0]) == ([1.0, 0.75, 0.5, 0.25, 0.0], done.ys[:, 0].tolist())
    assert ax.get_ylabel() == "state"


# --- firings


def stretches(collection):
    """Start and end of the bars of a row."""
    return sorted((path.vertices[:, 0].min(), path.vertices[:, 0].max()) for path in collection.get_paths())


def steps_within(bars, times):
    """Steps that lie within the bars."""
    middles = (times[1:] + times[:-1]) / 2
    return [any(low < middle < high for low, high in bars) for middle in middles]


@pytest.mark.parametrize("coins", ["independent", "systematic", "nested", "periodic"])
def test_a_level_is_drawn_over_the_steps_at_which_it_fired(coins, ax):
    solution = run(multilevel=dataclasses.replace(RULE, coins=coins))
    assert plots.firings(solution, ax=ax) is ax
    fires = solution.plan.block(0, 40).fires
    times = solution.plan.times
    assert [steps_within(stretches(row), times) for row in ax.collections] == fires.T.tolist()
    assert stretches(ax.collections[0]) == [(0.0, 2.0)], "steps that follow each other are one bar"
    counts = fires.sum(axis=0)
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == [f"{name}\n{n} of 40" for name, n in zip(LADDER.names, counts, strict=True)]
    assert [tuple(row.get_facecolor()[0]) for row in ax.collections] == COLOURS
    rows = [row.get_paths()[0].vertices[:, 1] for row in ax.collections]
    assert [(row.min(), row.max()) for row in rows] == [pytest.approx((k - 0.4, k + 0.4)) for k in (1, 2, 3)]
    assert ax.get_xlim() == (0.0, 2.0)
    assert ax.get_title() == "steps at which each level fires"


def test_a_plan_is_drawn_as_its_run_and_backwards_too():
    forwards = run()
    by_plan, by_run = plots.firings(forwards.plan), plots.firings(forwards)
    assert [stretches(row) for row in by_plan.collections] == [stretches(row) for row in by_run.collections]
    assert by_plan.get_yticklabels()[0].get_text() == "level 1\n40 of 40"
    plan = mlsde.solve(SDE, torch.ones(2, 1), (2.0, 0.0), steps=40, multilevel=RULE, seed=1).plan
    backwards = plots.firings(plan)
    assert [steps_within(stretches(row), plan.times) for row in backwards.collections] == plan.block(
        0, 40
    ).fires.T.tolist()
    assert backwards.get_xlim() == (0.0, 2.0)


def test_without_coins_the_rows_show_where_a_level_was_evaluated(ax):
    plots.firings(run(multilevel=None, level=lambda t: 1 if t < 1.0 else 3), ax=ax)
    assert [stretches(row) for row in ax.collections] == [[(0.0, 1.0)], [], [(1.0, 2.0)]]
    assert ax.get_title() == "steps at which each level is evaluated"


def stairs(ax):
    """Heights of the rows above their floors, and the ends of the stairs."""
    rows = [patch.get_data() for patch in ax.patches]
    return [(row.values - row.baseline) / 0.8 for row in rows], [row.edges for row in rows]


def test_coins_of_each_sample_are_drawn_as_shares_over_the_largest_after_the_first_step(ax):
    rule = Multilevel(Constant([1.0, 0.25, 0.05]), coins="independent", correction="hold", share="sample")
    solution = run(multilevel=rule, samples=40)
    plots.firings(solution, ax=ax)
    shares = solution.plan.block(0, 40).fires.mean(axis=2)
    assert shares[0].tolist() == [1.0, 1.0, 1.0], "a memory fires every level at the first step"
    full = shares[1:].max(axis=0)
    heights, ends = stairs(ax)
    assert pytest.approx(np.minimum(1.0, shares / full)) == np.array(heights).T
    assert all(edges.tolist() == solution.plan.times.tolist() for edges in ends)
    label = ax.get_yticklabels()[2].get_text()
    assert label == f"fine\n{shares[:, 2].sum():.4g} of 40, up to {100 * full[2]:.3g} %"
    assert ax.get_title() == "share of the samples for which each level fires"


def test_more_steps_than_can_be_told_apart_are_drawn_as_shares(ax):
    solution = run(steps=4000, multilevel=dataclasses.replace(RULE, coins="systematic"), samples=1)
    plots.firings(solution, ax=ax)
    fires = solution.plan.block(0, 4000).fires
    shares = fires.reshape(400, 10, 3).mean(axis=1)
    heights, ends = stairs(ax)
    assert pytest.approx(np.minimum(1.0, shares / shares[1:].max(axis=0))) == np.array(heights).T
    assert ends[0].tolist() == solution.plan.times[::10].tolist()
    assert ax.get_yticklabels()[0].get_text() == "coarse\n4,000 of 4,000, up to 100 %"
    assert ax.get_title() == "share of the steps at which each level fires"
    assert len(plots.firings(run(steps=2000, samples=1)).collections) == 3, "so many are drawn one by one"


# --- costs


def test_bars_are_what_each_level_cost_and_the_title_compares_with_the_top_level(ax):
    solution = run()
    assert plots.costs(solution, ax=ax) is ax
    counts = solution.stats.evaluations
    paid = [count * cost for count, cost in zip(counts, LADDER.costs, strict=True)]
    assert [bar.get_width() for bar in ax.patches] == paid
    assert sum(paid) == solution.stats.cost
    assert [bar.get_facecolor() for bar in ax.patches] == COLOURS
    assert [label.get_text() for label in ax.get_yticklabels()] == list(LADDER.names)
    assert [text.get_text() for text in ax.texts] == [
        f" {n:g} at {c:g}" for n, c in zip(counts, LADDER.costs, strict=True)
    ]
    ratio = 2560 / solution.stats.cost
    assert ax.get_title().endswith(f"in all, {ratio:.3g} times less than the top level at every step (2,560)")
    assert ax.get_xlabel() == "cost per trajectory, in units of costs"


def test_a_plan_shows_what_it_will_cost_and_a_ladder_without_costs_its_evaluations():
    solution = run()
    assert [bar.get_width() for bar in plots.costs(solution.plan).patches] == [
        bar.get_width() for bar in plots.costs(solution).patches
    ]
    free = mlsde.solve(mlsde.SDE(lambda t, y: -y), torch.ones(2), (0, 1), steps=7)
    ax = plots.costs(free)
    assert [bar.get_width() for bar in ax.patches] == [7.0]
    assert (ax.get_xlabel(), ax.get_title()) == ("evaluations per trajectory", "no costs were given")


def test_a_run_of_the_top_level_does_not_boast_nor_does_one_cut_short():
    assert plots.costs(run(multilevel=None)).get_title() == "2,560 in all"
    stopped = run(callback=lambda n, t, y: n == 10)
    assert plots.costs(stopped).get_title() == f"{stopped.stats.cost:g} in all"


def test_a_pilot_has_a_bar_of_its_own_and_a_level_keeps_its_colour_in_a_part_of_the_ladder():
    levels = [lambda t, y: -y, lambda t, y: -y, lambda t, y: -torch.sin(y)]
    sde = mlsde.SDE(DriftHierarchy(levels, costs=[1.0, 8.0, 64.0], names=["a", "b", "c"]), 0.5)
    with pytest.warns(UserWarning, match="levels 1 and 2 are the same"):
        solution = mlsde.solve(
            sde, torch.ones(400, 2), (0.0, 2.0), steps=400, multilevel="auto", budget=3000.0
        )  # fmt: skip
    assert solution.recommendation.levels == (1, 3)
    ax = plots.costs(solution)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "c", "pilot"]
    assert ax.patches[2].get_width() == solution.stats.pilot_cost
    assert [bar.get_facecolor() for bar in ax.patches[:2]] == [COLOURS[0], COLOURS[2]]
    assert [to_rgba(line.get_color()) for line in plots.probabilities(solution).lines] == [COLOURS[0], COLOURS[2]]
    advised = plots.probabilities(solution.recommendation)
    assert advised.get_legend_handles_labels()[1] == ["a", "c"]
    rows = plots.firings(solution)
    assert [tuple(row.get_facecolor()[0]) for row in rows.collections] == [COLOURS[0], COLOURS[2]]


# --- axes, colours, and what is refused


def test_a_level_has_one_colour_in_every_picture_and_its_own_among_28():
    looks = [drawing.level_style(level) for level in range(1, 29)]
    assert len({(look["color"], look["linestyle"]) for look in looks}) == 28
    assert [look["color"] for look in looks[:7]] == list(drawing.COLOURS)


# G. M. Machado et al., IEEE Trans. Vis. Comput. Graph. 15 (2009), doi:10.1109/TVCG.2009.113, severity 1
DEFICIENCIES = {
    "none": np.eye(3),
    "protan": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                        [-0.003882, -0.048116, 1.051998]]),
    "deutan": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                        [-0.011820, 0.042940, 0.968881]]),
    "tritan": np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                        [0.004733, 0.691367, 0.303900]]),
}  # fmt: skip


def lab(linear):
    """CIE L*a*b* of linear RGB."""
    matrix = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    ratios = linear @ matrix.T / (matrix @ np.ones(3))
    x, y, z = np.where(ratios > 0.008856, np.cbrt(ratios), 7.787 * ratios + 16 / 116).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def nearest(colours, deficiency):
    """Distance in L*a*b* of the two colours that are hardest to tell apart."""
    srgb = np.array([to_rgba(colour)[:3] for colour in colours])
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    places = lab(np.clip(linear @ DEFICIENCIES[deficiency].T, 0.0, 1.0))
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1)
    return apart[~np.eye(len(colours), dtype=bool)].min()


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_colours_are_told_apart_with_any_colour_vision(deficiency):
    assert nearest(drawing.COLOURS, deficiency) > 15  # about seven times what is just seen
    assert nearest(["#0072b2", "#984ea3"], "protan") < 15, "this purple is not told from blue"


def calls(ax=None):
    """Each picture once."""
    solution = run(save_at="steps")
    measured = LevelVariances(np.array([0.0, 1.0]), np.ones((2, 2)), None)
    return [
        plots.paths(solution, ax=ax), plots.firings(solution, ax=ax), plots.costs(solution, ax=ax),
        plots.frontier([1.0], [1.0], ax=ax), plots.variances(measured, ax=ax), plots.probabilities(solution, ax=ax),
    ]  # fmt: skip


def test_every_picture_is_in_its_list_and_makes_a_figure_of_its_own_that_can_be_saved(tmp_path):
    assert len(plots.__all__) == len(calls())
    for i, ax in enumerate(calls()):
        ax.figure.savefig(tmp_path / f"{i}.png")
        assert (tmp_path / f"{i}.png").read_bytes().startswith(b"\x89PNG")
    assert len({id(ax.figure) for ax in calls()}) == 6


def told(code):
    """What a fresh interpreter prints."""
    environment = {**os.environ, "MPLBACKEND": "Agg", "PYTHONPATH": os.pathsep.join(["tests", *sys.path])}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_without_pyplot_no_picture_imports_it():
    code = "import sys, test_plots; test_plots.calls(); print('matplotlib.pyplot' in sys.modules)"
    assert told(code) == "False"


def test_with_pyplot_a_new_figure_is_pyplots_and_given_axes_leave_its_state_alone():
    code = """
from matplotlib import pyplot
import matplotlib, test_plots
from matplotlib.figure import Figure
settings = dict(matplotlib.rcParams)
mine = Figure().subplots()
assert all(ax is mine for ax in test_plots.calls(mine))
assert mine.figure.axes == [mine]
assert pyplot.get_fignums() == []
made = test_plots.calls()
assert [pyplot.figure(n) for n in pyplot.get_fignums()] == [ax.figure for ax in made]
assert dict(matplotlib.rcParams) == settings
print(len(made))
"""
    assert told(code) == "6"


def test_in_a_notebook_a_new_figure_is_pyplots():
    code = """
import sys, types
some = types.SimpleNamespace
shell = some(events=some(register=lambda *_: None))
sys.modules["IPython"] = some(get_ipython=lambda: shell, version_info=(9, 0))
from mlsde import plots
ax = plots.frontier([1.0], [1.0])
from matplotlib import pyplot
print(ax.figure is pyplot.gcf())
"""
    assert told(code) == "True"


def test_without_matplotlib_importing_works_and_a_call_names_the_extra():
    code = """
import sys
sys.modules["matplotlib"] = None
from mlsde import plots
try:
    plots.frontier([1.0], [1.0])
except ImportError as error:
    print(error)
"""
    assert told(code) == "the figure needs matplotlib: pip install 'mlsde[demo]'."
    assert told("import sys, mlsde.plots; print('matplotlib' in sys.modules, 'mlsde.study' in sys.modules)") == (
        "False False"
    )
