# %% [markdown]
# # 4. The evidence lower bound
#
# [![Open in Colab](../book/_static/colab.svg)](https://colab.research.google.com/github/ddpm-book/ddpm-book/blob/main/notebooks/04_elbo.ipynb)
#
# How probable does a diffusion model find an image it has never seen? It cannot say: the answer is an integral over all the
# noisy paths that end there. But it can give a *bound*, and the bound falls into a thousand small terms, one per step. Here they are for a
# model that ships with this book and twenty scans that it was not trained on. By the end of the chapter you will have derived every one.

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

# %% mystnb={"image": {"alt": "Left: bits per dimension of each reverse step over time on logarithmic axes, falling over many orders of magnitude from the data towards noise. Right: the running total while walking down from t = 1000; it stays near zero for most of the chain and rises steeply in the last few steps."}}
import math

import matplotlib.pyplot as plt
import torch
from ddpmlib import data, plots, zoo
from ddpmlib.likelihood import bits_per_dim, elbo

digits_denoiser, _ = zoo.load("digits", device="cpu")
process = digits_denoiser.process
images = data.load("digits")
scans, labels = data.to_float(images.x_test[:20]), images.y_test[:20]

g = torch.Generator().manual_seed(0)
bound = elbo(digits_denoiser, process, scans, y=labels, generator=g)
bits = bits_per_dim(
    torch.cat([bound.steps.mean(0), bound.decoder.mean()[None]]), 64
)
spent = bits.cumsum(0)  # on the way down from t = 1000
t = torch.arange(1000, 0, -1)

fig, axes = plt.subplots(1, 2, figsize=(7.5, 2.7))
axes[0].loglog(t[:-1], bits[:-1], lw=1, label="$L_{t-1}$")
axes[0].loglog([1], bits[-1:], "o", color=plots.ORANGE, label="$L_0$")
axes[0].set(xlabel="time t", ylabel="bits per dimension")
axes[0].legend()
axes[1].semilogx(t, spent)
axes[1].set(
    xlabel="time t (walking to the left)",
    ylabel="bits per dimension so far",
    xlim=(1000, 1),
)
total = bound.bits_per_dim
print(f"bound on 20 unseen scans: {total.mean():.1f} ", end="")
print(f"± {total.std() / 20**0.5:.1f} bits per dimension")
share = 1 - spent[t == 101].item() / spent[-1].item()
print(f"of these in the last 100 of 1,000 steps: {share:.0%}")
last_ten = 1 - spent[t == 11].item() / spent[-1].item()
print(f"and in the last ten: {last_ten:.0%}")
assert share > 0.8 and last_ten > 0.5 and total.mean() < 8

# %% [markdown]
# *What to see:* the upper nine tenths of the chain, where all the drama of a film of samples happens, pay about an
# eighth. More than half of the bits are paid in the last ten steps, for shades of grey that hardly anyone
# can see. Likelihood and looks are two different currencies, and this chapter derives the rate of exchange.
#
# ## Objectives
#
# After this chapter you can
#
# - derive $L = L_T+\sum_t L_{t-1}+L_0$ from the cross-entropy without skipping a step;
# - compute each term for Gaussians, and state the exact weight that the bound puts on $\lVert\varepsilon-\varepsilon_\theta\rVert^2$ at each $t$;
# - say what $L_\text{simple}$ changes about it, and why diffusion is a VAE with many latents and nothing to encode;
# - report a likelihood in bits per dimension, with an error bar, and find the three usual mistakes in someone else's;
# - say how far the bound is from the truth, which part of that goes away as $T$ grows, and which does not.
#
# ## The idea in a picture
#
# A chain of $T$ Gaussian steps defines a density $p_\theta(x_0)$: the probability that a sampler ends at $x_0$. It is an integral over
# all the paths that end there, and nobody can do it. What we can do is walk *up* from $x_0$, where sampling is free, and
# ask how much the model would have to be surprised by that path. On average the surprise is never less than $-\log p_\theta(x_0)$.
# Here for three little Gaussians on a line, where the truth is known; every step uses the exact denoiser.

# %% mystnb={"image": {"alt": "Minus log density of a three-component mixture over x, and the variational bound for chains of 5, 20 and 100 steps. Five steps give a nearly flat line, 20 steps three shallow valleys, 100 steps nearly the true curve."}}
from ddpmlib.denoiser import EPS, Denoiser, oracle
from ddpmlib.likelihood import continuous
from ddpmlib.prediction import Prediction
from ddpmlib.process import DDPM, schedules

F64 = torch.float64
centres = torch.tensor([-0.8, 0.1, 0.9], dtype=F64)


class With:  # a denoiser with the reverse variance placed elsewhere
    def __init__(self, denoiser, var_mix):
        self.denoiser, self.var_mix = denoiser, var_mix

    def __call__(self, x_t, t, y=None):
        return Prediction(self.denoiser(x_t, t, y).x0, self.var_mix)


def three(T):
    chain = DDPM(schedules.cosine(T))
    stds = torch.tensor([0.15, 0.1, 0.15], dtype=F64)
    return chain, oracle.Mixture(chain, torch.ones(3), centres, stds)


grid, copies = torch.linspace(-1.4, 1.4, 57, dtype=F64), 100
fig, ax = plt.subplots(figsize=(6.4, 2.8))
truth = -three(1)[1].log_prob(grid, 0)
ax.plot(grid, truth, color="black", label=r"$-\log q(x_0)$")
for T, colour in ((5, plots.ORANGE), (20, plots.SKY), (100, plots.BLUE)):
    chain, exact = three(T)
    L = elbo(
        With(exact, 1.0),
        chain,
        grid.repeat(copies),
        decoder=continuous,
        generator=torch.Generator().manual_seed(0),
    ).total.reshape(copies, -1)
    ax.plot(grid, L.mean(0), color=colour, label=f"bound, T = {T}")
    weight = torch.softmax(-truth, 0)
    print(f"T = {T:3d}: average gap {weight @ (L.mean(0) - truth):.2f} nats")
    assert weight @ (L.mean(0) - truth) > 0
ax.set(xlabel="$x_0$", ylabel="nats", ylim=(-1, 8))
_ = ax.legend(loc="upper center", ncol=2)

# %% [markdown]
# *What to see:* with longer chains the bound comes down onto the truth where the data are. Between the clusters it lies *below* $-\log q$, and that is no contradiction: it
# bounds the *model's* $-\log p_\theta$, and a model of few Gaussian steps blurs the clusters into one another. It puts too much density into the gaps, and what it puts there is missing elsewhere. Averaged over the data (the printed
# numbers) the bound is never below the entropy. Why the gap closes, and why with the other usual choice of variance it would *stop* closing, is derived below.
#
# ## The derivation
#
# ### From the cross-entropy to a bound
#
# We want the model's density high where the data are: minimise the cross-entropy. It is the entropy of
# the data, which no model can change, plus a divergence that is zero only for a perfect model,
#
# $$
# -\mathbb E_{q(x_0)}\log p_\theta(x_0) = H(q) + \mathrm{KL}\big(q(x_0)\,\Vert\,p_\theta(x_0)\big).
# \tag{4.1}
# $$
#
# The model is a chain $p_\theta(x_{0:T}) = p(x_T)\prod_{t=1}^T p_\theta(x_{t-1}\mid x_t)$ with $p(x_T)=\mathcal N(0,I)$, and $x_0$ is only its last link. **Marginalise** over the rest, and
# multiply and divide by the forward process:
#
# $$
# p_\theta(x_0) = \int p_\theta(x_{0:T})\,dx_{1:T} = \mathbb E_{q(x_{1:T}\mid x_0)}\left[\frac{p_\theta(x_{0:T})}{q(x_{1:T}\mid x_0)}\right].
# \tag{4.2}
# $$
#
# This is exact, and useless as an estimator: a few lucky paths carry the whole average. The logarithm is concave, so
# **Jensen's** inequality $\log\mathbb E X\ge\mathbb E\log X$ trades exactness for something that can be averaged,
#
# $$
# -\log p_\theta(x_0)\;\le\; L(x_0) := \mathbb E_{q(x_{1:T}\mid x_0)}\left[\log\frac{q(x_{1:T}\mid x_0)}{p_\theta(x_{0:T})}\right].
# \tag{4.3}
# $$
#
# What was lost? Write $p_\theta(x_{0:T}) = p_\theta(x_0)\,p_\theta(x_{1:T}\mid x_0)$ in (4.3); the first factor leaves the expectation:
#
# $$
# L(x_0) = -\log p_\theta(x_0) + \mathrm{KL}\big(q(x_{1:T}\mid x_0)\,\Vert\,p_\theta(x_{1:T}\mid x_0)\big).
# \tag{4.4}
# $$
#
# So the bound is tight when the model, run backwards from $x_0$, would take the same noisy paths as the forward process.
#
# :::{admonition} Mind the slide
# :class: warning
# Two decks write this loss as $L_\text{LVB}$. It is $L_\text{vlb}$, the *variational lower bound* (on $\log p_\theta$; with the minus sign it is an
# *upper* bound on the loss $-\log p_\theta$, which is why everything here says $\ge$ the other way round). "ELBO", *evidence lower bound*, is the same thing.
# :::
#
# ### The bound falls into T + 1 pieces
#
# Both chains are products, so the logarithm in (4.3) is a sum. By the Markov property of both,
#
# $$
# \log\frac{q(x_{1:T}\mid x_0)}{p_\theta(x_{0:T})} = -\log p(x_T)+\sum_{t=1}^T\log\frac{q(x_t\mid x_{t-1})}{p_\theta(x_{t-1}\mid x_t)} .
# $$
#
# The fractions compare a step *up* with a step *down*: their noise does not match, and an estimate of them is wild. Turn the upper one
# around. For $t\ge2$ we may condition on $x_0$ too, since given $x_{t-1}$ it says nothing more about $x_t$, and then use Bayes:
#
# $$
# q(x_t\mid x_{t-1}) = q(x_t\mid x_{t-1},x_0) = q(x_{t-1}\mid x_t,x_0)\;\frac{q(x_t\mid x_0)}{q(x_{t-1}\mid x_0)} .
# \tag{4.5}
# $$
#
# The step $t=1$ stays as it is. The extra factors telescope, each numerator meeting the next denominator:
#
# $$
# \sum_{t=2}^T\log\frac{q(x_t\mid x_0)}{q(x_{t-1}\mid x_0)} = \log q(x_T\mid x_0)-\log q(x_1\mid x_0),
# $$
#
# and the second term cancels against the numerator $q(x_1\mid x_0)$ of the step $t=1$. What is left:
#
# $$
# \log\frac{q(x_{1:T}\mid x_0)}{p_\theta(x_{0:T})} = \log\frac{q(x_T\mid x_0)}{p(x_T)} + \sum_{t=2}^T\log\frac{q(x_{t-1}\mid x_t,x_0)}{p_\theta(x_{t-1}\mid x_t)} - \log p_\theta(x_0\mid x_1) .
# $$
#
# Now average over the path. In the $t$-th fraction only $x_{t-1}$ and $x_t$ occur; averaging over $x_{t-1}\sim q(x_{t-1}\mid x_t,x_0)$ first turns it into a
# KL divergence, and $x_t\sim q(x_t\mid x_0)$ comes after:
#
# \begin{align*}
# L(x_0) ={}& \underbrace{\mathrm{KL}\big(q(x_T\mid x_0)\,\Vert\,p(x_T)\big)}_{L_T} \\
# &+ \sum_{t=2}^T\underbrace{\mathbb E_{q(x_t\mid x_0)}\,\mathrm{KL}\big(q(x_{t-1}\mid x_t,x_0)\,\Vert\,p_\theta(x_{t-1}\mid x_t)\big)}_{L_{t-1}} \\
# &+ \underbrace{\mathbb E_{q(x_1\mid x_0)}\big[-\log p_\theta(x_0\mid x_1)\big]}_{L_0} . \tag{4.6}
# \end{align*}
#
# $L_T$ has no parameters, $L_0$ is a decoder that turns the last latent into data, and each $L_{t-1}$ compares two Gaussians whose means we know. No step is compared
# with a step in the other direction any more, and each term needs one draw of $x_t$, not a path: that is what makes training on random $t$ possible.
#
# Nothing in the argument used that neighbours are one apart. For any falling times from $T$ to $0$, put the strided posterior (2.10) for
# $q(x_{t-1}\mid x_t,x_0)$ and the bound holds for the *strided* chain. `elbo` takes `times` for that.
#
# ### KL between Gaussians
#
# In one dimension, $q=\mathcal N(m_q,v_q)$ and $p=\mathcal N(m_p,v_p)$:
#
# $$
# \log\frac{q(x)}{p(x)} = \frac12\log\frac{v_p}{v_q}-\frac{(x-m_q)^2}{2v_q}+\frac{(x-m_p)^2}{2v_p} .
# $$
#
# Average over $x\sim q$. The second term gives $-\frac12$. In the third write $x-m_p=(x-m_q)+(m_q-m_p)$; the cross term averages to zero and
# $v_q+(m_q-m_p)^2$ remains. So
#
# $$
# \mathrm{KL}(q\,\Vert\,p)=\frac12\left[\frac{v_q}{v_p}-1-\log\frac{v_q}{v_p}+\frac{(m_q-m_p)^2}{v_p}\right].
# \tag{4.7}
# $$
#
# With covariances $v I$ the divergence is the sum over the dimensions. The first three terms are the price of a wrong *variance*, zero for a
# ratio of one; the last is the price of a wrong *mean*, in units of the model's own deviation.
#
# **The prior term.** $q(x_T\mid x_0)=\mathcal N(\sqrt{\bar\alpha_T}x_0,(1-\bar\alpha_T)I)$ against $\mathcal N(0,I)$:
#
# $$
# L_T=\frac12\sum_{i=1}^d\left[\bar\alpha_T\,x_{0,i}^2-\bar\alpha_T-\log(1-\bar\alpha_T)\right].
# \tag{4.8}
# $$
#
# **The steps.** $q(x_{t-1}\mid x_t,x_0)=\mathcal N(\tilde\mu_t,\tilde\beta_tI)$ by chapter 02, $p_\theta=\mathcal N(\mu_\theta,\sigma_t^2I)$:
#
# $$
# L_{t-1}=\mathbb E\left[\frac{\lVert\tilde\mu_t-\mu_\theta\rVert^2}{2\sigma_t^2}\right]+\frac d2\left[\frac{\tilde\beta_t}{\sigma_t^2}-1-\log\frac{\tilde\beta_t}{\sigma_t^2}\right].
# \tag{4.9}
# $$
#
# The bracket is zero for $\sigma_t^2=\tilde\beta_t$ and a constant for any other fixed choice.
#
# ### The weight of the noise error
#
# Chapter 02 wrote the posterior mean through the noise, (2.9): $\tilde\mu_t=\frac1{\sqrt{\alpha_t}}\big(x_t-\frac{1-\alpha_t}{\sqrt{1-\bar\alpha_t}}\varepsilon\big)$. The model knows $x_t$ as well
# as we do, so the only sensible $\mu_\theta$ is the same formula with a guess $\varepsilon_\theta$ in place of $\varepsilon$. The difference of the means is then $\frac{1-\alpha_t}{\sqrt{\alpha_t}\sqrt{1-\bar\alpha_t}}(\varepsilon_\theta-\varepsilon)$; square it and divide by $2\sigma_t^2$:
#
# $$
# L_{t-1}=\mathbb E\left[\frac{(1-\alpha_t)^2}{2\sigma_t^2\,\alpha_t\,(1-\bar\alpha_t)}\;\lVert\varepsilon-\varepsilon_\theta(x_t,t)\rVert^2\right]+\text{const}.
# \tag{4.10}
# $$
#
# The ½ belongs there, and $\alpha_t$ in the denominator has no bar while its neighbour has one. For $\sigma_t^2=\tilde\beta_t$ it becomes something one can remember. In terms of
# $x_0$, $\lVert\varepsilon-\varepsilon_\theta\rVert^2=\mathrm{SNR}(t)\,\lVert x_0-\hat x_0\rVert^2$ with $\mathrm{SNR}(t)=\bar\alpha_t/(1-\bar\alpha_t)$, and
#
# $$
# L_{t-1}=\tfrac12\big(\mathrm{SNR}(t-1)-\mathrm{SNR}(t)\big)\;\mathbb E\lVert x_0-\hat x_0(x_t,t)\rVert^2 .
# \tag{4.11}
# $$
#
# *Proof.* With $a=\bar\alpha_t$, $b=\bar\alpha_{t-1}$ and $\alpha_t=a/b$: $\tilde\beta_t=\frac{1-b}{1-a}(1-\alpha_t)$, so the weight in (4.10) is
#
# $$
# \frac{1-\alpha_t}{2\alpha_t(1-b)}=\frac{b-a}{2a(1-b)}=\frac12\left[\frac{b(1-a)}{a(1-b)}-1\right].
# $$
#
# The fraction is a ratio of signal-to-noise ratios, so the weight of the noise error is
#
# $$
# w_t=\frac12\left(\frac{\mathrm{SNR}(t-1)}{\mathrm{SNR}(t)}-1\right),
# \tag{4.12}
# $$
#
# and times $\mathrm{SNR}(t)$ it is that of (4.11). The bound pays for every loss of signal, in proportion to how much of the data could not be guessed at that moment.
# $L_\text{simple}$ of chapter 03 puts 1 in place of $w_t$: **the same regression, the same minimiser for a network that can do everything, another
# emphasis for one that cannot.** Sympy agrees with the algebra:

# %% tags=["hide-input"]
import sympy as sp

a, b, eps, guess, x_t_sym = sp.symbols("a b epsilon e x", positive=True)
alpha = a / b
beta_tilde = (1 - b) / (1 - a) * (1 - alpha)


def mu(noise):  # (2.9)
    return (x_t_sym - (1 - alpha) / sp.sqrt(1 - a) * noise) / sp.sqrt(alpha)


def data_of(noise):  # (3.4)
    return (x_t_sym - sp.sqrt(1 - a) * noise) / sp.sqrt(a)


def snr(abar):
    return abar / (1 - abar)


sigma2 = sp.Symbol("sigma2", positive=True)
mean_term = (mu(eps) - mu(guess)) ** 2 / (2 * sigma2)
weight = (1 - alpha) ** 2 / (2 * sigma2 * alpha * (1 - a))
on_data = (snr(b) - snr(a)) / 2 * (data_of(eps) - data_of(guess)) ** 2
checks = {
    "(4.10)": mean_term - weight * (eps - guess) ** 2,
    "(4.11)": mean_term.subs(sigma2, beta_tilde) - on_data,
    "(4.12)": weight.subs(sigma2, beta_tilde) - (snr(b) / snr(a) - 1) / 2,
}
for name, difference in checks.items():
    print(name, "left minus right:", sp.simplify(difference))
    assert sp.simplify(difference) == 0

# %% mystnb={"image": {"alt": "Left: the weight of the noise error over time for the bound with the linear and cosine schedules, falling steeply from one half or more at t = 2 by orders of magnitude, and the constant 1 of L_simple. Right: the share of each time in the weighted loss."}}
from ddpmlib import losses

times = torch.arange(2, 1001)
fig, axes = plt.subplots(1, 2, figsize=(7.5, 2.7))
for name, colour in (("linear", plots.BLUE), ("cosine", plots.ORANGE)):
    chain = DDPM(getattr(schedules, name)(1000))
    w = losses.vlb(chain, times)
    axes[0].loglog(times, w, color=colour, label=f"bound, {name}")
    axes[1].loglog(times, losses.on_x0(losses.vlb, chain, times), color=colour)
    axes[1].loglog(
        times, losses.on_x0(losses.simple, chain, times), "--", color=colour
    )
    print(f"{name}: weight at t = 2 over weight at t = 500: ", end="")
    print(f"{w[0] / w[498]:.0f}")
    assert w[0] > 30 * w[498]
axes[0].axhline(1, color="black", ls="--", label=r"$L_\mathrm{simple}$")
axes[0].set(xlabel="time t", ylabel=r"weight of $|\epsilon-\hat\epsilon|^2$")
axes[0].legend()
_ = axes[1].set(xlabel="time t", ylabel="weight of $|x_0-\\hat x_0|^2$")

# %% [markdown]
# *What to see:* left, on the noise error: solid lines are the bound, dashed is $L_\text{simple}$. The bound shouts about the first few steps (and, with the cosine schedule, about the very last ones, where the clipped $\beta_T$ drops what signal there is; the noise is known almost perfectly there, so little comes of it); relative to it, $L_\text{simple}$ moves
# attention to the noisy middle, where an image decides what it is. Right, the same on the error of the data: *both* weigh the clean end more, the bound far more so.
#
# ### A VAE with nothing to encode
#
# Read (4.6) with $T=1$: $\mathrm{KL}(q(x_1\mid x_0)\Vert p(x_1))-\mathbb E\log p_\theta(x_0\mid x_1)$ is the loss of a variational autoencoder {cite}`kingma2014auto`. Diffusion is a
# *hierarchical* one, $x_T\to x_{T-1}\to\dots\to x_0$, with three peculiarities:
#
# | | VAE | diffusion |
# |---|---|---|
# | encoder | learned | fixed: $q(x_t\mid x_{t-1})$, no parameters |
# | latents | one, small | $T$, each as large as the data |
# | decoder | one network, one pass | one network for all levels, told $t$ |
# | prior term | trained, may collapse | a constant near zero, (4.8) |
# | training step | encode, decode everything | one random level, (4.10) |
#
# A fixed encoder is why the bound can be split into regressions with known targets; with a learned one the targets would move.
#
# ### The last step speaks of grey levels
#
# Data are 8-bit numbers, and a *density* of discrete data is infinite if one puts a narrow enough peak on each level. So Ho et al. make the last
# step a probability: the Gaussian's mass in the bin around the level,
#
# $$
# p_\theta(x_0\mid x_1)=\prod_{i=1}^d\left[\Phi\!\left(\tfrac{x_{0,i}+1/255-\mu_i}{\sigma}\right)-\Phi\!\left(\tfrac{x_{0,i}-1/255-\mu_i}{\sigma}\right)\right],
# \tag{4.13}
# $$
#
# where the bins of $-1$ and $1$ reach to $\mp\infty$, so that all 256 probabilities add up to one. In float32 that difference of two $\Phi$ is
# zero a few deviations out, and its logarithm $-\infty$. `likelihood.discretised` works on the side of the bell where nothing cancels:

# %%
from ddpmlib.likelihood import discretised

levels = data.to_float(torch.arange(256, dtype=torch.uint8))
for std in (0.0005, 0.02, 3.0):
    log_var = torch.tensor(2 * math.log(std))
    log_p = discretised(levels, torch.tensor(0.1), log_var)
    normal = torch.distributions.Normal(0.1, std)
    naive = normal.cdf(levels + 1 / 255) - normal.cdf(levels - 1 / 255)
    lost = (naive[1:-1] == 0).sum().item()
    print(
        f"σ = {std:6}: sum of 256 probabilities {log_p.exp().sum():.4f}, ",
        end="",
    )
    print(f"naive zeros {lost:3d}, ours at level 255: {log_p[-1]:.5g} nats")
    assert abs(log_p.exp().sum() - 1) < 1e-3 and log_p.isfinite().all()

# %% [markdown]
# The unit of the literature is the *bit per dimension*, what a lossless coder that uses the model would need per colour value:
#
# $$
# \text{bits/dim}=\frac{L(x_0)\ \text{in nats, summed over the } d \text{ dimensions}}{d\,\ln 2} .
# \tag{4.14}
# $$
#
# Knowing nothing costs 8. Three factors are forgotten in practice, $d$, $\ln2$, and the range of the data; we come back to them.
#
# **Random times.** A full sum costs $T$ network calls. With $t$ uniform on $1,\dots,T$, and $L_0$ the term of $t=1$,
#
# $$
# L(x_0)=L_T+T\;\mathbb E_{t}\big[L_{t-1}(x_0)\big],
# \tag{4.15}
# $$
#
# and any average of independent draws of the right-hand side is an unbiased estimate, with a standard error that can be read off the draws. It is large, since the terms differ by
# orders of magnitude: the price of one call per image.
#
# ## From scratch, then from the library
#
# Ten lines: the bound of an $\varepsilon$-predictor with $\sigma_t^2=\tilde\beta_t$, for data that are real numbers.

# %%
ab = process.alpha_bar


def bound_from_scratch(eps_theta, x0, noise, var_0):
    L = 0.5 * (ab[-1] * x0**2 - ab[-1] - torch.log(1 - ab[-1])).sum(1)
    for t in range(len(ab) - 1, 0, -1):
        x_t = ab[t].sqrt() * x0 + (1 - ab[t]).sqrt() * noise[t]
        error = (noise[t] - eps_theta(x_t, t)) ** 2
        if t > 1:
            ratio = ab[t - 1] / (1 - ab[t - 1]) * (1 - ab[t]) / ab[t]
            L = L + 0.5 * (ratio - 1) * error.sum(1)
        else:  # x_0 − x̂_0 = (ε − ε_θ) √(1−ᾱ) / √ᾱ
            square = (1 - ab[1]) / ab[1] * error / var_0
            L = L + 0.5 * (square + math.log(2 * math.pi * var_0)).sum(1)
    return L


gauss = oracle.Gaussian(
    process,
    torch.zeros(2, dtype=F64),
    torch.tensor([[0.5, 0.2], [0.2, 0.3]], dtype=F64),
)
x0 = gauss.draw(200, generator=torch.Generator().manual_seed(1))
g = torch.Generator().manual_seed(2)
noise = {
    t: torch.randn(200, 2, generator=g, dtype=F64) for t in range(1000, 0, -1)
}
scratch = bound_from_scratch(
    lambda x, t: process.eps_from_x0(x, gauss(x, t).x0, t),
    x0,
    noise,
    float(process.beta_tilde[2]),
)
library = elbo(
    gauss,
    process,
    x0,
    decoder=continuous,
    generator=torch.Generator().manual_seed(2),
)
gap = (scratch - library.total).abs().max().item()
assert gap < 1e-8
print(
    "the same bound for 200 points; the mean in nats:", f"{scratch.mean():.2f}"
)

# %% [markdown]
# And (4.15) against the full sum, on the real scans from the top of the page:

# %%
from ddpmlib.likelihood import elbo_monte_carlo

coarse = list(range(1000, -1, -100))  # a strided chain of 10 steps
test, test_labels = data.to_float(images.x_test), images.y_test
full = elbo(
    digits_denoiser, process, test[:100], coarse, y=test_labels[:100],
    generator=torch.Generator().manual_seed(3),
).bits_per_dim  # fmt: skip
print(
    f"10 steps, full sum, 100 scans × 10 calls: {full.mean():.2f} ± {full.std() / 10:.2f}"
)
for draws in (1, 10):
    nats = elbo_monte_carlo(
        digits_denoiser, process, test[:100], coarse, draws=draws,
        y=test_labels[:100], generator=torch.Generator().manual_seed(4),
    )  # fmt: skip
    mean, error = (
        bits_per_dim(v, 64) for v in (nats.mean, nats.standard_error)
    )
    print(
        f"random steps, 100 scans × {draws:2d} call(s):     {mean:.2f} ± {error:.2f}"
    )
    assert abs(mean - full.mean().item()) < 4 * error + 0.1
assert full.std() / 10 < error  # 10 random calls against 10 in a row

# %% [markdown]
# For the same number of calls the full sum has the smaller error. Random steps are for training, where one call per image is all there is.

# %% [markdown]
# ## How tight is it, and why
#
# (4.4) says what the gap is at one point. Averaged over the data there is a more useful form. Add $\mathbb E\log q(x_0)=-H(q)$ to the average of (4.3); numerator and
# denominator are now both joint densities of the whole chain, and the difference is $\mathrm{KL}(q(x_{0:T})\Vert p_\theta(x_{0:T}))$. A forward Markov chain read backwards is again a Markov chain,
# $q(x_{0:T})=q(x_T)\prod_t q(x_{t-1}\mid x_t)$, so this divergence splits link by link:
#
# \begin{align*}
# \mathbb E_q L-H(q)={}&\mathrm{KL}\big(q(x_T)\,\Vert\,p(x_T)\big) \\
# &+\sum_{t=1}^T\mathbb E_{q(x_t)}\,\mathrm{KL}\big(q(x_{t-1}\mid x_t)\,\Vert\,p_\theta(x_{t-1}\mid x_t)\big). \tag{4.16}
# \end{align*}
#
# No $x_0$ in the conditions any more: **the bound loses exactly what the reverse steps get wrong**, the shape, mean and variance of $q(x_{t-1}\mid x_t)$, and the start.
#
# Take data with $\mathrm{Var}(x_0)=v$ per dimension, Gaussian and isotropic, and the exact denoiser. Shape and mean are then right; what about the variance?
# Let $V_t=\bar\alpha_tv+1-\bar\alpha_t=\mathrm{Var}(x_t)$. Bayes multiplies the density of $x_{t-1}$, precision $1/V_{t-1}$, with the likelihood of $x_t$, precision $\alpha_t/\beta_t$, and $\alpha_tV_{t-1}+\beta_t=V_t$:
#
# $$
# \mathrm{Var}(x_{t-1}\mid x_t)=\left(\frac1{V_{t-1}}+\frac{\alpha_t}{\beta_t}\right)^{-1}=\beta_t\,\frac{V_{t-1}}{V_t} .
# \tag{4.17}
# $$
#
# For $v=1$ that is $\beta_t$, for $v=0$ it is $\tilde\beta_t$, as in chapter 02. With this variance every KL in the sum is zero and the bound is *exact but for the prior, for every $T$*. With another $\sigma_t^2$,
# each step loses $\frac12[r_t-1-\log r_t]$ with $r_t=\beta_tV_{t-1}/(V_t\sigma_t^2)$, by (4.7).
#
# - $\sigma_t^2=\beta_t$: $r_t=V_{t-1}/V_t\to1$ when steps shrink. $V$ moves by $O(1/T)$ in a step, a term costs $O(1/T^2)$, the sum $O(1/T)$. **The gap closes.**
# - $\sigma_t^2=\tilde\beta_t$: $r_t$ has the extra factor $\beta_t/\tilde\beta_t=(1-\bar\alpha_t)/(1-\bar\alpha_{t-1})$. In the middle of the chain it tends to one too. *Near the data it does not*: the first $\beta$s are nearly equal, $1-\bar\alpha_t\approx t\beta_1$, and the factor is $t/(t-1)$, whatever $T$ is. These steps lose
#
#   $$
#   \sum_{t=2}^{N}\frac12\left[\frac{t}{t-1}-1-\log\frac t{t-1}\right]=\frac12\left[\sum_{k=1}^{N-1}\frac1k-\log N\right]\;\longrightarrow\;\frac\gamma2 ,
#   $$
#
#   with Euler's constant $\gamma=0.5772\ldots$ And the decoder, which borrows $\tilde\beta_2\approx\beta_1/2$ where $\beta_1$ is right, has $r_1=2$. Together, in nats per dimension,
#
# $$
# \lim_{T\to\infty}\ \text{gap}_{\tilde\beta}=\frac\gamma2+\frac{1-\ln2}{2}\approx0.442\quad(0.638\text{ bits per dimension}),
# \tag{4.18}
# $$
#
# for every $v>0$ and every schedule whose first steps become equal as $T$ grows, as those of the linear and the cosine schedule do. It is a toll for pretending, in the last few steps, that the data are a point when they are
# spread out. The formulas, and the library's bound with samples, which knows none of them:

# %% mystnb={"image": {"alt": "Gap between the bound and the entropy over the number of steps T on logarithmic axes. With beta it falls in proportion to 1/T, with beta tilde it rises, falls and levels off at 0.442 nats per dimension. Points with error bars measured by the library lie on the curves."}}
EULER = 0.5772156649015329
limit = EULER / 2 + (1 - math.log(2)) / 2
v = 0.3


def gap(T, var_mix):
    chain = DDPM(schedules.cosine(T))
    V = chain.alpha_bar * v + 1 - chain.alpha_bar
    exact = chain.beta[1:] * V[:-1] / V[1:]  # (4.17)
    low = chain.beta_tilde[1:].clone()
    low[0] = low[1]  # the decoder borrows the variance of t = 2
    r = exact / (chain.beta[1:] ** var_mix * low ** (1 - var_mix))
    return (r - 1 - r.log()).sum().item() / 2


def measured(T, var_mix, n=3000):
    chain = DDPM(schedules.cosine(T))
    exact = oracle.Gaussian(
        chain, torch.zeros(1, dtype=F64), v * torch.eye(1, dtype=F64)
    )
    x0 = exact.draw(n, generator=torch.Generator().manual_seed(5))
    L = elbo(
        With(exact, var_mix), chain, x0, decoder=continuous,
        generator=torch.Generator().manual_seed(6),
    ).total  # fmt: skip
    excess = L + exact.log_prob(x0, 0)  # same points: their entropy cancels
    return excess.mean().item(), excess.std().item() / n**0.5


Ts = [5, 10, 30, 100, 300, 1000, 3000, 10_000, 100_000]
fig, ax = plt.subplots(figsize=(6.4, 2.9))
for mix, colour, name in (
    (0.0, plots.ORANGE, r"\tilde\beta_t"),
    (1.0, plots.BLUE, r"\beta_t"),
):
    ax.plot(
        Ts,
        [gap(T, mix) for T in Ts],
        color=colour,
        label=rf"$\sigma_t^2={name}$",
    )
    for T in (5, 10, 30, 100):
        mean, error = measured(T, mix)
        ax.errorbar(T, mean, 2 * error, fmt="o", color=colour, capsize=3)
        assert abs(mean - gap(T, mix)) < 4 * error + 1e-3
ax.axhline(limit, color="black", ls="--", lw=1, label="(4.18)")
ax.set(
    xscale="log",
    yscale="log",
    xlabel="number of steps T",
    ylabel="gap in nats per dimension",
)
ax.legend()
for T in (100, 10_000, 100_000):
    print(
        f"T = {T:6d}: β leaves {gap(T, 1.0):.5f}, β̃ leaves {gap(T, 0.0):.3f} nats"
    )
print(
    f"limit of β̃: {limit:.3f} nats = {bits_per_dim(limit, 1):.3f} bits per dimension"
)
assert abs(gap(100_000, 0.0) - limit) < 0.01
assert 8 < gap(10_000, 1.0) / gap(100_000, 1.0) < 12

# %% [markdown]
# *What to see:* blue falls tenfold when $T$ grows tenfold; orange settles on the dashed line, slowly and from above, and stays. Dots are the library's estimates with two standard errors; from $T=30$ on 3,000 points cannot tell the gap of $\beta_t$ from zero, and the logarithmic axis stretches that error down to the frame.
#
# Images are not Gaussian, though. A grey level is a *point* once the noise is finer than a bin, and the border of a scan is always exactly black: for such pixels $\tilde\beta$ is right and $\beta$ pays. So the choice is a
# measurement. (For a point, (4.17) has $v=0$, and the same sum with the roles exchanged says that the steps with $\beta_t$ lose $\frac12(1-\gamma)\approx0.211$ nats.)
#
# ## One knob turned
#
# The variance of the reverse step, and the number of steps, on 20 unseen scans. One network, which was trained for neither variance; the noise of $x_t$ is the same for both.

# %% mystnb={"image": {"alt": "Bits per dimension of the digits model over the number of steps, 5 to 100, for reverse variance beta tilde and beta, with error bars. Beta stays nearly level, beta tilde starts below it and rises above it."}} tags=["nbval-ignore-output"]
from ddpmlib.samplers import uniform_times

chains = (5, 10, 25, 50, 100)
knob, decoders = {}, {}
for mix in (0.0, 1.0):
    for n in chains:
        g = torch.Generator().manual_seed(7)
        d = With(lambda x, t, y: digits_denoiser(x, t, y), mix)
        L = elbo(
            d, process, scans, uniform_times(1000, n), y=labels, generator=g
        )
        knob[mix, n] = L.bits_per_dim
        decoders[n] = bits_per_dim(L.decoder.mean().item(), 64)
fig, ax = plt.subplots(figsize=(6.4, 2.8))
for mix, colour, name in (
    (0.0, plots.ORANGE, r"$\tilde\beta$"),
    (1.0, plots.BLUE, r"$\beta$"),
):
    mean = [knob[mix, n].mean() for n in chains]
    error = [knob[mix, n].std() / 20**0.5 for n in chains]
    ax.errorbar(
        chains, mean, error, marker="o", capsize=3, color=colour, label=name
    )
ax.set(
    xlabel="steps",
    ylabel="bits per dimension",
    xscale="log",
    xticks=chains,
    xticklabels=chains,
)
ax.minorticks_off()
ax.legend()
print("         β̃             β            β minus β̃     of β: L_0")
for n in chains:
    low, high = knob[0.0, n], knob[1.0, n]
    cells = [
        f"{b.mean():5.2f} ± {b.std() / 20**0.5:.2f}"
        for b in (low, high, high - low)
    ]
    print(f"{n:4d} " + "  ".join(cells) + f"  {decoders[n]:8.2f}")
for n, sign in ((5, 1), (100, -1)):
    paired = sign * (knob[1.0, n] - knob[0.0, n])
    assert paired.mean() > 2 * paired.std() / 20**0.5

# %% [markdown]
# *What to see:* first, that more steps do *not* tighten this bound. The theory above had an exact denoiser; this one was trained for seconds. A chain of five long strides
# leaves most of the bound to a broad decoder; with more steps $L_0$ falls (last column), but the steps near the data add at least as much, for there the weight (4.12) of the network's errors is largest. Second, that the curves cross. With long
# strides $\tilde\beta$ and $\beta$ lie far apart and $\beta$ is too wide. With short ones $\tilde\beta$, the smallest variance a reverse step can have, is too sure of a network that errs. Both curves are honest bounds, so the lower one may be
# reported. Better than either end is a place between them, learned: chapter 06.
#
# ## Train it here: two losses, two currencies
#
# The same small perceptron, the same scans, the same 800 updates, three seeds; once with $L_\text{simple}$, once with the bound itself (4.15) as the loss. Then both are measured by both.

# %% tags=["nbval-ignore-output"]
from ddpmlib.losses import l_simple, l_vlb
from ddpmlib.models import MLP
from ddpmlib.training import Settings, Trainer, fit

small = DDPM(schedules.cosine(50))
train, held_out = (
    data.to_float(images.x_train).flatten(1),
    test.flatten(1)[:200],
)


def loss_of(kind):
    def loss(model, x, y, generator):
        t = torch.randint(
            1, model.process.T + 1, (len(x),), generator=generator
        )
        eps = torch.randn(x.shape, generator=generator)
        return kind(model, x, t, eps).mean()

    return loss


by_loss = {}
for kind in (l_simple, l_vlb):
    cells = []
    for seed in range(3):
        _ = torch.manual_seed(seed)
        run = Trainer(
            Denoiser(MLP(dim=64, width=128, depth=2), small, EPS, var_mix=1.0),
            loss_of(kind),
            train,
            None,
            Settings(
                steps=800,
                batch_size=128,
                lr=2e-3,
                ema=0.99,
                clip=1.0,
                seed=seed,
            ),
            device="cpu",
        )
        for _ in fit(run):
            pass
        g = torch.Generator().manual_seed(8)
        many = held_out.repeat(10, 1)
        t = torch.randint(1, 51, (2000,), generator=g)
        with torch.no_grad():
            simple = l_simple(
                run.averaged, many, t, torch.randn(2000, 64, generator=g)
            )
        L = elbo(run.averaged, small, held_out, generator=g)
        cells.append([simple.mean(), L.bits_per_dim.mean()])
    by_loss[kind.__name__] = torch.tensor(cells)
print("trained with    L_simple per pixel    bound, bits/dim")
for name, cells in by_loss.items():
    (s, b), (ds, db) = cells.mean(0), cells.std(0)
    print(f"{name:12} {s:12.3f} ± {ds:.3f} {b:14.2f} ± {db:.2f}")
ours, theirs = by_loss["l_simple"].mean(0), by_loss["l_vlb"].mean(0)
assert ours[0] < theirs[0] and theirs[1] < ours[1]  # each wins its own

# %% [markdown]
# Each loss wins in its own currency, by many standard deviations, and loses in the other. And neither number of bits is a good one: more than 8, what knowing nothing would cost. A perceptron that was trained for
# seconds is wrong about the noise of nearly clean images, where nothing but fine detail is left to tell, and the bound charges every such error at the rate (4.12). A likelihood is a severe examiner
# of a part of the chain that nobody looks at. (Training on the bound with less noise in its gradient, and on both losses at once, is chapter 06.)
#
# ## The same code at scale
#
# The MNIST checkpoint lies in the repository, MNIST itself does not. So this page, which must run offline, measures how surprised the model is by *its own* drawings: draw, round to 8 bits, bound. (Chapter 09 reports real test images,
# from recorded runs.)

# %% mystnb={"image": {"alt": "Left: ten digits drawn by the MNIST model. Right: the bits that each reverse step pays, summed over the pixels, as maps: the steps far from the data and the near ones pay along the outlines of the strokes, the last step pays everywhere, the background included."}} tags=["nbval-ignore-output"]
from ddpmlib.likelihood import decoder_floor, reverse_step_term
from ddpmlib.samplers import draw

mnist, card = zoo.load("mnist", device="cpu")
y = torch.arange(10)
x_T = torch.randn(
    10, *card.image_shape, generator=torch.Generator().manual_seed(9)
)
drawn = draw(mnist, mnist.process, x_T, uniform_times(1000, 25), eta=0.0, y=y)
drawn = data.to_float(data.to_uint8(drawn))
chain = uniform_times(1000, 100)
g, floor, maps = (
    torch.Generator().manual_seed(10),
    decoder_floor(mnist.process, chain),
    {},
)
for t, s in zip(chain[:-1], chain[1:], strict=True):
    x_t = mnist.process.q_sample(
        drawn, t, torch.randn(drawn.shape, generator=g)
    )
    with torch.no_grad():
        term = reverse_step_term(
            mnist.process, drawn, x_t, mnist(x_t, t, y), t, s, floor=floor
        )
    maps[s] = term / math.log(2)
rows = {
    "far, t > 300": sum(m for s, m in maps.items() if s >= 300),
    "near, 300 to 10": sum(m for s, m in maps.items() if 0 < s < 300),
    "last, 10 to 0": maps[0],
}
fig, axes = plt.subplots(4, 1, figsize=(6.4, 3.1))
_ = plots.grid(drawn, ncol=10, ax=axes[0], title="drawn by the model")
for ax, (name, m) in zip(axes[1:], rows.items(), strict=True):
    shade = 2 * m / m.quantile(0.99) - 1
    _ = plots.grid(shade.clamp(-1, 1), ncol=10, ax=ax)
    _ = ax.set_title(f"{name}: {m.sum() / 7840:.2f} bits/dim", fontsize=9)
print(
    f"bound: {sum(m.sum() for m in maps.values()) / 7840:.2f} bits per dimension, 100 steps"
)

# %% [markdown]
# *What to see:* where each part of the chain pays, white is much (each row has its own scale). Down to the last step the black background is free, for it is certain; the far and the near steps pay along the outlines, the near ones more finely. The
# last step pays everywhere, and most: the model's black is not exactly black, it is off by a grey level here and there, which no eye sees and every decoder charges for.
#
# ## What goes wrong
#
# **A decoder without a floor.** $\tilde\beta_1=0$. Whoever reads the variance of the last step from the table has a decoder of variance zero: infinitely sure, and infinitely wrong about every pixel that is off by a grey level. The usual patch,
# $\max(\tilde\beta_1,10^{-20})$, is the same bug in finite clothes.

# %% mystnb={"image": {"alt": "Bits per dimension of the decoder over its standard deviation on logarithmic axes: a valley near the true error of the network, a gentle slope to the right and a steep wall to the left. The values from beta tilde at t = 2 and from beta at t = 1 lie in the valley."}}
g = torch.Generator().manual_seed(11)
x_1 = process.q_sample(scans, 1, torch.randn(scans.shape, generator=g))
with torch.no_grad():
    prediction = digits_denoiser(x_1, 1, labels)


def decoder_bits(variance):
    at = Prediction(prediction.x0, 0.0)
    term = reverse_step_term(process, scans, x_1, at, 1, 0, floor=variance)
    return bits_per_dim(term.flatten(1).sum(1).mean().item(), 64)


stds = torch.logspace(-4, 0, 60).tolist()
marks = {
    "$\\tilde\\beta_2$": float(process.beta_tilde[2]),
    "$\\beta_1$": float(process.beta[1]),
}
fig, ax = plt.subplots(figsize=(6.4, 2.8))
ax.loglog(stds, [decoder_bits(std**2) for std in stds], color="black")
for (name, variance), colour in zip(
    marks.items(), (plots.ORANGE, plots.BLUE), strict=True
):
    ax.plot(
        variance**0.5, decoder_bits(variance), "o", color=colour, label=name
    )
ax.set(xlabel="deviation of the decoder", ylabel="$L_0$, bits per dimension")
ax.legend()
patch = decoder_bits(1e-20)
usual = decoder_bits(float(process.beta_tilde[2]))
print(f"L_0 with β̃_2: {usual:.2f} bits per dimension, with 1e-20: {patch:.0e}")
assert patch > 1e6
try:
    decoder_bits(0.0)
except ValueError as error:
    print("with 0:", error)

# %% [markdown]
# *What to see:* a wall on the left, a gentle slope on the right. A decoder that is too sure costs without limit, one too humble a little. The tests that catch it: `test_the_decoders_floor` and `test_bad_times_draws_and_floors_are_refused` in
# `tests/test_likelihood.py`.
#
# **Three lost factors.** Most of them make numbers look *better*, which is why they live long.

# %%
L = elbo(
    digits_denoiser, process, scans, coarse, y=labels,
    generator=torch.Generator().manual_seed(3),
).total.mean().item()  # fmt: skip
print(f"{L:7.1f} nats per image            a sum over 64 pixels")
print(
    f"{L / 64:7.2f} nats per dimension        'bits' of someone who forgot ln 2"
)
print(f"{bits_per_dim(L, 64):7.2f} bits per dimension        (4.14)")
print(
    f"{bits_per_dim(L, 3 * 64):7.2f} bits per 'dimension'      of someone who counted three channels"
)

wrong = (
    scans + 1
) / 2  # images in [0, 1]: bins twice as wide as the levels are apart
try:
    elbo(digits_denoiser, process, wrong, coarse, y=labels)
except ValueError as error:
    print("\nimages in [0, 1]:", error)
sure = discretised(
    levels / 2 + 0.5, levels / 2 + 0.5, torch.tensor(2 * math.log(0.004))
)
right = discretised(levels, levels, torch.tensor(2 * math.log(0.008)))
print(
    f"the same decoder in the wrong range: {-sure.mean() / math.log(2):.2f} bits"
)
print(
    f"and in the right one:                {-right.mean() / math.log(2):.2f} bits"
)
assert sure.mean() > right.mean()

# %% [markdown]
# In the range $[0,1]$ neighbouring levels are $1/255$ apart, but the bins of (4.13) stay $2/255$ wide: they overlap, the probabilities of all levels add up to *two*, and every pixel looks up to a bit cheaper than it is. The library refuses data
# that are not on the 256 levels; the test is `test_data_that_the_decoder_cannot_mean_are_refused`.
#
# ## Exercises
#
# Write your answer into the cell below each question and take the `#` off its last line: the check
# says yes, or gives a hint. ★ asks for a derivation, ★★ for code, ★★★ for a small project of both.
# Solutions are folded.
#
# ### ★ Exercise 4.1
#
# A paper reports 1,900 nats for 28×28 grey images. How many bits per dimension is that, and how many nats per image does a model need that knows nothing and gives each of 256 levels the same probability? Give both.
#
# :::{dropdown} Hint
# (4.14) once forwards and once backwards; nothing known is 8 bits per dimension.
# :::

# %%
from ddpmlib.teaching import exercises

answer = ...  # (bits per dimension, nats per image)

# exercises.check("4.1", answer)

# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
# Solution of exercise 4.1
exercises.check("4.1", (1900 / (784 * math.log(2)), 784 * math.log(256)))

# %% [markdown]
# ### ★★ Exercise 4.2
#
# Write `weights(alpha_bar)`: from the table $\bar\alpha_0,\dots,\bar\alpha_T$ the bound's weights of the *noise* error at $t=2,\dots,T$ for $\sigma_t^2=\tilde\beta_t$, a tensor of length $T-1$. No $\beta$ needed.
#
# :::{dropdown} Hint
# (4.12). Start the table of $\mathrm{SNR}$ at $t=1$; at $t=0$ it is infinite.
# :::

# %%
answer = ...  # a function of alpha_bar

# exercises.check("4.2", answer)


# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
# Solution of exercise 4.2
def weights(alpha_bar):
    snr = alpha_bar[1:] / (1 - alpha_bar[1:])
    return 0.5 * (snr[:-1] / snr[1:] - 1)


exercises.check("4.2", weights)

# %% [markdown]
# ### ★★ Exercise 4.3
#
# The chain of one step is a VAE with a fixed encoder. Data $x_0\sim\mathcal N(0,v)$, $x_1=\sqrt{\bar\alpha_1}x_0+\sqrt{1-\bar\alpha_1}\varepsilon$, exact denoiser. Which decoder variance minimises the average of $L_T+L_0$? Write `best_variance(alpha_bar_1, v)`.
#
# :::{dropdown} Hint
# Average $L_0$ over the data: $\frac12[\log 2\pi\sigma^2+\mathbb E(x_0-\hat x_0)^2/\sigma^2]$. Differentiate. Then (4.17) with $t=1$.
# :::

# %%
answer = ...  # a function of (alpha_bar_1, v)

# exercises.check("4.3", answer)


# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
# Solution of exercise 4.3: the mean squared error, that is Var(x_0 | x_1) = β_1 V_0 / V_1
def best_variance(alpha_bar_1, v):
    return (1 - alpha_bar_1) * v / (alpha_bar_1 * v + 1 - alpha_bar_1)


exercises.check("4.3", best_variance)

# %% [markdown]
# ### ★★★ Exercise 4.4
#
# Write `bound(eps_net, x0, alpha_bar, times, noise)`: the bound of a *strided* chain in nats, (B,), for real data (B, d), $\sigma^2=\tilde\beta_{t\to s}$ of each stride. `times` fall from $T$ to 0, `noise[t]` is the $\varepsilon$ of $x_t$, `eps_net(x_t, t)` the network.
# The decoder is a Gaussian density with the $\tilde\beta$ of the last stride but one. There are at least two strides.
#
# :::{dropdown} Hint
# (4.12) holds for strides with $t-1$ replaced by $s$; $\tilde\beta_{t\to s}=\frac{1-\bar\alpha_s}{1-\bar\alpha_t}\left(1-\frac{\bar\alpha_t}{\bar\alpha_s}\right)$. Start from `bound_from_scratch`.
# :::

# %%
answer = ...  # a function (eps_net, x0, alpha_bar, times, noise) -> (B,)

# exercises.check("4.4", answer)


# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
# Solution of exercise 4.4
def bound_of_strides(eps_net, x0, alpha_bar, times, noise):
    a = alpha_bar[times[0]]
    L = 0.5 * (a * x0**2 - a - torch.log(1 - a)).sum(1)
    for t, s in zip(times[:-1], times[1:], strict=True):
        a, b = alpha_bar[t], alpha_bar[s]
        x_t = a.sqrt() * x0 + (1 - a).sqrt() * noise[t]
        error = ((noise[t] - eps_net(x_t, t)) ** 2).sum(1)
        if s > 0:
            L = L + 0.5 * (b / (1 - b) * (1 - a) / a - 1) * error
            var_0 = (1 - b) / (1 - a) * (1 - a / b)
        else:
            L = L + 0.5 * (1 - a) / a * error / var_0
            L = L + 0.5 * x0.shape[1] * torch.log(2 * math.pi * var_0)
    return L


exercises.check("4.4", bound_of_strides)

# %% [markdown]
# ## Recap
#
# 1. Cross-entropy → marginalise over the path → Jensen. The loss is $\mathrm{KL}(q(x_{1:T}\mid x_0)\Vert p_\theta(x_{1:T}\mid x_0))$, never negative.
# 2. Bayes with $x_0$ in the condition turns the forward steps around; everything telescopes into $L_T+\sum L_{t-1}+L_0$, KLs of Gaussians and a decoder.
# 3. $L_{t-1}$ is a weighted noise regression, weight $\frac12(\mathrm{SNR}(t-1)/\mathrm{SNR}(t)-1)$ for $\sigma^2=\tilde\beta$. $L_\text{simple}$ sets it to one and so spends its effort where images are decided, not where bits are.
# 4. On average the bound loses exactly what the reverse steps get wrong. With $\beta_t$ that vanishes like $1/T$; with $\tilde\beta_t$ data with a density pay 0.442 nats per dimension for ever.
# 5. A reported number needs its unit (nats or bits, per image or per dimension), its data range, its decoder and its standard error.
#
# The equations of this chapter, the functions that implement them, the tests that pin them:

# %% mystnb={"code_prompt_show": "Equations, functions, tests", "code_prompt_hide": "Hide the table"} tags=["hide-cell"]
from ddpmlib import equations

equations.table("04")

# %% [markdown]
# ## Further reading
#
# - Ho, Jain & Abbeel (2020) {cite}`ho2020denoising`: section 3 and appendix A, where (4.6) is their (22); the decoder is their (13), our (4.10) their (12).
# - Sohl-Dickstein et al. (2015) {cite}`sohldickstein2015deep`: where the bound comes from.
# - Kingma & Welling (2014) {cite}`kingma2014auto`: the VAE.
# - Kingma, Salimans, Poole & Ho (2021), *Variational diffusion models* {cite}`kingma2021variational`: (4.11) is their starting point; the limit $T\to\infty$ as an integral over the SNR.
# - Bao et al. (2022), *Analytic-DPM* {cite}`bao2022analytic`: the optimal reverse variance for any data.
# - Luo (2022) {cite}`luo2022understanding`: the same derivation at a slower pace, as a hierarchical VAE.
