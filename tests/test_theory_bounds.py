"""Bounds for nonlinear drifts by enumeration; the limit of short steps; and the first-order prediction."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from test_theory import constant_difference, lipschitz_of, problems, rate_of, squared_errors, worst_variance
from torch import Tensor

import mlsde
from mlsde import theory
from mlsde.problems.linear import LinearProblem, multilevel_moments

EXACT = settings(deadline=None, max_examples=25)
numbers = st.floats(-2, 2, allow_subnormal=False)


@dataclass(frozen=True)
class Sines:
    """``f^k(y) = A_k sin(B_k y + c_k) + d_k`` and the diagonal diffusion ``amplitude sin(frequency y)``."""

    outer: Tensor  # (K, d, d)
    inner: Tensor  # (K, d, d)
    phases: Tensor  # (K, d)
    offsets: Tensor  # (K, d)
    amplitude: float = 0.0
    frequency: float = 1.0

    def drift(self):
        def level(k):
            return lambda t, y: torch.sin(y @ self.inner[k].T + self.phases[k]) @ self.outer[k].T + self.offsets[k]

        return mlsde.DriftHierarchy([level(k) for k in range(len(self.outer))])

    def sde(self):
        return mlsde.SDE(self.drift(), lambda t, y: self.amplitude * torch.sin(self.frequency * y), noise="diagonal")

    @property
    def lipschitz(self):
        """Of the top level: the sine has slopes of at most 1."""
        return float(torch.linalg.matrix_norm(self.outer[-1], 2) * torch.linalg.matrix_norm(self.inner[-1], 2))

    @property
    def diffusion_lipschitz(self):
        """In the Frobenius norm: ``sum_i (g(x_i) - g(y_i))^2 <= (amplitude frequency)^2 |x - y|^2``."""
        return abs(self.amplitude * self.frequency)


@st.composite
def sines(draw, noisy):
    d = draw(st.integers(1, 2))
    shapes = ((d, d), (d, d), (d,), (d,))
    drawn = [torch.as_tensor(draw(arrays(np.float64, (2, *shape), elements=numbers))) for shape in shapes]
    amplitude, frequency = (draw(st.floats(0.1, 2)), draw(st.floats(0.1, 3))) if noisy else (0.0, 1.0)
    y0 = torch.as_tensor(draw(arrays(np.float64, d, elements=numbers)))
    return Sines(*drawn, amplitude, frequency), y0, [draw(st.floats(0.1, 1)) for _ in range(2)]


@EXACT
@given(data=st.data(), h=st.floats(0.01, 1))
@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("coin", ["independent", "nested"])
def test_the_bound_holds_on_enumerated_runs_of_random_nonlinear_drifts(coin, noisy, data, h):
    problem, y0, p = data.draw(sines(noisy))
    rule = mlsde.Multilevel(mlsde.Constant(p), coins=coin, correction="impulse", share="sample")
    sde, motions = (problem.sde(), len(y0)) if noisy else (mlsde.SDE(problem.drift()), 0)
    errors, runs = squared_errors(sde, y0, h * np.arange(4), rule, motions)
    variance = worst_variance(runs, problem, coin)
    for n in (1, 2, 3):
        bound = theory.mse_bound(h, n, problem.lipschitz, variance, problem.diffusion_lipschitz)
        assert float(errors[n]) <= bound * (1 + 1e-9) + 1e-12


# A sine of long waves, of slope 1.5, and a constant difference; the noise is a sine of long waves, of slope 1.2.
WAVE = torch.tensor([[[1e-3]], [[1e-3]]], dtype=torch.float64)
NEARLY_LINEAR = Sines(
    torch.full((2, 1, 1), 1500.0).double(), WAVE, torch.zeros(2, 1), torch.tensor([[1.0], [0.0]]), 1200.0, 1e-3
)
WRONG = {
    "half": lambda h, n, lip, s, spread: theory.mse_bound(h, n, lip, s, spread) / 2,
    "one step less": lambda h, n, lip, s, spread: theory.mse_bound(h, n - 1, lip, s, spread),
    "additive noise": lambda h, n, lip, s, spread: theory.mse_bound(h, n, lip, s),
    "slope of the sine alone": lambda h, n, lip, s, spread: theory.mse_bound(h, n, lip / 1500.0, s, spread),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_bounds_for_nonlinear_drifts_are_exceeded(name):
    h, steps = 0.25, 4
    rule = mlsde.Multilevel(mlsde.Constant([1.0, 0.2]), coins="independent", correction="impulse", share="sample")
    start = torch.ones(1).double()
    errors, runs = squared_errors(NEARLY_LINEAR.sde(), start, h * np.arange(steps + 1), rule, motions=1)
    variance = worst_variance(runs, NEARLY_LINEAR, "independent")
    numbers = h, steps, NEARLY_LINEAR.lipschitz, variance
    right = theory.mse_bound(*numbers, NEARLY_LINEAR.diffusion_lipschitz)
    assert 0.99 * right < float(errors[-1]) <= right
    assert float(errors[-1]) > 1.05 * WRONG[name](*numbers, NEARLY_LINEAR.diffusion_lipschitz)


def intensity(rates, variances, h):
    """``S`` of independent impulses with ``p = min(1, rate h)``."""
    return sum((1 / min(1.0, rate * h) - 1) * v for rate, v in zip(rates, variances, strict=True))


@EXACT
@given(
    rates=st.lists(st.floats(0.1, 100), min_size=2, max_size=2),
    variances=st.lists(st.floats(0, 10), min_size=2, max_size=2),
    steps=st.integers(1, 1000),
    lipschitz=st.floats(0, 3),
    spread=st.floats(0, 2),
)
def test_the_poisson_bound_is_above_that_of_every_step(rates, variances, steps, lipschitz, spread):
    bound = theory.poisson_mse_bound(1.0, rates, variances, lipschitz, spread)
    stepped = theory.mse_bound(1.0 / steps, steps, lipschitz, intensity(rates, variances, 1.0 / steps), spread)
    assert stepped <= bound * (1 + 1e-9)


LIMITS = {
    "limit": theory.poisson_mse_bound,
    "L_g for L_g^2": lambda t, rates, v, lip, spread: theory.poisson_mse_bound(t, rates, v, lip, math.sqrt(spread)),
    "L for 2 L": lambda t, rates, v, lip, spread: theory.poisson_mse_bound(t, rates, v, lip / 2, spread),
    "one level": lambda t, rates, v, lip, spread: theory.poisson_mse_bound(t, rates[:1], v[:1], lip, spread),
    "rate for its inverse": lambda t, rates, v, *more: theory.poisson_mse_bound(t, 1 / np.array(rates), v, *more),
}


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize(("lipschitz", "spread"), [(0.7, 1.2), (0.7, 0.3)])
def test_the_bound_tends_to_the_poisson_bound_as_the_step_shrinks(name, lipschitz, spread):
    """At the rate of the step: a tenth of the step, a tenth of the distance."""
    rates, variances, duration = [5.0, 2.0], [3.0, 0.5], 2.0
    limit = LIMITS[name](duration, rates, variances, lipschitz, spread)
    distances = []
    for steps in (10_000, 100_000):
        h = duration / steps
        stepped = theory.mse_bound(h, steps, lipschitz, intensity(rates, variances, h), spread)
        distances.append(abs(stepped / limit - 1))
    assert (distances[0] < 1e-2 and 9 < distances[0] / distances[1] < 11) == (name == "limit")


def test_the_contractive_bound_tends_to_its_poisson_bound():
    rates, variances, rate, lipschitz = [5.0, math.inf, 2.0], [3.0, 7.0, 0.5], 1.2, 3.0
    limit = theory.contractive_poisson_mse_bound(rates, variances, rate)
    assert limit == pytest.approx((3 / 5 + 0.5 / 2) / 2.4)
    for h in (1e-4, 1e-6):
        stepped = theory.contractive_mse_bound(h, rate, lipschitz, intensity(rates, variances, h))
        assert abs(stepped / limit - 1) < 20 * h


def test_the_poisson_bound_without_growth_and_beyond_all_floats():
    assert theory.poisson_mse_bound(3.0, [2.0, math.inf], [4.0, 9.0], 0.0) == 6.0
    assert theory.poisson_mse_bound(3.0, [math.inf], [9.0], 1.0) == 0.0
    assert theory.poisson_mse_bound(1e3, [1.0], [1.0], 1.0) == math.inf
    assert theory.poisson_mse_bound(1.0, [1.0], [1.0], 1e-9) == pytest.approx(1.0)


@pytest.mark.parametrize("tiny", [5e-324, 1e-310, 1e-200])
def test_a_growth_too_small_for_full_precision_is_none(tiny):
    """Quotients of subnormal numbers are wrong by a factor."""
    assert theory.mse_bound(0.125, 8, tiny, 3.0) == pytest.approx(8 * 0.125**2 * 3.0, rel=1e-15)
    assert theory.mse_bound(0.125, 8, 0.0, 3.0, tiny) == pytest.approx(8 * 0.125**2 * 3.0, rel=1e-15)
    assert theory.poisson_mse_bound(0.125, [2.0], [3.0], tiny) == pytest.approx(0.125 * 1.5, rel=1e-15)


def level_variances(problem, moments):
    """``E|D_k|^2`` at each state of a run, shape (N + 1, K): ``tr(a M a^T) + 2 b . a m + |b|^2``."""
    a = torch.diff(problem.matrices, dim=0, prepend=torch.zeros_like(problem.matrices[:1]))
    b = torch.diff(problem.offsets, dim=0, prepend=torch.zeros_like(problem.offsets[:1]))
    squares = torch.einsum("kij,njl,kil->nk", a, moments.second, a)
    return (squares + 2 * torch.einsum("ki,kij,nj->nk", b, a, moments.mean) + b.square().sum(dim=1)).numpy()


@EXACT
@given(drawn=problems(), rates=st.lists(st.floats(0.5, 20), min_size=2, max_size=2), steps=st.integers(20, 60))
def test_the_poisson_bound_holds_for_the_exact_moments_of_linear_drifts(drawn, rates, steps):
    problem, y0, _ = drawn
    p = [min(1.0, rate / steps) for rate in rates]
    moments = multilevel_moments(problem, y0, np.linspace(0.0, 1.0, steps + 1), p)
    variances = level_variances(problem, moments).max(axis=0)
    bound = theory.poisson_mse_bound(1.0, rates, variances, lipschitz_of(problem))
    assert float(moments.squared_error[-1]) <= bound * (1 + 1e-9) + 1e-12


@EXACT
@given(drawn=problems(contracting=True), rates=st.lists(st.floats(0.5, 20), min_size=2, max_size=2))
def test_the_contractive_poisson_bound_holds_up_to_the_step(drawn, rates):
    """Exact moments over a long run; a short step leaves ``1 - h L^2 / (2 mu)`` of the denominator."""
    problem, y0, _ = drawn
    rate, lipschitz = rate_of(problem), lipschitz_of(problem)
    h = 0.02 * min(2 * rate / lipschitz**2, 1 / max(rates))
    moments = multilevel_moments(problem, y0, h * np.arange(201), [speed * h for speed in rates])
    variances = level_variances(problem, moments).max(axis=0)
    bound = theory.contractive_poisson_mse_bound(rates, variances, rate) / 0.98
    assert float(moments.squared_error.max()) <= bound * (1 + 1e-9) + 1e-12


def test_the_poisson_bounds_are_reached_so_that_half_of_them_would_be_exceeded():
    """An expanding, or contracting, drift and a constant difference, as the step shrinks."""
    start, rates = torch.ones(1).double(), [math.inf, 3.0]
    for slope, duration in ((1.5, 1.0), (-1.2, 4.0)):
        steps = 4000
        p = [1.0, 3.0 * duration / steps]
        moments = multilevel_moments(constant_difference(slope), start, np.linspace(0, duration, steps + 1), p)
        error = float(moments.squared_error[-1])
        bound = (
            theory.poisson_mse_bound(duration, rates, [9.0, 1.0], slope)
            if slope > 0
            else theory.contractive_poisson_mse_bound(rates, [9.0, 1.0], -slope)
        )
        assert 0.99 * bound < error < bound * (1.0 if slope > 0 else 1.01)


@st.composite
def scalar_runs(draw):
    """A linear ladder in one dimension, a grid of unequal steps, either way in time, and a table."""
    levels, steps = draw(st.integers(1, 3)), draw(st.integers(1, 6))
    matrices = torch.as_tensor(draw(arrays(np.float64, (levels, 1, 1), elements=numbers)))
    offsets = torch.as_tensor(draw(arrays(np.float64, (levels, 1), elements=numbers)))
    problem = LinearProblem(matrices, offsets, torch.tensor([[0.7]], dtype=torch.float64))
    times = np.cumsum([0.0, *draw(arrays(np.float64, steps, elements=st.floats(0.05, 0.5)))])
    table = draw(arrays(np.float64, (steps, levels), elements=st.floats(0.1, 1)))
    return problem, draw(st.sampled_from([times, times[::-1].copy()])), table


def prediction(problem, times, table, sensitivity_from=1, power=2):
    """The first-order prediction with exact variances, and the exact error."""
    moments = multilevel_moments(problem, torch.tensor([1.5]).double(), times, table)
    h, slope = np.diff(times), float(problem.matrices[-1])
    growth = (1 + h * slope) ** power
    w = np.array([growth[n + sensitivity_from :].prod() for n in range(len(h))])
    variances = level_variances(problem, moments)[:-1]
    return theory.predicted_mse(times, variances, table, w), float(moments.squared_error[-1])


@EXACT
@given(drawn=scalar_runs())
def test_the_prediction_is_exact_for_linear_drifts_in_one_dimension(drawn):
    predicted, exact = prediction(*drawn)
    assert predicted == pytest.approx(exact, rel=1e-8, abs=1e-12)


def test_wrong_predictions_are_found_out():
    problem = LinearProblem(*(torch.tensor(v).double() for v in ([[[1.0]], [[1.5]]], [[0.0], [1.0]], [[0.7]])))
    times, table = np.array([0.0, 0.2, 0.3, 0.7]), np.array([[1.0, 0.5], [0.5, 0.25], [0.5, 0.5]])
    right, exact = prediction(problem, times, table)
    assert right == pytest.approx(exact, rel=1e-12)
    assert prediction(problem, times, table, sensitivity_from=0)[0] != pytest.approx(exact, rel=0.1)
    assert prediction(problem, times, table, power=1)[0] != pytest.approx(exact, rel=0.1)


def test_the_prediction_by_hand_with_rows_and_tables():
    """Steps 0.5 and 0.25; ``(1/p - 1) V`` is 1 * 3 + 3 * 2 = 9 at both."""
    times, variances, p = [0.0, 0.5, 0.75], [3.0, 2.0], [0.5, 0.25]
    assert theory.predicted_mse(times, variances, p) == 9 * (0.25 + 0.0625)
    assert theory.predicted_mse(times, [variances] * 2, p, [2.0, 1.0]) == 9 * (0.5 + 0.0625)
    assert theory.predicted_mse(times, variances, [p, [1.0, 1.0]]) == 9 * 0.25
    assert theory.predicted_mse(times[::-1], variances, p) == 9 * (0.25 + 0.0625)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: theory.poisson_mse_bound(0.0, [1.0], [1.0], 1.0), ValueError, "duration must be above zero"),
        (lambda: theory.poisson_mse_bound(1.0, [0.0], [1.0], 1.0), ValueError, "rates must be above zero"),
        (lambda: theory.poisson_mse_bound(1.0, [math.nan], [1.0], 1.0), ValueError, "rates must be above zero"),
        (lambda: theory.poisson_mse_bound(1.0, [1.0, 2.0], [1.0], 1.0), ValueError, r"rates has shape \(2,\), exp"),
        (lambda: theory.poisson_mse_bound(1.0, [1.0], [-1.0], 1.0), ValueError, "variances must not be negative"),
        (lambda: theory.poisson_mse_bound(1.0, [1.0], [1.0], -1.0), ValueError, "lipschitz must not be negative"),
        (lambda: theory.poisson_mse_bound(1.0, [1.0], [1.0], 1.0, -1), ValueError, "diffusion_lipschitz must not"),
        (lambda: theory.contractive_poisson_mse_bound([1.0], [1.0], 0.0), ValueError, "rate must be above zero"),
        (lambda: theory.predicted_mse([0, 1], [1.0], [0.5], coins="nested"), ValueError, "coins='nested' cannot be"),
        (lambda: theory.predicted_mse([0, 1], [1.0], [0.0]), ValueError, "probabilities must be above zero"),
        (lambda: theory.predicted_mse([0, 1], [1.0], [0.5, 1.0]), ValueError, r"probabilities has shape \(2,\)"),
        (lambda: theory.predicted_mse([0, 1], [[1.0]] * 2, [0.5]), ValueError, r"variances has shape \(2, 1\)"),
        (lambda: theory.predicted_mse([0, 1], [-1.0], [0.5]), ValueError, "variances must be finite and not neg"),
        (lambda: theory.predicted_mse([0, 1], [1.0], [0.5], [1.0, 1.0]), ValueError, "sensitivity holds 2 values"),
        (lambda: theory.predicted_mse([0, 0], [1.0], [0.5]), ValueError, "times must give strictly"),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
