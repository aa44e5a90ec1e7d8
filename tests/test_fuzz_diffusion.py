"""Any draw of a diffusion ends where its denoisers say, or gives one clear error; so does any denoiser in a host."""

import math

import numpy as np
import pytest
import torch
from fuzzing import LADDERS, LEVELS, STATES, attempt, fuzz, odd, raises, tried, with_odds
from hypothesis import assume, given
from hypothesis import strategies as st

from mlsde import Constant, DriftHierarchy, Multilevel, Solution
from mlsde import diffusion as d
from mlsde.diffusion import denoisers as dn

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # what the adapter says of a run that was cut short

SAMPLERS = ["ddim", "ddpm", "euler", "heun", "dpm++2m", "dpm++3m"]
DDPM = d.DiscreteVariancePreserving.linear(20)
PROCESSES = [
    d.VariancePreserving(), d.VarianceExploding(0.02, 10.0), d.RectifiedFlow(0.01), d.CosineVariancePreserving(), DDPM,
]  # fmt: skip


def normal(process):
    """The exact noise in a state of a diffusion of standard normal data."""

    def noise(t, y):
        alpha, sigma = process.alpha(float(t)), process.sigma(float(t))
        return sigma / (alpha**2 + sigma**2) * y

    return noise


def clean(value):
    """A network that knows what is to come out."""
    return d.Denoiser(lambda x, told: torch.full_like(x, value), "clean")


VP = PROCESSES[0]
LADDER = DriftHierarchy([lambda t, y: 0.9 * y, normal(VP)], [1.0, 8.0])
SAMPLE = {
    "process": VP, "ladder": LADDER, "start": (2, 3), "sampler": "ddim", "steps": 4, "grid": None, "space": None,
    "churn": None, "multilevel": Multilevel(Constant([1.0, 0.5])), "extrapolate_in": None, "level": None, "seed": 0,
    "brownian": None, "save_at": None, "callback": None, "progress": False,
}  # fmt: skip


@fuzz()
@given(st.data(), st.sampled_from(SAMPLERS))
def test_a_draw_with_something_odd_in_it_is_a_solution_or_a_clear_error(data, sampler):
    sound = {**SAMPLE, "sampler": sampler, "multilevel": None if sampler == "heun" else SAMPLE["multilevel"]}
    arguments = with_odds(data, sound)
    found = tried(lambda: d.sample(**arguments), *SAMPLE, "times")
    if found is not None:
        assert isinstance(found, Solution) and found.ys.isfinite().all()


@fuzz()
@given(
    st.data(), st.sampled_from(PROCESSES), st.sampled_from(SAMPLERS), st.sampled_from(["uniform", "log_snr", "karras"]),
    st.integers(1, 9), st.floats(-2.0, 2.0),
)  # fmt: skip
def test_denoisers_that_know_the_sample_lead_to_it_by_every_way(data, process, sampler, grid, steps, value):
    assume(sampler not in ("euler", "heun"))  # they do not end at the clean data by one exact step
    ladder = d.denoiser_ladder([clean(value)] * 2, process=process, space="clean", costs=[1.0, 8.0])
    churn = data.draw(st.sampled_from([None, 0.0]), label="churn")
    rule = data.draw(
        st.none()
        | st.builds(
            lambda coins, correction, p: Multilevel(Constant([1.0, p]), coins, correction),
            st.sampled_from(["independent", "nested", "systematic"]), st.sampled_from(["impulse", "hold"]),
            st.floats(0.1, 1.0),
        )
    )  # fmt: skip
    y0 = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = attempt(
        lambda: d.sample(
            process, ladder, y0, sampler=sampler, steps=steps, grid=grid, space="clean", churn=churn, multilevel=rule
        ),
        "steps", "grid", "space", "sampler",
    )  # fmt: skip
    if found is not None:
        torch.testing.assert_close(found.y1, torch.full_like(y0, value), rtol=1e-6, atol=1e-6)


@fuzz()
@given(st.data(), st.sampled_from(SAMPLERS), st.lists(st.sampled_from(LADDERS), min_size=1, max_size=3), STATES)
def test_a_draw_from_odd_denoisers_and_states_is_a_solution_or_a_clear_error(data, sampler, kinds, start):
    process = data.draw(st.sampled_from(PROCESSES), label="process")
    space = data.draw(st.sampled_from([None, "noise", "clean"]), label="space")
    nets = data.draw(st.booleans(), label="nets")

    def drawn():
        if nets:
            predicts = data.draw(st.sampled_from(dn.PREDICTIONS), label="predicts")
            levels = [d.Denoiser(lambda x, told, f=LEVELS[kind]: f(told[0], x), predicts) for kind in kinds]
            ladder = d.denoiser_ladder(levels, process=process)
        else:
            ladder = DriftHierarchy([LEVELS[kind] for kind in kinds])
        return d.sample(process, ladder, start, sampler=sampler, steps=3, space=space)

    found = tried(drawn, "start", "y0", "level", "space", "sampler", "function", "steps", "edm", "t", "noise", "clean")
    assert found is None or found.ys.isfinite().all()


MADE = {
    d.VariancePreserving: {"beta_min": 0.1, "beta_max": 20.0},
    d.CosineVariancePreserving: {"offset": 0.008, "beta_max": 100.0},
    d.VarianceExploding: {"sigma_min": 0.1, "sigma_max": 10.0},
    d.RectifiedFlow: {"margin": 0.01},
    d.DiscreteVariancePreserving: {"alphas_cumprod": (0.9, 0.5, 0.1)},
    d.DiscreteVariancePreserving.from_betas: {"betas": (0.1, 0.2)},
    d.DiscreteVariancePreserving.linear: {"timesteps": 10, "beta_start": 0.01, "beta_end": 0.1},
    d.DiscreteVariancePreserving.scaled_linear: {"timesteps": 10, "beta_start": 0.01, "beta_end": 0.1},
    d.DiscreteVariancePreserving.squared_cosine: {"timesteps": 10, "beta_max": 0.9},
    d.DiscreteVariancePreserving.from_scheduler: {"scheduler": None},
}  # fmt: skip


@fuzz()
@given(st.data(), st.sampled_from(list(MADE)))
def test_a_process_with_something_odd_in_it_is_a_process_or_a_clear_error(data, function):
    arguments = with_odds(data, MADE[function])
    process = attempt(lambda: function(**arguments), *MADE[function], "betas", "alphas_cumprod")
    if process is None:
        return
    for t in np.linspace(*process.inner_span, 5).tolist():
        alpha, sigma = process.alpha(t), process.sigma(t)
        assert math.isfinite(alpha) and math.isfinite(sigma) and alpha >= 0 and sigma >= 0
        if 0 < t < 1 and alpha > 1e-6 and sigma > 1e-6:
            assert process.time(process.log_snr(t)) == pytest.approx(t, rel=1e-5, abs=1e-5)
    found = attempt(lambda: process.uniform_grid(3), "steps")
    assert found is None or np.isfinite(found).all()


@fuzz()
@given(st.data(), st.sampled_from(PROCESSES))
def test_a_process_asked_oddly_answers_or_gives_a_clear_error(data, process):
    x = torch.ones(2, 3)
    calls = {
        process.uniform_grid: {"steps": 4, "to_clean": True},
        process.log_snr_grid: {"steps": 4, "to_clean": False},
        process.karras_grid: {"steps": 4, "rho": 7.0, "to_clean": True},
        process.time: {"log_snr": 0.3},
        process.prior: {"shape": (2, 3), "generator": None, "dtype": None, "device": None},
        process.noised: {"x0": x, "t": process.inner_span[0], "noise": x},
        process.reverse: {"denoisers": LADDER, "churn": 0.5, "space": "clean"},
    }
    call = data.draw(st.sampled_from(list(calls)), label="call")
    arguments = with_odds(data, calls[call])
    found = attempt(lambda: call(**arguments), *calls[call], "drift")
    if isinstance(found, np.ndarray):
        assert np.isfinite(found).all() and len(found) > 1


DENOISER = {
    "model": lambda x, told: x, "predicts": "v", "process": None, "timestep": None, "call": None, "conditioning": {},
}  # fmt: skip
GUIDED = {"denoiser": clean(0.0), "scale": 2.0, "conditional": {}, "unconditional": {}}
DENOISERS = {
    "denoisers": [clean(0.0), clean(1.0)], "process": VP, "space": "clean", "costs": [1.0, 8.0], "names": None,
    "differences": False,
}  # fmt: skip


@fuzz()
@given(st.data(), st.sampled_from(list(zip([d.Denoiser, d.guided], [DENOISER, GUIDED], strict=True))))
def test_a_denoiser_with_something_odd_in_it_says_what_it_sees_or_gives_a_clear_error(data, made):
    function, sound = made
    arguments = with_odds(data, sound)
    denoiser = attempt(lambda: function(**arguments), *sound)
    if denoiser is None:
        return
    assert "Denoiser" in repr(denoiser)
    x = torch.ones(2, 3)
    names = (*sound, type(denoiser.model).__name__, "told")
    seen = attempt(lambda: dn.DenoiserLevel(denoiser, VP, "noise")(torch.tensor(0.5), x), *names)
    assert seen is None or seen.shape == x.shape


parts = odd | st.just(torch.ones(2, 1)) | st.just(torch.ones(1, 4)) | st.lists(odd, max_size=2).map(tuple)
conditionings = st.dictionaries(st.sampled_from(["a", "b"]), parts | st.dictionaries(st.just("c"), parts), max_size=2)


@fuzz()
@given(conditionings, conditionings, st.booleans(), st.floats(-2.0, 4.0))
def test_guidance_by_anything_is_the_mixture_of_both_or_a_clear_error(first, second, alike, scale):
    second = first if alike else second
    net = d.Denoiser(lambda x, told, **given: x * (1.0 + len(given)), "noise")
    x = torch.ones(2, 3)
    names = ("conditional", "unconditional", "conditioning", "function", "scale")
    found = attempt(lambda: d.guided(net, scale, conditional=first, unconditional=second).output(0.5, x), *names)
    if found is not None:
        torch.testing.assert_close(found, x * (1.0 + len(first)))
    alone = attempt(lambda: d.Denoiser(net.model, "noise", conditioning=first).output(0.5, x), *names)
    assert alone is None or torch.equal(alone, x * (1.0 + len(first)))


@fuzz()
@given(st.data())
def test_a_ladder_of_denoisers_with_something_odd_in_it_is_one_or_a_clear_error(data):
    arguments = with_odds(data, DENOISERS)
    found = attempt(lambda: d.denoiser_ladder(**arguments), *DENOISERS)
    assert found is None or (isinstance(found, DriftHierarchy) and len(found) == len(arguments["denoisers"]))


@fuzz()
@given(
    st.sampled_from(dn.PREDICTIONS), st.sampled_from(dn.PREDICTIONS), st.sampled_from(PROCESSES), st.floats(0.0, 1.0),
    st.floats(-2.0, 2.0), st.floats(-2.0, 2.0),
)  # fmt: skip
def test_any_two_conventions_say_the_same(source, target, process, part, x0, eps):
    (first, last) = process.t_span
    t = first + part * (last - first)
    alpha, sigma = process.alpha(t), process.sigma(t)
    assume(alpha > 1e-3 and sigma > 1e-3)
    of = {name: math.fsum(c * v for c, v in zip(dn.coefficients(name, process, t), (x0, eps), strict=True))
          for name in dn.PREDICTIONS}  # fmt: skip
    x = torch.tensor([alpha * x0 + sigma * eps], dtype=torch.float64)
    value = torch.tensor([of[source]], dtype=torch.float64)
    found = attempt(lambda: dn.convert(value, x, process, t, source=source, target=target), "t")
    if found is not None:
        size = 1.0 + abs(of[source]) + abs(of[target]) + abs(float(x))
        assert float(found) == pytest.approx(of[target], rel=1e-6, abs=1e-6 * size / min(alpha, sigma))


ADAPTER = {
    "models": [lambda x, t: 0.5 * x, lambda x, t: x], "multilevel": Multilevel(Constant([1.0, 0.5])), "steps": 3,
    "scheduler": None, "timesteps": None, "seed": 0, "costs": [1.0, 8.0], "names": None, "clipping": "warn",
}  # fmt: skip


@fuzz()
@given(st.data())
def test_a_denoiser_for_hosts_with_something_odd_in_it_serves_or_gives_a_clear_error(data):
    arguments = with_odds(data, ADAPTER)
    model = attempt(lambda: d.MultilevelDenoiser(**arguments), *ADAPTER)
    if model is not None:
        assert "MultilevelDenoiser" in repr(model)
        x = torch.ones(2, 3)
        for t in (1.0, 0.5, 0.25):
            out = attempt(lambda t=t: model(x, t), *ADAPTER, "timestep", "level", "FLOP")
            assert out is None or out.shape == x.shape
        model.reset()


@fuzz()
@given(st.data(), st.lists(st.sampled_from(LADDERS), min_size=1, max_size=3), STATES, odd | st.floats(0.0, 1.0))
def test_a_host_that_asks_oddly_is_answered_or_gets_a_clear_error(data, kinds, state, when):
    models = [lambda x, t, f=LEVELS[kind]: f(torch.tensor(0.5), x) for kind in kinds]
    p = data.draw(st.floats(0.1, 1.0), label="p")
    coins = data.draw(st.sampled_from(["independent", "systematic", "periodic"]), label="coins")
    share = data.draw(st.sampled_from(["batch", "sample"]), label="share")
    rule = Multilevel(Constant([1.0] + [p] * (len(kinds) - 1)), coins, "hold", share)
    model = d.MultilevelDenoiser(models, multilevel=rule, steps=4)
    sample = data.draw(st.just(state) | odd, label="sample")
    for t in (when, 0.25):
        found = attempt(lambda t=t: model(sample, t), "state", "time", "level", "timestep", "steps", "coins", "seed")
        assert found is None or len(found) == len(sample)  # the outputs of nets need not have the state's shape


@fuzz(0.5)
@given(st.integers(1, 6), st.sampled_from(["batch", "sample"]), st.booleans(), st.integers(0, 5))
def test_a_host_sees_the_last_net_where_every_level_fires(steps, share, planned, seed):
    rule = Multilevel(Constant([1.0, 1.0]), "systematic", "hold", share) if planned else None
    model = d.MultilevelDenoiser([raises, lambda x, t: torch.sin(x) * t], multilevel=rule, steps=steps, seed=seed)
    x = torch.linspace(-1.0, 1.0, 6).view(3, 2)
    for t in np.linspace(1.0, 0.1, steps).tolist():
        assert torch.equal(model(x, t), torch.sin(x) * t)
