"""Results by name, each computed once: in memory, or one line of JSON each in a folder, on one process or many."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from mlsde.chunks.engine import open_store, share
from mlsde.chunks.files import Result
from mlsde.chunks.ranks import Ranks, is_apart
from mlsde.chunks.store import Numbers, Store, checked_name


class Results:
    """Finished pieces of one computation, by name.

    On many processes all ask for the same pieces in the same order, and the first makes them for all; within
    :func:`mlsde.chunks.ranks.apart` each makes its own.

    Attributes:
        known: those that were asked for.
        computed, found: how many this process made, and read.

    Args:
        folder: where they are kept; ``None`` keeps them in memory.
        manifest: what is computed: numbers, strings, lists and dictionaries of them. A folder of another computation
            is refused.
        work: the processes.

    Raises:
        TypeError: if the manifest does not survive JSON.
        ValueError: if the folder holds another computation, naming what differs.

    Example:
        >>> pieces = Results(None, {"seed": 0})
        >>> pieces.result("piece-1", lambda: {"value": 3}), pieces.result("piece-1", lambda: {"value": 4})
        ({'value': 3}, {'value': 3})
    """

    def __init__(self, folder: str | os.PathLike[str] | None, manifest: Result, work: Ranks | None = None) -> None:
        self._work = Ranks() if work is None else work
        self._store = open_store(self._here, None if folder is None else Path(folder), manifest, Numbers)
        self.computed = self.found = 0
        self.known: dict[str, Result] = {}

    @property
    def folder(self) -> Path | None:
        """Where they are kept."""
        return self._store.folder

    @property
    def _here(self) -> Ranks:
        return Ranks() if is_apart() else self._work

    def result(self, key: str, compute: Callable[[], Result]) -> Result:
        """Return the piece named ``key``: from memory, from its file, or computed now and kept.

        Args:
            key: letters, digits and ``. _ + = -``; the name of its file, so not ``manifest``.
            compute: makes the piece, a dictionary that survives JSON.

        Raises:
            TypeError, ValueError: for another key, or another piece, naming it; nothing is kept then.
            OSError: if it could not be kept.
        """
        name = checked_name(key)
        if name not in self.known:
            self.known[name] = self._here.first(partial(self._read_or_made, name, compute))
        return self.known[name]

    def _read_or_made(self, key: str, compute: Callable[[], Result]) -> Result:
        kept = self._store.get(key)
        if kept is not None:
            self.found += 1
            return kept.note
        # a piece that was computed must not differ from one that was read
        made = Numbers.of(f"what compute returned for {key!r}", compute())
        self.computed += 1
        self._store.put(key, made)
        return made.note


def share_results(
    tasks: Sequence[Callable[[], object]], kept: Sequence[Results], work: Ranks, *, progress: bool = False
) -> None:
    """Have each of several processes make pieces that all will ask for; one process leaves them to be asked for.

    Args:
        tasks: each asks for pieces, in an order of its own and perhaps for more of them than are needed in the end.
            What it raises is not lost: who asks for that piece afterwards makes it anew, and raises it.
        kept: where the pieces are; afterwards every process knows what any of them found.
        work: the processes.
        progress: show a bar on the first process.
    """
    if work.count == 1:
        return

    def done(number: int) -> Numbers:
        tasks[number]()
        return Numbers({})

    share(
        range(len(tasks)), done, Store(None, {}, Numbers), work, most_failures=len(tasks) + 1, progress=progress
    )  # fmt: skip
    told = work.gather([one.known for one in kept])
    for number, one in enumerate(kept):
        one.known = {}
        for theirs in reversed(told):  # a piece that two of them made is the first one's
            one.known |= theirs[number]
