"""`samplers.noise`: noise that belongs to samples, whoever draws it and in whatever batch."""

from itertools import pairwise

import pytest
import torch

from ddpmlib import samplers, seeds
from ddpmlib.denoiser import EPS, Denoiser
from ddpmlib.process import DDPM, schedules
from ddpmlib.samplers import SampleNoise
from ddpmlib.samplers.noise import normal

PROCESS = DDPM(schedules.cosine(20))
SHAPE = (1, 4, 4)
N = 12


class Echo(torch.nn.Module):
    """Says that all is noise: no sums over a batch, so that states are equal to the bit."""

    def forward(self, x_t, t):
        return x_t


ECHO = Denoiser(Echo(), PROCESS, EPS)


def test_a_plain_generator_draws_as_ever():
    x = torch.zeros(3, 2, dtype=torch.float64)
    found = normal(x, torch.Generator().manual_seed(4))
    expected = torch.randn(3, 2, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    assert torch.equal(found, expected)
    torch.manual_seed(9)
    found = normal(x)
    torch.manual_seed(9)
    assert torch.equal(found, torch.randn(3, 2, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (3,), (1, 5, 7), (3, 2, 4, 4)])
def test_each_sample_draws_from_a_generator_of_its_own(shape, dtype):
    noise, x = SampleNoise(5, range(4)), torch.zeros(4, *shape, dtype=dtype)
    first, second = normal(x, noise), normal(x, noise)
    assert first.shape == x.shape and first.dtype == dtype
    for i in range(4):
        generator = torch.Generator().manual_seed(seeds.of_sample(5, i))
        for drawn in (first, second):
            expected = torch.empty(shape, dtype=dtype).normal_(generator=generator)
            assert torch.equal(drawn[i], expected)


def test_the_noise_is_standard_normal_and_samples_and_draws_do_not_know_each_other():
    noise, x = SampleNoise(0, range(2000)), torch.zeros(2000, 16)
    a, b = normal(x, noise), normal(x, noise)
    room = 5 / a.numel() ** 0.5
    assert abs(float(a.mean())) < room and abs(float(a.square().mean()) - 1) < 2 * room
    assert abs(float((a**4).mean()) - 3) < 10 * room
    assert abs(float((a * b).mean())) < room  # draw after draw
    assert abs(float((a[1:] * a[:-1]).mean())) < room  # sample beside sample
    other = normal(x, SampleNoise(1, range(2000)))
    assert abs(float((a * other).mean())) < room  # seed beside seed


def test_a_state_of_other_samples_is_refused():
    noise = SampleNoise(0, range(3))
    for x in (torch.zeros(4, 2), torch.zeros(()), torch.zeros(6, 1)):
        with pytest.raises(ValueError, match="noise is that of 3 samples, and the state has shape"):
            normal(x, noise)


# ---- whole chains ------------------------------------------------------------------------------


def ancestral(x, noise, eta):
    return samplers.sample(ECHO, PROCESS, x, [20, 13, 6, 0], eta=eta, generator=noise)


def corrected(x, noise, eta):
    return samplers.predictor_corrector(
        ECHO, PROCESS, x, [20, 13, 6, 0], eta=eta, steps=2, generator=noise
    )


def langevin(x, noise, eta):
    return samplers.langevin(ECHO, PROCESS, x, 5, 0.01 + eta, 3, generator=noise)


def annealed(x, noise, eta):
    return samplers.annealed_langevin(ECHO, PROCESS, x, [20, 10, 3, 0], steps=2, generator=noise)


def in_batches(walk, size, eta):
    """Every state of every sample, drawn ``size`` at a time."""
    parts = []
    for numbers in torch.arange(N).split(size):
        noise = SampleNoise(3, numbers.tolist())
        start = normal(torch.empty(len(numbers), *SHAPE), noise)
        parts.append(torch.stack([state.x for state in walk(start, noise, eta)]))
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("walk", [ancestral, corrected, langevin, annealed])
def test_a_sample_is_the_same_in_every_batch_whatever_the_sampler_draws(walk, eta):
    whole = in_batches(walk, N, eta)
    assert len(whole[-1].flatten(1).unique(dim=0)) == N
    for size in (1, 5, 7):
        assert torch.equal(in_batches(walk, size, eta), whole)


def test_the_order_of_a_batch_does_not_matter():
    numbers = [7, 2, 9, 0]
    noise, ordered = SampleNoise(3, numbers), SampleNoise(3, range(10))
    start = normal(torch.empty(4, *SHAPE), noise)
    whole = normal(torch.empty(10, *SHAPE), ordered)
    found = list(ancestral(start, noise, 1.0))[-1].x
    expected = list(ancestral(whole, ordered, 1.0))[-1].x[numbers]
    assert torch.equal(found, expected)


def test_samplers_draw_nowhere_else(monkeypatch):
    """With noise by sample at hand, none asks PyTorch for noise of a whole batch."""
    monkeypatch.setattr(torch, "randn", lambda *a, **k: pytest.fail("drew for a batch"))
    monkeypatch.setattr(torch, "randn_like", lambda *a, **k: pytest.fail("drew for a batch"))
    before = torch.get_rng_state()
    for walk in (ancestral, corrected, langevin, annealed):
        in_batches(walk, 5, 1.0)
    assert torch.equal(before, torch.get_rng_state())


def test_a_step_of_ones_own_is_run_by_the_loop():
    """Euler's forward draw and back: three draws a step, where the ancestral step has one."""

    def wasteful(denoise, process, past, s, generator):
        t, x = past[-1].t, past[-1].x
        for _ in range(2):
            normal(x, generator)
        prediction = denoise(x, t)
        noise = normal(x, generator)
        return samplers.State(s, process.step(x, prediction, t, s, 1.0, noise), prediction.x0)

    def walk(x, noise, eta):
        return samplers.sample(ECHO, PROCESS, x, [20, 9, 3, 0], step=wasteful, generator=noise)

    whole = in_batches(walk, N, 1.0)
    for size in (1, 5):
        assert torch.equal(in_batches(walk, size, 1.0), whole)
    noise = SampleNoise(3, range(N))  # by hand
    x = normal(torch.empty(N, *SHAPE), noise)
    for t, s in pairwise([20, 9, 3, 0]):
        draws = [normal(x, noise) for _ in range(3)]
        x = PROCESS.step(x, ECHO(x, t), t, s, 1.0, draws[-1])
    assert torch.equal(x, whole[-1])
