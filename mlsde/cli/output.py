"""What the commands share: JSON for machines, and a word on where it ran."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

import mlsde
from mlsde.chunks import write_atomically
from mlsde.chunks.ranks import started_by_torchrun


def environment() -> dict[str, Any]:
    """Versions and machine, to stand beside every number."""
    return {
        "date": datetime.date.today().isoformat(),
        "commit": _commit(),
        "mlsde": mlsde.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def _commit() -> str | None:
    """Commit of the checkout that the package is run from, with a plus sign if it has changes; or ``None``."""
    root = Path(mlsde.__file__).parent
    try:
        ask = [["git", "rev-parse", "--short", "HEAD"], ["git", "status", "--porcelain", "--", str(root)]]
        done = [subprocess.run(words, cwd=root, capture_output=True, text=True, check=True).stdout for words in ask]
    except (OSError, subprocess.CalledProcessError):
        return None
    return done[0].strip() + ("+" if done[1].strip() else "")


def tells() -> bool:
    """Whether this process prints and writes: the only one, or the first of those that ``torchrun`` started."""
    return not started_by_torchrun() or os.environ["RANK"] == "0"


def own_device(name: str) -> str:
    """Device of this process: under ``torchrun`` each has a CUDA device of its own, as far as there are enough."""
    if name != "cuda" or not started_by_torchrun() or not torch.cuda.is_available():
        return name
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    return f"cuda:{torch.cuda.current_device()}"


def write_json(path: str | None, result: dict[str, Any]) -> None:
    """Write ``result`` to a file, whole or not at all; nothing if ``path`` is ``None``."""
    if path is None:
        return
    write_atomically(Path(path), json.dumps(result, indent=2) + "\n")


def numbers(name: str, text: str) -> tuple[float, ...]:
    """Numbers of an argument, separated by commas; ``ValueError`` that names it otherwise."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{name} must be numbers separated by commas, such as 5,10, got {text!r}.") from None


def renewed(page: str, section: str, name: str = "numbers") -> str:
    """Return the page with what stands between its markers ``<!-- name: begin -->`` and ``end`` replaced.

    Raises:
        ValueError: if the page lacks them.
    """
    begin_mark, end_mark = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->\n"
    before, begin, rest = page.partition(begin_mark)
    _, end, after = rest.partition(end_mark)
    if not begin or not end:
        raise ValueError(f"the page needs the two lines {begin_mark.strip()} and {end_mark.strip()}, in this order.")
    return "".join([before, begin, section, end, after])
