"""Pictures of runs, plans and ladders. Each call returns its axes, and draws on those that it is given.

>>> import torch
>>> import mlsde, mlsde.plots
>>> drift = mlsde.DriftHierarchy([lambda t, y: -y, lambda t, y: -torch.sin(y)], costs=[1.0, 50.0])
>>> rule = mlsde.Multilevel(mlsde.Constant([1.0, 0.1]))
>>> solution = mlsde.solve(mlsde.SDE(drift, 0.5), torch.zeros(50, 1), (0, 1), steps=100, multilevel=rule)
>>> ax = mlsde.plots.firings(solution)
>>> ax.figure.savefig(file)                                                  # doctest: +SKIP

A level has one colour in all of them. matplotlib is imported when something is drawn: ``pip install 'mlsde[demo]'``. A
new figure is one of pyplot's where pyplot is in use, or IPython; elsewhere ``ax.figure`` is a figure without a window.
"""

from mlsde.plots.frontiers import frontier
from mlsde.plots.rules import probabilities, variances
from mlsde.plots.runs import costs, firings, paths

__all__ = ["costs", "firings", "frontier", "paths", "probabilities", "variances"]
