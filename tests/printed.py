"""What the blocks of a page print, and whether that is what the page shows.

A ``text`` block right below a ``python`` block is its output. ``python tests/printed.py PAGE ...`` runs pages and
writes what they print into these blocks.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

_BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:\n*^```text\n(?P<shown>.*?)^```\n)?", re.MULTILINE | re.DOTALL)
_TOKEN = re.compile(r"[-+]?\d[\d_]*\.?\d*(?:[eE][-+]?\d+)?|[^\s\d]+|\d")
_CLOCK = re.compile(r"(wall-clock )\S+")

CLOSE = 0.02
"""Relative difference of two numbers that other processors, or another torch, may make of the same block."""

WIDTH = 92
"""Characters of a line that a page shows without a scroll bar."""

SMALL = 1e-6
"""Numbers below this are rounding, and only their size must agree: both are small."""


@dataclass(frozen=True)
class Block:
    """Code, and what the page shows below it, if anything."""

    code: str
    shown: str | None


def blocks(text: str) -> list[Block]:
    """The python blocks of a page, in order."""
    return [Block(found["code"], found["shown"]) for found in _BLOCK.finditer(text)]


def outputs(text: str, name: str) -> Iterator[tuple[Block, str]]:
    """Run the blocks of a page in one namespace; each with what it prints."""
    torch.manual_seed(0)
    namespace: dict[str, object] = {}
    for number, block in enumerate(blocks(text)):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(block.code, f"{name}, block {number}", "exec"), namespace)
        yield block, out.getvalue()


def difference(shown: str, printed: str) -> str | None:
    """Where two outputs differ otherwise than in seconds, in line ends and by :data:`CLOSE`; ``None`` if nowhere."""
    ours, theirs = words(shown), words(printed)
    for place, (a, b) in enumerate(zip(ours, theirs, strict=False)):
        if not _alike(a, b):
            return f"shown is {' '.join(ours[: place + 1])!r}, printed {' '.join(theirs[: place + 1])!r}"
    if len(ours) != len(theirs):
        return f"{len(ours)} words are shown, but {len(theirs)} are printed"
    return None


def words(text: str) -> list[str]:
    """Words and numbers of an output, without those of the clock: below a heading of that name, or named in words."""
    found, clocks, columns = [], set[int](), set[int]()
    for line in text.splitlines():
        tokens = list(_TOKEN.finditer(_CLOCK.sub(r"\1", line)))
        ends = {match.end() for match in re.finditer(r"\S+", line)}
        if re.search(r"\bseconds\b", line) and not re.search(r"\d", line):
            clocks, columns = {match.end() for match in re.finditer("seconds", line)}, ends
        elif not columns <= ends:  # the table is over
            clocks, columns = set(), set()
        found += [one.group() for one in tokens if one.end() not in clocks or one.group() == "seconds"]
    return found


def _alike(a: str, b: str) -> bool:
    if a == b:
        return True
    try:
        x, y = float(a.replace("_", "")), float(b.replace("_", ""))
    except ValueError:
        return False
    return abs(x - y) <= CLOSE * max(abs(x), abs(y)) or max(abs(x), abs(y)) < SMALL


def _wrapped(out: str) -> str:
    """Sentences that are too long for a page are continued below themselves."""
    lines = []
    for line in out.rstrip("\n").splitlines():
        indent = re.match(" *", line).group()
        lines += (
            textwrap.wrap(line, WIDTH, subsequent_indent=indent, break_on_hyphens=False)
            if len(line) > WIDTH
            else [line]
        )
    return "\n".join(lines) + "\n"


def renewed(text: str, name: str) -> str:
    """The page with what its blocks print now, where it shows something."""
    printed = [out for _, out in outputs(text, name)]

    def new(match: re.Match[str]) -> str:
        out = printed.pop(0)
        if match["shown"] is None:
            return match[0]
        start, end = match.start("shown") - match.start(), match.end("shown") - match.start()
        return match[0][:start] + _wrapped(out) + match[0][end:]

    return _BLOCK.sub(new, text)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for page in map(Path, sys.argv[1:]):
        page.write_text(renewed(page.read_text(), page.name))
