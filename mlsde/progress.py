"""Progress bars: in a terminal, or in a notebook, with widgets where they are installed."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm

_LOGGED = 15.0
"""Seconds between two states of a bar that is written into a file or a pipe."""


def bar(steps: Iterable[Any] | None = None, **options: Any) -> tqdm[Any]:
    """A bar of tqdm's, which looks for a notebook only now.

    Args:
        steps: what to go through, if the bar is to move by itself.
        **options: of tqdm: ``total``, ``unit``, ``disable`` and others.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of widgets that are not installed: text serves as well
        from tqdm.auto import tqdm  # noqa: PLC0415
    if "IPython" not in sys.modules and not sys.stderr.isatty():  # a log, which is not to fill up
        options = {"mininterval": _LOGGED, "delay": _LOGGED, **options}
    return tqdm(steps, **options)
