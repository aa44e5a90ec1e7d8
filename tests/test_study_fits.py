"""Exponents: exact power laws give themselves, the plateau goes by the stated rule, verdicts say what it allows."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlsde.study.fits import Exponent, after_plateau, fit

ERRORS = [2.0**-i for i in range(8)]
QUICK = settings(deadline=None, max_examples=100)


def law(exponent, errors=ERRORS, constant=3.0):
    return [constant * error**-exponent for error in errors]


def draws(costs, spread=0.0, count=200):
    """Resampled costs, each off by a factor of its own."""
    rng = np.random.default_rng(0)
    return [[c * math.exp(spread * rng.standard_normal()) for c in costs] for _ in range(count)]


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.5, 4.0, 7.0])
def test_an_exact_power_law_gives_its_exponent_and_is_fitted(exponent):
    costs = law(exponent)
    found = fit(ERRORS, costs, draws(costs))
    assert found.value == pytest.approx(exponent, rel=1e-12)
    assert found.interval == pytest.approx((exponent, exponent), rel=1e-12)
    assert found.used == tuple(ERRORS)
    assert found.verdict == "fitted to 8 errors over a factor 128"
    assert not found.short


def test_the_plateau_is_dropped_before_the_slope_is_read_off():
    costs = [10.0, 10.0, 11.0, *law(3.0, ERRORS[3:])]
    costs[3:] = [c * 33.0 / costs[3] for c in costs[3:]]
    found = fit(ERRORS, costs, draws(costs))
    assert found.used == tuple(ERRORS[2:])
    assert found.interval == pytest.approx((found.value, found.value))  # of the same errors
    tail = fit(ERRORS[3:], costs[3:], draws(costs[3:]))
    assert tail.value == pytest.approx(3.0)
    assert 2.3 < found.value < 3.0  # from 11 to 33 is a slope of 1.58, above half of 3: it counts


# worked by hand: errors are halved, costs are powers of two, so the slopes are differences of the exponents below
@pytest.mark.parametrize(
    ("powers", "dropped"),
    [
        ([0, 2, 4, 6], 0),  # no plateau
        ([0, 0, 2, 4, 6], 1),  # slope 0 against 2
        ([0, 0, 0, 0, 2, 4, 6], 3),  # one after the other: 0 against 1.8, 1.9 and 2
        ([0, 1, 3, 5, 7], 0),  # slope 1 is just half of 2
        ([0, 0.99, 2.99, 4.99, 6.99], 1),  # and 0.99 is less
        ([0, 2, 2, 4, 6], 0),  # a step in the middle is no plateau
        ([5, 3, 5, 7], 1),  # falling first
        ([0, 0, 0, 0], 0),  # flat all along: nothing grows more slowly than the rest
        ([0, 0, 4], 1),  # two are left
        ([0, 0], 0),
        ([0, 1], 0),
        ([0, 0, 0, 0, 9], 3),
    ],
)
def test_leading_errors_go_while_the_cost_grows_by_less_than_half_of_the_slope_of_the_rest(powers, dropped):
    errors = [2.0**-i for i in range(len(powers))]
    assert after_plateau(errors, [2.0**power for power in powers]) == dropped


def test_too_few_errors_are_too_short_to_tell():
    for count in (2, 3):
        some = [1.0, 0.1, 0.01][:count]
        found = fit(some, law(2.0, some), draws(law(2.0, some)))
        assert found.value == pytest.approx(2.0)
        factor = f"{some[0] / some[-1]:.3g}"
        assert found.verdict == f"too short to tell: {count} errors over a factor {factor} are left beyond the plateau"
        assert found.short


@pytest.mark.parametrize(("factor", "short"), [(7.9, True), (8.0, False), (9.0, False)])
def test_a_fit_needs_errors_over_a_factor_of_eight(factor, short):
    errors = np.geomspace(factor, 1.0, 4).tolist()
    assert fit(errors, law(2.0, errors), draws(law(2.0, errors))).short == short


def test_three_halvings_are_enough_whatever_rounding_makes_of_them():
    every = [[2.0 ** -(start + i) for i in (0, 1, 2, 3)] for start in np.linspace(0.0, 5.0, 101).tolist()]
    assert any(errors[0] / errors[-1] < 8 for errors in every)
    assert not any(fit(errors, law(2.0, errors), draws(law(2.0, errors), count=2)).short for errors in every)


def test_errors_on_the_plateau_do_not_make_a_range_longer():
    errors = [64.0, 32.0, 16.0, *ERRORS[:3]]
    costs = [1.0, 1.0, 1.0, 1.0, 4.0, 16.0]
    found = fit(errors, costs, draws(costs))
    assert found.used == (1.0, 0.5, 0.25)
    assert found.verdict.startswith("too short to tell: 3 errors over a factor 4 ")


@pytest.mark.parametrize(("width", "noisy"), [(0.9, False), (1.1, True)])
def test_an_interval_wider_than_one_is_too_noisy_to_tell(width, noisy):
    """Half of the draws have the one slope, half the other; both are within the percentiles."""
    costs = law(2.0)
    slopes = [law(2.0 - width / 2), law(2.0 + width / 2)]
    found = fit(ERRORS, costs, slopes * 50)
    assert found.interval == pytest.approx((2.0 - width / 2, 2.0 + width / 2))
    assert found.short == noisy
    if noisy:
        assert found.verdict == "too noisy to tell: the interval is 1.1 wide; take more seeds or samples"


def test_the_interval_is_from_the_2_5_to_the_97_5_percentile():
    """Of 1,001 draws with the slopes 1.000, 1.001 … 2.000 the 26th and the 976th."""
    slopes = np.random.default_rng(0).permutation(np.linspace(1.0, 2.0, 1001)).tolist()
    found = fit(ERRORS, law(1.5), [law(slope) for slope in slopes])
    assert found.interval == pytest.approx((1.025, 1.975))
    assert found.value == pytest.approx(1.5)  # of the costs themselves, not of the draws


def test_errors_that_were_not_reached_are_left_out():
    costs = law(3.0)
    costs[0] = costs[6] = costs[7] = math.inf
    found = fit(ERRORS, costs, draws(costs))
    assert found.value == pytest.approx(3.0)
    assert found.used == tuple(ERRORS[1:6])


def test_a_draw_that_does_not_reach_an_error_is_fitted_to_those_it_does():
    costs, partly, hardly = law(3.0), law(3.0), law(3.0)
    partly[7] = math.inf
    hardly[1:] = [math.inf] * 7
    found = fit(ERRORS, costs, [partly] * 10 + [hardly] * 10)
    assert found.interval == pytest.approx((3.0, 3.0))
    none = fit(ERRORS, costs, [hardly])
    assert none.value == pytest.approx(3.0)
    assert all(math.isnan(end) for end in none.interval)
    assert none.verdict.startswith("too noisy to tell")


@pytest.mark.parametrize("reached", [0, 1])
def test_nothing_is_fitted_to_fewer_than_two_errors(reached):
    costs = [5.0] * reached + [math.inf] * (8 - reached)
    found = fit(ERRORS, costs, [costs] * 5)
    assert math.isnan(found.value)
    assert all(math.isnan(end) for end in found.interval)
    assert found.used == ()
    assert found.verdict == "not fitted: fewer than two of the errors were reached"
    assert found.short


costs_ = st.lists(st.one_of(st.floats(-3, 12), st.just(math.inf)), min_size=3, max_size=9)


def same(a: Exponent, b: Exponent, scale: float = 1.0) -> None:
    for x, y in zip((a.value, *a.interval), (b.value, *b.interval), strict=True):
        assert x == pytest.approx(y, rel=1e-6, abs=1e-6, nan_ok=True)
    assert [error * scale for error in a.used] == pytest.approx(list(b.used))
    assert a.verdict == b.verdict


@QUICK
@given(powers=costs_, factor=st.integers(-20, 20), moved=st.integers(-20, 20))
def test_units_of_cost_and_error_do_not_change_an_exponent(powers, factor, moved):
    """Factors are powers of two and costs not too round, so that no tie is broken by rounding."""
    errors = [2.0**-i for i in range(len(powers))]
    costs = [2.0 ** (power + 0.01 * i * math.pi) for i, power in enumerate(powers)]
    resampled = draws(costs, 0.1, 5)
    found = fit(errors, costs, resampled)
    same(found, fit(errors, [c * 2.0**factor for c in costs], [[c * 2.0**factor for c in d] for d in resampled]))
    same(found, fit([e * 2.0**moved for e in errors], costs, resampled), 2.0**moved)


@QUICK
@given(powers=st.lists(st.floats(-3, 12), min_size=4, max_size=9), power=st.sampled_from([0.5, 2.0, 3.0]))
def test_costs_to_a_power_have_that_power_times_the_exponent(powers, power):
    errors = [2.0**-i for i in range(len(powers))]
    costs = [2.0 ** (p + 0.01 * i * math.pi) for i, p in enumerate(powers)]
    once, raised = fit(errors, costs, [costs]), fit(errors, [c**power for c in costs], [costs])
    assert raised.value == pytest.approx(power * once.value, rel=1e-6, abs=1e-6)
    assert raised.used == once.used


@QUICK
@given(powers=st.lists(st.floats(-3, 12), min_size=2, max_size=9))
def test_at_least_two_errors_are_left_and_they_do_not_begin_with_a_plateau(powers):
    errors, costs = [2.0**-i for i in range(len(powers))], [2.0**power for power in powers]
    start = after_plateau(errors, costs)
    assert 0 <= start <= len(powers) - 2
    if len(powers) - start > 2:
        x = np.arange(start + 1, len(powers))
        rest = np.polyfit(x, powers[start + 1 :], 1)[0]
        assert powers[start + 1] - powers[start] >= 0.5 * rest - 1e-9
