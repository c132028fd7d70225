"""Save any denoiser or network, own or foreign, without a recipe; `zoo.load` opens it again.

>>> import tempfile
>>> import torch
>>> from ddpmlib import zoo
>>> from ddpmlib.denoiser import VELOCITY, Denoiser
>>> from ddpmlib.process import RectifiedFlow
>>> class Shrink(torch.nn.Module):
...     def __init__(self, by):
...         super().__init__()
...         self.by = torch.nn.Parameter(torch.tensor(by))
...     def forward(self, x, t):
...         return self.by * x
>>> model = Denoiser(Shrink(0.5), RectifiedFlow(), VELOCITY)
>>> with tempfile.TemporaryDirectory() as folder:
...     card = zoo.save(model, folder, shape=(2,), build=Shrink, arguments={"by": 0.0})
...     again, _ = zoo.load(folder, "cpu", build=Shrink)
>>> again.process, float(again.net.by)
(RectifiedFlow(), 0.5)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ddpmlib.denoiser.denoiser import Denoiser
from ddpmlib.models.classifier import Classifier
from ddpmlib.models.mlp import MLP
from ddpmlib.models.noisy_classifier import NoisyClassifier
from ddpmlib.models.unet import UNet
from ddpmlib.zoo import parts
from ddpmlib.zoo.card import Card
from ddpmlib.zoo.checkpoints import MODEL, STATE, names, write_model


def save(
    model: nn.Module,
    path: Path | str,
    *,
    shape: Sequence[int],
    build: parts.Build | None = None,
    arguments: Mapping[str, Any] | None = None,
    num_classes: int | None = None,
    data: str = "",
    training: Mapping[str, Any] | None = None,
) -> Card:
    """Write a model and its card, so that :func:`ddpmlib.zoo.checkpoints.load` gives it back.

    Answers are the same to the bit: weights keep their dtype, tied weights their tie, processes and
    parameterizations of the library their numbers. Nothing is pickled, and no code is kept: who
    loads a network of his own gives its constructor again. The save tries what the load will do.

    Args:
        model: a :class:`~ddpmlib.denoiser.denoiser.Denoiser` around any network, or a network.
            Wrappers (guidance, thresholds) hold no weights of their own: save what they wrap.
        path: a ``.safetensors`` file, or a folder, where the file is ``model.safetensors``. An
            older checkpoint there is replaced; a kill meanwhile leaves that one or the new one.
        shape: of a sample, (C, H, W) of images, (D,) of points.
        build: the constructor of the network, unless it is the library's own.
        arguments: what ``build`` is called with, by name: numbers, words, lists and mappings.
        num_classes: of the network; our own say it themselves, and others know 0 by default.
        data: the data set's name, by which ``evaluate`` finds it; the library's own names.
        training: what the card says of how it was trained, JSON values.

    Returns:
        the card.

    Raises:
        ValueError: if the network is foreign and its constructor not given, the constructor with
            the arguments builds another one, or a part cannot be kept: a process or a
            parameterization that is none of the library's, a state that is no tensor.
        FileExistsError: if the folder holds a run.
    """
    if str(path) in names():
        raise ValueError(
            f"{path} is a shipped checkpoint, which would be loaded: give another name"
        )
    path = Path(path) if Path(path).suffix == ".safetensors" else Path(path) / MODEL
    if path.name == MODEL and (path.parent / STATE).exists():
        raise FileExistsError(f"{path.parent} holds a run: save in another folder")
    if not shape or not all(type(n) is int and n > 0 for n in shape):
        raise ValueError(f"shape is that of one sample, (C, H, W) or (D,), got {shape!r}")
    recipe, tables = _recipe_of(model, build, arguments)
    recipe = {"kind": parts.KIND, "name": _name(path), "data": data} | recipe
    recipe = json.loads(json.dumps(recipe))  # as the card is read back
    weights = _weights_of(model)
    try:
        parts.rebuilt(path, recipe, weights | tables, build)
    except ValueError as error:
        raise ValueError(f"what is given builds no such model again: {error}") from error
    known = _num_classes(model)
    if num_classes is not None and known not in (None, num_classes):
        raise ValueError(f"the network knows {known} classes, not {num_classes}")
    card = Card(
        name=_name(path),
        recipe=recipe,
        sha256="",
        parameters=sum(p.numel() for p in model.parameters()),
        dtype=", ".join(sorted({str(v.dtype).removeprefix("torch.") for v in weights.values()})),
        image_shape=tuple(shape),
        num_classes=known or num_classes or 0,
        training=dict(training or {}),
    )
    return write_model(weights | tables, card, path)


def _name(path: Path) -> str:
    return path.resolve().parent.name if path.name == MODEL else path.stem


def _recipe_of(
    model: nn.Module, build: parts.Build | None, arguments: Mapping[str, Any] | None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The parts as JSON values, and the table of a chain."""
    if build is None and hasattr(model, "denoiser"):
        raise ValueError(
            f"a {type(model).__name__} only edits what another model says: save that one, and wrap "
            "it again after the load"
        )
    net, process, predicts, var_mix = model, None, None, None
    if type(model) is Denoiser:
        net, process, var_mix = model.net, model.process, model.var_mix
        predicts = parts.predicts_values(model.parameterization)
    elif isinstance(model, NoisyClassifier):
        process = model.process
    values, tables = (None, {}) if process is None else parts.process_values(process)
    network = parts.network_values(net, build, arguments)
    return {"net": network, "process": values, "predicts": predicts, "var_mix": var_mix}, tables


def _weights_of(model: nn.Module) -> dict[str, Tensor]:
    weights = model.state_dict()
    for name, value in weights.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{name} of the model's state is no tensor: it cannot be kept")
    return weights


def _num_classes(model: nn.Module) -> int | None:
    """What our own networks say; None for others."""
    net = model.net if type(model) is Denoiser else model
    if isinstance(net, UNet | MLP):
        return net.embed.num_classes
    if isinstance(net, Classifier | NoisyClassifier):
        return net.config.num_classes
    return None
