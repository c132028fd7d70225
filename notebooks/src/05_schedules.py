# %% [markdown]
# # 5. Noise schedules
#
# [![Open in Colab](../book/_static/colab.svg)](https://colab.research.google.com/github/ddpm-book/ddpm-book/blob/main/notebooks/05_schedules.ipynb)
#
# How fast should data turn into noise? The answer, a table of $T$ numbers, is the noise schedule.
# Nothing in it is learned. It decides which noise levels a network is trained on, how many steps a
# sampler wastes, and whether a picture can come out dark. This chapter treats every schedule as a
# path in one coordinate, the log of the signal-to-noise ratio (log-SNR). It proves that the
# likelihood bound depends on the end points of the path alone, and measures what depends on the
# rest.

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
from ddpmlib.experiments import digit_schedules, results
from ddpmlib.process import DDPM, schedules
from ddpmlib.samplers import draw, uniform_times
from ddpmlib.teaching import exercises
from IPython.display import Markdown

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


def table(header, rows):
    return Markdown(results.markdown(header, rows))


times = [0, 100, 200, 300, 450, 600, 750, 900]
noise = torch.randn(1, 1, 8, 8, generator=seeded(1))
strips = [p.q_sample(x_train[:1], t, noise) for p in three.values() for t in times]
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
    right.plot(schedules.log_snr(p.alpha_bar)[1:], label=name, color=colour[name])
right.set(xlabel="time $t$", ylabel="log-SNR (nats)", ylim=(-14, 10))
right.legend()
half = {n: float(schedules.log_snr(p.alpha_bar)[500]) for n, p in three.items()}
halfway = [f"{math.exp(value):.2f}" for value in half.values()]
assert halfway == ["0.09", "0.43", "0.98"]

# %% [markdown]
# **Fig. 5.1.** A schedule is a path downhill in log-SNR. Left: the same digit and the same noise in
# every row; only the pace differs. At $t=T/2$ the SNR is 0.09 under linear, 0.43 under sigmoid and
# 0.98 under cosine. Right: the three paths.
#
# Later in this chapter a network skips the first 45 % of the reverse linear chain without a loss
# that we could measure, while the cosine chain suffers from skipping 30 % (Fig. 5.9).
#
# ## Objectives
#
# After this chapter you can
#
# - write the linear, the sigmoid and the cosine schedule from memory, and say what happens to each
#   when $T$ changes;
# - prove that the bound in continuous time depends on the end points of the schedule only, and
#   verify it on data with an exact denoiser;
# - read a schedule as an *importance*: which noise levels training and sampling visit, and how a
#   loss weight undoes or sharpens that;
# - translate loss weightings between networks that predict $\varepsilon$, $x_0$ and $v$, and those
#   of Karras et al. into both;
# - tell when a schedule is wrong for an image: too little noise for its size, too much signal left
#   at $T$.
#
# ## One coordinate for all schedules: log-SNR
#
# [Chapter 1](01_forward.ipynb) defined $\operatorname{SNR}_t = \bar\alpha_t/(1-\bar\alpha_t)$ in
# (1.12), the linear schedule (1.13) and the cosine schedule (1.14). The third one in use lets
# $\beta_t$ follow a logistic curve,
#
# $$
# \beta_t = \beta_{\text{first}} + \frac{\beta_{\text{last}}-\beta_{\text{first}}}{1+e^{-u_t}}, \qquad u_t = 6\left(\frac{2(t-1)}{T-1}-1\right).
# \tag{5.1}
# $$
#
# The logistic function is cut at $u=\pm6$, where it is 0.0025 and 0.9975. So with
# $\beta_{\text{first}}=10^{-4}$ and $\beta_{\text{last}}=0.02$ the schedule starts at
# $\beta_1=1.49\cdot10^{-4}$, not at $10^{-4}$, and ends at 0.01995.

# %% tags=["hide-input"]
sigmoid_beta = three["sigmoid"].beta
print(f"sigmoid: β_1 = {sigmoid_beta[1]:.3e}, β_1000 = {sigmoid_beta[-1]:.5f}")
assert f"{sigmoid_beta[1]:.2e}" == "1.49e-04" and f"{sigmoid_beta[-1]:.5f}" == "0.01995"

# %% [markdown]
# All three are a choice of one decreasing sequence, and log-SNR is its natural coordinate. Write
# $\lambda = \log\operatorname{SNR}$. Solving (1.12) for $\bar\alpha$,
# $e^{\lambda}(1-\bar\alpha) = \bar\alpha$, gives
#
# $$
# \bar\alpha = \frac{1}{1+e^{-\lambda}}, \qquad 1-\bar\alpha = \frac{1}{1+e^{\lambda}}, \qquad \frac{x_t}{\sqrt{\bar\alpha_t}} = x_0 + e^{-\lambda_t/2}\,\varepsilon .
# \tag{5.2}
# $$
#
# By the last equation, up to a known factor, **a noisy sample depends on $\lambda$ and on nothing
# else of the schedule**. $t$ is only a name for a noise level. Two schedules are two ways of
# numbering the same family of noisy distributions. Here is the family for a mixture of three
# Gaussians on the line, with the times of the three schedules below it.

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
    2, 1, figsize=(7.5, 3.3), height_ratios=(3, 1), sharex=True
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
beyond = {}
for row, (name, p) in enumerate(three.items()):
    lam = schedules.log_snr(p.alpha_bar)[1:]
    beyond[name] = float((lam < -6).double().mean())
    bottom.plot(
        lam[::25], torch.full_like(lam[::25], -row), "|", ms=11, color=colour[name]
    )
bottom.set(
    yticks=[0, -1, -2],
    yticklabels=list(three),
    ylim=(-2.7, 0.7),
    xlim=(9, -9),
    xlabel="log-SNR λ (nats), clean on the left, noise on the right",
)
peaks = lambda q: int(((q[1:-1] > q[:-2]) & (q[1:-1] > q[2:])).sum())
count = [peaks(q) for q in density]  # from λ = 9 to −9 in steps of 0.1
assert count[30] == 3 and count[100] == 1  # λ = 6 and −1
assert 0.22 < beyond["linear"] < 0.25 and beyond["cosine"] < 0.04
# left of λ = −6 the density is a normal one to within a hundredth of its height
unit = torch.exp(-(x_axis**2) / 2) / math.sqrt(2 * math.pi)
assert float((density[150:] - unit).abs().max()) < 0.01

# %% [markdown]
# **Fig. 5.2.** One family of noisy distributions, three numberings of it. Above: the density of
# $x_t$, from three sharp clusters to one bell. The clusters merge between $\lambda\approx 5$ and
# $\lambda\approx0$; from $\lambda=-6$ on the density is a standard normal to within a hundredth.
# Below: every 25th of the 1,000 times of each schedule. Linear puts nearly a quarter of its times
# beyond $\lambda=-6$.
#
# ## Where a schedule spends its times
#
# ### What $T$ does to a linear schedule
#
# Keep $\beta_{\text{first}}=10^{-4}$ and $\beta_{\text{last}}=0.02$ and halve $T$, and the chain
# stops half-way: [chapter 1](01_forward.ipynb) measured it. Multiply them by $1000/T$ instead, and
# something converges. With $u=t/T\in[0,1]$ each step removes $\beta_t \approx \frac1T\,b(u)$ with
# $b(u) = 0.1 + 19.9\,u$, because $1000\cdot10^{-4}=0.1$ and $1000\cdot0.02=20$. In the limit
#
# $$
# \bar\alpha(u) = \exp\!\left(-\int_0^u b(r)\,\mathrm dr\right) = \exp\!\left(-0.1\,u-9.95\,u^2\right) .
# \tag{5.3}
# $$
#
# At the end that is $\bar\alpha(1) = e^{-10.05}\approx 4.3\cdot10^{-5}$.
#
# :::{dropdown} Proof of (5.3)
# Expand the logarithm of the product:
#
# $$
# \log\bar\alpha_t = \sum_{i\le t}\log(1-\beta_i) = -\sum_{i\le t}\beta_i - \tfrac12\sum_{i\le t}\beta_i^2-\dots
# $$
#
# The first sum is a Riemann sum of $\int_0^u b$; the second has $t$ terms of size at most
# $(20/T)^2$, so it vanishes like $1/T$, and so do all later ones together.
# :::
#
# The rescaled schedule is the *same path* for every $T$, in coarser or finer steps. Cosine has that
# property by construction: (1.14) is a function of $t/T$. What is left of the signal at the end,
# $\bar\alpha_T$:

# %% tags=["hide-input"]
rows = []
for T in (100, 250, 500, 1000, 4000):
    makers = (
        schedules.linear(T),
        schedules.linear(T, 1e-4, 0.02),
        schedules.cosine(T),
    )
    ends = [float(DDPM(beta).alpha_bar[-1]) for beta in makers]
    rows.append((f"{T:,}", *(f"{end:.0e}" for end in ends)))
    # cosine: the clip leaves a thousandth of what the last but one time still had
    assert abs(ends[2] / (0.001 * (math.pi / 2 / T) ** 2) - 1) < 0.05
    if T == 100:
        assert abs(ends[1] - 0.36) < 0.01
assert abs(ends[0] / math.exp(-10.05) - 1) < 0.05
table(("T", "linear, rescaled", "linear, 1e-4 to 0.02", "cosine"), rows)

# %% [markdown]
# The middle column is a common mistake. It is easy to write `linear(100, 1e-4, 0.02)`, and then 36
# % of the signal's power is still there at $T$; see [*What goes wrong*](#what-goes-wrong).
# (Cosine's own $\bar\alpha_T$ is about $0.001\,(\pi/2T)^2$: its clip $\beta_T=0.999$ leaves a
# thousandth of what the last but one time still had.)
#
# ### The density of noise levels
#
# In continuous time a schedule is a decreasing function $\lambda(u)$, $0\le u\le1$. If times are
# drawn uniformly, or visited at even spacing, the noise levels have the density
#
# $$
# p(\lambda) = \left|\frac{\mathrm du}{\mathrm d\lambda}\right| = \frac{1}{|\lambda'(u)|},
# \tag{5.4}
# $$
#
# high where the path is flat. For the cosine schedule with $s=0$,
# $\bar\alpha = \cos^2\frac{\pi u}2$, so $\operatorname{SNR} = \cot^2\frac{\pi u}{2}$ and
# $u = \frac2\pi\arctan e^{-\lambda/2}$. Differentiate:
# $\left|\frac{\mathrm du}{\mathrm d\lambda}\right| =
# \frac2\pi\cdot\frac{\frac12e^{-\lambda/2}}{1+e^{-\lambda}} =
# \frac1\pi\cdot\frac{1}{e^{\lambda/2}+e^{-\lambda/2}}$, hence
#
# $$
# \lambda(u) = -2\log\tan\frac{\pi u}{2}, \qquad p(\lambda) = \frac{1}{2\pi\cosh(\lambda/2)} .
# \tag{5.5}
# $$
#
# This is a bell around $\lambda = 0$, where signal and noise are equal, with tails
# $e^{-|\lambda|/2}$. For linear, put (5.3) into (1.12): with $B = 0.1u+9.95u^2$,
# $\lambda = -\log(e^B-1)$, and for $B$ of a few units $\lambda\approx -B$. At the noisy end
# $|\lambda'|\approx 20$ however little is left to destroy.

# %% mystnb={"image": {"alt": "Densities of log-SNR under uniform times for the three schedules: histograms. cosine is a bell centred at zero that lies on its dashed formula; linear peaks near minus 1, sigmoid near plus 3, and both keep a high shoulder down to minus 10."}} tags=["hide-input"]
fig, ax = plt.subplots(figsize=(7.5, 2.9))
bins = torch.linspace(-11, 11, 45)
shares = {}
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
    parts = (lam > 4, lam.abs() <= 4, lam < -4)
    shares[name] = [float(m.double().mean()) for m in parts]
lam = torch.linspace(-11, 11, 200)
formula = 1 / (2 * math.pi * torch.cosh(lam / 2))
ax.plot(lam, formula, "--", color="black", lw=1, label="(5.5)")
ax.set(xlabel="log-SNR λ (nats)", ylabel="share of times per nat", xlim=(11, -11))
ax.legend()
plt.show()
middle = 2 / math.pi * (math.atan(math.e**2) - math.atan(math.e**-2))
assert abs(shares["cosine"][1] - middle) < 0.01
assert f"{shares['cosine'][1]:.0%}" == "84%" and math.exp(4) > 50
assert [f"{row[2]:.0%}" for row in shares.values()] == ["37%", "31%", "9%"]
assert shares["linear"][1] < 0.6 and shares["sigmoid"][1] < 0.6
rows = [(name, *(f"{v:.0%}" for v in row)) for name, row in shares.items()]
table(("share of the times with", "λ > 4", "between −4 and 4", "λ < −4"), rows)

# %% [markdown]
# **Fig. 5.3.** Cosine gives 84 % of its times to the eight nats around zero, between $\lambda=-4$
# and 4; linear and sigmoid give 37 % and 31 % of theirs to $\lambda<-4$, where the noise has more
# than fifty times the power of the signal. Histograms: the tables of the library. Dashed: (5.5).
#
# The offset $s = 0.008$ is for the other end. Without it the first step would be
# $\beta_1 = \sin^2(\pi/2T)\approx 2.5\cdot10^{-6}$ at $T=1000$, a deviation of 0.0016, far below
# one grey level, $2/255=0.0078$. With it $\sqrt{\beta_1}=0.0064$ is just below one.

# %% tags=["hide-input"]
first = float(three["cosine"].beta[1]) ** 0.5
without = float(schedules.cosine(1000, 0.0)[1]) ** 0.5
print(f"√β_1 with s = 0.008: {first:.4f}, with s = 0: {without:.4f}", end="; ")
print(f"one grey level: {2 / 255:.4f}")
assert f"{first:.4f} {without:.4f}" == "0.0064 0.0016" and first < 2 / 255

# %% [markdown]
# ## The bound depends on the end points only
#
# [Chapter 4](04_elbo.ipynb) splits the bound into a prior term, a decoder term, and one KL
# divergence for each reverse step. For a step $t\to s$ with the variance $\tilde\beta_{t\to s}$ in
# both Gaussians,
#
# $$
# L_{t\to s} = \tfrac12\left(\operatorname{SNR}_s-\operatorname{SNR}_t\right)\,\mathrm E\,\lVert x_0-\hat x_0(x_t,t)\rVert^2 .
# \tag{5.6}
# $$
#
# :::{dropdown} Proof of (5.6)
# The variances agree, so only the means count, $\mathrm{KL} =
# \lVert\tilde\mu(x_t,x_0)-\tilde\mu(x_t,\hat x_0)\rVert^2/(2\tilde\beta_{t\to s})$. By (2.10) the
# means differ by $\frac{\sqrt{\bar\alpha_s}\,\beta_{t\mid s}}{1-\bar\alpha_t}(x_0-\hat x_0)$, and
# $\tilde\beta_{t\to s} = \frac{1-\bar\alpha_s}{1-\bar\alpha_t}\beta_{t\mid s}$. So the factor of
# $\lVert x_0-\hat x_0\rVert^2$ is
#
# $$
# \frac{\bar\alpha_s\,\beta_{t\mid s}^2}{(1-\bar\alpha_t)^2}\cdot\frac{1-\bar\alpha_t}{2(1-\bar\alpha_s)\,\beta_{t\mid s}} = \frac{\bar\alpha_s\,\beta_{t\mid s}}{2(1-\bar\alpha_t)(1-\bar\alpha_s)} = \frac{\bar\alpha_s-\bar\alpha_t}{2(1-\bar\alpha_t)(1-\bar\alpha_s)},
# $$
#
# where the last step used $\beta_{t\mid s} = 1-\bar\alpha_t/\bar\alpha_s$. And this is half a
# difference of two signal-to-noise ratios:
# $\frac{\bar\alpha_s}{1-\bar\alpha_s}-\frac{\bar\alpha_t}{1-\bar\alpha_t} =
# \frac{\bar\alpha_s(1-\bar\alpha_t)-\bar\alpha_t(1-\bar\alpha_s)}{(1-\bar\alpha_s)(1-\bar\alpha_t)} =
# \frac{\bar\alpha_s-\bar\alpha_t}{(1-\bar\alpha_s)(1-\bar\alpha_t)}$.
# :::
#
# Sum over a chain. By (5.2) the error of a denoiser depends on the noise level only, so write it
# $\operatorname{mse}(\operatorname{SNR})$. Then $\sum L_{t\to s}$ is a sum of *interval length
# times a function value at the interval's noisy end*: a Riemann sum over the SNR axis. As the steps
# shrink it tends to
#
# $$
# L_\infty = \tfrac12\int_{\operatorname{SNR}_{\min}}^{\operatorname{SNR}_{\max}} \operatorname{mse}(r)\,\mathrm dr .
# \tag{5.7}
# $$
#
# **The path is gone.** Time has become a variable of integration, and only the end points are left;
# this is the result of Kingma et al. (2021) {cite}`kingma2021variational`. The same in the words of
# training: draw $u$ uniformly, and (5.7) with $r = e^{\lambda(u)}$,
# $\mathrm dr = e^{\lambda}\lambda'\,\mathrm du$ and
# $\operatorname{SNR}\cdot\lVert x_0-\hat x_0\rVert^2=\lVert\varepsilon-\hat\varepsilon\rVert^2$
# (shown in (5.13) below) reads
#
# $$
# L_\infty = \tfrac12\int_0^1 |\lambda'(u)|\,\mathrm E\lVert\varepsilon-\hat\varepsilon\rVert^2\,\mathrm du = \tfrac12\int_{\lambda_{\min}}^{\lambda_{\max}} \mathrm E\lVert\varepsilon-\hat\varepsilon\rVert^2\,\mathrm d\lambda .
# \tag{5.8}
# $$
#
# Two remarks. *First*, the ideal error grows as SNR falls (a noisier observation cannot help to
# guess better: add noise to the clearer one and you have the other). The sum takes each interval's
# worse end, so with an exact denoiser a finite chain lies *above* $L_\infty$, and refining it can
# only lower it. *Second*, for Gaussian data everything is explicit. Given
# $x_t/\sqrt{\bar\alpha_t} = x_0+e^{-\lambda/2}\varepsilon$ and $x_0\sim\mathcal N(0,c^2)$,
# precisions add: $\operatorname{mse}(r) = (c^{-2}+r)^{-1} = \frac{c^2}{1+c^2r}$, and
#
# $$
# L_\infty = \tfrac12\log\frac{1+c^2\operatorname{SNR}_{\max}}{1+c^2\operatorname{SNR}_{\min}}
# \tag{5.9}
# $$
#
# per coordinate. That is what $x_t$ at the clean end knows about $x_0$ more than at the noisy end,
# in nats: since $\mathrm I(x_0;x_t) = \frac12\log(1+c^2\operatorname{SNR}_t)$. (For any data the
# derivative of the mutual information by SNR is half the ideal error {cite}`guo2005mutual`.)

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
# ### Three paths, one bound, for data that are not Gaussian
#
# We take three paths between the *same* end points, $\lambda = 9$ and $\lambda=-9$: linear and
# cosine, each cut to that range, and a straight line in $\lambda$. The exact denoiser of the
# mixture above stands for the network, and its errors at every level are integrals over the line.

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
    "straight": (lambda u: HIGH - 18 * u, lambda lam: (HIGH - lam) / 18),
}


def chain(name, T):
    """T times evenly spaced along a path from λ = 9 to λ = -9."""
    lam_of, u_of = paths[name]
    first, last = u_of(torch.tensor([HIGH, LOW], **double)).tolist()
    return from_log_snr(lam_of(torch.linspace(first, last, T, **double)))


# %% tags=["hide-input"]
def errors(p, t):
    """Mean |x_0 − x̂_0|² and |x_0 − x̂_0|⁴ of the exact denoiser, by quadrature."""
    x = torch.linspace(-6, 6, 801, **double)[:, None]
    scale, noise = float(p.scale[t]), float(p.std[t]) ** 2
    var = scale**2 * widths**2 + noise  # of x_t, cluster by cluster
    log_q = weights.log() - ((x - scale * centres) ** 2 / var + var.log()) / 2
    share = torch.softmax(log_q, 1)  # of each cluster, given x_t
    mean = (centres * noise + scale * widths**2 * x) / var  # of x_0, given both
    within = widths**2 * noise / var
    d = mean - (share * mean).sum(1, keepdim=True)
    second = (share * (within + d**2)).sum(1)
    fourth = (share * (3 * within**2 + 6 * within * d**2 + d**4)).sum(1)
    q = log_q.exp().sum(1)
    return torch.stack([(q * second).sum(), (q * fourth).sum()]) / q.sum()


def all_errors(p, first=1):
    return torch.stack([errors(p, t) for t in range(first, p.T + 1)])


def weights_on_x0(p):
    """Of the bound, at t = 2..T, by the library."""
    return losses.on_x0(losses.vlb, p, torch.arange(2, p.T + 1)).double()


# The integrals themselves, on a fine grid of λ by the trapezoidal rule
fine = torch.linspace(HIGH, LOW, 361, **double)
second, fourth = all_errors(from_log_snr(fine)).T
height = 0.5 * fine.exp() * second  # ½ E|ε − ε̂|²
L_inf = float(torch.trapezoid(height, -fine))
nodes, node_weights = np.polynomial.legendre.leggauss(60)  # another rule
at_nodes = from_log_snr(torch.tensor(-9 * nodes))
snr_weights = torch.tensor(4.5 * node_weights * np.exp(-9 * nodes))
other = float((snr_weights * all_errors(at_nodes)[:, 0]).sum())
assert abs(other - L_inf) < 2e-3

Ts = (16, 64, 256, 1024)
excess = {}
for name in paths:
    for T in Ts:
        p = chain(name, T)
        found = (weights_on_x0(p) * all_errors(p, 2)[:, 0]).sum()
        excess[name, T] = float(found) - L_inf
rows = []
for name in paths:
    row = [excess[name, T] for T in Ts]
    rows.append((name, *(f"{v:.2f}" for v in row)))
    assert all(v > 0 for v in row)  # a finite chain lies above
    assert 3 < row[-2] / row[-1] < 6  # four times the steps, about a quarter
assert round(excess["linear", 64], 1) == 13.2
p = chain("linear", 64)  # its first step, and the area below that step
ends = schedules.log_snr(p.alpha_bar)[1:3].tolist()
inside = (fine <= ends[0]) & (fine >= ends[1])
first = float(weights_on_x0(p)[0] * all_errors(p, 2)[0, 0])
first -= float(torch.trapezoid(height[inside], -fine[inside]))
assert round(first, 1) == 12.7 and round(ends[1], 1) == 5.5
print(f"L_∞ = {L_inf:.3f} nats; what a chain of T steps has more, in nats:")
table(("path", *(f"T = {T:,}" for T in Ts)), rows)

# %% [markdown]
# All three fall to the same number, and the excess shrinks in the end like $1/T$. But how much is
# left at a given $T$ differs a great deal: with 64 steps the linear path still adds 13.2 nats to a
# bound of 3.8. Its first step alone, from $\lambda=9$ to 5.5, adds 12.7: at the clean end it is
# enormous in SNR. "Depends on the end points only" is a statement about the limit. This is also how
# a bound with an exact denoiser depends on $T$.

# %% mystnb={"image": {"alt": "Left: excess of the bound over its limit against the number of steps, both logarithmic; three falling lines, linear highest, straight lowest. Right: the integrand, half the expected noise error over log-SNR: one half at the clean end, a dip and a hump, then down to zero at the noisy end; the shaded area below it is the bound."}} tags=["hide-input"]
path_colour = colour | {"straight": plots.PURPLE}
fig, (left, right) = plt.subplots(1, 2, figsize=(7.5, 2.8))
for name in paths:
    row = [excess[name, T] for T in Ts]
    left.loglog(Ts, row, "o-", color=path_colour[name], label=name)
left.set(xlabel="steps $T$", ylabel="$L_T - L_\\infty$ (nats)")
left.set_xticks(Ts, labels=Ts)
left.minorticks_off()
left.legend()
right.plot(fine, height, color="black", lw=1)
right.fill_between(fine, height, color=plots.SKY, alpha=0.4)
right.set(
    xlabel="log-SNR λ (nats)",
    ylabel=r"½ E|ε − ε̂|²",
    xlim=(9, -9),
    title=f"area = {L_inf:.2f} nats",
    ylim=(0, None),
)
assert abs(height[0] - 0.5) < 0.01 and height[-1] < 0.001

# %% [markdown]
# **Fig. 5.4.** The bound is an area that no schedule can change; the excess of a finite chain
# depends on the path. Left: three lines whose slope tends to −1, at very different heights. Right:
# the integrand of (5.8); a schedule decides how densely this curve is sampled, never the area. At
# the clean end the curve is flat at ½: noise far smaller than the clusters cannot be told from the
# data, and each further nat of log-SNR costs half a nat per coordinate. That is why the bound of
# *continuous* data needs an end point $\lambda_{\max}$, and images a decoder, (4.13).
#
# ### The variance of its estimate depends on the path
#
# Training does not compute the area. It draws one $u$ per sample. The one-sample estimate is
# $\frac12|\lambda'(u)|\,\lVert\varepsilon-\hat\varepsilon\rVert^2$, whose mean is $L_\infty$ for
# every path. Its second moment is not. With
# $m(\lambda) = \mathrm E\lVert\varepsilon-\hat\varepsilon\rVert^4$,
# $\int_0^1\frac14\lambda'^2\,m\,\mathrm du = \frac14\int|\lambda'|\,m\,\mathrm d\lambda$, and
# $|\lambda'| = 1/p$ by (5.4):
#
# $$
# \operatorname{Var} = \tfrac14\int_{\lambda_{\min}}^{\lambda_{\max}}\frac{m(\lambda)}{p(\lambda)}\,\mathrm d\lambda - L_\infty^2 .
# \tag{5.10}
# $$
#
# Which path is best? By Cauchy–Schwarz $\left(\int\!\sqrt m\right)^2 =
# \left(\int\!\sqrt{m/p}\cdot\sqrt p\right)^2\le\int\! m/p\;\cdot\int\! p = \int\! m/p$, with
# equality exactly when $\sqrt{m/p}$ is a multiple of $\sqrt p$:
#
# $$
# p^*(\lambda) = \frac{\sqrt{m(\lambda)}}{\int\!\sqrt{m}}, \qquad \operatorname{Var}_{\min} = \tfrac14\left(\int\!\sqrt{m(\lambda)}\,\mathrm d\lambda\right)^2 - L_\infty^2 .
# \tag{5.11}
# $$
#
# Spend times where the loss is large, more exactly in proportion to its root mean square. Kingma et
# al. let a small network *learn* this schedule; [chapter 6](06_iddpm.ipynb) gets the same effect by
# importance sampling of $t$. The optimal path gives every step the same area under $\sqrt m$:

# %%
root_m = fine.exp() * fourth.sqrt()  # √m on the grid
strips = (root_m[1:] + root_m[:-1]) / 2 * (fine[:-1] - fine[1:])
area = torch.cat([torch.zeros(1, **double), strips.cumsum(0)])
least = float((area[-1] ** 2 / 4 - L_inf**2).sqrt())  # (5.11)

u = np.linspace(0, 1, 1000)
best_lam = np.interp(u, area / area[-1], fine)
candidates = {name: chain(name, 1000) for name in paths}
candidates["optimal"] = from_log_snr(torch.tensor(best_lam))

# %% tags=["hide-input"]
n, g = 40_000, seeded(0)
k = torch.multinomial(weights, n, replacement=True, generator=g)
x0 = centres[k] + widths[k] * torch.randn(n, generator=g, **double)
eps = torch.randn(n, generator=g, **double)


def one_draw_estimates(p):
    """(T-1) · L_{t→t-1} at one random t in 2..T for each sample, in nats."""
    t = torch.randint(2, p.T + 1, (n,), generator=seeded(1))
    mixture = oracle.Mixture(p, weights, centres, widths)
    error = x0 - mixture(p.q_sample(x0, t, eps), t).x0
    return (p.T - 1) * losses.on_x0(losses.vlb, p, t) * error**2


exact, rows = {}, []
for name, p in candidates.items():
    w = (p.T - 1) * weights_on_x0(p)
    two, four = all_errors(p, 2).T
    mean = float((w * two).mean())
    exact[name] = float(((w**2 * four).mean() - mean**2).sqrt())
    drawn = one_draw_estimates(p)
    error = float(drawn.std()) / n**0.5
    assert abs(float(drawn.mean()) - mean) < 4 * error
    rows.append((name, f"{mean:.2f}", f"{drawn.mean():.2f} ± {error:.2f}",
                 f"{exact[name]:.1f}", f"{drawn.std():.1f}"))
    assert name == "linear" or abs(float(drawn.std()) / exact[name] - 1) < 0.05
assert exact["linear"] > 1.8 * exact["cosine"] > 4 * exact["straight"]
assert least < exact["optimal"] < 1.01 * least < 0.7 * exact["straight"]
assert 15 < (exact["linear"] / exact["straight"]) ** 2 < 22
lam_median = float(np.interp(0.5, u, best_lam))
assert abs(lam_median - 4.6) < 0.1
print(f"least standard deviation by (5.11): {least:.2f}")
header = ("path, T = 1,000", "mean", "of 40,000 draws", "standard deviation")
table((*header, "of the draws"), rows)


# %% [markdown]
# The mean is the same on every path (a little above $L_\infty=3.81$, by the excess at $T=1000$),
# the standard deviations are not: 38 for linear, 8.8 for straight, 6.0 for the optimal path, which
# is within 1 % of the least possible, 5.98. For the same standard error the linear path needs 19
# times as many samples as the straight one, and the optimal path less than half as many. Half of
# its times lie above $\lambda=4.6$, at the clean end. The rest is not the choice of $t$ but the
# spread of $\varepsilon$ itself, which no path can remove.
#
# ## Weight times density: what a loss is trained on
#
# Images are hardly ever trained on the bound alone. With a weight $w(\lambda)$ on the
# $\varepsilon$-error and uniform times, training minimises
#
# $$
# L_w = \mathrm E_u\!\left[w\;\lVert\varepsilon-\hat\varepsilon\rVert^2\right] = \int p(\lambda)\,w(\lambda)\;\mathrm E\lVert\varepsilon-\hat\varepsilon\rVert^2\,\mathrm d\lambda .
# \tag{5.12}
# $$
#
# Only the *product* $p\,w$ matters for what is learned; we call it the importance.
# $L_{\text{simple}}$ has $w=1$: then **the schedule is the weighting**. The bound (5.8) has
# $p\,w=\frac12$ everywhere. So a change of schedule from $p_A$ to $p_B$ can be undone, in
# expectation, by $w_B = w_A\,p_A/p_B$, and what remains of the schedule is the variance (5.10) and
# the steps of the sampler. When a paper reports that schedule B beats A with $L_{\text{simple}}$,
# two things changed at once.
#
# Weights are stated for the $\varepsilon$-error in one paper, for $x_0$ or $v$ in another. One
# prediction has errors in all three,
#
# $$
# \lVert\varepsilon-\hat\varepsilon\rVert^2 = \operatorname{SNR}\,\lVert x_0-\hat x_0\rVert^2 = \bar\alpha\,\lVert v-\hat v\rVert^2 ,
# \tag{5.13}
# $$
#
# and each weight is multiplied accordingly:
#
# | weighting (`ddpmlib.losses`) | on $\varepsilon$ | on $x_0$ | on $v$ |
# |:--|:--|:--|:--|
# | `simple` (Ho et al. 2020) | $1$ | $\operatorname{SNR}$ | $\bar\alpha$ |
# | `vlb`, exact bound, $\operatorname{SNR}^-$ one step before | $\frac12(\operatorname{SNR}^-\!/\operatorname{SNR}-1)$ | $\frac12(\operatorname{SNR}^--\operatorname{SNR})$ | $\frac12(1-\bar\alpha)(\operatorname{SNR}^--\operatorname{SNR})$ |
# | `uniform_on_x0` | $1/\operatorname{SNR}$ | $1$ | $1-\bar\alpha$ |
# | `truncated_snr` (Salimans & Ho 2022) | $\max(1, 1/\operatorname{SNR})$ | $\max(\operatorname{SNR},1)$ | $\max(\bar\alpha,1-\bar\alpha)$ |
# | `min_snr(γ)` (Hang et al. 2023) | $\min(1,\gamma/\operatorname{SNR})$ | $\min(\operatorname{SNR},\gamma)$ | $\min(\bar\alpha,\gamma(1-\bar\alpha))$ |
# | a plain $v$-loss | $1/\bar\alpha$ | $1+\operatorname{SNR}$ | $1$ |
#
# :::{dropdown} Proof of (5.13)
# With one prediction, $\sqrt{\bar\alpha}\,x_0+\sqrt{1-\bar\alpha}\,\varepsilon = x_t =
# \sqrt{\bar\alpha}\,\hat x_0+\sqrt{1-\bar\alpha}\,\hat\varepsilon$, so
# $\varepsilon-\hat\varepsilon = -\frac{\sqrt{\bar\alpha}}{\sqrt{1-\bar\alpha}}(x_0-\hat x_0)$, and
# $v-\hat v = \sqrt{\bar\alpha}\,(\varepsilon-\hat\varepsilon)-\sqrt{1-\bar\alpha}\,(x_0-\hat x_0) =
# \left(\sqrt{\bar\alpha}+\frac{1-\bar\alpha}{\sqrt{\bar\alpha}}\right)(\varepsilon-\hat\varepsilon) =
# \frac{1}{\sqrt{\bar\alpha}}(\varepsilon-\hat\varepsilon)$.
# :::

# %% mystnb={"image": {"alt": "Two panels of importance over log-SNR on logarithmic axes. Left, one weighting and three schedules: the simple loss under linear, sigmoid and cosine times. Right, cosine times with five weightings: simple is the bell, the bound is flat, min-SNR falls on the clean side, plain x0 rises on the noisy side, plain v too."}} tags=["hide-input"]
fig, (left, right) = plt.subplots(1, 2, figsize=(7.5, 3.1), sharey=True)


def importance(weighting, p):
    """p(λ) w(λ) at the middle of each step t = 2..T."""
    lam = schedules.log_snr(p.alpha_bar)[1:]
    t = torch.arange(2, p.T + 1)
    return lam[1:], weighting(p, t) / (lam[:-1] - lam[1:]) / p.T


for name, p in three.items():
    left.semilogy(*importance(losses.simple, p), color=colour[name], label=name)
left.set(title="simple loss, three schedules", ylabel="importance $p\\,w$")
weightings = {
    "simple": losses.simple,
    "bound": lambda p, t: losses.vlb(p, t) * p.T,
    "min-SNR(5)": losses.min_snr(5),
    "plain $x_0$": losses.uniform_on_x0,
    "plain $v$": lambda p, t: 1 / p.alpha_bar[t],
}
at = {}
for label, weighting in weightings.items():
    lam_c, height_c = importance(weighting, three["cosine"])
    right.semilogy(lam_c, height_c, label=label)
    at[label] = np.interp([-5, 5], lam_c.flip(0), height_c.flip(0))
right.set(title="cosine, five weightings", ylim=(1e-3, 100))
for ax in (left, right):
    ax.set(xlabel="log-SNR λ (nats)", xlim=(10, -10))
    ax.legend(fontsize=9, loc="upper left", ncols=2)
lam_c, flat = importance(losses.vlb, three["cosine"])
inner = lam_c.abs() < 6
assert float((flat[inner] * 1000 / 0.5 - 1).abs().max()) < 0.1
assert at["min-SNR(5)"][1] < at["simple"][1] < at["bound"][1]
assert min(at["plain $x_0$"][0], at["plain $v$"][0]) > 30 * at["simple"][0]

# %% [markdown]
# **Fig. 5.5.** The three schedules *are* three weightings, and a weighting changes as much as a
# schedule. Left: $L_\text{simple}$ under three schedules. Right: one schedule and five weights: the
# bound is a horizontal line at ½, as (5.8) says; $L_{\text{simple}}$ weighs the clean end down and
# min-SNR further; plain losses on $x_0$ and on $v$ weigh the noisy end up.
#
# :::{admonition} Common misprint: learning-rate scheduler
# :class: warning
# A slide of [deck 004](../book/slides_map.md#deck-004), "Diffusion models", calls cosine and linear
# "learning-rate schedulers". They are *noise* schedules: $\beta_t$ is a variance, $t$ counts the
# steps of the forward process, and all $t$ occur in every batch. A learning-rate schedule
# (`Settings.lr_at(step)`, not `schedules.cosine(T)`) counts optimiser updates. For the same reason
# $T$ is not the number of training steps, which another slide of the deck takes it for.
# :::
#
# ## Larger images need more noise
#
# Noise is independent from pixel to pixel; neighbouring pixels of a picture are nearly equal.
# Average blocks of $n\times n$: the signal stays, the variance of the noise falls by $n^2$. So the
# *same* $\lambda$ leaves $n^2$ times the SNR for everything coarser than the blocks. To destroy a
# picture of $n$ times the side as thoroughly, its log-SNR must be lower by $\log n^2$,
#
# $$
# \lambda'(u) = \lambda(u) - 2\log n \quad\Longleftrightarrow\quad \bar\alpha' = \frac{\bar\alpha}{\bar\alpha+n^2\,(1-\bar\alpha)} .
# \tag{5.14}
# $$
#
# (The right side: $\bar\alpha'/(1-\bar\alpha') = \bar\alpha/(n^2(1-\bar\alpha))$, solved.) This is
# the *shift* of Hoogeboom et al. (2023) {cite}`hoogeboom2023simple`. In the frequency picture of
# [chapter 1](01_forward.ipynb), (1.15), it keeps each frequency, counted *in cycles per image*,
# above or below the noise at the same $t$. A photograph, 256 pixels wide and averaged down to 32:

# %% tags=["hide-input"] mystnb={"image": {"alt": "Four photographs of a temple, 32 pixels wide. Clean; with noise at log-SNR minus 1, hardly recognisable; the 256-pixel version with noise at the same log-SNR, averaged down to 32 pixels, clearly visible; the 256-pixel version with the shifted log-SNR, averaged down, as noisy as the second."}}
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
    "32 px, λ = −1": noisy(small, lam, 0),
    "256 px, λ = −1": pool(noisy(photo, lam, 1)),
    "256 px, shifted λ": pool(noisy(photo, lam - 2 * math.log(ratio), 2)),
}
fig, axes = plt.subplots(1, 4, figsize=(7.5, 2.1))
after = {}
for ax, (name, x) in zip(axes, versions.items(), strict=True):
    ax.imshow(x[0, 0], vmin=-1.5, vmax=1.5)
    ax.set_axis_off()
    ax.set_title(name, fontsize=9)
    if "clean" not in name:
        after[name] = -math.log(float((x - small).var()))
plt.show()
print("log-SNR of the 32-pixel picture, for unit signal power:")
print(", ".join(f"{name}: {v:.2f}" for name, v in after.items()))
assert abs(after["256 px, shifted λ"] - lam) < 0.15  # 1,024 pixels: ± 2·0.044
assert abs(after["256 px, λ = −1"] - lam - 2 * math.log(ratio)) < 0.15

# %% [markdown]
# **Fig. 5.6.** At the same $\bar\alpha$ a large picture is less destroyed than a small one. Second
# and third picture have the same $\lambda=-1$; the large one, averaged down to 32 pixels, has a
# log-SNR of 3.1 and is legible. After the shift by $-2\log8 = -4.2$ nats (fourth) it is as noisy as
# the small one. So a schedule tuned on 32-pixel images destroys the coarse layout of a 256-pixel
# image too late, by 4.2 nats of log-SNR.
#
# ## Zero terminal SNR: dark and bright pictures
#
# Under linear $\sqrt{\bar\alpha_T} = 0.0064$. Is that small? Take the coarsest feature, the mean
# brightness of an image of $D$ pixels. The coordinate of $x_0$ along the unit vector
# $(1,\dots,1)/\sqrt D$ is $\sqrt D$ times the brightness, while the noise along it has variance
# one. **Assume** that over the data the brightness is distributed as $\mathcal N(m,\tau^2)$ *and is
# independent of everything else in the image*, so that an exact denoiser treats this coordinate
# alone. (In real images brightness and content depend on each other; there the following is an
# estimate of the size of the effect.) At $T$ the coordinate has mean $\sqrt{\bar\alpha_T D}\,m$ and
# variance $V = \bar\alpha_T D\,\tau^2+1-\bar\alpha_T$, and the sampler starts it from
# $\mathcal N(0,1)$ instead. A perfect deterministic sampler is, along a line, a monotone map that
# carries the quantiles of $q(x_T)$ to those of $q(x_0)$; for Gaussians it carries standardised
# values over. A start at $z\sim\mathcal N(0,1)$ lies $(z-\sqrt{\bar\alpha_TD}\,m)/\sqrt V$ standard
# deviations from the mean, and comes out as
#
# $$
# \text{brightness} \sim \mathcal N\!\left(m\left(1-\tau\sqrt{\bar\alpha_T D/V}\right),\ \tau^2/V\right) .
# \tag{5.15}
# $$
#
# With $\bar\alpha_T D\,\tau^2$ large everything comes out near brightness 0, mid-grey: this is what
# Lin et al. (2024) {cite}`lin2024common` found in a well-known text-to-image model, which cannot
# draw a black or a white picture. Their remedy moves the *amplitudes* $a_t=\sqrt{\bar\alpha_t}$
# affinely so that the first stays and the last becomes zero:
#
# $$
# \sqrt{\bar\alpha_t'} = \left(\sqrt{\bar\alpha_t}-\sqrt{\bar\alpha_T}\right)\frac{\sqrt{\bar\alpha_1}}{\sqrt{\bar\alpha_1}-\sqrt{\bar\alpha_T}} .
# \tag{5.16}
# $$
#
# At $t=T$ an $\varepsilon$-network then has nothing to say ($\hat x_0$ would be $0/0$), so one
# predicts $v$ or $x_0$; and the sampler must really start at $T$ (`uniform_times`).

# %%
def zero_terminal(beta):
    a = (1 - beta).cumprod(0).sqrt()
    a[1:] = (a[1:] - a[-1]) * a[1] / (a[1] - a[-1])  # (5.16)
    beta = torch.zeros_like(beta)
    beta[1:] = 1 - (a[1:] / a[:-1]) ** 2
    return beta


# %% [markdown]
# We sample the brightness coordinate with its exact denoiser, for the mean and spread of our
# digits. The "latent" schedule is linear in $\sqrt{\beta_t}$ from $\sqrt{0.00085}$ to
# $\sqrt{0.012}$, the one that Lin et al. examined.

# %% tags=["hide-input"]
latent = torch.zeros(1001, **double)
latent[1:] = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, **double) ** 2
brightness = x_train.flatten(1).mean(1)
m, tau = float(brightness.mean()), float(brightness.std())
outcome, rows = {}, []
for name, beta in {
    "linear": schedules.linear(1000),
    "latent": latent,
    "latent, zero terminal SNR": zero_terminal(latent),
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
    rows.append((name, f"{float(p.scale[-1]):.5f}", *cells))
lost = {key: 1 - mean / m for key, (mean, _) in outcome.items()}
assert 0.25 < lost["latent", 64] < 0.3 and lost["latent", 512] > 0.9
assert outcome["latent", 512][1] < 0.5 * tau
assert 0.18 < lost["linear", 512] < 0.22 and lost["latent", 8] < 0.05
for name in ("latent, zero terminal SNR", "cosine"):
    assert all(abs(lost[name, side]) < 0.02 for side in (8, 64, 512))
print(f"brightness of the digits: {m:.2f} ± {tau:.2f}; of samples, by side of image:")
table(("schedule", "√ᾱ_T", "8 pixels", "64 pixels", "512 pixels"), rows)

# %% [markdown]
# On 8×8 pixels at most a twentieth of the mean brightness is lost. At $64\times64$ the latent
# schedule has lost more than a quarter of it, at $512\times512$ more than nine tenths, and more
# than half of the spread; plain linear loses a fifth there. With zero terminal SNR, and with
# cosine, the brightness is right at every size. The asserts in the cell hold (5.15) to these
# samples.
#
# ## Training noise and preconditioning after Karras et al.
#
# Karras et al. (2022) {cite}`karras2022elucidating` separate what a schedule mixes. A sampler has
# its path; training has a *distribution of noise levels*, a *weight* and a *preconditioning* of the
# network. Write $z=x_t/\sqrt{\bar\alpha_t}=x_0+\sigma\varepsilon$ with $\sigma=e^{-\lambda/2}$, and
# let $s$ be the standard deviation of the data, with mean zero.
#
# - **Noise levels:** $\ln\sigma\sim\mathcal N(-1.2,\,1.2^2)$, that is
#   $\lambda=-2\ln\sigma\sim\mathcal N(2.4,\,2.4^2)$: a bell like cosine's (5.5), centred 2.4 nats
#   further towards clean images.
# - **Preconditioning:** the network $F$ enters as
#   $\hat x_0=c_\text{skip}\,z+c_\text{out}\,F(c_\text{in}\,z)$. Three demands fix the coefficients:
#   the input $c_\text{in}\,z$ has variance one, the target
#   $F^*=(x_0-c_\text{skip}\,z)/c_\text{out}$ has variance one, and $c_\text{out}$, which multiplies
#   the errors of $F$, is as small as possible.
# - **Weight:** $1/c_\text{out}^2$ on the error of $x_0$, so that the loss is the plain squared
#   error of $F$.
#
# The second demand reads $c_\text{out}^2=(1-c_\text{skip})^2s^2+c_\text{skip}^2\sigma^2$. This is
# least at $c_\text{skip}=\frac{s^2}{s^2+\sigma^2}$, where
# $c_\text{out}^2=\frac{s^2\sigma^2}{s^2+\sigma^2}$: the error $\operatorname{mse}$ of (5.9), with
# $c=s$ and $r=1/\sigma^2$. So **$c_\text{skip}\,z$ is the best linear denoiser, $F$ learns what it
# misses, and the loss divides by its error.** An untrained $F=0$ costs one at every noise level.
# Translated by (5.13), with $\sigma^2=e^{-\lambda}=1/\operatorname{SNR}$,
#
# $$
# \lVert F-F^*\rVert^2 = \frac{\lVert x_0-\hat x_0\rVert^2}{c_{\text{out}}^2} = \left(1+\frac{e^{-\lambda}}{s^2}\right)\lVert\varepsilon-\hat\varepsilon\rVert^2 .
# \tag{5.17}
# $$
#
# For $s=1$ the weight is $1/\bar\alpha$, the plain $v$-loss, and $F$ itself is $-v$ ([appendix
# B](B_rosetta.ipynb), (B.11)). For data of unit variance EDM's training *is* a plain $v$-loss with
# another density of noise levels. Karras et al. take $s=0.5$ for images in $[-1,1]$. Does it fit
# the digits?

# %% tags=["hide-input"]
from ddpmlib.denoiser.parameterization import edm_preconditioning

s_ = sp.symbols("s", positive=True)
sigma_, skip_ = sp.symbols("sigma c_skip", positive=True)
out2 = (1 - skip_) ** 2 * s_**2 + skip_**2 * sigma_**2
best_skip = sp.solve(sp.diff(out2, skip_), skip_)[0]
assert sp.simplify(best_skip - s_**2 / (s_**2 + sigma_**2)) == 0
least_out2 = out2.subs(skip_, best_skip)
assert sp.simplify(least_out2 - s_**2 * sigma_**2 / (s_**2 + sigma_**2)) == 0
# (5.17): 1/c_out² on x_0, and ‖x_0 − x̂_0‖² = σ² ‖ε − ε̂‖²
assert sp.simplify(sigma_**2 / least_out2 - 1 - sigma_**2 / s_**2) == 0

size = float(x_train.square().mean().sqrt())
assert f"{x_train.mean():.2f} {x_train.std():.2f}" == "-0.39 0.75"
rows, power = [], {}
for s in (0.5, size):
    for sigma in (0.05, 0.5, 5.0):
        c_in, c_skip, c_out = edm_preconditioning(sigma, s)
        z = x_train + sigma * torch.randn(x_train.shape, generator=seeded(7))
        target = (x_train - c_skip * z) / c_out
        power[s, sigma] = [float((v**2).mean()) for v in (c_in * z, target)]
        rows.append((f"{s:.2f}", sigma, *(f"{v:.2f}" for v in power[s, sigma])))
assert all(abs(v - 1) < 0.03 for sigma in (0.05, 0.5, 5.0) for v in power[size, sigma])
assert abs(power[0.5, 0.05][0] - 2.85) < 0.01 > abs(power[0.5, 5.0][1] - 2.85)
table(("s", "σ", "mean square of the input", "mean square of the target"), rows)

# %% [markdown]
# With $s=0.85$, the root mean square of the digits, input and target have mean square one at every
# noise level; with 0.5 they reach 2.85. The digits' mean of $-0.39$ and their standard deviation of
# 0.75 both count. Measure $s$ before you use the recipe.
#
# ## The schedules by hand, and the library's
#
# Three schedules and the log-SNR in ten lines, with nothing but the standard library:


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


# %% tags=["hide-input"]
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
# And a weighting: `losses.weighted` multiplies the error of *whatever* the network predicts by the
# right factor of (5.13), so that the three kinds of network minimise the same number.

# %% tags=["hide-input"]
from ddpmlib.denoiser import EPS, X0

p = three["cosine"]


class Fixed(torch.nn.Module):
    """A fixed (and wrong) prediction of x_0, told as ε, x_0 or v."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, x, t, y=None):
        scale, std = p.kernel(t, x)
        prediction = torch.tanh(x)
        return self.kind.target(prediction, (x - scale * prediction) / std, scale, std)


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
        denoiser = Denoiser(Fixed(kind), p, kind)
        library = losses.weighted(weighting, denoiser, x0_batch, t, eps_batch)
        assert torch.allclose(library, on_x0 * error, rtol=1e-6)
print("four weightings, three kinds of network: one number")

# %% [markdown]
# ## One network under another schedule
#
# By (5.2) a network trained under one schedule can serve another: whenever the sampler stands at
# time $t$ of schedule A, ask the network at the time of schedule B that has the same $\lambda$. A
# short wrapper does it, and every sampler works with it.


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
    print(f"linear t = {t} (λ = {own:.2f}) is its own t = {there}")


# %% [markdown]
# ## Training digits under three schedules
#
# One small U-Net on 2×2 patches, 200 updates under each of the three schedules, with five seeds;
# all predict $v$ with the plain loss, so that the importance is $p(\lambda)/\bar\alpha$. We compare
# their errors on unseen scans *at the same noise levels*, so that the schedule enters through
# training alone. The fifteen trainings, a few seconds each, are on record in `data/results` (module
# `ddpmlib.experiments.digit_schedules`). One of them runs here, with half of the updates:

# %%
half_trained = digit_schedules.train("cosine", seed=0, updates=100)
errors_here = digit_schedules.errors(half_trained)

# %% tags=["nbval-ignore-output", "hide-input"]
on_record = digit_schedules.errors_of("cosine")[0]
assert (np.array(errors_here) > on_record)[:5].all()
rows = [
    ("100 updates, here", *(f"{v:.2g}" for v in errors_here)),
    ("200 updates, on record", *(f"{v:.2g}" for v in on_record)),
]
table(("error of ε at", *(f"λ = {v:g}" for v in digit_schedules.LEVELS)), rows)

# %% [markdown]
# The second hundred updates still lower the error from $\lambda=6$ to $-2$. With 200 updates each:

# %% tags=["hide-input"] mystnb={"image": {"alt": "Errors of networks trained under sigmoid and cosine, as a share of the error of the network trained under linear, over log-SNR from 6 to minus 8, five thin lines each for five seeds. Cosine lies below one from 6 to minus 4, lowest near 2, and slightly above one at minus 6 and minus 8; sigmoid lies below one from 6 to 2 and on one elsewhere."}}
fig, ax = plt.subplots(figsize=(7.5, 2.9))
_ = digit_schedules.figure(ax)
error = {name: digit_schedules.errors_of(name) for name in three}
cosine_share = error["cosine"] / error["linear"]
sigmoid_share = error["sigmoid"] / error["linear"]
assert (cosine_share[:, :6] < 1).all() and (cosine_share[:, 1:3] < 0.9).all()
assert (sigmoid_share[:, :3] < 0.98).all()
assert (abs(sigmoid_share[:, 3:] - 1) < 0.015).all()
assert (abs(cosine_share[:, 6] - 1.02) < 0.01).all()
assert (abs(cosine_share[:, 7] - 1.06) < 0.01).all()

# %% [markdown]
# **Fig. 5.7.** After the same short training, networks trained under cosine predict better than
# those trained under linear at every noise level from $\lambda=6$ to $-4$, whatever the seed. Each
# thin line is one of five seeds: the error of $\hat\varepsilon$ on unseen scans, divided by that of
# the linear network of the same seed. Cosine's error is lower by more than a tenth at $\lambda=4$
# and 2. Beyond $-6$ linear has a quarter of its times, which bring it little: there cosine's error
# is larger by 2 % to 6 %. Sigmoid gains on linear at the clean end only, from 6 to 2.
#
# The samples follow. Each network draws 300 digits in 25 ancestral steps, evenly spaced in *cosine*
# time for all, and we take the Fréchet distance of the features of our digit classifier to the
# training scans (± the standard error over the seeds):

# %% tags=["hide-input"]
far, floor = {}, 0.0
for row in results.rows("digit_schedules"):
    far[row["schedule"], row["seed"]] = row["frechet"]
    floor = row["frechet_floor"]
ahead = {
    name: np.array([far["linear", seed] - far[name, seed] for seed in range(5)])
    for name in ("sigmoid", "cosine")
}
assert (ahead["cosine"] > 15).all() and (ahead["sigmoid"] > 0).all()
assert abs(ahead["cosine"].mean() - 34) < 0.5
mean, deviation = ahead["sigmoid"].mean(), ahead["sigmoid"].std(ddof=1)
assert abs(mean - 6) < 0.5 and abs(deviation / 5**0.5 - 2) < 0.5
assert all(distance > 90 * floor for distance in far.values())
Markdown(digit_schedules.table())

# %% [markdown]
# With every seed the cosine network is ahead of the linear one, by 34 on average. Sigmoid, too, is
# ahead of linear with each of the five seeds, by 6 ± 2, which is hardly resolved. All numbers are
# about a hundred times the floor (each network has seen each scan seven times). So at this budget
# the advantage of cosine comes from *training*, from the noise levels to which it gives weight,
# (5.12). The three differ in their weighting too, because with a plain $v$-loss the schedule *is*
# the weighting. Whether the lead survives a long training is another question, which [chapter
# 9](09_scoreboard.ipynb) studies on MNIST.


# %% [markdown]
# ## The MNIST network on three paths
#
# The `mnist` checkpoint, whose card names its schedule. The same start noise, ten deterministic
# steps, evenly spaced in the time of three different paths: its own, linear, and a straight line in
# $\lambda$ from 9 to −9.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Three rows of ten generated MNIST digits, zero to nine, from the same noise: along the cosine path, along the linear path, along the straight path. All rows show the same legible digits with small differences in strokes."}}
mnist_net, mnist_card = zoo.load("mnist", device="cpu")
mnist_classifier, _ = zoo.load("mnist-classifier", device="cpu")
assert mnist_card.recipe["schedule"] == "cosine"
y = torch.arange(10).repeat(6)
x_T = torch.randn(60, *mnist_card.image_shape, generator=seeded(5))
straight = from_log_snr(torch.linspace(9, -9, 1000, **double))
drawn, agree = {}, {}
for name, p in {
    "cosine": three["cosine"],
    "linear": three["linear"],
    "straight": straight,
}.items():
    x = draw(OnPath(mnist_net, p), p, x_T, uniform_times(p.T, 10), eta=0.0, y=y)
    drawn[name] = x
    _, logits = features.extract(mnist_classifier, x)
    agree[name] = metrics.class_agreement(logits, y)
fig, ax = plt.subplots(figsize=(7.5, 2.3))
plots.grid(torch.cat([x[:10] for x in drawn.values()]), ncol=10, ax=ax)
assert min(agree.values()) > 0.95
shift = lambda a, b: float((drawn[a] - drawn[b]).square().mean().sqrt())
unlike = float((drawn["cosine"] - drawn["cosine"].roll(10, 0)).square().mean().sqrt())
assert max(shift("cosine", "linear"), shift("cosine", "straight")) < 0.2 * unlike

# %% [markdown]
# **Fig. 5.8.** One network, three paths, nearly the same digits from the same noise: deterministic
# sampling solves the same equation on three grids. From top to bottom: cosine (its own), linear,
# straight. The paths differ by less than a fifth of what two digits of a class do (root mean
# square). Of 60 digits on each path more than 95 % are read as the digit that was asked for. This
# isolates the sampler's half of a schedule; in [chapter 9](09_scoreboard.ipynb) each schedule gets
# a network that was trained *under* it.
#
# ## How much of the reverse chain can be skipped?
#
# Nichol & Dhariwal's argument for cosine {cite}`nichol2021improved` was an experiment: cut off the
# *first* $x$ % of the reverse chain and watch the FID. We repeat it on digits with one network for
# both schedules. The sampler starts at $t=(1-x)\,T$ from pure noise, as if that were already $T$,
# and keeps the spacing of its 20 steps. How far off is that start? The distance (1.17) between
# $q(x_t)$ and pure noise, bounded from below by two moments of the data, says so *before* any
# sampling.

# %% tags=["nbval-ignore-output", "hide-input"] mystnb={"image": {"alt": "Left: Fréchet distance against the share of the chain skipped, logarithmic, with error bars over three seeds. Linear stays level up to 45 percent and rises at 60; cosine rises from 30 percent on, to many times the start. Right: lower bound of the divergence from pure noise over the same share; cosine crosses a tenth of a nat at 5 percent, linear at 30."}}
classifier, _ = zoo.load("digits-classifier", device="cpu")
real, _ = features.extract(classifier, digits.x_train)
unseen, _ = features.extract(classifier, digits.x_test[:150])
real_150 = metrics.frechet_distance(unseen, real)
flat = x_train.flatten(1).double()
moments = flat.mean(0), torch.cov(flat.T)
left_over, to_spare = {}, {}
for name, p in three.items():
    gaussian = oracle.Gaussian(p, *moments)
    kl = np.array([gaussian.kl_to_prior(t) for t in range(1, p.T + 1)])
    left_over[name] = kl
    to_spare[name] = 1 - (int((kl < 0.1).argmax()) + 1) / 1000

fractions = (0.0, 0.3, 0.45, 0.6)
y = torch.arange(10).repeat(15)
distance = {}
for name in ("linear", "cosine"):
    p = three[name]
    for skip in fractions:
        times = uniform_times(round(1000 * (1 - skip)), round(20 * (1 - skip)))
        for seed in range(3):
            g = seeded(seed)
            x = torch.randn(len(y), 1, 8, 8, generator=g)
            x = draw(OnPath(digits_net, p), p, x, times, y=y, generator=g)
            h, _ = features.extract(classifier, x)
            found = metrics.frechet_distance(h, real)
            distance.setdefault((name, skip), []).append(found)

fig, (ax, right) = plt.subplots(1, 2, figsize=(7.5, 2.9))
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
    yticks=[5, 10, 20, 50, 100],
    yticklabels=[5, 10, 20, 50, 100],
)
ax.legend()
right.axhline(0.1, color="grey", lw=0.8)
right.set(
    xlabel="first part of the chain skipped (%)",
    ylabel="KL to pure noise ≥ (nats)",
    xlim=(0, 65),
    ylim=(1e-4, 50),
)
plt.show()
mean = {key: np.mean(v) for key, v in distance.items()}
assert max(mean["linear", 0.3], mean["linear", 0.45]) < 1.1 * mean["linear", 0.0]
assert max(distance["linear", 0.0]) < min(distance["linear", 0.6])
assert max(distance["cosine", 0.0]) < min(distance["cosine", 0.3])
assert 1.7 < mean["cosine", 0.3] / mean["cosine", 0.0] < 2.5
assert 17 < mean["cosine", 0.6] / mean["cosine", 0.0] < 25
assert abs(to_spare["linear"] - 0.30) < 0.01 and abs(to_spare["cosine"] - 0.05) < 0.01
rows = []
for name in ("linear", "cosine"):
    cells = [np.array(distance[name, f]) for f in fractions]
    rows.append((name, *(f"{c.mean():.1f} ± {c.std(ddof=1):.1f}" for c in cells)))
print(f"Fréchet distance, 150 samples, 3 seeds; 150 real, unseen scans: {real_150:.1f}")
table(("skipped", *(f"{f:.0%}" for f in fractions)), rows)

# %% [markdown]
# **Fig. 5.9.** Linear can skip 45 % of the reverse chain, cosine not even 30 %. Left: the linear
# chain shows no loss when its first 30 % or 45 % are left out, and a clear one at 60 %; the cosine
# chain is twice as far at 30 % and twenty times at 60 %. Bars are standard deviations of three
# seeds; grey: 150 real, unseen scans. Right: the lower bound of the divergence from pure noise
# falls below 0.1 nats (grey) after 30 % under linear and after 5 % under cosine, without any
# sampling.
#
# Network and data are the same for both curves, so this is purely *where the times are*. Steps
# beyond that point turn noise into other noise. On large images more noise is needed, by (5.14),
# and linear is less wasteful there: it was designed on larger images than ours.
#
# ## How long should the chain be? Bound, quality and seconds
#
# Three questions hide in the choice of $T$.
#
# - **The bound.** With an exact denoiser its excess falls like $1/T$ (Fig. 5.4, and [chapter
#   4](04_elbo.ipynb), Fig. 4.4). Deck 004 has a slide on the bound of trained networks for each
#   $T$; our recorded bounds are all of $T=1000$, so this page leaves that question open.
# - **Time.** A sampler costs what its network calls cost. $T$ fixes the number of calls only if
#   every time is visited.
# - **Quality.** The deck reports for CIFAR-10 FIDs that fall with $T$: 300, 270 and 230 at $T=500$,
#   1,000 and 2,000. Three MNIST networks of [chapter 9](09_scoreboard.ipynb), one each trained with
#   these $T$ on the same linear path, at the same number of calls:

# %% tags=["hide-input"]
rows, of_calls = [], {}
for calls in (50, 250):
    for T, run in ((500, "linear-T500"), (1000, "linear"), (2000, "linear-T2000")):
        row = results.rows("lengths", run=run, method="beta_tilde", steps=calls)[0]
        low, high = row["frechet_interval"]
        seconds = 1000 * row["seconds"] / row["n"]
        of_calls[calls, T] = row["frechet_interval"], seconds / calls
        rows.append(
            (f"{T:,}", calls, f"{row['frechet']:.2f} ({low:.2f} to {high:.2f})",
             f"{seconds:.0f}", f"{seconds / calls * T:.0f}")
        )
for calls in (50, 250):
    lows, highs = zip(*(of_calls[calls, T][0] for T in (500, 1000, 2000)), strict=True)
    assert max(lows) < min(highs)  # all intervals share a value
per_call = [v for _, v in of_calls.values()]
assert max(per_call) < 1.35 * min(per_call)
header = ("T", "calls", "Fréchet distance", "seconds, 1,000 images")
table((*header, "if all T times are visited"), rows)

# %% [markdown]
# The seconds (one CPU thread) follow the calls, whatever $T$ is: about 0.2 s per call for a
# thousand images, from 10 s for 50 calls to about 400 s for all 2,000. The distances rise a little
# with $T$, against the deck's order, but their intervals overlap and each network was trained once:
# a difference is not resolved. Visiting every time of a longer chain makes generation slower; that
# it makes it better is not seen here.
#
# ## What goes wrong
#
# Three bugs that run without an error.
#
# ### The betas of T = 1000 at T = 100
#
# `linear(100, 1e-4, 0.02)`: the table looks right, each $\beta_t$ is one that Ho et al. used. But
# only a tenth of the noise is added, and the sampler starts from pure noise where 36 % of the
# signal's power should be. The network is told $\lambda_T=-0.6$.

# %% tags=["nbval-ignore-output", "hide-input"] mystnb={"image": {"alt": "Two blocks of twenty generated 8 by 8 digits, two of each class. With rescaled betas they are clean digits; with the unscaled betas many are thicker, smeared or broken."}}
right_one = DDPM(schedules.linear(100))
wrong_one = DDPM(schedules.linear(100, 1e-4, 0.02))
fig, axes = plt.subplots(1, 2, figsize=(7.5, 2))
y, score, read, rows = torch.arange(10).repeat(20), {}, {}, []
for ax, (name, p) in zip(
    axes, {"rescaled": right_one, "unscaled": wrong_one}.items(), strict=True
):
    g = seeded(0)
    x = torch.randn(200, 1, 8, 8, generator=g)
    denoise = OnPath(digits_net, p)
    x = draw(denoise, p, x, uniform_times(100, 20), y=y, generator=g)
    h, logits = features.extract(classifier, x)
    score[name] = metrics.frechet_distance(h, real)
    read[name] = metrics.class_agreement(logits, y)
    plots.grid(x[:20], ncol=10, ax=ax, title=f"betas {name}")
    lam_T = float(schedules.log_snr(p.alpha_bar)[-1])
    rows.append((name, f"{lam_T:.1f}", f"{score[name]:.0f}", f"{read[name]:.0%}"))
plt.show()
assert 3.5 < score["unscaled"] / score["rescaled"] < 5
assert read["rescaled"] > 0.98 and 0.87 < read["unscaled"] < 0.93
table(("betas", "λ_T", "Fréchet distance, 200 samples", "class agreement"), rows)

# %% [markdown]
# **Fig. 5.10.** Unscaled betas spoil the samples of a good network. With them the Fréchet distance
# is four times as large, and one sample in ten is read as another digit: the network takes pure
# noise for a state that still has 36 % of the signal.
#
# More training does not help: the network is right, the *start* is wrong. The test that catches it:
# `test_default_schedules_end_in_noise_at_every_length` in `tests/derivations/test_ch05.py`; it asks
# every default schedule for $\operatorname{KL}(q(x_T)\,\|\,\mathcal N)$ on digits, at six values of
# $T$.
#
# ### Tables in float32, or less
#
# $\bar\alpha_t$ is a product of a thousand numbers near one, and what is needed is the small
# difference $1-\bar\alpha_t$. Here is its worst relative error at $t\le10$, cosine schedule:

# %% tags=["hide-input"]
rows = []
for T in (1000, 4000):
    beta = schedules.cosine(T)
    true = 1 - (1 - beta).cumprod(0)
    worst = []
    for dtype in (torch.float32, torch.bfloat16):
        rough = 1 - (1 - beta.to(dtype)).cumprod(0)
        worst.append(float((rough.double() / true - 1)[1:11].abs().max()))
    rows.append((f"{T:,}", *(f"{v:.1%}" for v in worst)))
    assert worst[0] < 0.01 and worst[1] == 1
table(("T", "float32", "bfloat16"), rows)

# %% [markdown]
# In bfloat16 the first steps *vanish*: $1-4\cdot10^{-5}$ rounds to one, the error is 100 %, and
# $\hat\varepsilon$ is a division by zero. In float32 it is a fraction of a percent, enough to fail
# a comparison with a reference, not to be seen. The tables of this library are float64 and cast at
# use; `test_tables_lose_the_first_steps_in_low_precision` holds the numbers.
#
# ### An ε-network at the end of the cosine schedule
#
# Without its clip cosine has $\beta_T=1$, $\bar\alpha_T=0$: legitimate for a $v$- or $x_0$-network,
# impossible for an $\varepsilon$-network, whose $\hat x_0 =
# (x_t-\sqrt{1-\bar\alpha_t}\,\hat\varepsilon)/\sqrt{\bar\alpha_t}$ divides by zero. Even *with* the
# clip the last time amplifies. An error $\delta$ in $\hat\varepsilon$ at $T$ becomes in $x_s$, by
# (2.10), an error of
# $\delta\,\sqrt{\bar\alpha_s/\bar\alpha_T}\;\beta_{T\mid s}/\sqrt{1-\bar\alpha_T}$. For $\delta=1$:

# %% tags=["hide-input"]
def amplification(p, s):
    a_T, a_s = float(p.alpha_bar[-1]), float(p.alpha_bar[s])
    if a_T == 0:
        return math.inf
    return (a_s / a_T) ** 0.5 * (1 - a_T / a_s) / (1 - a_T) ** 0.5


unclipped = DDPM(schedules.cosine(1000, max_beta=1.0))
rows = [
    (name, *(f"{amplification(p, s):.2g}".replace("inf", "∞") for s in (999, 980, 900)))
    for name, p in (three | {"cosine, no clip": unclipped}).items()
]
assert 31 < amplification(three["cosine"], 999) < 33
assert 600 < amplification(three["cosine"], 980) < 650
assert amplification(three["linear"], 999) < 0.03
assert amplification(three["linear"], 980) < 2
table(("schedule", "from T to 999", "from T to 980", "from T to 900"), rows)

# %% [markdown]
# This is a warning about *combinations*: an $\varepsilon$-network, the cosine schedule and a
# strided sampler. Already the single step from $T$ multiplies the network's error by 32, where
# linear divides it by 50; a stride of 20 multiplies it by 630. Clamp $\hat x_0$ to the range of
# images, start a little below $T$, or predict $v$, whose $\hat x_0$ divides by nothing. Our image
# checkpoints predict $v$. The test: `test_a_strided_first_step_blows_up_eps_errors_under_cosine`.
#
# ## Exercises
#
# Write your answer into the cell below each question and take the `#` off its last line: the check
# says yes, or gives a hint. ★ asks for a derivation, ★★ for code, ★★★ for a small project of both.
# Solutions are folded.
#
# ### ★ Exercise 5.1: Where the cosine path is, and where a larger image needs it
#
# (a) At which fraction $u=t/T$ does the cosine schedule with $s=0$ reach $\lambda=0$, and (b) at
# which does it reach $\lambda=-6$? (c) A schedule works at 64×64 pixels. By how many nats must its
# log-SNR be shifted for 256×256? Give three numbers.
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
# ### ★★ Exercise 5.2: Train under one schedule as if it were another
#
# A colleague's network must be trained under the schedule B (its sampler needs it), but she wants
# what $L_\text{simple}$ under A would learn. Write `undo(bar_a, bar_b)`: from the tables
# $\bar\alpha_0,\dots,\bar\alpha_T$ of both (their lengths may differ), the weights of the
# $\varepsilon$-error at $t=1,\dots,T_B$, a tensor of length $T_B$. The mean of any error that
# depends on $\lambda$ alone, weighted over the times of B, must be its mean over the times of A. At
# noise levels that A does not visit the weight is 0.
#
# :::{dropdown} Hint
# $p_A/p_B$ by (5.4): how many times of A lie between two neighbouring log-SNRs of B, per time of B?
# Read the fraction $u$ of A as a function of $\lambda$ (`np.interp` wants rising abscissae) and
# take differences between the midpoints of B's levels.
# :::

# %%
answer = ...  # a function (bar_a, bar_b) -> weights (T_B,)

# exercises.check("5.2", answer)


# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
# Solution of exercise 5.2: the share of A's times in the cell
# of each level of B
def undo(bar_a, bar_b):
    lam_a, lam_b = (torch.logit(bar[1:].double()) for bar in (bar_a, bar_b))
    middles = (lam_b[1:] + lam_b[:-1]) / 2
    edges = np.concatenate([[np.inf], middles.numpy(), [-np.inf]])
    u = (np.arange(len(lam_a)) + 0.5) / len(lam_a)  # from clean to noise
    rising, share_below = lam_a.numpy()[::-1], 1 - u[::-1]
    below = np.interp(edges, rising, share_below, left=0, right=1)
    share = below[:-1] - below[1:]
    return torch.tensor(share * len(lam_b))


exercises.check("5.2", undo)

# %% [markdown]
# ### ★★ Exercise 5.3: Karras' noise levels on a table
#
# Write `noise_levels(alpha_bar, n, generator)`: $n$ times, a tensor of whole numbers in
# $1,\dots,T$, drawn with the generator such that their log-SNR follows Karras' training
# distribution $\lambda\sim\mathcal N(2.4,\,2.4^2)$. A level that the table does not have becomes
# the nearest that it has.
#
# :::{dropdown} Hint
# Draw $\lambda$ first, then look for the nearest entry: `OnPath` above does the second half.
# :::

# %%
answer = ...  # a function (alpha_bar, n, generator) -> times (n,)

# exercises.check("5.3", answer)


# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
# Solution of exercise 5.3
def noise_levels(alpha_bar, n, generator):
    normal = torch.randn(n, generator=generator, dtype=torch.float64)
    lam = 2.4 + 2.4 * normal
    table = torch.logit(alpha_bar[1:].double())
    return (lam[:, None] - table).abs().argmin(1) + 1


exercises.check("5.3", noise_levels)

# %% [markdown]
# ### ★★★ Exercise 5.4: The path of least variance
#
# Write `best_path(lam, m, T)`: `lam` is a falling grid of log-SNRs, *not evenly spaced*, `m` holds
# $m(\lambda)=\mathrm E\lVert\varepsilon-\hat\varepsilon\rVert^4$ there. Return $T$ log-SNRs from
# `lam[0]` down to `lam[-1]`, such that uniform times on them have the density (5.11). The check
# also estimates the bound along your path and compares the variance of the estimate with the least
# possible.
#
# :::{dropdown} Hint
# Equal shares of the area under $\sqrt m$: cumulate the area by the trapezoidal rule, with the
# widths of the grid's cells, normalise to $[0,1]$, and invert by interpolation (`np.interp`).
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
# 1. A schedule is a path downhill in log-SNR; a noisy sample depends on its $\lambda$ and on
#    nothing else of the schedule.
# 2. The continuous-time bound is an area over the log-SNR axis: it depends on the end points. The
#    path sets the variance of its estimate, and the excess of a finite chain.
# 3. What is learned depends on weight × density, so with $L_{\text{simple}}$ the schedule *is* the
#    weighting; $\lVert\varepsilon-\hat\varepsilon\rVert^2 =
#    \operatorname{SNR}\lVert x_0-\hat x_0\rVert^2 = \bar\alpha\lVert v-\hat v\rVert^2$ translates
#    all weights, those of Karras et al. included.
# 4. On 8×8 digits linear spends nearly half of its reverse chain where the digits are already
#    noise, and can skip it. Larger images need a shift by $-2\log n$.
# 5. Check the end: $\bar\alpha_T D\,\tau^2$ against one, `kl_to_prior`, and no unscaled betas.
#
# The equations of this chapter, the functions that implement them, the tests that pin them:

# %% mystnb={"code_prompt_show": "Equations, functions, tests", "code_prompt_hide": "Hide the table"} tags=["hide-cell"]
equations.table("05")

# %% [markdown]
# ## Further reading
#
# - Nichol & Dhariwal (2021), *Improved DDPM* {cite}`nichol2021improved`: section 3.2, the cosine
#   schedule and the skipping experiment.
# - Kingma, Salimans, Poole & Ho (2021), *Variational diffusion models*
#   {cite}`kingma2021variational`: section 5, the invariance (5.7) and the schedule of least
#   variance.
# - Kingma & Gao (2023), *Understanding diffusion objectives as the ELBO with simple data
#   augmentation* {cite}`kingma2023understanding`: weight × density, for all objectives in use.
# - Karras, Aittala, Aila & Laine (2022) {cite}`karras2022elucidating`: section 5 and their
#   derivation of the preconditioning.
# - Hang et al. (2023), *Min-SNR* {cite}`hang2023efficient`; Salimans & Ho (2022)
#   {cite}`salimans2022progressive`, section 4, for the truncated SNR.
# - Hoogeboom, Heek & Salimans (2023), *Simple diffusion* {cite}`hoogeboom2023simple`, and Chen
#   (2023) {cite}`chen2023importance`: schedules and image size.
# - Lin et al. (2024), *Common diffusion noise schedules and sample steps are flawed*
#   {cite}`lin2024common`: zero terminal SNR.
# - Guo, Shamai & Verdú (2005) {cite}`guo2005mutual`: information and the least mean-square error.
