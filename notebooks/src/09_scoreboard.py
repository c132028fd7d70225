# %% [markdown]
# # 9. The scoreboard
#
# [![Open in Colab](../book/_static/colab.svg)](https://colab.research.google.com/github/ddpm-book/ddpm-book/blob/main/notebooks/09_scoreboard.ipynb)
#
# Six chapters of choices: how long a chain, which schedule, which variance, which loss, how many
# steps, how much noise in each. Here they compete, on real MNIST, with one network, one budget and
# one feature extractor, and every number of that comparison is read from a file in `data/results`
# that a command of the repository wrote.

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

strides = {
    run: results.pivot(
        results.rows("strides", run=run), "steps", "method", "frechet"
    )
    for run in ("linear-hybrid", "cosine-hybrid")
}
for found in strides.values():
    for row in found.values():
        assert row["beta_tilde"] < row.get("ddim", row["beta"])
cosine = strides["cosine-hybrid"]
assert cosine[10]["beta_tilde"] < cosine[250]["beta_tilde"]
assert cosine[5]["beta"] > 8 * cosine[5]["beta_tilde"]
assert cosine[250]["ddim"] > cosine[25]["ddim"]

fig, axes = plt.subplots(
    1, 2, figsize=(7.5, 3.4), sharey=True, width_ratios=(1, 2)
)
for ax, run in zip(axes, strides, strict=True):
    experiments.strides.figure(run, ax).set_title(run)
axes[0].set(ylabel="Fréchet distance", yscale="log")
_ = axes[1].legend(
    fontsize=8, ncol=2, loc="center", bbox_to_anchor=(0.55, 0.3)
)

# %% [markdown]
# **Fig. 9.1.** One small network under two schedules, sampled in five ways: the Fréchet distance in
# the features of `mnist-classifier` over the number of network calls, on a logarithmic axis. The
# dotted line is what as many real test images reach (it rises where fewer were drawn: 5,000 of each
# up to 50 calls, 2,000 and 1,000 above).
#
# By these features, ancestral sampling with the large variance $\beta$ is ruined by long steps: at
# five calls it is more than eight times as far from the data as with $\tilde\beta$. With
# $\tilde\beta$, or the variance that the network learned, ten calls under the cosine schedule do as
# well as hundreds. And DDIM, famous for few steps, lies *above* $\tilde\beta$ wherever both were
# measured, and under the cosine schedule more than 25 calls do not bring it down. By the end of
# this chapter you know which of these statements a reader may carry to another data set, and which
# not.
#
# ## Objectives
#
# After this chapter you can
#
# - put an error bar on a score, and say which of its sources the bar covers;
# - tell an error of the *sampler* from an error of the *network*;
# - say which choices of a diffusion model matter at few steps, at many, and for the likelihood;
# - read somebody else's table, a lecture deck's among them, and name what is missing in it.
#
# ## Error of the sampler, error of the network
#
# Two things can be wrong with a sample: the network's prediction, and the steps that were taken
# with it. On images they come mixed. On a mixture of Gaussians the prediction is exact, so whatever
# is wrong is the sampler's. The yardstick is the sliced Wasserstein distance: project both clouds
# on a direction, sort both, average the gaps, average over directions. No features, no Gaussian
# fit.

# %% mystnb={"image": {"alt": "Sliced Wasserstein distance to the exact mixture over the number of denoiser calls, 3 to 50, for four samplers with an exact denoiser, and the distance of two exact samples as a dotted line. Ancestral sampling with variance beta is lowest up to ten calls; at fifty all are at the dotted line."}}
from ddpmlib import data

toy = DDPM(schedules.cosine(1000))
mixture = oracle.Mixture(
    toy, torch.ones(6), data.ring_means(6), torch.full((6,), 0.15)
)


class Exact:
    """The exact prediction, with the variance that a sampler assumes."""

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

fig, ax = plt.subplots(figsize=(7, 3.2))
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
exact = float(floor.mean())
ax.axhline(exact, ls=":", color=plots.GREY, label="two exact samples")
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
# **Fig. 9.2.** With an exact prediction all samplers come to the truth; at few calls the large
# variance is ahead. Sliced Wasserstein distance to a ring of six Gaussians over the number of calls
# of the exact denoiser, with the standard error over three seeds; the dotted line is the distance
# of two exact samples. At 50 calls each sampler is within twice that line; at 5 and 10 calls
# $\beta$ is at least a tenth better than DDIM.
#
# The printed radii show why. A long step of any sampler shrinks the cloud, because it moves towards
# a mean and the spread of several clusters around it is not in its variance. [Chapter
# 6](06_iddpm.ipynb) derives the two ends: $\tilde\beta$ is right for data in one point, $\beta$ for
# data as wide as the noise, and a ring of six clusters is, for a long step, wide. This is a fact
# about one ring in the plane, where the prediction forgives noise that is too large; a network need
# not.
#
# ## What a number on a scoreboard is worth
#
# ### Shares
#
# Class agreement is a share: $n$ independent samples, each right with probability $p$. The number
# of right ones is binomial with variance $n\,p(1-p)$, so the share $\hat p$ has
#
# $$
# \operatorname{se}(\hat p) = \sqrt{p\,(1-p)/n}\,. \tag{9.1}
# $$
#
# With $n = 5000$ and $p = 0.98$ that is 0.2 percentage points: the third digit of an agreement is
# noise.
#
# ### Two sources, one bar
#
# Train a network with seed $r$, draw $n$ samples with noise $j$, measure $F_{rj}$. Write
# $m_r = \mathbb E[F_{rj}\mid r]$ for what this network would score if we drew samples for ever, and
# $\mu = \mathbb E[m_r]$. Then $F_{rj} - \mu = (m_r - \mu) + (F_{rj} - m_r)$. Given $r$ the second
# bracket has mean zero, so the product of the two has mean zero as well, and the squares add up:
#
# $$
# \operatorname{Var}(F_{rj}) = \underbrace{\operatorname{Var}(m_r)}_{\text{training}} + \underbrace{\mathbb E\,\operatorname{Var}(F_{rj}\mid r)}_{\text{drawing}}. \tag{9.2}
# $$
#
# A bootstrap over samples sees the second term only. It shrinks like $1/n$; the first does not
# shrink at all until you train again. **A narrow interval on one network is not an error bar on a
# method.**
#
# ### The floor
#
# The Fréchet distance of $n$ samples is biased upwards by about $c/n$ even if the samples are
# perfect ([chapter 8](08_metrics.ipynb)), and perfect samples still differ from the *training* set
# as the test set does. Both are in the distance of $n$ real test images, the floor, and the plain
# number only means something beside it:
#
# $$
# \rho = F(\text{samples}_n,\ \text{training set})\,/\,F(\text{test images}_n,\ \text{training set}). \tag{9.3}
# $$
#
# $\rho = 1$ is as good as unseen data by this measure; a little below 1, as on the card of the
# `mnist` checkpoint with $\eta=1$, is not better than data: the test set has peculiarities of its
# own, which a model of the training set need not share, and [copies of training
# images](08_metrics.ipynb#what-each-kind-of-features-sees) come below it too. It is a ratio of two
# numbers on the same features with the same $n$; between papers with other features or other $n$
# nothing can be compared.
#
# ### Seeds
#
# With $k$ networks, $\bar F = \frac1k\sum_r F_r$ has, from the spread $s$ between them,
#
# $$
# \operatorname{se}(\bar F) = s/\sqrt k\,,\qquad s^2 = \tfrac{1}{k-1}\textstyle\sum_r (F_r - \bar F)^2, \tag{9.4}
# $$
#
# and since each $F_r$ carries both terms of (9.2), so does this bar, if every network is drawn from
# with noise of its own. (Ours share it, which leaves most of the second, smaller term out.) With
# $k = 3$ it is itself uncertain by half its size; with $k = 1$ it does not exist.
#
# ### The winner's curse
#
# Measure three equally good models, each with noise of standard deviation $\sigma$, and report the
# best. For independent normal noise $Z_i$,
# $\min(Z_1, Z_2) = \frac{Z_1+Z_2}{2} - \frac{|Z_1 - Z_2|}{2}$ and
# $Z_1 - Z_2\sim\mathcal N(0, 2\sigma^2)$ has $\mathbb E|Z_1-Z_2| = 2\sigma/\sqrt\pi$; for three,
# adding the three pairwise minima counts the smallest twice and the middle one once, so that
# $2\,\mathbb E\min + \mathbb E\,\mathrm{median} = 3\cdot(-\sigma/\sqrt\pi)$ and, the median having
# mean zero,
#
# $$
# \mathbb E\min(Z_1, Z_2) = -\sigma/\sqrt{\pi}\,,\qquad \mathbb E\min(Z_1, Z_2, Z_3) = -\tfrac{3}{2}\,\sigma/\sqrt{\pi}\,. \tag{9.5}
# $$
#
# Choosing among three flatters the winner by $0.85\,\sigma$, for nothing. The mean over seeds does
# not.

# %% tags=["hide-input"]
import sympy as sp

u = sp.symbols("u", positive=True)
z = sp.symbols("z", real=True)
# the density of Z1 - Z2, with sigma = 1
difference = sp.exp(-(u**2) / 4) / sp.sqrt(4 * sp.pi)
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
# ## From rows to a table
#
# A row of a results file is one measured cell, nothing is averaged away. Ten lines turn rows into a
# table.

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
# ## Three rungs on 8×8 digits in seconds
#
# The ladder of this chapter on the embedded 8×8 digits: 100 updates each, the digits network of
# [chapter 3](03_ddpm.ipynb), one seed, 10 calls. First the linear schedule with a fixed variance,
# then with a learned one, then the cosine schedule as well.

# %% tags=["nbval-ignore-output"]
from ddpmlib import evaluation, zoo
from ddpmlib.training import Trainer, fit
from ddpmlib.zoo import recipes

digits = data.load("digits")
classifier, _ = zoo.load("digits-classifier", device="cpu")
start = recipes.changed(
    recipes.RECIPES["digits"],
    {"schedule": "linear", "settings.steps": 100},
)
learned = {"var_mix": None, "objective": "hybrid"}
rungs = {
    "linear, fixed β̃": start,
    "linear, learned": recipes.changed(start, learned),
    "cosine, learned": recipes.changed(
        start, learned | {"schedule": "cosine"}
    ),
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
        how = evaluation.Sampling(steps=10, eta=eta)
        x0 = evaluation.generate(trainer.averaged, (1, 8, 8), y, how)
        row = evaluation.measure_samples(
            classifier, x0, y, digits, metrics=("fid", "agreement")
        )
        low, high = row["frechet_interval"]
        print(
            f"{name:16} η = {eta:.0f}  Fréchet {row['frechet']:5.1f}",
            f"[{low:.1f}, {high:.1f}]  floor {row['frechet_floor']:.1f}",
            f" agreement {row['class_agreement']:.2f}",
        )

# %% [markdown]
# Some seconds of training a rung are far from enough, and the distances say so: dozens of floors.
# The *order* of such rungs may change with the seed. That is what the larger experiment is for.
#
# ## Eighteen networks on MNIST
#
# One network (0.18 million weights, a quarter of the `mnist` checkpoint's), one budget (4,000
# updates of 64 images, 4.3 passes over MNIST), one feature extractor (`mnist-classifier`, which
# took no part in any choice below). It is small because there are eighteen of it, and it is *not*
# trained to the end: this chapter compares, the checkpoints of the other chapters are better. All
# nets predict $v$: a net that predicts noise multiplies its first error by hundreds when a cosine
# chain takes few steps ([chapter 5](05_schedules.ipynb)), and the table would show that alone. A
# run is one command, for example
#
# ```bash
# ddpmlib train mnist-comparison --set schedule=cosine var_mix=null objective=hybrid --bf16 --compile --threads 1
# python -m ddpmlib.experiments train      # all of them
# python -m ddpmlib.experiments measure    # every cell below, into data/results
# python -m ddpmlib.experiments tables     # tables and figures, from data/results
# ```
#
# A name behind the last two, such as `lengths`, asks for one experiment. Each is one module of
# `ddpmlib/experiments`, with its cells, the way they are measured, its table and its figure.

# %%
Markdown(experiments.training.table())

# %% [markdown]
# ### The ladder, ours and that of deck 004

# %%
Markdown(experiments.ladder.table())

# %% mystnb={"image": {"alt": "Five rungs of the ladder: Fréchet distance divided by that of real test images, one dot per training seed."}}
fig, ax = plt.subplots(figsize=(7.5, 3.4), dpi=90)
_ = experiments.ladder.figure(ax)
ax.tick_params(axis="x", labelsize=8)
rungs = [
    over_seeds([row["frechet"] for row in rung.rows()])[0]
    for rung in experiments.ladder.RUNGS
]
assert rungs[1] > rungs[2] > rungs[0] > rungs[3] > rungs[4]

# %% [markdown]
# **Fig. 9.3.** Our ladder goes up before it comes down. The distance over that of real test images;
# a dot is one network, an orange bar the mean of three. The second rung, fewer calls and no fresh
# noise, is worse than the first; the cosine schedule mends a part of that; guidance of either kind
# goes below the first.
#
# A rung of such a ladder changes several things at once, and the next cells take them apart: by
# these features it is the missing noise that costs, not the missing calls. The variance that rung
# two learned is not even used by its sampler, because DDIM with $\eta=0$ draws no noise, and its
# prediction is trained by the same loss as before (the stop-gradient of [chapter
# 6](06_iddpm.ipynb)).
#
# The ladder of [deck 004](../book/slides_map.md#deck-004), "Diffusion models", for comparison:

# %%
Markdown(experiments.ladder.deck_table())

# %% [markdown]
# The last two rungs take the networks of the third as they are and *guide* them towards their
# class, by a classifier of noisy images, on top of the label ([chapter
# 10](10_classifier_guidance.ipynb)) or by the difference of their own two predictions ([chapter
# 11](11_classifier_free.ipynb)). That takes the distance down to a half and to two fifths (the
# figure shows it over the floor, 0.24), and the class asked for is missed once in a hundred
# samples, or a few times in a thousand, instead of seven times in a hundred. It is the largest step
# down of the ladder, and its scores mean least: Inception Score now *passes* that of real images
# (9.5), and classifier-free guidance pays with recall. It helps because these networks are weak.
# The stronger `mnist` checkpoint, which stands at the floor without guidance, only loses by it:
# [chapter 11](11_classifier_free.ipynb) has the whole curve.
#
# :::{admonition} Common misprint: a ladder without a floor
# :class: warning
# The ladder of deck 004 stands on another data set (CIFAR-10), other features, an unknown number of
# samples, without a floor and without a second seed, so no number of one table may be compared with
# one of the other. What can be said: distances of 160 to 300 after 100 epochs are not what these
# methods do (published values are 3 to 4), and [chapter 8](08_metrics.ipynb#what-goes-wrong) shows
# what such values look like: a wrong range of pixels, or far too few samples. An Inception Score of
# 1.4 to 3.2, on a scale where noise has 1 and real images have 11, says the same. The row "linear
# schedule" names no sampler; the rows "sigmoid" and "cosine" are IDDPM with DDIM. The *order* may
# be right all the same; the table cannot tell. The last row gains Inception Score and loses FID,
# 160 to 184. Guidance does that where $w$ is larger than the model needs, and which $w$ it was the
# deck does not say.
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
    print(f"rung {i}: deviation {seeds:.2f} between networks,",
          f"{drawing:.2f} of drawing")
    assert seeds > 2 * drawing or i > 3  # guidance evens networks out

# %% [markdown]
# Two trainings that differ in nothing but their seed lie several times further apart than the
# interval of either suggests. Every table below has **one** network per row. A deviation of 10 to
# 20 % between networks means that the *difference* of two rows must be about 40 % of them to be
# worth two standard errors, however narrow the brackets. Rows that share their network, as samplers
# of one net do, may be read much closer.
#
# ### 1. How long a chain: T = 500, 1000, 2000

# %%
Markdown(experiments.lengths.table())

# %% [markdown]
# Nothing here that a second seed could not turn around: whether the length matters is **not
# resolved**. At 50 calls, or 250, the three lengths differ by a tenth, which is less than two seeds
# do. The Inception Score of deck 004 grows with $T$; ours does not. What $T$ decides is how fine
# the steps *could* be; a sampler that takes 50 of them never finds out.
#
# ### 2. Which schedule

# %%
Markdown(experiments.schedules.table())

# %% [markdown]
# By these features cosine beats linear in all four cells, by a factor between 1.4 and 2, most with
# ten calls and $\tilde\beta$; for DDIM at 50 calls the ladder has three seeds of each, and the
# three of cosine are ahead. That published trend is **reproduced by the classifier's features** on
# 28×28 images. Sigmoid is *last* by distance and Inception Score (in one cell, $\tilde\beta$ at ten
# calls, by less than the 40 % that two networks may differ), not between the two as in the slides;
# by recall it is between them: one seed, **not resolved**. And a schedule is two things: the grid
# of the chain, and, through the plain loss on $v$, a weighting of noise levels ([chapter
# 5](05_schedules.ipynb)). This table does not take them apart.
#
# ### 3. Which variance, and which loss

# %%
Markdown(experiments.variances.table())

# %%
Markdown(experiments.likelihood.table())

# %%
Markdown(experiments.gradient_noise.table())

# %% [markdown]
# One network a row, so trends are those of one seed unless several nets show them.
#
# - **Samples** (first table, 25 calls): the large variance $\beta$ costs a factor of almost five;
#   $\tilde\beta$ and the learned variance cannot be told apart.
# - **Likelihood** (second table): there the learned variance is worth 0.15 to 0.4 bits per
#   dimension over either fixed one, with the same prediction of $x_0$, in all four nets that
#   learned it. That published trend is **reproduced** in four nets, one seed each. The ± is a
#   standard error over images and drawn times; since every row saw the same images, times and
#   noise, rows differ by less noise than that (how much less is not on record). (These bounds are
#   far from the 1.35 of the `mnist` checkpoint, and that is training, not principle.)
# - **$L_\mathrm{vlb}$ alone** has by far the best likelihood, and samples three to seven times as
#   far from the data as those of $L_\mathrm{hybrid}$ with the same sampler, as published: it spends
#   the network on the last few noise levels, where bits are and shapes are not.
# - **Gradient noise** (third table): at the weights that $L_\mathrm{vlb}$ found, uniform times give
#   gradients with a noise of 60 times the signal, and importance sampling divides it by 45. That is
#   what it was invented for, and with the same budget the bound falls by another 0.1 bit. The
#   samples get *worse* still: the bound is optimised better, and the samples are not what it
#   measures. (At the weights of `linear-hybrid`, which never saw $L_\mathrm{vlb}$ act on its mean,
#   the two noises are in the same order, and $L_\mathrm{simple}$ looks noisier than
#   $L_\mathrm{vlb}$. That is the ratio: this net is near the minimum of $L_\mathrm{simple}$, where
#   the signal, the mean gradient, vanishes, and far from that of $L_\mathrm{vlb}$.)
#
# ## How many steps, for five samplers

# %%
Markdown(experiments.strides.table("linear-hybrid"))

# %%
Markdown(experiments.strides.table("cosine-hybrid"))

# %% mystnb={"image": {"alt": "Recall and class agreement over the number of network calls for five samplers, cosine schedule; for recall also that of real test images, dotted."}}
fig, axes = plt.subplots(1, 2, figsize=(7.5, 3))
for ax, key in zip(axes, ("recall", "class_agreement"), strict=True):
    experiments.strides.figure("cosine-hybrid", ax, key)
    ax.set(ylabel=key.replace("_", " "))
_ = axes[0].legend(fontsize=8)
recall, agree = (
    results.pivot(found, "steps", "method", key)
    for key in ("recall", "class_agreement")
)
for k in (5, 10, 25, 50):
    assert recall[k]["ddim"] > recall[k]["beta"]
assert recall[5]["ddim"] > recall[5]["beta_tilde"]
assert recall[10]["ddim"] < recall[10]["beta_tilde"]
fewest = results.rows("strides", run="linear-hybrid", steps=10)
fewest = {row["method"]: row["recall"] for row in fewest}
assert fewest["ddim"] > fewest["beta_tilde"]
for method in ("beta_tilde", "learned", "ddim", "ddim_half"):
    assert agree[250][method] < agree[5][method]
    assert recall[250][method] > recall[5][method]
assert cosine[10]["beta"] > 2 * cosine[10]["ddim"]
assert abs(cosine[25]["beta"] - cosine[25]["ddim"]) < 0.1
assert cosine[50]["beta"] < cosine[50]["ddim"]

# %% [markdown]
# **Fig. 9.4.** From 5 calls to 250 recall rises and class agreement falls, for all samplers but
# $\beta$, whose agreement rises too (cosine schedule; dotted: recall of real test images). By
# agreement alone, five calls would win for the other four. Samples nearer to the typical digit of
# their class would look like this; no row here tests whether they are.
#
# - **Ancestral with $\beta$ is ruined by long steps**, as published, and catches up with hundreds
#   of calls. With the exact prediction of Fig. 9.2 it was the *best* at few calls. Our guess: the
#   network has never seen a state noisier than its time says, and the long step makes such states;
#   no row here tests that.
# - **Learned against $\tilde\beta$:** the published gain at few steps is a gain over $\beta$. Over
#   $\tilde\beta$ our largest gain, at five calls, is 3.70 against 4.03, with intervals that
#   overlap; at ten or more calls the two differ by less than 0.3, in either direction.
# - **DDIM against $\beta$:** by distance DDIM is far ahead at 5 and 10 calls, as published. Under
#   the cosine schedule it is even at 25 and behind from 50 on; under the linear one it is still
#   ahead at 50. By recall it is ahead up to 50 calls under both.
# - **DDIM against $\tilde\beta$** ($\eta=1$): behind by distance in every row that has both, with
#   $\eta=\tfrac12$ between; ahead by recall at the fewest calls of either schedule. The next
#   section asks other features, and other trainings.
#
# ### DDIM against ancestral sampling, by five kinds of features
#
# The classifier's features react to contrast and grain more than to place, others do not ([chapter
# 8](08_metrics.ipynb#what-each-kind-of-features-sees)). Is DDIM behind by those too? Three
# trainings of `cosine-hybrid`, 2,000 samples of each with $\eta=1$ and with $\eta=0$. A number is
# DDIM's distance over that of ancestral sampling ($\tilde\beta$), mean over the trainings ±
# standard error; then the same with brightness and contrast of all samples set to those of the
# training images.

# %% mystnb={"image": {"alt": "DDIM's distance over that of ancestral sampling against the number of network calls, for five kinds of features. Three classifiers lie near two or above at all calls, random convolutions rise from about one to two, pixels lie below one. Dashed lines, with contrast matched, lie close to the solid ones except for random convolutions, where they are lower."}} tags=["hide-input"]
from ddpmlib.experiments import sampler_spaces

fig, ax = plt.subplots(figsize=(7.5, 4))
sampler_spaces.figure(ax)
ax.legend(fontsize=8, ncol=3, loc="lower center", bbox_to_anchor=(0.5, 1))
ratio = {
    key: {
        (space, k): sampler_spaces.ratios(space, k, key)
        for space in sampler_spaces.LABELS
        for k in sampler_spaces.CALLS
    }
    for key in sampler_spaces.KEYS
}
networks = ("classifier", "independent", "robust")
for found in ratio.values():
    for k in sampler_spaces.CALLS:
        assert min(min(found[space, k]) for space in networks) > 1.7
        assert max(found["pixels", k]) < 1
    for k in (10, 25, 50):
        assert min(found["random", k]) > 1
Markdown(sampler_spaces.table())

# %% [markdown]
# **Fig. 9.5.** By the features of three classifiers DDIM is farther from the data, by principal
# components of the pixels it is nearer. Its distance over that of ancestral sampling, for three
# trainings; dashed with contrast matched.
#
# In the features of each of the three classifiers DDIM is farther from the data at every number of
# calls and in each of the three trainings, by a factor above 1.7. Contrast is not the reason: the
# factor stays when contrast is matched, and the residual net, which hardly sees contrast, grain or
# blur, gives it as well. Random convolutions agree from ten calls on. Principal components of the
# pixels, which see place, say the opposite in every training and at every number of calls, and so do
# published results: $\eta=1$ is behind $\eta=0$, at 1,000 calls too (CIFAR-10: FID 4.73 against 4.04
# {cite}`song2021denoising`). On these networks the published order is **contradicted by the features
# of three classifiers and reproduced by those of pixels**: they see different things, and which of
# them matters depends on the use. One cause of a real difference: fresh noise lets a network correct
# what it got wrong ([chapter 7](07_ddim.ipynb)), and these networks are small and trained briefly.
# How it is with better ones is [open](../book/open_questions.md).
#
# ### Where along the chain the quality appears
#
# Deck 004 draws from a curve of generated states that the last 250 of 1,000 steps do most of the
# work. We stop the chain at every fifth call, take the prediction $\hat x_0$ at that moment for the
# sample, and measure it.

# %% mystnb={"image": {"alt": "Fréchet distance of the prediction of the clean image over the share of the chain that is done, for linear and cosine schedule, ancestral and DDIM."}}
fig, axes = plt.subplots(1, 2, figsize=(7.5, 3))
for ax, key in zip(axes, ("frechet", "class_agreement"), strict=True):
    experiments.chain.figure(ax, key)
axes[0].set(ylabel="Fréchet distance", yscale="log")
axes[1].set(ylabel="class agreement")
_ = axes[0].legend(fontsize=8)

# %% [markdown]
# **Fig. 9.6.** The prediction of the clean image is nearly finished when the last quarter of the
# chain begins. Fréchet distance (logarithmic) and class agreement of $\hat x_0$ over the share of
# the chain that is done, for two schedules and two samplers.

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
# For *predictions* this is **refuted**, as in [chapter 7](07_ddim.ipynb) with another net and other
# reference images. When the last quarter begins, 97 % of the fall or more is done (under cosine
# with DDIM more than all of it). On a logarithmic axis something is left of the claim for one case,
# ancestral sampling under the linear schedule, whose last quarter still halves the distance. The
# two samplers walk nearly side by side through the first half, where the layout is decided, and
# part in the second. There ancestral sampling goes on improving while DDIM under the cosine
# schedule gets *worse*, from the last quarter's beginning to its end. Whatever DDIM loses on these
# nets by these features, it loses late.
#
# ## What goes wrong
#
# Two models measured with different numbers of samples. The same network, the same sampler, the
# same features; only $n$ differs, and the "better" model is the one that was measured with more
# samples. And beside it the winner's curse of (9.5), on the same numbers.

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
fig, axes = plt.subplots(1, 2, figsize=(7.5, 2.8))
axes[0].errorbar(
    sizes,
    [v.mean() for v in by_n.values()],
    [v.std() for v in by_n.values()],
    marker="o",
    capsize=3,
)
axes[0].set(xlabel="samples measured", ylabel="Fréchet distance")
axes[0].set(xscale="log")
axes[0].set(xticks=sizes, xticklabels=sizes)
axes[0].minorticks_off()
tries = torch.tensor([measured(150) for _ in range(600)])
best = tries.reshape(200, 3).min(dim=1).values
axes[1].hist(tries, 30, density=True, alpha=0.6, label="one measurement")
axes[1].hist(best, 30, density=True, alpha=0.6, label="best of three")
axes[1].set(xlabel="Fréchet distance, n = 150", ylabel="density")
axes[1].legend()
gain = float((tries.mean() - best.mean()) / tries.std())
print(f"best of three: better by {gain:.2f} standard deviations")
assert 6 < by_n[75].mean() / by_n[1200].mean() < 8
assert abs(gain - 1.5 / torch.pi**0.5) < 0.2

# %% [markdown]
# **Fig. 9.7.** One model, measured with different numbers of samples, and the best of three
# measurements. Left: mean distance and deviation over 20 subsets; with 75 samples it is about seven
# times that with 1,200. Right: 600 measurements with 150 samples, and the smallest of each three,
# which is better by about the $0.85\,\sigma$ that (9.5) says of normal noise.
#
# Rows at different $n$ can come out in any order. The tests
# `test_a_row_states_its_sample_count_and_its_floor` and
# `test_the_best_of_three_flatters_by_what_the_formula_says` hold the committed rows and the formula
# to this.
#
# ## Exercises
#
# Write your answer into the cell below each question and take the `#` off its last line: the check
# says yes, or gives a hint. ★ asks for a derivation, ★★ for code, ★★★ for a small project of both.
# Solutions are folded.
#
# ### ★ Exercise 9.1: how far apart are two agreements?
#
# Two models reach an agreement of 97.2 % and 97.8 % on 5,000 samples each. How many standard errors
# of the *difference* are they apart? And how many samples of each would make the same difference
# three standard errors wide? Give both numbers.
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
# ### ★★ Exercise 9.2: variance of training and of drawing
#
# Write `components(F)` for a table of Fréchet distances `F` of shape (networks, measurements):
# estimate without bias both terms of (9.2), the variance between networks and the variance of
# drawing.
#
# :::{dropdown} Hint
# The mean over measurements of one network still carries 1/(number of measurements) of the drawing
# variance. Subtract it.
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
# ### ★★★ Exercise 9.3: a rung of your own
#
# Add a rung of your own. Pick one field of the recipe (`predicts`, `label_dropout`, `settings.ema`,
# …), train the digits recipe with and without it for three seeds each, and write `verdict(a, b)`
# for two lists of Fréchet distances: the difference of the means, its standard error from (9.4),
# and whether it is larger than two of them.
#
# :::{dropdown} Hint
# `recipes.changed(recipe, {"settings.seed": 1, …})`, then the cell that trained three rungs in a
# loop. The standard error of a difference of independent means is the root of the sum of squares.
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
# 3. By the classifier's features, at few calls the variance decides ($\beta$ is ruined,
#    $\tilde\beta$ and the learned one are not) and the schedule (cosine is ahead in every cell).
#    Whether the length $T$ matters our rows cannot resolve.
# 4. Likelihood and visual quality reward different steps: $L_\mathrm{vlb}$ has the best bound and
#    the worst samples; a learned variance improves the bound and, beside $\tilde\beta$, hardly the
#    samples.
# 5. The order of samplers depends on the prediction and on the measure: with an exact prediction
#    $\beta$ leads at few calls; on our networks $\tilde\beta$ leads by the features of three
#    classifiers and DDIM by components of the pixels; in the literature DDIM does.
#
# The equations of this chapter, the functions that implement them, the tests that pin them:

# %% mystnb={"code_prompt_show": "Equations, functions, tests", "code_prompt_hide": "Hide the table"} tags=["hide-cell"]
from ddpmlib import equations

equations.table("09")

# %% [markdown]
# ## Further reading
#
# - {cite}`nichol2021improved`, figures 6 to 8: samples against number of steps, and likelihood
#   against FID, at a scale a thousand times ours.
# - {cite}`song2021denoising`, table 1: the grid of steps and $\eta$ that our strides repeat.
# - {cite}`heusel2017gans`: the distance; [chapter 8](08_metrics.ipynb) says what it can and cannot
#   see.
