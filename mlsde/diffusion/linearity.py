"""Is a scheduler's step affine in the model's output? Only then is a multilevel estimate of the output unbiased in it.

``python -m mlsde.diffusion.linearity --json docs/results/schedulers.json --markdown docs/adapter.md`` asks every
scheduler of diffusers that steps an image, and renews the table of the page.
"""

from __future__ import annotations

import argparse
import copy
import inspect
import logging
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mlsde import checks
from mlsde.chunks import write_atomically

TOLERANCE = 1e-5
"""Largest relative defect of a step that counts as affine: coefficients are in single precision, states in double."""

SWITCHES = ("clip_sample", "thresholding", "clip_denoised")
"""Settings of schedulers that bend the step."""

UNHEEDED = ("CogVideoXDDIMScheduler", "CogVideoXDPMScheduler", "TCDScheduler")
"""Schedulers that have such settings and do not heed them."""

LEFT_OUT = {
    "AmusedScheduler": "tokens, not images",
    "BlockRefinementScheduler": "tokens, not images",
    "DiscreteDDIMScheduler": "tokens, not images",
    "EntropyBoundScheduler": "tokens, not images",
    "VQDiffusionScheduler": "tokens, not images",
    "HeliosDMDScheduler": "stages of a video, stepped by its pipeline alone",
    "HeliosScheduler": "stages of a video, stepped by its pipeline alone",
    "KarrasVeScheduler": "deprecated, stepped in two calls of its own",
    "PiflowScheduler": "the model's output is a policy, not a denoised image",
    "RFD4ProteinaScheduler": "proteins, not images",
    "RePaintScheduler": "goes back in time, by a mask",
    "ScoreSdeVeScheduler": "has no step; its corrector divides by the norm of the output",
    "ScoreSdeVpScheduler": "deprecated, has no step",
}
"""Schedulers that are not asked, and why."""

_TWO_STEPS = ("ConsistencyDecoderScheduler", "SCMScheduler")
_BY_SAMPLE = ("DDPMWuerstchenScheduler",)
_END_AT_LAST = ("DDPMWuerstchenScheduler", "SCMScheduler")
"""Schedulers with a habit: at most two steps, one time for each sample, an end that is listed as a timestep."""


@dataclass(frozen=True)
class Linearity:
    """What was found about a scheduler.

    Attributes:
        defect: the largest over the steps of ``|S(theta a + (1 - theta) b) - theta S(a) - (1 - theta) S(b)|``, relative
            to ``|S(a) - S(b)|``, where ``S(a)`` is the state after the step if the model's outputs were ``a``.
        memory: whether a step depends on earlier outputs otherwise than through the state.
        calls: calls of the model in a run.
        steps: steps that were asked for.
    """

    defect: float
    memory: bool
    calls: int
    steps: int

    @property
    def affine(self) -> bool:
        """Whether the step is affine in the model's output, to rounding."""
        return self.defect <= TOLERANCE


class _Loop:
    """A scheduler at work: a copy of it, stepped with outputs from outside and the noise of fixed seeds."""

    def __init__(self, scheduler: Any, steps: int) -> None:
        self._scheduler = copy.deepcopy(scheduler)
        self._scheduler.set_timesteps(steps)
        self.timesteps: list[Any] = list(self._scheduler.timesteps)
        if type(scheduler).__name__ in _END_AT_LAST:
            self.timesteps.pop()
        self._parameters = tuple(inspect.signature(self._scheduler.step).parameters)
        self._carried: Any = None

    def step(self, n: int, output: Tensor, sample: Tensor) -> Tensor:
        """State after call ``n`` of the model, which gave ``output`` at ``sample``."""
        t = self.timesteps[n]
        values = {
            "generator": torch.Generator().manual_seed(n),
            "old_pred_original_sample": self._carried,
            "timestep_back": self.timesteps[n - 1] if n > 0 else None,
        }
        options = {name: value for name, value in values.items() if name in self._parameters}
        when = t.expand(len(sample)) if type(self._scheduler).__name__ in _BY_SAMPLE else t
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(n)
            if hasattr(self._scheduler, "scale_model_input"):
                self._scheduler.scale_model_input(sample, t)
            stepped = self._scheduler.step(model_output=output, timestep=when, sample=sample, **options)
        if "old_pred_original_sample" in self._parameters:
            self._carried = stepped[1]
        state: Tensor = stepped.prev_sample if hasattr(stepped, "prev_sample") else stepped[0]
        return state


def _states(scheduler: Any, steps: int, start: Tensor, outputs: Tensor) -> Tensor:
    """States after each call of a run whose model returns ``outputs``, shape ``(calls, *start.shape)``."""
    loop, states = _Loop(scheduler, steps), [start]
    for n, output in enumerate(outputs):
        states.append(loop.step(n, output, states[-1]))
    return torch.stack(states[1:]).double()


def _remembers(scheduler: Any, steps: int, start: Tensor, a: Tensor, b: Tensor) -> bool:
    """Whether two runs with different pasts step differently from one state with one output."""

    def after(past: Tensor, n: int) -> Tensor:
        loop, state = _Loop(scheduler, steps), start
        for i in range(n):
            state = loop.step(i, past[i], state)
        return loop.step(n, a[n], start)

    return any(not torch.equal(after(a, n), after(b, n)) for n in range(1, len(a)))


def affine_in_output(
    scheduler: Any,
    *,
    steps: int = 10,
    shape: Sequence[int] = (2, 3, 8, 8),
    theta: float = 2.5,
    seed: int = 0,
) -> Linearity:
    """Try whether the steps of a scheduler are affine in the model's output.

    Three runs of the scheduler from one state, with the same noise, are given the outputs ``a``, ``b`` and
    ``theta a + (1 - theta) b``; the last must follow the same combination of the other two.

    Args:
        scheduler: of diffusers, or anything with ``set_timesteps``, ``timesteps`` and ``step``; it is copied.
        steps: number of steps to set.
        shape: of the state.
        theta: beyond [0, 1], as the weights of a multilevel estimate are.
        seed: of states and outputs, standard normal.

    Returns:
        A :class:`Linearity`: by how much the last run misses the combination, and what the scheduler keeps.

    Raises:
        TypeError, ValueError: naming the argument.
    """
    for name in ("set_timesteps", "step"):
        if not hasattr(scheduler, name):
            raise TypeError(f"scheduler must have {name!r}, as those of diffusers have, got {scheduler!r}.")
    checks.positive_integer("steps", steps)
    if checks.finite_number("theta", theta) in (0.0, 1.0):
        raise ValueError(f"theta must be another number than 0 and 1, where every step looks affine, got {theta}.")
    generator = torch.Generator().manual_seed(checks.torch_seed(seed))
    calls = len(_Loop(scheduler, steps).timesteps)
    a, b = torch.randn((2, calls, *shape), generator=generator, dtype=torch.float64)
    start = torch.randn(*shape, generator=generator, dtype=torch.float64)
    start = start * float(getattr(scheduler, "init_noise_sigma", 1.0))
    at_a, at_b, mixed = (_states(scheduler, steps, start, out) for out in (a, b, theta * a + (1.0 - theta) * b))
    miss, apart = mixed - theta * at_a - (1.0 - theta) * at_b, at_a - at_b
    # the first step of IPNDM does not heed the output, and leaves nothing apart but rounding
    scale = apart.flatten(1).norm(dim=1) + 1e-6 * at_a.flatten(1).norm(dim=1)
    defect = float((miss.flatten(1).norm(dim=1) / scale).max())
    return Linearity(defect, _remembers(scheduler, steps, start, a, b), calls, steps)


def scheduler_names() -> list[str]:
    """Names of all schedulers of the diffusers at hand, in order."""
    import diffusers  # noqa: PLC0415, slow to import

    kinds = {name: getattr(diffusers.schedulers, name) for name in dir(diffusers.schedulers)}
    base = diffusers.SchedulerMixin
    return sorted(n for n, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, base) and kind != base)


def _made(name: str, **settings: bool) -> Any:
    import diffusers  # noqa: PLC0415

    return getattr(diffusers.schedulers, name)(**settings)


def switches(name: str) -> dict[str, bool]:
    """Defaults of the settings of a scheduler that bend its step."""
    import diffusers  # noqa: PLC0415

    parameters = inspect.signature(getattr(diffusers.schedulers, name)).parameters
    return {switch: bool(parameters[switch].default) for switch in SWITCHES if switch in parameters}


def examined(name: str) -> dict[str, Any]:
    """Row of the table for one scheduler: in its defaults, with nothing clipped, and with each clipping on."""
    defaults, steps = switches(name), 2 if name in _TWO_STEPS else 10
    off = dict.fromkeys(defaults, False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "__array", DeprecationWarning)  # numpy in tensors of diffusers
        warnings.filterwarnings("ignore", "Should have t", UserWarning)  # torchsde, of ends rounded to float32
        default = affine_in_output(_made(name), steps=steps)
        unclipped = affine_in_output(_made(name, **off), steps=steps)
        clipped = {
            switch: affine_in_output(_made(name, **{**off, switch: True}), steps=steps).defect for switch in defaults
        }
    return {
        "scheduler": name,
        "switches": defaults,
        **asdict(default),
        "affine": default.affine,
        "unclipped_defect": unclipped.defect,
        "unclipped_affine": unclipped.affine,
        "clipped_defect": clipped,
    }


def examine() -> dict[str, Any]:
    """All schedulers of the diffusers at hand, and those left out, with the reason."""
    import diffusers  # noqa: PLC0415

    names = scheduler_names()
    return {
        "diffusers": diffusers.__version__,
        "tolerance": TOLERANCE,
        "schedulers": [examined(name) for name in names if name not in LEFT_OUT],
        "left_out": {name: LEFT_OUT[name] for name in names if name in LEFT_OUT},
    }


def section(result: dict[str, Any]) -> str:
    """The table of the page, in Markdown."""
    heads = ("scheduler", "affine in its defaults", "affine unclipped", "memory", "calls per step")
    rows = ["", f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for row in result["schedulers"]:
        name = row["scheduler"].removesuffix("Scheduler")
        on = ", ".join(switch for switch, default in row["switches"].items() if default)
        why = f"**no**: `{on}`" if on else "**no**"
        cells = (
            name, "yes" if row["affine"] else why, "yes" if row["unclipped_affine"] else "**no**",
            "yes" if row["memory"] else "", f"{row['calls'] / row['steps']:g}",
        )  # fmt: skip
        rows.append(f"| {' | '.join(cells)} |")
    left = "; ".join(f"{name.removesuffix('Scheduler')}: {why}" for name, why in result["left_out"].items())
    return "\n".join([*rows, "", f"diffusers {result['diffusers']}. Left out: {left}.", "", ""])


def main(arguments: Sequence[str] | None = None) -> int:
    """Examine every scheduler; write the numbers and renew the page."""
    from mlsde.cli.output import environment, renewed, write_json  # noqa: PLC0415, a leaf, for the command alone

    parser = argparse.ArgumentParser(prog="python -m mlsde.diffusion.linearity", description=main.__doc__)
    parser.add_argument("--json", metavar="FILE", help="write the numbers there")
    parser.add_argument("--markdown", metavar="FILE", help="a page with the markers <!-- schedulers: begin --> and end")
    options = parser.parse_args(arguments)
    logging.getLogger("diffusers").setLevel(logging.ERROR)  # it corrects some defaults aloud
    result = {"environment": environment(), **examine()}
    print(section(result))
    write_json(options.json, result)
    if options.markdown is not None:
        page = Path(options.markdown)
        write_atomically(page, renewed(page.read_text(encoding="utf-8"), section(result), "schedulers"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
