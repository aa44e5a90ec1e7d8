"""Images to learn from: a folder of pictures, IDX files, an array file, or scikit-learn's digits.

Pixels are kept as bytes and handed out as floats in [-1, 1]. Variants of one emoji in several skin tones stay on one
side of the split, by their file names: they would otherwise leak from the training set into the held-out one.
"""

from __future__ import annotations

import gzip
import re
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from mlsde import checks, extras

_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_EMOJI = re.compile(r"(?:emoji_u)?([0-9a-f]{4,6}(?:[-_][0-9a-f]{4,6})*)", re.IGNORECASE)
_VARIANT = re.compile(r"-(1f3f[b-f]|fe0f)")
"""Skin tones, and the selector of the coloured form, which those with a skin tone lack."""

_COUPLES = {
    "1f9d1-200d-2764-200d-1f9d1": "1f491",
    "1f9d1-200d-2764-200d-1f48b-200d-1f9d1": "1f48f",
    "1f469-200d-1f91d-200d-1f468": "1f46b",
    "1f468-200d-1f91d-200d-1f468": "1f46c",
    "1f469-200d-1f91d-200d-1f469": "1f46d",
    "1faf1-200d-1faf2": "1f91d",
    "1f9d1-200d-1f430-200d-1f9d1": "1f46f",
    "1f468-200d-1f430-200d-1f468": "1f46f-200d-2642",
    "1f469-200d-1f430-200d-1f469": "1f46f-200d-2640",
    "1f9d1-200d-1faef-200d-1f9d1": "1f93c",
    "1f468-200d-1faef-200d-1f468": "1f93c-200d-2642",
    "1f469-200d-1faef-200d-1f469": "1f93c-200d-2640",
}
"""Sequences that stand for a pair of one emoji where its two people differ in tone (Unicode's Emoji 17)."""

_PARTS = {"train": "train", "held out": "t10k"}


@dataclass(frozen=True, eq=False)
class Images:
    """A set of images with its held-out part.

    Attributes:
        train: bytes, shape ``(n, channels, size, size)``.
        held_out: bytes, shape ``(m, channels, size, size)``, never trained on.
        labels: classes of both parts, shapes ``(n,)`` and ``(m,)``, or ``None``.
        name: what they are, for tables.

    Raises:
        ValueError: for other dtypes or shapes, or labels of another number, naming the attribute.
    """

    train: Tensor
    held_out: Tensor
    labels: tuple[Tensor, Tensor] | None = None
    name: str = "images"

    def __post_init__(self) -> None:
        for part, images in (("train", self.train), ("held_out", self.held_out)):
            shape = tuple(images.shape)
            if images.dtype != torch.uint8 or len(shape) != 4 or shape[2] != shape[3] or not images.numel():
                raise ValueError(
                    f"{part} must be bytes of shape (n, channels, size, size), got {images.dtype} {shape}."
                )
            if shape[1:] != self.train.shape[1:]:
                raise ValueError(
                    f"{part} must be of the shape of train, {tuple(self.train.shape[1:])}, got {shape[1:]}."
                )
        for images, labels in zip((self.train, self.held_out), self.labels or (), strict=False):
            if labels.shape != images.shape[:1]:
                raise ValueError(f"labels must be one for each of {len(images)} images, got {tuple(labels.shape)}.")

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
    return ((images.float().clamp(-1.0, 1.0) + 1.0) * 127.5).round().to(torch.uint8)


def load_images(source: str | Path, *, size: int | None = None, held_out: float = 0.1, seed: int = 0) -> Images:
    """Read images from wherever they are.

    Args:
        source: ``"digits"`` (scikit-learn's); a folder of pictures, or one that holds IDX files; an IDX file, plain or
            gzipped; a ``.npy`` or ``.safetensors`` file with one array of shape ``(n, h, w)``, ``(n, h, w, c)`` or
            ``(n, c, h, w)``, ``c`` 1 or 3, of bytes or of floats in [-1, 1].
        size: height and width to bring them to: smaller ones are padded evenly by black (transparent pictures by
            white, on which they are laid), larger ones are averaged down; by default as they are.
        held_out: part that is never trained on, unless the source itself has one.
        seed: of the split.

    Returns:
        The images, split.

    Raises:
        FileNotFoundError: if there is no such file or folder.
        ValueError: for a folder without images, a damaged file, or shapes that are not images, naming it.

    Example:
        >>> load_images("digits")
        Images(digits: 1617 to train on, 180 held out, 1 x 8 x 8)
    """
    if not 0 < checks.finite_number("held_out", held_out) < 1:
        raise ValueError(f"held_out must be a part between 0 and 1, got {held_out}.")
    if size is not None:
        checks.positive_integer("size", size)
    if not isinstance(source, (str, Path)):
        raise TypeError(f"source must be 'digits' or the name of a file or folder, got {type(source).__name__}.")
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
        raise extras.missing("'digits'", error) from error
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


def resized(images: Tensor, size: int | None, fill: int = 0) -> Tensor:
    """Square images of a wished size: padded evenly by ``fill``, or averaged down; bytes, ``(n, channels, h, w)``."""
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
    return pad(images, (w // 2, w - w // 2, h // 2, h - h // 2), value=fill)


def _folder(path: Path, size: int | None, held_out: float, seed: int) -> Images:
    """Pictures of a folder and those below it; transparent ones are laid on white."""
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in _PICTURES and file.is_file())
    if not files:
        raise ValueError(f"the folder {str(path)!r} holds no images ({', '.join(_PICTURES)}) and no IDX files.")
    pictures = [_picture(file, size) for file in files]
    sizes = {tuple(picture.shape) for picture in pictures}
    if len(sizes) > 1:
        raise ValueError(f"the images of {str(path)!r} differ in size, among them {sorted(sizes)[:2]}; give a size.")
    images = torch.stack(pictures)
    if bool((images == images[:, :1]).all()):
        images = images[:, :1]  # grey
    groups = [str(file.with_name(_subject(file.stem))) for file in files]
    return _split(images, None, groups, None, held_out, seed, path.name)


def _subject(name: str) -> str:
    """What a picture shows, by its name: an emoji in whatever skin tones, or the name itself."""
    points = _EMOJI.fullmatch(name)
    if points is None:
        return name
    subject = _VARIANT.sub("", points[1].lower().replace("_", "-"))
    return _COUPLES.get(subject, subject)


def _picture(file: Path, size: int | None) -> Tensor:
    """Bytes of a picture, shape ``(3, h, w)``; held upright, as its camera noted."""
    try:
        from PIL import Image, ImageOps  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise extras.missing("reading pictures", error) from error
    try:
        with Image.open(file) as opened:
            if opened.mode[0] in "IF":  # 16 or 32 bits, which Pillow would clip and not scale
                raise ValueError(f"its pixels are of mode {opened.mode}, and bytes are read")
            picture = ImageOps.exif_transpose(opened).convert("RGBA")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{str(file)!r} is damaged or no image of bytes ({error}); mend or remove it.") from error
    ground = Image.new("RGBA", picture.size, "white")
    image = torch.as_tensor(np.array(Image.alpha_composite(ground, picture).convert("RGB"))).permute(2, 0, 1)
    clear = picture.getchannel("A").histogram()[255] < picture.width * picture.height
    return image if size is None else resized(image[None], size, 255 if clear else 0)[0]


def _idx_folder(path: Path, size: int | None) -> Images:
    parts, labels = {}, {}
    for part, prefix in _PARTS.items():
        file, named = (_idx_file(path, part, what) for what in ("images", "labels"))
        if file is None:
            raise ValueError(f"the folder {str(path)!r} lacks the {part} images ({prefix}-images-idx3-ubyte).")
        parts[part] = resized(_shaped(read_idx(file), file), size)
        if named is not None:
            labels[part] = torch.as_tensor(read_idx(named).astype(np.int64))
            if labels[part].shape != parts[part].shape[:1]:
                came = tuple(labels[part].shape)
                raise ValueError(
                    f"{str(named)!r} must hold one label for each of {len(parts[part])} images, got {came}."
                )
    both = (labels["train"], labels["held out"]) if len(labels) == len(_PARTS) else None
    return Images(parts["train"], parts["held out"], both, path.name)


def _idx_file(path: Path, part: str, what: str) -> Path | None:
    found = sorted(path.glob(f"{_PARTS[part]}-{what}[-.]idx*-ubyte*"))
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
        if zero != 0 or kind != 8:
            raise ValueError(f"it begins with {raw[:4].hex(' ')}, expected 00 00 08 and the number of dimensions")
        if values.size != np.prod(shape, dtype=object):
            raise ValueError(f"its head tells of {shape}, and it holds {values.size} bytes")
    except (OSError, EOFError, struct.error, zlib.error, ValueError) as error:
        raise ValueError(f"{str(file)!r} is no sound IDX file of bytes: {error}.") from error
    return values.reshape(shape)


def _array(path: Path) -> np.ndarray:
    """The one array of a file, whatever its dtype and shape."""
    if path.suffix == ".npy":
        return _npy(path)
    if path.suffix == ".safetensors":
        return _safetensors(path)
    if "idx" in path.name:
        return read_idx(path)
    raise ValueError(f"{str(path)!r} is none of a folder, an IDX file, .npy or .safetensors (pickles are not read).")


def _npy(path: Path) -> np.ndarray:
    try:
        with path.open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        why = str(error).splitlines()[0].rstrip(".")
        raise ValueError(f"{str(path)!r} is no sound array file: {why}.") from error


def _safetensors(path: Path) -> np.ndarray:
    from safetensors import SafetensorError  # noqa: PLC0415
    from safetensors.torch import load_file  # noqa: PLC0415

    try:
        found = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{str(path)!r} is no sound safetensors file: {error}.") from error
    if len(found) != 1:
        raise ValueError(f"{str(path)!r} must hold one tensor of images, and holds {len(found)}: {sorted(found)[:3]}.")
    images = next(iter(found.values()))
    return (images.float() if images.is_floating_point() else images).numpy()


def _shaped(array: np.ndarray, path: Path) -> Tensor:
    """Bytes of shape ``(n, c, h, w)``."""
    if array.dtype != np.uint8:
        array = _bytes(array, path)
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and array.shape[-1] in (1, 3) and array.shape[1] not in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    if array.ndim != 4 or array.shape[1] not in (1, 3) or not array.size:
        expected = "(n, h, w), (n, h, w, c) or (n, c, h, w), c 1 or 3"
        raise ValueError(f"{str(path)!r} has shape {array.shape}, expected {expected}.")
    return torch.from_numpy(np.array(array))


def _bytes(array: np.ndarray, path: Path) -> np.ndarray:
    """Bytes of floats in [-1, 1]; those in [0, 1] are refused, for they would all be grey."""
    if not np.issubdtype(array.dtype, np.floating) or not array.size:
        raise ValueError(f"{str(path)!r} must hold bytes, or floats in [-1, 1], got {array.dtype} {array.shape}.")
    least, most = float(array.min()), float(array.max())
    if not -1.0 <= least < 0.0 or not most <= 1.0:
        raise ValueError(
            f"{str(path)!r} must hold bytes, or floats in [-1, 1], got floats in [{least:.3g}, {most:.3g}]."
        )
    return as_bytes(torch.from_numpy(array.astype(np.float32))).numpy()
