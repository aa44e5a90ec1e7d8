"""How results and settings show themselves: tables as text and as HTML from the same rows, calls that are short."""

import dataclasses
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

import mlsde
from mlsde import Constant, DriftHierarchy, LevelVariances, Multilevel, Optimal, PowerLaw, study, theory
from mlsde.diffusion import DiscreteVariancePreserving, VariancePreserving
from mlsde.problems import analytic, linear
from mlsde.showing import Rows, as_call, as_html, as_text, in_short

EVIL = "<b>&co</b>"
DRIFT = DriftHierarchy([lambda t, y: -y, lambda t, y: -torch.sin(y)], costs=[1.0, 50.0], names=["cheap", EVIL])
SDE = mlsde.SDE(DRIFT, 0.5)
PROBLEM = analytic.linear_ode().ladder(gamma=3.0, levels=4)


class Shown:
    """A report of two lines, a table and another line."""

    __repr__ = as_text
    _repr_html_ = as_html

    def _report(self):
        return ["head <1>", "  second", Rows([("", "n"), (EVIL, "10")]), "", "tail"]


def test_a_report_is_lines_and_rows_as_text():
    assert repr(Shown()).splitlines() == ["head <1>", "  second", "               n", f"  {EVIL:10s}  10", "", "tail"]


def test_the_same_in_html_is_escaped_and_its_table_holds_the_same_cells():
    assert Shown()._repr_html_() == (
        "<p>head &lt;1&gt;<br>second</p>"
        '<table><tr><th style="text-align: left"></th><th style="text-align: right">n</th></tr>'
        '<tr><td style="text-align: left">&lt;b&gt;&amp;co&lt;/b&gt;</td><td style="text-align: right">10</td></tr>'
        "</table><p>tail</p>"
    )


def test_columns_may_have_formats_of_their_own_and_a_table_no_head():
    assert Rows([("a", "10"), ("bb", "2")]).lines() == ["  a   10", "  bb   2"]
    rows = Rows([("a", "1", " x"), ("b", "22", "")], ("4", ">3", ""), gap="|", indent="", head=False)
    assert rows.lines() == ["a   |  1| x", "b   | 22|"]
    assert "<th" not in rows.markup() and rows.markup().count("<td") == 6
    assert ">x<" in rows.markup(), "spaces that align are left out"


class Reader(HTMLParser):
    """Cells of the tables and lines of the paragraphs; every tag is closed."""

    def __init__(self, text):
        super().__init__()
        self.cells, self.lines, self.open = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        assert tag in ("p", "br", "table", "tr", "th", "td")
        if tag == "br":
            return
        self.open.append(tag)
        if tag in ("th", "td"):
            self.cells.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1] == "p":
            self.lines.append(data)
        else:
            self.cells[-1] += data


@pytest.fixture(scope="module")
def results():
    rule = Multilevel(Constant([1.0, 0.1]))
    kept = mlsde.Statistics(quantiles=[0.5], functionals={EVIL: lambda ys: ys[-1, :, 0]})
    calibration = mlsde.calibrate(SDE, torch.zeros(100, 2), (0, 1), steps=100)
    ensemble = mlsde.ensemble(SDE, torch.zeros(1, 2), 64, (0, 1), steps=10, multilevel=rule, keep=kept)
    methods = [study.plain(), study.multilevel("independent", "impulse")]
    return {
        "solution": mlsde.solve(SDE, torch.zeros(8, 2), (0, 1), steps=10, multilevel=rule),
        "calibration": calibration,
        "recommendation": calibration.recommend(budget=1000.0),
        "ensemble": ensemble,
        "statistics": ensemble.statistics,
        "convergence": study.convergence(PROBLEM, methods, [1.0, 0.5], seeds=2, samples=4, most_steps=16),
        "diagnosis": study.diagnose(PROBLEM, samples=8, steps=8),
        "comparison": study.equal_cost(PROBLEM, share=8, steps=32, seeds=3, samples=2, reference_steps=100),
    }


NAMES = (
    "solution",
    "calibration",
    "recommendation",
    "ensemble",
    "statistics",
    "convergence",
    "diagnosis",
    "comparison",
)


@pytest.mark.parametrize("name", NAMES)
def test_results_show_in_notebooks_what_they_print(results, name):
    thing = results[name]
    page = Reader(thing._repr_html_())
    words = re.sub(r"\s+", " ", repr(thing))
    parts = [part for text in (*page.cells, *page.lines) for part in text.split()]
    assert sorted(parts) == sorted(words.split()), "word for word"
    assert bool(page.cells) == (name != "recommendation")
    if name in ("solution", "calibration", "ensemble", "statistics"):
        assert EVIL in repr(thing) and EVIL not in thing._repr_html_()


def test_the_table_of_a_solution_is_its_levels(results):
    cells = Reader(results["solution"]._repr_html_()).cells
    assert cells[:4] == ["", "price", "evaluations", "seconds"]
    assert cells[4:7] == ["cheap", "1", "10"] and cells[8:11] == [EVIL, "50", "2"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1.0, "1"), (0.1 + 0.2, "0.3"), (np.float64(2.5), "2.5"), (3, "3"), (None, "None"), ("a", "'a'"),
        ((1.0,), "(1,)"), ([1.5, 2.0], "[1.5, 2]"), (list(range(9)), "[0, 1, 2, 3, 4, 5, 6, 7, …]"),
        (np.ones(2), "[1, 1]"), (torch.ones(9), "tensor of shape (9,)"), (np.ones((2, 2)), "array of shape (2, 2)"),
        (lambda t: t, "<lambda>"), (len, "len"), (analytic.linear_ode, "linear_ode"),
        ({"a": 1.0, "b": [1.0]}, "{'a': 1, 'b': [1]}"),
        ({"a": list(range(8)), "b": "x" * 200}, "{'a', 'b': …}"),
    ],
)  # fmt: skip
def test_values_are_shown_in_a_few_words(value, expected):
    assert in_short(value) == expected


@dataclasses.dataclass
class Made:
    first: float
    second: object = 2
    third: list[int] = dataclasses.field(default_factory=list)
    hidden: int = dataclasses.field(default=3, repr=False)

    __repr__ = as_call


def test_a_call_leaves_out_what_is_at_its_default():
    assert repr(Made(1.0)) == "Made(first=1)"
    assert repr(Made(1.0, 2.0, [4], 5)) == "Made(first=1, second=2, third=[4])"
    assert repr(Made(1.0, np.ones(2))) == "Made(first=1, second=[1, 1])"
    assert as_call(Made(1.0), always=("second",)) == "Made(first=1, second=2)"


MEASURED = LevelVariances(np.linspace(0.0, 1.0, 50), np.tile([1.0, 0.01], (50, 1)), None)
SHOWN = "LevelVariances(E|f^k - f^(k-1)|^2 at 50 times from 0 to 1; means of the levels: 1, 0.01)"
BIG = torch.ones(50, 2)
SHOWN = {
    SHOWN: MEASURED,
    "Constant(values=[1, 0.1])": Constant(torch.tensor([1.0, 0.1])),
    "PowerLaw(gamma=2.5, scale=2)": PowerLaw(2.5, 2.0),
    f"Optimal(variances={SHOWN}, budget=100)": Optimal(MEASURED, 100.0),
    "Multilevel(probabilities=<lambda>, coins='systematic', correction='hold', share='sample')": Multilevel(
        lambda t: [1.0, 0.1], share="sample"
    ),
    "Learned(9 knots from t=1 to 0, 2 levels, probabilities from 0.1 to 1, budget=5)": mlsde.Learned(
        np.linspace(1.0, 0.0, 9), np.tile([1.0, 0.1], (9, 1)), budget=5.0
    ),
    "NoiseSampler(noise_sampler=<lambda>)": mlsde.NoiseSampler(lambda a, b: BIG),
    "LinearPart(rate=<lambda>, propagator=propagator, source=source, spread=spread)": mlsde.SDE(
        len, linear=-1.0
    ).linear,
    "Statistics(quantiles=(0.5,), functionals={'f': len})": mlsde.Statistics([0.5], {"f": len}),
    "Stats(names=('a',), calls=(3,), evaluations=(3,), seconds=(0.123457,), cost=None, full_cost=None, wall_seconds=1)":
        mlsde.Stats(("a",), (3,), (3.0,), (0.123456789,), None, None, 1.0),
    "Method(name='systematic hold', coins='systematic', correction='hold', order=2)": study.multilevel(
        "systematic", "hold"
    ),
    "ErrorModel(costs=[1, 8], biases=[0.1, 0], step_error=1, level_errors=[1, 1])": theory.ErrorModel(
        [1.0, 8.0], [0.1, 0.0], 1.0, [1.0, 1.0]
    ),
    "LinearProblem(matrices=tensor of shape (2, 1, 1), offsets=tensor of shape (2, 1), noise=tensor of shape (1, 1))":
        linear.ornstein_uhlenbeck([1.0, 1.1], 0.1),
    "VariancePreserving(beta_min=0.1, beta_max=20.0)": VariancePreserving(),
}  # fmt: skip


@pytest.mark.parametrize(("expected", "thing"), SHOWN.items(), ids=[type(thing).__name__ for thing in SHOWN.values()])
def test_settings_show_the_call_that_makes_them(expected, thing):
    assert repr(thing) == expected


def test_no_public_object_shows_arrays_addresses_or_a_wall_of_text(results):
    solution, calibration, convergence = (results[name] for name in ("solution", "calibration", "convergence"))
    found = convergence.frontiers[0]
    things = [
        DRIFT, SDE, solution.plan, solution.plan.block(0, 5), calibration.recording, calibration.model,
        calibration.price_exponent, results["recommendation"].multilevel, found, found.exponent, found.found[0],
        found.found[0].candidate, results["comparison"].rows[0], analytic.linear_ode(), PROBLEM,
        mlsde.BrownianPath(0.0, 1.0, like=BIG, seed=list(range(50))), theory.FrontierPoint(1.0, 2.0, 1, 2, 3.0),
        DiscreteVariancePreserving(tuple(np.linspace(0.999, 0.001, 1000).tolist())), *SHOWN.values(),
    ]  # fmt: skip
    assert repr(found.found[0].candidate) == "Candidate(one level, Euler-Maruyama: level 1, 4 steps)"
    assert re.fullmatch(r"Frontier\(one level, Euler-Maruyama: costs 4, 8; exponent [^ ]+ \[.*\]\)", repr(found))
    for thing in things:
        text = repr(thing)
        assert len(text) < 400, text
        assert " at 0x" not in text and "array([" not in text and "tensor(" not in text, text
