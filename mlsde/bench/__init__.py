"""Benchmarks: what a step costs beside a bare loop and beside torchsde, and whether memory grows."""

from mlsde.bench.contenders import CONTENDERS, DIFFUSION, STEP
from mlsde.bench.efficiency import Efficiency, EfficiencyBenchmark, StepPrice, busy_ladder, efficiency
from mlsde.bench.memory import Memory, memory
from mlsde.bench.results import CoreBenchmark, Figure, Timing
from mlsde.bench.timing import SHAPES, core

__all__ = [
    "CONTENDERS",
    "DIFFUSION",
    "SHAPES",
    "STEP",
    "CoreBenchmark",
    "Efficiency",
    "EfficiencyBenchmark",
    "Figure",
    "Memory",
    "StepPrice",
    "Timing",
    "busy_ladder",
    "core",
    "efficiency",
    "memory",
]
