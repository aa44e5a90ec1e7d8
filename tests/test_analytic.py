"""The problems themselves: exact solutions against Itô's formula, moments against quadrature and their equations."""

import dataclasses

import numpy as np
import pytest
import torch
from increments import gauss_hermite

import mlsde
from mlsde.problems import analytic
from mlsde.problems.linear import LinearProblem, euler_moments
from mlsde.sde import NoiseTerm

EXACT = [
    analytic.geometric_brownian_motion(),
    analytic.geometric_brownian_motion(calculus="stratonovich"),
    analytic.geometric_brownian_motion(y0=(0.5, 1.0)),
    analytic.cubic(),
    analytic.wave(),
    analytic.wave(amplitude=0.7),
    analytic.debrabant_roessler(),
    analytic.additive_system(),
    analytic.kubo_oscillator(),
    analytic.kubo_oscillator(calculus="ito"),
    analytic.correlated_assets(),
    analytic.linear_ode(),
]
LINEAR = [
    analytic.geometric_brownian_motion(),
    analytic.kubo_oscillator(calculus="ito"),
    analytic.correlated_assets(),
    analytic.noncommuting_system(),
    analytic.linear_ode(),
    analytic.linear_system(),
    analytic.langevin_harmonic(),
]
ALL = [*EXACT, analytic.ornstein_uhlenbeck(), *LINEAR[3:]]


def named(problems):
    return pytest.mark.parametrize("problem", problems, ids=lambda problem: problem.name)


def coefficients(problem, t, y):
    """Drift and matrix of the diffusion at one state of shape (d,); for an ODE that of one motion, which is 0."""
    sde, state = problem.sde, y.unsqueeze(0)
    f = sde.drift.levels[-1](t, state)[0]
    if sde.linear is not None:
        f = f + sde.linear.rate(float(t)) * y
    if sde.is_ode:
        return f, torch.zeros(len(y), 1, dtype=y.dtype)
    g = NoiseTerm(sde, t, state, state.dtype).value(t, state)
    if sde.noise == "general":
        return f, g.expand(1, len(y), -1)[0]
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
    if problem.sde.is_ode:
        return 1
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


def moment_residuals(problem, t):
    """By how much the moments miss ``m' = f(m)`` and ``M' = E[f y^T + y f^T + g g^T]``, drifts being linear.

    Means over the state are taken over the principal axes of ``M``; additive noise does not need any.
    """
    when = torch.tensor(t, dtype=torch.float64)
    drift, noise = coefficients(problem, when, problem.mean(t))
    weights, axes = torch.linalg.eigh(problem.second_moment(t))
    expected = noise @ noise.T if problem.sde.additive else torch.zeros_like(axes)
    for weight, axis in zip(weights, axes.T, strict=True):
        f, g = coefficients(problem, when, axis)
        expected = expected + weight * (torch.outer(f, axis) + torch.outer(axis, f))
        expected = expected if problem.sde.additive else expected + weight * g @ g.T
    return rate_of(problem.mean, t) - drift, rate_of(problem.second_moment, t) - expected


@named(LINEAR)
@pytest.mark.parametrize("t", [0.1, 0.9])
def test_the_moments_of_linear_equations_satisfy_their_equations(problem, t):
    for residual in moment_residuals(problem, t):
        torch.testing.assert_close(residual, torch.zeros_like(residual), rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (analytic.langevin_harmonic(), analytic.langevin_harmonic(temperature=0.51)),
        (analytic.langevin_harmonic(), analytic.langevin_harmonic(friction=1.01)),
        (analytic.noncommuting_system(), analytic.linear_ode([[-1.0, 0.5], [0.2, -0.6]], y0=(1.0, -0.5))),
    ],
)
def test_moments_of_another_equation_are_found_out(right, wrong):
    mixed = dataclasses.replace(right, second_moment=wrong.second_moment)
    mean, second = moment_residuals(mixed, 0.5)
    assert mean.abs().max() < 1e-7
    assert second.abs().max() > 1e-3


@pytest.mark.parametrize("t", [0.1, 0.9])
def test_the_moments_of_the_ornstein_uhlenbeck_process_satisfy_their_equations(t):
    problem = analytic.ornstein_uhlenbeck(rate=1.5, level=0.5, volatility=0.8)
    mean, second = problem.mean(t), problem.second_moment(t)
    torch.testing.assert_close(rate_of(problem.mean, t), 1.5 * (0.5 - mean), rtol=1e-7, atol=1e-8)
    expected = 2 * 1.5 * (0.5 * mean - second) + 0.8**2
    torch.testing.assert_close(rate_of(problem.second_moment, t), expected, rtol=1e-7, atol=1e-8)


def test_the_linear_ode_is_not_normal_turns_and_decays():
    eye = torch.eye(4, dtype=torch.float64)
    a = analytic.linear_ode().sde.drift.levels[0](torch.tensor(0.0), eye).T
    assert float(torch.linalg.matrix_norm(a, 2)) == pytest.approx(2.512, abs=1e-3)
    assert (a @ a.T - a.T @ a).abs().max() > 0.5
    found = torch.linalg.eigvals(a)
    torch.testing.assert_close(found.real.sort().values, torch.tensor([-1.0, -1.0, -0.5, -0.5], dtype=torch.float64))
    torch.testing.assert_close(found.imag.sort().values, torch.tensor([-2.0, -1.5, 1.5, 2.0], dtype=torch.float64))


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("heun", 2)])
def test_runs_of_the_linear_ode_converge_to_its_solution_at_the_order_of_the_method(method, order):
    problem = analytic.linear_ode()
    exact = problem.exact(1.0, problem.start(1), torch.zeros(1, 1))
    errors = [
        float((mlsde.solve(problem.sde, problem.start(1), (0, 1), steps=n, method=method).y1 - exact).norm())
        for n in (64, 128)
    ]
    assert errors[0] / errors[1] == pytest.approx(2.0**order, rel=0.03)
    assert 0.5 < 64**order * errors[0] < 5.0  # an error constant of order 1


def test_the_law_of_the_langevin_motion_tends_to_that_of_gibbs():
    problem = analytic.langevin_harmonic(frequency=2.0, friction=1.0, temperature=0.5)
    torch.testing.assert_close(problem.mean(40.0), torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-8)
    gibbs = torch.diag(torch.tensor([0.5 / 4.0, 0.5], dtype=torch.float64))
    torch.testing.assert_close(problem.second_moment(40.0), gibbs, rtol=0, atol=1e-8)


@pytest.mark.parametrize("moment", ["mean", "second"])
def test_the_weak_error_of_euler_maruyama_on_the_langevin_motion_is_of_first_order(moment):
    """Exact recursions of the scheme against exact moments of the equation: no Monte Carlo."""

    def errors(problem, truth):
        eye, t = torch.eye(2, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64)
        a = problem.sde.drift.levels[0](t, eye).T
        same = LinearProblem(a[None], torch.zeros(1, 2, dtype=torch.float64), problem.sde.diffusion(t))
        exact = truth.mean(1.0) if moment == "mean" else truth.second_moment(1.0)
        for steps in (64, 128, 256):
            found = euler_moments(same, torch.tensor(problem.y0, dtype=torch.float64), np.linspace(0, 1, steps + 1))
            yield float((getattr(found, moment)[-1] - exact).norm())

    problem = analytic.langevin_harmonic()
    coarse, middle, fine = errors(problem, problem)
    assert coarse / middle == pytest.approx(2.0, abs=0.1)
    assert middle / fine == pytest.approx(2.0, abs=0.05)
    coarse, middle, fine = errors(problem, analytic.langevin_harmonic(friction=1.05))
    assert middle / fine < 1.8


def test_a_run_of_the_langevin_motion_takes_one_motion_a_sample():
    problem = analytic.langevin_harmonic()
    y0 = problem.start(2)
    path = mlsde.BrownianPath(0.0, 1.0, shape=(2, 1), dtype=y0.dtype, seed=0)
    done = mlsde.solve(problem.sde, y0, (0.0, 1.0), steps=1, brownian=path)
    kick = torch.cat([torch.zeros(2, 1), path(0.0, 1.0)], dim=1)  # sqrt(2 friction temperature) is 1
    torch.testing.assert_close(done.y1, y0 + torch.tensor([0.0, -4.0]) + kick)


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
