"""The studies behind the page on calibration: of the choice, of tolerances, of gamma, of learning and redrawing."""

from __future__ import annotations

from functools import partial

from mlsde.study.adaptivity import adaptivity_study
from mlsde.study.catalogue import How, Result, Study
from mlsde.study.choice import choice
from mlsde.study.gamma import gamma_study
from mlsde.study.learned import learned_study
from mlsde.study.tolerance import random_well, tolerances


def _choice(run: int, how: How) -> Result:
    return choice(run=run, seed=how.seed, quick=how.quick, folder=how.folder, progress=how.progress)


def _tolerances(how: How) -> Result:
    return tolerances(seed=how.seed, quick=how.quick, folder=how.folder, progress=how.progress)


def _wells(how: How) -> Result:
    return tolerances(
        count=60, trajectories=512, problem=random_well, quick=how.quick, seed=how.seed, folder=how.folder,
        progress=how.progress,
    )  # fmt: skip


def _gamma(how: How) -> Result:
    return gamma_study(seed=how.seed, quick=how.quick, folder=how.folder)


def _adaptivity(how: How) -> Result:
    return adaptivity_study(seed=how.seed, quick=how.quick, folder=how.folder)


def _learned(kind: str, how: How) -> Result:
    return learned_study(kind, seed=how.seed, quick=how.quick, progress=how.progress)


CHOICES = {
    "choice": Study(
        'eight kinds of ladders: multilevel="auto" against the best plain way in hindsight', partial(_choice, 1024), 8
    ),
    "choice-small": Study("the same in a run of 256 trajectories, whose pilot is smaller", partial(_choice, 256), 6),
    "tolerance": Study("random problems: solve(tol=...) against the exact solution of the top level", _tolerances, 21),
    "tolerance-wells": Study("the same between two wells, where a few samples rule the error", _wells, 3),
    "gamma": Study("synthetic ladders: gamma and its interval, from a pilot", _gamma, 2),
    "adaptivity": Study("what redrawing the plan within a run could gain over the pilot's plan", _adaptivity, 3),
    "learned-linear": Study(
        "learned probabilities against the optimum that is known", partial(_learned, "linear"), 2, False
    ),
    "learned-nonlinear": Study(
        "learned probabilities against measured ones, where first order is not enough",
        partial(_learned, "nonlinear"),
        2,
        False,
    ),
}
