"""What a computation is, in words that a file can keep: so that a folder of another one is known as such."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import sysconfig
import types
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_DEEPEST = 6

Below = Callable[[Any], Any]


def describe(thing: Any, depth: int = 0) -> Any:
    """Describe a value by numbers and strings that survive JSON and are the same in another process.

    Tensors and weights are told by check sums, functions by their name and a check sum of their code, of the numbers,
    tensors and functions that they close over, and of the globals they read. Lists and dictionaries that a function
    closes over are left out, for they may be there to be written into.

    Args:
        thing: anything.
        depth: how deep it lies in what is described.
    """
    if thing is None or isinstance(thing, (bool, int, float, str)):
        return thing
    if depth > _DEEPEST:
        return _name(type(thing))
    for kinds, words in _WORDS:
        if isinstance(thing, kinds):
            return words(thing, functools.partial(describe, depth=depth + 1))
    return _object(thing, functools.partial(describe, depth=depth + 1))


def _tensor(thing: Tensor, below: Below) -> Any:
    return f"tensor {str(thing.dtype).removeprefix('torch.')} {tuple(thing.shape)} {check_sum(tensor_bytes(thing))}"


def _array(thing: np.ndarray, below: Below) -> Any:
    return f"array {thing.dtype} {thing.shape} {check_sum(np.ascontiguousarray(thing).tobytes())}"


def _module(thing: nn.Module, below: Below) -> Any:
    held = {**dict(thing.named_parameters()), **dict(thing.named_buffers())}
    parts = [f"{name} {check_sum(tensor_bytes(value))}".encode() for name, value in sorted(held.items())]
    for name, module in thing.named_modules():
        plain = {key: value for key, value in vars(module).items() if key[0] != "_" and _settled(value)}
        parts.append(repr((name, {key: below(value) for key, value in sorted(plain.items())})).encode())
    parts += [_class_code(kind) for kind in dict.fromkeys(type(module) for module in thing.modules())]
    return f"{_name(type(thing))} {check_sum(repr(thing).encode(), *parts)}"


def _mapping(thing: Mapping[Any, Any], below: Below) -> Any:
    return {str(name): below(part) for name, part in thing.items()}


def _function(thing: types.FunctionType, below: Below) -> Any:
    return f"{_name(thing)} {_sum_of_function(thing, below)}"


def _object(thing: Any, below: Below) -> Any:
    """A dataclass by its fields, another object by its class and its attributes."""
    if dataclasses.is_dataclass(thing):
        fields = {field.name: getattr(thing, field.name) for field in dataclasses.fields(thing)}
    else:
        fields = {name: value for name, value in getattr(thing, "__dict__", {}).items() if _settled(value)}
    code = _class_code(type(thing))
    if code:
        fields = {"code": check_sum(code), **fields}
    return {"class": _name(type(thing)), **{name: below(value) for name, value in fields.items()}}


def _settled(value: Any) -> bool:
    """Whether a value is a part of what is computed, as far as one can tell: not a container to write into."""
    return not isinstance(value, (list, dict, set, types.ModuleType, type))


def _class_code(kind: type) -> bytes:
    """What the methods of a class do, but for those that a library gave it."""
    parts = []
    for owner in kind.__mro__:
        for name, value in sorted(vars(owner).items()):
            function = getattr(value, "__func__", getattr(value, "fget", value))
            if isinstance(function, types.FunctionType) and not _installed(function):
                parts += [name.encode(), _code(function.__code__)]
    return b" ".join(parts)


def _sum_of_function(function: types.FunctionType, below: Below) -> str:
    """Of its code, of what it closes over and, unless it is a library's, of the globals that it reads."""
    seen: dict[str, Any] = {}
    if not _installed(function):
        known = function.__globals__
        seen = {f"global {name}": known[name] for name in _names(function.__code__) if name in known}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # a cell that is empty as yet
            seen[f"cell {name}"] = cell.cell_contents
    seen |= {f"default {i}": value for i, value in enumerate(function.__defaults__ or ())}
    seen |= {f"default {name}": value for name, value in (function.__kwdefaults__ or {}).items()}
    told = {name: below(value) for name, value in sorted(seen.items()) if _settled(value) and value is not function}
    return check_sum(_code(function.__code__), repr(told).encode())


def _names(code: types.CodeType) -> set[str]:
    """Names that a function and those within it look up."""
    inner = [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return set(code.co_names).union(*map(_names, inner))


def _code(code: types.CodeType) -> bytes:
    """What a function does, whatever stands around it; another version of Python has other words for it."""
    parts = [code.co_code, repr((code.co_names, code.co_varnames, code.co_freevars)).encode()]
    return check_sum(*parts, *map(_constant, code.co_consts)).encode()


def _constant(value: Any) -> bytes:
    if isinstance(value, types.CodeType):
        return _code(value)
    if isinstance(value, frozenset):  # in another order in another process
        return b"{" + b" ".join(sorted(map(_constant, value))) + b"}"
    if isinstance(value, tuple):
        return b"(" + b" ".join(map(_constant, value)) + b")"
    return repr(value).encode()


def _installed(function: types.FunctionType) -> bool:
    """Whether a function is of a library, whose version is its own affair."""
    return function.__code__.co_filename.startswith(_libraries())


@functools.cache
def _libraries() -> tuple[str, ...]:
    places = (sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    return tuple(place for place in places if place)


def tensor_bytes(tensor: Tensor) -> bytes:
    """What a tensor holds, in order."""
    plain = tensor.detach().cpu().contiguous()
    return plain.view(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""


def check_sum(*parts: bytes) -> str:
    """Sixteen hexadecimal digits that tell one content from another."""
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "little"))
        total.update(part)
    return total.hexdigest()[:16]


def _name(thing: Any) -> str:
    return f"{thing.__module__}.{thing.__qualname__}"


_WORDS: tuple[tuple[Any, Callable[[Any, Below], Any]], ...] = (
    ((np.integer, np.floating), lambda thing, below: thing.item()),
    (Tensor, _tensor),
    (np.ndarray, _array),
    (nn.Module, _module),
    (functools.partial, lambda thing, below: [below(part) for part in (thing.func, thing.args, thing.keywords)]),
    (types.MethodType, lambda thing, below: [below(thing.__func__), below(thing.__self__)]),
    (types.FunctionType, _function),
    ((list, tuple), lambda thing, below: [below(part) for part in thing]),
    (Mapping, _mapping),
    ((type, types.BuiltinFunctionType), lambda thing, below: thing.__qualname__),
    ((torch.dtype, torch.device), lambda thing, below: str(thing)),
)
