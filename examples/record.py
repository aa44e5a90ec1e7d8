"""Run the examples and keep what they print and draw, for docs/examples.md.

    python examples/record.py              # all, or: langevin digits …

What NAME prints goes to docs/results/examples/NAME.txt, its picture, in 64 colours, to docs/images/example-NAME.png.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
NAMES = (
    "langevin", "neural_ode", "mean_field", "bayesian_subsets", "multiplicative", "digits", "own_study", "learning",
    "ensemble",
)  # fmt: skip


def record(name: str) -> None:
    """Run one example as a reader would, from the root of the repository."""
    root, picture = HERE.parent, Path("out") / f"{name}.png"
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, HERE / f"{name}.py", "--folder", folder], cwd=root, check=True, text=True,
            stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)},
        )  # fmt: skip
    text = root / "docs" / "results" / "examples" / f"{name}.txt"
    text.parent.mkdir(parents=True, exist_ok=True)
    text.write_text("\n".join(line.rstrip() for line in done.stdout.splitlines()) + "\n")
    few = Image.open(root / picture).convert("RGB").quantize(64, dither=Image.Dither.NONE)
    few.save(root / "docs" / "images" / f"example-{name}.png", optimize=True)


if __name__ == "__main__":
    for name in sys.argv[1:] or NAMES:
        record(name)
