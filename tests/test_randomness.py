import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from mlsde import randomness

CPU = torch.device("cpu")


def rows(shape=(3, 2), dtype=torch.float64, seed=0, stream=randomness.NOISE, most=randomness.SCATTERED):
    return randomness.NormalRows(shape, dtype, CPU, seed, stream, most)


def correlation(a, b):
    """Correlation times the root of the count: standard normal for independent normals."""
    a, b = a.double().flatten(), b.double().flatten()
    return float((a * b).sum() / (a.norm() * b.norm())) * len(a) ** 0.5


def test_a_host_generator_is_named_by_its_whole_key():
    def first(*key):
        return randomness.host_generator(*key).random()

    keys = [(0, 1), (0, 2), (1, 1), (1, 0, 1), (2**32, 1), (2**64, 1), (0, 1, 5)]
    assert first(0, 1) == first(0, 1)
    assert len({first(*key) for key in keys}) == len(keys)


def test_the_streams_have_different_numbers():
    streams = [randomness.NOISE, randomness.PATH, randomness.COINS, randomness.OFFSETS, randomness.PROBE]
    assert len(set(streams)) == 5
    assert 0 not in streams, "numpy reads (seed, 0) and (seed,) as the same entropy"


def test_mixing_is_a_bijection_of_32_bits():
    """It is inverted step by step, on the ends, on powers of two and on a random sample."""

    def unshift(x):
        return x ^ (x >> 16)

    def inverse(x):
        x = unshift(x)
        x = x * pow(0xC2B2AE35, -1, 2**32) & 0xFFFFFFFF
        x = x ^ (x >> 13) ^ (x >> 26)
        x = x * pow(0x85EBCA6B, -1, 2**32) & 0xFFFFFFFF
        return unshift(x)

    sample = np.random.default_rng(0).integers(0, 2**32, 2000).tolist()
    for x in [0, 1, 2**32 - 1, *(2**k for k in range(32)), *sample]:
        assert inverse(randomness._mix32(x)) == x


def test_no_two_draws_of_a_stream_share_a_seed():
    stream = randomness._Stream(7, randomness.PATH)
    seeds = {stream.seed(index) for index in range(100_000)}
    assert len(seeds) == 100_000
    assert all(0 <= seed < 2**32 for seed in list(seeds)[:1000]), "torch's CPU generator drops higher bits"


def test_a_chunk_is_the_same_in_whatever_order_it_is_asked_for():
    forwards, backwards = rows(), rows()
    one = [forwards.chunk(i) for i in range(5)]
    other = [backwards.chunk(i) for i in reversed(range(5))][::-1]
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert torch.equal(forwards.chunk(2), one[2])


def test_both_precisions_draw_the_same_normals():
    assert torch.equal(rows(dtype=torch.float32).chunk(3).double(), rows(dtype=torch.float64).chunk(3))


def test_a_chunk_has_the_rows_that_were_announced():
    for shape in [(1,), (3,), (1000, 10), (5, 2, 3, 4)]:
        for most in (randomness.SCATTERED, randomness.IN_ORDER):
            source = rows(shape, most=most)
            assert source.chunk(0).shape == (source.rows_per_chunk, *shape)


@pytest.mark.parametrize("shape", [(6,), (6, 3), (6, 2, 2)])
def test_with_a_seed_per_sample_a_batch_can_be_split(shape):
    seeds = (5, 5 + 2**32, 0, 12, 3, 2**70)
    whole = rows(shape, seed=seeds).chunk(4)
    for first, last in [(0, 1), (1, 4), (4, 6)]:
        part = rows((last - first, *shape[1:]), seed=seeds[first:last])
        size = min(part.rows_per_chunk, len(whole))
        assert torch.equal(part.chunk(4)[:size], whole[:size, first:last])


def test_seeds_and_streams_are_uncorrelated():
    """Ten pairs, each beyond 5 standard deviations with probability 6e-7: false alarm below 1e-5."""
    shape = (4000,)
    sources = {
        "noise": rows(shape),
        "path": rows(shape, stream=randomness.PATH),
        "next seed": rows(shape, seed=1),
        "seed beyond 32 bits": rows(shape, seed=2**32),
        "seed per sample": rows(shape, seed=(0,) * 4000),
    }
    chunks = {name: source.chunk(0)[:1] for name, source in sources.items()}
    for (a, x), (b, y) in itertools.combinations(chunks.items(), 2):
        assert not torch.equal(x, y), f"{a} and {b} are the same"
        if "seed per sample" not in (a, b):
            assert abs(correlation(x, y)) < 5, f"{a} and {b} are correlated"


def test_equal_seeds_per_sample_give_equal_rows():
    chunk = rows((3, 2), seed=(9, 9, 8)).chunk(0)
    assert torch.equal(chunk[:, 0], chunk[:, 1])
    assert not torch.equal(chunk[:, 0], chunk[:, 2])


def test_the_rows_are_standard_normal_and_neighbours_are_independent():
    """Kolmogorov-Smirnov at 1e-4, correlations of neighbours at 5 standard deviations; the seed is fixed."""
    source = rows((50,), most=randomness.IN_ORDER)
    normals = torch.cat([source.chunk(i) for i in range(40)])
    assert stats.kstest(normals.flatten().numpy(), "norm").pvalue > 1e-4
    assert abs(correlation(normals[1:], normals[:-1])) < 5
    assert abs(correlation(normals[:, 1:], normals[:, :-1])) < 5


def test_two_streams_that_share_half_of_their_name_have_different_seeds():
    streams = [randomness._Stream(0), randomness._Stream(1)]
    streams[1]._shift = streams[0]._shift
    assert streams[0]._mask != streams[1]._mask
    shared = sum(streams[0].seed(index) == streams[1].seed(index) for index in range(10_000))
    assert shared == 0
