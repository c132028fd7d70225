# %% [markdown]
# # 9. The scoreboard
#
# [![Open in Colab](../book/_static/colab.svg)](https://colab.research.google.com/github/ddpm-book/ddpm-book/blob/main/notebooks/09_scoreboard.ipynb)
#
# Six chapters of choices: how long a chain, which schedule, which variance, which loss, how many steps,
# how much noise in each. Here they compete, on real MNIST, with one network, one budget and one feature extractor, and every number of that comparison
# is read from a file in `data/results` that a command of the repository wrote.

# %% tags=["setup", "hide-input"]
# Set-up: find ddpmlib installed, in the clone around this notebook, or fetch it.
import os
import subprocess
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path

spec = find_spec("ddpmlib")
if spec is None or spec.origin is None:
    url, release, commit = "https://github.com/ddpm-book/ddpm-book", "", ""
    here = Path.cwd()
    root = here.parent if here.name == "notebooks" else here
    project = root / "pyproject.toml"
    if not project.is_file() or f'"{url}"' not in project.read_text("utf-8"):
        root = here / "ddpm-book"
        fetch = ["git", "clone", "--quiet", "--depth=1", url, str(root)]
        fetch += ["--branch", release] if release else []
        env = os.environ | {"GIT_TERMINAL_PROMPT": "0"}
        run = partial(
            subprocess.run, check=True, capture_output=True, text=True, env=env
        )
        try:
            if not root.exists():
                run(fetch)
            head = run(["git", "-C", str(root), "rev-parse", "HEAD"]).stdout
        except (OSError, subprocess.CalledProcessError) as error:
            said = getattr(error, "stderr", "") or str(error)
            why = said.strip().split("\n")[0]
            raise RuntimeError(
                f"ddpmlib is not installed here, and git cannot fetch it from {url} "
                f"({why}): check the network, or start this notebook in a clone of "
                "the repository."
            ) from None
        if commit not in ("", head.strip()):
            raise RuntimeError(
                f"{root} is not {release} of {url}, commit {commit}, and was not "
                "imported: delete this folder and run the cell again."
            )
    sys.path.insert(0, str(root))

from ddpmlib import plots

plots.style()

# %% mystnb={"image": {"alt": "Two panels, linear and cosine schedule: Fréchet distance over the number of network calls for five samplers, with a dotted line for real test images. Ancestral sampling with variance beta is far worse than all others at few calls; with beta tilde or the learned variance it is best, and DDIM lies above them."}}
import json

import matplotlib.pyplot as plt
import torch
from ddpmlib import experiments
from ddpmlib.denoiser import oracle
from ddpmlib.experiments import METHODS, over_seeds, results, times_floor
from ddpmlib.process import DDPM, schedules
from ddpmlib.samplers import draw, uniform_times
from IPython.display import Markdown

fig, axes = plt.subplots(
    1, 2, figsize=(8, 3.2), sharey=True, width_ratios=(1, 2)
)
for ax, run in zip(axes, ("linear-hybrid", "cosine-hybrid"), strict=True):
    experiments.strides.figure(run, ax).set_title(run)
axes[0].set(ylabel="Fréchet distance", yscale="log")
_ = axes[1].legend(fontsize=7, ncol=3, loc="center", bbox_to_anchor=(0.5, 0.3))

# %% [markdown]
# *What to see:* the same small network, trained under two schedules, sampled in five ways; the vertical axis is logarithmic, and the dotted line is what as many real test images reach (it rises where fewer were drawn: 5,000 of each up to 50 calls, 2,000 and 1,000 above). Three things are plain. Ancestral
# sampling with the large variance $\beta$ is ruined by long steps. With $\tilde\beta$, or the variance that the network learned, ten calls under the cosine schedule do what hundreds do. And DDIM, famous for few steps, lies *above* these two here, and hardly comes down with
# more calls. By the end of this chapter you know which of these to believe, and how much.
#
# ## Objectives
#
# After this chapter you can
#
# - put an error bar on a score, and say which of its sources the bar covers;
# - tell an error of the *sampler* from an error of the *network*;
# - say which choices of a diffusion model matter at few steps, at many, and for the likelihood;
# - read somebody else's table, the slides' among them, and name what is missing in it.
#
# ## The idea in a picture
#
# Two things can be wrong with a sample: the network's prediction, and the steps that were taken with it. On images they come mixed. On a
# mixture of Gaussians the prediction is exact, so whatever is wrong is the sampler's. The yardstick is the sliced Wasserstein distance: project
# both clouds on a direction, sort both, average the gaps, average over directions. No features, no Gaussian fit.

# %% mystnb={"image": {"alt": "Sliced Wasserstein distance to the exact mixture over the number of denoiser calls, 3 to 50, for four samplers with an exact denoiser, and the distance of two exact samples as a dotted line. Ancestral sampling with variance beta is lowest up to ten calls; at fifty all are at the dotted line."}}
from ddpmlib import data

toy = DDPM(schedules.cosine(1000))
mixture = oracle.Mixture(
    toy, torch.ones(6), data.ring_means(6), torch.full((6,), 0.15)
)


class Exact:
    """The exact prediction, with the reverse variance that a sampler assumes."""

    def __init__(self, var_mix):
        self.var_mix = var_mix

    def __call__(self, x_t, t, y=None):
        return oracle.Prediction(mixture(x_t, t).x0, self.var_mix)


def sliced_wasserstein(a, b, directions=64):
    angle = torch.arange(directions) * torch.pi / directions
    lines = torch.stack([angle.cos(), angle.sin()])
    gaps = (a @ lines).sort(0).values - (b @ lines).sort(0).values
    return float(gaps.abs().mean())


def radius(x):
    return float((x**2).sum(1).mean().sqrt())


N, SEEDS = 6000, 3
calls = (3, 5, 10, 25, 50)
ways = {
    "beta": (1.0, 1.0),
    "beta_tilde": (1.0, 0.0),
    "ddim_half": (0.5, 0.0),
    "ddim": (0.0, 0.0),
}
error, size = {}, {}
for way, (eta, mix) in ways.items():
    for k in calls:
        seen = []
        for seed in range(SEEDS):
            g = torch.Generator().manual_seed(seed)
            noise = torch.randn(N, 2, generator=g)
            times = uniform_times(1000, k)
            x = draw(Exact(mix), toy, noise, times, eta=eta, generator=g)
            truth = mixture.draw(N, generator=g)
            seen.append((sliced_wasserstein(x, truth), radius(x)))
        error[way, k], size[way, k] = torch.tensor(seen).T
g = torch.Generator().manual_seed(100)
pairs = [
    (mixture.draw(N, generator=g), mixture.draw(N, generator=g))
    for _ in range(10)
]
floor = torch.tensor([sliced_wasserstein(a, b) for a, b in pairs])

fig, ax = plt.subplots(figsize=(6, 3))
for way in ways:
    ax.errorbar(
        calls,
        [float(error[way, k].mean()) for k in calls],
        [float(error[way, k].std()) / SEEDS**0.5 for k in calls],
        marker="o",
        ms=4,
        capsize=2,
        label=METHODS[way].label,
        color=METHODS[way].colour,
    )
ax.axhline(floor.mean(), ls=":", color=plots.GREY, label="two exact samples")
ax.set(
    xlabel="denoiser calls",
    ylabel="sliced Wasserstein distance",
    xscale="log",
    yscale="log",
    xticks=calls,
    xticklabels=calls,
)
ax.minorticks_off()
ax.legend(fontsize=7)
true = radius(mixture.draw(100_000, generator=g))
print(f"root mean square radius of the data: {true:.2f}")
for k in (5, 10):
    found = [f"{w} {float(size[w, k].mean()):.2f}" for w in ways]
    print(f"samples of {k:2d} calls:", ", ".join(found))
for k in (5, 10):
    assert error["beta", k].mean() < 0.9 * error["ddim", k].mean()
    assert size["beta_tilde", k].mean() < size["beta", k].mean() < true
assert all(error[w, 50].mean() < 2 * floor.mean() for w in ways)

# %% [markdown]
# *What to see:* with a perfect prediction and 25 calls or more all samplers come close to the truth; with 50 all are about where two *exact* samples of this size are from each other.
# With ten calls or fewer **ancestral sampling with the large variance $\beta$ is the best of the four**. The printed radii show why. A long step of any sampler shrinks the cloud, because it moves towards a mean
# and the spread of several clusters around it is not in its variance. The bounds of chapter 06 said so: $\tilde\beta$ is right for data in one point, $\beta$ for data as wide as the noise, and
# a ring of six clusters is, for a long step, wide. Keep this order in mind. The literature reports the opposite one, and so will the images below; whatever turned it around is not in the formulas of the samplers.
#
# ## The derivation: what a number on a scoreboard is worth
#
# ### Shares
#
# Class agreement is a share: $n$ independent samples, each right with probability $p$. The number of right ones is binomial with variance
# $n\,p(1-p)$, so the share $\hat p$ has
#
# $$
# \operatorname{se}(\hat p) = \sqrt{p\,(1-p)/n}\,. \tag{9.1}
# $$
#
# With $n = 5000$ and $p = 0.98$ that is 0.2 percentage points: the third digit of an agreement is noise.
#
# ### Two sources, one bar
#
# Train a network with seed $r$, draw $n$ samples with noise $j$, measure $F_{rj}$. Write $m_r = \mathbb E[F_{rj}\mid r]$ for what this network would score if we drew samples for
# ever, and $\mu = \mathbb E[m_r]$. Then $F_{rj} - \mu = (m_r - \mu) + (F_{rj} - m_r)$. Given $r$ the second bracket has mean zero, so the product of the two has mean zero as well,
# and the squares add up:
#
# $$
# \operatorname{Var}(F_{rj}) = \underbrace{\operatorname{Var}(m_r)}_{\text{training}} + \underbrace{\mathbb E\,\operatorname{Var}(F_{rj}\mid r)}_{\text{drawing}}. \tag{9.2}
# $$
#
# A bootstrap over samples sees the second term only. It shrinks like $1/n$; the first does not shrink at all until you train again. **A narrow interval on one network is not an
# error bar on a method.**
#
# ### The floor
#
# The Fréchet distance of $n$ samples is biased upwards by about $c/n$ even if the samples are perfect (chapter 08), and perfect samples still differ from the *training* set as the
# test set does. Both are in the distance of $n$ real test images, the floor, and the plain number only means something beside it:
#
# $$
# \rho = F(\text{samples}_n,\ \text{training set})\,/\,F(\text{test images}_n,\ \text{training set}). \tag{9.3}
# $$
#
# $\rho = 1$ is as good as unseen data by this measure; a little below 1, as on the card of the `mnist` checkpoint with $\eta=1$, is not better than data: the test set has peculiarities of its own, which a model of the training set need not share. It is a ratio of two numbers on the same features with the same $n$; between papers with other features or other $n$ nothing can be compared.
#
# ### Seeds
#
# With $k$ networks, $\bar F = \frac1k\sum_r F_r$ has, from the spread $s$ between them,
#
# $$
# \operatorname{se}(\bar F) = s/\sqrt k\,,\qquad s^2 = \tfrac{1}{k-1}\textstyle\sum_r (F_r - \bar F)^2, \tag{9.4}
# $$
#
# and since each $F_r$ carries both terms of (9.2), so does this bar, if every network is drawn from with noise of its own. (Ours share it, which leaves most of the second, smaller term out.) With $k = 3$ it is itself uncertain by half its size; with $k = 1$ it does not exist.
#
# ### The winner's curse
#
# Measure three equally good models, each with noise of standard deviation $\sigma$, and report the best. For independent normal noise $Z_i$,
# $\min(Z_1, Z_2) = \frac{Z_1+Z_2}{2} - \frac{|Z_1 - Z_2|}{2}$ and $Z_1 - Z_2\sim\mathcal N(0, 2\sigma^2)$ has $\mathbb E|Z_1-Z_2| = 2\sigma/\sqrt\pi$; for three,
# adding the three pairwise minima counts the smallest twice and the middle one once, so that $2\,\mathbb E\min + \mathbb E\,\mathrm{median} = 3\cdot(-\sigma/\sqrt\pi)$ and, the median having mean zero,
#
# $$
# \mathbb E\min(Z_1, Z_2) = -\sigma/\sqrt{\pi}\,,\qquad \mathbb E\min(Z_1, Z_2, Z_3) = -\tfrac{3}{2}\,\sigma/\sqrt{\pi}\,. \tag{9.5}
# $$
#
# Choosing among three flatters the winner by $0.85\,\sigma$, for nothing. The mean over seeds does not.

# %% tags=["hide-input"]
import sympy as sp

u = sp.symbols("u", positive=True)
z = sp.symbols("z", real=True)
difference = sp.exp(-(u**2) / 4) / sp.sqrt(
    4 * sp.pi
)  # of Z1 - Z2, with sigma = 1
two = -2 * sp.integrate(u * difference, (u, 0, sp.oo)) / 2  # -E|Z1 - Z2| / 2
three = 3 * two / 2  # the median of three has mean zero
assert (two, three) == (-1 / sp.sqrt(sp.pi), -3 / (2 * sp.sqrt(sp.pi)))
# and without the trick, from the density of the smallest of k
density = sp.exp(-(z**2) / 2) / sp.sqrt(2 * sp.pi)
above = sp.erfc(z / sp.sqrt(2)) / 2
for k, claimed in ((2, two), (3, three)):
    exact = sp.Integral(z * k * density * above ** (k - 1), (z, -sp.oo, sp.oo))
    assert abs(float(exact.evalf(8)) - float(claimed)) < 1e-6
print("(9.5) holds for two and for three")

# %% [markdown]
# ## From scratch, then from the library
#
# A row of a results file is one measured cell, nothing is averaged away. Ten lines turn rows into a table.

# %%
rows = json.loads((results.folder() / "strides.json").read_text())
cells = {}
for row in rows:
    if row["run"] == "cosine-hybrid":
        cells.setdefault(row["steps"], {})[row["method"]] = row["frechet"]
for k in sorted(cells):
    print(
        f"{k:5d} calls  ",
        "  ".join(f"{m} {v:.2f}" for m, v in cells[k].items()),
    )

found = results.rows("strides", run="cosine-hybrid")
assert results.pivot(found, "steps", "method", "frechet") == cells
one = found[0]
assert times_floor(one) == one["frechet"] / one["frechet_floor"]
print(json.dumps(one, indent=1))

# %% [markdown]
# ## Train it here
#
# The ladder of this chapter on the embedded 8×8 digits: 150 updates each, the digits network of chapter 03, one seed, 20 calls. First the linear schedule with a
# fixed variance, then with a learned one, then the cosine schedule as well.

# %% tags=["nbval-ignore-output"]
from ddpmlib import evaluation, zoo
from ddpmlib.training import Trainer, fit
from ddpmlib.zoo import recipes

digits = data.load("digits")
classifier, _ = zoo.load("digits-classifier", device="cpu")
start = recipes.changed(
    recipes.RECIPES["digits"],
    {"schedule": "linear", "settings.steps": 150},
)
learned = {"var_mix": None, "objective": "hybrid"}
rungs = {
    "linear, fixed β̃": start,
    "linear, learned": recipes.changed(start, learned),
    "cosine, learned": recipes.changed(start, learned | {"schedule": "cosine"}),
}
y = torch.arange(300) % 10
for name, recipe in rungs.items():
    trainer = Trainer(
        recipe.build(),
        recipe.loss(),
        digits.x_train,
        digits.y_train,
        recipe.settings,
        device="cpu",
    )
    for _ in fit(trainer):
        pass
    for eta in (1.0, 0.0):
        how = evaluation.Sampling(steps=20, eta=eta)
        x0 = evaluation.generate(trainer.averaged, (1, 8, 8), y, how)
        row = evaluation.measure_samples(
            classifier, x0, y, digits, metrics=("fid", "agreement")
        )
        low, high = row["frechet_interval"]
        print(
            f"{name:16} η = {eta:.0f}  Fréchet {row['frechet']:5.1f} [{low:.1f}, {high:.1f}]"
            f"  floor {row['frechet_floor']:.1f}"
            f"  agreement {row['class_agreement']:.2f}"
        )

# %% [markdown]
# Ten seconds of training a rung are far from enough, and the distances say so: dozens of floors. The *order* of such rungs may change with the seed. That is what the
# larger experiment is for.
#
# ## The same code at scale
#
# One network (0.18 million weights, a quarter of the `mnist` checkpoint's), one budget (4,000 updates of 64 images, 4.3 passes over
# MNIST), one feature extractor (`mnist-classifier`, which took no part in any choice below). It is small because
# there are eighteen of it, and it is *not* trained to the end: this chapter compares, the checkpoints of the other chapters are better.
# All nets predict $v$: a net that predicts noise multiplies its first error by hundreds when a cosine chain takes few steps
# ([chapter 05](05_schedules.ipynb)), and the table would show that alone. A run is one command, for example
#
# ```bash
# ddpmlib train mnist-comparison --set schedule=cosine var_mix=null objective=hybrid --bf16 --compile --threads 1
# python -m ddpmlib.experiments train      # all of them
# python -m ddpmlib.experiments measure    # every cell below, into data/results
# python -m ddpmlib.experiments tables     # tables and figures, from data/results
# ```
#
# A name behind the last two, such as `lengths`, asks for one experiment. Each is one module of `ddpmlib/experiments`,
# with its cells, the way they are measured, its table and its figure.

# %%
Markdown(experiments.training.table())

# %% [markdown]
# ### The ladder, ours and that of the slides

# %%
Markdown(experiments.ladder.table())

# %% mystnb={"image": {"alt": "Five rungs of the ladder: Fréchet distance divided by that of real test images, one dot per training seed."}}
fig, ax = plt.subplots(figsize=(9, 3.2), dpi=80)
_ = experiments.ladder.figure(ax)
ax.tick_params(axis="x", labelsize=8)

# %%
Markdown(experiments.ladder.deck_table())

# %% [markdown]
# *What to see:* the dots are single networks, the orange bars their means. **Our ladder goes up before it comes down.** The second rung, fewer calls and no noise, is worse than the first; the cosine schedule mends half of that. A rung of such a ladder changes several things at
# once, and the next cells take them apart: it is the missing noise that costs, not the missing calls. The variance that rung two learned is not even used by its sampler, because DDIM with $\eta=0$ draws no noise, and its prediction is trained by the same loss as before (the stop-gradient of chapter 06).
#
# The last two rungs take the networks of the third as they are and *guide* them towards their class, by a classifier of noisy images, on top of the label ([chapter 10](10_classifier_guidance.ipynb)) or by the difference of their own two predictions ([chapter 11](11_classifier_free.ipynb)). That takes the distance down to a half and to two fifths (the figure shows it over the floor, 0.24), and the class asked for is missed once in a hundred samples, or a few times in a thousand, instead of seven times in a hundred. It is the largest step down of the ladder, and the least honest one: Inception Score now *passes* that of real images (9.5), and classifier-free guidance pays with
# recall. It helps because these networks are weak. The stronger `mnist` checkpoint, which stands at the floor without guidance, only loses by it: chapter 11 has the whole curve.
#
# :::{admonition} Mind the slide
# :class: warning
# The ladder of the slides stands on another data set (CIFAR-10), other features, an unknown number of samples, without a floor and without a second seed, so no number of one table may be compared with one of the other. What can be said: distances of 160 to 300 after 100 epochs are not what these methods do
# (published values are 3 to 4), and [chapter 08](08_metrics.ipynb) shows what such values look like: a wrong range of pixels, or far too few samples. An Inception Score of 1.4 to 3.2, on a scale where noise has 1 and real images have 11, says the same. (3.16 with guidance; its FID is worse than that of the rung below.) Their ladder does not descend throughout either: IDDPM stands at 200, IDDPM with DDIM under the linear schedule at 250. The *order* may be right all the same; the table cannot tell. Their last rung gains Inception Score and loses FID, 160 to 184. Guidance does that where $w$ is larger than the model needs, and which $w$ it was the slides do not say.
# :::
#
# How wide is the bar of one row? Equation (9.2), measured:

# %%
for i, rung in enumerate(experiments.ladder.RUNGS, start=1):
    networks = rung.rows()
    _, error = over_seeds([row["frechet"] for row in networks])
    seeds = error * len(networks) ** 0.5
    low, high = networks[0]["frechet_interval"]
    drawing = (high - low) / (2 * 1.96)
    print(
        f"rung {i}: deviation {seeds:.2f} between networks, {drawing:.2f} of drawing"
    )
    assert seeds > 2 * drawing or i > 3  # guidance evens networks out

# %% [markdown]
# Two trainings that differ in nothing but their seed lie several times further apart than the interval of either suggests. Every table below has **one** network per row. A deviation of 10 to 20 % between networks means that the *difference* of two rows must be about 40 % of them to be worth two standard errors, however narrow the brackets. Rows that share their network, as samplers of one net do, may be read much closer.
#
# ### 1. How long a chain: T = 500, 1000, 2000

# %%
Markdown(experiments.lengths.table())

# %% [markdown]
# *What to see:* nothing that a second seed could not turn around. At 50 calls, or 250, the three lengths differ by a tenth, which is less than two seeds do. The slides' Inception Score grows with $T$; ours does not. What $T$ decides is how fine the steps *could* be; a sampler that takes 50 of them never finds out.
#
# ### 2. Which schedule

# %%
Markdown(experiments.schedules.table())

# %% [markdown]
# *What to see:* cosine beats linear in all four cells, by a factor between 1.4 and 2, most with ten calls and $\tilde\beta$; and for DDIM at 50 calls the ladder has three seeds of each. That published trend is **reproduced** on 28×28 images. Sigmoid is *last* by distance and Inception Score (one cell, $\tilde\beta$ at ten calls, is too close to call), not between the two as in the slides; by recall it is between them. But a schedule is two things: the grid of the chain, and, through the plain loss on $v$, a weighting of
# noise levels ([chapter 05](05_schedules.ipynb)). This table does not take them apart.
#
# ### 3. Which variance, and which loss

# %%
Markdown(experiments.variances.table())

# %%
Markdown(experiments.likelihood.table())

# %%
Markdown(experiments.gradient_noise.table())

# %% [markdown]
# *What to see:*
#
# - **Samples** (first table, 25 calls): the large variance $\beta$ costs a factor of almost five; $\tilde\beta$ and the learned variance cannot be told apart.
# - **Likelihood** (second table): there the learned variance is worth 0.15 to 0.4 bits per dimension over either fixed one, with the same prediction of $x_0$, in all four nets that learned it. That published trend is **reproduced**. The ± is a standard error over images and drawn times; since every row saw the same images, times and noise, rows differ
#   by less noise than that (how much less is not on record). (These bounds are far from the 1.35 of the `mnist` checkpoint, and that is training, not principle.)
# - **$L_\mathrm{vlb}$ alone** has by far the best likelihood, and samples three to seven times as far from the data as those of $L_\mathrm{hybrid}$ with the same sampler. Reproduced: it spends the network on the last few noise levels, where bits are and shapes are not.
# - **Gradient noise** (third table): at the weights that $L_\mathrm{vlb}$ found, uniform times give gradients with a noise of 60 times the signal, and importance sampling divides it by 45. That is what it was invented for, and with the same budget the bound falls by another 0.1 bit. The samples get *worse* still: a better optimiser of the wrong aim. (At the weights of `linear-hybrid`, which never saw $L_\mathrm{vlb}$ act on its mean, the two noises are in the same order, and $L_\mathrm{simple}$ looks noisier than $L_\mathrm{vlb}$. That is the ratio: this net is near the minimum of $L_\mathrm{simple}$, where the signal, the mean gradient, vanishes, and far from that of $L_\mathrm{vlb}$.)
#
# ## One knob turned: the number of steps, for five samplers

# %%
Markdown(experiments.strides.table("linear-hybrid"))

# %%
Markdown(experiments.strides.table("cosine-hybrid"))

# %% mystnb={"image": {"alt": "Recall and class agreement over the number of network calls for five samplers, cosine schedule; for recall also that of real test images, dotted."}}
fig, axes = plt.subplots(1, 2, figsize=(8, 3))
for ax, key in zip(axes, ("recall", "class_agreement"), strict=True):
    experiments.strides.figure("cosine-hybrid", ax, key)
    ax.set(ylabel=key.replace("_", " "))
_ = axes[0].legend(fontsize=7)

# %% [markdown]
# *What to see:*
#
# - **Ancestral with $\beta$ is ruined by long steps**, as published, and catches up with hundreds of calls. With the exact prediction at the top of this page it was the *best*. Our guess: the network has never seen a state noisier than its time says, and the long step makes such states; no row here tests that.
# - **Learned against $\tilde\beta$:** the published gain at few steps is a gain over $\beta$. Over $\tilde\beta$ our rows show one at five calls and none at ten or more.
# - **DDIM beats ancestral sampling with $\beta$ below 25 calls, as published, and never beats it with $\tilde\beta$** ($\eta=1$), in any row that we measured; $\eta=\tfrac12$ lies between. Published results have $\eta=1$ behind $\eta=0$ for fewer than about a hundred calls: **contradicted** here. It is not only that our net is small: the stronger `mnist` checkpoint shows the same at 50 calls
#   (0.47 with $\eta=0$ and 0.18 with $\eta=1$, on its card). Our features are not Inception's: they look at the shape of a digit and hardly at fine grain, which is where leftover noise would show. And at $\eta=0$ under the cosine schedule the curve is *flat* from ten calls on, so its error is that of the network. Fresh noise
#   gives the network a chance to correct what it got wrong; a deterministic chain keeps it. This last sentence is an explanation that fits, not one that we have proved.
# - **Agreement falls while recall rises** with the number of calls, for every sampler but $\beta$. Few calls draw the typical digit of each class. By agreement alone, five calls would win.
#
# ### Where along the chain the quality appears
#
# The slides say that the last quarter of the chain (250 of 1000 steps) does most of the work. We stop the chain at every fifth call, take
# the prediction $\hat x_0$ at that moment for the sample, and measure it.

# %% mystnb={"image": {"alt": "Fréchet distance of the prediction of the clean image over the share of the chain that is done, for linear and cosine schedule, ancestral and DDIM."}}
fig, axes = plt.subplots(1, 2, figsize=(8, 3))
experiments.chain.figure(axes[0]).set(ylabel="Fréchet distance", yscale="log")
experiments.chain.figure(axes[1], "class_agreement").set(
    ylabel="class agreement"
)
_ = axes[0].legend(fontsize=7)

# %%
share = {}
for row in results.rows("chain"):
    T = row["curve"][0]["t"]
    at = {round(p["t"] / T, 2): p["frechet"] for p in row["curve"]}
    print(
        f"{row['run']}, {row['method']}\n ",
        *(
            f" {100 * (1 - k):.0f} %: {at[k]:.2f}"
            for k in (1.0, 0.75, 0.5, 0.25, 0.1, 0.0)
            if k in at
        ),
    )
    done = (at[1.0] - at[0.25]) / (at[1.0] - at[0.0])
    share[row["run"], row["method"]] = done
    print(f"   done before the last quarter: {done:.1%}")
assert min(share.values()) > 0.9

# %% [markdown]
# *What to see:* **refuted**, as in [chapter 07](07_ddim.ipynb) with another net and other reference images. When the last quarter begins, 97 % of the fall or more is done (under cosine with DDIM more than all of it). On a logarithmic axis something is left of the claim for one case, ancestral sampling under the linear schedule, whose last quarter still halves the distance.
# And a finding that we did not look for: the two samplers walk nearly side by side through the first half, where the layout is decided, and part in the second. There ancestral sampling goes on improving while DDIM under the cosine schedule gets *worse*, from the last quarter's beginning to its end. Whatever DDIM loses on these nets, it loses among the small details.
#
# ## What goes wrong
#
# Two models measured with different numbers of samples. The same network, the same sampler, the same features; only $n$ differs, and the
# "better" model is the one that was measured with more samples. And beside it the winner's curse of (9.5), on the same numbers.

# %% mystnb={"image": {"alt": "Left: Fréchet distance of the same digits model over the number of samples, falling, with the floor of as many real images. Right: histograms of one measurement and of the best of three, the latter shifted to smaller values."}}
digits_net, card = zoo.load("digits", device="cpu")
y = torch.arange(1500) % 10
many = evaluation.generate(
    digits_net, (1, 8, 8), y, evaluation.Sampling(steps=10, eta=1.0)
)
from ddpmlib.evaluation import features, metrics

h_many, _ = features.extract(classifier, many)
h_real, _ = features.extract(classifier, digits.x_train)
g = torch.Generator().manual_seed(0)


def measured(n):
    pick = torch.randperm(len(h_many), generator=g)[:n]
    return metrics.frechet_distance(h_many[pick], h_real)


sizes = (75, 150, 300, 600, 1200)
by_n = {n: torch.tensor([measured(n) for _ in range(20)]) for n in sizes}
fig, axes = plt.subplots(1, 2, figsize=(8, 2.8))
axes[0].errorbar(
    sizes,
    [v.mean() for v in by_n.values()],
    [v.std() for v in by_n.values()],
    marker="o",
    capsize=3,
)
axes[0].set(xlabel="samples measured", ylabel="Fréchet distance", xscale="log")
axes[0].set(xticks=sizes, xticklabels=sizes)
axes[0].minorticks_off()
tries = torch.tensor([measured(150) for _ in range(600)])
best = tries.reshape(200, 3).min(dim=1).values
axes[1].hist(tries, 30, density=True, alpha=0.6, label="one measurement")
axes[1].hist(best, 30, density=True, alpha=0.6, label="best of three")
axes[1].set(xlabel="Fréchet distance, n = 150", ylabel="density")
axes[1].legend()
gain = float((tries.mean() - best.mean()) / tries.std())
print(f"best of three: better by {gain:.2f} standard deviations, for nothing")
assert by_n[75].mean() > 1.1 * by_n[1200].mean()
assert abs(gain - 1.5 / torch.pi**0.5) < 0.2

# %% [markdown]
# *What to see:* the curve on the left is one model. Cut a table's rows from different $n$ and you can order them as you like. On the right, the best
# of three measurements of *one* model is better than the model by about the $0.85\,\sigma$ that (9.5) says of normal noise. The tests
# `test_a_row_states_its_sample_count_and_its_floor` and `test_the_best_of_three_flatters_by_what_the_formula_says` hold the committed rows and the formula to this.
#
# ## Exercises
#
# Write your answer into the cell below each question and take the `#` off its last line: the check
# says yes, or gives a hint. ★ asks for a derivation, ★★ for code, ★★★ for a small project of both.
# Solutions are folded.
#
# ### ★ Exercise 9.1
#
# Two models reach an agreement of 97.2 % and 97.8 % on 5,000 samples each. How many standard errors of the *difference* are they apart? And how
# many samples of each would make the same difference three standard errors wide? Give both numbers.
#
# :::{dropdown} Hint
# Variances of independent numbers add. Equation (9.1) for each, then look how $n$ enters.
# :::

# %%
from ddpmlib.teaching import exercises

answer = (..., ...)  # standard errors apart, samples needed

# exercises.check("9.1", answer)

# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
# Solution of exercise 9.1
p, q, n = 0.972, 0.978, 5000
spread = (p * (1 - p) + q * (1 - q)) ** 0.5
apart = (q - p) / (spread / n**0.5)
needed = (3 * spread / (q - p)) ** 2

exercises.check("9.1", (apart, needed))

# %% [markdown]
# ### ★★ Exercise 9.2
#
# Write `components(F)` for a table of Fréchet distances `F` of shape (networks, measurements): estimate without bias both terms of (9.2), the variance between
# networks and the variance of drawing.
#
# :::{dropdown} Hint
# The mean over measurements of one network still carries 1/(number of measurements) of the drawing variance. Subtract it.
# :::


# %%
def components(F):
    return ..., ...  # training variance, drawing variance


# exercises.check("9.2", components)


# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
# Solution of exercise 9.2
def components(F):
    drawing = F.var(dim=1).mean()
    training = F.mean(dim=1).var() - drawing / F.shape[1]
    return training, drawing


exercises.check("9.2", components)

# %% [markdown]
# ### ★★★ Exercise 9.3
#
# Add a rung of your own. Pick one field of the recipe (`predicts`, `label_dropout`, `settings.ema`, …), train the digits recipe with and without it for three seeds each, and write `verdict(a, b)`
# for two lists of Fréchet distances: the difference of the means, its standard error from (9.4), and whether it is larger than two of them.
#
# :::{dropdown} Hint
# `recipes.changed(recipe, {"settings.seed": 1, …})`, then the cell of *Train it here* in a loop. The standard error of a difference of independent means is the root of the sum of squares.
# :::


# %%
def verdict(a, b):
    return ..., ..., ...  # difference of means, its standard error, clear?


# exercises.check("9.3", verdict)


# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
# Solution of exercise 9.3
def verdict(a, b):
    (mean_a, error_a), (mean_b, error_b) = map(over_seeds, (a, b))
    difference = mean_a - mean_b
    error = (error_a**2 + error_b**2) ** 0.5
    return difference, error, abs(difference) > 2 * error


exercises.check("9.3", verdict)

# %% [markdown]
# ## Recap
#
# 1. A score without its features, its $n$, its floor and its seeds is not a measurement.
# 2. A bootstrap interval covers the drawing of samples; only new trainings cover the training.
# 3. At few calls the *variance* decides ($\beta$ is ruined, $\tilde\beta$ and the learned one are not) and the schedule (cosine is ahead in every cell). The length $T$ decides nothing that we can resolve.
# 4. Likelihood and samples are two races: $L_\mathrm{vlb}$ wins the first and loses the second; a learned variance helps the first and, beside $\tilde\beta$, hardly the second.
# 5. The order of samplers is no law of nature. With an exact prediction $\beta$ leads at few calls, on our networks $\tilde\beta$ does, in the literature DDIM: measure on your own.
#
# The equations of this chapter, the functions that implement them, the tests that pin them:

# %% mystnb={"code_prompt_show": "Equations, functions, tests", "code_prompt_hide": "Hide the table"} tags=["hide-cell"]
from ddpmlib import equations

equations.table("09")

# %% [markdown]
# ## Further reading
#
# - {cite}`nichol2021improved`, figures 6 to 8: samples against number of steps, and likelihood against FID, at a scale a thousand times ours.
# - {cite}`song2021denoising`, table 1: the grid of steps and $\eta$ that our strides repeat.
# - {cite}`heusel2017gans`: the distance; chapter 08 says what it can and cannot see.
