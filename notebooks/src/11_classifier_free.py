# %% [markdown]
# # 11. Classifier-free guidance: the price of fidelity
#
# [![Open in Colab](../book/_static/colab.svg)](https://colab.research.google.com/github/ddpm-book/ddpm-book/blob/main/notebooks/11_classifier_free.ipynb)
#
# A network that was told the class of each digit, except now and then, can be asked twice at each step: once with the class and once without. Going *past* the first answer, away from the second, gives samples that nobody
# mistakes, at a price. This chapter derives the rule, shows what it samples and what it does not, and measures the price.

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

# %% mystnb={"image": {"alt": "Four rows of ten MNIST digits, one column per class from 0 to 9, rows for guidance weights 0, 1, 4 and 8. Down the rows the digits become bolder, cleaner and more alike; each column keeps roughly the pose of its noise."}}
import matplotlib.pyplot as plt
import torch
from ddpmlib import plots, zoo
from ddpmlib.guidance import ClassifierFree
from ddpmlib.samplers import sample, uniform_times


def seeded(seed):
    return torch.Generator().manual_seed(seed)


mnist, card = zoo.load("mnist", device="cpu")
process, T = mnist.process, mnist.process.T
weights, ten = (0.0, 1.0, 4.0, 8.0), torch.arange(10)
times = uniform_times(T, 16)
x_T = torch.randn(10, *card.image_shape, generator=seeded(2))
chains = {
    w: list(
        sample(ClassifierFree(mnist, w), process, x_T, times, eta=0.0, y=ten)
    )
    for w in weights
}
fig, ax = plt.subplots(figsize=(5.3, 2.2), dpi=62)
_ = plots.grid(torch.cat([c[-1].x for c in chains.values()]), ax=ax)
side = card.image_shape[1] + 1
for row, w in enumerate(weights):
    ax.text(-4, side * (row + 0.5), f"w = {w:g}", ha="right", va="center")

# %% [markdown]
# *What to see:* one network, one noise image per column, sixteen DDIM steps. From top to bottom the only change is one number, $w$. The first row is the plain conditional model. Further down the strokes
# become bold and the class beyond doubt, and something is lost that a single row does not show: the digits of one class begin to look alike. Fidelity is bought with diversity, and $w$ is the price.
#
# ## Objectives
#
# After this chapter you can
#
# - derive classifier-free guidance from Bayes' rule, in $\varepsilon$, $x_0$ and $v$, and translate between its two conventions without an off-by-one;
# - say why dropping labels makes one network learn both predictions, and what happens if one forgets to;
# - compute exactly what a guided chain samples for Gaussians, and why that is *not* the sharpened distribution that the formula seems to promise;
# - explain why guided images saturate, what the two thresholds do about it, and on which data which of them fails;
# - read the fidelity–diversity curve, and choose $w$ and the interval of times to use it in.
#
# ## The idea in a picture
#
# Three classes in the plane, each a Gaussian, close enough to overlap. Their exact predictions are known: $\mathbb E[x_0\mid x_t, y]$ with the class, $\mathbb E[x_0\mid x_t]$ without. Classifier-free guidance goes from the second to the first *and then further in the same direction*, $w$ times as far again:

# %% mystnb={"image": {"alt": "Four scatter plots of three overlapping clouds of points in three colours. With w = minus one the colours are mixed; with 0 each cloud has its own place; with 1 and 4 the clouds shrink and move outwards, past the crosses that mark the class means."}}
from ddpmlib.denoiser import oracle
from ddpmlib.samplers import draw

angle = 2 * torch.pi * (torch.arange(3) / 3 + 0.25)
centres = 0.6 * torch.stack([angle.cos(), angle.sin()], 1)
plane = oracle.Mixture(
    process, torch.ones(3), centres, torch.full((3,), 0.45), torch.arange(3)
)
labels = torch.arange(3).repeat(300)
noise = torch.randn(900, 2, generator=seeded(0))
fig, axes = plt.subplots(1, 4, figsize=(7.5, 2.3), sharey=True, dpi=60)
distance, spread = {}, {}
for ax, w in zip(axes, (-1.0, 0.0, 1.0, 4.0), strict=True):
    x = draw(
        ClassifierFree(plane, w),
        process,
        noise,
        uniform_times(T, 50),
        eta=1.0,
        y=labels,
        generator=seeded(1),
    )
    for k in range(3):
        own = x[labels == k]
        plots.scatter(own[:110], ax, reach=1.8, color=plots.COLOURS[k], s=5)
        ax.plot(*centres[k], "k+", ms=9)
    distance[w] = float(x[labels == 0].mean(0).norm())
    spread[w] = float(x[labels == 0].std(0).mean())
    ax.set_title(f"w = {w:g}")
    ax.set_ylabel("$x_2$" if w < 0 else "")
print("   w  class 0: distance of its mean from the middle   spread")
for w in distance:
    print(f"{w:4g} {distance[w]:32.2f} {spread[w]:24.2f}")
print(f"data {centres[0].norm():32.2f} {0.45:24.2f}")
assert abs(distance[0.0] - 0.6) < 0.06 and distance[-1.0] < 0.15
assert distance[4.0] > distance[1.0] > distance[0.0] + 0.1
assert spread[4.0] < spread[1.0] < spread[0.0] - 0.05

# %% [markdown]
# *What to see:* $w=-1$ is the unconditional model (colours mixed, the label is not even looked at), $w=0$ the conditional one, with the clouds on their crosses. With larger $w$ the clouds no longer overlap, shrink, and **move away from the other classes, past the mean of their own**. Few data lie where the clouds of $w=4$ lie.
#
# On a line we can see the whole density. Class 1 has two bumps, one beside the other class and one far from it. The formula of guidance is the score of $p(x\mid y)^{1+w}/p(x)^{w}$, suitably normalised, if one reads it at noise zero. Do chains sample that?

# %% mystnb={"image": {"alt": "Three density plots over x for w = 0, 1 and 4. Grey: class 0. A dark line, the tilted density, keeps two bumps in all panels. The blue line, DDIM, follows it at w = 0 only; at w = 4 it is one narrow bump beyond the right one. The orange histogram, ancestral sampling, lies between."}}
import math

f64 = torch.float64
line = oracle.Mixture(
    process,
    torch.tensor([2.0, 1, 1], dtype=f64),
    torch.tensor([-1.0, 0.1, 1.2], dtype=f64),
    torch.tensor([0.4, 0.3, 0.3], dtype=f64),
    torch.tensor([0, 1, 1]),
)
grid = torch.linspace(-2.6, 2.6, 1041, dtype=f64)
width = float(grid[1] - grid[0])
z = torch.linspace(-4, 4, 1601, dtype=f64)  # starting points
bell = torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)


def tilted(w):
    """The density proportional to p(x|y=1)^(1+w) / p(x)^w on the grid."""
    inside, both = line.given(1).log_prob(grid, 0), line.log_prob(grid, 0)
    return torch.softmax((1 + w) * inside - w * both, 0) / width


def by_ddim(w):
    """In 1-D DDIM is a rising map x(z), so its density is bell(z) dz/dx."""
    one = torch.ones(len(z), dtype=torch.int64)
    guide = ClassifierFree(line, w)
    x = draw(guide, process, z, uniform_times(T, 100), eta=0.0, y=one)
    assert bool((x.diff() > 0).all())
    return x, bell / torch.gradient(x, spacing=(z,))[0]


def by_ancestral(w, n=6000):
    one = torch.ones(n, dtype=torch.int64)
    start = torch.randn(n, generator=seeded(0), dtype=f64)
    guide, g = ClassifierFree(line, w), seeded(1)
    return draw(
        guide, process, start, uniform_times(T, 100), y=one, generator=g
    )


fig, axes = plt.subplots(1, 3, figsize=(7.5, 2.4), sharex=True, dpi=62)
far = {}
for ax, w in zip(axes, (0.0, 1.0, 4.0), strict=True):
    truth, (x, density), ancestral = tilted(w), by_ddim(w), by_ancestral(w)
    other = 0.5 * line.given(0).log_prob(grid, 0).exp()
    ax.fill_between(grid, other, color="0.88", label="class 0")
    look = {"color": plots.ORANGE, "alpha": 0.5, "label": "ancestral"}
    ax.hist(ancestral, 60, density=True, **look)
    ax.plot(grid, truth, color="k", lw=1, label="tilted")
    ax.plot(x, density, color=plots.BLUE, label="DDIM")
    ax.set(xlabel="x", title=f"w = {w:g}", xlim=(-2, 2.3))
    inside = bell * (z[1] - z[0])
    far[w] = (
        float(truth[grid > 0.65].sum()) * width,
        float(inside[x > 0.65].sum()),
        float((ancestral > 0.65).double().mean()),
    )
axes[0].set_ylabel("density")
_ = axes[0].legend(fontsize=7, loc="upper left")
print("share in the bump that is far from class 0")
print("   w   tilted     DDIM   ancestral")
for w, shares in far.items():
    print(f"{w:4g}", *(f"{s:8.0%}" for s in shares))
assert max(far[0.0]) - min(far[0.0]) < 0.03
assert far[4.0][0] < 0.65 and far[4.0][1] > 0.99 and far[4.0][2] > 0.8

# %% [markdown]
# *What to see:* no. At $w=0$ all agree. At $w=4$ the tilted density (black) still has both bumps: near either of them class 0 has almost no say, and a probability that is one already cannot be raised further. DDIM has **dropped a mode** and stands beyond the other; ancestral sampling (orange) lies between the two. So the result of guidance depends on $w$, on the *sampler*, and
# is a distribution that nobody has written down. The derivation says why.
#
# ## The derivation
#
# ### A classifier that nobody trained
#
# At every noise level Bayes' rule reads $q(y\mid x_t)=q(x_t\mid y)\,p(y)/q(x_t)$. Take the logarithm, then the gradient with respect to $x_t$; $p(y)$ does not contain it:
#
# $$
# \nabla\log q(y\mid x_t)=\nabla\log q(x_t\mid y)-\nabla\log q(x_t) .
# \tag{11.1}
# $$
#
# On the left stands what classifier guidance ([chapter 10](10_classifier_guidance.ipynb)) gets from a classifier of noisy images. On the right stand two scores, and a diffusion model *is* a score. So a model that has the conditional score and the unconditional one contains a classifier. Push the conditional score by $w$ times its gradient,
# $\nabla\log q(x_t\mid y)+w\,\nabla\log q(y\mid x_t)=(1+w)\nabla\log q(x_t\mid y)-w\,\nabla\log q(x_t)$, and write scores as noise, $\nabla\log q=-\hat\varepsilon/\sqrt{1-\bar\alpha_t}$. The factor is common to all terms:
#
# $$
# \hat\varepsilon=(1+w)\,\hat\varepsilon_c-w\,\hat\varepsilon_\varnothing
# \tag{11.2}
# $$
#
# with $\hat\varepsilon_c=\hat\varepsilon(x_t,t,y)$ and $\hat\varepsilon_\varnothing=\hat\varepsilon(x_t,t,\varnothing)$. This is equation (6) of Ho & Salimans. What of networks that predict $x_0$ or $v$? Given $x_t$ and $t$, each is an affine function of the others, $x_0=(x_t-\sqrt{1-\bar\alpha_t}\,\varepsilon)/\sqrt{\bar\alpha_t}$ and $v=(\varepsilon-\sqrt{1-\bar\alpha_t}\,x_t)/\sqrt{\bar\alpha_t}$ (from chapter 03).
# An affine map $A\varepsilon+b$ takes $(1+w)\hat\varepsilon_c-w\hat\varepsilon_\varnothing$ to $(1+w)(A\hat\varepsilon_c+b)-w(A\hat\varepsilon_\varnothing+b)$, because $(1+w)b-wb=b$: **the coefficients add up to one**. Hence
#
# $$
# \hat x_0=\hat x_c+w\,(\hat x_c-\hat x_\varnothing),\qquad \hat v=\hat v_c+w\,(\hat v_c-\hat v_\varnothing) .
# \tag{11.3}
# $$
#
# This is the form to remember: *an extrapolation*. $w=0$ is the conditional model, $w=-1$ the unconditional one, in between one interpolates, beyond zero one goes on past what the model predicts. Two honest remarks. First, (11.1) holds for exact scores. The difference of two *learned* scores need not be the gradient of anything; the "implicit classifier" is a guide to the
# thought. Second, (11.2) says nothing about the reverse variance. Our `mnist` has learned one; we keep the conditional answer and do not extrapolate a logarithm of a variance.
#
# ### Two conventions
#
# Half of the literature writes $\hat\varepsilon=\hat\varepsilon_\varnothing+s\,(\hat\varepsilon_c-\hat\varepsilon_\varnothing)$. Compare coefficients: $s=1+w$.
#
# | who | letter | formula | "no guidance" |
# |:--|:--|:--|--:|
# | Ho & Salimans (2022), this book | $w$ | $(1+w)\,\hat\varepsilon_c-w\,\hat\varepsilon_\varnothing$ | $w=0$ |
# | GLIDE (Nichol et al. 2022) | $s$ | $\hat\varepsilon_\varnothing+s\,(\hat\varepsilon_c-\hat\varepsilon_\varnothing)$ | $s=1$ |
# | Imagen (Saharia et al. 2022) | $w$ (!) | $w\,\hat\varepsilon_c+(1-w)\,\hat\varepsilon_\varnothing$ | $w=1$ |
# | Stable Diffusion's code | `scale` | $\hat\varepsilon_\varnothing+\texttt{scale}\,(\hat\varepsilon_c-\hat\varepsilon_\varnothing)$ | 1 |
#
# The famous scale 7.5 of Stable Diffusion is $w=6.5$ here, and Imagen's $w$ is our $1+w$ under the same letter. The scale of classifier guidance around an *unconditional* model is also such an $s$.
#
# ### One network for both predictions
#
# Two networks would do. Ho & Salimans found a cheaper way: during training each label is replaced by a further, empty label $\varnothing$ with probability $p$, whatever the image. Call what the network is given $\tilde y$. The loss is then, split by that coin,
#
# $$
# L(\theta)=(1-p)\,\mathbb E\,\lVert\varepsilon-\varepsilon_\theta(x_t,t,y)\rVert^2+p\;\mathbb E\,\lVert\varepsilon-\varepsilon_\theta(x_t,t,\varnothing)\rVert^2 .
# \tag{11.4}
# $$
#
# Regression answers with a conditional expectation: whatever is given, the best answer is the mean of the target given that. For $\tilde y=c$: the coin was tossed independently of $(x_0,y,\varepsilon)$, so knowing that it fell "keep" teaches nothing, and the optimum is $\mathbb E[\varepsilon\mid x_t,y=c]$. For $\tilde y=\varnothing$: it teaches nothing either, and $y$ is *not given*; it is averaged over, with its own probabilities given $x_t$:
#
# \begin{align*}
# \varepsilon^*(x_t,c)={}&\mathbb E[\varepsilon\mid x_t,y=c], \\
# \varepsilon^*(x_t,\varnothing)={}&\mathbb E[\varepsilon\mid x_t]=\textstyle\sum_c q(c\mid x_t)\,\mathbb E[\varepsilon\mid x_t,y=c] . \tag{11.5}
# \end{align*}
#
# So the null label learns the unconditional model of *all* data, for any $0<p<1$: $p$ does not move the optimum, it only shares out the training. The conditional prediction gets $1-p$ of the examples, the null prediction $p$. Ho & Salimans tried 0.1, 0.2 and 0.5: the first two did about equally well, 0.5 worse. Ours stand in a table below. If the dropping depended on the image (only blurry pictures lose their
# label, say), (11.5) would be false; captions that are missing in the data are *not* a substitute for a coin.
#
# The price at sampling time is two answers per step. They are asked in one batch of twice the size, which a GPU that is not full answers in hardly more time.
#
# ### What a guided chain samples
#
# Write $L(x_0)=p(y\mid x_0)$ and $s=1+w$. At noise zero the guided score is that of
#
# $$
# p_w(x_0\mid y)\;\propto\;p(x_0\mid y)^{1+w}\,p(x_0)^{-w}\;\propto\;p(x_0)\,L(x_0)^{s} ,
# \tag{11.6}
# $$
#
# the data, sharpened towards what a classifier likes. A correct chain for $p_w$ would need, at each noise level, the score of $p_w$ *with noise added*. With $q_w(x_t)=\int p_w(x_0)\,q(x_t\mid x_0)\,\mathrm dx_0\propto q(x_t)\int q(x_0\mid x_t)\,L(x_0)^s\,\mathrm dx_0$ that score is $\nabla\log q(x_t)+\nabla\log\mathbb E[L^s\mid x_t]$. What guidance uses is
# $\nabla\log q(x_t)+s\,\nabla\log q(y\mid x_t)$, and $q(y\mid x_t)=\mathbb E[L\mid x_t]$, because given $x_0$ the noise knows nothing more of $y$. The difference is
#
# $$
# \nabla\log q_w(x_t)-\big(\text{guided score}\big)=\nabla\,\log\frac{\mathbb E[L(x_0)^s\mid x_t]}{\mathbb E[L(x_0)\mid x_t]^{\,s}} .
# \tag{11.7}
# $$
#
# **Tilting and adding noise do not commute**: the mean of a power is not the power of a mean. The fraction is 1 for $s=1$ (plain conditional model) and for $s=0$ (unconditional). It tends to 1 at low noise, where $x_t$ has decided $x_0$, and to a constant at high noise, where it says nothing. In between, for $s>1$, Jensen's inequality makes it larger than one, the more so the less probable $x_t$ makes the class. The guided score never hears of that, treats doubtful states as worse than they
# are, and pushes away from them: away from the other classes.
#
# How much is it? Take Gaussians, where all is closed: the class is $\mathcal N(m,c)$, everything together $\mathcal N(0,C)$ with $c<C$, and $\rho=c/C$. Adding exponents, (11.6) is Gaussian with
#
# $$
# \text{tilted:}\qquad\text{variance }\ \frac{c}{1+w-w\rho},\qquad\text{mean }\ m\,\frac{1+w}{1+w-w\rho} .
# \tag{11.8}
# $$
#
# For the chains use $\bar x=x_t/\sqrt{\bar\alpha_t}$, whose noise has the variance $u=(1-\bar\alpha_t)/\bar\alpha_t$. The guided score of $\bar x$ is $-a\bar x+b$ with $a(u)=\frac{1+w}{c+u}-\frac{w}{C+u}$ and $b(u)=\frac{(1+w)\,m}{c+u}$. DDIM is Euler's method for $\mathrm d\bar x/\mathrm du=-\frac12\,\text{score}$, this is (7.11) with $u=r^2$; so in fine steps its mean and variance obey
# $\mu'=\frac12(a\mu-b)$, $V'=aV$. An ancestral step from $t$ to $t'$ has the mean $\bar x_t+(u_t-u_{t'})\,\text{score}$ and the variance $u_{t'}(u_t-u_{t'})/u_t$, so there $\mu'=a\mu-b$, $V'=2aV-1$. With $\Phi(u)=(c+u)^{1+w}(C+u)^{-w}$, whose logarithmic derivative is $a$, both pairs are solved by variation of the constant from $u=\infty$ down to $0$:
#
# - DDIM: $V/\Phi$ is constant, and for large $u$ the start has $V=u\approx\Phi$, so $V(0)=\Phi(0)$. For the mean put $\mu=\sqrt\Phi\,k$, then $k'=-\frac12 b/\sqrt\Phi$ and $\mu(0)=\sqrt{\Phi(0)}\int_0^\infty\frac b{2\sqrt\Phi}\,\mathrm du$.
# - Ancestral: $V=\Phi^2k$ with $k'=-\Phi^{-2}$, so $V(0)=\Phi(0)^2\int_0^\infty\Phi^{-2}\,\mathrm du$, and in the same way $\mu(0)=\Phi(0)\int_0^\infty b\,\Phi^{-1}\,\mathrm du$.
#
# The substitution $r=\frac{C+u}{c+u}$, which runs from $1/\rho$ to $1$ with $\frac{\mathrm du}{(c+u)^2}=-\frac{\mathrm dr}{C-c}$, turns the last two integrals into $\int r^{2w}\mathrm dr$ and $\int r^{w}\mathrm dr$; for the DDIM mean put $r=1+q^2$ as well. The results:
#
# \begin{align*}
# \text{DDIM:}\quad V&=c\,\rho^{\,w}, \\
# \mu&=(1+w)\,m\,\sqrt{\frac{\rho^{1+w}}{1-\rho}}\int_0^{\sqrt{1/\rho-1}}(1+q^2)^{w/2}\,\mathrm dq\,; \tag{11.9}
# \end{align*}
#
# \begin{align*}
# \text{ancestral:}\quad V&=c\,\frac{1-\rho^{\,2w+1}}{(2w+1)(1-\rho)}, \\
# \mu&=m\,\frac{1-\rho^{\,w+1}}{1-\rho}=m\,(1+\rho+\dots+\rho^{w}) . \tag{11.10}
# \end{align*}
#
# (The sum is for whole $w$; at $w=-\frac12$ the variance is the limit, $c\log(1/\rho)/(1-\rho)$.) Three different distributions for one $w$. At $w=0$ all are $\mathcal N(m,c)$; at $w=-1$ both samplers give $\mathcal N(0,C)$, as they must, and so does the tilt. For $w\to\infty$ all three means tend to the same point, $m/(1-\rho)$, where $p(y\mid x)$ is largest; but the tilted variance falls like $1/w$, the ancestral one to half of that, and DDIM's exponentially. Sympy, on the equations and the substitutions:

# %% tags=["hide-input"]
import sympy as sp

u, c, C, m, r, q = sp.symbols("u c C m r q", positive=True)
w_ = sp.Symbol("w", real=True)
a_ = (1 + w_) / (c + u) - w_ / (C + u)
phi = (c + u) ** (1 + w_) * (C + u) ** (-w_)
assert sp.simplify(sp.diff(sp.log(phi), u) - a_) == 0
assert sp.simplify(phi.subs(u, 0) - c * (c / C) ** w_) == 0  # DDIM's V
rho = c / C
for k in (-1, 0, 1, 2, 3, 4):  # whole weights: the integrals in closed form
    inner = sp.integrate(r ** (2 * k), (r, 1, 1 / rho)) / (C - c)
    V = sp.simplify((c * rho**k) ** 2 * inner)
    book = c * (1 - rho ** (2 * k + 1)) / ((2 * k + 1) * (1 - rho))
    assert sp.simplify(V - book) == 0
    inner = sp.integrate(r**k, (r, 1, 1 / rho)) if k != -1 else sp.log(1 / rho)
    mean = c * rho**k * (1 + k) * m * inner / (C - c)
    assert sp.simplify(mean - m * (1 - rho ** (k + 1)) / (1 - rho)) == 0
    # the tilted distribution: adding the exponents of the two Gaussians
    slope = (1 + k) / c - sp.Integer(k) / C
    assert sp.simplify(1 / slope - c / (1 + k - k * rho)) == 0
ratio = (C + u) / (c + u)
assert sp.simplify(sp.diff(ratio, u) + (C - c) / (c + u) ** 2) == 0
for k in (0, 2, 4):  # the DDIM mean solves its equation: checked by numbers
    at = {c: sp.Rational(1, 4), C: 1, m: 1, w_: k}
    f = ((1 + w_) * m / (2 * (c + u)) / sp.sqrt(phi)).subs(at)
    found = float(
        sp.sqrt(phi.subs(at).subs(u, 0)) * sp.Integral(f, (u, 0, sp.oo))
    )
    part = sp.integrate((1 + q**2) ** sp.Rational(k, 2), (q, 0, sp.sqrt(3)))
    book = (1 + k) * sp.sqrt(sp.Rational(1, 4) ** (1 + k) / sp.Rational(3, 4))
    assert abs(found - float(book * part)) < 1e-6
print("the tilted, the DDIM and the ancestral formula agree with sympy")

# %% [markdown]
# And numerically: a chain of affine steps maps a Gaussian to a Gaussian, so the library's own sampler can be followed exactly, without a single random number.


# %%
from itertools import pairwise

from ddpmlib.prediction import Prediction
from scipy import integrate


class Pair:
    """Exact predictions: label 0 is N(m, c), the null label 1 is N(0, 1)."""

    def __init__(self, m, c):
        self.process = process
        one = torch.ones(1, dtype=f64)
        self.inside = oracle.Mixture(process, one, m * one, c**0.5 * one)
        self.all = oracle.Mixture(process, one, 0 * one, one)

    def without(self, y):
        return torch.ones_like(y)

    def __call__(self, x_t, t, y):
        inside, null = self.inside(x_t, t).x0, self.all(x_t, t).x0
        return Prediction(torch.where(y == 1, null, inside))


def moments(denoiser, eta, times):
    """Mean and variance at the end of a chain of affine steps from N(0, 1)."""
    x, zero = torch.tensor([0.0, 1], dtype=f64), torch.zeros(2, dtype=f64)
    y, mean, var = torch.zeros(2, dtype=torch.int64), 0.0, 1.0
    for t, s in pairwise(times):
        out = process.step(x, denoiser(x, t, y), t, s, eta, zero)
        loud = process.step(zero, Prediction(zero), t, s, eta, zero + 1)
        gain = float(out[1] - out[0])
        mean, var = gain * mean + float(out[0]), gain**2 * var
        var += float(loud[0]) ** 2
    return mean, var


def closed(w, rho, m=1.0):
    """Equations (11.8), (11.9), (11.10) for C = 1: (mean, variance) each."""
    top = (1 / rho - 1) ** 0.5
    part, _ = integrate.quad(lambda q: (1 + q * q) ** (w / 2), 0, top)
    ddim = (1 + w) * m * (rho ** (1 + w) / (1 - rho)) ** 0.5 * part
    free = 1 + w - w * rho
    ancestral = rho * (1 - rho ** (2 * w + 1)) / ((2 * w + 1) * (1 - rho))
    return {
        "tilted": (m * (1 + w) / free, rho / free),
        "DDIM": (ddim, rho ** (1 + w)),
        "ancestral": (m * (1 - rho ** (w + 1)) / (1 - rho), ancestral),
    }


print("class N(1, ¼) in N(0, 1): mean and variance of what comes out")
print("   w       tilted     DDIM (11.9)    chain   ancestral (11.10)  chain")
for w in (-1.0, 0.0, 1.0, 2.0, 4.0, 8.0):
    book, guide = closed(w, 0.25), ClassifierFree(Pair(1.0, 0.25), w)
    found = {
        name: moments(guide, eta, uniform_times(T, 500))
        for name, eta in (("DDIM", 0.0), ("ancestral", 1.0))
    }
    cells = [book["tilted"]]
    for name in ("DDIM", "ancestral"):
        cells += [book[name], found[name]]
        for ours, chain in zip(book[name], found[name], strict=True):
            assert abs(ours - chain) < 0.02
    print(f"{w:4g}  ", *(f"{mu:5.2f} {v:6.4f}  " for mu, v in cells))

# %% [markdown]
# At $w=2$ the sharpened density would sit at $1.2$ of the class's mean; ancestral sampling sits at $1.31$ with two thirds of the right variance, DDIM at $1.5$ with a sixth of it. Guidance is *stronger than its formula*, and the deterministic sampler overdoes it most. None of this is a fault of a network: the predictions were exact.
#
# ## From scratch, then from the library


# %%
@torch.no_grad()
def guided_ddim(x, w, y, times, null=10):
    for t, s in pairwise(times):
        both = mnist(torch.cat([x, x]), t, torch.cat([y, 0 * y + null])).x0
        conditional, unconditional = both.chunk(2)
        x0 = conditional + w * (conditional - unconditional)  # (11.3)
        eps = process.eps_from_x0(x, x0, t)
        x = process.scale[s].float() * x0 + process.std[s].float() * eps
    return x


few, y3 = uniform_times(T, 6), torch.tensor([3, 5, 8])
ours = guided_ddim(x_T[:3], 2.0, y3, few)
theirs = draw(ClassifierFree(mnist, 2.0), process, x_T[:3], few, eta=0.0, y=y3)
assert (ours - theirs).abs().max() < 1e-3
eps = {
    w: process.eps_from_x0(
        x_T[:3], ClassifierFree(mnist, w)(x_T[:3], 700, y3).x0, 700
    )
    for w in (-1.0, 0.0, 2.0)
}
assert torch.allclose(eps[2.0], 3 * eps[0.0] - 2 * eps[-1.0], atol=1e-4)
assert torch.allclose(
    ClassifierFree(mnist, -1.0)(x_T[:3], 700, y3).x0,
    mnist(x_T[:3], 700).x0,
    atol=1e-4,
)
print("ten lines and the library agree; (11.2) holds for the noise")

# %% [markdown]
# In the library guidance is a *denoiser around a denoiser*: it edits the prediction and knows no sampler, so DDIM, ancestral sampling, inversion or Langevin run it unchanged. `w` may be a number, one number per sample, or a function of $t$.
#
# ## Train it here, with and without label dropout
#
# The digits recipe, twice, 200 updates each. Nothing differs but `label_dropout`.

# %% tags=["nbval-ignore-output"]
from dataclasses import replace

from ddpmlib import data
from ddpmlib.training import Trainer, fit
from ddpmlib.zoo import RECIPES

scans = data.load("digits")


def train(label_dropout, updates=200):
    recipe = RECIPES["digits"]
    settings = replace(recipe.settings, steps=updates)
    recipe = replace(recipe, label_dropout=label_dropout, settings=settings)
    trainer = Trainer(
        recipe.build(),
        recipe.loss(),
        scans.x_train,
        scans.y_train,
        settings,
        device="cpu",
    )
    *_, last = fit(trainer)
    print(f"label dropout {label_dropout:.0%}: last loss {last.loss:.3f}")
    return trainer.averaged.eval()


nets = {"dropout 10 %": train(0.1), "no dropout": train(0.0)}

# %% [markdown]
# The second network has a null embedding, too: it is a row of the table, filled by the random generator and never touched since. Nothing refuses to be asked with it. We measure with a classifier of clean scans; *variety* is the mean squared distance of an image to the mean of its class, *out of range* the share of pixels with $|x|>1.05$; Fréchet distances are between
# features of 100 samples and of the training scans.

# %% tags=["nbval-ignore-output"]
from ddpmlib.evaluation import features, metrics

digits_classifier, _ = zoo.load("digits-classifier", device="cpu")
real, _ = features.extract(digits_classifier, scans.x_train)
unseen, _ = features.extract(digits_classifier, scans.x_test[:100])
hundred = torch.arange(100) % 10
digit_noise = torch.randn(100, 1, 8, 8, generator=seeded(3))


def variety(x):
    """Mean squared distance of a pixel to its mean over the class."""
    by_class = x.reshape(-1, 10, x[0].numel())
    return float(((by_class - by_class.mean(0)) ** 2).mean())


def drawn(denoiser, y=hundred, eta=0.0):
    return draw(
        denoiser,
        denoiser.process,
        digit_noise,
        uniform_times(1000, 16),
        eta=eta,
        y=y,
        generator=seeded(9),
    )


def measured(x, y=hundred):
    h, logits = features.extract(digits_classifier, x)
    return {
        "Fréchet": metrics.frechet_distance(h, real),
        "agreement": metrics.class_agreement(logits, y),
        "variety": variety(x),
        "out of range": float((x.abs() > 1.05).double().mean()),
    }


def show(name, f):
    print(
        f"{name:22} {f['Fréchet']:8.1f} {f['agreement']:9.0%} "
        f"{f['variety']:9.3f} {f['out of range']:12.0%}"
    )


head = f"{'':22}  Fréchet agreement   variety  out of range"
print(head)
tiles, result = [], {}
for name, net in nets.items():
    for w in (-1.0, 0.0, 2.0, 6.0):
        x = drawn(ClassifierFree(net, w))
        tiles.append(x[:10])
        result[name, w] = measured(x)
        show(f"{name}, w = {w:g}", result[name, w])
floor = metrics.frechet_distance(unseen, real)
print(f"100 unseen scans       {floor:8.1f}")
told, never = ([result[name, w] for w in (-1.0, 0.0, 6.0)] for name in nets)
assert told[2]["variety"] < told[1]["variety"] < told[0]["variety"]
assert never[2]["variety"] > 1.5 * never[1]["variety"]

# %% mystnb={"image": {"alt": "Two panels of 8 by 8 digits, rows for w = minus 1, 0, 2 and 6. Left, with label dropout: digits of any class in the first row, then the classes 0 to 9, ever more contrasted. Right, without: the first row is washed out, the last rows are black and white blocks."}}
fig, axes = plt.subplots(1, 2, figsize=(7.5, 1.75), dpi=72)
for ax, rows, name in zip(axes, (tiles[:4], tiles[4:]), nets, strict=True):
    _ = plots.grid(torch.cat(rows), ax=ax, title=name)
    for row, w in enumerate((-1, 0, 2, 6)):
        ax.text(-2, 9 * row + 4, f"w = {w}", ha="right", va="center", size=8)

# %% [markdown]
# *What to see:* at $w=0$, second row, neither network is ahead; a conditional model does not need label dropout. (Two hundred updates are few, so both have much to mend.) They differ in the row above: left, $w=-1$ draws digits of *any* class, as (11.5) promises; right, the same question is answered by a network that has never heard it, with washed-out averages. And so they differ below.
# Left, guidance reduces variety, as on exact predictions (and at $w=6$ its images are as contrasted as any). Right, (11.3) extrapolates **away from a random direction**: contrast explodes already at $w=2$, and variety *rises* far above that of the plain model.
#
# Mind what does *not* show it. Class agreement goes to 100 % in both, and even the Fréchet distance of a hundred samples falls in both: going away from a *worse version of oneself* mends an undertrained network, whatever made the version worse (Karras et al. 2024 made a method of that). A guided model without null training does not fail loudly. It looks like a $w$ that was chosen too large; the sure sign is the row $w=-1$.
#
# ## Saturation, and what thresholds do
#
# Predictions of a perfect model are averages of images, so they lie in $[-1,1]$. The extrapolation (11.3) need not. If $\hat x_c,\hat x_\varnothing\in[-1,1]$ and $w\ge0$, then $|\hat x_c-\hat x_\varnothing|\le2$ and
#
# $$
# |\hat x_0|\;\le\;1+2w .
# \tag{11.11}
# $$
#
# It comes near the bound where the class is sure of a pixel and the others are sure of the opposite (not quite to it, because the average $\hat x_\varnothing$ contains the class itself: with ten equal classes the two are at most 1.8 apart at $t=T$). Background that every three leaves black and that is grey on the average over all digits is moved to "blacker than black". Two remedies, both applied *after* guidance, to each image on its own:
#
# \begin{align*}
# \text{static:}\quad&\operatorname{clip}(\hat x_0,-1,1), \\
# \text{dynamic:}\quad&\operatorname{clip}(\hat x_0,-b,b)/b\quad\text{with}\quad b=\max\big(1,\ Q_{99.5\,\%}(|\hat x_0|)\big) . \tag{11.12}
# \end{align*}
#
# Static thresholding leaves every pixel that was pushed out exactly on the border: the image saturates. Dynamic thresholding (Saharia et al., Imagen) finds out how far *this* image has left, and pulls it all in by the same factor, so that pixels which differed still differ. Either way the noise that goes with the prediction must be formed anew,
#
# $$
# \hat\varepsilon=\frac{x_t-\sqrt{\bar\alpha_t}\;\hat x_0}{\sqrt{1-\bar\alpha_t}},
# \tag{11.13}
# $$
#
# from the thresholded $\hat x_0$, else the two no longer add up to $x_t$ and the next state is not of the process. (`process.step` takes $\hat x_0$ alone and cannot commit that fault.)

# %% tags=["nbval-ignore-output"] mystnb={"image": {"alt": "Left: curves of the 99.5 percent quantile of the prediction's size over time, from 1000 to 0: at w = 0 always one, at w = 8 above 6 at first and falling to about one. Right: three rows of digits, w = 4, without threshold, static: both clean; dynamic: grey speckled backgrounds, one or two digits destroyed."}}
from ddpmlib.guidance import DynamicThreshold, StaticThreshold

fig, (left, right) = plt.subplots(
    1, 2, figsize=(7.5, 2.3), width_ratios=(1, 1.7), dpi=58
)
reach = {}
for w, chain in chains.items():
    predictions = torch.stack([s.x0.flatten(1).abs() for s in chain[1:]])
    reach[w] = predictions.quantile(0.995, dim=2).mean(1)
    left.plot([s.t for s in chain[:-1]], reach[w], ".-", label=f"w = {w:g}")
    assert predictions.max() < 1.2 * (1 + 2 * w)  # (11.11), for a net
left.set(xlabel="time t (steps)", ylabel="99.5 % quantile of $|\\hat x_0|$")
left.invert_xaxis()
left.legend(fontsize=8)
four = ClassifierFree(mnist, 4.0)
thresholds = {
    "none": four,
    "static": StaticThreshold(four),
    "dynamic": DynamicThreshold(four),
}
kept = {"none": chains[4.0][-1].x}
for name in ("static", "dynamic"):
    kept[name] = draw(thresholds[name], process, x_T, times, eta=0.0, y=ten)
_ = plots.grid(torch.cat(list(kept.values())), ax=right, title="w = 4")
print("w = 4       background (median pixel)   white pixels")
for row, (name, x) in enumerate(kept.items()):
    right.text(-4, side * (row + 0.5), name, ha="right", va="center", size=8)
    white = metrics.saturation(x).saturated
    print(f"{name:8} {float(x.median()):20.3f} {white:24.0%}")
assert reach[8.0][0] > 4 > reach[4.0][0] > 3 > 1.2 > reach[0.0].max()
assert kept["dynamic"].median() > kept["static"].median() + 0.01

# %% [markdown]
# *What to see:* on the left, (11.11) at work: with $w=8$ the first predictions reach more than six times the range, and most of that is gone when the image is finished. On the right, **dynamic thresholding is the worse remedy here**: grey, speckled backgrounds, now and then a ruined digit, where no threshold at all does no visible harm, and clipping none. Why, if it made Imagen's photographs better? Division by $b$ is right if the whole image is too contrasted. On MNIST four pixels of five are background, and the prediction
# that they are $-1$ is *true*. The pixels that overshoot most set $b$, nearly 4 in the first step (left, green), and the division turns certain black into a grey of about $-1/4$. The chain walks on from states that no network was trained on, and some never find back. Where data live at the ends of the range (ink, masks, line drawings), clip; where they live inside (photographs), rescaling is said to be better. Below, the same with thousands of samples, in which strong guidance with this threshold is ruin; at weak guidance on MNIST it only takes back some of $w$.
#
# ## One knob turned: when to guide
#
# At the start of the chain $x_T$ tells nothing. The predictions are the means of the class and of all data, so (11.3) is
#
# $$
# \hat x_0(x_T)\approx\mu_c+w\,(\mu_c-\mu),\qquad\mu_c=\mathbb E[x_0\mid y=c],\quad \mu=\mathbb E[x_0] ,
# \tag{11.14}
# $$
#
# **the same push for every sample of the class**, whatever it was going to become; a class with two modes is pushed towards the one that lies farther from the rest. At the end of the chain $x_t$ has decided the class, $q(y\mid x_t)\approx1$, and by (11.1) its gradient is almost zero: guidance does little and costs a second call. In between it chooses between alternatives that are still open. Kynkäänniemi et al. therefore guide in a *limited
# interval* of noise levels, and took the best FID on ImageNet-512 of their time from 1.81 to 1.40. First on the line, where we know everything:

# %% mystnb={"image": {"alt": "Four density plots over x with w = 4 in different intervals of time. All times: one bump beyond the right one of class 1. Early: one narrow bump at the right. Middle: one bump at the right. Late: two bumps, close to the dark line of the class."}}
from ddpmlib.guidance import interval

parts = {
    "all times": (1, 1000),
    "early": (667, 1000),
    "middle": (334, 666),
    "late": (1, 333),
}
fig, axes = plt.subplots(1, 4, figsize=(7.5, 2.0), sharey=True, dpi=60)
right_bump = {}
for ax, (name, (low, high)) in zip(axes, parts.items(), strict=True):
    x, density = by_ddim(interval(4.0, low, high))
    ax.plot(grid, line.given(1).log_prob(grid, 0).exp(), "k", lw=1)
    ax.plot(x, density, color=plots.BLUE)
    ax.set(xlabel="x", title=name, xlim=(-1, 2.4), ylim=(0, 2.6))
    inside = bell * (z[1] - z[0])
    right_bump[name] = float(inside[x > 0.65].sum())
_ = axes[0].set_ylabel("density")
print("share in the right bump (class: 50 %, tilted: 58 %)")
print({name: f"{share:.0%}" for name, share in right_bump.items()})
assert right_bump["late"] < 0.6 and right_bump["early"] > 0.9

# %% [markdown]
# *What to see:* black is the class itself. Early guidance alone all but loses the left bump, as (11.14) says it must; so does the middle, where on this line the two bumps are still being decided between. Late guidance keeps both, and only pulls in the side that faces the other class. Which noise levels are "early" is a matter of the data. The same on the MNIST model:

# %% tags=["nbval-ignore-output"] mystnb={"image": {"alt": "Left: the root mean square difference between the conditional and the null prediction falls over the chain from about a quarter to nearly zero. Right: five rows of digits: no guidance, all times, early, middle, late. Early looks like all times; middle and late look like no guidance, tidied."}}
plain = chains[0.0]
with torch.no_grad():
    gap = [
        float((mnist(s.x, s.t).x0 - after.x0).square().mean().sqrt())
        for s, after in pairwise(plain)
    ]
rows = [plain[-1].x, chains[4.0][-1].x]
for name in ("early", "middle", "late"):
    guide = ClassifierFree(mnist, interval(4.0, *parts[name]))
    rows.append(draw(guide, process, x_T, times, eta=0.0, y=ten))
fig, (left, right) = plt.subplots(
    1, 2, figsize=(7.5, 2.5), width_ratios=(1, 1.3), dpi=58
)
left.plot(times[:-1], gap, ".-")
left.axvspan(334, 666, color="0.92")
left.set(xlabel="time t (steps)", ylabel="RMS of $\\hat x_c-\\hat x_∅$")
left.invert_xaxis()
_ = plots.grid(torch.cat(rows), ax=right)
for row, name in enumerate(("w = 0", *parts)):
    right.text(-4, side * (row + 0.5), name, ha="right", va="center", size=8)
change = {
    name: float((x - rows[0]).square().mean().sqrt())
    for name, x in zip(parts, rows[1:], strict=True)
}
print("RMS change against w = 0:")
print("  ", ", ".join(f"{k} {v:.2f}" for k, v in change.items()))
assert gap[0] > 10 * gap[-1] and change["early"] > 2 * change["late"]

# %% [markdown]
# *What to see:* left, how far the two predictions are apart along the unguided chain (the middle interval is grey): an eighth of the range at first, nearly nothing at the end. Right: guiding *early* makes nearly the whole change, the bold look-alikes of "all times"; middle and late guidance leave the handwriting as it was. In numbers, on the 8×8 digits, three sets of noise:

# %% tags=["nbval-ignore-output"]
digits, _ = zoo.load("digits", device="cpu")
print(head)
saved = digit_noise
table = {}
for name, (low, high) in {"w = 0": (0, 0), **parts}.items():
    runs = []
    for seed in (3, 4, 5):
        digit_noise = torch.randn(100, 1, 8, 8, generator=seeded(seed))
        runs.append(
            measured(drawn(ClassifierFree(digits, interval(4.0, low, high))))
        )
    table[name] = {k: [r[k] for r in runs] for k in runs[0]}
    show(name, {k: sum(v) / 3 for k, v in table[name].items()})
digit_noise = saved
spread3 = {k: max(v["Fréchet"]) - min(v["Fréchet"]) for k, v in table.items()}
print(
    f"largest range of a Fréchet distance over seeds: {max(spread3.values()):.1f}"
)
print(f"100 unseen scans       {floor:8.1f}")
assert min(table["late"]["variety"]) > max(table["early"]["variety"])

# %% [markdown]
# Early guidance takes most variety, as on MNIST; late guidance takes least, and by distance does the least harm. But the middle third is no bargain here: by distance it costs as much as the early one. And any third is enough to settle the class, because these digits are hardly ever in doubt: at $w=0$ the network is, within the scatter of the seeds, as near to the data as unseen scans are, so guidance has nothing to give and can only cost.
#
# At scale, with 5,000 samples a row (20 ancestral steps, guidance at the times given, none at the others), MNIST first, then Fashion-MNIST:

# %%
from ddpmlib import experiments
from IPython.display import Markdown

Markdown(experiments.guidance_interval.table("mnist"))

# %%
Markdown(experiments.guidance_interval.table("fashion_mnist"))

# %% [markdown]
# *What to see:* all rows but the first have $w=4$. **Guidance in the right interval is the best bargain of this chapter.** On Fashion-MNIST the middle third alone brings the distance from 3.2 to 1.4, where guidance at all times comes no lower than 2.09 at any $w$ of the table below, the class is right in nearly 99 of a hundred, and recall is *not lower* than without guidance: what mends the class and what costs variety happens at different times. On MNIST, where there is little to mend, the last third costs least.
# The earliest third is the dearest by recall on both, as (11.14) says it must be, and on neither data set is it needed. And guiding for a third of the chain costs a third of the second calls. (Where the good interval lies has to be looked for: on both sets of digits the late third costs least, on garments the middle is best.)
#
# ## The same code at scale: the price of fidelity, measured
#
# The Fashion-MNIST model, same shape, same code. Columns are T-shirt, trousers, pullover, dress, coat, sandal, shirt, sneaker, bag, ankle boot.

# %% mystnb={"image": {"alt": "Four rows of ten garments, columns are the classes, rows w = 0, 1, 4 and 8. Down the rows the garments become brighter and flatter, with hard outlines."}}
fashion, fashion_card = zoo.load("fashion_mnist", device="cpu")
garments = [
    draw(
        ClassifierFree(fashion, w),
        fashion.process,
        x_T,
        uniform_times(fashion.process.T, 16),
        eta=0.0,
        y=ten,
    )
    for w in weights
]
fig, ax = plt.subplots(figsize=(5.3, 2.2), dpi=62)
_ = plots.grid(torch.cat(garments), ax=ax)
for row, w in enumerate(weights):
    ax.text(-4, side * (row + 0.5), f"w = {w:g}", ha="right", va="center")
brightness = [float(x.abs().mean()) for x in garments]
assert brightness[3] > brightness[0]

# %% [markdown]
# *What to see:* the same as at the top of the chapter, with grey values to lose: garments become brighter, flatter, more like the drawing of one.
#
# Now the numbers: 5,000 samples a cell, 20 ancestral steps with the learned variance, every $w$ with and without dynamic thresholding, all measured by the classifier of clean images; "white" is the share of pixels at the bright end of the range, "out of range" that of pixels beyond either end. The rows come from `python -m ddpmlib.experiments measure guidance` (about two hours of one core).

# %%
Markdown(experiments.guidance.table("mnist", "classifier_free"))

# %%
Markdown(experiments.guidance.table("fashion_mnist", "classifier_free"))

# %% mystnb={"image": {"alt": "Two rows of two panels over w from 0 to 8, for MNIST and Fashion-MNIST. Left, Fréchet distance, logarithmic: classifier-free guidance is least at 0 on MNIST and at 0.5 on Fashion-MNIST and rises from there; the classifier's curve rises first and then falls. Right, Inception Score: it rises with w and levels off. Lines for classifier guidance and the level of real images."}}
fig, axes = plt.subplots(2, 2, figsize=(7.5, 4.4), dpi=60)
names = {"frechet": "Fréchet distance", "inception_score": "Inception Score"}
for line_of_axes, name in zip(axes, ("mnist", "fashion_mnist"), strict=True):
    for ax, key in zip(
        line_of_axes, ("frechet", "inception_score"), strict=True
    ):
        experiments.guidance.figure(name, ax, key, threshold=False)
        ax.set_title(name, fontsize=9)
        ax.set_ylabel(names[key])
        if key == "frechet":
            ax.set_yscale("log")
_ = axes[0, 1].legend(fontsize=7)

# %% [markdown]
# *What to see:* (all without thresholds) follow the classifier-free curves: **distance and score part.** Inception Score, which asks only "is it clearly one of the classes, and are all classes there?", rises with $w$ and levels off (with ten classes no score can pass 10). The Fréchet distance, which also asks "is it as varied as the data?", is best at weak guidance and climbs from there. On Fashion-MNIST it draws the famous U: half a unit of guidance mends what the model does badly, more spoils it. A U has a left branch only where the unguided model leaves something to mend; our MNIST model stands at the floor of real images at $w=0$, so there every bit of guidance costs distance. Where a model is far from done the U is deep: [CIFAR-10](C_cifar10.ipynb). And mind the dotted line on the right: on MNIST the samples pass
# the Inception Score of *real images* without any guidance, on Fashion-MNIST from $w=0.5$ on. A score that reality does not reach is no praise.

# %% tags=["hide-input"]
from ddpmlib.experiments import results

for name in ("mnist", "fashion_mnist"):
    cells = sorted(
        results.rows(
            "guidance", dataset=name, method="classifier_free", threshold=False
        ),
        key=lambda row: row["w"],
    )
    best = min(cells, key=lambda row: row["frechet"])
    sure = max(cells, key=lambda row: row["class_agreement"])
    loud = max(cells, key=lambda row: row["inception_score"])
    print(
        f"{name}: best Fréchet {best['frechet']:.2f} at w = {best['w']:g}, "
        f"where IS = {best['inception_score']:.2f}"
    )
    print(
        f"  best IS {loud['inception_score']:.2f} at w = {loud['w']:g}, "
        f"where Fréchet = {loud['frechet']:.2f}"
    )
    print(
        f"  best agreement {sure['class_agreement']:.1%} at w = {sure['w']:g}, "
        f"where Fréchet = {sure['frechet']:.2f}"
    )
    assert loud["w"] > best["w"] <= 1 and sure["class_agreement"] > 0.99
    assert cells[-1]["frechet"] > 1.5 * best["frechet"]
    recalls = [row["recall"] for row in cells]
    assert recalls == sorted(recalls, reverse=True)

# %% [markdown]
# :::{admonition} Mind the slide
# :class: warning
# "A low temperature optimises FID, a high temperature IS" is backwards. Low temperature means strong guidance: few, typical, certain samples. That is what *Inception Score* rewards. FID wants the breadth of the data as well, so it is best at weak guidance (high temperature) and **suffers** from strong guidance. The figure above is the deck's claim, measured: read from left to right, from high temperature to low.
# :::
#
# The same as a trade: precision (how many samples look like data) over recall (how much of the data is reached), one curve per method, beside [classifier guidance](10_classifier_guidance.ipynb):

# %% mystnb={"image": {"alt": "Two panels, MNIST and Fashion-MNIST: precision over recall, one curve per method with points labelled by w. Along each curve recall falls as w rises."}}
fig, axes = plt.subplots(1, 2, figsize=(7.5, 3.0), dpi=72)
for ax, name in zip(axes, ("mnist", "fashion_mnist"), strict=True):
    experiments.guidance.tradeoff_figure(name, ax)
    ax.set_title(name, fontsize=9)
_ = axes[0].legend(fontsize=7)

# %% [markdown]
# *What to see:* the classifier-free curves are walked from right to left as $w$ grows: recall is what guidance pays with, every step of the way. What it buys by this measure is little: precision gains at most a few hundredths and falls again at large $w$, where samples leave the range of real images. The classifier's curves start elsewhere, at a model that is *not* told the class, and first lose precision before they gain it ([chapter 10](10_classifier_guidance.ipynb)). On MNIST the prices are alike:
# for an agreement above 99 % the classifier at $s=8$ and classifier-free guidance at $w=0.5$ ask the same price in distance, and classifier guidance on top of the label asks less than either. A second network and a gradient through it at each step, or a second answer of the same network: by quality alone there is little to choose on MNIST, while on Fashion-MNIST the classifier alone never gets to 99 %; and the second is a great deal simpler.


# %%
def cheapest(label, found):
    row = min(found, key=lambda row: row["frechet"])
    low, high = row["frechet_interval"]
    print(
        f"  {label:34} {row['w']:g}: {row['class_agreement']:.1%}, "
        f"{row['frechet']:.2f} [{low:.2f}, {high:.2f}]"
    )


for name in ("mnist", "fashion_mnist"):
    print(f"{name}: the least distance at an agreement of 99 % or more")
    for method, label in experiments.guidance.LABELS.items():
        enough = [
            row
            for row in results.rows(
                "guidance", dataset=name, method=method, threshold=False
            )
            if row["class_agreement"] >= 0.99
        ]
        if enough:
            cheapest(label, enough)
    limited = results.rows("guidance_interval", dataset=name)
    enough = [row for row in limited if row["class_agreement"] >= 0.99]
    cheapest("classifier-free, in an interval", enough)

# %% [markdown]
# What 99 % costs: on MNIST between 0.7 and 1.3 in distance above the unguided model (0.27), or 0.2 for one who is content with the 98.96 % of the last third; on Fashion-MNIST, with guidance at all times, *nothing*: the distance (unguided 3.16) is lower, and the price is paid in recall alone.
#
# ### No, static or dynamic thresholding
#
# Without a threshold, clipped to the range of images, and with the dynamic one; MNIST, then Fashion-MNIST:

# %%
Markdown(experiments.thresholds.table("mnist"))

# %%
Markdown(experiments.thresholds.table("fashion_mnist"))

# %% [markdown]
# *What to see:* clipping does little to the distance, a tenth more or less, and on garments it costs precision. The dynamic threshold costs a factor of five to seven in distance at $w=4$, and its "white" column says how: almost no pixel is white any more, where one in forty is on real digits and one in a hundred on garments. All contrast has been divided away. (At $w=1$ on MNIST it *lowers* the distance, from 2.7 to 1.9: some of the guidance is divided away with it, which a smaller $w$ would do as well.)
#
# ### How many labels to drop
#
# Small comparison networks, equal but for the probability $p$ of (11.4); one seed each, so differences under 40 % mean nothing.

# %%
Markdown(experiments.guidance_dropout.table())

# %% [markdown]
# *What to see:* first the net that never dropped a label. As on the small digits above, its *distance* does not give it away: at $w=1$ and $w=4$ it is that of the net with 10 %. The other columns do: at $w=1$ five of six of its pixels are out of range and five times as many are white as in real digits; at $w=4$ recall is a twentieth.
#
# Among the others, $w=0$ prefers small $p$, as it should, the conditional prediction having more examples, but by less than a second seed could undo. Under guidance **the order is reversed, and clearly**: with 50 % the distance at $w=1$ is half of that with 10 %, and at $w=4$ two fifths. Ho & Salimans found 50 % the worst of three; this net is small and its training short. An explanation that fits (11.5), and that no row here proves: a null prediction that was shown a tenth of the examples is not the unconditional model yet, and $w$ multiplies whatever else separates it from the conditional one.
#
# ### A film
#
# The predictions $\hat x_0$ of the four chains of the opening figure, from the first step to the last, for four of the classes. Rows from the top: $w=0,1,4,8$.

# %%
some = [0, 2, 5, 9]  # classes
frames = [
    plots.sheet(torch.cat([chains[w][i].x0[some] for w in weights]), ncol=4)
    for i in (*range(1, 8), 10, 16)
]
plots.film(
    frames,
    alt="Film of a denoising chain, four rows of the digits 0, 2, 5 and 9 for w = 0, 1, 4 and 8. At w = 0 blurs sharpen slowly into digits. At w = 8 the first frame is already a hard black and white caricature of each class that then loosens a little.",
    width=230,
    seconds=3.5,
)

# %% [markdown]
# *What to see:* in the first frame every row shows (11.14): the mean of the class, and ever coarser caricatures of it. The upper rows grow from vague to particular. The lower ones start as caricatures and spend the chain on finding back.
#
# ## What goes wrong
#
# Four mistakes, each one token long, on the MNIST model, at $w=4$ with a static threshold unless the text says otherwise. `roles swapped` computes $(1+w)\,\hat\varepsilon_\varnothing-w\,\hat\varepsilon_c$. `s for w` passes the other convention's number: a recipe says "scale 4", meaning $s=4$, $w=3$, and 4 is passed; here we go to where it shows, scale 1, "no guidance", passed as $w=1$. `null = 0` uses class 0 as the null label. `stale ε` thresholds $\hat x_0$ and keeps the old $\hat\varepsilon$.

# %% mystnb={"image": {"alt": "Six rows of ten digits. Correct: clean 0 to 9. Roles swapped: no column shows its class. Scale 1 meant: plain model. Scale 1 passed as w = 1: bolder. Null = 0: the column of 0 differs from the correct one, the others are clean digits. Stale epsilon: digits of other classes, as with swapped roles."}} tags=["nbval-ignore-output"]
classifier, _ = zoo.load("mnist-classifier", device="cpu")


@torch.no_grad()
def wrong(x, w, bug=""):
    for t, s in pairwise(times):
        null = 0 * ten + (0 if bug == "null = 0" else 10)
        both = mnist(torch.cat([x, x]), t, torch.cat([ten, null])).x0
        first, second = both.chunk(2)
        if bug == "roles swapped":
            first, second = second, first
        x0 = first + w * (first - second)
        eps = process.eps_from_x0(x, x0, t)
        x0 = x0.clamp(-1, 1)
        if bug != "stale ε":
            eps = process.eps_from_x0(x, x0, t)
        x = process.scale[s].float() * x0 + process.std[s].float() * eps
    return x


shown = {
    "correct": kept["static"],
    "roles swapped": wrong(x_T, 4.0, "roles swapped"),
    "scale 1 meant": chains[0.0][-1].x,
    "s for w": chains[1.0][-1].x,
    "null = 0": wrong(x_T, 4.0, "null = 0"),
    "stale ε": wrong(x_T, 4.0, "stale ε"),
}
assert (wrong(x_T, 4.0) - kept["static"]).abs().max() < 0.01
fig, ax = plt.subplots(figsize=(5, 3.1), dpi=56)
_ = plots.grid(torch.cat(list(shown.values())), ax=ax)
found = {}
for row, (name, x) in enumerate(shown.items()):
    ax.text(-4, side * (row + 0.5), name, ha="right", va="center", size=9)
    _, logits = features.extract(classifier, x)
    found[name] = metrics.class_agreement(logits, ten)
    print(
        f"{name:14} agreement {found[name]:4.0%}   ink (mean pixel) {x.mean():5.2f}"
    )
assert found["correct"] == 1 and found["null = 0"] > 0.8
assert max(found["roles swapped"], found["stale ε"]) < 0.4
same = (shown["null = 0"][0] - shown["scale 1 meant"][0]).abs().mean()
assert (
    same < 0.02 < (shown["correct"][0] - shown["scale 1 meant"][0]).abs().mean()
)

# %% [markdown]
# *What to see:* row 2, the wrong sign, is loud: every column shows anything but its class. Row 4 against row 3 is the quiet one: both are fine digits, and nothing tells you that the "unguided" baseline of your table is guided. Row 5 is quiet, too. Look at the column of 0: there label and "null" are the same and guidance is off, so the zero is that of row 3; all others are driven away from zeros instead of from the average digit, and `mnist-classifier` reads every one of them. Row 6 breaks (11.13) and is as bad as the wrong sign, for
# a reason worth a minute: the noise of the *raw* prediction is $(x_t-\sqrt{\bar\alpha_t}\,\hat x_0)/\sqrt{1-\bar\alpha_t}$, with the whole overshoot subtracted. The clip takes the push away from $\hat x_0$ and leaves its recoil in $\hat\varepsilon$: the sum is guidance *away* from the class.
#
# The tests that catch them, in `tests/test_guidance.py`: `test_w_weighs_as_the_book_says` and `test_classifier_free_is_classifier_guidance_of_strength_1_plus_w` (roles, sign and convention, on a mixture with exact predictions), `test_the_null_label_of_a_network_is_what_y_none_means` and `test_both_passes_are_one_batch_with_the_null_label_behind` (null label), `test_the_noise_is_that_of_the_thresholded_prediction` (stale $\hat\varepsilon$).
#
# ## Exercises
#
# Write your answer into the cell below each question and take the `#` off its last line: the check
# says yes, or gives a hint. ★ asks for a derivation, ★★ for code, ★★★ for a small project of both.
# Solutions are folded.
#
# ### ★ Exercise 11.1
#
# A program has an option `guidance_scale` in the convention of Imagen and Stable Diffusion. Give the pair `(to_w, combine)`: `to_w(scale)` is the number that our `ClassifierFree` needs for the same images, and `combine(eps_c, eps_null, scale)` is the guided noise in *their* formula.
#
# :::{dropdown} Hint
# At `scale = 1` nothing is guided, at `scale = 0` the model is unconditional. Which $w$ are these?
# :::

# %%
from ddpmlib.teaching import exercises

answer = ...  # (to_w, combine)

# exercises.check("11.1", answer)


# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
# Solution of exercise 11.1
def to_w(scale):
    return scale - 1


def combine(eps_c, eps_null, scale):
    return eps_null + scale * (eps_c - eps_null)


exercises.check("11.1", (to_w, combine))

# %% [markdown]
# ### ★★ Exercise 11.2
#
# Nothing in (11.3) needs the second prediction to be the null one. "Negative prompts" guide towards one class and *away from another*. Write `away(denoiser, x_t, t, y, z, w)` that returns $\hat x_0=\hat x_y+w\,(\hat x_y-\hat x_z)$ for labels `y` and `z` (both (B,)), and asks the denoiser **once**. Which density is tilted, in the sense of (11.6)?
#
# :::{dropdown} Hint
# One batch of $2B$ samples, as in `ClassifierFree.forward`. For the density replace $p(x_0)$ by $p(x_0\mid z)$.
# :::

# %%
answer = ...  # a function (denoiser, x_t, t, y, z, w) -> x_0

# exercises.check("11.2", answer)


# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
# Solution of exercise 11.2: p(x|y)^(1+w) / p(x|z)^w, that is p(x|y) (p(y|x)/p(z|x))^w
def away(denoiser, x_t, t, y, z, w):
    both = denoiser(torch.cat([x_t, x_t]), t, torch.cat([y, z])).x0
    towards, against = both.chunk(2)
    return towards + w * (towards - against)


exercises.check("11.2", away)

# %% [markdown]
# ### ★★ Exercise 11.3
#
# A class $\mathcal N(m,c)$ in data $\mathcal N(0,C)$. Where do the samples of infinitely strong guidance lie? Give `limit(m, c, C)`, the point to which (11.8), (11.9) and (11.10) tend as $w\to\infty$, and `halving(c, C)`, the weight $w$ at which the *DDIM* variance has fallen to half of the class's.
#
# :::{dropdown} Hint
# $\rho^{w+1}\to0$ in (11.10); or: where is $p(x\mid y)/p(x)$ largest? For the second solve $\rho^w=\frac12$.
# :::

# %%
answer = ...  # (limit, halving)

# exercises.check("11.3", answer)


# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
# Solution of exercise 11.3
def limit(m, c, C):
    return m / (1 - c / C)


def halving(c, C):
    return math.log(2) / math.log(C / c)


exercises.check("11.3", (limit, halving))

# %% [markdown]
# ### ★★★ Exercise 11.4
#
# Guidance in an interval, exactly. For the Gaussians of (11.9), guided with $w$ only at noise $u_{\text{low}}\le u\le u_{\text{high}}$ (with $u=(1-\bar\alpha)/\bar\alpha$) and with $w=0$ outside, give `variance(c, C, w, u_low, u_high)` of what DDIM samples in fine steps. Check that $u_{\text{low}}=0$, $u_{\text{high}}=\infty$ is (11.9). Does halving the interval *in $\log u$* halve the effect?
#
# :::{dropdown} Hint
# $V'/V=a(u)$, and $a$ is a sum of a part that always acts and a part with the factor $w$ that acts inside only. Integrate each over its own range.
# :::

# %%
answer = ...  # a function (c, C, w, u_low, u_high) -> variance

# exercises.check("11.4", answer)


# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
# Solution of exercise 11.4: log V = log c − w ∫ (1/(c+u) − 1/(C+u)) du over the interval.
# No: the derivative in log u is w (C − c) u / ((c + u) (C + u)), largest at u = √(cC) and
# fading on both sides. With ρ = c/C between c and C falls 1 − 2 log(2/(1+ρ)) / log(1/ρ) of it.
def variance(c, C, w, u_low, u_high):
    inside = (c + u_low) / (C + u_low)
    if math.isfinite(u_high):
        inside *= (C + u_high) / (c + u_high)
    return c * inside**w


exercises.check("11.4", variance)

# %% [markdown]
# ## Recap
#
# 1. Conditional score minus unconditional score is the gradient of a classifier; guidance goes $w$ times further along it: $\hat x_0=\hat x_c+w(\hat x_c-\hat x_\varnothing)$, in every parameterization. The other convention is $s=1+w$.
# 2. Labels dropped by an independent coin make one network learn both predictions; without them the null label is a random direction, and nothing warns.
# 3. A guided chain does not sample $p(x)\,p(y\mid x)^{1+w}$: tilting and adding noise do not commute. It overshoots, drops modes, and DDIM does so more than ancestral sampling.
# 4. Large $w$ leaves the range. Clip on data that live at its ends, rescale on data that live inside, and form $\hat\varepsilon$ anew.
# 5. Fréchet distance is best at weak guidance or none, Inception Score at strong guidance; most of the loss of diversity happens early in the chain, where guidance can be left out.
#
# The equations of this chapter, the functions that implement them, the tests that pin them:

# %% mystnb={"code_prompt_show": "Equations, functions, tests", "code_prompt_hide": "Hide the table"} tags=["hide-cell"]
from ddpmlib import equations

equations.table("11")

# %% [markdown]
# ## Further reading
#
# - Ho & Salimans (2022), *Classifier-free diffusion guidance* {cite}`ho2022classifierfree`: their (6) is our (11.2); the tables behind the FID and IS curves, and the dropout probabilities.
# - Dhariwal & Nichol (2021), *Diffusion models beat GANs* {cite}`dhariwal2021diffusion`: the classifier that this chapter does without.
# - Nichol et al. (2022), *GLIDE* {cite}`nichol2022glide`: classifier-free guidance for text, against guidance by CLIP.
# - Saharia et al. (2022), *Imagen* {cite}`saharia2022photorealistic`: section 2.3 on thresholds.
# - Rombach et al. (2022), *Latent diffusion* {cite}`rombach2022high`: the model behind the scale 7.5; there the range of a latent is nobody's promise, and nothing is clipped.
# - Kynkäänniemi et al. (2024), *Applying guidance in a limited interval* {cite}`kynkaanniemi2024applying`: when to guide.
# - Bradley & Nakkiran (2024), *Classifier-free guidance is a predictor–corrector* {cite}`bradley2024classifier`: what DDPM and DDIM sample under guidance, and that neither is the tilted distribution.
# - Karras et al. (2024), *Guiding a diffusion model with a bad version of itself* {cite}`karras2024guiding`: the second prediction need not be the null one, see exercise 11.2.
