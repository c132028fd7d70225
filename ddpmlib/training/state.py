"""The state of a run in one file: written in one go, and refused if it belongs to another run.

A state is plain data: tensors with dotted names (``model.…``, ``ema.…``, ``loss.…``,
``recent.…``, ``optimiser.…``), how many updates were done, and what was decided before the first
one. A SHA-256 of all of it is part of the header, so that damage is noticed wherever it is.

Formats 2 and 3 still load. They have no such digest, and do not know the losses since the last line
of the log, whose mean then begins anew. Since format 3 the random numbers of an update are derived
from (seed, update, piece) in another way than before: a run that a version of format 2 began goes
on with new numbers, and not to the bits that it would have reached there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ddpmlib.files import read_safetensors, write_safetensors
from ddpmlib.training.settings import TrainingDiverged

NAME, VERSION, OLDEST = "ddpmlib-training", 4, 2
DIGEST = RECENT = 4  # the first format with a digest, and with the losses since a line of the log
MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # what AdamW keeps for each weight


@dataclass(frozen=True)
class State:
    """What a file holds.

    Attributes:
        tensors: see :func:`collect`.
        step: updates done.
        updates: number of a weight → how often it was moved, where that is not ``step``: a weight
            that a batch does not reach has no gradient, and so no update.
        said: the rest of the header, from JSON: what was decided, and what else the run noted.
    """

    tensors: dict[str, Tensor]
    step: int
    updates: dict[int, int]
    said: dict[str, Any]


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
    weights = [weight for group in optimiser.param_groups for weight in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in _of(tensors, "optimiser").items():
        i, name = key.split(".", 1)
        if value.ndim:  # fused kernels take moments to lie in memory as their weights do
            value = torch.empty_like(weights[int(i)], dtype=value.dtype).copy_(value)
        state.setdefault(int(i), {})[name] = value
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": state, "param_groups": groups})


def _of(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    return {k.removeprefix(f"{part}."): v for k, v in tensors.items() if k.startswith(f"{part}.")}


# ---- the file ------------------------------------------------------------------------------------


def write(
    path: Path | str,
    tensors: Mapping[str, Tensor],
    step: int,
    said: Mapping[str, Any],
    updates: Mapping[int, int] | None = None,
) -> None:
    """Write a state (safetensors), replacing an older file in one go.

    Args:
        path, tensors, step: see :class:`State`.
        said: what must not change between a start and its resume, and what else is noted, as JSON
            values.
        updates: see :class:`State`; by default each weight was moved in each update.

    Raises:
        OSError: if the file cannot be written; the older one then stays as it was.
    """
    header = {"format": f"{NAME}-{VERSION}", "step": str(step)}
    header |= {key: json.dumps(value) for key, value in said.items()}
    header |= {"updates": json.dumps(updates)} if updates else {}
    write_safetensors(path, dict(tensors), header | {"sha256": digest(tensors, header)})


def digest(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> str:
    """SHA-256 of names, types, shapes and bits of the tensors, and of the header but its digest."""
    found = hashlib.sha256()
    words = sorted((k, v) for k, v in header.items() if k != "sha256")
    kinds = [(k, str(v.dtype), list(v.shape)) for k, v in sorted(tensors.items())]
    found.update(json.dumps([words, kinds]).encode())
    for _, value in sorted(tensors.items()):
        found.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


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


def read(path: Path | str) -> State:
    """What a file holds, if it is whole.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a training state, of a newer format, or damaged.
    """
    tensors, header = read_safetensors(path)
    version = _version(path, header.get("format", ""))
    if version >= DIGEST and header.get("sha256") != digest(tensors, header):
        raise ValueError(
            f"{path} is damaged: its SHA-256 is not the one that it was saved with; train again in "
            "another folder"
        )
    words = {key: word for key, word in header.items() if key not in ("format", "sha256")}
    try:
        step = int(words.pop("step"))
        said = {key: json.loads(word) for key, word in words.items()}
        updates = {int(i): n for i, n in said.pop("updates", {}).items()}
        if step < 0:
            raise ValueError(f"step {step} is negative")
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} has a damaged header ({error})") from error
    if version < RECENT:
        tensors |= {"recent.total": torch.zeros(()), "recent.count": torch.tensor(0)}
    return State(tensors, step, updates, said)


def check_same(path: Path | str, found: State, decided: Mapping[str, Any], steps: int) -> None:
    """Whether a state is of the same run.

    Args:
        path: what a message calls it.
        found: in the file.
        decided: what must be as there; beyond "settings", what either side does not say is not
            asked.
        steps: updates in all.

    Raises:
        ValueError: naming the first difference.
    """
    asked = {k: v for k, v in decided.items() if k in found.said or k == "settings"}
    _check_same(path, found.said, asked)
    if found.step > steps:
        raise ValueError(f"{path} has a damaged header (step {found.step} is not in 0..{steps})")


def _version(path: Path | str, found: str) -> int:
    name, _, version = found.rpartition("-")
    if name != NAME or not version.isdecimal() or int(version) < OLDEST:
        raise ValueError(f"{path} is not a training state of this library ({NAME}-{VERSION})")
    if int(version) > VERSION:
        raise ValueError(
            f"{path} is of format {version}, and this version of ddpmlib reads up to {VERSION}: "
            "update it, or start in another folder"
        )
    return int(version)


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
    found: State,
    modules: Mapping[str, nn.Module],
    shapes: Sequence[tuple[int, ...]],
    frozen: Collection[int] = (),
) -> None:
    """Whether the tensors of a file are those of these modules, all of them and no others.

    Args:
        path: what a message calls them.
        found: in the file; after the first update each weight has moments, from as many updates.
        modules: as in :func:`collect`.
        shapes: of the weights that the optimiser moves, in its order.
        frozen: numbers of those that are not trained, which need no moments.

    Raises:
        ValueError: if one is missing, too many, or of another shape or type.
    """
    there = {name for name in found.tensors if not name.startswith("optimiser.")}
    for part, module in modules.items():
        for name, value in module.state_dict().items():
            there.discard(f"{part}.{name}")
            _check_tensor(path, f"{part}.{name}", value, found.tensors.get(f"{part}.{name}"))
    if there:
        raise ValueError(f"{path} belongs to another network: here is no {min(there)}")
    moments = _of(found.tensors, "optimiser")
    _check_shapes(path, moments, shapes)
    updates = {i: found.updates.get(i, found.step) for i in range(len(shapes))}
    for i in frozen:
        updates[i] = int(moments.get(f"{i}.step", 0))
    _check_moments(path, moments, {i: n for i, n in updates.items() if n})


def _check_tensor(path: Path | str, name: str, ours: Tensor, theirs: Tensor | None) -> None:
    if theirs is None or theirs.shape != ours.shape or theirs.dtype != ours.dtype:
        found = "missing" if theirs is None else f"{tuple(theirs.shape)} {theirs.dtype}"
        raise ValueError(
            f"{path} belongs to another network: {name} is {tuple(ours.shape)} {ours.dtype} here "
            f"and {found} in the file"
        )


def _check_shapes(
    path: Path | str, moments: Mapping[str, Tensor], shapes: Sequence[tuple[int, ...]]
) -> None:
    for key, value in moments.items():
        index, _, name = key.partition(".")
        known = index.isdecimal() and int(index) < len(shapes)
        if not known or tuple(value.shape) != (() if name == "step" else shapes[int(index)]):
            raise ValueError(
                f"{path} belongs to another network: optimiser.{key} fits no weight here"
            )


def _check_moments(
    path: Path | str, moments: Mapping[str, Tensor], updates: Mapping[int, int]
) -> None:
    """Whether there are all moments of these weights and no others, from so many updates each."""
    if moments.keys() != {f"{i}.{name}" for i in updates for name in MOMENTS}:
        raise ValueError(f"{path} is damaged: the optimiser's moments are not all there")
    for i, n in updates.items():
        moved = float(moments[f"{i}.step"])
        if moved != n:
            raise ValueError(
                f"{path} is damaged: weight {i} was moved {moved:g} times and should have been {n}"
            )
