# %% [markdown]
# # 10. Scores, Langevin, and guidance by a classifier
#
# [![Open in Colab](../book/_static/colab.svg)](https://colab.research.google.com/github/ddpm-book/ddpm-book/blob/main/notebooks/10_classifier_guidance.ipynb)
#
# The network that drew these digits was not told which digit to draw. A second network, one that can read digits
# through noise, pulled it towards a class; all it contributed is a gradient, added at every step. This chapter derives
# why that is Bayes' rule, computes what it samples when the pull is made stronger than Bayes would, and shows two ways in which it fails.

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

# %% mystnb={"image": {"alt": "Four rows of ten MNIST digits for the strengths 0, 1, 4 and 10, columns for the classes 0 to 9. The first row has nothing to do with the columns, in the second most digits are those of their column, in the last two all or nearly all."}} tags=["nbval-ignore-output"]
import matplotlib.pyplot as plt
import torch
from ddpmlib import zoo
from ddpmlib.evaluation import features, metrics
from ddpmlib.guidance import ClassifierGuidance, Unconditional, interval
from ddpmlib.samplers import draw, uniform_times

mnist, card = zoo.load("mnist", device="cpu")
mnist_classifier, class_card = zoo.load("mnist-noisy-classifier", device="cpu")
process, T = mnist.process, mnist.process.T
alpha_bar = process.alpha_bar
untold = Unconditional(mnist)  # this denoiser never hears which class is wanted


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def guided_grid(denoiser, classifier, strengths, shape, seed, eta=0.0):
    """One row per strength, one column per class, the same noise in a column."""
    noise = torch.randn(10, *shape, generator=seeded(seed))
    rows = []
    for s in strengths:
        guided = ClassifierGuidance(denoiser, classifier, interval(s, 1, 900))
        rows.append(
            draw(
                guided,
                denoiser.process,
                noise,
                uniform_times(denoiser.process.T, 20),
                eta=eta,
                y=torch.arange(10),
                generator=seeded(seed + 1),
            )
        )
    return torch.cat(rows)


def labelled(images, names, zoom):
    """Rows with names, columns for the classes 0 to 9, whole-number zoom."""
    side = zoom * (images.shape[-1] + 1)
    w, h = 10 * side, len(names) * side
    fig = plt.figure(
        figsize=((w + 90) / 100, (h + 50) / 100), dpi=100, layout="none"
    )
    box = 85 / (w + 90), 45 / (h + 50), w / (w + 90), h / (h + 50)
    shades = (8 * images.clamp(-1, 1)).round() / 8  # 17 of them: small files
    ax = plots.grid(shades, ncol=10, ax=fig.add_axes(box))
    ax.set_axis_on()
    ax.grid(False)
    places = [(side / zoom) * (k + 0.5) for k in range(10)]
    ax.set_xticks(places, range(10))
    ax.set_yticks(places[: len(names)], names)
    ax.tick_params(length=0)
    return ax


strengths = (0.0, 1.0, 4.0, 10.0)
images = guided_grid(untold, mnist_classifier, strengths, card.image_shape, 1)
ax = labelled(images, [f"s = {s:g}" for s in strengths], 2)
_ = ax.set_xlabel("class that the classifier is asked for")
mnist_extractor, _ = zoo.load("mnist-classifier", device="cpu")
_, logits = features.extract(mnist_extractor, images)
agreed = [
    metrics.class_agreement(part, torch.arange(10)) for part in logits.split(10)
]
print(
    "mnist-classifier reads the class asked for in:",
    *(f"{share:.0%}" for share in agreed),
)
assert agreed[0] < 0.4 and min(agreed[2:]) > 0.7

# %% [markdown]
# *What to see:* the network that draws is never told which digit is wanted. In the first row it draws whatever its noise suggests. Below, a *second* network, which reads digits out of
# noise, pulls at every step with strength $s$ towards the class of the column. The pull is the gradient of a log-probability, and the first half of this chapter is about such
# gradients.
#
# ## Objectives
#
# After this chapter you can
#
# - say what a score is, read it off any denoiser, and sample with nothing else (Langevin), knowing the bias, the stability bound, and when chains miss a mode;
# - derive classifier guidance from Bayes' rule, in the form that shifts $\hat\varepsilon$ and in the one that shifts the mean of a step, and say where the two part;
# - explain why the classifier has to be trained on noisy images, and what its exact gradient is;
# - compute what strength $s\ne1$ samples, and show that it is *not* $p(x)\,p(y\mid x)^s$;
# - train a noisy classifier, guide with it, and measure what is won and what is lost.
#
# ## The idea in a picture
#
# Six clusters in the plane, two of each of three classes, and their exact denoiser. Noise blurs the density $q(x_t)$; the arrows show in which direction it grows.

# %% mystnb={"image": {"alt": "Four panels of the plane at times 50, 300, 600 and 900: density as shading, arrows that point uphill. At t = 50 the arrows lead to the nearest of six clusters, at t = 300 the clusters begin to merge, at 600 and 900 all arrows point to the centre."}}
from ddpmlib import data
from ddpmlib.denoiser import oracle

weights = torch.tensor([2.0, 1, 1, 2, 1, 1])
widths = torch.tensor([0.30, 0.20, 0.30, 0.25, 0.35, 0.20])
labels = torch.tensor([0, 0, 1, 1, 2, 2])
plane = oracle.Mixture(process, weights, data.ring_means(6), widths, labels)


def lattice(n, reach=2.4):
    axis = torch.linspace(-reach, reach, n)
    return torch.cartesian_prod(axis, axis).flip(1)  # rows run over x_2


def shade(ax, values, n, cmap="Blues", levels=8):
    axis = torch.linspace(-2.4, 2.4, n)
    ax.grid(False)
    ax.contourf(axis, axis, values.reshape(n, n), levels=levels, cmap=cmap)
    ax.set(xlabel="$x_1$", xticks=(-2, 0, 2), yticks=(-2, 0, 2), aspect="equal")


def arrows(ax, at, field, **options):
    ax.quiver(*at.T, *field.T, angles="xy", scale_units="xy", **options)


levels = (50, 300, 600, 900)
fine, coarse = lattice(60), lattice(9)
fig, axes = plt.subplots(1, 4, figsize=(7.5, 2.2), sharey=True, dpi=56)
for ax, t in zip(axes, levels, strict=True):
    shade(ax, plane.log_prob(fine, t).exp(), 60)
    noise_wise = float(process.std[t]) * plane.score(coarse, t)  # = −ε̂
    arrows(ax, coarse, noise_wise, scale=6, width=0.007)
    ax.set_title(f"t = {t}")
_ = axes[0].set_ylabel("$x_2$")

# %% [markdown]
# *What to see:* the arrows are $\sqrt{1-\bar\alpha_t}\,\nabla\log q(x_t)=-\hat\varepsilon$. With little noise they lead into the nearest cluster and know nothing of the others; with much noise they all point to the middle. A walk
# that follows them from right to left arrives at the clusters; a walk that only knows the left panel gets stuck in the first one it meets. Both will be measured.
#
# ## What a score is
#
# The **score** of a density $p$ is the vector field $\nabla\log p(x)$. It needs no normaliser: if $p=\tilde p/Z$, then $\nabla\log p=\nabla\log\tilde p$. [Chapter 02](02_reverse.ipynb) found it inside the
# denoiser. Again, in three lines: since $q(x_t)=\int q(x_0)\,q(x_t\mid x_0)\,dx_0$, and since $\nabla q(x_t\mid x_0)=q(x_t\mid x_0)\,\nabla\log q(x_t\mid x_0)$,
#
# $$
# \nabla\log q(x_t)=\frac{\int q(x_0)\,q(x_t\mid x_0)\,\nabla\log q(x_t\mid x_0)\,dx_0}{q(x_t)}=\mathbb E\big[\nabla\log q(x_t\mid x_0)\,\big|\,x_t\big] .
# $$
#
# The score of what we see is the average score of what may be behind it. For the kernel $\mathcal N(\sqrt{\bar\alpha_t}\,x_0,(1-\bar\alpha_t)I)$ that gradient is $(\sqrt{\bar\alpha_t}\,x_0-x_t)/(1-\bar\alpha_t)$, linear in $x_0$, so
#
# $$
# \nabla\log q(x_t)=\frac{\sqrt{\bar\alpha_t}\;\hat x_0-x_t}{1-\bar\alpha_t}=-\frac{\hat\varepsilon}{\sqrt{1-\bar\alpha_t}},\qquad \hat x_0=\mathbb E[x_0\mid x_t] .
# \tag{10.1}
# $$
#
# One prediction, three names. Every denoiser of this book is a score, and with labels it is the score of $q(x_t\mid y)$:

# %%
from ddpmlib.denoiser import score

x = lattice(5).requires_grad_()
for t in levels:
    (by_autograd,) = torch.autograd.grad(plane.log_prob(x, t).sum(), x)
    with torch.no_grad():
        x0 = plane(x, t).x0
        eps = process.eps_from_x0(x, x0, t)
        by_x0 = (alpha_bar[t].sqrt() * x0 - x) / (1 - alpha_bar[t])
        assert torch.allclose(by_x0.float(), by_autograd, atol=1e-3)
        assert torch.allclose(-eps / process.std[t], by_x0, atol=1e-3)
        assert torch.allclose(score(plane, x, t), by_x0.float(), atol=1e-5)
print("autograd of log q, the prediction, the noise and the library agree")

# %% [markdown]
# ## Langevin: a sampler made of a score
#
# Walk uphill with a small step $h$, and add noise:
#
# $$
# x\;\leftarrow\;x+h\,\nabla\log p(x)+\sqrt{2h}\;z,\qquad z\sim\mathcal N(0,I) .
# \tag{10.2}
# $$
#
# ### Why it samples p
#
# Take any smooth function $f$ that vanishes far out and expand $f(x+\delta)$ with $\delta=h\,g+\sqrt{2h}\,z$, $g=\nabla\log p$. The first order gives $h\,g\cdot\nabla f+\sqrt{2h}\,z\cdot\nabla f$, the second
# $\tfrac12\cdot2h\,z^\top(\nabla^2f)\,z$ and smaller things. On average over $z$ the odd power vanishes and $\mathbb E\,z^\top(\nabla^2f)z=\Delta f$ (the Laplacian):
#
# $$
# \mathbb E\,f(x+\delta)=f+h\,\big(g\cdot\nabla f+\Delta f\big)+O(h^2) .
# $$
#
# So with $\tau=hk$ as the clock, and in the limit of small $h$, the distribution $p_\tau$ of the chain changes by $\frac{d}{d\tau}\int f\,p_\tau=\int(g\cdot\nabla f+\Delta f)\,p_\tau$. Integrate by parts, once in the first term and twice in the second; since $f$ was arbitrary,
#
# $$
# \partial_\tau p_\tau=-\nabla\cdot\big(p_\tau\nabla\log p\big)+\Delta p_\tau=\nabla\cdot\Big(p_\tau\,\nabla\log\frac{p_\tau}{p}\Big),
# \tag{10.3}
# $$
#
# the **Fokker–Planck equation** (the second form because $\Delta p_\tau=\nabla\cdot(p_\tau\nabla\log p_\tau)$). At $p_\tau=p$ the logarithm is zero: **p does not move.** And it is where everything else moves to:
#
# $$
# \frac{d}{d\tau}\,\mathrm{KL}(p_\tau\Vert p)=\int\Big(\log\frac{p_\tau}{p}+1\Big)\,\partial_\tau p_\tau=-\int p_\tau\,\Big\lVert\nabla\log\frac{p_\tau}{p}\Big\rVert^2\le0,
# $$
#
# zero only if $p_\tau/p$ is constant. The noise is no garnish: without it (10.2) climbs to the nearest mode and stays there. And its size is fixed by the drift:
#
# :::{admonition} Mind the slide
# :class: warning
# Two forms of (10.2) circulate: $h\nabla\log p+\sqrt{2h}\,z$, and $\frac\epsilon2\nabla\log p+\sqrt\epsilon\,z$ in the papers on score models. They are one, with $\epsilon=2h$. A line that takes the drift of the first and the noise of
# the second, $x+h\nabla\log p+\sqrt h\,z$, has $\frac12\Delta p_\tau$ in (10.3) and samples $p^2$; the other mixture samples $\sqrt p$. Both look like samples.
# :::
#
# Sympy on a two-humped density, for every point at once, and on the slip:

# %% tags=["hide-input"]
import sympy as sp

u, h_s, v_s, V_s = sp.symbols("u h v V", positive=True)
hump = sp.exp(-((u - 1) ** 2)) + 2 * sp.exp(-2 * (u + 1) ** 2)


def flow(density, target, noise=1):  # the right side of (10.3) in one dimension
    drift = density * sp.diff(sp.log(target), u)
    return -sp.diff(drift, u) + noise * sp.diff(density, u, 2)


assert sp.simplify(flow(hump, hump)) == 0
half = sp.Rational(1, 2)
assert sp.simplify(flow(hump, hump, half)) != 0
assert sp.simplify(flow(hump**2, hump, half)) == 0
assert sp.simplify(flow(sp.sqrt(hump), hump, 2)) == 0
print("stationary: p as printed, p² with half the noise, √p with twice")

# %% [markdown]
# ### From scratch, then from the library

# %%
from ddpmlib.samplers import langevin, step_size


def walk(score, x, h, steps, generator):
    for _ in range(steps):
        z = torch.randn(x.shape, generator=generator)
        x = x + h * score(x) + (2 * h) ** 0.5 * z
    return x


start = torch.randn(200, 2, generator=seeded(0))
ours = walk(lambda x: plane.score(x, 300), start, 0.01, 50, seeded(1))
*_, theirs = langevin(
    plane, process, start, t=300, h=0.01, steps=50, generator=seeded(1)
)
assert torch.allclose(ours, theirs.x, atol=1e-3)
print("four lines and the library agree over 50 steps")

# %% [markdown]
# ### A finite step has a bias, and we know it exactly
#
# For $p=\mathcal N(0,\sigma^2)$ the step is linear: $x\leftarrow(1-h/\sigma^2)\,x+\sqrt{2h}\,z$. The chain stays Gaussian, and its variance goes
#
# $$
# V\leftarrow\Big(1-\frac h{\sigma^2}\Big)^2V+2h,\quad\text{which settles at}\quad V_h=\frac{2\sigma^4}{2\sigma^2-h}\ \ (h<2\sigma^2).
# \tag{10.4}
# $$
#
# (Put $V$ on both sides: $V\,(2h/\sigma^2-h^2/\sigma^4)=2h$.) To first order $V_h\approx\sigma^2+h/2$: **too wide, however long one waits**. The factor $|1-h/\sigma^2|$ reaches 1 at $h=2\sigma^2$; beyond it the chain explodes. In many dimensions this holds along every axis, and
# the *narrowest* direction sets the bound, while the widest takes $\sigma_{\max}^2/h$ steps to cross. (A Metropolis test after each step would remove the bias; it needs $\log p$, and we have only its gradient.)

# %% tags=["hide-input"]
settled = sp.solve(sp.Eq(V_s, (1 - h_s / v_s) ** 2 * V_s + 2 * h_s), V_s)
assert len(settled) == 1
assert sp.simplify(settled[0] - 2 * v_s**2 / (2 * v_s - h_s)) == 0
assert sp.series(settled[0], h_s, 0, 2).removeO().equals(v_s + h_s / 2)

# %% mystnb={"image": {"alt": "Variance of Langevin chains over the target variance against the step size over the target variance: a curve that starts at one and rises towards infinity at two, with measured dots on it."}} tags=["nbval-ignore-output"]
shares, measured = (0.1, 0.5, 1.0, 1.5, 1.8), []
for share in shares:  # target N(0, 1), so h = share
    x = torch.randn(20_000, generator=seeded(2))
    measured.append(walk(lambda x: -x, x, share, 80, seeded(3)).var().item())
    assert abs(measured[-1] / (2 / (2 - share)) - 1) < 0.06
h = torch.linspace(0, 1.9, 100)
fig, ax = plt.subplots(figsize=(5, 2.3), dpi=60)
ax.plot(h, 2 / (2 - h), label="$2/(2-h/\\sigma^2)$, equation (10.4)")
ax.plot(shares, measured, "o", label="20,000 chains, 80 steps")
ax.axvline(2, color=plots.GREY, ls=":")
ax.set(
    xlabel="step $h/\\sigma^2$", ylabel="variance / $\\sigma^2$", ylim=(0, 12)
)
_ = ax.legend()

# %% [markdown]
# *What to see:* the dots lie on the formula. At $h=\sigma^2$ the chain has no memory at all and draws afresh each time, with twice the right variance; at the dotted line no stationary distribution is left.
#
# ### Chains that find modes, and chains that miss them
#
# Two islands at $-1$ and $+1$, twenty of their own widths apart, with the weights 0.2 and 0.8. The chains start from $\mathcal N(0,1)$, half on either side. Left, 400 steps at the lowest noise. Right, the same 400 calls
# spread over 40 noise levels, from high to low, ten at each: **annealed Langevin** {cite}`song2019generative`.

# %% mystnb={"image": {"alt": "Paths of chains over 400 steps, target modes at minus one and one. Left: paths stay on the side where they began. Right, annealed: paths wander widely for the first half, then split, most of them to plus one."}} tags=["nbval-ignore-output"]
from ddpmlib.process import DDPM, schedules
from ddpmlib.samplers import annealed_langevin

short = DDPM(schedules.cosine(40))
islands = oracle.Mixture(
    short, torch.tensor([0.2, 0.8]), torch.tensor([[-1.0], [1.0]]),
    torch.tensor([0.1, 0.1]),
)  # fmt: skip
start = torch.randn(2000, 1, generator=seeded(4))
plain = list(
    langevin(islands, short, start, t=1, h=step_size(short, 1, 0.3), steps=400,
             generator=seeded(5))
)  # fmt: skip
annealed = list(
    annealed_langevin(islands, short, start, steps=10, snr=0.3,
                      generator=seeded(5))
)  # fmt: skip
fig, axes = plt.subplots(1, 2, figsize=(7.5, 2.4), sharey=True, dpi=56)
for ax, states, each, name in (
    (axes[0], plain, 1, "plain, at t = 1"),
    (axes[1], annealed, 10, "annealed, t = 40, 39, …, 1"),
):
    paths = torch.stack([s.x[:8, 0] for s in states])
    right = float((states[-1].x > 0).float().mean())
    steps = torch.arange(len(paths)) * each
    ax.plot(steps, paths, lw=0.5, color=plots.BLUE, alpha=0.6)
    ax.set(title=f"{name}: {right:.2f} end right", xlabel="network calls")
_ = axes[0].set_ylabel("$x$")
shares = [float((s[-1].x > 0).float().mean()) for s in (plain, annealed)]
moved = float(((plain[-1].x > 0) != (start > 0)).float().mean())
print(f"plain: {moved:.1%} of the chains ended on the other side")
assert abs(shares[0] - 0.5) < 0.04 and abs(shares[1] - 0.8) < 0.05
assert moved < 0.05

# %% [markdown]
# *What to see:* on the left nearly every chain walks to its own shore and stays. Each island is drawn *perfectly*, and the shares are those of the start, 0.5 instead of 0.8. Nothing in a single picture betrays it. The score is a local thing: inside an island $\nabla\log p$ does not contain the island's weight
# at all, because a constant factor has no gradient. The weight stands only in the strait between, where no chain ever goes. On the right the straits are closed at first, and by the time they open each island has its share.
#
# How long would plain chains take? Count crossings of the middle, at several noise levels, from chains that have the right distribution to begin with:

# %% tags=["nbval-ignore-output"]
print("  t   noise √(1−ᾱ)   crossings of the middle per chain in 100 steps")
crossings = {}
for t in (1, 3, 5, 7, 10, 15, 25, 35):
    x = islands.draw(1000, t, seeded(6))
    signs = torch.stack(
        [
            s.x > 0
            for s in langevin(islands, short, x, t, step_size(short, t, 0.3),
                              100, generator=seeded(7))
        ]
    )  # fmt: skip
    crossings[t] = float((signs[1:] != signs[:-1]).sum() / 1000)
    print(f"{t:3d} {float(short.std[t]):10.2f} {crossings[t]:18.2f}")
assert crossings[1] == 0 and crossings[35] > 5

# %% [markdown]
# The passage is shut up to $t=5$ (hardly a crossing in 100,000 steps), ajar at $t=7$ and wide open at $t=15$, where the noise is a third as wide as the strait. Annealing works because, going down, every level starts from a distribution that is nearly right already; the level only has to repair the little that one step of noise changes.
#
# ### Which step at which level?
#
# By (10.4) the stable step goes with the square of the narrowest width. At noise level $t$ nothing is narrower than the noise itself, $\sigma^2\ge1-\bar\alpha_t$ per coordinate. So
#
# $$
# h_t=2r^2\,(1-\bar\alpha_t),\qquad r<1,
# \tag{10.5}
# $$
#
# is stable for *all* data (and any $r<1$), and what does it mean? For a single point as data the score is $-z/\sqrt{1-\bar\alpha_t}$ with a standard normal $z$, so the drift $h\lVert\nabla\log q\rVert$ is $r$ times as long as the noise $\sqrt{2h}\,\lVert z\rVert$: $r$ is a signal-to-noise ratio. That is the rule of Song et al. {cite}`song2021score`
# with the average norm in place of each chain's own. The bias of (10.4) at $\sigma^2=1-\bar\alpha_t$ is then $1/(1-r^2)$: 2.6 % at their $r=0.16$. The price: where data are wider than the noise, the late levels move little, and what annealing missed above stays missed.
#
# ### Predictor and corrector
#
# The reverse step of [chapter 03](03_ddpm.ipynb) moves *between* levels, Langevin moves *within* one and knows how to repair a distribution that is not quite right. So do both: a step, then a few Langevin steps where it arrived. Does it help when steps are few? A ring of six clusters with its exact denoiser, energy distance to the truth (see [chapter 07](07_ddim.ipynb)), six seeds:

# %% tags=["nbval-ignore-output"]
from ddpmlib.samplers import predictor_corrector

ring = oracle.Mixture(
    process, torch.tensor([1.0, 2, 3, 1, 2, 3]), data.ring_means(6),
    torch.full((6,), 0.15),
)  # fmt: skip


def energy_distance(a, b):
    def within(x):
        return torch.cdist(x, x).sum() / (len(x) * (len(x) - 1))

    return float(2 * torch.cdist(a, b).mean() - within(a) - within(b))


def distances(n, corrected, seeds=6):
    found = []
    for seed in range(seeds):
        x = torch.randn(1000, 2, generator=seeded(seed))
        how = {"eta": 0.0, "generator": seeded(10 + seed)}
        times = uniform_times(T, n)
        if corrected:
            *_, last = predictor_corrector(
                ring, process, x, times, snr=0.3, **how
            )
            x = last.x
        else:
            x = draw(ring, process, x, times, **how)
        truth = ring.draw(1000, generator=seeded(20 + seed))
        found.append(1000 * energy_distance(x, truth))
    return torch.tensor(found)


print("energy distance × 1000, mean ± standard deviation of 6 seeds, η = 0")
print("levels n     n steps      n × (step + correction)     2n − 1 steps")
pc = {}
for n in (3, 5, 10):
    pc[n] = [
        distances(n, False),
        distances(n, True),
        distances(2 * n - 1, False),
    ]
    cells = [f"{d.mean():6.1f} ± {d.std():3.1f}" for d in pc[n]]
    print(f"{n:5d}   {cells[0]:>14} {cells[1]:>20} {cells[2]:>22}")
assert pc[3][2].mean() < pc[3][1].mean() < pc[3][0].mean()

# %% [markdown]
# Read a line from left to right. The correction improves on the same number of levels. The third column spends the *same number of network calls* as the second on more levels instead: at three levels that is far better, at five it makes no difference, and at ten the samples are too few to tell. A corrector repairs a distribution that is nearly right; where levels are so far apart that much has to be repaired, it pays to put one in between. Song et al. {cite}`song2021score` report for their networks, at a thousand levels, that one correction is worth more than doubling the levels. The two findings are no contradiction: there, steps are plentiful and the score is not exact.
#
# ## Bayes' rule on scores
#
# Now a class $y$ is wanted. Bayes' rule at noise level $t$ is $q(x_t\mid y)=q(x_t)\,p(y\mid x_t)/p(y)$. Take the logarithm, then the gradient in $x_t$; $p(y)$ does not depend on $x_t$ and is gone:
#
# $$
# \nabla\log q(x_t\mid y)=\nabla\log q(x_t)+\nabla\log p(y\mid x_t) .
# \tag{10.6}
# $$
#
# The unconditional denoiser knows the first term. The second is the gradient of a *classifier*, an ordinary network with a softmax, differentiated with respect to its input instead of its weights. Any model can be guided after the fact, by a class, a caption, a measurement.
#
# ### It must be a classifier of noisy images
#
# What is $p(y\mid x_t)$? The noise is drawn without a look at the label, so given $x_0$ the pair $(x_t,y)$ is independent, and
#
# $$
# p(y\mid x_t)=\int p(y\mid x_0,x_t)\,q(x_0\mid x_t)\,dx_0=\mathbb E\big[p(y\mid x_0)\,\big|\,x_t\big] .
# \tag{10.7}
# $$
#
# The average verdict over all clean images that may be behind $x_t$. That is not $p(y\mid x_0{=}x_t)$, the verdict on the noisy image as if it were a clean one, nor the verdict on one guess $\hat x_0$, because the mean of a function is not the function of the mean. And it can be learned like every posterior mean of this book:
# noise the images, draw $t$, minimise the cross-entropy $-\log p_\phi(y\mid x_t,t)$. By Gibbs' inequality the expected loss at a given $(x_t, t)$, $-\sum_yp(y\mid x_t)\log p_\phi(y\mid x_t,t)$, is smallest at $p_\phi=p(y\mid x_t)$. So the classifier of (10.6) is the one of chapter 03's training loop: same $x_t$, same $t$, another target.

# %% mystnb={"image": {"alt": "Two rows of three panels at times 50, 300, 900. Shading: probability of class 0. Upper row, exact classifier of noisy points: borders blur with t, arrows shrink. Lower row, the classifier of clean points asked at the same places: the same sharp borders at all times, long arrows."}} tags=["nbval-ignore-output"]
from ddpmlib.guidance import class_gradient


def noisy_logits(x, t):  # the exact p(y|x_t)
    return plane.class_logits(x, t)


def clean_logits(x, t):  # exact, too, but of clean points; deaf to t
    return plane.class_logits(x, 0)


zeros = torch.zeros(len(coarse), dtype=torch.int64)
fig, axes = plt.subplots(
    2, 3, figsize=(6.2, 4.1), sharey=True, sharex=True, dpi=54
)
print("mean length of the gradient of log p(y = 0 | x_t), x_t ~ q(x_t)")
print("   t     noisy     clean")
lengths = {}
for column, t in zip(axes.T, (50, 300, 900), strict=True):
    x_t = plane.draw(500, t, seeded(8))
    wanted = torch.zeros(500, dtype=torch.int64)
    for ax, classifier in zip(
        column, (noisy_logits, clean_logits), strict=True
    ):
        verdict = classifier(fine, t).softmax(1)[:, 0]
        shade(ax, verdict, 60, "Oranges", levels=torch.linspace(0, 1, 8))
        field = class_gradient(classifier, coarse, t, zeros)
        arrows(ax, coarse, field, scale=30, width=0.007)
        slope = class_gradient(classifier, x_t, t, wanted)
        lengths[t, classifier] = float(slope.norm(dim=1).mean())
    column[0].set(title=f"t = {t}", xlabel="")
    print(
        f"{t:4d} {lengths[t, noisy_logits]:9.2f} {lengths[t, clean_logits]:9.2f}"
    )
axes[0, 0].set_ylabel("noisy: $x_2$")
_ = axes[1, 0].set_ylabel("clean: $x_2$")
assert lengths[900, clean_logits] > 50 * lengths[900, noisy_logits]

# %% [markdown]
# *What to see:* above, the right classifier becomes unsure as the noise grows, its borders blur and its arrows shrink: in a point drowned in noise nothing can be read. Below, the classifier of clean points is just as exact *for clean points*, and gives its sharp verdict and its full pull at every noise level, on places where clean points never are.
#
# ### The exact gradient is a difference of predictions
#
# Put (10.1) into both scores of (10.6), with and without the label, and subtract; the terms with $x_t$ cancel:
#
# $$
# \nabla\log p(y\mid x_t)=\frac{\sqrt{\bar\alpha_t}}{1-\bar\alpha_t}\,\Big(\mathbb E[x_0\mid x_t,y]-\mathbb E[x_0\mid x_t]\Big) .
# \tag{10.8}
# $$
#
# So the exact gradient points from what one would predict anyway to what one would predict if one knew the class. And it **fades at least like $\sqrt{\bar\alpha_t}$** towards the noisy end, because predictions differ by no more than the width of the data. Remember that factor: a trained classifier does not know it. (Read from right to left, (10.8) says that a model with and without the label *is* a classifier; [chapter 11](11_classifier_free.ipynb) lives on this.)
#
# ### Form 1: shift the prediction
#
# Multiply (10.6) by $-\sqrt{1-\bar\alpha_t}$ to speak of noise, and give the pull a strength $s$:
#
# \begin{align*}
# \hat\varepsilon&\leftarrow\hat\varepsilon-s\sqrt{1-\bar\alpha_t}\;\nabla\log p(y\mid x_t), \\
# \text{that is}\qquad\hat x_0&\leftarrow\hat x_0+s\,\frac{1-\bar\alpha_t}{\sqrt{\bar\alpha_t}}\;\nabla\log p(y\mid x_t) . \tag{10.9}
# \end{align*}
#
# The two are the same by $\hat x_0=(x_t-\sqrt{1-\bar\alpha_t}\,\hat\varepsilon)/\sqrt{\bar\alpha_t}$. With $s=1$ and (10.8) the right side is exactly $\mathbb E[x_0\mid x_t,y]$. This is Algorithm 2 of Dhariwal & Nichol {cite}`dhariwal2021diffusion`; since it edits the prediction, *every* sampler can use it.
#
# ### Form 2: shift the mean of the step
#
# (The strength is called $s$ wherever guidance is used, so in this chapter the time where a step arrives is $t'$.) Ancestral sampling draws $x_{t'}\sim\mathcal N(\mu,\Sigma)$. How is $x_{t'}$ distributed if also $y$ is known? Given $x_{t'}$, the noisier $x_t$ says nothing more about $y$ (the forward chain $y\to x_0\to x_{t'}\to x_t$ only adds noise), so by Bayes' rule
#
# $$
# p(x_{t'}\mid x_t,y)\;\propto\;p(x_{t'}\mid x_t)\;p(y\mid x_{t'}) .
# $$
#
# $\Sigma$ is small, so $x_{t'}$ lies near $\mu$; expand the second logarithm to first order there, $\log p(y\mid x_{t'})\approx\text{const}+g^\top(x_{t'}-\mu)$. Then complete the square:
#
# $$
# -\tfrac12d^\top\Sigma^{-1}d+g^\top d=-\tfrac12(d-\Sigma g)^\top\Sigma^{-1}(d-\Sigma g)+\tfrac12g^\top\Sigma g,\qquad d=x_{t'}-\mu .
# $$
#
# A Gaussian again, of the same covariance, with its mean moved by $\Sigma g$. With the strength as a power of $p(y\mid x_{t'})$, which multiplies $g$:
#
# $$
# x_{t'}\sim\mathcal N\big(\mu+s\,\Sigma\,g,\ \Sigma\big),\qquad g=\nabla\log p(y\mid x_{t'})\ \text{ at }\ x_{t'}=\mu .
# \tag{10.10}
# $$
#
# That is Algorithm 1, but for the place of $g$. Two things change on the way from derivation to slide to code:
#
# :::{admonition} Mind the slide
# :class: warning
# **Σ is the covariance**, $\sigma_t^2I$. Where a deck writes the variance of a step as "$\sigma_tI$", its algorithm 1 reads "shift by $s\,\sigma_t\,g$", which at $\sigma_t=0.03$ is a strength 33 times the one intended.
#
# **Where is g taken?** The derivation needs it at $\mu$ and at the noise level $t'$ of *arrival*, as do section 4.1 of the paper and Sohl-Dickstein et al. {cite}`sohldickstein2015deep` before it. Algorithm 1 as printed, the deck, and the authors' program take it at $x_t$ and level $t$. The difference is of the order of the step, so in the limit of many steps both are right. The table below shows what it is worth when there are few.
# :::
#
# ### Where the two forms part
#
# The mean of a step depends on the prediction as $\mu=k\,\hat x_0+\dots$ with $k=\sqrt{\bar\alpha_{t'}}\,\beta_{t\mid t'}/(1-\bar\alpha_t)$, (2.10). So form 1 moves $\mu$ by $k\,s\,\frac{1-\bar\alpha_t}{\sqrt{\bar\alpha_t}}\,g=s\,\beta_{t\mid t'}\sqrt{\bar\alpha_{t'}/\bar\alpha_t}\;g$. Form 2 moves it by $s\,\Sigma\,g$. With $\Sigma=\beta_{t\mid t'}$, and with $\Sigma=\tilde\beta_{t\to t'}$,
#
# $$
# \frac{\text{shift of form 2}}{\text{shift of form 1}}=\sqrt{\frac{\bar\alpha_t}{\bar\alpha_{t'}}}\qquad\text{and}\qquad\sqrt{\frac{\bar\alpha_t}{\bar\alpha_{t'}}}\;\frac{1-\bar\alpha_{t'}}{1-\bar\alpha_t} .
# \tag{10.11}
# $$
#
# Both go to one with the length of the step. At the first step of a cosine chain $\bar\alpha_t/\bar\alpha_{t'}$ is almost zero: there form 2 hardly pulls, while form 1 divides by $\sqrt{\bar\alpha_T}$. In sympy:

# %% tags=["hide-input"]
a_t, a_s, g_s, mu_s, S_s = sp.symbols("abar_t abar_s g mu Sigma", positive=True)
xs, x0c, x0u, xt = sp.symbols("x_s x0_y x0 x_t", real=True)
tilt = -((xs - mu_s) ** 2) / (2 * S_s) + g_s * (xs - mu_s)
square = -((xs - mu_s - S_s * g_s) ** 2) / (2 * S_s) + S_s * g_s**2 / 2
assert sp.simplify(tilt - square) == 0
two_scores = [(sp.sqrt(a_t) * b - xt) / (1 - a_t) for b in (x0c, x0u)]
slope_s = two_scores[0] - two_scores[1]
assert sp.simplify(slope_s - sp.sqrt(a_t) / (1 - a_t) * (x0c - x0u)) == 0
assert sp.simplify(x0u + (1 - a_t) / sp.sqrt(a_t) * slope_s - x0c) == 0
beta = 1 - a_t / a_s
k = sp.sqrt(a_s) * beta / (1 - a_t)
form_1 = k * (1 - a_t) / sp.sqrt(a_t)
for Sigma, printed in (
    (beta, sp.sqrt(a_t / a_s)),
    (
        beta * (1 - a_s) / (1 - a_t),
        sp.sqrt(a_t / a_s) * (1 - a_s) / (1 - a_t),
    ),
):
    assert sp.simplify(Sigma / form_1 - printed) == 0
print("square completed, (10.8), (10.9) at s = 1, and both ratios of (10.11)")

# %% [markdown]
# ## From scratch, then from the library
#
# Both forms in one loop. `class_gradient` of the library is the first three lines, with checks.

# %%
from ddpmlib.guidance import MeanShift


def log_slope(classifier, x, t, y):
    x = x.detach().requires_grad_()
    chosen = classifier(x, t).log_softmax(1)[torch.arange(len(x)), y]
    return torch.autograd.grad(chosen.sum(), x)[0]


def guided_chain(denoiser, classifier, s, x, times, y, form, generator):
    for t, then in zip(times[:-1], times[1:], strict=True):
        x0, g = denoiser(x, t).x0, log_slope(classifier, x, t, y)
        if form == 1:
            x0 = x0 + s * (1 - alpha_bar[t]) / alpha_bar[t].sqrt() * g
        x0 = x0.to(x.dtype)
        mean, std = process.posterior(x, x0, t, then)
        if form == 2:
            mean = mean + s * std**2 * g
        x = mean + std * torch.randn(x.shape, generator=generator)
    return x


times, y = uniform_times(T, 25), torch.arange(300) % 3
start = torch.randn(300, 2, generator=seeded(0))
for form, guide in (
    (1, ClassifierGuidance(Unconditional(plane), plane.class_logits, 2.0)),
    (2, MeanShift(Unconditional(plane), plane.class_logits, 2.0, times)),
):
    ours = guided_chain(plane, plane.class_logits, 2.0, start, times, y, form,
                        seeded(1))  # fmt: skip
    theirs = draw(guide, process, start, times, y=y, generator=seeded(1))
    # a few chains stand on a watershed, where rounding decides
    apart = (ours - theirs).abs().max(1).values
    assert apart.quantile(0.98) < 0.01
print("both forms agree with ClassifierGuidance and MeanShift")

# %% [markdown]
# With the exact classifier and $s=1$ the guided prediction *is* the conditional one, whatever the noise, to rounding:

# %%
exact_guide = ClassifierGuidance(Unconditional(plane), plane.class_logits)
x = plane.draw(300, 300, seeded(2)).double()
for t in levels:
    gap = (exact_guide(x, t, y).x0 - plane(x, t, y).x0).abs().max()
    assert gap < 1e-9
print("s = 1: the guided prediction is E[x_0 | x_t, y], to 1e-9")

# %% [markdown]
# ## What the strength does
#
# ### In the plane
#
# Class 0, two clusters of unequal weight, for five strengths; 20 steps would do, we take 50 so that the sampler is no excuse.

# %% mystnb={"image": {"alt": "Five scatter plots for strengths 0, 1, 2, 4, 10. s = 0: all six clusters. s = 1: two clusters with the shapes of the contour lines. Larger s: the two clusters shrink and move outwards, away from the other classes; at s = 10 they are thin streaks beyond the contours."}} tags=["nbval-ignore-output"]
from ddpmlib.guidance import Temperature

y = torch.zeros(1000, dtype=torch.int64)
start = torch.randn(1000, 2, generator=seeded(3))
truth = plane.given(0).draw(1000, generator=seeded(4))
other = plane.given(0).draw(1000, generator=seeded(5))


def sampled(guide, eta):
    return draw(guide, process, start, uniform_times(T, 50), eta=eta, y=y,
                generator=seeded(6))  # fmt: skip


def line(name, x):
    sure = plane.class_logits(x, 0)[:, 0]  # log p(y|x), in nats
    values = float(sure.exp().mean()), float(x.var(0).sum()), float(sure.mean())
    gap = 1000 * energy_distance(x, truth)
    print(f"{name:22} {values[0]:8.3f} {values[1]:10.2f} {round(gap):12d}")
    return values


print("                        p(y|x)     spread   energy distance to p(x|y)")
_ = line("truth again", other)
clouds, found = {}, {}
for s in (0.0, 0.5, 1.0, 2.0, 4.0, 10.0):
    guide = ClassifierGuidance(Unconditional(plane), plane.class_logits, s)
    for eta, kind in ((0.0, "DDIM"), (1.0, "ancestral")):
        clouds[s, eta] = sampled(guide, eta)
        found[s, eta] = line(f"s = {s:<4g} {kind}", clouds[s, eta])
for tau in (0.8, 0.5):
    found[tau] = line(
        f"τ = {tau:g}  ancestral", sampled(Temperature(plane, tau), 1.0)
    )
panels = (0.0, 1.0, 2.0, 4.0, 10.0)
fig, axes = plt.subplots(1, 5, figsize=(7.5, 1.9), sharey=True, dpi=66)
density = plane.given(0).log_prob(fine, 0).exp().reshape(60, 60)
axis = torch.linspace(-2.4, 2.4, 60)
levels_of = [float(share * density.max()) for share in (0.05, 0.3, 0.7)]
for ax, s in zip(axes, panels, strict=True):
    _ = plots.scatter(clouds[s, 0.0], ax, reach=3, s=2)
    ax.contour(
        axis,
        axis,
        density,
        levels=levels_of,
        colors=plots.ORANGE,
        linewidths=0.7,
    )
    ax.set(title=f"s = {s:g}", ylabel="$x_2$" if s == 0 else "")
small = {  # where two thirds of the class's weight is not
    s: float((clouds[s, 0.0][:, 1] > 0.7).float().mean()) for s in panels[1:]
}
print("share in the smaller cluster, 1/3 is due:",
      *(f"{share:.2f} (s = {s:g})" for s, share in small.items()))  # fmt: skip
assert abs(small[1.0] - 1 / 3) < 0.06
spreads = [found[s, 0.0][1] for s in panels]
assert spreads == sorted(spreads, reverse=True)
assert found[1.0, 0.0][0] > 0.98 and spreads[-1] < 0.6 * spreads[1]

# %% [markdown]
# *What to see:* (the points are those of DDIM) $s=1$ fills the contour lines of $p(x\mid y)$. Larger $s$ adds nothing to the class, the points are in it already. What it adds is *distance from the other classes*: the clouds shrink and slide outwards, to where a classifier is surest and where data are rare, and the smaller cluster loses half of its share on the way to $s=10$. That is the trade: **fidelity against diversity**.
# At one and the same $s$ the two samplers in the table part, too, and far more than sampling noise allows. Neither draws what one would like to believe:
#
# ### s ≠ 1 is not p(x) p(y|x)^s
#
# At *one* noise level, the score $\nabla\log q(x_t)+s\,\nabla\log p(y\mid x_t)$ is that of $q(x_t)\,p(y\mid x_t)^s$ up to a normaliser, and Langevin there samples just that (`test_at_one_noise_level_the_tilted_distribution_is_the_guided_one` does it). But a chain goes *through* the levels, and these tilted distributions are not noised versions of one another: tilting and noising do not commute. The Gaussian case shows it in closed form.
#
# Let all data be $\mathcal N(0,1)$ and those of class $y$ be $\mathcal N(0,c)$ with $c<1$. Use $\bar x=x_t/\sqrt{\bar\alpha_t}$ and $u=(1-\bar\alpha_t)/\bar\alpha_t$, the noise variance per unit of signal: the scores in $\bar x$ are $-\bar x/(1+u)$ and, for the class, $-\bar x/(c+u)$. The guided one is unconditional plus $s$ times the difference:
#
# $$
# -a(u)\,\bar x,\qquad a(u)=\frac{s}{c+u}-\frac{s-1}{1+u} .
# $$
#
# **The tilted distribution** $p(x)\,p(y\mid x)^s\propto\mathcal N(0,1)^{1-s}\,\mathcal N(0,c)^s$ has precision $a(0)=s/c-(s-1)$.
#
# **DDIM** is the ODE (7.11). Since $\hat\varepsilon=-r\,\nabla_{\bar x}\log p$ with $r=\sqrt u$ and $\mathrm du=2r\,\mathrm dr$, it reads $\mathrm d\bar x/\mathrm du=\tfrac12a(u)\,\bar x$. Integrate: $\bar x(u)^2\propto(c+u)^s\,(1+u)^{1-s}$, which at large $u$ is just $u$, as is the variance one starts with. So the variance at $u$ is this very product, and at $u=0$
#
# $$
# \operatorname{Var}_{\text{DDIM}}(s)=c^{\,s} .
# \tag{10.12}
# $$
#
# **Ancestral sampling:** divide (2.17), for a step from $t$ to $t'$, by $\sqrt{\bar\alpha_{t'}}$ and note $\beta_{t\mid t'}/\bar\alpha_t=1/\bar\alpha_t-1/\bar\alpha_{t'}=u_t-u_{t'}$. The step's mean is $\bar x+(u_t-u_{t'})\nabla_{\bar x}\log p$, its variance $u_t-u_{t'}$ to first order. So over a small $\mathrm du$ the variance goes $V\leftarrow(1-a\,\mathrm du)^2V+\mathrm du$, that is $\mathrm dV/\mathrm du=2a(u)V-1$. Solve it with the integrating factor $(c+u)^{-2s}(1+u)^{2s-2}$, whose product with $V\approx u$ vanishes at infinity:
#
# $$
# \operatorname{Var}_{\text{ancestral}}(s)=c^{\,2s}\int_0^\infty(c+u)^{-2s}\,(1+u)^{2s-2}\,du .
# \tag{10.13}
# $$
#
# At $s=1$ the integral is $1/c$ and all three are $c$; at $s=0$ all are 1; nowhere else do they agree. Now the library's samplers, whose steps are linear on this pair, so that their variance can be followed without drawing a single number:

# %%
from scipy import integrate

one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1).double()
first = torch.zeros(1, dtype=torch.int64)


class Nested:
    """All data N(0, 1), class 0 among them N(0, c)."""

    def __init__(self, process, c):
        self.process, self.c = process, c
        self.all = oracle.Mixture(process, one, zero, one)
        self.inside = oracle.Mixture(process, one, zero, c**0.5 * one)

    def __call__(self, x, t, y=None):
        return self.all(x, t)

    def class_logits(self, x, t):  # a share of √c/2 of the data is of class 0
        ratio = self.inside.log_prob(x, t) - self.all.log_prob(x, t)
        log_p = ratio + torch.log(one * self.c**0.5 / 2)
        return torch.stack([log_p, torch.log1p(-log_p.exp())], 1)


def end_variance(guide, times, eta):
    """What a linear chain makes of the variance 1 of its start."""
    process, var = guide.process, 1.0
    for t, then in zip(times[:-1], times[1:], strict=True):
        prediction = guide(one, t, first)
        gain = process.step(one, prediction, t, then, eta, zero)
        loud = eta * process.posterior_std(t, then) if then else 0.0
        var = float(gain) ** 2 * var + loud**2
    return var


c, chain = 0.25, DDPM(schedules.cosine(400))
pair = Nested(chain, c)
print("   s   p(x)p(y|x)^s   DDIM: chain   c^s    ancestral: chain   (10.13)")
variances = {}
for s in (0.5, 1.0, 2.0, 4.0):
    guide = ClassifierGuidance(pair, pair.class_logits, s)
    ddim, ancestral = (
        end_variance(guide, uniform_times(400, 400), eta) for eta in (0.0, 1.0)
    )
    integral = c ** (2 * s) * integrate.quad(
        lambda u, s=s: (c + u) ** (-2 * s) * (1 + u) ** (2 * s - 2), 0, torch.inf
    )[0]  # fmt: skip
    variances[s] = tilted, *_ = 1 / (s / c - s + 1), c**s, integral
    print(
        f"{s:4.1f} {tilted:12.4f} {ddim:15.4f} {c**s:8.4f} {ancestral:14.4f}"
        f" {integral:13.4f}"
    )
    assert abs(ddim / c**s - 1) < 0.06 and abs(ancestral / integral - 1) < 0.06

# %% mystnb={"image": {"alt": "End variance over strength from 0 to 6, logarithmic: three falling curves that cross at s = 1. The tilted distribution falls slowest, ancestral sampling faster, DDIM fastest, a straight line."}}
grid = torch.linspace(0, 6, 61)
walked = [
    c ** (2 * s) * integrate.quad(
        lambda u, s=s: (c + u) ** (-2 * s) * (1 + u) ** (2 * s - 2), 0, torch.inf
    )[0]
    for s in grid.tolist()
]  # fmt: skip
fig, ax = plt.subplots(figsize=(5, 2.3), dpi=60)
ax.semilogy(grid, 1 / (grid / c - grid + 1), label="$p(x)\\,p(y|x)^s$")
ax.semilogy(grid, walked, label="guided, ancestral (10.13)")
ax.semilogy(grid, c**grid, label="guided, DDIM (10.12)")
ax.axvline(1, color=plots.GREY, ls=":")
ax.set(xlabel="strength s", ylabel="variance of class 0")
_ = ax.legend()

# %% [markdown]
# *What to see:* all curves meet at $s=0$ and cross at $s=1$, and at $s=4$ DDIM leaves a twentieth of the variance that the tilted distribution has. Above 1 guidance is *sharper* than its formula, between 0 and 1 wider. So do not read $s$ as an exponent of Bayes' rule; read it as a knob whose scale has to be measured.
#
# ### Temperature
#
# An older knob: divide the score by $\tau$, that is $p\to p^{1/\tau}$ at every level. For data $\mathcal N(0,c)$ then $a(u)=1/\tau(c+u)$, and the ancestral equation $\mathrm dV/\mathrm du=2aV-1$ has the solution $V=k\,(c+u)$ with $k=2k/\tau-1$; for $\tau<2$ every other one ends there, too. At $u=0$
#
# $$
# \operatorname{Var}_{\text{ancestral}}(\tau)=\frac{\tau}{2-\tau}\;c\qquad\text{instead of } \tau\,c .
# \tag{10.14}
# $$
#
# Again not the tempered distribution, and again by the same reason. In the table above $\tau=0.5$ shrinks the clouds as strong guidance does, but around *every* mode of the data alike, where guidance pushes them off the other classes. On images temperature is reported to blur where guidance does not, and that is why the one is used and the other is not {cite}`dhariwal2021diffusion,ho2022classifierfree`.

# %%
centred = oracle.Mixture(chain, one, zero, c**0.5 * one)
for tau in (0.5, 0.8, 1.0):
    var = end_variance(Temperature(centred, tau), uniform_times(400, 400), 1.0)
    print(
        f"τ = {tau:.1f}: ancestral {var:.3f}, (10.14) {tau / (2 - tau) * c:.3f},"
        f" tempered distribution {tau * c:.3f}"
    )
    assert abs(var / (tau / (2 - tau) * c) - 1) < 0.05

# %% [markdown]
# ### Few steps: form 1, form 2, and where the gradient is taken
#
# The same pair at $s=1$, where the truth is $c$, and three ways to step: the prediction shifted (10.9), the mean shifted by the gradient at $x_t$ (Algorithm 1 as printed), and the mean shifted by the gradient at $\mu$ and the level of arrival (as derived).


# %%
def at_mean(pair, times):
    """Variance of (10.10) with g at (μ, arrival level): all steps are linear."""
    process, var = pair.process, 1.0
    for t, then in zip(times[:-1], times[1:], strict=True):
        mean, std = process.posterior(one, pair(one, t).x0, t, then)
        if then > 0:
            g = class_gradient(pair.class_logits, mean, then, first)
            mean = mean + std**2 * g
        var = float(mean) ** 2 * var + std**2
    return var


pair = Nested(process, c)
print("steps prediction shifted     mean, g at x_t       mean, g at μ")
parting = {}
for n in (5, 10, 20, 50, 100, 250):
    times = uniform_times(T, n)
    guides = (
        ClassifierGuidance(pair, pair.class_logits),
        MeanShift(pair, pair.class_logits, 1.0, times),
    )
    parting[n] = [end_variance(guide, times, 1.0) / c - 1 for guide in guides]
    parting[n].append(at_mean(pair, times) / c - 1)
    print(f"{n:5d}", *(f"{100 * e:+16.1f} %" for e in parting[n]))
assert parting[250][0] < 0 < parting[250][1]
assert all(abs(parting[250][i]) < abs(parting[10][i]) / 5 for i in range(3))

# %% mystnb={"image": {"alt": "Relative error of the variance against the number of steps, log-log, three lines for the three forms, all falling with about one over the number of steps."}}
fig, ax = plt.subplots(figsize=(5, 2.3), dpi=60)
for i, (name, marker) in enumerate(
    (
        ("prediction shifted", "o"),
        ("mean, g at $x_t$", "s"),
        ("mean, g at μ", "^"),
    )
):
    errors = [abs(parting[n][i]) for n in parting]
    ax.loglog(list(parting), errors, marker + "-", label=name)
ax.loglog([5, 250], [4 / 5, 4 / 250], "k--", lw=0.8, label="1/steps")
ax.set(xlabel="steps", ylabel="|error of the variance|")
_ = ax.legend()

# %% [markdown]
# *What to see:* at $s=1$ form 1 *is* the conditional model, so the first column is no error of guidance at all: it is what ancestral sampling with long steps and $\tilde\beta$ does to any Gaussian of this width, too cold by 40 % at ten steps. Form 2 adds a pull that is too weak, (10.11), and ends as far on the other side. With the gradient taken where the derivation wants it, the same number of classifier calls is three times nearer to the truth at ten steps. From 50 steps on all errors fall like 1/steps.
#
# ## Train it here
#
# The classifier is the half of a U-Net that goes down, told the time, with attention pooling at the bottom; its loss is cross-entropy on $x_t$ at random $t$. Beside it a twin of the same net with the same budget that never sees noise (`noisy=False`); both in seconds, on the embedded digits.

# %% tags=["nbval-ignore-output"]
from ddpmlib import evaluation
from ddpmlib.training import Trainer, fit
from ddpmlib.zoo import recipes

digits = data.load("digits")
trained = {}
for name, noisy in (("noisy", True), ("clean", False)):
    recipe = recipes.changed(
        recipes.RECIPES["digits-noisy-classifier"],
        {"noisy": noisy, "settings.steps": 400, "settings.warmup": 40},
    )
    trainer = Trainer(
        recipe.build(),
        recipe.loss(),
        digits.x_train,
        digits.y_train,
        recipe.settings,
        device="cpu",
    )
    losses = [progress.loss.item() for progress in fit(trainer)]
    trained[name] = trainer.averaged.eval()
    print(f"{name}: loss of the last 40 updates {sum(losses[-40:]) / 40:.2f}")

# %% [markdown]
# The noisy one cannot reach a small loss, because at most times the label is partly or wholly drowned; by (10.7) its floor is the average uncertainty of $p(y\mid x_t)$. How much can be read at which noise?

# %% tags=["nbval-ignore-output"] mystnb={"image": {"alt": "Accuracy over time t from 0 to 1000 for five classifiers. All noisy ones fall from near one to chance, 0.1, the MNIST one latest; the clean twin falls much earlier than the noisy one of the same budget."}}
shipped, shipped_card = zoo.load("digits-noisy-classifier", device="cpu")


def from_card(card):
    entry = next(m for m in card.metrics if "at_times" in m)
    return entry["times"], entry["at_times"]


curves = {
    "digits, trained here": trained["noisy"],
    "digits, clean twin": trained["clean"],
}
for name, net in curves.items():
    row = evaluation.accuracy_under_noise(net, digits)
    curves[name] = row["times"], row["at_times"]
curves["digits, shipped"] = from_card(shipped_card)
curves["MNIST, shipped"] = from_card(class_card)
fig, ax = plt.subplots(figsize=(6, 2.4), dpi=58)
for name, (times, accuracy) in curves.items():
    ax.plot(times, accuracy, "o-", ms=3, label=name)
    print(f"{name:22} t = 1: {accuracy[0]:.2f}  300: {accuracy[3]:.2f}  "
          f"600: {accuracy[6]:.2f}  900: {accuracy[9]:.2f}")  # fmt: skip
ax.axhline(0.1, color=plots.GREY, ls=":", label="chance")
ax.set(xlabel="time t (steps)", ylabel="accuracy on the test set")
_ = ax.legend(fontsize=8)
assert curves["digits, trained here"][1][6] > curves["digits, clean twin"][1][6]
assert curves["MNIST, shipped"][1][6] > curves["digits, shipped"][1][6]

# %% [markdown]
# *What to see:* the label drowns long before $t=T$; in 784 pixels it can be read through far more noise than in 64. The twin without noise is the best reader of clean scans, and from about $t=400$ on the worst. At $t=1000$ all guess. Where nothing can be read nothing can be guided, so the class is decided in the middle of the chain.
#
# Now the shipped classifier of digits (the same recipe, 1,000 updates) guides the shipped digits network, which is not told the class. Ten columns for the classes, in a film: the prediction $\hat x_0$ along 20 ancestral steps, for $s=0$, 1 and 10 from the same noise.

# %%
from ddpmlib.samplers import sample

digits_net, digits_card = zoo.load("digits", device="cpu")
silent = Unconditional(digits_net)
strengths = torch.tensor([0.0, 1.0, 10.0]).repeat_interleave(10)


def weight(t):  # one strength per sample; none at the noisiest times
    return strengths if t <= 900 else 0.0


x_T = torch.randn(10, 1, 8, 8, generator=seeded(11)).repeat(3, 1, 1, 1)
frames = [
    torch.zeros_like(x_T) if state.x0 is None else state.x0
    for state in sample(
        ClassifierGuidance(silent, shipped, weight),
        digits_net.process,
        x_T,
        uniform_times(T, 20),
        eta=1.0,
        y=torch.arange(10).repeat(3),
        generator=seeded(12),
    )
]
plots.film(
    frames[::2],
    alt="Film of the prediction over 20 steps in three rows of ten digits, strengths 0, 1 and 10. Blurs become digits; the first row shows any digits, the last row 0 to 9 in order.",
    ncol=10,
    width=400,
)

# %% [markdown]
# *What to see:* (one row per strength, weakest on top) the class is decided within a few steps in the middle of the chain, where the classifier begins to read and the prediction is still undecided. Later the pull only sharpens.
#
# ## One knob turned: the strength
#
# The slides compare scale 1 with scale 10. Here are more of them, in numbers: 300 samples a line, 20 ancestral steps. They are measured by `digits-classifier`, which has seen neither noise nor samples. `told`: the same network simply told the class, which is what exact guidance with $s=1$ would give; and the noisy classifier guiding on top of that.

# %% tags=["nbval-ignore-output"]
extractor, _ = zoo.load("digits-classifier", device="cpu")
y = torch.arange(300) % 10
real = evaluation.reference(extractor, digits, 300, y)


def measured(denoiser, seed=0, y=y):
    how = evaluation.Sampling(steps=20, eta=1.0, seed=seed)
    x0 = evaluation.generate(denoiser, (1, 8, 8), y, how)
    found = evaluation.measure_samples(
        extractor,
        x0,
        y,
        digits,
        ("agreement", "fid", "pr"),
        draws=40,
        real=real,
    )
    return found | {"x0": x0}


def guide_digits(classifier, s):
    return ClassifierGuidance(silent, classifier, interval(s, 1, 900))


knob = {
    s: measured(guide_digits(shipped, s)) for s in (0.0, 1.0, 4.0, 10.0, 30.0)
}
knob["told"] = measured(digits_net)
# and the classifier around the denoiser that knows the class already
both = ClassifierGuidance(digits_net, shipped, interval(4.0, 1, 900))
knob["told, 4"] = measured(both)
print("        s   agreement [95 %]      Fréchet [95 %]    precision   recall")
for s, row in knob.items():
    low, high = row["class_agreement_interval"]
    near, far = row["frechet_interval"]
    print(
        f"{s:>9}   {row['class_agreement']:.2f} [{low:.2f}, {high:.2f}]"
        f"   {row['frechet']:7.1f} [{near:.1f}, {far:.1f}]".ljust(58)
        + f"{row['precision']:.2f}      {row['recall']:.2f}"
    )
print(f"floors: Fréchet {row['frechet_floor']:.1f}, precision "
      f"{row['precision_floor']:.2f}, recall {row['recall_floor']:.2f}")  # fmt: skip
assert knob[0.0]["class_agreement"] < 0.2 < knob[1.0]["class_agreement"] < 0.75
assert knob[10.0]["class_agreement"] > 0.8
assert knob["told, 4"]["class_agreement"] >= knob["told"]["class_agreement"]
assert knob["told, 4"]["recall"] < knob["told"]["recall"] - 0.05

# %% mystnb={"image": {"alt": "Two panels over the strength. Left: agreement rises from 0.1 to above 0.9 with error bars, a dotted line for the network that is told the class. Right: the Fréchet distance falls with the strength to a third, far above the dotted line of the network that is told."}} tags=["nbval-ignore-output"]
fig, axes = plt.subplots(1, 2, figsize=(7.5, 2.3), dpi=58)
s = [0.0, 1.0, 4.0, 10.0, 30.0]
value = torch.tensor([knob[v]["class_agreement"] for v in s])
ends = torch.tensor([knob[v]["class_agreement_interval"] for v in s]).T
axes[0].errorbar(
    s, value, [value - ends[0], ends[1] - value], marker="o", capsize=2
)
axes[0].axhline(knob["told"]["class_agreement"], color=plots.GREY, ls=":",
                label="told the class")  # fmt: skip
value = torch.tensor([knob[v]["frechet"] for v in s])
ends = torch.tensor([knob[v]["frechet_interval"] for v in s]).T
bars = [(value - ends[0]).clamp(min=0), (ends[1] - value).clamp(min=0)]
axes[1].errorbar(s, value, bars, marker="o", capsize=2)
axes[1].axhline(knob["told"]["frechet"], color=plots.GREY, ls=":",
                label="told the class")  # fmt: skip
axes[0].set(xlabel="strength s", ylabel="class agreement", ylim=(0, 1.05))
axes[1].set(xlabel="strength s", ylabel="Fréchet distance", ylim=(0, None))
for ax in axes:
    _ = ax.legend()

# %% [markdown]
# *What to see:* with an exact gradient $s=1$ would reach the dotted lines. The trained one gives *half* of the classes at $s=1$, and goes on to nine of ten at $s=10$. (Dhariwal & Nichol met the same with an unconditional model of ImageNet: FID 26.2 without guidance, 33.0 at scale 1, 12.0 at scale 10; weak guidance was *worse* than none.) Here, too, the distance falls as $s$ rises, because the unconditional prediction of so small a net is poor, and knowing the class is half of a good digit; it stays far from that of the net that is told.
#
# The last line of the table puts the classifier *on top of* the label. There is no class left to win, and now the price is plain: every digit is of its class, precision no lower, but recall has fallen, and the distance is no smaller. Fidelity was bought with diversity.
#
# ## The same code at scale
#
# The MNIST classifier of the opening figure is one command, `ddpmlib train mnist-noisy-classifier`; its card says how, and what it reads at which noise is the uppermost curve above.

# %%
made = class_card.training
print(made["command"])
print(f"{class_card.parameters:,} weights, {made['images_seen']:,} images,",
      f"{made['seconds'] / 60:.0f} minutes, {made['hardware']}")  # fmt: skip
for step, loss in class_card.loss[:: len(class_card.loss) // 6]:
    print(f"update {step:5d}: cross-entropy {loss:.2f} nats")
assert class_card.loss[-1][1] < 0.6 * class_card.loss[0][1]

# %% [markdown]
# The loss cannot go to zero: it is an average over all $t$, and at the late ones nobody could tell the class. Its floor is the mean uncertainty of (10.7).

# %% [markdown]
# Every cell of the sweep: 5,000 samples of 20 ancestral steps, the unconditional prediction guided by the noisy classifier with strength $s$, with and without dynamic thresholding ([chapter 11](11_classifier_free.ipynb) explains that one), brackets for the sampling error. One network and one classifier, so differences inside the brackets mean nothing. The rows come from `python -m ddpmlib.experiments measure guidance` (about two hours of one core).

# %%
from ddpmlib import experiments
from ddpmlib.experiments import results
from IPython.display import Markdown

Markdown(experiments.guidance.table("mnist", "classifier"))

# %%
Markdown(experiments.guidance.table("fashion_mnist", "classifier"))

# %% mystnb={"image": {"alt": "Two panels, MNIST and Fashion-MNIST: Fréchet distance over the strength for guidance by a classifier and classifier-free, with intervals and the floor of real test images."}}
fig, axes = plt.subplots(1, 2, figsize=(7.5, 2.7), dpi=60)
for ax, name in zip(axes, ("mnist", "fashion_mnist"), strict=True):
    _ = experiments.guidance.figure(name, ax, "frechet", threshold=False)
    ax.set(title=name, ylabel="Fréchet distance", yscale="log")
_ = axes[0].legend(fontsize=7)

# %% [markdown]
# *What to see:* three things that Bayes' rule did not promise.
#
# - **Weak guidance is worse than none.** From $s=0$ to $0.5$ the distance grows by a factor of 2.4 on MNIST and of 1.6 on Fashion-MNIST, and the Inception Score falls below that of the unguided model: the pull is strong enough to lead a sample away from the class it was becoming, and too weak to bring it to another. What stands between two classes is like neither.
# - **The best strength is not 1.** On MNIST it is 4, where the distance is about twice the floor, 98 % of the samples are what was asked for, and recall is still near that of real images; on Fashion-MNIST the distance falls up to the largest strength that we tried. Held against the network's own difference of predictions, (10.8), the gradients of noisy classifiers are too short and point elsewhere through most of the chain (the figure at the end of the next section shows it for those of the 8×8 digits), so the knob starts late.
# - **There is a price.** Recall falls from the first row in which guidance decides anything; the distance follows beyond the best strength: on MNIST $s=8$ gains one point of agreement and costs a factor of three.
#
# Dynamic thresholding does harm in every row of these tables; chapter 11 finds out why. The curve of classifier-free guidance stands beside, for comparison; it starts from a model that is told the class, and the same network. The classifier's curve on top of that one:

# %%
Markdown(experiments.guidance.table("mnist", "classifier_conditional"))

# %%
Markdown(experiments.guidance.table("fashion_mnist", "classifier_conditional"))

# %% [markdown]
# *What to see:* on top of the label a little guidance goes a long way. (The plain models told the class are the rows $w=0$ of chapter 11.) On MNIST $s=1$ takes agreement from 98.1 % to 99.9 %, at four times the distance; on Fashion-MNIST, where the plain model is right 91 times in a hundred, $s=1$ makes it 97 and the distance *smaller* (3.2 without, 2.5 with). Guidance mends a model that has something to mend.

# %% mystnb={"image": {"alt": "Three rows of ten generated Fashion-MNIST images, rows for the strengths 0, 1 and 10, columns for the classes from T-shirt to ankle boot."}}
fashion, fashion_card = zoo.load("fashion_mnist", device="cpu")
fashion_classifier, _ = zoo.load("fashion_mnist-noisy-classifier", device="cpu")
clothes = guided_grid(
    Unconditional(fashion), fashion_classifier, (0.0, 1.0, 10.0),
    fashion_card.image_shape, 1,
)  # fmt: skip
ax = labelled(clothes, ["s = 0", "s = 1", "s = 10"], 2)
_ = ax.set_xlabel("class")

# %% [markdown]
# *What to see:* strengths 0, 1, 10 from top to bottom, the classes of Fashion-MNIST from left to right. The first row shows whatever the noise suggests, the last mostly what was asked for, but the pullover, the coat, the sandal and the boot are torn.

# %% [markdown]
# ## What goes wrong
#
# ### 1. An ordinary classifier
#
# Why not take a classifier off the shelf, trained on clean images? The twin above is one. Guide with it, at the same strengths:

# %% mystnb={"image": {"alt": "Six rows of ten digits. Upper three rows, noisy classifier at strengths 1, 10 and 30: digits, more and more the ones asked for. Lower three rows, clean classifier: digits of any class, at strength 30 distorted."}} tags=["nbval-ignore-output"]
rows = []
print("            digits-classifier     the guide itself    pixels out of")
print("guide        s  sees the class      sees the class      range by > 0.5")
own = {}
for name, net in trained.items():
    for s in (1.0, 10.0, 30.0):
        x0 = measured(guide_digits(net, s), y=y[:100])["x0"]
        rows.append(x0[:10])
        with torch.no_grad():
            itself = net(x0, torch.ones(100, dtype=torch.int64))
        _, logits = features.extract(extractor, x0)
        own[name, s] = [
            metrics.class_agreement(logits, y[:100]),
            metrics.class_agreement(itself, y[:100]),
            float((x0.abs() > 1.5).float().mean()),
        ]
        print(f"{name:8} {s:5.0f} {own[name, s][0]:12.0%} {own[name, s][1]:17.0%}"
              f" {own[name, s][2]:18.1%}")  # fmt: skip
names = [f"{name}, {s:g}" for name, s in own]
_ = labelled(torch.cat(rows), names, 5).set_xlabel("class asked for")

# %% [markdown]
# *What to see:* compare the two columns of numbers. Guided by the twin, at $s=10$, fewer than half of the digits are what was asked for, yet the twin itself is content with most of them, and pixels run out of range. That is the mark of **adversarial examples** {cite}`goodfellow2015explaining`: the input gradient of an ordinary classifier is the direction in which its *verdict* changes fastest, by small changes of many pixels, and an image need not become a four for that. A classifier that lives with noise cannot be talked round by changes smaller than the noise; what is left for its gradient to use is shape. (No guide is free of this: the noisy one, too, is more pleased with its work than `digits-classifier` is, but not by half. And at $s=1$ the twin is *not* behind: the noisy one had a short training, and its gradients are shorter. One has to turn the knob to see which guide is honest.)
#
# The same at scale, on MNIST: the classifier of the sweep against a twin that saw 1,500 batches of clean digits (which is enough to read them), 5,000 samples each:

# %%
for guide in ("classifier", "clean_classifier"):
    for row in results.rows(
        "guidance", dataset="mnist", method=guide, threshold=False
    ):
        if row["w"] in (1, 4):
            print(
                f"{guide:17} s = {row['w']:g}: agreement "
                f"{row['class_agreement']:5.1%}, Fréchet {row['frechet']:6.2f}, "
                f"{row['out_of_range']:.0%} of pixels out of range"
            )

# %% [markdown]
# The twin reads clean digits, and hardly guides: at $s=4$ three samples of ten are what was asked for, against more than nine. Its gradient costs distance, and buys a fifth of the class.
#
# The exact case makes the point without any network. Above, `clean_logits` was *the* exact classifier of clean points. Its chains at $s=1$, and those of some one-line edits, against $p(x\mid y)$:

# %% tags=["nbval-ignore-output"]
y0 = torch.zeros(1000, dtype=torch.int64)
lin = oracle.Mixture(
    DDPM(schedules.linear(1000)), weights, data.ring_means(6), widths, labels
)


class Edited(Unconditional):
    """Equation (10.9) with a factor of one's own, and any classifier."""

    def __init__(self, factor, classifier):
        super().__init__(plane)
        self.factor, self.classifier = factor, classifier

    def forward(self, x_t, t, y=None):
        prediction = super().forward(x_t, t)
        slope = class_gradient(self.classifier, x_t, t, y)
        scale, std = process.kernel(t, x_t)
        shift = self.factor(scale, std) * slope if t <= 900 else 0.0
        return type(prediction)(prediction.x0 + shift)


def right(scale, std):
    return std**2 / scale


edits = {
    "right": (right, noisy_logits),
    "classifier of clean points": (right, clean_logits),
    "its gradient with −": (lambda a, b: -(b**2) / a, noisy_logits),
    "std for std²": (lambda a, b: b / a, noisy_logits),
    "1/scale forgotten": (lambda a, b: b**2, noisy_logits),
    "classifier of linear noise": (right, lin.class_logits),
}
print(f"{'':28}  p(y|x)   energy distance × 1000")
wrong = {}
for name, (factor, classifier) in edits.items():
    x = draw(Edited(factor, classifier), process, start, uniform_times(T, 50),
             eta=0.0, y=y0)  # fmt: skip
    sure = float(plane.class_logits(x, 0)[:, 0].exp().mean())
    wrong[name] = 1000 * energy_distance(x, truth)
    print(f"{name:28} {sure:7.2f} {wrong[name]:12.0f}")
assert wrong["right"] < 30
unseen = ("right", "std for std²")
assert wrong["std for std²"] < 30
assert all(v > 40 for name, v in wrong.items() if name not in unseen)

# %% [markdown]
# Even a classifier that is exact for clean points is wrong for noisy ones: all its points are of class 0 and none is where class 0 lives. A wrong sign avoids the class; a classifier of another noise schedule pulls in the wrong places. **And one bug cannot be seen**: `std for std²`, the factor of the ε-form pasted into the form for $\hat x_0$, gives samples that no distance tells from right ones. The two factors differ only where there is little noise, and there the class is long decided. Looking at samples does not find it; comparing numbers at one small $t$ does.
#
# The tests that catch them, in `tests/test_guidance.py`: the sign fails `test_an_exact_classifier_at_strength_1_gives_the_conditional_prediction`, a factor `test_the_score_moves_by_strength_times_the_gradient` and, for the mean form, `test_the_steps_mean_moves_by_strength_sigma_gradient`; a classifier of another process is refused at once, `test_a_classifier_of_another_noise_is_refused`. The clean one is no error of code, and no unit test sees it: only a measurement does.
#
# ### 2. The explosion at the first step
#
# The exact gradient fades like $\sqrt{\bar\alpha_t}$, (10.8). Does a trained one? The network with and without its label gives the right side of (10.8), so we can hold the two noisy classifiers and the clean twin against it, on noised test digits with their true labels:

# %% mystnb={"image": {"alt": "Left: length of the gradient over t, logarithmic. The difference of predictions falls steeply towards t = 1000, the noisy classifiers flatten out, the clean twin climbs above the others and stays there. Right: cosine between gradient and difference of predictions: moderate for the noisy classifiers in the middle of the chain, low for the clean one."}} tags=["nbval-ignore-output"]
pick = torch.arange(0, 355, 3)
test, test_y = data.to_float(digits.x_test[pick]), digits.y_test[pick]
probe = [20, 100, 200, 300, 400, 500, 600, 700, 800, 900, 950, 1000]
guides = {"shipped": shipped, "trained here": trained["noisy"],
          "clean twin": trained["clean"]}  # fmt: skip
size, cosine = {n: [] for n in guides}, {n: [] for n in guides}
size["(10.8)"] = []
for t in probe:
    x_t = process.q_sample(
        test, t, torch.randn(test.shape, generator=seeded(t))
    )
    with torch.no_grad():
        change = digits_net(x_t, t, test_y).x0 - digits_net(x_t, t).x0
    by_predictions = (
        float(process.scale[t] / process.std[t] ** 2) * change
    ).flatten(1)
    size["(10.8)"].append(float(by_predictions.norm(dim=1).mean()))
    for name, net in guides.items():
        slope = class_gradient(net, x_t, t, test_y).flatten(1)
        size[name].append(float(slope.norm(dim=1).mean()))
        alike = torch.cosine_similarity(slope, by_predictions)
        cosine[name].append(float(alike.mean()))
fig, axes = plt.subplots(1, 2, figsize=(7.5, 2.6), dpi=58)
for name, values in size.items():
    axes[0].semilogy(probe, values, "k--" if name == "(10.8)" else "o-", ms=3,
                     label=name)  # fmt: skip
for name, values in cosine.items():
    axes[1].plot(probe, values, "o-", ms=3, label=name)
axes[0].set(xlabel="time t (steps)", ylabel="length of the gradient")
axes[1].set(xlabel="time t (steps)", ylabel="cosine with (10.8)")
_ = axes[0].legend(fontsize=8)
for t in (300, 600, 900, 1000):
    i = probe.index(t)
    values = "   ".join(f"{n} {v[i]:.2g}" for n, v in size.items())
    print(f"t = {t:4d}: {values}")
shift = (process.std**2 / process.scale).tolist()
print(f"(1−ᾱ)/√ᾱ: {shift[900]:.1f} at t = 900, {shift[1000]:,.0f} at t = 1000")
assert size["shipped"][-1] > 100 * size["(10.8)"][-1]
assert max(cosine["clean twin"]) < max(cosine["shipped"])

# %% [markdown]
# *What to see:* the dashed line, (10.8), falls by more than three orders of magnitude over the last tenth of the chain; the trained noisy ones level off, for a network has no reason to say *nothing at all* with such precision. The clean twin does not know that it is asked about noise. Multiply by $(1-\bar\alpha_t)/\sqrt{\bar\alpha_t}$, which is 20,291 at $t=T$: with $s=4$ and a gradient of length 0.15 the first prediction leaps by twelve thousand, in a world of pixels between $-1$ and $1$.
#
# The same figure says why $s=1$ was not enough. In the middle of the chain the shipped classifier's gradient is a third to three quarters as long as (10.8), and its cosine with it is only about a half. Its *verdicts* are good; its *gradients* nobody has trained. (With a grain of salt: (10.8) is itself an estimate, made by a small network.)
#
# Four ways through the first step, $s=4$, 20 steps:

# %% tags=["nbval-ignore-output"]
from ddpmlib.guidance import StaticThreshold

y100, times = torch.arange(100) % 10, uniform_times(T, 20)
remedies = {
    "none, η = 0": (ClassifierGuidance(silent, shipped, 4.0), 0.0),
    "interval(4, 1, 900), η = 0": (guide_digits(shipped, 4.0), 0.0),
    "clipped prediction, η = 0": (
        StaticThreshold(ClassifierGuidance(silent, shipped, 4.0)), 0.0,
    ),
    "mean shift, η = 1": (MeanShift(silent, shipped, 4.0, times), 1.0),
}  # fmt: skip
print(f"{'':28} |x| of the image   digits-classifier sees it")
explosion = {}
for name, (denoiser, eta) in remedies.items():
    how = evaluation.Sampling(steps=20, eta=eta)
    x0 = evaluation.generate(denoiser, (1, 8, 8), y100, how)
    _, logits = features.extract(extractor, x0)
    explosion[name] = (
        float(x0.abs().mean()),
        metrics.class_agreement(logits, y100),
    )
    print(f"{name:28} {explosion[name][0]:12.2f} {explosion[name][1]:18.0%}")
assert (
    explosion["none, η = 0"][0] > 2 * explosion["interval(4, 1, 900), η = 0"][0]
)

# %% [markdown]
# Without a remedy the images end a hundred times too bright (`digits-classifier` is shown them clipped, and still recognises some). Leaving the noisiest times alone, clipping the prediction, or shifting the mean as form 2 does, which by (10.11) is shorter by $\sqrt{\bar\alpha_t/\bar\alpha_{t'}}$, almost zero at the first step: each mends it, and the first saves the classifier's calls as well. The test is `test_a_gradient_that_does_not_fade_explodes_at_the_start_and_three_ways_mend_it`.
#
# ## Exercises
#
# Write your answer into the cell below each question and take the `#` off its last line: the check
# says yes, or gives a hint. ★ asks for a derivation, ★★ for code, ★★★ for a small project of both.
# Solutions are folded.
#
# ### ★ Exercise 10.1
#
# The papers write the step as $x\leftarrow x+\frac\epsilon2\nabla\log p(x)+\sqrt\epsilon\,z$. For $p=\mathcal N(0,\sigma^2)$ give `(settled, bound)`: a function of $(\sigma,\epsilon)$ that returns the variance where the chains settle, and a function of $\sigma$ that returns the $\epsilon$ beyond which they never do.
#
# :::{dropdown} Hint
# Which $h$ is this? Then (10.4).
# :::

# %%
from ddpmlib.teaching import exercises

answer = ...  # (settled, bound)

# exercises.check("10.1", answer)


# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
# Solution of exercise 10.1: h = ε/2 in (10.4)
def settled_variance(sigma, epsilon):
    return 4 * sigma**4 / (4 * sigma**2 - epsilon)


def largest_step(sigma):
    return 4 * sigma**2


exercises.check("10.1", (settled_variance, largest_step))

# %% [markdown]
# ### ★★ Exercise 10.2
#
# Data on two sides: $q(x_0)=w\,\mathcal N(m,c)+(1-w)\,\mathcal N(-m,c)$ in one dimension. Write `score(x, abar, w, m, c)`, the score of the noised density at signal $\bar\alpha=$ `abar`, for a tensor `x`, without automatic differentiation. Far out and with small variances it must neither overflow nor divide zero by zero.
#
# :::{dropdown} Hint
# Both components have the variance $V=\bar\alpha c+1-\bar\alpha$ at that level. The score is a mean of two straight lines, weighted by the probability of each side given $x$, and the log-odds of the sides is linear in $x$: a `sigmoid`.
# :::

# %%
answer = ...  # a function (x, abar, w, m, c) -> score

# exercises.check("10.2", answer)


# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
# Solution of exercise 10.2
def two_sided_score(x, abar, w, m, c):
    var, centre = abar * c + 1 - abar, abar**0.5 * m
    odds = torch.logit(torch.tensor(w, dtype=x.dtype)) + 2 * centre * x / var
    return ((2 * torch.sigmoid(odds) - 1) * centre - x) / var


exercises.check("10.2", two_sided_score)

# %% [markdown]
# ### ★★ Exercise 10.3
#
# Classifier guidance for a network that says noise. Write `guide(eps_net, classifier, x_t, t, y, abar, s)` with `eps_net(x_t, t)` → $\hat\varepsilon$, `classifier(x_t, t)` → logits $(B, K)$ and `abar` $=\bar\alpha_t$, that returns the guided $\hat\varepsilon$. It will be called under `torch.no_grad()`, as samplers do.
#
# :::{dropdown} Hint
# `torch.enable_grad()`, a detached copy of $x_t$ that requires gradients, the log-softmax of the wanted class summed over the batch, then the left half of (10.9).
# :::

# %%
answer = ...  # a function (eps_net, classifier, x_t, t, y, abar, s) -> eps

# exercises.check("10.3", answer)


# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
# Solution of exercise 10.3
def guide(eps_net, classifier, x_t, t, y, abar, s):
    with torch.enable_grad():
        x = x_t.detach().requires_grad_()
        log_p = classifier(x, t).log_softmax(1)
        chosen = log_p[torch.arange(len(y)), y].sum()
        (slope,) = torch.autograd.grad(chosen, x)
    return eps_net(x_t, t) - s * (1 - abar) ** 0.5 * slope


exercises.check("10.3", guide)

# %% [markdown]
# ### ★★ Exercise 10.4
#
# Someone wants DDIM to end with the *variance of the tilted distribution* of exponent $s$, for class $\mathcal N(0,c)$ in data $\mathcal N(0,1)$. Which constant strength must be used instead? Give a function of $(s, c)$.
#
# :::{dropdown} Hint
# The tilted distribution has precision $s/c-(s-1)$; set (10.12) equal to its inverse.
# :::

# %%
answer = ...  # a function (s, c) -> strength

# exercises.check("10.4", answer)


# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
# Solution of exercise 10.4: c^k = 1 / (s/c − s + 1)
def equivalent_strength(s, c):
    import math

    return -math.log(s / c - s + 1) / math.log(c)


exercises.check("10.4", equivalent_strength)

# %% [markdown]
# ### ★★★ Exercise 10.5
#
# The knob has a scale that "has to be measured" (above). Measure it: find, for *your* sampler, the strength that leaves the variance which a user asked for.
#
# 1. *Derive.* A check for what follows: solve (10.13) at $s=2$. What ancestral sampling leaves in fine steps is a polynomial in $c$.
# 2. *Follow.* On the pair of this section (data $\mathcal N(0,1)$, class $\mathcal N(0,c)$) each step of a guided chain multiplies $x_t$ by a number and adds noise. Follow the variance from 1 at $t=T$ to the end, for any `times` and any $\eta$. With 400 steps and $\eta=1$ you should meet your polynomial, with $\eta=0$ (10.12).
# 3. *Invert.* Write `calibrate(s, c, alpha_bar, times, eta)`: the constant strength at which this chain ends with the variance of the tilted distribution of exponent $s\ge1$. For many steps and $\eta=0$ that is exercise 10.4, for few it is not.
# 4. *Look.* How does the strength depend on the number of steps, and on $\eta$? What would you tell someone who copies $s=4$ from a paper that sampled with 250 steps, and takes 10?
#
# The check takes `(doubled, calibrate)`: the polynomial of part 1 and the function of part 3.
#
# :::{dropdown} Hint
# Part 1: substitute $v=c+u$, so $1+u=v+(1-c)$, and expand the square: three powers of $v$ to integrate from $c$ to $\infty$. Part 2: the guided score is $-k\,x_t$ with $k=(1-s)+s/(\bar\alpha_tc+1-\bar\alpha_t)$; Tweedie's formula makes $\hat x_0$ of it, and (7.2) with $\hat x_0$ the step. Part 3: the variance falls as the strength grows, so halve an interval; between 0 and $s$ lies the answer.
# :::

# %%
answer = ...  # (doubled, calibrate)

# exercises.check("10.5", answer)


# %% mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"} tags=["hide-cell", "solution"]
# Solution of exercise 10.5: c⁴ (1/c + (1−c)/c² + (1−c)²/3c³) = c² + c(1−c)²/3
def doubled(c):
    return c**2 + c * (1 - c) ** 2 / 3


def left_over(strength, c, alpha_bar, times, eta):
    """The variance at the end of a guided chain that starts with variance 1."""
    var = 1.0
    for t, then in zip(times[:-1], times[1:], strict=True):
        a, b = float(alpha_bar[t]), float(alpha_bar[then])
        k = 1 - strength + strength / (a * c + 1 - a)
        loud = eta**2 * (1 - b) / (1 - a) * (1 - a / b)
        on_x0 = (b / a) ** 0.5 * (1 - (1 - a) * k)
        gain = on_x0 + (1 - b - loud) ** 0.5 * (1 - a) ** 0.5 * k
        var = gain**2 * var + loud
    return var


def calibrate(s, c, alpha_bar, times, eta):
    low, high = 0.0, float(s)
    for _ in range(50):
        middle = (low + high) / 2
        if left_over(middle, c, alpha_bar, times, eta) > 1 / (s / c - s + 1):
            low = middle
        else:
            high = middle
    return (low + high) / 2


exercises.check("10.5", (doubled, calibrate))

fine = uniform_times(400, 400)
assert (
    abs(left_over(2, 0.25, chain.alpha_bar, fine, 1) / doubled(0.25) - 1) < 0.06
)
assert abs(left_over(2, 0.25, chain.alpha_bar, fine, 0) / 0.25**2 - 1) < 0.06
print("strength for the tilted distribution of s = 4, c = 1/4")
print("steps      η = 0   η = 1")
for n in (5, 10, 25, 100, 400):
    found = [
        calibrate(4, 0.25, chain.alpha_bar, uniform_times(400, n), eta)
        for eta in (0, 1)
    ]
    print(f"{n:5d} {found[0]:10.2f} {found[1]:7.2f}")
print(f"exercise 10.4 {equivalent_strength(4, 0.25):.2f}")
# Few long steps pull harder: a strength from 250 steps must fall by more than a third at 10.

# %% [markdown]
# ## Recap
#
# 1. A denoiser is a score, and a score is enough to sample: Langevin's noise and drift leave $p$ alone and drive everything else to it.
# 2. A finite step widens the distribution by a known amount; between distant modes chains never cross, so the weights of modes must be settled at high noise. That is what annealing, and every diffusion sampler, does.
# 3. Bayes' rule on scores: add the gradient of a classifier of *noisy* images. Said of the prediction it fits every sampler; said of the mean it is the same to first order.
# 4. $s=1$ with an exact classifier is the conditional model. Other strengths are not $p(x)\,p(y\mid x)^s$, above 1 they are sharper, and samplers differ.
# 5. Trained classifiers have good verdicts and poor gradients: they need large $s$, must see noise in training, and must be kept away from the first steps.
#
# The equations of this chapter, the functions that implement them, the tests that pin them:

# %% mystnb={"code_prompt_show": "Equations, functions, tests", "code_prompt_hide": "Hide the table"} tags=["hide-cell"]
from ddpmlib import equations

equations.table("10")

# %% [markdown]
# ## Further reading
#
# - Dhariwal & Nichol (2021), *Diffusion models beat GANs on image synthesis* {cite}`dhariwal2021diffusion`: sections 4 and 4.1 derive our (10.10), their Algorithms 1 and 2 are the two forms; they, too, need a scale far above one.
# - Sohl-Dickstein et al. (2015) {cite}`sohldickstein2015deep`: the idea of multiplying a diffusion by a second distribution, before there was anything to guide with.
# - Song & Ermon (2019), *Generative modeling by estimating gradients of the data distribution* {cite}`song2019generative`: scores, annealed Langevin, and why plain chains miss the weights of modes.
# - Song et al. (2021), *Score-based generative modeling through SDEs* {cite}`song2021score`: predictor and corrector, and guidance of the reverse SDE.
# - Roberts & Tweedie (1996), *Exponential convergence of Langevin distributions and their discrete approximations* {cite}`roberts1996exponential`: when the unadjusted chain has a stationary distribution at all.
# - Vincent (2011) {cite}`vincent2011connection` and Efron (2011) {cite}`efron2011tweedie`: denoising and scores.
# - Goodfellow, Shlens & Szegedy (2015), *Explaining and harnessing adversarial examples* {cite}`goodfellow2015explaining`: what the input gradient of an ordinary classifier looks like.
