"""Objects and Brownian motions of torchsde serve here, and ours serve there: on one path to rounding."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused, table
from test_torchsde import BATCH, MOTIONS, SIZE, STEPS, Theirs, columns, increments, normal

from mlsde import SDE, BrownianPath, Constant, DriftHierarchy, Multilevel, MultilevelDrift, solve

torchsde = pytest.importorskip("torchsde")

NOISE_TYPES = ["diagonal", "additive", "scalar", "general"]
Y0 = normal(BATCH, SIZE)


def theirs(sde, bm, method="euler", y0=Y0, steps=STEPS, **options):
    with torch.no_grad():
        return torchsde.sdeint(sde, y0, [0.0, 1.0], bm=bm, method=method, dt=1 / steps, **options)[-1]


def same(ours, expected, rounding=1e-13):
    torch.testing.assert_close(ours, expected, rtol=rounding, atol=rounding)


# Theirs, here


class Parts:
    """Some methods of a torchsde object, and no others."""

    def __init__(self, whole, *names):
        self.noise_type, self.sde_type = whole.noise_type, whole.sde_type
        offered = {
            "f": whole.f,
            "g": whole.g,
            "f_and_g": lambda t, y: (whole.f(t, y), whole.g(t, y)),
            "g_prod": lambda t, y, v: self.product(whole.g(t, y), v),
            "f_and_g_prod": lambda t, y, v: (whole.f(t, y), self.product(whole.g(t, y), v)),
        }
        for name in names:
            setattr(self, name, offered[name])

    def product(self, g, v):
        return g * v if self.noise_type == "diagonal" else (g @ v.unsqueeze(-1)).squeeze(-1)


METHODS = [("f", "g"), ("f_and_g",), ("f", "g_prod"), ("f", "f_and_g_prod", "g_prod"), ("f", "g", "f_and_g", "g_prod")]


@pytest.mark.parametrize("methods", METHODS, ids="+".join)
@pytest.mark.parametrize("noise_type", NOISE_TYPES)
def test_an_object_with_any_of_the_methods_of_torchsde_is_taken(noise_type, methods):
    parts = Parts(Theirs(noise_type, "ito").requires_grad_(False), *methods)
    bm = increments(noise_type)
    ours = SDE.from_torchsde(parts, motions=columns(noise_type))
    same(solve(ours, Y0, (0, 1), steps=STEPS, brownian=bm).y1, theirs(parts, bm))


def motion(kind, noise_type):
    w0 = torch.zeros(BATCH, columns(noise_type), dtype=torch.float64)
    if kind == "BrownianInterval":
        return torchsde.BrownianInterval(0.0, 1.0, size=w0.shape, dtype=w0.dtype, entropy=7)
    return getattr(torchsde, kind)(t0=0.0, w0=w0)


SCHEMES = [
    ("euler", "ito", NOISE_TYPES),
    ("milstein", "ito", ["diagonal", "scalar"]),
    ("milstein", "stratonovich", ["diagonal", "scalar"]),
    ("heun", "stratonovich", NOISE_TYPES),
]


@pytest.mark.parametrize("kind", ["BrownianInterval", "BrownianPath", "BrownianTree"])
@pytest.mark.parametrize(
    ("method", "sde_type", "noise_type"), [(m, s, noise) for m, s, noises in SCHEMES for noise in noises]
)
def test_every_brownian_motion_of_torchsde_drives_every_stepper(kind, method, sde_type, noise_type):
    sde, bm = Theirs(noise_type, sde_type), motion(kind, noise_type)
    expected = theirs(sde, bm, method)
    same(solve(SDE.from_torchsde(sde), Y0, (0, 1), steps=STEPS, method=method, brownian=bm).y1, expected)


@pytest.mark.parametrize("kind", ["BrownianInterval", "BrownianPath", "BrownianTree"])
def test_a_motion_of_torchsde_is_refused_beyond_its_ends(kind):
    """It would stand still there and only warn."""
    sde = SDE.from_torchsde(Theirs("diagonal", "ito"))
    refused(
        lambda: solve(sde, Y0, (0, 1.5), steps=3, brownian=motion(kind, "diagonal")),
        ValueError, "brownian covers [0.0, 1.0]", "[0.0, 1.5]",
    )  # fmt: skip


# Ours, there


def decay(t, y):
    return -y


def pull(t, y):
    return torch.sin(y) - t * y


LADDER = DriftHierarchy([decay, pull], costs=[1.0, 10.0])
MATRIX = normal(SIZE, MOTIONS, seed=1)
TENSOR = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)


def wave(t, y):
    return 0.5 + 0.3 * torch.cos(y + t)


def spread(t, y):
    return torch.sin(y).unsqueeze(-1) * MATRIX + 0.2 * y.roll(1, -1).unsqueeze(-1)


EQUATIONS = {
    "an ODE": (SDE(LADDER), "diagonal"),
    "a number": (SDE(LADDER, 0.5), "diagonal"),
    "a tensor": (SDE(LADDER, TENSOR), "diagonal"),
    "a function of time": (SDE(LADDER, lambda t: (1 + t) * TENSOR), "diagonal"),
    "a function of time that returns a number": (SDE(LADDER, lambda t: float(t) + 0.1), "diagonal"),
    "an additive function": (SDE(LADDER, lambda t, y: (1 + t) * torch.ones_like(y)), "diagonal"),
    "diagonal": (SDE(LADDER, wave, noise="diagonal"), "diagonal"),
    "a diagonal number": (SDE(LADDER, 0.5, noise="diagonal"), "diagonal"),
    "scalar": (SDE(LADDER, wave, noise="scalar"), "scalar"),
    "a scalar tensor": (SDE(LADDER, TENSOR.expand(BATCH, SIZE), noise="scalar"), "scalar"),
    "general": (SDE(LADDER, spread, noise="general"), "general"),
    "a constant matrix": (SDE(LADDER, MATRIX, noise="general"), "additive"),
    "a matrix of time": (SDE(LADDER, lambda t: t * MATRIX, noise="general"), "additive"),
    "a linear part": (SDE(LADDER, 0.5, linear=-2.0), "diagonal"),
}


def path_for(sde, seed=3):
    motions = {"general": MOTIONS, "scalar": 1}.get(sde.noise, SIZE)
    return BrownianPath(0, 1, shape=(BATCH, motions), dtype=torch.float64, seed=seed)


@pytest.mark.parametrize(("sde", "noise_type"), EQUATIONS.values(), ids=EQUATIONS.keys())
def test_torchsde_solves_our_equation_on_our_path(sde, noise_type):
    path, there = path_for(sde), sde.to_torchsde()
    assert (there.noise_type, there.sde_type) == (noise_type, "ito")
    expected = solve(sde, Y0, (0, 1), steps=STEPS, brownian=path).y1
    same(theirs(there, path), expected)
    back = SDE.from_torchsde(there)
    same(solve(back, Y0, (0, 1), steps=STEPS, brownian=path_for(sde)).y1, expected)


@pytest.mark.parametrize("method", ["heun", "milstein"])
@pytest.mark.parametrize("noise", ["diagonal", "scalar"])
def test_torchsde_solves_our_stratonovich_equation_on_our_path(method, noise):
    sde = SDE(LADDER, wave, noise=noise, calculus="stratonovich")
    path, there = path_for(sde), sde.to_torchsde()
    assert there.sde_type == "stratonovich"
    same(theirs(there, path, method), solve(sde, Y0, (0, 1), steps=STEPS, method=method, brownian=path).y1)


@pytest.mark.parametrize("level", [None, 1, 2, lambda t: 1 if t < 0.5 else 2])
@pytest.mark.parametrize("drift", [LADDER, DriftHierarchy.from_differences([decay, pull])], ids=["values", "parts"])
def test_torchsde_gets_the_level_that_was_asked_for(drift, level):
    sde = SDE(drift, 0.5)
    path = path_for(sde)
    same(theirs(sde.to_torchsde(level), path), solve(sde, Y0, (0, 1), steps=STEPS, level=level, brownian=path).y1)


def test_the_levels_are_told_apart():
    sde, path = SDE(LADDER, 0.5), path_for(SDE(LADDER, 0.5))
    assert (theirs(sde.to_torchsde(1), path) - theirs(sde.to_torchsde(2), path)).abs().max() > 0.1


@pytest.mark.parametrize(
    ("coins", "correction"),
    [("independent", "impulse"), ("nested", "control"), ("systematic", "hold"), ("periodic", "extrapolate")],
)
@pytest.mark.parametrize("share", ["batch", "sample"])
def test_torchsde_steps_with_the_multilevel_estimate(coins, correction, share):
    sde, rule = SDE(LADDER, wave, noise="diagonal"), Multilevel(Constant([1.0, 0.3]), coins, correction, share)
    path = path_for(sde)
    ours = solve(sde, Y0, (0, 1), steps=STEPS, multilevel=rule, brownian=path, seed=5)
    there = sde.to_torchsde(multilevel=rule, times=torch.linspace(0, 1, STEPS + 1), seed=5)
    for _ in range(2):  # a second run begins anew
        same(theirs(there, path), ours.y1)
        assert there.multilevel.evaluations == ours.stats.evaluations
        assert there.multilevel.cost == ours.stats.cost


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(1, 4),
    size=st.integers(1, 3),
    motions=st.integers(1, 3),
    exponent=st.integers(0, 4),
    noise=st.sampled_from(["additive", "diagonal", "scalar", "general"]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    p=st.floats(0.1, 1.0),
    seed=st.integers(0, 2**40),
)
def test_any_sound_equation_goes_there_and_back(batch, size, motions, exponent, noise, dtype, p, seed):
    y0, matrix, steps = normal(batch, size, seed=seed % 97).to(dtype), normal(size, motions).to(dtype), 2**exponent
    functions = {
        "additive": lambda t: 0.1 + t * torch.ones(size, dtype=dtype),
        "general": lambda t, y: torch.sin(y).unsqueeze(-1) * matrix,
    }
    sde = SDE(LADDER, functions.get(noise, lambda t, y: 0.3 * torch.cos(y + t)), noise=noise)
    shape = (batch, {"general": motions, "scalar": 1}.get(noise, size))
    path = BrownianPath(0, 1, shape=shape, dtype=dtype, seed=seed, grids=(1,))
    rule, rounding = Multilevel(Constant([1.0, p])), {torch.float32: 1e-5, torch.float64: 1e-12}[dtype]
    ours = solve(sde, y0, (0, 1), steps=steps, brownian=path, multilevel=rule, seed=seed).y1
    there = sde.to_torchsde(multilevel=rule, times=torch.linspace(0, 1, steps + 1), seed=seed)
    same(theirs(there, path, y0=y0, steps=steps), ours, rounding)
    top = solve(sde, y0, (0, 1), steps=steps, brownian=path).y1
    back = SDE.from_torchsde(sde.to_torchsde())
    same(solve(back, y0, (0, 1), steps=steps, brownian=path).y1, top, rounding)


def test_one_object_serves_states_of_another_number_and_dtype():
    there = SDE(LADDER, wave, noise="scalar").to_torchsde()
    for count, dtype in ((BATCH, torch.float64), (2, torch.float64), (2, torch.float32)):
        y0 = Y0[:count].to(dtype)
        times = torch.tensor([0.0, 1.0], dtype=torch.float64)
        bm = BrownianPath(0, 1, shape=(count, 1), dtype=dtype)
        end = torchsde.sdeint(there, y0, times, bm=bm, method="euler", dt=1 / STEPS)[-1]
        assert (end.shape, end.dtype) == (y0.shape, dtype)
        expected = solve(there.equation, y0, (0, 1), steps=STEPS, brownian=bm).y1
        same(end, expected, 1e-5 if dtype == torch.float32 else 1e-13)


def test_a_stratonovich_method_that_calls_the_drift_once_a_step_is_served_too():
    rule = Multilevel(Constant([1.0, 0.3]))
    sde, path = SDE(LADDER, wave, noise="diagonal", calculus="stratonovich"), path_for(SDE(LADDER, 0.5))
    there = sde.to_torchsde(multilevel=rule, times=torch.linspace(0, 1, STEPS + 1))
    end = theirs(there, path, "euler_heun")
    drift, y = MultilevelDrift(LADDER, torch.linspace(0, 1, STEPS + 1), rule), Y0
    for n in range(STEPS):
        t, dw = n / STEPS, path(n / STEPS, (n + 1) / STEPS)
        ahead = wave(t + 1 / STEPS, y + wave(t, y) * dw)
        y = y + drift(t, y) / STEPS + 0.5 * (wave(t, y) + ahead) * dw
    same(end, y)
    assert there.multilevel.evaluations == drift.evaluations != (STEPS, STEPS)


def test_a_step_of_rounding_at_the_end_is_taken():
    """Of a hundred steps in float32 torchsde makes a hundred and one."""
    sde, rule = SDE(LADDER), Multilevel(Constant([1.0, 0.3]))
    calls = []
    there = sde.to_torchsde(multilevel=rule, times=torch.linspace(0, 1, 101))
    inner = there.multilevel.__class__.__call__
    there.f = lambda t, y: (calls.append(float(t)), inner(there.multilevel, t, y))[1]
    bm = BrownianPath(0, 1, shape=(BATCH, SIZE))
    found = theirs(there, bm, y0=Y0.float(), steps=100)
    assert len(calls) == 102 and calls[-1] > 0.999
    ours = solve(sde, Y0.float(), (0, 1), steps=100, multilevel=rule)
    torch.testing.assert_close(found, ours.y1, rtol=1e-4, atol=1e-5)


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(SIZE, SIZE, dtype=torch.float64)

    def forward(self, t, y):
        return torch.tanh(self.linear(y))


@pytest.mark.parametrize("as_method", [False, True])
def test_gradients_by_torchsdes_adjoint_reach_the_parameters_of_our_levels(as_method):
    torch.manual_seed(0)
    net = Net()
    there = SDE(net.forward if as_method else net, 0.5, calculus="stratonovich").to_torchsde()
    assert {id(p) for p in there.parameters()} == {id(p) for p in net.parameters()}
    path = path_for(SDE(decay, 0.5))
    found = []
    for solver in (torchsde.sdeint_adjoint, torchsde.sdeint):
        net.zero_grad()
        solver(there, Y0, [0.0, 1.0], bm=path, method="midpoint", dt=1 / 256)[-1].sum().backward()
        found.append(net.linear.weight.grad)
    torch.testing.assert_close(found[0], found[1], rtol=1e-2, atol=1e-2)
    assert found[1].abs().max() > 0.5


def test_state_dependent_noise_that_was_called_additive_is_refused_there_too():
    refused(lambda: theirs(SDE(decay, wave).to_torchsde(), None), ValueError, "diffusion changes with the state")


def test_importing_and_making_both_imports_no_torchsde():
    import subprocess
    import sys

    code = (
        "import sys, mlsde; there = mlsde.SDE(lambda t, y: -y, 0.5).to_torchsde(); mlsde.SDE.from_torchsde(there);"
        "print('torchsde' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


# Refusals


def lacking(*methods, noise_type="general", **types):
    parts = Parts(Theirs(noise_type, "ito"), *methods)
    for name, value in types.items():
        setattr(parts, name, value)
    return parts


RULE, TIMES = Multilevel(Constant([1.0, 0.3])), torch.linspace(0, 1, STEPS + 1)
SOUND = SDE(LADDER, wave, noise="diagonal", calculus="stratonovich")
REFUSALS = {
    "no drift": (lambda: SDE.from_torchsde(lacking("g")), TypeError, ["a drift", "f_and_g", "Parts"]),
    "a drift in a product": (lambda: SDE.from_torchsde(lacking("f_and_g_prod")), TypeError, ["f_and_g_prod", "Parts"]),
    "no diffusion": (lambda: SDE.from_torchsde(lacking("f")), TypeError, ["a diffusion", "g_prod", "Parts"]),
    "no object": (lambda: SDE.from_torchsde(3), TypeError, ["torchsde object", "int"]),
    "no number of motions": (lambda: SDE.from_torchsde(lacking("f", "g_prod")), ValueError, ["motions", "None"]),
    "no motions": (lambda: SDE.from_torchsde(lacking("f", "g_prod"), motions=0), ValueError, ["motions", "0"]),
    "an unknown noise": (
        lambda: SDE.from_torchsde(lacking("f", "g", noise_type="general", sde_type="levy")),
        ValueError, ["sde_type='levy'", "'ito'", "'stratonovich'"],
    ),
    "prices of others": (lambda: SDE.from_torchsde(lacking("f", "g"), costs=[1, 2]), ValueError, ["costs", "2", "1"]),
    "a level too high": (lambda: SOUND.to_torchsde(3), ValueError, ["level", "1 … 2", "3"]),
    "no level": (lambda: SOUND.to_torchsde("top"), TypeError, ["level", "'top'"]),
    "level and rule": (lambda: SOUND.to_torchsde(1, multilevel=RULE, times=TIMES), ValueError, ["level=1"]),
    "a rule without times": (lambda: SOUND.to_torchsde(multilevel=RULE), ValueError, ["times=", "multilevel="]),
    "times without a rule": (lambda: SOUND.to_torchsde(times=TIMES), ValueError, ["times=", "multilevel="]),
    "no rule": (lambda: SOUND.to_torchsde(multilevel="auto", times=TIMES), TypeError, ["multilevel", "'auto'"]),
    "two calls a step": (
        lambda: theirs(SOUND.to_torchsde(multilevel=RULE, times=TIMES), path_for(SOUND), "heun"),
        ValueError, ["t=0.03125", "t=0.0625", "method='euler'"],
    ),
    "calls between steps": (
        lambda: theirs(SOUND.to_torchsde(multilevel=RULE, times=TIMES), path_for(SOUND), "midpoint"),
        ValueError, ["t=0.015625", "t=0.03125"],
    ),
    "other steps": (
        lambda: theirs(SOUND.to_torchsde(multilevel=RULE, times=TIMES), path_for(SOUND), "euler_heun", steps=16),
        ValueError, ["t=0.0625", "t=0.03125"],
    ),
    "integrals of a path": (lambda: path_for(SOUND)(0, 1, return_U=True), ValueError, ["return_U", "increments"]),
}  # fmt: skip


@table(REFUSALS)
def test_what_does_not_go_is_refused_in_one_sentence(call, error, words):
    refused(call, error, *words)


def test_torchsde_says_itself_that_our_path_has_no_integrals():
    with pytest.raises(ValueError, match="levy_area_approximation"):
        theirs(SDE(decay, 0.5).to_torchsde(), path_for(SDE(decay, 0.5)), "srk")
