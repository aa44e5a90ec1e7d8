"""The distance of states: squares summed over the components of a sample, whatever their shape."""

from __future__ import annotations

from torch import Tensor


def squares(y: Tensor) -> Tensor:
    """``|y_i|^2`` in float64, shape ``(samples,)``, of states of shape ``(samples, ...)``; one number each will do."""
    return y.double().reshape(len(y), -1).square().sum(dim=1)
