"""The distance of states, and of their laws: squares summed over the components of a sample, whatever their shape."""

from __future__ import annotations

import math

from torch import Tensor


def squares(y: Tensor) -> Tensor:
    """``|y_i|^2`` in float64, shape ``(samples,)``, of states of shape ``(samples, ...)``; one number each will do."""
    return y.double().reshape(len(y), -1).square().sum(dim=1)


def distance(a: Tensor, b: Tensor) -> float:
    """Root mean square over samples and components; infinite where something is not finite."""
    gap = float((a.double() - b.double()).square().mean().sqrt())
    return gap if math.isfinite(gap) else math.inf


def of_laws(a: Tensor, b: Tensor) -> float:
    """2-Wasserstein distance of the marginals of two samples of as many states, together over the components.

    For each component the samples are sorted, which is the cheapest way to move one empirical law into the other; so
    it is at most the root mean square distance of the states in the order in which they come.
    """
    one, other = (states.double().reshape(len(states), -1).sort(dim=0).values for states in (a, b))
    return float((one - other).square().mean(dim=0).sum().sqrt())
