"""Training objectives, one number per sample; how times are weighted, and how they are drawn."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ddpmlib.broadcast import flat_mean
from ddpmlib.condition import Condition, as_condition, chosen, count, device_of, emptied
from ddpmlib.denoiser.denoiser import Denoiser
from ddpmlib.equations import equation
from ddpmlib.inputs import as_floats
from ddpmlib.likelihood.bound import bits_per_dim, reverse_step_term
from ddpmlib.likelihood.decoders import Decoder, discretised
from ddpmlib.losses.times import Times, uniform_over
from ddpmlib.prediction import Prediction

VLB_SHARE = 1e-3  # λ of Nichol & Dhariwal (2021, section 3.1)


@equation("3.2")
def l_simple(
    denoiser: Denoiser, x0: Tensor, t: Tensor, eps: Tensor, y: Condition | None = None
) -> Tensor:
    """Squared error of the network's output, unweighted (Ho et al. 2020, eq. 14).

    For an ε-network this is L_simple itself; an x_0- or v-network regresses on its own target,
    which weights the times differently.

    Args:
        denoiser: network, process and parameterization.
        x0: clean data (B, ...), images in [-1, 1].
        t: times (B,), int64 in 1..T.
        eps: standard normal, shape of ``x0``.
        y: class labels (B,) or None.

    Returns:
        the loss of each sample, (B,), in the dtype of ``x0``.

    Raises:
        ValueError: if arguments are not as above.
    """
    x0, eps = as_floats(x0, "x0"), as_floats(eps, "eps")
    x_t = denoiser.process.q_sample(x0, t, eps)
    output, _ = denoiser.raw(x_t, t, y)
    return _squared_error(denoiser, output, x0, t, eps)


@equation("6.7")
def l_vlb(
    denoiser: Denoiser,
    x0: Tensor,
    t: Tensor,
    eps: Tensor,
    y: Condition | None = None,
    decoder: Decoder = discretised,
) -> Tensor:
    """One-term estimate of the variational bound: T · L_{t−1}, in bits per dimension.

    With t uniform on 1..T its mean is the bound without L_T, which no network can change (Ho et
    al. 2020, eq. 5); t = 1 is the ``decoder``. Other arguments as in :func:`l_simple`.

    Returns:
        (B,), in the dtype of ``x0``.
    """
    x0, eps = as_floats(x0, "x0"), as_floats(eps, "eps")
    x_t = denoiser.process.q_sample(x0, t, eps)
    return _vlb(denoiser, x0, x_t, t, denoiser(x_t, t, y), decoder)


@equation("6.9")
def l_hybrid(
    denoiser: Denoiser,
    x0: Tensor,
    t: Tensor,
    eps: Tensor,
    y: Condition | None = None,
    decoder: Decoder = discretised,
    share: float = VLB_SHARE,
) -> Tensor:
    """L_simple + λ L_vlb, where L_vlb sees the mean but may only move the variance.

    The mean is detached in the second term, so that L_simple alone decides about it (Nichol &
    Dhariwal 2021, eq. 16). Arguments as in :func:`l_vlb`; ``share`` is λ.

    Returns:
        (B,), in the dtype of ``x0``.
    """
    x0, eps = as_floats(x0, "x0"), as_floats(eps, "eps")
    x_t = denoiser.process.q_sample(x0, t, eps)
    output, var_mix = denoiser.raw(x_t, t, y)
    frozen = denoiser.read(output.detach(), var_mix, x_t, t)
    vlb = _vlb(denoiser, x0, x_t, t, frozen, decoder)
    return _squared_error(denoiser, output, x0, t, eps) + share * vlb


def _squared_error(
    denoiser: Denoiser, output: Tensor, x0: Tensor, t: Tensor, eps: Tensor
) -> Tensor:
    scale, std = denoiser.process.kernel(t, x0)
    target = denoiser.parameterization.target(x0, eps, scale, std)
    return flat_mean((output - target) ** 2)


def _vlb(
    denoiser: Denoiser,
    x0: Tensor,
    x_t: Tensor,
    t: Tensor,
    prediction: Prediction,
    decoder: Decoder,
) -> Tensor:
    process = denoiser.process
    if not process.times_are_whole:
        raise ValueError(f"the bound's terms are those of a chain of steps, and {process} has none")
    term = reverse_step_term(process, x0, x_t, prediction, t, t - 1, decoder)
    return process.end * bits_per_dim(flat_mean(term), 1)


Objective = Callable[[Denoiser, Tensor, Tensor, Tensor, Condition | None], Tensor]
"""(denoiser, x0, t (B,), eps, y) -> the loss of each sample, (B,)."""


@equation("11.4")
def diffusion_loss(
    model: Denoiser,
    x: Tensor,
    y: Condition | None,
    generator: torch.Generator,
    label_dropout: float = 0.0,
    objective: Objective = l_simple,
    times: Times | None = None,
) -> Tensor:
    """A loss at random times (Algorithm 1 of Ho et al. 2020), mean over the batch.

    Args:
        model: the denoiser; its network must take conditions where they are given.
        x: clean data (B, ...), images in [-1, 1].
        y: the condition, see :func:`ddpmlib.condition.as_condition`: labels, for example; None for
            unconditional training.
        generator: source of times, noise and label dropout, on the device of ``x``.
        label_dropout: probability that a sample's condition is dropped (Ho & Salimans 2022).
        objective: the loss of each sample, by default L_simple.
        times: how times are drawn, by default uniformly.

    Raises:
        ValueError: if ``times`` are those of another process, a condition is to be dropped and
            the network cannot be without, there is not one per sample, the batch is empty, or the
            probability is none.
    """
    if not 0 <= label_dropout <= 1:
        raise ValueError(f"label_dropout must lie in [0, 1], got {label_dropout}")
    x = as_floats(x, "x")
    if not x.ndim or not len(x):
        raise ValueError("the mean loss of no samples is no number: give a batch (B, ...), B >= 1")
    y = as_condition(y, x)
    times = uniform_over(model.process) if times is None else times
    times.check(model.process)
    t, weight = times.draw(len(x), generator)
    # Drawn in float32 whatever x is: one seed, one noise.
    eps = torch.randn(x.shape, device=x.device, generator=generator).to(x.dtype)
    if y is not None and label_dropout > 0:
        y = dropped(model, y, label_dropout, generator)
    losses = objective(model, x, t, eps, y)
    times.update(t, losses)
    return (weight * losses).mean()


def dropped(model: Denoiser, y: Condition, share: float, generator: torch.Generator) -> Condition:
    """The condition, emptied for a random share of the samples.

    Raises:
        ValueError: if the network cannot be without a condition.
    """
    none = emptied(model, y)
    drop = torch.rand(count(y), device=device_of(y), generator=generator) < share
    return chosen(drop, none, y)
