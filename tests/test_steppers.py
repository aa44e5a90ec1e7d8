import itertools

import numpy as np
import pytest
import torch
from increments import Given

from mlsde import SDE, BrownianPath, Constant, DriftHierarchy, Multilevel, PowerLaw, solve
from mlsde.problems import analytic
from mlsde.steppers import METHODS, compatible

SHAPES = [(4,), (4, 3), (4, 2, 3, 4)]
H = 0.1


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def f(t, y):
    return torch.cos(y) - t * y


def g(t, y):
    return 0.3 * torch.sin(y) + 0.5 * t + 1.0


def slope_of_g(t, y):
    return 0.3 * torch.cos(y)


def g_of_time(t):
    return 0.5 * t + 1.0


def one_step(sde, y, dw, method, t=0.2, h=H, **options):
    given = Given([t], dw.unsqueeze(0)) if dw is not None else None
    return solve(sde, y, (t, t + h), steps=1, method=method, brownian=given, **options).y1


def dw_for(shape, noise="diagonal"):
    shape = {"scalar": (4, *[1] * (len(shape) - 1)), "general": (4, 3)}.get(noise, shape)
    return H**0.5 * normal(*shape, seed=1)


# Each step against its formula


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("noise", ["diagonal", "scalar"])
def test_a_step_of_euler_maruyama_is_its_formula(noise, shape):
    y, dw = normal(*shape), dw_for(shape, noise)
    expected = y + H * f(0.2, y) + g(0.2, y) * dw
    torch.testing.assert_close(one_step(SDE(f, g, noise=noise), y, dw, "euler"), expected)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("calculus", "subtracted"), [("ito", H), ("stratonovich", 0.0)])
def test_a_step_of_milstein_on_diagonal_noise_is_its_formula(calculus, subtracted, shape):
    y, dw = normal(*shape), dw_for(shape)
    expected = y + H * f(0.2, y) + g(0.2, y) * dw + 0.5 * g(0.2, y) * slope_of_g(0.2, y) * (dw**2 - subtracted)
    torch.testing.assert_close(one_step(SDE(f, g, noise="diagonal", calculus=calculus), y, dw, "milstein"), expected)


@pytest.mark.parametrize(("calculus", "subtracted"), [("ito", H), ("stratonovich", 0.0)])
def test_milstein_on_scalar_noise_takes_the_derivative_of_g_along_g(calculus, subtracted):
    """For ``g = B y`` that is ``B B y``, and not ``B^T B y``."""
    matrix = torch.tensor([[0.1, -0.8], [0.5, 0.3]], dtype=torch.float64)
    y, dw = normal(4, 2), dw_for((4, 2), "scalar")
    sde = SDE(f, lambda t, y: y @ matrix.T, noise="scalar", calculus=calculus)
    along = y @ (matrix @ matrix).T
    expected = y + H * f(0.2, y) + (y @ matrix.T) * dw + 0.5 * along * (dw**2 - subtracted)
    torch.testing.assert_close(one_step(sde, y, dw, "milstein"), expected)


def test_a_step_of_milstein_backwards_subtracts_the_length_of_the_step():
    y, dw = normal(4, 3), dw_for((4, 3))
    expected = y - H * f(0.2, y) + g(0.2, y) * dw + 0.5 * g(0.2, y) * slope_of_g(0.2, y) * (dw**2 - H)
    torch.testing.assert_close(one_step(SDE(f, g, noise="diagonal"), y, dw, "milstein", h=-H), expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_step_of_heun_on_an_ode_is_the_trapezoidal_rule_with_a_predictor(shape):
    y = normal(*shape)
    expected = y + 0.5 * H * (f(0.2, y) + f(0.3, y + H * f(0.2, y)))
    torch.testing.assert_close(one_step(SDE(f), y, None, "heun"), expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_step_of_heun_on_additive_noise_is_its_formula(shape):
    y, dw = normal(*shape), dw_for(shape)
    predicted = y + H * f(0.2, y) + g_of_time(0.2) * dw
    expected = y + 0.5 * H * (f(0.2, y) + f(0.3, predicted)) + 0.5 * (g_of_time(0.2) + g_of_time(0.3)) * dw
    torch.testing.assert_close(one_step(SDE(f, g_of_time), y, dw, "heun"), expected)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("noise", ["diagonal", "scalar", "general"])
def test_a_step_of_heun_in_the_sense_of_stratonovich_averages_the_noise_of_both_ends(noise, shape):
    def matrix(t, y):
        return torch.stack([g(t, y), torch.cos(y), y * t], dim=-1)

    def noise_of(t, y):
        if noise != "general":
            return g(t, y) * dw
        return (matrix(t, y) * dw.view(4, *[1] * (len(shape) - 1), 3)).sum(-1)

    y, dw = normal(*shape), dw_for(shape, noise)
    sde = SDE(f, matrix if noise == "general" else g, noise=noise, calculus="stratonovich")
    predicted = y + H * f(0.2, y) + noise_of(0.2, y)
    expected = y + 0.5 * H * (f(0.2, y) + f(0.3, predicted)) + 0.5 * (noise_of(0.2, y) + noise_of(0.3, predicted))
    torch.testing.assert_close(one_step(sde, y, dw, "heun"), expected)


@pytest.mark.parametrize("noise", ["additive", "diagonal"])
def test_a_step_of_exponential_euler_holds_the_force_over_the_step(noise):
    y, dw, rate = normal(4, 3), dw_for((4, 3)), -3.0
    diffusion = g_of_time if noise == "additive" else g
    value = g_of_time(0.2) if noise == "additive" else g(0.2, y)
    grown, held = np.exp(rate * H), np.expm1(rate * H) / rate
    spread = (np.expm1(2 * rate * H) / (2 * rate * H)) ** 0.5
    expected = grown * y + held * f(0.2, y) + spread * value * dw
    torch.testing.assert_close(one_step(SDE(f, diffusion, noise=noise, linear=rate), y, dw, "exponential"), expected)


# Each stepper with levels, ladders, grids and directions

EQUATIONS = {
    "euler": lambda drift: SDE(drift, g, noise="diagonal"),
    "milstein": lambda drift: SDE(drift, g, noise="diagonal"),
    "heun": lambda drift: SDE(drift, g, noise="diagonal", calculus="stratonovich"),
    "exponential": lambda drift: SDE(drift, g, noise="diagonal", linear=-1.0),
}
LEVELS = [lambda t, y: -y, lambda t, y: -torch.sin(y), f]
LADDER = DriftHierarchy(LEVELS, costs=[1.0, 10.0, 100.0])
every_method = pytest.mark.parametrize("method", sorted(METHODS))


def run(method, drift=LADDER, y0=None, t_span=(0.0, 1.0), **options):
    options.setdefault("times", np.linspace(*t_span, 21) ** 2 if "steps" not in options else None)
    return solve(EQUATIONS[method](drift), normal(4, 3) if y0 is None else y0, t_span, method=method, seed=4, **options)


@every_method
@pytest.mark.parametrize("level", [1, 2, 3])
def test_a_single_level_is_the_equation_with_that_drift(method, level):
    alone = run(method, drift=LEVELS[level - 1])
    chosen = run(method, level=level)
    assert torch.equal(chosen.y1, alone.y1)
    assert [count > 0 for count in chosen.stats.calls] == [k == level for k in (1, 2, 3)]


@every_method
def test_a_level_chosen_by_time_stitches_the_levels(method):
    path = BrownianPath(0, 1, shape=(4, 3), dtype=torch.float64, seed=2)
    stitched = run(method, level=lambda t: 1 if t < 0.49 else 3, steps=10, brownian=path)
    first = run(method, level=1, steps=5, t_span=(0.0, 0.5), brownian=path)
    second = run(method, level=3, times=np.linspace(0, 1, 11)[5:], t_span=(0.5, 1.0), y0=first.y1, brownian=path)
    assert torch.equal(stitched.y1, second.y1)
    assert stitched.stats.calls == tuple(n * METHODS[method].stages for n in (5, 0, 5))


@every_method
@pytest.mark.parametrize("correction", ["hold", "extrapolate"])
@pytest.mark.parametrize("coins", ["systematic", "periodic"])
def test_certain_levels_are_the_top_level_bit_for_bit(method, correction, coins):
    certain = run(method, multilevel=Multilevel(Constant([1.0, 1.0, 1.0]), coins=coins, correction=correction))
    assert torch.equal(certain.y1, run(method).y1)
    assert certain.stats.calls == run(method).stats.calls


@every_method
@pytest.mark.parametrize("correction", ["hold", "extrapolate"])
@pytest.mark.parametrize("share", ["batch", "sample"])
def test_levels_that_differ_by_a_constant_need_not_be_asked_again(method, correction, share):
    """What is remembered is then exact, so a rare top level gives the answer of one that is always called."""
    ladder = DriftHierarchy([lambda t, y: f(t, y) - 2.0, lambda t, y: f(t, y) + 1.0, f], costs=[1.0, 10.0, 100.0])
    multilevel = Multilevel(Constant([1.0, 0.3, 0.1]), correction=correction, share=share)
    rare = run(method, drift=ladder, multilevel=multilevel)
    torch.testing.assert_close(rare.y1, run(method).y1, rtol=1e-12, atol=1e-12)
    assert rare.stats.evaluations[2] <= 4 * METHODS[method].stages


@every_method
@pytest.mark.parametrize("share", ["batch", "sample"])
def test_levels_that_differ_by_a_line_in_time_are_extrapolated_exactly_but_not_held(method, share):
    ladder = DriftHierarchy([lambda t, y: f(t, y) - 3.0 * t, f], costs=[1.0, 10.0])

    def twice_and_then_rarely(t):
        return [1.0, 1.0 if t < 0.075 else 0.2]

    def error(correction):
        multilevel = Multilevel(twice_and_then_rarely, coins="periodic", correction=correction, share=share)
        rare, full = (run(method, drift=d, multilevel=m, steps=20) for d, m in ((ladder, multilevel), (f, None)))
        return float((rare.y1 - full.y1).abs().max())

    assert error("extrapolate") < 1e-12
    assert error("hold") > 0.05


@every_method
@pytest.mark.parametrize("shape", SHAPES)
def test_every_stepper_takes_states_of_any_shape(method, shape):
    noise = BrownianPath(0, 1, shape=shape, dtype=torch.float64, seed=2)
    shaped = run(method, y0=normal(*shape), steps=6, brownian=noise).y1
    row = run(method, y0=normal(*shape).view(4, -1), steps=6, brownian=lambda a, b: noise(a, b).view(4, -1)).y1
    assert shaped.shape == shape
    torch.testing.assert_close(shaped.view(4, -1), row)


@every_method
def test_an_even_explicit_grid_is_the_same_as_steps(method):
    assert torch.equal(run(method, times=np.linspace(0, 1, 11)).y1, run(method, steps=10).y1)


@every_method
def test_a_grid_in_two_parts_is_the_grid_run_through(method):
    times = [0.0, 0.05, 0.3, 0.4, 0.7, 1.0]
    path = BrownianPath(0, 1, shape=(4, 3), dtype=torch.float64, seed=2)
    whole = run(method, times=times, brownian=path)
    first = run(method, times=times[:4], t_span=(0.0, 0.4), brownian=path)
    second = run(method, times=times[3:], t_span=(0.4, 1.0), y0=first.y1, brownian=path)
    assert torch.equal(second.y1, whole.y1)


# Backwards in time


def there_and_back(sde, method, steps=400, seed=0):
    y0 = normal(4, 3)
    path = BrownianPath(0, 1, shape=(4, 3), dtype=torch.float64, seed=seed, grids=(steps,))
    there = solve(sde, y0, (0, 1), steps=steps, method=method, brownian=path).y1
    back = solve(sde, there, (1, 0), steps=steps, method=method, brownian=path).y1
    assert (there - y0).abs().max() > 0.2
    return float((back - y0).abs().max())


@pytest.mark.parametrize(("method", "tolerance"), [("euler", 0.02), ("heun", 1e-4), ("exponential", 0.02)])
def test_an_ode_solved_forwards_and_then_backwards_returns(method, tolerance):
    assert there_and_back(SDE(f, linear=-1.0), method) < tolerance


@pytest.mark.parametrize("method", ["euler", "heun", "exponential"])
def test_so_does_an_equation_with_additive_noise_on_the_same_path(method):
    assert there_and_back(SDE(f, g_of_time, linear=-0.5), method) < 0.02


@pytest.mark.parametrize("method", ["milstein", "heun"])
def test_and_a_stratonovich_equation_while_an_ito_equation_does_not(method):
    assert there_and_back(SDE(f, g, noise="diagonal", calculus="stratonovich"), method) < 0.02
    assert there_and_back(SDE(f, g, noise="diagonal"), "milstein") > 0.1


def test_without_drift_and_backwards_the_state_gains_the_increment_of_the_path():
    path = BrownianPath(0, 1, shape=(4, 3), dtype=torch.float64, seed=2)
    y0 = torch.zeros(4, 3, dtype=torch.float64)
    end = solve(SDE(lambda t, y: 0 * y, 0.7), y0, (1, 0.25), steps=12, brownian=path).y1
    torch.testing.assert_close(end, 0.7 * path(1, 0.25))


# What makes no mathematical sense


def general(t, y):
    return torch.stack([y, y], dim=-1)


IMPULSE, HOLD = (Multilevel(PowerLaw(2.5), correction=name) for name in ("impulse", "hold"))
CONTROL = Multilevel(PowerLaw(2.5), correction="control")
STRATONOVICH = {"noise": "diagonal", "calculus": "stratonovich"}
REFUSED = {
    "Heun on an Itô equation": ("heun", SDE(f, g, noise="diagonal"), None, "method='euler' .or 'milstein'"),
    "Heun on Itô scalar noise": ("heun", SDE(f, g, noise="scalar"), None, "calculus='stratonovich'"),
    "Heun on Itô general noise": ("heun", SDE(f, general, noise="general"), None, "method='euler'"),
    "impulses in Heun": ("heun", SDE(LADDER, 0.5), IMPULSE, "correction='hold' or 'extrapolate'"),
    "control variates in Heun": ("heun", SDE(LADDER), CONTROL, "correction='hold' or 'extrapolate'"),
    "Milstein on an ODE": ("milstein", SDE(f), None, "an ODE; use method='euler', which is the same there"),
    "Milstein on additive noise": ("milstein", SDE(f, 0.5), None, "additive noise; use method='euler', which is the"),
    "Milstein on diagonal noise of time": (
        "milstein", SDE(f, g_of_time, noise="diagonal"), None, "additive noise; use method='euler', which is the same",
    ),
    "Milstein on general noise": ("milstein", SDE(f, general, noise="general"), None, "use method='euler'."),
    "Milstein on general Stratonovich noise": (
        "milstein", SDE(f, general, noise="general", calculus="stratonovich"), None, "use method='heun'.",
    ),
    "exponential without a linear part": ("exponential", SDE(f, 0.5), None, r"SDE\(..., linear=...\)"),
    "Euler on a Stratonovich equation": ("euler", SDE(f, g, **STRATONOVICH), None, "use method='heun'"),
    "exponential on a Stratonovich equation": (
        "exponential", SDE(f, g, linear=-1.0, **STRATONOVICH), None, "use method='heun'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_combination_that_makes_no_sense_is_refused_with_the_method_and_the_mends(case):
    method, sde, multilevel, mends = REFUSED[case]
    with pytest.raises(ValueError, match=mends) as refusal:
        solve(sde, torch.ones(2, 3), (0, 1), steps=2, method=method, multilevel=multilevel)
    assert f"method={method!r}" in str(refusal.value)


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("noise", [None, "additive", "diagonal", "scalar", "general"])
@pytest.mark.parametrize("calculus", ["ito", "stratonovich"])
def test_what_is_not_refused_runs_and_what_a_refusal_recommends_is_not_refused(method, noise, calculus):
    diffusion = {None: None, "additive": 0.5, "general": general}.get(noise, g)
    sde = SDE(f, diffusion, noise=noise, calculus=calculus, linear=-1.0)
    for multilevel in (None, IMPULSE, HOLD):
        try:
            compatible(method, sde, multilevel)
        except ValueError as error:
            named = [name for name in METHODS if f"method={name!r}" in str(error).split(";")[-1]]
            for name in named:
                compatible(name, sde, None)
        else:
            ladder = SDE(LADDER, diffusion, noise=noise, calculus=calculus, linear=-1.0)
            options = {"method": method, "multilevel": multilevel, "steps": 3}
            assert solve(ladder, torch.ones(2, 3), (0, 1), **options).success


def test_an_unknown_method_is_refused_with_the_list():
    with pytest.raises(ValueError, match="'euler', 'milstein', 'heun', 'exponential'"):
        solve(SDE(f), torch.ones(2), (0, 1), steps=2, method="rk4")


MIXED = {
    "by turns": lambda t, y: y.flip(-1),
    "by the mean of the components": lambda t, y: y * y.mean(-1, keepdim=True),
    "by the mean over samples": lambda t, y: y + y.mean(0, keepdim=True),
    "a little": lambda t, y: y + 0.01 * y.roll(1, -1),
    "through a matrix": lambda t, y: y @ torch.tensor([[1.0, 0.1, 0], [0, 1, 0], [0, 0, 1]], dtype=y.dtype),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("how", "zero"), [*itertools.product(MIXED, [False]), ("by turns", True), ("a little", True)])
def test_milstein_refuses_diagonal_noise_whose_components_mix(how, zero, dtype):
    """Even from a state at which ``g`` vanishes."""
    y0 = torch.zeros(4, 3, dtype=dtype) if zero else normal(4, 3).to(dtype)
    with pytest.raises(ValueError, match=r"needs each g_i to depend on y_i alone.*use method='euler'"):
        solve(SDE(f, MIXED[how], noise="diagonal"), y0, (0, 1), steps=2, method="milstein")


def test_it_recommends_heun_where_the_equation_is_stratonovich():
    sde = SDE(f, MIXED["by turns"], noise="diagonal", calculus="stratonovich")
    with pytest.raises(ValueError, match="use method='heun'"):
        solve(sde, normal(4, 3), (0, 1), steps=2, method="milstein")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "unmixed", [g, lambda t, y: torch.ones_like(y), lambda t, y: y * torch.arange(y.shape[-1]).to(y)]
)
def test_milstein_takes_diagonal_noise_that_does_not_mix(unmixed, shape, dtype):
    sde = SDE(f, unmixed, noise="diagonal")
    assert solve(sde, normal(*shape).to(dtype), (0, 1), steps=3, method="milstein").success


def test_milstein_takes_scalar_noise_that_mixes():
    problem = analytic.kubo_oscillator(calculus="ito")
    assert solve(problem.sde, problem.start(3), (0, 1), steps=3, method="milstein").success


def test_milstein_with_a_diffusion_that_happens_to_be_constant_is_euler():
    sde = SDE(f, lambda t, y: torch.full_like(y, 0.5), noise="diagonal")
    ends = [solve(sde, normal(4, 3), (0, 1), steps=5, method=method).y1 for method in ("milstein", "euler")]
    torch.testing.assert_close(*ends)


# Gradients


@every_method
def test_gradients_flow_through_every_stepper(method):
    def end(theta):
        sde = EQUATIONS[method](DriftHierarchy([lambda t, y: -y, lambda t, y: f(t, theta * y)], costs=[1.0, 10.0]))
        multilevel = Multilevel(Constant([1.0, 0.5]), correction="hold")
        options = {"method": method, "multilevel": multilevel, "gradients": True, "steps": 8, "seed": 1}
        return solve(sde, normal(4, 3), (0, 1), **options).y1.sum()

    theta = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    end(theta).backward()
    with torch.no_grad():
        expected = (end(theta + 1e-5) - end(theta - 1e-5)) / 2e-5
    torch.testing.assert_close(theta.grad, expected, rtol=1e-7, atol=1e-9)
