"""The ladder as one drift in another loop: the steps of solve, its price, and refusals of what is no step."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused, table

from mlsde import SDE, Constant, DriftHierarchy, Multilevel, MultilevelDrift, solve

TIMES = torch.linspace(0, 1, 65, dtype=torch.float64)
Y0 = torch.linspace(-1, 1, 12, dtype=torch.float64).view(4, 3)


def decay(t, y):
    return -y


def pull(t, y):
    return torch.sin(3 * y) - t * y


def wave(t, y):
    return torch.sin(3 * y) - t * y + 0.1 * torch.cos(7 * y)


LADDER = DriftHierarchy([decay, pull, wave], costs=[1.0, 8.0, 64.0])
PARTS = DriftHierarchy.from_differences([decay, pull, wave], costs=[1.0, 8.0, 64.0])
P = Constant([1.0, 0.4, 0.2])
RULES = [
    Multilevel(P, "independent", "impulse"),
    Multilevel(P, "nested", "control"),
    Multilevel(P, "systematic", "hold"),
    Multilevel(P, "periodic", "extrapolate"),
    Multilevel(P, "systematic", "hold", share="sample"),
    None,
]


def euler(drift, y, times=TIMES):
    for t, t_next in pairwise(times):
        y = torch.add(y, drift(t, y), alpha=float(t_next - t))
    return y


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("ladder", [LADDER, PARTS], ids=["values", "parts"])
@pytest.mark.parametrize("times", [TIMES, TIMES.flip(0), TIMES**2], ids=["forwards", "backwards", "uneven"])
def test_eulers_method_elsewhere_is_solve_bit_for_bit_at_its_price(rule, ladder, times):
    drift = MultilevelDrift(ladder, times, rule, seed=3)
    ours = solve(SDE(ladder), Y0, times=times, multilevel=rule, seed=3)
    for _ in range(2):
        assert torch.equal(euler(drift, Y0, times), ours.y1)
        assert drift.evaluations == ours.stats.evaluations
        assert drift.cost == ours.stats.cost
        assert drift.plan.cost == ours.plan.cost


@settings(max_examples=40, deadline=None)
@given(
    levels=st.integers(1, 3),
    steps=st.integers(1, 150),
    chances=st.lists(st.floats(0.05, 1.0), min_size=3, max_size=3),
    coins=st.sampled_from(["independent", "nested", "systematic"]),
    correction=st.sampled_from(["impulse", "hold", "control"]),
    share=st.sampled_from(["batch", "sample"]),
    seed=st.integers(0, 2**40),
    power=st.sampled_from([0.5, 1, 3]),
)
def test_any_sound_ladder_is_solved_the_same(levels, steps, chances, coins, correction, share, seed, power):
    ladder, times = LADDER.select(range(1, levels + 1)), np.linspace(0, 1, steps + 1) ** power
    rule = Multilevel(Constant(chances[:levels]), coins, correction, share)
    drift = MultilevelDrift(ladder, times, rule, seed=seed)
    ours = solve(SDE(ladder), Y0, times=times, multilevel=rule, seed=seed)
    assert torch.equal(euler(drift, Y0, torch.as_tensor(times)), ours.y1)
    assert drift.evaluations == ours.stats.evaluations


def test_half_precisions_are_summed_in_float32_and_the_levels_see_the_half():
    seen = []
    ladder = DriftHierarchy([decay, lambda t, y: (seen.append(y.dtype), torch.sin(y))[1]], costs=[1, 8])
    drift, y = MultilevelDrift(ladder, TIMES, Multilevel(Constant([1, 0.3]))), Y0.bfloat16()
    ours = solve(SDE(ladder), y, times=TIMES[:2], multilevel=Multilevel(Constant([1, 0.3])))
    assert torch.equal((y.float() + float(TIMES[1]) * drift(TIMES[0], y).float()).bfloat16(), ours.y1)
    assert set(seen) == {torch.bfloat16}


def test_seeds_per_sample_split_a_batch():
    rule, seeds = Multilevel(P, "systematic", "hold", share="sample"), [5, 6, 7, 8]
    whole = euler(MultilevelDrift(LADDER, TIMES, rule, seed=seeds), Y0)
    part = euler(MultilevelDrift(LADDER, TIMES, rule, seed=np.array(seeds[2:])), Y0[2:])
    torch.testing.assert_close(part, whole[2:], rtol=1e-13, atol=1e-13)
    other = euler(MultilevelDrift(LADDER, TIMES, rule, seed=[1, 2]), Y0[2:])
    assert (other - part).abs().max() > 1e-6


def test_coins_per_sample_are_drawn_for_the_batch_that_comes():
    rule = Multilevel(P, "independent", "hold", share="sample")
    drift = MultilevelDrift(LADDER, TIMES, rule)
    for count in (4, 2):
        ours = solve(SDE(LADDER), Y0[:count], times=TIMES, multilevel=rule)
        assert torch.equal(euler(drift, Y0[:count]), ours.y1)
        assert drift.evaluations == ours.stats.evaluations


def test_before_the_first_call_nothing_is_spent():
    drift = MultilevelDrift(LADDER, TIMES, RULES[0])
    assert drift.evaluations == (0, 0, 0) and drift.cost == 0
    assert MultilevelDrift(DriftHierarchy([decay]), TIMES).cost is None
    assert "MultilevelDrift(DriftHierarchy(3 levels" in repr(drift)


def test_a_gradient_passes_through():
    y = Y0.clone().requires_grad_()
    euler(MultilevelDrift(LADDER, TIMES, RULES[2]), y).sum().backward()
    x = Y0.clone().requires_grad_()
    solve(SDE(LADDER), x, times=TIMES, multilevel=RULES[2], gradients=True).y1.sum().backward()
    torch.testing.assert_close(y.grad, x.grad, rtol=1e-12, atol=1e-12)


def after(calls, **options):
    """Make some calls; the last is to be refused."""
    drift = MultilevelDrift(LADDER, TIMES, RULES[2], **options)

    def run():
        for t in calls:
            drift(t, Y0)

    return run


def another_batch():
    drift = MultilevelDrift(LADDER, TIMES, RULES[2])
    drift(0.0, Y0)
    drift(TIMES[1], Y0[:2])


PER_SAMPLE = Multilevel(P, share="sample")
REFUSALS = {
    "not from the beginning": (after([0.5]), ValueError, ["t=0.5", "t=0"]),
    "twice": (after([0.0, 1 / 64, 1 / 64]), ValueError, ["t=0.015625", "t=0.03125", "once"]),
    "back": (after([0.0, 1 / 64, 2 / 64, 1 / 64]), ValueError, ["t=0.015625", "t=0.046875"]),
    "a step left out": (after([0.0, 2 / 64]), ValueError, ["t=0.03125", "t=0.015625"]),
    "between steps": (after([0.0, 0.5 / 64]), ValueError, ["t=0.0078125", "t=0.015625"]),
    "beyond the end": (after([*TIMES.tolist(), 1 + 1 / 64]), ValueError, ["t=1.01562", "expected t=0:"]),
    "twice at the end": (after([*TIMES.tolist(), 1.0]), ValueError, ["t=1,", "expected t=0:"]),
    "no time": (after(["soon"]), TypeError, ["t must be a number", "'soon'"]),
    "a time that is none": (after([float("nan")]), ValueError, ["t must be finite"]),
    "another batch": (another_batch, ValueError, ["2 samples", "4"]),
    "an array": (lambda: MultilevelDrift(LADDER, TIMES)(0.0, Y0.numpy()), TypeError, ["y must be a torch.Tensor"]),
    "no ladder": (lambda: MultilevelDrift(decay, TIMES), TypeError, ["drift", "DriftHierarchy", "function"]),
    "no rule": (lambda: MultilevelDrift(LADDER, TIMES, P), TypeError, ["multilevel", "Constant"]),
    "a pilot": (lambda: MultilevelDrift(LADDER, TIMES, "auto"), TypeError, ["multilevel", "'auto'"]),
    "no grid": (lambda: MultilevelDrift(LADDER, 10), ValueError, ["times", "10"]),
    "a grid of nothing": (lambda: MultilevelDrift(LADDER, None), TypeError, ["times", "None"]),
    "a grid that turns": (lambda: MultilevelDrift(LADDER, [0, 1, 0.5]), ValueError, ["times", "strictly"]),
    "no seed": (lambda: MultilevelDrift(LADDER, TIMES, seed="one"), TypeError, ["seed", "'one'"]),
    "seeds for a batch": (lambda: MultilevelDrift(LADDER, TIMES, RULES[2], seed=[1, 2]), ValueError, ["seed", "share"]),
    "seeds for others": (
        lambda: MultilevelDrift(LADDER, TIMES, PER_SAMPLE, seed=[1, 2])(0.0, Y0), ValueError, ["seed", "2", "4"],
    ),
}  # fmt: skip


@table(REFUSALS)
def test_what_is_no_step_of_the_grid_is_refused_in_one_sentence(call, error, words):
    refused(call, error, *words)


def test_times_added_up_in_float32_are_those_of_the_grid():
    drift, t, step = MultilevelDrift(LADDER, np.linspace(0, 1, 1001)), torch.tensor(0.0), torch.tensor(1e-3)
    for _ in range(1000):
        drift(t, Y0.float())
        t = t + step
    assert abs(float(t) - 1) > 1e-6
    assert drift.evaluations == (0, 0, 1000)
