"""The command ``mlsde train``: from images to a ladder, stopped and gone on with, and what it says when it cannot."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

import mlsde.diffusion.train
from mlsde.cli import main
from mlsde.diffusion.ladders import load_ladder
from mlsde.diffusion.nets import LADDERS

torch.set_num_threads(1)

BRIEF = ["--ladder", "digits", "--steps", "3", "--batch", "8", "--every", "2", "--warmup", "0"]


def train(*words):
    return main(["train", *map(str, words)])


def weights(folder):
    return [value for model in load_ladder(folder).models for value in model.state_dict().values()]


def test_a_ladder_is_trained_from_the_digits_in_one_go_or_two(tmp_path, capsys):
    one, two = tmp_path / "one", tmp_path / "two"
    assert train("digits", one, *BRIEF, "--json", tmp_path / "one.json") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("step 2: held-out mean square errors 0.")
    assert lines[-5:-4] == ["TrainedLadder of digits: 3 levels that predict v"]
    assert lines[-1] == f"ladder: {one}; losses: {one / 'losses.png'}"
    assert (one / "losses.png").stat().st_size > 5000
    told = json.loads((tmp_path / "one.json").read_text())
    assert [look["step"] for look in told["history"]] == [2, 3]
    assert (told["step"], told["environment"]["threads"]) == (3, 1)

    assert train("digits", two, *BRIEF, "--minutes", 1e-9) == 3
    assert capsys.readouterr().out == "stopped at step 1 of 3; the same command goes on from there\n"
    assert not (two / "ladder.json").exists()
    assert train("digits", two, *BRIEF, "--picture", tmp_path / "curves.svg") == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(f"losses: {tmp_path / 'curves.svg'}")
    assert all(torch.equal(*pair) for pair in zip(weights(one), weights(two), strict=True))
    assert load_ladder(one).about.held_out == load_ladder(two).about.held_out


def test_a_folder_of_pictures_is_trained_on_in_their_channels(tmp_path, capsys):
    rng, folder = np.random.default_rng(0), tmp_path / "pictures"
    folder.mkdir()
    for i in range(12):
        Image.fromarray(rng.integers(0, 256, (6 + i, 9, 4), np.uint8)).save(folder / f"{i}.png")
    assert train(folder, tmp_path / "out", *BRIEF, "--residual", "--predicts", "clean", "--weighting", "min-snr") == 0
    ladder = load_ladder(tmp_path / "out")
    assert ladder.shape == (3, 8, 8)
    assert (ladder.about.data, ladder.about.predicts, ladder.about.residual) == ("pictures", "clean", True)
    settings = ladder.about.training["settings"]
    assert (settings["distil"], settings["weighting"], settings["residual"]) == (0.0, "min-snr", True)
    assert ladder.about.training["environment"]["torch"] == torch.__version__


def asked(monkeypatch, *words):
    """What the command asks of :func:`train_ladder`."""
    found = {}

    def remember(images, folder, **options):
        found.update(options)
        return mlsde.diffusion.train.Trained(None, 0, [], "")

    monkeypatch.setattr(mlsde.diffusion.train, "train_ladder", remember)
    assert train("digits", "nowhere", *words) == 3
    return found


@pytest.mark.parametrize("ladder", LADDERS)
def test_every_ladder_by_name_has_its_rates(monkeypatch, ladder):
    rates = asked(monkeypatch, "--ladder", ladder)["learning_rates"]
    assert len(rates) == len(LADDERS[ladder][2])
    assert rates[:3] == (2e-3, 1e-3, 6e-4)


def test_options_reach_the_training(monkeypatch):
    usual = asked(monkeypatch)
    assert (usual["distil"], usual["residual"], usual["most_seconds"], usual["progress"]) == (
        0.5,
        False,
        math.inf,
        False,
    )
    words = ["--rates", "1e-3", "--distil", "0.25", "--minutes", "2", "--size", "16", "--teacher", "t", "--warmup", "7"]
    given = asked(monkeypatch, *words, "--average", "0.9", "--seed", "5", "--precision", "bfloat16", "--device", "cuda")
    expected = {
        "learning_rates": 1e-3, "distil": 0.25, "most_seconds": 120.0, "size": 16, "teacher": "t", "warmup": 7,
        "average": 0.9, "seed": 5, "precision": "bfloat16", "device": "cuda",
    }  # fmt: skip
    assert {name: given[name] for name in expected} == expected
    assert asked(monkeypatch, "--rates", "1e-3,2e-3")["learning_rates"] == (1e-3, 2e-3)


def empty_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"


def another_training(tmp_path):
    train("digits", tmp_path / "out", *BRIEF, "--minutes", 1e-9)
    return "digits"


def damaged_checkpoint(tmp_path):
    another_training(tmp_path)
    (tmp_path / "out" / "checkpoint.safetensors").write_bytes(b"damaged")
    return "digits"


REFUSED = {
    "no images": (lambda p: p / "nowhere", [], ["there is no file or folder", "nowhere"]),
    "empty folder": (empty_folder, [], ["empty'", "holds no images"]),
    "ladder": (None, ["--ladder", "huge"], ["ladder='huge'", "'colour'"]),
    "rates": (None, ["--rates", "fast"], ["rates='fast'", "commas"]),
    "number of rates": (None, ["--rates", "1e-3,1e-3"], ["learning_rates", "3", "2"]),
    "both": (None, ["--residual", "--distil", "0.5"], ["distil", "residual"]),
    "threads": (None, ["--threads", "0"], ["threads", "0"]),
    "minutes": (None, ["--minutes", "nan"], ["most_seconds", "nan"]),
    "batch": (None, ["--batch", "5000"], ["batch=5000", "1617"]),
    "size": (None, ["--size", "9"], ["sample_size=9"]),
    "picture": (None, ["--picture", "x.doc"], ["picture='x.doc'", ".png"]),
    "precision": (None, ["--precision", "float16"], ["precision='float16'", "CUDA"]),
    "device": (None, ["--device", "abacus"], ["device='abacus'"]),
    "teacher": (None, ["--teacher", "nobody"], ["there is no ladder in 'nobody'"]),
    "another training": (another_training, ["--seed", "1"], ["holds another training", "seed: 0 there, 1 here"]),
    "damaged checkpoint": (damaged_checkpoint, [], ["checkpoint.safetensors", "damaged"]),
}


@pytest.mark.parametrize("what", REFUSED)
def test_bad_input_is_told_in_a_sentence(tmp_path, capsys, what):
    make, words, told = REFUSED[what]
    images = "digits" if make is None else make(tmp_path)
    capsys.readouterr()
    assert train(images, tmp_path / "out", *BRIEF, *words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("mlsde train: ")
    assert err.count("\n") == 1
    assert [word for word in told if word not in err] == []


def test_a_folder_that_cannot_be_written_is_told_before_the_training(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert train("digits", tmp_path / "file", *BRIEF) == 2
    assert "cannot be made" in capsys.readouterr().err


def test_a_level_that_diverges_is_told(tmp_path, capsys):
    assert train("digits", tmp_path, *BRIEF, "--rates", "1e-3,1e30,1e-3") == 1
    assert "level 1, 2 diverged" in capsys.readouterr().err  # 2, and 1 that listens to it


def test_an_interruption_is_told(tmp_path, capsys, monkeypatch):
    def interrupted(*words, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(mlsde.diffusion.train, "train_ladder", interrupted)
    assert train("digits", tmp_path) == 130
    assert "goes on from the last checkpoint" in capsys.readouterr().err
