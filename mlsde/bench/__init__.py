"""Benchmarks: what a step costs beside a bare loop and other libraries, how that grows, what of a saving is seen."""

from mlsde.bench.coin_results import CoinBenchmark, CoinClock, CoinError, Work
from mlsde.bench.contenders import CONTENDERS, DIFFUSION, STEP
from mlsde.bench.efficiency import Efficiency, EfficiencyBenchmark, efficiency
from mlsde.bench.levels import busy_ladder
from mlsde.bench.memory import Memory, memory, peak_bytes
from mlsde.bench.results import CoreBenchmark, Figure, Timing
from mlsde.bench.sharing import coins
from mlsde.bench.sweeps import Point, ScalingBenchmark, scaling
from mlsde.bench.timing import SHAPES, core

__all__ = [
    "CONTENDERS",
    "DIFFUSION",
    "SHAPES",
    "STEP",
    "CoinBenchmark",
    "CoinClock",
    "CoinError",
    "CoreBenchmark",
    "Efficiency",
    "EfficiencyBenchmark",
    "Figure",
    "Memory",
    "Point",
    "ScalingBenchmark",
    "Timing",
    "Work",
    "busy_ladder",
    "coins",
    "core",
    "efficiency",
    "memory",
    "peak_bytes",
    "scaling",
]
