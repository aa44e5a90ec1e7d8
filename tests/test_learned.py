"""Probabilities at knots: what they are between them, what a budget makes of them, and their files."""

import json
from dataclasses import replace

import numpy as np
import pytest
from refusals import ladder, refused, run_probabilities, table

import mlsde
from mlsde.plan import multilevel_plan
from mlsde.probabilities import Learned

TIMES = np.linspace(0.0, 1.0, 11)
VALUES = [[1.0, 1.0, 0.1], [1.0, 0.2, 1e-3], [0.5, 0.05, 0.2]]
KNOWN = Learned([0.0, 0.5, 1.0], VALUES, history=[(0.25, 100.0), (1 / 3, 100.0)])


def plan(rule, times=TIMES, **options):
    return multilevel_plan(mlsde.Multilevel(rule, "independent", "impulse"), times, ladder(**options))


def test_between_knots_the_logarithm_is_linear():
    p = plan(KNOWN).probabilities
    np.testing.assert_allclose(p[0], VALUES[0])
    np.testing.assert_allclose(p[5], VALUES[1])
    np.testing.assert_allclose(p[1], [1.0, 0.2**0.2, 0.1**0.8 * 1e-3**0.2])
    np.testing.assert_allclose(p[9], [0.5**0.8, 0.2**0.2 * 0.05**0.8, 1e-3**0.2 * 0.2**0.8])
    assert (p[:6, 0] == 1).all(), "1 between two knots at 1 is exactly that"
    linear_instead = 0.8 * np.array(VALUES[0]) + 0.2 * np.array(VALUES[1])
    assert not np.allclose(p[1], linear_instead, rtol=0.1)


def test_knots_and_grids_may_run_in_either_direction():
    backwards = Learned([1.0, 0.5, 0.0], VALUES[::-1])
    np.testing.assert_array_equal(plan(backwards).probabilities, plan(KNOWN).probabilities)
    p = plan(KNOWN, TIMES[::-1]).probabilities
    np.testing.assert_allclose(p[[0, 5]], [VALUES[2], VALUES[1]])


def test_other_steps_take_the_same_probabilities_and_cost_in_proportion():
    fine = plan(KNOWN, np.linspace(0.0, 1.0, 21))
    np.testing.assert_allclose(fine.probabilities[::2], plan(KNOWN).probabilities)
    unequal = plan(KNOWN, np.array([0.0, 0.05, 0.5, 1.0])).probabilities
    np.testing.assert_allclose(unequal[[0, 2]], VALUES[:2])
    smooth = Learned([0.0], [[0.5, 0.1, 0.02]])
    costs = [plan(smooth, np.linspace(0.0, 1.0, n + 1)).expected_cost for n in (10, 20)]
    assert costs[1] == pytest.approx(2 * costs[0])


@pytest.mark.parametrize("budget", [0.5, 5.0, 30.0, 200.0])
def test_a_budget_is_met_by_one_scale(budget):
    made = plan(replace(KNOWN, budget=budget))
    assert made.expected_cost == pytest.approx(budget, rel=1e-6)
    before, p = plan(KNOWN).probabilities, made.probabilities
    free = (p < 1) & (before < 1)
    ratio = p[free] / before[free]
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-9)
    # what is always on stays so while the budget pays for it: six steps of level 1
    assert (p[before == 1] == 1).all() == (budget >= 30)


def test_a_budget_for_everything_buys_it():
    assert (plan(replace(KNOWN, budget=640.0)).probabilities == 1).all()


def test_a_single_knot_holds_at_all_times():
    once = Learned([0.3], [[1.0, 0.5, 0.1]])
    np.testing.assert_allclose(plan(once, np.linspace(5.0, 9.0, 4)).probabilities, [[1.0, 0.5, 0.1]] * 3)


def test_a_file_gives_back_the_same_numbers(tmp_path):
    for rule in (KNOWN, replace(KNOWN, budget=1 / 3, values=np.random.default_rng(0).random((3, 2)))):
        file = tmp_path / "deep" / "rule.json"
        assert rule.save(file) == str(file)
        assert Learned.load(file) == rule
        assert Learned.load(str(file)).history == rule.history
    assert [path.name for path in file.parent.iterdir()] == ["rule.json"]


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    file = tmp_path / "rule.json"
    KNOWN.save(file)

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        replace(KNOWN, budget=5.0).save(file)
    assert Learned.load(file) == KNOWN
    assert len(list(tmp_path.iterdir())) == 1


def load(text):
    """A call that loads a file of this text."""

    def call(tmp_path):
        file = tmp_path / "rule.json"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return Learned.load(file)

    return call


WHOLE = json.dumps({"kind": "mlsde.Learned", "times": [0.0], "values": [[0.5]], "budget": None, "history": []})
FILES = {
    "cut off": (load(WHOLE[:40]), ["rule.json", "damaged"]),
    "binary": (load(b"\xff\xfe\x00"), ["rule.json", "damaged"]),
    "empty": (load(""), ["rule.json", "damaged"]),
    "a list": (load("[1, 2]"), ["rule.json", "something else", "Learned.save"]),
    "of another": (load('{"kind": "mlsde.Other"}'), ["rule.json", "something else", "Learned.save"]),
    "a field missing": (load('{"kind": "mlsde.Learned", "times": [0.0]}'), ["rule.json", "damaged", "values"]),
    "a field too many": (load(WHOLE.replace("budget", "price")), ["rule.json", "damaged", "price"]),
    "no probability": (load(WHOLE.replace("0.5", "1.5")), ["rule.json", "damaged", "(0, 1]"]),
    "text": (load(WHOLE.replace("0.5", '"x"')), ["rule.json", "damaged", "values"]),
}


def test_a_sound_file_of_the_table_loads(tmp_path):
    assert load(WHOLE)(tmp_path) == Learned([0.0], [[0.5]])


@pytest.mark.parametrize(("call", "words"), FILES.values(), ids=FILES)
def test_a_bad_file_is_named(call, words, tmp_path):
    refused(lambda: call(tmp_path), ValueError, *words)


def test_a_missing_file_is_named(tmp_path):
    refused(lambda: Learned.load(tmp_path / "none.json"), FileNotFoundError, "none.json", "does not exist", "save")


def use(rule):
    return lambda: run_probabilities(rule)


REFUSED = {
    "no knots": (lambda: Learned([], []), ValueError, ["times", "knots"]),
    "unordered": (lambda: Learned([0.0, 1.0, 0.5], VALUES), ValueError, ["times", "strictly"]),
    "twice": (lambda: Learned([0.0, 0.0, 0.5], VALUES), ValueError, ["times", "strictly"]),
    "infinite": (lambda: Learned([0.0, 1.0, np.inf], VALUES), ValueError, ["times", "finite"]),
    "rows": (lambda: Learned([0.0, 1.0], VALUES), ValueError, ["values", "(3, 3)", "row for each knot"]),
    "flat": (lambda: Learned([0.0, 1.0], [0.5, 0.5]), ValueError, ["values", "row for each knot"]),
    "zero": (lambda: Learned([0.0], [[1.0, 0.0]]), ValueError, ["values", "(0, 1]", "got 0"]),
    "large": (lambda: Learned([0.0], [[1.5, 0.1]]), ValueError, ["values", "(0, 1]", "1.5"]),
    "nan": (lambda: Learned([0.0], [[np.nan, 0.1]]), ValueError, ["values", "(0, 1]", "nan"]),
    "text": (lambda: Learned([0.0], [["x", 0.1]]), TypeError, ["values", "numbers"]),
    "budget": (lambda: Learned([0.0], [[0.5]], budget=-1.0), ValueError, ["budget", "above zero"]),
    "history": (lambda: Learned([0.0], [[0.5]], history=[1.0]), ValueError, ["history", "pairs"]),
    "levels": (use(Learned([0.0, 1.0], [[0.5, 0.5]] * 2)), ValueError, ["values", "2 probabilities", "3 levels"]),
    "span": (use(Learned([0.0, 0.5], VALUES[:2])), ValueError, ["times", "0 to 0.5", "0 to 1", "this span"]),
    "poor": (use(replace(KNOWN, budget=1e-12)), ValueError, ["budget", "does not pay"]),
    "no costs": (
        lambda: mlsde.solve(
            mlsde.SDE(mlsde.DriftHierarchy(ladder().levels)), run_probabilities.__globals__["Y0"], (0, 1), steps=4,
            multilevel=mlsde.Multilevel(replace(KNOWN, budget=5.0)),
        ), ValueError, ["Learned(budget=...)", "price of each level"],
    ),
}  # fmt: skip


@table(REFUSED)
def test_what_cannot_be_is_refused_in_one_sentence(call, error, words):
    refused(call, error, *words)
