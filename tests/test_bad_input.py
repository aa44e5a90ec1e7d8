"""Bad input stops at once, with one sentence that names the argument, what came and what was expected."""

import math

import numpy as np
import pytest
import torch
from refusals import Y0, decay, ladder, multilevel, refused, run, run_level, run_noise, run_probabilities, table

from mlsde import SDE, BrownianPath, Constant, DriftHierarchy, Multilevel, Optimal, PowerLaw, from_numpy

LADDERS = {
    "no levels": (lambda: DriftHierarchy([]), ValueError, ["levels", "none", "at least one callable"]),
    "levels is None": (lambda: DriftHierarchy(None), TypeError, ["levels", "NoneType", "a sequence of callables"]),
    "levels is a function": (lambda: DriftHierarchy(decay), TypeError, ["levels", "function", "a sequence"]),
    "a level is no function": (lambda: DriftHierarchy([decay, 3]), TypeError, ["levels[1]", "int", "callable f(t, y)"]),
    "too many costs": (lambda: DriftHierarchy([decay], [1, 2]), ValueError, ["costs", "2 prices", "1 levels"]),
    "too few costs": (lambda: DriftHierarchy([decay] * 2, [1]), ValueError, ["costs", "1 prices", "2 levels"]),
    "a cost of zero": (lambda: DriftHierarchy([decay] * 2, [1, 0]), ValueError, ["costs[1]", "0.0", "above zero"]),
    "a negative cost": (lambda: DriftHierarchy([decay], [-1]), ValueError, ["costs[0]", "-1", "above zero"]),
    "a cost of NaN": (lambda: DriftHierarchy([decay], [math.nan]), ValueError, ["costs[0]", "nan", "finite"]),
    "an infinite cost": (lambda: DriftHierarchy([decay], [math.inf]), ValueError, ["costs[0]", "inf", "finite"]),
    "a cost that no float holds": (lambda: DriftHierarchy([decay], [10**400]), ValueError, ["costs[0]", "finite"]),
    "a cost that is text": (lambda: DriftHierarchy([decay], ["1"]), TypeError, ["costs[0]", "'1'", "a number"]),
    "a cost of None": (lambda: DriftHierarchy([decay], [None]), TypeError, ["costs[0]", "None", "a number"]),
    "a cost of True": (lambda: DriftHierarchy([decay], [True]), TypeError, ["costs[0]", "True", "a number"]),
    "one number as costs": (lambda: DriftHierarchy([decay], 1.0), TypeError, ["costs", "1.0", "one for each level"]),
    "text as costs": (lambda: DriftHierarchy([decay], "1"), TypeError, ["costs", "'1'", "one for each level"]),
    "a 0-d tensor as costs": (lambda: DriftHierarchy([decay], torch.tensor(1.0)), TypeError, ["costs", "tensor(1.)"]),
    "too few names": (lambda: ladder(names=["a"]), ValueError, ["names", "1 names", "3 levels"]),
    "one number as names": (lambda: ladder(names=3), TypeError, ["names", "3", "one for each level"]),
    "a level selected that is not there": (lambda: ladder().select([4]), ValueError, ["levels", "[4]", "1 … 3"]),
    "levels selected in disorder": (lambda: ladder().select([2, 1]), ValueError, ["levels", "[2, 1]", "increase"]),
    "no level selected": (lambda: ladder().select([]), ValueError, ["levels", "[]", "1 … 3"]),
    "a number selected": (lambda: ladder().select(2), TypeError, ["levels", "2", "a sequence"]),
    "half a level selected": (lambda: ladder().select([1.5]), TypeError, ["levels", "1.5", "positive integer"]),
    "measured at no tensor": (lambda: ladder().measured(0.0, 3), TypeError, ["y", "int", "torch.Tensor"]),
    "measured at no time": (lambda: ladder().measured("a", Y0), TypeError, ["t", "'a'", "a number"]),
    "measured no times": (lambda: ladder().measured(0.0, Y0, repeats=0), ValueError, ["repeats", "0", "positive"]),
    "numpy of no function": (lambda: from_numpy(3), TypeError, ["function", "3", "callable"]),
    "no costs where needed": (
        lambda: run(SDE(DriftHierarchy([decay] * 2)), multilevel=Multilevel(PowerLaw(2.5))),
        ValueError,
        ["PowerLaw", "costs=", "measured"],
    ),
}

LEVELS = {
    "too few components": (lambda: run_level(lambda t, y: y[:, :2]), ValueError, ["level 1", "(4, 2)", "(4, 3)"]),
    "a shape that broadcasts": (lambda: run_level(lambda t, y: y[:1]), ValueError, ["level 1", "(1, 3)", "(4, 3)"]),
    "a 0-d tensor": (lambda: run_level(lambda t, y: torch.tensor(1.0)), ValueError, ["level 1", "()", "(4, 3)"]),
    "a dimension too many": (lambda: run_level(lambda t, y: y[None]), ValueError, ["level 1", "(1, 4, 3)", "(4, 3)"]),
    "a number": (lambda: run_level(lambda t, y: 1.0), TypeError, ["level 1", "float", "torch.Tensor"]),
    "nothing": (lambda: run_level(lambda t, y: None), TypeError, ["level 1", "NoneType", "torch.Tensor"]),
    "an array": (lambda: run_level(lambda t, y: y.numpy()), TypeError, ["level 1", "ndarray", "torch.Tensor"]),
    "another dtype": (
        lambda: run_level(lambda t, y: y.double()),
        TypeError,
        ["level 1", "torch.float64", "torch.float32"],
    ),
    "float32 for bfloat16": (
        lambda: run_level(lambda t, y: y.float(), y0=Y0.bfloat16()),
        TypeError,
        ["level 1", "torch.float32", "torch.bfloat16"],
    ),
    "another device": (lambda: run_level(lambda t, y: y.to("meta")), TypeError, ["level 1", "on meta", "on cpu"]),
    "y itself, written into": (lambda: run_level(lambda t, y: y.mul_(-1)), ValueError, ["level 1", "wrote", "new"]),
    "of the second level": (
        lambda: run(SDE(DriftHierarchy([decay, lambda t, y: y[0]], [1, 8])), multilevel=Multilevel(Constant([1, 0.5]))),
        ValueError,
        ["level 2", "(3,)", "(4, 3)"],
    ),
    "a numpy level of another dtype": (
        lambda: run_level(from_numpy(lambda t, y: y.astype(np.float64))),
        TypeError,
        ["function", "float64", "float32"],
    ),
}

TIMES = {
    "zero steps": (lambda: run(steps=0), ValueError, ["steps", "0", "a positive integer"]),
    "negative steps": (lambda: run(steps=-3), ValueError, ["steps", "-3", "a positive integer"]),
    "steps of 2.5": (lambda: run(steps=2.5), TypeError, ["steps", "2.5", "float", "a positive integer"]),
    "steps of 10.0": (lambda: run(steps=10.0), TypeError, ["steps", "10.0", "float", "a positive integer"]),
    "steps of True": (lambda: run(steps=True), TypeError, ["steps", "True", "bool", "a positive integer"]),
    "steps of '10'": (lambda: run(steps="10"), TypeError, ["steps", "'10'", "str", "a positive integer"]),
    "steps as a tensor": (lambda: run(steps=torch.tensor(10)), TypeError, ["steps", "tensor(10)", "positive integer"]),
    "neither steps nor times": (lambda: run(steps=None), ValueError, ["steps=", "times=", "neither"]),
    "steps and times": (lambda: run(steps=2, times=[0, 1]), ValueError, ["steps=", "times=", "both"]),
    "equal times": (lambda: run(t_span=None, times=[0, 0.5, 0.5]), ValueError, ["times 1 and 2", "0.5", "strictly"]),
    "unsorted times": (lambda: run(t_span=None, times=[0, 2, 1]), ValueError, ["times 1 and 2", "2.0", "strictly"]),
    "a time of NaN": (lambda: run(t_span=None, times=[0, math.nan]), ValueError, ["times", "nan", "finite"]),
    "an infinite time": (lambda: run(t_span=None, times=[0, math.inf]), ValueError, ["times", "inf", "finite"]),
    "one time": (lambda: run(t_span=None, times=[0]), ValueError, ["times", "got 1", "at least two"]),
    "no times": (lambda: run(t_span=None, times=[]), ValueError, ["times", "got 0", "at least two"]),
    "a number as times": (lambda: run(t_span=None, times=0.5), ValueError, ["times", "0.5", "one-dimensional"]),
    "times in two dimensions": (lambda: run(t_span=None, times=[[0, 1]]), ValueError, ["times", "one-dimensional"]),
    "text as times": (lambda: run(t_span=None, times="abc"), TypeError, ["times", "'abc'", "numbers"]),
    "times of text": (lambda: run(t_span=None, times=["0", "1"]), TypeError, ["times", "'0'", "numbers"]),
    "complex times": (lambda: run(t_span=None, times=[0j, 1.0]), TypeError, ["times", "0j", "numbers"]),
    "times beside the span": (lambda: run(t_span=(0, 2), times=[0, 1]), ValueError, ["times", "0.0 to 1.0", "(0, 2)"]),
    "no span": (lambda: run(t_span=None), TypeError, ["t_span", "None", "(t0, t1)"]),
    "a number as the span": (lambda: run(t_span=1.0), TypeError, ["t_span", "1.0", "(t0, t1)"]),
    "text as the span": (lambda: run(t_span="01"), TypeError, ["t_span", "'01'", "(t0, t1)"]),
    "a span of one time": (lambda: run(t_span=(0,)), ValueError, ["t_span", "(0.0,)", "two different times"]),
    "a span of three": (lambda: run(t_span=(0, 1, 2)), ValueError, ["t_span", "2.0", "two different times"]),
    "a span of equal times": (lambda: run(t_span=(1, 1)), ValueError, ["t_span", "(1.0, 1.0)", "two different times"]),
    "an infinite span": (lambda: run(t_span=(0, math.inf)), ValueError, ["t_span", "inf", "finite"]),
    "a span with None": (lambda: run(t_span=(0, None)), TypeError, ["t_span", "None", "numbers"]),
    "steps too small for floats": (
        lambda: run(t_span=(1, 1 + 1e-15), steps=1000),
        ValueError,
        ["steps", "times 0 and 1 are 1.0 and 1.0", "strictly"],
    ),
}

PROBABILITIES = {
    "above 1": (lambda: run_probabilities(Constant([1, 1.5, 0.1])), ValueError, ["level 2", "1.5", "[0, 1]"]),
    "below 0": (lambda: run_probabilities(Constant([1, -0.1, 0.1])), ValueError, ["level 2", "-0.1", "[0, 1]"]),
    "NaN": (lambda: run_probabilities(Constant([1, math.nan, 0.1])), ValueError, ["values", "nan", "finite"]),
    "NaN of a function": (lambda: run_probabilities(lambda t: [1, math.nan, 1]), ValueError, ["level 2", "nan", "[0,"]),
    "above 1 later on": (
        lambda: run_probabilities(lambda t: [1, 0.5, 0.9 if t < 0.5 else 1.1]),
        ValueError,
        ["level 3", "t=0.5", "1.1", "[0, 1]"],
    ),
    "0 for a level": (lambda: run_probabilities(Constant([1, 0.5, 0])), ValueError, ["level 3", "is 0", "select"]),
    "0 by a function": (
        lambda: run_probabilities(lambda t: [1, 0, 1]),
        ValueError,
        ["level 2", "is 0", "never be seen"],
    ),
    "too few": (lambda: run_probabilities(Constant([1, 0.5])), ValueError, ["values", "2 prob", "3 levels"]),
    "too few of a function": (lambda: run_probabilities(lambda t: [1]), ValueError, ["t=0", "(1,)", "(3,)"]),
    "nothing of a function": (lambda: run_probabilities(lambda t: None), TypeError, ["t=0", "None", "numbers"]),
    "text of a function": (lambda: run_probabilities(lambda t: "abc"), TypeError, ["t=0", "'abc'", "numbers"]),
    "one number": (lambda: run_probabilities(Constant(0.5)), ValueError, ["values", "0.5", "sequence"]),
    "text": (lambda: run_probabilities(Constant([1, "a", 1])), TypeError, ["values", "'a'", "numbers"]),
    "no rule": (lambda: run_probabilities(None), TypeError, ["probabilities", "None", "PowerLaw"]),
    "a list as rule": (lambda: run_probabilities([1, 0.5, 0.2]), TypeError, ["probabilities", "[1,", "Constant"]),
    "a class as rule": (lambda: run_probabilities(PowerLaw), TypeError, ["probabilities", "class", "PowerLaw"]),
    "gamma of 0": (lambda: PowerLaw(0), ValueError, ["gamma", "0.0", "above zero"]),
    "gamma of NaN": (lambda: PowerLaw(math.nan), ValueError, ["gamma", "nan", "finite"]),
    "gamma as text": (lambda: PowerLaw("2"), TypeError, ["gamma", "'2'", "number"]),
    "a negative scale": (lambda: PowerLaw(2.5, scale=-1), ValueError, ["scale", "-1", "above zero"]),
    "a budget of 0": (lambda: Optimal([1, 1, 1], budget=0), ValueError, ["budget", "0.0", "above zero"]),
    "a budget too small": (lambda: run_probabilities(Optimal([1, 1, 1], 1.0)), ValueError, ["budget", "1", "least"]),
    "too few variances": (lambda: run_probabilities(Optimal([1, 1], 300)), ValueError, ["variances", "2", "3 levels"]),
    "a negative variance": (
        lambda: run_probabilities(Optimal([1, 1, -1], 300)),
        ValueError,
        ["variances", "-1", "not"],
    ),
    "a variance of 0": (lambda: run_probabilities(Optimal([1, 1, 0], 300)), ValueError, ["variances", "above zero"]),
    "sensitivity of no function": (lambda: Optimal([1], 9, sensitivity=3), TypeError, ["sensitivity", "3", "function"]),
}

NAMES = {
    "method": (lambda: run(method="eulr"), ValueError, ["method", "'eulr'", "'euler', 'milstein', 'heun', 'exponent"]),
    "method of None": (lambda: run(method=None), ValueError, ["method", "None", "'euler', 'milstein'"]),
    "an array of methods": (
        lambda: run(method=np.array(["euler", "heun"])),
        ValueError,
        ["method", "array", "'euler'"],
    ),
    "coins": (
        lambda: multilevel(coins="fair"),
        ValueError,
        ["coins", "'fair'", "'independent', 'nested', 'systematic', 'periodic'"],
    ),
    "correction": (
        lambda: multilevel(correction="keep"),
        ValueError,
        ["correction", "'keep'", "'impulse', 'hold', 'control', 'extrapolate'"],
    ),
    "share": (lambda: multilevel(share="all"), ValueError, ["share", "'all'", "'batch', 'sample'"]),
    "noise": (
        lambda: SDE(decay, 1.0, noise="diag"),
        ValueError,
        ["noise", "'diag'", "'additive', 'diagonal', 'scalar', 'general'"],
    ),
    "calculus": (lambda: SDE(decay, calculus="itô"), ValueError, ["calculus", "'itô'", "'ito', 'stratonovich'"]),
    "save_at": (lambda: run(save_at="all"), ValueError, ["save_at", "'all'", "'steps'"]),
}

STATES = {
    "integers": (lambda: run(y0=torch.ones(3, dtype=torch.int64)), TypeError, ["y0", "torch.int64", "floating"]),
    "booleans": (lambda: run(y0=torch.ones(3) > 0), TypeError, ["y0", "torch.bool", "floating"]),
    "complex numbers": (lambda: run(y0=Y0 + 0j), TypeError, ["y0", "torch.complex64", "floating", "view_as_real"]),
    "NaN": (lambda: run(y0=torch.tensor([1, math.nan])), ValueError, ["y0", "NaN", "finite"]),
    "infinity": (lambda: run(y0=torch.tensor([math.inf])), ValueError, ["y0", "infinity", "finite"]),
    "0-d": (lambda: run(y0=torch.tensor(1.0)), ValueError, ["y0", "()", "dimension 0"]),
    "no samples": (lambda: run(y0=torch.ones(0, 3)), ValueError, ["y0", "(0, 3)", "at least one sample"]),
    "empty samples": (lambda: run(y0=torch.ones(3, 0)), ValueError, ["y0", "(3, 0)", "at least one sample"]),
    "an array": (lambda: run(y0=np.ones(3)), TypeError, ["y0", "ndarray", "torch.Tensor"]),
    "a list": (lambda: run(y0=[1.0]), TypeError, ["y0", "list", "torch.Tensor"]),
    "None": (lambda: run(y0=None), TypeError, ["y0", "NoneType", "torch.Tensor"]),
    "a sparse tensor": (lambda: run(y0=torch.eye(3).to_sparse()), TypeError, ["y0", "sparse", "dense"]),
    "a tensor without values": (lambda: run(y0=Y0.to("meta")), TypeError, ["y0", "meta", "values"]),
}

CHOICES = {
    "level 0": (lambda: run(level=0), ValueError, ["level", "0", "1 … 3"]),
    "level 4 of 3": (lambda: run(level=4), ValueError, ["level", "4", "1 … 3"]),
    "level 1.5": (lambda: run(level=1.5), TypeError, ["level", "1.5", "integer within 1 … 3"]),
    "level True": (lambda: run(level=True), TypeError, ["level", "True", "integer within 1 … 3"]),
    "level '1'": (lambda: run(level="1"), TypeError, ["level", "'1'", "integer within 1 … 3"]),
    "level 9 by time": (lambda: run(level=lambda t: 9), ValueError, ["level", "9", "1 … 3"]),
    "text by time": (lambda: run(level=lambda t: "a"), TypeError, ["level", "'a'", "integer"]),
    "nothing by time": (lambda: run(level=lambda t: None), TypeError, ["level", "None", "integer"]),
    "level and multilevel": (lambda: run(level=1, multilevel=multilevel()), ValueError, ["level", "multilevel", "two"]),
    "multilevel of a rule": (
        lambda: run(multilevel=PowerLaw(2.5)),
        TypeError,
        ["multilevel", "PowerLaw", "Multilevel"],
    ),
    "a negative seed": (lambda: run(seed=-1), ValueError, ["seed", "-1", "negative"]),
    "a seed of 1.5": (lambda: run(seed=1.5), TypeError, ["seed", "1.5", "integer"]),
    "a seed of True": (lambda: run(seed=True), TypeError, ["seed", "True", "integer"]),
    "a seed of None": (lambda: run(seed=None), TypeError, ["seed", "None", "integer"]),
    "a seed of '1'": (lambda: run(seed="1"), TypeError, ["seed", "'1'", "integer"]),
    "too few seeds": (lambda: run(seed=[1, 2]), ValueError, ["seed", "2 seeds", "4 samples"]),
    "a negative seed of a sample": (lambda: run(seed=[1, 2, 3, -4]), ValueError, ["seed", "-4", "non-negative"]),
    "half a seed of a sample": (lambda: run(seed=[1, 2, 3, 0.5]), ValueError, ["seed", "0.5", "integers"]),
    "one coin, many seeds": (
        lambda: run(seed=[1, 2, 3, 4], multilevel=multilevel()),
        ValueError,
        ["seed", "one seed per sample", "share='sample'"],
    ),
    "coins with many seeds": (lambda: multilevel(seed=[3]), TypeError, ["seed", "[3]", "an integer"]),
    "coins with a negative seed": (lambda: multilevel(seed=-1), ValueError, ["seed", "-1", "negative"]),
    "extrapolation from independent coins": (
        lambda: multilevel(coins="independent", correction="extrapolate"),
        ValueError,
        ["correction='extrapolate'", "coins='independent'", "'systematic' or 'periodic'"],
    ),
    "extrapolation from nested coins": (
        lambda: multilevel(coins="nested", correction="extrapolate"),
        ValueError,
        ["correction='extrapolate'", "coins='nested'", "'systematic' or 'periodic'"],
    ),
    "impulses inside Heun": (
        lambda: run(SDE(ladder()), method="heun", multilevel=multilevel(correction="impulse")),
        ValueError,
        ["correction='impulse'", "method='heun'", "'hold' or 'extrapolate'"],
    ),
    "Heun on an Itô equation": (
        lambda: run_noise(lambda t, y: y, "diagonal", method="heun"),
        ValueError,
        ["method='heun'", "Stratonovich", "calculus='stratonovich'"],
    ),
    "Milstein on an ODE": (lambda: run(SDE(decay), method="milstein"), ValueError, ["'milstein'", "ODE", "'euler'"]),
    "exponential Euler of nothing": (lambda: run(method="exponential"), ValueError, ["'exponential'", "linear="]),
    "a callback that is none": (lambda: run(callback=3), TypeError, ["callback", "3", "callable"]),
    "no equation": (lambda: run(sde=3), TypeError, ["sde", "int", "mlsde.SDE"]),
    "a drift for an equation": (lambda: run(sde=decay), TypeError, ["sde", "function", "mlsde.SDE"]),
    "a ladder for an equation": (lambda: run(sde=ladder()), TypeError, ["sde", "DriftHierarchy", "mlsde.SDE"]),
    "a number as drift": (lambda: SDE(3), TypeError, ["drift", "int", "DriftHierarchy"]),
    "a list as drift": (lambda: SDE([decay]), TypeError, ["drift", "list", "DriftHierarchy"]),
    "no torchsde object": (lambda: SDE.from_torchsde(3), TypeError, ["torchsde", "int", "a drift, f"]),
    "nothing to save": (lambda: run(save_at=[]), ValueError, ["save_at", "[]", "from t0 towards t1"]),
    "saving twice": (lambda: run(save_at=[0.5, 0.5]), ValueError, ["save_at", "[0.5, 0.5]", "strictly"]),
    "saving in disorder": (lambda: run(save_at=[0.5, 0.2]), ValueError, ["save_at", "0.2", "from t0 towards t1"]),
    "saving beyond the end": (lambda: run(save_at=[2.0]), ValueError, ["save_at", "2.0", "between 0.0 and 1.0"]),
    "saving at NaN": (lambda: run(save_at=[math.nan]), ValueError, ["save_at", "nan", "finite"]),
    "saving at a number": (lambda: run(save_at=0.5), ValueError, ["save_at", "0.5", "sequence"]),
    "saving at text": (lambda: run(save_at=["a"]), TypeError, ["save_at", "'a'", "numbers"]),
}


@table(LADDERS)
def test_an_unsound_ladder_is_refused_in_one_sentence(call, error, words):
    refused(call, error, *words)


@table(LEVELS)
def test_a_level_that_returns_something_else_is_refused_in_one_sentence(call, error, words):
    refused(call, error, *words)


@table(TIMES)
def test_steps_and_times_that_make_no_grid_are_refused_in_one_sentence(call, error, words):
    refused(call, error, *words)


@table(PROBABILITIES)
def test_what_is_no_probability_is_refused_in_one_sentence(call, error, words):
    refused(call, error, *words)


@table(NAMES)
def test_an_unknown_name_is_refused_with_the_list_of_valid_ones(call, error, words):
    refused(call, error, *words)


@table(STATES)
def test_an_unsound_initial_state_is_refused_in_one_sentence(call, error, words):
    refused(call, error, *words)


@table(CHOICES)
def test_an_unsound_choice_is_refused_in_one_sentence(call, error, words):
    refused(call, error, *words)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: run(step=3), "'step'"),
        (lambda: run(sede=3), "'sede'"),
        (lambda: multilevel(coin="nested"), "'coin'"),
        (lambda: SDE(decay, difusion=1.0), "'difusion'"),
        (lambda: DriftHierarchy([decay], cost=[1]), "'cost'"),
        (lambda: PowerLaw(gama=2.0), "'gama'"),
        (lambda: BrownianPath(0, 1, shap=(3,)), "'shap'"),
    ],
)
def test_a_misspelt_keyword_is_refused(call, word):
    with pytest.raises(TypeError, match=word):
        call()


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 0},
        {"seed": -1},
        {"method": "eulr"},
        {"callback": 3},
        {"save_at": [2.0]},
        {"level": 9},
        {"brownian": BrownianPath(0, 0.5, like=Y0)},
        {"brownian": BrownianPath(0, 1, like=Y0.double())},
        {"brownian": lambda a, b: torch.ones(4, 2)},
        {"multilevel": multilevel((1, 0.5))},
        {"multilevel": multilevel((1, 0.5, 0))},
    ],
)
def test_bad_input_is_found_before_the_first_evaluation_of_a_drift(options):
    def unexpected(t, y):
        pytest.fail("a level was evaluated")

    sde = SDE(DriftHierarchy([unexpected] * 3, costs=[1, 8, 64]), 0.5)
    with pytest.raises((TypeError, ValueError)):
        run(sde, **options)


def test_a_refused_run_leaves_the_initial_state_alone():
    y0 = torch.ones(4, 3)
    with pytest.raises(ValueError, match="wrote into"):
        run_level(lambda t, y: y.clone().copy_(y.neg_()), y0=y0.clone())
    with pytest.raises(ValueError, match="expected that of y"):
        run_level(lambda t, y: y[:1], y0=y0)
    assert torch.equal(y0, torch.ones(4, 3))


@pytest.mark.parametrize("seed", [3, np.int64(3), torch.tensor(3), np.array(3)])
def test_a_seed_may_be_any_kind_of_integer(seed):
    assert torch.equal(run(seed=seed).y1, run(seed=3).y1)


@pytest.mark.parametrize("seed", [(1, 2, 3, 4), torch.tensor([1, 2, 3, 4]), np.array([1, 2, 3, 4]), range(1, 5)])
def test_seeds_of_the_samples_may_be_any_kind_of_sequence(seed):
    assert torch.equal(run(seed=seed).y1, run(seed=[1, 2, 3, 4]).y1)


def test_steps_may_be_a_numpy_integer_and_costs_a_tensor():
    assert run(steps=np.int64(10)).plan.steps == 10
    assert DriftHierarchy([decay] * 2, costs=torch.tensor([1.0, 4.0])).costs == (1.0, 4.0)


def test_a_module_list_is_a_sequence_of_levels():
    nets = torch.nn.ModuleList([torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)])
    assert len(DriftHierarchy(nets, costs=[1, 2])) == 2
