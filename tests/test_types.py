"""A type checker finds misspelt arguments and wrong types in a user's code, and nothing else."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import torch
import mlsde
import mlsde.plots
from mlsde import study
from mlsde.problems import analytic

y0 = torch.zeros(2, 1)
drift = mlsde.DriftHierarchy([lambda t, y: -y, lambda t, y: -2 * y], costs=[1.0, 8.0])
sde = mlsde.SDE(drift, diffusion=0.5)
rule = mlsde.Multilevel(mlsde.PowerLaw(gamma=2.5, scale=2), coins="systematic")
solution = mlsde.solve(sde, y0, (0.0, 1.0), steps=10, multilevel=rule, save_at="steps")
for word in ("independent", "nested"):
    mlsde.Multilevel.named(mlsde.PowerLaw(gamma=2.5, scale=2), word, "impulse")
cost: float | None = solution.stats.cost
calibration = mlsde.calibrate(sde, y0, (0.0, 1.0), steps=10)
calibration.recommend(budget=3.0).solve(y0, seed=1)
found = mlsde.ensemble(sde, y0, 10, (0.0, 1.0), steps=10, keep=mlsde.Statistics((0.5,)))
mlsde.plots.paths(solution, component=0, ax=mlsde.plots.firings(solution))
problem = analytic.linear_ode().ladder(gamma=3.0, levels=4)
study.convergence(problem, [study.plain()], [0.5], seeds=2)

mlsde.solve(sde, y0, (0.0, 1.0), step=10)                         # call-arg: step
mlsde.solve(sde, y0, (0.0, 1.0), steps="ten")                     # arg-type: steps
mlsde.Multilevel(mlsde.PowerLaw(gamma="2.5"))                     # arg-type: gamma
mlsde.Multilevel(mlsde.Constant([1.0, 0.5]), coin="nested")       # call-arg: coin
mlsde.Multilevel(mlsde.Constant([1.0, 0.5]), coins="sytematic")   # arg-type: coins
mlsde.Multilevel(mlsde.Constant([1.0]), correction="holds")       # arg-type: correction
mlsde.solve(sde, y0, (0.0, 1.0), steps=10, method="hein")         # arg-type: method
mlsde.SDE(drift, lambda t, y: y, noise="diagnal")                 # arg-type: noise
mlsde.SDE(drift, diffusion=0.5, nois="general")                   # call-arg: nois
calibration.recommend(budjet=3.0)                                 # call-arg: budjet
calibration.recommend(budget=3.0).solve(y0, sed=1)                # call-arg: sed
mlsde.ensemble(sde, y0, "many", (0.0, 1.0), steps=10)             # arg-type: ensemble
mlsde.plots.paths(solution, componet=1)                           # call-arg: componet
mlsde.plots.costs(calibration)                                    # arg-type: costs
study.plain(steper="heun")                                        # call-arg: steper
solution.y2                                                       # attr-defined: y2
"""

# what lies below is not read, which takes most of the time
SETTINGS = """
[mypy]
strict = True
follow_imports = silent
[mypy-torch.*,numpy.*,matplotlib.*,safetensors.*,tqdm.*]
follow_imports = skip
ignore_missing_imports = True
"""


def test_a_checker_finds_what_is_misspelt_or_of_a_wrong_type_and_nothing_else(tmp_path):
    pytest.importorskip("mypy")
    (tmp_path / "user.py").write_text(CODE)
    (tmp_path / "mypy.ini").write_text(SETTINGS)
    words = ["--config-file", tmp_path / "mypy.ini", "--cache-dir", tmp_path / "cache", tmp_path / "user.py"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *words], cwd=Path(__file__).parent.parent, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    found = re.findall(r"user\.py:(\d+): error: (.*?)  \[([\w-]+)\]$", done.stdout, re.MULTILINE)
    expected = {
        str(number): re.search(r"# ([\w-]+): (\w+)$", line).groups()
        for number, line in enumerate(CODE.splitlines(), start=1)
        if "  # " in line
    }
    assert {number: kind for number, _, kind in found} == {number: kind for number, (kind, _) in expected.items()}, (
        done.stdout + done.stderr
    )
    assert all(f'"{expected[number][1]}"' in message for number, message, _ in found)
    assert len(found) == len(expected) == 16
