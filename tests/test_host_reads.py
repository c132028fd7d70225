"""Nothing on the way of a sampling step or of an update makes the CPU wait for a GPU.

Tensors of a GPU are imitated: they have shapes and a device and no values, so whoever reads one
fails, and whatever passes between CPU and GPU is seen. Where there is a GPU, PyTorch's own alarm
listens to the same code.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ddpmlib import guidance, samplers
from ddpmlib.denoiser import EPS, Denoiser, V
from ddpmlib.losses import UniformTimes
from ddpmlib.models import UNet, UNetConfig
from ddpmlib.process import DDPM, schedules
from ddpmlib.training import BatchLoss, Trainer
from ddpmlib.zoo import RECIPES, Recipe
from ddpmlib.zoo.recipes import changed

NET = UNetConfig(width=8, mults=(1, 2), attention=(False, True), heads=2, num_classes=3)


class Traffic(TorchDispatchMode):
    """Note every operation that has tensors on both sides: a copy to the GPU, or from it.

    A number wrapped as a tensor without dimensions goes along with the call of a kernel.
    """

    def __init__(self) -> None:
        super().__init__()
        self.crossings: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [v for v in tree_leaves((args, kwargs, result)) if isinstance(v, Tensor)]
        if len({v.device.type for v in tensors if v.ndim or "copy" in str(func)}) > 1:
            self.crossings.append(str(func))
        return result


@contextmanager
def imitated_gpu() -> Iterator[torch.device]:
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield torch.device("cuda")


def denoiser(how: str) -> Denoiser:
    outputs, var_mix = (2, None) if how == "learned variance" else (1, 0.0)
    return Denoiser(UNet(NET, outputs), DDPM(schedules.cosine(20)), V, var_mix).eval()


def chain(model: Any, device: torch.device, eta: float, how: str) -> Iterator[samplers.State]:
    model = model.to(device)
    if how == "guided":
        model = guidance.DynamicThreshold(guidance.ClassifierFree(model, 2.0))
    x = torch.randn(4, 1, 8, 8, device=device)
    y = torch.zeros(4, dtype=torch.int64, device=device)
    times = samplers.uniform_times(20, 5)
    return samplers.sample(model, model.process, x, times, eta=eta, y=y)


def test_the_imitation_notices_reads_and_copies() -> None:
    with imitated_gpu() as device, Traffic() as traffic:
        x = torch.randn(3, device=device)
        with pytest.raises(DataDependentOutputException):
            float(x.sum())
        assert traffic.crossings == []
        torch.arange(3).to(device)
        torch.tensor(1.0, device=device)
        x.cpu()
    assert len(traffic.crossings) == 3


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("how", ["plain", "learned variance", "guided"])
@pytest.mark.slow
def test_a_sampling_step_neither_reads_nor_copies(eta: float, how: str) -> None:
    model = denoiser(how)
    with imitated_gpu() as device:
        states = chain(model, device, eta, how)
        next(states)
        with Traffic() as traffic:
            assert len(list(states)) == 5
    assert traffic.crossings == []


class NoGenerator:
    """Calling it gives None: PyTorch's own random numbers."""

    def __new__(cls, device: torch.device) -> None:  # type: ignore[misc]
        return None


def trainer(recipe: Recipe, model: Any, loss: BatchLoss, device: torch.device) -> Trainer:
    x, y = torch.zeros(8, 1, 8, 8, dtype=torch.uint8), torch.zeros(8, dtype=torch.int64)
    return Trainer(model, loss, x, y, recipe.settings, device=device)


def small_recipe(**changes: Any) -> Recipe:
    small = {"net.width": 8, "settings.batch_size": 4, "net.dropout": 0.1, "flip": True, "T": 20}
    return changed(RECIPES["mnist"], small | changes)


@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.slow
def test_an_update_neither_reads_nor_copies(learned: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # Backward passes need a device that PyTorch can at least name: that of tensors without values.
    # It has neither random numbers nor autocast.
    recipe = small_recipe(**{} if learned else {"var_mix": 0.0, "objective": "simple"})
    device = torch.device("meta")
    times = torch.arange(1, 5, device=device)
    monkeypatch.setattr(torch, "Generator", NoGenerator)
    monkeypatch.setattr(torch, "autocast", lambda *words, **options: nullcontext())
    monkeypatch.setattr(Trainer, "_random_numbers_of", lambda self, piece: nullcontext())
    monkeypatch.setattr(UniformTimes, "draw", lambda self, n, generator: (times, 1.0))
    training = trainer(recipe, recipe.build(), recipe.loss(), device)
    training.batches = [torch.arange(4, device=device)] * 2  # type: ignore[assignment]
    training.update()  # moves tables
    with pytest.raises(RuntimeError, match="item"):
        float(training.y.sum())
    with Traffic() as traffic:
        training.update()
    assert training.step == 2 and traffic.crossings == []


def reads(work: Any) -> int:
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        work()
    return sum(e.count for e in seen.key_averages() if e.key == "aten::_local_scalar_dense")


def test_the_profiler_sees_no_reading_of_tensors_in_a_step_of_the_process() -> None:
    process, x = DDPM(schedules.linear(50)), torch.randn(4, 3)
    model = Denoiser(torch.nn.Identity(), process, EPS)
    prediction = model.read(x, 0.5, x, 40)
    assert reads(lambda: float(x.sum())) == 1
    for t, s in pairwise([40, 20, 0]):
        assert reads(lambda t=t, s=s: process.step(x, prediction, t, s, 1.0, x)) == 0
        assert reads(lambda t=t: process.kernel(t, x)) == 0


@contextmanager
def alarm() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_real_gpu_is_never_waited_for() -> None:
    device = torch.device("cuda")
    for how in ("plain", "learned variance", "guided"):
        states = chain(denoiser(how), device, 1.0, how)
        for _ in range(2):
            next(states)
        with alarm():
            list(states)
    recipe = small_recipe()
    training = trainer(recipe, recipe.build(), recipe.loss(), device)
    training.update()
    with alarm():
        training.update()
