"""Trained ladders on disk: a folder with one net per level, in safetensors, and a page of JSON that says what they are.

``load_ladder("digits")`` and ``load_ladder("fashion")`` come with the package.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mlsde import checks
from mlsde.chunks import write_atomically

SHIPPED = Path(__file__).parent / "weights"
"""Where the ladders that come with the package are."""

_PAGE, _FORMAT = "ladder.json", 1
_WEIGHTS = "diffusion_pytorch_model.safetensors"


@dataclass(frozen=True)
class About:
    """What a trained ladder is.

    Attributes:
        data: the images it learnt.
        predicts: what its nets predict: ``"noise"``, ``"clean"`` or ``"v"``.
        betas: ends of the linear noise schedule of ``timesteps`` steps that it was trained on.
        timesteps: number of those steps.
        residual: whether a net above the first predicts what is to be added to the level below.
        names: of the levels.
        megaflops: of one evaluation for one image, each level's own net.
        seconds: of one evaluation for one image, as measured where it was trained, or ``None``.
        held_out: mean square error of each level's prediction on held-out images.
        tuned: settings of the coins that ``mlsde bench diffusion`` chose, as fields of a :class:`Way`, by equation
            (``"ode"``, ``"sde"``); ``None`` if none were.
        training: settings, machine and date.
    """

    data: str
    predicts: str = "noise"
    betas: tuple[float, float] = (1e-4, 0.02)
    timesteps: int = 1000
    residual: bool = False
    names: tuple[str, ...] = ()
    megaflops: tuple[float, ...] = ()
    seconds: tuple[float, ...] | None = None
    held_out: tuple[float, ...] = ()
    tuned: dict[str, Any] | None = None
    training: dict[str, Any] | None = None


@dataclass(frozen=True)
class TrainedLadder:
    """Nets, cheapest first, and what they are."""

    models: tuple[nn.Module, ...]
    about: About

    def __len__(self) -> int:
        return len(self.models)

    def __repr__(self) -> str:
        rows = [f"TrainedLadder of {self.about.data}: {len(self)} levels that predict {self.about.predicts}"]
        for k, model in enumerate(self.models):
            weights = sum(p.numel() for p in model.parameters())
            error = f", held-out error {self.about.held_out[k]:.5f}" if self.about.held_out else ""
            price = f", {self.about.megaflops[k]:.3g} MFLOP" if self.about.megaflops else ""
            rows.append(f"  level {k + 1}: {weights:,} weights{price}{error}")
        return "\n".join(rows)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        config: Any = self.models[-1].config
        return config.in_channels, config.sample_size, config.sample_size

    def to(self, device: str | torch.device) -> TrainedLadder:
        """The same on a device."""
        return replace(self, models=tuple(model.to(device) for model in self.models))


def save_ladder(ladder: TrainedLadder, folder: str | Path) -> Path:
    """Write a ladder, its weights in half precision; the page last, so that a folder with one is whole.

    Args:
        ladder: its nets have diffusers' ``save_pretrained``.
        folder: made if it is not there.
    """
    path = Path(folder)
    for k, model in enumerate(ladder.models):
        small: Any = copy.deepcopy(model).cpu().half()
        small.save_pretrained(path / f"level-{k + 1}", safe_serialization=True)
    page = {"format": _FORMAT, "levels": len(ladder), "classes": _classes(ladder.models), **asdict(ladder.about)}
    write_atomically(path / _PAGE, json.dumps(page, indent=2) + "\n")
    return path


def _classes(models: Sequence[nn.Module]) -> list[str]:
    return [type(model).__name__ for model in models]


def load_ladder(name: str | Path, *, device: str | torch.device = "cpu") -> TrainedLadder:
    """Read a ladder.

    Args:
        name: ``"digits"``, ``"fashion"``, or a folder that :func:`save_ladder` wrote.
        device: where to put it.

    Raises:
        FileNotFoundError: if there is no such ladder.
        ValueError: for damaged or missing weights, or weights in another format than safetensors, naming the file.
    """
    path = SHIPPED / str(name) if (SHIPPED / str(name) / _PAGE).exists() and "/" not in str(name) else Path(name)
    if not (path / _PAGE).exists():
        shipped = sorted(page.parent.name for page in SHIPPED.glob(f"*/{_PAGE}"))
        raise FileNotFoundError(
            f"there is no ladder in {str(name)!r}; give a folder with {_PAGE}, or one of {', '.join(shipped)}."
        )
    try:
        page = json.loads((path / _PAGE).read_text(encoding="utf-8"))
        fields: dict[str, Any] = {name: page[name] for name in About.__dataclass_fields__ if name in page}
        fields |= {key: tuple(value) for key, value in fields.items() if isinstance(value, list)}
        about = About(**fields)
        levels = checks.positive_integer("levels", page["levels"])
        classes = page["classes"]
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{str(path / _PAGE)!r} is damaged ({error}); write the ladder anew.") from error
    if page["format"] != _FORMAT:
        raise ValueError(f"{str(path / _PAGE)!r} is of format {page['format']}, and this version reads {_FORMAT}.")
    models = tuple(load_net(path / f"level-{k + 1}", classes[k]) for k in range(levels))
    return TrainedLadder(models, about).to(device)


def load_net(folder: Path, kind: str) -> nn.Module:
    """Read one net in single precision.

    Args:
        folder: with ``config.json`` and weights in safetensors.
        kind: ``"PatchUNet"``, or the name of a model of diffusers.

    Raises:
        ValueError: naming the file.
    """
    file = folder / _WEIGHTS
    if not file.exists() or not (folder / "config.json").exists():
        old = sorted(found.name for found in folder.glob("*") if found.suffix in (".bin", ".pt", ".pth", ".ckpt"))
        hint = f"; {old[0]} is a pickle, which is not read: convert it to safetensors" if old else ""
        raise ValueError(f"{str(folder)!r} lacks {_WEIGHTS} or config.json{hint}.")
    model_class = _class(kind, folder)
    from safetensors import SafetensorError  # noqa: PLC0415

    try:
        model = model_class.from_pretrained(str(folder), use_safetensors=True, local_files_only=True)
    except (SafetensorError, OSError, RuntimeError, ValueError, json.JSONDecodeError) as error:
        raise ValueError(f"{str(file)!r} is damaged or of another net ({_line(error)}).") from error
    return model.float().eval().requires_grad_(False)


def _class(kind: str, folder: Path) -> Any:
    import diffusers  # noqa: PLC0415, slow to import

    from mlsde.diffusion.nets import PatchUNet  # noqa: PLC0415

    found = PatchUNet if kind == "PatchUNet" else getattr(diffusers, kind, None)
    if found is None or not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ValueError(f"the net in {str(folder)!r} is a {kind!r}, which neither mlsde nor diffusers knows.")
    return found


def _line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
