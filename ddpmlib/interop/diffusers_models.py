"""Models of `diffusers` as our denoisers, and our denoisers as models of their pipelines.

::

    denoiser = from_diffusers(pipeline.unet, pipeline.scheduler)    # sample, train, measure it
    unet = PipelineUNet(denoiser, (3, 32, 32), y=labels)            # and back
    scheduler = to_scheduler(denoiser.process, "DDIM", unet.parameterization)
    images = diffusers.DDIMPipeline(unet, scheduler)(batch_size=len(labels)).images
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ddpmlib.broadcast import Time
from ddpmlib.condition import Condition, moved
from ddpmlib.denoiser.denoiser import Denoiser
from ddpmlib.denoiser.parameterization import X0, Parameterization
from ddpmlib.interop.diffusers_schedulers import (
    FLOW_STEPS,
    parameterization_of,
    process_of,
    var_mix_of,
)
from ddpmlib.process.continuous import RectifiedFlow

TEXT = "encoder_hidden_states"


# ---- theirs as ours ------------------------------------------------------------------------------


def from_diffusers(
    model: nn.Module,
    scheduler: Any,
    *,
    null_label: int | None = None,
    empty: Mapping[str, Tensor] | None = None,
) -> Denoiser:
    """A ``UNet2DModel`` or ``UNet2DConditionModel`` as a denoiser, which shares its weights.

    What the scheduler says of *sampling* is left out: clipping and thresholds are wrappers, see
    :func:`~ddpmlib.interop.diffusers_schedulers.thresholded`, and its times are
    :func:`~ddpmlib.interop.diffusers_schedulers.times_of`.

    Args:
        model: with as many channels out as in, or twice as many where it learned its variance.
        scheduler: theirs, or its configuration: betas, ``prediction_type``, ``variance_type``.
        null_label, empty: see :class:`DiffusersNet`.

    Returns:
        a denoiser of (B, C, H, W) at t = 1..T, or 0 < t ≤ 1 of a flow.

    Raises:
        ValueError: if model and scheduler do not belong together, or mean what no denoiser says.
    """
    config: Any = model.config
    if getattr(config, "time_embedding_type", "positional") == "fourier":
        raise ValueError(
            "a model with Fourier features of its time is told σ, not the index of a chain: it "
            "belongs to their VE scheduler, and to no betas"
        )
    learned = config.out_channels == 2 * config.in_channels
    if not learned and config.out_channels != config.in_channels:
        raise ValueError(
            f"the model makes {config.out_channels} channels of {config.in_channels}: a denoiser "
            "makes as many, or twice as many with a learned variance"
        )
    process, var_mix = process_of(scheduler), var_mix_of(scheduler)
    if var_mix is None and not learned:
        raise ValueError(
            'variance_type = "learned_range" needs a model with twice as many channels out as in, '
            f"got {config.out_channels} out of {config.in_channels}"
        )
    flow = isinstance(process, RectifiedFlow)
    steps = _config_steps(scheduler) if flow else None
    net = DiffusersNet(model, null_label=null_label, empty=empty, flow_steps=steps)
    predicts = parameterization_of(scheduler)
    return Denoiser(net, process, predicts, None if learned else var_mix)


def _config_steps(scheduler: Any) -> int:
    config = getattr(scheduler, "config", scheduler)
    return int(config.get("num_train_timesteps", FLOW_STEPS))


class DiffusersNet(nn.Module):
    """Their model as a :class:`~ddpmlib.models.network.Network`: our times, our conditions.

    Conditions: labels (B,) for ``num_class_embeds``; for a text model a mapping with
    ``encoder_hidden_states`` (B, L, D) and whatever else its ``forward`` takes by name
    (``class_labels``, ``encoder_attention_mask``, ...); other names, as ``text_embeds`` and
    ``time_ids``, go into ``added_cond_kwargs``.

    Args:
        model: a ``UNet2DModel`` or ``UNet2DConditionModel``.
        null_label: the label that means none, if the model was trained with one.
        empty: what means none, by the names of the condition, for one sample: the embedding
            (L, D) of the empty text as ``encoder_hidden_states``. Names that it lacks stay.
        flow_steps: None for a chain, whose time t is their index t − 1; for a flow, what they
            multiply times in [0, 1] with.

    Raises:
        ValueError: if the null label is none of the model's, or the model takes no such condition.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        null_label: int | None = None,
        empty: Mapping[str, Tensor] | None = None,
        flow_steps: int | None = None,
    ) -> None:
        super().__init__()
        self.takes = tuple(inspect.signature(model.forward).parameters)
        self.labels = getattr(model.config, "num_class_embeds", None)
        if null_label is not None and (self.labels is None or not 0 <= null_label < self.labels):
            raise ValueError(
                f"null_label = {null_label} is none of the model's {self.labels or 0} labels"
            )
        if empty is not None and TEXT not in self.takes:
            raise ValueError("this model takes no text: empty is for a UNet2DConditionModel")
        if empty is not None and TEXT in empty and empty[TEXT].ndim != 2:
            got = tuple(empty[TEXT].shape)
            raise ValueError(f"the empty text is that of one sample, (L, D), got {got}")
        self.model, self.null_label, self.flow_steps = model, null_label, flow_steps
        self.empty_names = tuple(empty or ())
        for name, value in (empty or {}).items():
            self.register_buffer(f"empty_{name}", value.detach().clone())

    @property
    def conditional(self) -> bool:
        """Whether it knows what means no condition."""
        return self.null_label is not None or bool(self.empty_names)

    def without(self, y: Condition) -> Condition:
        """The null label for labels, the empty embedding for text."""
        if isinstance(y, Tensor):
            if self.null_label is None:
                raise ValueError("this model has no label that means none: give null_label")
            return torch.full_like(y, self.null_label)
        return {name: self._emptied(name, value) for name, value in y.items()}

    def _emptied(self, name: str, value: Tensor) -> Tensor:
        if name in self.empty_names:
            none: Tensor = getattr(self, f"empty_{name}").to(value)
            return none.expand(len(value), *none.shape)
        if name == "class_labels" and self.null_label is not None:
            return torch.full_like(value, self.null_label)
        return value

    def forward(self, x: Tensor, t: Tensor, y: Condition | None = None) -> Tensor:
        """(B, C, H, W) images, (B,) times, a condition -> (B, C or 2C, H, W).

        Raises:
            ValueError: if the model needs a condition and gets none that it takes.
        """
        told = t - 1 if self.flow_steps is None else t * self.flow_steps
        return self.model(x, told, **self._named(x, y), return_dict=False)[0]

    def _named(self, x: Tensor, y: Condition | None) -> dict[str, Any]:
        """The condition under the names of their ``forward``."""
        if isinstance(y, Tensor):
            y = {"class_labels": y}
        y = self._default(x) if y is None else y
        if TEXT in self.takes and TEXT not in y:
            raise ValueError(f"this model needs {TEXT} (B, L, D) in its condition, a mapping")
        if self.labels is not None and "class_labels" not in y:
            raise ValueError("this model needs labels (B,), or a null_label that means none")
        added = {name: value for name, value in y.items() if name not in self.takes}
        if added and "added_cond_kwargs" not in self.takes:
            raise ValueError(f"this model takes no {sorted(added)}")
        named: dict[str, Any] = {name: value for name, value in y.items() if name in self.takes}
        return named | ({"added_cond_kwargs": added} if added else {})

    def _default(self, x: Tensor) -> dict[str, Tensor]:
        """No condition, where it is known what that means."""
        found = {}
        for name in self.empty_names:
            none = getattr(self, f"empty_{name}")
            none = none.to(x) if none.is_floating_point() else none.to(x.device)
            found[name] = none.expand(len(x), *none.shape)
        if self.null_label is not None:
            found["class_labels"] = torch.full((len(x),), self.null_label, device=x.device)
        return found


# ---- ours as theirs ------------------------------------------------------------------------------


class ModelOutput(NamedTuple):
    """What a model answers in their pipelines, which ask for ``.sample`` or for ``[0]``."""

    sample: Tensor


class PipelineUNet(nn.Module):
    """A denoiser of ours in the place of a ``UNet2DModel``, in ``DDPMPipeline`` and its like.

    Guided and thresholded denoisers work too: they are models of x_0, where a plain
    :class:`~ddpmlib.denoiser.denoiser.Denoiser` hands on its network's own answer.

    Args:
        denoiser: on a chain of whole times, on times between them
            (:func:`~ddpmlib.denoiser.between_steps`), or on straight lines.
        shape: (C, H, W) of the images that a pipeline draws.
        y: the condition of the batch, which most pipelines have no word for; it may also come as
            ``class_labels``.
        variance: hand on a learned variance too, as twice the channels: for ``DDPMScheduler`` with
            ``variance_type="learned_range"``. ``DDIMScheduler`` does not take it, and with one
            channel it does not notice: two become a picture of two channels.

    Attributes:
        parameterization: what the answers mean, for
            :func:`~ddpmlib.interop.diffusers_schedulers.to_scheduler`.
        config: ``in_channels``, ``out_channels`` and ``sample_size``, as theirs.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        shape: tuple[int, int, int],
        y: Condition | None = None,
        variance: bool = False,
    ) -> None:
        super().__init__()
        channels, *size = shape
        self.denoiser: Any = denoiser
        self.y, self.variance = y, variance
        self.parameterization: Parameterization = (
            denoiser.parameterization if isinstance(denoiser, Denoiser) else X0
        )
        self.config = SimpleNamespace(
            in_channels=channels,
            out_channels=channels * (2 if variance else 1),
            sample_size=tuple(size),
        )

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, and so of the noise that a pipeline starts from."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Of the weights."""
        return next(self.parameters()).device

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        class_labels: Tensor | None = None,
        return_dict: bool = True,
    ) -> ModelOutput:
        """x_t (B, C, H, W) at their timestep -> the answer; ``return_dict`` changes nothing.

        Raises:
            ValueError: if a variance is asked for that the denoiser does not learn.
        """
        y = self.y if class_labels is None else class_labels
        y = None if y is None else moved(y, sample.device)
        t = self._time(timestep)
        if isinstance(self.denoiser, Denoiser):
            output, var_mix = self.denoiser.raw(sample, t, y)
        else:
            prediction = self.denoiser(sample, t, y)
            output, var_mix = prediction.x0, prediction.var_mix
        if not self.variance:
            return ModelOutput(output)
        if not isinstance(var_mix, Tensor):
            raise ValueError("this denoiser learns no variance to hand on: leave variance out")
        return ModelOutput(torch.cat([output, 2 * var_mix - 1], dim=1))

    def _time(self, timestep: Tensor | float) -> Time:
        """Theirs as ours: a number where there is one, so that tables are asked for it alone."""
        one = not isinstance(timestep, Tensor) or timestep.numel() == 1
        t: Time = torch.as_tensor(timestep).item() if one else timestep
        process = self.denoiser.process
        return t / FLOW_STEPS if isinstance(process, RectifiedFlow) else t + 1
