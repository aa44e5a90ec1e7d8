"""From a source of images to a trained ladder on disk: what ``mlsde train`` calls, and a notebook can."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlsde import checks, drawing
from mlsde.diffusion import nets
from mlsde.diffusion.data import load_images
from mlsde.diffusion.ladders import About, TrainedLadder, load_ladder, save_ladder
from mlsde.diffusion.training import Settings, Times, Training
from mlsde.diffusion.variance_preserving import DiscreteVariancePreserving

TIMESTEPS = 1000


@dataclass(frozen=True)
class Trained:
    """What a call of :func:`train_ladder` came to.

    Attributes:
        ladder: ``None`` if there is more to do.
        step: optimiser steps that were made.
        history: losses on the way.
        picture: file of the loss curves.
    """

    ladder: TrainedLadder | None
    step: int
    history: list[dict[str, Any]]
    picture: str


def ddpm_times() -> Times:
    """The 1000 timesteps of the linear schedule of J. Ho et al., arXiv 2006.11239, as training has them."""
    process = DiscreteVariancePreserving.linear()
    timesteps = [float(t) for t in range(TIMESTEPS)]
    return Times.of(process, timesteps, timesteps)


def train_ladder(
    images: str | Path,
    folder: str | Path,
    *,
    ladder: str = "fashion",
    size: int | None = None,
    teacher: str | Path | None = None,
    device: str = "cpu",
    most_seconds: float = float("inf"),
    progress: bool = False,
    picture: str | Path | None = None,
    report: Callable[[str], None] | None = None,
    about: dict[str, Any] | None = None,
    **settings: Any,
) -> Trained:
    """Train a ladder and write it, or go on where an earlier call stopped.

    Args:
        images: as of :func:`load_images`.
        folder: of the checkpoint and the ladder.
        ladder: sizes of the levels, a name of :data:`mlsde.diffusion.nets.LADDERS`.
        size: height and width to bring the images to; the ladder's by default.
        teacher: folder of a ladder whose top level takes the place of this one's and is not trained.
        device: where to train.
        most_seconds: stop then, with a checkpoint.
        progress: show a bar.
        picture: file of the loss curves; ``losses.png`` in the folder by default.
        report: called with a line at every look at the held-out loss.
        about: machine and date, to be kept with the ladder.
        **settings: of :class:`Settings`.

    Raises:
        ValueError, FileNotFoundError: naming the argument.
    """
    usual, _, architectures = nets.LADDERS[checks.one_of("ladder", ladder, tuple(nets.LADDERS))]
    found = load_images(images, size=size or usual)
    wished = Settings(**settings)
    models: list[Any] = list(nets.unet_ladder(found.size, found.channels, architectures, seed=wished.seed))
    frozen: tuple[int, ...] = ()
    if teacher is not None:
        models[-1], frozen = copy.deepcopy(load_ladder(teacher).models[-1]), (len(models),)
    training = Training(models, found, ddpm_times(), wished, frozen=frozen, folder=folder, device=device)
    done = training.run(progress=progress, most_seconds=most_seconds, report=report)
    drawn = loss_curves(training.history, picture or Path(folder) / "losses.png") if training.history else ""
    if not done:
        return Trained(None, training.step, training.history, drawn)
    kept = About(
        data=found.name, predicts=wished.predicts, timesteps=TIMESTEPS, residual=wished.residual,
        names=tuple(f"{nets.megaflops(model):.3g} MFLOP" for model in training.averages),
        megaflops=tuple(nets.megaflops(model) for model in training.averages),
        held_out=tuple(training.held_out_error(len(found.held_out))),
        training={"settings": training.about["settings"], "trained": repr(found), **(about or {})},
    )  # fmt: skip
    result = TrainedLadder(tuple(training.averages), kept)
    save_ladder(result, folder)
    return Trained(result, training.step, training.history, drawn)


def loss_curves(history: list[dict[str, Any]], file: str | Path) -> str:
    """Draw the held-out error of every level over the steps; returns the file's name."""
    figure = drawing.canvas(6.4, 4.0)
    axes = figure.subplots()
    steps = [look["step"] for look in history]
    for k in range(len(history[0]["held_out"])):
        axes.plot(
            steps,
            [look["held_out"][k] for look in history],
            color=drawing.COLOURS[k],
            marker=".",
            label=f"level {k + 1}",
        )
    axes.set(xlabel="optimiser step", ylabel="held-out mean square error", yscale="log")
    axes.legend(frameon=False)
    return drawing.save(figure, file)
