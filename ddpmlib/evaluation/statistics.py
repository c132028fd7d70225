"""What a training set looks like in a network's features: mean and covariance, which ship."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ddpmlib import data, files
from ddpmlib.evaluation.features import FeatureExtractor, moments
from ddpmlib.evaluation.metrics import Moments
from ddpmlib.files import read_safetensors, write_atomically, write_safetensors

KINDS = ("classifier", "independent", "robust", "inception")
"""Whose statistics are worth a file: those of networks that are slow or need a file themselves."""


class OtherWeights(ValueError):
    """Statistics that were made with other weights than those at hand."""


class OtherData(ValueError):
    """Statistics of other data of this name than those at hand."""


# ---- statistics that ship ----------------------------------------------------------------------


@dataclass(frozen=True)
class Statistics:
    """What a data set looks like in the features of one network.

    Attributes:
        data: name of the data set.
        weights: :func:`fingerprint` of the network.
        data_fingerprint: which data, see :attr:`ddpmlib.data.sets.Dataset.fingerprint`.
        train, test: moments of the whole training and test set, float64.
    """

    data: str
    weights: str
    data_fingerprint: str
    train: Moments
    test: Moments


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of a network's weights as they are in memory, whatever device they are on."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def statistics_path(name: str, kind: str = "classifier") -> Path:
    """Where the statistics of a data set lie: in an installed package, else in the clone's data.

    Args:
        name: of the data set.
        kind: one of :data:`KINDS`.
    """
    suffix = "" if kind == "classifier" else f"-{kind}"
    return files.data_folder("statistics") / f"{name}{suffix}.safetensors"


def compute_statistics(classifier: FeatureExtractor, images: data.Dataset) -> Statistics:
    """The statistics of a data set, from all of its images."""
    train, test = moments(classifier, images.x_train), moments(classifier, images.x_test)
    return Statistics(images.name, fingerprint(classifier), images.fingerprint, train, test)


def write_statistics(found: Statistics, path: Path, sha256: str) -> None:
    """Write statistics and, beside them, a JSON file that says what made them.

    Args:
        found: see :func:`compute_statistics`.
        path: a .safetensors file, see :func:`statistics_path`.
        sha256: of the network's file of weights.
    """
    parts = {"train": found.train, "test": found.test}
    tensors = {f"{k}.mean": m.mean for k, m in parts.items()}
    tensors |= {f"{k}.cov": m.cov for k, m in parts.items()}
    write_safetensors(path, tensors, {"data": found.data})
    facts = {
        "data": found.data,
        "features": len(found.train.mean),
        "train": found.train.n,
        "test": found.test.n,
        "data_fingerprint": found.data_fingerprint,
        "classifier": sha256,
        "weights": found.weights,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    write_atomically(path.with_suffix(".json"), (json.dumps(facts, indent=1) + "\n").encode())


def statistics(
    name: str,
    classifier: FeatureExtractor,
    data_fingerprint: str | None = None,
    kind: str = "classifier",
) -> Statistics:
    """The shipped statistics of a data set in the features of ``classifier``.

    Args:
        name: of the data set.
        classifier: whose features.
        data_fingerprint: of the data that are to be described; None if the name is enough.
        kind: one of :data:`KINDS`.

    Raises:
        FileNotFoundError: if none are shipped.
        OtherWeights: if they were made with other weights.
        OtherData: if they describe other data, or do not say which.
        ValueError: if a file is damaged.
    """
    path = statistics_path(name, kind)
    option = "" if kind == "classifier" else f" --features {kind}"
    hint = f"`ddpmlib statistics {name}{option}` writes them"
    if not path.is_file() or not path.with_suffix(".json").is_file():
        raise FileNotFoundError(f"there are no statistics {path} with their JSON file: {hint}")
    try:
        facts = json.loads(path.with_suffix(".json").read_text("utf-8"))
        counts, weights, sha256 = (facts["train"], facts["test"]), facts["weights"], facts["sha256"]
        theirs = str(facts.get("data_fingerprint", ""))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path.with_suffix('.json')} describes no statistics: {hint}") from error
    if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
        raise ValueError(f"{path} is damaged, its SHA-256 is not that of its JSON file: {hint}")
    if weights != fingerprint(classifier):
        raise OtherWeights(f"{path} was made with another classifier than the one given: {hint}")
    if data_fingerprint not in (None, theirs):
        raise OtherData(f"{path} describes other data of this name than those at hand: {hint}")
    tensors, _ = read_safetensors(path)
    train, test = (
        Moments.known(n, tensors[f"{part}.mean"], tensors[f"{part}.cov"])
        for n, part in zip(counts, ("train", "test"), strict=True)
    )
    return Statistics(name, weights, theirs, train, test)


def train_moments(classifier: FeatureExtractor, images: data.Dataset) -> Moments:
    """The moments of a training set: shipped ones if some fit, else from all its images."""
    for kind in KINDS:
        try:
            return statistics(images.name, classifier, images.fingerprint, kind).train
        except (FileNotFoundError, OtherWeights, OtherData):
            continue
    return moments(classifier, images.x_train)
