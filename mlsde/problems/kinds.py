"""Ladders of different kinds: those that pay, and those that do not, for which a chooser must know better.

Eight kinds, each without noise and with it, on linear and nonlinear systems of 8 to 16 components. Errors are to be
measured against the exact solution of the *top level*: ``reference`` is ``None``.

The top level of a ladder of :func:`kinds` is a declared 64 to 5800 times dearer than its first. What is expected at
the price of some hundred evaluations of the top level, and at a few of them too unless said otherwise:

============ ================================================================= ===================================
kind         what it is                                                        who should win
============ ================================================================= ===================================
smooth       differences fall by halves, as smooth as the drift                spread coins, by far
rough        so do they, but each is twice as rough as the one before          coins, by less
coarse       cheap levels that have next to nothing to do with the top one     the top level alone
useless      a middle level 8 times dearer than the one below and no better    coins
top          the last difference is large, and rough in state and time         a cheap level alone where the price pays
                                                                               for a few steps, then the top one alone
gamma 1.5    accuracy is cheaper than Monte Carlo, smooth                      spread coins, by far
gamma 3      accuracy is dear, smooth                                          spread coins, by far
mixture      a diffusion of Gaussian mixtures, levels by k-means               stitching, cheap levels early
============ ================================================================= ===================================

One exception holds on ODEs whatever the cheap levels are worth: ``extrapolate`` draws a line through the last two
values of a difference, which makes a multistep method of second order of it. Where the price pays for firings that
resolve the difference it beats Euler steps of the top level on ``coarse`` and ``top`` too, as Heun's method does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlsde import checks
from mlsde.hierarchy import DriftHierarchy, Level
from mlsde.problems.analytic import SHEARED_ROTATIONS
from mlsde.problems.ladder import LadderProblem, perturbed, scattered_start
from mlsde.problems.mixtures import gaussian_mixture
from mlsde.sde import SDE

LADDERS = ("smooth", "rough", "coarse", "useless", "top")
SYSTEMS = ("rotations", "pendulums", "weather")
NOISES = ("ode", "additive", "multiplicative")

_APART = 8.0
"""Price of the useless level over the one below, and between the levels that have nothing to do with each other."""

_FLUTTER = 40.0
"""Angular frequency in time, over that in the state, of the rough difference of ``"top"``."""


@dataclass(frozen=True)
class System:
    """A drift that is not yet a ladder.

    Attributes:
        drift: ``f(t, y)``.
        y0: the middle of the initial states.
        noisy: which components additive noise acts on: 0 or 1 for each.
    """

    drift: Level
    y0: tuple[float, ...]
    noisy: tuple[float, ...]


def system(name: str, dimension: int = 16) -> System:
    """A system of its kind: ``"rotations"``, damped and coupled, linear; ``"pendulums"``, a chain; ``"weather"``.

    The pendulums hang from springs between neighbours, in a ring: angles first, then velocities, on which alone the
    noise acts. The weather is that of Lorenz with a forcing of 2, at which it is not chaotic (E. N. Lorenz,
    "Predictability: a problem partly solved", 1996).

    Args:
        name: one of ``SYSTEMS``.
        dimension: number of components: a multiple of 4 for rotations, an even number from 4 on for the others.

    Raises:
        TypeError, ValueError: naming the argument.
    """
    checks.one_of("name", name, SYSTEMS)
    multiple = 4 if name == "rotations" else 2
    if (d := checks.positive_integer("dimension", dimension)) < 4 or d % multiple:
        raise ValueError(f"dimension of {name} must be at least 4 and a multiple of {multiple}, got {d}.")
    makers: dict[str, Callable[[int], System]] = {
        "rotations": _rotations, "pendulums": _pendulums, "weather": _weather,
    }  # fmt: skip
    return makers[name](d)


def _rotations(d: int) -> System:
    transposed = torch.as_tensor(np.kron(np.eye(d // 4), np.array(SHEARED_ROTATIONS)).T.copy())
    return System(lambda t, y: y @ transposed.to(y), (1.0, 0.5, 1.0, -1.0) * (d // 4), (1.0,) * d)


def _pendulums(d: int) -> System:
    half = d // 2

    def drift(t: Tensor, y: Tensor) -> Tensor:
        angle, velocity = y[:, :half], y[:, half:]
        pull = angle.roll(1, 1) + angle.roll(-1, 1) - 2.0 * angle
        return torch.cat([velocity, 2.0 * pull - 4.0 * angle.sin() - 0.5 * velocity], dim=1)

    start = [1.0 if i % 2 else -0.5 for i in range(half)]
    return System(drift, (*start, *(0.5,) * half), (0.0,) * half + (1.0,) * half)


def _weather(d: int) -> System:
    def drift(t: Tensor, y: Tensor) -> Tensor:
        return (y.roll(-1, 1) - y.roll(2, 1)) * y.roll(1, 1) - y + 2.0

    return System(drift, tuple(2.0 + np.cos(2.0 * np.pi * np.arange(d) / d)), (1.0,) * d)


def ladder(
    kind: str,
    base: System,
    noise: str = "ode",
    *,
    gamma: float = 2.5,
    levels: int = 5,
    size: float = 2.0,
    frequency: float = 1.0,
    volatility: float = 0.5,
    seed: int = 0,
) -> LadderProblem:
    """A ladder of one kind over a system, on ``(0, 1)``.

    Args:
        kind: one of ``LADDERS``, as above.
        base: the system.
        noise: ``"ode"``; ``"additive"``; or ``"multiplicative"``: of each component, in proportion to it, Itô.
        gamma: exponent of the price of accuracy.
        levels: number of levels, at least 2; of ``"useless"`` that without the useless one.
        size: of the differences, ``E|f^k - f|^2 = size^2 4^-k``; that of the strangers of ``"coarse"`` and of the last
            difference of ``"top"`` is twice that, whatever ``k`` is.
        frequency: of the differences in state and time.
        volatility: of the noise.
        seed: of the differences.

    Raises:
        TypeError, ValueError: naming the argument.
    """
    checks.one_of("kind", kind, LADDERS)
    checks.one_of("noise", noise, NOISES)
    if not isinstance(base, System):
        raise TypeError(f"base must be a System, which system(name) makes, got {type(base).__name__}.")
    checks.one_seed(seed)
    gamma, frequency = checks.positive_number("gamma", gamma), checks.positive_number("frequency", frequency)
    if checks.positive_integer("levels", levels) < 2:
        raise ValueError("levels must be at least 2: one level is no ladder.")
    d, size = len(base.y0), checks.positive_number("size", size)
    options: dict[str, Any] = {"gamma": gamma, "features": 16, "frequency": frequency, "seed": seed}
    if kind == "coarse":
        drift = _strangers(base.drift, d, levels, size, options)
    elif kind == "top":
        drift = _rough_top(perturbed(base.drift, d, levels=levels - 1, size=size, **options), d, size, options)
    else:
        rough = "rough" if kind == "rough" else "smooth"
        drift = perturbed(base.drift, d, levels=levels, size=size, differences=rough, **options)
    if kind == "useless":
        field = _field(d, size * 2.0 ** -(levels // 2), _other(options, 0))
        drift = _with_another(drift, lambda t, y: base.drift(t, y) + field(t, y), levels // 2)
    start = scattered_start(torch.tensor(base.y0, dtype=torch.float64), 0.5)
    known = None if kind in ("coarse", "top") else gamma
    return LadderProblem(f"{kind}, {noise}", _noisy(drift, base, noise, volatility), start, (0.0, 1.0), None, known)


def _noisy(drift: DriftHierarchy, base: System, noise: str, volatility: float) -> SDE:
    if noise == "ode":
        return SDE(drift)
    strength = checks.positive_number("volatility", volatility)
    if noise == "additive":
        return SDE(drift, strength * torch.tensor(base.noisy, dtype=torch.float64))
    return SDE(drift, lambda t, y: strength * y, noise="diagonal")


def _field(d: int, size: float, options: dict[str, Any]) -> Level:
    """Random cosines of a root mean square ``size``."""
    return perturbed(lambda t, y: torch.zeros_like(y), d, levels=1, size=2.0 * size, **options).levels[0]


def _other(options: dict[str, Any], k: int) -> dict[str, Any]:
    """The options with a seed that no ladder of a small seed has."""
    return {**options, "seed": 1000 * (int(options["seed"]) + 1) + k}


def _strangers(base: Level, d: int, levels: int, size: float, options: dict[str, Any]) -> DriftHierarchy:
    """Fields of their own below the system itself, at prices ``_APART`` times apart."""
    fields = [_field(d, 2.0 * size, _other(options, k)) for k in range(levels - 1)]
    return DriftHierarchy([*fields, base], [_APART**k for k in range(levels)])


def _rough_top(below: DriftHierarchy, d: int, size: float, options: dict[str, Any]) -> DriftHierarchy:
    """A ladder with one level more, which adds a large field that turns fast in time."""
    costs, last = below.required_costs("this ladder"), below.levels[-1]
    field = _field(d, 2.0 * size, {**_other(options, 0), "frequency": 1.5 * options["frequency"]})

    def top(t: Tensor, y: Tensor) -> Tensor:
        return last(t, y) + field(_FLUTTER * t, y)

    return DriftHierarchy([*below.levels, top], [*costs, costs[-1] * 2.0 ** options["gamma"]])


def _with_another(drift: DriftHierarchy, level: Level, place: int) -> DriftHierarchy:
    """A ladder with a level more above level ``place``, ``_APART`` times dearer, as are those above it."""
    costs = drift.required_costs("this ladder")
    levels = [*drift.levels[:place], level, *drift.levels[place:]]
    return DriftHierarchy(levels, [*costs[:place], *(_APART * cost for cost in costs[place - 1 :])])


def mixture(churn: float = 0.0, *, clusters: tuple[int, ...] = (4, 32), components: int = 256) -> LadderProblem:
    """A diffusion of a Gaussian mixture of eight dimensions: without noise at ``churn`` 0, and else with it.

    Args:
        churn: as of :func:`mlsde.problems.mixtures.gaussian_mixture`, and
        clusters: of the cheaper levels,
        components: of the mixture.

    Raises:
        TypeError, ValueError: naming the argument.
        ModuleNotFoundError: without scipy.
    """
    return gaussian_mixture(clusters, components, 8, width=0.4, churn=churn, end=2e-2)


def kinds(seed: int = 0) -> dict[str, LadderProblem]:
    """The eight kinds, each without noise and with it, by name; ``"useless-sde"`` has multiplicative noise.

    Args:
        seed: of the differences, not of the mixtures.

    Raises:
        TypeError, ValueError: for another seed.
        ModuleNotFoundError: without scipy, which the mixtures need.
    """
    checks.one_seed(seed)
    rows: dict[str, tuple[str, System, dict[str, Any]]] = {
        "smooth": ("smooth", system("rotations"), {"levels": 6}),
        "rough": ("rough", system("pendulums"), {}),
        "coarse": ("coarse", system("weather", 12), {"levels": 3}),
        "useless": ("useless", system("rotations", 8), {"gamma": 3.0, "levels": 4}),
        "top": ("top", system("pendulums"), {"levels": 4}),
        "gamma-1.5": ("smooth", system("weather", 12), {"gamma": 1.5, "levels": 7}),
        "gamma-3": ("smooth", system("pendulums", 8), {"gamma": 3.0}),
    }
    made: dict[str, LadderProblem] = {}
    for name, (kind, base, options) in rows.items():
        noise = "multiplicative" if name == "useless" else "additive"
        made[f"{name}-ode"] = ladder(kind, base, "ode", seed=seed, **options)
        made[f"{name}-sde"] = ladder(kind, base, noise, seed=seed, **options)
    return {**made, "mixture-ode": mixture(0.0), "mixture-sde": mixture(1.0)}
