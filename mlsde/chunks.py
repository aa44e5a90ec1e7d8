"""Results of the pieces of a long computation, one file each, so that a killed one goes on where it stopped.

A folder holds ``manifest.json``, which says what is computed, and one JSON file per finished piece. Every file is
written whole or not at all. A folder of another computation is refused, with the differences named.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

Result = dict[str, Any]

_log = logging.getLogger("mlsde")  # this module stands alone, so that processes that only keep files start fast

_SAFE = re.compile(r"[A-Za-z0-9._+=-]{1,120}")


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


class Chunks:
    """Finished pieces of one computation.

    Args:
        folder: where they are kept; ``None`` keeps them in memory.
        manifest: what is computed: numbers, strings, lists and dictionaries of them. A folder that was begun with
            another manifest is refused.

    Raises:
        TypeError: if the manifest does not survive JSON.
        ValueError: if the folder holds another computation, naming what differs.

    Example:
        >>> chunks = Chunks(None, {"seed": 0})
        >>> chunks.result("piece-1", lambda: {"value": 3}), chunks.result("piece-1", lambda: {"value": 4})
        ({'value': 3}, {'value': 3})
    """

    def __init__(self, folder: str | os.PathLike[str] | None, manifest: Result) -> None:
        self.folder = None if folder is None else Path(folder)
        self.computed = self.found = 0
        self._known: dict[str, Result] = {}
        if self.folder is not None:
            claim(self.folder, manifest)

    def result(self, key: str, compute: Callable[[], Result]) -> Result:
        """Return the piece named ``key``: from memory, from its file, or computed now and kept.

        Args:
            key: letters, digits and ``. _ + = -``; the name of its file, so not ``manifest``.
            compute: makes the piece, a dictionary that survives JSON.

        Raises:
            TypeError, ValueError: for another key, or another piece, naming it; nothing is kept then.
        """
        if not isinstance(key, str) or _SAFE.fullmatch(key) is None or key == "manifest":
            raise ValueError(f"key must be up to 120 letters, digits and . _ + = -, and not 'manifest', got {key!r}.")
        if key not in self._known:
            kept = self._read(key)
            self._known[key] = self._compute(key, compute) if kept is None else kept
        return self._known[key]

    def _compute(self, key: str, compute: Callable[[], Result]) -> Result:
        # a piece that was computed must not differ from one that was read
        made = _as_json(f"what compute returned for {key!r}", compute())
        self.computed += 1
        if self.folder is not None:
            write_atomically(self.folder / f"{key}.json", json.dumps({"key": key, "result": made}) + "\n")
        return made

    def _read(self, key: str) -> Result | None:
        """The piece in its file; ``None`` if there is none, or one that is damaged."""
        if self.folder is None:
            return None
        try:
            whole = json.loads((self.folder / f"{key}.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
            return None
        if not isinstance(whole, dict) or whole.get("key") != key or not isinstance(whole.get("result"), dict):
            return None
        self.found += 1
        return dict(whole["result"])


def claim(folder: Path, manifest: Result) -> None:
    """Begin a folder, or go on with it.

    Args:
        folder: made if it is not there.
        manifest: what is computed there, a dictionary that survives JSON.

    Raises:
        TypeError: if it does not.
        ValueError: if the folder holds another computation, naming what differs.
    """
    path, manifest = folder / "manifest.json", _as_json("manifest", manifest)
    if not path.exists():
        write_atomically(path, json.dumps(manifest, indent=2) + "\n")
        return
    try:
        theirs = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        theirs = None
    if not isinstance(theirs, dict):
        raise ValueError(f"folder={str(folder)!r} has a damaged manifest.json; choose another folder.")
    there, here = _flat(theirs), _flat(manifest)
    differs = sorted(name for name in {*there, *here} if there.get(name) != here.get(name))
    if differs:
        what = "; ".join(f"{name}: {there.get(name)!r} there, {here.get(name)!r} here" for name in differs)
        raise ValueError(f"folder={str(folder)!r} holds another computation ({what}); choose another folder.")
    _log.info("going on in %s", folder)


def _flat(manifest: Result, before: str = "") -> Result:
    """Dictionaries within dictionaries as one, its names joined by dots: a difference is then named closely."""
    flat: Result = {}
    for name, value in manifest.items():
        inner = isinstance(value, dict) and value
        flat |= _flat(value, f"{before}{name}.") if inner else {f"{before}{name}": value}
    return flat


def _as_json(name: str, value: Any) -> Result:
    """A dictionary as it comes back from JSON."""
    if not isinstance(value, dict):
        raise TypeError(f"{name} must be a dictionary, got {type(value).__name__}.")
    try:
        return dict(json.loads(json.dumps(value)))
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must hold numbers, strings, lists and dictionaries of them: {error}.") from None
