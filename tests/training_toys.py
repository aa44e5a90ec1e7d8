"""Small nets and images to train on, what it means that two trainings are in one state, and that one is refused."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from mlsde.diffusion.data import Images
from mlsde.diffusion.training import Settings, Times, Training
from mlsde.diffusion.variance_preserving import VariancePreserving

torch.set_num_threads(1)


class Toy(nn.Module):
    """Two convolutions that heed the time."""

    def __init__(self, width=4, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(100 * width + seed)
        self.a, self.b = nn.Conv2d(2, width, 3, padding=1), nn.Conv2d(width, 1, 3, padding=1)
        for weights in self.parameters():
            weights.data = 0.3 * torch.randn(weights.shape, generator=generator)

    def forward(self, x, told):
        times = told.view(-1, 1, 1, 1).expand_as(x)
        return SimpleNamespace(sample=self.b(torch.tanh(self.a(torch.cat([x, times], 1)))))


class Line(nn.Module):
    """``weight x``: all is known by hand."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(float(weight)))

    def forward(self, x, told):
        return SimpleNamespace(sample=self.weight * x)


def some_images(seed=0, count=20, held_out=6):
    images = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (count + held_out, 1, 4, 4), np.uint8))
    return Images(images[:count], images[count:], name="toys")


IMAGES = some_images()
TIMES = Times.of(VariancePreserving(), np.linspace(0.1, 0.9, 9).tolist(), np.linspace(0.1, 0.9, 9).tolist())
BRIEF = Settings(steps=6, batch=8, learning_rates=1e-2, warmup=2, evaluate_every=2)
"""Two and a half passes over the images, so that a resumed run must find its place within one."""


def settings(**changes):
    return Settings(**{**vars(BRIEF), **changes})


def toys():
    return [Toy(2), Toy(3), Toy(4)]


def training(models=None, wished=BRIEF, images=IMAGES, times=TIMES, **options):
    return Training(toys() if models is None else models, images, times, wished, **options)


def steps(run, count):
    """Make so many steps, with a checkpoint after each."""
    for _ in range(count):
        run.run(most_seconds=1e-9)
    return run


def same_weights(a, b):
    mine, theirs = a.state_dict(), b.state_dict()
    return all(torch.equal(mine[name], theirs[name]) for name in mine)


def same_state(a, b):
    """Weights, averages, the optimiser's moments, the step and the history, to the last bit."""
    nets = zip([*a.models, *a.averages], [*b.models, *b.averages], strict=True)
    moments = [run.optimiser.state_dict()["state"] for run in (a, b)]
    return (
        all(same_weights(*pair) for pair in nets)
        and moments[0].keys() == moments[1].keys()
        and all(torch.equal(value, moments[1][i][name]) for i, one in moments[0].items() for name, value in one.items())
        and (a.step, a.history) == (b.step, b.history)
    )


def refused(call, error, *words):
    """``call`` raises ``error`` from a check of this package, in one line that holds all of ``words``."""
    with pytest.raises(error) as caught:
        call()
    message, raised = str(caught.value), caught.traceback[-1]
    assert type(caught.value) is error
    assert "mlsde" in raised.path.parts
    assert "raise " in str(raised.statement), "raised in the depths, not by a check"
    assert message.endswith((".", ").")), message
    assert "\n" not in message
    assert [word for word in words if word not in message] == [], message
