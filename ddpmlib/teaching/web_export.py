"""A trained denoiser as a script for the book's pages: weights and settings, read without a server.

The file sets one global, ``DiffusionWeights``, so a page opened from the disk can load it with a
plain ``<script>``; ``book/_static/alive/unet.js`` runs what it finds there. Matrices are rounded by
rows: an entry is *scale × level*, the scale one number a row, the level a whole number in −45..45,
one letter of the file. In small matrices, such as the last one, which writes the pixels, the
levels have two letters, −4140..4140. Vectors stay as they are.
"""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ddpmlib.denoiser.denoiser import Denoiser
from ddpmlib.denoiser.parameterization import PARAMETERIZATIONS
from ddpmlib.files import write_atomically
from ddpmlib.models import embedding, unet
from ddpmlib.models.unet import UNet
from ddpmlib.process.ddpm import DDPM
from ddpmlib.zoo import recipes
from ddpmlib.zoo.card import Card

# The 91 letters that need no escape in a JSON string, nor inside a page: the digits of a level.
LETTERS = "".join(letter for letter in map(chr, range(33, 127)) if letter not in '"<\\')
SMALL = 4096  # numbers of a matrix
BEGIN, END = "globalThis.DiffusionWeights = ", ";\n"
# What unet.js can run. Containers, and layers that do nothing once a network is trained, count too.
LAYERS = (
    UNet, unet.Block, unet.AdaGN, unet.SelfAttention, unet.Downsample, unet.Upsample,
    embedding.Embedding, nn.Conv2d, nn.Linear, nn.GroupNorm, nn.SiLU, nn.Embedding,
    nn.Sequential, nn.ModuleList, nn.Dropout, nn.Identity,
)  # fmt: skip


def export(model: nn.Module, card: Card) -> str:
    """The script for a model and its card, as :func:`ddpmlib.zoo.checkpoints.load` returns them.

    Nothing in it can end the comment, the string or the element that it stands in, whatever the
    card says.

    Raises:
        ValueError: for anything but a denoiser with a U-Net, a layer that the pages cannot run, or
            weights that are not finite.
    """
    if not isinstance(model, Denoiser):
        raise ValueError(f"{card.name} is a classifier: only a denoiser can draw in a page")
    _check_layers(model.net, card.name)
    recipe = recipes.to_dict(recipes.from_dict(card.recipe))  # with its defaults
    weights = {k: v.detach().cpu().float() for k, v in model.net.state_dict().items()}
    for where, tensor in weights.items():
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"{card.name} draws nothing: its weights {where} are not finite")
    settings = {
        "name": card.name,
        "sha256": card.sha256,
        "config": recipe["net"],
        "image_shape": card.image_shape,
    } | {key: recipe[key] for key in ("schedule", "T", "predicts", "var_mix")}
    comment = f"/* Written by `ddpmlib export-web {_harmless(card.name)}`. */\n"
    # A string of a script may also stand inside a page, where </script> would end the element.
    data = json.dumps(settings | _encoded(weights), allow_nan=False).replace("<", r"\u003c")
    return comment + BEGIN + data + END


def write(model: nn.Module, card: Card, path: Path) -> int:
    """Write :func:`export` to a ``.js`` file; returns its size in bytes.

    Raises:
        ValueError: as :func:`export`, or if ``path`` does not end in ``.js``.
    """
    if path.suffix != ".js" or path.is_dir():
        raise ValueError(f"--out names the script to write, for example weights.js, got {path}")
    content = export(model, card).encode()
    write_atomically(path, content)
    return len(content)


def read(path: Path) -> tuple[Denoiser, dict[str, Any]]:
    """The denoiser that a written script stands for, rounding included, and the settings in it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a script of :func:`write`.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no script {path}")
    text = path.read_text("utf-8", errors="replace")
    try:
        found = json.loads(text[text.index(BEGIN) + len(BEGIN) :].removesuffix(END))
        weights = _decoded(found)
        net = UNet(
            unet.UNetConfig(**_tuples(found["config"])), 2 if found["var_mix"] is None else 1
        )
        net.load_state_dict(weights)
        process = DDPM(recipes.SCHEDULES[found["schedule"]](found["T"]))
        denoiser = Denoiser(net, process, PARAMETERIZATIONS[found["predicts"]], found["var_mix"])
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"{path} is not a script that `ddpmlib export-web` wrote") from error
    return denoiser.eval().requires_grad_(False), found


def rounded(matrix: Tensor, letters: int = 1) -> tuple[Tensor, Tensor]:
    """Rows as a scale each and whole levels: the nearest of 91^letters evenly spaced numbers.

    Args:
        matrix: (R, ...) float.
        letters: those of a level, 1 or 2.

    Returns:
        scale (R,) float32 and levels (R, ...) int16, so that scale × level is off by at most half
        a scale; a row of zeros has scale 0.
    """
    rows = matrix.flatten(1)
    scale = rows.abs().amax(1) / _middle(letters)
    levels = (rows / scale.clamp_min(torch.finfo(scale.dtype).tiny)[:, None]).round()
    return scale, levels.to(torch.int16).reshape(matrix.shape)


def _middle(letters: int, base: int = len(LETTERS)) -> int:
    """The number of these digits that stands for level 0; the largest level, too."""
    return base**letters // 2


def _harmless(name: str) -> str:
    """A name for a comment: what is no letter, digit, '.', '_' or '-' becomes '?'."""
    return re.sub(r"[^A-Za-z0-9._-]", "?", name)


def _check_layers(net: nn.Module, name: str) -> None:
    if type(net) is not UNet:
        raise ValueError(f"{name} is a {type(net).__name__}: the pages can run a UNet only")
    for where, layer in net.named_modules():
        if type(layer) not in LAYERS:
            kind = type(layer).__name__
            raise ValueError(f"{name} has a layer {where} of kind {kind}, which unet.js cannot run")


def _encoded(weights: dict[str, Tensor]) -> dict[str, Any]:
    """Numbers in the order of ``tensors``: vectors and scales as floats, matrices as levels."""
    tensors, floats, levels = [], [], []
    for name, tensor in weights.items():
        letters = 0 if tensor.ndim < 2 else 2 if tensor.numel() <= SMALL else 1
        scale = tensor
        if letters:
            scale, level = rounded(tensor, letters)
            levels.append(_spelled(level, letters))
        floats.append(scale)
        tensors.append([name, list(tensor.shape), letters])
    return {
        "tensors": tensors,
        "floats": _base64(torch.cat(floats).numpy().astype("<f4")),
        "letters": LETTERS,
        "levels": "".join(levels),
    }


def _spelled(levels: Tensor, letters: int) -> str:
    """Each level as a number of so many digits, the first the largest."""
    base = len(LETTERS)
    codes = levels.flatten().long() + _middle(letters)
    digits = torch.stack([codes // base**k % base for k in reversed(range(letters))], 1)
    return "".join(LETTERS[digit] for digit in digits.flatten().tolist())


def _decoded(found: dict[str, Any]) -> dict[str, Tensor]:
    floats = _numbers(found["floats"], "<f4")
    value, base = {letter: k for k, letter in enumerate(found["letters"])}, len(found["letters"])
    digits = torch.tensor([value[letter] for letter in found["levels"]])
    weights, float_, digit = {}, 0, 0
    for name, shape, letters in found["tensors"]:
        rows, size = shape[0], int(np.prod(shape)) * letters
        own, float_ = floats[float_ : float_ + rows], float_ + rows
        if letters:
            codes = digits[digit : digit + size].reshape(-1, letters)
            level = codes @ base ** torch.arange(letters - 1, -1, -1) - _middle(letters, base)
            own, digit = (own[:, None] * level.reshape(rows, -1)).reshape(shape), digit + size
        weights[name] = own
    return weights


def _base64(numbers: np.ndarray[Any, Any]) -> str:
    return base64.b64encode(numbers.tobytes()).decode()


def _numbers(text: str, kind: str) -> Tensor:
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), kind).copy())


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
