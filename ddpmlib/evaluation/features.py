"""Where features come from: classifiers of a data set, Inception for colour images, or no training.

What a training set looks like in these features is computed once and shipped: ``ddpmlib statistics
mnist`` writes ``data/statistics/mnist.safetensors`` with a JSON file beside it. Statistics belong
to the exact weights that made them, and are refused for any others.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ddpmlib import data
from ddpmlib.evaluation.metrics import Moments
from ddpmlib.evaluation.untrained import PixelComponents, RandomConvolutions
from ddpmlib.inputs import as_images
from ddpmlib.models.classifier import Classifier
from ddpmlib.training import parallel

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
INCEPTION_SOURCE = "github.com/toshas/torch-fidelity, release v0.2.0"


class Inception(nn.Module):
    """Inception-v3 of 2015-12-05, the network behind FID, with the manners of a classifier.

    Images become uint8 as they would in a file, then ``torch-fidelity``'s extractor resizes them to
    299 × 299 and scales them just as the original TensorFlow graph did. Grey images are refused:
    three equal channels would pass, but the features know nothing of digits or shoes, and a number
    under the name of FID would be compared with others. Use the classifier of their data set.

    Args:
        extractor: ``FeatureExtractorInceptionV3`` for the feature list ["2048"].
    """

    def __init__(self, extractor: Any) -> None:
        super().__init__()
        self.extractor = extractor

    def features(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] -> pool3 features (B, 2048).

        Raises:
            ValueError: if the images have no three channels.
        """
        if x.ndim != 4 or x.shape[1] != 3:
            raise ValueError(
                f"Inception is for colour images (B, 3, H, W), got {tuple(x.shape)}: measure grey "
                "ones by the classifier of their data set"
            )
        (found,) = self.extractor(data.to_uint8(x.float()))
        return found

    def head(self, h: Tensor) -> Tensor:
        """Features -> logits (B, 1008) without bias, those of the Inception Score."""
        return h @ self.extractor.fc.weight.T


FeatureExtractor = Classifier | Inception | PixelComponents | RandomConvolutions


def inception(path: Path | str | None = None) -> Inception:
    """The Inception network with its 2015 weights, in evaluation mode on the CPU.

    Nothing is ever downloaded. The file is looked for in the data directory (``$DDPMLIB_DATA``,
    else ``~/.cache/ddpmlib``), then in PyTorch's cache, and must have the known SHA-256: it is an
    old pickle, which must not be read before.

    Args:
        path: the file of weights, if it lies elsewhere.

    Raises:
        FileNotFoundError: saying where to get the weights and where to put them.
        ImportError: if ``torch-fidelity`` is not installed.
        ValueError: if the file is another one.
    """
    path = _inception_weights() if path is None else Path(path)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != INCEPTION_SHA256:
        raise ValueError(
            f"{path} is damaged or another file: its SHA-256 is {found[:12]}..., that of "
            f"{INCEPTION_FILE} is {INCEPTION_SHA256[:12]}..."
        )
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise ImportError(
            "Inception features need torch-fidelity: pip install 'ddpmlib[inception]'"
        ) from error
    extractor = FeatureExtractorInceptionV3(
        "inception-2015-12-05", ["2048"], feature_extractor_weights_path=str(path)
    )
    return Inception(extractor).eval().requires_grad_(False)


def has_inception() -> bool:
    """Whether :func:`inception` would find its weights, and what reads them."""
    from importlib.util import find_spec

    return _inception_file() is not None and find_spec("torch_fidelity") is not None


def _inception_file() -> Path | None:
    from torch.hub import get_dir

    folders = data.directory(), Path(get_dir()) / "checkpoints"
    found = [folder / INCEPTION_FILE for folder in folders if (folder / INCEPTION_FILE).is_file()]
    return found[0] if found else None


def _inception_weights() -> Path:
    found = _inception_file()
    if found is None:
        raise FileNotFoundError(
            f"the weights of Inception are not here, and nothing is downloaded unasked: get "
            f"{INCEPTION_FILE} (91 MiB) from {INCEPTION_SOURCE}, and put it into "
            f"{data.directory()}"
        )
    return found


@torch.no_grad()
def extract(
    classifier: FeatureExtractor, x: Tensor, batch_size: int = 500
) -> tuple[Tensor, Tensor]:
    """Features and logits of images, batch by batch, which several processes share.

    Args:
        classifier: in evaluation mode.
        x: (N, C, H, W), uint8 0..255 or float in [-1, 1], tensor or array; clipped to the range of
            images.
        batch_size: images per pass.

    Returns:
        features (N, F) and logits (N, K), on the CPU.
    """
    x, found = as_images(x), []
    if not x.ndim or not len(x):
        raise ValueError("there are no images to take the features of")
    for _, part in parallel.own(x.split(batch_size)):
        h = _features(classifier, part)
        found.append((h.cpu(), classifier.head(h).cpu()))
    features, logits = zip(*parallel.collected(found), strict=True)
    return torch.cat(features), torch.cat(logits)


@torch.no_grad()
def moments(classifier: FeatureExtractor, x: Tensor, batch_size: int = 500) -> Moments:
    """Mean and covariance of the features of images, which are never all held in memory.

    Several processes share the images; their moments are merged exactly, up to rounding.

    Args:
        classifier, x, batch_size: as for :func:`extract`; a progress bar shows long work.
    """
    from tqdm import tqdm

    x = as_images(x)
    if not x.ndim or not len(x):
        raise ValueError("there are no images to take the moments of")
    own = [part for _, part in parallel.own(x.split(batch_size))]
    quiet = None if parallel.is_main() else True
    found: list[Moments] = []
    for part in tqdm(own, unit="batch", desc="features", disable=quiet, delay=3):
        h = _features(classifier, part)
        found = [(found[0] if found else Moments(h.shape[1])).update(h)]
    first, *others = parallel.collected(found)
    for other in others:
        first.merge(other)
    return first


def _features(classifier: FeatureExtractor, x: Tensor) -> Tensor:
    device = next(iter(classifier.state_dict().values())).device
    x = data.to_float(x) if x.dtype == torch.uint8 else x.clamp(-1, 1)
    return classifier.features(x.to(device))
