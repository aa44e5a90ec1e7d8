import math

import numpy as np
import pytest
import torch
from increments import Given
from scipy.integrate import quad

from mlsde import SDE, BrownianPath, LinearPart, solve
from mlsde.linear import as_linear_part, constant
from mlsde.problems import analytic

SPANS = [(0.0, 0.3), (0.7, 0.2), (-1.0, 1.5), (0.0, 1e-9)]


def ones(*shape):
    return torch.ones(shape, dtype=torch.float64)


# What is accepted


def test_nothing_and_a_linear_part_are_taken_as_they_are():
    part = constant(-1.0)
    assert as_linear_part(None) is None
    assert as_linear_part(part) is part


@pytest.mark.parametrize("rate", [-2, 0.0, 1.5, torch.tensor([-1.0, 2.0])])
def test_a_number_or_a_tensor_is_a_constant_rate(rate):
    part = as_linear_part(rate)
    torch.testing.assert_close(torch.as_tensor(part.rate(0.3)).float(), torch.as_tensor(rate).float())
    assert part.gain(0.3) == 1.0
    assert part.deviation is None


def test_a_function_has_no_closed_form():
    with pytest.raises(TypeError, match=r"linear must be a number, a tensor or an mlsde.LinearPart"):
        SDE(lambda t, y: y, linear=lambda t: -1.0)


# Closed forms


@pytest.mark.parametrize(("t", "s"), SPANS)
@pytest.mark.parametrize("rate", [-40.0, -1.0, -1e-10, 0.0, 1e-10, 0.8])
def test_the_closed_forms_of_a_constant_rate_are_their_integrals(rate, t, s):
    part = constant(rate)
    assert part.propagator(t, s) == pytest.approx(math.exp(rate * (s - t)), rel=1e-12)
    source, _ = quad(lambda r: math.exp(rate * (s - r)), t, s, epsabs=0, epsrel=1e-12)
    assert part.source(t, s) == pytest.approx(source, rel=1e-9)
    square, _ = quad(lambda r: math.exp(2 * rate * (s - r)) / (s - t), t, s, epsabs=0, epsrel=1e-12)
    assert part.spread(t, s) ** 2 == pytest.approx(square, rel=1e-9)


@pytest.mark.parametrize(("t", "s"), SPANS)
def test_a_tensor_of_rates_has_the_closed_forms_of_its_entries(t, s):
    rates = [-40.0, -1e-10, 0.0, 0.8]
    whole = constant(torch.tensor(rates, dtype=torch.float64))
    for name in ("propagator", "source", "spread"):
        entries = [getattr(constant(rate), name)(t, s) for rate in rates]
        torch.testing.assert_close(getattr(whole, name)(t, s), torch.tensor(entries, dtype=torch.float64))


def test_propagators_over_two_steps_multiply():
    part = constant(-1.3)
    assert part.propagator(0.2, 0.5) * part.propagator(0.5, 0.9) == pytest.approx(part.propagator(0.2, 0.9))


# Exponential Euler is exact on the linear part


@pytest.mark.parametrize("span", [(0.0, 2.0), (2.0, 0.0), (1.0, 1.5)])
@pytest.mark.parametrize("rate", [-50.0, -1.0, 0.0, 0.7])
@pytest.mark.parametrize("steps", [1, 7])
def test_a_linear_ode_is_exact_in_any_number_of_steps(rate, span, steps):
    y0 = torch.tensor([1.0, -2.0], dtype=torch.float64)
    end = solve(SDE(lambda t, y: 0 * y, linear=rate), y0, span, steps=steps, method="exponential").y1
    torch.testing.assert_close(end, y0 * math.exp(rate * (span[1] - span[0])), rtol=1e-12, atol=0)


def test_a_constant_force_is_exact_too():
    end = solve(SDE(lambda t, y: 3.0 * ones(1), linear=-1.5), ones(1), (0, 2), steps=1, method="exponential").y1
    torch.testing.assert_close(end, 2.0 + (1.0 - 2.0) * math.exp(-3.0) * ones(1))


def test_a_tensor_of_rates_solves_a_diagonal_system():
    rates = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64)
    end = solve(SDE(lambda t, y: 0 * y, linear=rates), ones(4, 3), (0, 0.5), steps=2, method="exponential").y1
    torch.testing.assert_close(end, torch.exp(0.5 * rates).expand(4, 3))


def law_of_ornstein_uhlenbeck(sde, y0, span, steps, method):
    """Mean and variance at the end, from the response to no noise and to a unit increment in one step each."""
    times = np.linspace(*span, steps + 1)
    root = abs(span[1] - span[0]) / steps
    rows = torch.cat([torch.eye(steps, dtype=torch.float64) * root**0.5, torch.zeros(1, steps, dtype=torch.float64)])
    given = Given(times, rows.T.unsqueeze(-1))
    ends = solve(sde, y0.expand(steps + 1, 1).clone(), span, steps=steps, method=method, brownian=given).y1
    return ends[-1], ((ends[:-1] - ends[-1]) ** 2).sum()


@pytest.mark.parametrize("steps", [1, 3, 10])
@pytest.mark.parametrize("rate", [1.5, 30.0, -0.5])
def test_exponential_euler_has_the_exact_law_of_an_ornstein_uhlenbeck_process(steps, rate):
    problem = analytic.ornstein_uhlenbeck(rate=rate)
    mean, variance = law_of_ornstein_uhlenbeck(problem.sde, problem.start(1), (0, 1), steps, "exponential")
    torch.testing.assert_close(mean, problem.mean(1.0), rtol=1e-12, atol=1e-12)
    expected = problem.second_moment(1.0)[0, 0] - problem.mean(1.0)[0] ** 2
    torch.testing.assert_close(variance, expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("method", ["euler", "heun"])
def test_the_other_steppers_have_not(method):
    problem = analytic.ornstein_uhlenbeck()
    mean, variance = law_of_ornstein_uhlenbeck(problem.sde, problem.start(1), (0, 1), 10, method)
    expected = problem.second_moment(1.0)[0, 0] - problem.mean(1.0)[0] ** 2
    assert abs(float(mean - problem.mean(1.0))) > 1e-4
    assert abs(float(variance - expected)) > 1e-4


def test_backwards_in_time_the_variance_grows_at_the_rate_of_the_reversed_equation():
    """From 1 to 0, ``dY = -r Y dt + s dW`` has the variance ``s^2 (e^{2r} - 1) / 2r``."""
    sde = SDE(lambda t, y: 0 * y, 0.8, linear=-1.5)
    mean, variance = law_of_ornstein_uhlenbeck(sde, 2.0 * ones(1), (1, 0), 4, "exponential")
    torch.testing.assert_close(mean, 2.0 * math.exp(1.5) * ones(1))
    torch.testing.assert_close(variance, torch.tensor(0.64 * math.expm1(3.0) / 3.0, dtype=torch.float64))


# A rate that depends on time, with the variation of constants known: the additive system of the analytic problems


def time_dependent(problem, drift, noise, deviation=True):
    def root(t):
        return math.sqrt(1 + t)

    part = LinearPart(
        rate=lambda t: -0.5 / (1 + t),
        propagator=lambda t, s: root(t) / root(s),
        source=lambda t, s: (s - t) / root(s),
        gain=lambda t: 1 / root(t),
        deviation=(lambda t, s: noise * abs(s - t) ** 0.5 / root(s)) if deviation else None,
        spread=None if deviation else lambda t, s: root(t) / root(s),
    )
    return SDE(lambda t, y: drift * torch.ones_like(y), lambda t: noise / torch.sqrt(1 + t), linear=part)


@pytest.mark.parametrize("steps", [1, 2, 9])
@pytest.mark.parametrize("deviation", [True, False])
def test_a_rate_that_depends_on_time_is_exact_on_the_path(steps, deviation):
    problem = analytic.additive_system(noise=(0.7,), drift=(0.5,))
    sde, y0 = time_dependent(problem, 0.5, 0.35, deviation), problem.start(6)
    path = BrownianPath(0, 1, like=y0, seed=3)
    end = solve(sde, y0, (0, 1), steps=steps, method="exponential", brownian=path).y1
    torch.testing.assert_close(end, problem.exact(1.0, y0, path.value(1.0)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", ["euler", "heun"])
def test_other_steppers_add_the_linear_part_to_the_drift(method):
    problem = analytic.additive_system(noise=(0.7,), drift=(0.5,))
    sde, y0 = time_dependent(problem, 0.5, 0.35), problem.start(6)
    path = BrownianPath(0, 1, like=y0, seed=3)
    ends = [solve(s, y0, (0, 1), steps=8, method=method, brownian=path).y1 for s in (sde, problem.sde)]
    torch.testing.assert_close(*ends, rtol=1e-13, atol=1e-13)


def test_milstein_adds_it_too():
    y0 = ones(5, 1)
    path = BrownianPath(0, 1, like=y0, seed=3)
    split = SDE(lambda t, y: 0.4 * y, lambda t, y: 0.5 * y, noise="diagonal", linear=-1.0)
    whole = SDE(lambda t, y: -0.6 * y, lambda t, y: 0.5 * y, noise="diagonal")
    ends = [solve(s, y0, (0, 1), steps=8, method="milstein", brownian=path).y1 for s in (split, whole)]
    torch.testing.assert_close(*ends, rtol=1e-13, atol=1e-13)


def test_every_level_of_a_ladder_has_the_linear_part():
    sde = SDE(lambda t, y: 0 * y, linear=-1.0)
    for level in (None, 1):
        end = solve(sde, ones(1), (0, 1), steps=1, method="exponential", level=level).y1
        torch.testing.assert_close(end, math.exp(-1) * ones(1))


# What it refuses


@pytest.mark.parametrize("form", ["rate", "gain", "propagator", "source", "deviation", "spread"])
def test_a_closed_form_that_would_change_the_state_is_refused_by_name(form):
    forms = {"rate": lambda t: -1.0, "propagator": lambda t, s: 1.0, "source": lambda t, s: s - t}
    wide, double = torch.ones(5, 3), torch.ones(3, dtype=torch.float64)
    for wrong, error, word in [(wide, ValueError, "broadcasts"), (double, TypeError, "float64")]:
        part = LinearPart(**forms | {form: lambda *_times, wrong=wrong: wrong})
        with pytest.raises(error, match=f"linear.{form} .*{word}"):
            solve(SDE(lambda t, y: -y, 0.1, linear=part), torch.ones(1, 3), (0, 1), steps=2, method="exponential")


@pytest.mark.parametrize(
    ("diffusion", "noise", "what"),
    [
        (lambda t, y: y, "diagonal", "depends on the state"),
        (lambda t, y: y, "scalar", "depends on the state"),
        (lambda t, y: torch.stack([y, y], dim=-1), "general", "general noise"),
        (torch.ones(3, 2), "general", "general noise"),
    ],
)
def test_a_deviation_stands_for_additive_noise_alone(diffusion, noise, what):
    part = LinearPart(lambda t: 0.0, lambda t, s: 1.0, lambda t, s: s - t, deviation=lambda t, s: 1.0)
    with pytest.raises(ValueError, match=f"{what}.*spread"):
        solve(SDE(lambda t, y: -y, diffusion, noise=noise, linear=part), torch.ones(2, 3), (0, 1), steps=2,
              method="exponential")  # fmt: skip


@pytest.mark.parametrize("rate", [-1.0, torch.tensor(-1.0, dtype=torch.float64), torch.full((3,), -1.0)])
def test_a_state_keeps_its_dtype_under_a_number_or_a_0_d_tensor(rate):
    for y0 in (torch.ones(2, 3), torch.ones(2, 3, dtype=torch.bfloat16)):
        end = solve(SDE(lambda t, y: -y, 0.1, linear=rate), y0, (0, 1), steps=2, method="exponential").y1
        assert end.dtype == y0.dtype
