"""The same seed gives the same study, whatever stopped it on the way; and a folder of another study is refused."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mlsde
from mlsde import study
from mlsde.problems import analytic
from mlsde.problems.ladder import LadderProblem
from mlsde.study import prediction

ERRORS = [1.5, 0.8, 0.4]
METHODS = [
    study.plain(),
    study.multilevel("independent", "impulse"),
    study.multilevel("systematic", "hold"),
    study.stitching(),
]


class Fuse:
    """Counts evaluations of all levels, and calls ``then`` at one of them."""

    def __init__(self, blow_at=None, then=None):
        self.count, self.blow_at, self.then = 0, blow_at, then

    def __call__(self, level):
        def guarded(t, y):
            self.count += 1
            if self.count == self.blow_at:
                self.then()
            return level(t, y)

        return guarded


def run(folder, fuse=None, errors=ERRORS, methods=METHODS, features_seed=0, **options):
    """A study with noise whose every evaluation passes through a fuse; returns its JSON as text."""
    made = analytic.linear_system(volatility=0.2).ladder(3.0, 3, spread=0.5, reference_steps=48, seed=features_seed)
    fuse = Fuse() if fuse is None else fuse
    drift = mlsde.DriftHierarchy([fuse(level) for level in made.sde.drift.levels], made.sde.drift.costs)
    problem = LadderProblem(made.name, made.sde.with_drift(drift), made.start, made.t_span, made.reference, 3.0)
    given = {"seeds": 3, "samples": 2, "steps": [2, 4, 8, 16], "folder": folder, **options}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prediction, "FEWEST_LEVELS", 3)  # so that there is a pilot to interrupt too
        return json.dumps(study.convergence(problem, methods, errors, **given).as_dict(), indent=2, allow_nan=False)


@pytest.fixture(scope="module")
def whole():
    """The JSON of a study that nothing disturbs, and how many evaluations it takes."""
    fuse = Fuse()
    return run(None, fuse), fuse.count


def stop():
    raise KeyboardInterrupt


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_study_is_one_worth_resuming(whole):
    found = json.loads(whole[0])
    assert found["trials"] > 20
    assert all(cost is not None for method in found["methods"] for cost in method["costs"])
    assert whole[1] > 2000


def test_the_same_seed_gives_the_same_json_with_a_folder_and_without_and_another_seed_does_not(whole, tmp_path):
    assert run(None) == whole[0]
    assert run(tmp_path / "a") == whole[0]
    assert run(None, seed=1) != whole[0]


def test_a_finished_study_is_read_from_its_folder_without_an_evaluation(whole, tmp_path):
    """But for one of each level at two places, which tell whether the folder is this study's."""
    run(tmp_path)
    fuse = Fuse()
    assert run(tmp_path, fuse) == whole[0]
    assert fuse.count <= 2 * 3


def test_a_study_that_is_interrupted_again_and_again_ends_as_the_one_that_is_not(whole, tmp_path):
    """At evaluations drawn at random; each run begins where the last one stopped."""
    draw = random.Random(0)
    for part in (8, 8, 4, 4, 2):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, Fuse(draw.randint(1, whole[1] // part), stop))
    fuse = Fuse()
    assert run(tmp_path, fuse) == whole[0]
    assert fuse.count < 0.9 * whole[1], "the last run did all the work again"
    assert not list(tmp_path.glob("*.partial"))


KILLED = """
import os, sys
import torch
torch.set_num_threads(1)
from test_convergence_resume import Fuse, die, run

folder, ways = sys.argv[1], sys.argv[2:]
for way in ways:
    pid = os.fork()
    if pid == 0:
        kind, number = way.split(":")
        if kind == "evaluation":
            run(folder, Fuse(int(number), die))
        writes, replace = [], os.replace
        def written(*names):
            writes.append(names)
            if len(writes) == int(number):
                die()
            replace(*names)
        os.replace = written
        run(folder)
        os._exit(0)
    print(os.WTERMSIG(os.waitpid(pid, 0)[1]))
"""


def test_a_study_that_is_killed_ends_as_the_one_that_is_not(whole, tmp_path):
    """By SIGKILL, in processes of their own: at evaluations drawn at random, and before a file has its name."""
    draw = random.Random(1)
    ways = [f"evaluation:{draw.randint(1, whole[1] // 4)}" for _ in range(2)] + ["write:1", "write:6"]
    command = [sys.executable, "-c", KILLED, str(tmp_path), *ways]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    assert (done.stderr, done.stdout.split()) == ("", [str(int(signal.SIGKILL))] * len(ways))
    assert len(list(tmp_path.glob("*.partial"))) == 1  # what the one before had left, the last one removed
    assert len(list(tmp_path.glob("*.json"))) > 10
    assert run(tmp_path) == whole[0]
    assert not list(tmp_path.glob("*.partial"))


def test_lost_and_damaged_files_are_made_again(whole, tmp_path):
    run(tmp_path)
    files = sorted(file for file in tmp_path.glob("*.json") if file.name != "manifest.json")
    for i, file in enumerate(files[::3]):
        file.unlink() if i % 2 else file.write_text(file.read_text()[: 5 * i])
    fuse = Fuse()
    assert run(tmp_path, fuse) == whole[0]
    assert 0 < fuse.count < whole[1]


def test_a_study_goes_on_with_other_errors_and_methods_from_the_same_trials(whole, tmp_path):
    run(tmp_path, errors=ERRORS[:1], methods=METHODS[:2])
    fuse = Fuse()
    assert run(tmp_path, fuse) == whole[0]
    assert fuse.count < whole[1]


OTHERS = {
    "seed": ({"seed": 1}, "seed: 0 there, 1 here"),
    "seeds": ({"seeds": 4}, "seeds: 3 there, 4 here"),
    "samples": ({"samples": 5}, "samples: 2 there, 5 here"),
    "gamma": ({"gamma": 2.5}, "gamma: 3.0 there, 2.5 here"),
    "cost": ({"cost": "seconds"}, "cost: 'declared' there, 'seconds' here"),
    "reference": ({"reference_steps": 7}, "reference_steps: 160 there, 7 here"),
    "two": ({"seed": 2, "samples": 5}, "samples: 2 there, 5 here; seed: 0 there, 2 here"),
}


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """The folder of a study that was stopped after its first trial."""
    folder = tmp_path_factory.mktemp("begun")
    with pytest.raises(KeyboardInterrupt):
        run(folder, Fuse(200, stop))
    return folder


@pytest.mark.parametrize(("options", "words"), OTHERS.values(), ids=OTHERS.keys())
def test_a_folder_of_another_study_is_refused_with_the_difference_named(options, words, begun):
    with pytest.raises(ValueError, match="holds another computation") as caught:
        run(begun, **options)
    assert words in str(caught.value)
    assert str(caught.value).endswith("; choose another folder.")
    assert json.loads((begun / "manifest.json").read_text())["seed"] == 0


def test_a_folder_of_another_ladder_of_the_same_name_and_prices_is_refused(begun):
    with pytest.raises(ValueError, match=r"\(fingerprint: .* there, .* here\); choose another folder"):
        run(begun, features_seed=1)


def test_what_a_study_writes_into_its_folder_says_what_it_is(tmp_path):
    """Folders of hours of trials depend on these names."""
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Fuse(200, stop))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert {name: value for name, value in manifest.items() if name not in ("fingerprint", "versions")} == {
        "problem": "linear system, gamma 3, smooth differences",
        "costs": [1.0, 8.0, 64.0],
        "gamma": 3.0,
        "seeds": 3,
        "samples": 2,
        "seed": 0,
        "cost": "declared",
        "reference_steps": 160,
    }
    assert manifest["versions"] == {"mlsde": mlsde.__version__, "torch": torch.__version__}
    first = json.loads((tmp_path / "plain-euler-K1-n2-m0.json").read_text())
    assert set(first["result"]) == {"errors", "cost"}
    assert len(first["result"]["errors"]) == 3


def test_the_state_of_torch_is_left_alone(whole):
    state = torch.get_rng_state()
    run(None, errors=ERRORS[:1], methods=METHODS[:2])
    assert torch.equal(torch.get_rng_state(), state)
