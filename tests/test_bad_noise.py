"""A diffusion, a path or a linear part that does not fit the equation stops the solve at once, in one sentence."""

import math

import torch
from refusals import Y0, decay, refused, run, run_noise, table

import mlsde
from mlsde import SDE, BrownianPath

DIFFUSIONS = {
    "text": (lambda: SDE(decay, "a"), TypeError, ["diffusion", "'a'", "number"]),
    "NaN": (lambda: SDE(decay, math.nan), ValueError, ["diffusion", "nan", "finite"]),
    "a list": (lambda: SDE(decay, [1.0, 2.0]), TypeError, ["diffusion", "list", "number"]),
    "a tensor of integers": (lambda: SDE(decay, torch.tensor([1])), TypeError, ["diffusion", "int64", "floating"]),
    "an infinite tensor": (lambda: SDE(decay, torch.tensor([math.inf])), ValueError, ["diffusion", "inf", "finite"]),
    "noise without one": (lambda: SDE(decay, noise="diagonal"), ValueError, ["noise", "'diagonal'", "diffusion="]),
    "additive": (lambda: run_noise(torch.ones(5)), ValueError, ["diffusion", "(5,)", "additive", "(4, 3)"]),
    "additive, larger": (lambda: run_noise(torch.ones(2, 4, 3)), ValueError, ["diffusion", "(2, 4, 3)", "(4, 3)"]),
    "additive, with the state": (lambda: run_noise(lambda t, y: y), ValueError, ["diffusion", "changes", "diagonal"]),
    "diagonal": (lambda: run_noise(lambda t, y: y[:1], "diagonal"), ValueError, ["diffusion", "(1, 3)", "(4, 3)"]),
    "scalar": (lambda: run_noise(lambda t, y: y[:, :1], "scalar"), ValueError, ["diffusion", "(4, 1)", "(4, 3)"]),
    "general": (lambda: run_noise(lambda t, y: y, "general"), ValueError, ["diffusion", "(4, 3)", "(4, 3, 'm')"]),
    "general, fewer samples": (
        lambda: run_noise(lambda t, y: torch.ones(2, 3, 5), "general"),
        ValueError,
        ["diffusion", "(2, 3, 5)", "(4, 3, 'm')"],
    ),
    "general, then more motions": (
        lambda: run_noise(lambda t, y: torch.ones(4, 3, 2 if t < 0.5 else 5), "general"),
        ValueError,
        ["diffusion", "(4, 3, 5)", "(4, 3, 2)"],
    ),
    "general, a number": (lambda: run_noise(0.5, "general"), TypeError, ["diffusion", "0.5", "tensor", "general"]),
    "general, a number of a function": (
        lambda: run_noise(lambda t: 0.5, "general"),
        TypeError,
        ["diffusion", "float", "torch.Tensor"],
    ),
    "nothing": (lambda: run_noise(lambda t, y: None), TypeError, ["diffusion", "NoneType", "torch.Tensor"]),
    "another dtype": (lambda: run_noise(torch.ones(3).double()), TypeError, ["diffusion", "float64", "float32"]),
    "another device": (
        lambda: run_noise(lambda t, y: y.to("meta"), "diagonal"),
        TypeError,
        ["diffusion", "meta", "cpu"],
    ),
}

PATHS = {
    "too short": (
        lambda: run(brownian=BrownianPath(0, 0.5, like=Y0)),
        ValueError,
        ["brownian", "[0.0, 0.5]", "[0.0, 1.0]"],
    ),
    "another shape": (
        lambda: run(brownian=BrownianPath(0, 1, shape=(4, 2))),
        ValueError,
        ["brownian", "(4, 2)", "(4, 3)"],
    ),
    "another dtype": (
        lambda: run(brownian=BrownianPath(0, 1, like=Y0.double())),
        TypeError,
        ["brownian", "float64", "float32"],
    ),
    "the state's shape for scalar noise": (
        lambda: run_noise(lambda t, y: y, "scalar", brownian=BrownianPath(0, 1, like=Y0)),
        ValueError,
        ["brownian", "(4, 3)", "(4, 1)"],
    ),
    "the state's shape for general noise": (
        lambda: run_noise(lambda t, y: torch.ones(4, 3, 2), "general", brownian=BrownianPath(0, 1, like=Y0)),
        ValueError,
        ["brownian", "(4, 3)", "(4, 2)"],
    ),
    "a number": (lambda: run(brownian=3), TypeError, ["brownian", "3", "callable"]),
    "a number for an ODE": (lambda: run(SDE(decay), brownian=3), TypeError, ["brownian", "3", "callable"]),
    "a function of numbers": (lambda: run(brownian=lambda a, b: 1.0), TypeError, ["brownian", "float", "torch.Tensor"]),
    "a function of another shape": (
        lambda: run(brownian=lambda a, b: torch.ones(3)),
        ValueError,
        ["brownian", "(3,)", "(4, 3)"],
    ),
    "a function of another device": (
        lambda: run(brownian=lambda a, b: Y0.to("meta")),
        TypeError,
        ["brownian", "meta", "cpu"],
    ),
    "a sampler of no function": (lambda: mlsde.NoiseSampler(3), TypeError, ["noise_sampler", "3", "callable"]),
    "a path of no shape": (lambda: BrownianPath(0, 1), ValueError, ["shape=", "like="]),
    "a path like a number": (lambda: BrownianPath(0, 1, like=5), TypeError, ["like", "5", "torch.Tensor"]),
    "a path of shape 5": (lambda: BrownianPath(0, 1, shape=5), TypeError, ["shape", "5", "sequence"]),
    "a path of shape ()": (lambda: BrownianPath(0, 1, shape=()), ValueError, ["shape", "at least one dimension"]),
    "a path of shape (-1,)": (lambda: BrownianPath(0, 1, shape=(-1,)), ValueError, ["shape", "-1", "positive"]),
    "a path of integers": (
        lambda: BrownianPath(0, 1, shape=(3,), dtype=torch.int32),
        TypeError,
        ["dtype", "int32", "float32 or float64"],
    ),
    "a path of no length": (lambda: BrownianPath(1, 1, shape=(3,)), ValueError, ["t0 and t1", "1 and 1", "different"]),
    "a path to infinity": (lambda: BrownianPath(0, math.inf, shape=(3,)), ValueError, ["t1", "inf", "finite"]),
    "a path with too few seeds": (
        lambda: BrownianPath(0, 1, shape=(3,), seed=[1]),
        ValueError,
        ["seed", "1 seeds", "3 samples"],
    ),
    "a path of 5 grids": (lambda: BrownianPath(0, 1, shape=(3,), grids=5), TypeError, ["grids", "5", "sequence"]),
    "grids that do not nest": (
        lambda: BrownianPath(0, 1, shape=(3,), grids=(10, 15)),
        ValueError,
        ["grids", "(10, 15)", "multiple"],
    ),
    "a time beyond the path": (lambda: BrownianPath(0, 1, shape=(3,))(0, 2), ValueError, ["2", "[0.0, 1.0]", "longer"]),
}

LINEAR = {
    "a linear function": (lambda: SDE(decay, linear=decay), TypeError, ["linear", "function", "LinearPart"]),
    "linear NaN": (lambda: SDE(decay, linear=math.nan), ValueError, ["linear", "nan", "finite"]),
    "a linear part of another shape": (
        lambda: run(SDE(decay, linear=torch.ones(5)), method="exponential"),
        ValueError,
        ["linear", "(5,)", "(4, 3)"],
    ),
    "a linear part that widens the state": (
        lambda: run(SDE(decay, linear=torch.ones(4, 3)), y0=Y0[:1]),
        ValueError,
        ["linear", "(4, 3)", "(1, 3)"],
    ),
    "a linear part of another dtype": (
        lambda: run(SDE(decay, linear=torch.ones(3).double())),
        TypeError,
        ["linear", "float64", "float32"],
    ),
    "a linear part of nothing": (
        lambda: run(SDE(decay, linear=mlsde.LinearPart(lambda t: None, lambda t, s: 1.0, lambda t, s: 1.0))),
        TypeError,
        ["linear.rate", "None", "a number"],
    ),
}


@table(DIFFUSIONS)
def test_an_unsound_diffusion_is_refused_in_one_sentence(call, error, words):
    refused(call, error, *words)


@table(PATHS)
def test_a_path_that_does_not_fit_is_refused_in_one_sentence(call, error, words):
    refused(call, error, *words)


@table(LINEAR)
def test_a_linear_part_that_does_not_fit_is_refused_in_one_sentence(call, error, words):
    refused(call, error, *words)
