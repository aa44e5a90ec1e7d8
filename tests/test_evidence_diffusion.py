"""What the pages on diffusion say is what was measured, and what is shipped is whole."""

import itertools
import json
from pathlib import Path

import pytest
import torch

from mlsde.diffusion import benchmark_report, distances, load_ladder
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


def span(equation: str, name: str) -> str:
    """Least and largest speed-up of the tuned coins over the budgets, as the pages write it."""
    told = read(ROOT / "docs" / "results" / f"diffusion-digits-{equation}.json")["verdicts"]["budgets"]
    found = [at["ours"][name] for at in told]
    return f"{min(found):.1f} to {max(found):.1f}".replace(".0", "")


def test_what_is_said_of_the_digits_follows_from_the_numbers():
    pages = {name: (ROOT / name).read_text() for name in ("README.md", "docs/diffusion.md", "docs/paper.md")}
    every = span("sde", "speed-up over every plain way")
    assert f"need {every} times less than every plain way" in pages["README.md"]
    assert f"need {every} times less than *every* plain way" in pages["docs/diffusion.md"]
    euler = span("ode", "speed-up over the top by Euler")
    assert f"need {euler} times less by RMSE" in pages["docs/diffusion.md"]
    assert f"Spread coins: {euler}" in pages["docs/paper.md"]
