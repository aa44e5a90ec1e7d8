"""Benchmarks: the price of a step against a bare loop and torchsde; a trained diffusion ladder against its rivals."""

from __future__ import annotations

import argparse
import datetime
import sys
from pathlib import Path
from typing import Any

from mlsde import bench, checks
from mlsde.cli import bench_diffusion, bench_distances
from mlsde.cli.output import destinations, environment, numbers_of, read_json, read_text, renewed, write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "suite", choices=["core", "efficiency", "diffusion", "distances"], help="which benchmark to run"
    )
    parser.add_argument("--repeats", type=_count, default=9, metavar="N", help="runs of each contender (default: 9)")
    parser.add_argument("--json", metavar="FILE", help="write the numbers to FILE")
    parser.add_argument("--markdown", metavar="FILE", help="renew the numbers in the page FILE, between its markers")
    parser.add_argument("--picture", metavar="FILE", help="draw the suite efficiency into FILE")
    parser.add_argument("--read", metavar="FILE", help="take the numbers from what --json wrote, and measure nothing")
    bench_diffusion.add_arguments(parser)
    bench_distances.add_arguments(parser)


def _count(text: str) -> int:
    try:
        return checks.positive_integer("N", int(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def run(arguments: argparse.Namespace) -> int:
    """Run the command: 0 whether or not the figures are met, because a busy machine misses some; 2 for bad input."""
    if arguments.picture is not None and arguments.suite != "efficiency":
        print("mlsde bench: --picture is for the suite efficiency; diffusion has --pictures.", file=sys.stderr)
        return 2
    if arguments.suite == "diffusion":
        return bench_diffusion.run(arguments)
    if arguments.suite == "distances":
        return bench_distances.run(arguments)
    try:
        _run(arguments)
    except ValueError as error:
        print(f"mlsde bench: {error}", file=sys.stderr)
        return 2
    return 0


def _run(arguments: argparse.Namespace) -> None:
    destinations(pictures={"--picture": arguments.picture}, json=arguments.json)
    marker = "numbers" if arguments.suite == "core" else arguments.suite
    page = None if arguments.markdown is None else read_text("--markdown", arguments.markdown)
    if page is not None:
        renewed(page, "", marker, f"--markdown={arguments.markdown!r}")  # says that it has no markers
    if arguments.read is not None:
        numbers = read_json("--read", arguments.read)
    else:
        numbers = {
            "command": f"mlsde bench {arguments.suite} --repeats {arguments.repeats}",
            "date": datetime.date.today().isoformat(),
            "environment": environment(),
            **_measured(arguments.suite, arguments.repeats).as_dict(),
        }
    with numbers_of(arguments.suite, "--read", arguments.read):
        result = _result(arguments.suite, numbers)
        shown = repr(result)
        section = None if page is None else _section(numbers, arguments.suite)
    print(shown)
    write_json(arguments.json, numbers)
    if page is not None and section is not None:
        Path(arguments.markdown).write_text(renewed(page, section, marker))
    if arguments.picture is not None:
        assert isinstance(result, bench.EfficiencyBenchmark)
        print(result.figure(arguments.picture))


def _measured(suite: str, repeats: int) -> bench.CoreBenchmark | bench.EfficiencyBenchmark:
    if suite == "core":
        return bench.core(repeats, progress=True)
    return bench.efficiency(repeats, progress=True)


def _result(suite: str, numbers: dict[str, Any]) -> bench.CoreBenchmark | bench.EfficiencyBenchmark:
    if suite == "core":
        return bench.CoreBenchmark.from_dict(numbers)
    return bench.EfficiencyBenchmark.from_dict(numbers)


def _section(numbers: dict[str, Any], suite: str = "core") -> str:
    where = numbers["environment"]
    taken = (
        f"Measured on {numbers['date']} with `{numbers['command']}` on {where['machine']}, {where['cores']} cores: "
        f"mlsde {where['mlsde']}, torch {where['torch']}, Python {where['python']}."
    )
    return f"\n{taken}\n\n{_result(suite, numbers).markdown()}\n\n"
