"""The problems themselves: exact solutions against Itô's formula, moments against quadrature and their equations."""

import dataclasses

import pytest
import torch
from increments import gauss_hermite

from mlsde.problems import analytic
from mlsde.sde import NoiseTerm

EXACT = [
    analytic.geometric_brownian_motion(),
    analytic.geometric_brownian_motion(calculus="stratonovich"),
    analytic.cubic(),
    analytic.wave(),
    analytic.wave(amplitude=0.7),
    analytic.debrabant_roessler(),
    analytic.additive_system(),
    analytic.kubo_oscillator(),
    analytic.kubo_oscillator(calculus="ito"),
    analytic.correlated_assets(),
]
LINEAR = [
    analytic.geometric_brownian_motion(),
    analytic.kubo_oscillator(calculus="ito"),
    analytic.correlated_assets(),
    analytic.noncommuting_system(),
]
ALL = [*EXACT, analytic.ornstein_uhlenbeck(), analytic.noncommuting_system()]


def named(problems):
    return pytest.mark.parametrize("problem", problems, ids=lambda problem: problem.name)


def coefficients(problem, t, y):
    """Drift and matrix of the diffusion at one state of shape (d,)."""
    sde, state = problem.sde, y.unsqueeze(0)
    f = sde.drift.levels[-1](t, state)[0]
    if sde.linear is not None:
        f = f + sde.linear.rate(float(t)) * y
    g = NoiseTerm(sde, t, state, state.dtype).value(t, state)
    if sde.noise == "general":
        return f, g[0]
    if sde.noise == "scalar":
        return f, g[0].unsqueeze(-1)
    return f, torch.diag(torch.as_tensor(g, dtype=y.dtype).expand(state.shape)[0])


def ito_residuals(problem, t, w):
    """By how much ``u(t, w)`` misses ``u_w = g`` and, in the sense of Itô or Stratonovich, the drift."""
    y0 = torch.tensor(problem.y0, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian

    def u(t, w):
        return problem.exact(t, y0.unsqueeze(0), w.unsqueeze(0))[0]

    value = u(t, w)
    f, g = coefficients(problem, t, value)
    in_time = jacobian(lambda t: u(t, w), t).view(value.shape)
    in_noise = jacobian(lambda w: u(t, w), w)
    if problem.sde.calculus == "ito":
        curvature = jacobian(lambda w: jacobian(lambda v: u(t, v), w, create_graph=True), w)
        in_time = in_time + 0.5 * torch.diagonal(curvature, dim1=1, dim2=2).sum(-1)
    return in_time - f, in_noise - g.detach()


def motions(problem):
    y = problem.start(1)
    return NoiseTerm(problem.sde, torch.zeros((), dtype=y.dtype), y, y.dtype).shape[-1]


@named(EXACT)
def test_the_exact_solution_satisfies_the_equation_by_itos_formula(problem):
    draws = torch.Generator().manual_seed(0)
    for _ in range(5):
        t = 0.05 + torch.rand((), generator=draws, dtype=torch.float64)
        w = torch.randn(motions(problem), generator=draws, dtype=torch.float64)
        for residual in ito_residuals(problem, t, w):
            torch.testing.assert_close(residual, torch.zeros_like(residual), rtol=0, atol=1e-11)


def test_the_solution_in_one_calculus_is_not_that_of_the_other():
    ito, stratonovich = (analytic.geometric_brownian_motion(calculus=name) for name in ("ito", "stratonovich"))
    mixed = dataclasses.replace(ito, exact=stratonovich.exact)
    drift, noise = ito_residuals(mixed, torch.tensor(0.5, dtype=torch.float64), torch.ones(1, dtype=torch.float64))
    assert drift.abs().min() > 0.05
    assert noise.abs().max() < 1e-12


@named(EXACT)
def test_the_exact_solution_starts_at_the_initial_state(problem):
    y0 = problem.start(3)
    torch.testing.assert_close(problem.exact(0.0, y0, torch.zeros(3, motions(problem), dtype=y0.dtype)), y0)


@named(EXACT)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_exact_solution_keeps_the_dtype(problem, dtype):
    y0 = problem.start(2, dtype)
    assert problem.exact(0.3, y0, torch.ones(2, motions(problem), dtype=dtype)).dtype == dtype
    assert y0.dtype == dtype


@named([problem for problem in EXACT if problem.mean is not None])
def test_the_moments_are_those_of_the_exact_solution(problem):
    t, count = 0.7, motions(problem)
    nodes, weights = gauss_hermite(40 if count == 1 else 12, count, t)
    y = problem.exact(t, problem.start(len(nodes)), nodes)
    torch.testing.assert_close(weights @ y, problem.mean(t), rtol=1e-9, atol=1e-12)
    second = torch.einsum("q,qi,qj->ij", weights, y, y)
    torch.testing.assert_close(second, problem.second_moment(t), rtol=1e-9, atol=1e-12)


def rate_of(function, t, h=1e-5):
    return (function(t + h) - function(t - h)) / (2 * h)


@named(LINEAR)
@pytest.mark.parametrize("t", [0.1, 0.9])
def test_the_moments_of_linear_equations_satisfy_their_equations(problem, t):
    """``m' = f(m)`` and ``M' = E[f y^T + y f^T + g g^T]``, the mean taken over the principal axes of ``M``."""
    when = torch.tensor(t, dtype=torch.float64)
    drift, _ = coefficients(problem, when, problem.mean(t))
    torch.testing.assert_close(rate_of(problem.mean, t), drift, rtol=1e-7, atol=1e-8)
    weights, axes = torch.linalg.eigh(problem.second_moment(t))
    expected = torch.zeros_like(axes)
    for weight, axis in zip(weights, axes.T, strict=True):
        f, g = coefficients(problem, when, axis)
        expected += weight * (torch.outer(f, axis) + torch.outer(axis, f) + g @ g.T)
    torch.testing.assert_close(rate_of(problem.second_moment, t), expected, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("t", [0.1, 0.9])
def test_the_moments_of_the_ornstein_uhlenbeck_process_satisfy_their_equations(t):
    problem = analytic.ornstein_uhlenbeck(rate=1.5, level=0.5, volatility=0.8)
    mean, second = problem.mean(t), problem.second_moment(t)
    torch.testing.assert_close(rate_of(problem.mean, t), 1.5 * (0.5 - mean), rtol=1e-7, atol=1e-8)
    expected = 2 * 1.5 * (0.5 * mean - second) + 0.8**2
    torch.testing.assert_close(rate_of(problem.second_moment, t), expected, rtol=1e-7, atol=1e-8)


def test_the_noise_that_should_not_commute_does_not():
    """Noise commutes where ``(g_1 . grad) g_2 = (g_2 . grad) g_1``."""

    def bracket(problem):
        y, t = torch.tensor(problem.y0, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64)
        g = coefficients(problem, t, y)[1]
        slopes = torch.autograd.functional.jacobian(lambda y: coefficients(problem, t, y)[1], y)
        return (slopes[:, 1] @ g[:, 0] - slopes[:, 0] @ g[:, 1]).abs().max()

    assert bracket(analytic.noncommuting_system()) > 0.05
    assert bracket(analytic.correlated_assets()) < 1e-12


@named(ALL)
def test_a_batch_starts_from_copies_of_the_initial_state(problem):
    y0 = problem.start(3)
    assert y0.shape == (3, len(problem.y0))
    assert torch.equal(y0[2], torch.tensor(problem.y0, dtype=torch.float64))
    if problem.mean is not None:
        torch.testing.assert_close(problem.mean(0.0), y0[0])
        torch.testing.assert_close(problem.second_moment(0.0), torch.outer(y0[0], y0[0]))
