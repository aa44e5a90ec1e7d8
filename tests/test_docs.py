"""The README and the pages are true: code runs, prints what stands below it, commands are ones that there are."""

import ast
import importlib.util
import json
import re
import shlex
from pathlib import Path

import printed
import pytest

from mlsde import cli
from mlsde.cli.study import named_studies

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^( *)```(\S*)\n(.*?)^\1```$(\n*)", re.MULTILINE | re.DOTALL)


def fenced(page: Path) -> list[tuple[str, str, bool]]:
    """Language and text of each fenced block, and whether it stands right below the one before it."""
    found, end = [], -1
    text = page.read_text()
    for match in FENCE.finditer(text):
        indent, language, inside, _ = match.groups()
        code = re.sub(rf"^{indent}", "", inside, flags=re.MULTILINE)
        found.append((language, code, match.start() == end))
        end = match.end()
    return found


@pytest.mark.parametrize(
    "page", [page for page in PAGES if printed.blocks(page.read_text())], ids=lambda page: page.name
)
def test_code_of_the_page_runs_as_it_stands_and_prints_what_is_shown(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for block, out in printed.outputs(page.read_text(), page.name):
        off = None if block.shown is None else printed.difference(block.shown, out)
        assert off is None, f"{page.name}: {off}; python tests/printed.py {page.relative_to(ROOT)} renews it"


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


def test_a_text_block_is_output_only_right_below_code():
    page = "```python\nprint(1)\n```\n\n```text\n1\n```\n\nWords.\n\n```text\n2\n```\n```python\npass\n```\n"
    assert printed.blocks(page) == [printed.Block("print(1)\n", "1\n"), printed.Block("pass\n", None)]


SHELL = ("", "bash", "sh")
COMMAND = re.compile(r"(mlsde|python|make|pip|torchrun|pre-commit|git) ")


def commands(page: Path) -> list[str]:
    """Commands of the untagged blocks, a line each, and those within sentences."""
    lines = [
        line
        for language, text, _ in fenced(page)
        if language in SHELL
        for line in re.sub(r"\\\n *", "", text).splitlines()
    ]
    prose = FENCE.sub("", page.read_text())
    lines += [re.sub(r"\s+", " ", code) for code in re.findall(r"`([^`]+)`", prose)]
    return [line for line in lines if COMMAND.match(line)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_the_page_are_ones_that_there_are(page):
    for command in commands(page):
        words = shlex.split(command.partition(" > ")[0], comments=True)
        if "…" in command or words[0] not in ("mlsde", "python"):
            continue
        if words[0] == "mlsde":
            understood(words[1:])
        elif words[1] == "-m":
            assert importlib.util.find_spec(words[2]), command
        else:
            assert (ROOT / words[1]).exists(), command


def understood(words: list[str]) -> None:
    """The command line takes these words; a study has the names that are given. A command alone is its name."""
    if words in [[name] for name in cli.COMMANDS] or words[0] == "COMMAND":
        return
    try:
        parsed = cli.parser().parse_args(words)
    except SystemExit as left:  # after --help or --version, or at words that it does not know
        if left.code:
            raise AssertionError(f"mlsde does not know {words}") from left
        return
    if parsed.command == "study":
        assert set(parsed.names) <= {*named_studies(), "all", "NAME"}, words


@pytest.mark.parametrize("words", ["study no-such-study", "study ode-3 --no-such-option", "draw", "bench speed"])
def test_a_command_that_there_is_not_is_noticed(words, capsys):
    with pytest.raises(AssertionError):
        understood(words.split())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_block_that_is_not_run_is_one_of_commands_or_of_the_host_s_code(page):
    for language, text, _ in fenced(page):
        assert language in (*SHELL, "python", "text", "bibtex", "json", "toml", "yaml"), f"a block of {language!r}"
        lines = [line for line in re.sub(r"\\\n", "", text).splitlines() if line.strip() and not line.startswith("#")]
        if language in SHELL and not all(COMMAND.match(line) for line in lines):
            assert language == "", f"no command: {text}"
            tree = ast.parse(text)
            if not named(tree) & NOT_INSTALLED:
                run_in_a_pipeline(text)


NOT_INSTALLED = {"torchdiffeq", "diffrax", "jax", "k_diffusion"}
"""Libraries that pages show beside ours and that tests do without: their code is read, not run."""


def named(tree: ast.Module) -> set[str]:
    """Names that code uses, and top-level names of the packages that it imports."""
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    whole = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    parts = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return used | {name.partition(".")[0] for name in [*whole, *parts]}


def run_in_a_pipeline(code: str) -> None:
    """Run code that starts from a pipeline ``pipe`` of diffusers and three networks of one training."""
    import adapter_hosts

    nets = adapter_hosts.unets()
    host = adapter_hosts.ddpm()
    names = {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}
    assert "pipe" in names, f"neither commands nor code around a pipeline: {code}"
    import mlsde

    given = {"mlsde": mlsde, "pipe": host.pipe, "small": nets[0], "medium": nets[-1], "large": nets[-1]}
    exec(compile(code, "code around a pipeline", "exec"), given)
    assert isinstance(host.pipe.unet, mlsde.diffusion.MultilevelDenoiser)


def test_every_example_is_run_by_a_test_and_named_by_a_page():
    tests = "".join(file.read_text() for file in (ROOT / "tests").glob("test_example*.py"))
    pages = "".join(page.read_text() for page in [*PAGES, ROOT / "Makefile"])
    for example in sorted(
        {*(ROOT / "examples").glob("*.py")} - {ROOT / "examples" / "record.py"}
    ):  # it runs the others
        assert f'"{example.stem}"' in tests, example.name
        assert f"examples/{example.name}" in pages, example.name


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target, anchor in re.findall(r"\]\(([^)#:\s]*)(?:#([^):\s]*))?\)", FENCE.sub("", page.read_text())):
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
