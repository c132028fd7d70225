# %% [markdown]
# # C. CIFAR-10: colour on a laptop
#
# [![Open in Colab](../book/_static/colab.svg)](https://colab.research.google.com/github/ddpm-book/ddpm-book/blob/main/notebooks/C_cifar10.ipynb)
#
# CIFAR-10 holds fifty thousand photographs of $32\times32$ pixels for training, and the papers of
# this book are compared on it. This page shows what a network draws that one CPU thread trained in
# less than two hours, measures its samples, and says what separates it from the networks of the
# papers: thirteen to nineteen times as many weights, and six or seven thousand times as many
# operations.

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

# %% mystnb={"image": {"alt": "Forty small colour images in ten columns, one class a column, from aeroplane to lorry: backgrounds, colours and outlines fit the class, objects are blurred or broken."}} tags=["hide-input"]
import time

import matplotlib.pyplot as plt
import torch
from ddpmlib import plots, zoo
from ddpmlib.guidance import ClassifierFree
from ddpmlib.samplers import draw, sample, uniform_times

denoiser, card = zoo.load("cifar10-small", device="cpu")
process, T = denoiser.process, denoiser.process.T
CLASSES = ["aeroplane", "car", "bird", "cat", "deer"]
CLASSES += ["dog", "frog", "horse", "ship", "lorry"]

start = time.perf_counter()
rows, steps = 4, 20
labels = torch.arange(10).repeat(rows)
generator = torch.Generator().manual_seed(4)
x_T = torch.randn(len(labels), *card.image_shape, generator=generator)
guided = ClassifierFree(denoiser, 1.0)
images = draw(guided, process, x_T, uniform_times(T, steps), eta=0.0, y=labels)
assert time.perf_counter() - start < 60


def headed(images, words, ax):
    """A grid with a word over each column."""
    plots.grid(images, ncol=len(words), ax=ax)
    for column, word in enumerate(words):
        ax.text(33 * column + 17, -2, word, ha="center", va="bottom", fontsize=9)


fig, ax = plt.subplots(figsize=(7.5, 3.2))
headed(images, CLASSES, ax)
assert 1.5 < card.training["seconds"] / 3600 < 2

# %% [markdown]
# **Fig. C.1.** Colours and backgrounds fit the class, objects seldom hold together. One class a
# column, forty images as they came, 20 DDIM steps with guidance $w=1$, two predictions a step:
# less than a minute of one thread.
#
# ## From noise to image
#
# The prediction $\hat x_0$ along four of these chains, from the first steps to the last. Each
# column names the state that the prediction led to.

# %% mystnb={"image": {"alt": "Four rows, eight columns: the predicted clean image at falling times. Left, a blur of mean colours; towards the right, an outline, then texture, then detail."}} tags=["hide-input"]
some = torch.tensor([0, 4, 8, 9])
chain = sample(
    guided, process, x_T[some], uniform_times(T, 24), eta=0.0, y=labels[some]
)
states = list(chain)
shown = states[3::3]
predictions = torch.stack([state.x0 for state in shown], 1).flatten(0, 1)
fig, ax = plt.subplots(figsize=(7.5, 4.1))
headed(predictions, [f"$x_{{{state.t}}}$" for state in shown], ax)


def coarse(x):
    """Means of 8 × 8 pixels: layout and colours."""
    return torch.nn.functional.avg_pool2d(x, 8)


def fine(x):
    """What means of 2 × 2 pixels leave out."""
    return x - torch.nn.functional.interpolate(
        torch.nn.functional.avg_pool2d(x, 2), scale_factor=2
    )


half, last = states[12].x0, states[-1].x0
agreed = torch.corrcoef(torch.stack([coarse(half).flatten(), coarse(last).flatten()]))
detail = float(fine(half).square().mean() / fine(last).square().mean())
assert states[12].t == 500 and agreed[0, 1] > 0.9 and detail < 0.5

# %% [markdown]
# **Fig. C.2.** Predictions go from coarse to fine. After half of the steps, at $x_{500}$, the
# means of $8\times8$ pixels correlate with those of the finished image at more than 0.9, while the
# detail within $2\times2$ pixels has less than half of its final power.
#
# ## What training costs
#
# Three recipes of the library are for this data set. A training step takes about three forward
# passes (one forward, two backward: one for the gradient of each layer's input, one for that of
# its weights), so a run costs
#
# $$C \approx 3\,F\,N,$$
#
# with $F$ operations of one forward pass for one image and $N$ images seen. $F$ is counted: the
# network runs on the meta device, where tensors have shapes and no numbers.

# %%
from ddpmlib.models import UNet
from ddpmlib.zoo import RECIPES
from ddpmlib.zoo.cost import operations_of_a_pass


def counted(recipe):
    """Weights, and operations of one forward pass for one image."""
    with torch.device("meta"):
        outputs = 2 if recipe.var_mix is None else 1
        net = UNet(recipe.net, outputs=outputs)
    weights = sum(p.numel() for p in net.parameters())
    return weights, operations_of_a_pass(net, (3, 32, 32))


# %% tags=["hide-input"]
from ddpmlib.experiments import results
from IPython.display import Markdown

weights, cost, lines = {}, {}, []
for name in ("cifar10-small", "cifar10-ddpm", "cifar10"):
    recipe = RECIPES[name]
    weights[name], forward = counted(recipe)
    seen = recipe.settings.steps * recipe.settings.batch_size
    if name == "cifar10-small":  # the run that was made, not the one that is planned
        seen = card.training["images_seen"]
    cost[name] = 3 * forward * seen
    ratio = cost[name] / cost["cifar10-small"]
    hours = cost[name] / 100e12 / 3600
    lines.append(
        (
            f"`{name}`",
            f"{weights[name] / 1e6:.2f} M",
            f"{forward / 1e9:.2f}",
            f"{seen / 50_000:.0f}",
            f"{cost[name] / 1e15:.2g}" if ratio == 1 else f"{cost[name] / 1e15:.0f}",
            f"{ratio:.0f}",
            "" if ratio == 1 else f"{hours:.0f} h",
        )
    )
speed = cost["cifar10-small"] / card.training["seconds"]
assert weights["cifar10-ddpm"] == 35_746_307
large = ("cifar10-ddpm", "cifar10")
many = [weights[name] / weights["cifar10-small"] for name in large]
times = [cost[name] / cost["cifar10-small"] for name in large]
assert 12.5 < many[0] < many[1] < 19 and 6000 < min(times) < max(times) < 7500
assert abs(speed / 1e9 - 80) < 5 and card.training["hardware"].endswith("1 thread")
header = ("recipe", "weights", "GFLOP an image", "epochs", "PFLOP", "ratio")
header += ("at 100 TFLOP/s",)
Markdown(results.markdown(header, lines))

# %% [markdown]
# `cifar10-small` is the network of this page; its run reached 80 GFLOP/s on one thread in bf16.
# `cifar10-ddpm` has exactly the 35,746,307 weights of the paper's network (Ho et al. say 35.7
# million {cite}`ho2020denoising`); `cifar10` is the network with a learned variance of Nichol &
# Dhariwal {cite}`nichol2021improved`, told the class besides. These two are recipes that we have
# not run. The last column assumes that a GPU sustains 100 TFLOP/s, a fraction of what data sheets
# promise.
#
# The small network saves on both factors. On $F$: patches of $2\times2$ pixels become channels
# before the first convolution, so that every convolution has a quarter of the positions, and the
# width is 48 instead of 128, of which a convolution costs the square. On $N$: twelve epochs
# instead of one or two thousand.
#
# ## Quality of the samples
#
# Distance, agreement and diversity are those of [chapter 8](08_metrics.ipynb), measured in the
# features of our CIFAR-10 classifier; the last row has as many real images. They do not compare
# with the FIDs of papers, which are measured in the features of Inception, and other features may
# order the rows otherwise.

# %% tags=["hide-input"]
classifier_card = zoo.load("cifar10-classifier", device="cpu")[1]
accuracy = next(m for m in classifier_card.metrics if m["metric"] == "test accuracy")
found = [m for m in card.metrics if m["metric"] == "samples"]


def weight(m):
    return m.get("guidance", {}).get("w", 0)


def line(m):
    low, high = m["frechet_interval"]
    return (
        f"{m['steps']}, w = {weight(m):g}",
        f"{m['frechet']:.2f} [{low:.2f}, {high:.2f}]",
        f"{m['class_agreement']:.1%}",
        f"{m['inception_score']:.2f}",
        f"{m['precision']:.2f}",
        f"{m['recall']:.2f}",
    )


order = sorted(found, key=lambda m: (weight(m), m["steps"]))
real, names = found[0], ("frechet", "inception_score", "precision", "recall")
floor = {name: real[f"{name}_floor"] for name in names}
last_line = ("real images", f"{floor['frechet']:.2f}", f"{accuracy['value']:.1%}")
last_line += tuple(f"{floor[name]:.2f}" for name in names[1:])
assert {m["n"] for m in found} == {1000}
header = ("DDIM steps", "Fréchet [95 %]", "agreement", "IS", "precision", "recall")
Markdown(results.markdown(header, [*map(line, order), last_line]))

# %% mystnb={"image": {"alt": "Two panels of the Fréchet distance with error bars. Left, against the number of DDIM steps: it falls from ten steps to twenty and is flat from there. Right, against the guidance weight at twenty steps: it falls to w = 1 and rises above its start at w = 4. A dotted line marks real images."}} tags=["hide-input"]
plain = [m for m in order if "guidance" not in m]
guided = [m for m in order if m["steps"] == 20]
fig, axes = plt.subplots(1, 2, figsize=(7.5, 3.0), sharey=True)
panels = (axes[0], plain, lambda m: m["steps"]), (axes[1], guided, weight)
for ax, part, key in panels:
    middle = [m["frechet"] for m in part]
    ends = [m["frechet_interval"] for m in part]
    below = [value - low for value, (low, _) in zip(middle, ends, strict=True)]
    above = [high - value for value, (_, high) in zip(middle, ends, strict=True)]
    places = [key(m) for m in part]
    ax.errorbar(places, middle, [below, above], fmt="o-", capsize=3)
    ax.axhline(floor["frechet"], linestyle=":", color="grey")
axes[0].set(xlabel="DDIM steps, w = 0", ylabel="Fréchet distance", xscale="log")
axes[0].set_xticks([m["steps"] for m in plain], [str(m["steps"]) for m in plain])
axes[0].minorticks_off()
_ = axes[1].set(xlabel="guidance weight w, 20 steps")

flat = [m["frechet_interval"] for m in plain[1:]]
assert max(low for low, _ in flat) < min(high for _, high in flat)
assert plain[0]["frechet_interval"][0] > max(high for _, high in flat)
by_w = {weight(m): m for m in guided}
assert min(by_w, key=lambda w: by_w[w]["frechet"]) == 1
assert by_w[1]["frechet"] < 0.5 * by_w[0]["frechet"] < by_w[4]["frechet"]
assert by_w[4]["class_agreement"] > accuracy["value"] + 0.1
assert by_w[4]["inception_score"] > floor["inception_score"] + 2
assert by_w[4]["recall"] < 0.52 * by_w[0]["recall"]
assert min(by_w[w]["precision"] for w in (0, 0.5, 1, 2)) > floor["precision"] + 0.05

# %% [markdown]
# **Fig. C.3.** In these features more steps do not help beyond twenty, and guidance does. Left:
# the intervals at 20, 50 and 100 steps overlap, that at 10 lies above them. Right: at $w=1$ the
# distance is 6.86, less than half of the unguided 15.95, and at $w=4$ it is above it. Dotted: real
# images. One network, 1,000 samples a point.
#
# Agreement and Inception Score go on rising with $w$, and from $w=0.5$ on recall falls ([chapter
# 11](11_classifier_free.ipynb)): at $w=4$ the classifier names the class of 96 % of the samples,
# where it is right on 83 % of real test images, and recall has nearly halved, from 0.34 to 0.17.
# Precision lies *above* that of real images up to $w=2$. Blurred samples near the middle of the
# data would do that, being close to many photographs; we have not tested it. High precision with a
# recall below one half is no sign of quality. How much of the lower distance is better shape, and
# how much contrast or colour, these numbers do not say.
#
# ## Bits per dimension, and which bits
#
# The other number of the papers is the bound on the likelihood, in bits per dimension. There are
# two conventions. **Discrete:** the last step of the chain is a *decoder* that gives each of the
# 256 levels of a pixel its probability (the Gaussian's mass on that level's bin,
# [chapter 4](04_elbo.ipynb)), and the bound is on the probability of an image, a number between 0
# and 1. **Dequantised:** uniform noise of one level's width is added to the data and a *density*
# $p(x)$ on $[-1,1]^D$ is reported, converted to levels by the volume $(2/256)^D$ of a cell,
#
# $$\text{bits per dimension} = -\frac{\log p(x)}{D\log 2} + \log_2\frac{256}{2}.$$
#
# By Jensen's inequality the mean of the second is never below the bits of the discrete model
# $P(\text{level})=\int_{\text{cell}}p$, so the two compare, with the second at a disadvantage:
# $-\mathbb E_u\log\big(p(x+u)\,\Delta\big)\ge-\log\mathbb E_u\,p(x+u)\,\Delta$. A check with a
# Gaussian density over the levels of one pixel:

# %% tags=["hide-input"]
import math

from torch.distributions import Normal

width = 2 / 256
level = -1 + width * (torch.arange(256, dtype=torch.float64) + 0.5)
lines = []
for std in (0.01, 0.1, 0.5):
    density = Normal(torch.tensor(0.1, dtype=torch.float64), std)
    mass = density.cdf(level + width / 2) - density.cdf(level - width / 2)
    data = mass / mass.sum()  # levels drawn from the model itself
    discrete = -torch.special.xlogy(data, mass).sum() / math.log(2)
    u = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000 - 0.5
    log_p = density.log_prob(level[:, None] + width * u).mean(1)
    dequantised = (data * (-log_p / math.log(2) + 7)).sum()
    lines.append((f"{std:g}", f"{discrete:.4f}", f"{dequantised:.4f}"))
    assert dequantised >= discrete
Markdown(results.markdown(("standard deviation", "discrete", "dequantised"), lines))

# %% [markdown]
# Ours is the discrete one, over all $T$ steps, on test images that the network never saw:

# %% tags=["hide-input"]
bound = next(m for m in card.metrics if m["metric"] == "nll")
value = f"{bound['bits_per_dim']:.2f} ± {bound['standard_error']:.2f}"
drawn = f"{bound['draws']} of {bound['steps']}"
assert 3.75 < bound["bits_per_dim"] - 2 * bound["standard_error"] < 5
header = ("bits per dimension", "test images", "steps drawn for each")
Markdown(results.markdown(header, [(value, bound["n"], drawn)]))

# %% [markdown]
# Ho et al. report at most 3.75, Nichol & Dhariwal 3.17 with this schedule, this loss and 4000
# steps, and 2.94 when they train on the bound itself, all discrete. Eight bits is what a pixel
# costs without any model. Ours is nearer to the papers than to that, with a fraction of their
# weights and epochs.
#
# ## Training the networks of the papers
#
# One command trains on a GPU what the minutes allow, and goes on where it was cut off
# ([from laptop to cluster](../book/cluster.md)):
#
# ```bash
# python -m scripts.full_strength --out runs/full --minutes 30
# ```
#
# A single recipe, on one GPU or on several:
#
# ```bash
# python -m ddpmlib train cifar10-ddpm --compile --channels-last
# torchrun --nproc-per-node 8 -m ddpmlib train cifar10 --compile --channels-last
# ```
