"""Many independent trajectories: in chunks, on one process or many, through faults."""

from mlsde.ensembles.result import Ensemble, EnsembleError, Failure
from mlsde.ensembles.run import ensemble
from mlsde.ensembles.statistics import Estimates, Statistics

__all__ = ["Ensemble", "EnsembleError", "Estimates", "Failure", "Statistics", "ensemble"]
