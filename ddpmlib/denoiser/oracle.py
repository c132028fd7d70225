"""Exact denoisers: distributions whose noised marginals, scores and E[x_0|x_t] are closed forms.

They stand where a network would stand, so every sampler and every loss can be held against truth.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ddpmlib.broadcast import Coefficient, Time
from ddpmlib.condition import Condition, as_condition
from ddpmlib.equations import equation
from ddpmlib.inputs import as_values, check_floats, check_readable
from ddpmlib.prediction import Prediction
from ddpmlib.process.process import Process


class Mixture:
    """Mixture of isotropic Gaussians, q(x_0) = Σ_k w_k N(mean_k, std_k² I).

    Args:
        process: the forward process.
        weights: (K,), positive, normalised here.
        means: (K, ...) in the shape of the data.
        stds: (K,), not negative; 0 makes a component a point.
        labels: the class of each component, (K,) int64 that cover 0..C−1; None: no classes.

    Attributes:
        null_label: C, the label that means none; None without classes.

    Raises:
        ValueError: if shapes, signs or labels are not like that.
    """

    def __init__(
        self,
        process: Process,
        weights: Tensor,
        means: Tensor,
        stds: Tensor,
        labels: Tensor | None = None,
    ) -> None:
        weights, means, stds = (
            _parameter(value, name)
            for name, value in (("weights", weights), ("means", means), ("stds", stds))
        )
        if (
            not means.ndim
            or not len(means)
            or weights.shape != (len(means),)
            or stds.shape != weights.shape
        ):
            raise ValueError(
                f"need means, and one weight and one std for each: got {len(means)} means, "
                f"{tuple(weights.shape)} weights, {tuple(stds.shape)} stds"
            )
        if not bool((weights > 0).all()) or not bool((stds >= 0).all()):
            raise ValueError("weights must be positive and stds not negative")
        self.process = process
        self.shape = means.shape[1:]
        self.means = means.flatten(1) if means.ndim > 1 else means[:, None]
        self.log_weights = (weights / weights.sum()).log()
        self.variances = stds**2
        self.labels = None if labels is None else _checked_labels(labels, len(means))
        self.null_label = None if self.labels is None else int(self.labels.max()) + 1

    @property
    def conditional(self) -> bool:
        """Whether it has classes."""
        return self.labels is not None

    def without(self, y: Tensor) -> Tensor:
        """The null label for each of the labels (B,).

        Raises:
            ValueError: if the mixture has no classes.
        """
        if self.null_label is None:
            raise ValueError("a mixture without labels has no class to leave out")
        if not isinstance(y, Tensor):
            raise ValueError(f"labels are a tensor (B,), got {type(y).__name__}")
        return torch.full_like(y, self.null_label)

    @equation("2.15", "2.16")
    def __call__(self, x_t: Tensor, t: Time, y: Condition | None = None) -> Prediction:
        """The exact posterior mean E[x_0 | x_t], x_t (B, ...).

        Args:
            y: labels (B,), the null label among them, for E[x_0 | x_t, y]; ignored if the mixture
                has no classes.

        Raises:
            ValueError: if the labels are not of that kind.
        """
        x = self._flat(x_t)
        scale, means, var, variances = self._at(t, x)
        log_joint = self._log_joint(x, means, scale, var)
        if y is not None and self.labels is not None:
            log_joint = log_joint.masked_fill(~self._members(y, x), -math.inf)
        share = torch.softmax(log_joint, dim=1)  # p(k | x_t)
        gain = scale * variances / var  # regression of x_0 on x_t inside one component
        x0 = (share * (1 - gain * scale)) @ means + (share * gain).sum(1, keepdim=True) * x
        return Prediction(x0.reshape(x_t.shape))

    @equation("1.10")
    def log_prob(self, x_t: Tensor, t: Time) -> Tensor:
        """log q(x_t) in nats, (B,).

        Raises:
            ValueError: at t = 0 if a component is a point (its density is infinite).
        """
        x = self._flat(x_t)
        scale, means, var, _ = self._at(t, x)
        return torch.logsumexp(self._log_joint(x, means, scale, var), dim=1)

    def score(self, x_t: Tensor, t: Time) -> Tensor:
        """∇ log q(x_t), shape of x_t; at t = 0 as :meth:`log_prob`."""
        x = self._flat(x_t)
        scale, means, var, _ = self._at(t, x)
        share = torch.softmax(self._log_joint(x, means, scale, var), dim=1) / var
        return (scale * (share @ means) - share.sum(1, keepdim=True) * x).reshape(x_t.shape)

    def class_logits(self, x_t: Tensor, t: Time) -> Tensor:
        """log q(y | x_t), (B, C): the classifier that no network could beat, at every noise level.

        Raises:
            ValueError: if the mixture has no classes; at t = 0 as :meth:`log_prob`.
        """
        if self.labels is None:
            raise ValueError("a mixture without labels has no classes to tell apart")
        x = self._flat(x_t)
        scale, means, var, _ = self._at(t, x)
        log_joint = self._log_joint(x, means, scale, var).log_softmax(1)
        classes = [self.labels.to(x.device) == c for c in range(self.null_label or 0)]
        return torch.stack([log_joint[:, c].logsumexp(1) for c in classes], dim=1)

    def given(self, y: int) -> Mixture:
        """q(x_0 | y) as a mixture of its own, without classes.

        Raises:
            ValueError: if there is no such class.
        """
        if self.labels is None or not bool((self.labels == y).any()):
            raise ValueError(f"the mixture has no class {y}")
        keep = self.labels == y
        means = self.means.reshape(-1, *self.shape)[keep]
        return Mixture(
            self.process, self.log_weights[keep].exp(), means, self.variances[keep].sqrt()
        )

    def draw(
        self, n: int, t: Time | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """n samples of q(x_t), (n, ...); clean data if no time is given."""
        k = torch.multinomial(self.log_weights.exp(), n, replacement=True, generator=generator)
        noise = torch.randn(n, self.means.shape[1], generator=generator, dtype=self.means.dtype)
        t = self.process.clean if t is None else t
        scale, std = self.process.kernel(t, self.means)
        spread = (scale**2 * self.variances[k] + std**2).sqrt()[:, None]
        return (scale * self.means[k] + spread * noise).reshape(n, *self.shape)

    def _flat(self, x_t: Tensor) -> Tensor:
        check_readable(_parameter(x_t, "x_t", finite=False), "x_t")
        if not x_t.ndim or x_t.shape[1:] != self.shape:
            raise ValueError(
                f"expected data of shape (B, *{tuple(self.shape)}), got {tuple(x_t.shape)}"
            )
        return x_t.flatten(1) if x_t.ndim > 1 else x_t[:, None]

    def _members(self, y: Condition, x: Tensor) -> Tensor:
        """Which components belong to each sample's label, (B, K)."""
        n, y = len(x), as_condition(y, x)
        assert self.labels is not None and self.null_label is not None
        if not isinstance(y, Tensor) or y.shape != (n,) or y.dtype != torch.int64:
            got = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
            raise ValueError(f"need one int64 label per sample, ({n},), got {got}")
        if n and not 0 <= int(y.min()) <= int(y.max()) <= self.null_label:
            raise ValueError(
                f"labels must lie in 0..{self.null_label - 1} ({self.null_label} is the null one)"
            )
        labels = self.labels.to(y.device)
        return (y[:, None] == labels) | (y[:, None] == self.null_label)

    def _at(self, t: Time, x: Tensor) -> tuple[Coefficient, Tensor, Tensor, Tensor]:
        """Scale, means, the components' variances at time t, (1 or B, K), and at time 0."""
        scale, std = self.process.kernel(t, x)
        means, variances = self.means.to(x), self.variances.to(x)
        var = scale**2 * variances[None] + std**2
        if bool((var == 0).any()):
            raise ValueError("a point has no density at t = 0; use a time t >= 1")
        return scale, means, var, variances

    def _log_joint(self, x: Tensor, means: Tensor, scale: Coefficient, var: Tensor) -> Tensor:
        """log w_k N(x; scale · mean_k, var_k I), (B, K)."""
        # Differences first: expanding the square would cancel away what small variances need.
        if isinstance(scale, Tensor) or x.requires_grad:  # cdist has no higher derivatives
            centres = scale[:, :, None] * means if isinstance(scale, Tensor) else scale * means
            square = ((x[:, None] - centres) ** 2).sum(2)
        else:
            mode = "donot_use_mm_for_euclid_dist"
            square = torch.cdist(x, scale * means, compute_mode=mode) ** 2
        log_norm = 0.5 * x.shape[1] * torch.log(2 * math.pi * var)
        return self.log_weights.to(x) - log_norm - square / (2 * var)


@equation("2.3")
class FiniteData(Mixture):
    """The data set itself as the distribution: equally likely points, (N, ...), with labels (N,).

    Its denoiser is the best that any network could be on these data; sampled with it, every chain
    ends on a training image (Karras et al. 2022, appendix B.3).
    """

    def __init__(self, process: Process, points: Tensor, labels: Tensor | None = None) -> None:
        points = _parameter(points, "points")
        ones = torch.ones(points.shape[:1], dtype=points.dtype)
        super().__init__(process, ones, points, 0 * ones, labels)


def _parameter(x: Tensor, name: str, finite: bool = True) -> Tensor:
    """A tensor in which linear algebra is exact enough: float32 or float64, and finite."""
    if finite:
        x = as_values(x, name)
    check_floats(x, name)
    if x.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"exact denoisers compute in float32 or float64, and {name} is {x.dtype}")
    return x


def _checked_labels(labels: Tensor, components: int) -> Tensor:
    whole = isinstance(labels, Tensor) and labels.dtype == torch.int64
    if (
        not whole
        or labels.is_meta
        or labels.shape != (components,)
        or labels.unique().tolist() != list(range(int(labels.max()) + 1))
    ):
        raise ValueError(
            f"labels must be int64, one for each of the {components} components, and cover 0..C-1"
        )
    return labels


class Gaussian:
    """One Gaussian with any covariance, q(x_0) = N(mean, cov).

    Args:
        process: the forward process.
        mean: (D,).
        cov: (D, D), symmetric, without negative eigenvalues.

    Raises:
        ValueError: if shapes or symmetry are not like that.
    """

    def __init__(self, process: Process, mean: Tensor, cov: Tensor) -> None:
        mean, cov = _parameter(mean, "mean"), _parameter(cov, "cov")
        if (
            mean.ndim != 1
            or not len(mean)
            or cov.shape != (len(mean), len(mean))
            or not torch.allclose(cov, cov.T)
        ):
            raise ValueError(
                f"need a mean (D,) and a symmetric covariance (D, D), got {tuple(mean.shape)} and "
                f"{tuple(cov.shape)}"
            )
        eigenvalues, self.basis = torch.linalg.eigh(cov)
        if float(eigenvalues.min()) < -1e-6 * float(eigenvalues.abs().max()):
            raise ValueError(
                f"a covariance has no negative eigenvalue, got {float(eigenvalues.min()):g}"
            )
        self.process, self.mean, self.eigenvalues = process, mean, eigenvalues.clamp(min=0)

    def __call__(self, x_t: Tensor, t: Time, y: Condition | None = None) -> Prediction:
        """The exact posterior mean E[x_0 | x_t], x_t (B, D); labels are ignored."""
        scale, var, along, basis = self._along(x_t, t)
        gain = scale * self.eigenvalues.to(x_t) / var
        return Prediction(self.mean.to(x_t) + (gain * along) @ basis.T)

    def log_prob(self, x_t: Tensor, t: Time) -> Tensor:
        """log q(x_t) in nats, (B,).

        Raises:
            ValueError: at t = 0 if the covariance is singular (the density is infinite).
        """
        _, var, along, _ = self._along(x_t, t)
        return -0.5 * (along**2 / var + torch.log(2 * math.pi * var)).sum(1)

    def score(self, x_t: Tensor, t: Time) -> Tensor:
        """∇ log q(x_t), (B, D); at t = 0 as :meth:`log_prob`."""
        _, var, along, basis = self._along(x_t, t)
        return -(along / var) @ basis.T

    def draw(
        self, n: int, t: Time | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """n samples of q(x_t), (n, D); clean data if no time is given."""
        noise = torch.randn(n, len(self.mean), generator=generator, dtype=self.mean.dtype)
        t = self.process.clean if t is None else t
        scale, std = self.process.kernel(t, noise)
        return (
            scale * self.mean
            + (noise * (scale**2 * self.eigenvalues + std**2).sqrt()) @ self.basis.T
        )

    @equation("1.17")
    def kl_to_prior(self, t: Time) -> float:
        """KL(q(x_t) ‖ N(0, I)) in nats: what starting a sampler from pure noise gives away.

        For data that are not Gaussian it is a lower bound, with their mean and covariance. Infinite
        at t = 0 if the data have no spread in some direction.
        """
        scale, _ = self.process.kernel(t, self.mean)
        excess = scale**2 * (self.eigenvalues - 1)  # variance along each axis, minus one
        spread = (excess - torch.log1p(excess)).sum()
        return float(0.5 * (spread + scale**2 * (self.mean**2).sum()))

    def _along(self, x_t: Tensor, t: Time) -> tuple[Coefficient, Tensor, Tensor, Tensor]:
        """scale, variances along the principal axes, x_t − its mean in those axes, the axes."""
        check_readable(_parameter(x_t, "x_t", finite=False), "x_t")
        if x_t.ndim != 2 or x_t.shape[1] != len(self.mean):
            raise ValueError(
                f"expected data of shape (B, {len(self.mean)}), got {tuple(x_t.shape)}"
            )
        scale, std = self.process.kernel(t, x_t)
        var, basis = scale**2 * self.eigenvalues.to(x_t) + std**2, self.basis.to(x_t)
        if bool((var == 0).any()):
            raise ValueError("a singular Gaussian has no density at t = 0; use a time t >= 1")
        return scale, var, (x_t - scale * self.mean.to(x_t)) @ basis, basis
