"""Which schedulers step affinely in the model's output: every one of diffusers, the published table, wrong twins."""

import inspect
import json
from pathlib import Path
from types import SimpleNamespace

import diffusers
import pytest
import torch

from mlsde.diffusion import linearity
from mlsde.diffusion.linearity import LEFT_OUT, SWITCHES, TOLERANCE, UNHEEDED, affine_in_output, scheduler_names

DOCS = Path(__file__).parent.parent / "docs"
RECORDED = json.loads((DOCS / "results" / "schedulers.json").read_text())
ROWS = {row["scheduler"]: row for row in RECORDED["schedulers"]}
ASKED = [name for name in scheduler_names() if name not in LEFT_OUT]


@pytest.mark.parametrize("name", ASKED)
def test_every_scheduler_of_images_is_affine_unless_it_clips(name):
    row = linearity.examined(name)
    assert row["unclipped_defect"] < TOLERANCE
    heeded = name not in UNHEEDED
    assert row["affine"] == (not any(row["switches"].values()) or not heeded)
    for defect in row["clipped_defect"].values():
        assert (defect > 0.5) == heeded and (defect < TOLERANCE) == (not heeded)
    if RECORDED["diffusers"] == diffusers.__version__:
        exact = ("switches", "affine", "unclipped_affine", "memory", "calls", "steps")
        assert {key: row[key] for key in exact} == {key: ROWS[name][key] for key in exact}


def test_what_is_known_of_memory_and_calls_is_found():
    forgetful = ("DDPM", "DDIM", "EulerDiscrete", "EulerAncestralDiscrete", "FlowMatchEulerDiscrete", "EDMEuler", "LCM")
    mindful = ("DPMSolverMultistep", "UniPCMultistep", "DEISMultistep", "LMSDiscrete", "PNDM", "IPNDM", "SASolver")
    assert not any(ROWS[f"{name}Scheduler"]["memory"] for name in (*forgetful, "TCD"))
    assert all(ROWS[f"{name}Scheduler"]["memory"] for name in (*mindful, "HeunDiscrete", "KDPM2Discrete"))
    assert ROWS["HeunDiscreteScheduler"]["calls"] == 19 and ROWS["DDIMScheduler"]["calls"] == 10


def test_every_scheduler_is_asked_or_left_out_for_a_reason():
    assert len(ASKED) > 30
    if RECORDED["diffusers"] == diffusers.__version__:
        assert sorted([*ROWS, *RECORDED["left_out"]]) == scheduler_names()
        assert set(LEFT_OUT) == set(RECORDED["left_out"])
    # a setting that bends the step under another name would go unnoticed
    for name in ASKED:
        parameters = inspect.signature(getattr(diffusers.schedulers, name)).parameters
        bent = {p for p in parameters if ("clip" in p or "threshold" in p) and not p.endswith(("_range", "_ratio"))}
        assert bent <= {*SWITCHES, "lambda_min_clipped"}, f"{name} has {bent}"  # the latter clips a noise level


def test_the_page_shows_the_recorded_table():
    assert linearity.section(RECORDED) in (DOCS / "adapter.md").read_text()
    assert RECORDED["tolerance"] == TOLERANCE


class Loop:
    """A scheduler made of a function of state and output."""

    def __init__(self, function):
        self.function, self.timesteps = function, []

    def set_timesteps(self, steps):
        self.timesteps = list(range(steps, 0, -1))
        self.last = 0.0

    def step(self, model_output, timestep, sample):
        state, self.last = self.function(sample, model_output, self.last), model_output
        return (state,)


@pytest.mark.parametrize(
    ("function", "affine", "memory"),
    [
        (lambda x, f, last: 0.9 * x - 0.3 * f, True, False),
        (lambda x, f, last: torch.sin(x) + 2.0, True, False),
        (lambda x, f, last: 0.9 * x + 1.5 * f - 0.5 * last, True, True),
        (lambda x, f, last: 0.9 * x + torch.tanh(f), False, False),
        (lambda x, f, last: 0.9 * x + 0.1 * f + 1e-3 * f**2, False, False),
        (lambda x, f, last: 0.9 * x + f * f.norm() / f.norm(), True, False),
        (lambda x, f, last: 0.9 * x + f / f.std(), False, False),
        (lambda x, f, last: x + 0.1 * f * last, False, True),
    ],
)
def test_twins_of_a_step_that_are_affine_and_those_that_are_not(function, affine, memory):
    found = affine_in_output(Loop(function), steps=2)
    assert (found.affine, found.memory, found.calls) == (affine, memory, 2)


def test_noise_that_is_not_the_same_for_all_runs_would_spoil_it():
    fresh = torch.Generator().manual_seed(0)
    noisy = Loop(lambda x, f, last: 0.9 * x + f + 0.1 * torch.randn(x.shape))
    assert affine_in_output(noisy).affine, "the global stream is put back before each step"
    unfixed = Loop(lambda x, f, last: 0.9 * x + f + 0.1 * torch.randn(x.shape, generator=fresh))
    assert not affine_in_output(unfixed).affine
    torch.manual_seed(3)
    before = torch.get_rng_state()
    affine_in_output(noisy)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("clip", "rescale"), [(False, 0.0), (True, 0.0), (False, 0.7)])
def test_the_mean_over_the_coins_is_the_step_of_the_top_level_only_if_the_step_is_affine(clip, rescale):
    """Both outcomes of one coin, weighed: what unbiased means, for DDIM, clipped, and with guidance rescaled."""
    scheduler = diffusers.DDIMScheduler(clip_sample=clip)
    scheduler.set_timesteps(10)
    generator = torch.Generator().manual_seed(0)
    x, small, large = torch.randn(3, 2, 1, 8, 8, generator=generator, dtype=torch.float64)

    def step(output):
        output = output * (1 - rescale + rescale / output.std())  # rescale_noise_cfg, arXiv 2305.08891
        return scheduler.step(output, scheduler.timesteps[4], x).prev_sample

    p = 0.25
    mean = p * step(small + (large - small) / p) + (1 - p) * step(small)
    bias = float((mean - step(large)).square().mean().sqrt())
    assert bias < 1e-12 if not clip and not rescale else bias > 0.05


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"scheduler": SimpleNamespace()}, TypeError, "scheduler must have 'set_timesteps'"),
        ({"theta": 1.0}, ValueError, "theta must be another number than 0 and 1"),
        ({"steps": 0}, ValueError, "steps must be a positive integer"),
        ({"seed": -1}, ValueError, "seed must not be negative"),
    ],
)
def test_bad_input_is_refused(options, error, words):
    scheduler = options.pop("scheduler", Loop(lambda x, f, last: f))
    with pytest.raises(error, match=words):
        affine_in_output(scheduler, **options)


def test_the_command_writes_the_numbers_and_renews_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(linearity, "scheduler_names", lambda: ["AmusedScheduler", "DDIMScheduler"])
    page, numbers = tmp_path / "page.md", tmp_path / "numbers.json"
    page.write_text("above\n<!-- schedulers: begin -->\nold\n<!-- schedulers: end -->\nbelow\n")
    assert linearity.main(["--json", str(numbers), "--markdown", str(page)]) == 0
    result = json.loads(numbers.read_text())
    assert [row["scheduler"] for row in result["schedulers"]] == ["DDIMScheduler"]
    assert result["left_out"] == {"AmusedScheduler": "tokens, not images"} and result["environment"]["torch"]
    shown = page.read_text()
    assert "| DDIM | **no**: `clip_sample` | yes |  | 1 |" in shown and "old" not in shown
    assert shown.startswith("above") and shown.endswith("below\n")
    assert linearity.section(result) in capsys.readouterr().out
