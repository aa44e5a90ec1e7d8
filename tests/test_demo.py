"""The demo, in small, and the command line."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

import mlsde
from mlsde.cli import main
from mlsde.diffusion.demo import Comparison, Demo, Row, Setting, digits_demo
from mlsde.diffusion.demo_figure import save_demo_figure

SMALL = Setting(samples=32, steps=48, budgets=(2, 3), seeds=2, pilot_samples=2, pilot_steps=10)


@pytest.fixture(scope="module")
def demo() -> Demo:
    return digits_demo(SMALL)


def test_demo_compares_every_rival_on_both_equations(demo):
    sde, ode = demo.comparisons
    names = {row.method for row in sde.rows}
    for part in ("28 clusters alone", "224 clusters alone", "fewer steps", "stitched", "the paper", "systematic hold"):
        assert any(part in name for name in names), part
    for part in ("Heun", "DDIM", "DPM-Solver++(2M)"):
        assert any(part in row.method for row in ode.rows), part
    assert all(0.05 < comparison.novelty < 0.5 for comparison in demo.comparisons)
    assert sde.at(None)[0].cost == 48 * 1797.0
    assert sde.at(None)[0].evaluations == (0.0, 0.0, 48.0)


def test_no_method_of_a_budget_spends_more_than_chance_allows(demo):
    for comparison in demo.comparisons:
        for budget in comparison.budgets():
            for row in comparison.at(budget):
                if "best of 15" not in row.method:
                    # coins may fall a firing or two of the top level beyond the mean
                    assert row.cost <= comparison.full_cost / budget + 3 * 1797.0, row


def test_the_search_for_the_best_pattern_is_charged(demo):
    row = next(row for row in demo.comparisons[0].at(2) if "best of 15" in row.method)
    assert row.cost > 10 * demo.comparisons[0].full_cost / 2


def test_a_pilot_that_would_eat_the_budget_is_refused():
    with pytest.raises(ValueError, match="pilot would take"):
        Setting(samples=8, steps=24)


@pytest.mark.parametrize(
    ("words", "part"),
    [(["--samples", "0"], "samples must be"), (["--threads", "-1"], "--threads must be"), (["--steps", "20"], "pilot")],
)
def test_bad_arguments_of_the_command_get_a_sentence_and_status_2(words, part, capsys):
    assert main(["demo", *words]) == 2
    assert part in capsys.readouterr().err


@pytest.mark.parametrize("budgets", [(), (0,), (3, -1)])
def test_budgets_that_mean_nothing_are_refused(budgets):
    with pytest.raises(ValueError, match="budgets must"):
        Setting(budgets=budgets)


def row(method: str, rmse: float, multilevel: bool) -> Row:
    errors = rmse**2 * torch.linspace(0.5, 1.5, 100)[None]
    return Row(method, 3, 10, (1.0,), 1.0, 0.1, rmse, 0.0, rmse, 0.0, 1, multilevel, torch.zeros(1, 64), errors)


@pytest.mark.parametrize(
    ("ours", "plain", "words"),
    [(0.1, 0.2, "multilevel wins"), (0.2, 0.1, "does not pay"), (0.1, 0.1, "undecided")],
)
def test_verdict_follows_from_the_rows(ours, plain, words):
    rows = (row("ours", ours, True), row("plain", plain, False), row("the paper's, best of 15 patterns", 1e-9, True))
    comparison = Comparison("an equation", 10, 30.0, rows, torch.zeros(1, 64), 0.0, 0.0)
    assert words in comparison.verdict(3)
    swapped = replace(comparison, rows=(row("ours", plain, True), row("plain", ours, False)))
    if words != "undecided":
        assert words not in swapped.verdict(3)


def test_one_sample_gone_astray_decides_nothing():
    ours, plain = row("ours", 0.1, True), row("plain", 0.1, False)
    astray = replace(plain, rmse=0.2, errors=plain.errors.clone().index_fill_(1, torch.tensor([7]), 3.0))
    comparison = Comparison("an equation", 10, 30.0, (ours, astray), torch.zeros(1, 64), 0.0, 0.0)
    by_rmse, by_median = comparison.verdict(3).split("; by median")
    assert "undecided" in by_rmse
    assert "undecided" in by_median


def test_table_and_picture_show_the_rows(demo, tmp_path):
    text = repr(demo)
    assert "independent impulse (the paper)" in text
    assert text.count("at 1/3 of the cost") == 4  # a heading and a verdict for each equation
    assert save_demo_figure(demo, tmp_path / "demo.png").stat().st_size > 10_000


def test_commands_write_json_and_refuse_what_they_do_not_know(demo, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("mlsde.diffusion.demo.digits_demo", lambda setting, report: demo)
    threads = torch.get_num_threads()
    try:
        assert main(["demo", "--picture", str(tmp_path / "a.png"), "--json", str(tmp_path / "sub" / "a.json")]) == 0
    finally:
        torch.set_num_threads(threads)
    written = json.loads((tmp_path / "sub" / "a.json").read_text())
    assert written["comparisons"][1]["equation"].startswith("probability-flow ODE")
    assert written["environment"]["mlsde"] == mlsde.__version__
    assert "reverse SDE" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        main(["dance"])
    assert stopped.value.code == 2


def test_package_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "mlsde", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"mlsde {mlsde.__version__}"
