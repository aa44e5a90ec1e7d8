"""A batch may be split, grown or shuffled: with seeds per sample every trajectory stays as it is."""

import pytest
import torch

import mlsde
from mlsde import SDE, BrownianPath, Constant, DriftHierarchy, Multilevel, solve

BATCH = 6
SEEDS = [11, 3, 2**40, 7, 7_000_000_000, 5]
WEIGHTS = torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 2
Y0 = torch.randn(BATCH, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def levels():
    return [
        lambda t, y: -y,
        lambda t, y: -y + 0.3 * torch.sin(3 * y + t),
        lambda t, y: -y + 0.3 * torch.sin(3 * y + t) + 0.1 * torch.tanh(y @ WEIGHTS),
    ]


LADDER = DriftHierarchy(levels(), costs=[1.0, 8.0, 64.0])
DIFFERENCES = DriftHierarchy.from_differences(
    [levels()[0], lambda t, y: 0.3 * torch.sin(3 * y + t), lambda t, y: 0.1 * torch.tanh(y @ WEIGHTS)],
    costs=[1.0, 8.0, 64.0],
)
RULES = [
    (coins, correction)
    for coins in ("independent", "nested", "systematic", "periodic")
    for correction in ("impulse", "hold", "control", "extrapolate")
    if correction != "extrapolate" or coins in ("systematic", "periodic")
]


def per_sample(coins="systematic", correction="hold"):
    return Multilevel(lambda t: [1.0, 0.3 + 0.4 * t, 0.2], coins, correction, share="sample")


def one_run(part, sde=None, **options):
    """Solve for the samples numbered in ``part``."""
    seed = [SEEDS[i] for i in part]
    sde = SDE(LADDER, 0.3) if sde is None else sde
    return solve(sde, Y0[list(part)], (0.0, 1.0), steps=48, seed=seed, **options)


def splits():
    whole = range(BATCH)
    return [[whole[:3], whole[3:]], [whole[:1], whole[1:]], [[i] for i in whole]]


def assert_splits_agree(ways=None, **options):
    whole = one_run(range(BATCH), **options)
    for parts in ways or splits():
        pieces = [one_run(part, **options) for part in parts]
        torch.testing.assert_close(torch.cat([piece.y1 for piece in pieces]), whole.y1, rtol=1e-12, atol=1e-12)
        spent = sum(piece.stats.cost * len(part) for piece, part in zip(pieces, parts, strict=True))
        assert spent / BATCH == pytest.approx(whole.stats.cost)
    return whole


@pytest.mark.parametrize(("coins", "correction"), RULES)
def test_a_batch_solved_whole_in_parts_or_one_by_one_gives_the_same(coins, correction):
    assert_splits_agree(multilevel=per_sample(coins, correction))


@pytest.mark.parametrize("correction", ["impulse", "hold", "control", "extrapolate"])
def test_splitting_does_not_matter_to_a_ladder_of_differences(correction):
    assert_splits_agree(sde=SDE(DIFFERENCES, 0.3), multilevel=per_sample(correction=correction))


NOISES = {
    "ODE": (None, None),
    "additive": (0.3, None),
    "diagonal": (lambda t, y: 0.3 * torch.cos(y), "diagonal"),
    "scalar": (lambda t, y: 0.3 * torch.cos(y), "scalar"),
    "general": (lambda t, y: 0.2 * torch.cos(y).unsqueeze(-1) * torch.ones(5, dtype=y.dtype), "general"),
}


@pytest.mark.parametrize(("diffusion", "noise"), NOISES.values(), ids=NOISES.keys())
@pytest.mark.parametrize("multilevel", [None, per_sample()], ids=["top level", "multilevel"])
def test_splitting_does_not_matter_to_any_kind_of_noise(diffusion, noise, multilevel):
    assert_splits_agree(sde=SDE(LADDER, diffusion, noise=noise), multilevel=multilevel)


@pytest.mark.parametrize(("method", "options"), [("heun", {}), ("exponential", {"linear": -0.5})])
def test_splitting_does_not_matter_to_other_steppers(method, options):
    assert_splits_agree(sde=SDE(LADDER, 0.3, **options), method=method, multilevel=per_sample())


def test_splitting_does_not_matter_to_milstein():
    sde = SDE(LADDER, lambda t, y: 0.3 * torch.cos(y), noise="diagonal")
    assert_splits_agree(splits()[:1], sde=sde, method="milstein", multilevel=per_sample())


def test_splitting_does_not_matter_to_a_path_with_seeds_per_sample():
    def ride(part):
        part = list(part)
        path = BrownianPath(0, 1, like=Y0[part], seed=[SEEDS[i] for i in part])
        return one_run(part, brownian=path, multilevel=per_sample()).y1

    whole = ride(range(BATCH))
    for parts in splits():
        torch.testing.assert_close(torch.cat([ride(part) for part in parts]), whole, rtol=1e-12, atol=1e-12)


def test_the_order_of_the_samples_does_not_matter():
    order = [4, 0, 5, 2, 1, 3]
    shuffled = one_run(order, multilevel=per_sample()).y1
    torch.testing.assert_close(shuffled, one_run(range(BATCH), multilevel=per_sample()).y1[order])


def test_samples_with_other_seeds_have_other_noise_and_other_coins():
    """Without this, a run that gives every sample the same noise would pass all of the above."""
    y0 = Y0[:1].expand(BATCH, 4)
    ends = solve(SDE(LADDER, 0.3), y0, (0.0, 1.0), steps=100, seed=SEEDS).y1
    assert torch.pdist(ends).min() > 1e-3
    ends = solve(SDE(LADDER), y0, (0.0, 1.0), steps=100, seed=SEEDS, multilevel=per_sample(correction="impulse")).y1
    assert torch.pdist(ends).min() > 1e-6


@pytest.mark.parametrize("coins", ["independent", "nested", "systematic"])
def test_coins_of_one_seed_stay_as_they_are_when_the_batch_grows(coins):
    """The noise of one seed may change with the batch; the coins of each sample do not."""

    def ends(batch):
        multilevel = Multilevel(Constant([1.0, 0.4, 0.2]), coins, "impulse", share="sample")
        return solve(SDE(LADDER), Y0[:batch], (0.0, 1.0), steps=100, seed=5, multilevel=multilevel).y1

    torch.testing.assert_close(ends(BATCH)[:2], ends(2), rtol=1e-12, atol=1e-12)


def test_a_seed_for_the_coins_keeps_them_when_the_noise_changes():
    multilevel = Multilevel(Constant([1.0, 0.4, 0.2]), "independent", "impulse", seed=9)
    plans = [solve(SDE(LADDER, 0.3), Y0, (0, 1), steps=50, seed=s, multilevel=multilevel).plan for s in (0, 1)]
    assert (plans[0].block(0, 50).fires == plans[1].block(0, 50).fires).all()
    listed = solve(SDE(LADDER, 0.3), Y0, (0, 1), steps=50, seed=SEEDS, multilevel=multilevel).plan
    assert (listed.block(0, 50).fires == plans[0].block(0, 50).fires).all()


def test_a_level_is_evaluated_for_the_samples_that_fire_and_no_others():
    sizes = []

    def top(t, y):
        sizes.append(len(y))
        return -y

    drift = DriftHierarchy([lambda t, y: -y, top], costs=[1.0, 10.0])
    multilevel = Multilevel(Constant([1.0, 0.3]), "independent", "impulse", share="sample")
    solution = solve(SDE(drift), Y0, (0.0, 1.0), steps=100, multilevel=multilevel)
    fires = solution.plan.block(0, 100).fires[:, 1]
    assert sizes == [count for count in fires.sum(axis=1).tolist() if count]
    assert solution.stats.evaluations[1] * BATCH == sum(sizes)
    assert solution.stats.cost == pytest.approx(solution.plan.cost)


def test_a_batch_may_be_split_with_a_seed_for_the_coins_too():
    multilevel = Multilevel(Constant([1.0, 0.4, 0.2]), "independent", "impulse", share="sample", seed=9)
    assert_splits_agree(multilevel=multilevel)
    other = Multilevel(Constant([1.0, 0.4, 0.2]), "independent", "impulse", share="sample", seed=8)
    assert not torch.equal(one_run(range(2), multilevel=multilevel).y1, one_run(range(2), multilevel=other).y1)


def test_periodic_coins_shared_by_the_batch_toss_nothing_and_go_with_seeds_per_sample():
    rule = mlsde.Multilevel(mlsde.Constant([1.0, 0.25]), "periodic", "hold")
    drift = mlsde.DriftHierarchy([lambda t, y: -y, lambda t, y: -torch.sin(y)], costs=[1.0, 9.0])
    sde, y0 = mlsde.SDE(drift, diffusion=0.5), torch.ones(3, 2, dtype=torch.float64)
    whole = mlsde.solve(sde, y0, (0, 1), steps=20, multilevel=rule, seed=[4, 5, 6]).y1
    alone = mlsde.solve(sde, y0[1:2], (0, 1), steps=20, multilevel=rule, seed=[5]).y1
    torch.testing.assert_close(alone, whole[1:2])


def test_large_batches_do_not_redraw_the_offsets_for_every_block(monkeypatch):
    made = []
    generator = mlsde.randomness.host_generator
    monkeypatch.setattr(mlsde.randomness, "host_generator", lambda *key: made.append(key) or generator(*key))
    rule = mlsde.Multilevel(mlsde.Constant([1.0, 0.25]), "systematic", "hold", "sample")
    drift = mlsde.DriftHierarchy([lambda t, y: -y, lambda t, y: -torch.sin(y)], costs=[1.0, 9.0])
    mlsde.solve(mlsde.SDE(drift), torch.ones(50, 1), (0, 1), steps=1000, multilevel=rule, seed=777)
    assert len(made) == 50
