"""Coins of each sample's own against one for the batch: what was found, as tables, numbers and a figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mlsde.bench.results import Row, aligned, piped, short

MARGIN = 1.05
"""One error beats another if it is smaller by so much; less is taken for none."""


@dataclass(frozen=True)
class CoinError:
    """Errors of the mean of a batch against the mean of the top level's run on the same paths, per component.

    Attributes:
        rule: coins and correction.
        samples: in the batch.
        shared: mean square error with coins of the batch, of each replicate.
        own: that with coins of each sample's own.
        bias: mean square of the error's expectation, which is the same for both: a sample alone cannot tell whose its
            coins are.
        sampling: mean square error of the batch mean of the top level itself, the variance over the samples.
    """

    rule: str
    samples: int
    shared: tuple[float, ...]
    own: tuple[float, ...]
    bias: float
    sampling: float

    @property
    def shared_error(self) -> float:
        """Root mean square error with coins of the batch."""
        return math.sqrt(np.mean(self.shared))

    @property
    def own_error(self) -> float:
        """That with coins of each sample's own."""
        return math.sqrt(np.mean(self.own))

    def advantage(self, runs: float, sampling: bool) -> float:
        """Error with shared coins over that with own coins at equal wall-clock; above 1 own coins are better.

        Shared coins are drawn anew in so many runs, on the same paths or, with ``sampling``, on new ones, and the means
        averaged: their variance falls, their bias stays.

        Args:
            runs: that the clock allows shared coins in the time of one with own coins; need not be whole.
            sampling: count the error of the samples too.
        """
        of_samples = self.sampling if sampling else 0.0
        variance = max(0.0, float(np.mean(self.shared)) - self.bias)
        shared = self.bias + (variance + of_samples) / runs
        return math.sqrt(shared / (float(np.mean(self.own)) + of_samples))


@dataclass(frozen=True)
class CoinClock:
    """Wall-clock of runs with both kinds of coins at equal expected evaluations.

    Attributes:
        rule: coins and correction.
        width: of the matrices whose products the levels take besides; 0 for none.
        samples: in the batch.
        shared: seconds with coins of the batch, of each repeat.
        own: those with coins of each sample's own.
    """

    rule: str
    width: int
    samples: int
    shared: tuple[float, ...]
    own: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """How many times as long own coins take, the median over the repeats."""
        return float(np.median(np.array(self.own) / np.array(self.shared)))


@dataclass(frozen=True)
class Work:
    """Price of the top level.

    Attributes:
        width: of the matrices whose products the levels take besides.
        call: seconds of an evaluation of one sample.
        sample: seconds of a sample in an evaluation of the largest batch.
    """

    width: int
    call: float
    sample: float


@dataclass(frozen=True)
class CoinBenchmark:
    """Result of :func:`mlsde.bench.coins`. It prints as tables.

    Attributes:
        works: prices of the top level.
        clocks: by rule, width and samples.
        errors: by rule and samples.
        steps: of each run.
        repeats: of each run that is timed.
        device: on which.
    """

    works: tuple[Work, ...]
    clocks: tuple[CoinClock, ...]
    errors: tuple[CoinError, ...]
    steps: int
    repeats: int
    device: str = "cpu"

    @property
    def rules(self) -> tuple[str, ...]:
        """Coins and corrections, in order."""
        return tuple(dict.fromkeys(error.rule for error in self.errors))

    @property
    def batches(self) -> tuple[int, ...]:
        """Samples in the batches, in order."""
        return tuple(sorted({error.samples for error in self.errors}))

    def clock(self, rule: str, width: int, samples: int) -> CoinClock:
        """One of the clocks."""
        return next(c for c in self.clocks if (c.rule, c.width, c.samples) == (rule, width, samples))

    def error(self, rule: str, samples: int) -> CoinError:
        """One of the errors."""
        return next(e for e in self.errors if (e.rule, e.samples) == (rule, samples))

    def advantage(self, rule: str, width: int, samples: int, sampling: bool) -> float:
        """Error with shared coins over that with own coins at equal wall-clock; see :meth:`CoinError.advantage`."""
        return self.error(rule, samples).advantage(self.clock(rule, width, samples).ratio, sampling)

    def crossing(self, rule: str, width: int, sampling: bool) -> int | None:
        """Least batch from which on own coins beat shared ones in all larger ones too; ``None`` if there is none."""
        found = None
        for samples in reversed(self.batches):
            if self.advantage(rule, width, samples, sampling) < MARGIN:
                break
            found = samples
        return found

    def as_dict(self) -> dict[str, Any]:
        """Numbers for JSON: every run, and the crossings."""
        crossings = [
            {
                "rule": rule, "width": work.width, "coins": self.crossing(rule, work.width, False),
                "with_sampling": self.crossing(rule, work.width, True),
            }
            for rule in self.rules
            for work in self.works
        ]  # fmt: skip
        return {
            "works": [asdict(work) for work in self.works],
            "clocks": [{**asdict(clock), "ratio": clock.ratio} for clock in self.clocks],
            "errors": [asdict(error) for error in self.errors],
            "crossings": crossings, "steps": self.steps, "repeats": self.repeats, "device": self.device,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> CoinBenchmark:
        """Return the result that :meth:`as_dict` wrote."""
        clocks = [
            CoinClock(c["rule"], c["width"], c["samples"], tuple(c["shared"]), tuple(c["own"])) for c in data["clocks"]
        ]
        errors = [
            CoinError(e["rule"], e["samples"], tuple(e["shared"]), tuple(e["own"]), e["bias"], e["sampling"])
            for e in data["errors"]
        ]
        works = [Work(**work) for work in data["works"]]
        return cls(tuple(works), tuple(clocks), tuple(errors), data["steps"], data["repeats"], data["device"])

    def __repr__(self) -> str:
        return "\n".join(line for what, head, rows in self._tables() for line in (what, *aligned(head, rows), ""))

    def markdown(self) -> str:
        """The same as tables in Markdown."""
        lines = [line for what, head, rows in self._tables() for line in (what, "", *piped(head, rows), "")]
        return "\n".join(lines).rstrip()

    def _tables(self) -> list[tuple[str, Row, Sequence[Row]]]:
        batches = [f"{samples:,}" for samples in self.batches]
        prices = {work.width: f"{short(1e6 * work.sample)} us" for work in self.works}
        works = [(prices[w.width], f"{short(1e6 * w.call)} us", str(w.width)) for w in self.works]
        cases = [(rule, work.width) for rule in self.rules for work in self.works]
        clocks = [(r, prices[w], *(f"{self.clock(r, w, n).ratio:.2f}" for n in self.batches)) for r, w in cases]
        errors = [("", "samples", *(f"{math.sqrt(self.error(self.rules[0], n).sampling):.5f}" for n in self.batches))]
        for rule in self.rules:
            found = [self.error(rule, n) for n in self.batches]
            errors.append((rule, "the batch's", *(f"{e.shared_error:.5f}" for e in found)))
            errors.append((rule, "each sample's", *(f"{e.own_error:.5f}" for e in found)))
        gains = [(r, prices[w], *(f"{self.advantage(r, w, n, False):.2f}" for n in self.batches)) for r, w in cases]
        totals = [(r, prices[w], *(f"{self.advantage(r, w, n, True):.2f}" for n in self.batches)) for r, w in cases]
        crossings = [(r, prices[w], _from(self.crossing(r, w, False)), _from(self.crossing(r, w, True)))
                     for r, w in cases]  # fmt: skip
        by_price = ("rule", "price of a sample", *batches)
        return [
            ("The top level:", ("price of a sample", "price of a call", "width of its matrices"), works),
            ("Wall-clock with coins of each sample's own over that with shared coins, by samples:", by_price, clocks),
            ("Root mean square error of the mean of a batch, by samples:", ("rule", "coins", *batches), errors),
            ("Error of the coins with shared over that with own coins, at equal wall-clock:", by_price, gains),
            ("The same, the error of the samples counted too:", by_price, totals),
            (
                "Samples from which on coins of each sample's own have the smaller error at equal wall-clock:",
                ("rule", "price of a sample", "on the same paths", "the samples' error counted"), crossings,
            ),
        ]  # fmt: skip

    def figure(self, file: str) -> str:
        """Draw wall-clock, errors, and which coins win at equal wall-clock; returns the file's name."""
        from mlsde import drawing  # noqa: PLC0415, matplotlib is imported when it is asked for

        canvas = drawing.canvas(11.0, 8.0)
        (clock, error), (coin, total) = canvas.subplots(2, 2)
        lines = dict(zip((work.width for work in self.works), (":", "--", "-"), strict=False))
        colours = dict(zip(self.rules, drawing.COLOURS[1:], strict=False))
        for rule in self.rules:
            found = [self.error(rule, n) for n in self.batches]
            style = {"color": colours[rule], "marker": "o", "markersize": 4}
            error.plot(self.batches, [e.shared_error for e in found], linestyle="-", label=f"{rule}, shared", **style)
            error.plot(self.batches, [e.own_error for e in found], linestyle="--", label=f"{rule}, own", **style)
            for work in self.works:
                label = f"{rule}, {short(1e6 * work.sample)} us a sample"
                rows = (
                    (clock, [self.clock(rule, work.width, n).ratio for n in self.batches]),
                    (coin, [self.advantage(rule, work.width, n, False) for n in self.batches]),
                    (total, [self.advantage(rule, work.width, n, True) for n in self.batches]),
                )
                for axes, values in rows:
                    axes.plot(self.batches, values, linestyle=lines[work.width], label=label, **style)
        sampling = [math.sqrt(self.error(self.rules[0], n).sampling) for n in self.batches]
        error.plot(self.batches, sampling, color="grey", label="of the samples themselves")
        error.set(ylabel="RMS error of the mean of a batch")
        clock.set(ylabel="seconds, own over shared coins")
        coin.set(ylabel="error at equal wall-clock, shared over own coins")
        total.set(ylabel="the same, error of the samples counted")
        for axes in (clock, error, coin, total):
            axes.set(xscale="log", yscale="log", xlabel="samples")
        for axes in (clock, coin, total):
            axes.axhline(1.0, color="grey", linewidth=0.8)
        clock.legend(frameon=False, fontsize=8)
        error.legend(frameon=False, fontsize=8)
        return drawing.save(canvas, file)


def _from(samples: int | None) -> str:
    return "none" if samples is None else f"{samples:,}"
