"""Multilevel Euler-Maruyama: solve SDEs and ODEs whose drift can be had at several prices.

>>> import mlsde, torch
>>> drift = mlsde.DriftHierarchy([lambda t, y: -y, lambda t, y: -torch.sin(y)], costs=[1.0, 50.0])
>>> sde = mlsde.SDE(drift, diffusion=0.5)
>>> multilevel = mlsde.Multilevel(mlsde.PowerLaw(gamma=2.5))
>>> solution = mlsde.solve(sde, torch.zeros(100, 2), (0.0, 1.0), steps=200, multilevel=multilevel)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mlsde.brownian import BrownianPath, NoiseSampler
from mlsde.calibration import Calibration, Recommendation, calibrate
from mlsde.ensembles import Ensemble, EnsembleError, Statistics, ensemble
from mlsde.hierarchy import DriftHierarchy, from_numpy
from mlsde.integrate import solve
from mlsde.ivp import IvpSolution, solve_ivp
from mlsde.learning import learn
from mlsde.linear import LinearPart
from mlsde.multilevel import Multilevel
from mlsde.noise_samplers import BrownianNoiseSampler
from mlsde.other_loops import MultilevelDrift
from mlsde.plan import Plan
from mlsde.probabilities import Constant, Learned, Optimal, PowerLaw
from mlsde.sde import SDE
from mlsde.solution import NonFiniteError, Solution, Stats
from mlsde.variances import LevelVariances, level_variances

if TYPE_CHECKING:
    from mlsde import bench as bench
    from mlsde import diffusion as diffusion
    from mlsde import plots as plots
    from mlsde import problems as problems
    from mlsde import study as study
    from mlsde import theory as theory

__version__ = "0.1.0"

__all__ = [
    "SDE",
    "BrownianNoiseSampler",
    "BrownianPath",
    "Calibration",
    "Constant",
    "DriftHierarchy",
    "Ensemble",
    "EnsembleError",
    "IvpSolution",
    "Learned",
    "LevelVariances",
    "LinearPart",
    "Multilevel",
    "MultilevelDrift",
    "NoiseSampler",
    "NonFiniteError",
    "Optimal",
    "Plan",
    "PowerLaw",
    "Recommendation",
    "Solution",
    "Statistics",
    "Stats",
    "calibrate",
    "ensemble",
    "from_numpy",
    "learn",
    "level_variances",
    "solve",
    "solve_ivp",
]

_ROOMS = ("bench", "diffusion", "plots", "problems", "study", "theory")

if not TYPE_CHECKING:  # a checker knows the rooms from above, and tells of names that there are not

    def __getattr__(name: str) -> Any:
        """The rooms that are imported when they are asked for."""
        if name in _ROOMS:
            return import_module(f"mlsde.{name}")
        raise AttributeError(f"module 'mlsde' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__", *_ROOMS])
