# %% [markdown]
# # 2. The reverse process
#
# [![Open in Colab](../book/_static/colab.svg)](https://colab.research.google.com/github/ddpm-book/ddpm-book/blob/main/notebooks/02_reverse.ipynb)
#
# [Chapter 1](01_forward.ipynb) drowned data in noise, one small Gaussian step after another. This chapter walks back. It needs no network: on data whose distribution is known, the best possible denoiser has a closed form, and with it noise turns into data by one sentence, which every sampler of this book repeats:
#
# > **Predict the clean image, then draw the next one.**

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

process = DDPM(schedules.cosine(1000))

# %% tags=["hide-input"]
generator = torch.Generator().manual_seed(0)
centres = data.spiral(300, generator=generator)
spiral = oracle.Mixture(
    process, torch.ones(300), centres, torch.full((300,), 0.05)
)


def frame(state):
    figure, axes = plt.subplots(1, 2, figsize=(5.2, 3.0), dpi=80, sharey=True)
    plots.scatter(state.x, axes[0], reach=2.8, s=7, alpha=0.7)
    plots.scatter(
        state.x0, axes[1], reach=2.8, s=7, alpha=0.7, color=plots.ORANGE
    )
    axes[0].set_title(f"$x_t$, t = {state.t}", fontsize=10)
    axes[1].set_title("prediction $\\mathrm{E}[x_0 | x_t]$", fontsize=10)
    axes[1].set_ylabel("")
    return plots.picture(figure)


x_T = torch.randn(200, 2, generator=generator)
states = list(
    sample(spiral, process, x_T, uniform_times(1000, 160), generator=generator)
)
plots.film(
    [frame(state) for state in states[8::8]],
    alt="Left: a cloud of noise contracts into a spiral. Right: the prediction of the clean points "
    "starts as one clump in the middle, unfolds, and meets the left picture at the end.",
    width=416,
)

# %% [markdown]
# Left, 200 points on their way from pure noise to a spiral. Right, what the exact denoiser predicts for each of them at that moment: $\mathrm{E}[x_0\mid x_t]$, the average of all clean points that the noisy one may have come from. At first everything is possible and all predictions sit in the middle; then they spread along the arms. A prediction is an average and need not lie on the spiral; a *sample* at the end does.
#
# The same loop on images: the 1,442 training scans of the 8×8 digits, each equally likely, are a distribution too, and its exact denoiser is a weighted average of the scans.

# %% tags=["hide-input"]
scans, labels = (
    data.to_float(data.load("digits").x_train),
    data.load("digits").y_train,
)
finite = oracle.FiniteData(process, scans)

generator = torch.Generator().manual_seed(3)
x_T = torch.randn(8, 1, 8, 8, generator=generator)
states = list(
    sample(finite, process, x_T, uniform_times(1000, 200), generator=generator)
)
plots.film(
    [torch.cat([state.x, state.x0]) for state in states[10::10]],
    alt="Two rows of eight images. Above, noise clears into eight handwritten digits. Below, the "
    "prediction of each goes from the same grey average to a sharp digit well before that.",
    ncol=8,
    width=426,
)

# %% [markdown]
# Above $x_t$, below the prediction. Each prediction settles on one digit long before the noise is gone. It looks like a perfect generative model, and there is a catch:

# %%
x_T = torch.randn(200, 1, 8, 8, generator=generator)
drawn = draw(finite, process, x_T, uniform_times(1000, 50), generator=generator)
distance, _ = torch.cdist(drawn.flatten(1), scans.flatten(1)).min(dim=1)
print(
    f"{int((distance < 0.01).sum())} of {len(drawn)} samples are copies of a training scan"
)

assert (distance < 0.01).all()  # over all 64 pixels: rounding, no more

# %% [markdown]
# All of them are copies. That is no bug: if the data distribution *is* those 1,442 scans, then returning them in the right proportions is exactly right, and no network trained on them could have a lower training loss. What we want is the distribution that the scans came from. A network is useful because it *cannot* store this formula: it has to interpolate, and where it interpolates well it generalises. A diffusion model that is too good on its training loss is a photocopier. Keep that in mind when numbers improve in later chapters.
#
# ## Objectives
#
# After this chapter you can
#
# - write down the exact reverse step with Bayes' rule, and say what makes it unusable;
# - say how small a step must be for a Gaussian to be a fair approximation, and measure the error;
# - derive $q(x_s\mid x_t,x_0)$ for any two times $s<t$ by completing the square;
# - prove that the mean of the reverse step needs nothing but $\mathrm{E}[x_0\mid x_t]$, and know between which bounds its variance lies;
# - write a sampler in ten lines, and recognise two bugs of such samplers from their pictures.
#
# The chapter trains nothing; [the next one](03_ddpm.ipynb) puts a network where the exact denoiser stands here.

# %% [markdown]
# ## The step that we want: Bayes' rule
#
# **From $s$ to $t$ forwards.** Chapter 1 jumped from $x_0$ to $x_t$. Starting from any $x_s$ works in the same way: each step multiplies by $\sqrt{\alpha_u}$, so the factor of $x_s$ is the root of $\alpha_{s+1}\cdots\alpha_t = \bar\alpha_t/\bar\alpha_s$. For the variance, suppose that $\mathrm{Var}(x_{u}\mid x_s)=1-\bar\alpha_u/\bar\alpha_s$, which is $0$ at $u=s$. One more step gives $\alpha_{u+1}(1-\bar\alpha_u/\bar\alpha_s)+1-\alpha_{u+1} = 1-\bar\alpha_{u+1}/\bar\alpha_s$. So
#
# $$
# q(x_t\mid x_s)=\mathcal N\!\left(x_t;\ \sqrt{\bar\alpha_t/\bar\alpha_s}\;x_s,\ \beta_{t\mid s} I\right),
# \qquad \beta_{t\mid s}=1-\frac{\bar\alpha_t}{\bar\alpha_s}, \qquad s<t. \tag{2.1}
# $$
#
# With $s=t-1$ this is the single step, $\beta_{t\mid t-1}=\beta_t$; with $s=0$ it is the kernel, $\beta_{t\mid 0}=1-\bar\alpha_t$. We write $\alpha_{t\mid s}=1-\beta_{t\mid s}=\bar\alpha_t/\bar\alpha_s$ and keep $s$ general: nothing below gets harder, and strided samplers come for free.
#
# **Backwards.** Bayes' rule turns the arrow around:
#
# $$
# q(x_s\mid x_t)=\frac{q(x_t\mid x_s)\;q(x_s)}{q(x_t)}. \tag{2.2}
# $$
#
# Start from $x_T\sim q(x_T)$, which is all but $\mathcal N(0,I)$, draw $x_{T-1}$ from (2.2), then $x_{T-2}$, and so on: the joint distribution of the chain is the forward one, hence $x_0$ is distributed as the data. So (2.2) is all that we want. Look at its parts:
#
# - $q(x_t\mid x_s)$ is the known Gaussian (2.1).
# - $q(x_t)$ does not depend on $x_s$: a constant that makes the density integrate to one.
# - $q(x_s)=\int q(x_s\mid x_0)\,q(x_0)\,dx_0$ is the trouble. It averages over all clean images, weighted with the data distribution: the very thing that we do not know.
#
# If a data set $x^{(1)},\dots,x^{(N)}$ is all that we have, the integral becomes a sum over it,
#
# $$
# q(x_s)=\frac1N\sum_{i=1}^N \mathcal N\!\left(x_s;\ \sqrt{\bar\alpha_s}\,x^{(i)},\ (1-\bar\alpha_s) I\right), \tag{2.3}
# $$
#
# which can be computed, as the film of the digits did, but it touches every training image at each step of each sample, and the distribution that it describes is the training set.
#
# In one dimension nothing stops us from computing (2.2) exactly, on a grid. Our test distribution for the whole chapter is a mixture of two narrow Gaussians, with mean 0 and variance exactly 1:

# %%
double = {
    "dtype": torch.float64
}  # rounding errors of float32 would show in the tables below
weights, means, stds = torch.tensor(
    [[0.4, 0.6], [-1.2, 0.8], [0.2, 0.2]], **double
)
mixture = oracle.Mixture(process, weights, means, stds)

y = torch.linspace(-6, 6, 6001, **double)  # the grid for x_s
dy = y[1] - y[0]


def reverse_conditional(x_t, t, s):
    """q(x_s | x_t) on the grid by equation (2.2), one row per entry of x_t."""
    alpha = process.alpha_bar[t] / process.alpha_bar[s]
    log_forward = -((x_t[:, None] - alpha.sqrt() * y) ** 2) / (2 * (1 - alpha))
    # The softmax over the grid divides by q(x_t).
    return torch.softmax(log_forward + mixture.log_prob(y, s), dim=1) / dy


def moments(density):
    """Mean and variance of each row."""
    mean = (density * y).sum(1) * dy
    return mean, (density * (y - mean[:, None]) ** 2).sum(1) * dy


def gaussian(mean, var):
    """The Gaussian densities with these moments, on the grid."""
    mean, var = mean[:, None], var[:, None]
    return (
        torch.exp(-((y - mean) ** 2) / (2 * var)) / (2 * math.pi * var).sqrt()
    )


# %% tags=["hide-input"] mystnb={"image": {"alt": "Four panels of the exact reverse conditional and the Gaussian with the same mean and variance. For strides 1 and 10 the curves coincide, for 100 the exact one leans to a side, for 500 it has two separate peaks that the Gaussian bridges."}}
t, x_t = 600, torch.tensor([0.2], **double)
figure, axes = plt.subplots(1, 4, figsize=(8, 2.3))
for ax, stride in zip(axes, [1, 10, 100, 500], strict=True):
    exact = reverse_conditional(x_t, t, t - stride)
    mean, var = moments(exact)
    ax.plot(y, exact[0], label="exact")
    ax.plot(y, gaussian(mean, var)[0], "--", label="Gaussian")
    low, high = float(mean - 3.3 * var.sqrt()), float(mean + 3.3 * var.sqrt())
    ax.set(xlim=(low, high), yticks=[], xlabel="$x_s$")
    ax.set_title(f"t = 600 → s = {t - stride}", fontsize=10)
axes[0].set_ylabel("density")
_ = axes[0].legend(loc="upper left", fontsize=7, handlelength=1.2, borderpad=0)

# %% [markdown]
# The exact $q(x_s\mid x_t=0.2)$ from $t=600$ down to four times $s$, with the Gaussian of the same mean and variance. For small steps there is no difference to see. For the step of 100 the exact curve leans; for the step of 500, almost to the data, it has two peaks, one per mode of the data, and the Gaussian puts its mass where nothing is. **Small steps back are Gaussian, large ones are not.** Now the same in formulas, and measured.

# %% [markdown]
# ## When a Gaussian is a fair approximation
#
# Take one reverse step over a small $\beta_{t\mid s}$. As a function of $x_s$, the forward factor in (2.2) is a narrow bump around $c=x_t/\sqrt{\alpha_{t\mid s}}$:
#
# $$
# \log q(x_t\mid x_s) = -\frac{\lVert x_t-\sqrt{\alpha_{t\mid s}}\,x_s\rVert^2}{2\beta_{t\mid s}}+\text{const}
# = -\frac{\alpha_{t\mid s}}{2\beta_{t\mid s}}\lVert x_s-c\rVert^2+\text{const}.
# $$
#
# It allows only $\lVert x_s-c\rVert=O(\sqrt{\beta_{t\mid s}})$. On such a short piece the other factor is nearly log-linear. With $g=\nabla\log q_s(c)$, the gradient of the marginal of $x_s$ at $c$,
#
# $$
# \log q_s(x_s)=\log q_s(c)+g^\top(x_s-c)+O(\lVert x_s-c\rVert^2),
# \qquad \lVert x_s-c\rVert^2=O(\beta_{t\mid s}).
# $$
#
# Add the two and complete the square, $-\frac{a}{2}\lVert z\rVert^2+g^\top z=-\frac a2\lVert z-g/a\rVert^2+\text{const}$ with $z=x_s-c$ and $a=\alpha_{t\mid s}/\beta_{t\mid s}$:
#
# $$
# \log q(x_s\mid x_t)=-\frac{\alpha_{t\mid s}}{2\beta_{t\mid s}}\left\lVert x_s-c-\frac{\beta_{t\mid s}}{\alpha_{t\mid s}}\,g\right\rVert^2+\text{const}+O(\beta_{t\mid s}).
# $$
#
# That is a Gaussian with mean $c+\frac{\beta}{\alpha}g$ and variance $\frac\beta\alpha=\beta+O(\beta^2)$. The neglected quadratic term of the expansion changes the precision $\alpha/\beta$ by $O(1)$, so the variance by $O(\beta^2)$, and the shift $\frac\beta\alpha g$ by a relative $O(\beta)$, so the mean by $O(\beta^2)$.
#
# Last, $g$ is a gradient at $c$ of the marginal at $s$; a sampler stands at $x_t$. The marginal at $t$ is the one at $s$, stretched by $\sqrt{\alpha_{t\mid s}}$ and blurred with variance $\beta_{t\mid s}$. The blur changes the logarithm of a smooth density by $O(\beta)$, and the stretch divides gradients by $\sqrt{\alpha}$: $\nabla\log q_t(x_t)=g/\sqrt{\alpha_{t\mid s}}+O(\beta)$. Hence $\frac\beta\alpha g=\frac{\beta}{\sqrt\alpha}\nabla\log q_t(x_t)+O(\beta^2)$, and
#
# $$
# q(x_s\mid x_t)\approx\mathcal N\!\left(x_s;\ \frac{x_t+\beta_{t\mid s}\nabla\log q(x_t)}{\sqrt{1-\beta_{t\mid s}}},\ \beta_{t\mid s} I\right), \tag{2.4}
# $$
#
# with errors of $O(\beta_{t\mid s}^2)$ in the mean and in the variance. Go back along the rescaled $x_t$, plus a push uphill in log-density. A sampler of the whole chain makes about $1/\beta$ such steps, each with an error of order $\beta^2$, so the total error shrinks in proportion to $\beta$.
#
# Orders can be tested: double the step, and an $O(\beta^2)$ error must grow fourfold.


# %%
def expansion(x_t, t, s):
    """Mean of (2.4), the mean c + β g / α before the last replacement, and β."""
    alpha = process.alpha_bar[t] / process.alpha_bar[s]
    beta, c = 1 - alpha, x_t / alpha.sqrt()
    uphill = (x_t + beta * mixture.score(x_t, t)) / alpha.sqrt()
    return uphill, c + beta / alpha * mixture.score(c, s), beta


print(
    "stride     beta   error of c+βg/α   error of variance β   error of the mean in (2.4)"
)
errors = []
for stride in (1, 2, 4, 8):
    mean, var = moments(reverse_conditional(x_t, 600, 600 - stride))
    uphill, with_g, beta = expansion(x_t, 600, 600 - stride)
    errors.append(
        [abs(float(e)) for e in (mean - with_g, var - beta, mean - uphill)]
    )
    print(
        f"{stride:6d}  {beta:7.4f}   {errors[-1][0]:15.1e}   {errors[-1][1]:19.1e}   ",
        end="",
    )
    print("below 1e-12" if errors[-1][2] < 1e-12 else f"{errors[-1][2]:.1e}")

for smaller, larger in zip(errors, errors[1:], strict=False):
    assert all(
        3.7 < b / a < 4.3 for a, b in zip(smaller[:2], larger[:2], strict=True)
    )

# %% [markdown]
# Two columns grow fourfold as they should. The third is a surprise: the mean of (2.4), derived with $O(\beta^2)$ to spare, has no error at all. That is not luck but Tweedie's formula, (2.17) below: this mean is *exact for every step size*. What a small step buys is the shape.
#
# **How wrong is the shape?** Continue the expansion of $\log q_s$ by one order, in one dimension. In units $u=(x_s-\text{mean})/\sqrt{\beta}$ the linear term moved the mean and the quadratic one changed the variance: a Gaussian with the right moments absorbs both. The first term that it cannot absorb is the cubic, $\frac{\gamma}{6}u^3$ with $\gamma\approx\beta^{3/2}\,\partial^3\log q$. Up to a shift, $u^3$ is the Hermite polynomial $\mathrm{He}_3(u)=u^3-3u$, so the density is $\varphi(u)\,(1+\frac\gamma6\mathrm{He}_3(u)+\dots)$ with the standard normal $\varphi$. For a small relative deviation $r$ with mean zero, $\mathrm{KL}=\int\varphi\,(1+r)\log(1+r)\approx\int\varphi\,(r+\tfrac12r^2)=\frac12\int\varphi\,r^2$, and $\int\varphi\,\mathrm{He}_3^2=15-18+9=6$ (with the moments $15, 3, 1$ of $u^6,u^4,u^2$). Together, the divergence of $q(x_s\mid x_t)$ from the Gaussian $g$ with the same moments is
#
# $$
# \mathrm{KL}\big(q(x_s\mid x_t)\,\big\Vert\,g\big)\approx\frac{\gamma^2}{12}=\frac{\beta_{t\mid s}^3}{12}\left(\partial^3_x\log q(x_t)\right)^2 . \tag{2.5}
# $$
#
# The *third* power of the step: ten times smaller steps make a thousand times better Gaussians. Let us turn that knob, from one step of the chain to a leap of 500, with the Kullback–Leibler divergence and the total variation (half the area between the curves) averaged over $x_t\sim q(x_t)$, all by quadrature:

# %%
x_grid = torch.linspace(-4, 4, 161, **double)
share = torch.softmax(
    mixture.log_prob(x_grid, 600), dim=0
)  # q(x_t) on the grid


def shape_error(stride, t=600):
    """Average KL and total variation between q(x_s|x_t) and its moment-matched Gaussian."""
    exact = reverse_conditional(x_grid, t, t - stride)
    bell = gaussian(*moments(exact))
    log_ratio = exact.clamp(min=1e-300).log() - bell.clamp(min=1e-300).log()
    kl = (exact * log_ratio - exact + bell).sum(
        1
    ) * dy  # the last two cancel, but steady the sum
    return float(share @ kl), float(
        share @ (exact - bell).abs().sum(1) * dy / 2
    )


at = x_grid.clone().requires_grad_()
(second,) = torch.autograd.grad(
    mixture.score(at, 600).sum(), at, create_graph=True
)
(third,) = torch.autograd.grad(second.sum(), at)
predicted = float(share @ third.detach() ** 2) / 12

strides = [1, 3, 10, 30, 100, 200, 300, 500]
step_beta = [
    float(1 - process.alpha_bar[600] / process.alpha_bar[600 - k])
    for k in strides
]
measured = [shape_error(k) for k in strides]
print("stride    beta        KL   KL by (2.5)   total variation")
for k, b, (kl, tv) in zip(strides, step_beta, measured, strict=True):
    print(
        f"{k:6d}  {b:6.4f}  {kl:8.1e}   {predicted * b**3:11.1e}   {tv:15.5f}"
    )

assert abs(measured[0][0] / (predicted * step_beta[0] ** 3) - 1) < 0.03

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two error measures against the step size, both axes logarithmic. The measured KL follows a straight line of slope three for small steps and rises above it for large ones; the total variation rises from one in a hundred thousand to almost one half."}}
figure, axes = plt.subplots(1, 2, figsize=(7, 2.8))
axes[0].plot(step_beta, [kl for kl, _ in measured], "o-", label="measured")
axes[0].plot(
    step_beta,
    [predicted * b**3 for b in step_beta],
    "--",
    label="(2.5), slope 3",
)
axes[0].set(
    xscale="log",
    yscale="log",
    xlabel="$\\beta_{t|s}$ of the step",
    ylabel="KL in nats",
)
axes[0].legend()
axes[1].plot(step_beta, [tv for _, tv in measured], "o-", color=plots.GREEN)
axes[1].set(xscale="log", yscale="log", xlabel="$\\beta_{t|s}$ of the step")
axes[1].set_ylabel("total variation")
for k, b, (_, tv) in zip(strides, step_beta, measured, strict=True):
    if k in (1, 10, 100, 500):
        axes[1].annotate(
            f"{k}", (b, tv), (7, -7), textcoords="offset points", fontsize=9
        )
_ = axes[1].set_xlim(right=1.6)

# %% [markdown]
# The averaged error at $t=600$ over the step size; the labels on the right are strides. On the left, the measured KL leaves the cubic law where $\beta$ is no longer small and becomes much worse. A chain of a thousand steps is in the harmless corner. One leap of 500 has 44 % of its mass in the wrong place: no Gaussian, whatever network computes its mean, can be right there. Few-step samplers must either draw from something richer than a Gaussian {cite}`xiao2022tackling` or not draw at all.

# %% [markdown]
# ## If the clean image were known
#
# Bayes' rule (2.2) fails on $q(x_s)$. Condition everything on $x_0$, and the unknown average becomes a known Gaussian:
#
# $$
# q(x_s\mid x_t,x_0)=\frac{q(x_t\mid x_s,x_0)\;q(x_s\mid x_0)}{q(x_t\mid x_0)}=\frac{q(x_t\mid x_s)\;q(x_s\mid x_0)}{q(x_t\mid x_0)}.
# $$
#
# The second equality is the Markov property: given $x_s$, the noise added later knows nothing of $x_0$. Take $s=t-1$ and $t\ge2$ first. As a function of $x_{t-1}$, with everything else in "const",
#
# $$
# \begin{aligned}
# &\log q(x_{t-1}\mid x_t,x_0)\\
# &=-\frac12\left[\frac{\lVert x_t-\sqrt{\alpha_t}\,x_{t-1}\rVert^2}{\beta_t}+\frac{\lVert x_{t-1}-\sqrt{\bar\alpha_{t-1}}\,x_0\rVert^2}{1-\bar\alpha_{t-1}}\right]+\text{const}\\
# &=-\frac12\left[\left(\frac{\alpha_t}{\beta_t}+\frac{1}{1-\bar\alpha_{t-1}}\right)\lVert x_{t-1}\rVert^2-2\left(\frac{\sqrt{\alpha_t}}{\beta_t}x_t+\frac{\sqrt{\bar\alpha_{t-1}}}{1-\bar\alpha_{t-1}}x_0\right)^{\!\top}x_{t-1}\right]+\text{const}.
# \end{aligned}
# $$
#
# A Gaussian with precision $\Lambda$ (one over the variance) and mean $\mu$ has the exponent $-\frac12[\Lambda\lVert x\rVert^2-2\Lambda\mu^\top x]+\text{const}$. Compare: the square gives the precision, the linear term gives precision times mean,
#
# $$
# \frac1{\tilde\beta_t}=\frac{\alpha_t}{\beta_t}+\frac1{1-\bar\alpha_{t-1}},\qquad
# \tilde\mu_t=\tilde\beta_t\left(\frac{\sqrt{\alpha_t}}{\beta_t}\,x_t+\frac{\sqrt{\bar\alpha_{t-1}}}{1-\bar\alpha_{t-1}}\,x_0\right). \tag{2.6}
# $$
#
# **Precision form.** Two witnesses speak about $x_{t-1}$: what came after ($x_t$) and what was before ($x_0$). Their precisions add up, and the mean weighs what they say by their precisions.
#
# **The variance.** On a common denominator, with $\alpha_t\bar\alpha_{t-1}=\bar\alpha_t$ and $\beta_t=1-\alpha_t$,
#
# $$
# \frac{1}{\tilde\beta_t}=\frac{\alpha_t(1-\bar\alpha_{t-1})+\beta_t}{\beta_t(1-\bar\alpha_{t-1})}=\frac{\alpha_t-\bar\alpha_t+1-\alpha_t}{\beta_t(1-\bar\alpha_{t-1})}
# \quad\Longrightarrow\quad
# \tilde\beta_t=\frac{1-\bar\alpha_{t-1}}{1-\bar\alpha_t}\,\beta_t . \tag{2.7}
# $$
#
# **$x_0$-form of the mean.** Multiply (2.7) into the bracket of (2.6); $\beta_t$ cancels in the first term, $1-\bar\alpha_{t-1}$ in the second:
#
# $$
# \tilde\mu_t(x_t,x_0)=\frac{\sqrt{\alpha_t}\,(1-\bar\alpha_{t-1})}{1-\bar\alpha_t}\,x_t+\frac{\sqrt{\bar\alpha_{t-1}}\,\beta_t}{1-\bar\alpha_t}\,x_0 . \tag{2.8}
# $$
#
# **$\varepsilon$-form.** Replace $x_0$ by $(x_t-\sqrt{1-\bar\alpha_t}\,\varepsilon)/\sqrt{\bar\alpha_t}$, where $\sqrt{\bar\alpha_{t-1}}/\sqrt{\bar\alpha_t}=1/\sqrt{\alpha_t}$. The factor of $x_t$ becomes
#
# $$
# \frac{\sqrt{\alpha_t}\,(1-\bar\alpha_{t-1})}{1-\bar\alpha_t}+\frac{\beta_t}{\sqrt{\alpha_t}\,(1-\bar\alpha_t)}
# =\frac{\alpha_t-\bar\alpha_t+1-\alpha_t}{\sqrt{\alpha_t}\,(1-\bar\alpha_t)}=\frac1{\sqrt{\alpha_t}},
# $$
#
# that of $\varepsilon$ is $-\frac{\beta_t}{\sqrt{\alpha_t}\,(1-\bar\alpha_t)}\sqrt{1-\bar\alpha_t}$, and so
#
# $$
# \tilde\mu_t=\frac{1}{\sqrt{\alpha_t}}\left(x_t-\frac{\beta_t}{\sqrt{1-\bar\alpha_t}}\,\varepsilon\right). \tag{2.9}
# $$
#
# **Any two times.** The derivation used three facts: the forward Gaussian from $t-1$ to $t$, the kernel at $t-1$, and $\alpha_t\bar\alpha_{t-1}=\bar\alpha_t$. By (2.1) all three hold for any $s<t$ if $\alpha_t$ and $\beta_t$ become $\alpha_{t\mid s}$ and $\beta_{t\mid s}$, and $t-1$ becomes $s$. Therefore
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
# At $s=0$, where (2.6) would divide by zero, (2.10) is fine: $\beta_{t\mid0}=1-\bar\alpha_t$, so the mean is $x_0$ and the variance is 0. If $x_0$ is known, there is nothing left to draw. The library has only this one formula, `process.posterior(x_t, x0, t, s)`. First the algebra by machine (folded), then the three forms and the library in numbers.

# %% tags=["hide-cell"]
import sympy

a_t, a_s, x_t_, x_s_, x_0_ = sympy.symbols(
    "a_t a_s x_t x_s x_0", positive=True
)  # a = alpha_bar
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
by_precision = (
    alpha.sqrt() / beta * x_t + before.sqrt() / (1 - before) * x0
) / precision  # (2.6)
by_x0 = alpha.sqrt() * (1 - before) / (1 - now) * x_t  # (2.8)
by_x0 = by_x0 + before.sqrt() * beta / (1 - now) * x0
by_eps = (x_t - beta / (1 - now).sqrt() * eps) / alpha.sqrt()  # (2.9)

mean, std = process.posterior(x_t, x0, t, t - 1)
for form in (by_precision, by_x0, by_eps):
    torch.testing.assert_close(form, mean, rtol=1e-12, atol=1e-12)
assert math.isclose(std**2, 1 / precision) and math.isclose(
    std**2, process.beta_tilde[t]
)

mean, std = process.posterior(x_t, x0, t, 0)
torch.testing.assert_close(mean, x0)
print(
    f"three forms, one mean; at s = 0 the mean is x0 and the standard deviation {std:g}"
)

# %% [markdown]
# :::{admonition} Mind the slide
# :class: warning
# Three misprints around this formula are common, and each looks harmless:
#
# - **"$\bar\beta_t$" for $\tilde\beta_t$.** A bar means a product over all steps, as in $\bar\alpha_t$. The posterior variance is not a product; it has a tilde.
# - **A variance written $\sigma_t I$** where $\sigma_t^2 I$ is meant. Code that follows draws with $\sqrt{\sigma_t}$ instead of $\sigma_t$. In this book $\sigma_t$ is always a standard deviation.
# - **$\alpha$ for $\bar\alpha$**, for instance $\sqrt{1-\alpha_t}$ in place of $\sqrt{1-\bar\alpha_t}$ in (2.9). Part of the confusion is honest: the DDIM paper {cite}`song2021denoising` calls our $\bar\alpha_t$ plain $\alpha_t$. What the mix-up does to samples stands under [What goes wrong](#what-goes-wrong).
# :::
#
# **How large is $\tilde\beta$?** The fraction $\frac{1-\bar\alpha_{t-1}}{1-\bar\alpha_t}$ is below one because $\bar\alpha$ falls, so $\tilde\beta_t<\beta_t$ always. At $t=1$ it is zero, $\tilde\beta_1=0$. Then
#
# $$
# \frac{\tilde\beta_t}{\beta_t}=\frac{1-\bar\alpha_{t-1}}{1-\bar\alpha_t}=1-\frac{\bar\alpha_{t-1}\beta_t}{1-\bar\alpha_t}
# $$
#
# tends to one as soon as a single step adds little compared with all noise so far, $\beta_t\ll1-\bar\alpha_t$.

# %% tags=["hide-input"] mystnb={"image": {"alt": "The ratio of beta tilde to beta over t divided by T, logarithmic, for three chain lengths. Each curve starts at zero at t equals 1 and climbs to one; the longer the chain, the earlier."}}
figure, ax = plt.subplots(figsize=(5.6, 2.8))
for T, marker in ((10, "o-"), (100, "-"), (1000, "--")):
    chain = DDPM(schedules.cosine(T))
    ratio = chain.beta_tilde[1:] / chain.beta[1:]
    ax.plot(
        torch.arange(1, T + 1) / T,
        ratio,
        marker,
        markersize=4,
        label=f"T = {T}",
    )
    first = int((ratio > 0.9).nonzero()[0]) + 1
    print(
        f"T = {T:4d}: beta tilde is 0 at t = 1 and above 0.9 beta from t = {first}"
    )
    assert ratio[0] == 0 and (ratio < 1).all()
ax.set(xscale="log", xlabel="t / T", ylabel=r"$\tilde\beta_t\,/\,\beta_t$")
_ = ax.legend()

# %% [markdown]
# The ratio for the cosine schedule at three chain lengths. In a chain of 1,000 steps $\tilde\beta_t$ and $\beta_t$ differ by more than a tenth only in the first 14 (which are the last ones of a sampler); in a chain of ten steps, in eight of them. So it is in *short* chains that the choice of the variance matters.

# %% [markdown]
# ## The one idea: predict the clean image, then draw the next one
#
# Given $x_t$ alone we do not know $x_0$; we have a distribution $q(x_0\mid x_t)$ over what it may have been. The true reverse step is the average of (2.10) over it, $q(x_s\mid x_t)=\int q(x_s\mid x_t,x_0)\,q(x_0\mid x_t)\,dx_0$. How much of it survives if we keep only the mean of $x_0$?
#
# **The mean survives in full.** Write (2.10) as $\mathrm E[x_s\mid x_t,x_0]=A\,x_0+B\,x_t$ with the numbers $A=\sqrt{\bar\alpha_s}\,\beta_{t\mid s}/(1-\bar\alpha_t)$ and $B=\sqrt{\alpha_{t\mid s}}\,(1-\bar\alpha_s)/(1-\bar\alpha_t)$. It is *linear* in $x_0$. By the law of total expectation,
#
# $$
# \mathrm E[x_s\mid x_t]=\mathrm E\big[A\,x_0+B\,x_t\,\big|\,x_t\big]
# =A\,\mathrm E[x_0\mid x_t]+B\,x_t . \tag{2.11}
# $$
#
# For any step size and any data: put the prediction $\hat x_0=\mathrm E[x_0\mid x_t]$ where $x_0$ stood, and the mean of the reverse step is exact. This is why it is enough to learn one function, the mean of the clean image.
#
# **The variance gains a term.** By the law of total variance,
#
# $$
# \mathrm{Cov}(x_s\mid x_t)=\mathrm E\big[\mathrm{Cov}(x_s\mid x_t,x_0)\,\big|\,x_t\big]+\mathrm{Cov}\big(\mathrm E[x_s\mid x_t,x_0]\,\big|\,x_t\big).
# $$
#
# The first term is $\tilde\beta_{t\to s}I$. The second is $\mathrm{Cov}(A\,x_0+B\,x_t\mid x_t)$, where $B\,x_t$ is a constant and $A$ comes out squared:
#
# $$
# \mathrm{Cov}(x_s\mid x_t)=\tilde\beta_{t\to s}\,I+\left(\frac{\sqrt{\bar\alpha_s}\,\beta_{t\mid s}}{1-\bar\alpha_t}\right)^{\!2}\mathrm{Cov}(x_0\mid x_t). \tag{2.12}
# $$
#
# Noise that would be there even if $x_0$ were known, plus our ignorance of $x_0$. For small steps the second term is of order $\beta^2$ and the first of order $\beta$, which is why drawing with $\tilde\beta$ works at all. Both laws against quadrature, for the leap from 600 to 500, where the conditional is visibly not Gaussian:

# %%
t, s = 600, 500
points = torch.tensor([-1.5, -0.5, 0.2, 1.0], **double)
mean, var = moments(
    reverse_conditional(points, t, s)
)  # no formula of this section in here
prediction, ignorance = moments(
    reverse_conditional(points, t, 0)
)  # E and Var of x_0 given x_t

predicted_mean, floor = process.posterior(points, mixture(points, t).x0, t, s)
A = float(
    process.alpha_bar[s].sqrt()
    * (1 - process.alpha_bar[t] / process.alpha_bar[s])
)
A = A / float(1 - process.alpha_bar[t])
predicted_var = floor**2 + A**2 * ignorance

print(
    "   x_t   E[x_s|x_t]  by (2.11)   Var[x_s|x_t]  by (2.12)   beta tilde alone"
)
for row in zip(points, mean, predicted_mean, var, predicted_var, strict=True):
    print(
        "{:6.1f} {:12.5f} {:10.5f} {:14.5f} {:10.5f}".format(*map(float, row)),
        end="",
    )
    print(f"{floor**2:19.5f}")

torch.testing.assert_close(
    prediction, mixture(points, t).x0, rtol=1e-9, atol=1e-9
)
torch.testing.assert_close(mean, predicted_mean, rtol=1e-9, atol=1e-9)
torch.testing.assert_close(var, predicted_var, rtol=1e-9, atol=1e-9)

# %% [markdown]
# **Between which bounds?** A covariance is never negative, so (2.12) says: *at every* $x_t$, the variance is at least $\tilde\beta_{t\to s}$. Equality needs $\mathrm{Cov}(x_0\mid x_t)=0$, data that are a single point.
#
# Upwards, take data with variance at most one per coordinate, as all data in $[-1,1]$ have, and subtract the mean (which changes no variance). Then $\mathrm{Var}(x_s)=\bar\alpha_s\mathrm{Var}(x_0)+1-\bar\alpha_s\le1$ too. Use $\sqrt{\alpha_{t\mid s}}\,x_t$ as a naive guess of $x_s$. With $x_t=\sqrt{\alpha_{t\mid s}}\,x_s+\sqrt{\beta_{t\mid s}}\,\varepsilon$ the guess misses by
#
# $$
# x_s-\sqrt{\alpha_{t\mid s}}\,x_t=\beta_{t\mid s}\,x_s-\sqrt{\alpha_{t\mid s}\,\beta_{t\mid s}}\;\varepsilon ,
# $$
#
# $$
# \mathrm E\big(x_s-\sqrt{\alpha_{t\mid s}}\,x_t\big)^2=\beta_{t\mid s}^2\,\mathrm{Var}(x_s)+\alpha_{t\mid s}\,\beta_{t\mid s}\le\beta_{t\mid s},
# $$
#
# since $\beta^2+\alpha\beta=\beta$. The conditional mean is the guess with the least mean squared error, and that least error is the average conditional variance. So, per coordinate,
#
# $$
# \tilde\beta_{t\to s}\ \le\ \mathrm E_{x_t}\big[\mathrm{Var}(x_s\mid x_t)\big]\ \le\ \beta_{t\mid s}. \tag{2.13}
# $$
#
# The upper end is reached by $x_0\sim\mathcal N(0,I)$. There $\mathrm{Var}(x_0\mid x_t)=1-\bar\alpha_t$ at every $x_t$ (the marginals stay $\mathcal N(0,I)$, the correlation of $x_0$ and $x_t$ is $\sqrt{\bar\alpha_t}$), and (2.12) gives
#
# $$
# \frac{(1-\bar\alpha_s)\,\beta_{t\mid s}}{1-\bar\alpha_t}+\frac{\bar\alpha_s\,\beta_{t\mid s}^2}{1-\bar\alpha_t}
# =\frac{\beta_{t\mid s}}{1-\bar\alpha_t}\big(1-\bar\alpha_s+\bar\alpha_s-\bar\alpha_t\big)=\beta_{t\mid s}.
# $$
#
# So $\tilde\beta$ and $\beta$ are *each optimal for an extreme data distribution*: a single point, and a standard Gaussian {cite}`ho2020denoising`. Real data lie between, and improved DDPM {cite}`nichol2021improved` lets the network choose a place $v_\theta$ between them, on a logarithmic scale:
#
# $$
# \sigma_{t\to s}^2=\beta_{t\mid s}^{\,v_\theta}\;\tilde\beta_{t\to s}^{\,1-v_\theta},\qquad 0\le v_\theta\le1. \tag{2.14}
# $$
#
# The library calls this place `var_mix`; `process.posterior_std(t, s, var_mix)` is $\sigma_{t\to s}$. Note the average in (2.13), which is easily lost: at single points the variance may exceed $\beta$.

# %% tags=["hide-input"] mystnb={"image": {"alt": "The variance of x_s given x_t over x_t for two strides. It is a hump: close to beta tilde where one mode is certain, far above beta between the modes. Its average lies between beta tilde and beta."}}
figure, axes = plt.subplots(1, 2, figsize=(7, 2.9))
for ax, s in zip(axes, (500, 300), strict=True):
    _, var = moments(reverse_conditional(x_grid, 600, s))
    lower, upper = (
        process.posterior_std(600, s, mix) ** 2 for mix in (0.0, 1.0)
    )
    average = float(share @ var)
    ax.plot(x_grid, var, label="Var$(x_s|x_t)$, exact")
    ax.axhline(upper, color=plots.RED, ls="--", label=r"$\beta_{t|s}$")
    ax.axhline(average, color=plots.BLUE, ls=":", label="average of the exact")
    ax.axhline(
        lower, color=plots.GREEN, ls="-.", label=r"$\tilde\beta_{t\to s}$"
    )
    ax.set(
        xlim=(-3, 3), ylim=(0, None), xlabel="$x_t$", title=f"t = 600 → s = {s}"
    )
    print(
        f"s = {s}: {lower:.4f} <= {average:.4f} <= {upper:.4f}, at most {float(var.max()):.4f}"
    )
    assert lower < average < upper < float(var.max())
axes[0].set_ylabel("variance")
_ = axes[0].legend(fontsize=8, loc="lower center")

# %% [markdown]
# Far out one mode is certain, little is unknown and the variance is close to $\tilde\beta$. Between the modes it is above $\beta$: there the question "left or right?" is open.

# %% [markdown]
# ## The exact denoiser, and Tweedie's formula
#
# Where does $\mathrm E[x_0\mid x_t]$ come from? From a network, in all chapters to come. Here, from Bayes' rule.
#
# **A finite data set.** Given $x_t$, the clean image was number $i$ with probability proportional to $\frac1N\mathcal N(x_t;\sqrt{\bar\alpha_t}\,x^{(i)},(1-\bar\alpha_t)I)$. Normalise, that is a softmax, and average:
#
# $$
# \mathrm E[x_0\mid x_t]=\sum_{i=1}^N p_i\,x^{(i)},\quad
# p=\mathrm{softmax}_i\!\left(-\frac{\lVert x_t-\sqrt{\bar\alpha_t}\,x^{(i)}\rVert^2}{2(1-\bar\alpha_t)}\right). \tag{2.15}
# $$
#
# It looks up the data set with $x_t$ as the query: attention over the training images. At small $t$ the softmax is one-hot, and the nearest image is the answer; hence the copies at the top of this chapter.
#
# **A mixture of Gaussians.** Components $k$ have weight $w_k$, mean $m_k$, variance $v_k$. Then $x_t$ within a component is $\mathcal N(\sqrt{\bar\alpha_t}\,m_k,\ V_k I)$ with $V_k=\bar\alpha_t v_k+1-\bar\alpha_t$, and $(x_0,x_t)$ is jointly Gaussian with covariance $\sqrt{\bar\alpha_t}\,v_k$ per coordinate. The conditional mean of a Gaussian pair is linear regression, "mean plus covariance over variance times deviation". Average over the components with their probabilities given $x_t$, $p_k(x_t)\propto w_k\,\mathcal N(x_t;\sqrt{\bar\alpha_t}\,m_k,V_kI)$:
#
# $$
# \mathrm E[x_0\mid x_t]=\sum_k p_k(x_t)\left(m_k+\frac{\sqrt{\bar\alpha_t}\,v_k}{V_k}\big(x_t-\sqrt{\bar\alpha_t}\,m_k\big)\right). \tag{2.16}
# $$
#
# With $v_k=0$ this is (2.15) again. These are `oracle.FiniteData` and `oracle.Mixture`.
#
# **Tweedie's formula.** There is a way to write it that does not mention the kind of data at all. By (2.1) the marginal is $q(x_t)=\int q(x_s)\,\mathcal N(x_t;\sqrt{\alpha_{t\mid s}}\,x_s,\beta_{t\mid s}I)\,dx_s$. Differentiate under the integral; the Gaussian brings down its exponent's gradient:
#
# $$
# \nabla q(x_t)=\int q(x_s)\,\mathcal N\big(x_t;\sqrt{\alpha_{t\mid s}}\,x_s,\beta_{t\mid s}I\big)\;\frac{\sqrt{\alpha_{t\mid s}}\,x_s-x_t}{\beta_{t\mid s}}\;dx_s .
# $$
#
# Divide by $q(x_t)$. On the left stands $\nabla\log q(x_t)$; on the right, by Bayes' rule (2.2), an average over $q(x_s\mid x_t)$:
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
# No approximation was made. With $s=t-1$ it is the mean of (2.4): that is why its error vanished. With $s=0$, where $\alpha_{t\mid0}=\bar\alpha_t$, it is Tweedie's formula {cite}`efron2011tweedie`,
#
# $$
# \mathrm E[x_0\mid x_t]=\frac{x_t+(1-\bar\alpha_t)\nabla\log q(x_t)}{\sqrt{\bar\alpha_t}}. \tag{2.18}
# $$
#
# Denoising and knowing the score $\nabla\log q(x_t)$ are the same knowledge. Set beside $\hat x_0=(x_t-\sqrt{1-\bar\alpha_t}\,\hat\varepsilon)/\sqrt{\bar\alpha_t}$, it also says that $\hat\varepsilon=-\sqrt{1-\bar\alpha_t}\,\nabla\log q(x_t)$: predicting the noise is predicting the score, rescaled. Three routes to the same number, with the score once from the library and once from automatic differentiation of $\log q$:

# %%
worst = 0.0
for t in (10, 200, 600, 1000):
    x_t = torch.linspace(-3, 3, 25, **double).requires_grad_()
    (by_autograd,) = torch.autograd.grad(mixture.log_prob(x_t, t).sum(), x_t)
    x_t = x_t.detach()
    for score in (mixture.score(x_t, t), by_autograd):
        tweedie = (
            x_t + (1 - process.alpha_bar[t]) * score
        ) / process.alpha_bar[t].sqrt()
        torch.testing.assert_close(
            tweedie, mixture(x_t, t).x0, rtol=1e-9, atol=1e-9
        )
print(
    "Tweedie (2.18) = regression (2.16) at four times, for two ways to the score"
)

# %% [markdown]
# ## From scratch, then from the library
#
# Now put it together. Predict $\hat x_0=\mathrm E[x_0\mid x_t]$, pretend that it were the truth, and draw from (2.10):
#
# $$
# x_s=\frac{\sqrt{\alpha_{t\mid s}}\,(1-\bar\alpha_s)}{1-\bar\alpha_t}\,x_t+\frac{\sqrt{\bar\alpha_s}\,\beta_{t\mid s}}{1-\bar\alpha_t}\,\hat x_0(x_t,t)+\sigma_{t\to s}\,z \tag{2.19}
# $$
#
# with a fresh $z\sim\mathcal N(0,I)$ for every step.
#
# The step to $s=0$ is without noise, $z=0$. The plain choice is $\sigma_{t\to s}^2=\tilde\beta_{t\to s}$, any place of (2.14) will do. The mean is exact by (2.11); the variance is right to first order in $\beta$; the shape is right to the order of (2.5). Ten lines:


# %%
def reverse_chain(denoise, process, x, times, generator):
    a = process.alpha_bar.tolist()
    for t, s in zip(times, times[1:], strict=False):
        x0 = denoise(x, t).x0  # predict the clean data ...
        beta = 1 - a[t] / a[s]
        on_x_t = (a[t] / a[s]) ** 0.5 * (1 - a[s]) / (1 - a[t])
        on_x0 = a[s] ** 0.5 * beta / (1 - a[t])
        std = ((1 - a[s]) / (1 - a[t]) * beta) ** 0.5
        noise = (
            torch.randn(x.shape, generator=generator, dtype=x.dtype)
            if s > 0
            else 0
        )
        x = on_x_t * x + on_x0 * x0 + std * noise  # ... then draw the next
    return x


times = uniform_times(1000, 200)
x_T = torch.randn(5000, generator=torch.Generator().manual_seed(1)).double()
mine = reverse_chain(
    mixture, process, x_T, times, torch.Generator().manual_seed(2)
)
theirs = draw(
    mixture, process, x_T, times, generator=torch.Generator().manual_seed(2)
)
torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)
print(
    f"times {times[:3]} ... {times[-3:]}; both loops agree with the same noise"
)

# %% [markdown]
# `draw` returns the last state of `sample`, the generator that made the films above. Both draw the noise in the same order as the ten lines, so the loops agree to rounding error, although the library's `process.step` arranges the mean differently: as $\sqrt{\bar\alpha_s}\,\hat x_0+\sqrt{1-\bar\alpha_s-\tilde\beta_{t\to s}}\;\hat\varepsilon$. (The same thing: insert $\hat\varepsilon=(x_t-\sqrt{\bar\alpha_t}\,\hat x_0)/\sqrt{1-\bar\alpha_t}$ and $1-\bar\alpha_s-\tilde\beta_{t\to s}=\alpha_{t\mid s}(1-\bar\alpha_s)^2/(1-\bar\alpha_t)$.) And the distribution?

# %% tags=["hide-input"] mystnb={"image": {"alt": "Histogram of five thousand samples of the reverse chain with 200 steps, lying on the exact density of the mixture with its two peaks, the right one higher."}}
figure, ax = plt.subplots(figsize=(5.6, 2.6))
bars = {"bins": 80, "range": (-2.2, 2.0), "density": True, "color": plots.SKY}
ax.hist(mine.numpy(), label="reverse chain", **bars)
ax.plot(
    y,
    mixture.log_prob(y, 0).exp(),
    color="black",
    lw=1.2,
    label="exact density",
)
ax.set(xlim=(-2.2, 2.0), xlabel="$x_0$", ylabel="density")
_ = ax.legend(loc="upper left")

# %% [markdown]
# ## One knob turned: how many steps?
#
# A histogram flatters. The Kolmogorov–Smirnov distance is the largest gap between two distribution functions, and we know the true one exactly:
#
# $$
# F(x)=\sum_k w_k\,\Phi\!\left(\frac{x-m_k}{\sqrt{v_k}}\right),\qquad
# \mathrm{KS}=\max_x\big|F_{\text{samples}}(x)-F(x)\big| .
# $$
#
# We walk the same thousand times in $K$ strides, with both extreme variances of (2.14), five seeds with 20,000 samples each. Even 20,000 *exact* samples have a distance that is not zero; that is the floor below which nothing can be seen.

# %%
SEEDS, N = 5, 20_000


def ks_distance(x):
    """The KS distance of each row of (seeds, samples) from the exact mixture."""
    x = x.double().sort(dim=1).values
    exact = (weights * torch.special.ndtr((x[:, :, None] - means) / stds)).sum(
        2
    )
    below = (
        torch.arange(x.shape[1]) / x.shape[1]
    )  # the empirical function jumps from here ...
    gap = torch.maximum(
        exact - below, below + 1 / x.shape[1] - exact
    )  # ... by 1/n
    return gap.max(dim=1).values


def error_of(steps, var_mix):
    generator = torch.Generator().manual_seed(steps)
    x_T = torch.randn(SEEDS * N, generator=generator)

    def with_variance(x, t, y=None):
        return Prediction(mixture(x, t).x0, var_mix)

    x0 = draw(
        with_variance,
        process,
        x_T,
        uniform_times(1000, steps),
        generator=generator,
    )
    return ks_distance(x0.reshape(SEEDS, N))


counts = [4, 8, 16, 32, 64, 128]
table = {
    mix: torch.stack([error_of(k, mix) for k in counts]) for mix in (0.0, 1.0)
}
exact = mixture.draw(SEEDS * N, generator=torch.Generator().manual_seed(0))
floor = float(ks_distance(exact.reshape(SEEDS, N)).mean())

print("steps K   KS with beta tilde     KS with beta")
for i, k in enumerate(counts):
    cells = [
        f"{float(v[i].mean()):.3f} ± {float(v[i].std()):.3f}"
        for v in table.values()
    ]
    print(f"{k:7d}   {cells[0]:>18s}   {cells[1]:>14s}")
print(f"  exact   {floor:>18.3f}")

for error in table.values():
    assert (error.mean(1)[1:] < error.mean(1)[:-1]).all()

# %% tags=["hide-input"] mystnb={"image": {"alt": "KS distance over the number of steps, both axes logarithmic, with error bars over five seeds. Both curves fall steadily towards the floor of exact samples; the larger variance is better throughout."}}
figure, ax = plt.subplots(figsize=(5.6, 3))
names = (r"variance $\tilde\beta$", r"variance $\beta$")
for error, name in zip(table.values(), names, strict=True):
    ax.errorbar(
        counts, error.mean(1), error.std(1), marker="o", capsize=3, label=name
    )
ax.axhline(floor, color="gray", ls=":", label="exact samples")
ax.set(xscale="log", yscale="log", xlabel="steps K", ylabel="KS distance")
ax.set_xticks(counts, [str(k) for k in counts])
ax.minorticks_off()
ax.set_yticks([0.01, 0.03, 0.1], ["0.01", "0.03", "0.1"])
_ = ax.legend()

# %% [markdown]
# Mean and standard deviation over the seeds. More steps, less error, down towards the floor. This is an error of the *sampler*: the denoiser is perfect, so all of it is the Gaussian with a not quite right variance. On these data, with unit variance, $\beta$ is the better end of (2.14): the average variance in the figure above is close to it. On data near a point it would be the other way round.

# %% [markdown]
# ## What goes wrong
#
# **Noise after the last step.** The most common bug of home-made samplers: the loop adds $\sigma z$ in *every* step, also in the one that ends at $s=0$. With $\sigma=\sqrt{\beta}$ that last noise stays in the picture, and even a perfect model returns data with a veil of standard deviation $\sqrt{\beta_{t\mid 0}}$, for $T$ single steps $\sqrt{\beta_1}$. (With $\sigma^2=\tilde\beta$ the bug is invisible, because $\tilde\beta_1=0$. It waits there until someone changes the variance.)
#
# **A bar lost in print.** One deck of slides prints the sampling algorithm with $\sqrt{1-\alpha_t}$ where (2.9) has $\sqrt{1-\bar\alpha_t}$. Since $\beta_t/\sqrt{1-\alpha_t}=\sqrt{\beta_t}$ is larger than $\beta_t/\sqrt{1-\bar\alpha_t}$ by the factor $\sqrt{(1-\bar\alpha_t)/\beta_t}$, up to $1/\sqrt{\beta_t}$, each step takes far too much "noise" away.
#
# Our perfect model is the finite data set again. We measure the distance to the nearest scan, and count how many different scans and how many zeros appear in 100 samples:


# %%
def home_made(denoise, x, times, generator, last_noise=False, misprint=False):
    """The sampler in its ε-form with variance β, and two bugs to switch on."""
    a = process.alpha_bar.tolist()
    for t, s in zip(times, times[1:], strict=False):
        eps = process.eps_from_x0(x, denoise(x, t).x0, t)
        alpha, beta = a[t] / a[s], 1 - a[t] / a[s]
        divisor = (1 - alpha) ** 0.5 if misprint else (1 - a[t]) ** 0.5
        x = (x - beta / divisor * eps) / alpha**0.5
        if s > 0 or last_noise:
            x = x + beta**0.5 * torch.randn(
                x.shape, generator=generator, dtype=x.dtype
            )
    return x


bugs = {
    "correct": {},
    "noise after the last step": {"last_noise": True},
    "bar lost": {"misprint": True},
}
x_T = torch.randn(100, 1, 8, 8, generator=torch.Generator().manual_seed(5))
digits = {}
print(
    "steps   sampler                     distance per pixel  last sqrt(beta)  scans  zeros"
)
for steps in (10, 500):
    times = uniform_times(1000, steps)
    for name, bug in bugs.items():
        x = home_made(
            finite, x_T, times, torch.Generator().manual_seed(6), **bug
        )
        digits[steps, name] = x
        distance, nearest = torch.cdist(x.flatten(1), scans.flatten(1)).min(
            dim=1
        )
        last = float(1 - process.alpha_bar[times[-2]]) ** 0.5
        veil = float((distance**2).mean() / 64) ** 0.5
        zeros = int((labels[nearest] == 0).sum())
        print(f"{steps:5d}   {name:27s} {veil:18.3f}  {last:15.3f}", end="")
        print(f"  {len(nearest.unique()):5d}  {zeros:5d}")

# %% tags=["hide-input"] mystnb={"image": {"alt": "Three blocks of 28 digits. Correct: many different clean digits. Noise after the last step: the same kind of digits under visible grain. Bar lost: perfectly clean digits, but most of them zeros, threes or nines."}}
rows = {
    "correct (500 steps)": digits[500, "correct"],
    "noise after the last step (10 steps)": digits[
        10, "noise after the last step"
    ],
    "bar lost (500 steps)": digits[500, "bar lost"],
}
figure, axes = plt.subplots(3, 1, figsize=(6.4, 3.9))
for ax, (name, x) in zip(axes, rows.items(), strict=True):
    plots.grid(x[:28], ncol=14, ax=ax)
    ax.set_title(name, fontsize=10)

# %% [markdown]
# Noise after the last step shows as grain, as strong as $\sqrt{\beta_{t\mid0}}$ predicts. With many steps it hides: at 500 steps it is about one grey level of 255, which nobody sees and every metric of fine detail feels.
#
# The lost bar is nastier. Every single picture is *perfect*; only the crowd gives it away: about half as many different scans, three times as many zeros. The state loses its variance on the way, all chains gather in the middle, and the middle decides for the digits that lie near it. In one dimension the same sampler finds hardly anything of the left mode:

# %% mystnb={"image": {"alt": "Two histograms over the exact two-peaked density. The correct sampler follows it; the sampler with the lost bar has a much too narrow right peak that is cut off by the axis and nearly no left one."}}
figure, axes = plt.subplots(1, 2, figsize=(7, 2.5), sharey=True)
for ax, name in zip(axes, ("correct", "bar lost"), strict=True):
    x_T = torch.randn(
        4000, generator=torch.Generator().manual_seed(9), **double
    )
    generator = torch.Generator().manual_seed(10)
    x = home_made(
        mixture, x_T, uniform_times(1000, 500), generator, **bugs[name]
    )
    bars = {"bins": 60, "range": (-2, 1.8), "density": True, "color": plots.SKY}
    ax.hist(x.numpy(), label="samples", **bars)
    ax.plot(
        y,
        mixture.log_prob(y, 0).exp(),
        color="black",
        lw=1.2,
        label="exact density",
    )
    ax.set(xlim=(-2, 1.8), ylim=(0, 2.5), xlabel="$x_0$", title=name)
    left = float((x < -0.2).double().mean())
    print(
        f"{name:9s} left mode {left:.2f} (true 0.40), variance {float(x.var()):.2f} (true 1.00)"
    )
axes[0].set_ylabel("density")
_ = axes[0].legend(loc="upper left")

# %% [markdown]
# **The tests that catch them.** For the first bug the cheapest test there is: let the denoiser always name the same $x_0$. Then every correct sampler must return exactly that $x_0$, since (2.10) has no variance left at $s=0$. It is `test_a_point_mass_comes_back_exactly` in `tests/derivations/test_ch02.py`. To the second bug this test is *blind*: in the step to $s=0$, $\alpha_{t\mid0}$ equals $\bar\alpha_t$, the bar makes no difference, and the last step repairs whatever came before. It takes a test of the single steps, `test_library_sampler_is_the_literal_loop`, which holds the library's sampler to (2.19) number for number, or one of the distribution: `test_the_distribution_catches_the_lost_bar_to_which_the_point_mass_is_blind` shows on a copy with the bug that the exact distribution function sees it.

# %%
point = torch.tensor([0.3, -0.7])


def certain(x, t, y=None):
    return Prediction(
        point.expand_as(x), 1.0
    )  # always the same x0, and variance beta


x_T = torch.randn(4, 2, generator=torch.Generator().manual_seed(7))
times = uniform_times(1000, 20)
engine = draw(
    certain, process, x_T, times, generator=torch.Generator().manual_seed(8)
)
print(f"{'ddpmlib':27s} off by {float((engine - point).abs().max()):.2f}")
for name, bug in bugs.items():
    out = home_made(
        certain, x_T, times, torch.Generator().manual_seed(8), **bug
    )
    print(f"{name:27s} off by {float((out - point).abs().max()):.2f}")

assert torch.equal(engine, point.expand_as(engine))

# %% [markdown]
# ## Exercises
#
# Write your answer into the cell below each question and take the `#` off its last line: the check
# says yes, or gives a hint. ★ asks for a derivation, ★★ for code, ★★★ for a small project of both.
# Solutions are folded.
#
# ### ★ Exercise 2.1: By hand
#
# A toy schedule has three steps, $\beta_1=0.1$, $\beta_2=0.2$, $\beta_3=0.3$. Compute $\tilde\beta_1,\tilde\beta_2,\tilde\beta_3$ with pencil and paper and give the three numbers.
#
# :::{dropdown} Hint
# First $\bar\alpha_0=1,\ \bar\alpha_1,\ \bar\alpha_2,\ \bar\alpha_3$, then (2.7). What is left to draw at $t=1$?
# :::

# %%
answer = ...  # your answer: [beta_tilde_1, beta_tilde_2, beta_tilde_3]

# exercises.check("2.1", answer)

# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
# alpha_bar = 1, 0.9, 0.72, 0.504
solution = [0.0, (1 - 0.9) / (1 - 0.72) * 0.2, (1 - 0.72) / (1 - 0.504) * 0.3]

exercises.check("2.1", solution)

# %% [markdown]
# ### ★ Exercise 2.2: The ε-form for any stride
#
# Write (2.9) for any two times: a function that takes $x_t$, $\varepsilon$, $\bar\alpha_t$, $\bar\alpha_s$ and returns the mean of $q(x_s\mid x_t,x_0)$.
#
# :::{dropdown} Hint
# Which quantities replace $\alpha_t$ and $\beta_t$ in (2.1)? And which square root keeps its bar?
# :::


# %%
def eps_form(x_t, eps, alpha_bar_t, alpha_bar_s):
    return ...  # your answer


# exercises.check("2.2", eps_form)


# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
def eps_form(x_t, eps, alpha_bar_t, alpha_bar_s):
    alpha = alpha_bar_t / alpha_bar_s
    return (x_t - (1 - alpha) / (1 - alpha_bar_t) ** 0.5 * eps) / alpha**0.5


exercises.check("2.2", eps_form)

# %% [markdown]
# ### ★★ Exercise 2.3: The best variance for Gaussian data
#
# Let $x_0\sim\mathcal N(0,v)$ in one dimension. Find $\mathrm{Var}(x_s\mid x_t)$ as a function of $v,\bar\alpha_t,\bar\alpha_s$. It should be $\tilde\beta_{t\to s}$ at $v=0$ and $\beta_{t\mid s}$ at $v=1$. What happens beyond $v=1$?
#
# :::{dropdown} Hint
# The law of total variance (2.12) needs $\mathrm{Var}(x_0\mid x_t)$: two Gaussian witnesses about $x_0$, the prior with variance $v$ and $x_t/\sqrt{\bar\alpha_t}$ with variance $(1-\bar\alpha_t)/\bar\alpha_t$. Their precisions add up. Write it without dividing by $v$.
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


# Beyond v = 1 it exceeds beta: no place between the two ends of (2.14) is right.
# That is one reason to scale data to unit variance.
exercises.check("2.3", reverse_variance)

# %% [markdown]
# ### ★★ Exercise 2.4: Your own sampler
#
# Write a sampler with variance $\beta$ instead of $\tilde\beta$: a function of a denoiser, a process, the start $x_T$, falling times and a generator that returns $x_0$. Use only the table `process.alpha_bar`. The check hands it a certain denoiser, counts its calls, tries several shapes, and compares the distribution of its samples with that of exact data.
#
# :::{dropdown} Hint
# Start from `reverse_chain` above. Which one line changes, and what did not matter with $\tilde\beta$ but matters now?
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
            x = x + beta**0.5 * torch.randn(
                x.shape, generator=generator, dtype=x.dtype
            )
    return x


exercises.check("2.4", my_sampler)

# %% [markdown]
# ### ★★★ Exercise 2.5: The variance that nobody has to guess
#
# $\tilde\beta$ or $\beta$? Neither: (2.12) has the right variance, and it can be had from a score alone. Analytic-DPM {cite}`bao2022analytic` does this with trained networks; here is the way there.
#
# 1. *Derive.* Tweedie's formula gets the mean of $x_0$ from the first derivative of $\log q(x_t)$. Differentiate once more: express $\mathrm{Var}(x_0\mid x_t)$, in one dimension, by $\bar\alpha_t$ and $h=\partial_x^2\log q(x_t)$. This is `variance_of_x0(alpha_bar_t, h)`.
# 2. *Write.* A sampler wants one number per step: the average of (2.12) over $q(x_t)$. That needs no second derivative, since integrating by parts gives $\mathrm E[h]=-\mathrm E[(\partial_x\log q)^2]$. Write `best_variance(score, alpha_bar_t, alpha_bar_s)`, where the tensor `score` holds $\partial_x\log q(x_t)$ at many draws of $x_t$.
# 3. *Measure.* Put it into `reverse_chain`: the score is (2.18) solved for it, `mixture.draw(n, t)` draws from $q(x_t)$. (Near $T$ the average is a tiny difference of large numbers; clip it to the two ends of (2.14).) Compare its KS distance with the table above, at $K=4,8,16,32$. How much of the error was the variance, and what is the rest? At which times is the best variance close to $\beta$, and why there?
#
# The check takes the two functions of parts 1 and 2.
#
# :::{dropdown} Hint
# Show first that $\frac{d}{dx_t}\mathrm E[x_0\mid x_t]=\frac{\sqrt{\bar\alpha_t}}{1-\bar\alpha_t}\mathrm{Var}(x_0\mid x_t)$: write the expectation as $\int x_0\,q(x_0)\,\mathcal N(x_t;\sqrt{\bar\alpha_t}x_0,1-\bar\alpha_t)\,dx_0$ over the same integral without the $x_0$ in front, and use the quotient rule. Then differentiate (2.18).
# :::


# %%
def variance_of_x0(alpha_bar_t, h):
    return ...  # your answer


def best_variance(score, alpha_bar_t, alpha_bar_s):
    return ...  # your answer


answer = variance_of_x0, best_variance

# exercises.check("2.5", answer)


# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
# With the quotient rule, d/dx E[x0|x] = E[x0 (√ᾱ x0 - x)] / (1-ᾱ) - E[x0] E[√ᾱ x0 - x] / (1-ᾱ)
#                                      = √ᾱ / (1-ᾱ) (E[x0²] - E[x0]²), all given x.
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
    """The chain with the best variance, and the place of each between the ends of (2.14)."""
    generator, places = torch.Generator().manual_seed(steps), []
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
    return ks_distance(x.reshape(SEEDS, N)), places


print("steps K   beta tilde   beta    best   its place, from 0 to 1, in thirds")
for i, k in enumerate(counts[:4]):
    error, places = best_chain(k)
    low, high = (float(table[mix][i].mean()) for mix in (0.0, 1.0))
    third = torch.tensor(places).tensor_split(3)
    print(
        f"{k:7d} {low:12.3f} {high:6.3f} {float(error.mean()):7.3f}   ",
        *(f"{float(part.mean()):5.2f}" for part in third),
    )
    assert error.mean() < low

# %% [markdown]
# From sixteen strides on the best variance beats both ends. With four and eight it does not: there
# the true step is no Gaussian, and the right variance does not make it one. It is close to $\beta$
# in the noisy two thirds, where $x_t$ says little about these data of variance one (at $T$ itself
# the clipped estimate is chance).

# %% [markdown]
# ## Recap
#
# 1. The exact reverse step is Bayes' rule (2.2). It needs the marginal $q(x_s)$, an average over all data.
# 2. For small steps it is nearly Gaussian (2.4), with an error in shape that falls with the third power of the step (2.5); for large steps on multi-modal data it is not.
# 3. Given $x_0$ it is exactly Gaussian, for any two times (2.10); completing the square gives $\tilde\mu$ in three forms and $\tilde\beta<\beta$.
# 4. Predict $\mathrm E[x_0\mid x_t]$, put it in place of $x_0$: the mean is exact (2.11), the variance lies between $\tilde\beta$ and $\beta$ on average (2.13). By Tweedie (2.18), that prediction is the score in other clothes.
# 5. The step to $s=0$ adds no noise. A denoiser that is certain must get its point back exactly.
#
# The equations of this chapter, the functions that implement them, the tests that pin them:

# %% mystnb={"code_prompt_show": "Equations, functions, tests", "code_prompt_hide": "Hide the table"} tags=["hide-cell"]
equations.table("02")

# %% [markdown]
# ## Further reading
#
# - {cite}`sohldickstein2015deep`, the origin: reversal by small Gaussian steps.
# - {cite}`ho2020denoising`, section 2 for $\tilde\mu_t$ and $\tilde\beta_t$ (their equations 6 and 7), section 3.2 for the two extreme variances.
# - {cite}`nichol2021improved`, section 3.1: the ratio $\tilde\beta_t/\beta_t$ and learned variances.
# - {cite}`bao2022analytic`: the variance that is optimal on average, in closed form from the score.
# - {cite}`efron2011tweedie`: the history and other uses of Tweedie's formula. {cite}`vincent2011connection`: denoising as score matching.
# - {cite}`anderson1982reverse`: the same reversal in continuous time.
# - {cite}`karras2022elucidating`, appendix B.3: the exact denoiser of a finite data set.
# - {cite}`xiao2022tackling`: few large steps with reverse distributions that are not Gaussian.
