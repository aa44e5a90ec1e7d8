"""The same Euler-Maruyama steps in diffrax, on JAX and a CPU: compiled apart, then run.

diffrax: P. Kidger, On Neural Differential Equations, doi:10.48550/arXiv.2202.02435. Two of its Brownian paths are
compared: ``VirtualBrownianTree``, which can be asked at any times, like :class:`mlsde.BrownianPath`; and
``UnsafeBrownianPath``, independent increments of this grid, like :func:`mlsde.solve` as it comes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlsde.bench.levels import Drift

Shape = tuple[int, ...]

PATHS = ("VirtualBrownianTree", "UnsafeBrownianPath")


@dataclass(frozen=True)
class Compiled:
    """A compiled run.

    Attributes:
        run: ``run(y0, seed, steps)`` returns the last state, in JAX.
        seconds: that tracing and compiling took.
    """

    run: Callable[[Any, int, int], Any]
    seconds: float


@lru_cache(maxsize=8)
def compiled(path: str, drift: Drift, shape: Shape, step: float, diffusion: float) -> Compiled:
    """Compile ``dY = f dt + g dW`` by ``diffrax.Euler`` for states of a shape, float32, any seed and number of steps.

    Without gradients (``ForwardMode``) and without a bound on the steps, which is the quickest that diffrax has.

    Args:
        path: a name of :data:`PATHS`. The tree's tolerance is half a step.
        drift: ``f``: of operators alone that torch and JAX share, or with a method ``in_jax()``.
        shape: of the state.
        step: length of a step, a power of two.
        diffusion: ``g``.
    """
    jax, jnp, diffrax, lineax = _libraries()
    f = _in_jax(drift)
    noise = jax.ShapeDtypeStruct(shape, jnp.float32)

    def g(t: Any, y: Any, args: Any) -> Any:
        return lineax.DiagonalLinearOperator(jnp.full(shape, diffusion, jnp.float32))

    def run(y0: Any, seed: Any, steps: Any) -> Any:
        key, end = jax.random.key(seed), steps * step
        if path == "VirtualBrownianTree":
            brownian = diffrax.VirtualBrownianTree(0.0, end, tol=step / 2, shape=noise, key=key)
        else:
            brownian = diffrax.UnsafeBrownianPath(noise, key)
        drift_term = diffrax.ODETerm(lambda t, y, args: f(t, y))
        terms = diffrax.MultiTerm(drift_term, diffrax.ControlTerm(g, brownian))
        found = diffrax.diffeqsolve(
            terms, diffrax.Euler(), 0.0, end, step, y0, saveat=diffrax.SaveAt(t1=True),
            adjoint=diffrax.ForwardMode(), max_steps=None,
        )  # fmt: skip
        return found.ys[-1]

    begin = time.perf_counter()
    ready = jax.jit(run).lower(jnp.zeros(shape, jnp.float32), 0, 1).compile()
    return Compiled(ready, time.perf_counter() - begin)


def euler(path: str, drift: Drift, y0: Tensor, steps: int, seed: int, step: float, diffusion: float) -> Tensor:
    """Run what :func:`compiled` made, which is compiled now if it was not yet; the last state, as a tensor."""
    import jax.numpy as jnp  # noqa: PLC0415

    ready = compiled(path, drift, tuple(y0.shape), step, diffusion)
    return torch.from_numpy(np.array(ready.run(jnp.asarray(y0.numpy()), seed, steps)))


def settle() -> None:
    """Wait for what runs in JAX call back, such as levels that count."""
    _libraries()[0].effects_barrier()


@lru_cache(maxsize=2)
def _chain(drift: Drift, shape: Shape) -> Callable[[Any, int], Any]:
    jax, jnp, _, _ = _libraries()
    f = _in_jax(drift)

    def chain(y: Any, times: Any) -> Any:
        return jax.lax.fori_loop(0, times, lambda i, y: f(jnp.float32(0.0), y), y)

    return jax.jit(chain).lower(jnp.zeros(shape, jnp.float32), 1).compile()


def price(drift: Drift, y0: Tensor, seconds: float = 2e-2) -> float:
    """Seconds of one evaluation in a compiled loop of them, each of what the last returned."""
    chain, y = _chain(drift, tuple(y0.shape)), y0.numpy()

    def timed(times: int) -> float:
        begin = time.perf_counter()
        chain(y, times).block_until_ready()
        return time.perf_counter() - begin

    timed(1)
    times = max(3, min(100_000, int(seconds / timed(100) * 100)))
    return timed(times) / times


def _in_jax(drift: Any) -> Callable[[Any, Any], Any]:
    return drift.in_jax() if hasattr(drift, "in_jax") else drift


@lru_cache(maxsize=1)
def _libraries() -> tuple[Any, Any, Any, Any]:
    """``jax, jax.numpy, diffrax, lineax``, on the CPU and with one thread, if nobody has set JAX to work before."""
    with _environment(JAX_PLATFORMS="cpu", NPROC="1"):  # XLA sizes its pools of threads by NPROC
        import diffrax  # noqa: PLC0415
        import jax  # noqa: PLC0415
        import lineax  # noqa: PLC0415

        jax.devices("cpu")
    return jax, jax.numpy, diffrax, lineax


@contextmanager
def _environment(**settings: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
