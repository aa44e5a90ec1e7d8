"""Where methods meet: one trained ladder, one equation, the same noise for all, and a reference to miss.

A method is a :class:`Way`; :meth:`Arena.measure` runs it and says what it cost and by how much it missed.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlsde import checks
from mlsde.brownian import BrownianPath
from mlsde.diffusion.denoisers import Denoiser, denoiser_ladder
from mlsde.diffusion.ladders import TrainedLadder
from mlsde.diffusion.metrics import rmse
from mlsde.diffusion.processes import VarianceExploding
from mlsde.diffusion.samplers import sample
from mlsde.diffusion.variance_preserving import DiscreteVariancePreserving
from mlsde.estimator import estimator
from mlsde.hierarchy import CountedLevels, DriftHierarchy
from mlsde.multilevel import Multilevel
from mlsde.plan import fixed_plan
from mlsde.probabilities import Optimal, PowerLaw
from mlsde.solution import Solution
from mlsde.variances import LevelVariances, level_variances

UNITS = ("flops", "seconds")
_LOG_SNR = ("dpm++2m", "dpm++3m", "ddim-log")


@dataclass(frozen=True)
class Way:
    """One way to draw the samples.

    Attributes:
        sampler: as of :func:`mlsde.diffusion.sample`; ``"ddim-log"``, DDIM on equal steps of the log-SNR, its levels
            combined as clean images; ``"unipc"`` of diffusers; or ``"edm-heun"``, Heun's method on
            the same ODE in EDM's variables and grid, where each step but the last asks twice (arXiv 2206.00364).
        steps: of the sampler.
        levels: of the ladder, from 1; the last is what a run without coins calls.
        budget: expected cost in evaluations of the top level, for coins; ``None`` calls the top of ``levels`` alone.
        coins, correction: as of :class:`mlsde.Multilevel`.
        rule: ``"optimal"`` (measured variances), or ``"power"`` (the paper's law).
        tilt: power of ten by which the weight of the variances grows from the noisy end to the clean one.
        switch: part of the steps after which the top of ``levels`` takes over from their first (stitching).
    """

    sampler: str
    steps: int
    levels: tuple[int, ...]
    budget: float | None = None
    coins: str = "systematic"
    correction: str = "hold"
    rule: str = "optimal"
    tilt: float = 0.0
    switch: float | None = None

    @property
    def key(self) -> str:
        """A name for files."""
        parts = [self.sampler.replace("+", "p"), f"n{self.steps}", "l" + "".join(map(str, self.levels))]
        if self.budget is not None:
            parts += [f"b{self.budget:g}", self.coins, self.correction, self.rule, f"t{self.tilt:g}"]
        return "_".join(parts if self.switch is None else [*parts, f"s{self.switch:g}"])

    def __str__(self) -> str:
        alone = f"level {self.levels[-1]}"
        if self.switch is not None:
            alone = f"level {self.levels[0]}, then {self.levels[-1]} after {self.switch:.0%} of the steps"
        elif self.budget is not None:
            among = f"levels {', '.join(map(str, self.levels))}"
            law = "" if self.rule == "optimal" else " (the paper's rule)"
            alone = f"{self.coins} {self.correction}, {among}{law}"
        return f"{self.sampler}, {self.steps} steps, {alone}"


@dataclass(frozen=True)
class Measured:
    """What a way came to.

    Attributes:
        evaluations: of each level of the whole ladder, per trajectory.
        cost: in evaluations of the top level.
        seconds: wall-clock of the run, all trajectories together.
        rmse: per component, to the reference.
        typical: geometric mean over the samples of each one's own; a root mean square is ruled by the few that end as
            another picture.
        states: the samples.
    """

    evaluations: tuple[float, ...]
    cost: float
    seconds: float
    rmse: float
    typical: float
    states: Tensor = field(repr=False, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """Numbers only."""
        numbers = {name: value for name, value in self.__dict__.items() if name != "states"}
        return numbers | {"evaluations": list(self.evaluations)}


class Arena:
    """One trained ladder on one equation.

    Args:
        ladder: the nets.
        churn: 0 for the probability-flow ODE, 1 for the reverse SDE.
        samples: trajectories.
        unit: what a cost is counted in: ``"flops"``, or ``"seconds"`` as measured here at this batch.
        seed: of the states, the path and the pilot.
        reference_steps: of the top level by DPM-Solver++ of order 3 on the ODE, 2 with noise; the path is the same.
        pilot_samples: other states, on which the variances are measured.
        variances: those of another arena of the same ladder and equation, to measure none.
    """

    def __init__(
        self,
        ladder: TrainedLadder,
        *,
        churn: float = 0.0,
        samples: int = 32,
        unit: str = "flops",
        seed: int = 0,
        reference_steps: int = 300,
        pilot_samples: int = 8,
        variances: LevelVariances | None = None,
    ) -> None:
        self.ladder, self.churn = ladder, churn
        checks.torch_seed(seed)
        checks.one_of("unit", unit, UNITS)
        self.process = DiscreteVariancePreserving.linear(
            ladder.about.timesteps, beta_start=ladder.about.betas[0], beta_end=ladder.about.betas[1]
        )
        self.device = next(ladder.models[0].parameters()).device
        self.reference_steps = checks.positive_integer("reference_steps", reference_steps)
        self.y0, self.path = self._begin(samples, seed)
        drift = self._drift()
        costs = ladder.about.megaflops if unit == "flops" else self._seconds(drift)
        self.drift = drift.priced([c / _total(costs, ladder.about.residual) for c in costs])
        if variances is None:
            variances = self._measure_variances(*self._begin(pilot_samples, seed + 1))
        self.variances = variances

    @cached_property
    def reference(self) -> Tensor:
        """The fine run that errors are measured against."""
        return self.fine(self.reference_steps)

    def _drift(self) -> DriftHierarchy:
        about = self.ladder.about
        denoisers = [Denoiser(model, about.predicts, self.process) for model in self.ladder.models]
        return denoiser_ladder(denoisers, process=self.process, names=about.names, differences=about.residual)

    def _begin(self, samples: int, seed: int) -> tuple[Tensor, BrownianPath | None]:
        shape = (checks.positive_integer("samples", samples), *self.ladder.shape)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(self.device)
        if self.churn == 0:
            return noise, None
        return noise, BrownianPath(*self.process.t_span, like=noise, seed=seed)

    def seconds(self) -> tuple[float, ...]:
        """Wall-clock of one evaluation of each level for one sample, here, at this batch: medians of several."""
        return self._seconds(self.drift)

    def _seconds(self, drift: DriftHierarchy) -> tuple[float, ...]:
        costs = drift.measured(0.5 * self.process.t_span[0], self.y0, repeats=7).costs
        assert costs is not None
        return costs

    @property
    def costs(self) -> tuple[float, ...]:
        """Price of each level, the full top level being 1."""
        return self.drift.required_costs("an arena")

    def _measure_variances(self, y0: Tensor, path: BrownianPath | None) -> LevelVariances:
        sde = self.process.reverse(self.drift, churn=self.churn)
        times = self.process.log_snr_grid(24, to_clean=False)
        return level_variances(sde, y0, times=times, method="exponential", brownian=path)

    def fine(self, steps: int) -> Tensor:
        """The top level in many steps on the same path."""
        sampler = "dpm++3m" if self.churn == 0 else "dpm++2m"
        return self._sample(self.drift, sampler=sampler, steps=steps).y1

    def _sample(self, drift: DriftHierarchy, **options: Any) -> Solution:
        options = {"churn": self.churn, "brownian": self.path} | options
        return sample(self.process, drift, self.y0, **options)

    def draw(self, way: Way, seed: int = 0) -> tuple[Tensor, tuple[float, ...], float]:
        """Run a way; returns the samples, the evaluations of each level per trajectory, and the wall-clock.

        Args:
            way: the way.
            seed: of the coins.
        """
        outside = {"unipc": self._unipc, "edm-heun": self._edm_heun}.get(way.sampler)
        self._synchronise()
        begin = time.perf_counter()
        states, evaluations = self._run(way, seed) if outside is None else outside(way)
        self._synchronise()
        return states, evaluations, time.perf_counter() - begin

    def measure(self, way: Way, seed: int = 0) -> Measured:
        """Run a way and say what it cost and by how much it missed.

        Args:
            way: the way.
            seed: of the coins.
        """
        states, evaluations, seconds = self.draw(way, seed)
        errors = (states - self.reference).flatten(1).square().mean(1).sqrt()
        cost = float(np.array(evaluations) @ np.array(self.costs))
        return Measured(evaluations, cost, seconds, rmse(states, self.reference), _geometric(errors), states)

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _run(self, way: Way, seed: int) -> tuple[Tensor, tuple[float, ...]]:
        options: dict[str, Any] = {"sampler": way.sampler, "steps": way.steps}
        if way.sampler == "ddim-log":
            options |= {"sampler": "ddim", "grid": "log_snr", "space": "clean"}
        if way.budget is None:
            done = self._sample(self.drift, level=self._level(way), **options)
            return done.y1, done.stats.evaluations
        part = self.drift.select(way.levels)
        done = self._sample(part, multilevel=self.rule(way, seed), seed=seed, **options)
        counts = dict(zip(way.levels, done.stats.evaluations, strict=True))
        return done.y1, tuple(counts.get(k, 0.0) for k in range(1, len(self.drift) + 1))

    def _level(self, way: Way) -> int | Callable[[float], int]:
        """The level that a way without coins calls, by time if two are stitched."""
        low, top = way.levels[0], way.levels[-1]
        if way.switch is None:
            return top
        grid = self.process.log_snr_grid(way.steps) if way.sampler in _LOG_SNR else self.process.uniform_grid(way.steps)
        after = float(grid[min(way.steps, round(way.switch * way.steps))])
        return lambda t: low if t > after else top

    def rule(self, way: Way, seed: int = 0) -> Multilevel:
        """How a way uses the ladder."""
        assert way.budget is not None
        orders = {"impulse": 2.0, "hold": 2.0, "extrapolate": 4.0, "control": 1.0}
        order = 1.0 if way.coins in ("independent", "nested") else orders[way.correction]
        law: PowerLaw | Optimal
        if way.rule == "power":
            law = PowerLaw(2.5, budget=way.budget)
        else:
            law = Optimal(_Tilted(self, way), way.budget, order)
        return Multilevel.named(law, way.coins, way.correction, seed=seed)

    def _edm_heun(self, way: Way) -> tuple[Tensor, tuple[float, ...]]:
        """Heun's method where the noise's deviation is the time; the last step, to the clean image, is Euler's."""
        begin, end = (self.process.sigma(t) / self.process.alpha(t) for t in self.process.inner_span)
        exploding = VarianceExploding(sigma_min=end, sigma_max=begin)
        denoisers = [Denoiser(model, self.ladder.about.predicts, self.process) for model in self.ladder.models]
        drift = denoiser_ladder(denoisers, process=exploding, differences=self.ladder.about.residual)
        y = self.y0 / self.process.alpha(self.process.inner_span[0])
        grid = exploding.karras_grid(way.steps)
        runs = []
        for sampler, part in (("heun", grid[:-1]), ("ddim", grid[-2:])):
            if len(part) > 1:
                runs.append(sample(exploding, drift, y, sampler=sampler, grid=part, level=way.levels[-1]))
                y = runs[-1].y1
        return y, tuple(np.sum([run.stats.evaluations for run in runs], axis=0).tolist())

    def _unipc(self, way: Way) -> tuple[Tensor, tuple[float, ...]]:
        """UniPC as the diffusers library has it, in the top of the levels."""
        from diffusers import UniPCMultistepScheduler  # noqa: PLC0415, slow to import

        about = self.ladder.about
        scheduler: Any = UniPCMultistepScheduler(about.timesteps, *about.betas, "linear", final_sigmas_type="zero")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # its own use of numpy
            scheduler.set_timesteps(way.steps, device=self.device)
        levels = CountedLevels(self.drift.levels, self.y0.dtype)
        times = np.array([*scheduler.timesteps.tolist(), self.process.t_span[1]], dtype=np.float64)
        noise = estimator(levels, fixed_plan(way.levels[-1], times, self.drift))
        y = self.y0
        with torch.no_grad():
            for n, t in enumerate(scheduler.timesteps):
                y = scheduler.step(noise(n, t, y), t, y).prev_sample
        return y, tuple(count / len(y) for count in levels.samples)


@dataclass(frozen=True)
class _Tilted:
    """Measured variances of some levels, their differences those of the sub-ladder, weighed over the log-SNR."""

    arena: Arena
    way: Way

    def __call__(self, t: float) -> np.ndarray:
        found = self.arena.variances(t)
        below, kept = 0, []
        for level in self.way.levels:  # what is left out adds up, taken to be uncorrelated
            kept.append(found[below:level].sum())
            below = level
        process = self.arena.process
        ends = [process.log_snr(end) for end in process.inner_span]
        place = (process.log_snr(t) - ends[0]) / (ends[1] - ends[0])
        return np.array(kept) * 10.0 ** (self.way.tilt * place)


def _geometric(errors: Tensor) -> float:
    return float(errors.double().clamp(min=1e-30).log().mean().exp())


def _total(costs: Sequence[float], residual: bool) -> float:
    """Price of the whole top level."""
    return float(sum(costs)) if residual else float(costs[-1])
