"""Every python block of the README and of the pages runs, in order, page by page, and prints what stands below it."""

import json
import re
from pathlib import Path

import printed
import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if printed.blocks(page.read_text())], ids=lambda page: page.name
)
def test_code_of_the_page_runs_as_it_stands_and_prints_what_is_shown(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for block, out in printed.outputs(page.read_text(), page.name):
        assert block.shown is None or printed.difference(block.shown, out) is None


TABLE = """Solution: reached t=1 in 10 steps.
           price  evaluations  seconds
  level 1      1         1000  0.00152
  wall-clock 0.0271 s; seed 0
"""


def test_numbers_of_the_clock_may_differ_and_others_by_rounding_alone():
    again = TABLE.replace("0.00152", "  1e-05").replace("0.0271", "11").replace("1000", " 999")
    assert printed.difference(TABLE, again) is None
    for wrong in ({"1000": " 900"}, {"level 1": "level 2"}, {"seed 0": "seed 1"}, {"price": "cost "}, {"\n  wall": ""}):
        ((old, new),) = wrong.items()
        assert printed.difference(TABLE, TABLE.replace(old, new)) is not None
    assert printed.difference("2.5 10 steps\n", "2.5 11 steps\n") is not None
    assert printed.difference("off 3e-16\n", "off 0.0\n") is None
    assert printed.difference("gamma nan, a\nNaN\n", "gamma nan,\na NaN\n") is None


def test_a_page_is_renewed_with_what_its_blocks_print_and_nothing_else():
    page = "a\n\n```python\nx = 1\n```\n\n```python\nprint(x)\n```\n\n```text\n2\n```\n\n```text\n3\n```\n"
    assert printed.renewed(page, "page") == page.replace("text\n2", "text\n1")


def anchors(page: Path) -> set[str]:
    """What mkdocs makes of the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ +(.*?) *$", text, flags=re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target, anchor in re.findall(r"\]\(([^)#:\s]*)(?:#([^):\s]*))?\)", page.read_text()):
            there = page.parent / target if target else page
            assert there.exists(), f"{page.name} links to {target}"
            assert not anchor or anchor in anchors(there), f"{page.name} links to {target}#{anchor}"


def recorded(method: str) -> dict[tuple[str, int | None], dict[str, float]]:
    """Rows of the recorded demo whose method starts so, by equation and budget."""
    comparisons = json.loads((ROOT / "docs" / "results" / "digits.json").read_text())["comparisons"]
    names = {"reverse SDE, Euler-Maruyama": "SDE", "probability-flow ODE, Euler": "ODE"}
    return {
        (names[comparison["equation"]], row["budget"]): row
        for comparison in comparisons
        for row in comparison["rows"]
        if row["method"].startswith(method) and (" in Heun" in method or " in Heun" not in row["method"])
    }


@pytest.mark.parametrize(
    ("shown", "method", "budget"),
    [
        ("*the full run: 400 steps of the top level*", "top level, 400 steps", None),
        ("the top level, fewer steps", "top level, fewer", 6),
        ("the top level, Heun", "top level, Heun", 6),
        ("the top level, DPM-Solver++(2M)", "top level, DPM", 6),
        ("two levels stitched in time, best of 8", "two levels stitched", 6),
        ("independent impulse (the paper's rule)", "independent impulse", 6),
        ("systematic impulse", "systematic impulse", 6),
        ("systematic hold", "systematic hold", 6),
        ("systematic extrapolate", "systematic extrapolate", 6),
        ("systematic extrapolate in Heun, best of 4", "systematic extrapolate in Heun, best of 4", 6),
    ],
)
def test_table_of_the_readme_is_the_recorded_one(shown, method, budget):
    line = next(line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith(f"| {shown} |"))
    rows = recorded(method)
    expected = [
        f"{rows[equation, budget][error]:.4f}" if (equation, budget) in rows else "-"
        for equation in ("SDE", "ODE")
        for error in ("rmse", "median")
    ]
    assert [cell.strip() for cell in line.split("|")[2:-1]] == expected


def test_table_of_the_digits_page_is_the_recorded_one():
    page, text = (ROOT / "docs" / name for name in ("digits.md", "results/digits.txt"))
    assert text.read_text().split("\npicture:")[0].strip() in page.read_text()
    for row in recorded("").values():
        assert f"{row['rmse']:.4f}" in page.read_text()


def test_table_of_charges_in_the_readme_is_the_recorded_one():
    readme = (ROOT / "README.md").read_text()
    for line in (ROOT / "docs" / "results" / "charges.txt").read_text().splitlines()[1:]:
        name, numbers = line[:40].strip(), line[40:].split()
        if "alone" not in name:
            shown = f"*the full run: {name}*" if name == "all charges, every step" else name
            assert f"| {shown} | {numbers[2]} | {(*numbers, '-')[3]} |" in readme
