"""Bad input at every public function: one sentence of ours, or a right result.

Every function, class and method that a package names in ``__all__`` is found by walking the library
and must be described in ``CALLS``, by a call that works. Each tensor of that call is then replaced,
one at a time, and what happens must be one of two things.

A refusal is a ``ValueError`` or ``TypeError`` of a single line that was raised by a ``raise`` of
this library: an error of PyTorch or Python that passed through it does not count.

A right result is, for

- a tensor that is not contiguous, or requires a gradient: that of the plain one, never a refusal;
- another dtype: that of the same values in the dtype of the call, to the precision of the coarser;
- an array of NumPy, a list, a word: that of the call itself, which then did not need the argument;
- NaN and infinity: one in which they are seen;
- a tensor of the meta device: a tensor of the meta device, or that of the call itself;
- nothing, no samples, another rank: one without NaN; one sample: its row of the result for all.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
from torch import Tensor

import ddpmlib
from ddpmlib import denoiser, evaluation, guidance, likelihood, losses, models, plots, samplers
from ddpmlib import process as noise
from ddpmlib.denoiser import oracle
from ddpmlib.prediction import Prediction
from ddpmlib.process import schedules

mpl.use("Agg")
HOME = Path(ddpmlib.__file__).resolve().parent
OTHERS = {
    "zoo": "takes names, folders and records: tests/test_zoo.py, tests/test_recipes.py",
    "training": "its door is Trainer: tests/test_training.py",
    "data": "reads files: tests/test_data.py",
    "cli": "takes command lines: tests/test_cli.py",
    "experiments": "takes rows of results: tests/test_experiments.py",
    "interop": "takes models and schedulers of diffusers: tests/test_interop.py",
    "teaching": "belongs to the book: tests/test_exercises.py, tests/test_museum.py",
}


@dataclass(frozen=True)
class Call:
    """How to call a function so that it works.

    Attributes:
        function: what is called.
        args: makes its arguments, the same ones every time.
        rows: arguments that hold one entry per sample.
        seen: what a mutation may do beside the rule, by "argument mutation", and why.
    """

    function: Callable[..., Any]
    args: Callable[[], dict[str, Any]]
    rows: str = ""
    seen: Mapping[str, str] = field(default_factory=dict)


# ---- calls that work -----------------------------------------------------------------------------

CHAIN = noise.DDPM(schedules.cosine(40))
PROCESSES: dict[str, tuple[noise.Process, list[Any], list[Any]]] = {
    "DDPM": (CHAIN, [30, 12, 7, 2], [20, 11, 3, 1]),
    "ZeroBased": (noise.ZeroBased(CHAIN), [30, 12, 7, 2], [20, 11, 3, 1]),
    "Interpolated": (noise.Interpolated(CHAIN), [30.5, 12.0, 7.2, 2.1], [20.0, 11.1, 3.0, 1.0]),
    "EDM": (noise.EDM(), [30.0, 12.0, 2.0, 0.5], [20.0, 3.0, 1.0, 0.1]),
    "VDM": (noise.VDM(), [3.0, 1.0, 0.0, -2.0], [1.0, 0.0, -1.0, -4.0]),
    "FlowMatching": (noise.FlowMatching(), [0.1, 0.3, 0.5, 0.7], [0.2, 0.6, 0.8, 0.9]),
} | {
    name: (getattr(noise, name)(), [0.9, 0.7, 0.5, 0.2], [0.8, 0.4, 0.2, 0.1])
    for name in ("VP", "SubVP", "VE", "RectifiedFlow")
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def points(seed: int = 1, n: int = 4) -> Tensor:
    return torch.randn(n, 2, generator=seeded(seed))


def images(seed: int = 1, n: int = 4) -> Tensor:
    return (torch.randint(0, 256, (n, 1, 8, 8), generator=seeded(seed)) / 127.5 - 1).float()


def labels(n: int = 4) -> Tensor:
    return torch.arange(n) % 3


def fixed(make: Callable[..., Any], *args: Any, **named: Any) -> Any:
    """A network with the weights of a seed, none of them zero."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = make(*args, **named).eval()
        for p in net.parameters():
            torch.nn.init.normal_(p, std=0.3)
    return net


NET = fixed(models.MLP, dim=2, width=16, depth=1, num_classes=3)
MODEL = denoiser.Denoiser(NET, CHAIN, denoiser.V).eval()
SHAPE = {"width": 8, "mults": (1, 2), "attention": (False, True), "heads": 2}
UNET = fixed(models.UNet, models.UNetConfig(num_classes=3, **SHAPE))  # type: ignore[arg-type]
IMAGE_MODEL = denoiser.Denoiser(UNET, CHAIN, denoiser.V).eval()
CLASSIFIER = fixed(models.Classifier, models.ClassifierConfig(num_classes=3, width=4, features=5))
NOISY = fixed(
    models.NoisyClassifier,
    models.NoisyClassifierConfig(num_classes=3, **SHAPE),
    CHAIN,  # type: ignore[arg-type]
)
PIXELS = "pixels 0..255 are images, too"
COMPONENTS = evaluation.PixelComponents(torch.zeros(64), torch.eye(64)[:, :7])
MIXTURE = oracle.Mixture(CHAIN, torch.ones(3), points(5, 3), torch.full((3,), 0.3), torch.arange(3))
GAUSSIAN = oracle.Gaussian(CHAIN, torch.zeros(2), torch.tensor([[0.4, 0.1], [0.1, 0.2]]))
POINT_CLASSIFIER = MIXTURE.class_logits


EXTREMES = dict.fromkeys(("t inf", "log_snr inf"), "a level that is one: no noise, or no data")
UNSEEN = dict.fromkeys(("x NaN", "x inf"), "x gives shape and dtype alone")
ONLY_SHAPE = dict.fromkeys(("kernel", "stride", "variances", "diffusion", "per_sample"), UNSEEN) | {
    "velocity": {"t NaN": "along straight lines it is the same at all times"}
}


def of_process(name: str) -> dict[str, Call]:
    """The methods of one process."""
    process, ts, ss = PROCESSES[name]
    t, s, one, two = torch.tensor(ts), torch.tensor(ss), ts[0], ss[0]
    x, y, z = points(1), points(2), points(3)
    at_t, at_one = {"x_t": x, "x0": y, "t": t}, {"x_t": x, "x0": y, "t": one}
    plan: dict[str, tuple[dict[str, Any], str]] = {
        "log_snr": ({"t": t}, "t"),
        "snr": ({"t": t}, "t"),
        "to_book": ({"t": t, "z": x}, "t z"),
        "from_book": ({"log_snr": process.log_snr(t), "x_t": x}, "log_snr x_t"),
        "kernel": ({"t": t, "x": x}, "t x"),
        "q_sample": ({"x0": x, "t": t, "eps": y}, "x0 t eps"),
        "forward": ({"x_s": x, "s": s, "t": t, "noise": y}, "x_s s t noise"),
        "stride": ({"t": t, "s": s, "x": x}, "t s x"),
        "posterior": (at_t | {"s": s}, "x_t x0 t s"),
        "variances": ({"t": t, "s": s, "x": x}, "t s x"),
        "posterior_std": ({"t": one, "s": two, "var_mix": y.sigmoid()}, "var_mix"),
        "step": (
            {
                "x_t": x, "prediction": Prediction(y, z.sigmoid()), "t": one, "s": two,
                "eta": 1.0, "noise": z,
            },
            "x_t prediction noise",
        ),
        "eps_from_x0": (at_t, "x_t x0 t"),
        "score_from_x0": (at_t, "x_t x0 t"),
        "check_time": ({"t": t}, ""),
        "check_pair": ({"t": t, "s": s}, ""),
        "per_sample": ({"t": t, "x": x}, "t x"),
    }  # fmt: skip
    if not process.times_are_whole:
        plan |= {
            "velocity": ({"t": t, "x0": x, "eps": y}, "t x0 eps"),
            "flow": (at_t, "x_t x0 t"),
            "drift": ({"x_t": x, "t": t}, "x_t t"),
            "diffusion": ({"t": t, "x": x}, "t x"),
            "reverse_drift": (at_one, "x_t x0"),
        }
    if name == "DDPM":
        plan["q_step"] = ({"x_prev": x, "t": 3, "noise": y}, "x_prev noise")
    return {
        f"process.{name}.{method}": Call(
            getattr(process, method),
            partial(dict, args),
            rows,
            EXTREMES | ONLY_SHAPE.get(method, {}),
        )
        for method, (args, rows) in plan.items()
    }


def walk_of(function: Callable[..., Any], **options: Any) -> Call:
    def args() -> dict[str, Any]:
        own = {k: v() if callable(v) else v for k, v in options.items()}
        return {"denoiser": MODEL, "process": CHAIN, "x": points(), "y": labels()} | own

    return Call(function, args, "x y")


def step_of(step: Any, process: noise.Process, t: Any, s: Any) -> Call:
    model = denoiser.Denoiser(NET, process, denoiser.V)

    def run(x: Tensor) -> Any:
        return step(model, process, [samplers.State(t, x)], s, seeded())

    return Call(run, lambda: {"x": points()}, "x" if isinstance(step, samplers.Euler) else "")


def asked(model: Any, make: Callable[[], Tensor] = points, **more: Any) -> Call:
    """A denoiser or wrapper, asked."""
    t = torch.tensor([30, 12, 7, 2])
    return Call(model, lambda: {"x_t": make(), "t": t, "y": labels()} | more, "x_t t y")


def loss_of(function: Callable[..., Any], *first: Any, model: Any = IMAGE_MODEL) -> Call:
    def run(x0: Tensor, t: Tensor, eps: Tensor, y: Tensor) -> Any:
        return function(*first, model, x0, t, eps, y)

    t = torch.tensor([30, 12, 7, 1])
    eps = torch.randn(4, 1, 8, 8, generator=seeded(7))
    return Call(run, lambda: {"x0": images(), "t": t, "eps": eps, "y": labels()}, "x0 t eps y")


def weighting(function: Callable[..., Any]) -> Call:
    return Call(partial(function, CHAIN), lambda: {"t": torch.tensor([30, 12, 7, 2])}, "t")


def features_of(function: Callable[..., Any], *names: str, **options: Any) -> Call:
    def args() -> dict[str, Any]:
        return {name: points(k, 40) for k, name in enumerate(names)}

    def run(**given: Any) -> Any:
        return function(**given, **{k: v() if callable(v) else v for k, v in options.items()})

    return Call(run, args)


def updated(name: str, value: Any) -> Any:
    """What importance sampling has learned after an update."""

    def run(t: Tensor, losses: Tensor) -> Any:
        times = ddpmlib.losses.ImportanceTimes(5, memory=1)
        times.update(torch.arange(1, 6), torch.linspace(1, 2, 5))
        times.update(t, losses)
        return times.history.sum()

    return run


UNIT = {"mean_q": 1, "log_var_q": 2, "mean_p": 3, "log_var_p": 4}
GROUPS = torch.arange(40) % 2
CALLS: dict[str, Call] = {}
for _name in PROCESSES:
    CALLS |= of_process(_name)
CALLS |= {
    "process.DDPM": Call(noise.DDPM, lambda: {"beta": schedules.linear(30)}),
    "process.beta_from_alpha_bar": Call(
        noise.beta_from_alpha_bar, lambda: {"alpha_bar": CHAIN.alpha_bar[1:].clone()}
    ),
    "process.kernel": Call(
        noise.kernel, lambda: {"log_snr": torch.linspace(-3, 3, 4)}, "log_snr", EXTREMES
    ),
    # ---- samplers
    "samplers.sample": walk_of(samplers.sample, eta=0.5, generator=seeded),
    "samplers.draw": walk_of(samplers.draw, eta=0.0),
    "samplers.ddim_invert": walk_of(samplers.ddim_invert, times=[20, 10, 0], refine=3),
    "samplers.langevin": walk_of(samplers.langevin, t=9, h=0.01, steps=2, generator=seeded),
    "samplers.annealed_langevin": walk_of(
        samplers.annealed_langevin, times=[20, 0], steps=1, generator=seeded
    ),
    "samplers.predictor_corrector": walk_of(
        samplers.predictor_corrector, times=[20, 0], generator=seeded
    ),
    "samplers.slerp": Call(
        samplers.slerp,
        lambda: {"a": points(1), "b": points(2), "weight": torch.linspace(0, 1, 4)},
        "a b weight",
    ),
    "samplers.SampleNoise.like": Call(
        lambda x: samplers.SampleNoise(3, range(4)).like(x), lambda: {"x": points()},
        seen={"x NaN": "its values are not looked at", "x inf": "its values are not looked at"},
    ),
    "samplers.Ancestral.__call__": step_of(samplers.Ancestral(0.0), CHAIN, 20, 10),
    "samplers.Euler.__call__": step_of(samplers.Euler(), noise.VP(), 0.5, 0.4),
    "samplers.Heun.__call__": step_of(samplers.Heun(), noise.VP(), 0.5, 0.4),
    "samplers.EulerMaruyama.__call__": step_of(samplers.EulerMaruyama(), noise.VP(), 0.5, 0.4),
    "samplers.Langevin.__call__": step_of(
        samplers.Langevin(lambda process, t: 0.1), CHAIN, 20, 20
    ),
    "samplers.Annealed.__call__": step_of(
        samplers.Annealed(samplers.Langevin(lambda process, t: 0.1)), CHAIN, 20, 10
    ),
    "samplers.Corrected.__call__": step_of(
        samplers.Corrected(samplers.Ancestral(0.0), samplers.Langevin(lambda process, t: 0.1)),
        CHAIN, 20, 10,
    ),
    # ---- denoisers
    "denoiser.Denoiser.forward": asked(MODEL),
    "denoiser.Denoiser.raw": asked(MODEL.raw),
    "denoiser.Denoiser.read": Call(
        MODEL.read,
        lambda: {
            "output": points(3), "var_mix": points(4).sigmoid(), "x_t": points(),
            "t": torch.tensor([30, 12, 7, 2]),
        },
        "output var_mix x_t t",
    ),
    "denoiser.Denoiser.without": Call(MODEL.without, lambda: {"y": labels()}, "y"),
    "denoiser.FixedVariance.forward": asked(denoiser.FixedVariance(MODEL, 1.0)),
    "denoiser.FixedVariance.without": Call(
        denoiser.FixedVariance(MODEL, 1.0).without, lambda: {"y": labels()}, "y"
    ),
    "denoiser.Translated.forward": asked(
        denoiser.Translated(MODEL, noise.VP()), t=torch.tensor([0.9, 0.5, 0.3, 0.2])
    ),
    "denoiser.Translated.without": Call(
        denoiser.Translated(MODEL, noise.VP()).without, lambda: {"y": labels()}, "y"
    ),
    "denoiser.score": asked(partial(denoiser.score, MODEL)),
    "denoiser.learned_var_mix": Call(denoiser.learned_var_mix, lambda: {"v": points()}, "v"),
    "denoiser.edm_preconditioning": Call(
        denoiser.edm_preconditioning, lambda: {"sigma": torch.tensor([0.1, 1.0, 2.0, 9.0])}, "sigma"
    ),
    # ---- guidance
    "guidance.Wrapper.forward": asked(guidance.Wrapper(MODEL)),
    "guidance.Unconditional.forward": asked(guidance.Unconditional(MODEL)),
    "guidance.ClassifierFree": Call(
        lambda w: guidance.ClassifierFree(MODEL, w)(points(), 9, labels()),
        lambda: {"w": torch.linspace(0, 2, 4)},
    ),
    "guidance.ClassifierFree.forward": asked(guidance.ClassifierFree(MODEL, 2.0)),
    "guidance.ClassifierGuidance": Call(
        lambda strength: guidance.ClassifierGuidance(MODEL, POINT_CLASSIFIER, strength)(
            points(), 9, labels()
        ),
        lambda: {"strength": torch.linspace(0, 2, 4)},
    ),
    "guidance.ClassifierGuidance.forward": asked(
        guidance.ClassifierGuidance(MODEL, POINT_CLASSIFIER)
    ),
    "guidance.MeanShift.forward": Call(
        guidance.MeanShift(MODEL, POINT_CLASSIFIER),
        lambda: {"x_t": points(), "t": 9, "y": labels()}, "x_t y",
    ),
    "guidance.StaticThreshold.forward": asked(guidance.StaticThreshold(MODEL)),
    "guidance.DynamicThreshold.forward": asked(guidance.DynamicThreshold(MODEL)),
    "guidance.Temperature.forward": asked(guidance.Temperature(MODEL, 0.8)),
    "guidance.class_gradient": asked(partial(guidance.class_gradient, NOISY), images),
    # ---- losses
    "losses.l_simple": loss_of(losses.l_simple),
    "losses.l_vlb": loss_of(losses.l_vlb),
    "losses.l_hybrid": loss_of(losses.l_hybrid),
    "losses.weighted": loss_of(losses.weighted, losses.uniform_on_x0),
    "losses.diffusion_loss": Call(
        lambda x, y: losses.diffusion_loss(MODEL, x, y, seeded(), 0.1),
        lambda: {"x": points(), "y": labels()},
    ),
    "losses.simple": weighting(losses.simple),
    "losses.vlb": weighting(losses.vlb),
    "losses.uniform_on_x0": weighting(losses.uniform_on_x0),
    "losses.truncated_snr": weighting(losses.truncated_snr),
    "losses.min_snr": weighting(losses.min_snr()),
    "losses.on_x0": weighting(partial(losses.on_x0, losses.uniform_on_x0)),
    "losses.ImportanceTimes.update": Call(
        updated("", 0),
        lambda: {"t": torch.tensor([1, 2, 3]), "losses": torch.tensor([1.0, 2.0, 3.0])},
        seen={
            "losses NaN": "left out, who trains stops at it",
            "losses inf": "left out, who trains stops at it",
        },
    ),
    # ---- likelihood
    "likelihood.gaussian_kl": Call(
        likelihood.gaussian_kl, lambda: {k: points(v) for k, v in UNIT.items()}, " ".join(UNIT),
        seen={"log_var_p inf": "a variance without bound: the other's logarithm is seen"},
    ),
    "likelihood.continuous": Call(
        likelihood.continuous,
        lambda: {"x0": points(1), "mean": points(2), "log_var": points(3)}, "x0 mean log_var",
    ),
    "likelihood.discretised": Call(
        likelihood.discretised,
        lambda: {"x0": images(1), "mean": images(2), "log_var": images(3)}, "x0 mean log_var",
    ),
    "likelihood.bits_per_dim": Call(
        likelihood.bits_per_dim, lambda: {"nats": torch.ones(4), "dims": 3}, "nats"
    ),
    "likelihood.prior_term": Call(
        likelihood.prior_term, lambda: {"process": CHAIN, "x0": images()}, "x0"
    ),
    "likelihood.reverse_step_term": Call(
        partial(likelihood.reverse_step_term, CHAIN),
        lambda: {
            "x0": images(1), "x_t": images(2), "t": torch.tensor([30, 12, 7, 1]),
            "prediction": Prediction(images(3), images(4).sigmoid()),
            "s": torch.tensor([29, 11, 6, 0]),
        },
        "x0 x_t t prediction s",
    ),
    "likelihood.elbo": Call(
        lambda x0, y: likelihood.elbo(
            IMAGE_MODEL, CHAIN, x0, [20, 10, 0], y=y, generator=seeded()
        ),
        lambda: {"x0": images(), "y": labels()},
    ),
    "likelihood.elbo_monte_carlo": Call(
        lambda x0, y: likelihood.elbo_monte_carlo(
            IMAGE_MODEL, CHAIN, x0, y=y, generator=seeded()
        ),
        lambda: {"x0": images(), "y": labels()},
    ),
    # ---- networks
    "models.MLP.forward": Call(
        NET, lambda: {"x": points(), "t": torch.tensor([9, 4, 2, 1]), "y": labels()}, "x t y"
    ),
    "models.MLP.without": Call(NET.without, lambda: {"y": labels()}, "y"),
    "models.UNet.forward": Call(
        UNET, lambda: {"x": images(), "t": torch.tensor([9, 4, 2, 1]), "y": labels()}, "x t y"
    ),
    "models.UNet.without": Call(UNET.without, lambda: {"y": labels()}, "y"),
    "models.Classifier.forward": Call(CLASSIFIER, lambda: {"x": images()}, "x"),
    "models.Classifier.features": Call(CLASSIFIER.features, lambda: {"x": images()}, "x"),
    "models.NoisyClassifier.forward": Call(
        NOISY, lambda: {"x": images(), "t": torch.tensor([9, 4, 2, 1])}, "x t"
    ),
    # ---- measures
    "evaluation.frechet_distance": features_of(evaluation.frechet_distance, "a", "b"),
    "evaluation.kid": features_of(
        evaluation.kid, "a", "b", size=10, subsets=3, generator=seeded
    ),
    "evaluation.precision_recall": features_of(evaluation.precision_recall, "real", "fake"),
    "evaluation.density_coverage": features_of(evaluation.density_coverage, "real", "fake"),
    "evaluation.matched_contrast": Call(
        lambda x: evaluation.matched_contrast(x, 0.1, 0.5), lambda: {"x": images()}
    ),
    "evaluation.nearest_distances": Call(
        evaluation.nearest_distances, lambda: {"x": images(), "images": images(2, 6)}, "x",
        dict.fromkeys(("x uint8", "images uint8"), PIXELS),
    ),
    "evaluation.copied": Call(
        evaluation.copied, lambda: {"x": images(), "train": images(2, 6)}, "x",
        dict.fromkeys(("x uint8", "train uint8"), PIXELS),
    ),
    "evaluation.nearer_to_training": Call(
        evaluation.nearer_to_training,
        lambda: {"x": images(), "train": images(2, 6), "held_out": images(3, 5)},
        seen=dict.fromkeys(("x uint8", "train uint8", "held_out uint8"), PIXELS),
    ),
    "evaluation.denoising_gap": Call(
        lambda train, held_out: evaluation.denoising_gap(
            IMAGE_MODEL, (train, None), (held_out, None), 5, seeded()
        ),
        lambda: {"train": images(2), "held_out": images(3)},
    ),
    "evaluation.PixelComponents.features": Call(
        COMPONENTS.features, lambda: {"x": images()}, "x"
    ),
    "evaluation.PixelComponents.flat": Call(COMPONENTS.flat, lambda: {"x": images()}, "x"),
    "evaluation.RandomConvolutions.features": Call(
        evaluation.RandomConvolutions(1).features, lambda: {"x": images()}, "x"
    ),
    "evaluation.inception_score": features_of(evaluation.inception_score, "logits"),
    "evaluation.Moments.of": features_of(evaluation.Moments.of, "features"),
    "evaluation.Moments.update": features_of(lambda x: evaluation.Moments(2).update(x), "x"),
    "evaluation.Moments.known": Call(
        evaluation.Moments.known,
        lambda: {"n": 9, "mean": torch.zeros(2), "cov": torch.tensor([[1.0, 0.1], [0.1, 2.0]])},
    ),
    "evaluation.class_agreement": Call(
        evaluation.class_agreement, lambda: {"logits": torch.eye(3)[[0, 1, 2, 1]], "y": labels()}
    ),
    "evaluation.saturation": Call(
        evaluation.saturation, lambda: {"x": images()},
    ),
    "evaluation.bootstrap": Call(
        lambda features, groups: evaluation.bootstrap(
            lambda x: float(x.double().mean()), features, groups=groups, draws=20,
            generator=seeded(),
        ),
        lambda: {"features": points(1, 40), "groups": GROUPS},
    ),
    "evaluation.generate": Call(
        lambda y: evaluation.generate(
            IMAGE_MODEL, (1, 8, 8), y, evaluation.Sampling(steps=2)
        ),
        lambda: {"y": labels()},
    ),
    # ---- modules without __all__
    "oracle.Mixture": Call(
        lambda **given: oracle.Mixture(CHAIN, **given)(points(), 9),
        lambda: {
            "weights": torch.ones(3), "means": points(5, 3), "stds": torch.ones(3),
            "labels": torch.arange(3),
        },
    ),
    "oracle.Mixture.__call__": asked(MIXTURE),
    "oracle.Mixture.log_prob": Call(MIXTURE.log_prob, lambda: {"x_t": points(), "t": 9}, "x_t"),
    "oracle.Mixture.score": Call(MIXTURE.score, lambda: {"x_t": points(), "t": 9}, "x_t"),
    "oracle.Mixture.class_logits": Call(
        MIXTURE.class_logits, lambda: {"x_t": points(), "t": 9}, "x_t"
    ),
    "oracle.FiniteData": Call(
        lambda points: oracle.FiniteData(CHAIN, points)(torch.zeros(3, 2), 9),
        lambda: {"points": points(5, 3)},
    ),
    "oracle.Gaussian": Call(
        lambda **given: oracle.Gaussian(CHAIN, **given)(points(), 9),
        lambda: {"mean": torch.zeros(2), "cov": torch.tensor([[1.0, 0.1], [0.1, 2.0]])},
    ),
    "oracle.Gaussian.__call__": asked(GAUSSIAN),
    "oracle.Gaussian.log_prob": Call(GAUSSIAN.log_prob, lambda: {"x_t": points(), "t": 9}, "x_t"),
    "oracle.Gaussian.score": Call(GAUSSIAN.score, lambda: {"x_t": points(), "t": 9}, "x_t"),
    "plots.sheet": Call(
        plots.sheet, lambda: {"images": images()}, seen={
            "images inf": "clipped, as is said", "images uint8": "pixels 0..255: another picture",
        },
    ),
    "plots.scatter": Call(lambda points: plots.scatter(points).collections[0].get_offsets().data,
        lambda: {"points": points()}),
}  # fmt: skip

# Not called here, and why.
NUMBERS = "takes numbers, records and functions, no tensors"
RECORD = "a record: who fills it checks"
WRITTEN = "what a process writes; the derived methods call it, and check"
NOT_CALLED: dict[str, str] = {
    f"process.{name}.{method}": WRITTEN
    for name in [*PROCESSES, "Process"]
    for method in ("coefficients", "time_of", "network_time", "less_noisy")
}
OF_NUMBERS = """
    process.EDM process.VDM process.VE process.VP process.FlowMatching process.Interpolated
    process.RectifiedFlow process.SubVP process.ZeroBased process.check_eta process.DDPM.table
    samplers.Ancestral samplers.Annealed samplers.Corrected samplers.Euler samplers.EulerMaruyama
    samplers.Heun samplers.Langevin samplers.SampleNoise samplers.checked_times samplers.even_times
    samplers.karras_times samplers.leading_times samplers.linspace_times samplers.log_snr_times
    samplers.quadratic_times samplers.step_size samplers.uniform_times denoiser.Denoiser
    denoiser.FixedVariance denoiser.Translated denoiser.between_steps denoiser.edm_output
    denoiser.flow_matching_velocity guidance.DynamicThreshold guidance.MeanShift
    guidance.StaticThreshold guidance.Temperature guidance.Unconditional guidance.Wrapper
    guidance.interval losses.ImportanceTimes losses.ImportanceTimes.check
    losses.ImportanceTimes.draw losses.ImportanceTimes.probabilities losses.UniformContinuousTimes
    losses.UniformContinuousTimes.check losses.UniformContinuousTimes.draw
    losses.UniformContinuousTimes.update losses.UniformTimes losses.UniformTimes.check
    losses.UniformTimes.draw losses.UniformTimes.update losses.uniform_over
    likelihood.decoder_floor models.MLP models.Classifier models.ClassifierConfig
    models.NoisyClassifier models.NoisyClassifierConfig models.UNet models.UNetConfig
    evaluation.Moments evaluation.Moments.merge evaluation.Moments.root evaluation.share_interval
    evaluation.Guidance evaluation.Guidance.record evaluation.Guidance.wrap evaluation.Sampling
    evaluation.Sampling.from_record evaluation.Sampling.next_state evaluation.Sampling.record
    evaluation.Sampling.times evaluation.Sampling.wrap evaluation.classes_in_turn
    evaluation.is_measured"""
NOT_CALLED |= dict.fromkeys(
    OF_NUMBERS.split(),
    NUMBERS,
)
OF_RECORDS = """
    samplers.State denoiser.Parameterization likelihood.Bound likelihood.Estimate process.Stride
    evaluation.Reference Prediction"""
NOT_CALLED |= dict.fromkeys(
    OF_RECORDS.split(),
    RECORD,
)
OF_FILES = """evaluation.evaluate evaluation.measure_samples evaluation.nll evaluation.network_of
    evaluation.reference evaluation.accuracy_under_noise evaluation.class_names
    evaluation.images_of evaluation.label_of evaluation.sample_batches evaluation.samples
    evaluation.available evaluation.measure_memorisation evaluation.PixelComponents.of
    evaluation.RandomConvolutions.of evaluation.PixelComponents evaluation.RandomConvolutions
    evaluation.PixelComponents.head evaluation.RandomConvolutions.head"""
NOT_CALLED |= dict.fromkeys(
    OF_FILES.split(),
    "measures a checkpoint or a data set by the functions above: tests/test_evaluation.py",
)
NOT_CALLED |= {
    f"guidance.{name}.without": "passes on what the denoiser says: denoiser.Denoiser.without"
    for name in (
        "Wrapper", "Unconditional", "ClassifierFree", "ClassifierGuidance", "MeanShift",
        "StaticThreshold", "DynamicThreshold", "Temperature",
    )
}  # fmt: skip
NOT_CALLED |= {
    f"process.{name}.{method}": "times that count steps do not flow; called on continuous processes"
    for name in ("DDPM", "ZeroBased", "Process")
    for method in ("velocity", "flow", "drift", "diffusion", "reverse_drift")
}
NOT_CALLED |= {"process.Process": "abstract"} | {
    name.replace("DDPM", "Process"): "abstract: called on each process"
    for name in CALLS
    if name.startswith("process.DDPM.") and hasattr(noise.Process, name.rpartition(".")[2])
}


# ---- what is public ------------------------------------------------------------------------------


def packages() -> Iterator[tuple[str, Any]]:
    yield "", ddpmlib
    for found in pkgutil.walk_packages(ddpmlib.__path__, "ddpmlib."):
        room = found.name.split(".")[1]
        if room in OTHERS or room == "__main__":
            continue
        module = importlib.import_module(found.name)
        if hasattr(module, "__all__"):
            yield found.name.removeprefix("ddpmlib.") + ".", module


def public() -> dict[str, Any]:
    """Every function, class and method that a package names, once."""
    found: dict[str, Any] = {}
    names: set[int] = set()
    for prefix, module in sorted(packages(), key=lambda p: -len(p[0])):
        for name in module.__all__:
            member = getattr(module, name)
            is_class = inspect.isclass(member) and not getattr(member, "_is_protocol", False)
            if id(member) in names or not (is_class or inspect.isfunction(member)):
                continue
            names.add(id(member))
            found[prefix + name] = member
            if is_class:
                found |= {f"{prefix}{name}.{k}": v for k, v in methods(member).items()}
    return found


def methods(kind: type) -> dict[str, Any]:
    """Public methods that are written in this library."""
    return {
        name: member
        for name, member in inspect.getmembers(kind, callable)
        if (not name.startswith("_") or name == "__call__")
        and (getattr(member, "__module__", None) or "").startswith("ddpmlib")
        and not inspect.isclass(member)
    }


def test_every_public_function_is_described() -> None:
    found = set(public())
    assert len(found) > 150
    described = {name for name in CALLS if not name.startswith(("oracle.", "plots."))}
    missing = sorted(found - described - set(NOT_CALLED))
    assert missing == [], f"describe in CALLS how to call {', '.join(missing)}"
    assert sorted((described | set(NOT_CALLED)) - found) == [], "these are gone"
    assert described & set(NOT_CALLED) == set()


# ---- mutations -----------------------------------------------------------------------------------

DTYPES = {
    "int64": torch.int64, "int32": torch.int32, "uint8": torch.uint8, "bool": torch.bool,
    "half": torch.float16, "float": torch.float32, "double": torch.float64,
    "complex": torch.complex64,
}  # fmt: skip
PLAIN = ("not contiguous", "requires_grad")


def mutations(value: Tensor) -> dict[str, Any]:
    found: dict[str, Any] = {
        "None": None,
        "word": "word",
        "list": value.tolist(),
        "NumPy": value.numpy(),
        "empty": value.new_empty(0),
        "meta": value.to("meta"),
    }
    found |= {name: value.to(d) for name, d in DTYPES.items() if d != value.dtype}
    n = len(value) if value.ndim else 2
    one = value.flatten()[0]
    found |= {f"rank {r}": one.expand(n, *[2] * (r - 1)) for r in range(1, 6) if r != value.ndim}
    if value.ndim:
        found["not contiguous"] = value.repeat_interleave(2, -1)[..., ::2]
    if value.is_floating_point():
        found["requires_grad"] = value.clone().requires_grad_()
        for bad in ("nan", "inf"):
            found[bad.replace("nan", "NaN")] = value.clone()
            found[bad.replace("nan", "NaN")].view(-1)[-1] = float(bad)
    return found


def paths(args: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Where the tensors are: an argument, or a field of a prediction."""
    for name, value in args.items():
        if isinstance(value, Tensor):
            yield name, ""
        if isinstance(value, Prediction):
            yield from ((name, f.name) for f in fields(value))


def get(args: dict[str, Any], path: tuple[str, str]) -> Any:
    name, part = path
    return getattr(args[name], part) if part else args[name]


def put(args: dict[str, Any], path: tuple[str, str], value: Any) -> dict[str, Any]:
    name, part = path
    return args | {name: replace(args[name], **{part: value}) if part else value}


# ---- outcomes ------------------------------------------------------------------------------------


class Refused(Exception):
    """One sentence of ours."""


@cache
def lines_that_raise(path: str) -> frozenset[int]:
    tree = ast.parse(Path(path).read_text("utf-8"))
    raises = [node for node in ast.walk(tree) if isinstance(node, ast.Raise)]
    return frozenset(
        line for node in raises for line in range(node.lineno, (node.end_lineno or 0) + 1)
    )


def is_ours(error: BaseException) -> bool:
    """Whether an error is one sentence that this library says."""
    last, text = traceback.extract_tb(error.__traceback__)[-1], str(error)
    inside = Path(last.filename).is_relative_to(HOME)
    said = inside and last.lineno in lines_that_raise(last.filename)
    sentence = bool(text.strip()) and "\n" not in text and len(text) < 500
    # Writing a message may fail, too, on the line of its raise.
    return (
        said
        and sentence
        and "format string" not in text
        and isinstance(error, ValueError | TypeError)
    )


def outcome(call: Call, args: dict[str, Any]) -> list[Tensor]:
    """The numbers of a result; raises Refused where one sentence refuses."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            result = call.function(**args)
            return leaves(list(result) if isinstance(result, Iterator) else result)
        except (ValueError, TypeError) as error:
            if is_ours(error):
                raise Refused(str(error)) from None
            raise


def leaves(result: Any) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result.detach()]
    if isinstance(result, bool | int | float | np.ndarray):
        return [torch.as_tensor(result)]
    if isinstance(result, evaluation.Moments):
        return leaves([result.n, result.mean, result._scatter])
    if is_dataclass(result):
        return leaves([getattr(result, f.name) for f in fields(result)])
    if isinstance(result, list | tuple):
        return [leaf for part in result for leaf in leaves(part)]
    return []


def same(a: list[Tensor], b: list[Tensor], tolerance: float) -> bool:
    if [x.shape for x in a] != [x.shape for x in b] or any(x.is_meta for x in a + b):
        return False
    pairs = [(x.to(torch.complex128), y.to(torch.complex128)) for x, y in zip(a, b, strict=True)]
    return all(torch.allclose(x, y, tolerance, tolerance, equal_nan=True) for x, y in pairs)


def finite(found: list[Tensor]) -> bool:
    return all(bool(x.isfinite().all()) for x in found if not x.is_meta)


def has_nan(found: list[Tensor]) -> bool:
    return any(bool(x.isnan().any()) for x in found if not x.is_meta)


def is_right(
    kind: str, call: Call, args: dict, path: tuple[str, str], found: list, base: list
) -> bool:
    value = get(args, path)
    if kind in PLAIN or kind in ("list", "NumPy", "word"):
        return same(found, base, 1e-4)
    if kind in ("NaN", "inf"):
        return not finite(found) or not found
    if kind == "meta":
        return all(x.is_meta for x in found if x.ndim) or same(found, base, 1e-6)
    if kind in DTYPES:
        plain = mutations(value)[kind].to(value.dtype)
        return same(found, outcome(call, put(args, path, plain)), 3e-2 if kind == "half" else 1e-4)
    return not has_nan(found)


def fault(call: Call, path: tuple[str, str], kind: str, base: list[Tensor]) -> str:
    """What is wrong with the outcome of one mutation; "" if nothing is."""
    args = call.args()
    changed = put(args, path, mutations(get(args, path))[kind])
    try:
        found = outcome(call, changed)
    except Refused as refusal:
        return f"refused: {refusal}" if kind in PLAIN else ""
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:200]
    try:
        right = is_right(kind, call, args, path, found, base)
    except Refused as refusal:
        return f"taken, where the plain values are refused: {refusal}"
    return "" if right else f"a wrong result: {found}"[:200]


@pytest.mark.parametrize("name", CALLS)
def test_bad_input_is_refused_in_one_sentence_or_right(name: str) -> None:
    call = CALLS[name]
    base, faults = outcome(call, call.args()), {}
    for path in paths(call.args()):
        for kind in mutations(get(call.args(), path)):
            what = f"{'.'.join(p for p in path if p)} {kind}"
            if what not in call.seen and (wrong := fault(call, path, kind, base)):
                faults[what] = wrong
    assert faults == {}


@pytest.mark.parametrize("name", [name for name, call in CALLS.items() if call.rows])
def test_one_sample_is_its_row_and_none_is_no_number(name: str) -> None:
    call = CALLS[name]

    def rows(part: slice) -> list[Tensor]:
        args = call.args()
        for path in paths(args):
            if path[0] in call.rows.split():
                args = put(args, path, get(args, path)[part])
        return outcome(call, args)

    whole, first = outcome(call, call.args()), rows(slice(0, 1))
    sliced = [x[:1] if x.ndim and len(x) == 4 else x for x in whole]
    assert name.startswith("samplers.") or same(first, sliced, 1e-4)
    with suppress(Refused):
        assert not has_nan(rows(slice(0, 0)))


# ---- the harness itself --------------------------------------------------------------------------


def test_the_harness_sees_what_is_wrong() -> None:
    def careless(x: Tensor) -> Tensor:
        return x.float().nan_to_num().flatten()

    call = Call(careless, lambda: {"x": points()})
    base = outcome(call, call.args())
    assert "AttributeError" in fault(call, ("x", ""), "None", base)
    assert "wrong" in fault(call, ("x", ""), "NaN", base)
    assert fault(call, ("x", ""), "double", base) == ""
    through = Call(lambda x: CHAIN.beta @ x, lambda: {"x": torch.ones(41).double()})
    base = outcome(through, through.args())
    assert "RuntimeError" in fault(through, ("x", ""), "rank 3", base)
    assert "TypeError" in fault(through, ("x", ""), "word", base)  # Python's own, not ours
    strict = Call(lambda x: CHAIN.q_sample(x, 3, x), lambda: {"x": points()})
    base = outcome(strict, strict.args())
    assert fault(strict, ("x", ""), "int64", base) == ""
