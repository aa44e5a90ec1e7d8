"""Checkpoints of a training: one safetensors file that holds all it takes to go on exactly, written whole or not."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

if TYPE_CHECKING:
    from mlsde.diffusion.training import Training

NAME = "checkpoint.safetensors"


def as_json(about: dict[str, Any]) -> dict[str, Any]:
    """What is being trained, as it comes back from a file."""
    return dict(json.loads(json.dumps(about)))


def write(training: Training, folder: Path, about: dict[str, Any]) -> None:
    """Write the state of a training.

    Raises:
        OSError: as the file system has it; the checkpoint before is then still there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = _nets(training)
    for i, state in training.optimiser.state_dict()["state"].items():
        tensors |= {f"adam.{i}.{name}": value.contiguous() for name, value in state.items()}
    if training.scaler.is_enabled():
        scale = training.scaler.state_dict()
        tensors |= {f"scaler.{name}": torch.tensor(float(scale[name])) for name in ("scale", "_growth_tracker")}
    heading = {"about": json.dumps(about), "step": str(training.step), "history": json.dumps(training.history)}
    partial = folder / f"{NAME}.{os.getpid()}.partial"
    try:
        save_file(tensors, partial, heading)
        os.replace(partial, folder / NAME)
    finally:
        partial.unlink(missing_ok=True)


def _nets(training: Training) -> dict[str, Tensor]:
    """Weights, and averages where they differ, by name."""
    tensors: dict[str, Tensor] = {}
    for k in training.trained:
        for what, model in (("model", training.models[k]), ("average", training.averages[k])):
            tensors |= {f"{what}.{k}.{name}": value.contiguous() for name, value in model.state_dict().items()}
    return tensors


def restore(training: Training, folder: Path, about: dict[str, Any]) -> None:
    """Bring a training to where its checkpoint left it; nothing happens if there is none.

    Raises:
        ValueError: if the checkpoint is damaged, or of another training, with the differences named.
    """
    file = folder / NAME
    if not file.exists():
        return
    try:
        with safe_open(file, "pt", device=str(training.device)) as opened:
            heading = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118, not a dictionary
        theirs = json.loads(heading["about"])
        training.step, training.history = int(heading["step"]), json.loads(heading["history"])
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise ValueError(f"{str(file)!r} is damaged ({error}); remove it to begin anew.") from error
    differs = [name for name in about if theirs.get(name) != about[name]]
    if differs:
        what = "; ".join(f"{name}: {theirs.get(name)} there, {about[name]} here" for name in differs)
        raise ValueError(f"folder={str(folder)!r} holds another training ({what}); choose another folder.")
    for k in training.trained:
        for what, model in (("model", training.models[k]), ("average", training.averages[k])):
            model.load_state_dict(_below(tensors, f"{what}.{k}."))
    kept = training.optimiser.state_dict()
    count = sum(len(group["params"]) for group in training.optimiser.param_groups)
    kept["state"] = {i: _below(tensors, f"adam.{i}.") for i in range(count)} if training.step else {}
    training.optimiser.load_state_dict(kept)
    scale = _below(tensors, "scaler.")
    if scale:
        now = training.scaler.state_dict()
        training.scaler.load_state_dict(
            now | {"scale": float(scale["scale"]), "_growth_tracker": int(scale["_growth_tracker"])}
        )


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
