"""Every python block of the README and of the pages runs, in order, page by page."""

import contextlib
import io
import json
import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


PRINTS_THE_SAME_EVERYWHERE = ["interfaces.md"]


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def shown(page: Path) -> list[str]:
    """What stands below each block as what it prints; nothing where nothing does."""
    pattern = r"^```python\n.*?^```\n(?:\n```text\n(.*?)^```\n)?"
    return re.findall(pattern, page.read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.name)
def test_code_of_the_page_runs_as_it_stands(page):
    torch.manual_seed(0)
    namespace: dict[str, object] = {}
    printed = []
    for number, code in enumerate(blocks(page)):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(code, f"{page.name}, block {number}", "exec"), namespace)
        printed.append(out.getvalue())
    if page.name in PRINTS_THE_SAME_EVERYWHERE:
        assert printed == shown(page)


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


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
