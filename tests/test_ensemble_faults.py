"""Faults of an ensemble: kills, full disks, damaged files, levels that fail, memory that does not suffice."""

import contextlib
import json
import os
import random
import re
import subprocess
import sys
import time

import ensemble_toys as toys
import psutil
import pytest
import torch

import mlsde
from mlsde import SDE, DriftHierarchy, EnsembleError, ensemble

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def finished(tmp_path):
    return toys.run(tmp_path), tmp_path


def resumed(folder):
    return toys.run(folder)


def test_a_finished_folder_computes_nothing(finished):
    found, folder = finished
    again = resumed(folder)
    assert (again.computed, again.found) == (0, 20) and torch.equal(again.ys, found.ys)
    assert again.evaluations == found.evaluations


def damages():
    def cut(data):
        return data[: len(data) // 2]

    def empty(_data):
        return b""

    def flip(place):
        def change(data):
            at = int(place * (len(data) - 1))
            return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]

        return change

    yield from [cut, empty, *(flip(place / 12) for place in range(13))]


@pytest.mark.parametrize("damage", list(damages()))
def test_a_chunk_that_is_cut_short_or_changed_is_computed_again(damage, finished):
    found, folder = finished
    file = folder / "chunk-000007.safetensors"
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    again = resumed(folder)
    assert (again.computed, again.found) == (1, 19)
    assert torch.equal(again.ys, found.ys) and file.read_bytes() == whole


def test_what_a_dead_process_had_half_written_is_removed_and_what_a_living_one_writes_is_not(finished):
    _, folder = finished
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left, written = (folder / f"chunk-000003.safetensors.{pid}.partial" for pid in (dead.pid, os.getpid()))
    for file in (left, written):
        file.write_bytes(b"half")
    resumed(folder)
    assert not left.exists() and written.exists()


def test_a_chunk_of_another_number_is_computed_again(finished):
    found, folder = finished
    (folder / "chunk-000007.safetensors").write_bytes((folder / "chunk-000008.safetensors").read_bytes())
    again = resumed(folder)
    assert (again.computed, again.found) == (1, 19) and torch.equal(again.ys, found.ys)


def test_states_are_missed_when_a_file_goes_while_they_are_read(finished):
    found, folder = finished
    (folder / "chunk-000003.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="chunk 3 is no longer whole"):
        _ = found.ys


def shifted(offset):
    def drift(t, y):
        return offset - y

    return drift


OTHERS = {
    "seed": ({"seed": 6}, "seed: 5 there, 6 here"),
    "n": ({"n": 210}, "n: 200 there, 210 here"),
    "chunk": ({"chunk": 20}, "chunk: 10 there, 20 here"),
    "method": ({"method": "heun"}, "method: 'euler' there, 'heun' here"),
    "steps": ({"steps": 21}, "grid: "),
    "a number that the drift closes over": ({"sde": SDE(shifted(2.0), 0.5)}, "drift.level 1: "),
    "costs": ({"sde": SDE(DriftHierarchy([shifted(1.0)], costs=[3.0]), 0.5)}, "costs: None there, [3.0] here"),
    "diffusion": ({"sde": SDE(shifted(1.0), 0.6)}, "diffusion: 0.5 there, 0.6 here"),
    "start": ({"sample_y0": torch.ones(1, 3)}, "sample_y0: "),
    "dtype": ({"sample_y0": torch.zeros(1, 3, dtype=torch.float64)}, "state: 'float32 (3,) on cpu' there"),
    "keep": ({"keep": mlsde.Statistics()}, "keep"),
    "save_at": ({"save_at": "steps"}, "save_at: None there, 'steps' here"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_folder_of_another_ensemble_is_refused_with_the_difference_named(name, tmp_path):
    given = {"sde": SDE(shifted(1.0), 0.5), "sample_y0": torch.zeros(1, 3), "n": 200, "t_span": (0, 1), "steps": 20}
    given |= {"seed": 5, "chunk": 10, "folder": tmp_path}
    ensemble(**given)
    ensemble(**(given | {"sde": SDE(shifted(1.0), 0.5)}))  # made anew, the same
    change, words = OTHERS[name]
    with pytest.raises(ValueError, match="holds another computation") as caught:
        ensemble(**(given | change))
    assert words in str(caught.value)


def called(scale, how="plain"):
    """An object that is called, of a class whose code is one or another."""

    class Level:
        def __init__(self):
            self.scale, self.calls = scale, []

        if how == "plain":

            def __call__(self, t, y):
                return -self.scale * y

        else:

            def __call__(self, t, y):
                return self.scale / y

    return Level()


def forwarded(scale, how="plain"):
    """A net of such a class."""

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("scale", torch.tensor(scale))

        if how == "plain":

            def forward(self, t, y):
                return -self.scale * y

        else:

            def forward(self, t, y):
                return self.scale / y

    return Net()


def decorated(k):
    @torch.no_grad()
    def drift(t, y):
        return -k * y

    return drift


def mapped(k):
    return torch.func.vmap(lambda y: -k * y)


def nested(k):
    """Reads a global of its module in a function within."""
    space = {"SCALE": k}
    exec("def drift(t, y):\n    return (lambda z: -SCALE * z)(y)", space)
    return space["drift"]


def attributed(k):
    net = torch.nn.Linear(2, 2)
    torch.nn.init.zeros_(net.weight)
    torch.nn.init.zeros_(net.bias)
    net.scale = k
    return net


def helped(k):
    class Level:
        if k == 1.0:

            def value(self, y):
                return -y

        else:

            def value(self, y):
                return y

        def __call__(self, t, y):
            return self.value(y)

    return Level()


def test_the_description_is_the_same_in_every_process():
    words = "from mlsde.chunks.describe import describe\n"
    words += "def f(t, y):\n    return y if 'a' in {'a', 'bb', 'cc', 'dd'} else -y\nprint(describe(f))"
    found = {
        subprocess.run(
            [sys.executable, "-c", words], capture_output=True, text=True, check=True,
            env=os.environ | {"PYTHONHASHSEED": str(seed)},
        ).stdout
        for seed in (1, 2, 3)
    }  # fmt: skip
    assert len(found) == 1


def test_the_description_tells_nets_apart_by_their_weights():
    from mlsde.chunks.describe import describe

    torch.manual_seed(0)
    net = torch.nn.Linear(3, 3)
    before = describe(net)
    assert describe(net) == before
    with torch.no_grad():
        net.weight[0, 0] += 1e-3
    assert describe(net) != before
    for made in (called, forwarded):
        assert describe(made(2.0)) == describe(made(2.0)) != describe(made(3.0))
        assert describe(made(2.0)) != describe(made(2.0, "other"))
    for made in (decorated, mapped, nested, attributed, helped):
        assert describe(made(1.0)) == describe(made(1.0)) != describe(made(2.0)), made.__name__
    scale = torch.tensor([2.0])
    assert describe(lambda t, y: scale * y) == describe(lambda t, y: scale * y)
    assert describe(lambda t, y: scale * y) != describe(lambda t, y: scale + y)
    json.dumps(describe({"a": [net, shifted(1.0), torch.float32, {"b": scale}]}))


def fails_at(chunks, how, times=10**9):
    """An equation whose level fails in some chunks, told by the initial states; so many times."""
    left = [times]

    def level(t, y):
        number = int(y[0, 0].round()) if y.abs().max() < 1e6 else -1
        if number in chunks and left[0] > 0:
            left[0] -= 1
            if how == "raise":
                raise RuntimeError("no convergence")
            return torch.full_like(y, float("nan"))
        return 0 * y

    return SDE(level)


def numbered(count=60, size=10):
    return (torch.arange(count) // size).float().view(-1, 1)


@pytest.mark.parametrize(("how", "words"), [("raise", "no convergence"), ("nan", "drift level 1 became NaN")])
@pytest.mark.parametrize("folder", [True, False])
def test_the_others_finish_and_the_failed_chunk_is_named_with_its_seed(how, words, folder, tmp_path):
    options = {"steps": 3, "chunk": 10, "folder": tmp_path if folder else None, "identity": "fails"}
    sde = fails_at({2, 4}, how)
    with pytest.raises(EnsembleError, match=words) as caught:
        ensemble(sde, numbered(), 60, (0, 1), **options)
    found = caught.value.ensemble
    assert found.done == 40 and [one.chunk for one in found.failures] == [2, 4]
    assert found.y1[:, 0].tolist() == [0.0] * 10 + [1.0] * 10 + [3.0] * 10 + [5.0] * 10
    first = found.failures[0]
    assert f"Chunk 2 (seed {first.seed})" in str(caught.value) and "2 of 6 chunks failed: 2, 4" in str(caught.value)
    assert torch.equal(first.y0, numbered()[20:30])
    with pytest.raises(RuntimeError, match=words):
        first.replay()
    with pytest.raises(RuntimeError, match=words):  # by hand
        mlsde.solve(sde, first.y0, (0, 1), steps=3, seed=first.seed)
    if folder:
        whole = ensemble(fails_at((), how), numbered(), 60, (0, 1), **options)
        assert (whole.computed, whole.found) == (2, 4) and torch.equal(whole.y1, numbered())


def test_a_mistake_does_not_claim_the_folder(tmp_path):
    for change in ({"method": "eulr"}, {"save_at": [7.0]}, {"level": 9}):
        with pytest.raises(ValueError, match=next(iter(change))):
            toys.run(tmp_path, **({"multilevel": None} | change))
    with pytest.raises(ValueError, match="budget"):
        toys.run(tmp_path, multilevel="auto", budget=1e-9)
    assert toys.run(tmp_path).computed == 20


def test_chunks_of_another_choice_are_computed_again(tmp_path):
    first = toys.run(tmp_path, multilevel="auto").ys
    choice = tmp_path / "choice.safetensors"
    whole = choice.read_bytes()
    choice.write_bytes(whole[:50])
    assert toys.run(tmp_path, multilevel="auto").found == 20  # the pilot chose the same again
    assert choice.read_bytes() == whole
    from mlsde.ensembles.choice import Settled

    other = Settled.from_bytes(whole)
    choice.write_bytes(Settled(other.times, (2,), other.table[:, :1] ** 0, None, 0.1, 0.0, "other").to_bytes())
    again = toys.run(tmp_path, multilevel="auto")
    assert (again.computed, again.found) == (20, 0) and again.chosen == "other"
    assert not torch.equal(again.ys, first)


def test_a_result_of_failures_alone_can_be_printed():
    sde = SDE(DriftHierarchy([lambda t, y: 1 / 0], costs=[1.0]))
    with pytest.raises(EnsembleError) as caught:
        ensemble(sde, torch.zeros(1, 1), 50, (0, 1), steps=3, chunk=10)
    assert "chunk 0 failed" in repr(caught.value.ensemble)


def test_a_process_gives_up_after_some_failures():
    tried = []

    def broken(t, y):
        tried.append(1)
        raise RuntimeError("always")

    with pytest.raises(EnsembleError, match=r"3 of 50 chunks failed: 0, 1, 2.*Not tried any more: 3, 4") as caught:
        ensemble(SDE(broken), torch.zeros(1, 1), 500, (0, 1), steps=3, chunk=10)
    assert len(tried) == 3 and caught.value.ensemble.done == 0


def test_statistics_of_what_was_finished_are_there_too():
    with pytest.raises(EnsembleError) as caught:
        ensemble(
            fails_at({2}, "raise"), numbered(), 60, (0, 1), steps=3, chunk=10,
            keep=mlsde.Statistics(functionals={"end": lambda ys: ys[-1]}),
        )  # fmt: skip
    found = caught.value.ensemble.statistics
    assert found.count == 50 and float(found.mean) == pytest.approx((0 + 1 + 3 + 4 + 5) / 5)


FULL = """
import resource, sys
sys.path.insert(0, {tests!r})
import ensemble_toys as toys
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))
try:
    toys.run({folder!r}, save_at="steps")
except OSError as error:
    print("told", error, *error.__notes__)
"""


def test_a_file_system_that_is_full_is_told_and_leaves_nothing_half_written(tmp_path):
    folder = str(tmp_path / "full")
    size = 2000  # enough for the manifest, too little for a chunk with all its steps
    words = FULL.format(tests=os.path.dirname(toys.__file__), limit=size, folder=folder)
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, timeout=120, check=True)
    assert "told" in done.stdout and "chunk 0 could not be kept" in done.stdout and "make room" in done.stdout
    assert os.listdir(folder) == ["manifest.json"]
    assert toys.run(folder, save_at="steps").computed == 20


FULL_FOR_ONE = """
import os, resource, signal, sys
sys.path.insert(0, {tests!r})
import ensemble_toys as toys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
if os.environ["RANK"] == "1":
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
try:
    toys.run({folder!r}, save_at="steps")
except OSError as error:
    sys.stdout.write(f"told {{error}} {{error.__notes__}}\\n")
"""


def test_a_chunk_that_one_process_could_not_keep_ends_them_all_with_the_same_words(tmp_path):
    folder, script = str(tmp_path / "full"), tmp_path / "full.py"
    script.write_text(FULL_FOR_ONE.format(tests=os.path.dirname(toys.__file__), folder=folder))
    head = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run(
        head, capture_output=True, text=True, timeout=120, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    told = [line for line in done.stdout.splitlines() if line.startswith("told ")]
    assert len(told) == 2 and len(set(told)) == 1 and "chunk 1 could not be kept" in told[0]
    again = toys.run(folder, save_at="steps")
    assert (again.computed, again.found) == (10, 10)  # the other one's were kept


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file"):
        toys.run(tmp_path / "file" / "below")


def processes(folder, count, pause):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    head = [sys.executable]
    if count > 1:
        head += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    return subprocess.Popen(
        [*head, toys.__file__, str(folder), str(pause), "states"], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


def workers(process):
    """Processes that run the toys themselves, and not the one that started them."""
    with contextlib.suppress(psutil.NoSuchProcess):
        first = psutil.Process(process)
        return first.children(recursive=True) or [first]
    return []


def kept(folder):
    return len(list(folder.glob("chunk-*.safetensors"))) if folder.exists() else 0


def kill_at_random(folder, count, rng, one):
    """Start, wait for some chunks more, and kill one process or all; true if it was killed before it was done."""
    child = processes(folder, count, 0.01)
    goal = kept(folder) + rng.randint(1, 4)
    while child.poll() is None and kept(folder) < goal:
        time.sleep(0.01)
    time.sleep(rng.uniform(0.0, 0.2))
    there = workers(child.pid)
    killed = child.poll() is None and bool(there)
    for process in [rng.choice(there)] if one and there else [psutil.Process(child.pid), *there] if killed else []:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    child.communicate(timeout=120)
    return killed


def survives(folder, kills, count, seed):
    rng = random.Random(seed)
    killed = 0
    for attempt in range(kills):
        killed += kill_at_random(folder, count, rng, one=bool(attempt % 2))
        if kept(folder) >= 18:  # begin again from what a kill left of a half
            for file in sorted(folder.glob("chunk-*"))[::2]:
                file.unlink()
    done = processes(folder, count, 0.0).communicate(timeout=300)[0]
    sums = re.findall(r"sum (\w{64})", done)
    assert len(sums) == count and set(sums) == {toys.check_sum(toys.run().ys)}
    assert not list(folder.glob("*.partial"))
    return killed


def test_kills_of_one_process_and_of_all_leave_no_trace(tmp_path):
    assert survives(tmp_path / "killed", 2, 2, 0) == 2


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 3])
def test_many_kills_leave_no_trace(count, tmp_path):
    assert survives(tmp_path / "killed", 12, count, count) >= 10
