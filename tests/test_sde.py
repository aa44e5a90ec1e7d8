import functools
import inspect

import pytest
import torch
from increments import Given

from mlsde import SDE, DriftHierarchy, solve
from mlsde.sde import NoiseTerm

SHAPES = [(4,), (4, 3), (4, 2, 3, 5)]
NOISES = ["additive", "diagonal", "scalar", "general"]


def drift(t, y):
    return -y


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def term(sde, y, dtype=None):
    return NoiseTerm(sde, torch.zeros((), dtype=dtype or y.dtype), y, dtype or y.dtype)


# What an equation is made of


def test_one_callable_is_a_ladder_of_one_level():
    sde = SDE(drift)
    assert isinstance(sde.drift, DriftHierarchy)
    assert len(sde.drift) == 1
    assert sde.is_ode


def test_noise_is_additive_unless_said_otherwise():
    assert SDE(drift, 0.5).noise == "additive"
    assert SDE(drift, lambda t, y: y, noise="diagonal").noise == "diagonal"
    assert SDE(drift).noise is None


class Module(torch.nn.Module):
    def forward(self, t, y):
        return y


class Method:
    def of_time(self, t):
        return t

    def of_state(self, t, y):
        return y

    def with_option(self, t, scale=2.0):
        return scale * t


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize(
    ("diffusion", "depends"),
    [
        (lambda t: torch.ones(3), False),
        (lambda t, scale=2.0: torch.ones(3), False),
        (Method().of_time, False),
        (Method().with_option, False),
        (functools.partial(lambda scale, t: t, 2.0), False),
        (lambda t, y: y, True),
        (Method().of_state, True),
        (lambda *arguments: arguments[1], True),
        (Module(), True),
        (torch.ones(2, 3), False),
    ],
)
def test_a_diffusion_that_takes_only_time_does_not_depend_on_the_state(diffusion, depends, noise):
    assert SDE(drift, diffusion, noise=noise).additive is (not depends or noise == "additive")


def test_an_equation_says_what_it_is():
    assert repr(SDE(drift)).endswith("ODE)")
    shown = repr(SDE(drift, lambda t, y: y, noise="diagonal", calculus="stratonovich", linear=-1.0))
    assert "diagonal noise, stratonovich, linear part" in shown


@pytest.mark.parametrize(("option", "listed"), [("noise", "'diagonal'"), ("calculus", "'stratonovich'")])
def test_unknown_kinds_are_refused_with_the_list(option, listed):
    with pytest.raises(ValueError, match=listed):
        SDE(drift, lambda t, y: y, **{option: "white"})


def test_a_number_is_no_matrix():
    with pytest.raises(TypeError, match="diffusion must be a tensor or a function for noise='general'"):
        SDE(drift, 0.5, noise="general")


def test_a_diffusion_that_depends_on_the_state_returns_tensors():
    with pytest.raises(TypeError, match=r"diffusion must return a torch.Tensor, got float"):
        solve(SDE(drift, lambda t, y: 0.5, noise="diagonal"), torch.ones(3), (0, 1), steps=2)


# The noise term


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("noise", NOISES)
def test_the_increment_has_one_motion_for_each_entry_sample_or_column(noise, shape):
    y = normal(*shape)
    diffusion = (lambda t, y: y.unsqueeze(-1) * torch.ones(7)) if noise == "general" else (lambda t, y: 1.0 * y)
    diffusion = (lambda t, y: torch.ones_like(y)) if noise == "additive" else diffusion
    expected = {"scalar": (4, *[1] * (len(shape) - 1)), "general": (4, 7)}.get(noise, shape)
    assert term(SDE(drift, diffusion, noise=noise), y).shape == expected


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("noise", NOISES)
def test_g_dw_is_what_its_table_says_sample_by_sample(noise, shape):
    y, g = normal(*shape), normal(*shape, seed=1)
    g = normal(*shape, 7, seed=1) if noise == "general" else g
    noise_term = term(SDE(drift, lambda t, y: g, noise=noise), y)
    dw = normal(*noise_term.shape, seed=2)
    expected = torch.stack([g[i] @ dw[i] if noise == "general" else g[i] * dw[i] for i in range(4)])
    torch.testing.assert_close(noise_term.apply(g, dw), expected)
    t = torch.tensor(0.0, dtype=torch.float64)
    torch.testing.assert_close(noise_term.add_to(y.clone(), t, y, dw), y + expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_constant_matrix_may_leave_out_the_samples(shape):
    y, matrix = normal(*shape), normal(*shape[1:], 7, seed=1)
    alone, repeated = (
        term(SDE(drift, tensor, noise="general"), y) for tensor in (matrix, matrix.expand(4, *matrix.shape))
    )
    dw = normal(4, 7, seed=2)
    t = torch.tensor(0.0, dtype=torch.float64)
    torch.testing.assert_close(alone.add_to(y.clone(), t, y, dw), repeated.add_to(y.clone(), t, y, dw))


@pytest.mark.parametrize("method", ["euler", "heun"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_additive_noise_can_be_written_in_many_ways(shape, method):
    y = normal(*shape)
    rows = 0.1 * normal(5, *shape, seed=3)
    writings = [
        SDE(drift, 0.5),
        SDE(drift, 0.5, noise="diagonal"),
        SDE(drift, torch.tensor(0.5, dtype=torch.float64)),
        SDE(drift, torch.full(shape[1:], 0.5, dtype=torch.float64)),
        SDE(drift, torch.full(shape, 0.5, dtype=torch.float64), noise="diagonal"),
        SDE(drift, lambda t: 0.5),
        SDE(drift, lambda t: torch.full((), 0.5, dtype=torch.float64)),
        SDE(drift, lambda t, y: torch.full_like(y, 0.5)),
        SDE(drift, lambda t: torch.full(shape, 0.5, dtype=torch.float64), noise="diagonal"),
    ]
    given = Given([0.0, 0.2, 0.4, 0.6, 0.8], rows)
    ends = [solve(sde, y, (0, 1), steps=5, method=method, brownian=given).y1 for sde in writings]
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0], rtol=1e-14, atol=1e-14)


def test_in_half_precision_the_diffusion_sees_the_half_and_returns_it():
    seen = []

    def diffusion(t, y):
        seen.append(y.dtype)
        return 0.1 * y

    y0 = torch.ones(3, 2, dtype=torch.bfloat16)
    end = solve(SDE(drift, diffusion, noise="diagonal"), y0, (0, 1), steps=3).y1
    assert set(seen) == {torch.bfloat16}
    assert end.dtype == torch.bfloat16


# torchsde objects, by their attributes alone


class Theirs:
    def __init__(self, noise_type, sde_type="ito", levels=None):
        self.noise_type, self.sde_type = noise_type, sde_type
        if levels is not None:
            self.f = levels

    def f(self, t, y):
        return -y

    def g(self, t, y):
        if self.noise_type == "diagonal":
            return 0.3 * y
        columns = 1 if self.noise_type == "scalar" else 5
        return 0.3 * torch.ones(*y.shape, columns).to(y)


@pytest.mark.parametrize(
    ("noise_type", "noise", "shape"),
    [
        ("diagonal", "diagonal", (4, 3)),
        ("additive", "general", (4, 5)),
        ("scalar", "scalar", (4, 1)),
        ("general", "general", (4, 5)),
    ],
)
def test_a_torchsde_object_keeps_its_noise(noise_type, noise, shape):
    sde = SDE.from_torchsde(Theirs(noise_type))
    assert sde.noise == noise
    assert term(sde, torch.ones(4, 3)).shape == shape
    assert sde.additive is (noise_type == "additive")
    assert solve(sde, torch.ones(4, 3), (0, 1), steps=3).y1.shape == (4, 3)


def test_additive_noise_of_torchsde_is_free_of_the_calculus():
    """An Itô equation under Heun and a Stratonovich one under Euler are refused, but not with additive noise."""
    ito, stratonovich = (SDE.from_torchsde(Theirs("additive", name)) for name in ("ito", "stratonovich"))
    options = {"y0": torch.ones(4, 3), "t_span": (0, 1), "steps": 3}
    for method in ("euler", "heun"):
        one, other = (solve(sde, method=method, **options).y1 for sde in (ito, stratonovich))
        assert torch.equal(one, other)


@pytest.mark.parametrize("kind", [list, tuple, torch.nn.ModuleList])
def test_a_torchsde_object_may_have_a_ladder_of_drifts(kind):
    class Level(torch.nn.Module):
        def forward(self, t, y):
            return -y

    sde = SDE.from_torchsde(Theirs("diagonal", levels=kind([Level(), Level()])), costs=[1.0, 9.0])
    assert len(sde.drift) == 2
    assert sde.drift.costs == (1.0, 9.0)


def test_a_torchsde_object_keeps_its_calculus():
    assert SDE.from_torchsde(Theirs("scalar", "stratonovich")).calculus == "stratonovich"


@pytest.mark.parametrize("missing", ["f", "g"])
def test_an_object_without_drift_or_diffusion_is_refused(missing):
    class Incomplete:
        noise_type, sde_type = "diagonal", "ito"

    setattr(Incomplete, "g" if missing == "f" else "f", lambda self, t, y: y)
    with pytest.raises(TypeError, match=rf"needs a (drift|diffusion), {missing}\b.*, which Incomplete lacks"):
        SDE.from_torchsde(Incomplete())


@pytest.mark.parametrize(("noise_type", "sde_type", "name"), [("odd", "ito", "noise_type"), ("scalar", "", "sde_type")])
def test_an_object_of_unknown_type_is_refused(noise_type, sde_type, name):
    with pytest.raises(ValueError, match=name):
        SDE.from_torchsde(Theirs(noise_type, sde_type))


def test_scalar_noise_of_torchsde_has_one_column():
    theirs = Theirs("scalar")
    theirs.g = lambda t, y: y
    with pytest.raises(ValueError, match=r"g of shape y.shape \+ \(1,\)"):
        solve(SDE.from_torchsde(theirs), torch.ones(4, 3), (0, 1), steps=1)


def test_the_arity_of_what_cannot_be_inspected_is_two(monkeypatch):
    def uninspectable(_function):
        raise ValueError

    monkeypatch.setattr(inspect, "signature", uninspectable)
    assert not SDE(drift, lambda t: t, noise="diagonal").additive
