"""Ladders with a reference solution: what a convergence study needs to know of an equation.

:func:`perturbed` makes a ladder ``f^k = f + 2^-k phi_k`` of any drift, whose price of accuracy is harder than Monte
Carlo (``gamma > 2``) or not, as asked. Source of the regime: arXiv 2603.24594.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mlsde import checks
from mlsde.brownian import Brownian
from mlsde.hierarchy import DriftHierarchy, Level
from mlsde.sde import SDE
from mlsde.showing import as_call

Start = Callable[[int, int], Tensor]
Reference = Callable[[Tensor, Brownian | None], Tensor]

DIFFERENCES = ("smooth", "rough")
WORK = ("declared", "real")

_FEATURES_AT_ONCE = 2**15
"""Features whose values are held at once, so that a dear level of a large batch does not fill the memory."""

_MOST_FEATURES = 2**26


@dataclass(frozen=True)
class LadderProblem:
    """An equation whose drift is a ladder, and what its solution really is.

    Args:
        name: what to call it in tables.
        sde: the equation; its ladder has ``costs``.
        start: ``start(samples, seed)`` returns initial states, shape ``(samples, ...)``; or a tensor of such states,
            of which each seed takes the next rows, from the start again when they are used up.
        t_span: ``(t0, t1)``.
        reference: ``reference(y0, path)`` returns the solution at ``t1`` from ``y0`` on a Brownian path (``None`` for
            an ODE), shape of ``y0``: what errors are measured against. ``None`` runs the top level with a fine step, by
            Heun for an ODE or additive noise, and by Milstein where the noise allows it.
        gamma: exponent of the price of accuracy, if it is known: a level whose error is ``eps`` costs ``eps^-gamma``.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> drift = DriftHierarchy([lambda t, y: -y, lambda t, y: -torch.sin(y)], costs=[1.0, 50.0])
        >>> problem = LadderProblem("pendulum", SDE(drift, 0.5), torch.ones(1, 1), (0.0, 1.0))
        >>> problem.initial(3).shape
        torch.Size([3, 1])
    """

    name: str
    sde: SDE
    start: Start | Tensor
    t_span: tuple[float, float] = (0.0, 1.0)
    reference: Reference | None = None
    gamma: float | None = None

    __repr__ = as_call

    def __post_init__(self) -> None:
        if not isinstance(self.sde, SDE):
            raise TypeError(f"sde must be an mlsde.SDE, got {type(self.sde).__name__}.")
        self.sde.drift.required_costs("a ladder problem")
        checks.time_span(self.t_span)
        if isinstance(self.start, Tensor):
            checks.state("start", self.start)
        else:
            checks.callable_as("start", "start(samples, seed), or a tensor of states,", self.start)
        if self.reference is not None:
            checks.callable_as("reference", "reference(y0, path)", self.reference)
        if self.gamma is not None:
            checks.positive_number("gamma", self.gamma)

    @property
    def strong_order(self) -> float:
        """Strong order of Euler-Maruyama on it: 1 for an ODE and for additive noise, else 1/2."""
        return 1.0 if self.sde.is_ode or self.sde.additive else 0.5

    def initial(self, samples: int, seed: int = 0) -> Tensor:
        """Initial states of a batch, shape ``(samples, ...)``; the same for the same arguments."""
        checks.positive_integer("samples", samples)
        checks.one_seed(seed)
        if isinstance(self.start, Tensor):
            rows = (seed * samples + torch.arange(samples, device=self.start.device)) % len(self.start)
            return self.start[rows].clone()
        y0 = checks.state("what start returned", self.start(samples, seed))
        if len(y0) != samples:
            raise ValueError(f"start({samples}, {seed}) returned {len(y0)} states, expected {samples}.")
        return y0


def checked(problem: object) -> LadderProblem:
    """Return ``problem`` if it is a :class:`LadderProblem`; ``TypeError`` with the mend otherwise."""
    if not isinstance(problem, LadderProblem):
        raise TypeError(
            f"problem must be an mlsde.problems.LadderProblem, got {type(problem).__name__}. "
            "An analytic problem makes one by .ladder(gamma, levels)."
        )
    return problem


def scattered_start(y0: Tensor, spread: float, seed_offset: int = 0) -> Start:
    """Initial states around ``y0`` of shape ``(d,)``: each component times ``1 + spread * uniform(-1, 1)``."""
    spread = checks.non_negative_number("spread", spread)
    if checks.state("y0", y0).ndim != 1:
        raise ValueError(f"y0 must be the state of one sample, shape (d,), got {tuple(y0.shape)}.")

    def start(samples: int, seed: int) -> Tensor:
        draws = np.random.default_rng([seed, seed_offset]).uniform(-1.0, 1.0, (samples, len(y0)))
        return y0 * (1.0 + spread * torch.as_tensor(draws, dtype=y0.dtype))

    return start


def perturbed(
    base: Level,
    dimension: int,
    *,
    gamma: float,
    levels: int,
    differences: str = "smooth",
    work: str = "declared",
    size: float = 1.0,
    frequency: float = 1.0,
    features: int = 8,
    seed: int = 0,
) -> DriftHierarchy:
    """Ladder ``f^k = f + size 2^-k phi_k``, ``k = 1 … K``, at prices ``c_k`` in proportion to ``2^(gamma k)``.

    Each ``phi_k`` is a sum of cosines of the state and the time with random frequencies, of root mean square about 1:
    ``E|f^k - f|^2 = size^2 4^-k`` whatever ``gamma`` is.

    Args:
        base: the limit ``f(t, y)``, for states of shape ``(samples, dimension)``.
        dimension: ``d``.
        gamma: exponent of the price of accuracy; above 2 is harder than Monte Carlo.
        levels: ``K``.
        differences: ``"smooth"``: the frequencies do not depend on the level, so the Lipschitz constant of
            ``2^-k phi_k`` is of order ``2^-k``. ``"rough"``: they double with each level, and it is of order 1.
        work: ``"declared"``: all levels cost the same to evaluate and their prices are stated, with ``c_1 = 1``.
            ``"real"``: level ``k`` has ``features * 2^(gamma (k - 1))`` features, and its price is their number.
        size: of the differences.
        frequency: standard deviation of the frequencies, of level 1 if they are rough.
        features: number of cosines of each level, of level 1 if the work is real.
        seed: of the random frequencies.

    Returns:
        The ladder.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> perturbed(lambda t, y: -y, 2, gamma=3.0, levels=3)
        DriftHierarchy(3 levels, costs: 1, 8, 64)
    """
    checks.callable_as("base", "f(t, y)", base)
    d, count = checks.positive_integer("dimension", dimension), checks.positive_integer("levels", levels)
    gamma, size = checks.positive_number("gamma", gamma), checks.non_negative_number("size", size)
    checks.squarable("size", size)
    checks.one_of("differences", differences, DIFFERENCES)
    checks.one_of("work", work, WORK)
    features, frequency = checks.positive_integer("features", features), checks.positive_number("frequency", frequency)
    checks.squarable("frequency", frequency)
    checks.one_seed(seed)
    if gamma * (count - 1) > 500 or count > 500:
        raise ValueError(f"levels={count} with gamma={gamma:g} are dearer than 2^500; take fewer levels.")
    grown = [2.0 ** (gamma * k) for k in range(count)]
    numbers = [features if work == "declared" else round(features * factor) for factor in grown]
    if numbers[-1] > _MOST_FEATURES:
        raise ValueError(
            f"levels={count} with gamma={gamma:g} and real work need {numbers[-1]} features, more than "
            f"{_MOST_FEATURES}; take fewer levels or features."
        )
    made = []
    for k, number in enumerate(numbers, start=1):
        scale = frequency * 2.0 ** (k - 1) if differences == "rough" else frequency
        made.append(_Perturbed.draw(base, size * 2.0**-k, scale, (d, number), (seed, k)))
    costs = grown if work == "declared" else [float(number) for number in numbers]
    return DriftHierarchy(made, costs)


@dataclass(frozen=True, eq=False)
class _Perturbed:
    """``f(t, y) + a sum_j A_j cos(omega_j . y + nu_j t + b_j)``, ``sum_j |A_j|^2 = 2``: root mean square ``a``."""

    base: Level
    frequencies: Tensor  # (d, m)
    rates: Tensor  # (m,)
    phases: Tensor  # (m,)
    amplitudes: Tensor  # (m, d)

    @classmethod
    def draw(cls, base: Level, a: float, frequency: float, shape: tuple[int, int], seed: tuple[int, int]) -> _Perturbed:
        rng = np.random.default_rng(seed)
        d, m = shape
        frequencies = frequency * rng.standard_normal((d, m))
        rates = frequency * rng.standard_normal(m)
        phases = rng.uniform(0.0, 2.0 * math.pi, m)
        amplitudes = rng.standard_normal((m, d))
        amplitudes *= a * math.sqrt(2.0) / np.linalg.norm(amplitudes)
        return cls(base, *map(torch.as_tensor, (frequencies, rates, phases, amplitudes)))

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        out = self.base(t, checks.vectors("y", y, len(self.frequencies)))
        for i in range(0, len(self.phases), _FEATURES_AT_ONCE):
            part = slice(i, i + _FEATURES_AT_ONCE)
            angles = torch.addmm(
                self.rates[part].to(y) * t + self.phases[part].to(y), y, self.frequencies[:, part].to(y)
            )
            out = torch.addmm(out, angles.cos_(), self.amplitudes[part].to(y))
        return out
