"""Where an extra is not installed: one sentence with the command that installs it, and no traceback."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from mlsde import cli, extras
from mlsde.drawing import canvas

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


WITHOUT = """
import contextlib, importlib.machinery, io, json, sys

class Without(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] not in sys.argv[1].split(","):
            return super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Without
from mlsde import cli

told = []
for command in sys.argv[2:]:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = cli.main(command.split())
    told.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(told))
"""

BARE = {
    "demo": "mlsde demo: the demo needs scikit-learn: pip install 'mlsde[demo]'.",
    "sample": "mlsde sample: the picture needs matplotlib: pip install 'mlsde[demo]'.",
    "train digits ladder": "mlsde train: a trained ladder needs diffusers: pip install 'mlsde[diffusion]'.",
    "bench diffusion": "mlsde bench: mlsde bench needs scipy: pip install 'mlsde[demo]'.",
    "bench distances --images .": "mlsde bench: a trained ladder needs diffusers: pip install 'mlsde[diffusion]'.",
    "bench efficiency --picture x.png": "mlsde bench: the picture needs matplotlib: pip install 'mlsde[demo]'.",
    "study ode-3 --picture x.png": "mlsde study: the picture needs matplotlib: pip install 'mlsde[demo]'.",
}
NO_PICTURES = {
    "demo": "mlsde demo: the demo needs matplotlib: pip install 'mlsde[demo]'.",
    "train digits ladder": "mlsde train: the figure of the losses needs matplotlib: pip install 'mlsde[demo]'.",
    "bench diffusion --pictures x": "mlsde bench: the picture needs matplotlib: pip install 'mlsde[demo]'.",
}
NO_DIFFUSERS = {
    "sample": "mlsde sample: a trained ladder needs diffusers: pip install 'mlsde[diffusion]'.",
}


@pytest.mark.parametrize(
    ("packages", "told"),
    [(",".join(extras.EXTRAS), BARE), ("matplotlib", NO_PICTURES), ("diffusers", NO_DIFFUSERS)],
    ids=["no extra", "no matplotlib", "no diffusers"],
)
def test_a_command_says_in_a_sentence_which_extra_it_needs_before_it_works(packages, told, tmp_path):
    words = [sys.executable, "-c", WITHOUT, packages, *told]
    path = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=tmp_path, env=path)
    assert json.loads(done.stdout) == [[2, "", f"{sentence}\n"] for sentence in told.values()]
    assert not list(tmp_path.iterdir())


def test_what_no_extra_brings_comes_through_as_it_is(monkeypatch):
    def broken(arguments):
        raise ModuleNotFoundError("No module named 'a_users_own'", name="a_users_own")

    monkeypatch.setattr(cli.demo, "run", broken)
    with pytest.raises(ModuleNotFoundError, match="a_users_own"):
        cli.main(["demo"])


def test_a_figure_without_matplotlib_says_so_and_names_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match=r"^the figure needs matplotlib: .*'mlsde\[demo\]'\.$") as caught:
        canvas(1.0, 1.0)
    assert caught.value.name.startswith("matplotlib")


def test_every_extra_brings_the_packages_that_are_said_to_come_with_it():
    brought = PROJECT["optional-dependencies"]
    for package, extra in extras.EXTRAS.items():
        distribution = extras._DISTRIBUTIONS.get(package, package).lower()
        assert any(need.startswith(f"{distribution}>=") for need in brought[extra]), package
