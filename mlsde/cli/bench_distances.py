"""``mlsde bench distances``: how far the images that each way draws are from the data."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from mlsde import checks
from mlsde.cli.output import (
    destinations,
    environment,
    numbers,
    numbers_of,
    own_device,
    read_json,
    read_text,
    renewed,
    tells,
    threads,
    write_json,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that only this suite has; it shares those of the diffusion suite."""
    group = parser.add_argument_group("distances")
    group.add_argument("--images", default="digits", help="the data: 'digits', a folder or a file (default digits)")
    group.add_argument("--count", type=int, default=5000, help="images of each way (default 5000)")
    group.add_argument("--full-steps", type=int, default=100, help="of the top level's full run (default 100)")
    group.add_argument("--classifier", metavar="FILE", help="its weights; trained and written there if not found")


def run(arguments: argparse.Namespace) -> int:
    """Run the suite: 2 for bad input."""
    from mlsde.cli.bench_diffusion import EQUATIONS  # noqa: PLC0415
    from mlsde.diffusion.arena import Way  # noqa: PLC0415
    from mlsde.diffusion.classifier import accuracy  # noqa: PLC0415
    from mlsde.diffusion.data import load_images  # noqa: PLC0415
    from mlsde.diffusion.distances import distances, table  # noqa: PLC0415
    from mlsde.diffusion.ladders import load_ladder  # noqa: PLC0415
    from mlsde.diffusion.pictures import coins  # noqa: PLC0415

    try:
        destinations(folders={"--folder": arguments.folder}, json=arguments.json)
        if arguments.results is not None:
            return _page(arguments)
        threads("--threads", arguments.threads)
        ladder = load_ladder(arguments.ladder, device=own_device(arguments.device))
        images = load_images(arguments.images, size=ladder.shape[-1])
        net = _classifier(arguments.classifier, images)
        whole, equation = tuple(range(1, len(ladder) + 1)), arguments.equation
        full = checks.positive_integer("--full-steps", arguments.full_steps)
        ways = [(f"top level, DPM-Solver++(2M), {full} steps", Way("dpm++2m", full, whole))]
        for budget in numbers("--budgets", arguments.budgets):
            n = int(budget)
            ways += [
                (f"spread coins at {n}", coins(ladder, equation, budget)),
                (f"top level, DPM-Solver++(2M), {n} steps", Way("dpm++2m", n, whole)),
                (f"top level, DDIM, {n} steps", Way("ddim", n, whole)),
                (f"the paper's rule at {n}", Way("ddim", 100, whole, budget, "independent", "impulse", "power")),
            ]
        rows = distances(
            ladder, images, net, ways, count=arguments.count, churn=EQUATIONS[equation],
            folder=arguments.folder, report=lambda line: print(f"  {line}", file=sys.stderr, flush=True),
        )  # fmt: skip
    except (ValueError, RuntimeError, OSError) as error:
        print(f"mlsde bench distances: {error}", file=sys.stderr)
        return 2
    if not tells():
        return 0
    named = accuracy(net, images)
    print(f"{ladder.about.data}, {equation}; the classifier names {named:.1%} of the held-out images\n{table(rows)}")
    result = {"ladder": arguments.ladder, "equation": equation, "accuracy": named, "environment": environment()}
    write_json(arguments.json, result | {"rows": [row.as_dict() for row in rows]})
    return 0


def _page(arguments: argparse.Namespace) -> int:
    """Renew a page from several results."""
    from mlsde.diffusion.distances import markdown  # noqa: PLC0415

    results = [read_json("--results", file) for file in arguments.results]
    with numbers_of("distances", "--results", arguments.results):
        section = "\n" + "\n".join(map(markdown, results)) + "\n"
    if arguments.markdown is not None:
        page = renewed(read_text("--markdown", arguments.markdown), section, "distances", "--markdown")
        Path(arguments.markdown).write_text(page)
    return 0


def _classifier(file: str | None, images: Any) -> Any:
    from mlsde.diffusion.classifier import load_classifier, save_classifier, train_classifier  # noqa: PLC0415

    if file is not None and Path(file).exists():
        return load_classifier(file)
    net = train_classifier(images)
    if file is None:
        return net
    save_classifier(net, file)
    return load_classifier(file)  # rounded, as the next run will have it
