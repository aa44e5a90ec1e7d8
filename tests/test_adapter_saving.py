"""Ladders and pipelines with ladders on disk: what comes back, and what is refused."""

import json
import logging
import re
import shutil
import sys

import diffusers
import pytest
import torch
from adapter_hosts import (
    STEPS,
    Host,
    ddpm,
    ladder,
    stable_diffusion,
    unets,
)

import mlsde
from mlsde.diffusion.adapter import MultilevelDenoiser


def quiet(make, *args, **kwargs):
    """Diffusers says that the type is not the expected one, and draws bars."""
    logger = logging.getLogger("diffusers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return make(*args, **kwargs)
    finally:
        logger.setLevel(level)


def test_a_saved_pipeline_comes_back_with_its_ladder_and_the_same_picture(tmp_path):
    host = ddpm()
    model = ladder(host, steps=STEPS, seed=3, costs=[1.0, 4.0], names=["small", "large"])
    picture = host(model)
    quiet(host.pipe.save_pretrained, tmp_path)
    assert sorted(path.name for path in (tmp_path / "unet").iterdir()) == ["config.json", "level-1", "level-2"]
    assert not list(tmp_path.rglob("*.bin"))
    pipe = quiet(diffusers.DDPMPipeline.from_pretrained, tmp_path)
    again = Host(pipe, host.nets, **host.options)
    assert torch.equal(again(), picture)
    assert repr(pipe.unet) == repr(model).replace("values=(1, 0.4)", "values=[1, 0.4]")
    assert pipe.unet.stats.cost == model.stats.cost and pipe.unet.names == ("small", "large")


def test_a_ladder_saved_with_a_scheduler_asks_for_it_and_the_dtype_goes_through(tmp_path):
    host = stable_diffusion(3.0)
    picture = host(ladder(host))
    getattr(host.pipe, host.name).save_pretrained(tmp_path)
    again = MultilevelDenoiser.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"scheduler= is missing.*pipe\.unet\.scheduler = pipe\.scheduler"):
        host(again)
    again.scheduler = host.pipe.scheduler
    assert torch.equal(host(again), picture)
    assert torch.equal(host(MultilevelDenoiser.from_pretrained(tmp_path, scheduler=host.pipe.scheduler)), picture)
    assert MultilevelDenoiser.from_pretrained(tmp_path, torch_dtype=torch.bfloat16).dtype == torch.bfloat16


RULES = [
    mlsde.PowerLaw(gamma=2.0, budget=30.0),
    mlsde.Constant([1.0, 0.3]),
    mlsde.Optimal([1.0, 0.01], budget=25.0, order=2.0),
    mlsde.Learned((1.0, 0.0), ((1.0, 0.2), (1.0, 0.8))),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_every_rule_that_is_made_of_numbers_comes_back(tmp_path, rule):
    multilevel = mlsde.Multilevel(rule, coins="nested", correction="control", share="sample", seed=4)
    model = MultilevelDenoiser(unets(), multilevel=multilevel, steps=STEPS, costs=[1.0, 4.0])
    model.save_pretrained(tmp_path)
    again = MultilevelDenoiser.from_pretrained(tmp_path)
    assert again.multilevel == multilevel
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(again(x, 900).sample, model(x, 900).sample)
    assert again.plan.probabilities.tolist() == model.plan.probabilities.tolist()


class Own(diffusers.UNet2DModel):
    """A net of one's own."""


class Nameless(torch.nn.Linear):
    """A module that cannot be saved."""


def saved(folder, **options):
    options = {"multilevel": mlsde.Multilevel(mlsde.Constant([1.0, 0.4])), "steps": STEPS, **options}
    MultilevelDenoiser(options.pop("models", None) or unets(), **options).save_pretrained(folder)
    return folder


def edited(folder, **changes):
    page = json.loads((saved(folder) / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**page, **changes}))


def truncated(folder):
    file = saved(folder) / "level-2" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def pickled(folder):
    file = saved(folder) / "level-1" / "diffusion_pytorch_model.safetensors"
    file.rename(file.with_suffix(".bin"))


def missing(folder):
    (saved(folder) / "level-2" / "diffusion_pytorch_model.safetensors").unlink()


def of_another_net(folder):
    saved(folder)
    wide = saved(folder / "other", models=unets(4, 16))
    shutil.copy(wide / "level-2" / "diffusion_pytorch_model.safetensors", folder / "level-2")


def lacking(folder):
    from safetensors.torch import load_file, save_file

    file = saved(folder) / "level-2" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    del weights["conv_in.weight"]
    save_file(weights, file, {"format": "pt"})


def without_config(folder):
    (saved(folder) / "level-1" / "config.json").unlink()


def unindexed(folder):
    index = {"weight_map": {"conv_in.weight": "diffusion_pytorch_model-00002-of-00002.safetensors"}}
    file = saved(folder) / "level-2" / "diffusion_pytorch_model.safetensors.index.json"
    file.write_text(json.dumps(index))


def torn(folder):
    (saved(folder) / "config.json").write_text("{")


def loaded(spoil, **options):
    def call(folder):
        spoil(folder)
        MultilevelDenoiser.from_pretrained(folder, **options)

    return call


def function(t):
    return (1.0, 0.5)


BAD = {
    "no page": (loaded(lambda folder: None), FileNotFoundError, "config.json' does not exist"),
    "torn page": (loaded(torn), ValueError, "config.json' is damaged or no JSON"),
    "another page": (loaded(lambda f: edited(f, _class_name="UNet2DModel")), ValueError, "not of a MultilevelDenoiser"),
    "another format": (loaded(lambda f: edited(f, format=2)), ValueError, "is of format 2, and this version reads 1"),
    "a rule": (
        loaded(lambda f: edited(f, multilevel={"probabilities": {"rule": "eval"}})),
        ValueError,
        "config.json' is damaged, multilevel",
    ),
    "truncated": (loaded(truncated), ValueError, "level-2/diffusion_pytorch_model.safetensors' is missing, truncated"),
    "missing": (loaded(missing), ValueError, "level-2/diffusion_pytorch_model.safetensors' does not exist"),
    "a missing shard": (loaded(unindexed), ValueError, "model-00002-of-00002.safetensors' is missing"),
    "a pickle": (loaded(pickled), ValueError, "diffusion_pytorch_model.bin is a pickle, which is not read"),
    "another net": (loaded(of_another_net), ValueError, "level-2' could not be read as a UNet2DModel"),
    "lacking weights": (loaded(lacking), ValueError, "level-2' are of another net: they lack 'conv_in.weight'"),
    "no config": (loaded(without_config), ValueError, "level-1' could not be read as a UNet2DModel"),
    "an unknown class": (
        loaded(lambda f: edited(f, levels=[["nowhere.nets", "Net"]] * 2)),
        ValueError,
        "is a Net of nowhere.nets, which is not a model known here; import nowhere.nets first",
    ),
    "no model": (loaded(lambda f: edited(f, levels=[["subprocess", "Popen"]])), ValueError, "a Popen of subprocess"),
    "device map": (loaded(saved, device_map="auto"), ValueError, "device_map= is not supported for a ladder"),
    "a function": (
        lambda folder: saved(folder, multilevel=mlsde.Multilevel(function)),
        ValueError,
        "being a function or a rule of your own",
    ),
    "a function within": (
        lambda folder: saved(folder, multilevel=mlsde.Multilevel(mlsde.Optimal(function, budget=1.0))),
        ValueError,
        "variances of Optimal is a function, which is not saved",
    ),
    "a plain module": (
        lambda folder: saved(folder, models=[Nameless(1, 1), Nameless(1, 1)]),
        ValueError,
        r"level 1 \(Nameless\) has no save_pretrained",
    ),
    "a variant": (
        lambda folder: MultilevelDenoiser(unets()).save_pretrained(folder, variant="fp16"),
        ValueError,
        "variant='fp16' is not supported",
    ),
    "as pickles": (
        lambda folder: MultilevelDenoiser(unets()).save_pretrained(folder, safe_serialization=False),
        ValueError,
        "safe_serialization=False would write pickles",
    ),
}


@pytest.mark.parametrize(("call", "error", "words"), BAD.values(), ids=BAD.keys())
def test_what_is_wrong_with_a_folder_is_said_in_one_sentence(tmp_path, call, error, words):
    with pytest.raises(error, match=words) as caught:
        quiet(call, tmp_path)
    message = str(caught.value)
    assert type(caught.value) is error and message.endswith(".") and "\n" not in message
    assert not re.findall(r"[a-z)][.] [A-Z]", message), "more than one sentence"


def test_nothing_is_written_if_the_settings_cannot_be(tmp_path):
    with pytest.raises(ValueError, match="not saved"):
        saved(tmp_path / "new", multilevel=mlsde.Multilevel(function))
    assert not (tmp_path / "new").exists()


def test_a_net_of_ones_own_comes_back_if_its_module_is_there(tmp_path):
    own = Own(**dict(unets()[0].config))
    saved(tmp_path, models=[own, unets()[1]])
    assert type(MultilevelDenoiser.from_pretrained(tmp_path).levels[0]) is Own
    module = sys.modules.pop(__name__)
    try:
        with pytest.raises(ValueError, match=f"is a Own of {__name__}"):
            MultilevelDenoiser.from_pretrained(tmp_path)
    finally:
        sys.modules[__name__] = module
