"""The adapter with plain modules: coins, guidance, forms of output, arguments, prices, attributes."""

import copy
import itertools
import warnings
from types import SimpleNamespace

import pytest
import torch
from adapter_toys import GRID, KINDS, Toy, calls, denoiser, euler, nets, rule, start
from torch import nn

import mlsde
from mlsde.diffusion import runs
from mlsde.diffusion.adapter import MultilevelDenoiser


@pytest.mark.parametrize("share", ["batch", "sample"])
@pytest.mark.parametrize(("coins", "correction"), KINDS)
def test_a_loop_through_the_adapter_is_the_solve_of_the_same_ladder(coins, correction, share):
    multilevel, x = rule(coins=coins, correction=correction, share=share), start()
    model = denoiser(multilevel, timesteps=GRID[:-1], seed=3)
    drift = mlsde.DriftHierarchy([lambda t, y, net=net: net(y, t) for net in nets()])
    solved = mlsde.solve(mlsde.SDE(drift), x, times=GRID, multilevel=multilevel, seed=3)
    torch.testing.assert_close(euler(model, x), solved.y1, rtol=0, atol=1e-14)
    assert model.stats.evaluations == solved.stats.evaluations
    assert model.stats.calls == solved.stats.calls
    assert repr(model.plan) == repr(solved.plan)


def test_another_seed_is_another_run():
    x = start()
    one, other = (euler(denoiser(rule(coins="independent"), seed=seed), x) for seed in (3, 4))
    assert not torch.allclose(one, other)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("correction", ["impulse", "hold", "extrapolate"])
def test_probabilities_of_one_are_the_top_net_bit_for_bit_and_call_nothing_else(dtype, correction):
    model, top, x = denoiser(rule((1.0, 1.0, 1.0), correction=correction)), nets()[-1], start(dtype=dtype)
    assert torch.equal(euler(model, x), euler(top, x))
    assert euler(model, x).dtype == dtype
    assert calls(model) == [0, 0, 24]


def test_without_multilevel_it_is_the_top_net_at_any_number_of_steps():
    model, x = MultilevelDenoiser(nets()), start()
    assert torch.equal(euler(model, x), euler(nets()[-1], x))
    assert model.plan is None
    assert model.stats.evaluations == (0.0, 0.0, 12.0)


@pytest.mark.parametrize("form", ["tensor", "tuple", "object"])
@pytest.mark.parametrize("share", ["batch", "sample"])
def test_the_output_has_the_form_of_the_levels_also_where_none_is_evaluated(form, share):
    never_first = rule((0.3, 0.3, 0.3), coins="periodic", correction="impulse", share=share)
    model, x = denoiser(never_first, nets(form=form), steps=12), start()
    outputs = [model(x, t, return_dict=form == "object") if form != "tensor" else model(x, t) for t in GRID[:-1]]
    tensors = [{"tensor": lambda o: o, "tuple": lambda o: o[0], "object": lambda o: o.sample}[form](o) for o in outputs]
    silent = [not bool(value.any()) for value in tensors]
    assert silent[0] and sum(silent) == 12 - 4, "four firings of all levels together"
    assert all(value.shape == x.shape and value.dtype == x.dtype for value in tensors)
    assert {type(output) for output in outputs[2:]} == {
        {"tensor": torch.Tensor, "tuple": tuple, "object": SimpleNamespace}[form]
    }
    assert isinstance(outputs[0], tuple) == (form == "tuple")
    assert model.stats.evaluations == (0.0, 0.0, 4.0)


class Halving(nn.Module):
    """A net with twice the channels in as out, as inpainting has; ``config`` may tell."""

    def __init__(self, told):
        super().__init__()
        self.config = SimpleNamespace(**({"out_channels": 1} if told else {}))

    def forward(self, x, t):
        return x[:, :1] * 2.0


@pytest.mark.parametrize("share", ["batch", "sample"])
def test_outputs_of_another_shape_than_the_state_are_summed_in_their_own(share):
    silent_first = rule((0.3, 0.3), coins="periodic", correction="impulse", share=share)
    x = torch.ones(2, 2, 3, 3)
    model = denoiser(silent_first, [Halving(True), Halving(True)], steps=12)
    values = [model(x, t) for t in GRID[:-1]]
    assert {tuple(value.shape) for value in values} == {(2, 1, 3, 3)}
    assert sorted({round(float(value.max()), 4) for value in values}) == [0.0, round(2 / 0.3, 4)]


def test_what_the_config_does_not_tell_is_learnt_with_shared_coins_and_refused_with_coins_per_sample():
    x = torch.ones(2, 2, 3, 3)
    assert denoiser(rule((1.0, 0.5)), [Halving(False), Halving(False)])(x, 1.0).shape == (2, 1, 3, 3)
    model = denoiser(rule((1.0, 0.5), share="sample"), [Halving(False), Halving(False)])
    with pytest.raises(ValueError, match=r"level \d returned shape \(2, 1, 3, 3\), expected \(2, 2, 3, 3\)"):
        model(x, 1.0)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        (lambda x, t: (x, t), lambda x, t: {}),
        (lambda x, t: (x,), lambda x, t: {"timestep": t}),
        (lambda x, t: (), lambda x, t: {"hidden_states": x, "timestep": t, "encoder": 2 * x}),
        (lambda x, t: (), lambda x, t: {"sample": x, "t": t}),
        (lambda x, t: (x, t.expand(len(x))), lambda x, t: {"cond": {"a": [2 * x, (3 * x, None)]}}),
        (lambda x, t: (x,), lambda x, t: {"sigma": t.view(1)}),
    ],
)
def test_every_argument_goes_through_and_is_cut_with_the_batch(args, kwargs):
    seen = []

    def level(*args, **kwargs):
        seen.append((args, kwargs))
        return next(value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor))

    model = denoiser(rule((1.0, 0.5), share="sample", coins="independent", correction="impulse"), [level, level])
    x = torch.arange(6.0).view(6, 1)
    for t in GRID[:-1]:
        when = torch.tensor(t)
        value = model(*args(x, when), **kwargs(x, when))
        assert value.shape == x.shape
    sizes = set()
    for positional, keyword in seen:
        state = next(value for value in (*positional, *keyword.values()) if isinstance(value, torch.Tensor))
        sizes.add(len(state))
        assert len(positional) == len(args(x, when)) and set(keyword) == set(kwargs(x, when))
        if "encoder" in keyword:
            assert torch.equal(keyword["encoder"], 2 * state)
        if "cond" in keyword:
            assert torch.equal(keyword["cond"]["a"][0], 2 * state)
            assert torch.equal(keyword["cond"]["a"][1][0], 3 * state)
            assert keyword["cond"]["a"][1][1] is None
            assert positional[1].shape == (len(state),)
        if "sigma" in keyword:
            assert keyword["sigma"].shape == (1,)
    assert len(sizes) > 2, "parts of the batch were asked for"


def test_positions_of_tokens_are_not_cut_though_there_are_as_many_as_samples():
    lengths = set()

    def level(x, t, img_ids, add_time_ids):
        lengths.add((len(img_ids), len(add_time_ids) == len(x)))
        return x

    model = denoiser(rule((1.0, 0.5), share="sample", coins="independent", correction="impulse"), [level, level])
    for t in GRID[:-1]:
        model(torch.ones(6, 1), t, img_ids=torch.ones(6, 3), add_time_ids=torch.ones(6, 6))
    assert lengths == {(6, True)}


@pytest.mark.parametrize("correction", ["impulse", "hold"])
def test_halves_of_a_guided_batch_share_their_coins(correction):
    multilevel, x = rule(coins="independent", correction=correction, share="sample"), start(4)
    model = denoiser(multilevel, seed=1)
    alone = euler(denoiser(multilevel, seed=1), x)
    doubled = euler(model, torch.cat([x, x]))
    assert torch.equal(doubled[:4], doubled[4:])
    torch.testing.assert_close(doubled[:4], alone)
    different = euler(denoiser(multilevel, seed=1), torch.cat([x, x + 1e-9]))
    assert not torch.allclose(different[:4], different[4:]), "without being recognised, halves have their own coins"
    seeded = euler(denoiser(multilevel, seed=[7, 8, 9, 10]), torch.cat([x, x + 1e-9]))
    torch.testing.assert_close(seeded[:4], seeded[4:], rtol=0, atol=1e-8)


def test_a_sample_does_not_depend_on_the_batch_it_is_in_nor_on_the_global_generator():
    x = start(5)
    for share in ("batch", "sample"):
        multilevel = rule(coins="independent", share=share)
        torch.manual_seed(0)
        few = euler(denoiser(multilevel, seed=2), x[:3])
        torch.manual_seed(1)
        many = euler(denoiser(multilevel, seed=2), x)
        torch.testing.assert_close(few, many[:3], rtol=0, atol=1e-15)
    seeds = [11, 12, 13, 14, 15]
    many = euler(denoiser(multilevel, seed=seeds), x)
    parts = [euler(denoiser(multilevel, seed=[seed]), x[i : i + 1]) for i, seed in enumerate(seeds)]
    torch.testing.assert_close(torch.cat(parts), many, rtol=0, atol=1e-15)


class Conditional(Toy):
    def forward(self, x, t, cond=0.0):
        return super().forward(x, t) + cond * self.weight * torch.sin(3 * x)


def guided(model, x, scale=2.0, copy_state=False):
    """A host that guides in two calls for each step."""
    values = []
    for t, t_next in itertools.pairwise(GRID):
        cond = model(x, t, cond=1.0)
        values.append((cond, model(x.clone() if copy_state else x, t, cond=0.0)))
        x = x + (t_next - t) * (values[-1][1] + scale * (cond - values[-1][1]))
    return x, values


def conditional_nets():
    return [Conditional(-0.5, 0.3), Conditional(-0.9, 0.1), Conditional(-1.0)]


@pytest.mark.parametrize("copy_state", [False, True])
@pytest.mark.parametrize(("coins", "correction"), KINDS)
def test_guidance_in_two_calls_has_the_same_coins_and_a_memory_for_each(coins, correction, copy_state):
    multilevel = rule(coins=coins, correction=correction)
    _, values = guided(denoiser(multilevel, conditional_nets()), start(), copy_state=copy_state)
    apart = [denoiser(multilevel, conditional_nets()) for _ in range(2)]

    def both(x, t, cond):
        return apart[int(cond)](x, t, cond=cond)

    _, expected = guided(both, start())
    for (a, b), (c, d) in zip(values, expected, strict=True):
        assert torch.equal(a, c) and torch.equal(b, d)


def test_guidance_with_one_memory_for_both_calls_would_be_another_picture(monkeypatch):
    multilevel = rule(correction="hold")
    right, _ = guided(denoiser(multilevel, conditional_nets()), start())
    enter = runs.DenoisingRun._slot_for

    def shared(run, call, plan):
        run._slot = 0
        return enter(run, call, plan)

    monkeypatch.setattr(runs.DenoisingRun, "_slot_for", shared)
    wrong, _ = guided(denoiser(multilevel, conditional_nets()), start())
    assert not torch.allclose(right, wrong, rtol=1e-3)


def test_the_nets_own_attributes_are_those_of_the_top():
    models = nets()
    models[-1].sigma_min, models[-1].round_sigma = 0.002, lambda sigma: round(sigma, 2)
    models[-1]._private = 1
    model = denoiser(models=models)
    assert model.sigma_min == 0.002
    assert model.round_sigma(0.123) == 0.12
    assert model.top is models[-1]
    for name in ("_private", "config", "nonsense"):
        assert not hasattr(model, name)
    assert (model.device, model.dtype) == (torch.device("cpu"), torch.float32)
    models[-1].config = SimpleNamespace(sample_size=8)
    assert model.config.sample_size == 8


def test_it_moves_copies_and_shows_itself():
    model, x = denoiser(rule(coins="independent")), start(dtype=torch.float16)
    assert {p.dtype for p in model.half().parameters()} == {torch.float16} and model.dtype == torch.float16
    first = euler(model, x)
    assert first.dtype == torch.float16
    assert torch.equal(euler(copy.deepcopy(model), x), first)
    assert {p.dtype for p in model.to(torch.float64).parameters()} == {torch.float64}
    shown = repr(model)
    assert (
        shown.startswith("MultilevelDenoiser(3 levels: Toy, Toy, Toy; independent hold, Constant(")
        and "\n" not in shown
    )
    assert "the last at every step" in repr(MultilevelDenoiser([lambda x, t: x]))


def test_half_precisions_are_summed_in_single():
    model = denoiser(rule((1.0, 0.3, 0.3), coins="nested", correction="impulse"), seed=5)
    x = torch.full((1, 2), 3.0, dtype=torch.float16)
    for n, t in enumerate(GRID[:-1]):
        block = None if n == 0 else model.plan.block(n, n + 1)
        found = model(x, t)
        if n and block.coefficients[0].all():
            outputs = torch.stack([net(x, t) for net in nets()]).float()
            exact = (torch.as_tensor(block.coefficients[0], dtype=torch.float32)[:, None, None] * outputs).sum(0)
            assert torch.equal(found, exact.half())


class Convolution(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.inner, self.outer = nn.Conv2d(1, channels, 3, padding=1), nn.Conv2d(channels, 1, 3, padding=1)
        self.count = 0

    def forward(self, x, t):
        self.count += 1
        return self.outer(self.inner(x))


def test_prices_are_counted_in_flops_once_and_only_if_they_are_needed():
    x = torch.randn(4, 1, 8, 8)
    exact = [2 * 2 * c * 9 * 64 for c in (1, 4)]
    for options, needed in (({}, False), ({"costs": "flops"}, True)):
        model = denoiser(rule((1.0, 1.0)), [Convolution(1), Convolution(4)], steps=2, **options)
        for _ in range(2):
            model(x, 1.0)
            model(x, 0.5)
        assert [net.count for net in model.levels] == [int(needed), 4 + needed]
        assert model.stats.cost == (2 * exact[1] if needed else None)
    model = denoiser(mlsde.Multilevel(mlsde.PowerLaw(gamma=2.0)), [Convolution(1), Convolution(4)], steps=2)
    model(x, 1.0)
    assert model.plan.costs == tuple(exact)
    assert model.plan.probabilities[1] == pytest.approx([1.0, 0.25])
    given = denoiser(mlsde.Multilevel(mlsde.PowerLaw(gamma=2.0)), [Convolution(1), Convolution(4)], costs=[1, 16])
    given(x, 1.0)
    assert given.plan.probabilities[1] == pytest.approx([1.0, 1 / 16])
    assert [net.count for net in given.levels] == [1, 1]


def test_stats_are_per_row_of_the_first_batch():
    model = denoiser(
        rule((1.0, 0.5, 0.5), coins="periodic", correction="impulse"), costs=[1, 2, 4], names=["a", "b", "c"], steps=12
    )
    for t in GRID[:-1]:
        model(start(2), t)
        model(start(2), t)
    stats = model.stats
    assert stats.names == ("a", "b", "c")
    assert stats.evaluations == (24.0, 0.0, 12.0), "levels 2 and 3 fire together, and one step in two"
    assert stats.cost == 24 + 4 * 12
    assert stats.full_cost == 4 * 24
    assert stats.calls == (24, 0, 12)
    assert 0 < sum(stats.seconds) < stats.wall_seconds < 60
    assert denoiser().stats is None and denoiser().plan is None


def test_caches_of_all_levels_are_told_the_branch():
    entered = []

    class Cached(Toy):
        def cache_context(self, name):
            entered.append((float(self.weight), name))
            return warnings.catch_warnings()

    with denoiser(rule((1.0, 0.5)), [Cached(1.0), Cached(2.0)]).cache_context("cond"):
        pass
    assert entered == [(1.0, "cond"), (2.0, "cond")]


@pytest.mark.parametrize(("coins", "correction"), KINDS)
def test_branches_that_the_host_names_have_slots_though_their_states_differ(coins, correction):
    """As where the image to be edited is joined to the state in one branch alone."""
    model = denoiser(rule(coins=coins, correction=correction), conditional_nets())
    apart = {name: denoiser(rule(coins=coins, correction=correction), conditional_nets()) for name in ("a", "b")}
    stage = torch.Generator().manual_seed(0)
    for t in GRID[:-1]:
        for _ in range(2):  # a predictor and a corrector
            x = torch.randn(3, 2, generator=stage, dtype=torch.float64)
            for shift, name in enumerate(apart):
                with model.cache_context(name):
                    found = model(x + shift, t, cond=float(shift))
                assert torch.equal(found, apart[name](x + shift, t, cond=float(shift)))
    assert model._branch is None and len(model._run._slots) == 2
