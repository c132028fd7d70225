"""Independent implementations: the schedulers of `diffusers` and the matrix root of `scipy`.

`diffusers` counts 0..T−1 where the book counts 1..T: its index i is our time i + 1, and "before 0"
is our time 0. Its tables are float32; where formulas are compared, our float64 tables are put in
their place, so that agreement to 1e-12 means the same formula and not the same rounding.

Known differences, all avoided or stated below:

- Default spacing "leading" never visits the noisiest time; "trailing" is our `uniform_times`.
- `DDIMScheduler` finds the time before t as t − T // steps, which misses when steps do not divide
  T; `DDPMScheduler` looks it up in its list, and so agrees with us on any times.
- `clip_sample` is on by default: it edits the prediction, which for us is a wrapper's business.
- With `set_alpha_to_one=False` DDIM ends at its index 0, our t = 1: on an image that still holds
  noise.
- `DDPMScheduler` draws after the last step of a strided chain; see `test_ddpm_steps`.
- The end points of `linear` are not rescaled when T is not 1000: we give them by hand.
"""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from ddpmlib.denoiser import EPS, X0, Denoiser, Parameterization, V
from ddpmlib.evaluation import frechet_distance
from ddpmlib.prediction import Prediction
from ddpmlib.process import DDPM, schedules
from ddpmlib.samplers import ddim_invert, leading_times, linspace_times, uniform_times

diffusers = pytest.importorskip("diffusers")
linalg = pytest.importorskip("scipy.linalg")

T = 1000
BETAS = {
    "linear": schedules.linear(T),
    "squaredcos_cap_v2": schedules.cosine(T),
    "sigmoid": schedules.sigmoid(T),
}
TYPES = {"epsilon": EPS, "sample": X0, "v_prediction": V}
each_schedule = pytest.mark.parametrize("name", BETAS)
each_type = pytest.mark.parametrize(("kind", "p"), TYPES.items(), ids=TYPES)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def peer(cls, process: DDPM, **options):
    """Their scheduler with clipping off and our float64 tables in place of its float32 ones."""
    off = {"clip_sample": False, "trained_betas": process.beta[1:].numpy()}
    scheduler = cls(num_train_timesteps=process.T, **off, **options)
    scheduler.betas, scheduler.alphas = process.beta[1:], process.alpha[1:]
    scheduler.alphas_cumprod = process.alpha_bar[1:]
    scheduler.one = torch.tensor(1.0, dtype=torch.float64)
    return scheduler


def gap(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).abs().max())


def size(x: Tensor) -> float:
    return max(1.0, float(x.abs().max()))


class Says(torch.nn.Module):
    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return self.output


# ---- tables and the forward process ------------------------------------------------------


@each_schedule
def test_beta_tables(name: str) -> None:
    theirs = diffusers.DDPMScheduler(num_train_timesteps=T, beta_schedule=name)
    assert theirs.betas.shape == (T,)  # no entry for clean data
    assert gap(theirs.betas.double(), BETAS[name][1:]) < 1e-6
    assert gap(theirs.alphas_cumprod.double(), DDPM(BETAS[name]).alpha_bar[1:]) < 1e-5


@pytest.mark.parametrize("name", ["linear", "sigmoid"])
def test_beta_tables_with_own_end_points(name: str) -> None:
    theirs = diffusers.DDPMScheduler(
        num_train_timesteps=50, beta_start=0.01, beta_end=0.3, beta_schedule=name
    )
    ours = getattr(schedules, name)(50, 0.01, 0.3)
    assert gap(theirs.betas.double(), ours[1:]) < 1e-7


@each_schedule
def test_add_noise_is_q_sample(name: str) -> None:
    process = DDPM(BETAS[name])
    x0, eps, t = normal(4, 1, 8, 8), normal(4, 1, 8, 8, seed=1), torch.tensor([1, 2, 500, 1000])
    for cls in (diffusers.DDPMScheduler, diffusers.DDIMScheduler):
        theirs = peer(cls, process).add_noise(x0, eps, t - 1)
        assert gap(theirs, process.q_sample(x0, t, eps)) < 1e-14


@each_schedule
def test_velocity_is_the_v_target(name: str) -> None:
    process = DDPM(BETAS[name])
    x0, eps, t = normal(4, 1, 8, 8), normal(4, 1, 8, 8, seed=1), torch.tensor([1, 2, 500, 1000])
    theirs = peer(diffusers.DDPMScheduler, process).get_velocity(x0, eps, t - 1)
    assert gap(theirs, V.target(x0, eps, *process.kernel(t, x0))) < 1e-14


# ---- DDPM --------------------------------------------------------------------------------


@pytest.mark.equation("3.7")
@each_schedule
@each_type
@pytest.mark.parametrize(("variance", "u"), [("fixed_small", 0.0), ("fixed_large", 1.0)])
def test_ddpm_steps(name: str, kind: str, p: Parameterization, variance: str, u: float) -> None:
    """Every stride: their list of times is set by hand, so that t → s is any pair."""
    process = DDPM(BETAS[name])
    theirs = peer(diffusers.DDPMScheduler, process, prediction_type=kind, variance_type=variance)
    x, said = normal(3, 2, 4, 4), normal(3, 2, 4, 4, seed=1)
    for t, s in [(1, 0), (2, 1), (1000, 999), (500, 499), (1000, 600), (40, 3), (700, 0)]:
        theirs.set_timesteps(timesteps=[t - 1, s - 1] if s else [t - 1])
        found = theirs.step(said, t - 1, x, generator=torch.Generator().manual_seed(5))
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(5), dtype=x.dtype)
        prediction = Denoiser(Says(said), process, p, u)(x, t)
        room = 1e-12 * size(prediction.x0)
        assert gap(found.pred_original_sample, prediction.x0) <= room
        if s == 0 and t > 1:
            # They draw whenever their index is above 0, even when it is the last of the list;
            # "fixed_large" is then a noisy image, "fixed_small" a 1e-10 of noise (their clamp).
            noisy = 1e-10 if variance == "fixed_small" else float(process.std[t])
            assert gap(found.prev_sample, prediction.x0 + noisy * noise) <= room + 1e-15
            continue
        assert gap(found.prev_sample, process.step(x, prediction, t, s, 1.0, noise)) <= room


@pytest.mark.parametrize(("t", "s"), [(2, 1), (500, 499), (1000, 999), (1000, 400), (30, 7)])
def test_a_learned_variance_is_log_interpolated(t: int, s: int) -> None:
    """Their v in [−1, 1] is our var_mix = (v + 1) / 2 (Nichol & Dhariwal 2021, eq. 15)."""
    process = DDPM(schedules.cosine(T))
    theirs = peer(diffusers.DDPMScheduler, process, variance_type="learned_range")
    theirs.set_timesteps(timesteps=[t - 1, s - 1])
    x, said = normal(3, 2, 4, 4), normal(3, 2, 4, 4, seed=1)
    v = torch.tanh(normal(3, 2, 4, 4, seed=2))
    generator = torch.Generator().manual_seed(5)
    found = theirs.step(torch.cat([said, v], 1), t - 1, x, generator=generator).prev_sample
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(5), dtype=x.dtype)
    prediction = Denoiser(Says(said), process, EPS)(x, t)
    ours = process.step(x, Prediction(prediction.x0, (v + 1) / 2), t, s, 1.0, noise)
    assert gap(found, ours) <= 1e-12 * size(prediction.x0)


# ---- DDIM --------------------------------------------------------------------------------


@pytest.mark.equation("3.8", "3.7")
@pytest.mark.parametrize("name", ["linear", "squaredcos_cap_v2"])
@each_type
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_whole_ddim_chains(name: str, kind: str, p: Parameterization, eta: float) -> None:
    """Twenty strided steps from pure noise; "trailing" spacing is our uniform_times."""
    process, steps = DDPM(BETAS[name]), 20
    theirs = peer(
        diffusers.DDIMScheduler,
        process,
        prediction_type=kind,
        timestep_spacing="trailing",
        set_alpha_to_one=True,
    )
    theirs.set_timesteps(steps)
    times = uniform_times(T, steps)
    assert [int(t) + 1 for t in theirs.timesteps] == times[:-1]
    a = b = normal(3, 2, 4, 4)
    for t, s in pairwise(times):
        said, noise = torch.tanh(a + t / T), normal(3, 2, 4, 4, seed=t)
        a = theirs.step(said, t - 1, a, eta=eta, variance_noise=noise).prev_sample
        prediction = Denoiser(Says(torch.tanh(b + t / T)), process, p)(b, t)
        b = process.step(b, prediction, t, s, eta, noise)
        # An ε-network's first prediction is divided by √ᾱ_T, up to 2·10⁴: its size sets the
        # rounding.
        assert gap(a, b) <= 1e-12 * size(prediction.x0)


@pytest.mark.equation("3.9")
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_inverse_ddim_is_one_iteration_of_ours(kind: str) -> None:
    process = DDPM(schedules.linear(T))
    theirs = peer(
        diffusers.DDIMInverseScheduler,
        process,
        prediction_type="epsilon",  # see below
        timestep_spacing="trailing",
        set_alpha_to_one=True,
    )
    theirs.initial_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
    theirs.set_timesteps(10)

    class Net(torch.nn.Module):
        def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
            return torch.tanh(x + t.double()[:, None] / T)

    p = TYPES[kind]
    denoiser, x = Denoiser(Net(), process, p), normal(4, 3)
    ours = {state.t: state.x for state in ddim_invert(denoiser, process, x, uniform_times(T, 10))}
    assert [int(i) + 1 for i in theirs.timesteps] == list(ours)[1:]
    for i in theirs.timesteps.tolist():
        # They split v with the lower time's scale though the network heard the upper time; the
        # noise it means at its own time is what the encoder needs, so ε is handed over.
        t = i + 1
        eps = process.eps_from_x0(x, denoiser(x, t).x0, t)
        x = theirs.step(eps, i, x).prev_sample
        assert gap(x, ours[t]) <= 1e-12 * size(x)


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 7, 10, 20, 30, 50, 100, 250, 333, 999, 1000])
@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("leading", leading_times), ("linspace", linspace_times), ("trailing", uniform_times)],
)
def test_time_spacings(theirs: str, ours, steps: int) -> None:
    """Their index i is our time i + 1; we append 0, the arrival of the last step.

    One difference: a single "linspace" step starts at their index 0, the cleanest time, as numpy
    has it; ours starts at T, where the prior is.
    """
    scheduler = diffusers.DDIMScheduler(num_train_timesteps=T, timestep_spacing=theirs)
    scheduler.set_timesteps(steps)
    found = [int(i) + 1 for i in scheduler.timesteps]
    if (theirs, steps) == ("linspace", 1):
        assert found == [1] and ours(T, 1) == [T, 0]
        return
    assert [*found, 0] == ours(T, steps)


def test_their_default_spacing_starts_below_the_noisiest_time() -> None:
    """Why "leading" is not what we compare with: 20 steps begin at 951 of 1000, ours at 1000."""
    theirs = diffusers.DDIMScheduler(num_train_timesteps=T)
    theirs.set_timesteps(20)
    assert int(theirs.timesteps[0]) + 1 == 951
    assert uniform_times(T, 20)[0] == T


# ---- Fréchet distance --------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("dim", [1, 5, 16])
def test_frechet_distance_with_scipys_matrix_root(dim: int, seed: int) -> None:
    a = (normal(200, dim, seed=seed) @ normal(dim, dim, seed=seed + 10)).numpy()
    b = (normal(150, dim, seed=seed + 20) @ normal(dim, dim, seed=seed + 30) + 0.5).numpy()
    cov_a, cov_b = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
    root = np.real(linalg.sqrtm(cov_a @ cov_b))
    difference = a.mean(0) - b.mean(0)
    theirs = difference @ difference + np.trace(cov_a + cov_b - 2 * root)
    ours = frechet_distance(torch.from_numpy(a), torch.from_numpy(b))
    assert math.isclose(ours, float(theirs), rel_tol=1e-9)
