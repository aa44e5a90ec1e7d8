"""Equations whose solution is a known function of the Brownian path's end, or whose moments are known.

They are what a solver is measured against: with an exact solution on the path the strong error is a plain difference,
and with exact moments the weak error needs no Monte Carlo. States have the shape ``(samples, d)`` and time starts at 0.

Sources: P. E. Kloeden & E. Platen, *Numerical Solution of Stochastic Differential Equations* (1992), section 4.4,
doi:10.1007/978-3-662-12616-5; the constants of several are those of SciML's SDEProblemLibrary, so that rates can be
compared with the Julia solvers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mlsde import checks
from mlsde.brownian import Brownian, BrownianPath
from mlsde.integrate import solve
from mlsde.problems.ladder import LadderProblem, perturbed, scattered_start
from mlsde.sde import CALCULI, SDE, Calculus
from mlsde.showing import as_call
from mlsde.steppers import Scheme

Exact = Callable[[float | Tensor, Tensor, Tensor], Tensor]
Moment = Callable[[float], Tensor]


@dataclass(frozen=True)
class Problem:
    """An equation with a known answer.

    Attributes:
        name: what to call it in tables.
        sde: the equation.
        y0: initial state of one sample, ``d`` numbers.
        t_span: ``(0, T)``.
        exact: solution ``exact(t, y0, w)`` at time ``t`` from ``y0``, shape ``(samples, d)``, where ``w`` is ``W(t)``
            in the shape of the equation's increments; ``None`` if ``W(t)`` alone does not determine it.
        mean: mean at time ``t`` from :attr:`y0`, float64, shape ``(d,)``; ``None`` where it has no closed form.
        second_moment: mean of ``y y^T``, likewise, shape ``(d, d)``.
    """

    name: str
    sde: SDE
    y0: tuple[float, ...]
    t_span: tuple[float, float] = (0.0, 1.0)
    exact: Exact | None = None
    mean: Moment | None = None
    second_moment: Moment | None = None

    __repr__ = as_call

    def __post_init__(self) -> None:
        start = checks.as_float64("y0", self.y0)
        if len(start) == 0:
            raise ValueError("y0 must hold at least one number, got none.")
        object.__setattr__(self, "y0", tuple(checks.squarable("y0", value) for value in start.tolist()))

    def start(self, samples: int, dtype: torch.dtype = torch.float64) -> Tensor:
        """Initial state of a batch, shape ``(samples, d)``."""
        if not isinstance(dtype, torch.dtype) or dtype not in checks.FLOATING:
            raise TypeError(f"dtype must be a floating dtype of torch, such as torch.float64, got {dtype!r}.")
        return torch.tensor(self.y0, dtype=dtype).repeat(checks.positive_integer("samples", samples), 1)

    def ladder(
        self,
        gamma: float,
        levels: int,
        *,
        differences: str = "smooth",
        work: str = "declared",
        size: float = 1.0,
        frequency: float = 1.0,
        features: int = 8,
        spread: float = 0.0,
        seed: int = 0,
        reference_steps: int = 12_288,
    ) -> LadderProblem:
        """Turn it into a ladder ``f^k = f + size 2^-k phi_k`` whose limit is this equation.

        Errors are then measured against its exact solution on the path, or, where ``W(T)`` does not determine that,
        against the limit drift at ``reference_steps`` steps.

        Args:
            gamma: exponent of the price of accuracy, and, as of :func:`mlsde.problems.ladder.perturbed`,
            levels: number of levels,
            differences: ``"smooth"`` or ``"rough"``,
            work: ``"declared"`` or ``"real"``,
            size: of the differences,
            frequency: of the random features,
            features: their number,
            seed: their seed.
            spread: the initial state is scattered: each component times ``1 + spread * uniform(-1, 1)``.
            reference_steps: steps of the reference where there is no exact solution.

        Raises:
            TypeError, ValueError: naming the argument.
        """
        drift = perturbed(
            self.sde.drift.levels[-1], len(self.y0), gamma=gamma, levels=levels, differences=differences, work=work,
            size=size, frequency=frequency, features=features, seed=seed,
        )  # fmt: skip
        steps = checks.positive_integer("reference_steps", reference_steps)

        def reference(y0: Tensor, path: Brownian | None) -> Tensor:
            if self.exact is not None and (path is None or isinstance(path, BrownianPath)):
                end = self.t_span[1]
                return self.exact(end, y0, torch.zeros_like(y0) if path is None else path.value(end).to(y0))
            multiplicative_ito = not self.sde.is_ode and not self.sde.additive and self.sde.calculus == "ito"
            method: Scheme = "euler" if multiplicative_ito else "heun"
            return solve(self.sde, y0, self.t_span, steps=steps, brownian=path, method=method).y1

        start = scattered_start(torch.tensor(self.y0, dtype=torch.float64), spread)
        name = f"{self.name}, gamma {gamma:g}, {differences} differences"
        return LadderProblem(name, self.sde.with_drift(drift), start, self.t_span, reference, gamma)


def geometric_brownian_motion(
    growth: float = 1.01, volatility: float = 0.87, y0: float | Sequence[float] = 0.5, calculus: Calculus = "ito"
) -> Problem:
    """``dY = growth Y dt + volatility Y dW``, diagonal noise; ``Y = y0 exp(r t + volatility W)``.

    The rate ``r`` is ``growth - volatility^2 / 2`` in the Itô sense, ``growth`` in Stratonovich's. Several numbers
    ``y0`` are as many independent motions.
    """
    growth, volatility = checks.squarable("growth", growth), checks.squarable("volatility", volatility)
    checks.one_of("calculus", calculus, CALCULI)
    correction = 0.5 * volatility**2
    rate, ito_growth = (growth - correction, growth) if calculus == "ito" else (growth, growth + correction)
    start = checks.as_float64("y0", checks.numbers("y0", y0).ravel()).tolist()
    one = torch.eye(len(start), dtype=torch.float64)
    mean, second = _linear_moments(ito_growth * one, [volatility * torch.diag(row) for row in one], start)
    sde = SDE(lambda t, y: growth * y, lambda t, y: volatility * y, noise="diagonal", calculus=calculus)
    return Problem(
        f"geometric Brownian motion, {calculus}",
        sde,
        tuple(start),
        exact=lambda t, y, w: y * torch.exp(rate * t + volatility * w),
        mean=mean,
        second_moment=second,
    )


def cubic(y0: float = 0.5) -> Problem:
    """``dY = -1/4 Y (1 - Y^2) dt + 1/2 (1 - Y^2) dW``, diagonal noise; ``Y = tanh(W/2 + artanh y0)``, ``|y0| < 1``."""
    if not abs(checks.finite_number("y0", y0)) < 1:
        raise ValueError(f"y0 must lie between -1 and 1, where the solution is known, got {y0}.")
    return Problem(
        "cubic",
        SDE(lambda t, y: -0.25 * y * (1 - y * y), lambda t, y: 0.5 * (1 - y * y), noise="diagonal"),
        (float(y0),),
        exact=lambda t, y, w: torch.tanh(0.5 * w + torch.atanh(y)),
    )


def wave(amplitude: float = 0.1, y0: float = 1.0) -> Problem:
    """``dY = -a^2 sin(Y) cos(Y)^3 dt + a cos(Y)^2 dW``, diagonal noise; ``Y = arctan(a W + tan y0)``."""
    amplitude = checks.squarable("amplitude", amplitude)
    if not abs(checks.finite_number("y0", y0)) < 0.5 * math.pi:
        raise ValueError(f"y0 must lie between -pi/2 and pi/2, where the solution is known, got {y0}.")
    return Problem(
        "wave",
        SDE(
            lambda t, y: -(amplitude**2) * y.sin() * y.cos() ** 3,
            lambda t, y: amplitude * y.cos() ** 2,
            noise="diagonal",
        ),
        (float(y0),),
        exact=lambda t, y, w: torch.atan(amplitude * w + torch.tan(y)),
    )


def debrabant_roessler(y0: float = 0.0) -> Problem:
    """``dY = (Y/2 + sqrt(Y^2 + 1)) dt + sqrt(Y^2 + 1) dW``, diagonal noise; ``Y = sinh(t + W + arsinh y0)``.

    Source: K. Debrabant & A. Rößler, Appl. Numer. Math. 59 (2009), arXiv 1303.5103.
    """
    start = checks.squarable("y0", y0)
    return Problem(
        "Debrabant-Rößler",
        SDE(
            lambda t, y: 0.5 * y + torch.sqrt(y * y + 1), lambda t, y: torch.sqrt(y * y + 1), noise="diagonal"
        ),
        (start,),
        exact=lambda t, y, w: torch.sinh(t + w + torch.asinh(y)),
    )  # fmt: skip


def additive_system(
    noise: Sequence[float] = (0.1, 0.1, 0.1, 0.1), drift: Sequence[float] = (0.5, 0.25, 0.125, 0.1115)
) -> Problem:
    """``dY = (b / sqrt(1+t) - Y / (2(1+t))) dt + a b / sqrt(1+t) dW``; ``Y = (y0 + b (t + a W)) / sqrt(1+t)``.

    Additive noise, a pair ``a, b`` of ``noise`` and ``drift`` for each component.
    """
    b, a = (torch.as_tensor(checks.as_float64(*pair)) for pair in (("drift", drift), ("noise", noise)))
    if len(a) != len(b) or len(b) == 0:
        raise ValueError(f"noise holds {len(a)} numbers, but drift holds {len(b)}; give one of each per component.")
    ab = a * b
    for value in [*b.tolist(), *ab.tolist()]:
        checks.squarable("noise times drift", value)

    def mean(t: float) -> Tensor:
        return (1.0 + b * t) / math.sqrt(1.0 + t)

    return Problem(
        "additive system",
        SDE(lambda t, y: b.to(y) / torch.sqrt(1 + t) - y / (2 * (1 + t)), lambda t: ab.to(t) / torch.sqrt(1 + t)),
        (1.0,) * len(b),
        exact=lambda t, y, w: (y + b.to(y) * t + ab.to(y) * w) / (1 + t) ** 0.5,
        mean=mean,
        second_moment=lambda t: torch.outer(mean(t), mean(t)) + torch.diag(ab**2 * t / (1.0 + t)),
    )


def ornstein_uhlenbeck(rate: float = 1.5, level: float = 0.5, volatility: float = 0.8, y0: float = 2.0) -> Problem:
    """``dY = rate (level - Y) dt + volatility dW``, additive noise; normal at every time.

    ``- rate Y`` is the equation's linear part, so that the stepper ``"exponential"`` samples it exactly. The solution
    depends on the whole path, by ``integral exp(-rate (t - s)) dW(s)``, and not on ``W(t)`` alone.
    """
    rate, level = checks.squarable("rate", rate), checks.squarable("level", level)
    volatility, y0 = checks.squarable("volatility", volatility), checks.squarable("y0", y0)
    if rate == 0:
        raise ValueError("rate must not be 0, at which nothing pulls the process to its level.")

    def mean(t: float) -> Tensor:
        return torch.tensor([level + (y0 - level) * math.exp(-rate * t)], dtype=torch.float64)

    def second_moment(t: float) -> Tensor:
        variance = volatility**2 * -math.expm1(-2.0 * rate * t) / (2.0 * rate)
        return torch.outer(mean(t), mean(t)) + variance

    sde = SDE(lambda t, y: torch.full_like(y, rate * level), volatility, linear=-rate)
    return Problem("Ornstein-Uhlenbeck", sde, (y0,), mean=mean, second_moment=second_moment)


def kubo_oscillator(frequency: float = 2.0, strength: float = 0.5, calculus: Calculus = "stratonovich") -> Problem:
    """``dY = J Y (frequency dt + strength ∘ dW)`` in the plane, ``J`` a right angle: scalar noise.

    ``Y`` is ``y0`` turned by ``frequency t + strength W``, so its norm is constant. In the Itô sense the drift has
    ``- strength^2 Y / 2`` besides. Source: R. Kubo, J. Math. Phys. 4 (1963), doi:10.1063/1.1703941.
    """
    frequency, strength = checks.squarable("frequency", frequency), checks.squarable("strength", strength)
    checks.one_of("calculus", calculus, CALCULI)
    damping = 0.5 * strength**2
    shown_damping = damping if calculus == "ito" else 0.0
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    mean, second = _linear_moments(frequency * turn + damping * turn @ turn, [strength * turn], (1.0, 0.0))
    sde = SDE(
        lambda t, y: frequency * _turned(y) - shown_damping * y,
        lambda t, y: strength * _turned(y),
        noise="scalar",
        calculus=calculus,
    )

    def exact(t: float | Tensor, y: Tensor, w: Tensor) -> Tensor:
        angle = frequency * t + strength * w
        return torch.cos(angle) * y + torch.sin(angle) * _turned(y)

    return Problem(f"Kubo oscillator, {calculus}", sde, (1.0, 0.0), exact=exact, mean=mean, second_moment=second)


def correlated_assets() -> Problem:
    """``dY_i = Y_i (growth_i dt + sum_j volatility_ij dW_j)``: general noise, two states driven by three motions.

    The noise commutes, so ``Y_i = y0_i exp((growth_i - sum_j volatility_ij^2 / 2) t + sum_j volatility_ij W_j)``.
    """
    growth = torch.tensor([0.6, -0.4], dtype=torch.float64)
    volatility = torch.tensor([[0.5, 0.3, 0.0], [-0.2, 0.4, 0.3]], dtype=torch.float64)
    mean, second = _linear_moments(torch.diag(growth), [torch.diag(column) for column in volatility.T], (1.0, 1.0))
    rate = growth - 0.5 * (volatility**2).sum(dim=1)
    return Problem(
        "correlated assets",
        SDE(lambda t, y: growth.to(y) * y, lambda t, y: volatility.to(y) * y.unsqueeze(-1), noise="general"),
        (1.0, 1.0),
        exact=lambda t, y, w: y * torch.exp(rate.to(y) * t + w @ volatility.to(y).T),
        mean=mean,
        second_moment=second,
    )


def noncommuting_system() -> Problem:
    """``dY = A Y dt + B_1 Y dW_1 + B_2 Y dW_2`` in the plane with ``B_1 B_2 != B_2 B_1``: general noise.

    Its solution needs the Lévy area of the path; its first two moments solve linear equations.
    """
    a = torch.tensor([[-1.0, 0.5], [0.2, -0.6]], dtype=torch.float64)
    b1 = torch.tensor([[0.3, 0.5], [0.0, -0.2]], dtype=torch.float64)
    b2 = torch.tensor([[0.1, 0.0], [0.6, 0.4]], dtype=torch.float64)
    mean, second = _linear_moments(a, [b1, b2], (1.0, -0.5))

    def diffusion(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([y @ b1.to(y).T, y @ b2.to(y).T], dim=-1)

    sde = SDE(lambda t, y: y @ a.to(y).T, diffusion, noise="general")
    return Problem("non-commuting system", sde, (1.0, -0.5), mean=mean, second_moment=second)


SHEARED_ROTATIONS = ((-0.5, 2.0, 1.0, 0.0), (-2.0, -0.5, 0.0, 1.0), (0.0, 0.0, -1.0, 1.5), (0.0, 0.0, -1.5, -1.0))


def linear_ode(
    matrix: Sequence[Sequence[float]] = SHEARED_ROTATIONS, y0: Sequence[float] = (1.0, 0.0, 1.0, -1.0)
) -> Problem:
    """``y' = A y``, an ODE; ``y = exp(A t) y0``.

    The default couples two damped rotations in one direction only: ``A`` does not commute with its transpose, its
    norm is 2.5 and its eigenvalues are ``-1/2 ± 2i`` and ``-1 ± 3/2 i``.

    Args:
        matrix: ``A``, ``d`` rows of ``d`` numbers.
        y0: initial state, ``d`` numbers.

    Raises:
        ValueError: if the matrix is not square, or ``y0`` does not fit.
    """
    a = torch.as_tensor(checks.numbers("matrix", matrix))
    if a.ndim != 2 or a.shape[0] != a.shape[1] or a.numel() == 0:
        raise ValueError(f"matrix must have d rows of d numbers, got the shape {tuple(a.shape)}.")
    for value in a.flatten().tolist():
        checks.squarable("matrix", value)
    start = checks.as_float64("y0", y0)
    if len(start) != len(a):
        raise ValueError(f"y0 holds {len(start)} numbers, but matrix has {len(a)} rows; give one for each.")
    mean, second = _linear_moments(a, [], start.tolist())

    def exact(t: float | Tensor, y: Tensor, w: Tensor) -> Tensor:
        return y @ torch.linalg.matrix_exp(a * t).to(y).T

    sde = SDE(lambda t, y: y @ a.to(y).T)
    return Problem("linear ODE", sde, tuple(start.tolist()), exact=exact, mean=mean, second_moment=second)


def linear_system(
    matrix: Sequence[Sequence[float]] = SHEARED_ROTATIONS,
    y0: Sequence[float] = (1.0, 0.0, 1.0, -1.0),
    volatility: float = 0.5,
) -> Problem:
    """``dY = A Y dt + volatility dW``, additive noise: an Ornstein-Uhlenbeck process in ``d`` dimensions.

    Args:
        matrix: ``A``, ``d`` rows of ``d`` numbers; by default that of :func:`linear_ode`.
        y0: initial state, ``d`` numbers.
        volatility: of each component's own Brownian motion.

    Raises:
        TypeError, ValueError: naming the argument.
    """
    ode = linear_ode(matrix, y0)
    volatility = checks.squarable("volatility", volatility)
    a = torch.as_tensor(checks.numbers("matrix", matrix))
    mean, second = _linear_moments(a, [], ode.y0, volatility**2 * torch.eye(len(a), dtype=torch.float64))
    sde = SDE(ode.sde.drift, volatility)
    return Problem("linear system", sde, ode.y0, mean=mean, second_moment=second)


def langevin_harmonic(
    frequency: float = 2.0, friction: float = 1.0, temperature: float = 0.5, y0: Sequence[float] = (1.0, 0.0)
) -> Problem:
    """``dq = p dt``, ``dp = (-frequency^2 q - friction p) dt + sqrt(2 friction temperature) dW``: a harmonic well.

    Langevin dynamics of a unit mass: additive noise that acts on the momentum alone, one motion for the state
    ``(q, p)`` (``noise="general"``). Its law is normal at every time and tends to that of Gibbs, under which ``q`` and
    ``p`` are independent with variances ``temperature / frequency^2`` and ``temperature``. Source: G. A. Pavliotis,
    *Stochastic Processes and Applications* (2014), chapter 6, doi:10.1007/978-1-4939-1323-7.

    Args:
        frequency: of the well, above zero.
        friction: above zero.
        temperature: above zero.
        y0: position and momentum at the start.

    Raises:
        TypeError, ValueError: naming the argument.
    """
    stiffness, friction = (
        checks.squarable("frequency", checks.positive_number("frequency", frequency)) ** 2,
        checks.squarable("friction", checks.positive_number("friction", friction)),
    )
    temperature = checks.squarable("temperature", checks.positive_number("temperature", temperature))
    kick = math.sqrt(2.0 * friction * temperature)
    if len(start := checks.as_float64("y0", y0)) != 2:
        raise ValueError(f"y0 must be a position and a momentum, got {len(start)} numbers.")
    a = torch.tensor([[0.0, 1.0], [-stiffness, -friction]], dtype=torch.float64)
    g = torch.tensor([[0.0], [kick]], dtype=torch.float64)
    mean, second = _linear_moments(a, [], start.tolist(), g @ g.T)

    def diffusion(t: Tensor) -> Tensor:
        return g.to(t)

    sde = SDE(lambda t, y: y @ a.to(y).T, diffusion, noise="general")
    return Problem("Langevin, harmonic", sde, tuple(start.tolist()), mean=mean, second_moment=second)


def _turned(y: Tensor) -> Tensor:
    """``J y``: the plane turned by a right angle."""
    return torch.stack([-y[..., 1], y[..., 0]], dim=-1)


def _linear_moments(
    a: Tensor, bs: Sequence[Tensor], y0: Sequence[float], spread: Tensor | None = None
) -> tuple[Moment, Moment]:
    """Mean and second moment of ``dY = A Y dt + sum_j B_j Y dW_j + G dW`` (Itô) from ``y0``; ``spread`` is ``G G^T``.

    They solve ``m' = A m`` and ``M' = A M + M A^T + sum_j B_j M B_j^T + G G^T``, the latter read row by row with a 1
    appended that carries the constant.
    """
    start = torch.tensor(y0, dtype=torch.float64)
    one = torch.eye(len(start), dtype=torch.float64)
    generator = torch.zeros(len(one) ** 2 + 1, len(one) ** 2 + 1, dtype=torch.float64)
    generator[:-1, :-1] = torch.kron(a, one) + torch.kron(one, a) + sum(torch.kron(b, b) for b in bs)
    if spread is not None:
        generator[:-1, -1] = spread.flatten()
    moments = torch.cat([torch.outer(start, start).flatten(), torch.ones(1, dtype=torch.float64)])

    def mean(t: float) -> Tensor:
        return torch.linalg.matrix_exp(a * t) @ start

    def second_moment(t: float) -> Tensor:
        return (torch.linalg.matrix_exp(generator * t) @ moments)[:-1].view(len(start), len(start))

    return mean, second_moment
