"""Draw handwritten digits with a ladder of exact denoisers, against every rival at equal cost."""

from __future__ import annotations

import argparse
import sys
import time

from mlsde import extras
from mlsde.cli.output import destinations, environment, threads, write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--samples", type=int, default=192, help="digits to draw (default 192)")
    parser.add_argument("--steps", type=int, default=400, help="steps of the full run (default 400)")
    parser.add_argument("--seeds", type=int, default=5, help="seeds of the coins to average over (default 5)")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything (default 0)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default 1: never much worse)")
    parser.add_argument("--picture", metavar="FILE", default="out/demo.png", help="where the picture goes")
    parser.add_argument("--json", metavar="FILE", help="write the numbers to FILE")


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from mlsde.diffusion.demo import Setting, digits_demo  # noqa: PLC0415
    from mlsde.diffusion.demo_figure import save_demo_figure  # noqa: PLC0415

    extras.require("the demo", "sklearn", "matplotlib")
    begin = time.perf_counter()
    try:
        threads("--threads", arguments.threads)
        destinations(pictures={"--picture": arguments.picture}, json=arguments.json)
        setting = Setting(arguments.samples, arguments.steps, seeds=arguments.seeds, seed=arguments.seed)
    except ValueError as error:
        print(f"mlsde demo: {error}", file=sys.stderr)
        return 2
    demo = digits_demo(setting, report=lambda line: print(f"  {line}", file=sys.stderr))
    print(demo)
    print(f"\npicture: {save_demo_figure(demo, arguments.picture)}")
    seconds = time.perf_counter() - begin
    print(f"took {seconds:.0f} s")
    write_json(arguments.json, {"environment": environment(), "seconds": seconds, **demo.as_dict()})
    return 0
