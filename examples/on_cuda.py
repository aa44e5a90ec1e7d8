"""Everything that wants a GPU, in one call: tests, a larger ladder, its benchmark in FLOPs and in seconds, pictures.

    python examples/on_cuda.py --images /path/to/fashion-mnist --out out/cuda --minutes 25

Without a CUDA device it says so and ends well. What was done is kept in the folder, so the same call goes on after a
kill. `--images` is a folder of pictures or of IDX files; `--ladder colour` trains four levels at 64 x 64.
"""

import argparse
import datetime
import json
import subprocess
import sys
import time
from pathlib import Path

import torch

from mlsde.cli import main as mlsde
from mlsde.cli.output import environment


def arguments() -> argparse.Namespace:
    """What is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", help="folder of images to train on; without one the shipped ladders are measured")
    parser.add_argument("--ladder", default="fashion", help="sizes of the levels to train: fashion or colour")
    parser.add_argument("--steps", type=int, default=20_000, help="optimiser steps (default 20000)")
    parser.add_argument("--minutes", type=float, default=15.0, help="of training in this call (default 15)")
    parser.add_argument("--samples", type=int, default=256, help="trajectories of the benchmark (default 256)")
    parser.add_argument("--out", default="out/cuda", help="folder of the results (default out/cuda)")
    parser.add_argument("--skip-tests", action="store_true", help="do not run the tests that are marked cuda")
    return parser.parse_args()


def tests() -> bool:
    """The tests that are marked ``cuda``; they are skipped elsewhere."""
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-m", "cuda"], check=False)
    return done.returncode == 0


def train(asked: argparse.Namespace, folder: Path) -> bool:
    """Train until the ladder is there or the minutes are over."""
    rates = {"fashion": "2e-3,1e-3,6e-4", "colour": "2e-3,1e-3,6e-4,3e-4"}[asked.ladder]
    command = [
        "train", asked.images, str(folder), "--ladder", asked.ladder, "--steps", str(asked.steps), "--rates", rates,
        "--batch", "256", "--device", "cuda", "--precision", "bfloat16", "--every", "1000",
        "--minutes", str(asked.minutes),
    ]  # fmt: skip
    return mlsde(command) == 0


def measure(ladder: str, asked: argparse.Namespace, out: Path) -> list[str]:
    """The benchmark of both equations in both units, and pictures of both."""
    files = []
    for equation in ("ode", "sde"):
        for unit in ("flops", "seconds"):
            name = f"{Path(ladder).name}-{equation}-{unit}-cuda"
            files.append(str(out / f"{name}.json"))
            mlsde([
                "bench", "diffusion", "--ladder", ladder, "--equation", equation, "--unit", unit, "--device", "cuda",
                "--samples", str(asked.samples), "--reference-steps", "500", "--folder", str(out / "pieces" / name),
                "--json", files[-1], "--pictures", str(out / name),
            ])  # fmt: skip
        picture = str(out / f"{Path(ladder).name}-{equation}-cuda.png")
        mlsde(["sample", ladder, "--equation", equation, "--device", "cuda", "--picture", picture])
    return files


def wall_clock(files: list[str]) -> list[dict[str, object]]:
    """Speed-ups over each run's own full run: counted and by the clock; the goal is 80 % of the counted one."""
    rows = []
    for file in files:
        result = json.loads(Path(file).read_text())
        for budget in result["verdicts"]["budgets"]:
            ours = budget["ours"]
            counted, clock = (
                ours[name]
                for name in ("fewer evaluations than its own full run, counted", "the same in wall-clock")
            )  # fmt: skip
            rows.append({"file": Path(file).name, "budget": budget["budget"], "counted": counted, "clock": clock})
            print(f"{Path(file).name}, budget {budget['budget']:g}: counted {counted:.2f}, by the clock {clock:.2f}")
    return rows


def main() -> int:
    """Do it all, or say that there is no device."""
    asked = arguments()
    if not torch.cuda.is_available():
        print("there is no CUDA device here: nothing to run")
        return 0
    begin, out = time.time(), Path(asked.out)
    out.mkdir(parents=True, exist_ok=True)
    sound = asked.skip_tests or tests()
    ladders = ["digits", "fashion"]
    if asked.images is not None:
        folder = out / f"ladder-{asked.ladder}"
        if train(asked, folder):
            ladders = [str(folder)]
        else:
            print("the ladder is not trained yet; the same call goes on")
            return 3
    files = [file for ladder in ladders for file in measure(ladder, asked, out)]
    summary = {
        "date": datetime.date.today().isoformat(),
        "hardware": torch.cuda.get_device_name(),
        "command": " ".join(sys.argv),
        "seconds": time.time() - begin,
        "environment": environment(),
        "wall_clock": wall_clock(files),
    }
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
