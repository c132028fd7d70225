# %% [markdown]
# # 7. DDIM: the same network, fewer steps
#
# [![Open in Colab](../book/_static/colab.svg)](https://colab.research.google.com/github/ddpm-book/ddpm-book/blob/main/notebooks/07_ddim.ipynb)
#
# The network of the figure below was trained for a chain of 1,000 noisy steps. It draws digits in
# two to twenty-five calls, without further training. This chapter proves that it may, measures
# what each call is worth, and uses what a chain without fresh noise offers: the same noise gives
# the same digit, images can be encoded, and their codes interpolated. It also measures what is
# lost without fresh noise, and how Restart sampling gets it back.
#
# You need [chapter 2](02_reverse.ipynb) (the reverse step) and [chapter 3](03_ddpm.ipynb) (DDPM);
# one section uses the bound of [chapter 4](04_elbo.ipynb). Nothing is trained here.

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
import torch
from ddpmlib import zoo
from ddpmlib.denoiser import FixedVariance
from ddpmlib.samplers import draw, uniform_times

mnist, card = zoo.load("mnist", device="cpu")
process, T = mnist.process, mnist.process.T
mnist = FixedVariance(mnist, 0.0)  # σ = η √β̃; chapter 6 learns it


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def ten_digits(steps, eta):
    """The digits 0 to 9 from one x_T, in so many network calls."""
    x_T = torch.randn(10, *card.image_shape, generator=seeded(1))
    times, y = uniform_times(T, steps), torch.arange(10)
    g = seeded(steps)
    return draw(mnist, process, x_T, times, eta=eta, y=y, generator=g)


# %% mystnb={"image": {"alt": "Two panels of MNIST digits. Rows are 2, 4, 10 and 25 steps, columns the digits 0 to 9. Left, DDIM: each column keeps its handwriting down the rows. Right, ancestral sampling: each row shows other handwriting."}} tags=["hide-input"]
import matplotlib.pyplot as plt
from ddpmlib import plots
from ddpmlib.experiments.results import markdown
from IPython.display import Markdown


def likeness(a, b):
    """Correlation over the pixels of each pair of images, (B,)."""
    a, b = a.flatten(1), b.flatten(1)
    a, b = (x - x.mean(1, keepdim=True) for x in (a, b))
    return torch.nn.functional.cosine_similarity(a, b)


fig, axes = plt.subplots(1, 2, figsize=(7.5, 1.7))
names = {0.0: "DDIM, η = 0", 1.0: "ancestral, η = 1"}
alike = {}
for ax, (eta, name) in zip(axes, names.items(), strict=True):
    rows = [ten_digits(n, eta) for n in (2, 4, 10, 25)]
    _ = plots.grid(torch.cat(rows), ncol=10, ax=ax, title=name)
    alike[eta] = float(likeness(rows[2], rows[3]).mean())
assert alike[0.0] > 0.9 > 0.75 > alike[1.0]

# %% [markdown]
# **Fig. 7.1.** With DDIM the noise at the start decides the digit, whatever the number of steps.
# All rows start from the same ten noise images; from top to bottom 2, 4, 10 and 25 network calls.
# Left, a column keeps its handwriting (10 and 25 steps correlate above 0.9). Right, fresh noise at
# every step draws another handwriting in every row (correlation below 0.75).
#
# ## Objectives
#
# After this chapter you can
#
# - say which part of the forward process the training loss contains, and why that leaves the chain
#   free;
# - derive the DDIM family by demanding its marginals, prove by induction that it has them, and find
#   DDPM in it;
# - show that the bound of every member with $\sigma>0$ is a weighted noise loss plus a constant,
#   with the exact weight;
# - read the deterministic member as Euler's method, and predict from that what one step gives, how
#   the error falls and how to run the chain backwards;
# - sample, encode, reconstruct and interpolate in few steps, and measure what each costs;
# - explain by which factor fresh noise reduces errors made earlier in the chain, and where it
#   cannot help.
#
# ## Three processes with the same marginals
#
# One clean number $x_0 = 1.5$, and three ways to make noise of it. Each path below is a draw of a
# whole chain $x_1,\dots,x_T$ given the *same* $x_0$, made from its noisy end by the rule (7.2).

# %%
from ddpmlib.process import DDPM, schedules

chain = DDPM(schedules.cosine(60))


def noise_path(sigma, n, seed, x0=1.5):
    """x_T, ..., x_1 given x_0, each step by (7.2)."""
    g = seeded(seed)
    end = torch.randn(n, generator=g)
    x = chain.q_sample(torch.full((n,), x0), 60, end)
    path = [x]
    for t in range(60, 1, -1):
        a_t, a_s = chain.alpha_bar[t], chain.alpha_bar[t - 1]
        var = torch.as_tensor(sigma(t, t - 1)) ** 2
        eps = (x - a_t.sqrt() * x0) / (1 - a_t).sqrt()
        kept = (1 - a_s - var).clamp(min=0).sqrt()
        z = torch.randn(n, generator=g)
        x = a_s.sqrt() * x0 + kept * eps + var.sqrt() * z
        path.append(x)
    return torch.stack([*path, torch.full((n,), x0)])


# %% mystnb={"image": {"alt": "Three panels with paths over time, from 1.5 at time 0 to a wide spread. Left: smooth fans that never cross. Middle: jagged random walks. Right: pure scatter from step to step. The grey band of two standard deviations is the same in all."}} tags=["hide-input"]
choices = {
    "σ = 0 (DDIM)": lambda t, s: 0.0,
    "σ² = β̃ (DDPM)": chain.posterior_std,
    "σ² = 1 − ᾱ (largest)": lambda t, s: chain.std[s],
}
fig, axes = plt.subplots(1, 3, figsize=(7.5, 2.5), sharey=True)
time = torch.arange(60, -1, -1)
mean, std = 1.5 * chain.scale[time], chain.std[time]
for ax, (name, sigma) in zip(axes, choices.items(), strict=True):
    ax.fill_between(time, mean - 2 * std, mean + 2 * std, color="0.85")
    ax.plot(time, noise_path(sigma, 4, seed=2), lw=0.9)
    ax.set(xlabel="time t (steps)", title=name)
    many = noise_path(sigma, 20_000, seed=3)
    assert (many.mean(1) - mean).abs().max() < 0.03
    assert (many.std(1) - std).abs().max() < 0.03
_ = axes[0].set_ylabel("$x_t$")

# %% [markdown]
# **Fig. 7.2.** Three different processes have the same distribution at every single time. Coloured:
# four paths each. Grey: mean ± 2 standard deviations of $q(x_t\mid x_0)$; over 20,000 paths all
# three processes agree with it to 0.03.
#
# A network is trained on single pairs $(x_t, t)$, never on paths, so its training cannot tell which
# of the three made them. We may choose after training, and the left process, where nothing but the
# end point is random, can be followed in a few long steps.
#
# ## Why a trained network fits more than one chain
#
# ### What the training loss contains
#
# Give every time a positive weight $\gamma_t$ and call
#
# $$
# L_\gamma(\theta) = \sum_{t=1}^T \gamma_t\;\mathbb E_{x_0,\;x_t\sim q(x_t\mid x_0)}\;\big\lVert \varepsilon-\varepsilon_\theta(x_t,t)\big\rVert^2,\qquad \varepsilon=\frac{x_t-\sqrt{\bar\alpha_t}\,x_0}{\sqrt{1-\bar\alpha_t}} .
# \tag{7.1}
# $$
#
# With all $\gamma_t=1/T$ this is $L_{\text{simple}}$ of (3.2). Each summand needs the joint
# distribution of $x_0$ and *one* $x_t$. The distribution of two noisy states together,
# $q(x_s, x_t\mid x_0)$, occurs nowhere. Whatever process has the marginals
# $q(x_t\mid x_0)=\mathcal N(\sqrt{\bar\alpha_t}\,x_0,\,(1-\bar\alpha_t)I)$ has this loss and this
# minimiser $\mathbb E[\varepsilon\mid x_t]$, and may use this network.
#
# ### A family of Gaussian chains with these marginals
#
# Build the chain from its noisy end. Let $x_T\sim q(x_T\mid x_0)$, and let each next state depend
# on $x_0$ and the last state alone, linearly with two numbers $a$ and $b$, plus fresh noise
# $z\sim\mathcal N(0,I)$: $x_s = a\,x_0+b\,x_t+\sigma z$ with $s<t$ (think $s=t-1$). (Matrices for
# $a$, $b$, $\sigma$, or more past states, would give further Gaussian chains.) *If* $x_t$ has the
# right distribution given $x_0$, then $x_s$ is Gaussian with
#
# $$
# \text{mean } \big(a+b\sqrt{\bar\alpha_t}\big)\,x_0,\qquad \text{variance } b^2(1-\bar\alpha_t)+\sigma^2 .
# $$
#
# We demand mean $\sqrt{\bar\alpha_s}\,x_0$ and variance $1-\bar\alpha_s$. Two equations for three
# unknowns: $\sigma$ stays free. The second gives
# $b=\sqrt{(1-\bar\alpha_s-\sigma^2)/(1-\bar\alpha_t)}$ (the negative root would do too; it flips
# the noise at each step), the first $a=\sqrt{\bar\alpha_s}-b\sqrt{\bar\alpha_t}$. Sorted by
# meaning,
#
# $$
# q_\sigma(x_s\mid x_t,x_0)=\mathcal N\!\Big(\sqrt{\bar\alpha_s}\,x_0+\sqrt{1-\bar\alpha_s-\sigma^2}\;\frac{x_t-\sqrt{\bar\alpha_t}\,x_0}{\sqrt{1-\bar\alpha_t}},\ \sigma^2I\Big) .
# \tag{7.2}
# $$
#
# The root needs $0\le\sigma^2\le1-\bar\alpha_s$.
#
# **Lemma.** Let
# $q_\sigma(x_{1:T}\mid x_0)=q(x_T\mid x_0)\prod_{t=2}^{T}q_\sigma(x_{t-1}\mid x_t,x_0)$ with any
# $\sigma_t$ in that range. Then
#
# $$
# q_\sigma(x_t\mid x_0)=\mathcal N\big(\sqrt{\bar\alpha_t}\,x_0,\ (1-\bar\alpha_t)\,I\big)\qquad\text{for every } t=1,\dots,T .
# \tag{7.3}
# $$
#
# :::{dropdown} Proof: induction from the noisy end
# For $t=T$ it is the definition. Suppose it holds for $t$. Then, given $x_0$, the fraction in (7.2)
# is $\varepsilon\sim\mathcal N(0,I)$, and
# $x_{t-1}=\sqrt{\bar\alpha_{t-1}}\,x_0+\sqrt{1-\bar\alpha_{t-1}-\sigma_t^2}\;\varepsilon+\sigma_t
# z$ with $z$ drawn independently of $x_t$, hence of $\varepsilon$. A sum of independent Gaussians
# is Gaussian; its mean is $\sqrt{\bar\alpha_{t-1}}\,x_0$, its variance
# $(1-\bar\alpha_{t-1}-\sigma_t^2)+\sigma_t^2=1-\bar\alpha_{t-1}$. That is the claim for $t-1$. ∎
# :::
#
# The proof does not use that $t$ and $t-1$ are neighbours. Any falling list of times works, so
# **skipping steps needs no retraining**.
#
# ### What σ decides: how much of the noise is remembered
#
# Given $x_0$, the covariance of $x_s$ and $x_t$ is $b\,(1-\bar\alpha_t)$. Divide by both standard
# deviations:
#
# $$
# \rho=\operatorname{Corr}(x_s,x_t\mid x_0)=\sqrt{1-\frac{\sigma^2}{1-\bar\alpha_s}} .
# \tag{7.4}
# $$
#
# With $\sigma=0$ the correlation is one: all states of a path share one $\varepsilon$ (Fig. 7.2,
# left). With $\sigma^2=1-\bar\alpha_s$ it is zero: every state has noise of its own (right). And
# forwards? $(x_s,x_t)$ is a Gaussian pair, so conditioning gives
#
# $$
# q_\sigma(x_t| x_s,x_0)=\mathcal N\big(\sqrt{\bar\alpha_t}x_0+\rho\sqrt{\tfrac{1-\bar\alpha_t}{1-\bar\alpha_s}}(x_s-\sqrt{\bar\alpha_s}x_0),(1-\rho^2)(1-\bar\alpha_t)I\big).
# \tag{7.5}
# $$
#
# In general this contains $x_0$: the *forward* process is not Markov. (The generative chain, which
# puts $\hat x_0(x_t,t)$ for $x_0$, depends on $x_t$ alone and is always Markov.) The forward
# process is Markov exactly when the two terms with $x_0$ cancel,
# $\sqrt{\bar\alpha_t}=\rho\sqrt{\bar\alpha_s(1-\bar\alpha_t)/(1-\bar\alpha_s)}$, so
# $1-\rho^2=\frac{\bar\alpha_s-\bar\alpha_t}{\bar\alpha_s(1-\bar\alpha_t)}$, and with (7.4)
#
# $$
# \text{Markov}\iff \sigma^2=(1-\bar\alpha_s)(1-\rho^2)=\frac{1-\bar\alpha_s}{1-\bar\alpha_t}\Big(1-\frac{\bar\alpha_t}{\bar\alpha_s}\Big)=\tilde\beta_{t\to s} .
# \tag{7.6}
# $$
#
# One member of the family is the DDPM of the chapters before: the one with the posterior variance.
# It is not the largest $\sigma$; between $\tilde\beta$ and $1-\bar\alpha_s$ there is more
# randomness still, rarely used (exercise 7.2 does). The next cell checks all of it with sympy.

# %% tags=["hide-input"]
import sympy as sp

abar_t, abar_s, sig = sp.symbols("abar_t abar_s sigma", positive=True)
b = sp.sqrt((1 - abar_s - sig**2) / (1 - abar_t))
a = sp.sqrt(abar_s) - b * sp.sqrt(abar_t)
assert sp.simplify(a + b * sp.sqrt(abar_t) - sp.sqrt(abar_s)) == 0
assert sp.simplify(b**2 * (1 - abar_t) + sig**2 - (1 - abar_s)) == 0
rho = b * sp.sqrt(1 - abar_t) / sp.sqrt(1 - abar_s)
assert sp.simplify(rho**2 - (1 - sig**2 / (1 - abar_s))) == 0
markov = sp.solve(sp.Eq(abar_t * (1 - abar_s), rho**2 * abar_s * (1 - abar_t)), sig**2)
beta_tilde = (1 - abar_s) / (1 - abar_t) * (1 - abar_t / abar_s)
assert len(markov) == 1 and sp.simplify(markov[0] - beta_tilde) == 0
posterior_on_x0 = sp.sqrt(abar_s) * (1 - abar_t / abar_s) / (1 - abar_t)
b_ddpm = sp.sqrt(abar_t / abar_s) * (1 - abar_s) / (1 - abar_t)
assert sp.simplify(b_ddpm**2 - (b**2).subs(sig**2, beta_tilde)) == 0
a_ddpm = sp.sqrt(abar_s) - b_ddpm * sp.sqrt(abar_t)
assert sp.simplify(a_ddpm - posterior_on_x0) == 0
print("(7.2) has these marginals; its one Markov member has variance β̃")

# %% [markdown]
# ### The bound of every member is a weighted noise loss plus a constant
#
# To generate, put the prediction for the truth:
# $p_\theta(x_{t-1}\mid x_t)=q_\sigma(x_{t-1}\mid x_t,\hat x_0(x_t,t))$ for $t\ge2$, and
# $p_\theta(x_0\mid x_1)=\mathcal N(\hat x_0(x_1,1),\sigma_1^2I)$, $p(x_T)=\mathcal N(0,I)$, with
# all $\sigma_t>0$. Jensen's inequality gives, as for DDPM, $-\log p_\theta(x_0)\le J_\sigma$ with
# $J_\sigma=\mathbb E_{q_\sigma}\big[\log q_\sigma(x_{1:T}\mid x_0)-\log p_\theta(x_{0:T})\big]$,
# and
#
# $$
# J_\sigma=L_\gamma+C,\qquad C=\mathrm{KL}\big(q(x_T\mid x_0)\Vert p(x_T)\big)+\tfrac d2\log(2\pi\sigma_1^2),
# \tag{7.7}
# $$
#
# $$
# \gamma_t=\frac{1-\bar\alpha_t}{\bar\alpha_t}\cdot\frac{a_t^2}{2\sigma_t^2},\qquad a_t=\sqrt{\bar\alpha_{t-1}}-\sqrt{1-\bar\alpha_{t-1}-\sigma_t^2}\;\sqrt{\frac{\bar\alpha_t}{1-\bar\alpha_t}},
# \tag{7.8}
# $$
#
# with $a_1=1$ (the outer expectation over $x_0$ understood). $C$ holds no $\theta$.
#
# :::{dropdown} Proof: the bound falls apart into one divergence a step
# Both $q_\sigma$ and $p_\theta$ factorise from the noisy end, so the logarithms pair up into a KL
# divergence per step:
#
# $$
# J_\sigma=\mathrm{KL}\big(q(x_T| x_0)\Vert p(x_T)\big)+\sum_{t=2}^T\mathbb E\,\mathrm{KL}\big(q_\sigma(x_{t-1}| x_t,x_0)\Vert p_\theta(x_{t-1}| x_t)\big)-\mathbb E\log p_\theta(x_0| x_1).
# $$
#
# The divergence of two Gaussians of equal variance $\sigma_t^2$ is
# $\lVert\text{difference of means}\rVert^2/2\sigma_t^2$. In (7.2) the means differ by
# $a_t\,(x_0-\hat x_0)$ with the $a_t$ of (7.8). For $t=1$ the log-density has the same form with
# $a_1=1$, plus $\frac d2\log(2\pi\sigma_1^2)$. And (3.4) turns errors of $x_0$ into errors of
# $\varepsilon$:
# $\lVert x_0-\hat x_0\rVert^2=\frac{1-\bar\alpha_t}{\bar\alpha_t}\lVert\varepsilon-\hat\varepsilon\rVert^2$.
# ∎
# :::
#
# A net free to answer at each $t$ on its own has the same optimum for all positive weights, so
# training with equal weights trains every member at once. Two limits of this argument. A real net
# shares weights between times, so the $\gamma_t$ matter a little. And as $\sigma\to0$,
# $\gamma_t\to\infty$: the deterministic member has no bound. The lemma alone does not justify it
# either, since (7.3) speaks of chains that know the true $x_0$. Why DDIM samples the data although
# it only has $\hat x_0=\mathbb E[x_0\mid x_t]$: in the limit of small steps it follows the ODE
# (7.11), and that is the flow (B.12), which carries the density $q(x_T)$ to $q(x_0)$.
#
# How different are the weights? Put $\sigma_t=\eta\sqrt{\tilde\beta_t}$. Where $\beta_t$ is small
# *against the noise that is there*, $\beta_t\ll1-\bar\alpha_t$, expanding the root in (7.8) gives
# $a_t\approx\sqrt{\bar\alpha_t}\,\beta_t\,(1+\eta^2)/2(1-\bar\alpha_t)$. Compared with DDPM's
# weight everything is then multiplied by one number, $(1+\eta^2)^2/4\eta^2$, the same at every
# time. The condition fails at both ends of the chain: at $t=2$, where $\beta_t$ is tiny and yet
# half of all the noise, and at $t=T$, where the cosine schedule ends with $\beta_T=0.999$.

# %%
from ddpmlib import losses


def gamma(process, t, eta):  # equation (7.8), t >= 2
    a_t, a_s = process.alpha_bar[t], process.alpha_bar[t - 1]
    sigma2 = eta**2 * process.beta_tilde[t]
    on_x0 = a_s.sqrt() - ((1 - a_s - sigma2) * a_t / (1 - a_t)).sqrt()
    return (1 - a_t) / a_t * on_x0**2 / (2 * sigma2)


# %% tags=["hide-input"]
times = torch.tensor([2, 10, 100, 500, 900, 1000])
share = (process.beta / (1 - process.alpha_bar))[times]
ddpm_weight = losses.vlb(process, times)
assert torch.allclose(gamma(process, times, 1.0), ddpm_weight, rtol=1e-6)
lines = [("β_t / (1 − ᾱ_t)", "", *(f"{b:.3f}" for b in share))]
for eta in (1.0, 0.5, 0.2, 0.05):
    ratio = gamma(process, times, eta) / ddpm_weight
    limit = (1 + eta**2) ** 2 / (4 * eta**2)
    assert (ratio / limit - 1).abs()[1:5].max() < 0.1  # β_t ≪ 1 − ᾱ_t
    lines.append((f"η = {eta:g}", f"{limit:.2f}", *(f"{r:.2f}" for r in ratio)))
assert share[0] > 0.5 and share[-1] > 0.99 > 0.15 > share[1:5].max()
assert ratio[0] > 1.3 * limit and ratio[-1] > 3.5 * limit  # at η = 0.05
header = ("", "(1+η²)²/4η²", *(f"t = {t}" for t in times))
Markdown("Weight $\\gamma_t(\\eta)\\,/\\,\\gamma_t(1)$:\n\n" + markdown(header, lines))

# %% [markdown]
# At $\eta=1$ the weight is the DDPM bound's own (`losses.vlb`). Smaller $\eta$ asks more of the
# network, by the same factor at nearly all times.
#
# ### The update: predicted $x_0$, direction, noise
#
# With $\hat x_0$ for $x_0$, (7.2) reads *predicted $x_0$* + *direction to $x_t$* + *noise*, which
# is (3.8). The paper measures $\sigma$ in units of the Markov member,
#
# $$
# \sigma_{t\to s}(\eta)=\eta\,\sqrt{\frac{1-\bar\alpha_s}{1-\bar\alpha_t}}\,\sqrt{1-\frac{\bar\alpha_t}{\bar\alpha_s}},\qquad 0\le\eta\le1,
# \tag{7.9}
# $$
#
# so $\eta=1$ is ancestral sampling, $\eta=0$ is DDIM, and at $s=0$ the range of $\sigma$ shrinks to
# zero by itself: **no noise in the last step**, whatever $\eta$. (The bound (7.7) has
# $\sigma_1>0$ in that place: a density needs a width. A sampler outputs the mean.)
#
# :::{admonition} Common misprint: α for ᾱ
# :class: warning
# The DDIM paper writes $\alpha_t$ for what everyone else calls $\bar\alpha_t$. [Deck
# 001](../book/slides_map.md#deck-001), "Denoising Diffusion Probabilistic and Implicit Models",
# keeps the paper's letters throughout, which is consistent. [Deck
# 003](../book/slides_map.md#deck-003), "Denoising Diffusion Models", mixes both in one formula, and
# half of the bars get lost. A test that finds it: put
# $x_t=\sqrt{\bar\alpha_t}\,x_0+\sqrt{1-\bar\alpha_t}\,\varepsilon$ into the slide's formula with
# perfect $\hat x_0,\hat\varepsilon$ and demand that $x_s$ has signal² + noise² = 1 *and* the signal
# $\sqrt{\bar\alpha_s}$. "What goes wrong" below runs two such formulas; one gives noise, and the
# other clean digits that all look alike.
# :::
#
# ### DDIM is Euler's method for an ODE
#
# With $\sigma=0$ divide (3.8) by $\sqrt{\bar\alpha_s}$. Write $\bar x_t=x_t/\sqrt{\bar\alpha_t}$
# and $r_t=\sqrt{(1-\bar\alpha_t)/\bar\alpha_t}$, the noise per unit of signal. Then
# $\bar x_s=\hat x_0+r_s\hat\varepsilon$ and $\bar x_t=\hat x_0+r_t\hat\varepsilon$, so
#
# $$
# \bar x_s=\bar x_t+(r_s-r_t)\;\hat\varepsilon(x_t,t) .
# \tag{7.10}
# $$
#
# That is one step of Euler's method, the simplest of all, for
#
# $$
# \frac{\mathrm d\bar x}{\mathrm dr}=\hat\varepsilon\Big(\frac{\bar x}{\sqrt{1+r^2}},\ t(r)\Big),\qquad \sqrt{\bar\alpha}=\frac1{\sqrt{1+r^2}} .
# \tag{7.11}
# $$
#
# [Appendix B](B_rosetta.ipynb) derives the same curve from a stochastic differential equation.
# Three consequences, each measured below: the error falls like 1/steps; with the same start all
# step counts approach the *same* end; and the equation can be integrated backwards.
#
# **One step** is $s=0$, $r_0=0$, from $t=T$:
#
# $$
# x_0^{\text{one step}}=\bar x_T-r_T\,\hat\varepsilon(x_T,T)=\hat x_0(x_T,T)\approx\mathbb E[x_0\mid x_T]\approx\mathbb E[x_0] .
# \tag{7.12}
# $$
#
# ## DDIM in ten lines, equal to the library's

# %%
alpha_bar = process.alpha_bar.float()


@torch.no_grad()
def ddim(x, times, y, eta=0.0, generator=None):
    for t, s in zip(times[:-1], times[1:], strict=True):
        a_t, a_s = alpha_bar[t], alpha_bar[s]
        x0 = mnist(x, t, y).x0  # predicted x_0
        eps = (x - a_t.sqrt() * x0) / (1 - a_t).sqrt()
        sigma = eta * ((1 - a_s) / (1 - a_t) * (1 - a_t / a_s)).sqrt()
        kept = (1 - a_s - sigma**2).clamp(min=0).sqrt()
        x = a_s.sqrt() * x0 + kept * eps  # direction to x_t
        if s > 0 and eta > 0:
            x = x + sigma * torch.randn(x.shape, generator=generator)
    return x


x = torch.randn(4, *card.image_shape, generator=seeded(1))
y, times = torch.arange(4), uniform_times(T, 8)
for eta in (0.0, 0.6, 1.0):
    ours = ddim(x, times, y, eta, seeded(5))
    g = seeded(5)
    theirs = draw(mnist, process, x, times, eta=eta, y=y, generator=g)
    assert (ours - theirs).abs().max() < 0.01
print("ten lines and the library agree for η = 0, 0.6 and 1")

# %% [markdown]
# The next cell checks (7.10) on the library's own states: every DDIM step is a straight line in
# $(r, \bar x)$.

# %%
from ddpmlib.samplers import sample

states = list(sample(mnist, process, x, times, eta=0.0, y=y))
scale, r = process.scale.float(), (process.std / process.scale).float()
for now, then in zip(states[1:-1], states[2:], strict=True):
    t, s = now.t, then.t
    eps = process.eps_from_x0(now.x, then.x0, t)
    euler = now.x / scale[t] + (r[s] - r[t]) * eps
    assert torch.allclose(euler * scale[s], then.x, atol=1e-4)
print("each DDIM step is an Euler step")

# %% [markdown]
# ## How many steps, when the denoiser is exact?
#
# A mixture of six Gaussians of unequal weight has its denoiser in closed form: what goes wrong now
# is due to the sampler. The table compares 1,500 samples with 1,500 draws of the data by the
# *energy distance* $2\,\mathbb E|X-Y|-\mathbb E|X-X'|-\mathbb E|Y-Y'|$, which is zero only for
# equal distributions and is estimated without bias (so it may come out slightly negative).

# %%
from ddpmlib import data
from ddpmlib.denoiser import oracle

centres = data.ring_means(6)
weights = torch.tensor([1.0, 2, 3, 1, 2, 3])
exact = oracle.Mixture(process, weights, centres, torch.full((6,), 0.15))


def energy_distance(a, b):
    def within(x):
        return torch.cdist(x, x).sum() / (len(x) * (len(x) - 1))

    return float(2 * torch.cdist(a, b).mean() - within(a) - within(b))


# %% tags=["nbval-ignore-output", "hide-input"]
def distances(eta, times, seeds=4):
    found = []
    for seed in range(seeds):
        g = seeded(seed)
        x = torch.randn(1500, 2, generator=g)
        x = draw(exact, process, x, times, eta=eta, generator=g)
        truth = exact.draw(1500, generator=seeded(100 + seed))
        found.append(energy_distance(x, truth))
    return torch.tensor(found)


def thousandths(values):
    return f"{1000 * values.mean():.1f} ± {1000 * values.std():.1f}"


etas, steps = (0.0, 0.5, 1.0), (1, 2, 4, 6, 10, 20)
ladder = {(eta, n): distances(eta, uniform_times(T, n)) for eta in etas for n in steps}
floor = []
for seed in range(4):
    two = [exact.draw(1500, generator=seeded(k + seed)) for k in (200, 100)]
    floor.append(energy_distance(*two))
floor = torch.tensor(floor)
lines = [(n, *(thousandths(ladder[eta, n]) for eta in etas)) for n in steps]
lines.append(("data against data", thousandths(floor), "", ""))
for eta in etas:
    assert ladder[eta, 2].mean() > 0.15 > 0.02 > ladder[eta, 4].mean()
    assert ladder[eta, 20].mean().abs() < 0.002
assert ladder[1.0, 4].mean() > ladder[0.0, 4].mean() + 2 * ladder[1.0, 4].std()
Markdown(
    "Energy distance × 1000, mean ± standard deviation of four seeds:\n\n"
    + markdown(("steps", *(f"η = {eta:g}" for eta in etas)), lines)
)

# %% mystnb={"image": {"alt": "Four scatter plots of DDIM samples of a ring of six clusters with 1, 2, 4 and 10 steps: one dot in the centre, a round blob, a ring of six clusters with bridges between them, six clusters with a few stragglers."}} tags=["hide-input"]
x_T = torch.randn(1500, 2, generator=seeded(0))
fig, axes = plt.subplots(1, 4, figsize=(7.5, 2.3), sharey=True)
few, near = {}, {}
for ax, n in zip(axes, (1, 2, 4, 10), strict=True):
    few[n] = draw(exact, process, x_T, uniform_times(T, n), eta=0.0)
    plots.scatter(few[n], ax, reach=2.2).set_title(f"{n} step{'s' * (n > 1)}")
    ax.set_ylabel("$x_2$" if n == 1 else "")
    within = torch.cdist(few[n], centres).min(1).values < 0.45  # 3 deviations
    near[n] = float(within.float().mean())
mean = (weights / weights.sum()) @ centres
assert (few[1] - mean).norm(dim=1).max() < 0.01
assert near[1] == 0 and 0.18 < near[2] < 0.25
assert 0.75 < near[4] < 0.8 and 0.97 < near[10] < 0.98

# %% [markdown]
# **Fig. 7.3.** One step puts all points on one dot, the mean of the data, where there are no data
# at all. Two steps spread them without finding a cluster (a fifth lie within three deviations of a
# centre), four show six clusters with points between them (three quarters within), and with ten
# steps 97 % lie within, of the data 99 %.
#
# In the table, $\eta$ matters little on this easy problem. At four steps $\eta=1$ is at 15.5 and
# DDIM at 11.9 (more than two standard deviations apart), and with twenty steps every column is as
# good as the data.
#
# :::{admonition} Common misprint: x_0 in one step
# :class: warning
# With $\sigma=0$ the process is deterministic, so that $x_0$ could be computed in one step, says
# deck 001, and retracts it at once: "but in practice this is not good". The reason can be given.
# $x_T$ determines the end of the *curve* (7.11), but one Euler step follows the curve's tangent at
# the start, and (7.12) says where that leads: to the posterior mean, which at $t=T$ is the mean of
# the data. Deterministic does not mean straight. (Models can be trained to make the curve straight,
# or to jump to its end: distillation, consistency models.)
# :::
#
# Now the order of the method. From the same $x_T$ in float64, how far do $n$ steps end from 2,048
# steps?

# %% mystnb={"image": {"alt": "Log-log plot of the distance to the fine solution against the number of steps, 1 to 256. From sixteen steps on it runs parallel to a dashed line of slope minus one."}} tags=["hide-input"]
fine = DDPM(schedules.cosine(2048))
smooth = oracle.Mixture(fine, weights, centres, torch.full((6,), 0.15))
x_T = torch.randn(400, 2, generator=seeded(0), dtype=torch.float64)
end = draw(smooth, fine, x_T, eta=0.0)
counts = [2**k for k in range(9)]
error = []
for n in counts:
    found = draw(smooth, fine, x_T, uniform_times(2048, n), eta=0.0)
    error.append(float((found - end).norm(dim=1).median()))
order = torch.log2(torch.tensor(error[4]) / error[7]) / 3
fig, ax = plt.subplots(figsize=(5.4, 2.6))
ax.loglog(counts, error, "o-", label="median distance")
ax.loglog(counts, [0.55 / n for n in counts], "k--", lw=0.8, label="1/steps")
ax.set(xlabel="steps", ylabel="distance to the fine solution")
_ = ax.legend()
print(f"measured order between 16 and 128 steps: {order:.1f}")
assert 0.8 < order < 1.2 and error[0] / error[4] > 16

# %% [markdown]
# **Fig. 7.4.** DDIM is of first order: from sixteen steps on the error nearly halves when the steps
# double (measured order 0.9). The first sixteen steps gain more than first order promises. A method
# of higher order falls faster; exercise 7.4 writes one.
#
# ## A network trained for 1,000 steps, sampled in one to ten
#
# The network below learned to predict the noise, in the
# form of [chapter 3](03_ddpm.ipynb), for a chain of 1,000 steps. Only `times` and `eta` change.
#
# As reference we draw 210 chains of 20 DDIM steps, in three groups of 70. Distances are Fréchet
# distances between features of our MNIST classifier (`mnist-classifier`, penultimate layer, 64
# numbers), here to the *model's own* finished samples from other noise: the numbers tell what
# skipping steps costs, and nothing of how good the network is ([chapter 8](08_metrics.ipynb) and
# [chapter 9](09_scoreboard.ipynb) ask that). With seventy samples such a distance is far from zero
# even between equals; that value is called the *floor*.

# %% tags=["nbval-ignore-output", "hide-input"]
from ddpmlib.evaluation import features, metrics

classifier, _ = zoo.load("mnist-classifier", device="cpu")
y, shape = torch.arange(10).repeat(7), card.image_shape
starts = [torch.randn(70, *shape, generator=seeded(10 + k)) for k in range(3)]
twenty = uniform_times(T, 20)
chains = [list(sample(mnist, process, x, twenty, eta=0.0, y=y)) for x in starts]
finals = [c[-1].x for c in chains]
marks = [features.extract(classifier, x)[0] for x in finals]
others = [torch.cat([m for m in marks if m is not own]) for own in marks]
floors = [metrics.frechet_distance(a, b) for a, b in zip(marks, others, strict=True)]
floors = torch.tensor(floors)
print(f"floor, 70 samples against 140 others: {floors.mean():.1f} ± {floors.std():.1f}")

# %% [markdown]
# Fewer steps now, from the noise of the first group. Beside the distance: the class agreement, and
# the correlation of pixels with the 20-step image from the same $x_T$. Its baseline is not zero,
# since two different threes also look alike.


# %% tags=["nbval-ignore-output", "hide-input"]
def mean_and_error(v):
    return f"{v.mean():.2f} ± {v.std() / len(v) ** 0.5:.2f}"


def bootstrapped(h, reference, draws=20):
    """Standard deviation of the distance over redrawn sets of samples."""
    g, n = seeded(0), len(h)
    again = [h[torch.randint(n, (n,), generator=g)] for _ in range(draws)]
    found = [metrics.frechet_distance(h, reference) for h in again]
    return float(torch.tensor(found).std())


x_T, target, reference = starts[0], finals[0], others[0]
baseline = likeness(target, finals[1])
few, lines = {}, []
for eta in (0.0, 1.0):
    for n in (1, 2, 4, 10):
        g = seeded(500 + n)  # not the seeds of x_T!
        times = uniform_times(T, n)
        x = draw(mnist, process, x_T, times, eta=eta, y=y, generator=g)
        h, logits = features.extract(classifier, x)
        distance = metrics.frechet_distance(h, reference)
        error = bootstrapped(h, reference)
        agreed = metrics.class_agreement(logits, y)
        few[eta, n] = distance, error, likeness(x, target), agreed
        way = "DDIM" if eta == 0 else "ancestral"
        cells = f"{distance:.1f} ± {error:.1f}", f"{agreed:.0%}"
        lines.append((f"{way}, {n}", *cells, mean_and_error(few[eta, n][2])))
same = float(floors[0])
lines.append(("DDIM, 20", f"{same:.1f}", "", "1"))
lines.append(("other digits of the class", "", "", mean_and_error(baseline)))
assert few[0.0, 10][2].mean() > 0.9 > 0.75 > few[1.0, 10][2].mean()
assert few[0.0, 1][0] > 5 * few[0.0, 10][0]
assert few[0.0, 1][3] < 0.6 < 0.9 < few[0.0, 2][3]
assert few[0.0, 4][2].mean() > few[0.0, 2][2].mean() > few[0.0, 1][2].mean()
assert few[0.0, 2][0] > 2 * few[0.0, 10][0]
for eta in (0.0, 1.0):  # ten steps, and DDIM against η = 1: not resolved
    assert abs(few[eta, 10][0] - same) < 3 * few[eta, 10][1]
assert few[1.0, 2][2].mean() > few[1.0, 10][2].mean() + 0.03
assert abs(few[1.0, 10][2].mean() - baseline.mean()) < 0.05
header = ("steps", "Fréchet ± bootstrap", "agreement", "correlation with 20 steps")
Markdown(markdown(header, lines))

# %% mystnb={"image": {"alt": "Two panels over the number of steps from 1 to 10. Left, Fréchet distance, falling steeply to a dotted floor for both samplers. Right, correlation with the 20-step image: DDIM climbs towards one, ancestral sampling falls to the dotted baseline of unrelated digits."}} tags=["hide-input"]
fig, axes = plt.subplots(1, 2, figsize=(7.5, 2.7))
looks = ((0.0, "DDIM, η = 0", plots.BLUE), (1.0, "ancestral, η = 1", plots.ORANGE))
for eta, name, colour in looks:
    n = [n for e, n in few if e == eta]
    rows = [few[eta, k] for k in n]
    look = {"marker": "o", "color": colour, "label": name}
    axes[0].errorbar(n, [r[0] for r in rows], [r[1] for r in rows], **look)
    errors = [r[2].std() / len(r[2]) ** 0.5 for r in rows]
    axes[1].errorbar(n, [r[2].mean() for r in rows], errors, **look)
axes[0].axhline(same, color="k", ls=":", lw=1)
axes[1].axhline(baseline.mean(), color="k", ls=":", lw=1)
axes[0].set(xlabel="steps", ylabel="Fréchet distance", yscale="log")
axes[1].set(xlabel="steps", ylabel="correlation with 20 steps", ylim=(0, 1.03))
_ = axes[0].legend()

# %% [markdown]
# **Fig. 7.5.** Ten steps are as good as twenty on this data set, as far as 70 samples can tell.
# Left, the distance to finished samples falls from 139 in one step to the floor (dotted) in four to
# ten; the two samplers lie within a few error bars of each other. Right, only DDIM returns to the
# 20-step image of the same noise; with $\eta=1$ the noise at the start is forgotten, down to the
# correlation of other digits of the class (dotted).
#
# One step gives the average digit of its class, (7.12) once more; half of these averages are read
# as another digit. Two steps are legible (96 % agreement) but twice as far or more from finished
# samples. That ancestral *two*-step images look more like the 20-step image than ten-step ones is
# no merit: in two steps little fresh noise is drawn. Deck 003 expects worse samples from strides of
# the stochastic chain at once; with $\tilde\beta$, ten steps cannot be told from twenty here.
#
# ## Does the last quarter of the chain do most of the work?
#
# [Deck 004](../book/slides_map.md#deck-004), "Diffusion models", follows IS and FID of the
# generated states along the chain, finds that the last 250 of 1,000 steps matter most, and takes
# 250 DDIM steps from it. What could be measured? The state $x_t$ is what a film of the chain
# *shows*. The prediction $\hat x_0(x_t,t)$ is what the chain *knows* at that time. Both go to the
# same classifier, for the 210 chains above.

# %% tags=["nbval-ignore-output", "hide-input"]
visited = (1000, 900, 750, 600, 500, 400, 250, 150, 100, 50)
places = [twenty.index(t) for t in visited]


def along(images_of):
    """Fréchet distance to other chains' finals, (3 groups, times)."""

    def distance(c, i, rest):
        h, _ = features.extract(classifier, images_of(c, i))
        return metrics.frechet_distance(h, rest)

    rows = zip(chains, others, strict=True)
    return torch.tensor([[distance(c, i, rest) for i in places] for c, rest in rows])


def left_of(v):
    """Share of the excess over the floor that is left, (times,)."""
    over = v.mean(0) - floors.mean()
    return over / over[0]


prediction = along(lambda c, i: c[i + 1].x0)  # found at time twenty[i]
state = along(lambda c, i: c[i].x)
squares = [[((c[i + 1].x0 - c[-1].x) ** 2).mean() for i in places] for c in chains]
changed = torch.tensor(squares).mean(0)
excess, state_excess = left_of(prediction), left_of(state)
lines = []
for t in (1000, 900, 750, 500, 400, 250, 100, 50):
    i = visited.index(t)
    cell = f"{prediction[:, i].mean():.1f} ± {prediction[:, i].std():.1f}"
    share = changed[i] / changed[0]
    lines.append((t, cell, f"{state[:, i].mean():.0f}", f"{share:.1%}"))
mean = floors.mean()
lines.append(("floor", f"{mean:.1f} ± {floors.std():.1f}", f"{mean:.0f}", ""))
quarter, half = visited.index(250), visited.index(500)
assert excess[quarter] < 0.01 and changed[quarter] < 0.01 * changed[0]
assert excess[half] < 0.02 and changed[half] < 0.05 * changed[0]
assert state_excess[quarter] > 0.1 and state_excess[visited.index(50)] < 0.01
assert (state[:, quarter] > 30 * floors).all()
header = ("t", "Fréchet, prediction", "Fréchet, state", "pixels still to change")
Markdown(markdown(header, lines))

# %% mystnb={"image": {"alt": "Left: curves over time, running from 1000 on the left to 0. The distance of the predictions drops to the floor by the middle of the chain, the distance of the states stays high and drops only in the last quarter, which is shaded. Right: rows of states and predictions of two digits at six times."}} tags=["hide-input"]
fig, (left, right) = plt.subplots(1, 2, figsize=(7.5, 2.9), width_ratios=(1, 1.1))
curves = ((prediction, r"prediction $\hat x_0$"), (state, "state $x_t$"))
for (values, name), colour in zip(curves, (plots.BLUE, plots.ORANGE), strict=True):
    look = {"marker": ".", "label": name, "color": colour}
    left.errorbar(visited, values.mean(0), values.std(0), **look)
left.axvspan(0, 250, color="0.9")
left.axhline(floors.mean(), color="k", ls=":", lw=1)
left.set(xlabel="time t (steps)", ylabel="Fréchet distance", yscale="log")
left.invert_xaxis()
left.legend()
shown = [twenty.index(t) for t in (1000, 900, 750, 500, 250, 50)]
picked = ((chains[0], 3), (chains[1], 8))
tiles = [c[i].x[k] for c, k in picked for i in shown]
tiles += [c[i + 1].x0[k] for c, k in picked for i in shown]
_ = plots.grid(torch.stack(tiles), ncol=6, ax=right)
_ = right.set_title("t = 1000, 900, 750, 500, 250, 50", fontsize=10)

# %% [markdown]
# **Fig. 7.6.** The states improve late, the predictions early. Left, the distance of the state
# $x_t$ (orange) is still more than thirty times the floor when the last quarter (grey) begins,
# because the state carries noise of deviation $\sqrt{1-\bar\alpha_t}$ nearly to the end; the deck's
# measurement agrees. The prediction $\hat x_0$ (blue) has made 98 % of its way when the last *half*
# begins. Right: two rows of states, two of predictions.
#
# So it does not follow that the first 750 steps do little: they settle the digit, and the last 250
# remove the noise that one sees. (DDIM's 250 steps are another thing: they are spread over the
# whole chain.) Two limits. Our classifier knows 28×28 grey digits; on photographs, where texture
# counts, the same measurement may come out differently. And a quarter of the *times* is no natural
# unit: what counts is the noise level reached there, which depends on the schedule.

# %% tags=["hide-input"]
cosine, linear = process, DDPM(schedules.linear(T))
for name, p in (("cosine", cosine), ("linear", linear)):
    t = int((cosine.alpha_bar - p.alpha_bar[250]).abs().argmin())
    level = float(p.std[250] / p.scale[250])
    print(f"{name}, t = 250: noise {level:.2f} of the signal, cosine: at t = {t}")
assert linear.std[250] > 1.3 * cosine.std[250]

# %% [markdown]
# On the *linear* schedule the last 250 steps start where our cosine chain is half-way, and from
# there the table above still leaves less than 2 % of the improvement.
#
# ## Encode, reconstruct, interpolate
#
# A curve can be followed from the data to the noise. With $s<t$, Euler's method in the other
# direction is
#
# $$
# \bar x_t=\bar x_s+(r_t-r_s)\;\hat\varepsilon(x_s,\cdot) ,
# \tag{7.13}
# $$
#
# which takes the noise at the *wrong end* of the step: DDIM will decode with
# $\hat\varepsilon(x_t,t)$, see (3.9). So the round trip does not close exactly. `ddim_invert` asks
# for $\hat\varepsilon$ at $(x_s, t)$ (at $t=0$ a network has nothing to say), and with `refine` > 1
# it asks again at the $x_t$ so found, applies (3.9) again and mixes the result with the guess
# before (Anderson acceleration), which brings it nearer to the exact inverse. Where the calls do
# not suffice it keeps the best guess and warns. Here are 20 real scans that the network has not
# been trained on.

# %%
from ddpmlib.samplers import ddim_invert

digits, _ = zoo.load("digits", device="cpu")
images = data.load("digits")
scans, scan_labels = data.to_float(images.x_test[:20]), images.y_test[:20]


def round_trip(n, refine):
    p, times, y = digits.process, uniform_times(1000, n), scan_labels
    *_, top = ddim_invert(digits, p, scans, times, y=y, refine=refine)
    return top.x, draw(digits, p, top.x, times, eta=0.0, y=y)


# %% tags=["nbval-ignore-output", "hide-input"]
import warnings

trips, missed, lines = {}, {}, []
ways = [(n, 1) for n in (5, 10, 20, 40)] + [(n, 4) for n in (5, 10, 20)]
for n, refine in ways:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trips[n, refine] = round_trip(n, refine)
    said = " ".join(str(warning.message) for warning in caught)
    missed[n, refine] = int(said.split(" for ")[1].split()[0]) if said else 0
wrong = {}
for key, (_, back) in trips.items():
    wrong[key] = ((back - scans) ** 2).flatten(1).mean(1).sqrt()
for n, refine in ways:
    w, (latents, _) = wrong[n, refine], trips[n, refine]
    cell = f"{w.mean():.3f} ± {w.std() / len(w) ** 0.5:.3f}"
    unsolved = missed[n, refine] if refine > 1 else ""
    lines.append((n, n * refine, cell, unsolved, f"{latents.std():.2f}"))
assert wrong[5, 1].mean() > wrong[10, 1].mean() > wrong[40, 1].mean()
assert all(wrong[n, 4].mean() < wrong[n, 1].mean() for n in (5, 10, 20))
assert wrong[5, 4].mean() < wrong[20, 1].mean()  # equal calls: 5 · 4 against 20 · 1
assert wrong[10, 4].mean() < wrong[40, 1].mean()
assert abs(trips[20, 4][0].std() - 1) < 0.1 and missed[5, 4] == 0
header = ("steps", "encoder's calls", "error", "not converged", "std of latents")
Markdown("Reconstruction error, RMS per pixel:\n\n" + markdown(header, lines))

# %% mystnb={"image": {"alt": "Left: five rows of ten 8 by 8 digits: scans, latents that look like noise, reconstructions. Right: reconstruction error against steps on logarithmic axes, falling, the refined encoder below the plain one."}} tags=["hide-input"]
fig, (left, right) = plt.subplots(1, 2, figsize=(7.5, 2.7))
decoded = [trips[key][1] for key in ((5, 1), (5, 4), (20, 4))]
rows = [scans, trips[20, 4][0] / 2, *decoded]
_ = plots.grid(torch.cat([x[:10] for x in rows]), ncol=10, ax=left)
ticks = (5, 10, 20, 40)
for refine, name in ((1, "plain encoder"), (4, "4 calls a step")):
    at = [n for n, calls in ways if calls == refine]
    curve = [wrong[n, refine] for n in at]
    errors = [w.std() / len(w) ** 0.5 for w in curve]
    right.errorbar(at, [w.mean() for w in curve], errors, marker="o", label=name)
right.set(xlabel="steps, each way", xscale="log", yscale="log")
right.set_ylabel("RMS error per pixel")
right.set(xticks=ticks, xticklabels=ticks)
right.minorticks_off()
_ = right.legend()

# %% [markdown]
# **Fig. 7.7.** Encoding and decoding returns the scan, and refining is worth its calls. Left, from
# top to bottom: scans, their latents (20 steps, shown at half contrast), and three decodings: 5
# steps plain, 5 steps refined, 20 steps refined. Right, the plain encoder's error falls with the
# steps; at equal calls of the encoder (5 × 4 against 20, 10 × 4 against 40) refining has the
# smaller error.
#
# At 20 refined steps the latents' standard deviation is within 0.1 of one: a digit has been turned
# into noise from which it can be rebuilt. With $\eta>0$ there is no such code, because the noise
# drawn on the way is not stored anywhere.
#
# ### Between two latents
#
# If a latent is a code, what lies halfway between two codes? Not their average. For independent
# $a,b\sim\mathcal N(0,I_d)$
#
# $$
# \mathbb E\lVert (1-w)\,a+w\,b\rVert^2=\big((1-w)^2+w^2\big)\,d ,
# \tag{7.14}
# $$
#
# (the mixed term averages to zero), at $w=\frac12$ only half of what the network has met at $t=T$.
# In many dimensions Gaussian noise lies near a sphere of radius $\sqrt d$, and a chord cuts through
# its inside. Follow the great circle instead, with $\theta$ the angle between $a$ and $b$:
#
# $$
# \operatorname{slerp}(a,b;w)=\frac{\sin((1-w)\theta)}{\sin\theta}\,a+\frac{\sin(w\theta)}{\sin\theta}\,b .
# \tag{7.15}
# $$
#
# :::{dropdown} Proof: slerp keeps the norm
# For $\lVert a\rVert=\lVert b\rVert$ the squared norm is multiplied by
# $\sin^2((1-w)\theta)+\sin^2(w\theta)+2\sin((1-w)\theta)\sin(w\theta)\cos\theta$ over
# $\sin^2\theta$. The three arcs $(1-w)\theta$, $w\theta$ and $\pi-\theta$ add up to $\pi$, so they
# are the angles of a triangle, and the numerator is $\sin^2\theta$ by its law of cosines. ∎
# :::

# %% mystnb={"image": {"alt": "Four rows of nine digits: a three turning into another three by slerp and by lerp, then an eight likewise. The lerp rows are smoother in the middle. Beside them a curve: the deviation of the latent stays at one for slerp and sags to 0.71 for lerp."}} tags=["hide-input"]
from ddpmlib.samplers import slerp

w = torch.linspace(0, 1, 9)
rows, spread, ten = [], {"slerp": [], "lerp": []}, uniform_times(T, 10)
for k in (3, 8):
    a, b = (x[k].expand(9, -1, -1, -1) for x in starts[:2])
    straight = torch.lerp(a, b, w[:, None, None, None])
    mixtures = {"slerp": slerp(a, b, w), "lerp": straight}
    for name, mixed in mixtures.items():
        labels = torch.full((9,), k)
        rows.append(draw(mnist, process, mixed, ten, eta=0.0, y=labels))
        spread[name].append(mixed.flatten(1).std(1))
fig, (left, right) = plt.subplots(1, 2, figsize=(7.5, 2.5), width_ratios=(2, 1))
_ = plots.grid(torch.cat(rows), ncol=9, ax=left)
for name, values in spread.items():
    right.plot(w, torch.stack(values).mean(0), "o-", label=name)
right.set(xlabel="weight w", ylabel="std of the latent", ylim=(0.6, 1.1))
_ = right.legend()
assert (torch.stack(spread["slerp"]) - 1).abs().max() < 0.07
assert abs(torch.stack(spread["lerp"])[:, 4].mean() - 0.5**0.5) < 0.04
assert min(float(likeness(r[:-1], r[1:]).min()) for r in rows) > 0.6

# %% [markdown]
# **Fig. 7.8.** Nearby latents are nearby digits. Left, a three turns into another three and an
# eight into another eight, label held fixed; rows 1 and 3 by slerp, rows 2 and 4 by lerp (straight
# lines); neighbours correlate above 0.6 everywhere. Right, the standard deviation of the latents
# stays near one on the great circle and falls to $\sqrt{1/2}$ on the chord.
#
# Lerp's middle is legible too, but a latent of too small a norm leads to an image that is closer to
# the average than a sample should be. Seventy pairs show it in the spread of the images within
# their class:

# %% tags=["nbval-ignore-output", "hide-input"]
def variety(x):
    """Mean squared distance of each image to the mean of its class."""
    by_class = x.reshape(-1, 10, x[0].numel())  # (repetition, class, pixels)
    return ((by_class - by_class.mean(0)) ** 2).mean((0, 2))


a, b = starts[1], starts[2]
kinds = {"slerp, w = ½": slerp(a, b, 0.5), "lerp, w = ½": (a + b) / 2}
kinds["fresh noise"] = starts[0]
six, found = uniform_times(T, 6), {}
for name, x in kinds.items():
    found[name] = variety(draw(mnist, process, x, six, eta=0.0, y=y))
slerped, lerped, fresh = found.values()
assert lerped.mean() < 0.85 * slerped.mean()
assert (slerped - fresh).mean().abs() < 2 * (slerped - fresh).std() / 10**0.5
cells = {name: f"{v.mean():.3f} ± {v.std() / 10**0.5:.3f}" for name, v in found.items()}
Markdown(markdown(("latent", "variance within a class"), cells.items()))

# %% [markdown]
# Slerp's midpoints are as varied as fresh samples, within the error; lerp's have lost a fifth of
# their variance.
#
# ## Fresh noise corrects errors: Restart sampling
#
# A deterministic chain carries every error to its end. A chain with fresh noise forgets part of it.
# *Restart sampling* (Xu et al. {cite}`xu2023restart`) uses both: draw with DDIM, noise the result
# back to a time $t$ by the forward process, and redo the chain from there. In the library that is a
# list of times that rises once; the rising step costs no network call.

# %%
down = uniform_times(T, 20)  # 1000, 950, ..., 50, 0
again = down[down.index(500) :]  # 500, 450, ..., 50, 0
once = [*down, *again]  # ... 50, 0, 500, 450, ..., 50, 0

# %% [markdown]
# Why can that help? Suppose that the chain below $t$ is exact. Noising is the same random map for
# samples and data, and no divergence between two distributions grows under it; the flow of the
# exact ODE is invertible and changes none. So redoing can only bring the distribution nearer to
# that of the data. By how much, Gaussian data $x_0\sim\mathcal N(0,c^2)$ tell. The exact curve
# multiplies the whole distribution at $t$ by $c/\sqrt{\bar\alpha_tc^2+1-\bar\alpha_t}$ (exercise
# 7.3), and the noising before it multiplies by $\sqrt{\bar\alpha_t}$. Samples of mean $m$ and
# variance $c^2(1+\delta)$ become
#
# $$
# m_{\text{new}}=\lambda_t\,m,\qquad \delta_{\text{new}}=\lambda_t^2\,\delta,\qquad \lambda_t=\operatorname{Corr}(x_0,x_t)=\frac{\sqrt{\bar\alpha_t}\,c}{\sqrt{\bar\alpha_t\,c^2+1-\bar\alpha_t}}<1 .
# \tag{7.16}
# $$
#
# Ancestral steps do the same without being asked. An error $m_t$ of the mean at time $t$ ends as
# $m_t\,c/\sqrt{\bar\alpha_tc^2+1-\bar\alpha_t}$ after DDIM, and as $\lambda_t$ times that after
# many small ancestral steps from $t$ to 0, since
# $\mathbb E[x_0\mid x_t]=\lambda_t\,\frac{c}{\sqrt{\bar\alpha_tc^2+1-\bar\alpha_t}}\,x_t$. One
# Restart damps errors from above $t$ as much as $\eta=1$ below $t$ does.
#
# What redoing cannot remove is an error of the redone part itself: if each redo adds a mean error
# $b$, the next result has $\lambda_tm+b$, and many of them approach $b/(1-\lambda_t)$, which is
# *larger* than $b$.
#
# Both halves can be seen on the ring of six clusters, where we know the error because we make it:
# the exact denoiser, moved by a fixed vector of length 0.4, either at $t>500$ only or at $t\le500$
# only.

# %% tags=["nbval-ignore-output", "hide-input"]
from ddpmlib.prediction import Prediction

PUSH = torch.tensor([0.4, 0.0])


def pushed(where):
    """The exact denoiser with a known error at the times of `where`."""
    return lambda x, t, y=None: Prediction(exact(x, t).x0 + PUSH * where(t))


def ring_chains(denoiser, seed):
    """Energy distances of chains that share x_T and the error."""
    g, truth = seeded(seed), exact.draw(1500, generator=seeded(100 + seed))
    x_T = torch.randn(1500, 2, generator=g)

    def walk(x, times, eta=0.0):
        return draw(denoiser, process, x, times, eta=eta, generator=g)

    middle = walk(x_T, down[: down.index(500) + 1])
    found = {"DDIM": walk(middle, again)}
    x = found["DDIM"]
    for k in (1, 2, 3, 4):
        x = walk(x, [0, *again])
        if k != 3:
            found[f"Restart × {k}"] = x
    found["η = 1 for t ≤ 500"] = walk(middle, again, eta=1.0)
    found["DDIM, 100 steps"] = walk(x_T, uniform_times(T, 100))
    return {name: energy_distance(x, truth) for name, x in found.items()}


ring = {}
places = {"error at t > 500": lambda t: t > 500, "error at t ≤ 500": lambda t: t <= 500}
for place, where in places.items():
    runs = [ring_chains(pushed(where), seed) for seed in range(6)]
    ring[place] = {name: torch.tensor([run[name] for run in runs]) for name in runs[0]}
above, below = ring.values()
for name in ("Restart × 1", "η = 1 for t ≤ 500"):
    assert ((above["DDIM"] - above[name]) > 0).all()
    assert above[name].mean() < 0.67 * above["DDIM"].mean()
    assert ((below["DDIM"] - below[name]) < 0).all()
chain_of = [above[name].mean() for name in ("DDIM", "Restart × 1", "Restart × 2")]
assert chain_of[1] < chain_of[0] / 2 and chain_of[2] < chain_of[1] / 2
assert above["Restart × 4"].mean() < chain_of[2] / 2
assert below["Restart × 1"].mean() > 2 * below["DDIM"].mean()
assert abs(above["DDIM, 100 steps"].mean() / above["DDIM"].mean() - 1) < 0.1
lines = [(name, *(thousandths(ring[p][name]) for p in places)) for name in above]
Markdown(
    "Energy distance × 1000, mean ± standard deviation of six seeds:\n\n"
    + markdown(("chain", *places), lines)
)

# %% [markdown]
# With the error above 500, each of the first two Restarts halves the energy distance or better,
# $\eta=1$ below 500 takes it down by a third or more, and five times as many DDIM steps change
# nothing. With the error below 500, one Restart more than doubles the distance. So fresh noise is
# no cure for everything: it removes errors of the noisy part of the chain and adds to those of the
# last part.
#
# ### Does the MNIST network profit?
#
# Seven chains of 2,000 digits each, all from the same $x_T$ and with the shipped network
# ($\sigma=\eta\sqrt{\tilde\beta}$): Fréchet distances to the training set in the features of
# `mnist-classifier` and in 50 principal components of the pixels. In brackets stands by how much a
# chain is below DDIM, as a 95 % interval over samples that are redrawn in pairs.

# %% tags=["hide-input"]
from ddpmlib import experiments

for row in experiments.results.rows("restart"):  # two seeds
    gain = {way["method"]: way for way in row["ways"]}
    seen = {m: (w["frechet_gain_interval"], w["pixels_gain_interval"])
            for m, w in gain.items()}
    for name in ("restart", "twice", "late"):
        by_classifier, by_pixels = seen[name]
        assert by_classifier[0] > 0.1 and by_pixels[0] < 0 < by_pixels[1]
    assert seen["more"][0][1] < 0.05 < seen["more"][1][0]
    for name in ("early", "ancestral"):
        assert seen[name][0][0] > 0 and gain[name]["pixels_gain"] < -0.4
    assert seen["ancestral"][1][1] < 0
Markdown(experiments.restart.table())

# %% [markdown]
# By the classifier's features it does: one Restart takes the distance from 0.55 to 0.33 (0.62 to
# 0.30 with a second seed), and $\eta=1$ in the last half alone does as much without a single
# further call. More DDIM steps change it by less than 0.05, so it is not the calls. By the
# components of pixels neither Restart nor late noise changes anything that the intervals can tell
# from zero; there more steps help, and fresh noise in the *first* half raises the distance by 0.65
# (0.40 with the second seed, whose interval just reaches zero). What fresh noise corrects here is
# seen by one kind of features and not by the other, and "DDIM is worse than ancestral sampling"
# holds for the first kind only.
#
# ## Which times should a few steps visit?
#
# With $n$ steps, *which* times? Four spacings are in use: evenly from $T$ ("trailing", our
# `uniform_times`); from $T$ to 1, both included ("linspace", IDDPM's); the multiples of $T/n$
# counted from below ("leading", the DDIM code's first option); quadratic, dense near the data (its
# second; there it stops at $0.8\,T$). The reference this time is real digits, three seeds of 70
# samples, on the features of `digits-classifier`; beside it the mixture, where no network is
# involved.

# %% tags=["nbval-ignore-output", "hide-input"]
from ddpmlib.samplers import leading_times, linspace_times, quadratic_times

spacings = {
    "trailing": uniform_times,
    "linspace": linspace_times,
    "leading": leading_times,
    "quadratic": quadratic_times,
}
digits_classifier, _ = zoo.load("digits-classifier", device="cpu")
real, _ = features.extract(digits_classifier, images.x_train)
unseen, _ = features.extract(digits_classifier, images.x_test)
counts = (5, 10)


def digits_distance(times, seed):
    x = torch.randn(70, 1, 8, 8, generator=seeded(seed))
    x = draw(digits, digits.process, x, times, eta=0.0, y=y)
    return metrics.frechet_distance(features.extract(digits_classifier, x)[0], real)


def both(rule, n):
    found = torch.tensor([digits_distance(rule(1000, n), s) for s in range(3)])
    return found, distances(0.0, rule(T, n), seeds=3)


spaced = {(name, n): both(rule, n) for name, rule in spacings.items() for n in counts}
equals = []
for seed in range(3):  # 7 of each class, as in the samples
    order = torch.randperm(len(unseen), generator=seeded(seed))
    labels = images.y_test[order]
    pick = torch.cat([order[labels == k][:7] for k in range(10)])
    equals.append(metrics.frechet_distance(unseen[pick], real))
lines = []
for name, rule in spacings.items():
    cells = [spaced[name, n] for n in counts]
    on_digits = [f"{c[0].mean():.0f} ± {c[0].std():.0f}" for c in cells]
    lines.append((name, rule(T, 5), *on_digits, *(thousandths(c[1]) for c in cells)))
equals = torch.tensor(equals)
cell = f"{equals.mean():.0f} ± {equals.std():.0f}"
lines.append(("70 unseen scans", "", cell, "", "", ""))
at_5 = {name: spaced[name, 5] for name in spacings}
for name in ("trailing", "linspace", "quadratic"):
    assert ((at_5["leading"][0] - at_5[name][0]) > 5).all()  # seed by seed
    for n in counts:  # far below the spread over seeds
        gap = spaced[name, n][0] - spaced["trailing", n][0]
        assert gap.abs().max() < 2
for name in ("linspace", "quadratic"):
    assert at_5[name][1].min() > 1.5 * at_5["leading"][1].max()
header = ("spacing", "its 5 times", *(f"digits, {n}" for n in counts))
Markdown(markdown((*header, *(f"mixture, {n}" for n in counts)), lines))

# %% mystnb={"image": {"alt": "Two panels against 5 and 10 steps, one curve per spacing with error bars. Left, digits: leading lies far above the other three. Right, the mixture: quadratic and linspace are worst at five steps, leading and trailing best."}} tags=["hide-input"]
fig, axes = plt.subplots(1, 2, figsize=(7.5, 2.7))
for shift, name in enumerate(spacings):
    for part, ax in enumerate(axes):
        cells = [spaced[name, n][part] for n in counts]
        at, errors = [n * 1.03**shift for n in counts], [c.std() for c in cells]
        ax.errorbar(at, [c.mean() for c in cells], errors, marker="o", label=name)
        ax.set(xlabel="steps", xscale="log", xticks=counts, xticklabels=counts)
        ax.minorticks_off()
axes[0].set_ylabel("Fréchet distance, digits")
axes[1].set_ylabel("energy distance, mixture")
_ = axes[0].legend()

# %% [markdown]
# **Fig. 7.9.** A chain should start at $T$. Left, "leading" is far behind on the digits at five
# steps: it starts at $t=801$ and feeds pure noise to a network that expects
# $\sqrt{\bar\alpha_{801}}$ of a mostly *dark* image in it. Right, the mixture has the mean zero,
# and the missing start costs nothing that shows; there the spacings that spend steps near the data
# (linspace, quadratic) are behind.
#
# {cite:t}`lin2024common` found this flaw in large image models, whose pictures could not be very
# dark or very bright. The other three spacings lie within each other's error bars on the digits at
# every count; three seeds of 70 cannot order them, nor tell whether more steps help this small
# network.
#
# ## What goes wrong
#
# Four small edits of one line, six steps, seventy digits each, seven of them shown. `α for ᾱ` is
# the paper's formula with DDPM's table of α. `one bar lost` has the right formula but
# $\sqrt{1-\alpha_s}$ in the direction term. `noise at the end` adds the forward deviation of the
# last stride, $\sqrt{1-\bar\alpha_t}$, at $s=0$ (what $\sigma^2=\beta$ does if nobody forbids it).
# `stale ε` clips $\hat x_0$ to $[-1,1]$, as many libraries do, and keeps the $\hat\varepsilon$ from
# before the clip, so that the two no longer add up to $x_t$.

# %% tags=["nbval-ignore-output", "hide-input"]
bars, alphas = process.alpha_bar.float(), process.alpha.float()


@torch.no_grad()
def edited(x, y, bug="", n=6):
    times, g = uniform_times(T, n), seeded(0)
    for t, s in zip(times[:-1], times[1:], strict=True):
        x0 = mnist(x, t, y).x0
        eps = (x - bars[t].sqrt() * x0) / (1 - bars[t]).sqrt()
        table = alphas if bug == "α for ᾱ" else bars
        if bug == "α for ᾱ":
            x0 = (x - (1 - alphas[t]).sqrt() * eps) / alphas[t].sqrt()
        if bug == "stale ε":
            x0 = x0.clamp(-1, 1)
        along = alphas if bug == "one bar lost" else table
        x = table[s].sqrt() * x0 + (1 - along[s]).sqrt() * eps
        if bug == "noise at the end" and s == 0:
            x = x + (1 - bars[t]).sqrt() * torch.randn(x.shape, generator=g)
    return x


bugs = ("", "α for ᾱ", "one bar lost", "noise at the end", "stale ε")
shown, measured, lines = [], {}, []
for bug in bugs:
    x = edited(starts[0], y, bug)
    h, logits = features.extract(classifier, x)
    distance, agreed = (
        metrics.frechet_distance(h, others[0]),
        metrics.class_agreement(logits, y),
    )
    measured[bug] = distance, agreed, variety(x).mean().item()
    shown.append(x[:7])
    cells = f"{distance:.0f}", f"{agreed:.0%}", f"{measured[bug][2]:.2f}"
    lines.append((bug or "correct", *cells))
right, all_lost, one_lost, noisy, stale = measured.values()
assert all_lost[1] < 0.4 and noisy[0] > 5 * right[0] and noisy[1] < 0.8
assert one_lost[0] > 2 * right[0] and one_lost[1] > 0.95
assert one_lost[2] < 0.15 * right[2]
assert abs(stale[0] - right[0]) < 1 and stale[1] == right[1]
header = ("row", "Fréchet distance", "agreement", "variance within a class")
Markdown(markdown(header, lines))

# %% mystnb={"image": {"alt": "Five rows of seven digits. Correct: varied digits. Alpha for alpha-bar: pure noise. One bar lost: clean but all very ordinary digits. Noise at the end: grainy digits. Stale epsilon: like the correct row."}} tags=["hide-input"]
fig, ax = plt.subplots(figsize=(5.2, 3.7))
_ = plots.grid(torch.cat(shown), ncol=7, ax=ax)

# %% [markdown]
# **Fig. 7.10.** The dangerous bug is the one whose digits look good. From top to bottom: correct;
# α for ᾱ; one bar lost; noise at the end; stale ε. The table gives the numbers of each row.
#
# Row 2 is easy to notice. **Row 3 is not**: each digit is clean, and the classifier reads all of
# them. But they are all the same ordinary digit. States with too little noise in them ask for
# averages, and the variance within a class falls to about a tenth; the agreement cannot see that,
# the Fréchet distance does. Row 5 cannot be told from row 1 here, by distance or agreement. It
# breaks an identity all the same, and `process.step` cannot do so: it takes $\hat x_0$ only, and
# works $\hat\varepsilon$ out itself.
#
# The tests that catch them, in `tests/derivations/test_ch07.py`:
# `test_lost_bars_break_the_marginals` (the check of the first box: perfect predictions in,
# marginals out), `test_no_noise_in_the_last_step_for_any_eta`,
# `test_a_clipped_prediction_brings_its_own_noise`.
#
# ## Exercises
#
# Write your answer into the cell below each question and take the `#` off its last line: the check
# says yes, or gives a hint. ★ asks for a derivation, ★★ for code, ★★★ for a small project of both.
# Solutions are folded.
#
# ### ★ Exercise 7.1: another way to mix noise
#
# Slerp is not the only interpolation that keeps Gaussian noise Gaussian. For independent
# $a,b\sim\mathcal N(0,I)$ find `mix(a, b, w)`, linear in $a$ and $b$ with coefficients in the ratio
# $(1-w):w$, whose distribution is *exactly* $\mathcal N(0,I)$ for every $w$ in $[0, 1]$.
#
# :::{dropdown} Hint
# Equation (7.14) says what the variance is; divide by the right thing.
# :::

# %%
from ddpmlib.teaching import exercises

answer = ...  # a function mix(a, b, w)

# exercises.check("7.1", answer)


# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
# Solution of exercise 7.1: lerp, divided by its own standard deviation
def mix(a, b, w):
    return ((1 - w) * a + w * b) / ((1 - w) ** 2 + w**2) ** 0.5


exercises.check("7.1", mix)

# %% [markdown]
# ### ★★ Exercise 7.2: the chain that keeps nothing of $x_t$
#
# The other end of the family: $\sigma^2=1-\bar\alpha_s$. Write
# `forgetful(denoiser, process, x, times, noise)` where `denoiser(x_t, t)` returns a `Prediction`
# and `noise[s]` is the $z$ of the step that arrives at $s$. What does each step keep of $x_t$?
#
# :::{dropdown} Hint
# Put $\sigma^2=1-\bar\alpha_s$ into (7.2): which term is gone? At $s=0$ the deviation is zero.
# (Sampling with consistency models is done like this.)
# :::

# %%
answer = ...  # a function (denoiser, process, x, times, noise) -> x_0

# exercises.check("7.2", answer)


# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
# Solution of exercise 7.2: only the prediction survives a step
def forgetful(denoiser, process, x, times, noise):
    for t, s in zip(times[:-1], times[1:], strict=True):
        x = float(process.scale[s]) * denoiser(x, t).x0
        if s > 0:
            x = x + float(process.std[s]) * noise[s]
    return x


exercises.check("7.2", forgetful)

# %% [markdown]
# ### ★★ Exercise 7.3: what one Euler step loses
#
# Data $x_0\sim\mathcal N(0,c^2)$, exact denoiser, DDIM. One step multiplies $x_t$ by a number; so
# does the exact ODE, all the way from $r$ to $0$. Give `(one_step, exact)`, two functions of
# $(r_T, c)$: the standard deviation of the samples when $\bar x_T\sim\mathcal N(0,c^2+r_T^2)$ is
# (a) taken to $r=0$ in *one* Euler step and (b) along the exact curve.
#
# :::{dropdown} Hint
# $\mathbb E[\varepsilon\mid\bar x]=\frac{r}{c^2+r^2}\,\bar x$. One step is then a multiplication;
# the ODE $\mathrm d\bar x/\mathrm dr=\frac{r}{c^2+r^2}\bar x$ is solved by separating the
# variables.
# :::

# %%
answer = ...  # (one_step, exact), functions of (r_T, c)

# exercises.check("7.3", answer)


# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
# Solution of exercise 7.3: x̄ (1 − r²/(c²+r²)) = x̄ c²/(c²+r²);
# on the curve x̄ ∝ √(c²+r²)
def one_step(r_T, c):
    return c**2 / (c**2 + r_T**2) ** 0.5


def exact_curve(r_T, c):
    return c


exercises.check("7.3", (one_step, exact_curve))

# %% [markdown]
# ### ★★ Exercise 7.4: Heun's method
#
# Euler's method has order one. **Heun's method** has order two: make the Euler step to $\bar x_s$,
# ask the network again *there*, and repeat the step with the average of both noises. Write
# `heun(eps_net, x, alpha_bar, times)` with `eps_net(x_t, t)` as in exercise 3.4; where $s=0$ there
# is no network to ask again, so keep the Euler step.
#
# :::{dropdown} Hint
# Work in $(r,\bar x)$ with (7.10) and translate back with $x_t=\sqrt{\bar\alpha_t}\,\bar x_t$
# whenever the network is called.
# :::

# %%
answer = ...  # a function (eps_net, x, alpha_bar, times) -> x_0

# exercises.check("7.4", answer)


# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
# Solution of exercise 7.4
def heun(eps_net, x, alpha_bar, times):
    r = ((1 - alpha_bar) / alpha_bar).sqrt()
    for t, s in zip(times[:-1], times[1:], strict=True):
        scale_t, scale_s = alpha_bar[t].sqrt(), alpha_bar[s].sqrt()
        eps = eps_net(x, t)
        x_s = scale_s * (x / scale_t + (r[s] - r[t]) * eps)
        if s > 0:
            eps = (eps + eps_net(x_s, s)) / 2
            x_s = scale_s * (x / scale_t + (r[s] - r[t]) * eps)
        x = x_s
    return x


exercises.check("7.4", heun)

# %% [markdown]
# ### ★★★ Exercise 7.5: where to restart from
#
# A project on the ring of Fig. 7.3. The denoiser below is wrong in two places, strongly at $t>600$
# and weakly at $t\le100$, as a network may be. With 20 DDIM steps and *one* Restart (the times
# `once`, with another number in place of 500), from which of the times 100, 200, …, 900 should one
# restart? Restarting from too low a time corrects little, from too high a time brings the first
# error back.
#
# Measure it: `draws` holds ten starts and the data to compare with; for each time average the
# energy distance over them. Answer with a dictionary from the nine times to the nine averages. The
# check repeats your measurement with noise of its own, wants your numbers within its error, and
# asks which of your times is best.
#
# :::{dropdown} Hint
# `draw(wrong, process, x_T, [*down, *down[down.index(back):]], eta=0.0, generator=g)` is one chain.
# Nine times, ten starts: about twenty seconds.
# :::

# %%
def wrong(x, t, y=None):
    """Exact, but moved by 0.4 at t > 600 and by 0.05 at t ≤ 100."""
    push = 0.4 * (t > 600) + 0.05 * (t <= 100)
    return Prediction(exact(x, t).x0 + push * torch.tensor([1.0, 0.0]))


draws = []
for k in range(10):
    x_T = torch.randn(1000, 2, generator=seeded(k))
    draws.append((x_T, exact.draw(1000, generator=seeded(100 + k))))

# %%
answer = ...  # a dictionary {100: ..., 200: ..., ..., 900: ...}

# exercises.check("7.5", answer)


# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
# Solution of exercise 7.5: the first half of each chain is the same
# for all nine times
g = seeded(5)
averages = dict.fromkeys(range(100, 1000, 100), 0.0)
for x_T, truth in draws:
    end = draw(wrong, process, x_T, down, eta=0.0)
    for back in averages:
        again = [0, *down[down.index(back) :]]
        x = draw(wrong, process, end, again, eta=0.0, generator=g)
        averages[back] += energy_distance(x, truth) / len(draws)

exercises.check("7.5", averages)

# %% [markdown]
# ## Recap
#
# 1. Training sees only $q(x_t\mid x_0)$. Every chain with these marginals may use the trained
#    network, and there is one for each $\sigma$.
# 2. $\sigma$ sets how much of the noise is remembered from step to step. DDPM is the one Markov
#    member, DDIM remembers all; the bounds differ by weights that have nearly the same shape over
#    $t$.
# 3. $\eta=0$ is Euler's method for an ODE in $(r,\bar x)$: error ∝ 1/steps, the same digit for the
#    same noise, one step gives the mean, and the way back encodes.
# 4. On our MNIST model ten steps are as good as twenty, and the last quarter of the chain adds
#    almost nothing to the prediction; it only removes the noise that one sees.
# 5. Fresh noise multiplies earlier errors by $\lambda_t<1$; Restart brings it to DDIM, and which of
#    the chains is "better" depends on the features that measure it.
#
# The equations of this chapter, the functions that implement them, the tests that pin them:

# %% mystnb={"code_prompt_show": "Equations, functions, tests", "code_prompt_hide": "Hide the table"} tags=["hide-cell"]
from ddpmlib import equations

equations.table("07")

# %% [markdown]
# ## Further reading
#
# - Song, Meng & Ermon (2021), *Denoising diffusion implicit models* {cite}`song2021denoising`: mind
#   that their $\alpha_t$ is our $\bar\alpha_t$. Their (7) is our (7.2), Lemma 1 our (7.3), Theorem
#   1 our (7.7), (16) our (7.9), (13) and (14) our (7.10) and (7.11).
# - Xu, Deng, Cheng, Tian, Liu & Jaakkola (2023), *Restart sampling for improving generative
#   processes* {cite}`xu2023restart`: bounds for the two kinds of error, and large models.
# - Ho, Jain & Abbeel (2020), *DDPM* {cite}`ho2020denoising`: section 4.3 on what is decided when
#   along the chain.
# - Shoemake (1985), *Animating rotation with quaternion curves* {cite}`shoemake1985animating`:
#   where slerp comes from.
# - Lin, Liu, Li & Yang (2024), *Common diffusion noise schedules and sample steps are flawed*
#   {cite}`lin2024common`: why a chain should start at $T$.
# - Nichol & Dhariwal (2021), *Improved DDPM* {cite}`nichol2021improved`: strided sampling with
#   learned variances, against DDIM.
# - Salimans & Ho (2022), *Progressive distillation* {cite}`salimans2022progressive`: teaching a
#   network to take two DDIM steps in one, down to a handful.
