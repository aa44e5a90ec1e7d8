"""What a ladder is like, level by level: gamma and its interval, warnings, table and figure."""

import json
import math
import re

import numpy as np
import pytest
import torch

import mlsde
from mlsde.problems import analytic
from mlsde.problems.ladder import LadderProblem
from mlsde.study import diagnose
from mlsde.study.diagnostics import _student, price_exponent

F64 = torch.float64


def constant(size):
    return lambda t, y: torch.full_like(y, size)


def problem(levels, costs, *, start=None, span=(0.0, 1.0), differences=False, **equation):
    make = mlsde.DriftHierarchy.from_differences if differences else mlsde.DriftHierarchy
    start = torch.ones(2, 2, dtype=F64) if start is None else start
    return LadderProblem("made up", mlsde.SDE(make(levels, costs), **equation), start, span)


def of_sizes(sizes, costs, **options):
    """Ladder whose differences are constants of the given sizes."""
    return problem([constant(size) for size in sizes], costs, differences=True, **options)


# gamma


def ladder_of(gamma, levels=5, **options):
    costs = 4.0 ** np.arange(levels)
    return of_sizes((costs ** (-1 / gamma)).tolist(), costs.tolist(), **options)


@pytest.mark.parametrize("gamma", [1.2, 2.0, 3.5])
@pytest.mark.parametrize("span", [(0.0, 1.0), (1.0, 0.0), (-2.0, 5.0)])
def test_gamma_of_a_ladder_made_for_it_is_recovered_whichever_way_time_runs(gamma, span):
    found = diagnose(ladder_of(gamma, span=span), samples=2, steps=3)
    assert found.gamma == pytest.approx(gamma)
    assert found.gamma_interval == pytest.approx((gamma, gamma))
    assert found.cost_exponent == pytest.approx(2.0)
    assert found.decay_exponent == pytest.approx(2.0 / gamma)
    assert found.warnings == ()


def test_of_a_smooth_ladder_gamma_lies_in_its_interval_and_another_one_does_not():
    made = analytic.linear_ode().ladder(2.5, 7, features=64, spread=0.5)
    low, high = diagnose(made, samples=32, steps=16).gamma_interval
    assert low < 2.5 < high
    assert not low < 4.0 < high


def coverage(levels, draws=2000):
    """How often the interval holds the true gamma when the logarithms of the errors scatter about a line."""
    rng, costs = np.random.default_rng(levels), 8.0 ** np.arange(levels)
    hits = 0
    for scatter in 0.3 * rng.standard_normal((draws, levels)):
        _, (low, high) = price_exponent(costs, costs ** (-1 / 2.5) * np.exp(scatter))
        hits += low <= 2.5 <= high
    return hits / draws


@pytest.mark.parametrize("levels", [3, 4, 5, 8])
def test_the_interval_holds_the_true_gamma_in_95_of_100_ladders(levels, monkeypatch):
    """Within 5 deviations of 2000 trials, 0.025: a false alarm in 1.7 million. A normal's 1.96 is too narrow."""
    assert abs(coverage(levels) - 0.95) < 0.025
    monkeypatch.setattr("mlsde.study.diagnostics._student", lambda freedom: 1.96)
    assert coverage(levels) < 0.95 - 0.025


def test_the_quantiles_are_students():
    from scipy.stats import t

    for freedom in range(1, 40):
        assert _student(freedom) == pytest.approx(t.ppf(0.975, freedom), rel=0.01)


def test_one_level_has_no_gamma_nor_have_two():
    for sizes, costs in (([1.0], [1.0]), ([1.0, 0.5], [1.0, 4.0])):
        found = diagnose(of_sizes(sizes, costs), samples=2, steps=2)
        assert all(map(math.isnan, (found.gamma, *found.gamma_interval, found.cost_exponent, found.decay_exponent)))
        assert found.as_dict()["gamma"] is None
        assert found.as_dict()["gamma_interval"] == [None, None]


def test_three_levels_have_a_gamma_without_an_interval():
    found = diagnose(of_sizes([1.0, 0.5, 0.25], [1.0, 8.0, 64.0]), samples=2, steps=2)
    assert found.gamma == pytest.approx(3.0)
    assert all(map(math.isnan, found.gamma_interval))


@pytest.mark.parametrize("sizes", [[1.0, 0.3, 0.3, 0.3], [1.0, 0.1, 0.2, 0.4]])
def test_errors_that_do_not_fall_have_an_infinite_gamma(sizes):
    found = diagnose(of_sizes(sizes, [1.0, 4.0, 16.0, 64.0]), samples=2, steps=2)
    assert found.gamma == math.inf
    assert found.as_dict()["gamma"] is None
    assert "gamma inf" in repr(found)


def test_a_slope_of_rounding_is_none():
    costs = np.array([2.0, 4.0])
    found = [price_exponent(costs, np.full(2, size))[0] for size in np.random.default_rng(0).uniform(size=100)]
    assert found == [math.inf] * 100


def test_an_interval_that_reaches_errors_that_do_not_fall_is_open():
    gamma, (low, high) = price_exponent(np.array([1.0, 4.0, 16.0]), np.array([1.0, 0.3, 0.4]))
    assert 0 < low < gamma < high == math.inf


def test_levels_that_differ_by_nothing_are_left_out_of_the_fit():
    costs, errors = 8.0 ** np.arange(4), np.array([1.0, 0.0, 0.25, 0.125])
    assert price_exponent(costs, errors)[0] == pytest.approx(3.0)
    assert math.isnan(price_exponent(costs, np.array([0.0, 0.0, 0.0, 0.1]))[0])


# warnings


class Counting:
    """A level that is never the same again."""

    def __init__(self):
        self.calls = 0

    def __call__(self, t, y):
        self.calls += 1
        return torch.full_like(y, 1.0 + 0.01 * self.calls)


def outliers(samples):
    """All samples at zero but one."""
    y0 = torch.zeros(samples, 1, dtype=F64)
    y0[-1] = 1.0
    return y0


def one_odd(samples):
    return problem([lambda t, y: y, lambda t, y: 1.1 * y + 1.0], [1.0, 8.0], start=outliers(samples))


def coupled(t, y):
    return y - y.mean(0, keepdim=True) + 0.5


def dropout(t, y):
    return torch.nn.functional.dropout(torch.ones_like(y), 0.5, training=True)


GOOD = [constant(2.0), constant(0.5), constant(0.1)]
SCATTERED = torch.as_tensor(np.random.default_rng(0).standard_normal((128, 2)))
TWO = [1.0, 8.0]
ASKED = "returns other values when asked again or for fewer samples"
WARNED = {
    "one level": (lambda: of_sizes([1.0], [1.0]), ["the ladder has one level: there is nothing to gain"]),
    "prices": (
        lambda: of_sizes([1.0, 0.5, 0.1, 0.02], [1.0, 8.0, 4.0, 99.0]),
        ["level 3 is not dearer than level 2; order the levels by price, or leave 2 out"],
    ),
    "equal prices": (lambda: of_sizes([1.0, 0.5], [8.0, 8.0]), ["level 2 is not dearer than level 1"]),
    "useless": (
        lambda: of_sizes([1.0, 0.5, 0.5, 0.1, 0.02], [1.0, 8.0, 64.0, 512.0, 4096.0]),
        ["the difference of level 3 is as large as that of level 2 (V = 0.5 after 0.5): level 2 came no nearer"],
    ),
    "identical": (
        lambda: of_sizes([1.0, 0.5, 0.0, 0.1], [1.0, 8.0, 64.0, 512.0]),
        ["levels 2 and 3 are identical along the run; leave the dearer one out"],
    ),
    "stateful": (lambda: problem([constant(1.0), Counting()], TWO), [f"level 2 {ASKED}"]),
    "dropout": (lambda: problem([constant(1.0), dropout], TWO), [f"level 2 {ASKED}"]),
    "batch-coupled": (lambda: problem([coupled, constant(2.0)], TWO, start=SCATTERED), [f"level 1 {ASKED}"]),
    "heavy": (
        lambda: one_odd(128),
        [f"the kurtosis of level {k} is 126: its variance is hardly known" for k in (1, 2)],
    ),
    "cheap": (lambda: ladder_of(0.8), ["gamma is 0.80: accuracy is cheap here"]),
    "two at once": (
        lambda: problem([coupled, constant(2.0)], [8.0, 1.0], start=SCATTERED),
        ["level 2 is not dearer than level 1", f"level 1 {ASKED}"],
    ),
}
FINE = {
    "good": lambda: problem(GOOD, [1.0, 8.0, 64.0]),
    "a second difference above the first": lambda: of_sizes([0.5, 1.0], TWO),
    "gamma just above 1": lambda: ladder_of(1.01),
    "a kurtosis below 100": lambda: one_odd(64),
    "single precision": lambda: problem(
        list(analytic.linear_ode().ladder(2.5, 4, work="real").sde.drift.levels),
        [1.0, 8.0, 64.0, 512.0],
        start=torch.randn(50, 4, generator=torch.Generator().manual_seed(0)),
    ),
    "one part in two thousand": lambda: problem([constant(1.0), lambda t, y: 0 * y + 2.0 + 5e-4 * (len(y) > 99)], TWO),
    "a network switched to evaluation": lambda: problem(
        [constant(1.0), lambda t, y: torch.nn.Dropout().eval()(y)], TWO
    ),
}


@pytest.mark.filterwarnings("ignore:costs fall")
@pytest.mark.parametrize(("make", "expected"), WARNED.values(), ids=WARNED.keys())
def test_each_fault_of_a_ladder_has_its_warning_and_no_other(make, expected):
    found = diagnose(make(), steps=4)
    assert len(found.warnings) == len(expected), found.warnings
    for warning, words in zip(found.warnings, expected, strict=True):
        assert words in warning
        assert warning.endswith(".")
        assert f"warning: {warning}" in repr(found)
    assert found.as_dict()["warnings"] == found.warnings


@pytest.mark.parametrize("make", FINE.values(), ids=FINE.keys())
def test_a_sound_ladder_has_none(make):
    found = diagnose(make(), steps=4)
    assert found.warnings == ()
    assert max(found.repeats) < 1e-3


def changing(t, y):
    """A level that is not asked for all samples differs by 0.01: of a difference that is 100 at t = 0, 1 at t = 1."""
    return torch.full_like(y, float(10.0 ** (2 - 2 * t))) + 0.01 * (len(y) == 2)


@pytest.mark.parametrize(("span", "expected"), [((0.0, 1.0), 1e-4), ((1.0, 0.0), 1e-2)])
def test_the_check_of_repeats_is_measured_by_the_difference_where_the_run_starts(span, expected):
    """At ``t0``, whichever way time runs. The grid of the pilot ends one step before ``t1``."""
    found = diagnose(problem([changing], [1.0], start=torch.zeros(4, 1, dtype=F64), span=span), samples=4, steps=4)
    assert found.repeats[0] == pytest.approx(expected, rel=0.02)


def test_the_gain_of_a_linear_part_counts_into_differences_and_not_into_repeats():
    def linear(gain):
        return mlsde.LinearPart(
            rate=lambda t: 0.0, propagator=lambda t, s: 1.0, source=lambda t, s: gain * (s - t), gain=lambda t: gain
        )

    levels = [coupled, constant(2.0), constant(1.9)]
    plain, gained = (
        diagnose(problem(levels, [1.0, 8.0, 64.0], start=SCATTERED, linear=linear(gain)), steps=2)
        for gain in (1.0, 0.1)
    )
    assert gained.variances[1] == pytest.approx(0.01 * plain.variances[1], rel=0.2)
    assert gained.variances[2] == pytest.approx(0.01 * plain.variances[2])
    assert gained.means[2] == pytest.approx(0.1 * plain.means[2])
    assert gained.repeats == pytest.approx(plain.repeats)
    assert gained.gamma == pytest.approx(plain.gamma, rel=0.1)


def test_a_ladder_by_differences_is_diagnosed_as_the_one_by_values():
    given = diagnose(of_sizes([1.0, -0.5, 0.25], [1.0, 8.0, 64.0]), samples=3, steps=3)
    summed = diagnose(problem([constant(1.0), constant(0.5), constant(0.75)], [1.0, 8.0, 64.0]), samples=3, steps=3)
    for name in ("variances", "means", "kurtoses", "gamma", "cost_exponent", "decay_exponent"):
        assert getattr(given, name) == pytest.approx(getattr(summed, name)), name


# what it looks like


def test_the_table_holds_a_row_for_each_level_and_survives_json(tmp_path):
    found = diagnose(ladder_of(2.5, levels=4), samples=4, steps=5)
    lines = repr(found).splitlines()
    assert lines[0] == "made up: differences of the levels along a run"
    assert [line.split()[:2] for line in lines[2:6]] == [["1", "1"], ["2", "4"], ["3", "16"], ["4", "64"]]
    assert [line.partition(":")[0] for line in lines[6:8]] == ["V_k", "repeats"]
    assert lines[8] == "cost ~ 2^(2.00 k), difference ~ 2^(-0.80 k): gamma 2.50 [2.50, 2.50]"
    assert repr(diagnose(ladder_of(2.5, levels=2), samples=4, steps=5)).splitlines()[6].startswith("gamma unknown")
    whole = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert whole["gamma"] == pytest.approx(2.5)
    assert whole["variances"] == list(found.variances)
    assert np.shape(whole["variances_in_time"]["values"]) == (5, 4)
    assert whole["variances_in_time"]["times"] == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8])


@pytest.mark.parametrize("sizes", [[1.0], [1.0, 0.0], [1.0, 0.5, 0.0, 0.1], [0.0, 0.0], [1.0, 0.5, 0.25]])
def test_the_figure_is_drawn_even_if_levels_are_identical(sizes, tmp_path):
    found = diagnose(of_sizes(sizes, [8.0**k for k in range(len(sizes))]), samples=2, steps=3)
    file = tmp_path / "pictures" / "levels.png"
    assert found.figure(file) == str(file)
    assert file.read_bytes().startswith(b"\x89PNG")
    assert file.stat().st_size > 5_000


def bad(**options):
    return lambda: diagnose(problem(GOOD, [1.0, 8.0, 64.0]), **options)


BAD = {
    "problem": (lambda: diagnose(mlsde.SDE(lambda t, y: y)), TypeError, "problem must be an mlsde.problems.LadderProb"),
    "no samples": (bad(samples=0), ValueError, "samples must be a positive integer, got 0"),
    "one sample": (bad(samples=1), ValueError, "samples must be at least 2, so that there is a variance, got 1"),
    "half a sample": (bad(samples=2.5), TypeError, "samples must be a positive integer, got 2.5"),
    "steps": (bad(steps=-1), ValueError, "steps must be a positive integer, got -1"),
    "seed": (bad(seed=-1), ValueError, "seed must not be negative, got -1"),
    "method": (bad(method="leap"), ValueError, "method='leap' is not known"),
    "not finite": (
        lambda: diagnose(problem([constant(1.0), constant(math.nan)], TWO)),
        ValueError,
        "drift level 2 became NaN or infinite in the pilot, at t=0",
    ),
}


@pytest.mark.parametrize(("call", "error", "words"), BAD.values(), ids=BAD.keys())
def test_bad_arguments_are_named(call, error, words):
    with pytest.raises(error, match=re.escape(words)):
        call()
