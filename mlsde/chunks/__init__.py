"""Pieces of a long computation: one checked file each, shared out among processes, computed once through any fault."""

from mlsde.chunks.files import write_atomically as write_atomically
from mlsde.chunks.files import write_bytes as write_bytes
