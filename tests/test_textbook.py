"""`ddpmlib.textbook` ≡ the engine: same noise, float64, agreement to 1e-12 of the values' size."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ddpmlib import textbook
from ddpmlib.denoiser import EPS, X0, Denoiser, Parameterization, V
from ddpmlib.losses import l_simple
from ddpmlib.prediction import Prediction
from ddpmlib.process import DDPM, schedules
from ddpmlib.samplers import draw, uniform_times

SCHEDULES = {
    "linear": schedules.linear(60),
    "cosine": schedules.cosine(50),
    "sigmoid": schedules.sigmoid(100),
}
PROCESSES = {name: DDPM(beta) for name, beta in SCHEDULES.items()}
each_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
quick = settings(deadline=None, max_examples=80, derandomize=True)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class SmoothNet(nn.Module):
    """A nonlinear network with random weights that hears the time; (B, 3) -> (B, 3)."""

    def __init__(self, T: int) -> None:
        super().__init__()
        self.T, self.a, self.b, self.c = T, normal(3, 8), normal(8, seed=1), normal(8, 3, seed=2)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        hidden = torch.tanh(x @ self.a / 2 + self.b * t.double()[:, None] / self.T)
        return hidden @ self.c / 3


class Recorder(DDPM):
    """A process that remembers the noise of every step, so that it can be replayed."""

    def __init__(self, beta: Tensor) -> None:
        super().__init__(beta)
        self.noise: dict[int, Tensor | None] = {}

    def step(self, x_t, prediction, t, s, eta=1.0, noise=None):  # type: ignore[override]
        assert t not in self.noise, "each step draws once"
        self.noise[t] = noise
        return super().step(x_t, prediction, t, s, eta, noise)


def bare(net: nn.Module):
    """The ε-network as the papers write it: (x_t, one time) -> ε̂."""
    return lambda x, t: net(x, torch.full((len(x),), t))


def assert_same(a: Tensor, b: Tensor) -> None:
    assert bool(torch.isfinite(b).all())
    assert float((a - b).abs().max()) <= 1e-12 * max(1.0, float(b.abs().max()))


# ---- Algorithm 1 -------------------------------------------------------------------------


@pytest.mark.equation("3.1", "3.2")
@each_process
def test_algorithm_1_is_l_simple_summed_over_pixels(process: DDPM) -> None:
    net, x0, eps = SmoothNet(process.T), normal(5, 3), normal(5, 3, seed=1)
    denoiser = Denoiser(net, process, EPS)
    for t in range(1, process.T + 1):
        printed = textbook.algorithm_1_loss(bare(net), x0, t, eps, process.alpha_bar)
        engine = l_simple(denoiser, x0, torch.full((5,), t), eps)
        assert printed.shape == (5,)
        assert_same(3 * engine, printed)  # the engine takes the mean of the three numbers


@pytest.mark.equation("3.1")
def test_algorithm_1_sums_over_every_axis_but_the_batch() -> None:
    alpha_bar = torch.tensor([1.0, 0.64], dtype=torch.float64)
    x0, eps = normal(2, 3, 4), normal(2, 3, 4, seed=1)
    heard: list[Tensor] = []

    def net(x: Tensor, t: int) -> Tensor:
        heard.append(x)
        return torch.zeros_like(x)

    loss = textbook.algorithm_1_loss(net, x0, 1, eps, alpha_bar)
    assert_same(heard[0], 0.8 * x0 + 0.6 * eps)
    assert_same(loss, torch.stack([(e**2).sum() for e in eps]))


# ---- Algorithm 2 -------------------------------------------------------------------------


@pytest.mark.equation("3.3", "3.7")
@each_process
@pytest.mark.parametrize("var_mix", [0.0, 1.0], ids=["beta_tilde", "beta"])
def test_algorithm_2_is_the_engine_at_eta_one(process: DDPM, var_mix: float) -> None:
    """Whole chains of T ≥ 50 steps, both choices of σ, the engine's own noise replayed."""
    recorder = Recorder(process.beta)
    net, x_T = SmoothNet(process.T), normal(4, 3, seed=5)
    generator = torch.Generator().manual_seed(8)
    engine = draw(Denoiser(net, process, EPS, var_mix), recorder, x_T, generator=generator)
    assert [t for t, z in recorder.noise.items() if z is None] == [1]  # the last step is silent

    sigma = (process.beta if var_mix else process.beta_tilde).sqrt()
    unused = torch.full_like(x_T, torch.nan)
    z = [unused, unused, *(recorder.noise[t] for t in range(2, process.T + 1))]
    printed = textbook.algorithm_2(bare(net), x_T, process.alpha, process.alpha_bar, sigma, z)
    assert_same(engine, printed)


@pytest.mark.equation("3.3")
def test_algorithm_2_tells_the_two_variances_apart() -> None:
    """If both choices of σ gave one x_0, the test above could not see a swap."""
    process = PROCESSES["linear"]
    net, x_T = SmoothNet(process.T), normal(4, 3)
    z = [normal(4, 3, seed=t) for t in range(process.T + 1)]
    small, large = (
        textbook.algorithm_2(bare(net), x_T, process.alpha, process.alpha_bar, sigma, z)
        for sigma in (process.beta_tilde.sqrt(), process.beta.sqrt())
    )
    assert float((small - large).abs().max()) > 1e-3


@pytest.mark.equation("3.3")
def test_algorithm_2_finds_a_point() -> None:
    """With the exact ε̂ of a single image every chain ends on it."""
    process, x0 = PROCESSES["linear"], normal(1, 3)

    def exact(x: Tensor, t: int) -> Tensor:
        return (x - process.alpha_bar[t].sqrt() * x0) / (1 - process.alpha_bar[t]).sqrt()

    z = [normal(4, 3, seed=t) for t in range(process.T + 1)]
    sigma = process.beta.sqrt()
    found = textbook.algorithm_2(exact, normal(4, 3), process.alpha, process.alpha_bar, sigma, z)
    assert_same(found, x0.expand(4, 3))


# ---- DDIM --------------------------------------------------------------------------------


@st.composite
def updates(draw_from: st.DrawFn) -> tuple[str, int, int, float, int]:
    name = draw_from(st.sampled_from(sorted(PROCESSES)))
    t = draw_from(st.integers(1, PROCESSES[name].T))
    s = draw_from(st.integers(0, t - 1))
    eta = draw_from(st.floats(0, 1) | st.sampled_from([0.0, 1.0]))
    return name, t, s, eta, draw_from(st.integers(0, 1000))


@pytest.mark.equation("3.8", "3.7")
@quick
@given(update=updates())
def test_ddim_update_is_the_engines_step(update: tuple[str, int, int, float, int]) -> None:
    """Any t, s, η: eq. 12 of DDIM with σ of its eq. 16, against process.step."""
    name, t, s, eta, seed = update
    process, net = PROCESSES[name], SmoothNet(PROCESSES[name].T)
    x_t, z = normal(4, 3, seed=seed), normal(4, 3, seed=seed + 1)
    a_t, a_s = process.alpha_bar[t], process.alpha_bar[s]
    sigma = eta * ((1 - a_s) / (1 - a_t)).sqrt() * (1 - a_t / a_s).sqrt()
    eps = bare(net)(x_t, t)
    printed = textbook.ddim_update(x_t, eps, a_t, a_s, sigma, z)
    prediction = Denoiser(net, process, EPS)(x_t, t)
    engine = process.step(x_t, prediction, t, s, eta, z)
    # An ε-network's x̂_0 is huge near pure noise: its size, not that of x_s, sets the rounding.
    size = max(1.0, float(prediction.x0.abs().max()), float(printed.abs().max()))
    assert float((engine - printed).abs().max()) <= 1e-12 * size


@pytest.mark.equation("3.8")
@each_process
@pytest.mark.parametrize("steps", [1, 7, 25])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("p", [EPS, X0, V], ids=lambda p: p.name)
def test_whole_strided_chains_are_ddim_updates(
    process: DDPM, steps: int, eta: float, p: Parameterization
) -> None:
    """Whatever the network predicts: the engine sees x̂_0, the printed line the implied ε̂."""
    recorder = Recorder(process.beta)
    denoiser = Denoiser(SmoothNet(process.T), process, p)
    x_T, times = normal(4, 3, seed=9), uniform_times(process.T, steps)
    generator = torch.Generator().manual_seed(2)
    engine = draw(denoiser, recorder, x_T, times, eta=eta, generator=generator)
    x = x_T
    for t, s in pairwise(times):
        a_t, a_s = process.alpha_bar[t], process.alpha_bar[s]
        eps = (x - a_t.sqrt() * denoiser(x, t).x0) / (1 - a_t).sqrt()
        sigma = eta * ((1 - a_s) / (1 - a_t) * (1 - a_t / a_s)).sqrt()
        z = recorder.noise[t]
        x = textbook.ddim_update(x, eps, a_t, a_s, sigma, torch.zeros_like(x) if z is None else z)
    assert_same(engine, x)


@pytest.mark.equation("3.8")
def test_ddim_update_by_hand() -> None:
    x_t, eps, z = (torch.tensor([v], dtype=torch.float64) for v in (1.0, 0.5, -2.0))
    a_t, a_s, sigma = (torch.tensor(v, dtype=torch.float64) for v in (0.36, 0.64, 0.3))
    x0 = (1 - 0.8 * 0.5) / 0.6
    by_hand = 0.8 * x0 + (0.36 - 0.09) ** 0.5 * 0.5 - 0.3 * 2
    found = textbook.ddim_update(x_t, eps, a_t, a_s, sigma, z)
    assert float(found) == pytest.approx(by_hand, rel=1e-14)


@pytest.mark.equation("3.8")
def test_at_eta_one_ddim_is_algorithm_2() -> None:
    """Song et al. (2021): σ² = β̃ turns eq. 12 into a DDPM step, line for line."""
    process, net = PROCESSES["cosine"], SmoothNet(50)
    for t in range(2, 51):
        x, z = normal(4, 3, seed=t), normal(4, 3, seed=t + 1)
        eps, a_t, a_s = bare(net)(x, t), process.alpha_bar[t], process.alpha_bar[t - 1]
        sigma = process.beta_tilde[t].sqrt()
        ddim = textbook.ddim_update(x, eps, a_t, a_s, sigma, z)
        mean = (x - process.beta[t] / (1 - a_t).sqrt() * eps) / process.alpha[t].sqrt()
        assert_same(ddim, mean + sigma * z)


def test_the_engine_takes_a_prediction_and_nothing_else() -> None:
    """A prediction of x_0 made by hand gives the step that the network gives."""
    process, net = PROCESSES["linear"], SmoothNet(60)
    x = normal(4, 3)
    x0 = (x - process.std[30] * bare(net)(x, 30)) / process.scale[30]
    by_hand = process.step(x, Prediction(x0), 30, 10, 0.0)
    assert_same(process.step(x, Denoiser(net, process)(x, 30), 30, 10, 0.0), by_hand)
