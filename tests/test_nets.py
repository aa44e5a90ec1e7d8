"""UNets over patches: what they compute, what it costs, and ladders of them."""

import itertools

import pytest
import torch
from diffusers import UNet2DModel
from refusals import table
from torch.nn.functional import pixel_shuffle, pixel_unshuffle
from training_toys import refused

from mlsde.diffusion.nets import LADDERS, Architecture, PatchUNet, megaflops, unet_ladder

SMALL = Architecture(2, (8,)), Architecture(1, (16,))


def noisy(size=8, channels=1, samples=3, seed=0):
    return torch.randn(samples, channels, size, size, generator=torch.Generator().manual_seed(seed))


TIMES = torch.tensor([0.0, 500.0, 999.0])


# one net


@pytest.mark.parametrize("patch", [1, 2, 4])
@pytest.mark.parametrize("channels", [1, 3])
def test_net_is_the_unet_of_diffusers_over_patches(patch, channels):
    net, x = PatchUNet(8, channels, patch, (8,)).eval(), noisy(channels=channels)
    assert isinstance(net.unet, UNet2DModel)
    with torch.no_grad():
        out = net(x, TIMES).sample
        by_hand = pixel_shuffle(net.unet(pixel_unshuffle(x, patch), TIMES).sample, patch)
        alone = net(x[1:2], 500, return_dict=False)[0]
    assert out.shape == x.shape
    assert torch.equal(out, by_hand)
    # one time for all is that time for each, and samples do not mix
    torch.testing.assert_close(alone, out[1:2], rtol=1e-4, atol=1e-5)
    assert float((out[0] - out[1]).abs().max()) > 0.01


def test_patches_change_the_arithmetic_and_hardly_the_weights():
    fine, coarse = (PatchUNet(16, 1, patch, (16,)) for patch in (1, 4))
    weights = [sum(p.numel() for p in net.parameters()) for net in (fine, coarse)]
    assert 1 < weights[1] / weights[0] < 1.15
    assert megaflops(fine) / megaflops(coarse) > 12


def test_net_with_classes_heeds_them():
    net, x = PatchUNet(8, 1, 1, (8,), classes=4).eval(), noisy()
    with torch.no_grad():
        outs = [net(x, TIMES, torch.full((3,), label)).sample for label in (0, 3)]
    assert not torch.equal(*outs)
    assert megaflops(net) == pytest.approx(megaflops(PatchUNet(8, 1, 1, (8,))), rel=1e-3)


def test_net_survives_saving_in_the_way_of_diffusers(tmp_path):
    net, x = PatchUNet(8, 1, 2, (8, 16), 1, groups=4).eval(), noisy()
    net.save_pretrained(tmp_path)
    again = PatchUNet.from_pretrained(tmp_path).eval()
    assert (again.config.widths, again.config.patch, again.config.groups) == ([8, 16], 2, 4)
    with torch.no_grad():
        assert torch.equal(net(x, TIMES).sample, again(x, TIMES).sample)


# what it costs


def test_operations_are_counted_for_one_image_of_the_size_in_the_configuration():
    net = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8,), layers_per_block=1,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), add_attention=False, norm_num_groups=4,
    )  # fmt: skip
    counted = 0

    def count(module, arguments, out):
        nonlocal counted
        weights = module.weight[0].numel()  # multiplications for one number of the output; additions are as many
        counted += 2 * weights * out.numel()

    for module in net.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            module.register_forward_hook(count)
    assert megaflops(net) * 1e6 == counted > 0


def test_counting_leaves_the_net_and_the_random_state_alone():
    net, state = PatchUNet(8, 1, 1, (8,)).train(), torch.get_rng_state()
    megaflops(net)
    assert net.training
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    assert torch.equal(torch.get_rng_state(), state)


# ladders


@pytest.mark.parametrize(
    ("name", "least", "whole"),
    # the first step of "fashion" is 7.3; weights that were trained stand behind it
    [("digits", 8.0, 64), ("fashion", 7.2, 80), ("colour", 8.0, 1900)],
)
def test_arithmetic_grows_by_eight_or_more_per_level(name, least, whole):
    size, channels, architectures = LADDERS[name]
    with torch.device("meta"):  # only shapes matter, and the largest has 79 million weights
        nets = [PatchUNet(size, channels, a.patch, a.widths, a.layers_per_block) for a in architectures]
        images = torch.zeros(1, channels, size, size)
    prices = [_megaflops_of_shapes(net, images) for net in nets]
    ratios = [high / low for low, high in itertools.pairwise(prices)]
    assert min(ratios) >= least
    assert prices[-1] / prices[0] >= whole


def _megaflops_of_shapes(net, images):
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(images, torch.zeros(1, device="meta"))
    return counter.get_total_flops() / 1e6


def test_prices_of_the_digits_are_those_that_the_counter_finds_on_values():
    size, channels, architectures = LADDERS["digits"]
    prices = [megaflops(net) for net in unet_ladder(size, channels, architectures)]
    assert min(high / low for low, high in itertools.pairwise(prices)) >= 8.0
    meta = []
    for a in architectures:
        with torch.device("meta"):
            net, images = PatchUNet(size, channels, a.patch, a.widths), torch.zeros(1, channels, size, size)
        meta.append(_megaflops_of_shapes(net, images))
    assert meta == prices


def test_ladder_is_made_by_its_seed_and_leaves_the_random_state_alone():
    state = torch.get_rng_state()
    first, again, other = (unet_ladder(8, 1, SMALL, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    for a, b, c in zip(first, again, other, strict=True):
        weights = [next(net.parameters()) for net in (a, b, c)]
        assert torch.equal(weights[0], weights[1])
        assert not torch.equal(weights[0], weights[2])
    assert [net.training for net in first] == [False, False]
    assert [net.config.classes for net in unet_ladder(8, 1, SMALL, classes=7)] == [7, 7]


@table(
    {
        "no levels": (lambda: unet_ladder(8, 1, []), ValueError, ["architectures", "at least one"]),
        "shrinking": (lambda: unet_ladder(8, 1, SMALL[::-1]), ValueError, ["architectures", "level 2", "MFLOP"]),
        "equal": (lambda: unet_ladder(8, 1, [SMALL[0]] * 2), ValueError, ["architectures", "level 2"]),
        "image": (lambda: unet_ladder(28, 1), ValueError, ["sample_size=28", "multiple of", "pad"]),
        "odd": (lambda: PatchUNet(7, 1, 2, (8,)), ValueError, ["sample_size=7", "2"]),
        "widths": (lambda: PatchUNet(8, 1, 1, (12,)), ValueError, ["widths", "groups=8", "[12]"]),
        "no widths": (lambda: PatchUNet(8, 1, 1, ()), ValueError, ["widths", "[]"]),
        "patch": (lambda: PatchUNet(8, 1, 0, (8,)), ValueError, ["patch", "0"]),
        "channels": (lambda: unet_ladder(8, 1.0, SMALL), TypeError, ["channels", "1.0"]),
        "size": (lambda: unet_ladder(0, 1, SMALL), ValueError, ["sample_size", "0"]),
        "seed": (lambda: unet_ladder(8, 1, SMALL, seed=-1), ValueError, ["seed", "-1"]),
    }
)
def test_bad_sizes_are_refused(call, error, words):
    refused(call, error, *words)
