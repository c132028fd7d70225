"""From data to latents and between them: DDIM inversion, spherical interpolation."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ddpmlib.broadcast import Time, check_alike, expand, flat_mean
from ddpmlib.condition import Condition
from ddpmlib.equations import equation
from ddpmlib.inputs import check_floats, check_readable, check_whole
from ddpmlib.prediction import AnyDenoiser, Denoise
from ddpmlib.process.process import Process
from ddpmlib.samplers.loop import check_same_process, walk
from ddpmlib.samplers.noise import NoiseSource
from ddpmlib.samplers.state import State
from ddpmlib.samplers.times import checked_times

CONVERGED = 1e-3  # RMS, of states whose values are about 1
REACH = 1e3  # how far the search steps beyond its guesses, in units of their distance


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
    check_floats(a, "a")
    check_floats(b, "b")
    if a.shape != b.shape or a.ndim < 2:
        raise ValueError(
            f"slerp needs two tensors of one shape (B, ...), got {tuple(a.shape)} and "
            f"{tuple(b.shape)}"
        )
    check_alike(a, b, "b")
    check_readable(a, "a")
    if not isinstance(weight, int | float):
        check_floats(weight, "weight")
        check_readable(weight, "weight")
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
    takes ε̂ at x_s and is exact only for small steps. Further ones are mixed with the one before,
    sample by sample, so that what they miss x_s by becomes least (Anderson 1965, with a memory of
    one): the inverse of :func:`~ddpmlib.samplers.loop.sample` to rounding error where that
    converges. Where it does not, the best guess so far is kept, and a warning says so at the end.

    Args:
        denoiser, process, y: as in
            :func:`~ddpmlib.samplers.loop.sample`.
        x: the state at ``times[-1]``, clean data when that is 0.
        times: the falling times that will decode, walked from the end to the start.
        refine: network calls per step, at least 1.

    Yields:
        the starting state, then one per step, up to ``times[0]``, with its
        :attr:`~ddpmlib.samplers.state.State.residual`.

    Raises:
        ValueError: if times do not fall within 0..T or ``refine`` < 1.
    """
    check_whole("refine counts network calls per step and", refine)
    check_same_process(denoiser, process)
    rising, step = checked_times(process, times)[::-1], _Inversion(refine)
    return _watched(walk(denoiser, process, x, rising, step, y), step)


def _watched(states: Iterator[State], step: _Inversion) -> Iterator[State]:
    """The same states; after the last one a warning if the iteration did not converge."""
    yield from states
    # Looked at once, at the end: in the loop the CPU would wait for a GPU.
    lost = int(torch.stack(step.stuck).any(0).sum()) if step.stuck else 0
    if lost:
        warnings.warn(
            f"the inversion did not converge for {lost} of {len(step.stuck[0])} samples within "
            f"refine = {step.refine} calls per step, and kept the best guesses: take more steps, "
            "or see State.residual for how good they are",
            stacklevel=2,
        )


@dataclass(frozen=True)
class _Guess:
    """A guess of x_t, what the network says there, and what the fixed-point map makes of it."""

    x: Tensor
    x0: Tensor
    image: Tensor

    @property
    def miss(self) -> Tensor:
        return self.image - self.x

    @property
    def residual(self) -> Tensor:
        """RMS of what the map still moves, (B,)."""
        return flat_mean(self.miss**2).sqrt()

    def where(self, mask: Tensor, other: _Guess) -> _Guess:
        """This guess for the samples of the mask (B,), the other's for the rest."""
        mask, a, b = expand(mask, self.x), vars(self), vars(other)
        return _Guess(*(torch.where(mask, a[k], b[k]) for k in ("x", "x0", "image")))

    def mixed(self, other: _Guess) -> Tensor:
        """The image of that point between both guesses, and beyond, whose miss is least.

        The miss is taken as linear between the two, sample by sample.
        """
        turn = self.miss - other.miss
        share = flat_mean(turn * self.miss) / flat_mean(turn**2).clamp(
            min=torch.finfo(turn.dtype).tiny
        )
        share = expand(share.clamp(-REACH, REACH), self.x)
        return self.image - share * (self.image - other.image)


@dataclass(frozen=True)
class _Inversion:
    """The DDIM step that would lead from t down to s, solved for x_t."""

    refine: int
    stuck: list[Tensor] = field(default_factory=list)  # of each step: for which samples, (B,)

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

        def asked(guess: Tensor) -> _Guess:
            x0 = denoise(guess, t).x0
            eps = process.eps_from_x0(guess, x0, t)
            return _Guess(guess, x0, scale_t / scale_s * (x - std_s * eps) + std_t * eps)

        best = asked(x)
        found = best.image
        for _ in range(self.refine - 1):
            now = asked(found)
            better = now.residual < best.residual
            best, other = now.where(better, best), best.where(better, now)
            found = best.mixed(other)
        if self.refine > 1:  # a last guess that was worse than another ends the search
            found = torch.where(expand(better, x), found, best.x)
            self.stuck.append(~better & (best.residual > CONVERGED))
        return State(t, found, best.x0, best.residual)
