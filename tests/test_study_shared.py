"""Studies on two processes: trials are shared, and every process has the numbers of one. Run as a program by them."""

import hashlib
import json
import os
import subprocess
import sys

import pytest
import test_choice
import test_convergence_resume as resume
import test_tolerance
import torch

import mlsde
from mlsde import study
from mlsde.chunks.ranks import Ranks, apart
from mlsde.chunks.results import Results, share_results
from mlsde.cli import main as command
from mlsde.problems.ladder import LadderProblem
from mlsde.study.choice import choice
from mlsde.study.tolerance import tolerances

pytestmark = pytest.mark.usefixtures("one_thread")


def check_sum(text):
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def converged(folder, **options):
    """Check sum of a study, and the evaluations that this process made."""
    fuse = resume.Fuse()
    return check_sum(resume.run(folder, fuse, **options)), fuse.count


def overflowing():
    """A study whose every run breaks, the reference first."""
    drift = mlsde.DriftHierarchy([lambda t, y: y**9] * 2, [1.0, 2.0])
    problem = LadderProblem("overflows", mlsde.SDE(drift), 10.0 * torch.ones(1, 1), gamma=3.0)
    study.convergence(problem, [study.plain(), study.stitching()], [0.5], seeds=2, samples=2, steps=[2, 4])


def kept_tolerances(folder):
    return check_sum(json.dumps(tolerances(test_tolerance.hasty, folder=folder, **TOLERANCES).as_dict()))


def chosen(folder):
    found = choice(PROBLEMS, test_choice.spread_coins, folder=folder, **CHOICE)
    return check_sum(json.dumps(found.as_dict()))


TOLERANCES = {"count": 3, "trajectories": 4, "reference_steps": 64}
PROBLEMS = {name: test_choice.smooth() for name in ("one", "two")}
CHOICE = test_choice.SMALL | {"seeds": 1, "trajectories": 4, "most_steps": 16, "most_coin_steps": 16}
CHOICE |= {"reference_steps": 768}
CLI = ["study", "no-gain-pair", "charges", "--quick", "--folder"]


def told(call):
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__} {error}"
    return "nothing"


def main(folder):
    torch.set_num_threads(1)

    def say(*words):
        # a file of its own: what two processes write to one pipe comes in pieces of a buffer's size
        with open(f"{folder}/said-{os.environ['RANK']}", "a") as file:
            file.write(" ".join(map(str, words)) + "\n")

    say("memory", *converged(None))
    say("folder", *converged(f"{folder}/folder"))
    say("again", *converged(f"{folder}/folder"))
    say("timed", converged(None, cost="seconds")[0])
    say("broken", told(overflowing))
    say("tolerances", kept_tolerances(None))
    say("choice", chosen(f"{folder}/choice"))
    say("refused", told(lambda: resume.run(f"{folder}/folder", seed=1)))
    say("jobs", command([*CLI, f"{folder}/cli", "--jobs", "2"]))
    say("command", command([*CLI, f"{folder}/cli"]))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What two processes said, by the name of what they did, and their folder."""
    folder = tmp_path_factory.mktemp("two")
    head = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*head, __file__, str(folder)], capture_output=True, text=True, timeout=300, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    each = [[line.split(" ", 1) for line in (folder / f"said-{k}").read_text().splitlines()] for k in (0, 1)]
    return {name: [words for lines in each for one, words in lines if one == name] for name, _ in each[0]}, folder, done


def test_every_process_says_something_of_everything_and_the_same(two):
    said, _, _ = two
    assert list(said) == [
        "memory", "folder", "again", "timed", "broken", "tolerances", "choice", "refused", "jobs", "command"
    ]  # fmt: skip
    for name, words in said.items():
        assert len(words) == 2 and len({word.split()[0] for word in words}) == 1, name


def test_a_convergence_study_has_the_numbers_of_one_process_and_each_made_a_part_of_its_trials(two):
    said, folder, _ = two
    whole, evaluations = converged(None)
    for name in ("memory", "folder"):
        found = [words.split() for words in said[name]]
        assert [words[0] for words in found] == [whole] * 2
        counts = [int(words[1]) for words in found]
        assert all(0.2 * evaluations < count < 0.9 * evaluations for count in counts), (counts, evaluations)
    assert [words.split()[0] for words in said["again"]] == [whole] * 2
    assert all(int(words.split()[1]) <= 6 for words in said["again"])  # the fingerprint's
    assert converged(folder / "folder") == (whole, 6)  # one process goes on where two were


def test_studies_of_rows_and_cells_have_the_numbers_of_one_process(two):
    said, folder, _ = two
    assert said["tolerances"] == [kept_tolerances(None)] * 2
    assert said["choice"] == [chosen(None)] * 2
    assert len(list((folder / "choice").rglob("manifest.json"))) == 4


def test_what_breaks_or_is_refused_in_one_process_does_so_in_all(two):
    said, _, _ = two
    assert said["broken"][0] == said["broken"][1] and said["broken"][0].startswith("NonFiniteError ")
    assert said["refused"][0] == said["refused"][1] and "seed: 0 there, 1 here" in said["refused"][0]


def test_the_command_tells_once_and_does_not_start_processes_of_its_own(two, tmp_path, capsys):
    said, folder, done = two
    assert said["jobs"] == ["2", "2"] and "--jobs is for a single process" in done.stderr
    assert said["command"] == ["0", "0"]
    assert done.stdout.count("no-gain-pair took") == done.stdout.count("charges took") == 1
    assert command([*CLI, str(tmp_path)]) == 0
    capsys.readouterr()
    for name in ("no-gain-pair-quick.json", "charges-quick.json"):
        assert (folder / "cli" / name).read_bytes() == (tmp_path / name).read_bytes()


def test_within_a_piece_a_process_is_alone():
    """It would otherwise wait for processes that are at other pieces; here there are none, and no group."""
    with apart():
        kept = Results(None, {}, Ranks(1, 2))
        assert kept.result("a", lambda: {"value": 1}) == {"value": 1}


def test_one_process_leaves_pieces_to_be_asked_for():
    share_results([lambda: pytest.fail("was done")], [Results(None, {})], Ranks())


if __name__ == "__main__":
    main(sys.argv[1])
