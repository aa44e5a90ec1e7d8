"""Diffusion processes and their denoisers as ladders."""

from mlsde.diffusion.digits import DigitsLadder, digits_ladder
from mlsde.diffusion.metrics import rmse, sliced_wasserstein
from mlsde.diffusion.mixture import GaussianMixture
from mlsde.diffusion.variance_preserving import VariancePreserving

__all__ = ["DigitsLadder", "GaussianMixture", "VariancePreserving", "digits_ladder", "rmse", "sliced_wasserstein"]
