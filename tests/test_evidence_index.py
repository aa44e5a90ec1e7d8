"""The index of the evidence names every recorded file, with the command and the date that the file itself has."""

import json
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
RESULTS, IMAGES = DOCS / "results", DOCS / "images"
PAGE = (DOCS / "evidence.md").read_text()
LINKED = re.compile(r"\[`([^`]+)`\]\((results|images)/([^)]+)\)")


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def rows() -> dict[str, list[str]]:
    """Cells of each row by its file, relative to docs/."""
    found = {}
    for line in PAGE.splitlines():
        link = LINKED.match(line.removeprefix("| "))
        if link:
            assert link[1] == link[3], f"{link[1]} links to {link[3]}"
            found[f"{link[2]}/{link[3]}"] = cells(line)
    return found


def environment(file: Path) -> dict:
    """Date, commit, machine and, if it knows it, the command of a file of numbers."""
    whole = json.loads(file.read_text())
    if "environment" not in whole:
        return json.loads((file.parent / "environment" / file.name).read_text())
    return {**whole["environment"], **{key: whole[key] for key in ("command", "date") if key in whole}}


RECORDED = sorted(file for file in RESULTS.rglob("*.json") if not {"environment", "trials"} & set(file.parts))
SHOWN = [file for file in RESULTS.rglob("*") if file.suffix == ".txt"] + sorted(IMAGES.iterdir())


def test_every_recorded_file_has_a_row_and_every_row_a_file():
    expected = {str(file.relative_to(DOCS)) for file in [*RECORDED, *SHOWN]}
    assert set(rows()) == expected
    beside = {file.name for file in (RESULTS / "study" / "environment").iterdir()}
    assert beside == {file.name for file in RECORDED if file.parent.name == "study"}


@pytest.mark.parametrize("file", RECORDED, ids=lambda file: file.name)
def test_the_row_has_the_date_the_commit_and_the_command_of_the_file(file):
    known = environment(file)
    _, _, command, date, commit = rows()[str(file.relative_to(DOCS))]
    assert (date, commit) == (known["date"], known["commit"])
    assert command == f"`{known.get('command', command[1:-1])}`"


@pytest.mark.parametrize("name", rows())
def test_the_command_stands_on_the_page_that_the_row_links_to(name):
    """For files that know no command; those that do are compared above."""
    line = rows()[name]
    command = line[3 if name.startswith("images/") else 2].strip("`")
    link = re.search(r"\]\(([^)#]+)", line[1])
    page = DOCS / link[1] if link else DOCS.parent / "README.md" if "charges" in name else DOCS / "digits.md"
    known = name.endswith(".json") and "command" in environment(DOCS / name)
    assert known or command in page.read_text(), f"{command} is not on {page.name}"


@pytest.mark.parametrize("file", RECORDED, ids=lambda file: file.name)
def test_the_machine_is_the_one_that_the_page_names(file):
    e = environment(file)
    threads = "one thread" if e["threads"] == 1 else f"{e['threads']} threads"
    software = f"mlsde {e['mlsde']}, torch {e['torch']}, Python {e['python']}"
    said = f"Made on {e['machine']}, {e['cores']} cores, {threads}, {software}:"
    assert said in PAGE, f"another table is needed, below {said!r}"


def test_pictures_are_drawn_from_files_that_there_are():
    for name, line in rows().items():
        if name.startswith("images/") and line[2] != "the page's own blocks":
            assert (RESULTS / line[2].strip("`")).exists(), name


def test_the_printed_table_of_the_digits_is_as_old_as_its_numbers():
    assert rows()["results/digits.txt"][3] == rows()["results/digits.json"][3]
