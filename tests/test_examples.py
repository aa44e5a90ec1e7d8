"""The examples run, in small."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parent.parent / "examples"


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


def test_the_ensemble_draws_its_bands_and_goes_on_from_its_folder(tmp_path, monkeypatch, capsys):
    example = load("ensemble")
    monkeypatch.setattr(example, "N", 3000)
    monkeypatch.setattr(example, "STEPS", 40)
    monkeypatch.setattr(example, "FOLDER", tmp_path / "pieces")
    monkeypatch.setattr(example, "PICTURE", tmp_path / "bands.png")
    example.main()
    first = capsys.readouterr().out
    assert "crossed" in first and "33 chunks computed, 0 found" in first
    assert (tmp_path / "bands.png").stat().st_size > 10_000
    example.main()
    again = capsys.readouterr().out
    assert "0 chunks computed, 33 found" in again
    assert [line for line in again.splitlines() if "crossed" in line] == [
        line for line in first.splitlines() if "crossed" in line
    ]


def test_the_pictures_of_the_page_are_drawn_by_the_code_before_them(tmp_path, monkeypatch, capsys):
    example = load("plots")
    docs = example.PAGE.parent
    page, file = tmp_path / "page.md", tmp_path / "images" / "one.png"
    code = "from mlsde import plots\nax = plots.frontier([1.0], [1.0])"
    page.write_text(f"```python\n{code}\n```\n\n![one](images/one.png)\n\n```python\nax = None\n```\n")
    monkeypatch.setattr(example, "PAGE", page)
    monkeypatch.setattr(example, "PICTURES", tmp_path)
    example.main()
    assert capsys.readouterr().out == f"{file}\n"
    assert file.read_bytes().startswith(b"\x89PNG")
    pictures = {picture.name: picture.stat().st_size for picture in (docs / "images").glob("plots-*.png")}
    assert set(re.findall(r"\(images/(plots-\w+\.png)\)", (docs / "plots.md").read_text())) == set(pictures)
    assert max(pictures.values()) < 60_000


@pytest.mark.skipif(torch.cuda.is_available(), reason="there it would begin to work")
def test_the_cuda_script_ends_well_where_there_is_no_device(monkeypatch, capsys):
    example = load("on_cuda")
    monkeypatch.setattr("sys.argv", ["on_cuda.py"])
    assert example.main() == 0
    assert "no CUDA device" in capsys.readouterr().out
