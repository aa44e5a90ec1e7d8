"""Train the levels of a ladder side by side, on the same noisy images.

One batch serves all levels, so the largest net's output is at hand for the smaller ones: what the method pays for is
not each level's own loss but the difference of neighbours, and a level may be drawn towards its larger neighbour
(``distil``), or predict the difference itself (``residual``). Every draw has an address (seed, step), so a run that
was killed goes on as if nothing had happened: to the last bit, on the same machine with as many threads, and on CUDA as
far as its kernels are deterministic.

Sources: J. Ho et al., arXiv 2006.11239 (the loss); T. Hang et al., arXiv 2303.09556 (min-SNR weights).
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from mlsde import checks, randomness
from mlsde.diffusion import checkpoints
from mlsde.diffusion.data import Images, as_floats
from mlsde.diffusion.ladders import known_device
from mlsde.progress import bar
from mlsde.showing import as_call

PREDICTIONS = ("noise", "clean", "v")
WEIGHTINGS = ("min-snr", "uniform")
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}

_HELD_OUT = 512
"""Held-out images of the loss that is shown on the way."""


class Noising(Protocol):
    """What training asks of a process: the parts of signal and noise at a time."""

    def alpha(self, t: float) -> float:
        """What is left of the signal."""
        ...

    def sigma(self, t: float) -> float:
        """Standard deviation of the noise."""
        ...


@dataclass(frozen=True)
class Times:
    """The times that a net is trained at.

    Attributes:
        alpha, sigma: signal and noise at each, shape ``(n,)``.
        told: what the net is told of each, shape ``(n,)``.
    """

    alpha: Tensor
    sigma: Tensor
    told: Tensor

    __repr__ = as_call

    @classmethod
    def of(cls, process: Noising, times: Sequence[float], told: Sequence[float]) -> Times:
        """Tabulate a process.

        Args:
            process: a :class:`mlsde.diffusion.Process`, or whatever has ``alpha(t)`` and ``sigma(t)``.
            times: to learn at, with noise at each.
            told: what the net is told of each.

        Raises:
            ValueError: if they are not as many.
        """
        if len(times) != len(told) or not len(times):
            raise ValueError(f"told must hold one number for each of {len(times)} times, got {len(told)}.")
        alpha, sigma = ([of(t) for t in times] for of in (process.alpha, process.sigma))
        return cls(*(torch.tensor(values, dtype=torch.float32) for values in (alpha, sigma, list(told))))

    def to(self, device: torch.device) -> Times:
        """The same on a device."""
        return Times(self.alpha.to(device), self.sigma.to(device), self.told.to(device))

    def noisy(self, index: Tensor, clean: Tensor, noise: Tensor) -> Tensor:
        """Noisy images, those of a batch at the times of ``index``."""
        alpha, sigma = (part[index].view(-1, 1, 1, 1) for part in (self.alpha, self.sigma))
        return alpha * clean + sigma * noise

    def target(self, predicts: str, index: Tensor, clean: Tensor, noise: Tensor) -> Tensor:
        """What the net should say, shape of ``clean``."""
        alpha, sigma = (part[index].view(-1, 1, 1, 1) for part in (self.alpha, self.sigma))
        return {"noise": noise, "clean": clean}[predicts] if predicts != "v" else alpha * noise - sigma * clean

    def min_snr(self, predicts: str, index: Tensor, clip: float) -> Tensor:
        """Weight of the squared error of what the net says, shape ``(n, 1, 1, 1)``; arXiv 2303.09556, section 3.4.

        The error of the clean image that it amounts to is weighed by ``min(snr, clip)``; that section has
        ``alpha^2 + sigma^2 = 1``.
        """
        alpha, sigma = (part[index].view(-1, 1, 1, 1) for part in (self.alpha, self.sigma))
        snr = (alpha / sigma).square()
        if predicts == "noise":
            return (clip / snr).clamp(max=1.0)  # 1 also where there is no signal, snr = 0
        if predicts == "clean":
            return snr.clamp(max=clip)
        return snr.clamp(max=clip) / ((snr + 1.0) * (alpha.square() + sigma.square()))


@dataclass(frozen=True)
class Settings:
    """How a ladder is trained.

    Args:
        steps: optimiser steps; the learning rate falls to 0 over them along a cosine.
        batch: images per step.
        learning_rates: peak of AdamW's, one for all levels or one for each.
        warmup: steps over which the rate rises.
        average: decay of the exponential moving average of the weights, which is what is kept.
        weighting: of the squared error over the times: ``"uniform"``, or ``"min-snr"``.
        snr_clip: min-SNR's gamma: the error of the clean image is weighed by the signal-to-noise ratio, up to it.
        predicts: ``"noise"``, ``"clean"`` or ``"v"``. A net that predicts noise must copy its input, which a narrow
            one cannot; ``"v"`` asks for no copy at either end.
        distil: part of the loss that asks a level to agree with its larger neighbour, 0 to 1.
        residual: whether a level predicts what is to be added to the level below, ``f^k - f^(k-1)``.
        precision: ``"float32"``, or ``"bfloat16"``, ``"float16"`` for mixed precision on CUDA.
        evaluate_every: steps between two looks at the held-out loss.
        seed: of batches, times and noise.

    Raises:
        ValueError: naming the argument.
    """

    steps: int = 6000
    batch: int = 64
    learning_rates: float | tuple[float, ...] = 1e-3
    warmup: int = 250
    average: float = 0.999
    weighting: str = "uniform"
    snr_clip: float = 5.0
    predicts: str = "v"
    distil: float = 0.0
    residual: bool = False
    precision: str = "float32"
    evaluate_every: int = 250
    seed: int = 0

    __repr__ = as_call

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "evaluate_every"):
            checks.positive_integer(name, getattr(self, name))
        rates = self.learning_rates if isinstance(self.learning_rates, Sequence) else (self.learning_rates,)
        for rate in (rates,) if isinstance(rates, str) else rates:
            checks.positive_number("learning_rates", rate)
        checks.positive_number("snr_clip", self.snr_clip)
        checks.non_negative_number("warmup", self.warmup)
        for name in ("average", "distil"):
            if not 0 <= checks.finite_number(name, getattr(self, name)) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}.")
        if self.distil and self.residual:
            raise ValueError("distil and residual were both asked for; a correction has no neighbour to agree with.")
        checks.one_of("predicts", self.predicts, PREDICTIONS)
        checks.one_of("weighting", self.weighting, WEIGHTINGS)
        checks.one_of("precision", self.precision, tuple(PRECISIONS))
        checks.one_seed(self.seed)

    def rate(self, step: int, level: int) -> float:
        """Learning rate of a level (from 0) at a step."""
        rates = self.learning_rates
        peak = rates[level] if isinstance(rates, Sequence) else rates
        rise = min(1.0, (step + 1) / (self.warmup + 1))
        return peak * rise * 0.5 * (1.0 + math.cos(math.pi * step / self.steps))


class Training:
    """The training of a ladder; :meth:`run` begins it or goes on with it.

    Attributes:
        averages: the nets to keep: averages of the weights over the steps, cheapest first.
        step: optimiser steps that were made.
        history: losses at every look, ``{"step": ..., "train": [...], "held_out": [...]}``, the first of the trained
            levels, the second of all.

    Args:
        models: denoisers, cheapest first, called as ``model(noisy, told).sample``; trained where they are. What they
            draw themselves (dropout) is not kept: a run with it does not go on exactly.
        images: what to learn.
        times: the times to learn at.
        settings: how.
        frozen: levels (from 1) that are as they should be: they teach, and are not trained. In a residual ladder they
            are corrections like the others.
        folder: where the checkpoint is kept, about once a minute; ``None`` keeps none.
        device: where to train.

    Raises:
        ValueError: naming the argument; also if the folder holds another training.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        images: Images,
        times: Times,
        settings: Settings,
        *,
        frozen: Sequence[int] = (),
        folder: str | Path | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.settings, self.images, self.device = settings, images, known_device(device)
        self._check(len(models), frozen)
        self.times = times.to(self.device)
        self.models = [model.to(self.device) for model in models]
        self.averages = [copy.deepcopy(model).eval().requires_grad_(False) for model in self.models]
        self.trained = [k for k in range(len(models)) if k + 1 not in frozen]
        for k, model in enumerate(self.models):
            model.train(k in self.trained).requires_grad_(k in self.trained)
        groups = [{"params": list(self.models[k].parameters()), "lr": settings.rate(0, k)} for k in self.trained]
        self.optimiser = torch.optim.AdamW(groups, weight_decay=0.01)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=settings.precision == "float16")
        self.step, self.history = 0, list[dict[str, Any]]()
        self.folder = None if folder is None else _folder(folder)
        about = {"settings": asdict(settings), "levels": len(models), "trained": self.trained, "images": repr(images)}
        self.about = checkpoints.as_json(about)
        if self.folder is not None:
            self.given = checkpoints.given(self)
            checkpoints.restore(self, self.folder, self.about)

    def _check(self, levels: int, frozen: Sequence[int]) -> None:
        rates, batch = self.settings.learning_rates, self.settings.batch
        if isinstance(rates, Sequence) and len(rates) != levels:
            raise ValueError(f"learning_rates must be one or {levels}, one for each level, got {len(rates)}.")
        if len(self.images.train) < batch:
            raise ValueError(f"batch={batch} is more than the {len(self.images.train)} images to train on.")
        if set(frozen) - set(range(1, levels + 1)) or len(set(frozen)) == levels:
            raise ValueError(f"frozen must name some, not all, of the levels 1 … {levels}, got {list(frozen)}.")
        if self.settings.precision != "float32" and self.device.type != "cuda":
            precision = self.settings.precision
            raise ValueError(f"precision={precision!r} pays on CUDA only, and device is {str(self.device)!r}.")

    def run(
        self, *, progress: bool = False, most_seconds: float = math.inf, report: Callable[[str], None] | None = None
    ) -> bool:
        """Train to the last step, or until the time is up; returns whether it is done.

        Args:
            progress: show a bar.
            most_seconds: stop then, with a checkpoint; one step at least is made.
            report: called with a line at every look at the held-out loss.

        Raises:
            FloatingPointError: if a level's held-out error is NaN or infinite, naming the level.
            OSError: if a checkpoint cannot be written; the one before is then still there.
        """
        if not checks.number("most_seconds", most_seconds) > 0:
            raise ValueError(f"most_seconds must be above zero, got {most_seconds}.")
        begin = saved = time.monotonic()
        with bar(total=self.settings.steps, initial=self.step, unit="steps") if progress else nullcontext() as shown:
            while self.step < self.settings.steps:
                losses = self._one_step()
                self.step += 1
                if self.step % self.settings.evaluate_every == 0 or self.step == self.settings.steps:
                    self._look(losses, report)
                now = time.monotonic()
                if now - saved > 60 or now - begin > most_seconds:
                    self.save()
                    saved = time.monotonic()
                if shown is not None:
                    shown.update(1)
                if now - begin > most_seconds:
                    return self.step == self.settings.steps
        self.save()
        return True

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        if self.folder is not None:
            checkpoints.write(self, self.folder, self.about)

    def _batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Clean images, indices of times (evenly spread) and noise of a step."""
        settings, count = self.settings, len(self.images.train)
        batches = count // settings.batch
        epoch, place = divmod(step, batches)
        order = randomness.host_generator(settings.seed, randomness.TRAINING, 0, epoch).permutation(count)
        chosen = order[place * settings.batch : (place + 1) * settings.batch]
        rng = randomness.host_generator(settings.seed, randomness.TRAINING, 1, step)
        clean = as_floats(self.images.train[torch.as_tensor(chosen)])
        places = (rng.permutation(settings.batch) + rng.random(settings.batch)) / settings.batch
        index = torch.as_tensor((places * len(self.times.alpha)).astype(np.int64))
        noise = torch.as_tensor(rng.standard_normal(tuple(clean.shape), dtype=np.float32))
        return clean.to(self.device), index.to(self.device), noise.to(self.device)

    def _one_step(self) -> list[Tensor]:
        settings = self.settings
        clean, index, noise = self._batch(self.step)
        noisy, told = self.times.noisy(index, clean, noise), self.times.told[index]
        target = self.times.target(settings.predicts, index, clean, noise)
        weight = torch.ones_like(target)
        if settings.weighting == "min-snr":
            weight = self.times.min_snr(settings.predicts, index, settings.snr_clip).expand_as(target)
        kind = PRECISIONS[settings.precision]
        with torch.autocast(self.device.type, dtype=kind) if kind is not None else nullcontext():
            values = self._values(self.models, noisy, told)
        losses = []
        for k in self.trained:
            loss = (weight * (values[k].float() - target).square()).mean()
            if settings.distil and k + 1 < len(values):
                apart = (weight * (values[k].float() - values[k + 1].detach().float()).square()).mean()
                loss = (1.0 - settings.distil) * loss + settings.distil * apart
            losses.append(loss)
        self._descend(torch.stack(losses).sum())
        return [loss.detach() for loss in losses]

    def _values(self, models: Sequence[nn.Module], noisy: Tensor, told: Tensor) -> list[Tensor]:
        """Each level's prediction; no gradient flows from one level into another."""
        values: list[Tensor] = []
        for k, model in enumerate(models):
            with nullcontext() if k in self.trained and torch.is_grad_enabled() else torch.no_grad():
                value = model(noisy, told).sample
            if value.shape != noisy.shape:
                came, expected = tuple(value.shape), tuple(noisy.shape)
                raise ValueError(f"level {k + 1} answered with shape {came}, expected that of its input, {expected}.")
            summed = self.settings.residual and values
            values.append(values[-1].detach().float() + value.float() if summed else value)
        return values

    def _descend(self, loss: Tensor) -> None:
        for group, k in zip(self.optimiser.param_groups, self.trained, strict=True):
            group["lr"] = self.settings.rate(self.step, k)
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call, unused-ignore]
        self.scaler.unscale_(self.optimiser)
        for k in self.trained:
            nn.utils.clip_grad_norm_(self.models[k].parameters(), 1.0)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        decay = min(self.settings.average, (1.0 + self.step) / (10.0 + self.step))
        with torch.no_grad():
            for k in self.trained:
                kept, new = (tuple(m.parameters()) for m in (self.averages[k], self.models[k]))
                torch._foreach_lerp_(kept, new, 1.0 - decay)
                for state, now in zip(self.averages[k].buffers(), self.models[k].buffers(), strict=True):
                    state.copy_(now)

    def _look(self, losses: Sequence[Tensor], report: Callable[[str], None] | None) -> None:
        errors = self.held_out_error(_HELD_OUT)
        diverged = [k for k, error in enumerate(errors, start=1) if not math.isfinite(error)]
        if diverged:
            raise FloatingPointError(
                f"level {', '.join(map(str, diverged))} diverged: the held-out errors are {errors} at step "
                f"{self.step}; begin in another folder with lower learning_rates or a longer warmup."
            )
        self.history.append({"step": self.step, "train": [float(loss) for loss in losses], "held_out": errors})
        if report is not None:
            shown = ", ".join(f"{error:.5f}" for error in errors)
            report(f"step {self.step}: held-out mean square errors {shown}")

    @torch.no_grad()
    def held_out_error(self, count: int, *, seed: int = 0) -> list[float]:
        """Mean square error of the averaged nets' predictions on held-out images, times evenly spread, each level.

        Args:
            count: images to look at; each is used at one time.
            seed: of times and noise, the same for all levels.
        """
        checks.positive_integer("count", count)
        clean = as_floats(self.images.held_out[:count])
        rng = randomness.host_generator(seed, randomness.TRAINING, 2)
        places = (rng.permutation(len(clean)) + 0.5) / len(clean)
        index = torch.as_tensor((places * len(self.times.alpha)).astype(np.int64))
        noise = torch.as_tensor(rng.standard_normal(tuple(clean.shape), dtype=np.float32))
        squares = torch.zeros(len(self.models), dtype=torch.float64)
        for parts in zip(*(torch.split(one, 128) for one in (clean, index, noise)), strict=True):
            x, i, eps = (part.to(self.device) for part in parts)
            target = self.times.target(self.settings.predicts, i, x, eps)
            for k, value in enumerate(self._values(self.averages, self.times.noisy(i, x, eps), self.times.told[i])):
                squares[k] += float((value - target).square().sum()) / clean.numel()
        return squares.tolist()


def _folder(folder: str | Path) -> Path:
    """The folder, made now: a training that cannot be kept should fail at once."""
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"folder={str(path)!r} cannot be made ({error.strerror}); choose another.") from error
    return path
