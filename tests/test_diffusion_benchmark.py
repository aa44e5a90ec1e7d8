"""The benchmark of trained ladders: its arithmetic by hand, its ways against each other, its pieces on disk."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from mlsde.cli import main
from mlsde.diffusion import benchmark_report
from mlsde.diffusion.arena import Arena, Way
from mlsde.diffusion.benchmark import (
    Benchmark,
    Size,
    candidates,
    cost_at,
    frontier,
    keep,
    paper_ways,
    plain_ways,
    repriced,
    rivals,
)
from mlsde.diffusion.classifier import train_classifier
from mlsde.diffusion.data import as_floats, load_images
from mlsde.diffusion.distances import METRICS, _jackknife, distance
from mlsde.diffusion.ladders import About, TrainedLadder, load_ladder, save_ladder
from mlsde.diffusion.nets import Architecture, megaflops, unet_ladder
from mlsde.diffusion.pictures import coins

WHOLE = (1, 2, 3)
SMALL = Size(
    samples=2,
    budgets=(4.0,),
    seeds=1,
    patterns=2,
    tuning_samples=2,
    choosing_samples=2,
    reference_steps=30,
    most_steps=7,
    tilts=(0.0,),
)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def ladder():
    sizes = Architecture(2, (8,)), Architecture(1, (8, 16)), Architecture(1, (24, 48))
    models = tuple(unet_ladder(8, 1, sizes))
    prices = tuple(megaflops(model) for model in models)
    return TrainedLadder(models, About("toys", "v", names=("a", "b", "c"), megaflops=prices, held_out=(3.0, 2.0, 1.0)))


@pytest.fixture(scope="module")
def arena(ladder):
    return Arena(ladder, samples=3, reference_steps=120, pilot_samples=2)


def row(cost, error, **way):
    kept = {"sampler": "ddim", "levels": [1, 2], "budget": None, "switch": None} | way
    return {"cost": cost, "error": error, "way": kept, "words": "", "rmse": [error], "seconds": 2.0,
            "typical error": 0.5 * error}  # fmt: skip


# arithmetic


def test_a_frontier_never_rises_and_costs_are_read_off_it_in_logarithms():
    rows = [row(4.0, 0.1), row(1.0, 1.0), row(2.0, 3.0), row(16.0, 0.025)]
    costs, errors = frontier(rows)
    assert costs.tolist() == [1.0, 2.0, 4.0, 16.0]
    assert errors.tolist() == [1.0, 1.0, 0.1, 0.025]
    assert cost_at(rows, 0.05) == pytest.approx(8.0)
    assert cost_at(rows, 1.0) == 1.0
    assert cost_at(rows, 0.01) == math.inf


@pytest.mark.parametrize("true", [1.5, 2.5, 4.0])
def test_gamma_and_the_floor_are_recovered_from_errors_that_follow_the_law(true):
    costs = np.array([1.0, 9.0, 100.0])
    found, floor = benchmark_report.gamma(costs, 0.3 + 0.7 * costs ** (-2.0 / true))
    assert found == pytest.approx(true, rel=1e-6)
    assert floor == pytest.approx(0.3, rel=1e-6)


@pytest.mark.parametrize("errors", [(1.0, 1.2, 0.5), (3.0, 2.0), (3.0, 2.9, 0.5)])
def test_gamma_is_not_made_up_where_no_law_fits(errors):
    assert math.isnan(benchmark_report.gamma([1.0, 10.0, 100.0][: len(errors)], errors)[0])


def test_verdicts_compare_at_equal_error_and_charge_the_search_over_patterns():
    plain = [row(10.0, 0.4), row(40.0, 0.1), row(10.0, 0.2, sampler="dpm++2m"), row(20.0, 0.1, sampler="dpm++2m")]
    plain.append(row(5.0, 0.1, switch=0.5))
    result = {
        "costs": [0.1, 1.0], "size": {"budgets": [5.0]}, "plain": plain,
        "paper": [row(5.0, 0.2, budget=5.0)],
        "patterns": [row(5.0, 0.2, budget=5.0) | {"rmse": [0.4, 0.1]}],
        "ours": [row(4.0, 0.1, budget=5.0)],
        "full": [row(40.0, 0.05) | {"seconds": 16.0}],
        "chosen": [row(20.0, 0.05, budget=5.0)],
    }  # fmt: skip
    told = benchmark_report.verdicts(result)
    at = told["budgets"][0]
    assert told["ceiling"] == pytest.approx(10.0)
    assert at["paper"]["speed-up over the top by Euler"] == pytest.approx(20.0 / 5.0)
    assert at["paper, best of patterns"]["speed-up over the top by Euler"] == pytest.approx(40.0 / 5.0)
    assert at["paper, best of patterns"]["the same with the search charged"] == pytest.approx(4.0)
    assert at["ours"]["speed-up over the top by Euler"] == pytest.approx(10.0)
    assert at["ours"]["speed-up over every Euler-type way"] == pytest.approx(5.0 / 4.0)
    assert at["ours"]["speed-up over the top by DPM-Solver++(2M)"] == pytest.approx(5.0)
    assert at["ours"]["fewer evaluations than its own full run, counted"] == pytest.approx(10.0)
    assert at["ours"]["the same in wall-clock"] == pytest.approx(8.0)
    assert at["ours"]["by it over the top by Euler"] == pytest.approx(10.0)
    assert at["chosen"]["error over DPM-Solver++(2M)'s"] == pytest.approx(0.5)


# ways


@pytest.mark.parametrize(
    ("sampler", "steps"), [("dpm++2m", 60), ("dpm++3m", 60), ("unipc", 60), ("edm-heun", 40), ("ddim-log", 60)]
)
def test_every_solver_comes_to_the_same_images(arena, sampler, steps):
    coarse, fine = (arena.measure(Way(sampler, n, WHOLE)).rmse for n in (steps // 4, steps))
    scale = float(arena.reference.square().mean().sqrt())
    assert fine < 0.04 * scale
    assert fine < 0.5 * coarse


def test_a_run_of_the_top_level_costs_its_evaluations(arena):
    found = arena.measure(Way("dpm++2m", 9, WHOLE))
    assert found.evaluations == (0.0, 0.0, 9.0)
    assert found.cost == pytest.approx(9.0)
    assert arena.measure(Way("edm-heun", 5, WHOLE)).evaluations == (0.0, 0.0, 9.0)
    assert arena.measure(Way("ddim", 9, (2,))).cost == pytest.approx(9.0 * arena.costs[1])


@pytest.mark.parametrize("sampler", ["ddim", "ddim-log", "dpm++2m"])
def test_stitching_runs_the_cheap_level_for_the_stated_part(arena, sampler):
    found = arena.measure(Way(sampler, 10, (1, 3), switch=0.3))
    assert found.evaluations == (3.0, 0.0, 7.0)


@pytest.mark.parametrize("correction", ["impulse", "hold", "extrapolate"])
@pytest.mark.parametrize("budget", [6.0, 12.0])
def test_coins_keep_to_their_budget(arena, correction, budget):
    way = Way("dpm++2m", 24, (1, 3), budget, correction=correction)
    costs = [arena.measure(way, seed).cost for seed in range(4)]
    assert budget - 1.5 < np.mean(costs) < budget + 1.5


def test_a_tilt_moves_evaluations_to_where_it_points(arena):
    tables = []
    for tilt in (-2.0, 2.0):
        rule = arena.rule(Way("dpm++2m", 40, WHOLE, 10.0, tilt=tilt))
        times = arena.process.log_snr_grid(40)
        drift = arena.drift
        plan = rule.probabilities.table(times, drift, lambda table: float(table[:, -1].sum()))
        tables.append(plan[:, -1])
    half = len(tables[0]) // 2
    assert tables[0][:half].sum() > tables[0][half:].sum()
    assert tables[1][:half].sum() < tables[1][half:].sum()


def test_one_path_serves_all_ways_of_an_sde(ladder):
    sde = Arena(ladder, churn=1.0, samples=2, reference_steps=100, pilot_samples=2)
    coarse, fine = (sde.measure(Way("dpm++2m", n, WHOLE)).rmse for n in (10, 50))
    assert fine < 0.5 * coarse
    assert sde.measure(Way("ddpm", 50, WHOLE)).rmse < 0.5 * sde.measure(Way("ddpm", 5, WHOLE)).rmse


def test_keys_tell_all_candidates_apart():
    every = [*plain_ways(Size(), 3), *paper_ways(Size(), 3)]
    for budget in Size().budgets:
        every += candidates(budget, 3, Size().tilts)
    assert len({way.key for way in every}) == len(set(every))
    assert {way.sampler for way in every} == {"ddim", "ddim-log", "dpm++2m", "dpm++3m", "unipc", "edm-heun"}
    assert {way.sampler for way in plain_ways(Size(churn=1.0), 3)} == {"ddim", "ddim-log", "ddpm", "dpm++2m"}


# the whole


@pytest.fixture(scope="module")
def finished(ladder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pieces")
    return folder, Benchmark(ladder, "toys", SMALL, folder=folder).result()


def test_a_killed_benchmark_goes_on_and_says_the_same(ladder, finished):
    folder, result = finished
    for piece in sorted(folder.glob("main_*"))[::3]:
        piece.unlink()
    again = Benchmark(ladder, "toys", SMALL, folder=folder).result()
    assert [r["error"] for r in again["ours"]] == [r["error"] for r in result["ours"]]
    assert [r["error"] for r in again["plain"]] == [r["error"] for r in result["plain"]]


def test_pieces_of_another_ladder_are_refused(ladder, finished):
    with pytest.raises(ValueError, match="another computation"):
        Benchmark(ladder, "others", SMALL, folder=finished[0])


def test_coins_are_chosen_only_where_they_miss_less_on_samples_that_they_were_not_tuned_on(ladder, finished):
    bench = Benchmark(ladder, "toys", SMALL, folder=finished[0])
    tuned = bench.tuned(4.0)
    plain = [bench.row(way, place="choosing") for way in rivals(4.0, bench.arena().costs, 0.0)]
    coins = bench.row(tuned, 3, place="choosing")
    wins = all(coins[name] < min(row[name] for row in plain) for name in ("error", "typical error"))
    best = min(plain, key=lambda row: row["typical error"])["words"]
    assert str(bench.chosen(4.0, tuned)) == (str(tuned) if wins else best)


def test_rivals_of_the_choice_are_within_the_budget(ladder):
    arena = Arena(ladder, samples=2, reference_steps=20, pilot_samples=2)
    ways = rivals(6.0, arena.costs, 0.0)
    assert {way.levels for way in ways} == {WHOLE, (1,), (2,), (1, 3), (2, 3)}
    assert {way.switch for way in ways} == {None, 0.3, 0.5, 0.7}
    assert {way.sampler for way in rivals(6.0, arena.costs, 1.0)} == {"ddim", "dpm++2m", "ddpm"}
    for way in ways:
        assert arena.measure(way).cost <= 6.3  # a switch falls on a step


def test_the_report_reads_what_was_measured(finished, tmp_path):
    result = json.loads(json.dumps(finished[1]))
    text = benchmark_report.table(result)
    assert "the paper's rule" in text and "ceiling" in text and "least typical error" in text
    for file in (
        benchmark_report.picture([result, result], tmp_path / "errors.png"),
        benchmark_report.variances_picture([result], tmp_path / "variances.png"),
    ):
        assert file.endswith(".png")
    assert (tmp_path / "errors.png").stat().st_size > 10_000


def test_settings_that_were_chosen_are_kept_with_the_ladder_and_used(ladder, finished, tmp_path):
    folder = save_ladder(ladder, tmp_path / "kept")
    keep([finished[1]], folder)
    again = load_ladder(folder)
    chosen = finished[1]["ours"][0]["way"]
    assert again.about.tuned["ode"] == [json.loads(json.dumps(chosen))]
    way = coins(again, "ode", 8.0)
    assert (way.sampler, way.correction, way.levels) == (chosen["sampler"], chosen["correction"], chosen["levels"])
    assert (way.budget, way.steps) == (8.0, 2 * chosen["steps"])
    assert coins(again, "sde", 8.0).levels == WHOLE


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": 0}, "samples"),
        ({"budgets": ()}, "budgets must hold at least one"),
        ({"budgets": (-1.0,)}, "budgets"),
        ({"seeds": 20}, "patterns=15 must be at least seeds=20"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Size(**change)


# the commands


@pytest.fixture(scope="module")
def saved(ladder, tmp_path_factory):
    return str(save_ladder(ladder, tmp_path_factory.mktemp("ladder")))


def test_mlsde_sample_draws_every_way_and_writes_picture_and_numbers(saved, tmp_path, capsys):
    files = {name: tmp_path / name for name in ("picture.png", "numbers.json")}
    call = ["sample", saved, "--steps", "12", "--samples", "2", "--budgets", "4,8"]
    assert main([*call, "--picture", str(files["picture.png"]), "--json", str(files["numbers.json"])]) == 0
    rows = json.loads(files["numbers.json"].read_text())["rows"]
    names = [one["name"] for one in rows]
    assert "full run, DPM-Solver++(2M)" in names and "multilevel at 4" in names and "top level, DDIM" in names
    assert all(one["cost"] > 0 for one in rows)
    assert files["picture.png"].exists()
    assert "multilevel at 8" in capsys.readouterr().out


def test_mlsde_sample_names_what_is_wrong(saved, tmp_path, capsys):
    assert main(["sample", str(tmp_path / "nowhere")]) == 2
    assert main(["sample", saved, "--budgets", "1"]) == 2
    assert main(["sample", saved, "--equation", "pde"]) == 2
    told = capsys.readouterr().err
    assert "there is no ladder" in told and "at least 2 evaluations" in told and "equation='pde'" in told


def test_mlsde_bench_diffusion_names_a_missing_ladder(tmp_path, capsys):
    assert main(["bench", "diffusion", "--ladder", str(tmp_path / "nowhere")]) == 2
    assert "there is no ladder" in capsys.readouterr().err


def test_mlsde_bench_diffusion_reads_its_own_numbers(finished, tmp_path, capsys):
    file = tmp_path / "numbers.json"
    file.write_text(json.dumps(finished[1]))
    call = ["bench", "diffusion", "--read", str(file), "--pictures", str(tmp_path / "toys")]
    assert main(call) == 0
    assert "spread coins, tuned" in capsys.readouterr().out
    assert (tmp_path / "toys-errors.png").exists() and (tmp_path / "toys-variances.png").exists()


def test_prices_of_the_clock_are_evaluations_times_seconds(finished):
    result = json.loads(json.dumps(finished[1]))
    assert len(result["seconds"]) == 3 and all(value > 0 for value in result["seconds"])
    result["seconds"] = [1.0, 2.0, 8.0]
    again = repriced(result)
    assert again["costs"] == [0.125, 0.25, 1.0]
    for before, after in zip(result["ours"] + result["plain"], again["ours"] + again["plain"], strict=True):
        a, b, c = before["evaluations"]
        assert after["cost"] == pytest.approx(0.125 * a + 0.25 * b + c) and after["error"] == before["error"]
    assert repriced(result | {"costs": [0.2, 0.3, 0.5]})["costs"] == pytest.approx([1 / 11, 2 / 11, 8 / 11])
    assert "nothing can exceed 8;" in benchmark_report.markdown([result | {"environment": dict.fromkeys(
        ("date", "commit", "device", "cores", "threads", "torch"), "-")}])  # fmt: skip


def test_ladders_trained_in_several_ways_make_one_table(finished, tmp_path):
    result = finished[1]
    better = json.loads(json.dumps(result | {"ladder": "better"}))
    for row in better["ours"]:
        row["cost"] *= 0.5
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for file, one in zip(files, (result, better), strict=True):
        file.write_text(json.dumps(one))
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- compared: begin -->\n<!-- compared: end -->\n")
    assert main(["bench", "diffusion", "--compare", "--results", *map(str, files), "--markdown", str(page)]) == 0
    lines = page.read_text().splitlines()
    assert lines[0] == "before" and lines[5].startswith("| toys | ") and lines[6].startswith("| better | ")
    assert lines[5].endswith(" 1.00x |") and lines[6].endswith(" 2.00x |")  # the same error for half the cost


def test_mlsde_bench_distances_puts_the_data_nearest_and_keeps_its_classifier(saved, tmp_path, capsys):
    file, weights = tmp_path / "numbers.json", tmp_path / "classifier.safetensors"
    call = ["bench", "distances", "--ladder", saved, "--count", "60", "--budgets", "4", "--full-steps", "20"]
    call += ["--folder", str(tmp_path / "pieces")]
    assert main([*call, "--json", str(file), "--classifier", str(weights)]) == 0
    result = json.loads(file.read_text())
    rows = {row["name"]: row for row in result["rows"]}
    data = rows.pop("the data themselves (training part)")
    assert weights.exists() and result["accuracy"] > 0.8
    for row in rows.values():  # an untrained ladder draws noise
        assert row["frechet"] > 2 * data["frechet"]
        assert row["sliced_wasserstein"] > 2 * data["sliced_wasserstein"]
    assert rows["spread coins at 4"]["cost"] == pytest.approx(4.0, abs=1.0)
    told = capsys.readouterr().out
    assert "the paper's rule at 4" in told and "top level, DPM-Solver++(2M), 20 steps" in told
    assert all(error > 0 for row in result["rows"] for error in row["errors"].values())

    pieces = {piece: piece.stat().st_mtime_ns for piece in (tmp_path / "pieces").rglob("*.safetensors")}
    assert len(pieces) == 5
    assert main([*call, "--classifier", str(weights)]) == 0
    assert capsys.readouterr().out == told
    assert pieces == {piece: piece.stat().st_mtime_ns for piece in pieces}
    page = tmp_path / "page.md"
    page.write_text("<!-- distances: begin -->\n<!-- distances: end -->\n")
    assert main(["bench", "distances", "--results", str(file), "--markdown", str(page)]) == 0
    assert f"| spread coins at 4 | {rows['spread coins at 4']['cost']:.1f} | " in page.read_text()


def test_the_standard_errors_of_distances_are_those_of_drawing_again():
    images = load_images("digits")
    net, data = train_classifier(images, epochs=1, width=8), as_floats(images.held_out)
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(12):
        chosen = torch.randint(len(images.train), (400,), generator=generator)
        found.append(distance("again", as_floats(images.train[chosen]), 0.0, data, net))
    for of in METRICS:
        spread = np.std([getattr(row, of) for row in found], ddof=1)
        claimed = np.median([row.errors[of] for row in found])
        assert 0.4 < claimed / spread < 2.5, of


def test_mlsde_bench_distances_names_what_is_wrong(saved, tmp_path, capsys):
    assert main(["bench", "distances", "--ladder", saved, "--images", str(tmp_path / "nowhere")]) == 2
    assert "there is no file or folder" in capsys.readouterr().err
    assert main(["bench", "distances", "--results", str(tmp_path / "nowhere.json")]) == 2
    assert "nowhere.json" in capsys.readouterr().err


def test_a_residual_ladder_is_summed_and_counted_by_every_solver(ladder):
    residual = TrainedLadder(ladder.models, replace(ladder.about, residual=True))
    arena = Arena(residual, samples=2, reference_steps=120, pilot_samples=2)
    scale = float(arena.reference.square().mean().sqrt())
    for sampler, steps in (("unipc", 40), ("edm-heun", 30), ("dpm++2m", 40)):
        found = arena.measure(Way(sampler, steps, WHOLE))
        calls = 2.0 * steps - 1.0 if sampler == "edm-heun" else float(steps)
        assert found.evaluations == (calls, calls, calls)
        assert found.cost == pytest.approx(calls)
        assert found.rmse < 0.05 * scale
    assert arena.measure(Way("dpm++2m", 10, (1, 3), switch=0.3)).evaluations == (10.0, 7.0, 7.0)
    assert {way.levels for way in candidates(6.0, 3, (0.0,), residual=True)} == {WHOLE}


@pytest.mark.parametrize("call", [["sample"], ["bench", "diffusion"], ["bench", "distances"]])
def test_every_command_names_budgets_and_threads_that_make_no_sense(call, capsys):
    assert main([*call, "--budgets", "5;10"]) == 2
    assert main([*call, "--threads", "0"]) == 2
    told = capsys.readouterr().err
    assert "--budgets must be numbers separated by commas" in told and "--threads must be a positive integer" in told


def test_mlsde_bench_diffusion_refuses_a_reference_of_no_steps(capsys):
    assert main(["bench", "diffusion", "--reference-steps", "0"]) == 2
    assert "--reference-steps must be a positive integer" in capsys.readouterr().err


def test_the_jackknife_of_a_mean_is_its_textbook_error():
    groups = np.array([3.0, 1.0, 4.0, 1.0, 5.0])
    left_out = [float(np.delete(groups, i).mean()) for i in range(5)]
    assert _jackknife(left_out) == pytest.approx(groups.std(ddof=1) / math.sqrt(5))
