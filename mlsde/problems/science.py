"""Drifts that are harder than Monte Carlo for reasons of their own: the price of accuracy is measured, not set.

:func:`charges` is a sum over many sources which grids of cells approximate; :func:`learned_force` is a regression
whose accuracy grows with the number of its reference points. The price of a level is the number of sources or points
that one evaluation sums over. :func:`level_errors` and :func:`price_exponent` measure ``gamma``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mlsde import checks, norms
from mlsde.brownian import Brownian
from mlsde.hierarchy import DriftHierarchy, Level
from mlsde.integrate import solve
from mlsde.problems.ladder import LadderProblem, Start, checked
from mlsde.sde import SDE
from mlsde.showing import as_call

ASSIGNMENTS = ("cell", "mean")
SMOOTHNESS = (0.5, 1.5, 2.5)

_NUMBERS_AT_ONCE = 2**20
"""Pairs of a sample and a source whose values are held at once, so that a dear level does not fill the memory."""


@dataclass(frozen=True)
class FineRun:
    """Reference of a ladder whose limit can be evaluated: a run of the limit drift on the same path.

    Attributes:
        sde: the equation with the limit drift.
        t_span: ``(t0, t1)``.
        steps: their number.
    """

    sde: SDE
    t_span: tuple[float, float]
    steps: int

    __repr__ = as_call

    def __call__(self, y0: Tensor, path: Brownian | None) -> Tensor:
        """Return the solution at ``t1``, shape of ``y0``."""
        return solve(self.sde, y0, self.t_span, steps=self.steps, brownian=path).y1


def level_errors(problem: LadderProblem, *, samples: int = 64, steps: int = 32, seed: int = 0) -> np.ndarray:
    """Root mean square of ``|f^k - f|`` along a run of the limit ``f``, shape ``(K,)``.

    The limit is the drift of the problem's :class:`FineRun`, or else the top level, whose error is then 0.

    Args:
        problem: the ladder.
        samples: number of trajectories.
        steps: of the run.
        seed: of its initial states and its noise.

    Raises:
        TypeError, ValueError: as :func:`mlsde.solve`.
    """
    levels = checked(problem).sde.drift.levels
    limit = problem.reference.sde.drift.levels[-1] if isinstance(problem.reference, FineRun) else levels[-1]
    squares: list[list[float]] = []

    def watched(t: Tensor, y: Tensor) -> Tensor:
        value = limit(t, y)
        squares.append([float(norms.squares(level(t, y) - value).mean()) for level in levels])
        return value

    solve(problem.sde.with_drift(watched), problem.initial(samples, seed), problem.t_span, steps=steps, seed=seed)
    return np.sqrt(np.mean(squares, axis=0))


def price_exponent(costs: Sequence[float], errors: Sequence[float] | np.ndarray) -> float:
    """``gamma``, by least squares of the logarithms: a level whose error is ``eps`` costs ``eps^-gamma``.

    Args:
        costs: of the levels.
        errors: of the levels, above zero.

    Raises:
        ValueError: if there are fewer than two levels, or the errors do not fall as the costs grow.
    """
    prices, misses = checks.as_float64("costs", costs), checks.as_float64("errors", errors)
    if len(prices) < 2 or prices.shape != misses.shape:
        raise ValueError(
            f"costs and errors must hold one number for each of two levels or more, got {costs}, {errors}."
        )
    if not ((prices > 0).all() and (misses > 0).all()):
        raise ValueError(f"costs and errors must be above zero, got {costs}, {errors}; leave out the limit itself.")
    if prices.min() == prices.max():
        raise ValueError(f"costs must differ, got {costs}.")
    slope = float(np.polyfit(np.log(prices), np.log(misses), 1)[0])
    if not slope < 0:
        raise ValueError(f"errors must fall as the costs grow, got {errors} at costs {costs}.")
    return -1.0 / slope


def charges(
    count: int = 4096,
    sides: Sequence[int] = (2, 4, 8),
    *,
    softening: float = 0.5,
    strength: float = 2.0,
    trap: float = 2.0,
    temperature: float = 0.2,
    assignment: str = "cell",
    seed: int = 0,
) -> LadderProblem:
    """Overdamped Langevin motion in a trap and in the field of many charges of random sign, in three dimensions.

    ``dY = (-trap Y + F(Y)) dt + sqrt(2 temperature) dW`` with
    ``F(y) = sum_j q_j (y - x_j) / (|y - x_j|^2 + softening^2)^(3/2)``, charges uniform in ``[-1, 1]^3``. The top
    level sums all of them. A cheaper one sums the ``side^3`` cells of a grid, with each cell's total charge at the
    cell's centre: the assignment to the nearest grid point of particle-mesh codes (R. W. Hockney & J. W. Eastwood,
    *Computer Simulation Using Particles*, 1988). It errs by the cells' dipoles, of first order in their size, at a
    price of the third: ``gamma`` of about 3 once the cells are smaller than the softening. There is no reference but
    a fine run of the top level.

    Measured, ``price_exponent(costs[:-1], level_errors(problem)[:-1])``: 2.8 for the default (over seeds 0 … 15 the
    median is 3.1, between 2.4 and 5.8: a first grid of 8 cells is coarse), and 3.0 for 32768 charges and
    ``sides=(2, 4, 8, 16)`` (median of seeds 0 … 7 3.2, between 2.8 and 3.4). The differences are smooth: their slopes
    fall with them.

    Args:
        count: number of charges.
        sides: cells along an edge of the grids, increasing.
        softening: length below which charges are smeared out (Plummer).
        strength: root mean square of the sum of the charges; each is ``± strength / sqrt(count)``.
        trap: stiffness of the trap, above zero; the initial states are drawn from its Gibbs law.
        temperature: above zero.
        assignment: ``"cell"``, or ``"mean"`` for the mean place of the cell's charges; with random signs that does
            not cancel the dipole either, and only helps where a cell holds one or two charges.
        seed: of the charges.

    Raises:
        TypeError, ValueError: naming the argument.
    """
    count, sides = checks.positive_integer("count", count), _increasing("sides", sides)
    softening, strength = _squarable("softening", softening), _squarable("strength", strength)
    trap, temperature = _squarable("trap", trap), _squarable("temperature", temperature)
    checks.one_of("assignment", assignment, ASSIGNMENTS)
    rng = np.random.default_rng(checks.one_seed(seed))
    places = torch.as_tensor(rng.uniform(-1.0, 1.0, (count, 3)))
    values = torch.as_tensor(rng.choice([-1.0, 1.0], count)) * (strength / math.sqrt(count))
    sources = [*(grouped(places, values, side, assignment) for side in sides), (places, values)]
    levels = [_Field(*source, softening, trap) for source in sources]
    costs = [float(len(level.charges)) for level in levels]
    if costs != sorted(set(costs)):
        raise ValueError(f"sides={sides} make levels of {costs} sources, which must grow; take fewer or coarser grids.")
    names = [*(f"{side}^3 cells" for side in sides), f"all {count} charges"]
    return _langevin("charges", DriftHierarchy(levels, costs, names=names), 3, trap, temperature)


def grouped(places: Tensor, charges: Tensor, side: int, assignment: str = "cell") -> tuple[Tensor, Tensor]:
    """One charge for each cell of a grid on ``[-1, 1]^3`` that holds any: the total of the cell.

    Args:
        places: shape ``(n, 3)``.
        charges: shape ``(n,)``.
        side: number of cells along an edge.
        assignment: ``"cell"``: at the centre of the cell, ``"mean"``: at the mean place of its charges.

    Returns:
        Places and charges of the filled cells, shapes ``(m, 3)`` and ``(m,)``.

    Raises:
        TypeError, ValueError: naming the argument.
    """
    side = checks.positive_integer("side", side, 2**20)
    checks.one_of("assignment", assignment, ASSIGNMENTS)
    if checks.state("places", places).shape != (len(checks.state("charges", charges)), 3):
        raise ValueError(f"places has shape {tuple(places.shape)}, expected ({len(charges)}, 3): one for each charge.")
    index = ((places + 1.0) / 2.0 * side).long().clamp(0, side - 1)
    cells, member, sizes = torch.unique(index, dim=0, return_inverse=True, return_counts=True)
    totals = torch.zeros(len(cells), dtype=charges.dtype).index_add_(0, member, charges)
    if assignment == "mean":
        return torch.zeros(len(cells), 3, dtype=places.dtype).index_add_(0, member, places) / sizes[:, None], totals
    return (cells.to(places) + 0.5) / side * 2.0 - 1.0, totals


def learned_force(
    points: Sequence[int] = (32, 128, 512, 2048),
    dimension: int = 5,
    *,
    smoothness: float = 1.5,
    length: float = 4.0,
    strength: float = 1.0,
    temperature: float = 1.0,
    noise: float = 0.0,
    waves: int = 1000,
    seed: int = 0,
    reference_steps: int = 2000,
) -> LadderProblem:
    """Overdamped Langevin motion in a force field learned from reference configurations by a Gaussian process.

    ``dY = (-Y + F(Y)) dt + sqrt(2 temperature) dW`` with ``F = -grad U`` for a rugged potential ``U``: a draw, in
    random waves, of the process with Matérn covariance of smoothness ``smoothness + 1``. Level ``k`` interpolates
    ``F`` at the first ``points[k]`` of one set of configurations, drawn from the Gibbs law of the trap, component
    by component with the Matérn kernel of the force's own smoothness: no kernel of this kind knows more of it. As the
    distance to the nearest of ``n`` points falls like ``n^(-1/d)``, its error falls like ``n^(-smoothness / d)``:
    ``gamma`` tends to ``dimension / smoothness``. With ``noise``, reference forces that are themselves estimates,
    no regression errs by less than ``n^(-smoothness / (2 smoothness + d))``, and ``gamma`` tends to
    ``2 + dimension / smoothness``: harder than Monte Carlo for every smoothness.

    Measured, ``price_exponent(costs, level_errors(problem))``: 3.6 for the default (over seeds 0 … 15 the median is
    3.7, between 2.9 and 4.2), where ``dimension / smoothness`` is 3.3; with ``noise=0.3`` the median is 4.9. The
    slopes of the differences fall more slowly than the differences themselves: by 0.75 and 0.45 from level 2 to 4.

    Sources: interpolation, H. Wendland, *Scattered Data Approximation* (2004), doi:10.1017/CBO9780511617539; with
    noise, C. J. Stone, Ann. Statist. 10 (1982), doi:10.1214/aos/1176345969; the interatomic potentials of this
    kind, A. P. Bartók et al., Phys. Rev. Lett. 104 (2010), doi:10.1103/PhysRevLett.104.136403; random waves, A.
    Rahimi & B. Recht, NIPS 2007.

    Args:
        points: numbers of reference configurations of the levels, increasing; the price of each.
        dimension: ``d``.
        smoothness: of the force: 0.5, 1.5 or 2.5.
        length: correlation length of the potential and of the kernel, above zero.
        strength: root mean square of the force over the reference configurations, above zero.
        temperature: above zero.
        noise: standard deviation of the errors of the reference forces, per component, in units of the force's.
        waves: number of waves of the potential.
        seed: of the potential and the configurations.
        reference_steps: steps of the reference, a run of the true force.

    Raises:
        TypeError, ValueError: naming the argument.
    """
    counts, d = _increasing("points", points), checks.positive_integer("dimension", dimension)
    length, noise = _squarable("length", length), checks.squarable("noise", checks.non_negative_number("noise", noise))
    strength, temperature = _squarable("strength", strength), _squarable("temperature", temperature)
    if checks.number("smoothness", smoothness) not in SMOOTHNESS:
        raise ValueError(f"smoothness must be one of {', '.join(map(str, SMOOTHNESS))}, got {smoothness!r}.")
    deviation = math.sqrt(temperature)
    rng = np.random.default_rng(checks.one_seed(seed))
    rugged = _Waves.draw(rng, checks.positive_integer("waves", waves), d, smoothness, length)
    places = torch.as_tensor(deviation * rng.standard_normal((counts[-1], d)))
    raw = rugged.force(places)
    size = strength / float(raw.square().sum(1).mean().sqrt())
    true = _Waves(rugged.frequencies, rugged.phases, size * rugged.amplitudes)
    errors = noise * strength / math.sqrt(d) * torch.as_tensor(rng.standard_normal(raw.shape))
    levels = [_Kernel.fit(places[:n], (size * raw + errors)[:n], smoothness, length, noise) for n in counts]
    drift = DriftHierarchy(levels, [float(n) for n in counts], names=[f"{n} points" for n in counts])
    steps = checks.positive_integer("reference_steps", reference_steps)
    return _langevin("learned force", drift, d, 1.0, temperature, limit=true, steps=steps)


def _langevin(
    name: str,
    drift: DriftHierarchy,
    dimension: int,
    trap: float,
    temperature: float,
    *,
    limit: Level | None = None,
    steps: int = 1,
) -> LadderProblem:
    """``dY = drift dt + sqrt(2 temperature) dW`` over ``(0, 1)``, started from the Gibbs law of the trap."""
    sde, span = SDE(drift, math.sqrt(2.0 * temperature)), (0.0, 1.0)
    reference = None if limit is None else FineRun(sde.with_drift(limit), span, steps)
    return LadderProblem(name, sde, normal_start(dimension, math.sqrt(temperature / trap)), span, reference)


def normal_start(dimension: int, deviation: float = 1.0) -> Start:
    """Initial states of independent normal components, shape ``(samples, dimension)``, float64."""

    def start(samples: int, seed: int) -> Tensor:
        return torch.as_tensor(deviation * np.random.default_rng([seed, 1]).standard_normal((samples, dimension)))

    return start


def _squarable(name: str, value: float) -> float:
    return checks.squarable(name, checks.positive_number(name, value))


def _increasing(name: str, values: Sequence[int]) -> list[int]:
    """Check positive integers that increase."""
    counts = [checks.positive_integer(name, value) for value in checks.items(name, values, "integers")]
    if not counts or counts != sorted(set(counts)):
        raise ValueError(f"{name} must hold at least one number and increase, got {counts}.")
    return counts


def _blocks(total: int, samples: int) -> Iterator[slice]:
    """Cut ``total`` sources into blocks whose values at ``samples`` states fit into memory."""
    size = max(64, _NUMBERS_AT_ONCE // samples)
    return (slice(i, i + size) for i in range(0, total, size))


def _squared_distances(y: Tensor, places: Tensor) -> Tensor:
    """``|y_i - x_j|^2`` by one matrix product, shape ``(samples, sources)``."""
    checks.vectors("y", y, places.shape[1])
    cross = torch.addmm(places.square().sum(1), y, places.T, alpha=-2.0)
    return cross.add_(y.square().sum(1, keepdim=True)).clamp_min_(0.0)


@dataclass(frozen=True, eq=False)
class _Field:
    """Drift ``-trap y + sum_j q_j (y - x_j) / (|y - x_j|^2 + softening^2)^(3/2)``."""

    places: Tensor  # (n, 3)
    charges: Tensor  # (n,)
    softening: float
    trap: float

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        out = -self.trap * y
        for part in _blocks(len(self.charges), len(y)):
            places = self.places[part].to(y)
            pull = self.charges[part].to(y) * _squared_distances(y, places).add_(self.softening**2).pow_(-1.5)
            out = torch.addmm(out + y * pull.sum(1, keepdim=True), pull, places, alpha=-1.0)
        return out


@dataclass(frozen=True, eq=False)
class _Waves:
    """Drift ``-y + F(y)``, ``F = -grad U``, for ``U = sum_j cos(omega_j . y + b_j)`` with some amplitudes."""

    frequencies: Tensor  # (m, d)
    phases: Tensor  # (m,)
    amplitudes: Tensor  # (m, d), along the frequencies

    @classmethod
    def draw(cls, rng: np.random.Generator, waves: int, dimension: int, smoothness: float, length: float) -> _Waves:
        """Waves of equal weight from the spectrum of the gradient of a Matérn process of smoothness ``smoothness + 1``.

        The process has frequencies of Student's t distribution of ``2 smoothness + 2`` degrees of freedom,
        ``normal / sqrt(chi^2)``; weighting them by their square adds 2 degrees above and takes 2 below.
        """
        normal = rng.standard_normal((waves, dimension))
        along = normal / np.linalg.norm(normal, axis=1, keepdims=True)
        above, below = rng.chisquare(dimension + 2, (waves, 1)), rng.chisquare(2.0 * smoothness, (waves, 1))
        frequencies = along / length * np.sqrt((2.0 * smoothness + 2.0) * above / below)
        amplitudes = along * rng.standard_normal((waves, 1))
        phases = rng.uniform(0.0, 2.0 * math.pi, waves)
        return cls(*map(torch.as_tensor, (frequencies, phases, amplitudes)))

    def force(self, y: Tensor) -> Tensor:
        out = torch.zeros_like(checks.vectors("y", y, self.frequencies.shape[1]))
        for part in _blocks(len(self.phases), len(y)):
            angles = torch.addmm(self.phases[part].to(y), y, self.frequencies[part].to(y).T)
            out = torch.addmm(out, angles.sin_(), self.amplitudes[part].to(y))
        return out

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        return self.force(y) - y


@dataclass(frozen=True, eq=False)
class _Kernel:
    """Drift ``-y + sum_j K(|y - x_j|) a_j``, summed in float64 whatever the state's dtype."""

    places: Tensor  # (n, d)
    coefficients: Tensor  # (n, d)
    smoothness: float
    length: float

    @classmethod
    def fit(cls, places: Tensor, forces: Tensor, smoothness: float, length: float, noise: float) -> _Kernel:
        """Gaussian-process regression; without noise an interpolation up to a jitter of 1e-10."""
        gram = _matern(_squared_distances(places, places), smoothness, length)
        gram.diagonal().add_(noise**2 + 1e-10)
        return cls(places, torch.cholesky_solve(forces, torch.linalg.cholesky(gram)), smoothness, length)

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        state, coefficients = y.double(), self.coefficients.to(y.device)
        out = -state
        for part in _blocks(len(coefficients), len(y)):
            squares = _squared_distances(state, self.places[part].to(y.device))
            out = torch.addmm(out, _matern(squares, self.smoothness, self.length), coefficients[part])
        return out.to(y.dtype)


def _matern(squares: Tensor, smoothness: float, length: float) -> Tensor:
    """Matérn covariance of half-integer smoothness at squared distances, of variance 1."""
    x = torch.sqrt(squares.clamp_min(1e-30) * (2.0 * smoothness / length**2))
    decay = torch.exp(-x)
    if smoothness == 0.5:
        return decay
    return decay * (1.0 + x if smoothness == 1.5 else 1.0 + x + x * x / 3.0)
