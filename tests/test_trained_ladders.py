"""Trained ladders on disk: what comes back, in half precision, and what is said of damaged ones; teachers."""

import json
import pickle
from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DModel
from safetensors.torch import load_file, save_file
from training_toys import refused

import mlsde
from mlsde.diffusion.data import load_images
from mlsde.diffusion.denoisers import Denoiser, denoiser_ladder
from mlsde.diffusion.ladders import About, TrainedLadder, known_device, load_ladder, save_ladder
from mlsde.diffusion.nets import Architecture, megaflops, unet_ladder
from mlsde.diffusion.samplers import sample
from mlsde.diffusion.train import loss_curves, train_ladder
from mlsde.diffusion.variance_preserving import DiscreteVariancePreserving
from mlsde.drawing import ENDINGS

torch.set_num_threads(1)

ABOUT = About(
    data="toys", predicts="v", names=("small", "large"), megaflops=(1.0, 9.0), held_out=(0.3, 0.2),
    tuned={"ode": {"steps": 20}}, training={"date": "2026-01-01"},
)  # fmt: skip
PAGE, WEIGHTS = "ladder.json", "diffusion_pytorch_model.safetensors"
X = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
TIMES = torch.tensor([10.0, 700.0])


def nets(seed=0):
    return tuple(unet_ladder(8, 1, (Architecture(2, (8,)), Architecture(1, (8, 16))), seed=seed))


@pytest.fixture
def folder(tmp_path):
    return save_ladder(TrainedLadder(nets(), ABOUT), tmp_path / "ladder")


def files(folder):
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


@torch.no_grad()
def answers(models):
    return [model(X, TIMES).sample for model in models]


# there and back


def test_a_ladder_comes_back_near_in_half_precision_of_its_weights(folder):
    models, again = nets(), load_ladder(folder)
    assert again.about == ABOUT
    assert again.shape == (1, 8, 8)
    for model, loaded in zip(models, again.models, strict=True):
        weights = loaded.state_dict()
        assert all(torch.equal(weights[name], value.half().float()) for name, value in model.state_dict().items())
        assert (loaded.training, next(loaded.parameters()).requires_grad) == (False, False)
    for exact, near in zip(answers(models), answers(again.models), strict=True):
        torch.testing.assert_close(near, exact, rtol=0, atol=5e-3)
        assert not torch.equal(near, exact)
    assert len({float(out.sum()) for out in answers(models)}) == 2


def test_what_was_read_is_written_as_it_was(folder, tmp_path):
    again = save_ladder(load_ladder(folder), tmp_path / "again")
    assert files(folder) == files(again) == sorted([
        PAGE, "level-1/config.json", f"level-1/{WEIGHTS}", "level-2/config.json", f"level-2/{WEIGHTS}",
    ])  # fmt: skip
    for name in files(folder):
        if "config" not in name:
            assert (folder / name).read_bytes() == (again / name).read_bytes(), name


def test_saving_leaves_the_ladder_alone_and_its_files_to_be_read_by_all(tmp_path):
    ladder = TrainedLadder(nets(), ABOUT)
    before = answers(ladder.models)
    folder = save_ladder(ladder, tmp_path)
    assert all(torch.equal(*pair) for pair in zip(before, answers(ladder.models), strict=True))
    (tmp_path / "plain").touch()
    assert {(folder / name).stat().st_mode for name in files(folder)} == {(tmp_path / "plain").stat().st_mode}


def test_nets_of_diffusers_make_a_ladder_too(tmp_path):
    net = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8,), layers_per_block=1,
        down_block_types=("AttnDownBlock2D",), up_block_types=("AttnUpBlock2D",), norm_num_groups=4,
        attention_head_dim=4,
    ).eval()  # fmt: skip
    again = load_ladder(save_ladder(TrainedLadder((net,), About("x")), tmp_path))
    assert type(again.models[0]) is UNet2DModel
    torch.testing.assert_close(answers(again.models)[0], answers([net])[0], rtol=0, atol=5e-3)


def test_a_ladder_that_is_replaced_is_never_half_of_each(folder, monkeypatch):
    def is_killed(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("mlsde.diffusion.ladders.write_atomically", is_killed)
        with pytest.raises(KeyboardInterrupt):
            save_ladder(TrainedLadder(nets(seed=1), ABOUT), folder)
    with pytest.raises(FileNotFoundError):
        load_ladder(folder)
    save_ladder(TrainedLadder(nets(seed=1)[:1], About("one")), folder)
    assert len(load_ladder(folder)) == 1


def test_a_ladder_tells_what_it_is(folder):
    lines = repr(load_ladder(folder)).splitlines()
    assert lines[0] == "TrainedLadder of toys: 2 levels that predict v"
    assert lines[1] == "  level 1: 10,724 weights, 1 MFLOP, held-out error 0.30000"
    assert "held-out" not in repr(TrainedLadder(nets(), About("toys")))


def test_a_trained_ladder_draws_samples(folder):
    ladder, process = load_ladder(folder), DiscreteVariancePreserving.linear()
    denoisers = [Denoiser(model, ladder.about.predicts) for model in ladder.models]
    drift = denoiser_ladder(denoisers, process=process, costs=ladder.about.megaflops)
    y0 = process.prior((2, *ladder.shape), torch.Generator().manual_seed(0))
    rule = mlsde.Multilevel(mlsde.Constant((1.0, 0.5)), coins="systematic", correction="hold")
    solution = sample(process, drift, y0, sampler="ddim", steps=6, multilevel=rule, seed=0)
    assert torch.isfinite(solution.y1).all()
    assert 1 <= solution.stats.evaluations[1] < 6


# damaged ones


def damaged(folder, what):
    weights, config, page = folder / "level-2" / WEIGHTS, folder / "level-2" / "config.json", folder / PAGE

    def rewrite(file, **changes):
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    def tensors(change):
        found = load_file(weights)
        change(found)
        save_file(found, weights)

    {
        "no weights": weights.unlink,
        "no config": config.unlink,
        "truncated": lambda: weights.write_bytes(weights.read_bytes()[:-1000]),
        "empty": lambda: weights.write_bytes(b""),
        "pickled": lambda: (weights.unlink(), (folder / "level-2" / "model.bin").write_bytes(pickle.dumps({}))),
        "pickle by that name": lambda: weights.write_bytes(pickle.dumps({"conv": [1.0]})),
        "lacks a tensor": lambda: tensors(lambda found: found.pop("unet.conv_in.bias")),
        "has one more": lambda: tensors(lambda found: found.update(more=torch.zeros(3))),
        "of another net": lambda: weights.write_bytes((folder / "level-1" / WEIGHTS).read_bytes()),
        "damaged config": lambda: config.write_text("{"),
        "config of a list": lambda: config.write_text("[]"),
        "config of nonsense": lambda: rewrite(config, widths="abc"),
        "config of another class": lambda: rewrite(config, _class_name="UNet2DModel"),
        "damaged page": lambda: page.write_text("{"),
        "page of a list": lambda: page.write_text("[]"),
        "page of another format": lambda: rewrite(page, format=2),
        "page without data": lambda: page.write_text('{"format": 1, "levels": 1, "classes": ["PatchUNet"]}'),
        "page of no levels": lambda: rewrite(page, levels=0),
        "page of more levels": lambda: rewrite(page, levels=3),
        "page of more errors": lambda: rewrite(page, held_out=[0.1, 0.2, 0.3]),
        "unknown class": lambda: rewrite(page, classes=["PatchUNet", "HuggingNet"]),
        "no net of diffusers": lambda: rewrite(page, classes=["PatchUNet", "DDPMPipeline"]),
    }[what]()


DAMAGES = {
    "no weights": ["level-2'", "lacks", WEIGHTS],
    "no config": ["level-2'", "lacks", "config.json"],
    "truncated": [f"level-2/{WEIGHTS}'", "damaged"],
    "empty": [f"level-2/{WEIGHTS}'", "damaged"],
    "pickled": ["level-2'", "model.bin is a pickle, which is not read", "convert it to safetensors"],
    "pickle by that name": [f"level-2/{WEIGHTS}'", "damaged"],
    "lacks a tensor": [f"level-2/{WEIGHTS}'", "nothing for unet.conv_in.bias", "(8,)"],
    "has one more": [f"level-2/{WEIGHTS}'", "(3,) for more", "asks for nothing"],
    "of another net": [f"level-2/{WEIGHTS}'", "unet.conv_in.weight", "(8, 4, 3, 3)", "(8, 1, 3, 3)"],
    "damaged config": ["level-2/config.json'", "describes no net"],
    "config of a list": ["level-2/config.json'", "describes no net"],
    "config of nonsense": ["level-2/config.json'", "describes no net"],
    "config of another class": ["level-2/config.json'", "UNet2DModel", "PatchUNet"],
    "damaged page": [f"{PAGE}'", "damaged"],
    "page of a list": [f"{PAGE}'", "damaged"],
    "page of another format": [f"{PAGE}'", "format 2", "reads 1"],
    "page without data": [f"{PAGE}'", "damaged", "data"],
    "page of no levels": [f"{PAGE}'", "levels", "0"],
    "page of more levels": [f"{PAGE}'", "3 levels", "2 classes"],
    "page of more errors": [f"{PAGE}'", "held_out", "2 levels", "got 3"],
    "unknown class": ["level-2'", "'HuggingNet'", "neither mlsde nor diffusers"],
    "no net of diffusers": ["level-2'", "'DDPMPipeline'"],
}


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_ladder_is_refused_in_a_sentence_that_names_the_file(folder, what):
    damaged(folder, what)
    refused(lambda: load_ladder(folder), ValueError, *DAMAGES[what])


def test_what_is_no_ladder_is_refused(tmp_path):
    for name in (tmp_path, tmp_path / "nowhere", str(tmp_path / "file.bin")):
        refused(lambda name=name: load_ladder(name), FileNotFoundError, "there is no ladder", str(name), PAGE)
    refused(lambda: load_ladder("nowhere"), FileNotFoundError, "there is no ladder in 'nowhere'")
    refused(lambda: load_ladder(tmp_path, device="abacus"), ValueError, "device='abacus'")


def test_ladders_that_cannot_be_are_refused(tmp_path):
    refused(lambda: TrainedLadder(nets()[:1], ABOUT), ValueError, "about.names", "1 levels", "2")
    models = nets()
    next(models[1].parameters()).data[0] = 1e6  # beyond half precision
    refused(lambda: save_ladder(TrainedLadder(models, ABOUT), tmp_path), ValueError, "level 2", "half precision")
    assert files(tmp_path) == []


def test_devices_are_known_or_not():
    assert known_device("cpu") == known_device(torch.device("cpu")) == torch.device("cpu")
    for name in ("abacus", "", 3.5, None):
        refused(lambda name=name: known_device(name), ValueError, "device=", "'cpu' or 'cuda'")
    refused(lambda: known_device("cuda:99"), ValueError, "cuda:99", "not there")


# from images to a ladder


TINY = {
    "ladder": "digits", "steps": 2, "batch": 8, "evaluate_every": 1, "warmup": 0, "learning_rates": 1e-3, "seed": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A ladder of the digits after two steps, of which the second was made by a second call."""
    folder = tmp_path_factory.mktemp("trained")
    first = train_ladder("digits", folder, most_seconds=1e-9, **TINY)
    assert (first.ladder, first.step, len(first.history)) == (None, 1, 1)
    lines = []
    images = load_images("digits")
    return folder, train_ladder(images, folder, report=lines.append, about={"date": "today"}, **TINY), lines


def test_training_ends_with_a_ladder_on_disk_and_a_picture(trained):
    folder, done, lines = trained
    assert (done.step, [look["step"] for look in done.history], len(lines)) == (2, [1, 2], 1)
    assert (folder / "losses.png").read_bytes().startswith(b"\x89PNG")
    assert done.picture == str(folder / "losses.png")
    loaded = load_ladder(folder)
    assert loaded.about == done.ladder.about
    about = loaded.about
    assert (about.data, about.predicts, about.timesteps, about.residual) == ("digits", "v", 1000, False)
    assert about.megaflops == tuple(megaflops(model) for model in loaded.models)
    assert about.names[0] == "0.975 MFLOP"
    assert about.training["date"] == "today"
    assert about.training["settings"]["seed"] == 3
    assert about.training["trained"] == repr(load_images("digits"))
    for exact, near in zip(answers(done.ladder.models), answers(loaded.models), strict=True):
        torch.testing.assert_close(near, exact, rtol=0, atol=1e-2)


def test_a_ladder_trained_in_two_calls_is_that_of_one(trained, tmp_path):
    straight = train_ladder("digits", tmp_path, **TINY)
    assert straight.history == trained[1].history
    assert straight.ladder.about.held_out == trained[1].ladder.about.held_out
    for mine, theirs in zip(straight.ladder.models, trained[1].ladder.models, strict=True):
        assert all(torch.equal(*pair) for pair in zip(mine.parameters(), theirs.parameters(), strict=True))


def test_the_top_of_a_trained_ladder_teaches_another(trained, tmp_path):
    folder, _, _ = trained
    done = train_ladder("digits", tmp_path, teacher=folder, distil=0.5, **TINY)
    top, given = done.ladder.models[-1], load_ladder(folder).models[-1]
    assert all(torch.equal(*pair) for pair in zip(top.parameters(), given.parameters(), strict=True))
    assert [len(look["train"]) for look in done.history] == [2, 2]
    assert done.ladder.about.training["teacher"] == str(folder)


def test_a_teacher_that_cannot_teach_is_refused_before_the_first_step(trained, tmp_path):
    _, done, _ = trained
    models = done.ladder.models

    def taught_by(changes=None, models=models, **options):
        other = save_ladder(TrainedLadder(models, replace(done.ladder.about, **(changes or {}))), tmp_path / "teacher")
        return lambda: train_ladder("digits", tmp_path / "new", teacher=other, **{**TINY, **options})

    refused(taught_by(predicts="noise"), ValueError, "teacher=", "predicts v", "expected noise")
    refused(taught_by({"betas": (1e-4, 0.01)}), ValueError, "teacher=", "betas (0.0001, 0.01)")
    refused(taught_by({"timesteps": 100}), ValueError, "teacher=", "timesteps 100")
    refused(taught_by({"residual": True}), ValueError, "teacher and residual")
    refused(taught_by(residual=True), ValueError, "teacher and residual")
    small = {"names": (), "megaflops": (), "held_out": ()}
    refused(taught_by(small, models=models[:1]), ValueError, "teacher=", "0.975 MFLOP", "level 2")
    other = tuple(unet_ladder(16, 1, (Architecture(1, (64,)),)))
    refused(taught_by(small, models=other), ValueError, "teacher=", "(1, 16, 16)", "(1, 8, 8)")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ladder": "huge"}, ["ladder='huge'", "'digits'"]),
        ({"picture": "losses.doc"}, ["picture='losses.doc'", *ENDINGS]),
        ({"size": 9}, ["sample_size=9", "pad"]),
        ({"predicts": "flow"}, ["predicts='flow'"]),
        ({"most_seconds": -1.0}, ["most_seconds", "-1"]),
        ({"device": "abacus"}, ["device='abacus'"]),
    ],
)
def test_bad_arguments_are_refused_before_the_first_step(tmp_path, options, words):
    refused(lambda: train_ladder("digits", tmp_path, **{**TINY, **options}), ValueError, *words)
    assert files(tmp_path) == []


def test_images_that_are_given_keep_their_size(tmp_path):
    images = load_images("digits")
    refused(lambda: train_ladder(images, tmp_path, size=16, **TINY), ValueError, "size=16", "of size 8")


def test_curves_are_drawn_for_any_number_of_levels(tmp_path):
    history = [{"step": n, "train": [], "held_out": [0.1 * k / n for k in range(1, 10)]} for n in (1, 2)]
    for ending in ENDINGS:
        assert (tmp_path / f"deep/x{ending}").samefile(loss_curves(history, tmp_path / f"deep/x{ending}"))
