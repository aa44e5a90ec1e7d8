# %% [markdown]
"""# A neural ODE, and a neural SDE, with a ladder of network sizes.

A large network was trained as the right-hand side of an equation; calling it at every step is the price of a
forecast. Here it learns the weather on a ring (Lorenz 96, eight sites) from states and tendencies, in seconds on a
processor. Two small networks are *distilled* from it: they learn its outputs, not the data, so that they are close to
*it*.

Levels: networks of width 8, 64 and 512. Price: FLOPs of one evaluation, counted by torch; the ratios are 27 and 53.
What to expect: without noise the forecast is smooth, and solvers of high order get far in few calls of the large
network; with noise (model error, an ensemble of forecasts) they have no order left to gain, and the ladder shows.

    python examples/neural_ode.py          # --quick for a first look, --picture FILE
"""

# %%
import argparse
from collections.abc import Callable

import torch

import mlsde
from mlsde import study
from mlsde.drawing import COLOURS, canvas, save
from mlsde.problems import LadderProblem
from mlsde.study.figure import draw_comparison

parser = argparse.ArgumentParser(description="A neural ODE with a ladder of network sizes.", allow_abbrev=False)
parser.add_argument("--quick", action="store_true", help="smaller, in seconds")
parser.add_argument("--picture", default="out/neural_ode.png", help="where the picture goes")
asked, _ = parser.parse_known_args()  # a notebook has arguments of its own
torch.set_num_threads(1)
torch.manual_seed(0)

# %% [markdown]
# ## The data and the networks

# %%
SITES, SPAN = 8, (0.0, 0.5)
WIDTHS = (8, 32, 128) if asked.quick else (8, 64, 512)


def tendency(y: torch.Tensor) -> torch.Tensor:
    """Lorenz 96: `dy_i/dt = (y_{i+1} - y_{i-2}) y_{i-1} - y_i + 8`; seen in the training alone."""
    return (y.roll(-1, 1) - y.roll(2, 1)) * y.roll(1, 1) - y + 8.0


weather = mlsde.SDE(lambda t, y: tendency(y))
spun_up = mlsde.solve(weather, 2.0 + torch.randn(256, SITES), (0.0, 5.0), steps=500, method="heun").y1
run = mlsde.solve(weather, spun_up, (0.0, 8.0), steps=800, method="heun", save_at=[0.25 * k for k in range(33)])
states = run.ys.flatten(0, 1)
states = states + 0.5 * torch.randn_like(states)  # beside the attractor too
held_out, states = states[:256], states[256:]


def network(width: int) -> torch.nn.Sequential:
    """Two hidden layers."""
    layers = torch.nn.Linear(SITES, width), torch.nn.Linear(width, width), torch.nn.Linear(width, SITES)
    return torch.nn.Sequential(layers[0], torch.nn.SiLU(), layers[1], torch.nn.SiLU(), layers[2])


def train(net: torch.nn.Module, targets: torch.Tensor, iterations: int, rate: float) -> torch.nn.Module:
    """Least squares on `states`, by Adam with a rate that falls to zero."""
    optimiser = torch.optim.Adam(net.parameters(), lr=rate)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, iterations)
    for _ in range(iterations):
        rows = torch.randint(len(states), (256,))
        loss = (net(states[rows] / 4.0) * 4.0 - targets[rows]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        falling.step()
    return net.requires_grad_(False)


part = 40 if asked.quick else 1
large = train(network(WIDTHS[2]), tendency(states), 1000 // part, 2e-3)
taught = large(states / 4.0) * 4.0
nets = [*(train(network(width), taught, 4000 // part, 5e-3) for width in WIDTHS[:2]), large]
levels = [lambda t, y, net=net: net(y / 4.0) * 4.0 for net in nets]

truth = tendency(held_out)
for width, level in zip(WIDTHS, levels, strict=True):
    off = [float((level(0.0, held_out) - goal).square().mean().sqrt()) for goal in (truth, levels[-1](0.0, held_out))]
    print(f"width {width:3d}: {off[0]:.3f} from the weather, {off[1]:.3f} from the large network")
print(f"tendencies have a root mean square of {float(truth.square().mean().sqrt()):.1f}")

# %% [markdown]
# ## The ladder, measured
#
# From here on the large network *is* the equation: what it got wrong in training is nobody's business here. A pilot
# of a few trajectories counts FLOPs, measures how the levels differ, and recommends a way for an eighth of the price
# (its own price is shared among the ten thousand trajectories of the forecast to come, and taken from the budget).
# Everybody integrates a neural ODE with the classical Runge-Kutta method; `mlsde` does not have it, so it joins the
# comparison as a rival from outside.

# %%
STEPS, SHARE, NOISE = 32 if asked.quick else 128, 8.0, 1.0
SEEDS, SAMPLES = (2, 4) if asked.quick else (8, 4)
PILOT = {"pilot_steps": 16, "pilot_samples": 8} if asked.quick else {}
counted = mlsde.DriftHierarchy(levels, names=[f"width {width}" for width in WIDTHS])


def runge_kutta(budget: float, price: float) -> dict[str, Callable]:
    """The large network by the classical Runge-Kutta method, in as many steps as a budget pays for."""
    steps = int(budget / price / 4)
    h = (SPAN[1] - SPAN[0]) / steps

    def way(y0: torch.Tensor, **unused: object) -> tuple[torch.Tensor, float]:
        y, f = y0, levels[-1]
        for _ in range(steps):
            k1 = f(0.0, y)
            k2 = f(0.0, y + 0.5 * h * k1)
            k3 = f(0.0, y + 0.5 * h * k2)
            y = y + h / 6.0 * (k1 + 2.0 * k2 + 2.0 * k3 + f(0.0, y + h * k3))
        return y, 4.0 * steps * price

    return {f"level 3, Runge-Kutta, {steps} steps": way}


def contest(name: str, diffusion: float | None, stepper: str) -> study.Comparison:
    """Calibrate, and compare every way at an eighth of the price."""
    sde = mlsde.SDE(counted, diffusion)
    cal = mlsde.calibrate(sde, spun_up, SPAN, steps=STEPS, method=stepper, unit="flops", trajectories=10_000, **PILOT)
    prices, stages = cal.sde.drift.costs, 2 if stepper == "heun" else 1
    print(f"{name}: levels of {', '.join(f'{price:,.0f}' for price in prices)} FLOPs; gamma {cal.gamma:.2f}")
    budget = STEPS * stages * prices[-1] / SHARE
    advice = cal.recommend(budget=budget - cal.cost, share="sample")
    print(advice)
    rules = [study.multilevel("independent", "impulse")] if stepper == "euler" else []
    rules += [study.multilevel("systematic", each, stepper=stepper) for each in ("hold", "extrapolate")]
    compared = study.equal_cost(
        LadderProblem(name, cal.sde, spun_up, SPAN, gamma=cal.gamma), rules, share=SHARE, steps=STEPS, seeds=SEEDS,
        samples=SAMPLES, ways={"recommended": advice.solve}, patterns=0 if stepper == "heun" else 15,
        rivals=runge_kutta(budget, prices[-1]) if diffusion is None else {},
        reference_steps=(4 if asked.quick else 16) * STEPS,
    )  # fmt: skip
    print(compared, "\n")
    return compared


# %% [markdown]
# ## Without noise
#
# Everything inside Heun, where hold and extrapolate may live (impulses may not: they would spoil its order).

# %%
smooth = contest("neural ODE", None, "heun")

# %% [markdown]
# ## With noise
#
# Model error as additive noise. Nothing of order above 1 is left, and Euler is as good as Heun.

# %%
noisy = contest("neural SDE", NOISE, "euler")

# %% [markdown]
# ## The picture

# %%
figure = canvas(14.0, 4.2)
forecast, left, right = figure.subplots(1, 3, width_ratios=[3, 4, 4])
path = mlsde.BrownianPath(*SPAN, like=spun_up[:1], seed=3, grids=(STEPS,))
for k, colour in ((1, COLOURS[1]), (3, COLOURS[0])):
    for kind, diffusion, style in (("", None, "-"), (", noise", NOISE, ":")):
        found = mlsde.solve(
            mlsde.SDE(counted, diffusion), spun_up[:1], SPAN, steps=STEPS, level=k, save_at="steps",
            brownian=None if diffusion is None else path,
        )  # fmt: skip
        forecast.plot(found.ts, found.ys[:, 0, 0], style, color=colour, label=f"width {WIDTHS[k - 1]}{kind}")
forecast.set(xlabel="time", ylabel="first site")
forecast.set_title("one forecast, smallest and largest network", fontsize=9)
forecast.legend(fontsize=8, frameon=False)
draw_comparison(smooth, left)
draw_comparison(noisy, right)
print(f"picture: {save(figure, asked.picture)}")

# %% [markdown]
# ## Does it pay here?
#
# In FLOPs, and against what is in the tables. Two warnings. A recommendation of thousands of steps is cheap in FLOPs,
# but a step also costs the loop's time: price the ladder in seconds (`unit="seconds"`) before you believe it. And
# there are solvers of order 1.5 for additive noise, which are not here.

# %%
for compared in (smooth, noisy):
    print(f"{compared.problem}. {compared.verdict()}")
