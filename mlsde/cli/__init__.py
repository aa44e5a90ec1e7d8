"""Command line: thin, every command is a call that a notebook can make."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import mlsde
from mlsde.cli import bench as bench
from mlsde.cli import demo as demo
from mlsde.cli import sample as sample
from mlsde.cli import study as study
from mlsde.cli import train as train

_COMMANDS = {"demo": demo, "study": study, "bench": bench, "train": train, "sample": sample}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``mlsde COMMAND …`` and return the exit status."""
    parser = argparse.ArgumentParser(prog="mlsde", description=(mlsde.__doc__ or "").splitlines()[0])
    parser.add_argument("--version", action="version", version=f"mlsde {mlsde.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in _COMMANDS.items():
        summary = (module.__doc__ or "").splitlines()[0]
        command = commands.add_parser(name, help=summary, description=summary)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    parsed = parser.parse_args(arguments)
    for name, value in vars(parsed).items():
        if isinstance(value, list) and name not in ("names", "results"):  # argparse makes lists of what follows "--"
            parser.error(f"argument {name}: expected one word, got {value!r}.")
    try:
        return int(parsed.run(parsed))
    except OSError as error:  # a full disk, a file that went away
        print(f"mlsde {parsed.command}: {error}", file=sys.stderr)
        return 2
