"""Calibration: measure a ladder in a short pilot, predict what every method would make of it, and choose.

>>> import torch
>>> from mlsde import SDE, DriftHierarchy, calibrate
>>> drift = DriftHierarchy([lambda t, y: -y, lambda t, y: -torch.sin(y)], costs=[1.0, 50.0])
>>> cal = calibrate(SDE(drift, diffusion=0.5), torch.zeros(1000, 1), (0.0, 1.0), steps=100)
>>> cal.recommend(tol=0.01).predicted_error < 0.01
True
"""

from mlsde.calibration.measure import calibrate
from mlsde.calibration.price import PriceExponent, fit_gamma
from mlsde.calibration.recommendation import Recommendation
from mlsde.calibration.result import Calibration

__all__ = ["Calibration", "PriceExponent", "Recommendation", "calibrate", "fit_gamma"]
