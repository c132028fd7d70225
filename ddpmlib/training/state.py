"""The state of a run in one file: written in one go, and refused if it belongs to another run.

A state is plain data: tensors with dotted names (``model.…``, ``ema.…``, ``loss.…``,
``optimiser.…``), how many updates were done, and what was decided before the first one. Format 3
says the same as format 2, which still loads; but the random numbers of an update are derived from
(seed, update, piece) in another way since. So a run that an older version began goes on, with new
numbers from there on, and not to the bits that the older version would have reached.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from ddpmlib.files import read_safetensors, write_safetensors
from ddpmlib.training.settings import TrainingDiverged

NAME, VERSION, OLDEST = "ddpmlib-training", 3, 2
MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # what AdamW keeps for each weight


# ---- what a run holds, as tensors with names, and back -------------------------------------------


def collect(modules: Mapping[str, nn.Module], optimiser: Optimizer) -> dict[str, Tensor]:
    """All that changes while training, on the CPU; what lies there already is not copied."""
    tensors = {
        f"{part}.{name}": value
        for part, module in modules.items()
        for name, value in module.state_dict().items()
    }
    for i, moments in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{i}.{name}": value for name, value in moments.items()}
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def restore(
    tensors: Mapping[str, Tensor], modules: Mapping[str, nn.Module], optimiser: Optimizer
) -> None:
    """The way back from :func:`collect`, by copying."""
    for part, module in modules.items():
        module.load_state_dict(_of(tensors, part))
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in _of(tensors, "optimiser").items():
        i, name = key.split(".", 1)
        state.setdefault(int(i), {})[name] = value
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": state, "param_groups": groups})


def _of(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    return {k.removeprefix(f"{part}."): v for k, v in tensors.items() if k.startswith(f"{part}.")}


# ---- the file ------------------------------------------------------------------------------------


def write(
    path: Path | str, tensors: Mapping[str, Tensor], step: int, decided: Mapping[str, Any]
) -> None:
    """Write a state (safetensors), replacing an older file in one go.

    Args:
        path: the file.
        tensors: see :func:`collect`.
        step: updates done.
        decided: what must not change between a start and its resume, as JSON values.

    Raises:
        OSError: if the file cannot be written; the older one then stays as it was.
    """
    header = {"format": f"{NAME}-{VERSION}", "step": str(step)}
    header |= {key: json.dumps(value) for key, value in decided.items()}
    write_safetensors(path, dict(tensors), header)


def check_finite(tensors: Mapping[str, Tensor], step: int) -> None:
    """Whether a state may be saved.

    Raises:
        TrainingDiverged: if a tensor is not finite, naming it.
    """
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise TrainingDiverged(
                f"{name} is not finite after step {step}; nothing was saved. Lower the "
                "learning rate or warm up for longer."
            )


def read(path: Path | str, decided: Mapping[str, Any], steps: int) -> tuple[dict[str, Tensor], int]:
    """The tensors of a state of the same run, and how many updates it has behind it.

    Args:
        path: the file.
        decided: as in :func:`write`; beyond "settings", what either side does not say is not asked.
        steps: updates in all.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not such a file, of a newer format, damaged, or of another run.
    """
    tensors, header = read_safetensors(path)
    _check_format(path, header.get("format", ""))
    try:
        step = int(header["step"])
        theirs = {key: json.loads(header[key]) for key in decided if key in header}
        if not 0 <= step <= steps:
            raise ValueError(f"step {step} is not in 0..{steps}")
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path} has a damaged header ({error})") from error
    _check_same(path, theirs, {k: v for k, v in decided.items() if k in theirs or k == "settings"})
    return tensors, step


def _check_format(path: Path | str, found: str) -> None:
    name, _, version = found.rpartition("-")
    if name != NAME or not version.isdecimal() or int(version) < OLDEST:
        raise ValueError(f"{path} is not a training state of this library ({NAME}-{VERSION})")
    if int(version) > VERSION:
        raise ValueError(
            f"{path} is of format {version}, and this version of ddpmlib reads up to {VERSION}: "
            "update it, or start in another folder"
        )


def _check_same(path: Path | str, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    for name, value in ours.items():
        found = theirs.get(name)
        if isinstance(found, dict) and isinstance(value, dict):
            _check_same(path, found, value)
        elif found != value and name == "data_fingerprint":
            raise ValueError(
                f"{path} was trained on other data (SHA-256 {found!s:.12}... there, "
                f"{value!s:.12}... here): resume with the same images, or start in another folder"
            )
        elif found != value:
            same = "images" if name == "samples" else "settings"
            raise ValueError(
                f"{path} was trained with {name} = {found}, not {value}: resume with the same "
                f"{same}, or start in another folder"
            )


# ---- whether it fits -----------------------------------------------------------------------------


def check_fits(
    path: Path | str,
    tensors: Mapping[str, Tensor],
    step: int,
    modules: Mapping[str, nn.Module],
    shapes: Sequence[tuple[int, ...]],
) -> None:
    """Whether the tensors of a file are those of these modules, all of them and no others.

    Args:
        path: what a message calls them.
        tensors: of the file.
        step: updates done; after the first one the optimiser has moments.
        modules: as in :func:`collect`.
        shapes: of the weights that the optimiser moves, in its order.

    Raises:
        ValueError: if one is missing, too many, or of another shape or type.
    """
    parts = tuple(f"{part}." for part in modules)
    there = {name for name in tensors if name.startswith(parts)}
    for part, module in modules.items():
        for name, value in module.state_dict().items():
            there.discard(f"{part}.{name}")
            _check_tensor(path, f"{part}.{name}", value, tensors.get(f"{part}.{name}"))
    if there:
        raise ValueError(f"{path} belongs to another network: here is no {min(there)}")
    _check_moments(path, _of(tensors, "optimiser"), step, shapes)


def _check_tensor(path: Path | str, name: str, ours: Tensor, theirs: Tensor | None) -> None:
    if theirs is None or theirs.shape != ours.shape or theirs.dtype != ours.dtype:
        found = "missing" if theirs is None else f"{tuple(theirs.shape)} {theirs.dtype}"
        raise ValueError(
            f"{path} belongs to another network: {name} is {tuple(ours.shape)} {ours.dtype} here "
            f"and {found} in the file"
        )


def _check_moments(
    path: Path | str, moments: dict[str, Tensor], step: int, shapes: Sequence[tuple[int, ...]]
) -> None:
    for key, value in moments.items():
        index, _, name = key.partition(".")
        known = index.isdecimal() and int(index) < len(shapes)
        if not known or tuple(value.shape) != (() if name == "step" else shapes[int(index)]):
            raise ValueError(
                f"{path} belongs to another network: optimiser.{key} fits no weight here"
            )
    whole = {f"{key.partition('.')[0]}.{name}" for key in moments for name in MOMENTS}
    if moments.keys() != whole or (step > 0 and not moments):
        raise ValueError(f"{path} is damaged: the optimiser's moments are not all there")
