"""From data to latents and between them: DDIM inversion, spherical interpolation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ddpmlib.broadcast import Time, expand
from ddpmlib.condition import Condition
from ddpmlib.equations import equation
from ddpmlib.prediction import AnyDenoiser, Denoise
from ddpmlib.process.process import Process
from ddpmlib.samplers.loop import check_same_process, walk
from ddpmlib.samplers.noise import NoiseSource
from ddpmlib.samplers.state import State
from ddpmlib.samplers.times import checked_times


@equation("7.15")
def slerp(a: Tensor, b: Tensor, weight: float | Tensor) -> Tensor:
    """Spherical interpolation from ``a`` (weight 0) to ``b`` (weight 1), sample by sample.

    The angle between two latents is divided evenly, so that norms stay those of Gaussian noise
    (Shoemake 1985; Song et al. 2021, DDIM, eq. 67).

    Args:
        a, b: (B, ...), the same shape, without zero vectors.
        weight: a number, or one per sample (B,).

    Returns:
        shape of ``a``.

    Raises:
        ValueError: if shapes differ, a vector is zero, two point in opposite directions, or there
            is not one weight or one per sample.
    """
    if a.shape != b.shape or a.ndim < 2:
        raise ValueError(
            f"slerp needs two tensors of one shape (B, ...), got {tuple(a.shape)} and "
            f"{tuple(b.shape)}"
        )
    norms = a.flatten(1).norm(dim=1) * b.flatten(1).norm(dim=1)
    cosine = (a * b).flatten(1).sum(1) / norms
    if not bool((norms > 0).all()) or bool((cosine < -1 + 1e-6).any()):
        raise ValueError("slerp needs vectors that are neither zero nor opposite to each other")
    angle = torch.acos(cosine.clamp(-1, 1))
    weight = torch.as_tensor(weight, dtype=a.dtype, device=a.device)
    if weight.shape not in ((), (len(a),)):
        raise ValueError(
            f"slerp needs one weight, or one per sample ({len(a)},), got {tuple(weight.shape)}"
        )
    weight = weight.expand(len(a))
    # Between parallel vectors the sphere is flat: sin(w θ) / sin θ tends to w.
    flat = angle < 1e-4
    safe = torch.where(flat, 1.0, angle)
    on_a = torch.where(flat, 1 - weight, torch.sin((1 - weight) * safe) / torch.sin(safe))
    on_b = torch.where(flat, weight, torch.sin(weight * safe) / torch.sin(safe))
    return expand(on_a, a) * a + expand(on_b, b) * b


@equation("3.9", "7.13")
def ddim_invert(
    denoiser: AnyDenoiser,
    process: Process,
    x: Tensor,
    times: Sequence[Time] | None = None,
    *,
    y: Condition | None = None,
    refine: int = 1,
) -> Iterator[State]:
    """Walk *up* the deterministic chain: the latent that DDIM (η = 0) decodes to ``x``.

    Each DDIM step x_t → x_s is solved for x_t by fixed-point iteration on the noise that the
    denoiser finds in x_t. One iteration is the usual encoder (Song et al. 2021, section 4.3), which
    takes ε̂ at x_s and is exact only for small steps; a few more make it the inverse of
    :func:`~ddpmlib.samplers.loop.sample` to rounding error wherever the iteration contracts.

    Args:
        denoiser, process, y: as in
            :func:`~ddpmlib.samplers.loop.sample`.
        x: the state at ``times[-1]``, clean data when that is 0.
        times: the falling times that will decode, walked from the end to the start.
        refine: network calls per step, at least 1.

    Yields:
        the starting state, then one per step, up to ``times[0]``.

    Raises:
        ValueError: if times do not fall within 0..T or ``refine`` < 1.
    """
    if refine < 1:
        raise ValueError(
            f"refine counts network calls per step and must be at least 1, got {refine}"
        )
    check_same_process(denoiser, process)
    rising = checked_times(process, times)[::-1]
    return walk(denoiser, process, x, rising, _Inversion(refine), y)


@dataclass(frozen=True)
class _Inversion:
    """The DDIM step that would lead from t down to s, solved for x_t."""

    refine: int

    def __call__(
        self,
        denoise: Denoise,
        process: Process,
        past: Sequence[State],
        t: Time,
        generator: NoiseSource,
    ) -> State:
        s, x = past[-1].t, past[-1].x
        (scale_s, std_s), (scale_t, std_t) = process.kernel(s, x), process.kernel(t, x)
        guess = x
        for _ in range(self.refine):
            x0 = denoise(guess, t).x0
            eps = process.eps_from_x0(guess, x0, t)
            guess = scale_t / scale_s * (x - std_s * eps) + std_t * eps
        return State(t, guess, x0)
