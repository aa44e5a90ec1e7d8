"""Train a ladder of denoisers on a folder of images, an array file, or the digits; goes on where it was stopped."""

from __future__ import annotations

import argparse
import datetime
import math
import sys
from pathlib import Path

from mlsde import checks
from mlsde.cli.output import destinations, environment, threads, write_json

_RATES = "2e-3,1e-3,6e-4,4e-4"
"""Peak learning rates of the levels of any ladder by name, as far as it reaches."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("images", help="'digits', a folder of pictures or IDX files, an IDX, .npy or .safetensors file")
    parser.add_argument("folder", help="where the checkpoint and, in the end, the ladder go")
    parser.add_argument("--ladder", default="fashion", help="sizes of the levels: digits, fashion or colour")
    parser.add_argument("--size", type=int, help="height and width to bring the images to (default: the ladder's)")
    parser.add_argument("--steps", type=int, default=6000, help="optimiser steps (default 6000)")
    parser.add_argument("--batch", type=int, default=64, help="images per step (default 64)")
    parser.add_argument("--rates", help=f"peak learning rates, one or one for each level (default {_RATES})")
    parser.add_argument("--warmup", type=int, default=250, help="steps over which the rates rise (default 250)")
    parser.add_argument("--predicts", default="v", help="noise, clean or v (default v)")
    parser.add_argument("--weighting", default="uniform", help="of the times: uniform or min-snr (default uniform)")
    distil = "part of the loss that asks a level to agree with its larger neighbour (default 0.5; residual: 0)"
    parser.add_argument("--distil", type=float, help=distil)
    parser.add_argument("--residual", action="store_true", help="each level predicts what to add to the one below")
    parser.add_argument("--teacher", metavar="FOLDER", help="a ladder whose top level teaches, and is not trained")
    parser.add_argument("--every", type=int, default=250, help="steps between looks at the held-out loss (default 250)")
    parser.add_argument("--average", type=float, default=0.999, help="decay of the weights' average (default 0.999)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--precision", default="float32", help="float32; bfloat16 or float16 on CUDA")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so many, to go on another time")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything (default 0)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default 1)")
    parser.add_argument("--picture", metavar="FILE", help="where loss curves go (default: losses.png in the folder)")
    parser.add_argument("--json", metavar="FILE", help="write the losses to FILE")


def run(arguments: argparse.Namespace) -> int:
    """Run the command: 0 if the ladder is trained, 3 if there is more to do, 2 for bad input, 1 if a level diverged."""
    try:
        return _run(arguments)
    except (ValueError, OSError) as error:
        print(f"mlsde train: {error}", file=sys.stderr)
        return 2
    except FloatingPointError as error:
        print(f"mlsde train: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("mlsde train: interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130


def _run(arguments: argparse.Namespace) -> int:
    from mlsde.diffusion import nets  # noqa: PLC0415
    from mlsde.diffusion.train import train_ladder  # noqa: PLC0415

    threads("threads", arguments.threads)
    destinations(folders={"folder": arguments.folder}, json=arguments.json)
    levels = len(nets.LADDERS[checks.one_of("ladder", arguments.ladder, tuple(nets.LADDERS))][2])
    distil = arguments.distil if arguments.distil is not None else 0.0 if arguments.residual else 0.5
    done = train_ladder(
        arguments.images, arguments.folder, ladder=arguments.ladder, size=arguments.size, teacher=arguments.teacher,
        device=arguments.device, most_seconds=60.0 * arguments.minutes, progress=sys.stderr.isatty(),
        picture=arguments.picture, report=lambda line: print(line, flush=True),
        about={"date": datetime.date.today().isoformat(), "environment": environment()},
        steps=arguments.steps, batch=arguments.batch, learning_rates=_rates(arguments.rates, levels),
        warmup=arguments.warmup, predicts=arguments.predicts, weighting=arguments.weighting, distil=distil,
        residual=arguments.residual, average=arguments.average, precision=arguments.precision,
        evaluate_every=arguments.every, seed=arguments.seed,
    )  # fmt: skip
    write_json(arguments.json, {"environment": environment(), "step": done.step, "history": done.history})
    if done.ladder is None:
        print(f"stopped at step {done.step} of {arguments.steps}; the same command goes on from there")
        return 3
    print(done.ladder)
    print(f"ladder: {Path(arguments.folder)}" + (f"; losses: {done.picture}" if done.picture else ""))
    return 0


def _rates(given: str | None, levels: int) -> float | tuple[float, ...]:
    """Learning rates as they were given, or the usual ones of so many levels."""
    try:
        rates = tuple(float(rate) for rate in (_RATES if given is None else given).split(","))
    except ValueError:
        raise ValueError(f"rates={given!r} must be numbers with commas between them, such as {_RATES}.") from None
    if given is None:
        return rates[:levels]
    return rates[0] if len(rates) == 1 else rates
