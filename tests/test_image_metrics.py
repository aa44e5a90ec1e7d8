"""Distances between sets of images, against formulas and other programs; the classifier that makes features."""

import math
import time

import numpy as np
import pytest
import torch
from refusals import table
from scipy.linalg import sqrtm
from training_toys import refused

from mlsde.diffusion.classifier import Classifier, accuracy, load_classifier, save_classifier, train_classifier
from mlsde.diffusion.data import Images, as_floats, load_images
from mlsde.diffusion.metrics import frechet, kernel_mmd, rmse, sliced_wasserstein

torch.set_num_threads(1)


def draws(n, d, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(d, d, generator=generator, dtype=torch.float64)
    return torch.randn(n, d, generator=generator, dtype=torch.float64) @ mixing


# the Fréchet distance


@pytest.mark.parametrize(("n", "m", "d"), [(40, 60, 5), (400, 30, 12), (6, 9, 2)])
def test_frechet_distance_is_the_textbook_formula(n, m, d):
    a, b = draws(n, d, 1), draws(m, d, 2) + 0.3
    centres, covariances = [x.mean(0).numpy() for x in (a, b)], [np.cov(x.numpy().T) for x in (a, b)]
    cross = sqrtm(covariances[0] @ covariances[1]).real
    expected = np.square(centres[0] - centres[1]).sum() + np.trace(covariances[0] + covariances[1] - 2 * cross)
    assert frechet(a, b) == pytest.approx(expected, rel=1e-8)
    assert frechet(b, a) == pytest.approx(expected, rel=1e-8)
    biased = expected - np.trace(covariances[0]) / n  # what dividing by n instead of n - 1 would change, and more
    assert frechet(a, b) != pytest.approx(biased, rel=1e-4)


def test_frechet_distance_with_fewer_rows_than_components():
    a, b = draws(5, 20, 1), draws(7, 20, 2)
    # the trace of the root is the sum of the singular values of the product of the centred samples
    centred = [(x - x.mean(0)) / math.sqrt(len(x) - 1) for x in (a, b)]
    cross = np.linalg.svd((centred[0] @ centred[1].T).numpy(), compute_uv=False).sum()
    expected = (a.mean(0) - b.mean(0)).square().sum() + sum(x.square().sum() for x in centred) - 2 * cross
    assert frechet(a, b) == pytest.approx(float(expected), rel=1e-9)


def test_frechet_distance_of_a_shift_and_of_a_scale_in_closed_form():
    a, shift = draws(50, 4), torch.tensor([1.0, 0.0, -2.0, 0.5], dtype=torch.float64)
    assert frechet(a, a) == pytest.approx(0.0, abs=1e-9)
    assert frechet(a, a + shift) == pytest.approx(5.25)
    # C and 4 C: tr(C + 4 C - 2 (2 C)) = tr C
    centred = a - a.mean(0)
    assert frechet(centred, 2 * centred) == pytest.approx(float(torch.cov(a.T).trace()))
    assert frechet(a.float(), (a + shift).float()) == pytest.approx(5.25, rel=1e-5)


# the maximum mean discrepancy


def by_loops(a, b, degree):
    """Equation 3 of Gretton et al., pair by pair."""

    def kernel(x, y):
        return (float(x @ y) / len(x) + 1.0) ** degree

    n, m = len(a), len(b)
    within = [sum(kernel(x[i], x[j]) for i in range(k) for j in range(k) if i != j) for x, k in ((a, n), (b, m))]
    across = sum(kernel(x, y) for x in a for y in b)
    return within[0] / (n * (n - 1)) + within[1] / (m * (m - 1)) - 2 * across / (n * m)


@pytest.mark.parametrize("degree", [1, 2, 3])
@pytest.mark.parametrize("block", [1, 4, 1000])
def test_discrepancy_is_the_double_loop(degree, block):
    a, b = draws(7, 3, 1), draws(10, 3, 2)
    assert kernel_mmd(a, b, degree=degree, block=block) == pytest.approx(by_loops(a, b, degree), rel=1e-10)


def test_discrepancy_is_unbiased_over_all_splits():
    """Over all halves of one set the mean is exactly what two independent draws without replacement have: below 0."""
    pool = draws(6, 2, 3)
    from itertools import combinations

    splits = [(list(half), [i for i in range(6) if i not in half]) for half in combinations(range(6), 3)]
    mean = np.mean([kernel_mmd(pool[a], pool[b]) for a, b in splits])
    # each pair is as often within as its due, so the means within and across are the same
    assert mean == pytest.approx(0.0, abs=1e-10)
    biased = np.mean([kernel_mmd(pool[a], pool[b]) + 0.1 for a, b in splits])
    assert biased != pytest.approx(0.0, abs=1e-10)


def test_discrepancy_is_small_on_halves_and_sees_a_shift():
    a = torch.randn(2000, 4, generator=torch.Generator().manual_seed(0))
    halves, shifted = kernel_mmd(a[:1000], a[1000:]), kernel_mmd(a[:1000], a[1000:] + 0.5)
    assert abs(halves) < 0.01
    assert shifted > 0.5


# others


def test_root_mean_square_by_hand():
    assert rmse(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 4.0]])) == pytest.approx(math.sqrt(2))


def test_sliced_distance_in_one_dimension_is_that_of_the_quantiles():
    a = draws(4000, 1)
    assert sliced_wasserstein(a, 3 * a + 2, projections=2) == pytest.approx(
        float((a * 2 + 2).square().mean().sqrt()), rel=0.01
    )


def test_sliced_distance_takes_many_rows_and_counts_each_once():
    a = torch.randn(70_000, 2, generator=torch.Generator().manual_seed(0))  # more than torch.quantile takes at once
    whole = sliced_wasserstein(a, a + 1.0, projections=240)
    # the quantiles of a shifted sample are shifted, whatever the sample
    assert whole == pytest.approx(sliced_wasserstein(a[:100], a[:100] + 1.0, projections=240), rel=1e-4)


# the classifier


@pytest.fixture(scope="module")
def digits():
    return load_images("digits")


@pytest.fixture(scope="module")
def classifier(digits):
    begin = time.monotonic()
    net = train_classifier(digits, epochs=12, width=16)
    assert time.monotonic() - begin < 60
    return net


def test_classifier_learns_the_digits(classifier, digits):
    assert accuracy(classifier, digits) > 0.9
    torch.manual_seed(0)
    assert accuracy(Classifier(1, 10, 16), digits) < 0.4


def test_classifier_depends_on_its_seed_and_on_nothing_else(digits):
    few = Images(digits.train[:256], digits.held_out, (digits.labels[0][:256], digits.labels[1]))
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, again, other = (train_classifier(few, epochs=1, width=8, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.head.weight, again.head.weight)
    assert not torch.equal(first.head.weight, other.head.weight)


def test_accuracy_counts_the_held_out_images(classifier, digits):
    said = classifier(as_floats(digits.held_out)).argmax(1)
    wrong = Images(digits.train, digits.held_out, (digits.labels[0], (said + 1) % 10))
    assert accuracy(classifier, wrong) == 0.0
    right = Images(digits.train, digits.held_out, (digits.labels[0], said))
    assert accuracy(classifier, right) == 1.0


def test_features_are_what_the_last_layer_sees(classifier, digits):
    images = as_floats(digits.held_out)
    features = classifier.features_of(images, block=50)
    assert features.shape == (180, 64)
    assert not features.requires_grad
    torch.testing.assert_close(features, classifier.features(images), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(classifier.head(features), classifier(images), rtol=1e-4, atol=1e-4)


def test_features_tell_digits_from_noise_and_not_from_digits(classifier, digits):
    images = as_floats(digits.train[torch.randperm(1600, generator=torch.Generator().manual_seed(0))])
    a, b = classifier.features_of(images).split(800)
    noise = torch.randn(800, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    noisy = classifier.features_of(images[800:] + noise)
    assert frechet(a, noisy) > 2 * frechet(a, b)  # which is far from 0: its estimate is biased, the next is not
    assert kernel_mmd(a, noisy) > 10 * abs(kernel_mmd(a, b))


def test_classifier_comes_back_near(classifier, digits, tmp_path):
    file = tmp_path / "deep" / "classifier.safetensors"
    save_classifier(classifier, file)
    again = load_classifier(file)
    assert (again.channels, again.classes, again.width, again.training) == (1, 10, 16, False)
    images = as_floats(digits.held_out)
    torch.testing.assert_close(again.features(images), classifier.features(images), rtol=0, atol=0.02)
    assert accuracy(again, digits) == pytest.approx(accuracy(classifier, digits), abs=0.02)
    (tmp_path / "plain").touch()
    assert file.stat().st_mode == (tmp_path / "plain").stat().st_mode


DAMAGES = {
    "truncated": lambda content: content[:-40],
    "garbage": lambda content: b"garbage" * 9,
    "empty": lambda content: b"",
    "without its size": lambda content: content.replace(b'"width"', b'"breed"'),
    "of another size": lambda content: content.replace(b'"width":"8"', b'"width":"9"'),
    "of more classes": lambda content: content.replace(b'"classes":"10"', b'"classes":"11"'),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_classifier_is_refused_in_a_sentence_that_names_the_file(tmp_path, damage):
    file = tmp_path / "c.safetensors"
    save_classifier(Classifier(1, 10, 8), file)
    before = file.read_bytes()
    file.write_bytes(DAMAGES[damage](before))
    assert file.read_bytes() != before
    with pytest.raises(ValueError, match=r"c\.safetensors' holds no sound classifier \(.*\)\.$") as caught:
        load_classifier(file)
    assert "\n" not in str(caught.value)


UNLABELLED = Images(torch.zeros(9, 1, 8, 8, dtype=torch.uint8), torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
LABELLED = Images(UNLABELLED.train, UNLABELLED.held_out, (torch.zeros(9, dtype=torch.long), torch.zeros(2).long()))
A = torch.zeros(4, 3)


@table(
    {
        "no labels": (lambda: train_classifier(UNLABELLED), ValueError, ["no labels"]),
        "no labels to compare": (lambda: accuracy(Classifier(1, 2, 8), UNLABELLED), ValueError, ["no labels"]),
        "few images": (lambda: train_classifier(LABELLED), ValueError, ["batch=128", "9 images"]),
        "epochs": (lambda: train_classifier(LABELLED, batch=3, epochs=0), ValueError, ["epochs", "0"]),
        "width": (lambda: Classifier(1, 10, 12), ValueError, ["width", "8", "12"]),
        "no file": (lambda: load_classifier("/no/where"), FileNotFoundError, ["/no/where", "train one"]),
        "shapes of rmse": (lambda: rmse(A, A[:1]), ValueError, ["(4, 3)", "(1, 3)"]),
        "shapes of frechet": (lambda: frechet(A, A[:, :2]), ValueError, ["(4, 3)", "(4, 2)"]),
        "one row": (lambda: frechet(A, A[:1]), ValueError, ["2 or more rows", "(1, 3)"]),
        "images for features": (lambda: frechet(A, A[..., None]), ValueError, ["(n, d)", "(4, 3, 1)"]),
        "shapes of mmd": (lambda: kernel_mmd(A, A[:, :2]), ValueError, ["(4, 2)"]),
        "one row of mmd": (lambda: kernel_mmd(A[:1], A), ValueError, ["2 or more rows", "(1, 3)"]),
        "degree": (lambda: kernel_mmd(A, A, degree=0), ValueError, ["degree", "0"]),
        "block": (lambda: kernel_mmd(A, A, block=0), ValueError, ["block", "0"]),
        "shapes of sliced": (lambda: sliced_wasserstein(A, A[:, :2]), ValueError, ["(4, 2)"]),
        "no rows": (lambda: sliced_wasserstein(A, A[:0]), ValueError, ["1 or more rows", "(0, 3)"]),
        "projections": (lambda: sliced_wasserstein(A, A, projections=0), ValueError, ["projections", "0"]),
    }
)
def test_bad_arguments_are_refused(call, error, words):
    refused(call, error, *words)
