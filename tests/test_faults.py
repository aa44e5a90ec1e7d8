"""What goes wrong inside a run: states and levels that become NaN or infinite, and exceptions of the user's own."""

import math
import pickle

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mlsde import SDE, BrownianPath, Constant, DriftHierarchy, Multilevel, NonFiniteError, solve

N = 256
Y0 = torch.ones(3, 2)


def decay(t, y):
    return -y


def failing(level=decay, at=100, value=math.nan, seen=None):
    """A level whose first component is ``value`` from step ``at`` of ``N`` on; ``seen`` counts its calls."""

    def faulty(t, y):
        if seen is not None:
            seen.append(float(t))
        out = level(t, y)
        return out if t < (at - 0.5) / N else out.index_fill(0, torch.tensor([0]), value)

    return faulty


def fault_of(sde, y0=Y0, **options):
    with pytest.raises(NonFiniteError) as caught:
        solve(sde, y0, (0.0, 1.0), steps=options.pop("steps", N), **options)
    return caught.value


def three_levels(second=decay, third=decay):
    return DriftHierarchy([decay, second, third], costs=[1.0, 8.0, 64.0])


@pytest.mark.parametrize("at", [0, 1, 63, 64, 100, 127, 255])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_level_that_becomes_non_finite_is_named_with_its_step_and_time(at, value):
    fault = fault_of(SDE(failing(at=at, value=value), 0.1))
    assert (fault.step, fault.time, fault.culprit) == (at, at / N, "drift level 1")
    assert f"drift level 1 became NaN or infinite at step {at}, t={at / N:g}" in str(fault)
    assert ".solution" in str(fault)


def test_a_fault_stops_the_run_within_a_block_of_64_steps():
    seen = []
    fault = fault_of(SDE(failing(at=100, seen=seen), 0.1), steps=N)
    assert max(seen) < 128 / N
    assert fault.solution.stats.evaluations == (128.0,)


@pytest.mark.parametrize("share", ["batch", "sample"])
@pytest.mark.parametrize("correction", ["impulse", "hold", "control", "extrapolate"])
def test_the_faulty_level_of_a_ladder_is_named_at_its_first_firing(correction, share):
    """Level 3 fires at every fourth step (from 2 on with impulses, from 0 on with a memory)."""
    multilevel = Multilevel(Constant([1, 0.5, 0.25]), coins="periodic", correction=correction, share=share)
    fault = fault_of(SDE(three_levels(third=failing(at=101))), multilevel=multilevel)
    fires = fault.solution.plan.block(0, N).fires.reshape(N, 3, -1)[:, 2, 0]
    assert fault.step == next(n for n in range(101, N) if fires[n])
    assert fault.culprit == "drift level 3"


@pytest.mark.parametrize("share", ["batch", "sample"])
@pytest.mark.parametrize("at", [32, 62])
def test_a_fault_that_only_enters_a_memory_is_found_at_its_own_step(at, share):
    """Levels 2 and 3 fire together at every second step, so that the value of level 2 only makes differences."""
    multilevel = Multilevel(Constant([1, 0.5, 0.5]), coins="periodic", correction="hold", share=share)
    fault = fault_of(SDE(three_levels(second=failing(at=at))), multilevel=multilevel, save_at="steps")
    block = fault.solution.plan.block(at, at + 1)
    assert block.evaluates[0, 1].all()
    assert not block.coefficients[0, 1].any()
    assert (fault.step, fault.culprit) == (at, "drift level 2")
    assert torch.isfinite(fault.solution.ys).all()
    assert len(fault.solution.ys) == at + 1


def test_a_memory_is_looked_at_where_the_state_is_still_sound():
    """Firings at every third step: the block ends with one, and its faulty difference has not been used yet."""
    multilevel = Multilevel(Constant([1, 1 / 3, 1 / 3]), coins="periodic", correction="hold")
    fault = fault_of(SDE(three_levels(second=failing(at=63))), multilevel=multilevel)
    assert (fault.step, fault.culprit) == (63, "drift level 2")
    assert fault.solution.stats.calls == (64, 22, 22)


def test_a_state_that_overflows_by_itself_is_named_as_the_state():
    with pytest.raises(NonFiniteError) as caught:
        solve(SDE(lambda t, y: y), torch.full((2, 1), 1e20), (0.0, 200.0), steps=20)
    first = next(n for n in range(20) if 1e20 * 11.0 ** (n + 1) > torch.finfo(torch.float32).max)
    assert (caught.value.step, caught.value.time, caught.value.culprit) == (first, 10.0 * first, "state")


def test_a_half_precision_state_overflows_where_its_own_dtype_does():
    """The sums run in float32 and could go on, but the levels would see infinity."""
    fault = fault_of(SDE(lambda t, y: torch.full_like(y, 1e4)), y0=torch.full((2, 1), 6e4, dtype=torch.float16))
    first = next(n for n in range(N) if math.isinf(torch.tensor(6e4 + 1e4 * (n + 1) / N).half()))
    assert (fault.culprit, fault.step) == ("state", first)


@pytest.mark.parametrize("g", [failing(lambda t, y: torch.ones_like(y), at=77), lambda t, y: y / (t < 76.5 / N)])
def test_a_diffusion_that_becomes_non_finite_is_named(g):
    fault = fault_of(SDE(decay, g, noise="diagonal"))
    assert (fault.step, fault.culprit) == (77, "diffusion")


def test_a_diffusion_that_returns_an_infinite_number_is_named():
    fault = fault_of(SDE(decay, lambda t: 0.1 if t < 76.5 / N else math.inf))
    assert (fault.step, fault.culprit) == (77, "diffusion")


def test_a_path_that_becomes_non_finite_is_named():
    path = BrownianPath(0, 1, like=Y0, seed=0)
    fault = fault_of(SDE(decay, 0.1), brownian=lambda a, b: path(a, b) * (math.nan if a > 76.5 / N else 1.0))
    assert (fault.step, fault.culprit) == (77, "brownian")


def test_noise_that_cannot_be_drawn_again_leaves_the_step_open():
    calls = []

    def once(a, b):
        calls.append(a)
        return torch.full_like(Y0, math.nan if len(calls) == 70 else 0.0)

    fault = fault_of(SDE(decay, 0.1), brownian=once)
    assert (fault.step, fault.time) == (None, None)
    assert "between steps 64 and 127, which a replay did not reproduce" in str(fault)
    assert len(fault.solution.ys) == 0


def test_a_fault_in_the_second_stage_of_heun_is_found_in_that_step():
    fault = fault_of(SDE(failing(at=100)), method="heun")
    assert (fault.step, fault.culprit) == (99, "drift level 1")


@pytest.mark.parametrize("gradients", [False, True])
def test_what_had_been_saved_is_in_hand_and_right(gradients):
    save_at = [0.0, 0.1, 0.2, 0.39, 0.395, 0.6, 1.0]
    sound = solve(SDE(decay, 0.1), Y0, (0.0, 1.0), steps=N, save_at=save_at)
    fault = fault_of(SDE(failing(at=101), 0.1), save_at=save_at, gradients=gradients)
    saved = fault.solution
    assert saved.ts.tolist() == save_at[:4]  # step 101 begins at 0.3945
    assert torch.equal(saved.ys, sound.ys[:4])
    assert not saved.success
    assert saved.message.startswith("stopped: drift level 1")
    assert torch.equal(saved.y1, sound.ys[3])


def test_the_last_state_of_a_run_that_saved_none_says_why_there_is_none():
    with pytest.raises(IndexError, match="no state was saved: stopped: drift level 1"):
        _ = fault_of(SDE(failing(at=5))).solution.y1


def test_a_replay_is_not_charged():
    fault = fault_of(SDE(failing(at=100)))
    assert fault.solution.stats.calls == (128,)


@pytest.mark.parametrize("error", [RuntimeError("my own"), KeyError("key"), ZeroDivisionError("by zero")])
def test_an_exception_in_a_drift_surfaces_as_it_is_with_a_note(error):
    def raising(t, y):
        if t > 0.49:
            raise error
        return -y

    drift = DriftHierarchy([decay, raising], costs=[1, 10])
    multilevel = Multilevel(Constant([1, 1]), coins="periodic", correction="impulse")
    with pytest.raises(type(error)) as caught:
        solve(SDE(drift), Y0, (0, 1), steps=10, multilevel=multilevel)
    assert caught.value is error
    assert caught.value.__notes__ == ["raised by drift level 2 at t=0.5"]


def test_an_exception_in_a_diffusion_surfaces_as_it_is_with_a_note():
    def raising(t, y):
        if t > 0.49:
            raise RuntimeError("my own")
        return y

    with pytest.raises(RuntimeError, match="my own") as caught:
        solve(SDE(decay, raising, noise="diagonal"), Y0, (0, 1), steps=10)
    assert caught.value.__notes__ == ["raised by the diffusion at t=0.5"]


def raise_it(error):
    raise error


@pytest.mark.parametrize(
    "options",
    [
        {"callback": lambda n, t, y: raise_it(LookupError("mine"))},
        {"brownian": lambda a, b: raise_it(LookupError("mine"))},
        {"level": lambda t: raise_it(LookupError("mine"))},
        {"multilevel": Multilevel(lambda t: raise_it(LookupError("mine")))},
    ],
)
def test_an_exception_in_any_function_of_the_user_surfaces_as_it_is(options):
    with pytest.raises(LookupError, match="mine"):
        solve(SDE(decay, 0.1), Y0, (0, 1), steps=10, **options)


def test_an_interrupt_passes():
    def interrupted(t, y):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        solve(SDE(interrupted), Y0, (0, 1), steps=10)
    assert not hasattr(caught.value, "__notes__")


class Synchronisations(TorchDispatchMode):
    """Counts what makes the host wait for a device: values read, and sizes that depend on values."""

    WAIT = ("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "unique", "_linalg_check_errors")

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket.__name__ in self.WAIT
        return func(*args, **(kwargs or {}))


def synchronisations(steps, **options):
    sde = options.pop("sde", SDE(three_levels(), 0.1))
    with Synchronisations() as seen:
        solve(sde, Y0, (0.0, 1.0), steps=steps, **options)
    return seen.count


def test_the_counter_of_synchronisations_sees_a_drift_that_asks_the_device():
    asking = SDE(lambda t, y: -y if y.sum() > 0 else y)
    assert synchronisations(128, sde=asking) - synchronisations(64, sde=asking) >= 64


ways = [
    pytest.param({}, id="top level"),
    pytest.param({"level": 1}, id="one level"),
    pytest.param({"sde": SDE(decay)}, id="ODE"),
    pytest.param({"sde": SDE(decay), "method": "heun"}, id="heun"),
    pytest.param({"sde": SDE(decay, lambda t, y: y, noise="diagonal"), "method": "milstein"}, id="milstein"),
    pytest.param({"sde": SDE(decay, lambda t, y: y.unsqueeze(-1), noise="general")}, id="general noise"),
    pytest.param({"sde": SDE(decay, 0.1, linear=-1.0)}, id="linear part"),
    pytest.param({"sde": SDE(decay, 0.1, linear=-1.0), "method": "exponential"}, id="exponential"),
    pytest.param({"brownian": BrownianPath(0, 1, like=Y0)}, id="path"),
    pytest.param({"save_at": "steps"}, id="saving"),
    pytest.param({"callback": lambda n, t, y: None}, id="callback"),
    pytest.param({"seed": [1, 2, 3]}, id="seeds"),
    *[
        pytest.param({"multilevel": Multilevel(Constant([1, 0.5, 0.2]), "systematic", correction, share)}, id=name)
        for share in ("batch", "sample")
        for correction in ("impulse", "hold", "control", "extrapolate")
        for name in [f"{correction}, {share}"]
    ],
]


@pytest.mark.parametrize("options", ways)
def test_the_device_is_asked_once_a_block_and_never_once_a_step(options):
    """Three blocks more may add one question for the state and one for each remembered difference, each.

    The first level always fires, so its difference is not remembered.
    """
    more = synchronisations(256, **options) - synchronisations(64, **options)
    remembered = 2 if "multilevel" in options and options["multilevel"].correction != "impulse" else 0
    assert 3 <= more <= 3 * (1 + remembered)


def test_a_fault_survives_the_way_from_one_process_to_another():
    fault = fault_of(SDE(failing(at=100)), save_at="steps")
    copy = pickle.loads(pickle.dumps(fault))
    assert (str(copy), copy.step, copy.time, copy.culprit) == (str(fault), 100, 100 / N, "drift level 1")
    assert torch.equal(copy.solution.ys, fault.solution.ys)
