"""A ladder of three levels with names and prices, its runs, and what was drawn of them."""

import torch
from matplotlib.colors import to_rgba

import mlsde
from mlsde import Constant, DriftHierarchy, Multilevel, drawing

LADDER = DriftHierarchy(
    [lambda t, y: -y, lambda t, y: -torch.sin(y), lambda t, y: -torch.sin(y) + 0.01 * y],
    costs=[1.0, 8.0, 64.0],
    names=["coarse", "medium", "fine"],
)
SDE = mlsde.SDE(LADDER, 0.5)
RULE = Multilevel(Constant([1.0, 0.25, 0.05]), coins="independent", correction="impulse")
COLOURS = [to_rgba(drawing.level_style(level)["color"]) for level in (1, 2, 3)]


def run(steps=40, samples=6, **options):
    options = {"multilevel": RULE, "seed": 1} | options
    return mlsde.solve(SDE, torch.ones(samples, 2, 3), (0.0, 2.0), steps=steps, **options)


def data(line):
    return list(line.get_xdata()), list(line.get_ydata())
