# %% [markdown]
# # 6. IDDPM: learning the variance
#
# [![Open in Colab](../book/_static/colab.svg)](https://colab.research.google.com/github/ddpm-book/ddpm-book/blob/main/notebooks/06_iddpm.ipynb)
#
# A reverse step draws from a Gaussian. [Chapter 3](03_ddpm.ipynb) learned its mean and chose its
# variance by hand, one of two: $\tilde\beta_t$ or $\beta_t$. With a thousand steps the samples
# hardly differ. With the six steps of Fig. 6.1 they do: the mean is *exact* in all three panels,
# and only the variance of the steps differs. This chapter derives the best variance, then learns
# it, and measures what it is worth in bits and in samples, which turn out to prefer different
# variances.
#
# You need [chapter 2](02_reverse.ipynb) (the posterior), [chapter 3](03_ddpm.ipynb) and the bound
# of [chapter 4](04_elbo.ipynb).

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

# %%
import math
from itertools import pairwise

import torch
from ddpmlib.denoiser import oracle
from ddpmlib.likelihood import decoder_floor
from ddpmlib.prediction import Prediction
from ddpmlib.process import DDPM, schedules
from ddpmlib.samplers import draw, quadratic_times, uniform_times

double = {"dtype": torch.float64}
process = DDPM(schedules.cosine(1000))
weights, means = torch.tensor([[0.4, 0.6], [-1.2, 0.8]], **double)
stds = torch.tensor([0.2, 0.2], **double)  # mean 0, variance exactly 1
mixture = oracle.Mixture(process, weights, means[:, None], stds)


def unknown(exact, x, t):
    """Var(x_0 | x_t) of a mixture of two Gaussians, x (B, 1)."""
    a = exact.process.alpha_bar[t]
    var = a * stds**2 + 1 - a  # of x_t, component by component
    off = x - a.sqrt() * means
    log_p = weights.log() - off**2 / (2 * var) - var.log() / 2
    p = torch.softmax(log_p, dim=1)
    mean = means + a.sqrt() * stds**2 / var * off
    within = stds**2 * (1 - a) / var
    second = (p * (within + mean**2)).sum(1, keepdim=True)
    return second - (p * mean).sum(1, keepdim=True) ** 2


def best_variance(exact, x, t, s):
    """β̃ + A² Var(x_0 | x_t), equation (6.1)."""
    p = exact.process
    low, beta = p.variances(t, s)
    on_x0 = p.alpha_bar[s].sqrt() * beta / (1 - p.alpha_bar[t])
    return low + on_x0**2 * unknown(exact, x, t)


# %% tags=["hide-input"] mystnb={"image": {"alt": "Three histograms of samples after six steps with the true two-peaked density drawn over each. With beta tilde the two peaks are too narrow, with beta too wide; with the best variance the histogram follows the density."}}
import matplotlib.pyplot as plt
from ddpmlib.experiments.results import markdown
from ddpmlib.likelihood import continuous, elbo
from IPython.display import Markdown


def with_variance(exact, choice, times):
    """The exact denoiser with variance β̃ (0), β (1) or the best one."""
    below, floor = dict(pairwise(times)), decoder_floor(exact.process, times)

    def denoise(x, t, y=None):
        x0 = exact(x, t).x0
        if choice != "best":
            return Prediction(x0, choice)
        low, beta = exact.process.variances(t, below[t])
        low = low or floor  # where β̃ = 0, in the last step
        best = best_variance(exact, x, t, below[t])
        return Prediction(x0, (best / low).log() / math.log(beta / low))

    return denoise


CHOICES = {r"$\tilde\beta$": 0.0, "best": "best", r"$\beta$": 1.0}
times = quadratic_times(1000, 6)
truth = mixture.draw(20_000, generator=torch.Generator().manual_seed(0))
entropy = -float(mixture.log_prob(truth, 0).mean())
excess, distance, drawn = {}, {}, {}
for name, choice in CHOICES.items():
    denoiser = with_variance(mixture, choice, times)
    g = torch.Generator().manual_seed(1)
    bound = elbo(denoiser, process, truth, times, decoder=continuous, generator=g)
    excess[name] = float(bound.total.mean()) - entropy
    runs = []
    for seed in range(3):
        g = torch.Generator().manual_seed(seed)
        x_T = torch.randn(20_000, 1, generator=g, **double)
        drawn[name] = draw(denoiser, process, x_T, times, generator=g)
        # Between two samples of one size: the mean gap of sorted values.
        gap = drawn[name].sort(0).values - truth.sort(0).values
        runs.append(gap.abs().mean())
    distance[name] = torch.stack(runs)
line = torch.linspace(-2.6, 2.6, 400, **double)[:, None]
density = mixture.log_prob(line, 0).exp()
fig, axes = plt.subplots(1, 3, figsize=(7.5, 2.6), sharey=True)
look = {"bins": 80, "range": (-2.6, 2.6), "density": True, "color": plots.SKY}
for ax, name in zip(axes, CHOICES, strict=True):
    ax.hist(drawn[name][:, 0].numpy(), **look)
    ax.plot(line[:, 0], density, color="k", lw=1)
    ax.set(title=f"variance {name}", xlabel="$x_0$")
axes[0].set_ylabel("density")
for name in (r"$\tilde\beta$", r"$\beta$"):
    assert excess["best"] < 0.5 * excess[name]
    assert distance["best"].mean() < 0.5 * distance[name].mean()
assert max(found.std() for found in distance.values()) < 0.0025


def peaks(x):
    """Mean and deviation of the samples on either side of -0.2."""
    sides = x[x < -0.2], x[x >= -0.2]
    return [float(f) for side in sides for f in (side.mean(), side.std())]


at, wide = {k: peaks(x) for k, x in drawn.items()}, peaks(truth)
shifted = [abs(a - b) for a, b in zip(at[r"$\tilde\beta$"], wide, strict=True)]
assert [round(s, 2) for s in (wide[1], wide[3])] == [0.2, 0.2]
assert [round(s, 2) for s in at[r"$\tilde\beta$"][1::2]] == [0.19, 0.18]
assert [round(s, 2) for s in at[r"$\beta$"][1::2]] == [0.3, 0.29]
assert 0.06 < shifted[2] < shifted[0] < 0.11
figures = [f"{excess[k]:.2f} nats, {distance[k].mean():.3f}" for k in CHOICES]
print("bound above the entropy, distance to the data:", "; ".join(figures))

# %% [markdown]
# **Fig. 6.1.** With six steps the variance decides how wide the peaks are. Blue: samples; line: the
# true density; the mean of every step is exact. Left, $\tilde\beta$ makes the peaks too narrow
# (standard deviation 0.19 and 0.18 for 0.20) and moves them inwards by up to 0.1; right, $\beta$
# makes them too wide (0.30 and 0.29); in the middle stands the best variance of each step, (6.1).
# The bound lies 2.95, 0.14 and 0.43 nats above the entropy of the data, and the mean gap of sorted
# samples is 0.108, 0.021 and 0.085 (three seeds, ± 0.002).
#
# That the best variance has the lowest bound is a theorem below. That its samples are best is not,
# and for a *learned* mean it will turn out otherwise.
#
# ## Objectives
#
# After this chapter you can
#
# - say which variance a reverse step should have, and prove for which data $\tilde\beta_t$ and
#   $\beta_t$ are optimal;
# - compute what a wrong variance costs in nats, at which times it costs anything, and for which
#   data which end is the cheaper one;
# - write $L_{\text{hybrid}}$ with its stop-gradient, and say what each half of the network learns
#   from;
# - explain why the gradient of $L_{\text{vlb}}$ is noisy, and reduce the noise by drawing $t$
#   unevenly without a bias;
# - sample with few steps and a learned variance, and read bits per dimension with the care that
#   they need.
#
# ## The best variance of one step
#
# [Chapter 2](02_reverse.ipynb) wrote the posterior $q(x_s\mid x_t,x_0)$ as a Gaussian with variance
# $\tilde\beta_{t\to s}$ and mean $\tilde\mu = A\,x_0+B\,x_t$, where
# $A=\sqrt{\bar\alpha_s}\,\beta_{t\mid s}/(1-\bar\alpha_t)$ and
# $\beta_{t\mid s}=1-\bar\alpha_t/\bar\alpha_s$. The model draws from $\mathcal N(\hat\mu,\sigma^2)$
# with $\hat\mu=A\,\hat x_0+B\,x_t$. Per coordinate the bound contains the divergence of two
# Gaussians,
#
# $$
# \mathrm{KL}=\frac12\left[\frac{\tilde\beta}{\sigma^2}-1-\log\frac{\tilde\beta}{\sigma^2}+\frac{(\tilde\mu-\hat\mu)^2}{\sigma^2}\right],
# \qquad \tilde\mu-\hat\mu=A\,(x_0-\hat x_0).
# $$
#
# Average over the data. Everything random sits in $(x_0-\hat x_0)^2$; collect what stands over
# $\sigma^2$ and call it $\sigma^{*2}$:
#
# $$
# \mathbb E\,\mathrm{KL}=\frac12\left[\frac{\sigma^{*2}}{\sigma^2}-1-\log\frac{\tilde\beta}{\sigma^2}\right],
# \qquad
# \frac{\partial\,\mathbb E\,\mathrm{KL}}{\partial\log\sigma^2}=\frac12\left[1-\frac{\sigma^{*2}}{\sigma^2}\right].
# $$
#
# The slope is zero at $\sigma^2=\sigma^{*2}$, negative below and positive above. So the best
# variance is
#
# $$
# \sigma^{*2}=\tilde\beta_{t\to s}+\frac{\bar\alpha_s\,\beta_{t\mid s}^2}{(1-\bar\alpha_t)^2}\;\mathbb E\,(x_0-\hat x_0)^2 .
# \tag{6.1}
# $$
#
# This is the noise that would be there if $x_0$ were known, plus our error about $x_0$, scaled. If
# the average is taken at one $x_t$ and $\hat x_0$ is exact, the error is
# $\operatorname{Var}(x_0\mid x_t)$, and (6.1) is the true variance of $x_s$ given $x_t$, (2.12). A
# network with *larger* errors needs a *larger* variance.
#
# Subtract the minimum, and the price of any other variance is left, in nats per coordinate and
# step,
#
# $$
# \Delta=\frac12\left(r-1-\log r\right),\qquad r=\frac{\sigma^{*2}}{\sigma^2}.
# \tag{6.2}
# $$
#
# It is zero at $r=1$ only. Much too small a variance ($r\gg1$) costs in proportion to $r$, much too
# large a one only the logarithm of $1/r$.
#
# ### Two extreme kinds of data
#
# **Gaussian data.** Let $x_0\sim\mathcal N(0,c^2)$. Then
#
# $$
# \sigma^{*2}=\beta_{t\mid s}\;\frac{1-\bar\alpha_s+\bar\alpha_s\,c^2}{1-\bar\alpha_t+\bar\alpha_t\,c^2}
# \tag{6.3}
# $$
#
# :::{dropdown} Proof: the conditional variance of a Gaussian pair
# Write $V_u=1-\bar\alpha_u+\bar\alpha_uc^2$ for the variance of $x_u$. Then
# $x_t=\sqrt{\alpha_{t\mid s}}\,x_s+\sqrt{\beta_{t\mid s}}\,\varepsilon$ is a Gaussian pair with
# $\operatorname{Cov}=\sqrt{\alpha_{t\mid s}}\,V_s$, and its conditional variance is
# $V_s-\operatorname{Cov}^2/V_t$:
#
# $$
# V_s-\frac{\alpha_{t\mid s}V_s^2}{V_t}=\frac{V_s}{V_t}\left(V_t-\alpha_{t\mid s}V_s\right)=\beta_{t\mid s}\frac{V_s}{V_t},
# \qquad\text{since } V_t=\alpha_{t\mid s}V_s+\beta_{t\mid s}.
# $$
# :::
#
# Read off both ends. A **point mass**, $c=0$:
# $\sigma^{*2}=\beta_{t\mid s}\frac{1-\bar\alpha_s}{1-\bar\alpha_t}=\tilde\beta_{t\to s}$. A
# **standard normal**, $c=1$: the fraction is one, $\sigma^{*2}=\beta_{t\mid s}$. In between (6.3)
# rises with $c$: its derivative with respect to $c^2$ has the sign of
# $\bar\alpha_s-\bar\alpha_t>0$. For data wider than one, $c>1$, the best variance is *above*
# $\beta$. Images in $[-1,1]$ are not that wide, and (2.13) proved
# $\tilde\beta\le\mathbb E\,\sigma^{*2}\le\beta$ for them, whatever their shape: *on average* over
# $x_t$, not at each one (Fig. 6.3).

# %% tags=["hide-input"]
import sympy as sp

a_t, a_s, c = sp.symbols("a_t a_s c", positive=True)  # a = alpha_bar
beta = 1 - a_t / a_s
beta_tilde = (1 - a_s) / (1 - a_t) * beta
var_x0 = c**2 * (1 - a_t) / (1 - a_t + a_t * c**2)  # Var(x_0 | x_t)
best = beta_tilde + a_s * beta**2 / (1 - a_t) ** 2 * var_x0  # (6.1)
closed = beta * (1 - a_s + a_s * c**2) / (1 - a_t + a_t * c**2)  # (6.3)
checks = [best - closed, closed.subs(c, 0) - beta_tilde]
checks += [closed.subs(c, 1) - beta]
slope = sp.diff(closed, c) / (2 * c)  # with respect to c²
checks += [slope - beta * (a_s - a_t) / (1 - a_t + a_t * c**2) ** 2]
assert all(sp.simplify(check) == 0 for check in checks)
print("(6.1) is (6.3) for Gaussian data; c = 0 gives β̃, c = 1 gives β")

# %% [markdown]
# :::{admonition} Common misprint: a bar for a tilde, a variance for a deviation
# :class: warning
# "$\bar\beta_t$" is sometimes printed for $\tilde\beta_t$: a bar means a running product, as in
# $\bar\alpha_t$, and $\tilde\beta_t$ is none. And a covariance is printed as $\sigma_t I$ where it
# is $\sigma_t^2I$; the network of this chapter learns the *logarithm of the variance* $\sigma_t^2$,
# and half of it is the logarithm of the deviation that multiplies $z$. Forget that half and all
# noise is wrong. [Deck 000](../book/slides_map.md#deck-000), "Diffusion Model", adds two slips in
# words: the best variance lies between $\tilde\beta_t$ and $\beta_t$ "for each t" (only on average
# over $x_t$), and the learned place $v_\theta$ is a function of $t$ (it is one of $x_t$ and $t$).
# :::
#
# ### At which steps, and for which data, does the choice cost anything?
#
# The two ends differ by the factor
#
# $$
# \frac{\tilde\beta_{t\to s}}{\beta_{t\mid s}}=\frac{1-\bar\alpha_s}{1-\bar\alpha_t},
# \tag{6.4}
# $$
#
# which is close to one unless the step removes a good part of all the noise that there is.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Left: the ratio of beta tilde to beta over t/T for chains of 10, 100, 1000 and 4000 steps; each rises from zero to one, the longer the chain the sooner. Right: nats lost per step over t/T, highest at the smallest t, and larger for beta tilde or beta depending on t."}}
def prices(T, c):
    """What β̃ and β cost at t = 2..T for Gaussian data, in nats."""
    chain = DDPM(schedules.cosine(T))
    wide = 1 - chain.alpha_bar + chain.alpha_bar * c**2
    best = chain.beta[2:] * wide[1:-1] / wide[2:]  # (6.3)
    ratios = best / chain.beta_tilde[2:], best / chain.beta[2:]
    return [0.5 * (r - 1 - r.log()) for r in ratios]


LENGTHS = (10, 100, 1000, 4000)
fig, axes = plt.subplots(1, 2, figsize=(7.5, 2.9))
lines, total = [], {}
for T in LENGTHS:
    chain = DDPM(schedules.cosine(T))
    ratio, t = chain.beta_tilde[1:] / chain.beta[1:], torch.arange(1, T + 1)
    axes[0].plot(t / T, ratio, "o-" if T == 10 else "-", ms=3, label=f"{T}")
    late = ratio < 0.9
    low, high = prices(T, 0.3)
    there = float(low[late[1:]].sum() / low.sum())  # share of those steps
    total[T] = float(low.sum()), float(high.sum())
    lines.append((T, int(late.sum()), *(f"{p:.4f}" for p in total[T]), f"{there:.0%}"))
    assert there > 0.85
    if T in (100, 1000):
        assert high[late[1:]].sum() < high.sum() / 3
        colour = plots.BLUE if T == 100 else plots.ORANGE
        axes[1].plot(t[1:] / T, low, color=colour, label=rf"$\tilde\beta$, T = {T}")
        shown = high.clamp(min=1e-12)
        axes[1].plot(t[1:] / T, shown, "--", color=colour, label=rf"$\beta$, T = {T}")
assert [line[1] for line in lines] == [8, 18, 14, 11]
assert round(float(DDPM(schedules.cosine(1000)).std[14]), 3) == 0.032 > 4 / 127.5
assert total[10][1] > 5 * total[100][1] > 25 * total[1000][1] > 75 * total[4000][1]
assert min(low for low, _ in total.values()) > 0.2
axes[0].set(xscale="log", xlabel="t / T", ylabel=r"$\tilde\beta_t\,/\,\beta_t$")
axes[0].set_xlim(right=9)
axes[0].legend(title="T", fontsize=9, title_fontsize=9, loc="lower right")
axes[1].set(xscale="log", yscale="log", ylim=(1e-9, 1), xlabel="t / T")
axes[1].set_ylabel("price (6.2) in nats")
_ = axes[1].legend(fontsize=9)

# %% [markdown]
# **Fig. 6.2.** However long the chain, the two ends differ by more than a tenth in 8 to 18 steps
# only, the last ones before the data. Left, the ratio (6.4) for four lengths of chain (figure 1 of
# Nichol & Dhariwal). Right, what each end costs at every step, for Gaussian data with $c=0.3$: the
# price of $\tilde\beta$ (solid) is concentrated at the smallest $t$; less than a third of that of
# $\beta$ (dashed) is paid there, and it falls as chains grow.
#
# The sums over a chain, and how they depend on the data:

# %% tags=["hide-input"]
header = ("T", "steps with ratio < 0.9", "β̃ costs", "β costs", "share of β̃ there")
first = "Nats per coordinate for $c=0.3$:\n\n" + markdown(header, lines)
widths, by_width = (1.0, 0.3, 0.1, 0.03, 0.01), {}
for c in widths:
    by_width[c] = [float(p.sum()) for p in prices(100, c)]
for low, high in (by_width[1.0], by_width[0.3], by_width[0.1]):
    assert low > high
for low, high in (by_width[0.03], by_width[0.01]):
    assert high > low
second = [(f"c = {c}", *(f"{p:.3f}" for p in by_width[c])) for c in widths]
table = markdown(("data", "price of β̃", "price of β"), second)
Markdown(first + "\n\nNats per coordinate for $T=100$:\n\n" + table)

# %% [markdown]
# The price of $\tilde\beta$ is paid in these last steps (last column). At $T=1000$ the noise there
# has a standard deviation of at most 0.032, four grey levels of 255. So with an exact mean the
# choice does not show in samples of a thousand steps; it matters for likelihoods at any length, and
# for samples when the chain is short. Which end is the cheaper one depends on the width of the
# data: for wide data $\beta$ is right and $\tilde\beta$ costs most; for narrow data it is the other
# way round, as the two extremes demand. At $T=100$ the two cost the same somewhere between $c=0.1$
# and $c=0.03$; exercise 6.1 finds where.
#
# ### A place between the ends, in the logarithm
#
# The network outputs a second number $v'$ per pixel, and
#
# $$
# \sigma_\theta^2=\exp\!\big(v\log\beta_{t\mid s}+(1-v)\log\tilde\beta_{t\to s}\big),\qquad v=\frac{v'+1}{2} .
# \tag{6.5}
# $$
#
# Nothing forces $v$ into $[0,1]$. Why the logarithm? Because the price (6.2) depends on the *ratio*
# of variances alone, and variances run over many orders of magnitude with $t$; a network would have
# to be exact to many digits in one place and to none in another. Because we learn a *place* and not
# a variance, it has a meaning for any stride: `var_mix` in the code is $v$, and the two ends are
# those of the stride. Solve (6.5) for the place of the best variance:
#
# $$
# v^*=\frac{\log\big(\sigma^{*2}/\tilde\beta_{t\to s}\big)}{\log\big(\beta_{t\mid s}/\tilde\beta_{t\to s}\big)} .
# \tag{6.6}
# $$
#
# ### Where the best variance lies, for data with two peaks
#
# For our mixture $\sigma^{*2}(x_t,t)$ is known. The function `unknown` above has it in closed form;
# the next cell holds it against Bayes' rule on a grid, then draws (6.6) for a chain of twenty
# steps.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Left: map of the place of the best variance over x and t for a chain of 20 steps; it is highest in a wedge between the two modes and lower outside. Right: its average over x at each t, between 0 and 1."}}
chain = DDPM(schedules.cosine(20))
exact = oracle.Mixture(chain, weights, means[:, None], stds)
grid = torch.linspace(-4.5, 4.5, 361, **double)[:, None]
x0 = torch.linspace(-6, 6, 4001, **double)
for t in (2, 8, 15):  # Var(x_0 | x_t) by Bayes' rule, no formula
    a = chain.alpha_bar[t]
    log_q = exact.log_prob(x0[:, None], 0)
    log_q = log_q - (grid - a.sqrt() * x0) ** 2 / (2 * (1 - a))
    p = torch.softmax(log_q, dim=1)
    mean = (p * x0).sum(1, keepdim=True)
    by_grid = (p * (x0 - mean) ** 2).sum(1, keepdim=True)
    torch.testing.assert_close(by_grid, unknown(exact, grid, t), rtol=1e-6, atol=1e-9)

place, average, share_above, of_one_peak = {}, [], [], {}
for t in range(2, 21):
    low, beta = chain.variances(t, t - 1)
    best = best_variance(exact, grid, t, t - 1)
    place[t] = ((best / low).log() / math.log(beta / low))[:, 0]
    share = torch.softmax(exact.log_prob(grid, t), 0)  # q(x_t) on the grid
    mean = float(share @ best[:, 0])  # the average of (2.13)
    average.append(math.log(mean / low) / math.log(beta / low))
    share_above.append(float(share @ (place[t] > 1).double()))
    assert low <= mean <= beta * (1 + 1e-9)  # (2.13)
    assert (best >= low * (1 - 1e-9)).all()
    wide = 1 - chain.alpha_bar + chain.alpha_bar * 0.2**2  # one peak alone
    alone = float(beta * wide[t - 1] / wide[t])  # (6.3)
    of_one_peak[t] = math.log(alone / low) / math.log(beta / low)
fig, axes = plt.subplots(1, 2, figsize=(7.5, 2.8), width_ratios=(1.3, 1))
picture = torch.stack(list(place.values())).clamp(-0.5, 1.5)
look = {"aspect": "auto", "origin": "lower", "extent": (-4.5, 4.5, 1.5, 20.5)}
image = axes[0].imshow(picture, cmap="RdBu_r", vmin=-0.5, vmax=1.5, **look)
axes[0].set(xlabel="$x_t$", ylabel="t", xlim=(-2.5, 2.5), yticks=(2, 8, 14, 20))
axes[0].grid(visible=False)
fig.colorbar(image, label="$v^*$ (0: β̃, 1: β)")
axes[1].plot(range(2, 21), average, "o-", ms=4)
axes[1].set(xlabel="t", ylabel="place of the average", ylim=(-0.1, 1.1))
axes[1].set_xticks(range(2, 21, 6))
far = {t: float(place[t][-1]) for t in (2, 3, 4, 10, 20)}  # x_t = 4.5
for t in (2, 3, 4):
    assert abs(far[t] - of_one_peak[t]) < 0.005
assert abs(far[20] - 1) < 0.01 and 0.6 < max(share_above) < 0.66
ends = [f"{v:.2f} at t = {t}" for t, v in far.items()]
print("v* at x_t = 4.5:", ", ".join(ends))

# %% [markdown]
# **Fig. 6.3.** No constant is right everywhere: the variance should be a function of $x_t$ and $t$.
# Left, the best place $v^*$ (white: half-way). In the wedge between the peaks the question "left or
# right?" is open, and the best variance is at or above $\beta$, at some times for more than 60 % of
# all $x_t$ (clipped in the picture). Right, *on average* over $x_t$ it lies between the two ends,
# as (2.13) demands.
#
# Far out, at $x_t=4.5$, one peak is certain at small $t$, and what is left unknown is the width of
# that peak: $v^*$ is that of Gaussian data with $c=0.2$, 0.73, 0.51 and 0.35 at $t=2$, 3 and 4. At
# $t=20$ nothing is left of the data in $x_t$, wherever it lies; their whole variance, one, is
# unknown, and $v^*=1$.
#
# ### What the variance can be learned from
#
# $L_{\text{simple}}$ does not contain $\sigma$. The bound does. Draw one time and scale, so that
# the mean over uniform $t$ is the bound without the constant $L_T$, in bits per dimension:
#
# $$
# \ell^{\text{vlb}}_t=\frac{T}{d\ln 2}\,L_{t-1},\qquad
# \frac1T\sum_{t=1}^{T}\ell^{\text{vlb}}_t=\frac{L_0+L_1+\dots+L_{T-1}}{d\ln 2} .
# \tag{6.7}
# $$
#
# What does it teach the variance? With (6.5),
# $\partial\log\sigma^2/\partial v=\log(\beta/\tilde\beta)$; put it into the slope above (6.1), for
# one sample with the error $x_0-\hat x_0$, $A$ as there:
#
# $$
# \frac{\partial L_{t-1}}{\partial v}=\frac12\log\frac{\beta_{t\mid s}}{\tilde\beta_{t\to s}}\left[1-\frac{\tilde\beta_{t\to s}+A^2(x_0-\hat x_0)^2}{\sigma_\theta^2}\right] .
# \tag{6.8}
# $$
#
# Its average vanishes exactly at (6.1). So a network that only ever sees single errors learns their
# *mean square at this $x_t$*: it estimates its own uncertainty.
#
# And the mean? $L_{\text{vlb}}$ would train it too, but with weights that differ by orders of
# magnitude over $t$ and make worse images ([chapter 9](09_scoreboard.ipynb) measures it). Therefore
# Nichol & Dhariwal combine
#
# $$
# L_{\text{hybrid}}=L_{\text{simple}}+\lambda\,L_{\text{vlb}}\big(\operatorname{stopgrad}(\hat\mu),\,\sigma_\theta^2\big),\qquad \lambda=0.001 .
# \tag{6.9}
# $$
#
# The second term *sees* the mean, since the variance has to know the errors, but may not *move* it.
# The small $\lambda$ keeps the shared layers of the network with $L_{\text{simple}}$. The last
# layer has separate weights for the two halves, so there the separation is exact.
#
# ## $L_{\text{hybrid}}$ in ten lines, equal to the library's
#
# The cell compares values and both gradients with `l_hybrid`.

# %%
from ddpmlib.denoiser import EPS, Denoiser
from ddpmlib.losses import l_hybrid, l_simple, l_vlb
from ddpmlib.models import MLP


def hybrid_from_scratch(output, x0, t, eps, chain, share=1e-3):
    """L_hybrid (6.9) at one time t ≥ 2; output (B, 2) = ε̂ and v'."""
    a, b = chain.alpha_bar[t], chain.alpha_bar[t - 1]
    beta, low = chain.beta[t], chain.beta_tilde[t]
    eps_hat, v = output[:, :1], (output[:, 1:] + 1) / 2
    x_t = a.sqrt() * x0 + (1 - a).sqrt() * eps
    fixed = eps_hat.detach()  # the stop
    x0_hat = (x_t - (1 - a).sqrt() * fixed) / a.sqrt()
    log_var = v * beta.log() + (1 - v) * low.log()
    best = low + (b.sqrt() * beta / (1 - a) * (x0 - x0_hat)) ** 2
    kl = 0.5 * (best / log_var.exp() - 1 - low.log() + log_var)
    vlb = chain.T * kl / math.log(2)
    return ((eps - eps_hat) ** 2 + share * vlb)[:, 0]


_ = torch.manual_seed(0)
learned = Denoiser(MLP(1, width=64, depth=2, outputs=2), chain, EPS, None)
g = torch.Generator().manual_seed(4)
x0 = mixture.draw(256, generator=g).float()
eps = torch.randn(256, 1, generator=g)
close = {"rtol": 1e-3, "atol": 1e-5}
for t in (2, 10, 20):
    t_all = torch.full((256,), t)
    output = learned.net(chain.q_sample(x0, t, eps), t_all)
    ours = hybrid_from_scratch(output, x0, t, eps, chain)
    theirs = l_hybrid(learned, x0, t_all, eps, decoder=continuous)
    torch.testing.assert_close(ours.float(), theirs, **close)
    last = learned.net.out.weight
    by_hand = torch.autograd.grad(ours.mean(), last)
    by_library = torch.autograd.grad(theirs.mean(), last)
    torch.testing.assert_close(by_hand[0], by_library[0], **close)
print("the same values and gradients")

# %% [markdown]
# Train this little network on samples of the mixture, and lay its $\sigma_\theta^2$ over (6.1).

# %% tags=["nbval-ignore-output", "hide-input"] mystnb={"image": {"alt": "Three panels over x for t = 3, 6 and 10: the learned variance lies near the exact best variance on both sides and far below its hump between the modes, which rises above the dashed line for beta."}}
from functools import partial

from ddpmlib.losses import diffusion_loss
from ddpmlib.training import Settings, Trainer, fit


def toy_loss(model, x, y, generator):
    objective = partial(l_hybrid, decoder=continuous)
    return diffusion_loss(model, x, y, generator, objective=objective)


points = mixture.draw(8192, generator=g).float()
settings = Settings(steps=700, batch_size=256, lr=1e-2, ema=0.99)
toy = Trainer(learned, toy_loss, points, None, settings, device="cpu")
for _ in fit(toy):
    pass
learned = toy.averaged

fig, axes = plt.subplots(1, 3, figsize=(7.5, 2.6))
lines, off = [], []
for ax, t in zip(axes, (3, 6, 10), strict=True):
    low, beta = chain.variances(t, t - 1)
    with torch.no_grad():
        answer = learned(grid.float(), t)
    found = chain.posterior_std(t, t - 1, answer.var_mix.double()) ** 2
    best = best_variance(exact, grid, t, t - 1)
    share = torch.softmax(exact.log_prob(grid, t), 0)
    price = []
    for variance in (found, low, beta):
        r = (best / variance)[:, 0]
        price.append(float(share @ (0.5 * (r - 1 - r.log()))))
    off.append(float(share @ (found / best).log().abs()[:, 0]))
    lines.append((f"t = {t}", *(f"{p:.3f}" for p in price), f"{off[-1]:.0%}"))
    assert price[0] < 0.7 * min(price[1:]) and off[-1] < 0.25
    inside = (grid[:, 0].abs() < 2.0).numpy()
    if t == 3:  # the height of the hump
        assert 0.18 < found[inside].max() / best[inside].max() < 0.32
    ax.plot(grid[inside], best[inside], color="k", label="(6.1)")
    ax.plot(grid[inside], found[inside], color=plots.ORANGE, label="learned")
    ax.axhline(low, color=plots.GREEN, ls=":", label=r"$\tilde\beta$")
    ax.axhline(beta, color=plots.BLUE, ls="--", label=r"$\beta$")
    ax.set(title=f"t = {t}", xlabel="$x_t$", ylim=(0, None))
axes[0].set_ylabel("variance")
_ = axes[0].legend(fontsize=9)

# %% [markdown]
# **Fig. 6.4.** A network that saw only single squared errors finds the best variance roughly.
# Between the peaks, where data are rare, it is too small: at $t=3$ it reaches a quarter of the
# height of (6.1). Averaged over the data its variance is off by less than a quarter at each of the
# three times.

# %% tags=["nbval-ignore-output", "hide-input"]
header = ("", "learned", "β̃", "β", "learned is off by")
Markdown("Price (6.2) in nats, average over $x_t$:\n\n" + markdown(header, lines))

# %% [markdown]
# It costs less than 70 % of the better of the two constants at each of the three times.
#
# ## Importance sampling: which times should the bound be trained on?
#
# Suppose we do want $L_{\text{vlb}}$ alone, for the best likelihood. A training step draws $t$, and
# $\ell_t$ differs from time to time by orders of magnitude, so the gradient mostly says which $t$
# was drawn. Draw $t$ with probabilities $p_t$ instead and divide by them:
#
# $$
# \mathbb E_{t\sim p}\!\left[\frac{\ell_t}{T\,p_t}\right]=\sum_{t=1}^{T}p_t\,\frac{\ell_t}{T\,p_t}=\frac1T\sum_{t=1}^{T}\ell_t .
# \tag{6.10}
# $$
#
# Any positive $p$ leaves the mean as it was. The variance of the estimate it does change: with
# $g_t$ the (random) gradient of $\ell_t$ and $\bar g$ its mean over all times,
#
# $$
# \operatorname{Var}\!\left[\frac{g_t}{T\,p_t}\right]=\sum_{t=1}^{T}\frac{\mathbb E\lVert g_t\rVert^2}{T^2\,p_t}-\lVert\bar g\rVert^2 .
# \tag{6.11}
# $$
#
# Which $p$ makes it least? By the Cauchy–Schwarz inequality, with $\sum_tp_t=1$,
#
# $$
# \sum_t\frac{\mathbb E\lVert g_t\rVert^2}{p_t}=\sum_t\frac{\mathbb E\lVert g_t\rVert^2}{p_t}\cdot\sum_tp_t\;\ge\;\Big(\sum_t\sqrt{\mathbb E\lVert g_t\rVert^2}\Big)^2,
# $$
#
# with equality at $p_t\propto\sqrt{\mathbb E\lVert g_t\rVert^2}$. Gradients per time are expensive
# to keep; the losses are at hand. Nichol & Dhariwal take
#
# $$
# p_t\propto\sqrt{\mathbb E\,\ell_t^2} ,
# \tag{6.12}
# $$
#
# with the mean over the ten latest losses seen at $t$. Until every $t$ has been seen ten times, $t$
# is drawn uniformly. `ImportanceTimes(T)` does it, keeps a thousandth of uniform draws so that no
# weight exceeds 1000, and saves its history with the training state. They use it for
# $L_{\text{vlb}}$ alone; $L_{\text{hybrid}}$ is trained with uniform times. Taking losses for
# gradients is a heuristic, exact if the two are proportional; Fig. 6.5 measures how far that is
# from true.
#
# ## Strides: the variance of a longer step
#
# A chain trained with $T=1000$ steps and sampled at $S_K>\dots>S_1>S_0=0$ needs variances of its
# own. The paper derives a new table for the short chain,
#
# $$
# \beta'_k=1-\frac{\bar\alpha_{S_k}}{\bar\alpha_{S_{k-1}}},\qquad \tilde\beta'_k=\frac{1-\bar\alpha_{S_{k-1}}}{1-\bar\alpha_{S_k}}\,\beta'_k .
# \tag{6.13}
# $$
#
# Compare with [chapter 2](02_reverse.ipynb): these are $\beta_{t\mid s}$ and $\tilde\beta_{t\to s}$
# for $t=S_k$, $s=S_{k-1}$. Our `step` takes any two times, so there is nothing to derive again. The
# two agree to rounding:

# %%
long, times = DDPM(schedules.cosine(1000)), uniform_times(1000, 8)
rising = long.alpha_bar[times[::-1]]
beta = torch.cat([torch.zeros(1, **double), 1 - rising[1:] / rising[:-1]])
short = DDPM(beta)  # the table (6.13)
x, x0, noise, v = torch.randn(4, 5, 2, **double, generator=g)
prediction, gap = Prediction(x0, v.sigmoid()), 0.0
for k, (t, s) in zip(range(8, 0, -1), pairwise(times), strict=True):
    one = long.step(x, prediction, t, s, 1.0, noise)
    other = short.step(x, prediction, k, k - 1, 1.0, noise)
    gap = max(gap, float((one - other).abs().max()))
assert gap < 1e-12
print("eight strided steps: largest difference below 1e-12")

# %% [markdown]
# So a learned $v$ *can* be used for any stride. Is it still the *best* place there? Take Gaussian
# data and write $f(u)=\log V_u$ with the variance $V_u=1-\bar\alpha_u+\bar\alpha_uc^2$ of $x_u$,
# and $h(u)=\log(1-\bar\alpha_u)$. Then (6.3), (6.4) and (6.6) say
#
# $$
# v^*_{t\to s}=1-\frac{f(t)-f(s)}{h(t)-h(s)} .
# $$
#
# The difference quotient of a long stride is, by Cauchy's mean value theorem, the quotient of the
# slopes at *some* time between $s$ and $t$. So the best place of a stride is the best place of a
# small step somewhere inside of it, and the network is asked at its upper end. For strides over
# which $v^*$ changes little that is fine; for leaps it is not the optimum any more.

# %% tags=["hide-input"]
a = long.alpha_bar
wide = 1 - a + a * 0.3**2  # Gaussian data, c = 0.3


def best_place(t, s):  # t and s numbers, or tensors of the same shape
    noise = (1 - a[t]).log() - (1 - a[s]).log()
    return 1 - (wide[t].log() - wide[s].log()) / noise


lines = []
for t, s in ((20, 10), (200, 100), (600, 400), (1000, 500)):
    u = torch.arange(s + 1, t + 1)
    small, stride = best_place(u, u - 1), float(best_place(t, s))
    assert small.min() <= stride <= small.max()
    ends = f"{float(small[-1]):.2f}", f"{float(small[0]):.2f}"
    lines.append((f"{t} → {s}", f"{stride:.2f}", *ends))
header = ("stride t → s", "v* of the stride", "of a step at t", "of a step at s + 1")
Markdown(markdown(header, lines))

# %% [markdown]
# :::{admonition} Common misprint: who found the end of the chain too noisy
# :class: warning
# DDIM is sometimes credited with the remark that "the end of the chain is too noisy". It is Nichol
# & Dhariwal's, about the *linear* schedule (their figure 4: a model on 64×64 images hardly suffers
# when the first fifth of the reverse steps is skipped). DDIM skips steps for another reason, and
# evenly. What is left of the signal at $t=0.8\,T$ shows what is meant:
# :::

# %%
for schedule in (schedules.linear, schedules.cosine):
    signal = float(DDPM(schedule(1000)).scale[800])
    print(f"{schedule.__name__:7} signal √ᾱ at t = 800: {signal:.3f}")

# %% [markdown]
# ## Training on 8×8 digits with a learned variance
#
# Three fields of the digits recipe change: the objective, the learned variance (the network then
# outputs twice the channels), and a shorter budget.

# %% tags=["nbval-ignore-output"]
from ddpmlib import data
from ddpmlib.zoo import recipes

changes = {"objective": "hybrid", "var_mix": None, "settings.steps": 240}
recipe = recipes.changed(recipes.RECIPES["digits"], changes)
digits = data.load("digits")
x, y = digits.x_train, digits.y_train
loss, settings = recipe.loss(), recipe.settings
trainer = Trainer(recipe.build(), loss, x, y, settings, device="cpu")
losses = [progress.loss.item() for progress in fit(trainer)]
net = trainer.averaged
print(f"L_hybrid, last 50 updates: {sum(losses[-50:]) / 50:.2f}")
assert sum(losses[-50:]) / 50 < 0.5 * losses[0]

# %% [markdown]
# At these weights, how noisy are the gradients? For twelve times the next cell takes single images
# and measures the square of the gradient's norm, $\mathbb E\lVert g_t\rVert^2$, and the loss.

# %% tags=["nbval-ignore-output", "hide-input"] mystnb={"image": {"alt": "Left: root mean square gradient norm over t, both axes logarithmic: that of L_vlb falls by orders of magnitude from t = 1, that of L_simple falls little. Right: the probabilities of drawing t: uniform, by loss moments, and the best possible."}}
model = Denoiser(net.net, net.process, net.parameterization, None)
probe = [1, 2, 3, 5, 8, 15, 30, 70, 150, 300, 600, 950]
scans = data.to_float(digits.x_train)
square, moment = {"simple": [], "vlb": []}, {"simple": [], "vlb": []}
g = torch.Generator().manual_seed(9)
parameters = list(model.parameters())


def of_one_image(objective, k, t, eps):
    """Square of the gradient's norm, and of the loss."""
    one = slice(k, k + 1)
    loss = objective(model, scans[one], torch.tensor([t]), eps, digits.y_train[one])
    gradient = torch.autograd.grad(loss.sum(), parameters, allow_unused=True)
    norm = sum(float((p**2).sum()) for p in gradient if p is not None)
    return norm, loss.item() ** 2


for t in probe:
    pick = torch.randint(len(scans), (6,), generator=g).tolist()
    eps = torch.randn(6, 1, 1, 8, 8, generator=g)
    for name, objective in (("simple", l_simple), ("vlb", l_vlb)):
        drawn_now = zip(pick, eps, strict=True)
        found = [of_one_image(objective, k, t, e) for k, e in drawn_now]
        square[name].append(sum(norm for norm, _ in found) / 6)
        moment[name].append(sum(value for _, value in found) / 6)


def at_every_time(values):  # log-log interpolation between the probed times
    at, log_t = torch.arange(1, 1001.0).log(), torch.tensor(probe).log()
    log_v = torch.tensor(values).log()
    k = torch.searchsorted(log_t, at).clamp(1, len(probe) - 1)
    w = (at - log_t[k - 1]) / (log_t[k] - log_t[k - 1])
    return (log_v[k - 1] + w * (log_v[k] - log_v[k - 1])).exp().double()


E = {name: at_every_time(values) for name, values in square.items()}
root = at_every_time(moment["vlb"]).sqrt()
draws = {
    "uniform": torch.full((1000,), 1e-3, **double),
    "loss moments (6.12)": 0.999 * root / root.sum() + 1e-6,
    "best possible": E["vlb"].sqrt() / E["vlb"].sqrt().sum(),
}
noise = {k: float((E["vlb"] / (1e6 * p)).sum()) for k, p in draws.items()}
least = noise["best possible"]
fig, axes = plt.subplots(1, 2, figsize=(7.5, 2.8))
for name in ("vlb", "simple"):
    label = rf"$L_{{\mathrm{{{name}}}}}$"
    axes[0].plot(probe, torch.tensor(square[name]).sqrt(), "o-", ms=4, label=label)
axes[0].set(xscale="log", yscale="log", xlabel="t", ylabel="gradient norm (rms)")
for name, p in draws.items():
    axes[1].plot(range(1, 1001), p, label=name)
axes[1].set(xscale="log", yscale="log", xlabel="t", ylabel="$p_t$")
for ax in axes:
    ax.legend(fontsize=9)
flat = float(E["simple"].mean() / E["simple"].sqrt().mean() ** 2)
print("mean square of one gradient, in units of the best possible:")
print(f"L_vlb, uniform times {noise['uniform'] / least:.0f}", end="; ")
print(f"loss moments {noise['loss moments (6.12)'] / least:.1f}; L_simple {flat:.1f}")
assert least <= noise["loss moments (6.12)"] < 2 * least
assert noise["uniform"] > 20 * least and flat < 2
assert square["vlb"][0] > 100 * square["vlb"][6]
assert max(square["simple"]) < 8**2 * min(square["simple"])
assert E["vlb"][:10].sum() > 0.9 * E["vlb"].sum()

# %% [markdown]
# **Fig. 6.5.** With uniform times the gradient of $L_{\text{vlb}}$ is dominated by the first times:
# those up to $t=10$ have nine tenths of its mean square. Left, its norm falls by more than a factor
# of ten between $t=1$ and $t=30$; that of $L_{\text{simple}}$ varies by less than a factor of eight
# over all times. Right, the probabilities: uniform, by loss moments (6.12), and the best possible,
# which the loss moments come close to.
#
# The printed numbers are the first term of (6.11), relative to its least value: how many times
# larger a batch would have to be for equally little noise. Uniform times need more than twenty
# times the batch, loss moments less than twice. $L_{\text{simple}}$ with uniform times is near its
# own optimum, and so $L_{\text{hybrid}}$, whose main part it is, gets by without importance
# sampling.
#
# Is learning the variance *unstable*, as [deck 004](../book/slides_map.md#deck-004), "Diffusion
# models", says? For $L_{\text{vlb}}$ with uniform times there is something to it. From the record
# of [chapter 9](09_scoreboard.ipynb), the noise of minibatch gradients at the weights of two MNIST
# networks (128 images a batch, 100 batches):

# %% tags=["hide-input"]
from ddpmlib import experiments

for run in ("linear-vlb", "linear-hybrid"):
    rows = experiments.results.rows("gradient_noise", run=run, objective="vlb")
    ratio = {row["times"]: row["noise_to_signal"] for row in rows}
    assert ratio["uniform"] > 40 * ratio["importance"]
Markdown(experiments.gradient_noise.table())

# %% [markdown]
# Importance sampling divides the noise of $L_{\text{vlb}}$ by more than 40 in both networks. (The
# signal stands in the denominator: $L_{\text{simple}}$ at weights that nearly minimise it has
# hardly any left, hence the 35.) With $L_{\text{hybrid}}$ the variance follows a mean that it
# cannot move, and none of the book's hybrid runs diverged; that is no proof.
#
# ## Bits against samples: which variance for few steps?
#
# $\tilde\beta$, $\beta$, or the learned variance, on the *same* trained mean, with the same noise.
# Two questions. How good are samples in few steps (Fréchet distance and class agreement, in the
# features of `digits-classifier`, 150 samples, three sampling seeds, one training seed)? And how
# many bits does the bound need?
#
# **What the bits mean.** The decoder, (13) of Ho et al., gives each pixel a probability for each of
# 256 grey values. The digits were scanned with 17 levels, stored as 8-bit values
# $\operatorname{round}(255\,k/16)$; only 17 of the 256 bins ever occur. The numbers below are code
# lengths in bits per pixel *for 8-bit values whose gaps the model was not told of*. [Chapter
# 4](04_elbo.ipynb) says what they may be compared with: these data alone.

# %% tags=["nbval-ignore-output", "hide-input"]
from ddpmlib import zoo
from ddpmlib.evaluation import features, metrics
from ddpmlib.likelihood import bits_per_dim, prior_term, reverse_step_term

KINDS = {"β̃": 0.0, "β": 1.0, "learned": None}


def choose(denoiser, mix):
    """The same prediction, with another variance unless mix is None."""

    def denoise(x, t, y=None):
        prediction = denoiser(x, t, y)
        return prediction if mix is None else Prediction(prediction.x0, mix)

    return denoise


classifier, _ = zoo.load("digits-classifier", device="cpu")
real, _ = features.extract(classifier, digits.x_train)
y = torch.arange(10).repeat(15)
CALLS = (4, 8)


def measured(mix, n, seed):
    """Fréchet distance and class agreement of 150 samples."""
    g = torch.Generator().manual_seed(seed)
    x_T, times = torch.randn(150, 1, 8, 8, generator=g), uniform_times(1000, n)
    x = draw(choose(net, mix), net.process, x_T, times, y=y, generator=g)
    h, logits = features.extract(classifier, x)
    return metrics.frechet_distance(h, real), metrics.class_agreement(logits, y)


frechet, agreement = {}, {}
for kind, mix in KINDS.items():
    for n in CALLS:
        cell = torch.tensor([measured(mix, n, seed) for seed in range(3)])
        frechet[kind, n], agreement[kind, n] = cell.T
test, y_test = data.to_float(digits.x_test[:100]), digits.y_test[:100]


@torch.no_grad()
def bits(times, seed=0):
    """Bits per dimension (100,) of each kind, from the same draws of x_t."""
    p, g = net.process, torch.Generator().manual_seed(seed)
    floor = decoder_floor(p, times)
    total = {kind: prior_term(p, test) for kind in KINDS}
    for t, s in pairwise(times):
        x_t = p.q_sample(test, t, torch.randn(test.shape, generator=g))
        prediction = net(x_t, t, y_test)
        for kind, mix in KINDS.items():
            said = prediction if mix is None else Prediction(prediction.x0, mix)
            term = reverse_step_term(p, test, x_t, said, t, s, floor=floor)
            total[kind] = total[kind] + term.flatten(1).sum(1)
    return {kind: bits_per_dim(nats, 64) for kind, nats in total.items()}


nll = {n: bits(uniform_times(1000, n)) for n in (4, 16, 64)}
lines = []
for n, by_kind in nll.items():
    cells = [f"{b.mean():.2f} ± {b.std() / 10:.2f}" for b in by_kind.values()]
    lines.append((f"bits, {n} steps", *cells))
for table, name, places in ((frechet, "Fréchet", 0), (agreement, "agreement", 2)):
    for n in CALLS:
        cells = [table[kind, n] for kind in KINDS]
        cells = [f"{c.mean():.{places}f} ± {c.std():.{places}f}" for c in cells]
        lines.append((f"{name}, {n} steps", *cells))
most, few = nll[64], nll[4]
for other in ("β̃", "β"):  # the same draws: paired differences
    lead = most[other] - most["learned"]
    assert lead.mean() > 3 * lead.std() / 10
lead = few["β̃"] - few["learned"]
assert lead.mean() < 3 * lead.std() / 10  # at four steps learning wins nothing
for n in CALLS:
    assert frechet["β̃", n].max() < frechet["learned", n].min()
    assert frechet["learned", n].mean() < frechet["β", n].mean()
Markdown(markdown(("", *KINDS), lines))

# %% tags=["hide-input"] mystnb={"image": {"alt": "Left: bits per dimension against the number of steps for three variances; the learned one is lowest for long chains. Right: Fréchet distance against the number of steps with error bars for the three; beta tilde is lowest."}}
fig, axes = plt.subplots(1, 2, figsize=(7.5, 2.8))
colours = dict(zip(KINDS, (plots.GREEN, plots.BLUE, plots.ORANGE), strict=True))
for kind, colour in colours.items():
    label = {"β̃": r"$\tilde\beta$", "β": r"$\beta$"}.get(kind, kind)
    look = {"marker": "o", "capsize": 3, "label": label, "color": colour}
    bars = [by_kind[kind] for by_kind in nll.values()]
    errors = [b.std() / 10 for b in bars]
    axes[0].errorbar(list(nll), [b.mean() for b in bars], errors, **look)
    bars = [frechet[kind, n] for n in CALLS]
    axes[1].errorbar(CALLS, [b.mean() for b in bars], [b.std() for b in bars], **look)
axes[0].set(xscale="log", ylabel="bits per dimension")
axes[1].set(xscale="log", ylabel="Fréchet distance")
for ax, ticks in zip(axes, (list(nll), CALLS), strict=True):
    ax.set(xlabel="steps", xticks=ticks, xticklabels=ticks)
    ax.minorticks_off()
_ = axes[0].legend()

# %% [markdown]
# **Fig. 6.6.** The variance with the fewest bits does not draw the best digits. Left, bits per
# dimension (error bars: standard error over 100 test scans): at 64 steps the learned variance is
# lowest. Right, Fréchet distance (standard deviation over three seeds): $\tilde\beta$ is lowest at
# every count, the learned variance second, $\beta$ last.
#
# - **Bits, long chains.** The learned variance has the lowest bound, as it should: it was trained
#   for steps of one.
# - **Bits, few steps.** At four steps it gains nothing over $\tilde\beta$. The factor
#   $\log(\beta/\tilde\beta)$ in (6.8) is the size of the gradient that teaches $v$. In steps of one
#   it is next to nothing except at the smallest $t$ (table below), so at most times $v$ is not
#   *taught*. It still *moves* there, with the weights that it shares: before training it is one
#   half everywhere, after training it varies over pixels and images at every time. A long stride
#   uses exactly those values.
# - **Samples.** The best variance of (6.1) *contains the errors of the network*: a network that is
#   unsure of the mean adds noise. That is right for the likelihood. In these features, which react
#   to fine grain ([chapter 9](09_scoreboard.ipynb)), it costs more than it gains; with the exact
#   mean of Fig. 6.1 there are no errors to add, and one variance is best in both respects. Nichol &
#   Dhariwal report the same trade-off for $L_{\text{vlb}}$ against $L_{\text{hybrid}}$.
#
# That *more* steps do not lower the bound of this net is no general property (with exact
# predictions and best variances finer chains are never worse); the network has had 240 updates, and
# we have not traced the cause.

# %% tags=["nbval-ignore-output", "hide-input"]
fresh, lines = recipe.build(), []
for t in (2, 5, 20, 100, 500, 900):
    eps = torch.randn(test.shape, generator=torch.Generator().manual_seed(t))
    x_t = net.process.q_sample(test, t, eps)
    with torch.no_grad():
        v, before = net(x_t, t, y_test).var_mix, fresh(x_t, t, y_test).var_mix
    low, beta = net.process.variances(t, t - 1)
    factor = math.log(beta / low)
    lines.append((t, f"{factor:.4f}", f"{v.mean():.2f} ± {v.std():.2f}"))
    assert (before == 0.5).all() and v.std() > 0.1
assert factor < 0.001
header = ("t", "log(β/β̃)", "learned v, mean ± spread over pixels and images")
Markdown(markdown(header, lines))

# %% [markdown]
# ## The shipped MNIST network with three variances
#
# The MNIST model that ships with the book was trained with $L_{\text{hybrid}}$ (its card says how
# long, and on which hardware). Ten calls with each variance, from the same noise:

# %% tags=["nbval-ignore-output", "hide-input"] mystnb={"image": {"alt": "Three rows of ten generated MNIST digits, for the small variance, the large variance and the model's own; the row of the large variance is grainier than the others."}}
mnist, card = zoo.load("mnist", device="cpu")
assert card.recipe["var_mix"] is None and card.recipe["objective"] == "hybrid"
reader, _ = zoo.load("mnist-classifier", device="cpu")
y = torch.arange(10).repeat(3)
rows, rough, ten = [], {}, uniform_times(mnist.process.T, 10)
for kind, mix in KINDS.items():
    g = torch.Generator().manual_seed(3)
    x_T = torch.randn(30, *card.image_shape, generator=g)
    x = draw(choose(mnist, mix), mnist.process, x_T, ten, y=y, generator=g)
    # How rough: mean absolute difference of neighbouring pixels.
    rough[kind] = float(x.clamp(-1, 1).diff(dim=-1).abs().mean())
    rows.append(x[:10])
fig, ax = plt.subplots(figsize=(7.5, 2.3))
_ = plots.grid(torch.cat(rows), ncol=10, ax=ax)
assert rough["β"] > 1.08 * rough["β̃"]
assert abs(rough["learned"] / rough["β̃"] - 1) < 0.05

# %% [markdown]
# **Fig. 6.7.** In ten calls $\beta$ leaves grain. Rows: $\tilde\beta$, $\beta$, the model's own
# variance. Neighbouring pixels differ by at least 8 % more with $\beta$ than with $\tilde\beta$;
# the learned variance is within 5 % of $\tilde\beta$. [Chapter 9](09_scoreboard.ipynb) compares the
# three with thousands of samples.
#
# ## What goes wrong
#
# **The stop-gradient is forgotten.** One missing `.detach()`, and nothing crashes: the loss has the
# same *value*. But the mean now also descends on $\lambda L_{\text{vlb}}$. The next cell measures
# what that adds, as the ratio of the two gradients at the half of the output that is the mean, on
# the digits network.
#
# **The variance is interpolated, not its logarithm.** $v\beta+(1-v)\tilde\beta$ has the same ends.
# In a stride with $\tilde\beta\ll\beta$ most of the way from $\tilde\beta$ to $\beta$ on a
# logarithmic scale then lies below $v=0.1$, nearly two thirds of it in the stride of Fig. 6.8.
#
# **The clipped $\tilde\beta_1$.** $\tilde\beta_1=0$ has no logarithm. The cure is to put
# $\tilde\beta_2$ in its place. Whoever clips at "a small number" instead, say $10^{-20}$, sees
# perfectly normal samples, because the last step draws nothing, and pays for a decoder that allows
# no error.

# %% tags=["nbval-ignore-output", "hide-input"] mystnb={"image": {"alt": "Left: without the stop, the bound's gradient on the mean relative to that of L_simple, over t on logarithmic axes, about 0.6 at t = 1 and falling. Right: variance against v for a late stride: a straight line in the logarithm for (6.5), a curve that jumps up at once for linear mixing."}}
own_bound = {}
for t in (1, 2, 3, 5, 10, 30, 100, 300):
    g = torch.Generator().manual_seed(t)
    x0, eps = test[:32], torch.randn(32, 1, 8, 8, generator=g)
    t_all = torch.full((32,), t)
    x_t = net.process.q_sample(x0, t, eps)
    with torch.no_grad():
        output, v = net.raw(x_t, t_all, y_test[:32])
    output = output.requires_grad_()
    prediction = net.read(output, v, x_t, t_all)  # no detach: the bug
    nats = reverse_step_term(net.process, x0, x_t, prediction, t_all, t_all - 1)
    leak = 1e-3 * 1000 * nats.flatten(1).mean(1) / math.log(2)
    scale, std = net.process.kernel(t_all, x0)
    target = net.parameterization.target(x0, eps, scale, std)
    simple = ((output - target) ** 2).flatten(1).mean(1)
    (bad,) = torch.autograd.grad(leak.sum(), output, retain_graph=True)
    (good,) = torch.autograd.grad(simple.sum(), output)
    own_bound[t] = float(bad.norm() / good.norm())
fig, axes = plt.subplots(1, 2, figsize=(7.5, 2.7))
axes[0].plot(list(own_bound), list(own_bound.values()), "o-", ms=4)
axes[0].axhline(1, color="k", lw=0.8, ls=":")
axes[0].set(xscale="log", yscale="log", xlabel="t", ylabel="leak / intended gradient")
low, high = net.process.variances(100, 1)
v = torch.linspace(0, 1, 101, **double)
axes[1].plot(v, low ** (1 - v) * high**v, label="in the logarithm (6.5)")
axes[1].plot(v, (1 - v) * low + v * high, "--", label="linear: the bug")
axes[1].set(yscale="log", xlabel="$v$", ylabel="variance, step 100 → 1")
axes[1].legend(fontsize=9)
jump, tenth = (float(((1 - v) * low + v * high)[i] / low) for i in (2, 10))
way = math.log(tenth) / math.log(high / low)

t = torch.ones(100, dtype=torch.int64)
eps = torch.randn(test.shape, generator=torch.Generator().manual_seed(0))
x_1 = net.process.q_sample(test, 1, eps)
with torch.no_grad():
    prediction = net(x_1, t, y_test)
cost = []
for floor in (None, 1e-20):
    term = reverse_step_term(net.process, test, x_1, prediction, t, t - 1, floor=floor)
    cost.append(float(term.mean()) / math.log(2))
print(f"the last step in bits per pixel, β̃_1 clipped at β̃_2: {cost[0]:.1f}; ", end="")
print(f"at 1e-20: {cost[1]:,.0f}")
assert own_bound[1] > 0.1 and own_bound[1] > 5 * own_bound[30]
assert 600 < high / low < 750 and 14 < jump < 15 and round(way, 2) == 0.65
assert cost[0] < 3 and cost[1] > 10_000

# %% [markdown]
# **Fig. 6.8.** Two bugs that crash nothing. Left, without the stop the smallest times get an extra
# pull on the mean, at $t=1$ more than a tenth of the intended gradient, which fades over $t$: the
# network has been given another weighting of the times, one that grows with $T$ and with $\lambda$.
# Right, the ends of the stride 100 → 1 differ by a factor of nearly 700, and the linear mixture at
# $v=0.02$ is already 14 times $\tilde\beta$. The third bug costs more than ten thousand bits per
# pixel in the last step, where the cure costs less than three.
#
# The tests that catch them:
# `test_in_l_hybrid_the_mean_learns_from_l_simple_alone_and_the_variance_from_l_vlb_alone` (the
# gradient at the mean is compared to the last bit) and `test_l_vlb_by_hand` (the clip) in
# `tests/test_losses.py`, `test_the_answer_minus_one_is_beta_tilde_and_one_is_beta` (equal steps of
# $v$ are equal steps of $\log\sigma^2$) in `tests/test_denoiser.py`.

# %% [markdown]
# ## Exercises
#
# Write your answer into the cell below each question and take the `#` off its last line: the check
# says yes, or gives a hint. ★ asks for a derivation, ★★ for code, ★★★ for a small project of both.
# Solutions are folded.
#
# ### ★ Exercise 6.1: the data for which both ends cost the same
#
# At a stride $t\to s$ with given $\bar\alpha_t$ and $\bar\alpha_s$, which best variance
# $\sigma^{*2}$ makes $\tilde\beta$ and $\beta$ cost the same in the sense of (6.2)? And which width
# $c$ of Gaussian data has this best variance? Give `(even, width)`: `even(beta_tilde, beta)` is
# $\sigma^{*2}$, and `width(alpha_bar_t, alpha_bar_s)` is $c$.
#
# :::{dropdown} Hint
# Set the two prices equal; $-1$ and $\log\sigma^{*2}$ drop out, and an equation of first degree in
# $\sigma^{*2}$ is left. Then solve (6.3) for $c^2$, with
# $\beta_{t\mid s}=1-\bar\alpha_t/\bar\alpha_s$.
# :::

# %%
from ddpmlib.teaching import exercises

answer = ...  # (even, width), two functions

# exercises.check("6.1", answer)


# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
# Solution of exercise 6.1:
# σ*²/β̃ − log(1/β̃) = σ*²/β − log(1/β) is linear in σ*²
def even(beta_tilde, beta):
    return math.log(beta / beta_tilde) / (1 / beta_tilde - 1 / beta)


def width(a_t, a_s):
    beta = 1 - a_t / a_s
    best = even(beta * (1 - a_s) / (1 - a_t), beta)
    noise = best * (1 - a_t) - beta * (1 - a_s)
    signal = beta * a_s - best * a_t
    return math.sqrt(noise / signal)


exercises.check("6.1", (even, width))

# %% [markdown]
# ### ★★ Exercise 6.2: the variance of a stride
#
# Write `variance(alpha_bar, t, s, v)`: the variance (6.5) of the stride $t\to s$, $s\ge1$, from the
# table of $\bar\alpha$ alone.
#
# :::{dropdown} Hint
# $\beta_{t\mid s}$ and $\tilde\beta_{t\to s}$ are in (6.13). A power is shorter than an exponential
# of logarithms.
# :::

# %%
answer = ...  # a function of (alpha_bar, t, s, v)

# exercises.check("6.2", answer)


# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
# Solution of exercise 6.2
def variance(alpha_bar, t, s, v):
    beta = 1 - alpha_bar[t] / alpha_bar[s]
    low = (1 - alpha_bar[s]) / (1 - alpha_bar[t]) * beta
    return beta**v * low ** (1 - v)


exercises.check("6.2", variance)

# %% [markdown]
# ### ★★ Exercise 6.3: the best variance without training
#
# (6.1) needs one number per step, the mean square error of the network there, and errors can simply
# be measured. (This is the idea of Analytic-DPM {cite}`bao2022analytic`, which works for networks
# that never learned a variance.) Write `analytic(denoiser, process, x0, times, noise)`: for every
# stride $t\to s$ of `times`, noise the data `x0` (B, d) to $t$ with the $\varepsilon$ that is
# `noise[t]`, let `denoiser(x_t, t)` predict, and return the list of best variances, one number per
# stride, the mean taken over all samples and coordinates.
#
# :::{dropdown} Hint
# `process.q_sample`, `process.variances(t, s)` for $\tilde\beta$ and $\beta$ of the stride, and the
# factor of (6.1). At $s=0$, $\tilde\beta$ is zero and the error alone is left.
# :::

# %%
answer = ...  # a function (denoiser, process, x0, times, noise) -> list

# exercises.check("6.3", answer)


# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
# Solution of exercise 6.3
def analytic(denoiser, process, x0, times, noise):
    found = []
    for t, s in pairwise(times):
        x_t = process.q_sample(x0, t, noise[t])
        error = ((x0 - denoiser(x_t, t).x0) ** 2).mean()
        low, beta = process.variances(t, s)
        a_t, a_s = process.alpha_bar[t], process.alpha_bar[s]
        found.append(float(low + a_s * beta**2 / (1 - a_t) ** 2 * error))
    return found


exercises.check("6.3", analytic)

# %% [markdown]
# ### ★★ Exercise 6.4: the hybrid loss, with its stop
#
# Write `hybrid(output, target, place, beta_tilde, beta, on_x0, share)` for one time: the mean over
# samples of $(\text{output}-\text{target})^2$ plus `share` times the divergence of the reverse step
# in nats, for a network that predicts $x_0$. `on_x0` is $A$, `place` is $v$. The check looks at the
# value *and at both gradients*.
#
# :::{dropdown} Hint
# The divergence above (6.1), with $\sigma^2$ from (6.5). Where does `output` enter it, and what may
# come back through there?
# :::

# %%
answer = ...  # a function that returns a scalar tensor

# exercises.check("6.4", answer)


# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
# Solution of exercise 6.4
def hybrid(output, target, place, beta_tilde, beta, on_x0, share):
    log_var = place * math.log(beta) + (1 - place) * math.log(beta_tilde)
    error = output.detach() - target
    top = beta_tilde + (on_x0 * error) ** 2
    kl = 0.5 * (top / log_var.exp() - 1 - math.log(beta_tilde) + log_var)
    return ((output - target) ** 2 + share * kl).mean()


exercises.check("6.4", hybrid)

# %% [markdown]
# ### ★★★ Exercise 6.5: a variance trained for its strides
#
# A project: repair what Fig. 6.6 found. The variance of a network that was trained in steps of one
# is not taught at most times; train one for the six strides that it will be used for. The data are
# `samples`, three peaks; `exact3` predicts their $x_0$ exactly and knows no variance. Write the
# training: draw a stride $t\to s$ of `times`, noise the data to $t$, and descend on the divergence
# of that step in $v$ alone, by (6.8) or by autograd. Any function of $(x_t,t)$ will do for $v$: a
# small network such as `MLP(1, width=64, depth=2)`, or a table over bins of $x_t$ for each of the
# six times.
#
# Answer with a function `place(x_t, t)` that returns $v$, shaped as `x_t` (B, 1). Where
# $\tilde\beta=0$, in the last stride, the low end is `decoder_floor(process, times)`. The check
# draws data of its own and wants a bound that lies less than a quarter of the better constant's
# above that of the best variance.
#
# :::{dropdown} Hint
# At each of the six times: $\sigma^{*2}$ at a given $x_t$ is the mean of
# $\tilde\beta+A^2(x_0-\hat x_0)^2$ over the samples that were noised to about there. A table with
# 60 bins and 50,000 samples finds it in a second, without a gradient; (6.6) turns it into a place.
# :::

# %%
peaks = torch.tensor([[0.3, 0.4, 0.3], [-1.3, 0.1, 1.2]], **double)
narrow = torch.full((3,), 0.15, **double)
exact3 = oracle.Mixture(process, peaks[0], peaks[1][:, None], narrow)
g = torch.Generator().manual_seed(7)
samples = exact3.draw(50_000, generator=g)
times = quadratic_times(1000, 6)

# %%
answer = ...  # a function place(x_t, t)

# exercises.check("6.5", answer)

# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
# Solution of exercise 6.5: a table of mean squares,
# 62 bins at each of the six times
edges = torch.linspace(-3, 3, 61, **double)
floor = decoder_floor(process, times)
table = {}
for t, s in pairwise(times):
    eps = torch.randn(samples.shape, generator=g, **double)
    x_t = process.q_sample(samples, t, eps)
    low, high = (float(v) for v in process.variances(t, s))
    on_x0 = float(process.scale[s]) * high / float(process.std[t]) ** 2
    error = samples - exact3(x_t, t).x0
    single = low + (on_x0 * error) ** 2  # its mean is (6.1)
    bins = torch.bucketize(x_t[:, 0], edges)
    total = torch.bincount(bins, single[:, 0], 62)
    total = total + single.mean()  # for empty bins
    mean = total / (torch.bincount(bins, minlength=62) + 1)
    low = low or floor
    table[t] = (mean / low).log() / math.log(high / low)


def trained_place(x_t, t):
    return table[t][torch.bucketize(x_t, edges)]


exercises.check("6.5", trained_place)

# %% [markdown]
# ## Recap
#
# 1. The best variance of a reverse step is $\tilde\beta$ plus the scaled mean square error about
#    $x_0$; it is $\tilde\beta$ for a point, $\beta$ for a standard normal, and depends on $x_t$ and
#    $t$ for everything else.
# 2. However long the chain, the two ends differ by more than a tenth in its last 8 to 18 steps
#    only. For wide data $\tilde\beta$ is the costly end, for narrow data $\beta$; strides make the
#    difference visible in samples.
# 3. The network outputs a place $v$ between $\log\tilde\beta$ and $\log\beta$, which has a meaning
#    for every stride; it learns it from single squared errors, where $\log(\beta/\tilde\beta)$ is
#    not too small to teach it.
# 4. $L_{\text{hybrid}}=L_{\text{simple}}+\lambda L_{\text{vlb}}$ with a stop-gradient on the mean:
#    each half of the output learns from one of the two terms.
# 5. $L_{\text{vlb}}$ alone is dominated by the first times; drawing $t$ by loss moments and
#    dividing by $p_t$ reduces the noise and changes no mean.
#
# The equations of this chapter, the functions that implement them, the tests that pin them:

# %% mystnb={"code_prompt_show": "Equations, functions, tests", "code_prompt_hide": "Hide the table"} tags=["hide-cell"]
from ddpmlib import equations

equations.table("06")

# %% [markdown]
# ## Further reading
#
# - Nichol & Dhariwal (2021), *Improved denoising diffusion probabilistic models*
#   {cite}`nichol2021improved`: section 3.1 for (6.5) and (6.9), section 3.3 for (6.12), section 4
#   for strides. Their figures 1 and 2 are our Fig. 6.2.
# - Ho, Jain & Abbeel (2020) {cite}`ho2020denoising`: section 3.2 names the two extreme choices,
#   section 3.3 the discretised decoder.
# - Bao, Li, Zhu & Zhang (2022), *Analytic-DPM* {cite}`bao2022analytic`: (6.1) estimated from the
#   score, with bounds.
# - Kingma et al. (2021), *Variational diffusion models* {cite}`kingma2021variational`: what else
#   can be done for bits per dimension.
