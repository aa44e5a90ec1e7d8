"""What the pages claim is what the committed studies measured, and a study measures it again."""

import json
import re
from pathlib import Path

import pytest

from mlsde.cli.output import renewed
from mlsde.cli.study import tables
from mlsde.study.catalogue import STUDIES, How

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "results" / "study"
RATES = [f"{kind}-{gamma}" for kind in ("ode", "additive") for gamma in ("2.5", "3", "4")]
PLAIN, PAPER = "one level, Euler-Maruyama", "independent impulse"


def recorded(name):
    return json.loads((FOLDER / f"{name}.json").read_text())


def method(study, name):
    return next(one for one in study["methods"] if one["name"] == name)


def advantage(study, name):
    """How many times cheaper than Euler-Maruyama's best at the tightest error."""
    return method(study, PLAIN)["costs"][-1] / method(study, name)["costs"][-1]


def test_every_table_of_the_page_is_made_of_the_committed_numbers():
    page = (ROOT / "docs" / "rates.md").read_text()
    for name, table in tables(FOLDER).items():
        assert renewed(page, f"\n{table}\n\n", name) == page, name


def test_every_study_is_committed_with_where_and_when_it_ran():
    for name in STUDIES:
        assert recorded(name)
        assert {"date", "commit", "command", "seconds"} <= set(recorded(f"environment/{name}"))


@pytest.mark.parametrize("name", RATES)
@pytest.mark.parametrize("who", [PLAIN, PAPER])
def test_fitted_exponents_are_within_a_fifth_of_what_theory_makes_of_the_same_errors(name, who):
    found = method(recorded(name), who)
    assert found["exponent"]["verdict"].startswith("fitted")
    assert abs(found["exponent"]["value"] - found["theory"]["exponent"]) <= 0.2


@pytest.mark.parametrize("name", [name for name in RATES if not name.endswith("2.5")])
def test_at_the_tightest_error_the_papers_rule_is_ten_times_cheaper_than_the_best_of_euler_maruyama(name):
    assert advantage(recorded(name), PAPER) >= 10


def test_at_equal_cost_spread_coins_are_four_times_better_on_smooth_differences():
    for row in recorded("equal-cost-smooth")["rows"]:
        if row["name"].startswith("systematic"):
            assert row["ratio"][1] >= 4, row  # the lower end of the interval


def test_on_rough_differences_systematic_impulses_are_not_worse_beyond_the_statistical_error():
    study = recorded("equal-cost-rough")
    row = next(row for row in study["rows"] if row["name"] == "systematic impulse")
    assert study["settings"]["seeds"] >= 200
    assert row["ratio"][2] >= 1  # the upper end of the interval


def test_the_table_of_rates_in_the_readme_is_the_recorded_one():
    rows = re.findall(r"^\| `([a-z]+-[\d.]+)` \|(.*)\|$", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    assert len(rows) >= 4
    for name, cells in rows:
        study = recorded(name)
        plain, paper = method(study, PLAIN), method(study, PAPER)
        expected = [
            f"{plain['exponent']['value']:.2f} ({plain['theory']['exponent']:.2f}, {plain['limit']:.3g})",
            f"{paper['exponent']['value']:.2f} ({paper['theory']['exponent']:.2f}, {paper['limit']:.3g})",
            f"{advantage(study, PAPER):.3g}",
        ]
        assert [cell.strip() for cell in cells.split("|")] == expected, name


def assert_close(found, expected):
    """Equal but for rounding, which may differ between processors."""
    if isinstance(expected, dict):
        assert set(found) == set(expected)
        for key, value in expected.items():
            assert_close(found[key], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            assert_close(a, b)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-9)
    else:
        assert found == expected


@pytest.mark.parametrize("name", ["no-gain-pair", "charges"])
def test_a_short_study_comes_out_as_it_was_recorded(name):
    assert_close(json.loads(json.dumps(STUDIES[name].run(How()).as_dict())), recorded(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in STUDIES if name not in ("no-gain-pair", "charges", "wall-clock")])
def test_a_long_study_comes_out_as_it_was_recorded(name):
    assert_close(json.loads(json.dumps(STUDIES[name].run(How()).as_dict())), recorded(name))
