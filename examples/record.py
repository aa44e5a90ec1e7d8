"""Run the examples and keep what they print and draw, for docs/examples.md.

    python examples/record.py              # all, or: langevin digits …

What NAME prints goes to docs/results/examples/NAME.txt, what matters of it to docs/examples.md, and its picture, in 64
colours, to docs/images/example-NAME.png.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from mlsde.cli.output import renewed

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "examples.md"
NAMES = (
    "langevin", "neural_ode", "mean_field", "bayesian_subsets", "multiplicative", "digits", "own_study", "learning",
    "ensemble",
)  # fmt: skip


FROM = {"digits": "the pilot costs", "own_study": "least cost that reaches", "ensemble": "at t=0"}
"""What the part begins with that the page shows; of the others it is the first table."""


def results(name: str) -> Path:
    """Where what an example prints is kept."""
    return ROOT / "docs" / "results" / "examples" / f"{name}.txt"


def block(name: str) -> str:
    """The part of what an example printed that the page shows."""
    lines = [line for line in results(name).read_text().splitlines() if not line.startswith("picture:")]
    first = next(i for i, line in enumerate(lines) if FROM.get(name, "errors at") in line)
    return "\n".join(["```text", *lines[first:], "```"])


def record(name: str) -> None:
    """Run one example as a reader would, from the root of the repository."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, f"examples/{name}.py", "--folder", folder], cwd=ROOT, check=True, text=True,
            stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    results(name).parent.mkdir(parents=True, exist_ok=True)
    results(name).write_text("\n".join(line.rstrip() for line in done.stdout.splitlines()) + "\n")
    PAGE.write_text(renewed(PAGE.read_text(), f"\n{block(name)}\n\n", name))
    few = Image.open(ROOT / "out" / f"{name}.png").convert("RGB").quantize(64, dither=Image.Dither.NONE)
    few.save(ROOT / "docs" / "images" / f"example-{name}.png", optimize=True)


if __name__ == "__main__":
    for name in sys.argv[1:] or NAMES:
        record(name)
