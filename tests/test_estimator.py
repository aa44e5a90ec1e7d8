"""The one line ``m + w (D - m)``: its mean and variance given the past, over every outcome of the coins."""

import itertools

import numpy as np
import pytest
import torch
from enumeration import Table, every_estimate, every_run, heard
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import mlsde
from mlsde import coins, theory
from mlsde.multilevel import CORRECTIONS, SHARES
from mlsde.plan import multilevel_plan
from mlsde.problems.linear import LinearProblem

EXACT = settings(deadline=None, max_examples=25)
RULES = [
    (coin, correction)
    for coin, correction in itertools.product(coins.COINS, CORRECTIONS)
    if correction != "extrapolate" or coin in ("systematic", "periodic")
]
values_ = st.floats(-3, 3, allow_subnormal=False)
unsure = st.floats(0.05, 1)


@st.composite
def ladders(draw, levels=3, steps=2, p=unsure):
    """A linear ladder in two dimensions, probabilities of shape (N, K) and states of shape (N, 2)."""
    count = draw(st.integers(1, levels))
    matrices = torch.as_tensor(draw(arrays(np.float64, (count, 2, 2), elements=values_)))
    offsets = torch.as_tensor(draw(arrays(np.float64, (count, 2), elements=values_)))
    table = draw(arrays(np.float64, (steps, count), elements=p))
    states = torch.as_tensor(draw(arrays(np.float64, (steps, 2), elements=values_)))
    return LinearProblem(matrices, offsets), table, states


def plan_of(problem, table, coin, correction, share, differences=False):
    rule = mlsde.Multilevel(Table(table), coins=coin, correction=correction, share=share)
    drift = problem.drift()
    if differences:
        drift = mlsde.DriftHierarchy.from_differences(differences_of(drift))
    return drift, multilevel_plan(rule, np.linspace(0.0, 1.0, len(table) + 1), drift)


def differences_of(drift):
    lower = [lambda t, y: torch.zeros_like(y), *drift.levels[:-1]]
    return [lambda t, y, a=a, b=b: b(t, y) - a(t, y) for a, b in zip(lower, drift.levels, strict=True)]


def assert_unbiased_given_the_past(problem, table, states, coin, correction, share, differences=False, formula=None):
    """Mean and variance of each step's estimate, given what the coins did before; ``formula``: the coins assumed."""
    drift, drawn = plan_of(problem, table, coin, correction, share, differences)
    every, estimates, fired = every_estimate(drift, drawn, states)
    chances, zero = torch.as_tensor(every.chances), torch.tensor(0.0)
    ladder = [problem.drift().levels[k](zero, states) for k in range(len(drift))]
    gaps = torch.diff(torch.stack(ladder), dim=0, prepend=torch.zeros(1, *states.shape))  # D_k at each step
    for n in range(1 if correction == "control" else 0, len(table)):
        for past in np.unique(fired[:, :n], axis=0):
            chosen = torch.as_tensor((fired[:, :n] == past).all(axis=(1, 2)))
            weights = chances[chosen] / chances[chosen].sum()
            mean = weights @ estimates[chosen, n]
            variance = weights @ (estimates[chosen, n] - mean).square().sum(dim=1)
            memory = torch.zeros_like(gaps[:, n])
            if correction == "control":  # each level's difference when it last fired
                memory = torch.stack([gaps[k, np.flatnonzero(past[:, k])[-1]] for k in range(len(drift))])
            p = drawn.probabilities[n]
            expected = theory.estimator_variance((gaps[:, n] - memory)[:, None], p, formula or coin)[0]
            torch.testing.assert_close(mean, ladder[-1][n], rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(variance, expected, rtol=1e-9, atol=1e-9)


@EXACT
@given(ladder=ladders())
@pytest.mark.parametrize("differences", [False, True])
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("coin", ["independent", "nested"])
def test_impulses_are_unbiased_given_the_past_with_the_variance_of_the_formula(coin, share, differences, ladder):
    assert_unbiased_given_the_past(*ladder, coin, "impulse", share, differences)


@EXACT
@given(ladder=ladders(levels=2, steps=3))
@pytest.mark.parametrize("differences", [False, True])
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("coin", ["independent", "nested"])
def test_control_variates_are_unbiased_given_the_past_from_the_second_step(coin, share, differences, ladder):
    assert_unbiased_given_the_past(*ladder, coin, "control", share, differences)


def example(levels=2):
    """Differences that are not orthogonal, and states that move."""
    matrices = torch.tensor([[[1.0, 0.5], [0.0, 2.0]], [[2.0, 0.0], [1.0, 1.0]], [[0.5, 1.0], [1.0, 3.0]]]).double()
    offsets = torch.tensor([[1.0, 0.0], [2.0, 1.0], [0.5, 2.5]]).double()
    states = torch.tensor([[1.0, -1.0], [0.5, 2.0], [-1.0, 1.5]]).double()
    table = np.array([[0.75, 0.25, 0.5], [0.5, 0.25, 0.125], [0.5, 0.75, 0.25]])[:, :levels]
    return LinearProblem(matrices[:levels], offsets[:levels]), table, states


def always_fire(p, *, per_sample, offset):
    return np.ones((*p.shape, 2**p.size) if per_sample else p.shape, dtype=bool)


TWINS = {
    "weights of 1": ("mlsde.plan._inverse", np.ones_like),
    "weights of 1 / sqrt(p)": ("mlsde.plan._inverse", lambda p: 1 / np.sqrt(p)),
    "coins that always fall": ("mlsde.coins.fires", lambda coin, p, *_, **options: always_fire(p, **options)),
    "sums that forget their factors": (
        "mlsde.estimator._Sum.add",
        lambda self, factor, f: setattr(self, "total", f if self.total is None else self.total + f),
    ),
    "columns of ones": ("mlsde.estimator._column", lambda values, y: torch.as_tensor(values != 0).to(y).view(-1, 1)),
}


@pytest.mark.parametrize("twin", TWINS)
def test_wrong_weights_and_wrong_sums_are_found_out(twin, monkeypatch):
    problem, table, states = example()
    args = problem, table[:2], states[:2], "independent", "impulse", "sample" if "columns" in twin else "batch"
    assert_unbiased_given_the_past(*args)
    monkeypatch.setattr(*TWINS[twin])
    with pytest.raises(AssertionError):
        assert_unbiased_given_the_past(*args)


@pytest.mark.parametrize(("coin", "formula"), [("nested", "independent"), ("independent", "nested")])
def test_the_cross_terms_of_nested_coins_cannot_be_left_out_nor_added_to_independent_ones(coin, formula):
    with pytest.raises(AssertionError, match="Scalars are not close"):
        assert_unbiased_given_the_past(*example(), coin, "impulse", "sample", formula=formula)


@pytest.mark.parametrize(
    ("coin", "correction"), [("independent", "hold"), ("systematic", "impulse"), ("systematic", "control")]
)
def test_held_differences_and_evenly_spaced_coins_are_biased_given_the_past(coin, correction):
    problem, table, states = example()
    with pytest.raises(AssertionError):
        assert_unbiased_given_the_past(problem, table, states, coin, correction, "sample", formula="independent")


@pytest.mark.parametrize("share", SHARES)
def test_systematic_impulses_have_the_right_mean_at_each_step_taken_alone(share):
    problem, table, states = example(levels=3)
    drift, drawn = plan_of(problem, table, "systematic", "impulse", share)
    every, estimates, _ = every_estimate(drift, drawn, states)
    mean = torch.einsum("o,ond->nd", torch.as_tensor(every.chances), estimates)
    torch.testing.assert_close(mean, drift.levels[-1](torch.tensor(0.0), states), rtol=1e-12, atol=1e-12)


# multiples of 1/64, so that the running sums are exact and every cell of an offset is wide
coarse = st.integers(1, 64).map(lambda i: i / 64)


@EXACT
@given(values=arrays(np.float64, (4, 2), elements=values_), table=arrays(np.float64, (4, 2), elements=coarse))
@pytest.mark.parametrize("share", SHARES)
def test_systematic_impulses_have_the_mean_of_em_for_drifts_that_do_not_depend_on_the_state(share, values, table):
    times = np.array([0.0, 0.5, 1.0, 1.5, 2.0])
    levels = [lambda t, y, f=f: f[round(2 * float(t))] * torch.ones_like(y) for f in torch.as_tensor(values).T]
    sde = mlsde.SDE(mlsde.DriftHierarchy(levels))
    rule = mlsde.Multilevel(Table(table), coins="systematic", correction="impulse", share=share)
    runs = every_run(sde, torch.zeros(1, dtype=torch.float64), times, rule)
    em = mlsde.solve(sde, torch.zeros(1, 1, dtype=torch.float64), times=times).y1[0]
    torch.testing.assert_close(runs.mean(runs.states)[-1], em, rtol=1e-11, atol=1e-11)


def test_systematic_impulses_do_not_have_the_mean_of_em_for_linear_drifts():
    """``f = -y``, ``p = 1/2``: exactly one of two steps fires, with weight 2, so ``1 - 2h`` and not ``(1 - h)^2``."""
    times, h = np.array([0.0, 0.25, 0.5]), 0.25
    rule = mlsde.Multilevel(mlsde.Constant([0.5]), coins="systematic", correction="impulse", share="sample")
    runs = every_run(mlsde.SDE(lambda t, y: -y), torch.ones(1, dtype=torch.float64), times, rule)
    mean = float(runs.mean(runs.states)[-1])
    assert mean == pytest.approx(1 - 2 * h, abs=1e-15)
    assert abs(mean - (1 - h) ** 2) > 0.06


def smooth_levels(count):
    return [lambda t, y, k=k: torch.sin((k + 1) * y + t) - y * 2.0**-k for k in range(count)]


def naive_run(levels, differences, fires, p, correction, times, y, stages):
    """Every level at every step, every memory by itself, ``m + w (D - m)`` as it is written; arrays (samples, d)."""
    count = len(levels)
    value, slope, when = [np.zeros_like(y)] * count, [np.zeros_like(y)] * count, [np.zeros((len(y), 1))] * count
    seen = [np.zeros((len(y), 1), bool)] * count

    def gaps(t, y):
        f = [level(torch.tensor(t), torch.as_tensor(y)).numpy() for level in levels]
        return f if differences else [f[0], *(b - a for a, b in itertools.pairwise(f))]

    def estimate(n, t, y, remember):
        total = np.zeros_like(y)
        for k, gap in enumerate(gaps(t, y)):
            fired = fires[n, k][:, None]
            m = value[k] + (t - when[k]) * slope[k]
            w = 1.0 / p[n, k] if correction in ("impulse", "control") and p[n, k] > 0 else 1.0
            total = total + np.where(fired, m + w * (gap - m), m)
            if remember and correction != "impulse":
                if correction == "extrapolate":
                    with np.errstate(all="ignore"):
                        line = np.where(seen[k], (gap - value[k]) / (t - when[k]), 0.0)
                    slope[k] = np.where(fired, line, slope[k])
                value[k], when[k] = np.where(fired, gap, value[k]), np.where(fired, t, when[k])
                seen[k] = seen[k] | fired
        return total

    path = [y]
    for n, h in enumerate(np.diff(times)):
        first = estimate(n, times[n], y, True)
        second = estimate(n, times[n + 1], y + h * first, False) if stages == 2 else first
        y = y + h / 2 * (first + second)
        path.append(y)
    return np.stack(path)


# ones and zeros often: what fires surely, and together, is remembered together
often_sure = st.sampled_from([0.0, 0.25, 0.5, 0.5, 0.75, 1.0, 1.0, 1.0])
MEMORY_RULES = [(*rule, "euler") for rule in RULES] + [
    (*rule, "heun") for rule in RULES if rule[1] in ("hold", "extrapolate")
]


def assert_agrees_with_naive_run(table, coin, correction, method, share, differences, seed):
    """Run both over a grid of unequal steps."""
    count = table.shape[1]
    drift = (mlsde.DriftHierarchy.from_differences if differences else mlsde.DriftHierarchy)(smooth_levels(count))
    times = np.cumsum([0.0, *([0.1, 0.05, 0.2] * len(table))[: len(table)]])
    rule = mlsde.Multilevel(Table(table), coins=coin, correction=correction, share=share)
    y0 = torch.linspace(-1, 2, 6, dtype=torch.float64).view(3, 2)
    run = mlsde.solve(mlsde.SDE(drift), y0, times=times, multilevel=rule, seed=seed, method=method, save_at="steps")
    p = np.array(table)
    if correction != "impulse":
        p[0] = 1.0
    fires = coins.fires(
        coin, p, coins.running_sums(p), run.plan.keys, offset=0.5 * (correction == "impulse"),
        per_sample=share == "sample",
    )  # fmt: skip
    if share == "batch":
        fires = np.repeat(fires[..., None], 3, axis=-1)
    stages = 2 if method == "heun" else 1
    expected = naive_run(drift.levels, differences, fires, p, correction, times, y0.numpy(), stages)
    np.testing.assert_allclose(run.ys.numpy(), expected, rtol=1e-9, atol=1e-9)


@settings(deadline=None, max_examples=40)
@given(
    table=st.tuples(st.integers(1, 12), st.integers(1, 4))
    .flatmap(lambda shape: arrays(np.float64, shape, elements=often_sure))
    .filter(lambda table: table.max(axis=0).min() > 0),
    share=st.sampled_from(SHARES),
    differences=st.booleans(),
    seed=st.integers(0, 2**40),
)
@pytest.mark.parametrize(("coin", "correction", "method"), MEMORY_RULES)
def test_the_sum_by_parts_with_merged_memories_is_the_naive_sum(
    coin, correction, method, table, share, differences, seed
):
    assume(heard(coin, correction, table))
    assert_agrees_with_naive_run(table, coin, correction, method, share, differences, seed)


def first_firing_only(plan, steps, ahead):
    return np.arange(steps)[:, None] < np.ones(ahead.shape[1])


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("correction", ["hold", "control", "extrapolate"])
@pytest.mark.parametrize(
    ("target", "wrong", "error"),
    [("_apart", np.zeros_like, KeyError), ("Plan._keeps", first_firing_only, AssertionError)],
)
def test_plans_that_forget_what_is_used_later_are_found_out(target, wrong, error, correction, share, monkeypatch):
    table = np.array([[1.0, 1.0], [1.0, 0.5], [1.0, 0.5], [1.0, 0.5], [1.0, 0.5], [1.0, 0.5]])
    args = table, "periodic", correction, "euler", share, False, 0
    assert_agrees_with_naive_run(*args)
    monkeypatch.setattr(f"mlsde.plan.{target}", wrong)
    with pytest.raises(error):
        assert_agrees_with_naive_run(*args)


def with_buffer(level):
    """A level that returns the same tensor at every call, as compiled graphs do."""
    buffers = {}

    def buffered(t, y):
        return buffers.setdefault(y.shape, torch.empty_like(y)).copy_(level(t, y))

    return buffered


@pytest.mark.parametrize("make", [mlsde.DriftHierarchy, mlsde.DriftHierarchy.from_differences])
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize(("coin", "correction", "method"), MEMORY_RULES)
def test_levels_may_overwrite_what_they_returned(coin, correction, method, share, make):
    rule = mlsde.Multilevel(mlsde.Constant([1.0, 0.5, 0.5]), coins=coin, correction=correction, share=share)
    runs = [
        mlsde.solve(mlsde.SDE(make(levels)), torch.ones(3, 2), (0, 1), steps=12, multilevel=rule, method=method).y1
        for levels in (smooth_levels(3), [with_buffer(level) for level in smooth_levels(3)])
    ]
    assert torch.equal(*runs)


@pytest.mark.parametrize("kind", ["levels", "differences"])
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize(("coin", "correction"), RULES)
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_certain_levels_are_em_bit_for_bit_at_its_price(coin, correction, share, kind, count, dtype):
    make = mlsde.DriftHierarchy if kind == "levels" else mlsde.DriftHierarchy.from_differences
    costs = [4.0**k for k in range(count)]
    sde = mlsde.SDE(make(smooth_levels(count), costs), diffusion=0.5)
    top = smooth_levels(count)[-1]
    if kind == "differences":
        top = lambda t, y: sum(f(t, y) for f in smooth_levels(count))  # noqa: E731
    y0 = torch.linspace(-1, 2, 12, dtype=dtype).view(4, 3)
    rule = mlsde.Multilevel(mlsde.Constant([1.0] * count), coins=coin, correction=correction, share=share)
    options = {"steps": 70, "seed": 3, "save_at": "steps"}
    run = mlsde.solve(sde, y0, (0, 1), multilevel=rule, **options)
    alone = mlsde.solve(mlsde.SDE(top, diffusion=0.5), y0, (0, 1), **options)
    without = mlsde.solve(sde, y0, (0, 1), **options)
    assert torch.equal(run.ys, alone.ys)
    assert torch.equal(run.ys, without.ys)
    calls = (70,) * count if kind == "differences" else (0,) * (count - 1) + (70,)
    assert run.stats.calls == without.stats.calls == calls
    assert run.stats.cost == run.stats.full_cost == run.plan.expected_cost


def test_em_is_the_bare_loop():
    """The same operations by hand, so that "equal to EM" is not equal to itself alone."""
    increments = torch.randn(20, 4, 3, generator=torch.Generator().manual_seed(0)) / 20**0.5
    y = y0 = torch.linspace(-1, 2, 12).view(4, 3)
    level = smooth_levels(1)[0]
    run = mlsde.solve(mlsde.SDE(level, 0.5), y0, (0, 1), steps=20, brownian=lambda a, b: increments[round(20 * a)])
    for n in range(20):
        y = y + 0.05 * level(torch.tensor(n / 20), y) + 0.5 * increments[n]
    torch.testing.assert_close(run.y1, y, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("coin", coins.COINS)
def test_a_one_level_ladder_under_a_power_law_is_em(coin, share):
    sde = mlsde.SDE(smooth_levels(1)[0], diffusion=0.5)
    y0 = torch.linspace(-1, 2, 12).view(4, 3)
    rule = mlsde.Multilevel(mlsde.PowerLaw(gamma=2.5, scale=0.01), coins=coin, share=share)
    run = mlsde.solve(sde, y0, (0, 1), steps=30, multilevel=rule)
    assert torch.equal(run.y1, mlsde.solve(sde, y0, (0, 1), steps=30).y1)
    assert run.stats.calls == (30,)


@pytest.mark.parametrize("correction", CORRECTIONS)
def test_a_state_of_any_shape_takes_coins_per_sample(correction):
    """Each sample of a batch of matrices runs as the same sample of a batch of vectors."""
    drift = mlsde.DriftHierarchy(smooth_levels(3), [1.0, 4.0, 16.0])
    rule = mlsde.Multilevel(mlsde.Constant([1.0, 0.5, 0.25]), correction=correction, share="sample")
    y0 = torch.linspace(-1, 2, 24, dtype=torch.float64)
    flat = mlsde.solve(mlsde.SDE(drift), y0.view(4, 6), (0, 1), steps=30, multilevel=rule)
    deep = mlsde.solve(mlsde.SDE(drift), y0.view(4, 2, 3), (0, 1), steps=30, multilevel=rule)
    assert torch.equal(deep.y1.view(4, 6), flat.y1)


def test_lines_are_drawn_through_true_times_where_float32_cannot_tell_two_steps_apart():
    """Near t=1000 float32 times are 6e-5 apart; a step of 1e-5 must not divide by zero."""
    drift = mlsde.DriftHierarchy([lambda t, y: -y, lambda t, y: -1.5 * y])
    times = 1000 + 1e-5 * np.arange(41)
    runs = []
    for dtype, share in itertools.product((torch.float32, torch.float64), SHARES):
        rule = mlsde.Multilevel(mlsde.Constant([1.0, 0.5]), coins="periodic", correction="extrapolate", share=share)
        runs.append(mlsde.solve(mlsde.SDE(drift), torch.ones(2, 1, dtype=dtype), times=times, multilevel=rule))
    for run in runs:
        torch.testing.assert_close(run.y1.double(), runs[-1].y1, rtol=1e-5, atol=0)
