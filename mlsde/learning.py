"""Learning the probabilities ``p_k(t)``: stochastic gradient descent on the error at a fixed price.

The loss is the logarithm of ``E|Y_T - X_T|^2``, where ``Y`` is a run with independent impulses and ``X`` calls the top
level at every step of the same path and grid. Parameters are the logits ``theta`` of the probabilities at knots in
time, ``log p`` is linear in between. One common shift of the logits keeps the expected cost at the budget, and the
gradient is taken along it: of ``g = d loss / d theta`` and ``c = d cost / d theta`` the descent sees
``g - c sum(g) / sum(c)``, so that there is no multiplier to tune.

Gradients are forward: each sample carries the derivative of its state along a random direction ``u`` in the space of
the parameters, in one pass and without stored activations; ``u (u . grad)`` has the right mean. The learning by
gradients, their score and the random directions are the idea of arXiv 2603.24594; docs/learning.md has the formulas.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlsde import checks
from mlsde.forward import GRADIENTS, Runs
from mlsde.knots import Knots, probabilities
from mlsde.log import log
from mlsde.multilevel import Multilevel
from mlsde.probabilities import Learned, Optimal, ProbabilityRule, probability_table
from mlsde.progress import bar
from mlsde.sde import SDE
from mlsde.steppers import METHODS, Scheme, compatible
from mlsde.variances import level_variances

_LEAST_FIRINGS = 0.01
"""Evaluations of the top level per trajectory that a budget must pay for: rarer ones are no estimate of anything."""

_SURE = (0.9, 0.5, 0.25, 0.125)
"""Halfway through, knots with probabilities from here on are tried at 1, where levels share one evaluation."""

_MOST_RATE = 100.0

_TRIALS = 4
"""Batches on which that is judged."""


def learn(
    sde: SDE,
    y0: Tensor,
    t_span: Sequence[float] | None = None,
    *,
    budget: float,
    steps: int | None = None,
    times: Sequence[float] | np.ndarray | Tensor | None = None,
    method: Scheme = "euler",
    knots: int = 8,
    iterations: int = 120,
    samples: int = 512,
    gradient: str = "surrogate",
    learning_rate: float = 0.2,
    start: ProbabilityRule | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Learned:
    """Learn probabilities in time for independent impulses, the rule of the paper (arXiv 2603.24594).

    Each iteration draws initial states, noise and coins anew and takes a step of Adam (arXiv 1412.6980), whose rate
    falls to a twentieth along a cosine. Halfway through, probabilities that have come near 1 are tried at 1 itself,
    where neighbouring levels share one evaluation; what makes the loss smaller at the same price stays. The result is
    the mean of the logits over the last quarter of the iterations, shifted to the budget; or, where that is no better,
    the rule that the descent began with, at the knots.

    Args:
        sde: the equation; its ladder has ``costs``, and levels that forward differentiation passes through.
        y0: initial states to draw from, shape ``(states, ...)``.
        t_span: as of :func:`mlsde.solve`.
        budget: expected cost per trajectory, in the units of ``costs``, with the evaluations summed by parts.
        steps: number of equal steps, best that of the runs to come; see :class:`mlsde.Learned` for others.
        times: an explicit grid instead.
        method: ``"euler"`` or ``"exponential"``.
        knots: number of times at which probabilities are learned, equally many steps apart.
        iterations: number of gradient steps.
        samples: trajectories per iteration, each with coins and a direction of its own.
        gradient: ``"surrogate"`` replaces the coins by noise of the same variance, which has a derivative: exact for
            linear drifts, of little variance, and right to leading order where impulses are small. ``"score"`` tosses
            the coins and uses the derivative of their probability: right for any drift, and far noisier.
        learning_rate: of Adam at the start, in units of the logits.
        start: the rule to begin with, scaled to the budget; by default :class:`mlsde.Optimal` with the ``V_k(t)`` of
            a pilot.
        seed: of everything random.
        progress: show a bar.

    Returns:
        The probabilities, with the loss and the cost of each iteration in their ``history``. A loss is the mean
        squared distance over the samples of that iteration.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> from mlsde import DriftHierarchy
        >>> drift = DriftHierarchy([lambda t, y: -y, lambda t, y: -torch.sin(y)], costs=[1.0, 50.0])
        >>> learned = learn(SDE(drift, 0.5), torch.ones(8, 1), (0, 1), steps=10, budget=100.0, iterations=4, samples=16)
        >>> len(learned.times), len(learned.values[0]), len(learned.history)
        (8, 2, 4)
    """
    grid = checks.time_grid(t_span, steps, times)
    _check(sde, y0, method, len(grid) - 1, budget=budget, knots=knots, iterations=iterations, samples=samples)
    checks.one_of("gradient", gradient, GRADIENTS)
    progress = checks.truth("progress", progress)
    rate = checks.positive_number("learning_rate", learning_rate)
    if rate > _MOST_RATE:
        raise ValueError(f"learning_rate must be at most {_MOST_RATE:g}, being in units of the logits, got {rate:g}.")
    table = Knots.of(grid, int(knots), sde.drift, float(budget))
    runs = Runs(sde, y0, grid, method, int(samples), checks.one_seed(seed))
    if start is None:
        start = Optimal(level_variances(sde, y0[:samples], times=grid, method=method, seed=seed), float(budget))
    first_table = probability_table(start, grid, sde.drift, lambda rows: table.price(np.asarray(rows)))
    logits = table.logits(np.asarray(first_table))
    descent = _Descent(table, runs, gradient, rate, int(iterations))
    with torch.no_grad(), bar(total=iterations, unit="iterations") if progress else nullcontext() as shown:
        first = descent.with_sure_ones(logits)
        logits = descent.with_sure_ones(descent.run(logits, 0, iterations // 2, shown))
        logits = descent.best([descent.run(logits, iterations // 2, iterations, shown), first])
    values = probabilities(logits)
    first_loss, last_loss = descent.history[0][0], descent.history[-1][0]
    log.info("learned in %d iterations: loss %.3g after %.3g", len(descent.history), last_loss, first_loss)
    return Learned(table.times.tolist(), values.tolist(), history=descent.history)


def _check(sde: SDE, y0: Tensor, method: str, steps: int, *, budget: float, **counts: int) -> None:
    if not isinstance(sde, SDE):
        raise TypeError(f"sde must be an mlsde.SDE, which mlsde.SDE(drift, ...) makes, got {type(sde).__name__}.")
    checks.state("y0", y0)
    if len(sde.drift) == 1:
        raise ValueError("sde has a drift of one level, which always fires, so there is nothing to learn; give two.")
    costs = sde.drift.required_costs("learn")
    for name, count in counts.items():
        checks.positive_integer(name, count)
    if counts["knots"] > steps:
        raise ValueError(f"knots={counts['knots']} are more than the {steps} steps; take at most one for each.")
    if counts["samples"] == 1:
        raise ValueError("samples must be at least 2, because each is compared with the others, got 1.")
    if checks.one_of("method", method, tuple(METHODS)) == "milstein":
        raise ValueError("method='milstein' cannot be learned with; use method='euler', its probabilities serve both.")
    compatible(method, sde, Multilevel(lambda t: costs, "independent", "impulse"))
    full = steps * (sum(costs) if sde.drift.differences else costs[-1])
    least = _LEAST_FIRINGS * costs[-1]
    if not least <= checks.positive_number("budget", budget) < full:
        raise ValueError(
            f"budget must lie between {least:g}, a hundredth of an evaluation of the top level, and {full:g}, the "
            f"price of the top level at every step, got {budget:g}."
        )


class _Descent:
    """Adam (D. P. Kingma & J. Ba, arXiv 1412.6980) on the logits, along the tables of one price."""

    def __init__(self, table: Knots, runs: Runs, gradient: str, rate: float, iterations: int) -> None:
        self._table, self._runs, self._gradient = table, runs, gradient
        self._rate, self._iterations = rate, iterations
        self._mean = self._square = np.zeros(1)
        self._scale = 0.0
        self.history: list[tuple[float, float]] = []

    def run(self, logits: np.ndarray, first: int, last: int, shown: Any) -> np.ndarray:
        """Descend from iteration ``first`` to ``last``; returns the mean of the last quarter, at the budget."""
        tail = [logits]
        for i in range(first, last):
            step = self._step(self._slope(logits, i), i)
            logits = self._table.at_budget(logits - step)
            tail = [*tail[-((last - first) // 4) or -1 :], logits]
            if shown is not None:
                shown.update()
                shown.set_postfix({"loss": f"{self.history[-1][0]:.3g}"}, refresh=False)
        return self._table.at_budget(np.mean(tail[1:] or tail, axis=0))

    def _slope(self, logits: np.ndarray, i: int) -> np.ndarray:
        """Derivative of the logarithm of the loss along the tables of one price."""
        draw = self._runs.draw(i, len(logits))
        outcome = self._runs.outcome(self._gradient, self._table, logits, draw)
        loss = float(outcome.losses.mean())
        if not (math.isfinite(loss) and np.isfinite(outcome.slopes).all()):
            raise ValueError(
                f"y0 leads to runs that became NaN or infinite in iteration {i}; take smaller steps or a smaller "
                "learning_rate, or look at them with mlsde.solve."
            )
        # by the losses before this one, so that chance above and below the line cannot conspire
        scale = self._scale or loss or 1.0
        self._scale = 0.9 * scale + 0.1 * loss
        self.history.append((loss, self._table.price(self._table.table(logits))))
        slope, price = outcome.gradient(draw.directions) / scale, self._table.price_slopes(logits)
        return slope - price * (slope.sum() / price.sum())

    def _step(self, slope: np.ndarray, i: int) -> np.ndarray:
        self._mean = 0.9 * self._mean + 0.1 * slope
        self._square = 0.99 * self._square + 0.01 * slope**2
        mean, square = self._mean / (1.0 - 0.9 ** (i + 1)), self._square / (1.0 - 0.99 ** (i + 1))
        falling = 0.525 + 0.475 * math.cos(math.pi * i / self._iterations)
        return self._rate * falling * mean / (np.sqrt(square) + 1e-12)

    def with_sure_ones(self, logits: np.ndarray) -> np.ndarray:
        """Raise the probabilities from some value on to 1 where that makes the loss at the budget smaller."""
        tried = [logits]
        for least in _SURE:
            raised = self._table.raised(logits, least)
            if np.isinf(raised).any() and self._table.pays_for(raised):
                tried.append(self._table.at_budget(raised))
        return self.best(tried)

    def best(self, tried: Sequence[np.ndarray]) -> np.ndarray:
        """Those of the smallest loss, judged on common batches."""
        return tried[0] if len(tried) == 1 else min(tried, key=self._judged)

    def _judged(self, logits: np.ndarray) -> float:
        """Mean loss on batches that are the same for all who are judged."""
        draws = [self._runs.draw(self._iterations + i, len(logits)) for i in range(_TRIALS)]
        outcomes = [self._runs.outcome("surrogate", self._table, logits, draw, slopes=False) for draw in draws]
        return float(np.mean([outcome.losses for outcome in outcomes]))
