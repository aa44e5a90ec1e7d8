"""Where the pieces of one computation are kept: in memory, or one file each, written whole and checked when read."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from mlsde.chunks.describe import check_sum, tensor_bytes
from mlsde.chunks.files import as_json, claim, write_bytes

Key = int | str
"""A piece is found by its number or by its name."""

_SAFE = re.compile(r"[A-Za-z0-9._+=-]{1,120}")


class Kept(Protocol):
    """What a piece is: it becomes a file and comes back from it."""

    suffix: ClassVar[str]

    @property
    def note(self) -> dict[str, Any]:
        """Numbers and strings about it, or all that it is."""
        ...

    def to_bytes(self, label: dict[str, Any]) -> bytes:
        """A file, with a label and a check sum of all that is in it."""
        ...

    @classmethod
    def from_bytes(cls, data: bytes) -> tuple[Self, dict[str, Any]]:
        """Read what :meth:`to_bytes` made, and the label; ``ValueError`` if it was cut short or changed."""
        ...


@dataclass(frozen=True)
class Piece:
    """What was kept of one chunk, as a safetensors file.

    Attributes:
        tensors: by name, on the host.
        note: numbers and strings about them.
    """

    tensors: dict[str, Tensor]
    note: dict[str, Any] = field(default_factory=dict)
    suffix: ClassVar[str] = "safetensors"

    def to_bytes(self, label: dict[str, Any]) -> bytes:
        """A safetensors file; label and check sum are in its heading."""
        held = {name: value.detach().cpu().contiguous() for name, value in self.tensors.items()}
        about = {"note": self.note, "label": label, "sum": _sum(held, self.note, label)}
        return save(held, {"about": json.dumps(about, sort_keys=True)})

    @classmethod
    def from_bytes(cls, data: bytes) -> tuple[Piece, dict[str, Any]]:
        """Read it, and the label.

        Raises:
            ValueError: if it was cut short or changed.
        """
        try:
            tensors = load(data)
            size = int.from_bytes(data[:8], "little")
            about = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["about"])
            note, label, told = about["note"], about["label"], about["sum"]
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"it is cut short or of another kind ({error})") from error
        if told != _sum(tensors, note, label):
            raise ValueError("its check sum is wrong")
        return cls(tensors, note), label


def _sum(tensors: dict[str, Tensor], note: dict[str, Any], label: dict[str, Any]) -> str:
    parts = [json.dumps([note, label], sort_keys=True).encode()]
    for name, value in sorted(tensors.items()):
        parts += [f"{name} {value.dtype} {tuple(value.shape)}".encode(), tensor_bytes(value)]
    return check_sum(*parts)


@dataclass(frozen=True)
class Numbers:
    """A piece of numbers, strings, lists and dictionaries of them, as a line of JSON.

    Attributes:
        note: all that it is.
    """

    note: dict[str, Any]
    suffix: ClassVar[str] = "json"

    @classmethod
    def of(cls, name: str, value: Any) -> Numbers:
        """Make one, as it comes back from its file; ``TypeError`` that names a value which does not survive that."""
        return cls(as_json(name, value))

    def to_bytes(self, label: dict[str, Any]) -> bytes:
        """A line of JSON."""
        whole = {**label, "result": self.note}
        return (json.dumps({**whole, "sum": _sum_of(whole)}) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> tuple[Numbers, dict[str, Any]]:
        """Read it, and the label.

        Raises:
            ValueError: if it was cut short or changed.
        """
        whole = json.loads(data.decode())
        if not isinstance(whole, dict) or not isinstance(whole.get("result"), dict):
            raise ValueError("it is of another kind")
        told = whole.pop("sum", None)
        if told is not None and told != _sum_of(whole):  # files of earlier versions have none
            raise ValueError("its check sum is wrong")
        return cls(whole.pop("result")), whole


def _sum_of(whole: dict[str, Any]) -> str:
    return check_sum(json.dumps(whole, sort_keys=True).encode())


P = TypeVar("P", bound=Kept)


class Store(Generic[P]):
    """Where the pieces of one computation are kept.

    Attributes:
        held: those in memory.
        stamp: of what was settled since the manifest; pieces with another are not taken.

    Args:
        folder: with one file for each piece; ``None`` keeps them in memory.
        manifest: what is computed.
        kind: of the pieces, :class:`Piece` or :class:`Numbers`.

    Raises:
        TypeError: if the manifest does not survive JSON.
        ValueError: if the folder holds another computation, naming what differs.
        OSError: if the folder cannot be made.
    """

    def __init__(self, folder: str | os.PathLike[str] | None, manifest: dict[str, Any], kind: type[P]) -> None:
        self.folder = None if folder is None else Path(folder)
        self.kind = kind
        self.held: dict[Key, P] = {}
        self.stamp: str | None = None
        if self.folder is not None:
            claim(self.folder, manifest)

    def file(self, key: Key) -> Path:
        """File of a piece."""
        assert self.folder is not None
        return self.folder / f"{f'chunk-{key:06d}' if isinstance(key, int) else key}.{self.kind.suffix}"

    def put(self, key: Key, piece: P) -> None:
        """Keep a piece.

        Raises:
            OSError: as the file system has it, with the folder and what to do; nothing half-written is left.
        """
        if self.folder is None:
            self.held[key] = piece
            return
        try:
            write_bytes(self.file(key), piece.to_bytes(self._label(key)))
        except OSError as error:
            error.add_note(
                f"chunk {key} could not be kept in {str(self.folder)!r}; the finished ones are there: make room, "
                "or mend what is said above, and call again with the same folder."
            )
            raise

    def get(self, key: Key) -> P | None:
        """A piece; ``None`` if it is not there, damaged, or another one."""
        if self.folder is None:
            return self.held.get(key)
        try:
            piece, label = self.kind.from_bytes(self.file(key).read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return piece if label == self._label(key) else None

    def pieces(self, keys: Iterable[Key]) -> Iterator[P]:
        """Pieces that were finished, one after another.

        Raises:
            ValueError: if one is not there, or no longer whole.
        """
        for key in keys:
            piece = self.get(key)
            if piece is None:
                raise ValueError(
                    f"chunk {key} is no longer whole in {str(self.folder)!r}, or this process does not see it; give "
                    "a folder that all processes see, and call again with the same one to compute it anew."
                )
            yield piece

    def _label(self, key: Key) -> dict[str, Any]:
        return {"key": key} if self.stamp is None else {"key": key, "stamp": self.stamp}


def checked_name(key: object) -> str:
    """The name of a piece, which is that of its file; ``ValueError`` for another thing."""
    if not isinstance(key, str) or _SAFE.fullmatch(key) is None or key == "manifest":
        raise ValueError(f"key must be up to 120 letters, digits and . _ + = -, and not 'manifest', got {key!r}.")
    return key
