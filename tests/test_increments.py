"""Increments of one grid: the same one by one and in turn, drawn into the same memory only where nobody looks back."""

import numpy as np
import pytest
import torch

import mlsde
from mlsde.increments import IndependentIncrements, PathIncrements
from mlsde.plan import fixed_plan, multilevel_plan

CPU = torch.device("cpu")
EVEN, UNEVEN = np.linspace(0.0, 1.0, 151), np.linspace(0.0, 1.0, 151) ** 2


def source(times=EVEN, dtype=torch.float32, seed=3, shape=(2000, 1)):
    return IndependentIncrements(times, shape, dtype, CPU, seed)  # 32 rows are drawn at once


@pytest.mark.parametrize("times", [EVEN, UNEVEN], ids=["even", "uneven"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", [3, tuple(range(2000))], ids=["one seed", "seeds"])
@pytest.mark.parametrize("graph", [False, True])
def test_increments_in_turn_are_those_that_are_asked_for(times, dtype, seed, graph):
    with torch.set_grad_enabled(graph):
        one, other = source(times, dtype, seed), source(times, dtype, seed)
        for start, stop in ((0, 64), (64, 128), (128, 150), (5, 6), (40, 100)):
            for n, dw in enumerate(one.between(start, stop), start):
                assert torch.equal(dw, other.increment(n))
            assert n == stop - 1


def test_memory_is_used_again_unless_the_graph_is_kept():
    with torch.no_grad():
        fresh = source()
        first, later = fresh.increment(0), fresh.increment(100)
        assert first.untyped_storage().data_ptr() == later.untyped_storage().data_ptr()
    kept = source()
    first = kept.increment(0)
    before = first.clone()
    kept.increment(100)
    assert torch.equal(first, before)
    with torch.inference_mode():
        assert torch.equal(source().increment(100), kept.increment(100))


def test_a_run_can_be_differentiated_through_increments_of_several_chunks():
    a = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    sde = mlsde.SDE(lambda t, y: -a * y, lambda t, y: a * y, noise="diagonal")
    y0 = torch.ones(2000, 1, dtype=torch.float64)
    done = mlsde.solve(sde, y0, (0.0, 1.0), steps=150, seed=1, gradients=True)
    (slope,) = torch.autograd.grad(done.y1.mean(), a)
    ends = []
    for value in (0.5 + 1e-6, 0.5 - 1e-6):
        moved = mlsde.SDE(lambda t, y, v=value: -v * y, lambda t, y, v=value: v * y, noise="diagonal")
        ends.append(float(mlsde.solve(moved, y0, (0.0, 1.0), steps=150, seed=1).y1.mean()))
    assert float(slope) == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5)


def test_a_paths_increments_in_turn_are_those_that_are_asked_for():
    path = mlsde.BrownianPath(0.0, 1.0, shape=(3, 1), like=torch.empty(0), seed=1)
    made = PathIncrements(path, np.linspace(0.0, 1.0, 9), (3, 1), torch.empty(0))
    assert all(torch.equal(dw, made.increment(n)) for n, dw in enumerate(made.between(2, 7), 2))


def test_a_plan_says_whether_one_level_is_all_it_needs():
    times, levels = np.linspace(0.0, 1.0, 5), [lambda t, y: -y, lambda t, y: -2 * y, lambda t, y: -3 * y]
    values, parts = mlsde.DriftHierarchy(levels), mlsde.DriftHierarchy.from_differences(levels)
    assert fixed_plan(None, times, values).alone == 2
    assert [fixed_plan(k, times, values).alone for k in (1, 2)] == [0, 1]
    assert [fixed_plan(k, times, parts).alone for k in (1, 2, None)] == [0, None, None]
    assert fixed_plan(lambda t: 1 if t < 0.5 else 3, times, values).alone is None
    sure = mlsde.Multilevel(mlsde.Constant([1, 1, 1]), "independent", "impulse")
    assert multilevel_plan(sure, times, values).alone is None
    y0 = torch.ones(4, 2)
    for drift in (values, parts):
        for level in (1, 2, 3):
            done = mlsde.solve(mlsde.SDE(drift, 0.5), y0, times=times, level=level, seed=1)
            rate = level if drift is values else (1, 3, 6)[level - 1]
            plain = mlsde.solve(mlsde.SDE(lambda t, y, r=rate: -r * y, 0.5), y0, times=times, seed=1)
            assert torch.allclose(done.y1, plain.y1, atol=1e-6)
            assert done.stats.calls == tuple(
                4 if (k == level if drift is values else k <= level) else 0 for k in (1, 2, 3)
            )
