# %% [markdown]
# # 5. Noise schedules
#
# [![Open in Colab](../book/_static/colab.svg)](https://colab.research.google.com/github/ddpm-book/ddpm-book/blob/main/notebooks/05_schedules.ipynb)
#
# How fast should data turn into noise? The answer, a table of a thousand numbers, is called the noise schedule. It has no parameters that are learned, and it decides which noise levels a
# network studies, how many steps a sampler wastes, and whether a picture can come out dark.

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

# %% tags=["hide-input"] mystnb={"image": {"alt": "Left: one handwritten zero under three schedules at eight times from 0 to T. Under linear it is gone by the middle, under sigmoid a little later, under cosine it fades evenly until the end. Right: log-SNR over time; linear falls fastest at first, linear and sigmoid end near minus ten, cosine is flat in the middle and dives at the end."}}
import math

import matplotlib.pyplot as plt
import numpy as np
import sympy as sp
import torch
from ddpmlib import data, equations, losses, zoo
from ddpmlib.denoiser import Denoiser, V, oracle
from ddpmlib.evaluation import features, metrics
from ddpmlib.losses import diffusion_loss
from ddpmlib.models import UNet, UNetConfig
from ddpmlib.process import DDPM, schedules
from ddpmlib.samplers import draw, uniform_times
from ddpmlib.teaching import exercises
from ddpmlib.training import Settings, Trainer, fit

double = {"dtype": torch.float64}
digits = data.load("digits")
x_train = data.to_float(digits.x_train)  # (1442, 1, 8, 8) in [-1, 1]
three = {
    "linear": DDPM(schedules.linear(1000)),
    "sigmoid": DDPM(schedules.sigmoid(1000)),
    "cosine": DDPM(schedules.cosine(1000)),
}
colour = dict(zip(three, (plots.BLUE, plots.GREEN, plots.ORANGE), strict=True))


def seeded(seed):
    """A source of randomness of its own for every cell."""
    return torch.Generator().manual_seed(seed)


times = [0, 100, 200, 300, 450, 600, 750, 900]
noise = torch.randn(1, 1, 8, 8, generator=seeded(1))
strips = [
    p.q_sample(x_train[:1], t, noise) for p in three.values() for t in times
]
fig, (left, right) = plt.subplots(1, 2, figsize=(7.5, 2.6), width_ratios=(3, 2))
plots.grid(torch.cat(strips), ncol=8, ax=left)
left.set_axis_on()
left.set(
    xticks=[9 * i + 3.5 for i in range(8)],
    xticklabels=times,
    yticks=[3.5, 12.5, 21.5],
    yticklabels=list(three),
    xlabel="time $t$",
)
left.grid(False)
left.spines[:].set_visible(False)
for name, p in three.items():
    right.plot(
        schedules.log_snr(p.alpha_bar)[1:], label=name, color=colour[name]
    )
right.set(xlabel="time $t$", ylabel="log-SNR (nats)", ylim=(-14, 10))
_ = right.legend()

# %% [markdown]
# *What to see:* the same digit and the same noise in every row; only the pace differs. Linear has buried the digit by the middle; sigmoid holds it longer and then hurries; both spend their
# last third on noise that becomes more noise. Cosine fades evenly. The right panel is the whole chapter in one picture: **a schedule is a path downhill in log-SNR**. We shall prove that the
# likelihood bound cares only about where the path starts and ends, and measure what cares about the path itself: the noise of the training loss, the weight each noise level
# gets, and the number of steps a sampler wastes. A network that we did not even retrain will skip two fifths of the linear chain for nothing.
#
# ## Objectives
#
# After this chapter you can
#
# - write the linear, the sigmoid and the cosine schedule from memory, and say what happens to each when $T$ changes;
# - prove that the bound in continuous time depends on the end points of the schedule only, and verify it on data with an exact denoiser;
# - read a schedule as an *importance*: which noise levels training and sampling visit, and how a loss weight undoes or sharpens that;
# - translate loss weightings between networks that predict $\varepsilon$, $x_0$ and $v$;
# - tell when a schedule is wrong for an image: too little noise for its size, too much signal left at $T$.
#
# ## The idea in a picture
#
# [Chapter 01](01_forward.ipynb) defined $\operatorname{SNR}_t = \bar\alpha_t/(1-\bar\alpha_t)$ in (1.12), the linear schedule (1.13) and the cosine schedule (1.14). The third one in use lets $\beta_t$
# follow a logistic curve between the same end points,
#
# $$
# \beta_t = \beta_{\text{first}} + \frac{\beta_{\text{last}}-\beta_{\text{first}}}{1+e^{-u_t}}, \qquad u_t = 6\left(\frac{2(t-1)}{T-1}-1\right).
# \tag{5.1}
# $$
#
# All three are a choice of one decreasing sequence, and log-SNR is its natural coordinate. Write $\lambda = \log\operatorname{SNR}$. Solving (1.12) for $\bar\alpha$,
# $e^{\lambda}(1-\bar\alpha) = \bar\alpha$, gives
#
# $$
# \bar\alpha = \frac{1}{1+e^{-\lambda}}, \qquad 1-\bar\alpha = \frac{1}{1+e^{\lambda}}, \qquad \frac{x_t}{\sqrt{\bar\alpha_t}} = x_0 + e^{-\lambda_t/2}\,\varepsilon .
# \tag{5.2}
# $$
#
# The last equation is the heart of the matter: up to a known factor, **a noisy sample knows $\lambda$ and nothing else of the schedule**. $t$ is only a name for a noise level. Two schedules are two ways of
# numbering the same family of noisy distributions. Here is the family for a mixture of three Gaussians on the line, and the three schedules as tick marks on it.

# %% mystnb={"image": {"alt": "Heat map of the density of the noisy variable over log-SNR from 9 down to minus 9: three clusters blur into one bell curve. Below it three rows of tick marks, one per schedule, forty each: linear and sigmoid crowd the noisy end, cosine is spread around zero."}} tags=["hide-input"]
weights = torch.tensor([0.3, 0.5, 0.2], **double)
centres = torch.tensor([-1.2, 0.2, 1.4], **double)
widths = torch.tensor([0.15, 0.25, 0.1], **double)


def from_log_snr(lam):
    """The process that visits these log-SNRs (T,), from high to low."""
    alpha_bar = torch.cat([torch.ones(1, **double), torch.sigmoid(lam)])
    beta = torch.zeros_like(alpha_bar)
    beta[1:] = 1 - alpha_bar[1:] / alpha_bar[:-1]
    return DDPM(beta)


levels = from_log_snr(torch.linspace(9, -9, 181, **double))
family = oracle.Mixture(levels, weights, centres, widths)
x_axis = torch.linspace(-3, 3, 301, **double)
density = torch.stack(
    [family.log_prob(x_axis, t).exp() for t in range(1, levels.T + 1)]
)
fig, (top, bottom) = plt.subplots(
    2, 1, figsize=(6.4, 3), height_ratios=(3, 1), sharex=True
)
top.imshow(
    density.T,
    origin="lower",
    aspect="auto",
    extent=(9, -9, -3, 3),
    cmap="viridis",
    vmax=1,
)
top.set(ylabel="$x_t$", ylim=(-2.6, 2.6))
top.grid(False)
for row, (name, p) in enumerate(three.items()):
    lam = schedules.log_snr(p.alpha_bar)[1::25]
    bottom.plot(lam, torch.full_like(lam, -row), "|", ms=11, color=colour[name])
_ = bottom.set(
    yticks=[0, -1, -2],
    yticklabels=list(three),
    ylim=(-2.7, 0.7),
    xlim=(9, -9),
    xlabel="log-SNR λ (nats), clean on the left, noise on the right",
)

# %% [markdown]
# *What to see:* above, everything that can happen to the data, from three sharp clusters to one bell. Below, where each schedule stops on the way (every 25th of 1000 times). The clusters merge between $\lambda\approx 5$ and $\lambda\approx0$; to the right of $\lambda=-6$ there is nothing left to see, and linear puts nearly a quarter of its times there.
#
# ## The derivation
#
# ### What $T$ does to a linear schedule
#
# Keep $\beta_{\text{first}}=10^{-4}$ and $\beta_{\text{last}}=0.02$ and halve $T$, and the chain stops half-way: [chapter 01](01_forward.ipynb) measured it. Multiply them by $1000/T$ instead, and something converges. With
# $u=t/T\in[0,1]$ each step removes $\beta_t \approx \frac1T\,b(u)$ with $b(u) = 0.1 + 19.9\,u$, because $1000\cdot10^{-4}=0.1$ and $1000\cdot0.02=20$. Then
#
# $$
# \log\bar\alpha_t = \sum_{i\le t}\log(1-\beta_i) = -\sum_{i\le t}\beta_i - \tfrac12\sum_{i\le t}\beta_i^2-\dots
# $$
#
# The first sum is a Riemann sum of $\int_0^u b$; the second has $t$ terms of size at most $(20/T)^2$, so it vanishes like $1/T$, and so do all later ones together. In the limit
#
# $$
# \bar\alpha(u) = \exp\!\left(-\int_0^u b(r)\,\mathrm dr\right) = \exp\!\left(-0.1\,u-9.95\,u^2\right) .
# \tag{5.3}
# $$
#
# At the end that is $\bar\alpha(1) = e^{-10.05}\approx 4.3\cdot10^{-5}$.
#
# The rescaled schedule is the *same path* for every $T$, walked in coarser or finer steps. Cosine has that property by construction: (1.14) is a function of $t/T$.

# %%
print("    T   linear, rescaled   linear, 1e-4 to 0.02   cosine      (ᾱ_T)")
for T in (100, 250, 500, 1000, 4000):
    ends = [
        float(DDPM(beta).alpha_bar[-1])
        for beta in (
            schedules.linear(T),
            schedules.linear(T, 1e-4, 0.02),
            schedules.cosine(T),
        )
    ]
    print(f"{T:5d}   {ends[0]:16.1e}   {ends[1]:20.1e}   {ends[2]:6.0e}")
assert abs(ends[0] / math.exp(-10.05) - 1) < 0.05

# %% [markdown]
# The middle column is the trap. It costs nothing to write `linear(100, 1e-4, 0.02)`, and 36 % of the signal's power is still there at $T$. We come back to it under *What goes wrong*. (Cosine's own $\bar\alpha_T$ is $0.001\,\bar\alpha_{T-1}\approx 0.001\,(\pi/2T)^2$: the clip leaves a thousandth of what the last but one time still had.)
#
# ### How a schedule spends its times
#
# In continuous time a schedule is a decreasing function $\lambda(u)$, $0\le u\le1$. If times are drawn uniformly, or visited at even spacing, the noise levels have the density
#
# $$
# p(\lambda) = \left|\frac{\mathrm du}{\mathrm d\lambda}\right| = \frac{1}{|\lambda'(u)|},
# \tag{5.4}
# $$
#
# high where the path is flat. For the cosine schedule with $s=0$, $\bar\alpha = \cos^2\frac{\pi u}2$, so $\operatorname{SNR} = \cot^2\frac{\pi u}{2}$ and $u = \frac2\pi\arctan e^{-\lambda/2}$. Differentiate:
# $\left|\frac{\mathrm du}{\mathrm d\lambda}\right| = \frac2\pi\cdot\frac{\frac12e^{-\lambda/2}}{1+e^{-\lambda}} = \frac1\pi\cdot\frac{1}{e^{\lambda/2}+e^{-\lambda/2}}$, hence
#
# $$
# \lambda(u) = -2\log\tan\frac{\pi u}{2}, \qquad p(\lambda) = \frac{1}{2\pi\cosh(\lambda/2)} .
# \tag{5.5}
# $$
#
# A bell around $\lambda = 0$, where signal and noise are equal, with tails $e^{-|\lambda|/2}$. For linear, put (5.3) into (1.12): with $B = 0.1u+9.95u^2$, $\lambda = -\log(e^B-1)$, and for $B$ of a few units $\lambda\approx -B$.
# At the noisy end $|\lambda'|\approx 20$ however little is left to destroy.

# %% mystnb={"image": {"alt": "Densities of log-SNR under uniform times for the three schedules: histograms. cosine is a bell centred at zero that lies on its dashed formula; linear peaks near minus 1, sigmoid near plus 3, and both keep a high shoulder down to minus 10."}} tags=["hide-input"]
fig, ax = plt.subplots(figsize=(6.4, 2.7))
bins = torch.linspace(-11, 11, 45)
print("share of the times with   λ > 4   |λ| ≤ 4   λ < -4")
for name, p in three.items():
    lam = schedules.log_snr(p.alpha_bar)[1:]
    ax.hist(
        lam.numpy(),
        bins.numpy(),
        weights=np.full(p.T, 1 / (0.5 * p.T)),
        histtype="step",
        color=colour[name],
        label=name,
    )
    shares = [
        float(m.double().mean()) for m in (lam > 4, lam.abs() <= 4, lam < -4)
    ]
    print(f"{name:>23} {shares[0]:8.2f} {shares[1]:9.2f} {shares[2]:8.2f}")
lam = torch.linspace(-11, 11, 200)
ax.plot(
    lam,
    1 / (2 * math.pi * torch.cosh(lam / 2)),
    "--",
    color="black",
    lw=1,
    label="formula for cosine",
)
ax.set(
    xlabel="log-SNR λ (nats)", ylabel="share of times per nat", xlim=(11, -11)
)
_ = ax.legend()
middle = 2 / math.pi * (math.atan(math.e**2) - math.atan(math.e**-2))
assert abs(shares[1] - middle) < 0.01  # cosine was last in the loop

# %% [markdown]
# *What to see:* cosine gives more than four fifths of its times to the eight nats around zero where digits and noise compete; linear and sigmoid give a third of theirs to the far side of $\lambda=-4$.
#
# The offset $s = 0.008$ is for the other end. Without it the first step would be $\beta_1 = \sin^2(\pi/2T)\approx 2.5\cdot10^{-6}$ at $T=1000$, noise far below one grey level. With it $\sqrt{\beta_1}$ is just below the width of one of the 256 grey levels:

# %%
first = float(three["cosine"].beta[1]) ** 0.5
print(f"√β_1 with s = 0.008:  {first:.4f}   one grey level: {2 / 255:.4f}")
print(f"√β_1 with s = 0:      {schedules.cosine(1000, 0.0)[1] ** 0.5:.4f}")
assert first < 2 / 255 < 2 * first

# %% [markdown]
# ### The bound does not see the path
#
# [Chapter 04](04_elbo.ipynb) splits the bound into a prior term, a decoder term, and one KL divergence for each reverse step. Take one step $t\to s$ with the variance $\tilde\beta_{t\to s}$ in both Gaussians. Then only the means count, $\mathrm{KL} = \lVert\tilde\mu(x_t,x_0)-\tilde\mu(x_t,\hat x_0)\rVert^2/(2\tilde\beta_{t\to s})$.
# By (2.10) the means differ by $\frac{\sqrt{\bar\alpha_s}\,\beta_{t\mid s}}{1-\bar\alpha_t}(x_0-\hat x_0)$, and $\tilde\beta_{t\to s} = \frac{1-\bar\alpha_s}{1-\bar\alpha_t}\beta_{t\mid s}$. So the factor of $\lVert x_0-\hat x_0\rVert^2$ is
#
# $$
# \frac{\bar\alpha_s\,\beta_{t\mid s}^2}{(1-\bar\alpha_t)^2}\cdot\frac{1-\bar\alpha_t}{2(1-\bar\alpha_s)\,\beta_{t\mid s}} = \frac{\bar\alpha_s\,\beta_{t\mid s}}{2(1-\bar\alpha_t)(1-\bar\alpha_s)} = \frac{\bar\alpha_s-\bar\alpha_t}{2(1-\bar\alpha_t)(1-\bar\alpha_s)},
# $$
#
# where the last step used $\beta_{t\mid s} = 1-\bar\alpha_t/\bar\alpha_s$. And this is a difference of two signal-to-noise ratios: $\frac{\bar\alpha_s}{1-\bar\alpha_s}-\frac{\bar\alpha_t}{1-\bar\alpha_t} = \frac{\bar\alpha_s(1-\bar\alpha_t)-\bar\alpha_t(1-\bar\alpha_s)}{(1-\bar\alpha_s)(1-\bar\alpha_t)} = \frac{\bar\alpha_s-\bar\alpha_t}{(1-\bar\alpha_s)(1-\bar\alpha_t)}$. So
#
# $$
# L_{t\to s} = \tfrac12\left(\operatorname{SNR}_s-\operatorname{SNR}_t\right)\,\mathrm E\,\lVert x_0-\hat x_0(x_t,t)\rVert^2 .
# \tag{5.6}
# $$
#
# Sum over a chain. By (5.2) the error of a denoiser depends on the noise level only, so write it $\operatorname{mse}(\operatorname{SNR})$. Then $\sum L_{t\to s}$ is a sum of *interval length times a function value at the interval's noisy end*: a Riemann sum over the SNR axis. As the steps shrink it tends to
#
# $$
# L_\infty = \tfrac12\int_{\operatorname{SNR}_{\min}}^{\operatorname{SNR}_{\max}} \operatorname{mse}(r)\,\mathrm dr .
# \tag{5.7}
# $$
#
# **The path is gone.** Time has become a variable of integration, and only the end points are left; this is the result of Kingma et al. (2021). The same in the words of training: draw $u$ uniformly, and (5.7) with $r = e^{\lambda(u)}$, $\mathrm dr = e^{\lambda}\lambda'\,\mathrm du$ and
# $\operatorname{SNR}\cdot\lVert x_0-\hat x_0\rVert^2=\lVert\varepsilon-\hat\varepsilon\rVert^2$ (shown in (5.13) below) reads
#
# $$
# L_\infty = \tfrac12\int_0^1 |\lambda'(u)|\,\mathrm E\lVert\varepsilon-\hat\varepsilon\rVert^2\,\mathrm du = \tfrac12\int_{\lambda_{\min}}^{\lambda_{\max}} \mathrm E\lVert\varepsilon-\hat\varepsilon\rVert^2\,\mathrm d\lambda .
# \tag{5.8}
# $$
#
# Two remarks. *First*, the ideal error grows as SNR falls (a noisier observation cannot help to guess better: add noise to the clearer one and you have the other). The sum takes each interval's worse end, so a finite chain lies *above* $L_\infty$, and refining it can only lower it. *Second*, for Gaussian data everything is explicit.
# Given $x_t/\sqrt{\bar\alpha_t} = x_0+e^{-\lambda/2}\varepsilon$ and $x_0\sim\mathcal N(0,c^2)$, precisions add: $\operatorname{mse}(r) = (c^{-2}+r)^{-1} = \frac{c^2}{1+c^2r}$, and
#
# $$
# L_\infty = \tfrac12\log\frac{1+c^2\operatorname{SNR}_{\max}}{1+c^2\operatorname{SNR}_{\min}}
# \tag{5.9}
# $$
#
# per coordinate. That is what $x_t$ at the clean end knows about $x_0$ more than at the noisy end, in nats: since $\mathrm I(x_0;x_t) = \frac12\log(1+c^2\operatorname{SNR}_t)$. (For any data the derivative of the mutual information by SNR is half the ideal error: Guo, Shamai & Verdú, 2005.)

# %% tags=["hide-input"]
a_t, a_s, c, r, u = sp.symbols("alphabar_t alphabar_s c r u", positive=True)
beta_ts = 1 - a_t / a_s
on_x0 = sp.sqrt(a_s) * beta_ts / (1 - a_t)
beta_tilde = (1 - a_s) / (1 - a_t) * beta_ts
half_difference = (a_s / (1 - a_s) - a_t / (1 - a_t)) / 2
assert sp.simplify(on_x0**2 / (2 * beta_tilde) - half_difference) == 0
low, high = sp.symbols("r_min r_max", positive=True)
integral = sp.integrate(c**2 / (1 + c**2 * r) / 2, r)
closed = sp.log((1 + c**2 * high) / (1 + c**2 * low)) / 2
gap = integral.subs(r, high) - integral.subs(r, low) - closed
assert sp.simplify(sp.expand_log(gap, force=True)) == 0
cosine_path = -2 * sp.log(sp.tan(sp.pi * u / 2))
speed = -sp.diff(cosine_path, u) - 2 * sp.pi * sp.cosh(cosine_path / 2)
assert abs(speed.subs(u, sp.Rational(3, 10)).evalf()) < 1e-12
print("weight of a step, Gaussian bound, density of cosine: checked")

# %% [markdown]
# Now the check on data that are not Gaussian. Three paths between the *same* end points, $\lambda = 9$ and $\lambda=-9$: linear and cosine, each cut to that range, and a straight line in $\lambda$. The exact denoiser of the mixture above stands for the network, its error at every level is an integral over the line, and the weights come from the library
# (`losses.vlb`, on $x_0$).

# %%
HIGH, LOW = 9.0, -9.0


def linear_lam(u):
    return -torch.log(torch.expm1(0.1 * u + 9.95 * u**2))


def linear_u(lam):  # the positive root of 9.95 u² + 0.1 u = log(1 + e^-λ)
    B = torch.nn.functional.softplus(-lam)
    return (-0.1 + (0.01 + 4 * 9.95 * B).sqrt()) / (2 * 9.95)


def cosine_lam(u):
    return -2 * torch.log(torch.tan(math.pi * u / 2))


def cosine_u(lam):
    return 2 / math.pi * torch.atan(torch.exp(-lam / 2))


paths = {
    "linear": (linear_lam, linear_u),
    "cosine": (cosine_lam, cosine_u),
    "straight": (lambda u: HIGH - (HIGH - LOW) * u, lambda v: (HIGH - v) / 18),
}


def chain(name, T):
    """T times evenly spaced along a path from λ = 9 to λ = -9."""
    lam_of, u_of = paths[name]
    first, last = (float(u_of(torch.tensor(v, **double))) for v in (HIGH, LOW))
    return from_log_snr(lam_of(torch.linspace(first, last, T, **double)))


def least_error(p, t):
    """E|x_0 - E[x_0|x_t]|² of the mixture at time t, by quadrature."""
    x = torch.linspace(-6, 6, 1201, **double)
    mixture = oracle.Mixture(p, weights, centres, widths)
    q = mixture.log_prob(x, t).exp()
    power = (weights * (widths**2 + centres**2)).sum()
    return power - (q * mixture(x, t).x0 ** 2).sum() * (x[1] - x[0])


def steps_of_bound(p):
    """Σ L_{t→t-1} over t = 2..T, in nats."""
    t = torch.arange(2, p.T + 1)
    mse = torch.stack([least_error(p, int(k)) for k in t])
    return float((losses.on_x0(losses.vlb, p, t) * mse).sum())


# The integral itself: 100 Gauss-Legendre nodes in λ
nodes, node_weights = np.polynomial.legendre.leggauss(100)
lam = torch.tensor(-9 * nodes)  # from +9 down to -9
at_nodes = from_log_snr(lam)
mse = torch.stack([least_error(at_nodes, t) for t in range(1, 101)])
L_inf = float((torch.tensor(9 * node_weights) * 0.5 * lam.exp() * mse).sum())
print(f"L_∞ = {L_inf:.3f} nats")

Ts = (16, 64, 256, 1024)
excess = {n: [steps_of_bound(chain(n, T)) - L_inf for T in Ts] for n in paths}
print("excess over L_∞     " + "".join(f"T = {T:<9d}" for T in Ts))
for name, row in excess.items():
    print(f"{name:19} " + "".join(f"{v:<13.3f}" for v in row))
    assert all(v > 0 for v in row)  # a finite chain lies above
    assert 3 < row[-2] / row[-1] < 6  # four times the steps, about a quarter

# %% [markdown]
# All three fall to the same number, the excess shrinking like $1/T$. But how much is left at a given $T$ differs a great deal: with 64 steps the linear path still pays several times the bound itself, because its first steps, at the clean end, are enormous in SNR. "Depends on the end points only" is a statement about the limit.

# %% mystnb={"image": {"alt": "Left: excess of the bound over its limit against the number of steps, both logarithmic; three falling lines, linear highest, straight lowest. Right: the integrand, half the expected noise error over log-SNR: one half at the clean end, a dip and a hump, then down to zero at the noisy end; the shaded area below it is the bound."}} tags=["hide-input"]
path_colour = colour | {"straight": plots.PURPLE}
fig, (left, right) = plt.subplots(1, 2, figsize=(7.5, 2.7))
for name, row in excess.items():
    left.loglog(Ts, row, "o-", color=path_colour[name], label=name)
left.set(xlabel="steps $T$", ylabel="$L_T - L_\\infty$ (nats)")
left.set_xticks(Ts, labels=Ts)
left.minorticks_off()
left.legend()
height = 0.5 * lam.exp() * mse
right.plot(lam, height, color="black", lw=1)
right.fill_between(lam, height, color=plots.SKY, alpha=0.4)
_ = right.set(
    xlabel="log-SNR λ (nats)",
    ylabel=r"½ E|ε − ε̂|²",
    xlim=(9, -9),
    title=f"area = {L_inf:.2f} nats",
    ylim=(0, None),
)

# %% [markdown]
# *What to see:* left, three lines whose slope tends to −1, at very different heights. Right, the curve under which the bound is the area; a schedule decides how densely we sample this curve, never the area. At the clean end the curve is flat at ½: when the noise is far smaller than the clusters it cannot be told from the data, and each further nat of log-SNR costs half a nat per coordinate, forever. That is why the
# bound of *continuous* data needs an end point ($\lambda_{\max}$), and why the decoder of chapter 04 exists.
#
# ### What the path does change: the noise of the estimate
#
# Training never computes the area. It draws one $u$ per sample. The one-sample estimate is $\frac12|\lambda'(u)|\,\lVert\varepsilon-\hat\varepsilon\rVert^2$, whose mean is $L_\infty$ for every path. Its second moment is not. With $m(\lambda) = \mathrm E\lVert\varepsilon-\hat\varepsilon\rVert^4$,
# $\int_0^1\frac14\lambda'^2\,m\,\mathrm du = \frac14\int|\lambda'|\,m\,\mathrm d\lambda$, and $|\lambda'| = 1/p$ by (5.4):
#
# $$
# \operatorname{Var} = \tfrac14\int_{\lambda_{\min}}^{\lambda_{\max}}\frac{m(\lambda)}{p(\lambda)}\,\mathrm d\lambda - L_\infty^2 .
# \tag{5.10}
# $$
#
# Which path is best? By Cauchy–Schwarz $\left(\int\!\sqrt m\right)^2 = \left(\int\!\sqrt{m/p}\cdot\sqrt p\right)^2\le\int\! m/p\;\cdot\int\! p = \int\! m/p$, with equality exactly when $\sqrt{m/p}$ is a multiple of $\sqrt p$:
#
# $$
# p^*(\lambda) = \frac{\sqrt{m(\lambda)}}{\int\!\sqrt{m}}, \qquad \operatorname{Var}_{\min} = \tfrac14\left(\int\!\sqrt{m(\lambda)}\,\mathrm d\lambda\right)^2 - L_\infty^2 .
# \tag{5.11}
# $$
#
# Spend times where the loss is large, more exactly in proportion to its root mean square. Kingma et al. let a small network *learn* this schedule; [chapter 06](06_iddpm.ipynb) gets the same effect by importance sampling of $t$. Both are (5.11).

# %%
n = 40_000
g = seeded(0)
k = torch.multinomial(weights, n, replacement=True, generator=g)
x0 = centres[k] + widths[k] * torch.randn(n, generator=g, **double)
eps = torch.randn(n, generator=g, **double)


def one_draw_estimates(p):
    """(T-1) · L_{t→t-1} at one random t in 2..T for each sample, in nats."""
    t = torch.randint(2, p.T + 1, (n,), generator=seeded(1))
    mixture = oracle.Mixture(p, weights, centres, widths)
    error = x0 - mixture(p.q_sample(x0, t, eps), t).x0
    return (p.T - 1) * losses.on_x0(losses.vlb, p, t) * error**2


root_m = []  # √m at the nodes, by Monte Carlo
for t in range(1, 101):
    mixture = oracle.Mixture(at_nodes, weights, centres, widths)
    error = x0[:8000] - mixture(at_nodes.q_sample(x0, t, eps)[:8000], t).x0
    root_m.append(lam[t - 1].exp() * (error**4).mean().sqrt())
root_m = torch.stack(root_m)
area = float((torch.tensor(9 * node_weights) * root_m).sum())
least = (area**2 / 4 - L_inf**2) ** 0.5

# the optimal path: equal shares of the area under √m
cdf = torch.cat([torch.zeros(1, **double), root_m]).cumsum(0)[1:]
cdf = (cdf - cdf[0]) / (cdf[-1] - cdf[0])
best_lam = np.interp(np.linspace(0, 1, 1000), cdf.numpy(), lam.numpy())
candidates = {name: chain(name, 1000) for name in paths}
candidates["optimal"] = from_log_snr(torch.tensor(best_lam))
spread = {}
print("path        mean of one-draw estimates    standard deviation")
for name, p in candidates.items():
    found = one_draw_estimates(p)
    spread[name] = float(found.std())
    error = spread[name] / n**0.5
    print(f"{name:10} {found.mean():11.2f} ± {error:.2f} {spread[name]:23.0f}")
    assert abs(float(found.mean()) - L_inf) < 4 * error + 0.6
print(f"least possible, by the formula {least:26.0f}")
assert spread["linear"] > spread["cosine"] > spread["straight"]
assert spread["optimal"] < 1.05 * spread["straight"]

# %% [markdown]
# The same mean (the linear one is higher by its excess at $T=1000$), and standard deviations that differ by a factor of more than four. To reach the same standard error the linear path needs its *square* as many samples. The optimal path saves another fifth against the straight one. The rest is not the choice of $t$ but the spread of
# $\varepsilon$ itself, which no path can remove.
#
# ### Weight times density: the loss one really trains
#
# Nobody trains images on the bound alone. With a weight $w(\lambda)$ on the $\varepsilon$-error and uniform times, training minimises
#
# $$
# L_w = \mathrm E_u\!\left[w\;\lVert\varepsilon-\hat\varepsilon\rVert^2\right] = \int p(\lambda)\,w(\lambda)\;\mathrm E\lVert\varepsilon-\hat\varepsilon\rVert^2\,\mathrm d\lambda .
# \tag{5.12}
# $$
#
# Only the *product* $p\,w$ matters for what is learned. $L_{\text{simple}}$ has $w=1$: then **the schedule is the weighting**. The bound (5.8) has $p\,w=\frac12$ everywhere. So a change of schedule from $p_A$ to $p_B$ can be undone, in expectation, by $w_B = w_A\,p_A/p_B$, and what remains of the schedule is the variance (5.10) and the steps of the sampler. When a paper reports that
# schedule B beats A with $L_{\text{simple}}$, two things changed at once.
#
# Weights are stated for the $\varepsilon$-error in one paper, for $x_0$ or $v$ in another. With one prediction, $\sqrt{\bar\alpha}\,x_0+\sqrt{1-\bar\alpha}\,\varepsilon = x_t = \sqrt{\bar\alpha}\,\hat x_0+\sqrt{1-\bar\alpha}\,\hat\varepsilon$, so $\varepsilon-\hat\varepsilon = -\frac{\sqrt{\bar\alpha}}{\sqrt{1-\bar\alpha}}(x_0-\hat x_0)$, and
# $v-\hat v = \sqrt{\bar\alpha}\,(\varepsilon-\hat\varepsilon)-\sqrt{1-\bar\alpha}\,(x_0-\hat x_0) = \left(\sqrt{\bar\alpha}+\frac{1-\bar\alpha}{\sqrt{\bar\alpha}}\right)(\varepsilon-\hat\varepsilon) = \frac{1}{\sqrt{\bar\alpha}}(\varepsilon-\hat\varepsilon)$:
#
# $$
# \lVert\varepsilon-\hat\varepsilon\rVert^2 = \operatorname{SNR}\,\lVert x_0-\hat x_0\rVert^2 = \bar\alpha\,\lVert v-\hat v\rVert^2 .
# \tag{5.13}
# $$
#
# Multiply each weight accordingly:
#
# | weighting (`ddpmlib.losses`) | on $\varepsilon$ | on $x_0$ | on $v$ |
# |:--|:--|:--|:--|
# | `simple` (Ho et al. 2020) | $1$ | $\operatorname{SNR}$ | $\bar\alpha$ |
# | `vlb`, exact bound, $\operatorname{SNR}^-$ one step before | $\frac12(\operatorname{SNR}^-\!/\operatorname{SNR}-1)$ | $\frac12(\operatorname{SNR}^--\operatorname{SNR})$ | $\frac12(1-\bar\alpha)(\operatorname{SNR}^--\operatorname{SNR})$ |
# | `uniform_on_x0` | $1/\operatorname{SNR}$ | $1$ | $1-\bar\alpha$ |
# | `truncated_snr` (Salimans & Ho 2022) | $\max(1, 1/\operatorname{SNR})$ | $\max(\operatorname{SNR},1)$ | $\max(\bar\alpha,1-\bar\alpha)$ |
# | `min_snr(γ)` (Hang et al. 2023) | $\min(1,\gamma/\operatorname{SNR})$ | $\min(\operatorname{SNR},\gamma)$ | $\min(\bar\alpha,\gamma(1-\bar\alpha))$ |
# | a plain $v$-loss | $1/\bar\alpha$ | $1+\operatorname{SNR}$ | $1$ |

# %% mystnb={"image": {"alt": "Two panels of importance over log-SNR on logarithmic axes. Left, one weighting and three schedules: the simple loss under linear, sigmoid and cosine times. Right, cosine times with five weightings: simple is the bell, the bound is flat, min-SNR falls on the clean side, plain x0 rises on the noisy side, plain v too."}} tags=["hide-input"]
fig, (left, right) = plt.subplots(1, 2, figsize=(7.5, 2.9), sharey=True)


def importance(weighting, p):
    """p(λ) w(λ) at the middle of each step t = 2..T."""
    lam = schedules.log_snr(p.alpha_bar)[1:]
    t = torch.arange(2, p.T + 1)
    return lam[1:], weighting(p, t) / (lam[:-1] - lam[1:]) / p.T


for name, p in three.items():
    left.semilogy(*importance(losses.simple, p), color=colour[name], label=name)
left.set(title="simple loss, three schedules", ylabel="importance $p\\,w$")
for label, weighting in {
    "simple": losses.simple,
    "bound": lambda p, t: losses.vlb(p, t) * p.T,
    "min-SNR(5)": losses.min_snr(5),
    "plain $x_0$": losses.uniform_on_x0,
    "plain $v$": lambda p, t: 1 / p.alpha_bar[t],
}.items():
    right.semilogy(*importance(weighting, three["cosine"]), label=label)
right.set(title="cosine, five weightings", ylim=(1e-3, 100))
for ax in (left, right):
    ax.set(xlabel="log-SNR λ (nats)", xlim=(10, -10))
    ax.legend(fontsize=8, loc="upper left", ncols=2)
lam_c, flat = importance(losses.vlb, three["cosine"])
inner = lam_c.abs() < 6
assert float((flat[inner] * 1000 / 0.5 - 1).abs().max()) < 0.1

# %% [markdown]
# *What to see:* left, the three schedules *are* three weightings. Right, one schedule and five weights: the bound is a horizontal line at ½, as (5.8) says; $L_{\text{simple}}$ turns the clean end down; min-SNR turns it down further; losses on $x_0$ and on $v$ turn the noisy end up.
#
# :::{admonition} Mind the slide
# :class: warning
# One deck calls cosine and linear "learning-rate schedulers". They are *noise* schedules: $\beta_t$ is a variance, $t$ counts the steps of the forward process, and all $t$ occur in every batch. A learning-rate schedule counts optimiser updates; that ours, too, ends with half a cosine is a coincidence of shapes. The two meet nowhere in the code: `schedules.cosine(T)` and `Settings.lr_at(step)`.
# :::
#
# ### Larger images need more noise
#
# Noise is independent from pixel to pixel; neighbouring pixels of a picture are nearly equal. Average blocks of $n\times n$: the signal stays, the variance of the noise falls by $n^2$. So the *same* $\lambda$ leaves $n^2$ times the SNR for everything coarser than the blocks. To destroy a picture of $n$ times the side as thoroughly, its log-SNR must be lower by $\log n^2$,
#
# $$
# \lambda'(u) = \lambda(u) - 2\log n \quad\Longleftrightarrow\quad \bar\alpha' = \frac{\bar\alpha}{\bar\alpha+n^2\,(1-\bar\alpha)} .
# \tag{5.14}
# $$
#
# (The right side: $\bar\alpha'/(1-\bar\alpha') = \bar\alpha/(n^2(1-\bar\alpha))$, solved.) This is the *shift* of Hoogeboom et al. (2023); in the frequency picture of chapter 01, (1.15), it keeps the frequencies counted *in cycles per image* above or below water at the same $t$. A photograph, 256 pixels wide and averaged down to 32:

# %% mystnb={"image": {"alt": "Four photographs of a temple, 32 pixels wide. Clean; with noise at log-SNR minus 1, hardly recognisable; the 256-pixel version with noise at the same log-SNR, averaged down to 32 pixels, clearly visible; the 256-pixel version with the shifted log-SNR, averaged down, as noisy as the second."}}
from sklearn.datasets import load_sample_image

photo = torch.tensor(load_sample_image("china.jpg")).float().mean(2)
photo = (photo[100:356, 200:456] / 127.5 - 1)[None, None]  # (1, 1, 256, 256)
ratio = 8
pool = torch.nn.AvgPool2d(ratio)
small = pool(photo)


def noisy(x, lam, seed):
    """x_0 + e^{-λ/2} ε: the noisy image, undone of its scale."""
    noise = torch.randn(x.shape, generator=seeded(seed))
    return x + math.exp(-lam / 2) * noise


lam = -1.0
versions = {
    "32 px, clean": small,
    f"32 px, λ = {lam:g}": noisy(small, lam, 0),
    f"256 px, λ = {lam:g}": pool(noisy(photo, lam, 1)),
    "256 px, shifted λ": pool(noisy(photo, lam - 2 * math.log(ratio), 2)),
}
fig, axes = plt.subplots(1, 4, figsize=(7.5, 2.1))
print("measured log-SNR of the 32-pixel picture (for unit signal power)")
for ax, (name, x) in zip(axes, versions.items(), strict=True):
    ax.imshow(x[0, 0], vmin=-1.5, vmax=1.5)
    ax.set_axis_off()
    ax.set_title(name, fontsize=9)
    if "clean" not in name:
        measured = -math.log(float((x - small).var()))
        print(f"{name:20} {measured:6.2f}")
assert abs(measured - lam) < 0.15  # 1,024 pixels: ± 2·0.044

# %% [markdown]
# *What to see:* second and third picture have the same $\bar\alpha$; the large one, once averaged, is legible. After the shift by $2\log8 = 4.2$ nats it is as lost as the small one. A schedule tuned on 32-pixel images starts its sampler at 256 pixels with the coarse layout already decided, by noise.
#
# ### The end: zero terminal SNR
#
# Under linear $\sqrt{\bar\alpha_T} = 0.0064$: small, but a multiple of *something*. Take the coarsest thing, the mean brightness of an image of $D$ pixels. Say that over the data it is distributed as $\mathcal N(m,\tau^2)$. The coordinate of $x_0$ along the unit vector $(1,\dots,1)/\sqrt D$ is $\sqrt D$ times the brightness; the noise along it has variance one. So at $T$ this coordinate has mean $\sqrt{\bar\alpha_T D}\,m$ and variance
# $V = \bar\alpha_T D\,\tau^2+1-\bar\alpha_T$, and the sampler starts it from $\mathcal N(0,1)$ instead. A perfect deterministic sampler is, along a line, a monotone map that carries the quantiles of $q(x_T)$ to those of $q(x_0)$; for Gaussians it carries standardised values over. A start at $z\sim\mathcal N(0,1)$ sits at $(z-\sqrt{\bar\alpha_TD}\,m)/\sqrt V$ standard deviations, and comes out as
#
# $$
# \text{brightness} \sim \mathcal N\!\left(m\left(1-\tau\sqrt{\bar\alpha_T D/V}\right),\ \tau^2/V\right) .
# \tag{5.15}
# $$
#
# With $\bar\alpha_T D$ large everything comes out at brightness 0, mid-grey: this is what Lin et al. (2024) found in a well-known text-to-image model, which cannot draw a black or a white picture. Their remedy moves the *amplitudes* $a_t=\sqrt{\bar\alpha_t}$ affinely so that the first stays and the last becomes zero:
#
# $$
# \sqrt{\bar\alpha_t'} = \left(\sqrt{\bar\alpha_t}-\sqrt{\bar\alpha_T}\right)\frac{\sqrt{\bar\alpha_1}}{\sqrt{\bar\alpha_1}-\sqrt{\bar\alpha_T}} .
# \tag{5.16}
# $$
#
# At $t=T$ an $\varepsilon$-network then has nothing to say ($\hat x_0$ would be $0/0$), so one predicts $v$ or $x_0$; and the sampler must really start at $T$ (`uniform_times`). We test all of it with the exact denoiser, along the brightness axis, for the mean and spread of our digits. The "latent" schedule is linear in $\sqrt\beta_t$ from $\sqrt{0.00085}$ to $\sqrt{0.012}$, the one that Lin et al. examined.

# %%
latent = torch.zeros(1001, **double)
latent[1:] = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, **double) ** 2


def zero_terminal(beta):
    a = (1 - beta).cumprod(0).sqrt()
    a[1:] = (a[1:] - a[-1]) * a[1] / (a[1] - a[-1])
    beta = torch.zeros_like(beta)
    beta[1:] = 1 - (a[1:] / a[:-1]) ** 2
    return beta


brightness = x_train.flatten(1).mean(1)
m, tau = float(brightness.mean()), float(brightness.std())
print(f"true brightness of the digits: {m:.2f} ± {tau:.2f}\n")
print("schedule        √ᾱ_T     image side: 8          64           512")
outcome = {}
for name, beta in {
    "linear": schedules.linear(1000),
    "latent": latent,
    "latent, zero": zero_terminal(latent),
    "cosine": schedules.cosine(1000),
}.items():
    p, cells = DDPM(beta), []
    for side in (8, 64, 512):
        D = side**2
        axis = oracle.Gaussian(
            p,
            torch.tensor([side * m], **double),
            torch.tensor([[D * tau**2]], **double),
        )
        z = torch.randn(2000, 1, generator=seeded(0), **double)
        out = draw(axis, p, z, eta=0.0) / side
        outcome[name, side] = float(out.mean()), float(out.std())
        signal = float(p.alpha_bar[-1]) * D
        spread_T = (signal * tau**2 + 1 - float(p.alpha_bar[-1])) ** 0.5
        formula = m * (1 - tau * signal**0.5 / spread_T), tau / spread_T
        assert abs(outcome[name, side][0] - formula[0]) < 0.02
        assert abs(outcome[name, side][1] - formula[1]) < 0.02
        cells.append("{:.2f} ± {:.2f}".format(*outcome[name, side]))
    print(f"{name:13} {float(p.scale[-1]):8.5f}       " + "   ".join(cells))

# %% [markdown]
# The two entries at side 8 that matter to us say: on small images no schedule leaks worth speaking of. At $64\times64$ the latent schedule has lost a quarter of the mean brightness, at $512\times512$ nearly all of it and half of its spread; even plain linear is a fifth off there. With zero terminal SNR, and with cosine, the brightness is right at every size. The asserts in the cell hold (5.15) to these samples.
#
# ## From scratch, then from the library
#
# Three schedules and the log-SNR in ten lines, with nothing but the standard library.


# %%
def linear(t, T):
    first, last = 1e-4 * 1000 / T, 0.02 * 1000 / T
    return first + (last - first) * (t - 1) / (T - 1)


def sigmoid(t, T):
    first, last = 1e-4 * 1000 / T, 0.02 * 1000 / T
    u = 6 * (2 * (t - 1) / (T - 1) - 1)
    return first + (last - first) / (1 + math.exp(-u))


def cosine(t, T, s=0.008, clip=0.999):
    def f(k):
        return math.cos((k / T + s) / (1 + s) * math.pi / 2) ** 2

    return min(1 - f(t) / f(t - 1), clip)


for T in (50, 1000):
    for by_hand in (linear, sigmoid, cosine):
        library = getattr(schedules, by_hand.__name__)(T)
        ours = torch.tensor([0.0] + [by_hand(t, T) for t in range(1, T + 1)])
        assert torch.allclose(library.float(), ours, rtol=1e-6)
        keep = math.prod(1 - by_hand(t, T) for t in range(1, T // 2 + 1))
        lam = schedules.log_snr(DDPM(library).alpha_bar)[T // 2]
        assert abs(math.log(keep / (1 - keep)) - float(lam)) < 1e-9
print("three schedules by hand and from the library: equal")

# %% [markdown]
# And a weighting: `losses.weighted` multiplies the error of *whatever* the network says by the right factor of (5.13), so that the three kinds of network minimise the same number.

# %%
from ddpmlib.denoiser import EPS, X0

p = three["cosine"]


class Says(torch.nn.Module):
    """A fixed (and wrong) prediction of x_0, told as ε, x_0 or v."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, x, t, y=None):
        scale, std = p.kernel(t, x)
        prediction = torch.tanh(x)
        return self.kind.target(
            prediction, (x - scale * prediction) / std, scale, std
        )


x0_batch = x_train[:6].double()
eps_batch = torch.randn(6, 1, 8, 8, generator=seeded(3), **double)
t = torch.tensor([2, 50, 200, 500, 800, 999])
snr = (p.alpha_bar / (1 - p.alpha_bar))[t]
by_hand = {
    losses.simple: snr,
    losses.vlb: ((p.alpha_bar / (1 - p.alpha_bar))[t - 1] - snr) / 2,
    losses.truncated_snr: snr.clamp(min=1),
    losses.min_snr(5): snr.clamp(max=5),
}
x_t = p.q_sample(x0_batch, t, eps_batch)
error = ((x0_batch - torch.tanh(x_t)) ** 2).flatten(1).mean(1)
for weighting, on_x0 in by_hand.items():
    for kind in (EPS, X0, V):
        library = losses.weighted(
            weighting, Denoiser(Says(kind), p, kind), x0_batch, t, eps_batch
        )
        assert torch.allclose(library, on_x0 * error, rtol=1e-6)
print("four weightings, three kinds of network: one number")

# %% [markdown]
# ### A network does not know its schedule
#
# By (5.2) a network trained under one schedule can serve another: whenever the sampler stands at time $t$ of schedule A, ask the network at the time of schedule B that has the same $\lambda$. A wrapper of ten lines, and every sampler works with it.


# %%
class OnPath:
    """A denoiser that was trained on one path, asked along another."""

    def __init__(self, denoiser, process):
        self.denoiser = denoiser
        own = schedules.log_snr(denoiser.process.alpha_bar)[1:]
        asked = schedules.log_snr(process.alpha_bar)[1:]
        self.time = (asked[:, None] - own).abs().argmin(1) + 1

    def __call__(self, x_t, t, y=None):
        return self.denoiser(x_t, int(self.time[t - 1]), y)


digits_net, digits_card = zoo.load("digits", device="cpu")
print("trained on the schedule", digits_card.recipe["schedule"])
wrapped = OnPath(digits_net, three["linear"])
for t in (50, 500, 900):
    own = float(schedules.log_snr(three["linear"].alpha_bar)[t])
    there = int(wrapped.time[t - 1])
    print(f"linear t = {t:3d}  (λ = {own:5.2f})  is its own t = {there}")

# %% [markdown]
# ## Train it here
#
# Now real digits. One small U-Net on 2×2 patches, 200 updates each, under each of the three schedules, with two seeds; all predict $v$ with the plain loss, so that the importance is $p(\lambda)/\bar\alpha$. Each network then draws 300 samples in 25 ancestral steps *twice*: evenly spaced in linear time, and evenly spaced in cosine time. So the rows of the table are the training half of a schedule,
# the columns the sampling half. The measure is the Fréchet distance of the features of our digit classifier to the training scans.

# %% tags=["nbval-ignore-output"]
classifier, _ = zoo.load("digits-classifier", device="cpu")
real, _ = features.extract(classifier, digits.x_train)
unseen, _ = features.extract(classifier, digits.x_test[:300])
floor = metrics.frechet_distance(unseen, real)
small_net = UNetConfig(
    width=32, mults=(1,), attention=(False,), heads=2, patch=2
)


def train(process, seed):
    _ = torch.manual_seed(seed)
    trainer = Trainer(
        Denoiser(UNet(small_net), process, V),
        diffusion_loss,
        digits.x_train,
        None,
        Settings(200, batch_size=48, lr=5e-3, warmup=30, ema=0.97, seed=seed),
        device="cpu",
    )
    for _ in fit(trainer):
        pass
    return trainer.averaged


trained = {}
for name, own in three.items():
    for seed in (0, 1):
        network = train(own, seed)
        for walk in ("linear", "cosine"):
            p, g = three[walk], seeded(seed)
            x = torch.randn(300, 1, 8, 8, generator=g)
            times = uniform_times(1000, 25)
            x = draw(OnPath(network, p), p, x, times, generator=g)
            h, _ = features.extract(classifier, x)
            found = metrics.frechet_distance(h, real)
            trained.setdefault((name, walk), []).append(found)
print(f"Fréchet distance, 300 samples (300 real ones: {floor:.1f})")
print("trained under     sampled: linear        cosine    (two seeds)")
for name in three:
    cells = []
    for walk in ("linear", "cosine"):
        one, two = trained[name, walk]
        cells.append(f"{(one + two) / 2:6.0f} ± {abs(one - two) / 2:.0f}")
        assert floor < min(one, two) and max(one, two) < 1000
    print(f"{name:20}" + "      ".join(f"{cell:>12}" for cell in cells))

# %% [markdown]
# *What to see:* read the rows, then the columns. Along a row nothing happens: with 25 ancestral steps it does not matter in which time the chain is walked. Down a column it does: the networks that *trained* under cosine are ahead by about 25, where two seeds differ by 4 to 22. So at this budget cosine wins in training, by where it makes the network look, (5.12), and not in sampling.
#
# Be honest about such a table. Two seeds bound little, all numbers are a hundred times the floor (each network has seen each scan seven times), and the three rows differ in their weighting too, because with a plain $v$-loss the schedule *is* the weighting. Short training favours whoever concentrates on the levels that decide the layout; whether the lead survives a long training is another question, and
# [chapter 09](09_scoreboard.ipynb) asks it on MNIST with one net, one larger budget and error bars.

# %% [markdown]
# ## The same code at scale
#
# The `mnist` checkpoint, whose card names its schedule. The same start noise, ten deterministic steps, evenly spaced in the time of three different paths: its own, linear, and a straight line in $\lambda$ from 9 to −9.

# %% mystnb={"image": {"alt": "Three rows of ten generated MNIST digits, zero to nine, from the same noise: along the cosine path, along the linear path, along the straight path. All rows show the same legible digits with small differences in strokes."}}
mnist_net, mnist_card = zoo.load("mnist", device="cpu")
mnist_classifier, _ = zoo.load("mnist-classifier", device="cpu")
print("schedule on the card:", mnist_card.recipe["schedule"])
y = torch.arange(10).repeat(6)
x_T = torch.randn(60, *mnist_card.image_shape, generator=seeded(5))
straight = from_log_snr(torch.linspace(9, -9, 1000, **double))
rows, agree = [], {}
for name, p in {
    "cosine": three["cosine"],
    "linear": three["linear"],
    "straight": straight,
}.items():
    x = draw(OnPath(mnist_net, p), p, x_T, uniform_times(p.T, 10), eta=0.0, y=y)
    rows.append(x[:10])
    _, logits = features.extract(mnist_classifier, x)
    agree[name] = metrics.class_agreement(logits, y)
ax = plots.grid(torch.cat(rows), ncol=10)
assert min(agree.values()) > 0.6

# %% tags=["nbval-ignore-output"]
for name, share in agree.items():
    print(f"{name:9} {share:.0%} of 60 are read as the digit asked for")

# %% [markdown]
# *What to see:* one network, three schedules, nearly the same digits from the same noise: deterministic sampling solves the same equation on three grids. This is not the comparison of chapter 09, where each schedule gets a network trained *under* it. It isolates the sampler's half: only the grid differs.
#
# ## One knob turned
#
# Nichol & Dhariwal's argument for cosine was an experiment: cut off the *first* $x$ % of the reverse chain and watch the FID. We repeat it on digits with one network for both schedules. The sampler starts at $t=(1-x)\,T$ from pure noise, as if that were already $T$, and keeps the spacing of its 20 steps. How far off is that start? The distance (1.17) between $q(x_t)$ and pure noise says so *before* any sampling.

# %%
flat = x_train.flatten(1).double()
moments = flat.mean(0), torch.cov(flat.T)
left_over = {}
for name, p in three.items():
    gaussian = oracle.Gaussian(p, *moments)
    kl = np.array([gaussian.kl_to_prior(t) for t in range(1, p.T + 1)])
    left_over[name] = kl
    start = int((kl < 0.1).argmax()) + 1
    print(
        f"{name:8} KL(q(x_T)‖N) ≥ {kl[-1]:.0e} nats;",
        f"below 0.1 nats from t = {start} on: {100 - start / 10:.0f} % to spare",
    )

# %% tags=["nbval-ignore-output"]
fractions = (0.0, 0.3, 0.45, 0.6)
y = torch.arange(10).repeat(15)
real_150 = metrics.frechet_distance(unseen[:150], real)
distance = {}
for name in ("linear", "cosine"):
    p = three[name]
    for skip in fractions:
        steps = round(20 * (1 - skip))
        start = round(1000 * (1 - skip))
        for seed in range(3):
            g = seeded(seed)
            x = torch.randn(len(y), 1, 8, 8, generator=g)
            x = draw(
                OnPath(digits_net, p),
                p,
                x,
                uniform_times(start, steps),
                y=y,
                generator=g,
            )
            h, _ = features.extract(classifier, x)
            found = metrics.frechet_distance(h, real)
            distance.setdefault((name, skip), []).append(found)
print(f"Fréchet distance, 150 samples, 3 seeds (150 real: {real_150:.1f})")
print("skipped " + "".join(f"{100 * f:11.0f} %" for f in fractions))
for name in ("linear", "cosine"):
    cells = [torch.tensor(distance[name, f]) for f in fractions]
    row = [f"{float(c.mean()):.1f} ± {float(c.std()):.1f}" for c in cells]
    print(f"{name:8}" + "".join(f"{cell:>13}" for cell in row))
assert np.mean(distance["linear", 0.3]) < 1.5 * np.mean(distance["linear", 0.0])
assert np.mean(distance["cosine", 0.45]) > 2 * np.mean(distance["cosine", 0.0])

# %% mystnb={"image": {"alt": "Left: Fréchet distance against the share of the chain skipped, logarithmic, with error bars over three seeds. Linear stays level up to 45 percent and rises at 60; cosine rises from 30 percent on, to many times the start. Right: lower bound of the divergence from pure noise over the same share; cosine crosses a tenth of a nat at 5 percent, linear at 30."}} tags=["hide-input"]
fig, (ax, right) = plt.subplots(1, 2, figsize=(7.5, 2.7))
for name in ("linear", "cosine"):
    cells = np.array([distance[name, f] for f in fractions])
    ax.errorbar(
        100 * np.array(fractions),
        cells.mean(1),
        cells.std(1, ddof=1),
        marker="o",
        capsize=3,
        color=colour[name],
        label=name,
    )
    share = 100 * (1 - np.arange(1, 1001) / 1000)
    right.semilogy(share, left_over[name], color=colour[name], label=name)
ax.axhline(real_150, color="grey", lw=0.8)
ax.set(
    xlabel="first part of the chain skipped (%)",
    ylabel="Fréchet distance",
    yscale="log",
)
ax.legend()
right.axhline(0.1, color="grey", lw=0.8)
_ = right.set(
    xlabel="first part of the chain skipped (%)",
    ylabel="KL to pure noise ≥ (nats)",
    xlim=(0, 65),
    ylim=(1e-4, 50),
)

# %% [markdown]
# *What to see:* the linear chain loses nothing when its first 30 %, even 45 %, are thrown away, and does its damage only at 60 %; the cosine chain hurts by 30 % and is in ruins at 60 %. (Grey: the distance of 150 real, unseen scans.) Same network, same data, so this is purely *where the times are*. The right panel predicted it from two moments of the data: 0.1 nats is crossed at 30 % under linear and at 5 % under cosine. **Steps beyond
# that point are spent on noise that the next step forgets.** On large images there is more to forget, by (5.14), and linear is less wasteful there: it was designed on larger images than ours.
#
# ## What goes wrong
#
# Three bugs that run without an error.
#
# **1. The betas of $T=1000$ at $T=100$.** `linear(100, 1e-4, 0.02)`: the table looks right, each $\beta_t$ is one that Ho et al. used. But only a tenth of the noise is added, and the sampler starts where 36 % of the signal's power should be. The network is told $\lambda_T=-0.6$ and sees pure noise.

# %% tags=["nbval-ignore-output"] mystnb={"image": {"alt": "Two blocks of twenty generated 8 by 8 digits, two of each class. With rescaled betas they are clean digits; with the unscaled betas many are thicker, smeared or broken."}}
right_one = DDPM(schedules.linear(100))
wrong_one = DDPM(schedules.linear(100, 1e-4, 0.02))
fig, axes = plt.subplots(1, 2, figsize=(7, 1.9))
y, score = torch.arange(10).repeat(20), {}
for ax, (name, p) in zip(
    axes, {"rescaled": right_one, "unscaled": wrong_one}.items(), strict=True
):
    g = seeded(0)
    x = torch.randn(200, 1, 8, 8, generator=g)
    denoise = OnPath(digits_net, p)
    x = draw(denoise, p, x, uniform_times(100, 20), y=y, generator=g)
    h, logits = features.extract(classifier, x)
    score[name] = metrics.frechet_distance(h, real)
    plots.grid(x[:20], ncol=10, ax=ax, title=f"betas {name}")
    lam_T = float(schedules.log_snr(p.alpha_bar)[-1])
    print(f"{name}: λ_T = {lam_T:5.1f}, Fréchet distance {score[name]:.0f}")
assert score["unscaled"] > 3 * score["rescaled"]

# %% [markdown]
# *What to see:* digit-like shapes, many of them thick, smeared or broken, because a layout was read into pure noise. (The label that the network gets still pulls each towards its class.) More training does not help: the network is right, the *start* is wrong. The test that catches it: `test_default_schedules_end_in_noise_at_every_length` in `tests/derivations/test_ch05.py`; it asks every default schedule for $\operatorname{KL}(q(x_T)\,\|\,\mathcal N)$ on digits, at six values of $T$.
#
# **2. Tables in float32, or less.** $\bar\alpha_t$ is a product of a thousand numbers near one, and what is needed is the small difference $1-\bar\alpha_t$. Here is its worst relative error at small $t$, cosine schedule:

# %%
for T in (1000, 4000):
    beta = schedules.cosine(T)
    exact = 1 - (1 - beta).cumprod(0)
    for dtype in (torch.float32, torch.bfloat16):
        rough = 1 - (1 - beta.to(dtype)).cumprod(0)
        worst = float((rough.double() / exact - 1)[1:11].abs().max())
        name = str(dtype).removeprefix("torch.")
        print(f"T = {T}, {name:9} error of 1 − ᾱ_t, t ≤ 10: up to {worst:.1%}")

# %% [markdown]
# In bfloat16 the first steps *vanish*: $1-4\cdot10^{-5}$ rounds to one, the error is 100 %, and $\hat\varepsilon$ is a division by zero. In float32 it is a fraction of a percent, enough to fail a comparison with a reference, not to be seen. The tables of this library are float64 and cast at use; `test_tables_lose_the_first_steps_in_low_precision` holds the numbers.
#
# **3. Cosine without its clip.** Then $\beta_T=1$, $\bar\alpha_T=0$: legitimate for a $v$- or $x_0$-network, fatal for an $\varepsilon$-network, whose $\hat x_0 = (x_t-\sqrt{1-\bar\alpha_t}\,\hat\varepsilon)/\sqrt{\bar\alpha_t}$ divides by it. Even *with* the clip the last time amplifies. An error $\delta$ in $\hat\varepsilon$ at $T$ becomes in $x_s$, by (2.10), an error of $\delta\,\sqrt{\bar\alpha_s/\bar\alpha_T}\;\beta_{T\mid s}/\sqrt{1-\bar\alpha_T}$:


# %%
def amplification(p, s):
    a_T, a_s = float(p.alpha_bar[-1]), float(p.alpha_bar[s])
    if a_T == 0:
        return math.inf
    return (a_s / a_T) ** 0.5 * (1 - a_T / a_s) / (1 - a_T) ** 0.5


unclipped = DDPM(schedules.cosine(1000, max_beta=1.0))
print("an ε-error of 1 at T, seen after the first step to s")
print("                   s = 999    s = 980    s = 900")
for name, p in (three | {"cosine, no clip": unclipped}).items():
    row = [f"{amplification(p, s):9.1e}" for s in (999, 980, 900)]
    print(f"{name:16} " + "  ".join(row))
assert amplification(three["cosine"], 980) > 100
assert amplification(three["linear"], 980) < 2

# %% [markdown]
# This is a warning about *combinations*: an $\varepsilon$-network, the cosine schedule and a strided sampler. In single steps ($s=999$) it passes; a stride of 20 from $T$ multiplies the network's error by hundreds. Clamp $\hat x_0$ to the range of images, start a little below $T$, or predict $v$, whose $\hat x_0$ divides by nothing. Our image checkpoints predict $v$. The test:
# `test_a_strided_first_step_blows_up_eps_errors_under_cosine`.
#
# ## Exercises
#
# Write your answer into the cell below each question and take the `#` off its last line: the check
# says yes, or gives a hint. ★ asks for a derivation, ★★ for code, ★★★ for a small project of both.
# Solutions are folded.
#
# ### ★ Exercise 5.1
#
# (a) At which fraction $u=t/T$ does the cosine schedule with $s=0$ reach $\lambda=0$, and (b) at which does it reach $\lambda=-6$? (c) A schedule works at 64×64 pixels. By how many nats must its log-SNR be shifted for 256×256? Give three numbers.
#
# :::{dropdown} Hint
# Invert (5.5). The shift is (5.14) with $n=4$, with its sign.
# :::

# %%
answer = ...  # (u at λ = 0, u at λ = -6, shift)

# exercises.check("5.1", answer)

# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
# Solution of exercise 5.1: u = (2/π) arctan e^(-λ/2), and λ' - λ = -2 log 4
answers = (0.5, 2 / math.pi * math.atan(math.e**3), -2 * math.log(4))
exercises.check("5.1", answers)

# %% [markdown]
# ### ★★ Exercise 5.2
#
# A colleague trains a $v$-network and asks for min-SNR(γ). Write `weight(alpha_bar, gamma)`, the factor of $\lVert v-\hat v\rVert^2$, for tensors that may contain $\bar\alpha=1$ and $\bar\alpha=0$, without infinities on the way.
#
# :::{dropdown} Hint
# Take the weight on $\varepsilon$ from the table and translate it by (5.13); then write it without a division.
# :::

# %%
answer = ...  # a function (alpha_bar, gamma) -> weight

# exercises.check("5.2", answer)


# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
# Solution of exercise 5.2: ᾱ · min(1, γ (1-ᾱ)/ᾱ) = min(ᾱ, γ (1-ᾱ))
def min_snr_on_v(alpha_bar, gamma):
    return torch.minimum(alpha_bar, gamma * (1 - alpha_bar))


exercises.check("5.2", min_snr_on_v)

# %% [markdown]
# ### ★★ Exercise 5.3
#
# Schedules live in log-SNR, samplers in tables. Write `shifted(beta, n)` that takes a table $\beta_0,\dots,\beta_T$ (with $\beta_0=0$) and returns the table for images of $n$ times the side, by (5.14).
#
# :::{dropdown} Hint
# $\beta\to\bar\alpha\to\bar\alpha'\to\beta'$. The middle arrow needs no logarithm and no special case at $t=0$.
# :::

# %%
answer = ...  # a function (beta, n) -> beta

# exercises.check("5.3", answer)


# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
# Solution of exercise 5.3
def shifted(beta, n):
    a = (1 - beta).cumprod(0)
    a = a / (a + n**2 * (1 - a))
    return torch.cat([beta[:1], 1 - a[1:] / a[:-1]])


exercises.check("5.3", shifted)

# %% [markdown]
# ### ★★★ Exercise 5.4
#
# Find the path of least variance. Write `best_path(lam, m, T)`: `lam` is a fine, falling grid of log-SNRs, `m` holds $m(\lambda)=\mathrm E\lVert\varepsilon-\hat\varepsilon\rVert^4$ there. Return $T$ log-SNRs from `lam[0]` down to `lam[-1]`, such that uniform times on them have the density (5.11).
#
# :::{dropdown} Hint
# Equal shares of the area under $\sqrt m$: cumulate the area by the trapezoidal rule, normalise to $[0,1]$, and invert by interpolation (`np.interp`).
# :::

# %%
answer = ...  # a function (lam, m, T) -> log-SNRs (T,)

# exercises.check("5.4", answer)


# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
# Solution of exercise 5.4
def best_path(lam, m, T):
    root = m.sqrt()
    pieces = 0.5 * (root[1:] + root[:-1]) * (lam[:-1] - lam[1:])
    area = torch.cat([torch.zeros_like(pieces[:1]), pieces.cumsum(0)])
    u = np.linspace(0, 1, T)
    found = np.interp(u, (area / area[-1]).numpy(), lam.numpy())
    return torch.tensor(found)


exercises.check("5.4", best_path)

# %% [markdown]
# ## Recap
#
# 1. A schedule is a path downhill in log-SNR; a noisy sample knows its $\lambda$ and nothing else of the schedule.
# 2. The continuous-time bound is an area over the log-SNR axis: it depends on the end points. The path sets the variance of its estimate, and the excess of a finite chain.
# 3. What is learned depends on weight × density, so with $L_{\text{simple}}$ the schedule *is* the weighting; $\lVert\varepsilon-\hat\varepsilon\rVert^2 = \operatorname{SNR}\lVert x_0-\hat x_0\rVert^2 = \bar\alpha\lVert v-\hat v\rVert^2$ translates all weights.
# 4. Linear spends its first 30 % of the reverse chain on digits that are already noise; skipping them costs nothing. Larger images need a shift by $-2\log n$.
# 5. Check the end: $\bar\alpha_T D$ against one, `kl_to_prior`, and no unscaled betas.
#
# The equations of this chapter, the functions that implement them, the tests that pin them:

# %% mystnb={"code_prompt_show": "Equations, functions, tests", "code_prompt_hide": "Hide the table"} tags=["hide-cell"]
equations.table("05")

# %% [markdown]
# ## Further reading
#
# - Nichol & Dhariwal (2021), *Improved DDPM* {cite}`nichol2021improved`: section 3.2, the cosine schedule and the skipping experiment.
# - Kingma, Salimans, Poole & Ho (2021), *Variational diffusion models* {cite}`kingma2021variational`: section 5, the invariance (5.7) and the schedule of least variance.
# - Kingma & Gao (2023), *Understanding diffusion objectives as the ELBO with simple data augmentation* {cite}`kingma2023understanding`: weight × density, for all objectives in use.
# - Hang et al. (2023), *Min-SNR* {cite}`hang2023efficient`; Salimans & Ho (2022) {cite}`salimans2022progressive`, section 4, for the truncated SNR.
# - Hoogeboom, Heek & Salimans (2023), *Simple diffusion* {cite}`hoogeboom2023simple`, and Chen (2023) {cite}`chen2023importance`: schedules and image size.
# - Lin et al. (2024), *Common diffusion noise schedules and sample steps are flawed* {cite}`lin2024common`: zero terminal SNR.
# - Guo, Shamai & Verdú (2005) {cite}`guo2005mutual`: information and the least mean-square error.
