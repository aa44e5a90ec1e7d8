"""Pieces of a computation shared out among processes: what is missing is computed, what fails is named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from mlsde.ensembles.ranks import Ranks
from mlsde.ensembles.store import Piece, Store
from mlsde.log import log
from mlsde.progress import bar


@dataclass(frozen=True)
class Outcome:
    """What came of it, the same on every process.

    Attributes:
        notes: of the finished pieces, by number, in order.
        errors: of those that failed.
        untried: those that were given up.
        found: pieces that were there before.
    """

    notes: dict[int, dict[str, Any]]
    errors: dict[int, str]
    untried: tuple[int, ...]
    found: int


def open_store(ranks: Ranks, folder: Any, manifest: dict[str, Any]) -> Store:
    """The store of a computation, its folder looked at by the first process alone.

    Raises:
        ValueError: on every process, if it holds another computation.
        OSError: likewise, if it cannot be made.
    """

    def claim() -> None:
        Store(folder, manifest)

    ranks.first(claim)
    store = Store(None, manifest)
    store.folder = folder
    return store


def share(
    count: int,
    compute: Callable[[int], Piece],
    store: Store,
    ranks: Ranks,
    *,
    most_failures: int = 3,
    progress: bool = False,
) -> Outcome:
    """Compute what is missing of ``count`` pieces; process ``r`` of ``R`` takes every ``R``-th of them.

    Args:
        count: of pieces.
        compute: makes a piece. What it raises is noted, and the others go on.
        store: where they are kept.
        ranks: the processes.
        most_failures: after which a process gives up.
        progress: show a bar on the first process.

    Raises:
        OSError: if a piece could not be kept.
    """
    there = ranks.first(lambda: {number: piece.note for number in range(count) if (piece := store.get(number))})
    missing = [number for number in range(count) if number not in there]
    mine = missing[ranks.rank :: ranks.count]
    notes: dict[int, dict[str, Any]] = {}
    errors: dict[int, str] = {}
    if there and ranks.rank == 0:
        log.info("%d of %d chunks were there, %d are computed", len(there), count, len(missing))
    with bar(total=len(mine), unit="chunks") if progress and ranks.rank == 0 else nullcontext() as shown:
        for number in mine:
            if len(errors) >= most_failures:
                break
            try:
                piece = compute(number)
            except Exception as error:
                errors[number] = _sentence(error)
                log.warning("chunk %d failed: %s", number, errors[number])
            else:
                store.put(number, piece)
                notes[number] = piece.note
            if shown is not None:
                shown.update()
    untried = [number for number in mine if number not in notes and number not in errors]
    told = ranks.gather((notes, errors, untried, _as_bytes(store, ranks)))
    notes = dict(there)
    for theirs, failed, left, pieces in told:
        notes |= theirs
        errors |= failed
        untried = sorted({*untried, *left})
        for number, data in pieces.items():
            store.held.setdefault(number, Piece.from_bytes(data))
    return Outcome(dict(sorted(notes.items())), dict(sorted(errors.items())), tuple(untried), len(there))


def _as_bytes(store: Store, ranks: Ranks) -> dict[int, bytes]:
    """Pieces that other processes cannot find in a folder."""
    if ranks.count == 1 or store.folder is not None:
        return {}
    return {number: piece.to_bytes() for number, piece in store.held.items()}


def _sentence(error: Exception) -> str:
    return "; ".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())])


def numbers_of(pieces: Sequence[int]) -> str:
    """A list of chunks in words, cut short."""
    shown = ", ".join(map(str, pieces[:8]))
    return shown + (f" and {len(pieces) - 8} more" if len(pieces) > 8 else "")
