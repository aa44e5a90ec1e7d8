"""What fuzzing found: calls that hung, returned NaN or broke in the depths, and what they say or return now."""

import math
import struct
import zipfile
from fractions import Fraction

import numpy as np
import pytest
import torch
from refusals import refused, table

import mlsde
from mlsde import (
    SDE,
    BrownianPath,
    Calibration,
    DriftHierarchy,
    LevelVariances,
    NoiseSampler,
    calibrate,
    checks,
    learn,
    level_variances,
    solve,
    study,
    theory,
)
from mlsde import diffusion as d
from mlsde.cli import main
from mlsde.diffusion.conditioning import doubled
from mlsde.problems import LadderProblem, analytic, kinds, linear, mixtures, perturbed, science

PAIR, META, SPARSE = np.ones(2), torch.ones(2, 2, device="meta"), torch.ones(2, 2).to_sparse()
Y0, HUGE = torch.ones(3, 2), 10**400


def decay(t, y):
    return -y


def pull(t, y):
    return -torch.sin(y)


def broken(t, y):
    return y * math.nan


LADDER = DriftHierarchy([decay, pull], [1.0, 8.0])
NOISY = SDE(LADDER, 0.5)
MODEL = theory.ErrorModel([1.0, 8.0], [0.1, 0.05], 1.0, [1.0, 0.1])
PATH = BrownianPath(0.0, 1.0, shape=(2,))


@pytest.fixture(scope="module")
def calibration():
    return calibrate(NOISY, Y0, (0, 1), steps=8, pilot_steps=8, pilot_samples=2)


THEORY = {
    "a square beyond float64": (lambda: theory.contractive_mse_bound(1, 1, 1.4e154, 0.0), ValueError, ["lipschitz"]),
    "a square below it": (lambda: theory.contractive_mse_bound(1, 1e-200, 1e-200, 1.0), ValueError, ["lipschitz"]),
    "a long step": (lambda: theory.mse_bound(1e200, 1, 1.0, 1.0), ValueError, ["h", "mse_bound"]),
    "zero times infinity": (lambda: theory.allocation_mse([0.125], [0.0], 342.0), ValueError, ["probabilities"]),
    "a frontier of nothing": (lambda: theory.plain_frontier(None, [0.1], [1]), TypeError, ["model", "NoneType"]),
    "coins that are an array": (lambda: theory.predicted_mse([0, 1], [1.0], [1.0], coins=PAIR), ValueError, ["coins"]),
    "differences with NaN": (
        lambda: theory.estimator_variance(torch.full((1, 2), math.nan), [1.0]), ValueError, ["differences", "finite"],
    ),
    "differences without values": (lambda: theory.estimator_variance(META, [1.0, 1.0]), TypeError, ["differences"]),
    "endless periodic coins": (
        lambda: theory.expected_cost([1.0], [1.0], 10**12, coins="periodic"), ValueError, ["steps", "1e+07"],
    ),
    "a switch that is an array": (lambda: theory.multilevel_exponent(2.5, every_step=PAIR), TypeError, ["every_step"]),
}  # fmt: skip

PATHS = {
    "no device": (lambda: BrownianPath(0, 1, shape=(2,), device=2.5), ValueError, ["device", "2.5"]),
    "a device without values": (lambda: BrownianPath(0, 1, shape=(2,), device="meta"), ValueError, ["device", "meta"]),
    "no dtype": (lambda: BrownianPath(0, 1, shape=(2,), dtype=PAIR), TypeError, ["dtype", "float64"]),
    "no dtype with like": (lambda: BrownianPath(0, 1, like=Y0, dtype=torch.ones(2)), TypeError, ["dtype"]),
    "seeds without values": (lambda: BrownianPath(0, 1, shape=(2,), seed=META), TypeError, ["seed", "meta"]),
    "time that is text": (lambda: PATH("auto", 1.0), TypeError, ["t", "'auto'"]),
    "time that is nothing": (lambda: PATH.value(None), TypeError, ["t", "None"]),
    "a unit normal at no time": (lambda: PATH.noise_sampler(0.5, None), TypeError, ["t must be", "None"]),
    "a unit normal over no time": (lambda: PATH.noise_sampler(0.5, 0.5), ValueError, ["t_next", "0.5 twice"]),
    "noise that is nothing": (
        lambda: solve(NOISY, Y0, (0, 1), steps=2, brownian=NoiseSampler(lambda a, b: None)), TypeError,
        ["noise_sampler", "NoneType"],
    ),
    "sparse noise": (
        lambda: solve(NOISY, torch.ones(2, 2), (0, 1), steps=2, brownian=lambda a, b: SPARSE), TypeError,
        ["brownian", "sparse"],
    ),
}  # fmt: skip

LADDERS = {
    "endless repeats": (lambda: LADDER.measured(0.0, Y0, repeats=HUGE), ValueError, ["repeats", "at most 1e+12"]),
    "rounding of NaN": (lambda: DriftHierarchy([broken]).rounding(0.5, Y0), ValueError, ["level 1", "NaN"]),
    "rounding of nothing": (
        lambda: DriftHierarchy([lambda t, y: None]).in_precision([torch.bfloat16]).rounding(0.5, Y0), TypeError,
        ["level 1", "NoneType"],
    ),
    "rounding of another shape": (
        lambda: DriftHierarchy([lambda t, y: y[:1]]).rounding(0.5, Y0), ValueError, ["level 1", "(1, 2)", "(3, 2)"],
    ),
    "rounding at no time": (lambda: LADDER.rounding(1e300, Y0), ValueError, ["t", "float32"]),
    "a sparse level": (
        lambda: solve(SDE(lambda t, y: y.to_sparse()), Y0, (0, 1), steps=1), TypeError, ["level 1", "sparse"],
    ),
    "levels that are a number": (lambda: LADDER.select(torch.tensor(1.0)), TypeError, ["levels", "level numbers"]),
    "complex costs": (lambda: LADDER.priced(np.array([1j, 1.0])), TypeError, ["costs[0]", "a number"]),
}  # fmt: skip

EQUATIONS = {
    "sparse diffusion": (lambda: SDE(decay, SPARSE), TypeError, ["diffusion", "dense", "sparse"]),
    "diffusion without values": (lambda: SDE(decay, META), TypeError, ["diffusion", "dense", "meta"]),
    "sparse linear part": (lambda: SDE(decay, linear=SPARSE), TypeError, ["linear", "dense"]),
    "a diffusion that returns a sparse tensor": (
        lambda: solve(SDE(decay, lambda t, y: y.to_sparse(), noise="diagonal"), Y0, (0, 1), steps=1), TypeError,
        ["diffusion", "sparse"],
    ),
    "progress that is an array": (lambda: solve(NOISY, Y0, (0, 1), steps=1, progress=PAIR), TypeError, ["progress"]),
    "values without values": (lambda: checks.numbers("x", [META, 1.0]), TypeError, ["x", "dense"]),
    "variances of nothing": (lambda: level_variances(None, Y0, (0, 1), steps=1), TypeError, ["sde", "NoneType"]),
    "variances at no time": (
        lambda: LevelVariances(np.zeros(1), np.ones((1, 1)), None)("a"), TypeError, ["t", "'a'"],
    ),
    "squares beyond float64": (
        lambda: level_variances(SDE(lambda t, y: 1e200 * y), Y0.double(), (0, 1), steps=1), ValueError, ["level 1"],
    ),
    "a method to learn with that is an array": (
        lambda: learn(NOISY, Y0, (0, 1), steps=9, budget=9.0, method=PAIR), ValueError, ["method"],
    ),
    "a rate beyond reason": (
        lambda: learn(NOISY, Y0, (0, 1), steps=9, budget=9.0, learning_rate=1e308), ValueError, ["learning_rate"],
    ),
}  # fmt: skip

PROBLEMS = {
    "no start": (lambda: analytic.cubic(None), TypeError, ["y0", "None"]),
    "a start where no solution is known": (lambda: analytic.cubic(1.5), ValueError, ["y0", "-1 and 1"]),
    "a start beyond the branch": (lambda: analytic.wave(y0=2.0), ValueError, ["y0", "pi/2"]),
    "volatility beyond squares": (
        lambda: analytic.geometric_brownian_motion(1.0, 1e200), ValueError, ["volatility", "1e150"],
    ),
    "starts beyond squares": (lambda: analytic.geometric_brownian_motion(y0=[0, 1e160]), ValueError, ["y0", "1e150"]),
    "no pull": (lambda: analytic.ornstein_uhlenbeck(rate=0.0), ValueError, ["rate", "0"]),
    "noise of another length": (lambda: analytic.additive_system([0.1], [0.1, 0.2]), ValueError, ["noise", "drift"]),
    "no system": (lambda: kinds.ladder("smooth", None), TypeError, ["base", "NoneType"]),
    "no process": (lambda: mixtures.gaussian_mixture((), 4, 2, families=(), process=3), TypeError, ["process", "int"]),
    "no clusters": (lambda: mixtures.gaussian_mixture(None, 4, 2), TypeError, ["clusters", "None"]),
    "a seed of half": (lambda: perturbed(decay, 2, gamma=2.0, levels=2, seed=0.5), TypeError, ["seed", "0.5"]),
    "prices beyond floats": (lambda: perturbed(decay, 2, gamma=1e308, levels=3), ValueError, ["levels", "gamma"]),
    "softening beyond squares": (lambda: science.charges(16, (2,), softening=1e200), ValueError, ["softening"]),
    "smoothness that is an array": (
        lambda: science.learned_force((2,), 1, smoothness=PAIR, waves=2), TypeError, ["smoothness"],
    ),
    "places of another number": (
        lambda: science.grouped(torch.zeros(2, 3), torch.ones(3), 2), ValueError, ["places", "(3, 3)"],
    ),
    "equal prices": (lambda: science.price_exponent([1.0, 1.0], [2.0, 1.0]), ValueError, ["costs", "differ"]),
    "states of another shape": (
        lambda: solve(GBM.sde, torch.ones(3), (0, 1), steps=1), ValueError, ["y has shape (3,)", "(samples, 1)"],
    ),
    "moments of nothing": (lambda: linear.euler_moments(None, Y0, [0, 1]), TypeError, ["problem", "NoneType"]),
    "no levels": (lambda: linear.ornstein_uhlenbeck([], 0.5), ValueError, ["rates", "none"]),
    "a seed that is negative": (lambda: GBM.initial(2, -1), ValueError, ["seed", "-1"]),
    "methods that are a number": (lambda: study.convergence(GBM, torch.tensor(1.0)), TypeError, ["methods"]),
    "a level of nothing": (
        lambda: study.convergence(LadderProblem("none", SDE(DriftHierarchy([lambda t, y: None], [1.0])), Y0, gamma=2.0),
                                  errors=[0.1], seeds=2, samples=2, steps=[1]), TypeError, ["level 1", "NoneType"],
    ),
}  # fmt: skip
GBM = analytic.geometric_brownian_motion().ladder(2.5, 2)

VP = d.VariancePreserving()
NET = d.Denoiser(lambda x, told, **given: x, "noise")
TWO = d.denoiser_ladder([NET, NET], process=VP)


def host(state, **options):
    rule = mlsde.Multilevel(mlsde.Constant([1.0]), **options)
    return d.MultilevelDenoiser([lambda x, t: x], multilevel=rule, steps=2)(state, 1.0)


DIFFUSIONS = {
    "a clock that is an array": (
        lambda: d.sample(VP, TWO, (2, 3), steps=2, extrapolate_in=PAIR), ValueError, ["extrapolate_in"],
    ),
    "a denoiser of another device": (
        lambda: d.sample(VP, DriftHierarchy([lambda t, y: y.to("meta")]), (2, 3), sampler="ddpm", steps=2), TypeError,
        ["level 1", "meta"],
    ),
    "a sparse denoiser": (
        lambda: d.Denoiser(lambda x, told: x.to_sparse(), "clean").output(0.5, Y0), TypeError, ["sparse", "dense"],
    ),
    "no denoisers": (lambda: d.denoiser_ladder([], process=VP), ValueError, ["denoisers", "none"]),
    "guidance by nothing": (
        lambda: d.guided(NET, 2.0, conditional=None, unconditional={}), TypeError, ["conditional", "None"],
    ),
    "guidance by parts of another kind": (lambda: doubled({"a": (1,)}, {"a": 3}), ValueError, ["conditional"]),
    "guidance by arrays": (lambda: doubled(np.ones(2), np.zeros(2)), ValueError, ["conditional", "tensors"]),
    "powers beyond floats": (lambda: VP.karras_grid(4, 1e-308), ValueError, ["rho", "1e-308"]),
    "guidance on two devices": (
        lambda: doubled(torch.ones(1), torch.ones(1, device="meta")), ValueError, ["conditional", "meta", "cpu"],
    ),
    "churn beyond squares": (lambda: VP.reverse(TWO, churn=1e308), ValueError, ["churn", "1e150"]),
    "no ratio": (lambda: VP.time(None), TypeError, ["log_snr", "None"]),
    "powers that tell no times apart": (lambda: VP.karras_grid(4, 1e300), ValueError, ["rho", "1e+06"]),
    "betas of nothing": (lambda: d.DiscreteVariancePreserving.linear(9, beta_end=None), TypeError, ["beta_end"]),
    "a negative beta": (
        lambda: d.DiscreteVariancePreserving.scaled_linear(9, beta_end=-1.0), ValueError, ["beta_end", "-1.0"],
    ),
    "endless timesteps": (lambda: d.DiscreteVariancePreserving.linear(HUGE), ValueError, ["timesteps", "at most"]),
    "a prior on no device": (lambda: VP.prior((2,), device=2.5), ValueError, ["device", "2.5"]),
    "noise of another shape": (lambda: VP.noised(Y0, 0.5, torch.ones(2)), ValueError, ["noise", "(2,)", "(3, 2)"]),
    "noise that is no tensor": (lambda: VP.noised(Y0, 0.5, 1.0), TypeError, ["noise", "1.0"]),
    "an empty state": (lambda: host(torch.zeros(0, 2), share="sample"), ValueError, ["the state", "(0, 2)"]),
    "a complex state": (lambda: host(torch.ones(2, dtype=torch.complex64)), TypeError, ["the state", "complex64"]),
    "a sparse state": (lambda: host(SPARSE), TypeError, ["the state", "dense"]),
    "a seed that is a tensor": (
        lambda: d.MultilevelDenoiser([decay], seed=torch.tensor(1.0)), TypeError, ["seed", "tensor(1.)"],
    ),
    "a seed that torch does not take": (
        lambda: d.sliced_wasserstein(Y0, Y0, seed=2**63), ValueError, ["seed", "2^63"],
    ),
}  # fmt: skip


@table({**THEORY, **PATHS, **LADDERS, **EQUATIONS})
def test_what_broke_in_the_depths_is_refused_in_a_sentence(call, error, words):
    refused(call, error, *words)


@table({**PROBLEMS, **DIFFUSIONS})
def test_what_broke_in_problems_and_diffusions_is_refused_in_a_sentence(call, error, words):
    refused(call, error, *words)


@table({
    "sensitivity at no time": (lambda known: known.sensitivity("a"), TypeError, ["t", "'a'"]),
    "a grid of half a step": (lambda known: known.grid(2.5), TypeError, ["steps", "2.5"]),
    "a grid of endless steps": (lambda known: known.grid(HUGE), ValueError, ["steps", "at most"]),
    "an error of endless steps": (lambda known: known.predicted_step_error(HUGE), ValueError, ["steps", "at most"]),
    "load for nothing": (lambda known: Calibration.load("nowhere", None), TypeError, ["sde", "NoneType"]),
    "endless trajectories": (
        lambda known: calibrate(NOISY, Y0, (0, 1), steps=8, trajectories=HUGE), ValueError, ["trajectories"],
    ),
    "a pilot beyond floats": (
        lambda known: calibrate(SDE(DriftHierarchy([lambda t, y: 1e40 * y, decay], [1.0, 8.0])), Y0.double(), (0, 1),
                                steps=8), ValueError, ["level 1"],
    ),
})  # fmt: skip
def test_what_broke_in_a_calibration_is_refused_in_a_sentence(calibration, call, error, words):
    refused(lambda: call(calibration), error, *words)


def test_a_calibration_whose_compressed_numbers_are_damaged_is_named(calibration, tmp_path):
    file = tmp_path / "pilot.npz"
    calibration.save(file)
    with zipfile.ZipFile(file) as archive:
        header = archive.getinfo("responses.npy").header_offset
    data = bytearray(file.read_bytes())
    data[header + 30 + sum(struct.unpack_from("<HH", data, header + 26))] |= 0b110  # a kind of block that there is not
    file.write_bytes(data)
    refused(lambda: Calibration.load(file, NOISY), ValueError, "file=", "calibration (error)")


@pytest.mark.filterwarnings("ignore:level 1 became NaN")
def test_a_level_that_is_nan_along_the_pilot_is_told_and_left_out_everywhere():
    drift = DriftHierarchy(
        [broken, lambda t, y: -0.9 * y, pull, lambda t, y: pull(t, y) + 0.01], [1.0, 10.0, 50.0, 300.0]
    )
    found = calibrate(SDE(drift, 0.5), torch.ones(40, 2), (0, 1), steps=100)
    assert found.recording.sound.tolist() == [False, True, True, True]
    assert [warning for warning in found.warnings if warning.startswith("level 1 became NaN or infinite")]
    assert np.isinf(found.recording.variances[:, 0]).all() and np.isfinite(found.recording.variances[:, 2:]).all()
    assert 1 not in found.price_exponent.used and math.isfinite(found.gamma)
    assert "level 1 " in repr(found)
    whole = calibrate(SDE(drift.select([2, 3, 4]), 0.5), torch.ones(40, 2), (0, 1), steps=100)
    for budget in (2e3, 2e4):
        advice = found.recommend(budget=budget)
        assert 1 not in advice.levels
        assert advice.predicted_error == pytest.approx(whole.recommend(budget=budget).predicted_error, rel=0.5)


def test_states_of_one_number_each_are_states():
    y0 = torch.linspace(-1.0, 1.0, 5)
    found, known = (level_variances(NOISY, y, (0, 1), steps=3) for y in (y0, y0[:, None]))
    np.testing.assert_allclose(found.values, known.values, rtol=1e-6)
    np.testing.assert_allclose(found.kurtoses, known.kurtoses, rtol=1e-6)
    options = {"steps": 3, "budget": 9.0, "knots": 1, "iterations": 2, "samples": 4}
    one, other = (learn(SDE(LADDER), y, (0, 1), **options) for y in (y0, y0[:, None]))
    np.testing.assert_allclose(one.values, other.values, rtol=1e-6)
    problems = [LadderProblem("flat", SDE(LADDER, 0.3), y, gamma=2.0) for y in (y0, y0[:, None])]
    one, other = (study.diagnose(problem, samples=5, steps=3) for problem in problems)
    np.testing.assert_allclose(one.variances, other.variances, rtol=1e-6)
    one, other = (study.convergence(problem, errors=[0.5], seeds=2, samples=2, steps=[1, 2]) for problem in problems)
    assert [frontier.costs for frontier in one.frontiers] == [frontier.costs for frontier in other.frontiers]
    assert science.level_errors(problems[0], samples=5, steps=2) == pytest.approx(
        science.level_errors(problems[1], samples=5, steps=2)
    )


def test_a_run_without_an_evaluation_prints():
    rule = mlsde.Multilevel(mlsde.Constant([1e-9, 1e-9]), "independent", "impulse")
    done = solve(NOISY, Y0, (0, 1), steps=3, multilevel=rule)
    assert done.stats.cost == 0 and "cost per trajectory 0" in repr(done)


def test_rounding_tells_the_time_as_a_run_does():
    told = []
    DriftHierarchy([lambda t, y: told.append(t.dtype) or y]).rounding(0.1, Y0.bfloat16())
    assert set(told) == {torch.float32}


def test_the_price_of_endless_runs_is_that_of_their_steps():
    p, costs = [1.0, 0.5, 0.1], [1.0, 8.0, 64.0]
    for correction in ("hold", "control", "extrapolate"):
        short, next_one = (
            theory.expected_cost(p, costs, n, coins="systematic", correction=correction) for n in (40, 41)
        )
        long = theory.expected_cost(p, costs, 10**15, coins="systematic", correction=correction)
        assert long == pytest.approx(short + (10**15 - 40) * (next_one - short), rel=1e-9)


def test_extremes_of_the_frontier_are_out_of_reach_or_reached_but_never_nan():
    points = theory.multilevel_frontier(MODEL, [0.5, 0.3], [10], [5e-324, 1.0], 0.01)
    assert all(point.cost > 0 for point in points)
    still = theory.ErrorModel([1.0, 8.0], [0.1, 0.05], 1.0, [0.0, 0.0], order=300.0)
    assert not any(math.isnan(point.cost) for point in theory.multilevel_frontier(still, [0.3], [100], [1e-3], 2.5))


def test_fractions_and_long_integers_are_numbers():
    assert checks.numbers("x", [Fraction(1, 2), 10**30]).tolist() == [0.5, 1e30]
    assert analytic.geometric_brownian_motion(y0=10**20).y0 == (1e20,)


def test_a_kurtosis_whose_squares_leave_float64_is_that_of_smaller_numbers():
    states = torch.tensor([[1.0], [2.0], [4.0]], dtype=torch.float64)
    small, large = (level_variances(SDE(lambda t, y, a=a: a * y), states, (0, 1), steps=1) for a in (1.0, 1e100))
    assert large.kurtoses == pytest.approx(small.kurtoses)


def test_equal_prices_leave_gamma_unknown():
    problem = LadderProblem("equal", SDE(DriftHierarchy([decay, pull, pull, decay], [1.0] * 4)), Y0)
    assert math.isnan(study.diagnose(problem, samples=3, steps=2).gamma)


def test_a_pilot_whose_cheap_level_bursts_is_carried_by_the_top_level():
    burst = DriftHierarchy([lambda t, y: torch.where(y < 0.3, 1e25 * y**3, pull(t, y)), pull], [1.0, 50.0])
    found = calibrate(SDE(burst), torch.full((4, 1), 0.31, dtype=torch.float64), (0, 1), steps=50)
    assert found.recording.sensitivity_level == 2 and np.isfinite(found.recording.responses).all()


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["bench", "core", "--read", "nowhere"], "mlsde bench: --read='nowhere' cannot be read"),
        (["bench", "core", "--read", "."], "mlsde bench: --read='.' cannot be read"),
        (["bench", "core", "--read", "list.json"], "mlsde bench: --read='list.json' is damaged"),
        (["bench", "diffusion", "--read", "other.json"], "--read='other.json' holds no numbers of diffusion"),
        (["bench", "diffusion", "--results", "other.json"], "--results=['other.json'] holds no numbers of diffusion"),
        (["bench", "distances", "--results", "list.json"], "mlsde bench distances: --results='list.json' is damaged"),
        (["bench", "core", "--markdown", "list.json"], "mlsde bench: --markdown='list.json' needs the two lines"),
        (["bench", "efficiency", "--json", "."], "mlsde bench: --json='.' is a folder"),
        (["demo", "--json", "."], "mlsde demo: --json='.' is a folder"),
        (["demo", "--picture", "x.xyz"], "mlsde demo: --picture='x.xyz' must end in one of .png"),
        (["demo", "--seed", "-1"], "mlsde demo: seed must not be negative"),
        (["sample", "--picture", "list.json/x.png"], "mlsde sample: --picture='list.json/x.png' cannot be written"),
        (["sample", "--seed", "9" * 30, "--samples", "1"], "mlsde sample: seed must be below 2^63"),
        (["train", "digits", "out", "--json", "a\0b"], "mlsde train: --json='a\\x00b' cannot be written"),
        (["train", "digits", "list.json"], "mlsde train: folder='list.json' is a file"),
        (["study", "ode-3", "--json", "9" * 400], "mlsde study: --json='999"),
        (["study", "ode-3", "--trials", "list.json"], "mlsde study: --trials='list.json' is a file"),
        (["study", "--page", "nowhere"], "mlsde study: --page='nowhere' cannot be read"),
        (["study", "--threads", "9" * 30], "mlsde study: --threads must be at most 1024"),
    ],
)
def test_a_command_says_what_is_wrong_with_a_file_before_it_computes(words, part, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.json").write_text("[1, 2]")
    (tmp_path / "other.json").write_text('{"rows": []}')
    assert main(words) == 2
    err = capsys.readouterr().err
    assert err.startswith("mlsde ") and part in err and err.count("\n") == 1


def test_a_method_of_the_command_is_named_with_its_flag():
    from mlsde.cli.study import named_method

    refused(lambda: named_method("-1"), ValueError, "--methods='-1'", "coins")
    refused(lambda: named_method("plain-rk4"), ValueError, "--methods='plain-rk4'", "stepper")
