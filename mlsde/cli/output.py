"""What the commands share: JSON for machines, and a word on where it ran."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import mlsde
from mlsde import checks, drawing
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


def read_text(name: str, file: str | Path) -> str:
    """Text of a file that an argument names; ``ValueError`` that names it where it cannot be read."""
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ValueError(f"{name}={str(file)!r} cannot be read: {_reason(error)}.") from None


def read_json(name: str, file: str | Path) -> dict[str, Any]:
    """What ``--json`` wrote into a file; ``ValueError`` that names the argument otherwise."""
    try:
        found = json.loads(read_text(name, file))
    except json.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{name}={str(file)!r} is damaged, or nothing that --json wrote.")
    return found


@contextmanager
def numbers_of(suite: str, name: str, file: object) -> Iterator[None]:
    """Whatever goes wrong with numbers that were read: ``ValueError`` that names the argument."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{name}={file!r} holds no numbers of {suite} ({_reason(error)}).") from None


def destinations(*, pictures: dict[str, str | None] | None = None, folders: dict[str, str | None] | None = None,
                 **files: str | None) -> None:  # fmt: skip
    """Refuse what cannot be written to before hours are spent on it; ``ValueError`` that names the argument.

    Args:
        pictures: by argument.
        folders: likewise, to be made where they are not there.
        files: others, by argument without its dashes.
    """
    for name, file in (pictures or {}).items():
        if file is not None and Path(file).suffix.lower() not in drawing.ENDINGS:
            raise ValueError(f"{name}={file!r} must end in one of {', '.join(drawing.ENDINGS)}.")
    whole = {**(pictures or {}), **{f"--{name}": file for name, file in files.items()}, **(folders or {})}
    for name, file in whole.items():
        if file is not None:
            _refuse_unwritable(name, file, name in (folders or {}))


def _refuse_unwritable(name: str, file: str, folder: bool) -> None:
    path = Path(file)
    try:
        os.stat(file)  # says what is no name at all
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        raise ValueError(f"{name}={file!r} cannot be written: {_reason(error)}.") from None
    else:
        if path.is_dir() != folder:
            what = "a file, so that folder cannot be made" if folder else "a folder, expected a file"
            raise ValueError(f"{name}={file!r} is {what}.")
    near = next(parent for parent in (path, *path.parents, Path()) if parent.exists())
    if not (near.is_file() and near == path) and not (near.is_dir() and os.access(near, os.W_OK)):
        raise ValueError(f"{name}={file!r} cannot be written: {str(near)!r} is no folder that can be written to.")


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).splitlines() or [""])[0].rstrip(".") or type(error).__name__


def threads(name: str, count: int) -> None:
    """Give torch so many threads; ``ValueError`` that names the argument for a number that makes no sense."""
    torch.set_num_threads(checks.positive_integer(name, count, 1024))


def numbers(name: str, text: str) -> tuple[float, ...]:
    """Numbers of an argument, separated by commas; ``ValueError`` that names it otherwise."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{name} must be numbers separated by commas, such as 5,10, got {text!r}.") from None


def renewed(page: str, section: str, name: str = "numbers", called: str = "the page") -> str:
    """Return the page with what stands between its markers ``<!-- name: begin -->`` and ``end`` replaced.

    Raises:
        ValueError: if the page lacks them.
    """
    begin_mark, end_mark = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->\n"
    before, begin, rest = page.partition(begin_mark)
    _, end, after = rest.partition(end_mark)
    if not begin or not end:
        raise ValueError(f"{called} needs the two lines {begin_mark.strip()} and {end_mark.strip()}, in this order.")
    return "".join([before, begin, section, end, after])
