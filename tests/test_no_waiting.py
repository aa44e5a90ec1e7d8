"""The loop never asks the device for a number: what would make the host wait is counted, on any device."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import mlsde
from mlsde import SDE, DriftHierarchy, Multilevel

WAITS = {
    "aten::_local_scalar_dense", "aten::is_nonzero", "aten::equal", "aten::item", "aten::nonzero",
    "aten::masked_select", "aten::unique", "aten::allclose",
}  # fmt: skip
BLOCK = 64


class Waits(TorchDispatchMode):
    """Counts operations whose result the host must wait for, and copies from one device to another."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().split(".")[0]
        if name in WAITS:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


def coarse(t, y):
    return -y


def fine(t, y):
    return -torch.sin(y)


RULES = {
    "one level": None,
    "impulses": Multilevel(mlsde.Constant([1.0, 0.3]), "independent", "impulse"),
    "hold": Multilevel(mlsde.Constant([1.0, 0.3]), "systematic", "hold"),
    "extrapolate": Multilevel(mlsde.Constant([1.0, 0.3]), "periodic", "extrapolate"),
    "per sample": Multilevel(mlsde.Constant([1.0, 0.3]), "systematic", "hold", "sample"),
    "per sample, impulses": Multilevel(mlsde.Constant([0.8, 0.3]), "independent", "impulse", "sample"),
}
EQUATIONS = {
    "ode": (SDE(DriftHierarchy([coarse, fine])), "euler"),
    "additive": (SDE(DriftHierarchy([coarse, fine]), 0.5), "euler"),
    "a function": (SDE(DriftHierarchy([coarse, fine]), lambda t, y: 0.3 * y, noise="diagonal"), "euler"),
    "general": (SDE(DriftHierarchy([coarse, fine]), torch.ones(3, 2), noise="general"), "euler"),
    "milstein": (SDE(DriftHierarchy([coarse, fine]), lambda t, y: 0.3 * y, noise="diagonal"), "milstein"),
    "heun": (SDE(DriftHierarchy([coarse, fine]), 0.5), "heun"),
    "exponential": (SDE(DriftHierarchy([coarse, fine]), 0.5, linear=-1.0), "exponential"),
}  # fmt: skip


def waits(steps, equation, rule, **options):
    sde, method = EQUATIONS[equation]
    y0 = torch.ones(6, 3)
    with Waits() as mode:
        mlsde.solve(sde, y0, (0.0, 1.0), steps=steps, method=method, multilevel=RULES[rule], **options)
    return len(mode.seen)


def cases():
    for equation in EQUATIONS:
        for rule in RULES:
            if not (equation == "heun" and "impulses" in rule):
                yield equation, rule


@pytest.mark.parametrize(("equation", "rule"), list(cases()))
def test_the_host_waits_once_in_a_block_of_steps_and_not_within(equation, rule):
    short, long, longer = (waits(blocks * BLOCK, equation, rule) for blocks in (1, 2, 4))
    each = long - short
    assert longer - long == 2 * each  # for each block the same
    assert each <= 1 + 2  # the state and what is remembered of two levels
    assert waits(BLOCK // 2, equation, rule) == short  # and nothing by the step


@pytest.mark.parametrize("rule", ["one level", "hold", "per sample"])
def test_paths_and_saving_do_not_make_it_wait_either(rule):
    y0 = torch.ones(6, 3)
    path = mlsde.BrownianPath(0.0, 1.0, like=y0, seed=0, grids=(BLOCK, 4 * BLOCK))
    saved = np.linspace(0.0, 1.0, 30)
    counts = [waits(blocks * BLOCK, "additive", rule, brownian=path, save_at=saved) for blocks in (1, 2, 4)]
    assert counts[2] - counts[1] == 2 * (counts[1] - counts[0]) <= 6


def test_a_level_that_asks_for_a_number_is_seen():
    sde = SDE(lambda t, y: -y * float(y.abs().max()))
    with Waits() as few:
        mlsde.solve(sde, torch.ones(2, 1), (0, 1), steps=10)
    with Waits() as many:
        mlsde.solve(sde, torch.ones(2, 1), (0, 1), steps=20)
    assert len(many.seen) - len(few.seen) == 10
