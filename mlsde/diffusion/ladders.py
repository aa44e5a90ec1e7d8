"""Trained ladders on disk: a folder with one net per level, in safetensors, and a page of JSON that says what they are.

``load_ladder("digits")`` and ``load_ladder("fashion")`` come with the package.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mlsde import checks, extras
from mlsde.chunks import write_atomically
from mlsde.showing import as_call

SHIPPED = Path(__file__).parent / "weights"
"""Where the ladders that come with the package are."""

_PAGE, _FORMAT = "ladder.json", 1
_CONFIG, _WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"


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
    held_out: tuple[float, ...] = ()
    tuned: dict[str, Any] | None = None
    training: dict[str, Any] | None = None

    __repr__ = as_call


@dataclass(frozen=True)
class TrainedLadder:
    """Nets, cheapest first, and what they are.

    Attributes:
        models: denoisers called as those of diffusers, ``model(x, t).sample``.
        about: what they learnt, what they predict, what they cost.

    Raises:
        ValueError: if ``about`` tells of another number of levels.
    """

    models: tuple[nn.Module, ...]
    about: About

    def __post_init__(self) -> None:
        _check_levels(self.about, len(self))

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
        """The same on a device; the nets themselves are moved.

        Raises:
            ValueError: if there is no such device.
        """
        device = known_device(device)
        return replace(self, models=tuple(model.to(device) for model in self.models))


def _check_levels(about: About, levels: int) -> None:
    for name in ("names", "megaflops", "held_out"):
        told = getattr(about, name)
        if told and len(told) != levels:
            raise ValueError(f"about.{name} must hold one for each of {levels} levels, got {len(told)}.")


def save_ladder(ladder: TrainedLadder, folder: str | Path) -> Path:
    """Write a ladder, its weights in half precision; the page last, so that a folder with one is whole.

    Args:
        ladder: its nets have diffusers' ``save_pretrained``.
        folder: made if it is not there; a ladder in it is replaced.

    Returns:
        The folder.

    Raises:
        ValueError: if a level has weights that half precision cannot hold, or NaN.
    """
    path = Path(folder)
    halves: list[Any] = [copy.deepcopy(model).cpu().half() for model in ladder.models]
    for k, small in enumerate(halves, start=1):
        if not all(bool(torch.isfinite(weights).all()) for weights in small.parameters()):
            raise ValueError(f"level {k} has weights that are NaN or beyond half precision, so it is not saved.")
    (path / _PAGE).unlink(missing_ok=True)
    for k, small in enumerate(halves, start=1):
        small.save_pretrained(path / f"level-{k}", safe_serialization=True)
        # safetensors makes its files readable by their owner alone
        shutil.copymode(path / f"level-{k}" / _CONFIG, path / f"level-{k}" / _WEIGHTS)
    page = {"format": _FORMAT, "levels": len(ladder), "classes": _classes(ladder.models), **asdict(ladder.about)}
    write_atomically(path / _PAGE, json.dumps(page, indent=2) + "\n")
    return path


def _classes(models: Sequence[nn.Module]) -> list[str]:
    return [type(model).__name__ for model in models]


def load_ladder(name: str | Path, *, device: str | torch.device = "cpu") -> TrainedLadder:
    """Read a ladder.

    Args:
        name: ``"digits"``, ``"fashion"``, or a folder that :func:`save_ladder` wrote; a folder of one of these names
            is meant by ``"./digits"``.
        device: where to put it.

    Returns:
        The ladder.

    Raises:
        FileNotFoundError: if there is no such ladder.
        ValueError: for damaged or missing weights, or weights in another format than safetensors, naming the file.

    Example:
        >>> len(load_ladder("digits"))
        3
    """
    device = known_device(device)
    shipped = sorted(page.parent.name for page in SHIPPED.glob(f"*/{_PAGE}"))
    path = SHIPPED / name if str(name) in shipped and not isinstance(name, Path) else Path(name)
    if not (path / _PAGE).exists():
        known = f", or one of {', '.join(shipped)}" if shipped else ""
        raise FileNotFoundError(f"there is no ladder in {str(name)!r}; give a folder with {_PAGE}{known}.")
    about, classes = _read_page(path / _PAGE)
    models = tuple(load_net(path / f"level-{k + 1}", kind) for k, kind in enumerate(classes))
    return TrainedLadder(models, about).to(device)


def _read_page(file: Path) -> tuple[About, list[str]]:
    """What a ladder is, and the class of each of its nets."""
    try:
        page = json.loads(file.read_text(encoding="utf-8"))
        if page["format"] != _FORMAT:
            raise ValueError(f"it is of format {page['format']}, and this version reads {_FORMAT}")
        fields: dict[str, Any] = {name: page[name] for name in About.__dataclass_fields__ if name in page}
        fields |= {key: tuple(value) for key, value in fields.items() if isinstance(value, list)}
        levels, classes = checks.positive_integer("levels", page["levels"]), [str(kind) for kind in page["classes"]]
        if len(classes) != levels:
            raise ValueError(f"it tells of {levels} levels and names {len(classes)} classes")
        _check_levels(about := About(**fields), levels)
        return about, classes
    except (KeyError, TypeError, ValueError) as error:
        why = f"it lacks {error}" if isinstance(error, KeyError) else str(error).rstrip(".")
        raise ValueError(f"{str(file)!r} is damaged ({why}); write the ladder anew.") from error


def load_net(folder: Path, kind: str) -> nn.Module:
    """Read one net in single precision.

    Args:
        folder: with ``config.json`` and weights in safetensors.
        kind: ``"PatchUNet"``, or the name of a model of diffusers.

    Raises:
        ValueError: naming the file.
    """
    from safetensors import SafetensorError  # noqa: PLC0415
    from safetensors.torch import load_file  # noqa: PLC0415

    file = folder / _WEIGHTS
    if not file.exists() or not (folder / _CONFIG).exists():
        old = sorted(found.name for found in folder.glob("*") if found.suffix in (".bin", ".pt", ".pth", ".ckpt"))
        hint = f"; {old[0]} is a pickle, which is not read: convert it to safetensors" if old else ""
        raise ValueError(f"{str(folder)!r} lacks {_WEIGHTS} or {_CONFIG}{hint}.")
    model = _untrained(folder / _CONFIG, _class(kind, folder))
    try:
        weights = load_file(file)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{str(file)!r} is damaged ({_line(error)}); copy or write it anew.") from error
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    for name in {**expected, **weights}:
        came = tuple(weights[name].shape) if name in weights else "nothing"
        if came != expected.get(name, "nothing"):
            here = expected.get(name, "nothing")
            raise ValueError(f"{str(file)!r} holds {came} for {name}, and {_CONFIG} beside it asks for {here}.")
    model.load_state_dict(weights)
    return model.float().eval().requires_grad_(False)


def _untrained(file: Path, model_class: Any) -> Any:
    """The net that a page of JSON describes."""
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        if config.get("_class_name", model_class.__name__) != model_class.__name__:
            raise ValueError(f"it describes a {config['_class_name']}, and the ladder a {model_class.__name__}")
        return model_class.from_config(config)
    except Exception as error:  # whatever a constructor makes of a damaged page
        raise ValueError(f"{str(file)!r} describes no net ({_line(error)}); write the ladder anew.") from error


def _class(kind: str, folder: Path) -> Any:
    extras.require("a trained ladder", "diffusers")
    import diffusers  # noqa: PLC0415, slow to import

    from mlsde.diffusion.nets import PatchUNet  # noqa: PLC0415

    found = PatchUNet if kind == "PatchUNet" else getattr(diffusers, kind, None)
    if not (isinstance(found, type) and issubclass(found, diffusers.ModelMixin)):
        raise ValueError(f"the net in {str(folder)!r} is a {kind!r}, which neither mlsde nor diffusers knows.")
    return found


def known_device(device: str | torch.device) -> torch.device:
    """Return a device that is there.

    Raises:
        ValueError: if it is not, or if its name is not known.
    """
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        raise ValueError(f"device={device!r} is not known; give 'cpu' or 'cuda'.") from None
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ValueError(f"device={str(found)!r} is not there, torch finds {count} of CUDA; give 'cpu'.")
    return found


def _line(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
