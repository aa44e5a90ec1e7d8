"""From a source of images to a trained ladder on disk: what ``mlsde train`` calls, and a notebook can."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlsde import checks, drawing, extras
from mlsde.diffusion import nets
from mlsde.diffusion.data import Images, load_images
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
        history: losses on the way, as of :class:`mlsde.diffusion.training.Training`.
        picture: file of the loss curves; empty if there was no look at the held-out loss yet.
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
    images: str | Path | Images,
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
        images: as of :func:`load_images`, or what it returned.
        folder: of the checkpoint and the ladder.
        ladder: sizes of the levels, a name of :data:`mlsde.diffusion.nets.LADDERS`.
        size: height and width to bring the images to; the ladder's by default, or that of the images given.
        teacher: name or folder of a ladder whose top level takes the place of this one's and is not trained. It must
            predict the same, of images of the same shape, and take more arithmetic than the level below.
        device: where to train.
        most_seconds: stop then, with a checkpoint.
        progress: show a bar.
        picture: file of the loss curves; ``losses.png`` in the folder by default.
        report: called with a line at every look at the held-out loss.
        about: machine and date, to be kept with the ladder.
        settings: all others, of :class:`mlsde.diffusion.training.Settings`.

    Returns:
        The ladder, whether it is done, and where the picture is; see :class:`Trained`.

    Raises:
        ValueError, TypeError, FileNotFoundError: naming the argument, before the first step.
        FloatingPointError: if a level diverges.
    """
    usual, _, architectures = nets.LADDERS[checks.one_of("ladder", ladder, tuple(nets.LADDERS))]
    wished, drawn = Settings(**settings), _picture(picture, folder)
    found = images if isinstance(images, Images) else load_images(images, size=usual if size is None else size)
    if size not in (None, found.size):
        raise ValueError(f"size={size} was asked for, but the images given are of size {found.size}; leave it out.")
    models: list[Any] = list(nets.unet_ladder(found.size, found.channels, architectures, seed=wished.seed))
    frozen: tuple[int, ...] = ()
    if teacher is not None:
        models[-1], frozen = _teacher(teacher, models, wished), (len(models),)
    training = Training(models, found, ddpm_times(), wished, frozen=frozen, folder=folder, device=device)
    done = training.run(progress=progress, most_seconds=most_seconds, report=report)
    taught = {} if teacher is None else {"teacher": str(teacher)}
    result = _kept(training, found, taught | (about or {})) if done else None
    if result is not None:
        save_ladder(result, folder)
    shown = loss_curves(training.history, drawn) if training.history else ""
    return Trained(result, training.step, training.history, shown)


def _picture(picture: str | Path | None, folder: str | Path) -> Path:
    extras.require("the figure of the losses", "matplotlib")
    drawn = Path(folder) / "losses.png" if picture is None else Path(picture)
    if drawn.suffix.lower() not in drawing.ENDINGS:
        raise ValueError(f"picture={str(drawn)!r} must end in one of {', '.join(drawing.ENDINGS)}.")
    return drawn


def _teacher(name: str | Path, models: list[Any], settings: Settings) -> Any:
    """The top level of a ladder, if it can stand above ``models[:-1]``."""
    taught, own = load_ladder(name), TrainedLadder(tuple(models), About(""))
    about = taught.about
    if settings.residual or about.residual:
        raise ValueError(
            "teacher and residual were both asked for; the top level of a residual ladder is a correction."
        )
    alike = {
        "predicts": (about.predicts, settings.predicts),
        "images": (taught.shape, own.shape),
        "timesteps": (about.timesteps, TIMESTEPS),
        "betas": (about.betas, About("").betas),
    }
    for what, (theirs, ours) in alike.items():
        if theirs != ours:
            raise ValueError(
                f"teacher={str(name)!r} has {what} {theirs}, expected {ours} as the levels it is to teach."
            )
    teacher = taught.models[-1]
    prices = [nets.megaflops(model) for model in (*models[-2:-1], teacher)]
    if sorted(set(prices)) != prices:
        raise ValueError(
            f"teacher={str(name)!r} takes {prices[-1]:.3g} MFLOP, and level {len(models) - 1} {prices[0]:.3g}."
        )
    return teacher


def _kept(training: Training, images: Images, about: dict[str, Any]) -> TrainedLadder:
    """The averaged nets, and what there is to say of them."""
    megaflops = tuple(nets.megaflops(model) for model in training.averages)
    kept = About(
        data=images.name, predicts=training.settings.predicts, timesteps=TIMESTEPS, residual=training.settings.residual,
        names=tuple(f"{price:.3g} MFLOP" for price in megaflops), megaflops=megaflops,
        held_out=tuple(training.held_out_error(len(images.held_out))),
        training={"settings": training.about["settings"], "trained": repr(images), **about},
    )  # fmt: skip
    return TrainedLadder(tuple(training.averages), kept)


def loss_curves(history: list[dict[str, Any]], file: str | Path) -> str:
    """Draw the held-out error of every level over the steps; returns the file's name."""
    figure = drawing.canvas(6.4, 4.0)
    axes = figure.subplots()
    steps = [look["step"] for look in history]
    for k in range(len(history[0]["held_out"])):
        axes.plot(
            steps,
            [look["held_out"][k] for look in history],
            **drawing.level_style(k + 1),
            marker=".",
            label=f"level {k + 1}",
        )
    axes.set(xlabel="optimiser step", ylabel="held-out mean square error", yscale="log")
    axes.legend(frameon=False)
    return drawing.save(figure, file)
