"""The card of a checkpoint: the JSON beside its weights."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ddpmlib.files import write_atomically

FORMAT = 2  # of the JSON; format 1 said the same without naming it
CARD_TYPES: dict[str, type] = {
    "name": str, "recipe": dict, "sha256": str, "training": dict, "metrics": list, "parts": int,
    "parameters": int, "dtype": str, "num_classes": int, "loss": list,
}  # fmt: skip
MOST_PARTS = 1000  # of weights; a damaged card may claim any number


@dataclass(frozen=True)
class Card:
    """What is known of a checkpoint; the JSON beside it, whose ``format`` comes first.

    Attributes:
        name: the checkpoint.
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
        parts: number of files that the weights lie in, see :func:`weights_files`.
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

    def write(self, path: Path) -> None:
        """Write as JSON of the newest format, in one go."""
        content = {"format": FORMAT} | asdict(self)
        write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())

    @staticmethod
    def read(path: Path) -> Card:
        """Read a card of any format so far.

        Raises:
            FileNotFoundError, ValueError: if it is missing, not a card, or of a newer format.
        """
        if not path.is_file():
            raise FileNotFoundError(f"there is no card {path}: a checkpoint needs its JSON file")
        values = _fields_of(path)
        try:
            card = Card(**values | {"image_shape": tuple(values["image_shape"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} is not a checkpoint card ({error})") from error
        for name, kind in CARD_TYPES.items():
            if not isinstance(getattr(card, name), kind):
                raise ValueError(f"{path} is not a checkpoint card ({name} is no {kind.__name__})")
        if not card.image_shape or not all(type(n) is int and n > 0 for n in card.image_shape):
            raise ValueError(f"{path} is not a checkpoint card (image_shape = {card.image_shape})")
        if card.num_classes < 0:
            raise ValueError(f"{path} is not a checkpoint card (num_classes = {card.num_classes})")
        if not 1 <= card.parts <= MOST_PARTS:
            raise ValueError(f"{path} is not a checkpoint card (parts = {card.parts})")
        return card


def _fields_of(path: Path) -> dict[str, Any]:
    """What a card of any format so far says, in the fields of the newest."""
    try:
        values = dict(json.loads(path.read_text("utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is not a checkpoint card ({error})") from error
    version = values.pop("format", 1)
    if type(version) is not int or version < 1:
        raise ValueError(f"{path} is not a checkpoint card (format = {version!r})")
    if version > FORMAT:
        raise ValueError(
            f"{path} is a card of format {version}, and this version of ddpmlib reads up to "
            f"{FORMAT}: update it"
        )
    if version == 1:  # that called the network whose features were taken the judge
        for entry in values.get("metrics", ()):
            if isinstance(entry, dict) and "judge" in entry:
                entry["extractor"] = entry.pop("judge")
    return values
