"""Ways to solve an equation whose frontiers are compared, and the settings each of them has to choose from."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from mlsde import checks
from mlsde.brownian import Brownian
from mlsde.coins import COINS
from mlsde.hierarchy import DriftHierarchy
from mlsde.multilevel import CORRECTIONS, Multilevel
from mlsde.plan import fixed_plan, multilevel_plan
from mlsde.probabilities import Constant, PowerLaw
from mlsde.sde import SDE
from mlsde.showing import as_call
from mlsde.steppers import METHODS

SWITCHES = (-0.875, -0.75, -0.5, -0.25, 0.25, 0.5, 0.75, 0.875)
"""Share of the time that the cheaper of two stitched levels runs; negative if it runs last."""

FEWEST_FIRINGS = 0.25
"""Of the top level, in the mean: with independent coins it may pay to see it in one run of four."""


OwnRun = Callable[[SDE, Tensor, tuple[float, float], int, float, Brownian | None, int], Tensor]
"""``run(sde, y0, t_span, steps, setting, brownian, seed)`` returns the states at ``t1``, shape of ``y0``."""

OwnPrice = Callable[[tuple[float, ...], int, float], float]
"""``price(costs, steps, setting)`` is what it spends per trajectory, in the units of ``costs``."""


@dataclass(frozen=True)
class Method:
    """A way to solve, with its settings left open.

    Attributes:
        name: what to call it in tables.
        coins, correction: as of :class:`mlsde.Multilevel`; ``None`` for a plain method.
        stepper: as ``method`` of :func:`mlsde.solve`.
        order: ``s``: the rule's mean squared error falls like ``p^-s``; it shapes the probabilities.
        stitched: whether it runs a cheaper level on one side of a switch time.
        run, price, settings: of a method of somebody's own, :func:`own`.
    """

    name: str
    coins: str | None = None
    correction: str | None = None
    stepper: str = "euler"
    order: float = 1.0
    stitched: bool = False
    run: OwnRun | None = None
    price: OwnPrice | None = None
    settings: tuple[float, ...] = ()

    __repr__ = as_call

    @property
    def plain(self) -> bool:
        """True if one level is called at every step."""
        return self.coins is None and not self.stitched and self.run is None

    @property
    def key(self) -> str:
        """Name that serves in file names."""
        if self.run is not None:
            return "own-" + re.sub(r"\W+", "-", self.name.lower()).strip("-")
        how = "stitched" if self.stitched else "plain" if self.plain else f"{self.coins}-{self.correction}"
        shape = "" if self.coins is None else f"-s{self.order:g}"
        return f"{how}-{self.stepper}{shape}"


def plain(stepper: str = "euler") -> Method:
    """One level at every step, whichever level and number of steps suits best.

    Args:
        stepper: ``"euler"``, ``"heun"``, ``"milstein"`` or ``"exponential"``.

    Returns:
        The method, for :func:`mlsde.study.convergence`.

    Raises:
        ValueError: for another stepper.

    Example:
        >>> plain("heun").name
        'one level, Heun'
    """
    checks.one_of("stepper", stepper, tuple(METHODS))
    names = {"euler": "Euler-Maruyama", "heun": "Heun", "milstein": "Milstein", "exponential": "exponential Euler"}
    return Method(f"one level, {names[stepper]}", stepper=stepper)


def stitching(stepper: str = "euler") -> Method:
    """Two neighbouring levels, one on each side of a switch time, whichever levels, order and time suit best.

    The idea of T-Stitch (Z. Pan et al., arXiv 2402.14167).

    Args:
        stepper: as of :func:`plain`.

    Returns:
        The method, for :func:`mlsde.study.convergence`.

    Raises:
        ValueError: for a stepper that is not known.

    Example:
        >>> stitching().name
        'two levels stitched in time'
    """
    checks.one_of("stepper", stepper, tuple(METHODS))
    name = "two levels stitched in time" + ("" if stepper == "euler" else f", {stepper}")
    return Method(name, stepper=stepper, stitched=True)


def multilevel(coins: str, correction: str, *, order: float | None = None, stepper: str = "euler") -> Method:
    """A multilevel rule, with the number of levels, the steps and the scale of the probabilities left open.

    The probabilities follow the power law of the ladder, ``p_k = min(1, scale * c_k^-((1 + 2/gamma) / (s + 1)))``.

    Args:
        coins: as of :class:`mlsde.Multilevel`.
        correction: likewise.
        order: ``s``; by default 1 for independent and nested coins with impulses or ``control``, 2 for the rest.
        stepper: as ``method`` of :func:`mlsde.solve`.

    Returns:
        The method, for :func:`mlsde.study.convergence` and :func:`mlsde.study.equal_cost`.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> multilevel("systematic", "hold")
        Method(name='systematic hold', coins='systematic', correction='hold', order=2)
    """
    Multilevel.named(
        PowerLaw(1.0), checks.one_of("coins", coins, COINS), checks.one_of("correction", correction, CORRECTIONS)
    )
    if checks.one_of("stepper", stepper, tuple(METHODS)) == "heun" and correction in ("impulse", "control"):
        raise ValueError(
            f"stepper='heun' loses its order to the impulses of correction={correction!r}; use 'hold' or 'extrapolate'."
        )
    chance = coins in ("independent", "nested") and correction in ("impulse", "control")
    usual = 1.0 if chance else 2.0
    s = usual if order is None else checks.positive_number("order", order)
    name = f"{coins} {correction}" + ("" if s == usual else f", order {s:g}")
    name += "" if stepper == "euler" else f", {stepper}"
    return Method(name, coins, correction, stepper, s)


def own(name: str, run: OwnRun, price: OwnPrice, *, settings: Sequence[float] = (0.0,)) -> Method:
    """A method of your own.

    The study tries it with every number of steps, every setting, and the ladder cut at every level. It makes no
    statement on its theory, and a study that goes on from a folder knows it by its name: give it another name when
    you change it.

    Args:
        name: what to call it in tables.
        run: ``run(sde, y0, t_span, steps, setting, brownian, seed)`` returns the states at ``t1``, shape of ``y0``.
            ``sde.drift`` is the ladder up to some level; ``brownian(ta, tb)`` returns the increment of the samples'
            paths, like the noise of ``y0``, and is ``None`` for an ODE.
        price: ``price(costs, steps, setting)`` is what that spends per trajectory, in the units of ``costs``, which are
            those of the levels up to the cut: below zero or NaN where the method makes no sense.
        settings: values of one more number that the method may choose.

    Returns:
        A method for :func:`mlsde.study.convergence`.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> def leap(sde, y0, t_span, steps, setting, brownian, seed):
        ...     return y0 + (t_span[1] - t_span[0]) * sde.drift.levels[-1](torch.tensor(t_span[0]), y0)
        >>> own("one leap", leap, lambda costs, steps, setting: costs[-1]).name
        'one leap'
    """
    if not isinstance(name, str) or not re.search(r"\w", name):
        raise ValueError(f"name must be a name with letters or digits in it, got {name!r}.")
    checks.callable_as("run", "run(sde, y0, t_span, steps, setting, brownian, seed)", run)
    checks.callable_as("price", "price(costs, steps, setting)", price)
    values = checks.as_float64("settings", settings)
    if len(values) == 0:
        raise ValueError("settings must hold at least one number, got none.")
    return Method(name, run=run, price=price, settings=tuple(values.tolist()))


@dataclass(frozen=True)
class Candidate:
    """A method with its settings chosen, and its expected cost.

    Attributes:
        method: the method.
        levels: number of levels of the ladder that are used, counted from the cheapest; of a plain method the level.
        steps: number of steps.
        setting: expected number of firings of the top one of these levels per trajectory; of stitching the share of
            the time that its cheaper level runs, negative if it runs last; 0 for plain methods; somebody's own.
        cost: expected cost per trajectory.
    """

    method: Method
    levels: int
    steps: int
    setting: float
    cost: float = field(compare=False)

    def __repr__(self) -> str:
        return f"Candidate({self.method.name}: {self.describe()})"

    @property
    def key(self) -> str:
        """Name that serves in file names."""
        return f"{self.method.key}-K{self.levels}-n{self.steps}-m{self.setting:g}"

    @property
    def sure(self) -> bool:
        """True if every level fires at every step, so that a multilevel method is the plain one."""
        return self.method.coins is not None and self.setting >= self.steps

    def describe(self) -> str:
        """The settings in words."""
        if self.method.plain:
            return f"level {self.levels}, {self.steps} steps"
        if self.method.run is not None:
            chosen = f", setting {self.setting:g}" if len(self.method.settings) > 1 else ""
            return f"{self.levels} levels, {self.steps} steps{chosen}"
        if self.sure:
            return f"level {self.levels} at every one of {self.steps} steps"
        if self.method.stitched:
            first = "first" if self.setting > 0 else "last"
            share = f"level {self.levels - 1} for the {first} {abs(self.setting):g} of the time"
            return f"level {self.levels}, {share}, {self.steps} steps"
        return f"{self.levels} levels, {self.steps} steps, top level fires {self.setting:g} times"


def rule(method: Method, drift: DriftHierarchy, gamma: float, steps: int, firings: float, share: str) -> Multilevel:
    """The rule of a multilevel method on a ladder, scaled so that its top level fires so many times in the mean."""
    assert method.coins is not None and method.correction is not None
    costs = np.array(drift.required_costs("a convergence study"))
    if firings >= steps:  # exactly: the power law would know the 1 of the top level to rounding only
        return Multilevel.named(Constant((1.0,) * len(drift)), method.coins, method.correction, share)
    top = (costs[-1] / costs[0]) ** (-(1.0 + 2.0 / gamma) / (method.order + 1.0))
    law = PowerLaw(gamma, scale=firings / steps / top, order=method.order)
    return Multilevel.named(law, method.coins, method.correction, share)


def chosen_level(candidate: Candidate, t_span: tuple[float, float]) -> int | Callable[[float], int]:
    """The ``level`` of :func:`mlsde.solve` for plain and stitched candidates."""
    if not candidate.method.stitched:
        return candidate.levels
    return stitched_levels(candidate.levels, candidate.setting, t_span)


def stitched_levels(level: int, share: float, t_span: tuple[float, float]) -> Callable[[float], int]:
    """Level by time: the one below ``level`` for the first ``share`` of the time, the last if it is negative."""
    t0, t1 = t_span
    first, last = (level - 1, level) if share > 0 else (level, level - 1)
    at = share if share > 0 else 1.0 + share
    return lambda t: first if (t - t0) / (t1 - t0) < at - 1e-9 else last


def candidates(
    method: Method, drift: DriftHierarchy, t_span: tuple[float, float], gamma: float, steps: Sequence[int]
) -> list[Candidate]:
    """Every setting of a method that a study may try, by expected cost."""
    found = []
    for count in range(1, len(drift) + 1):
        for n in steps:
            times = np.linspace(*t_span, n + 1)
            found += _settings(method, drift.select(range(1, count + 1)), times, t_span, gamma)
    return sorted(found, key=lambda candidate: (candidate.cost, candidate.levels, candidate.steps))


def plain_run(candidate: Candidate, drift: DriftHierarchy) -> Candidate:
    """The plain run of a candidate's top level with its steps."""
    stepper, level = candidate.method.stepper, candidate.levels
    costs = drift.required_costs("a convergence study")
    price = sum(costs[:level]) if drift.differences else costs[level - 1]
    return Candidate(plain(stepper), level, candidate.steps, 0.0, price * candidate.steps * METHODS[stepper].stages)


def _settings(
    method: Method, drift: DriftHierarchy, times: np.ndarray, t_span: tuple[float, float], gamma: float
) -> list[Candidate]:
    count, n, stages = len(drift), len(times) - 1, METHODS[method.stepper].stages
    if method.plain:
        return [plain_run(Candidate(method, count, n, 0.0, 0.0), drift)]
    if method.run is not None:
        return _own(method, drift, n)
    if method.stitched:
        return _stitched(method, drift, times, t_span, stages) if count > 1 else []
    made = []
    firings = round_numbers(_fewest_firings(method, drift, gamma), n - 0.01) if count > 1 else []
    for m in [*firings, float(n)]:  # where the top level fires at every step, all do: the plain method is among them
        plan = multilevel_plan(rule(method, drift, gamma, n, m, "batch"), times, drift, stages=stages)
        made.append(Candidate(method, count, n, m, plan.expected_cost or 0.0))
    return made


def _own(method: Method, drift: DriftHierarchy, steps: int) -> list[Candidate]:
    """Settings of somebody's own method that have a price."""
    assert method.price is not None
    costs = drift.required_costs("a convergence study")
    made = []
    for setting in method.settings:
        cost = checks.number(f"the price of {method.name!r}", method.price(costs, steps, setting))
        if cost > 0:
            made.append(Candidate(method, len(drift), steps, setting, cost))
    return made


def _fewest_firings(method: Method, drift: DriftHierarchy, gamma: float) -> float:
    """Of the top level: without chance the dearest level, which fires least, must fire once, or it is never seen."""
    if method.coins != "periodic":
        return FEWEST_FIRINGS
    costs = drift.required_costs("a convergence study")
    return float((max(costs) / costs[-1]) ** ((1.0 + 2.0 / gamma) / (method.order + 1.0)))


def _stitched(
    method: Method, drift: DriftHierarchy, times: np.ndarray, t_span: tuple[float, float], stages: int
) -> list[Candidate]:
    made = []
    for share in SWITCHES:
        if len(times) - 1 >= 1 / min(abs(share), 1 - abs(share)):
            open_cost = Candidate(method, len(drift), len(times) - 1, share, 0.0)
            plan = fixed_plan(chosen_level(open_cost, t_span), times, drift, stages=stages)
            made.append(Candidate(method, len(drift), len(times) - 1, share, plan.expected_cost or 0.0))
    return made


def round_numbers(low: float, high: float) -> list[float]:
    """Powers of two and the numbers halfway between them, from ``low`` to ``high``."""
    found, power = [], 2.0 ** np.floor(np.log2(low))
    while power <= high:
        found += [x for x in (power, 1.5 * power) if low <= x <= high]
        power *= 2.0
    return found
