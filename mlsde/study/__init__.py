"""Convergence-rate studies: the least cost that reaches an error, and how it grows.

>>> from mlsde import study
>>> from mlsde.problems import analytic
>>> problem = analytic.linear_ode().ladder(gamma=3.0, levels=4)
>>> methods = [study.plain(), study.multilevel("independent", "impulse")]
>>> done = study.convergence(problem, methods, [1.0, 0.5], seeds=2, samples=4, most_steps=16)
>>> done.errors
(1.0, 0.5)
"""

from mlsde.study.comparison import Comparison, equal_cost
from mlsde.study.convergence import Convergence, Frontier, convergence, default_methods
from mlsde.study.diagnostics import Diagnosis, diagnose
from mlsde.study.fits import Exponent
from mlsde.study.methods import Candidate, Method, multilevel, own, plain, stitching

__all__ = [
    "Candidate",
    "Comparison",
    "Convergence",
    "Diagnosis",
    "Exponent",
    "Frontier",
    "Method",
    "convergence",
    "default_methods",
    "diagnose",
    "equal_cost",
    "multilevel",
    "own",
    "plain",
    "stitching",
]
