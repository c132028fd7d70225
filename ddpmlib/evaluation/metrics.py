"""How good samples are: pure functions of features or of class logits.

A number of this module means something only together with what made it: say which features, how
many samples, and what real images reach on the same features and counts.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ddpmlib.condition import as_condition
from ddpmlib.equations import equation
from ddpmlib.inputs import as_floats, as_images, as_tensor, as_values, check_readable, check_whole

EPS = torch.finfo(torch.float64).eps
LARGEST = 1e70


class Score(NamedTuple):
    """A mean over parts of the samples, and the standard deviation of the parts."""

    mean: float
    std: float


class Saturation(NamedTuple):
    """Shares of pixels, in [0, 1]."""

    saturated: float
    out_of_range: float


class Moments:
    """Mean and covariance of features that arrive in any number of parts, in float64.

    Parts are merged by the rule of Chan, Golub & LeVeque (1983), which never subtracts large sums
    from each other: the result is that of all features at once, up to rounding.

    Attributes:
        n: samples seen.
        mean: (D,).
        cov: (D, D), divided by n − 1.
    """

    def __init__(self, dim: int) -> None:
        if dim < 1:
            raise ValueError(f"features have at least one dimension, got {dim}")
        self.n = 0
        self.mean = torch.zeros(dim, dtype=torch.float64)
        self._scatter = torch.zeros(dim, dim, dtype=torch.float64)
        self._root: Tensor | None = None

    @classmethod
    def of(cls, features: Tensor) -> Moments:
        """The moments of features (N, D)."""
        features = _as_features(features)
        return cls(features.shape[1]).update(features)

    @classmethod
    def known(cls, n: int, mean: Tensor, cov: Tensor) -> Moments:
        """Moments that were computed before: of ``n`` samples, with mean (D,) and cov (D, D).

        Raises:
            ValueError: for other shapes, or if ``cov`` is no covariance: not symmetric, or with a
                negative eigenvalue.
        """
        check_whole("n", n)
        mean, cov = _as_finite("a mean", mean), _as_finite("a covariance", cov)
        if n < 2 or mean.ndim != 1 or not len(mean) or cov.shape != (len(mean), len(mean)):
            raise ValueError(
                f"need n >= 2, a mean (D,) and a covariance (D, D), got n = {n}, "
                f"{tuple(mean.shape)} and {tuple(cov.shape)}"
            )
        mean, cov = _exact(mean), _exact(cov)
        if not torch.allclose(cov, cov.T) or not _has_no_negative_eigenvalue(cov):
            raise ValueError("a covariance is symmetric and has no negative variance or eigenvalue")
        moments = cls(len(mean))
        moments.n, moments.mean = n, mean.clone()
        moments._scatter = cov * (n - 1)
        return moments

    def update(self, features: Tensor) -> Moments:
        """Take in more features (N, D), N ≥ 0; returns itself.

        Raises:
            ValueError: for another D, or features that are not finite.
        """
        features = _as_features(features, len(self.mean))
        if len(features):
            x = _exact(features)
            mean = x.mean(0)
            centred = x - mean
            self._absorb(len(x), mean, centred.T @ centred)
        return self

    def merge(self, other: Moments) -> Moments:
        """Take in what another accumulator has seen; returns itself."""
        if other.mean.shape != self.mean.shape:
            raise ValueError(
                f"cannot merge moments of {len(self.mean)} and of {len(other.mean)} features"
            )
        if other.n:
            self._absorb(other.n, other.mean, other._scatter)
        return self

    def _absorb(self, n: int, mean: Tensor, scatter: Tensor) -> None:
        total, step = self.n + n, mean - self.mean
        self._scatter = self._scatter + scatter + torch.outer(step, step) * (self.n * n / total)
        self.mean = self.mean + step * (n / total)
        self.n, self._root = total, None

    @property
    def cov(self) -> Tensor:
        if self.n < 2:
            raise ValueError(f"a covariance needs at least 2 samples, got {self.n}")
        return self._scatter / (self.n - 1)

    def root(self) -> Tensor:
        """F (D, rank) with F Fᵀ = cov; kept, so that one set can be compared with many."""
        if self._root is None:
            values, vectors = torch.linalg.eigh(self.cov)
            # Directions without variance are left out: their eigenvalues are rounding errors,
            # which a square root would blow up.
            kept = values > len(values) * EPS * values[-1].clamp(min=0)
            self._root = vectors[:, kept] * values[kept].sqrt()
        return self._root


@equation("8.5")
def frechet_distance(a: Tensor | Moments, b: Tensor | Moments) -> float:
    """Squared Fréchet distance between the Gaussians fitted to two feature sets.

    |m_a − m_b|² + tr(C_a + C_b − 2 (C_a^½ C_b C_a^½)^½), the formula of FID (Heusel et al. 2017;
    Dowson & Landau 1982), in float64. With C_a = F Fᵀ from a symmetric eigen-decomposition the
    last trace is that of (Fᵀ C_b F)^½: no complex square root, and rank-deficient covariances need
    no care. Whatever the features, too few samples make the distance too large.

    Args:
        a, b: features (N, D) and (M, D), N, M ≥ 2, or their :class:`Moments`.

    Returns:
        the distance, ≥ 0, in squared units of the features.

    Raises:
        ValueError: if shapes differ in D, a set has fewer than two rows or is not finite.
    """
    a, b = _as_moments(a, b)
    # Of two sets the one whose root is known (or both are new: the first) is decomposed.
    if a._root is None and b._root is not None:
        a, b = b, a
    root = a.root()
    inner = root.T @ b.cov @ root
    cross = torch.linalg.eigvalsh((inner + inner.T) / 2).clamp(min=0).sqrt().sum()
    value = ((a.mean - b.mean) ** 2).sum() + a.cov.trace() + b.cov.trace() - 2 * cross
    return max(0.0, float(value))


@equation("8.8")
def inception_score(logits: Tensor, splits: int = 10) -> Score:
    """exp E KL(p(y|x) ‖ p(y)), from 1 to K (Salimans et al. 2016).

    High where each sample is of a clear class and all classes occur equally often. It never looks
    at real images, and one perfect image of each class would do.

    Args:
        logits: (N, K), in an order that mixes the classes: each split is a run of rows.
        splits: the score is the mean over so many equal parts (Score.std: their deviation,
            divided by the number of parts as in the original); 1 for the score of all.

    Raises:
        ValueError: if there are fewer rows than splits, or a logit is not finite.
    """
    logits = _as_finite("logits", logits)
    if logits.ndim != 2 or not logits.shape[1] or not 1 <= splits <= len(logits):
        raise ValueError(
            f"need logits (N, K) and 1 <= splits <= N, got {tuple(logits.shape)} and {splits}"
        )
    log_p = torch.log_softmax(_exact(logits), 1)
    scores = []
    for i in range(splits):
        part = log_p[i * len(log_p) // splits : (i + 1) * len(log_p) // splits]
        log_marginal = part.logsumexp(0) - torch.tensor(len(part), dtype=part.dtype).log()
        scores.append((part.exp() * (part - log_marginal)).sum(1).mean().exp())
    return _score(torch.stack(scores))


@equation("8.12")
def kid(
    a: Tensor,
    b: Tensor,
    *,
    subsets: int = 100,
    size: int = 1000,
    generator: torch.Generator | None = None,
) -> Score:
    """Squared maximum mean discrepancy with the kernel (x·y / D + 1)³ (Bińkowski et al. 2018).

    Unbiased at every sample size, so it can be negative; it needs no Gaussian fit.

    Args:
        a, b: features (N, D) and (M, D).
        subsets: the result is the mean (and the deviation) over so many pairs of random subsets.
        size: samples of each subset, drawn without repetition; 2 ≤ size ≤ N, M.
        generator: draws the subsets, by default the global one.

    Raises:
        ValueError: if shapes differ in D, a set is smaller than ``size``, or is not finite.
    """
    a, b = _as_pair(a, b)
    if subsets < 1 or not 2 <= size <= min(len(a), len(b)):
        raise ValueError(
            f"{subsets} subsets of {size} need subsets >= 1 and 2 <= size <= {min(len(a), len(b))},"
            " the size of the smaller set"
        )
    a, b = _exact(a), _exact(b)
    values = []
    for _ in range(subsets):
        x = a[torch.randperm(len(a), generator=generator)[:size]]
        y = b[torch.randperm(len(b), generator=generator)[:size]]
        values.append(_mmd2(x, y))
    return _score(torch.stack(values))


@equation("8.13")
def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> tuple[float, float]:
    """Share of fakes within the real set's manifold, and of reals within the fakes' manifold.

    The manifold of a set is the union of balls around its points, each as wide as the distance to
    the point's k-th nearest neighbour in the set (Kynkäänniemi et al. 2019). Precision falls with
    bad samples, recall with missing ones. Distances are formed in chunks of rows, so memory stays
    small for any number of samples.

    Args:
        real, fake: features (N, D) and (M, D), best of equal numbers.
        k: neighbours, 1 ≤ k < N, M.

    Returns:
        (precision, recall), each in [0, 1].

    Raises:
        ValueError: if shapes differ in D, a set has no k neighbours, or is not finite.
    """
    real, fake = _as_pair(real, fake)
    if not 1 <= k < min(len(real), len(fake)):
        raise ValueError(
            f"k must lie in 1..{min(len(real), len(fake)) - 1} for sets of {len(real)} and "
            f"{len(fake)}, got {k}"
        )
    centre = _exact(real).mean(0)  # distances stay, and cancel less
    real, fake = _exact(real) - centre, _exact(fake) - centre
    return _covered(fake, real, _radii(real, k)), _covered(real, fake, _radii(fake, k))


def density_coverage(real: Tensor, fake: Tensor, k: int = 5) -> tuple[float, float]:
    """How many real points' balls hold a fake on average, and how many hold one at all.

    As :func:`precision_recall`, but with the balls of the real set alone, so that one stray fake
    cannot cover the space (Naeem et al. 2020, equations 5 and 6). Density is 1 where real and fake
    points are equally dense, and may exceed 1 where fakes crowd; coverage falls with missing modes.

    Args:
        real, fake: features (N, D) and (M, D).
        k: neighbours, 1 ≤ k < N.

    Returns:
        (density, coverage), the first ≥ 0, the second in [0, 1].

    Raises:
        ValueError: if shapes differ in D, a set is empty, has no k neighbours, or is not finite.
    """
    real, fake = _as_pair(real, fake)
    if not 1 <= k < len(real) or not len(fake):
        raise ValueError(
            f"k must lie in 1..{len(real) - 1} for {len(real)} real points, with at least one "
            f"fake: got {k} and {len(fake)}"
        )
    centre = _exact(real).mean(0)
    real, fake = _exact(real) - centre, _exact(fake) - centre
    radii = _radii(real, k)
    parts = zip(real.split(1000), radii.split(1000), strict=True)
    hits = [squared_distances(fake, centres) <= r for centres, r in parts]
    density = sum(int(h.sum()) for h in hits) / (k * len(fake))
    return density, float(torch.cat([h.any(0) for h in hits]).double().mean())


def matched_contrast(x: Tensor, mean: float, std: float) -> Tensor:
    """Images with another brightness and contrast: those of the pixels of real images.

    One stretch and one shift for all images together, then clipped to [-1, 1]. Features of small
    classifiers react to a background that is 0.02 too bright more than to a wrong shape; distances
    before and after this tell how much of a difference is brightness and contrast alone.

    Args:
        x: images in [-1, 1], any shape; of one grey level they are only shifted.
        mean, std: of all pixels of the real images; std ≥ 0.

    Raises:
        ValueError: if the images are not finite, or mean or std is none.
    """
    x = _as_finite("images", as_floats(as_images(x), "images")).clamp(-1, 1)
    if not (-1 <= mean <= 1 and 0 <= std <= 1) or not x.numel():
        raise ValueError(
            f"need images, a mean in [-1, 1] and a deviation in [0, 1], got {x.numel()} pixels, "
            f"{mean} and {std}"
        )
    own_mean, own_std = x.mean(), x.std(correction=0)
    stretch = std / own_std if float(own_std) > 0 else 1.0
    return ((x - own_mean) * stretch + mean).clamp(-1, 1)


def class_agreement(logits: Tensor, y: Any) -> float:
    """Share of samples that a classifier gives the class they were asked to be, in [0, 1].

    Args:
        logits: (N, K).
        y: the classes asked for, (N,), or one for all.

    Raises:
        ValueError: if there is not one label per row, no row, or a logit is not finite.
    """
    logits = _as_finite("logits", logits)
    if not isinstance(y, Tensor):
        y = as_condition(y, logits) if y is not None and logits.ndim else torch.empty(0)
    check_readable(y, "labels")
    if logits.ndim != 2 or y.shape != logits.shape[:1] or not len(y):
        raise ValueError(
            f"need logits (N, K) and labels (N,), got {tuple(logits.shape)} and {tuple(y.shape)}"
        )
    whole = not (y.is_floating_point() or y.is_complex() or y.dtype == torch.bool)
    if not whole or not 0 <= int(y.min()) <= int(y.max()) < logits.shape[1]:
        raise ValueError(f"labels are whole numbers in 0..{logits.shape[1] - 1}, got {y}")
    return float((logits.argmax(1) == y.to(logits.device)).sum()) / len(y)


def saturation(x: Tensor) -> Saturation:
    """How many pixels guidance has driven to the end of the range, and how many beyond it.

    Black is left out, being the background of most grey images: a pixel counts as saturated where
    it is white, that is within one of 256 grey levels of 1 or above. It is out of range where
    |x| > 1 by more than one grey level, and will be clipped when the image is written.

    Args:
        x: images as the sampler returned them, not clipped, of any shape, at least one pixel.

    Raises:
        ValueError: if there is no pixel, one is not finite, or they are pixels 0..255.
    """
    x = as_floats(as_images(x), "images")
    if not x.numel():
        raise ValueError("saturation needs at least one pixel")
    x = _as_finite("images", x)
    level = 2 / 255
    white, outside = x >= 1 - level, x.abs() > 1 + level
    return Saturation(float(white.sum()) / x.numel(), float(outside.sum()) / x.numel())


# ---- parts -------------------------------------------------------------------------------------


def _mmd2(x: Tensor, y: Tensor) -> Tensor:
    """The U-statistic of MMD² for two sets of n ≥ 2 points each, (n, D)."""
    n, dim = x.shape

    def kernel(p: Tensor, q: Tensor) -> Tensor:
        return (p @ q.T / dim + 1) ** 3

    within = sum((k.sum() - k.trace()) / (n * (n - 1)) for k in (kernel(x, x), kernel(y, y)))
    return within - 2 * kernel(x, y).mean()


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """(N, D), (M, D) -> (N, M); what rounding leaves between equal points becomes 0."""
    scale = (x**2).sum(1)[:, None] + (y**2).sum(1)
    d2 = scale - 2 * x @ y.T
    return torch.where(d2 > 64 * EPS * scale, d2, 0)


def _radii(x: Tensor, k: int, chunk: int = 1000) -> Tensor:
    """Squared distance of each point to its k-th nearest neighbour, (N,)."""
    # Each point is its own nearest, hence k + 1.
    parts = [squared_distances(part, x).kthvalue(k + 1, 1).values for part in x.split(chunk)]
    return torch.cat(parts)


def _covered(points: Tensor, centres: Tensor, radii: Tensor, chunk: int = 1000) -> float:
    """Share of points that lie in at least one ball, its edge included."""
    hits = [(squared_distances(p, centres) <= radii).any(1) for p in points.split(chunk)]
    return float(torch.cat(hits).double().mean())


def _score(values: Tensor) -> Score:
    return Score(float(values.mean()), float(values.std(correction=0)))


def _exact(x: Tensor) -> Tensor:
    return x.detach().cpu().double()  # first to the CPU: some GPUs have no float64


def _as_moments(a: Tensor | Moments, b: Tensor | Moments) -> tuple[Moments, Moments]:
    a, b = (x if isinstance(x, Moments) else _as_finite("features", x) for x in (a, b))
    shapes = [(x.n, len(x.mean)) if isinstance(x, Moments) else tuple(x.shape) for x in (a, b)]
    (n, *dims), (m, *others) = shapes
    if len(dims) != 1 or dims != others or min(n, m) < 2:
        raise ValueError(
            f"need two feature sets (N, D) with N >= 2 and the same D, got {shapes[0]} and "
            f"{shapes[1]}"
        )
    if min(n, m) <= dims[0]:
        warnings.warn(
            f"{min(n, m)} samples leave the covariance of {dims[0]} features singular and the "
            f"Fréchet distance far too large: take at least {dims[0] + 1}, better "
            f"{5 * dims[0]} or more",
            stacklevel=3,
        )
    first, second = (x if isinstance(x, Moments) else Moments.of(x) for x in (a, b))
    return first, second


def _has_no_negative_eigenvalue(cov: Tensor) -> bool:
    """Up to rounding: with 10⁻⁶ of the largest variance on the diagonal, Cholesky's root exists."""
    slack = 1e-6 * cov.diagonal().abs().max().clamp(min=torch.finfo(cov.dtype).tiny)
    return not int(torch.linalg.cholesky_ex(cov + slack * torch.eye(len(cov)).to(cov)).info)


def _as_pair(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    a, b = _as_finite("features", a), _as_finite("features", b)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(
            f"need two feature sets (N, D) with the same D, got {tuple(a.shape)} and "
            f"{tuple(b.shape)}"
        )
    return a, b


def _as_features(features: Tensor, dim: int | None = None) -> Tensor:
    features = as_tensor(features, "features")
    if features.ndim != 2 or (dim is not None and features.shape[1] != dim):
        raise ValueError(f"need features of shape (N, {dim or 'D'}), got {tuple(features.shape)}")
    return _as_finite("features", features)


def _as_finite(name: str, x: Tensor) -> Tensor:
    x = as_values(x, name)
    if x.numel() and float(x.abs().max()) > LARGEST:
        raise ValueError(f"{name} beyond {LARGEST:g} have no square in float64: scale them")
    return x
