"""Increments that are given and not drawn: what two solvers, or a formula and a solver, can both be fed with."""

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Given:
    """Row ``n`` of ``rows`` is the increment over the step that starts at ``times[n]``."""

    times: np.ndarray
    rows: torch.Tensor
    levy_area_approximation = "none"

    @property
    def shape(self):
        return self.rows.shape[1:]

    def __call__(self, ta, tb, *_args, **_options):
        return self.rows[int(np.argmin(np.abs(np.asarray(self.times) - float(ta))))]


def gauss_hermite(points, motions, h):
    """Nodes (count, motions) and weights of a quadrature for increments over ``h``, exact to degree 2 points - 1."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(points)
    grid = np.stack(np.meshgrid(*[nodes] * motions, indexing="ij"), axis=-1).reshape(-1, motions)
    chances = np.stack(np.meshgrid(*[weights / weights.sum()] * motions, indexing="ij"), axis=-1).reshape(-1, motions)
    return torch.tensor(grid) * h**0.5, torch.tensor(chances.prod(axis=1))
