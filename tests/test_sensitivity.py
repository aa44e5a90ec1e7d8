"""How a drift's change at each step reaches the end: against torch's own gradients, and products of matrices."""

import math

import numpy as np
import pytest
import torch

import mlsde
from mlsde.calibration import pilot, sensitivity
from mlsde.integrate import Run

F64 = torch.float64
A = np.array([[-0.5, 2.0, 0.0], [-2.0, -0.5, 1.0], [0.3, 0.0, -1.5]])
SPREADS = np.random.default_rng(0).standard_normal((2, 3, 3)) / 2  # g_j(y) = G_j y of general noise
GRIDS = {"even": np.linspace(0.0, 1.0, 8), "uneven": np.linspace(0.2, 1.2, 8) ** 2, "backwards": np.linspace(1, 0, 8)}
SAMPLES, STEPS = 3, 7


def affine(a):
    matrix = torch.as_tensor(a, dtype=F64)
    return lambda t, y: y @ matrix.to(y).T


def noises():
    spreads = torch.as_tensor(SPREADS)
    general = lambda t, y: torch.einsum("mij,sj->sim", spreads, y)  # noqa: E731
    return {
        "ode": {},
        "additive": {"diffusion": 0.7},
        "diagonal": {"diffusion": lambda t, y: 0.8 * y, "noise": "diagonal"},
        "scalar": {"diffusion": lambda t, y: 0.8 * y, "noise": "scalar"},
        "general": {"diffusion": general, "noise": "general"},
        "linear part": {"diffusion": 0.7, "linear": -1.3},
        "linear part, ode": {"linear": -1.3},
    }


NOISES = noises()


def run_of(levels, equation, times, method="euler", seed=4, samples=SAMPLES, size=3, make=mlsde.DriftHierarchy):
    """A run on a path, its states at the start of each step, and the increments of the path."""
    sde = mlsde.SDE(make(levels, [8.0**k for k in range(len(levels))]), **equation)
    y0 = torch.as_tensor(np.random.default_rng(1).standard_normal((samples, size)))
    motions = {"general": (samples, 2), "scalar": (samples, 1)}.get(equation.get("noise"), (samples, size))
    path = None
    if "diffusion" in equation:
        path = mlsde.BrownianPath(float(times[0]), float(times[-1]), shape=motions, dtype=F64, seed=seed)
    run = Run(sde, y0, times, method, None, None, 0, path)
    states = mlsde.solve(sde, y0, times=times, method=method, brownian=path, save_at="steps").ys
    rows = [None if path is None else run.increment(n) for n in range(len(times) - 1)]
    return run, list(states[:-1]), rows


def vectors_of(count, samples=SAMPLES, size=3):
    return sensitivity.projections(torch.zeros(samples, size, dtype=F64), count, np.random.default_rng(2))


def found_by(run, states, vectors, k=0):
    """Growth, shape (N,), and ``psi``, shape (N, R, samples, d), in the order of the steps."""
    reaches = sorted(sensitivity.backwards(run, states, k, vectors), key=lambda reach: reach.step)
    assert [reach.step for reach in reaches] == list(range(len(states)))
    return np.array([reach.growth for reach in reaches]), torch.stack([reach.psi for reach in reaches]).numpy()


def step_matrices(equation, method, times, rows):
    """Of a linear drift: ``dy_{n+1}/dy_n`` and ``dy_{n+1}/df_n`` of each step and sample, shapes (N, S, d, d)."""
    one, kind = np.eye(3), equation.get("noise")
    rate = equation.get("linear", 0.0)
    state, drift = np.empty((2, len(rows), SAMPLES, 3, 3))
    for n, (h, dw) in enumerate(zip(np.diff(times), rows, strict=True)):
        a = A + rate * one
        if method == "exponential":
            source = math.expm1(rate * h) / rate
            state[n], drift[n] = math.exp(rate * h) * one + source * A, source * one
        elif method == "heun":
            state[n], drift[n] = one + h * a + 0.5 * h**2 * a @ a, h * (one + 0.5 * h * a)
        else:
            state[n], drift[n] = one + h * a, h * one
        for s in range(SAMPLES if kind else 0):
            w = dw[s].numpy()
            state[n, s] += np.einsum("m,mij->ij", w, SPREADS) if kind == "general" else 0.8 * np.diag(w * np.ones(3))
            if method == "milstein":
                state[n, s] += 0.5 * 0.8**2 * np.diag((w**2 - abs(h)) * np.ones(3))
    return state, drift


CASES = [
    *[("euler", noise) for noise in NOISES if noise != "linear part, ode"],
    ("milstein", "diagonal"), ("milstein", "scalar"),
    ("heun", "ode"), ("heun", "additive"), ("heun", "linear part, ode"), ("heun", "linear part"),
    ("exponential", "linear part"), ("exponential", "linear part, ode"),
]  # fmt: skip


def exact(equation, method, times, rows, vectors):
    """Growth and ``psi`` by products of the steps' matrices, path by path."""
    state, drift = step_matrices(equation, method, times, rows)
    carried, growth, psi = vectors.numpy(), [], []
    for n in reversed(range(len(rows))):
        growth.append((carried**2).sum(axis=-1).mean())
        psi.append(np.einsum("sij,rsi->rsj", drift[n], carried))
        carried = np.einsum("sij,rsi->rsj", state[n], carried)
    return np.array(growth[::-1]), np.array(psi[::-1])


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("method", "noise"), CASES)
def test_of_a_linear_drift_it_is_the_product_of_the_steps_matrices(method, noise, grid):
    times, vectors = GRIDS[grid], vectors_of(2)
    run, states, rows = run_of([affine(A)], NOISES[noise], times, method)
    growth, psi = found_by(run, states, vectors)
    expected_growth, expected_psi = exact(NOISES[noise], method, times, rows, vectors)
    np.testing.assert_allclose(growth, expected_growth, rtol=1e-10)
    np.testing.assert_allclose(psi, expected_psi, rtol=1e-9, atol=1e-12)
    assert growth[-1] == pytest.approx(1.0)


def test_matrices_that_forget_the_noise_or_the_second_stage_are_found_out():
    times, vectors = GRIDS["even"], vectors_of(2)
    for method, noise, other in (
        ("euler", "diagonal", ("euler", "ode")),
        ("milstein", "diagonal", ("euler", "diagonal")),
        ("heun", "ode", ("euler", "ode")),
        ("exponential", "linear part", ("euler", "linear part")),
    ):
        run, states, rows = run_of([affine(A)], NOISES[noise], times, method)
        wrong, _ = exact(NOISES[other[1]], other[0], times, rows, vectors)
        assert np.abs(found_by(run, states, vectors)[0] / wrong - 1.0).max() > 1e-3


@pytest.mark.parametrize("noise", ["ode", "diagonal"])
def test_with_all_projections_growth_is_the_frobenius_norm_of_the_rest_of_the_run_per_component(noise):
    times = GRIDS["even"]
    run, states, rows = run_of([affine(A)], NOISES[noise], times)
    growth, _ = found_by(run, states, vectors_of(3))
    state, _ = step_matrices(NOISES[noise], "euler", times, rows)
    expected = []
    for n in range(STEPS):
        rest = [np.linalg.multi_dot([np.eye(3), *state[n + 1 :, s][::-1], np.eye(3)]) for s in range(SAMPLES)]
        expected.append(np.mean([(j**2).sum() / 3 for j in rest]))
    np.testing.assert_allclose(growth, expected, rtol=1e-10)


def test_projections_are_orthonormal_for_each_sample_and_differ_between_samples():
    vectors = sensitivity.projections(torch.zeros(5, 2, 3), 6, np.random.default_rng(0))
    assert vectors.shape == (6, 5, 2, 3) and vectors.dtype == torch.float32
    flat = vectors.flatten(2)
    for s in range(5):
        torch.testing.assert_close(flat[:, s] @ flat[:, s].T, torch.eye(6))
    assert not torch.allclose(flat[:, 0], flat[:, 1])


# nonlinear drifts: torch differentiates through the whole run


def bent(t, y):
    return -torch.sin(2 * y) + 0.5 * y.roll(1, 1) * torch.cos(t)


def pushed_run(run, times, method, at=None):
    """The end of the run as a function of pushes of its drift, one for each step."""
    count = len(times) - 1
    pushes = torch.zeros(count, *run.y0.shape, dtype=F64, requires_grad=True)
    level = lambda t, y: bent(t, y) + pushes[int(np.argmin(np.abs(times[:-1] - float(t))))]  # noqa: E731
    sde = run.sde.with_drift(level)
    brownian = None if run.noise is None else lambda ta, tb: run.increment(int(np.argmin(np.abs(times - ta))))
    return mlsde.solve(sde, run.y0, times=times, method=method, brownian=brownian, gradients=True).y1, pushes


@pytest.mark.parametrize(
    ("method", "noise"), [case for case in CASES if case[0] != "heun"]
)  # whose second stage sees the push of the next step
def test_of_a_bent_drift_it_is_torchs_gradient_through_the_whole_run(method, noise):
    times, vectors = GRIDS["uneven"], vectors_of(2)
    run, states, _ = run_of([bent], NOISES[noise], times, method)
    _, psi = found_by(run, states, vectors)
    end, pushes = pushed_run(run, times, method)
    for r, vector in enumerate(vectors):
        expected = torch.autograd.grad(end, pushes, vector, retain_graph=True)[0]
        np.testing.assert_allclose(psi[:, r], expected.numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("method", "noise"), CASES)
def test_growth_is_torchs_gradient_of_the_rest_of_the_run(method, noise):
    times, vectors = GRIDS["uneven"], vectors_of(3)
    run, states, _ = run_of([bent], NOISES[noise], times, method)
    growth, _ = found_by(run, states, vectors)
    brownian = None if run.noise is None else lambda ta, tb: run.increment(int(np.argmin(np.abs(times - ta))))
    for n in (0, 3, 5):
        start = states[n + 1].clone().requires_grad_(True)
        end = mlsde.solve(run.sde, start, times=times[n + 1 :], method=method, brownian=brownian, gradients=True).y1
        squares = [
            float(torch.autograd.grad(end, start, v, retain_graph=True)[0].square().sum(1).mean()) for v in vectors
        ]
        assert growth[n] == pytest.approx(np.mean(squares), rel=1e-9)


def test_of_a_ladder_of_differences_the_sum_is_differentiated_and_not_the_last_of_them():
    parts = [affine(A), affine(0.1 * np.eye(3))]
    times, vectors = GRIDS["even"], vectors_of(3)
    run, states, _ = run_of(parts, {}, times, make=mlsde.DriftHierarchy.from_differences)
    whole, same, _ = run_of([affine(A + 0.1 * np.eye(3))], {}, times)
    found, expected = found_by(run, states, vectors, 1), found_by(whole, same, vectors)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-10)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-9, atol=1e-12)
    last, _, _ = run_of(parts[1:], {}, times)
    assert np.abs(found_by(last, states, vectors)[0] / expected[0] - 1.0).max() > 0.1
    assert run.levels.samples == [SAMPLES * STEPS * (1 + 2 * 3)] * 2


def test_each_step_is_charged_one_evaluation_and_two_for_each_product():
    run, states, _ = run_of([bent], {}, GRIDS["even"])
    list(sensitivity.backwards(run, states, 0, vectors_of(2)))
    assert run.levels.samples == [SAMPLES * STEPS * (1 + 2 * 2)]
    assert run.levels.calls == [STEPS]


# memory


class _Kept:
    """A tensor that a graph keeps, counted while it lives."""

    alive = most = 0

    def __init__(self, tensor):
        self.tensor = tensor
        _Kept.alive += 1
        _Kept.most = max(_Kept.most, _Kept.alive)

    def __del__(self):
        _Kept.alive -= 1


def most_kept(work):
    _Kept.alive = _Kept.most = 0
    with torch.autograd.graph.saved_tensors_hooks(_Kept, lambda kept: kept.tensor):
        work()
    return _Kept.most


def test_only_one_steps_graph_is_alive_however_many_steps_there_are():
    most = {}
    for steps in (6, 48):
        times = np.linspace(0.0, 1.0, steps + 1)
        run, states, _ = run_of([bent], NOISES["diagonal"], times)
        most[steps] = most_kept(
            lambda run=run, states=states: list(sensitivity.backwards(run, states, 0, vectors_of(2)))
        )
    assert most[48] == most[6] > 0


def test_while_a_gradient_through_the_run_keeps_every_steps():
    most = {}
    for steps in (6, 48):
        times = np.linspace(0.0, 1.0, steps + 1)
        run, _, _ = run_of([bent], NOISES["diagonal"], times)
        most[steps] = most_kept(lambda run=run, times=times: pushed_run(run, times, "euler")[0].sum().backward())
    assert most[48] > 6 * most[6]


# levels that hide their derivative


@torch.no_grad()
def silenced(t, y):
    return -3.0 * y


OPAQUE = {
    "torch.no_grad": silenced,
    "detach": lambda t, y: -3.0 * y.detach(),
    "numpy": mlsde.from_numpy(lambda t, y: -3.0 * y),
    "inference mode": torch.inference_mode()(lambda t, y: -3.0 * y),
}


def decay_growth(steps, rate=-3.0):
    return (1.0 + rate / steps) ** (2 * np.arange(steps)[::-1])


@pytest.mark.parametrize("level", OPAQUE.values(), ids=OPAQUE.keys())
def test_levels_that_hide_their_derivative_say_so(level):
    run, states, _ = run_of([level], {}, GRIDS["even"])
    with pytest.raises(sensitivity.OpaqueLevelError):
        list(sensitivity.backwards(run, states, 0, vectors_of(2)))


@pytest.mark.parametrize("equation", [{}, {"diffusion": 0.5}], ids=["ODE", "noise"])
@pytest.mark.parametrize("level", OPAQUE.values(), ids=OPAQUE.keys())
def test_the_pilot_perturbs_them_and_finds_the_growth_that_torch_finds(level, equation):
    y0 = torch.ones(16, 2, dtype=F64)
    found, open_one = (
        pilot.record(mlsde.SDE(mlsde.DriftHierarchy([f], [1.0]), **equation), y0, np.linspace(0.0, 1.0, 9))
        for f in (level, lambda t, y: -3.0 * y)
    )
    np.testing.assert_allclose(open_one.sensitivity, decay_growth(8), rtol=1e-10)
    np.testing.assert_allclose(found.sensitivity, decay_growth(8), rtol=1e-6)
    square, expected = (np.square(r.responses).mean(axis=0) for r in (found, open_one))
    assert np.abs(square.sum() / expected.sum() - 1.0) < 0.5


def test_a_pilot_that_took_them_for_constants_would_find_no_growth(monkeypatch):
    monkeypatch.setattr(sensitivity, "_depends", lambda *_: False)
    drift = mlsde.DriftHierarchy([silenced], [1.0])
    found = pilot.record(mlsde.SDE(drift), torch.ones(16, 2, dtype=F64), np.linspace(0.0, 1.0, 9))
    np.testing.assert_array_equal(found.sensitivity, np.ones(8))


def test_a_drift_that_does_not_depend_on_the_state_is_no_secret():
    times, vectors = GRIDS["even"], vectors_of(2)
    run, states, _ = run_of([lambda t, y: torch.cos(t) * torch.ones_like(y)], {}, times)
    growth, psi = found_by(run, states, vectors)
    np.testing.assert_allclose(growth, 1.0)
    np.testing.assert_allclose(psi, np.diff(times)[:, None, None, None] * vectors.numpy(), rtol=1e-12)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("rate", [-3.0, 2.0])
def test_perturbed_errors_of_an_even_decay_grow_as_they_should_and_psi_is_the_step_times_the_growth(rate, grid):
    times, samples = GRIDS[grid], 2 * STEPS
    vectors = vectors_of(3, samples)
    run, states, _ = run_of([affine(rate * np.eye(3))], {"diffusion": 0.3}, times, samples=samples)
    with torch.no_grad():
        reaches = sensitivity.by_perturbation(run, states, 0, vectors, np.random.default_rng(3))
    h = np.diff(times)
    expected = np.array([np.prod(1.0 + rate * h[n + 1 :]) for n in range(STEPS)])
    np.testing.assert_allclose([reach.growth for reach in reaches], expected**2, rtol=1e-6)
    psi = torch.stack([reach.psi for reach in reaches]).numpy()
    np.testing.assert_allclose(psi, (h * expected)[:, None, None, None] * vectors.numpy(), rtol=1e-6)


def test_few_samples_see_the_growth_at_few_times_and_interpolate_geometrically():
    times = np.linspace(0.0, 1.0, 17)
    run, states, _ = run_of([affine(-3.0 * np.eye(3))], {}, times, samples=2)
    with torch.no_grad():
        reaches = sensitivity.by_perturbation(run, states, 0, vectors_of(2, 2), np.random.default_rng(3))
    np.testing.assert_allclose([reach.growth for reach in reaches[3:]], decay_growth(16)[3:], rtol=1e-6)


def test_a_perturbed_step_of_the_exponential_stepper_reacts_by_what_the_linear_part_leaves_of_it():
    times = GRIDS["even"]
    run, states, _ = run_of([affine(np.zeros((3, 3)))], {"linear": -1.3}, times, "exponential", samples=2 * STEPS)
    with torch.no_grad():
        vectors = vectors_of(2, 2 * STEPS)
        reaches = sensitivity.by_perturbation(run, states, 0, vectors, np.random.default_rng(3))
    h = 1.0 / STEPS
    expected = math.expm1(-1.3 * h) / -1.3 * np.exp(-1.3 * h * np.arange(STEPS)[::-1])
    psi = torch.stack([reach.psi for reach in reaches]).numpy()
    np.testing.assert_allclose(psi, expected[:, None, None, None] * vectors.numpy(), rtol=1e-6)


def test_perturbation_of_a_ladder_of_differences_follows_the_sum():
    times, samples = GRIDS["even"], 2 * STEPS
    parts = [affine(-3.0 * np.eye(3)), affine(0.1 * np.eye(3))]
    run, states, _ = run_of(parts, {}, times, samples=samples, make=mlsde.DriftHierarchy.from_differences)
    with torch.no_grad():
        reaches = sensitivity.by_perturbation(run, states, 1, vectors_of(2, samples), np.random.default_rng(3))
    np.testing.assert_allclose([reach.growth for reach in reaches], decay_growth(STEPS, -2.9), rtol=1e-6)
