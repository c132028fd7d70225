"""The forward process and its exact reversal: everything about noise, nothing about networks.

Tables run over t = 0..T in float64; t = 0 is clean data, so ``alpha_bar[0] == 1`` and "the step
before the first" needs no special case. Where a method takes a time it takes an int (one time for
the whole batch, coefficients are then plain floats and nothing waits for a GPU) or a LongTensor of
shape (B,) on the device of the data.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ddpmlib.broadcast import Coefficient, Time, cast, check_same_shape, expand, weighted_sum
from ddpmlib.equations import equation
from ddpmlib.prediction import Prediction


class DDPM:
    """Gaussian forward process x_t = √ᾱ_t x_0 + √(1−ᾱ_t) ε (Ho et al. 2020).

    Args:
        beta: shape (T+1,) with ``beta[0] == 0``, see :mod:`ddpmlib.process.schedules`.

    Attributes:
        T: number of steps.
        beta: β_t; like all that follow a float64 table of shape (T+1,) on the CPU.
        alpha: 1 − β_t.
        alpha_bar: ᾱ_t, the product of all α up to t.
        beta_tilde: β̃_t, the variance of q(x_{t−1}|x_t, x_0); 0 at t = 0 and 1.
        scale: √ᾱ_t, which the kernel q(x_t|x_0) multiplies x_0 with.
        std: √(1−ᾱ_t), its standard deviation.

    Raises:
        ValueError: if ``beta`` is not such a table (0 < β_t < 1; β_T = 1 is allowed).
    """

    def __init__(self, beta: Tensor) -> None:
        self.beta = _checked_beta(beta)
        self.T = len(self.beta) - 1
        self.alpha = 1 - self.beta
        self.alpha_bar = self.alpha.cumprod(0)
        self.scale = self.alpha_bar.sqrt()
        self.std = (1 - self.alpha_bar).sqrt()
        before = torch.cat([self.alpha_bar[:1], self.alpha_bar[:-1]])
        self.beta_tilde = torch.zeros_like(self.beta)
        self.beta_tilde[1:] = ((1 - before) / (1 - self.alpha_bar) * self.beta)[1:]
        self._alpha_bars: list[float] = (
            self.alpha_bar.tolist()
        )  # for single times, without a tensor
        self._on_device: dict[tuple[str, torch.device], Tensor] = {}

    def __repr__(self) -> str:
        return f"DDPM(T={self.T}, alpha_bar_T={float(self.alpha_bar[-1]):.3g})"

    # ---- forward -------------------------------------------------------------------------

    def kernel(self, t: Time, x: Tensor) -> tuple[Coefficient, Coefficient]:
        """Scale √ᾱ_t and std √(1−ᾱ_t) of q(x_t|x_0), ready to multiply ``x`` (B, ...)."""
        if not x.is_floating_point():
            raise ValueError(f"data must be floating point, images in [-1, 1], got {x.dtype}")
        a = self._alpha_bar(t, x)
        return cast(a**0.5, x), cast((1 - a) ** 0.5, x)

    @equation("1.6")
    def q_sample(self, x0: Tensor, t: Time, eps: Tensor) -> Tensor:
        """Jump from clean data to time t in one draw (Ho et al. 2020, eq. 4).

        Args:
            x0: clean data, (B, ...); images are in [-1, 1].
            t: 0..T, an int or (B,).
            eps: standard normal, shape of ``x0``.

        Returns:
            x_t, shape of ``x0``.

        Raises:
            ValueError: if a time leaves 0..T or ``eps`` has another shape.
        """
        check_same_shape(x0, eps, "eps")
        scale, std = self.kernel(t, x0)
        return scale * x0 + std * eps

    @equation("1.1", "1.2")
    def q_step(self, x_prev: Tensor, t: int, noise: Tensor) -> Tensor:
        """One forward step from t−1 to t (Ho et al. 2020, eq. 2): √(1−β_t) x_{t−1} + √β_t noise.

        Raises:
            ValueError: if t is not in 1..T or ``noise`` has another shape than ``x_prev``.
        """
        if not isinstance(t, int) or not 1 <= t <= self.T:
            raise ValueError(f"a forward step arrives at one time, an int in 1..{self.T}, got {t}")
        check_same_shape(x_prev, noise, "noise")
        beta = float(self.beta[t])
        return (1 - beta) ** 0.5 * x_prev + beta**0.5 * noise

    # ---- reverse -------------------------------------------------------------------------

    @equation("2.7", "2.8", "2.10")
    def posterior(self, x_t: Tensor, x0: Tensor, t: Time, s: Time) -> tuple[Tensor, Coefficient]:
        """Mean and standard deviation of q(x_s | x_t, x_0) for any s < t.

        With s = t−1 these are μ̃_t and √β̃_t of Ho et al. (2020, eqs. 6 and 7).

        Args:
            x_t, x0: same shape (B, ...).
            t, s: times with 0 ≤ s < t ≤ T, ints or (B,).

        Returns:
            mean, shape of ``x_t``; std, a float or (B, 1, ...).

        Raises:
            ValueError: if the times are not ordered like that or the shapes differ.
        """
        self._check_pair(t, s)
        check_same_shape(x_t, x0, "x0")
        a_t, a_s = self._alpha_bar(t, x_t), self._alpha_bar(s, x_t)
        on_x0 = a_s**0.5 * (1 - a_t / a_s) / (1 - a_t)
        on_x_t = (a_t / a_s) ** 0.5 * (1 - a_s) / (1 - a_t)
        mean = cast(on_x0, x_t) * x0 + cast(on_x_t, x_t) * x_t
        return mean, cast(self._beta_tilde(a_t, a_s) ** 0.5, x_t)

    def variances(
        self, t: Time, s: Time, x: Tensor | None = None
    ) -> tuple[Coefficient, Coefficient]:
        """β̃ and β of the stride t → s: the two ends of the range of the reverse variance.

        β = 1 − ᾱ_t/ᾱ_s is the variance of q(x_t|x_s); β̃ is that of q(x_s|x_t, x_0), which is zero
        at s = 0 (Ho et al. 2020, section 3.2).

        Args:
            t, s: times with 0 ≤ s < t ≤ T, ints or (B,).
            x: the data (B, ...) that (B,) times belong to; not needed for ints.

        Returns:
            two floats, or two tensors (B, 1, ...) in the dtype of ``x``.

        Raises:
            ValueError: if the times are not ordered like that, or are (B,) without ``x``.
        """
        self._check_pair(t, s)
        if x is None and (isinstance(t, Tensor) or isinstance(s, Tensor)):
            raise ValueError("times of shape (B,) need the data x (B, ...) that they belong to")
        x = self.alpha_bar if x is None else x
        a_t, a_s = self._alpha_bar(t, x), self._alpha_bar(s, x)
        return cast(self._beta_tilde(a_t, a_s), x), cast(1 - a_t / a_s, x)

    @equation("2.14", "6.5")
    def posterior_std(self, t: int, s: int, var_mix: float | Tensor = 0.0) -> Coefficient:
        """Standard deviation of the reverse step t → s, the slides' σ_t.

        ``var_mix`` places the variance between β̃ (0) and β (1) in log space, both taken for the
        stride t → s (Nichol & Dhariwal 2021, eq. 15); at s = 0 it is 0 for ``var_mix`` < 1.

        Returns:
            a float, or a tensor of the shape of ``var_mix``.

        Raises:
            ValueError: if not 0 ≤ s < t ≤ T, or if a number ``var_mix`` leaves [0, 1].
        """
        self._check_pair(t, s)
        if not isinstance(var_mix, Tensor) and not 0 <= var_mix <= 1:
            raise ValueError(f"var_mix must lie in [0, 1] (0: beta_tilde, 1: beta), got {var_mix}")
        beta_tilde, beta = self.variances(t, s)
        # The powers of plain floats keep 0 ** 0 == 1, so s = 0 needs no clipped logarithm.
        if isinstance(var_mix, Tensor):
            return (beta**var_mix * beta_tilde ** (1 - var_mix)).sqrt()
        return float((beta**var_mix * beta_tilde ** (1 - var_mix)) ** 0.5)

    @equation("3.7", "7.2", "7.9", "7.10")
    def step(
        self,
        x_t: Tensor,
        prediction: Prediction,
        t: int,
        s: int,
        eta: float = 1.0,
        noise: Tensor | None = None,
    ) -> Tensor:
        """Draw x_s given x_t and a guess of x_0: the one reverse step of every sampler here.

        x_s = √ᾱ_s x̂_0 + √(1−ᾱ_s−η²β̃) ε̂ + η σ noise, with ε̂ the noise that x̂_0 implies
        (Song et al. 2021, DDIM, eqs. 12 and 16). η = 1 is ancestral sampling (Ho et al. 2020,
        Algorithm 2) with σ set by ``prediction.var_mix``; η = 0 is deterministic DDIM.
        The last step, s = 0, adds no noise.

        Args:
            x_t: (B, ...).
            prediction: x̂_0 of the same shape and the place of the variance.
            t, s: ints with 0 ≤ s < t ≤ T.
            eta: in [0, 1].
            noise: standard normal of the same shape; needed unless η = 0 or s = 0.

        Raises:
            ValueError: if times, η, shapes are not as above or the noise is missing.
        """
        if not (isinstance(t, int) and isinstance(s, int)):
            raise ValueError(f"a step goes from one time to another, both ints, got {t} and {s}")
        self._check_pair(t, s)
        check_same_shape(x_t, prediction.x0, "prediction.x0")
        check_eta(eta)
        a_t, a_s = self._alpha_bars[t], self._alpha_bars[s]
        left = 1 - a_s - eta**2 * self._beta_tilde(a_t, a_s)
        # 1 − ᾱ_s − β̃ is never negative, but its rounding error may be.
        on_x_t = (max(left, 0.0) / (1 - a_t)) ** 0.5
        mean = weighted_sum(a_s**0.5 - on_x_t * a_t**0.5, prediction.x0, on_x_t, x_t)
        if s == 0 or eta == 0:
            return mean
        if noise is None:
            raise ValueError(f"the step {t} → {s} with eta = {eta} draws: give it noise")
        check_same_shape(x_t, noise, "noise")
        if isinstance(prediction.var_mix, Tensor):
            check_same_shape(x_t, prediction.var_mix, "prediction.var_mix")
        std = eta * self.posterior_std(t, s, prediction.var_mix)
        return weighted_sum(1, mean, std, noise)

    @equation("3.5")
    def eps_from_x0(self, x_t: Tensor, x0: Tensor, t: Time) -> Tensor:
        """The noise that a guess of x_0 implies: (x_t − √ᾱ_t x_0) / √(1−ᾱ_t), for t ≥ 1.

        Raises:
            ValueError: if t = 0, or if the shapes differ.
        """
        check_same_shape(x_t, x0, "x0")
        scale, std = self.kernel(t, x_t)
        on_cpu = not isinstance(t, Tensor) or t.device.type == "cpu"
        if on_cpu and bool((torch.as_tensor(t) == 0).any()):
            raise ValueError("clean data (t = 0) hold no noise to solve for; use t in 1..T")
        return (x_t - scale * x0) / std

    @equation("10.1")
    def score_from_x0(self, x_t: Tensor, x0: Tensor, t: Time) -> Tensor:
        """The score that a guess of x_0 implies: (√ᾱ_t x_0 − x_t) / (1−ᾱ_t), for t ≥ 1.

        With x_0 = E[x_0|x_t] it is ∇ log q(x_t) (Tweedie's formula; Efron 2011).

        Raises:
            ValueError: if t = 0, or if the shapes differ.
        """
        _, std = self.kernel(t, x_t)
        return -self.eps_from_x0(x_t, x0, t) / std

    # ---- look-ups ------------------------------------------------------------------------

    def _alpha_bar(self, t: Time, x: Tensor) -> Coefficient:
        self._check_time(t)
        if isinstance(t, Tensor):
            return expand(self.table("alpha_bar", t.device)[t], x)
        return self._alpha_bars[t]

    def table(self, name: str, device: torch.device) -> Tensor:
        """One of the tables, (T+1,), on a device to which it travels only once.

        Args:
            name: "beta", "alpha", "alpha_bar", "beta_tilde", "scale" or "std".
            device: where it is looked up.
        """
        if (name, device) not in self._on_device:
            # Apple's GPU has no float64; everywhere else coefficients are formed in it.
            dtype = torch.float32 if device.type == "mps" else torch.float64
            self._on_device[name, device] = getattr(self, name).to(device=device, dtype=dtype)
        return self._on_device[name, device]

    @staticmethod
    def _beta_tilde(a_t: Coefficient, a_s: Coefficient) -> Coefficient:
        return (1 - a_s) / (1 - a_t) * (1 - a_t / a_s)

    def _check_time(self, t: Time) -> None:
        if isinstance(t, Tensor):
            if t.dtype != torch.int64:
                raise ValueError(f"times must be an int or an int64 tensor, got {t.dtype}")
            # Looking into a GPU tensor would make the CPU wait, so only CPU times are ranged.
            if (
                t.device.type == "cpu"
                and t.numel()
                and not 0 <= int(t.min()) <= int(t.max()) <= self.T
            ):
                raise ValueError(
                    f"times must lie in 0..{self.T}, got {int(t.min())}..{int(t.max())}"
                )
        elif not isinstance(t, int) or isinstance(t, bool):
            raise ValueError(f"times must be an int or an int64 tensor, got {type(t).__name__}")
        elif not 0 <= t <= self.T:
            raise ValueError(f"times must lie in 0..{self.T}, got {t}")

    def _check_pair(self, t: Time, s: Time) -> None:
        self._check_time(t)
        self._check_time(s)
        below = s < t
        on_gpu = isinstance(below, Tensor) and below.device.type != "cpu"
        if not on_gpu and not (below.all() if isinstance(below, Tensor) else below):
            raise ValueError(f"a reverse step goes down in time, s < t, but got t = {t}, s = {s}")


def check_eta(eta: float) -> None:
    """Raise ValueError unless 0 ≤ η ≤ 1."""
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in [0, 1] (0 is DDIM, 1 is DDPM), got {eta}")


def _checked_beta(beta: Tensor) -> Tensor:
    beta = torch.as_tensor(beta).detach().to(device="cpu", dtype=torch.float64, copy=True)
    if beta.ndim != 1 or len(beta) < 2 or beta[0] != 0:
        raise ValueError(
            "beta must be a table of shape (T+1,) with beta[0] == 0, see ddpmlib.process.schedules"
        )
    inside = (beta[1:] > 0) & (beta[1:] < 1)
    inside[-1] |= beta[-1] == 1
    if not bool(inside.all()):
        t = int(torch.nonzero(~inside)[0]) + 1
        raise ValueError(f"beta must lie in (0, 1) at t = 1..T, but beta[{t}] = {float(beta[t]):g}")
    return beta
