"""How well ``gamma`` is recovered: synthetic ladders whose exponent is known, each looked at by a small pilot run.

The sound ladders are ``f + 2^-k phi_k`` on sixteen damped, coupled components: with sixteen waves in each ``phi_k`` and
scattered initial states, its size along a pilot is the same for every level to within some per cent. The others each
have something that disturbs the fit. With four components, eight slow waves and one initial state a pilot sees less
than one wavelength: sizes then differ by 10 % and more from level to level, however many samples there are, and a gamma
that is read off them must miss. What helps are differences that vary along the pilot.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise, product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlsde import checks
from mlsde.calibration.price import fit_gamma
from mlsde.chunks.ranks import ranks
from mlsde.chunks.results import Results, share_results
from mlsde.drawing import canvas, save
from mlsde.hierarchy import DriftHierarchy, Level
from mlsde.integrate import solve
from mlsde.problems import analytic
from mlsde.problems.ladder import LadderProblem
from mlsde.showing import Rows, as_html, as_text
from mlsde.study.tolerance import wilson

GAMMAS = (1.5, 2.5, 3.0, 4.0)
LEVELS = (5, 6, 7, 8)
KINDS = (("ode", "smooth"), ("ode", "rough"), ("additive", "smooth"), ("additive", "rough"))
NEAR = 0.2
"""A gamma is well recovered if it misses by no more."""

SOUND = "sound ladders"
_FULL = (3200, 256)
_QUICK = (64, 20)
"""Repetitions with sound ladders, and with each sort of the others."""
_STRIDE = 13
"""Through the cases, so that a few repetitions already hold some of each; without a factor in common with them."""


@dataclass(frozen=True)
class Sort:
    """A sort of ladder, and the pilot that looks at it.

    Attributes:
        name: what it is.
        components: of the state, a multiple of 4.
        features: waves of each level.
        frequency: of the waves.
        spread: of the initial states.
        fewer: levels less than asked for.
        change: what is done to the ladder, one of :data:`CHANGES`.
        samples: of the pilot.
        steps: of the pilot.
    """

    name: str
    components: int = 16
    features: int = 16
    frequency: float = 1.0
    spread: float = 0.5
    fewer: int = 0
    change: str = "none"
    samples: int = 16
    steps: int = 32


SORTS = (
    Sort(SOUND),
    Sort("8 samples, 16 steps", samples=8, steps=16),
    Sort("price ratios that vary", change="varying"),
    Sort("a useless level between", change="useless"),
    Sort("a plateau of 3 levels", change="plateau"),
    Sort("a plateau wrong in one way", change="alike"),
    Sort("one level less", fewer=1),
    Sort("4 components", components=4, features=8, spread=0.0),
    Sort("4 components, 64 samples", components=4, features=8, spread=0.0, samples=64),
    Sort("4 components, faster waves", components=4, features=8, frequency=4.0),
    Sort("4 components, a plateau", components=4, features=8, spread=0.0, change="plateau"),
)


@dataclass(frozen=True)
class Recovered:
    """One repetition.

    Attributes:
        sort: name of the sort of ladder.
        gamma: the truth.
        levels: of the ladder, before anything was inserted.
        kind: ``"ode"`` or ``"additive"`` noise, and ``"smooth"`` or ``"rough"`` differences.
        found: the fitted gamma; infinite or NaN as of :class:`mlsde.calibration.price.PriceExponent`.
        low, high: its interval.
        scatter: of the errors about the line.
        used, dropped: numbers of levels.
        warned: whether the fit has a warning.
    """

    sort: str
    gamma: float
    levels: int
    kind: str
    found: float
    low: float
    high: float
    scatter: float
    used: int
    dropped: int
    warned: bool

    @property
    def near(self) -> bool:
        """Whether it is within :data:`NEAR` of the truth."""
        return abs(self.found - self.gamma) <= NEAR

    @property
    def covered(self) -> bool:
        """Whether the interval holds the truth; without an interval it does not."""
        return self.low <= self.gamma <= self.high


@dataclass(frozen=True)
class Row:
    """A summary of repetitions.

    Attributes:
        name: what they have in common.
        count: how many.
        near: share within :data:`NEAR` of the truth, and its interval of 95 %.
        covered: share of the intervals that hold it, and its interval of 95 %.
        ratio: 5, 50 and 95 of 100 fitted exponents lie below these multiples of the truth.
        miss: median of the distance from the truth.
        width: median width of the intervals; infinite if most are open or there are none.
        scatter: median scatter of the errors about the line.
        warned: share with a warning.
    """

    name: str
    count: int
    near: tuple[float, float, float]
    covered: tuple[float, float, float]
    ratio: tuple[float, float, float]
    miss: float
    width: float
    scatter: float
    warned: float

    @classmethod
    def of(cls, name: str, some: Sequence[Recovered]) -> Row:
        """Summarise at least one repetition."""

        def share(marks: list[bool]) -> tuple[float, float, float]:
            return (sum(marks) / len(marks), *wilson(sum(marks), len(marks)))

        def quantiles(values: list[float], *shares: int) -> list[float]:
            known = np.where(np.isnan(values), np.inf, values)
            return [float(value) for value in np.percentile(known, shares, method="nearest")]

        low, middle, high = quantiles([one.found / one.gamma for one in some], 5, 50, 95)
        return cls(
            name=name,
            count=len(some),
            near=share([one.near for one in some]),
            covered=share([one.covered for one in some]),
            ratio=(low, middle, high),
            miss=quantiles([abs(one.found - one.gamma) for one in some], 50)[0],
            width=quantiles([one.high - one.low for one in some], 50)[0],
            scatter=quantiles([one.scatter for one in some], 50)[0],
            warned=sum(one.warned for one in some) / len(some),
        )


@dataclass(frozen=True)
class GammaStudy:
    """How well gamma was recovered.

    Attributes:
        repetitions: one for each ladder and pilot.
        settings: what else makes the study what it is.
    """

    repetitions: tuple[Recovered, ...]
    settings: dict[str, Any]

    def rows(self) -> tuple[Row, ...]:
        """Every sort of ladder; and the sound ones by exponent, by kind, and by exponent and number of levels."""
        sound = [one for one in self.repetitions if one.sort == SOUND]
        groups = [
            *_grouped(self.repetitions, lambda one: one.sort),
            *_grouped(sorted(sound, key=lambda one: one.gamma), lambda one: f"sound, gamma {one.gamma:g}"),
            *_grouped(sound, lambda one: f"sound, {one.kind}"),
            *_grouped(
                sorted(sound, key=lambda one: (one.gamma, one.levels)),
                lambda one: f"sound, gamma {one.gamma:g}, {one.levels} levels",
            ),
        ]
        return tuple(Row.of(name, some) for name, some in groups)

    def __getitem__(self, name: str) -> Row:
        """The row of that name; ``KeyError`` with the names there are."""
        rows = self.rows()
        for row in rows:
            if row.name == name:
                return row
        raise KeyError(f"{name!r} is none of {[row.name for row in rows]}.")

    __repr__ = as_text
    _repr_html_ = as_html

    def _report(self) -> list[str | Rows]:
        cells = [("", "ladders", f"within {NEAR:g}", "interval covers", "miss", "width", "scatter")]
        for row in self.rows():
            near, covered = (f"{a:.3f} [{low:.3f}, {high:.3f}]" for a, low, high in (row.near, row.covered))
            numbers = f"{row.miss:.2f}", f"{row.width:.2f}", f"{row.scatter:.1%}"
            cells.append((row.name, str(row.count), near, covered, *numbers))
        return [
            f"gamma recovered from ladders made for it, intervals of 95 %{'':28s}(medians)",
            Rows(cells, ("34", ">8", ">21", ">21", ">7", ">7", ">9"), gap="", indent=""),
        ]

    def as_dict(self) -> dict[str, Any]:
        """As JSON, without the single repetitions; numbers that are infinite or NaN become ``None``."""
        rows = [{name: _plain(value) for name, value in asdict(row).items()} for row in self.rows()]
        sorts = [asdict(sort) for sort in SORTS]
        return {"problem": "gamma recovered", "settings": self.settings, "sorts": sorts, "rows": rows}

    def figure(self, file: str | os.PathLike[str]) -> str:
        """Draw the exponents of the sound ladders and the shares of every sort; returns the file's name."""
        figure = canvas(9.5, 3.8)
        fitted, shares = figure.subplots(1, 2)
        self._draw_fitted(fitted)
        self._draw_shares(shares)
        return save(figure, file)

    def _draw_fitted(self, ax: Any) -> None:
        sound = [one for one in self.repetitions if one.sort == SOUND]
        for i, gamma in enumerate(GAMMAS):
            groups = _grouped([one for one in sound if one.gamma == gamma], lambda one: str(one.levels))
            low, middle, high = gamma * np.array([Row.of(*group).ratio for group in groups]).T
            places = np.array([int(levels) for levels, _ in groups]) + 0.08 * (i - 1.5)
            ax.errorbar(places, middle, yerr=[middle - low, high - middle], fmt="o", ms=4, label=f"gamma {gamma:g}")
            ax.axhline(gamma, color=f"C{i}", lw=0.8, ls="--")
        ax.set_xticks(LEVELS)
        ax.set_xlabel("levels")
        ax.set_ylabel("fitted gamma: median, 5 to 95 of 100")
        ax.legend(fontsize=7, frameon=False, ncols=4, loc=(0.02, 0.22))  # below 2.5, above 1.5

    def _draw_shares(self, ax: Any) -> None:
        rows = [Row.of(*group) for group in _grouped(self.repetitions, lambda one: one.sort)]
        places = np.arange(len(rows))[::-1]
        for shift, label, values in (
            (0.12, "interval covers", [row.covered for row in rows]),
            (-0.12, f"within {NEAR:g}", [row.near for row in rows]),
        ):
            share, low, high = np.array(values).T
            bars = np.maximum([share - low, high - share], 0.0)
            ax.errorbar(share, places + shift, xerr=bars, fmt="o", ms=4, label=label)
        ax.axvline(0.9, color="grey", lw=0.8, ls=":")
        ax.set_yticks(places, [row.name for row in rows], fontsize=7)
        ax.set_xlabel("share of the ladders")
        ax.legend(fontsize=7, frameon=False)


def gamma_study(*, quick: bool = False, seed: int = 0, folder: str | os.PathLike[str] | None = None) -> GammaStudy:
    """Recover gamma from ladders whose exponent is known.

    Args:
        quick: a few repetitions, in seconds.
        seed: of everything random.
        folder: where finished sorts of ladder are kept, so that a killed study goes on; ``None`` keeps nothing.

    Returns:
        :class:`GammaStudy`; ``print`` it.

    Raises:
        TypeError, ValueError: for a bad seed; also if ``folder`` holds another study.
    """
    sound, others = _QUICK if quick else _FULL
    settings = {"seed": checks.one_seed(seed), "sound": sound, "others": others, "within": NEAR}
    work = ranks(torch.device("cpu"))
    chunks = Results(folder, {**settings, "sorts": [asdict(sort) for sort in SORTS]}, work)

    def asked(number: int) -> list[Recovered]:
        sort = SORTS[number]
        count = sound if sort.name == SOUND else others
        seeds = np.random.SeedSequence([seed, number]).generate_state(count).tolist()
        whole = chunks.result(f"sort-{number}", lambda: {"found": [asdict(one) for one in _repeated(sort, seeds)]})
        return [Recovered(**one) for one in whole["found"]]

    share_results([partial(asked, number) for number in range(len(SORTS))], [chunks], work)
    return GammaStudy(tuple(one for number in range(len(SORTS)) for one in asked(number)), settings)


def _repeated(sort: Sort, seeds: Sequence[int]) -> Iterator[Recovered]:
    """One repetition for each seed, in turn with every kind of ladder, exponent and number of levels."""
    cases = list(product(LEVELS, GAMMAS, KINDS))
    for i, seed in enumerate(seeds):
        levels, gamma, kind = cases[_STRIDE * i % len(cases)]
        problem = ladder(sort, kind, gamma, levels, seed)
        fit = fit_gamma(problem.sde.drift.costs, squares(problem, sort.samples, sort.steps, seed))
        yield Recovered(
            sort=sort.name,
            gamma=gamma,
            levels=levels,
            kind=" ".join(kind),
            found=fit.gamma,
            low=fit.interval[0],
            high=fit.interval[1],
            scatter=fit.scatter,
            used=len(fit.used),
            dropped=len(fit.dropped),
            warned=fit.warning is not None,
        )


def squares(problem: LadderProblem, samples: int, steps: int, seed: int) -> np.ndarray:
    """Squares of the differences along a pilot run of the top level, averaged over its times.

    Args:
        problem: a ladder of values.
        samples: of the pilot.
        steps: of the pilot.
        seed: of its initial states and its noise.

    Returns:
        Shape ``(samples, K)``.
    """
    levels = problem.sde.drift.levels
    seen: list[Tensor] = []

    def top(t: Tensor, y: Tensor) -> Tensor:
        values = [level(t, y) for level in levels]
        differences = torch.stack([values[0], *(above - below for below, above in pairwise(values))])
        seen.append(differences.flatten(2).square().sum(2))
        return values[-1]

    solve(problem.sde.with_drift(top), problem.initial(samples, seed), problem.t_span, steps=steps, seed=seed)
    return torch.stack(seen).mean(0).T.numpy()


def ladder(sort: Sort, kind: tuple[str, str], gamma: float, levels: int, seed: int) -> LadderProblem:
    """A ladder of a sort.

    Args:
        sort: the sort.
        kind: one of :data:`KINDS`.
        gamma: its exponent.
        levels: their number, before anything is inserted.
        seed: of its waves.
    """
    copies = sort.components // 4
    matrix, y0 = np.kron(np.eye(copies), analytic.SHEARED_ROTATIONS).tolist(), [1.0, 0.0, 1.0, -1.0] * copies
    problem = analytic.linear_ode(matrix, y0) if kind[0] == "ode" else analytic.linear_system(matrix, y0)
    count = levels - sort.fewer
    more = 2 * count if sort.change == "varying" else count

    def made(number: int) -> LadderProblem:
        return problem.ladder(
            gamma, more, differences=kind[1], features=sort.features, frequency=sort.frequency, spread=sort.spread,
            seed=len(CHANGES) * seed + number,
        )  # fmt: skip

    first = made(0)
    return replace(first, sde=first.sde.with_drift(CHANGES[sort.change](made, count, seed)))


Made = Callable[[int], LadderProblem]
"""Ladders that differ in their waves, by number."""


def _unchanged(made: Made, count: int, seed: int) -> DriftHierarchy:
    return made(0).sde.drift


def _varying(made: Made, count: int, seed: int) -> DriftHierarchy:
    """``count`` levels of twice as many: the lowest, and others at random in order."""
    rest = np.random.default_rng([seed, 7]).permutation(np.arange(2, 2 * count + 1))[: count - 1]
    return made(0).sde.drift.select([1, *sorted(rest.tolist())])


def _with_useless(made: Made, count: int, seed: int) -> DriftHierarchy:
    """One level more, dearer than the one in the middle, and as wrong in its own way."""
    drift, at = made(0).sde.drift, count // 2
    costs = list(drift.required_costs("this study"))
    price = math.sqrt(costs[at - 1] * costs[at])
    levels = [*drift.levels[:at], made(1).sde.drift.levels[at - 1], *drift.levels[at:]]
    return DriftHierarchy(levels, [*costs[:at], price, *costs[at:]])


def _with_plateau(made: Made, count: int, seed: int) -> DriftHierarchy:
    """Two levels more, cheaper than the first, and as wrong as it, each in its own way."""
    return _before(made(0).sde.drift, [made(number).sde.drift.levels[0] for number in (1, 2)])


def _with_plateau_alike(made: Made, count: int, seed: int) -> DriftHierarchy:
    """Two levels more, cheaper than the first, and wrong as it is but for a tenth."""
    first, others = made(0).sde.drift.levels[0], [made(number).sde.drift.levels[0] for number in (1, 2)]
    return _before(made(0).sde.drift, [_mixed(first, other, 0.1) for other in others])


def _mixed(one: Level, other: Level, part: float) -> Level:
    return lambda t, y: (1.0 - part) * one(t, y) + part * other(t, y)


def _before(drift: DriftHierarchy, levels: list[Level]) -> DriftHierarchy:
    costs = drift.required_costs("this study")
    ratio = costs[1] / costs[0]
    return DriftHierarchy([*levels, *drift.levels], [costs[0] / ratio**2, costs[0] / ratio, *costs])


CHANGES: dict[str, Callable[[Made, int, int], DriftHierarchy]] = {
    "none": _unchanged,
    "varying": _varying,
    "useless": _with_useless,
    "plateau": _with_plateau,
    "alike": _with_plateau_alike,
}


def _grouped(some: Sequence[Recovered], name: Callable[[Recovered], str]) -> list[tuple[str, list[Recovered]]]:
    """Groups of one name, in the order in which they first appear."""
    groups: dict[str, list[Recovered]] = {}
    for one in some:
        groups.setdefault(name(one), []).append(one)
    return list(groups.items())


def _plain(value: Any) -> Any:
    """As JSON, to six digits."""
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
