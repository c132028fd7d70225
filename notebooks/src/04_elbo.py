# %% [markdown]
# # 4. The evidence lower bound
#
# [![Open in Colab](../book/_static/colab.svg)](https://colab.research.google.com/github/ddpm-book/ddpm-book/blob/main/notebooks/04_elbo.ipynb)
#
# A diffusion model gives every image a probability, but nobody can compute it: it is an integral
# over all noisy paths that end at the image. What can be computed is a *bound* on its logarithm,
# the evidence lower bound (ELBO), and it is a sum of one term per step. This chapter derives every
# term. It opens with the result: the terms of the digits model that ships with this book, for
# twenty scans that it was not trained on.

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

import matplotlib.pyplot as plt
import torch
from ddpmlib import data, plots, zoo
from ddpmlib.likelihood import bits_per_dim, elbo
from IPython.display import Markdown

digits_denoiser, digits_card = zoo.load("digits", device="cpu")
process = digits_denoiser.process
images = data.load("digits")
scans, labels = data.to_float(images.x_test[:20]), images.y_test[:20]

g = torch.Generator().manual_seed(0)
bound = elbo(digits_denoiser, process, scans, y=labels, generator=g)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Left: bits per dimension of each reverse step over time on logarithmic axes, falling over many orders of magnitude from the data towards noise. Right: the running total while walking down from t = 1000; it stays near zero for most of the chain and rises steeply in the last few steps."}}
bits = bits_per_dim(
    torch.cat([bound.steps.mean(0), bound.decoder.mean()[None]]), 64
)
so_far = bits.cumsum(0)  # on the way down from t = 1000
t = torch.arange(1000, 0, -1)

fig, axes = plt.subplots(1, 2, figsize=(7.5, 2.7))
axes[0].loglog(t[:-1], bits[:-1], lw=1, label="$L_{t-1}$")
axes[0].loglog([1], bits[-1:], "o", color=plots.ORANGE, label="$L_0$")
axes[0].set(xlabel="time $t$", ylabel="bits per dimension")
axes[0].legend()
axes[1].semilogx(t, so_far)
axes[1].set(
    xlabel="time $t$, walking down to the right",
    ylabel="bits per dimension so far",
    xlim=(1000, 1),
)
plt.show()
total = bound.bits_per_dim
last_hundred = 1 - so_far[t == 101].item() / so_far[-1].item()
last_ten = 1 - so_far[t == 11].item() / so_far[-1].item()
print(
    f"bound on 20 unseen scans: {total.mean():.1f} ± {total.std() / 20**0.5:.1f}"
    " bits per dimension"
)
print(f"the last 100 of 1,000 steps hold {last_hundred:.0%} of it", end=", ")
print(f"the last ten {last_ten:.0%}")
assert 0.84 < last_hundred < 0.90 and 0.55 < last_ten < 0.65
assert 5.0 < total.mean() < 5.35

# %% [markdown]
# **Fig. 4.1.** The last steps hold most of the bound. Left: the bits of each reverse step; they
# grow by orders of magnitude towards the data. Right: their sum along the chain. The first 900 of
# 1,000 steps, in which a sample gets its shape, contribute 13 % of 5.2 bits per dimension; the last
# ten contribute 60 %, for differences of grey that are hardly visible. Likelihood and visual
# quality therefore reward different steps.
#
# ## Objectives
#
# After this chapter you can
#
# - derive $L = L_T+\sum_t L_{t-1}+L_0$ from the cross-entropy without skipping a step;
# - compute each term for Gaussians, and state the exact weight that the bound puts on
#   $\lVert\varepsilon-\varepsilon_\theta\rVert^2$ at each $t$;
# - say what $L_\text{simple}$ changes about it, and in which sense diffusion is a hierarchical VAE;
# - report a likelihood in bits per dimension with its standard error, read the published ones, and
#   find the usual mistakes in both;
# - say how far the bound is from the truth, which part of that goes away as $T$ grows, and which
#   does not.
#
# ## The bound on a mixture of three Gaussians, with 5, 20 and 100 steps
#
# A chain of $T$ Gaussian reverse steps defines a density $p_\theta(x_0)$: that of the place where a
# sampler ends. To bound it we walk the other way. We draw noisy paths *up* from $x_0$, which is
# easy, and compare the probability of each path under the forward process with its probability
# under the model. The average of the log ratio is never less than $-\log p_\theta(x_0)$. Here it is
# for three narrow Gaussians on a line, where the density of the data is known; every step uses the
# exact denoiser.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Minus log density of a three-component mixture over x, and the variational bound for chains of 5, 20 and 100 steps. Five steps give a nearly flat line, 20 steps three shallow valleys, 100 steps nearly the true curve."}}
from ddpmlib.denoiser import EPS, Denoiser, FixedVariance, oracle
from ddpmlib.likelihood import continuous
from ddpmlib.process import DDPM, schedules

F64 = torch.float64


def three(T):
    chain = DDPM(schedules.cosine(T))
    centres = torch.tensor([-0.8, 0.1, 0.9], dtype=F64)
    stds = torch.tensor([0.15, 0.1, 0.15], dtype=F64)
    return chain, oracle.Mixture(chain, torch.ones(3), centres, stds)


grid, copies = torch.linspace(-1.4, 1.4, 57, dtype=F64), 100
fig, ax = plt.subplots(figsize=(7.5, 3))
truth = -three(1)[1].log_prob(grid, 0)
weight, gaps = torch.softmax(-truth, 0), {}  # q(x_0) on the grid
ax.plot(grid, truth, color="black", label=r"$-\log q(x_0)$")
for T, colour in ((5, plots.ORANGE), (20, plots.SKY), (100, plots.BLUE)):
    chain, exact = three(T)
    L = elbo(
        FixedVariance(exact, 1.0),  # σ_t² = β_t
        chain,
        grid.repeat(copies),
        decoder=continuous,
        generator=torch.Generator().manual_seed(0),
    ).total.reshape(copies, -1)
    ax.plot(grid, L.mean(0), color=colour, label=f"bound, $T = {T}$")
    gaps[T] = float(weight @ (L.mean(0) - truth))
    between = (grid + 0.3).abs().minimum((grid - 0.45).abs()) < 0.04
    assert (L.mean(0) < truth)[between].all()
ax.set(xlabel="$x_0$", ylabel="nats", ylim=(-1, 8))
ax.legend(loc="upper center", ncol=2)
plt.show()
print("gap, averaged over the data:", end=" ")
print(", ".join(f"{gap:.2f} nats at T = {T}" for T, gap in gaps.items()))
assert gaps[5] > 1.8 * gaps[20] > 6 * gaps[100] > 0

# %% [markdown]
# **Fig. 4.2.** With more steps the bound comes down onto $-\log q$ where the data are: averaged
# over the data it is 0.55 nats too high with 5 steps, 0.27 with 20 and 0.06 with 100. Between the
# clusters it lies *below* the black curve. That is no contradiction: it bounds the density of the
# *model*, and a model of few Gaussian steps puts too much density between the clusters and too
# little on them.
#
# Why the gap closes, and why it would not close with the other usual variance, is the subject of
# the section [*How tight is the bound?*](#how-tight-is-the-bound)
#
# ## From the cross-entropy to $L_T+\sum L_{t-1}+L_0$
#
# ### Marginalise, then use Jensen's inequality
#
# We want the model's density high where the data are: minimise the cross-entropy. It is the entropy
# of the data, which no model can change, plus a divergence that is zero only for a perfect model,
#
# $$
# -\mathbb E_{q(x_0)}\log p_\theta(x_0) = H(q) + \mathrm{KL}\big(q(x_0)\,\Vert\,p_\theta(x_0)\big).
# \tag{4.1}
# $$
#
# The model is a chain $p_\theta(x_{0:T}) = p(x_T)\prod_{t=1}^T p_\theta(x_{t-1}\mid x_t)$ with
# $p(x_T)=\mathcal N(0,I)$, and $x_0$ is only its last link. **Marginalise** over the rest, and
# multiply and divide by the forward process:
#
# $$
# p_\theta(x_0) = \int p_\theta(x_{0:T})\,dx_{1:T} = \mathbb E_{q(x_{1:T}\mid x_0)}\left[\frac{p_\theta(x_{0:T})}{q(x_{1:T}\mid x_0)}\right].
# \tag{4.2}
# $$
#
# This is exact, but useless as an estimator: a few rare paths carry nearly the whole average. The
# logarithm is concave, so **Jensen's** inequality $\log\mathbb E X\ge\mathbb E\log X$ replaces it
# by an average of moderate numbers,
#
# $$
# -\log p_\theta(x_0)\;\le\; L(x_0) := \mathbb E_{q(x_{1:T}\mid x_0)}\left[\log\frac{q(x_{1:T}\mid x_0)}{p_\theta(x_{0:T})}\right].
# \tag{4.3}
# $$
#
# What was lost? Write $p_\theta(x_{0:T}) = p_\theta(x_0)\,p_\theta(x_{1:T}\mid x_0)$ in (4.3); the
# first factor leaves the expectation:
#
# $$
# L(x_0) = -\log p_\theta(x_0) + \mathrm{KL}\big(q(x_{1:T}\mid x_0)\,\Vert\,p_\theta(x_{1:T}\mid x_0)\big).
# \tag{4.4}
# $$
#
# So the bound is tight when the model's posterior over paths, given $x_0$, is the forward process.
#
# A condition $c$, such as a class label, changes nothing: put it into every $p_\theta$, and
# $L(x_0\mid c)$ bounds $-\log p_\theta(x_0\mid c)$. The 5.2 bits of Fig. 4.1 are of this kind, for
# the model was told the label of each scan.
#
# :::{admonition} Common misprint: the name and the direction of the bound
# :class: warning
# The deck "Diffusion Model" writes this loss as $L_\text{LVB}$. It is $L_\text{vlb}$, the
# *variational lower bound*: a lower bound on $\log p_\theta$, and with the minus sign, as in (4.3),
# an *upper* bound on the loss $-\log p_\theta$, which is why the deck with the creatis derivation
# calls it $L_\text{VUB}$. "ELBO", *evidence lower bound*, is the same thing. Two signs to check in
# your own slides: the inequality of (4.3) (reversed on one slide of "Denoising Diffusion
# Probabilistic and Implicit Models"), and the creatis deck's step from "$H$ is positive" to
# "minimising $L_\text{VUB}$ is equivalent to minimising $H$". The entropy of a density can be
# negative, and a bound can shrink while what it bounds does not.
# :::
#
# ### The bound is a sum of T + 1 terms
#
# Both chains are products, so the logarithm in (4.3) is a sum. By the Markov property of both,
#
# $$
# \log\frac{q(x_{1:T}\mid x_0)}{p_\theta(x_{0:T})} = -\log p(x_T)+\sum_{t=1}^T\log\frac{q(x_t\mid x_{t-1})}{p_\theta(x_{t-1}\mid x_t)} .
# $$
#
# The fractions compare a step *up* with a step *down*, distributions of different variables, and
# their average has a large variance. Turn the upper one around. For $t\ge2$ we may condition on
# $x_0$ too, since given $x_{t-1}$ it says nothing more about $x_t$, and then use Bayes:
#
# $$
# q(x_t\mid x_{t-1}) = q(x_t\mid x_{t-1},x_0) = q(x_{t-1}\mid x_t,x_0)\;\frac{q(x_t\mid x_0)}{q(x_{t-1}\mid x_0)} .
# \tag{4.5}
# $$
#
# The step $t=1$ stays as it is. The extra factors telescope, each numerator meeting the next
# denominator:
#
# $$
# \sum_{t=2}^T\log\frac{q(x_t\mid x_0)}{q(x_{t-1}\mid x_0)} = \log q(x_T\mid x_0)-\log q(x_1\mid x_0),
# $$
#
# and the second term cancels against the numerator $q(x_1\mid x_0)$ of the step $t=1$. What is
# left:
#
# $$
# \log\frac{q(x_{1:T}\mid x_0)}{p_\theta(x_{0:T})} = \log\frac{q(x_T\mid x_0)}{p(x_T)} + \sum_{t=2}^T\log\frac{q(x_{t-1}\mid x_t,x_0)}{p_\theta(x_{t-1}\mid x_t)} - \log p_\theta(x_0\mid x_1) .
# $$
#
# Now average over the path. In the $t$-th fraction only $x_{t-1}$ and $x_t$ occur; averaging over
# $x_{t-1}\sim q(x_{t-1}\mid x_t,x_0)$ first turns it into a KL divergence, and
# $x_t\sim q(x_t\mid x_0)$ comes after:
#
# \begin{align*}
# L(x_0) ={}& \underbrace{\mathrm{KL}\big(q(x_T\mid x_0)\,\Vert\,p(x_T)\big)}_{L_T} \\
# &+ \sum_{t=2}^T\underbrace{\mathbb E_{q(x_t\mid x_0)}\,\mathrm{KL}\big(q(x_{t-1}\mid x_t,x_0)\,\Vert\,p_\theta(x_{t-1}\mid x_t)\big)}_{L_{t-1}} \\
# &+ \underbrace{\mathbb E_{q(x_1\mid x_0)}\big[-\log p_\theta(x_0\mid x_1)\big]}_{L_0} . \tag{4.6}
# \end{align*}
#
# $L_T$ has no parameters, $L_0$ is a decoder that turns the last latent into data, and each
# $L_{t-1}$ compares two Gaussians whose means we know. Each term needs one draw of $x_t$, not a
# path: that is what makes training on random $t$ possible.
#
# Nothing in the argument used that neighbours are one apart. For any falling times from $T$ to $0$,
# put the strided posterior (2.10) for $q(x_{t-1}\mid x_t,x_0)$ and the bound holds for the
# *strided* chain. `elbo` takes `times` for that.
#
# ### The terms of Gaussians
#
# The divergence of $q=\mathcal N(m_q,v_q)$ from $p=\mathcal N(m_p,v_p)$ in one dimension is
#
# $$
# \mathrm{KL}(q\,\Vert\,p)=\frac12\left[\frac{v_q}{v_p}-1-\log\frac{v_q}{v_p}+\frac{(m_q-m_p)^2}{v_p}\right].
# \tag{4.7}
# $$
#
# With covariances $v I$ it is the sum over the dimensions. The first three terms are the price of a
# wrong *variance*, zero for a ratio of one; the last is the price of a wrong *mean*, in units of
# the model's own deviation.
#
# :::{dropdown} Proof of (4.7)
# The log ratio of the two densities is
#
# $$
# \log\frac{q(x)}{p(x)} = \frac12\log\frac{v_p}{v_q}-\frac{(x-m_q)^2}{2v_q}+\frac{(x-m_p)^2}{2v_p} .
# $$
#
# Average over $x\sim q$. The second term gives $-\frac12$. In the third write
# $x-m_p=(x-m_q)+(m_q-m_p)$; the cross term averages to zero and $v_q+(m_q-m_p)^2$ remains.
# :::
#
# **The prior term.** $q(x_T\mid x_0)=\mathcal N(\sqrt{\bar\alpha_T}x_0,(1-\bar\alpha_T)I)$ against
# $\mathcal N(0,I)$:
#
# $$
# L_T=\frac12\sum_{i=1}^d\left[\bar\alpha_T\,x_{0,i}^2-\bar\alpha_T-\log(1-\bar\alpha_T)\right].
# \tag{4.8}
# $$
#
# **The steps.** $q(x_{t-1}\mid x_t,x_0)=\mathcal N(\tilde\mu_t,\tilde\beta_tI)$ by [chapter
# 2](02_reverse.ipynb), $p_\theta=\mathcal N(\mu_\theta,\sigma_t^2I)$:
#
# $$
# L_{t-1}=\mathbb E\left[\frac{\lVert\tilde\mu_t-\mu_\theta\rVert^2}{2\sigma_t^2}\right]+\frac d2\left[\frac{\tilde\beta_t}{\sigma_t^2}-1-\log\frac{\tilde\beta_t}{\sigma_t^2}\right].
# \tag{4.9}
# $$
#
# The second bracket is zero for $\sigma_t^2=\tilde\beta_t$ and a constant for any other fixed
# choice.
#
# ### The weight of the noise error, and $L_\text{simple}$
#
# [Chapter 2](02_reverse.ipynb) wrote the posterior mean through the noise, (2.9):
# $\tilde\mu_t=\frac1{\sqrt{\alpha_t}}\big(x_t-\frac{1-\alpha_t}{\sqrt{1-\bar\alpha_t}}\varepsilon\big)$.
# The model knows $x_t$ as well as we do, so it takes the same formula for $\mu_\theta$, with its
# prediction $\varepsilon_\theta$ in place of $\varepsilon$. The difference of the means is then
# $\frac{1-\alpha_t}{\sqrt{\alpha_t}\sqrt{1-\bar\alpha_t}}(\varepsilon_\theta-\varepsilon)$; square
# it and divide by $2\sigma_t^2$:
#
# $$
# L_{t-1}=\mathbb E\left[\frac{(1-\alpha_t)^2}{2\sigma_t^2\,\alpha_t\,(1-\bar\alpha_t)}\;\lVert\varepsilon-\varepsilon_\theta(x_t,t)\rVert^2\right]+\text{const}.
# \tag{4.10}
# $$
#
# The ½ belongs there, and $\alpha_t$ in the denominator has no bar while its neighbour has one. For
# $\sigma_t^2=\tilde\beta_t$ the weight has a simple form. In terms of $x_0$,
# $\lVert\varepsilon-\varepsilon_\theta\rVert^2=\mathrm{SNR}(t)\,\lVert x_0-\hat x_0\rVert^2$ with
# $\mathrm{SNR}(t)=\bar\alpha_t/(1-\bar\alpha_t)$, and
#
# $$
# L_{t-1}=\tfrac12\big(\mathrm{SNR}(t-1)-\mathrm{SNR}(t)\big)\;\mathbb E\lVert x_0-\hat x_0(x_t,t)\rVert^2 .
# \tag{4.11}
# $$
#
# The corresponding weight of the noise error is
#
# $$
# w_t=\frac12\left(\frac{\mathrm{SNR}(t-1)}{\mathrm{SNR}(t)}-1\right),
# \tag{4.12}
# $$
#
# and times $\mathrm{SNR}(t)$ it is that of (4.11).
#
# :::{dropdown} Proof of (4.11) and (4.12)
# With $a=\bar\alpha_t$, $b=\bar\alpha_{t-1}$ and $\alpha_t=a/b$:
# $\tilde\beta_t=\frac{1-b}{1-a}(1-\alpha_t)$, so the weight in (4.10) is
#
# $$
# \frac{1-\alpha_t}{2\alpha_t(1-b)}=\frac{b-a}{2a(1-b)}=\frac12\left[\frac{b(1-a)}{a(1-b)}-1\right],
# $$
#
# and the fraction is $\mathrm{SNR}(t-1)/\mathrm{SNR}(t)$.
# :::
#
# In words: a step costs the signal that it loses, times the squared error of the prediction at that
# noise level. $L_\text{simple}$ of [chapter 3](03_ddpm.ipynb) puts 1 in place of $w_t$. It is **the
# same regression with the same minimiser for a network that can represent everything, and another
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

# %% tags=["hide-input"] mystnb={"image": {"alt": "Left: the weight of the noise error over time for the bound with the linear and cosine schedules, falling steeply from one half or more at t = 2 by orders of magnitude, and the constant 1 of L_simple. Right: the weight of the error of the data for both losses and both schedules; all fall over time, the bound's more steeply."}}
from ddpmlib import losses

times = torch.arange(2, 1001)
fig, axes = plt.subplots(1, 2, figsize=(7.5, 2.9))
ratio, end = {}, {}
for name, colour in (("linear", plots.BLUE), ("cosine", plots.ORANGE)):
    chain = DDPM(getattr(schedules, name)(1000))
    w = losses.vlb(chain, times)
    on_x0 = losses.on_x0(losses.vlb, chain, times)
    simple_on_x0 = losses.on_x0(losses.simple, chain, times)
    axes[0].loglog(times, w, color=colour, label=f"bound, {name}")
    axes[1].loglog(times, on_x0, color=colour, label=f"bound, {name}")
    axes[1].loglog(
        times, simple_on_x0, "--", color=colour, label=rf"$L_\mathrm{{simple}}$, {name}"
    )
    ratio[name], end[name] = float(w[0] / w[498]), float(w[-1])
    fall = on_x0[0] / on_x0[498], simple_on_x0[0] / simple_on_x0[498]
    assert fall[0] > 30 * fall[1] > 300
axes[0].axhline(1, color="black", ls="--", label=r"$L_\mathrm{simple}$")
axes[0].set(xlabel="time $t$", ylabel=r"weight of $|\epsilon-\hat\epsilon|^2$")
axes[0].legend(fontsize=9)
axes[1].set(xlabel="time $t$", ylabel="weight of $|x_0-\\hat x_0|^2$")
axes[1].legend(fontsize=9)
plt.show()
print(
    f"weight at t = 2 over weight at t = 500: linear {ratio['linear']:.0f}, "
    f"cosine {ratio['cosine']:.0f}; cosine at t = 1000: {end['cosine']:.0f}"
)
assert 100 < ratio["linear"] < 120 and 170 < ratio["cosine"] < 190
assert end["cosine"] > 100

# %% [markdown]
# **Fig. 4.3.** Relative to $L_\text{simple}$ the bound weighs the first steps up and the middle of
# the chain down. Left, the weight of the noise error: at $t=2$ it is 109 times (linear) and 179
# times (cosine) that at $t=500$, while $L_\text{simple}$ (dashed) weighs all times alike. Cosine's
# last weight is large because its clipped $\beta_T$ drops all the signal that is left; the noise is
# known almost perfectly there, so the term stays small. Right, the same weights on the error of the
# data: both losses weigh the clean end more, the bound far more so.
#
# ### Diffusion is a hierarchical VAE with a fixed encoder
#
# Read (4.6) with $T=1$:
# $\mathrm{KL}(q(x_1\mid x_0)\Vert p(x_1))-\mathbb E\log p_\theta(x_0\mid x_1)$ is the loss of a
# variational autoencoder {cite}`kingma2014auto`. Diffusion is a *hierarchical* one,
# $x_T\to x_{T-1}\to\dots\to x_0$, with these peculiarities:
#
# | | VAE | diffusion |
# |---|---|---|
# | encoder | learned | fixed: $q(x_t\mid x_{t-1})$, no parameters |
# | latents | one, small | $T$, each as large as the data |
# | decoder | one network, one pass | one network for all levels, told $t$ |
# | prior term | trained, may collapse | a constant near zero, (4.8) |
# | training step | encode, decode everything | one random level, (4.10) |
#
# A fixed encoder is why the bound splits into regressions with known targets; with a learned one
# the targets would move.
#
# ### The decoder gives probabilities to 256 grey levels
#
# Data are 8-bit numbers, and the *density* of discrete data grows without limit as one puts
# narrower peaks on the levels. So Ho et al. make the last step a probability: the Gaussian's mass
# in the bin around the level,
#
# $$
# p_\theta(x_0\mid x_1)=\prod_{i=1}^d\left[\Phi\!\left(\tfrac{x_{0,i}+1/255-\mu_i}{\sigma}\right)-\Phi\!\left(\tfrac{x_{0,i}-1/255-\mu_i}{\sigma}\right)\right],
# \tag{4.13}
# $$
#
# where the bins of $-1$ and $1$ reach to $\mp\infty$, so that all 256 probabilities add up to one.
# In float32 that difference of two $\Phi$ is zero a few deviations out, and its logarithm
# $-\infty$. `likelihood.discretised` works on the side of the bell where nothing cancels:

# %% tags=["hide-input"]
from ddpmlib.experiments.results import markdown
from ddpmlib.likelihood import discretised

levels = data.to_float(torch.arange(256, dtype=torch.uint8))
rows = []
for std in (0.0005, 0.02, 3.0):
    log_var = torch.tensor(2 * math.log(std))
    log_p = discretised(levels, torch.tensor(0.1), log_var)
    normal = torch.distributions.Normal(0.1, std)
    naive = normal.cdf(levels + 1 / 255) - normal.cdf(levels - 1 / 255)
    lost = (naive[1:-1] == 0).sum().item()
    rows.append((std, f"{log_p.exp().sum():.4f}", lost, f"{log_p[-1]:.4g}"))
    assert abs(log_p.exp().sum() - 1) < 1e-3 and log_p.isfinite().all()
header = ("deviation σ", "sum of the 256 probabilities", "zeros of the naive formula")
Markdown(markdown((*header, "log-probability of level 255, nats"), rows))

# %% [markdown]
# ### Bits per dimension
#
# The unit of the literature is the *bit per dimension*, what a lossless coder that uses the model
# would need per colour value:
#
# $$
# \text{bits/dim}=\frac{L(x_0)\ \text{in nats, summed over the } d \text{ dimensions}}{d\,\ln 2} .
# \tag{4.14}
# $$
#
# A model that gives all 256 levels the same probability needs 8. Three factors are forgotten in
# practice, $d$, $\ln2$, and the range of the data; see [*What goes wrong*](#what-goes-wrong).
#
# ### Random times
#
# A full sum costs $T$ network calls. With $t$ uniform on $1,\dots,T$, and $L_0$ the term of $t=1$,
#
# $$
# L(x_0)=L_T+T\;\mathbb E_{t}\big[L_{t-1}(x_0)\big],
# \tag{4.15}
# $$
#
# and any average of independent draws of the right-hand side is an unbiased estimate, with a
# standard error that can be read off the draws. It is large, since the terms differ by orders of
# magnitude.
#
# ## The bound in ten lines, and the library's
#
# This is the bound of an $\varepsilon$-predictor with $\sigma_t^2=\tilde\beta_t$, for data that are
# real numbers.

# %%
ab = process.alpha_bar


def bound_from_scratch(eps_theta, x0, noise, var_0):
    L = 0.5 * (ab[-1] * x0**2 - ab[-1] - torch.log(1 - ab[-1])).sum(1)
    for t in range(len(ab) - 1, 0, -1):
        x_t = ab[t].sqrt() * x0 + (1 - ab[t]).sqrt() * noise[t]
        error = (noise[t] - eps_theta(x_t, t)) ** 2
        if t > 1:  # (4.12)
            ratio = ab[t - 1] / (1 - ab[t - 1]) * (1 - ab[t]) / ab[t]
            L = L + 0.5 * (ratio - 1) * error.sum(1)
        else:  # x_0 − x̂_0 = (ε − ε_θ) √(1−ᾱ) / √ᾱ
            square = (1 - ab[1]) / ab[1] * error / var_0
            L = L + 0.5 * (square + math.log(2 * math.pi * var_0)).sum(1)
    return L


# %% tags=["hide-input"]
gauss = oracle.Gaussian(
    process,
    torch.zeros(2, dtype=F64),
    torch.tensor([[0.5, 0.2], [0.2, 0.3]], dtype=F64),
)
x0 = gauss.draw(200, generator=torch.Generator().manual_seed(1))
g = torch.Generator().manual_seed(2)
noise = {t: torch.randn(200, 2, generator=g, dtype=F64) for t in range(1000, 0, -1)}
scratch = bound_from_scratch(
    lambda x, t: process.eps_from_x0(x, gauss(x, t).x0, t),
    x0,
    noise,
    float(process.beta_tilde[2]),
)
g = torch.Generator().manual_seed(2)
library = elbo(gauss, process, x0, decoder=continuous, generator=g)
gap = (scratch - library.total).abs().max().item()
assert gap < 1e-8
print(f"200 points, by hand and by the library: equal, mean {scratch.mean():.2f} nats")

# %% [markdown]
# ### Ten calls per scan: the full sum, or random steps?
#
# On real scans, with a strided chain of ten steps, one draw of (4.15) is:

# %%
from ddpmlib.likelihood import (
    decoder_floor,
    elbo_monte_carlo,
    prior_term,
    reverse_step_term,
)

coarse = list(range(1000, -1, -100))  # a strided chain of 10 steps
test, test_labels = data.to_float(images.x_test), images.y_test
hundred, their_labels = test[:100], test_labels[:100]
on_chain, floor = torch.tensor(coarse), decoder_floor(process, coarse)


def one_draw(x0, y, generator):  # (4.15), a random step for each scan
    k = torch.randint(10, (len(x0),), generator=generator)
    t, s = on_chain[k], on_chain[k + 1]
    eps = torch.randn(x0.shape, generator=generator)
    x_t = process.q_sample(x0, t, eps)
    with torch.no_grad():
        guess = digits_denoiser(x_t, t, y)
    term = reverse_step_term(process, x0, x_t, guess, t, s, floor=floor)
    return prior_term(process, x0) + 10 * term.flatten(1).sum(1)


# %% tags=["hide-input"]
full = elbo(
    digits_denoiser, process, hundred, coarse, y=their_labels,
    generator=torch.Generator().manual_seed(3),
).total
g = torch.Generator().manual_seed(4)
draws = torch.stack([one_draw(hundred, their_labels, g) for _ in range(10)])
stratified = elbo_monte_carlo(
    digits_denoiser, process, hundred, coarse, draws=10,
    y=their_labels, generator=torch.Generator().manual_seed(4),
)
one, ten = draws[0], draws.mean(0)
estimates = {
    ("the full sum", 10): (full.mean(), full.std() / 10),
    ("one random step", 1): (one.mean(), one.std() / 10),
    ("ten independent random steps", 10): (ten.mean(), ten.std() / 10),
    ("ten, one from each tenth of the chain", 10): (
        stratified.mean,
        stratified.standard_error,
    ),
}
rows, errors = [], []
for (name, calls), nats in estimates.items():
    mean, error = (float(bits_per_dim(v, 64)) for v in nats)
    rows.append((name, calls, f"{mean:.2f} ± {error:.2f}"))
    errors.append(error)
    assert abs(mean - float(bits_per_dim(full.mean(), 64))) < 3 * error
assert errors[2] > 4 * errors[0] and errors[1] > 2.5 * errors[2]
assert 0.8 < errors[3] / errors[0] < 1.25
Markdown(markdown(("estimate", "calls per scan", "bits per dimension"), rows))

# %% [markdown]
# For ten calls per scan the full sum has a standard error several times smaller than ten
# independent draws, because a few steps near the data hold most of the bound and independent draws
# often miss them. `elbo_monte_carlo` therefore cuts the chain into as many parts as it makes draws
# and takes one random step of each (*stratified* sampling): still unbiased, and with as many draws
# as steps it *is* the full sum. Random steps are for training, where a call per image is all there
# is, and for long chains.
#
# ## How tight is the bound?
#
# (4.4) says what the gap is at one point. Averaged over the data it has a more useful form:
#
# \begin{align*}
# \mathbb E_q L-H(q)={}&\mathrm{KL}\big(q(x_T)\,\Vert\,p(x_T)\big) \\
# &+\sum_{t=1}^T\mathbb E_{q(x_t)}\,\mathrm{KL}\big(q(x_{t-1}\mid x_t)\,\Vert\,p_\theta(x_{t-1}\mid x_t)\big). \tag{4.16}
# \end{align*}
#
# There is no $x_0$ in the conditions any more: **on average the bound loses exactly what the
# reverse steps get wrong**, the shape, mean and variance of $q(x_{t-1}\mid x_t)$, and the start.
#
# :::{dropdown} Proof of (4.16)
# Add $\mathbb E\log q(x_0)=-H(q)$ to the average of (4.3). Numerator and denominator are now both
# joint densities of the whole chain, and the difference is
# $\mathrm{KL}(q(x_{0:T})\Vert p_\theta(x_{0:T}))$. A forward Markov chain read backwards is again a
# Markov chain, $q(x_{0:T})=q(x_T)\prod_t q(x_{t-1}\mid x_t)$, so this divergence is a sum over the
# links.
# :::
#
# Take data with $\mathrm{Var}(x_0)=v$ per dimension, Gaussian and isotropic, and the exact
# denoiser. Shape and mean are then right; what about the variance? Let
# $V_t=\bar\alpha_tv+1-\bar\alpha_t=\mathrm{Var}(x_t)$. Bayes multiplies the density of $x_{t-1}$,
# precision $1/V_{t-1}$, with the likelihood of $x_t$, precision $\alpha_t/\beta_t$, and
# $\alpha_tV_{t-1}+\beta_t=V_t$:
#
# $$
# \mathrm{Var}(x_{t-1}\mid x_t)=\left(\frac1{V_{t-1}}+\frac{\alpha_t}{\beta_t}\right)^{-1}=\beta_t\,\frac{V_{t-1}}{V_t} .
# \tag{4.17}
# $$
#
# For $v=1$ that is $\beta_t$, for $v=0$ it is $\tilde\beta_t$, as in [chapter 2](02_reverse.ipynb).
# With this variance every KL in the sum is zero and the bound is *exact but for the prior, for
# every $T$*. With another $\sigma_t^2$, each step loses $\frac12[r_t-1-\log r_t]$ with
# $r_t=\beta_tV_{t-1}/(V_t\sigma_t^2)$, by (4.7).
#
# With $\sigma_t^2=\beta_t$, $r_t=V_{t-1}/V_t\to1$ when steps shrink. $V$ moves by $O(1/T)$ in a
# step, a term costs $O(1/T^2)$, the sum $O(1/T)$. **The gap closes.** With
# $\sigma_t^2=\tilde\beta_t$ it does not. Near the data the ratio of the true variance to
# $\tilde\beta_t$ does not tend to one, and in nats per dimension
#
# $$
# \lim_{T\to\infty}\ \text{gap}_{\tilde\beta}=\frac\gamma2+\frac{1-\ln2}{2}\approx0.442\quad(0.638\text{ bits per dimension}),
# \tag{4.18}
# $$
#
# with Euler's constant $\gamma=0.5772\ldots$, for every $v>0$ and every schedule whose first steps
# become equal as $T$ grows, as those of the linear and the cosine schedule do. The reason is that
# $\tilde\beta_t$ is the variance for data that are a single point, and these data are spread out.
#
# :::{dropdown} Proof of (4.18)
# Compared with the previous case $r_t$ has the extra factor
# $\beta_t/\tilde\beta_t=(1-\bar\alpha_t)/(1-\bar\alpha_{t-1})$. In the middle of the chain it tends
# to one. *Near the data it does not*: the first $\beta$s are nearly equal,
# $1-\bar\alpha_t\approx t\beta_1$, and the factor is $t/(t-1)$, whatever $T$ is. These steps lose
#
# $$
# \sum_{t=2}^{N}\frac12\left[\frac{t}{t-1}-1-\log\frac t{t-1}\right]=\frac12\left[\sum_{k=1}^{N-1}\frac1k-\log N\right]\;\longrightarrow\;\frac\gamma2 .
# $$
#
# The decoder takes $\tilde\beta_2\approx\beta_1/2$ where $\beta_1$ is right (since
# $\tilde\beta_1=0$), so $r_1=2$ and it loses $\frac12(1-\ln2)$.
# :::
#
# The formulas, and the library's bound with samples, which uses none of them:

# %% tags=["hide-input"] mystnb={"image": {"alt": "Gap between the bound and the entropy over the number of steps T on logarithmic axes. With beta it falls in proportion to 1/T, with beta tilde it rises, falls and levels off at 0.442 nats per dimension. Points with error bars measured by the library lie on the curves."}}
EULER = 0.5772156649015329
limit = EULER / 2 + (1 - math.log(2)) / 2
v = 0.3


def gap(T, var_mix):
    chain = DDPM(schedules.cosine(T))
    V = chain.alpha_bar * v + 1 - chain.alpha_bar
    exact = chain.beta[1:] * V[:-1] / V[1:]  # (4.17)
    low = chain.beta_tilde[1:].clone()
    low[0] = low[1]  # the decoder takes the variance of t = 2
    r = exact / (chain.beta[1:] ** var_mix * low ** (1 - var_mix))
    return (r - 1 - r.log()).sum().item() / 2


def measured(T, var_mix, n=3000):
    chain = DDPM(schedules.cosine(T))
    exact = oracle.Gaussian(
        chain, torch.zeros(1, dtype=F64), v * torch.eye(1, dtype=F64)
    )
    x0 = exact.draw(n, generator=torch.Generator().manual_seed(5))
    L = elbo(
        FixedVariance(exact, var_mix), chain, x0, decoder=continuous,
        generator=torch.Generator().manual_seed(6),
    ).total
    excess = L + exact.log_prob(x0, 0)  # same points: their entropy cancels
    return excess.mean().item(), excess.std().item() / n**0.5


Ts = [5, 10, 30, 100, 300, 1000, 3000, 10_000, 100_000]
fig, ax = plt.subplots(figsize=(7.5, 3))
for mix, colour, name in (
    (0.0, plots.ORANGE, r"\tilde\beta_t"),
    (1.0, plots.BLUE, r"\beta_t"),
):
    curve = [gap(T, mix) for T in Ts]
    ax.plot(Ts, curve, color=colour, label=rf"$\sigma_t^2={name}$")
    for T in (5, 10, 30, 100):
        mean, error = measured(T, mix)
        ax.errorbar(T, mean, 2 * error, fmt="o", color=colour, capsize=3)
        assert abs(mean - gap(T, mix)) < 4 * error + 1e-3
        assert not (mix == 1 and T >= 30 and abs(mean) > 3 * error)
ax.axhline(limit, color="black", ls="--", lw=1, label="(4.18)")
ax.set(
    xscale="log",
    yscale="log",
    xlabel="number of steps $T$",
    ylabel="gap, nats per dimension",
)
ax.legend()
plt.show()
for T in (100, 10_000, 100_000):
    print(f"T = {T:6d}: β leaves {gap(T, 1.0):.6f} nats, β̃ {gap(T, 0.0):.3f}")
assert abs(gap(100_000, 0.0) - limit) < 0.01
assert 8 < gap(10_000, 1.0) / gap(100_000, 1.0) < 12
assert gap(100, 0.0) > gap(1000, 0.0) > gap(10_000, 0.0) > limit

# %% [markdown]
# **Fig. 4.4.** With $\beta_t$ the gap falls tenfold when $T$ grows tenfold; with $\tilde\beta_t$ it
# settles on the dashed line at 0.442 nats, from above: 0.801 at $T=100$, 0.444 at $T=100{,}000$.
# Dots are the library's estimates with two standard errors. From $T=30$ on, 3,000 points cannot
# tell the gap of $\beta_t$ from zero, and the logarithmic axis stretches that error down to the
# frame.
#
# Images are not Gaussian. A grey level is a *point* once the noise is finer than a bin, and 72 % of
# the border pixels of the scans are exactly black: for such pixels $\tilde\beta$ is right and
# $\beta$ loses. (For a point, (4.17) has $v=0$, and the same sum with the roles exchanged says that
# the steps with $\beta_t$ lose $\frac12(1-\gamma)\approx0.211$ nats.) So the choice is a
# measurement.
#
# ## More steps and the choice of variance, on real digits
#
# We vary the variance of the reverse step and the number of steps, on the 20 scans of Fig. 4.1. The
# network is the same, and it was trained for neither variance; the noise of $x_t$ is the same for
# both.

# %% tags=["nbval-ignore-output", "hide-input"] mystnb={"image": {"alt": "Bits per dimension of the digits model over the number of steps, 5 to 100, for reverse variance beta tilde and beta, with error bars. Beta stays nearly level, beta tilde starts below it and rises above it."}}
from ddpmlib.samplers import uniform_times

lengths = (5, 10, 25, 50, 100)
found, decoders = {}, {}


class Once:
    """The network, asked once at each time: both variances meet the same x_t."""

    def __init__(self):
        self.process, self.said = process, {}

    def __call__(self, x_t, t, y=None):
        if t not in self.said:
            self.said[t] = digits_denoiser(x_t, t, y)
        return self.said[t]


for n in lengths:
    asked = Once()
    for mix in (0.0, 1.0):
        L = elbo(
            FixedVariance(asked, mix), process, scans,
            uniform_times(1000, n), y=labels,
            generator=torch.Generator().manual_seed(7),
        )
        found[mix, n] = L.bits_per_dim
        decoders[n] = bits_per_dim(L.decoder.mean().item(), 64)
fig, ax = plt.subplots(figsize=(7.5, 2.8))
for mix, colour, name in (
    (0.0, plots.ORANGE, r"$\tilde\beta$"),
    (1.0, plots.BLUE, r"$\beta$"),
):
    mean = [found[mix, n].mean() for n in lengths]
    error = [found[mix, n].std() / 20**0.5 for n in lengths]
    ax.errorbar(lengths, mean, error, marker="o", capsize=3, color=colour, label=name)
ax.set(
    xlabel="steps",
    ylabel="bits per dimension",
    xscale="log",
    xticks=lengths,
    xticklabels=lengths,
)
ax.minorticks_off()
ax.legend()
for n, sign in ((5, 1), (10, 1), (50, -1), (100, -1)):
    paired = sign * (found[1.0, n] - found[0.0, n])
    assert paired.mean() > 3 * paired.std() / 20**0.5
rises = [float(found[mix, 100].mean() - found[mix, 5].mean()) for mix in (0.0, 1.0)]
assert abs(rises[0] - 0.64) < 0.1 and abs(rises[1] - 0.15) < 0.08
assert decoders[5] - decoders[100] > 1

# %% [markdown]
# **Fig. 4.5.** More steps do not tighten this bound, and the two variances cross. Bars are standard
# errors over the scans; the differences between the curves are known much better (table), because
# both saw the same noise. From 5 steps to 100 the bound rises by 0.6 bits with $\tilde\beta$ and by
# 0.15 with $\beta$.

# %% tags=["nbval-ignore-output", "hide-input"]
rows = []
for n in lengths:
    low, high = found[0.0, n], found[1.0, n]
    cells = [
        f"{b.mean():.2f} ± {b.std() / 20**0.5:.2f}" for b in (low, high, high - low)
    ]
    rows.append((n, *cells, f"{decoders[n]:.2f}"))
Markdown(markdown(("steps", "β̃", "β", "β minus β̃", "of β: the decoder, L_0"), rows))

# %% [markdown]
# The theory above had an exact denoiser; this network was trained for seconds. A chain of five long
# strides leaves most of the bound to a broad decoder. With more steps $L_0$ falls (last column),
# but the steps near the data add at least as much, for there the weight (4.12) of the network's
# errors is largest. As to the variance: with long strides $\beta$ is too wide. With short ones
# $\tilde\beta$, the smallest variance a reverse step can have, is too small for a network that
# makes errors. Both curves are valid bounds, so the lower one may be reported. [Chapter
# 6](06_iddpm.ipynb) learns a variance between the two.
#
# ## Why 5.2 bits per dimension is a bad number
#
# The scans have only 17 grey levels. A model that knew this and nothing else would need
# $\log_2 17=4.09$ bits per dimension, a table of how often each level occurs at each pixel 2.4, and
# the network needs 5.2. Where does it lose them? The noise that is left in the last steps is much
# smaller than the gap between two of the 17 levels, so an exact denoiser would return the nearest
# level, and these steps would cost hardly any bits. We can give the network that knowledge by hand:
# when the noise is below a quarter of the gap, round its prediction to the nearest of the 17
# levels.

# %%
from ddpmlib.prediction import Prediction

seventeen = data.to_float(images.x_train.unique())
quarter_gap = float(seventeen[1] - seventeen[0]) / 4


def rounded(x_t, t, y):
    x0 = digits_denoiser(x_t, t, y).x0
    scale, std = process.kernel(t, x_t)
    if std / scale < quarter_gap:  # the last 13 steps
        nearest = (x0[..., None] - seventeen).abs().argmin(-1)
        x0 = seventeen[nearest]
    return Prediction(x0)


# %% tags=["hide-input", "nbval-ignore-output"]
g = torch.Generator().manual_seed(0)  # the noise of Fig. 4.1
known = bound.prior.clone()
for t in range(1000, 0, -1):
    eps = torch.randn(scans.shape, generator=g)
    if process.std[t] / process.scale[t] < quarter_gap:
        x_t = process.q_sample(scans, t, eps)
        with torch.no_grad():
            guess = rounded(x_t, t, labels)
        term = reverse_step_term(process, scans, x_t, guess, t, t - 1)
        known += term.flatten(1).sum(1)
    else:  # as before
        known += bound.steps[:, 1000 - t]
known = bits_per_dim(known, 64)
of_decoder = bits_per_dim(float(term.sum()) / 20, 64)
assert 0.45 < of_decoder < 0.55
decoder_std = float(process.beta_tilde[2]) ** 0.5
assert abs(decoder_std / (2 / 255) - 0.6) < 0.01  # of a bin's width
assert abs(math.erf(1 / 255 / decoder_std / 2**0.5) - 0.6) < 0.01  # mass in the bin
every = data.to_float(images.x_train).flatten(1)


def level_of(x):
    return (x[..., None] - seventeen).abs().argmin(-1)


def mean_of(bits):
    return f"{bits.mean():.2f} ± {bits.std() / 20**0.5:.2f}"


count = torch.nn.functional.one_hot(level_of(every), 17).sum(0) + 0.5
frequency = count / count.sum(1, keepdim=True)  # (64, 17)
seen = level_of(scans.flatten(1))
table = -torch.log2(frequency[torch.arange(64), seen]).mean(1)
rows = [
    ("256 equal probabilities", "8"),
    ("17 equal probabilities", f"{math.log2(17):.2f}"),
    ("the network, Fig. 4.1", mean_of(total)),
    ("a table of 17 frequencies for each pixel", mean_of(table)),
    ("the network, rounded where the noise is small", mean_of(known)),
]
assert len(seventeen) == 17 and total.mean() > math.log2(17) > table.mean() > 2.2
assert 2.3 < known.mean() < 2.7 < total.mean() / 1.9
Markdown(markdown(("model, on the 20 scans", "bits per dimension"), rows))

# %% [markdown]
# More than half of the 5.2 bits are the price of not knowing the 17 levels. With them 2.5 remain,
# and 0.5 of these belong to the decoder: its Gaussian has a deviation of 0.6 bins and two fifths of
# its mass outside the bin of its mean. A probability is high only if *every* detail is probable,
# and the training loss hardly weighs this one. A bound in bits per dimension says little about what
# samples look like: compare it only with numbers on the same data, with the same decoder.
#
# ## Training on $L_\text{simple}$ or on the bound
#
# The same small perceptron, the same scans, the same 800 updates, two seeds; once with
# $L_\text{simple}$, once with the bound itself (4.15) as the loss. Then both are measured by both.

# %%
from ddpmlib.losses import l_simple, l_vlb
from ddpmlib.models import MLP
from ddpmlib.training import Settings, Trainer, fit

small = DDPM(schedules.cosine(50))
train = data.to_float(images.x_train).flatten(1)


def loss_of(kind):  # l_simple or l_vlb, at a random time for each scan
    def loss(model, x, y, generator):
        T = model.process.T
        t = torch.randint(1, T + 1, (len(x),), generator=generator)
        eps = torch.randn(x.shape, generator=generator)
        return kind(model, x, t, eps).mean()

    return loss


def trained(kind, seed):
    _ = torch.manual_seed(seed)
    net = MLP(dim=64, width=128, depth=2)
    settings = Settings(
        steps=800, batch_size=128, lr=2e-3, ema=0.99, clip=1.0, seed=seed
    )
    run = Trainer(
        Denoiser(net, small, EPS, var_mix=1.0),
        loss_of(kind), train, None, settings, device="cpu",
    )
    for _ in fit(run):
        pass
    return run.averaged


# %% tags=["nbval-ignore-output", "hide-input"]
held_out, by_loss = test.flatten(1)[:200], {}
for kind in (l_simple, l_vlb):
    cells = []
    for seed in range(2):
        model = trained(kind, seed)
        g = torch.Generator().manual_seed(8)
        t = torch.randint(1, 51, (2000,), generator=g)
        with torch.no_grad():
            eps = torch.randn(2000, 64, generator=g)
            simple = l_simple(model, held_out.repeat(10, 1), t, eps)
        L = elbo(model, small, held_out, generator=g)
        first = bits_per_dim(L.steps[:, 0].mean(), 64)  # from t = 50 to 49
        whole = L.bits_per_dim.mean()
        cells.append([simple.mean(), whole, first, whole - first])
    by_loss[kind.__name__] = torch.tensor(cells)
rows = []
for name, cells in by_loss.items():
    (s, *bits_of), (ds, *errors) = cells.mean(0), cells.std(0)
    shown = (f"{b:.1f} ± {db:.1f}" for b, db in zip(bits_of, errors, strict=True))
    rows.append((f"`{name}`", f"{s:.3f} ± {ds:.3f}", *shown))
ours, theirs = by_loss["l_simple"], by_loss["l_vlb"]
assert (ours.max(0).values < theirs.min(0).values)[0]  # whatever the seed
assert (theirs.max(0).values < ours.min(0).values)[1]
assert theirs[:, 1].min() > 8
# The first step: most of the bound, and all of what the bound gains as a loss.
assert (ours[:, 2] > 0.6 * ours[:, 1]).all()
assert (theirs[:, 2] > 0.4 * theirs[:, 1]).all()
assert ours[:, 3].max() < theirs[:, 3].min()
header = ("trained with", "L_simple per pixel", "bound, bits/dim")
Markdown(markdown((*header, "of it the first step", "all others"), rows))

# %% [markdown]
# Each loss is best by its own measure and worse by the other, for every pair of seeds (± is the
# standard deviation of the two). Neither number of bits is good: both exceed 8. A single step holds
# most of the one and half of the other, 10.7 of 16.2 bits after $L_\text{simple}$ and 6.2 of 12.4
# after the bound: the first one, from $t=50$ to 49. The cosine's clipped $\beta_T$ drops the signal
# that is left in it, so its weight (4.10) is 500, as at the end of Fig. 4.3, and a perceptron that
# was trained for seconds does not predict the noise of pure noise well enough for that. Training on
# the bound improves this step alone: all others together cost 6.2 bits after it and 5.6 after
# $L_\text{simple}$. Training on the bound with less noise in its gradient, and on both losses at
# once, is the subject of [chapter 6](06_iddpm.ipynb).
#
# ## The bits of an MNIST digit, pixel by pixel
#
# The MNIST checkpoint lies in the repository, MNIST itself does not. This page must run offline, so
# it measures images that the model has *drawn*: draw, round to 8 bits, compute the bound. The chain
# makes long steps far from the data and single steps in the last ten.

# %% tags=["nbval-ignore-output", "hide-input"] mystnb={"image": {"alt": "Five rows of ten digits drawn by the MNIST model. First the digits; second the same with grey levels 0 to 3 stretched, where the background shows a fine lattice; then maps of the bits: the steps far from the data and the near ones pay along the outlines of the strokes, the last ten steps pay everywhere, the background lattice included."}}
from ddpmlib.samplers import draw

mnist, mnist_card = zoo.load("mnist", device="cpu")
y = torch.arange(10)
g = torch.Generator().manual_seed(9)
x_T = torch.randn(10, *mnist_card.image_shape, generator=g)
drawn = draw(mnist, mnist.process, x_T, uniform_times(1000, 25), eta=0.0, y=y)
grey = data.to_uint8(drawn)
chain = [*range(1000, 100, -20), *range(100, 10, -2), *range(10, -1, -1)]


def maps_of(x0):
    """Bits of each pixel, by the part of the chain."""
    g, floor = torch.Generator().manual_seed(10), decoder_floor(mnist.process, chain)
    found = {"t > 300": 0.0, "300 to 10": 0.0, "the last ten steps": 0.0}
    for t, s in zip(chain[:-1], chain[1:], strict=True):
        x_t = mnist.process.q_sample(x0, t, torch.randn(x0.shape, generator=g))
        with torch.no_grad():
            prediction = mnist(x_t, t, y)
        term = reverse_step_term(mnist.process, x0, x_t, prediction, t, s, floor=floor)
        part = "t > 300" if t > 300 else "300 to 10" if t > 10 else "the last ten steps"
        found[part] = found[part] + term / math.log(2)
    return found


maps = maps_of(data.to_float(grey))
fig, axes = plt.subplots(5, 1, figsize=(7.5, 4.6))
_ = plots.grid(grey, ncol=10, ax=axes[0], title="drawn by the model")
stretched = (grey.clamp(max=3) * 85).to(torch.uint8)
_ = plots.grid(stretched, ncol=10, ax=axes[1], title="grey levels 0 to 3, stretched")
for ax, (name, m) in zip(axes[2:], maps.items(), strict=True):
    shade = 2 * m / m.quantile(0.99) - 1
    title = f"bits of {name}: {m.sum() / 7840:.2f} per dimension"
    _ = plots.grid(shade.clamp(-1, 1), ncol=10, ax=ax, title=title)
far, near, last = (float(m.sum()) / 7840 for m in maps.values())
assert abs(far - 0.08) < 0.02 and abs(near - 0.5) < 0.05 and abs(last - 1.9) < 0.2

# %% [markdown]
# **Fig. 4.6.** Down to the last ten steps the bits lie on the outlines of the strokes; the last ten
# steps cost bits everywhere, and more than all others. Top: the digits, and the same with the grey
# levels 0 to 3 stretched to the full range: what looks black is no uniform black, and in several
# digits it is a lattice of period 2. Below: the bits of each pixel from three parts of the chain;
# white is many, each row has its own scale. The far and the near steps cost 0.08 and 0.50 bits per
# dimension, the last ten 1.90.
#
# The network works on patches of 2×2 pixels and writes the four pixels of a patch with different
# weights, hence the period of 2. How much of the bound is this background?

# %% tags=["nbval-ignore-output", "hide-input"]
background = grey <= 3
black = torch.where(background, torch.zeros_like(grey), grey)
per_dim = lambda found: float(sum(m.sum() for m in found.values()) / 7840)
as_drawn, blackened = per_dim(maps), per_dim(maps_of(data.to_float(black)))
nll = next(m for m in mnist_card.metrics if m["metric"] == "nll")
share = background.double().mean()
four = []  # mean grey level of the background at the four places of a patch, (10,) each
for i in (0, 1):
    for j in (0, 1):
        here = background[..., i::2, j::2].sum((1, 2, 3))
        dark = (grey * background)[..., i::2, j::2].sum((1, 2, 3))
        four.append(dark / here)
four = torch.stack(four, 1)
spread = four.max(1).values - four.min(1).values
assert as_drawn - blackened > 0.7 and 0.7 < share < 0.9
assert (spread > 0.3).sum() >= 7 and four.max() < 3
assert abs(blackened - nll["bits_per_dim"]) < 0.3
rows = [
    ("as drawn", f"{as_drawn:.2f}"),
    ("as drawn, levels 0 to 3 set to 0", f"{blackened:.2f}"),
    (
        f"{nll['n']:,} test images, all 1,000 steps (recorded)",
        f"{nll['bits_per_dim']:.2f} ± {nll['standard_error']:.2f}",
    ),
]
Markdown(markdown(("images", "bits per dimension"), rows))

# %% [markdown]
# About one of the 2.5 bits is the model's own background. Set its grey levels 0 to 3 to 0, as in
# real scans, and 1.5 remain, close to what the model needs for test images. (In at least seven of
# the ten digits the mean background level differs between the four places of a patch by more than
# 0.3 levels.)
#
# ## Published numbers of bits and FID, and ours
#
# On CIFAR-10, 32×32 pixels in three colours, the papers report both:
#
# | paper | loss | bits/dim of test images | FID |
# |:--|:--|--:|--:|
# | Ho et al. (2020) {cite}`ho2020denoising`, $T=1000$, linear | $L_\text{simple}$ | at most 3.75 | 3.17 |
# | Nichol & Dhariwal (2021) {cite}`nichol2021improved`, $T=4000$, cosine | $L_\text{hybrid}$ | 3.17 | 3.19 |
# | the same | $L_\text{vlb}$ | 2.94 | 11.47 |
#
# What do such bits mean? A lossless coder built on the last model needs 2.94 bits per colour value,
# where the raw file has 8: 1.1 instead of 3.1 kB per image. Small differences are large factors of
# probability: 0.1 bits per dimension are $0.1\cdot3072\approx307$ bits per image, a factor of
# $2^{307}$. And most of them cannot be seen. Of DDPM's 3.75 bits Ho et al. count 1.97 for the
# decoder $L_0$ alone, whose error is about one grey level of 256 (a root mean square of 0.95); the
# other 1.78 describe the image. So the best likelihood, the last row, comes with the worst FID of
# the three. Our networks:

# %% tags=["hide-input"]
from ddpmlib.experiments import results

rows, pair = [], []
for run, loss in (("linear-hybrid", "hybrid"), ("linear-vlb", "bound alone")):
    nll = results.rows("likelihood", run=run, method="learned")[0]
    drawn_25 = results.rows("variances", run=run, method="learned", steps=25)[0]
    pair.append((nll["bits_per_dim"], drawn_25["frechet"]))
    low, high = drawn_25["frechet_interval"]
    rows.append(
        (f"MNIST, comparison of chapter 9, {loss}", f"{nll['n']:,}",
         f"{nll['bits_per_dim']:.2f} ± {nll['se']:.2f}",
         f"{drawn_25['frechet']:.1f} ({low:.1f} to {high:.1f})")
    )
for name in ("mnist", "digits", "cifar10-small"):
    card = zoo.load(name, device="cpu")[1]
    nll = next(m for m in card.metrics if m["metric"] == "nll")
    bits_found = f"{nll['bits_per_dim']:.2f} ± {nll['standard_error']:.2f}"
    rows.append((f"`{name}`, as shipped", f"{nll['n']:,}", bits_found, "–"))
assert pair[0][0] - pair[1][0] > 0.7 and pair[1][1] > 3 * pair[0][1]
header = ("network", "test images", "bits/dim", "Fréchet distance, 25 steps")
Markdown(markdown(header, rows))

# %% [markdown]
# The first two rows repeat the trade of the papers on MNIST: trained on the bound alone, the same
# net gains 0.9 bits per dimension, and its samples are 3.7 times as far from the data. This is one
# training seed each, and the distance is that of our MNIST classifier's features, no FID. Rows of
# different data sets do not compare with each other: MNIST is mostly black, and a CIFAR-10 image is
# not. Our small CIFAR-10 net, at 4.19, is behind the papers by 0.4 to 1.25 bits, with fewer weights
# and epochs ([appendix C](C_cifar10.ipynb)).
#
# ## What goes wrong
#
# ### A decoder of variance zero
#
# $\tilde\beta_1=0$. A program that reads the variance of the last step from the table has a decoder
# of variance zero, which gives probability zero to every pixel that is off by a grey level. The
# usual patch, $\max(\tilde\beta_1,10^{-20})$, is the same bug: the bound becomes finite, and
# enormous.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Bits per dimension of the decoder over its standard deviation on logarithmic axes: a valley near the true error of the network, a gentle slope to the right and a steep wall to the left. The values from beta tilde at t = 2 and from beta at t = 1 lie in the valley."}}
g = torch.Generator().manual_seed(11)
x_1 = process.q_sample(scans, 1, torch.randn(scans.shape, generator=g))
with torch.no_grad():
    prediction = digits_denoiser(x_1, 1, labels)


def decoder_bits(variance):
    at = Prediction(prediction.x0, 0.0)
    term = reverse_step_term(process, scans, x_1, at, 1, 0, floor=variance)
    return bits_per_dim(term.flatten(1).sum(1).mean().item(), 64)


stds = torch.logspace(-4, 0, 60).tolist()
curve = [decoder_bits(std**2) for std in stds]
marks = {
    "$\\tilde\\beta_2$": float(process.beta_tilde[2]),
    "$\\beta_1$": float(process.beta[1]),
}
fig, ax = plt.subplots(figsize=(7.5, 2.8))
ax.loglog(stds, curve, color="black")
for (name, variance), colour in zip(
    marks.items(), (plots.ORANGE, plots.BLUE), strict=True
):
    ax.plot(variance**0.5, decoder_bits(variance), "o", color=colour, label=name)
ax.set(xlabel="deviation of the decoder", ylabel="$L_0$, bits per dimension")
ax.legend()
plt.show()
patch = decoder_bits(1e-20)
usual = decoder_bits(float(process.beta_tilde[2]))
print(f"L_0 with β̃_2: {usual:.2f} bits per dimension, with 1e-20: {patch:.0e}")
assert patch > 1e6 and usual < min(curve) + 0.1
best = min(stds, key=lambda std: decoder_bits(std**2))
wide, narrow = (decoder_bits((best * f) ** 2) for f in (10, 0.1))
print(
    f"deviation ten times the best: + {wide - min(curve):.1f} bits, "
    f"a tenth of the best: + {narrow - min(curve):.0f}"
)
assert 1 < wide - min(curve) < 1.5 and 12 < narrow - min(curve) < 18
try:
    decoder_bits(0.0)
except ValueError as error:
    print("with 0:", error)

# %% [markdown]
# **Fig. 4.7.** Too small a deviation costs without limit, too large a one only little. Ten times
# the best deviation adds 1.2 bits per dimension, a tenth of it adds 15, and to the left the cost
# grows with the inverse square. The two usual values, $\tilde\beta_2$ and $\beta_1$, lie in the
# valley.
#
# The tests that catch the bug: `test_the_decoders_floor` and
# `test_bad_times_draws_and_floors_are_refused` in `tests/test_likelihood.py`.
#
# ### Three lost factors
#
# Most of these mistakes make numbers look *better*, which is why they go unnoticed.

# %% tags=["hide-input"]
g = torch.Generator().manual_seed(3)
L = elbo(digits_denoiser, process, scans, coarse, y=labels, generator=g)
nats = L.total.mean().item()
rows = [
    (f"{nats:.1f}", "nats per image: a sum over 64 pixels"),
    (f"{nats / 64:.2f}", "nats per dimension: called bits by those who forget ln 2"),
    (f"{bits_per_dim(nats, 64):.2f}", "**bits per dimension, (4.14)**"),
    (f"{bits_per_dim(nats, 192):.2f}", "three channels counted where there is one"),
]

wrong = (scans + 1) / 2  # images in [0, 1]: bins twice as wide as levels are apart
try:
    elbo(digits_denoiser, process, wrong, coarse, y=labels)
except ValueError as error:
    print("images in [0, 1]:", error)
narrow = levels / 2 + 0.5
sure = discretised(narrow, narrow, torch.tensor(2 * math.log(0.004)))
right = discretised(levels, levels, torch.tensor(2 * math.log(0.008)))
cheap, true = (-float(v.mean()) / math.log(2) for v in (sure, right))
rows += [
    (f"{true:.2f}", "bits of a decoder with deviation 0.008 in the range [−1, 1]"),
    (f"{cheap:.2f}", "bits of the same decoder in [0, 1], with the bins of [−1, 1]"),
]
overlap = discretised(narrow, narrow[100], torch.tensor(2 * math.log(0.004))).exp()
assert cheap < true - 0.5 and abs(float(overlap.sum()) - 2) < 0.01
Markdown(markdown(("number", "what it is"), rows))

# %% [markdown]
# In the range $[0,1]$ neighbouring levels are $1/255$ apart, but the bins of (4.13) stay $2/255$
# wide. They overlap, the probabilities of all levels add up to *two*, and a pixel looks up to a bit
# cheaper than it is. The library refuses data that are not on the 256 levels; the test is
# `test_data_that_the_decoder_cannot_mean_are_refused`.
#
# ## Exercises
#
# Write your answer into the cell below each question and take the `#` off its last line: the check
# says yes, or gives a hint. ★ asks for a derivation, ★★ for code, ★★★ for a small project of both.
# Solutions are folded.
#
# ### ★ Exercise 4.1: Nats per image and bits per dimension
#
# A paper reports 1,900 nats for 28×28 grey images. How many bits per dimension is that, and how
# many nats per image does a model need that knows nothing and gives each of 256 levels the same
# probability? Give both.
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
# ### ★★ Exercise 4.2: The weights from ᾱ alone
#
# Write `weights(alpha_bar)`: from the table $\bar\alpha_0,\dots,\bar\alpha_T$ the bound's weights
# of the *noise* error at $t=2,\dots,T$ for $\sigma_t^2=\tilde\beta_t$, a tensor of length $T-1$. No
# $\beta$ needed.
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
# ### ★★ Exercise 4.3: The best decoder of a one-step chain
#
# The chain of one step is a VAE with a fixed encoder. Data $x_0\sim\mathcal N(0,v)$,
# $x_1=\sqrt{\bar\alpha_1}x_0+\sqrt{1-\bar\alpha_1}\varepsilon$, exact denoiser. Which decoder
# variance minimises the average of $L_T+L_0$? Write `best_variance(alpha_bar_1, v)`.
#
# :::{dropdown} Hint
# Average $L_0$ over the data: $\frac12[\log 2\pi\sigma^2+\mathbb E(x_0-\hat x_0)^2/\sigma^2]$.
# Differentiate. Then (4.17) with $t=1$.
# :::

# %%
answer = ...  # a function of (alpha_bar_1, v)

# exercises.check("4.3", answer)


# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
# Solution of exercise 4.3: the mean squared error,
# Var(x_0 | x_1) = β_1 V_0 / V_1
def best_variance(alpha_bar_1, v):
    return (1 - alpha_bar_1) * v / (alpha_bar_1 * v + 1 - alpha_bar_1)


exercises.check("4.3", best_variance)

# %% [markdown]
# ### ★★★ Exercise 4.4: The bound of a strided chain
#
# Write `bound(eps_net, x0, alpha_bar, times, noise)`: the bound of a *strided* chain in nats, (B,),
# for real data (B, d), $\sigma^2=\tilde\beta_{t\to s}$ of each stride. `times` fall from $T$ to 0,
# `noise[t]` is the $\varepsilon$ of $x_t$, `eps_net(x_t, t)` the network. The decoder is a Gaussian
# density with the $\tilde\beta$ of the last stride but one. There are at least two strides.
#
# :::{dropdown} Hint
# (4.12) holds for strides with $t-1$ replaced by $s$;
# $\tilde\beta_{t\to s}=\frac{1-\bar\alpha_s}{1-\bar\alpha_t}\left(1-\frac{\bar\alpha_t}{\bar\alpha_s}\right)$.
# Start from `bound_from_scratch`.
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
# 1. Cross-entropy → marginalise over the path → Jensen. The bound exceeds $-\log p_\theta(x_0)$ by
#    $\mathrm{KL}(q(x_{1:T}\mid x_0)\Vert p_\theta(x_{1:T}\mid x_0))$, which is never negative.
# 2. Bayes with $x_0$ in the condition turns the forward steps around; the sum telescopes into
#    $L_T+\sum L_{t-1}+L_0$, KLs of Gaussians and a decoder.
# 3. $L_{t-1}$ is a weighted noise regression, weight $\frac12(\mathrm{SNR}(t-1)/\mathrm{SNR}(t)-1)$
#    for $\sigma^2=\tilde\beta$. $L_\text{simple}$ sets it to one and so weighs the middle of the
#    chain, where an image gets its shape, more than the end, where the bits are.
# 4. On average the bound loses exactly what the reverse steps get wrong. With $\beta_t$ that
#    vanishes like $1/T$; with $\tilde\beta_t$ 0.442 nats per dimension remain for Gaussian data,
#    however many steps there are.
# 5. A reported number needs its unit (nats or bits, per image or per dimension), its data set and
#    range, its decoder and its standard error.
#
# The equations of this chapter, the functions that implement them, the tests that pin them:

# %% mystnb={"code_prompt_show": "Equations, functions, tests", "code_prompt_hide": "Hide the table"} tags=["hide-cell"]
from ddpmlib import equations

equations.table("04")

# %% [markdown]
# ## Further reading
#
# - Ho, Jain & Abbeel (2020) {cite}`ho2020denoising`: section 3 and the first appendix of the paper,
#   where (4.6) is their (22); the decoder is their (13), our (4.10) their (12).
# - Sohl-Dickstein et al. (2015) {cite}`sohldickstein2015deep`: where the bound comes from.
# - Kingma & Welling (2014) {cite}`kingma2014auto`: the VAE.
# - Kingma, Salimans, Poole & Ho (2021), *Variational diffusion models*
#   {cite}`kingma2021variational`: (4.11) is their starting point; the limit $T\to\infty$ as an
#   integral over the SNR.
# - Bao et al. (2022), *Analytic-DPM* {cite}`bao2022analytic`: the optimal reverse variance for any
#   data.
# - Luo (2022) {cite}`luo2022understanding`: the same derivation at a slower pace, as a hierarchical
#   VAE.
