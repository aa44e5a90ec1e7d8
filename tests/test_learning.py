"""Learning: gradients against the exact derivative over every outcome of the coins, and what the descent arrives at."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from enumeration import Table, outcomes, tossed
from refusals import Y0, decay, ladder, refused, table

import mlsde
from mlsde import forward, theory
from mlsde.forward import Draw, Outcome, Runs, weights
from mlsde.knots import Knots, probabilities
from mlsde.learning import learn
from mlsde.plan import multilevel_plan
from mlsde.problems import linear
from mlsde.study import learned as study

STEPS, KNOTS, LEVELS = 3, 2, 2
PARAMETERS = KNOTS * LEVELS
GRID = np.array([1.0, 0.7, 0.25, 0.0])  # backwards, unequal steps
LOGITS = np.array([[0.4, -0.9], [-0.3, -1.4]])
COSTS = (1.0, 8.0)
START = torch.tensor([[0.8, -0.4]], dtype=torch.float64)


def levels(differences=False):
    made = [lambda t, y: 1.5 * torch.sin(y + t), lambda t, y: 1.2 * torch.sin(y + t) + torch.cos(2 * y)]
    if differences:
        return mlsde.DriftHierarchy.from_differences(made, COSTS)
    return mlsde.DriftHierarchy(made, COSTS)


EQUATIONS = {
    "ode": (mlsde.SDE(levels()), "euler"),
    "differences": (mlsde.SDE(levels(differences=True)), "euler"),
    "additive": (mlsde.SDE(levels(), 0.5, linear=-0.7), "euler"),
    "exponential": (mlsde.SDE(levels(), 0.5, linear=-0.7), "exponential"),
    "diagonal": (mlsde.SDE(levels(), lambda t, y: 0.3 * y * y, noise="diagonal"), "euler"),
}


def increment(n, samples, sde):
    """The same increments of one path for every sample."""
    if sde.is_ode:
        return None
    return torch.tensor([[0.3, -0.2], [-0.5, 0.4], [0.1, 0.6]], dtype=torch.float64)[n].expand(samples, -1).clone()


def plan_of(sde, p):
    return multilevel_plan(mlsde.Multilevel(Table(p), "independent", "impulse", "sample"), GRID, sde.drift)


def loss_by_solve(sde, method, logits):
    """``E|Y_T - X_T|^2`` over every outcome of the coins, by the solver itself."""
    p = Knots.of(GRID, KNOTS, sde.drift, 10.0).table(logits)
    every = outcomes(plan_of(sde, p))
    count = len(every)

    def path(ta, tb):
        return increment(int(np.argmin(np.abs(GRID - ta))), count, sde)

    def end(**options):
        start = START.expand(count, -1).clone()
        noise = None if sde.is_ode else path
        return mlsde.solve(sde, start, times=GRID, method=method, brownian=noise, **options).y1

    with tossed(every):
        y = end(multilevel=mlsde.Multilevel(Table(p), "independent", "impulse", "sample"))
    return float(every.chances @ (y - end()).square().sum(1).numpy())


def derivative(loss, logits=LOGITS):
    """By central differences."""
    slopes = np.zeros_like(logits)
    for at in np.ndindex(*logits.shape):
        step = np.zeros_like(logits)
        step[at] = 1e-4
        slopes[at] = (loss(logits + step) - loss(logits - step)) / 2e-4
    return slopes


def every_outcome(sde, method, gradient, logits=LOGITS):
    """Chances, losses, pathwise derivatives and scores of every outcome, the latter two of shape (J, K, outcomes)."""
    knots = Knots.of(GRID, KNOTS, sde.drift, 10.0)
    if gradient == "score":
        every = outcomes(plan_of(sde, knots.table(logits)))
        draws, chances = every.draws, every.chances
    else:
        signs = np.stack(np.meshgrid(*[[0.25, 0.75]] * (STEPS * LEVELS), indexing="ij"), axis=-1)
        draws = signs.reshape(-1, STEPS, LEVELS)
        chances = np.full(len(draws), 1 / len(draws))
    count = len(draws)
    uniforms = np.moveaxis(np.repeat(draws, PARAMETERS, axis=0), 0, -1)
    directions = np.tile(np.eye(PARAMETERS).reshape(KNOTS, LEVELS, PARAMETERS), (1, 1, count))
    runs = Runs(sde, START, GRID, method, count * PARAMETERS, 0)
    draw = Draw(
        START.expand(count * PARAMETERS, -1).clone(),
        lambda n: increment(n, count * PARAMETERS, sde),
        lambda a, b: uniforms[a:b],
        directions,
    )
    with torch.no_grad():
        outcome = runs.outcome(gradient, knots, logits, draw)
    slopes = outcome.slopes.reshape(count, KNOTS, LEVELS)
    scores = outcome.scores[..., ::PARAMETERS]
    return chances, outcome.losses[::PARAMETERS], np.moveaxis(slopes, 0, -1), scores


@pytest.mark.parametrize(("sde", "method"), EQUATIONS.values(), ids=EQUATIONS)
def test_score_and_pathwise_part_together_are_the_derivative_of_the_solvers_own_loss(sde, method):
    """The wrong twins: either part alone, and a score that is not weighed by the loss."""
    chances, losses, slopes, scores = every_outcome(sde, method, "score")
    exact = derivative(lambda logits: loss_by_solve(sde, method, logits))
    size = np.abs(exact).max()
    np.testing.assert_allclose((slopes + losses * scores) @ chances, exact, rtol=1e-5, atol=1e-7 * size)
    np.testing.assert_allclose(scores @ chances, 0.0, atol=1e-12)
    for wrong in (slopes, losses * scores, slopes + scores, slopes - losses * scores):
        assert np.abs(wrong @ chances - exact).max() > 0.05 * size


@pytest.mark.parametrize(("sde", "method"), EQUATIONS.values(), ids=EQUATIONS)
def test_the_surrogate_is_differentiated_exactly(sde, method):
    chances, _, slopes, scores = every_outcome(sde, method, "surrogate")

    def loss(logits):
        chances, losses, *_ = every_outcome(sde, method, "surrogate", logits)
        return float(chances @ losses)

    exact = derivative(loss)
    np.testing.assert_allclose(slopes @ chances, exact, rtol=1e-5, atol=1e-7 * np.abs(exact).max())
    assert (scores == 0).all()


OU = linear.ornstein_uhlenbeck([2.0, 3.0], 0.5, [1.0, 0.0])


def linear_derivative(gradient):
    """Mean gradient on a linear ladder, without noise, and that of the exact moments."""
    problem = linear.LinearProblem(OU.matrices, OU.offsets)
    sde, y0 = problem.sde(COSTS), torch.tensor([1.5], dtype=torch.float64)
    knots = Knots.of(GRID[::-1].copy(), KNOTS, sde.drift, 10.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "START", y0[None])
        patch.setitem(globals(), "GRID", GRID[::-1].copy())
        chances, losses, slopes, scores = every_outcome(sde, "euler", gradient)
        grid = GRID

    def loss(logits):
        return float(linear.multilevel_moments(problem, y0, grid, knots.table(logits)).squared_error[-1])

    return (slopes + losses * scores) @ chances, derivative(loss)


@pytest.mark.parametrize("gradient", ["score", "surrogate"])
def test_both_gradients_are_that_of_the_exact_moments_of_a_linear_ladder(gradient):
    found, exact = linear_derivative(gradient)
    np.testing.assert_allclose(found, exact, rtol=1e-5)


def test_a_surrogate_of_another_variance_has_another_gradient(monkeypatch):
    """The wrong twin: signs of variance ``1/p`` and not ``1/p - 1``."""

    def wrong(gradient, p, uniforms):
        signs = np.where(uniforms < 0.5, -1.0, 1.0)
        return 1.0 + signs / np.sqrt(p), -0.5 * signs / np.sqrt(p)

    monkeypatch.setattr(forward, "weights", wrong)
    found, exact = linear_derivative("surrogate")
    assert not np.allclose(found, exact, rtol=0.05)


def test_leaving_one_out_keeps_the_mean():
    """Over every pair of outcomes; the wrong twin takes the mean of both, which halves the score's part."""
    sde, method = EQUATIONS["ode"]
    chances, losses, _, scores = every_outcome(sde, method, "score")
    directions = np.ones((KNOTS, LEVELS, 2))
    exact = (losses * scores) @ chances
    mean, half = np.zeros_like(exact), np.zeros_like(exact)
    for i in range(len(chances)):
        for j in range(len(chances)):
            pair, chance = [i, j], chances[i] * chances[j]
            one = Outcome(losses[pair], np.zeros(2), scores[..., pair]).gradient(directions)
            mean += chance * one
            half += chance * ((losses[pair] - losses[pair].mean()) * scores[..., pair]).mean(-1)
    np.testing.assert_allclose(mean, exact, rtol=1e-10)
    assert not np.allclose(half, exact, rtol=0.1)


def test_random_directions_have_the_gradient_as_their_mean():
    directions = np.stack(np.meshgrid(*[[-1.0, 1.0]] * PARAMETERS, indexing="ij"), -1).reshape(-1, KNOTS, LEVELS)
    directions, gradient = np.moveaxis(directions, 0, -1), np.array([[1.0, -2.0], [0.5, 3.0]])
    slopes = np.tensordot(gradient, directions, 2)
    outcome = Outcome(np.zeros(len(slopes)), slopes, np.zeros_like(directions))
    np.testing.assert_allclose(outcome.gradient(directions), gradient)


@pytest.mark.parametrize("gradient", ["score", "surrogate"])
def test_weights_have_mean_one_and_the_variance_of_a_coin(gradient):
    p, uniforms = 0.3, np.array([0.1, 0.9])
    w, slope = weights(gradient, np.array([p, p]), uniforms)
    chances = np.array([p, 1 - p] if gradient == "score" else [0.5, 0.5])
    nearby = weights(gradient, np.full(2, p * math.exp(1e-6)), uniforms)[0]
    np.testing.assert_allclose(slope, (nearby - w) / 1e-6, rtol=1e-5)
    assert w @ chances == pytest.approx(1.0)
    assert (w - 1) ** 2 @ chances == pytest.approx(1 / p - 1)
    sure, none = weights(gradient, np.ones(2), uniforms)
    assert sure.tolist() == [1.0, 1.0]
    assert gradient == "score" or none.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("differences", [False, True])
def test_the_price_of_a_table_and_its_derivative_are_those_of_the_plan(differences):
    drift = ladder() if not differences else mlsde.DriftHierarchy.from_differences([decay] * 3, [1.0, 8.0, 64.0])
    knots = Knots.of(np.linspace(0, 1, 9), 3, drift, 100.0)
    logits = np.array([[np.inf, np.inf, -1.0], [0.5, 0.1, -2.0], [np.inf, -0.5, -0.1]])

    def price(logits):
        return theory.expected_cost(knots.table(logits), drift.costs, differences=differences)

    assert knots.price(knots.table(logits)) == pytest.approx(price(logits), rel=1e-12)
    np.testing.assert_allclose(knots.price_slopes(logits), derivative(price, logits), rtol=1e-6, atol=1e-9)
    assert price(knots.at_budget(logits)) == pytest.approx(100.0, rel=1e-8)
    np.testing.assert_array_equal(np.isinf(knots.at_budget(logits)), np.isinf(logits))


def test_only_neighbouring_levels_are_raised_to_one_and_none_of_differences():
    knots = Knots.of(np.linspace(0, 1, 9), 2, ladder(), 100.0)
    logits = np.log([[0.6, 0.7, 0.1], [0.9, 0.2, 0.8]]) - np.log1p([[-0.6, -0.7, -0.1], [-0.9, -0.2, -0.8]])
    assert np.isinf(knots.raised(logits, 0.5)).tolist() == [[True, True, False], [False, False, False]]
    assert np.isfinite(replace(knots, differences=True).raised(logits, 0.5)).all()


def test_knots_come_nearest_to_the_table_they_start_from():
    knots = Knots.of(np.linspace(0, 1, 17), 5, ladder(), 40.0)
    logits = knots.at_budget(np.random.default_rng(0).normal(-2.0, 0.5, (5, 3)))
    np.testing.assert_allclose(knots.logits(knots.table(logits)), logits, rtol=1e-6)
    one = Knots.of(np.linspace(0, 1, 17), 1, ladder(), 40.0)
    assert one.table(one.logits(np.full((16, 3), 0.1))).std(axis=0).max() < 1e-12


TIMES = np.linspace(0.0, 1.0, 17)
BUDGET = 16 * 64 / 8


def small(**options):
    """A short descent on the linear problem of the study."""
    problem = study._linear()
    options = {"samples": 64, "iterations": 8, "budget": BUDGET, **options}
    return learn(problem.sde, problem.initial(4), times=TIMES, **options)


@pytest.fixture(scope="module")
def learned():
    return small(samples=512, iterations=60)


def plan(rule):
    return multilevel_plan(mlsde.Multilevel(rule, "independent", "impulse"), TIMES, study._linear().sde.drift)


def surplus(rule):
    return study.overhead(study._LADDER, study._START, TIMES, study._linear().sde.drift, plan(rule))


def test_learned_probabilities_cost_within_five_percent_of_the_closed_form_at_equal_error(learned):
    """Exact errors, by recursion. The wrong twins: the rule that it began with, and the power law."""
    assert surplus(learned) < 0.05
    variances = mlsde.level_variances(study._linear().sde, study._START[None], times=TIMES)
    assert surplus(mlsde.Optimal(variances, BUDGET)) > 0.2
    assert surplus(mlsde.PowerLaw(3.0, budget=BUDGET)) > 0.2


def test_learned_probabilities_cost_their_budget_and_the_history_says_so(learned):
    assert plan(learned).expected_cost == pytest.approx(BUDGET, rel=1e-6)
    losses, costs = np.array(learned.history).T
    assert len(losses) == 60
    np.testing.assert_allclose(costs, BUDGET, rtol=1e-6)
    assert losses[-10:].mean() < 0.7 * losses[:3].mean()


def test_the_score_learns_too():
    assert surplus(small(samples=512, iterations=60, gradient="score")) < 0.2


def test_the_same_seed_learns_the_same_and_another_something_else():
    first = small(seed=3)
    assert small(seed=3) == first
    assert small(seed=4) != first


def test_learning_leaves_the_random_state_of_others_alone():
    def state():
        return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), torch.is_grad_enabled()  # noqa: NPY002

    before = state()
    small(iterations=2)
    small(iterations=2, gradient="score")
    assert state() == before


def test_a_descent_that_goes_astray_gives_back_the_rule_it_began_with():
    """Steps of three logits: a level is then all but off at some time, or fires always."""
    closed = study.closed_form(study._LADDER, study._START, TIMES, BUDGET)
    kept = small(start=closed, learning_rate=3.0, iterations=6, samples=256)
    assert surplus(kept) < surplus(closed) + 0.1
    assert max(loss for loss, _ in kept.history) > 3 * kept.history[0][0]


def test_a_rule_to_start_with_is_scaled_to_the_budget():
    done = small(start=mlsde.Constant([0.5, 0.5, 0.5]), iterations=1)
    assert done.history[0][1] == pytest.approx(BUDGET, rel=1e-6)
    again = small(start=done, iterations=1)
    assert again.history[0][1] == pytest.approx(BUDGET, rel=1e-6)


def test_learned_probabilities_run_with_share_sample_in_float32_and_backwards(capsys):
    sde = mlsde.SDE(mlsde.DriftHierarchy([decay, lambda t, y: -torch.sin(y)], COSTS), 0.5)
    done = learn(sde, Y0, (1.0, 0.0), steps=10, budget=20.0, knots=3, iterations=2, samples=16, progress=True)
    assert done.times == (1.0, 0.5, 0.0)
    rule = mlsde.Multilevel(done, "independent", "impulse", "sample")
    assert mlsde.solve(sde, Y0, (1.0, 0.0), steps=10, multilevel=rule).success
    assert "iterations" in capsys.readouterr().err


def two(level=decay, **options):
    sde = mlsde.SDE(mlsde.DriftHierarchy([decay, level], COSTS), 0.5)
    options = {"budget": 20.0, "steps": 10, "iterations": 1, "samples": 4, **options}
    return lambda: learn(options.pop("sde", sde), options.pop("y0", Y0), (0.0, 1.0), **options)


def one_level():
    return mlsde.SDE(mlsde.DriftHierarchy([decay], [1.0]))


REFUSED = {
    "one level": (two(sde=one_level()), ValueError, ["sde", "one level", "nothing to learn", "two"]),
    "no costs": (two(sde=mlsde.SDE(mlsde.DriftHierarchy([decay] * 2))), ValueError, ["learn needs the price", "costs"]),
    "no sde": (two(sde=decay), TypeError, ["sde must be an mlsde.SDE", "mlsde.SDE(drift"]),
    "state": (two(y0=[1.0]), TypeError, ["y0", "torch.as_tensor"]),
    "budget nothing": (two(budget=0.0), ValueError, ["budget", "above zero"]),
    "budget little": (two(budget=0.05), ValueError, ["budget", "between 0.08", "0.05"]),
    "budget full": (two(budget=80.0), ValueError, ["budget", "80", "every step"]),
    "budget text": (two(budget="much"), TypeError, ["budget", "number"]),
    "steps": (two(steps=0), ValueError, ["steps", "positive"]),
    "steps missing": (two(steps=None), ValueError, ["steps=", "times="]),
    "knots": (two(knots=0), ValueError, ["knots", "positive"]),
    "knots real": (two(knots=2.0), TypeError, ["knots", "positive integer"]),
    "knots many": (two(knots=11), ValueError, ["knots=11", "10 steps", "at most"]),
    "iterations": (two(iterations=0), ValueError, ["iterations", "positive"]),
    "samples": (two(samples=0), ValueError, ["samples", "positive"]),
    "samples one": (two(samples=1), ValueError, ["samples", "at least 2"]),
    "gradient": (two(gradient="exact"), ValueError, ["gradient='exact'", "surrogate", "score"]),
    "rate": (two(learning_rate=0.0), ValueError, ["learning_rate", "above zero"]),
    "seed": (two(seed=-1), ValueError, ["seed", "negative"]),
    "method": (two(method="rk4"), ValueError, ["method='rk4'", "euler"]),
    "heun": (two(method="heun"), ValueError, ["method='heun'", "impulses"]),
    "milstein": (two(method="milstein"), ValueError, ["method='milstein'", "use method='euler'"]),
    "exponential": (two(method="exponential"), ValueError, ["method='exponential'", "linear="]),
    "start": (two(start=mlsde.Constant([1.0])), ValueError, ["values", "2 levels"]),
    "numpy": (
        two(mlsde.from_numpy(lambda t, y: np.sin(y))), ValueError, ["drift level 2", "derivative", "without numpy"],
    ),
    "detached": (two(lambda t, y: torch.sin(y.detach())), ValueError, ["drift level 2", "derivative", "detach"]),
    "data pointer": (
        two(lambda t, y: torch.from_numpy(y.resolve_conj().numpy() * 1.0)), ValueError, ["drift level 2", "numpy"],
    ),
    "explodes": (
        two(lambda t, y: 1e30 * y**3, start=mlsde.Constant([0.5, 0.5])), ValueError, ["y0", "iteration 0", "smaller"],
    ),
}  # fmt: skip


@table(REFUSED)
def test_bad_input_is_refused_in_one_sentence(call, error, words):
    refused(call, error, *words)


def test_probabilities_of_logits_are_the_logistic_function():
    np.testing.assert_allclose(probabilities(np.array([0.0, -700.0, np.inf])), [0.5, math.exp(-700), 1.0])
