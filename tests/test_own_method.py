"""A method of somebody's own in a convergence study."""

import json
import math

import pytest
import torch

import mlsde
from mlsde import study
from mlsde.problems import LadderProblem, analytic
from mlsde.study import prediction
from mlsde.study.methods import candidates

F64 = torch.float64
STEPS = [1, 2, 4, 8, 16, 32]


def ladder(noise=0.5):
    if noise is None:
        return analytic.linear_ode().ladder(gamma=3.0, levels=3)
    return analytic.linear_system().ladder(3.0, levels=3, spread=0.5, features=16, reference_steps=768)


def euler(sde, y0, t_span, steps, setting, brownian, seed):
    """What ``study.plain()`` does, by hand."""
    return mlsde.solve(sde, y0, t_span, steps=steps, brownian=brownian).y1


def euler_price(costs, steps, setting):
    return steps * costs[-1]


def study_of(methods, problem=None, errors=(1.0, 0.5, 0.25), **options):
    given = {"seeds": 3, "samples": 4, "steps": STEPS, **options}
    return study.convergence(ladder() if problem is None else problem, methods, errors, **given)


@pytest.mark.parametrize("noise", [None, 0.5], ids=["ode", "additive"])
def test_euler_by_hand_comes_out_as_the_plain_method(noise):
    mine = study.own("mine", euler, euler_price)
    found = study_of([mine, study.plain()], ladder(noise))
    plain = found["one level, Euler-Maruyama"]
    assert found["mine"].costs == plain.costs
    assert found["mine"].exponent.value == pytest.approx(plain.exponent.value, nan_ok=True)
    for ours, theirs in zip(found["mine"].found, plain.found, strict=True):
        assert ours.trial.errors == pytest.approx(theirs.trial.errors)
        assert (ours.candidate.levels, ours.candidate.steps) == (theirs.candidate.levels, theirs.candidate.steps)


def test_it_is_tried_with_every_setting_and_every_number_of_levels_that_have_a_price():
    def price(costs, steps, setting):
        return steps * setting if len(costs) > 1 else math.nan if setting == 3 else -1.0

    mine = study.own("mine", euler, price, settings=(2, 3))
    made = candidates(mine, ladder().sde.drift, (0.0, 1.0), 3.0, [1, 2])
    assert [(c.levels, c.steps, c.setting, c.cost) for c in made] == [
        (2, 1, 2, 2), (3, 1, 2, 2), (2, 1, 3, 3), (3, 1, 3, 3),
        (2, 2, 2, 4), (3, 2, 2, 4), (2, 2, 3, 6), (3, 2, 3, 6),
    ]  # fmt: skip
    assert made[-1].describe() == "3 levels, 2 steps, setting 3"
    assert candidates(study.own("x", euler, euler_price), ladder().sde.drift, (0.0, 1.0), 3.0, [1])[0].describe() == (
        "1 levels, 1 steps"
    )


def test_it_is_handed_the_cut_ladder_the_span_and_the_setting():
    seen = []

    def run(sde, y0, t_span, steps, setting, brownian, seed):
        seen.append((len(sde.drift), t_span, steps, setting, brownian is None, torch.is_grad_enabled()))
        return euler(sde, y0, t_span, steps, setting, brownian, seed)

    study_of([study.own("mine", run, euler_price, settings=(0.5,))], errors=(1.0,), steps=[4])
    assert {levels for levels, *_ in seen} <= {1, 2, 3}
    assert {given[1:5] for given in seen} == {((0.0, 1.0), 4, 0.5, False)}
    assert not any(graph for *_, graph in seen)


def test_a_method_better_than_euler_is_not_left_out_for_what_euler_does_in_as_many_steps():
    """The reference itself, at the price of one step: a study that thought coins alone could add to an error would
    never try it where Euler-Maruyama in one step is hopeless.
    """
    problem = ladder()

    def exact(sde, y0, t_span, steps, setting, brownian, seed):
        return problem.reference(y0, brownian)

    mine = study.own("exact", exact, euler_price)
    found = study_of([study.plain(), mine], problem, errors=(0.25, 0.01))
    assert found["exact"].costs == (1.0, 1.0)
    assert found["exact"].found[-1].trial.error == pytest.approx(0.0, abs=1e-9)


def test_what_it_returns_is_looked_at():
    for wrong, words in ((lambda *given: 1.0, "float"), (lambda sde, y0, *given: y0[:1], "got shape (1, ")):
        with pytest.raises(TypeError, match=r"run of 'mine' must return a tensor of shape") as caught:
            study_of([study.own("mine", wrong, euler_price)], errors=(1.0,), steps=[1])
        assert words in str(caught.value)


def test_where_it_blows_up_the_error_is_infinite():
    def burst(sde, y0, t_span, steps, setting, brownian, seed):
        return torch.full_like(y0, math.nan if steps == 1 else math.inf)

    found = study_of([study.own("mine", burst, euler_price)], errors=(1.0,), steps=[1, 2])
    assert found["mine"].costs == (math.inf,)
    assert found["mine"].found[0].candidate is None


def test_the_report_makes_no_statement_on_its_theory_and_does_not_take_it_for_plain(tmp_path):
    problem = ladder()

    def exact(sde, y0, t_span, steps, setting, brownian, seed):
        return problem.reference(y0, brownian)

    mine = study.own("mine", exact, euler_price)
    found = study_of([study.plain(), mine, study.multilevel("systematic", "hold")], problem)
    assert not prediction.predictable(mine)
    assert prediction.predictable(study.plain()) and not prediction.predictable(study.stitching())
    assert "against the cheapest plain method (one level, Euler-Maruyama)" in repr(found)
    row = json.loads(json.dumps(found.as_dict()))["methods"][1]
    assert (row["name"], row["theory"], row["limit"]) == ("mine", None, None)
    assert found.figure(tmp_path / "study.png") == str(tmp_path / "study.png")
    assert found.ratio("one level, Euler-Maruyama", "mine") > 1


def test_a_folder_knows_it_by_its_name(tmp_path):
    calls = []

    def counted(*given):
        calls.append(given[3])
        return euler(*given)

    for name, again in (("mine", False), ("mine", True), ("mine, mended!", False)):
        before = len(calls)
        study_of([study.own(name, counted, euler_price)], errors=(1.0,), steps=[4], folder=tmp_path)
        assert (len(calls) == before) == again
    assert study.own("Mine, mended!", euler, euler_price).key == "own-mine-mended"


def test_it_works_on_an_equation_of_ones_own():
    """The frontier of a problem that comes from a reader: no name of the package's in it."""
    drift = mlsde.DriftHierarchy([lambda t, y: -y, lambda t, y: -torch.sin(2 * y)], [1.0, 10.0])
    problem = LadderProblem("mine", mlsde.SDE(drift, 0.3), torch.ones(1, 1, dtype=F64), gamma=2.5)
    found = study_of([study.own("mine", euler, euler_price)], problem, errors=(0.5,), reference_steps=64)
    assert math.isfinite(found["mine"].costs[0])


BAD = {
    "name": (lambda: study.own("", euler, euler_price), ValueError, "name must be a name with letters or digits"),
    "run": (lambda: study.own("x", 3, euler_price), TypeError, "run"),
    "price": (lambda: study.own("x", euler, 3), TypeError, "price(costs, steps, setting)"),
    "settings": (lambda: study.own("x", euler, euler_price, settings=()), ValueError, "settings must hold at least"),
    "a price in words": (
        lambda: study_of([study.own("x", euler, lambda *given: "cheap")], errors=(1.0,)),
        TypeError, "the price of 'x' must be a number",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("call", "error", "words"), BAD.values(), ids=BAD.keys())
def test_bad_arguments_are_named(call, error, words):
    with pytest.raises(error) as caught:
        call()
    assert words in str(caught.value)
