"""Orders of convergence: strong ones on one path at every number of steps, weak ones from exact moments.

The strong errors are means over a fixed sample, so their slopes have a statistical error, of about 0.03 here; a slope
must come within 0.15 of theory. Nothing in the weak orders is random.
"""

import dataclasses

import numpy as np
import pytest
import torch
from increments import Given, gauss_hermite

from mlsde import SDE, BrownianPath, Constant, DriftHierarchy, Multilevel, solve, steppers
from mlsde.problems import analytic
from mlsde.sde import NoiseTerm

STEPS = (32, 64, 128, 256, 512)
TOLERANCE = 0.15
SAMPLES = 1000


def slope(steps, errors):
    return -float(np.polyfit(np.log(steps), np.log(errors), 1)[0])


def path_of(problem, y0, seed=0):
    shape = NoiseTerm(problem.sde, torch.zeros((), dtype=y0.dtype), y0, y0.dtype).shape
    return BrownianPath(*problem.t_span, shape=shape, dtype=y0.dtype, seed=seed, grids=(1,))


def strong_errors(problem, method, steps=STEPS, samples=SAMPLES):
    """Root mean square errors at the end, on the same paths at every number of steps."""
    y0 = problem.start(samples)
    path, end = path_of(problem, y0), problem.t_span[1]
    if problem.exact is None:
        expected = solve(problem.sde, y0, problem.t_span, steps=16 * max(steps), method="heun", brownian=path).y1
    else:
        expected = problem.exact(end, y0, path.value(end))
    errors = []
    for n in steps:
        y = solve(problem.sde, y0, problem.t_span, steps=n, method=method, brownian=path).y1
        errors.append(float(((y - expected) ** 2).mean().sqrt()))
    return errors


def strong_order(problem, method):
    return slope(STEPS, strong_errors(problem, method))


def until(end, problem):
    return dataclasses.replace(problem, t_span=(0.0, end))


def in_the_sense_of_stratonovich(problem, drift):
    sde = SDE(drift, problem.sde.diffusion, noise=problem.sde.noise, calculus="stratonovich")
    return dataclasses.replace(problem, sde=sde, name=f"{problem.name}, stratonovich")


def mislabelled(problem):
    """The same coefficients, read in the other calculus, with the solution of the first."""
    return in_the_sense_of_stratonovich(problem, problem.sde.drift)


def named(problems):
    return pytest.mark.parametrize("problem", problems, ids=lambda problem: problem.name)


ITO = [
    analytic.geometric_brownian_motion(growth=0.5, volatility=0.6),
    analytic.cubic(),
    analytic.wave(amplitude=0.5),
    until(0.25, analytic.debrabant_roessler()),
    analytic.kubo_oscillator(frequency=0.2, strength=0.8, calculus="ito"),
]
ASSETS = analytic.correlated_assets()
STRATONOVICH = [
    analytic.geometric_brownian_motion(growth=0.5, volatility=0.6, calculus="stratonovich"),
    analytic.kubo_oscillator(frequency=0.2, strength=0.8),
    in_the_sense_of_stratonovich(analytic.cubic(), lambda t, y: 0 * y),
    in_the_sense_of_stratonovich(analytic.wave(amplitude=0.5), lambda t, y: 0 * y),
    until(0.25, in_the_sense_of_stratonovich(analytic.debrabant_roessler(), lambda t, y: torch.sqrt(y * y + 1))),
]
DRIVEN_ASSETS = in_the_sense_of_stratonovich(ASSETS, lambda t, y: torch.tensor([0.43, -0.545]).to(y) * y)
ADDITIVE = [
    analytic.additive_system(noise=(0.7, 0.3), drift=(0.5, 1.0)),
    analytic.ornstein_uhlenbeck(),
    analytic.Problem("pendulum with additive noise", SDE(lambda t, y: -2 * torch.sin(y), 0.5), (1.5,)),
    analytic.Problem("noise that grows", SDE(lambda t, y: torch.cos(3 * y), lambda t: 0.2 + t), (0.5,)),
]


# Strong orders


@named([*ITO, ASSETS])
def test_euler_maruyama_has_strong_order_one_half(problem):
    assert strong_order(problem, "euler") == pytest.approx(0.5, abs=TOLERANCE)


@named(ADDITIVE)
def test_with_additive_noise_it_has_strong_order_one(problem):
    assert strong_order(problem, "euler") == pytest.approx(1.0, abs=TOLERANCE)


@named([*ITO, *STRATONOVICH[:2]])
def test_milstein_has_strong_order_one(problem):
    assert strong_order(problem, "milstein") == pytest.approx(1.0, abs=TOLERANCE)


@named([*STRATONOVICH, DRIVEN_ASSETS])
def test_heun_has_strong_order_one_in_the_sense_of_stratonovich(problem):
    assert strong_order(problem, "heun") == pytest.approx(1.0, abs=TOLERANCE)


@named(ADDITIVE[1:])
def test_heun_has_strong_order_one_with_additive_noise(problem):
    """On the additive system, whose solution depends on the end of the path alone, it even has order two."""
    assert strong_order(problem, "heun") == pytest.approx(1.0, abs=TOLERANCE)


def test_exponential_euler_has_the_orders_of_euler_maruyama():
    oscillator = analytic.ornstein_uhlenbeck()
    half = analytic.geometric_brownian_motion(growth=-1.0, volatility=0.6)
    sde = SDE(lambda t, y: y, half.sde.diffusion, noise="diagonal", linear=-2.0)
    assert strong_order(dataclasses.replace(half, sde=sde), "exponential") == pytest.approx(0.5, abs=TOLERANCE)
    assert strong_order(oscillator, "exponential") == pytest.approx(1.0, abs=TOLERANCE)


# Wrong twins, which the measure above must see


@named(ITO)
def test_milstein_without_its_correction_misses_order_one(problem):
    assert strong_order(problem, "euler") < 1.0 - TOLERANCE


def wrong_milstein(half=0.5, subtract=1.0, sign=1.0):
    def make(equation):
        g = equation.noise

        def step(n, step, y, dw):
            value, slope = steppers._value_and_slope(g, step.t, y)
            square = dw * dw - subtract * abs(step.h)
            return y + step.h * equation.f(n, step, y) + value * dw + sign * half * slope * square

        return step

    return make


@pytest.mark.parametrize(
    ("wrong", "right"),
    [({}, True), ({"half": 1.0}, False), ({"subtract": 0.0}, False), ({"sign": -1.0}, False), ({"half": 0.45}, False)],
)
def test_a_milstein_scheme_with_a_wrong_term_misses_its_order(wrong, right, monkeypatch):
    monkeypatch.setitem(steppers.METHODS, "milstein", steppers.Method(wrong_milstein(**wrong), 1))
    problem = analytic.wave(amplitude=1.0)
    errors = strong_errors(problem, "milstein", STEPS)
    assert (abs(slope(STEPS, errors) - 1.0) < TOLERANCE) is right


@pytest.mark.parametrize(("problem", "method"), [*((problem, "heun") for problem in ITO), (ITO[0], "milstein")])
def test_an_ito_equation_read_in_the_sense_of_stratonovich_goes_to_another_limit(problem, method):
    errors = strong_errors(mislabelled(problem), method, (32, 256))
    assert errors[1] > 0.7 * errors[0]
    assert errors[1] > 20 * strong_errors(problem, "milstein", (256,))[0]


def test_a_path_that_is_not_the_same_at_every_number_of_steps_shows_no_order():
    problem = analytic.geometric_brownian_motion()
    y0 = problem.start(SAMPLES)
    path = path_of(problem, y0)
    expected = problem.exact(1.0, y0, path.value(1.0))
    ends = [solve(problem.sde, y0, (0, 1), steps=n, seed=0).y1 for n in (32, 512)]
    errors = [float(((y - expected) ** 2).mean().sqrt()) for y in ends]
    assert errors[1] > 0.7 * errors[0]


# Ordinary differential equations


def ode_errors(drift, method, steps, **options):
    """Errors on ``y' = -t y^2``, whose solution from 1 is ``1 / (1 + t^2 / 2)``."""
    y0 = torch.ones(1, dtype=torch.float64)
    return [abs(float(solve(SDE(drift), y0, (0, 2), steps=n, method=method, **options).y1) - 1 / 3) for n in steps]


def decay(t, y):
    return -t * y * y


@pytest.mark.parametrize(("method", "order"), [("euler", 1.0), ("heun", 2.0)])
def test_on_an_ode_euler_has_order_one_and_heun_two(method, order):
    assert slope(STEPS, ode_errors(decay, method, STEPS)) == pytest.approx(order, abs=0.05)


@pytest.mark.parametrize("span", [(0.0, 2.0), (2.0, 0.0)])
def test_heun_has_order_two_backwards_and_on_uneven_grids(span):
    errors = []
    for n in STEPS:
        times = span[0] + (span[1] - span[0]) * np.linspace(0, 1, n + 1) ** 2
        exact = {t: 1 / (1 + t * t / 2) for t in span}
        y0 = torch.tensor([exact[span[0]]], dtype=torch.float64)
        y = solve(SDE(decay), y0, times=times, method="heun").y1
        errors.append(abs(float(y) - exact[span[1]]))
    assert slope(STEPS, errors) == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize(("correction", "order"), [("hold", 1.0), ("extrapolate", 2.0)])
def test_a_ladder_under_heun_keeps_order_two_if_extrapolated_and_one_if_held(correction, order):
    """The top level is asked at one step in four, whatever their number."""
    ladder = DriftHierarchy([lambda t, y: decay(t, y) - 0.3 * torch.cos(t + y), decay], costs=[1.0, 100.0])
    multilevel = Multilevel(Constant([1.0, 0.25]), coins="periodic", correction=correction)
    errors = ode_errors(ladder, "heun", STEPS, multilevel=multilevel)
    assert slope(STEPS, errors) == pytest.approx(order, abs=TOLERANCE)


# Weak orders, without Monte Carlo: for a linear equation a step is a random matrix, whose moments a quadrature gives


def moment_maps(problem, method, h):
    """Exact maps of one step of length ``h`` on the mean and on the second moment, the latter read row by row."""
    size = len(problem.y0)
    shape = NoiseTerm(problem.sde, torch.zeros((), dtype=torch.float64), problem.start(1), torch.float64).shape
    nodes, weights = gauss_hermite(4, shape[1], h)
    start = torch.eye(size, dtype=torch.float64).repeat(len(nodes), 1)
    given = Given([0.0], nodes.repeat_interleave(size, dim=0).unsqueeze(0))
    end = solve(problem.sde, start, (0, h), steps=1, method=method, brownian=given).y1
    matrices = end.view(len(nodes), size, size).transpose(1, 2)
    squares = torch.stack([torch.kron(m, m) for m in matrices])
    return torch.einsum("q,qij->ij", weights, matrices), torch.einsum("q,qij->ij", weights, squares)


def moments_after(problem, method, steps):
    y0 = torch.tensor(problem.y0, dtype=torch.float64)
    mean_map, square_map = moment_maps(problem, method, problem.t_span[1] / steps)
    mean = torch.linalg.matrix_power(mean_map, steps) @ y0
    second = torch.linalg.matrix_power(square_map, steps) @ torch.outer(y0, y0).flatten()
    return mean, second.view(len(y0), len(y0))


def weak_errors(problem, method, steps=STEPS):
    end, errors = problem.t_span[1], []
    for n in steps:
        mean, second = moments_after(problem, method, n)
        errors.append([float((mean - problem.mean(end)).norm()), float((second - problem.second_moment(end)).norm())])
    return np.array(errors).T


LINEAR = [
    analytic.geometric_brownian_motion(),
    analytic.kubo_oscillator(calculus="ito"),
    analytic.correlated_assets(),
    analytic.noncommuting_system(),
]


@named(LINEAR)
def test_euler_maruyama_has_weak_order_one(problem):
    for errors in weak_errors(problem, "euler"):
        assert slope(STEPS, errors) == pytest.approx(1.0, abs=TOLERANCE)


@named(LINEAR[:2])
def test_milstein_has_weak_order_one(problem):
    for errors in weak_errors(problem, "milstein"):
        assert slope(STEPS, errors) == pytest.approx(1.0, abs=TOLERANCE)


@named([analytic.geometric_brownian_motion(calculus="stratonovich"), analytic.kubo_oscillator(), DRIVEN_ASSETS])
def test_heun_has_weak_order_one_in_the_sense_of_stratonovich(problem):
    for errors in weak_errors(problem, "heun"):
        assert slope(STEPS, errors) > 1.0 - TOLERANCE


@named(LINEAR)
def test_read_in_the_sense_of_stratonovich_it_has_other_moments(problem):
    assert (weak_errors(mislabelled(problem), "heun", (512,)) > 10 * weak_errors(problem, "euler", (512,))).any()


def test_the_moments_of_euler_maruyama_are_those_of_its_recursion():
    """``E Y_n = (1 + h a)^n y_0`` and ``E Y_n^2 = ((1 + h a)^2 + h b^2)^n y_0^2``."""
    problem = analytic.geometric_brownian_motion(growth=0.7, volatility=0.4, y0=2.0)
    mean, second = moments_after(problem, "euler", 10)
    assert float(mean) == pytest.approx(1.07**10 * 2, rel=1e-12)
    assert float(second) == pytest.approx((1.07**2 + 0.1 * 0.16) ** 10 * 4, rel=1e-12)


@named(LINEAR)
def test_the_moments_of_a_run_are_those_of_its_steps(problem):
    """All sequences of two-point increments, exact to degree three, through three real steps."""
    y0, end = problem.start(1), problem.t_span[1]
    count = NoiseTerm(problem.sde, torch.zeros((), dtype=torch.float64), y0, torch.float64).shape[1]
    nodes, weights = gauss_hermite(2, count, end / 3)
    index = torch.cartesian_prod(*[torch.arange(len(nodes))] * 3)
    given = Given([0.0, end / 3, 2 * end / 3], nodes[index].transpose(0, 1))
    y = solve(problem.sde, problem.start(len(index)), problem.t_span, steps=3, brownian=given).y1
    chances = weights[index].prod(dim=1)
    mean, second = moments_after(problem, "euler", 3)
    torch.testing.assert_close(chances @ y, mean, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(torch.einsum("q,qi,qj->ij", chances, y, y), second, rtol=1e-12, atol=1e-13)


def test_euler_has_weak_order_one_on_an_ornstein_uhlenbeck_process():
    """Mean and variance from the recursion, which the responses to no noise and to one unit increment confirm."""
    problem = analytic.ornstein_uhlenbeck(rate=1.5, level=0.5, volatility=0.8, y0=2.0)
    errors = []
    for n in STEPS:
        a = 1 - 1.5 / n
        mean, variance = 0.5 + 1.5 * a**n, 0.64 / n * (1 - a ** (2 * n)) / (1 - a**2)
        exact = problem.second_moment(1.0)[0, 0] - problem.mean(1.0)[0] ** 2
        errors.append([abs(mean - float(problem.mean(1.0))), abs(variance - float(exact))])
        given = Given(np.linspace(0, 1, n + 1), torch.eye(n + 1, dtype=torch.float64)[:n].unsqueeze(-1) / n**0.5)
        ends = solve(problem.sde, problem.start(n + 1), (0, 1), steps=n, brownian=given).y1
        assert float(ends[-1]) == pytest.approx(mean, rel=1e-10)
        assert float(((ends[:-1] - ends[-1]) ** 2).sum()) == pytest.approx(variance, rel=1e-10)
    for row in np.array(errors).T:
        assert slope(STEPS, row) == pytest.approx(1.0, abs=TOLERANCE)
