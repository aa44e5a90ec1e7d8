"""Denoisers: conventions exchanged exactly, networks asked as they were trained, ladders that speak one language."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import table, told_in_a_sentence
from torch import nn

import mlsde
from mlsde.diffusion import GaussianMixture
from mlsde.diffusion.denoisers import (
    PREDICTIONS,
    Denoiser,
    coefficients,
    convert,
    denoiser_ladder,
    flops,
    guided,
    in_space,
    to_clean,
    to_flow,
    to_noise,
    to_v,
)
from mlsde.diffusion.processes import RectifiedFlow, VarianceExploding
from mlsde.diffusion.samplers import sample
from mlsde.diffusion.variance_preserving import (
    CosineVariancePreserving,
    DiscreteVariancePreserving,
    VariancePreserving,
)

DDPM = DiscreteVariancePreserving.linear()
PROCESSES = [VariancePreserving(), CosineVariancePreserving(), DDPM, VarianceExploding(), RectifiedFlow()]
QUICK = settings(deadline=None, max_examples=40)
SAMPLE = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def mixture(process):
    generator = torch.Generator().manual_seed(1)
    centres = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    return GaussianMixture(centres, torch.tensor([0.3, 0.05, 0.01], dtype=torch.float64), process=process)


def exact(predicts, process, **options):
    """The mixture as a network of this convention on this process, told ``t`` (or the ratio of an EDM)."""
    data = mixture(process)

    def network(x, told):
        assert told.shape == (len(x),)
        assert (told == told[0]).all()
        t = float(told[0])
        return convert(data(told[0], x), x, process, t, source="noise", target=predicts)

    if predicts == "edm":  # what it is shown is a state of the process that explodes
        process = VarianceExploding()
        data = mixture(process)
        return Denoiser(network, "edm", **options)
    return Denoiser(network, predicts, process, **options)


def at(process, log_snr):
    return torch.tensor(process.time(log_snr), dtype=torch.float64)


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
@QUICK
@given(log_snr=st.floats(-3.0, 4.0), source=st.sampled_from(PREDICTIONS), target=st.sampled_from(PREDICTIONS))
def test_conventions_are_exchanged_there_and_back(process, log_snr, source, target):
    t = process.time(log_snr)
    clean, noise = SAMPLE, SAMPLE.flip(0) - 0.3
    x = process.noised(clean, t, noise)

    def prediction(predicts):
        a, b = coefficients(predicts, process, t)
        return a * clean + b * noise

    there = convert(prediction(source), x, process, t, source=source, target=target)
    torch.testing.assert_close(there, prediction(target), rtol=1e-9, atol=1e-9)
    back = convert(there, x, process, t, source=target, target=source)
    torch.testing.assert_close(back, prediction(source), rtol=1e-9, atol=1e-9)


def test_named_conversions_are_the_formulas_of_the_literature():
    process, t = VariancePreserving(), 0.4
    alpha, sigma = process.alpha(t), process.sigma(t)
    clean, noise = SAMPLE, SAMPLE.flip(0)
    x = alpha * clean + sigma * noise
    v = alpha * noise - sigma * clean
    torch.testing.assert_close(to_v(noise, x, process, t, "noise"), v)
    torch.testing.assert_close(to_clean(v, x, process, t, "v"), alpha * x - sigma * v)
    torch.testing.assert_close(to_noise(v, x, process, t, "v"), sigma * x + alpha * v)
    flow = RectifiedFlow()
    x = flow.noised(clean, 0.4, noise)
    torch.testing.assert_close(to_flow(clean, x, flow, 0.4, "clean"), noise - clean)
    torch.testing.assert_close(to_clean(noise - clean, x, flow, 0.4, "flow"), clean)
    # at pure noise a velocity still gives both
    torch.testing.assert_close(to_clean(noise - clean, noise, flow, 1.0, "flow"), clean)
    torch.testing.assert_close(to_noise(noise - clean, noise, flow, 1.0, "flow"), noise)
    assert convert(noise, x, flow, 0.4, source="noise", target="noise") is noise


@pytest.mark.parametrize("space", ["noise", "clean"])
@pytest.mark.parametrize("log_snr", [-2.0, 0.3, 3.0])
@pytest.mark.parametrize("solved", PROCESSES, ids=repr)
def test_every_convention_on_every_process_says_the_same_of_a_mixture(solved, log_snr, space):
    t = at(solved, log_snr)
    y = solved.noised(SAMPLE, float(t), SAMPLE.flip(0))
    expected = convert(mixture(solved)(t, y), y, solved, float(t), source="noise", target=space)
    denoisers = [exact(predicts, trained) for trained in PROCESSES for predicts in PREDICTIONS]
    ladder = denoiser_ladder(denoisers, process=solved, space=space)
    for level in ladder.levels:
        torch.testing.assert_close(level(t, y), expected, rtol=1e-8, atol=1e-8)


def test_a_network_matched_by_time_instead_of_log_snr_would_be_wrong():
    solved, trained = RectifiedFlow(), VariancePreserving()
    t = torch.tensor(0.5, dtype=torch.float64)
    y = solved.noised(SAMPLE, 0.5, SAMPLE.flip(0))
    right = denoiser_ladder([exact("noise", trained)], process=solved).levels[0](t, y)
    wrong = exact("noise", trained).output(0.5, y)
    assert float((right - mixture(solved)(t, y)).abs().max()) < 1e-9
    assert float((wrong - mixture(solved)(t, y)).abs().max()) > 0.1


def test_networks_are_told_what_they_were_trained_to_hear():
    heard = []

    def network(x, told):
        heard.append((told.dtype, told.tolist()))
        return torch.zeros_like(x)

    x = torch.ones(2, 3)
    Denoiser(network, "noise").output(0.25, x)
    Denoiser(network, "flow", timestep=lambda t: 1000 * t).output(0.25, x)
    Denoiser(network, "noise", timestep=lambda t: math.log(t) / 4).output(1.0, x.bfloat16())
    assert heard == [(torch.float32, [0.25] * 2), (torch.float32, [250.0] * 2), (torch.float32, [0.0] * 2)]
    # an EDM network hears sigma / alpha and sees x / alpha
    process = VariancePreserving()
    seen = []
    edm = Denoiser(lambda x, told: seen.append((x, float(told[0]))) or x, "edm")
    denoiser_ladder([edm], process=process, space="clean").levels[0](torch.tensor(0.5), x)
    torch.testing.assert_close(seen[0][0], x / process.alpha(0.5))
    assert seen[0][1] == pytest.approx(process.sigma(0.5) / process.alpha(0.5))


def test_outside_what_it_was_trained_on_a_network_is_asked_at_the_nearest():
    heard = []

    def network(x, told):
        heard.append((float(told[0]), x))
        return torch.zeros_like(x)

    flow, y = RectifiedFlow(), torch.ones(2, 3, dtype=torch.float64)
    level = denoiser_ladder([Denoiser(network, "noise", DDPM)], process=flow, space="clean").levels[0]
    level(torch.tensor(1.0), y)  # pure noise, where DDPM never is
    level(torch.tensor(1e-4), y)  # cleaner than its first timestep
    assert [told for told, _ in heard] == [999.0, 0.0]
    torch.testing.assert_close(heard[0][1], DDPM.sigma(999.0) * y)
    torch.testing.assert_close(heard[1][1], DDPM.alpha(0.0) / flow.alpha(float(torch.tensor(1e-4))) * y)


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: (x,), lambda x: [x], lambda x: SimpleNamespace(sample=x)])
def test_networks_may_return_a_tensor_a_tuple_or_an_object(wrap):
    x = torch.ones(2, 3)
    assert torch.equal(Denoiser(lambda x, told: wrap(2 * x), "noise").output(0.5, x), 2 * x)


def test_call_stands_between_the_package_and_the_network():
    denoiser = Denoiser(
        lambda told, hidden_states: hidden_states * told[:, None],
        "flow",
        call=lambda model, x, told, bias: model(told, hidden_states=x) + bias,
        conditioning={"bias": 1.0},
    )
    assert torch.equal(denoiser.output(0.5, torch.ones(2, 3)), torch.full((2, 3), 1.5))


# conditioning and guidance


def conditioned(x, told, labels, extra=None, scale=1.0):
    return scale * x + labels[:, None] + (0.0 if extra is None else extra["rows"][0].sum(1, keepdim=True))


def test_conditioning_is_shared_or_of_each_sample_at_any_depth():
    x = torch.zeros(3, 2)
    of_each = {"labels": torch.arange(3.0), "extra": {"rows": [torch.ones(1, 4)]}, "scale": torch.tensor(2.0)}
    denoiser = Denoiser(conditioned, "noise", conditioning=of_each)
    torch.testing.assert_close(denoiser.output(0.5, x), torch.arange(3.0)[:, None].expand(3, 2) + 4.0)
    assert denoiser.per_sample
    shared = Denoiser(conditioned, "noise", conditioning={"labels": torch.ones(1)})
    assert not shared.per_sample
    assert torch.equal(shared.output(0.5, x), torch.ones(3, 2))


def test_conditioning_of_each_sample_refuses_coins_of_each_sample():
    denoiser = Denoiser(conditioned, "noise", conditioning={"labels": torch.arange(4.0)})
    ladder = denoiser_ladder([denoiser, denoiser], process=VariancePreserving())
    coins = mlsde.Multilevel(mlsde.Constant([1.0, 0.5]), share="sample", correction="hold")
    options = {"steps": 6, "sampler": "ddim"}
    with pytest.raises(ValueError, match="share='batch'"):
        sample(VariancePreserving(), ladder, (4, 2), multilevel=coins, **options)
    # elsewhere the level itself notices
    sde = VariancePreserving().reverse(ladder)
    with pytest.raises(ValueError, match=r"conditioning\['labels'\] is of 4 samples.*shown"):
        mlsde.solve(sde, torch.ones(4, 2), (1.0, 0.1), steps=30, multilevel=coins, method="exponential")
    shared = replace(denoiser, conditioning={"labels": torch.ones(1)})
    ladder = denoiser_ladder([shared, shared], process=VariancePreserving())
    assert sample(VariancePreserving(), ladder, (4, 2), multilevel=coins, **options).success
    batch = replace(coins, share="batch")
    ladder = denoiser_ladder([denoiser, denoiser], process=VariancePreserving())
    assert sample(VariancePreserving(), ladder, (4, 2), multilevel=batch, **options).success


def test_guidance_is_one_doubled_batch():
    calls = []

    def network(x, told, labels, bias):
        calls.append((x.shape, labels.tolist(), bias.tolist()))
        return x * labels[:, None] + bias[:, None]

    plain = Denoiser(network, "noise", conditioning={"bias": torch.tensor([1.0, 2.0])})
    conditional, unconditional = {"labels": torch.tensor([3.0, 4.0])}, {"labels": torch.zeros(1)}
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))

    def alone(half):
        return replace(plain, conditioning={**plain.conditioning, **half}).output(0.5, x)

    for scale in (0.0, 1.0, 7.5):
        calls.clear()
        out = guided(plain, scale, conditional=conditional, unconditional=unconditional).output(0.5, x)
        assert calls == [((4, 3), [0.0, 0.0, 3.0, 4.0], [1.0, 2.0, 1.0, 2.0])]
        torch.testing.assert_close(out, (1 - scale) * alone(unconditional) + scale * alone(conditional))
    assert guided(plain, 2.0, conditional=conditional, unconditional=unconditional).per_sample


def test_guidance_of_a_real_network_and_its_price():
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    net = diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8,), norm_num_groups=4,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), num_class_embeds=3, add_attention=False,
    ).eval().requires_grad_(False)  # fmt: skip
    x = torch.randn(2, 1, 8, 8)
    plain = Denoiser(net, "noise", DDPM)
    labels = torch.tensor([0, 1])
    both = guided(plain, 3.0, conditional={"class_labels": labels}, unconditional={"class_labels": labels * 0 + 2})
    cond, uncond = net(x, 300.0, labels).sample, net(x, 300.0, labels * 0 + 2).sample
    torch.testing.assert_close(both.output(300.0, x), uncond + 3.0 * (cond - uncond), rtol=1e-4, atol=1e-5)
    price = flops(replace(plain, conditioning={"class_labels": labels}), x, 300.0)
    assert flops(both, x, 300.0) == 2 * price > 0


def test_flops_are_those_of_one_sample():
    conv = nn.Conv2d(2, 2, 3, padding=1, bias=False)
    for batch in (1, 5):
        price = flops(lambda x, told: conv(x), torch.ones(batch, 2, 8, 8))
        assert price == 2 * (2 * 3 * 3) * 2 * 8 * 8


# ladders


def test_a_ladder_of_mixed_conventions_solves_as_that_of_the_mixtures():
    process = VariancePreserving()
    mixed = denoiser_ladder(
        [exact("v", CosineVariancePreserving()), exact("edm", process), exact("flow", RectifiedFlow())],
        process=process, costs=[1.0, 4.0, 20.0], names=["a", "b", "c"],
    )  # fmt: skip
    plain = mlsde.DriftHierarchy([mixture(process)] * 3, costs=[1.0, 4.0, 20.0])
    coins = mlsde.Multilevel(mlsde.Constant([1.0, 0.5, 0.25]), coins="independent", correction="impulse")
    ends = [
        mlsde.solve(process.reverse(ladder), SAMPLE, (1.0, 0.05), steps=30, multilevel=coins, method="exponential").y1
        for ladder in (mixed, plain)
    ]
    torch.testing.assert_close(*ends, rtol=1e-7, atol=1e-7)
    assert (mixed.costs, mixed.names) == ((1.0, 4.0, 20.0), ("a", "b", "c"))


@pytest.mark.parametrize("space", ["noise", "clean"])
def test_plain_functions_and_differences_change_space(space):
    process, t = VariancePreserving(), torch.tensor(0.3, dtype=torch.float64)
    data = mixture(process)
    other = GaussianMixture(data.centres[:2], data.variances, process=process)
    clean = [to_clean(level(t, SAMPLE), SAMPLE, process, float(t), "noise") for level in (other, data)]
    wanted = [other(t, SAMPLE), data(t, SAMPLE)] if space == "noise" else clean
    plain = in_space(mlsde.DriftHierarchy([other, data], [1.0, 2.0]), process, space)
    for level, value in zip(plain.levels, wanted, strict=True):
        torch.testing.assert_close(level(t, SAMPLE), value)
    steps = [other, lambda t, y: data(t, y) - other(t, y)]
    differences = in_space(mlsde.DriftHierarchy.from_differences(steps), process, space)
    assert differences.differences
    torch.testing.assert_close(sum(level(t, SAMPLE) for level in differences.levels), wanted[1])
    networks = [Denoiser(lambda x, told, f=f: f(told[0], x), "noise") for f in steps]
    residual = denoiser_ladder(networks, process=process, space=space, differences=True)
    torch.testing.assert_close(sum(level(t, SAMPLE) for level in residual.levels), wanted[1])
    again = in_space(in_space(residual, process, "noise"), process, space)
    torch.testing.assert_close(again.levels[1](t, SAMPLE), residual.levels[1](t, SAMPLE))


# refusals


class Net(nn.Conv2d):
    """A network with a configuration, that must not be asked."""

    def __init__(self, channels, out_channels=None):
        super().__init__(channels, channels, 1)
        self.config = SimpleNamespace(in_channels=channels, out_channels=out_channels or channels)

    def forward(self, x, told):
        raise AssertionError("evaluated")


def says(value, x=None):
    x = torch.ones(2, 3) if x is None else x
    return lambda: Denoiser(lambda x, told: value, "noise").output(0.5, x)


def drawn(net, y, process=RectifiedFlow(), predicts="flow"):  # noqa: B008, a frozen value
    ladder = denoiser_ladder([Denoiser(net, predicts)], process=process)
    return lambda: sample(process, ladder, y, steps=3)


IMAGES = torch.ones(2, 1, 4, 4)


@table({
    "convention": (lambda: Denoiser(Net(1), "score"), ValueError, ["predicts='score'", "'noise'"]),
    "model": (lambda: Denoiser(3, "noise"), TypeError, ["model", "3"]),
    "process": (lambda: Denoiser(Net(1), "noise", 3), TypeError, ["process", "3"]),
    "timestep": (lambda: Denoiser(Net(1), "noise", timestep=3), TypeError, ["timestep"]),
    "conditioning": (lambda: Denoiser(Net(1), "noise", conditioning=3), TypeError, ["conditioning", "3"]),
    "no tensor": (says(3.0), TypeError, ["function must return a tensor", "float"]),
    "two of a tuple": (says((1, 2)), TypeError, ["tuple"]),
    "shape": (says(torch.ones(2, 6)), ValueError, ["(2, 6)", "(2, 3)", "variance"]),
    "dtype": (says(torch.ones(2, 3).double()), TypeError, ["float64", "float32", "cast"]),
    "state's dtype": (drawn(Net(1), IMAGES.double()), TypeError, ["weights of Net", "float32", "float64"]),
    "state's channels": (drawn(Net(3), IMAGES), ValueError, ["in_channels=3", "1 channels"]),
    "learned variance": (drawn(Net(1, 2), IMAGES), ValueError, ["out_channels=2", "1 channels"]),
    "noise at pure noise": (drawn(Net(1), IMAGES, predicts="noise"), ValueError, ["'noise'", "'clean'", "alpha=0"]),
    "edm at pure noise": (drawn(Net(1), IMAGES, predicts="edm"), ValueError, ["'edm'", "alpha is 0"]),
    "ladder's channels": (
        lambda: denoiser_ladder([Denoiser(Net(1), "noise"), Denoiser(Net(3), "noise")], process=DDPM),
        ValueError, ["in_channels", "[1, 3]"],
    ),
    "no denoiser": (lambda: denoiser_ladder([Net(1)], process=DDPM), TypeError, ["denoisers", "Denoiser("]),
    "ladder's process": (lambda: denoiser_ladder([Denoiser(Net(1), "v")], process=3), TypeError, ["process", "3"]),
    "another process": (
        lambda: in_space(denoiser_ladder([Denoiser(Net(1), "v")], process=DDPM), RectifiedFlow(), "noise"),
        ValueError, ["1000 timesteps", "RectifiedFlow"],
    ),
    "guidance's names": (
        lambda: guided(Denoiser(Net(1), "v"), 2.0, conditional={"a": 1}, unconditional={}), ValueError, ["['a']"],
    ),
    "guidance's shapes": (
        lambda: guided(
            Denoiser(Net(1), "v"), 2.0, conditional={"a": torch.ones(1, 3)}, unconditional={"a": torch.ones(1, 2)}
        ).output(0.5, IMAGES),
        ValueError, ["same shape", "(2, 2)", "(2, 3)"],
    ),
    "guidance's kinds": (
        lambda: guided(Denoiser(Net(1), "v"), 2.0, conditional={"a": "x"}, unconditional={"a": "y"}).output(0, IMAGES),
        ValueError, ["'x'", "'y'"],
    ),
    "guided what": (lambda: guided(Net(1), 2.0, conditional={}, unconditional={}), TypeError, ["Denoiser", "Net"]),
    "nothing to count": (lambda: flops(lambda x, told: 2 * x, IMAGES), ValueError, ["costs"]),
})  # fmt: skip
def test_bad_input_is_named(call, error, words):
    told_in_a_sentence(call, error, words)
