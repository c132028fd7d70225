# %% [markdown]
# # D. Training in practice
#
# [![Open in Colab](../book/_static/colab.svg)](https://colab.research.google.com/github/ddpm-book/ddpm-book/blob/main/notebooks/D_training.ipynb)
#
# A recipe for training has a dozen settings, and papers print them without saying what each is
# worth. Here the digits network of [chapter 3](03_ddpm.ipynb) is trained again and again with *one*
# thing changed, three times each: parts of the network, learning rate, warm-up, clipping, averaged
# weights, the optimiser. Most changes cost little; Fig. D.1 shows those that do not. The figures
# come from stored rows; one small run is made here.

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

# %% mystnb={"image": {"alt": "Dot plot of the loss on unseen scans, one row a change, three dots a row, with a vertical line at the mean of the recipe, 0.234. Without attention and without clipping the dots lie around the line, with a constant rate left of it; without skip connections, with SGD, with a small rate, and with a high rate without warm-up they lie well to the right."}} tags=["hide-input"]
from math import log
from statistics import fmean, stdev

import matplotlib.pyplot as plt
import torch
from ddpmlib.experiments import ablations
from ddpmlib.teaching import exercises
from IPython.display import Markdown
from scipy import stats

fig, ax = plt.subplots(figsize=(7.5, 4))
ablations.summary_figure(ax)


def more(change):
    """Ends of the 95 % interval of what a change adds to the loss."""
    mean, half = ablations.difference(change)
    return mean - half, mean + half


def resolved(low, high):
    return low > 0 or high < 0


shown = [name for name in ablations.CHANGES if name not in ("recipe", "eps", "x0")]
worse = [name for name in shown if more(name)[0] > 0]
better = [name for name in shown if more(name)[1] < 0]
assert worse == ["no-skips", "slow", "fast-cold", "sgd-0.2", "sgd-0.8"]
assert better == ["constant"] and round(fmean(ablations.errors("recipe")), 3) == 0.234
cost = {name: round(ablations.difference(name)[0], 3) for name in worse}
assert cost == {
    "no-skips": 0.028, "slow": 0.013, "fast-cold": 0.026, "sgd-0.2": 0.015,
    "sgd-0.8": 0.017,
}  # fmt: skip
for name in set(shown) - set(worse):
    assert abs(ablations.difference(name)[0]) < 0.006
floors = ablations.values("recipe", "frechet_floor")
floors += ablations.values("recipe", "frechet_pixels_floor")
assert {round(floor, 2) for floor in floors} == {1.04, 0.27}

# %% [markdown]
# **Fig. D.1.** Few changes matter. Each dot is a run, each row a change, the line is the mean of
# the recipe, 0.234. Five changes are worse beyond the error of three seeds: no skip connections
# (+0.028), a learning rate four times as high *without warm-up* (+0.026), one that is five times
# smaller (+0.013), and stochastic gradient descent in place of Adam (+0.015 and +0.017). All others
# change the loss by less than 0.006 in the mean.
#
# ## How the runs are compared
#
# All runs are the recipe `digits`: a U-Net of 194,145 weights that predicts $v$, 500 updates of 64
# scans, and seeds 0, 1 and 2, which decide on first weights, batches, times and noise. They are
# measured by the loss on the 355 scans that no run has seen: the squared error of $v$, which is
# $(x_0-\hat x_0)^2/(1-\bar\alpha_t)$, averaged over pixels, scans and the times 50, 150, …, 950.
# Two Fréchet distances of 355 samples to the training scans stand beside it, one of features of a
# classifier and one of pixels; real unseen scans are at 1.04 and 0.27.
#
# Runs with the same seed see the same batches and noise, so a change is compared with the recipe
# *within* a seed. The tables give the mean difference and its 95 % interval by Student's t for
# three seeds, $4.30\,s/\sqrt3$ to either side. Where it contains 0 the difference is **not
# resolved**: it may be nothing, and it may be as large as the interval says. The rows lie in
# `data/results/ablations.json`; `python -m ddpmlib.experiments measure ablations` makes them again,
# 45 trainings. Small network, small images, 40 seconds each: what does not matter here may matter
# in a long run of a large network.
#
# ## The network: skips, attention, zeros
#
# - *No skip connections*: the blocks of the way up are handed zeros in place of the features of the
#   way down. No weight is removed; those that would read these features are idle.
# - *No self-attention*, in the middle neither: 176,993 weights are left.
# - *No zero initialisation*: the layers that start at zero start at random, as all others do.

# %% mystnb={"image": {"alt": "Error of x̂_0 over time t relative to the recipe. Without skip connections it rises from 1.05 to above 1.2 between t = 250 and 450 and falls back to 1 at t = 950; without zero initialisation it stays below 1.1; without self-attention it is flat at 1."}} tags=["hide-input"]
from ddpmlib import plots

fig, ax = plt.subplots(figsize=(6.4, 3))
ax.axhline(1, color=plots.GREY, lw=1)
looks = {
    "no-skips": ("no skip connections", plots.BLUE),
    "no-zeros": ("no zero initialisation", plots.ORANGE),
    "no-attention": ("no self-attention", plots.GREEN),
}
ablations.error_by_time(ax, looks)
relative = {name: ablations.ratios(name) for name in looks}
for t in (150, 250, 350, 450):
    assert min(relative["no-skips"][t]) > 1.15 and max(relative["no-skips"][t]) < 1.27
assert all(abs(r - 1) < 0.02 for t in (950, 995, 1000) for r in relative["no-skips"][t])
assert all(abs(r - 1) < 0.016 for rs in relative["no-attention"].values() for r in rs)

# %% [markdown]
# **Fig. D.2.** Skip connections matter at medium noise levels. Shown is the error of $\hat x_0$ on
# unseen scans over that of the recipe of the same seed, mean and range of three seeds. Without skip
# connections it is 15 to 26 % larger at $t=150$ to 450, 4 to 13 % up to $t=50$, where the noisy
# scan is almost clean, and less than 2 % from $t=950$ on, where the class is nearly all that is
# known. Without self-attention the errors are the same to within 1.6 % at every time.

# %% tags=["hide-input"]
without = ("no-skips", "no-attention", "no-zeros")
assert [name for name in without if resolved(*more(name))] == ["no-skips"]
first = {n: [c["averaged"][0] for c in ablations.values(n, "curve")] for n in
         ("recipe", "no-zeros")}  # fmt: skip
for ours, base in zip(first["no-zeros"], first["recipe"], strict=True):
    assert ours < base
mean, half = ablations.field_difference("no-zeros", "frechet")
assert round(mean, 1) == 0.8 and round(half, 1) == 0.2
mean, half = ablations.field_difference("no-zeros", "frechet_pixels")
assert abs(mean) < half
Markdown(ablations.table("no-skips", "no-attention", "no-zeros"))

# %% [markdown]
# By the loss only the skip connections are resolved. Without zero initialisation the first 25
# updates go *faster* in all three seeds, and at the end the Fréchet distance of features is higher
# by 0.8 ± 0.2, that of pixels by nothing that is resolved. Zero initialisation was introduced for
# deep networks and large batches {cite}`goyal2017accurate`; this network has eight blocks.
#
# ## The learning rate
#
# The rate rises in a straight line over the first 50 updates, the *warm-up*
# {cite}`goyal2017accurate`, to its highest value, $5\cdot10^{-3}$ here, and falls like half a
# cosine to zero {cite}`loshchilov2017sgdr`:
#
# $$
# r_n = r\,\frac{n+1}{50}\quad(n<50),\qquad r_n=\frac r2\left(1+\cos\pi\,\frac{n-50}{500-50}\right)\quad(n\ge50).
# $$
#
# Changed are the highest rate, by a fifth and by four, and the fall.

# %% mystnb={"image": {"alt": "Left: learning rate over updates for three highest rates, each rising over 50 updates and falling like half a cosine, and one that stays. Right: training losses; the smallest rate starts slowest and stays above the others to the end, the largest is ahead at first, then the curves come together."}} tags=["hide-input"]
from ddpmlib.experiments.digit_runs import STOPS, trainer_of

BANDS = [25 * i + 12.5 for i in range(20)]  # middles of the windows of stored losses


def loss_curves(ax, looks):
    """The training loss of every seed, means of 25 updates."""
    for name, (label, colour) in looks.items():
        for i, loss in enumerate(ablations.values(name, "loss")):
            ax.plot(BANDS, loss, color=colour, lw=1, label=None if i else label)
    ax.set(xlabel="update", ylabel="training loss", yscale="log")
    ax.set(yticks=(0.2, 0.3, 0.5, 1), yticklabels=("0.2", "0.3", "0.5", "1"))
    ax.minorticks_off()
    ax.legend(fontsize=9)


rates = {
    "slow": ("0.001", plots.GREEN),
    "recipe": ("0.005", plots.BLUE),
    "fast": ("0.02", plots.RED),
    "constant": ("0.005, does not fall", plots.SKY),
}
fig, axes = plt.subplots(1, 2, figsize=(7.5, 3))
for name, (label, colour) in rates.items():
    settings = trainer_of(ablations.CHANGES[name], 0).settings
    curve = [settings.lr_at(n) for n in range(500)]
    axes[0].plot(curve, color=colour, label=label)
axes[0].set(xlabel="update", ylabel="learning rate")
axes[0].legend(fontsize=9)
loss_curves(axes[1], rates)
for slower, faster in (("slow", "recipe"), ("recipe", "fast")):
    losses = (ablations.values(name, "loss") for name in (slower, faster))
    assert all(a[0] > b[0] + 0.05 for a, b in zip(*losses, strict=True))
mean, half = ablations.difference("fast")
assert round(mean, 3) == 0.002 and round(half, 3) == 0.005
mean, half = ablations.difference("slow")
assert round(mean, 3) == 0.013 and round(half, 3) == 0.003
mean, half = ablations.difference("constant")
assert round(mean, 3) == -0.003 and round(half, 3) == 0.002

# %% [markdown]
# **Fig. D.3.** The highest learning rate is forgiving upwards. Left: the rates. Right: training
# loss, three seeds each, means of 25 updates. In the first 25 updates the higher rate is ahead in
# every seed. At the end the rate 0.02 is not resolved from 0.005 (+0.002 ± 0.005 on unseen scans),
# while 0.001 is behind by 0.013 ± 0.003: in 500 updates it does not get there. A rate that stays at
# 0.005 ends 0.003 ± 0.002 *lower*, by the averaged weights; below, "Averaged weights" says what it
# does to the last ones.
#
# ## Warm-up
#
# Adam divides by the root of a running mean of squared gradients. In the first update that mean
# holds one gradient, and every weight moves by the full learning rate, in the direction of the sign
# of a single noisy gradient. Warm-up makes these first steps small.

# %% mystnb={"image": {"alt": "Two panels of training loss over updates with and without warm-up. Left, rate 0.005: without warm-up lower at first, then the curves coincide. Right, rate 0.02: without warm-up higher throughout, two of three seeds stay above 0.5 for the first hundred updates."}} tags=["hide-input"]
fig, axes = plt.subplots(1, 2, figsize=(7.5, 3), sharey=True)
both = ("warm-up of 50 updates", plots.BLUE), ("no warm-up", plots.ORANGE)
loss_curves(axes[0], dict(zip(("recipe", "cold"), both, strict=True)))
loss_curves(axes[1], dict(zip(("fast", "fast-cold"), both, strict=True)))
axes[0].set_title("learning rate 0.005")
axes[1].set_title("learning rate 0.02")
axes[1].set_ylabel("")
def by_seed(ours, theirs):
    pairs = zip(ablations.errors(ours), ablations.errors(theirs), strict=True)
    return [a - b for a, b in pairs]


both = (ablations.values(name, "loss") for name in ("cold", "recipe"))
assert all(cold[0] < warm[0] - 0.1 for cold, warm in zip(*both, strict=True))
mean, half = ablations.difference("cold")
assert round(mean, 3) == 0.006 and round(half, 3) == 0.007
mean, half = ablations.field_difference("cold", "frechet")
assert round(mean, 1) == 1.8 and round(half, 1) == 0.9
assert sum(loss[3] > 0.5 for loss in ablations.values("fast-cold", "loss")) == 2
assert all(loss[3] < 0.35 for loss in ablations.values("fast", "loss"))
found = by_seed("fast-cold", "fast")
assert [round(d, 3) for d in (min(found), max(found))] == [0.012, 0.032]
mean, half = ablations.interval(found)
assert round(mean, 3) == 0.024 and round(half, 3) == 0.025

# %% [markdown]
# **Fig. D.4.** Warm-up makes a high learning rate safe. Left, rate 0.005: without warm-up the first
# 25 updates go faster; at the end the loss is not resolved (+0.006 ± 0.007), the Fréchet distance
# of features is (+1.8 ± 0.9). Right, rate 0.02: two of three seeds are still above 0.5 in the
# updates 75 to 100, where all runs with warm-up are below 0.35, and they never make up for it. At
# the end all three are worse than with warm-up, by 0.012 to 0.032; the seeds differ so much that
# the mean, +0.024 ± 0.025, is just not resolved.
#
# ## Clipping of gradients
#
# One unlucky batch can make one very long step. So a gradient $g$ of all weights whose norm is
# above a limit, 1 here, is shortened to it {cite}`pascanu2013difficulty`,
# $g\leftarrow g\,/\max(1,\lVert g\rVert)$; its direction stays.

# %% mystnb={"image": {"alt": "Two panels of the norm of the gradient over updates, clipped to 1 and not clipped, with a line at 1. In both panels the two colours overlap: norms above 1 only at the start, between 0.1 and 1 after the first tenth of the run."}} tags=["hide-input"]
fig, axes = plt.subplots(1, 2, figsize=(7.5, 3), sharey=True)
pairs = {"0.005": ("recipe", "unclipped"), "0.02": ("fast", "fast-unclipped")}
both = ("clipped to 1", plots.BLUE), ("not clipped", plots.ORANGE)
for ax, (rate, names) in zip(axes, pairs.items(), strict=True):
    for name, (label, colour) in zip(names, both, strict=True):
        for i, norms in enumerate(ablations.values(name, "gradient_norm")):
            updates, shown = range(5, 501, 5), None if i else label
            ax.plot(updates, norms, color=colour, lw=0.8, label=shown)
    ax.axhline(1, color=plots.GREY, lw=1)
    ax.set(xlabel="update", title=f"learning rate {rate}", yscale="log")
axes[0].set_ylabel("norm of the gradient")
axes[1].legend(fontsize=9)
for names in pairs.values():
    for name in names:
        for norms in ablations.values(name, "gradient_norm"):
            assert max(norms[10:]) < 1
        assert all(0.01 < share < 0.04 for share in ablations.values(name, "clipped"))
mean, half = ablations.difference("unclipped")
assert round(abs(mean), 4) < 0.0006 and round(half, 3) == 0.003
mean, half = ablations.interval(by_seed("fast-unclipped", "fast"))
assert abs(mean) < 0.00005 and round(half, 3) == 0.002

# %% [markdown]
# **Fig. D.5.** Clipping does nothing here that three seeds resolve. The norm of the gradient, the
# largest of every five updates, is above 1 in the first 50 updates only, 1 to 4 % of all. Without
# clipping the loss changes by less than 0.001 ± 0.003 at the rate 0.005, and by 0.000 ± 0.002 at
# 0.02. Adam is one reason: it divides by the size of the gradients, so that a factor common to all
# gradients of a run has no effect. Clipping is an insurance against the rare batch, which these
# twelve runs did not meet after their first 50 updates.
#
# ## Averaged weights
#
# Noise of the gradients keeps the weights wandering about where the loss is low, and their average
# is nearer to its centre than they are {cite}`polyak1992acceleration`. Samples are drawn with a
# moving average, updated after each update number $n=0,1,2,\dots$ of the weights,
#
# $$
# \bar\theta\leftarrow d_n\bar\theta+(1-d_n)\,\theta,\qquad d_n=\min\!\left(d,\ \frac{1+n}{10+n}\right).
# $$
#
# Ho et al. {cite}`ho2020denoising` hold $d_n=d=0.9999$ fixed, for 800,000 updates. In a short run
# that keeps the random start; the decay that grows forgets it (exercise D.1).

# %% mystnb={"image": {"alt": "Two panels, loss on unseen scans over updates for the last weights, an average with growing decay and one with a fixed decay of 0.999. In both the fixed average stays above 0.5. Left, where the rate falls, last weights and growing average meet at the end; right, where it stays, the last weights remain above the average."}} tags=["hide-input"]
fig, axes = plt.subplots(1, 2, figsize=(7.5, 3), sharey=True)
curves_of = {
    "last": ("last weights", plots.ORANGE),
    "averaged": ("average, growing decay", plots.BLUE),
    "fixed": ("average, decay 0.999", plots.GREEN),
}
panels = {"recipe": "learning rate falls to 0", "constant": "learning rate stays"}
for ax, (name, title) in zip(axes, panels.items(), strict=True):
    for which, (label, colour) in curves_of.items():
        for i, curves in enumerate(ablations.values(name, "curve")):
            style = {"color": colour, "lw": 1, "label": None if i else label}
            ax.plot(STOPS, curves[which], "o-", ms=2.5, **style)
    ax.set(xlabel="update", title=title, yscale="log")
    ax.set(yticks=(0.2, 0.3, 0.5, 0.8), yticklabels=("0.2", "0.3", "0.5", "0.8"))
    ax.minorticks_off()
axes[0].set_ylabel("loss on 64 unseen scans")
axes[0].legend(fontsize=9)


def gain(name, stop):
    """What the average loses less than the last weights, seed by seed."""
    at = STOPS.index(stop)
    curves = ablations.values(name, "curve")
    return [c["last"][at] - c["averaged"][at] for c in curves]


for stop in (100, 150, 200, 300):
    assert min(gain("recipe", stop)) > 0 and min(gain("constant", stop)) > 0
assert max(map(abs, gain("recipe", 500))) < 5e-4
mean, half = ablations.interval(gain("recipe", 200))
assert round(mean, 3) == 0.015 and round(half, 3) == 0.007
mean, half = ablations.interval(gain("constant", 500))
assert round(mean, 3) == 0.011 and round(half, 3) == 0.004
assert all(max(gain(name, stop)) < 0 for name in panels for stop in (25, 50))
assert round(0.999**500, 2) == 0.61
for name in panels:
    assert all(c["fixed"][-1] > 0.53 for c in ablations.values(name, "curve"))
low, high = more("constant")
assert -0.006 < low < high < -0.001

# %% [markdown]
# **Fig. D.6.** An average is worth most while the learning rate is high. Left, the recipe: after
# 200 updates the average loses 0.015 ± 0.007 less than the weights themselves; at the end, where
# the rate is zero and the weights stand still, the two differ by less than 0.0005. Right, the rate
# stays: the gain remains, 0.011 ± 0.004 at the end. In the first 50 updates, while the loss falls
# fast, the average lags behind and loses more. A fixed decay of 0.999 still holds
# $0.999^{500}=61\,\%$ of the random start, and its loss stays above 0.53.
#
# So a falling rate and an average do the same work. With the average even the constant rate ends
# 0.003 *below* the recipe: of two means to the same end one may be left out in a run as short as
# this.
#
# The same failure on points, where it can be run here: 400 updates on the ring of [chapter
# 3](03_ddpm.ipynb), averaged with the decay 0.9995 of the recipe `mnist`.

# %%
from ddpmlib import data
from ddpmlib.denoiser import EPS, Denoiser
from ddpmlib.losses import diffusion_loss
from ddpmlib.models import MLP
from ddpmlib.process import DDPM, schedules
from ddpmlib.samplers import draw
from ddpmlib.training import Average, Settings, Trainer, fit

_ = torch.manual_seed(0)
process = DDPM(schedules.cosine(100))
generator = torch.Generator().manual_seed(0)
points = data.ring(4096, modes=6, noise=0.2, generator=generator)
short = Trainer(
    Denoiser(MLP(dim=2, width=64, depth=2), process, EPS),
    diffusion_loss,
    points,
    None,
    Settings(steps=400, batch_size=256, lr=1e-2, ema=0.9995),
    device="cpu",
)
fixed = Average(short.model, 0.9995)
for _ in fit(short):
    fixed.update(short.model, n=10**9)  # so late, d_n is d

# %% tags=["hide-input", "nbval-ignore-output"]
x_T = torch.randn(600, 2, generator=torch.Generator().manual_seed(1))
hits = {}
for which, net in (
    ("last weights", short.model.eval()),
    ("average, fixed decay", fixed.module.eval()),
    ("average, growing decay", short.averaged),
):
    x = draw(net, process, x_T, generator=torch.Generator().manual_seed(2))
    near = torch.cdist(x, data.ring_means(6)).min(dim=1).values < 3 * 0.2
    hits[which] = near.float().mean().item()
assert round(0.9995**400, 2) == 0.82
assert hits["average, fixed decay"] < 0.05 < 0.8 < hits["average, growing decay"]
assert abs(hits["average, growing decay"] - hits["last weights"]) < 0.05
lines = [f"| {which} | {share:.0%} |" for which, share in hits.items()]
Markdown("\n".join(["| weights | samples on a cluster |", "|:--|--:|", *lines]))

# %% [markdown]
# After 400 updates the fixed average still holds $0.9995^{400} = 82\,\%$ of the random weights of
# the start, and fewer than 5 % of its samples lie on a cluster. With the growing decay more than 80
# % do, as many as with the last weights, to within 5 %. While $d_n$ grows, to update 17,990 for
# $d=0.9995$, the start is forgotten like $n^{-9}$, and what is averaged is a tenth of the run old
# on average.
#
# ## The optimiser
#
# Adam {cite}`kingma2015adam` divides the running mean of each weight's gradient by the root of the
# running mean of its square, so that all weights move at a similar pace, whatever the size of their
# gradients (exercise 3.4 writes it). Stochastic gradient descent moves each weight in proportion to
# its gradient, here with momentum 0.9, that is, along $\sum_k 0.9^k g_{n-k}$; warm-up, fall and
# clipping as before.

# %% mystnb={"image": {"alt": "Training loss over updates for Adam and for stochastic gradient descent with momentum at rates 0.2 and 0.8. Adam is below both from update 25 on; the two rates of SGD end at the same loss."}} tags=["hide-input"]
fig, ax = plt.subplots(figsize=(6.4, 3))
looks = {
    "recipe": ("Adam, 0.005", plots.BLUE),
    "sgd-0.2": ("SGD with momentum, 0.2", plots.ORANGE),
    "sgd-0.8": ("SGD with momentum, 0.8", plots.RED),
}
loss_curves(ax, looks)
for name in ("sgd-0.2", "sgd-0.8"):
    both = (ablations.values(n, "loss") for n in (name, "recipe"))
    for ours, adam in zip(*both, strict=True):
        assert ours[0] < adam[0] and all(ours[k] > adam[k] for k in range(1, 20))
mean, half = ablations.interval(by_seed("sgd-0.8", "sgd-0.2"))
assert round(mean, 3) == 0.002 and round(half, 2) == 0.01


def reached(name, stop):
    """The loss of averaged weights on 64 unseen scans, mean over seeds."""
    at = STOPS.index(stop)
    return fmean(c["averaged"][at] for c in ablations.values(name, "curve"))


for name in ("sgd-0.2", "sgd-0.8"):
    assert reached("recipe", 300) < reached(name, 500) < reached("recipe", 200)

# %% [markdown]
# **Fig. D.7.** Adam is behind stochastic gradient descent in the first 25 updates and ahead of it
# from then on, in every seed. After 500 updates SGD is where Adam was between its updates 200
# and 300. Its two rates, a factor of four apart, are not resolved from each other (0.002 ± 0.011);
# rates beyond them were not tried.
#
# ## All changes of the training

# %% tags=["hide-input"]
assert resolved(*more("constant")) and not resolved(*more("cold"))
Markdown(ablations.EXPERIMENT.tables["ablations_training"]())

# %% [markdown]
# Twelve differences stand in this appendix. Of so many intervals at 95 % one is expected to miss 0
# by chance about every other time, so the smallest resolved difference, the constant rate's −0.003,
# is a hint and no finding. The large ones are beyond that doubt.
#
# What this says for a first run of your own:
#
# - Keep the skip connections, Adam, and an average whose decay grows.
# - With warm-up, a learning rate that is four times too high costs less (0.002) than one that is
#   five times too low (0.013).
# - If the last weights are to be used, let the rate fall; if the average is, it hardly matters.
# - Clipping, attention on a 4×4 grid and zero initialisation cost little and showed little; their
#   worth, if any, is in longer runs of deeper networks on larger images, which are not measured
#   here.
#
# The prediction target, ε, $x_0$ or $v$, is compared in the same way in
# [chapter 3](03_ddpm.ipynb).

# %% [markdown]
# ## Exercises
#
# ### ★ Exercise D.1: What is left of the random start?
#
# An average of weights begins as the random weights of the start. Write `left(updates, decay)`,
# which returns the share of the start that it still holds after so many updates, twice: with a
# fixed decay $d$, and with the growing decay $d_n=\min\big(d,\frac{1+n}{10+n}\big)$,
# $n=0,1,2,\dots$
#
# :::{dropdown} Hint
# Every update multiplies the share by its decay. A loop will do; while $d_n$ grows, the product has
# a closed form.
# :::


# %%
def left(updates, decay):
    return ...  # your answer: (share, fixed decay; share, growing decay)


# exercises.check("D.1", left)


# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
# Solution of exercise D.1: a product of decays;
# while they grow it is N! 9! / (N + 9)!
def left(updates, decay):
    grown = 1.0
    for n in range(updates):
        grown *= min(decay, (1 + n) / (10 + n))
    return decay**updates, grown


exercises.check("D.1", left)
share, share_if_grown = left(400, 0.9995)
assert abs(share - 0.82) < 0.005 and share_if_grown < 1e-17

# %% [markdown]
# ### ★★ Exercise D.2: Is a difference resolved?
#
# Two recipes were trained with the same seeds; `ours` and `theirs` are lists of what they lose,
# seed by seed. Write `compare(ours, theirs)`, which returns the mean of the difference
# `ours − theirs` and the half width of its 95 % interval by Student's t, as in the tables above.
# Seeds decide on batches and first weights of both, so compare within a seed.
#
# :::{dropdown} Hint
# Take the differences first; they are $n$ numbers. `scipy.stats.t.ppf(0.975, k)` is the quantile
# for $k$ degrees of freedom, 4.30 for $k=2$.
# :::


# %%
def compare(ours, theirs):
    return ...  # your answer: (mean difference, half width)


# exercises.check("D.2", compare)


# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
# Solution of exercise D.2: the mean takes one degree of freedom
def compare(ours, theirs):
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    n = len(differences)
    half = stats.t.ppf(0.975, n - 1) * stdev(differences) / n**0.5
    return fmean(differences), half


exercises.check("D.2", compare)

# %% [markdown]
# ### ★★★ Exercise D.3: Averaging against a smaller learning rate
#
# One weight $\theta$, a loss $\frac12(\theta-z)^2$ with a new $z\sim\mathcal N(0,1)$ in each
# update, and gradient descent with a constant rate $r$: $\theta\leftarrow\theta-r\,(\theta-z)$. The
# best $\theta$ is 0. The noise of the gradients keeps $\theta$ away from it, for as long as one
# trains.
#
# 1. Derive the variance of $\theta$ after many updates, `last(r)`.
# 2. After each update an average with a fixed decay is updated, $m\leftarrow d\,m+(1-d)\,\theta$.
#    Derive its variance, `averaged(r, d)`.
# 3. Write `decay(r, k)`: the decay with which the average has the variance that the rate $r/k$
#    would give $\theta$ without an average. Solve for it as you like.
# 4. Simulate one case of your own, to believe it.
#
# Then compare: how many updates until the start is forgotten to 1 %, with the average at rate $r$,
# and with the rate $r/10$ alone? The check takes `(last, averaged, decay)`.
#
# :::{dropdown} Hint
# With $\rho=1-r$ the weight is $\theta\leftarrow\rho\,\theta+r z$: equate the variances before and
# after. For the average you also need the covariance of $m$ and $\theta$, which obeys
# $c = d\rho\,c+(1-d)\operatorname{Var}\theta$. The variance falls with $d$, so bisect.
# :::


# %%
answer = ...  # (last, averaged, decay)

# exercises.check("D.3", answer)


# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
# Solution of exercise D.3: V = ρ² V + r² with ρ = 1 − r,
# then c, then the variance of m
def last(r):
    return r / (2 - r)


def averaged(r, d):
    rho = 1 - r
    return last(r) * (1 - d) / (1 + d) * (1 + d * rho) / (1 - d * rho)


def decay(r, k):
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if averaged(r, middle) < last(r / k):
            high = middle
        else:
            low = middle
    return low


exercises.check("D.3", (last, averaged, decay))

g = torch.Generator().manual_seed(0)
theta, m = torch.zeros(100_000), torch.zeros(100_000)
r, d = 0.1, decay(0.1, 10)
for _ in range(1000):
    theta = theta - r * (theta - torch.randn(100_000, generator=g))
    m = d * m + (1 - d) * theta
assert abs(theta.var() / last(0.1) - 1) < 0.02
assert abs(m.var() / last(0.01) - 1) < 0.02
# For small r the decay is 1 − r / (k − 1): an average over 9 / r updates.
# It forgets the start as fast as the rate r / 10 does, which needs
# 4.6 · 10 / r updates.
assert abs((1 - d) / (0.1 / 9) - 1) < 0.05
of_average, of_small_rate = log(0.01) / log(d), log(0.01) / log(1 - 0.01)
assert 400 < of_average < of_small_rate < 470

# %% [markdown]
# In this example the average buys nothing that a smaller rate would not. In a network it can:
# directions in which the loss is steep need a small rate, flat ones a large one to move at all. A
# rate that falls at the end, or an average, calms the first without slowing the second from the
# start.
#
# ## Further reading
#
# - Kingma & Ba (2015), *Adam* {cite}`kingma2015adam`; Loshchilov & Hutter (2019)
#   {cite}`loshchilov2019decoupled` on weight decay, and (2017) {cite}`loshchilov2017sgdr` on
#   learning rates that fall like a cosine.
# - Goyal et al. (2017) {cite}`goyal2017accurate`: warm-up, and residual blocks that start as the
#   identity.
# - Pascanu, Mikolov & Bengio (2013) {cite}`pascanu2013difficulty`: clipping by norm, and what it is
#   for.
# - Polyak & Juditsky (1992) {cite}`polyak1992acceleration`: averaging, with a proof.
# - Karras et al. (2024) {cite}`karras2024analyzing`: averages of every length, made after training
#   from a few snapshots.
