"""A small classifier, trained here, whose features give a distance between sets of images.

Nobody ships the Inception weights behind the literature's "FID", and they know nothing of small grey images; a
classifier of the data at hand does. Its distance is its own and compares with no published one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from mlsde import checks, randomness
from mlsde.diffusion.checkpoints import write_tensors
from mlsde.diffusion.data import Images, as_floats


class Classifier(nn.Module):
    """Four convolutions of stride 2 or 1 and one linear layer; its features are the mean over the last grid.

    Args:
        channels: of the images.
        classes: number of classes.
        width: channels of the first convolution, a multiple of 8; the features are four times as many.

    Raises:
        ValueError: if it is none.
    """

    def __init__(self, channels: int = 1, classes: int = 10, width: int = 32) -> None:
        super().__init__()
        if checks.positive_integer("width", width) % 8:
            raise ValueError(f"width must be a multiple of 8, got {width}.")
        self.channels, self.classes, self.width = channels, classes, width

        def layer(a: int, b: int, stride: int) -> list[nn.Module]:
            return [nn.Conv2d(a, b, 3, stride, 1), nn.GroupNorm(8, b), nn.SiLU()]

        self.body = nn.Sequential(
            *layer(channels, width, 1), *layer(width, width, 2), *layer(width, 2 * width, 2),
            *layer(2 * width, 4 * width, 2),
        )  # fmt: skip
        self.head = nn.Linear(4 * width, classes)

    def features(self, images: Tensor) -> Tensor:
        """Features of images in [-1, 1], shape ``(n, 4 width)``."""
        return self.body(images).mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Logits, shape ``(n, classes)``."""
        return self.head(self.features(images))

    @torch.no_grad()
    def features_of(self, images: Tensor, block: int = 500) -> Tensor:
        """Features of many images, a block at a time, shape ``(n, 4 width)``."""
        return torch.cat([self.features(part) for part in torch.split(images, block)])


def train_classifier(
    images: Images, *, epochs: int = 2, batch: int = 128, width: int = 32, seed: int = 0
) -> Classifier:
    """Train one on labelled images, on the CPU.

    Args:
        images: with labels.
        epochs: passes over them.
        batch: images per step.
        width: of the net.
        seed: of weights and order.

    Raises:
        ValueError: if the images have no labels, or are fewer than a batch.
    """
    if images.labels is None:
        raise ValueError(f"{images.name} has no labels to train a classifier on.")
    labels = images.labels[0]
    if checks.positive_integer("batch", batch) > len(labels):
        raise ValueError(f"batch={batch} is more than the {len(labels)} images to train on.")
    steps = checks.positive_integer("epochs", epochs) * (len(labels) // batch)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(checks.torch_seed(seed))
        net = Classifier(images.channels, int(labels.max()) + 1, width)
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for step in range(steps):
        epoch, place = divmod(step, len(labels) // batch)
        order = randomness.host_generator(seed, randomness.TRAINING, 3, epoch).permutation(len(labels))
        chosen = torch.as_tensor(order[place * batch : (place + 1) * batch].astype(np.int64))
        loss = nn.functional.cross_entropy(net(as_floats(images.train[chosen])), labels[chosen])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    return net.eval().requires_grad_(False)


@torch.no_grad()
def accuracy(net: Classifier, images: Images) -> float:
    """Part of the held-out images that it names rightly.

    Raises:
        ValueError: if the images have no labels.
    """
    if images.labels is None:
        raise ValueError(f"{images.name} has no labels to compare with.")
    said = torch.cat([net(as_floats(part)).argmax(1) for part in torch.split(images.held_out, 500)])
    return float((said == images.labels[1]).float().mean())


def save_classifier(net: Classifier, file: str | Path) -> None:
    """Write its weights, in half precision, and its size."""
    size = {"channels": str(net.channels), "classes": str(net.classes), "width": str(net.width)}
    write_tensors({name: value.half() for name, value in net.state_dict().items()}, Path(file), size)


def load_classifier(file: str | Path) -> Classifier:
    """Read what :func:`save_classifier` wrote.

    Raises:
        FileNotFoundError, ValueError: naming the file.
    """
    if not Path(file).exists():
        raise FileNotFoundError(f"there is no classifier in {str(file)!r}; train one, or leave its distance out.")
    try:
        with safe_open(file, "pt") as opened:
            size = opened.metadata() or {}
            weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118, not a dictionary
        net = Classifier(*(int(size[name]) for name in ("channels", "classes", "width")))
        net.load_state_dict(weights)
    except (SafetensorError, KeyError, ValueError, RuntimeError, OSError) as error:
        why = str(error).splitlines()[0].rstrip(".:")
        raise ValueError(f"{str(file)!r} holds no sound classifier ({why}).") from error
    return net.eval().requires_grad_(False)
