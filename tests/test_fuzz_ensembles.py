"""Any ensemble is the solves of its chunks, whatever happens to its folder; any call is that, or one clear error."""

import math
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from fuzzing import attempt, fuzz, odd
from hypothesis import assume, given
from hypothesis import strategies as st
from test_fuzz import grids, ladders, rules

import mlsde
from mlsde import SDE, EnsembleError, Statistics, ensemble
from mlsde.ensembles.starts import Starts

shapes = st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple)
dtypes = st.sampled_from([torch.float32, torch.float64, torch.bfloat16])


@st.composite
def damages(draw):
    """What happens to a file: it goes, is cut, or a byte of it is another."""
    return draw(st.sampled_from(["gone", "cut", "changed"])), draw(st.floats(0.0, 1.0))


def befall(file, what, place):
    data = file.read_bytes()
    at = int(place * (len(data) - 1))
    if what == "gone":
        file.unlink()
    elif what == "cut":
        file.write_bytes(data[:at])
    else:
        file.write_bytes(data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :])


@fuzz()
@given(st.data(), shapes, dtypes, grids(), st.integers(1, 40), st.integers(1, 3))
def test_an_ensemble_is_the_solves_of_its_chunks_whatever_befalls_its_folder(data, shape, dtype, times, n, levels):
    rule = data.draw(st.none() | rules(levels))
    assume(rule is None or rule.seed is None)
    sde = SDE(ladders(levels, data.draw(st.booleans())), data.draw(st.sampled_from([None, 0.3])))
    chunk = data.draw(st.none() | st.integers(1, n))
    source = data.draw(
        st.sampled_from([lambda k: torch.randn((k, *shape)).to(dtype), torch.full((1, *shape), 0.5, dtype=dtype)])
    )
    save_at = data.draw(st.sampled_from([None, "steps"]))
    folder = Path(tempfile.mkdtemp())
    options = {"times": times, "multilevel": rule, "seed": 3, "save_at": save_at, "identity": "fuzz"}

    def run(**more):
        return ensemble(sde, source, n, chunk=chunk, **options, **more)

    found = run(folder=folder)
    shared = rule is not None and rule.share == "batch" and rule.coins != "periodic"
    starts = Starts(source, n, 3, chunk, shared)
    solved = [
        mlsde.solve(sde, starts.draw(c), times=times, multilevel=rule, seed=starts.noise_seed(c), save_at=save_at).ys
        for c in range(starts.count)
    ]
    assert torch.equal(found.ys, torch.cat(solved, dim=1)) and found.ys.dtype == dtype and found.done == n
    hit = data.draw(st.lists(st.sampled_from(range(starts.count)), unique=True, max_size=3))
    for number in hit:
        befall(folder / f"chunk-{number:06d}.safetensors", *data.draw(damages()))
    again = run(folder=folder)
    assert again.computed == len(hit) and torch.equal(again.ys, found.ys)
    told = run(keep=Statistics(quantiles=[0.25])).statistics
    ys = found.ys.double()
    torch.testing.assert_close(told.mean, ys.mean(1), rtol=1e-9, atol=1e-9)
    if n > 1:
        torch.testing.assert_close(told.variance, ys.var(1), rtol=1e-6, atol=1e-9)
    expected = np.quantile(ys.numpy(), 0.25, axis=1, method="hazen")
    np.testing.assert_allclose(told.quantiles[0], expected, rtol=1e-9, atol=1e-9)
    shutil.rmtree(folder)


EQUATION = ["sde", "sample_y0", "n", "t_span", "steps", "times", "method", "multilevel", "level", "seed", "save_at"]
OWN = ["keep", "chunk", "folder", "identity", "most_failures", "budget", "tol", "calibration", "quantiles"]
OWN += ["functionals", "points"]


@pytest.mark.filterwarnings("ignore::UserWarning")  # what a pilot says of a ladder or a wish
@fuzz()
@given(st.data())
def test_a_call_with_something_odd_in_it_gives_an_ensemble_or_a_clear_error(data):
    odds = data.draw(st.sets(st.sampled_from([*EQUATION, *OWN]), min_size=1, max_size=2))
    assume("folder" not in odds)  # any string is a folder to make

    def maybe(name, sound):
        if name not in odds:
            return sound
        value = data.draw(odd, label=name)
        assume(not (name in ("n", "steps") and isinstance(value, (int, float)) and value > 1e6))
        return value

    rule = mlsde.Multilevel(mlsde.Constant([1.0, 0.5]))
    pilots = odds & {"budget", "tol", "calibration"}

    def call():
        own = Statistics(maybe("quantiles", (0.5,)), maybe("functionals", {}), maybe("points", 20))
        return ensemble(
            maybe("sde", SDE(ladders(2, False), 0.5)), maybe("sample_y0", torch.zeros(1, 2)), maybe("n", 12),
            maybe("t_span", (0.0, 1.0)), steps=maybe("steps", None if "times" in odds else 4),
            times=maybe("times", None), method=maybe("method", "euler"),
            multilevel=maybe("multilevel", None if odds & {"level"} or pilots else rule), level=maybe("level", None),
            budget=maybe("budget", None), tol=maybe("tol", None), calibration=maybe("calibration", None),
            seed=maybe("seed", 0), save_at=maybe("save_at", None), keep=maybe("keep", own), chunk=maybe("chunk", 5),
            identity=maybe("identity", None), most_failures=maybe("most_failures", 3),
        )  # fmt: skip

    try:
        found = attempt(call, *EQUATION, *OWN, "level", "probabilities", "time")
    except EnsembleError as error:
        if not error.ensemble.failures:
            raise
        return
    if found is not None:
        assert found.done == found.n and "Ensemble" in repr(found)
        if found.statistics is not None:
            assert found.statistics.mean.isfinite().all()


@fuzz()
@given(
    values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=400), points=st.integers(10, 60), seed=st.integers(0, 9)
)
def test_quantiles_of_anything_lie_between_its_ends(values, points, seed):
    from mlsde.ensembles.quantiles import Quantiles, Summary

    numbers = np.random.default_rng(seed).permutation(values)[:, None]
    kept = Quantiles(points)
    for part in np.array_split(numbers, 1 + seed):
        if len(part):
            kept.add(Summary.of(part, points))
    found = kept.total().at(np.array([0.0, 0.1, 0.5, 0.9, 1.0]))[:, 0]
    assert (np.diff(found) >= -1e-9 * (1 + np.abs(found[1:]))).all()
    assert min(values) <= found[0] + 1e-9 and found[-1] <= max(values) + 1e-9
    assert kept.total().weight == pytest.approx(len(values)) and math.isfinite(found.sum())
