"""What an installed wheel must do without any extra: ``make smoke`` runs this in an environment that has only that.

It reads nothing of the clone: the README it runs is the one that the wheel carries.
"""

import contextlib
import importlib.metadata
import importlib.util
import io
import json
import math
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ABSENT = ("matplotlib", "sklearn", "scipy", "diffusers", "PIL", "torchsde", "transformers", "pytest", "hypothesis")
NEEDS_AN_EXTRA = {
    "demo": "mlsde demo: the demo needs scikit-learn: pip install 'mlsde[demo]'.",
    "sample digits": "mlsde sample: the picture needs matplotlib: pip install 'mlsde[demo]'.",
    "train digits ladder": "mlsde train: a trained ladder needs diffusers: pip install 'mlsde[diffusion]'.",
}


def the_environment_has_no_extra():
    assert not [name for name in ABSENT if importlib.util.find_spec(name) is not None]


def the_package_is_the_installed_one():
    import mlsde

    assert Path(mlsde.__file__).is_relative_to(sys.prefix), mlsde.__file__
    assert importlib.metadata.version("mlsde") == mlsde.__version__


def the_metadata_names_needs_extras_and_licence():
    about = importlib.metadata.metadata("mlsde")
    needs = [need for need in about.get_all("Requires-Dist") if "extra ==" not in need]
    assert {re.split(r"[>=<]", need)[0] for need in needs} == {"numpy", "safetensors", "torch", "tqdm"}
    assert {"demo", "diffusion"} <= set(about.get_all("Provides-Extra"))
    assert about["License-Expression"] == "Apache-2.0" and about.get_all("License-File") == ["LICENSE"]
    assert about["Description-Content-Type"] == "text/markdown"


def the_wheel_holds_the_package_its_types_and_its_weights_and_no_more():
    files = [str(file) for file in importlib.metadata.files("mlsde") if ".." not in file.parts]
    assert {file.split("/")[0].partition("-")[0] for file in files} == {"mlsde"}
    assert "mlsde/py.typed" in files
    assert not [file for file in files if re.search(r"(^|/)(tests?|docs|examples)/", file)]


def the_weights_that_come_with_it_load():
    import safetensors.torch

    import mlsde.diffusion

    folder = Path(mlsde.diffusion.__file__).parent / "weights"
    for ladder in ("digits", "fashion"):
        assert json.loads((folder / ladder / "ladder.json").read_text())["format"] == 1
        levels = sorted((folder / ladder).glob("level-*/*.safetensors"))
        sizes = []
        for level in levels:
            weights = safetensors.torch.load_file(level)
            assert all(bool(weight.isfinite().all()) for weight in weights.values())
            sizes.append(sum(weight.numel() for weight in weights.values()))
        assert len(sizes) == 3 and sizes == sorted(sizes)


def the_code_of_the_readme_runs():
    import torch

    torch.manual_seed(0)
    readme = importlib.metadata.metadata("mlsde").get_payload() or importlib.metadata.metadata("mlsde")["Description"]
    found: dict = {}
    blocks = re.findall(r"^```python\n(.*?)^```", readme, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 5
    for number, code in enumerate(blocks):
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(code, f"README, block {number}", "exec"), found)
    assert math.isfinite(float(found["solution"].y1.mean()))
    assert {"cal", "found", "result"} <= set(found)


def importing_or_running_all_that_brought_in_no_extra():
    assert not [name for name in ABSENT if name in sys.modules]


def command(words):
    """What a command prints and its exit code, in an empty folder."""
    script = Path(sys.prefix) / "bin" / "mlsde"
    with tempfile.TemporaryDirectory() as folder:
        return subprocess.run(
            [script, *words.split()], cwd=folder, capture_output=True, text=True, check=False, timeout=300
        )


def the_command_line_tells_its_version_and_its_help():
    import mlsde

    assert command("--version").stdout == f"mlsde {mlsde.__version__}\n"
    for words in ("--help", "study --help"):
        done = command(words)
        assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("usage: mlsde"), words


def a_study_runs_and_says_what_its_picture_needs():
    done = command("study ode-3 --quick")
    assert done.returncode == 0 and done.stderr.count("\n") == 1 and done.stderr.startswith("ode-3: "), done.stderr
    assert "no picture: the figure needs matplotlib: pip install 'mlsde[demo]'." in done.stdout


def a_command_that_needs_an_extra_says_which_in_a_sentence():
    for words, sentence in NEEDS_AN_EXTRA.items():
        done = command(words)
        assert (done.returncode, done.stdout, done.stderr) == (2, "", f"{sentence}\n"), done


CHECKS = [
    the_environment_has_no_extra,
    the_package_is_the_installed_one,
    the_metadata_names_needs_extras_and_licence,
    the_wheel_holds_the_package_its_types_and_its_weights_and_no_more,
    the_weights_that_come_with_it_load,
    the_code_of_the_readme_runs,
    importing_or_running_all_that_brought_in_no_extra,
    the_command_line_tells_its_version_and_its_help,
    a_study_runs_and_says_what_its_picture_needs,
    a_command_that_needs_an_extra_says_which_in_a_sentence,
]

if __name__ == "__main__":
    for check in CHECKS:
        check()
        print(f"smoke: {check.__name__.replace('_', ' ')}", flush=True)
