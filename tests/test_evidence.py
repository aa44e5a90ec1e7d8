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


def test_with_multiplicative_noise_too():
    study = recorded("multiplicative-3")
    for who in (PLAIN, PAPER):
        found = method(study, who)
        assert abs(found["exponent"]["value"] - found["theory"]["exponent"]) <= 0.2
    assert advantage(study, PAPER) > 50


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


def dearer(study, name, than):
    """How many times dearer one method is than another at the tightest error."""
    return method(study, name)["costs"][-1] / method(study, than)["costs"][-1]


HEUN, SYSTEMATIC = "one level, Heun", "systematic impulse"


def test_what_the_page_says_of_heun_and_of_stitching_was_measured():
    for name in ("ode-2.5", "ode-3", "ode-4"):
        assert 0.5 < dearer(recorded(name), PAPER, HEUN) < 2
    assert dearer(recorded("ode-3"), HEUN, SYSTEMATIC) > 10
    assert dearer(recorded("additive-3"), HEUN, PAPER) > 4
    assert dearer(recorded("additive-3"), HEUN, SYSTEMATIC) > 50
    for name in ("ode-3", "additive-3"):
        assert 1 < dearer(recorded(name), PLAIN, "two levels stitched in time") < 2


def test_spread_coins_are_cheaper_than_the_papers_at_every_error_beyond_the_plateau_and_ever_more_so():
    for name in ("ode-3", "additive-3", "smooth-1.5"):
        paper, spread = (method(recorded(name), who)["costs"] for who in (PAPER, SYSTEMATIC))
        ratios = [a / b for a, b in zip(paper, spread, strict=True)]
        assert min(ratios[6:]) > 1
        assert ratios[-1] > 1.5 * ratios[9] > 1.5 * ratios[6]


def test_no_exponent_of_the_papers_rule_has_come_down_to_its_limit():
    for name in RATES:
        found = method(recorded(name), PAPER)
        assert found["exponent"]["interval"][0] > found["limit"]


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
