"""DPM-Solver++(2M), the solver of higher order that every claim of a speed-up on a diffusion has to face.

Source: C. Lu et al., *DPM-Solver++*, arXiv 2211.01095, algorithm 2, in the prediction of the clean sample.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from torch import Tensor

from mlsde import checks
from mlsde.diffusion.processes import Process
from mlsde.hierarchy import Level


def log_snr_grid(process: Process, t_span: tuple[float, float], steps: int) -> np.ndarray:
    """Times from ``t_span[0]`` to ``t_span[1]`` at equal steps of ``log(alpha / sigma)``, shape ``(steps + 1,)``."""
    fine = np.linspace(*t_span, 100 * checks.positive_integer("steps", steps) + 1)
    logs = [_log_snr(process, t) for t in fine.tolist()]
    times = np.interp(np.linspace(logs[0], logs[-1], steps + 1), logs, fine)
    times[0], times[-1] = t_span
    return times


def dpm_solver_2m(process: Process, denoiser: Level, y: Tensor, times: np.ndarray) -> Tensor:
    """Solve the probability-flow ODE from ``times[0]`` to ``times[-1]``, one evaluation per step.

    Args:
        process: the diffusion.
        denoiser: prediction ``eps(t, y)`` of the noise in ``y``.
        y: state at ``times[0]``, shape ``(samples, ...)``.
        times: the grid, decreasing, shape ``(N + 1,)``.
    """
    before: tuple[Tensor, float] | None = None
    grid = times.tolist()
    with torch.no_grad():
        for t, s in itertools.pairwise(grid):
            clean = (y - process.sigma(t) * denoiser(torch.tensor(t, dtype=y.dtype), y)) / process.alpha(t)
            h = _log_snr(process, s) - _log_snr(process, t)
            slope = clean
            if before is not None:
                last, h_last = before
                slope = clean + h / (2.0 * h_last) * (clean - last)
            y = process.sigma(s) / process.sigma(t) * y - process.alpha(s) * math.expm1(-h) * slope
            before = clean, h
    return y


def _log_snr(process: Process, t: float) -> float:
    return math.log(process.alpha(t) / process.sigma(t))
