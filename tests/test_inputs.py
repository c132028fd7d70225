"""`ddpmlib.inputs`, and labels at every door: what may come in, and in which forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ddpmlib import condition, evaluation, inputs, plots, samplers, seeds
from ddpmlib.denoiser import Denoiser, V, oracle
from ddpmlib.evaluation import metrics
from ddpmlib.guidance import ClassifierFree, ClassifierGuidance, class_gradient
from ddpmlib.losses import diffusion_loss, l_simple
from ddpmlib.models import MLP, NoisyClassifier, NoisyClassifierConfig, UNet, UNetConfig
from ddpmlib.prediction import Prediction
from ddpmlib.process import DDPM, EDM, VP, schedules

CHAIN = DDPM(schedules.cosine(20))
POINTS = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
X = torch.zeros(3, 2)


def model() -> Denoiser:
    torch.manual_seed(0)
    net = MLP(2, 16, 1, num_classes=3)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return Denoiser(net, CHAIN, V)


# ---- arrays --------------------------------------------------------------------------------------


def test_an_array_becomes_a_tensor_without_a_copy() -> None:
    array = np.zeros((3, 2), np.float32)
    found = inputs.as_tensor(array)
    array[0, 0] = 7
    assert found[0, 0] == 7 and inputs.as_tensor(found) is found


def test_an_array_that_cannot_be_shared_is_copied_without_a_warning(recwarn: Any) -> None:
    array = np.arange(6.0).reshape(3, 2)
    backwards = array[::-1]
    assert torch.equal(inputs.as_tensor(backwards), torch.tensor(backwards.copy()))
    array.flags.writeable = False
    assert torch.equal(inputs.as_tensor(array), torch.arange(6.0).double().reshape(3, 2))
    assert not recwarn.list


@pytest.mark.parametrize("x", [None, "word", [1.0], 3, np.array(["a"]), np.array([None])])
def test_what_is_no_array_is_named(x: Any) -> None:
    with pytest.raises(ValueError, match=r"^data must (be a tensor or an array|hold numbers)"):
        inputs.as_tensor(x)


def test_images_as_floats_are_in_the_range_of_networks() -> None:
    pixels = torch.randint(0, 256, (2, 1, 4, 4), dtype=torch.uint8)
    assert inputs.as_images(pixels) is pixels
    noisy = 3 * torch.randn(2, 1, 4, 4)
    assert inputs.as_images(noisy) is noisy and inputs.as_images(noisy.abs() / 3) is not None
    with pytest.raises(ValueError, match=r"floats lie in \[-1, 1\], but these in \[0, 200\]"):
        inputs.as_images(torch.tensor([0.0, 200.0]))
    with pytest.raises(ValueError, match="uint8 0..255 or floats"):
        inputs.as_images(pixels.long())
    with pytest.raises(ValueError, match="NaN"):
        inputs.as_images(noisy * float("nan"))


@pytest.mark.parametrize("look", [plots.sheet, metrics.saturation])
def test_pixels_as_floats_are_not_shown_or_measured(look: Any) -> None:
    with pytest.raises(ValueError, match="give pixels 0..255 as uint8"):
        look(torch.full((1, 1, 4, 4), 200.0))
    with pytest.raises(ValueError, match=r"uint8 0..255 or floats|floating point"):
        look(torch.full((1, 1, 4, 4), 200, dtype=torch.int32))


def test_metrics_samplers_and_losses_take_arrays() -> None:
    a, b = torch.randn(30, 2), torch.randn(30, 2)
    for metric in (metrics.frechet_distance, metrics.precision_recall):
        assert metric(a.numpy(), b.numpy()) == metric(a, b)
    logits, y = torch.eye(3), np.array([0, 1, 1])
    assert metrics.class_agreement(logits.numpy(), y) == pytest.approx(2 / 3)
    net, t, eps = model(), torch.tensor([1, 5, 9, 20]), torch.randn(4, 2)
    assert torch.equal(
        samplers.draw(net, CHAIN, POINTS.numpy(), eta=0.0),
        samplers.draw(net, CHAIN, POINTS, eta=0.0),
    )
    assert torch.equal(l_simple(net, POINTS.numpy(), t, eps.numpy()), l_simple(net, POINTS, t, eps))


# ---- labels --------------------------------------------------------------------------------------


@pytest.mark.parametrize("y", [2, np.int64(2), [2, 2, 2], (2, 2, 2), np.full(3, 2, np.uint8)])
def test_labels_are_taken_as_they_come(y: Any) -> None:
    found = condition.as_condition(y, X)
    assert found.dtype == torch.int64 and found.tolist() == [2, 2, 2]


def test_conditions_are_handed_on_as_they_are() -> None:
    y, named = torch.arange(3), {"a": torch.zeros(3, 5)}
    assert condition.as_condition(y, X) is y and condition.as_condition(named, X) is named
    assert condition.as_condition(None, X) is None
    arrays = condition.as_condition({"a": np.zeros((3, 5))}, X)
    assert torch.equal(arrays["a"], torch.zeros(3, 5).double())


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (True, "labels are whole numbers, one or one per sample, got bool"),
        (2.0, "labels are whole numbers"),
        ("cat", "labels are whole numbers, one or one per sample, got str"),
        ([1, 2.5, 0], "labels are whole numbers"),
        ([True, False, True], "labels are whole numbers"),
        (-1, "labels are counted from 0, got -1"),
        ([0, 1], "need one condition per sample, got 2 for 3 samples"),
        (torch.arange(4), "need one condition per sample, got 4 for 3 samples"),
        (torch.tensor(1), "one entry per sample"),
    ],
)
def test_what_are_no_labels_is_one_sentence(y: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        condition.as_condition(y, X)


DOORS: dict[str, Any] = {
    "denoiser": lambda y: model()(POINTS, 9, y).x0,
    "raw": lambda y: model().raw(POINTS, 9, y)[0],
    "sample": lambda y: samplers.draw(model(), CHAIN, POINTS, eta=0.0, y=y),
    "inversion": lambda y: [*samplers.ddim_invert(model(), CHAIN, POINTS, y=y)][-1].x,
    "Langevin": lambda y: (
        [
            *samplers.langevin(
                model(), CHAIN, POINTS, 5, 0.1, 2, y=y, generator=torch.Generator().manual_seed(0)
            )
        ][-1].x
    ),
    "classifier-free": lambda y: ClassifierFree(model(), 2.0)(POINTS, 9, y).x0,
    "loss": lambda y: l_simple(model(), POINTS, torch.tensor([1, 5, 9, 20]), POINTS, y),
    "diffusion loss": lambda y: diffusion_loss(
        model(), POINTS, y, torch.Generator().manual_seed(0), 0.5
    ),
}


@pytest.mark.parametrize("name", DOORS)
def test_every_door_takes_a_label_for_all_and_a_list(name: str) -> None:
    door = DOORS[name]
    truth = door(torch.full((4,), 2))
    assert torch.equal(door(2), truth) and torch.equal(door([2] * 4), truth)
    assert torch.equal(door(np.full(4, 2)), truth)
    assert not torch.equal(door(1), truth)
    for bad in (4, [0, 1, 2, 7]):
        with pytest.raises(ValueError, match=r"labels must lie in 0\.\.2"):
            door(bad)


def test_generate_takes_one_label_with_a_number_of_samples() -> None:
    torch.manual_seed(0)
    small: Any = {"width": 8, "mults": (1,), "attention": (False,), "heads": 2, "num_classes": 3}
    net = Denoiser(UNet(UNetConfig(**small)), CHAIN, V)
    torch.nn.init.normal_(net.net.out.weight)
    how = evaluation.Sampling(steps=2)

    def drawn(y: Any, n: int | None = None) -> Tensor:
        return evaluation.generate(net, (1, 4, 4), y, how, n=n)

    truth = drawn(torch.full((3,), 2))
    assert torch.equal(drawn(2, 3), truth) and torch.equal(drawn([2, 2, 2]), truth)
    with pytest.raises(ValueError, match="give labels or a number of samples"):
        drawn(2)
    with pytest.raises(ValueError, match="labels are whole numbers"):
        drawn("cat", 3)


# ---- numbers that once went wrong without a word -------------------------------------------------


def test_noise_of_another_precision_is_refused() -> None:
    for dtype in (torch.float16, torch.float64):
        with pytest.raises(ValueError, match="eps must be of the dtype and on the device"):
            CHAIN.q_sample(POINTS, 5, POINTS.to(dtype))
        with pytest.raises(ValueError, match="noise must be of the dtype"):
            CHAIN.step(POINTS, Prediction(POINTS), 5, 3, 1.0, POINTS.to(dtype))
        with pytest.raises(ValueError, match=r"the network computes in torch.float32 on cpu"):
            samplers.draw(model(), CHAIN, POINTS.to(dtype))


def test_an_empty_batch_has_no_loss() -> None:
    with pytest.raises(ValueError, match="the mean loss of no samples is no number"):
        diffusion_loss(model(), POINTS[:0], None, torch.Generator())


def test_a_covariance_has_no_negative_eigenvalue() -> None:
    bad = torch.tensor([[1.0, 2.0], [2.0, 1.0]])  # eigenvalues 3 and −1, variances 1
    with pytest.raises(ValueError, match="no negative variance or eigenvalue"):
        metrics.Moments.known(9, torch.zeros(2), bad)
    with pytest.raises(ValueError, match="a covariance has no negative eigenvalue"):
        oracle.Gaussian(CHAIN, torch.zeros(2), bad)
    singular = metrics.Moments.known(9, torch.zeros(2), torch.ones(2, 2))
    assert singular.root().shape == (2, 1)
    assert not metrics.Moments.known(9, torch.zeros(2), torch.zeros(2, 2)).cov.any()


@pytest.mark.parametrize("t", [0, 21])
def test_a_classifier_is_not_asked_outside_its_times(t: int) -> None:
    small: Any = {"width": 8, "mults": (1,), "attention": (False,), "heads": 2, "num_classes": 3}
    classifier = NoisyClassifier(NoisyClassifierConfig(**small), CHAIN).eval()
    x = torch.zeros(2, 1, 4, 4)
    message = r"times must lie in 0\.\.20|clean data \(t = 0\) hold no noise"
    for ask in (
        lambda: classifier(x, torch.tensor([3, t])),
        lambda: class_gradient(classifier, x, t, 1),
    ):
        with pytest.raises(ValueError, match=message):
            ask()
    exact = oracle.Mixture(CHAIN, torch.ones(2), torch.eye(2), torch.ones(2), torch.arange(2))
    with pytest.raises(ValueError, match=message):
        ClassifierGuidance(exact, exact.class_logits)(POINTS, t, 1)


def test_a_classifier_of_continuous_times_is_told_floats() -> None:
    told = []

    def classifier(x: Tensor, t: Tensor) -> Tensor:
        told.append(t.dtype)
        return x

    exact = oracle.Gaussian(VP(), torch.zeros(2), torch.eye(2))
    guide = ClassifierGuidance(exact, classifier)
    assert torch.equal(guide(POINTS, 1, 0).x0, guide(POINTS, 1.0, 0).x0)
    assert told == [torch.float64] * 2


@pytest.mark.parametrize("times", [[True, False], ["2", "0"], [torch.tensor(True), 0]])
def test_times_are_numbers_and_nothing_that_could_pass_for_one(times: Any) -> None:
    for process in (CHAIN, VP()):
        with pytest.raises(ValueError, match="times must be (whole )?numbers"):
            samplers.checked_times(process, times)


@pytest.mark.parametrize("T", [True, 2.5, "3"])
def test_a_schedule_counts_whole_steps(T: Any) -> None:
    with pytest.raises(ValueError, match="a process counts whole steps"):
        schedules.cosine(T)


def test_counts_and_ends_are_checked() -> None:
    for refine in (1.5, True, "2"):
        with pytest.raises(ValueError, match="refine counts network calls per step"):
            samplers.ddim_invert(model(), CHAIN, POINTS, refine=refine)  # type: ignore[arg-type]
    for number in (1.5, True, "2"):
        with pytest.raises(ValueError, match="number must lie in"):
            seeds.of_sample(3, number)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the largest σ must be positive and finite"):
        EDM(float("inf"))
