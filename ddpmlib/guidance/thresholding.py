"""Thresholds that keep a prediction in the range of images, and temperature."""

from __future__ import annotations

import math

from torch import Tensor

from ddpmlib.broadcast import Time, expand
from ddpmlib.condition import Condition
from ddpmlib.denoiser.denoiser import ProcessDenoiser
from ddpmlib.equations import equation
from ddpmlib.guidance.wrapper import Wrapper, signal_left
from ddpmlib.prediction import Prediction

# ---- thresholds and temperature ----------------------------------------------------------------


class StaticThreshold(Wrapper):
    """x̂_0 clipped to [−bound, bound], the range of images (Saharia et al. 2022, sec. 2.3).

    Args:
        denoiser: usually a guided one: clip after guidance.
        bound: positive.

    Raises:
        ValueError: if ``bound`` is not.
    """

    def __init__(self, denoiser: ProcessDenoiser, bound: float = 1.0) -> None:
        super().__init__(denoiser)
        if not 0 < bound < math.inf:
            raise ValueError(f"bound must be positive and finite, got {bound}")
        self.bound = bound

    @equation("11.12")
    def forward(self, x_t: Tensor, t: Time, y: Condition | None = None) -> Prediction:
        """The clipped prediction; arguments as for :class:`ddpmlib.denoiser.denoiser.Denoiser`."""
        prediction = self.denoiser(x_t, t, y)
        return Prediction(prediction.x0.clamp(-self.bound, self.bound), prediction.var_mix)


class DynamicThreshold(Wrapper):
    """x̂_0 clipped to ±s and divided by s, with s a high quantile of |x̂_0|, at least 1.

    Dynamic thresholding (Saharia et al. 2022, section 2.3): where guidance pushes many pixels of
    an image out of [−1, 1] all are pulled in, while clipping would saturate them. An image whose
    quantile lies inside [−1, 1] is clipped there, as by :class:`StaticThreshold`.

    Made for photographs. Where most pixels truly lie at an end of the range, as the background of
    MNIST and Fashion-MNIST does, a few that overshoot set s, and all are drawn off that end: with
    strong guidance that ruins the images (``data/results/guidance.json``). Clip those instead.

    Args:
        denoiser: usually a guided one: threshold after guidance.
        quantile: share of an image's pixels that is not clipped, in [0, 1]. 1 only rescales.

    Raises:
        ValueError: if ``quantile`` leaves [0, 1].
    """

    def __init__(self, denoiser: ProcessDenoiser, quantile: float = 0.995) -> None:
        super().__init__(denoiser)
        if not 0 <= quantile <= 1:
            raise ValueError(
                f"quantile is a share of pixels in [0, 1], 0.995 for 99.5 %, got {quantile}"
            )
        self.quantile = quantile

    @equation("11.12")
    def forward(self, x_t: Tensor, t: Time, y: Condition | None = None) -> Prediction:
        """The thresholded prediction; arguments as for :class:`ddpmlib.denoiser.Denoiser`."""
        prediction = self.denoiser(x_t, t, y)
        bound = expand(_quantile(prediction.x0.abs(), self.quantile).clamp(min=1), x_t)
        return Prediction(prediction.x0.clamp(-bound, bound) / bound, prediction.var_mix)


class Temperature(Wrapper):
    """The score divided by τ, that is ε̂/τ: below 1 sharper and less diverse.

    This is temperature as "scaling model score vectors" (Ho & Salimans 2022, section 1, who report
    that it blurs images where guidance does not), not the scaling of the step's noise: it edits
    the prediction, so it works in deterministic samplers too. It makes every *noised* density
    q(x_t) one with score ∇ log q/τ, yet what comes out is not q(x_0)^{1/τ}: for N(0, c) that has
    variance cτ, while ancestral sampling ends at cτ/(2−τ) for τ < 2, and DDIM shrinks (τ < 1) or
    grows (τ > 1) without bound with the noise that the chain starts from. τ = 1 returns the
    prediction as it is.

    Args:
        denoiser: what is sharpened.
        temperature: τ > 0.

    Raises:
        ValueError: if τ is not positive and finite.
    """

    def __init__(self, denoiser: ProcessDenoiser, temperature: float) -> None:
        super().__init__(denoiser)
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature must be positive and finite, got {temperature}")
        self.temperature = temperature

    def forward(self, x_t: Tensor, t: Time, y: Condition | None = None) -> Prediction:
        """The prediction with ε̂/τ; arguments as for :class:`ddpmlib.denoiser.denoiser.Denoiser`.

        Raises:
            ValueError: if τ ≠ 1 and ᾱ_t = 0, where nothing is left of the data.
        """
        prediction = self.denoiser(x_t, t, y)
        if self.temperature == 1:
            return prediction
        centre = x_t / signal_left(self.process, t, x_t)[0]  # x̂_0 if there were no noise in x_t
        return Prediction(centre + (prediction.x0 - centre) / self.temperature, prediction.var_mix)


def _quantile(x: Tensor, share: float) -> Tensor:
    """Quantile of each sample, (B, ...) -> (B,), linear between neighbours.

    As ``torch.quantile``, which refuses large tensors and half precision.
    """
    flat = x.flatten(1) if x.ndim > 1 else x[:, None]
    place = share * (flat.shape[1] - 1)
    below = math.floor(place)
    low = flat.kthvalue(below + 1, dim=1).values
    high = flat.kthvalue(min(below + 2, flat.shape[1]), dim=1).values
    return low + (place - below) * (high - low)
