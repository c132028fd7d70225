"""Classifier guidance: the gradient of a classifier of noisy images moves the prediction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ddpmlib.broadcast import Time, per_sample
from ddpmlib.condition import Condition, as_condition
from ddpmlib.denoiser.denoiser import ProcessDenoiser
from ddpmlib.equations import equation
from ddpmlib.guidance.wrapper import (
    Weight,
    Wrapper,
    checked_weight,
    is_zero,
    signal_left,
    weight_at,
)
from ddpmlib.prediction import Prediction
from ddpmlib.process.process import check_noisy
from ddpmlib.samplers.times import checked_times

Classifier = Callable[[Tensor, Tensor], Tensor]
"""(x_t (B, ...), t (B,) int64) -> logits (B, K); one that was never told t may ignore it."""


# ---- classifier guidance -----------------------------------------------------------------------


class _Classified(Wrapper):
    """What both forms of classifier guidance share."""

    def __init__(self, denoiser: ProcessDenoiser, classifier: Classifier, strength: Weight) -> None:
        super().__init__(denoiser)
        if not callable(classifier):
            raise ValueError(f"a classifier is a function of x_t and t, got {classifier!r}")
        self.classifier, self.strength = classifier, checked_weight("strength", strength)
        theirs = getattr(classifier, "process", None)
        if theirs is not None and theirs != self.process:
            raise ValueError(
                f"the classifier was trained on the noise of {theirs}, and the denoiser on that of "
                f"{self.process}: both must see the same x_t"
            )

    def _slope(self, x_t: Tensor, t: Time, y: Condition | None) -> Tensor:
        """The classifier's gradient; it is told times in the dtype that networks are told."""
        check_noisy(self.process, t)
        return class_gradient(self.classifier, x_t, self.process.per_sample(t, x_t), y)


class ClassifierGuidance(_Classified):
    """The score plus s ∇ log p(y|x_t): x̂_0 moves by s (1−ᾱ_t)/√ᾱ_t ∇ log p(y|x_t).

    Algorithm 2 of Dhariwal & Nichol (2021), ε̂ − s √(1−ᾱ_t) ∇ log p, said of x̂_0: it fits every
    sampler, deterministic ones too. With an exact classifier and s = 1 the guided prediction is the
    conditional one (Bayes' rule); other s do *not* sample p(x) p(y|x)^s. Where s is the number 0
    the classifier is not asked and the prediction is returned as it is.

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
        self, denoiser: ProcessDenoiser, classifier: Classifier, strength: Weight = 1.0
    ) -> None:
        super().__init__(denoiser, classifier, strength)

    @equation("10.9")
    def forward(self, x_t: Tensor, t: Time, y: Condition | None = None) -> Prediction:
        """The guided prediction; arguments as for :class:`ddpmlib.denoiser.denoiser.Denoiser`.

        Raises:
            ValueError: if s ≠ 0 and there are no labels or not such as the classifier knows, or at
                a time where nothing is left of the data (ᾱ_t = 0) or that of clean data.
        """
        strength, prediction = weight_at(self.strength, t, x_t), self.denoiser(x_t, t, y)
        if is_zero(strength):
            return prediction
        scale, std = signal_left(self.process, t, x_t)
        slope = self._slope(x_t, t, y)
        return Prediction(prediction.x0 + strength * (std**2 / scale) * slope, prediction.var_mix)


class MeanShift(_Classified):
    """The deck's form: the mean of the step t → s moves by s Σ ∇ log p(y|x_t), Σ its covariance.

    Algorithm 1 of Dhariwal & Nichol (2021), for η = 1. The mean is k x̂_0 + …, so x̂_0 moves by
    s Σ/k ∇ log p with k = √ᾱ_s β/(1−ᾱ_t). That needs to know where the step goes: give the times
    of the chain. With Σ = β the shift is that of :class:`ClassifierGuidance` with √ᾱ_s in place of
    √ᾱ_t, with Σ = β̃ also 1−ᾱ_s in place of 1−ᾱ_t, so both forms agree to first order in the step
    and part over long ones. The last step, to clean data, draws nothing: Σ = 0, and no shift. With
    η < 1 the mean is another one, and this is no longer Algorithm 1: use
    :class:`ClassifierGuidance`.

    Args:
        denoiser, classifier, strength: as for :class:`ClassifierGuidance`.
        times: the falling times of the sampler, by default T, T−1, …, 0.

    Raises:
        ValueError: as for :class:`ClassifierGuidance`, or if times do not fall within T..0.
    """

    def __init__(
        self,
        denoiser: ProcessDenoiser,
        classifier: Classifier,
        strength: Weight = 1.0,
        times: Sequence[int] | None = None,
    ) -> None:
        super().__init__(denoiser, classifier, strength)
        self._below = dict(pairwise(checked_times(self.process, times)))

    @equation("10.10")
    def forward(self, x_t: Tensor, t: Time, y: Condition | None = None) -> Prediction:
        """The prediction that shifts the mean of the step from t; t is an int.

        Raises:
            ValueError: if no step of the chain starts at t, or as for :class:`ClassifierGuidance`.
        """
        if isinstance(t, Tensor) or t not in self._below:
            raise ValueError(
                f"a mean shift belongs to one step of its chain, and none starts at t = {t}: give "
                "the sampler's times, or use ClassifierGuidance"
            )
        s = self._below[t]
        strength, prediction = weight_at(self.strength, t, x_t), self.denoiser(x_t, t, y)
        if is_zero(strength) or s == self.process.clean:
            return prediction
        (scale_s, _), (_, std) = self.process.kernel(s, x_t), self.process.kernel(t, x_t)
        on_x0 = scale_s * self.process.variances(t, s)[1] / std**2
        covariance = self.process.posterior_std(t, s, prediction.var_mix) ** 2
        slope = self._slope(x_t, t, y)
        return Prediction(
            prediction.x0 + strength * (covariance / on_x0) * slope, prediction.var_mix
        )


@equation("10.6")
def class_gradient(classifier: Classifier, x_t: Tensor, t: Time, y: Condition | None) -> Tensor:
    """∇ log p(y|x_t) by autograd, also under ``torch.no_grad``.

    Where gradients of ``x_t`` are being recorded, the result can be differentiated again.

    Args:
        classifier: see :data:`Classifier`; each sample's logits must depend on that sample alone.
        x_t: (B, ...).
        t: an int or (B,).
        y: labels (B,) int64, or one for all.

    Returns:
        shape of ``x_t``.

    Raises:
        ValueError: without labels, with others than the classifier knows, if it does not answer
            (B, K), if its answer does not depend on ``x_t`` by differentiable steps, or in
            ``torch.inference_mode``.
    """
    t, y = per_sample(t, x_t), as_condition(y, x_t)
    if not isinstance(y, Tensor):
        raise ValueError("classifier guidance pulls towards a class: give labels y (B,)")
    if torch.is_inference_mode_enabled():
        raise ValueError("guidance needs gradients: take torch.no_grad in place of inference_mode")
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
