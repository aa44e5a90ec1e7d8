"""The benchmark compares like with like and says what it found. Nothing here looks at how long anything takes."""

import importlib.metadata
import importlib.util
import json
import math
from pathlib import Path

import pytest
import torch

import mlsde
from mlsde import bench
from mlsde.bench import contenders, diffrax_euler, results, timing
from mlsde.cli import bench as command
from mlsde.cli import main

ROOT = Path(__file__).parent.parent
DIFFRAX = (contenders.TREE, contenders.UNSAFE)
HERE = importlib.util.find_spec("diffrax") is not None
NAMES = [
    pytest.param(name, marks=pytest.mark.skipif(name in DIFFRAX and not HERE, reason="needs diffrax"))
    for name in bench.CONTENDERS
]
IN_TORCH = [name for name in bench.CONTENDERS if name not in DIFFRAX]


def drift(t, y):
    return -y


LADDER = [drift] * 3


def core_in_torch(*arguments, **options):
    """The benchmark without diffrax, which takes seconds to compile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contenders, "present", lambda device: (IN_TORCH, ("a line.",)))
        return bench.core(*arguments, **options)


@pytest.fixture(scope="module")
def small():
    return core_in_torch(2, steps=4, shapes=[(1, 1), (3, 2)], memory_steps=[200])


@pytest.mark.parametrize("name", NAMES)
def test_every_contender_takes_as_many_steps(name):
    level = Recorded()
    bench.CONTENDERS[name]([level] * 3, torch.ones(2, 3), 50, 0)
    if name in DIFFRAX:
        diffrax_euler.settle()
    probes = 1 if name == contenders.TORCHSDE else 0  # torchsde calls the drift once to see its shape
    times = level.times[probes:] if name not in contenders.MULTILEVEL else list(dict.fromkeys(level.times))
    expected = [n * bench.STEP for n in range(50)]
    assert sorted(times) == (pytest.approx(expected, rel=1e-6) if name in DIFFRAX else expected)


class Recorded:
    """A level that keeps the times at which it is evaluated, in torch and in compiled JAX."""

    def __init__(self):
        self.times = []

    def __call__(self, t, y):
        self.times.append(float(t))
        return -y

    def in_jax(self):
        import jax

        def level(t, y):
            jax.debug.callback(lambda t: self.times.append(float(t)), t)
            return -y

        return level


@pytest.mark.parametrize("name", NAMES)
def test_without_noise_every_contender_is_eulers_method(name, monkeypatch):
    monkeypatch.setattr(contenders, "DIFFUSION", 0.0)
    y1 = bench.CONTENDERS[name](LADDER, torch.tensor([[1.0, -2.0]]), 1000, 0)
    exact = (1 - bench.STEP) ** 1000
    torch.testing.assert_close(y1, torch.tensor([[exact, -2.0 * exact]]), rtol=1e-5, atol=0)


def follows_the_law(contender, samples=20_000, steps=20):
    """Mean and variance after some steps against those of the scheme; each fails by chance once in 2 million."""
    y1 = contender(LADDER, torch.ones(samples, 1), steps, 0).double()
    shrink = 1 - bench.STEP
    mean = shrink**steps
    variance = bench.DIFFUSION**2 * bench.STEP * (1 - shrink ** (2 * steps)) / (1 - shrink**2)
    error_of_mean = abs(float(y1.mean()) - mean) / math.sqrt(variance / samples)
    error_of_variance = abs(float(y1.var()) - variance) / (variance * math.sqrt(2 / samples))
    return error_of_mean < 5 and error_of_variance < 5


@pytest.mark.parametrize("name", NAMES)
def test_every_contender_follows_the_law_of_the_scheme(name):
    assert follows_the_law(bench.CONTENDERS[name])


def test_a_loop_with_too_little_noise_does_not_follow_the_law():
    def wrong(levels, y0, steps, seed):
        generator = torch.Generator().manual_seed(seed)
        for _ in range(steps):
            noise = torch.randn(y0.shape, generator=generator)
            y0 = y0 + bench.STEP * levels[-1](0.0, y0) + 0.95 * bench.DIFFUSION * math.sqrt(bench.STEP) * noise
        return y0

    assert not follows_the_law(wrong)


def test_every_repeat_runs_every_contender_once_and_each_comes_first_in_turn():
    assert timing._schedule(["a", "b", "c"], 3, long=False) == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"]]


def test_the_slow_ones_join_every_third_repeat_of_a_long_run():
    names = list(bench.CONTENDERS)
    slow = (contenders.TORCHSDE, *DIFFRAX)
    for long, theirs in ((True, 3), (False, 9)):
        turns = [name for repeat in timing._schedule(names, 9, long) for name in repeat]
        assert [turns.count(name) for name in names] == [theirs if name in slow else 9 for name in names]


def test_the_result_holds_every_run(small):
    assert small.shapes == ((1, 1), (3, 2))
    assert [t.contender for t in small.timings] == 2 * IN_TORCH
    for t in small.timings:
        assert len(t.seconds) == len(t.drift_seconds) == 2 and min(t.seconds) > 0 and t.steps == 4
        assert t.compile_seconds is None
    assert [run.steps for run in small.memory] == [200]


@pytest.mark.skipif(not HERE, reason="needs diffrax")
def test_what_diffrax_compiles_is_told_apart():
    told = {t.contender: t for t in bench.core(1, steps=4, shapes=[(1, 1)], memory_steps=()).timings}
    assert list(told) == list(bench.CONTENDERS)
    for name in DIFFRAX:
        assert told[name].compile_seconds > 0 and told[name].evaluations == (0, 0, 4)
        assert 0 < told[name].drift_seconds[0] < told[name].compile_seconds


@pytest.mark.parametrize("name", NAMES)
def test_evaluations_are_counted_level_by_level(name):
    plain = dict.fromkeys(bench.CONTENDERS, (0, 0, 40)) | {contenders.TORCHSDE: (0, 0, 41)}
    rules = {contenders.HOLD: ("systematic", "hold"), contenders.IMPULSE: ("independent", "impulse")}
    for again in range(2):  # counters are used again
        counts = timing.evaluations.__wrapped__(name, 3, 40, 7)
        if name in rules:
            coins, correction = rules[name]
            multilevel = mlsde.Multilevel(mlsde.Constant([1, 0.25, 0.0625]), coins, correction)
            sde = mlsde.SDE(mlsde.DriftHierarchy(LADDER), 0.5)
            told = mlsde.solve(sde, torch.ones(1, 1), (0.0, 40 * bench.STEP), steps=40, seed=7, multilevel=multilevel)
            assert counts == told.stats.evaluations
            assert sum(counts) > 40 and counts[2] < 15
        else:
            assert counts == plain[name], again


def test_the_result_survives_json(small):
    assert bench.CoreBenchmark.from_dict(json.loads(json.dumps(small.as_dict()))) == small


@pytest.mark.parametrize("layout", [repr, bench.CoreBenchmark.markdown])
def test_the_tables_name_everything(small, layout):
    text = layout(small)
    for word in [*IN_TORCH, "(3, 2)", "quartiles", "at most 1.3", "at least 4", "not measured", "one thread"]:
        assert word in text


def test_threads_and_random_state_are_left_as_they_were():
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(2)
    try:
        core_in_torch(1, steps=2, shapes=[(1, 1)], memory_steps=())
        assert torch.get_num_threads() == 2
        assert torch.equal(torch.get_rng_state(), state)
    finally:
        torch.set_num_threads(threads)


def made_up(bare, one_level, path, torchsde):
    """A result in which each contender took so many microseconds a step at each shape, and once in a while more."""
    names = (contenders.BARE, contenders.ONE_LEVEL, contenders.PATH, contenders.TORCHSDE)
    seconds = dict(zip(names, (bare, one_level, path, torchsde), strict=True))
    runs = [
        bench.Timing(shape, name, 1000, (1000,), (us * 1e-3, us * 1e-3, us), (2e-3, 3e-3, 1e-3))
        for shape in bench.SHAPES
        for name, us in seconds.items()
    ]
    return bench.CoreBenchmark(tuple(runs), (), 0)


def test_the_overhead_is_what_a_run_takes_beyond_its_evaluations():
    timing = bench.Timing((1, 1), "bare loop", 100, (0, 100), (3e-3, 5e-3, 4e-3), (1e-3, 1e-3, 2.5e-3), 7.0, 2**21)
    assert timing.microseconds == pytest.approx((35.0, 40.0, 45.0))
    assert timing.overhead == pytest.approx((17.5, 20.0, 30.0))
    shown = results.cells(timing, 1.0)
    assert shown == ("bare loop", "40.0", "35.0 to 45.0", "1.00", "20.0", "3", "100", "7.0", "2.00")


def test_the_figure_of_core_is_drawn(tmp_path):
    assert made_up(10.0, 12.0, 15.0, 75.0).figure(str(tmp_path / "core.png")).endswith("core.png")
    assert (tmp_path / "core.png").stat().st_size > 5000


def test_figures_are_ratios_of_medians():
    result = made_up(10.0, 10.5, 15.0, 75.0)
    assert result.met
    assert [figure.measured for figure in result.figures] == pytest.approx([1.05] * 3 + [1.5] + [5.0] * 3)


@pytest.mark.parametrize(
    ("result", "missed"),
    [
        (made_up(10.0, 12.0, 15.0, 75.0), ["mlsde, one level / bare loop at (10000, 64)"]),
        (made_up(10.0, 10.0, 21.0, 99.0), ["mlsde, BrownianPath / bare loop at (1000, 10)"]),
        (
            made_up(10.0, 10.0, 15.0, 59.0),
            [f"torchsde / mlsde, BrownianPath at {shape}" for shape in [(1, 1), (1000, 10), (10_000, 64)]],
        ),
    ],
)
def test_a_missed_figure_is_called_missed(result, missed):
    assert [figure.what for figure in result.figures if figure.verdict == "missed"] == missed
    assert not result.met


@pytest.mark.parametrize(("library", "its"), [("torchsde", [contenders.TORCHSDE]), ("diffrax", list(DIFFRAX))])
def test_what_is_not_installed_is_left_out_with_a_line(library, its, monkeypatch):
    find = importlib.util.find_spec
    absent = {library} | ({"diffrax"} if not HERE else set())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in absent else find(name))
    names, notes = contenders.present(torch.device("cpu"))
    assert f"{library} is not installed: left out; pip install 'mlsde[bench]'." in notes
    assert len(notes) == len(absent)
    assert not set(its) & set(names)


def test_a_benchmark_without_other_libraries_runs_and_says_so(monkeypatch):
    find = importlib.util.find_spec
    peers = ("torchsde", "diffrax")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in peers else find(name))
    result = bench.core(1, steps=2, shapes=[(1, 1)], memory_steps=())
    assert not {contenders.TORCHSDE, *DIFFRAX} & {t.contender for t in result.timings}
    assert repr(result).endswith("diffrax is not installed: left out; pip install 'mlsde[bench]'.")
    assert result.figures[-1].verdict == "not measured"
    assert not result.met


def test_diffrax_is_left_out_on_a_device_that_is_no_cpu():
    names, notes = contenders.present(torch.device("cuda"))
    assert not set(DIFFRAX) & set(names)
    assert any("diffrax" in note for note in notes)


@pytest.mark.parametrize("argument", ["repeats", "steps"])
def test_a_count_that_is_not_positive_is_refused(argument):
    with pytest.raises(ValueError, match=f"{argument} must be a positive integer, got 0"):
        bench.core(**{argument: 0})


def test_no_tensor_is_left_behind_by_a_step():
    assert bench.memory(5000).tensors < 5


def test_a_run_that_keeps_its_states_is_caught(monkeypatch):
    solve, kept = mlsde.solve, []

    def leaking(*arguments, callback, **options):
        return solve(*arguments, callback=lambda n, t, y: (kept.append(y), callback(n, t, y)), **options)

    monkeypatch.setattr(mlsde, "solve", leaking)
    run = bench.memory(5000)
    assert run.tensors > 4000
    assert not run.constant


def test_memory_that_grows_by_a_reference_a_step_is_called_growing():
    assert bench.Memory(steps=1000, held=50.0, growth=0.01, tensors=0).constant
    assert not bench.Memory(steps=1000, held=50.0, growth=8.0, tensors=0).constant


def test_the_command_prints_the_table_and_writes_json(small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "core", lambda repeats, progress: small)
    file = tmp_path / "numbers" / "core.json"
    assert main(["bench", "core", "--repeats", "2", "--json", str(file)]) == 0
    assert repr(small) in capsys.readouterr().out
    numbers = json.loads(file.read_text())
    assert numbers["command"] == "mlsde bench core --repeats 2"
    assert numbers["environment"]["torch"] == torch.__version__
    assert numbers["environment"]["libraries"]["torchsde"] == importlib.metadata.version("torchsde")
    assert bench.CoreBenchmark.from_dict(numbers) == small


def test_the_command_refuses_a_count_that_is_not_positive(capsys):
    with pytest.raises(SystemExit):
        main(["bench", "core", "--repeats", "0"])
    assert "argument --repeats: N must be a positive integer, got 0" in capsys.readouterr().err


def test_the_command_renews_a_page_from_its_json(small, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "core", lambda repeats, progress: small)
    file, page = tmp_path / "core.json", tmp_path / "page.md"
    page.write_text("Before.\n<!-- numbers: begin -->\nstale\n<!-- numbers: end -->\nAfter.\n")
    main(["bench", "core", "--json", str(file)])
    main(["bench", "core", "--read", str(file), "--markdown", str(page)])
    text = page.read_text()
    assert text.startswith("Before.\n")
    assert text.endswith("After.\n")
    assert "stale" not in text
    assert small.markdown() in text


def test_a_page_without_markers_is_refused(small):
    with pytest.raises(ValueError, match="numbers: begin"):
        command.renewed("Nothing here.\n", "")


def with_efficiency(efficiency):
    from mlsde.bench import Efficiency, EfficiencyBenchmark

    runs = [Efficiency(whose, 64, ms, (10.0, 5.0, 8.0), tuple(efficiency * x for x in (10.0, 5.0, 8.0)), 2**20, None)
            for whose in ("batch", "sample") for ms in (0.1, 1.0)]  # fmt: skip
    return EfficiencyBenchmark(tuple(runs), 3)


def test_efficiency_is_the_measured_speed_up_over_the_promised(tmp_path):
    from mlsde.bench import EfficiencyBenchmark

    result = with_efficiency(0.75)
    assert all(run.ratio == pytest.approx(0.75) for run in result.runs)
    again = EfficiencyBenchmark.from_dict(json.loads(json.dumps(result.as_dict())))
    assert again == result
    assert "| the batch's | 64 | 0.1 | 8.00 | 6.00 | 0.75 | 1.00 | - |" in result.markdown()
    assert result.sentences == (
        "Where the cheapest level takes 0.9 ms or more, the clock sees 75% of the promised saving or more with shared "
        "coins.",
        "With coins of each sample's own it sees 75% at 64 samples and 75% at 64.",
    )
    assert all(sentence in result.markdown() and sentence in repr(result) for sentence in result.sentences)
    short = bench.Efficiency("batch", 64, 0.1, (10.0,), (1.0,))  # the machinery's share, which is not what is said
    assert EfficiencyBenchmark((*result.runs, short), 3).sentences == result.sentences
    assert EfficiencyBenchmark((), 1).sentences == ()
    assert result.figure(str(tmp_path / "picture.png")).endswith("picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 5000


def test_busy_levels_take_as_long_as_they_are_dear():
    from mlsde.bench import busy_ladder

    y = torch.ones(64, 64)
    drift = busy_ladder(0.5, y)
    assert drift.levels[1].products == 8 * drift.levels[0].products
    assert drift.costs == (1.0, 8.0, 64.0)
    values = [level(torch.zeros(()), y) for level in drift.levels]
    assert 0 < float((values[2] - values[1]).abs().max()) < float((values[1] + y).abs().max()) * 2


def test_mlsde_bench_efficiency_measures_writes_and_reads(tmp_path, capsys, monkeypatch):
    measured = bench.efficiency

    def small(repeats, progress):
        return measured(repeats, milliseconds=(0.02,), samples=(4,), steps=16)

    monkeypatch.setattr(bench, "efficiency", small)
    file, page, picture = (tmp_path / name for name in ("n.json", "page.md", "p.png"))
    page.write_text("<!-- efficiency: begin -->\n<!-- efficiency: end -->\n")
    call = ["bench", "efficiency", "--repeats", "1", "--json", str(file), "--markdown", str(page)]
    assert main([*call, "--picture", str(picture)]) == 0
    told = capsys.readouterr().out
    assert "each sample's" in told and picture.exists() and "| each sample's | 4 |" in page.read_text()
    result = bench.EfficiencyBenchmark.from_dict(json.loads(file.read_text()))
    assert {run.samples for run in result.runs} == {64, 4} and all(run.ratio > 0 for run in result.runs)
    tells = bench.peak_bytes(lambda: None, torch.device("cpu")) is not None
    assert all((run.peak is not None) == (run.peak_top is not None) == tells for run in result.runs)
    assert main(["bench", "efficiency", "--read", str(file)]) == 0
    assert capsys.readouterr().out.strip() in told


def test_bench_names_a_file_of_another_suite_and_a_picture_that_it_cannot_draw(capsys):
    core = str(ROOT / "docs" / "results" / "bench-core.json")
    assert main(["bench", "efficiency", "--read", core]) == 2
    assert "holds no numbers of efficiency" in capsys.readouterr().err
    assert main(["bench", "distances", "--read", core, "--picture", "never.png"]) == 2
    assert "--picture is for core, efficiency, scaling, coins" in capsys.readouterr().err
    assert main(["bench", "scaling", "--read", "nowhere.json"]) == 2
    assert "nowhere.json" in capsys.readouterr().err
    assert main(["bench", "core", "--device", "cuda"]) == 2
    assert "core measures on the CPU alone" in capsys.readouterr().err
