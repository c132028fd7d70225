"""The variational bound on −log p(x_0), term by term: L_T, every L_{t−1}, and L_0.

All terms are in nats, summed over the dimensions of a sample; :func:`bits_per_dim` converts. A
chain may skip times: the bound holds for any falling sequence that ends at 0.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor

from ddpmlib.broadcast import Time, check_alike, check_broadcast, exact
from ddpmlib.condition import Condition, as_condition
from ddpmlib.equations import equation
from ddpmlib.inputs import as_floats, check_floats, check_readable, check_whole
from ddpmlib.likelihood.decoders import Decoder, discretised
from ddpmlib.prediction import AnyDenoiser, Prediction
from ddpmlib.process.process import Process
from ddpmlib.samplers.times import checked_times

Nats = TypeVar("Nats", float, Tensor)


@equation("4.7")
def gaussian_kl(mean_q: Tensor, log_var_q: Tensor, mean_p: Tensor, log_var_p: Tensor) -> Tensor:
    """KL(N(mean_q, var_q) ‖ N(mean_p, var_p)) of each dimension, in nats; shapes broadcast.

    Raises:
        ValueError: if the four are not floats of one dtype that broadcast.
    """
    check_broadcast(mean_q, log_var_q, mean_p, log_var_p)
    log_ratio = log_var_q - log_var_p
    # expm1: at large t the variances nearly agree, and their ratio minus one would cancel away.
    spread = torch.expm1(log_ratio) - log_ratio
    return 0.5 * (spread + (mean_q - mean_p) ** 2 * torch.exp(-log_var_p))


@dataclass(frozen=True)
class Bound:
    """The bound of each sample, in nats, term by term.

    Attributes:
        prior: L_T = KL(q(x_T|x_0) ‖ N(0, I)), (B,).
        steps: KL(q(x_s|x_t, x_0) ‖ p(x_s|x_t)) of each step that does not end at 0, (B, K−1), in
            the order of the walk down.
        decoder: L_0 = −log p(x_0|x_1), (B,).
        times: the K+1 times of the chain.
        dims: dimensions of a sample.
    """

    prior: Tensor
    steps: Tensor
    decoder: Tensor
    times: list[Any]
    dims: int

    @property
    @equation("4.6")
    def total(self) -> Tensor:
        """The bound L_T + Σ L_{t−1} + L_0 ≥ −log p(x_0), (B,)."""
        return self.prior + self.steps.sum(1) + self.decoder

    @property
    def bits_per_dim(self) -> Tensor:
        """The bound in bits per dimension, (B,)."""
        return bits_per_dim(self.total, self.dims)


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard error, from ``n`` independent samples."""

    mean: float
    standard_error: float
    n: int


@equation("4.14")
def bits_per_dim(nats: Nats, dims: int) -> Nats:
    """Nats per sample -> bits per dimension: a number or a tensor, same shape.

    Raises:
        ValueError: if ``dims`` is less than 1.
    """
    check_whole("a sample has at least one dimension: dims", dims)
    if not isinstance(nats, int | float):
        check_floats(nats, "nats")
    return nats / (dims * math.log(2))


@equation("4.8")
def prior_term(process: Process, x0: Tensor, t: Time | None = None) -> Tensor:
    """L_T = KL(q(x_T|x_0) ‖ N(0, I)) in nats, (B,); at another time than T if ``t`` is given.

    Where a process says another ``prior_std`` σ than 1, the prior is N(0, σ² I).

    Raises:
        ValueError: if not 1 ≤ t ≤ T: at t = 0 the kernel is a point and the term infinite.
    """
    t = process.end if t is None else t
    if isinstance(t, Tensor):
        raise ValueError(f"L_T is taken at one time for all, a number, got a tensor {t}")
    x0 = as_floats(x0, "x0")
    scale, std = process.kernel(t, x0)
    if t == process.clean:
        raise ValueError("a chain starts in noise: L_T needs a time in 1..T, got 0")
    log_var = torch.as_tensor(2 * math.log(std), dtype=x0.dtype, device=x0.device)
    zero = torch.zeros((), dtype=x0.dtype, device=x0.device)
    log_prior = zero + 2 * math.log(process.prior_std)
    return _sum(gaussian_kl(scale * x0, log_var, zero, log_prior))


@equation("4.9")
def reverse_step_term(
    process: Process,
    x0: Tensor,
    x_t: Tensor,
    prediction: Prediction,
    t: Time,
    s: Time,
    decoder: Decoder = discretised,
    floor: float | None = None,
) -> Tensor:
    """The bound's term of the reverse step t → s, of each dimension, in nats.

    KL(q(x_s|x_t, x_0) ‖ p(x_s|x_t)) for s > 0, and −log p(x_0|x_t) for s = 0.

    Args:
        process: the forward process.
        x0, x_t: data and noisy data, (B, ...).
        prediction: the denoiser's prediction at (x_t, t).
        t, s: times with 0 ≤ s < t ≤ T, ints or (B,).
        decoder: :func:`discretised` for 8-bit images in [−1, 1], :func:`continuous` for real data.
        floor: the variance that stands for β̃ = 0 in the decoder, by default β̃_2 as in Nichol &
            Dhariwal (2021); β_1 if T = 1.

    Returns:
        shape of ``x0``.

    Raises:
        ValueError: if ``floor`` is not positive, or times and shapes are not as above.
    """
    check_alike(x0, x_t, "x_t")
    check_alike(x0, prediction.x0, "prediction.x0")
    if not isinstance(prediction.var_mix, int | float):
        check_alike(x0, prediction.var_mix, "prediction.var_mix")
    if floor is None:
        floor = decoder_floor(process, _last_times(process))
    if not floor > 0:
        raise ValueError(f"a decoder of variance {floor} gives data no probability: set floor > 0")
    ends = process.variances(t, s, x0)
    beta_tilde, beta = (torch.as_tensor(v, dtype=x0.dtype, device=x0.device) for v in ends)
    lower = torch.where(beta_tilde > 0, beta_tilde, floor).log()
    log_var = prediction.var_mix * beta.log() + (1 - prediction.var_mix) * lower
    mean, _ = process.posterior(x_t, prediction.x0, t, s)
    if not isinstance(s, Tensor) and s == process.clean:
        return -decoder(x0, mean, log_var)
    truth, _ = process.posterior(x_t, x0, t, s)
    kl = gaussian_kl(truth, lower, mean, log_var)
    if not isinstance(s, Tensor):
        return kl
    last = (s == process.clean).reshape(-1, *[1] * (x0.ndim - 1))
    return torch.where(last, -decoder(x0, mean, log_var), kl)


def _last_times(process: Process) -> list[int]:
    if not process.times_are_whole:
        raise ValueError(f"{process} has no last step of its own: give the decoder's floor")
    return [2, 1, 0] if process.end > 1 else [1, 0]


def decoder_floor(process: Process, times: Sequence[Time]) -> float:
    """β̃ of the last step but one, which stands in for β̃ = 0 in the last step of a chain.

    A chain of one step has none: then β of that step.
    """
    if len(times) < 3:
        return float(process.variances(times[0], times[1])[1])
    return float(process.variances(times[-3], times[-2])[0])


@torch.no_grad()
def elbo(
    denoiser: AnyDenoiser,
    process: Process,
    x0: Tensor,
    times: Sequence[Time] | None = None,
    *,
    y: Condition | None = None,
    decoder: Decoder = discretised,
    generator: torch.Generator | None = None,
) -> Bound:
    """The bound as the full sum over a chain, with one draw of x_t per step and sample.

    Each term is an unbiased estimate of its expectation over x_t; average over samples, or call
    again, for a sharper one.

    Args:
        denoiser: network or oracle.
        process: the forward process.
        x0: data (B, ...); images in [−1, 1].
        times: falling times that end at 0, by default T, T−1, …, 0.
        y: labels (B,).
        decoder: see :func:`reverse_step_term`.
        generator: source of the noise, on the device of ``x0``.

    Raises:
        ValueError: if times do not fall from at most T to 0, the batch is empty, or the decoder
            is :func:`discretised` and the data are not 8-bit images in [−1, 1].
    """
    x0, times = as_floats(x0, "x0"), _chain(process, times)
    y = as_condition(y, x0)
    prior = prior_term(process, x0, times[0])
    _check_data(x0, decoder)
    floor, terms = decoder_floor(process, times), []
    for t, s in pairwise(times):
        eps = torch.randn(x0.shape, generator=generator, device=x0.device, dtype=x0.dtype)
        x_t = process.q_sample(x0, t, eps)
        prediction = denoiser(x_t, t, y)
        terms.append(_sum(reverse_step_term(process, x0, x_t, prediction, t, s, decoder, floor)))
    steps = torch.stack(terms[:-1], 1) if len(terms) > 1 else prior.new_zeros(len(x0), 0)
    return Bound(prior, steps, terms[-1], times, x0[0].numel())


@torch.no_grad()
@equation("4.15")
def elbo_monte_carlo(
    denoiser: AnyDenoiser,
    process: Process,
    x0: Tensor,
    times: Sequence[Time] | None = None,
    *,
    draws: int = 1,
    y: Condition | None = None,
    decoder: Decoder = discretised,
    generator: torch.Generator | None = None,
) -> Estimate:
    """The mean bound of a data set in nats, with ``draws`` random steps per sample, not all.

    The chain is cut into ``draws`` equal parts and each sample gets one random step of each part:
    unbiased as independent draws would be, with far less spread, since a few steps near the data
    hold most of the bound. The standard error is that of the mean over samples, so it holds both
    the spread of the data and that of the drawn steps.

    Args:
        denoiser, process, times, y, decoder, generator: as in :func:`elbo`.
        x0: data (B, ...), B ≥ 2.
        draws: steps drawn per sample, at least 1.

    Raises:
        ValueError: if ``draws`` < 1, B < 2, or as for :func:`elbo`.
    """
    x0 = as_floats(x0, "x0")
    check_whole("draws", draws)
    if not x0.ndim or len(x0) < 2:
        raise ValueError(f"need at least 2 samples, got data of shape {tuple(x0.shape)}")
    y = as_condition(y, x0)
    times = _chain(process, times)
    total = prior_term(process, x0, times[0])
    _check_data(x0, decoder)
    floor, chain = decoder_floor(process, times), _on_device(process, times, x0)
    K = len(times) - 1
    for part in range(draws):
        u = torch.rand(len(x0), generator=generator, device=x0.device)  # float32 whatever x0 is
        k = ((part + u) * K / draws).long().clamp(max=K - 1)
        t, s = chain[k], chain[k + 1]
        eps = torch.randn(x0.shape, generator=generator, device=x0.device, dtype=x0.dtype)
        x_t = process.q_sample(x0, t, eps)
        term = reverse_step_term(process, x0, x_t, denoiser(x_t, t, y), t, s, decoder, floor)
        total = total + K / draws * _sum(term)
    total = total.cpu().double()  # in this order: some GPUs have no float64
    return Estimate(float(total.mean()), float(total.std()) / len(x0) ** 0.5, len(x0))


def _chain(process: Process, times: Sequence[Time] | None) -> list[Any]:
    times = checked_times(process, times)
    if times[-1] != process.clean:
        raise ValueError(f"the bound is on clean data: times must end at 0, got {times[-1]}")
    return times


def _on_device(process: Process, times: Sequence[Time], x0: Tensor) -> Tensor:
    dtype = torch.int64 if process.times_are_whole else exact(x0)
    return torch.tensor(times, device=x0.device, dtype=dtype)


def _check_data(x0: Tensor, decoder: Decoder) -> None:
    check_readable(x0, "x0")
    if not x0.ndim or not len(x0) or not bool(torch.isfinite(x0).all()):
        raise ValueError("the bound needs at least one sample, and finite ones")
    if decoder is discretised:
        level = (x0 + 1) * 127.5
        if not bool(((level - level.round()).abs() < 1e-2).all()) or bool((x0.abs() > 1.001).any()):
            raise ValueError(
                "the discretised decoder is for 8-bit images in [-1, 1] (data.to_float), but these "
                f"lie in [{float(x0.min()):.3g}, {float(x0.max()):.3g}] or between the 256 levels; "
                "use decoder=continuous for other data"
            )


def _sum(x: Tensor) -> Tensor:
    return x.flatten(1).sum(1) if x.ndim > 1 else x
