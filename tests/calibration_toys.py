"""Ladders that tests of shared pilots and their child processes calibrate; run as a program, by several of them."""

import hashlib
import os
import sys
import warnings
from dataclasses import fields

import numpy as np
import torch
from torch import distributed

import mlsde

STEPS = {"steps": 64, "pilot_steps": 16, "pilot_samples": 4}
RUNS = 4 + 2 + 2 * 2  # of three levels: the top on four grids, two with coins, the cheaper ones on two grids each


class Counted:
    """A level that counts its calls, and draws numbers itself if it is told to."""

    def __init__(self, level, noise=0.0):
        self.level, self.noise, self.calls = level, noise, 0

    def __call__(self, t, y):
        self.calls += 1
        return self.level(t, y) + (self.noise * torch.rand_like(y) if self.noise else 0.0)


def equation(noise=0.0, costs=(1.0, 10.0, 100.0), top=lambda t, y: -torch.sin(y)):
    levels = [lambda t, y: -y, lambda t, y: -y + y**3 / 7, top]
    counted = [Counted(level, noise) for level in levels]
    return mlsde.SDE(mlsde.DriftHierarchy(counted, costs and list(costs)), diffusion=0.3), counted


def start(samples=64):
    return torch.as_tensor(np.random.default_rng(0).standard_normal((samples, 2)))


def calibrated(noise=0.0, costs=(1.0, 10.0, 100.0), **options):
    """A calibration, and how often its levels were called."""
    sde, levels = equation(noise, costs)
    given = {"seed": 3, "identity": "toys", **STEPS, **options}
    return mlsde.calibrate(sde, start(), (0.0, 1.0), **given), [level.calls for level in levels]


def check_sum(cal, leave=("seconds",)):
    """Of all that a pilot measured; seconds are never the same again."""
    total = hashlib.sha256()
    for field in fields(cal.recording):
        value = getattr(cal.recording, field.name)
        if field.name not in leave:
            total.update(value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode())
    return total.hexdigest()


def failing(t, y):
    return torch.full_like(y, torch.nan)


def told(call):
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__} {error}"
    return "nothing"


def auto(**options):
    """An ensemble whose pilot is shared."""
    sde, _ = equation(0.1)
    asked = {"steps": 40, "multilevel": "auto", "chunk": 50, "seed": 4, "identity": "toys", **options}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "coins on the pilot's own samples")  # such levels are hard to foresee
        return mlsde.ensemble(sde, lambda count: torch.randn(count, 2), 200, (0.0, 1.0), **asked)


def main():
    torch.set_num_threads(1)
    say = lambda *words: sys.stdout.write(" ".join(map(str, words)) + ";\n")  # noqa: E731, at once
    alone, calls = calibrated(folder=None)
    say("alone", check_sum(alone), *calls)  # there is no group yet
    distributed.init_process_group("gloo")
    shared, calls = calibrated(noise=0.1)
    say("shared", check_sum(shared), *calls)
    kept, _ = calibrated(noise=0.1, folder=sys.argv[1])
    say("kept", check_sum(kept))
    timed, _ = calibrated(costs=None)
    say("timed", check_sum(timed, leave=()), timed.recording.unit)
    say("auto", hashlib.sha256(auto().ys.numpy().tobytes()).hexdigest())
    broken, _ = equation(top=failing)
    say("broken", told(lambda: mlsde.calibrate(broken, start(), (0.0, 1.0), **STEPS)))
    say("other", told(lambda: calibrated(seed=int(os.environ["RANK"]))))
    distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
