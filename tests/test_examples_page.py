"""The page on the examples shows what they printed, and says nothing else in numbers."""

import importlib.util
import re
from pathlib import Path

import pytest
from notebooks import cells

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "examples.md"


def recorder():
    spec = importlib.util.spec_from_file_location("record", ROOT / "examples" / "record.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


record = recorder()


def section(name):
    """The part of the page on one example, without its block."""
    part = next(part for part in PAGE.read_text().split("\n## ") if f"<!-- {name}: begin -->" in part)
    return re.sub(r"```.*?```", "", part, flags=re.DOTALL)


def test_every_script_is_recorded():
    scripts = {path.stem for path in (ROOT / "examples").glob("*.py") if cells_or_none(path)}
    assert scripts == set(record.NAMES)


def cells_or_none(path):
    text = path.read_text()
    return cells(text) if text.startswith("# %%") else None


@pytest.mark.parametrize("name", record.NAMES)
def test_the_page_shows_what_the_example_printed(name):
    text = PAGE.read_text()
    assert record.renewed(text, f"\n{record.block(name)}\n\n", name) == text
    assert "the ladder" in record.block(name) or name == "own_study"


@pytest.mark.parametrize("name", record.NAMES)
def test_numbers_in_the_words_of_the_page_are_those_of_the_example(name):
    """Those with a point or a comma, which nobody counts on fingers: in its output or in its text."""
    known = (ROOT / "examples" / f"{name}.py").read_text() + record.results(name).read_text()
    for number in re.findall(r"\d+[.,]\d+", section(name)):
        assert number in known or number.replace(",", "") in known, number


@pytest.mark.parametrize("name", record.NAMES)
def test_the_picture_is_there_and_small(name):
    picture = ROOT / "docs" / "images" / f"example-{name}.png"
    assert f"(images/{picture.name})" in section(name)
    assert 10_000 < picture.stat().st_size < 80_000


@pytest.mark.parametrize("name", record.NAMES)
def test_what_was_recorded_is_a_full_run_with_its_verdict(name):
    text = record.results(name).read_text()
    assert f"picture: out/{name}.png" in text
    assert any(words in text for words in ("here the ladder pays.", "does not pay.", "times dearer than"))
