"""How results and settings show themselves: as text, as the same in HTML for notebooks, and as the call that made them.

What is to be shown as a table returns from ``_report`` lines and :class:`Rows`, and has ``__repr__ = as_text`` and
``_repr_html_ = as_html``; what is to be shown as a call has ``__repr__ = as_call``.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from typing import Any

import numpy as np
from torch import Tensor

_MOST = 8
"""Numbers that are shown of a sequence."""

_LONG = 160
"""Characters of a dictionary of which the names alone are shown."""


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows of a table.

    Attributes:
        cells: of each row, as text.
        formats: of each column, as of :func:`format`; by default columns are as wide as their widest cell, the first
            to the left, the others to the right.
        gap: between columns.
        indent: before each row.
        head: whether the first row names the columns.
    """

    cells: Sequence[Sequence[str]]
    formats: Sequence[str] | None = None
    gap: str = "  "
    indent: str = "  "
    head: bool = True

    def lines(self) -> list[str]:
        """As text."""
        formats = self.formats
        if formats is None:
            widths = [max(map(len, column)) for column in zip(*self.cells, strict=True)]
            formats = [f"{'>' if i else '<'}{width}" for i, width in enumerate(widths)]
        return [self.indent + self.gap.join(map(format, row, formats)).rstrip() for row in self.cells]

    def markup(self) -> str:
        """As HTML."""
        rows = []
        for i, row in enumerate(self.cells):
            tag = "th" if self.head and i == 0 else "td"
            cells = (
                f'<{tag} style="text-align: {"right" if j else "left"}">{escape(cell.strip())}</{tag}>'
                for j, cell in enumerate(row)
            )
            rows.append(f"<tr>{''.join(cells)}</tr>")
        return f"<table>{''.join(rows)}</table>"


Report = Sequence[str | Rows]


def as_text(thing: Any) -> str:
    """What ``_report`` of a thing returns, as lines of text."""
    report: Report = thing._report()
    return "\n".join(line for part in report for line in (part.lines() if isinstance(part, Rows) else [part]))


def as_html(thing: Any) -> str:
    """The same in HTML, escaped; an empty line begins a paragraph."""
    report: Report = thing._report()
    parts = []
    for kind, group in groupby(report, key=lambda part: isinstance(part, Rows) or (None if part == "" else False)):
        if kind:
            parts += [part.markup() for part in group if isinstance(part, Rows)]
        elif kind is False:
            parts.append(f"<p>{'<br>'.join(escape(str(part).strip()) for part in group)}</p>")
    return "".join(parts)


def as_call(thing: Any, always: Sequence[str] = ()) -> str:
    """The call that makes a dataclass, short.

    Args:
        thing: the dataclass. What is at its default is left out, and what is not for a user to see.
        always: names of what is shown all the same.
    """
    seen = [field for field in dataclasses.fields(thing) if field.repr]
    shown = [f for f in seen if f.name in always or not _is_default(f, getattr(thing, f.name))]
    return f"{type(thing).__name__}({', '.join(f'{f.name}={in_short(getattr(thing, f.name))}' for f in shown)})"


def _is_default(field: dataclasses.Field[Any], value: Any) -> bool:
    made = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    return made is not dataclasses.MISSING and type(made) is type(value) and bool(made == value)


def in_short(value: Any) -> str:
    """A value in a few words: functions by their names, numbers with six digits, long rows of them by their shape."""
    if isinstance(value, (types.FunctionType, types.BuiltinFunctionType, types.MethodType)):
        return str(value.__qualname__).rpartition("<locals>.")[2]
    if isinstance(value, (float, np.floating)):
        return f"{value:g}"
    if isinstance(value, (Tensor, np.ndarray)):
        short = value.ndim == 1 and len(value) <= _MOST
        kind = "tensor" if isinstance(value, Tensor) else "array"
        return in_short(value.tolist()) if short else f"{kind} of shape {tuple(value.shape)}"
    if isinstance(value, Mapping):
        whole = "{" + ", ".join(f"{name!r}: {in_short(one)}" for name, one in value.items()) + "}"
        return whole if len(whole) <= _LONG else f"{{{', '.join(map(repr, value))}: …}}"
    if isinstance(value, (tuple, list)):
        shown = [in_short(one) for one in value[:_MOST]] + (["…"] if len(value) > _MOST else [])
        begin, end = ("[", "]") if isinstance(value, list) else ("(", ",)" if len(value) == 1 else ")")
        return begin + ", ".join(shown) + end
    return repr(value)
