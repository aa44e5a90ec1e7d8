"""Pictures without a display: a canvas, a palette, and where they are saved. Nothing is imported before it is asked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

ENDINGS = (".png", ".pdf", ".svg", ".jpg")
"""Of the pictures that can be drawn."""

COLOURS = ("#1b1b1b", "#c1272d", "#0072b2", "#009e73", "#e69f00", "#984ea3", "#7f7f7f")


def canvas(width: float, height: float) -> Any:
    """Return a matplotlib figure of so many inches that needs no display.

    Raises:
        ModuleNotFoundError: without matplotlib, with the command that installs it.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the figure needs matplotlib: pip install 'mlsde[demo]'") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Any, file: str | os.PathLike[str]) -> str:
    """Write a figure, its format by the file's ending; its folder is made. Returns the file's name."""
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=130)
    return str(file)
