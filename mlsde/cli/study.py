"""Measure convergence rates: the least cost that reaches each error, for named studies or your own problem."""

from __future__ import annotations

import argparse
import importlib
import json
import math
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import mlsde
from mlsde import checks, extras
from mlsde.chunks.ranks import started_by_torchrun
from mlsde.cli.output import destinations, environment, read_text, renewed, tells, threads, write_json
from mlsde.progress import as_in_a_log


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="named studies; see --list; 'all' runs every one")
    parser.add_argument("--list", action="store_true", help="list the named studies")
    parser.add_argument(
        "--problem", metavar="MODULE:NAME", help="a LadderProblem of yours, or a function that makes one"
    )
    parser.add_argument("--levels", action="store_true", help="with --problem: look at its levels, and stop there")
    parser.add_argument("--errors", metavar="E,E,…", help="with --problem: errors sought")
    parser.add_argument("--methods", metavar="M,M,…", help="with --problem: e.g. plain,independent-impulse,stitching")
    parser.add_argument("--seeds", type=int, help="with --problem: seeds (default 10)")
    parser.add_argument("--samples", type=int, help="with --problem: samples per seed (default 32)")
    parser.add_argument("--most-steps", type=int, help="with --problem: most steps (default 1024)")
    parser.add_argument("--gamma", type=float, help="with --problem: shapes the probabilities; measured by default")
    parser.add_argument("--cost", help="with --problem: declared (default) or seconds")
    parser.add_argument("--seed", type=int, default=0, help="first seed (default 0)")
    parser.add_argument("--quick", action="store_true", help="a rough version of named studies, in seconds")
    parser.add_argument("--folder", default="out/study", metavar="DIR", help="where results go (default: out/study)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="named studies to run at once (default 1)")
    parser.add_argument("--trials", metavar="DIR", help="where trials go (default: trials in --folder)")
    parser.add_argument("--json", metavar="FILE", help="write the numbers of one study to FILE")
    parser.add_argument("--picture", metavar="FILE", help="draw one study, or several side by side, into FILE")
    parser.add_argument("--page", metavar="FILE", help="renew the tables of the page FILE from the results in --folder")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default 1: never much worse)")


_OWN: dict[str, Any] = {
    "levels": False,
    "errors": None,
    "methods": None,
    "seeds": 10,
    "samples": 32,
    "most_steps": 1024,
    "gamma": None,
}
_OWN |= {"cost": "declared"}
"""Options that go with ``--problem``, and what they are if they are not given."""


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    if arguments.list:
        for name, study in named_studies().items():
            print(f"{name:20s} {_minutes(study):>7s}  {study.title}")
        return 0
    if arguments.picture is not None:
        extras.require("the picture", "matplotlib")
    try:
        threads("--threads", arguments.threads)
        destinations(
            pictures={"--picture": arguments.picture},
            folders={"--folder": arguments.folder, "--trials": arguments.trials},
            json=arguments.json,
        )
        if arguments.page is not None:
            return _renew(Path(arguments.page), Path(arguments.folder))
        with nullcontext() if sys.stderr.isatty() else as_in_a_log():
            return _own(arguments) if arguments.problem is not None else _named(arguments)
    except (ValueError, TypeError, mlsde.NonFiniteError) as error:
        if not _ours(error):
            raise
        print(f"mlsde study: {error}", file=sys.stderr)
        return 2


def named_studies() -> dict[str, Any]:
    """Every study that has a name, by that."""
    from mlsde.study.catalogue import STUDIES  # noqa: PLC0415
    from mlsde.study.choices import CHOICES  # noqa: PLC0415

    return {**STUDIES, **CHOICES}


def _ours(error: Exception) -> bool:
    """Whether it is a sentence of this package: what a user's own code raises comes through with its traceback."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return last is None or Path(last.tb_frame.f_code.co_filename).is_relative_to(Path(mlsde.__file__).parent)


def _named(arguments: argparse.Namespace) -> int:
    from mlsde.study.catalogue import How  # noqa: PLC0415

    studies = named_studies()
    given = [name for name in _OWN if getattr(arguments, name) not in (None, False)]
    if given:
        raise ValueError(
            f"--{given[0].replace('_', '-')} goes with --problem: named studies have settings of their own."
        )
    names = list(studies) if arguments.names == ["all"] else arguments.names
    unknown = [name for name in names if name not in studies]
    if not names or unknown:
        raise ValueError(f"NAME must be among {', '.join(studies)}, or all; got {unknown or 'none'}.")
    if len(names) > 1 and arguments.json is not None:
        raise ValueError("--json is for one study; several write theirs into --folder.")
    checks.one_seed(arguments.seed)
    if checks.positive_integer("--jobs", arguments.jobs) > 1 and len(names) > 1:
        if arguments.picture is not None:
            raise ValueError("--picture of several studies goes with --jobs 1: run it again, once they are done.")
        if started_by_torchrun():
            raise ValueError(
                "--jobs is for a single process: under torchrun the processes share the trials of each study."
            )
        return _at_once(names, arguments)
    root = Path(arguments.folder)
    panels = []
    for name in names:
        kind = name + ("-quick" if arguments.quick else "") + (f"-seed{arguments.seed}" if arguments.seed else "")
        trials = Path(arguments.trials or root / "trials") / kind
        how = How(arguments.quick, trials, True, arguments.seed)
        if not (studies[name].shared or tells()):
            continue
        if tells():
            print(f"{name}: {_begins(studies[name], how)}", file=sys.stderr, flush=True)
        begin = time.perf_counter()
        result = studies[name].run(how)
        if not tells():
            continue
        panels.append(result)
        json_file = arguments.json or root / f"{kind}.json"
        picture = arguments.picture if len(names) == 1 else None
        _show(result, str(json_file), str(picture or root / f"{kind}.png"))
        seconds = time.perf_counter() - begin
        print(f"{name} took {seconds:.0f} s\n")
        words = [name, *(["--quick"] if arguments.quick else []), *([f"--seed {how.seed}"] if how.seed else [])]
        _record(root / "environment" / f"{kind}.json", " ".join(words), seconds)
    if arguments.picture is not None and len(names) > 1 and tells():
        print(f"picture of all: {_panels(panels, arguments.picture)}")
    return 0


def _minutes(study: Any) -> str:
    """How long it takes if nothing is kept of it."""
    return f"{study.minutes:.0f} min" if study.minutes >= 1 else f"{60 * study.minutes:.0f} s"


def _begins(study: Any, how: Any) -> str:
    """What is about to be done, how long that may take, and whether something of it is there already."""
    kept = sum(file.is_file() for file in how.folder.rglob("*")) if how.folder.is_dir() else 0
    known = f"goes on with the {kept} files of {how.folder}" if kept else f"nothing is kept in {how.folder} yet"
    return f"{study.title}; {'seconds' if how.quick else 'about ' + _minutes(study)} from the beginning; {known}"


def _panels(results: list[Any], file: str) -> str:
    from mlsde.study import Convergence  # noqa: PLC0415
    from mlsde.study.figure import save_panels  # noqa: PLC0415

    frontiers = [result for result in results if isinstance(result, Convergence)]
    if not frontiers:
        raise ValueError("--picture of several studies needs one that fits exponents among them.")
    return save_panels(frontiers, file)


def _at_once(names: list[str], arguments: argparse.Namespace) -> int:
    """Run studies in processes of their own, so many at a time; those that are timed come last and alone."""
    options = ["--folder", arguments.folder, "--seed", str(arguments.seed), "--threads", str(arguments.threads)]
    options += ["--quick"] if arguments.quick else []
    options += [] if arguments.trials is None else ["--trials", arguments.trials]

    def one(name: str) -> int:
        words = [sys.executable, "-m", "mlsde", "study", name, *options]
        done = subprocess.run(words, check=False, stdout=subprocess.PIPE, text=True)
        print(done.stdout, flush=True)
        return done.returncode

    timed = [name for name in names if name == "wall-clock"]  # alone: nothing else may run beside it
    with ThreadPoolExecutor(arguments.jobs) as pool:
        codes = list(pool.map(one, [name for name in names if name not in timed]))
    return max([*codes, *map(one, timed)])


def _renew(page: Path, folder: Path) -> int:
    """Write the tables of a page anew, from what named studies left in a folder."""
    text = read_text("--page", page)
    made = choice_tables(folder) if "<!-- choice: begin -->" in text else tables(folder)
    for name, table in made.items():
        text = renewed(text, f"\n{table}\n\n", name, "--page")
    page.write_text(text)
    return 0


def _read(folder: Path, name: str) -> dict[str, Any]:
    file = folder / f"{name}.json"
    if not file.exists():
        raise ValueError(f"--folder has no {file.name}: run mlsde study {name} --folder {folder} first.")
    return dict(json.loads(file.read_text()))


def choice_tables(folder: Path) -> dict[str, str]:
    """The tables of the page on calibration, by the names of their markers.

    Raises:
        ValueError: as :func:`tables`.
    """
    from mlsde.study import choice_page, page  # noqa: PLC0415
    from mlsde.study.choices import CHOICES  # noqa: PLC0415

    whole = {name: _read(folder, name) for name in CHOICES}
    learned = {name: whole[name] for name in whole if name.startswith("learned")}
    return {
        "choice": choice_page.choices(whole["choice"]),
        "choice-small": choice_page.choice_goals(whole["choice-small"]),
        **{name: choice_page.tolerances(whole[name]) for name in ("tolerance", "tolerance-wells")},
        "gamma": choice_page.gammas(whole["gamma"]),
        "learned": choice_page.learned(learned),
        "adaptivity": choice_page.adaptivity(whole["adaptivity"]),
        "ran": page.ran({name: _read(folder, f"environment/{name}") for name in CHOICES}),
    }


def tables(folder: Path) -> dict[str, str]:
    """The tables of the evidence page, by the names of their markers.

    Raises:
        ValueError: if a study's result is not in the folder, with the command that makes it.
    """
    from mlsde.study import page  # noqa: PLC0415
    from mlsde.study.catalogue import STUDIES  # noqa: PLC0415

    whole = {name: _read(folder, name) for name in STUDIES}
    rates = [name for name in whole if re.fullmatch(r"(ode|additive|multiplicative|smooth)-[\d.]+", name)]
    seconds = ["wall-clock", "wall-clock-declared"]
    return {
        "rates": page.rates({name: whole[name] for name in rates}),
        "slopes": page.slopes({name: whole[name] for name in rates}),
        "seconds": page.rates({name: whole[name] for name in seconds}),
        **{name: page.costs(whole[name]) for name in whole if name in seconds or name.startswith("no-gain")},
        **{name: page.comparison(whole[name]) for name in whole if "equal-cost" in name or name == "learned-force"},
        "charges": page.levels(whole["charges"]),
        "ran": page.ran({name: _read(folder, f"environment/{name}") for name in STUDIES}),
    }


def _own(arguments: argparse.Namespace) -> int:
    from mlsde.study import convergence, diagnose  # noqa: PLC0415

    if arguments.names:
        raise ValueError(f"NAME and --problem exclude each other, got {arguments.names} and {arguments.problem}.")
    if arguments.quick or arguments.jobs != 1:
        raise ValueError("--quick and --jobs are for named studies; choose --errors, --seeds and --samples instead.")
    for option, usual in _OWN.items():
        if getattr(arguments, option) is None:
            setattr(arguments, option, usual)
    checks.one_of("cost", arguments.cost, ("declared", "seconds"))
    problem = load_problem(arguments.problem)
    root = Path(arguments.folder)
    stem = re.sub(r"[^A-Za-z0-9_.-]", "-", arguments.problem)
    json_file, picture = arguments.json or root / f"{stem}.json", arguments.picture or root / f"{stem}.png"
    if arguments.errors is None and not arguments.levels:
        raise ValueError("--problem needs --errors 0.5,0.25,… (errors of the end state), or --levels.")
    errors = [_number("--errors", word) for word in (arguments.errors or "").split(",") if word]
    methods = None if arguments.methods is None else [named_method(name) for name in arguments.methods.split(",")]
    diagnosis = diagnose(problem, seed=checks.one_seed(arguments.seed))
    if arguments.levels:
        _show(diagnosis, str(json_file), str(picture))
        return 0
    if tells():
        print(diagnosis, "\n")
    gamma = problem.gamma if arguments.gamma is None else arguments.gamma
    if gamma is None and not math.isfinite(diagnosis.gamma):
        raise ValueError(
            "gamma cannot be measured on this ladder, which takes three levels whose errors fall: give --gamma."
        )
    gamma = diagnosis.gamma if gamma is None else gamma
    result = convergence(
        problem,
        methods,
        errors,
        seeds=arguments.seeds,
        samples=arguments.samples,
        seed=arguments.seed,
        most_steps=arguments.most_steps,
        gamma=gamma,
        cost=arguments.cost,
        folder=Path(arguments.trials or root / "trials") / stem,
        progress=True,
    )
    _show(result, str(json_file), str(picture))
    return 0


def load_problem(where: str) -> Any:
    """Import ``module:name``, and call it if it is a function.

    Raises:
        ValueError: if there is no such thing, with what to give.
    """
    module, _, name = where.partition(":")
    if not module or not name:
        raise ValueError(f"--problem must be MODULE:NAME, e.g. my_module:my_problem, got {where!r}.")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # and it stays, because a problem may import its neighbours when it is run
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ValueError(f"--problem={where!r}: there is no module {module!r} here or installed.") from None
    if not hasattr(found, name):
        raise ValueError(f"--problem={where!r}: the module {module!r} has no {name!r}.")
    thing = getattr(found, name)
    return thing() if callable(thing) else thing


def named_method(name: str) -> Any:
    """A method by its name on the command line: ``plain``, ``plain-heun``, ``stitching``, ``COINS-CORRECTION``.

    Raises:
        ValueError: for another name.
    """
    from mlsde.study import multilevel, plain, stitching  # noqa: PLC0415

    name = name.strip()
    if name == "stitching":
        return stitching()
    first, _, second = name.partition("-")
    if not second and first != "plain":
        raise ValueError(f"--methods: {name!r} is not known; give plain, plain-heun, stitching or COINS-CORRECTION.")
    try:
        return plain(second or "euler") if first == "plain" else multilevel(first, second)
    except ValueError as error:
        raise ValueError(f"--methods={name!r}: {error}") from None


def _number(name: str, word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise ValueError(f"{name} must be numbers with commas between them, got {word!r}.") from None


def _show(result: Any, json_file: str, picture: str) -> None:
    if not tells():
        return
    print(result)
    write_json(json_file, result.as_dict())
    print(f"\nnumbers: {json_file}")
    try:
        print(f"picture: {result.figure(picture)}")
    except ModuleNotFoundError as error:  # the numbers are what took the time
        print(f"no picture: {error}")


def _record(file: Path, words: str, seconds: float) -> None:
    """Note where and when a study was run, beside its numbers, which are the same wherever that was."""
    # a file per study, because several may run at once
    write_json(str(file), {**environment(), "command": f"mlsde study {words}", "seconds": round(seconds)})
