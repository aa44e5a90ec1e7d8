"""Images drawn in chunks: the same on one process or two, after a kill, and from their files."""

import contextlib
import os
import subprocess
import sys
import time

import psutil
import pytest
import torch

from mlsde.cli import main
from mlsde.cli.output import own_device, tells
from mlsde.diffusion import pictures
from mlsde.diffusion.arena import Arena, Way
from mlsde.diffusion.data import as_bytes
from mlsde.diffusion.ladders import About, TrainedLadder, load_ladder, save_ladder
from mlsde.diffusion.nets import Architecture, megaflops, unet_ladder

pytestmark = pytest.mark.usefixtures("one_thread")

FEW = {"samples": 5, "chunk": 2, "budgets": (4.0,), "full_steps": 6, "seed": 3}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    models = tuple(unet_ladder(8, 1, (Architecture(1, (8,)), Architecture(1, (8, 16)))))
    prices = tuple(megaflops(model) for model in models)
    about = About("toys", "v", names=("a", "b"), megaflops=prices, held_out=(2.0, 1.0))
    return str(save_ladder(TrainedLadder(models, about), tmp_path_factory.mktemp("ladder")))


@pytest.fixture(scope="module")
def ladder(saved):
    return load_ladder(saved)


@pytest.fixture(scope="module")
def whole(ladder):
    return pictures.draw(ladder, **FEW)


def same(rows, others):
    return len(rows) == len(others) and all(
        torch.equal(a.images, b.images) and (a.name, a.cost, a.rmse, a.typical) == (b.name, b.cost, b.rmse, b.typical)
        for a, b in zip(rows, others, strict=True)
    )


def test_a_single_chunk_is_what_the_arena_draws_at_the_seed(ladder):
    rows = {row.name: row for row in pictures.draw(ladder, **(FEW | {"chunk": 8}))}
    arena = Arena(ladder, samples=5, seed=3, reference_steps=18, pilot_samples=4)
    assert torch.equal(rows["fine run of the top level"].images, as_bytes(arena.reference))
    ways = {"top level, DDIM": Way("ddim", 4, (1, 2)), "multilevel at 4": pictures.coins(ladder, "ode", 4.0)}
    for name, way in ways.items():
        done, row = arena.measure(way, 3), rows[name]
        assert torch.equal(row.images, as_bytes(done.states))
        assert (row.evaluations, row.cost) == (done.evaluations, done.cost)
        assert (row.rmse, row.typical) == pytest.approx((done.rmse, done.typical), rel=1e-5)


def test_chunks_have_noise_of_their_own_and_do_not_see_how_many_they_are(ladder, whole):
    images = whole[0].images
    assert images.shape == (5, 1, 8, 8)
    assert len({image.numpy().tobytes() for image in images}) == 5
    fewer = pictures.draw(ladder, **(FEW | {"samples": 4}))
    for row, other in zip(whole, fewer, strict=True):
        assert torch.equal(row.images[:4], other.images)


def test_errors_and_prices_of_several_chunks_are_those_of_all_their_images(ladder, whole):
    parts = []
    for number, samples in enumerate((2, 2, 1)):
        job = pictures._Job(ladder, "ode", 5, 2, 3, 6, (4.0,), lambda line: None)
        seed = job.seed_of(number)
        arena = Arena(ladder, samples=samples, seed=seed, reference_steps=18, variances=job.first.variances)
        parts.append((arena.measure(job.ways[1][1], seed), arena.reference))
    missed = torch.cat([done.states - fine for done, fine in parts])
    row = whole[2]
    assert row.name == "multilevel at 4"
    assert row.rmse == pytest.approx(float(missed.square().mean().sqrt()), rel=1e-5)
    typical = missed.flatten(1).square().mean(1).sqrt().log().mean().exp()
    assert row.typical == pytest.approx(float(typical), rel=1e-5)
    costs = [done.cost for done, _ in parts]
    assert row.cost == pytest.approx((2 * costs[0] + 2 * costs[1] + costs[2]) / 5)


def test_the_variances_are_measured_once(ladder, monkeypatch):
    measured, measure = [], Arena._measure_variances
    monkeypatch.setattr(
        Arena, "_measure_variances", lambda self, y0, path: measured.append(y0) or measure(self, y0, path)
    )
    pictures.draw(ladder, **(FEW | {"samples": 3, "chunk": 1}))
    assert len(measured) == 1


def test_a_folder_goes_on_where_it_was_left_and_draws_what_is_missing_alone(ladder, whole, tmp_path, monkeypatch):
    assert same(pictures.draw(ladder, **FEW, folder=tmp_path), whole)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) == 3
    files[1].write_bytes(files[1].read_bytes()[:-9])
    drawn, measure = [], Arena.measure
    monkeypatch.setattr(Arena, "measure", lambda self, way, seed: drawn.append(seed) or measure(self, way, seed))
    assert same(pictures.draw(ladder, **FEW, folder=tmp_path), whole)
    assert len(drawn) == 5 and len(set(drawn)) == 1  # five ways of one chunk
    assert same(pictures.draw(ladder, **FEW, folder=tmp_path), whole)
    assert len(drawn) == 5


@pytest.mark.parametrize(
    ("change", "words"),
    [({"seed": 4}, "seed: 3 there, 4 here"), ({"budgets": (5.0,)}, "ways: "), ({"equation": "sde"}, "equation: ")],
)
def test_a_folder_of_other_images_is_refused(change, words, ladder, tmp_path):
    pictures.draw(ladder, **(FEW | {"samples": 1}), folder=tmp_path)
    with pytest.raises(ValueError, match="holds another computation") as caught:
        pictures.draw(ladder, **(FEW | {"samples": 1} | change), folder=tmp_path)
    assert words in str(caught.value)


def test_a_folder_of_another_net_is_refused(saved, ladder, tmp_path):
    pictures.draw(ladder, **(FEW | {"samples": 1}), folder=tmp_path)
    other = load_ladder(saved)
    with torch.no_grad():
        next(other.models[1].parameters()).view(-1)[0] += 1e-3
    with pytest.raises(ValueError, match=r"holds another computation \(nets: "):
        pictures.draw(other, **(FEW | {"samples": 1}), folder=tmp_path)


def test_a_chunk_that_fails_is_named_after_the_others_are_drawn(ladder, whole, tmp_path, monkeypatch):
    measure, bad = Arena.measure, pictures._Job(ladder, "ode", 5, 2, 3, 6, (4.0,), print).seed_of(1)

    def failing(self, way, seed):
        if seed == bad:
            raise RuntimeError("no images")
        return measure(self, way, seed)

    with monkeypatch.context() as patch:
        patch.setattr(Arena, "measure", failing)
        with pytest.raises(RuntimeError, match="no images") as caught:
            pictures.draw(ladder, **FEW, folder=tmp_path)
    assert caught.value.__notes__[-1].startswith("raised by 1 of 3 chunks of images; the others are in ")
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    assert same(pictures.draw(ladder, **FEW, folder=tmp_path), whole)


@pytest.mark.parametrize("change", [{"chunk": 0}, {"samples": 0}, {"seed": -1}])
def test_counts_that_make_no_sense_are_refused(change, ladder):
    with pytest.raises(ValueError, match=next(iter(change))):
        pictures.draw(ladder, **(FEW | change))


def command(saved, folder, picture, processes=1):
    head = [sys.executable]
    if processes > 1:
        head += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    words = ["-m", "mlsde", "sample", saved, "--samples", "5", "--chunk", "2", "--budgets", "4", "--steps", "6"]
    return [*head, *words, "--seed", "3", "--folder", str(folder), "--picture", str(picture)]


def test_images_of_two_processes_of_which_one_was_killed_are_those_of_one(saved, ladder, whole, tmp_path):
    folder = tmp_path / "pieces"
    options = {"env": os.environ | {"OMP_NUM_THREADS": "1"}, "text": True}
    child = subprocess.Popen(command(saved, folder, tmp_path / "a.png"), stderr=subprocess.DEVNULL, **options)
    while child.poll() is None and not list(folder.glob("*.safetensors")):
        time.sleep(0.002)
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(child.pid).kill()
    child.wait()
    left = len(list(folder.glob("*.safetensors")))
    assert left >= 1
    (folder / "chunk-000000.safetensors").unlink()  # something is missing, however late it was killed
    done = subprocess.run(
        command(saved, folder, tmp_path / "b.png", 2), capture_output=True, timeout=120, check=True, **options
    )
    assert done.stdout.count("picture: ") == 1 and (tmp_path / "b.png").exists()  # the first of them tells
    assert len(list(folder.glob("*.safetensors"))) == 3 and not list(folder.glob("*.partial"))
    assert same(pictures.draw(ladder, **FEW, folder=folder), whole)


def test_a_folder_that_cannot_be_made_is_told(saved, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert main(["sample", saved, "--samples", "1", "--steps", "4", "--folder", str(tmp_path / "file" / "below")]) == 2
    assert "mlsde sample: " in capsys.readouterr().err


def test_the_first_of_several_processes_tells_and_each_has_a_device_of_its_own(monkeypatch):
    assert tells() and own_device("cuda") == "cuda"
    for rank in range(3):
        monkeypatch.setenv("WORLD_SIZE", "3")
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        chosen = []
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
        monkeypatch.setattr(torch.cuda, "current_device", lambda chosen=chosen: chosen[-1])
        assert tells() == (rank == 0)
        assert own_device("cuda") == f"cuda:{rank % 2}" and own_device("cpu") == "cpu"
