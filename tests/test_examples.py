"""The examples run, in small; they are notebooks as well, and their drifts are what they claim to be."""

import ast
import importlib.util
import json
import runpy
from pathlib import Path

import pytest
import torch
from notebooks import cells, notebook

EXAMPLES = Path(__file__).parent.parent / "examples"
NOTEBOOKS = (
    "langevin", "neural_ode", "mean_field", "bayesian_subsets", "multiplicative", "digits", "own_study", "learning",
    "ensemble",
)  # fmt: skip
FEWEST_CELLS = 12
F64 = torch.float64


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """Runs an example with ``--quick`` once: what it defined, what it printed, and its picture."""
    done = {}

    def run(name, capsys):
        if name not in done:
            folder = tmp_path_factory.mktemp(name)
            picture = folder / "picture.png"
            with pytest.MonkeyPatch.context() as patch:
                # a notebook's own arguments are no trouble
                arguments = ["--quick", "--picture", str(picture), "--folder", str(folder / "chunks"), "-f", "k.json"]
                patch.setattr("sys.argv", [f"{name}.py", *arguments])
                patch.setenv("PYTHONPATH", str(EXAMPLES.parent))  # of the processes that it starts
                capsys.readouterr()
                made = runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
            done[name] = made, capsys.readouterr().out, picture
        return done[name]

    return run


# as scripts


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_an_example_runs_in_small_makes_its_picture_and_ends_with_a_verdict(name, quick, capsys):
    _, out, picture = quick(name, capsys)
    assert f"picture: {picture}" in out
    assert picture.stat().st_size > 10_000
    verdict = out.partition(f"picture: {picture}")[2]
    assert any(
        words in verdict for words in ("the ladder pays", "does not pay", "times dearer than", "times cheaper than")
    )


def test_an_example_says_the_same_again(quick, capsys):
    _, out, picture = quick("own_study", capsys)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["own_study.py", "--quick", "--picture", str(picture)])
        runpy.run_path(str(EXAMPLES / "own_study.py"), run_name="__main__")
    assert capsys.readouterr().out == out


# as notebooks


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_an_example_is_a_notebook_that_tells_and_asks(name):
    found = cells((EXAMPLES / f"{name}.py").read_text())
    assert len(found) >= FEWEST_CELLS
    kind, first = found[0]
    assert kind == "markdown" and first.startswith("# ")
    assert 5 <= len([line for line in first.splitlines() if line.strip()]) <= 20
    for word in ("Levels", "Price", "hat to expect"):
        assert word in " ".join(first.split()), word
    assert f"python examples/{name}.py" in first
    assert [kind for kind, _ in found][-1] == "code"
    assert any("Does it pay here?" in text for kind, text in found if kind == "markdown")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_code_cells_of_the_notebook_are_the_script(name):
    text = (EXAMPLES / f"{name}.py").read_text()
    page = json.loads(json.dumps(notebook(text)))
    assert (page["nbformat"], page["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in page["cells"]}) == len(page["cells"])
    code = [ast.parse("".join(cell["source"])) for cell in page["cells"] if cell["cell_type"] == "code"]
    script = ast.parse(text).body[1:]  # without the docstring, which is the first markdown cell
    assert [ast.dump(node) for part in code for node in part.body] == [ast.dump(node) for node in script]


@pytest.mark.parametrize(
    ("text", "what"),
    [("x = 1\n# %%\ny = 2", "before the first cell"), ("# %% [markdown]\n# fine\nx = 1\n", "x = 1")],
)
def test_a_script_that_is_no_notebook_is_found_out(text, what):
    with pytest.raises(AssertionError, match=what):
        notebook(text)


# their drifts


def test_the_forces_on_argon_are_the_slopes_of_lennard_jones_and_of_axilrod_teller(quick, capsys):
    example, _, _ = quick("langevin", capsys)
    count = example["ATOMS"]
    y = example["problem"].initial(2, 5).requires_grad_()
    x = y.view(2, count, 3)

    def angle(i, j, k):
        """Cosine at ``i``."""
        a, b = x[:, j] - x[:, i], x[:, k] - x[:, i]
        return (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))

    def apart(i, j):
        return (x[:, i] - x[:, j]).norm(dim=-1)

    pair = sum(4 * (apart(i, j) ** -12 - apart(i, j) ** -6) for i in range(count) for j in range(i))
    triple = sum(
        0.072
        * (1 + 3 * angle(i, j, k) * angle(j, i, k) * angle(k, i, j))
        / (apart(i, j) * apart(j, k) * apart(i, k)) ** 3
        for i in range(count)
        for j in range(i)
        for k in range(j)
    )
    for energy, level in ((pair, "pairs"), (triple, "triplets")):
        (slope,) = torch.autograd.grad(energy.sum(), y, retain_graph=True)
        torch.testing.assert_close(example[level](0.0, y.detach()), -slope, rtol=1e-9, atol=1e-9)


def test_the_pull_on_a_bird_is_the_mean_over_the_batch(quick, capsys):
    example, _, _ = quick("mean_field", capsys)
    x = torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    expected = torch.zeros_like(x)
    for b in range(3):
        to = x[:, b : b + 1] - x
        r = to.norm(dim=-1, keepdim=True).clamp(min=1e-2)
        expected += (4 * torch.exp(-r / 2) - 8 * torch.exp(-2 * r)) * to / r / 3
    torch.testing.assert_close(example["pull"](x[:, :3], x), expected)


def test_the_dear_level_is_half_the_gradient_of_the_log_posterior(quick, capsys):
    example, _, _ = quick("bayesian_subsets", capsys)
    y = torch.randn(3, example["DIMENSION"], generator=torch.Generator().manual_seed(0), dtype=F64, requires_grad=True)
    theta = example["mode"] + y @ example["scale"].T
    logits = theta @ example["features"].T
    likelihood = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, example["labels"].expand_as(logits), reduction="none"
    ).sum()
    (slope,) = torch.autograd.grad(-likelihood - 0.5 * theta.square().sum(), y)
    drift = example["level"](example["COUNT"])(0.0, y.detach().float())
    torch.testing.assert_close(drift.double(), 0.5 * slope, rtol=1e-3, atol=1e-3)


def test_the_black_body_radiates_by_stefan_and_boltzmann(quick, capsys):
    example, _, _ = quick("multiplicative", capsys)
    nu = (torch.arange(40_000, dtype=F64) + 0.5) * 0.25
    flux = example["black_body"](nu, torch.tensor([288.0], dtype=F64)).sum() * 0.25
    assert float(flux) == pytest.approx(5.670374e-8 * 288.0**4, rel=1e-4)


def test_the_rough_landscape_is_a_slope(quick, capsys):
    example, _, _ = quick("own_study", capsys)
    y = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=F64, requires_grad=True)
    count = example["SIZES"][0]
    angles = y @ example["waves"][:, :count] + example["phases"][:count]
    energy = 0.5 * y.square().sum() + (example["sizes"][:count] * torch.cos(angles)).sum()
    (slope,) = torch.autograd.grad(energy, y)
    torch.testing.assert_close(example["level"](count)(0.0, y.detach()), -slope)


def test_two_processes_find_the_bits_of_one(quick, capsys):
    _, out, _ = quick("ensemble", capsys)
    assert "of two processes: 32 chunks found, 0 computed; of one: 32 computed" in out
    assert "the same bits: True" in out


# the others


def test_charges_compares_multilevel_runs_at_an_eighth_of_the_cost(capsys):
    example = load("charges")
    example.CHARGES, example.PARTICLES, example.STEPS = 1600, 160, 100
    example.SEEDS, example.PATTERNS = 2, 3
    example.main()
    table = {
        line[:40].strip(): [float(number) for number in line[40:].split()]
        for line in capsys.readouterr().out.splitlines()[1:]
    }
    assert table["all charges, every step"][0] == 1
    assert any(name.startswith("two levels stitched") for name in table)
    cost, _, error, _ = table["systematic hold"]
    assert cost < 0.2
    assert error < table["independent impulse (the paper)"][2]


def test_the_field_of_the_example_is_the_sum_over_the_charges():
    example = load("charges")
    places, charges = torch.tensor([[0.5, 0.0], [-0.25, 0.5]]), torch.tensor([0.3, -0.2])
    y = torch.tensor([[0.1, 0.2]])
    expected = -2 * y
    for place, charge in zip(places, charges, strict=True):
        expected += charge * (y - place) / ((y - place).square().sum() + example.SOFTENING**2)
    torch.testing.assert_close(example.make_level(places, charges)(torch.tensor(0.0), y), expected)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there it would begin to work")
def test_the_cuda_script_ends_well_where_there_is_no_device(monkeypatch, capsys):
    example = load("on_cuda")
    monkeypatch.setattr("sys.argv", ["on_cuda.py"])
    assert example.main() == 0
    assert "no CUDA device" in capsys.readouterr().out


def test_the_ensemble_goes_on_from_its_folder(tmp_path, monkeypatch, capsys):
    """A second call finds all chunks and says the same of them."""
    arguments = ["--quick", "--picture", str(tmp_path / "a.png"), "--folder", str(tmp_path / "chunks")]
    told = []
    for _ in range(2):
        monkeypatch.setattr("sys.argv", ["ensemble.py", *arguments])
        text = (EXAMPLES / "ensemble.py").read_text().partition("# %% [markdown]\n# ## Two processes")[0]
        exec(compile(text, "ensemble.py", "exec"), {"__name__": "__main__"})
        told.append(capsys.readouterr().out)
    assert "33 chunks computed, 0 found" in told[0]
    assert "0 chunks computed, 33 found" in told[1]
    assert [line for line in told[0].splitlines() if "crossed" in line] == [
        line for line in told[1].splitlines() if "crossed" in line
    ]
