"""The reference pages: every public name has a place, every place is a public name, and the tables are the parser's."""

import importlib
import importlib.util
import re
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from mlsde import cli

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "reference"
PLACES = [
    place
    for page in sorted(FOLDER.glob("*.md"))
    for place in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)
]
ROOMS = ["mlsde"] + [
    f"mlsde.{file.parent.name}"
    for file in sorted((ROOT / "mlsde").glob("*/__init__.py"))
    if "__all__" in file.read_text()
]


def helper(name):
    """A program of .ci that the building of the pages calls."""
    loader = SourceFileLoader(name, str(ROOT / ".ci" / f"{name}.py"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    loader.exec_module(module)
    return module


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_of_a_room_has_its_place(room):
    elsewhere = {id(named(place)) for place in PLACES}  # under the name of a lower room
    module = importlib.import_module(room)
    missing = [
        name for name in module.__all__ if f"{room}.{name}" not in PLACES and id(getattr(module, name)) not in elsewhere
    ]
    assert not missing, f"docs/reference lacks {missing}"


def named(place):
    """What stands at a place: a module, or a public name of one."""
    room, _, name = place.rpartition(".")
    try:
        return getattr(importlib.import_module(room), name)
    except AttributeError:
        return importlib.import_module(place)


def test_every_place_is_a_public_name_and_stands_once():
    assert len(set(PLACES)) == len(PLACES)
    assert len(PLACES) > 100
    for place in PLACES:
        folder = ROOT.joinpath(*place.split("."))
        is_module = folder.is_dir() or folder.with_suffix(".py").is_file()
        assert isinstance(named(place), ModuleType) == is_module, f"{place} is a module too: name it as {place}.…"


def test_every_page_stands_in_the_navigation():
    class Loader(yaml.SafeLoader):
        pass

    Loader.add_multi_constructor("", lambda loader, suffix, node: None)
    site = yaml.load((ROOT / "mkdocs.yml").read_text(), Loader)
    listed = set(re.findall(r"[\w/-]+\.md", str(site["nav"])))
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    assert listed == {page for page in pages if not page.startswith("results/")}


def test_tables_of_the_commands_are_those_of_the_parser():
    pages = helper("pages")
    text = (FOLDER / "command.md").read_text()
    assert re.findall(pages.MARKER, text) == list(cli.COMMANDS)
    table = pages.options("demo")
    assert table.startswith("Draw handwritten digits")
    assert "| `--steps STEPS` | steps of the full run (default 400) |" in table
    assert (
        "| `suite` | which benchmark to run (core, efficiency, scaling, coins, diffusion, distances) |"
        in pages.options("bench")
    )
    assert "<!--" not in pages.on_page_markdown(text)
    assert "| `--list` | list the named studies |" in pages.options("study")


def test_an_argument_section_of_several_names_explains_each():
    griffe = pytest.importorskip("griffe")
    docstrings = helper("docstrings")
    assert isinstance(docstrings.Docstrings(), griffe.Extension)
    lines = ["Args:", "    a, b: what they", "        are.", "    c: another.", "", "Returns:", "    x, y."]
    assert docstrings.one_by_one(lines) == [
        "Args:", "    a: what they", "        are.", "    b: what they", "        are.", *lines[3:]
    ]  # fmt: skip
