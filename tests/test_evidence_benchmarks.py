"""What docs/benchmarks.md says is what the committed runs measured."""

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest

from mlsde import bench
from mlsde.bench import contenders
from mlsde.cli import bench as command

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "benchmarks.md"
SUITES = ["core", "scaling", "efficiency", "coins"]


def recorded(suite):
    return json.loads((ROOT / "docs" / "results" / f"bench-{suite}.json").read_text())


@pytest.mark.parametrize("suite", SUITES)
def test_the_page_says_what_the_committed_numbers_say(suite):
    section = command._section(recorded(suite), suite)
    page = PAGE.read_text()
    assert command.renewed(page, section, command._MARKERS.get(suite, suite)) == page


@pytest.mark.parametrize("suite", SUITES)
def test_where_and_when_it_was_measured_is_committed(suite):
    where = recorded(suite)["environment"]
    assert {"date", "commit", "machine", "cores", "torch", "mlsde"} <= set(where)
    assert set(where["libraries"]) == set(command._PEERS.get(suite, ()))


def test_no_number_of_the_clock_stands_outside_what_is_renewed():
    """Sentences with microseconds or per cent are made of the numbers; by hand they would grow old."""
    text = re.sub(r"<!-- (\w+): begin -->.*?<!-- \1: end -->", "", PAGE.read_text(), flags=re.DOTALL)
    assert not re.findall(r"\d[\d.,]* ?(?:us|ms|microseconds|%)\b|\d%", text)


@pytest.fixture(scope="module")
def scaling():
    return bench.ScalingBenchmark.from_dict(recorded("scaling"))


def test_the_price_of_a_step_depends_little_on_the_number_of_steps(scaling):
    for name in (contenders.ONE_LEVEL, *contenders.MULTILEVEL):
        few, many = (scaling.point("steps", n).timing(name).overhead[1] for n in (1000, 10_000))
        assert many < 1.5 * few


def test_memory_does_not_grow_with_the_steps_as_states_would(scaling):
    state = 4 * 100 * 10
    for name in (contenders.ONE_LEVEL, contenders.PATH, *contenders.MULTILEVEL):
        few, many = (scaling.point("steps", n).timing(name).peak for n in (1000, 10_000))
        assert (many - few) / 9000 < 0.1 * state


def test_the_ladder_pays_at_the_dearest_drift_and_not_at_one_for_nothing(scaling):
    for name in contenders.MULTILEVEL:
        assert scaling.point("products", 64).over_bare(name) < 0.5
        assert scaling.point("products", 0).over_bare(name) > 1


def test_compiled_steps_are_the_cheapest_at_the_smallest_states_and_no_longer_at_larger_ones(scaling):
    assert scaling.point("samples", 1).over_bare(contenders.UNSAFE) < 1
    assert scaling.point("samples", 1000).over_bare(contenders.UNSAFE) > 1
    assert scaling.point("samples", 1000).over_bare(contenders.TREE) > 10


@pytest.fixture(scope="module")
def coins():
    return bench.CoinBenchmark.from_dict(recorded("coins"))


def test_with_the_default_rule_own_coins_never_pay(coins):
    for work in coins.works:
        assert coins.crossing("systematic hold", work.width, False) is None
        assert coins.crossing("systematic hold", work.width, True) is None
    hold = coins.error("systematic hold", 4096)
    assert hold.own_error == pytest.approx(hold.shared_error, rel=0.02)


def test_with_the_papers_rule_they_pay_from_some_batch_on_and_the_earlier_the_dearer(coins):
    found = [coins.crossing("independent impulse", work.width, True) for work in coins.works]
    assert found[-1] is not None
    assert all(a is None or b <= a for a, b in pairwise(found))


def test_with_systematic_impulses_they_pay_at_the_dearest_drift_only_later(coins):
    dearest = coins.works[-1].width
    late, early = (coins.crossing(f"{rule} impulse", dearest, True) for rule in ("systematic", "independent"))
    assert late > early
    assert coins.crossing("systematic impulse", coins.works[0].width, True) is None


def test_at_equal_evaluations_own_coins_take_longer_in_batches_of_middle_size(coins):
    for rule in coins.rules:
        for work in coins.works:
            assert all(coins.clock(rule, work.width, n).ratio > 1.2 for n in (16, 64))
