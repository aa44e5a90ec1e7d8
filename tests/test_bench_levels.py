"""What the benchmarks measure with: levels, prices, peaks of memory, and a peer in JAX."""

import importlib
import os
from dataclasses import replace

import pytest
import torch

from mlsde import bench
from mlsde.bench import contenders, diffrax_euler, levels

CPU = torch.device("cpu")


def test_added_work_changes_no_value():
    y = torch.linspace(-2.0, 2.0, 12).reshape(3, 4)
    t = torch.tensor(0.3)
    for products, width in ((0, 1), (5, 2), (5, 9)):
        laboured = levels.Laboured(lambda t, y: torch.sin(y) + t, products, width)
        assert torch.equal(laboured(t, y), torch.sin(y) + t)


def test_added_work_is_done(monkeypatch):
    seen = []
    monkeypatch.setattr(torch, "tanh", lambda x: seen.append(tuple(x.shape)) or x)
    levels.Laboured(levels.free, 3, 7)(torch.tensor(0.0), torch.ones(5, 4))
    assert seen == [(5, 7)] * 3


def test_a_busy_level_without_products_is_a_multiple_of_the_state():
    y = torch.tensor([[1.0, -2.0]])
    assert torch.equal(levels.BusyLevel(0, 2, 0.25)(torch.tensor(0.0), y), -0.75 * y)


def test_a_level_that_counts_returns_what_the_level_does():
    counted = levels.Counted(levels.free)
    y = torch.tensor([[1.0, -2.0]])
    assert torch.equal(counted(torch.tensor(0.0), y), -y)
    counted(torch.tensor(0.0), y)
    assert counted.count == 2


def test_the_price_of_a_level_is_the_mean_of_several_evaluations(monkeypatch):
    ticks = iter(range(0, 10_000, 2))
    monkeypatch.setattr(levels.time, "perf_counter", lambda: float(next(ticks)))
    counted = levels.Counted(levels.free)
    found = levels.price(counted, torch.ones(1, 1))
    assert counted.count == 1 + 3 + 3  # a first, a trial, and no more than three where each takes so long
    assert found == pytest.approx(2.0 / 3.0)


peak = pytest.mark.skipif(bench.peak_bytes(lambda: None, CPU) is None, reason="the system does not tell a peak")


@peak
def test_the_peak_is_what_was_held_at_once():
    size = 2**26

    def held_at_once(tensors):
        kept = [torch.ones(size // 4) for _ in range(tensors)]
        kept.clear()

    for tensors in (1, 2):
        found = bench.peak_bytes(lambda n=tensors: held_at_once(n), CPU)
        assert tensors * size <= found + 2**22 and found < tensors * size + 2**24


@peak
def test_the_peak_of_work_in_turn_is_that_of_one():
    def in_turn():
        for _ in range(3):
            torch.ones(2**24)

    found = bench.peak_bytes(in_turn, CPU)
    assert 2**26 - 2**22 <= found < 1.5 * 2**26


@peak
def test_what_was_held_before_is_not_counted():
    before = torch.ones(2**24)
    assert bench.peak_bytes(before.sum, CPU) < 2**23
    torch.ones(2**25)  # a peak that has passed
    assert bench.peak_bytes(before.sum, CPU) < 2**23


def test_where_the_system_does_not_tell_a_peak_there_is_none(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.import_module("mlsde.bench.memory"), "_FORGET", tmp_path / "nowhere" / "clear_refs")
    assert bench.peak_bytes(lambda: None, CPU) is None
    timing = bench.Timing((1, 1), contenders.BARE, 1, (1,), (1.0,), (0.5,))
    result = bench.CoreBenchmark((replace(timing, peak=None),), (), 0)
    assert "| - | - |" in result.markdown()


def test_nothing_is_compiled_for_contenders_in_torch():
    for name in (contenders.BARE, contenders.ONE_LEVEL, contenders.HOLD, contenders.TORCHSDE):
        assert contenders.compile_seconds(name, [levels.free], torch.ones(1, 1)) is None


@pytest.fixture(scope="module")
def jax():
    pytest.importorskip("diffrax")
    return diffrax_euler._libraries()[0]


def test_a_busy_level_says_the_same_in_jax(jax):
    y = torch.linspace(-1.0, 1.0, 12).reshape(3, 4)
    for products in (0, 3):
        level = levels.BusyLevel(products, 4, 0.5)
        found = torch.tensor(level.in_jax()(0.0, jax.numpy.asarray(y.numpy())).tolist())
        torch.testing.assert_close(found, level(torch.tensor(0.0), y))


def test_what_was_compiled_serves_any_seed_and_number_of_steps(jax):
    diffrax_euler.compiled.cache_clear()
    y0 = torch.ones(2, 3)
    ran = [
        bench.CONTENDERS[contenders.UNSAFE]([levels.free], y0, steps, seed) for steps, seed in ((5, 0), (5, 1), (7, 0))
    ]
    assert diffrax_euler.compiled.cache_info().misses == 1
    assert len({tuple(y.ravel().tolist()) for y in ran}) == 3
    again = bench.CONTENDERS[contenders.UNSAFE]([levels.free], y0, 5, 0)
    assert torch.equal(again, ran[0])


def test_compiling_is_timed_apart_from_running(jax):
    diffrax_euler.compiled.cache_clear()
    assert contenders.compile_seconds(contenders.UNSAFE, [levels.free], torch.ones(1, 1)) > 0
    bench.CONTENDERS[contenders.UNSAFE]([levels.free], torch.ones(1, 1), 3, 0)
    assert diffrax_euler.compiled.cache_info().misses == 1


def test_evaluations_in_jax_are_priced_by_a_loop_that_runs_them(jax):
    counted = levels.Counted(levels.free)
    assert diffrax_euler.price(counted, torch.ones(1, 1), seconds=1e-12) > 0
    diffrax_euler.settle()
    assert counted.count == 1 + 100 + 3


def test_the_environment_is_left_as_it_was(monkeypatch):
    monkeypatch.setenv("NPROC", "7")
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    with diffrax_euler._environment(NPROC="1", JAX_PLATFORMS="cpu"):
        assert (os.environ["NPROC"], os.environ["JAX_PLATFORMS"]) == ("1", "cpu")
    assert os.environ["NPROC"] == "7"
    assert "JAX_PLATFORMS" not in os.environ
