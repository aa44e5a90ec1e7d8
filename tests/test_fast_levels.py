"""Levels that are compiled or rounded stand where the levels stood."""

import pytest
import torch

import mlsde
from mlsde import SDE, DriftHierarchy, Multilevel
from mlsde.levels import CompiledLevel, padded_size


def nets(seed=0):
    torch.manual_seed(seed)
    return [torch.nn.Sequential(torch.nn.Linear(3, w), torch.nn.Tanh(), torch.nn.Linear(w, 3)) for w in (4, 32)]


class Timed(torch.nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, t, y):
        return self.net(y) - t * y


def ladder():
    return DriftHierarchy([Timed(net) for net in nets()], costs=[1.0, 8.0], names=["small", "large"])


RULE = Multilevel(mlsde.Constant([1.0, 0.25]))


def run(drift, **options):
    y0 = torch.ones(6, 3)
    with torch.no_grad():
        return mlsde.solve(SDE(drift, 0.3), y0, (0.0, 1.0), steps=20, **({"multilevel": RULE} | options))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_ladder_comes_to_the_same(backend):
    drift = ladder()
    fast = drift.compile(backend=backend)
    plain, found = run(drift), run(fast)
    torch.testing.assert_close(found.y1, plain.y1)
    assert found.stats.evaluations == plain.stats.evaluations and found.stats.names == ("small", "large")
    assert fast.costs == drift.costs and "compiled" in repr(fast.levels[0])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_coins_per_sample_change_the_batch_of_a_compiled_level():
    apart = Multilevel(mlsde.Constant([1.0, 0.25]), share="sample")
    fast = ladder().compile([2], backend="eager", dynamic=True)
    assert not isinstance(fast.levels[0], CompiledLevel) and isinstance(fast.levels[1], CompiledLevel)
    torch.testing.assert_close(run(fast, multilevel=apart).y1, run(ladder(), multilevel=apart).y1)


def test_sizes_are_four_in_each_doubling_and_at_most_a_quarter_more():
    sizes = [padded_size(n) for n in range(1, 1025)]
    assert sorted(set(sizes)) == [*range(1, 9), *(m * 2**j for j in range(1, 8) for m in (5, 6, 7, 8))]
    assert all(n <= size < 1.25 * n for n, size in enumerate(sizes, start=1))


@pytest.mark.parametrize("mode", [None, "reduce-overhead"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_few_sizes_pad_what_coins_per_sample_gather(monkeypatch, mode):
    seen = set()

    def captured(level, **options):
        def recorded(t, y):
            seen.add(y.shape[0])
            return level(t, y)

        return recorded

    monkeypatch.setattr(torch, "compile", captured)
    apart, y0 = Multilevel(mlsde.Constant([1.0, 0.5]), coins="independent", share="sample"), torch.ones(67, 3)
    few = ladder().compile(few_sizes=True, mode=mode)
    with torch.no_grad():
        found, plain = (
            mlsde.solve(SDE(drift, 0.3), y0, (0, 1), steps=50, multilevel=apart) for drift in (few, ladder())
        )
    torch.testing.assert_close(found.y1, plain.y1)
    assert found.stats.evaluations == plain.stats.evaluations  # of the trajectories, not of their padding
    padded, seen = seen.copy(), set()
    mlsde.solve(SDE(ladder().compile(mode=mode), 0.3), y0, (0, 1), steps=50, multilevel=apart)
    assert padded <= {padded_size(n) for n in range(1, 68)} and len(padded) < len(seen) / 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, about itself
def test_modes_that_capture_graphs_copy_what_comes_from_them(monkeypatch):
    place = torch.zeros(6, 3)

    def captured(level, **options):
        return lambda t, y: place.copy_(level(t, y))  # every result in one place, as a graph leaves it

    monkeypatch.setattr(torch, "compile", captured)
    torch.testing.assert_close(run(ladder().compile(mode="reduce-overhead")).y1, run(ladder()).y1)


@pytest.mark.parametrize(
    ("levels", "words"), [([0], "levels must be a positive integer"), ([3], "within 1 … 2"), (2, "sequence of level")]
)
def test_levels_that_are_not_there_are_not_compiled(levels, words):
    with pytest.raises((TypeError, ValueError), match=words):
        ladder().compile(levels)


def test_a_rounded_level_returns_the_dtype_of_the_state_and_says_how_far_off_it_is():
    drift = ladder()
    rounded = drift.in_precision([torch.bfloat16, None])
    y = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    off = rounded.rounding(0.5, y)
    assert off[1] == 0.0 and 1e-4 < off[0] < 2e-2  # eight bits of numbers of order one
    assert rounded.levels[0](torch.tensor(0.5), y).dtype == torch.float32
    assert drift.rounding(0.5, y) == (0.0, 0.0)
    assert rounded.compile(backend="eager").rounding(0.5, y) == off
    with torch.no_grad():
        by_hand = rounded.levels[0](torch.tensor(0.5), y) - drift.levels[0](torch.tensor(0.5), y)
    assert off[0] == pytest.approx(float(by_hand.square().mean().sqrt()), rel=1e-5)


def test_the_rounding_of_a_cheap_level_is_corrected_and_that_of_the_top_stays():
    always = Multilevel(mlsde.Constant([1.0, 1.0]))
    plain = run(ladder(), multilevel=always).y1
    cheap = run(ladder().in_precision([torch.bfloat16, None]), multilevel=always).y1
    dear = run(ladder().in_precision([None, torch.bfloat16]), multilevel=always).y1
    assert torch.equal(cheap, plain)
    assert float((dear - plain).abs().max()) > 1e-5
    seldom = run(ladder().in_precision([torch.bfloat16, None])).y1
    assert 0 < float((seldom - run(ladder()).y1).abs().max()) < 1e-2


@pytest.mark.parametrize(
    ("dtypes", "words"),
    [
        ([torch.bfloat16], "dtypes holds 1 dtypes, but there are 2 levels"),
        ([torch.float64, None], r"dtypes\[0\] must be torch.bfloat16"),
        (torch.bfloat16, "dtypes must be a sequence"),
    ],
)
def test_bad_precisions_are_named(dtypes, words):
    with pytest.raises((TypeError, ValueError), match=words):
        ladder().in_precision(dtypes)


def test_a_net_alone_returns_the_dtype_of_the_state_too():
    net = torch.nn.Linear(3, 3).requires_grad_(False)
    level = DriftHierarchy([lambda t, y: net(y)]).in_precision([torch.bfloat16]).levels[0]
    assert level.level(None, torch.ones(2, 3)).dtype == torch.float32
    assert level(torch.tensor(0.0), torch.ones(2, 3)).dtype == torch.float32
