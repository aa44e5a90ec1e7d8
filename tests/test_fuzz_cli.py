"""Any command line ends well or with status 2 and one sentence, and never with a traceback."""

import contextlib
import io
import json
import os
import sys
from types import SimpleNamespace

import pytest
import torch
from fuzzing import fuzz
from hypothesis import given
from hypothesis import strategies as st

from mlsde.cli import main

WORDS = ["", "-1", "0", "1", "2", "2.5", "x", "nan", "inf", "1e400", "1,2", "0.5,0.25", ",", "1,", "-", "--", "é", " "]
WORDS += ["9" * 30, "9" * 400, "nowhere/at/all.json", "page.md", "list.json", "numbers.json", "damaged.json", "folder"]
WORDS += ["file.txt/inside", "folder/..", "/proc/nothing", "a\0b", "picture.xyz", "p.png", "digits", "fashion", "cuda"]
WORDS += ["sde", "seconds", "plain", "stitching", "independent-impulse", "systematic-", "my_fuzzed:problem"]
WORDS += ["my_fuzzed:nothing", "my_fuzzed", "my_fuzzed:number", ":", "short", "all", "None", "True", "1j"]
MODULE = """
from mlsde.problems import analytic

problem = analytic.linear_ode([[-1.0]], [1.0]).ladder(3.0, 4, spread=0.5)
number = 3
"""


class ReachedError(Exception):
    """The arguments were taken: here the long computation would begin."""


def reached(*args, **kwargs):
    raise ReachedError


@pytest.fixture(scope="module", autouse=True)
def quick(tmp_path_factory):
    """A folder with files that are none, and commands that end where their long computation would begin."""
    from mlsde import bench
    from mlsde.cli import study as command
    from mlsde.diffusion import arena, benchmark, classifier, demo, distances, training
    from mlsde.study.search import Search

    here = tmp_path_factory.mktemp("cli")
    (here / "my_fuzzed.py").write_text(MODULE)
    (here / "page.md").write_text("<!-- numbers: begin -->\n<!-- numbers: end -->\n")
    (here / "list.json").write_text("[1, 2]")
    (here / "numbers.json").write_text(json.dumps({"a": 1, "rows": [], "suite": "core"}))
    (here / "damaged.json").write_bytes(b'{"a": \xff')
    (here / "file.txt").write_text("text")
    (here / "folder").mkdir()
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        patch.setattr(sys, "path", [*sys.path])
        patch.setattr(bench, "core", reached)
        patch.setattr(bench, "efficiency", reached)
        patch.setattr(demo, "digits_demo", reached)
        patch.setattr(benchmark.Benchmark, "result", reached)
        patch.setattr(arena.Arena, "_measure_variances", reached)
        patch.setattr(distances, "distances", reached)
        patch.setattr(classifier, "train_classifier", reached)
        patch.setattr(training.Training, "_one_step", reached)
        patch.setattr(Search, "least", reached)
        patch.setattr(command.subprocess, "run", reached)
        named = {
            name: SimpleNamespace(title=name, run=reached, shared=True, minutes=0.1) for name in ("short", "wall-clock")
        }
        patch.setattr(command, "named_studies", lambda: named)
        yield here
    torch.set_num_threads(threads)
    sys.modules.pop("my_fuzzed", None)


FLAGS = {
    "study": "problem errors methods seeds samples most-steps gamma cost seed folder jobs trials json picture page "
    "threads quick levels",
    "sample": "equation samples budgets steps seed device threads picture json",
    "train": "ladder size steps batch rates warmup predicts weighting distil residual teacher every average device "
    "precision minutes seed threads picture json",
    "bench": "repeats json markdown picture read ladder equation unit samples budgets seeds reference-steps folder "
    "device threads results compare keep pictures images count full-steps classifier",
    "demo": "samples steps seeds seed threads picture json",
}
FLAGS = {command: [f"--{flag}" for flag in flags.split()] for command, flags in FLAGS.items()}
SWITCHES = {"--quick", "--levels", "--residual", "--compare"}
SOUND = {
    "study": [["--problem", "my_fuzzed:problem", "--errors", "0.5,0.25"], ["short"], ["short", "wall-clock"]],
    "sample": [["digits"], []],
    "train": [["digits", "trained"]],
    "bench": [["core"], ["efficiency"], ["diffusion"], ["distances"], ["core", "--read", "list.json"]],
    "demo": [[]],
}


def ran(words):
    """Status and what was printed; a command that came to its long computation counts as ended well."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(words)
    except ReachedError:
        status = 0
    except SystemExit as end:  # argparse
        return end.code, out.getvalue(), err.getvalue()[err.getvalue().rfind("\nmlsde") + 1 :]  # after the usage
    return status, out.getvalue(), "".join(line for line in err.getvalue().splitlines(True) if line[:2] != "  ")


def one_sentence(out, err):
    return err.startswith("mlsde") and err.count("\n") == 1 and "Traceback" not in err + out


@fuzz(2.0)
@given(st.data(), st.sampled_from(list(SOUND)))
def test_a_command_with_odd_flags_ends_well_or_says_in_a_sentence_what_is_wrong(data, command):
    words = [command, *data.draw(st.sampled_from(SOUND[command]), label="sound")]
    flags = data.draw(st.lists(st.sampled_from(FLAGS[command]), min_size=1, max_size=2, unique=True), label="flags")
    for flag in flags:
        words += [flag] if flag in SWITCHES else [flag, data.draw(st.sampled_from(WORDS), label=flag)]
    status, out, err = ran(words)
    assert status in (0, 2)
    assert status == 0 or (one_sentence(out, err) and names_one(err, FLAGS[command], words)), err


def names_one(sentence, flags, words):
    """A flag of the command, as it is called in Python or on the line, or a word that was given."""
    names = [name for flag in flags for name in (flag[2:], flag[2:].replace("-", "_"))]
    return any(name in sentence for name in [*names, *map(repr, words[1:]), "learning_rates", "NAME", "dimension"])


@fuzz()
@given(st.lists(st.sampled_from([*SOUND, *WORDS, *FLAGS["study"], *FLAGS["bench"], "--help", "--version"]), max_size=4))
def test_any_words_at_all_end_well_or_with_a_sentence(words):
    status, out, err = ran(words)
    assert status in (0, 2)
    assert status == 0 or one_sentence(out, err), err


def test_nothing_was_left_outside_the_folder(quick):
    assert os.path.samefile(os.getcwd(), quick)
