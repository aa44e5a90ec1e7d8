"""Command line: thin, every command is a call that a notebook can make."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

import mlsde
from mlsde import extras
from mlsde.cli import bench as bench
from mlsde.cli import demo as demo
from mlsde.cli import sample as sample
from mlsde.cli import study as study
from mlsde.cli import train as train
from mlsde.log import log

COMMANDS = {"demo": demo, "study": study, "bench": bench, "train": train, "sample": sample}


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``mlsde COMMAND …``; what it parses has the command's function as ``run``."""
    parser = argparse.ArgumentParser(prog="mlsde", description=(mlsde.__doc__ or "").splitlines()[0])
    parser.add_argument("--version", action="version", version=f"mlsde {mlsde.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        summary = (module.__doc__ or "").splitlines()[0]
        command = commands.add_parser(name, help=summary, description=summary)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


_INTERRUPTED = 130
"""As a shell has it for Ctrl-C."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``mlsde COMMAND …`` and return the exit status.

    2 too if an extra is not installed, or a file fails; 130 if the user interrupted it.
    """
    words = parser()
    parsed = words.parse_args(arguments)
    for name, value in vars(parsed).items():
        if isinstance(value, list) and name not in ("names", "results"):  # argparse makes lists of what follows "--"
            words.error(f"argument {name}: expected one word, got {value!r}.")
    shown = logging.StreamHandler()  # warnings alone, on standard error
    shown.setLevel(logging.WARNING)
    shown.setFormatter(logging.Formatter(f"mlsde {parsed.command}: %(message)s"))
    log.addHandler(shown)
    try:
        status = int(parsed.run(parsed))
        sys.stdout.flush()  # here, where a closed pipe is expected
        return status
    except BrokenPipeError:  # who reads has seen enough, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt as error:
        notes = getattr(error, "__notes__", [])
        print(" ".join([f"mlsde {parsed.command}: interrupted.", *notes]), file=sys.stderr)
        return _INTERRUPTED
    except OSError as error:  # a full disk, a file that went away
        print(f"mlsde {parsed.command}: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        told = extras.sentence(f"mlsde {parsed.command}", error)
        if told is None:
            raise
        print(f"mlsde {parsed.command}: {told}", file=sys.stderr)
        return 2
    finally:
        log.removeHandler(shown)
