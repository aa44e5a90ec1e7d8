"""A pilot's runs: shared among processes, kept in a folder, the same bit for bit."""

import hashlib
import os
import re
import subprocess
import sys

import calibration_toys as toys
import pytest
import torch

import mlsde

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def plain():
    """Without a folder: the check sum, and the calls of each level."""
    cal, calls = toys.calibrated()
    return toys.check_sum(cal), calls


def test_a_folder_changes_nothing_and_makes_a_second_pilot_evaluate_nothing(plain, tmp_path):
    cal, calls = toys.calibrated(folder=tmp_path)
    assert (toys.check_sum(cal), calls) == plain
    assert len(list(tmp_path.glob("*.safetensors"))) == toys.RUNS + 2  # and the prices, and the way back
    again, calls = toys.calibrated(folder=tmp_path)
    assert toys.check_sum(again) == plain[0] and calls == [0, 0, 0]
    assert again.recording.seconds.tolist() == cal.recording.seconds.tolist()


def test_a_run_that_is_missing_or_damaged_is_made_again_and_no_other(plain, tmp_path):
    toys.calibrated(folder=tmp_path)
    (tmp_path / "level-3-of-2.safetensors").unlink()
    cal, calls = toys.calibrated(folder=tmp_path)
    assert toys.check_sum(cal) == plain[0] and calls == [0, 0, 8]
    file = tmp_path / "level-1-of-1.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    cal, calls = toys.calibrated(folder=tmp_path)
    assert toys.check_sum(cal) == plain[0] and calls == [16, 0, 0]


def test_a_pilot_that_was_interrupted_goes_on(plain, tmp_path):
    def stop(t, y):
        if len(list(tmp_path.glob("*.safetensors"))) == 5:
            raise KeyboardInterrupt
        return -torch.sin(y)

    sde, _ = toys.equation(top=stop)
    with pytest.raises(KeyboardInterrupt):
        mlsde.calibrate(sde, toys.start(), (0.0, 1.0), seed=3, identity="toys", folder=tmp_path, **toys.STEPS)
    cal, calls = toys.calibrated(folder=tmp_path)
    assert toys.check_sum(cal) == plain[0]
    assert calls[2] < plain[1][2]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 4}, "seed: 3 there, 4 here"),
        ({"steps": 65}, "grid: "),
        ({"pilot_samples": 5}, "pilot_samples: 4 there, 5 here"),
        ({"costs": (1.0, 10.0, 99.0)}, "costs: "),
        ({"method": "heun"}, "method: 'euler' there, 'heun' here"),
    ],
)
def test_a_folder_of_another_pilot_is_refused(change, words, tmp_path):
    toys.calibrated(folder=tmp_path)
    with pytest.raises(ValueError, match="holds another computation") as caught:
        toys.calibrated(folder=tmp_path, **change)
    assert words in str(caught.value)


def test_a_folder_tells_equations_and_initial_states_apart_by_themselves(tmp_path):
    def shifted(by):
        levels = [lambda t, y: -y, lambda t, y: by - torch.sin(y)]
        return mlsde.SDE(mlsde.DriftHierarchy(levels, [1.0, 10.0]), 0.3)

    options = {**toys.STEPS, "folder": tmp_path}
    mlsde.calibrate(shifted(0.1), toys.start(), (0.0, 1.0), **options)
    mlsde.calibrate(shifted(0.1), toys.start(), (0.0, 1.0), **options)
    with pytest.raises(ValueError, match=r"drift\.level 2: "):
        mlsde.calibrate(shifted(0.2), toys.start(), (0.0, 1.0), **options)
    with pytest.raises(ValueError, match="y0: "):
        mlsde.calibrate(shifted(0.1), toys.start() + 1.0, (0.0, 1.0), **options)


def test_prices_of_the_clock_are_measured_once_for_a_folder(tmp_path):
    first, _ = toys.calibrated(costs=None, folder=tmp_path)
    again, calls = toys.calibrated(costs=None, folder=tmp_path)
    assert first.recording.unit == "seconds" and calls == [0, 0, 0]
    assert again.recording.costs.tolist() == first.recording.costs.tolist()
    (tmp_path / "prices.safetensors").unlink()
    other, calls = toys.calibrated(costs=None, folder=tmp_path)
    assert other.recording.costs.tolist() != first.recording.costs.tolist()
    assert calls[2] > 30  # runs of other prices are not taken


def test_a_level_that_draws_numbers_itself_is_under_the_seed_of_the_pilot(tmp_path):
    torch.manual_seed(0)
    first, _ = toys.calibrated(noise=0.1)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    again, _ = toys.calibrated(noise=0.1, folder=tmp_path)
    assert toys.check_sum(first) == toys.check_sum(again)
    assert torch.equal(before, torch.get_rng_state())
    (tmp_path / "level-3-of-4.safetensors").unlink()
    part, calls = toys.calibrated(noise=0.1, folder=tmp_path)
    assert toys.check_sum(part) == toys.check_sum(first) and calls == [0, 0, 4]
    other, _ = toys.calibrated(noise=0.1, seed=4)
    assert toys.check_sum(other) != toys.check_sum(first)


def test_the_pilot_of_an_ensemble_is_under_its_seed():
    sums = []
    for users, seed in ((0, 4), (1, 4), (1, 5)):
        torch.manual_seed(users)
        found = toys.auto(seed=seed)
        sums.append((hashlib.sha256(found.ys.numpy().tobytes()).hexdigest(), found.error))
    assert sums[0] == sums[1] != sums[2]
    assert sums[2][1] != sums[0][1]  # what the pilot foresees


def test_a_run_that_fails_is_named():
    broken, _ = toys.equation(top=toys.failing)
    with pytest.raises(mlsde.NonFiniteError, match="drift level 3 became NaN"):
        mlsde.calibrate(broken, toys.start(), (0.0, 1.0), **toys.STEPS)


def test_two_processes_share_the_runs_and_come_to_the_same(plain, tmp_path):
    noisy = toys.check_sum(toys.calibrated(noise=0.1)[0])
    ensemble = hashlib.sha256(toys.auto().ys.numpy().tobytes()).hexdigest()
    head = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*head, toys.__file__, str(tmp_path)], capture_output=True, text=True, timeout=120, check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    lines = re.findall(r"^(\w+) (.*);$", done.stdout, re.MULTILINE)
    said = {name: [words for one, words in lines if one == name] for name, _ in lines}
    assert all(len(words) == 2 for words in said.values())
    assert said.pop("alone") == [" ".join(map(str, [plain[0], *plain[1]]))] * 2
    shared = [words.split() for words in said.pop("shared")]
    assert [words[0] for words in shared] == [noisy] * 2
    calls = [[int(word) for word in words[1:]] for words in shared]
    assert [a + b for a, b in zip(*calls, strict=True)] == plain[1]  # together those of one
    assert all(0.25 < mine[2] / plain[1][2] < 0.75 for mine in calls)
    assert all(len(set(words)) == 1 for words in said.values()), said
    assert said["kept"][0] == noisy and said["auto"][0] == ensemble
    assert said["timed"][0].endswith(" seconds")
    assert said["broken"][0].startswith("NonFiniteError drift level 3 became NaN or infinite at step 0")
    assert said["other"][0].startswith("ValueError process 1 was given other arguments than process 0")
    alone, none = toys.calibrated(noise=0.1, folder=tmp_path)
    assert toys.check_sum(alone) == noisy and none == [0, 0, 0]
