"""Pieces of tensors: in memory, or one file each in a folder, written whole or not at all and checked when read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from mlsde.chunks import claim, write_bytes
from mlsde.ensembles.describe import check_sum, tensor_bytes


@dataclass(frozen=True)
class Piece:
    """What was kept of one chunk.

    Attributes:
        tensors: by name, on the host.
        note: numbers and strings about them.
    """

    tensors: dict[str, Tensor]
    note: dict[str, Any] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """A safetensors file, a check sum of all that is in it among its heading."""
        held = {name: value.detach().cpu().contiguous() for name, value in self.tensors.items()}
        return save(held, {"about": json.dumps({"note": self.note, "sum": _sum(held, self.note)}, sort_keys=True)})

    @classmethod
    def from_bytes(cls, data: bytes) -> Piece:
        """Read what :meth:`to_bytes` made.

        Raises:
            ValueError: if it was cut short or changed.
        """
        try:
            tensors = load(data)
            size = int.from_bytes(data[:8], "little")
            about = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["about"])
            note, told = about["note"], about["sum"]
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"it is cut short or of another kind ({error})") from error
        if told != _sum(tensors, note):
            raise ValueError("its check sum is wrong")
        return cls(tensors, note)


def _sum(tensors: dict[str, Tensor], note: dict[str, Any]) -> str:
    parts = [json.dumps(note, sort_keys=True).encode()]
    for name, value in sorted(tensors.items()):
        parts += [f"{name} {value.dtype} {tuple(value.shape)}".encode(), tensor_bytes(value)]
    return check_sum(*parts)


class Store:
    """Where the pieces of one computation are kept.

    Attributes:
        stamp: of what was settled since the manifest; pieces with another are not taken.

    Args:
        folder: with one file for each piece; ``None`` keeps them in memory.
        manifest: what is computed.

    Raises:
        ValueError: if the folder holds another computation, naming what differs.
    """

    def __init__(self, folder: str | os.PathLike[str] | None, manifest: dict[str, Any]) -> None:
        self.folder = None if folder is None else Path(folder)
        self.held: dict[int, Piece] = {}
        self.stamp: str | None = None
        if self.folder is not None:
            if self.folder.is_dir() and [file.name for file in self.folder.iterdir()] == ["manifest.json"]:
                (self.folder / "manifest.json").unlink()  # begun, and nothing done: by a mistake, perhaps
            claim(self.folder, manifest)
            _clear(self.folder)

    def file(self, number: int) -> Path:
        """File of a piece."""
        assert self.folder is not None
        return self.folder / f"chunk-{number:06d}.safetensors"

    def put(self, number: int, piece: Piece) -> None:
        """Keep a piece.

        Raises:
            OSError: as the file system has it, with the folder and what to do; nothing half-written is left.
        """
        piece = Piece(piece.tensors, piece.note | {"number": number, "stamp": self.stamp})
        if self.folder is None:
            self.held[number] = piece
            return
        try:
            write_bytes(self.file(number), piece.to_bytes())
        except OSError as error:
            error.add_note(
                f"chunk {number} could not be kept in {str(self.folder)!r}; the finished ones are there: make room, "
                "or mend what is said above, and call again with the same folder."
            )
            raise

    def get(self, number: int) -> Piece | None:
        """A piece; ``None`` if it is not there, damaged, or another one."""
        if self.folder is None:
            return self.held.get(number)
        try:
            piece = Piece.from_bytes(self.file(number).read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return piece if (piece.note.get("number"), piece.note.get("stamp")) == (number, self.stamp) else None

    def pieces(self, numbers: Iterable[int]) -> Iterator[Piece]:
        """Pieces that were finished, one after another.

        Raises:
            ValueError: if one is not there, or no longer whole.
        """
        for number in numbers:
            piece = self.get(number)
            if piece is None:
                raise ValueError(
                    f"chunk {number} is no longer whole in {str(self.folder)!r}, or this process does not see it; give "
                    "a folder that all processes see, and call again with the same one to compute it anew."
                )
            yield piece


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
