"""What a pilot saw of a ladder along a few runs: the numbers from which every method's error is predicted."""

from __future__ import annotations

import io
import json
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from mlsde.calibration import replay
from mlsde.chunks import write_bytes

_ARRAYS = (
    "times", "costs", "responses", "variances", "squares", "increments", "sensitivity", "gaps", "steps_seen",
    "changes", "seconds",
)  # fmt: skip
_FORMAT = 3

TRIAL = 0.25
"""Probability, in the pilot's runs with coins, of every level but the cheapest, which always fires."""

FARTHER = 1.25
"""A level that ends farther from the top than a cheaper one by this factor is out of order."""

LAGS = (1, 2, 4)
"""Steps of the pilot over which the differences are seen to change."""


@dataclass(frozen=True, eq=False)
class Recording:
    """A pilot's measurements. Errors are root mean squares over samples and components.

    Attributes:
        times: the pilot's grid, shape ``(N + 1,)``.
        costs: price of one evaluation of each level, shape ``(K,)``.
        responses: ``psi_n . D_k(t_m)`` for ``P`` random projections of the end, shape ``(P, K, N, N)``, ``n`` first;
            0 for ``m > n``. Their mean square is that of a component of the end.
        variances: ``V_k(t_n)``, summed over components as :class:`mlsde.LevelVariances` has it, shape ``(N, K)``;
            infinite for a level that did not stay finite along the run, whose differences go to the next.
        squares: the same of each sample, its mean over the time, shape ``(S, K)``.
        increments: ``E|D_k(t + lag) - D_k(t)|^2`` along the runs, averaged over the time, for lags of
            :data:`LAGS` steps, shape ``(L, K)``.
        sensitivity: mean square growth ``w_n`` of an error from the end of step ``n`` to the end, shape ``(N,)``.
        gaps: distance of level ``k``'s end from the top level's, on one grid and path, shape ``(K,)``.
        steps_seen: numbers of steps that the top level was run with, falling, shape ``(J,)``.
        changes: distance of the ends at ``steps_seen[j]`` and half as many steps, shape ``(J,)``; infinite where a
            run did not stay finite.
        half_order: mean square of what Euler-Maruyama leaves out at order 1/2, on the pilot's grid; NaN where it is not
            known apart.
        seconds: wall-clock of one evaluation of each level for one sample, shape ``(K,)``.
        flops: floating-point operations of the same, where torch can count them.
        unit: of the costs: ``"declared"``, ``"seconds"`` or ``"flops"``.
        strong_order: at which the error of a step falls.
        stages: drift estimates per step.
        differences: whether the ladder is given by its differences.
        deterministic: whether the equation is an ODE.
        size: root mean square of the end.
        epsilon: relative rounding of the dtype in which the run is summed.
        price: what the pilot cost in all, in units of ``costs``.
        samples: its trajectories.
        method: its stepper.
        sensitivity_level: level whose derivative carried errors to the end, from 1.
        unlike: how fast the differences above that level change along a run, over how fast its value does: near 1 and
            above, the top level's derivative is another.
        linearity: measured over predicted distance of the level below the top: near 1 where first order holds.
        trials: distance that coins made on the pilot's samples over the one that first order foresees, for impulses
            and for a memory.
        tail: mean square of what halving the steps of a cheap level changes, of many samples over that of the pilot's;
            1 where it was not looked at, infinite where some of the many did not stay finite.
        crowd: how many those were, and the level, from 1.
        names: of the levels.
    """

    times: np.ndarray
    costs: np.ndarray
    responses: np.ndarray
    variances: np.ndarray
    squares: np.ndarray
    increments: np.ndarray
    sensitivity: np.ndarray
    gaps: np.ndarray
    steps_seen: np.ndarray
    changes: np.ndarray
    seconds: np.ndarray
    half_order: float
    flops: tuple[float, ...] | None
    unit: str
    strong_order: float
    stages: int
    differences: bool
    deterministic: bool
    size: float
    epsilon: float
    price: float
    samples: int
    method: str
    sensitivity_level: int
    unlike: float
    linearity: float
    trials: tuple[float, ...]
    tail: float
    crowd: tuple[int, int]
    names: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Recording({self.samples} runs of {self.steps} steps, {self.levels} levels)"

    @property
    def steps(self) -> int:
        """Number of steps ``N`` of the pilot."""
        return len(self.times) - 1

    @property
    def levels(self) -> int:
        """Number of levels ``K``."""
        return len(self.costs)

    @property
    def sound(self) -> np.ndarray:
        """Which levels stayed finite along the run, shape ``(K,)``."""
        return np.asarray(np.isfinite(self.squares).all(axis=0))

    def evaluation(self, level: int) -> float:
        """Price of the value of a level, numbered from 1: of a ladder of differences, that of all up to it."""
        return float(self.costs[:level].sum() if self.differences else self.costs[level - 1])

    def cut(self, level: int) -> np.ndarray:
        """Mean square error per step that leaving out what lies above a level adds, as projections ``(P, N)``."""
        steps = np.arange(self.steps)
        return np.asarray(-self.responses[:, level:, steps, steps].sum(axis=1, dtype=np.float64))

    def part(self, levels: tuple[int, ...]) -> np.ndarray:
        """Responses of a sub-ladder's differences, shape ``(P, len(levels), N, N)``."""
        return replay.merged(self.responses, levels)

    def save(self, file: str | os.PathLike[str]) -> None:
        """Write it whole or not at all, as a numpy archive without pickles; ``OSError`` as the file system has it."""
        write_bytes(Path(file), self.to_bytes())

    def to_bytes(self) -> bytes:
        """What :meth:`save` writes."""
        rest = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _ARRAYS}
        arrays: dict[str, Any] = {name: getattr(self, name) for name in _ARRAYS}
        written = io.BytesIO()
        np.savez_compressed(written, rest=np.array(json.dumps({"format": _FORMAT, **rest})), **arrays)
        return written.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Recording:
        """Read what :meth:`to_bytes` made; an error of some kind if it is damaged."""
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            rest = json.loads(str(archive["rest"]))
            if rest.pop("format", None) != _FORMAT:
                raise ValueError("of another format")
            arrays = {name: archive[name] for name in _ARRAYS}
        flops = None if rest["flops"] is None else tuple(rest.pop("flops"))
        rest |= {name: tuple(rest[name]) for name in ("names", "trials", "crowd")}
        return cls(**{**rest, **arrays, "flops": flops})

    @classmethod
    def load(cls, file: str | os.PathLike[str]) -> Recording:
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is damaged, or something else.
        """
        path = Path(file)
        try:
            return cls.from_bytes(path.read_bytes())
        except FileNotFoundError:
            raise
        except Exception as error:  # there is no end of the ways in which a damaged archive fails
            raise ValueError(
                f"file={str(path)!r} is not a whole calibration ({type(error).__name__}); calibrate anew, and save it."
            ) from error
