"""Images to learn from: a folder of pictures, IDX files, an array file, or scikit-learn's digits.

Pixels are kept as bytes and handed out as floats in [-1, 1]. Pictures of one subject stay on one side of the split:
variants of an emoji in several skin tones would otherwise leak from the training set into the held-out one.
"""

from __future__ import annotations

import gzip
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from mlsde import checks

_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_SKIN_TONE = re.compile(r"-1f3f[b-f]", re.IGNORECASE)
_PARTS = {"train": "train", "held out": "t10k"}


@dataclass(frozen=True, eq=False)
class Images:
    """A set of images with its held-out part.

    Attributes:
        train: bytes, shape ``(n, channels, size, size)``.
        held_out: bytes, shape ``(m, channels, size, size)``, never trained on.
        labels: classes of both parts, shapes ``(n,)`` and ``(m,)``, or ``None``.
        name: what they are, for tables.
    """

    train: Tensor
    held_out: Tensor
    labels: tuple[Tensor, Tensor] | None = None
    name: str = "images"

    @property
    def size(self) -> int:
        """Height and width in pixels."""
        return self.train.shape[-1]

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return self.train.shape[1]

    def __repr__(self) -> str:
        return (
            f"Images({self.name}: {len(self.train)} to train on, {len(self.held_out)} held out, "
            f"{self.channels} x {self.size} x {self.size})"
        )


def as_floats(images: Tensor) -> Tensor:
    """Bytes as floats in [-1, 1]."""
    return images.float() / 127.5 - 1.0


def as_bytes(images: Tensor) -> Tensor:
    """Floats as bytes, those outside [-1, 1] clipped."""
    return ((images.clamp(-1.0, 1.0) + 1.0) * 127.5).round().to(torch.uint8)


def load_images(source: str | Path, *, size: int | None = None, held_out: float = 0.1, seed: int = 0) -> Images:
    """Read images from wherever they are.

    Args:
        source: ``"digits"`` (scikit-learn's); a folder of pictures, or one that holds IDX files; an IDX file, plain or
            gzipped; a ``.npy`` or ``.safetensors`` file with one array of shape ``(n, h, w)``, ``(n, h, w, c)`` or
            ``(n, c, h, w)``, of bytes or of floats in [-1, 1].
        size: height and width to bring them to: smaller ones are padded by their darkest value, larger ones are
            averaged down; by default as they are.
        held_out: part that is never trained on, unless the source itself has one.
        seed: of the split.

    Raises:
        FileNotFoundError: if there is no such file or folder.
        ValueError: for a folder without images, a damaged file, or shapes that are not images, naming it.
    """
    if not 0 < checks.finite_number("held_out", held_out) < 1:
        raise ValueError(f"held_out must be a part between 0 and 1, got {held_out}.")
    if source == "digits":
        return _digits(size, held_out, seed)
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"there is no file or folder {str(path)!r}; give images, or 'digits'.")
    if path.is_dir() and _idx_file(path, "train", "images") is not None:
        return _idx_folder(path, size)
    if path.is_dir():
        return _folder(path, size, held_out, seed)
    images = _shaped(_array(path), path)
    return _split(images, None, list(range(len(images))), size, held_out, seed, path.stem)


def _digits(size: int | None, held_out: float, seed: int) -> Images:
    try:
        from sklearn.datasets import load_digits  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the digits come with scikit-learn: pip install 'mlsde[diffusion]'") from error
    found = load_digits()
    images = torch.as_tensor((found.images * 255.0 / 16.0).round().astype(np.uint8))[:, None]
    return _split(images, torch.as_tensor(found.target), list(range(len(images))), size, held_out, seed, "digits")


def _split(
    images: Tensor, labels: Tensor | None, groups: Sequence[object], size: int | None, held_out: float, seed: int,
    name: str,
) -> Images:  # fmt: skip
    """Hold out whole groups, about the wished part of them."""
    distinct = sorted(set(groups), key=str)
    order = np.random.default_rng(checks.one_seed(seed)).permutation(len(distinct))
    kept_back = {distinct[i] for i in order[: max(1, round(held_out * len(distinct)))].tolist()}
    apart = torch.tensor([group in kept_back for group in groups])
    if bool(apart.all()):
        raise ValueError(f"{name} holds too few images to hold some out: {len(images)}.")
    images = resized(images, size)
    parted = None if labels is None else (labels[~apart], labels[apart])
    return Images(images[~apart], images[apart], parted, name)


def resized(images: Tensor, size: int | None) -> Tensor:
    """Square images of a wished size: padded evenly by 0, or averaged down; bytes."""
    if size is None:
        if images.shape[-1] != images.shape[-2]:
            raise ValueError(
                f"images must be square, got {images.shape[-2]} x {images.shape[-1]}; give a size to bring them to."
            )
        return images
    checks.positive_integer("size", size)
    if max(images.shape[-2:]) > size:
        scale = size / max(images.shape[-2:])
        to = [max(1, round(n * scale)) for n in images.shape[-2:]]
        small = [
            torch.nn.functional.interpolate(part.float(), to, mode="bilinear", antialias=True, align_corners=False)
            for part in torch.split(images, 1024)
        ]
        images = torch.cat(small).round().clamp(0, 255).to(torch.uint8)
    h, w = size - images.shape[-2], size - images.shape[-1]
    return pad(images, (w // 2, w - w // 2, h // 2, h - h // 2))


def _folder(path: Path, size: int | None, held_out: float, seed: int) -> Images:
    """Pictures of a folder and those below it; transparent ones are laid on white."""
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in _PICTURES)
    if not files:
        raise ValueError(f"the folder {str(path)!r} holds no images ({', '.join(_PICTURES)}) and no IDX files.")
    pictures = [_picture(file, size) for file in files]
    sizes = {tuple(picture.shape) for picture in pictures}
    if len(sizes) > 1:
        raise ValueError(f"the images of {str(path)!r} differ in size, among them {sorted(sizes)[:2]}; give a size.")
    images = torch.stack(pictures)
    if bool((images == images[:, :1]).all()):
        images = images[:, :1]  # grey
    groups = [str(file.with_name(_SKIN_TONE.sub("", file.stem))) for file in files]
    return _split(images, None, groups, None, held_out, seed, path.name)


def _picture(file: Path, size: int | None) -> Tensor:
    try:
        from PIL import Image, UnidentifiedImageError  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("pictures are read by Pillow: pip install 'mlsde[diffusion]'") from error
    try:
        with Image.open(file) as opened:
            picture = opened.convert("RGBA")
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"{str(file)!r} is damaged or no image ({error}); remove it.") from error
    ground = Image.new("RGBA", picture.size, "white")
    pixels = np.array(Image.alpha_composite(ground, picture).convert("RGB"))
    image = torch.as_tensor(pixels).permute(2, 0, 1)
    return image if size is None else resized(image[None], size)[0]


def _idx_folder(path: Path, size: int | None) -> Images:
    parts, labels = {}, {}
    for part, prefix in _PARTS.items():
        file = _idx_file(path, part, "images")
        if file is None:
            raise ValueError(f"the folder {str(path)!r} lacks the {part} images ({prefix}-images-idx3-ubyte).")
        parts[part] = resized(_shaped(read_idx(file), file), size)
        named = _idx_file(path, part, "labels")
        if named is not None:
            labels[part] = torch.as_tensor(read_idx(named).astype(np.int64))
    both = (labels["train"], labels["held out"]) if len(labels) == len(_PARTS) else None
    return Images(parts["train"], parts["held out"], both, path.name)


def _idx_file(path: Path, part: str, what: str) -> Path | None:
    found = sorted(path.glob(f"{_PARTS[part]}-{what}-idx*-ubyte*"))
    return found[0] if found else None


def read_idx(file: Path) -> np.ndarray:
    """Array of bytes in an IDX file, plain or gzipped (the format of the MNIST files).

    Raises:
        ValueError: if the file is damaged or holds no bytes.
    """
    try:
        raw = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        zero, kind, dimensions = struct.unpack(">HBB", raw[:4])
        shape = struct.unpack(f">{dimensions}I", raw[4 : 4 + 4 * dimensions])
        values = np.frombuffer(raw, np.uint8, offset=4 + 4 * dimensions)
        if zero != 0 or kind != 8 or values.size != np.prod(shape):
            raise ValueError(f"its head tells of {shape}, and it holds {values.size} bytes")
    except (OSError, EOFError, struct.error, ValueError) as error:
        raise ValueError(f"{str(file)!r} is no sound IDX file of bytes: {error}.") from error
    return values.reshape(shape)


def _array(path: Path) -> np.ndarray:
    if path.suffix == ".npy":
        try:
            return np.load(path, allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise ValueError(f"{str(path)!r} is no sound array file: {error}.") from error
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError  # noqa: PLC0415
        from safetensors.torch import load_file  # noqa: PLC0415

        try:
            found = load_file(path)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{str(path)!r} is no sound safetensors file: {error}.") from error
        if len(found) != 1:
            raise ValueError(f"{str(path)!r} must hold one tensor of images, and holds {sorted(found)}.")
        return next(iter(found.values())).numpy()
    if "idx" in path.name:
        return read_idx(path)
    raise ValueError(f"{str(path)!r} is none of a folder, an IDX file, .npy or .safetensors (pickles are not read).")


def _shaped(array: np.ndarray, path: Path) -> Tensor:
    """Bytes of shape ``(n, c, h, w)``."""
    if array.dtype != np.uint8:
        if not np.issubdtype(array.dtype, np.floating) or not array.size or not np.abs(array).max() <= 1.0:
            raise ValueError(f"{str(path)!r} must hold bytes, or floats in [-1, 1], got {array.dtype}.")
        array = as_bytes(torch.as_tensor(array)).numpy()
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and array.shape[-1] in (1, 3) and array.shape[1] not in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    if array.ndim != 4 or array.shape[1] not in (1, 3) or not array.size:
        raise ValueError(f"{str(path)!r} has shape {array.shape}, expected (n, h, w), (n, h, w, c) or (n, c, h, w).")
    return torch.from_numpy(np.array(array))
