"""Progress bars: in a terminal, or in a notebook, with widgets where they are installed."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm

LOGGED = 15.0
"""Seconds between two states of a bar in a log."""

_usual: dict[str, float] = {}
"""Options of every bar."""


def bar(steps: Iterable[Any] | None = None, **options: Any) -> tqdm[Any]:
    """A bar of tqdm's, which looks for a notebook only now.

    Args:
        steps: what to go through, if the bar is to move by itself.
        **options: of tqdm: ``total``, ``unit``, ``disable`` and others.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of widgets that are not installed: text serves as well
        from tqdm.auto import tqdm  # noqa: PLC0415
    return tqdm(steps, **_usual, **options)


@contextmanager
def as_in_a_log() -> Iterator[None]:
    """Bars tell a state every :data:`LOGGED` seconds, and nothing before: what is written into a file or a pipe."""
    _usual.update(mininterval=LOGGED, delay=LOGGED)
    try:
        yield
    finally:
        _usual.clear()
