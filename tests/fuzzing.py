"""What the fuzzed calls share: odd values, calls in which some arguments are odd, and what counts as a clear error."""

import copy
import math
import os
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

import mlsde
from mlsde import NonFiniteError

EXAMPLES = int(os.environ.get("MLSDE_FUZZ_EXAMPLES", "200"))
HERE, PACKAGE = Path(__file__).parent, Path(mlsde.__file__).parent

numbers = [None, 0, -1, 1, 2, 2.5, math.nan, math.inf, -math.inf, 1e308, 1e-308, 10**400, True, 1j]
numbers += [np.float64(0.5), np.float32(math.nan), np.int64(3), np.bool_(True), Fraction(1, 2)]
others = ["1", "auto", "", b"1", [], [1], (0, 1), [1.0, 0.5], [[]], [[1.0]], [0.5, None], {}, {1: 2}, set(), object()]
others += [range(3), slice(None), Path("nowhere"), [math.nan, 1.0], (10**400,), ["a", "b"], torch.float64]
arrays = [torch.tensor(1.0), torch.ones(2), torch.ones(2, 2), torch.tensor([math.nan]), np.ones(2), np.array("a")]
arrays += [torch.zeros(0), torch.zeros(0, 2), torch.zeros(3, 0), np.zeros(0), np.ones((2, 2)), np.array([math.inf])]
arrays += [torch.ones(2, 2, dtype=dtype) for dtype in (torch.bfloat16, torch.float16, torch.float64, torch.complex64)]
arrays += [torch.ones(2, 2, dtype=torch.int64), torch.ones(2, dtype=torch.bool), torch.ones(2, 2, device="meta")]
arrays += [torch.ones(2, 2).to_sparse(), np.array([None, 1]), np.array([1j]), torch.full((2, 2), 1e38)]
functions = [lambda: 1, lambda t: t, lambda t, y: y, lambda *anything: None, lambda *anything: torch.ones(2, 2)]
functions += [lambda *anything: torch.ones(2, 2).to_sparse(), lambda *anything: torch.ones(2, 2, device="meta")]
functions += [lambda *anything: math.nan, lambda *anything: torch.full((2, 2), math.inf), lambda *anything: "a"]
# a copy each: a level may write into what it is shown
odd = st.sampled_from([*numbers, *others, *functions]) | st.sampled_from(arrays).map(copy.deepcopy)


def fuzz(part=1.0):
    """Settings for a call so dear that only a part of the usual number of examples is tried."""
    most = max(1, round(EXAMPLES * part))
    return settings(
        max_examples=most, deadline=None, derandomize=EXAMPLES < 1000, suppress_health_check=list(HealthCheck)
    )


def with_odds(data, sound, most=2, values=odd, never=()):
    """Sound arguments, of which one or two are replaced by anything at all; drawn are the names, then the values."""
    names = sorted(set(sound) - set(never))
    replaced = data.draw(st.sets(st.sampled_from(names), max_size=most), label="odd")
    return {name: data.draw(values, label=name) if name in replaced else value for name, value in sound.items()}


anything = st.floats(allow_nan=False) | st.integers(-(10**30), 10**30) | st.sampled_from([5e-324, 1.7e308, 1e-300])
counts = st.integers(-2, 6) | st.just(10**400)


def numbered(value, whole=anything):
    """Other numbers in the place of numbers, of the same shape; counts of what fills memory are small or absurd."""
    if isinstance(value, (list, tuple)):
        return st.tuples(*(numbered(part, whole) for part in value)).map(list)
    if isinstance(value, torch.Tensor):
        return st.floats(width=32, allow_nan=False).map(lambda number: torch.full_like(value, number))
    if isinstance(value, (bool, str)) or not isinstance(value, (int, float)):
        return st.just(value)
    return whole if isinstance(value, int) else anything


class OwnError(Exception):
    """What the levels of these tests raise: it must come through."""


def raises(*anything):
    raise OwnError


LEVELS = {
    "sound": lambda t, y: -y,
    "smooth": lambda t, y: torch.sin(y) * t,
    "raises": raises,
    "None": lambda t, y: None,
    "number": lambda t, y: 1.0,
    "shape": lambda t, y: y[..., :1],
    "flat": lambda t, y: y.flatten(),
    "samples": lambda t, y: y[:1],
    "dtype": lambda t, y: y.to(torch.complex64),
    "half": lambda t, y: y.half(),
    "meta": lambda t, y: y.to("meta"),
    "NaN": lambda t, y: y * math.nan,
    "late NaN": lambda t, y: y * (math.nan if t > 0.6 else 1.0),
    "infinite": lambda t, y: y / 0.0,
    "huge": lambda t, y: y * 1e30,
    "stiff": lambda t, y: -1e3 * y**3,
    "in place": lambda t, y: y.mul_(0.5),
    "itself": lambda t, y: y,
    "zero": lambda t, y: torch.zeros_like(y),
    "sparse": lambda t, y: y.to_sparse(),
    "arity": lambda: 1,
    "numpy": mlsde.from_numpy(lambda t, y: np.tanh(y)),
    "numpy float64": mlsde.from_numpy(lambda t, y: np.float64(1.0) + y.astype(np.float64)),
}
"""Levels that are sound, and levels that are not."""

LADDERS = [*LEVELS, *["sound", "smooth", "numpy", "stiff", "zero", "itself"] * 3]
STATES = st.builds(
    lambda shape, dtype, scale: torch.full(shape, scale).to(dtype),
    st.sampled_from([(1,), (4,), (3, 2), (1, 1), (2, 2, 2), (0, 2), (2, 0), ()]),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64, torch.int64]),
    st.sampled_from([1.0, 0.0, -3.0, 1e30, math.nan, 1e-30]),
)


def odd_ladder(data, kinds):
    """A ladder of these levels, or of these differences, whose prices need not grow."""
    differences = data.draw(st.booleans(), label="differences")
    ratio = data.draw(st.sampled_from([4.0, 50.0, 1.0, 0.25]), label="ratio")
    make = mlsde.DriftHierarchy.from_differences if differences else mlsde.DriftHierarchy
    return make([LEVELS[kind] for kind in kinds], [ratio**k for k in range(len(kinds))])


def attempt(call, *names):
    """What a call returns; ``None`` if it raised one clear error: of the user's own function, or one of ``names``."""
    try:
        return call()
    except OwnError:
        return None
    except (TypeError, ValueError) as error:
        if not raised_by_the_package_or_the_user(error):
            raise
        if names and not out_of_the_users_function(error) and not names_one(error, names):
            raise AssertionError(f"no argument is named: {error}") from error
        return None


def tried(call, *names):
    """As :func:`attempt`; a run that leaves the finite numbers may also say so by an error of its own."""
    try:
        return attempt(call, *names)
    except NonFiniteError:
        return None


def names_one(error, names):
    return any(re.search(rf"(?<![A-Za-z_]){re.escape(name)}(?![A-Za-z_])", str(error)) for name in names)


def out_of_the_users_function(error):
    """It was raised in a function of these tests that the package called, or by calling one with too few arguments."""
    if hasattr(error, "__notes__") or re.search(r"<lambda>\(\) (takes|missing) .*positional argument", str(error)):
        return True
    files = [file for file, _ in _frames(error)]
    return files[-1].is_relative_to(HERE) and any(file.is_relative_to(PACKAGE) for file in files)


def raised_by_the_package_or_the_user(error):
    """The last frame is one of the package's, with a ``raise``, or the exception came out of the user's function."""
    if out_of_the_users_function(error):
        return True
    file, line = _frames(error)[-1]
    return file.is_relative_to(PACKAGE) and "raise " in file.read_text(encoding="utf-8").splitlines()[line - 1]


def _frames(error):
    frames, trace = [], error.__traceback__
    while trace is not None:
        frames.append((Path(trace.tb_frame.f_code.co_filename), trace.tb_lineno))
        trace = trace.tb_next
    return frames
