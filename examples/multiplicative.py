# %% [markdown]
"""# A toy climate with multiplicative noise.

Surface temperatures of twelve latitudes, by an energy balance: sunlight comes in, where there is ice less of it
stays, heat flows to colder neighbours, and infrared radiation goes out. Weather is noise whose strength depends on
the temperature, `g(T) = 0.1 (310 - T)`: the cold latitudes vary most. With such noise Euler-Maruyama has strong order
1/2 and Milstein has 1.

The expensive part is the radiation: thousands of absorption lines, each opaque or not. Levels: 8, 64 and 1,024
wavenumbers. Price: their number. What to expect: climate models have always called the radiation more rarely than
everything else, and kept its last value in between: *periodic hold*, in the words of this package. The question is
whether a pilot finds something better.

    python examples/multiplicative.py      # --quick for a first look, --picture FILE
"""

# %%
import argparse

import torch

import mlsde
from mlsde import study
from mlsde.drawing import COLOURS, canvas, save
from mlsde.problems import LadderProblem
from mlsde.study.figure import draw_comparison

parser = argparse.ArgumentParser(description="An energy balance with multiplicative noise.", allow_abbrev=False)
parser.add_argument("--quick", action="store_true", help="smaller, in seconds")
parser.add_argument("--picture", default="out/multiplicative.png", help="where the picture goes")
asked, _ = parser.parse_known_args()  # a notebook has arguments of its own
torch.set_num_threads(1)

# %% [markdown]
# ## The climate
#
# After W. D. Sellers, J. Appl. Meteorol. 8 (1969), and G. R. North, J. Atmos. Sci. 32 (1975): bands of equal area,
# `x` the sine of the latitude; W/m^2, kelvin and years. At a wavenumber the surface radiates like a black body
# through an atmosphere whose optical depth grows by 6 % with each kelvin (water vapour), and which radiates itself,
# 60 K colder.

# %%
LATITUDES, CAPACITY, DIFFUSION = 12, 10.0, 0.6  # -, W year/(m^2 K), W/(m^2 K)
SIZES = (8, 16, 64) if asked.quick else (8, 64, 1024)
SPAN, STEPS, SHARE = (0.0, 5.0), 64 if asked.quick else 192, 8.0

x = (torch.arange(LATITUDES) + 0.5) / LATITUDES * 2 - 1
edges = torch.arange(1, LATITUDES) / LATITUDES * 2 - 1
flow = DIFFUSION * (1 - edges**2) * (LATITUDES / 2) ** 2
conduction = torch.diag(flow, 1) + torch.diag(flow, -1)
conduction -= torch.diag(conduction.sum(1))
sunlight = 340.0 * (1 - 0.477 * 0.5 * (3 * x**2 - 1))

chance = torch.Generator().manual_seed(0)
wavenumbers = 2000.0 * (torch.arange(SIZES[-1]) + 0.5) / SIZES[-1]  # 1/cm
lines = 10 ** (6 * torch.rand(SIZES[-1], generator=chance) - 3)  # optical depth at 288 K
PLANCK, KELVIN = 3.7418e-8, 1.43878  # W/m^2 cm^4 and cm K, of the flux of a black body


def black_body(nu: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
    """Flux for each unit of wavenumber, (..., wavenumbers)."""
    return PLANCK * nu**3 / torch.expm1(KELVIN * nu / temperature.unsqueeze(-1))


def outgoing(temperature: torch.Tensor, size: int) -> torch.Tensor:
    """Infrared radiation to space, from so many wavenumbers."""
    nu, depth = wavenumbers[:: SIZES[-1] // size], lines[:: SIZES[-1] // size]
    seen = torch.exp(-depth * torch.exp(0.06 * (temperature - 288.0)).unsqueeze(-1))
    flux = seen * black_body(nu, temperature) + (1 - seen) * black_body(nu, temperature - 60.0)
    return 2000.0 / size * flux.sum(-1)


def level(size: int) -> mlsde.hierarchy.Level:
    """The energy balance with so many wavenumbers."""

    def balance(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        albedo = 0.45 - 0.2 * torch.sigmoid((y - 263.0) / 5.0)
        return (sunlight * (1 - albedo) + y @ conduction - outgoing(y, size)) / CAPACITY

    return balance


def start(samples: int, seed: int) -> torch.Tensor:
    """Something like today."""
    today = 302.0 - 45.0 * x**2
    return today + torch.randn(samples, LATITUDES, generator=torch.Generator().manual_seed(seed))


names = [f"{size} wavenumbers" for size in SIZES]
drift = mlsde.DriftHierarchy([level(size) for size in SIZES], [float(size) for size in SIZES], names=names)
sde = mlsde.SDE(drift, lambda t, y: 0.1 * (310.0 - y), noise="diagonal")

# %% [markdown]
# ## The ladder, measured
#
# Lines are strewn at random, so that some of them say little of the others, and two differences are too few to make
# out an exponent: `gamma` only shapes the probabilities of the power law below. The pilot's recommendation does not
# need it.

# %%
found = study.diagnose(LadderProblem("a toy climate", sde, start, SPAN), samples=8, steps=64, method="milstein")
print(found)
problem = LadderProblem("a toy climate", sde, start, SPAN, gamma=found.gamma)

# %% [markdown]
# ## Every way at an eighth of the price
#
# Everything by Milstein, but for one rule and the rivals, which show Euler-Maruyama as well. The pilot's price is
# shared by ten thousand runs.

# %%
PILOT = {"pilot_steps": 16, "pilot_samples": 8} if asked.quick else {}
budget = STEPS * SIZES[-1] / SHARE
cal = mlsde.calibrate(sde, problem.initial(16), SPAN, steps=STEPS, method="milstein", trajectories=10_000, **PILOT)
advice = cal.recommend(budget=budget - cal.cost, share="sample")
print(advice)
rules = ("independent", "impulse"), ("periodic", "hold"), ("systematic", "impulse"), ("systematic", "extrapolate")
methods = [*(study.multilevel(*rule, stepper="milstein") for rule in rules), study.multilevel("periodic", "hold")]
compared = study.equal_cost(
    problem, methods, ways={"recommended": advice.solve}, share=SHARE, steps=STEPS, seeds=2 if asked.quick else 6,
    samples=1, patterns=3 if asked.quick else 15, reference_steps=(8 if asked.quick else 32) * STEPS,
)  # fmt: skip
print(compared)

# %% [markdown]
# ## The picture
#
# The mean temperature of one climate, and the temperatures at the end.

# %%
y0 = problem.initial(1, seed=99)
path = mlsde.BrownianPath(*SPAN, like=y0, seed=1, grids=(STEPS,))
options = {"steps": STEPS, "method": "milstein", "brownian": path, "save_at": "steps"}
figure = canvas(13.5, 4.0)
mean, profile, bars = figure.subplots(1, 3, width_ratios=[4, 4, 5])
runs = {
    f"{SIZES[-1]} wavenumbers": mlsde.solve(sde, y0, SPAN, **options),
    f"{SIZES[0]} wavenumbers": mlsde.solve(sde, y0, SPAN, level=1, **options),
    "recommended": advice.solve(y0, brownian=path, seed=[0], save_at="steps"),
}
for (name, run), colour, style in zip(runs.items(), (*COLOURS[:2], COLOURS[3]), ("-", "-", "--"), strict=True):
    mean.plot(run.ts, run.ys[:, 0].mean(1) - 273.15, style, color=colour, label=name)
    profile.plot(torch.rad2deg(torch.asin(x)), run.y1[0] - 273.15, style, color=colour, label=name)
mean.set(xlabel="years", ylabel="mean temperature [°C]")
mean.legend(fontsize=8, frameon=False)
profile.set(xlabel="latitude", ylabel="temperature at the end [°C]")
draw_comparison(compared, bars)
print(f"picture: {save(figure, asked.picture)}")

# %% [markdown]
# ## Does it pay here?
#
# The best way in hindsight, and the practice of climate models at the steps of the full run. What a recommendation
# gains on the rules of the table is mostly steps: the conduction needs them, and the cheapest level can afford them.

# %%
print(compared.verdict())
print(compared.verdict("periodic hold, milstein"))
asked_for = runs["recommended"].stats.evaluations
print(f"The recommendation takes {advice.steps} steps, and asks for all wavenumbers {asked_for[-1]:.0f} times.")
