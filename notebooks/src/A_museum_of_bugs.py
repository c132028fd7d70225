# %% [markdown]
# # A. A museum of bugs
#
# [![Open in Colab](../book/_static/colab.svg)](https://colab.research.google.com/github/ddpm-book/ddpm-book/blob/main/notebooks/A_museum_of_bugs.ipynb)
#
# A diffusion model can be wrong and still draw digits. Fourteen exhibits show fifteen mistakes,
# each of one or two lines, that people really make: what was written, where it was seen, what its
# results look like and why, the tests that notice it, and tests that do not. Some results are
# plainly wrong. Others look right, and two mistakes make a reported number *better* (exhibits 4
# and 14).
#
# Each picture is drawn by a copy of this book's library with the wrong line in place of the right
# one. The book's tests put the same lines in place and demand that the named tests fail. Your own
# `ddpmlib` stays as it is. All cells together run in about 20 seconds on one CPU thread.

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
import matplotlib.pyplot as plt
import torch
from ddpmlib.teaching import museum

right = museum.library()  # the library once more, without a bug
wrong = museum.library("guidance_sign")  # and with one
print(*museum.BUGS, sep="\n")

# %% tags=["hide-input"]
double = {"dtype": torch.float64}
scans = right.data.to_float(right.data.load("digits").x_train)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def two(draw, titles=("right", "wrong"), ncol=8, size=(7.2, 2.4)):
    """Two rows of images, one below the other."""
    _, axes = plt.subplots(2, 1, figsize=size)
    for ax, images, title in zip(axes, draw, titles, strict=True):
        plots.grid(images, ncol=ncol, ax=ax)
        ax.set_title(title, fontsize=10)


# The data of the histograms: two peaks on the line, whose exact denoiser is
# known, so that every error is the code's.
weights = torch.tensor([0.4, 0.6], **double)
means = torch.tensor([-0.7, 0.6], **double)
stds = torch.tensor([0.1, 0.1], **double)


def two_peaks(lib, T=200, schedule="cosine"):
    process = lib.process.DDPM(getattr(lib.process.schedules, schedule)(T))
    return process, lib.denoiser.oracle.Mixture(process, weights, means, stds)


def chain(lib, steps=None, eta=1.0, n=4000):
    """Samples of the two peaks by the library's own sampler."""
    process, exact = two_peaks(lib)
    times = lib.samplers.uniform_times(process.T, steps or process.T)
    x_T = torch.randn(n, generator=seeded(1), **double)
    return lib.samplers.draw(
        exact, process, x_T, times, eta=eta, generator=seeded(2)
    )


def histograms(draw, reach=(-1.3, 1.3), titles=("right", "wrong")):
    """Two histograms over the exact density, and the figures of both peaks."""
    _, axes = plt.subplots(1, 2, figsize=(7.5, 2.5), sharey=True)
    line = torch.linspace(*reach, 400, **double)
    density = two_peaks(right)[1].log_prob(line, 0).exp()
    for ax, x, title in zip(axes, draw, titles, strict=True):
        ax.hist(x.numpy(), 80, range=reach, density=True, color=plots.SKY)
        ax.plot(line, density, color="black", lw=1)
        ax.set(title=title, xlabel="$x_0$", ylim=(0, 4))
        left, peak = float((x < 0).double().mean()), x[x > 0]
        spread = float(peak.std()) if len(peak) > 1 else 0.0
        print(f"{title}: left peak {left:.2f}, right peak ± {spread:.3f}")
    print("truth: left peak 0.40, right peak ± 0.100")
    axes[0].set_ylabel("density")


# %% [markdown]
# ## Room 1: the sampling loop
#
# ### Exhibit 1: noise added after the last step
#
# **Seen in** the sampler of a
# [much-read annotated implementation](https://github.com/labmlai/annotated_deep_learning_paper_implementations/blob/master/labml_nn/diffusion/ddpm/__init__.py),
# where every step adds noise, $t=1$ included; and in Algorithm 2 as
# [deck 003](../book/slides_map.md#deck-003), "Denoising Diffusion Models", prints it. The paper's
# Algorithm 2 has $z=0$ at $t=1$ {cite}`ho2020denoising`.
#
# **Looks like** film grain. With variance $\beta$ even an exact prediction ends as
# $\hat x_0+\sqrt{\beta_{t\mid0}}\,z$, where (2.10) has no variance left. After a thousand steps
# the grain is about one grey level deep; after ten it is plainly visible.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two rows of digits from the same noise. Right: clean digits. Wrong: the same digits under visible grain."}}
def perfect_model(lib, steps=10):
    process = lib.process.DDPM(lib.process.schedules.cosine(1000))
    exact = lib.denoiser.oracle.FiniteData(process, scans)
    large = lib.denoiser.FixedVariance(exact, 1.0)
    x_T = torch.randn(8, 1, 8, 8, generator=seeded(5))
    times = lib.samplers.uniform_times(1000, steps)
    return lib.samplers.draw(large, process, x_T, times, generator=seeded(6))


wrong = museum.library("noise_after_the_last_step")
clean, veiled = perfect_model(right), perfect_model(wrong)
two([clean, veiled])
veil = float((veiled - clean).std())
expected = float(
    right.process.DDPM(right.process.schedules.cosine(1000)).std[100]
)
print(f"grain {veil:.2f}, √β of the last stride {expected:.2f}")
assert abs(veil / expected - 1) < 0.1

# %% [markdown]
# **Fig. A.1.** Noise after the last step stays in the image. The same noise and the same exact
# denoiser, ten steps. The difference has a standard deviation of 0.16, where $\sqrt\beta$ of the
# last stride is 0.17.

# %% tags=["remove-input"]
museum.plaque("noise_after_the_last_step")

# %% [markdown]
# The first test is the cheapest one there is: a denoiser that always predicts the same image must
# give exactly that image. The one that passes compares distributions, and uses the small variance
# $\tilde\beta$, which is zero at the last step: the mistake is invisible until someone changes the
# variance.
#
# ### Exhibit 2: the network is told t − 1 instead of t
#
# *Off by one: the loop is at $t$, the network is one step behind.*
#
# **Seen in** two schedulers of one library, one of which looked up $\bar\alpha$ at $t$ and the
# other [at $t+1$](https://github.com/huggingface/diffusers/issues/465); and in the code of a
# published method, which noised to $t$
# [where $t-1$ was due](https://github.com/jychoi118/ilvr_adm/issues/13) and gave good images all
# the same.
#
# **Looks like** nothing, if $T$ is large. The network takes $x_t$ for less noisy than it is and
# removes too little. For normal data the error can be computed exactly; it falls like $1/T$.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Error of the standard deviation over the number of steps T, both axes logarithmic. The right sampler stays near the sampling error; the wrong one starts at 0.2 and falls like one over T, below the sampling error at 400 steps."}}
def spread(lib, T, n=10_000):
    """Samples of a standard normal, for which variance beta is exact."""
    process = lib.process.DDPM(lib.process.schedules.cosine(T))
    exact = lib.denoiser.oracle.Gaussian(
        process, torch.zeros(1, **double), torch.eye(1, **double)
    )
    large = lib.denoiser.FixedVariance(exact, 1.0)
    x_T = torch.randn(n, 1, generator=seeded(1), **double)
    x = lib.samplers.draw(large, process, x_T, generator=seeded(2))
    # The last step draws nothing, so the chain ends at variance alpha_bar_1.
    return abs(float(x.std() / process.scale[1]) - 1)


def exactly(T, behind=1):
    """The same without drawing: each step multiplies x and adds noise."""
    process = right.process.DDPM(right.process.schedules.cosine(T))
    one, none, var = torch.ones(1, **double), torch.zeros(1, **double), 1.0
    for t in range(T, 0, -1):
        x0 = process.scale[max(t - behind, 1)] * one  # E[x_0 | x_t = 1]
        said = right.prediction.Prediction(x0, 1.0)
        gain = float(process.step(one, said, t, t - 1, 1.0, none))
        noise = float(process.posterior_std(t, t - 1, 1.0)) if t > 1 else 0.0
        var = gain**2 * var + noise**2
    return var**0.5 / float(process.scale[1]) - 1


wrong = museum.library("one_step_behind")
lengths = (5, 10, 20, 50, 100, 200, 400)
error = {
    name: [spread(lib, T) for T in lengths]
    for name, lib in (("right", right), ("wrong", wrong))
}
exact, chance = [exactly(T) for T in lengths], 1 / 20_000**0.5
figure, ax = plt.subplots(figsize=(6.4, 2.7))
for name, marker in (("right", "o"), ("wrong", "s")):
    ax.loglog(lengths, error[name], marker, ms=4, label=f"{name}, 10,000 samples")
ax.loglog(lengths, exact, "-", color=plots.ORANGE, label="wrong, exact")
ax.axhline(chance, color=plots.GREY, ls=":", label="sampling error")
ax.set(xlabel="steps $T$", ylabel="error of the deviation", ylim=(1e-4, 1))
ax.legend(fontsize=9.5, loc="upper right")
for T in (10, 100, 400):
    print(f"T = {T:3d}: {exact[lengths.index(T)]:.3f} too wide")
last = exactly(1000)
print(f"T = 1000: {last:.4f}, seen with {round((3 / last) ** 2 / 2, -4):,.0f} samples")
assert max(error["right"]) < 0.03 and abs(exactly(10, behind=0)) < 1e-12
assert all(abs(e - x) < 4 * chance for e, x in zip(error["wrong"], exact, strict=True))
assert exact[6] < chance < exact[5] < exact[1] / 9

# %% [markdown]
# **Fig. A.2.** The error of an off-by-one time falls like $1/T$. Standard deviation of samples of
# $\mathcal N(0,1)$: exact (line) and of 10,000 samples (squares). It is 16 % at $T=10$ and 0.6 %
# at $T=400$, below the sampling error of 10,000 samples, 0.7 % (dotted).

# %% tags=["remove-input"]
museum.plaque("one_step_behind")

# %% [markdown]
# At $T=1000$ the error is 0.24 %; to see it at three standard errors takes 760,000 samples. Two
# tests need none: one replays Algorithm 2 with the same noise and demands equality to twelve
# digits, the other follows a chain of ten steps whose covariance is known in closed form. The
# point mass of exhibit 1 does not notice it, because a constant prediction does not depend on the
# time.
#
# ### Exhibit 3: the variance in place of the standard deviation
#
# *$\beta$ for $\sqrt\beta$.*
#
# **Seen in** several of the slide decks behind this book, which write $\sigma_t I$ for the
# covariance $\sigma_t^2 I$ (chapters [1](01_forward.ipynb), [2](02_reverse.ipynb),
# [6](06_iddpm.ipynb)); and outside diffusion in a
# [noise transform](https://github.com/google-deepmind/optax/issues/281) that scaled by the
# variance.
#
# **Looks like** good samples with little variety. $\sigma_t<1$, so $\sigma_t^2$ is smaller still:
# each step draws too little noise, and all samples gather near the modes. Every single one is
# plausible; only many together show it.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two scatter plots in the plane. Right: eight round clusters on a ring. Wrong: eight small dense dots in their places, each about half as wide."}}
def ring(lib, n=800):
    process = lib.process.DDPM(lib.process.schedules.cosine(200))
    exact = lib.denoiser.oracle.Mixture(
        process,
        torch.ones(8),
        right.data.ring_means(8),
        torch.full((8,), 0.15),
    )
    x_T = torch.randn(n, 2, generator=seeded(1))
    return lib.samplers.draw(exact, process, x_T, generator=seeded(2))


def scatters(points, titles=("right", "wrong"), reach=2.5):
    _, axes = plt.subplots(1, 2, figsize=(6.4, 3.1))
    for ax, x, title in zip(axes, points, titles, strict=True):
        plots.scatter(x, ax, reach=reach).set_title(title)


def width(x):
    """Mean distance to the nearest centre of the ring."""
    return float(torch.cdist(x, right.data.ring_means(8)).min(1).values.mean())


wrong = museum.library("variance_for_deviation")
points = [ring(right), ring(wrong)]
scatters(points)
off = [width(x) for x in points]
print(f"distance to a centre: {off[0]:.2f} and {off[1]:.2f}")
assert off[1] < 0.6 * off[0]

# %% [markdown]
# **Fig. A.3.** Too little noise in each step gives too narrow clusters. Eight clusters on a ring,
# an exact denoiser, 200 steps. The mean distance to the nearest centre is 0.18 with the right line
# and 0.09 with the wrong one.

# %% tags=["remove-input"]
museum.plaque("variance_for_deviation")

# %% [markdown]
# ### Exhibit 4: uniform noise in place of normal noise
#
# *One letter: `rand` for `randn`.*
#
# **Seen in** a policy that was
# [trained with one and sampled with the other](https://github.com/HRI-EU/flow_matching/issues/7),
# and as a [reader's question](https://github.com/acids-ircam/diffusion_models/issues/8) about a
# tutorial.
#
# **Looks like**, in the sampler, a plain failure: uniform numbers have mean ½, every step pushes
# the same way, and the samples leave the data. In training it looks like *success*: the loss of a
# network that always answers 0 falls from $\mathbb E\varepsilon^2=1$ to
# $\int_0^1 u^2\,\mathrm du=\tfrac13$, so that losses of right and wrong code must not be compared.
# [Chapter 3](03_ddpm.ipynb) shows the samples of such a network.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two scatter plots. Right: eight clusters on a ring. Wrong: everything in one small spot on the upper right side of the ring."}}
wrong = museum.library("uniform_noise")
points = [ring(right), ring(wrong)]
scatters(points, reach=2.8)


class Silent(torch.nn.Module):
    """A network that has learned nothing: it always answers 0."""

    def forward(self, x, t, y=None):
        return torch.zeros_like(x)


def loss_of_nothing(lib):
    process = lib.process.DDPM(lib.process.schedules.linear(100))
    silent = lib.denoiser.Denoiser(Silent(), process)
    x = torch.zeros(100_000, 2)
    return float(lib.losses.diffusion_loss(silent, x, None, seeded(0)))


trained_wrong = museum.library("uniform_noise_in_training")
before, after = loss_of_nothing(right), loss_of_nothing(trained_wrong)
mean = [abs(float(x.mean())) for x in points]
print(f"mean of the samples: {mean[0]:.1f} and {mean[1]:.1f}")
print(f"loss of a silent network: {before:.2f} and {after:.2f}")
assert mean[0] < 0.05 and mean[1] > 1
assert abs(before - 1) < 0.02 and abs(after - 1 / 3) < 0.01

# %% [markdown]
# **Fig. A.4.** Uniform noise in the sampler moves all samples to one place. The mean of the
# coordinates is 1.8 where it should be 0. (In the cell, not in the figure: the loss of a network
# that answers 0 is 0.33 with uniform noise in training, and 1.00 with normal noise.)

# %% tags=["remove-input"]
museum.plaque("uniform_noise")

# %% tags=["remove-input"]
museum.plaque("uniform_noise_in_training")

# %% [markdown]
# ### Exhibit 5: the state clipped as well as the prediction
#
# *Not only $\hat x_0$ is kept within $[-1,1]$, but $x_t$ too.*
#
# **A common slip.** Images live in $[-1,1]$, so it seems right to clip after every step. But
# $x_t=\sqrt{\bar\alpha_t}\,x_0+\sqrt{1-\bar\alpha_t}\,\varepsilon$ is no image. At high noise it
# has variance near 1, and a third of its values lie outside. (A related one, in a
# [popular library](https://github.com/lucidrains/denoising-diffusion-pytorch/pull/84): $\hat x_0$
# is clipped, and the $\hat\varepsilon$ from before the clip is kept.)
#
# **Looks like** sharper samples. All states beyond the range are put onto its end, into one and
# the same state, and a deterministic chain never parts them again.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two histograms of samples over the exact density with two peaks. Right: they agree. Wrong: both peaks are cut off on their outer side, where a spike stands that leaves the picture."}}
wrong = museum.library("clipping_doubled")
found = [chain(lib, steps=50, eta=0.0) for lib in (right, wrong)]
histograms(found)
right_peak, wrong_peak = (float(x[x > 0].std()) for x in found)
met = [1 - len(x.unique()) / len(x) for x in found]
print(f"ends that others share: {met[0]:.0%} and {met[1]:.0%}")
assert wrong_peak < 0.85 * right_peak and met[0] == 0 and met[1] > 0.2

# %% [markdown]
# **Fig. A.5.** Clipped states meet and stay together. DDIM with 50 steps, 4,000 samples over the
# exact density. With the wrong line 31 % of the samples share their end with another, in one spike
# per peak; the right peak has a standard deviation of 0.075. (The right line gives 0.091 where
# 0.100 is due: the error of 50 steps.)

# %% tags=["remove-input"]
museum.plaque("clipping_doubled")

# %% [markdown]
# ## Room 2: formulas and numbers
#
# ### Exhibit 6: α in place of ᾱ
#
# *The bar is lost.*
#
# **Seen in** [deck 004](../book/slides_map.md#deck-004), "Diffusion models": Algorithm 2, as we
# extracted its text, has $\sqrt{1-\alpha_t}$ where (3.3) has $\sqrt{1-\bar\alpha_t}$. Deck 003
# mixes $\alpha$ and $\bar\alpha$ on a slide about DDIM, whose authors write $\alpha$ for what
# others call $\bar\alpha$.
#
# **Looks like** clean samples from another data set. $\sqrt{1-\alpha_t}=\sqrt{\beta_t}$ is small,
# so each step subtracts too much noise, by the factor $\sqrt{(1-\bar\alpha_t)/\beta_t}$; the state
# loses its variance and all chains gather in the middle, from where most end in the nearer peak.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two histograms of samples over the exact density with two peaks. Right: they agree. Wrong: the left peak holds far too little, and both peaks are too narrow."}}
def printed_algorithm(lib, T=200, n=4000):
    process, exact = two_peaks(lib, T, "linear")

    def net(x, t):
        return process.eps_from_x0(x, exact(x, t).x0, t)

    z = torch.randn(T + 1, n, generator=seeded(3), **double)
    x_T = torch.randn(n, generator=seeded(4), **double)
    tables = process.alpha, process.alpha_bar, process.beta.sqrt()
    return lib.textbook.algorithm_2(net, x_T, *tables, list(z))


wrong = museum.library("bar_lost")
found = [printed_algorithm(lib) for lib in (right, wrong)]
histograms(found)
assert abs(float((found[0] < 0).double().mean()) - 0.4) < 0.03
assert float((found[1] < 0).double().mean()) < 0.3

# %% [markdown]
# **Fig. A.6.** A lost bar changes the distribution, not the look of single samples. Algorithm 2,
# 200 steps. The left peak holds 18 % of the samples, where 40 % are due, and the right one has a
# standard deviation of 0.071 instead of 0.100.

# %% tags=["remove-input"]
museum.plaque("bar_lost")

# %% [markdown]
# Again the point mass does not notice it: in the last step $\alpha_1=\bar\alpha_1$, and with a
# constant prediction that step corrects all the others.
#
# ### Exhibit 7: one time per image, spread along the columns
#
# *Eight images, eight columns.*
#
# **Seen in** a form that stops with an error, where [shapes
# disagree](https://github.com/jolibrain/joliGEN/pull/527). The form without an error is worse.
# $\sqrt{\bar\alpha_t}$ has shape $(B,)$ and the images $(B,C,H,W)$. PyTorch aligns shapes from the
# right: if the batch happens to be as large as the image is wide, there is no error.
#
# **Looks like** vertical stripes: instead of one noise level per image, one per *column*.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two rows of the same eight digits. Right: each digit noisier than the one before it, from clean to pure noise. Wrong: all eight alike, clean on the left edge and pure noise on the right edge."}}
def eight_times(lib):
    process = lib.process.DDPM(lib.process.schedules.cosine(1000))
    t = torch.arange(8) * 1000 // 7
    eps = torch.randn(8, 1, 8, 8, generator=seeded(7))
    return process.q_sample(scans[:8], t, eps), (t, eps)


wrong = museum.library("times_along_the_width")
(images, _), (curtains, (t, eps)) = eight_times(right), eight_times(wrong)
two([images, curtains])
same_column = [
    int(torch.equal(curtains[..., k], scans[:8, ..., k])) for k in (0, 7)
]
print("t =", t.tolist())
print("wrong: first and last column clean?", same_column)
assert torch.equal(images[0], scans[0]) and same_column == [1, 0]

# %% [markdown]
# **Fig. A.7.** Each column of pixels gets the time of one image. Eight digits at eight times from
# $t=0$ (clean) to $t=1000$. Right: one time per image. Wrong: all images are clean in their first
# column and noise in their last.

# %% tags=["remove-input"]
museum.plaque("times_along_the_width")

# %% [markdown]
# ### Exhibit 8: tables in single precision
#
# *One minus almost one.*
#
# **Seen in** schedulers that kept a cast copy of their tables, so that $\bar\alpha_t$
# [rounded to 1](https://github.com/huggingface/diffusers/pull/3005) for the first few $t$ and a
# division by zero followed; and in a program that loads them
# [in half precision](https://github.com/AUTOMATIC1111/stable-diffusion-webui/issues/14071).
#
# **Looks like** nothing, until steps are fine. Numbers of float32 just below 1 lie $6\cdot10^{-8}$
# apart. The signal $\sqrt{\bar\alpha_t}$ is hardly affected. But the noise needs $1-\bar\alpha_t$,
# and of that the same gap is the share $6\cdot10^{-8}/(1-\bar\alpha_t)$: the finer the steps, the
# smaller $1-\bar\alpha_1$, the larger the error.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Relative error of the first noise level over the number of steps, both axes logarithmic. With tables in single precision it rises by several powers of ten, from 1e-7 or less at ten steps to a few thousandths at thirty thousand."}}
def first_noise(lib, T):
    process = lib.process.DDPM(lib.process.schedules.cosine(T))
    exact = right.process.DDPM(right.process.schedules.cosine(T)).std[1]
    return abs(float(process.std[1].double() / exact) - 1)


wrong = museum.library("float32_tables")
lengths = (10, 30, 100, 300, 1000, 3000, 10_000, 30_000)
error = [first_noise(wrong, T) for T in lengths]
figure, ax = plt.subplots(figsize=(6.4, 2.6))
ax.loglog(lengths, error, "s-", ms=4, color=plots.ORANGE)
ax.set(
    xlabel="steps $T$", ylabel="relative error of\n$\\sqrt{1-\\bar\\alpha_1}$"
)
print(f"T = 100: {error[2]:.0e}, T = 30000: {error[7]:.0e}")
assert max(error[:3]) < 1e-4 < 1e-3 < max(error[6:])
assert first_noise(right, 30_000) == 0

# %% [markdown]
# **Fig. A.8.** Single precision spoils the noise level of the first step when steps are fine.
# Relative error of $\sqrt{1-\bar\alpha_1}$ (cosine schedule): $7\cdot10^{-6}$ at $T=100$, half a
# percent at $T=30{,}000$.

# %% tags=["remove-input"]
museum.plaque("float32_tables")

# %% [markdown]
# ## Room 3: data and training
#
# ### Exhibit 9: data left in [0, 1]
#
# *The range that the schedule expects is $[-1,1]$.*
#
# **Seen in** [five](https://github.com/lucidrains/denoising-diffusion-pytorch/issues/20)
# [threads](https://github.com/lucidrains/denoising-diffusion-pytorch/issues/80)
# [of](https://github.com/lucidrains/denoising-diffusion-pytorch/issues/154)
# [one](https://github.com/lucidrains/denoising-diffusion-pytorch/issues/156)
# [library](https://github.com/lucidrains/denoising-diffusion-pytorch/issues/307), all asking which
# range its images should have.
#
# **Looks like** grey images: what was black is written as mid-grey. The schedule has moved as well.
# Half the range is a quarter of the variance, so at every $t$ the signal-to-noise ratio
# $\bar\alpha_t\operatorname{Var}(x_0)/(1-\bar\alpha_t)$ is a quarter of what it should be. Training
# runs without an error.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two rows of digits. Right: white digits on black. Wrong: the same kind of digits, white on mid-grey."}}
def from_bytes(lib):
    """A perfect model of the data as the library scales them."""
    process = lib.process.DDPM(lib.process.schedules.cosine(1000))
    data = lib.data.to_float(lib.data.load("digits").x_train)
    exact = lib.denoiser.oracle.FiniteData(process, data)
    x_T = torch.randn(8, 1, 8, 8, generator=seeded(5))
    times = lib.samplers.uniform_times(1000, 50)
    x = lib.samplers.draw(exact, process, x_T, times, generator=seeded(6))
    return x, float(data.var())


wrong = museum.library("data_in_0_1")
(x, var), (fog, fog_var) = from_bytes(right), from_bytes(wrong)
two([x, fog])
print(f"darkest pixel: right {x.min():.0f}, wrong {fog.min():.0f}")
print(f"variance of the data: {var:.2f} and {fog_var:.2f}")
assert x.min() == -1 and fog.min() == 0 and abs(var / fog_var - 4) < 1e-3

# %% [markdown]
# **Fig. A.9.** Samples of an exact denoiser for data in $[0,1]$ are grey. The darkest pixel is 0
# instead of $-1$, which is written as mid-grey; the variance of the data is 0.14 instead of 0.57.

# %% tags=["remove-input"]
museum.plaque("data_in_0_1")

# %% [markdown]
# ### Exhibit 10: buffers averaged together with the weights
#
# *The moving average must copy buffers.*
#
# **Seen in** libraries on both sides of the right way: one
# [averaged](https://github.com/lucidrains/phenaki-pytorch/issues/21) buffers that should have been
# copied, PyTorch itself once [did not copy them](https://github.com/pytorch/pytorch/issues/84053)
# at all.
#
# **Looks like** training that does not start. The running statistics of a normalisation layer are
# averages already. Averaged once more they stay near their first values, mean 0 and variance 1,
# which belong to no data. And a counter is a whole number: $0.995\cdot1+0.005\cdot2$, rounded
# down, is 1, and the count stands still until the true one is 200 ahead.

# %% tags=["hide-input", "nbval-ignore-output"] mystnb={"image": {"alt": "Accuracy of the averaged classifier over training steps. With copied buffers it climbs from 0.1 to about 0.9; with averaged buffers it stays at 0.1."}}
def learn(lib, steps=200):
    recipe = lib.zoo.recipes.ClassifierRecipe(
        "exhibit",
        "digits",
        lib.models.ClassifierConfig(width=8),
        lib.training.Settings(steps, lr=3e-3, warmup=10, ema=0.995),
    )
    digits = lib.data.load("digits")
    x = lib.data.to_float(digits.x_test)
    _ = torch.manual_seed(0)  # of dropout
    trainer = lib.training.Trainer(
        recipe.build(),
        recipe.loss(),
        digits.x_train,
        digits.y_train,
        recipe.settings,
        device="cpu",
    )
    accuracy = []
    for progress in lib.training.fit(trainer):
        if progress.step % 10 == 0:
            with torch.no_grad():
                hits = trainer.averaged(x).argmax(1) == digits.y_test
            accuracy.append(float(hits.float().mean()))
    counters = [
        int(buffer)
        for name, buffer in trainer.averaged.named_buffers()
        if name.endswith("num_batches_tracked")
    ]
    return accuracy, counters[0]


wrong = museum.library("averaged_buffers")
learned = {"right (copied)": learn(right), "wrong (averaged)": learn(wrong)}
figure, ax = plt.subplots(figsize=(6.4, 2.6))
for (name, (accuracy, count)), marker in zip(
    learned.items(), ("o-", "s-"), strict=True
):
    ax.plot(range(10, 201, 10), accuracy, marker, ms=3, label=name)
    print(f"{name}: {accuracy[-1]:.2f}, counter {count}")
ax.set(xlabel="update", ylabel="accuracy of\nthe average", ylim=(0, 1))
ax.legend(fontsize=9.5)
(good, counted), (bad, stuck) = learned.values()
assert good[-1] > 0.3 > 0.2 > bad[-1] and (counted, stuck) == (200, 1)

# %% [markdown]
# **Fig. A.10.** A classifier whose averaged copy does not learn. Accuracy of the averaged network
# on the test digits: 0.89 after 200 updates with copied buffers, 0.10, which is chance, with
# averaged ones. The counter of batches is 200 and 1.

# %% tags=["remove-input"]
museum.plaque("averaged_buffers")

# %% [markdown]
# ### Exhibit 11: the guiding classifier trained on clean images
#
# **A common slip**, since classifiers of clean images are easy to find. Classifier guidance needs
# $p(y\mid x_t)$, (10.6), a classifier of *noisy* images {cite}`dhariwal2021diffusion`.
#
# **Looks like** confidence. Where nothing of the image is left, the right classifier gives each
# class about one tenth. This one is sure of a digit, and right one time in ten.
# [Chapter 10](10_classifier_guidance.ipynb) shows what its gradient does to samples.

# %% tags=["hide-input", "nbval-ignore-output"] mystnb={"image": {"alt": "Two panels, accuracy and mean confidence over the time t from 1 to 40. Right: both fall together to one tenth. Wrong: accuracy falls to one tenth, confidence stays above 0.6."}}
def guide(lib, steps=150):
    config = lib.models.NoisyClassifierConfig(
        width=8, mults=(1, 2), attention=(False, False), heads=2, groups=4
    )
    settings = lib.training.Settings(steps, lr=2e-2, warmup=10, ema=0.95)
    recipe = lib.zoo.recipes.NoisyClassifierRecipe(
        "exhibit", "digits", config, settings, T=40
    )
    digits = lib.data.load("digits")
    _ = torch.manual_seed(0)  # of dropout
    trainer = lib.training.Trainer(
        recipe.build(),
        recipe.loss(),
        digits.x_train,
        digits.y_train,
        settings,
        device="cpu",
    )
    for _ in lib.training.fit(trainer):
        pass
    return trainer.averaged


@torch.no_grad()
def opinion(net, t):
    """Accuracy and mean confidence at time t, on the test digits."""
    digits = right.data.load("digits")
    x = right.data.to_float(digits.x_test)
    x_t = net.process.q_sample(x, t, torch.randn(x.shape, generator=seeded(t)))
    p = net(x_t, torch.full((len(x),), t)).softmax(1)
    hits = p.argmax(1) == digits.y_test
    return float(hits.float().mean()), float(p.max(1).values.mean())


times = [1, *range(4, 41, 4)]
wrong = museum.library("clean_classifier")
figure, axes = plt.subplots(1, 2, figsize=(7.5, 2.6), sharey=True)
last = {}
for ax, (name, lib) in zip(
    axes, (("right", right), ("wrong", wrong)), strict=True
):
    net = guide(lib)
    found = [opinion(net, t) for t in times]
    ax.plot(times, [a for a, _ in found], "o-", ms=3, label="accuracy")
    ax.plot(times, [c for _, c in found], "s--", ms=3, label="confidence")
    ax.set(title=name, xlabel="time $t$ (of 40)", ylim=(0, 1))
    last[name] = found[-1]
    hits, sure = found[-1]
    print(f"{name}, t = 40: {hits:.0%} hits, {sure:.0%} sure")
axes[0].legend(fontsize=9.5)
assert last["right"][1] < 0.25 < 0.5 < last["wrong"][1]
assert max(last["right"][0], last["wrong"][0]) < 0.2

# %% [markdown]
# **Fig. A.11.** A classifier of clean images stays sure where nothing can be read. Accuracy and
# mean confidence (the largest probability) over the time; at $t=40$ all is noise. Trained on noisy
# images: confidence 14 %. Trained on clean ones: 75 %, with 7 % of the answers right.

# %% tags=["remove-input"]
museum.plaque("clean_classifier")

# %% [markdown]
# ## Room 4: guidance
#
# ### Exhibit 12: the wrong sign in classifier-free guidance
#
# **Seen in** the formula above correct code: an annotated implementation prints
# $s\,\hat\varepsilon_c+(s-1)\,\hat\varepsilon_\varnothing$ for
# $s\,\hat\varepsilon_c+(1-s)\,\hat\varepsilon_\varnothing$, [reported in
# 2023](https://github.com/labmlai/annotated_deep_learning_paper_implementations/issues/177). A
# program that follows the printed formula has a mistake that the author's program does not have.
#
# **Looks like** a model that ignores its label. (11.2) moves from the average digit *towards* the
# class; the wrong sign moves away from it with the same strength.

# %% tags=["hide-input", "nbval-ignore-output"] mystnb={"image": {"alt": "Two rows of ten digits, 0 to 9 asked for. Right: 0 to 9 in order. Wrong: clean digits, nearly all of another class than asked for."}}
@torch.no_grad()
def guided(lib, w=3.0):
    net, _ = lib.zoo.load("mnist", device="cpu")
    guide = lib.guidance.ClassifierFree(net, w)
    x_T = torch.randn(10, 1, 28, 28, generator=seeded(3))
    times = lib.samplers.uniform_times(net.process.T, 20)
    return lib.samplers.draw(
        guide, net.process, x_T, times, eta=0.0, y=torch.arange(10)
    )


wrong = museum.library("guidance_sign")
obedient, stubborn = guided(right), guided(wrong)
two([obedient, stubborn], ncol=10, size=(7.5, 2.1))
classifier, _ = right.zoo.load("mnist-classifier", device="cpu")
agreed = []
for name, x in (("right", obedient), ("wrong", stubborn)):
    read = right.evaluation.features.extract(classifier, x)[1].argmax(1)
    agreed.append(int((read == torch.arange(10)).sum()))
    print(f"{name}: read as", *read.tolist())
assert agreed[0] >= 9 and agreed[1] <= 2

# %% [markdown]
# **Fig. A.12.** With the wrong sign the samples avoid the class that was asked for. MNIST, $w=3$,
# columns for the classes 0 to 9, the same noise in both rows. A classifier reads the right row as
# 0 to 9, and no digit of the wrong row as the one that was asked for.

# %% tags=["remove-input"]
museum.plaque("guidance_sign")

# %% [markdown]
# ## Room 5: writing and measuring
#
# ### Exhibit 13: clipping forgotten when images are written
#
# *Whiter than white becomes black.*
#
# **Seen in** [an image library](https://github.com/tensorpack/tensorpack/issues/614).
#
# **Looks like** salt and pepper. Guidance pushes pixels past 1. A byte has no room for 256: it
# counts on from 0. (That is what whole numbers do. What a float beyond 255 becomes depends on the
# machine.)

# %% tags=["hide-input", "nbval-ignore-output"] mystnb={"image": {"alt": "Two rows of the same ten digits. Right: white on black. Wrong: black specks inside the strokes and white specks all over the background."}}
wrong = museum.library("clipping_forgotten")
tidy, wrapped = (lib.data.to_uint8(obedient) for lib in (right, wrong))
two([tidy, wrapped], ncol=10, size=(7.5, 2.1))
jump = float(((tidy.int() - wrapped.int()).abs() > 128).float().mean())
out = float((obedient.abs() > 1 + 1 / 255).float().mean())
print(f"out of range: {out:.0%}, turned round: {jump:.0%}")
assert jump > 0.1 and abs(jump - out) < 0.01

# %% [markdown]
# **Fig. A.13.** Pixels out of range wrap around. The digits of exhibit 12, written as bytes with
# and without clipping. 31 % of the pixels lie more than one grey level out of range, and as many
# have turned from white to black or back.

# %% tags=["remove-input"]
museum.plaque("clipping_forgotten")

# %% [markdown]
# ### Exhibit 14: real images and samples measured in different ranges
#
# *An evaluation that puts noise ahead of real digits.*
#
# **Seen in** a thread on
# [published checkpoints](https://github.com/openai/improved-diffusion/issues/106): above 200 for
# one user, 4.4 for another, who divides the samples by 255. Deck 004
# reports FIDs of 160 to 300 on CIFAR-10 after 100 epochs, for methods that reach 3 to 4. We cannot
# know what went wrong there; the exhibit shows that such numbers can come from a broken
# evaluation.
#
# **Looks like** a terrible model. We measure *real* test digits, as floats in $[-1,1]$ like
# samples, against the training set, stored as bytes. The wrong code reads bytes as $[0,1]$.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Bars on a logarithmic axis: Frechet distance of three sets from the training digits, by the right and by the wrong code. Right: real digits about 1 in both forms, noise about 400. Wrong: real digits as bytes 0.2, as floats about 400, noise about 120."}}
def distances(lib):
    digits = lib.data.load("digits")
    classifier, _ = lib.zoo.load("digits-classifier", device="cpu")
    train = lib.evaluation.features.moments(classifier, digits.x_train)
    sets = {
        "real digits, bytes": digits.x_test,
        "real digits, floats": right.data.to_float(digits.x_test),
        "grey noise, floats": torch.randn(355, 1, 8, 8, generator=seeded(0))
        / 2,
    }
    return {
        name: lib.evaluation.metrics.frechet_distance(
            lib.evaluation.features.extract(classifier, x)[0], train
        )
        for name, x in sets.items()
    }


wrong = museum.library("features_in_another_range")
found = {"right": distances(right), "wrong": distances(wrong)}
figure, ax = plt.subplots(figsize=(6.8, 2.7))
for shift, (code, values) in zip((-0.2, 0.2), found.items(), strict=True):
    places = [k + shift for k in range(3)]
    ax.bar(places, list(values.values()), 0.38, label=f"{code} code")
    print(f"{code} code:", *(f"{value:.1f}" for value in values.values()))
ax.set(yscale="log", ylabel="Fréchet distance", xticks=range(3))
ax.set_xticklabels(found["right"], fontsize=9.5)
ax.legend(fontsize=9.5)
good, bad = found.values()
assert good["real digits, bytes"] == good["real digits, floats"] < 2
assert bad["real digits, floats"] > 200 > bad["grey noise, floats"]
assert bad["real digits, bytes"] < good["real digits, bytes"]

# %% [markdown]
# **Fig. A.14.** A mistake in the range makes real digits look worse than noise. Fréchet distance
# from the training digits. Right: 1.0 for real digits in both forms, 420 for grey noise. Wrong:
# 388 for real digits as floats, 122 for noise, and 0.2, *too small*, where both sides are bytes
# and the mistake is made on both.

# %% tags=["remove-input"]
museum.plaque("features_in_another_range")

# %% [markdown]
# ## Which check notices which mistake
#
# Five checks, each a few lines, and the exhibits of the first two rooms. **Point**: with a denoiser
# that always predicts the same image, the sampler returns that image. **Distribution**: 4,000
# samples of the two peaks follow the exact distribution function. **Printed**: the sampler equals
# Algorithm 2 with the same noise. **Tables**: $\bar\alpha$, $1-\bar\alpha$ and $\tilde\beta$ agree
# with sums of logarithms in double precision. **Alone**: each image of a batch is noised as it
# would be alone.

# %% tags=["hide-input"]
from IPython.display import Markdown


def point(lib):
    process, _ = two_peaks(lib)
    here = torch.full((50,), 0.3, **double)
    said = lib.prediction.Prediction(here, 1.0)
    x_T = torch.randn(50, generator=seeded(1), **double)
    times = lib.samplers.uniform_times(200, 20)
    found = lib.samplers.draw(
        lambda x, t, y: said, process, x_T, times, generator=seeded(2)
    )
    return torch.equal(found, here)


def distribution(lib):
    x = chain(lib).sort().values
    cdf = torch.special.ndtr((x[:, None] - means) / stds) @ weights
    steps = torch.arange(1, len(x) + 1, **double) / len(x)
    return float((cdf - steps).abs().max()) < 0.03


def printed(lib, n=50):
    process, exact = two_peaks(lib)
    large = lib.denoiser.FixedVariance(exact, 1.0)
    x_T, T = torch.randn(n, generator=seeded(1), **double), process.T
    g = seeded(2)
    z = {t: torch.randn(n, generator=g, **double) for t in range(T, 1, -1)}

    def net(x, t):
        return process.eps_from_x0(x, exact(x, t).x0, t)

    tables = process.alpha, process.alpha_bar, process.beta.sqrt()
    theirs = lib.textbook.algorithm_2(net, x_T, *tables, z)
    ours = lib.samplers.draw(large, process, x_T, generator=seeded(2))
    return float((ours - theirs).abs().max()) < 1e-6


def tables(lib):
    beta = lib.process.schedules.cosine(200)
    process = lib.process.DDPM(beta)
    log = torch.log1p(-beta).cumsum(0)
    tilde = torch.expm1(log[:-1]) / torch.expm1(log[1:]) * beta[1:]
    pairs = [
        (process.alpha_bar, log.exp()),
        (process.std**2, -torch.expm1(log)),
        (process.beta_tilde[1:], tilde),
    ]
    return all(float((a - b).abs().max()) < 1e-12 for a, b in pairs)


def alone(lib):
    images, (t, eps) = eight_times(lib)
    process = lib.process.DDPM(lib.process.schedules.cosine(1000))
    single = [
        process.q_sample(scans[k : k + 1], int(t[k]), eps[k : k + 1])
        for k in range(8)
    ]
    return float((images - torch.cat(single)).abs().max()) < 1e-6


checks = {
    "point": point,
    "distribution": distribution,
    "printed": printed,
    "tables": tables,
    "alone": alone,
}
names = [
    "noise_after_the_last_step",
    "one_step_behind",
    "variance_for_deviation",
    "uniform_noise",
    "clipping_doubled",
    "bar_lost",
    "times_along_the_width",
    "float32_tables",
]
seen = {}
for name in [None, *names]:
    lib = museum.library(name)
    seen[name] = [check(lib) for check in checks.values()]
rows = [
    f"| {name or 'no bug'} | "
    + " | ".join("" if ok else "**✗**" for ok in row)
    + " |"
    for name, row in seen.items()
]
assert all(seen[None]) and not any(all(seen[name]) for name in names)
for k in range(len(checks)):
    assert sum(not seen[name][k] for name in names) < len(names)
assert sum(seen[name][1] for name in names) == 5  # missed by looking at many samples
Markdown(
    "| bug | "
    + " | ".join(checks)
    + " |\n|:--|"
    + ":-:|" * 5
    + "\n"
    + "\n".join(rows)
)

# %% [markdown]
# A cross means: noticed. **No column has them all.** The check that most people would trust,
# looking at many samples, misses five of the eight, and each of these five is found by another.
# What these checks have in common is that they compare with something *exactly known*, not with a
# stored picture of yesterday's output, which would have been drawn with the mistake.
#
# Eight habits:
#
# 1. Test the sampler without a network: with an exact denoiser every error is the code's.
# 2. Index the table by time, with $\bar\alpha_0=1$ in it; then nothing needs a shift by one.
# 3. Give one name to one thing: $\bar\alpha$ is not $\alpha$, a deviation is not a variance.
# 4. Compare a loss with the least that is possible for it, never with that of other code.
# 5. Scale images in one place, refuse what is out of range there, clip once, at the end.
# 6. Try a batch as large as the image is wide, and few steps: what is invisible at $T=1000$ shows
#    at $T=10$.
# 7. Measure real data with your code before you measure samples.
# 8. Break the line that a test is about, on purpose, once, and see the test fail.
#
# The last is what this museum does. `museum.BUGS` holds the lines; `tests/injection.py` puts them
# in place one after the other, and `tests/test_museum.py` complains if a named test passes with
# its mistake, if it fails without, or if a line is no longer to be found. To add an exhibit, add
# an entry there and a picture here.
