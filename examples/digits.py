# %% [markdown]
"""# Sampling digits with a small and a large network.

A diffusion model spends its time in evaluations of its network. A ladder of three, trained together on the 8 x 8
handwritten digits of scikit-learn, comes with the package.

Levels: networks of 0.97, 8.4 and 67 MFLOP an image. Price: FLOPs, the large network being 1; a full run is 100 steps
of it, everything else has to do with 10. The equation is the reverse SDE. Errors are root mean squares for each pixel
(pixels span [-1, 1]) to 300 steps of the large network by DPM-Solver++(2M) on the same noise. What to expect: in 10
steps the large network does not settle on the same digit, the small ones settle on others, and the paper's rule
scatters; coins that are spread evenly do better. A sample that ends as another digit counts for many that are right,
so look at the median too.

    python examples/digits.py              # --quick for a first look, --picture FILE; pip install 'mlsde[diffusion]'
"""

# %%
import argparse
import statistics

import torch

import mlsde
from mlsde.diffusion import Denoiser, DiscreteVariancePreserving, denoiser_ladder, load_ladder, sample
from mlsde.drawing import canvas, save

parser = argparse.ArgumentParser(description="Digits, from a ladder of three networks.", allow_abbrev=False)
parser.add_argument("--quick", action="store_true", help="smaller, in seconds")
parser.add_argument("--picture", default="out/digits.png", help="where the picture goes")
asked, _ = parser.parse_known_args()  # a notebook has arguments of its own
torch.set_num_threads(1)

# %% [markdown]
# ## The ladder
#
# A `Denoiser` says what a network predicts and on which process it was trained. `sample` is `mlsde.solve` for
# diffusions.

# %%
trained = load_ladder("digits")
print(trained)
about = trained.about
process = DiscreteVariancePreserving.linear(about.timesteps, beta_start=about.betas[0], beta_end=about.betas[1])
denoisers = [Denoiser(model, about.predicts, process) for model in trained.models]
costs = [flops / about.megaflops[-1] for flops in about.megaflops]
ladder = denoiser_ladder(denoisers, process=process, costs=costs, names=about.names)

IMAGES, FULL, BUDGET, SEEDS, PATTERNS = (2, 20, 10.0, 2, 2) if asked.quick else (16, 100, 10.0, 5, 15)
noise = torch.randn(IMAGES, *trained.shape, generator=torch.Generator().manual_seed(0))
path = mlsde.BrownianPath(*process.t_span, like=noise, seed=0)


def draw(sampler: str, steps: int, levels: tuple[int, ...] = (1, 2, 3), **options: object) -> mlsde.Solution:
    """Images from the same noise and the same path."""
    return sample(
        process, ladder.select(levels), noise, sampler=sampler, steps=steps, churn=1.0, brownian=path, **options
    )


exact = draw("dpm++2m", 3 * FULL).y1


def misses(run: mlsde.Solution) -> torch.Tensor:
    """Root mean square error of each image."""
    return (run.y1 - exact).flatten(1).square().mean(1).sqrt()


def rmse(run: mlsde.Solution) -> float:
    """Over all images."""
    return float(misses(run).square().mean().sqrt())


# %% [markdown]
# ## The probabilities
#
# A pilot of eight other images measures how much the networks differ as the noise falls, `V_k(t)`. Where the middle
# network is left out, the two differences add up.

# %%
others = torch.randn(8, *trained.shape, generator=torch.Generator().manual_seed(1))
sde = process.reverse(ladder, churn=1.0)
grid = process.log_snr_grid(24, to_clean=False)
variances = mlsde.level_variances(sde, others, times=grid, method="exponential", seed=1)
pilot = variances.cost * len(others)


def rule(levels: tuple[int, ...], correction: str) -> mlsde.Multilevel:
    """Evenly spread coins, with the best probabilities for the budget."""

    def known(t: float) -> list[float]:
        all_three = variances(t)
        return list(all_three) if levels == (1, 2, 3) else [all_three[0], all_three[1] + all_three[2]]

    order = 4.0 if correction == "extrapolate" else 2.0
    return mlsde.Multilevel(mlsde.Optimal(known, BUDGET, order), "systematic", correction)


paper = mlsde.Multilevel(mlsde.PowerLaw(2.5, budget=BUDGET), "independent", "impulse")

# %% [markdown]
# ## Every way at the price of ten evaluations of the large network

# %%
rows: list[tuple[str, str, list[mlsde.Solution], float]] = []


def show(kind: str, name: str, runs: list[mlsde.Solution], times: int = 1) -> None:
    """A row of the table; the cost is that of `times` runs."""
    errors = [rmse(run) for run in runs]
    median = statistics.mean(float(misses(run).median()) for run in runs)
    cost = times * statistics.mean(run.stats.cost for run in runs)
    spread = f"{statistics.stdev(errors):9.4f}" if len(runs) > 1 else f"{'-':>9s}"
    print(f"{name:48s}{cost:8.2f}{statistics.mean(errors):9.4f}{spread}{median:9.4f}")
    rows.append((kind, name, runs, statistics.mean(errors)))


def stitched(switch: float, low: int) -> mlsde.Solution:
    """The large network takes over when a part of the steps is done."""
    steps = int(BUDGET / (switch * costs[low - 1] + (1 - switch)))
    times = process.log_snr_grid(steps)
    after = float(times[round(switch * steps)])
    return draw("dpm++2m", steps, level=lambda t: low if t > after else 3)


most = 20 if asked.quick else 300
print(f"the pilot costs as much as {pilot:.0f} evaluations of the large network, once and for all images to come")
print(f"{'':48s}{'cost':>8s}{'RMSE':>9s}{'+-':>9s}{'median':>9s}")
show("full", f"the large network, DDIM, {FULL} steps", [draw("ddim", FULL)])
show("full", f"the large network, DPM-Solver++, {FULL} steps", [draw("dpm++2m", FULL)])
show("plain", "the large network, DDIM, 10 steps", [draw("ddim", 10)])
show("plain", "the large network, DPM-Solver++, 10 steps", [draw("dpm++2m", 10)])
show("plain", f"the small one alone, DPM-Solver++, {most} steps", [draw("dpm++2m", most, level=1)])
show("plain", "the middle one alone, DPM-Solver++, 80 steps", [draw("dpm++2m", 80, level=2)])
switched = [stitched(switch, low) for low in (1, 2) for switch in ((0.4, 0.8) if asked.quick else (0.2, 0.4, 0.6, 0.8))]
show("plain", f"two stitched, DPM-Solver++, best of {len(switched)}", [min(switched, key=rmse)])
patterns = [draw("ddim", 40, multilevel=paper, seed=seed) for seed in range(PATTERNS)]
show("paper", "independent impulse, DDIM, 40 steps (the paper)", patterns)
show("search", f"the paper's, best of {PATTERNS} patterns", [min(patterns, key=rmse)], times=PATTERNS)
for sampler, steps, levels, correction in (
    ("ddim", 80, (1, 3), "impulse"),
    ("ddim", 40, (1, 2, 3), "hold"),
    ("ddim", 40, (1, 2, 3), "extrapolate"),
    ("dpm++2m", 40, (1, 2, 3), "hold"),
):
    runs = [draw(sampler, steps, levels, multilevel=rule(levels, correction), seed=seed) for seed in range(SEEDS)]
    solver = {"ddim": "DDIM", "dpm++2m": "DPM-Solver++"}[sampler]
    show("ladder", f"systematic {correction}, {solver}, {steps} steps, {len(levels)} nets", runs)

# %% [markdown]
# ## The picture

# %%
best = {kind: min((row for row in rows if row[0] == kind), key=lambda row: row[3]) for kind in ("plain", "ladder")}
large = next(row for row in rows if row[1] == "the large network, DPM-Solver++, 10 steps")
shown = [("300 steps of the large network" if not asked.quick else "the reference", exact)]
shown += [(name, runs[0].y1) for _, name, runs, _ in (large, best["plain"], best["ladder"])]
shown.append(("independent impulse (the paper)", patterns[0].y1))
figure = canvas(10.5, 4.2)
left, right = figure.subfigures(1, 2, width_ratios=[6, 5])
panels = left.subplots(len(shown), 1)
for ax, (name, images) in zip(panels, shown, strict=True):
    ax.imshow(torch.cat(list(images[:12, 0]), dim=1).numpy(), cmap="gray_r", vmin=-1, vmax=1)
    ax.set_title(name, fontsize=8, loc="left", pad=2)
    ax.set_axis_off()
bars = right.subplots()
colours = {"full": "#7f7f7f", "plain": "#c9c9c9", "paper": "#c1272d", "search": "#e8a0a4", "ladder": "#0072b2"}
places = range(len(rows))[::-1]
bars.barh(places, [row[3] for row in rows], color=[colours[row[0]] for row in rows])
bars.set_yticks(places, [row[1] for row in rows], fontsize=7)
bars.set_xlabel("RMSE for each pixel")
print(f"picture: {save(figure, asked.picture)}")

# %% [markdown]
# ## Does it pay here?
#
# The best way with the ladder against the best without, both in hindsight on these images; sure if they are two
# standard errors of the coins apart. What was chosen on other images, and measured with more of them, is on the page
# on diffusion models.

# %%
ours = [rmse(run) for run in best["ladder"][2]]
apart = 2 * statistics.stdev(ours) / len(ours) ** 0.5
ratio = best["plain"][3] / best["ladder"][3]
sure = abs(best["plain"][3] - best["ladder"][3]) > apart
verdict = "the ladder pays" if sure and ratio > 1 else "the ladder does not pay"
print(f"{best['ladder'][1]} has {1 / ratio:.2f} times the error of {best['plain'][1]}: here {verdict}.")
