"""The card of a checkpoint: the JSON beside its weights."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ddpmlib.files import read_json, write_atomically
from ddpmlib.models.embedding import MOST_CLASSES
from ddpmlib.records import check_plain_name, fits

FORMAT = 3  # of the JSON; format 2 had no digest, and format 1 said the same without naming it
CARD_TYPES: dict[str, type] = {
    "name": str, "recipe": dict, "sha256": str, "training": dict, "metrics": list, "parts": int,
    "parameters": int, "dtype": str, "num_classes": int, "loss": list,
}  # fmt: skip
MOST_PARTS = 1000  # of weights; a damaged card may claim any number
MOST_PIXELS = 2**16  # of a side of an image


@dataclass(frozen=True)
class Card:
    """What is known of a checkpoint; the JSON beside it, whose ``format`` comes first.

    Attributes:
        name: the checkpoint, see :func:`ddpmlib.records.check_plain_name`.
        recipe: how it was made, see :func:`ddpmlib.zoo.recipes.to_dict`.
        sha256: of the weights' file, or of its parts joined.
        parameters: number of weights.
        dtype: of the weights in the file; models are loaded as float32.
        image_shape: (C, H, W).
        num_classes: labels are 0..num_classes−1; 0 for a denoiser that knows no classes.
        training: command, commit, hardware, torch version, seconds, images seen; the data's
            ``data_fingerprint`` and the names of its ``classes``, which older cards lack.
        loss: pairs (step, mean loss since the last pair).
        metrics: measurements, each with its sample size.
        parts: number of files that the weights lie in, see
            :func:`ddpmlib.zoo.weights.weights_files`.
    """

    name: str
    recipe: dict[str, Any]
    sha256: str
    parameters: int
    dtype: str
    image_shape: tuple[int, ...]
    num_classes: int
    training: dict[str, Any]
    loss: list[tuple[int, float]] = field(default_factory=list)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    parts: int = 1

    @property
    def digest(self) -> str:
        """SHA-256 of all that says what the weights mean, and so which samples they draw.

        That is the recipe (T, schedule, what is predicted, the net), ``image_shape`` and
        ``num_classes``. The card bears it, so that an edit is noticed, and so does the header of
        the weights, so that a card which was edited with its digest is noticed too. The name, the
        measurements and the way the weights are stored may change.
        """
        shape = list(self.image_shape)
        meant = {"recipe": self.recipe, "image_shape": shape, "num_classes": self.num_classes}
        return hashlib.sha256(json.dumps(meant, sort_keys=True).encode()).hexdigest()

    def write(self, path: Path) -> None:
        """Write as JSON of the newest format, in one go."""
        content = {"format": FORMAT, "digest": self.digest} | asdict(self)
        write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())

    @staticmethod
    def read(path: Path) -> Card:
        """Read a card of any format so far.

        Raises:
            FileNotFoundError, ValueError: if it is missing, not a card, of a newer format, or not
                as it was written: its digest is another.
        """
        if not path.is_file():
            raise FileNotFoundError(f"there is no card {path}: a checkpoint needs its JSON file")
        values, digest = _fields_of(path)
        try:
            card = Card(**values | {"image_shape": tuple(values["image_shape"])})
            _check_values(card)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a checkpoint card ({error})") from error
        if digest not in (None, card.digest):
            raise ValueError(
                f"{path} was changed after it was written: its digest is not that of its recipe, "
                "image_shape and num_classes; fetch it again, or train the model again"
            )
        return card


def _check_values(card: Card) -> None:
    """Whether each field holds what it should."""
    for name, kind in CARD_TYPES.items():
        value = getattr(card, name)
        if not (isinstance(value, kind) if kind in (dict, list) else fits(value, kind)):
            raise ValueError(f"{name} is no {kind.__name__}")
    check_plain_name("checkpoint", card.name)
    for key, what in (("name", "recipe"), ("data", "data set")):
        if card.recipe.get(key, "") != "":  # what was saved without a recipe may be of no data
            check_plain_name(what, card.recipe[key])
    if not re.fullmatch("[0-9a-f]{64}", card.sha256):
        raise ValueError(f"sha256 = {card.sha256!r:.80}")
    shape = card.image_shape
    if not 1 <= len(shape) <= 5 or not all(type(n) is int and 0 < n <= MOST_PIXELS for n in shape):
        raise ValueError(f"image_shape = {shape!r:.80}")
    for name, least, most in (
        ("num_classes", 0, MOST_CLASSES),
        ("parts", 1, MOST_PARTS),
        ("parameters", 0, 2**50),
    ):
        if not least <= getattr(card, name) <= most:
            raise ValueError(f"{name} = {getattr(card, name)}")
    if not all(map(_is_point, card.loss)) or not all(isinstance(m, dict) for m in card.metrics):
        raise ValueError("loss holds pairs of numbers, metrics JSON objects")


def _is_point(pair: Any) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and all(fits(n, float) for n in pair)


def _fields_of(path: Path) -> tuple[dict[str, Any], str | None]:
    """What a card of any format so far says, in the fields of the newest, and its digest if any."""
    try:
        values = read_json(path)
    except ValueError as error:
        raise ValueError(f"{path} is not a checkpoint card ({error})") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} is not a checkpoint card (no JSON object)")
    version = values.pop("format", 1)
    if type(version) is not int or version < 1:
        raise ValueError(f"{path} is not a checkpoint card (format = {version!r:.80})")
    if version > FORMAT:
        raise ValueError(
            f"{path} is a card of format {version!r:.80}, and this version of ddpmlib reads up to "
            f"{FORMAT}: update it"
        )
    if version == 1:  # that called the network whose features were taken the judge
        metrics = values.get("metrics")
        for entry in metrics if isinstance(metrics, list) else ():
            if isinstance(entry, dict) and "judge" in entry:
                entry["extractor"] = entry.pop("judge")
    return values, str(values.pop("digest", "missing")) if version >= 3 else None
