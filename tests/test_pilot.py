"""The pilot's numbers against direct runs on its own path, and its price against what the levels themselves count."""

import math

import numpy as np
import pytest
import torch

import mlsde
from mlsde import randomness
from mlsde.calibration import pilot
from mlsde.calibration.recording import LAGS
from mlsde.problems.kinds import kinds

F64 = torch.float64
COSTS = [1.0, 8.0, 64.0]
STEPS, SAMPLES = 16, 3


def linear_levels():
    """Three levels that come closer to each other."""
    matrices = [torch.tensor([[-1.0, 0.5], [-0.5, -1.0]], dtype=F64) * scale for scale in (0.6, 0.9, 1.0)]
    return [lambda t, y, a=a: y @ a.to(y).T + 0.1 * torch.cos(t) for a in matrices]


def differences():
    first, *rest = linear_levels()
    lower = [first, *rest[:-1]]
    return [first, *(lambda t, y, a=a, b=b: b(t, y) - a(t, y) for a, b in zip(lower, rest, strict=True))]


NOISES = {
    "ode": {},
    "additive": {"diffusion": 0.4},
    "diagonal": {"diffusion": lambda t, y: 0.4 * y, "noise": "diagonal"},
    "scalar": {"diffusion": lambda t, y: 0.4 * y, "noise": "scalar"},
    "general": {"diffusion": lambda t, y: 0.2 * torch.stack([y, y.flip(1), 1 + 0 * y], dim=-1), "noise": "general"},
    "stratonovich": {"diffusion": lambda t, y: 0.4 * y, "noise": "diagonal", "calculus": "stratonovich"},
    "linear part": {"diffusion": 0.4, "linear": -0.7},
}
METHODS = [
    ("euler", "ode"), ("euler", "additive"), ("euler", "diagonal"), ("euler", "scalar"), ("euler", "general"),
    ("heun", "ode"), ("heun", "additive"), ("heun", "stratonovich"), ("milstein", "diagonal"),
    ("exponential", "linear part"), ("euler", "linear part"),
]  # fmt: skip


class Counter:
    """A level that counts the samples it is evaluated for."""

    def __init__(self, level):
        self.level, self.samples = level, 0

    def __call__(self, t, y):
        self.samples += len(y)
        return self.level(t, y)


def equation(noise="additive", levels=None, make=mlsde.DriftHierarchy, costs=COSTS):
    levels = linear_levels() if levels is None else levels
    return mlsde.SDE(make(levels, costs[: len(levels)]), **NOISES[noise])


def start(samples=SAMPLES, dtype=F64):
    return torch.as_tensor(np.random.default_rng(7).standard_normal((samples, 2)), dtype=dtype)


def grid(kind="even", steps=STEPS):
    times = np.linspace(0.0, 1.0, steps + 1)
    return {"even": times, "uneven": times**1.5, "backwards": times[::-1].copy()}[kind]


def path_of(sde, y0, times, seed=0):
    """The pilot's path, which is the first thing that its seed decides."""
    return pilot._path(sde, y0, times, int(randomness.host_generator(seed, randomness.PILOT).integers(2**31)))


def distance(a, b):
    return math.sqrt(float((a - b).square().mean()))


# what it measures


@pytest.mark.parametrize("kind", ["even", "uneven", "backwards"])
@pytest.mark.parametrize(("method", "noise"), METHODS)
def test_variances_gaps_and_changes_are_those_of_direct_runs_on_its_path(method, noise, kind):
    sde, y0, times = equation(noise), start(), grid(kind)
    found = pilot.record(sde, y0, times, method=method, seed=5)
    path = path_of(sde, y0, times, 5)
    variances = mlsde.level_variances(sde, y0, times=times, method=method, brownian=path)
    values = variances.values if kind != "backwards" else variances.values[::-1]
    if method != "heun":  # whose second stage level_variances looks at as well
        np.testing.assert_allclose(found.variances, values, rtol=1e-10)
    top, *coarse = (mlsde.solve(sde, y0, times=times[::part], method=method, brownian=path).y1 for part in (1, 2, 4, 8))
    gaps = [
        [
            distance(mlsde.solve(sde, y0, times=times[::part], method=method, level=k, brownian=path).y1, end)
            for k in (1, 2, 3)
        ]
        for part, end in ((1, top), (2, coarse[0]))
    ]
    gaps = np.array(gaps[0]) * np.clip(np.divide(gaps[0], np.maximum(gaps[1], 1e-300)), pilot._MOST_SETTLED, 1.0)
    np.testing.assert_allclose(found.gaps, gaps, rtol=1e-9, atol=1e-14)
    changes = [distance(a, b) for a, b in zip([top, *coarse[:-1]], coarse, strict=True)]
    np.testing.assert_allclose(found.changes, changes, rtol=1e-9)
    np.testing.assert_array_equal(found.steps_seen, [STEPS, STEPS // 2, STEPS // 4])
    assert found.size == pytest.approx(math.sqrt(float(top.square().mean())))
    assert found.gaps[0] > found.gaps[1] > found.gaps[2] == 0.0


def test_another_path_gives_other_numbers():
    sde, y0, times = equation(), start(), grid()
    found, other = (pilot.record(sde, y0, times, seed=seed) for seed in (0, 1))
    assert not np.allclose(found.variances, other.variances, rtol=1e-3)
    assert not np.allclose(found.gaps[:-1], other.gaps[:-1], rtol=1e-3)


def test_squares_of_each_sample_average_to_the_variances_and_increments_are_mean_squares_of_changes():
    sde, y0, times = equation(), start(), grid()
    found = pilot.record(sde, y0, times)
    np.testing.assert_allclose(found.squares.mean(axis=0), found.variances.mean(axis=0))
    path = path_of(sde, y0, times)
    states = mlsde.solve(sde, y0, times=times, brownian=path, save_at="steps").ys[:-1]
    values = torch.stack(
        [torch.stack([f(torch.tensor(t), y) for f in differences()]) for t, y in zip(times, states, strict=False)]
    )  # (N, K, S, d)
    for row, lag in zip(found.increments, LAGS, strict=True):
        expected = (values[lag:] - values[:-lag]).square().sum(-1).mean((0, 2))
        np.testing.assert_allclose(row, expected.numpy(), rtol=1e-9)


def test_responses_are_products_of_what_reaches_the_end_with_differences_seen_before():
    """In one dimension without noise ``psi_n`` is ``+-h`` times the growth, and all is known."""
    levels = [lambda t, y: -y, lambda t, y: -y + torch.cos(t)]
    times, y0 = grid("uneven"), torch.ones(1, 1, dtype=F64)
    found = pilot.record(equation("ode", levels), y0, times)
    h = np.diff(times)
    growth = np.array([np.prod(1 - h[n + 1 :]) for n in range(STEPS)])
    y, values = 1.0, []
    for n in range(STEPS):
        values.append((-y, math.cos(times[n])))
        y += h[n] * sum(values[-1])
    expected = np.einsum("n,mk->knm", h * growth, np.array(values)) * np.tri(STEPS)
    assert found.responses.shape == (1, 2, STEPS, STEPS)
    np.testing.assert_allclose(found.responses[0] * np.sign(found.responses[0, 1, 0, 0]), expected, rtol=1e-6)
    np.testing.assert_allclose(found.sensitivity, growth**2, rtol=1e-10)
    assert found.linearity == pytest.approx(1.0, abs=0.1)


def test_first_order_foresees_the_distance_of_the_level_below_the_top_but_not_of_one_far_off():
    bent = [lambda t, y, e=e: -torch.sin(2.0 * y) + e * torch.cos(3.0 * y) for e in (0.1, 0.01, 0.0)]
    near = pilot.record(equation("ode", bent), start(), grid())
    assert near.linearity == pytest.approx(1.0, abs=0.05)
    wild = [lambda t, y: -y, lambda t, y: 4.0 * torch.sin(6.0 * y), lambda t, y: 5.0 * torch.cos(6.0 * y)]
    far = pilot.record(equation("ode", wild), start(8), grid())
    assert abs(far.linearity - 1.0) > 0.1


# a cheaper level carries the errors, if it is near enough


@pytest.mark.parametrize(
    ("costs", "carrier"), [([1.0, 8.0, 64.0], 2), ([1.0, 30.0, 64.0], 1), ([30.0, 40.0, 64.0], 3), ([16, 16, 64], 2)]
)
def test_errors_are_carried_by_the_dearest_level_that_is_four_times_cheaper_than_the_top(costs, carrier):
    assert pilot.record(equation(costs=costs), start(), grid()).sensitivity_level == carrier


def test_where_that_level_is_a_stranger_no_coins_are_recommended_and_nothing_more_is_paid():
    """The cheap level's derivative is 10 and the others' are -10: what it foresees is e^20 too much."""
    levels = [lambda t, y, a=a: a * y for a in (10.0, -9.9, -10.0)]
    sde = equation("ode", levels, costs=[1.0, 30.0, 64.0])
    cal = mlsde.calibrate(sde, torch.ones(512, 2, dtype=torch.float64), (0.0, 1.0), steps=64)
    assert cal.recording.sensitivity_level == 1
    assert cal.recording.linearity < 1e-3
    assert cal.price <= 0.1 * 512 * 64 * 64.0
    assert cal.recommend(budget=32 * 64.0).kind == "plain"


@pytest.mark.parametrize("name", ["smooth-ode", "coarse-ode", "coarse-sde", "top-sde", "useless-sde", "gamma-1.5-ode"])
@pytest.mark.parametrize("evaluations", [32, 512])
def test_the_pilot_stays_within_its_share(name, evaluations):
    problem = kinds()[name]
    budget = evaluations * problem.sde.drift.costs[-1]
    cal = mlsde.calibrate(problem.sde, problem.initial(256), problem.t_span, steps=evaluations, budget=budget)
    assert not any("share" in warning for warning in cal.warnings)
    assert 0.02 < cal.cost / budget <= 0.1


def test_the_part_of_order_one_half_is_what_milstein_adds():
    """With g = s y the error of order 1/2 of geometric Brownian motion has mean square s^4 T h E y^2 / 2, nearly."""
    s, r = 0.3, 0.1
    levels = [lambda t, y: r * y, lambda t, y: r * y * 1.001]
    sde = mlsde.SDE(mlsde.DriftHierarchy(levels, [1.0, 8.0]), lambda t, y: s * y, noise="diagonal")
    found = pilot.record(sde, torch.ones(20_000, 1, dtype=torch.float64), np.linspace(0.0, 1.0, 17))
    exact = s**4 / 16 / 2 * np.exp(2 * r + s**2)
    assert found.half_order == pytest.approx(exact, rel=0.1)
    assert found.half_order != pytest.approx(exact / 2, rel=0.1)
    additive = pilot.record(equation("additive", linear_levels()), start(), grid())
    assert np.isnan(additive.half_order)


# the price


@pytest.mark.parametrize("make", [mlsde.DriftHierarchy, mlsde.DriftHierarchy.from_differences])
@pytest.mark.parametrize(("method", "noise"), METHODS)
def test_the_price_is_that_of_every_evaluation_and_of_two_more_for_each_product(method, noise, make):
    parts = linear_levels() if make is mlsde.DriftHierarchy else differences()
    levels = [Counter(level) for level in parts]
    found = pilot.record(equation(noise, levels, make), start(), grid(), method=method)
    products = 2 * 2 * SAMPLES * STEPS  # two projections of two components
    carriers = range(found.sensitivity_level) if found.differences else [found.sensitivity_level - 1]
    evaluations = sum(cost * level.samples for cost, level in zip(COSTS, levels, strict=True))
    assert found.price == pytest.approx(evaluations + products * sum(COSTS[k] for k in carriers), rel=1e-12)


@pytest.mark.parametrize("make", [mlsde.DriftHierarchy, mlsde.DriftHierarchy.from_differences])
@pytest.mark.parametrize("method", ["euler", "heun"])
def test_it_is_about_what_was_foreseen_for_it(method, make):
    """Forced first steps of what is tried come on top, so the pilot is a long one; Heun's method tries less."""
    parts = linear_levels() if make is mlsde.DriftHierarchy else differences()
    found = pilot.record(equation("additive", parts, make), start(), grid(steps=64), method=method)
    foreseen = 64 * SAMPLES * pilot.step_price(np.array(COSTS), found.differences, 2, found.stages)
    assert 0.85 < found.price / foreseen < 1.05


@pytest.mark.parametrize("level", [torch.no_grad()(lambda t, y: -y), mlsde.from_numpy(lambda t, y: -y)])
def test_perturbed_levels_are_charged_for_what_is_evaluated(level):
    levels = [Counter(lambda t, y: -0.9 * y), Counter(level)]
    found = pilot.record(equation("ode", levels, costs=[32.0, 64.0]), start(), grid())
    assert found.sensitivity_level == 2
    assert found.price == pytest.approx(32.0 * levels[0].samples + 64.0 * levels[1].samples)


# ladders of differences


@pytest.mark.parametrize(("method", "noise"), [("euler", "additive"), ("heun", "ode"), ("milstein", "diagonal")])
def test_a_ladder_of_differences_is_measured_like_its_sums(method, noise):
    y0, times = start(), grid()
    sums = pilot.record(equation(noise, costs=[30.0, 40.0, 64.0]), y0, times, method=method)
    found = pilot.record(
        equation(noise, differences(), mlsde.DriftHierarchy.from_differences), y0, times, method=method
    )
    assert found.differences and found.sensitivity_level == sums.sensitivity_level == 3
    for name in ("responses", "variances", "squares", "increments", "sensitivity", "gaps", "changes", "linearity"):
        np.testing.assert_allclose(getattr(found, name), getattr(sums, name), rtol=1e-5, atol=1e-7, err_msg=name)


# units


class Net(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.Tanh(), torch.nn.Linear(width, 4))

    def forward(self, t, y):
        return self.layers(y)


def nets(costs=None):
    torch.manual_seed(0)
    return mlsde.SDE(mlsde.DriftHierarchy([Net(8), Net(128)], costs), 0.3)


def calibrated(sde, **options):
    return mlsde.calibrate(sde, torch.zeros(6, 4), (0, 1), steps=20, pilot_steps=8, pilot_samples=2, **options)


def test_flops_of_networks_are_counted_for_one_sample_and_serve_as_costs():
    found = calibrated(nets(), unit="flops")
    assert found.recording.flops == (2 * 2 * 4 * 8, 2 * 2 * 4 * 128)
    assert found.recording.costs.tolist() == list(found.recording.flops) == list(found.sde.drift.costs)
    assert found.recording.unit == "flops"


def test_declared_costs_are_kept_and_flops_counted_beside_them():
    found = calibrated(nets([1.0, 20.0]))
    assert (found.recording.unit, found.recording.costs.tolist()) == ("declared", [1.0, 20.0])
    assert found.recording.flops == (128, 2048)


def test_without_costs_the_unit_is_seconds():
    for options in ({}, {"unit": "seconds"}):
        found = calibrated(nets(), **options)
        assert found.recording.unit == "seconds"
        assert all(0 < cost < 0.1 for cost in found.recording.costs)
    assert calibrated(nets([1.0, 20.0]), unit="seconds").recording.costs[0] < 0.1


@pytest.mark.parametrize(
    ("sde", "unit", "words"),
    [
        (equation(levels=[lambda t, y: -y]), "flops", "unit='flops' needs levels whose operations torch can count"),
        (nets(), "declared", "unit='declared' needs the price of each level"),
        (nets([1.0, 2.0]), "joules", "unit='joules' is not known; choose one of 'declared', 'seconds', 'flops'"),
    ],
    ids=["not counted", "not declared", "unknown"],
)
def test_a_unit_that_cannot_be_had_is_refused(sde, unit, words):
    with pytest.raises(ValueError, match=words):
        mlsde.calibrate(sde, torch.zeros(6, 4), (0, 1), steps=20, unit=unit, pilot_steps=8)


def elementwise(t, y):
    return torch.tanh(y)


def test_where_torch_counts_nothing_there_are_no_flops_instead_of_zeros():
    drift = mlsde.DriftHierarchy([elementwise, Net(8)], [1.0, 2.0])
    assert pilot.counted_flops(drift, 0.0, torch.zeros(3, 4)) is None


# chance


def test_it_leaves_everybodys_random_numbers_alone_and_depends_on_none():
    sde, y0, times = equation(), start(), grid()
    first = pilot.record(sde, y0, times, seed=3)
    torch.manual_seed(11)
    np.random.seed(11)  # noqa: NPY002, the global state is what is looked at
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    again = pilot.record(sde, y0, times, seed=3)
    assert torch.equal(before[0], torch.get_rng_state())
    np.testing.assert_array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002
    for name in ("responses", "variances", "gaps", "changes", "sensitivity", "increments", "squares"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))


def test_nor_does_it_touch_the_initial_states_or_leave_gradients_on_parameters():
    sde, y0 = nets([1.0, 2.0]), torch.zeros(3, 4, requires_grad=True)
    pilot.record(sde, y0, grid(), seed=3)
    assert y0.grad is None and not y0.detach().any()
    assert all(p.grad is None for level in sde.drift.levels for p in level.parameters())


def test_its_noise_is_not_that_of_the_run_with_the_same_seed():
    sde, y0, times = equation(), start(), grid()
    ends = [
        mlsde.solve(sde, y0, times=times, seed=0).y1,
        mlsde.solve(sde, y0, times=times, brownian=path_of(sde, y0, times)).y1,
    ]
    assert not torch.allclose(*ends, atol=1e-2)


# states of all kinds


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-4), (torch.bfloat16, 0.2)])
def test_lower_precisions_ride_the_same_path_and_see_the_same_ladder(dtype, rtol):
    sde, y0, times = equation(), start(), grid()
    exact, found = pilot.record(sde, y0, times), pilot.record(sde, y0.to(dtype), times)
    np.testing.assert_allclose(found.variances, exact.variances, rtol=rtol, atol=rtol * 1e-2)
    np.testing.assert_allclose(found.sensitivity, exact.sensitivity, rtol=rtol)
    np.testing.assert_allclose(found.gaps[:-1], exact.gaps[:-1], rtol=2 * rtol)
    assert found.epsilon == torch.finfo(torch.float32).eps
    assert exact.epsilon == torch.finfo(F64).eps


@pytest.mark.parametrize("shape", [(1, 2), (1, 1), (2, 3, 8, 8), (2, 2, 1), (5,)])
@pytest.mark.parametrize("diffusion", [None, 0.3])
def test_states_of_any_shape_and_a_single_sample_will_do(shape, diffusion):
    levels = [lambda t, y: -y, lambda t, y: -y + 0.1 * torch.sin(y)]
    sde = mlsde.SDE(mlsde.DriftHierarchy(levels, [1.0, 8.0]), diffusion)
    y0 = torch.linspace(-1, 1, math.prod(shape), dtype=F64).view(shape)
    found = pilot.record(sde, y0, grid())
    size = math.prod(shape[1:])
    assert found.responses.shape == (min(4, size) * shape[0], 2, STEPS, STEPS)
    assert found.samples == shape[0]
    assert all(np.isfinite(array).all() for array in (found.responses, found.variances, found.sensitivity))
    squares = (np.einsum("pknn->pkn", found.responses).sum(axis=2) ** 2).mean(axis=0)
    assert math.sqrt(squares[1]) == pytest.approx(found.gaps[0], rel=0.8)


def test_flat_and_shaped_states_are_measured_alike():
    """The projections are the same but for their shape, so everything is."""
    flat = torch.linspace(-1, 1, 12, dtype=F64).view(2, 6)
    sde = mlsde.SDE(mlsde.DriftHierarchy([lambda t, y: -y, lambda t, y: -torch.sin(y)], [1.0, 8.0]))
    first, second = pilot.record(sde, flat, grid()), pilot.record(sde, flat.view(2, 3, 2), grid())
    np.testing.assert_allclose(first.responses, second.responses, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(first.variances, second.variances, rtol=1e-12)


def test_levels_may_return_one_buffer_again_and_again():
    buffers = [torch.empty(SAMPLES, 2, dtype=F64) for _ in range(2)]

    def buffered(k):
        level = linear_levels()[k]

        @torch.no_grad()
        def into(t, y):
            return buffers[k].copy_(level(t, y))

        return into

    options = {"costs": [32.0, 64.0]}
    plain = [torch.no_grad()(level) for level in linear_levels()[:2]]
    found, expected = (
        pilot.record(equation("additive", levels, **options), start(), grid())
        for levels in ([buffered(0), buffered(1)], plain)
    )
    np.testing.assert_allclose(found.sensitivity, expected.sensitivity, rtol=1e-9)
    np.testing.assert_allclose(found.responses, expected.responses, rtol=1e-5, atol=1e-8)


# runs that break


def test_a_top_level_that_blows_up_is_named():
    levels = [lambda t, y: -y, lambda t, y: 1e9 * y**5]
    with pytest.raises(mlsde.NonFiniteError, match="drift level 2 became NaN or infinite at step"):
        pilot.record(equation("ode", levels), start(), grid())


def test_so_it_is_where_the_noise_of_the_pilot_alone_makes_it_blow_up():
    """Whether a run meets the wall depends on its path: those that do not are measured."""
    levels = [lambda t, y: 0.0 * y, lambda t, y: torch.where(y.abs() < 1.5, 0.0 * y, torch.full_like(y, math.inf))]
    broken = 0
    for seed in range(12):
        try:
            pilot.record(equation("additive", levels, costs=[32.0, 64.0]), 0.8 + 0 * start(1), grid(), seed=seed)
        except mlsde.NonFiniteError as error:
            broken += error.culprit == "drift level 2"
    assert 0 < broken < 12


def test_a_cheap_level_or_a_coarse_grid_that_blows_up_is_infinitely_far():
    levels = [lambda t, y: 1e9 * y**5, lambda t, y: -20.0 * y]
    found = pilot.record(equation("ode", levels), start(), grid())
    assert found.gaps.tolist() == [math.inf, 0.0]
    assert np.isfinite(found.responses).all()
    wall = [lambda t, y: -y, lambda t, y: torch.where(y.abs() > 0.15, math.inf * y, -14.0 * y)]
    found = pilot.record(equation("ode", wall), 0.1 + 0 * start(), grid())
    assert np.isfinite(found.changes[0]) and found.changes[-1] == math.inf
