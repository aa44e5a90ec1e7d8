"""What theory makes of a problem before it is searched: an error model from a short pilot, and its frontiers.

The pilot measures, at one number of steps, how far each level's solution is from that of the top level, the error of
the step, and what the coins of each level add to the error. Everything else is extrapolated by the laws of
:class:`mlsde.theory.ErrorModel`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlsde import norms, theory
from mlsde.integrate import solve
from mlsde.multilevel import Multilevel
from mlsde.probabilities import Constant
from mlsde.sde import SDE
from mlsde.study.methods import FEWEST_FIRINGS, Candidate, Method, plain, round_numbers
from mlsde.study.trials import Batch, Trials
from mlsde.variances import level_variances

PILOT_STEPS = 256

FEWEST_LEVELS = 5
"""Of a ladder whose limit is known: the bias of its top level is read off how those below it fall."""

_THINNED = 1.0 / 8.0
"""Probability at which one level at a time fires, to see what its coins add."""


def sensitivity(sde: SDE, y0: Tensor, t_span: tuple[float, float], steps: int, batch: Batch) -> np.ndarray:
    """Mean square growth ``w_n = |dY_T / dY_{n+1}|^2 / d`` of an error from the end of each step, shape ``(steps,)``.

    One backward pass of the top level: for a random vector of signs ``v``, ``E|J^T v|^2`` is the squared Frobenius
    norm of the Jacobian ``J`` of the rest of the run (M. F. Hutchinson, doi:10.1080/03610919008812866).
    """
    states: list[Tensor] = []

    def keep(n: int, t: float, y: Tensor) -> None:
        states.append(y)

    start = y0.clone().requires_grad_(True)
    solve(sde, start, t_span, steps=steps, brownian=batch.noise(steps), gradients=True, callback=keep)
    coins = np.random.default_rng(0).integers(0, 2, tuple(y0.shape)) * 2.0 - 1.0
    signs = torch.as_tensor(coins, dtype=y0.dtype, device=y0.device)
    pulled = torch.autograd.grad(states[-1], states[:-1], signs, allow_unused=True)
    size = math.prod(y0.shape[1:])
    grown = [1.0 if g is None else float(norms.squares(g).mean()) / size for g in pulled]
    return np.array([*grown, 1.0])


def error_model(trials: Trials, method: Method, steps: int = PILOT_STEPS) -> theory.ErrorModel:
    """Measure the constants of the error model of a method, with a pilot of ``steps`` steps.

    Args:
        trials: the samples of the study, whose coins are their own.
        method: a multilevel method, or a plain one (whose ``level_errors`` are then 0).
        steps: of the pilot.
    """
    batch = trials.batches[0]
    sde, count = batch.problem.sde, len(batch.problem.sde.drift)
    runs = [batch.run(Candidate(plain(), k, steps, 0.0, 0.0), trials.gamma, "sample").y1 for k in range(1, count + 1)]
    biases = _biases([_mean_square(run - runs[-1]) for run in runs], batch.problem.reference is not None)
    order = batch.problem.strong_order
    missed = float(batch.errors(runs[-1]).mean()) - biases[-1] ** 2
    coins = np.zeros(count) if method.coins is None else _level_errors(batch, method, runs[-1], steps)
    return theory.ErrorModel(
        costs=np.array(sde.drift.required_costs("a prediction")),
        biases=biases,
        step_error=math.sqrt(max(missed, 0.0)) * steps**order,
        level_errors=coins,
        strong_order=order,
        order=method.order,
    )


def frontier(
    model: theory.ErrorModel, method: Method, errors: Sequence[float], steps: Sequence[int], gamma: float
) -> list[float]:
    """Predicted least costs for the errors, over the settings that a study tries."""
    if method.coins is None:
        points = theory.plain_frontier(model, errors, steps)
    else:
        firings = round_numbers(FEWEST_FIRINGS, steps[-1])
        points = theory.multilevel_frontier(model, errors, steps, firings, gamma, method.coins, method.order)
    return [point.cost for point in points]


def as_dict(model: theory.ErrorModel) -> dict[str, Any]:
    """An error model as JSON."""
    return {
        "costs": model.costs.tolist(),
        "biases": model.biases.tolist(),
        "step_error": model.step_error,
        "level_errors": model.level_errors.tolist(),
        "strong_order": model.strong_order,
        "order": model.order,
    }


def from_dict(whole: dict[str, Any]) -> theory.ErrorModel:
    """Read what :func:`as_dict` wrote."""
    rows = {name: np.array(whole[name]) for name in ("costs", "biases", "level_errors")}
    return theory.ErrorModel(**{**whole, **rows})


def predictable(method: Method) -> bool:
    """Whether the error model knows the method: one level or a rule of coins tossed by chance, by Euler-Maruyama."""
    known = method.plain or method.coins not in (None, "periodic")
    return known and method.stepper == "euler"


def _biases(squares: Sequence[float], limit: bool) -> np.ndarray:
    """Root mean square biases from ``E|Y^k - Y^K|^2``; that of the top level goes on as the others fall.

    With differences that do not know of each other ``E|Y^k - Y^K|^2`` is the sum of the biases' squares of ``k`` and
    ``K``. Where the top level is itself what errors are measured against, its bias is 0.
    """
    gaps = np.array(squares)
    if not limit or len(gaps) < 4:
        return np.sqrt(gaps)
    fall = (gaps[-4] / gaps[0]) ** (1.0 / (len(gaps) - 4)) if len(gaps) > 4 else 0.25
    top = gaps[-3] * fall**2 / (1.0 + fall**2)
    return np.sqrt(np.concatenate([np.maximum(gaps[:-1] - top, top), [top]]))


def _level_errors(batch: Batch, method: Method, top: Tensor, steps: int) -> np.ndarray:
    """``a_k``: by the formula for independent impulses, by thinning one level at a time for other rules."""
    if (method.coins, method.correction) == ("independent", "impulse"):
        return _by_formula(batch, steps)
    return np.array([_by_thinning(batch, method, top, steps, k) for k in range(len(batch.problem.sde.drift))])


def _by_formula(batch: Batch, steps: int) -> np.ndarray:
    """``T sum_n h w_n V_k(t_n)``: what independent impulses add, to first order, at one firing per run."""
    problem = batch.problem
    noise = batch.noise(steps)
    measured = level_variances(problem.sde, batch.y0, problem.t_span, steps=steps, brownian=noise)
    backwards = problem.t_span[1] < problem.t_span[0]
    values = measured.values[::-1] if backwards else measured.values
    w = sensitivity(problem.sde, batch.y0, problem.t_span, steps, batch)
    duration = abs(problem.t_span[1] - problem.t_span[0])
    return np.asarray(duration**2 * (w[:, None] * values).mean(axis=0))


def _by_thinning(batch: Batch, method: Method, top: Tensor, steps: int, k: int) -> float:
    """What level ``k`` alone adds when it fires at every eighth step, scaled to one firing per run."""
    assert method.coins is not None and method.correction is not None
    problem = batch.problem
    p = [1.0] * len(problem.sde.drift)
    p[k] = _THINNED
    done = solve(
        problem.sde,
        batch.y0,
        problem.t_span,
        steps=steps,
        multilevel=Multilevel.named(Constant(p), method.coins, method.correction, "sample"),
        seed=batch.seeds,
        brownian=batch.noise(steps),
    )
    firings = steps * _THINNED
    return _mean_square(done.y1 - top) / (firings**-method.order - float(steps) ** -method.order)


def _mean_square(y: Tensor) -> float:
    return float(norms.squares(y).mean())
