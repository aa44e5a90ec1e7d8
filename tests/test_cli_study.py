"""The command ``mlsde study``: named studies, a problem of one's own, and what it says when it cannot."""

import json
import re
import shlex
import subprocess
import sys

import pytest
import torch

import mlsde
from mlsde import study
from mlsde.cli import main
from mlsde.cli.study import load_problem, named_method, named_studies
from mlsde.study.catalogue import STUDIES
from mlsde.study.choices import CHOICES

MODULE = """
import torch

import mlsde
from mlsde.problems import LadderProblem, analytic

ladder = analytic.linear_ode([[-1.0]], [1.0]).ladder(3.0, 4, spread=0.5)


def made():
    return ladder


def unknown_gamma(levels=4):
    drift = ladder.sde.drift.select(range(1, levels + 1))
    return LadderProblem("no gamma", ladder.sde.with_drift(drift), ladder.start)


def two_levels():
    return unknown_gamma(2)


def neighbour():
    from my_neighbour import ladder

    return ladder


def broken():
    raise ValueError("mine")


def overflows():
    return LadderProblem("overflows", mlsde.SDE(mlsde.DriftHierarchy([lambda t, y: y**9] * 2, [1.0, 2.0])),
                         10.0 * torch.ones(1, 1), gamma=3.0)


def astray():
    def level(t, y):
        raise TypeError("mine too")

    return LadderProblem("astray", mlsde.SDE(mlsde.DriftHierarchy([level], [1.0])), torch.ones(1, 1))


number = 3
"""
SHORT = ["--seeds", "2", "--samples", "2", "--most-steps", "8", "--errors", "0.5,0.25"]


@pytest.fixture(autouse=True)
def as_they_were(monkeypatch):
    """Threads, modules and the search path as they were before the command."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    torch.set_num_threads(threads)
    for name in [name for name in sys.modules if name.startswith(("my_", "mine_"))]:
        del sys.modules[name]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a module of a user's own, and the command run in it."""
    (tmp_path / "my_module.py").write_text(MODULE)
    (tmp_path / "my_neighbour.py").write_text("from my_module import ladder\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(words, capsys):
    """The one line that the command says on its way out with status 2."""
    assert main(["study", *words]) == 2
    err = capsys.readouterr().err
    assert err.startswith("mlsde study: ")
    assert err.count("\n") == 1
    return err


# named studies


def test_the_list_names_every_study_with_a_line(capsys):
    assert main(["study", "--list"]) == 0
    out, err = capsys.readouterr()
    studies = named_studies()
    assert list(studies) == [*STUDIES, *CHOICES]
    assert [line.split()[0] for line in out.splitlines()] == list(studies)
    assert all(study.title in line for study, line in zip(studies.values(), out.splitlines(), strict=True))
    assert all(re.match(r"\S+ +\d+ (s|min)  ", line) for line in out.splitlines())
    assert err == ""


def test_a_quick_named_study_writes_its_numbers_its_picture_its_trials_and_where_it_ran(tmp_path, capsys):
    folder = tmp_path / "out"
    assert main(["study", "wall-clock", "--quick", "--seed", "3", "--folder", str(folder)]) == 0
    out, err = capsys.readouterr()
    kept = folder / "trials" / "wall-clock-quick-seed3"
    title = named_studies()["wall-clock"].title
    assert err == f"wall-clock: {title}; seconds from the beginning; nothing is kept in {kept} yet\n"
    assert "least cost that reaches each error (seconds)" in out
    assert json.loads((folder / "wall-clock-quick-seed3.json").read_text())["settings"]["seed"] == 3
    assert (folder / "wall-clock-quick-seed3.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(kept.glob("*.json"))) > 10
    ran = json.loads((folder / "environment" / "wall-clock-quick-seed3.json").read_text())
    assert ran["command"] == "mlsde study wall-clock --quick --seed 3"
    assert ran["torch"] == torch.__version__
    assert {"date", "commit", "machine", "cores", "threads", "seconds"} <= set(ran)
    assert main(["study", "wall-clock", "--quick", "--seed", "3", "--folder", str(folder)]) == 0
    files = sum(file.is_file() for file in kept.rglob("*"))
    assert capsys.readouterr().err.endswith(f"; goes on with the {files} files of {kept}\n")


def test_files_can_be_named(tmp_path, capsys):
    files = ["--json", str(tmp_path / "a" / "n.json"), "--picture", str(tmp_path / "b" / "p.png")]
    assert main(["study", "charges", "--quick", "--folder", str(tmp_path), *files]) == 0
    assert json.loads((tmp_path / "a" / "n.json").read_text())["problem"] == "charges"
    assert (tmp_path / "b" / "p.png").stat().st_size > 5_000
    assert not list(tmp_path.glob("*.json"))


def test_several_studies_each_write_theirs(tmp_path, capsys):
    assert main(["study", "charges", "wall-clock", "--quick", "--folder", str(tmp_path)]) == 0
    assert {file.name for file in tmp_path.glob("*.json")} == {"charges-quick.json", "wall-clock-quick.json"}
    assert {file.name for file in (tmp_path / "environment").iterdir()} == {
        "charges-quick.json",
        "wall-clock-quick.json",
    }


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ([], "NAME must be among ode-2.5, ode-3, "),
        (["ode-9"], r"got \['ode-9'\]"),
        (["all", "ode-3"], r"got \['all'\]"),
        (["ode-3", "ode-4", "--json", "a.json"], "--json is for one study"),
        (["ode-3", "--threads", "0"], "--threads must be a positive integer, got 0"),
        (["ode-3", "--seed", "-1"], "seed must not be negative, got -1"),
        (["ode-3", "--jobs", "0"], "--jobs must be a positive integer, got 0"),
        (["ode-3", "--problem", "my_module:made"], r"NAME and --problem exclude each other, got \['ode-3'\]"),
    ],
)
def test_what_is_not_known_gets_a_sentence_and_status_2(words, part, capsys):
    assert re.search(part, refused(words, capsys))


def test_a_word_that_is_no_number_gets_the_usage_and_status_2(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["study", "ode-3", "--seed", "one"])
    assert stopped.value.code == 2
    assert "--seed: invalid int value: 'one'" in capsys.readouterr().err


# a problem of one's own


@pytest.mark.parametrize("name", ["ladder", "made"])
def test_a_problem_of_a_module_in_this_folder_is_studied_whether_it_is_one_or_makes_one(name, here, capsys):
    assert main(["study", "--problem", f"my_module:{name}", *SHORT]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("linear ODE, gamma 3, smooth differences: differences of the levels along a run")
    assert "2 seeds of 2 samples" in out
    stem = here / "out" / "study" / f"my_module-{name}"
    numbers = json.loads(stem.with_suffix(".json").read_text())
    assert numbers["errors"] == [0.5, 0.25]
    assert numbers["settings"]["steps"] == [1, 2, 3, 4, 6, 8]
    assert [method["name"] for method in numbers["methods"]] == [method.name for method in study.default_methods()]
    assert stem.with_suffix(".png").stat().st_size > 5_000
    assert (here / "out" / "study" / "trials" / f"my_module-{name}" / "manifest.json").exists()


def test_methods_are_chosen_by_name(here, capsys):
    words = ["--methods", "plain, plain-heun,stitching ,periodic-hold"]
    assert main(["study", "--problem", "my_module:made", *SHORT, *words, "--json", "n.json", "--picture", "p.png"]) == 0
    names = [method["name"] for method in json.loads((here / "n.json").read_text())["methods"]]
    expected = [study.plain(), study.plain("heun"), study.stitching(), study.multilevel("periodic", "hold")]
    assert names == [method.name for method in expected]


def test_levels_are_looked_at_and_no_more(here, capsys):
    assert main(["study", "--problem", "my_module:made", "--levels"]) == 0
    out, err = capsys.readouterr()
    assert (err, "least cost" in out) == ("", False)
    numbers = json.loads((here / "out" / "study" / "my_module-made.json").read_text())
    assert numbers["costs"] == [1.0, 8.0, 64.0, 512.0]
    assert (here / "out" / "study" / "my_module-made.png").stat().st_size > 5_000
    assert not (here / "out" / "study" / "trials").exists()


def gamma_of(here, name, *words):
    assert (
        main(["study", "--problem", f"my_module:{name}", *SHORT, "--methods", "plain", "--json", "n.json", *words]) == 0
    )
    return json.loads((here / "n.json").read_text())["gamma"]


def test_gamma_is_the_one_given_or_the_problems_or_the_one_measured(here, capsys):
    assert gamma_of(here, "made") == 3.0
    assert gamma_of(here, "made", "--gamma", "2.5", "--folder", "other") == 2.5
    measured = gamma_of(here, "unknown_gamma")
    assert f"gamma {measured:.2f} [" in capsys.readouterr().out
    assert measured != 3.0
    assert gamma_of(here, "two_levels", "--gamma", "2.0") == 2.0


def test_a_problem_may_import_its_neighbours_when_it_is_made(here, capsys):
    assert main(["study", "--problem", "my_module:neighbour", "--levels"]) == 0


@pytest.mark.parametrize(
    ("where", "words", "part"),
    [
        ("my_module", [], "--problem must be MODULE:NAME, e.g. my_module:my_problem, got 'my_module'"),
        (":made", [], "--problem must be MODULE:NAME"),
        ("my_modul:made", [], "--problem='my_modul:made': there is no module 'my_modul' here or installed."),
        ("my_package.part:made", [], "there is no module 'my_package.part' here or installed."),
        ("my_module:mad", [], "--problem='my_module:mad': the module 'my_module' has no 'mad'."),
        ("my_module:number", ["--levels"], "problem must be an mlsde.problems.LadderProblem, got int."),
        ("my_module:made", [], "--problem needs --errors 0.5,0.25,… (errors of the end state), or --levels."),
        ("my_module:made", ["--errors", "0.5,x"], "--errors must be numbers with commas between them, got 'x'."),
        ("my_module:made", ["--errors", "-0.5"], "errors must hold at least one error above zero, got [-0.5]"),
        ("my_module:made", [*SHORT, "--methods", "foo"], "--methods: 'foo' is not known; give plain, plain-heun, stit"),
        (
            "my_module:made",
            [*SHORT, "--methods", "foo-impulse"],
            "coins='foo' is not known; choose one of 'independent'",
        ),
        ("my_module:made", [*SHORT, "--methods", "nested-foo"], "correction='foo' is not known; choose one of"),
        ("my_module:made", [*SHORT, "--methods", "plain-foo"], "stepper='foo' is not known; choose one of 'euler'"),
        ("my_module:made", [*SHORT, "--gamma", "0"], "gamma must be above zero, got 0"),
        ("my_module:made", [*SHORT, "--seeds", "1"], "seeds must be at least 2"),
        ("my_module:made", [*SHORT, "--cost", "euro"], "cost='euro' is not known"),
        ("my_module:made", [*SHORT, "--seed", "-1"], "seed must not be negative, got -1"),
        ("my_module:two_levels", SHORT, "gamma cannot be measured on this ladder, which takes three levels"),
        ("my_module:overflows", SHORT, "became NaN or infinite in the pilot"),
    ],
)
def test_what_cannot_be_studied_gets_a_sentence_and_status_2(where, words, part, here, capsys):
    assert part in refused(["--problem", where, *words], capsys)


def test_a_folder_of_another_study_is_refused_with_status_2(here, capsys):
    words = ["--problem", "my_module:made", *SHORT, "--methods", "plain"]
    assert main(["study", *words]) == 0
    capsys.readouterr()
    assert "seed: 0 there, 4 here" in refused([*words, "--seed", "4"], capsys)


MINE = {
    "import": ("import mine_that_is_missing", ModuleNotFoundError, "mine_that_is_missing"),
    "from": ("from math import no_such_thing", ImportError, "cannot import name 'no_such_thing'"),
    "attribute": ("import math\nmath.no_such_thing", AttributeError, "no_such_thing"),
    "value": ("float('x')", ValueError, "could not convert"),
    "syntax": ("def", SyntaxError, "invalid syntax"),
}


@pytest.mark.parametrize(("code", "error", "words"), MINE.values(), ids=MINE.keys())
def test_an_error_of_the_users_module_comes_through_as_it_is(code, error, words, here):
    (here / "my_broken.py").write_text(code + "\n")
    with pytest.raises(error, match=words) as caught:
        main(["study", "--problem", "my_broken:problem", "--levels"])
    assert caught.value.__cause__ is None
    if error is not SyntaxError:
        assert caught.traceback[-1].path.name == "my_broken.py"


@pytest.mark.parametrize(
    ("name", "error", "words"), [("broken", ValueError, "mine"), ("astray", TypeError, "mine too")]
)
def test_an_error_of_the_users_functions_comes_through_as_it_is(name, error, words, here):
    with pytest.raises(error, match=words) as caught:
        main(["study", "--problem", f"my_module:{name}", "--levels"])
    assert caught.traceback[-1].path.name == "my_module.py"


def test_load_problem_finds_modules_that_are_installed_too():
    thing = load_problem("mlsde.problems.science:charges")
    assert isinstance(thing, mlsde.problems.LadderProblem)


@pytest.mark.parametrize(
    ("word", "method"),
    [
        ("plain", study.plain()),
        (" plain ", study.plain()),
        ("plain-milstein", study.plain("milstein")),
        ("stitching", study.stitching()),
        (" stitching", study.stitching()),
        ("independent-impulse", study.multilevel("independent", "impulse")),
        ("systematic-extrapolate", study.multilevel("systematic", "extrapolate")),
    ],
)
def test_a_word_names_a_method(word, method):
    assert named_method(word) == method


def test_the_command_runs_as_a_module_and_writes_nothing_to_the_standard_error(here):
    words = [sys.executable, "-m", "mlsde", "study", "--problem", "my_module:made", *SHORT, "--methods", "plain"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=here)
    assert (done.returncode, done.stderr) == (0, "")
    assert "numbers: out/study/my_module-made.json" in done.stdout


def test_a_reader_that_has_seen_enough_is_no_error():
    ended = subprocess.run(
        f"{shlex.quote(sys.executable)} -W error -m mlsde study --list | true",
        shell=True, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ended.stderr == ""
