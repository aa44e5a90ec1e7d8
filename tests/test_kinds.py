"""The ladders of different kinds: each has, measured, the property that its name says, and its wrong twin has not."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

import mlsde
from mlsde.problems import kinds as room
from mlsde.problems.kinds import LADDERS, NOISES, SYSTEMS, kinds, ladder, system
from mlsde.problems.ladder import LadderProblem
from mlsde.problems.science import level_errors, price_exponent

ALL = kinds()
F64 = torch.float64


def differences(problem, steps=256, samples=32):
    """``f^k - f^(k-1)`` along a run of the top level, shape ``(K, steps, samples, d)``, from level 2 on."""
    levels, seen = problem.sde.drift.levels, []

    def watched(t, y):
        values = [level(t, y) for level in levels]
        seen.append(torch.stack([b - a for a, b in pairwise(values)]))
        return values[-1]

    y0 = problem.initial(samples)
    mlsde.solve(problem.sde.with_drift(watched), y0, problem.t_span, steps=steps, seed=0)
    return torch.stack(seen, dim=1)


def memory_lost(problem, lag=1 / 64):
    """``E|D(t + lag) - D(t)|^2 / (2 E|D|^2)`` of each difference: 0 if it stands still, 1 if it is forgotten."""
    d = differences(problem)
    shift = round(lag * d.shape[1])
    moved = (d[:, shift:] - d[:, :-shift]).square().flatten(1).mean(1)
    return (moved / (2 * d.square().flatten(1).mean(1))).numpy()


def errors_alone(problem, level, steps=(8, 32, 128), samples=32):
    """Root mean square distances of one level's runs from a fine run of the top level, over the solution's own."""
    y0 = problem.initial(samples)
    path = None if problem.sde.is_ode else mlsde.BrownianPath(*problem.t_span, like=y0, grids=(3,))
    method = "heun" if problem.strong_order == 1 else "milstein"
    exact = mlsde.solve(problem.sde, y0, problem.t_span, steps=384, method=method, brownian=path).y1
    runs = [mlsde.solve(problem.sde, y0, problem.t_span, steps=n, level=level, brownian=path).y1 for n in steps]
    return [float((y - exact).square().mean().sqrt() / exact.square().mean().sqrt()) for y in runs]


def of_kind(name):
    return [ALL[f"{name}-{noise}"] for noise in ("ode", "sde")]


def test_there_are_eight_kinds_each_without_noise_and_with_it():
    assert len(ALL) == 16
    for name, problem in ALL.items():
        assert problem.sde.is_ode == name.endswith("-ode")
        assert problem.reference is None, "errors are against the top level"
        assert (y0 := problem.initial(3)).dtype == F64 and 8 <= y0.shape[1] <= 16
        costs = problem.sde.drift.costs
        assert list(costs) == sorted(set(costs)) and costs[-1] >= 64 * costs[0]
    assert len({problem.name for problem in ALL.values()}) >= 10
    assert {problem.sde.noise for problem in ALL.values()} == {None, "additive", "diagonal"}
    assert ALL["useless-sde"].strong_order == 0.5


@pytest.mark.parametrize(("name", "gamma"), [("smooth", 2.5), ("rough", 2.5), ("gamma-1.5", 1.5), ("gamma-3", 3.0)])
def test_the_price_of_accuracy_has_the_exponent_that_the_name_says(name, gamma):
    for problem in of_kind(name):
        # the top level stands in for the limit, which makes the error of the one below it too large
        found = price_exponent(problem.sde.drift.costs[:-2], level_errors(problem)[:-2])
        assert found == pytest.approx(gamma, rel=0.15)
        assert problem.gamma == gamma
        assert abs(found - {1.5: 2.5}.get(gamma, 1.5)) > 0.5  # the bound can tell them apart


@pytest.mark.parametrize("noise", ["ode", "sde"])
def test_rough_differences_are_soon_forgotten_the_more_the_higher_the_level_and_smooth_ones_are_not(noise):
    rough, smooth = memory_lost(ALL[f"rough-{noise}"]), memory_lost(ALL[f"smooth-{noise}"])
    assert rough[-1] > 0.3 and rough[-1] > 4 * rough[0]
    assert smooth.max() < 0.1  # the wrong twin of the rough one, and the other way round
    assert not smooth[-1] > 4 * smooth[0]


@pytest.mark.parametrize("problem", of_kind("coarse"), ids=["ode", "sde"])
def test_the_cheap_levels_of_the_coarse_ladder_have_next_to_nothing_to_do_with_the_solution(problem):
    """Whoever takes them errs by about the solution itself, with as many steps as one likes."""
    for level in range(1, len(problem.sde.drift)):
        assert min(errors_alone(problem, level)) > 0.9
    assert errors_alone(problem, len(problem.sde.drift))[-1] < 0.05
    twin = ALL[f"smooth-{'ode' if problem.sde.is_ode else 'sde'}"]
    assert all(errors_alone(twin, level)[-1] < 0.25 for level in range(1, len(twin.sde.drift)))


@pytest.mark.parametrize("problem", of_kind("useless"), ids=["ode", "sde"])
def test_the_useless_level_is_no_better_than_the_one_below_at_eight_times_its_price(problem):
    costs, errors = problem.sde.drift.costs, level_errors(problem)
    assert costs[2] == 8 * costs[1]
    assert errors[2] > 0.9 * errors[1]
    assert errors_alone(problem, 3)[-1] > 0.9 * errors_alone(problem, 2)[-1]
    assert differences(problem)[1].square().mean() > 0, "a copy would be too easy to find out"
    others = errors[[0, 1, 3]]
    assert (others[1:] < 0.65 * others[:-1]).all(), "the others are better than those below them"
    twin = level_errors(ladder("smooth", system("rotations", 8), gamma=3.0, levels=5))
    assert not twin[2] > 0.9 * twin[1]


@pytest.mark.parametrize("problem", of_kind("top"), ids=["ode", "sde"])
def test_the_last_difference_of_the_top_ladder_is_large_and_soon_forgotten_in_state_and_time(problem):
    sizes = differences(problem).square().flatten(1).mean(1).sqrt()
    assert sizes[-1] > 3 * sizes[:-1].max()
    lost = memory_lost(problem)
    assert lost[-1] > 0.25 and lost[:-1].max() < 0.1
    twin = ladder("smooth", system("pendulums"), levels=4)
    assert not memory_lost(twin)[-1] > 0.25
    small = differences(twin).square().flatten(1).mean(1).sqrt()
    assert not small[-1] > 3 * small[:-1].max()


@pytest.mark.parametrize("problem", of_kind("top"), ids=["ode", "sde"])
def test_no_lower_level_of_the_top_ladder_comes_near_what_the_top_one_reaches_in_128_steps(problem):
    top = errors_alone(problem, len(problem.sde.drift))[-1]
    assert all(min(errors_alone(problem, level)) > 2 * top for level in range(1, len(problem.sde.drift)))


def test_the_top_levels_field_changes_with_the_state_and_with_the_time():
    drift = ALL["top-ode"].sde.drift

    def last(t, y):
        return drift.levels[-1](t, y) - drift.levels[-2](t, y)

    y = ALL["top-ode"].initial(64)
    at = [torch.tensor(t, dtype=F64) for t in (0.5, 0.53)]
    here = last(at[0], y)
    for there in (last(at[1], y), last(at[0], y + 0.5)):
        assert float((there - here).norm() / here.norm()) > 0.5


def test_the_levels_of_the_mixtures_agree_early_and_differ_late():
    for problem in of_kind("mixture"):
        late = differences(problem)[-1].square().flatten(1).mean(1)
        assert late[-16:].mean() > 10 * late[:4].mean()
        assert problem.sde.drift.costs == (4.0, 32.0, 256.0)
    steady = differences(ALL["smooth-ode"])[-1].square().flatten(1).mean(1)
    assert not steady[-16:].mean() > 10 * steady[:4].mean()


# the systems, written out


def test_rotations_are_independent_copies_of_the_sheared_ones():
    base = system("rotations", 8)
    y = torch.randn(3, 8, dtype=F64, generator=torch.Generator().manual_seed(0))
    matrix = torch.tensor(room.SHEARED_ROTATIONS, dtype=F64)
    expected = torch.cat([y[:, :4] @ matrix.T, y[:, 4:] @ matrix.T], dim=1)
    torch.testing.assert_close(base.drift(torch.tensor(0.0), y), expected)


def test_pendulums_pull_at_their_two_neighbours_and_lose_energy_to_friction_alone():
    base = system("pendulums", 6)
    angle, velocity = [0.3, -0.2, 0.9], [0.1, 0.5, -0.4]
    found = base.drift(torch.tensor(0.0), torch.tensor([angle + velocity], dtype=F64))[0].tolist()
    for i in range(3):
        pull = angle[i - 1] + angle[(i + 1) % 3] - 2 * angle[i]
        assert found[i] == velocity[i]
        assert found[3 + i] == pytest.approx(2 * pull - 4 * math.sin(angle[i]) - 0.5 * velocity[i])
    springs = sum(2 * (angle[i] - angle[i - 1]) * (velocity[i] - velocity[i - 1]) for i in range(3))
    power = sum(velocity[i] * found[3 + i] + 4 * math.sin(angle[i]) * found[i] for i in range(3)) + springs
    assert power == pytest.approx(-0.5 * sum(v * v for v in velocity))


def test_the_weather_is_lorenzs_of_1996():
    base = system("weather", 8)
    y = np.random.default_rng(0).standard_normal(8)
    found = base.drift(torch.tensor(0.0), torch.as_tensor(y)[None])[0].numpy()
    expected = [(y[(i + 1) % 8] - y[i - 2]) * y[i - 1] - y[i] + 2.0 for i in range(8)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    rest = torch.full((1, 8), 2.0, dtype=F64)
    assert float(base.drift(torch.tensor(0.0), rest).abs().max()) == 0.0


@pytest.mark.parametrize("kind", LADDERS)
@pytest.mark.parametrize("base", SYSTEMS)
@pytest.mark.parametrize("noise", NOISES)
def test_every_kind_can_be_had_of_every_system_with_every_noise(kind, base, noise):
    made = ladder(kind, system(base, 8), noise, levels=4, volatility=0.3)
    assert isinstance(made, LadderProblem)
    assert made.sde.noise == {"ode": None, "additive": "additive", "multiplicative": "diagonal"}[noise]
    assert len(made.sde.drift) == (5 if kind == "useless" else 4)
    done = mlsde.solve(made.sde, made.initial(4), made.t_span, steps=64)
    assert done.success


def test_noise_of_pendulums_acts_on_their_velocities():
    made = ladder("smooth", system("pendulums", 8), "additive", volatility=0.3)
    assert made.sde.diffusion.tolist() == [0.0] * 4 + [0.3] * 4


def test_multiplicative_noise_is_in_proportion_to_the_state():
    made = ladder("smooth", system("rotations", 8), "multiplicative", volatility=0.3)
    y = made.initial(2)
    torch.testing.assert_close(made.sde.diffusion(torch.tensor(0.0), y), 0.3 * y)


def test_another_seed_draws_other_differences_and_the_same_seed_the_same():
    def top(seed):
        made = kinds(seed)["smooth-ode"]
        return made.sde.drift.levels[-1](torch.tensor(0.0, dtype=F64), made.initial(2))

    torch.testing.assert_close(top(1), top(1), rtol=0, atol=0)
    assert not torch.allclose(top(1), top(0))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: system("wheels"), "name='wheels'"),
        (lambda: system("rotations", 6), "multiple of 4"),
        (lambda: system("pendulums", 7), "multiple of 2"),
        (lambda: ladder("odd", system("weather")), "kind='odd'"),
        (lambda: ladder("smooth", system("weather"), "white"), "noise='white'"),
        (lambda: ladder("smooth", system("weather"), levels=1), "levels must be at least 2"),
        (lambda: ladder("smooth", system("weather"), size=-1.0), "size"),
        (lambda: ladder("smooth", system("weather"), "additive", volatility=0.0), "volatility"),
        (lambda: kinds(-1), "seed"),
    ],
)
def test_bad_arguments_are_named(call, text):
    with pytest.raises(ValueError, match=text):
        call()
