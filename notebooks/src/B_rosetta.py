# %% [markdown]
# # B. Rosetta: one process, many notations
#
# [![Open in Colab](../book/_static/colab.svg)](https://colab.research.google.com/github/ddpm-book/ddpm-book/blob/main/notebooks/B_rosetta.ipynb)
#
# Papers on diffusion models write the same mathematics in different symbols. One paper's $\alpha_t$
# is another's $\sqrt{\bar\alpha_t}$; data sit at $t=0$ here and at $t=1$ there; a network predicts
# $\varepsilon$, a score, a velocity, or something called $F_\theta$. This page puts the conventions
# side by side, derives each translation, and runs it. In Fig. B.1 one network draws the same digits
# in five conventions; unfold the cell, and each of them is one line.

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

# %% tags=["hide-input"] mystnb={"image": {"alt": "Five rows of the digits 0 to 9. The first four rows, DDIM, EDM, rectified flow and flow matching, are the same picture. The fifth, Euler steps in the time of the VP-SDE, shows the same digits with other shades of grey."}}
from itertools import pairwise

import matplotlib.pyplot as plt
import torch
from ddpmlib import plots, zoo
from ddpmlib.denoiser import (
    EPS,
    SCORE,
    VELOCITY,
    X0,
    V,
    oracle,
    parameterization,
)
from ddpmlib.guidance import ClassifierFree
from ddpmlib.prediction import Prediction
from ddpmlib.process import (
    DDPM,
    EDM,
    VDM,
    VE,
    VP,
    FlowMatching,
    Process,
    RectifiedFlow,
    ZeroBased,
    beta_from_alpha_bar,
    kernel,
    schedules,
)
from ddpmlib.samplers import draw, sample, uniform_times
from ddpmlib.teaching import exercises
from IPython.display import Markdown

denoiser, card = zoo.load("digits", device="cpu")
process, T = denoiser.process, denoiser.process.T
log_snr = schedules.log_snr(process.alpha_bar)  # λ_t, falling from +∞
double = {"dtype": torch.float64}


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def prediction(c, u, z, y):
    """x̂_0 and ε̂ at data z with label u of the convention c."""
    lam, x_t = c.to_book(u.expand(len(z)), z)
    t = process.time_of(lam)
    x0 = denoiser(x_t.float(), t, y).x0.double()
    a, b = c.coefficients(u)
    return x0, (z - a * x0) / b


@torch.no_grad()
def euler(c, x_T, times, y):
    """Follow dz/du by Euler's method, in the convention c."""
    labels = c.time_of(log_snr[torch.tensor(times)])
    _, z = c.from_book(log_snr[-1:].expand(len(x_T)), x_T)
    for u, then in pairwise(labels):
        x0, eps = prediction(c, u, z, y)
        z = z + (then - u) * c.velocity(u.expand(len(z)), x0, eps)
    return z


def in_rows(rows):
    """Images of 8×8 pixels, ten in each named row."""
    _, ax = plt.subplots(figsize=(7.0, 0.66 * len(rows)))
    plots.grid(torch.cat(list(rows.values())).clamp(-1, 1), ncol=10, ax=ax)
    ax.set_axis_on()
    ax.grid(False)
    ax.set(xticks=[], yticks=[3.5 + 9 * i for i in range(len(rows))], yticklabels=rows)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)


times, y = uniform_times(T, 12), torch.arange(10)
g = seeded(3)
x_T = torch.randn(10, *card.image_shape, generator=g, **double)
rows = {"DDIM": draw(denoiser, process, x_T.float(), times, eta=0.0, y=y).double()}
conventions = {
    "EDM": EDM(),
    "rectified flow": RectifiedFlow(),
    "flow matching": FlowMatching(),
    "VP-SDE": VP(),
}
rows |= {name: euler(c, x_T, times, y) for name, c in conventions.items()}
in_rows(rows)
apart = {name: float((row - rows["DDIM"]).abs().max()) for name, row in rows.items()}
assert all(far < 1e-3 for name, far in apart.items() if name != "VP-SDE")
assert apart["VP-SDE"] > 0.1
assert 20_000 < float(EDM().time_of(log_snr[-1:])) < 20_500
assert rows["DDIM"].min() > -1.3 and rows["DDIM"].max() < 1.3  # clipped to be shown

# %% [markdown]
# **Fig. B.1.** Four of five conventions give the same pixels. Twelve calls of one network in each
# row, from the same noise. EDM begins with numbers of the size $\sigma\approx20{,}000$, flow
# matching counts its time from noise to data, and rectified flow, EDM and DDIM the other way; yet
# the first four rows agree to $10^{-3}$ in every pixel. Equation (B.15) says why they must. The
# VP-SDE follows the same curve, but in a time in which the curve is bent, so the errors of its
# steps are others.
#
# ## Objectives
#
# After this page you can
#
# - say of any diffusion paper where its data are, how it names the noise level, how large its noisy
#   data are, and what its network predicts;
# - translate noise levels, noisy data and predictions to and from this book's, by three formulas;
# - use a network that was trained in one convention with a sampler that was written in another;
# - read classifier-free guidance in its log-SNR form, and run it with this library;
# - name what does not translate: rounding between steps, the ends of the scale, the variance of a
#   noisy step, and the weight of the loss.
#
# ## One process in three coordinate systems
#
# Whatever the letters, noisy data are the clean ones times a number, plus noise times another:
#
# $$
# z = a\,x_0 + b\,\varepsilon,\qquad \varepsilon\sim\mathcal N(0, I).
# \tag{B.1}
# $$
#
# A convention chooses a label $u$ for the pair $(a, b)$ and how $a$ and $b$ depend on it. Fig. B.2
# shows ten particles on their deterministic way from noise to two clusters, three times the same
# ten.

# %% mystnb={"image": {"alt": "Three panels with ten curves each. In the book's coordinates the curves wave from a spread around zero to two clusters. In EDM's they start far apart and come in like a funnel. In those of rectified flow they look much like the first, with a waist in the middle."}} tags=["hide-input"]
exact = oracle.Mixture(
    process,
    weights=torch.tensor([0.4, 0.6], **double),
    means=torch.tensor([-1.0, 0.8], **double),
    stds=torch.tensor([0.12, 0.2], **double),
)

start = torch.linspace(-1.6, 1.6, 10, **double)
states = [
    (s.t, s.x)
    for s in sample(exact, process, start, uniform_times(T, 250), eta=0.0)
    if s.t > 0
]
panels = {
    "the book: $t$, $x_t$": process,
    r"EDM: $\sigma$, $x_0+\sigma\varepsilon$": EDM(),
    r"rectified: $u$, $(1-u)x_0+u\varepsilon$": RectifiedFlow(),
}
fig, axes = plt.subplots(1, 3, figsize=(7.5, 2.7))
for ax, (name, c) in zip(axes, panels.items(), strict=True):
    carried = [c.from_book(log_snr[t].expand(10), x) for t, x in states]
    labels = torch.stack([u for u, _ in carried])
    _ = ax.plot(labels, torch.stack([z for _, z in carried]), lw=0.9)
    ax.set_title(name, fontsize=10)
axes[0].set(xlabel="$t$ (steps)", ylabel="noisy data")
axes[1].set(xlabel=r"$\sigma$", xlim=(-0.1, 4), ylim=(-5, 5))
_ = axes[2].set(xlabel="$u$")

# The slope of a curve in the middle panel is ε̂: it hardly changes where σ > 2.
eps = {t: process.eps_from_x0(x, exact(x, t).x0, t) for t, x in states}
sigma = {t: float(EDM().time_of(log_snr[t])) for t in eps}
heavy = torch.stack([eps[t] for t in eps if 2 < sigma[t] < 4])
light = torch.stack([eps[t] for t in eps if 0.1 < sigma[t] < 2])
assert float((heavy.max(0).values - heavy.min(0).values).max()) < 0.3
assert float((light.max(0).values - light.min(0).values).max()) > 1

# %% [markdown]
# **Fig. B.2.** A convention changes the label and the scale, not the process. At the left edges all
# panels agree: no noise, and the scale 1. In the middle panel the curves are nearly straight lines
# beyond $\sigma=2$, because their slope is $\hat\varepsilon$, which changes there by less than 0.3
# along any curve. On the right the slope is $\hat\varepsilon-\hat x_0$.
#
# ## Three questions to ask of any convention
#
# ### 1. How noisy? The log-SNR
#
# Multiply $z$ by any known number and nothing has been learned or lost: how noisy data are is
# decided by the ratio $a/b$ alone. Its logarithm is a name of the noise level that all conventions
# share. If $x_t=\sqrt{\bar\alpha_t}\,x_0+\sqrt{1-\bar\alpha_t}\,\varepsilon$ has the same ratio,
# then $x_t$ and $z$ are parallel, $z=k\,x_t$ with $a=k\sqrt{\bar\alpha_t}$ and
# $b=k\sqrt{1-\bar\alpha_t}$; square and add, $k^2=a^2+b^2$. So
#
# $$
# \lambda = 2\log\frac ab = \log\frac{\bar\alpha_t}{1-\bar\alpha_t},\qquad x_t = \frac{z}{\sqrt{a^2+b^2}} .
# \tag{B.2}
# $$
#
# The book's own coefficients follow from $\lambda$: $\bar\alpha/(1-\bar\alpha)=e^\lambda$ solved
# for $\bar\alpha$ is
#
# $$
# \bar\alpha = \frac1{1+e^{-\lambda}},\qquad 1-\bar\alpha=\frac1{1+e^{\lambda}} .
# \tag{B.3}
# $$
#
# Compute $1-\bar\alpha$ from the second, not as "one minus": in nearly clean data the difference
# has lost its digits.
#
# ### 2. What does the network predict?
#
# Every output in use is a linear combination of clean data and noise, with weights that depend on
# the noise level:
#
# $$
# F = p\,x_0 + q\,\varepsilon .
# \tag{B.4}
# $$
#
# $z$ is another such combination, and two of them determine both parts. Multiply (B.1) by $q$ and
# (B.4) by $b$ and subtract; then by $p$ and $a$:
#
# $$
# \hat x_0 = \frac{q\,z - b\,F}{a\,q-b\,p},\qquad \hat\varepsilon = \frac{a\,F-p\,z}{a\,q-b\,p} .
# \tag{B.5}
# $$
#
# The best output in mean square is
# $\mathbb E[F\mid z]=p\,\mathbb E[x_0\mid z]+q\,\mathbb E[\varepsilon\mid z]$: the conditional mean
# is linear, so what translates outputs translates *optimal* outputs. The price of a translation is
# the divisor. For $\varepsilon$ it is $a$, for $x_0$ it is $-b$, for the $v$ of (3.6) it is
# $\bar\alpha_t+(1-\bar\alpha_t)=1$ at every level, and for the velocity of a rectified flow
# $(1-u)+u=1$ too.
#
# ### 3. Where are the data, and which step comes next?
#
# At $\lambda=+\infty$. Most count time from the data to the noise; flow matching counts from the
# noise to the data. Steps of a sampler are steps in $\lambda$ under any name.
#
# ## The conventions side by side
#
# | | label $u$ | noisy data $z$ | $\lambda$ | the network predicts | data at |
# |:--|:--|:--|:--|:--|:--|
# | this book, Ho {cite}`ho2020denoising`, Nichol {cite}`nichol2021improved` | $t=1,\dots,T$ | $\sqrt{\bar\alpha_t}\,x_0+\sqrt{1-\bar\alpha_t}\,\varepsilon$ | $\log\frac{\bar\alpha_t}{1-\bar\alpha_t}$ | $\varepsilon$ | $t=0$ |
# | DDIM {cite}`song2021denoising` | $t=1,\dots,T$ | $\sqrt{\alpha_t}\,x_0+\sqrt{1-\alpha_t}\,\varepsilon$ | $\log\frac{\alpha_t}{1-\alpha_t}$ | $\varepsilon$ | $t=0$ |
# | distillation {cite}`salimans2022progressive` | $t\in[0,1]$ | $\alpha_t x_0+\sigma_t\varepsilon$, $\alpha_t^2+\sigma_t^2=1$ | $\log\frac{\alpha_t^2}{\sigma_t^2}$ | $v=\alpha_t\varepsilon-\sigma_t x_0$ | $t=0$ |
# | VDM {cite}`kingma2021variational` | $\gamma$, learned, of $t\in[0,1]$ | $\alpha_t x_0+\sigma_t\varepsilon$, $\alpha_t^2+\sigma_t^2=1$ | $-\gamma$ | $\varepsilon$ | $t=0$ |
# | VP-SDE {cite}`song2021score` | $t\in[0,1]$ | $a(t)\,x_0+\sqrt{1-a(t)^2}\,\varepsilon$, (B.8) | $-\log(e^{\int\beta}-1)$ | the score $-\varepsilon/b$ | $t=0$ |
# | VE-SDE {cite}`song2021score` | $t\in[0,1]$ | $x_0+\sigma(t)\,\varepsilon$, (B.10) | $-2\log\sigma(t)$ | the score $-\varepsilon/b$ | $t=0$, with $\sigma=\sigma_\text{min}$ |
# | EDM {cite}`karras2022elucidating` | $\sigma$ | $x_0+\sigma\,\varepsilon$ (they: $y+n$) | $-2\log\sigma$ | $F_\theta$ of (B.11), inside $D=\hat x_0$ | $\sigma=0$ |
# | rectified flow {cite}`esser2024scaling` | $t\in[0,1]$ | $(1-t)\,x_0+t\,\varepsilon$ | $2\log\frac{1-t}t$ | $\varepsilon-x_0$ | $t=0$ |
# | flow matching {cite}`lipman2023flow,liu2023flow` | $t\in[0,1]$ | $t\,x_1+(1-t)\,x_0$: their $x_1$ is our $x_0$, their $x_0$ our $\varepsilon$ | $2\log\frac t{1-t}$ | $x_1-x_0$, ours $x_0-\varepsilon$ | $t=1$ |
# | classifier-free guidance {cite}`ho2022classifierfree` | $\lambda$, rising while one samples | $\alpha_\lambda x_0+\sigma_\lambda\varepsilon$ (they: $x$ for $x_0$) | $\lambda$ | $\varepsilon$, with the class and without | $\lambda=\lambda_\text{max}$ |
# | `diffusers` | `timestep` $=0,\dots,T-1$ | as this book, with `alphas_cumprod[t-1]` | | `prediction_type` | none |
#
# The same letters, read the other way:
#
# | you read | it is |
# |:--|:--|
# | $\alpha_t$ | $1-\beta_t$ with Ho, Nichol and here; our $\bar\alpha_t$ in DDIM; our $\sqrt{\bar\alpha_t}$ in VDM and in distillation; $1-t$ in some flow papers |
# | $\sigma_t$ | deviation of the *reverse step* with Ho, Nichol, in DDIM and here (`posterior_std`); deviation of the *kernel*, our $\sqrt{1-\bar\alpha_t}$, in VDM; the ratio $\sqrt{1-\bar\alpha_t}/\sqrt{\bar\alpha_t}$ in EDM and in Euler-type programs (`sigma`) |
# | $\beta_t$, $\beta(t)$ | variance of one step; in the SDE a *rate*, $T$ times as large: $0.1\dots20$ for the table $10^{-4}\dots0.02$ |
# | $\lambda$ | the log-SNR here; half of it in the literature on fast solvers; a weight of the loss elsewhere; in guidance papers $\lambda'>\lambda$ is the *cleaner* of two levels |
# | $v$ | velocity (3.6) of distillation; the place of the variance in Nichol's eq. 15 and in Algorithm 2 of Ho & Salimans (`var_mix`), (B.17); the velocity $\varepsilon-x_0$ or $x_0-\varepsilon$ of flows |
# | $x_0$, $x_1$ | clean data and one step of noise here; *noise* and *data* in flow matching |
# | guidance | our $w$ is Ho & Salimans'; programs ask for $1+w$ ([chapter 11](11_classifier_free.ipynb)) |
#
# In the library each row is a `Process` (times to $a, b$, and log-SNRs to times), each output a
# `Parameterization`. One point of data at one noise level, in all conventions, and back again:

# %%
level = torch.tensor([0.8], **double)  # λ
x0, eps = torch.tensor([0.5], **double), torch.tensor([-1.2], **double)
flow_v = parameterization.flow_matching_velocity()
conventions = {
    "VDM, γ": (VDM(), EPS),
    "VP-SDE, t": (VP(), SCORE),
    "VE-SDE, t": (VE(), SCORE),
    "EDM, σ": (EDM(), parameterization.edm_output(0.5)),
    "rectified flow, t": (RectifiedFlow(), VELOCITY),
    "flow matching, t": (FlowMatching(), flow_v),
}
scale, std = kernel(level)
x_t = scale * x0 + std * eps
found = {"the book": (scale, std, x_t)}
for name, (c, p) in conventions.items():
    u, z = c.from_book(level, x_t)
    a, b = c.coefficients(u)
    output = p.target(x0, eps, a, b)
    found[name] = u, a, b, z, output
    # and all the way back
    back = (*c.to_book(u, z), *p.split(output, z, a, b))
    for there, here in zip(back, (level, x_t, x0, eps), strict=True):
        assert torch.allclose(there, here, rtol=1e-12, atol=1e-12)

# %% tags=["hide-input"]
lines = []
for name, values in found.items():
    cells = [f"{float(v):.3f}" for v in values]
    cells = ["", *cells, ""] if name == "the book" else cells
    lines.append(f"| {name} | " + " | ".join(cells) + " |")
head = "| | label | $a$ | $b$ | $z$ | network's output |"
Markdown("\n".join([head, "|:--|--:|--:|--:|--:|--:|", *lines]))

# %% [markdown]
# ## Convention by convention
#
# ### Tables: DDIM, diffusers, and where the index begins
#
# DDIM's $\alpha_t$ and `alphas_cumprod` are our $\bar\alpha_t$. Going back to the steps,
#
# $$
# \beta_t = 1-\frac{\bar\alpha_t}{\bar\alpha_{t-1}},\qquad \bar\alpha_0=1,
# \tag{B.6}
# $$
#
# because $\bar\alpha_t=\bar\alpha_{t-1}(1-\beta_t)$. Programs that count from 0 have no entry for
# clean data, so their index is $t-1$ and "the step before the first" needs a special case.
#
# | in `diffusers` | here |
# |:--|:--|
# | `timestep` $i$, `alphas_cumprod[i]` | $t=i+1$, `alpha_bar[i + 1]` |
# | `prediction_type` `"epsilon"`, `"sample"`, `"v_prediction"` | `EPS`, `X0`, `V` |
# | `variance_type` `"fixed_small"`, `"fixed_small_log"` | `var_mix = 0`, $\tilde\beta$ (they stop at $10^{-20}$) |
# | `variance_type` `"fixed_large"`, `"fixed_large_log"` | `var_mix = 1`, $\beta$ |
# | `variance_type` `"learned_range"` | `var_mix = (v + 1) / 2`, as in (6.5) |
# | `variance_type` `"learned"` | nothing: the network predicts the variance itself, which belongs to one stride |
# | `timestep_spacing` `"trailing"`, `"leading"`, `"linspace"` | `uniform_times`, `leading_times`, `linspace_times` |

# %%
i = torch.tensor([0, 499, 999])
theirs = ZeroBased(process).coefficients(i)
ours = process.coefficients(i + 1)
assert all(map(torch.equal, theirs, ours))
products = process.alpha_bar[1:]  # what they call alphas_cumprod
beta = beta_from_alpha_bar(products)
assert (beta - process.beta).abs().max() < 1e-12
print("the running products give the β back")

# %% [markdown]
# ### VDM: a learned noise level
#
# Variational diffusion models name the level by $\gamma=-\lambda$ itself and let a small network
# choose how $\gamma$ depends on time. Nothing is left to translate but a sign. Their ancestral step
# has no table in it:
#
# $$
# z_s=\frac{\alpha_s}{\alpha_t}\big(z_t-c\,\sigma_t\hat\varepsilon\big)+\sigma_s\sqrt c\;z',\qquad c=1-e^{\gamma_s-\gamma_t} .
# \tag{B.7}
# $$
#
# It is ours. $e^{\gamma_s-\gamma_t}$ is the ratio of the SNRs,
# $\frac{\bar\alpha_t(1-\bar\alpha_s)}{\bar\alpha_s(1-\bar\alpha_t)}$, so
# $c=\frac{\bar\alpha_s-\bar\alpha_t}{\bar\alpha_s(1-\bar\alpha_t)}=\frac{1-\bar\alpha_t/\bar\alpha_s}{1-\bar\alpha_t}$,
# and the variance $\sigma_s^2c=(1-\bar\alpha_s)\,c$ is $\tilde\beta_{t\to s}$. The mean: put
# $z_t=\alpha_t x_0+\sigma_t\hat\varepsilon$; it becomes $\alpha_s
# x_0+\frac{\alpha_s\sigma_t}{\alpha_t}(1-c)\,\hat\varepsilon$, and the factor of $\hat\varepsilon$
# is
# $\frac{\alpha_s\sigma_t}{\alpha_t}\cdot\frac{\alpha_t^2\sigma_s^2}{\alpha_s^2\sigma_t^2}=\frac{\alpha_t\sigma_s^2}{\alpha_s\sigma_t}$.
# In (3.7) with $\eta=1$ it is the root of
# $1-\bar\alpha_s-\tilde\beta_{t\to s}=\sigma_s^2(1-c)=\sigma_s^2\cdot\frac{\alpha_t^2\sigma_s^2}{\alpha_s^2\sigma_t^2}$:
# the same. $c$ as `-expm1(gamma_s - gamma_t)` keeps its digits where two neighbouring $\bar\alpha$
# would cancel.
#
# ### Score SDEs: VP and VE
#
# Let steps become small and many: $x_t=\sqrt{1-\beta_t}\,x_{t-1}+\sqrt{\beta_t}\,\varepsilon$ with
# $\beta_t=\beta(u)\,\mathrm du$ is
# $\mathrm dz=-\frac12\beta(u)\,z\,\mathrm du+\sqrt{\beta(u)}\,\mathrm d\omega$. Noise has mean
# zero, so $a'=-\frac12\beta a$. The variance of the noise shrinks twice as fast as its amplitude
# and is fed by $\beta$: $(b^2)'=-\beta b^2+\beta$. With $a(0)=1$, $b(0)=0$ both are solved by
#
# $$
# a(u)=e^{-\frac12B(u)},\qquad b(u)^2=1-e^{-B(u)},\qquad B(u)=\int_0^u\beta=\beta_\text{min}u+\tfrac12(\beta_\text{max}-\beta_\text{min})\,u^2 ,
# \tag{B.8}
# $$
#
# the last for the straight $\beta(u)$ of the paper. Back: $B=-\log\bar\alpha=\log(1+e^{-\lambda})$
# and a quadratic equation for $u$. Is Ho's linear table this SDE? Nearly. With
# $\log(1-\beta)=-\beta-\frac12\beta^2-\dots$,
#
# $$
# -\log\bar\alpha_t=\sum_{i=1}^t\beta_i+\frac12\sum_{i=1}^t\beta_i^2+\dots\ \approx\ B\!\left(\tfrac tT\right)+\frac12\sum_{i=1}^t\beta_i^2 ;
# \tag{B.9}
# $$
#
# with equality at $t=T$, where the sum of the straight $\beta_i$ is the integral; before it the sum
# lags behind by another term of order $1/T$. So the chain ends a little noisier than the SDE that
# it approximates, and begins (its first third, for $T=1000$) a little cleaner.

# %%
linear, sde = DDPM(schedules.linear(1000)), VP(0.1, 20.0)
end = torch.ones(1, **double)
of_sde = -2 * float(sde.coefficients(end)[0].log())
of_chain = -float(linear.alpha_bar[-1].log())
half_squares = float((linear.beta**2).sum()) / 2
print(f"−log ᾱ at the end: SDE {of_sde:.4f}, chain {of_chain:.4f}")
print(f"half the sum of β²:    {half_squares:.4f}")
assert abs((of_chain - of_sde) / half_squares - 1) < 0.02

# %% [markdown]
# The other SDE adds noise and shrinks nothing, $\mathrm dz=g(u)\,\mathrm d\omega$ so that
# $(b^2)'=g^2$:
#
# $$
# a=1,\qquad b(u)=\sigma(u)=\sigma_\text{min}\left(\frac{\sigma_\text{max}}{\sigma_\text{min}}\right)^{u},\qquad g(u)^2=\frac{\mathrm d\,\sigma(u)^2}{\mathrm du}=2\,\sigma(u)^2\log\frac{\sigma_\text{max}}{\sigma_\text{min}} .
# \tag{B.10}
# $$
#
# Integrated from clean data at $u=0$ that $g$ gives the variance $\sigma(u)^2-\sigma_\text{min}^2$;
# the kernel in use has $\sigma(u)^2$. The paper bridges the gap by a jump at $u=0$: its "data"
# already carry $\sigma_\text{min}$.
#
# Scores depend on the scale of the data as a gradient does. If $z=k\,x_t$, the density of $z$ is
# that of $x_t$ stretched, and $\nabla_z\log p(z)=\frac1k\nabla_{x_t}\log q(x_t)$. In every
# convention it is $-\hat\varepsilon/b$ with its own $b$ ([chapter
# 10](10_classifier_guidance.ipynb), equation (10.1)).
#
# ### EDM: dividing before and after
#
# Karras et al. write $D(z;\sigma)=c_\text{skip}\,z+c_\text{out}\,F_\theta(c_\text{in}\,z)$ for
# $\hat x_0$, with $c_\text{in}^2=\frac1{\sigma^2+s^2}$, $c_\text{skip}=\frac{s^2}{\sigma^2+s^2}$,
# $c_\text{out}=\frac{\sigma s}{\sqrt{\sigma^2+s^2}}$, where $s=\sigma_\text{data}$. What is the raw
# $F_\theta$ asked to predict? Solve $D=x_0$, put $z=x_0+\sigma\varepsilon$, and
# $1-c_\text{skip}=\frac{\sigma^2}{\sigma^2+s^2}$:
#
# $$
# F=\frac{x_0-c_\text{skip}\,z}{c_\text{out}}=\frac{\sigma\,x_0-s^2\,\varepsilon}{s\,\sqrt{\sigma^2+s^2}} .
# \tag{B.11}
# $$
#
# With $s=1$ the divisor is $\sqrt{1+\sigma^2}=1/\sqrt{\bar\alpha}$, and
# $F=\sqrt{1-\bar\alpha}\,x_0-\sqrt{\bar\alpha}\,\varepsilon=-v$. **EDM's network is a $v$-network
# with the sign turned**, and $c_\text{in}\,z$ is $x_t$. With $s=0.5$ it is the $v$ of data that
# were scaled to variance one.

# %%
sigma = EDM().time_of(level)
F = parameterization.edm_output(1.0).target(x0, eps, 1.0, sigma)
print(f"F with σ_data = 1: {float(F):.6f}")
print(f"v:                 {float(V.target(x0, eps, scale, std)):.6f}")
c_in, c_skip, c_out = parameterization.edm_preconditioning(sigma, 1.0)
assert torch.allclose(c_in * (x0 + sigma * eps), x_t)  # the network's input

# %% [markdown]
# ### Flows: the velocity of a pair
#
# Keep $x_0$ and $\varepsilon$ and let $u$ run: the pair's point moves with
# $\frac{\mathrm dz}{\mathrm du}=a'x_0+b'\varepsilon$. Many pairs pass through one $z$; their mean
# velocity there,
#
# $$
# V(z,u)=\mathbb E\left[\frac{\mathrm dz}{\mathrm du}\,\Big|\,z\right]=a'(u)\,\hat x_0+b'(u)\,\hat\varepsilon ,
# \tag{B.12}
# $$
#
# carries the whole density along: for any test function $f$, $\frac{\mathrm d}{\mathrm du}\mathbb E
# f(z)=\mathbb E\big[\nabla f(z)\cdot\frac{\mathrm dz}{\mathrm du}\big]=\mathbb E\big[\nabla f(z)\cdot V(z,u)\big]$,
# which is what a flow along $V$ does to the same expectation. Flow matching trains a network to
# predict $V$; with $a=1-u$, $b=u$ it is $\hat\varepsilon-\hat x_0$. A denoiser gives $V$ without
# further training. For an SDE with drift $f z$ and noise $g$ the same field reads, with $a'=fa$ and
# $(b^2)'=2fb^2+g^2$,
#
# $$
# V=f\,a\,\hat x_0+\Big(f\,b+\frac{g^2}{2b}\Big)\hat\varepsilon=f\,z-\tfrac12\,g^2\,\nabla\log p(z),
# \tag{B.13}
# $$
#
# the *probability-flow ODE*. So DDIM's curve (7.11), EDM's
# $\frac{\mathrm dz}{\mathrm d\sigma}=\hat\varepsilon=\frac{z-D}\sigma$, the ODE of an SDE and the
# flow of flow matching are one curve in different coordinates. (A flow trained between *other*
# pairs, such as images and images, is not of the form (B.1) with Gaussian $\varepsilon$, and no
# denoiser.)
#
# The algebra of this section, checked by sympy:

# %% tags=["hide-input"]
import sympy as sp

a_, b_, p_, q_, x_, e_, F_ = sp.symbols("a b p q x_0 epsilon F")
split = sp.solve([a_ * x_ + b_ * e_ - sp.Symbol("z"), p_ * x_ + q_ * e_ - F_], [x_, e_])
volume = a_ * q_ - b_ * p_
assert sp.simplify(split[x_] - (q_ * sp.Symbol("z") - b_ * F_) / volume) == 0
assert sp.simplify(split[e_] - (a_ * F_ - p_ * sp.Symbol("z")) / volume) == 0

u_, low, high = sp.symbols("u beta_min beta_max", positive=True)
rate = low + (high - low) * u_
B = sp.integrate(rate, u_)
a_vp, b2_vp = sp.exp(-B / 2), 1 - sp.exp(-B)
assert sp.simplify(sp.diff(a_vp, u_) + rate * a_vp / 2) == 0
assert sp.simplify(sp.diff(b2_vp, u_) + rate * b2_vp - rate) == 0

sig, s_ = sp.symbols("sigma s", positive=True)
c_skip_, c_out_ = s_**2 / (sig**2 + s_**2), sig * s_ / sp.sqrt(sig**2 + s_**2)
raw = (x_ - c_skip_ * (x_ + sig * e_)) / c_out_
right = (sig * x_ - s_**2 * e_) / (s_ * sp.sqrt(sig**2 + s_**2))
assert sp.simplify(raw - right) == 0
minus_v = (sig * x_ - e_) / sp.sqrt(1 + sig**2)  # scale = 1/√(1+σ²)
assert sp.simplify(raw.subs(s_, 1) - minus_v) == 0

f_, g_ = sp.symbols("f g")
b_pos = sp.Symbol("b", positive=True)
b_rate = (2 * f_ * b_pos**2 + g_**2) / (2 * b_pos)  # from (b²)' = 2fb² + g²
flow = f_ * a_ * x_ + b_rate * e_
score = -e_ / b_pos
assert sp.simplify(flow - (f_ * (a_ * x_ + b_pos * e_) - g_**2 * score / 2)) == 0
print("(B.5), (B.8), (B.11) and (B.13) hold")

# %% [markdown]
# ## What training sees: the same prediction, another weight
#
# An error of the output is an error of $\hat x_0$ in other units. At a given $z$, (B.1) ties the
# two errors together, $a\,\delta x_0+b\,\delta\varepsilon=0$, so
# $\delta F=p\,\delta x_0-q\,\frac ab\,\delta x_0$, and
#
# $$
# \lVert \hat F-F\rVert^2=w\,\lVert\hat x_0-x_0\rVert^2,\qquad w=\Big(\frac{a\,q-b\,p}{b}\Big)^2 .
# \tag{B.14}
# $$
#
# That is all the difference between "predicting $\varepsilon$", "predicting $v$" and "flow
# matching" once the network is perfect, and it is a large difference while it is not:

# %%
def weights_at(lam):
    """(B.14) for five outputs at the log-SNR λ, and the literature's."""
    at = torch.tensor(lam, **double)
    scale, std = kernel(at)
    s, r = EDM().time_of(at), RectifiedFlow().time_of(at)
    one, F = torch.ones(()), parameterization.edm_output(0.5)
    known = at.exp(), one, at.exp() + 1, (s**2 + 0.25) / (s / 2) ** 2
    return [
        parameterization.weight(EPS, scale, std),
        parameterization.weight(X0, scale, std),
        parameterization.weight(V, scale, std),
        parameterization.weight(F, one, s),
        parameterization.weight(VELOCITY, 1 - r, r),
    ], [*known, (1 + s) ** 2 / s**2]


# %% tags=["hide-input"]
lines = []
for lam in (-4.0, 0.0, 4.0):
    found, known = weights_at(lam)
    for w, literature in zip(found, known, strict=True):
        assert abs(float(w) / float(literature) - 1) < 1e-6
    cells = " | ".join(f"{float(w):.3f}" for w in found)
    lines.append(f"| {lam:.0f} | {cells} |")
head = "| λ | $\\varepsilon$ | $x_0$ | $v$ | EDM's $F$ | rectified flow |"
Markdown("\n".join([head, "|--:|--:|--:|--:|--:|--:|", *lines]))

# %% [markdown]
# The weights are SNR, 1, SNR + 1, Karras' $\lambda(\sigma)=\frac{\sigma^2+s^2}{(\sigma s)^2}$ and,
# for the flow, $\frac1{u^2}=\big(1+\frac1\sigma\big)^2$. How often each level is *drawn* multiplies
# them ([chapter 5](05_schedules.ipynb), weight times density). A paper that changes its
# "parameterization" changes this product, and often nothing else.
#
# ## Euler's step in straight coordinates is DDIM's
#
# Why were four rows of Fig. B.1 the same? Where $a$ and $b$ are *straight* in $u$, Euler's step
# with (B.12) lands exactly on the noisy point that $\hat x_0$ and $\hat\varepsilon$ make at the new
# label:
#
# $$
# z+(u_s-u)\,(a'\hat x_0+b'\hat\varepsilon)=\big(a+(u_s-u)\,a'\big)\hat x_0+\big(b+(u_s-u)\,b'\big)\hat\varepsilon=a(u_s)\,\hat x_0+b(u_s)\,\hat\varepsilon ,
# \tag{B.15}
# $$
#
# because $z=a\hat x_0+b\hat\varepsilon$. That is DDIM's step (3.8) with $\sigma=0$, up to the scale
# of $z$. EDM's $(1,\sigma)$ and both flows are straight; $(e^{-B/2},\sqrt{1-e^{-B}})$ is not. A
# flow sampler in ten lines against the library's DDIM, with the exact denoiser in `float64`:

# %%
times = uniform_times(T, 8)
x_T = torch.randn(500, generator=seeded(0), **double)


def rectified_flow(x, times):
    """Knows nothing of ᾱ but the levels and the model it was given."""
    u = 1 / (1 + torch.exp(log_snr[torch.tensor(times)] / 2))
    z = x * torch.hypot(1 - u[0], u[0])
    for k, t in enumerate(times[:-1]):
        x0 = exact(z / torch.hypot(1 - u[k], u[k]), t).x0
        velocity = (z - x0) / u[k]  # ε − x_0, with ε = (z − (1−u) x_0) / u
        z = z + (u[k + 1] - u[k]) * velocity
    return z


ours = draw(exact, process, x_T, times, eta=0.0)
apart = float((rectified_flow(x_T, times) - ours).abs().max())
assert apart < 1e-10
print("the flow sampler is DDIM, to ten digits:", apart < 1e-10)

# %% [markdown]
# ## Classifier-free guidance in log-SNR form
#
# Ho & Salimans state training and sampling with guidance {cite}`ho2022classifierfree` without any
# $t$; [deck 004](../book/slides_map.md#deck-004), "Diffusion models", prints their two algorithms.
# The label is $\lambda$ itself, with $\alpha_\lambda^2=1/(1+e^{-\lambda})$ and
# $\sigma_\lambda^2=1-\alpha_\lambda^2$, our $\bar\alpha$ and $1-\bar\alpha$ of (B.3). Sampling
# goes from $\lambda$ to a *larger* $\lambda'$, that is to less noise, with
#
# $$
# \tilde\mu_{\lambda'\mid\lambda}=e^{\lambda-\lambda'}\frac{\alpha_{\lambda'}}{\alpha_\lambda}z_\lambda+\big(1-e^{\lambda-\lambda'}\big)\alpha_{\lambda'}\tilde x,\quad
# \tilde\sigma_{\lambda'\mid\lambda}^2=\big(1-e^{\lambda-\lambda'}\big)\sigma_{\lambda'}^2,\quad
# \sigma_{\lambda\mid\lambda'}^2=\big(1-e^{\lambda-\lambda'}\big)\sigma_\lambda^2 ,
# \tag{B.16}
# $$
#
# where $\tilde x=(z_\lambda-\sigma_\lambda\tilde\varepsilon)/\alpha_\lambda$ comes from the guided
# $\tilde\varepsilon=(1+w)\,\hat\varepsilon(z_\lambda,c)-w\,\hat\varepsilon(z_\lambda)$, which is
# (11.2). A step draws
#
# $$
# z_{\lambda'}=\tilde\mu_{\lambda'\mid\lambda}+\sqrt{\big(\tilde\sigma_{\lambda'\mid\lambda}^2\big)^{1-v}\big(\sigma_{\lambda\mid\lambda'}^2\big)^{v}}\;z' ,
# \tag{B.17}
# $$
#
# but for the last one, which returns $\tilde x$. Nothing of this is new. With $\lambda=\lambda_t$
# and $\lambda'=\lambda_s$ the bracket $1-e^{\lambda-\lambda'}$ is the $c$ of (B.7),
# $\beta_{t\mid s}/(1-\bar\alpha_t)$, hence:
#
# | Ho & Salimans | here |
# |:--|:--|
# | $\tilde\mu_{\lambda'\mid\lambda}(z_\lambda,\tilde x)$ | the mean of (2.10) at the guided prediction |
# | $\tilde\sigma_{\lambda'\mid\lambda}^2$ | $\tilde\beta_{t\to s}$ |
# | $\sigma_{\lambda\mid\lambda'}^2=(1-e^{\lambda-\lambda'})(1-\bar\alpha_t)=1-\bar\alpha_t/\bar\alpha_s$ | $\beta_{t\mid s}$ |
# | $v$, one number for all steps | `var_mix` of (2.14), one number for all steps |
# | $w$, null token $\varnothing$, $p_\text{uncond}$ | $w$, the null label, `label_dropout` |
#
# Their Algorithm 2 in ten lines, with an exact denoiser of two classes, against the library's
# sampler:

# %%
two_classes = oracle.Mixture(
    process,
    weights=torch.tensor([0.4, 0.6], **double),
    means=torch.tensor([-1.0, 0.8], **double),
    stds=torch.tensor([0.3, 0.4], **double),
    labels=torch.arange(2),
)


def algorithm_2(eps, z, levels, w, v, generator):
    """eps(z, k, with_class) is the prediction at levels[k]."""
    for k, lam in enumerate(levels):
        alpha, sigma = kernel(lam)
        guided = (1 + w) * eps(z, k, True) - w * eps(z, k, False)
        x = (z - sigma * guided) / alpha
        if k + 1 == len(levels):
            return x
        alpha_, sigma_ = kernel(levels[k + 1])
        c = -torch.expm1(lam - levels[k + 1])
        mean = (1 - c) * alpha_ / alpha * z + c * alpha_ * x
        var = (c * sigma_**2) ** (1 - v) * (c * sigma**2) ** v
        noise = torch.randn(z.shape, generator=generator, dtype=z.dtype)
        z = mean + var.sqrt() * noise


w, v, times = 1.5, 0.3, uniform_times(T, 40)
y = torch.arange(2).repeat(500)


def eps(z, k, with_class):
    label = y if with_class else two_classes.without(y)
    x0 = two_classes(z, times[k], label).x0
    return process.eps_from_x0(z, x0, times[k])


guided = ClassifierFree(two_classes, w)


def with_v(x, t, y):
    return Prediction(guided(x, t, y).x0, var_mix=v)


x_T = torch.randn(1000, generator=seeded(0), **double)
levels = log_snr[torch.tensor(times[:-1])]  # rising: T comes first
theirs = algorithm_2(eps, x_T, levels, w, v, seeded(1))
ours = draw(with_v, process, x_T, times, y=y, generator=seeded(1))
apart = float((theirs - ours).abs().max())
assert (levels.diff() > 0).all() and apart < 1e-10
print("Algorithm 2 is the guided ancestral sampler:", apart < 1e-10)

# %% [markdown]
# **Their training levels are a cosine schedule.** Algorithm 1 draws $u$ uniformly from $[0,1]$ and
# trains at
#
# $$
# \lambda=-2\log\tan(a\,u+b),\qquad b=\arctan e^{-\lambda_\text{max}/2},\qquad a=\arctan e^{-\lambda_\text{min}/2}-b .
# \tag{B.18}
# $$
#
# Since $\alpha_\lambda/\sigma_\lambda=e^{\lambda/2}=\cot(au+b)$, that is
# $\alpha_\lambda=\cos(au+b)$: the cosine schedule of [chapter 5](05_schedules.ipynb) in continuous
# time, cut off at two levels instead of shifted by an offset and clipped. For
# $\lambda_\text{max}\to\infty$ and $\lambda_\text{min}\to-\infty$ the angle is $\frac\pi2u$.
# Drawing $t$ uniformly from the steps of a cosine chain therefore gives nearly their density of
# levels, $p(\lambda)=\frac1{4a\cosh(\lambda/2)}$:

# %%
def cosine_levels(u, low=-20.0, high=20.0):
    """λ of (B.18)."""
    ends = torch.tensor([-high / 2, -low / 2], **double)
    b, top = torch.atan(torch.exp(ends))
    return -2 * torch.log(torch.tan((top - b) * u + b))


plain = DDPM(schedules.cosine(1000, offset=0.0))
usual = DDPM(schedules.cosine(1000))  # the offset is 0.008
t = torch.arange(100, 901)
apart = schedules.log_snr(plain.alpha_bar)[t] - cosine_levels(t / 1000)
assert apart.abs().max() < 0.001
shifted = schedules.log_snr(usual.alpha_bar)[t] - cosine_levels(t / 1000)
print(f"λ of a cosine chain: off by {float(apart.abs().max()):.0e},")
print(f"with the offset by {float(shifted.abs().max()):.2f} at most")

# %% [markdown]
# ## What cannot be translated, and why
#
# - **Levels between two steps.** A network that was trained at $t=1,\dots,T$ knows these levels
#   only. `DDPM.time_of` takes the nearest. In mid-chain the rounding shrinks with $T$; next to the
#   cosine's noisy end a single step ($T-2\to T-1$) quarters $\bar\alpha$, however many steps there
#   are:

# %%
for steps in (50, 1000):
    alpha_bar = DDPM(schedules.cosine(steps)).alpha_bar
    table = schedules.log_snr(alpha_bar)
    gaps = table[1:-2] - table[2:-1]
    middle, worst = float(gaps.min()) / 2, float(gaps.max()) / 2
    print(f"T = {steps:4d}: λ off by {middle:.3f}, at worst by {worst:.2f}")
    assert abs(float(alpha_bar[-3] / alpha_bar[-2]) - 4) < 0.05

beyond = VP().time_of(log_snr[-1:])
print(f"the digits' noisiest level, as a VP-SDE time: {beyond.item():.2f}")
assert beyond > 1

# Half precision: rounding of ε at λ = −14, as an error of x_0
scale, std = kernel(torch.tensor(-14.0, **double))
rounding = 2.0**-11  # relative, of a number near 1
assert 0.4 < float(std / scale) * rounding < 0.6

# %% [markdown]
# - **Levels beyond the end.** Every convention has a noisiest level: the clipped cosine's $x_T$ is
#   noisier than the VP-SDE ever gets (its time would be above 1), EDM stops at $\sigma=80$, VE at
#   $\sigma_\text{max}$. A formula gives a label there; a network trained over there has never seen
#   it. VDM's $\gamma$ has no finite label for clean data.
# - **Predictions at the ends.** The divisor of (B.5) is $a$ for $\varepsilon$ and $-b$ for $x_0$.
#   In pure noise ($a=0$, [zero terminal SNR](05_schedules.ipynb)) an $\varepsilon$-network returns
#   its own input and $\hat x_0$ cannot be had from it; in clean data an $x_0$-network tells nothing
#   of $\varepsilon$. And near the ends rounding is multiplied: in half precision an
#   $\varepsilon$-prediction at $\lambda=-14$ is rounded by up to 0.5 in $\hat x_0$.
# - **The noise of a step.** (B.12) translates the deterministic curve. A *stochastic* step is a
#   choice on top: DDPM's variance between $\tilde\beta$ and $\beta$, DDIM's $\eta$, EDM's churn,
#   Euler–Maruyama on the reverse SDE. They agree in the limit of small steps only, and a learned
#   variance (`var_mix`) has no counterpart in a flow.
# - **The prior.** We start from $\mathcal N(0,I)$, but $q(x_T)$ is not exactly that; EDM starts
#   from $\mathcal N(0,\sigma_\text{max}^2I)$, whose translation is
#   $\mathcal N(0,\frac{\sigma_\text{max}^2}{1+\sigma_\text{max}^2}I)$: slightly narrower. Each
#   starts from a slightly wrong distribution ([chapter 1](01_forward.ipynb) measures ours).
# - **The chain and its SDE.** (B.9): a table and an SDE with the same $\beta$ have different
#   $\bar\alpha$. (Cut the table from the SDE, $\beta_t=1-e^{-\int\beta}$, and it lies on it
#   exactly.)
# - **The training.** (B.14): the function translates, the weights with which it was learned do not.
# - **The data.** $\sigma_\text{data}=0.5$ says something about images in $[-1,1]$. Latents of
#   another size need another number, or a factor in front.
#
# ## What goes wrong
#
# Every mistake here is a *partial* translation: sampler and model follow different conventions.
# Three of them, with the network of Fig. B.1, and with the exact denoiser of the two clusters,
# where the distance to the truth can be measured:


# %%
def undivided(model):
    """EDM's z = x_0 + σε, given to a model that expects x_t."""
    return lambda x, t, y=None: model(x / float(process.scale[t]), t, y)


def backwards(model):
    """Flow matching's time: T − t is given where t is due."""
    return lambda x, t, y=None: model(x, max(T - t, 1), y)


def as_it_is(model):
    """A function, which carries no process to be checked against."""
    return lambda x, t, y=None: model(x, t, y)


# VDM's α_t is our √ᾱ_t. Take it for the ᾱ_t that DDIM calls α_t:
rooted = DDPM(beta_from_alpha_bar(process.scale[1:]))

programs = {
    "right": (as_it_is, process),
    "$z$ for $x_t$": (undivided, process),
    r"$\sqrt{\bar\alpha}$ for $\bar\alpha$": (as_it_is, rooted),
    "reversed time": (backwards, process),
}

# %% tags=["hide-input"] mystnb={"image": {"alt": "Four rows of the digits 0 to 9. The first is right. In the second, EDM data handed over undivided, strokes are broken and hard. The third, the root of the product in place of the product, can hardly be told from the first. In the fourth, the time of the flow reversed, digits are blurred averages."}}
x_T = torch.randn(10, *card.image_shape, generator=g)
many = torch.randn(40_000, generator=seeded(1), **double)
truth = exact.draw(40_000, generator=seeded(2)).sort().values
times, y = uniform_times(T, 25), torch.arange(10)

rows, distance, change = {}, {}, {}
for name, (given_to, chain) in programs.items():
    rows[name] = draw(given_to(denoiser), chain, x_T, times, eta=0.0, y=y)
    found = draw(given_to(exact), chain, many, times, eta=0.0).sort().values
    # the mean distance between equal quantiles of samples and truth
    distance[name] = float((found - truth).abs().mean())
    change[name] = float((rows[name] - rows["right"]).abs().mean())
in_rows(rows)
right, undone, root, reverse = (round(d, 2) for d in distance.values())
assert (right, undone, root, reverse) == (0.02, 0.11, 0.12, 0.85)
_, undone, root, reverse = change.values()
assert root < 0.1 < 2 * root < min(undone, reverse)

# %% [markdown]
# **Fig. B.3.** Three partial translations: none raises an error, and all rows resemble digits,
# because the network is told the class. With $\sqrt{\bar\alpha}$ for $\bar\alpha$ (third row) they
# even look right: pixels change by less than 0.1 on average, in the other two rows by more than
# 0.2. The exact denoiser of the two clusters shows the error: the mean distance between equal
# quantiles of samples and truth is 0.02 for the right program, and 0.11, 0.12 and 0.85 for the
# others.
#
# A round trip does not catch such a mistake: a factor that is wrong on the way there and wrong on
# the way back cancels. What catches it is a truth that does not come from the converter.
# `tests/test_conventions.py` makes noisy data in the other convention and compares with `q_sample`
# (`test_the_book_says_the_same_of_the_same_data`), takes score and velocity of a Gaussian from its
# moments and of a mixture from its density, and asks the schedulers of `diffusers`.
#
# ## Exercises
#
# ### ★ Exercise B.1: EDM's denoiser from this book's score
#
# You have a score $s(x_t)=\nabla\log q(x_t)$ in the book's coordinates at the level of EDM's
# $\sigma$. EDM's sampler asks for $D(z;\sigma)=\mathrm E[x_0\mid z]$ with
# $z=x_0+\sigma\varepsilon$. Derive $D$ and write `denoised(score, z, sigma)`, where `score` is a
# function of $x_t$.
#
# :::{dropdown} Hint
# $z=k\,x_t$: what is $k$? A gradient by $z$ is $1/k$ times the gradient by $x_t$. Then Tweedie's
# formula (2.18) in EDM's coordinates, where the data are not scaled.
# :::


# %%
def denoised(score, z, sigma):
    return ...  # your answer


# exercises.check("B.1", denoised)


# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
# Solution of exercise B.1: k = √(1+σ²), and E[x_0|z] = z + σ² ∇_z log p(z)
def denoised(score, z, sigma):
    k = (1 + sigma**2) ** 0.5
    return z + sigma**2 * score(z / k) / k


exercises.check("B.1", denoised)

# %% [markdown]
# ### ★★ Exercise B.2: A flow's velocity from a v-network
#
# You have a $v$-network of this book and a sampler that wants the velocity $\varepsilon-x_0$ of a
# rectified flow. Write `velocity(v, x_t, scale, std)`.
#
# :::{dropdown} Hint
# (3.6) gives both $\hat x_0$ and $\hat\varepsilon$. The result is a combination of $x_t$ and $v$;
# which weights?
# :::


# %%
def velocity(v, x_t, scale, std):
    return ...  # your answer


# exercises.check("B.2", velocity)


# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
# Solution of exercise B.2: subtract the two halves of (3.6)
def velocity(v, x_t, scale, std):
    return (scale + std) * v + (std - scale) * x_t


exercises.check("B.2", velocity)

# %% [markdown]
# ### ★★★ Exercise B.3: A convention of your own, and its two samplers
#
# A paper that nobody has written yet noises with
# $z=\cos(\frac\pi2u)\,x_0+\sin(\frac\pi2u)\,\varepsilon$, $u\in(0,1)$.
#
# 1. Write it as a `Process`, and say what multiple of the book's $v$ its velocity
#    $\mathrm dz/\mathrm du$ is.
# 2. Write `flow(denoise, z, labels)`: Euler's method along falling labels $u$, with `denoise(z, u)`
#    the prediction of $x_0$. Keep to this convention: no $\bar\alpha$, no $t$.
# 3. This convention is not straight, and (B.15) does not hold. What is the exact step for a pair
#    $(\hat x_0,\hat\varepsilon)$ that does not change? Write it as `turn(denoise, z, labels)`. It
#    needs $z$, $v$ and one angle.
# 4. *Measure.* For data $\mathcal N(0,\frac1{100})$ the flow from $u=0.99$ to $0.01$ multiplies $z$
#    by a number that you can compute. How many steps does each of your samplers need for an error
#    of 5 %?
#
# The check takes `(process, factor, flow, turn)`.
#
# :::{dropdown} Hint
# $a/b=e^{\lambda/2}$ is a cotangent. The derivative of a point on a circle is the point a quarter
# turn on, and a pair that does not change moves on that circle: its place is $\cos$ of the angle
# times $z$, plus $\sin$ of the angle times $v$. For part 4: the deterministic flow keeps quantiles,
# so the factor is the ratio of two standard deviations.
# :::


# %%
answer = ...  # your answer: (process, factor, flow, turn)

# exercises.check("B.3", answer)

# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
# Solution of exercise B.3: u = (2/π) arctan e^{−λ/2}, and dz/du = (π/2) v
quarter = torch.pi / 2


class Circle(Process):
    def coefficients(self, t):
        return torch.cos(quarter * t), torch.sin(quarter * t)

    def time_of(self, log_snr):
        return torch.atan(torch.exp(-log_snr / 2)) / quarter


def v_of(denoise, z, u):
    """v = a ε − b x_0 with ε = (z − a x_0) / b, that is (a z − x_0) / b."""
    a, b = torch.cos(quarter * u), torch.sin(quarter * u)
    return (a * z - denoise(z, u)) / b


def flow(denoise, z, labels):
    for u, then in pairwise(labels):
        z = z + (then - u) * quarter * v_of(denoise, z, u)
    return z


def turn(denoise, z, labels):
    for u, then in pairwise(labels):
        angle = (then - u) * quarter
        z = torch.cos(angle) * z + torch.sin(angle) * v_of(denoise, z, u)
    return z


exercises.check("B.3", (Circle(), quarter, flow, turn))


def narrow(z, u):
    """E[x_0 | z] for data N(0, 1/100)."""
    a, b = torch.cos(quarter * u), torch.sin(quarter * u)
    return a * 0.01 / (a**2 * 0.01 + b**2) * z


a, b = Circle().coefficients(torch.tensor([0.99, 0.01], **double))
start, end = (a**2 * 0.01 + b**2).sqrt()
lines, errors = [], {}
for steps in (10, 20, 40, 80, 160):
    labels = torch.linspace(0.99, 0.01, steps + 1, **double)
    for sampler in (flow, turn):
        factor = float(sampler(narrow, torch.ones(1, **double), labels))
        off = abs(factor / float(end / start) - 1)
        errors[sampler.__name__, steps] = off
    both = (100 * errors[name, steps] for name in ("flow", "turn"))
    lines.append("| {} | {:.1f} % | {:.1f} % |".format(steps, *both))
# Both are of first order, and turning, which is DDIM, is not always ahead:
assert errors["flow", 80] < 0.05 < errors["turn", 80]
assert errors["turn", 160] < 0.05
for steps in (10, 20, 40, 80, 160):
    assert errors["flow", steps] < errors["turn", steps]
header = ["| steps | Euler | turning (DDIM) |", "|--:|--:|--:|"]
Markdown("\n".join(header + lines))

# %% [markdown]
# ## Recap
#
# 1. All conventions write $z=a\,x_0+b\,\varepsilon$; the level is $\lambda=2\log(a/b)$, and
#    $x_t=z/\sqrt{a^2+b^2}$.
# 2. All networks predict $p\,x_0+q\,\varepsilon$; with $z$ that is two equations for two unknowns.
# 3. One velocity $a'\hat x_0+b'\hat\varepsilon$ is DDIM's ODE, EDM's, the probability flow of the
#    SDEs and the field of flow matching. EDM's $F$ is $-v$.
# 4. In straight conventions Euler's method *is* DDIM. Classifier-free guidance in log-SNR form is
#    guided ancestral sampling with `var_mix` $=v$.
# 5. The function translates; levels between steps, the ends, the noise of a step and the weights of
#    the training do not.
#
# The equations of this page, the functions that implement them, the tests that pin them:

# %% mystnb={"code_prompt_show": "Equations, functions, tests", "code_prompt_hide": "Hide the table"} tags=["hide-cell"]
from ddpmlib import equations

equations.table("B")

# %% [markdown]
# ## Further reading
#
# - {cite}`karras2022elucidating`: their table 1 puts four conventions side by side, and its
#   appendices derive every column.
# - {cite}`kingma2023understanding`: every loss as a weight over $\lambda$.
# - {cite}`lipman2023flow,liu2023flow,esser2024scaling`: flow matching and rectified flow, where
#   $x_0$ may be noise; read the first formula first.
# - [Notation](../book/notation.md): this book's own names.
