"""Ensembles that tests and their child processes share; run as a program, one is computed and its check sum printed."""

import hashlib
import sys
import time

import torch

import mlsde

SPAN, STEPS, N, CHUNK = (0.0, 1.0), 20, 200, 10


def coarse(t, y):
    return -y


def fine(t, y):
    return -torch.sin(y) @ MATRIX


MATRIX = torch.eye(3) + 0.1


def equation(pause=0.0):
    def slow(t, y):
        time.sleep(pause)
        return fine(t, y)

    return mlsde.SDE(mlsde.DriftHierarchy([coarse, slow], costs=[1.0, 10.0]), diffusion=0.5)


def start(count):
    return torch.randn(count, 3)


def rule():
    return mlsde.Multilevel(mlsde.Constant([1.0, 0.3]))


def run(folder=None, pause=0.0, **options):
    given = {"steps": STEPS, "multilevel": rule(), "seed": 5, "chunk": CHUNK, "folder": folder, "identity": "toys"}
    return mlsde.ensemble(equation(pause), start, N, SPAN, **(given | options))


def check_sum(tensor):
    return hashlib.sha256(tensor.numpy().tobytes()).hexdigest()


def main():
    torch.set_num_threads(1)
    folder, pause, keep = sys.argv[1], float(sys.argv[2]), sys.argv[3]
    statistics = mlsde.Statistics(quantiles=[0.1, 0.9])
    found = run(None if folder == "-" else folder, pause, keep=statistics if keep == "statistics" else "states")
    tensor = found.ys if keep == "states" else torch.cat([found.statistics.mean, found.statistics.quantiles[:, 0]])
    sys.stdout.write(f"sum {check_sum(tensor)} {found.computed} {found.found};\n")  # at once, beside other processes


if __name__ == "__main__":
    main()
