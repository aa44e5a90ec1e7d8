import gc
import itertools
import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mlsde
from mlsde import brownian
from mlsde.brownian import BrownianPath, NoiseSampler
from mlsde.increments import IndependentIncrements

GRIDS = [1, 7, 10, 64, 99, 100, 1000, 4096]
some_examples = settings(max_examples=25, deadline=None, derandomize=True)
times_within = st.floats(0.0, 1.0).map(lambda t: round(t, 6))


def path(**options):
    return BrownianPath(0.0, 1.0, **{"shape": (3, 2), "dtype": torch.float64, "seed": 5} | options)


def walk(noise, times):
    """The path at each time, as sums of the increments from the first."""
    increments = [noise(a, b) for a, b in itertools.pairwise(times)]
    return torch.stack([torch.zeros_like(increments[0]), *increments]).cumsum(0)


def storages(instance):
    """Bytes of all tensors that an object holds, each storage counted once, and their number."""
    found, seen, todo = {}, set(), [vars(instance)]
    while todo:
        item = todo.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, torch.Tensor):
            storage = item.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
        elif isinstance(item, dict):
            todo.extend(item.values())
        elif isinstance(item, (list, tuple)):
            todo.extend(item)
        elif hasattr(item, "__dict__") and type(item).__module__.startswith("mlsde"):
            todo.append(vars(item))
    return sum(found.values()), len(found)


# One path, however it is asked for


def test_one_seed_gives_one_path_and_another_seed_another():
    assert torch.equal(path()(0.2, 0.7), path()(0.2, 0.7))
    assert not torch.equal(path()(0.2, 0.7), path(seed=6)(0.2, 0.7))
    assert not torch.equal(path()(0.2, 0.7), path(seed=5 + 2**32)(0.2, 0.7))


@pytest.mark.parametrize("grids", [(50, 100, 1000, 10_000), (1000, 10_000), (1,), (7,)])
@pytest.mark.parametrize("steps", GRIDS)
def test_the_sum_of_fine_increments_equals_the_coarse_one(steps, grids):
    times = np.linspace(0.0, 1.0, steps + 1).tolist()
    fine = walk(path(grids=grids), times)
    coarse = path(grids=grids)
    for t in (0.1, 0.25, 1 / 7, 0.5, 1.0):
        n = round(t * steps)
        if abs(times[n] - t) < 1e-15:
            torch.testing.assert_close(fine[n], coarse.value(t), rtol=0, atol=1e-13)
    torch.testing.assert_close(fine[-1], coarse(0.0, 1.0), rtol=0, atol=1e-13)


@pytest.mark.parametrize("steps", GRIDS)
def test_forwards_and_backwards_walks_meet(steps):
    times = np.linspace(0.0, 1.0, steps + 1).tolist()
    forwards, backwards = walk(path(), times), walk(path(), times[::-1])
    torch.testing.assert_close(backwards, forwards.flip(0) - forwards[-1], rtol=0, atol=1e-13)


@some_examples
@given(inner=st.lists(times_within, min_size=1, max_size=12, unique=True), order=st.randoms(use_true_random=False))
def test_values_do_not_depend_on_what_was_asked_before(inner, order):
    busy, times = path(), list(inner)
    first = {t: busy.value(t).clone() for t in times}
    order.shuffle(times)
    assert all(torch.equal(busy.value(t), first[t]) for t in times)
    assert all(torch.equal(path().value(t), first[t]) for t in times)


@some_examples
@given(inner=st.lists(times_within, min_size=1, max_size=10, unique=True))
def test_an_irregular_grid_sums_to_the_whole_both_ways(inner):
    times = sorted({0.0, 1.0, *inner})
    whole = path()(0.0, 1.0)
    torch.testing.assert_close(walk(path(), times)[-1], whole, rtol=0, atol=1e-13)
    torch.testing.assert_close(walk(path(), times[::-1])[-1], -whole, rtol=0, atol=1e-13)


def test_the_ends_may_come_in_either_order_and_the_path_starts_at_zero():
    late, reversed_ends = BrownianPath(2.0, 5.0, shape=(4,), seed=1), BrownianPath(5.0, 2.0, shape=(4,), seed=1)
    assert torch.equal(late.value(2.0), torch.zeros(4))
    assert torch.equal(late(2.5, 4.0), reversed_ends(2.5, 4.0))
    assert torch.equal(late(4.0, 2.5), -late(2.5, 4.0))


def test_a_longer_interval_scales_the_path():
    long = BrownianPath(0.0, 4.0, shape=(5,), dtype=torch.float64, seed=2)
    short = BrownianPath(0.0, 1.0, shape=(5,), dtype=torch.float64, seed=2)
    torch.testing.assert_close(long.value(1.2), 2 * short.value(0.3))


def test_a_value_that_was_handed_out_does_not_change_later():
    busy = path()
    held, increment = busy.value(0.5), busy(0.5, 0.6)
    before, increment_before = held.clone(), increment.clone()
    increment.add_(1.0)
    walk(busy, np.linspace(0, 1, 300).tolist())
    assert torch.equal(held, before)
    assert torch.equal(busy(0.5, 0.6), increment_before)


# Precision, shape, seeds


@pytest.mark.parametrize("steps", [7, 100, 4096])
def test_float32_and_float64_ride_the_same_path(steps):
    times = np.linspace(0.0, 1.0, steps + 1).tolist()
    single, double = walk(path(dtype=torch.float32), times), walk(path(), times)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-7 * steps**0.5 + 1e-6)


def test_half_precisions_get_a_float32_path():
    assert path(dtype=torch.bfloat16)(0.0, 0.3).dtype == torch.float32
    assert BrownianPath(0, 1, like=torch.zeros(2, 3, dtype=torch.float16)).dtype == torch.float32


@pytest.mark.parametrize("shape", [(1,), (5,), (2, 3), (2, 3, 4, 5), (1, 1, 1), (1000, 10), (70, 100)])
def test_any_shape_will_do(shape):
    assert path(shape=shape)(0.0, 0.3).shape == shape
    torch.testing.assert_close(walk(path(shape=shape), [0, 0.4, 1])[-1], path(shape=shape)(0.0, 1.0))


def test_like_gives_shape_dtype_and_device_and_explicit_arguments_win():
    like = torch.zeros(4, 2, dtype=torch.float64)
    assert BrownianPath(0, 1, like=like)(0, 1).shape == (4, 2)
    assert BrownianPath(0, 1, like=like)(0, 1).dtype == torch.float64
    assert BrownianPath(0, 1, like=like, shape=(4, 1), dtype=torch.float32)(0, 1).shape == (4, 1)
    assert BrownianPath(0, 1, like=like, shape=(4, 1), dtype=torch.float32)(0, 1).dtype == torch.float32


@pytest.mark.parametrize("tail", [(), (3,), (2, 2)])
def test_with_a_seed_per_sample_a_split_batch_has_identical_rows(tail):
    seeds = (3, 1, 4, 1 + 2**32, 5, 9)
    times = [0.0, 0.1, 0.125, 1 / 3, 0.9, 1.0]
    whole = walk(path(shape=(6, *tail), seed=seeds), times)
    for first, last in [(0, 1), (1, 3), (3, 6)]:
        part = walk(path(shape=(last - first, *tail), seed=seeds[first:last]), times)
        assert torch.equal(part, whole[:, first:last])
    assert not torch.equal(whole[:, 1], whole[:, 3]), "seeds that differ beyond 32 bits must differ"


# Cost


def held_after(steps):
    instance = path(shape=(1,), grids=(1,))
    for n in range(steps):
        instance(n / steps, (n + 1) / steps)
    return storages(instance), len(instance._stack)


def test_memory_grows_at_most_with_the_logarithm_of_the_number_of_steps():
    (few_bytes, few_count), _ = held_after(2**4)
    (many_bytes, many_count), depth = held_after(2**13)
    per_level = 16 * 8 + 4 * 8  # a chunk of normals and the values of a cell
    assert many_bytes - few_bytes <= 9 * per_level
    assert many_count - few_count <= 9 * 3
    assert depth <= 14


def test_queries_off_the_tree_leave_no_tensors_behind():
    def live():
        gc.collect()
        return sum(type(item) is torch.Tensor for item in gc.get_objects())

    instance = path(shape=(1,))
    times = np.random.default_rng(0).random(400).tolist()
    walk(instance, times[:200])
    before = live()
    walk(instance, times)
    assert live() <= before + 60, "cells of one branch of the tree and a chunk for each of its levels"
    assert len(instance._stack) <= 32


def test_no_recursion_however_deep_the_query():
    frame, depth = sys._getframe(), 0
    while frame is not None:
        frame, depth = frame.f_back, depth + 1
    instance, limit = path(grids=(1,)), sys.getrecursionlimit()
    try:
        sys.setrecursionlimit(depth + 25)
        instance(1 / 3, 1 / math.pi)  # 32 levels deep
    finally:
        sys.setrecursionlimit(limit)


@pytest.mark.parametrize(
    ("grids", "steps"),
    [((50, 100, 1000, 10_000), n) for n in (1, 50, 100, 200, 1000, 2000, 10_000)]
    + [((1,), n) for n in (1, 64, 4096)]
    + [((10, 100), n) for n in (10, 100, 200)]
    + [((3,), 3)],
)
def test_equal_steps_on_the_tree_cost_one_normal_each(grids, steps):
    assert drawn(steps, grids=grids) == steps


@pytest.mark.parametrize(("steps", "normals"), [(400, 2), (800, 3), (64, 8), (256, 9), (1024, 9), (300, 17)])
def test_other_numbers_of_steps_cost_what_the_pages_say(steps, normals):
    assert abs(drawn(steps) / steps - normals) < 0.6


def drawn(steps, **options):
    """How many normals a run of equal steps draws."""

    class Counting(BrownianPath):
        count = 1  # the end

        def _normal(self, stage, point):
            self.count += 1
            return super()._normal(stage, point)

    instance = Counting(0.0, 1.0, shape=(1,), **options)
    for n in range(steps):
        instance(n / steps, (n + 1) / steps)
    return instance.count


# What it refuses


def test_times_outside_the_interval_are_refused():
    with pytest.raises(ValueError, match=r"t=1.1 lies outside the path's interval \[0.0, 1.0\]"):
        path()(0.0, 1.1)


def test_an_end_that_was_rounded_to_float32_is_still_the_end():
    short = BrownianPath(0.0, 0.3, shape=(2,), seed=1)
    end = float(torch.tensor(0.3, dtype=torch.float32))
    assert end > 0.3
    assert torch.equal(short.value(end), short.value(0.3))
    with pytest.raises(ValueError, match="lies outside"):
        short.value(0.3 + 1e-6)


def test_steps_below_the_resolution_are_refused_and_equal_times_are_not():
    with pytest.raises(ValueError, match="closer than the path resolves"):
        path()(0.5, 0.5 + 1e-12)
    assert torch.equal(path()(0.3, 0.3), torch.zeros(3, 2, dtype=torch.float64))


def test_grids_must_refine_each_other():
    with pytest.raises(ValueError, match="each a multiple of the one before"):
        path(grids=(1000, 4096))


# Other noise


def test_a_path_serves_as_a_noise_sampler_of_unit_normals():
    unit = path().noise_sampler(0.3, 0.1)
    torch.testing.assert_close(unit, path()(0.3, 0.1) / math.sqrt(0.2))
    back = NoiseSampler(path().noise_sampler)
    torch.testing.assert_close(back(0.3, 0.1), path()(0.3, 0.1))


def test_a_noise_sampler_drives_a_solve():
    sde = mlsde.SDE(lambda t, y: -y, 0.5)
    y0 = torch.ones(3, 2, dtype=torch.float64)
    direct = mlsde.solve(sde, y0, (0.0, 1.0), steps=20, brownian=path())
    wrapped = mlsde.solve(sde, y0, (0.0, 1.0), steps=20, brownian=NoiseSampler(path().noise_sampler))
    torch.testing.assert_close(wrapped.y1, direct.y1)


def increments_on(times, shape=(4,), seed=0, dtype=torch.float64):
    return IndependentIncrements(np.asarray(times), shape, dtype, torch.device("cpu"), seed)


@pytest.mark.parametrize("times", [np.linspace(0, 1, 1201), np.linspace(0, 1, 1201) ** 2, np.linspace(3, -1, 700)])
def test_independent_increments_are_the_same_in_any_order(times):
    source, other = increments_on(times), increments_on(times)
    forwards = torch.stack([source.increment(n) for n in range(len(times) - 1)])
    order = np.random.default_rng(0).permutation(len(times) - 1).tolist()
    assert all(torch.equal(other.increment(n), forwards[n]) for n in order)


def test_independent_increments_of_a_split_batch_are_identical():
    times, seeds = np.linspace(0, 1, 600), (3, 1, 4, 1 + 2**32)
    whole, part = increments_on(times, (4, 2), seeds), increments_on(times, (2, 2), seeds[1:3])
    assert all(torch.equal(part.increment(n), whole.increment(n)[1:3]) for n in (0, 17, 598))


def test_independent_increments_are_the_same_in_both_precisions():
    times = np.linspace(0, 1, 100) ** 3
    single, double = increments_on(times, dtype=torch.float32), increments_on(times)
    for n in (0, 50, 98):
        torch.testing.assert_close(single.increment(n).double(), double.increment(n), rtol=1e-6, atol=1e-9)


def test_the_most_leaves_still_have_a_seed_of_their_own():
    assert brownian._MOST_LEAVES < 2**32
    assert path(grids=(2**31,))._leaves <= brownian._MOST_LEAVES


def test_ends_rounded_to_float32_are_within_the_path_for_the_solver_too():
    y0 = torch.zeros(2, 1)
    sde = mlsde.SDE(lambda t, y: -y, diffusion=1.0)
    mlsde.solve(sde, y0, times=torch.linspace(0, 0.1, 11), brownian=BrownianPath(0, 0.1, like=y0))
    with pytest.raises(ValueError, match=r"brownian covers \[0.0, 0.1\]"):
        mlsde.solve(sde, y0, (0, 0.1001), steps=10, brownian=BrownianPath(0, 0.1, like=y0))
