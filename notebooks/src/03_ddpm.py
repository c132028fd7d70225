# %% [markdown]
# # 3. DDPM: train a network, sample from it
#
# [![Open in Colab](../book/_static/colab.svg)](https://colab.research.google.com/github/ddpm-book/ddpm-book/blob/main/notebooks/03_ddpm.ipynb)
#
# The sixty digits below were never written by a hand. A network with 0.77 million weights drew them,
# in 25 calls each, on the CPU that ran this page; its weights are in the repository. By the end of
# the chapter you will have trained such a network yourself, in half a minute, and you will know
# the reason for every line that does it.

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

# %% mystnb={"image": {"alt": "A grid of sixty generated MNIST digits, ten columns for the classes 0 to 9; nearly all are clean and legible."}}
import torch
from ddpmlib import data, plots, zoo
from ddpmlib.samplers import draw, sample, uniform_times

mnist_denoiser, mnist_card = zoo.load("mnist", device="cpu")
mnist_process = mnist_denoiser.process
y = torch.arange(10).repeat(6)
noise = torch.randn(
    60, *mnist_card.image_shape, generator=torch.Generator().manual_seed(3)
)
mnist_samples = draw(
    mnist_denoiser, mnist_process, noise, uniform_times(1000, 25), eta=0.0, y=y
)
_ = plots.grid(mnist_samples, ncol=10)

# %% [markdown]
# *What to see:* column $k$ was asked for digit $k$. Look for the failures too; we count them below.
#
# ## Objectives
#
# After this chapter you can
#
# - derive the noise-prediction loss from what the reverse step needs, and say what its minimiser is;
# - write Algorithms 1 and 2 of the DDPM paper from memory, and check them against a library;
# - translate between networks that predict $\varepsilon$, $x_0$ and $v$;
# - explain how the time enters a U-Net and compute self-attention by hand;
# - train a class-conditional model on real digits in seconds, sample it with few or many steps, and
#   *measure* what it drew.
#
# ## The idea in a picture
#
# [Chapter 02](02_reverse.ipynb) left us with one unknown. If we knew the posterior mean $\mathbb E[x_0\mid x_t]$, the best
# guess of the clean data given the noisy data, we could walk back from noise to data. For six
# little Gaussians on a ring we do know it, in closed form. For everything else we *learn* it: show a
# network pairs of (noisy, clean) and let it regress. Here both stand side by side.

# %% mystnb={"image": {"alt": "Three scatter plots of a ring of six Gaussian clusters: the data, samples of a small trained network, samples of the exact denoiser. All three show the same six clusters; the network leaves a few stray points between them."}}
import matplotlib.pyplot as plt
from ddpmlib.denoiser import EPS, X0, Denoiser, V, oracle
from ddpmlib.losses import diffusion_loss
from ddpmlib.models import MLP
from ddpmlib.process import DDPM, schedules
from ddpmlib.training import Settings, Trainer, fit

_ = torch.manual_seed(0)
process = DDPM(schedules.cosine(100))
points = data.ring(
    4096, modes=6, noise=0.2, generator=torch.Generator().manual_seed(0)
)
centres = data.ring_means(6)
exact = oracle.Mixture(process, torch.ones(6), centres, torch.full((6,), 0.2))

toy = Trainer(
    Denoiser(MLP(dim=2, width=64, depth=2), process, EPS),
    diffusion_loss,
    points,
    None,
    Settings(steps=1500, batch_size=256, lr=1e-2, ema=0.99),
    device="cpu",
)
toy_losses = [progress.loss.item() for progress in fit(toy)]
learned = toy.averaged

x_T = torch.randn(1500, 2, generator=torch.Generator().manual_seed(1))
from_network, from_oracle = (
    draw(d, process, x_T, generator=torch.Generator().manual_seed(2))
    for d in (learned, exact)
)
fig, axes = plt.subplots(1, 3, figsize=(7.5, 2.7), sharey=True)
for ax, x, title in zip(
    axes,
    (points[:1500], from_network, from_oracle),
    ("data", "learned", "exact"),
    strict=True,
):
    plots.scatter(x, ax).set_title(title)
near = torch.cdist(from_network, centres).min(dim=1).values < 3 * 0.2
assert near.float().mean() > 0.9  # of the data themselves 98.9 % lie that close

# %% [markdown]
# *What to see:* the network found the six clusters without ever being told that there are clusters.
# It was only asked, 1,500 times, "which noise was added to these points?" A few of its points stray
# between clusters, where the exact denoiser puts none: this network is small and was trained for seconds.
#
# ## The derivation
#
# ### What to regress on
#
# Chapter 01 gave $x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\varepsilon$ with
# $\varepsilon\sim\mathcal N(0, I)$. Given $x_t$ and $t$, knowing $x_0$ and knowing $\varepsilon$ is the same thing: one
# linear equation ties them. Ho et al. let the network $\varepsilon_\theta(x_t, t)$ predict the noise. One training step
# (line 5 of their Algorithm 1) takes a data point, a time and a noise, and descends on
#
# $$
# \ell_t(\theta) = \left\lVert \varepsilon - \varepsilon_\theta\!\left(\sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\varepsilon,\; t\right)\right\rVert^2 .
# \tag{3.1}
# $$
#
# Averaged over data, noise and times drawn *uniformly* from $1, \dots, T$ this is
#
# $$
# L_{\text{simple}}(\theta) = \mathbb E_{t,\,x_0,\,\varepsilon}\; \lVert \varepsilon - \varepsilon_\theta(x_t, t)\rVert^2 .
# \tag{3.2}
# $$
#
# (Chapter 04 will derive a loss from the likelihood and find this one, up to a weight for each $t$. Code
# usually takes the *mean* over the $d$ pixels instead of the sum in (3.1), so that numbers compare across image
# sizes; `ddpmlib` does.)
#
# **What is its minimiser?** Let $\varepsilon^*(x_t) = \mathbb E[\varepsilon \mid x_t]$. For any function $f$ of $x_t$,
#
# $$
# \mathbb E\lVert \varepsilon - f\rVert^2
# = \mathbb E\lVert \varepsilon - \varepsilon^*\rVert^2
# + \mathbb E\lVert \varepsilon^* - f\rVert^2
# + 2\,\mathbb E\,\big\langle \varepsilon - \varepsilon^*,\; \varepsilon^* - f\big\rangle .
# $$
#
# The last term is zero: take the expectation given $x_t$ first; the right factor is then a constant, and
# the left one averages to $\varepsilon^*(x_t) - \varepsilon^*(x_t) = 0$. The first term does not contain $f$. So
# the loss is smallest exactly at $f = \varepsilon^*$, and *it does not go to zero there*: what remains is
# $\mathbb E \operatorname{Var}(\varepsilon\mid x_t)$ per coordinate, the noise that no one could have guessed. A
# loss curve that flattens at 0.2 is not a failure; the interesting part is the gap to the floor.

# %%
rows = []
g = torch.Generator().manual_seed(5)
for t in (5, 25, 50, 75, 95):
    x0, eps = (
        exact.draw(20_000, generator=g),
        torch.randn(20_000, 2, generator=g),
    )
    x_t = process.q_sample(x0, t, eps)
    best = process.eps_from_x0(x_t, exact(x_t, t).x0, t)  # E[ε | x_t], exactly
    ours = learned.raw(x_t, t)[0].detach()
    rows.append(
        [((eps - e) ** 2).mean().item() for e in (best, ours)]
        + [best.var().item()]
    )
    # the network cannot beat the conditional mean, and what the mean gains, the noise loses
    assert rows[-1][0] < rows[-1][1] + 1e-3 < rows[-1][0] + 0.1
    assert abs(rows[-1][0] + rows[-1][2] - 1) < 0.03
print("  t   floor E Var(ε|x_t)   Var of the ideal ε̂")
for t, (floor, _, var) in zip((5, 25, 50, 75, 95), rows, strict=True):
    print(f"{t:3d} {floor:14.2f} {var:20.2f}")

# %% [markdown]
# :::{admonition} Mind the slide
# :class: warning
# "The network is trained so that the predicted noise map is unit Gaussian." It is not. It is trained to
# match *the noise that was added to this image*, and its best answer is a conditional mean. The law of total variance says
# $\operatorname{Var}(\varepsilon) = \mathbb E\operatorname{Var}(\varepsilon\mid x_t) + \operatorname{Var}(\mathbb E[\varepsilon\mid x_t])$, that is,
# 1 = floor + variance of the answer: the two columns above add up to one, and the answer's variance is
# *below* one at every $t$.
# :::
#
# ### Sampling: Algorithm 2
#
# The paper prints the reverse step as
#
# $$
# x_{t-1} = \frac{1}{\sqrt{\alpha_t}}\left(x_t - \frac{1-\alpha_t}{\sqrt{1-\bar\alpha_t}}\;\varepsilon_\theta(x_t,t)\right) + \sigma_t z .
# \tag{3.3}
# $$
#
# with $z\sim\mathcal N(0,I)$ drawn anew in each step, except that $z=0$ when $t=1$. Where does it come from? Chapter 02 derived the posterior $q(x_{t-1}\mid x_t, x_0)$ with mean
# $\tilde\mu_t = \frac{\sqrt{\bar\alpha_{t-1}}\,\beta_t}{1-\bar\alpha_t}\,x_0 + \frac{\sqrt{\alpha_t}\,(1-\bar\alpha_{t-1})}{1-\bar\alpha_t}\,x_t$. We do not have
# $x_0$, but the guessed noise implies a guess of it, and back:
#
# $$
# \hat x_0 = \frac{x_t - \sqrt{1-\bar\alpha_t}\;\hat\varepsilon}{\sqrt{\bar\alpha_t}},
# \tag{3.4}
# $$
#
# $$
# \hat\varepsilon = \frac{x_t - \sqrt{\bar\alpha_t}\;\hat x_0}{\sqrt{1-\bar\alpha_t}} .
# \tag{3.5}
# $$
#
# Put (3.4) into $\tilde\mu_t$ and use $\sqrt{\bar\alpha_t} = \sqrt{\alpha_t}\sqrt{\bar\alpha_{t-1}}$. In front of $x_t$ stands
#
# $$
# \frac{\beta_t}{\sqrt{\alpha_t}\,(1-\bar\alpha_t)} + \frac{\sqrt{\alpha_t}\,(1-\bar\alpha_{t-1})}{1-\bar\alpha_t}
# = \frac{\beta_t + \alpha_t - \bar\alpha_t}{\sqrt{\alpha_t}\,(1-\bar\alpha_t)} = \frac{1}{\sqrt{\alpha_t}},
# $$
#
# because $\alpha_t\bar\alpha_{t-1} = \bar\alpha_t$ and $\beta_t + \alpha_t = 1$. In front of $\hat\varepsilon$ stands
# $-\frac{\sqrt{\bar\alpha_{t-1}}\,\beta_t}{1-\bar\alpha_t}\cdot\frac{\sqrt{1-\bar\alpha_t}}{\sqrt{\bar\alpha_t}} = -\frac{1}{\sqrt{\alpha_t}}\cdot\frac{1-\alpha_t}{\sqrt{1-\bar\alpha_t}}$.
# That is (3.3). A computer algebra system agrees:

# %% tags=["hide-input"]
import sympy as sp

a_t, abar_s, x_sym, eps_sym = sp.symbols(
    "alpha_t alphabar_s x epsilon", positive=True
)
abar_t = a_t * abar_s  # ᾱ_t = α_t ᾱ_{t−1}
x0_hat = (x_sym - sp.sqrt(1 - abar_t) * eps_sym) / sp.sqrt(abar_t)
mu_tilde = sp.sqrt(abar_s) * (1 - a_t) / (1 - abar_t) * x0_hat
mu_tilde += sp.sqrt(a_t) * (1 - abar_s) / (1 - abar_t) * x_sym
printed = (x_sym - (1 - a_t) / sp.sqrt(1 - abar_t) * eps_sym) / sp.sqrt(a_t)
print(
    "posterior mean minus Algorithm 2's mean:", sp.simplify(mu_tilde - printed)
)
assert sp.simplify(mu_tilde - printed) == 0

# %% [markdown]
# The deviation $\sigma_t$ is a choice between $\sqrt{\tilde\beta_t}$ and $\sqrt{\beta_t}$ (chapter 02 showed for which data each is exact; chapter
# 06 learns it). And $z=0$ at the last step: $q(x_0\mid x_1,x_0)$ is a point, $\tilde\beta_1 = 0$. Adding
# noise there is one of the oldest bugs in the field, a film of grain over perfect images.
#
# :::{admonition} Mind the slide
# :class: warning
# One deck prints (3.3) with $\sqrt{1-\alpha_t}$ under the noise instead of $\sqrt{1-\bar\alpha_t}$. One bar is missing, and the samples still look
# clean, which makes it worse: chapter 02 runs it.
# :::
#
# ### Three things a network may say
#
# $\varepsilon$, $x_0$, or a mixture of them, the *velocity* $v = \sqrt{\bar\alpha_t}\,\varepsilon - \sqrt{1-\bar\alpha_t}\,x_0$ of Salimans & Ho.
# With $\varphi = \arccos\sqrt{\bar\alpha_t}$, the pair $(x_t, v)$ is the pair $(x_0, \varepsilon)$ rotated clockwise by $\varphi$; rotating back gives
#
# $$
# \hat x_0 = \sqrt{\bar\alpha_t}\;x_t - \sqrt{1-\bar\alpha_t}\;\hat v,
# \qquad
# \hat\varepsilon = \sqrt{1-\bar\alpha_t}\;x_t + \sqrt{\bar\alpha_t}\;\hat v .
# \tag{3.6}
# $$
#
# Why bother? Near $t = T$ equation (3.4) divides by $\sqrt{\bar\alpha_T}\approx 0$: a small error in $\hat\varepsilon$ becomes a huge
# error in $\hat x_0$. Near $t=0$ equation (3.5) has the same trouble for an $x_0$-network. Equation (3.6) divides by nothing.
# Our image models predict $v$; the rest of the library never notices, because a `Denoiser` always
# answers with $\hat x_0$.

# %%
g = torch.Generator().manual_seed(0)
x0, eps = torch.randn(2, 6, 3, generator=g, dtype=torch.float64)
T = mnist_process.T
print("amplification of an output error of size 1 in x̂_0")
for t in (1, T // 2, T - 1):
    scale, std = mnist_process.kernel(t, x0)
    x_t = mnist_process.q_sample(x0, t, eps)
    for p in (EPS, X0, V):  # each says the same pair (x_0, ε) in its own words
        back = p.split(p.target(x0, eps, scale, std), x_t, scale, std)
        assert torch.allclose(back[0], x0, atol=1e-9) and torch.allclose(
            back[1], eps, atol=1e-9
        )
    print(
        f"t = {t:4d}:  ε-network {std / scale:9.3f}   x_0-network 1   v-network {std:.3f}"
    )

# %% [markdown]
# ### One step, many samplers
#
# Algorithm 2 is one member of a family. Ask for *any* update that draws $x_s$, $s<t$, from a guess $\hat x_0$ and leaves the
# marginals right. Write $x_s = \sqrt{\bar\alpha_s}\,\hat x_0 + b\,\hat\varepsilon + \sigma z$. If the guess were perfect, $\hat\varepsilon$ and $z$ would be
# independent standard normals and the noise in $x_s$ would have variance $b^2+\sigma^2$, which must be $1-\bar\alpha_s$. So
# $b = \sqrt{1-\bar\alpha_s-\sigma^2}$ for whatever $\sigma$ we like. Measure $\sigma$ in units of the posterior's:
# $\sigma^2=\eta^2\tilde\beta_{t\to s}$ with $\tilde\beta_{t\to s} = \frac{1-\bar\alpha_s}{1-\bar\alpha_t}\left(1-\frac{\bar\alpha_t}{\bar\alpha_s}\right)$, and
#
# $$
# x_s = \sqrt{\bar\alpha_s}\;\hat x_0 + \sqrt{1-\bar\alpha_s-\eta^2\tilde\beta_{t\to s}}\;\hat\varepsilon + \eta\,\sigma_{t\to s}\,z
# \tag{3.7}
# $$
#
# with $z=0$ when $s=0$, and $\sigma_{t\to s}^2=\tilde\beta_{t\to s}$ for $\eta<1$; at $\eta=1$ other variances are allowed, see [chapter 6](06_iddpm.ipynb).
#
# - $\eta = 1$, $s=t-1$, $\sigma_{t\to s}^2 = \tilde\beta_{t\to s}$ is Algorithm 2. *Check:*
#
#   $$
#   1-\bar\alpha_s-\tilde\beta_{t\to s} = (1-\bar\alpha_s)\left[1-\frac{1-\bar\alpha_t/\bar\alpha_s}{1-\bar\alpha_t}\right] = \frac{(1-\bar\alpha_s)^2}{1-\bar\alpha_t}\cdot\frac{\bar\alpha_t}{\bar\alpha_s},
#   $$
#
#   so with (3.5) the factor in front of $x_t$ is $\sqrt{\bar\alpha_t/\bar\alpha_s}\,\frac{1-\bar\alpha_s}{1-\bar\alpha_t}$: the posterior's.
# - $\eta = 1$ with $s<t-1$ is *strided* ancestral sampling: the same posterior, between times further apart.
# - $\eta = 0$ is DDIM: no fresh noise after the start. In the notation of that paper, whose $\alpha$ is our $\bar\alpha$,
#
# $$
# x_s = \sqrt{\bar\alpha_s}\,\underbrace{\left(\frac{x_t-\sqrt{1-\bar\alpha_t}\,\hat\varepsilon}{\sqrt{\bar\alpha_t}}\right)}_{\text{predicted }x_0}
# + \underbrace{\sqrt{1-\bar\alpha_s-\sigma^2}\;\hat\varepsilon}_{\text{direction to }x_t} + \underbrace{\sigma z}_{\text{noise}} .
# \tag{3.8}
# $$
#
# A deterministic chain can also be walked *up*: solve (3.8) with $\sigma=0$ for $x_t$, where the noise is the one that the
# denoiser finds in the very $x_t$ we are looking for,
#
# $$
# x_t = \sqrt{\frac{\bar\alpha_t}{\bar\alpha_s}}\left(x_s-\sqrt{1-\bar\alpha_s}\;\hat\varepsilon(x_t,t)\right)+\sqrt{1-\bar\alpha_t}\;\hat\varepsilon(x_t,t),
# \tag{3.9}
# $$
#
# an implicit equation; a few fixed-point rounds solve it (`ddim_invert`). Chapter 07 is about what this
# is good for. Here is all of it in one table of the library's `step`:
#
# | you want | `times` | `eta` | `var_mix` |
# |---|---|---|---|
# | Algorithm 2, $\sigma_t^2=\tilde\beta_t$ | all | 1 | 0 |
# | Algorithm 2, $\sigma_t^2=\beta_t$ | all | 1 | 1 |
# | strided ancestral | `uniform_times(T, 50)` | 1 | 0 |
# | DDIM | `uniform_times(T, 50)` | 0 | – |
#
# ## From scratch, then from the library
#
# Both algorithms in ten lines, with nothing but torch. We take the toy network from above.

# %%
alpha, alpha_bar = process.alpha.float(), process.alpha_bar.float()
eps_theta = learned.net  # (x_t, t) -> ε̂


def loss_from_scratch(x0, t, eps):  # Algorithm 1, line 5, one time per sample
    a = alpha_bar[t][:, None]
    x_t = a.sqrt() * x0 + (1 - a).sqrt() * eps
    return ((eps - eps_theta(x_t, t)) ** 2).mean(1)


@torch.no_grad()
def sample_from_scratch(x, z):  # Algorithm 2 with σ_t² = β̃_t
    for t in range(process.T, 0, -1):
        eps_hat = eps_theta(x, torch.full((len(x),), t))
        x = (x - (1 - alpha[t]) / (1 - alpha_bar[t]).sqrt() * eps_hat) / alpha[
            t
        ].sqrt()
        if t > 1:
            x = x + process.beta_tilde[t].float().sqrt() * z[t]
    return x


# %% [markdown]
# The library must say the same, number for number. Its random draws come from a generator, so we hand the same
# draws to both.

# %%
from ddpmlib.losses import l_simple

g = torch.Generator().manual_seed(7)
x0, eps = points[:512], torch.randn(512, 2, generator=g)
t = torch.randint(1, process.T + 1, (512,), generator=g)
loss_gap = (
    (loss_from_scratch(x0, t, eps) - l_simple(learned, x0, t, eps))
    .abs()
    .max()
    .item()
)

x_T = torch.randn(512, 2, generator=g)
g1, g2 = torch.Generator().manual_seed(8), torch.Generator().manual_seed(8)
z = {t: torch.randn(512, 2, generator=g1) for t in range(process.T, 1, -1)}
sample_gap = (
    (sample_from_scratch(x_T, z) - draw(learned, process, x_T, generator=g2))
    .abs()
    .max()
    .item()
)
assert loss_gap < 1e-5 and sample_gap < 1e-2
print("the same loss and the same samples, up to float32 rounding")

# %% [markdown]
# (In float64, `tests/test_textbook.py` holds the engine to the printed algorithms to twelve digits. In float32 a
# hundred steps amplify the last bit a little.)
#
# ## The network
#
# For points a perceptron will do. For images the function $x_t\mapsto\hat v$ must look at a pixel's
# neighbourhood *and* at the whole, at every noise level: a **U-Net** goes down through coarser and coarser
# grids, comes back up, and copies the fine detail across by *skip connections*. Ours has per level one residual block down and two up, and three ingredients worth writing out.
#
# **How the time enters.** A number $t$ becomes a vector of sines and cosines whose periods grow geometrically, so that both
# neighbours and far ends of the chain are easy to tell apart,
#
# $$
# \operatorname{emb}(t)_k = \sin(\omega_k t),\quad \operatorname{emb}(t)_{d/2+k} = \cos(\omega_k t),
# \quad \omega_k = 10^{-4k/(d/2)}
# \tag{3.10}
# $$
#
# for $k = 0,\dots,\frac d2-1$. The vector then passes a small perceptron, where the class label's vector is added. In each block it sets scale and shift of the
# normalised features (AdaGN; elsewhere called FiLM). Simply *adding* it is the older way and the special case of zero scale:
#
# $$
# \operatorname{AdaGN}(h, e) = \big(1 + a(e)\big)\odot \operatorname{GroupNorm}(h) + b(e)
# \tag{3.11}
# $$
#
# with $a$ and $b$ linear in $e$.
#
# **Self-attention** at the coarsest level, so that one end of a stroke can know about the other. Each pixel asks a question $q$, offers a key $k$
# and a value $v$, all linear in its features; with $d$ features per head and the pixels as rows of $Q, K, V$,
#
# $$
# \operatorname{Attention}(Q,K,V) = \operatorname{softmax}\!\left(\frac{QK^\top}{\sqrt d}\right)V .
# \tag{3.12}
# $$
#
# Here is (3.12) by hand against the layer in use, with all shapes.

# %%
from ddpmlib.models import UNet
from ddpmlib.models.embedding import sinusoidal
from ddpmlib.models.unet import SelfAttention
from ddpmlib.zoo import RECIPES

_ = torch.manual_seed(0)
layer = SelfAttention(features=32, heads=2, groups=8)
_ = torch.nn.init.normal_(
    layer.out.weight, std=0.1
)  # it starts at zero, to be harmless
x = torch.randn(5, 32, 4, 4)  # batch, features, height, width
with torch.no_grad():
    qkv = layer.qkv(layer.norm(x)).reshape(
        5, 3, 2, 16, 16
    )  # batch, q|k|v, heads, features, pixels
    Q, K, W = (
        m.transpose(-1, -2) for m in qkv.unbind(1)
    )  # each: batch, heads, pixels, features
    weights = torch.softmax(
        Q @ K.transpose(-1, -2) / 16**0.5, dim=-1
    )  # batch, heads, pixels, pixels
    by_hand = x + layer.out(
        (weights @ W).transpose(-1, -2).reshape(5, 32, 4, 4)
    )
    assert torch.allclose(by_hand, layer(x), atol=1e-5)
print(
    "Q",
    tuple(Q.shape),
    "weights",
    tuple(weights.shape),
    "rows sum to one:",
    bool(torch.allclose(weights.sum(-1), torch.ones(()))),
)

net = UNet(RECIPES["digits"].net)
print(
    f"digits U-Net: {sum(p.numel() for p in net.parameters()):,} weights,",
    f"{tuple(net(torch.randn(2, 1, 8, 8), torch.tensor([1, 1000])).shape)} out",
)

# %% mystnb={"image": {"alt": "Heat map of the sinusoidal embedding: 64 features across, time 0 to 1000 down. Fast stripes at the left of each half, slow ones at the right."}}
fig, ax = plt.subplots(figsize=(5, 2), dpi=70)
image = ax.imshow(
    sinusoidal(torch.arange(0, 1001, 10), 64),
    aspect="auto",
    cmap="RdBu",
    vmin=-1,
    vmax=1,
    extent=(0, 64, 1000, 0),
)
ax.set(xlabel="feature k (sines, then cosines)", ylabel="time t")
ax.grid(visible=False)
_ = fig.colorbar(image, label="emb(t)")

# %% [markdown]
# *What to see:* every row is a different pattern: fast stripes tell $t=500$ from $t=501$, slow ones tell 100 from 900.
#
# ## Train it here
#
# Scikit-learn ships 1,797 real scans of handwritten digits, 8×8 pixels. One recipe holds everything that is decided before training:

# %%
recipe = RECIPES["digits"]
for field in ("data", "schedule", "T", "predicts", "label_dropout"):
    print(f"{field:14}", getattr(recipe, field))
for field in ("steps", "batch_size", "lr", "warmup", "ema", "clip", "seed"):
    print(f"{field:14}", getattr(recipe.settings, field))

# %% [markdown]
# `Trainer` keeps what changes (weights, their running average, optimiser, random numbers); `fit` is a generator, so
# that this `for` loop, and not the library, decides what to log.

# %% tags=["nbval-ignore-output"]
import time

digits = data.load("digits")
trainer = Trainer(
    recipe.build(),
    recipe.loss(),
    digits.x_train,
    digits.y_train,
    recipe.settings,
    device="cpu",
)
started, losses = time.perf_counter(), []
for progress in fit(trainer):
    losses.append(progress.loss.item())
seconds = time.perf_counter() - started
print(
    f"{progress.step} updates in {seconds:.0f} s, {progress.step * 64 / seconds:.0f} images/s"
)
print(f"mean loss of the last 100 updates: {sum(losses[-100:]) / 100:.3f}")

# %% mystnb={"image": {"alt": "Training loss over steps on logarithmic axes: it falls from about one to about a quarter, noisy, with a smoothed line through it."}}
fig, ax = plt.subplots(figsize=(6, 2.6))
smooth = torch.tensor(losses).unfold(0, 25, 1).mean(1)
ax.plot(
    range(1, len(losses) + 1),
    losses,
    color=plots.SKY,
    lw=0.6,
    label="each update",
)
ax.plot(
    range(25, len(losses) + 1), smooth, color=plots.BLUE, label="mean of 25"
)
ax.set(xlabel="update", ylabel="loss per pixel", xscale="log", yscale="log")
_ = ax.legend()
assert smooth[-1] < 0.35 * losses[0]

# %% [markdown]
# *What to see:* a steep fall, then a long flat tail that hides most of the visible progress, because most of the loss is the floor
# of noise that nobody can guess.
#
# **Which weights draw?** A running average of them, for each batch pushes the last ones somewhere else:
# $\bar\theta \leftarrow d\,\bar\theta + (1-d)\,\theta$ after every update, from $\bar\theta=\theta$ at the start. A *fixed* $d$ is made
# for long runs: after $N$ updates the random weights of the start still count $d^N$. `Average` therefore lets $d$ grow, as
# TensorFlow's moving average does: $d_n=\min\big(d,\,\frac{1+n}{10+n}\big)$ after $n$ earlier updates. Here a fixed and a growing decay
# average the same 400 updates on the ring, with the $d = 0.9995$ of the recipe `mnist`.

# %% tags=["nbval-ignore-output"]
from ddpmlib.training import Average

_ = torch.manual_seed(0)
short = Trainer(
    Denoiser(MLP(dim=2, width=64, depth=2), toy.model.process, EPS),
    diffusion_loss,
    points,
    None,
    Settings(steps=400, batch_size=256, lr=1e-2, ema=0.9995),
    device="cpu",
)
fixed = Average(short.model, 0.9995)
for _ in fit(short):
    fixed.update(short.model, n=10**9)  # so late, d_n is d

x_T = torch.randn(600, 2, generator=torch.Generator().manual_seed(1))
hits = {}
for which, net in (
    ("last weights", short.model.eval()),
    ("fixed decay", fixed.module.eval()),
    ("growing decay", short.averaged),
):
    x = draw(net, net.process, x_T, generator=torch.Generator().manual_seed(2))
    close = torch.cdist(x, centres).min(dim=1).values < 3 * 0.2
    hits[which] = close.float().mean().item()
    print(f"{which:14} {hits[which]:.0%} of the samples lie on a cluster")
start = 0.9995**400
print(f"share of the first weights under the fixed decay: {start:.0%}")
assert 0.81 < start < 0.83
assert hits["fixed decay"] < 0.05 < 0.8 < hits["growing decay"]
assert hits["growing decay"] > hits["last weights"] - 0.02

# %% [markdown]
# Under the fixed decay four fifths of the average are still the random weights of the start, and fewer than 5 % of its samples lie
# on a cluster; under the growing one more than 80 % do, and no fewer than with the last weights, but for 2 %. What averaging buys
# over the last weights is not measured here. While $d_n$ grows (to update 17,990 for this $d$) the start is forgotten, and what is
# averaged is a tenth of the run old on average.
#
# Now the film of the digits: two digits of every class, the state $x_t$ above, the prediction $\hat x_0$ below.

# %%
denoiser = trainer.averaged
process = denoiser.process
y = torch.arange(10).repeat(2)
x_T = torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(4))
states = list(
    sample(
        denoiser,
        process,
        x_T,
        uniform_times(1000, 28),
        eta=1.0,
        y=y,
        generator=torch.Generator().manual_seed(5),
    )
)
frames = [
    torch.cat([s.x, torch.zeros_like(s.x) if s.x0 is None else s.x0])
    for s in states
]
plots.film(
    frames,
    alt="Film of 28 denoising steps. Top two rows: noise turns into the digits 0 to 9. Bottom two rows: the prediction, blurry blobs that sharpen into the same digits.",
    ncol=10,
    width=400,
)

# %% [markdown]
# *What to see:* the prediction starts as the blurred average of its class, commits to one shape later, and then only polishes; the state is the
# prediction plus the noise that is still to be taken away.
#
# A picture can flatter. Let a classifier that was trained on the real scans only (it is in `data/checkpoints`, its accuracy on
# unseen scans is on its card) read 300 new samples and compare with what we asked for.

# %% tags=["nbval-ignore-output"]
from ddpmlib.evaluation import features, metrics

classifier, classifier_card = zoo.load("digits-classifier", device="cpu")
y = torch.arange(10).repeat(30)
x_T = torch.randn(300, 1, 8, 8, generator=torch.Generator().manual_seed(6))
samples = draw(
    denoiser,
    process,
    x_T,
    uniform_times(1000, 20),
    eta=1.0,
    y=y,
    generator=torch.Generator().manual_seed(7),
)
agreement = metrics.class_agreement(features.extract(classifier, samples)[1], y)
print(
    f"the classifier on unseen scans: {classifier_card.metrics[0]['value']:.1%} of {classifier_card.metrics[0]['n']}"
)
print(
    f"the classifier on our samples:  {agreement:.1%} of {len(y)} are what was asked for"
)
assert agreement > 0.9

# %% [markdown]
# ## The same code at scale
#
# The digits at the top came from the recipe `mnist`: the same U-Net on 2×2 pixel patches of 28×28 images. Everything about that
# run is on the card beside the weights, and this cell only reads it.

# %% mystnb={"image": {"alt": "Training loss of the MNIST model over steps on a logarithmic scale, falling quickly at first and then slowly until the end of training."}}
how = mnist_card.training
print("command   ", how["command"])
if "init" in how:
    print("start      an earlier checkpoint,", how["init"][:20] + "…)")
print("hardware  ", how["hardware"])
print(
    f"time       {how['seconds'] / 60:.0f} min for {how['images_seen']:,} images"
)
print(
    f"weights    {mnist_card.parameters:,}, SHA-256 {mnist_card.sha256[:12]}…"
)
for m in mnist_card.metrics:
    if m["metric"] != "samples" or "guidance" in m:
        continue
    print(
        f"measured   {m['n']:,} samples, {m['steps']} steps, η = {m['eta']:g}: "
        f"class agreement {m['class_agreement']:.1%},\n"
        f"           Fréchet distance {m['frechet']:.2f} (real test images: {m['frechet_floor']:.2f})"
    )
steps, loss = zip(*mnist_card.loss, strict=True)
_ = plots.curve({"step": steps, "loss": loss})

# %% [markdown]
# The Fréchet distance compares mean and covariance of the features of our own MNIST classifier (`mnist-classifier`, its
# penultimate layer) between samples and the 60,000 training images. It depends on those features, so it compares our own models with
# each other and with the *floor*: the same distance for as many real test images. Chapter 08 derives it.
#
# To train it further: `ddpmlib train mnist --init mnist`; from the start: `ddpmlib train mnist`; to go on after an interruption: `ddpmlib train mnist --resume`.

# %% [markdown]
# ## One knob turned
#
# How many network calls does a sample need, and should its steps draw fresh noise? Three seeds for each cell, 200 digits each.

# %% tags=["nbval-ignore-output"]
calls = (2, 5, 10)
real, _ = features.extract(classifier, digits.x_train)
y = torch.arange(10).repeat(20)
table = {}
for eta in (0.0, 1.0):
    for n in calls:
        cell = []
        for seed in range(3):
            g = torch.Generator().manual_seed(seed)
            x_T = torch.randn(200, 1, 8, 8, generator=g)
            x = draw(
                denoiser,
                process,
                x_T,
                uniform_times(1000, n),
                eta=eta,
                y=y,
                generator=g,
            )
            h, logits = features.extract(classifier, x)
            cell.append(
                (
                    metrics.class_agreement(logits, y),
                    metrics.frechet_distance(h, real),
                )
            )
        table[eta, n] = torch.tensor(cell)
print("calls    DDIM (η = 0)                 ancestral (η = 1)")
print("         agreement     Fréchet        agreement     Fréchet")
for n in calls:
    parts = []
    for eta in (0.0, 1.0):
        (a, f), (da, df) = table[eta, n].mean(0), table[eta, n].std(0)
        parts.append(f"{a:.3f} ± {da:.3f}  {f:5.1f} ± {df:3.1f}")
    print(f"{n:5d}    " + "    ".join(parts))

# %% mystnb={"image": {"alt": "Fréchet distance against number of network calls, 2 to 10, for DDIM and ancestral sampling with error bars. Both fall; the ancestral curve ends lower."}}
fig, ax = plt.subplots(figsize=(6, 2.8))
for eta, label, colour in (
    (0.0, "DDIM, η = 0", plots.BLUE),
    (1.0, "ancestral, η = 1", plots.ORANGE),
):
    mean = [table[eta, n][:, 1].mean() for n in calls]
    spread = [table[eta, n][:, 1].std() for n in calls]
    ax.errorbar(
        calls, mean, spread, marker="o", capsize=3, label=label, color=colour
    )
ax.set(
    xlabel="network calls per sample",
    ylabel="Fréchet distance",
    xscale="log",
    xticks=calls,
    xticklabels=calls,
)
ax.minorticks_off()
_ = ax.legend()

# %% [markdown]
# *What to see:* two columns, two stories. **Class agreement is highest with the fewest calls**: two calls give something close to the average three, and nobody
# misreads an average three. The Fréchet distance sees what is missing, the variety. Never judge by one number. And on this little model fresh noise in each step helps: ancestral steps end
# nearer to the data than DDIM, because fresh noise hides the errors that a briefly trained network made before; a deterministic chain carries them to the end. (Published results for large, long-trained
# models say the opposite below about a hundred calls. Chapter 09 measures ours at scale.)
#
# ## What goes wrong
#
# Chapter 02 ran a misprint of the lecture slides. Here is a bug from the other side, training: one letter, `torch.rand` (uniform in [0, 1]) where `torch.randn`
# belongs. Same network, same data, same budget; only the noise of line 4 of Algorithm 1 differs.


# %% mystnb={"image": {"alt": "Left: two training losses, the one with the bug falls far below the correct one. Right: scatter plots of samples; the correct ones lie on the ring of six clusters, those of the bug are scattered off it."}}
def buggy_loss(model, x, y, generator):
    t = torch.randint(1, model.process.T + 1, (len(x),), generator=generator)
    eps = torch.rand(x.shape, generator=generator)  # the bug
    return l_simple(model, x, t, eps).mean()


_ = torch.manual_seed(0)
broken = Trainer(
    Denoiser(MLP(dim=2, width=64, depth=2), toy.model.process, EPS),
    buggy_loss,
    points,
    None,
    toy.settings,
    device="cpu",
)
losses = {
    "correct": toy_losses,
    "rand for randn": [p.loss.item() for p in fit(broken)],
}
curves = {
    name: torch.tensor(loss).unfold(0, 50, 50).mean(1)
    for name, loss in losses.items()
}
x_T = torch.randn(600, 2, generator=torch.Generator().manual_seed(1))
drawn = {
    name: draw(
        d, toy.model.process, x_T, generator=torch.Generator().manual_seed(2)
    )
    for name, d in (("correct", learned), ("rand for randn", broken.averaged))
}

fig, axes = plt.subplots(1, 3, figsize=(8, 2.7))
for name, curve in curves.items():
    axes[0].plot(range(50, 1501, 50), curve, label=name)
axes[0].set(xlabel="update", ylabel="loss", ylim=(0, 1))
axes[0].legend()
share = {}
for ax, (name, x) in zip(axes[1:], drawn.items(), strict=True):
    share[name] = (
        (torch.cdist(x, centres).min(dim=1).values < 3 * 0.2)
        .float()
        .mean()
        .item()
    )
    plots.scatter(x, ax, reach=4).set_title(name)
assert curves["rand for randn"][-1] < 0.5 * curves["correct"][-1]
assert share["correct"] > 0.9 and share["rand for randn"] < 0.5

# %% [markdown]
# *What to see:* the broken run has by far the *better* loss, and its samples miss the ring. Uniform noise has mean ½ and variance 1/12, so less of it
# is unknown, and the loss floor is lower; but sampling starts from, and adds, normal noise, which this network has never seen. **A loss can only be compared with its
# floor**, never with a colleague's.
#
# The test that catches it: `test_an_untrained_network_loses_exactly_one` in `tests/derivations/test_ch03.py`. A network that answers 0 must lose
# $\mathbb E\varepsilon^2 = 1$ per pixel (exercise 3.1); with `rand` it loses ⅓.

# %% [markdown]
# ## Exercises
#
# Write your answer into the cell below each question and take the `#` off its last line: the check
# says yes, or gives a hint. ★ asks for a derivation, ★★ for code, ★★★ for a small project of both.
# Solutions are folded.
#
# ### ★ Exercise 3.1
#
# Our U-Net starts with its last layer at zero, so before the first update it answers 0 to everything. Which $L_{\text{simple}}$ per pixel does
# an *ε-network* have at that moment, and which an *x₀-network* on data with $\mathbb E\,x_0^2 = 0.7$ per pixel? Give both numbers.
#
# :::{dropdown} Hint
# Put 0 for the network's answer in (3.2), once with target $\varepsilon$ and once with target $x_0$.
# :::

# %%
from ddpmlib.teaching import exercises

answer = ...  # (loss of the ε-network, loss of the x₀-network)

# exercises.check("3.1", answer)

# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
# Solution of exercise 3.1: E‖ε‖² per pixel is the variance of a standard normal; E x_0² is given.
exercises.check("3.1", (1.0, 0.7))

# %% [markdown]
# ### ★★ Exercise 3.2
#
# Write `eps_from_v(v, x_t, alpha_bar)`, and then `v_from_eps(eps, x_t, alpha_bar)` that undoes it, for numbers or tensors.
#
# :::{dropdown} Hint
# The first is half of (3.6). Solve it for $\hat v$; what do you divide by, and when is that dangerous?
# :::

# %%
answer = ...  # (eps_from_v, v_from_eps)

# exercises.check("3.2", answer)


# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
# Solution of exercise 3.2
def eps_from_v(v, x_t, alpha_bar):
    return (1 - alpha_bar) ** 0.5 * x_t + alpha_bar**0.5 * v


def v_from_eps(eps, x_t, alpha_bar):  # divides by √ᾱ_t: dangerous near t = T
    return (eps - (1 - alpha_bar) ** 0.5 * x_t) / alpha_bar**0.5


exercises.check("3.2", (eps_from_v, v_from_eps))

# %% [markdown]
# ### ★★ Exercise 3.3
#
# Data $x_0\sim\mathcal N(0, c^2)$, a single number. Derive the loss floor $\mathbb E\operatorname{Var}(\varepsilon\mid x_t)$ as a function `floor(alpha_bar, c)`.
#
# :::{dropdown} Hint
# $(\varepsilon, x_t)$ is jointly Gaussian: $\operatorname{Var}(\varepsilon\mid x_t) = 1 - \operatorname{Cov}(\varepsilon,x_t)^2/\operatorname{Var}(x_t)$.
# :::

# %%
answer = ...  # a function of (alpha_bar, c)

# exercises.check("3.3", answer)


# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
# Solution of exercise 3.3: Cov(ε, x_t) = √(1−ᾱ), Var(x_t) = ᾱ c² + 1 − ᾱ
def floor(alpha_bar, c):
    return 1 - (1 - alpha_bar) / (alpha_bar * c**2 + 1 - alpha_bar)


exercises.check("3.3", floor)

# %% [markdown]
# ### ★★★ Exercise 3.4
#
# Write your own DDIM: `ddim(eps_net, x, alpha_bar, times)` with `eps_net(x_t, t)`, the table `alpha_bar` and falling `times` that end at 0.
# The check runs it against the library on a network you have not seen.
#
# :::{dropdown} Hint
# One line of (3.8) with $\sigma=0$ per pair of neighbouring times. The table holds $\bar\alpha_0 = 1$, so the last step needs no special case.
# :::

# %%
answer = ...  # a function (eps_net, x, alpha_bar, times) -> x_0

# exercises.check("3.4", answer)


# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
# Solution of exercise 3.4
def ddim(eps_net, x, alpha_bar, times):
    for t, s in zip(times[:-1], times[1:], strict=True):
        eps = eps_net(x, t)
        x0 = (x - (1 - alpha_bar[t]).sqrt() * eps) / alpha_bar[t].sqrt()
        x = alpha_bar[s].sqrt() * x0 + (1 - alpha_bar[s]).sqrt() * eps
    return x


exercises.check("3.4", ddim)

# %% [markdown]
# ## Recap
#
# 1. The reverse chain needs one unknown function, $\mathbb E[x_0\mid x_t]$; regression on the added noise learns it, and the loss ends at a floor above zero.
# 2. Algorithm 1 is: draw $x_0, t, \varepsilon$; descend on $\lVert\varepsilon-\varepsilon_\theta(x_t,t)\rVert^2$. Algorithm 2 is the posterior mean at the guessed $\hat x_0$, plus noise, except at the last step.
# 3. $\varepsilon$, $x_0$ and $v$ are three names for one guess; $v$ is the one that never divides by zero.
# 4. One step function with $\eta$ and any pair of times holds ancestral, strided and DDIM sampling.
# 5. Judge samples by numbers: class agreement and a Fréchet distance, each with its sample size and its floor.
#
# The equations of this chapter, the functions that implement them, the tests that pin them:

# %% mystnb={"code_prompt_show": "Equations, functions, tests", "code_prompt_hide": "Hide the table"} tags=["hide-cell"]
from ddpmlib import equations

equations.table("03")

# %% [markdown]
# ## Further reading
#
# - Ho, Jain & Abbeel (2020), *Denoising diffusion probabilistic models* {cite}`ho2020denoising`: sections 3.2–3.4 and the appendix on the
#   network; compare their (11) with our (3.3).
# - Song, Meng & Ermon (2021), *Denoising diffusion implicit models* {cite}`song2021denoising`: section 4, where (3.7) and (3.8) come from.
# - Salimans & Ho (2022), *Progressive distillation* {cite}`salimans2022progressive`: appendix D for $v$.
# - Nichol & Dhariwal (2021), *Improved DDPM* {cite}`nichol2021improved`: AdaGN, the cosine schedule, strided sampling.
