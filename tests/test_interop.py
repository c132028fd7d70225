"""`ddpmlib.interop` against `diffusers`: same weights, same noise, same image, both ways.

`test_peers.py` compares single formulas in float64; here models, schedulers and pipelines walk
whole chains in float32. Their tables are float32 too, and where two large numbers are subtracted in
them (DDIM with η = 1 at the noisiest times, DDPM in short steps) an image moves by up to 2e-4. So
the comparisons at 1e-5 widen their tables (`exact`: same betas, same code), and one test holds what
they do as they are. Times are theirs plus one.
"""

import math
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from ddpmlib import zoo
from ddpmlib.denoiser import (
    EPS,
    SCORE,
    VELOCITY,
    X0,
    Denoiser,
    FixedVariance,
    V,
    between_steps,
)
from ddpmlib.guidance import ClassifierFree, DynamicThreshold, StaticThreshold
from ddpmlib.interop import (
    DiffusersNet,
    PipelineUNet,
    from_diffusers,
    process_of,
    thresholded,
    times_of,
    to_scheduler,
)
from ddpmlib.losses import diffusion_loss
from ddpmlib.models import UNet, UNetConfig
from ddpmlib.process import DDPM, VP, RectifiedFlow, schedules
from ddpmlib.samplers import Euler, draw, leading_times, uniform_times
from ddpmlib.training import Settings, Trainer, fit

diffusers = pytest.importorskip("diffusers")
diffusers.utils.logging.disable_progress_bar()

TYPES = {"epsilon": EPS, "sample": X0, "v_prediction": V}
each_type = pytest.mark.parametrize("kind", TYPES)
SHAPE = (2, 8, 8)
SMALL = {
    "sample_size": 8,
    "in_channels": 2,
    "out_channels": 2,
    "layers_per_block": 1,
    "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": 4,
    "norm_num_groups": 4,
}


def theirs(**options):
    torch.manual_seed(0)
    return diffusers.UNet2DModel(**(SMALL | options)).eval()


def ours(process, p=V, var_mix=0.0, num_classes=0, channels=2):
    torch.manual_seed(0)
    config = UNetConfig(
        channels=channels, width=8, mults=(1, 2), attention=(False, True), heads=2, groups=4,
        num_classes=num_classes,
    )  # fmt: skip
    net = UNet(config, 2 if var_mix is None else 1)
    for q in net.parameters():  # our networks start as zero
        torch.nn.init.normal_(q, std=0.1)
    return Denoiser(net.eval(), process, p, var_mix)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def generator(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@torch.no_grad()
def their_loop(scheduler, model, x, **options):
    """Their sampling loop, as in DDPMPipeline and DDIMPipeline, but for the clamp at its end."""
    x = x * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        said = model(scheduler.scale_model_input(x, t), t)
        x = scheduler.step(said.sample, t, x, **options).prev_sample
    return x


def exact(scheduler):
    """Their scheduler with ᾱ multiplied up in float64, and so float64 coefficients of images."""
    scheduler.alphas_cumprod = (1 - scheduler.betas.double()).cumprod(0)
    one = torch.tensor(1.0, dtype=torch.float64)
    if isinstance(scheduler, diffusers.DDIMScheduler):
        to_one = scheduler.config.set_alpha_to_one
        scheduler.final_alpha_cumprod = one if to_one else scheduler.alphas_cumprod[0]
    else:
        scheduler.one = one
    return scheduler


def close(a: Tensor, b: Tensor, most: float = 1e-5) -> None:
    """To 1e-5 of the size of an image, which is 1, or of what an untrained network makes."""
    assert a.shape == b.shape and bool(a.isfinite().all())
    gap, size = float((a - b).detach().abs().max()), float(b.detach().abs().max())
    assert gap <= most * max(1.0, size)


# ---- their models as our denoisers ---------------------------------------------------------------

SCHEDULES = {
    "linear": {"beta_schedule": "linear"},
    "linear of 50": {"num_train_timesteps": 50, "beta_start": 0.002, "beta_end": 0.2},
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "trained": {"num_train_timesteps": 20, "trained_betas": torch.linspace(0.01, 0.4, 20).tolist()},
}


@pytest.mark.parametrize("name", SCHEDULES)
@each_type
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_their_model_draws_the_image_of_their_ddim(name, kind, eta):
    scheduler = diffusers.DDIMScheduler(
        clip_sample=False, timestep_spacing="trailing", prediction_type=kind, **SCHEDULES[name]
    )
    scheduler.set_timesteps(5)
    model, x = theirs(), noise(2, *SHAPE)
    denoiser = from_diffusers(model, scheduler)
    assert denoiser.parameterization == TYPES[kind]
    a = their_loop(exact(scheduler), model, x, eta=eta, generator=generator())
    b = draw(denoiser, denoiser.process, x, times_of(scheduler), eta=eta, generator=generator())
    close(b, a)


@pytest.mark.parametrize(
    "variance", ["fixed_small", "fixed_small_log", "fixed_large", "learned_range"]
)
@each_type
def test_their_model_draws_the_image_of_their_ddpm(variance, kind):
    """All 20 steps, for at the end of shorter chains they add noise."""
    scheduler = diffusers.DDPMScheduler(
        num_train_timesteps=20, beta_start=0.005, beta_end=0.4, clip_sample=False,
        variance_type=variance, prediction_type=kind,
    )  # fmt: skip
    scheduler.set_timesteps(20)
    learned = variance == "learned_range"
    model, x = theirs(out_channels=4 if learned else 2), noise(2, *SHAPE)
    denoiser = from_diffusers(model, scheduler)
    assert denoiser.var_mix == {"fixed_large": 1.0, "learned_range": None}.get(variance, 0.0)
    a = their_loop(exact(scheduler), model, x, generator=generator())
    b = draw(denoiser, denoiser.process, x, times_of(scheduler), generator=generator())
    close(b, a)


def test_a_schedule_without_signal_at_its_end():
    """rescale_betas_zero_snr: ᾱ_T = 0, which v and x_0 survive and ε does not."""
    options = {"rescale_betas_zero_snr": True, "clip_sample": False}
    options |= {"timestep_spacing": "trailing", "prediction_type": "v_prediction"}
    scheduler = diffusers.DDIMScheduler(**options)
    scheduler.set_timesteps(10)
    model, x = theirs(), noise(2, *SHAPE)
    denoiser = from_diffusers(model, scheduler)
    assert float(denoiser.process.alpha_bar[-1]) == 0
    a = their_loop(scheduler, model, x)
    close(draw(denoiser, denoiser.process, x, times_of(scheduler), eta=0.0), a)
    with pytest.raises(ValueError, match="cannot say x_0"):
        from_diffusers(model, diffusers.DDIMScheduler(**options | {"prediction_type": "epsilon"}))


@pytest.mark.parametrize("steps", [1, 4])
def test_a_chain_that_stops_at_the_first_noise(steps):
    """set_alpha_to_one=False with steps_offset=1, as Stable Diffusion has it: leading, to t = 1."""
    scheduler = diffusers.DDIMScheduler(
        num_train_timesteps=40, set_alpha_to_one=False, steps_offset=1, clip_sample=False
    )
    scheduler.set_timesteps(steps)
    model, x = theirs(), noise(2, *SHAPE)
    denoiser, times = from_diffusers(model, scheduler), times_of(scheduler)
    assert times[-2:] == [2, 1]
    a = their_loop(scheduler, model, x)
    close(draw(denoiser, denoiser.process, x, times, eta=0.0), a)


@pytest.mark.parametrize("cls", ["PNDM", "EulerDiscrete", "DPMSolverMultistep", "UniPCMultistep"])
def test_betas_belong_to_the_model_whatever_the_sampler(cls):
    options = SCHEDULES["scaled_linear"] | {"prediction_type": "v_prediction"}
    scheduler = getattr(diffusers, f"{cls}Scheduler")(**options)
    reference = diffusers.DDPMScheduler(**options)
    assert process_of(scheduler) == process_of(reference)
    assert from_diffusers(theirs(), scheduler).parameterization == V


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("cls", ["DDPM", "DDIM", "DPMSolverMultistep"])
def test_a_configuration_says_what_its_scheduler_says(name, cls):
    scheduler = getattr(diffusers, f"{cls}Scheduler")(**SCHEDULES[name], prediction_type="sample")
    plain = dict(scheduler.config)
    assert process_of(plain) == process_of(scheduler)
    assert torch.equal(process_of(plain).beta[1:].float(), scheduler.betas)
    assert from_diffusers(theirs(), plain).parameterization == X0


def test_clipping_is_a_static_threshold():
    for options, bound in (({}, 1.0), ({"clip_sample_range": 0.5}, 0.5)):
        scheduler = diffusers.DDPMScheduler(
            num_train_timesteps=20, beta_start=0.01, beta_end=0.3, **options
        )
        scheduler.set_timesteps(20)
        model, x = theirs(), noise(2, *SHAPE)
        denoiser = thresholded(from_diffusers(model, scheduler), scheduler)
        assert isinstance(denoiser, StaticThreshold) and denoiser.bound == bound
        a = their_loop(scheduler, model, x, generator=generator())
        close(draw(denoiser, denoiser.process, x, generator=generator()), a)


def test_dynamic_thresholding_where_nothing_bounds_it():
    options = {"num_train_timesteps": 20, "beta_start": 0.01, "beta_end": 0.3}
    options |= {"thresholding": True, "dynamic_thresholding_ratio": 0.9}
    scheduler = diffusers.DDPMScheduler(**options, sample_max_value=math.inf)
    scheduler.set_timesteps(20)
    model, x = theirs(), noise(2, *SHAPE)
    denoiser = thresholded(from_diffusers(model, scheduler), scheduler)
    assert isinstance(denoiser, DynamicThreshold) and denoiser.quantile == 0.9
    a = their_loop(scheduler, model, x, generator=generator())
    close(draw(denoiser, denoiser.process, x, generator=generator()), a)
    bounded = diffusers.DDPMScheduler(**options, sample_max_value=1.5)
    with pytest.raises(ValueError, match="ours has no bound"):
        thresholded(denoiser, bounded)
    default = thresholded(denoiser, diffusers.DDPMScheduler(**options))
    assert isinstance(default, StaticThreshold) and default.bound == 1.0


def test_nothing_is_wrapped_where_nothing_is_edited():
    scheduler = diffusers.DDPMScheduler(clip_sample=False)
    denoiser = from_diffusers(theirs(), scheduler)
    assert thresholded(denoiser, scheduler) is denoiser
    assert thresholded(denoiser, diffusers.PNDMScheduler()) is denoiser


def test_their_ddim_clips_like_ours_where_it_is_asked_to():
    scheduler = diffusers.DDIMScheduler(num_train_timesteps=20, beta_start=0.01, beta_end=0.3)
    scheduler.set_timesteps(10)
    model, x = theirs(), noise(2, *SHAPE)
    denoiser = thresholded(from_diffusers(model, scheduler), scheduler)
    b = draw(denoiser, denoiser.process, x, times_of(scheduler), eta=0.0)
    close(b, their_loop(scheduler, model, x, use_clipped_model_output=True))
    with pytest.raises(AssertionError):  # by default they keep the ε̂ of before
        close(b, their_loop(scheduler, model, x), 1e-3)


# ---- conditions ----------------------------------------------------------------------------------


def test_labels_and_the_null_label_of_their_model():
    scheduler = diffusers.DDPMScheduler(clip_sample=False)
    model, x = theirs(num_class_embeds=4), noise(3, *SHAPE)
    denoiser = from_diffusers(model, scheduler, null_label=3)
    y = torch.tensor([0, 1, 2])
    with torch.no_grad():
        said = model(x, 99, class_labels=y).sample
        silent = model(x, 99, class_labels=torch.full((3,), 3)).sample
    assert denoiser.conditional and denoiser.without(y).tolist() == [3, 3, 3]
    assert torch.equal(denoiser.raw(x, 100, y)[0], said)
    assert torch.equal(denoiser.raw(x, 100)[0], silent)
    scale, std = denoiser.process.kernel(100, x)
    expected = (x - std * (3 * said - 2 * silent)) / scale
    close(ClassifierFree(denoiser, 2.0)(x, 100, y).x0, expected)


def test_a_model_with_labels_and_none_that_means_none():
    denoiser = from_diffusers(theirs(num_class_embeds=4), diffusers.DDPMScheduler())
    assert not denoiser.conditional
    with pytest.raises(ValueError, match="needs labels"):
        denoiser(noise(2, *SHAPE), 5)
    with pytest.raises(ValueError, match="needs a model with classes and a null label"):
        ClassifierFree(denoiser, 1.0)
    with pytest.raises(ValueError, match="no label that means none"):
        denoiser.net.without(torch.tensor([1]))
    with pytest.raises(ValueError, match="null_label = 4 is none of the model's 4 labels"):
        from_diffusers(theirs(num_class_embeds=4), diffusers.DDPMScheduler(), null_label=4)
    with pytest.raises(ValueError, match="none of the model's 0 labels"):
        from_diffusers(theirs(), diffusers.DDPMScheduler(), null_label=0)


def text_model(**options):
    torch.manual_seed(0)
    blocks = {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 6,
    }
    return diffusers.UNet2DConditionModel(**(SMALL | blocks | options)).eval()


def test_a_text_model_is_guided_by_the_empty_text():
    scheduler = diffusers.DDIMScheduler(prediction_type="v_prediction", clip_sample=False)
    model, x = text_model(), noise(2, *SHAPE)
    text, empty = noise(2, 5, 6, seed=1), noise(5, 6, seed=2)
    denoiser = from_diffusers(model, scheduler, empty={"encoder_hidden_states": empty})
    y = {"encoder_hidden_states": text}
    both = empty.expand(2, 5, 6)
    with torch.no_grad():
        said = model(x, 99, encoder_hidden_states=text).sample
        silent = model(x, 99, encoder_hidden_states=both).sample
    assert torch.equal(denoiser.without(y)["encoder_hidden_states"], both)
    assert torch.equal(denoiser.raw(x, 100, y)[0], said)
    assert torch.equal(denoiser.raw(x, 100)[0], silent)
    scale, std = denoiser.process.kernel(100, x)
    expected = scale * x - std * (3 * said - 2 * silent)
    close(ClassifierFree(denoiser, 2.0)(x, 100, y).x0, expected)
    # Their guidance scale s is 1 + w; the same image by their loop.
    scheduler.set_timesteps(10)
    with torch.no_grad():
        a = x
        for t in scheduler.timesteps:
            stacked = torch.cat([both, text])
            null, given = model(torch.cat([a, a]), t, stacked).sample.chunk(2)
            a = scheduler.step(null + 3.0 * (given - null), t, a).prev_sample
    guided = ClassifierFree(denoiser, 2.0)
    close(draw(guided, denoiser.process, x, times_of(scheduler), eta=0.0, y=y), a)


def test_further_conditions_reach_the_model_by_their_names():
    model = text_model(
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 * 4 + 7,
    )
    x, text = noise(2, *SHAPE), noise(2, 5, 6, seed=1)
    more = {"text_embeds": noise(2, 7, seed=3), "time_ids": torch.arange(12.0).reshape(2, 6)}
    empty = {"encoder_hidden_states": torch.zeros(5, 6), "text_embeds": torch.zeros(7)}
    denoiser = from_diffusers(model, diffusers.DDPMScheduler(), empty=empty)
    y = {"encoder_hidden_states": text} | more
    with torch.no_grad():
        said = model(x, 99, encoder_hidden_states=text, added_cond_kwargs=more).sample
    assert torch.equal(denoiser.raw(x, 100, y)[0], said)
    none = denoiser.without(y)
    assert torch.equal(none["time_ids"], more["time_ids"])  # sizes are no content
    assert not none["text_embeds"].any() and none["text_embeds"].shape == (2, 7)


def test_conditions_that_a_model_does_not_take_are_named():
    text, x = {"encoder_hidden_states": torch.zeros(2, 5, 6)}, noise(2, *SHAPE)
    plain = from_diffusers(theirs(), diffusers.DDPMScheduler())
    with pytest.raises(ValueError, match=r"takes no \['encoder_hidden_states'\]"):
        plain(x, 5, text)
    spoken = from_diffusers(text_model(), diffusers.DDPMScheduler())
    for y in (None, torch.zeros(2, dtype=torch.int64)):
        with pytest.raises(ValueError, match="needs encoder_hidden_states"):
            spoken(x, 5, y)
    with pytest.raises(ValueError, match="takes no text"):
        from_diffusers(theirs(), diffusers.DDPMScheduler(), empty={"class_labels": torch.ones(())})
    with pytest.raises(ValueError, match=r"\(L, D\), got \(1, 5, 6\)"):
        DiffusersNet(text_model(), empty={"encoder_hidden_states": torch.zeros(1, 5, 6)})


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "scheduler", "sentence"),
    [
        ({"out_channels": 3}, diffusers.DDPMScheduler(), "makes 3 channels of 2"),
        ({}, diffusers.DDPMScheduler(variance_type="learned_range"), "twice as many channels"),
        ({"out_channels": 4}, diffusers.DDPMScheduler(variance_type="learned"), "got 'learned'"),
        ({"time_embedding_type": "fourier"}, diffusers.DDPMScheduler(), "Fourier features"),
        ({}, diffusers.EDMEulerScheduler(), "EDMEulerScheduler has no betas"),
        ({}, diffusers.ScoreSdeVeScheduler(), "has no betas"),
        ({}, diffusers.DPMSolverMultistepScheduler(prediction_type="flow_prediction"), "got 'flow"),
        ({}, {"num_train_timesteps": 10}, "names no betas"),
        ({}, 7, "expected a scheduler of diffusers or its configuration, got int"),
    ],
)
def test_models_and_schedulers_that_mean_something_else(options, scheduler, sentence):
    with pytest.raises(ValueError, match=sentence):
        from_diffusers(theirs(**options), scheduler)


def test_times_between_the_steps_are_none_of_a_chain():
    scheduler = diffusers.EulerDiscreteScheduler()
    scheduler.set_timesteps(7)
    with pytest.raises(ValueError, match="between the whole times"):
        times_of(scheduler)


# ---- our models in their schedulers and pipelines ------------------------------------------------


@each_type
@pytest.mark.parametrize("table", [schedules.linear, schedules.cosine])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_our_model_draws_the_same_image_by_their_ddim(kind, table, eta):
    denoiser, x = ours(DDPM(table(200)), TYPES[kind]), noise(2, *SHAPE)
    unet = PipelineUNet(denoiser, SHAPE)
    scheduler = to_scheduler(denoiser.process, "DDIM", unet.parameterization)
    scheduler.set_timesteps(10)
    assert times_of(scheduler) == uniform_times(200, 10)
    a = draw(denoiser, denoiser.process, x, uniform_times(200, 10), eta=eta, generator=generator())
    close(their_loop(exact(scheduler), unet, x, eta=eta, generator=generator()), a)


@pytest.mark.parametrize("var_mix", [0.0, 1.0, None])
def test_our_model_draws_the_same_image_by_their_ddpm(var_mix):
    denoiser, x = ours(DDPM(schedules.cosine(40)), V, var_mix), noise(2, *SHAPE)
    unet = PipelineUNet(denoiser, SHAPE, variance=var_mix is None)
    assert unet.config.out_channels == (4 if var_mix is None else 2)
    scheduler = to_scheduler(denoiser.process, "DDPM", unet.parameterization, var_mix)
    scheduler.set_timesteps(40)
    a = draw(denoiser, denoiser.process, x, generator=generator())
    close(their_loop(exact(scheduler), unet, x, generator=generator()), a)


@pytest.mark.parametrize("kind", ["DPMSolverMultistep", "UniPCMultistep"])
@pytest.mark.parametrize("p", [EPS, V])
def test_first_order_solvers_are_ddim(kind, p):
    denoiser, x = ours(DDPM(schedules.linear(200)), p), noise(2, *SHAPE)
    unet = PipelineUNet(denoiser, SHAPE)
    config = to_scheduler(denoiser.process, kind, unet.parameterization).config
    scheduler = getattr(diffusers, f"{kind}Scheduler").from_config(config, solver_order=1)
    if kind == "UniPCMultistep":  # a corrector is another method
        scheduler = type(scheduler).from_config(config, solver_order=1, disable_corrector=range(10))
    scheduler.set_timesteps(10)
    a = draw(denoiser, denoiser.process, x, times_of(scheduler), eta=0.0)
    close(their_loop(scheduler, unet, x), a)


def test_a_guided_denoiser_is_a_model_of_clean_images_to_them():
    process = DDPM(schedules.linear(50, 0.002, 0.2))
    denoiser, x = ours(process, EPS, num_classes=3), noise(2, *SHAPE)
    y = torch.tensor([0, 2])
    guided = StaticThreshold(ClassifierFree(denoiser, 1.5))
    unet = PipelineUNet(guided, SHAPE, y=y)
    assert unet.parameterization == X0
    scheduler = to_scheduler(process, "DDIM", unet.parameterization)
    scheduler.set_timesteps(10)
    a = draw(guided, process, x, uniform_times(50, 10), eta=0.0, y=y)
    close(their_loop(scheduler, unet, x), a)


def test_labels_come_bound_or_with_the_call():
    denoiser, x = ours(DDPM(schedules.cosine(20)), num_classes=3), noise(2, *SHAPE)
    y = torch.tensor([1, 2])
    bound, free = PipelineUNet(denoiser, SHAPE, y=y), PipelineUNet(denoiser, SHAPE)
    t = torch.tensor(9)
    expected = denoiser.raw(x, 10, y)[0]
    assert torch.equal(bound(x, t).sample, expected)
    assert torch.equal(free(x, t, class_labels=y, return_dict=False)[0], expected)
    assert torch.equal(free(x, torch.tensor([9, 9]), y).sample, expected)
    assert not torch.equal(free(x, 9)[0], expected)


def test_a_variance_that_is_not_learned_is_not_handed_on():
    unet = PipelineUNet(ours(DDPM(schedules.cosine(20))), SHAPE, variance=True)
    with pytest.raises(ValueError, match="learns no variance"):
        unet(noise(2, *SHAPE), 3)


def test_times_between_our_steps_are_asked_of_a_model_that_knows_them():
    denoiser = ours(DDPM(schedules.cosine(20)))
    x, between = noise(2, *SHAPE), between_steps(denoiser)
    with pytest.raises(ValueError, match="times must be an int"):
        PipelineUNet(denoiser, SHAPE)(x, torch.tensor(3.5))
    found = PipelineUNet(between, SHAPE)(x, torch.tensor(3.5)).sample
    assert torch.equal(found, between.raw(x, 4.5)[0])


TO = {
    "kind": (DDPM(schedules.cosine(9)), "PNDM", EPS, 0.0, "has the kinds DDPM, DDIM, DPM"),
    "process": (VP(), "DDPM", EPS, 0.0, "a chain .DDPM. has the kinds"),
    "answer": (DDPM(schedules.cosine(9)), "DDIM", SCORE, 0.0, "predict eps, x0 or v, got 'score'"),
    "variance": (DDPM(schedules.cosine(9)), "DDPM", EPS, 0.5, "var_mix must be 0, 1 or None"),
    "of ddim": (DDPM(schedules.cosine(9)), "DDIM", EPS, 1.0, "0 for the others"),
    "no end": (DDPM(torch.tensor([0, 0.5, 1])), "DPMSolverMultistep", V, 0.0, "which is 0 here"),
    "flow": (RectifiedFlow(), "DDIM", VELOCITY, 0.0, "FlowMatchEulerDiscrete"),
    "flow of ε": (RectifiedFlow(), "FlowMatchEulerDiscrete", EPS, 0.0, "predicts VELOCITY"),
}


@pytest.mark.parametrize(("process", "kind", "p", "var_mix", "sentence"), TO.values(), ids=TO)
def test_schedulers_that_there_are_not(process, kind, p, var_mix, sentence):
    with pytest.raises(ValueError, match=sentence):
        to_scheduler(process, kind, p, var_mix)


def quietly(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def as_pictures(x: Tensor) -> Tensor:
    return (x / 2 + 0.5).clamp(0, 1)


@pytest.mark.parametrize(("name", "shape"), [("digits", (1, 8, 8)), ("mnist", (1, 28, 28))])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_shipped_model_draws_its_images_in_their_ddim_pipeline(name, shape, eta):
    denoiser, _ = zoo.load(name, "cpu")
    y, steps = torch.tensor([3, 7]), 20
    unet = PipelineUNet(denoiser, shape, y=y)
    scheduler = to_scheduler(denoiser.process, "DDIM", unet.parameterization)
    pipeline = quietly(diffusers.DDIMPipeline(unet, scheduler))
    assert pipeline.device.type == "cpu" and unet.dtype == torch.float32
    times = uniform_times(denoiser.process.T, steps)
    plain = FixedVariance(denoiser, 0.0)  # their DDIM knows β̃ alone
    source = generator()
    x = torch.randn(2, *shape, generator=source)
    a = draw(plain, denoiser.process, x, times, eta=eta, y=y, generator=source)

    def drawn():
        options = {"num_inference_steps": steps, "eta": eta, "output_type": "pt"}
        return pipeline(batch_size=2, generator=generator(), **options).images

    close(drawn(), as_pictures(a), 2e-4 if eta else 1e-5)  # as they are
    exact(pipeline.scheduler)
    close(drawn(), as_pictures(a))


def test_a_shipped_model_with_a_learned_variance_in_their_ddpm_pipeline():
    denoiser, _ = zoo.load("mnist", "cpu")
    assert denoiser.var_mix is None
    shape, y = (1, 28, 28), torch.tensor([3])
    unet = PipelineUNet(denoiser, shape, y=y, variance=True)
    config = to_scheduler(denoiser.process, "DDPM", unet.parameterization, None).config
    # "leading" ends at t = 1; a strided chain that ends above it gets noise after its last step.
    scheduler = diffusers.DDPMScheduler.from_config(config, timestep_spacing="leading")
    pipeline = quietly(diffusers.DDPMPipeline(unet, exact(scheduler)))
    options = {"num_inference_steps": 20, "output_type": "pt"}
    found = pipeline(batch_size=1, generator=generator(), **options).images
    source = generator()
    x = torch.randn(1, *shape, generator=source)
    times = leading_times(denoiser.process.T, 20)
    assert times_of(pipeline.scheduler) == times
    a = draw(denoiser, denoiser.process, x, times, y=y, generator=source)
    close(found, as_pictures(a))


@pytest.mark.slow
def test_what_their_float32_tables_move():
    """As they are: eight parts in a million of an image for η = 0, and up to 1e-4 for η = 1."""
    for name in SCHEDULES:
        for kind in ("sample", "v_prediction"):
            for eta, most in ((0.0, 1e-5), (1.0, 1e-4)):
                options = SCHEDULES[name] | {"clip_sample": False, "prediction_type": kind}
                scheduler = diffusers.DDIMScheduler(**options, timestep_spacing="trailing")
                scheduler.set_timesteps(10)
                model, x = theirs(), noise(2, *SHAPE)
                denoiser = from_diffusers(model, scheduler)
                process, times = denoiser.process, times_of(scheduler)
                a = their_loop(scheduler, model, x, eta=eta, generator=generator())
                b = draw(denoiser, process, x, times, eta=eta, generator=generator())
                close(b, a, most)


# ---- straight lines ------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_their_flow_model_draws_the_image_of_their_scheduler(shift):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(8)
    model, x = theirs(), noise(2, *SHAPE)
    for said in (scheduler, dict(scheduler.config) | {"_class_name": type(scheduler).__name__}):
        denoiser = from_diffusers(model, said)
        assert denoiser.process == RectifiedFlow() and denoiser.parameterization == VELOCITY
    a = their_loop_of_a_flow(scheduler, model, x)
    close(draw(denoiser, denoiser.process, x, times_of(scheduler), step=Euler()), a)


def test_our_flow_model_draws_the_same_image_by_their_scheduler():
    denoiser, x = ours(RectifiedFlow(), VELOCITY), noise(2, *SHAPE)
    unet = PipelineUNet(denoiser, SHAPE)
    scheduler = to_scheduler(denoiser.process, "FlowMatchEulerDiscrete", unet.parameterization)
    scheduler.set_timesteps(sigmas=[1.0, 0.7, 0.45, 0.2])
    a = draw(denoiser, denoiser.process, x, [1.0, 0.7, 0.45, 0.2, 0.0], step=Euler())
    close(their_loop_of_a_flow(scheduler, unet, x), a)


@torch.no_grad()
def their_loop_of_a_flow(scheduler, model, x):
    for t in scheduler.timesteps:
        x = scheduler.step(model(x, t).sample, t, x).prev_sample
    return x


# ---- saved, and what the docstrings say of their code --------------------------------------------


def labelled_net(**config):
    return DiffusersNet(theirs(**config), null_label=3)


def test_their_model_is_saved_and_loaded_as_ours(tmp_path):
    config = {"num_class_embeds": 4}
    denoiser = from_diffusers(theirs(**config), diffusers.DDPMScheduler(), null_label=3)
    zoo.save(denoiser, tmp_path, shape=SHAPE, build=labelled_net, arguments=config, num_classes=3)
    found, _ = zoo.load(tmp_path, "cpu", build=labelled_net)
    x, y = noise(2, *SHAPE), torch.tensor([0, 2])
    assert found.process == denoiser.process
    assert torch.equal(found(x, 77, y).x0, denoiser(x, 77, y).x0)


def test_their_model_is_trained_further_with_label_dropout():
    denoiser = from_diffusers(theirs(num_class_embeds=4), diffusers.DDPMScheduler(), null_label=3)
    before = {name: value.clone() for name, value in denoiser.state_dict().items()}

    def loss(model, x, y, generator):
        return diffusion_loss(model, x, y, generator, label_dropout=0.5)

    settings = Settings(steps=2, batch_size=4, lr=1e-2, warmup=0)
    y = torch.tensor([0, 1, 2] * 4)
    trainer = Trainer(denoiser, loss, noise(12, *SHAPE).clamp(-1, 1), y, settings, device="cpu")
    assert all(math.isfinite(float(progress.loss)) for progress in fit(trainer))
    after = trainer.model.state_dict()
    assert not torch.equal(after["net.model.conv_in.weight"], before["net.model.conv_in.weight"])


def test_their_step_goes_beside_their_list():
    """Noted in `diffusers_schedulers`: 7 steps of 20, spaced "trailing"."""
    process = DDPM(schedules.linear(20, 0.01, 0.3))
    scheduler = to_scheduler(process, "DDIM", X0)
    scheduler.set_timesteps(7)
    times = times_of(scheduler)
    assert times[:2] == [20, 17]
    x0, x = torch.zeros(1, 1), torch.ones(1, 1)
    found = scheduler.step(x0, times[0] - 1, x).prev_sample
    beside, listed = (float(process.std[s] / process.std[20]) for s in (18, 17))
    assert abs(float(found) - beside) < 1e-6 and abs(beside - listed) > 1e-3


def test_their_large_logarithmic_variance_is_not_a_number():
    scheduler = diffusers.DDPMScheduler(variance_type="fixed_large_log", clip_sample=False)
    x = noise(1, 1, 2, 2)
    assert scheduler.step(x, 500, x).prev_sample.isnan().all()


def test_their_offset_leaves_the_table():
    scheduler = diffusers.DDIMScheduler(num_train_timesteps=10, steps_offset=1)
    scheduler.set_timesteps(10)
    assert int(scheduler.timesteps[0]) == 10
    with pytest.raises(IndexError):
        scheduler.step(torch.zeros(1), 10, torch.zeros(1))


def test_two_channels_of_one_pass_their_ddim_unnoticed():
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(10)
    assert scheduler.step(noise(1, 2, 4, 4), 900, noise(1, 1, 4, 4)).prev_sample.shape[1] == 2


def test_their_shift_is_applied_twice_to_the_smallest_sigma():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    once = 3 * 0.001 / (1 + 2 * 0.001)
    assert abs(scheduler.sigma_min - once) < 1e-9
    scheduler.set_timesteps(10)
    assert abs(float(scheduler.sigmas[-2]) - 3 * once / (1 + 2 * once)) < 1e-7


@pytest.mark.slow
def test_the_bridge_is_imported_without_diffusers():
    code = "import sys, ddpmlib.interop; assert 'diffusers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_any_scheduler_like_object_with_a_configuration_is_read():
    like = SimpleNamespace(config={"prediction_type": "sample"}, betas=torch.tensor([0.1, 0.2]))
    assert process_of(like) == DDPM(torch.tensor([0.0, 0.1, 0.2]))
