"""Gradients through a solve where the user asks for them, and no graph where not."""

import pytest
import torch
from torch import nn

from mlsde import SDE, Constant, DriftHierarchy, Multilevel, solve

CORRECTIONS = ("impulse", "hold", "control", "extrapolate")
Y0 = torch.linspace(-1.0, 1.0, 6, dtype=torch.float64).reshape(3, 2)


def parameter(value):
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


def loss_of(theta, sigma, y0, **options):
    drift = DriftHierarchy([lambda t, y: -theta * y, lambda t, y: -theta * torch.sin(y)], costs=[1.0, 10.0])
    sde = SDE(drift, lambda t, y: sigma * torch.cos(y), noise="diagonal")
    return solve(sde, y0, (0.0, 1.0), steps=20, gradients=True, **options).y1.square().sum()


def test_gradients_are_those_of_the_loop_one_would_write():
    theta, sigma, y0 = parameter(0.7), parameter(0.4), Y0.clone().requires_grad_()
    dw = torch.randn(20, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours = torch.autograd.grad(loss_of(theta, sigma, y0, brownian=lambda a, b: dw[round(20 * a)]), [theta, sigma, y0])
    y = y0
    for n in range(20):
        y = y - 0.05 * theta * torch.sin(y) + sigma * torch.cos(y) * dw[n]
    expected = torch.autograd.grad(y.square().sum(), [theta, sigma, y0])
    for mine, theirs in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("share", ["batch", "sample"])
@pytest.mark.parametrize("correction", CORRECTIONS)
def test_gradients_through_every_correction_are_those_of_finite_differences(correction, share):
    multilevel = Multilevel(Constant([1.0, 0.4]), correction=correction, share=share, seed=1)
    theta, sigma, y0 = parameter(0.7), parameter(0.4), Y0.clone().requires_grad_()
    found = torch.autograd.grad(loss_of(theta, sigma, y0, multilevel=multilevel), [theta, sigma, y0])

    def difference(shift):
        def there(by):
            moved = [p + by * d for p, d in zip((theta, sigma, y0), shift, strict=True)]
            return loss_of(*moved, multilevel=multilevel)

        with torch.no_grad():
            return (there(1e-5) - there(-1e-5)) / 2e-5

    zero = [torch.zeros_like(p) for p in (theta, sigma, y0)]
    for i in range(3):
        direction = list(zero)
        direction[i] = torch.ones_like(zero[i])
        torch.testing.assert_close(found[i].sum(), difference(direction), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("method", "options"), [("heun", {}), ("exponential", {"linear": -0.5}), ("euler", {"linear": -1})]
)
def test_gradients_pass_through_the_other_steppers(method, options):
    theta = parameter(0.7)

    def loss(value):
        sde = SDE(lambda t, y: -value * torch.sin(y), 0.3, **options)
        return solve(sde, Y0, (0, 1), steps=10, method=method, gradients=True).y1.sum()

    (found,) = torch.autograd.grad(loss(theta), theta)
    with torch.no_grad():
        expected = (loss(theta + 1e-5) - loss(theta - 1e-5)) / 2e-5
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


def test_gradients_pass_through_milstein():
    sigma = parameter(0.4)

    def loss(value):
        sde = SDE(lambda t, y: -y, lambda t, y: value * torch.cos(y), noise="diagonal")
        return solve(sde, Y0, (0, 1), steps=10, method="milstein", gradients=True).y1.sum()

    (found,) = torch.autograd.grad(loss(sigma), sigma)
    with torch.no_grad():
        expected = (loss(sigma + 1e-5) - loss(sigma - 1e-5)) / 2e-5
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_gradients_reach_a_constant_diffusion(dtype):
    """In half precision too, where the constant is turned into float32 once, before the loop."""
    sigma = torch.full((2,), 0.5, dtype=dtype, requires_grad=True)
    solution = solve(SDE(lambda t, y: -y, sigma), Y0.to(dtype), (0, 1), steps=10, gradients=True)
    (found,) = torch.autograd.grad(solution.y1.sum(), sigma)
    assert (found != 0).all()


def test_gradients_reach_states_between_steps():
    theta = parameter(0.7)
    saved = solve(SDE(lambda t, y: -theta * y), Y0 + 2, (0, 1), steps=4, gradients=True, save_at=[0.0, 0.3, 1.0]).ys
    gradient = [torch.autograd.grad(state.sum(), theta, retain_graph=True)[0] for state in saved[1:]]
    assert all(value < 0 for value in gradient)


def test_gradients_train_a_module():
    net = nn.Linear(2, 2).double()
    solution = solve(SDE(lambda t, y: net(y), 0.1), Y0, (0, 1), steps=10, gradients=True)
    solution.y1.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


@pytest.mark.parametrize("share", ["batch", "sample"])
def test_without_gradients_there_is_no_graph_even_if_everything_requires_one(share):
    theta, sigma, y0 = parameter(0.7), parameter([0.4, 0.3]), Y0.clone().requires_grad_()
    shown = []
    drift = DriftHierarchy([lambda t, y: -theta * y, lambda t, y: -theta * torch.sin(y)], costs=[1.0, 10.0])
    for dtype in (torch.float64, torch.bfloat16):
        solution = solve(
            SDE(drift, sigma.to(dtype)) if dtype == torch.float64 else SDE(lambda t, y: -y, sigma.to(dtype)),
            y0.to(dtype),
            (0, 1),
            steps=20,
            multilevel=Multilevel(Constant([1.0, 0.4]), share=share) if dtype == torch.float64 else None,
            save_at="steps",
            callback=lambda n, t, y: shown.append(y.requires_grad),
        )
        assert not solution.ys.requires_grad
    assert not any(shown)


def test_a_user_may_take_gradients_inside_a_drift_of_a_run_without():
    """A force is minus the gradient of an energy, whoever integrates it."""

    def force(t, y):
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            return -torch.autograd.grad((y**2).sum() / 2, y)[0]

    ours = solve(SDE(force), Y0, (0, 1), steps=10)
    assert not ours.ys.requires_grad
    torch.testing.assert_close(ours.y1, solve(SDE(lambda t, y: -y), Y0, (0, 1), steps=10).y1)
