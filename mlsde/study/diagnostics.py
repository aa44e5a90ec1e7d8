"""What a ladder is like, level by level: means, variances and kurtosis of the differences, decay and prices.

In the manner of the ``mlmc_test`` of M. B. Giles, *Multilevel Monte Carlo methods*, Acta Numerica 24 (2015),
doi:10.1017/S096249291500001X, with the differences of the drift in place of those of an output.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlsde import checks, norms
from mlsde.problems import ladder
from mlsde.problems.ladder import LadderProblem
from mlsde.showing import Rows, as_html, as_text
from mlsde.steppers import Scheme
from mlsde.variances import LevelVariances, level_variances

_HEAVY = 100.0
"""Kurtosis above which a variance is hardly known."""

_SAME = 1e-3
"""By how much, in parts of its difference, a level may differ when asked again; rounding stays far below."""

_FLAT = -1e-9
"""Slope of the logarithms of the errors that is none, but for rounding."""


@dataclass(frozen=True)
class Diagnosis:
    """A ladder's levels as a pilot run saw them; tuples hold one number per level, cheapest first.

    Attributes:
        problem: its name.
        costs: price of each level.
        means: ``|E (f^k - f^(k-1))|``, its root mean square over the time.
        variances: ``V_k = E|f^k - f^(k-1)|^2``, its mean over the time.
        kurtoses: of the differences, the largest over the time.
        repeats: by how much a level differs when asked again, or for half of the samples, in parts of the root of
            ``V_k``: the consistency check. A level must be a function of ``(t, y)``, sample by sample.
        cost_exponent, decay_exponent: ``c_k ~ 2^(cost k)`` and ``sqrt(V_k) ~ 2^(-decay k)`` by least squares from the
            second level on.
        gamma: exponent of the price of accuracy, ``sqrt(V_k) ~ c_k^(-1/gamma)``. The difference of level ``k`` is about
            the error of the level below it, so this is the exponent where prices grow by a constant factor.
        gamma_interval: its 95 % interval from the scatter of the levels; NaN with fewer than three differences.
        measured: ``V_k(t)`` itself.
        warnings: what is wrong with the ladder, in sentences.
    """

    problem: str
    costs: tuple[float, ...]
    means: tuple[float, ...]
    variances: tuple[float, ...]
    kurtoses: tuple[float, ...]
    repeats: tuple[float, ...]
    cost_exponent: float
    decay_exponent: float
    gamma: float
    gamma_interval: tuple[float, float]
    measured: LevelVariances
    warnings: tuple[str, ...]

    __repr__ = as_text
    _repr_html_ = as_html

    def _report(self) -> list[str | Rows]:
        cells = [("level", "cost", "|mean|", "V_k", "kurtosis", "repeats")]
        rows = zip(self.costs, self.means, self.variances, self.kurtoses, self.repeats, strict=True)
        for k, (cost, mean, variance, kurtosis, again) in enumerate(rows, start=1):
            cells.append((str(k), f"{cost:.4g}", f"{mean:.3g}", f"{variance:.3g}", f"{kurtosis:.3g}", f"{again:.1e}"))
        return [
            f"{self.problem}: differences of the levels along a run",
            Rows(cells, (">6", ">11", ">11", ">11", ">10", ">10"), gap="", indent=""),
            "V_k: mean square of f^k - f^(k-1); kurtosis: 3 where that is normal, large where a few samples rule it;",
            "repeats: how far a level asked twice differs, over sqrt(V_k), 0 unless it draws numbers or mixes samples",
            self._law(),
            *(f"warning: {warning}" for warning in self.warnings),
        ]

    def _law(self) -> str:
        if math.isnan(self.gamma):
            return "gamma unknown, which takes three levels that differ"
        low, high = self.gamma_interval
        interval = "" if math.isnan(low) else f" [{low:.2f}, {high:.2f}]"
        law = f"cost ~ 2^({self.cost_exponent:.2f} k), difference ~ 2^({-self.decay_exponent:.2f} k)"
        return f"{law}: gamma {self.gamma:.2f}{interval}"

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        names = ("problem", "costs", "means", "variances", "kurtoses", "repeats", "warnings")
        whole: dict[str, Any] = {name: getattr(self, name) for name in names}
        numbers = {name: getattr(self, name) for name in ("cost_exponent", "decay_exponent", "gamma")}
        finite = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        interval = [end if math.isfinite(end) else None for end in self.gamma_interval]
        values = {"times": self.measured.times.tolist(), "values": self.measured.values.tolist()}
        return {**whole, **finite, "gamma_interval": interval, "variances_in_time": values}

    def figure(self, file: str | os.PathLike[str]) -> str:
        """Draw ``V_k(t)``, and ``sqrt(V_k)`` against the prices; returns the file's name."""
        from mlsde.study.figure import save_diagnosis  # noqa: PLC0415, matplotlib

        return save_diagnosis(self, file)


def diagnose(
    problem: LadderProblem, *, samples: int = 128, steps: int = 64, seed: int = 0, method: Scheme = "euler"
) -> Diagnosis:
    """Look at a ladder, level by level, along a run of its top level.

    Args:
        problem: the ladder.
        samples: trajectories of the pilot, at least 2.
        steps: of the pilot.
        seed: of its initial states and noise.
        method: its stepper.

    Returns:
        :class:`Diagnosis`; ``print`` it. Its ``gamma`` serves :func:`mlsde.study.convergence`.

    Raises:
        TypeError, ValueError: for bad input, naming the argument; also if a level is not finite.

    Example:
        >>> from mlsde.problems import analytic
        >>> problem = analytic.linear_ode().ladder(gamma=3.0, levels=4)
        >>> len(diagnose(problem, samples=8, steps=8).variances)
        4
    """
    ladder.checked(problem)
    if checks.positive_integer("samples", samples) < 2:
        raise ValueError("samples must be at least 2, so that there is a variance, got 1.")
    y0 = problem.initial(samples, checks.one_seed(seed))
    measured = level_variances(problem.sde, y0, problem.t_span, steps=steps, method=method, seed=seed)
    assert measured.means is not None and measured.kurtoses is not None
    costs = np.array(problem.sde.drift.required_costs("a diagnosis"))
    variances = measured.values.mean(axis=0)
    forwards = problem.t_span[0] < problem.t_span[1]
    repeats = _repeats(problem, y0, np.sqrt(measured.values[0 if forwards else -1]))
    gamma, interval = price_exponent(costs[1:], np.sqrt(variances[1:]))
    return Diagnosis(
        problem=problem.name,
        costs=tuple(costs.tolist()),
        means=tuple(np.sqrt((measured.means**2).mean(axis=0)).tolist()),
        variances=tuple(variances.tolist()),
        kurtoses=tuple(measured.kurtoses.max(axis=0).tolist()),
        repeats=repeats,
        cost_exponent=_growth(costs[1:]),
        decay_exponent=-_growth(np.sqrt(variances[1:])),
        gamma=gamma,
        gamma_interval=interval,
        measured=measured,
        warnings=tuple(_warnings(costs, variances, measured.kurtoses.max(axis=0), repeats, gamma)),
    )


def price_exponent(costs: np.ndarray, errors: np.ndarray) -> tuple[float, tuple[float, float]]:
    """``gamma`` of ``errors ~ costs^(-1/gamma)`` by least squares of the logarithms, and its 95 % interval.

    Returns infinity where errors do not fall, NaN with fewer than two levels or prices; the interval is NaN
    with fewer than three.
    """
    known = errors > 0
    if known.sum() < 2 or np.ptp(costs[known]) == 0:
        return math.nan, (math.nan, math.nan)
    x, y = np.log(costs[known]), np.log(errors[known])
    centred = x - x.mean()
    slope = float(centred @ y / (centred @ centred))
    gamma = -1.0 / slope if slope < _FLAT else math.inf
    if len(x) < 3:
        return gamma, (math.nan, math.nan)
    rest = y - y.mean() - slope * centred
    half = _student(len(x) - 2) * math.sqrt(float(rest @ rest) / (len(x) - 2) / float(centred @ centred))
    ends = [-1.0 / end if end < _FLAT else math.inf for end in (slope - half, slope + half)]
    return gamma, (ends[0], ends[1])


def _student(freedom: int) -> float:
    """97.5 % quantile of Student's t (tabulated up to five degrees; the series is within 1 % from there on)."""
    table = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571}
    return table.get(freedom, 1.96 + 2.4 / freedom + 2.8 / freedom**2)


def _growth(values: np.ndarray) -> float:
    """Exponent of ``values ~ 2^(growth k)``; NaN with fewer than two values above zero."""
    known = values > 0
    if known.sum() < 2:
        return math.nan
    return float(np.polyfit(np.flatnonzero(known), np.log2(values[known]), 1)[0])


@torch.no_grad()
def _repeats(problem: LadderProblem, y0: Tensor, sizes: np.ndarray) -> tuple[float, ...]:
    """Root mean square change of each level when asked again, or for half of the samples, in parts of ``sizes``."""
    t = torch.tensor(problem.t_span[0], dtype=torch.float32 if y0.dtype in checks.HALF_PRECISIONS else y0.dtype)
    t, half = t.to(y0.device), (len(y0) + 1) // 2
    linear = problem.sde.linear
    gain = 1.0 if linear is None else linear.gain(float(t))  # the sizes hold it too
    found = []
    for level, size in zip(problem.sde.drift.levels, sizes.tolist(), strict=True):
        first, again, part = level(t, y0).clone(), level(t, y0).clone(), level(t, y0[:half]).clone()
        changes = [(again - first), (part - first[:half])]
        worst = max(float(norms.squares(gain * change).mean()) for change in changes)
        found.append(math.sqrt(worst) / size if size > 0 else math.sqrt(worst))
    return tuple(found)


def _warnings(
    costs: np.ndarray, variances: np.ndarray, kurtoses: np.ndarray, repeats: tuple[float, ...], gamma: float
) -> list[str]:
    found = []
    if len(costs) == 1:
        found.append("the ladder has one level: there is nothing to gain; give a cheaper approximation too.")
    for k in range(1, len(costs)):
        if costs[k] <= costs[k - 1]:
            found.append(f"level {k + 1} is not dearer than level {k}; order the levels by price, or leave {k} out.")
        if k > 1 and variances[k] >= variances[k - 1] > 0:
            found.append(
                f"the difference of level {k + 1} is as large as that of level {k} (V = {variances[k]:.3g} after "
                f"{variances[k - 1]:.3g}): level {k} came no nearer; try drift.select(...) without it."
            )
        if variances[k] == 0:
            found.append(f"levels {k} and {k + 1} are identical along the run; leave the dearer one out.")
    for k, (kurtosis, again) in enumerate(zip(kurtoses.tolist(), repeats, strict=True), start=1):
        if kurtosis > _HEAVY:
            found.append(
                f"the kurtosis of level {k} is {kurtosis:.3g}: its variance is hardly known; take more samples."
            )
        if again > _SAME:
            found.append(
                f"level {k} returns other values when asked again or for fewer samples ({again:.1e} of its "
                "difference): it must be a function of (t, y), sample by sample; switch off dropout and the like."
            )
    if gamma < 1:
        found.append(
            f"gamma is {gamma:.2f}: accuracy is cheap here; the top level alone with a solver of higher order may do."
        )
    return found
