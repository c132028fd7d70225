# %% [markdown]
# # 1. The problem and the forward process
#
# [![Open in Colab](../book/_static/colab.svg)](https://colab.research.google.com/github/ddpm-book/ddpm-book/blob/main/notebooks/01_forward.ipynb)
#
# A diffusion model learns to remove noise from data. The noise is added beforehand, in many small
# steps, by a process that needs no learning: the *forward process*. This chapter is about it alone.
# Its main result is that $t$ steps are one,
#
# $$
# x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\varepsilon,
# \qquad \varepsilon \sim \mathcal N(0, I),
# $$
#
# where $\bar\alpha_t$, a product over the steps, falls from 1 to nearly 0. We prove it, and compute
# for every $t$ what is still left of the data. There is no network in this chapter, so nearly every
# number is exact.

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

# %% tags=["hide-input"] mystnb={"image": {"alt": "Four rows, the handwritten digits 2, 3, 5 and 8; eight columns, times 0, 50, 100, 200, 300, 400, 600 and 1000. Up to 100 the digits are grainy but legible, at 300 most can only be guessed, from 600 on every picture looks like noise."}}
import math

import matplotlib.pyplot as plt
import numpy as np
import sympy as sp
import torch
from ddpmlib import data, equations
from ddpmlib.denoiser import oracle
from ddpmlib.experiments.results import markdown
from ddpmlib.process import DDPM, schedules
from ddpmlib.teaching import exercises
from IPython.display import Markdown
from scipy import stats

digits = data.load("digits")
x_train = data.to_float(digits.x_train)  # (1442, 1, 8, 8), float32 in [-1, 1]
x_test = data.to_float(digits.x_test)
process = DDPM(schedules.linear(1000))
cosine = DDPM(schedules.cosine(1000))
double = {"dtype": torch.float64}


def seeded(seed):
    """A source of randomness of its own for every cell, so that each runs alone."""
    return torch.Generator().manual_seed(seed)


def typical(k):
    """The training image of class k that is closest to the mean of its class."""
    own = x_train[digits.y_train == k]
    return own[(own - own.mean(0)).flatten(1).norm(dim=1).argmin()]


def labelled_grid(images, columns, rows, xlabel="time $t$"):
    """Small images in a grid as wide as the text, with names of columns and rows."""
    width, height = 9 * len(columns), 9 * len(rows)  # 8 pixels and a gap
    _, ax = plt.subplots(figsize=(7.5, 7.5 * height / width + 0.4))
    _ = plots.grid(images, ncol=len(columns), ax=ax)
    ax.set_axis_on()
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.set_xticks([9 * i + 3.5 for i in range(len(columns))], labels=columns)
    ax.set_yticks([9 * i + 3.5 for i in range(len(rows))], labels=rows)
    ax.tick_params(length=0)
    ax.set_xlabel(xlabel)


four = torch.stack([typical(k) for k in (2, 3, 5, 8)])
eps = torch.randn(four.shape, generator=seeded(0))
times = [0, 50, 100, 200, 300, 400, 600, 1000]
columns = [process.q_sample(four, t, eps) for t in times]
labelled_grid(torch.stack(columns, dim=1).flatten(0, 1), times, [""] * 4)

# %% [markdown]
# **Fig. 1.1.** The forward process turns digits into noise; the label outlives the details. Each
# row is one digit, each column one time of the linear schedule (1.13). Bayes' rule, applied to
# noisy test images, still finds the right label in 98 % of cases at $t = 100$, in 71 % at $t = 300$
# and in 19 % at $t = 600$; guessing gives 10 % (Fig. 1.12).

# %% tags=["hide-input"]
x, frames, generator = x_train[:12], [x_train[:12]], seeded(1)
for t in range(1, process.T + 1):
    x = process.q_step(x, t, torch.randn(x.shape, generator=generator))
    if t % 50 == 0:
        frames.append(x)
film_alt = "Twelve handwritten digits: grain appears, shapes dissolve, noise remains."
plots.film(frames, film_alt, ncol=6, width=400, seconds=5)

# %% [markdown]
# **Fig. 1.2.** The same process as a film of twelve digits. It makes a thousand small steps; every
# fiftieth is a frame.
#
# ## Objectives
#
# After this chapter you can
#
# - say what problem a generative model solves and what each family of models pays for its solution;
# - derive $q(x_t \mid x_0)$ from the single steps, by induction, with every independence named;
# - write the forward process in ten lines and test that they are right;
# - describe $q(x_t)$ as the data, shrunk and blurred, and compute it where the data allow it;
# - read a noise schedule: how much signal is left, which frequencies of an image still stand above
#   the noise, and how far $q(x_T)$ is from the pure noise from which sampling starts.
#
# All cells share four names: `x_train`, the digits in $[-1, 1]$; `process`, the library's forward
# process with the linear schedule of a thousand steps; `**double`, which asks for `float64`; and
# `seeded(k)`, a random generator, so that every number is the same when you run the page.
#
# ## The problem: drawing from a distribution that nobody knows
#
# We have samples $x_0^{(1)}, \dots, x_0^{(N)}$, say scans of handwritten digits, and assume that
# they are draws from one distribution $q(x_0)$. We want *more* draws: new digits that nobody wrote.
# We know no formula for $q$, and we cannot tabulate it:

# %%
grey_levels, pixels = 17, 8 * 8  # these small scans have 17 grey levels
print(f"possible images: 10^{pixels * math.log10(grey_levels):.0f}")
print(f"images that we have: {len(x_train)}")

# %% [markdown]
# A distribution that *can* be fitted in closed form is a Gaussian with the mean and the covariance
# of the data.

# %% mystnb={"image": {"alt": "Two rows of ten small pictures. The upper row shows crisp handwritten digits, the lower row shows grey smears with the rough outline of digits and none that can be read with certainty."}} tags=["hide-input"]
flat = x_train.flatten(1).double()
mean, cov = flat.mean(0), torch.cov(flat.T, correction=0)
gaussian = oracle.Gaussian(process, mean, cov)
drawn = gaussian.draw(len(x_test), generator=seeded(2)).reshape(-1, 1, 8, 8)
both = torch.cat([x_train[20:30].double(), drawn[:10]])
labelled_grid(both, [""] * 10, ["data", "Gaussian"], xlabel="")


def to_nearest(x):
    """Median distance to the nearest training image."""
    return float(torch.cdist(x.double().flatten(1), flat).min(dim=1).values.median())


near, far = to_nearest(x_test), to_nearest(drawn)
assert abs(near - 2.05) < 0.01 and abs(far - 3.56) < 0.01

# %% [markdown]
# **Fig. 1.3.** A Gaussian with the right mean and covariance draws no digits. Above: ten training
# images. Below: ten draws. Each pixel has the right mean and each pair of pixels the right
# covariance, and still the draws lie far from the data: the median distance to the nearest training
# image is 3.56 for draws and 2.05 for real digits of the test set.
#
# Six families of models do better. Each of them turns random numbers into data.

# %% mystnb={"image": {"alt": "Six diagrams of boxes and arrows. VAE: data to a latent and back, both arrows learned. Autoregressive: one pixel after the other, each learned. Normalising flow: noise and data with a learned arrow both ways. GAN: noise to data by a generator, data to a verdict by a discriminator. Energy-based: data to an unnormalised log-density, learned; noise to data by a long Markov chain. Diffusion: a chain from data to noise with fixed arrows forward and learned arrows back."}} tags=["hide-input"]
def node(ax, x, text, colour):
    box = {"boxstyle": "round,pad=0.35", "fc": colour, "ec": "none", "alpha": 0.45}
    _ = ax.text(x, 0, text, ha="center", va="center", bbox=box, fontsize=11)


def arrow(ax, start, end, text="", y=0.0, learned=True):
    looks = {"color": plots.BLUE} if learned else {"color": plots.GREY, "ls": "--"}
    tips = {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0, "lw": 1.4} | looks
    ax.annotate("", (end, y), (start, y), arrowprops=tips)
    above = y >= 0
    _ = ax.text(
        (start + end) / 2,
        y + (0.15 if above else -0.15),
        text,
        ha="center",
        va="bottom" if above else "top",
        color=looks["color"],
    )


def chain(ax, names, colours, at):
    for x, name, colour in zip(at, names, colours, strict=True):
        node(ax, x, name, colour)


noise, clean, other = plots.SKY, plots.ORANGE, "#d0d0d0"
fig, axes = plt.subplots(3, 2, figsize=(7.5, 3.6))
families = ["VAE", "autoregressive", "normalising flow"]
families += ["GAN", "energy-based", "diffusion"]
for ax, family in zip(axes.T.flat, families, strict=True):
    ax.set(xlim=(0, 10), ylim=(-1, 1.1))
    ax.set_axis_off()
    ax.set_title(family, loc="left", fontsize=10, fontweight="bold")
vae, pixelwise, flow, gan, energy, diffusion = axes.T.flat
chain(vae, ["$x$", "$z$", "$x$"], [clean, noise, clean], [1, 5, 9])
arrow(vae, 1.6, 4.4, "encoder")
arrow(vae, 5.6, 8.4, "decoder")
names = ["$x_1$", "$x_2$", "$x_3$", "…"]
chain(pixelwise, names, [clean] * 3 + [other], [1, 3.7, 6.4, 9])
for start in (1.7, 4.4, 7.1):
    arrow(pixelwise, start, start + 1.3)
chain(flow, ["$z$", "$x$"], [noise, clean], [1, 9])
arrow(flow, 1.7, 8.3, "invertible map", y=0.15)
arrow(flow, 8.3, 1.7, "its inverse", y=-0.15)
chain(gan, ["$z$", "$x$", "real?"], [noise, clean, other], [1, 4.7, 9])
arrow(gan, 1.6, 4.1, "generator")
arrow(gan, 5.3, 8.0, "discriminator")
chain(energy, ["$z$", "$x$", r"$\log q$"], [noise, clean, other], [1, 5.6, 9])
arrow(energy, 1.6, 5.0, "long Markov chain", learned=False)
arrow(energy, 6.2, 8.1)
names = ["$x_0$", "$x_1$", "…", "$x_T$"]
chain(diffusion, names, [clean, other, other, noise], [1, 3.7, 6.4, 9])
for i, start in enumerate((1.7, 4.3, 6.95)):
    arrow(diffusion, start, start + 1.35, "add noise" * (i == 1), y=0.15, learned=False)
    arrow(diffusion, start + 1.35, start, "remove noise" * (i == 1), y=-0.15)

# %% [markdown]
# **Fig. 1.4.** Six families of generative models: random numbers (blue boxes; an autoregressive
# model draws at every arrow), data (orange boxes), what is learned (solid arrows) and what is fixed
# (dashed). In a diffusion model the way from data to noise is fixed, and only the way back is
# learned.
#
# | family | learns | trained by | draws a sample with | usually pays with |
# |:--|:--|:--|:--|:--|
# | variational autoencoder (VAE) | encoder and decoder | a lower bound of the likelihood | 1 pass | quality: blurry samples |
# | autoregressive | each pixel given the ones before | exact likelihood | 1 pass *per pixel* | speed |
# | normalising flow | an invertible map | exact likelihood | 1 pass | quality: every layer must be invertible |
# | generative adversarial network (GAN) | generator against discriminator | a game | 1 pass | coverage: some kinds of samples (modes) go missing; unstable training |
# | energy-based | an unnormalised $\log q$ | contrast with its own samples | a long Markov chain | speed; the chain may stay near some modes (not *mix*) |
# | diffusion | to remove noise | a regression (a bound of the likelihood) | tens to a thousand passes | speed |
#
# The last column follows what Xiao et al. {cite}`xiao2022tackling` call the *learning trilemma*: of
# **quality** (each sample looks real), **coverage** (all kinds of samples occur) and **speed** (a
# sample is cheap), no family had all three. This is a rule of thumb up to 2022, no theorem; much
# later work on diffusion models is about speed. A diffusion model gets quality and coverage from a
# plain *regression*: no game between two networks, no invertible network, no Markov chain inside
# the training loop. What it needs is a process that turns data into noise and is simple enough to
# be known exactly.
#
# ## Data on a line: two clusters become one Gaussian
#
# Take two clusters on a line. In each step every point moves a little towards zero and receives a
# little noise.

# %% mystnb={"image": {"alt": "A map with time from 0 to 1000 on the horizontal axis and x on the vertical axis, coloured by density. Two bright bands at minus 1.3 and 0.9 widen, run together near t = 235 and become one band around zero. Six thin random paths start in the two bands and end spread around zero."}} tags=["hide-input"]
mixture = oracle.Mixture(
    process,
    weights=torch.tensor([0.4, 0.6], **double),
    means=torch.tensor([-1.3, 0.9], **double),
    stds=torch.tensor([0.1, 0.25], **double),
)
line = torch.linspace(-3, 3, 241, **double)
map_times = range(0, 1001, 5)
density = torch.stack([mixture.log_prob(line, t).exp() for t in map_times], dim=1)
generator = seeded(3)
paths = [mixture.draw(6, generator=generator)]
for t in range(1, process.T + 1):
    fresh = torch.randn(6, generator=generator, **double)
    paths.append(process.q_step(paths[-1], t, fresh))

fig, ax = plt.subplots(figsize=(7.5, 3.0))
shades = ax.contourf(
    map_times[::2],
    line,
    density[:, ::2],
    levels=[0, 0.02, 0.1, 0.2, 0.3, 0.45, 0.8, 1.7],
    colors=plt.get_cmap("cividis")(np.linspace(0.05, 1, 7)),
    antialiased=False,
)
_ = ax.plot(range(0, 1001, 20), torch.stack(paths)[::20], lw=0.8, color="white")
ax.grid(False)
ax.set(xlabel="time $t$", ylabel="$x_t$", ylim=(-3, 3))
_ = fig.colorbar(shades, label="density of $x_t$", spacing="uniform")

inner = density[1:-1]
peaks = ((inner > density[:-2]) & (inner > density[2:])).sum(0)
assert max(t for t, n in zip(map_times, peaks, strict=True) if n == 2) == 235
normal_density = (-(line**2) / 2).exp() / math.sqrt(2 * math.pi)
assert (density[:, -1] - normal_density).abs().max() < 4e-5

# %% [markdown]
# **Fig. 1.5.** A single path of $x_t$ is irregular, but its *density* changes smoothly and ends at
# $\mathcal N(0, 1)$. Colour: the exact density (1.10). White: six paths, simulated step by step.
# The two clusters move towards zero, widen, and have one common peak from $t = 240$ on. At
# $t = 1000$ the density differs from the standard normal one by less than $4\cdot10^{-5}$ at every
# point.

# %% [markdown]
# ## One step
#
# Fix numbers $\beta_1, \dots, \beta_T$ in $(0, 1)$, small at first. One forward step draws
#
# $$
# q(x_t \mid x_{t-1}) = \mathcal N\!\left(x_t;\ \sqrt{1-\beta_t}\,x_{t-1},\ \beta_t I\right).
# \tag{1.1}
# $$
#
# A Gaussian with mean $m$ and covariance $\beta I$ is $m + \sqrt\beta\,\varepsilon$ with
# $\varepsilon \sim \mathcal N(0, I)$, so with $\alpha_t = 1-\beta_t$ the same step reads
#
# $$
# x_t = \sqrt{\alpha_t}\,x_{t-1} + \sqrt{\beta_t}\,\varepsilon_t,
# \qquad \varepsilon_t \sim \mathcal N(0, I).
# \tag{1.2}
# $$
#
# $\beta_t$ is the *variance* of the noise that one step adds; the noise is multiplied by its root.
# (Deck 000 of the [slides](../book/mind_the_slide.md) labels $\beta_t$ in two different ways.) In
# the code it is `beta[t]`, and the tables have an entry for $t = 0$, the clean data: $\beta_0 = 0$.
#
# **What is independent of what.** The noises $\varepsilon_1, \dots, \varepsilon_T$ are independent
# of each other and of $x_0$. By (1.2), $x_{t-1}$ is made of $x_0, \varepsilon_1, \dots,
# \varepsilon_{t-1}$ alone; therefore $\varepsilon_t$ is independent of $x_{t-1}$. And $x_t$ depends
# on the past only through $x_{t-1}$, so that the steps form a Markov chain:
#
# $$
# q(x_{1:T} \mid x_0) = \prod_{t=1}^{T} q(x_t \mid x_{t-1}).
# $$
#
# ### Why the factor $\sqrt{1-\beta_t}$?
#
# Try any factor $a$ in its place, $x_t = a\,x_{t-1} + \sqrt{\beta_t}\,\varepsilon_t$. Because
# $\varepsilon_t$ is independent of $x_{t-1}$, the covariances add:
#
# $$
# \operatorname{Cov}[x_t] = a^2 \operatorname{Cov}[x_{t-1}] + \beta_t I.
# $$
#
# Data with covariance $I$ keep this covariance if $a^2 + \beta_t = 1$. This is the reason for
# $a = \sqrt{1-\beta_t}$: it *preserves the variance*. With $a = 1$ the variance would grow by
# $\beta_t$ in each step. Real data do not have covariance $I$; for them the distance from $I$
# shrinks in each step by the factor $\alpha_t$. With
# $\bar\alpha_t = \alpha_1 \alpha_2 \cdots \alpha_t$ and $\bar\alpha_0 = 1$,
#
# $$
# \operatorname{Cov}[x_t] - I = \bar\alpha_t \left(\operatorname{Cov}[x_0] - I\right),
# \qquad \operatorname{E}[x_t] = \sqrt{\bar\alpha_t}\,\operatorname{E}[x_0].
# \tag{1.3}
# $$
#
# :::{dropdown} Proof of (1.3)
# Put $a^2 = \alpha_t$, $\beta_t = 1 - \alpha_t$ and subtract $I$ on both sides:
#
# $$
# \operatorname{Cov}[x_t] - I = \alpha_t \operatorname{Cov}[x_{t-1}] + (1-\alpha_t) I - I
# = \alpha_t \left(\operatorname{Cov}[x_{t-1}] - I\right).
# $$
#
# Apply this $t$ times. The mean follows from (1.2) in the same way: the noise has mean zero, so
# each step multiplies the mean by $\sqrt{\alpha_t}$. $\blacksquare$
# :::
#
# So **whatever the data, as long as they have a covariance, their mean and covariance converge to
# those of $\mathcal N(0, I)$**, if the steps go on until $\bar\alpha_t\to0$.

# %% mystnb={"image": {"alt": "Variance over time. Curves that start at 4, 1, 0.29 and 0 all run into the line at 1, the one that starts at 1 stays there. Black dots measured on simulated digits lie on the curve that starts at 0.29. A dashed curve, the process without shrinking, leaves the picture upwards."}} tags=["hide-input"]
x, generator = x_train, seeded(4)


def pixel_variance(x):
    return float(x.flatten(1).var(0, correction=0).mean())


measured = {0: pixel_variance(x)}
for t in range(1, process.T + 1):
    x = process.q_step(x, t, torch.randn(x.shape, generator=generator))
    if t % 50 == 0:
        measured[t] = pixel_variance(x)

fig, ax = plt.subplots(figsize=(7.5, 2.8))
t_axis = range(process.T + 1)
names = {4: "4", 1: "1", measured[0]: f"{measured[0]:.2f} (digits)", 0: "0"}
for start, name in names.items():
    exact = 1 + process.alpha_bar * (start - 1)
    assert abs(exact[-1] - 1) < 2e-4
    _ = ax.plot(t_axis, exact, label=f"starts at {name}")
growing = 1 + process.beta.cumsum(0)
_ = ax.plot(t_axis, growing, "--", color=plots.GREY, label="starts at 1, $a = 1$")
_ = ax.plot(measured.keys(), measured.values(), "k.", label="digits, simulated")
ax.set(xlabel="time $t$", ylabel="variance per pixel", ylim=(-0.1, 4.2))
_ = ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))

predicted = {t: float(1 + process.alpha_bar[t] * (measured[0] - 1)) for t in measured}
worst = max(abs(measured[t] - predicted[t]) for t in measured)
standard_error = math.sqrt(2 / (len(x_train) * 64))  # of independent normal pixels
assert worst < 0.01 and 0.004 < standard_error < 0.005
assert round(measured[0], 2) == 0.29 and round(float(growing[-1])) == 11

# %% [markdown]
# **Fig. 1.6.** The variance of any data goes to 1. Solid: (1.3) for data of variance 4, 1, 0.29
# (the digits, averaged over their pixels) and 0; at $t = 1000$ all are within $2\cdot10^{-4}$ of 1.
# Dots: all 1,442 digits, simulated step by step. They differ from (1.3) by less than 0.01, about
# two standard errors (0.005 at late times). Dashed: with $a = 1$ a variance of 1 would grow to 11.

# %% [markdown]
# ## Many steps at once
#
# Training a model needs $x_t$ at random times $t$, millions of times. Simulating each step would
# take hundreds of draws; a closed form takes one.
#
# ### Two independent Gaussians are one Gaussian
#
# If $\varepsilon$ and $\varepsilon'$ are **independent**, both $\mathcal N(0, I)$, and $a, b$ are
# numbers,
#
# $$
# a\,\varepsilon + b\,\varepsilon' \ \sim\ \mathcal N\!\left(0,\ (a^2+b^2)\, I\right).
# \tag{1.4}
# $$
#
# :::{dropdown} Proof of (1.4): rotate the plane
# Coordinates are independent, so one coordinate is enough. Independence means that the joint
# density is the product,
#
# $$
# \frac{1}{\sqrt{2\pi}} e^{-\varepsilon^2/2} \cdot \frac{1}{\sqrt{2\pi}} e^{-\varepsilon'^2/2}
# = \frac{1}{2\pi} e^{-(\varepsilon^2 + \varepsilon'^2)/2},
# $$
#
# and it depends on $(\varepsilon, \varepsilon')$ only through its length. So it does not change
# when we rotate the plane. Let $r = \sqrt{a^2+b^2} > 0$ (if $r = 0$ there is nothing to show) and
# rotate by the angle with cosine $a/r$ and sine $b/r$:
#
# $$
# u = \frac{a\,\varepsilon + b\,\varepsilon'}{r}, \qquad
# w = \frac{-b\,\varepsilon + a\,\varepsilon'}{r}.
# $$
#
# Then $(u, w)$ has the same density again: $u$ and $w$ are two independent standard normals. The
# first equation says $a\,\varepsilon + b\,\varepsilon' = r u$ with $u \sim \mathcal N(0, 1)$, which
# is (1.4). $\blacksquare$
# :::
#
# ### Two steps
#
# Insert (1.2) for $t-1$ into (1.2) for $t$:
#
# $$
# \begin{aligned}
# x_t &= \sqrt{\alpha_t}\,x_{t-1} + \sqrt{1-\alpha_t}\,\varepsilon_t \\
# &= \sqrt{\alpha_t}\left(\sqrt{\alpha_{t-1}}\,x_{t-2}
#    + \sqrt{1-\alpha_{t-1}}\,\varepsilon_{t-1}\right) + \sqrt{1-\alpha_t}\,\varepsilon_t \\
# &= \sqrt{\alpha_t\alpha_{t-1}}\,x_{t-2}
#    + \underbrace{\sqrt{\alpha_t(1-\alpha_{t-1})}}_{a}\,\varepsilon_{t-1}
#    + \underbrace{\sqrt{1-\alpha_t}}_{b}\,\varepsilon_t.
# \end{aligned}
# $$
#
# The two noises are independent, so (1.4) applies, with
# $a^2 + b^2 = \alpha_t - \alpha_t\alpha_{t-1} + 1 - \alpha_t = 1 - \alpha_t\alpha_{t-1}$:
#
# $$
# x_t = \sqrt{\alpha_t\alpha_{t-1}}\,x_{t-2} + \sqrt{1-\alpha_t\alpha_{t-1}}\,\bar\varepsilon,
# \qquad \bar\varepsilon \sim \mathcal N(0, I).
# \tag{1.5}
# $$
#
# $\bar\varepsilon$ is a *third* variable, a mixture of $\varepsilon_{t-1}$ and $\varepsilon_t$. It
# is independent of $x_{t-2}$, because they are.
#
# :::{admonition} Common misprint: one noise for two
# :class: warning
# The merge is often printed with $\varepsilon_{t-1}$ for *both* noises, also in the slides that
# this book follows. Taken literally that is wrong: equal noises add their *deviations*,
# $a\,\varepsilon + b\,\varepsilon = (a+b)\,\varepsilon$, with variance $(a+b)^2$ and not $a^2+b^2$.
# For two small steps this is about twice the variance, as the next cell shows. A second misprint is
# a variance written as $\sigma_t I$; it is $\sigma_t^2 I$, and $\sigma_t$ is its root. What that
# one does to a program stands in the section [What goes
# wrong](#what-goes-wrong-four-errors-without-a-message).
# :::

# %%
alpha = 0.98  # two steps with β = 0.02
a, b = math.sqrt(alpha * (1 - alpha)), math.sqrt(1 - alpha)
one, other = torch.randn(2, 1_000_000, generator=seeded(5), **double)

independent = (a * one + b * other).var()
repeated = (a * one + b * one).var()
print(f"two independent noises: variance {independent:.4f}")
print(f"one noise used twice:   variance {repeated:.4f}")
assert math.isclose(independent, a**2 + b**2, rel_tol=0.01)
assert math.isclose(repeated, (a + b) ** 2, rel_tol=0.01)

# %% [markdown]
# ### All steps: the kernel
#
# The same works for $t$ steps. One of the [slide decks](../book/slides_map.md) sets the proof as
# homework; here it is in full.
#
# \begin{align*}
# q(x_t \mid x_0) &= \mathcal N\!\left(x_t;\ \sqrt{\bar\alpha_t}\,x_0,\ (1-\bar\alpha_t) I\right), \\
# x_t &= \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\bar\varepsilon_t,
# \qquad \bar\varepsilon_t \sim \mathcal N(0, I).
# \tag{1.6}
# \end{align*}
#
# :::{dropdown} Proof of (1.6) by induction
# *Claim for $t$:* the second line holds, with some $\bar\varepsilon_t \sim \mathcal N(0, I)$
# that is a function of $\varepsilon_1, \dots, \varepsilon_t$ only.
#
# *Start, $t = 1$.* $\bar\alpha_1 = \alpha_1$ and $\beta_1 = 1 - \bar\alpha_1$, so (1.2) is the
# claim, with $\bar\varepsilon_1 = \varepsilon_1$.
#
# *Step from $t$ to $t+1$.* Insert the claim for $t$ into (1.2):
#
# $$
# \begin{aligned}
# x_{t+1} &= \sqrt{\alpha_{t+1}}\,x_t + \sqrt{1-\alpha_{t+1}}\,\varepsilon_{t+1} \\
# &= \sqrt{\alpha_{t+1}\bar\alpha_t}\,x_0
#    + \sqrt{\alpha_{t+1}(1-\bar\alpha_t)}\,\bar\varepsilon_t
#    + \sqrt{1-\alpha_{t+1}}\,\varepsilon_{t+1}.
# \end{aligned}
# $$
#
# By definition $\alpha_{t+1}\bar\alpha_t = \bar\alpha_{t+1}$. The noise $\bar\varepsilon_t$ is a
# function of $\varepsilon_1, \dots, \varepsilon_t$, hence independent of $\varepsilon_{t+1}$, and
# (1.4) merges the two. The variances add up to
#
# $$
# \alpha_{t+1}(1-\bar\alpha_t) + 1 - \alpha_{t+1} = 1 - \alpha_{t+1}\bar\alpha_t = 1 - \bar\alpha_{t+1},
# $$
#
# so the sum is $\sqrt{1-\bar\alpha_{t+1}}\,\bar\varepsilon_{t+1}$ with
# $\bar\varepsilon_{t+1} \sim \mathcal N(0, I)$, a function of
# $\varepsilon_1, \dots, \varepsilon_{t+1}$. That is the claim for $t+1$. Finally, $x_0$ is
# independent of all noises, hence of $\bar\varepsilon_t$; so given $x_0$, the variable
# $\bar\varepsilon_t$ is still standard normal, and the second line of (1.6) says the same as the
# first. $\blacksquare$
# :::
#
# :::{admonition} Is the bar over ε needed?
# :class: note
# From here on we write $\varepsilon$ for the noise in (1.6), as everybody does. Keep in mind which
# one it is: the noise of the single draw that leads from time $0$ to $t$, not the noise
# $\varepsilon_t$ of the last step. The network of [chapter 3](03_ddpm.ipynb) is trained to predict
# the former.
# :::
#
# The proof even says which noise $\bar\varepsilon_t$ is. In (1.2) the noise of step $i$ passes
# through the factors $\sqrt{\alpha_{i+1}}, \dots, \sqrt{\alpha_t}$ of all later steps, and their
# product is $\sqrt{\bar\alpha_t/\bar\alpha_i}$. So
#
# $$
# \bar\varepsilon_t = \frac{1}{\sqrt{1-\bar\alpha_t}}
# \sum_{i=1}^{t} \sqrt{\beta_i\,\frac{\bar\alpha_t}{\bar\alpha_i}}\;\varepsilon_i .
# \tag{1.7}
# $$
#
# :::{dropdown} Check: the squared weights of (1.7) sum to one
# The sum telescopes, since $\beta_i = 1 - \bar\alpha_i/\bar\alpha_{i-1}$:
#
# $$
# \sum_{i=1}^{t} \beta_i \frac{\bar\alpha_t}{\bar\alpha_i}
# = \bar\alpha_t \sum_{i=1}^{t} \left(\frac{1}{\bar\alpha_i} - \frac{1}{\bar\alpha_{i-1}}\right)
# = \bar\alpha_t \left(\frac{1}{\bar\alpha_t} - \frac{1}{\bar\alpha_0}\right)
# = 1 - \bar\alpha_t .
# $$
# :::
#
# ### From any time to any later one
#
# The proof of (1.6) can start at any time. Start the same chain at $s$, with
# $\alpha_{s+1} \cdots \alpha_t = \bar\alpha_t/\bar\alpha_s$ in the place of $\bar\alpha_t$, and
# get, for $s < t$,
#
# $$
# q(x_t \mid x_s) = \mathcal N\!\left(x_t;\ \sqrt{\frac{\bar\alpha_t}{\bar\alpha_s}}\,x_s,\
# \left(1-\frac{\bar\alpha_t}{\bar\alpha_s}\right) I\right).
# \tag{1.8}
# $$
#
# With $s = 0$ this is (1.6), with $s = t-1$ it is (1.1). [Chapter 2](02_reverse.ipynb) goes back
# from $t$ to $s$, and this is where it starts.
#
# If steps become ever smaller and more numerous, with $\beta_t = \beta(u)\,\mathrm du$, (1.2)
# becomes the stochastic differential equation $\mathrm dx = -\tfrac12\beta(u)\,x\,\mathrm du +
# \sqrt{\beta(u)}\,\mathrm d\omega$ {cite}`song2021score`, where $\omega$ is Brownian motion.
# [Appendix B](B_rosetta.ipynb#score-sdes-vp-and-ve) solves it and measures how far the chain of a
# thousand steps is from it.
#
# Sympy checks the algebra of this section: the sum of two Gaussians, one more step after the
# kernel, and the induction step.

# %% tags=["hide-cell"]
x, y, m = sp.symbols("x y m", real=True)
u, v, c, al, ab = sp.symbols("u v c alpha alphabar", positive=True)


def normal(x, mean, var):
    return sp.exp(-((x - mean) ** 2) / (2 * var)) / sp.sqrt(2 * sp.pi * var)


# (1.4): the density of a sum is the convolution of the densities.
convolved = sp.integrate(normal(y, 0, u) * normal(x - y, 0, v), (y, -sp.oo, sp.oo))
assert sp.simplify(convolved / normal(x, 0, u + v)) == 1
# A step with factor c = √α_{t+1} and variance v after N(m, u): the mean moves along,
# variances add.
stepped = sp.integrate(normal(y, m, u) * normal(x, c * y, v), (y, -sp.oo, sp.oo))
log_ratio = sp.log(sp.simplify(stepped / normal(x, c * m, c**2 * u + v)))
assert sp.simplify(sp.expand_log(log_ratio, force=True)) == 0
# The induction step for the variance, with u = 1 - ᾱ_t and v = 1 - α_{t+1}.
assert sp.expand(al * (1 - ab) + (1 - al) - (1 - al * ab)) == 0
# The telescoping summand of (1.7), with ᾱ_i = α_i ᾱ_{i-1}.
assert sp.simplify((1 - al) / (al * ab) - (1 / (al * ab) - 1 / ab)) == 0
print("sympy agrees with (1.4), (1.6) and (1.7)")

# %% [markdown]
# ## The forward process in ten lines

# %%
T = 1000
beta = torch.zeros(T + 1, **double)  # β_0 = 0
beta[1:] = torch.linspace(1e-4, 0.02, T, **double)
alpha_bar = torch.cumprod(1 - beta, dim=0)


def walk(x0, t, noises):  # (1.2), t times; noises[i] is ε_i
    x = x0
    for i in range(1, t + 1):
        x = (1 - beta[i]).sqrt() * x + beta[i].sqrt() * noises[i]
    return x


def jump(x0, t, eps):  # (1.6)
    return alpha_bar[t].sqrt() * x0 + (1 - alpha_bar[t]).sqrt() * eps


# %% [markdown]
# Do `walk` and `jump` agree? If the jump is given the noise (1.7), which merges the noises of the
# walk, it must land on the same *point*. If each draws noise of its own, the points differ, but
# their *distributions* must not. First the points, and in the same cell the library against the ten
# lines:

# %%
x0 = x_train[:4].double()
noises = torch.randn(T + 1, *x0.shape, generator=seeded(6), **double)


def merged(noises, t):  # (1.7)
    weights = (beta * alpha_bar[t] / alpha_bar)[1 : t + 1].sqrt()
    total = torch.tensordot(weights, noises[1 : t + 1], dims=1)
    return total / (1 - alpha_bar[t]).sqrt()


def agree(a, b):
    return float((a - b).abs().max()) < 1e-12


x = x0
for t in range(1, T + 1):
    x = process.q_step(x, t, noises[t])
    if t in (1, 2, 10, 100, 1000):
        eps = merged(noises, t)
        assert agree(x, walk(x0, t, noises))
        assert agree(x, jump(x0, t, eps))
        assert agree(x, process.q_sample(x0, t, eps))
assert agree(process.alpha_bar, alpha_bar) and agree(process.beta, beta)
print("walk, jump, q_step and q_sample agree to 1e-12")

# %% [markdown]
# Now the distributions. We start 20,000 walks at the same point $x_0 = 1.5$, let them take 200
# steps, each with fresh noise, and make 20,000 jumps. Both samples go to a Kolmogorov–Smirnov test
# against the exact Gaussian (1.6), and against each other.

# %%
n, t = 20_000, 200
start = torch.full((n,), 1.5, **double)
noises = torch.randn(t + 1, n, generator=seeded(7), **double)
walked = walk(start, t, noises)
eps = torch.randn(n, generator=seeded(8), **double)
jumped = process.q_sample(start, t, eps)

scale, std = process.kernel(t, start)
exact = stats.norm(1.5 * scale, std)
p_values = {
    "walk against (1.6)": stats.kstest(walked, exact.cdf).pvalue,
    "jump against (1.6)": stats.kstest(jumped, exact.cdf).pvalue,
    "walk against jump": stats.ks_2samp(walked, jumped).pvalue,
}
assert min(p_values.values()) > 0.01
rows = [(name, f"{p:.2f}") for name, p in p_values.items()]
Markdown(markdown(("test", "p-value"), rows))

# %% [markdown]
# No test finds a difference. But walk and jump agree in the distribution of $x_t$ *at each $t$ by
# itself* only. A jump to $t = 100$ and another one, with fresh noise, to $t = 200$ give two
# pictures that do not belong to one walk: given $x_0$ they are independent, while two times of one
# walk are correlated (exercise 1.2 computes how much).

# %% [markdown]
# ## The marginal: the data, shrunk and blurred
#
# So far $x_0$ was one given point. Over all data, $x_t$ has the density
#
# $$
# q(x_t) = \int q(x_0)\, \mathcal N\!\left(x_t;\ \sqrt{\bar\alpha_t}\,x_0,\ (1-\bar\alpha_t) I\right)
# \mathrm d x_0 .
# \tag{1.9}
# $$
#
# This is a convolution with a Gaussian: **shrink the data by $\sqrt{\bar\alpha_t}$, then blur them
# with a Gaussian of standard deviation $\sqrt{1-\bar\alpha_t}$**.
#
# :::{dropdown} Proof: (1.9) as a convolution
# Substitute $y = \sqrt{\bar\alpha_t}\,x_0$, with $\mathrm d x_0 = \bar\alpha_t^{-D/2}\,\mathrm d y$
# for $x_0 \in \mathbb R^D$. Then $q_{\text{shrunk}}(y) = \bar\alpha_t^{-D/2}\,
# q(y/\sqrt{\bar\alpha_t})$ is the density of the shrunk data $\sqrt{\bar\alpha_t}\,x_0$, and
#
# $$
# q(x_t) = \int q_{\text{shrunk}}(y)\ \mathcal N\!\left(x_t - y;\ 0,\ (1-\bar\alpha_t) I\right)
# \mathrm d y .
# $$
#
# It says the same as (1.6): the density of a sum of independent variables is the convolution of
# their densities. $\blacksquare$
# :::
#
# The integral needs $q(x_0)$, so for real data we cannot compute it. For a mixture of Gaussians we
# can, because (1.4) does it component by component: $x_0 = m_k + s_k\,\varepsilon'$ turns into
# $x_t = \sqrt{\bar\alpha_t}\,m_k + \sqrt{\bar\alpha_t}\,s_k\,\varepsilon' +
# \sqrt{1-\bar\alpha_t}\,\varepsilon$, and
#
# \begin{align*}
# q(x_0) &= \sum_k w_k\, \mathcal N(x_0;\ m_k,\ s_k^2 I) \\
# \Longrightarrow\quad q(x_t) &= \sum_k w_k\, \mathcal N\!\left(x_t;\ \sqrt{\bar\alpha_t}\,m_k,\
# (\bar\alpha_t s_k^2 + 1 - \bar\alpha_t) I\right).
# \tag{1.10}
# \end{align*}
#
# In the library this is `oracle.Mixture`. We compare it with a simulation that does not use the
# formula.

# %% mystnb={"image": {"alt": "Four histograms of simulated samples at t = 0, 100, 250 and 1000, each with a dark line of the exact density that follows the bars closely. Two separate peaks shrink towards zero, widen, overlap, and become one bell curve."}} tags=["hide-input"]
n, x, generator = 20_000, mixture.draw(20_000, generator=seeded(9)), seeded(10)
snapshots = {0: x}
for t in range(1, process.T + 1):
    x = process.q_step(x, t, torch.randn(n, generator=generator, **double))
    if t in (100, 250, 1000):
        snapshots[t] = x


def mixture_cdf(x, t):
    """The distribution function that belongs to (1.10)."""
    scale, std = process.kernel(t, mixture.means)
    spread = (scale**2 * mixture.variances + std**2).sqrt().numpy()
    centres = scale * mixture.means[:, 0].numpy()
    weights = mixture.log_weights.exp().numpy()
    return (weights * stats.norm.cdf(x[:, None], centres, spread)).sum(1)


fig, axes = plt.subplots(1, 4, figsize=(7.5, 2.2), sharex=True)
gaps = []
for ax, (t, x) in zip(axes, snapshots.items(), strict=True):
    _ = ax.hist(
        x.numpy(),
        bins=60,
        range=(-3, 3),
        density=True,
        histtype="stepfilled",
        color=plots.SKY,
    )
    _ = ax.plot(line, mixture.log_prob(line, t).exp(), color="black", lw=1)
    ax.set(title=f"$t = {t}$", xlabel="$x_t$")
    gaps.append(stats.kstest(x.numpy(), lambda x, t=t: mixture_cdf(x, t)).statistic)
_ = axes[0].set_ylabel("density")

assert abs(max(gaps) - 0.0078) < 5e-5
assert max(gaps) < 1.63 / math.sqrt(n) < 0.0116  # the 1 % point of the test

# %% [markdown]
# **Fig. 1.7.** (1.10) is the density of simulated data. Bars: 20,000 draws from the mixture of Fig.
# 1.5, simulated step by step. Lines: (1.10). The largest gap between the two distribution functions
# at the four times is 0.0078; at each time the gap of a correct formula exceeds 0.0115 by chance in
# one of a hundred samples.

# %% mystnb={"image": {"alt": "Four scatter plots of 300 points of a spiral at t = 0, 50, 150 and 1000. At 50 the arm of the spiral is thick and grainy, at 150 its turns have run into each other and leave a lopsided cloud, at 1000 the cloud is round."}} tags=["hide-input"]
spiral = data.spiral(300, generator=seeded(11))
eps = torch.randn(spiral.shape, generator=seeded(12))
fig, axes = plt.subplots(1, 4, figsize=(7.5, 2.3), sharex=True, sharey=True)
for ax, t in zip(axes, [0, 50, 150, 1000], strict=True):
    _ = plots.scatter(process.q_sample(spiral, t, eps), ax=ax, reach=3, s=5)
    ax.set(title=f"$t = {t}$", ylabel="$x_2$" if t == 0 else "")

between, across = 1.2, float((spiral.amax(0) - spiral.amin(0)).max())
noise_ratio = (process.std / process.scale)[[50, 150]]  # relative to unshrunk data
deviations = [round(float(between / r), 1) for r in noise_ratio]
assert deviations == [6.9, 2.3] and 2.5 < across / between < 3

# %% [markdown]
# **Fig. 1.8.** Fine structure is lost before coarse structure, here on points in the plane.
# Neighbouring turns of the spiral are 1.2 apart. At $t = 50$ that is 6.9 standard deviations of the
# (equally rescaled) noise, and the turns can be told apart; at $t = 150$ it is 2.3, and they merge.
# The whole spiral is almost three times as wide, and its coarse shape survives longer. For images
# the same order becomes a statement about frequencies,
# [below](#in-frequencies-details-are-lost-first).

# %% [markdown]
# ## Extremes, and how long forgetting takes
#
# What do the largest and the smallest possible $\beta$ do?
#
# - $\beta_t = 0$ for all $t$: then $\bar\alpha_t = 1$ and $x_t = x_0$. Nothing changes.
# - $\beta_1 = 1$: then $\bar\alpha_1 = 0$ and $x_1 = \varepsilon_1$. One step removes all data.
#
# Then why take a thousand steps? Because the process must be *reversed*. After the single step with
# $\beta_1 = 1$, $x_1$ says nothing about $x_0$, so that the reverse step $q(x_0 \mid x_1) = q(x_0)$
# is the problem from which we started. If $\beta_t$ is small, $x_{t-1}$ is close to $x_t$, and the
# reverse step is a small, nearly Gaussian correction ([chapter 2](02_reverse.ipynb)). Small steps
# make each reverse step easy; their number makes sampling slow.
#
# How many steps of size $\beta$ does it take? Since $\log(1-\beta) \le -\beta$ (the logarithm lies
# below its tangent),
#
# $$
# \bar\alpha_t = \exp\Big(\sum_{i=1}^{t} \log(1-\beta_i)\Big)
# \ \le\ \exp\Big(-\sum_{i=1}^{t} \beta_i\Big),
# \tag{1.11}
# $$
#
# with near equality when the $\beta_i$ are small. To bring the remaining signal $\bar\alpha_t$ down
# to $\delta$ it is *enough* that $\beta_1 + \dots + \beta_t \ge \log(1/\delta)$. For constant
# $\beta$ the exact number is the first integer $t \ge \log\delta / \log(1-\beta)$:

# %% tags=["hide-input"]
deltas, rows = (1e-1, 1e-2, 1e-4), []
for constant in (0.999, 0.5, 0.1, 0.02, 0.001):
    log_left = math.log1p(-constant)
    steps = [math.ceil(math.log(delta) / log_left) for delta in deltas]
    for t, delta in zip(steps, deltas, strict=True):
        assert (1 - constant) ** t <= delta < (1 - constant) ** (t - 1)
    rows.append((constant, *(f"{t:,}" for t in steps)))
head = ("constant β", "steps until ᾱ ≤ 0.1", "until ᾱ ≤ 0.01", "until ᾱ ≤ 0.0001")
Markdown(markdown(head, rows))

# %% [markdown]
# ### Signal to noise, and two schedules
#
# In (1.6) the signal has the factor $\sqrt{\bar\alpha_t}$ and the noise $\sqrt{1-\bar\alpha_t}$.
# The ratio of their powers is the **signal-to-noise ratio**, SNR. It runs over many powers of ten,
# so one looks at its natural logarithm:
#
# $$
# \operatorname{SNR}_t = \frac{\bar\alpha_t}{1-\bar\alpha_t}, \qquad
# \log\operatorname{SNR}_t = \log\bar\alpha_t - \log(1-\bar\alpha_t).
# \tag{1.12}
# $$
#
# (This is the ratio for data of unit power per coordinate.) At $\log\operatorname{SNR} = 0$ the two
# have equal weight. A *schedule* is a choice of the $\beta_t$. Ho et al. {cite}`ho2020denoising`
# let them grow on a straight line,
#
# $$
# \beta_t = \beta_1 + \frac{t-1}{T-1}\,(\beta_T - \beta_1),
# \tag{1.13}
# $$
#
# with $\beta_1 = 10^{-4}$ and $\beta_T = 0.02$ for $T = 1000$. Nichol & Dhariwal
# {cite}`nichol2021improved` prescribe $\bar\alpha_t$ itself,
#
# $$
# \bar\alpha_t = \frac{f(t)}{f(0)}, \qquad
# f(t) = \cos^2\!\left(\frac{t/T + s}{1+s}\cdot\frac{\pi}{2}\right), \quad s = 0.008,
# \tag{1.14}
# $$
#
# from which $\beta_t = 1 - \bar\alpha_t/\bar\alpha_{t-1}$. As $f(T) = 0$ this would end with
# $\beta_T = 1$; they clip $\beta_t$ at $0.999$. [Chapter 5](05_schedules.ipynb) compares schedules
# by what they do to samples; here we only learn to read them.

# %% mystnb={"image": {"alt": "Left: the signal that is left over time. Linear falls fast and is near zero from t = 600 on, cosine falls in a gentle S over the whole range. Right: log-SNR over time from plus 9 down to minus 10 for linear; cosine stays above it nearly everywhere and is near minus 6 at t = 970 before it drops steeply."}} tags=["hide-input"]
fig, (left, right) = plt.subplots(1, 2, figsize=(7.5, 2.7))
reading = {}
for p, name in [(process, "linear"), (cosine, "cosine")]:
    snr_curve = schedules.log_snr(p.alpha_bar)
    _ = left.plot(range(p.T + 1), p.alpha_bar, label=name)
    _ = right.plot(range(1, p.T + 1), snr_curve[1:], label=name)
    last_equal = int((snr_curve >= 0).sum()) - 1
    middle = int((p.alpha_bar >= 0.1).sum() - (p.alpha_bar >= 0.9).sum())
    late = round(100 * float((p.alpha_bar < 0.01).double().mean()))
    reading[name] = (last_equal, middle, late)
left.set(xlabel="time $t$", ylabel=r"signal left, $\bar\alpha_t$")
right.set(xlabel="time $t$", ylabel=r"$\log\,\mathrm{SNR}_t$", ylim=(-12, 12))
_ = right.axhline(0, color=plots.GREY, lw=0.8)
_ = left.legend()
assert reading == {"linear": (259, 377, 33), "cosine": (496, 595, 6)}

# %% [markdown]
# **Fig. 1.9.** The cosine schedule spreads the loss of signal over more steps than the linear one.
# Left: from $\bar\alpha_t = 0.9$ to $0.1$ the linear schedule takes 377 steps, cosine 595; at 33 %
# of the times of the linear schedule, and 6 % of cosine's, less than 1 % of the signal's power is
# left. Right: noise outweighs signal after $t = 259$ and $t = 496$. How little is left at the very
# end shows in Fig. 1.13.

# %% [markdown]
# ## In frequencies: details are lost first
#
# White noise has the same power (mean square) at every frequency of an image. Images do not: nearly
# all of their power sits in low frequencies. So noise hides the details before it touches the
# coarse layout.
#
# Let $F$ be the discrete Fourier transform with the normalisation that makes it unitary,
# $F F^* = I$ (`norm="ortho"`), and write $\hat x(f)$ for the component of $Fx$ at frequency $f$.
# The transform is linear, so (1.6) holds for each component:
#
# $$
# \hat x_t(f) = \sqrt{\bar\alpha_t}\,\hat x_0(f) + \sqrt{1-\bar\alpha_t}\,\hat\varepsilon(f).
# $$
#
# $\hat\varepsilon(f)$ is one entry of $F\varepsilon$, whose covariance is $F I F^* = I$. So
# $\operatorname{E}|\hat\varepsilon(f)|^2 = 1$ at *every* frequency: this is what "white" means. The
# cross term $\operatorname{E}[\hat x_0(f)\,\overline{\hat\varepsilon(f)}]$ is zero, because
# $\varepsilon$ is independent of $x_0$ and has mean zero. With
# $S(f) = \operatorname{E}|\hat x_0(f)|^2$, the power spectrum of the data,
#
# $$
# \operatorname{E}|\hat x_t(f)|^2 = \bar\alpha_t\, S(f) + (1-\bar\alpha_t), \qquad
# \operatorname{SNR}_t(f) = \operatorname{SNR}_t \cdot S(f).
# \tag{1.15}
# $$
#
# We call a frequency *visible* while $\operatorname{SNR}_t(f) > 1$, that is while $S(f)$ lies above
# the noise level $1/\operatorname{SNR}_t$, which rises with $t$. The spectra of photographs follow
# approximately a power law, $S(f) \approx C f^{-\gamma}$ with $\gamma$ around 2
# {cite}`field1987relations`. *If* it holds, the level reaches frequency $f_t$ when
# $\operatorname{SNR}_t \cdot C f_t^{-\gamma} = 1$:
#
# $$
# f_t = \left(C \cdot \operatorname{SNR}_t\right)^{1/\gamma}.
# \tag{1.16}
# $$
#
# So the highest visible frequency falls by half whenever $\log\operatorname{SNR}$ falls by
# $\gamma\log 2$, about 1.4. Does this hold for pictures? Digits of 8×8 pixels have only four
# frequencies to speak of, so we first take two photographs that come with scikit-learn. We measure
# $S(f)$ on a square of 427×427 pixels (grey values in $[-1, 1]$, mean removed, under a Hann window,
# which keeps out the jump at the border), average over all directions and both photographs, and fit
# a straight line to the logarithms between 4 and 150 cycles per image.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Left: power over frequency, both logarithmic. The spectra of two photographs and of their average fall along a straight dashed line of slope minus 1.9; five horizontal lines are the noise levels at t = 10, 50, 200, 400 and 700, each higher than the one before and crossing the spectrum at a lower frequency. Right: the highest visible frequency over time falls from 200 to 1 for both schedules, cosine above linear; dashed predictions lie close to the measured lines."}}
from sklearn.datasets import load_sample_images

photos = [i[:, 106:533].mean(axis=2) / 127.5 - 1 for i in load_sample_images().images]
side = len(photos[0])
axis = np.fft.fftfreq(side, 1 / side)
cycles = np.hypot(*np.meshgrid(axis, axis))
bands = np.rint(cycles).astype(int)
frequency = np.arange(1, side // 2 + 1)
window = np.outer(np.hanning(side), np.hanning(side))
window /= np.sqrt((window**2).mean())


def spectrum(image):
    """Mean power over directions for 1, 2, ... cycles; that of white noise is 1."""
    power = np.abs(np.fft.fft2((image - image.mean()) * window, norm="ortho")) ** 2
    sums = np.bincount(bands.ravel(), power.ravel())
    return (sums / np.bincount(bands.ravel()))[frequency]


def cutoff(snr):
    """The highest frequency up to which the spectrum exceeds the noise; 0 if none."""
    above = average * snr > 1
    return int(frequency[-1] if above.all() else np.argmin(above))


def exponent(power):
    fit = (frequency >= 4) & (frequency <= 150)
    slope, intercept = np.polyfit(np.log(frequency[fit]), np.log(power[fit]), 1)
    return -slope, math.exp(intercept)


spectra = [spectrum(photo) for photo in photos]
average = np.mean(spectra, axis=0)
gamma, C = exponent(average)
law = C * frequency**-gamma

fig, (left, right) = plt.subplots(1, 2, figsize=(7.5, 3.2))
for s, name, colour in zip(
    spectra, ["temple", "flower"], [plots.SKY, plots.ORANGE], strict=True
):
    _ = left.loglog(frequency, s, lw=0.9, color=colour, label=name)
_ = left.loglog(frequency, average, color="black", lw=1.2, label="average")
fitted = rf"$\propto f^{{-{gamma:.2f}}}$"
_ = left.loglog(frequency, law, "--", color=plots.RED, label=fitted)
for t in (10, 50, 200, 400, 700):
    level = float((1 - process.alpha_bar[t]) / process.alpha_bar[t])
    _ = left.axhline(level, color=plots.GREY, lw=0.7)
    _ = left.text(230, level, f"$t={t}$", va="center")
left.set(xlabel="frequency (cycles per image)", ylabel="power")
left.set(ylim=(5e-4, 1e4), xlim=(1, 220))
_ = left.legend(loc="lower left")
errors = []
for p, name, colour in [
    (process, "linear", plots.BLUE),
    (cosine, "cosine", plots.GREEN),
]:
    snr = (p.alpha_bar / (1 - p.alpha_bar))[1:].numpy()
    cuts = np.array([cutoff(s) for s in snr])
    predicted = (C * snr) ** (1 / gamma)
    inside = (cuts >= 4) & (cuts <= 150)
    errors += list(np.abs(np.log(predicted[inside] / cuts[inside])))
    t_axis = np.arange(1, 1001)
    seen = cuts > 0
    _ = right.semilogy(t_axis[seen], cuts[seen], c=colour, label=f"{name}, measured")
    _ = right.semilogy(t_axis, predicted, "--", lw=1, c=colour, label="(1.16)")
right.set(xlabel="time $t$", ylabel="highest visible frequency $f_t$", ylim=(0.8, 300))
_ = right.legend()

low = [(np.abs(np.fft.fft2(p - p.mean())) ** 2)[cycles <= 20].sum() for p in photos]
total = [(np.abs(np.fft.fft2(p - p.mean())) ** 2).sum() for p in photos]
assert min(a / b for a, b in zip(low, total, strict=True)) > 0.88
assert (cycles <= 20).mean() < 0.007
assert [round(exponent(s)[0], 2) for s in [average, *spectra]] == [1.93, 1.76, 2.21]
assert round(math.exp(max(errors)), 2) == 1.36
assert (average / law)[0] > 6 and (average / law)[-1] < 0.52

# %% [markdown]
# **Fig. 1.10.** The noise hides the high frequencies of photographs first, as the power law says.
# In each of the two photographs more than 88 % of the power lies in the 0.7 % of the components
# with at most 20 cycles per image. Left: spectra, the fit ($\gamma = 1.93$ for the average, 1.76
# and 2.21 for the two photographs) and the noise levels at five times of the linear schedule.
# Right: the highest visible frequency, where level and spectrum cross, measured (solid) and by
# (1.16) (dashed). As long as $4 \le f_t \le 150$, the range of the fit, (1.16) is right within a
# factor of 1.36. Outside it is not: at one cycle per image the power is six times that of the power
# law, at 213 cycles half of it. Other photographs have other exponents.
#
# What does a picture look like whose high frequencies are hidden?

# %% mystnb={"image": {"alt": "Two rows of three pictures of a part of a Chinese temple at t = 0, 200 and 400. Above, noise grows: at 200 the edges of the roofs are barely visible, at 400 nothing is. Below, the clean picture gets blurrier: at 200 the ornaments are gone and the roofs are dark bands, at 400 soft blobs are left."}} tags=["hide-input"]
photo = torch.from_numpy(photos[0])
eps = torch.randn(photo.shape, generator=seeded(13), **double)
fig, axes = plt.subplots(2, 3, figsize=(7.5, 5.2))
shown = {}
for column, t in zip(axes.T, (0, 200, 400), strict=True):
    snr = process.alpha_bar[t] / (1 - process.alpha_bar[t])
    shown[t] = cutoff(float(snr)) if t else side
    kept = np.where(cycles <= shown[t], np.fft.fft2(photos[0]), 0)
    both = process.q_sample(photo, t, eps), np.fft.ifft2(kept).real
    for ax, picture in zip(column, both, strict=True):
        crop = np.asarray(picture)[100:180, 95:175]
        crop = np.round(8 * crop) / 8  # 17 greys keep the page small
        _ = ax.imshow(crop, vmin=-1, vmax=1, interpolation="nearest")
        ax.set_axis_off()
    column[0].set_title(f"$t = {t}$")
    column[1].set_title(f"$f \\leq {shown[t]}$" if t else "all $f$")
assert (shown[200], shown[400]) == (34, 11)

# %% [markdown]
# **Fig. 1.11.** What (1.15) leaves visible at $t = 200$ and $t = 400$. Above: 80×80 pixels of the
# noisy photograph. Below: the clean one without the frequencies beyond $f_t$, 34 and 11 cycles per
# image.
#
# You may still see more in the upper row than in the lower one: (1.15) compares a *single*
# component with its noise, and along the edge of a roof the eye combines many.
#
# At small $t$ only details are uncertain, at large $t$ the content is: the **content–detail
# trade-off**. A model that goes back from noise must decide first what the picture shows and last
# how sharp its edges are. The digits let us measure both. For *detail* we take the time at which
# each frequency of the digits is hidden, by (1.15). For *content* we ask how often the label can
# still be told from $x_t$. If the training images were the whole distribution, Bayes' rule with
# (1.6) would be the best answer: $p(y \mid x_t) \propto$ the average of
# $\mathcal N(x_t; \sqrt{\bar\alpha_t}\,x^{(i)}, (1-\bar\alpha_t) I)$ over the training images
# $x^{(i)}$ of class $y$. We apply it to noisy *test* images.

# %% mystnb={"image": {"alt": "Two panels, linear and cosine, with the share of correctly told labels over time, dots with error bars. The share stays near one while vertical lines mark how frequencies 4, 3 and 2 are hidden, then falls to one in ten. For linear the fall lies between t = 200 and 600, for cosine between 400 and 900."}} tags=["hide-input"]
centred = (x_train[:, 0] - x_train[:, 0].mean(0)).numpy()
power = (np.abs(np.fft.fft2(centred, norm="ortho")) ** 2).mean(0)
axis_8 = np.fft.fftfreq(8, 1 / 8)
bands_8 = np.rint(np.hypot(*np.meshgrid(axis_8, axis_8)))
S_digits = {f: float(power[bands_8 == f].mean()) for f in (4, 3, 2, 1)}
member = torch.nn.functional.one_hot(digits.y_train, 10).float()


def share_right(p, t, repeats=5):
    """How often the most probable label of a noisy test image is the right one."""
    right = []
    for r in range(repeats):
        eps = torch.randn(x_test.shape, generator=seeded(100 + r))
        x_t = p.q_sample(x_test, t, eps).flatten(1)
        scale, std = p.kernel(t, x_t)
        distance = torch.cdist(x_t, scale * x_train.flatten(1))
        each = torch.softmax(-(distance**2) / (2 * std**2), dim=1)
        posterior = each @ (member / member.sum(0))
        right.append((posterior.argmax(1) == digits.y_test).float().mean())
    return float(torch.stack(right).mean())


fig, axes = plt.subplots(1, 2, figsize=(7.5, 2.8), sharey=True)
grid_t, hidden = [1, *range(50, 1001, 50)], {}
for ax, p, name in [(axes[0], process, "linear"), (axes[1], cosine, "cosine")]:
    share = np.array([share_right(p, t) for t in grid_t])
    error = 1.96 * np.sqrt(share * (1 - share) / len(x_test))
    _ = ax.errorbar(grid_t, share, error, fmt=".-", capsize=2, lw=1)
    snr = p.alpha_bar / (1 - p.alpha_bar)
    hidden[name] = [int((snr * s > 1).sum()) for s in S_digits.values()]
    for f, t in zip(S_digits, hidden[name], strict=True):
        _ = ax.axvline(t, color=plots.RED, lw=0.8, ls="--")
        x, place = (t - 6, "right") if f > 1 else (t + 6, "left")
        _ = ax.text(x, 1.04, f"{f}", color=plots.RED, ha=place)
    _ = ax.axhline(0.1, color=plots.GREY, lw=0.8)
    ax.set(xlabel="time $t$", xlim=(0, 1000), ylim=(0, 1.16), title=name)
    told = dict(zip(grid_t, share.tolist(), strict=True))
    if name == "linear":
        caption = {100: 0.98, 300: 0.71, 600: 0.19}
        assert all(abs(told[t] - share) < 0.01 for t, share in caption.items())
    few = min(t for t in grid_t if told[t] < 0.2)
    assert few == {"linear": 600, "cosine": 900}[name]
    one_visible, none_visible = (share_right(p, t) for t in hidden[name][2:])
    assert abs(one_visible - 0.91) < 0.01 and abs(none_visible - 0.87) < 0.01
_ = axes[0].set_ylabel("labels told correctly")
assert hidden == {"linear": [92, 143, 206, 230], "cosine": [185, 284, 402, 445]}
# The same SNR gives the same answer: t = 259 and 496, t = 456 and 773.
for t_linear, t_cosine in [(259, 496), (456, 773)]:
    assert abs(share_right(process, t_linear) - share_right(cosine, t_cosine)) < 0.01

# %% [markdown]
# **Fig. 1.12.** The label outlives the details. Blue: the share of labels told correctly (bars: 95
# % intervals for 355 test images; grey: guessing). Red: the times at which the frequencies 4, 3, 2
# and 1 (cycles per image) are hidden, $t = 92, 143, 206, 230$ for the linear schedule and
# $185, 284, 402, 445$ for cosine. When only frequency 1 is visible, 91 % of the labels are still
# told; when it is hidden too, 87 %. A label, like the edge of the roof, is read from many
# components together.
#
# The two panels show one curve on two time axes, because $x_t/\sqrt{\bar\alpha_t} = x_0 +
# \varepsilon/\sqrt{\operatorname{SNR}_t}$ depends on $t$ through the SNR alone. The schedule only
# decides how many steps each part of the curve gets: fewer than 20 % of the labels can be told from
# $t = 600$ on with the linear schedule, for two fifths of its steps, and from $t = 900$ on with
# cosine, for a tenth.

# %% [markdown]
# ## How many steps, and what is left at the end?
#
# A sampler cannot start from $q(x_T)$, which it does not know; it starts from $\mathcal N(0, I)$.
# How much does this cost? The natural measure is the Kullback–Leibler divergence
# $\mathrm{KL}(q(x_T) \,\|\, \mathcal N(0, I)) = \operatorname{E}_{q}[\log q(x_T) -
# \log \mathcal N(x_T; 0, I)]$. It is given in *nats* (natural logarithms). With perfect reverse
# steps the samples are at most this far from the data, because the same random steps never move two
# distributions apart (the data-processing inequality).
#
# **For Gaussian data it is exact.** Let $q(x_0) = \mathcal N(\mu, \Sigma)$ in $D$ dimensions, let
# $\lambda_1, \dots, \lambda_D$ be the eigenvalues of $\Sigma$, and
# $v_i = 1 + \bar\alpha_t(\lambda_i - 1)$ those of the covariance of $x_t$, by (1.3). Then
#
# $$
# \mathrm{KL}\!\left(q(x_t) \,\|\, \mathcal N(0, I)\right) = \frac12 \sum_{i=1}^{D}
# \left(v_i - 1 - \log v_i\right) + \frac12\,\bar\alpha_t \lVert\mu\rVert^2 .
# \tag{1.17}
# $$
#
# :::{dropdown} Proof of (1.17)
# One coordinate first, $x \sim \mathcal N(m, v)$: with $\operatorname{E}[(x-m)^2] = v$ and
# $\operatorname{E}[x^2] = v + m^2$,
#
# $$
# \mathrm{KL} = \operatorname{E}\!\left[-\tfrac12\log v - \tfrac{(x-m)^2}{2v} + \tfrac{x^2}{2}\right]
# = \tfrac12\left(v + m^2 - 1 - \log v\right).
# $$
#
# In $D$ dimensions turn the coordinates into the eigenvectors of $\Sigma$. $\mathcal N(0, I)$ does
# not change under rotation, the coordinates of $x_t$ become independent, and KL adds up over
# independent coordinates. By (1.3) the squared means sum to $\bar\alpha_t \lVert\mu\rVert^2$.
# $\blacksquare$
# :::
#
# **For any data (1.17) is a lower bound,** if $\mu$ and $\Sigma$ are the mean and covariance of
# these data.
#
# :::{dropdown} Proof that (1.17) is a lower bound
# Let $g$ be the Gaussian with the mean and covariance of $x_t$. Then
#
# $$
# \begin{aligned}
# \mathrm{KL}(q \,\|\, \mathcal N) &= \operatorname{E}_q\!\left[\log\frac{q}{g}\right]
# + \operatorname{E}_q\!\left[\log\frac{g}{\mathcal N}\right] \\
# &= \mathrm{KL}(q \,\|\, g) + \mathrm{KL}(g \,\|\, \mathcal N)
# \ \ge\ \mathrm{KL}(g \,\|\, \mathcal N).
# \end{aligned}
# $$
#
# The second line holds because $\log(g/\mathcal N)$ is a quadratic polynomial, whose mean depends
# on the first two moments only, and $q$ and $g$ share them. $\blacksquare$
# :::
#
# **An upper bound** comes from the kernel. With the mutual information
# $\mathrm{I}(x_0; x_t) = \operatorname{E}\log\frac{q(x_0, x_t)}{q(x_0)\,q(x_t)} \ge 0$,
#
# \begin{align*}
# \mathrm{KL}\!\left(q(x_t) \,\|\, \mathcal N(0, I)\right) &= L - \mathrm{I}(x_0; x_t) \ \le\ L, \\
# L &= \operatorname{E}_{x_0}\mathrm{KL}\!\left(q(x_t \mid x_0) \,\|\, \mathcal N(0, I)\right) \\
# &= \tfrac12\left[\bar\alpha_t \operatorname{E}\lVert x_0\rVert^2 - D\bar\alpha_t
#   - D\log(1-\bar\alpha_t)\right] .
# \tag{1.18}
# \end{align*}
#
# :::{dropdown} Proof of (1.18)
# Write $\log\frac{q(x_t)}{\mathcal N(x_t)} = \log\frac{q(x_t \mid x_0)}{\mathcal N(x_t)} -
# \log\frac{q(x_t \mid x_0)}{q(x_t)}$ and take the mean over $x_0$ and $x_t$. The last term becomes
# the mutual information; it is a KL divergence, so it is not negative. The formula for $L$ is the
# KL of one coordinate in the proof of (1.17), with $v = 1 - \bar\alpha_t$ and $m$ a coordinate of
# $\sqrt{\bar\alpha_t}\,x_0$, summed over the coordinates. $\blacksquare$
# :::
#
# At $t = T$, $L$ will return in [chapter 4](04_elbo.ipynb) as $L_T$, a part of the training
# objective that no network can change. It bounds *both* the distance from noise and the information
# that $x_t$ still holds about $x_0$. If $L$ is small, the data are forgotten.
#
# :::{admonition} Common misprint: $q(x_T \mid x_0)$ is deterministic
# :class: warning
# Deck 002 says so. By (1.6), $q(x_T \mid x_0)$ is a Gaussian with variance $1-\bar\alpha_T$, nearly
# 1: of all kernels $q(x_t\mid x_0)$ of the chain it is the *most* random one. It is *fixed*,
# however: it has no parameters to learn, so that training does not change $L_T$.
# :::
#
# Now vary the number of steps $T$. Three ways to choose the schedule for another $T$: keep the end
# points $10^{-4}$ and $0.02$ of the linear schedule; rescale them by $1000/T$, so that their sum
# stays (the default of `schedules.linear`); or cosine.

# %% mystnb={"image": {"alt": "Divergence from pure noise in nats against the number of steps T, both logarithmic, as narrow bands between lower and upper bound. Linear with fixed end points falls from about 20 nats at T = 50 to below one ten-millionth at T = 2000. Linear with rescaled end points stays flat below one thousandth. Cosine falls steadily from ten to the minus 5 to ten to the minus 8."}} tags=["hide-input"]
power_of_data, D = float((flat**2).sum(1).mean()), flat.shape[1]


def bounds(beta):
    """ᾱ_T, and (1.17) and (1.18), between which the KL of the digits' x_T lies."""
    p = DDPM(beta)
    left = float(p.alpha_bar[-1])
    upper = 0.5 * (left * power_of_data - D * left - D * math.log1p(-left))
    return left, oracle.Gaussian(p, mean, cov).kl_to_prior(p.T), upper


def short(value):
    """Two digits, small numbers with a power of ten."""
    digits_, power = f"{value:.1e}".split("e")
    small = rf"${digits_}\cdot10^{{{int(power)}}}$"
    return f"{value:.2g}" if value > 0.004 else small


choices = {
    "linear, fixed ends": lambda T: schedules.linear(T, 1e-4, 0.02),
    "linear, rescaled": schedules.linear,
    "cosine": schedules.cosine,
}
fig, ax = plt.subplots(figsize=(7.5, 3.0))
rows, found, grid_T = [], {}, [50, 100, 250, 500, 1000, 2000]
for (name, schedule), colour in zip(choices.items(), plots.COLOURS, strict=False):
    found |= {(name, T): bounds(schedule(T)) for T in grid_T}
    left, low, high = np.array([found[name, T] for T in grid_T]).T
    assert (low <= high).all() and (high < 2 * low).all()
    _ = ax.fill_between(grid_T, low, high, color=colour, alpha=0.3, lw=0)
    _ = ax.loglog(grid_T, high, ".-", color=colour, label=name)
    for T in (250, 500, 1000):
        left, low, high = found[name, T]
        amplitude = f"{100 * left**0.5:.2g}\N{NO-BREAK SPACE}%"
        rows.append((name, T, short(left), amplitude, short(low), short(high)))
ax.set(xlabel="number of steps $T$", ylabel="KL from noise (nats)")
ax.set_xticks(grid_T, labels=grid_T)
ax.minorticks_off()
_ = ax.legend()

signal = found["linear, fixed ends", 250][0] ** 0.5
assert round(signal, 2) == 0.28 and round(float(mean.mean()), 2) == -0.39
assert round(float(signal * mean.mean()), 2) == -0.11
rescaled = [found["linear, rescaled", T] for T in grid_T if T >= 100]
assert all(2e-5 < left < 4.3e-5 for left, *_ in rescaled)
assert all(found[name, 1000][2] < 1e-3 for name in choices)
assert float(process.std.max()) == float(process.std[-1]) > 0.9999
head = ("schedule", "T", "ᾱ_T", "√ᾱ_T", "KL ≥, (1.17)", "KL ≤, (1.18)")
Markdown(markdown(head, rows))

# %% [markdown]
# **Fig. 1.13.** With fewer steps and fixed end points the chain ends too early; with rescaled end
# points or cosine it does not. The bands run from (1.17) to (1.18), for the digits; they are exact
# numbers, not estimates, and less than a factor of two wide.
#
# - *Fixed end points.* At $T = 250$ the last $x_T$ still holds $\sqrt{\bar\alpha_T} = 28\,\%$ of
#   the image's amplitude: the mean grey of a digit, $-0.39$, is still visible as $-0.11$ in the
#   "noise". A sampler that starts from $\mathcal N(0, I)$ starts from the wrong distribution, and
#   training, which only ever sees the $x_T$ of the process, does not correct it. At $T = 500$ the
#   end still holds 8 % of the amplitude. Whoever compares $T = 500, 1000, 2000$ with these end
#   points compares three processes of which the first has not finished.
# - *Rescaled end points.* $\bar\alpha_T$ lies between 2 and $4.3\cdot10^{-5}$ for each $T$ from 100
#   to 2000: the sum in (1.11) is fixed, and for small steps the bound is nearly the value. $T$ then
#   changes the *size of a step* and little else.
# - *At $T = 1000$* the divergence is below $10^{-3}$ nats for 64 pixels with all three. What is
#   forgotten last is what all images share, their mean: the term with $\mu$ in (1.17) is nearly the
#   whole bound there, $5.5\cdot10^{-4}$ nats for the linear schedule, and it grows with the number
#   of pixels. Lin et al. {cite}`lin2024common` trace the medium brightness of many generated
#   pictures to such a remainder.

# %% [markdown]
# ## What goes wrong: four errors without a message
#
# Four ways to get the ten lines wrong. None raises an error, and all of them draw something that
# looks like noise being added.
#
# 1. **The bar is dropped:** $\sqrt{1-\alpha_t}$ where $\sqrt{1-\bar\alpha_t}$ belongs, `alpha[t]`
#    for `alpha_bar[t]`. (Algorithm 2 of deck 004, as extracted from its file, has this slip.)
# 2. **The root is missing:** the variance $1-\bar\alpha_t$ is used as a standard deviation, as in
#    a [noise transform of optax](https://github.com/google-deepmind/optax/issues/281).
# 3. **Off by one:** the table starts at $\bar\alpha_1$, but is read at index $t$, as in
#    a [scheduler of diffusers](https://github.com/huggingface/diffusers/issues/465) that disagreed
#    with another one.
# 4. **Data in $[0, 1]$** and not in $[-1, 1]$; users of a training library [ask
#    which](https://github.com/lucidrains/denoising-diffusion-pytorch/issues/80). The process is
#    right; its input is not.
#
# What they do to samples is shown in the [museum of bugs](A_museum_of_bugs.ipynb).

# %% mystnb={"image": {"alt": "Five rows of the same digit at six times. Row one, correct: the digit is covered by noise. Row two, bar dropped: it fades to flat grey, with little noise. Row three, root missing: slightly less grain in the middle columns. Row four, off by one: no visible difference from row one. Row five, data in 0 to 1: grey in place of black background at t = 0."}} tags=["hide-input"]
scale, alpha_bars = process.scale, process.alpha_bar


def correct(x0, t, eps):
    return process.q_sample(x0, t, eps)


def bar_dropped(x0, t, eps):
    return scale[t] * x0 + (1 - process.alpha[t]).sqrt() * eps


def root_missing(x0, t, eps):
    return scale[t] * x0 + (1 - alpha_bars[t]) * eps


def off_by_one(x0, t, eps):
    table = alpha_bars[1:]
    i = min(t, len(table) - 1)
    return table[i].sqrt() * x0 + (1 - table[i]).sqrt() * eps


def data_in_0_1(x0, t, eps):
    return process.q_sample((x0 + 1) / 2, t, eps)


versions = {
    "correct": correct,
    "bar dropped": bar_dropped,
    "root missing": root_missing,
    "off by one": off_by_one,
    "data in [0, 1]": data_in_0_1,
}
digit, eps = typical(3)[None], torch.randn(1, 1, 8, 8, generator=seeded(14))
times = [0, 20, 50, 100, 200, 300, 400, 600, 800, 1000]
tiles = [version(digit, t, eps) for version in versions.values() for t in times]
labelled_grid(torch.cat(tiles).float(), times, versions)

# %% [markdown]
# **Fig. 1.14.** Some of the errors cannot be seen. Without the bar the digit fades to grey instead
# of disappearing in noise. Without the root there is a little less noise in the middle of the
# chain. The shift by one cannot be told from the correct row, and the wrong range shows in the
# background of the first pictures only.
#
# So test instead of looking. Each check is one line of theory from this chapter, applied to the two
# coefficients of a version, which we read off by feeding it $x_0 = 1, \varepsilon = 0$ and the
# other way round:

# %%
one, zero = torch.ones(1, **double), torch.zeros(1, **double)


def coefficients(version, t):
    offset = version(zero, t, zero)
    on_x0 = version(one, t, zero) - offset
    on_eps = version(zero, t, one) - offset
    return float(on_x0), float(on_eps)


def violations(version):
    clean = abs(float(version(0.3 * one, 0, one)) - 0.3)
    on_x0, on_eps = coefficients(version, 1)
    first_step = max(
        abs(on_x0 - process.alpha[1].sqrt()),
        abs(on_eps - process.beta[1].sqrt()),
    )
    pairs = [coefficients(version, t) for t in range(1001)]
    unit_variance = max(abs(a**2 + b**2 - 1) for a, b in pairs)
    return clean, float(first_step), unit_variance


# %% tags=["hide-input"]
found = {name: violations(version) for name, version in versions.items()}
caught = {name: [off > 1e-9 for off in offs] for name, offs in found.items()}
assert list(caught.values()) == [
    [False, False, False],
    [False, False, True],
    [False, True, True],
    [True, True, False],
    [True, True, True],
]
marked = {
    name: [f"**{off:.4f}**" if off > 1e-9 else "0" for off in offs]
    for name, offs in found.items()
}
checks = ("t = 0 is clean", "t = 1 is one step (1.2)", "variance 1 stays 1 (1.3)")
Markdown(markdown(("version", *checks), [(name, *c) for name, c in marked.items()]))

# %% [markdown]
# The numbers say by how much a check is violated; bold means caught. **No single check catches all
# four.** That unit variance is preserved does not exclude the shift by one, because every
# $\bar\alpha$ preserves it. The dropped bar passes at $t = 1$, where $\alpha_1 = \bar\alpha_1$. The
# same versions are in `tests/derivations/test_ch01.py::test_wrong_kernels_are_caught`. Against the
# fourth error `data.to_float` takes `uint8` images only and maps them to $[-1, 1]$, so that data
# cannot be scaled twice (`tests/derivations/test_ch01.py::test_images_are_scaled_exactly_once`).
#
# A fifth error comes with the number format. At the beginning of the chain $\bar\alpha_t$ is so
# close to 1 that $1-\bar\alpha_t$ loses its digits; a scheduler of diffusers [added no
# noise](https://github.com/huggingface/diffusers/pull/9004) at its first step. This happens to a
# cosine schedule of a thousand steps whose table is computed in shorter formats:

# %% tags=["hide-input"]
rows = []
for dtype in (torch.float64, torch.float32, torch.bfloat16):
    table = torch.cumprod(1 - cosine.beta.to(dtype), dim=0)
    noiseless = int((table == 1).sum()) - 1  # ᾱ_0 = 1 is as it should be
    error = float((1 - table[1]).double().sqrt() / cosine.std[1]) - 1
    rows.append((str(dtype), f"{round(100 * error, 2) + 0.0:.2f} %", noiseless))
assert rows[-1] == ("torch.bfloat16", "-100.00 %", 353)
assert round(float(cosine.std[353]), 2) == 0.53
head = ("format", "error of the first noise's deviation", "steps that add no noise")
Markdown(markdown(head, rows))

# %% [markdown]
# In `bfloat16` the first 353 steps add no noise at all; after the last of them its standard
# deviation should be 0.53. The library keeps its tables in `float64` and casts when it multiplies.

# %% [markdown]
# ## Exercises
#
# Write your answer into the cell below each question and take the `#` off its last line: the check
# says yes, or gives a hint. ★ asks for a derivation, ★★ for code, ★★★ for a small project of both.
# Solutions are folded.
#
# ### ★ Exercise 1.1: how many steps?
#
# Write a function that returns the smallest number of steps $t$ after which a chain with constant
# $\beta$ has $\bar\alpha_t \le$ `residual`.
#
# :::{dropdown} Hint
# $\bar\alpha_t = (1-\beta)^t$. Both logarithms are negative: mind the direction of the inequality.
# Take care when `residual` is hit exactly.
# :::


# %%
def steps_to_forget(beta: float, residual: float) -> int:
    return ...  # your answer


# exercises.check("1.1", steps_to_forget)


# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
def steps_to_forget_solution(beta: float, residual: float) -> int:
    # (1-β)^t ≤ r  ⟺  t log(1-β) ≤ log r  ⟺  t ≥ log r / log(1-β),
    # as log(1-β) < 0. The small subtraction keeps rounding from adding
    # a step when r is a power of 1-β.
    return math.ceil(math.log(residual) / math.log1p(-beta) - 1e-9)


exercises.check("1.1", steps_to_forget_solution)

# %% [markdown]
# ### ★★ Exercise 1.2: two times of one walk
#
# $x_s$ and $x_t$ with $s \le t$ belong to the same walk. Given $x_0$ (that is, with $x_0$ held
# fixed), what is the covariance of a coordinate of $x_s$ with the same coordinate of $x_t$? Write
# it as a function of $\bar\alpha_s$ and $\bar\alpha_t$.
#
# :::{dropdown} Hint
# By (1.8), $x_t$ is a multiple of $x_s$ plus noise that is independent of $x_s$. At $s = t$ you
# must get $1 - \bar\alpha_t$.
# :::


# %%
def covariance(alpha_bar_s: float, alpha_bar_t: float) -> float:
    return ...  # your answer


# exercises.check("1.2", covariance)


# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
def covariance_solution(alpha_bar_s: float, alpha_bar_t: float) -> float:
    # x_t = √(ᾱ_t/ᾱ_s) x_s + noise, the noise independent of x_s:
    # Cov(x_s, x_t) = √(ᾱ_t/ᾱ_s) Var(x_s) = √(ᾱ_t/ᾱ_s) (1 - ᾱ_s).
    return math.sqrt(alpha_bar_t / alpha_bar_s) * (1 - alpha_bar_s)


exercises.check("1.2", covariance_solution)

# %% [markdown]
# ### ★★ Exercise 1.3: a schedule of your own
#
# Write a function that returns the table $\beta_0, \dots, \beta_T$ (`float64`, length $T+1$,
# $\beta_0 = 0$) whose $\log\operatorname{SNR}_t$ falls on a straight line from `first` at $t = 1$
# to `last` at $t = T$.
#
# :::{dropdown} Hint
# Solve (1.12) for $\bar\alpha_t$. Then $\beta_t = 1 - \bar\alpha_t/\bar\alpha_{t-1}$, with
# $\bar\alpha_0 = 1$.
# :::


# %%
def straight(T: int, first: float, last: float) -> torch.Tensor:
    return ...  # your answer


# exercises.check("1.3", straight)


# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
def straight_solution(T: int, first: float, last: float) -> torch.Tensor:
    # log(ᾱ/(1-ᾱ)) = λ  ⟺  ᾱ = 1/(1+e^(-λ)), the logistic function.
    log_snr = torch.linspace(first, last, T, dtype=torch.float64)
    alpha_bar = torch.sigmoid(log_snr)
    alpha_bar = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar])
    beta = torch.zeros(T + 1, dtype=torch.float64)
    beta[1:] = 1 - alpha_bar[1:] / alpha_bar[:-1]
    return beta


exercises.check("1.3", straight_solution)

# %% [markdown]
# ### ★★ Exercise 1.4: larger images need more noise
#
# Double the side of an image, and each old pixel becomes 2×2 new ones that show nearly the same.
# Average them, and the signal stays while the noise, independent in each, gets smaller. So the same
# schedule leaves *more* of a large image visible. Given a table $\bar\alpha_0, \dots, \bar\alpha_T$
# and an integer `factor` by which the side grows, return the table of $\bar\alpha'_t$ for which the
# *averaged* large image has at each $t$ the SNR that the small one had.
#
# :::{dropdown} Hint
# The mean of $n$ independent noises of variance $v$ has variance $v/n$; here $n$ is the number of
# new pixels per old pixel. So which SNR must each new pixel have? Then solve (1.12) for
# $\bar\alpha'_t$, without dividing by zero at $t = 0$.
# :::


# %%
def shifted(alpha_bar: torch.Tensor, factor: int) -> torch.Tensor:
    return ...  # your answer


# exercises.check("1.4", shifted)


# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
def shifted_solution(alpha_bar: torch.Tensor, factor: int) -> torch.Tensor:
    # Averaging factor² pixels multiplies the SNR by factor², so the new
    # SNR is the old / factor²: with k = factor²,
    #     ᾱ'/(1-ᾱ') = ᾱ / (k (1-ᾱ)),  hence  ᾱ' = ᾱ / (ᾱ + k (1-ᾱ)).
    # (Hoogeboom et al. 2023, "simple diffusion", shift the log-SNR of
    # their schedules like this.)
    return alpha_bar / (alpha_bar + factor**2 * (1 - alpha_bar))


exercises.check("1.4", shifted_solution)

# %% [markdown]
# ### ★★★ Exercise 1.5: between the bounds
#
# For a one-dimensional `oracle.Mixture`, $\mathrm{KL}(q(x_t) \,\|\, \mathcal N(0, 1))$ has no
# closed form, but it is an integral over a line. Write a function that computes it to 1 %. Then
# convince yourself that it lies between (1.17) and (1.18) for the mixture of this chapter, at any
# $t$.
#
# :::{dropdown} Hint
# `mixture.log_prob(x, t)` is $\log q(x_t)$ at the points `x` of a grid. The integrand is smooth, so
# a plain sum times the spacing is very accurate once the grid covers where $q$ lives, say
# $[-9, 9]$, and its spacing is smaller than the narrowest component.
# :::


# %%
def divergence(mixture: oracle.Mixture, t: int) -> float:
    return ...  # your answer


# exercises.check("1.5", divergence)


# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
def divergence_solution(mixture: oracle.Mixture, t: int) -> float:
    x = torch.linspace(-9, 9, 20_001, dtype=torch.float64)
    log_q = mixture.log_prob(x, t)
    log_n = -0.5 * x**2 - 0.5 * math.log(2 * math.pi)
    return float((log_q.exp() * (log_q - log_n)).sum() * (x[1] - x[0]))


exercises.check("1.5", divergence_solution)

weights, means = mixture.log_weights.exp(), mixture.means[:, 0]
m = (weights * means).sum()
v = (weights * (mixture.variances + means**2)).sum() - m**2
for t in (50, 200, 400, 1000):
    left = float(process.alpha_bar[t])
    low = oracle.Gaussian(process, m[None], v[None, None]).kl_to_prior(t)
    high = 0.5 * (left * float(v + m**2 - 1) - math.log1p(-left))
    found = divergence_solution(mixture, t)
    print(f"t = {t:4}: {low:.1e} ≤ {found:.1e} ≤ {high:.1e} nats")
    assert low * (1 - 1e-6) <= found <= high
    if t == 1000:  # the gap: the information, half the SNR times Var(x_0)
        assert math.isclose(high - found, 0.5 * left * v, rel_tol=0.01)
shared = float((mean**2).sum())
assert abs(m) < 0.03 and round(shared) == 27 and round(power_of_data) == 46

# %% [markdown]
# Here the upper bound is far off at late times, and (1.18) says why: the gap is the information
# that $x_t$ still holds about $x_0$, which falls in proportion to $\bar\alpha_t$, while the
# divergence of data whose mean is nearly zero (0.02 here) falls faster. For the digits of Fig. 1.13
# the bounds are close to each other because $\lVert\mu\rVert^2 = 27$ is more than half of
# $\operatorname{E}\lVert x_0\rVert^2 = 46$: at late times the two bounds are $\bar\alpha_T/2$ times
# these numbers.

# %% [markdown]
# ## Recap
#
# 1. Each step shrinks and adds noise,
#    $x_t = \sqrt{\alpha_t}\,x_{t-1} + \sqrt{\beta_t}\,\varepsilon_t$; the factor $\sqrt{1-\beta_t}$
#    keeps the variance at one, or brings it there.
# 2. Independent Gaussians add their *variances*, so all steps up to $t$ are one:
#    $x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\varepsilon$.
# 3. The density of $x_t$ is the density of the data, shrunk by $\sqrt{\bar\alpha_t}$ and blurred
#    with standard deviation $\sqrt{1-\bar\alpha_t}$.
# 4. Noise is white and images are not: high frequencies are hidden first, and the label of a digit
#    outlives all of them.
# 5. How far $x_T$ is from pure noise can be computed, exactly for Gaussian data and within bounds
#    for others. Do so before you change $T$ and keep the end points of the schedule.
#
# The equations of this chapter, the functions that implement them, the tests that pin them:

# %% mystnb={"code_prompt_show": "Equations, functions, tests", "code_prompt_hide": "Hide the table"} tags=["hide-cell"]
equations.table("01")

# %% [markdown]
# ## Further reading
#
# - {cite}`sohldickstein2015deep`: where the idea comes from, with a forward process that is this
#   one.
# - {cite}`ho2020denoising`: section 2 is our (1.1) and (1.6), section 4 the linear schedule.
# - {cite}`nichol2021improved`: section 3.2 is the cosine schedule.
# - {cite}`kingma2021variational`: the process seen through its SNR.
# - {cite}`song2021score`: the limit of small steps, a stochastic differential equation.
# - {cite}`field1987relations`: the power law of natural images.
# - {cite}`xiao2022tackling`: the trilemma, and one way out.
# - {cite}`hoogeboom2023simple` and {cite}`chen2023importance`: why the schedule must change with
#   the size of the image.
# - {cite}`lin2024common`: what remains of the data at $t = T$, and what it does to pictures.
