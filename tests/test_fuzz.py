"""Any call of solve gives the scheme's own result, or one clear error; ``MLSDE_FUZZ_EXAMPLES=5000`` searches longer."""

import math

import numpy as np
import pytest
import torch
from fuzzing import fuzz, odd, tried
from hypothesis import assume, given
from hypothesis import strategies as st

import mlsde
from mlsde import SDE, Constant, DriftHierarchy, Multilevel, NonFiniteError, Solution, solve

TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-4, torch.bfloat16: 0.05, torch.float16: 0.02}

shapes = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple)
dtypes = st.sampled_from(list(TOLERANCE))
corrections = st.sampled_from(["impulse", "hold", "control", "extrapolate"])
coins = st.sampled_from(["independent", "nested", "systematic", "periodic"])


@st.composite
def grids(draw):
    """Times of up to 80 steps, in either direction, even or not."""
    steps = draw(st.integers(1, 80))
    lengths = np.array(
        draw(st.lists(st.floats(0.01, 1.0), min_size=steps, max_size=steps)) if draw(st.booleans()) else [1] * steps
    )
    times = np.concatenate([[0.0], np.cumsum(lengths)]) / lengths.sum()
    return draw(st.floats(-5, 5)) + times * draw(st.sampled_from([1.0, -1.0, 0.3, 2.0]))


@st.composite
def rules(draw, levels):
    """A multilevel rule with probabilities that are constant or move with time; some are certain."""
    probability = st.sampled_from([1.0, 1.0, 0.9, 0.5, 0.3, 0.1])
    p = draw(st.lists(probability, min_size=levels, max_size=levels))
    slope = draw(st.sampled_from([0.0, 0.0, 0.3]))
    correction, coin = draw(corrections), draw(coins)
    assume(correction != "extrapolate" or coin in ("systematic", "periodic"))
    if (coin, correction) == ("periodic", "impulse"):  # refused where they would never fire a level
        p, slope = [max(0.5, q) for q in p], 0.0
    values = Constant(p) if slope == 0 else lambda t: [min(1.0, max(0.05, q + slope * math.sin(3 * t))) for q in p]
    return Multilevel(
        values, coin, correction, draw(st.sampled_from(["batch", "sample"])), draw(st.sampled_from([None, 7]))
    )


def ladders(levels, differences):
    """Levels whose differences shrink; each elementwise and smooth."""

    def correction(k):
        return (lambda t, y: -torch.sin(y)) if k == 0 else (lambda t, y: torch.sin((k + 1) * y + t) / 4**k)

    def level(k):
        return lambda t, y: sum(correction(j)(t, y) for j in range(k + 1))

    costs = [4.0**k for k in range(levels)]
    if differences:
        return DriftHierarchy.from_differences([correction(k) for k in range(levels)], costs)
    return DriftHierarchy([level(k) for k in range(levels)], costs)


class Reference:
    """The estimate ``sum_k m_k + w_k (D_k - m_k)`` as it stands in the definition: every level, always, in float64."""

    def __init__(self, levels, plan, shape):
        self.levels, self.plan = levels, plan
        block = plan.block(0, plan.steps)
        self.fires, p = block.fires, plan.probabilities
        self.fires = self.fires if self.fires.ndim == 3 else np.repeat(self.fires[..., None], shape[0], axis=-1)
        self.heights = 1 / p if plan.correction in ("impulse", "control") else np.ones_like(p)
        self.seen = [[[] for _ in range(shape[0])] for _ in range(levels)]

    def memory(self, k, i, t):
        seen = self.seen[k][i]
        if self.plan.correction == "impulse" or not seen:
            return 0.0
        if self.plan.correction != "extrapolate" or len(seen) == 1:
            return seen[-1][1]
        (t_a, d_a), (t_b, d_b) = seen[-2:]
        return d_b + (t - t_b) * (d_b - d_a) / (t_b - t_a)

    def __call__(self, n, t, y, stage=0):
        values = [level(torch.tensor(t), y) for level in ladders(self.levels, True).levels]
        out = torch.zeros_like(y)
        for k, value in enumerate(values):
            for i in range(len(y)):
                m = self.memory(k, i, t)
                out[i] += m
                if self.fires[n, k, i]:
                    out[i] += self.heights[n, k] * (value[i] - m)
                    if stage == 0:
                        self.seen[k][i] = [*self.seen[k][i][-1:], (t, value[i])]
        return out


def integrate(f, y, times, dws, noise, method, rate):
    """The three steppers on one grid, in float64."""
    states = [y]
    for n, dw in enumerate(dws):
        t, t_next, h = times[n], times[n + 1], times[n + 1] - times[n]
        kick = 0 if noise is None else noise(t, y) * dw
        if method == "euler":
            y = y + h * f(n, t, y) + kick
        elif method == "heun":
            slope = f(n, t, y)
            predicted = y + h * slope + kick
            kick = 0 if noise is None else (noise(t, y) + noise(t_next, predicted)) / 2 * dw
            y = y + h / 2 * (slope + f(n, t_next, predicted, 1)) + kick
        else:
            spread = math.sqrt(math.expm1(2 * rate * h) / (2 * rate * h))
            y = math.exp(rate * h) * y + math.expm1(rate * h) / rate * f(n, t, y) + spread * kick
        states.append(y)
    return torch.stack(states)


NOISES = {
    None: (None, None),
    "number": (0.3, lambda t, y: 0.3),
    "of time": (lambda t: 0.3 + 0.1 * torch.cos(t), lambda t, y: 0.3 + 0.1 * math.cos(t)),
    "diagonal": (lambda t, y: 0.3 * torch.cos(y), lambda t, y: 0.3 * torch.cos(y)),
    "scalar": (lambda t, y: 0.3 * torch.cos(y), lambda t, y: 0.3 * torch.cos(y)),
}


@fuzz()
@given(st.data(), shapes, dtypes, grids(), st.integers(1, 3), st.booleans())
def test_a_sound_call_gives_what_the_definition_gives(data, shape, dtype, times, levels, differences):
    method = data.draw(st.sampled_from(["euler", "euler", "heun", "exponential"]))
    kind = data.draw(st.sampled_from(list(NOISES) if method == "euler" else [None, "number", "of time"]))
    rule = data.draw(st.none() | rules(levels))
    assume(method != "heun" or rule is None or rule.correction in ("hold", "extrapolate"))
    diffusion, noise = NOISES[kind]
    draw = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    y0 = torch.randn(shape, generator=draw).to(dtype)
    size = (shape[0], *[1] * (len(shape) - 1)) if kind == "scalar" else shape
    work = torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype
    scale = np.sqrt(np.abs(np.diff(times)))
    dws = [float(s) * torch.randn(size, generator=draw, dtype=torch.float64) for s in scale]
    given = {t: dw.to(work) for t, dw in zip(times.tolist(), dws, strict=False)}
    sde = SDE(
        ladders(levels, differences),
        diffusion,
        noise=kind if kind in ("diagonal", "scalar") else None,
        linear=-0.7 if method == "exponential" else None,
    )
    save_at = data.draw(st.sampled_from([None, "steps", np.linspace(times[0], times[-1], 7)]))
    ours = solve(
        sde, y0, times=times, method=method, multilevel=rule, save_at=save_at, brownian=lambda a, b: given[a], seed=3
    )
    assert ours.success
    assert ours.ys.dtype == dtype
    assert ours.stats.cost == pytest.approx(ours.plan.cost)
    states = integrate(Reference(levels, ours.plan, shape), y0.double(), times, dws, noise, method, -0.7)
    expected = torch.stack([at(states, times, t) for t in ours.ts.tolist()])
    torch.testing.assert_close(
        ours.ys.double(), expected, rtol=TOLERANCE[dtype], atol=growth(ours.plan) * TOLERANCE[dtype]
    )


def growth(plan):
    """How much larger than the drift an impulse is: rounding grows with it."""
    return 1.0 if plan.correction in ("hold", "extrapolate") else 1.0 / plan.probabilities[plan.probabilities > 0].min()


def at(states, times, t):
    n = int(np.clip(np.searchsorted(np.sign(times[-1] - times[0]) * times, np.sign(times[-1] - times[0]) * t), 1, None))
    w = (t - times[n - 1]) / (times[n] - times[n - 1])
    return (1 - w) * states[n - 1] + w * states[n]


@fuzz()
@given(st.data(), grids(), st.integers(1, 3), st.booleans(), st.sampled_from([math.nan, math.inf]))
def test_a_level_that_fails_from_some_step_on_is_named_with_the_first_step_that_evaluates_it(
    data, times, levels, differences, value
):
    rule = data.draw(rules(levels))
    steps = len(times) - 1
    at, faulty = data.draw(st.integers(0, steps)), data.draw(st.integers(1, levels))
    sound = ladders(levels, differences)
    forward = 1 if times[-1] > times[0] else -1
    fails_from = (times[at] + times[max(at - 1, 0)]) / 2 if at else times[0] - forward

    def level(t, y):
        out = sound.levels[faulty - 1](t, y)
        return torch.full_like(out, value) if forward * (t - fails_from) > 0 else out

    chosen = [level if k == faulty - 1 else sound.levels[k] for k in range(levels)]
    make = DriftHierarchy.from_differences if differences else DriftHierarchy
    y0 = torch.ones(3, 2, dtype=torch.float64)
    expected = solve(SDE(sound, 0.1), y0, times=times, multilevel=rule, save_at="steps")
    evaluates = expected.plan.block(0, steps).evaluates.reshape(steps, levels, -1).any(axis=-1)[:, faulty - 1]
    first = next((n for n in range(at, steps) if evaluates[n]), None)
    try:
        ours = solve(SDE(make(chosen, sound.costs), 0.1), y0, times=times, multilevel=rule, save_at="steps")
        step = None
    except NonFiniteError as fault:
        ours, step = fault.solution, (fault.step, fault.time, fault.culprit)
    if step is None and rule.correction != "impulse":
        first = None  # a difference that was replaced before it was used does no harm
    assert step == (None if first is None else (first, times[first], f"drift level {faulty}"))
    assert torch.equal(ours.ys, expected.ys if first is None else expected.ys[: first + 1])


EQUATION = ["levels", "costs", "names", "drift", "diffusion", "noise", "calculus", "linear", "sde"]
RULE = ["p", "rule", "coins", "correction", "share", "coin_seed"]
CALL = ["y0", "t_span", "steps", "times", "method", "multilevel", "level", "seed", "brownian", "save_at", "callback"]
CALL += ["progress", "gradients"]


@fuzz()
@given(st.data())
def test_a_call_with_something_odd_in_it_gives_a_solution_or_a_clear_error(data):
    """One or two of the arguments are replaced by anything at all."""

    odds = data.draw(st.sets(st.sampled_from([*EQUATION, *RULE, *CALL]), min_size=1, max_size=2))

    def maybe(name, sound):
        return data.draw(odd, label=name) if name in odds else sound

    def call():
        levels = maybe("levels", [lambda t, y: -y, lambda t, y: -torch.sin(y)])
        drift = maybe("drift", DriftHierarchy(levels, maybe("costs", [1.0, 8.0]), names=maybe("names", None)))
        sde = SDE(
            drift,
            maybe("diffusion", 0.5),
            noise=maybe("noise", None),
            calculus=maybe("calculus", "ito"),
            linear=maybe("linear", None),
        )
        makers = [Constant, mlsde.PowerLaw, lambda p: lambda t: p, lambda p: mlsde.Optimal(p, 40), lambda p: p]
        maker = data.draw(st.sampled_from(makers))
        p = maybe("p", 2.0 if maker is mlsde.PowerLaw else [1.0, 0.5])
        multilevel = Multilevel(
            maybe("rule", maker(p)),
            maybe("coins", "systematic"),
            maybe("correction", "hold"),
            maybe("share", "batch"),
            maybe("coin_seed", None),
        )
        return solve(
            maybe("sde", sde),
            maybe("y0", torch.ones(2, 2)),
            maybe("t_span", (0.0, 1.0)),
            steps=maybe("steps", None if "times" in odds else 4),
            times=maybe("times", None),
            method=maybe("method", "euler"),
            multilevel=maybe("multilevel", None if "level" in odds else multilevel),
            level=maybe("level", None),
            seed=maybe("seed", 0),
            brownian=maybe("brownian", None),
            save_at=maybe("save_at", None),
            callback=maybe("callback", None),
            progress=maybe("progress", False),
            gradients=maybe("gradients", False),
        )

    others = ("probabilities", "probability", "values", "variances", "gamma", "budget", "time")
    solution = tried(call, *EQUATION, *RULE, *CALL, *others)
    if solution is not None:
        assert isinstance(solution, Solution)
        assert solution.ys.isfinite().all() and "Solution" in repr(solution)
