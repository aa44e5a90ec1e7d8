"""Training: the loss, averages and rates by hand, who teaches whom, the held-out error, and what is refused."""

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from refusals import table
from training_toys import IMAGES, TIMES, Line, Toy, refused, same_state, same_weights, settings, steps, toys, training

from mlsde.diffusion.data import as_floats, load_images
from mlsde.diffusion.denoisers import to_clean
from mlsde.diffusion.processes import RectifiedFlow
from mlsde.diffusion.training import Settings, Times, Training
from mlsde.diffusion.variance_preserving import VariancePreserving

# the loss by hand


def test_noisy_images_and_what_nets_should_say_of_them():
    times = Times(torch.tensor([0.6, 1.0]), torch.tensor([0.8, 0.0]), torch.zeros(2))
    clean, noise, index = torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), -1.0), torch.tensor([0])
    assert float(times.noisy(index, clean, noise)) == pytest.approx(0.6 * 2 - 0.8)
    said = {predicts: float(times.target(predicts, index, clean, noise)) for predicts in ("noise", "clean", "v")}
    assert said == pytest.approx({"noise": -1.0, "clean": 2.0, "v": 0.6 * -1 - 0.8 * 2})


@pytest.mark.parametrize(("clip", "noise", "clean", "v"), [(5.0, 1.0, 0.5625, 0.36), (0.25, 0.25 / 0.5625, 0.25, 0.16)])
def test_min_snr_weights_by_hand(clip, noise, clean, v):
    times = Times(torch.tensor([0.6]), torch.tensor([0.8]), torch.zeros(1))
    for predicts, weight in (("noise", noise), ("clean", clean), ("v", v)):
        assert float(times.min_snr(predicts, torch.tensor([0]), clip)) == pytest.approx(weight, rel=1e-6)


@pytest.mark.parametrize("process", [VariancePreserving(), RectifiedFlow()], ids=repr)
@pytest.mark.parametrize("t", [0.02, 0.3, 0.8])
@pytest.mark.parametrize("predicts", ["noise", "clean", "v"])
def test_min_snr_weighs_the_error_of_the_clean_image_by_the_snr_up_to_its_clip(process, t, predicts):
    times, index = Times.of(process, [t], [t]), torch.tensor([0])
    x, said, should = torch.tensor([0.3, 1.7, -0.4]).view(3, 1, 1, 1, 1).double()
    error = to_clean(said, x, process, t, predicts) - to_clean(should, x, process, t, predicts)
    snr = (process.alpha(t) / process.sigma(t)) ** 2
    expected = min(snr, 5.0) * float(error.square())
    weight = times.min_snr(predicts, index, 5.0)
    assert float(weight * (said - should).square()) == pytest.approx(expected, rel=1e-5)
    twice = times.min_snr(predicts, index, 10.0)  # the clip counts where it should and nowhere else
    assert float(twice / weight) == pytest.approx(min(snr, 10.0) / min(snr, 5.0), rel=1e-5)


def test_min_snr_is_finite_where_there_is_no_signal_or_no_noise():
    times, index = Times(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0]), torch.zeros(2)), torch.tensor([0, 1])
    found = {predicts: times.min_snr(predicts, index, 5.0).flatten().tolist() for predicts in ("noise", "clean", "v")}
    assert found == {"noise": [1.0, 0.0], "clean": [0.0, 5.0], "v": [0.0, 0.0]}


ONE = settings(steps=1, batch=20, evaluate_every=1, predicts="clean")


def first_losses(models, **changes):
    run = training(models, settings(**{**vars(ONE), **changes}))
    run.run()
    return run.history[0]["train"]


def test_loss_is_the_mean_square_error_of_what_is_predicted():
    # a net that says 0 misses the images themselves, all of which are in the batch
    power = float(as_floats(IMAGES.train).square().mean())
    assert first_losses([Line(0.0)]) == pytest.approx([power], rel=1e-6)
    of_noise, of_v = (first_losses([Line(0.0)], predicts=predicts)[0] for predicts in ("noise", "v"))
    assert of_noise == pytest.approx(1.0, abs=0.3)
    assert min(power, 1.0) - 0.3 < of_v < max(power, 1.0) + 0.3


def test_distillation_mixes_the_error_with_the_distance_to_the_neighbour():
    apart = [Line(0.0), Line(0.0)]
    plain, half, all_of_it = (first_losses(copy.deepcopy(apart), distil=d) for d in (0.0, 0.5, 1.0))
    assert half == pytest.approx([0.5 * plain[0], plain[1]])
    assert all_of_it == [0.0, plain[1]]  # they agree already
    moved = first_losses([Line(0.0), Line(1.0)], distil=1.0)
    noisy = first_losses([Line(1.0)], predicts="clean", distil=0.0)
    assert moved[1] == noisy[0]
    # the distance of "0" and "x" is x itself: alpha^2 x0^2 + sigma^2 and what they have in common
    again = training([Line(0.0)], ONE)
    clean, index, noise = again._batch(0)
    assert moved[0] == pytest.approx(float(TIMES.noisy(index, clean, noise).square().mean()), rel=1e-6)


def test_weights_of_the_times_enter_the_loss():
    run = training([Line(0.0)], ONE)
    clean, index, _ = run._batch(0)
    expected = float((TIMES.min_snr("clean", index, 5.0) * clean.square()).mean())
    assert first_losses([Line(0.0)], weighting="min-snr") == pytest.approx([expected], rel=1e-6)
    assert first_losses([Line(0.0)])[0] != pytest.approx(expected, rel=0.05)


# batches


def test_a_pass_shows_every_image_once_and_spreads_the_times_evenly():
    run = training(wished=settings(batch=5))
    batches = [run._batch(n) for n in range(8)]
    for part in (batches[:4], batches[4:]):
        shown = torch.cat([clean for clean, _, _ in part]).flatten(1).tolist()
        assert sorted(shown) == sorted(as_floats(IMAGES.train).flatten(1).tolist())
    assert not torch.equal(batches[0][0], batches[4][0])
    many = Times.of(VariancePreserving(), np.linspace(0.1, 0.9, 100).tolist(), [0.0] * 100)
    index = training(wished=settings(batch=20), times=many)._batch(0)[1]
    assert sorted((index // 5).tolist()) == list(range(20))  # one time in each twentieth
    assert index.tolist() != sorted(index.tolist())
    assert all(
        torch.equal(*pair) for pair in zip(run._batch(3), training(wished=settings(batch=5))._batch(3), strict=True)
    )


# averages and rates by hand


def test_average_of_two_steps_by_hand():
    run = training([Line(1.0)], settings(average=0.999))
    weights = [1.0]
    for _ in range(2):
        run.run(most_seconds=1e-9)
        weights.append(run.models[0].weight.item())
    first = 0.1 * weights[0] + 0.9 * weights[1]  # the decay rises as (1 + n) / (10 + n)
    second = 2 / 11 * first + 9 / 11 * weights[2]
    assert run.averages[0].weight.item() == pytest.approx(second, rel=1e-6)
    assert len(set(weights)) == 3


def test_average_decays_at_most_as_asked():
    run = training([Line(1.0)], settings(average=0.05))
    run.run(most_seconds=1e-9)
    assert run.averages[0].weight.item() == pytest.approx(0.05 + 0.95 * run.models[0].weight.item(), rel=1e-6)


def test_averaged_nets_have_the_latest_buffers():
    class Counting(Line):
        def __init__(self):
            super().__init__(1.0)
            self.register_buffer("seen", torch.tensor(0))

        def forward(self, x, told):
            self.seen += self.training
            return super().forward(x, told)

    run = training([Counting()])
    run.run()
    assert int(run.averages[0].seen) == 6


def test_rate_rises_in_a_line_and_falls_along_a_cosine():
    wished = settings(steps=100, warmup=9, learning_rates=(1.0, 0.5))
    assert wished.rate(0, 0) == pytest.approx(0.1)
    assert wished.rate(4, 0) == pytest.approx(0.5 * 0.5 * (1 + math.cos(math.pi * 0.04)))
    assert wished.rate(50, 0) == pytest.approx(0.5)
    assert wished.rate(75, 1) == pytest.approx(0.25 * (1 - math.sqrt(0.5)))
    assert wished.rate(100, 0) == pytest.approx(0.0)
    assert settings(learning_rates=3.0, warmup=0).rate(0, 2) == 3.0


def test_every_step_is_made_at_its_rate():
    wished = settings(learning_rates=(1e-2, 3e-2))
    run = training([Line(1.0), Line(1.0)], wished)
    for n in range(6):
        run.run(most_seconds=1e-9)
        assert [group["lr"] for group in run.optimiser.param_groups] == [wished.rate(n, 0), wished.rate(n, 1)]


def test_first_step_of_adam_is_the_rate_of_its_level():
    run = training([Line(3.0), Line(3.0)], settings(learning_rates=(1e-2, 3e-2), warmup=1))
    run.run(most_seconds=1e-9)
    # AdamW moves by the rate, whatever the gradient, after the weight's own decay
    moved = [3.0 * (1 - 0.01 * rate) - rate for rate in (0.5e-2, 1.5e-2)]
    assert [model.weight.item() for model in run.models] == pytest.approx(moved, rel=1e-5)


# who teaches whom


def after_three(models, **options):
    frozen = options.pop("frozen", ())
    return steps(training(models, settings(**options), frozen=frozen), 3).models


def test_distillation_changes_the_levels_below_and_not_the_top():
    plain, drawn = (after_three(toys(), distil=distil) for distil in (0.0, 0.7))
    assert [same_weights(*pair) for pair in zip(plain, drawn, strict=True)] == [False, False, True]


def test_levels_learn_what_they_would_learn_alone():
    together = after_three(toys())
    for k, alone in enumerate(toys()):
        assert same_weights(after_three([alone])[0], together[k])


def test_a_correction_leaves_the_level_below_as_it_would_be_alone():
    together, alone = after_three([Toy(2), Toy(3)], residual=True), after_three([Toy(2)])
    assert same_weights(together[0], alone[0])
    assert not same_weights(together[1], after_three([Toy(3)])[0])


def test_a_residual_ladder_sums_its_levels():
    residual = training([Line(0.5), Line(0.25), Line(-1.0)], settings(residual=True))
    plain = training([Line(0.5), Line(0.75), Line(-0.25)])
    assert residual.held_out_error(6) == pytest.approx(plain.held_out_error(6), rel=1e-6)
    losses = [
        first_losses(m, residual=r) for m, r in (([Line(0.5), Line(0.25)], True), ([Line(0.5), Line(0.75)], False))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_frozen_levels_teach_and_do_not_change():
    top = Toy(4)
    top.a.bias.requires_grad_(True)
    run = training([Toy(2), Toy(3), top], settings(distil=0.5), frozen=(3, 3))
    run.run()
    assert same_weights(run.models[2], Toy(4))
    assert same_weights(run.averages[2], Toy(4))
    assert not run.models[2].training
    assert not any(p.requires_grad for p in run.models[2].parameters())
    assert not same_weights(run.models[1], Toy(3))
    assert len(run.history[0]["train"]) == 2
    assert len(run.history[0]["held_out"]) == 3


# the held-out error


def test_held_out_error_by_hand():
    run = training([Line(0.0), Line(0.0)], settings(predicts="clean"))
    power = float(as_floats(IMAGES.held_out).square().mean())
    assert run.held_out_error(6) == pytest.approx([power, power], rel=1e-6)
    assert run.held_out_error(600) == run.held_out_error(6)
    two = float(as_floats(IMAGES.held_out[:2]).square().mean())
    assert run.held_out_error(2) == pytest.approx([two, two], rel=1e-6)


def test_held_out_error_is_the_same_twice_and_for_identical_nets():
    run = training([Toy(3), Toy(3), Toy(4)])
    state = torch.get_rng_state()
    first, again, other = (run.held_out_error(6, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert first == again
    assert first[0] == first[1] != first[2]
    assert first != other


def test_held_out_error_is_that_of_the_averages():
    run = training([Line(1.0)], settings(average=1.0))
    before = run.held_out_error(6)
    run.models[0].weight.data.fill_(7.0)
    assert run.held_out_error(6) == before
    run.averages[0].weight.data.fill_(7.0)
    assert run.held_out_error(6) != before


@pytest.mark.parametrize("predicts", ["noise", "v"])
def test_a_small_unet_learns_the_digits(predicts):
    from mlsde.diffusion.nets import PatchUNet
    from mlsde.diffusion.train import ddpm_times

    torch.manual_seed(0)
    wished = Settings(steps=100, batch=64, learning_rates=3e-3, warmup=10, average=0.95, predicts=predicts, distil=0.3)
    run = Training([PatchUNet(8, 1, 2, (8,)), PatchUNet(8, 1, 2, (24,))], load_images("digits"), ddpm_times(), wished)
    untrained = run.held_out_error(180)
    run.run()
    learnt = run.held_out_error(180)
    assert min(untrained) > 0.8
    assert learnt[1] < learnt[0] < 0.7
    assert learnt[1] < 0.55


# the run


def test_the_run_reports_shows_a_bar_and_stops_in_time(capsys):
    lines = []
    run = training()
    assert not run.run(most_seconds=1e-9, progress=True, report=lines.append)
    assert run.step == 1
    assert run.run(progress=True, report=lines.append)
    assert [line.split(":")[0] for line in lines] == ["step 2", "step 4", "step 6"]
    shown = capsys.readouterr().err
    assert "1/6" in shown
    assert "6/6" in shown
    assert [look["step"] for look in run.history] == [2, 4, 6]
    errors = run.held_out_error(6)
    assert run.history[-1]["held_out"] == errors
    assert lines[-1] == f"step 6: held-out mean square errors {', '.join(f'{error:.5f}' for error in errors)}"


def test_a_level_that_diverges_stops_the_run_and_is_named(tmp_path):
    good = steps(training([Toy(2), Line(1.0)], folder=tmp_path), 1)
    good.models[1].weight.data.fill_(math.inf)
    with pytest.raises(
        FloatingPointError, match=r"level 2 diverged: the held-out errors are \[0.*, nan\] at step 2; .*rates"
    ):
        good.run()
    assert training([Toy(2), Line(1.0)], folder=tmp_path).step == 1


def test_a_net_that_answers_in_another_shape_is_named():
    class Flat(Line):
        def forward(self, x, told):
            return SimpleNamespace(sample=x[:, :, :1])  # would be broadcast

    with pytest.raises(ValueError, match=r"level 2 answered with shape \(8, 1, 1, 4\), expected .* \(8, 1, 4, 4\)"):
        training([Line(1.0), Flat(1.0)]).run()


def test_numbers_of_numpy_are_numbers(tmp_path):
    odd = settings(steps=np.int64(6), learning_rates=(np.float32(0.5), 0.5, 1), seed=np.int32(0))
    steps(training(wished=odd, folder=tmp_path), 1)
    assert training(wished=settings(learning_rates=[0.5, 0.5, 1.0]), folder=tmp_path).step == 1


# refusals


def silent(x, told):
    raise AssertionError("evaluated")


def a_file(tmp_path):
    (tmp_path / "file").touch()
    return tmp_path / "file" / "folder"


@table(
    {
        "steps": (lambda: settings(steps=0), ValueError, ["steps", "0"]),
        "batch": (lambda: settings(batch=2.5), TypeError, ["batch", "2.5"]),
        "every": (lambda: settings(evaluate_every=-1), ValueError, ["evaluate_every", "-1"]),
        "rate": (lambda: settings(learning_rates=0.0), ValueError, ["learning_rates", "0"]),
        "one of the rates": (lambda: settings(learning_rates=(1.0, math.nan)), ValueError, ["learning_rates", "nan"]),
        "rate of no number": (lambda: settings(learning_rates="1e-3"), TypeError, ["learning_rates", "1e-3"]),
        "warmup": (lambda: settings(warmup=-1), ValueError, ["warmup", "-1"]),
        "average": (lambda: settings(average=1.1), ValueError, ["average", "1.1"]),
        "distil": (lambda: settings(distil=-0.1), ValueError, ["distil", "-0.1"]),
        "snr_clip": (lambda: settings(snr_clip=0), ValueError, ["snr_clip", "0"]),
        "predicts": (lambda: settings(predicts="flow"), ValueError, ["predicts", "'flow'", "'v'"]),
        "weighting": (lambda: settings(weighting="snr"), ValueError, ["weighting", "'snr'", "'min-snr'"]),
        "precision": (lambda: settings(precision="half"), ValueError, ["precision", "'half'", "'float16'"]),
        "seed": (lambda: settings(seed=-1), ValueError, ["seed", "-1"]),
        "both": (lambda: settings(distil=0.5, residual=True), ValueError, ["distil", "residual"]),
        "rates": (
            lambda: training(wished=settings(learning_rates=(1.0, 2.0))),
            ValueError,
            ["learning_rates", "3", "2"],
        ),
        "no rates": (lambda: training(wished=settings(learning_rates=())), ValueError, ["learning_rates", "0"]),
        "few images": (lambda: training(wished=settings(batch=21)), ValueError, ["batch=21", "20 images"]),
        "all frozen": (lambda: training(frozen=(1, 2, 3)), ValueError, ["frozen", "not all", "[1, 2, 3]"]),
        "no such level": (lambda: training(frozen=(0,)), ValueError, ["frozen", "1 … 3", "[0]"]),
        "no models": (lambda: training([]), ValueError, ["frozen"]),
        "half precision": (lambda: training(wished=settings(precision="bfloat16")), ValueError, ["CUDA", "'cpu'"]),
        "device": (lambda: training(device="abacus"), ValueError, ["device='abacus'", "'cuda'"]),
        "time": (lambda: training().run(most_seconds=0), ValueError, ["most_seconds", "0"]),
        "NaN of time": (lambda: training().run(most_seconds=math.nan), ValueError, ["most_seconds", "nan"]),
        "count": (lambda: training().held_out_error(0), ValueError, ["count", "0"]),
        "told": (lambda: Times.of(RectifiedFlow(), [0.1, 0.2], [0.1]), ValueError, ["told", "2", "1"]),
        "no times": (lambda: Times.of(RectifiedFlow(), [], []), ValueError, ["told", "0"]),
    }
)
def test_bad_arguments_are_refused(call, error, words):
    refused(call, error, *words)


def test_a_folder_that_cannot_be_made_is_refused_at_once(tmp_path):
    with pytest.raises(ValueError, match=r"folder=.*file/folder' cannot be made"):
        training(folder=a_file(tmp_path))


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is there")
def test_cuda_is_refused_where_there_is_none():
    with pytest.raises(ValueError, match="device='cuda' is not there"):
        training(device="cuda")


# mixed precision


def mixed_precision_goes_on(folder, precision, device):
    wished = settings(precision=precision, distil=0.5)
    straight = training(wished=wished, device=device)
    straight.run()
    steps(training(wished=wished, device=device, folder=folder), 3)
    resumed = training([Toy(2, seed=5), Toy(3, seed=6), Toy(4, seed=7)], wished, device=device, folder=folder)
    assert resumed.step == 3
    resumed.run()
    assert same_state(straight, resumed)
    assert straight.scaler.state_dict() == resumed.scaler.state_dict()
    assert straight.scaler.is_enabled() == (precision == "float16")
    assert precision != "float16" or straight.scaler.state_dict()["_growth_tracker"] > 0
    assert all(p.dtype == torch.float32 for p in straight.models[0].parameters())
    full = training(wished=settings(distil=0.5), device=device)
    full.run()
    for near, exact in zip(straight.averages, full.averages, strict=True):
        torch.testing.assert_close(near.a.weight, exact.a.weight, rtol=0, atol=0.05)
    assert not same_weights(straight.models[0], full.models[0])


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_goes_on_exactly(tmp_path, monkeypatch, precision):
    monkeypatch.setattr(Training, "_check", lambda *arguments: None)  # it works on the CPU, and does not pay
    mixed_precision_goes_on(tmp_path, precision, "cpu")


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_goes_on_exactly_on_cuda(tmp_path, monkeypatch, precision):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    mixed_precision_goes_on(tmp_path, precision, "cuda")
