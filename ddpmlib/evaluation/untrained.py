"""Features that no labels made: principal components of pixels, and convolutions at random.

Beside the features of classifiers they are second opinions. Components of pixels see where light
and dark lie and hardly anything fine; random convolutions see fine texture and no classes. Both
are fitted to the training images of a data set, so that a distance has a unit.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from ddpmlib import data
from ddpmlib.data import Dataset
from ddpmlib.inputs import check_asked, check_floats

FITTED_ON = 10_000  # training images, at most


class PixelComponents(nn.Module):
    """The pixels by the principal components of training images.

    Images with sides above 32 pixels are first reduced to 32 by means over areas. There are 50
    components, or a tenth of the training images if those are fewer.

    Args:
        mean: of the training images, (D,).
        basis: directions of the largest variance, orthonormal columns, (D, K).
    """

    SIDE, MOST = 32, 50
    mean: Tensor
    basis: Tensor

    def __init__(self, mean: Tensor, basis: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("basis", basis)

    @classmethod
    def of(cls, images: Dataset) -> PixelComponents:
        """Fitted to (at most 10,000 random) training images of a data set."""
        x = cls.flat(_some(images)).double()
        mean = x.mean(0)
        centred = x - mean
        # Of a few large images the products of images are smaller than those of pixels.
        few = len(x) < x.shape[1]
        _, vectors = torch.linalg.eigh(centred @ centred.T if few else centred.T @ centred)
        count = max(1, min(cls.MOST, len(x) // 10, x.shape[1]))
        top = vectors[:, -count:].flip(1)
        basis = nn.functional.normalize(centred.T @ top, dim=0) if few else top
        return cls(mean.float(), basis.float()).eval()

    @classmethod
    def flat(cls, x: Tensor) -> Tensor:
        """Images (B, C, H, W) -> (B, C · H' · W') with sides of at most 32.

        Raises:
            ValueError: if ``x`` is no batch of floats, or holds no pixel.
        """
        _check_images(x)
        height, width = (min(cls.SIDE, side) for side in x.shape[2:])
        return nn.functional.adaptive_avg_pool2d(x, (height, width)).flatten(1)

    def features(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] -> (B, K).

        Raises:
            ValueError: if they are not of the shape of those it was fitted to.
        """
        check_asked(x, None, self.basis)
        flat = self.flat(x)
        if flat.shape[1] != len(self.mean):
            raise ValueError(
                f"expected images of {len(self.mean)} values, got {flat.shape[1]} of "
                f"{tuple(x.shape)}"
            )
        return (flat - self.mean) @ self.basis

    def head(self, h: Tensor) -> Tensor:
        """No classes, so no logits: (B, 0)."""
        return h[:, :0]


class RandomConvolutions(nn.Module):
    """What three layers of convolutions with random weights see, as means over the image.

    The weights are the same on every machine. Their 64 features are scaled so that their variances
    on training images add up to 64.

    Args:
        channels: of the images.
        scale: of the features.
    """

    WIDTH, SEED = 64, 0
    scale: Tensor

    def __init__(self, channels: int, scale: float = 1.0) -> None:
        super().__init__()
        self.channels = channels
        generator = torch.Generator().manual_seed(self.SEED)
        layers: list[nn.Module] = []
        for inp, out, stride in ((channels, 32, 1), (32, 64, 2), (64, self.WIDTH, 2)):
            conv = nn.Conv2d(inp, out, 3, stride, padding=1, padding_mode="replicate")
            with torch.no_grad():
                std = (2 / (9 * inp)) ** 0.5  # keeps the size of rectified signals
                conv.weight.copy_(std * torch.randn(conv.weight.shape, generator=generator))
                assert conv.bias is not None
                conv.bias.copy_(0.5 * torch.randn(conv.bias.shape, generator=generator))
            layers += [conv, nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.register_buffer("scale", torch.tensor(scale))

    @classmethod
    @torch.no_grad()
    def of(cls, images: Dataset) -> RandomConvolutions:
        """Scaled to (at most 10,000 random) training images of a data set."""
        found = cls(images.image_shape[0]).eval()
        h = torch.cat([found.features(x) for x in _some(images).split(500)]).double()
        total = float(h.var(0).sum())
        return cls(images.image_shape[0], (cls.WIDTH / max(total, 1e-12)) ** 0.5).eval()

    def features(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] -> (B, 64).

        Raises:
            ValueError: if ``x`` is no batch of floats of so many channels.
        """
        _check_images(x)
        check_asked(x, None, self.scale)
        if x.shape[1] != self.channels:
            raise ValueError(f"expected {self.channels} channels, got {tuple(x.shape)}")
        return self.layers(x).mean((2, 3)) * self.scale

    def head(self, h: Tensor) -> Tensor:
        """No classes, so no logits: (B, 0)."""
        return h[:, :0]


def _check_images(x: Tensor) -> None:
    check_floats(x, "x")
    if x.ndim != 4 or not x[:1].numel():
        raise ValueError(f"expected images (B, C, H, W), got {tuple(x.shape)}")


def identity(kind: type[nn.Module], images: Dataset) -> str:
    """SHA-256 that tells such features of such data from all others, in place of a file's."""
    return hashlib.sha256(f"{kind.__name__} of {images.fingerprint}".encode()).hexdigest()


def _some(images: Dataset) -> Tensor:
    """Random training images as floats in [-1, 1]: all of them, or 10,000."""
    order = torch.randperm(len(images.x_train), generator=torch.Generator().manual_seed(0))
    return data.to_float(images.x_train[order[:FITTED_ON]])
