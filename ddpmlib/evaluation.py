"""Measure a checkpoint: draw samples, let a judge look at them, note the result in the card."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddpmlib import data, features, likelihood, parallel, samplers
from ddpmlib import metrics as measures
from ddpmlib.denoiser import Denoiser, FixedVariance
from ddpmlib.features import Judge
from ddpmlib.guidance import Wrapper
from ddpmlib.guidance_options import GuidanceOptions
from ddpmlib.metrics import Moments
from ddpmlib.models import Classifier, NoisyClassifier
from ddpmlib.runs import hardware
from ddpmlib.training import compile_network, default_device
from ddpmlib.zoo import Card, find, load

OF_SAMPLES = ("agreement", "fid", "is", "kid", "pr", "saturation")
METRICS = (*OF_SAMPLES, "nll")
SPACINGS: dict[str, Callable[[int, int], list[int]]] = {
    "uniform": samplers.uniform_times,
    "leading": samplers.leading_times,
    "linspace": samplers.linspace_times,
    "quadratic": samplers.quadratic_times,
}
# What makes two entries of a card the same measurement; older entries lack some keys.
CELL: dict[str, Any] = dict.fromkeys(("metric", "n", "steps", "eta", "seed", "draws", "features"))
CELL |= {"spacing": "uniform", "bf16": False, "guidance": None}


def evaluate(
    name: str | Path,
    *,
    metrics: Sequence[str] | None = None,
    n: int = 2000,
    steps: int = 50,
    eta: float = 0.0,
    seed: int = 0,
    spacing: str = "uniform",
    bf16: bool = False,
    compile: bool = False,
    judge: str = "classifier",
    draws: int = 200,
    nll_draws: int = 50,
    batch_size: int = 500,
    guidance: GuidanceOptions | None = None,
    device: torch.device | str | None = None,
) -> list[dict[str, Any]]:
    """Measure a checkpoint and write the results into its card.

    A classifier: accuracy on the test set, for a noisy one see :func:`accuracy_under_noise`. A
    denoiser: one entry "samples" with all that is measured on ``n`` samples, classes in turn, see
    :func:`judged`; and one entry "nll" with the variational bound on ``n`` test images, see
    :func:`nll`. An entry of the same setting is replaced, metric by metric. Several processes (see
    :mod:`ddpmlib.parallel`) share the drawing and the features, and the first one writes.

    Args:
        name: as for :func:`ddpmlib.zoo.load`.
        metrics: some of :data:`METRICS`, by default all but "nll".
        n: samples, or test images for "nll".
        steps, eta, seed, spacing, bf16, compile, batch_size: see :func:`generate`; ``spacing``
            names one of :data:`SPACINGS`.
        judge: whose features: "classifier" is the one of the data set, see :func:`network_of`,
            "inception" is for colour images.
        draws: redrawn sets for the bootstrap intervals.
        nll_draws: random steps of the chain per test image.
        guidance: of the samples; a bound on the likelihood has none.

    Returns:
        the entries written.

    Raises:
        FileNotFoundError: if the checkpoint or the judge is missing.
        ValueError: for an unknown metric, spacing or judge, fewer than 2 samples, ``steps`` or
            ``eta`` out of range, or guidance that does not fit the checkpoint.
    """
    _check_choices(metrics, spacing, judge, n)
    if draws < 20:
        raise ValueError(f"a bootstrap interval needs at least 20 draws, got {draws}")
    path = find(name)
    model, card = load(path, device)
    images = data.load(card.recipe["data"])
    setting = {"n": n, "steps": steps, "eta": eta, "seed": seed, "spacing": spacing, "bf16": bf16}
    if guidance and guidance.record():
        setting["guidance"] = guidance.record()

    def samples(chosen: Sequence[str]) -> dict[str, Any]:
        # Before the long part: it may be missing.
        network, sha256 = network_of(judge, images, device, path.parent)
        y = classes_in_turn(card, n)
        x0 = generate(
            guidance.wrap(model, card) if guidance else model, card.image_shape, y, steps,
            n=n, eta=eta, seed=seed, batch_size=batch_size,
            times=SPACINGS[spacing], bf16=bf16, compile=compile,
        )  # fmt: skip
        found = judged(network, x0, y, images, chosen, draws)
        kind = f"{images.name}-classifier" if judge == "classifier" else judge
        about = {"features": kind, "judge": sha256[:12]}
        return {"metric": "samples"} | setting | found | about

    def likelihood_bound() -> dict[str, Any]:
        how: dict[str, Any] = {
            "draws": nll_draws,
            "seed": seed,
            "bf16": bf16,
            "batch_size": batch_size,
        }
        return nll(model, images, n, labels=card.num_classes > 0, **how)

    jobs: list[Callable[[], dict[str, Any]]] = []
    if isinstance(model, Classifier | NoisyClassifier):
        if metrics is not None:
            raise ValueError(f"{card.name} is a classifier: it is measured by its accuracy alone")
        if isinstance(model, Classifier):
            jobs.append(partial(_accuracy, model, images))
        else:
            jobs.append(partial(accuracy_under_noise, model, images, seed))
    elif of_samples := [m for m in OF_SAMPLES if metrics is None or m in metrics]:
        jobs.append(partial(samples, of_samples))
    if "nll" in (metrics or ()):
        jobs.append(likelihood_bound)
    return [_measured(job, model, card, path.with_suffix(".json")) for job in jobs]


def _measured(
    job: Callable[[], dict[str, Any]], model: torch.nn.Module, card: Card, path: Path
) -> dict[str, Any]:
    """Do the work, and write its result into the card at once."""
    started = time.perf_counter()
    entry = job()
    entry["seconds"] = round(time.perf_counter() - started, 1)
    entry["hardware"] = hardware(next(model.parameters()).device)
    card.metrics[:], entry = _with_entry(card.metrics, entry)
    if parallel.is_main():
        card.write(path)
    return entry


def _check_choices(metrics: Sequence[str] | None, spacing: str, judge: str, n: int) -> None:
    if n < 2:
        raise ValueError(f"measuring samples needs at least 2 of them, got n = {n}")
    choices: list[tuple[str, str, Sequence[str]]] = [("metrics", m, METRICS) for m in metrics or ()]
    choices += [("spacing", spacing, list(SPACINGS))]
    choices += [("the judge", judge, ("classifier", "inception"))]
    for what, value, known in choices:
        if value not in known:
            raise ValueError(f"{what} must be among {', '.join(known)}, got {value!r}")


def network_of(
    judge: str,
    images: data.Images,
    device: torch.device | str | None = None,
    folder: Path | None = None,
) -> tuple[Judge, str]:
    """The network that judges a data set, and the SHA-256 of its file of weights.

    Args:
        judge: "classifier" or "inception".
        folder: of checkpoints; a classifier there comes before the shipped one.
    """
    if judge == "classifier":
        name = f"{images.name}-classifier"
        own = folder is not None and (folder / f"{name}.json").is_file()
        classifier, card = load(folder / f"{name}.safetensors" if folder and own else name, device)
        return classifier, card.sha256
    if images.image_shape[0] != 3:
        raise ValueError(f"{images.name} is grey, and Inception judges colour images only")
    return features.inception().to(device or default_device()), features.INCEPTION_SHA256


def _accuracy(model: Classifier, images: data.Images) -> dict[str, Any]:
    _, logits = features.judge(model, images.x_test)
    value = measures.class_agreement(logits, images.y_test)
    return {"metric": "test accuracy", "n": len(logits), "value": value}


@torch.no_grad()
def accuracy_under_noise(
    model: NoisyClassifier, images: data.Images, seed: int = 0, batch_size: int = 500
) -> dict[str, Any]:
    """Accuracy of p(y|x_t) on the test set at t = 1, T/10, 2T/10, ..., T, fresh noise at each.

    Args:
        model: with the process that it was trained on.
        images: the data set.
        seed: of the noise.
        batch_size: images per pass.

    Returns:
        an entry for the card: ``times`` and the accuracies ``at_times``, and as ``value`` the
        mean of these, all in [0, 1].

    Raises:
        ValueError: if the model knows no process.
    """
    process = model.process
    if process is None:
        raise ValueError("the classifier knows no process whose noise it should be measured under")
    device = next(model.parameters()).device
    x, y = data.to_float(images.x_test).to(device), images.y_test.to(device)
    generator = torch.Generator(device).manual_seed(seed)
    times, found = sorted({max(1, round(process.T * k / 10)) for k in range(11)}), []
    for t in times:
        x_t = process.q_sample(x, t, torch.randn(x.shape, device=device, generator=generator))
        logits = [model(p, torch.full((len(p),), t, device=device)) for p in x_t.split(batch_size)]
        found.append(round(measures.class_agreement(torch.cat(logits), y), 4))
    mean = round(sum(found) / len(found), 4)
    about = {"metric": "test accuracy under noise", "n": len(y), "seed": seed}
    return about | {"value": mean, "times": times, "at_times": found}


def classes_in_turn(card: Card, n: int) -> Tensor | None:
    """Labels 0, 1, ..., again from 0: (n,) int64; None if the checkpoint knows no classes."""
    return torch.arange(n) % card.num_classes if card.num_classes else None


# ---- drawing -----------------------------------------------------------------------------------


def generate(
    denoiser: Denoiser | FixedVariance | Wrapper,
    image_shape: tuple[int, ...],
    y: Tensor | None,
    steps: int,
    *,
    n: int | None = None,
    eta: float = 0.0,
    seed: int = 0,
    batch_size: int = 500,
    times: Callable[[int, int], list[int]] = samplers.uniform_times,
    bf16: bool = False,
    compile: bool = False,
) -> Tensor:
    """Samples in batches with a progress bar.

    Several processes deal the batches out among themselves. Noise comes from one generator, batch
    after batch, so each process draws what the others use up and throws it away: the samples are
    the same however many there are.

    Args:
        denoiser: or a wrapper around one, see :mod:`ddpmlib.guidance`.
        image_shape: (C, H, W).
        y: labels (N,), or None together with ``n``.
        steps: network calls.
        eta: 0 for DDIM, 1 for DDPM.
        seed: of all noise; another batch size draws other samples.
        times: (T, steps) -> falling times, see :mod:`ddpmlib.samplers`.
        bf16: run the network in bfloat16 by autocast; states stay float32.
        compile: run the network through torch.compile.

    Returns:
        (N, C, H, W) on the CPU, one per label, or n.
    """
    device = next(denoiser.parameters()).device
    total = n if y is None else len(y)
    if total is None or total < 1 or (n is not None and n != total):
        raise ValueError(f"give labels or a number of samples, at least 1: n = {n}, labels {y}")
    chain = times(denoiser.process.T, steps)
    runner = _compiled(denoiser) if compile else denoiser
    noise = _Noise(torch.Generator(device).manual_seed(seed), image_shape, chain, eta)
    labels = torch.arange(total).split(batch_size)
    done = []
    for k, index in _bar(list(parallel.own(labels))):
        first = noise.start_of(k, [len(part) for part in labels])
        own = None if y is None else y[index].to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            x0 = samplers.draw(
                runner, denoiser.process, first, chain, eta=eta, y=own, generator=noise.generator
            )
        done.append(x0.cpu())
    return torch.cat(parallel.collected(done))


class _Noise:
    """The one stream of noise that batch after batch of samples is drawn from."""

    def __init__(
        self, generator: torch.Generator, shape: tuple[int, ...], chain: list[int], eta: float
    ) -> None:
        self.generator, self.shape, self.batch = generator, shape, 0
        self.steps = len(chain) - 2 if eta > 0 else 0  # the last step draws nothing

    def start_of(self, batch: int, sizes: list[int]) -> Tensor:
        """The state at T of a batch, after all noise of the batches before it."""
        for size in sizes[self.batch : batch]:
            for _ in range(1 + self.steps):
                self._draw(size)
        self.batch = batch + 1  # whose own steps the sampler draws
        return self._draw(sizes[batch])

    def _draw(self, size: int) -> Tensor:
        device = self.generator.device
        return torch.randn(size, *self.shape, device=device, generator=self.generator)


def _bar(batches: Any) -> Iterator[Any]:
    from tqdm import tqdm

    return iter(tqdm(batches, unit="batch", disable=None if parallel.is_main() else True))


def _compiled(denoiser: Any) -> Any:
    """A denoiser that shares everything with the given one, its network compiled."""
    twin = copy.copy(denoiser)
    twin._modules = dict(denoiser._modules)  # else the given one would change too
    for name, child in twin._modules.items():
        twin._modules[name] = copy.copy(child) if name == "net" else _compiled(child)
    if "net" in twin._modules:
        compile_network(twin)
    return twin


# ---- judging -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reference:
    """Real images as a judge sees them, to hold samples against.

    Attributes:
        moments: of the whole training set.
        train: features of random training images, (n, F): the reference of KID and recall.
        test, test_logits: of as many random test images, or of all if there are fewer: what they
            reach in place of samples is the floor.
        test_saturation: share of saturated pixels of the same test images.
    """

    moments: Moments
    train: Tensor
    test: Tensor
    test_logits: Tensor
    test_saturation: float


def reference(classifier: Judge, images: data.Images, n: int, y: Tensor | None = None) -> Reference:
    """The real images to hold ``n`` samples against; worth keeping for many sets of samples.

    Args:
        classifier: the judge.
        images: the data set.
        n: samples that will be judged.
        y: their classes (n,): test images then come in the same numbers per class, because equal
            numbers alone bring samples nearer to the training set than a random draw is.
    """
    train, _ = features.judge(classifier, images.x_train[_some(images.y_train, n)])
    x_test = images.x_test[_some(images.y_test, n, y)]
    test, test_logits = features.judge(classifier, x_test)
    saturated = measures.saturation(data.to_float(x_test)).saturated
    moments = features.train_moments(classifier, images)
    return Reference(moments, train, test, test_logits, saturated)


def _some(labels: Tensor, n: int, y: Tensor | None = None) -> Tensor:
    """Places of n random images, or of as many of each class as in ``y``, in random order."""
    # At random, because test sets are sorted: the first half of MNIST's is the easier one.
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    if y is None:
        return order[:n]
    ordered, left = labels[order], torch.bincount(y.cpu(), minlength=int(labels.max()) + 1)
    rank = torch.zeros_like(ordered)  # how many of its class came before
    for k in range(len(left)):
        own = ordered == k
        rank[own] = torch.arange(int(own.sum()))
    return order[rank < left[ordered]]


@dataclass(frozen=True)
class _Seen:
    x0: Tensor
    fake: Tensor
    logits: Tensor
    y: Tensor | None
    real: Reference
    draws: int

    @property
    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(0)


def judged(
    classifier: Judge,
    x0: Tensor,
    y: Tensor | None,
    images: data.Images,
    metrics: Sequence[str] = OF_SAMPLES,
    draws: int = 200,
    real: Reference | None = None,
) -> dict[str, Any]:
    """Everything that can be measured on samples, as plain numbers.

    Args:
        classifier: the judge.
        x0: samples (N, C, H, W) in [-1, 1], N ≥ 2.
        y: the classes that were asked for, (N,), or None.
        images: the data set they should look like.
        metrics: some of :data:`OF_SAMPLES`.
        draws: redrawn sets for the bootstrap intervals, see :func:`ddpmlib.metrics.bootstrap`.
        real: ``reference(classifier, images, N, y)`` if it is at hand.

    Returns:
        numbers by name, for each of ``metrics``

        - agreement: ``class_agreement`` with its ``_interval`` (not without labels, nor for
          Inception, which knows other classes);
        - fid: ``frechet`` to the whole training set with its ``_interval``; ``frechet_floor``,
          what ``floor_n`` random test images reach, as many as the samples if there are so many;
        - is: ``inception_score`` with its ``_std`` over ``splits``, and its ``_floor``, which here
          is what test images reach;
        - kid: ``kid`` to as many training images, with its ``_std`` over subsets of ``kid_size``,
          and its ``_floor``;
        - pr: ``precision`` and ``recall`` against as many training images, each with its
          ``_floor``, that of test images;
        - saturation: ``saturation``, the share of white pixels, with its ``_floor``, that of test
          images, and ``out_of_range``, see :func:`ddpmlib.metrics.saturation`.
    """
    fake, logits = features.judge(classifier, x0)
    real = real or reference(classifier, images, len(x0), y)
    if isinstance(classifier, features.Inception):
        y = None
    seen = _Seen(x0, fake, logits, y, real, draws)
    found: dict[str, Any] = {}
    for name in metrics:
        found |= _MEASURE[name](seen)
    return found


def _agreement(seen: _Seen) -> dict[str, Any]:
    if seen.y is None:
        return {}
    value = measures.class_agreement(seen.logits, seen.y)
    interval = measures.share_interval(value, len(seen.y))
    return {"class_agreement": value, "class_agreement_interval": _rounded(interval)}


def _fid(seen: _Seen) -> dict[str, Any]:
    train = seen.real.moments
    train.root()  # once for all

    def distance(h: Tensor) -> float:
        return measures.frechet_distance(h, train)

    interval = measures.bootstrap(
        distance, seen.fake, draws=seen.draws, groups=seen.y, generator=seen.generator
    )
    return {
        "frechet": round(distance(seen.fake), 4),
        "frechet_interval": _rounded(interval),
        "frechet_floor": round(distance(seen.real.test), 4),
        "floor_n": len(seen.real.test),
    }


def _is(seen: _Seen) -> dict[str, Any]:
    splits = max(1, min(10, len(seen.logits) // 100))  # each must hold all classes
    score = measures.inception_score(seen.logits, splits)
    real = seen.real.test_logits
    # Splits of equal size, because small ones score lower.
    floor = measures.inception_score(real, max(1, len(real) * splits // len(seen.logits)))
    found = {"inception_score": score.mean, "inception_score_std": score.std}
    found = {k: round(v, 4) for k, v in found.items()}
    return found | {"inception_score_floor": round(floor.mean, 4), "splits": splits}


def _kid(seen: _Seen) -> dict[str, Any]:
    sets = seen.fake, seen.real.train, seen.real.test
    size = max(2, min(1000, min(map(len, sets)) // 2))  # of all, subsets would not differ
    scores = [
        measures.kid(h, seen.real.train, size=size, generator=seen.generator)
        for h in (seen.fake, seen.real.test)
    ]
    (value, std), (floor, _) = scores
    found = {"kid": value, "kid_std": std, "kid_floor": floor}
    return {k: round(v, 6) for k, v in found.items()} | {"kid_size": size}


def _pr(seen: _Seen) -> dict[str, Any]:
    k = min(3, len(seen.fake) - 1, len(seen.real.test) - 1)
    names = "precision", "recall"
    found = dict(zip(names, measures.precision_recall(seen.real.train, seen.fake, k), strict=True))
    floor = measures.precision_recall(seen.real.train, seen.real.test, k)
    found |= {f"{name}_floor": v for name, v in zip(names, floor, strict=True)}
    return {k: round(v, 4) for k, v in found.items()}


def _saturation(seen: _Seen) -> dict[str, Any]:
    saturated, out_of_range = measures.saturation(seen.x0)
    found = {"saturation": saturated, "saturation_floor": seen.real.test_saturation}
    return {k: round(v, 5) for k, v in (found | {"out_of_range": out_of_range}).items()}


_MEASURE: dict[str, Callable[[_Seen], dict[str, Any]]] = {
    "agreement": _agreement, "fid": _fid, "is": _is, "kid": _kid, "pr": _pr,
    "saturation": _saturation,
}  # fmt: skip


def _rounded(interval: measures.Interval) -> list[float]:
    return [round(v, 4) for v in interval]


# ---- likelihood --------------------------------------------------------------------------------


def nll(
    denoiser: Denoiser | FixedVariance,
    images: data.Images,
    n: int,
    *,
    draws: int = 50,
    seed: int = 0,
    labels: bool = True,
    bf16: bool = False,
    batch_size: int = 500,
) -> dict[str, Any]:
    """The variational bound on −log p of random test images, in bits per dimension.

    The bound of the whole chain T, …, 0, estimated without bias from ``draws`` random steps per
    image (:func:`ddpmlib.likelihood.elbo_monte_carlo`), with the standard error of the mean.

    Args:
        denoiser: its reverse variance, fixed or learned, is part of what is measured.
        n: test images, at least 2; all if there are fewer.
        labels: condition on the classes of the images.

    Returns:
        metric, n, steps (T), draws, seed, bf16, bits_per_dim, standard_error.
    """
    device = next(denoiser.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    order = _some(images.y_test, n)
    found, parts = [], max(1, len(order) // batch_size)  # none of a single image
    for index in _bar(order.tensor_split(parts)):
        x0 = data.to_float(images.x_test[index]).to(device)
        y = images.y_test[index].to(device) if labels else None
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            found.append(
                likelihood.elbo_monte_carlo(
                    denoiser, denoiser.process, x0, draws=draws, y=y, generator=generator
                )
            )
    total = _pooled(found)
    unit = math.log(2) * math.prod(images.image_shape)
    entry = {"metric": "nll", "n": total.n, "steps": denoiser.process.T, "draws": draws}
    entry |= {"seed": seed, "bf16": bf16, "bits_per_dim": round(total.mean / unit, 4)}
    return entry | {"standard_error": round(total.standard_error / unit, 4)}


def _pooled(parts: Sequence[likelihood.Estimate]) -> likelihood.Estimate:
    """One estimate from those of disjoint sets of samples, as if they had been one set."""
    n = sum(p.n for p in parts)
    mean = sum(p.n * p.mean for p in parts) / n
    squares = sum(p.standard_error**2 * p.n * (p.n - 1) + p.n * (p.mean - mean) ** 2 for p in parts)
    return likelihood.Estimate(mean, math.sqrt(squares / (n - 1) / n), n)


# ---- the card ----------------------------------------------------------------------------------


def _with_entry(
    known: list[dict[str, Any]], entry: dict[str, Any]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The list with the entry in place of that of the same cell.

    The other metrics of that one are kept if the same judge made them: the samples are the same.
    """
    for before in known:
        if _cell(before) == _cell(entry) and before.get("judge") == entry.get("judge"):
            entry = before | entry
    same = [i for i, m in enumerate(known) if _cell(m) == _cell(entry)]
    place = same[0] if same else len(known)
    others = [m for i, m in enumerate(known[place:], place) if i not in same]
    return [*known[:place], entry, *others], entry


def _cell(entry: dict[str, Any]) -> list[Any]:
    return [entry.get(key, default) for key, default in CELL.items()]
