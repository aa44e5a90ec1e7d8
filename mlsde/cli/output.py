"""What the commands share: JSON for machines, and a word on where it ran."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

import mlsde


def environment() -> dict[str, Any]:
    """Versions and machine, to stand beside every number."""
    return {
        "mlsde": mlsde.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def write_json(path: str | None, result: dict[str, Any]) -> None:
    """Write ``result`` to a file, whole or not at all; nothing if ``path`` is ``None``."""
    if path is None:
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    partial.write_text(json.dumps(result, indent=2) + "\n")
    os.replace(partial, target)
