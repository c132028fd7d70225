"""Guidance: a belief is edited by wrapping a denoiser in a denoiser; no sampler knows of it.

Every wrapper takes (x_t, t, y) and returns a :class:`~ddpmlib.denoiser.Prediction`, so wrappers
nest, and any sampler runs them. Read from the inside out: first the model, then guidance, then
thresholds::

    DynamicThreshold(ClassifierFree(denoiser, w=3.0))

What comes out is the sampler's only source: ε̂ is formed anew from the edited x̂_0, as it must be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from ddpmlib.broadcast import expand
from ddpmlib.denoiser import DenoiseWithProcess, Prediction
from ddpmlib.equations import equation
from ddpmlib.process import DDPM, Coefficient, Time
from ddpmlib.samplers import checked_times

Weight = float | Tensor | Callable[[Time], float | Tensor]
"""How strongly to guide: a number, one per sample (B,), or a function of t that returns either."""
Classifier = Callable[[Tensor, Tensor], Tensor]
"""(x_t (B, ...), t (B,) int64) -> logits (B, K); one that was never told t may ignore it."""


class Wrapper(nn.Module):
    """A denoiser around a denoiser: shares its process and its null label.

    Args:
        denoiser: network, oracle or another wrapper.

    Raises:
        ValueError: if it carries no process.
    """

    def __init__(self, denoiser: DenoiseWithProcess) -> None:
        super().__init__()
        if not isinstance(getattr(denoiser, "process", None), DDPM):
            raise ValueError(
                f"guidance needs a denoiser with a process, and {type(denoiser).__name__} has none"
            )
        self.denoiser, self.process = denoiser, denoiser.process

    @property
    def null_label(self) -> int | None:
        """The label that means none; None if the denoiser knows no classes."""
        return getattr(self.denoiser, "null_label", None)

    def forward(self, x_t: Tensor, t: Time, y: Tensor | None = None) -> Prediction:
        """The belief about x_0; arguments as for :class:`ddpmlib.denoiser.Denoiser`."""
        return self.denoiser(x_t, t, y)


class Unconditional(Wrapper):
    """The belief without the label: what classifier guidance of an unconditional model starts from.

    ``ClassifierGuidance(Unconditional(denoiser), classifier)`` tells the classifier alone which
    class is wanted.
    """

    def forward(self, x_t: Tensor, t: Time, y: Tensor | None = None) -> Prediction:
        """The belief at y = ∅, whatever ``y`` is."""
        return self.denoiser(x_t, t, None)


# ---- classifier-free guidance ------------------------------------------------------------------


class ClassifierFree(Wrapper):
    """ε̂ = (1 + w) ε̂_c − w ε̂_∅ (Ho & Salimans 2022, eq. 6), both from one batch of 2B samples.

    The coefficients add up to 1, so the same holds for x̂_0 and v. w = 0 is the plain conditional
    model, w = −1 the unconditional one; programs that call s = 1 + w the guidance scale mean 1 and
    0 by these. Where w is the number 0 the denoiser is asked once and its answer returned as it is.
    A learned variance is the conditional one.

    Args:
        denoiser: knows classes and was trained with label dropout.
        w: see :data:`Weight`; for some of the times alone, see :func:`interval`.
        null_label: the label that means none, by default the denoiser's.

    Raises:
        ValueError: if there is no null label, or a weight is not finite.
    """

    def __init__(
        self, denoiser: DenoiseWithProcess, w: Weight, null_label: int | None = None
    ) -> None:
        super().__init__(denoiser)
        if null_label is not None and not isinstance(null_label, int):
            raise ValueError(f"a null label is a whole number, got {null_label!r}")
        self.w, self._null = _checked_weight("w", w), null_label
        if self.null_label is None:
            raise ValueError(
                "classifier-free guidance needs a model with classes and a null label: train one "
                "with label dropout, or use ClassifierGuidance"
            )

    @property
    def null_label(self) -> int | None:
        """The label that means none."""
        return super().null_label if self._null is None else self._null

    @equation("11.2", "11.3")
    def forward(self, x_t: Tensor, t: Time, y: Tensor | None = None) -> Prediction:
        """The guided belief; arguments as for :class:`ddpmlib.denoiser.Denoiser`.

        Raises:
            ValueError: if w ≠ 0 and there are no labels, or not one weight per sample.
        """
        w = _weight_at(self.w, t, x_t)
        if _is_zero(w):
            return self.denoiser(x_t, t, y)
        if y is None:
            raise ValueError("guidance pulls towards a class: give labels y, or set w = 0")
        twice = torch.cat([t, t]) if isinstance(t, Tensor) else t
        labels = torch.cat([y, torch.full_like(y, self.null_label or 0)])
        both = self.denoiser(torch.cat([x_t, x_t]), twice, labels)
        conditional, null = both.x0.chunk(2)
        var_mix = both.var_mix
        if isinstance(var_mix, Tensor):
            var_mix = var_mix.chunk(2)[0]
        return Prediction(conditional + w * (conditional - null), var_mix)


def interval(w: float, low: int, high: int) -> Callable[[Time], float | Tensor]:
    """The weight w at times low ≤ t ≤ high and 0 at all others (Kynkäänniemi et al. 2024).

    Where it is 0 for a whole batch, t being an int, the second pass is not run: a short interval is
    also cheaper.

    Raises:
        ValueError: unless 0 ≤ low ≤ high and w is finite.
    """
    if not 0 <= low <= high or not math.isfinite(w):
        raise ValueError(f"need 0 <= low <= high and a finite w, got {low}, {high} and {w}")

    def weight(t: Time) -> float | Tensor:
        if isinstance(t, Tensor):
            return torch.where((low <= t) & (t <= high), w, 0.0)
        return w if low <= t <= high else 0.0

    return weight


# ---- classifier guidance -----------------------------------------------------------------------


class _Classified(Wrapper):
    """What both forms of classifier guidance share."""

    def __init__(
        self, denoiser: DenoiseWithProcess, classifier: Classifier, strength: Weight
    ) -> None:
        super().__init__(denoiser)
        if not callable(classifier):
            raise ValueError(f"a classifier is a function of x_t and t, got {classifier!r}")
        self.classifier, self.strength = classifier, _checked_weight("strength", strength)
        theirs = getattr(classifier, "process", None)
        if theirs is not None and not torch.equal(theirs.alpha_bar, self.process.alpha_bar):
            raise ValueError(
                f"the classifier was trained on the noise of {theirs}, and the denoiser on that of "
                f"{self.process}: both must see the same x_t"
            )


class ClassifierGuidance(_Classified):
    """The score plus s ∇ log p(y|x_t): x̂_0 moves by s (1−ᾱ_t)/√ᾱ_t ∇ log p(y|x_t).

    Algorithm 2 of Dhariwal & Nichol (2021), ε̂ − s √(1−ᾱ_t) ∇ log p, said of x̂_0: it fits every
    sampler, deterministic ones too. With an exact classifier and s = 1 the guided belief is the
    conditional one (Bayes' rule); other s do *not* sample p(x) p(y|x)^s. Where s is the number 0
    the classifier is not asked and the belief is returned as it is.

    Mind the start of the chain: the gradient of an exact classifier fades as √ᾱ_t, that of a
    trained one does not, and 1/√ᾱ_t is 20,000 at the end of the cosine schedule of T = 1000. There
    one step throws every sample out of range. Leave the noisiest times unguided
    (``interval(s, 1, 9 * T // 10)``), clip x̂_0 by :class:`StaticThreshold`, or use
    :class:`MeanShift`, which divides by √ᾱ_s.

    Put it around the others that guide (``ClassifierGuidance(ClassifierFree(...), ...)``): inside
    classifier-free guidance it would be asked for the null class. ``y`` also reaches the denoiser;
    wrap that in :class:`Unconditional` where only the classifier should know the class.

    Args:
        denoiser: what is guided.
        classifier: see :data:`Classifier`; in evaluation mode if it is a module.
        strength: s, see :data:`Weight`.

    Raises:
        ValueError: if a strength is not finite, or the classifier carries another ``process``.
    """

    def __init__(
        self, denoiser: DenoiseWithProcess, classifier: Classifier, strength: Weight = 1.0
    ) -> None:
        super().__init__(denoiser, classifier, strength)

    @equation("10.9")
    def forward(self, x_t: Tensor, t: Time, y: Tensor | None = None) -> Prediction:
        """The guided belief; arguments as for :class:`ddpmlib.denoiser.Denoiser`.

        Raises:
            ValueError: if s ≠ 0 and there are no labels or not such as the classifier knows, or if
                ᾱ_t = 0, where nothing is left of the data.
        """
        strength, belief = _weight_at(self.strength, t, x_t), self.denoiser(x_t, t, y)
        if _is_zero(strength):
            return belief
        scale, std = _signal(self.process, t, x_t)
        slope = class_gradient(self.classifier, x_t, t, y)
        return Prediction(belief.x0 + strength * (std**2 / scale) * slope, belief.var_mix)


class MeanShift(_Classified):
    """The deck's form: the mean of the step t → s moves by s Σ ∇ log p(y|x_t), Σ its covariance.

    Algorithm 1 of Dhariwal & Nichol (2021), for η = 1. The mean is k x̂_0 + …, so x̂_0 moves by
    s Σ/k ∇ log p with k = √ᾱ_s β/(1−ᾱ_t). That needs to know where the step goes: give the times
    of the chain. With Σ = β the shift is that of :class:`ClassifierGuidance` with √ᾱ_s in place of
    √ᾱ_t, with Σ = β̃ also 1−ᾱ_s in place of 1−ᾱ_t, so both forms agree to first order in the step
    and part over long ones. The last step, s = 0, draws nothing: Σ = 0, and no shift. With η < 1
    the mean is another one, and this is no longer Algorithm 1: use :class:`ClassifierGuidance`.

    Args:
        denoiser, classifier, strength: as for :class:`ClassifierGuidance`.
        times: the falling times of the sampler, by default T, T−1, …, 0.

    Raises:
        ValueError: as for :class:`ClassifierGuidance`, or if times do not fall within T..0.
    """

    def __init__(
        self,
        denoiser: DenoiseWithProcess,
        classifier: Classifier,
        strength: Weight = 1.0,
        times: Sequence[int] | None = None,
    ) -> None:
        super().__init__(denoiser, classifier, strength)
        self._below = dict(pairwise(checked_times(self.process, times)))

    @equation("10.10")
    def forward(self, x_t: Tensor, t: Time, y: Tensor | None = None) -> Prediction:
        """The belief that shifts the mean of the step from t; t is an int.

        Raises:
            ValueError: if no step of the chain starts at t, or as for :class:`ClassifierGuidance`.
        """
        if isinstance(t, Tensor) or t not in self._below:
            raise ValueError(
                f"a mean shift belongs to one step of its chain, and none starts at t = {t}: give "
                "the sampler's times, or use ClassifierGuidance"
            )
        s = self._below[t]
        strength, belief = _weight_at(self.strength, t, x_t), self.denoiser(x_t, t, y)
        if _is_zero(strength) or s == 0:
            return belief
        (scale_s, _), (_, std) = self.process.kernel(s, x_t), self.process.kernel(t, x_t)
        on_x0 = scale_s * self.process.variances(t, s)[1] / std**2
        covariance = self.process.posterior_std(t, s, belief.var_mix) ** 2
        slope = class_gradient(self.classifier, x_t, t, y)
        return Prediction(belief.x0 + strength * (covariance / on_x0) * slope, belief.var_mix)


@equation("10.6")
def class_gradient(classifier: Classifier, x_t: Tensor, t: Time, y: Tensor | None) -> Tensor:
    """∇ log p(y|x_t) by autograd, also under ``torch.no_grad``.

    Where gradients of ``x_t`` are being recorded, the result can be differentiated again.

    Args:
        classifier: see :data:`Classifier`; each sample's logits must depend on that sample alone.
        x_t: (B, ...).
        t: an int or (B,).
        y: labels (B,) int64.

    Returns:
        shape of ``x_t``.

    Raises:
        ValueError: without labels, with others than the classifier knows, if it does not answer
            (B, K), if its answer does not depend on ``x_t`` by differentiable steps, or in
            ``torch.inference_mode``.
    """
    if y is None:
        raise ValueError("classifier guidance pulls towards a class: give labels y")
    if torch.is_inference_mode_enabled():
        raise ValueError("guidance needs gradients: take torch.no_grad in place of inference_mode")
    if not isinstance(t, Tensor):
        t = torch.full((len(x_t),), t, device=x_t.device, dtype=torch.int64)
    keep = torch.is_grad_enabled() and x_t.requires_grad
    with torch.enable_grad():
        x = x_t if keep else x_t.detach().requires_grad_()
        logits = classifier(x, t)
        _check_logits(logits, x, y)
        chosen = logits.to(x.dtype).log_softmax(1).gather(1, y[:, None])
        (slope,) = torch.autograd.grad(chosen.sum(), x, create_graph=keep, allow_unused=True)
    if slope is None:
        raise ValueError("the classifier's answer does not depend on x_t: it has no gradient")
    return slope


def _check_logits(logits: Tensor, x: Tensor, y: Tensor) -> None:
    if not isinstance(logits, Tensor):
        raise ValueError(f"a classifier answers logits (B, K), got {type(logits).__name__}")
    if logits.ndim != 2 or len(logits) != len(x) or y.shape != (len(x),):
        raise ValueError(
            f"need logits (B, K) and labels (B,) for B = {len(x)} samples, got "
            f"{tuple(logits.shape)} and {tuple(y.shape)}"
        )
    if not logits.requires_grad:
        raise ValueError("the classifier's answer has no gradient: it must not detach its input")
    K, on_cpu = logits.shape[1], y.device.type == "cpu" and y.numel()
    if y.dtype != torch.int64 or (on_cpu and not 0 <= int(y.min()) <= int(y.max()) < K):
        raise ValueError(
            f"the classifier knows the int64 labels 0..{K - 1}; the null label is for "
            "classifier-free guidance, which belongs inside classifier guidance"
        )


# ---- thresholds and temperature ----------------------------------------------------------------


class StaticThreshold(Wrapper):
    """x̂_0 clipped to [−bound, bound], the range of images (Saharia et al. 2022, sec. 2.3).

    Args:
        denoiser: usually a guided one: clip after guidance.
        bound: positive.

    Raises:
        ValueError: if ``bound`` is not.
    """

    def __init__(self, denoiser: DenoiseWithProcess, bound: float = 1.0) -> None:
        super().__init__(denoiser)
        if not 0 < bound < math.inf:
            raise ValueError(f"bound must be positive and finite, got {bound}")
        self.bound = bound

    @equation("11.12")
    def forward(self, x_t: Tensor, t: Time, y: Tensor | None = None) -> Prediction:
        """The clipped belief; arguments as for :class:`ddpmlib.denoiser.Denoiser`."""
        belief = self.denoiser(x_t, t, y)
        return Prediction(belief.x0.clamp(-self.bound, self.bound), belief.var_mix)


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

    def __init__(self, denoiser: DenoiseWithProcess, quantile: float = 0.995) -> None:
        super().__init__(denoiser)
        if not 0 <= quantile <= 1:
            raise ValueError(
                f"quantile is a share of pixels in [0, 1], 0.995 for 99.5 %, got {quantile}"
            )
        self.quantile = quantile

    @equation("11.12")
    def forward(self, x_t: Tensor, t: Time, y: Tensor | None = None) -> Prediction:
        """The thresholded belief; arguments as for :class:`ddpmlib.denoiser.Denoiser`."""
        belief = self.denoiser(x_t, t, y)
        bound = expand(_quantile(belief.x0.abs(), self.quantile).clamp(min=1), x_t)
        return Prediction(belief.x0.clamp(-bound, bound) / bound, belief.var_mix)


class Temperature(Wrapper):
    """The score divided by τ, that is ε̂/τ: below 1 sharper and less diverse.

    This is temperature as "scaling model score vectors" (Ho & Salimans 2022, section 1, who report
    that it blurs images where guidance does not), not the scaling of the step's noise: it edits
    the belief, so it works in deterministic samplers too. It makes every *noised* density q(x_t)
    one with score ∇ log q/τ, yet what comes out is not q(x_0)^{1/τ}: for N(0, c) that has variance
    cτ, while ancestral sampling ends at cτ/(2−τ) for τ < 2, and DDIM shrinks (τ < 1) or grows
    (τ > 1) without bound with the noise that the chain starts from. τ = 1 returns the belief as it
    is.

    Args:
        denoiser: what is sharpened.
        temperature: τ > 0.

    Raises:
        ValueError: if τ is not positive and finite.
    """

    def __init__(self, denoiser: DenoiseWithProcess, temperature: float) -> None:
        super().__init__(denoiser)
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature must be positive and finite, got {temperature}")
        self.temperature = temperature

    def forward(self, x_t: Tensor, t: Time, y: Tensor | None = None) -> Prediction:
        """The belief with ε̂/τ; arguments as for :class:`ddpmlib.denoiser.Denoiser`.

        Raises:
            ValueError: if τ ≠ 1 and ᾱ_t = 0, where nothing is left of the data.
        """
        belief = self.denoiser(x_t, t, y)
        if self.temperature == 1:
            return belief
        centre = x_t / _signal(self.process, t, x_t)[0]  # x̂_0 if there were no noise in x_t
        return Prediction(centre + (belief.x0 - centre) / self.temperature, belief.var_mix)


# ---- shared ------------------------------------------------------------------------------------


def _checked_weight(name: str, weight: Weight) -> Weight:
    if isinstance(weight, Tensor):
        good = weight.ndim == 1 and bool(weight.isfinite().all())
    else:
        good = callable(weight) or (isinstance(weight, int | float) and math.isfinite(weight))
    if not good:
        got = f"a tensor {tuple(weight.shape)}" if isinstance(weight, Tensor) else repr(weight)
        raise ValueError(
            f"{name} is a finite number, a tensor (B,) of them, or a function of t, got {got}"
        )
    return weight


def _weight_at(weight: Weight, t: Time, x: Tensor) -> float | Tensor:
    """The weight at t: a float, or one per sample in a shape that multiplies ``x``."""
    value = weight(t) if callable(weight) else weight
    if isinstance(value, Tensor):
        return expand(value.to(x), x)
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"a weight is a finite number or a tensor (B,), got {value!r} at t = {t}")
    return float(value)


def _is_zero(weight: float | Tensor) -> bool:
    # A tensor is not looked into: on a GPU that would make the CPU wait.
    return not isinstance(weight, Tensor) and weight == 0


def _signal(process: DDPM, t: Time, x: Tensor) -> tuple[Coefficient, Coefficient]:
    """Scale and std at a time where something is left of the data to divide by."""
    scale, std = process.kernel(t, x)
    if not isinstance(scale, Tensor) and scale == 0:
        raise ValueError(f"at t = {t} nothing is left of the data (alpha_bar = 0): start below it")
    return scale, std


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
