"""``mlsde bench diffusion``: every way to draw from a trained ladder, error against cost."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any

from mlsde import checks, extras
from mlsde.cli.output import (
    destinations,
    environment,
    numbers,
    numbers_of,
    read_json,
    read_text,
    renewed,
    threads,
    write_json,
)

EQUATIONS = {"ode": 0.0, "sde": 1.0}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of this suite."""
    group = parser.add_argument_group("diffusion")
    group.add_argument("--ladder", default="digits", help="digits, fashion, or a folder (default digits)")
    group.add_argument("--equation", choices=sorted(EQUATIONS), default="ode", help="which to solve (default ode)")
    group.add_argument("--unit", choices=["flops", "seconds"], default="flops", help="of the costs (default flops)")
    group.add_argument("--samples", type=int, default=32, help="trajectories (default 32)")
    group.add_argument("--budgets", default="5,10,20,40", help="of the coins, in evaluations of the top level")
    group.add_argument("--seeds", type=int, default=5, help="seeds of the coins (default 5)")
    group.add_argument(
        "--reference-steps", type=int, help="of the reference (default: 300 on the ODE, 1500 with noise)"
    )
    group.add_argument("--folder", metavar="FOLDER", help="keep the pieces there, to go on after a kill")
    group.add_argument("--device", default="cpu", help="cpu or cuda")
    group.add_argument("--threads", type=int, default=1, help="threads of torch (default 1)")
    group.add_argument(
        "--results", nargs="+", metavar="FILE", help="renew the page of --markdown from what --json wrote"
    )
    group.add_argument(
        "--compare", action="store_true", help="--results are of ladders trained in several ways: one table of them"
    )
    group.add_argument("--keep", metavar="LADDER", help="write the settings of --results into this ladder's folder")
    group.add_argument("--pictures", metavar="PREFIX", help="write PREFIX-errors.png and PREFIX-variances.png")


def run(arguments: argparse.Namespace) -> int:
    """Run the suite, or read what it wrote: 2 for bad input."""
    from mlsde.diffusion import benchmark_report  # noqa: PLC0415
    from mlsde.diffusion.benchmark import Benchmark, Size  # noqa: PLC0415
    from mlsde.diffusion.ladders import load_ladder  # noqa: PLC0415

    if arguments.pictures is not None:
        extras.require("the picture", "matplotlib")
    try:
        destinations(
            pictures={"--pictures": None if arguments.pictures is None else f"{arguments.pictures}-errors.png"},
            folders={"--folder": arguments.folder},
            json=arguments.json,
        )
        if arguments.results is not None:
            return _pages(arguments)
        if arguments.read is not None:
            result = read_json("--read", arguments.read)
        else:
            threads("--threads", arguments.threads)
            churn = EQUATIONS[arguments.equation]
            reference = arguments.reference_steps
            if reference is None:
                reference = 300 if churn == 0 else 1500
            checks.positive_integer("--reference-steps", reference)
            most = 320 if churn == 0 else max(5, reference // 8)  # with noise the reference is of low order itself
            size = Size(
                churn, arguments.unit, arguments.samples,
                numbers("--budgets", arguments.budgets), arguments.seeds,
                patterns=max(15, arguments.seeds), reference_steps=reference, most_steps=most,
            )  # fmt: skip
            ladder = load_ladder(arguments.ladder, device=arguments.device)
            bench = Benchmark(
                ladder, arguments.ladder, size, folder=arguments.folder,
                report=lambda line: print(f"  {line}", file=sys.stderr, flush=True),
            )  # fmt: skip
            result = bench.result()
            gamma, floor = benchmark_report.gamma(result["costs"], ladder.about.held_out)
            result |= {"gamma": None if math.isnan(gamma) else gamma, "floor": None if math.isnan(floor) else floor}
            result |= {
                "verdicts": benchmark_report.as_json(benchmark_report.verdicts(result)),
                "environment": _where(arguments.device),
            }
        with numbers_of("diffusion", "--read", arguments.read):
            table = benchmark_report.table(result)
    except (ValueError, FileNotFoundError) as error:
        print(f"mlsde bench diffusion: {error}", file=sys.stderr)
        return 2
    print(table)
    write_json(arguments.json, result)
    if arguments.pictures is not None:
        print(benchmark_report.picture([result], f"{arguments.pictures}-errors.png"))
        print(benchmark_report.variances_picture([result], f"{arguments.pictures}-variances.png"))
    return 0


def _pages(arguments: argparse.Namespace) -> int:
    """Renew a page and its pictures from several results."""
    from mlsde.diffusion import benchmark_report  # noqa: PLC0415
    from mlsde.diffusion.benchmark import keep  # noqa: PLC0415

    results = [read_json("--results", file) for file in arguments.results]
    with numbers_of("diffusion", "--results", arguments.results):
        if arguments.compare:
            section, marker = f"\n{benchmark_report.compared(results)}\n", "compared"
        else:
            section, marker = benchmark_report.markdown(results), "numbers"
    if arguments.keep is not None:
        keep(results, arguments.keep)
    if arguments.markdown is not None:
        page = renewed(read_text("--markdown", arguments.markdown), section, marker, "--markdown")
        Path(arguments.markdown).write_text(page)
    if arguments.pictures is not None:
        print(benchmark_report.picture(results, f"{arguments.pictures}-errors.png"))
        print(benchmark_report.variances_picture(results, f"{arguments.pictures}-variances.png"))
    return 0


def _where(device: str) -> dict[str, Any]:
    import torch  # noqa: PLC0415

    card = torch.cuda.get_device_name(device) if device.startswith("cuda") else None
    return environment() | {"device": card or device}
