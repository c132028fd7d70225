# %% [markdown]
# # 2. The reverse process
#
# [![Open in Colab](../book/_static/colab.svg)](https://colab.research.google.com/github/ddpm-book/ddpm-book/blob/main/notebooks/02_reverse.ipynb)
#
# [Chapter 1](01_forward.ipynb) turned data into noise, one small Gaussian step after another. This
# chapter goes back, and needs no network for it: where the distribution of the data is known, the
# best possible denoiser has a closed form. With it, noise turns into data (Fig. 2.1). Every sampler
# of this book repeats the two operations that you see there:
#
# > **Predict the clean image, then draw the next one.**
#
# Nothing is trained in this chapter.

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
from ddpmlib import data, equations
from ddpmlib.denoiser import oracle
from ddpmlib.prediction import Prediction
from ddpmlib.process import DDPM, schedules
from ddpmlib.samplers import draw, sample, uniform_times
from ddpmlib.teaching import exercises
from IPython.display import Markdown

process = DDPM(schedules.cosine(1000))
double = {"dtype": torch.float64}

# %% tags=["hide-input"]
generator = torch.Generator().manual_seed(0)
centres = data.spiral(300, generator=generator)
spiral = oracle.Mixture(process, torch.ones(300), centres, torch.full((300,), 0.05))


def frame(state):
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 4.1), dpi=80, sharey=True)
    look = {"reach": 2.6, "s": 9, "alpha": 0.7}
    plots.scatter(state.x, axes[0], **look)
    plots.scatter(state.x0, axes[1], color=plots.ORANGE, **look)
    axes[0].set_title(f"$x_t$, t = {state.t}", fontsize=12)
    axes[1].set_title(r"prediction $\mathrm{E}[x_0 | x_t]$", fontsize=12)
    axes[1].set_ylabel("")
    return plots.picture(figure)


x_T = torch.randn(200, 2, generator=generator)
times = uniform_times(1000, 160)
states = list(sample(spiral, process, x_T, times, generator=generator))

off = {s.t: torch.cdist(s.x0, centres).min(dim=1).values for s in states[1:]}
spread = {s.t: float(s.x0.std(dim=0).max()) for s in states[1:]}
assert spread[950] < 0.06 and spread[500] < 0.6 < 0.8 < spread[0]
assert 0.30 < float(off[500].median()) < 0.33 and float(off[0].median()) < 0.03

alt = (
    "Left: a cloud of noise contracts into a spiral. Right: the prediction of the "
    "clean points starts as one clump in the middle, unfolds, and meets the left "
    "picture at the end."
)
plots.film([frame(state) for state in states[8::8]], alt=alt, width=576)

# %% [markdown]
# **Fig. 2.1.** Noise becomes a spiral in 160 steps of the reverse chain, with the exact denoiser.
# Left, 200 points $x_t$ on their way from $t=1000$ to $t=0$. Right, the prediction for each of them
# at that moment, $\mathrm{E}[x_0\mid x_t]$: the average of all clean points that the noisy one may
# have come from. At $t=950$ the predictions are nearly one point, the mean of the data (standard
# deviation 0.05 per coordinate); then they spread along the arms. An average need not lie on the
# spiral: at $t=500$ half of the predictions are more than 0.3 away from it. The *samples* at the
# end are within 0.03.
#
# The same loop runs on images. The 1,442 training scans of the 8×8 digits, each equally likely, are
# a distribution too, and its exact denoiser is a weighted average of the scans.

# %% tags=["hide-input"]
digits = data.load("digits")
scans, labels = data.to_float(digits.x_train), digits.y_train
finite = oracle.FiniteData(process, scans)

generator = torch.Generator().manual_seed(3)
x_T = torch.randn(8, 1, 8, 8, generator=generator)
times = uniform_times(1000, 200)
states = list(sample(finite, process, x_T, times, generator=generator))

end = states[-1].x.flatten(1)
off = {s.t: (s.x0.flatten(1) - end).norm(dim=1) / 8 for s in states[1:]}  # per pixel
assert 0.5 < float(off[950].mean()) < 0.55
assert int((off[500] < 0.05).sum()) == 1 and off[225].max() < 0.01
assert 0.37 < float(process.std[225] / process.scale[225]) < 0.39

alt = (
    "Two rows of eight images. Above, noise clears into eight handwritten digits. "
    "Below, the prediction of each goes from the same grey average to a sharp digit "
    "well before that."
)
plots.film([torch.cat([s.x, s.x0]) for s in states[10::10]], alt=alt, ncol=8, width=568)

# %% [markdown]
# **Fig. 2.2.** Noise becomes digits: $x_t$ above, the prediction below. At $t=950$ all eight
# predictions are close to the average scan. One has settled by $t=500$, and at $t=225$ each equals
# the final digit to 0.01 per pixel, while the noise in $x_t$ is still 0.38 times as strong as the
# signal.
#
# It looks like a perfect generative model. How new are the digits?

# %%
x_T = torch.randn(200, 1, 8, 8, generator=generator)
times = uniform_times(1000, 50)
drawn = draw(finite, process, x_T, times, generator=generator)
gaps = torch.cdist(drawn.flatten(1), scans.flatten(1))
copies = int((gaps.min(dim=1).values < 0.01).sum())  # 64 pixels: rounding
print(f"{copies} of {len(drawn)} samples are copies of a training scan")
assert copies == 200

# %% [markdown]
# All of them are copies. This is no error: if the data distribution *is* those 1,442 scans, then
# returning them in the right proportions is exactly right. The exact denoiser is the unique
# minimiser of the training loss ([chapter 3](03_ddpm.ipynb)), so whatever draws new digits must
# come from a network that does *not* reach this minimum, because its size or its training keep it
# from storing all scans. A lower training loss is therefore not better without limit, and [chapter
# 8](08_metrics.ipynb) says what to measure instead.
#
# ## Objectives
#
# After this chapter you can
#
# - write down the exact reverse step with Bayes' rule, and say what makes it unusable;
# - say how small a step must be for a Gaussian to be a fair approximation, and measure the error;
# - derive $q(x_s\mid x_t,x_0)$ for any two times $s<t$ by completing the square;
# - prove that the mean of the reverse step needs nothing but $\mathrm{E}[x_0\mid x_t]$, and know
#   between which bounds its variance lies;
# - write a sampler in ten lines, and recognise two bugs of such samplers from their samples.

# %% [markdown]
# ## The step that we want: Bayes' rule
#
# **From $s$ to $t$ forwards.** [Chapter 1](01_forward.ipynb) went from $x_0$ to $x_t$ in one draw.
# Starting from any $x_s$ works in the same way: each step multiplies by $\sqrt{\alpha_u}$, so the
# factor of $x_s$ is the root of $\alpha_{s+1}\cdots\alpha_t = \bar\alpha_t/\bar\alpha_s$. For the
# variance, suppose that $\mathrm{Var}(x_{u}\mid x_s)=1-\bar\alpha_u/\bar\alpha_s$, which is $0$ at
# $u=s$. One more step gives $\alpha_{u+1}(1-\bar\alpha_u/\bar\alpha_s)+1-\alpha_{u+1} =
# 1-\bar\alpha_{u+1}/\bar\alpha_s$. So
#
# $$
# q(x_t\mid x_s)=\mathcal N\!\left(x_t;\ \sqrt{\bar\alpha_t/\bar\alpha_s}\;x_s,\ \beta_{t\mid s} I\right),
# \qquad \beta_{t\mid s}=1-\frac{\bar\alpha_t}{\bar\alpha_s}, \qquad s<t. \tag{2.1}
# $$
#
# With $s=t-1$ this is the single step, $\beta_{t\mid t-1}=\beta_t$; with $s=0$ it is the kernel,
# $\beta_{t\mid 0}=1-\bar\alpha_t$. We write
# $\alpha_{t\mid s}=1-\beta_{t\mid s}=\bar\alpha_t/\bar\alpha_s$ and keep $s$ general: nothing below
# gets harder, and the results hold for strided samplers too.
#
# **One step backwards.** Bayes' rule exchanges the two variables:
#
# $$
# q(x_s\mid x_t)=\frac{q(x_t\mid x_s)\;q(x_s)}{q(x_t)}. \tag{2.2}
# $$
#
# **The whole chain backwards.** The forward chain is a Markov chain: $x_t$ and fresh noise make all
# later states, earlier ones play no further part. So for three times $s<t<u$ past and future are
# independent once $x_t$ is given,
#
# $$
# q(x_s,x_u\mid x_t)=q(x_s\mid x_t)\;q(x_u\mid x_t)
# \quad\Longrightarrow\quad q(x_s\mid x_t,x_u)=q(x_s\mid x_t).
# $$
#
# The first statement treats past and future alike, hence the second: *read backwards, a Markov
# chain is a Markov chain again*, and its transitions are (2.2). The joint distribution factorises
# both ways,
#
# $$
# q(x_0,\dots,x_T)=q(x_0)\prod_{t=1}^{T}q(x_t\mid x_{t-1})=q(x_T)\prod_{t=1}^{T}q(x_{t-1}\mid x_t).
# $$
#
# Therefore: start from $x_T\sim q(x_T)$, which is all but $\mathcal N(0,I)$, draw $x_{T-1}$ from
# (2.2) given $x_T$ alone, then $x_{T-2}$ given $x_{T-1}$, and so on. The path has the joint
# distribution of the forward chain, and its end $x_0$ that of the data. (2.2) is all that we want.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two graphical models side by side. Left, a hierarchical VAE: nodes x, z1, z2, z3 of shrinking size in a column, solid arrows down labelled p theta, dashed arrows up labelled q phi. Right, diffusion: nodes x0, x1, x2, xT of equal size, solid arrows down all labelled p theta, dashed arrows up labelled q without parameters."}}
def column(ax, x, names, sizes, up, down, title):
    """One graphical model, data below: inference arrows up, generative arrows down."""
    heights = [0.0, 1.0, 2.0, 3.0]
    for k, (name, size) in enumerate(zip(names, sizes, strict=True)):
        fill = "#d9d9d9" if k == 0 else "white"
        node = plt.Circle((x, heights[k]), size, fc=fill, ec="black", zorder=3)
        ax.add_patch(node)
        ax.text(x, heights[k], name, ha="center", va="center", fontsize=12, zorder=4)
    for k in range(3):
        low, high = heights[k] + sizes[k] + 0.03, heights[k + 1] - sizes[k + 1] - 0.03
        for start, stop, side, look, text in (
            (low, high, -0.13, ("--", plots.BLUE), up[k]),
            (high, low, 0.13, ("-", plots.RED), down[k]),
        ):
            arrow = {"arrowstyle": "-|>", "ls": look[0], "color": look[1], "lw": 1.4}
            ax.annotate("", (x + side, stop), (x + side, start), arrowprops=arrow)
            place = {"ha": "right" if side < 0 else "left", "va": "center"}
            place |= {"fontsize": 11, "color": look[1]}
            ax.text(x + 1.6 * side, heights[k] + 0.5, text, **place)
    ax.text(x, 3.62, title, ha="center", fontsize=12)


figure, ax = plt.subplots(figsize=(7.5, 4.2))
column(
    ax, -2.0, ("$x$", "$z_1$", "$z_2$", "$z_3$"), (0.26, 0.21, 0.17, 0.13),
    (r"$q_{\phi_1}(z_1|x)$", r"$q_{\phi_2}(z_2|z_1)$", r"$q_{\phi_3}(z_3|z_2)$"),
    (r"$p_{\theta_1}(x|z_1)$", r"$p_{\theta_2}(z_1|z_2)$", r"$p_{\theta_3}(z_2|z_3)$"),
    "hierarchical VAE",
)  # fmt: skip
column(
    ax, 2.0, ("$x_0$", "$x_1$", r"$\cdots$", "$x_T$"), (0.26,) * 4,
    ("$q(x_1|x_0)$", "$q(x_2|x_1)$", r"$q(x_T|x_{T-1})$"),
    (r"$p_\theta(x_0|x_1)$", r"$p_\theta(x_1|x_2)$", r"$p_\theta(x_{T-1}|x_T)$"),
    "diffusion",
)  # fmt: skip
ax.set(xlim=(-4.1, 4.1), ylim=(-0.4, 4.0), aspect="equal")
ax.set_axis_off()

# Missing arrows: for Gaussian data, zeros of the precision matrix.
short = DDPM(torch.tensor([0.0, 0.2, 0.3, 0.4, 0.5], **double))
path = [0.6 * torch.eye(5, **double)[0]]
for k in range(1, 5):
    step = short.alpha[k].sqrt() * path[-1]
    path.append(step + short.beta[k].sqrt() * torch.eye(5, **double)[k])
precision = torch.linalg.inv(torch.stack(path) @ torch.stack(path).T)
assert (precision.tril(-2).abs() < 1e-9).all() and (precision.diag(-1) < -1).all()

# %% [markdown]
# **Fig. 2.3.** A diffusion model is a hierarchical variational autoencoder whose encoder is fixed.
# In both, the data (grey) stand below a chain of latent variables; dashed arrows are the inference
# model $q$, solid ones the generative model $p_\theta$. In the VAE {cite}`kingma2014auto` the
# latents may have any size, and each layer has an encoder and a decoder to be trained. In diffusion
# all latents have the size of the data, $q$ is (2.1) without any parameter, and one network, told
# the time, serves as every $p_\theta$. No arrow skips a node: that is the Markov property, and
# since it has no direction the arrows of the right half can be turned around. [Chapter
# 4](04_elbo.ipynb) derives the loss of such a model and continues the comparison.
#
# Now look at the parts of (2.2):
#
# - $q(x_t\mid x_s)$ is the known Gaussian (2.1).
# - $q(x_t)$ does not depend on $x_s$: a constant that makes the density integrate to one.
# - $q(x_s)=\int q(x_s\mid x_0)\,q(x_0)\,dx_0$ is what makes (2.2) unusable. It averages over all
#   clean images, weighted with the data distribution, which we do not know.
#
# If a data set $x^{(1)},\dots,x^{(N)}$ is all that we have, the integral becomes a sum over it,
#
# $$
# q(x_s)=\frac1N\sum_{i=1}^N \mathcal N\!\left(x_s;\ \sqrt{\bar\alpha_s}\,x^{(i)},\ (1-\bar\alpha_s) I\right), \tag{2.3}
# $$
#
# which can be computed, as Fig. 2.2 did, but it touches every training image at each step of each
# sample, and the distribution that it describes is the training set.
#
# In one dimension nothing stops us from computing (2.2) exactly, on a grid. Our test distribution
# for the whole chapter is a mixture of two narrow Gaussians, with mean 0 and variance exactly 1:

# %%
weights = torch.tensor([0.4, 0.6], **double)
means = torch.tensor([-1.2, 0.8], **double)
stds = torch.tensor([0.2, 0.2], **double)
mixture = oracle.Mixture(process, weights, means, stds)

y = torch.linspace(-6, 6, 6001, **double)  # the grid for x_s
dy = y[1] - y[0]


def reverse_conditional(x_t, t, s):
    """q(x_s | x_t) on the grid by (2.2), one row per entry of x_t."""
    alpha = process.alpha_bar[t] / process.alpha_bar[s]
    miss = x_t[:, None] - alpha.sqrt() * y
    log_forward = -(miss**2) / (2 * (1 - alpha))
    # The softmax over the grid divides by q(x_t).
    return torch.softmax(log_forward + mixture.log_prob(y, s), dim=1) / dy


def moments(density):
    """Mean and variance of each row."""
    mean = (density * y).sum(1) * dy
    return mean, (density * (y - mean[:, None]) ** 2).sum(1) * dy


def gaussian(mean, var):
    """The Gaussian densities with these moments, on the grid."""
    mean, var = mean[:, None], var[:, None]
    height = 1 / (2 * math.pi * var).sqrt()
    return height * torch.exp(-((y - mean) ** 2) / (2 * var))


# %% tags=["hide-input"] mystnb={"image": {"alt": "Four panels of the exact reverse conditional and the Gaussian with the same mean and variance. For strides 1 and 10 the curves coincide, for 100 the exact one leans to a side, for 500 it has two separate peaks that the Gaussian bridges."}}
t, x_t = 600, torch.tensor([0.2], **double)
figure, axes = plt.subplots(1, 4, figsize=(7.5, 2.8))
peaks, apart = {}, {}
for ax, stride in zip(axes, [1, 10, 100, 500], strict=True):
    exact = reverse_conditional(x_t, t, t - stride)
    mean, var = moments(exact)
    bell = gaussian(mean, var)
    ax.plot(y, exact[0], label="exact")
    ax.plot(y, bell[0], "--", label="Gaussian")
    low, high = float(mean - 3.3 * var.sqrt()), float(mean + 3.3 * var.sqrt())
    ax.set(xlim=(low, high), yticks=[], xlabel="$x_s$")
    ax.set_title(f"s = {t - stride}", fontsize=11)
    rises = exact[0].diff() > 0
    peaks[stride] = int((rises[:-1] & ~rises[1:]).sum())
    apart[stride] = float((exact - bell).abs().sum() * dy / 2)
axes[0].set_ylabel("density of $x_s$")
names = axes[-1].get_legend_handles_labels()
_ = figure.legend(*names, fontsize=10, loc="outside lower center", ncol=2)
assert peaks == {1: 1, 10: 1, 100: 1, 500: 2}
assert apart[10] < 0.001 and 0.01 < apart[100] < 0.03 and 0.48 < apart[500] < 0.5

# %% [markdown]
# **Fig. 2.4.** Small steps back are Gaussian, large ones are not. The exact $q(x_s\mid x_t=0.2)$
# from $t=600$ down to four times $s$, and the Gaussian of the same mean and variance. For strides
# of 1 and 10 the curves coincide (they differ in less than 0.1 % of their mass). For the stride of
# 100 the exact curve leans a little. For the stride of 500, almost to the data, it has two peaks,
# one for each mode of the data, and the Gaussian has half of its mass in the wrong place.

# %% [markdown]
# ## When a Gaussian is a fair approximation
#
# Take one reverse step over a small $\beta_{t\mid s}$. As a function of $x_s$, the forward factor
# in (2.2) is a narrow bump around $c=x_t/\sqrt{\alpha_{t\mid s}}$:
#
# $$
# \log q(x_t\mid x_s) = -\frac{\lVert x_t-\sqrt{\alpha_{t\mid s}}\,x_s\rVert^2}{2\beta_{t\mid s}}+\text{const}
# = -\frac{\alpha_{t\mid s}}{2\beta_{t\mid s}}\lVert x_s-c\rVert^2+\text{const}.
# $$
#
# It allows only $\lVert x_s-c\rVert=O(\sqrt{\beta_{t\mid s}})$. On such a short piece the other
# factor is nearly log-linear. With $g=\nabla\log q_s(c)$, the gradient of the marginal of $x_s$ at
# $c$,
#
# $$
# \log q_s(x_s)=\log q_s(c)+g^\top(x_s-c)+O(\lVert x_s-c\rVert^2),
# \qquad \lVert x_s-c\rVert^2=O(\beta_{t\mid s}).
# $$
#
# Add the two and complete the square,
# $-\frac{a}{2}\lVert z\rVert^2+g^\top z=-\frac a2\lVert z-g/a\rVert^2+\text{const}$ with $z=x_s-c$
# and $a=\alpha_{t\mid s}/\beta_{t\mid s}$:
#
# $$
# \log q(x_s\mid x_t)=-\frac{\alpha_{t\mid s}}{2\beta_{t\mid s}}\left\lVert x_s-c-\frac{\beta_{t\mid s}}{\alpha_{t\mid s}}\,g\right\rVert^2+\text{const}+O(\beta_{t\mid s}).
# $$
#
# That is a Gaussian with mean $c+\frac{\beta}{\alpha}g$ and variance
# $\frac\beta\alpha=\beta+O(\beta^2)$. Expressed by the gradient at $x_t$, where a sampler stands,
#
# $$
# q(x_s\mid x_t)\approx\mathcal N\!\left(x_s;\ \frac{x_t+\beta_{t\mid s}\nabla\log q(x_t)}{\sqrt{1-\beta_{t\mid s}}},\ \beta_{t\mid s} I\right), \tag{2.4}
# $$
#
# with errors of $O(\beta_{t\mid s}^2)$ in the mean and in the variance. Undo the scaling of $x_t$,
# and add a push towards higher density.
#
# :::{dropdown} Proof: the two errors, and the gradient at $x_t$ in place of $g$
# The neglected quadratic term of the expansion changes the precision $\alpha/\beta$ by $O(1)$, so
# the variance by $O(\beta^2)$, and the shift $\frac\beta\alpha g$ by a relative $O(\beta)$, so the
# mean by $O(\beta^2)$.
#
# $g$ is a gradient at $c$ of the marginal at $s$. The marginal at $t$ is the one at $s$, stretched
# by $\sqrt{\alpha_{t\mid s}}$ and blurred with variance $\beta_{t\mid s}$. The blur changes the
# logarithm of a smooth density by $O(\beta)$, and the stretch divides gradients by $\sqrt{\alpha}$:
# $\nabla\log q_t(x_t)=g/\sqrt{\alpha_{t\mid s}}+O(\beta)$. Hence
# $\frac\beta\alpha g=\frac{\beta}{\sqrt\alpha}\nabla\log q_t(x_t)+O(\beta^2)$.
# :::
#
# Orders can be tested: double the step, and an $O(\beta^2)$ error must grow fourfold.


# %%
def expansion(x_t, t, s):
    """Three forms of the mean for a small step, and its variance β."""
    alpha = process.alpha_bar[t] / process.alpha_bar[s]
    beta, c = 1 - alpha, x_t / alpha.sqrt()
    at_c = c + beta / alpha * mixture.score(c, s)  # c + β g / α
    score = mixture.score(x_t, t)
    at_x_t = (x_t + beta * score) / alpha.sqrt()  # (2.4)
    euler = x_t + beta * (x_t / 2 + score)  # first order in β, see below
    return at_c, at_x_t, euler, beta


# %% tags=["hide-input"]
rows, errors = [], []
for stride in (1, 2, 4, 8):
    mean, var = moments(reverse_conditional(x_t, 600, 600 - stride))
    *forms, beta = expansion(x_t, 600, 600 - stride)
    at_c, at_x_t, euler = (abs(float(mean - form)) for form in forms)
    errors.append([abs(float(var - beta)), at_c, euler])
    assert at_x_t < 1e-12
    cells = " | ".join(f"{e:.1e}" for e in errors[-1])
    rows.append(f"| {stride} | {float(beta):.4f} | {cells} | below 1e-12 |")
for smaller, larger in zip(errors, errors[1:], strict=False):
    assert all(3.7 < b / a < 4.3 for a, b in zip(smaller, larger, strict=True))
head = (
    "| stride | β | variance β | mean $c+\\beta g/\\alpha$ "
    "| mean, first order in β | mean of (2.4) |"
)
Markdown("\n".join([head, "|--:|--:|--:|--:|--:|--:|", *rows]))

# %% [markdown]
# The errors of the small-step formulas at $x_t=0.2$, $t=600$, against quadrature. Three columns
# grow fourfold with each doubling, as they should. The last one does not: the mean of (2.4),
# derived with $O(\beta^2)$ to spare, has no error at all. The reason is Tweedie's formula, (2.17)
# below: this mean is *exact for every step size*. Only the variance and the shape need a small
# step.
#
# **How wrong is the shape?** The divergence of $q(x_s\mid x_t)$ from the Gaussian $g$ with the same
# moments is, for small steps and in one dimension,
#
# $$
# \mathrm{KL}\big(q(x_s\mid x_t)\,\big\Vert\,g\big)\approx\frac{\gamma^2}{12}=\frac{\beta_{t\mid s}^3}{12}\left(\partial^3_x\log q(x_t)\right)^2 . \tag{2.5}
# $$
#
# Here $\gamma\approx\beta_{t\mid s}^{3/2}\,\partial_x^3\log q(x_t)$ is the skewness of
# $q(x_s\mid x_t)$. The divergence falls with the *third* power of the step: ten times smaller steps
# make a thousand times better Gaussians.
#
# :::{dropdown} Proof: the skewness γ and the factor 1/12
# Continue the expansion of $\log q_s$ by one order. In units $u=(x_s-\text{mean})/\sqrt{\beta}$ the
# linear term moved the mean and the quadratic one changed the variance: a Gaussian with the right
# moments absorbs both. The first term that it cannot absorb is the cubic, $\frac{\gamma}{6}u^3$
# with $\gamma\approx\beta^{3/2}\,\partial^3\log q$. Up to a shift, $u^3$ is the Hermite polynomial
# $\mathrm{He}_3(u)=u^3-3u$, so the density is $\varphi(u)\,(1+\frac\gamma6\mathrm{He}_3(u)+\dots)$
# with the standard normal $\varphi$. For a small relative deviation $r$ with mean zero,
# $\mathrm{KL}=\int\varphi\,(1+r)\log(1+r)\approx\int\varphi\,(r+\tfrac12r^2)=\frac12\int\varphi\,r^2$,
# and $\int\varphi\,\mathrm{He}_3^2=15-18+9=6$ (with the moments $15, 3, 1$ of $u^6,u^4,u^2$).
# Together $\frac12\cdot\frac{\gamma^2}{36}\cdot6=\frac{\gamma^2}{12}$.
# :::
#
# We measure it from one step of the chain up to a stride of 500, with the Kullback–Leibler
# divergence and the total variation (half the area between the curves), averaged over
# $x_t\sim q(x_t)$, all by quadrature:

# %%
x_grid = torch.linspace(-4, 4, 161, **double)
share = torch.softmax(mixture.log_prob(x_grid, 600), dim=0)  # q(x_t)


def shape_error(stride, t=600):
    """KL and total variation from the moment-matched Gaussian."""
    exact = reverse_conditional(x_grid, t, t - stride)
    bell = gaussian(*moments(exact))
    log_exact = exact.clamp(min=1e-300).log()
    log_ratio = log_exact - bell.clamp(min=1e-300).log()
    # The last two terms cancel, but steady the sum.
    kl = (exact * log_ratio - exact + bell).sum(1) * dy
    variation = (exact - bell).abs().sum(1) * dy / 2
    return float(share @ kl), float(share @ variation)


# %% tags=["hide-input"] mystnb={"image": {"alt": "Two error measures against the step size, both axes logarithmic. The measured KL follows a straight line of slope three for small steps and rises above it for large ones; the total variation rises from one in a hundred thousand to almost one half."}}
at = x_grid.clone().requires_grad_()
(second,) = torch.autograd.grad(mixture.score(at, 600).sum(), at, create_graph=True)
(third,) = torch.autograd.grad(second.sum(), at)
predicted = float(share @ third.detach() ** 2) / 12

strides = [1, 3, 10, 30, 100, 200, 300, 500]
alpha_bar = process.alpha_bar.tolist()
step_beta = [1 - alpha_bar[600] / alpha_bar[600 - k] for k in strides]
kl, tv = zip(*map(shape_error, strides), strict=True)
by_formula = [predicted * b**3 for b in step_beta]

figure, axes = plt.subplots(1, 2, figsize=(7.5, 3.2))
axes[0].plot(step_beta, kl, "o-", label="measured")
axes[0].plot(step_beta, by_formula, "--", label="(2.5), slope 3")
axes[1].plot(step_beta, tv, "o-", color=plots.GREEN)
for ax, name in zip(axes, ("KL in nats", "total variation"), strict=True):
    ax.set(xscale="log", yscale="log", xlabel="$\\beta_{t|s}$ of the step", ylabel=name)
axes[0].legend(fontsize=10)
for k, b, v in zip(strides, step_beta, tv, strict=True):
    if k in (1, 10, 100, 500):
        look = {"textcoords": "offset points", "fontsize": 10}
        axes[1].annotate(f"{k}", (b, v), (7, -8), **look)
_ = axes[1].set(xlim=(None, 1.8), ylim=(5e-6, None))

assert abs(kl[0] / by_formula[0] - 1) < 0.03  # one step
assert 1.1 < kl[2] / by_formula[2] < 1.3 and 4 < kl[4] / by_formula[4] < 4.5
assert kl[0] < 1e-9 and 0.55 < kl[-1] < 0.65
assert tv[0] < 2e-5 and 0.017 < tv[4] < 0.019 and 0.43 < tv[-1] < 0.45

# %% [markdown]
# **Fig. 2.5.** The error of the Gaussian shape grows with the third power of the step, and faster
# where the step is large. Averages at $t=600$ over $x_t$; the labels on the right are strides. One
# step of the chain costs $10^{-9}$ nats, as (2.5) says; at a stride of 10 the KL is a fifth above
# the formula, at 100 four times as large. Total variation is the mass in the wrong place: 1.8 % for
# a stride of 100, 44 % for a stride of 500, whatever network computes the mean. Few-step samplers
# therefore draw from something richer than a Gaussian {cite}`xiao2022tackling`, or draw nothing at
# all ([chapter 7](07_ddim.ipynb)).
#
# ### Ever smaller steps: the stochastic differential equation
#
# Let the number of steps grow and each of them shrink, $\beta_{t\mid s}=\beta(t)\,\mathrm dt$. The
# forward step (2.1) then is
# $x_t\approx x_s-\frac12\beta(t)\,x_s\,\mathrm dt+\sqrt{\beta(t)\,\mathrm dt}\,\varepsilon$, in the
# limit the stochastic differential equation on the left; the reverse step (2.4), to first order in
# $\beta$, becomes the one on the right, in which time runs backwards:
#
# $$
# \mathrm dx=-\tfrac12\beta(t)\,x\,\mathrm dt+\sqrt{\beta(t)}\,\mathrm d\omega,\qquad
# \mathrm dx=\left[-\tfrac12\beta(t)\,x-\beta(t)\,\nabla\log q(x_t)\right]\mathrm dt+\sqrt{\beta(t)}\,\mathrm d\bar\omega .
# $$
#
# Anderson found the reversal {cite}`anderson1982reverse`, Song et al. built generative models on it
# {cite}`song2021score`. One Euler step of the right equation over $-\mathrm dt$ has the mean
# $x_t+\beta\,(\frac12x_t+\nabla\log q(x_t))$, the column "first order in β" of the table above: its
# error of order $\beta^2$ per step, over about $1/\beta$ steps, leaves one of order $\beta$. This
# part of the book stays with the chain; [appendix B](B_rosetta.ipynb#score-sdes-vp-and-ve) solves
# the forward equation (B.8), and gives the *ordinary* differential equation with the same marginals
# (B.13).

# %% [markdown]
# ## If the clean image were known
#
# Bayes' rule (2.2) fails on $q(x_s)$. Condition everything on $x_0$, and the unknown average
# becomes a known Gaussian:
#
# $$
# q(x_s\mid x_t,x_0)=\frac{q(x_t\mid x_s,x_0)\;q(x_s\mid x_0)}{q(x_t\mid x_0)}=\frac{q(x_t\mid x_s)\;q(x_s\mid x_0)}{q(x_t\mid x_0)}.
# $$
#
# The second equality is the Markov property once more: given $x_s$, the noise added later is
# independent of $x_0$. Take $s=t-1$ and $t\ge2$ first. As a function of $x_{t-1}$, with everything
# else in "const",
#
# $$
# \begin{aligned}
# &\log q(x_{t-1}\mid x_t,x_0)\\
# &=-\frac12\left[\frac{\lVert x_t-\sqrt{\alpha_t}\,x_{t-1}\rVert^2}{\beta_t}+\frac{\lVert x_{t-1}-\sqrt{\bar\alpha_{t-1}}\,x_0\rVert^2}{1-\bar\alpha_{t-1}}\right]+\text{const}\\
# &=-\frac12\left[\left(\frac{\alpha_t}{\beta_t}+\frac{1}{1-\bar\alpha_{t-1}}\right)\lVert x_{t-1}\rVert^2-2\left(\frac{\sqrt{\alpha_t}}{\beta_t}x_t+\frac{\sqrt{\bar\alpha_{t-1}}}{1-\bar\alpha_{t-1}}x_0\right)^{\!\top}x_{t-1}\right]+\text{const}.
# \end{aligned}
# $$
#
# A Gaussian with precision $\Lambda$ (one over the variance) and mean $\mu$ has the exponent
# $-\frac12[\Lambda\lVert x\rVert^2-2\Lambda\mu^\top x]+\text{const}$. Compare: the square gives the
# precision, the linear term gives precision times mean,
#
# $$
# \frac1{\tilde\beta_t}=\frac{\alpha_t}{\beta_t}+\frac1{1-\bar\alpha_{t-1}},\qquad
# \tilde\mu_t=\tilde\beta_t\left(\frac{\sqrt{\alpha_t}}{\beta_t}\,x_t+\frac{\sqrt{\bar\alpha_{t-1}}}{1-\bar\alpha_{t-1}}\,x_0\right). \tag{2.6}
# $$
#
# **Precision form.** Two Gaussians carry information about $x_{t-1}$: what came after ($x_t$) and
# what was before ($x_0$). Their precisions add up, and the mean weighs the two by their precisions.
#
# **The variance.** On a common denominator, with $\alpha_t\bar\alpha_{t-1}=\bar\alpha_t$ and
# $\beta_t=1-\alpha_t$,
#
# $$
# \frac{1}{\tilde\beta_t}=\frac{\alpha_t(1-\bar\alpha_{t-1})+\beta_t}{\beta_t(1-\bar\alpha_{t-1})}=\frac{\alpha_t-\bar\alpha_t+1-\alpha_t}{\beta_t(1-\bar\alpha_{t-1})}
# \quad\Longrightarrow\quad
# \tilde\beta_t=\frac{1-\bar\alpha_{t-1}}{1-\bar\alpha_t}\,\beta_t . \tag{2.7}
# $$
#
# **$x_0$-form of the mean.** Multiply (2.7) into the bracket of (2.6); $\beta_t$ cancels in the
# first term, $1-\bar\alpha_{t-1}$ in the second:
#
# $$
# \tilde\mu_t(x_t,x_0)=\frac{\sqrt{\alpha_t}\,(1-\bar\alpha_{t-1})}{1-\bar\alpha_t}\,x_t+\frac{\sqrt{\bar\alpha_{t-1}}\,\beta_t}{1-\bar\alpha_t}\,x_0 . \tag{2.8}
# $$
#
# **$\varepsilon$-form.** Replace $x_0$ by
# $(x_t-\sqrt{1-\bar\alpha_t}\,\varepsilon)/\sqrt{\bar\alpha_t}$, where
# $\sqrt{\bar\alpha_{t-1}}/\sqrt{\bar\alpha_t}=1/\sqrt{\alpha_t}$. The factor of $x_t$ becomes
#
# $$
# \frac{\sqrt{\alpha_t}\,(1-\bar\alpha_{t-1})}{1-\bar\alpha_t}+\frac{\beta_t}{\sqrt{\alpha_t}\,(1-\bar\alpha_t)}
# =\frac{\alpha_t-\bar\alpha_t+1-\alpha_t}{\sqrt{\alpha_t}\,(1-\bar\alpha_t)}=\frac1{\sqrt{\alpha_t}},
# $$
#
# that of $\varepsilon$ is
# $-\frac{\beta_t}{\sqrt{\alpha_t}\,(1-\bar\alpha_t)}\sqrt{1-\bar\alpha_t}$, and so
#
# $$
# \tilde\mu_t=\frac{1}{\sqrt{\alpha_t}}\left(x_t-\frac{\beta_t}{\sqrt{1-\bar\alpha_t}}\,\varepsilon\right). \tag{2.9}
# $$
#
# **Any two times.** The derivation used three facts: the forward Gaussian from $t-1$ to $t$, the
# kernel at $t-1$, and $\alpha_t\bar\alpha_{t-1}=\bar\alpha_t$. By (2.1) all three hold for any
# $s<t$ if $\alpha_t$ and $\beta_t$ become $\alpha_{t\mid s}$ and $\beta_{t\mid s}$, and $t-1$
# becomes $s$. Therefore
#
# $$
# q(x_s\mid x_t,x_0)=\mathcal N\!\left(x_s;\ \frac{\sqrt{\alpha_{t\mid s}}\,(1-\bar\alpha_s)}{1-\bar\alpha_t}\,x_t+\frac{\sqrt{\bar\alpha_s}\,\beta_{t\mid s}}{1-\bar\alpha_t}\,x_0,\ \ \tilde\beta_{t\to s} I\right) \tag{2.10}
# $$
#
# with the variance
#
# $$
# \tilde\beta_{t\to s}=\frac{1-\bar\alpha_s}{1-\bar\alpha_t}\,\beta_{t\mid s}.
# $$
#
# At $s=0$, where (2.6) would divide by zero, (2.10) is fine: $\beta_{t\mid0}=1-\bar\alpha_t$, so
# the mean is $x_0$ and the variance is 0. If $x_0$ is known, there is nothing left to draw. The
# library has only this one formula, `process.posterior(x_t, x0, t, s)`. First the algebra by
# machine (folded), then the three forms and the library in numbers.

# %% tags=["hide-cell"]
import sympy

# a = alpha_bar
a_t, a_s, x_t_, x_s_, x_0_ = sympy.symbols("a_t a_s x_t x_s x_0", positive=True)
beta_ts = 1 - a_t / a_s
exponent = -((x_t_ - sympy.sqrt(a_t / a_s) * x_s_) ** 2) / (2 * beta_ts)
exponent -= (x_s_ - sympy.sqrt(a_s) * x_0_) ** 2 / (2 * (1 - a_s))

variance = (1 - a_s) / (1 - a_t) * beta_ts
mean_s = sympy.sqrt(a_t / a_s) * (1 - a_s) / (1 - a_t) * x_t_
mean_s += sympy.sqrt(a_s) * beta_ts / (1 - a_t) * x_0_

# If the square is complete, nothing that is left depends on x_s.
left_over = exponent + (x_s_ - mean_s) ** 2 / (2 * variance)
assert sympy.simplify(sympy.diff(left_over, x_s_)) == 0
# And what is left is the kernel q(x_t | x_0) in the denominator of Bayes' rule.
kernel = -((x_t_ - sympy.sqrt(a_t) * x_0_) ** 2) / (2 * (1 - a_t))
assert sympy.simplify(left_over - kernel) == 0
print("the square of (2.10) is complete, and the remainder is log q(x_t | x_0)")

# %%
t = 300
generator = torch.Generator().manual_seed(0)
x0, eps = torch.randn(2, 5, generator=generator).double()
x_t = process.q_sample(x0, t, eps)

alpha, beta = process.alpha[t], process.beta[t]
now, before = process.alpha_bar[t], process.alpha_bar[t - 1]

precision = alpha / beta + 1 / (1 - before)
by_precision = alpha.sqrt() / beta * x_t  # (2.6)
by_precision = by_precision + before.sqrt() / (1 - before) * x0
by_precision = by_precision / precision
by_x0 = alpha.sqrt() * (1 - before) / (1 - now) * x_t  # (2.8)
by_x0 = by_x0 + before.sqrt() * beta / (1 - now) * x0
by_eps = (x_t - beta / (1 - now).sqrt() * eps) / alpha.sqrt()  # (2.9)

mean, std = process.posterior(x_t, x0, t, t - 1)
for form in (by_precision, by_x0, by_eps):
    torch.testing.assert_close(form, mean, rtol=1e-12, atol=1e-12)
assert math.isclose(std**2, 1 / precision)
assert math.isclose(std**2, process.beta_tilde[t])

mean, std = process.posterior(x_t, x0, t, 0)
torch.testing.assert_close(mean, x0)
assert std == 0
print("three forms, one mean; at s = 0 the mean is x0, the variance 0")

# %% [markdown]
# :::{admonition} Common misprints: a bar, a square, and a bar again
# :class: warning
# Three misprints around this formula, in slides and elsewhere, look harmless:
#
# - **"$\bar\beta_t$" for $\tilde\beta_t$.** A bar means a product over all steps, as in
#   $\bar\alpha_t$. The posterior variance is not a product; it has a tilde.
# - **A variance written $\sigma_t I$** where $\sigma_t^2 I$ is meant. Code that follows draws with
#   $\sqrt{\sigma_t}$ instead of $\sigma_t$. In this book $\sigma_t$ is always a standard deviation.
# - **$\alpha$ for $\bar\alpha$**, for instance $\sqrt{1-\alpha_t}$ in place of
#   $\sqrt{1-\bar\alpha_t}$ in (2.9). The letters themselves invite it: the DDIM paper
#   {cite}`song2021denoising` calls our $\bar\alpha_t$ plain $\alpha_t$. What the mix-up does to
#   samples stands [below](#what-goes-wrong-noise-after-the-last-step-and-a-lost-bar).
# :::
#
# **How large is $\tilde\beta$?** The fraction $\frac{1-\bar\alpha_{t-1}}{1-\bar\alpha_t}$ is below
# one because $\bar\alpha$ falls, so $\tilde\beta_t<\beta_t$ always. At $t=1$ it is zero,
# $\tilde\beta_1=0$. Then
#
# $$
# \frac{\tilde\beta_t}{\beta_t}=\frac{1-\bar\alpha_{t-1}}{1-\bar\alpha_t}=1-\frac{\bar\alpha_{t-1}\beta_t}{1-\bar\alpha_t}
# $$
#
# tends to one as soon as a single step adds little compared with all noise so far,
# $\beta_t\ll1-\bar\alpha_t$.

# %% tags=["hide-input"] mystnb={"image": {"alt": "The ratio of beta tilde to beta over t divided by T, logarithmic, for three chain lengths. Each curve starts at zero at t equals 1 and climbs to one; the longer the chain, the earlier."}}
figure, ax = plt.subplots(figsize=(6.6, 3.0))
below = {}
for T, marker in ((10, "o-"), (100, "-"), (1000, "--")):
    chain = DDPM(schedules.cosine(T))
    ratio = chain.beta_tilde[1:] / chain.beta[1:]
    at = torch.arange(1, T + 1) / T
    ax.plot(at, ratio, marker, markersize=4, label=f"T = {T}")
    below[T] = int((ratio < 0.9).sum())
    assert ratio[0] == 0 and (ratio < 1).all()
    assert (ratio[: below[T]] < 0.9).all()  # they are the first ones
ax.set(xscale="log", xlabel="t / T", ylabel=r"$\tilde\beta_t\,/\,\beta_t$")
_ = ax.legend()
assert below == {10: 8, 100: 18, 1000: 14}

# %% [markdown]
# **Fig. 2.6.** The two variances differ where a step is large beside all noise before it. The ratio
# $\tilde\beta_t/\beta_t$ of the cosine schedule for three lengths of the chain. With 1,000 steps it
# is below 0.9 only in the first 14 (the last ones of a sampler); with 100 steps in 18, and with ten
# steps in eight. So it is in *short* chains that the choice of the variance matters.

# %% [markdown]
# ## The one idea: predict the clean image, then draw the next one
#
# Given $x_t$ alone we do not know $x_0$; we have a distribution $q(x_0\mid x_t)$ over what it may
# have been. The true reverse step is the average of (2.10) over it,
# $q(x_s\mid x_t)=\int q(x_s\mid x_t,x_0)\,q(x_0\mid x_t)\,dx_0$. How much of it survives if we keep
# only the mean of $x_0$?
#
# **The mean survives in full.** Write (2.10) as $\mathrm E[x_s\mid x_t,x_0]=A\,x_0+B\,x_t$ with the
# numbers $A=\sqrt{\bar\alpha_s}\,\beta_{t\mid s}/(1-\bar\alpha_t)$ and
# $B=\sqrt{\alpha_{t\mid s}}\,(1-\bar\alpha_s)/(1-\bar\alpha_t)$. It is *linear* in $x_0$. By the
# law of total expectation,
#
# $$
# \mathrm E[x_s\mid x_t]=\mathrm E\big[A\,x_0+B\,x_t\,\big|\,x_t\big]
# =A\,\mathrm E[x_0\mid x_t]+B\,x_t . \tag{2.11}
# $$
#
# For any step size and any data: put the prediction $\hat x_0=\mathrm E[x_0\mid x_t]$ where $x_0$
# stood, and the mean of the reverse step is exact. This is why it is enough to learn one function,
# the mean of the clean image.
#
# **The variance gains a term.** By the law of total variance,
#
# $$
# \mathrm{Cov}(x_s\mid x_t)=\mathrm E\big[\mathrm{Cov}(x_s\mid x_t,x_0)\,\big|\,x_t\big]+\mathrm{Cov}\big(\mathrm E[x_s\mid x_t,x_0]\,\big|\,x_t\big).
# $$
#
# The first term is $\tilde\beta_{t\to s}I$. The second is $\mathrm{Cov}(A\,x_0+B\,x_t\mid x_t)$,
# where $B\,x_t$ is a constant and $A$ comes out squared:
#
# $$
# \mathrm{Cov}(x_s\mid x_t)=\tilde\beta_{t\to s}\,I+\left(\frac{\sqrt{\bar\alpha_s}\,\beta_{t\mid s}}{1-\bar\alpha_t}\right)^{\!2}\mathrm{Cov}(x_0\mid x_t). \tag{2.12}
# $$
#
# The noise that would be there even if $x_0$ were known, plus the uncertainty about $x_0$. For
# small steps the second term is of order $\beta^2$ and the first of order $\beta$, which is why
# drawing with $\tilde\beta$ works at all. Both formulas against quadrature, for the stride from 600
# to 500, where the conditional is visibly not Gaussian:

# %%
t, s = 600, 500
points = torch.tensor([-1.5, -0.5, 0.2, 1.0], **double)
# By quadrature, without any formula of this section:
mean, var = moments(reverse_conditional(points, t, s))
of_x0, var_of_x0 = moments(reverse_conditional(points, t, 0))

x0 = mixture(points, t).x0
by_2_11, std = process.posterior(points, x0, t, s)
step = 1 - process.alpha_bar[t] / process.alpha_bar[s]
A = process.alpha_bar[s].sqrt() * step / (1 - process.alpha_bar[t])
by_2_12 = std**2 + A**2 * var_of_x0

torch.testing.assert_close(of_x0, x0, rtol=1e-9, atol=1e-9)
torch.testing.assert_close(mean, by_2_11, rtol=1e-9, atol=1e-9)
torch.testing.assert_close(var, by_2_12, rtol=1e-9, atol=1e-9)

# %% tags=["hide-input"]
columns = zip(points, mean, by_2_11, var, by_2_12, strict=True)
rows = [
    f"| {x:.1f} | " + " | ".join(f"{float(v):.5f}" for v in row) + f" | {std**2:.5f} |"
    for x, *row in columns
]
head = (
    "| $x_t$ | E$[x_s\\mid x_t]$ | by (2.11) "
    "| Var$[x_s\\mid x_t]$ | by (2.12) | $\\tilde\\beta$ alone |"
)
Markdown("\n".join([head, "|--:|--:|--:|--:|--:|--:|", *rows]))

# %% [markdown]
# **Between which bounds?** A covariance is never negative, so (2.12) says: *at every* $x_t$, the
# variance is at least $\tilde\beta_{t\to s}$. Equality needs $\mathrm{Cov}(x_0\mid x_t)=0$, data
# that are a single point.
#
# Upwards, take data with variance at most one per coordinate, as all data in $[-1,1]$ have. Then
#
# $$
# \tilde\beta_{t\to s}\ \le\ \mathrm E_{x_t}\big[\mathrm{Var}(x_s\mid x_t)\big]\ \le\ \beta_{t\mid s}. \tag{2.13}
# $$
#
# :::{dropdown} Proof: the upper bound, and the data that reach it
# Subtract the mean of the data, which changes no variance. Then
# $\mathrm{Var}(x_s)=\bar\alpha_s\mathrm{Var}(x_0)+1-\bar\alpha_s\le1$ too. Use
# $\sqrt{\alpha_{t\mid s}}\,x_t$ as a naive guess of $x_s$. With
# $x_t=\sqrt{\alpha_{t\mid s}}\,x_s+\sqrt{\beta_{t\mid s}}\,\varepsilon$ the guess misses by
#
# $$
# x_s-\sqrt{\alpha_{t\mid s}}\,x_t=\beta_{t\mid s}\,x_s-\sqrt{\alpha_{t\mid s}\,\beta_{t\mid s}}\;\varepsilon ,
# $$
#
# $$
# \mathrm E\big(x_s-\sqrt{\alpha_{t\mid s}}\,x_t\big)^2=\beta_{t\mid s}^2\,\mathrm{Var}(x_s)+\alpha_{t\mid s}\,\beta_{t\mid s}\le\beta_{t\mid s},
# $$
#
# since $\beta^2+\alpha\beta=\beta$. The conditional mean is the guess with the least mean squared
# error, and that least error is the average conditional variance.
#
# The upper end is reached by $x_0\sim\mathcal N(0,I)$. There
# $\mathrm{Var}(x_0\mid x_t)=1-\bar\alpha_t$ at every $x_t$ (the marginals stay $\mathcal N(0,I)$,
# the correlation of $x_0$ and $x_t$ is $\sqrt{\bar\alpha_t}$), and (2.12) gives
#
# $$
# \frac{(1-\bar\alpha_s)\,\beta_{t\mid s}}{1-\bar\alpha_t}+\frac{\bar\alpha_s\,\beta_{t\mid s}^2}{1-\bar\alpha_t}
# =\frac{\beta_{t\mid s}}{1-\bar\alpha_t}\big(1-\bar\alpha_s+\bar\alpha_s-\bar\alpha_t\big)=\beta_{t\mid s}.
# $$
# :::
#
# So $\tilde\beta$ and $\beta$ are *each optimal for an extreme data distribution*: a single point,
# and a standard Gaussian {cite}`ho2020denoising`. Data of variance at most one lie between, and
# improved DDPM {cite}`nichol2021improved` lets the network choose a place $v_\theta$ between them,
# on a logarithmic scale:
#
# $$
# \sigma_{t\to s}^2=\beta_{t\mid s}^{\,v_\theta}\;\tilde\beta_{t\to s}^{\,1-v_\theta},\qquad 0\le v_\theta\le1. \tag{2.14}
# $$
#
# The library calls this place `var_mix`; `process.posterior_std(t, s, var_mix)` is
# $\sigma_{t\to s}$. Note the average in (2.13). It is easily lost (the deck "Diffusion Model" of
# 2025 states the range "for each $t$" without it): at single points the variance may exceed
# $\beta$.

# %% tags=["hide-input"] mystnb={"image": {"alt": "The variance of x_s given x_t over x_t for two strides. It is a hump: close to beta tilde where one mode is certain, far above beta between the modes. Its average lies between beta tilde and beta."}}
figure, axes = plt.subplots(1, 2, figsize=(7.5, 3.4))
found = {}
for ax, s in zip(axes, (500, 300), strict=True):
    _, var = moments(reverse_conditional(x_grid, 600, s))
    lower, upper = (process.posterior_std(600, s, mix) ** 2 for mix in (0.0, 1.0))
    average = float(share @ var)
    ax.plot(x_grid, var, label="Var$(x_s|x_t)$, exact")
    ax.axhline(upper, color=plots.RED, ls="--", label=r"$\beta_{t|s}$")
    ax.axhline(average, color=plots.BLUE, ls=":", label="average of the exact")
    ax.axhline(lower, color=plots.GREEN, ls="-.", label=r"$\tilde\beta_{t\to s}$")
    ax.set(xlim=(-3, 3), ylim=(0, None), xlabel="$x_t$", title=f"s = {s}")
    found[s] = [round(float(v), 3) for v in (lower, average, upper, var.max())]
    assert lower < average < upper < float(var.max())
    # Far out: (2.12) with the variance 0.2² of one mode alone.
    a, b, v = alpha_bar[600], alpha_bar[s], float(stds[0] ** 2)
    single = lower + b * ((1 - a / b) / (1 - a)) ** 2 * v * (1 - a) / (v * a + 1 - a)
    assert abs(float(var[0]) / single - 1) < 0.02 and single < 1.25 * lower
axes[0].set_ylabel("variance")
names = axes[0].get_legend_handles_labels()
_ = figure.legend(*names, fontsize=10, loc="outside lower center", ncol=4)
assert found == {500: [0.238, 0.308, 0.310, 0.347], 300: [0.183, 0.556, 0.567, 0.765]}

# %% [markdown]
# **Fig. 2.7.** On average over $x_t$ the variance of the reverse step lies between $\tilde\beta$
# and $\beta$; at single points it may exceed $\beta$. Steps from $t=600$. Far out one mode is
# certain, and the variance falls to that of a single narrow Gaussian, a little above $\tilde\beta$.
# Between the modes it is unknown which of them $x_t$ came from: down to $s=300$ the variance
# reaches 0.765 there, where $\beta=0.567$. The average, 0.556, is nearly $\beta$.

# %% [markdown]
# ## The exact denoiser, and Tweedie's formula
#
# Where does $\mathrm E[x_0\mid x_t]$ come from? From a network, in all chapters to come. Here, from
# Bayes' rule.
#
# **A finite data set.** Given $x_t$, the clean image was number $i$ with probability proportional
# to $\frac1N\mathcal N(x_t;\sqrt{\bar\alpha_t}\,x^{(i)},(1-\bar\alpha_t)I)$. Normalise, that is a
# softmax, and average:
#
# $$
# \mathrm E[x_0\mid x_t]=\sum_{i=1}^N p_i\,x^{(i)},\quad
# p=\mathrm{softmax}_i\!\left(-\frac{\lVert x_t-\sqrt{\bar\alpha_t}\,x^{(i)}\rVert^2}{2(1-\bar\alpha_t)}\right). \tag{2.15}
# $$
#
# It looks up the data set with $x_t$ as the query: attention over the training images. At small $t$
# the softmax is one-hot, and the nearest image is the answer; hence the copies at the top of this
# chapter.
#
# **A mixture of Gaussians.** Components $k$ have weight $w_k$, mean $m_k$, variance $v_k$. Then
# $x_t$ within a component is $\mathcal N(\sqrt{\bar\alpha_t}\,m_k,\ V_k I)$ with
# $V_k=\bar\alpha_t v_k+1-\bar\alpha_t$, and $(x_0,x_t)$ is jointly Gaussian with covariance
# $\sqrt{\bar\alpha_t}\,v_k$ per coordinate. The conditional mean of a Gaussian pair is linear
# regression, "mean plus covariance over variance times deviation". Average over the components with
# their probabilities given $x_t$,
# $p_k(x_t)\propto w_k\,\mathcal N(x_t;\sqrt{\bar\alpha_t}\,m_k,V_kI)$:
#
# $$
# \mathrm E[x_0\mid x_t]=\sum_k p_k(x_t)\left(m_k+\frac{\sqrt{\bar\alpha_t}\,v_k}{V_k}\big(x_t-\sqrt{\bar\alpha_t}\,m_k\big)\right). \tag{2.16}
# $$
#
# With $v_k=0$ this is (2.15) again. These are `oracle.FiniteData` and `oracle.Mixture`.
#
# **Tweedie's formula.** There is a way to write it that does not mention the kind of data at all.
# By (2.1) the marginal is
# $q(x_t)=\int q(x_s)\,\mathcal N(x_t;\sqrt{\alpha_{t\mid s}}\,x_s,\beta_{t\mid s}I)\,dx_s$.
# Differentiate under the integral; the Gaussian brings down its exponent's gradient:
#
# $$
# \nabla q(x_t)=\int q(x_s)\,\mathcal N\big(x_t;\sqrt{\alpha_{t\mid s}}\,x_s,\beta_{t\mid s}I\big)\;\frac{\sqrt{\alpha_{t\mid s}}\,x_s-x_t}{\beta_{t\mid s}}\;dx_s .
# $$
#
# Divide by $q(x_t)$. On the left stands $\nabla\log q(x_t)$; on the right, by Bayes' rule (2.2), an
# average over $q(x_s\mid x_t)$:
#
# $$
# \nabla\log q(x_t)=\frac{\sqrt{\alpha_{t\mid s}}\;\mathrm E[x_s\mid x_t]-x_t}{\beta_{t\mid s}} .
# $$
#
# Solve for the expectation:
#
# $$
# \mathrm E[x_s\mid x_t]=\frac{x_t+\beta_{t\mid s}\nabla\log q(x_t)}{\sqrt{\alpha_{t\mid s}}}\qquad\text{for every } s<t. \tag{2.17}
# $$
#
# No approximation was made. With $s=t-1$ it is the mean of (2.4): that is why its error vanished.
# With $s=0$, where $\alpha_{t\mid0}=\bar\alpha_t$, it is Tweedie's formula
# {cite}`efron2011tweedie`,
#
# $$
# \mathrm E[x_0\mid x_t]=\frac{x_t+(1-\bar\alpha_t)\nabla\log q(x_t)}{\sqrt{\bar\alpha_t}}. \tag{2.18}
# $$
#
# Each of the two, the denoiser and the score $\nabla\log q(x_t)$, can be computed from the other.
# Set beside $\hat x_0=(x_t-\sqrt{1-\bar\alpha_t}\,\hat\varepsilon)/\sqrt{\bar\alpha_t}$, the
# formula also says that $\hat\varepsilon=-\sqrt{1-\bar\alpha_t}\,\nabla\log q(x_t)$: predicting the
# noise is predicting the score, rescaled. Three routes to the same number, with the score once from
# the library and once from automatic differentiation of $\log q$:

# %%
for t in (10, 200, 600, 1000):
    x_t = torch.linspace(-3, 3, 25, **double).requires_grad_()
    log_q = mixture.log_prob(x_t, t).sum()
    (by_autograd,) = torch.autograd.grad(log_q, x_t)
    x_t, a = x_t.detach(), process.alpha_bar[t]
    x0 = mixture(x_t, t).x0  # (2.16)
    for score in (mixture.score(x_t, t), by_autograd):
        tweedie = (x_t + (1 - a) * score) / a.sqrt()  # (2.18)
        torch.testing.assert_close(tweedie, x0, rtol=1e-9, atol=1e-9)
print("(2.18) = (2.16) at four times, for two ways to the score")

# %% [markdown]
# ## The sampler in ten lines, and the library's
#
# Now put it together. Predict $\hat x_0=\mathrm E[x_0\mid x_t]$, treat it as if it were the true
# $x_0$, and draw from (2.10). This is *ancestral sampling*:
#
# $$
# x_s=\frac{\sqrt{\alpha_{t\mid s}}\,(1-\bar\alpha_s)}{1-\bar\alpha_t}\,x_t+\frac{\sqrt{\bar\alpha_s}\,\beta_{t\mid s}}{1-\bar\alpha_t}\,\hat x_0(x_t,t)+\sigma_{t\to s}\,z \tag{2.19}
# $$
#
# with a fresh $z\sim\mathcal N(0,I)$ for every step.
#
# The step to $s=0$ is without noise, $z=0$. The plain choice is
# $\sigma_{t\to s}^2=\tilde\beta_{t\to s}$, any place of (2.14) will do. The mean is exact by
# (2.11); the variance is right to first order in $\beta$; the shape is right to the order of (2.5).


# %%
def reverse_chain(denoise, process, x, times, generator):
    a = process.alpha_bar.tolist()
    for t, s in zip(times, times[1:], strict=False):
        x0 = denoise(x, t).x0  # predict the clean data ...
        beta = 1 - a[t] / a[s]
        on_x_t = (a[t] / a[s]) ** 0.5 * (1 - a[s]) / (1 - a[t])
        on_x0 = a[s] ** 0.5 * beta / (1 - a[t])
        x = on_x_t * x + on_x0 * x0  # ... then draw the next
        if s > 0:
            std = ((1 - a[s]) / (1 - a[t]) * beta) ** 0.5
            z = torch.randn(x.shape, generator=generator, dtype=x.dtype)
            x = x + std * z
    return x


def seeded(seed):
    return torch.Generator().manual_seed(seed)


times = uniform_times(1000, 200)
x_T = torch.randn(5000, generator=seeded(1)).double()
mine = reverse_chain(mixture, process, x_T, times, seeded(2))
theirs = draw(mixture, process, x_T, times, generator=seeded(2))
torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)
print(f"times {times[:3]} ... {times[-3:]}")
print("with the same noise both loops draw the same samples")

# %% [markdown]
# `draw` returns the last state of `sample`, the generator that made the films above. Both draw the
# noise in the same order as the ten lines, so the loops agree to rounding error, although the
# library's `process.step` arranges the mean differently: as
# $\sqrt{\bar\alpha_s}\,\hat x_0+\sqrt{1-\bar\alpha_s-\tilde\beta_{t\to s}}\;\hat\varepsilon$. (The
# same thing: insert $\hat\varepsilon=(x_t-\sqrt{\bar\alpha_t}\,\hat x_0)/\sqrt{1-\bar\alpha_t}$ and
# $1-\bar\alpha_s-\tilde\beta_{t\to s}=\alpha_{t\mid s}(1-\bar\alpha_s)^2/(1-\bar\alpha_t)$.)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Histogram of five thousand samples of the reverse chain with 200 steps, lying on the exact density of the mixture with its two peaks, the right one higher."}}
figure, ax = plt.subplots(figsize=(6.6, 2.8))
bars = {"bins": 80, "range": (-2.2, 2.0), "density": True, "color": plots.SKY}
ax.hist(mine.numpy(), label="reverse chain", **bars)
ax.plot(y, mixture.log_prob(y, 0).exp(), color="black", lw=1.2, label="exact density")
ax.set(xlim=(-2.2, 2.0), xlabel="$x_0$", ylabel="density")
_ = ax.legend(loc="upper left")
left = mine < -0.2
assert abs(float(left.double().mean()) - 0.4) < 0.02
assert all(abs(float(mine[side].std()) - 0.2) < 0.01 for side in (left, ~left))

# %% [markdown]
# **Fig. 2.8.** The chain draws the data: 5,000 samples of 200 steps, and the exact density. Both
# modes have their weight to within 0.02 and their width to within 0.01.

# %% [markdown]
# ## How many steps does the reverse chain need?
#
# A histogram hides small errors. The Kolmogorov–Smirnov distance is the largest gap between two
# distribution functions, and we know the true one exactly:
#
# $$
# F(x)=\sum_k w_k\,\Phi\!\left(\frac{x-m_k}{\sqrt{v_k}}\right),\qquad
# \mathrm{KS}=\max_x\big|F_{\text{samples}}(x)-F(x)\big| .
# $$
#
# We walk the same thousand times in $K$ strides, with both extreme variances of (2.14), five seeds
# with 20,000 samples each. Even 20,000 *exact* samples have a distance that is not zero;
# differences below that floor are chance.
#
# The second measure needs no samples. For Gaussian data, $x_0\sim\mathcal N(0,c)$, the prediction
# is a number times $x_t$, so each step (2.19) multiplies by a known number $m$ and adds a known
# variance: $V_s=m^2V_t+\sigma_{t\to s}^2$, from $V_T=1$ down to $V_0$, which should be $c$.


# %%
SEEDS, N = 5, 20_000


def ks_distance(x):
    """KS of each row of (seeds, samples) from the exact mixture."""
    x = x.double().sort(dim=1).values
    below_each = torch.special.ndtr((x[:, :, None] - means) / stds)
    exact = (weights * below_each).sum(2)
    n = x.shape[1]
    low = torch.arange(n) / n  # the empirical function jumps from here
    gap = torch.maximum(exact - low, low + 1 / n - exact)  # ... by 1/n
    return gap.max(dim=1).values


def error_of(steps, var_mix):
    def with_variance(x, t, y=None):
        return Prediction(mixture(x, t).x0, var_mix)

    times, noise = uniform_times(1000, steps), seeded(steps)
    x_T = torch.randn(SEEDS * N, generator=noise)
    x0 = draw(with_variance, process, x_T, times, generator=noise)
    return ks_distance(x0.reshape(SEEDS, N))


def variance_of_samples(steps, var_mix, c):
    """V_0 of the chain for data N(0, c); None: with the variance (2.12)."""
    V, times = 1.0, uniform_times(1000, steps)
    alpha_bar = process.alpha_bar.tolist()
    for t, s in zip(times, times[1:], strict=False):
        a, b = alpha_bar[t], alpha_bar[s]
        beta, spread = 1 - a / b, a * c + 1 - a  # spread: Var(x_t)
        on_x0 = b**0.5 * beta / (1 - a)
        on_x_t = (a / b) ** 0.5 * (1 - b) / (1 - a)
        m = on_x_t + on_x0 * a**0.5 * c / spread
        if var_mix is None:
            var = process.posterior_std(t, s, 0.0) ** 2
            var += on_x0**2 * c * (1 - a) / spread
        else:
            var = process.posterior_std(t, s, var_mix) ** 2
        V = m**2 * V + (s > 0) * var  # no noise in the last step
    return float(V)


counts = [4, 8, 16, 32, 64, 128]
ks = {v: torch.stack([error_of(k, v) for k in counts]) for v in (0.0, 1.0)}
exact = mixture.draw(SEEDS * N, generator=seeded(0))
floor = ks_distance(exact.reshape(SEEDS, N)).mean()

# %% tags=["hide-input"] mystnb={"image": {"alt": "Left, KS distance over the number of steps, both axes logarithmic, with error bars over five seeds: both curves fall towards the floor of exact samples, the larger variance is better throughout. Right, variance of the samples over that of the data for three widths of Gaussian data: all curves approach one; those of beta tilde from below, those of beta are nearer and overshoot a little."}}
figure, axes = plt.subplots(1, 2, figsize=(7.5, 4.3))
names = {0.0: r"$\tilde\beta$", 1.0: r"$\beta$"}
for v, error in ks.items():
    axes[0].errorbar(
        counts, error.mean(1), error.std(1), marker="o", capsize=3, label=names[v]
    )
axes[0].axhline(float(floor), color="gray", ls=":", label="exact samples")
axes[0].set(xscale="log", yscale="log", xlabel="steps K", ylabel="KS distance")
axes[0].set_yticks([0.01, 0.03, 0.1], ["0.01", "0.03", "0.1"])

widths = {1.0: "o", 0.1: "s", 0.01: "^"}
ratio = {
    (v, c): torch.tensor([variance_of_samples(k, v, c) / c for k in counts])
    for c in widths
    for v in (0.0, 1.0, None)
}
names[None], colours = "(2.12)", {0.0: plots.BLUE, 1.0: plots.ORANGE, None: plots.GREY}
for (v, c), r in ratio.items():
    if v is not None or c == 0.01:
        look = {"color": colours[v], "marker": widths[c]}
        axes[1].plot(counts, r, label=f"{names[v]}, c = {c:g}", **look)
axes[1].axhline(1, color="gray", ls=":")
axes[1].set(xscale="log", xlabel="steps K", ylabel="variance of samples / c")
for ax in axes:
    ax.set_xticks(counts, [str(k) for k in counts])
    ax.minorticks_off()
axes[0].legend(fontsize=10)
axes[1].set_ylim(0, 1.2)
below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.2)}
_ = axes[1].legend(fontsize=10, ncol=2, handlelength=1.5, **below)

for error in ks.values():  # more steps, less error
    assert (error.mean(1)[1:] < error.mean(1)[:-1]).all()
gain = (ks[0.0] - ks[1.0]).mean(1)  # beta is better than beta tilde,
noise = ((ks[0.0].var(1) + ks[1.0].var(1)) / SEEDS).sqrt()
assert (gain > 3 * noise).all()  # by more than three standard errors
found = [round(float(ks[v][i].mean()), 2) for v in (0.0, 1.0) for i in (0, 2, 5)]
assert found == [0.15, 0.05, 0.01, 0.08, 0.03, 0.01] and 0.005 < floor < 0.007
for c in widths:
    under, over = ratio[0.0, c] - 1, ratio[1.0, c] - 1
    assert (ratio[None, c] <= 1).all()
    assert (under < 0).all() and (over.abs() < under.abs()).all()
halved = (1 - ratio[0.0, 1.0])[:-1] / (1 - ratio[0.0, 1.0])[1:]
assert (halved[-2:] > 1.85).all() and (halved < 2).all()
assert abs(float(ratio[0.0, 0.01][2]) - 0.35) < 0.01
assert abs(float(ratio[1.0, 0.01][2]) - 0.97) < 0.01
assert abs(float(ratio[None, 0.01][2]) - 0.46) < 0.01
assert abs(float(ratio[None, 0.01][5]) - 1) < abs(float(ratio[1.0, 0.01][5]) - 1)
assert float(ratio[1.0, 0.1].max()) < 1.13

# %% [markdown]
# **Fig. 2.9.** More steps, less error, and with an exact denoiser $\beta$ is the better variance
# throughout. Left, KS distance on the two modes, mean and standard deviation over five seeds: from
# 4 to 128 strides it falls from 0.15 to 0.01 with $\tilde\beta$, from 0.08 to 0.01 with $\beta$,
# near the 0.006 of exact samples; at every $K$ the difference of the two exceeds three standard
# errors. Right, without sampling noise: the variance of the samples for Gaussian data of variance
# $c$. With $\tilde\beta$ it is always too small; for $c=1$ the error is nearly halved when $K$ is
# doubled, as an error of order $\beta^2$ per step should be.
#
# The denoiser is perfect, so all of this is an error of the *sampler*: a Gaussian, with a not quite
# right variance. For Gaussian data of variance one $\beta$ is the right variance, by (2.13). For
# narrow data it is far too large for the single step, and one expects the reverse order; yet at
# $c=0.01$ and $K=16$ the samples have 0.97 of the true variance with $\beta$, and 0.35 with
# $\tilde\beta$. The reason is the last step. It returns $\mathrm E[x_0\mid x_t]$ and drops
# $\mathrm{Var}(x_0\mid x_t)$, so that even with the exact variance (2.12) in all other steps the
# samples have only 0.46 of the true variance (grey). The surplus of $\beta$ fills this gap, the
# deficit of $\tilde\beta$ widens it; at $K=128$, where the last step is small, the exact variance
# is best. And all of it holds for exact predictions, which take surplus noise out again in the next
# step; [chapter 6](06_iddpm.ipynb) prices the single steps, and [chapter 9](09_scoreboard.ipynb)
# measures trained networks.

# %% [markdown]
# ## What goes wrong: noise after the last step, and a lost bar
#
# **Noise after the last step.** The loop adds $\sigma z$ in *every* step, also in the one that ends
# at $s=0$. (The deck "Denoising Diffusion Models" prints Algorithm 2 in this way; the first exhibit
# of [appendix A](A_museum_of_bugs.ipynb) shows published code that does it.) With
# $\sigma=\sqrt{\beta}$ that last noise stays in the picture, and even a perfect model returns data
# under noise of standard deviation $\sqrt{\beta_{t\mid 0}}$, for $T$ single steps $\sqrt{\beta_1}$.
# (With $\sigma^2=\tilde\beta$ the bug does not show, because $\tilde\beta_1=0$, until someone
# changes the variance.)
#
# **A lost bar.** The sampling algorithm with $\sqrt{1-\alpha_t}$ where (2.9) has
# $\sqrt{1-\bar\alpha_t}$; so it stands, in the text as extracted, in the deck "Diffusion models"
# of 2023. Since $\beta_t/\sqrt{1-\alpha_t}=\sqrt{\beta_t}$ is larger than
# $\beta_t/\sqrt{1-\bar\alpha_t}$ by the factor $\sqrt{(1-\bar\alpha_t)/\beta_t}$, up to
# $1/\sqrt{\beta_t}$, each step takes far too much "noise" away.
#
# Our perfect model is the finite data set again.


# %%
def home_made(
    denoise, x, times, generator, last_noise=False, lost_bar=False
):
    """The ε-form with variance β, and two bugs to switch on."""
    a = process.alpha_bar.tolist()
    for t, s in zip(times, times[1:], strict=False):
        eps = process.eps_from_x0(x, denoise(x, t).x0, t)
        alpha, beta = a[t] / a[s], 1 - a[t] / a[s]
        divisor = (1 - alpha if lost_bar else 1 - a[t]) ** 0.5
        x = (x - beta / divisor * eps) / alpha**0.5
        if s > 0 or last_noise:
            z = torch.randn(x.shape, generator=generator, dtype=x.dtype)
            x = x + beta**0.5 * z
    return x


bugs = {
    "correct": {},
    "noise after the last step": {"last_noise": True},
    "lost bar": {"lost_bar": True},
}

# %% tags=["hide-input"]
x_T = torch.randn(100, 1, 8, 8, generator=seeded(5))
drawn, found, rows = {}, {}, []
for steps in (10, 500):
    times = uniform_times(1000, steps)
    last = float(1 - process.alpha_bar[times[-2]]) ** 0.5
    for name, bug in bugs.items():
        x = drawn[steps, name] = home_made(finite, x_T, times, seeded(6), **bug)
        distance, nearest = torch.cdist(x.flatten(1), scans.flatten(1)).min(dim=1)
        off = float((distance**2).mean() / 64) ** 0.5
        zeros = int((labels[nearest] == 0).sum())
        kinds = len(nearest.unique())
        found[steps, name] = off / last, kinds, zeros
        cells = f"{off:.3f} | {last:.3f} | {kinds} | {zeros}"
        rows.append(f"| {steps} | {name} | {cells} |")
for steps in (10, 500):
    assert found[steps, "correct"][0] < 0.05
    assert abs(found[steps, "noise after the last step"][0] - 1) < 0.03
    assert found[steps, "lost bar"][0] < 0.06
assert found[500, "correct"][1:] == (98, 11) and found[500, "lost bar"][1:] == (52, 33)
head = (
    "| steps | sampler | distance to the nearest scan, per pixel "
    "| $\\sqrt\\beta$ of the last step | different scans in 100 | zeros in 100 |"
)
Markdown("\n".join([head, "|--:|:--|--:|--:|--:|--:|", *rows]))

# %% tags=["hide-input"] mystnb={"image": {"alt": "Three blocks of 28 digits. Correct: many different clean digits. Noise after the last step: the same kind of digits under visible grain. Lost bar: perfectly clean digits, but most of them zeros, threes or nines."}}
blocks = {
    "correct (500 steps)": drawn[500, "correct"],
    "noise after the last step (10 steps)": drawn[10, "noise after the last step"],
    "lost bar (500 steps)": drawn[500, "lost bar"],
}
from_mean = (
    (drawn[500, name] - scans.mean(0)).flatten(1).norm(dim=1).mean()
    for name in ("lost bar", "correct")
)
lost, correct = from_mean
assert 0.92 < lost / correct < 0.94
figure, axes = plt.subplots(3, 1, figsize=(7.5, 4.4))
for ax, (name, x) in zip(axes, blocks.items(), strict=True):
    plots.grid(x[:28], ncol=14, ax=ax)
    ax.set_title(name, fontsize=11)

# %% [markdown]
# **Fig. 2.10.** One bug shows in each picture, the other only in many. Noise after the last step is
# grain as strong as the $\sqrt{\beta_{t\mid0}}$ of that step: 0.17 with ten steps, and 0.009 with
# 500, about one grey level of 255, which nobody sees. With the lost bar every single digit is a
# perfect scan, but among 100 samples there are 52 different scans instead of 98, and 33 zeros
# instead of 11.
#
# The lost bar takes variance out of the state at each step; all chains gather near the mean of the
# data, and scans that lie near it are drawn too often (their mean distance from it is 7 % smaller).
# In one dimension the same sampler hardly finds the left mode:

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two histograms over the exact two-peaked density. The correct sampler follows it; the sampler with the lost bar has a much too narrow right peak that is cut off by the axis and nearly no left one."}}
figure, axes = plt.subplots(1, 2, figsize=(7.5, 2.8), sharey=True)
bars = {"bins": 60, "range": (-2, 1.8), "density": True, "color": plots.SKY}
found = {}
for ax, name in zip(axes, ("correct", "lost bar"), strict=True):
    x_T = torch.randn(4000, generator=seeded(9), **double)
    x = home_made(mixture, x_T, uniform_times(1000, 500), seeded(10), **bugs[name])
    ax.hist(x.numpy(), label="samples", **bars)
    density = mixture.log_prob(y, 0).exp()
    ax.plot(y, density, color="black", lw=1.2, label="exact density")
    ax.set(xlim=(-2, 1.8), ylim=(0, 2.5), xlabel="$x_0$", title=name)
    found[name] = [round(float(v), 2) for v in ((x < -0.2).double().mean(), x.var())]
axes[0].set_ylabel("density")
_ = axes[0].legend(loc="upper left", fontsize=10)
assert found == {"correct": [0.39, 0.99], "lost bar": [0.03, 0.13]}

# %% [markdown]
# **Fig. 2.11.** The lost bar loses a mode. Samples of 500 steps over the exact density, whose left
# mode has weight 0.40 and whose variance is 1. The correct sampler gives 0.39 and 0.99; with the
# lost bar 3 % of the samples are on the left, and the variance is 0.13.
#
# **The tests that catch them.** For the first bug the cheapest test there is: let the denoiser
# always predict the same $x_0$. Then every correct sampler must return exactly that $x_0$, since
# (2.10) has no variance left at $s=0$. It is `test_a_point_mass_comes_back_exactly` in
# `tests/derivations/test_ch02.py`. This test does not see the second bug: in the step to $s=0$,
# $\alpha_{t\mid0}$ equals $\bar\alpha_t$, the bar makes no difference, and with a denoiser that
# always predicts the same point the last step corrects all errors before it. It takes a test of the
# single steps, `test_library_sampler_is_the_literal_loop`, which holds the library's sampler to
# (2.19) number for number, or one of the distribution:
# `test_the_distribution_catches_the_lost_bar_to_which_the_point_mass_is_blind` shows on a copy with
# the bug that the exact distribution function sees it.

# %%
point = torch.tensor([0.3, -0.7])


def certain(x, t, y=None):
    """Always the same x0, and variance β."""
    return Prediction(point.expand_as(x), 1.0)


x_T = torch.randn(4, 2, generator=seeded(7))
times = uniform_times(1000, 20)
ours = draw(certain, process, x_T, times, generator=seeded(8))
assert torch.equal(ours, point.expand_as(ours))
for name, bug in bugs.items():
    x = home_made(certain, x_T, times, seeded(8), **bug)
    print(f"{name:27s} off by {float((x - point).abs().max()):.2f}")

# %% [markdown]
# ## Exercises
#
# Write your answer into the cell below each question and take the `#` off its last line: the check
# says yes, or gives a hint. ★ asks for a derivation, ★★ for code, ★★★ for a small project of both.
# Solutions are folded.
#
# ### ★ Exercise 2.1: By hand
#
# A toy schedule has three steps, $\beta_1=0.1$, $\beta_2=0.2$, $\beta_3=0.3$. Compute
# $\tilde\beta_1,\tilde\beta_2,\tilde\beta_3$ with pencil and paper and give the three numbers.
#
# :::{dropdown} Hint
# First $\bar\alpha_0=1,\ \bar\alpha_1,\ \bar\alpha_2,\ \bar\alpha_3$, then (2.7). What is left to
# draw at $t=1$?
# :::

# %%
answer = ...  # your answer: [beta_tilde_1, beta_tilde_2, beta_tilde_3]

# exercises.check("2.1", answer)

# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
# alpha_bar = 1, 0.9, 0.72, 0.504
solution = [
    0.0,
    (1 - 0.9) / (1 - 0.72) * 0.2,
    (1 - 0.72) / (1 - 0.504) * 0.3,
]

exercises.check("2.1", solution)

# %% [markdown]
# ### ★ Exercise 2.2: How far back before the step splits in two?
#
# In Fig. 2.4 the stride of 100 has one peak and the stride of 500 has two. Where is the border?
# Take the simplest data with two modes, $x_0=+c$ or $-c$ with probability one half each, and stand
# in the middle, $x_t=0$. Show that $q(x_s\mid x_t=0)$ has a single peak as long as
# $c^2(\operatorname{SNR}_s-\operatorname{SNR}_t)\le1$, with
# $\operatorname{SNR}=\bar\alpha/(1-\bar\alpha)$: a step may reveal about one unit of
# signal-to-noise. Then write the function that returns the largest $\bar\alpha_s$ for which there
# is one peak.
#
# :::{dropdown} Hint
# Write down $\log q(x_s\mid x_t=0)$ by (2.2), with $q(x_s)$ by (2.3). The sum of the two Gaussians
# of (2.3) is a Gaussian times a hyperbolic cosine. The density is even: it has one peak exactly if
# its logarithm is curved downwards at $x_s=0$. Half of the result is $1/\tilde\beta_{t\to s}$.
# :::


# %%
def largest_alpha_bar_s(alpha_bar_t, c):
    return ...  # your answer


# exercises.check("2.2", largest_alpha_bar_s)


# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
# log q(x_s|0) = - x_s² α/(2β) - x_s²/(2(1-ᾱ_s))
#                + log cosh(√ᾱ_s c x_s/(1-ᾱ_s)) + const.
# Its curvature at 0 is -1/β̃ + ᾱ_s c²/(1-ᾱ_s)², by (2.6). It is negative
# or zero if
#     c² ᾱ_s β̃ ≤ (1-ᾱ_s)²,  with (2.7):  c² (ᾱ_s-ᾱ_t) ≤ (1-ᾱ_s)(1-ᾱ_t).
# And (ᾱ_s-ᾱ_t) / ((1-ᾱ_s)(1-ᾱ_t)) = 1/(1-ᾱ_s) - 1/(1-ᾱ_t) = SNR_s - SNR_t.
# (The slope of log cosh is concave beyond 0: there is no peak elsewhere.)
def largest_alpha_bar_s(alpha_bar_t, c):
    snr = alpha_bar_t / (1 - alpha_bar_t) + 1 / c**2
    return snr / (1 + snr)


exercises.check("2.2", largest_alpha_bar_s)

border = largest_alpha_bar_s(float(process.alpha_bar[600]), 1.0)
s = int((process.alpha_bar > border).sum())
print(f"from t = 600, with c = 1: one peak down to s = {s}")

# %% [markdown]
# ### ★★ Exercise 2.3: The best variance for Gaussian data
#
# Let $x_0\sim\mathcal N(0,v)$ in one dimension. Find $\mathrm{Var}(x_s\mid x_t)$ as a function of
# $v,\bar\alpha_t,\bar\alpha_s$. It should be $\tilde\beta_{t\to s}$ at $v=0$ and $\beta_{t\mid s}$
# at $v=1$. What happens beyond $v=1$?
#
# :::{dropdown} Hint
# The law of total variance (2.12) needs $\mathrm{Var}(x_0\mid x_t)$. Two Gaussians carry
# information about $x_0$: the prior with variance $v$, and $x_t/\sqrt{\bar\alpha_t}$ with variance
# $(1-\bar\alpha_t)/\bar\alpha_t$. Their precisions add up. Write it without dividing by $v$.
# :::


# %%
def reverse_variance(v, alpha_bar_t, alpha_bar_s):
    return ...  # your answer


# exercises.check("2.3", reverse_variance)


# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
def reverse_variance(v, alpha_bar_t, alpha_bar_s):
    beta = 1 - alpha_bar_t / alpha_bar_s
    of_x0 = v * (1 - alpha_bar_t) / (v * alpha_bar_t + 1 - alpha_bar_t)
    on_x0 = alpha_bar_s**0.5 * beta / (1 - alpha_bar_t)
    return (1 - alpha_bar_s) / (1 - alpha_bar_t) * beta + on_x0**2 * of_x0


# Beyond v = 1 it exceeds beta: no place between the two ends of (2.14) is
# right. That is one reason to scale data to unit variance.
assert reverse_variance(2.0, 0.3, 0.8) > 1 - 0.3 / 0.8
exercises.check("2.3", reverse_variance)

# %% [markdown]
# ### ★★ Exercise 2.4: Your own sampler
#
# Write a sampler with variance $\beta$ instead of $\tilde\beta$: a function of a denoiser, a
# process, the start $x_T$, falling times and a generator that returns $x_0$. Use only the table
# `process.alpha_bar`. The check hands it a denoiser that always predicts the same point, counts its
# calls, tries several shapes, and compares the distribution of its samples with that of exact data.
#
# :::{dropdown} Hint
# Start from `reverse_chain` above. Which one line changes, and what did not matter with
# $\tilde\beta$ but matters now?
# :::


# %%
def my_sampler(denoise, process, x, times, generator):
    return ...  # your answer


# exercises.check("2.4", my_sampler)


# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
def my_sampler(denoise, process, x, times, generator):
    a = process.alpha_bar.tolist()
    for t, s in zip(times, times[1:], strict=False):
        x0 = denoise(x, t).x0
        beta = 1 - a[t] / a[s]
        on_x_t = (a[t] / a[s]) ** 0.5 * (1 - a[s]) / (1 - a[t])
        x = on_x_t * x + a[s] ** 0.5 * beta / (1 - a[t]) * x0
        if s > 0:  # sqrt(beta) does not vanish at s = 0 as beta tilde does
            z = torch.randn(x.shape, generator=generator, dtype=x.dtype)
            x = x + beta**0.5 * z
    return x


exercises.check("2.4", my_sampler)

# %% [markdown]
# ### ★★★ Exercise 2.5: The best variance, from the score alone
#
# $\tilde\beta$ or $\beta$? Neither: (2.12) has the right variance, and it can be had from a score
# alone. Analytic-DPM {cite}`bao2022analytic` does this with trained networks; here is the way
# there.
#
# 1. *Derive.* Tweedie's formula gets the mean of $x_0$ from the first derivative of $\log q(x_t)$.
#    Differentiate once more: express $\mathrm{Var}(x_0\mid x_t)$, in one dimension, by
#    $\bar\alpha_t$ and $h=\partial_x^2\log q(x_t)$. This is `variance_of_x0(alpha_bar_t, h)`.
# 2. *Write.* A sampler wants one number per step: the average of (2.12) over $q(x_t)$. That needs
#    no second derivative, since integrating by parts gives
#    $\mathrm E[h]=-\mathrm E[(\partial_x\log q)^2]$. Write
#    `best_variance(score, alpha_bar_t, alpha_bar_s)`, where the tensor `score` holds
#    $\partial_x\log q(x_t)$ at many draws of $x_t$.
# 3. *Measure.* Put it into `reverse_chain`: the score is (2.18) solved for it, `mixture.draw(n, t)`
#    draws from $q(x_t)$. (Near $T$ the average is a tiny difference of large numbers; clip it to
#    the two ends of (2.14).) Compare its KS distance with Fig. 2.9, at $K=4,8,16,32$. How much of
#    the error was the variance, and what is the rest? At which times is the best variance close to
#    $\beta$, and why there?
#
# The check takes the two functions of parts 1 and 2.
#
# :::{dropdown} Hint
# Show first that
# $\frac{d}{dx_t}\mathrm E[x_0\mid x_t]=\frac{\sqrt{\bar\alpha_t}}{1-\bar\alpha_t}\mathrm{Var}(x_0\mid x_t)$:
# write the expectation as
# $\int x_0\,q(x_0)\,\mathcal N(x_t;\sqrt{\bar\alpha_t}x_0,1-\bar\alpha_t)\,dx_0$ over the same
# integral without the $x_0$ in front, and use the quotient rule. Then differentiate (2.18).
# :::


# %%
def variance_of_x0(alpha_bar_t, h):
    return ...  # your answer


def best_variance(score, alpha_bar_t, alpha_bar_s):
    return ...  # your answer


answer = variance_of_x0, best_variance

# exercises.check("2.5", answer)


# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
# With the quotient rule, all expectations given x,
#     d/dx E[x0] = E[x0 (√ᾱ x0 - x)] / (1-ᾱ) - E[x0] E[√ᾱ x0 - x] / (1-ᾱ)
#                = √ᾱ / (1-ᾱ) (E[x0²] - E[x0]²).
# The derivative of (2.18) is (1 + (1-ᾱ) h) / √ᾱ. Set them equal:
def variance_of_x0(alpha_bar_t, h):
    return (1 - alpha_bar_t) / alpha_bar_t * (1 + (1 - alpha_bar_t) * h)


def best_variance(score, alpha_bar_t, alpha_bar_s):
    beta = 1 - alpha_bar_t / alpha_bar_s
    on_x0 = alpha_bar_s**0.5 * beta / (1 - alpha_bar_t)
    of_x0 = variance_of_x0(alpha_bar_t, -(score**2).mean())
    return (1 - alpha_bar_s) / (1 - alpha_bar_t) * beta + on_x0**2 * of_x0


exercises.check("2.5", (variance_of_x0, best_variance))


def best_chain(steps):
    """The chain with the best variance; its places from β̃ (0) to β (1)."""
    generator, places = seeded(steps), []
    x = torch.randn(SEEDS * N, generator=generator, **double)
    times = uniform_times(1000, steps)
    for t, s in zip(times, times[1:], strict=False):
        a, b = float(process.alpha_bar[t]), float(process.alpha_bar[s])
        seen = mixture.draw(SEEDS * N, t, generator)
        score = (a**0.5 * mixture(seen, t).x0 - seen) / (1 - a)
        top = 1 - a / b
        low = (1 - b) / (1 - a) * top
        var = min(max(float(best_variance(score, a, b)), low), top)
        x0 = mixture(x, t).x0
        x = ((a / b) ** 0.5 * (1 - b) * x + b**0.5 * top * x0) / (1 - a)
        if s > 0:
            places.append((var - low) / (top - low))
            x = x + var**0.5 * torch.randn(x.shape, generator=generator)
    return ks_distance(x.reshape(SEEDS, N)), torch.tensor(places)


rows = []
for i, k in enumerate(counts[:4]):
    error, places = best_chain(k)
    low, high = ks[0.0][i], ks[1.0][i]
    noise = float((error.var() + high.var()) / SEEDS) ** 0.5
    gain = float(high.mean() - error.mean())
    assert error.mean() < low.mean()  # better than beta tilde;
    assert k != 32 or gain > 3 * noise  # and than beta with many steps,
    assert k != 8 or gain < -3 * noise  # but not with few
    cells = " | ".join(f"{float(e.mean()):.3f}" for e in (low, high, error))
    thirds = places.tensor_split(3)
    _, middle, last = (float(third.mean()) for third in thirds)
    assert middle > 0.89 and middle > last
    rows.append(f"| {k} | {cells} | {middle:.2f} | {last:.2f} |")
head = (
    "| steps K | KS, $\\tilde\\beta$ | KS, $\\beta$ | KS, best "
    "| place, middle third | last third |"
)
Markdown("\n".join([head, "|--:|--:|--:|--:|--:|--:|", *rows]))

# %% [markdown]
# With 32 strides the best variance beats both ends. With 16 it beats both too, and its lead over
# $\beta$ is smaller. With eight it beats $\tilde\beta$ but not $\beta$: there the true step is no
# Gaussian, and the right variance does not make it one. In the middle third of the times it lies
# nine tenths of the way from $\tilde\beta$ to $\beta$, since $x_t$ says little about these data of
# variance one there. (In the first third, next to $T$, the two ends nearly coincide, and the
# estimated place between them is chance.)

# %% [markdown]
# ## Recap
#
# 1. The exact reverse step is Bayes' rule (2.2), and the chain of these steps is again a Markov
#    chain. It needs the marginal $q(x_s)$, an average over all data.
# 2. For small steps it is nearly Gaussian (2.4), with an error in shape that falls with the third
#    power of the step (2.5); for large steps on multi-modal data it is not.
# 3. Given $x_0$ it is exactly Gaussian, for any two times (2.10); completing the square gives
#    $\tilde\mu$ in three forms and $\tilde\beta<\beta$.
# 4. Predict $\mathrm E[x_0\mid x_t]$, put it in place of $x_0$: the mean is exact (2.11), the
#    variance lies between $\tilde\beta$ and $\beta$ on average (2.13). By Tweedie (2.18), that
#    prediction determines the score, and the score the prediction.
# 5. The step to $s=0$ adds no noise. A denoiser that always predicts one point must get that point
#    back exactly.
#
# The equations of this chapter, the functions that implement them, the tests that pin them:

# %% mystnb={"code_prompt_show": "Equations, functions, tests", "code_prompt_hide": "Hide the table"} tags=["hide-cell"]
equations.table("02")

# %% [markdown]
# ## Further reading
#
# - {cite}`sohldickstein2015deep`, the origin: reversal by small Gaussian steps.
# - {cite}`ho2020denoising`, section 2 for $\tilde\mu_t$ and $\tilde\beta_t$ (their equations 6 and
#   7), section 3.2 for the two extreme variances.
# - {cite}`luo2022understanding`: diffusion as a hierarchical VAE, at a slow pace.
# - {cite}`nichol2021improved`, section 3.1: the ratio $\tilde\beta_t/\beta_t$ and learned
#   variances.
# - {cite}`bao2022analytic`: the variance that is optimal on average, in closed form from the score.
# - {cite}`efron2011tweedie`: the history and other uses of Tweedie's formula.
#   {cite}`vincent2011connection`: denoising as score matching.
# - {cite}`anderson1982reverse,song2021score`: the same reversal in continuous time.
# - {cite}`karras2022elucidating`, their section B.3: the exact denoiser of a finite data set.
# - {cite}`xiao2022tackling`: few large steps with reverse distributions that are not Gaussian.
