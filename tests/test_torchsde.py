"""torchsde as an oracle: fed the same increments, both packages take the same steps, to rounding."""

import numpy as np
import pytest
import torch
from increments import Given

import mlsde
from mlsde import SDE, BrownianPath, solve
from mlsde.problems import analytic

torchsde = pytest.importorskip("torchsde")

BATCH, SIZE, MOTIONS, STEPS = 6, 3, 4, 32  # a power of two: torchsde adds up its times


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Theirs(torch.nn.Module):
    """A torchsde object of each noise type; every g depends on the state where its type allows it."""

    def __init__(self, noise_type, sde_type):
        super().__init__()
        self.noise_type, self.sde_type = noise_type, sde_type
        self.weights = torch.nn.Parameter(normal(SIZE, MOTIONS, seed=1))

    def f(self, t, y):
        return torch.sin(y) - t * y

    def g(self, t, y):
        if self.noise_type == "diagonal":
            return 0.5 + 0.3 * torch.cos(y + t)
        if self.noise_type == "additive":
            return ((1 + t) * self.weights).expand(len(y), SIZE, MOTIONS)
        if self.noise_type == "scalar":
            return 0.4 * torch.sin(y + t).unsqueeze(-1)
        return torch.sin(y).unsqueeze(-1) * self.weights + 0.2 * y.roll(1, -1).unsqueeze(-1)


def columns(noise_type):
    return {"diagonal": SIZE, "scalar": 1}.get(noise_type, MOTIONS)


def increments(noise_type, dtype=torch.float64):
    times = np.linspace(0, 1, STEPS + 1)
    return Given(times, STEPS**-0.5 * normal(STEPS, BATCH, columns(noise_type), seed=2).to(dtype))


def both(theirs, bm, method, y0=None, ours=None, **options):
    y0 = normal(BATCH, SIZE) if y0 is None else y0
    with torch.no_grad():
        expected = torchsde.sdeint(theirs, y0, [0.0, 1.0], bm=bm, method=method, dt=1 / STEPS, options=options)[-1]
    sde = SDE.from_torchsde(theirs) if ours is None else ours
    return solve(sde, y0, (0, 1), steps=STEPS, method=method, brownian=bm).y1, expected


@pytest.mark.parametrize("noise_type", ["diagonal", "additive", "scalar", "general"])
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float64, 1e-13), (torch.float32, 2e-6)])
def test_euler_agrees_on_every_noise_type(noise_type, dtype, rounding):
    theirs = Theirs(noise_type, "ito").to(dtype)
    ends = both(theirs, increments(noise_type, dtype), "euler", y0=normal(BATCH, SIZE).to(dtype))
    torch.testing.assert_close(*ends, rtol=rounding, atol=rounding)
    assert ends[0].dtype == dtype


@pytest.mark.parametrize("sde_type", ["ito", "stratonovich"])
@pytest.mark.parametrize("noise_type", ["diagonal", "scalar"])
def test_milstein_agrees_on_diagonal_noise_and_on_scalar_noise_that_does_not_mix(noise_type, sde_type):
    ends = both(Theirs(noise_type, sde_type), increments(noise_type), "milstein")
    torch.testing.assert_close(*ends, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("noise_type", ["diagonal", "additive", "scalar", "general"])
def test_heun_agrees_on_every_stratonovich_equation(noise_type):
    ends = both(Theirs(noise_type, "stratonovich"), increments(noise_type), "heun")
    torch.testing.assert_close(*ends, rtol=1e-13, atol=1e-13)


def test_another_scheme_does_not_agree():
    """The comparison would see Euler in place of Milstein, and another number of steps."""
    theirs, bm = Theirs("diagonal", "ito"), increments("diagonal")
    euler, milstein = (both(theirs, bm, method)[0] for method in ("euler", "milstein"))
    assert (euler - milstein).abs().max() > 1e-3


class Kubo:
    """Scalar noise that mixes the components: a rotation, whose Jacobian is not symmetric."""

    noise_type, sde_type = "scalar", "ito"
    problem = analytic.kubo_oscillator(frequency=0.2, strength=0.8, calculus="ito")

    def f(self, t, y):
        return self.problem.sde.drift.levels[0](t, y)

    def g(self, t, y):
        return self.problem.sde.diffusion(t, y).unsqueeze(-1)


def test_where_scalar_noise_mixes_torchsde_needs_its_derivative_free_milstein():
    """Its other one multiplies by the transposed Jacobian (torchsde 0.2.6): ours is the one near the solution."""
    problem, theirs, y0 = Kubo.problem, Kubo(), Kubo.problem.start(BATCH)
    bm = increments("scalar")
    exact = problem.exact(1.0, y0, bm.rows.sum(0))
    ours, transposed = both(theirs, bm, "milstein", y0=y0)
    _, derivative_free = both(theirs, bm, "milstein", y0=y0, grad_free=True)
    errors = [float((y - exact).norm()) for y in (ours, derivative_free, transposed)]
    assert errors[0] < 0.1
    assert errors[1] < 0.2
    assert errors[2] > 0.3


class Ladder(Theirs):
    """A torchsde object whose ``f`` is a list of methods, the cheapest first."""

    def __init__(self, noise_type):
        super().__init__(noise_type, "ito")
        self.f = [self.coarse, self.fine]

    def coarse(self, t, y):
        return -y

    def fine(self, t, y):
        return Theirs.f(self, t, y)


@pytest.mark.parametrize("noise_type", ["diagonal", "additive", "scalar", "general"])
def test_of_a_list_of_drifts_the_top_level_is_used(noise_type):
    ladder = SDE.from_torchsde(Ladder(noise_type), costs=[1.0, 10.0])
    assert len(ladder.drift) == 2
    ends = both(Theirs(noise_type, "ito"), increments(noise_type), "euler", ours=ladder)
    torch.testing.assert_close(*ends, rtol=1e-13, atol=1e-13)


# Brownian motions pass in both directions


def test_our_path_drives_torchsde():
    theirs, path = Theirs("general", "ito"), BrownianPath(0, 1, shape=(BATCH, MOTIONS), dtype=torch.float64, seed=3)
    torch.testing.assert_close(*both(theirs, path, "euler"), rtol=1e-13, atol=1e-13)


def test_our_path_is_the_same_at_every_step_of_torchsde():
    problem = analytic.geometric_brownian_motion(growth=0.5, volatility=0.4)
    theirs = Theirs("diagonal", "ito")
    theirs.f, theirs.g = problem.sde.drift.levels[0], problem.sde.diffusion
    path = BrownianPath(0, 1, shape=(200, 1), dtype=torch.float64, seed=3, grids=(1,))
    exact = problem.exact(1.0, problem.start(200), path.value(1.0))
    errors = []
    for steps in (16, 256):
        y = torchsde.sdeint(theirs, problem.start(200), [0.0, 1.0], bm=path, method="milstein", dt=1 / steps)[-1]
        errors.append(float((y.detach() - exact).norm()))
    assert errors[1] < 0.1 * errors[0]


@pytest.mark.parametrize("noise_type", ["diagonal", "additive", "scalar", "general"])
def test_torchsdes_brownian_motion_drives_a_solve(noise_type):
    size = (BATCH, columns(noise_type))
    bm = torchsde.BrownianInterval(0.0, 1.0, size=size, dtype=torch.float64, entropy=7)
    torch.testing.assert_close(*both(Theirs(noise_type, "ito"), bm, "euler"), rtol=1e-13, atol=1e-13)


def test_gradients_reach_the_parameters_of_a_torchsde_object():
    theirs, bm, y0 = Theirs("general", "ito"), increments("general"), normal(BATCH, SIZE)
    torchsde.sdeint(theirs, y0, [0.0, 1.0], bm=bm, method="euler", dt=1 / STEPS)[-1].sum().backward()
    expected, theirs.weights.grad = theirs.weights.grad, None
    solve(SDE.from_torchsde(theirs), y0, (0, 1), steps=STEPS, brownian=bm, gradients=True).y1.sum().backward()
    torch.testing.assert_close(theirs.weights.grad, expected, rtol=1e-12, atol=1e-12)


def test_torchsde_paths_serve_backwards_in_time_too():
    """They know forward times alone, so the increment is asked for forwards and turned around."""
    bm = torchsde.BrownianInterval(0.0, 1.0, size=(3, 2), entropy=0, dtype=torch.float64)
    sde, y0 = mlsde.SDE(lambda t, y: torch.zeros_like(y), diffusion=1.0), torch.zeros(3, 2, dtype=torch.float64)
    there = mlsde.solve(sde, y0, (0, 1), steps=10, brownian=bm).y1
    back = mlsde.solve(sde, there, (1, 0), steps=7, brownian=bm).y1
    torch.testing.assert_close(back, y0, rtol=0, atol=1e-12)
