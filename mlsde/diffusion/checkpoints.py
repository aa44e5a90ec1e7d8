"""Checkpoints of a training: one safetensors file that holds all it takes to go on exactly, written whole or not."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mlsde.log import log

if TYPE_CHECKING:
    from mlsde.diffusion.training import Training

NAME = "checkpoint.safetensors"


def as_json(about: dict[str, Any]) -> dict[str, Any]:
    """What is being trained, as it comes back from a file; numbers of numpy become Python's."""
    return dict(json.loads(json.dumps(about, default=lambda number: number.item())))


def write_tensors(tensors: dict[str, Tensor], file: Path, heading: dict[str, str]) -> None:
    """Write a safetensors file whole or not at all, readable as other files are; its folder is made.

    Raises:
        OSError: as the file system has it; what was there before is then still there.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    try:
        partial.touch()
        mode = partial.stat().st_mode
        save_file({name: value.contiguous() for name, value in tensors.items()}, partial, heading)
        partial.chmod(mode)  # safetensors makes its files readable by their owner alone
        with partial.open("rb+") as written:
            os.fsync(written.fileno())
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)


def write(training: Training, folder: Path, about: dict[str, Any]) -> None:
    """Write the state of a training.

    Raises:
        OSError: as the file system has it; the checkpoint before is then still there.
    """
    tensors = _nets(training)
    for i, state in training.optimiser.state_dict()["state"].items():
        tensors |= {f"adam.{i}.{name}": value for name, value in state.items()}
    if training.scaler.is_enabled():
        scale = training.scaler.state_dict()
        tensors |= {f"scaler.{name}": torch.tensor(float(scale[name])) for name in ("scale", "_growth_tracker")}
    heading = {"about": json.dumps(about), "step": str(training.step), "history": json.dumps(training.history)}
    write_tensors(tensors, folder / NAME, heading | {"given": json.dumps(training.given)})
    for left in folder.glob(f"{NAME}.*.partial"):  # by a run that was killed while it wrote
        left.unlink(missing_ok=True)


def _nets(training: Training) -> dict[str, Tensor]:
    """Weights and their averages, by name."""
    tensors: dict[str, Tensor] = {}
    for k in training.trained:
        for what, model in (("model", training.models[k]), ("average", training.averages[k])):
            tensors |= {f"{what}.{k}.{name}": value for name, value in model.state_dict().items()}
    return tensors


def given(training: Training) -> dict[str, int]:
    """Check sums of what a training is given and does not change."""
    times = training.times
    frozen = [m for k, m in enumerate(training.models) if k not in training.trained]
    return {
        "images to train on": _check_sum([training.images.train]),
        "times": _check_sum([times.alpha, times.sigma, times.told]),
        "weights of the frozen levels": _check_sum(value for model in frozen for value in model.state_dict().values()),
    }


def _check_sum(tensors: Iterable[Tensor]) -> int:
    total = 0
    for tensor in tensors:
        total = zlib.crc32(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data, total)
    return total


def restore(training: Training, folder: Path, about: dict[str, Any]) -> None:
    """Bring a training to where its checkpoint left it; nothing happens if there is none.

    Raises:
        ValueError: if the checkpoint is damaged, or of another training, with the differences named.
    """
    file = folder / NAME
    if not file.exists():
        return
    try:
        heading, tensors = _read(file, str(training.device))
        theirs, sums = json.loads(heading["about"]), json.loads(heading.get("given", "{}"))
        step, history = int(heading["step"]), json.loads(heading["history"])
        if not all(isinstance(part, dict) for part in (theirs, theirs["settings"], sums)) or step < 0:
            raise ValueError("its heading is of another kind")
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise ValueError(f"{str(file)!r} is damaged or no checkpoint ({error}); remove it to begin anew.") from error
    differs = _differences(theirs | theirs["settings"], about | about["settings"])
    differs += [f"other {name}" for name, value in training.given.items() if sums.get(name, value) != value]
    if differs:
        what = "; ".join(differs)
        raise ValueError(f"folder={str(folder)!r} holds another training ({what}); choose another folder.")
    _same_nets(training, file, tensors)
    training.step, training.history = step, history
    _restore_tensors(training, tensors)
    log.info("going on at step %d of %d in %s", step, training.settings.steps, folder)


def _read(file: Path, device: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    with safe_open(file, "pt", device=device) as opened:
        return opened.metadata() or {}, {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118


def _differences(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    names = [name for name in dict.fromkeys([*here, *there]) if name != "settings"]
    return [
        f"{name}: {there.get(name)} there, {here.get(name)} here" for name in names if there.get(name) != here.get(name)
    ]


def _same_nets(training: Training, file: Path, tensors: dict[str, Tensor]) -> None:
    """Refuse weights of other nets, and a state of the optimiser that lacks a part."""
    expected = {name: value.shape for name, value in _nets(training).items()}
    weights = [p for group in training.optimiser.param_groups for p in group["params"]]
    for i, weight in enumerate(weights):
        if f"adam.{i}.step" in tensors:  # none before the first step that changed it
            expected |= {f"adam.{i}.{name}": weight.shape for name in ("exp_avg", "exp_avg_sq")}
    for name, shape in expected.items():
        came = tuple(tensors[name].shape) if name in tensors else "nothing"
        if came != tuple(shape):
            raise ValueError(
                f"{str(file)!r} is damaged or of other nets (it has {came} for {name}, expected {tuple(shape)}); "
                "train the same ladder, or choose another folder."
            )


def _restore_tensors(training: Training, tensors: dict[str, Tensor]) -> None:
    for k in training.trained:
        for what, model in (("model", training.models[k]), ("average", training.averages[k])):
            model.load_state_dict(_below(tensors, f"{what}.{k}."))
    kept = training.optimiser.state_dict()
    count = sum(len(group["params"]) for group in training.optimiser.param_groups)
    kept["state"] = {i: _adam(_below(tensors, f"adam.{i}.")) for i in range(count)}
    training.optimiser.load_state_dict(kept)
    scale = _below(tensors, "scaler.")
    if scale:
        now = training.scaler.state_dict()
        training.scaler.load_state_dict(
            now | {"scale": float(scale["scale"]), "_growth_tracker": int(scale["_growth_tracker"])}
        )


def _adam(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Moments that no file stands behind, and the count on the host, where AdamW reads it without waiting."""
    return {name: value.cpu() if name == "step" else value.clone() for name, value in state.items()}


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
