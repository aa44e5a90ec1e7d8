"""An example whole on two processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.mark.slow
def test_the_ensemble_says_on_two_processes_what_it_says_on_one(tmp_path):
    """One of the two tells, and neither may wait for the other for ever."""
    told = []
    for launch in ([], TORCHRUN):
        folder = ["--folder", str(tmp_path / f"chunks{len(launch)}"), "--picture", str(tmp_path / "a.png")]
        done = subprocess.run(
            [sys.executable, *launch, str(ROOT / "examples" / "ensemble.py"), "--quick", *folder], check=True,
            text=True, timeout=300, stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        lines = done.stdout.splitlines()  # the script alone compares itself with two processes
        told.append([line for line in lines if "of two processes" not in line and "the same bits" not in line])
    assert len(told[0]) > 20
    assert told[0] == told[1]
