"""Memory of a run, in states: what the loop holds above the levels' arguments and values, and that it does not grow."""

import tracemalloc
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import mlsde
from mlsde import SDE, DriftHierarchy, Multilevel
from mlsde.integrate import Run

SAMPLES, NUMBERS = 64, 2**21 + 64
"""More numbers than those of which copies are kept for a replay."""


class Live(TorchDispatchMode):
    """Bytes of the tensors that are alive, and the most there were."""

    def __init__(self, known):
        super().__init__()
        self.users, self.sizes, self.now, self.peak = {}, {}, 0, 0
        self.known = known.untyped_storage().data_ptr()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self.see(tensor)
        self.peak = max(self.peak, self.now)
        return out

    def see(self, tensor):
        storage = tensor.untyped_storage()
        place = storage.data_ptr()
        if place == self.known:
            return
        if place not in self.users:
            self.users[place], self.sizes[place] = 0, storage.nbytes()
            self.now += storage.nbytes()
        self.users[place] += 1
        weakref.finalize(tensor, self.lose, place)

    def lose(self, place):
        self.users[place] -= 1
        if not self.users[place]:
            self.now -= self.sizes[place]
            del self.users[place], self.sizes[place]


def coarse(t, y):
    return -y


def fine(t, y):
    return y.neg()


LADDER = DriftHierarchy([coarse, fine])
EQUATIONS = {
    "ode": (SDE(LADDER), "euler"),
    "additive": (SDE(LADDER, 0.5), "euler"),
    "multiplicative": (SDE(LADDER, lambda t, y: 0.3 * y, noise="diagonal"), "euler"),
    "heun": (SDE(LADDER, 0.5), "heun"),
    "exponential": (SDE(LADDER, 0.5, linear=-1.0), "exponential"),
}
RULES = {  # levels that are evaluated at once, and what is remembered of their differences
    "one level": (None, 1, 0),
    "impulse": (Multilevel(mlsde.Constant([1.0, 0.3]), "systematic", "impulse"), 2, 0),
    "hold": (Multilevel(mlsde.Constant([1.0, 0.3]), "systematic", "hold"), 2, 1),
    "extrapolate": (Multilevel(mlsde.Constant([1.0, 0.3]), "systematic", "extrapolate"), 2, 2),
    "per sample": (Multilevel(mlsde.Constant([1.0, 0.3]), "systematic", "hold", "sample"), 2, 1),
}


def peak(equation, rule, steps):
    sde, method = EQUATIONS[equation]
    y0 = torch.ones(SAMPLES, NUMBERS // SAMPLES)
    with Live(y0) as live:
        mlsde.solve(sde, y0, (0.0, 1.0), steps=steps, method=method, multilevel=RULES[rule][0])
    return live.peak / (4 * y0.numel())


CASES = [(e, r) for e in EQUATIONS for r in RULES if (e, r) != ("heun", "impulse")]


@pytest.mark.parametrize(("equation", "rule"), CASES)
def test_three_states_and_what_is_remembered_above_what_the_levels_need(equation, rule):
    _, levels, remembered = RULES[rule]
    found = peak(equation, rule, 20)
    argument = 1
    gathered = 0.4 if rule == "per sample" else 0.0  # the samples that fire, which are a part of the batch
    stages = 1 if equation == "heun" and remembered else 0  # two of them, at two states
    assert found <= argument + levels + 3 + remembered + gathered + stages + 0.05
    assert found >= 1 + levels  # a count that sees too little is no count


@pytest.mark.parametrize("rule", list(RULES))
def test_ten_times_the_steps_take_no_more(rule):
    assert peak("additive", rule, 200) == pytest.approx(peak("additive", rule, 20), abs=0.05)


def test_a_loop_that_keeps_its_states_is_seen():
    y0 = torch.ones(SAMPLES, NUMBERS // SAMPLES)
    with Live(y0) as live:
        kept = [mlsde.solve(EQUATIONS["ode"][0], y0, (0.0, 1.0), steps=4, save_at="steps")]
    assert live.peak / (4 * y0.numel()) > 6 and kept


@pytest.mark.parametrize("numbers", [10, 2**20 + 10])
def test_a_fault_is_named_alike_in_states_that_are_copied_and_in_larger_ones(numbers):
    sde = SDE(DriftHierarchy([coarse, lambda t, y: y * float("nan") if float(t) > 0.7 else -y]), 0.1)
    rule = Multilevel(mlsde.Constant([1.0, 0.25]), "periodic", "hold")
    with pytest.raises(mlsde.NonFiniteError, match="drift level 2 became NaN") as caught:
        mlsde.solve(sde, torch.ones(2, numbers // 2), (0.0, 1.0), steps=200, multilevel=rule)
    assert caught.value.step == 144


@pytest.mark.parametrize("numbers", [10, 2**20 + 10])
def test_a_replay_begins_where_the_run_began(numbers):
    def level(t, y):
        return torch.where(y > 0.7, y * float("nan"), torch.ones_like(y))

    with pytest.raises(mlsde.NonFiniteError) as caught:
        mlsde.solve(SDE(level), torch.full((2, numbers // 2), 0.2), (0.0, 1.0), steps=128)
    assert caught.value.step == 65 and caught.value.culprit == "drift level 1"  # 0.2 + 65 / 128 is the first above


@pytest.mark.parametrize(
    "rule", [None, Multilevel(mlsde.Constant([1.0, 0.3]), "systematic", "hold")], ids=["one level", "systematic"]
)
def test_on_the_host_an_ordinary_run_keeps_times_and_probabilities_alone(rule):
    """Longer ones keep neither: ``test_long_runs.py``."""
    _, few, many = (host_bytes(rule, steps) for steps in (100, 10_000, 60_000))  # the first meets what is lazy
    assert (many - few) / 50_000 == pytest.approx(8 + 8 * 2, abs=0.5)


def host_bytes(rule, steps):
    tracemalloc.start()
    try:
        times = mlsde.checks.time_grid((0.0, 1.0), steps, None)
        run = Run(SDE(LADDER, 0.5), torch.ones(2, 1), times, "euler", rule, None, 0, None)
        run.plan.evaluations.sum()
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
