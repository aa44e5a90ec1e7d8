"""Trials: what is measured of a candidate is what plain calls of mlsde.solve give on the same paths."""

import json
import math
from itertools import chain, pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import mlsde
from mlsde.problems.ladder import LadderProblem, scattered_start
from mlsde.solution import NonFiniteError
from mlsde.study import trials
from mlsde.study.methods import Candidate, candidates, multilevel, plain, stitched_levels, stitching
from mlsde.study.search import Search
from mlsde.study.trials import Batch, Trial, Trials

GAMMA, SEED, SEEDS, SAMPLES = 2.5, 5, 3, 4
COSTS = (1.0, 6.0, 40.0)
DRIFT = mlsde.DriftHierarchy(
    [lambda t, y, k=k: -y + 2.0**-k * torch.cos(3.0 * y + k + t) for k in (1, 2, 3)], costs=COSTS
)
START = scattered_start(torch.tensor([1.0, -2.0], dtype=torch.float64), 0.5)
INDEPENDENT, PERIODIC = multilevel("independent", "impulse"), multilevel("periodic", "hold")
CANDIDATES = [
    Candidate(plain(), 2, 8, 0.0, 48.0),
    Candidate(plain("heun"), 3, 5, 0.0, 400.0),
    Candidate(stitching(), 3, 8, -0.25, 0.0),
    Candidate(INDEPENDENT, 3, 12, 3.0, 0.0),
    Candidate(PERIODIC, 2, 12, 3.0, 0.0),
]


def problem(drift=DRIFT, noise=0.5, start=START, reference=None, span=(0.0, 1.0)):
    return LadderProblem("test", mlsde.SDE(drift, noise), start, span, reference, GAMMA)


def trials_of(share, made=None, seeds=SEEDS, seed=SEED, samples=SAMPLES):
    return Trials(problem() if made is None else made, GAMMA, seeds, samples, seed, share, 64)


def by_hand(candidate, made, share):
    """Errors of the groups and the cost, with nothing but ``mlsde.solve``."""
    groups = [made.initial(SAMPLES, (SEED << 16) + i) for i in range(SEEDS)]
    names = [[((SEED << 16) + i) * 2**20 + j for j in range(SAMPLES)] for i in range(SEEDS)]
    runs = [(torch.cat(groups), [*chain(*names)])] if share == "sample" else list(zip(groups, names, strict=True))
    method, count = candidate.method, candidate.levels
    options = {"steps": candidate.steps, "method": method.stepper}
    sde = made.sde
    if method.coins is None:
        level = stitched_levels(count, candidate.setting, made.t_span) if method.stitched else count
        options["level"] = level
    else:
        sde = made.sde.with_drift(made.sde.drift.select(range(1, count + 1)))
        exponent = (1.0 + 2.0 / GAMMA) / (method.order + 1.0)
        scale = candidate.setting / candidate.steps * (COSTS[count - 1] / COSTS[0]) ** exponent
        law = mlsde.PowerLaw(GAMMA, scale=scale, order=method.order)
        options["multilevel"] = mlsde.Multilevel(law, method.coins, method.correction, share)
    errors, costs = [], []
    for y0, seeds in runs:
        path = None
        if not sde.is_ode:
            path = mlsde.BrownianPath(*made.t_span, shape=y0.shape, dtype=y0.dtype, seed=seeds[0], grids=(3,))
        coins = seeds if share == "sample" else seeds[0]
        done = mlsde.solve(sde, y0, made.t_span, seed=coins, brownian=path, **options)
        exact = mlsde.solve(made.sde, y0, made.t_span, steps=64, method="heun", brownian=path).y1
        squares = (done.y1 - exact).square().sum(dim=1).view(-1, SAMPLES)
        errors += squares.mean(dim=1).sqrt().tolist()
        costs.append(done.stats.cost)
    return errors, float(np.mean(costs))


@pytest.mark.parametrize("noise", [None, 0.5], ids=["ode", "additive"])
@pytest.mark.parametrize("share", ["sample", "batch"])
@pytest.mark.parametrize("candidate", CANDIDATES, ids=lambda candidate: candidate.key)
def test_a_trial_is_what_direct_calls_of_solve_give(candidate, share, noise):
    made = problem(noise=noise)
    measured = trials_of(share, made).measure(candidate)
    errors, cost = by_hand(candidate, made, share)
    assert measured.errors == pytest.approx(errors, rel=1e-9)
    assert measured.cost == pytest.approx(cost, rel=1e-12)
    assert measured.error == sorted(measured.errors)[1]
    assert len(set(measured.errors)) == SEEDS
    assert measured.seconds > 0


@pytest.mark.parametrize("share", ["sample", "batch"])
def test_the_same_arguments_give_the_same_numbers_in_any_order(share):
    first, second = trials_of(share), trials_of(share)
    there = [first.measure(candidate).as_dict(timed=False) for candidate in CANDIDATES]
    back = [second.measure(candidate).as_dict(timed=False) for candidate in reversed(CANDIDATES)]
    assert there == back[::-1]
    assert first.measure(CANDIDATES[3]).as_dict(timed=False) == there[3]
    later = trials_of(share, seed=SEED + 1).measure(CANDIDATES[3]).errors
    assert not set(later) & set(there[3]["errors"])  # not even one group is shared


def test_with_coins_of_their_own_all_seeds_are_one_run_and_with_shared_coins_each_is_its_own(monkeypatch):
    runs = []

    def counted(sde, y0, *args, **options):
        runs.append((len(y0), options["seed"], options["multilevel"].share))
        return mlsde.solve(sde, y0, *args, **options)

    monkeypatch.setattr(trials, "solve", counted)
    names = [tuple(((SEED << 16) + i << 20) + j for j in range(SAMPLES)) for i in range(SEEDS)]
    for share, expected in (
        ("sample", [(SEEDS * SAMPLES, sum(names, ()), "sample")]),
        ("batch", [(SAMPLES, group[0], "batch") for group in names]),
    ):
        made = trials_of(share, problem(reference=lambda y0, path: y0))
        made.measure(CANDIDATES[3])
        assert runs == expected
        runs.clear()


def test_no_two_samples_share_a_start_a_path_or_coins():
    for share in ("sample", "batch"):
        made = trials_of(share)
        starts = torch.cat([batch.y0 for batch in made.batches])
        ends = torch.cat([batch.path(0.0, 1.0) for batch in made.batches])
        assert len(starts) == len(ends) == SEEDS * SAMPLES
        for values in (starts, ends):
            assert len({tuple(row.tolist()) for row in values}) == SEEDS * SAMPLES
            assert values.unique().numel() == values.numel()
        coins = [batch.seeds for batch in made.batches]
        assert len(set(sum(coins, ()))) == SEEDS * SAMPLES
    candidate = Candidate(INDEPENDENT, 3, 64, 16.0, 0.0)
    (batch,) = trials_of("sample").batches
    fires = batch.run(candidate, GAMMA, "sample").plan.block(0, 64).fires
    assert len({fires[..., i].tobytes() for i in range(SEEDS * SAMPLES)}) == SEEDS * SAMPLES
    shared = [
        one.run(candidate, GAMMA, "batch").plan.block(0, 64).fires.tobytes() for one in trials_of("batch").batches
    ]
    assert len(set(shared)) == SEEDS


def test_neighbouring_studies_do_not_share_the_seeds_of_their_samples():
    first, second = (set(trials_of("sample", seed=seed).batches[0].seeds) for seed in (0, 1))
    assert not first & second


@pytest.mark.parametrize("span", [(0.0, 1.0), (1.0, 0.0), (-0.3, 2.1)], ids=["forwards", "backwards", "elsewhere"])
def test_cached_noise_is_the_paths_own_increments(span):
    (batch,) = trials_of("sample", problem(span=span)).batches
    for steps in (1, 7, 48):
        noise = batch.noise(steps)
        assert noise is batch.noise(steps)
        assert noise is not batch.path
        grid = mlsde.checks.time_grid(span, steps, None).tolist()
        for a, b in pairwise(grid):
            assert torch.equal(noise(a, b), batch.path(a, b))
        total = sum(noise(a, b) for a, b in pairwise(grid))
        torch.testing.assert_close(total, batch.path(*span), rtol=0, atol=1e-12)


def test_forgetting_noise_changes_no_result(monkeypatch):
    whole = [trials_of("sample").measure(c).errors for c in CANDIDATES]
    row = SEEDS * SAMPLES * 2 * 8
    made = trials_of("sample")
    (batch,) = made.batches
    monkeypatch.setattr(trials, "_MOST_KEPT", 13 * row)  # 8 and 5 steps fit beside each other, 12 stand alone
    for _ in range(2):
        for candidate, errors in zip(CANDIDATES, whole, strict=True):
            assert made.measure(candidate).errors == errors
            assert sum(batch._kept) * row <= 13 * row
            assert candidate.steps in batch._kept
    monkeypatch.setattr(trials, "_MOST_KEPT", 3 * row)  # nothing fits
    made = trials_of("sample")
    assert [made.measure(c).errors for c in CANDIDATES] == whole
    assert not made.batches[0]._kept


def test_what_was_used_last_is_forgotten_last(monkeypatch):
    (batch,) = trials_of("sample").batches
    monkeypatch.setattr(trials, "_MOST_KEPT", 10 * SEEDS * SAMPLES * 2 * 8)
    for steps in (4, 5, 4, 6):
        batch.noise(steps)
    assert list(batch._kept) == [4, 6]


def test_single_precision_halves_the_noise_that_is_kept(monkeypatch):
    monkeypatch.setattr(trials, "_MOST_KEPT", 10 * 2 * 4)
    batch = Batch(problem(), torch.ones(1, 2, dtype=torch.float32), (0,), 8)
    assert batch.noise(10) is not batch.path
    assert batch.noise(11) is batch.path
    assert batch.noise(10)(0.0, 0.1).dtype == torch.float32


UNSTABLE = mlsde.DriftHierarchy([lambda t, y: y, lambda t, y: -60.0 * y**3], costs=[1.0, 8.0])


@pytest.mark.parametrize("share", ["sample", "batch"])
def test_a_run_that_breaks_has_an_infinite_error_and_its_price_and_stops_no_search(share):
    made = trials_of(share, problem(UNSTABLE, noise=None, reference=lambda y0, path: y0 / (1 + 120 * y0**2).sqrt()))
    broken = Candidate(plain(), 2, 16, 0.0, 128.0)
    found = made.measure(broken)
    assert found.errors == (math.inf,) * SEEDS
    assert (found.error, found.cost) == (math.inf, 128.0)
    search = Search(UNSTABLE, made.measure, lambda trial: trial.cost, plain_runs=True)
    ladder = candidates(plain(), UNSTABLE, (0.0, 1.0), GAMMA, [1, 2, 3, 4, 8, 16, 1024])
    assert search.least(ladder, 0.03).candidate == ladder[-1]  # small steps are stable
    assert sum(trial.error == math.inf for trial in search.trials.values()) >= 2


def test_one_broken_group_leaves_the_others_their_errors_where_groups_are_runs():
    start = lambda samples, seed: torch.full((samples, 1), 3.0 if seed == SEED << 16 else 0.1, dtype=torch.float64)  # noqa: E731
    made = trials_of("batch", problem(UNSTABLE, noise=None, start=start, reference=lambda y0, path: 0 * y0))
    first, *rest = made.measure(Candidate(plain(), 2, 16, 0.0, 128.0)).errors
    assert first == math.inf
    assert max(rest) < 1.0


def broken_reference(value):
    return problem(reference=lambda y0, path: value(y0))


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (lambda y0: y0[:1], ValueError, r"reference must return finite states of shape \(12, 2\).*got shape \(1, 2\)"),
        (lambda y0: y0.flatten(), ValueError, r"got shape \(24,\)"),
        (lambda y0: y0 * math.nan, ValueError, "reference must return finite states.*or NaN or infinity"),
        (lambda y0: y0 / 0.0, ValueError, "reference must return finite states.*or NaN or infinity"),
        (lambda y0: y0.numpy(), TypeError, r"reference must return a torch\.Tensor, got ndarray"),
        (lambda y0: None, TypeError, r"reference must return a torch\.Tensor, got NoneType"),
    ],
)
def test_a_reference_that_is_no_solution_is_refused_by_name_each_time(value, error, words):
    made = trials_of("sample", broken_reference(value))
    for _ in range(2):
        with pytest.raises(error, match=words):
            made.measure(CANDIDATES[0])


def test_a_reference_run_that_breaks_says_that_it_is_the_reference():
    made = trials_of("sample", problem(UNSTABLE))
    with pytest.raises(NonFiniteError, match=r"drift level 2|state") as caught:
        made.measure(Candidate(plain(), 1, 4, 0.0, 4.0))
    assert caught.value.__notes__ == ["raised by the reference, a run of the top level with reference_steps=64"]


def test_the_reference_is_asked_once_for_the_starts_and_the_path_of_the_runs():
    asked = []

    def reference(y0, path):
        asked.append((y0, path))
        return y0 + path(0.0, 1.0)

    made = trials_of("sample", problem(reference=reference))
    for candidate in CANDIDATES:
        made.measure(candidate)
    (batch,) = made.batches
    assert len(asked) == 1
    assert asked[0] == (batch.y0, batch.path)
    squares = batch.errors(batch.y0)
    torch.testing.assert_close(squares, batch.path(0.0, 1.0).square().sum(dim=1))


def test_a_trial_survives_json_with_its_wall_clock_only_if_asked():
    trial = Trial((0.1, math.inf, 1 / 3), 7.5, 0.25)
    assert Trial.from_dict(json.loads(json.dumps(trial.as_dict(timed=True)))) == trial
    untimed = json.loads(json.dumps(trial.as_dict(timed=False)))
    assert "seconds" not in untimed
    assert Trial.from_dict(untimed) == Trial(trial.errors, 7.5, 0.0)
    assert trial.error == 1 / 3
    assert Trial((1.0, 3.0), 1.0, 0.0).error == 2.0


def test_reference_and_noise_are_ready_before_the_clock_starts_and_the_plan_is_drawn_after(monkeypatch):
    events = []
    watched = [(Batch, "_found_reference"), (Batch, "noise")]
    for owner, name in watched:
        original = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, f=original, n=name: (events.append(n), f(*a))[1])
    plan = mlsde.integrate.multilevel_plan
    monkeypatch.setattr(mlsde.integrate, "multilevel_plan", lambda *a, **k: (events.append("plan"), plan(*a, **k))[1])
    own = SimpleNamespace(perf_counter=lambda: (events.append("clock"), 0.0)[1])  # solve has a clock too
    monkeypatch.setattr(trials, "time", own)
    trials_of("batch", seeds=1).measure(CANDIDATES[3])
    first = events.index("clock")
    assert {"_found_reference", "noise"} <= set(events[:first])
    assert "plan" in events[first:]
    assert "plan" not in events[:first]
