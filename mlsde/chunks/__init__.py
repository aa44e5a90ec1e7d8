"""Pieces of a long computation: one checked file each, shared out among processes, computed once through any fault."""

from mlsde.chunks.files import write_atomically, write_bytes

__all__ = ["write_atomically", "write_bytes"]
