"""Checkpoints of a training: it goes on to the last bit wherever it was killed, and refuses what is not its own."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from training_toys import Toy, same_state, settings, some_images, steps, training

from mlsde.diffusion import checkpoints
from mlsde.diffusion.processes import RectifiedFlow
from mlsde.diffusion.training import Times

# going on where a run was stopped

KINDS = {
    "plain": {},
    "distil": {"distil": 0.5, "weighting": "min-snr"},
    "residual": {"residual": True, "predicts": "clean"},
    "one rate each": {"learning_rates": (1e-2, 2e-2, 3e-2), "predicts": "noise", "weighting": "min-snr"},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("frozen", [(), (3,)], ids=["all trained", "top frozen"])
def test_a_stopped_run_goes_on_to_the_last_bit(tmp_path, kind, frozen):
    wished = settings(**KINDS[kind])
    straight = training(wished=wished, frozen=frozen)
    assert straight.run()
    steps(training(wished=wished, frozen=frozen, folder=tmp_path), 3)
    others = [Toy(2, seed=5), Toy(3, seed=6), Toy(4) if frozen else Toy(4, seed=7)]  # what they were is of no concern
    resumed = training(others, wished, frozen=frozen, folder=tmp_path)
    assert (resumed.step, len(resumed.history)) == (3, 1)
    assert not same_state(straight, resumed)
    assert resumed.run()
    assert same_state(straight, resumed)
    assert [look["step"] for look in resumed.history] == [2, 4, 6]


def test_a_finished_run_is_done_and_stays_as_it_is(tmp_path):
    first = training(folder=tmp_path)
    first.run()
    again = training(folder=tmp_path)
    assert again.run()
    assert same_state(first, again)


LONG = settings(steps=60, evaluate_every=7, distil=0.3)


def be_killed(folder):
    """In a process of its own: train with a checkpoint at every step, and tell of each."""
    torch.set_num_threads(1)
    run = training(wished=LONG, folder=folder)
    while run.step < LONG.steps:
        steps(run, 1)
        print(run.step, flush=True)


def test_a_killed_process_loses_nothing_but_time(tmp_path):
    folders = f"sys.path.insert(0, {str(Path(__file__).parent)!r}); folder = {str(tmp_path)!r}"
    code = f"import sys; {folders}; import test_training_resume; test_training_resume.be_killed(folder)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if int(line) == 5:
                os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    resumed = training(wished=LONG, folder=tmp_path)
    assert 5 <= resumed.step < LONG.steps
    resumed.run()
    straight = training(wished=LONG)
    straight.run()
    assert same_state(straight, resumed)


def test_a_checkpoint_holds_safe_tensors_and_is_read_by_whoever_reads_the_folder(tmp_path):
    run = steps(training(folder=tmp_path), 1)
    (tmp_path / "plain").touch()
    assert (tmp_path / checkpoints.NAME).stat().st_mode == (tmp_path / "plain").stat().st_mode
    with safe_open(tmp_path / checkpoints.NAME, "pt") as opened:
        assert torch.equal(opened.get_tensor("average.2.a.bias"), run.averages[2].a.bias)
        assert opened.metadata()["step"] == "1"


def test_a_disk_that_fills_up_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    run = steps(training(folder=tmp_path), 2)
    (tmp_path / f"{checkpoints.NAME}.12345.partial").write_bytes(b"of a run that was killed while it wrote")

    def fills_up(tensors, file, heading):
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "save_file", fills_up)
        with pytest.raises(OSError, match="No space"):
            steps(run, 1)
    assert training(folder=tmp_path).step == 2
    steps(run, 1)
    assert [file.name for file in tmp_path.iterdir()] == [checkpoints.NAME]


def rewritten(file, change):
    """A checkpoint with its tensors and its heading changed."""
    with safe_open(file, "pt") as opened:
        heading, tensors = opened.metadata(), {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    change(heading, tensors)
    save_file(tensors, file, heading)


def test_checkpoints_without_check_sums_are_taken_at_their_word(tmp_path):
    run = steps(training(folder=tmp_path), 3)
    rewritten(tmp_path / checkpoints.NAME, lambda heading, _: heading.pop("given"))
    assert same_state(run, training(folder=tmp_path, images=some_images(seed=1)))


OTHERS = {
    "steps": ({"wished": settings(steps=8)}, ["steps: 6 there, 8 here"]),
    "two settings": (
        {"wished": settings(seed=1, distil=0.5)},
        ["seed: 0 there, 1 here", "distil: 0.0 there, 0.5 here"],
    ),
    "levels": ({"models": [Toy(2), Toy(3)]}, ["levels: 3 there, 2 here"]),
    "frozen": ({"frozen": (1,)}, ["trained: [0, 1, 2] there, [1, 2] here"]),
    "fewer images": ({"images": some_images(count=19)}, ["toys: 20 to train on", "toys: 19 to train on"]),
    "other images": ({"images": some_images(seed=1)}, ["other images to train on"]),
    "other times": ({"times": Times.of(RectifiedFlow(), [0.5], [0.5])}, ["other times"]),
}


@pytest.mark.parametrize("other", OTHERS)
def test_the_folder_of_another_training_is_refused_with_the_differences(tmp_path, other):
    steps(training(folder=tmp_path), 1)
    options, words = OTHERS[other]
    with pytest.raises(ValueError, match="holds another training") as caught:
        training(folder=tmp_path, **options)
    assert [word for word in [*words, str(tmp_path)] if word not in str(caught.value)] == []
    assert "batch" not in str(caught.value), "names what does not differ"


def test_another_teacher_is_refused(tmp_path):
    steps(training(folder=tmp_path, frozen=(3,)), 1)
    with pytest.raises(ValueError, match="other weights of the frozen levels"):
        training([Toy(2), Toy(3), Toy(4, seed=1)], folder=tmp_path, frozen=(3,))


def test_nets_of_another_size_are_refused(tmp_path):
    steps(training(folder=tmp_path), 1)
    with pytest.raises(ValueError, match=r"of other nets \(it has \(2, 2, 3, 3\) for model.0.a.weight"):
        training([Toy(5), Toy(3), Toy(4)], folder=tmp_path)


DAMAGES = {
    "no tensor": (lambda heading, tensors: tensors.pop("average.1.a.weight"), "it has nothing for average.1.a.weight"),
    "no moment": (lambda heading, tensors: tensors.pop("adam.3.exp_avg"), "it has nothing for adam.3.exp_avg"),
    "no step": (lambda heading, tensors: heading.pop("step"), "damaged or no checkpoint"),
    "no page": (lambda heading, tensors: heading.update(about="{"), "damaged or no checkpoint"),
    "another page": (lambda heading, tensors: heading.update(about="[]"), "damaged or no checkpoint"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_checkpoint_that_lacks_a_part_is_refused(tmp_path, damage):
    steps(training(folder=tmp_path), 1)
    change, message = DAMAGES[damage]
    rewritten(tmp_path / checkpoints.NAME, change)
    with pytest.raises(ValueError, match=message) as caught:
        training(folder=tmp_path)
    assert str(tmp_path / checkpoints.NAME) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"x" * 100, None], ids=["empty", "garbage", "truncated"])
def test_a_damaged_checkpoint_is_refused(tmp_path, content):
    steps(training(folder=tmp_path), 1)
    file = tmp_path / checkpoints.NAME
    file.write_bytes(file.read_bytes()[:-100] if content is None else content)
    with pytest.raises(ValueError, match="is damaged or no checkpoint") as caught:
        training(folder=tmp_path)
    assert str(file) in str(caught.value)
