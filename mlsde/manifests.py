"""What is computed with an equation, in words that a folder's manifest keeps."""

from __future__ import annotations

import sys
from typing import Any

from torch import Tensor

import mlsde
from mlsde.chunks.describe import describe
from mlsde.sde import SDE


def of_equation(sde: SDE, state: Tensor, identity: str | None, **functions: Any) -> dict[str, Any]:
    """Versions, the kind of the states, and the equation.

    Args:
        sde: the equation.
        state: one state or more, shape ``(samples, ...)``.
        identity: says what the equation and the functions are, in place of their descriptions.
        **functions: what else is described, by name.
    """
    drift = sde.drift
    told: dict[str, Any] = {
        "mlsde": mlsde.__version__, "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "state": f"{str(state.dtype).removeprefix('torch.')} {tuple(state.shape[1:])} on {state.device.type}",
        "costs": None if drift.costs is None else list(drift.costs), "differences": drift.differences,
        "noise": sde.noise, "calculus": sde.calculus,
    }  # fmt: skip
    if identity is not None:
        return told | {"identity": str(identity)}
    return told | {
        "drift": {name: describe(level) for name, level in zip(drift.names, drift.levels, strict=True)},
        "diffusion": describe(sde.diffusion), "linear": describe(sde.linear),
        **{name: describe(function) for name, function in functions.items()},
    }  # fmt: skip
