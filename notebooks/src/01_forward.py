# %% [markdown]
# # 1. The problem and the forward process
#
# [![Open in Colab](../book/_static/colab.svg)](https://colab.research.google.com/github/ddpm-book/ddpm-book/blob/main/notebooks/01_forward.ipynb)
#
# A diffusion model learns to undo one thing: noise, added to data in many small steps until nothing
# of the data is left. This chapter is about the part that needs no learning, the way down. You will
# see that a thousand steps collapse into a single formula,
# $x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\varepsilon$, prove it, and know for every
# $t$ what is still there and what is gone. There is no network in this chapter; nearly everything is
# exact, and each claim is checked against a number.

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

# %% tags=["hide-input"] mystnb={"image": {"alt": "Eight rows, the handwritten digits 0 to 7; eight columns, times 0, 50, 100, 200, 300, 400, 600 and 1000. Up to 100 the digits are grainy but legible, at 300 most can only be guessed, from 600 on every picture is noise."}}
import math

import matplotlib.pyplot as plt
import numpy as np
import sympy as sp
import torch
from ddpmlib import data, equations
from ddpmlib.denoiser import oracle
from ddpmlib.process import DDPM, schedules
from ddpmlib.teaching import exercises
from IPython.display import Markdown
from scipy import stats

digits = data.load("digits")
x_train = data.to_float(digits.x_train)  # (1442, 1, 8, 8), float32 in [-1, 1]
process = DDPM(schedules.linear(1000))
double = {"dtype": torch.float64}


def seeded(seed):
    """A source of randomness of its own for every cell, so that each can be run alone."""
    return torch.Generator().manual_seed(seed)


def typical(k):
    """The training image of class k that is closest to the mean of its class."""
    own = x_train[digits.y_train == k]
    return own[(own - own.mean(0)).flatten(1).norm(dim=1).argmin()]


eight = torch.stack([typical(k) for k in range(8)])
eps = torch.randn(eight.shape, generator=seeded(0))
times = [0, 50, 100, 200, 300, 400, 600, 1000]
columns = [process.q_sample(eight, t, eps) for t in times]
ax = plots.grid(torch.stack(columns, dim=1).flatten(0, 1), ncol=len(times))
ax.set_axis_on()
ax.set(
    xticks=[9 * i + 3.5 for i in range(8)],
    xticklabels=times,
    yticks=[],
    xlabel="time $t$",
)
ax.grid(False)
ax.spines[:].set_visible(False)
ax.figure.set_size_inches(4.4, 4.6)

# %% [markdown]
# Each row is one digit, each column one time. Up to $t = 100$ you read them without effort, at
# $t = 300$ you guess, at $t = 600$ there is nothing to guess from. The film shows the same as it
# happens: a thousand small steps of noise, every fiftieth of them a frame.

# %% tags=["hide-input"]
x, frames, generator = x_train[:12], [x_train[:12]], seeded(1)
for t in range(1, process.T + 1):
    x = process.q_step(x, t, torch.randn(x.shape, generator=generator))
    if t % 50 == 0:
        frames.append(x)
film_alt = "Twelve handwritten digits: grain appears, shapes dissolve, and all twelve end as noise."
plots.film(frames, film_alt, ncol=6, width=400, seconds=5)

# %% [markdown]
# ## Objectives
#
# After this chapter you can
#
# - say what problem a generative model solves and what each family of models pays for it;
# - derive $q(x_t \mid x_0)$ from the single steps, by induction, with every independence named;
# - write the forward process in ten lines and test that they are right;
# - describe $q(x_t)$ as the data, shrunk and blurred, and compute it exactly where the data allow it;
# - read a noise schedule: how much signal is left, which frequencies of an image have drowned, and
#   how far $q(x_T)$ still is from the pure noise from which sampling starts.
#
# The code of most figures is folded; unfold it where you want to know how a picture was made. The
# names that all cells use come from the first of them: `x_train`, the digits in $[-1, 1]$;
# `process = DDPM(schedules.linear(1000))`, the forward process of the library; `**double`, which asks
# for `float64`; and `seeded(k)`, a random generator, so that every number on this page is the same
# when you run it.
#
# ## The problem: drawing from a distribution that nobody knows
#
# We own samples $x_0^{(1)}, \dots, x_0^{(N)}$, say scans of handwritten digits. We believe that they
# are draws from one distribution $q(x_0)$. We want *more* draws: new digits that nobody wrote. We
# know no formula for $q$, and we cannot tabulate it.

# %%
grey_levels, pixels = 17, 8 * 8  # these small scans have 17 grey levels
print(f"possible images: 10^{pixels * math.log10(grey_levels):.0f}")
print(f"images that we own: {len(x_train)}")

# %% [markdown]
# The first thing that one would try is a distribution that we *can* fit in closed form: a Gaussian
# with the mean and the covariance of the data. Here are real digits above, draws from that Gaussian
# below.

# %% mystnb={"image": {"alt": "Two rows of ten small pictures. The upper row shows crisp handwritten digits, the lower row shows grey smears with the rough outline of digits and none that can be read with certainty."}} tags=["hide-input"]
flat = x_train.flatten(1).double()
mean, cov = flat.mean(0), torch.cov(flat.T, correction=0)
gaussian = oracle.Gaussian(process, mean, cov)
fitted = gaussian.draw(10, generator=seeded(2)).reshape(10, 1, 8, 8)
ax = plots.grid(torch.cat([x_train[20:30].double(), fitted]), ncol=10)
ax.set_axis_on()
ax.set(xticks=[], yticks=[3.5, 12.5], yticklabels=["data", "Gaussian"])
ax.grid(False)
ax.spines[:].set_visible(False)

# %% [markdown]
# Every pixel has the right mean and every pair of pixels the right correlation, and still these are
# not digits. (The Gaussian will be useful all the same: below it is a distribution on images for
# which distances can be computed exactly.)
#
# Six families of models do better. In the end each of them turns random numbers into data; they
# differ in what they learn and in what they pay.
#
# | family | learns | trained by | draws a sample with | usually pays with |
# |:--|:--|:--|:--|:--|
# | VAE | encoder and decoder | a lower bound of the likelihood | 1 pass | quality: blurry samples |
# | autoregressive | each pixel given the ones before | exact likelihood | 1 pass *per pixel* | speed |
# | normalising flow | an invertible map | exact likelihood | 1 pass | quality: every layer must be invertible |
# | GAN | generator against discriminator | a game | 1 pass | coverage: modes go missing; unstable training |
# | energy-based | an unnormalised $\log q$ | contrast with its own samples | a long Markov chain | speed, and the chain may not mix |
# | diffusion | to remove noise | a regression (a bound of the likelihood) | tens to a thousand passes | speed |
#
# The last column follows what [Xiao et al. (2022)](https://arxiv.org/abs/2112.07804) call the *learning
# trilemma*: of **quality** (each sample looks real), **coverage** (all kinds of samples occur) and
# **speed** (a sample is cheap), no family had all three. This is a rule of thumb, drawn from
# experience up to that year, and no theorem; much of the later work on diffusion models is about
# getting the third. What singles diffusion out from the start is
# the middle of its row: quality and coverage from a plain *regression*, without a game, without an
# invertible network, without a chain inside the training loop. The price of admission is a process
# that turns data into noise, so simple that we know everything about it. That process is next.

# %% [markdown]
# ## The idea in a picture
#
# Take data on a line: two clusters, one narrow, one wide. Every point walks; in each step it moves a
# little towards zero and is kicked by a little noise. The picture shows six such walks over the
# exact density of $x_t$ (how it is computed comes [below](#the-marginal-the-data-shrunk-and-blurred)).

# %% mystnb={"image": {"alt": "A map with time from 0 to 1000 on the horizontal axis and x on the vertical axis, coloured by density. Two bright bands at minus 1.3 and 0.9 widen, run together near t = 300 and become one band around zero. Six thin random walks start in the two bands and end spread around zero."}} tags=["hide-input"]
mixture = oracle.Mixture(
    process,
    weights=torch.tensor([0.4, 0.6], **double),
    means=torch.tensor([-1.3, 0.9], **double),
    stds=torch.tensor([0.1, 0.25], **double),
)
line = torch.linspace(-3, 3, 241, **double)
density = torch.stack(
    [mixture.log_prob(line, t).exp() for t in range(0, 1001, 10)], dim=1
)
generator = seeded(3)
walks = [mixture.draw(6, generator=generator)]
for t in range(1, process.T + 1):
    walks.append(
        process.q_step(
            walks[-1], t, torch.randn(6, generator=generator, **double)
        )
    )

fig, ax = plt.subplots(figsize=(5.4, 2.4))
shades = ax.contourf(
    range(0, 1001, 10),
    line,
    density,
    levels=[0, 0.02, 0.1, 0.2, 0.3, 0.45, 0.8, 1.7],
    colors=plt.get_cmap("cividis")(np.linspace(0.05, 1, 7)),
)
_ = ax.plot(range(0, 1001, 20), torch.stack(walks)[::20], lw=0.8, color="white")
ax.grid(False)
ax.set(xlabel="time $t$", ylabel="$x_t$", ylim=(-3, 3))
_ = fig.colorbar(shades, label="density of $x_t$", spacing="uniform")

# %% [markdown]
# Two things to see. The single walk is wild, but the *density* changes smoothly and simply: the two
# bands shrink towards zero, widen, and merge. And the right edge knows nothing of the left: there,
# the density is the standard normal, whatever the data were.

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
# **What is independent of what.** The noises $\varepsilon_1, \dots, \varepsilon_T$ are independent
# of each other and of $x_0$. By (1.2), $x_{t-1}$ is made of $x_0, \varepsilon_1, \dots,
# \varepsilon_{t-1}$ alone; therefore $\varepsilon_t$ is independent of $x_{t-1}$. And $x_t$ depends
# on the past only through $x_{t-1}$, so that the steps form a Markov chain:
#
# $$
# q(x_{1:T} \mid x_0) = \prod_{t=1}^{T} q(x_t \mid x_{t-1}).
# $$
#
# $\beta_t$ is a *variance*: the noise is multiplied by its root. (`beta[t]` in the code is
# $\beta_t$; the tables have an entry for $t = 0$, $\beta_0 = 0$, which is the clean data.)
#
# ### Why $\sqrt{1-\beta_t}$?
#
# Try any factor $a$ in its place, $x_t = a\,x_{t-1} + \sqrt{\beta_t}\,\varepsilon_t$. Because
# $\varepsilon_t$ is independent of $x_{t-1}$, the covariances add:
#
# $$
# \operatorname{Cov}[x_t] = a^2 \operatorname{Cov}[x_{t-1}] + \beta_t I.
# $$
#
# If the data have covariance $I$ and we want it to stay there, we need $a^2 + \beta_t = 1$. That is
# the whole reason: $a = \sqrt{1-\beta_t}$ *preserves the variance*. With $a = 1$ it would grow
# without bound, by $\beta_t$ in each step. What if the data do not have covariance $I$ (and no real
# data have)? Put $a^2 = \alpha_t$, $\beta_t = 1 - \alpha_t$ and subtract $I$ on both sides:
#
# $$
# \operatorname{Cov}[x_t] - I = \alpha_t \operatorname{Cov}[x_{t-1}] + (1-\alpha_t) I - I
# = \alpha_t \left(\operatorname{Cov}[x_{t-1}] - I\right).
# $$
#
# The distance from $I$ shrinks by $\alpha_t$ in each step. Apply this $t$ times and write
# $\bar\alpha_t = \alpha_1 \alpha_2 \cdots \alpha_t$, with $\bar\alpha_0 = 1$:
#
# $$
# \operatorname{Cov}[x_t] - I = \bar\alpha_t \left(\operatorname{Cov}[x_0] - I\right),
# \qquad \operatorname{E}[x_t] = \sqrt{\bar\alpha_t}\,\operatorname{E}[x_0].
# \tag{1.3}
# $$
#
# (The mean follows from (1.2) in the same way: the noise has mean zero, so each step multiplies the
# mean by $\sqrt{\alpha_t}$.) So **whatever the data, as long as they have a covariance, mean and covariance
# converge to those of $\mathcal N(0, I)$** if the steps go on until $\bar\alpha_t\to0$; geometrically if $\beta$ is constant. The digits have a variance of 0.3 per
# pixel, averaged over the pixels; let us watch it.

# %% mystnb={"image": {"alt": "Variance over time. Curves that start at 4, 1, 0.3 and 0 all run into the line at 1, the one that starts at 1 stays there. Black dots measured on walking digits lie on the curve that starts at 0.3. A dashed curve, the walk without shrinking, leaves the picture upwards."}} tags=["hide-input"]
x, generator = x_train, seeded(4)
measured = {0: float(x.flatten(1).var(0, correction=0).mean())}
for t in range(1, process.T + 1):
    x = process.q_step(x, t, torch.randn(x.shape, generator=generator))
    if t % 50 == 0:
        measured[t] = float(x.flatten(1).var(0, correction=0).mean())

fig, ax = plt.subplots(figsize=(6.4, 2.4))
t_axis = range(process.T + 1)
for start, name in [
    (4, "4"),
    (1, "1"),
    (measured[0], f"{measured[0]:.2f} (digits)"),
    (0, "0"),
]:
    _ = ax.plot(
        t_axis, 1 + process.alpha_bar * (start - 1), label=f"starts at {name}"
    )
_ = ax.plot(
    t_axis,
    1 + process.beta.cumsum(0),
    "--",
    color="grey",
    label="starts at 1, $a = 1$",
)
_ = ax.plot(measured.keys(), measured.values(), "k.", label="digits, measured")
ax.set(xlabel="time $t$", ylabel="variance per pixel", ylim=(-0.1, 4.2))
_ = ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))

worst = max(
    abs(v - float(1 + process.alpha_bar[t] * (measured[0] - 1)))
    for t, v in measured.items()
)
print(f"largest deviation of the measured variance from (1.3): {worst:.3f}")
assert worst < 0.02

# %% [markdown]
# All curves end at 1. The dots are the digits, walked step by step; they follow (1.3) to within the
# accuracy with which 1,442 images determine a variance.

# %% [markdown]
# ## Many steps at once
#
# To train a model we shall need $x_t$ for random $t$, millions of times. Walking there step by step
# would cost hundreds of draws each time. It costs one.
#
# ### Two independent Gaussians are one Gaussian
#
# If $\varepsilon$ and $\varepsilon'$ are **independent**, both $\mathcal N(0, I)$, and $a, b$ are numbers,
#
# $$
# a\,\varepsilon + b\,\varepsilon' \ \sim\ \mathcal N\!\left(0,\ (a^2+b^2)\, I\right).
# \tag{1.4}
# $$
#
# *Proof.* Coordinates are independent, so one coordinate is enough. Independence means that the
# joint density is the product,
#
# $$
# \frac{1}{\sqrt{2\pi}} e^{-\varepsilon^2/2} \cdot \frac{1}{\sqrt{2\pi}} e^{-\varepsilon'^2/2}
# = \frac{1}{2\pi} e^{-(\varepsilon^2 + \varepsilon'^2)/2},
# $$
#
# and it depends on $(\varepsilon, \varepsilon')$ only through its length. So it does not change when
# we rotate the plane. Let $r = \sqrt{a^2+b^2} > 0$ (if $r = 0$ there is nothing to show) and rotate
# by the angle with cosine $a/r$ and sine $b/r$:
#
# $$
# u = \frac{a\,\varepsilon + b\,\varepsilon'}{r}, \qquad
# w = \frac{-b\,\varepsilon + a\,\varepsilon'}{r}.
# $$
#
# Then $(u, w)$ has the same density again: $u$ and $w$ are two independent standard normals. The
# first of them says $a\,\varepsilon + b\,\varepsilon' = r u$ with $u \sim \mathcal N(0, 1)$, which
# is (1.4). $\blacksquare$
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
# $\bar\varepsilon$ is a *third* variable, a mixture of $\varepsilon_{t-1}$ and $\varepsilon_t$. It is
# independent of $x_{t-2}$, because they are.
#
# :::{admonition} Mind the slide: two noises, not one
# :class: warning
# Slides like to write $\varepsilon_{t-1}$ for both noises of the merge, sometimes for the merged one
# too. Taken at its word this is wrong: equal noises add their *deviations*,
# $a\,\varepsilon + b\,\varepsilon = (a+b)\,\varepsilon$, with variance $(a+b)^2$ and not $a^2+b^2$. For
# two small steps this is about twice the variance, as the next cell shows. A second slip on the same
# slides is a variance written as $\sigma_t I$; it is $\sigma_t^2 I$, and $\sigma_t$ is its root.
# What that one does to a program stands under [What goes wrong](#what-goes-wrong).
# :::

# %%
alpha = 0.98  # two steps with β = 0.02
a, b = math.sqrt(alpha * (1 - alpha)), math.sqrt(1 - alpha)
one, other = torch.randn(2, 1_000_000, generator=seeded(5), **double)
for name, noise, theory in [
    ("two independent noises", a * one + b * other, 1 - alpha * alpha),
    ("one noise used twice", a * one + b * one, (a + b) ** 2),
]:
    print(f"{name:22}: variance {noise.var():.4f}, in theory {theory:.4f}")
    assert math.isclose(noise.var(), theory, rel_tol=0.01)

# %% [markdown]
# ### All steps: the kernel
#
# The slides leave the general case as an assignment. Here is the proof in full.
#
# \begin{align*}
# q(x_t \mid x_0) &= \mathcal N\!\left(x_t;\ \sqrt{\bar\alpha_t}\,x_0,\ (1-\bar\alpha_t) I\right), \\
# x_t &= \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\bar\varepsilon_t,
# \qquad \bar\varepsilon_t \sim \mathcal N(0, I).
# \tag{1.6}
# \end{align*}
#
# *Claim for $t$:* the second line holds, with some $\bar\varepsilon_t \sim \mathcal N(0, I)$
# that is a function of $\varepsilon_1, \dots, \varepsilon_t$ only.
#
# *Start, $t = 1$.* $\bar\alpha_1 = \alpha_1$ and $\beta_1 = 1 - \bar\alpha_1$, so (1.2) is the claim,
# with $\bar\varepsilon_1 = \varepsilon_1$.
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
# $\varepsilon_1, \dots, \varepsilon_{t+1}$. That is the claim for $t+1$. Finally, $x_0$ is independent
# of all noises, hence of $\bar\varepsilon_t$; so given $x_0$, the variable $\bar\varepsilon_t$ is
# still standard normal, and the second line of (1.6) says the same as the first.
# $\blacksquare$
#
# :::{admonition} Is the bar over ε needed?
# :class: note
# From here on we write $\varepsilon$ for the noise in (1.6), as everybody does. Keep in mind which
# one it is: the noise of the *jump* from $0$ to $t$, not the noise $\varepsilon_t$ of the last step.
# The network of [chapter 3](03_ddpm.ipynb) is trained to find the former.
# :::
#
# The proof even says which $\bar\varepsilon_t$ it is. Unroll (1.2): the noise of step $i$ passes
# through the factors $\sqrt{\alpha_{i+1}}, \dots, \sqrt{\alpha_t}$ of all later steps, and their
# product is $\sqrt{\bar\alpha_t/\bar\alpha_i}$. So
#
# $$
# \bar\varepsilon_t = \frac{1}{\sqrt{1-\bar\alpha_t}}
# \sum_{i=1}^{t} \sqrt{\beta_i\,\frac{\bar\alpha_t}{\bar\alpha_i}}\;\varepsilon_i .
# \tag{1.7}
# $$
#
# The squared weights must sum to one, and they do, because the sum telescopes: with
# $\beta_i = 1 - \bar\alpha_i/\bar\alpha_{i-1}$,
#
# $$
# \sum_{i=1}^{t} \beta_i \frac{\bar\alpha_t}{\bar\alpha_i}
# = \bar\alpha_t \sum_{i=1}^{t} \left(\frac{1}{\bar\alpha_i} - \frac{1}{\bar\alpha_{i-1}}\right)
# = \bar\alpha_t \left(\frac{1}{\bar\alpha_t} - \frac{1}{\bar\alpha_0}\right)
# = 1 - \bar\alpha_t .
# $$
#
# ### From any time to any later one
#
# Nothing in the proof was special about starting at $0$. Start the same chain at $s$, with
# $\alpha_{s+1} \cdots \alpha_t = \bar\alpha_t/\bar\alpha_s$ in the place of $\bar\alpha_t$, and get,
# for $s < t$,
#
# $$
# q(x_t \mid x_s) = \mathcal N\!\left(x_t;\ \sqrt{\frac{\bar\alpha_t}{\bar\alpha_s}}\,x_s,\
# \left(1-\frac{\bar\alpha_t}{\bar\alpha_s}\right) I\right).
# \tag{1.8}
# $$
#
# With $s = 0$ this is (1.6), with $s = t-1$ it is (1.1). [Chapter 2](02_reverse.ipynb) walks back
# from $t$ to $s$, and this is where it starts.
#
# The algebra of this section, checked by machine: the two integrals (a sum of two Gaussians, one
# more step after the kernel) and the induction step.

# %% tags=["hide-cell"]
x, y, m = sp.symbols("x y m", real=True)
u, v, c, al, ab = sp.symbols("u v c alpha alphabar", positive=True)


def normal(x, mean, var):
    return sp.exp(-((x - mean) ** 2) / (2 * var)) / sp.sqrt(2 * sp.pi * var)


# (1.4): the density of a sum is the convolution of the densities.
convolved = sp.integrate(
    normal(y, 0, u) * normal(x - y, 0, v), (y, -sp.oo, sp.oo)
)
assert sp.simplify(convolved / normal(x, 0, u + v)) == 1
# A step with factor c = √α_{t+1} and variance v after N(m, u): the mean moves along, variances add.
stepped = sp.integrate(
    normal(y, m, u) * normal(x, c * y, v), (y, -sp.oo, sp.oo)
)
log_ratio = sp.log(sp.simplify(stepped / normal(x, c * m, c**2 * u + v)))
assert sp.simplify(sp.expand_log(log_ratio, force=True)) == 0
# The induction step for the variance, with u = 1 - ᾱ_t and v = 1 - α_{t+1}.
assert sp.expand(al * (1 - ab) + (1 - al) - (1 - al * ab)) == 0
# The telescoping summand of (1.7), with ᾱ_i = α_i ᾱ_{i-1}.
assert sp.simplify((1 - al) / (al * ab) - (1 / (al * ab) - 1 / ab)) == 0
print("sympy agrees with (1.4), (1.6) and (1.7)")

# %% [markdown]
# ## From scratch, then from the library
#
# The whole forward process in about ten lines:

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
# Do they agree? There are two questions in this one. **Exactly:** if the jump is given the noise of
# (1.7), the one that the walk has used up, it must land on the same point. **In distribution:** if each draws
# noise of its own, the points differ, but their distributions must not. First the exact question,
# and in the same breath the library against the ten lines:

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
        print(f"t = {t:4}: walk, jump, q_step and q_sample agree to 1e-12")
assert agree(process.alpha_bar, alpha_bar) and agree(process.beta, beta)

# %% [markdown]
# Now in distribution. We start 20,000 walkers at the same point $x_0 = 1.5$, let them take 200 steps, each
# with fresh noise, and let 20,000 others jump. Both samples go to a Kolmogorov–Smirnov test against
# the exact Gaussian (1.6), and against each other.

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
for name, sample in [("walked", walked), ("jumped", jumped)]:
    print(f"{name}: mean {sample.mean():.3f}, std {sample.std():.3f}")
print(f"exact:  mean {exact.mean():.3f}, std {exact.std():.3f}")
for name, p in p_values.items():
    print(f"{name}: p = {p:.2f}")
assert min(p_values.values()) > 0.01

# %% [markdown]
# No test finds a difference. One warning: the walk and the jump agree in the distribution of $x_t$ *for each
# $t$ by itself*. Jumping to $t = 100$ and, with fresh noise, to $t = 200$ gives two pictures that do
# not belong to one walk; the joint distribution is another (exercise 1.2 computes it).

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
# Substitute $y = \sqrt{\bar\alpha_t}\,x_0$, with $\mathrm d x_0 = \bar\alpha_t^{-D/2}\,\mathrm d y$
# for $x_0 \in \mathbb R^D$. Then $q_{\text{shrunk}}(y) = \bar\alpha_t^{-D/2}\,
# q(y/\sqrt{\bar\alpha_t})$ is the density of the shrunk data $\sqrt{\bar\alpha_t}\,x_0$, and
#
# $$
# q(x_t) = \int q_{\text{shrunk}}(y)\ \mathcal N\!\left(x_t - y;\ 0,\ (1-\bar\alpha_t) I\right)
# \mathrm d y
# $$
#
# is a convolution with a Gaussian kernel: **shrink the data by $\sqrt{\bar\alpha_t}$, then blur them
# with a Gaussian of width $\sqrt{1-\bar\alpha_t}$**. (It says the same as (1.6): the density of a sum
# of independent variables is the convolution of their densities.) The integral needs $q(x_0)$, so for
# real data we cannot compute it. For a mixture of Gaussians we can, because (1.4) does it component
# by component: $x_0 = m_k + s_k\,\varepsilon'$ turns into
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
# This is `oracle.Mixture`, which coloured the picture above. We hold it against a simulation that
# knows nothing of the formula: 20,000 draws of data, walked step by step.

# %% mystnb={"image": {"alt": "Four histograms of walked samples at t = 0, 100, 250 and 1000, each with a dark line of the exact density that follows the bars closely. Two separate peaks shrink towards zero, widen, overlap, and become one bell curve."}} tags=["hide-input"]
n, x, generator = 20_000, mixture.draw(20_000, generator=seeded(9)), seeded(10)
snapshots = {0: x}
for t in range(1, process.T + 1):
    x = process.q_step(x, t, torch.randn(n, generator=generator, **double))
    if t in (100, 250, 1000):
        snapshots[t] = x


def mixture_cdf(t):
    """The distribution function that belongs to (1.10), for the test below."""
    scale, std = process.kernel(t, mixture.means)
    spread = (scale**2 * mixture.variances + std**2).sqrt().numpy()
    centres, weights = (
        scale * mixture.means[:, 0].numpy(),
        mixture.log_weights.exp().numpy(),
    )
    return lambda x: (
        weights * stats.norm.cdf(x[:, None], centres, spread)
    ).sum(1)


fig, axes = plt.subplots(1, 4, figsize=(6.4, 2.1), sharex=True)
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
    distance = stats.kstest(x.numpy(), lambda x, t=t: mixture_cdf(t)(x))
    print(
        f"t = {t:4}: largest gap between the distribution functions {distance.statistic:.4f}"
    )
    assert distance.statistic < 1.63 / math.sqrt(n)  # the 1 % point of the test
_ = axes[0].set_ylabel("density")

# %% [markdown]
# Bars: simulation. Lines: (1.10). The gaps are below 0.0115, which a correct formula exceeds by
# chance once in a hundred times. In the plane it looks like this, on data that have no formula:

# %% mystnb={"image": {"alt": "Four scatter plots of 400 points of a spiral at t = 0, 50, 150 and 1000. At 50 the arm of the spiral is thick and grainy, at 150 its turns have run into each other and leave a lopsided cloud, at 1000 the cloud is round."}} tags=["hide-input"]
spiral = data.spiral(400, generator=seeded(11))
eps = torch.randn(spiral.shape, generator=seeded(12))
fig, axes = plt.subplots(1, 4, figsize=(6.0, 1.9), sharex=True, sharey=True)
for ax, t in zip(axes, [0, 50, 150, 1000], strict=True):
    _ = plots.scatter(process.q_sample(spiral, t, eps), ax=ax, reach=3, s=4)
    ax.set(title=f"$t = {t}$", ylabel="$x_2$" if t == 0 else "")

# %% [markdown]
# The fine structure (which arm of the spiral is which) goes first, the coarse one (how far out) last.
# Keep this in mind; for images it becomes a statement about frequencies.

# %% [markdown]
# ## Extremes, and how long forgetting takes
#
# What would happen with the largest and the smallest possible $\beta$?
#
# - $\beta_t = 0$ for all $t$: then $\bar\alpha_t = 1$ and $x_t = x_0$. Nothing happens, ever.
# - $\beta_1 = 1$: then $\bar\alpha_1 = 0$ and $x_1 = \varepsilon_1$. All is forgotten in one step.
#
# If one step can do it, why take a thousand? Because we want to go *back*. After the single step
# with $\beta_1 = 1$, $x_1$ says nothing about $x_0$, so that the way back, $q(x_0 \mid x_1) = q(x_0)$,
# is the problem that we started from. If $\beta_t$ is small, $x_{t-1}$ is close to $x_t$, and the way
# back is a small correction; chapter 2 shows that it is then nearly Gaussian. Small steps make each
# step back easy; their number makes the whole way back long. That is where diffusion models pay.
#
# So how many steps of size $\beta$ does it take? Since $\log(1-\beta) \le -\beta$ (the logarithm lies
# below its tangent),
#
# $$
# \bar\alpha_t = \exp\Big(\sum_{i=1}^{t} \log(1-\beta_i)\Big)
# \ \le\ \exp\Big(-\sum_{i=1}^{t} \beta_i\Big),
# \tag{1.11}
# $$
#
# with near equality when the $\beta_i$ are small. To bring the remaining signal $\bar\alpha_t$ down to
# $\delta$ it is *enough* that $\beta_1 + \dots + \beta_t \ge \log(1/\delta)$: only the sum counts. For
# constant $\beta$ the exact number is the first integer $t \ge \log\delta / \log(1-\beta)$.

# %%
deltas, rows = (1e-1, 1e-2, 1e-4), []
for constant in (0.999, 0.5, 0.1, 0.02, 0.001):
    steps = [
        math.ceil(math.log(delta) / math.log1p(-constant)) for delta in deltas
    ]
    for t, delta in zip(steps, deltas, strict=True):
        assert (1 - constant) ** t <= delta < (1 - constant) ** (t - 1)
    rows.append(f"| {constant} | " + " | ".join(f"{t:,}" for t in steps) + " |")
Markdown(
    "| constant β | steps until ᾱ ≤ 0.1 | until ᾱ ≤ 0.01 | until ᾱ ≤ 0.0001 |\n|--:|--:|--:|--:|\n"
    + "\n".join(rows)
)

# %% [markdown]
# ### Signal to noise, and two schedules
#
# In (1.6) the signal has the factor $\sqrt{\bar\alpha_t}$ and the noise $\sqrt{1-\bar\alpha_t}$. The
# ratio of their powers is the **signal-to-noise ratio**; it runs over many powers of ten, so one
# looks at its logarithm:
#
# $$
# \operatorname{SNR}_t = \frac{\bar\alpha_t}{1-\bar\alpha_t}, \qquad
# \log\operatorname{SNR}_t = \log\bar\alpha_t - \log(1-\bar\alpha_t).
# \tag{1.12}
# $$
#
# (This is the ratio for data of unit power per coordinate, and the natural logarithm.) At
# $\log\operatorname{SNR} = 0$ the two have equal weight. A *schedule* is a choice of the $\beta_t$.
# [Ho et al. (2020)](https://arxiv.org/abs/2006.11239) let them grow on a straight line,
#
# $$
# \beta_t = \beta_1 + \frac{t-1}{T-1}\,(\beta_T - \beta_1),
# \tag{1.13}
# $$
#
# with $\beta_1 = 10^{-4}$ and $\beta_T = 0.02$ for $T = 1000$, and [Nichol & Dhariwal (2021)](https://arxiv.org/abs/2102.09672) prescribe $\bar\alpha_t$ itself,
#
# $$
# \bar\alpha_t = \frac{f(t)}{f(0)}, \qquad
# f(t) = \cos^2\!\left(\frac{t/T + s}{1+s}\cdot\frac{\pi}{2}\right), \quad s = 0.008,
# \tag{1.14}
# $$
#
# from which $\beta_t = 1 - \bar\alpha_t/\bar\alpha_{t-1}$. As $f(T) = 0$ this would end with
# $\beta_T = 1$; they clip $\beta_t$ at $0.999$. A later chapter compares schedules by what they do
# to samples; here we only learn to read them.

# %% mystnb={"image": {"alt": "Left: the signal that is left over time. Linear falls fast and is near zero from t = 600 on, cosine falls in a gentle S over the whole range. Right: log-SNR over time from plus 9 down to minus 10 for linear; cosine stays above it nearly everywhere and is near minus 6 at t = 970 before it drops steeply."}} tags=["hide-input"]
cosine = DDPM(schedules.cosine(1000))
fig, (left, right) = plt.subplots(1, 2, figsize=(6.6, 2.4))
for p, name in [(process, "linear"), (cosine, "cosine")]:
    _ = left.plot(range(p.T + 1), p.alpha_bar, label=name)
    _ = right.plot(
        range(1, p.T + 1), schedules.log_snr(p.alpha_bar)[1:], label=name
    )
left.set(xlabel="time $t$", ylabel=r"signal left, $\bar\alpha_t$")
right.set(xlabel="time $t$", ylabel=r"$\log\,\mathrm{SNR}_t$", ylim=(-12, 12))
_ = right.axhline(0, color="grey", lw=0.8)
_ = left.legend()
for p, name in [(process, "linear"), (cosine, "cosine")]:
    equal = int((schedules.log_snr(p.alpha_bar) >= 0).sum()) - 1
    late = 100 * float((p.alpha_bar < 0.01).double().mean())
    print(
        f"{name}: noise outweighs signal after t = {equal}; for {late:.0f} % of the times ᾱ < 0.01"
    )

# %% [markdown]
# Linear spends a third of its steps where less than 1 % of the signal's power is left; cosine
# spreads the loss more evenly. Both end with nearly nothing; how little counts as nothing is measured
# [further down](#one-knob-turned-how-many-steps-and-what-is-left-at-the-end).

# %% [markdown]
# ## In frequencies: details drown first
#
# White noise hits every frequency of an image equally. Images are anything but equal: nearly all of
# their power sits in low frequencies. So the same noise that barely touches the coarse layout has
# long buried the details. Let us make this exact.
#
# Let $F$ be the discrete Fourier transform with the normalisation that makes it unitary,
# $F F^* = I$ (`norm="ortho"`), and write $\hat x(f)$ for the component of $Fx$ at frequency $f$. The
# transform is linear, so (1.6) holds for each component:
#
# $$
# \hat x_t(f) = \sqrt{\bar\alpha_t}\,\hat x_0(f) + \sqrt{1-\bar\alpha_t}\,\hat\varepsilon(f).
# $$
#
# What is the power of the noise? $\hat\varepsilon(f)$ is one entry of $F\varepsilon$, whose covariance
# is $F I F^* = I$. So $\operatorname{E}|\hat\varepsilon(f)|^2 = 1$ at *every* frequency: this is what
# "white" means. The cross term $\operatorname{E}[\hat x_0(f)\,\overline{\hat\varepsilon(f)}]$ is zero,
# because $\varepsilon$ is independent of $x_0$ and has mean zero. With
# $S(f) = \operatorname{E}|\hat x_0(f)|^2$, the power spectrum of the data,
#
# $$
# \operatorname{E}|\hat x_t(f)|^2 = \bar\alpha_t\, S(f) + (1-\bar\alpha_t), \qquad
# \operatorname{SNR}_t(f) = \operatorname{SNR}_t \cdot S(f).
# \tag{1.15}
# $$
#
# A frequency is above water while $\operatorname{SNR}_t(f) > 1$, that is while $S(f)$ lies above
# the level $1/\operatorname{SNR}_t$, which rises with $t$. Photographs are known to follow a power law
# approximately, $S(f) \approx C f^{-\gamma}$ with $\gamma$ around 2 (Field, 1987). *If* it holds, the level reaches
# frequency $f_t$ when $\operatorname{SNR}_t \cdot C f_t^{-\gamma} = 1$:
#
# $$
# f_t = \left(C \cdot \operatorname{SNR}_t\right)^{1/\gamma}.
# \tag{1.16}
# $$
#
# So the highest visible frequency falls by half whenever $\log\operatorname{SNR}$ falls by
# $\gamma\log 2$, about 1.4. That is a strong claim about pictures; does it hold? Digits of 8×8
# pixels have only four frequencies to speak of, so we first take two real photographs, which come
# with scikit-learn. We measure $S(f)$ on a square of 427×427 pixels (as grey values in $[-1, 1]$, mean
# removed; a Hann window keeps the jump at the border, which the transform would see, out of it),
# average over all directions and both photographs, and fit a straight line to the logarithms between
# 4 and 150 cycles per image.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Left: power over frequency, both logarithmic. The spectra of two photographs and of their average fall along a straight dashed line of slope minus 1.9; five horizontal lines are the noise levels at t = 10, 50, 200, 400 and 700, each higher than the one before and crossing the spectrum at a lower frequency. Right: the highest visible frequency over time falls from 200 to 1 for both schedules, cosine above linear; dashed predictions lie close to the measured lines."}}
from sklearn.datasets import load_sample_images

photos = [
    image[:, 106:533].mean(axis=2) / 127.5 - 1
    for image in load_sample_images().images
]
side = len(photos[0])
cycles = np.hypot(
    *np.meshgrid(np.fft.fftfreq(side, 1 / side), np.fft.fftfreq(side, 1 / side))
)
bands = np.rint(cycles).astype(int)
frequency = np.arange(1, side // 2 + 1)


def spectrum(image):
    """Radially averaged power for 1, 2, ... cycles per image; white noise of variance 1 has 1."""
    window = np.outer(np.hanning(side), np.hanning(side))
    window /= np.sqrt((window**2).mean())
    power = (
        np.abs(np.fft.fft2((image - image.mean()) * window, norm="ortho")) ** 2
    )
    return (
        np.bincount(bands.ravel(), power.ravel())[frequency]
        / np.bincount(bands.ravel())[frequency]
    )


def cutoff(snr):
    """The highest frequency up to which the measured spectrum stays above the noise; 0 if none."""
    above = average * snr > 1
    return int(frequency[-1] if above.all() else np.argmin(above))


spectra = [spectrum(photo) for photo in photos]
average = np.mean(spectra, axis=0)
fit = (frequency >= 4) & (frequency <= 150)
slope, intercept = np.polyfit(np.log(frequency[fit]), np.log(average[fit]), 1)
gamma, C = -slope, math.exp(intercept)

fig, (left, right) = plt.subplots(1, 2, figsize=(6.8, 2.8))
for s, name, colour in zip(
    spectra, ["temple", "flower"], [plots.SKY, plots.ORANGE], strict=True
):
    _ = left.loglog(frequency, s, lw=0.9, color=colour, label=name)
_ = left.loglog(frequency, average, color="black", lw=1.2, label="average")
_ = left.loglog(
    frequency,
    C * frequency**-gamma,
    "--",
    color=plots.RED,
    label=rf"$\propto f^{{-{gamma:.2f}}}$",
)
for t in (10, 50, 200, 400, 700):
    level = float((1 - process.alpha_bar[t]) / process.alpha_bar[t])
    _ = left.axhline(level, color="grey", lw=0.7)
    _ = left.text(230, level, f"$t={t}$", fontsize=8, va="center")
left.set(
    xlabel="frequency (cycles per image)",
    ylabel="power",
    ylim=(5e-4, 1e4),
    xlim=(1, 220),
)
_ = left.legend(fontsize=8, loc="lower left")
errors = []
for p, name, colour in [
    (process, "linear", plots.BLUE),
    (cosine, "cosine", plots.GREEN),
]:
    snr = (p.alpha_bar / (1 - p.alpha_bar))[1:].numpy()
    cuts = np.array([cutoff(s) for s in snr])
    predicted = (C * snr) ** (1 / gamma)
    errors += list(
        np.abs(np.log(predicted / np.maximum(cuts, 1)))[
            (cuts >= 4) & (cuts <= 150)
        ]
    )
    _ = right.semilogy(
        np.arange(1, 1001)[cuts > 0],
        cuts[cuts > 0],
        color=colour,
        label=f"{name}, measured",
    )
    _ = right.semilogy(
        range(1, 1001), predicted, "--", lw=1, color=colour, label="power law"
    )
right.set(
    xlabel="time $t$", ylabel="highest visible frequency $f_t$", ylim=(0.8, 300)
)
_ = right.legend(fontsize=8)
single = [
    -np.polyfit(np.log(frequency[fit]), np.log(s[fit]), 1)[0] for s in spectra
]
print(
    f"measured exponent: {gamma:.2f} for the average, {single[0]:.2f} and {single[1]:.2f} for each"
)
print(
    f"(1.16) is within a factor of {math.exp(max(errors)):.2f} wherever 4 ≤ f_t ≤ 150"
)

# %% [markdown]
# Left, the grey lines are the water: the noise level at five times (linear schedule). It rises, and
# where it crosses the spectrum is the highest visible frequency. Right, this crossing over time,
# measured (solid) and by (1.16) (dashed). Within the range of the fit the law is good to the factor
# that is printed; outside of it, it is not: at the low end a picture has only a handful of waves, at
# the high end the blur of the lens and the JPEG compression show. Two photographs are no survey: the
# exponents of the two differ, and other pictures will have others.
#
# What does a picture look like whose high frequencies are under water? Above, 80×80 pixels of the
# noisy photograph; below, all that (1.15) says is still above the noise: the clean one, with the
# frequencies beyond $f_t$ removed.

# %% mystnb={"image": {"alt": "Two rows of three pictures of a part of a Chinese temple at t = 0, 200 and 400. Above, noise grows: at 200 the edges of the roofs are barely visible, at 400 nothing is. Below, the clean picture gets blurrier: at 200 the ornaments are gone and the roofs are dark bands, at 400 soft blobs are left."}} tags=["hide-input"]
photo = torch.from_numpy(photos[0])
eps = torch.randn(photo.shape, generator=seeded(13), **double)
fig, axes = plt.subplots(2, 3, figsize=(3.4, 2.6))
for column, t in zip(axes.T, (0, 200, 400), strict=True):
    f_t = (
        side
        if t == 0
        else cutoff(float(process.alpha_bar[t] / (1 - process.alpha_bar[t])))
    )
    visible = np.fft.ifft2(
        np.where(cycles <= f_t, np.fft.fft2(photos[0]), 0)
    ).real
    for ax, picture in zip(
        column, (process.q_sample(photo, t, eps), visible), strict=True
    ):
        crop = (
            np.round(8 * np.asarray(picture)[100:180, 95:175]) / 8
        )  # 17 greys keep the page small
        _ = ax.imshow(crop, vmin=-1, vmax=1, interpolation="nearest")
        ax.set_axis_off()
    column[0].set_title(f"$t = {t}$", fontsize=10)
    column[1].set_title("all $f$" if t == 0 else f"$f \\leq {f_t}$", fontsize=9)

# %% [markdown]
# You may still see more in the upper row than in the lower one. Your eye does not judge one
# component at a time: along the edge of the roof it adds up many of them, each by itself below the
# noise. "Drowned" means here that a *single* component is weaker than its noise, no more.
#
# This is the **content–detail trade-off** over $t$: at small $t$ only details are in question, at
# large $t$ the content is. A model that walks back decides first what the picture shows and last how
# sharp its edges are. The digits let us measure both sides. For *detail* we take the time at which
# each frequency of the digits drowns, from (1.15). For *content* we ask how often the label can
# still be told from $x_t$. The best that one can do with the training images as the only knowledge is
# Bayes' rule with (1.6): $p(y \mid x_t) \propto$ the average of
# $\mathcal N(x_t; \sqrt{\bar\alpha_t}\,x^{(i)}, (1-\bar\alpha_t) I)$ over the training images
# $x^{(i)}$ of class $y$. We try it on noisy *test* images.

# %% mystnb={"image": {"alt": "Two panels, linear and cosine, with the share of correctly told labels over time, dots with error bars. The share stays near one while vertical lines mark how frequencies 4, 3 and 2 drown, then falls to one in ten. For linear the fall lies between t = 200 and 500, for cosine between 400 and 800."}} tags=["hide-input"]
x_test, member = (
    data.to_float(digits.x_test),
    torch.nn.functional.one_hot(digits.y_train, 10).float(),
)
centred = x_train[:, 0].numpy() - x_train[:, 0].numpy().mean(0)
power = (np.abs(np.fft.fft2(centred, norm="ortho")) ** 2).mean(0)
bands_8 = np.rint(
    np.hypot(*np.meshgrid(np.fft.fftfreq(8, 1 / 8), np.fft.fftfreq(8, 1 / 8)))
)
S_digits = {f: float(power[bands_8 == f].mean()) for f in (1, 2, 3, 4)}


def share_right(p, t, repeats=5):
    """How often the exact posterior of the label, given the noisy test image, has its maximum right."""
    right = []
    for r in range(repeats):
        x_t = p.q_sample(
            x_test, t, torch.randn(x_test.shape, generator=seeded(100 + r))
        ).flatten(1)
        scale, std = p.kernel(t, x_t)
        distance = torch.cdist(x_t, scale * x_train.flatten(1))
        posterior = torch.softmax(-(distance**2) / (2 * std**2), dim=1) @ (
            member / member.sum(0)
        )
        right.append((posterior.argmax(1) == digits.y_test).float().mean())
    return float(torch.stack(right).mean())


fig, axes = plt.subplots(1, 2, figsize=(6.6, 2.4), sharey=True)
grid_t = [1, *range(50, 1001, 50)]
for ax, p, name in [(axes[0], process, "linear"), (axes[1], cosine, "cosine")]:
    share = np.array([share_right(p, t) for t in grid_t])
    error = 1.96 * np.sqrt(share * (1 - share) / len(x_test))
    _ = ax.errorbar(grid_t, share, error, fmt=".-", capsize=2, lw=1)
    drowned = {
        f: int((p.alpha_bar / (1 - p.alpha_bar) * s > 1).sum())
        for f, s in S_digits.items()
    }
    for f, t in drowned.items():
        _ = ax.axvline(t, color=plots.RED, lw=0.8, ls="--")
        _ = ax.text(
            t - 6,
            1.04,
            f"{f}",
            color=plots.RED,
            fontsize=8,
            ha="right" if f > 1 else "left",
        )
    _ = ax.axhline(0.1, color="grey", lw=0.8)
    ax.set(xlabel="time $t$", xlim=(0, 1000), ylim=(0, 1.14), title=name)
    half = grid_t[int(np.argmax(share < 0.5))]
    print(
        f"{name}: frequencies 4, 3, 2, 1 drown at t = {[drowned[f] for f in (4, 3, 2, 1)]};"
    )
    print(
        f"        fewer than half of the labels can be told from t = {half} on"
    )
_ = axes[0].set_ylabel("labels told correctly")

# %% [markdown]
# Blue: the share of labels that can still be told (bars: 95 % intervals for 355 test images; grey:
# guessing). Red: when the frequencies of the digits drown, in cycles per image. Under both schedules
# the label outlives the details: it is told in nine of ten cases when only the coarsest frequency is
# left above the noise. It even outlives frequency 1 itself, because a label, like the edge of a roof,
# is read from many components together. Compare the panels: the cosine schedule gives to the
# interesting middle the time that the linear one spends in the dark. The trade-off is the same; the
# schedule only decides how many steps each part of it gets.

# %% [markdown]
# ## One knob turned: how many steps, and what is left at the end
#
# A sampler cannot start from $q(x_T)$, which it does not know; it starts from $\mathcal N(0, I)$. How
# much does this give away? The natural measure is the divergence
# $\mathrm{KL}(q(x_T) \,\|\, \mathcal N(0, I)) = \operatorname{E}_{q}[\log q(x_T) - \log \mathcal N(x_T; 0, I)]$.
#
# **For Gaussian data it is exact.** One coordinate first, $x \sim \mathcal N(m, v)$: with
# $\operatorname{E}[(x-m)^2] = v$ and $\operatorname{E}[x^2] = v + m^2$,
#
# $$
# \mathrm{KL} = \operatorname{E}\!\left[-\tfrac12\log v - \tfrac{(x-m)^2}{2v} + \tfrac{x^2}{2}\right]
# = \tfrac12\left(v + m^2 - 1 - \log v\right).
# $$
#
# Now $q(x_0) = \mathcal N(\mu, \Sigma)$ in $D$ dimensions. Turn the coordinates into the eigenvectors
# of $\Sigma$, with eigenvalues $\lambda_1, \dots, \lambda_D$; $\mathcal N(0, I)$ does not change
# under rotation, the coordinates of $x_t$ become independent, and KL adds up over independent
# coordinates. By (1.3), $v_i = 1 + \bar\alpha_t(\lambda_i - 1)$ and the squared means sum to
# $\bar\alpha_t \lVert\mu\rVert^2$:
#
# $$
# \mathrm{KL}\!\left(q(x_t) \,\|\, \mathcal N(0, I)\right) = \frac12 \sum_{i=1}^{D}
# \left(v_i - 1 - \log v_i\right) + \frac12\,\bar\alpha_t \lVert\mu\rVert^2 .
# \tag{1.17}
# $$
#
# **For any data it is a lower bound,** if $\mu$ and $\Sigma$ are the mean and covariance of these
# data. Let $g$ be the Gaussian with the mean and covariance of $x_t$. Then
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
# on the first two moments only, and $q$ and $g$ share them.
#
# **An upper bound** comes from the kernel. Write
# $\log\frac{q(x_t)}{\mathcal N(x_t)} = \log\frac{q(x_t \mid x_0)}{\mathcal N(x_t)} -
# \log\frac{q(x_t \mid x_0)}{q(x_t)}$ and take the mean over $x_0$ and $x_t$. The last term becomes
# $\operatorname{E}\log\frac{q(x_0, x_t)}{q(x_0)\,q(x_t)}$, the mutual information of $x_0$ and $x_t$;
# it is a KL divergence, so it is not negative:
#
# \begin{align*}
# \mathrm{KL}\!\left(q(x_t) \,\|\, \mathcal N(0, I)\right) &= L - \mathrm{I}(x_0; x_t) \ \le\ L, \\
# L &= \operatorname{E}_{x_0}\mathrm{KL}\!\left(q(x_t \mid x_0) \,\|\, \mathcal N(0, I)\right) \\
# &= \tfrac12\left[\bar\alpha_t \operatorname{E}\lVert x_0\rVert^2 - D\bar\alpha_t
#   - D\log(1-\bar\alpha_t)\right] .
# \tag{1.18}
# \end{align*}
#
# (The formula for $L$ is the one-coordinate KL with $v = 1 - \bar\alpha_t$ and $m$ a coordinate of
# $\sqrt{\bar\alpha_t}\,x_0$, summed over the coordinates.) At $t = T$ it will return as $L_T$, a part
# of the training objective that no network can change. Note what else (1.18) says: $L$ bounds *both*
# the distance from noise and the information that $x_t$ still holds about $x_0$. If $L$ is small, the
# data are forgotten.
#
# Now the knob: the number of steps $T$. Three ways to choose the schedule for another $T$: keep the
# end points $10^{-4}$ and $0.02$ of the linear schedule; rescale them by $1000/T$, so that their sum
# stays (the default of `schedules.linear`); or cosine.

# %% mystnb={"image": {"alt": "Divergence from pure noise in nats against the number of steps T, both logarithmic, as narrow bands between lower and upper bound. Linear with fixed end points falls from about 20 nats at T = 50 to below one millionth at T = 2000. Linear with rescaled end points stays flat below one thousandth. Cosine falls steadily from ten to the minus 5 to ten to the minus 8."}} tags=["hide-input"]
power_of_data, D = float((flat**2).sum(1).mean()), flat.shape[1]


def bounds(beta):
    """ᾱ_T, and between which nats KL(q(x_T) ‖ N(0, I)) of the digits lies: (1.17) and (1.18)."""
    p = DDPM(beta)
    left = float(p.alpha_bar[-1])
    upper = 0.5 * (left * power_of_data - D * left - D * math.log1p(-left))
    return left, oracle.Gaussian(p, mean, cov).kl_to_prior(p.T), upper


choices = {
    "linear, fixed ends": lambda T: schedules.linear(T, 1e-4, 0.02),
    "linear, rescaled": schedules.linear,
    "cosine": schedules.cosine,
}
fig, ax = plt.subplots(figsize=(5.8, 2.7))
rows = []
for (name, schedule), colour in zip(
    choices.items(), plots.COLOURS, strict=False
):
    grid_T = [50, 100, 250, 500, 1000, 2000]
    found = {T: bounds(schedule(T)) for T in grid_T}
    _, low, high = np.array(list(found.values())).T
    assert (low <= high).all() and (high < 2 * low).all()
    _ = ax.fill_between(grid_T, low, high, color=colour, alpha=0.3, lw=0)
    _ = ax.loglog(grid_T, high, ".-", color=colour, label=name)
    for T in (250, 500, 1000):
        left, low, high = found[T]
        cells = [f"{v:.1e}".replace("-", "−") for v in (left, low, high)]
        rows.append(
            f"| {name} | {T} | {cells[0]} | {100 * left**0.5:.2g}\N{NO-BREAK SPACE}% | {cells[1]} | {cells[2]} |"
        )
ax.set(xlabel="number of steps $T$", ylabel="KL from noise (nats)")
ax.set_xticks(grid_T, labels=grid_T)
ax.minorticks_off()
_ = ax.legend()
Markdown(
    "| schedule | T | ᾱ_T | √ᾱ_T | KL ≥, (1.17) | KL ≤, (1.18) |\n|:--|--:|--:|--:|--:|--:|\n"
    + "\n".join(rows)
)

# %% [markdown]
# The bounds are exact numbers, not estimates, so they carry no error bars; the true divergence lies
# in the band, which is less than a factor of two wide. What to take from it:
#
# - *Fixed end points and fewer steps do not mix.* At $T = 250$ the last $x_T$ still holds
#   $\sqrt{\bar\alpha_T} = 28\,\%$ of the image's amplitude: the mean of a digit, $-0.39$, is still
#   visible as $-0.11$ in every pixel of the "noise". A sampler that starts from $\mathcal N(0, I)$
#   starts in the wrong place, and no training repairs it. At $T = 500$ it is 8 %. Who compares
#   $T = 500, 1000, 2000$ and keeps the end points compares three processes of which the first has
#   not finished.
# - Rescaled, the linear schedule ends with about the same $\bar\alpha_T$, a few $10^{-5}$, for each
#   $T\ge100$: the sum in (1.11) is fixed, and for small steps the bound is nearly the value. The knob
#   then changes the *size of a step* and little else, which is what one wants to compare.
# - At $T = 1000$ all is well: below $10^{-3}$ nats for 64 pixels. But "the data are forgotten" is a
#   statement with a number behind it. What is forgotten last is what all pixels share, the term with
#   $\mu$ in (1.17), and the larger the image, the more of them share it:
#   [Lin et al. (2024)](https://arxiv.org/abs/2305.08891) trace the medium brightness of many generated
#   pictures to this remainder.

# %% [markdown]
# ## What goes wrong
#
# Four ways to get the ten lines wrong, all of them met in the wild. None raises an error, all of them
# draw something that looks like noise being added.
#
# 1. **The bar is dropped:** $\sqrt{1-\alpha_t}$ where $\sqrt{1-\bar\alpha_t}$ belongs, `alpha[t]` for
#    `alpha_bar[t]`. (One of the slide decks behind this book prints this very slip in its sampling
#    algorithm.)
# 2. **The root is missing:** the variance $1-\bar\alpha_t$ is used as a standard deviation, the
#    $\sigma_t I$ of the box above.
# 3. **Off by one:** the table starts at $\bar\alpha_1$, but is read at index $t$.
# 4. **Data in $[0, 1]$** and not in $[-1, 1]$. The process is right; its input is not.

# %% mystnb={"image": {"alt": "Five rows of the same digit at six times. Row one, correct: the digit drowns in noise. Row two, bar dropped: it fades to flat grey, with little noise. Row three, root missing: slightly less grain in the middle columns. Row four, off by one: no visible difference from row one. Row five, data in 0 to 1: grey in place of black background at t = 0."}} tags=["hide-input"]
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


versions = [correct, bar_dropped, root_missing, off_by_one, data_in_0_1]
digit, eps = typical(3)[None], torch.randn(1, 1, 8, 8, generator=seeded(14))
times = [0, 20, 100, 200, 400, 1000]
tiles = torch.cat(
    [version(digit, t, eps) for version in versions for t in times]
).float()
ax = plots.grid(tiles, ncol=len(times))
ax.set_axis_on()
ax.set(
    xticks=[9 * i + 3.5 for i in range(6)], xticklabels=times, xlabel="time $t$"
)
names = [
    "correct",
    "bar dropped",
    "root missing",
    "off by one",
    "data in [0, 1]",
]
ax.set(yticks=[9 * i + 3.5 for i in range(5)], yticklabels=names)
ax.grid(False)
ax.spines[:].set_visible(False)
ax.figure.set_size_inches(4.8, 3.8)

# %% [markdown]
# The first bug can be seen: the digit fades to grey instead of drowning. The second is subtle, the
# third invisible, and the fourth shows in its first pictures only. So do not look: compute. Three
# checks, each a line of theory from this chapter, applied to the two coefficients of each version
# (which we read off by feeding it $x_0 = 1, \varepsilon = 0$ and the other way round):

# %%
one, zero = torch.ones(1, **double), torch.zeros(1, **double)
step_scale, step_std = (1 - process.beta[1]).sqrt(), process.beta[1].sqrt()
rows = []
for name, version in zip(names, versions, strict=True):
    offset = [version(zero, t, zero) for t in range(1001)]
    on_x0 = torch.stack(
        [version(one, t, zero) - offset[t] for t in range(1001)]
    )
    on_eps = torch.stack(
        [version(zero, t, one) - offset[t] for t in range(1001)]
    )
    clean = (version(0.3 * one, 0, one) - 0.3).abs()
    first = torch.maximum(
        (on_x0[1] - step_scale).abs(), (on_eps[1] - step_std).abs()
    )
    unit = (on_x0**2 + on_eps**2 - 1).abs().max()
    marks = [
        f"**{off:.4f}**" if off > 1e-9 else "0"
        for off in map(float, (clean, first, unit))
    ]
    rows.append(f"| {name} | " + " | ".join(marks) + " |")
Markdown(
    "| version | t = 0 is clean | t = 1 is one step (1.2) | variance 1 stays 1 (1.3) |\n"
    "|:--|--:|--:|--:|\n" + "\n".join(rows)
)

# %% [markdown]
# Each number says by how much a check is violated; bold: caught. The table has a moral: **no single check catches all.** The popular one, that unit
# variance is preserved, is blind to the shift by one, because each $\bar\alpha$ preserves the
# variance, the right one as well as its neighbour. And the dropped bar passes at $t = 1$, where
# $\alpha_1 = \bar\alpha_1$. All versions above are in the test
# `tests/derivations/test_ch01.py::test_wrong_kernels_are_caught`, which demands that each wrong one
# fails at least one check and the library none. For the fourth there is a guard at the door, too: `data.to_float`
# takes `uint8` images only and maps them to $[-1, 1]$, so that data cannot be scaled twice
# (`tests/derivations/test_ch01.py::test_images_are_scaled_exactly_once`).
#
# A fifth trap hides in the number format. At the beginning of the chain $\bar\alpha_t$ is so close
# to 1 that $1-\bar\alpha_t$ loses its digits. How far off is the noise $\sqrt{1-\bar\alpha_1}$ of the
# first step if the tables are kept in shorter formats?

# %%
for dtype in (torch.float64, torch.float32, torch.bfloat16):
    short = torch.cumprod((1 - cosine.beta.to(dtype)), dim=0)
    error = float((1 - short[1]).double().sqrt() / cosine.std[1]) - 1
    print(f"{dtype!s:14} relative error of the first noise: {error:+.1e}")

# %% [markdown]
# In `bfloat16` the first steps add no noise at all ($-1$ is $-100\,\%$). The library keeps its tables
# in `float64` and casts when it multiplies.

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
    # (1-β)^t ≤ r  ⟺  t log(1-β) ≤ log r  ⟺  t ≥ log r / log(1-β), as log(1-β) < 0.
    # The small subtraction keeps rounding from adding a step when r is a power of 1-β.
    return math.ceil(math.log(residual) / math.log1p(-beta) - 1e-9)


exercises.check("1.1", steps_to_forget_solution)

# %% [markdown]
# ### ★★ Exercise 1.2: two times of one walk
#
# $x_s$ and $x_t$ with $s \le t$ belong to the same walk. Given $x_0$ (that is, with $x_0$ held
# fixed), what is the covariance of a coordinate of $x_s$ with the same coordinate of $x_t$? Write it
# as a function of $\bar\alpha_s$ and $\bar\alpha_t$.
#
# :::{dropdown} Hint
# By (1.8), $x_t$ is a multiple of $x_s$ plus noise that is independent of $x_s$. At $s = t$ you must
# get $1 - \bar\alpha_t$.
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
# Write a function that returns the table $\beta_0, \dots, \beta_T$ (length $T+1$, $\beta_0 = 0$)
# whose $\log\operatorname{SNR}_t$ falls on a straight line from `first` at $t = 1$ to `last` at
# $t = T$.
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
    alpha_bar = torch.sigmoid(
        torch.linspace(first, last, T, dtype=torch.float64)
    )
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
    # Averaging factor² pixels multiplies the SNR by factor², so the new SNR is the old / factor²:
    # ᾱ'/(1-ᾱ') = ᾱ / (k (1-ᾱ)) with k = factor², hence ᾱ' = ᾱ / (ᾱ + k (1-ᾱ)).
    # (Hoogeboom et al. 2023, "simple diffusion", shift the log-SNR of their schedules like this.)
    return alpha_bar / (alpha_bar + factor**2 * (1 - alpha_bar))


exercises.check("1.4", shifted_solution)

# %% [markdown]
# ### ★★★ Exercise 1.5: between the bounds
#
# For a one-dimensional `oracle.Mixture`, $\mathrm{KL}(q(x_t) \,\|\, \mathcal N(0, 1))$ has no closed
# form, but it is an integral over a line. Write a function that computes it to 1 %. Then convince
# yourself that it lies between (1.17) and (1.18) for the mixture of this chapter, at any $t$.
#
# :::{dropdown} Hint
# `mixture.log_prob(x, t)` is $\log q(x_t)$ at the points `x` of a grid. The integrand is smooth, so a
# plain sum times the spacing is very accurate once the grid covers where $q$ lives, say $[-9, 9]$,
# and its spacing is smaller than the narrowest component.
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

# %% [markdown]
# Here the upper bound is far off at late times, and (1.18) says why: the gap is the information that
# $x_t$ still holds about $x_0$, which falls in proportion to $\bar\alpha_t$, while the divergence of
# data whose mean is (nearly) zero falls faster. For the digits the bounds were close to each other
# because their mean is far from zero, and its term dominates both.

# %% [markdown]
# ## Recap
#
# 1. Each step shrinks and adds noise, $x_t = \sqrt{\alpha_t}\,x_{t-1} + \sqrt{\beta_t}\,\varepsilon_t$;
#    the factor $\sqrt{1-\beta_t}$ is there to keep the variance at one, or to bring it there.
# 2. Independent Gaussians add their *variances*, so all steps up to $t$ are one:
#    $x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\varepsilon$.
# 3. The density of $x_t$ is the density of the data, shrunk by $\sqrt{\bar\alpha_t}$ and blurred with
#    width $\sqrt{1-\bar\alpha_t}$.
# 4. Noise is white and images are not: high frequencies drown first, the label of a digit last.
# 5. At $t = T$ the data are forgotten up to a divergence that can be computed; check it before you
#    change $T$ and keep the end points.
#
# The equations of this chapter, the functions that implement them, the tests that pin them:

# %% mystnb={"code_prompt_show": "Equations, functions, tests", "code_prompt_hide": "Hide the table"} tags=["hide-cell"]
equations.table("01")

# %% [markdown]
# ## Further reading
#
# - [Sohl-Dickstein et al. (2015)](https://arxiv.org/abs/1503.03585), *Deep unsupervised learning
#   using nonequilibrium thermodynamics*: where the idea comes from, with a forward process that is
#   this one.
# - [Ho et al. (2020)](https://arxiv.org/abs/2006.11239), *Denoising diffusion probabilistic models*:
#   section 2 is our (1.1) and (1.6), section 4 the linear schedule.
# - [Nichol & Dhariwal (2021)](https://arxiv.org/abs/2102.09672), *Improved denoising diffusion
#   probabilistic models*: section 3.2 is the cosine schedule.
# - [Kingma et al. (2021)](https://arxiv.org/abs/2107.00630), *Variational diffusion models*: the
#   process seen through its SNR.
# - Field (1987), *Relations between the statistics of natural images and the response properties of
#   cortical cells*, Journal of the Optical Society of America A 4, 2379–2394: the power law.
# - [Xiao et al. (2022)](https://arxiv.org/abs/2112.07804), *Tackling the generative learning trilemma
#   with denoising diffusion GANs*: the trilemma, and one way out.
# - [Hoogeboom et al. (2023)](https://arxiv.org/abs/2301.11093), *Simple diffusion*, and
#   [Chen (2023)](https://arxiv.org/abs/2301.10972), *On the importance of noise scheduling*: why the
#   schedule must change with the size of the image.
# - [Lin et al. (2024)](https://arxiv.org/abs/2305.08891), *Common diffusion noise schedules and
#   sample steps are flawed*: what remains of the data at $t = T$, and what it does to pictures.
