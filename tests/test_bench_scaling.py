"""The scaling benchmark varies one thing at a time and says what it found. Nothing here looks at how long it takes."""

import importlib.util
import json

import pytest
import torch

from mlsde import bench
from mlsde.bench import contenders, levels, sweeps
from mlsde.bench.contenders import BARE, HOLD, IMPULSE, ONE_LEVEL, TORCHSDE, TREE
from mlsde.cli import main

SMALL = {"steps": 8, "levels": 3, "samples": 2, "numbers": 2, "products": 0}


@pytest.fixture
def without_peers(monkeypatch):
    find = importlib.util.find_spec
    peers = ("torchsde", "diffrax")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in peers else find(name))


def small(varied=None, **options):
    varied = {"steps": (4, 8), "levels": (2, 3), "products": (0, 8)} if varied is None else varied
    return bench.scaling(1, varied=varied, base=SMALL, **options)


@pytest.mark.usefixtures("without_peers")
def test_one_thing_is_varied_at_a_time_and_the_base_point_is_measured_once(monkeypatch):
    measured = []
    timed = sweeps.timed

    def watched(names, ladder, y0, steps, *others):
        measured.append((steps, len(ladder), tuple(y0.shape), type(ladder[-1]).__name__))
        return timed(names, ladder, y0, steps, *others)

    monkeypatch.setattr(sweeps, "timed", watched)
    result = small({"steps": (4, 8), "levels": (2, 3), "samples": (2, 5), "numbers": (2, 3), "products": (0, 8)})
    assert measured == [
        (4, 3, (2, 2), "function"), (8, 3, (2, 2), "function"), (8, 2, (2, 2), "function"),
        (8, 3, (5, 2), "function"), (8, 3, (2, 3), "function"), (8, 3, (2, 2), "BusyLevel"),
    ]  # fmt: skip
    assert [(p.varied, p.value) for p in result.points] == [
        ("steps", 4), ("steps", 8), ("levels", 2), ("levels", 3), ("samples", 2), ("samples", 5), ("numbers", 2),
        ("numbers", 3), ("products", 0), ("products", 8),
    ]  # fmt: skip
    assert result.point("steps", 8).timings == result.point("products", 0).timings


@pytest.mark.usefixtures("without_peers")
def test_only_the_multilevel_contenders_depend_on_the_number_of_levels():
    result = small({"levels": (1, 2)})
    assert [t.contender for t in result.point("levels", 1).timings] == [BARE, HOLD, IMPULSE]
    assert result.point("levels", 1).timing(HOLD).evaluations == (8,)
    assert len(result.point("levels", 2).timing(IMPULSE).evaluations) == 2


def test_levels_get_eight_times_as_dear():
    ladder = sweeps._ladder({**SMALL, "products": 64})
    assert [level.products for level in ladder] == [1, 8, 64]
    assert sweeps._ladder(SMALL) == [levels.free] * 3


def made_up():
    """Contenders at two points, with runs of so many microseconds a step of which half go into the drift."""

    def timings(**us):
        names = {"bare": BARE, "one": ONE_LEVEL, "peer": TORCHSDE}
        return tuple(
            bench.Timing((2, 2), names[who], 100, (100,), tuple(k * u * 1e-4 for k in (1, 2, 3)), 3 * (u * 1e-4,),
                         None, 3 * 2**20)
            for who, u in us.items()
        )  # fmt: skip

    points = [
        bench.Point("steps", 1000, 1e-6, timings(bare=4.0, one=6.0, peer=40.0)),
        bench.Point("products", 8, 5e-5, timings(bare=8.0, one=10.0)),
    ]
    return bench.ScalingBenchmark(tuple(points), 3, "cpu", ("a line.",))


def test_tables_hold_medians_ratios_overheads_memory_and_evaluations():
    result = made_up()
    assert result.contenders == (BARE, ONE_LEVEL, TORCHSDE)
    page = result.markdown()
    assert "| steps | 1,000 | 8.0 (1x) | 12.0 (1.5x) | 80.0 (10x) |" in page
    assert "| products | 8 (50.0 us) | 16.0 (1x) | 20.0 (1.25x) |  |" in page
    assert "| steps | 1,000 | 4.0 | 6.0 | 40.0 |" in page  # besides the drift
    assert "| steps | 1,000 | 3.00 | 3.00 | 3.00 |" in page
    assert "| steps | 1,000 | 100 | 100 | 100 |" in page
    assert page.count("| products |") == 3  # evaluations do not depend on the price
    assert page.endswith("a line.")
    told = repr(result).splitlines()
    assert told[2].split() == (
        "steps 1,000 mlsde, one level 12.0 9.0 to 15.0 1.50 6.0 3 100 - 3.00".split()  # noqa: SIM905
    )


def priced(*ratios):
    """Points at which an evaluation takes 1, 20, 400 us and a step of systematic hold so many of the bare loop's."""

    def timings(ratio):
        steps = ((BARE, 2e-5), (HOLD, 2e-5 * ratio))
        return tuple(bench.Timing((2, 2), name, 1, (1,), (seconds,), (0.0,)) for name, seconds in steps)

    points = [bench.Point("products", i, 20.0**i * 1e-6, timings(ratio)) for i, ratio in enumerate(ratios)]
    return bench.ScalingBenchmark(tuple(points), 1)


def test_sentences_say_what_was_measured():
    assert made_up().sentences == (
        "At the base point a step takes 8.0 us in the bare loop, and so much more: 4.0 us with mlsde, one level.",
    )
    (pays,) = priced(2.0, 0.5, 0.25).sentences
    assert "from 20.0 us an evaluation on, 4.0 times at 400 us" in pays
    assert "from 400 us an evaluation on, 1.2 times at 400 us" in priced(0.5, 2.0, 0.8).sentences[0]
    assert priced(0.5, 0.5, 1.1).sentences == priced(0.5).sentences == ()
    assert pays in repr(priced(2.0, 0.5, 0.25)) and pays in priced(2.0, 0.5, 0.25).markdown()


def test_the_result_survives_json():
    result = made_up()
    assert bench.ScalingBenchmark.from_dict(json.loads(json.dumps(result.as_dict()))) == result
    with pytest.raises(KeyError, match="levels=9 was not measured"):
        result.point("levels", 9)


def test_the_figure_draws_every_contender_of_every_point(tmp_path, monkeypatch):
    from mlsde import drawing

    saved = []
    save = drawing.save
    monkeypatch.setattr(drawing, "save", lambda canvas, file: saved.append(canvas) or save(canvas, file))
    made_up().figure(str(tmp_path / "scaling.png"))
    first, second = saved[0].axes[:2]
    assert [len(axes.containers) for axes in (first, second)] == [3, 2]
    assert first.containers[1].lines[0].get_ydata().tolist() == [12.0]
    assert second.containers[0].lines[0].get_xdata().tolist() == [50.0]  # microseconds of the top level
    assert [text.get_text() for text in saved[0].axes[5].get_legend().get_texts()] == [BARE, ONE_LEVEL, TORCHSDE]


def test_a_tree_is_left_out_where_it_takes_a_minute(monkeypatch):
    monkeypatch.setattr(sweeps, "_MOST", 20)
    monkeypatch.setattr(contenders, "present", lambda device: ([BARE, TREE], ()))
    monkeypatch.setattr(sweeps, "timed", lambda names, *others: [
        bench.Timing((1, 1), name, 1, (1,), (1.0,), (0.5,)) for name in names
    ])  # fmt: skip
    result = small({"steps": (4, 8)})
    assert [[t.contender for t in p.timings] for p in result.points] == [[BARE, TREE], [BARE]]
    assert result.notes == (f"{TREE} is left out at steps=8, where it takes most of a minute a run.",)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: bench.scaling(0), ValueError, "repeats must be a positive integer, got 0"),
        (lambda: bench.scaling(1, varied={"width": (1,)}), ValueError, "varied='width' is not known"),
        (lambda: small({"steps": (0,)}), ValueError, "steps must be a positive integer, got 0"),
        (lambda: small({"samples": (1.5,)}), TypeError, "samples must be a positive integer, got 1.5"),
        (lambda: small({"products": (-1,)}), ValueError, "products must be a positive integer, got -1"),
    ],
)
def test_bad_sizes_are_refused_before_anything_is_measured(call, error, match, monkeypatch):
    monkeypatch.setattr(sweeps, "timed", None)
    with pytest.raises(error, match=match):
        call()


@pytest.mark.usefixtures("without_peers")
def test_mlsde_bench_scaling_measures_writes_draws_and_reads(tmp_path, capsys, monkeypatch):
    found = small()
    monkeypatch.setattr(bench, "scaling", lambda repeats, progress: found)
    file, page, picture = (tmp_path / name for name in ("n.json", "page.md", "p.png"))
    page.write_text("<!-- scaling: begin -->\n<!-- scaling: end -->\n")
    call = ["bench", "scaling", "--json", str(file), "--markdown", str(page), "--picture", str(picture)]
    assert main(call) == 0
    told = capsys.readouterr().out
    assert "us per step" in told and picture.exists() and "| levels | 2 |" in page.read_text()
    numbers = json.loads(file.read_text())
    assert numbers["command"] == "mlsde bench scaling --repeats 5"
    assert {"commit", "date", "machine", "libraries", "torch"} <= set(numbers["environment"])
    assert main(["bench", "scaling", "--read", str(file)]) == 0
    assert capsys.readouterr().out.strip() in told


@pytest.mark.cuda
def test_on_a_cuda_device_memory_is_the_devices():
    state = 4 * 2**20
    result = bench.scaling(1, varied={"samples": (2**20,)}, base={**SMALL, "numbers": 1}, device="cuda")
    for t in result.points[0].timings:
        assert state <= t.peak < 100 * state
        assert t.contender not in (TREE, contenders.UNSAFE)
    torch.cuda.synchronize()
