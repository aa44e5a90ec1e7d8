"""The loop: what it calls, how often, with what, and that what comes back is the scheme's own result."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from mlsde import SDE, Constant, DriftHierarchy, Multilevel, PowerLaw, from_numpy, solve

generator = torch.Generator().manual_seed(0)
Y0 = torch.randn(5, 3, generator=generator, dtype=torch.float64)
COARSE, FINE = (lambda t, y: -y), (lambda t, y: -torch.sin(y) + 0.1 * t)
LADDER = DriftHierarchy([COARSE, FINE], costs=[1.0, 10.0])
CORRECTIONS = ("impulse", "hold", "control", "extrapolate")
RULES = [(a, b) for a in ("independent", "nested", "systematic", "periodic") for b in CORRECTIONS]
RULES = [(a, b) for a, b in RULES if b != "extrapolate" or a in ("systematic", "periodic")]


def shared(p=(1.0, 0.3), correction="hold", **options):
    return Multilevel(Constant(p), correction=correction, **options)


def by_hand(f, y, times, dw=None, g=None):
    """Euler-Maruyama as one would write it down."""
    for n, (t, t_next) in enumerate(pairwise(times)):
        y = y + (t_next - t) * f(t, y) + (0 if dw is None else g(t, y) * dw[n])
    return y


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("steps", [10, 50, 99, 100, 1000])
@pytest.mark.parametrize(("method", "stages"), [("euler", 1), ("heun", 2)])
def test_n_steps_make_exactly_n_estimates_and_end_at_t1_itself(method, stages, steps, dtype):
    seen, ends = [], []

    def counting(t, y):
        seen.append(t.item())
        return -y

    y0 = torch.ones(1, 1, dtype=dtype)
    solution = solve(SDE(counting), y0, (0.0, 0.1), steps=steps, method=method, callback=lambda n, t, y: ends.append(t))
    assert len(seen) == stages * steps
    assert solution.stats.calls == (stages * steps,)
    assert len(ends) == steps
    assert ends[-1] == 0.1
    assert solution.ts[-1].item() == 0.1


def test_euler_is_the_loop_one_would_write():
    times = np.linspace(0.0, 1.0, 51)
    solution = solve(SDE(FINE), Y0, (0.0, 1.0), steps=50)
    torch.testing.assert_close(solution.y1, by_hand(FINE, Y0, times), rtol=1e-14, atol=1e-14)


def test_backwards_in_time_the_step_is_negative_and_the_noise_is_not():
    increments = torch.randn(20, 5, 3, generator=generator, dtype=torch.float64)
    times = np.linspace(1.0, 0.0, 21)
    given = {round(t, 9): dw for t, dw in zip(times[:-1].tolist(), increments, strict=True)}
    sde = SDE(FINE, lambda t: 0.5 + t)
    solution = solve(sde, Y0, (1.0, 0.0), steps=20, brownian=lambda a, b: given[round(a, 9)])
    expected = by_hand(FINE, Y0, times, increments, lambda t, y: 0.5 + t)
    torch.testing.assert_close(solution.y1, expected, rtol=1e-13, atol=1e-13)


def test_independent_increments_backwards_have_the_variance_of_the_step():
    y0 = torch.zeros(20_000, 1)
    end = solve(SDE(lambda t, y: torch.zeros_like(y), 1.0), y0, (3.0, 1.0), steps=4).y1
    assert abs(end.var().item() - 2.0) < 5 * 2.0 * math.sqrt(2 / 20_000)  # five standard errors: 6e-7


@pytest.mark.parametrize(
    "times", [np.linspace(0, 1, 41), np.linspace(0, 1, 41).tolist(), torch.linspace(0, 1, 41).double()]
)
def test_an_explicit_grid_that_is_uniform_gives_what_steps_give(times):
    uniform = solve(SDE(LADDER, 0.5), Y0, (0.0, 1.0), steps=40, multilevel=shared())
    explicit = solve(SDE(LADDER, 0.5), Y0, times=times, multilevel=shared())
    assert len(explicit.plan.times) == 41
    torch.testing.assert_close(explicit.y1, uniform.y1, rtol=1e-6, atol=1e-6)
    if not isinstance(times, torch.Tensor):
        assert torch.equal(explicit.y1, uniform.y1)


def test_an_explicit_grid_may_be_uneven_and_decreasing():
    times = [2.0, 1.5, 1.4, 0.3, -1.0]
    solution = solve(SDE(FINE), Y0, times=times)
    torch.testing.assert_close(solution.y1, by_hand(FINE, Y0, times), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("shape", [(1,), (7,), (2, 3), (2, 2, 3, 4), (1, 1, 1, 1, 2)])
@pytest.mark.parametrize("share", ["batch", "sample"])
@pytest.mark.parametrize("correction", CORRECTIONS)
def test_states_of_any_shape_give_what_the_same_numbers_give_in_a_row(shape, share, correction):
    y0 = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    multilevel = shared(correction=correction, share=share, seed=1)
    whole = solve(SDE(LADDER), y0, (0, 1), steps=30, multilevel=multilevel).y1
    assert whole.shape == y0.shape
    flat = solve(SDE(LADDER), y0.reshape(shape[0], -1), (0, 1), steps=30, multilevel=multilevel).y1
    torch.testing.assert_close(whole.reshape(shape[0], -1), flat)


@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 2, 3)])
@pytest.mark.parametrize("constant", [False, True])
def test_general_noise_is_matrix_times_vector_for_each_sample(shape, constant):
    y0 = torch.ones(shape, dtype=torch.float64)
    matrix = torch.randn(*(shape[1:] if constant else shape), 5, generator=generator, dtype=torch.float64)
    dw = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    sde = SDE(COARSE, matrix if constant else lambda t, y: matrix, noise="general")
    end = solve(sde, y0, (0, 1), steps=1, brownian=lambda a, b: dw).y1
    expected = torch.stack([(matrix if constant else matrix[i]) @ dw[i] for i in range(4)])
    torch.testing.assert_close(end, expected)


def test_time_is_a_0_d_tensor_of_the_dtype_that_is_summed_in():
    for dtype, summed in [
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
        (torch.bfloat16, torch.float32),
    ]:
        seen = []
        sde = SDE(lambda t, y, seen=seen: seen.append(t) or -y, lambda t, seen=seen: seen.append(t) or 0.1)
        solve(sde, torch.ones(2, dtype=dtype), (0, 1), steps=3)
        assert {(t.dtype, t.ndim) for t in seen} == {(summed, 0)}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("share", ["batch", "sample"])
def test_half_precisions_are_seen_by_the_levels_and_summed_in_float32(dtype, share):
    def seeing_half(t, y):
        assert y.dtype == dtype
        return -torch.sin(y)

    def diffusion(t, y):
        assert y.dtype == dtype
        return 0.1 * torch.cos(y)

    drift = DriftHierarchy([seeing_half, seeing_half], costs=[1.0, 10.0])
    y0 = Y0.to(dtype)
    solution = solve(
        SDE(drift, diffusion, noise="diagonal"), y0, (0, 1), steps=50, multilevel=shared(share=share), save_at="steps"
    )
    assert solution.ys.dtype == dtype


def test_a_half_precision_run_is_nearer_to_float32_than_a_loop_in_half():
    """A thousand steps of 1/1000 of a derivative of 1: in bfloat16 such steps are lost on a state of 1."""
    f = lambda t, y: 1 - 0.1 * torch.sin(y)  # noqa: E731
    y0 = torch.ones(4, 1)
    exact = solve(SDE(f), y0, (0, 1), steps=1000).y1
    ours = solve(SDE(f), y0.bfloat16(), (0, 1), steps=1000).y1
    naive = by_hand(f, y0.bfloat16(), torch.linspace(0, 1, 1001).bfloat16())
    assert (ours - exact).abs().max() < 0.01
    assert (naive - exact).abs().max() > 0.1


def test_one_seed_gives_one_result_bit_for_bit_and_another_seed_another():
    for multilevel in (None, shared(), shared(coins="independent", share="sample")):
        sde = SDE(LADDER, 0.5)
        ends = [solve(sde, Y0, (0, 1), steps=64, seed=s, multilevel=multilevel).y1 for s in (0, 0, 1, 2**32, 2**64)]
        assert torch.equal(ends[0], ends[1])
        for i in range(1, 5):
            for j in range(i):
                assert (i, j) == (1, 0) or (ends[i] - ends[j]).abs().min() > 0


@pytest.mark.parametrize("share", ["batch", "sample"])
@pytest.mark.parametrize("correction", CORRECTIONS)
def test_the_same_seed_is_the_same_path_with_coins_and_without(correction, share):
    """Where the levels agree, coins with exact corrections change nothing: what is left is the noise."""
    drift = DriftHierarchy([COARSE, COARSE], costs=[1.0, 10.0])
    multilevel = shared(correction=correction, share=share)
    plain = solve(SDE(drift, 0.5), Y0, (0, 1), steps=64, seed=3).y1
    ours = solve(SDE(drift, 0.5), Y0, (0, 1), steps=64, seed=3, multilevel=multilevel).y1
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("share", ["batch", "sample"])
@pytest.mark.parametrize(("coins", "correction"), RULES)
def test_certain_coins_are_the_top_level_bit_for_bit_and_at_its_price(coins, correction, share):
    multilevel = Multilevel(Constant([1.0, 1.0]), coins, correction, share)
    ours = solve(SDE(LADDER, 0.5), Y0, (0, 1), steps=40, multilevel=multilevel)
    plain = solve(SDE(LADDER, 0.5), Y0, (0, 1), steps=40)
    assert torch.equal(ours.y1, plain.y1)
    assert ours.stats.calls == plain.stats.calls == (0, 40)
    assert ours.stats.cost == ours.stats.full_cost == plain.stats.cost == 400.0


def test_a_ladder_of_one_level_needs_no_costs_and_no_coins():
    ours = solve(SDE(FINE, 0.5), Y0, (0, 1), steps=40, multilevel=Multilevel(PowerLaw(2.5)))
    assert torch.equal(ours.y1, solve(SDE(FINE, 0.5), Y0, (0, 1), steps=40).y1)


def test_level_chooses_one_level_or_stitches_levels_by_time():
    sde = SDE(LADDER)
    assert torch.equal(solve(sde, Y0, (0, 1), steps=20, level=1).y1, solve(SDE(COARSE), Y0, (0, 1), steps=20).y1)
    assert torch.equal(solve(sde, Y0, (0, 1), steps=20, level=2).y1, solve(sde, Y0, (0, 1), steps=20).y1)
    stitched = solve(sde, Y0, (0, 1), steps=20, level=lambda t: 1 if t < 0.5 else 2)
    half = solve(SDE(COARSE), Y0, (0, 0.5), steps=10).y1
    torch.testing.assert_close(stitched.y1, solve(SDE(FINE), half, (0.5, 1.0), steps=10).y1)
    assert stitched.stats.calls == (10, 10)
    assert stitched.stats.cost == 110.0


@pytest.mark.parametrize("correction", CORRECTIONS)
@pytest.mark.parametrize("share", ["batch", "sample"])
def test_a_ladder_given_by_its_differences_is_the_same_ladder(correction, share):
    drift = DriftHierarchy.from_differences([COARSE, lambda t, y: FINE(t, y) - COARSE(t, y)], costs=[1.0, 9.0])
    multilevel = shared(correction=correction, share=share)
    ours = solve(SDE(drift, 0.5), Y0, (0, 1), steps=50, multilevel=multilevel)
    torch.testing.assert_close(ours.y1, solve(SDE(LADDER, 0.5), Y0, (0, 1), steps=50, multilevel=multilevel).y1)
    assert ours.stats.full_cost == 500.0
    top = solve(SDE(drift), Y0, (0, 1), steps=50)
    torch.testing.assert_close(top.y1, solve(SDE(FINE), Y0, (0, 1), steps=50).y1)
    assert top.stats.cost == 500.0


def test_modules_and_numpy_functions_are_levels():
    linear = nn.Linear(3, 3, bias=False).double()

    class Module(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = linear

        def forward(self, t, y):
            return self.linear(y)

    weight = linear.weight.detach()
    numpy_level = from_numpy(lambda t, y: y @ weight.numpy().T)
    torch_level = lambda t, y: y @ weight.T  # noqa: E731
    ends = [solve(SDE(level), Y0, (0, 1), steps=20) for level in (torch_level, Module(), numpy_level)]
    torch.testing.assert_close(ends[1].y1, ends[0].y1)
    torch.testing.assert_close(ends[2].y1, ends[0].y1)
    assert not ends[1].ys.requires_grad


def test_a_numpy_level_gets_a_float_and_an_array_and_its_result_is_copied():
    buffer = np.empty((5, 3))

    def level(t, y):
        assert isinstance(t, float)
        assert isinstance(y, np.ndarray)
        return np.negative(y, out=buffer)

    ours = solve(SDE(DriftHierarchy([from_numpy(level), FINE], [1, 10])), Y0, (0, 1), steps=30, multilevel=shared())
    torch.testing.assert_close(ours.y1, solve(SDE(LADDER), Y0, (0, 1), steps=30, multilevel=shared()).y1)


@pytest.mark.parametrize("level", [lambda t, y: -y[:, ::-1], lambda t, y: np.broadcast_to(np.float32(2), y.shape)])
def test_a_numpy_level_may_return_a_view(level):
    assert solve(SDE(from_numpy(level)), Y0.float(), (0, 1), steps=3).success


def test_a_numpy_level_serves_bfloat16_through_float32():
    numpy_level = from_numpy(lambda t, y: -np.sin(y))
    ours = solve(SDE(numpy_level), Y0.bfloat16(), (0, 1), steps=50).y1
    torch.testing.assert_close(ours, solve(SDE(lambda t, y: -torch.sin(y)), Y0.bfloat16(), (0, 1), steps=50).y1)


@pytest.mark.parametrize("correction", CORRECTIONS)
@pytest.mark.parametrize("share", ["batch", "sample"])
@pytest.mark.parametrize("make", [DriftHierarchy, DriftHierarchy.from_differences])
def test_a_level_may_return_the_same_buffer_each_time(correction, share, make):
    """What is remembered of a level must not change when the level is evaluated again."""

    def into(buffer, f):
        return lambda t, y: buffer[: len(y)].copy_(f(t, y))

    levels = [COARSE, FINE, lambda t, y: FINE(t, y) + 0.1 * torch.cos(5 * y)]
    own = make([into(torch.empty(5, 3, dtype=torch.float64), f) for f in levels], costs=[1.0, 8.0, 64.0])
    multilevel = shared((0.7, 0.5, 0.3), correction, share=share)
    fresh = solve(SDE(make(levels, costs=[1.0, 8.0, 64.0])), Y0, (0, 1), steps=60, multilevel=multilevel)
    assert torch.equal(solve(SDE(own), Y0, (0, 1), steps=60, multilevel=multilevel).y1, fresh.y1)


def test_a_part_of_a_ladder_is_a_ladder_of_those_levels():
    three = DriftHierarchy([COARSE, COARSE, FINE], costs=[1.0, 3.0, 10.0], names=["a", "b", "c"])
    part = three.select([1, 3])
    assert (part.costs, part.names, len(part)) == ((1.0, 10.0), ("a", "c"), 2)
    ours = solve(SDE(part), Y0, (0, 1), steps=30, multilevel=shared())
    assert torch.equal(ours.y1, solve(SDE(LADDER), Y0, (0, 1), steps=30, multilevel=shared()).y1)
    assert DriftHierarchy.from_differences([COARSE, FINE]).select([1]).differences


def test_measured_costs_are_seconds_per_sample():
    a = torch.randn(300, 300, generator=torch.Generator().manual_seed(0))
    dear = lambda t, y: (y @ a @ a @ a @ a) / 1e6  # noqa: E731
    drift = DriftHierarchy([lambda t, y: -y, dear]).measured(0.0, torch.ones(50, 300))
    assert 0 < drift.costs[0] < drift.costs[1] < 0.1
    half = solve(SDE(drift), torch.ones(50, 300), (0, 1), steps=4, multilevel=shared((1.0, 0.5)))
    assert half.stats.cost < half.stats.full_cost + 4 * drift.costs[0]


def test_the_global_random_state_is_not_touched():
    before, numpy_before = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    solve(
        SDE(LADDER, 0.5), Y0, (0, 1), steps=30, multilevel=shared(coins="independent", share="sample"), seed=[*range(5)]
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpy_before[1]).all()  # noqa: NPY002


def test_a_run_inside_inference_mode_gives_the_same():
    with torch.inference_mode():
        inside = solve(SDE(LADDER, 0.5), Y0.clone(), (0, 1), steps=30, multilevel=shared()).y1
    assert torch.equal(inside, solve(SDE(LADDER, 0.5), Y0, (0, 1), steps=30, multilevel=shared()).y1)


def test_the_initial_state_is_not_written_into():
    for method, sde in [
        ("euler", SDE(LADDER, 0.5)),
        ("heun", SDE(LADDER, 0.5)),
        ("milstein", SDE(LADDER, lambda t, y: y, noise="diagonal")),
        ("exponential", SDE(LADDER, 0.5, linear=-1.0)),
    ]:
        y0 = Y0.clone()
        solve(sde, y0, (0, 1), steps=5, method=method)
        assert torch.equal(y0, Y0)


def test_an_expanded_initial_state_is_taken_as_it_is():
    y0 = torch.ones(1, 1).expand(4, 3)
    assert solve(SDE(COARSE, 0.5), y0, (0, 1), steps=5).y1.std() > 0


@pytest.mark.parametrize("module", [False, True])
def test_a_diffusion_may_be_a_function_of_time_alone(module):
    class OfTime(nn.Module):
        def forward(self, t):
            return 0.3 + t

    diffusion = OfTime() if module else lambda t: 0.3 + t
    assert SDE(COARSE, diffusion).additive
    dw = torch.ones(5, 3, dtype=torch.float64)
    end = solve(SDE(COARSE, diffusion), Y0, (0, 1), steps=2, brownian=lambda a, b: dw).y1
    torch.testing.assert_close(end, by_hand(COARSE, Y0, [0, 0.5, 1], [dw, dw], lambda t, y: 0.3 + t))


def test_an_additive_diffusion_may_be_a_function_of_the_state_s_shape():
    sde = SDE(COARSE, lambda t, y: torch.full_like(y, 0.3))
    assert torch.equal(solve(sde, Y0, (0, 1), steps=9).y1, solve(SDE(COARSE, 0.3), Y0, (0, 1), steps=9).y1)
