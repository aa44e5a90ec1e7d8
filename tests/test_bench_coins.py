"""Own coins against shared ones: what an error at equal wall-clock is, and what the two kinds of coins do to it."""

import json
import math

import pytest
import torch

from mlsde import bench
from mlsde.bench import coin_results, sharing
from mlsde.cli import main


def error(samples=4, **changes):
    """Shared coins with a mean square of 17 of which 1 is bias, own coins with 5; and 2 of the samples."""
    fields = {
        "rule": "r", "samples": samples, "factors": (1.0, 2.0), "shared": ((16.0, 18.0), (5.0,)), "bias": (1.0, 0.25),
        "own": (4.0, 6.0), "sampling": 2.0,
    }  # fmt: skip
    return bench.CoinError(**fields | changes)


def clock(samples=4, shared=((1.0, 1.0, 2.0),), own=(4.0, 4.0, 4.0), factors=(1.0,)):
    return bench.CoinClock("r", 0, samples, factors, shared, own)


def result(errors, clocks):
    return bench.CoinBenchmark((bench.Work(0, 1e-6, 5e-7),), tuple(clocks), tuple(errors), 64, 3)


def test_runs_with_new_coins_average_the_variance_and_keep_the_bias():
    assert error().shared_error == pytest.approx(math.sqrt(17.0))
    assert error().own_error == pytest.approx(math.sqrt(5.0))
    assert error().shared_at(1.0, 4.0, sampling=False) == pytest.approx(math.sqrt(1.0 + 16.0 / 4.0))
    assert error().shared_at(1.0, 4.0, sampling=True) == pytest.approx(math.sqrt(1.0 + 18.0 / 4.0))
    assert error().shared_at(2.0, 2.0, sampling=False) == pytest.approx(math.sqrt(0.25 + 4.75 / 2.0))


def test_the_clock_says_how_many_runs_fit_into_one_with_own_coins():
    assert clock().ratio == pytest.approx(4.0)
    both = clock(shared=((1.0, 1.0, 2.0), (8.0, 8.0, 8.0)), factors=(1.0, 2.0))
    assert both.runs() == pytest.approx({1.0: 4.0, 2.0: 0.5})


def test_shared_coins_do_what_serves_them_best_of_what_fits():
    own = math.sqrt(5.0)
    again = result([error()], [clock()])
    assert again.advantage("r", 0, 4, False) == pytest.approx(math.sqrt(5.0) / own)
    assert again.advantage("r", 0, 4, True) == pytest.approx(math.sqrt(1.0 + 18.0 / 4.0) / math.sqrt(7.0))
    more = result([error()], [clock(shared=((1.0,) * 3, (2.0,) * 3), factors=(1.0, 2.0))])
    assert more.advantage("r", 0, 4, False) == pytest.approx(math.sqrt(0.25 + 4.75 / 2.0) / own)
    good = error(shared=((16.0, 18.0), (0.5,)))
    unfit = result([good], [clock(shared=((1.0,) * 3, (5.0,) * 3), factors=(1.0, 2.0))])
    assert unfit.advantage("r", 0, 4, False) == pytest.approx(again.advantage("r", 0, 4, False))


@pytest.mark.parametrize(
    ("own", "crossing"),
    [
        ((9.0, 4.0, 4.0), 4),  # 1, 1.5, 1.5
        ((4.0, 9.0, 4.0), 16),  # what is lost again in a larger batch does not count
        ((4.0, 4.0, 9.0), None),
        ((4.0, 4.0, 4.0), 1),
        ((9.0, 9.0, 8.9), None),  # smaller by less than a twentieth
    ],
)
def test_own_coins_win_from_the_batch_on_after_which_they_always_do(own, crossing):
    batches = (1, 4, 16)
    one = {"shared": ((9.0,),), "bias": (0.0,), "factors": (1.0,)}
    found = result(
        [error(n, own=(square,), **one) for n, square in zip(batches, own, strict=True)],
        [clock(n, shared=((1.0,),), own=(1.0,)) for n in batches],
    )
    assert found.crossing("r", 0, sampling=False) == crossing


def test_errors_that_are_alike_do_not_average_out_and_opposite_ones_do():
    alike = torch.full((2, 8, 3), 2.0, dtype=torch.float64)
    opposite = alike * torch.tensor([1.0, -1.0]).repeat(4)[None, :, None]
    assert sharing._mean_squares(alike, 1) == sharing._mean_squares(alike, 8) == (4.0, 4.0)
    assert sharing._mean_squares(opposite, 1) == (4.0, 4.0)
    assert sharing._mean_squares(opposite, 2) == sharing._mean_squares(opposite, 8) == (0.0, 0.0)


@pytest.fixture(scope="module")
def small():
    return bench.coins(1, replicates=6, samples=(1, 16, 256), widths=(0, 3), steps=32)


def test_what_averages_out_in_a_mean_is_the_error_of_own_impulses(small):
    """Deterministic: the seeds are fixed. By theory the factors of 256 samples are 16, 1 and 1."""
    fall = {
        (rule, kind): getattr(small.error(rule, 1), f"{kind}_error") / getattr(small.error(rule, 256), f"{kind}_error")
        for rule in small.rules
        for kind in ("own", "shared")
    }
    assert 12 < fall["independent impulse", "own"] < 20
    assert fall["systematic impulse", "own"] > 3
    assert max(fall[rule, "shared"] for rule in small.rules) < 2
    assert fall["systematic hold", "own"] < 2


def test_sample_by_sample_both_kinds_of_coins_err_alike(small):
    for rule in small.rules:
        one = small.error(rule, 1)
        assert one.own_error == pytest.approx(one.shared_error, rel=0.25)


def test_the_error_of_the_samples_is_that_of_their_number(small):
    for rule in small.rules:
        assert small.error(rule, 1).sampling == pytest.approx(256 * small.error(rule, 256).sampling)
    # dY = (-y + 2^-3 phi) dt + 0.5 dW from 1: near the variance of an Ornstein-Uhlenbeck process
    assert small.error("systematic hold", 1).sampling == pytest.approx((1 - math.exp(-2)) / 8, rel=0.25)


def test_everything_is_timed_at_every_price_and_batch(small):
    assert [work.width for work in small.works] == [0, 3]
    assert small.batches == (1, 16, 256)
    assert len(small.clocks) == 3 * 2 * 3
    assert all(c.factors[0] == 1.0 and len(c.own) == len(c.shared[0]) == 1 for c in small.clocks)


def test_factors_that_take_much_longer_than_own_coins_are_not_timed(monkeypatch):
    factors = []

    def seconds(work, device):
        work()
        return 1.0 if factors[-1] == "sample" else {1.0: 9.0, 0.5: 1.4, 0.25: 9.0}[factors[-1]]

    def noted(rule, share, factor=1.0):
        factors.append("sample" if share == "sample" else 1.0 / factor)
        return sharing.mlsde.Multilevel(sharing.mlsde.Constant([1, 0.5, 0.25]))

    monkeypatch.setattr(sharing, "clock", seconds)
    monkeypatch.setattr(sharing, "_multilevel", noted)
    found = sharing._clock(sharing.RULES[0], sharing._ladder(0), 0, torch.ones(2, 4), 4, 2)
    assert found.factors == (1.0, 2.0)
    assert found.shared == ((9.0, 9.0), (1.4, 1.4)) and found.own == (1.0, 1.0)


def test_the_result_survives_json_and_names_the_crossings(small):
    data = json.loads(json.dumps(small.as_dict()))
    assert bench.CoinBenchmark.from_dict(data) == small
    assert {(c["rule"], c["width"]) for c in data["crossings"]} == {(r, w) for r in small.rules for w in (0, 3)}
    for crossing in data["crossings"]:
        assert crossing["coins"] == small.crossing(crossing["rule"], crossing["width"], False)


@pytest.mark.parametrize("layout", [repr, bench.CoinBenchmark.markdown])
def test_tables_name_rules_batches_and_errors(small, layout):
    text = layout(small)
    for word in (*small.rules, "256", "each sample's", f"{small.error('systematic hold', 16).own_error:.5f}"):
        assert word in text


def test_tables_hold_ratios_and_crossings():
    page = result([error()], [clock()]).markdown()
    assert "| r | 0.5 us | 4.00 |" in page
    assert "| r | 0.5 us | 1.00 |" in page
    assert "| r | 0.5 us | none | none |" in page
    won = result([error(own=(0.5,))], [clock()]).markdown()
    assert "| r | 0.5 us | 4 | 4 |" in won
    assert coin_results.MARGIN > 1


def test_the_figure_is_drawn(small, tmp_path):
    assert small.figure(str(tmp_path / "coins.png")).endswith("coins.png")
    assert (tmp_path / "coins.png").stat().st_size > 20_000


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"repeats": 0}, ValueError, "repeats must be a positive integer, got 0"),
        ({"replicates": 0}, ValueError, "replicates must be a positive integer, got 0"),
        ({"samples": ()}, ValueError, "samples must be increasing batches"),
        ({"samples": (2, 5)}, ValueError, "each divides the next"),
        ({"samples": (4, 4)}, ValueError, "each divides the next"),
        ({"widths": (-1,)}, ValueError, "widths must be a positive integer, got -1"),
        ({"steps": 2.5}, TypeError, "steps must be a positive integer, got 2.5"),
    ],
)
def test_bad_sizes_are_refused(arguments, error, match):
    with pytest.raises(error, match=match):
        bench.coins(**arguments)


def test_mlsde_bench_coins_writes_draws_and_reads(small, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench, "coins", lambda repeats, progress: small)
    file, page, picture = (tmp_path / name for name in ("n.json", "page.md", "p.png"))
    page.write_text("<!-- coins: begin -->\n<!-- coins: end -->\n")
    call = ["bench", "coins", "--json", str(file), "--markdown", str(page), "--picture", str(picture)]
    assert main(call) == 0
    told = capsys.readouterr().out
    assert repr(small) in told and picture.exists() and small.markdown() in page.read_text()
    assert json.loads(file.read_text())["command"] == "mlsde bench coins --repeats 3"
    assert main(["bench", "coins", "--read", str(file)]) == 0
    assert capsys.readouterr().out.strip() in told


@pytest.mark.cuda
def test_on_a_cuda_device_the_same_is_found():
    found = bench.coins(1, replicates=2, samples=(1, 64), widths=(0, 3), steps=8, device="cuda")
    assert found.device == "cuda"
    assert found.error("independent impulse", 64).own_error < found.error("independent impulse", 64).shared_error
