"""Apple's GPUs have no float64: nothing that computes on the device may ask for it.

The device is imitated: its tensors hold their values on the CPU, call themselves those of ``mps``,
and refuse double precision, and the company of tensors of the CPU, as the real ones do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

from ddpmlib import evaluation, guidance, likelihood, losses, models, samplers
from ddpmlib.denoiser import X0, Denoiser, Translated, V, between_steps, edm_output, oracle
from ddpmlib.process import DDPM, EDM, VDM, VE, VP, FlowMatching, RectifiedFlow, schedules

MPS = torch.device("mps")


class Apple(Tensor):
    """A tensor of the imitated device."""

    inside: Tensor

    @staticmethod
    def __new__(cls, inside: Tensor) -> Apple:
        if inside.dtype in (torch.float64, torch.complex128):
            raise TypeError(f"the device has no {inside.dtype}")
        options = {"dtype": inside.dtype, "requires_grad": inside.requires_grad}
        options["strides"] = inside.stride()
        made = Tensor._make_wrapper_subclass(cls, inside.size(), **options)
        made.inside = inside
        return made

    def __init__(self, inside: Tensor) -> None:
        pass

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return MPS

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Apple({self.inside!r})"

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Any | None = None
    ) -> Any:
        return carried_out(func, args, kwargs or {})


def carried_out(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The operation on the CPU, its result back on the device."""
    tensors = [v for v in tree_leaves((args, kwargs)) if isinstance(v, Tensor)]
    if any(v.ndim and not isinstance(v, Apple) for v in tensors) and "copy" not in str(func):
        raise RuntimeError(f"{func}: tensors of the device and of the CPU")
    if kwargs.get("device") is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    args, kwargs = tree_map_only(Apple, lambda v: v.inside, (args, kwargs))
    return tree_map_only(Tensor, Apple, func(*args, **kwargs))


class Calls(TorchFunctionMode):
    """New tensors of the device, and copies to and from it."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.cpu:
            return args[0].inside if isinstance(args[0], Apple) else args[0]
        if func is Tensor.to:
            return moved(args[0], *args[1:], **kwargs)
        if getattr(kwargs.get("device"), "type", "") == "mps":
            made = func(*args, **(kwargs | {"device": torch.device("cpu")}))
            return made if isinstance(made, Apple) else Apple(made)
        return func(*args, **kwargs)


def moved(x: Tensor, *how: Any, **named: Any) -> Tensor:
    """Tensor.to: to a device, a dtype, both, or as another tensor."""
    device, dtype = named.get("device"), named.get("dtype")
    for word in how:
        if isinstance(word, Tensor):
            device, dtype = word.device, word.dtype
        elif isinstance(word, torch.device | str):
            device = torch.device(word)
        elif isinstance(word, torch.dtype):
            dtype = word
    stays = device is None or torch.device(device).type == x.device.type
    inside = x.inside if isinstance(x, Apple) and not stays else x
    if dtype is not None and dtype != inside.dtype:
        inside = torch.ops.aten._to_copy.default(inside, dtype=dtype)
    if stays:
        return inside
    return Apple(inside) if torch.device(device).type == "mps" else inside


@contextmanager
def apple() -> Iterator[None]:
    old = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with Calls():
            yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(old)


def there(x: Tensor) -> Tensor:
    return x.to(MPS)


def test_the_imitation_refuses_what_the_device_refuses() -> None:
    with apple():
        x = there(torch.ones(3))
        assert x.device.type == "mps" and (2 * x).device.type == "mps"
        assert torch.zeros_like(x).device.type == torch.zeros(2, device=MPS).device.type == "mps"
        assert x.cpu().tolist() == [1.0] * 3 and float(x.sum()) == 3
        for bad in (
            lambda: x.double(),
            lambda: torch.zeros(3, dtype=torch.float64, device=x.device),
            lambda: torch.ones_like(x, dtype=torch.float64),
            lambda: there(torch.ones(3).double()),
        ):
            with pytest.raises(TypeError, match="the device has no torch.float64"):
                bad()
        with pytest.raises(RuntimeError, match="tensors of the device and of the CPU"):
            x + torch.ones(3)
        assert x.cpu().double().dtype == torch.float64


# ---- everything that computes on a device --------------------------------------------------------

CHAIN = DDPM(schedules.cosine(20))
SHAPE: dict[str, Any] = {"width": 8, "mults": (1, 2), "attention": (False, True), "heads": 2}
TIMES = [20, 9, 4, 0]


def points() -> Tensor:
    return there(torch.randn(4, 2, generator=torch.Generator().manual_seed(0)))


def images() -> Tensor:
    return there(torch.randint(0, 256, (4, 1, 8, 8)) / 127.5 - 1)


def labels() -> Tensor:
    return there(torch.arange(4) % 3)


def model(process: Any = CHAIN, p: Any = V, var_mix: float | None = None) -> Denoiser:
    net = models.MLP(2, 16, 1, num_classes=3, outputs=1 if var_mix is not None else 2)
    return Denoiser(net, process, p, var_mix).to(MPS).eval()


def image_model() -> Denoiser:
    net = models.UNet(models.UNetConfig(num_classes=3, **SHAPE), outputs=2)
    return Denoiser(net, CHAIN, V, None).to(MPS).eval()


def noise() -> samplers.SampleNoise:
    return samplers.SampleNoise(0, range(4))


def drawn(denoiser: Any, times: Any = TIMES, **options: Any) -> Any:
    return samplers.draw(
        denoiser, denoiser.process, points(), times, y=labels(), generator=noise(), **options
    )


def of_continuous(process: Any, p: Any, step: Any, times: Any) -> Callable[[], Any]:
    return lambda: drawn(model(process, p, 0.0), times, step=step)


def loss(objective: Any, process: Any = CHAIN, p: Any = V) -> Callable[[], Any]:
    def run() -> Any:
        if process is CHAIN:
            t, net = there(torch.tensor([1, 4, 9, 20])), image_model()
            return objective(net, images(), t, there(torch.randn(4, 1, 8, 8)), labels())
        t = there(torch.tensor([0.1, 0.4, 0.7, 0.9]))
        return objective(model(process, p, 0.0), points(), t, points(), labels())

    return run


def weighted(weighting: Any, process: Any = CHAIN, p: Any = V) -> Callable[[], Any]:
    return loss(lambda *given: losses.weighted(weighting, *given), process, p)


def importance() -> Any:
    times = losses.ImportanceTimes(20, memory=1).to(MPS)
    times.update(torch.arange(1, 21), torch.linspace(1, 2, 20))
    return times.probabilities()


def classifier() -> Any:
    config = models.NoisyClassifierConfig(num_classes=3, **SHAPE)
    return models.NoisyClassifier(config, CHAIN).to(MPS).eval()


def guided(wrap: Callable[[Any], Any]) -> Callable[[], Any]:
    return lambda: drawn(wrap(model()), eta=1.0)


def classified() -> Any:
    guide = guidance.ClassifierGuidance(image_model(), classifier())
    return samplers.draw(guide, CHAIN, images(), [15, 4, 0], eta=0.0, y=labels())


def gaussian() -> Any:
    exact = oracle.Gaussian(CHAIN, torch.zeros(2), torch.eye(2))
    return drawn(exact), exact.log_prob(points(), 3), exact.score(points(), 3)


def mixture() -> Any:
    exact = oracle.Mixture(CHAIN, torch.ones(3), torch.eye(3)[:, :2], torch.ones(3))
    return drawn(exact), exact.log_prob(points(), 3), exact.score(points(), 3)


def langevin(function: Any, *more: Any, **options: Any) -> Callable[[], Any]:
    def run() -> Any:
        walk = function(model(), CHAIN, points(), *more, y=labels(), generator=noise(), **options)
        return [state.x for state in walk]

    return run


FEATURES = lambda: there(torch.randn(40, 2))  # noqa: E731
WORK: dict[str, Callable[[], Any]] = {
    "ancestral": lambda: drawn(model(), eta=1.0),
    "between": lambda: drawn(model(), eta=0.5),
    "DDIM": lambda: drawn(model(), eta=0.0),
    "RePaint's rise": lambda: drawn(model(), [20, 4, 9, 0]),
    "inversion": lambda: [
        s.residual
        for s in samplers.ddim_invert(model(), CHAIN, points(), TIMES, y=labels(), refine=3)
    ],
    "slerp": lambda: samplers.slerp(points(), points() + 1, 0.3),
    "Langevin": langevin(samplers.langevin, 9, 0.01, 2),
    "annealed": langevin(samplers.annealed_langevin, [20, 9, 0], steps=1),
    "corrected": langevin(samplers.predictor_corrector, [20, 9, 0]),
    "Heun, VP": of_continuous(VP(), V, samplers.Heun(), [0.9, 0.5, 0.0]),
    "Euler, EDM": of_continuous(EDM(), edm_output(), samplers.Euler(), [80.0, 1.0, 0.0]),
    "Euler, straight": of_continuous(RectifiedFlow(), X0, samplers.Euler(), [1.0, 0.5, 0.0]),
    "Euler, flow": of_continuous(FlowMatching(), X0, samplers.Euler(), [0.1, 0.5, 1.0]),
    "SDE, VE": of_continuous(VE(), X0, samplers.EulerMaruyama(), [0.9, 0.5, 0.0]),
    "ancestral, VDM": of_continuous(VDM(), V, samplers.Ancestral(1.0), [5.0, 0.0, -5.0]),
    "between steps": lambda: drawn(between_steps(model()), [20.0, 7.5, 0.0], step=samplers.Euler()),
    "translated": lambda: drawn(Translated(model(), VP()), [0.9, 0.5, 0.1], step=samplers.Euler()),
    "l_simple": loss(losses.l_simple),
    "l_vlb": loss(losses.l_vlb),
    "l_hybrid": loss(losses.l_hybrid),
    "l_simple, continuous": loss(losses.l_simple, VP()),
    "weighted, 1": weighted(losses.simple),
    "weighted, 1/SNR": weighted(losses.uniform_on_x0),
    "weighted, min-SNR": weighted(losses.min_snr(), VP()),
    "weighted, truncated": weighted(losses.truncated_snr, RectifiedFlow(), X0),
    "vlb": lambda: losses.vlb(CHAIN, there(torch.tensor([2, 9]))),
    "importance": importance,
    "bound": lambda: likelihood.elbo(
        image_model(), CHAIN, images(), TIMES, y=labels()
    ).bits_per_dim,
    "bound, estimated": lambda: likelihood.elbo_monte_carlo(
        image_model(), CHAIN, images(), draws=2, y=labels()
    ).mean,
    "bound, continuous": lambda: likelihood.elbo_monte_carlo(
        model(VP(), V, 0.0), VP(), points(), [1.0, 0.5, 0.1, 0.0], y=labels(),
        decoder=likelihood.continuous,
    ).mean,
    "classifier-free": guided(lambda net: guidance.ClassifierFree(net, 2.0)),
    "weights by sample": guided(
        lambda net: guidance.ClassifierFree(net, there(torch.arange(4.0)))
    ),
    "thresholds": guided(
        lambda net: guidance.DynamicThreshold(guidance.Temperature(net, 0.9))
    ),
    "classifier guidance": classified,
    "Gaussian": gaussian,
    "mixture": mixture,
    "Fréchet": lambda: evaluation.frechet_distance(FEATURES(), FEATURES()),
    "KID": lambda: evaluation.kid(FEATURES(), FEATURES(), size=9, subsets=2),
    "precision": lambda: evaluation.precision_recall(FEATURES(), FEATURES()),
    "Inception Score": lambda: evaluation.inception_score(FEATURES()),
    "agreement": lambda: evaluation.class_agreement(there(torch.randn(4, 3)), labels()),
    "saturation": lambda: evaluation.saturation(images()),
    "bootstrap": lambda: evaluation.bootstrap(lambda x: float(x.mean()), FEATURES(), draws=20),
    "generate": lambda: evaluation.generate(
        image_model(), (1, 8, 8), torch.arange(4) % 3, evaluation.Sampling(steps=2)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WORK)
def test_no_float64_is_asked_of_the_device(name: str) -> None:
    torch.manual_seed(0)
    with apple():
        found = WORK[name]()
        for x in tree_leaves(found):
            assert not isinstance(x, Tensor) or bool(x.cpu().isfinite().all())
