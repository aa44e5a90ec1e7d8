"""``mlsde sample``: draw images from a trained ladder in several ways, on the same noise, side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import mlsde
from mlsde import checks, drawing, randomness
from mlsde.chunks.describe import describe
from mlsde.chunks.engine import numbers_of, open_store, share
from mlsde.chunks.ranks import ranks
from mlsde.chunks.store import Piece
from mlsde.diffusion.arena import Arena, Way
from mlsde.diffusion.data import as_bytes
from mlsde.diffusion.ladders import TrainedLadder
from mlsde.variances import LevelVariances

EQUATIONS = {"ode": 0.0, "sde": 1.0}


@dataclass(frozen=True)
class Row:
    """One way and the images it drew.

    Attributes:
        name: of the way, in words.
        steps: of its sampler.
        evaluations: of each level of the whole ladder, per image.
        cost: in evaluations of the top level.
        seconds: wall-clock of all its chunks together, on however many processes; NaN of the fine run.
        rmse: per component, to the fine run.
        typical: geometric mean over the images of each one's own.
        images: bytes, shape ``(samples, channels, size, size)``.
    """

    name: str
    steps: int
    evaluations: tuple[float, ...]
    cost: float
    seconds: float
    rmse: float
    typical: float
    images: Tensor = field(repr=False, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """Numbers only."""
        numbers = {name: value for name, value in self.__dict__.items() if name != "images"}
        return numbers | {"evaluations": list(self.evaluations)}


def draw(
    ladder: TrainedLadder,
    *,
    equation: str = "ode",
    samples: int = 8,
    budgets: Sequence[float] = (10.0, 20.0),
    full_steps: int = 100,
    seed: int = 0,
    chunk: int = 32,
    folder: str | Path | None = None,
    progress: bool = False,
    report: Callable[[str], None] = lambda _line: None,
) -> list[Row]:
    """Draw the same samples in several ways, in chunks.

    Each chunk has noise and coins of its own, found by ``(seed, number of the chunk)``: the images are the same bit for
    bit for any number of processes and after any interruption, on one type of device with as many threads. Under
    ``torchrun`` the processes share the chunks, and all return the same.

    Args:
        ladder: the nets.
        equation: ``"ode"`` or ``"sde"``.
        samples: images of each way.
        budgets: costs of what has coins and of its rivals, in evaluations of the top level.
        full_steps: of the full run, whose fine companion has three times as many.
        seed: of everything.
        chunk: images that are drawn together; they depend on it.
        folder: of finished chunks, one file each, so that a killed call goes on; ``None`` keeps them in memory.
        progress: show a bar.
        report: called with a line as each way of a chunk is done.

    Returns:
        The fine run, the full run, and at each budget the coins and their rivals.

    Raises:
        ValueError: naming the argument; also if the folder holds other images.
        OSError: if a chunk could not be kept; those before are.
        Exception: what the first chunk that failed raised, after all others are drawn.
    """
    checks.one_of("equation", equation, tuple(EQUATIONS))
    checks.positive_integer("full_steps", full_steps)
    for budget in budgets:
        if checks.positive_number("budgets", budget) < 2:
            raise ValueError(f"budgets must be at least 2 evaluations of the top level, got {budget:g}.")
    checks.positive_integer("samples", samples)
    checks.positive_integer("chunk", chunk)
    job = _Job(ladder, equation, samples, chunk, checks.torch_seed(seed), full_steps, tuple(budgets), report)
    work = ranks(job.device)
    manifest = {} if folder is None else job.manifest()
    store = open_store(work, None if folder is None else Path(folder), manifest, Piece)
    outcome = share(range(job.count), job.compute, store, work, progress=progress)
    if outcome.failure is not None:
        where = "" if folder is None else f"; the others are in {str(folder)!r}, where the same call goes on"
        outcome.failure.add_note(f"raised by {numbers_of(list(outcome.errors))} of {job.count} chunks of images{where}")
        raise outcome.failure
    return job.rows(list(store.pieces(outcome.notes)))


_RIVALS = (("DPM-Solver++(2M)", "dpm++2m"), ("DDIM", "ddim"))
_PILOT = 4


def _ways(ladder: TrainedLadder, equation: str, budgets: Sequence[float], full_steps: int) -> list[tuple[str, Way]]:
    whole = tuple(range(1, len(ladder) + 1))
    ways = [("full run, DPM-Solver++(2M)", Way("dpm++2m", full_steps, whole))]
    for budget in budgets:
        ways.append((f"multilevel at {budget:g}", coins(ladder, equation, budget)))
        n = math.floor(budget)
        ways += [(f"top level, {name}", Way(sampler, n, whole)) for name, sampler in _RIVALS]
        ways.append(("stitched, DPM-Solver++(2M)", Way("dpm++2m", 2 * n, (len(ladder) - 1, len(ladder)), switch=0.5)))
    return ways


@dataclass(frozen=True)
class _Job:
    """One chunk of images after another; arguments as of :func:`draw`."""

    ladder: TrainedLadder
    equation: str
    samples: int
    chunk: int
    seed: int
    full_steps: int
    budgets: tuple[float, ...]
    report: Callable[[str], None]

    @property
    def count(self) -> int:
        return -(-self.samples // self.chunk)

    @property
    def device(self) -> torch.device:
        return next(self.ladder.models[0].parameters()).device

    @cached_property
    def ways(self) -> list[tuple[str, Way]]:
        return _ways(self.ladder, self.equation, self.budgets, self.full_steps)

    def manifest(self) -> dict[str, Any]:
        """What is drawn."""
        about = self.ladder.about
        return {
            "mlsde": mlsde.__version__, "nets": [describe(model) for model in self.ladder.models],
            "device": self.device.type, "predicts": about.predicts, "timesteps": about.timesteps,
            "betas": list(about.betas), "megaflops": list(about.megaflops), "residual": about.residual,
            "equation": self.equation, "samples": self.samples, "chunk": self.chunk, "seed": self.seed,
            "full_steps": self.full_steps, "ways": [way.key for _, way in self.ways],
        }  # fmt: skip

    def seed_of(self, number: int) -> int:
        """Seed of a chunk's noise and coins; a single chunk has that of all. Torch looks at 32 bits of it."""
        key = (self.seed, randomness.ENSEMBLE, number)
        return self.seed if number == 0 else int(np.random.SeedSequence(key).generate_state(1)[0])

    @cached_property
    def first(self) -> Arena:
        """Where the first chunk is drawn, and the variances of all are measured."""
        return self._arena(0, None)

    def _arena(self, number: int, variances: LevelVariances | None) -> Arena:
        return Arena(
            self.ladder, churn=EQUATIONS[self.equation], samples=min(self.chunk, self.samples - number * self.chunk),
            seed=self.seed_of(number), reference_steps=3 * self.full_steps, pilot_samples=min(_PILOT, self.samples),
            variances=variances,
        )  # fmt: skip

    def compute(self, number: int) -> Piece:
        """Draw a chunk in every way: images, and the mean square by which each misses that of the fine run."""
        arena = self.first if number == 0 else self._arena(number, self.first.variances)
        place = f"chunk {number + 1} of {self.count}, " if self.count > 1 else ""
        held, notes = {"fine": as_bytes(arena.reference.cpu())}, []
        for i, (name, way) in enumerate(self.ways):
            done = arena.measure(way, self.seed_of(number))
            squares = (done.states - arena.reference).flatten(1).square().mean(1)
            held |= {f"images {i}": as_bytes(done.states.cpu()), f"squares {i}": squares.double().cpu()}
            notes.append({
                "name": name, "evaluations": list(done.evaluations), "cost": done.cost, "seconds": done.seconds
            })  # fmt: skip
            self.report(f"{place}{name}: cost {done.cost:.1f}, error {done.rmse:.4f}")
        return Piece(held, {"samples": len(arena.y0), "ways": notes})

    def rows(self, pieces: Sequence[Piece]) -> list[Row]:
        """All chunks together."""
        steps, levels = 3 * self.full_steps, len(self.ladder)
        fine = torch.cat([piece.tensors["fine"] for piece in pieces])
        counts = (*[0.0] * (levels - 1), float(steps))
        found = [Row("fine run of the top level", steps, counts, float(steps), math.nan, 0.0, 0.0, fine)]
        weights = np.array([piece.note["samples"] for piece in pieces]) / self.samples
        for i, (name, way) in enumerate(self.ways):
            told = [piece.note["ways"][i] for piece in pieces]
            squares = torch.cat([piece.tensors[f"squares {i}"] for piece in pieces])
            found.append(
                Row(
                    name, way.steps, tuple((weights @ np.array([one["evaluations"] for one in told])).tolist()),
                    float(weights @ np.array([one["cost"] for one in told])), sum(one["seconds"] for one in told),
                    float(squares.mean().sqrt()), float(squares.clamp(min=1e-60).log().mean().mul(0.5).exp()),
                    torch.cat([piece.tensors[f"images {i}"] for piece in pieces]),
                )
            )  # fmt: skip
        return found


def coins(ladder: TrainedLadder, equation: str, budget: float) -> Way:
    """Settings of the coins: those that the ladder's benchmark chose at the nearest budget, or usual ones."""
    kept = (ladder.about.tuned or {}).get(equation, [])
    if not kept:
        return Way("dpm++2m", round(1.5 * budget), tuple(range(1, len(ladder) + 1)), budget, correction="hold")
    near = min(kept, key=lambda one: abs(math.log(float(one["budget"]) / budget)))
    steps = max(2, round(near["steps"] * budget / near["budget"]))
    return Way(**(near | {"levels": tuple(near["levels"]), "budget": budget, "steps": steps}))


def table(rows: Sequence[Row]) -> str:
    """Cost, evaluations, wall-clock and errors of each way, as text."""
    lines = [f"{'':32}{'steps':>6}{'cost':>8}{'seconds':>9}{'RMSE':>9}{'typical':>9}  evaluations"]
    for row in rows:
        counts = " ".join(f"{count:.0f}" for count in row.evaluations)
        numbers = f"{row.steps:6d}{row.cost:8.1f}{row.seconds:9.2f}{row.rmse:9.4f}{row.typical:9.4f}"
        lines.append(f"{row.name:32}{numbers}  {counts}")
    return "\n".join(lines)


def picture(rows: Sequence[Row], file: str | Path, *, title: str = "") -> str:
    """Write the images, a line for each way with its numbers beside it; returns the file's name."""
    count, size = min(12, len(rows[0].images)), rows[0].images.shape[-1]
    figure = drawing.canvas(0.62 * count + 3.4, 0.72 * len(rows) + 0.4)
    for axes, row in zip(figure.subplots(len(rows), 1, squeeze=False)[:, 0], rows, strict=True):
        strip = torch.cat([torch.nn.functional.pad(image, (1, 1, 1, 1), value=255) for image in row.images[:count]], 2)
        shown = strip.permute(1, 2, 0).numpy()
        grey = shown.shape[2] == 1
        axes.imshow(shown[:, :, 0] if grey else shown, cmap="gray" if grey else None, vmin=0, vmax=255)
        axes.set_xticks([])
        axes.set_yticks([])
        wall = "" if math.isnan(row.seconds) else f", {row.seconds:.2g} s"
        axes.text(
            1.01, 0.5, f"{row.name}\ncost {row.cost:.3g}{wall}\nRMSE {row.rmse:.3g}", transform=axes.transAxes,
            va="center", fontsize=7,
        )  # fmt: skip
    figure.suptitle(title or f"{size} x {size} pixels; cost in evaluations of the top level", fontsize=9)
    return drawing.save(figure, file)
