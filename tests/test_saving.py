"""Saving: the states that were asked for, at the times that were asked for, and nothing else."""

import gc
from pathlib import Path

import numpy as np
import pytest
import torch

from mlsde import SDE, BrownianPath, Constant, DriftHierarchy, Multilevel, solve

Y0 = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)
ODE = SDE(lambda t, y: -y)
NOISY = SDE(lambda t, y: -y, 0.5)


def euler_by_hand(h, steps, y=Y0):
    states = [y]
    for _ in range(steps):
        states.append(states[-1] - h * states[-1])
    return torch.stack(states)


def test_without_save_at_the_last_state_alone_is_saved():
    solution = solve(NOISY, Y0, (0.0, 2.0), steps=10)
    assert solution.ts.tolist() == [2.0]
    assert solution.ys.shape == (1, 2, 2)
    assert torch.equal(solution.y1, solution.ys[-1])


def test_steps_saves_the_whole_grid_with_the_initial_state():
    solution = solve(ODE, Y0, (0.0, 1.0), steps=8, save_at="steps")
    assert solution.ts.tolist() == [n / 8 for n in range(9)]
    torch.testing.assert_close(solution.ys, euler_by_hand(1 / 8, 8))
    assert torch.equal(solution.ys[0], Y0)


def test_times_on_the_grid_are_saved_without_interpolation():
    every = solve(NOISY, Y0, (0.0, 1.0), steps=8, save_at="steps")
    some = solve(NOISY, Y0, (0.0, 1.0), steps=8, save_at=[0.25, 0.5, 1.0])
    assert torch.equal(some.ys, every.ys[[2, 4, 8]])


def test_times_between_steps_are_interpolated_linearly():
    every = solve(NOISY, Y0, (0.0, 1.0), steps=4, save_at="steps").ys
    some = solve(NOISY, Y0, (0.0, 1.0), steps=4, save_at=[0.05, 0.1, 0.3, 0.9])
    assert some.ts.tolist() == [0.05, 0.1, 0.3, 0.9]
    expected = [0.8 * every[0] + 0.2 * every[1], 0.6 * every[0] + 0.4 * every[1]]
    expected += [0.8 * every[1] + 0.2 * every[2], 0.4 * every[3] + 0.6 * every[4]]
    torch.testing.assert_close(some.ys, torch.stack(expected))


@pytest.mark.parametrize(
    "save_at",
    [
        [0.0, 0.3, 1.0],
        (0.0, 0.3, 1.0),
        np.array([0.0, 0.3, 1.0]),
        torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64),
        [0, torch.tensor(0.3, dtype=torch.float64), 1],
    ],
)
def test_times_may_be_any_kind_of_sequence(save_at):
    solution = solve(NOISY, Y0, (0, 1), steps=10, save_at=save_at)
    assert solution.ts.dtype == torch.float64
    assert solution.ts.tolist() == [0.0, 0.3, 1.0]
    assert torch.equal(solution.ys, solve(NOISY, Y0, (0, 1), steps=10, save_at=[0.0, 0.3, 1.0]).ys)


def test_the_initial_state_can_be_saved_alone():
    solution = solve(NOISY, Y0, (0.0, 1.0), steps=10, save_at=[0.0])
    assert torch.equal(solution.ys, Y0[None])


def test_backwards_in_time_the_saved_times_decrease():
    solution = solve(ODE, Y0, (1.0, 0.0), steps=4, save_at=[1.0, 0.6, 0.25, 0.0])
    every = euler_by_hand(-1 / 4, 4)
    assert solution.ts.tolist() == [1.0, 0.6, 0.25, 0.0]
    expected = torch.stack([every[0], 0.4 * every[1] + 0.6 * every[2], every[3], every[4]])
    torch.testing.assert_close(solution.ys, expected)
    with pytest.raises(ValueError, match="from t0 towards t1"):
        solve(ODE, Y0, (1.0, 0.0), steps=4, save_at=[0.0, 0.5])


def test_saving_changes_nothing_about_the_run():
    ends = [solve(NOISY, Y0, (0, 1), steps=100, save_at=at).y1 for at in (None, "steps", [0.123, 1.0])]
    assert torch.equal(ends[0], ends[1])
    assert torch.equal(ends[0], ends[2])


def test_saved_times_on_an_explicit_grid_are_found():
    times = [0.0, 0.1, 0.15, 0.7, 1.0]
    every = solve(NOISY, Y0, times=times, save_at="steps")
    assert every.ts.tolist() == times
    some = solve(NOISY, Y0, times=times, save_at=[0.15, 0.425, 1.0])
    torch.testing.assert_close(some.ys[1], (every.ys[2] + every.ys[3]) / 2)
    assert torch.equal(some.ys[[0, 2]], every.ys[[2, 4]])


def test_an_end_that_was_rounded_to_float32_counts_as_the_end():
    rounded = torch.linspace(0, 0.1, 5)
    assert rounded[-1].item() > 0.1
    solution = solve(NOISY, Y0, (0.0, 0.1), steps=10, save_at=rounded)
    assert solution.ts[-1] == 0.1
    assert torch.equal(solution.y1, solve(NOISY, Y0, (0.0, 0.1), steps=10).y1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_states_are_saved_in_the_dtype_of_the_initial_one(dtype):
    solution = solve(NOISY, Y0.to(dtype), (0, 1), steps=10, save_at=[0.0, 0.5, 0.55, 1.0])
    assert solution.ys.dtype == dtype
    assert torch.equal(solution.ys[0], Y0.to(dtype))


def test_the_saved_states_are_not_the_initial_state_itself():
    y0 = Y0.clone()
    solution = solve(NOISY, y0, (0, 1), steps=10, save_at=[0.0, 1.0])
    y0.zero_()
    assert torch.equal(solution.ys[0], Y0)


def test_a_time_beyond_the_end_is_refused_though_the_times_are_large():
    with pytest.raises(ValueError, match="save_at must lie between"):
        solve(NOISY, Y0, (1e7, 1e7 + 1), steps=10, save_at=[1e7 + 1.01])


stops = [lambda n: n == 5, lambda n: np.bool_(n == 5), lambda n: torch.tensor(n == 5)]


@pytest.mark.parametrize("stop", stops)
def test_a_callback_that_returns_true_ends_the_run(stop):
    calls = []

    def callback(n, t, y):
        calls.append((n, t, y.clone()))
        return stop(n)

    solution = solve(NOISY, Y0, (0, 1), steps=10, save_at=[0.0, 0.45, 0.5, 0.55, 1.0], callback=callback)
    every = solve(NOISY, Y0, (0, 1), steps=10, save_at="steps").ys
    assert [n for n, _, _ in calls] == [1, 2, 3, 4, 5]
    assert [t for _, t, _ in calls] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert all(torch.equal(y, every[n]) for n, _, y in calls)
    assert solution.ts.tolist() == [0.0, 0.45, 0.5]
    assert torch.equal(solution.y1, every[5])
    assert not solution.success
    assert solution.message == "stopped by the callback after 5 of 10 steps, at t=0.5."
    assert solution.stats.evaluations == (5.0,)


def test_a_run_that_a_callback_ends_saves_where_it_ended_if_the_end_was_asked_for():
    solution = solve(NOISY, Y0, (0, 1), steps=10, callback=lambda n, t, y: n == 5)
    assert solution.ts.tolist() == [0.5]
    assert torch.equal(solution.y1, solve(NOISY, Y0, (0, 1), steps=10, save_at=[0.5]).y1)


@pytest.mark.parametrize("answer", [None, False, 1, "on", [3], torch.tensor([True, True])])
def test_what_is_not_true_does_not_end_a_run(answer):
    assert solve(NOISY, Y0, (0, 1), steps=3, callback=lambda n, t, y: answer).success


def test_a_callback_that_ends_the_last_step_ends_a_finished_run():
    solution = solve(NOISY, Y0, (0, 1), steps=3, callback=lambda n, t, y: n == 3)
    assert solution.success
    assert solution.message == "reached t=1 in 3 steps."


def live_tensors():
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


def test_only_the_states_that_were_asked_for_are_kept():
    """Counted halfway and near the end of a run, the tensors alive are no more than the chunks in use."""
    counts = []

    def callback(n, t, y):
        if n in (2_000, 9_000):
            counts.append(live_tensors())

    before = live_tensors()
    solution = solve(NOISY, Y0, (0, 1), steps=10_000, save_at=[0.1, 0.95], callback=callback)
    assert len(solution.ys) == 2
    assert counts[1] - counts[0] <= 5
    assert live_tensors() - before <= 5


MEMORY = Path("/proc/self/statm")


@pytest.mark.skipif(not MEMORY.exists(), reason="this system does not tell a process its memory there")
@pytest.mark.parametrize("brownian", [None, BrownianPath(0, 1, like=Y0, grids=(50_000,))], ids=["increments", "path"])
def test_a_long_run_does_not_grow(brownian):
    """Between an early and a late step the memory of the process grows by less than 2 MB (45 bytes a step)."""
    pages = []

    def callback(n, t, y):
        if n in (5_000, 49_000):
            pages.append(int(MEMORY.read_text().split()[1]))

    drift = DriftHierarchy([lambda t, y: -y, lambda t, y: -1.1 * y], costs=[1.0, 10.0])
    multilevel = Multilevel(Constant([1.0, 0.1]))
    solve(SDE(drift, 0.5), Y0, (0, 1), steps=50_000, multilevel=multilevel, brownian=brownian, callback=callback)
    assert (pages[1] - pages[0]) * 4096 < 2e6
