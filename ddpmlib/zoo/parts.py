"""What a saved model is made of, as JSON values and tensors: network, process, parameterization.

Our own parts are told by name and numbers, and made again from these. A network of somebody else
is told by the arguments of its constructor; the constructor itself comes from whoever loads it, and
from no file. The betas of a chain are a tensor among the weights, to the last bit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ddpmlib.denoiser.denoiser import Denoiser
from ddpmlib.denoiser.parameterization import (
    EPS,
    SCORE,
    VELOCITY,
    X0,
    Parameterization,
    V,
    edm_output,
    flow_matching_velocity,
)
from ddpmlib.models.classifier import Classifier, ClassifierConfig
from ddpmlib.models.mlp import MLP
from ddpmlib.models.noisy_classifier import NoisyClassifier, NoisyClassifierConfig
from ddpmlib.models.unet import UNet, UNetConfig
from ddpmlib.process.continuous import (
    EDM,
    VDM,
    VE,
    VP,
    FlowMatching,
    Interpolated,
    RectifiedFlow,
    SubVP,
)
from ddpmlib.process.ddpm import DDPM
from ddpmlib.process.indices import ZeroBased
from ddpmlib.process.process import Process
from ddpmlib.records import typed

KIND = "saved"  # of the recipe in a card
BETA = "process.beta"  # the table of a chain, among the weights
Build = Callable[..., nn.Module]
"""The constructor of a network: it is called with the recorded arguments, by name."""


@dataclass(frozen=True)
class UNetShape:
    """What decides the weights of a U-Net."""

    config: UNetConfig
    outputs: int = 1


@dataclass(frozen=True)
class MLPShape:
    """What decides the weights of a perceptron; see :class:`ddpmlib.models.mlp.MLP`."""

    dim: int
    width: int
    depth: int
    num_classes: int
    outputs: int

    def __post_init__(self) -> None:
        if min(self.dim, self.width, self.outputs) < 1 or min(self.depth, self.num_classes) < 0:
            raise ValueError(f"{self} is no shape of a perceptron")


@dataclass(frozen=True)
class ClassifierShape:
    """What decides the weights of a classifier."""

    config: ClassifierConfig


@dataclass(frozen=True)
class NoisyClassifierShape:
    """What decides the weights of a classifier of noisy images."""

    config: NoisyClassifierConfig


SHAPES: dict[str, Any] = {
    "UNet": UNetShape,
    "MLP": MLPShape,
    "Classifier": ClassifierShape,
    "NoisyClassifier": NoisyClassifierShape,
}
"""Our own networks, and what decides the shape of each."""
PROCESSES: dict[str, Any] = {
    c.__name__: c for c in (VP, SubVP, VE, EDM, RectifiedFlow, FlowMatching, VDM)
}
CHAINS: dict[str, Callable[[DDPM], Process]] = {
    "DDPM": lambda chain: chain,
    "Interpolated": Interpolated,
    "ZeroBased": ZeroBased,
}
PREDICTS: dict[str, Callable[..., Parameterization]] = {
    "eps": lambda: EPS,
    "x0": lambda: X0,
    "v": lambda: V,
    "score": lambda: SCORE,
    "velocity": lambda: VELOCITY,
    "flow-matching velocity": flow_matching_velocity,
    "EDM output": edm_output,
}


# ---- as JSON values ------------------------------------------------------------------------------


def network_values(
    net: nn.Module, build: Build | None, arguments: Mapping[str, Any] | None
) -> dict[str, Any]:
    """A network as name and arguments; the name of a foreign one has a dot, and is for people.

    Raises:
        ValueError: for a foreign network without its constructor, our own with one, or arguments
            that JSON does not know.
    """
    if build is None and arguments is None:
        return {"name": type(net).__name__, "arguments": asdict(_shape(net))}
    if build is None:
        raise ValueError("arguments belong to a constructor: give it too, as build")
    if type(net) in (UNet, MLP, Classifier, NoisyClassifier):
        raise ValueError(f"a {type(net).__name__} is our own: save it without build and arguments")
    try:
        values = json.loads(json.dumps(dict(arguments or {}), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the arguments of a constructor are kept as JSON: give numbers, words, lists and "
            f"mappings of these ({error})"
        ) from error
    return {"name": f"{type(net).__module__}.{type(net).__qualname__}", "arguments": values}


def _shape(net: nn.Module) -> Any:
    if type(net) is UNet:
        pixels = net.config.channels * net.config.patch**2
        return UNetShape(net.config, net.out.out_channels // pixels)
    if type(net) is MLP:
        classes, outputs = net.embed.num_classes, net.out.out_features // net.dim
        return MLPShape(net.dim, net.embed.dim, len(net.layers), classes, outputs)
    if type(net) is Classifier:
        return ClassifierShape(net.config)
    if type(net) is NoisyClassifier:
        return NoisyClassifierShape(net.config)
    raise ValueError(
        f"{type(net).__name__} is no network of this library: give its constructor and arguments, "
        "as in zoo.save(model, path, build=MyNet, arguments={'width': 64}, ...)"
    )


def process_values(process: Process) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A process as name and numbers, and the table of a chain.

    Raises:
        ValueError: for a process that is none of the library's.
    """
    name = type(process).__name__
    if PROCESSES.get(name) is type(process):
        return {"name": name} | {k: float(v) for k, v in vars(process).items()}, {}
    chain = process if type(process) is DDPM else getattr(process, "process", None)
    if type(process) not in (DDPM, Interpolated, ZeroBased) or type(chain) is not DDPM:
        raise ValueError(
            f"{process} is no process of this library ({', '.join([*CHAINS, *PROCESSES])}): its "
            "numbers cannot be kept"
        )
    return {"name": name}, {BETA: chain.beta}


def predicts_values(parameterization: Parameterization) -> dict[str, Any]:
    """A parameterization as name and numbers.

    Raises:
        ValueError: for one that is none of the library's.
    """
    weights = getattr(parameterization.target, "weights", None)
    numbers = asdict(weights) if is_dataclass(weights) and not isinstance(weights, type) else {}
    values = {"name": parameterization.name} | {k: float(v) for k, v in numbers.items()}
    if parameterization.name not in PREDICTS or _parameterization(values) != parameterization:
        raise ValueError(
            f"the parameterization {parameterization.name!r} is none of this library's "
            f"({', '.join(PREDICTS)}): what it means cannot be kept"
        )
    return values


# ---- and back ------------------------------------------------------------------------------------


def rebuilt(
    path: Path | str, recipe: dict[str, Any], tensors: dict[str, Tensor], build: Build | None
) -> nn.Module:
    """The model that a card and its weights describe.

    Args:
        path: what a message calls them.
        recipe: of the card, of kind :data:`KIND`.
        tensors: the weights, with the table of a chain.
        build: the constructor of a network that is not ours.

    Raises:
        ValueError: if the constructor is missing or one too many, or the card describes nothing,
            or other weights than these.
    """
    weights = {name: value for name, value in tensors.items() if name != BETA}
    net = recipe.get("net")
    name = net.get("name") if isinstance(net, dict) else None
    if not isinstance(name, str):
        raise ValueError(f"the card of {path} names no network")
    _check_build(path, name, name in SHAPES, build)
    try:
        with torch.random.fork_rng():
            model = _made(recipe, tensors.get(BETA), weights, build)
    except (
        ArithmeticError, AttributeError, KeyError, RuntimeError, TypeError, ValueError
    ) as error:  # fmt: skip
        what = error if isinstance(error, ValueError) else repr(error)
        raise ValueError(f"the card of {path} describes nothing to build ({what})") from error
    return _filled(path, model, weights)


def _check_build(path: Path | str, name: str, own: bool, build: Build | None) -> None:
    if own and build is not None:
        raise ValueError(f"{path} holds a {name}, which needs no build: load it without")
    if not own and build is None:
        raise ValueError(
            f"{path} holds a network of your own, {name!r}, which no file brings along: give its "
            "constructor, as in zoo.load(path, build=MyNet)"
        )


def _made(
    recipe: dict[str, Any],
    beta: Tensor | None,
    weights: dict[str, Tensor],
    build: Build | None,
) -> nn.Module:
    net, process = recipe["net"], _process(recipe["process"], beta)
    denoises = recipe["predicts"] is not None
    if build is None:
        of_net = {k.removeprefix("net."): v for k, v in weights.items()} if denoises else weights
        model = _own(net, process, of_net)
    else:
        model = _foreign(net, build)
    if not denoises:
        return model
    if process is None:
        raise ValueError("a denoiser needs a process")
    return Denoiser(model, process, _parameterization(recipe["predicts"]), recipe["var_mix"])


def _own(net: dict[str, Any], process: Process | None, weights: dict[str, Tensor]) -> nn.Module:
    """A network of the library; one that the weights cannot belong to takes no memory."""
    shape = typed(SHAPES[net["name"]], net["arguments"])
    config = getattr(shape, "config", None)
    deep = getattr(config, "blocks", 1) * len(getattr(config, "mults", ()))
    if max(deep, getattr(shape, "depth", 0)) > len(weights):
        raise ValueError(f"its {len(weights)} weights are too few for the card's {shape}")
    with torch.device("meta"):
        if not _fit(_network(shape, process), weights):
            raise ValueError(f"it holds other weights than those of the card's {shape}")
    return _network(shape, process)


def _network(shape: Any, process: Process | None) -> nn.Module:
    if isinstance(shape, UNetShape):
        return UNet(shape.config, shape.outputs)
    if isinstance(shape, MLPShape):
        return MLP(**asdict(shape))
    if isinstance(shape, ClassifierShape):
        return Classifier(shape.config)
    if process is not None and not isinstance(process, DDPM):
        raise ValueError(f"a noisy classifier sees the noise of a chain, not of {process}")
    return NoisyClassifier(shape.config, process)


def _foreign(net: dict[str, Any], build: Build) -> nn.Module:
    made = build(**net["arguments"])
    if not isinstance(made, nn.Module):
        raise ValueError(f"build returns the network, an nn.Module, got {type(made).__name__}")
    return made


def _process(values: Any, beta: Tensor | None) -> Process | None:
    if values is None:
        return None
    name, numbers = values["name"], {k: v for k, v in values.items() if k != "name"}
    if name in CHAINS and not numbers:
        if beta is None:
            raise ValueError(f"the weights hold no table {BETA!r}, which its process needs")
        return CHAINS[name](DDPM(beta))
    if name not in PROCESSES:
        raise ValueError(f"there is no process {name!r} with {sorted(numbers)}")
    return PROCESSES[name](**{k: float(v) for k, v in numbers.items()})


def _parameterization(values: Any) -> Parameterization:
    name, numbers = values["name"], {k: float(v) for k, v in values.items() if k != "name"}
    if name not in PREDICTS:
        raise ValueError(f"there is no parameterization {name!r}")
    return PREDICTS[name](**numbers)


def _filled(path: Path | str, model: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    """The model with these weights, in their dtypes; what is tied stays tied."""
    if not _fit(model, weights):
        raise ValueError(f"{path} holds other weights than the network that its card describes")
    for name, value in model.state_dict(keep_vars=True).items():
        value.data = value.data.to(weights[name].dtype)
    model.load_state_dict(weights)
    return model


def _fit(model: nn.Module, weights: dict[str, Tensor]) -> bool:
    own = model.state_dict()
    return own.keys() == weights.keys() and all(
        isinstance(value, Tensor) and value.shape == weights[name].shape
        for name, value in own.items()
    )
