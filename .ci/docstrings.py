"""For the reference pages: docstrings as the renderer reads them.

Roles such as ``:func:`solve``` become links where the name has a page of its own, and an argument section that explains
several names in one line, ``x, y: ...``, explains each of them.
"""

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:func|class|meth|mod|data|attr):`~?([\w.]+)`")
EXAMPLE = re.compile(r"^( *)Example:$", re.MULTILINE)
SEVERAL = re.compile(r"^( +)(\w+(?:, \w+)+): ")


class Docstrings(griffe.Extension):
    """Rewrite each docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called for every object that was read."""
        if obj.docstring is not None:
            text = EXAMPLE.sub(r"\1Examples:", obj.docstring.value)
            text = ROLE.sub(lambda match: link(obj, match[1]), text)
            obj.docstring.value = "\n".join(one_by_one(text.splitlines()))


def link(obj: griffe.Object, name: str) -> str:
    """A name as code that leads to where it is documented, if it is."""
    try:
        target = name if name.startswith("mlsde.") else obj.resolve(name)
    except griffe.NameResolutionError:
        target = f"{(obj if obj.is_class else obj.parent or obj).path}.{name}"
    return f'<autoref identifier="{target}" optional><code>{name}</code></autoref>'


def one_by_one(lines: list[str]) -> list[str]:
    """Lines in which each item of several names stands once for each, with all its lines."""
    written: list[str] = []
    while lines:
        head, lines = lines[0], lines[1:]
        match = SEVERAL.match(head)
        if match is None:
            written.append(head)
            continue
        indent = len(match[1])
        more = next((k for k, line in enumerate(lines) if len(line) - len(line.lstrip()) <= indent), len(lines))
        for name in match[2].split(", "):
            written += [f"{match[1]}{name}: {head[match.end() :]}", *lines[:more]]
        lines = lines[more:]
    return written
