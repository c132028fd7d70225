# %% [markdown]
# # 7. DDIM: the same network, fewer steps
#
# [![Open in Colab](../book/_static/colab.svg)](https://colab.research.google.com/github/ddpm-book/ddpm-book/blob/main/notebooks/07_ddim.ipynb)
#
# A network that was trained for a chain of 1,000 noisy steps draws these digits in two to twenty-five calls, without a
# minute of further training. This chapter proves that it may, shows what each call is worth, and what else a chain without fresh noise is good
# for: the same noise gives the same digit, images can be encoded, and codes interpolated.

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

# %% mystnb={"image": {"alt": "Two panels of MNIST digits. Rows are 2, 4, 10 and 25 steps, columns the digits 0 to 9. Left, DDIM: each column keeps its handwriting down the rows. Right, ancestral sampling: each row shows other handwriting."}}
import matplotlib.pyplot as plt
import torch
from ddpmlib import plots, zoo
from ddpmlib.denoiser import FixedVariance
from ddpmlib.samplers import draw, uniform_times

mnist, card = zoo.load("mnist", device="cpu")
process, T = mnist.process, mnist.process.T
mnist = FixedVariance(mnist, 0.0)  # σ is η √β̃ here; chapter 06 learns it


def seeded(seed):
    return torch.Generator().manual_seed(seed)


first_noise = torch.randn(10, *card.image_shape, generator=seeded(1))
fig, axes = plt.subplots(1, 2, figsize=(7.5, 1.8), dpi=62)
for ax, eta, name in zip(
    axes, (0.0, 1.0), ("DDIM, η = 0", "ancestral, η = 1"), strict=True
):
    rows = [
        draw(
            mnist,
            process,
            first_noise,
            uniform_times(T, n),
            eta=eta,
            y=torch.arange(10),
            generator=seeded(n),
        )
        for n in (2, 4, 10, 25)
    ]
    _ = plots.grid(torch.cat(rows), ncol=10, ax=ax, title=name)

# %% [markdown]
# *What to see:* every row starts from the same ten noise images; from top to bottom 2, 4, 10 and 25 network calls. On the left a
# column keeps its handwriting, and more calls only sharpen it: the noise image *is* the digit, in code. On the right the fresh noise
# decides anew each time.
#
# ## Objectives
#
# After this chapter you can
#
# - say which part of the forward process a trained network has seen, and why that leaves the chain free;
# - derive the DDIM family by demanding marginals, prove by induction that it has them, and find DDPM in it;
# - show that the bound of every member is a weighted noise loss plus a constant, with the exact weight;
# - read the deterministic member as Euler's method, and predict from that what one step gives, how the error falls and how to run the chain backwards;
# - sample, encode, reconstruct and interpolate in few steps, and measure what each costs.
#
# ## The idea in a picture
#
# One clean number $x_0 = 1.5$, and three ways to make noise of it. Each path below is a draw of a whole chain $x_1,\dots,x_T$ given the *same* $x_0$.

# %% mystnb={"image": {"alt": "Three panels with paths over time, from 1.5 at time 0 to a wide spread. Left: smooth fans that never cross. Middle: jagged random walks. Right: pure scatter from step to step. The grey band of two standard deviations is the same in all."}}
from ddpmlib.process import DDPM, schedules

chain = DDPM(schedules.cosine(60))


def noise_path(eta, n, seed, x0=1.5):
    """x_T, ..., x_0 of q_σ given x_0; eta None is the largest σ there is."""
    g, x, scale, std = seeded(seed), None, 1.0, 0.0
    path = []
    for t in range(60, 0, -1):
        a_t = float(chain.alpha_bar[t])
        if x is None:
            eps, sigma = torch.randn(n, generator=g), 0.0
        else:  # from x_{t+1} down to x_t, equation (7.2)
            eps = (x - scale * x0) / std
            largest = (1 - a_t) ** 0.5
            sigma = (
                largest
                if eta is None
                else eta * float(chain.beta_tilde[t + 1]) ** 0.5
            )
        scale, std = a_t**0.5, (1 - a_t) ** 0.5
        z = torch.randn(n, generator=g)
        x = scale * x0 + max(std**2 - sigma**2, 0) ** 0.5 * eps + sigma * z
        path.append(x)
    return torch.stack([*path, torch.full((n,), x0)])


names = {0.0: "σ = 0", 1.0: "σ² = β̃ (DDPM)", None: "σ² = 1 − ᾱ (largest)"}
fig, axes = plt.subplots(1, 3, figsize=(7.5, 2.5), sharey=True, dpi=70)
time = torch.arange(60, -1, -1)
mean, std = 1.5 * chain.scale[time], chain.std[time]
for ax, (eta, name) in zip(axes, names.items(), strict=True):
    ax.fill_between(time, mean - 2 * std, mean + 2 * std, color="0.85")
    ax.plot(time, noise_path(eta, 4, seed=2), lw=0.9)
    ax.set(xlabel="time t (steps)", title=name)
    many = noise_path(eta, 20_000, seed=3)
    assert (many.mean(1) - mean).abs().max() < 0.03
    assert (many.std(1) - std).abs().max() < 0.03
_ = axes[0].set_ylabel("$x_t$")

# %% [markdown]
# *What to see:* three different processes, one grey band (mean ± 2 standard deviations, the `assert`s check 20,000 paths). A network is trained on single pictures
# $(x_t, t)$, never on paths. From its training it cannot tell which of the three made them. So *we* may choose, after training, and the
# left one, where nothing is random but the end point, can be walked in a few long strides.
#
# ## The derivation
#
# ### What the loss has seen
#
# Give every time a positive weight $\gamma_t$ and call
#
# $$
# L_\gamma(\theta) = \sum_{t=1}^T \gamma_t\;\mathbb E_{x_0,\;x_t\sim q(x_t\mid x_0)}\;\big\lVert \varepsilon-\varepsilon_\theta(x_t,t)\big\rVert^2,\qquad \varepsilon=\frac{x_t-\sqrt{\bar\alpha_t}\,x_0}{\sqrt{1-\bar\alpha_t}} .
# \tag{7.1}
# $$
#
# With all $\gamma_t=1/T$ this is $L_{\text{simple}}$ of (3.2). Each summand needs the joint distribution of $x_0$ and *one* $x_t$. The distribution of two
# noisy states together, $q(x_s, x_t\mid x_0)$, occurs nowhere. Whatever process has the marginals
# $q(x_t\mid x_0)=\mathcal N(\sqrt{\bar\alpha_t}\,x_0,\,(1-\bar\alpha_t)I)$ has this loss, this minimiser $\mathbb E[\varepsilon\mid x_t]$, and may use this network.
#
# ### All Gaussian chains with these marginals
#
# Build the chain from its noisy end. Let $x_T\sim q(x_T\mid x_0)$, and let each next state be linear in what we have, plus fresh noise $z$: $x_s = a\,x_0+b\,x_t+\sigma z$,
# with $s<t$ (think $s=t-1$). *If* $x_t$ has the right distribution given $x_0$, then $x_s$ is Gaussian with
#
# $$
# \text{mean } \big(a+b\sqrt{\bar\alpha_t}\big)\,x_0,\qquad \text{variance } b^2(1-\bar\alpha_t)+\sigma^2 .
# $$
#
# We demand mean $\sqrt{\bar\alpha_s}\,x_0$ and variance $1-\bar\alpha_s$. Two equations for three unknowns: $\sigma$ stays free. The second gives
# $b=\sqrt{(1-\bar\alpha_s-\sigma^2)/(1-\bar\alpha_t)}$ (the negative root would do too; it flips the noise at each step), the first
# $a=\sqrt{\bar\alpha_s}-b\sqrt{\bar\alpha_t}$. Sorted by meaning,
#
# $$
# q_\sigma(x_s\mid x_t,x_0)=\mathcal N\!\Big(\sqrt{\bar\alpha_s}\,x_0+\sqrt{1-\bar\alpha_s-\sigma^2}\;\frac{x_t-\sqrt{\bar\alpha_t}\,x_0}{\sqrt{1-\bar\alpha_t}},\ \sigma^2I\Big) .
# \tag{7.2}
# $$
#
# The root needs $0\le\sigma^2\le1-\bar\alpha_s$.
#
# **Lemma.** Let $q_\sigma(x_{1:T}\mid x_0)=q(x_T\mid x_0)\prod_{t=2}^{T}q_\sigma(x_{t-1}\mid x_t,x_0)$ with any $\sigma_t$ in that range. Then
#
# $$
# q_\sigma(x_t\mid x_0)=\mathcal N\big(\sqrt{\bar\alpha_t}\,x_0,\ (1-\bar\alpha_t)\,I\big)\qquad\text{for every } t=1,\dots,T .
# \tag{7.3}
# $$
#
# *Proof*, by induction downwards. For $t=T$ it is the definition. Suppose it holds for $t$. Then, given $x_0$, the fraction in (7.2) is
# $\varepsilon\sim\mathcal N(0,I)$, and $x_{t-1}=\sqrt{\bar\alpha_{t-1}}\,x_0+\sqrt{1-\bar\alpha_{t-1}-\sigma_t^2}\;\varepsilon+\sigma_t z$ with $z$ drawn
# independently of $x_t$, hence of $\varepsilon$. A sum of independent Gaussians is Gaussian; its mean is
# $\sqrt{\bar\alpha_{t-1}}\,x_0$, its variance $(1-\bar\alpha_{t-1}-\sigma_t^2)+\sigma_t^2=1-\bar\alpha_{t-1}$. That is the claim for $t-1$. ∎
#
# The proof never used that $t$ and $t-1$ are neighbours. Any falling list of times works, so **skipping steps needs no new theory and no retraining**.
#
# ### What σ decides: how much the past is remembered
#
# Given $x_0$, the covariance of $x_s$ and $x_t$ is $b\,(1-\bar\alpha_t)$. Divide by both standard deviations:
#
# $$
# \rho=\operatorname{Corr}(x_s,x_t\mid x_0)=\sqrt{1-\frac{\sigma^2}{1-\bar\alpha_s}} .
# \tag{7.4}
# $$
#
# $\sigma=0$: correlation one, all states of a path share one $\varepsilon$ (left picture). $\sigma^2=1-\bar\alpha_s$: correlation zero, every state has noise of its own (right).
# And forwards? $(x_s,x_t)$ is a Gaussian pair, so conditioning gives
#
# $$
# q_\sigma(x_t| x_s,x_0)=\mathcal N\big(\sqrt{\bar\alpha_t}x_0+\rho\sqrt{\tfrac{1-\bar\alpha_t}{1-\bar\alpha_s}}(x_s-\sqrt{\bar\alpha_s}x_0),(1-\rho^2)(1-\bar\alpha_t)I\big).
# \tag{7.5}
# $$
#
# In general this contains $x_0$: the forward process is **not Markov**. It is exactly when the two terms with $x_0$ cancel,
# $\sqrt{\bar\alpha_t}=\rho\sqrt{\bar\alpha_s(1-\bar\alpha_t)/(1-\bar\alpha_s)}$, so $1-\rho^2=\frac{\bar\alpha_s-\bar\alpha_t}{\bar\alpha_s(1-\bar\alpha_t)}$, and with (7.4)
#
# $$
# \text{Markov}\iff \sigma^2=(1-\bar\alpha_s)(1-\rho^2)=\frac{1-\bar\alpha_s}{1-\bar\alpha_t}\Big(1-\frac{\bar\alpha_t}{\bar\alpha_s}\Big)=\tilde\beta_{t\to s} .
# \tag{7.6}
# $$
#
# One member of the family is the DDPM of the chapters before: the one with the posterior variance. It is *not* the largest $\sigma$; between
# $\tilde\beta$ and $1-\bar\alpha_s$ there is more randomness still, rarely used (exercise 7.2 does). Sympy on all of it:

# %% tags=["hide-input"]
import sympy as sp

abar_t, abar_s, sig, x0_s, xt_s, xs_s = sp.symbols(
    "abar_t abar_s sigma x_0 x_t x_s", positive=True
)
b = sp.sqrt((1 - abar_s - sig**2) / (1 - abar_t))
a = sp.sqrt(abar_s) - b * sp.sqrt(abar_t)
assert sp.simplify(a + b * sp.sqrt(abar_t) - sp.sqrt(abar_s)) == 0
assert sp.simplify(b**2 * (1 - abar_t) + sig**2 - (1 - abar_s)) == 0
rho = b * sp.sqrt(1 - abar_t) / sp.sqrt(1 - abar_s)
assert sp.simplify(rho**2 - (1 - sig**2 / (1 - abar_s))) == 0
markov = sp.solve(
    sp.Eq(abar_t * (1 - abar_s), rho**2 * abar_s * (1 - abar_t)), sig**2
)
beta_tilde = (1 - abar_s) / (1 - abar_t) * (1 - abar_t / abar_s)
assert len(markov) == 1 and sp.simplify(markov[0] - beta_tilde) == 0
posterior_on_x0 = sp.sqrt(abar_s) * (1 - abar_t / abar_s) / (1 - abar_t)
b_ddpm = sp.sqrt(abar_t / abar_s) * (1 - abar_s) / (1 - abar_t)
assert sp.simplify(b_ddpm**2 - (b**2).subs(sig**2, beta_tilde)) == 0
a_ddpm = sp.sqrt(abar_s) - b_ddpm * sp.sqrt(abar_t)
assert sp.simplify(a_ddpm - posterior_on_x0) == 0
print("the only Markov member has the posterior variance:", len(markov) == 1)

# %% [markdown]
# ### The bound of every member is a noise loss plus a constant
#
# To generate, put the guess for the truth: $p_\theta(x_{t-1}\mid x_t)=q_\sigma(x_{t-1}\mid x_t,\hat x_0(x_t,t))$ for $t\ge2$, and
# $p_\theta(x_0\mid x_1)=\mathcal N(\hat x_0(x_1,1),\sigma_1^2I)$, $p(x_T)=\mathcal N(0,I)$. Jensen's inequality gives, as for DDPM,
# $-\log p_\theta(x_0)\le J_\sigma$ with $J_\sigma=\mathbb E_{q_\sigma}\big[\log q_\sigma(x_{1:T}\mid x_0)-\log p_\theta(x_{0:T})\big]$. Both sides factorise downwards, so the logarithms pair up
# into a KL divergence per step:
#
# $$
# J_\sigma=\mathrm{KL}\big(q(x_T| x_0)\Vert p(x_T)\big)+\sum_{t=2}^T\mathbb E\,\mathrm{KL}\big(q_\sigma(x_{t-1}| x_t,x_0)\Vert p_\theta(x_{t-1}| x_t)\big)-\mathbb E\log p_\theta(x_0| x_1).
# $$
#
# Two Gaussians of equal variance $\sigma_t^2$ are apart by $\lVert\text{difference of means}\rVert^2/2\sigma_t^2$. In (7.2) the means differ by
# $a_t\,(x_0-\hat x_0)$ with $a_t=\sqrt{\bar\alpha_{t-1}}-\sqrt{1-\bar\alpha_{t-1}-\sigma_t^2}\,\sqrt{\bar\alpha_t/(1-\bar\alpha_t)}$. For $t=1$ the log-density has the
# same form with $a_1=1$, plus $\frac d2\log(2\pi\sigma_1^2)$. And (3.4) turns errors of $x_0$ into errors of $\varepsilon$:
# $\lVert x_0-\hat x_0\rVert^2=\frac{1-\bar\alpha_t}{\bar\alpha_t}\lVert\varepsilon-\hat\varepsilon\rVert^2$. Together
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
# with $a_1=1$ (the outer expectation over $x_0$ understood). $C$ holds no $\theta$. A net free to answer at each $t$ on its own has the same optimum for *all* positive weights, so training with equal weights
# trains every member at once. Two honest limits. A real net shares weights between times, so weights matter a little. And as $\sigma\to0$, $\gamma_t\to\infty$: the deterministic member has no
# bound; it is justified by (7.3) alone.
#
# How different are the weights? Put $\sigma_t=\eta\sqrt{\tilde\beta_t}$. For small $\beta_t$, expanding the root in (7.8) gives $a_t\approx\sqrt{\bar\alpha_t}\,\beta_t\,(1+\eta^2)/2(1-\bar\alpha_t)$, so
# compared with DDPM's weight everything is multiplied by one number, $(1+\eta^2)^2/4\eta^2$, *the same at every time*:

# %%
from ddpmlib import losses


def gamma(process, t, eta):  # equation (7.8), t >= 2
    a_t, a_s = process.alpha_bar[t], process.alpha_bar[t - 1]
    sigma2 = eta**2 * process.beta_tilde[t]
    on_x0 = a_s.sqrt() - ((1 - a_s - sigma2) * a_t / (1 - a_t)).sqrt()
    return (1 - a_t) / a_t * on_x0**2 / (2 * sigma2)


times = torch.tensor([10, 100, 300, 500, 700, 900])
ddpm_weight = losses.vlb(process, times)
assert torch.allclose(gamma(process, times, 1.0), ddpm_weight, rtol=1e-6)
print("    η   (1+η²)²/4η²   γ_t(η) / γ_t(1) at t =", times.tolist())
for eta in (1.0, 0.5, 0.2, 0.05):
    ratio = gamma(process, times, eta) / ddpm_weight
    limit = (1 + eta**2) ** 2 / (4 * eta**2)
    assert (ratio / limit - 1).abs().max() < 0.1
    print(
        f"{eta:5.2f} {limit:13.2f}   ", *(f"{r:8.2f}" for r in ratio.tolist())
    )

# %% [markdown]
# At $\eta=1$ the weight is the DDPM bound's own (`losses.vlb`). Smaller $\eta$ demands more of the network everywhere, but not more here than there.
#
# ### Generate: three terms and one knob
#
# With $\hat x_0$ for $x_0$, (7.2) reads *predicted $x_0$* + *direction to $x_t$* + *noise*, which is (3.8). The paper measures $\sigma$ in units of the Markov member,
#
# $$
# \sigma_{t\to s}(\eta)=\eta\,\sqrt{\frac{1-\bar\alpha_s}{1-\bar\alpha_t}}\,\sqrt{1-\frac{\bar\alpha_t}{\bar\alpha_s}},\qquad 0\le\eta\le1,
# \tag{7.9}
# $$
#
# so $\eta=1$ is ancestral sampling, $\eta=0$ is DDIM, and at $s=0$ the range of $\sigma$ shrinks to zero by itself: **no noise in the last step**, whatever $\eta$.
#
# :::{admonition} Mind the slide
# :class: warning
# Two decks mix $\alpha$ and $\bar\alpha$ in this formula. The DDIM paper writes $\alpha_t$ for what everyone else calls $\bar\alpha_t$; copied beside DDPM's tables, half of the bars get lost.
# A dimension-like test helps: put $x_t=\sqrt{\bar\alpha_t}\,x_0+\sqrt{1-\bar\alpha_t}\,\varepsilon$ into the slide's formula with perfect $\hat x_0,\hat\varepsilon$ and demand that $x_s$ has signal² + noise² = 1
# *and* the signal $\sqrt{\bar\alpha_s}$. "What goes wrong" below runs two such formulas; one gives noise, and the other beautiful digits that are wrong.
# :::
#
# ### Look ahead: an ODE
#
# With $\sigma=0$ divide (3.8) by $\sqrt{\bar\alpha_s}$. Write $\bar x_t=x_t/\sqrt{\bar\alpha_t}$ and $r_t=\sqrt{(1-\bar\alpha_t)/\bar\alpha_t}$, the noise per unit of signal. Then
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
# (The chapters on stochastic differential equations start here.) Three consequences, each measured below: the error falls like 1/steps; with the same start all step counts approach the *same* end; and the equation can be integrated backwards.
#
# **One step** is $s=0$, $r_0=0$, from $t=T$:
#
# $$
# x_0^{\text{one step}}=\bar x_T-r_T\,\hat\varepsilon(x_T,T)=\hat x_0(x_T,T)\approx\mathbb E[x_0\mid x_T]\approx\mathbb E[x_0] .
# \tag{7.12}
# $$
#
# ## From scratch, then from the library

# %%
alpha_bar = process.alpha_bar.float()


@torch.no_grad()
def ddim(x, times, y, eta=0.0, generator=None):
    for t, s in zip(times[:-1], times[1:], strict=True):
        a_t, a_s = alpha_bar[t], alpha_bar[s]
        x0 = mnist(x, t, y).x0  # predicted x_0
        eps = (x - a_t.sqrt() * x0) / (1 - a_t).sqrt()
        sigma = eta * ((1 - a_s) / (1 - a_t) * (1 - a_t / a_s)).sqrt()
        x = a_s.sqrt() * x0 + (1 - a_s - sigma**2).clamp(min=0).sqrt() * eps
        if s > 0 and eta > 0:
            x = x + sigma * torch.randn(x.shape, generator=generator)
    return x


x, y = first_noise[:4], torch.arange(4)
for eta in (0.0, 0.6, 1.0):
    ours = ddim(x, uniform_times(T, 8), y, eta, seeded(5))
    theirs = draw(
        mnist,
        process,
        x,
        uniform_times(T, 8),
        eta=eta,
        y=y,
        generator=seeded(5),
    )
    assert (ours - theirs).abs().max() < 0.01
print("ten lines and the library agree for η = 0, 0.6 and 1")

# %% [markdown]
# And equation (7.10), on the library's own step: every DDIM step is a straight line in $(r, \bar x)$.

# %%
from ddpmlib.samplers import sample

states = list(sample(mnist, process, x, uniform_times(T, 8), eta=0.0, y=y))
ratio = (process.std / process.scale).float()
for now, then in zip(states[1:-1], states[2:], strict=True):
    eps = process.eps_from_x0(now.x, then.x0, now.t)
    euler = now.x / process.scale[now.t] + (ratio[then.t] - ratio[now.t]) * eps
    assert torch.allclose(
        euler.float() * process.scale[then.t].float(), then.x, atol=1e-4
    )
print("eight DDIM steps are eight Euler steps")

# %% [markdown]
# ## Few steps, where the truth is known
#
# A mixture of six Gaussians of unequal weight, with its exact denoiser: what goes wrong now is the sampler's fault alone. We compare 1,500 samples with 1,500 draws of the
# truth by the *energy distance* $2\,\mathbb E|X-Y|-\mathbb E|X-X'|-\mathbb E|Y-Y'|$, zero only for equal distributions, estimated without bias (so it may come out slightly negative).

# %% tags=["nbval-ignore-output"]
from ddpmlib import data
from ddpmlib.denoiser import oracle

centres = data.ring_means(6)
weights = torch.tensor([1.0, 2, 3, 1, 2, 3])
exact = oracle.Mixture(process, weights, centres, torch.full((6,), 0.15))


def energy_distance(a, b):
    def within(x):
        return torch.cdist(x, x).sum() / (len(x) * (len(x) - 1))

    return float(2 * torch.cdist(a, b).mean() - within(a) - within(b))


def distances(eta, times, seeds=4):
    found = []
    for seed in range(seeds):
        g = seeded(seed)
        x = draw(
            exact,
            process,
            torch.randn(1500, 2, generator=g),
            times,
            eta=eta,
            generator=g,
        )
        found.append(
            energy_distance(x, exact.draw(1500, generator=seeded(100 + seed)))
        )
    return torch.tensor(found)


steps = (1, 2, 4, 6, 8, 10, 20, 50)
ladder = {
    (eta, n): distances(eta, uniform_times(T, n))
    for eta in (0.0, 0.5, 1.0)
    for n in steps
}
floor = torch.tensor(
    [
        energy_distance(
            exact.draw(1500, generator=seeded(200 + s)),
            exact.draw(1500, generator=seeded(100 + s)),
        )
        for s in range(4)
    ]
)
print("energy distance × 1000, mean ± standard deviation of 4 seeds")
print("steps       η = 0            η = 0.5           η = 1")
for n in steps:
    cells = [ladder[eta, n] for eta in (0.0, 0.5, 1.0)]
    print(
        f"{n:5d}",
        *(f"{1000 * c.mean():9.1f} ± {1000 * c.std():4.1f}" for c in cells),
    )
print(
    f"truth against truth: {1000 * floor.mean():.1f} ± {1000 * floor.std():.1f}"
)
assert ladder[0.0, 4].mean() < ladder[1.0, 4].mean()
assert ladder[0.0, 20].mean().abs() < 0.005 < ladder[0.0, 4].mean()

# %% mystnb={"image": {"alt": "Four scatter plots of DDIM samples of a ring of six clusters with 1, 2, 4 and 10 steps: one dot in the centre, a round blob, a ring of six clusters with bridges between them, six clusters with a few stragglers."}}
x_T = torch.randn(1500, 2, generator=seeded(0))
fig, axes = plt.subplots(1, 4, figsize=(7.5, 2.2), sharey=True, dpi=75)
few = {}
for ax, n in zip(axes, (1, 2, 4, 10), strict=True):
    few[n] = draw(exact, process, x_T, uniform_times(T, n), eta=0.0)
    plots.scatter(few[n], ax, reach=2.2).set_title(f"{n} step{'s' * (n > 1)}")
    ax.set_ylabel("$x_2$" if n == 1 else "")
mean = (weights / weights.sum()) @ centres
assert (few[1] - mean).norm(dim=1).max() < 0.01
assert few[1].std() < 0.01 < 0.5 < few[10].std()

# %% [markdown]
# *What to see:* one step puts **all** points on one dot, the mean of the data, where there are no data at all. Two steps spread them without finding a single cluster, four show the ring with bridges on it, ten have all six
# clusters and a few stragglers. In the table, $\eta$ hardly matters on this easy problem; at four steps the fresh noise costs something, and from twenty on every column is as good as the truth.
#
# :::{admonition} Mind the slide
# :class: warning
# "With $\sigma=0$ the process is deterministic, so we can compute $x_0$ in one step." The first half is right: $x_T$ determines the end of the *curve* (7.11). But one Euler step is not that curve, it is its tangent at the
# start, and (7.12) says where it leads: to the posterior mean, which at $t=T$ is the mean of the data. Deterministic does not mean straight. (Models trained to make the curve straight, or to jump to its end, exist: distillation, consistency models.)
# :::
#
# Now the order. From the same $x_T$ in float64, how far do $n$ steps end from 2,048 steps?

# %% mystnb={"image": {"alt": "Log-log plot of the distance to the fine solution against the number of steps, 1 to 256. From sixteen steps on it runs parallel to a dashed line of slope minus one."}}
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
fig, ax = plt.subplots(figsize=(5, 2.5))
ax.loglog(counts, error, "o-", label="median distance")
ax.loglog(counts, [0.55 / n for n in counts], "k--", lw=0.8, label="1/steps")
ax.set(xlabel="steps", ylabel="distance to the fine solution")
_ = ax.legend()
print(f"measured order between 16 and 128 steps: {order:.1f}")
assert 0.8 < order < 1.2

# %% [markdown]
# *What to see:* after a start that is better than first order promises, the error halves when the steps double. A method of higher order would fall faster; that is the business of the chapter on samplers for ODEs.
#
# ## The same code at scale: a trained DDPM becomes DDIM
#
# There is nothing to train in this chapter, and that is its point. The network below learned to predict the noise, in the form of chapter 03, for a chain of 1,000 steps. We change `times` and `eta`, nothing else.
#
# As reference we walk 280 chains of 20 DDIM steps, in four groups of 70. Distances are Fréchet distances between features of our MNIST classifier (`mnist-classifier`, penultimate layer, 64 numbers). We compare with
# the *model's own* finished samples from other noise, not with real images: so the numbers tell what skipping steps costs, and nothing of how good the network is ([Chapter 08](08_metrics.ipynb) and
# [chapter 09](09_scoreboard.ipynb) ask that). With seventy samples such a distance is far from zero even between equals; that value is the *floor* to look at.

# %% tags=["nbval-ignore-output"]
from ddpmlib.evaluation import features, metrics

classifier, _ = zoo.load("mnist-classifier", device="cpu")
y = torch.arange(10).repeat(7)
starts = [
    torch.randn(len(y), *card.image_shape, generator=seeded(10 + k))
    for k in range(4)
]
chains = [
    list(sample(mnist, process, x, uniform_times(T, 20), eta=0.0, y=y))
    for x in starts
]
finals = [c[-1].x for c in chains]
marks = [features.extract(classifier, x)[0] for x in finals]
others = [torch.cat([m for m in marks if m is not own]) for own in marks]
floors = torch.tensor(
    [
        metrics.frechet_distance(own, rest)
        for own, rest in zip(marks, others, strict=True)
    ]
)
print(
    f"floor, {len(y)} finished against {3 * len(y)} others: {floors.mean():.1f} ± {floors.std():.1f}"
)

# %% [markdown]
# Now fewer steps from the first two groups' noise. Beside the distance, the class agreement, and the **correlation** of pixels with the 20-step image from the same $x_T$. Its baseline is not zero: two different threes of the model also look alike.


# %% tags=["nbval-ignore-output"]
def likeness(a, b):
    """Correlation over the pixels of each pair of images, (B,)."""
    a, b = (x.flatten(1) - x.flatten(1).mean(1, keepdim=True) for x in (a, b))
    return torch.nn.functional.cosine_similarity(a, b)


def mean_and_error(v):
    return f"{v.mean():.2f} ± {v.std() / len(v) ** 0.5:.2f}"


x_T, target = torch.cat(starts[:2]), torch.cat(finals[:2])
labels, reference = torch.cat([y, y]), torch.cat(marks[2:])
baseline = likeness(target, torch.cat(finals[2:]))
few = {}
print(
    "            Fréchet distance ± bootstrap    agreement  likeness to 20 steps"
)
for eta in (0.0, 1.0):
    for n in (1, 2, 4, 10):
        x = draw(
            mnist,
            process,
            x_T,
            uniform_times(T, n),
            eta=eta,
            y=labels,
            generator=seeded(500 + n),  # not the seeds of x_T!
        )
        h, logits = features.extract(classifier, x)
        distance = metrics.frechet_distance(h, reference)
        g = seeded(0)
        again = torch.tensor(
            [
                metrics.frechet_distance(
                    h[torch.randint(len(h), (len(h),), generator=g)], reference
                )
                for _ in range(20)
            ]
        )
        few[eta, n] = (distance, float(again.std()), likeness(x, target))
        print(
            f"η = {eta:.0f} {n:3d} steps {distance:10.1f} ± {again.std():3.1f}"
            f"{metrics.class_agreement(logits, labels):19.1%}"
            f"        {mean_and_error(few[eta, n][2])}"
        )
print(f"likeness of different digits of one class: {mean_and_error(baseline)}")
same = metrics.frechet_distance(torch.cat(marks[:2]), reference)
print(f"20 steps, the same groups: Fréchet distance {same:.1f}")
assert few[0.0, 10][2].mean() > 0.9 > 0.75 > few[1.0, 10][2].mean()
assert few[0.0, 1][0] > 5 * few[0.0, 10][0]
assert few[0.0, 4][2].mean() > few[0.0, 2][2].mean() > few[0.0, 1][2].mean()

# %% mystnb={"image": {"alt": "Two panels over the number of steps from 1 to 10. Left, Fréchet distance, falling steeply to a dotted floor for both samplers. Right, likeness to the 20-step image: DDIM climbs towards one, ancestral sampling falls to the dotted baseline of unrelated digits."}}
fig, axes = plt.subplots(1, 2, figsize=(7.5, 2.6), dpi=78)
for eta, name, colour in (
    (0.0, "DDIM, η = 0", plots.BLUE),
    (1.0, "ancestral, η = 1", plots.ORANGE),
):
    n = [n for e, n in few if e == eta]
    rows = [few[eta, k] for k in n]
    axes[0].errorbar(
        n,
        [r[0] for r in rows],
        [r[1] for r in rows],
        marker="o",
        label=name,
        color=colour,
    )
    axes[1].errorbar(
        n,
        [r[2].mean() for r in rows],
        [r[2].std() / len(r[2]) ** 0.5 for r in rows],
        marker="o",
        color=colour,
    )
axes[0].axhline(same, color="k", ls=":", lw=1)
axes[1].axhline(baseline.mean(), color="k", ls=":", lw=1)
axes[0].set(xlabel="steps", ylabel="Fréchet distance", yscale="log")
axes[1].set(xlabel="steps", ylabel="likeness to 20 steps", ylim=(0, 1.03))
_ = axes[0].legend()

# %% [markdown]
# *What to see:* on the left, ten steps cost next to nothing on this data set, and the two samplers lie within a few error bars of each other. One step is useless: the average digit of its class, (7.12) once more, and two steps are legible but not yet the right crowd. On the right, what only DDIM
# has: **the same noise gives the same digit**, the more exactly the more steps, because all rows approximate one curve. With $\eta=1$ the noise at the start is forgotten, down to the baseline. (That ancestral *two*-step images look more like it than ten-step ones is no merit: in two steps little fresh noise is drawn.)
#
# ## Does the last quarter of the chain do most of the work?
#
# One deck says so: "the last 250 of 1,000 steps matter most". What could be measured? The prediction $\hat x_0(x_t,t)$ at each time is what the chain *knows*. We have kept it for 280 chains. And the state $x_t$, which is what a film of the chain *shows*, goes to the same classifier.

# %% tags=["nbval-ignore-output"]
visited = [s.t for s in chains[0][:-1]]


def along(images_of):
    """Fréchet distance to other chains' finals, (4 groups, times)."""
    return torch.tensor(
        [
            [
                metrics.frechet_distance(
                    features.extract(classifier, images_of(c, i))[0], rest
                )
                for i in range(len(visited))
            ]
            for c, rest in zip(chains, others, strict=True)
        ]
    )


prediction = along(lambda c, i: c[i + 1].x0)  # found at time visited[i]
state = along(lambda c, i: c[i].x)
changed = torch.tensor(
    [
        sum(float(((c[i + 1].x0 - c[-1].x) ** 2).mean()) / 4 for c in chains)
        for i in range(len(visited))
    ]
)
excess = (prediction - floors[:, None]).mean(0)
print("   t  prediction x̂_0     state x_t     pixels still to change")
for i, t in enumerate(visited):
    if t in (1000, 900, 750, 650, 500, 400, 250, 100, 50):
        print(
            f"{t:5d} {prediction[:, i].mean():7.1f} ± {prediction[:, i].std():3.1f}"
            f" {state[:, i].mean():9.0f}        {changed[i] / changed[0]:10.1%}"
        )
quarter = visited.index(250)
print(f"floor {floors.mean():7.1f} ± {floors.std():3.1f}")
print(
    f"share of the prediction's improvement that falls into t <= 250: "
    f"{excess[quarter] / excess[0]:.1%}"
)
assert excess[quarter] / excess[0] < 0.1 and changed[quarter] < 0.1 * changed[0]
assert excess[visited.index(500)] / excess[0] < 0.15

# %% mystnb={"image": {"alt": "Top: curves over time, running from 1000 on the left to 0. The distance of the predictions drops to the floor by the middle of the chain, the distance of the states stays high and drops only in the last quarter, which is shaded. Bottom: rows of predictions and states of five digits at six times."}}
fig, (left, right) = plt.subplots(
    1, 2, figsize=(7.5, 2.7), width_ratios=(1, 1.1), dpi=64
)
for values, name, colour in (
    (prediction, "prediction $\\hat x_0$", plots.BLUE),
    (state, "state $x_t$", plots.ORANGE),
):
    left.errorbar(
        visited,
        values.mean(0),
        values.std(0),
        marker=".",
        label=name,
        color=colour,
    )
left.axvspan(0, 250, color="0.9")
left.axhline(floors.mean(), color="k", ls=":", lw=1)
left.set(xlabel="time t (steps)", ylabel="Fréchet distance", yscale="log")
left.invert_xaxis()
left.legend()
shown = [visited.index(t) for t in (1000, 900, 750, 500, 250, 50)]
tiles = [
    kind(c[i], c[i + 1])[k]
    for kind in (lambda now, then: now.x, lambda now, then: then.x0)
    for c, k in ((chains[0], 3), (chains[1], 8))
    for i in shown
]
_ = plots.grid(torch.stack(tiles), ncol=6, ax=right)
_ = right.set_title("t = 1000, 900, 750, 500, 250, 50", fontsize=9)

# %% [markdown]
# *What to see:* **refuted, for this model.** When the last quarter (grey) begins, the prediction is as good as it will ever be by this measure, and only a small share of its pixels' change is left. Most of the work is done in the noisy half. But look at the orange curve: the *state*
# carries noise of deviation $\sqrt{1-\bar\alpha_t}$ nearly to the end, and the classifier, like the eye, sees digits appear only in the last quarter. On the right, the upper two rows are states and the lower two are predictions. A film of $x_t$ makes the claim look true; a film of $\hat x_0$ shows that it is not.
#
# Two limits of this verdict. Our classifier was trained on 28×28 grey digits and does not care about fine texture; on large photographs texture is decided late, and the same measurement may come out differently. And a quarter of the *times* is no natural unit: what counts is the noise level reached there, and that depends on the schedule.

# %%
cosine, linear = process, DDPM(schedules.linear(T))
for name, p in (("cosine", cosine), ("linear", linear)):
    t = int((cosine.alpha_bar - p.alpha_bar[250]).abs().argmin())
    print(
        f"{name}: at t = 250 the noise is {float(p.std[250] / p.scale[250]):.2f} of the signal, "
        f"as on the cosine schedule at t = {t}"
    )
assert linear.std[250] > 1.3 * cosine.std[250]

# %% [markdown]
# On the *linear* schedule the last 250 steps start at noise about as strong as the signal: that is half of our cosine chain. There the claim is less wrong, because more of the work has been pushed into them; yet even from there on, our table leaves only a few per cent of the improvement.
#
# ## Encode, reconstruct, interpolate
#
# A curve can be walked from the data to the noise. With $s<t$, Euler's method in the other direction is
#
# $$
# \bar x_t=\bar x_s+(r_t-r_s)\;\hat\varepsilon(x_s,\cdot) ,
# \tag{7.13}
# $$
#
# which takes the noise at the *wrong end* of the step: DDIM will decode with $\hat\varepsilon(x_t,t)$, see (3.9). So the round trip does not close exactly. `ddim_invert` asks for $\hat\varepsilon$ at $(x_s, t)$ (at $t=0$ a network has nothing to say), and with `refine` > 1 it asks
# again at the $x_t$ so found, applies (3.9) again and mixes the result with the guess before (Anderson acceleration), which brings it nearer to the exact inverse. Where the calls do not suffice it keeps the best guess and warns; the last lines of the output count these scans. Here are 30 real scans that the network has not been trained on.

# %% tags=["nbval-ignore-output"]
import warnings

from ddpmlib.samplers import ddim_invert

digits, _ = zoo.load("digits", device="cpu")
images = data.load("digits")
scans, scan_labels = data.to_float(images.x_test[:30]), images.y_test[:30]


def round_trip(n, refine):
    times = uniform_times(1000, n)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        *_, top = ddim_invert(
            digits, digits.process, scans, times, y=scan_labels, refine=refine
        )
    said[n, refine] = [
        str(warning.message).split(" within")[0] for warning in caught
    ]
    back = draw(digits, digits.process, top.x, times, eta=0.0, y=scan_labels)
    return top.x, back


said = {}
trips = {
    (n, refine): round_trip(n, refine)
    for n in (5, 10, 20, 40)
    for refine in (1, 4)
}
wrong = {
    key: ((back - scans) ** 2).flatten(1).mean(1).sqrt()
    for key, (_, back) in trips.items()
}
print(
    "error (RMS per pixel)   plain              4 calls per step     latent: mean, std"
)
for n in (5, 10, 20, 40):
    code = trips[n, 4][0]
    print(
        f"{n:3d} steps        ",
        *(
            f"{wrong[n, r].mean():10.3f} ± {wrong[n, r].std() / len(scans) ** 0.5:.3f}"
            for r in (1, 4)
        ),
        f"     {code.mean():12.2f}, {code.std():.2f}",
    )
for n in (5, 10, 20, 40):
    print(f"{n:3d} steps, 4 calls:", *(said[n, 4] or ["all converged"]))
assert wrong[5, 1].mean() > wrong[10, 1].mean() > wrong[40, 1].mean()
assert all(wrong[n, 4].mean() < wrong[n, 1].mean() for n in (5, 10, 20, 40))

# %% mystnb={"image": {"alt": "Left: five rows of ten 8 by 8 digits: scans, latents that look like noise, reconstructions. Right: reconstruction error against steps on logarithmic axes, falling, the refined encoder below the plain one."}}
fig, (left, right) = plt.subplots(1, 2, figsize=(7.5, 2.6), dpi=78)
tiles = [
    scans,
    trips[40, 4][0] / 2,
    trips[5, 1][1],
    trips[5, 4][1],
    trips[40, 4][1],
]
_ = plots.grid(torch.cat([x[:10] for x in tiles]), ncol=10, ax=left)
for refine, name in ((1, "plain encoder"), (4, "refine = 4")):
    curve = [wrong[n, refine] for n in (5, 10, 20, 40)]
    right.errorbar(
        (5, 10, 20, 40),
        [w.mean() for w in curve],
        [w.std() / len(w) ** 0.5 for w in curve],
        marker="o",
        label=name,
    )
right.set(
    xlabel="steps, each way",
    ylabel="RMS error per pixel",
    xscale="log",
    yscale="log",
    xticks=(5, 10, 20, 40),
    xticklabels=(5, 10, 20, 40),
)
right.minorticks_off()
_ = right.legend()

# %% [markdown]
# *What to see:* left, from top to bottom: scans, their latents (40 steps, shown at half contrast), and three decodings: 5 steps plain, 5 steps refined, 40 steps refined. Right: the plain encoder's error falls with the steps; at equal steps refining wins, at four times the price of the encoder. The latents' standard deviation comes close to one: a digit has been turned into noise that
# remembers. With $\eta>0$ nothing of this exists, the noise on the way is not stored anywhere.
#
# ### Between two latents
#
# If a latent is a code, what lies halfway between two codes? Not their average. For independent $a,b\sim\mathcal N(0,I_d)$
#
# $$
# \mathbb E\lVert (1-w)\,a+w\,b\rVert^2=\big((1-w)^2+w^2\big)\,d ,
# \tag{7.14}
# $$
#
# (the mixed term averages to zero), at $w=\frac12$ only half of what the network has met at $t=T$. In many dimensions Gaussian noise lives on a thin shell of radius $\sqrt d$, and a chord leaves the shell. Walk the great circle instead, with $\theta$ the angle between $a$ and $b$:
#
# $$
# \operatorname{slerp}(a,b;w)=\frac{\sin((1-w)\theta)}{\sin\theta}\,a+\frac{\sin(w\theta)}{\sin\theta}\,b .
# \tag{7.15}
# $$
#
# For $\lVert a\rVert=\lVert b\rVert$ the norm stays: the square of the coefficients, $\sin^2((1-w)\theta)+\sin^2(w\theta)+2\sin((1-w)\theta)\sin(w\theta)\cos\theta$, is $\sin^2\theta$, because the three arcs are the angles of a triangle ($(1-w)\theta$, $w\theta$, $\pi-\theta$ add up to $\pi$) and this is its law of cosines.

# %% mystnb={"image": {"alt": "Four rows of nine digits: a three turning into another three by slerp and by lerp, then an eight likewise. The lerp rows are smoother in the middle. Beside them a curve: the deviation of the latent stays at one for slerp and sags to 0.71 for lerp."}}
from ddpmlib.samplers import slerp

w = torch.linspace(0, 1, 9)
rows, spread = [], {"slerp": [], "lerp": []}
for k in (3, 8):
    a, b = (x[k].expand(9, -1, -1, -1) for x in starts[:2])
    for name, mixed in (
        ("slerp", slerp(a, b, w)),
        ("lerp", torch.lerp(a, b, w[:, None, None, None])),
    ):
        labels = torch.full((9,), k)
        rows.append(
            draw(mnist, process, mixed, uniform_times(T, 10), eta=0.0, y=labels)
        )
        spread[name].append(mixed.flatten(1).std(1))
fig, (left, right) = plt.subplots(
    1, 2, figsize=(7.5, 2.4), width_ratios=(2, 1), dpi=62
)
_ = plots.grid(torch.cat(rows), ncol=9, ax=left)
for name, values in spread.items():
    right.plot(w, torch.stack(values).mean(0), "o-", label=name)
right.set(xlabel="weight w", ylabel="deviation of the latent", ylim=(0.6, 1.1))
_ = right.legend()
assert (torch.stack(spread["slerp"]) - 1).abs().max() < 0.07
assert abs(torch.stack(spread["lerp"])[:, 4].mean() - 0.5**0.5) < 0.04

# %% [markdown]
# *What to see:* rows 1 and 3 slerp, rows 2 and 4 lerp, the label held fixed. Both are smooth paths of legible digits: nearby latents are nearby digits, which is more than a random $x_T$ would have promised. Lerp's middle is not garbage, it is *bland*: a latent of too small a norm asks for something more typical than any
# sample should be. Is that so, or is it two pictures? Seventy pairs, and the spread of the images within their class:

# %% tags=["nbval-ignore-output"]
a, b = starts[2], starts[3]
kinds = {
    "slerp, w = ½": slerp(a, b, 0.5),
    "lerp, w = ½": (a + b) / 2,
    "fresh noise": starts[0],
}


def variety(x):
    """Mean squared distance of each image to the mean of its class."""
    by_class = x.reshape(-1, 10, x[0].numel())  # (repetition, class, pixels)
    return ((by_class - by_class.mean(0)) ** 2).mean((0, 2))


found = {
    name: variety(draw(mnist, process, x, uniform_times(T, 8), eta=0.0, y=y))
    for name, x in kinds.items()
}
for name, v in found.items():
    print(
        f"{name:14} variety within a class {v.mean():.3f} ± {v.std() / 10**0.5:.3f}"
    )
assert found["lerp, w = ½"].mean() < 0.85 * found["slerp, w = ½"].mean()

# %% [markdown]
# Slerp's midpoints are as varied as fresh samples; lerp's have lost a good part of their variety. (Slerp is not the only cure: exercise 7.1.)
#
# ## One knob turned: where to spend few steps
#
# With $n$ steps, *which* times? Four spacings are in use: evenly from $T$ ("trailing", our `uniform_times`); from $T$ to 1, both included ("linspace", IDDPM's); the multiples of $T/n$ counted from below ("leading", the DDIM code's first option); quadratic, dense near the data (its second; there it stops at $0.8\,T$). Real digits as reference this time,
# three seeds of 70 samples, on the features of `digits-classifier`; and the mixture beside it, where no network can be blamed.

# %% tags=["nbval-ignore-output"]
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
counts = (5, 10, 20)


def digits_distance(times, seed):
    labels = torch.arange(10).repeat(7)
    x = torch.randn(len(labels), 1, 8, 8, generator=seeded(seed))
    x = draw(digits, digits.process, x, times, eta=0.0, y=labels)
    return metrics.frechet_distance(
        features.extract(digits_classifier, x)[0], real
    )


spaced = {
    (name, n): (
        torch.tensor([digits_distance(rule(1000, n), s) for s in range(3)]),
        distances(0.0, rule(T, n), seeds=3),
    )
    for name, rule in spacings.items()
    for n in counts
}
print("                5 steps: times")
for name, rule in spacings.items():
    print(f"{name:10}", rule(T, 5))
print(
    "\nDDIM       digits: Fréchet distance          mixture: energy distance × 1000"
)
print(
    "steps     ",
    *(f"{n:9d}" for n in counts),
    "   ",
    *(f"{n:10d}" for n in counts),
)
for name in spacings:
    cells = [spaced[name, n] for n in counts]
    print(
        f"{name:10}",
        *(f"{c[0].mean():5.1f}±{c[0].std():3.1f}" for c in cells),
        "    ",
        *(f"{1000 * c[1].mean():6.1f}±{1000 * c[1].std():3.1f}" for c in cells),
    )
equals = []
for seed in range(3):  # 7 of each class, as in the samples
    order = torch.randperm(len(unseen), generator=seeded(seed))
    labels = images.y_test[order]
    pick = torch.cat([order[labels == k][:7] for k in range(10)])
    equals.append(metrics.frechet_distance(unseen[pick], real))
equals = torch.tensor(equals)
print(f"{len(pick)} unseen scans: {equals.mean():.1f} ± {equals.std():.1f}")
assert spaced["leading", 5][0].mean() > 1.5 * spaced["trailing", 5][0].mean()

# %% mystnb={"image": {"alt": "Two panels against 5, 10 and 20 steps, one curve per spacing with error bars. Left, digits: leading lies far above the other three. Right, the mixture: quadratic and linspace are worst at five steps, leading and trailing best."}}
fig, axes = plt.subplots(1, 2, figsize=(7.5, 2.6), dpi=78)
for shift, name in enumerate(spacings):
    for part, ax in enumerate(axes):
        cells = [spaced[name, n][part] for n in counts]
        ax.errorbar(
            [n * 1.03**shift for n in counts],
            [c.mean() for c in cells],
            [c.std() for c in cells],
            marker="o",
            label=name,
        )
        ax.set(xlabel="steps", xscale="log", xticks=counts, xticklabels=counts)
        ax.minorticks_off()
axes[0].set_ylabel("Fréchet distance, digits")
axes[1].set_ylabel("energy distance, mixture")
_ = axes[0].legend()

# %% [markdown]
# *What to see:* on the digits "leading" fails at few steps, and the reason stands in the list of times: it starts at $t=801$ and feeds pure noise to a network that expects $\sqrt{\bar\alpha_{801}}$ of a *dark* image in it. On the mixture, whose mean is almost zero, the same spacing does well: there its missing
# start costs nothing, and it saves the step that does least. Lin et al. found this flaw in large image models: their pictures could not be very dark or very bright. Quadratic and linspace spend steps near the data, where (as the section above showed) little is left to do. Three seeds cannot separate trailing from linspace and quadratic on the digits; do not read an order into overlapping bars. (And more steps do not help this small network at all: with few calls its own errors have less occasion to add up. [Chapter 03](03_ddpm.ipynb) met the same.)
#
# ## What goes wrong
#
# Four small edits of one line, six steps, seventy digits each, seven of them shown. `α for ᾱ` is the paper's formula with DDPM's table of α. `one bar lost` has the right formula but $\sqrt{1-\alpha_s}$ in the direction term. `noise at the end` adds the forward deviation of the last stride, $\sqrt{1-\bar\alpha_t}$, at $s=0$ (what $\sigma^2=\beta$ does if nobody forbids it). `stale ε` clips
# $\hat x_0$ to $[-1,1]$ and keeps the $\hat\varepsilon$ from before the clip, so that the two no longer add up to $x_t$.

# %% mystnb={"image": {"alt": "Five rows of seven digits. Correct: varied digits. Alpha for alpha-bar: pure noise. One bar lost: clean but all very ordinary digits. Noise at the end: grainy digits. Stale epsilon: like the correct row."}} tags=["nbval-ignore-output"]
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
shown, figures = [], {}
for bug in bugs:
    x = edited(starts[0], y, bug)
    h, logits = features.extract(classifier, x)
    figures[bug] = (
        metrics.frechet_distance(h, others[0]),
        metrics.class_agreement(logits, y),
        variety(x).mean().item(),
    )
    shown.append(x[:7])
    print(
        f"{bug or 'correct':17} Fréchet {figures[bug][0]:7.1f}   agreement "
        f"{figures[bug][1]:4.0%}   variety {figures[bug][2]:.3f}"
    )
fig, ax = plt.subplots(figsize=(4.2, 3.0), dpi=72)
_ = plots.grid(torch.cat(shown), ncol=7, ax=ax)
assert figures["α for ᾱ"][1] < 0.4
assert figures["one bar lost"][0] > 2 * figures[""][0]
assert figures["one bar lost"][1] > 0.95
assert figures["one bar lost"][2] < 0.7 * figures[""][2]

# %% [markdown]
# *What to see:* row 2 is easy to notice. **Row 3 is the dangerous one.** Each digit is clean, and the classifier reads them better than the correct ones. But they are all the same ordinary digit: states with too little noise in them ask for averages, and the variety within a class is gone. The eye loves it; the Fréchet distance
# does not. Row 4 is an old film of grain. Row 5 cannot be told from row 1 here: a $v$-network's predictions hardly leave $[-1,1]$, and a library that does this by default goes unpunished on such a model. It is a breach of an identity all the same, and `process.step` cannot commit it: it takes $\hat x_0$ only, and works $\hat\varepsilon$ out itself.
#
# The tests that catch them, in `tests/derivations/test_ch07.py`: `test_lost_bars_break_the_marginals` (the check of the box above: perfect guesses in, marginals out), `test_no_noise_in_the_last_step_for_any_eta`, `test_a_clipped_prediction_brings_its_own_noise`.
#
# ## Exercises
#
# Write your answer into the cell below each question and take the `#` off its last line: the check
# says yes, or gives a hint. ★ asks for a derivation, ★★ for code, ★★★ for a small project of both.
# Solutions are folded.
#
# ### ★ Exercise 7.1
#
# Slerp is not the only interpolation that keeps Gaussian noise Gaussian. For independent $a,b\sim\mathcal N(0,I)$ find `mix(a, b, w)`, linear in $a$ and $b$ with coefficients in the ratio $(1-w):w$, whose distribution is *exactly* $\mathcal N(0,I)$ for every $w$ in $[0, 1]$.
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
# ### ★★ Exercise 7.2
#
# The other end of the family: $\sigma^2=1-\bar\alpha_s$. Write `forgetful(denoiser, process, x, times, noise)` where `denoiser(x_t, t)` returns a `Prediction` and `noise[s]` is the $z$ of the step that arrives at $s$. What does each step keep of $x_t$?
#
# :::{dropdown} Hint
# Put $\sigma^2=1-\bar\alpha_s$ into (7.2): which term is gone? At $s=0$ the deviation is zero. (Sampling with consistency models is done like this.)
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
# ### ★★ Exercise 7.3
#
# Data $x_0\sim\mathcal N(0,c^2)$, exact denoiser, DDIM. One step multiplies $x_t$ by a number; so does the exact ODE, all the way from $r$ to $0$. Give `(one_step, exact)`, two functions of $(r_T, c)$: the standard deviation of the samples when $\bar x_T\sim\mathcal N(0,c^2+r_T^2)$ is (a) taken to $r=0$ in *one* Euler step and (b) along the exact curve.
#
# :::{dropdown} Hint
# $\mathbb E[\varepsilon\mid\bar x]=\frac{r}{c^2+r^2}\,\bar x$. One step is then a multiplication; the ODE $\mathrm d\bar x/\mathrm dr=\frac{r}{c^2+r^2}\bar x$ is solved by separating the variables.
# :::

# %%
answer = ...  # (one_step, exact), functions of (r_T, c)

# exercises.check("7.3", answer)


# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
# Solution of exercise 7.3: x̄ (1 − r²/(c²+r²)) = x̄ c²/(c²+r²); and x̄ ∝ √(c²+r²) on the curve
def one_step(r_T, c):
    return c**2 / (c**2 + r_T**2) ** 0.5


def exact_curve(r_T, c):
    return c


exercises.check("7.3", (one_step, exact_curve))

# %% [markdown]
# ### ★★★ Exercise 7.4
#
# Euler's method has order one. **Heun's method** has order two: make the Euler step to $\bar x_s$, ask the network again *there*, and repeat the step with the average of both noises. Write `heun(eps_net, x, alpha_bar, times)` with `eps_net(x_t, t)` as in exercise 3.4; where $s=0$ there is no network to ask again, so keep the Euler step.
#
# :::{dropdown} Hint
# Work in $(r,\bar x)$ with (7.10) and translate back with $x_t=\sqrt{\bar\alpha_t}\,\bar x_t$ whenever the network is called.
# :::

# %%
answer = ...  # a function (eps_net, x, alpha_bar, times) -> x_0

# exercises.check("7.4", answer)


# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
# Solution of exercise 7.4
def heun(eps_net, x, alpha_bar, times):
    for t, s in zip(times[:-1], times[1:], strict=True):
        scale_t, scale_s = alpha_bar[t].sqrt(), alpha_bar[s].sqrt()
        r_t, r_s = (((1 - alpha_bar[u]) / alpha_bar[u]).sqrt() for u in (t, s))
        eps = eps_net(x, t)
        x_s = scale_s * (x / scale_t + (r_s - r_t) * eps)
        if s > 0:
            eps = (eps + eps_net(x_s, s)) / 2
            x_s = scale_s * (x / scale_t + (r_s - r_t) * eps)
        x = x_s
    return x


exercises.check("7.4", heun)

# %% [markdown]
# ## Recap
#
# 1. Training sees only $q(x_t\mid x_0)$. Every chain with these marginals may use the trained network, and there is one for each $\sigma$.
# 2. $\sigma$ sets how much of the noise is remembered from step to step. DDPM is the one Markov member, DDIM the one that forgets nothing; the bounds differ by weights that have nearly the same shape over $t$.
# 3. $\eta=0$ is Euler's method for an ODE in $(r,\bar x)$: error ∝ 1/steps, the same digit for the same noise, one step gives the mean, and the way back encodes.
# 4. On our MNIST model ten steps are enough, and the last quarter of the chain adds almost nothing to the prediction; it only removes the noise that one sees.
# 5. Interpolate on the sphere, start the chain where the noise really is that of the prior, and distrust clean digits that all look alike.
#
# The equations of this chapter, the functions that implement them, the tests that pin them:

# %% mystnb={"code_prompt_show": "Equations, functions, tests", "code_prompt_hide": "Hide the table"} tags=["hide-cell"]
from ddpmlib import equations

equations.table("07")

# %% [markdown]
# ## Further reading
#
# - Song, Meng & Ermon (2021), *Denoising diffusion implicit models* {cite}`song2021denoising`: mind that their $\alpha_t$ is our $\bar\alpha_t$. Their (7) is our (7.2), Lemma 1 our (7.3), Theorem 1 our (7.7), (16) our (7.9), (13) and (14) our (7.10) and (7.11).
# - Ho, Jain & Abbeel (2020), *DDPM* {cite}`ho2020denoising`: section 4.3 on what is decided when along the chain.
# - Shoemake (1985), *Animating rotation with quaternion curves* {cite}`shoemake1985animating`: where slerp comes from.
# - Lin, Liu, Li & Yang (2024), *Common diffusion noise schedules and sample steps are flawed* {cite}`lin2024common`: why a chain should start at $T$.
# - Nichol & Dhariwal (2021), *Improved DDPM* {cite}`nichol2021improved`: strided sampling with learned variances, against DDIM.
# - Salimans & Ho (2022), *Progressive distillation* {cite}`salimans2022progressive`: teaching a network to take two DDIM steps in one, down to a handful.
