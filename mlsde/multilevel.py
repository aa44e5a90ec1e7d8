"""How a ladder is used: probabilities, coins, correction, and who shares the coins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from mlsde import checks, coins
from mlsde.coins import Coins
from mlsde.probabilities import ProbabilityRule
from mlsde.showing import as_call

Correction = Literal["impulse", "hold", "control", "extrapolate"]
Share = Literal["batch", "sample"]

CORRECTIONS, SHARES = get_args(Correction), get_args(Share)
MEMORY = ("hold", "control", "extrapolate")


@dataclass(frozen=True)
class Multilevel:
    """How a ladder is used: the probabilities, when levels fire, and what is used between firings.

    Args:
        probabilities: a rule (:class:`PowerLaw`, :class:`Constant`, :class:`Optimal`) or a function of ``t`` that
            returns one probability per level.
        coins: ``"independent"`` (the paper), ``"nested"``, ``"systematic"`` or ``"periodic"``; see ``mlsde.coins``.
        correction: what stands for the difference ``D_k = f^k - f^(k-1)``, in one line ``m + w (D - m)``, ``w = 0``
            between firings:

            =============== ===================================== ======== =========================
            correction      ``m``                                 ``w``    coins
            =============== ===================================== ======== =========================
            ``impulse``     0                                     ``1/p``  any
            ``hold``        the last difference                   1        any
            ``control``     the last difference                   ``1/p``  any
            ``extrapolate`` a line through the last two           1        systematic, periodic
            =============== ===================================== ======== =========================

            Given the past, ``impulse`` and ``control`` with independent or nested coins are unbiased for ``f^K``
            where all probabilities are above 0 (``control`` from its second step, the first being forced). Systematic
            impulses have the right mean at each step taken alone, not given the past. Everything else is a
            deterministic quadrature of the differences, with a bias that vanishes with their spacing. All but
            ``impulse`` fire every level at the first step.
        share: ``"batch"``: all samples share the coins, and a level is skipped for all. ``"sample"``: each sample
            has its own, and those that fire are evaluated as one smaller batch.
        seed: seed of the coins; that of the solve by default. With ``share="sample"`` and seeds per sample in the
            solve, each sample's coins depend on both.

    Raises:
        ValueError: for unknown names, or ``extrapolate`` with independent or nested coins, whose gaps make the slope
            explode.

    Example:
        >>> from mlsde import PowerLaw
        >>> Multilevel(PowerLaw(gamma=2.5), coins="periodic", correction="extrapolate")
        Multilevel(probabilities=PowerLaw(gamma=2.5), coins='periodic', correction='extrapolate')
    """

    probabilities: ProbabilityRule
    coins: Coins = "systematic"
    correction: Correction = "hold"
    share: Share = "batch"
    seed: int | None = None

    @classmethod
    def named(
        cls, probabilities: ProbabilityRule, coins: str, correction: str, share: str = "batch", seed: int | None = None
    ) -> Multilevel:
        """The same from words that are known only when the program runs, which no type checker can check.

        Args:
            probabilities: as above, and so are the others.
            coins: how a level's firings are spread.
            correction: what is used between them.
            share: who shares the coins.
            seed: of the coins.

        Raises:
            ValueError: as above.
        """
        words: Any = {"coins": coins, "correction": correction, "share": share}
        return cls(probabilities, seed=seed, **words)

    def __repr__(self) -> str:
        return as_call(self, always=("coins", "correction"))

    def __post_init__(self) -> None:
        checks.one_of("coins", self.coins, coins.COINS)
        checks.one_of("correction", self.correction, CORRECTIONS)
        checks.one_of("share", self.share, SHARES)
        if self.seed is not None:
            checks.one_seed(self.seed)
        if self.correction == "extrapolate" and self.coins in ("independent", "nested"):
            raise ValueError(
                f"correction='extrapolate' with coins={self.coins!r} is refused: chance puts firings next to each "
                "other and the slope explodes; use coins='systematic' or 'periodic'."
            )
