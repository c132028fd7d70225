"""Gaussian noise in continuous or counted time: two functions to write, the rest derived once.

A process writes noisy data as x_t = a(t) x_0 + b(t) ε. Whoever adds one says what a and b are and
which time has a given log-SNR λ = 2 log(a/b). The kernel, the posterior, the reverse step, the ODE
and the SDE of both directions follow from these here, in one place. A process never sees a network.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.autograd.functional import jvp

from ddpmlib.broadcast import (
    Coefficient,
    Pair,
    Time,
    cast,
    check_alike,
    check_both_times,
    exact,
    expand,
    per_sample,
    weighted_sum,
)
from ddpmlib.equations import equation
from ddpmlib.inputs import check_floats
from ddpmlib.prediction import Prediction


class Stride(NamedTuple):
    """What two noise levels, at t and at a less noisy s, have to do with each other.

    Attributes:
        scale_t, scale_s: a at both times.
        var_t, var_s: b² at both times.
        ratio: a(t)/a(s), which q(x_t|x_s) multiplies x_s with.
        beta: β, the variance of q(x_t|x_s).
        beta_tilde: β̃, the variance of q(x_s|x_t, x_0).
    """

    scale_t: Coefficient
    scale_s: Coefficient
    var_t: Coefficient
    var_s: Coefficient
    ratio: Coefficient
    beta: Coefficient
    beta_tilde: Coefficient


class Process(ABC):
    """x_t = a(t) x_0 + b(t) ε, from clean data at one end of the times to pure noise at the other.

    A subclass writes :meth:`coefficients` and :meth:`time_of`, and says where its times begin and
    end. Times are numbers, one for the whole batch, or tensors (B,), one for each sample.

    Attributes:
        clean: the time of clean data, where a = 1 and b = 0.
        end: the time of pure noise, where samplers start.
        prior_std: standard deviation of that noise; 1 unless a process says otherwise.
    """

    clean: Any = 0.0  # a number; a field of those subclasses that let it be chosen
    end: Any = 1.0
    prior_std: float = 1.0
    times_are_whole: ClassVar[bool] = False

    # ---- the two functions to write --------------------------------------------------------

    @abstractmethod
    def coefficients(self, t: Tensor) -> Pair:
        """Scale a and standard deviation b at the times t, any shape, both of that shape."""

    @abstractmethod
    def time_of(self, log_snr: Tensor) -> Tensor:
        """The time at which the log-SNR is this, any shape: the way back from :meth:`log_snr`."""

    # ---- what a network is told, and other notations ---------------------------------------

    def network_time(self, t: Tensor) -> Tensor:
        """What a network is told of the times t (B,), same shape; the times themselves here."""
        return t

    @equation("B.2")
    def log_snr(self, t: Tensor) -> Tensor:
        """λ = 2 log(a/b) at the times t; +inf for clean data, −inf for pure noise."""
        self._check_kind(t)
        a, b = self.coefficients(t)
        return 2 * (a.log() - b.log())

    def snr(self, t: Tensor) -> Tensor:
        """The signal-to-noise ratio a²/b² at the times t."""
        return self.log_snr(t).exp()

    @equation("B.2")
    def to_book(self, t: Tensor, z: Tensor) -> Pair:
        """The book's log-SNR (B,) and x_t (B, ...), with a² + b² = 1, of data z at times t (B,)."""
        self._check_kind(t)
        check_floats(z, "z")
        a, b = self.coefficients(t)
        return self.log_snr(t), z / expand(torch.hypot(a, b), z).to(z.dtype)

    @equation("B.2")
    def from_book(self, log_snr: Tensor, x_t: Tensor) -> Pair:
        """Times (B,) and data (B, ...) of this process, of the book's x_t with log-SNR (B,)."""
        check_floats(log_snr, "log_snr")
        check_floats(x_t, "x_t")
        t = self.time_of(log_snr)
        a, b = self.coefficients(t)
        return t, x_t * expand(torch.hypot(a, b), x_t).to(x_t.dtype)

    # ---- forward ---------------------------------------------------------------------------

    def kernel(self, t: Time, x: Tensor) -> tuple[Coefficient, Coefficient]:
        """Scale a and std b of q(x_t|x_0), ready to multiply ``x`` (B, ...).

        Raises:
            ValueError: if a time is none of this process, or ``x`` does not hold floats.
        """
        check_floats(x)
        scale, std = self._at(t, x, self.coefficients)
        return cast(scale, x), cast(std, x)

    @equation("1.6")
    def q_sample(self, x0: Tensor, t: Time, eps: Tensor) -> Tensor:
        """Jump from clean data to time t in one draw (Ho et al. 2020, eq. 4).

        Args:
            x0: clean data, (B, ...); images are in [-1, 1].
            t: a number or (B,).
            eps: standard normal, shape of ``x0``.

        Returns:
            x_t, shape of ``x0``.

        Raises:
            ValueError: if a time is none of this process, or ``eps`` has another shape.
        """
        check_alike(x0, eps, "eps")
        scale, std = self.kernel(t, x0)
        return scale * x0 + std * eps

    def forward(self, x_s: Tensor, s: Time, t: Time, noise: Tensor) -> Tensor:
        """Draw x_t given x_s at a later, noisier t: (a_t/a_s) x_s + √β noise.

        Args:
            x_s: (B, ...).
            s, t: from s to the noisier t, numbers or (B,).
            noise: standard normal, shape of ``x_s``.

        Raises:
            ValueError: if the times are not ordered like that or the shapes differ.
        """
        check_alike(x_s, noise, "noise")
        stride = self.stride(t, s, x_s)
        return cast(stride.ratio, x_s) * x_s + cast(stride.beta**0.5, x_s) * noise

    # ---- reverse ---------------------------------------------------------------------------

    def stride(self, t: Time, s: Time, x: Tensor) -> Stride:
        """The relation of two times, s less noisy than t; see :class:`Stride`.

        Raises:
            ValueError: if the times are not ordered like that.
        """
        self.check_pair(t, s)
        scale_t, std_t, snr_t = self._at(t, x, self._levels)
        scale_s, std_s, snr_s = self._at(s, x, self._levels)
        # The share of noise that is new at t is 1 − SNR(t)/SNR(s): no difference of like numbers.
        fall = snr_t - snr_s
        new = -torch.expm1(fall) if isinstance(fall, Tensor) else -math.expm1(fall)
        var_t, var_s = std_t**2, std_s**2
        return Stride(scale_t, scale_s, var_t, var_s, scale_t / scale_s, var_t * new, var_s * new)

    @equation("2.7", "2.8", "2.10")
    def posterior(self, x_t: Tensor, x0: Tensor, t: Time, s: Time) -> tuple[Tensor, Coefficient]:
        """Mean and standard deviation of q(x_s | x_t, x_0) for any s less noisy than t.

        With s = t−1 these are μ̃_t and √β̃_t of Ho et al. (2020, eqs. 6 and 7).

        Args:
            x_t, x0: same shape (B, ...).
            t, s: numbers or (B,).

        Returns:
            mean, shape of ``x_t``; std, a float or (B, 1, ...).

        Raises:
            ValueError: if the times are not ordered like that or the shapes differ.
        """
        check_alike(x_t, x0, "x0")
        stride = self.stride(t, s, x_t)
        on_x0 = stride.scale_s * stride.beta / stride.var_t
        on_x_t = stride.ratio * stride.var_s / stride.var_t
        mean = cast(on_x0, x_t) * x0 + cast(on_x_t, x_t) * x_t
        return mean, cast(stride.beta_tilde**0.5, x_t)

    def variances(
        self, t: Time, s: Time, x: Tensor | None = None
    ) -> tuple[Coefficient, Coefficient]:
        """β̃ and β of the stride t → s: the two ends of the range of the reverse variance.

        β is the variance of q(x_t|x_s); β̃ is that of q(x_s|x_t, x_0), which is zero where s is
        clean data (Ho et al. 2020, section 3.2).

        Args:
            t, s: times, s less noisy than t, numbers or (B,).
            x: the data (B, ...) that (B,) times belong to; not needed for numbers.

        Returns:
            two floats, or two tensors (B, 1, ...) in the dtype of ``x``.

        Raises:
            ValueError: if the times are not ordered like that, or are (B,) without ``x``.
        """
        if x is None and (isinstance(t, Tensor) or isinstance(s, Tensor)):
            raise ValueError("times of shape (B,) need the data x (B, ...) that they belong to")
        x = torch.zeros((), dtype=torch.float64) if x is None else x
        stride = self.stride(t, s, x)
        return cast(stride.beta_tilde, x), cast(stride.beta, x)

    @equation("2.14", "6.5")
    def posterior_std(self, t: Time, s: Time, var_mix: float | Tensor = 0.0) -> Coefficient:
        """Standard deviation of the reverse step t → s, the slides' σ_t.

        ``var_mix`` places the variance between β̃ (0) and β (1) in log space, both taken for the
        stride t → s (Nichol & Dhariwal 2021, eq. 15); at clean s it is 0 for ``var_mix`` < 1.

        Returns:
            a float, or a tensor of the shape of ``var_mix``.

        Raises:
            ValueError: if s is not less noisy than t, or a number ``var_mix`` leaves [0, 1].
        """
        return _mixed_std(*self.variances(t, s), var_mix)

    @equation("3.7", "7.2", "7.9", "7.10")
    def step(
        self,
        x_t: Tensor,
        prediction: Prediction,
        t: Time,
        s: Time,
        eta: float = 1.0,
        noise: Tensor | None = None,
    ) -> Tensor:
        """Draw x_s given x_t and a prediction of x_0: the reverse step of DDPM and DDIM.

        x_s = a_s x̂_0 + √(b_s²−η²β̃) ε̂ + η √β̃ noise, with ε̂ the noise that x̂_0 implies
        (Song et al. 2021, DDIM, eqs. 12 and 16); η = 0 is deterministic DDIM. η = 1 is ancestral
        sampling (Ho et al. 2020, Algorithm 2), and there ``prediction.var_mix`` sets the variance
        in place of β̃. The last step, to clean data, adds no noise.

        Args:
            x_t: (B, ...).
            prediction: x̂_0 of the same shape and the place of the variance.
            t, s: numbers, s less noisy than t.
            eta: in [0, 1].
            noise: standard normal of the same shape; needed unless η = 0 or s is clean data.

        Raises:
            ValueError: if times, η, shapes are not as above or the noise is missing.
        """
        if isinstance(t, Tensor) or isinstance(s, Tensor):
            raise ValueError(f"a step goes from one time to another, both numbers, got {t} and {s}")
        check_alike(x_t, prediction.x0, "prediction.x0")
        check_eta(eta)
        stride = self.stride(t, s, x_t)
        left = stride.var_s - eta**2 * stride.beta_tilde
        # b_s² − β̃ is never negative, but its rounding error may be.
        on_x_t = (max(left, 0.0) / stride.var_t) ** 0.5
        on_x0 = stride.scale_s - on_x_t * stride.scale_t
        mean = weighted_sum(on_x0, prediction.x0, on_x_t, x_t)
        if s == self.clean or eta == 0:
            return mean
        if noise is None:
            raise ValueError(f"the step {t} → {s} with eta = {eta} draws: give it noise")
        check_alike(x_t, noise, "noise")
        if isinstance(prediction.var_mix, Tensor):
            check_alike(x_t, prediction.var_mix, "prediction.var_mix")
        # Another variance than β̃ is ancestral sampling's: with it at η < 1, x_s would not have the
        # marginals that the mean is made for (Song et al. 2021 know η √β̃ alone).
        var_mix = prediction.var_mix if eta == 1 else 0.0
        std = eta * _mixed_std(stride.beta_tilde, stride.beta, var_mix)
        return weighted_sum(1, mean, std, noise)

    @equation("3.5")
    def eps_from_x0(self, x_t: Tensor, x0: Tensor, t: Time) -> Tensor:
        """The noise that a prediction of x_0 implies: (x_t − a x_0) / b, where there is noise.

        Raises:
            ValueError: at the time of clean data, or if the shapes differ.
        """
        check_alike(x_t, x0, "x0")
        scale, std = self.kernel(t, x_t)
        check_noisy(self, t)
        return (x_t - scale * x0) / std

    @equation("10.1")
    def score_from_x0(self, x_t: Tensor, x0: Tensor, t: Time) -> Tensor:
        """The score that a prediction of x_0 implies: (a x_0 − x_t) / b².

        With x_0 = E[x_0|x_t] it is ∇ log q(x_t) (Tweedie's formula; Efron 2011).

        Raises:
            ValueError: at the time of clean data, or if the shapes differ.
        """
        _, std = self.kernel(t, x_t)
        return -self.eps_from_x0(x_t, x0, t) / std

    # ---- the same process as differential equations -------------------------------------------

    @equation("B.12")
    def velocity(self, t: Time, x0: Tensor, eps: Tensor) -> Tensor:
        """dx/dt = a'(t) x_0 + b'(t) ε; with predictions in their place, the probability-flow ODE.

        Args:
            t: a number or (B,), floating point.
            x0, eps: (B, ...).

        Times beyond the end are not refused: other notations name levels there too.

        Raises:
            ValueError: if the times are whole numbers, between which nothing flows, or the shapes
                differ.
        """
        check_alike(x0, eps, "eps")
        da, db = self._at(t, x0, self._rates, ranged=False)
        return weighted_sum(cast(da, x0), x0, cast(db, eps), eps)

    def flow(self, x_t: Tensor, x0: Tensor, t: Time) -> Tensor:
        """The velocity of the probability-flow ODE at x_t, given a prediction of x_0."""
        return self.velocity(t, x0, self.eps_from_x0(x_t, x0, t))

    def drift(self, x_t: Tensor, t: Time) -> Tensor:
        """f(x_t, t) = (a'/a) x_t of the forward SDE dx = f dt + g dω (Song et al. 2021)."""
        (a, _), (da, _) = self._signal_at(t, x_t), self._at(t, x_t, self._rates)
        return cast(da / a, x_t) * x_t

    def diffusion(self, t: Time, x: Tensor) -> Coefficient:
        """g(t) of the forward SDE, ready to multiply ``x``: g² = 2 b b' − 2 (a'/a) b².

        Where times run from noise to data the forward SDE runs against them, and the sign turns.
        """
        (a, b), (da, db) = self._signal_at(t, x), self._at(t, x, self._rates)
        return cast((2 * self._direction * b * (db - da / a * b)) ** 0.5, x)

    def reverse_drift(self, x_t: Tensor, x0: Tensor, t: Time) -> Tensor:
        """The drift of the reverse SDE, f − g² ∇ log q, given a prediction of x_0.

        It is the velocity of the ODE, f − ½ g² ∇ log q, less another half (Anderson 1982).
        """
        half = 0.5 * self._direction * self.diffusion(t, x_t) ** 2
        return self.flow(x_t, x0, t) - half * self.score_from_x0(x_t, x0, t)

    # ---- times -----------------------------------------------------------------------------

    def check_time(self, t: Time) -> None:
        """Raise ValueError unless t is a time of this process, or a float tensor of such.

        Looking into a GPU tensor would make the CPU wait, so only CPU times are ranged.
        """
        if isinstance(t, Tensor):
            if not t.is_floating_point():
                raise ValueError(f"times of {type(self).__name__} are floats, got {t.dtype}")
            if t.device.type != "cpu" or not t.numel():
                return
            low, high = float(t.min()), float(t.max())
        elif isinstance(t, bool) or not isinstance(t, int | float):
            raise ValueError(f"a time is a number or a float tensor, got {type(t).__name__}")
        else:
            low = high = t
        first, last = sorted((self.clean, self.end))
        if not first <= low <= high <= last:
            raise ValueError(
                f"times of {type(self).__name__} lie in [{first:g}, {last:g}], "
                f"got {low:g}..{high:g}"
            )

    def _check_kind(self, t: Tensor) -> None:
        """Refuse what is no tensor of times; one that is may lie beyond the ends."""
        if self.times_are_whole:
            return self.check_time(t)
        return check_floats(t, "times")

    def check_pair(self, t: Time, s: Time) -> None:
        """Raise ValueError unless both are times of this process and s is the less noisy one."""
        self.check_time(t)
        self.check_time(s)
        check_both_times(t, s)
        below = self.less_noisy(s, t)
        on_gpu = isinstance(below, Tensor) and below.device.type != "cpu"
        if not on_gpu and not (below.all() if isinstance(below, Tensor) else below):
            raise ValueError(f"a reverse step goes down in time, s < t, but got t = {t}, s = {s}")

    def less_noisy(self, s: Time, t: Time) -> bool | Tensor:
        """Whether s lies nearer to clean data than t."""
        return s < t if self._direction > 0 else s > t

    @property
    def _direction(self) -> int:
        """1 where times rise with the noise, −1 where they fall."""
        return 1 if self.clean < self.end else -1

    def per_sample(self, t: Time, x: Tensor) -> Tensor:
        """A checked time as one for each sample of ``x``, (B,), on its device."""
        self.check_time(t)
        whole = self.times_are_whole or isinstance(t, Tensor)
        return per_sample(t if whole else float(t), x)

    # ---- evaluated for numbers and for tensors -----------------------------------------------

    def _levels(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return *self.coefficients(t), self.log_snr(t)

    def _rates(self, t: Tensor) -> Pair:
        """a' and b' by automatic differentiation."""
        if not t.is_floating_point():
            raise ValueError("a velocity needs a time that flows, but these times count steps")
        # Forward-mode derivatives (torch.func) warn when they are loaded. These need a tensor that
        # autograd may record, whatever mode the caller is in.
        with torch.inference_mode(False):
            t = t.detach().clone()
            da, db = jvp(self.coefficients, t, torch.ones_like(t))[1]
        return da, db

    def _signal_at(self, t: Time, x: Tensor) -> Any:
        """a and b at t, where something is left of the data: a'/a is infinite where a = 0."""
        check_floats(x)
        a, b = self._at(t, x, self.coefficients)
        on_cpu = not isinstance(a, Tensor) or a.device.type == "cpu"
        if on_cpu and bool((torch.as_tensor(a) == 0).any()):
            raise ValueError(
                f"at t = {t} nothing is left of the data (a = 0), and the SDE has no finite drift: "
                "start below it"
            )
        return a, b

    def _at(
        self, t: Time, x: Tensor, function: Callable[[Tensor], Any], ranged: bool = True
    ) -> Any:
        """What the function says at t, in double precision: floats, or tensors (B, 1, ...)."""
        if ranged:
            self.check_time(t)
        if isinstance(t, Tensor):
            self._check_kind(t)
            check_floats(x)
            t = t if self.times_are_whole else t.to(exact(t))
            return tuple(expand(v, x) for v in function(t))
        if isinstance(t, bool) or not isinstance(t, int | float):
            raise ValueError(f"a time is a number or a tensor, got {type(t).__name__}")
        dtype = torch.int64 if self.times_are_whole else torch.float64
        return tuple(float(v) for v in function(torch.tensor(t, dtype=dtype)))


def _mixed_std(beta_tilde: Coefficient, beta: Coefficient, var_mix: float | Tensor) -> Coefficient:
    """√(β^v β̃^(1−v)) with v = ``var_mix``."""
    if isinstance(var_mix, Tensor):
        check_floats(var_mix, "var_mix")
        return torch.sqrt(beta**var_mix * beta_tilde ** (1 - var_mix))
    if not isinstance(var_mix, int | float):
        raise ValueError(f"var_mix is a number or a tensor, got {type(var_mix).__name__}")
    if not 0 <= var_mix <= 1:
        raise ValueError(f"var_mix must lie in [0, 1] (0: beta_tilde, 1: beta), got {var_mix}")
    # The powers of plain floats keep 0 ** 0 == 1, so s = 0 needs no clipped logarithm.
    return float((beta**var_mix * beta_tilde ** (1 - var_mix)) ** 0.5)


def check_noisy(process: Process, t: Time) -> None:
    """Raise ValueError at the time of clean data, among checked times; not read from a GPU."""
    on_cpu = not isinstance(t, Tensor) or t.device.type == "cpu"
    if on_cpu and bool((torch.as_tensor(t) == process.clean).any()):
        raise ValueError(
            f"clean data (t = {process.clean:g}) hold no noise to solve for; take a noisier time"
        )


def check_eta(eta: float) -> None:
    """Raise ValueError unless 0 ≤ η ≤ 1."""
    if not isinstance(eta, int | float) or not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in [0, 1] (0 is DDIM, 1 is DDPM), got {eta}")
