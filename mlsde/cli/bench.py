"""Benchmarks: the price of a step against a bare loop, torchsde and diffrax; trained ladders against their rivals."""

from __future__ import annotations

import argparse
import datetime
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from mlsde import bench, checks, extras
from mlsde.cli import bench_diffusion, bench_distances
from mlsde.cli.output import destinations, environment, numbers_of, read_json, read_text, renewed, write_json

Result = bench.CoreBenchmark | bench.EfficiencyBenchmark | bench.ScalingBenchmark | bench.CoinBenchmark

_RESULTS: dict[str, type[Result]] = {
    "core": bench.CoreBenchmark,
    "efficiency": bench.EfficiencyBenchmark,
    "scaling": bench.ScalingBenchmark,
    "coins": bench.CoinBenchmark,
}
_REPEATS = {"core": 9, "efficiency": 5, "scaling": 5, "coins": 3}
_PEERS = {"core": ("torchsde", "diffrax", "jax"), "scaling": ("torchsde", "diffrax", "jax")}
"""Other libraries that take part in a suite."""

_MARKERS = {"core": "numbers"}
"""What the markers in the page are called, where not like the suite."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("suite", choices=[*_RESULTS, "diffusion", "distances"], help="which benchmark to run")
    parser.add_argument(
        "--repeats",
        type=_count,
        metavar="N",
        help=f"runs of each contender (default: {', '.join(f'{n} for {suite}' for suite, n in _REPEATS.items())})",
    )
    parser.add_argument("--json", metavar="FILE", help="write the numbers to FILE")
    parser.add_argument("--markdown", metavar="FILE", help="renew the numbers in the page FILE, between its markers")
    parser.add_argument(
        "--picture", metavar="FILE", help="draw core, efficiency, scaling or coins into FILE; needs matplotlib"
    )
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
    suite = arguments.suite
    if suite not in _RESULTS and arguments.picture is None:
        return (bench_diffusion if suite == "diffusion" else bench_distances).run(arguments)
    if arguments.picture is not None:
        extras.require("the picture", "matplotlib")
    try:
        _run(arguments)
    except ValueError as error:
        print(f"mlsde bench: {error}", file=sys.stderr)
        return 2
    return 0


def _run(arguments: argparse.Namespace) -> None:
    suite = arguments.suite
    _refuse(arguments)
    destinations(pictures={"--picture": arguments.picture}, json=arguments.json)
    marker = _MARKERS.get(suite, suite)
    page = None if arguments.markdown is None else read_text("--markdown", arguments.markdown)
    if page is not None:
        renewed(page, "", marker, f"--markdown={arguments.markdown!r}")  # says that it has no markers
    numbers = _measured(arguments) if arguments.read is None else read_json("--read", arguments.read)
    with numbers_of(suite, "--read", arguments.read):
        result = _RESULTS[suite].from_dict(numbers)
        shown, section = repr(result), _section(numbers, suite)
    print(shown)
    write_json(arguments.json, numbers)
    if page is not None:
        Path(arguments.markdown).write_text(renewed(page, section, marker))
    if arguments.picture is not None:
        print(result.figure(arguments.picture))


def _measured(arguments: argparse.Namespace) -> dict[str, Any]:
    suite, repeats = arguments.suite, arguments.repeats or _REPEATS[arguments.suite]
    options = {} if arguments.device == "cpu" else {"device": arguments.device}
    result = getattr(bench, suite)(repeats, progress=True, **options)
    return {
        "command": " ".join(
            ["mlsde bench", suite, f"--repeats {repeats}", *(f"--{k} {v}" for k, v in options.items())]
        ),
        "date": datetime.date.today().isoformat(),
        "environment": environment() | {"libraries": _versions(_PEERS.get(suite, ()))},
        **result.as_dict(),
    }


def _refuse(arguments: argparse.Namespace) -> None:
    if arguments.suite not in _RESULTS:
        raise ValueError(f"--picture is for {', '.join(_RESULTS)}; diffusion has --pictures.")
    if arguments.suite == "core" and arguments.device != "cpu":
        raise ValueError("core measures on the CPU alone; --device is for the other suites.")
    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device {arguments.device}: torch sees no CUDA device here.")


def _versions(libraries: tuple[str, ...]) -> dict[str, str]:
    """Of those that are installed."""
    found = {}
    for name in libraries:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _section(numbers: dict[str, Any], suite: str = "core") -> str:
    where = numbers["environment"]
    versions = {"mlsde": where["mlsde"], "torch": where["torch"], **where["libraries"], "Python": where["python"]}
    taken = (
        f"Measured on {numbers['date']} with `{numbers['command']}` on {where['machine']}, {where['cores']} cores: "
        f"{', '.join(f'{name} {version}' for name, version in versions.items())}."
    )
    return f"\n{taken}\n\n{_RESULTS[suite].from_dict(numbers).markdown()}\n\n"
