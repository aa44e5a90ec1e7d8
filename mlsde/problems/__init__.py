"""Problems with known answers.

>>> from mlsde.problems import analytic
>>> analytic.geometric_brownian_motion().ladder(gamma=3.0, levels=3).sde
SDE(DriftHierarchy(3 levels, costs: 1, 8, 64), diagonal noise, ito)

* ``analytic``: equations with exact solutions or moments; ``.ladder(gamma, levels)`` makes ladders of them.
* ``linear``: linear ladders, whose moments under EM, ML-EM and its jump limit are exact recursions.
* ``science``: drifts that are hard for reasons of their own: fields of charges, learned forces.
* ``mixtures``: Gaussian-mixture diffusions with the exact score, and ladders by clustering.
* ``wells``: a double well, where a few samples rule the error.
* ``ladder``: what a convergence study needs to know of an equation.
"""

from mlsde.problems import analytic, ladder, linear, mixtures, science, wells
from mlsde.problems.ladder import LadderProblem, perturbed

__all__ = ["LadderProblem", "analytic", "ladder", "linear", "mixtures", "perturbed", "science", "wells"]
