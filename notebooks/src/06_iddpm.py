# %% [markdown]
# # 6. IDDPM: learning the variance
#
# [![Open in Colab](../book/_static/colab.svg)](https://colab.research.google.com/github/ddpm-book/ddpm-book/blob/main/notebooks/06_iddpm.ipynb)
#
# A reverse step draws from a Gaussian. Chapter 03 learned its mean and chose its variance by hand, one of two:
# $\tilde\beta_t$ or $\beta_t$. With a thousand steps nobody sees the difference. With six steps, below, everybody
# does. The mean is *exact* in all three panels; only the variance of the steps differs. Too little noise on the left,
# too much on the right, and in the middle the variance that this chapter derives, then learns.

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

import matplotlib.pyplot as plt
import torch
from ddpmlib.denoiser import oracle
from ddpmlib.likelihood import continuous, decoder_floor, elbo
from ddpmlib.prediction import Prediction
from ddpmlib.process import DDPM, schedules
from ddpmlib.samplers import draw, quadratic_times, uniform_times

double = {"dtype": torch.float64}
process = DDPM(schedules.cosine(1000))
weights, means = torch.tensor([[0.4, 0.6], [-1.2, 0.8]], **double)
stds = torch.tensor([0.2, 0.2], **double)  # mean 0, variance exactly 1
mixture = oracle.Mixture(process, weights, means[:, None], stds)


def ignorance(exact, x, t):
    """Var(x_0 | x_t) of a mixture of two Gaussians, x (B, 1)."""
    a = exact.process.alpha_bar[t]
    var = a * stds**2 + 1 - a  # of x_t, component by component
    off = x - a.sqrt() * means
    log_p = weights.log() - off**2 / (2 * var) - var.log() / 2
    p = torch.softmax(log_p, dim=1)
    mean = means + a.sqrt() * stds**2 / var * off
    second = (p * (stds**2 * (1 - a) / var + mean**2)).sum(1, keepdim=True)
    return second - (p * mean).sum(1, keepdim=True) ** 2


def best_variance(exact, x, t, s):  # β̃ + A² Var(x_0 | x_t), equation (6.1)
    p = exact.process
    low, beta = p.variances(t, s)
    on_x0 = p.alpha_bar[s].sqrt() * beta / (1 - p.alpha_bar[t])
    return low + on_x0**2 * ignorance(exact, x, t)


def with_variance(exact, choice, times):
    """The exact denoiser with variance β̃ (0), β (1) or the best one."""
    below, floor = (
        dict(pairwise(times)),
        decoder_floor(exact.process, times),
    )

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
generator = torch.Generator().manual_seed(0)
truth = mixture.draw(20_000, generator=generator)
entropy = -float(mixture.log_prob(truth, 0).mean())
excess, distance, drawn = {}, {}, {}
for name, choice in CHOICES.items():
    denoiser = with_variance(mixture, choice, times)
    g = torch.Generator().manual_seed(1)
    bound = elbo(
        denoiser, process, truth, times, decoder=continuous, generator=g
    )
    excess[name] = float(bound.total.mean()) - entropy
    runs = []
    for seed in range(3):
        g = torch.Generator().manual_seed(seed)
        x_T = torch.randn(20_000, 1, generator=g, **double)
        drawn[name] = draw(denoiser, process, x_T, times, generator=g)
        # Between two samples of one size: the mean gap of the sorted values.
        gap = drawn[name].sort(0).values - truth.sort(0).values
        runs.append(gap.abs().mean())
    distance[name] = torch.stack(runs)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Three histograms of samples after six steps with the true two-peaked density drawn over each. With beta tilde the two peaks are too narrow, with beta too wide; with the best variance the histogram follows the density."}}
line = torch.linspace(-2.6, 2.6, 400, **double)[:, None]
density = mixture.log_prob(line, 0).exp()
fig, axes = plt.subplots(1, 3, figsize=(7.5, 2.6), sharey=True)
for ax, name in zip(axes, CHOICES, strict=True):
    ax.hist(
        drawn[name][:, 0].numpy(),
        bins=80,
        range=(-2.6, 2.6),
        density=True,
        color=plots.SKY,
    )
    ax.plot(line[:, 0], density, color="k", lw=1)
    ax.set(title=f"variance {name}", xlabel="$x_0$")
axes[0].set_ylabel("density")
print("variance        bound above the entropy   distance to the data")
for label, name in zip(("β̃", "best", "β"), CHOICES, strict=True):
    d = distance[name]
    print(
        f"{label:14} {excess[name]:12.2f} nats {d.mean():19.3f} ± {d.std():.3f}"
    )
for name in CHOICES:
    if name != "best":
        assert excess["best"] < 0.5 * excess[name]
        assert distance["best"].mean() < 0.5 * distance[name].mean()

# %% [markdown]
# *What to see:* samples after six steps (blue) against the true density (line). The table adds two numbers: how many nats the variational
# bound lies above the entropy of the data, and how far the samples are from the data (mean gap of sorted samples, three seeds).
# $\tilde\beta$ makes the peaks too narrow, $\beta$ too wide. That the best variance has the lowest bound is a theorem below; that its samples are best is not, and for a *learned* mean it will turn out otherwise.
#
# ## Objectives
#
# After this chapter you can
#
# - say which variance a reverse step should have, and prove for which data $\tilde\beta_t$ and $\beta_t$ are optimal;
# - compute what a wrong variance costs in nats, and at which times it costs anything;
# - write $L_{\text{hybrid}}$ with its stop-gradient, and say what each half of the network learns from;
# - explain why the gradient of $L_{\text{vlb}}$ is noisy, and calm it by drawing $t$ unevenly without a bias;
# - sample with few steps and a learned variance, and read bits per dimension with the care that they need.
#
# ## The derivation
#
# ### The best variance of one step
#
# Chapter 02 wrote the posterior $q(x_s\mid x_t,x_0)$ as a Gaussian with variance $\tilde\beta_{t\to s}$ and mean $\tilde\mu = A\,x_0+B\,x_t$, where
# $A=\sqrt{\bar\alpha_s}\,\beta_{t\mid s}/(1-\bar\alpha_t)$ and $\beta_{t\mid s}=1-\bar\alpha_t/\bar\alpha_s$. The model draws from $\mathcal N(\hat\mu,\sigma^2)$ with
# $\hat\mu=A\,\hat x_0+B\,x_t$. Per coordinate the variational bound charges the divergence of two Gaussians,
#
# $$
# \mathrm{KL}=\frac12\left[\frac{\tilde\beta}{\sigma^2}-1-\log\frac{\tilde\beta}{\sigma^2}+\frac{(\tilde\mu-\hat\mu)^2}{\sigma^2}\right],
# \qquad \tilde\mu-\hat\mu=A\,(x_0-\hat x_0).
# $$
#
# Average over the data. Everything random sits in $(x_0-\hat x_0)^2$; collect what stands over $\sigma^2$ and call it $\sigma^{*2}$:
#
# $$
# \mathbb E\,\mathrm{KL}=\frac12\left[\frac{\sigma^{*2}}{\sigma^2}-1-\log\frac{\tilde\beta}{\sigma^2}\right],
# \qquad
# \frac{\partial\,\mathbb E\,\mathrm{KL}}{\partial\log\sigma^2}=\frac12\left[1-\frac{\sigma^{*2}}{\sigma^2}\right].
# $$
#
# The slope is zero at $\sigma^2=\sigma^{*2}$, negative below and positive above. So the best variance is
#
# $$
# \sigma^{*2}=\tilde\beta_{t\to s}+\frac{\bar\alpha_s\,\beta_{t\mid s}^2}{(1-\bar\alpha_t)^2}\;\mathbb E\,(x_0-\hat x_0)^2 .
# \tag{6.1}
# $$
#
# Noise that would be there if $x_0$ were known, plus our error about $x_0$, scaled. If the average is taken at one $x_t$ and $\hat x_0$ is exact, the
# error is $\operatorname{Var}(x_0\mid x_t)$, and (6.1) is the true variance of $x_s$ given $x_t$, (2.12). A network with *larger* errors wants a *larger* variance: it owns up to them.
#
# Subtract the minimum, and the price of any other variance is left, in nats per coordinate and step,
#
# $$
# \Delta=\frac12\left(r-1-\log r\right),\qquad r=\frac{\sigma^{*2}}{\sigma^2}.
# \tag{6.2}
# $$
#
# It is zero at $r=1$ only. Too small a variance ($r>1$) is charged linearly, too large a one only logarithmically.
#
# ### Two extreme kinds of data
#
# **Gaussian data.** Let $x_0\sim\mathcal N(0,c^2)$ and write $V_u=1-\bar\alpha_u+\bar\alpha_uc^2$ for the variance of $x_u$. Then $x_t=\sqrt{\alpha_{t\mid s}}\,x_s+\sqrt{\beta_{t\mid s}}\,\varepsilon$ is a Gaussian pair, and
# the conditional variance of a Gaussian pair is $V_s-\operatorname{Cov}^2/V_t$ with $\operatorname{Cov}=\sqrt{\alpha_{t\mid s}}\,V_s$:
#
# $$
# V_s-\frac{\alpha_{t\mid s}V_s^2}{V_t}=\frac{V_s}{V_t}\left(V_t-\alpha_{t\mid s}V_s\right)=\beta_{t\mid s}\frac{V_s}{V_t},
# \qquad\text{since } V_t=\alpha_{t\mid s}V_s+\beta_{t\mid s}.
# $$
#
# $$
# \sigma^{*2}=\beta_{t\mid s}\;\frac{1-\bar\alpha_s+\bar\alpha_s\,c^2}{1-\bar\alpha_t+\bar\alpha_t\,c^2}
# \tag{6.3}
# $$
#
# Read off both ends. A **point mass**, $c=0$: $\sigma^{*2}=\beta_{t\mid s}\frac{1-\bar\alpha_s}{1-\bar\alpha_t}=\tilde\beta_{t\to s}$. A **standard normal**, $c=1$: the fraction is one, $\sigma^{*2}=\beta_{t\mid s}$.
# In between (6.3) rises with $c$: its derivative with respect to $c^2$ has the sign of $\bar\alpha_s-\bar\alpha_t>0$. For data wider than one, $c>1$, the best variance is *above* $\beta$; images in $[-1,1]$ are not that wide, and (2.13) proved
# $\tilde\beta\le\mathbb E\,\sigma^{*2}\le\beta$ for them, whatever their shape.

# %% tags=["hide-input"]
import sympy as sp

a_t, a_s, c = sp.symbols("a_t a_s c", positive=True)  # a = alpha_bar
beta = 1 - a_t / a_s
beta_tilde = (1 - a_s) / (1 - a_t) * beta
unknown = c**2 * (1 - a_t) / (1 - a_t + a_t * c**2)  # Var(x_0 | x_t)
best = beta_tilde + a_s * beta**2 / (1 - a_t) ** 2 * unknown  # (6.1)
closed = beta * (1 - a_s + a_s * c**2) / (1 - a_t + a_t * c**2)  # (6.3)
checks = [best - closed, closed.subs(c, 0) - beta_tilde]
checks += [closed.subs(c, 1) - beta]
slope = sp.diff(closed, c) / (2 * c)  # with respect to c²
checks += [slope - beta * (a_s - a_t) / (1 - a_t + a_t * c**2) ** 2]
assert all(sp.simplify(check) == 0 for check in checks)
print("(6.1) is (6.3) for Gaussian data; c = 0 gives β̃, c = 1 gives β")

# %% [markdown]
# :::{admonition} Mind the slide
# :class: warning
# Two slips of notation live here. A deck writes "$\bar\beta_t$" for $\tilde\beta_t$: a bar means a running product, as in $\bar\alpha_t$, and $\tilde\beta_t$ is none. And a covariance is printed as $\sigma_t I$ where it is $\sigma_t^2I$; the network of this chapter learns the
# *logarithm of the variance* $\sigma_t^2$, and half of it is the logarithm of the deviation that multiplies $z$. Forget that half and all noise is wrong.
# :::
#
# ### When does it matter?
#
# The two ends differ by the factor
#
# $$
# \frac{\tilde\beta_{t\to s}}{\beta_{t\mid s}}=\frac{1-\bar\alpha_s}{1-\bar\alpha_t},
# \tag{6.4}
# $$
#
# which is close to one unless the step removes a good part of all the noise that there is. Left: the ratio for several lengths of chain (figure 1 of Nichol & Dhariwal). Right: what the wrong
# end costs at each step, by (6.2), for Gaussian data with $c=0.3$.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Left: the ratio of beta tilde to beta over t/T for chains of 10, 100, 1000 and 4000 steps; each rises from zero to one, the longer the chain the sooner. Right: nats lost per step over t/T, highest at the smallest t, and larger for beta tilde or beta depending on t."}}
fig, axes = plt.subplots(1, 2, figsize=(7.5, 2.8))
spent = {}
for T in (10, 100, 1000, 4000):
    chain = DDPM(schedules.cosine(T))
    ratio = chain.beta_tilde[1:] / chain.beta[1:]
    t = torch.arange(1, T + 1)
    axes[0].plot(t / T, ratio, "o-" if T == 10 else "-", ms=3, label=f"{T}")
    a = chain.alpha_bar
    wide = 1 - a + a * 0.3**2
    best = (chain.beta[2:] * wide[1:-1] / wide[2:], chain.beta[2:])
    for end in ("beta_tilde", "beta"):
        r = best[0] / getattr(chain, end)[2:]
        spent[T, end] = 0.5 * (r - 1 - r.log())
for (T, end), style in zip(
    [(100, "beta_tilde"), (100, "beta"), (1000, "beta_tilde"), (1000, "beta")],
    ("-", "--", "-", "--"),
    strict=True,
):
    name = r"$\tilde\beta$" if end == "beta_tilde" else r"$\beta$"
    axes[1].plot(
        torch.arange(2, T + 1) / T,
        spent[T, end].clamp(min=1e-12),
        style,
        color=plots.BLUE if T == 100 else plots.ORANGE,
        label=f"{name}, T = {T}",
    )
axes[0].set(xscale="log", xlabel="t / T", ylabel=r"$\tilde\beta_t\,/\,\beta_t$")
axes[0].legend(title="T", fontsize=8, title_fontsize=8)
axes[1].set(
    xscale="log",
    yscale="log",
    ylim=(1e-9, 1),
    xlabel="t / T",
    ylabel="price (6.2) in nats",
)
axes[1].legend(fontsize=7)
print("   T   steps with ratio < 0.9   price of β̃   price of β (nats)   there")
for T in (10, 100, 1000, 4000):
    chain = DDPM(schedules.cosine(T))
    late = chain.beta_tilde[1:] / chain.beta[1:] < 0.9
    low, high = (spent[T, e] for e in ("beta_tilde", "beta"))
    there = float(low[late[1:]].sum() / low.sum())  # share of those steps
    print(
        f"{T:5d} {int(late.sum()):15d} {float(low.sum()):20.4f} "
        f"{float(high.sum()):12.4f} {there:16.0%}"
    )
    assert late.sum() < 20 and there > 0.5

# %% [markdown]
# *What to see:* however long the chain is, the ends differ in about a dozen steps, the last ones before the data. In *those* steps nearly all of the price of $\tilde\beta$ is paid (last column of the table),
# and it is paid in nats, not in visible pixels: the noise there is tiny. The price of $\beta$ is spread out and vanishes as chains grow; for narrow data $\tilde\beta$ is the dear end. This is the whole reason why the choice does not show in samples of a thousand steps, matters for likelihoods at any length, and matters for samples when
# the chain is short.
#
# ### A place between the ends, in the logarithm
#
# The network answers a second number $v'$ per pixel, and
#
# $$
# \sigma_\theta^2=\exp\!\big(v\log\beta_{t\mid s}+(1-v)\log\tilde\beta_{t\to s}\big),\qquad v=\frac{v'+1}{2} .
# \tag{6.5}
# $$
#
# Nothing forces $v$ into $[0,1]$. Why the logarithm? Because the price (6.2) depends on the *ratio* of variances alone, and variances run over many orders of magnitude with $t$; a network would have to be exact to many digits in one place and to none in another. Because we learn a *place* and not a
# variance, it has a meaning for any stride: `var_mix` in the code is $v$, and the two ends are those of the stride. Solve (6.5) for the place of the best variance:
#
# $$
# v^*=\frac{\log\big(\sigma^{*2}/\tilde\beta_{t\to s}\big)}{\log\big(\beta_{t\mid s}/\tilde\beta_{t\to s}\big)} .
# \tag{6.6}
# $$
#
# ### Where it lies: a picture
#
# For our two-peaked mixture $\sigma^{*2}(x_t,t)$ is known. The function `ignorance` above has it in closed form; here it is held against Bayes' rule on a grid, then (6.6) is drawn for a chain of twenty
# steps.

# %% mystnb={"image": {"alt": "Left: map of the place of the best variance over x and t for a chain of 20 steps; it is highest in a wedge between the two modes and low outside. Right: its average over x at each t, between 0 and 1."}}
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
    torch.testing.assert_close(
        by_grid, ignorance(exact, grid, t), rtol=1e-6, atol=1e-9
    )

place, average, share_above = [], [], []
for t in range(2, 21):
    low, beta = chain.variances(t, t - 1)
    best = best_variance(exact, grid, t, t - 1)
    place.append(((best / low).log() / math.log(beta / low))[:, 0])
    share = torch.softmax(exact.log_prob(grid, t), 0)  # q(x_t) on the grid
    mean = float(share @ best[:, 0])  # the average of (2.13)
    average.append(math.log(mean / low) / math.log(beta / low))
    share_above.append(float(share @ (place[-1] > 1).double()))
    assert low <= mean <= beta * (1 + 1e-9)  # (2.13)
    assert (best >= low * (1 - 1e-9)).all()
fig, axes = plt.subplots(1, 2, figsize=(7.5, 2.7), width_ratios=(1.3, 1))
image = axes[0].imshow(
    torch.stack(place).clamp(-0.5, 1.5),
    aspect="auto",
    origin="lower",
    extent=(-4.5, 4.5, 1.5, 20.5),
    cmap="RdBu_r",
    vmin=-0.5,
    vmax=1.5,
)
axes[0].set(xlabel="$x_t$", ylabel="t", xlim=(-2.5, 2.5))
axes[0].grid(visible=False)
fig.colorbar(image, label="$v^*$ (0: β̃, 1: β)")
axes[1].plot(range(2, 21), average, "o-", ms=4)
axes[1].set(xlabel="t", ylabel="place of the average", ylim=(-0.1, 1.1))
axes[1].set_xticks(range(2, 21, 6))
print(
    "share of x_t where the best variance is above β: "
    f"{min(share_above):.2f} to {max(share_above):.2f}"
)

# %% [markdown]
# *What to see:* white is half-way. Far out one peak is certain, little is unknown, and $\tilde\beta$ is right. In the wedge between the peaks the question "left or right?" is open and the best variance is at or above $\beta$ (clipped in the picture). *On average* over $x_t$ it lies between the
# two, as (2.13) demands. No constant is right everywhere: the variance should be a function of $x_t$ and $t$. That is what a network is for.
#
# ### What to descend on
#
# $L_{\text{simple}}$ does not contain $\sigma$. The bound does. Draw one time and scale, so that the mean over uniform $t$ is the bound without the constant $L_T$, in bits per dimension:
#
# $$
# \ell^{\text{vlb}}_t=\frac{T}{d\ln 2}\,L_{t-1},\qquad
# \frac1T\sum_{t=1}^{T}\ell^{\text{vlb}}_t=\frac{L_0+L_1+\dots+L_{T-1}}{d\ln 2} .
# \tag{6.7}
# $$
#
# What does it teach the variance? With (6.5), $\partial\log\sigma^2/\partial v=\log(\beta/\tilde\beta)$; put it into the slope above (6.1), for one sample with the error $x_0-\hat x_0$, $A$ as there:
#
# $$
# \frac{\partial L_{t-1}}{\partial v}=\frac12\log\frac{\beta_{t\mid s}}{\tilde\beta_{t\to s}}\left[1-\frac{\tilde\beta_{t\to s}+A^2(x_0-\hat x_0)^2}{\sigma_\theta^2}\right] .
# \tag{6.8}
# $$
#
# Its average vanishes exactly at (6.1). So a network that only ever sees single errors learns their *mean square at this $x_t$*: it estimates its own uncertainty.
#
# And the mean? $L_{\text{vlb}}$ would train it too, but with weights that differ by orders of magnitude over $t$ and make worse images (chapter 09 measures it). Therefore Nichol & Dhariwal combine
#
# $$
# L_{\text{hybrid}}=L_{\text{simple}}+\lambda\,L_{\text{vlb}}\big(\operatorname{stopgrad}(\hat\mu),\,\sigma_\theta^2\big),\qquad \lambda=0.001 .
# \tag{6.9}
# $$
#
# The second term *sees* the mean, since the variance has to know the errors, but may not *move* it. The small $\lambda$ keeps the shared layers of the network with $L_{\text{simple}}$. The last layer has separate weights for the two halves, so there the separation is exact.
#
# ## From scratch, then from the library
#
# Ten lines: one network answers mean and place. We check values and both gradients against `l_hybrid`.

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
    x0_hat = (x_t - (1 - a).sqrt() * eps_hat.detach()) / a.sqrt()  # the stop
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
for t in (2, 10, 20):
    t_all = torch.full((256,), t)
    output = learned.net(chain.q_sample(x0, t, eps), t_all)
    ours = hybrid_from_scratch(output, x0, t, eps, chain)
    theirs = l_hybrid(learned, x0, t_all, eps, decoder=continuous)
    torch.testing.assert_close(ours.float(), theirs, rtol=1e-3, atol=1e-5)
    weight = learned.net.out.weight
    for a, b in zip(
        torch.autograd.grad(ours.mean(), weight),
        torch.autograd.grad(theirs.mean(), weight),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
print("the same values and gradients")

# %% [markdown]
# Does descending on it find the truth? Train this little network on samples of the mixture, and lay its $\sigma_\theta^2$ over (6.1).

# %% tags=["nbval-ignore-output"] mystnb={"image": {"alt": "Three panels over x for t = 3, 6 and 10: the learned variance follows the exact best variance, a hump between the modes, in between and partly above the dashed lines for beta tilde and beta."}}
from functools import partial

from ddpmlib.losses import diffusion_loss
from ddpmlib.training import Settings, Trainer, fit


def toy_loss(model, x, y, generator):
    objective = partial(l_hybrid, decoder=continuous)
    return diffusion_loss(model, x, y, generator, objective=objective)


points = mixture.draw(8192, generator=g).float()
toy = Trainer(
    learned,
    toy_loss,
    points,
    None,
    Settings(steps=1000, batch_size=256, lr=1e-2, ema=0.99),
    device="cpu",
)
for _ in fit(toy):
    pass
learned = toy.averaged

fig, axes = plt.subplots(1, 3, figsize=(7.5, 2.5))
print("  t   KL price of:  learned       β̃       β    (nats, average over x_t)")
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
    print(f"{t:3d} {price[0]:22.4f} {price[1]:8.4f} {price[2]:8.4f}")
    assert price[0] < 0.7 * min(price[1:])
    inside = (grid[:, 0].abs() < 2.0).numpy()
    ax.plot(grid[inside], best[inside], color="k", label="(6.1)")
    ax.plot(grid[inside], found[inside], color=plots.ORANGE, label="learned")
    ax.axhline(low, color=plots.GREEN, ls=":", label=r"$\tilde\beta$")
    ax.axhline(beta, color=plots.BLUE, ls="--", label=r"$\beta$")
    ax.set(title=f"t = {t}", xlabel="$x_t$", ylim=(0, None))
axes[0].set_ylabel("variance")
_ = axes[0].legend(fontsize=7)

# %% [markdown]
# *What to see:* nobody told the network (6.1) or that there are two peaks; it saw single squared errors. It smooths over the hump between the peaks, where data are rare; where data are, its variance follows the truth, and by (6.2) it pays clearly less than the better of the two constants.
#
# ## Two more tools
#
# ### Why the gradient of $L_{\text{vlb}}$ is noisy, and a cure
#
# Suppose we do want $L_{\text{vlb}}$ alone, for the best likelihood. A training step draws $t$, and $\ell_t$ differs from time to time by orders of magnitude, so the gradient mostly says which $t$ was drawn. Draw $t$ with probabilities $p_t$ instead and divide by them:
#
# $$
# \mathbb E_{t\sim p}\!\left[\frac{\ell_t}{T\,p_t}\right]=\sum_{t=1}^{T}p_t\,\frac{\ell_t}{T\,p_t}=\frac1T\sum_{t=1}^{T}\ell_t .
# \tag{6.10}
# $$
#
# Any positive $p$ leaves the mean as it was. The variance of the estimate is not left: with $g_t$ the (random) gradient of $\ell_t$ and $\bar g$ its mean over all times,
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
# with equality at $p_t\propto\sqrt{\mathbb E\lVert g_t\rVert^2}$. Gradients per time are expensive to keep; the losses are at hand. Nichol & Dhariwal take
#
# $$
# p_t\propto\sqrt{\mathbb E\,\ell_t^2} ,
# \tag{6.12}
# $$
#
# with the mean over the ten latest losses seen at $t$. Until every $t$ has been seen ten times, $t$ is drawn uniformly. `ImportanceTimes(T)` does it, keeps a thousandth of uniform draws so that no weight exceeds 1000, and saves its history with the training state.
# The replacement of the gradient by the loss is a heuristic: it is exact if the two are proportional. Below we measure how far that is from true.
#
# ### Strides
#
# A chain trained with $T=1000$ steps and sampled at $S_K>\dots>S_1>S_0=0$ needs variances of its own. The paper derives a new table for the short chain,
#
# $$
# \beta'_k=1-\frac{\bar\alpha_{S_k}}{\bar\alpha_{S_{k-1}}},\qquad \tilde\beta'_k=\frac{1-\bar\alpha_{S_{k-1}}}{1-\bar\alpha_{S_k}}\,\beta'_k .
# \tag{6.13}
# $$
#
# Compare with chapter 02: these are $\beta_{t\mid s}$ and $\tilde\beta_{t\to s}$ for $t=S_k$, $s=S_{k-1}$. Our `step` takes any two times, so there is nothing to re-derive. The two agree to rounding:

# %%
long, times = DDPM(schedules.cosine(1000)), uniform_times(1000, 8)
rising = long.alpha_bar[times[::-1]]
beta = torch.cat([torch.zeros(1, **double), 1 - rising[1:] / rising[:-1]])
short = DDPM(beta)  # the re-derived table (6.13)
x, x0, noise, v = torch.randn(4, 5, 2, **double, generator=g)
gap = 0.0
for k, (t, s) in zip(range(8, 0, -1), pairwise(times), strict=True):
    prediction = Prediction(x0, v.sigmoid())
    one = long.step(x, prediction, t, s, 1.0, noise)
    other = short.step(x, prediction, k, k - 1, 1.0, noise)
    gap = max(gap, float((one - other).abs().max()))
assert gap < 1e-12
print("eight strided steps: largest difference below 1e-12")

# %% [markdown]
# So a learned $v$ *can* be used for any stride. Is it still the *best* place there? Take Gaussian data and write $f(u)=\log V_u$, $h(u)=\log(1-\bar\alpha_u)$. Then (6.3), (6.4) and (6.6) say
#
# $$
# v^*_{t\to s}=1-\frac{f(t)-f(s)}{h(t)-h(s)} .
# $$
#
# The difference quotient of a long stride is, by Cauchy's mean value theorem, the quotient of the slopes at *some* time between $s$ and $t$. So the best place of a stride is the best place of a small step somewhere inside of it, and the network is asked at its upper end. For strides over which $v^*$ changes little that is fine; for leaps it is not the optimum any more.

# %%
a = long.alpha_bar
wide = 1 - a + a * 0.3**2  # Gaussian data, c = 0.3


def best_place(t, s):  # t and s numbers, or tensors of the same shape
    fall = (wide[t].log() - wide[s].log()) / (1 - a[t]).log().sub(
        (1 - a[s]).log()
    )
    return 1 - fall


print(" t → s      v* of the stride   v* of a step at t   at s + 1")
for t, s in ((20, 10), (200, 100), (600, 400), (1000, 500)):
    u = torch.arange(s + 1, t + 1)
    small, stride = best_place(u, u - 1), float(best_place(t, s))
    assert small.min() <= stride <= small.max()
    print(
        f"{t:4d} → {s:3d} {stride:15.2f} {float(small[-1]):18.2f} "
        f"{float(small[0]):12.2f}"
    )

# %% [markdown]
# :::{admonition} Mind the slide
# :class: warning
# A deck credits DDIM with the remark that "the end of the chain is too noisy". It is Nichol & Dhariwal's, about the *linear* schedule (their figure 4: a model on 64×64 images hardly suffers when the first fifth of the reverse steps is skipped). DDIM skips steps for another reason, and evenly.
# What is left of the signal at $t=0.8\,T$ shows what is meant:
# :::

# %%
for schedule in (schedules.linear, schedules.cosine):
    p = DDPM(schedule(1000))
    print(
        f"{schedule.__name__:7} signal √ᾱ at t = 800: {float(p.scale[800]):.3f}"
    )

# %% [markdown]
# ## Train it here
#
# Three fields of the digits recipe change, nothing else: the objective, the learned variance (the network then answers twice the channels), and a shorter budget.

# %% tags=["nbval-ignore-output"]
from ddpmlib import data
from ddpmlib.zoo import recipes

recipe = recipes.changed(
    recipes.RECIPES["digits"],
    {"objective": "hybrid", "var_mix": None, "settings.steps": 320},
)
digits = data.load("digits")
trainer = Trainer(
    recipe.build(),
    recipe.loss(),
    digits.x_train,
    digits.y_train,
    recipe.settings,
    device="cpu",
)
losses = [progress.loss.item() for progress in fit(trainer)]
net = trainer.averaged
print(f"L_hybrid, mean of the last 50 updates: {sum(losses[-50:]) / 50:.3f}")
assert sum(losses[-50:]) / 50 < 0.5 * losses[0]

# %% [markdown]
# At these weights, how noisy are the gradients? For twelve times we take single images and measure the square of the gradient's norm, $\mathbb E\lVert g_t\rVert^2$, and the loss.

# %% tags=["nbval-ignore-output"] mystnb={"image": {"alt": "Left: root mean square gradient norm over t, both axes logarithmic: that of L_vlb falls by orders of magnitude from t = 1, that of L_simple is flat. Right: the probabilities of drawing t: uniform, by loss moments, and the best possible."}}
model = Denoiser(net.net, net.process, net.parameterization, None)
probe = [1, 2, 3, 5, 8, 15, 30, 70, 150, 300, 600, 950]
scans = data.to_float(digits.x_train)
square = {"simple": [], "vlb": []}
moment = {"simple": [], "vlb": []}
g = torch.Generator().manual_seed(9)
parameters = list(model.parameters())
for t in probe:
    pick = torch.randint(len(scans), (6,), generator=g).tolist()
    eps = torch.randn(6, 1, 8, 8, generator=g)
    for name, objective in (("simple", l_simple), ("vlb", l_vlb)):
        norms, values = [], []
        for i, k in enumerate(pick):
            loss = objective(
                model,
                scans[k : k + 1],
                torch.tensor([t]),
                eps[i : i + 1],
                digits.y_train[k : k + 1],
            )
            gradient = torch.autograd.grad(
                loss.sum(), parameters, allow_unused=True
            )
            norms.append(
                sum(float((p**2).sum()) for p in gradient if p is not None)
            )
            values.append(loss.item() ** 2)
        square[name].append(sum(norms) / 6)
        moment[name].append(sum(values) / 6)


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
fig, axes = plt.subplots(1, 2, figsize=(7.5, 2.7))
for name, label in (
    ("vlb", r"$L_{\mathrm{vlb}}$"),
    ("simple", r"$L_{\mathrm{simple}}$"),
):
    root_mean = torch.tensor(square[name]).sqrt()
    axes[0].plot(probe, root_mean, "o-", ms=4, label=label)
axes[0].set(
    xscale="log", yscale="log", xlabel="t", ylabel="gradient norm (rms)"
)
for name, p in draws.items():
    axes[1].plot(range(1, 1001), p, label=name)
axes[1].set(xscale="log", yscale="log", xlabel="t", ylabel="$p_t$")
for ax in axes:
    ax.legend(fontsize=7)
print("mean square of one gradient of L_vlb, in units of the best possible:")
for name, value in noise.items():
    print(f"  {name:20} {value / noise['best possible']:8.1f}")
flat = E["simple"].mean() / E["simple"].sqrt().mean() ** 2
print(f"  L_simple, uniform    {flat:8.1f}")
assert noise["best possible"] <= noise["loss moments (6.12)"]
assert noise["loss moments (6.12)"] < 0.5 * noise["uniform"]

# %% [markdown]
# *What to see:* the gradient of $L_{\text{simple}}$ is of one size at all times; that of $L_{\text{vlb}}$ is dominated by the first few. Uniform times meet them once in hundreds of draws, and then with a jolt. Loss moments repair nearly all of it: gradient norms and losses are here almost proportional. The number printed is the first term of (6.11), relative: it says how many times larger
# a batch would have to be for gradients as calm as the calmest. It also says why $L_{\text{hybrid}}$ gets by with uniform times: its main part is already flat.
#
# ## One knob turned
#
# The knob is the variance of the steps: $\tilde\beta$, $\beta$, or the learned one, on the *same* trained mean, and with the same noise. Two questions. How good are samples in few steps (Fréchet distance and class agreement, by the
# classifier `digits-classifier`, 150 samples, three sampling seeds)? And how many bits does the bound need?
#
# **What the bits mean.** The decoder, (13) of Ho et al., gives each pixel a probability for each of 256 grey values. The digits were scanned with 17 levels, 0 to 16, and are stored as 8-bit values $\operatorname{round}(255\,k/16)$; only 17 of the 256 bins ever occur. The numbers below are code lengths in bits per pixel *for 8-bit values whose gaps the model was not told of*. Knowing the gaps
# and nothing else costs $\log_217\approx4.09$; knowing nothing costs 8. They compare variances on these data, and nothing with published numbers on photographs.

# %% tags=["nbval-ignore-output"]
from ddpmlib import zoo
from ddpmlib.evaluation import features, metrics
from ddpmlib.likelihood import bits_per_dim, prior_term, reverse_step_term

levels = digits.x_train.unique().numel()
print(f"{levels} grey values occur, log2 of that is {math.log2(levels):.2f}")
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
CALLS = (4, 8, 16)
frechet, agreement = {}, {}
for kind, mix in KINDS.items():
    for n in CALLS:
        cell = []
        for seed in range(3):
            g = torch.Generator().manual_seed(seed)
            x_T = torch.randn(150, 1, 8, 8, generator=g)
            x = draw(
                choose(net, mix),
                net.process,
                x_T,
                uniform_times(1000, n),
                y=y,
                generator=g,
            )
            h, logits = features.extract(classifier, x)
            cell.append(
                (
                    metrics.frechet_distance(h, real),
                    metrics.class_agreement(logits, y),
                )
            )
        frechet[kind, n], agreement[kind, n] = torch.tensor(cell).T

# %% tags=["nbval-ignore-output"]
test = data.to_float(digits.x_test[:100])
y_test = digits.y_test[:100]


@torch.no_grad()
def bits(times, seed=0):
    """Bits per dimension (100,) of each kind, from the same draws of x_t."""
    p, g = net.process, torch.Generator().manual_seed(seed)
    floor = decoder_floor(p, times)
    total = {kind: prior_term(p, test) for kind in KINDS}
    for t, s in pairwise(times):
        eps = torch.randn(test.shape, generator=g)
        x_t = p.q_sample(test, t, eps)
        prediction = net(x_t, t, y_test)
        for kind, mix in KINDS.items():
            guess = (
                prediction if mix is None else Prediction(prediction.x0, mix)
            )
            term = reverse_step_term(p, test, x_t, guess, t, s, floor=floor)
            total[kind] = total[kind] + term.flatten(1).sum(1)
    return {kind: bits_per_dim(nats, 64) for kind, nats in total.items()}


nll = {n: bits(uniform_times(1000, n)) for n in (4, 16, 64)}
print("              " + "".join(f"{kind:>20}" for kind in KINDS))
for n, by_kind in nll.items():
    cells = [f"{b.mean():.2f} ± {b.std() / 10:.2f}" for b in by_kind.values()]
    print(f"bits, {n:4} steps" + "".join(f"{cell:>20}" for cell in cells))
for table, name, digits_shown in (
    (frechet, "Fréchet", 1),
    (agreement, "agreement", 2),
):
    for n in CALLS:
        cells = [
            f"{table[kind, n].mean():.{digits_shown}f} ± "
            f"{table[kind, n].std():.{digits_shown}f}"
            for kind in KINDS
        ]
        print(f"{name:9}, {n:2} " + "".join(f"{cell:>20}" for cell in cells))
most = nll[64]
assert most["learned"].mean() < min(most["β̃"].mean(), most["β"].mean())
for n in CALLS:
    assert frechet["β̃", n].mean() < frechet["β", n].mean()
print("learned place, mean and spread over pixels and images:")
for t in (1, 2, 5, 20, 100, 500, 900):
    eps = torch.randn(test.shape, generator=torch.Generator().manual_seed(t))
    with torch.no_grad():
        v = net(net.process.q_sample(test, t, eps), t, y_test).var_mix
    low, beta = net.process.variances(t, max(t - 1, 1)) if t > 1 else (0.0, 1.0)
    factor = math.log(beta / low) if low else math.inf
    print(
        f"  t = {t:3d}: {v.mean():.2f} ± {v.std():.2f}, log(β/β̃) = {factor:.4f}"
    )

# %% tags=["hide-input"] mystnb={"image": {"alt": "Left: bits per dimension against the number of steps for three variances; the learned one is lowest for long chains. Right: Fréchet distance against the number of steps with error bars for the three; beta tilde is lowest."}}
fig, axes = plt.subplots(1, 2, figsize=(7.5, 2.7))
for kind, colour in zip(
    KINDS, (plots.GREEN, plots.BLUE, plots.ORANGE), strict=True
):
    label = {"β̃": r"$\tilde\beta$", "β": r"$\beta$"}.get(kind, kind)
    axes[0].errorbar(
        list(nll),
        [nll[n][kind].mean() for n in nll],
        [nll[n][kind].std() / 10 for n in nll],
        marker="o",
        capsize=3,
        label=label,
        color=colour,
    )
    axes[1].errorbar(
        CALLS,
        [frechet[kind, n].mean() for n in CALLS],
        [frechet[kind, n].std() for n in CALLS],
        marker="o",
        capsize=3,
        label=label,
        color=colour,
    )
axes[0].set(xscale="log", ylabel="bits per dimension")
axes[1].set(xscale="log", ylabel="Fréchet distance")
for ax, ticks in zip(axes, (list(nll), CALLS), strict=True):
    ax.set(xlabel="steps", xticks=ticks, xticklabels=ticks)
    ax.minorticks_off()
_ = axes[0].legend()

# %% [markdown]
# *What to see:* three findings, and two of them are not what one hopes for.
#
# - **Bits, long chains:** the learned variance has the lowest bound, as it should: it was trained for steps of one.
# - **Bits, few steps:** at four steps it wins nothing. The printed table of places says why. The factor $\log(\beta/\tilde\beta)$ in (6.8) is the size of the gradient that teaches $v$; in steps of one it is next to nothing except at the smallest $t$. So at most times hardly anything ever moved $v$ from its first value, one half; a long stride uses exactly those answers.
#   More training helps; so would training on strides. (That *more* steps do not lower the bound of this net is, as far as we can tell, a matter of its short training: it cannot guess the finest grey values at small $t$, so further steps there gain nothing, and each is charged a little for the error of its mean.)
# - **Fréchet distance:** $\tilde\beta$, the worst of the three in bits for long chains, draws the best digits. The best variance of (6.1) *contains the errors of the network*: a network that is unsure of the mean adds noise, which is honest, good for the likelihood, and looks bad. This is the trade-off of bits per dimension against sample quality in its smallest form; Nichol & Dhariwal report it for $L_{\text{vlb}}$ against $L_{\text{hybrid}}$.
#
# With the exact mean of the opening figure there are no errors to own up to, and one variance is best in both. The better the network, the more of the gap closes.
#
# ## The same code at scale
#
# The shipped MNIST model, sampled in ten calls with each variance; the cell reads from the card whether its variance was learned (if it was not, the third row repeats the first).

# %% tags=["nbval-ignore-output"] mystnb={"image": {"alt": "Three rows of ten generated MNIST digits, for the small variance, the large variance and the model's own; the row of the large variance is grainier than the others."}}
mnist, card = zoo.load("mnist", device="cpu")
own = "learned" if card.recipe["var_mix"] is None else "fixed"
print(f"objective {card.recipe.get('objective', 'simple')}, variance {own}")
print("command  ", card.training["command"])
print("hardware ", card.training["hardware"])
print(f"time      {card.training['seconds'] / 60:.0f} min")
reader, _ = zoo.load("mnist-classifier", device="cpu")
y = torch.arange(10).repeat(3)
rows = []
for kind, mix in KINDS.items():
    g = torch.Generator().manual_seed(3)
    x_T = torch.randn(30, *card.image_shape, generator=g)
    x = draw(
        choose(mnist, mix),
        mnist.process,
        x_T,
        uniform_times(mnist.process.T, 10),
        y=y,
        generator=g,
    )
    # How rough: mean absolute difference of neighbouring pixels.
    rough = (x.clamp(-1, 1).diff(dim=-1)).abs().mean()
    right = metrics.class_agreement(features.extract(reader, x)[1], y)
    print(f"{kind:8} agreement {right:.2f} of 30, roughness {rough:.3f}")
    rows.append(x[:10])
_ = plots.grid(torch.cat(rows), ncol=10)

# %% [markdown]
# *What to see:* first row $\tilde\beta$, second $\beta$, third the model's own. Thirty samples are for the eye only. Chapter 09 compares the three with thousands of samples, nets trained for the purpose, and $L_{\text{vlb}}$ alone with both ways to draw times.
#
# ## What goes wrong
#
# **The stop-gradient is forgotten.** One missing `.detach()`, and nothing crashes: the loss has the same *value*. But the mean now also descends on $\lambda L_{\text{vlb}}$. We measure what that adds, as the ratio of the two gradients at the
# half of the output that is the mean, on the digits network.
#
# **The variance is interpolated, not its logarithm.** $v\beta+(1-v)\tilde\beta$ looks just as good and has the same ends. In the last steps, where $\tilde\beta\ll\beta$, nearly the whole way from $\tilde\beta$ to $\beta$ on a logarithmic scale is then crammed into the first hundredths of $v$.
#
# **The clipped $\tilde\beta_1$.** $\tilde\beta_1=0$ has no logarithm. The cure is to put $\tilde\beta_2$ in its place. Whoever clips at "a small number" instead, say $10^{-20}$, sees perfectly normal samples, because the last step draws nothing, and a decoder that is sure of itself beyond reason.

# %% tags=["nbval-ignore-output"] mystnb={"image": {"alt": "Left: without the stop, the bound's gradient on the mean relative to that of L_simple, over t on logarithmic axes, near one at t = 1 and falling; with the stop it is zero. Right: variance against v for a late stride: a straight line in the logarithm for (6.5), a curve that jumps up at once for linear mixing."}}
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
fig, axes = plt.subplots(1, 2, figsize=(7.5, 2.6))
axes[0].plot(list(own_bound), list(own_bound.values()), "o-", ms=4)
axes[0].axhline(1, color="k", lw=0.8, ls=":")
axes[0].set(
    xscale="log", yscale="log", xlabel="t", ylabel="leak / intended gradient"
)
low, high = net.process.variances(100, 1)
v = torch.linspace(0, 1, 101, **double)
axes[1].plot(v, low ** (1 - v) * high**v, label="in the logarithm (6.5)")
axes[1].plot(v, (1 - v) * low + v * high, "--", label="linear: the bug")
axes[1].set(yscale="log", xlabel="$v$", ylabel="variance, step 100 → 1")
axes[1].legend(fontsize=8)
half = float(((1 - v) * low + v * high)[2] / low)
print(f"ends differ by {high / low:.0f}; linear v = 0.02 is {half:.1f} times β̃")

t = torch.ones(100, dtype=torch.int64)
eps = torch.randn(test.shape, generator=torch.Generator().manual_seed(0))
x_1 = net.process.q_sample(test, 1, eps)
with torch.no_grad():
    prediction = net(x_1, t, y_test)
print("bits per dimension of the last step, β̃_1 = 0 clipped at")
cost = []
for name, floor in (("β̃_2", None), ("1e-20", 1e-20)):
    term = reverse_step_term(
        net.process, test, x_1, prediction, t, t - 1, floor=floor
    )
    cost.append(float(term.mean()) / math.log(2))
    print(f"  {name:6} {cost[-1]:10.2f}")
assert own_bound[1] > 0.1 and own_bound[1] > 5 * own_bound[30]
assert cost[1] > 10 * cost[0] > 0

# %% [markdown]
# *What to see:* left, without the stop the smallest times get an extra pull on the mean of about the size of the intended one, and it fades over $t$. Nothing looks broken; the network has quietly been given another weighting of the times, one that grows with $T$ and with $\lambda$. Right, the linear mixture leaves the neighbourhood of $\tilde\beta$ with the first hundredths of $v$.
#
# The tests that catch them: `test_in_l_hybrid_the_mean_learns_from_l_simple_alone_and_the_variance_from_l_vlb_alone` (the gradient at the mean is compared to the last bit) and `test_l_vlb_by_hand` (the clip) in `tests/test_losses.py`,
# `test_the_answer_minus_one_is_beta_tilde_and_one_is_beta` (equal steps of $v$ are equal steps of $\log\sigma^2$) in `tests/test_denoiser.py`.

# %% [markdown]
# ## Exercises
#
# Write your answer into the cell below each question and take the `#` off its last line: the check
# says yes, or gives a hint. ★ asks for a derivation, ★★ for code, ★★★ for a small project of both.
# Solutions are folded.
#
# ### ★ Exercise 6.1
#
# The exact denoiser is at hand. At which place $v^*$ is the best variance for data that are a single point, and at which for data from $\mathcal N(0,1)$? Give both numbers.
#
# :::{dropdown} Hint
# Read off (6.3) at $c=0$ and $c=1$, then use (6.6).
# :::

# %%
from ddpmlib.teaching import exercises

answer = ...  # (v* of the point, v* of the standard normal)

# exercises.check("6.1", answer)

# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
# Solution of exercise 6.1: σ*² is β̃ for the point and β for the normal.
exercises.check("6.1", (0.0, 1.0))

# %% [markdown]
# ### ★★ Exercise 6.2
#
# Write `variance(alpha_bar, t, s, v)`: the variance (6.5) of the stride $t\to s$, $s\ge1$, from the table of $\bar\alpha$ alone.
#
# :::{dropdown} Hint
# $\beta_{t\mid s}$ and $\tilde\beta_{t\to s}$ are in (6.13). A power is shorter than an exponential of logarithms.
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
# ### ★★ Exercise 6.3
#
# Given the table $\mathbb E\lVert g_t\rVert^2$ of all times, write `calmest(second_moment)` that returns the probabilities $p_t$ with the least noise (6.11) and the weights $1/(T\,p_t)$.
#
# :::{dropdown} Hint
# The Cauchy–Schwarz inequality above (6.12) says when it is an equality.
# :::

# %%
answer = ...  # a function: second_moment (T,) -> (p (T,), weight (T,))

# exercises.check("6.3", answer)


# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
# Solution of exercise 6.3
def calmest(second_moment):
    root = second_moment.sqrt()
    p = root / root.sum()
    return p, 1 / (len(p) * p)


exercises.check("6.3", calmest)

# %% [markdown]
# ### ★★★ Exercise 6.4
#
# Write `hybrid(output, target, place, beta_tilde, beta, on_x0, share)` for one time: the mean over samples of $(\text{output}-\text{target})^2$ plus `share` times the divergence of the reverse step in nats, for a network that predicts $x_0$. `on_x0` is $A$, `place` is $v$.
# The check looks at the value *and at both gradients*.
#
# :::{dropdown} Hint
# The divergence above (6.1), with $\sigma^2$ from (6.5). Where does `output` enter it, and what may come back through there?
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
# ## Recap
#
# 1. The best variance of a reverse step is $\tilde\beta$ plus the scaled mean square error about $x_0$; it is $\tilde\beta$ for a point, $\beta$ for a standard normal, and depends on $x_t$ and $t$ for everything else.
# 2. The two ends differ in the last dozen steps only, however long the chain: that is where bits are lost. Strides are what makes it visible in samples.
# 3. The network answers a place $v$ between $\log\tilde\beta$ and $\log\beta$, right for every stride; it learns it from single squared errors.
# 4. $L_{\text{hybrid}}=L_{\text{simple}}+\lambda L_{\text{vlb}}$ with a stop-gradient on the mean: each half of the output has its own teacher.
# 5. $L_{\text{vlb}}$ alone is dominated by the first times; drawing $t$ by loss moments and dividing by $p_t$ calms it and changes no mean.
#
# The equations of this chapter, the functions that implement them, the tests that pin them:

# %% mystnb={"code_prompt_show": "Equations, functions, tests", "code_prompt_hide": "Hide the table"} tags=["hide-cell"]
from ddpmlib import equations

equations.table("06")

# %% [markdown]
# ## Further reading
#
# - Nichol & Dhariwal (2021), *Improved denoising diffusion probabilistic models* {cite}`nichol2021improved`: section 3.1 for (6.5) and (6.9), section 3.3 for (6.12), section 4 for strides. Their figures 1 and 2 are our figure on when it matters.
# - Ho, Jain & Abbeel (2020) {cite}`ho2020denoising`: section 3.2 names the two extreme choices, section 3.3 the discretised decoder.
# - Kingma et al. (2021), *Variational diffusion models* {cite}`kingma2021variational`: what else can be done for bits per dimension.
