"""What the adapter refuses, or warns of, and when."""

import re
from types import SimpleNamespace

import pytest
import torch
from adapter_toys import P, Toy, calls, denoiser, nets, rule, scheduler, start

import mlsde
from mlsde.diffusion.adapter import MultilevelDenoiser


def configured(**config):
    net = Toy(1.0)
    net.config = SimpleNamespace(**config)
    return net


def first_call(model, x=None, t=0.5):
    return model(start() if x is None else x, t)


def doubled(x, t):
    return torch.cat([x, x], dim=1)


def unset():
    return SimpleNamespace(timesteps=torch.arange(1000), num_inference_steps=None, config=SimpleNamespace())


REFUSALS = {
    "no models": (lambda: MultilevelDenoiser([]), ValueError, "models must hold at least one network"),
    "one model": (lambda: MultilevelDenoiser(Toy(1.0)), TypeError, "models must be a list of networks.*got Toy"),
    "not callable": (lambda: MultilevelDenoiser([Toy(1.0), 3]), TypeError, r"models\[1\] \(level 2\).*got int"),
    "dtypes": (
        lambda: MultilevelDenoiser([Toy(1.0).double(), Toy(1.0)]),
        ValueError,
        "level 1 is torch.float64 on cpu, but level 2 is torch.float32 on cpu",
    ),
    "devices": (
        lambda: MultilevelDenoiser([Toy(1.0).to("meta"), Toy(1.0)]),
        ValueError,
        "level 1 is torch.float32 on meta",
    ),
    "channels": (
        lambda: MultilevelDenoiser([configured(in_channels=3), configured(in_channels=4)]),
        ValueError,
        "level 1 has in_channels=3, but level 2 has 4",
    ),
    "learned variance": (
        lambda: MultilevelDenoiser([configured(out_channels=3), Toy(1.0), configured(out_channels=6)]),
        ValueError,
        "level 1 has out_channels=3, but level 3 has 6",
    ),
    "sizes": (
        lambda: MultilevelDenoiser([configured(sample_size=[8, 8]), configured(sample_size=(8, 16))]),
        ValueError,
        r"level 1 has sample_size=\(8, 8\), but level 2 has \(8, 16\)",
    ),
    "multilevel": (lambda: denoiser(mlsde.Constant(P)), TypeError, "multilevel must be an mlsde.Multilevel or None"),
    "no steps": (lambda: MultilevelDenoiser(nets(), multilevel=rule()), ValueError, "steps=, scheduler= or timesteps="),
    "steps": (lambda: denoiser(steps=0), ValueError, "steps must be a positive integer"),
    "steps of float": (lambda: denoiser(steps=5.0), TypeError, "steps must be a positive integer"),
    "two schedules": (
        lambda: denoiser(timesteps=[1.0], scheduler=scheduler([1.0])),
        ValueError,
        "scheduler= and timesteps= were both given",
    ),
    "no scheduler": (lambda: denoiser(scheduler="ddim"), TypeError, r"scheduler must have \.timesteps.*got str"),
    "timesteps": (lambda: denoiser(timesteps="abc"), TypeError, "timesteps must hold numbers"),
    "disagreement": (
        lambda: denoiser(timesteps=[3.0, 2.0, 2.0], steps=3),
        ValueError,
        "steps=3 was given with timesteps= of 2 distinct values",
    ),
    "seed": (lambda: denoiser(seed=-1), ValueError, "seed must not be negative"),
    "seed of text": (lambda: denoiser(seed="7"), TypeError, "seed must be"),
    "no seeds": (lambda: denoiser(seed=[]), ValueError, "seed must be an integer or hold one for each picture"),
    "costs": (lambda: denoiser(costs=[1.0]), ValueError, "costs holds 1 prices, but there are 3 levels"),
    "costs of text": (lambda: denoiser(costs="seconds"), ValueError, "costs='seconds' is not known"),
    "names": (lambda: denoiser(names=["a"]), ValueError, "names holds 1 names"),
    "clipping": (lambda: denoiser(clipping="ignore"), ValueError, "clipping='ignore' is not known"),
    "no state": (denoiser(), TypeError, "a denoiser needs the state"),
    "no time": (lambda: denoiser()(start()), TypeError, "a denoiser needs the time"),
    "a state of numbers": (lambda: denoiser()([1.0], 0.5), TypeError, "the state must be a tensor"),
    "several times": (
        lambda: denoiser()(start(), torch.tensor([0.5, 0.5, 0.4])),
        ValueError,
        "the time must be the same for all samples",
    ),
    "no finite time": (lambda: denoiser()(start(), float("nan")), ValueError, "the time must be finite"),
    "probabilities": (lambda: first_call(denoiser(rule((1.0, 0.5)))), ValueError, "values holds 2 probabilities"),
    "seeds for a batch": (lambda: first_call(denoiser(seed=[1, 2, 3])), ValueError, "one coin for all"),
    "wrong number of seeds": (
        lambda: first_call(denoiser(rule(share="sample"), seed=[1, 2])),
        ValueError,
        "seed holds 2 seeds, but the batch has 3 samples",
    ),
    "unset scheduler": (
        lambda: first_call(denoiser(scheduler=unset())),
        ValueError,
        "has not been told its timesteps",
    ),
    "another scheduler": (
        lambda: first_call(denoiser(scheduler=scheduler([900, 600])), t=500),
        ValueError,
        r"timestep 500 is none of the 2 of scheduler= \(from 900 to 600\)",
    ),
    "timesteps that go back": (
        lambda: first_call(denoiser(timesteps=[3.0, 1.0, 2.0]), t=3.0),
        ValueError,
        "timesteps= must hold timesteps that fall or rise throughout",
    ),
    "no flops": (
        lambda: first_call(denoiser(models=[lambda x, t: x] * 3, costs="flops")),
        ValueError,
        "level 1 does nothing that torch's FLOP counter counts",
    ),
    "shapes of outputs": (
        lambda: first_call(denoiser(rule((1.0, 0.5)), [lambda x, t: x, doubled])),
        ValueError,
        r"level 2 returned shape \(3, 4\), expected \(3, 2\)",
    ),
    "no output": (
        lambda: first_call(denoiser(models=[lambda x, t: (x, x)] * 3)),
        TypeError,
        "level 1 must return a tensor, a 1-tuple or an object with .sample, got a tuple of 2",
    ),
    "not saved": (lambda: denoiser().save_pretrained("nowhere"), ValueError, r"level 1 \(Toy\) has no save_pretrained"),
}


@pytest.mark.parametrize(("call", "error", "words"), REFUSALS.values(), ids=REFUSALS.keys())
def test_what_cannot_be_is_refused_in_one_sentence(call, error, words):
    with pytest.raises(error, match=words) as caught:
        call()
    message = str(caught.value)
    assert "mlsde" in caught.traceback[-1].path.parts and "raise " in str(caught.traceback[-1].statement)
    assert message.endswith((".", ").")) and "\n" not in message
    assert not re.findall(r"[a-z)][.] [A-Z]", message), "more than one sentence"


def test_a_timestep_that_is_not_the_schedulers_next_is_refused():
    model = denoiser(scheduler=scheduler([900, 600, 300]))
    model(start(), 900)
    with pytest.raises(ValueError, match=r"timestep 300 came at step 1, where scheduler= has 600"):
        model(start(), 300)


def test_a_later_call_with_other_pictures_is_refused():
    model = denoiser(rule(share="sample"), seed=[1, 2, 3])
    model(start(3), 1.0)
    with pytest.raises(ValueError, match="a call has 4 samples, expected a multiple of the 3 pictures"):
        model(start(4), 0.5)


def test_clipping_is_told_before_the_first_evaluation():
    clipping = {name: scheduler([900, 600, 300], **{name: True}) for name in ("clip_sample", "thresholding")}
    for name, host in clipping.items():
        model = denoiser(scheduler=host)
        with pytest.warns(UserWarning, match=rf"{name}=True.*register_to_config\({name}=False\)"):
            model(start(), 900)
        model.reset()
        model(start(), 900)
        denoiser(scheduler=host, clipping="allow")(start(), 900)
        denoiser(rule((1.0, 1.0, 1.0)), scheduler=host, clipping="refuse")(start(), 900)
        strict = denoiser(scheduler=host, clipping="refuse")
        with pytest.raises(ValueError, match=f"{name}=True"):
            strict(start(), 900)
        assert calls(strict) == [0, 0, 0]
    denoiser(scheduler=scheduler([900, 600], clip_sample=False, thresholding=False))(start(), 900)
    heedless = type("CogVideoXDDIMScheduler", (), vars(clipping["clip_sample"]))()
    denoiser(scheduler=heedless, clipping="refuse")(start(), 900)


def test_an_error_within_a_level_says_which():
    def fails(x, t):
        raise RuntimeError("out of luck")

    model = denoiser(rule((1.0, 1.0)), [lambda x, t: x, fails])
    with pytest.raises(RuntimeError, match="out of luck") as caught:
        model(start(), 0.5)
    assert caught.value.__notes__ == ["raised by level 2 of the ladder at timestep 0.5"]


@pytest.mark.parametrize("rule", ["auto", mlsde.Constant([1.0, 0.5])])
def test_a_rule_that_is_none_is_refused_when_it_is_set(rule):
    model = mlsde.diffusion.MultilevelDenoiser([lambda x, t: x, lambda x, t: x], steps=5)
    with pytest.raises(TypeError, match=r"multilevel must be an mlsde\.Multilevel or None"):
        model.multilevel = rule
    assert model.multilevel is None
