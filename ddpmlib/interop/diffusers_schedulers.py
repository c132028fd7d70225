"""Schedulers of `diffusers`: what they say of a model, and how our processes are said by them.

One of their schedulers is three things of ours at once: the process (betas), the parameterization
and the variance, which belong to the model; the times; and edits of the prediction (clipping,
thresholds). Each has a function here. Their index i = 0..T−1 is our time t = i + 1.

Their tables are float32, and ᾱ is multiplied up in float32; ours come of the float64 of their
betas. Where they differ in more than rounding, as of version 0.42:

- ``DDIMScheduler`` steps from t to t − T // steps, whatever comes next in its own list: with
  spacing "trailing" or "linspace" and steps that do not divide T it lands beside its list.
- Spacing "leading" with ``steps_offset=1`` and as many steps as there are times asks for index T,
  beyond the table.
- ``DDPMScheduler`` adds noise after the last step of a strided chain unless that starts at index 0.
- ``variance_type="fixed_large_log"`` takes the root of a negative logarithm: every image is NaN.
- ``thresholding`` with the default ``sample_max_value=1.0`` is plain clipping to [−1, 1].
- After clipping, DDIM keeps the ε̂ of before unless asked (``use_clipped_model_output``); ours is
  formed anew, as ``DDPMScheduler`` does.
- ``FlowMatchEulerDiscreteScheduler`` with ``shift`` ≠ 1 shifts its smallest σ twice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ddpmlib.denoiser.denoiser import ProcessDenoiser
from ddpmlib.denoiser.parameterization import EPS, VELOCITY, X0, Parameterization, V
from ddpmlib.guidance.thresholding import DynamicThreshold, StaticThreshold
from ddpmlib.process.continuous import RectifiedFlow
from ddpmlib.process.ddpm import DDPM

FLOW = "FlowMatchEulerDiscreteScheduler"
FLOW_STEPS = 1000  # what their flow scheduler multiplies its times with by default
PREDICTIONS = {"epsilon": EPS, "sample": X0, "v_prediction": V}
VARIANCES = {
    "fixed_small": 0.0, "fixed_small_log": 0.0, "fixed_large": 1.0, "fixed_large_log": 1.0,
    "learned_range": None,
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "DDPM": {"clip_sample": False},
    "DDIM": {"clip_sample": False, "set_alpha_to_one": True},
    "DPMSolverMultistep": {},
    "UniPCMultistep": {},
}
"""Their schedulers of a chain that :func:`to_scheduler` makes, and their settings of no edits."""


# ---- theirs as ours ------------------------------------------------------------------------------


def process_of(scheduler: Any) -> DDPM | RectifiedFlow:
    """The forward process of a scheduler: a chain of its betas, or straight lines.

    Args:
        scheduler: one of theirs, or its configuration (a mapping, as in scheduler_config.json).
            Which sampler it is does not matter here: betas belong to the model.

    Raises:
        ValueError: if it has no betas and is no flow, or they are no schedule.
    """
    if _config(scheduler).get("_class_name") == FLOW or type(scheduler).__name__ == FLOW:
        return RectifiedFlow()
    return DDPM(torch.cat([torch.zeros(1, dtype=torch.float64), _betas(scheduler).double()]))


def parameterization_of(scheduler: Any) -> Parameterization:
    """What the scheduler's model predicts.

    Raises:
        ValueError: for another ``prediction_type``, or ε where ᾱ_T = 0: with no data left in x_T
            an ε-network cannot say x_0.
    """
    process = process_of(scheduler)
    if isinstance(process, RectifiedFlow):
        return VELOCITY
    kind = _config(scheduler).get("prediction_type", "epsilon")
    if kind not in PREDICTIONS:
        known = ", ".join(PREDICTIONS)
        raise ValueError(f"prediction_type must be one of {known}, got {kind!r}")
    if kind == "epsilon" and float(process.alpha_bar[-1]) == 0:
        raise ValueError(
            "at its last time nothing is left of the data (rescale_betas_zero_snr), where a model "
            "of epsilon cannot say x_0: such a schedule needs prediction_type v_prediction"
        )
    return PREDICTIONS[kind]


def var_mix_of(scheduler: Any) -> float | None:
    """The reverse variance: 0 for β̃, 1 for β, None where the model says it.

    Raises:
        ValueError: for ``variance_type="learned"``, where a model says the variance itself.
    """
    kind = _config(scheduler).get("variance_type") or "fixed_small"  # most schedulers know none
    if kind not in VARIANCES:
        raise ValueError(
            f"variance_type must be one of {', '.join(VARIANCES)}, got {kind!r}: a learned "
            "variance is a place between β̃ and β here"
        )
    return VARIANCES[kind]


def thresholded(denoiser: ProcessDenoiser, scheduler: Any) -> ProcessDenoiser:
    """The denoiser with the scheduler's edits of the prediction, as a wrapper; or as it is.

    ``clip_sample`` is :class:`~ddpmlib.guidance.StaticThreshold`, ``thresholding``
    :class:`~ddpmlib.guidance.DynamicThreshold`, or a static one where ``sample_max_value`` is 1.
    With them ε̂ is formed anew from the edited x̂_0, as ``DDPMScheduler`` does always and
    ``DDIMScheduler`` with ``use_clipped_model_output=True`` alone.

    Raises:
        ValueError: for dynamic thresholds with a bound other than 1 and infinity.
    """
    config = _config(scheduler)
    if config.get("thresholding", False):
        most = config.get("sample_max_value", 1.0)
        if most == 1:
            return StaticThreshold(denoiser)
        if most != math.inf:
            raise ValueError(
                f"sample_max_value = {most} bounds the dynamic threshold, and ours has no bound: "
                "wrap the denoiser by DynamicThreshold or StaticThreshold as you want it"
            )
        return DynamicThreshold(denoiser, config.get("dynamic_thresholding_ratio", 0.995))
    if config.get("clip_sample", False):
        return StaticThreshold(denoiser, config.get("clip_sample_range", 1.0))
    return denoiser


def times_of(scheduler: Any) -> list[int] | list[float]:
    """The times that a scheduler walks, after its ``set_timesteps``, for :func:`ddpmlib.sample`.

    For a flow their σ, which are our times of :class:`~ddpmlib.process.RectifiedFlow`; walk them
    with :class:`ddpmlib.samplers.Euler`. ``set_alpha_to_one=False`` ends at t = 1, on an image that
    still holds noise; else the last time is 0.

    Raises:
        ValueError: if they lie between whole numbers, as with ``use_karras_sigmas``.
    """
    if type(scheduler).__name__ == FLOW:
        return [float(sigma) for sigma in scheduler.sigmas]
    found = torch.as_tensor(scheduler.timesteps).double()
    if bool((found != found.round()).any()):
        raise ValueError("these timesteps lie between the whole times of a chain")
    times = [int(i) + 1 for i in found]
    last = 0 if _config(scheduler).get("set_alpha_to_one", True) else 1
    return times if times[-1] == last else [*times, last]


def _config(scheduler: Any) -> Mapping[str, Any]:
    config = getattr(scheduler, "config", scheduler)
    if not isinstance(config, Mapping):
        name = type(scheduler).__name__
        raise ValueError(f"expected a scheduler of diffusers or its configuration, got {name}")
    return config


def _betas(scheduler: Any) -> Tensor:
    """Their table (T,): a scheduler's own, or that which they make of a configuration."""
    if isinstance(scheduler, Mapping):
        if not {"beta_schedule", "trained_betas"} & scheduler.keys():
            raise ValueError(f"this configuration names no betas: {sorted(scheduler)}")
        scheduler = _diffusers().DDPMScheduler.from_config(dict(scheduler))
    betas = getattr(scheduler, "betas", None)
    if not isinstance(betas, Tensor):
        raise ValueError(
            f"{type(scheduler).__name__} has no betas: models of EDM, VE and consistency "
            "schedulers belong to other processes, see ddpmlib.process"
        )
    return betas


# ---- ours as theirs ------------------------------------------------------------------------------


def to_scheduler(
    process: DDPM | RectifiedFlow,
    kind: str,
    parameterization: Parameterization = EPS,
    var_mix: float | None = 0.0,
) -> Any:
    """One of their schedulers, with the betas of a process and settings that edit nothing.

    ``to_scheduler(d.process, "DDIM", d.parameterization)`` is that of a denoiser d. Clipping is
    off, the last step arrives at clean data, and spacing is "trailing", our ``uniform_times``: give
    DDIM a number of steps that divides T, and DDPM all T of them or spacing "leading", see the top
    of this module. Their tables round to float32, which moves an image by less than 1e-5 for η = 0
    and by up to 2e-4 for η = 1. A process without data at T (ᾱ_T = 0) has DDPM and DDIM alone.

    Args:
        process: a chain, or straight lines.
        kind: "DDPM", "DDIM", "DPMSolverMultistep" or "UniPCMultistep" of a chain,
            "FlowMatchEulerDiscrete" of straight lines, whose model is told 1000 t.
        parameterization: EPS, X0 or V; VELOCITY of straight lines.
        var_mix: of "DDPM": 0 for β̃, 1 for β, None where the model says it. The others know β̃
            alone.

    Raises:
        ValueError: if there is no such scheduler for this process, parameterization or variance.
    """
    if isinstance(process, RectifiedFlow):
        if kind != "FlowMatchEulerDiscrete" or parameterization != VELOCITY:
            raise ValueError(
                "straight lines have the kind FlowMatchEulerDiscrete, of a model that predicts "
                f"VELOCITY, got {kind!r} and {parameterization.name!r}"
            )
        return _diffusers().FlowMatchEulerDiscreteScheduler(num_train_timesteps=FLOW_STEPS)
    options = _options(process, kind, parameterization, var_mix)
    return getattr(_diffusers(), f"{kind}Scheduler")(**options)


def _diffusers() -> Any:
    try:
        import diffusers
    except ImportError as error:
        raise ImportError("schedulers are those of diffusers: pip install diffusers") from error
    return diffusers


def _options(
    process: DDPM, kind: str, parameterization: Parameterization, var_mix: float | None
) -> dict[str, Any]:
    if not isinstance(process, DDPM) or kind not in KINDS:
        raise ValueError(
            f"a chain (DDPM) has the kinds {', '.join(KINDS)}, straight lines (RectifiedFlow) "
            f"FlowMatchEulerDiscrete, got {process} and {kind!r}"
        )
    said = [name for name, p in PREDICTIONS.items() if p == parameterization]
    if not said:
        raise ValueError(f"their models predict eps, x0 or v, got {parameterization.name!r}")
    if kind not in ("DDPM", "DDIM") and float(process.alpha_bar[-1]) == 0:
        raise ValueError(f"{kind} divides by ᾱ_T, which is 0 here: take DDPM or DDIM")
    options = KINDS[kind] | {
        "num_train_timesteps": process.T,
        "trained_betas": process.beta[1:].tolist(),
        "prediction_type": said[0],
        "timestep_spacing": "trailing",
    }
    variances = {value: name for name, value in reversed(VARIANCES.items())}
    if kind == "DDPM" and var_mix in variances:
        return options | {"variance_type": variances[var_mix]}
    if var_mix != 0:
        raise ValueError(
            f"var_mix must be 0, 1 or None for DDPM, and 0 for the others, which know β̃ alone, got "
            f"{var_mix} for {kind}"
        )
    return options
