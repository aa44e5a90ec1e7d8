"""Draw images from a trained ladder: the full run, multilevel at several prices, and rivals at the same."""

from __future__ import annotations

import argparse
import sys

from mlsde import checks, extras
from mlsde.cli.output import destinations, environment, numbers, own_device, tells, threads, write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("ladder", nargs="?", default="digits", help="digits, fashion, or a folder (default digits)")
    parser.add_argument("--equation", default="ode", help="ode or sde (default ode)")
    parser.add_argument("--samples", type=int, default=8, help="images of each way (default 8)")
    parser.add_argument("--budgets", default="10,20", help="costs in evaluations of the top level (default 10,20)")
    parser.add_argument("--steps", type=int, default=100, help="steps of the full run (default 100)")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything (default 0)")
    parser.add_argument("--chunk", type=int, default=32, help="images drawn together (default 32)")
    parser.add_argument("--folder", metavar="DIR", help="keep finished chunks there, to go on after a kill")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default 1)")
    parser.add_argument("--picture", metavar="FILE", default="out/sample.png", help="where the picture goes")
    parser.add_argument("--json", metavar="FILE", help="write the numbers to FILE")


def run(arguments: argparse.Namespace) -> int:
    """Run the command: 2 for bad input, and for a folder that cannot be written."""
    try:
        extras.require("the picture", "matplotlib")
        from mlsde.diffusion import pictures  # noqa: PLC0415
        from mlsde.diffusion.ladders import load_ladder  # noqa: PLC0415

        threads("--threads", arguments.threads)
        destinations(
            pictures={"--picture": arguments.picture}, folders={"--folder": arguments.folder}, json=arguments.json
        )
        checks.torch_seed(arguments.seed)
        ladder = load_ladder(arguments.ladder, device=own_device(arguments.device))
        rows = pictures.draw(
            ladder, equation=arguments.equation, samples=arguments.samples, full_steps=arguments.steps,
            budgets=numbers("--budgets", arguments.budgets), seed=arguments.seed, chunk=arguments.chunk,
            folder=arguments.folder, report=lambda line: print(f"  {line}", file=sys.stderr),
        )  # fmt: skip
    except (ValueError, OSError) as error:
        print("; ".join([f"mlsde sample: {error}", *getattr(error, "__notes__", ())]), file=sys.stderr)
        return 2
    if not tells():
        return 0
    print(ladder)
    print(pictures.table(rows))
    print(f"picture: {pictures.picture(rows, arguments.picture)}")
    write_json(arguments.json, {"environment": environment(), "rows": [row.as_dict() for row in rows]})
    return 0
