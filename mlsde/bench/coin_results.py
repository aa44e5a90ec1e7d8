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
        factors: by which the probabilities of shared coins were multiplied, from 1 on.
        shared: mean square error with coins of the batch, of each replicate, for each factor.
        bias: mean square of the error's expectation, for each factor. It is the same for both kinds of coins: a sample
            alone cannot tell whose its coins are.
        own: mean square error with coins of each sample's own, of each replicate, at factor 1.
        sampling: mean square error of the batch mean of the top level itself, the variance over the samples.
    """

    rule: str
    samples: int
    factors: tuple[float, ...]
    shared: tuple[tuple[float, ...], ...]
    bias: tuple[float, ...]
    own: tuple[float, ...]
    sampling: float

    @property
    def shared_error(self) -> float:
        """Root mean square error with coins of the batch at factor 1."""
        return math.sqrt(np.mean(self.shared[0]))

    @property
    def own_error(self) -> float:
        """That with coins of each sample's own."""
        return math.sqrt(np.mean(self.own))

    def shared_at(self, factor: float, runs: float, sampling: bool) -> float:
        """Root mean square error of the mean of so many runs with shared coins, drawn anew in each.

        Their variance falls with the runs, which need not be a whole number; their bias stays.

        Args:
            factor: of the probabilities.
            runs: on the same paths or, with ``sampling``, on new ones.
            sampling: count the error of the samples too, which is taken to be independent of that of the coins.
        """
        i = self.factors.index(factor)
        variance = max(0.0, float(np.mean(self.shared[i])) - self.bias[i])
        return math.sqrt(self.bias[i] + (variance + (self.sampling if sampling else 0.0)) / runs)


@dataclass(frozen=True)
class CoinClock:
    """Wall-clock of runs with both kinds of coins.

    Attributes:
        rule: coins and correction.
        width: of the matrices whose products the levels take besides; 0 for none.
        samples: in the batch.
        factors: by which the probabilities of shared coins were multiplied, from 1 on; those that take much longer
            than own coins are left out.
        shared: seconds with coins of the batch, of each repeat, for each factor.
        own: those with coins of each sample's own, at factor 1.
    """

    rule: str
    width: int
    samples: int
    factors: tuple[float, ...]
    shared: tuple[tuple[float, ...], ...]
    own: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """How many times as long own coins take at equal expected evaluations, the median over the repeats."""
        return self.runs()[self.factors[0]]

    def runs(self) -> dict[float, float]:
        """By factor, how many runs with shared coins take as long as one with own coins; need not be whole."""
        own = np.array(self.own)
        ratios = [float(np.median(own / np.array(seconds))) for seconds in self.shared]
        return dict(zip(self.factors, ratios, strict=True))


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
        """Error with shared coins over that with own coins at equal wall-clock; above 1 own coins are better.

        Shared coins do what serves them best: they are drawn again, or fire more often, or both.

        Args:
            rule: coins and correction.
            width: of the added work.
            samples: in the batch.
            sampling: count the error of the samples too.
        """
        error = self.error(rule, samples)
        runs = self.clock(rule, width, samples).runs()
        fit = {factor: count for factor, count in runs.items() if count >= 1 or factor == error.factors[0]}
        shared = min(error.shared_at(factor, count, sampling) for factor, count in fit.items())
        return shared / math.hypot(error.own_error, math.sqrt(error.sampling) if sampling else 0.0)

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
            CoinClock(
                c["rule"],
                c["width"],
                c["samples"],
                tuple(c["factors"]),
                tuple(map(tuple, c["shared"])),
                tuple(c["own"]),
            )
            for c in data["clocks"]
        ]
        errors = [
            CoinError(
                e["rule"], e["samples"], tuple(e["factors"]), tuple(map(tuple, e["shared"])), tuple(e["bias"]),
                tuple(e["own"]), e["sampling"],
            )
            for e in data["errors"]
        ]  # fmt: skip
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
        colours = dict(zip(self.rules, drawing.COLOURS[1:], strict=False))
        lines = dict(zip((work.width for work in self.works), (":", "--", "-", "-."), strict=False))
        for rule, colour in colours.items():
            found = [self.error(rule, n) for n in self.batches]
            style = {"color": colour, "marker": "o", "markersize": 4}
            error.plot(self.batches, [e.shared_error for e in found], linestyle="-", **style)
            error.plot(self.batches, [e.own_error for e in found], linestyle="--", **style)
            for width, line in lines.items():
                for axes, values in (
                    (clock, [self.clock(rule, width, n).ratio for n in self.batches]),
                    (coin, [self.advantage(rule, width, n, False) for n in self.batches]),
                    (total, [self.advantage(rule, width, n, True) for n in self.batches]),
                ):
                    axes.plot(self.batches, values, linestyle=line, **style)
        sampling = [math.sqrt(self.error(self.rules[0], n).sampling) for n in self.batches]
        error.plot(self.batches, sampling, color="grey")
        clock.set(xscale="log", xlabel="samples", ylabel="seconds, own over shared coins")
        clock.set_ylim(0, 1.4 * clock.get_ylim()[1])
        for axes, what in (
            (error, "RMS error of the mean of a batch"),
            (coin, "error at equal wall-clock, shared over own coins"),
            (total, "the same, the error of the samples counted"),
        ):
            axes.set(xscale="log", yscale="log", xlabel="samples", ylabel=what)
        for axes in (clock, coin, total):
            axes.axhline(1.0, color="grey", linewidth=0.8)
        prices = [(f"{short(1e6 * work.sample)} us a sample", "black", lines[work.width]) for work in self.works]
        _legend(clock, [*((rule, colour, "-") for rule, colour in colours.items()), *prices], "upper left", 2)
        kinds = [("shared coins", "black", "-"), ("own coins", "black", "--")]
        _legend(error, [*kinds, ("the samples themselves", "grey", "-")], "lower left", 1)
        return drawing.save(canvas, file)


def _legend(axes: Any, entries: Sequence[tuple[str, str, str]], where: str, columns: int) -> None:
    """What colours and lines mean: labels with a colour and a line."""
    handles = [axes.plot([], [], color=colour, linestyle=line)[0] for _, colour, line in entries]
    axes.legend(handles, [label for label, _, _ in entries], frameon=False, loc=where, ncols=columns)


def _from(samples: int | None) -> str:
    return "none" if samples is None else f"{samples:,}"
