# %% [markdown]
# # C. CIFAR-10: colour on a laptop
#
# [![Open in Colab](../book/_static/colab.svg)](https://colab.research.google.com/github/ddpm-book/ddpm-book/blob/main/notebooks/C_cifar10.ipynb)
#
# Digits forgive. Fifty thousand photographs of $32\times32$ pixels do not: they are the data set on which the papers of this book are compared. Here is what a net that one CPU thread trained in two hours draws of them, what its samples are worth, and what separates it from the papers' nets: in weights, in operations, in hours.

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
CLASSES = [
    "aeroplane",
    "car",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "lorry",
]

start = time.perf_counter()
rows, steps = 4, 20
labels = torch.arange(10).repeat(rows)
generator = torch.Generator().manual_seed(4)
x_T = torch.randn(len(labels), *card.image_shape, generator=generator)
images = draw(
    ClassifierFree(denoiser, 1.0),
    process,
    x_T,
    uniform_times(T, steps),
    eta=0.0,
    y=labels,
)
seconds = time.perf_counter() - start


def headed(images, words, ax=None):
    """A grid with a word over each column."""
    ax = plots.grid(images, ncol=len(words), ax=ax)
    for column, word in enumerate(words):
        ax.text(
            33 * column + 17, -2, word, ha="center", va="bottom", fontsize=8
        )
    return ax


fig, ax = plt.subplots(figsize=(8, 3.6))
_ = headed(images, CLASSES, ax)

# %% [markdown]
# *What to see:* one class a column, forty images, 20 DDIM steps with guidance $w=1$. Ships float, some cars and horses could be taken for photographs out of focus, deer stand in green; of cats and dogs there is fur, and no face. Colours, layout and texture are there, objects seldom hold together. Nothing here is selected; the rest of this page measures it.

# %% tags=["nbval-ignore-output"]
print(
    f"{len(labels)} images, {steps} steps, two calls of the network a step: {seconds:.0f} s"
)
assert seconds < 60

# %% [markdown]
# ## From noise to image
#
# The prediction $\hat x_0$ along four chains, from the noise of four images of the first row, from the first calls to the last. Each column names the state that the prediction led to.

# %% mystnb={"image": {"alt": "Four rows, eight columns: the guessed clean image at falling times. Left, a blur of mean colours; towards the right, an outline, then texture, then detail."}} tags=["hide-input"]
some = torch.tensor([0, 4, 8, 9])
states = list(
    sample(
        ClassifierFree(denoiser, 1.0),
        process,
        x_T[some],
        uniform_times(T, 24),
        eta=0.0,
        y=labels[some],
    )
)
shown = states[3::3]
predictions = torch.stack([state.x0 for state in shown], 1).flatten(0, 1)
_ = headed(predictions, [f"$x_{{{state.t}}}$" for state in shown])

# %% [markdown]
# *What to see:* from coarse to fine. While $t$ is large the prediction is a blur, the mean of all images that are still possible; layout and colours are decided in the first half of the chain, outlines after it, texture last.
#
# ## What it costs
#
# Three denoisers of the library share this data set. A training step takes about three forward passes (one forward, two backward: one for the gradient of each layer's input, one for that of its weights), so a run costs
#
# $$C \approx 3\,F\,N,$$
#
# with $F$ operations of one forward pass for one image and $N$ images seen. $F$ is counted, not guessed: the network runs on the meta device, where tensors have shapes and no numbers.

# %%
from ddpmlib.models import UNet
from ddpmlib.zoo import RECIPES
from ddpmlib.zoo.cost import operations_of_a_pass


def counted(recipe):
    """Weights, and operations of one forward pass for one image."""
    with torch.device("meta"):
        net = UNet(recipe.net, outputs=2 if recipe.var_mix is None else 1)
    weights = sum(p.numel() for p in net.parameters())
    return weights, operations_of_a_pass(net, (3, 32, 32))


cost = {}
for name in ("cifar10-small", "cifar10-ddpm", "cifar10"):
    recipe = RECIPES[name]
    weights, forward = counted(recipe)
    settings = recipe.settings
    seen = settings.steps * settings.batch_size
    if (
        name == "cifar10-small"
    ):  # the run that was made, not the one that is planned
        seen = card.training["images_seen"]
    cost[name] = 3 * forward * seen
    print(
        f"{name:14} {weights / 1e6:6.2f} M weights, {forward / 1e9:6.3f} GFLOP an image, "
        f"{seen / 50_000:6.1f} epochs, {cost[name] / 1e18:8.3f} EFLOP"
    )
assert counted(RECIPES["cifar10-ddpm"])[0] == 35_746_307

# %%
speed = cost["cifar10-small"] / card.training["seconds"]
print(f"measured: {speed / 1e9:.0f} GFLOP/s, {card.training['hardware']}, bf16")
for name in ("cifar10-ddpm", "cifar10"):
    ratio = cost[name] / cost["cifar10-small"]
    hours = cost[name] / 100e12 / 3600
    print(
        f"{name:14} {ratio:8.0f} times the small run; {hours:6.1f} h at 100 TFLOP/s (estimate)"
    )

# %% [markdown]
# The paper's net has exactly the paper's 35,746,307 weights (Ho et al. 2020 say 35.7 million {cite}`ho2020denoising`); `cifar10` is the net with a learned variance of Nichol & Dhariwal {cite}`nichol2021improved`, told the class besides. The last column is an estimate: 100 TFLOP/s is what a good GPU sustains in bf16 when it is well fed, a fraction of the number on its data sheet.
#
# Where does the small net save? Its patches of $2\times2$ pixels become channels at the door, so every convolution sees a quarter of the positions, and its width is 48 instead of 128: a convolution costs the square of it. Both savings are in $F$. The other factor is $N$: eleven epochs against one or two thousand.
#
# ## What it is worth
#
# Distance, agreement and diversity are those of [chapter 8](08_metrics.ipynb), measured with our own CIFAR-10 classifier; the *floor* is the distance of as many real images to the same statistics. Numbers of different classifiers do not compare: these are not the FIDs of papers, which look through Inception's eyes.

# %%
from IPython.display import Markdown

classifier_card = zoo.load("cifar10-classifier", device="cpu")[1]
accuracy = next(
    m for m in classifier_card.metrics if m["metric"] == "test accuracy"
)
found = [m for m in card.metrics if m["metric"] == "samples"]


def line(m):
    low, high = m["frechet_interval"]
    return [
        f"{m['steps']} steps, w = {m.get('guidance', {}).get('w', 0):g}",
        f"{m['frechet']:.2f} [{low:.2f}, {high:.2f}]",
        f"{100 * m['class_agreement']:.1f} %",
        f"{m['inception_score']:.2f}",
        f"{m['precision']:.2f}",
        f"{m['recall']:.2f}",
    ]


from ddpmlib.experiments import results

header = ["DDIM", "Fréchet distance", "agreement", "IS", "precision", "recall"]
order = sorted(
    found, key=lambda m: (m.get("guidance", {}).get("w", 0), m["steps"])
)
Markdown(results.markdown(header, [line(m) for m in order]))

# %%
floor = found[0]
print(
    f"{found[0]['n']} samples a row; the classifier is right on {100 * accuracy['value']:.1f} % of test images"
)
print(
    f"real images: distance {floor['frechet_floor']:.2f}, IS {floor['inception_score_floor']:.2f}, "
    f"precision {floor['precision_floor']:.2f}, recall {floor['recall_floor']:.2f}"
)

# %% mystnb={"image": {"alt": "Two panels of the Fréchet distance with error bars. Left, against the number of DDIM steps: it falls from ten steps to a hundred. Right, against the guidance weight at twenty steps. A dotted line marks real images."}} tags=["hide-input"]
plain = [m for m in order if "guidance" not in m]
guided = [m for m in order if m["steps"] == 20]
fig, axes = plt.subplots(1, 2, figsize=(8, 3.2), sharey=True)
for ax, part, key in (
    (axes[0], plain, lambda m: m["steps"]),
    (axes[1], guided, lambda m: m.get("guidance", {}).get("w", 0)),
):
    middle = [m["frechet"] for m in part]
    reach = [
        [m["frechet"] - m["frechet_interval"][0] for m in part],
        [m["frechet_interval"][1] - m["frechet"] for m in part],
    ]
    ax.errorbar([key(m) for m in part], middle, reach, fmt="o-", capsize=3)
    ax.axhline(floor["frechet_floor"], linestyle=":", color="grey")
axes[0].set(xlabel="DDIM steps, w = 0", ylabel="Fréchet distance", xscale="log")
axes[0].set_xticks(
    [m["steps"] for m in plain], [str(m["steps"]) for m in plain]
)
axes[0].minorticks_off()
_ = axes[1].set(xlabel="guidance weight w, 20 steps")

# %% [markdown]
# *What to see:* **more steps do not mend what the net has not learned**: from twenty calls on the left curve is flat within its intervals. **Guidance does**: the right curve is the U of [chapter 11](11_classifier_free.ipynb), and deep. At $w=1$ the distance is less than half of the unguided one. A net that knows the classes a little and the images badly gains most from being pushed towards what it knows; our MNIST model, which stood at its floor, gained nothing. Beyond the bottom of the U agreement and score go on rising while recall falls: at $w=4$ the classifier is surer of the samples than of photographs, and half of the variety is gone. And mind the precision, which lies *above* that of real images: a blurred, typical picture is never far from some photograph. High precision with low recall is no praise.
#
# ## Bits per dimension, and which bits
#
# The other number of the papers is the bound on the likelihood, in bits per dimension. Two conventions hide in it. **Discrete:** the last step of the chain is a *decoder* that gives each of the 256 levels of a pixel its probability (the Gaussian's mass on that level's bin, [chapter 4](04_elbo.ipynb)), and the bound is on the probability of an image, which is a number between 0 and 1. **Dequantised:** uniform noise of one level's width is added to the data and a *density* $p(x)$ on $[-1,1]^D$ is reported, converted to levels by the volume $(2/256)^D$ of a cell,
#
# $$\text{bits per dimension} = -\frac{\log p(x)}{D\log 2} + \log_2\frac{256}{2}.$$
#
# By Jensen's inequality the mean of the second is never below the bits of the discrete model $P(\text{level})=\int_{\text{cell}}p$, so the two compare, with the second at a disadvantage: $-\mathbb E_u\log\big(p(x+u)\,\Delta\big)\ge-\log\mathbb E_u\,p(x+u)\,\Delta$. A check with a Gaussian density over the levels of one pixel:

# %%
import math

from torch.distributions import Normal

width = 2 / 256
level = -1 + width * (torch.arange(256, dtype=torch.float64) + 0.5)
for std in (0.01, 0.1, 0.5):
    density = Normal(torch.tensor(0.1, dtype=torch.float64), std)
    mass = density.cdf(level + width / 2) - density.cdf(level - width / 2)
    data = mass / mass.sum()  # levels drawn from the model itself
    discrete = -torch.special.xlogy(data, mass).sum() / math.log(2)
    u = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000 - 0.5
    log_p = density.log_prob(level[:, None] + width * u).mean(1)
    dequantised = (data * (-log_p / math.log(2) + 7)).sum()
    print(
        f"std {std:4}: discrete {discrete:.4f} bits, dequantised {dequantised:.4f}"
    )
    assert dequantised >= discrete

# %% [markdown]
# Ours is the discrete one, without dequantisation, over all $T$ steps, on test images the net never saw:

# %%
bound = next(m for m in card.metrics if m["metric"] == "nll")
print(
    f"{bound['bits_per_dim']:.2f} ± {bound['standard_error']:.2f} bits per dimension"
)
print(
    f"{bound['n']} test images, {bound['draws']} of {bound['steps']} steps drawn for each"
)

# %% [markdown]
# Ho et al. report at most 3.75, Nichol & Dhariwal 3.17 with this schedule, this loss and 4000 steps, and 2.94 when they train on the bound itself, all discrete; eight bits is what a pixel costs without any model. Ours stands between. What it lacks are the two factors of the table above, weights and epochs.
#
# ## With a GPU
#
# Nothing here is out of reach, only out of a laptop's. One command trains what the minutes allow, and goes on where it was cut off ([from laptop to cluster](../book/cluster.md)):
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
