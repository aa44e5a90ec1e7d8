"""Samplers of diffusions, each with the multilevel estimate inside.

=========== ======== ============== ============================================================================
sampler     order    method         source
=========== ======== ============== ============================================================================
``ddim``    1        exponential    J. Song et al., arXiv 2010.02502
``ddpm``    1, noisy exponential    J. Ho et al., arXiv 2006.11239 (ancestral, the small variance)
``euler``   1        euler          T. Karras et al., arXiv 2206.00364, on :class:`VarianceExploding`
``heun``    2        heun           the same
``dpm++2m`` 2        multistep      C. Lu et al., arXiv 2211.01095, algorithm 2; with churn its section 6, "SDE"
``dpm++3m`` 3        multistep      the same, of third order
=========== ======== ============== ============================================================================

All but the last two are calls of :func:`mlsde.solve` with the right space, churn and grid; those two keep the clean
predictions of the last steps and are of first order where they have none yet, and in the step to the clean data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mlsde import checks, randomness
from mlsde.brownian import Brownian
from mlsde.diffusion.denoisers import ConvertedLevel, DenoiserLevel, convert, in_space
from mlsde.diffusion.processes import Process, VarianceExploding
from mlsde.estimator import PlannedEstimator, estimator
from mlsde.hierarchy import CountedLevels, DriftHierarchy
from mlsde.integrate import Callback, Run, solve
from mlsde.multilevel import Multilevel
from mlsde.plan import BLOCK
from mlsde.saving import Saver
from mlsde.sde import SDE
from mlsde.solution import Solution
from mlsde.steppers import Step, Stepper, scheme

METHODS = {"ddim": "exponential", "ddpm": "exponential", "euler": "euler", "heun": "heun"}
ORDERS = {"dpm++2m": 2, "dpm++3m": 3}
SAMPLERS = (*METHODS, *ORDERS)
GRIDS = ("uniform", "log_snr", "karras")
CLOCKS = ("log_snr", "time")

_FEW = 15
"""Runs of fewer steps also end in lower order, as the authors of DPM-Solver++ have it."""


def sample(
    process: Process,
    ladder: DriftHierarchy,
    start: Tensor | Sequence[int],
    *,
    sampler: str = "ddim",
    steps: int | None = None,
    grid: str | Sequence[float] | np.ndarray | Tensor | None = None,
    space: str | None = None,
    churn: float | None = None,
    multilevel: Multilevel | Literal["auto"] | None = None,
    extrapolate_in: str | None = None,
    level: int | Callable[[float], int] | None = None,
    seed: int | Sequence[int] = 0,
    brownian: Brownian | None = None,
    save_at: Sequence[float] | np.ndarray | Tensor | str | None = None,
    callback: Callback | None = None,
    progress: bool = False,
) -> Solution:
    """Draw samples of a diffusion.

    Args:
        process: the diffusion.
        ladder: its denoisers, made by :func:`denoiser_ladder`, or of plain functions ``eps(t, y)`` that predict noise.
        start: states at the first time, shape ``(samples, ...)``, or that shape alone: then they are drawn from
            ``seed`` (the samples' own seeds if there is one for each).
        sampler: ``"ddim"``, ``"ddpm"``, ``"euler"``, ``"heun"``, ``"dpm++2m"`` or ``"dpm++3m"``.
        steps: number of steps, unless ``grid`` holds times.
        grid: ``"uniform"``, ``"log_snr"``, ``"karras"`` (the methods of the process), or times. By default log-SNR for
            ``"dpm++…"``, Karras's on :class:`VarianceExploding`, else uniform. Named grids end at the clean data,
            except for ``"heun"``, which would ask the network there and ends where ``inner_span`` does.
        space: what the levels are turned into before they are combined and remembered, ``"noise"`` or ``"clean"``; all
            but ``"dpm++…"`` also hold it over a step. By default clean for ``"ddpm"`` and ``"dpm++…"`` and where
            ``alpha = 0`` at the start, else noise. Memories may do better in clean space on log-SNR grids and in noise
            space on uniform ones.
        churn: strength of the noise; by default 1 for ``"ddpm"``, else 0.
        multilevel: as of :func:`mlsde.solve`; ``"auto"`` is refused with ``"dpm++…"``.
        extrapolate_in: with ``"dpm++…"``, what ``correction="extrapolate"`` draws its lines in: ``"log_snr"``, the
            default, or ``"time"``, which all others do.
        level: as of :func:`mlsde.solve`, and so are all that follow.
        seed: of the states, the noise and the coins.
        brownian: a path.
        save_at: times to save.
        callback: called after each step.
        progress: show a bar.

    Returns:
        A :class:`mlsde.Solution`; its times are the process's.

    Raises:
        TypeError, ValueError: for bad input, naming the argument, before any network is asked.
        NonFiniteError: as :func:`mlsde.solve`.

    Example:
        >>> from mlsde.diffusion.processes import RectifiedFlow
        >>> standard_normal = DriftHierarchy([lambda t, y: t * y / ((1 - t) ** 2 + t**2)])
        >>> sample(RectifiedFlow(margin=0.01), standard_normal, torch.randn(4, 2), grid=[0.99, 0.5, 0.0]).y1.shape
        torch.Size([4, 2])
    """
    checks.one_of("sampler", sampler, SAMPLERS)
    if not isinstance(process, Process):
        raise TypeError(f"process must be a Process, such as VariancePreserving(), got {process!r}.")
    if not isinstance(ladder, DriftHierarchy):
        raise TypeError(f"ladder must be a DriftHierarchy, which denoiser_ladder() makes, got {type(ladder).__name__}.")
    times = _times(process, sampler, steps, grid)
    if space is None:
        space = "clean" if sampler in ("ddpm", *ORDERS) or process.alpha(float(times[0])) == 0 else "noise"
    ladder = in_space(ladder, process, space)
    y0 = _start(process, ladder, start, seed, float(times[0]))
    _refuse_misfits(ladder, y0, multilevel, float(times[0]))
    usual_churn = 1.0 if sampler == "ddpm" else 0.0
    churn = usual_churn if churn is None else checks.squarable("churn", churn)
    sde = process.reverse(ladder, churn=churn, space="clean" if sampler in ORDERS else space)
    usual = "log_snr" if sampler in ORDERS else "time"
    clock = checks.one_of("extrapolate_in", usual if extrapolate_in is None else extrapolate_in, CLOCKS)
    if sampler in METHODS:
        if clock != "time":
            raise ValueError(f"extrapolate_in={clock!r} goes with sampler='dpm++2m' or 'dpm++3m', got {sampler!r}.")
        _refuse_singular(sde, sampler, times)
        return solve(
            sde, y0, times=times, method=scheme(METHODS[sampler]), multilevel=multilevel, level=level, seed=seed,
            brownian=brownian, save_at=save_at, callback=callback, progress=progress,
        )  # fmt: skip
    if isinstance(multilevel, str):
        raise ValueError(f"sampler={sampler!r} takes an mlsde.Multilevel or None, got multilevel={multilevel!r}.")
    if callback is not None:
        checks.callable_as("callback", "callback(n, t, y)", callback)
    run = _MultistepRun(process, sampler, churn, space, clock, sde, y0, times, multilevel, level, seed, brownian)
    saver = Saver(save_at, run.times, y0)
    with torch.no_grad():
        if not checks.truth("progress", progress):
            return run.to_end(saver, callback, None)
        with run.bar() as bar:
            return run.to_end(saver, callback, bar)


def _times(process: Process, sampler: str, steps: int | None, grid: Any) -> np.ndarray:
    """The grid, checked."""
    if grid is not None and not isinstance(grid, str):
        if steps is not None:
            raise ValueError("give one of steps= (with the name of a grid) and grid= (times), got both.")
        return checks.time_grid(None, None, grid)
    if steps is None:
        raise ValueError("give steps= (a number of steps) or grid= (times), got neither.")
    name = _default_grid(process, sampler) if grid is None else checks.one_of("grid", grid, GRIDS)
    method: Callable[..., np.ndarray] = getattr(process, f"{name}_grid")
    return checks.time_grid(None, None, method(steps, to_clean=sampler != "heun"))


def _default_grid(process: Process, sampler: str) -> str:
    if sampler in ORDERS:
        return "log_snr"
    return "karras" if isinstance(process, VarianceExploding) else "uniform"


def _start(process: Process, ladder: DriftHierarchy, start: Any, seed: Any, t: float) -> Tensor:
    """The given states, or draws where they are only a shape."""
    if isinstance(start, Tensor) or not isinstance(start, Sequence):
        return checks.state("start", start)
    shape = tuple(checks.positive_integer("start", size) for size in start)
    if not shape:
        raise ValueError("start needs at least one dimension: dimension 0 is the samples.")
    dtype, device = torch.get_default_dtype(), torch.device("cpu")
    for level in ladder.levels:
        weight = level.denoiser.weight if isinstance(level, DenoiserLevel) else None
        if weight is not None:
            dtype, device = weight.dtype, weight.device
    work = torch.float32 if dtype in checks.HALF_PRECISIONS else dtype
    number = checks.seed_or_seeds(seed, shape[0])
    rows = randomness.NormalRows(shape, work, device, number, randomness.PRIOR, randomness.SCATTERED)
    scale = process.prior_scale if t == process.t_span[0] else math.hypot(process.alpha(t), process.sigma(t))
    return (scale * rows.chunk(0)[0]).to(dtype)


def _refuse_misfits(ladder: DriftHierarchy, y0: Tensor, multilevel: Any, t: float) -> None:
    """What can be told of networks and states before any network is asked."""
    for level in ladder.levels:
        if isinstance(level, (DenoiserLevel, ConvertedLevel)):
            level.check(t, y0)
        per_sample = isinstance(level, DenoiserLevel) and level.denoiser.per_sample
        if per_sample and isinstance(multilevel, Multilevel) and multilevel.share == "sample":
            raise ValueError(
                "multilevel with share='sample' shows a level some samples alone, but its denoiser is conditioned on "
                "each of them; use share='batch'."
            )


def _refuse_singular(sde: SDE, sampler: str, times: np.ndarray) -> None:
    """Euler and Heun ask for the drift's own coefficients, which are infinite at some ends."""
    if METHODS[sampler] == "exponential":
        return
    linear = sde.linear
    assert linear is not None, "reverse equations have a linear part"
    asked = [times[0], times[-2], times[-1]] if sampler == "heun" else [times[0], times[-2]]
    for t in map(float, asked):
        parts = [linear.rate(t), linear.gain(t)]
        parts += [sde.diffusion(t)] if callable(sde.diffusion) else []
        if not all(math.isfinite(part) for part in parts):
            raise ValueError(
                f"sampler={sampler!r} asks for the drift at t={t:g}, where it is infinite; let the grid begin or end "
                "beside it, or use sampler='ddim', 'ddpm' or 'dpm++2m', which solve that part exactly."
            )


class _MultistepRun(Run):
    """A run of DPM-Solver++: the exponential stepper in clean space, with the predictions of the steps before."""

    def __init__(
        self,
        process: Process,
        sampler: str,
        churn: float,
        space: str,
        clock: str,
        sde: SDE,
        y0: Tensor,
        times: np.ndarray,
        multilevel: Multilevel | None,
        level: int | Callable[[float], int] | None,
        seed: int | Sequence[int],
        brownian: Brownian | None,
    ) -> None:
        self._process, self._space, self._order = process, space, ORDERS[sampler]
        self._log_snrs = np.array([process.log_snr(t) for t in times.tolist()])
        self._weights = multistep_weights(self._log_snrs, ORDERS[sampler], churn)
        self._remembers_in = self._log_snrs if clock == "log_snr" else times
        self._kept: tuple[int, tuple[Tensor, ...]] = (0, ())
        super().__init__(sde, y0, times, "exponential", multilevel, level, seed, brownian)
        self.method = sampler

    def _machinery(self, levels: CountedLevels) -> tuple[PlannedEstimator, Stepper]:
        """Memories may see the log-SNR as their time; the probabilities were settled in the process's own."""
        estimate = estimator(levels, replace(self.plan, grid=self._remembers_in))
        return estimate, self._multistep(estimate)

    def _multistep(self, estimate: PlannedEstimator) -> Stepper:
        """``Phi y + alpha sum_i w_i D_i + noise`` with the clean predictions ``D_i`` of this step and those before."""
        history: tuple[Tensor, ...] = ()
        linear = self.sde.linear
        assert linear is not None and linear.deviation is not None, "reverse equations have a linear part"
        deviation = linear.deviation

        def step(n: int, step: Step, y: Tensor, dw: Tensor | None) -> Tensor:
            nonlocal history
            if n % BLOCK == 0:  # a replay begins here, with what was known here
                history = self._kept[1] if self._kept[0] == n else history
                self._kept = n, history
            history = (self._clean(estimate(n, step.t, y), y, step.start), *history[: self._order - 1])
            out = linear.propagator(step.start, step.stop) * y
            for weight, clean in zip(self._weights[n], history, strict=False):
                out = torch.add(out, clean, alpha=self._process.alpha(step.stop) * weight)
            if dw is None:
                return out
            return torch.add(out, dw, alpha=deviation(step.start, step.stop) / abs(step.h) ** 0.5)

        return step

    def _clean(self, estimate: Tensor, y: Tensor, t: float) -> Tensor:
        """A clean prediction to keep, never a level's own tensor."""
        if self._space == "clean":
            return estimate.clone()
        return convert(estimate, y, self._process, t, source="noise", target="clean")


def multistep_weights(log_snrs: np.ndarray, order: int, churn: float) -> list[list[float]]:
    """Weights of the clean predictions of DPM-Solver++ at each step, the newest first.

    A step integrates ``a exp(-a (h - x))``, ``a = 1 + churn^2``, against the polynomial through the predictions at
    ``x = 0, -h_1, -h_1 - h_2``; the paper's second order takes ``1/2`` for the mean place of its weight. The third
    order is that of the polynomial. Widely used code halves the term of second differences, and is of second order.

    Args:
        log_snrs: at the grid, infinite at most at its ends, shape ``(N + 1,)``.
        order: 1, 2 or 3.
        churn: of the reverse equation.

    Source: C. Lu et al., arXiv 2211.01095, algorithm 2; C. Lu et al., arXiv 2206.00927, section 3, for the integrals.
    """
    values, weights = log_snrs.tolist(), []
    for n in range(len(values) - 1):
        h = values[n + 1] - values[n]
        most = _order_at(n, len(values) - 1, order, math.isfinite(h))
        before = [value for value in values[max(0, n - most + 1) : n] if math.isfinite(value)]
        places = [0.0, *((value - values[n]) / h for value in reversed(before))]
        moments = _moments((1.0 + churn**2) * h, len(places))
        weights.append(np.linalg.solve(np.vander(places, increasing=True).T, moments).tolist())
    return weights


def _order_at(n: int, steps: int, order: int, finite: bool) -> int:
    """Order at a step: lower while there is no history, and towards the end of runs of few steps."""
    if not finite or (n == steps - 1 and steps < _FEW):
        return 1
    return min(order, 2) if n == steps - 2 and steps < _FEW else order


def _moments(z: float, count: int) -> list[float]:
    """``integral_0^1 z exp(-z (1 - x)) x^j dx``, ``j = 0 … count - 1``; ``j = 1`` as the paper has it if it is last."""
    zeroth = -math.expm1(-z)
    if count < 3:
        return [zeroth, 0.5 * zeroth][:count]
    first = 1.0 - zeroth / z
    return [zeroth, first, 1.0 - 2.0 * first / z]
