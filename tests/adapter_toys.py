"""Linear nets, a ladder of them in the adapter, and the plainest of hosts."""

import itertools
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

import mlsde
from mlsde.diffusion.adapter import MultilevelDenoiser

GRID = np.linspace(1.0, 0.0, 13)


P = (1.0, 0.5, 0.25)


class Toy(nn.Module):
    """A linear net, ``w x + c t``, that keeps what it was called with."""

    def __init__(self, w, c=0.0, form="tensor"):
        super().__init__()
        self.weight, self.c, self.form = nn.Parameter(torch.tensor(float(w)), requires_grad=False), c, form
        self.seen = []

    def forward(self, x, t, **extra):
        self.seen.append((tuple(x.shape), extra))
        when = torch.as_tensor(t, dtype=x.dtype).flatten()[0]
        out = self.weight.to(x.dtype) * x + self.c * when
        return {"tensor": out, "tuple": (out,), "object": SimpleNamespace(sample=out)}[self.form]


def nets(**options):
    return [Toy(-0.5, 0.3, **options), Toy(-0.9, 0.1, **options), Toy(-1.0, **options)]


def rule(p=P, coins="systematic", correction="hold", **options):
    return mlsde.Multilevel(mlsde.Constant(p), coins=coins, correction=correction, **options)


def denoiser(multilevel=None, models=None, **options):
    if not {"steps", "timesteps", "scheduler"} & set(options):
        options["steps"] = len(GRID) - 1
    return MultilevelDenoiser(models or nets(), multilevel=multilevel or rule(), **options)


def euler(model, x, grid=GRID, **extra):
    """The host: a loop of Euler steps in which the net is the velocity."""
    for t, t_next in itertools.pairwise(grid):
        x = x + (t_next - t) * model(x, torch.tensor(t), **extra)
    return x


def start(batch=3, dtype=torch.float64):
    return torch.linspace(-1.0, 2.0, batch * 2, dtype=dtype).view(batch, 2)


def calls(model):
    return [len(net.seen) for net in model.levels]


KINDS = [
    (coins, correction)
    for coins in ("independent", "nested", "systematic", "periodic")
    for correction in ("impulse", "hold", "control", "extrapolate")
    if correction != "extrapolate" or coins in ("systematic", "periodic")
]


def scheduler(timesteps, **config):
    return SimpleNamespace(
        timesteps=torch.as_tensor(timesteps), config=SimpleNamespace(**config), num_inference_steps=len(timesteps)
    )


class Gaussian(nn.Module):
    """The denoiser of a normal distribution of variance ``v``, in the call of EDM and of k-diffusion."""

    sigma_min, sigma_max = 0.002, 80.0

    def __init__(self, v):
        super().__init__()
        self.v = v

    def round_sigma(self, sigma):
        return torch.as_tensor(sigma)

    def forward(self, x, sigma, class_labels=None):
        s = sigma.view(-1, *[1] * (x.ndim - 1))
        return self.v / (self.v + s**2) * x


def karras(n, low=0.02, high=10.0, rho=7.0):
    ramp = torch.linspace(0, 1, n, dtype=torch.float64)
    rising = (high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    return torch.cat([rising, torch.zeros(1, dtype=torch.float64)])
