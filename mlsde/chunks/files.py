"""Files that are written whole or not at all, and folders that say what is computed in them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from mlsde.log import log

Result = dict[str, Any]

_MANIFEST = "manifest.json"


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; its folder is made.

    Raises:
        OSError: as the file system has it (full, read-only); what was there before is then still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_atomically(path: Path, text: str) -> None:
    """Write a file of text, in UTF-8, whole or not at all; its folder is made.

    Raises:
        OSError: as of :func:`write_bytes`.
    """
    write_bytes(path, text.encode())


def claim(folder: Path, manifest: Result) -> None:
    """Begin a folder, or go on with it; what processes that were killed left half-written is removed.

    A folder that was begun and in which nothing was done is anybody's: it was a mistake, perhaps.

    Args:
        folder: made if it is not there.
        manifest: what is computed there, a dictionary that survives JSON.

    Raises:
        TypeError: if it does not.
        ValueError: if the folder holds another computation, naming what differs.
        OSError: as of :func:`write_bytes`.
    """
    path, manifest = folder / _MANIFEST, as_json("manifest", manifest)
    if folder.is_dir():
        _clear(folder)
    theirs = _read(path, folder)
    if theirs is None or (theirs != manifest and [file.name for file in folder.iterdir()] == [_MANIFEST]):
        write_atomically(path, json.dumps(manifest, indent=2) + "\n")
        return
    there, here = _flat(theirs), _flat(manifest)
    differs = sorted(name for name in {*there, *here} if there.get(name) != here.get(name))
    if differs:
        what = "; ".join(f"{name}: {there.get(name)!r} there, {here.get(name)!r} here" for name in differs)
        raise ValueError(f"folder={str(folder)!r} holds another computation ({what}); choose another folder.")
    log.info("going on in %s", folder)


def _read(path: Path, folder: Path) -> Result | None:
    """A folder's manifest; ``None`` if there is none yet."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError):
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"folder={str(folder)!r} has a damaged {_MANIFEST}; choose another folder.")
    return found


def _flat(manifest: Result, before: str = "") -> Result:
    """Dictionaries within dictionaries as one, its names joined by dots: a difference is then named closely."""
    flat: Result = {}
    for name, value in manifest.items():
        inner = isinstance(value, dict) and value
        flat |= _flat(value, f"{before}{name}.") if inner else {f"{before}{name}": value}
    return flat


def as_json(name: str, value: Any) -> Result:
    """A dictionary as it comes back from JSON; ``TypeError`` that names it if it does not survive that."""
    if not isinstance(value, dict):
        raise TypeError(f"{name} must be a dictionary, got {type(value).__name__}.")
    try:
        return dict(json.loads(json.dumps(value)))
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must hold numbers, strings, lists and dictionaries of them: {error}.") from None


def _clear(folder: Path) -> None:
    """Remove what a process that was killed had not finished writing."""
    for file in folder.glob("*.partial"):
        writer = file.name.split(".")[-2]
        if writer.isdigit() and not _runs(int(writer)):
            file.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
