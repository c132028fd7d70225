# %% [markdown]
# # B. Rosetta: one process, many notations
#
# [![Open in Colab](../book/_static/colab.svg)](https://colab.research.google.com/github/ddpm-book/ddpm-book/blob/main/notebooks/B_rosetta.ipynb)
#
# The same five lines of mathematics are written in half a dozen alphabets. One paper's $\alpha_t$ is another's $\sqrt{\bar\alpha_t}$; data
# sit at $t=0$ here and at $t=1$ there; a network says $\varepsilon$, a score, a velocity, or something called $F_\theta$. This page
# puts the alphabets side by side, derives each translation, and runs it: below, one network draws the same digits while its sampler speaks five languages. (Unfold the cell: each language is one line.)

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

# %% mystnb={"image": {"alt": "Five rows of the digits 0 to 9. The first four rows, DDIM, EDM, rectified flow and flow matching, are the same picture. The fifth, Euler steps in the time of the VP-SDE, shows the same digits with other shades of grey."}} tags=["hide-input"]
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

denoiser, card = zoo.load("digits", device="cpu")
process, T = denoiser.process, denoiser.process.T
log_snr = schedules.log_snr(process.alpha_bar)  # λ_t, falling from +∞
double = {"dtype": torch.float64}


def prediction(c, u, z, y):
    """x̂_0 and ε̂ at data z with label u of the convention c."""
    lam, x_t = c.to_book(u.expand(len(z)), z)
    t = process.time_of(lam)
    x0 = denoiser(x_t.float(), t, y).x0.double()
    a, b = c.coefficients(u)
    return x0, (z - a * x0) / b


@torch.no_grad()
def euler(c, x_T, times, y):
    """Follow dz/du by Euler's method, in the words of the convention c."""
    labels = c.time_of(log_snr[torch.tensor(times)])
    _, z = c.from_book(log_snr[-1:].expand(len(x_T)), x_T)
    for u, then in pairwise(labels):
        x0, eps = prediction(c, u, z, y)
        z = z + (then - u) * c.velocity(u.expand(len(z)), x0, eps)
    return z


times, y = uniform_times(T, 12), torch.arange(10)
g = torch.Generator().manual_seed(3)
x_T = torch.randn(10, *card.image_shape, generator=g, **double)
rows = {
    "DDIM": draw(denoiser, process, x_T.float(), times, eta=0.0, y=y).double()
}
languages = {
    "EDM, σ": EDM(),
    "rectified": RectifiedFlow(),
    "flow m.": FlowMatching(),
    "VP-SDE": VP(),
}
rows |= {name: euler(c, x_T, times, y) for name, c in languages.items()}
ax = plots.grid(torch.cat(list(rows.values())), ncol=10)
ax.set_axis_on()
ax.grid(False)
ax.set(xticks=[], yticks=[3.5 + 9 * i for i in range(5)], yticklabels=rows)
ax.spines[:].set_visible(False)
for name, row in rows.items():
    apart = float((row - rows["DDIM"]).abs().max())
    same = apart < 1e-3
    print(f"{name:10} {'the pixels of DDIM' if same else 'other pixels'}")
    assert same or apart > 0.1
print(f"σ at the start: {EDM().time_of(log_snr[-1:]).item():,.0f}")

# %% [markdown]
# *What to see:* twelve calls of one network, five programs. The first four rows agree pixel by pixel, though one program begins with numbers
# of that size $\sigma$ and another counts its time backwards; equation (B.15) says why they must. The last row follows the same curve in a time in which it is bent, so its steps err differently.
#
# ## Objectives
#
# After this page you can
#
# - say of any diffusion paper where its data are, how it names the noise level, how large its noisy data are, and what its network says;
# - translate noise levels, noisy data and answers to and from this book's, by three formulas;
# - use a network that was trained in one language with a sampler that was written in another;
# - name what does not translate: rounding between steps, the ends of the scale, the variance of a noisy step, and the weight of the loss.
#
# ## The idea in a picture
#
# Whatever the letters, noisy data are the clean ones times a number, plus noise times another:
#
# $$
# z = a\,x_0 + b\,\varepsilon,\qquad \varepsilon\sim\mathcal N(0, I).
# \tag{B.1}
# $$
#
# A convention chooses a label $u$ for the pair $(a, b)$ and how $a$ and $b$ depend on it. The picture shows ten particles on their deterministic way from
# noise to two clusters. It is the *same* ten particles three times: only the label on the horizontal axis and the scale of the vertical one are others.

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
fig, axes = plt.subplots(1, 3, figsize=(7.5, 2.4))
for ax, (name, c) in zip(axes, panels.items(), strict=True):
    carried = [c.from_book(log_snr[t].expand(10), x) for t, x in states]
    labels = torch.stack([u for u, _ in carried])
    _ = ax.plot(labels, torch.stack([z for _, z in carried]), lw=0.9)
    ax.set_title(name, fontsize=9)
axes[0].set(xlabel="$t$ (steps)", ylabel="noisy data")
axes[1].set(xlabel=r"$\sigma$", xlim=(-0.1, 4), ylim=(-5, 5))
_ = axes[2].set(xlabel="$u$")

# %% [markdown]
# *What to see:* at the left edges all panels agree, there is no noise and no scale. Outwards, the middle one becomes a fan of straight lines: its slope is $\hat\varepsilon$, and in
# heavy noise $\hat\varepsilon$ hardly changes along a curve. On the right the slope is $\hat\varepsilon-\hat x_0$.
#
# ## The derivation: three questions
#
# ### 1. How noisy?
#
# Multiply $z$ by any known number and nothing has been learned or lost: how noisy data are is decided by the ratio $a/b$ alone. Its logarithm is
# the currency in which all conventions can pay. If $x_t=\sqrt{\bar\alpha_t}\,x_0+\sqrt{1-\bar\alpha_t}\,\varepsilon$ has the same ratio, then $x_t$ and $z$ are parallel, $z=k\,x_t$ with
# $a=k\sqrt{\bar\alpha_t}$ and $b=k\sqrt{1-\bar\alpha_t}$; square and add, $k^2=a^2+b^2$. So
#
# $$
# \lambda = 2\log\frac ab = \log\frac{\bar\alpha_t}{1-\bar\alpha_t},\qquad x_t = \frac{z}{\sqrt{a^2+b^2}} .
# \tag{B.2}
# $$
#
# The book's own coefficients follow from $\lambda$: $\bar\alpha/(1-\bar\alpha)=e^\lambda$ solved for $\bar\alpha$ is
#
# $$
# \bar\alpha = \frac1{1+e^{-\lambda}},\qquad 1-\bar\alpha=\frac1{1+e^{\lambda}} .
# \tag{B.3}
# $$
#
# Compute $1-\bar\alpha$ from the second, not as "one minus": in nearly clean data the difference has lost its digits.
#
# ### 2. What does the network say?
#
# Every answer in use is a mixture of the two things that one could want to know, with weights that depend on the noise level:
#
# $$
# F = p\,x_0 + q\,\varepsilon .
# \tag{B.4}
# $$
#
# $z$ is another such mixture, and two mixtures determine both ingredients. Multiply (B.1) by $q$ and (B.4) by $b$ and subtract; then by $p$ and $a$:
#
# $$
# \hat x_0 = \frac{q\,z - b\,F}{a\,q-b\,p},\qquad \hat\varepsilon = \frac{a\,F-p\,z}{a\,q-b\,p} .
# \tag{B.5}
# $$
#
# The best answer in mean square is $\mathbb E[F\mid z]=p\,\mathbb E[x_0\mid z]+q\,\mathbb E[\varepsilon\mid z]$: the conditional mean is linear, so what translates answers translates *optimal* answers.
# The price of a translation is the divisor. For $\varepsilon$ it is $a$, for $x_0$ it is $-b$, for the $v$ of (3.6) it is $\bar\alpha_t+(1-\bar\alpha_t)=1$ at every level, and for the velocity of a rectified flow $(1-u)+u=1$ too.
#
# ### 3. Where are the data, and which step comes next?
#
# At $\lambda=+\infty$. Most count time from the data to the noise; flow matching counts from the noise to the data. Steps of a sampler are steps in $\lambda$ under any name.
#
# ## The table
#
# | | label $u$ | noisy data $z$ | $\lambda$ | the network says | data at |
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
# | `diffusers` | `timestep` $=0,\dots,T-1$ | as this book, with `alphas_cumprod[t-1]` | | `prediction_type` | none |
#
# The same letters, read the other way:
#
# | you read | it is |
# |:--|:--|
# | $\alpha_t$ | $1-\beta_t$ with Ho, Nichol and here; our $\bar\alpha_t$ in DDIM; our $\sqrt{\bar\alpha_t}$ in VDM and in distillation; $1-t$ in some flow papers |
# | $\sigma_t$ | deviation of the *reverse step* with Ho, Nichol, in DDIM and here (`posterior_std`); deviation of the *kernel*, our $\sqrt{1-\bar\alpha_t}$, in VDM; the ratio $\sqrt{1-\bar\alpha_t}/\sqrt{\bar\alpha_t}$ in EDM and in Euler-type programs (`sigma`) |
# | $\beta_t$, $\beta(t)$ | variance of one step; in the SDE a *rate*, $T$ times as large: $0.1\dots20$ for the table $10^{-4}\dots0.02$ |
# | $\lambda$ | the log-SNR here; half of it in the literature on fast solvers; a weight of the loss elsewhere |
# | $v$ | velocity (3.6) of distillation; the place of the variance in Nichol's eq. 15 (`var_mix`); the velocity $\varepsilon-x_0$ or $x_0-\varepsilon$ of flows |
# | $x_0$, $x_1$ | clean data and one step of noise here; *noise* and *data* in flow matching |
# | guidance | our $w$ is Ho & Salimans'; programs ask for $1+w$ ([chapter 11](11_classifier_free.ipynb)) |
#
# In the library each row is a `Process` (times to $a, b$, and log-SNRs to times), each answer a `Parameterization`. One point of data at one noise level, in all languages:

# %%
level = torch.tensor([0.8], **double)  # λ
x0, eps = torch.tensor([0.5], **double), torch.tensor([-1.2], **double)
alphabets = {
    "VDM, γ": (VDM(), EPS),
    "VP-SDE, t": (VP(), SCORE),
    "VE-SDE, t": (VE(), SCORE),
    "EDM, σ": (EDM(), parameterization.edm_output(0.5)),
    "rectified, t": (RectifiedFlow(), VELOCITY),
    "flow matching, t": (
        FlowMatching(),
        parameterization.flow_matching_velocity(),
    ),
}
scale, std = kernel(level)
x_t = scale * x0 + std * eps
print("                    label       a       b       z    says")
for name, (c, p) in alphabets.items():
    u, z = c.from_book(level, x_t)
    a, b = c.coefficients(u)
    said = p.target(x0, eps, a, b)
    numbers = (float(k) for k in (u, a, b, z, said))
    print(f"{name:17}", *(f"{k:7.3f}" for k in numbers))
    # and all the way back
    back_level, back_x_t = c.to_book(u, z)
    back_x0, back_eps = p.split(said, z, a, b)
    for there, here in [
        (back_level, level),
        (back_x_t, x_t),
        (back_x0, x0),
        (back_eps, eps),
    ]:
        assert torch.allclose(there, here, rtol=1e-12, atol=1e-12)
print(f"the book: scale {float(scale):.3f}, std {float(std):.3f}")
print("every row translated back to the same λ, x_t, x_0 and ε")

# %% [markdown]
# ## Language by language
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
# because $\bar\alpha_t=\bar\alpha_{t-1}(1-\beta_t)$. Programs that count from 0 have no entry for clean data, so their index is $t-1$ and "the step before the first" needs a special case.
#
# | `diffusers` says | here |
# |:--|:--|
# | `timestep` $i$, `alphas_cumprod[i]` | $t=i+1$, `alpha_bar[i + 1]` |
# | `prediction_type` `"epsilon"`, `"sample"`, `"v_prediction"` | `EPS`, `X0`, `V` |
# | `variance_type` `"fixed_small"`, `"fixed_small_log"` | `var_mix = 0`, $\tilde\beta$ (they stop at $10^{-20}$) |
# | `variance_type` `"fixed_large"`, `"fixed_large_log"` | `var_mix = 1`, $\beta$ |
# | `variance_type` `"learned_range"` | `var_mix = (v + 1) / 2`, as in (6.5) |
# | `variance_type` `"learned"` | nothing: the network says the variance itself, which is a promise about one stride |
# | `timestep_spacing` `"trailing"`, `"leading"`, `"linspace"` | `uniform_times`, `leading_times`, `linspace_times` |

# %%
i = torch.tensor([0, 499, 999])
theirs = ZeroBased(process)
ours = process
for first, second in zip(
    theirs.coefficients(i), ours.coefficients(i + 1), strict=True
):
    assert torch.equal(first, second)
products = process.alpha_bar[1:]  # what they call alphas_cumprod
beta = beta_from_alpha_bar(products)
assert (beta - process.beta).abs().max() < 1e-12
print("the running products give the β back")

# %% [markdown]
# ### VDM: a learned clock
#
# Variational diffusion models name the level by $\gamma=-\lambda$ itself and let a small network choose how $\gamma$ depends on time. Nothing is left to translate but a sign, and the noise level
# cannot be misread. Their ancestral step has no table in it:
#
# $$
# z_s=\frac{\alpha_s}{\alpha_t}\big(z_t-c\,\sigma_t\hat\varepsilon\big)+\sigma_s\sqrt c\;z',\qquad c=1-e^{\gamma_s-\gamma_t} .
# \tag{B.7}
# $$
#
# It is ours. $e^{\gamma_s-\gamma_t}$ is the ratio of the SNRs, $\frac{\bar\alpha_t(1-\bar\alpha_s)}{\bar\alpha_s(1-\bar\alpha_t)}$, so $c=\frac{\bar\alpha_s-\bar\alpha_t}{\bar\alpha_s(1-\bar\alpha_t)}=\frac{1-\bar\alpha_t/\bar\alpha_s}{1-\bar\alpha_t}$,
# and the variance $\sigma_s^2c=(1-\bar\alpha_s)\,c$ is $\tilde\beta_{t\to s}$. The mean: put $z_t=\alpha_t x_0+\sigma_t\hat\varepsilon$; it becomes $\alpha_s x_0+\frac{\alpha_s\sigma_t}{\alpha_t}(1-c)\,\hat\varepsilon$,
# and the factor of $\hat\varepsilon$ is $\frac{\alpha_s\sigma_t}{\alpha_t}\cdot\frac{\alpha_t^2\sigma_s^2}{\alpha_s^2\sigma_t^2}=\frac{\alpha_t\sigma_s^2}{\alpha_s\sigma_t}$. In (3.7) with $\eta=1$ it is the root of
# $1-\bar\alpha_s-\tilde\beta_{t\to s}=\sigma_s^2(1-c)=\sigma_s^2\cdot\frac{\alpha_t^2\sigma_s^2}{\alpha_s^2\sigma_t^2}$: the same. $c$ as `-expm1(gamma_s - gamma_t)` keeps its digits where two neighbouring $\bar\alpha$ would cancel.
#
# ### Score SDEs: VP and VE
#
# Let steps become small and many: $x_t=\sqrt{1-\beta_t}\,x_{t-1}+\sqrt{\beta_t}\,\varepsilon$ with $\beta_t=\beta(u)\,\mathrm du$ is $\mathrm dz=-\frac12\beta(u)\,z\,\mathrm du+\sqrt{\beta(u)}\,\mathrm d\omega$. Noise has mean zero, so $a'=-\frac12\beta a$. The variance of the noise
# shrinks twice as fast as its amplitude and is fed by $\beta$: $(b^2)'=-\beta b^2+\beta$. With $a(0)=1$, $b(0)=0$ both are solved by
#
# $$
# a(u)=e^{-\frac12B(u)},\qquad b(u)^2=1-e^{-B(u)},\qquad B(u)=\int_0^u\beta=\beta_\text{min}u+\tfrac12(\beta_\text{max}-\beta_\text{min})\,u^2 ,
# \tag{B.8}
# $$
#
# the last for the straight $\beta(u)$ of the paper. Back: $B=-\log\bar\alpha=\log(1+e^{-\lambda})$ and a quadratic equation for $u$. Is Ho's linear table this SDE? Nearly. With $\log(1-\beta)=-\beta-\frac12\beta^2-\dots$,
#
# $$
# -\log\bar\alpha_t=\sum_{i=1}^t\beta_i+\frac12\sum_{i=1}^t\beta_i^2+\dots\ \approx\ B\!\left(\tfrac tT\right)+\frac12\sum_{i=1}^t\beta_i^2 ;
# \tag{B.9}
# $$
#
# with equality at $t=T$, where the sum of the straight $\beta_i$ is the integral; before it the sum lags behind by another term of order $1/T$. So the chain ends a little noisier than the SDE that it approximates, and begins (its first third, for $T=1000$) a little cleaner.

# %%
linear, sde = DDPM(schedules.linear(1000)), VP(0.1, 20.0)
end = torch.ones(1, **double)
minus_log = -2 * float(sde.coefficients(end)[0].log())
print(f"−log ᾱ at the end: SDE   {minus_log:.4f}")
print(f"                   chain {-float(linear.alpha_bar[-1].log()):.4f}")
half_squares = float((linear.beta**2).sum()) / 2
print(f"half the sum of β²:      {half_squares:.4f}")
difference = -float(linear.alpha_bar[-1].log()) - minus_log
assert abs(difference / half_squares - 1) < 0.02

# %% [markdown]
# The other SDE adds noise and shrinks nothing, $\mathrm dz=g(u)\,\mathrm d\omega$ so that $(b^2)'=g^2$:
#
# $$
# a=1,\qquad b(u)=\sigma(u)=\sigma_\text{min}\left(\frac{\sigma_\text{max}}{\sigma_\text{min}}\right)^{u},\qquad g(u)^2=\frac{\mathrm d\,\sigma(u)^2}{\mathrm du}=2\,\sigma(u)^2\log\frac{\sigma_\text{max}}{\sigma_\text{min}} .
# \tag{B.10}
# $$
#
# Integrated from clean data at $u=0$ that $g$ gives the variance $\sigma(u)^2-\sigma_\text{min}^2$; the kernel in use has $\sigma(u)^2$. The paper bridges the gap by a jump at $u=0$: its "data" already carry $\sigma_\text{min}$.
#
# Scores depend on the scale of the data as a gradient does. If $z=k\,x_t$, the density of $z$ is that of $x_t$ stretched, and $\nabla_z\log p(z)=\frac1k\nabla_{x_t}\log q(x_t)$. In every convention it is $-\hat\varepsilon/b$ with its own $b$ (chapter 10, equation (10.1)).
#
# ### EDM: dividing before and after
#
# Karras et al. write $D(z;\sigma)=c_\text{skip}\,z+c_\text{out}\,F_\theta(c_\text{in}\,z)$ for $\hat x_0$, with $c_\text{in}^2=\frac1{\sigma^2+s^2}$, $c_\text{skip}=\frac{s^2}{\sigma^2+s^2}$, $c_\text{out}=\frac{\sigma s}{\sqrt{\sigma^2+s^2}}$, where $s=\sigma_\text{data}$. What is the
# raw $F_\theta$ asked to say? Solve $D=x_0$, put $z=x_0+\sigma\varepsilon$, and $1-c_\text{skip}=\frac{\sigma^2}{\sigma^2+s^2}$:
#
# $$
# F=\frac{x_0-c_\text{skip}\,z}{c_\text{out}}=\frac{\sigma\,x_0-s^2\,\varepsilon}{s\,\sqrt{\sigma^2+s^2}} .
# \tag{B.11}
# $$
#
# With $s=1$ the divisor is $\sqrt{1+\sigma^2}=1/\sqrt{\bar\alpha}$, and $F=\sqrt{1-\bar\alpha}\,x_0-\sqrt{\bar\alpha}\,\varepsilon=-v$. **EDM's network is a $v$-network with the sign turned**, and $c_\text{in}\,z$ is $x_t$. With $s=0.5$ it is the $v$ of data that were scaled to variance one.

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
# Keep $x_0$ and $\varepsilon$ and let $u$ run: the pair's point moves with $\frac{\mathrm dz}{\mathrm du}=a'x_0+b'\varepsilon$. Many pairs pass through one $z$; their mean velocity there,
#
# $$
# V(z,u)=\mathbb E\left[\frac{\mathrm dz}{\mathrm du}\,\Big|\,z\right]=a'(u)\,\hat x_0+b'(u)\,\hat\varepsilon ,
# \tag{B.12}
# $$
#
# carries the whole density along: for any test function $f$, $\frac{\mathrm d}{\mathrm du}\mathbb E f(z)=\mathbb E\big[\nabla f(z)\cdot\frac{\mathrm dz}{\mathrm du}\big]=\mathbb E\big[\nabla f(z)\cdot V(z,u)\big]$, which is what a flow along $V$ does to the same expectation. Flow matching trains a network to say $V$;
# with $a=1-u$, $b=u$ it is $\hat\varepsilon-\hat x_0$. A denoiser *has* it already. For an SDE with drift $f z$ and noise $g$ the same field reads, with $a'=fa$ and $(b^2)'=2fb^2+g^2$,
#
# $$
# V=f\,a\,\hat x_0+\Big(f\,b+\frac{g^2}{2b}\Big)\hat\varepsilon=f\,z-\tfrac12\,g^2\,\nabla\log p(z),
# \tag{B.13}
# $$
#
# the *probability-flow ODE*. So DDIM's curve (7.11), EDM's $\frac{\mathrm dz}{\mathrm d\sigma}=\hat\varepsilon=\frac{z-D}\sigma$, the ODE of an SDE and the flow of flow matching are one curve in different coordinates. (A flow trained between *other* pairs, such as images and images, is not of the form (B.1) with Gaussian $\varepsilon$, and no denoiser.)
#
# Sympy on all of this:

# %% tags=["hide-input"]
import sympy as sp

a_, b_, p_, q_, x_, e_, F_ = sp.symbols("a b p q x_0 epsilon F")
split = sp.solve(
    [a_ * x_ + b_ * e_ - sp.Symbol("z"), p_ * x_ + q_ * e_ - F_], [x_, e_]
)
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
c_skip_, c_out_ = (
    s_**2 / (sig**2 + s_**2),
    sig * s_ / sp.sqrt(sig**2 + s_**2),
)
raw = (x_ - c_skip_ * (x_ + sig * e_)) / c_out_
assert (
    sp.simplify(raw - (sig * x_ - s_**2 * e_) / (s_ * sp.sqrt(sig**2 + s_**2)))
    == 0
)
minus_v = (sig * x_ - e_) / sp.sqrt(1 + sig**2)  # scale = 1/√(1+σ²)
assert sp.simplify(raw.subs(s_, 1) - minus_v) == 0

f_, g_ = sp.symbols("f g")
b_pos = sp.Symbol("b", positive=True)
b_rate = (2 * f_ * b_pos**2 + g_**2) / (2 * b_pos)  # from (b²)' = 2fb² + g²
flow = f_ * a_ * x_ + b_rate * e_
score = -e_ / b_pos
assert (
    sp.simplify(flow - (f_ * (a_ * x_ + b_pos * e_) - g_**2 * score / 2)) == 0
)
print("(B.5), (B.8), (B.11) and (B.13) hold")

# %% [markdown]
# ## What training sees: the same answer, another weight
#
# An error of the answer is an error of $\hat x_0$ in other units. At a given $z$, (B.1) ties the two errors together, $a\,\delta x_0+b\,\delta\varepsilon=0$, so $\delta F=p\,\delta x_0-q\,\frac ab\,\delta x_0$, and
#
# $$
# \lVert \hat F-F\rVert^2=w\,\lVert\hat x_0-x_0\rVert^2,\qquad w=\Big(\frac{a\,q-b\,p}{b}\Big)^2 .
# \tag{B.14}
# $$
#
# That is all the difference between "predicting $\varepsilon$", "predicting $v$" and "flow matching" once the network is perfect, and it is a large difference while it is not:

# %%
print("    λ       ε      x_0        v   EDM F  rectified")
for lam in (-4.0, 0.0, 4.0):
    at = torch.tensor(lam, **double)
    scale, std = kernel(at)
    s, r = EDM().time_of(at), RectifiedFlow().time_of(at)
    weights = [
        parameterization.weight(EPS, scale, std),
        parameterization.weight(X0, scale, std),
        parameterization.weight(V, scale, std),
        parameterization.weight(
            parameterization.edm_output(0.5), torch.ones(()), s
        ),
        parameterization.weight(VELOCITY, 1 - r, r),
    ]
    print(f"{lam:5.0f}", *(f"{float(w):8.3f}" for w in weights))
    snr = torch.exp(at)
    for w, known in zip(
        weights,
        (snr, 1.0, snr + 1, (s**2 + 0.25) / (s / 2) ** 2, (1 + s) ** 2 / s**2),
        strict=True,
    ):
        assert torch.allclose(w, torch.as_tensor(known, **double), rtol=1e-6)

# %% [markdown]
# The weights are SNR, 1, SNR + 1, Karras' $\lambda(\sigma)=\frac{\sigma^2+s^2}{(\sigma s)^2}$ and, for the flow, $\frac1{u^2}=\big(1+\frac1\sigma\big)^2$. How often each level is *drawn* multiplies them ([chapter 05](05_schedules.ipynb), weight times density). A paper that changes its "parameterization" changes this product, and often nothing else.
#
# ## From scratch, then from the library
#
# Why were four rows of the first figure the same? Where $a$ and $b$ are *straight* in $u$, Euler's step with (B.12) lands exactly on the noisy point that $\hat x_0$ and $\hat\varepsilon$ make at the new label:
#
# $$
# z+(u_s-u)\,(a'\hat x_0+b'\hat\varepsilon)=\big(a+(u_s-u)\,a'\big)\hat x_0+\big(b+(u_s-u)\,b'\big)\hat\varepsilon=a(u_s)\,\hat x_0+b(u_s)\,\hat\varepsilon ,
# \tag{B.15}
# $$
#
# because $z=a\hat x_0+b\hat\varepsilon$. That is DDIM's step (3.8) with $\sigma=0$, up to the scale of $z$. EDM's $(1,\sigma)$ and both flows are straight; $(e^{-B/2},\sqrt{1-e^{-B}})$ is not. With the exact denoiser, in `float64`, ten lines of somebody's flow sampler against the library's DDIM:

# %%
times = uniform_times(T, 8)
x_T = torch.randn(500, generator=torch.Generator().manual_seed(0), **double)


def rectified_flow(x, times):
    """Nothing in here knows of ᾱ, but for the levels and the model that it was given."""
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
print("a flow sampler is DDIM, to ten digits:", apart < 1e-10)

# %% [markdown]
# ## What cannot be translated, and why
#
# - **Levels between two steps.** A network that was trained at $t=1,\dots,T$ knows these levels only. `DDPM.time_of` takes the nearest. In mid-chain the rounding shrinks with $T$; next to the cosine's noisy end a single step ($T-2\to T-1$) quarters $\bar\alpha$, however many steps there are:

# %%
for steps in (50, 1000):
    table = schedules.log_snr(DDPM(schedules.cosine(steps)).alpha_bar)[1:-1]
    gap = float((table[:-1] - table[1:]).max()) / 2
    middle = float((table[:-1] - table[1:]).min()) / 2
    print(
        f"T = {steps:4d}: λ off by {middle:.3f} in mid-chain, {gap:.2f} at worst"
    )

beyond = VP().time_of(log_snr[-1:])
print(
    f"the noisiest level of the digits' chain, as a VP-SDE time: {beyond.item():.2f}"
)
assert beyond > 1

# %% [markdown]
# - **Levels beyond the end.** Every convention has a noisiest level: the clipped cosine's $x_T$ is noisier than the VP-SDE ever gets (its time would be above 1), EDM stops at $\sigma=80$, VE at $\sigma_\text{max}$. A formula gives a label there; a network trained over there has never seen it. VDM's $\gamma$ has no label for clean data at all.
# - **Answers at the ends.** The divisor of (B.5) is $a$ for $\varepsilon$ and $-b$ for $x_0$. In pure noise ($a=0$, [zero terminal SNR](05_schedules.ipynb)) an $\varepsilon$-network says what everyone sees and $\hat x_0$ cannot be had from it; in clean data an $x_0$-network tells nothing of $\varepsilon$. And near the ends rounding is multiplied: in half precision an $\varepsilon$-answer at $\lambda=-14$ is worth no digit of $\hat x_0$.
# - **The noise of a step.** (B.12) translates the deterministic curve. A *stochastic* step is a choice on top: DDPM's variance between $\tilde\beta$ and $\beta$, DDIM's $\eta$, EDM's churn, Euler–Maruyama on the reverse SDE. They agree in the limit of small steps only, and a learned variance (`var_mix`) has no counterpart in a flow.
# - **The prior.** We start from $\mathcal N(0,I)$, but $q(x_T)$ is not exactly that; EDM starts from $\mathcal N(0,\sigma_\text{max}^2I)$, whose translation is $\mathcal N(0,\frac{\sigma_\text{max}^2}{1+\sigma_\text{max}^2}I)$: slightly narrower. Each has its own small lie at the start ([chapter 01](01_forward.ipynb) measures ours).
# - **The chain and its SDE.** (B.9): a table and an SDE with the same $\beta$ have different $\bar\alpha$. (Cut the table from the SDE, $\beta_t=1-e^{-\int\beta}$, and it lies on it exactly.)
# - **The training.** (B.14): the function translates, the emphasis with which it was learned does not.
# - **The data.** $\sigma_\text{data}=0.5$ says something about images in $[-1,1]$. Latents of another size need another number, or a factor in front.
#
# ## What goes wrong
#
# Every mistake here is a *partial* translation: the sampler speaks one language, the model hears another. Three of them, with the network of the first figure, and with the exact denoiser of the two clusters, where the distance to the truth can be measured:


# %% mystnb={"image": {"alt": "Four rows of the digits 0 to 9. The first is right. In the second, EDM data handed over undivided, strokes are broken and hard. The third, the root of the product in place of the product, can hardly be told from the first. In the fourth, the clock of the flow reversed, digits are blurred averages."}}
def undivided(model):
    """EDM's z = x_0 + σε, given to a model that expects x_t."""
    return lambda x, t, y=None: model(x / float(process.scale[t]), t, y)


def backwards(model):
    """Flow matching's clock: it says T − t where t is due."""
    return lambda x, t, y=None: model(x, max(T - t, 1), y)


# VDM's α_t is our √ᾱ_t. Take it for the ᾱ_t that DDIM calls α_t:
rooted = DDPM(beta_from_alpha_bar(process.scale[1:]))

x_T = torch.randn(10, *card.image_shape, generator=g)
many = torch.randn(40_000, generator=torch.Generator().manual_seed(1), **double)
truth = exact.draw(40_000, generator=torch.Generator().manual_seed(2))
times = uniform_times(T, 25)


def as_it_is(model):
    """The library refuses a model on another process than its own; a function carries none."""
    return lambda x, t, y=None: model(x, t, y)


programs = {
    "right": (as_it_is, process),
    "z for $x_t$": (undivided, process),
    r"$\sqrt{\bar\alpha}$ for $\bar\alpha$": (as_it_is, rooted),
    "reversed": (backwards, process),
}
rows, distance = {}, {}
for name, (hears, chain) in programs.items():
    rows[name] = draw(hears(denoiser), chain, x_T, times, eta=0.0, y=y)
    found = draw(hears(exact), chain, many, times, eta=0.0)
    # the mean distance between equal quantiles of samples and truth
    distance[name] = float((found.sort()[0] - truth.sort()[0]).abs().mean())
    print(f"{distance[name]:.3f}  {name}")
ax = plots.grid(torch.cat(list(rows.values())).clamp(-1, 1), ncol=10)
ax.set_axis_on()
ax.grid(False)
ax.set(xticks=[], yticks=[3.5 + 9 * i for i in range(4)], yticklabels=rows)
ax.spines[:].set_visible(False)
for name in list(programs)[1:]:
    assert distance[name] > 4 * distance["right"]

# %% [markdown]
# *What to see:* none of the three raises an error, and all three draw digits: a network that is told the class forgives a great deal. The third is the nastiest, it looks right. The numbers, mean distances between equal quantiles of the samples and of the truth, do not forgive.
#
# A round trip does not catch such a mistake either: a factor that is wrong on the way there and wrong on the way back cancels. What catches it is a truth that does not come from the
# converter. `tests/test_conventions.py` makes noisy data in the other language and compares with `q_sample` (`test_the_book_says_the_same_of_the_same_data`), takes score and velocity of a Gaussian from its moments and of a mixture from its density, and asks the schedulers of `diffusers`.
#
# ## Exercises
#
# ### ★ Exercise B.1
#
# EDM names a level by $\sigma$, VDM by $\gamma$. Write `gamma(sigma)`.
#
# :::{dropdown} Hint
# Both know $\lambda$.
# :::

# %%
answer = ...  # your answer
# exercises.check("B.1", answer)


# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
# Solution of exercise B.1: γ = −λ and λ = −2 log σ
def gamma(sigma):
    return 2 * sigma.log()


exercises.check("B.1", gamma)

# %% [markdown]
# ### ★★ Exercise B.2
#
# You have a $v$-network of this book and a sampler that wants the velocity $\varepsilon-x_0$ of a rectified flow. Write `velocity(v, x_t, scale, std)`.
#
# :::{dropdown} Hint
# (3.6) gives both $\hat x_0$ and $\hat\varepsilon$. The answer is a mixture of $x_t$ and $v$; which weights?
# :::

# %%
answer = ...  # your answer
# exercises.check("B.2", answer)


# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
# Solution of exercise B.2: subtract the two halves of (3.6)
def velocity(v, x_t, scale, std):
    return (scale + std) * v + (std - scale) * x_t


exercises.check("B.2", velocity)

# %% [markdown]
# ### ★★★ Exercise B.3
#
# A paper that nobody has written yet noises with $z=\cos(\frac\pi2u)\,x_0+\sin(\frac\pi2u)\,\varepsilon$, $u\in(0,1)$. Write it as a `Process`, and say what multiple of the book's $v$ its velocity $\mathrm dz/\mathrm du$ is. The answer is the pair `(process, factor)`.
#
# :::{dropdown} Hint
# $a/b=e^{\lambda/2}$ is a cotangent. The derivative of a point on a circle is the point a quarter turn on.
# :::

# %%
answer = ...  # your answer
# exercises.check("B.3", answer)

# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
# Solution of exercise B.3: u = (2/π) arctan e^{−λ/2}, and dz/du = (π/2) v
half_turn = torch.pi / 2


class Circle(Process):
    def coefficients(self, t):
        return torch.cos(half_turn * t), torch.sin(half_turn * t)

    def time_of(self, log_snr):
        return torch.atan(torch.exp(-log_snr / 2)) / half_turn


exercises.check("B.3", (Circle(), half_turn))

# %% [markdown]
# ## Recap
#
# 1. All conventions write $z=a\,x_0+b\,\varepsilon$; the level is $\lambda=2\log(a/b)$, and $x_t=z/\sqrt{a^2+b^2}$.
# 2. All networks say $p\,x_0+q\,\varepsilon$; with $z$ that is two equations for two unknowns.
# 3. One velocity $a'\hat x_0+b'\hat\varepsilon$ is DDIM's ODE, EDM's, the probability flow of the SDEs and the field of flow matching. EDM's $F$ is $-v$.
# 4. In straight conventions Euler's method *is* DDIM.
# 5. The function translates; levels between steps, the ends, the noise of a step and the emphasis of the training do not.
#
# The equations of this page, the functions that implement them, the tests that pin them:

# %% mystnb={"code_prompt_show": "Equations, functions, tests", "code_prompt_hide": "Hide the table"} tags=["hide-cell"]
from ddpmlib import equations

equations.table("B")

# %% [markdown]
# ## Further reading
#
# - {cite}`karras2022elucidating`: table 1 is the first Rosetta stone of the field, and its appendices derive every column.
# - {cite}`kingma2023understanding`: every loss as a weight over $\lambda$, the currency of this page.
# - {cite}`lipman2023flow,liu2023flow,esser2024scaling`: flow matching and rectified flow, where $x_0$ may be noise; read the first formula first.
# - [Notation](../book/notation.md): this book's own names.
