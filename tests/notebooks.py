"""Percent scripts: cells between lines that begin with ``# %%``, as Jupytext, VS Code and Spyder read them."""

import re

MARKER = re.compile(r"^# %%( \[markdown\])?$")


def cells(text):
    """Kinds and sources of the cells; there must be nothing before the first."""
    found = []
    for line in text.splitlines():
        marker = MARKER.match(line)
        if marker:
            found.append(("markdown" if marker[1] else "code", []))
        else:
            assert found, f"before the first cell: {line!r}"
            found[-1][1].append(line)
    return [(kind, prose(lines) if kind == "markdown" else "\n".join(lines).strip()) for kind, lines in found]


def prose(lines):
    """The text of a markdown cell, which is a docstring or comments."""
    text = "\n".join(lines).strip()
    if text.startswith('"""'):
        assert text.endswith('"""'), text
        return text.strip('"')
    wrong = [line for line in text.splitlines() if not re.match(r"#( |$)", line)]
    assert not wrong, wrong
    return "\n".join(line[2:] for line in text.splitlines())


def notebook(text):
    """The script as a notebook of format 4.5, without outputs."""
    made = []
    for number, (kind, source) in enumerate(cells(text)):
        cell = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": source.splitlines(keepends=True)}
        made.append({**cell, "execution_count": None, "outputs": []} if kind == "code" else cell)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": made, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
