import numpy as np
import pytest
import torch

import mlsde
from mlsde.hierarchy import CountedLevels

T = torch.tensor(0.5)


def decay(t, y):
    return -y


def wave(t, y):
    return torch.sin(y) + t


def test_a_ladder_keeps_its_levels_prices_and_names_in_order():
    drift = mlsde.DriftHierarchy([decay, wave], costs=[1, 8.0], names=["coarse", "fine"])
    assert drift.levels == (decay, wave)
    assert drift.costs == (1.0, 8.0)
    assert drift.names == ("coarse", "fine")
    assert not drift.differences
    assert repr(drift) == "DriftHierarchy(2 levels, costs: 1, 8)"
    assert mlsde.DriftHierarchy([decay, wave]).names == ("level 1", "level 2")
    assert "not measured" in repr(mlsde.DriftHierarchy([decay]))


def test_a_ladder_of_differences_is_the_ladder_of_their_sums():
    by_differences = mlsde.DriftHierarchy.from_differences([decay, wave], costs=[1, 8])
    by_levels = mlsde.DriftHierarchy([decay, lambda t, y: decay(t, y) + wave(t, y)], costs=[1, 9])
    assert by_differences.differences
    assert repr(by_differences).startswith("DriftHierarchy.from_differences(2 levels")
    rule = mlsde.Multilevel(mlsde.Constant([1.0, 0.25]), coins="periodic", correction="hold")
    y0 = torch.ones(3, 2, dtype=torch.float64)
    for multilevel in (None, rule):
        one, other = (
            mlsde.solve(mlsde.SDE(drift), y0, (0, 1), steps=20, multilevel=multilevel)
            for drift in (by_differences, by_levels)
        )
        torch.testing.assert_close(one.y1, other.y1, rtol=1e-12, atol=0)
    assert one.stats.evaluations == (20, 5)  # a fired level pays for its correction alone
    assert other.stats.evaluations == (20, 5)


def test_selected_levels_keep_their_prices_and_names():
    drift = mlsde.DriftHierarchy([decay, torch.sub, wave], costs=[1, 8, 64])
    chosen = drift.select([1, 3])
    assert chosen.levels == (decay, wave)
    assert chosen.costs == (1.0, 64.0)
    assert chosen.names == ("level 1", "level 3")
    assert mlsde.DriftHierarchy([decay, wave]).select([2]).costs is None


def test_a_ladder_of_differences_can_only_be_cut_at_the_top():
    drift = mlsde.DriftHierarchy.from_differences([decay, wave, decay], costs=[1, 2, 3])
    cut = drift.select([1, 2])
    assert cut.differences
    assert len(cut) == 2
    with pytest.raises(ValueError, match="can only be cut at the top"):
        drift.select([1, 3])


@pytest.mark.parametrize("chosen", [[], [2, 1], [1, 1], [1, 4]])
def test_selected_levels_must_increase_within_the_ladder(chosen):
    with pytest.raises(ValueError, match="levels must increase within 1 … 3"):
        mlsde.DriftHierarchy([decay, wave, decay]).select(chosen)


def test_measured_prices_are_seconds_per_sample_and_order_the_levels():
    def slow(t, y):
        for _ in range(200):
            y = torch.sin(y)
        return y

    y = torch.ones(64, 8)
    for drift in (mlsde.DriftHierarchy([decay, slow]), mlsde.DriftHierarchy.from_differences([decay, slow])):
        measured = drift.measured(0.0, y)
        assert measured.differences == drift.differences
        assert drift.costs is None
        assert 0 < 5 * measured.costs[0] < measured.costs[1] < 1


def test_whatever_needs_prices_names_itself():
    with pytest.raises(ValueError, match=r"Optimal needs the price of each level: give DriftHierarchy\(..., costs="):
        mlsde.DriftHierarchy([decay]).required_costs("Optimal")


def test_calls_samples_and_seconds_are_counted_for_each_level():
    levels = CountedLevels([decay, wave], torch.float32)
    for samples, k in ((4, 0), (3, 1), (2, 1)):
        y = torch.ones(samples, 2)
        assert torch.equal(levels(k, T, y), [decay, wave][k](T, y))
    assert levels.calls == [1, 2]
    assert levels.samples == [4, 5]
    assert all(0 < seconds < 1 for seconds in levels.seconds)


def test_levels_see_half_precision_and_the_sums_get_single():
    seen = []

    def level(t, y):
        seen.append(y.dtype)
        return y

    out = CountedLevels([level], torch.bfloat16)(0, T, torch.ones(2, 1))
    assert seen == [torch.bfloat16]
    assert out.dtype == torch.float32


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        (lambda y: y[:1], ValueError, r"drift level 2 returned shape \(1, 2\), expected that of y, \(3, 2\)"),
        (lambda y: y.sum(), ValueError, r"drift level 2 returned shape \(\), expected that of y"),
        (lambda y: y.double(), TypeError, "drift level 2 returned torch.float64 on cpu, expected torch.float32"),
        (lambda y: y.to("meta"), TypeError, "drift level 2 returned torch.float32 on meta, expected torch.float32 on"),
        (lambda y: y.numpy(), TypeError, "drift level 2 must return a torch.Tensor, got ndarray"),
        (lambda y: None, TypeError, "drift level 2 must return a torch.Tensor, got NoneType"),
        (lambda y: y.neg_(), ValueError, "drift level 2 wrote into its argument y"),
    ],
)
def test_a_level_that_returns_something_else_is_named(out, error, message):
    with pytest.raises(error, match=message):
        CountedLevels([decay, lambda t, y: out(y)], torch.float32)(1, T, torch.ones(3, 2))


def test_an_error_inside_a_level_is_the_users_own_with_a_note_of_the_level():
    def broken(t, y):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as caught:
        CountedLevels([decay, broken], torch.float32)(1, T, torch.ones(3, 2))
    assert caught.value.__notes__ == ["raised by drift level 2 at t=0.5"]


def test_numpy_functions_make_levels():
    level = mlsde.from_numpy(lambda t, y: np.sin(y) + t)
    y = torch.linspace(0, 1, 6, dtype=torch.float64).view(3, 2)
    torch.testing.assert_close(level(T, y), torch.sin(y) + 0.5)


def test_measuring_shows_levels_the_time_in_the_precision_that_a_run_does():
    seen = []
    drift = mlsde.DriftHierarchy([lambda t, y: seen.append(t.dtype) or -y])
    drift.measured(0.0, torch.ones(2, 1, dtype=torch.bfloat16))
    mlsde.solve(mlsde.SDE(drift), torch.ones(2, 1, dtype=torch.bfloat16), (0, 1), steps=2)
    assert set(seen) == {torch.float32}


def test_levels_are_replaced_one_for_one():
    drift = mlsde.DriftHierarchy.from_differences([lambda t, y: y, lambda t, y: 2 * y], [1.0, 3.0], names=["a", "b"])
    other = drift.with_levels([lambda t, y: -y, lambda t, y: -2 * y])
    assert (other.costs, other.names, other.differences) == (drift.costs, drift.names, True)
    assert other.levels[1](None, 1.0) == -2.0
    with pytest.raises(ValueError, match="levels holds 1 callables, but there are 2 levels"):
        drift.with_levels([lambda t, y: y])
    with pytest.raises(TypeError, match="levels must be a sequence of callables"):
        drift.with_levels(3)
