"""What the pages on diffusion say is what was measured, and what is shipped is whole."""

import itertools
import json
import math
from pathlib import Path

import pytest
import torch

from mlsde.diffusion import benchmark_report, distances, load_ladder
from mlsde.diffusion.benchmark import repriced
from mlsde.diffusion.ladders import SHIPPED
from mlsde.diffusion.nets import megaflops

ROOT = Path(__file__).parent.parent
RESULTS = sorted((ROOT / "docs" / "results").glob("diffusion-*.json"))
LADDERS = sorted(page.parent.name for page in SHIPPED.glob("*/ladder.json"))


def read(file: Path) -> dict:
    return json.loads(file.read_text())


def test_there_is_something_to_show():
    assert RESULTS and "digits" in LADDERS


@pytest.mark.parametrize("file", RESULTS, ids=lambda file: file.stem)
def test_the_page_has_the_recorded_numbers(file):
    page = (ROOT / "docs" / "diffusion.md").read_text()
    assert benchmark_report.section(read(file)).strip() in page


def test_the_table_of_the_goals_has_the_recorded_numbers():
    page = (ROOT / "docs" / "diffusion.md").read_text()
    order = [file for name in LADDERS for file in RESULTS if f"-{name}-" in file.stem]
    assert benchmark_report.goals([read(file) for file in order]) in page


def test_the_table_of_trainings_has_the_recorded_numbers():
    files = ["training-plain", "diffusion-digits-ode", "training-residual"]
    results = [read(ROOT / "docs" / "results" / f"{name}.json") for name in files]
    assert benchmark_report.compared(results) in (ROOT / "docs" / "training.md").read_text()


@pytest.mark.parametrize("file", sorted((ROOT / "docs" / "results").glob("distances-*.json")), ids=lambda f: f.stem)
def test_the_table_of_distances_has_the_recorded_numbers(file):
    assert distances.markdown(read(file)) in (ROOT / "docs" / "diffusion.md").read_text()


@pytest.mark.parametrize("file", RESULTS, ids=lambda file: file.stem)
def test_verdicts_follow_from_the_rows(file):
    result = read(file)
    again = benchmark_report.as_json(benchmark_report.verdicts(result))
    assert json.loads(json.dumps(again)) == result["verdicts"]
    best = min(result["plain"], key=lambda row: row["error"])
    assert result["reference_error"] < 0.7 * best["error"], "the reference is too coarse for the best plain way"


@pytest.mark.parametrize("name", LADDERS)
def test_a_shipped_ladder_is_a_ladder(name):
    ladder = load_ladder(name)
    prices, errors = [megaflops(model) for model in ladder.models], ladder.about.held_out
    assert prices == pytest.approx(ladder.about.megaflops)
    assert all(b / a >= 7.0 for a, b in itertools.pairwise(prices))
    assert all(b < a for a, b in itertools.pairwise(errors)), "a larger net must be better on held-out images"
    y = torch.zeros(2, *ladder.shape)
    assert all(bool(torch.isfinite(model(y, torch.tensor(500.0)).sample).all()) for model in ladder.models)


def test_all_that_is_shipped_is_small():
    assert sum(file.stat().st_size for file in SHIPPED.rglob("*") if file.is_file()) < 20e6


def ends(who: str, name: str, files: list[Path] = RESULTS) -> tuple[float, float]:
    """Least and largest of a verdict over the budgets of some results."""
    found = [at[who][name] for file in files for at in read(file)["verdicts"]["budgets"] if who in at]
    return min(found), max(found)


def of(*words: str) -> list[Path]:
    return [file for file in RESULTS if all(word in file.stem for word in words)]


def test_what_the_pages_say_of_the_ladders_follows_from_the_numbers():
    pages = {name: (ROOT / name).read_text() for name in ("README.md", "docs/diffusion.md", "docs/paper.md")}
    low, high = ends("ours", "speed-up over every plain way", of("digits", "sde"))
    assert f"need {low:.1f} to {high:.0f} times less than every plain way" in " ".join(pages["README.md"].split())
    for name in ("error over DPM-Solver++(2M)'s", "typical error over its"):
        assert ends("chosen", name)[1] < 1.0, "the chosen method is said to be better everywhere"
    low, high = ends("paper", "speed-up over the top by Euler")
    assert f"independent coins: {low:.2f} to {high:.2f} times as fast" in pages["docs/paper.md"]
    assert high < 1.0, "the paper's rule is said never to pay"
    _, high = ends("paper, best of patterns", "speed-up over the top by Euler")
    assert f"patterns up to {high:.2f}, the search" in pages["docs/paper.md"]
    assert f"does by up to {high:.2f} times, if the search is free" in pages["docs/diffusion.md"]
    low, high = ends("ours", "speed-up over the top by Euler")
    assert f"Spread coins: {low:.2f} to {high:.2f}" in pages["docs/paper.md"] and high < 8.0
    assert f"save {low:.0f} to {high:.0f} times by RMSE" in pages["docs/diffusion.md"]
    _, high = ends("ours", "speed-up over every plain way", of("ode"))
    assert f"up to\n  {high:.2f} times at 5 and 10 evaluations on the ODE" in pages["docs/diffusion.md"]
    kinds = {}
    for file in RESULTS:
        told = [row["way"] for row in read(file)["chosen"]]
        kinds[file.stem] = [
            "coins" if way["budget"] else "stitched" if way["switch"] else way["sampler"] for way in told
        ]
    assert kinds["diffusion-digits-ode"] == kinds["diffusion-digits-sde"] == ["coins"] * 4
    assert kinds["diffusion-fashion-ode"] == ["coins"] * 2 + ["dpm++3m"] * 2
    assert kinds["diffusion-fashion-sde"] == ["coins"] * 2 + ["stitched"] * 2


def test_gammas_of_the_page_are_the_recorded_ones():
    page = (ROOT / "docs" / "paper.md").read_text()
    told = [read(of(name, "ode")[0]) for name in ("digits", "fashion")]
    flops = [result["gamma"] for result in told]
    clock = [benchmark_report.gamma(repriced(one)["costs"], one["levels"]["held_out"])[0] for one in told]
    assert f"{flops[0]:.1f} on 8 x 8 digits and {flops[1]:.1f} on Fashion-MNIST" in page
    assert f"{clock[0]:.1f} and {clock[1]:.1f} by the clock" in page
    noisy = [read(of(name, "sde")[0]) for name in ("digits", "fashion")]
    again = [benchmark_report.gamma(repriced(one)["costs"], one["levels"]["held_out"])[0] for one in noisy]
    assert f"({again[0]:.1f} and {again[1]:.1f} in the runs with noise)" in page


def test_prices_by_the_clock_are_those_of_the_page():
    page = " ".join((ROOT / "docs" / "diffusion.md").read_text().split())
    digits, fashion = ([1 / repriced(read(file))["costs"][0] for file in of(name)] for name in ("digits", "fashion"))
    assert all(round(value) == 10 for value in digits) and "costs a tenth of the top in milliseconds" in page
    assert f"(a {min(fashion):.0f}th to a {max(fashion):.0f}th, against a 90th)" in page


def test_what_is_said_of_the_distances_follows_from_the_numbers():
    result = read(ROOT / "docs" / "results" / "distances-fashion-ode.json")
    rows = {row["name"]: row for row in result["rows"]}
    full, second = (rows[f"top level, DPM-Solver++(2M), {n} steps"] for n in (40, 5))
    ours = rows["spread coins at 5"]
    for metric in distances.METRICS:
        assert ours[metric] - full[metric] < 4 * math.hypot(ours["errors"][metric], full["errors"][metric])
        for n in (5, 10):
            assert rows[f"the paper's rule at {n}"][metric] < rows[f"top level, DDIM, {n} steps"][metric]
    assert 3.5 < second["frechet"] / ours["frechet"] < 4.5
    found = [f"{rows[name]['frechet']:.2f}" for name in (
        "the paper's rule at 5", "the paper's rule at 10", "top level, DDIM, 5 steps", "top level, DDIM, 10 steps",
        "spread coins at 5", "spread coins at 10",
    )]  # fmt: skip
    words = "independent coins {} and {} at 5 and 10 evaluations, of DDIM with the top level {} and {}; "
    words += "of spread coins {} and {}"
    assert words.format(*found) in (ROOT / "docs" / "paper.md").read_text()
