"""Pieces of a computation shared out among processes: what is missing is computed, what fails is named."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from mlsde.chunks.ranks import Ranks, apart, portable, sentence
from mlsde.chunks.store import Kept, Store
from mlsde.log import log
from mlsde.progress import bar

K = TypeVar("K", int, str)
P = TypeVar("P", bound=Kept)


@dataclass(frozen=True)
class Outcome(Generic[K]):
    """What came of it, the same on every process.

    Attributes:
        notes: of the finished pieces, by key, in order.
        errors: of those that failed, in words.
        failure: what the first of these raised; ``None`` if none failed.
        untried: those that were given up.
        found: pieces that were there before.
    """

    notes: dict[K, dict[str, Any]]
    errors: dict[K, str]
    failure: Exception | None
    untried: tuple[K, ...]
    found: int


def open_store(ranks: Ranks, folder: Any, manifest: dict[str, Any], kind: type[P]) -> Store[P]:
    """The store of a computation, its folder looked at by the first process alone.

    Raises:
        TypeError: on every process, if the manifest does not survive JSON.
        ValueError: likewise, if it holds another computation.
        OSError: likewise, if it cannot be made.
    """

    def claim() -> None:
        Store(folder, manifest, kind)

    ranks.first(claim)
    store = Store(None, manifest, kind)
    store.folder = folder
    return store


@dataclass
class _Share(Generic[K]):
    """What came of the pieces of one process."""

    notes: dict[K, dict[str, Any]] = field(default_factory=dict)
    errors: dict[K, str] = field(default_factory=dict)
    failure: Exception | None = None
    unkept: OSError | None = None


def share(
    keys: Iterable[K],
    compute: Callable[[K], P],
    store: Store[P],
    ranks: Ranks,
    *,
    most_failures: int = 3,
    progress: bool = False,
) -> Outcome[K]:
    """Compute what is missing of some pieces; process ``r`` of ``R`` takes every ``R``-th of them.

    Args:
        keys: of the pieces.
        compute: makes a piece, within :func:`mlsde.chunks.ranks.apart`. What it raises is noted, and the others go on.
        store: where they are kept.
        ranks: the processes.
        most_failures: after which a process gives up.
        progress: show a bar on the first process.

    Raises:
        OSError: on every process, if a piece could not be kept; those before are.
    """
    order = list(keys)
    there = ranks.first(lambda: {key: piece.note for key in order if (piece := store.get(key))})
    mine = [key for key in order if key not in there][ranks.rank :: ranks.count]
    done = _Share[K]()
    if there and ranks.rank == 0:
        log.info("%d of %d chunks were there, %d are computed", len(there), len(order), len(order) - len(there))
    with bar(total=len(mine), unit="chunks") if progress and ranks.rank == 0 else nullcontext() as shown:
        for key in mine:
            if len(done.errors) >= most_failures or done.unkept is not None:
                break
            try:
                _compute(key, compute, store, done)
            except KeyboardInterrupt as error:
                kept = len(there) + len(done.notes)
                if store.folder is not None:
                    error.add_note(f"{kept} of {len(order)} pieces are in {store.folder}; the same call goes on there.")
                raise
            if shown is not None:
                shown.update()
    ranks.agree(done.unkept)
    untried = [key for key in mine if key not in done.notes and key not in done.errors]
    failure = None if ranks.count == 1 or done.failure is None else portable(done.failure)
    told = ranks.gather((done.notes, done.errors, failure, untried, _as_bytes(done, store, ranks)))
    notes, errors, left, failures = dict(there), dict[K, str](), set[K](), dict[K, Exception | None]()
    for rank, (theirs, failed, raised, given_up, pieces) in enumerate(told):
        notes |= theirs
        errors |= failed
        left |= set(given_up)
        failures |= dict.fromkeys(list(failed)[:1], done.failure if rank == ranks.rank else raised)
        for key, data in pieces.items():
            store.held.setdefault(key, store.kind.from_bytes(data)[0])
    return Outcome(
        {key: notes[key] for key in order if key in notes}, {key: errors[key] for key in order if key in errors},
        next((failures[key] for key in order if key in failures), None), tuple(key for key in order if key in left),
        len(there),
    )  # fmt: skip


def _compute(key: K, compute: Callable[[K], P], store: Store[P], done: _Share[K]) -> None:
    try:
        with apart():
            piece = compute(key)
    except Exception as error:
        done.errors[key] = sentence(error)
        done.failure = error if done.failure is None else done.failure
        log.warning("chunk %s failed: %s", key, done.errors[key])
        return
    try:
        store.put(key, piece)
    except OSError as error:  # the others are told at the next meeting, and end with it
        done.unkept = error
    else:
        done.notes[key] = piece.note


def _as_bytes(done: _Share[K], store: Store[P], ranks: Ranks) -> dict[K, bytes]:
    """Pieces that other processes cannot find in a folder."""
    if ranks.count == 1 or store.folder is not None:
        return {}
    return {key: store.held[key].to_bytes({}) for key in done.notes}


def numbers_of(pieces: Sequence[int]) -> str:
    """A list of chunks in words, cut short."""
    shown = ", ".join(map(str, pieces[:8]))
    return shown + (f" and {len(pieces) - 8} more" if len(pieces) > 8 else "")
