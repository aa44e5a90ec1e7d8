"""Ensembles: chunks that can be found again, states and statistics, one process or several."""

import os
import re
import subprocess
import sys
from pathlib import Path

import ensemble_toys as toys
import pytest
import torch

import mlsde
from mlsde import SDE, DriftHierarchy, Multilevel, Statistics, ensemble

pytestmark = pytest.mark.usefixtures("one_thread")


def child(*words, processes=1):
    """Run the toys in other processes; what each printed."""
    head = [sys.executable]
    if processes > 1:
        head += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*head, toys.__file__, *words], capture_output=True, text=True, env=environment, timeout=300, check=True
    )
    return [list(found) for found in re.findall(r"sum (\w{64}) (\d+) (\d+);", done.stdout)]


def test_a_chunk_is_the_solve_of_its_seed():
    found = toys.run()
    assert (found.done, found.computed, found.found, found.ys.shape) == (toys.N, 20, 0, (1, toys.N, 3))
    starts = found.store.get(3).note
    torch.manual_seed(0)  # whatever the user does with torch's own generator
    again = toys.run()
    assert torch.equal(again.ys, found.ys)
    from mlsde.ensembles.starts import Starts

    y0 = Starts(toys.start, toys.N, 5, toys.CHUNK)
    one = mlsde.solve(
        toys.equation(), y0.draw(3), toys.SPAN, steps=toys.STEPS, multilevel=toys.rule(), seed=starts["seed"]
    )
    assert torch.equal(one.y1, found.y1[30:40])
    assert starts["seed"] == y0.noise_seed(3)


def test_the_users_generator_is_left_as_it_was():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    toys.run()
    assert torch.equal(torch.rand(2), expected)


def test_chunks_differ_from_each_other_and_by_seed():
    found, other = toys.run(), toys.run(seed=6)
    parts = [*found.chunks(), *other.chunks()]
    assert len({toys.check_sum(part) for part in parts}) == len(parts) == 40


def test_the_last_chunk_may_be_smaller_and_steps_may_be_saved():
    found = ensemble(SDE(toys.coarse, 1.0), toys.start, 25, (0, 1), steps=4, chunk=10, save_at="steps")
    assert [part.shape for part in found.chunks()] == [(5, 10, 3), (5, 10, 3), (5, 5, 3)]
    assert found.ts.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert found.y1.shape == (25, 3)


def test_initial_states_may_be_one_for_all_or_one_for_each():
    sde = SDE(DriftHierarchy([lambda t, y: 0 * y]))
    each = torch.arange(6.0).view(6, 1)
    assert torch.equal(ensemble(sde, each, 6, (0, 1), steps=2, chunk=4).y1, each)
    assert torch.equal(ensemble(sde, each[2:3], 5, (0, 1), steps=2, chunk=4).y1, torch.full((5, 1), 2.0))


def test_evaluations_and_cost_are_those_of_the_runs():
    found = toys.run()
    by_hand = [piece["evaluations"] for piece in (found.store.get(k).note for k in range(20))]
    mean = torch.tensor(by_hand, dtype=torch.float64).mean(0)
    assert found.evaluations == pytest.approx(mean.tolist())
    assert found.cost == pytest.approx(float(mean @ torch.tensor([1.0, 10.0], dtype=torch.float64)))
    assert found.full_cost == 10.0 * toys.STEPS and found.cost < found.full_cost
    assert "times less than the top level" in repr(found)


def test_a_level_that_draws_numbers_itself_is_reproduced():
    sde = SDE(lambda t, y: torch.rand_like(y) - y)
    first, again = (ensemble(sde, torch.zeros(1, 1), 40, (0, 1), steps=5, chunk=10).y1 for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first[:10], first[10:20])


def test_what_levels_draw_is_not_what_the_initial_states_were_drawn_from():
    drawn = []

    def level(t, y):
        drawn.append(torch.randn_like(y))
        return drawn[-1]

    ensemble(SDE(level), lambda count: torch.randn(count, 1), 20_000, (0, 1), steps=1, chunk=20_000)
    found = ensemble(SDE(level), lambda count: torch.randn(count, 1), 20_000, (0, 1), steps=1, chunk=20_000).y1
    assert float(found.var()) == pytest.approx(2.0, abs=0.1)  # 4 if they were the same


def test_saved_times_make_chunks_smaller():
    sde = SDE(lambda t, y: -y)
    few = ensemble(sde, torch.zeros(1, 2**12), 64, (0, 1), steps=2)
    many = ensemble(sde, torch.zeros(1, 2**12), 64, (0, 1), steps=200, save_at="steps")
    assert few.chunk == 64 and many.chunk == 8 * 2**18 // (2**12 * 201)


def test_without_a_chunk_size_shared_coins_make_many_chunks_and_their_absence_few():
    few = ensemble(SDE(toys.fine, 0.5), toys.start, 640, (0, 1), steps=2)
    many = ensemble(toys.equation(), toys.start, 640, (0, 1), steps=2, multilevel=toys.rule())
    assert few.chunk == 640 and many.chunk == 20
    apart = Multilevel(mlsde.Constant([1.0, 0.3]), share="sample")
    assert ensemble(toys.equation(), toys.start, 640, (0, 1), steps=2, multilevel=apart).chunk == 640
    large = ensemble(SDE(lambda t, y: -y), torch.zeros(1, 2**17), 5, (0, 1), steps=1)
    assert large.chunk == 2


def test_a_pilot_is_run_once_and_its_choice_is_kept(tmp_path):
    calls = []

    def top(t, y):
        calls.append(len(y))
        return -torch.sin(y)

    sde = SDE(DriftHierarchy([toys.coarse, top], costs=[1.0, 20.0]), 0.5)
    options = {"steps": 50, "multilevel": "auto", "chunk": 100, "identity": "sine"}
    first = ensemble(sde, toys.start, 1000, (0, 1), folder=tmp_path, **options)
    assert first.chosen is not None and 0 < first.pilot_cost <= 0.1 * first.full_cost
    (tmp_path / "chunk-000004.safetensors").unlink()
    calls.clear()
    again = ensemble(sde, toys.start, 1000, (0, 1), folder=tmp_path, **options)
    assert set(calls) == {100} and (again.computed, again.found) == (1, 9)  # no pilot, one chunk
    assert torch.equal(again.ys, first.ys) and again.chosen == first.chosen
    plain = ensemble(sde, toys.start, 1000, (0, 1), tol=0.5, chunk=100)
    assert plain.error is not None and plain.error < 0.5


def test_every_kind_of_choice_is_the_same_from_its_file():
    from mlsde.calibration import calibrate
    from mlsde.ensembles.choice import Settled

    y0 = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    known = calibrate(toys.equation(), y0, toys.SPAN, steps=32)
    for budget in (8.0, 60.0, 200.0):
        found = known.recommend(budget=budget)
        rule = found.multilevel
        settled = Settled(
            found.times, found.levels, found.table(), rule and (rule.coins, rule.correction, rule.share), 0.1, 1.0, "-"
        )
        sde, options = Settled.from_bytes(settled.to_bytes()).arguments(toys.equation())
        assert torch.equal(mlsde.solve(sde, y0, seed=1, **options).y1, found.solve(y0, seed=1).y1)


def test_a_choice_of_levels_by_time_is_the_same_from_its_file():
    import numpy as np

    from mlsde.ensembles.choice import Settled

    times = np.linspace(0.0, 1.0, 11)
    table = np.repeat([[1.0, 0.0], [0.0, 1.0]], [4, 6], axis=0)
    settled = Settled(times, (1, 2), table, None, float("nan"), 0.0, "stitched")
    sde, options = Settled.from_bytes(settled.to_bytes()).arguments(toys.equation())
    found = mlsde.solve(sde, torch.zeros(2, 3), seed=1, **options)
    assert found.stats.evaluations == (4.0, 6.0)


def test_processes_that_hold_chunks_in_memory_all_return_the_same_bits():
    assert child("-", "0", "states", processes=2) == [[toys.check_sum(toys.run().ys), "20", "0"]] * 2


def test_processes_that_share_a_folder_return_the_same_bits_and_leave_it_whole(tmp_path):
    found = toys.run(keep=Statistics(quantiles=[0.1, 0.9]))
    expected = toys.check_sum(torch.cat([found.statistics.mean, found.statistics.quantiles[:, 0]]))
    assert child(str(tmp_path / "shared"), "0", "statistics", processes=3) == [[expected, "20", "0"]] * 3
    again = toys.run(tmp_path / "shared", keep=Statistics(quantiles=[0.1, 0.9]))
    assert (again.computed, again.found) == (0, 20) and torch.equal(again.statistics.mean, found.statistics.mean)


BAD = {
    "n": ({"n": 0}, "n must be a positive integer"),
    "sample_y0": ({"sample_y0": 3}, "sample_y0 must be callable"),
    "states": ({"sample_y0": torch.zeros(3, 1)}, "sample_y0 holds 3 states, but n=200"),
    "count": ({"sample_y0": lambda count: torch.zeros(count + 1, 1)}, "returned 2 states, expected 1"),
    "kind": ({"sample_y0": lambda count: [0.0] * count}, "what sample_y0 returned must be a torch.Tensor"),
    "keep": ({"keep": "means"}, "keep='means' is not known"),
    "chunk": ({"chunk": 0}, "chunk must be a positive integer"),
    "steps": ({"steps": None}, "give one of steps="),
    "level": ({"level": 3}, "level must be within 1"),
    "method": ({"method": "rk4"}, "method='rk4' is not known"),
    "save_at": ({"save_at": [2.0]}, "save_at must lie between"),
    "seed": ({"seed": -1}, "seed must not be negative"),
    "coins": ({"multilevel": Multilevel(mlsde.Constant([1.0]), seed=3)}, "multilevel has a seed of its own"),
    "rule": ({"multilevel": "best"}, "multilevel must be an mlsde.Multilevel"),
    "budget": ({"multilevel": Multilevel(mlsde.Constant([1.0])), "budget": 3.0}, 'budget= goes with multilevel="auto"'),
    "both": ({"multilevel": "auto", "level": 1}, "give one of the two"),
    "failures": ({"most_failures": 0}, "most_failures must be"),
    "folder": ({"folder": 3}, "folder must be the path of a folder"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named_before_the_first_step(name):
    change, words = BAD[name]
    seen = []

    def drift(t, y):
        seen.append(t)
        return -y

    given = {"sample_y0": torch.zeros(1, 1), "n": 200, "t_span": (0, 1), "steps": 5} | change
    with pytest.raises((TypeError, ValueError), match=words.split("'")[0].replace("(", r"\(")) as caught:
        ensemble(SDE(drift), given.pop("sample_y0"), given.pop("n"), **given)
    assert words in str(caught.value) and not seen


def test_it_wants_an_equation():
    with pytest.raises(TypeError, match=r"sde must be an mlsde\.SDE"):
        ensemble(lambda t, y: -y, torch.zeros(1, 1), 5, (0, 1), steps=2)


def test_states_that_change_their_kind_are_refused():
    kinds = iter([torch.float32, torch.float32, torch.float64])
    source = lambda count: torch.zeros(count, 1, dtype=next(kinds))  # noqa: E731
    with pytest.raises(mlsde.EnsembleError, match="make the dtype of its states always the same"):
        ensemble(SDE(lambda t, y: -y), source, 4, (0, 1), steps=2, chunk=2)


def test_half_precision_is_kept_as_it_is(tmp_path):
    y0 = torch.ones(1, 2, dtype=torch.bfloat16)
    found = ensemble(SDE(lambda t, y: -y, 0.1), y0, 6, (0, 1), steps=4, chunk=3, folder=tmp_path)
    assert found.ys.dtype == torch.bfloat16
    assert torch.equal(ensemble(SDE(lambda t, y: -y, 0.1), y0, 6, (0, 1), steps=4, chunk=3).ys, found.ys)


def test_files_are_plain_safetensors(tmp_path):
    from safetensors.torch import load_file

    found = toys.run(tmp_path)
    held = load_file(tmp_path / "chunk-000002.safetensors")
    assert torch.equal(held["ys"], found.ys[:, 20:30])
    assert sorted(path.suffix for path in Path(tmp_path).iterdir()) == [".json", *[".safetensors"] * 20]


REFUSED = """
import sys
sys.path.insert(0, {tests!r})
import ensemble_toys as toys
try:
    toys.run({folder!r}, seed=6) if {case!r} == "folder" else toys.run(multilevel="auto", budget=1e-9)
except ValueError as error:
    sys.stdout.write(f"refused: {{error}}\\n")
"""


@pytest.mark.parametrize("case", ["folder", "pilot"])
def test_what_the_first_process_refuses_is_refused_by_all(case, tmp_path):
    folder = tmp_path / "pieces"
    toys.run(folder)
    script = tmp_path / "refused.py"
    script.write_text(REFUSED.format(tests=os.path.dirname(toys.__file__), folder=str(folder), case=case))
    head = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*head, str(script)], capture_output=True, text=True, env=environment, timeout=120, check=True
    )
    words = "seed: 5 there, 6 here" if case == "folder" else "budget"
    assert done.stdout.count("refused: ") == 2 and done.stdout.count(words) >= 2


LARGE = """
import resource, sys, torch, mlsde
torch.set_num_threads(1)
sde = mlsde.SDE(lambda t, y: -y, 0.5)
kept = mlsde.Statistics(quantiles=[0.1, 0.9])
def run(n):
    return mlsde.ensemble(sde, torch.ones(1, 10), n, (0.0, 1.0), steps=1000 if n > 1000 else 10, keep=kept, seed=2)
run(1000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = run(100_000)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
s = found.statistics
numbers = found.done, found.chunk, (after - before) / 1024, float(s.mean.mean()), float(s.mean_error.mean())
sys.stdout.write(" ".join(map(str, numbers)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is in other units there")
def test_a_hundred_thousand_paths_of_a_thousand_steps_take_the_memory_of_a_chunk():
    done = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True, timeout=500, check=True)
    count, chunk, megabytes, mean, error = map(float, done.stdout.split())
    assert count == 100_000 and chunk == 26_214
    assert megabytes < 60  # a chunk's state is one; all steps of all paths would be 4000
    assert abs(mean - (1 - 1e-3) ** 1000) < 6 * error  # ten components together


def test_functions_are_not_described_where_no_folder_asks_for_it(monkeypatch):
    from mlsde.ensembles import run as module

    monkeypatch.setattr(module, "describe", lambda thing: pytest.fail("described"))
    assert toys.run(identity=None).done == toys.N
