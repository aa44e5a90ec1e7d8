"""A sound equation to make unsound, and the check that this is refused in one sentence."""

import re
from pathlib import Path

import pytest
import torch

import mlsde
from mlsde import SDE, Constant, DriftHierarchy, Multilevel, solve

PACKAGE = Path(mlsde.__file__).parent
Y0 = torch.ones(4, 3)


def decay(t, y):
    return -y


def ladder(**options):
    return DriftHierarchy([decay, decay, decay], costs=[1.0, 8.0, 64.0], **options)


def run(sde=None, y0=Y0, t_span=(0.0, 1.0), **options):
    """Solve a sound equation in which one thing was made unsound."""
    if "times" not in options:
        options.setdefault("steps", 10)
    return solve(SDE(ladder(), 0.5) if sde is None else sde, y0, t_span, **options)


def run_level(level, **options):
    return run(SDE(level), **options)


def run_noise(diffusion, noise=None, **options):
    return run(SDE(decay, diffusion, noise=noise), **options)


def multilevel(values=(1.0, 0.5, 0.2), **options):
    return Multilevel(Constant(values), **options)


def run_probabilities(rule):
    return run(multilevel=Multilevel(rule))


def refused(call, error, *words):
    """``call`` raises ``error`` from a check of this package, in one sentence that holds all of ``words``."""
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert type(caught.value) is error
    assert caught.traceback[-1].path.is_relative_to(PACKAGE), "raised in the depths, not by a check"
    assert "raise " in str(caught.traceback[-1].statement)
    assert message.endswith((".", ").")), message
    assert "\n" not in message
    assert len(re.findall(r"[a-z)][.] [A-Z]", message)) == 0, "more than one sentence"
    missing = [word for word in words if word not in message]
    assert not missing, f"{missing} not in {message!r}"


def told_in_a_sentence(call, error, words):
    """``call`` raises ``error``, wherever, in one sentence that holds all of ``words``."""
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert not [word for word in words if word not in message], message
    assert message.endswith(".")
    assert not re.search(r"[a-z)][.] [A-Z]", message), "more than one sentence"


def table(cases):
    return pytest.mark.parametrize(("call", "error", "words"), cases.values(), ids=cases.keys())
