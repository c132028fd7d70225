"""`langevin_dynamics`: the bias that is known, the modes that are missed, what annealing mends."""

import math

import pytest
import torch
from torch import Tensor

from ddpmlib.denoiser import oracle, score
from ddpmlib.prediction import Prediction
from ddpmlib.process import DDPM, schedules
from ddpmlib.samplers import (
    State,
    annealed_langevin,
    draw,
    langevin,
    predictor_corrector,
    step_size,
    uniform_times,
)

F64 = torch.float64
T = 40
PROCESS = DDPM(schedules.cosine(T))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def seeded(seed: int = 10) -> torch.Generator:  # other than that of the starting noise
    return torch.Generator().manual_seed(seed)


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=F64)


def gaussian(std: float) -> oracle.Mixture:
    return oracle.Mixture(PROCESS, f64(1), f64(0), f64(std))


PLANE = oracle.Mixture(PROCESS, f64(1, 2, 3), normal(3, 2, seed=7), f64(0.3, 0.2, 0.6))
# Two islands, one four times as heavy as the other, ten of their widths apart.
ISLANDS = oracle.Mixture(PROCESS, f64(0.2, 0.8), f64(-1, 1)[:, None], f64(0.1, 0.1))


def share_right(x: Tensor) -> float:
    return float((x > 0).double().mean())


# ---- unadjusted Langevin -----------------------------------------------------------------


def test_a_step_is_the_formula() -> None:
    """x + h ∇log q + √(2h) z, with the oracle's own score and the generator's own z."""
    x, t, h = normal(5, 2), 12, 0.03
    states = list(langevin(PLANE, PROCESS, x, t, h, 2, generator=seeded(4)))
    generator = seeded(4)
    for before, after in zip(states, states[1:], strict=False):
        z = torch.randn(5, 2, generator=generator, dtype=F64)
        expected = before.x + h * PLANE.score(before.x, t) + math.sqrt(2 * h) * z
        torch.testing.assert_close(after.x, expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(after.x0, PLANE(before.x, t).x0)
    assert [s.t for s in states] == [t] * 3
    assert torch.equal(states[0].x, x) and states[0].x0 is None


def gain(sigma2: float, h: float) -> float:
    """What one step multiplies x by, read off the engine: two chains with the same noise."""
    t, a = 12, float(PROCESS.alpha_bar[12])
    exact = gaussian(math.sqrt((sigma2 - (1 - a)) / a))
    low, high = (
        list(langevin(exact, PROCESS, f64(x), t, h, 1, generator=seeded()))[-1].x for x in (0, 1)
    )
    return float(high - low)


@pytest.mark.parametrize("share", [0.05, 0.5, 1.0, 1.9])
def test_on_a_gaussian_it_settles_at_a_variance_that_is_known(share: float) -> None:
    """V = (1−h/σ²)² V + 2h has the fixed point 2σ⁴/(2σ²−h): too wide, by h/2 for small h."""
    sigma2 = 0.8
    h, var = share * sigma2, 3.0
    factor = gain(sigma2, h)
    assert factor == pytest.approx(1 - h / sigma2, rel=1e-9)
    for _ in range(2000):
        var = factor**2 * var + 2 * h
    expected = 2 * sigma2**2 / (2 * sigma2 - h)
    assert var == pytest.approx(expected, rel=1e-9) and expected > sigma2
    if share < 0.1:
        assert expected == pytest.approx(sigma2 + h / 2, rel=1e-3)


@pytest.mark.parametrize("share", [0.1, 1.0])
def test_the_chains_have_that_variance(share: float) -> None:
    t, n = 12, 20_000
    sigma2 = 0.25 * float(PROCESS.alpha_bar[t]) + float(1 - PROCESS.alpha_bar[t])
    h = share * sigma2
    *_, last = langevin(gaussian(0.5), PROCESS, normal(n), t, h, 60, generator=seeded(1))
    expected = 2 * sigma2**2 / (2 * sigma2 - h)
    spread = 4.5 * expected * math.sqrt(2 / n)
    assert abs(float(last.x.var()) - expected) < spread
    assert abs(float(last.x.mean())) < 4.5 * math.sqrt(expected / n)
    assert abs(sigma2 - expected) > spread  # the bias is seen, not lost in the noise


def test_beyond_twice_the_variance_it_never_settles() -> None:
    sigma2 = 0.8
    assert abs(gain(sigma2, 1.99 * sigma2)) < 1 < abs(gain(sigma2, 2.01 * sigma2))


def test_step_size_is_stable_and_scales_with_the_noise() -> None:
    for t in (1, 20, T):
        noise = float(1 - PROCESS.alpha_bar[t])
        assert step_size(PROCESS, t, 0.2) == pytest.approx(2 * 0.04 * noise, rel=1e-12)
        assert step_size(PROCESS, t, 0.999) < 2 * noise  # 2σ² of a point, the narrowest there is


def test_step_size_is_the_rule_of_the_paper_for_a_point() -> None:
    """h = 2 (r |z|/|g|)² (Song et al. 2021, Algorithm 4) with |g| of x_t drawn from a point."""
    t, r, n = 12, 0.16, 4000
    point = oracle.FiniteData(PROCESS, normal(1, 50))
    x, z = point.draw(n, t, generator=seeded()), normal(n, 50, seed=3)
    g = score(point, x, t)
    by_paper = 2 * r**2 * float((z**2).sum(1).mean() / (g**2).sum(1).mean())
    assert step_size(PROCESS, t, r) == pytest.approx(by_paper, rel=0.02)
    drift = step_size(PROCESS, t, r) * g.norm(dim=1).mean()
    noise = math.sqrt(2 * step_size(PROCESS, t, r)) * z.norm(dim=1).mean()
    assert float(drift / noise) == pytest.approx(r, rel=0.02)


# ---- modes -------------------------------------------------------------------------------


def test_plain_langevin_keeps_the_shares_it_started_with() -> None:
    """Chains never cross between the islands: half of them end on each, four fifths are due."""
    x = normal(1000, 1)
    *_, last = langevin(ISLANDS, PROCESS, x, 1, step_size(PROCESS, 1, 0.3), 400, generator=seeded())
    assert torch.equal(last.x > 0, x > 0) or abs(share_right(last.x) - share_right(x)) < 0.02
    assert abs(share_right(last.x) - 0.5) < 0.05
    assert float((last.x.abs() - 1).abs().mean()) < 0.15  # each on an island, the wrong shares


def test_annealed_langevin_finds_the_shares() -> None:
    """The same number of calls, spread over the noise levels."""
    n = 2000
    *_, last = annealed_langevin(
        ISLANDS, PROCESS, normal(n, 1), steps=10, snr=0.3, generator=seeded()
    )
    assert last.t == 0 and abs(share_right(last.x) - 0.8) < 4.5 * math.sqrt(0.16 / n) + 0.02
    assert float((last.x.abs() - 1).abs().mean()) < 0.15


def test_annealed_langevin_has_the_variances_that_its_step_sizes_say() -> None:
    """On N(0, c) each level multiplies and adds: V ← (1−h/σ²)² V + 2h. Late levels lag behind:
    their steps are as short as the noise, and the data are wide. The last state is a prediction."""
    c, n, steps, r = 0.3, 8000, 8, 0.2
    exact = gaussian(math.sqrt(c))
    states = list(
        annealed_langevin(exact, PROCESS, normal(n), steps=steps, snr=r, generator=seeded())
    )
    var, a = 1.0, PROCESS.alpha_bar.tolist()
    for state in states[1:-1]:
        truth, h = c * a[state.t] + 1 - a[state.t], 2 * r**2 * (1 - a[state.t])
        for _ in range(steps):
            var = (1 - h / truth) ** 2 * var + 2 * h
        assert abs(float(state.x.var()) - var) < 4.5 * var * math.sqrt(2 / n)
        assert 0.98 < var / truth < 1.25
    assert torch.equal(states[-1].x, exact(states[-2].x, 1).x0)
    assert torch.equal(states[-1].x, states[-1].x0)


def test_levels_that_end_above_0_are_not_denoised() -> None:
    states = list(annealed_langevin(PLANE, PROCESS, normal(3, 2), [30, 12], generator=seeded()))
    assert [s.t for s in states] == [30, 30, 12]
    states = list(annealed_langevin(PLANE, PROCESS, normal(3, 2), [30, 12, 0]))
    assert [s.t for s in states] == [30, 30, 12, 0]


def test_one_level_is_plain_langevin_with_the_rules_step() -> None:
    x, h = normal(3, 2), step_size(PROCESS, 12, 0.16)
    states = list(annealed_langevin(PLANE, PROCESS, x, [12, 5], steps=7, generator=seeded()))
    *_, plain = langevin(PLANE, PROCESS, x, 12, h, 7, generator=seeded())
    assert torch.equal(states[1].x, plain.x)


# ---- predictor and corrector -------------------------------------------------------------


def test_a_level_is_a_step_of_the_sampler_and_then_langevin() -> None:
    x, times = normal(4, 2), [30, 12, 0]
    states = list(predictor_corrector(PLANE, PROCESS, x, times, steps=3, generator=seeded(2)))
    generator = seeded(2)
    noise = torch.randn(4, 2, generator=generator, dtype=F64)
    middle = PROCESS.step(x, PLANE(x, 30), 30, 12, 1.0, noise)
    h = step_size(PROCESS, 12, 0.16)
    *_, corrected = langevin(PLANE, PROCESS, middle, 12, h, 3, generator=generator)
    assert [s.t for s in states] == times and torch.equal(states[1].x, corrected.x)
    last = PROCESS.step(corrected.x, PLANE(corrected.x, 12), 12, 0)
    assert torch.equal(states[2].x, last)  # clean data are not corrected
    torch.testing.assert_close(states[2].x0, PLANE(corrected.x, 12).x0)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_corrector_mends_the_distribution_of_long_steps(eta: float) -> None:
    """Five steps to the last level before the data: its variance, corrected and not."""
    c, n = 0.1, 20_000
    exact, times = gaussian(math.sqrt(c)), [*uniform_times(T, 5)[:-1], 1]
    truth = c * float(PROCESS.alpha_bar[1]) + float(1 - PROCESS.alpha_bar[1])
    plain = draw(exact, PROCESS, normal(n), times, eta=eta, generator=seeded())
    *_, mended = predictor_corrector(
        exact, PROCESS, normal(n), times, eta=eta, steps=40, snr=0.25, generator=seeded()
    )
    wrong, less = (abs(math.log(float(x.var()) / truth)) for x in (plain, mended.x))
    assert wrong > 0.2 and less < 0.6 * wrong


def test_without_noise_and_correction_it_would_be_the_sampler() -> None:
    """The corrector shrinks to nothing with r: then each level is that of `sample`."""
    x, times = normal(4, 2), uniform_times(T, 6)
    *_, last = predictor_corrector(PLANE, PROCESS, x, times, eta=0.0, snr=1e-9)
    expected = draw(PLANE, PROCESS, x, times, eta=0.0)
    torch.testing.assert_close(last.x, expected, rtol=0, atol=1e-6)


# ---- manners -----------------------------------------------------------------------------

WALKS = {
    "langevin": lambda d, x, **k: langevin(d, PROCESS, x, 12, 0.01, 3, **k),
    "annealed": lambda d, x, **k: annealed_langevin(d, PROCESS, x, [30, 12, 0], steps=2, **k),
    "corrected": lambda d, x, **k: predictor_corrector(d, PROCESS, x, [30, 12, 0], steps=2, **k),
}
each_walk = pytest.mark.parametrize("walk", WALKS.values(), ids=WALKS)


@each_walk
@pytest.mark.parametrize("shape", [(3,), (3, 2), (3, 5, 3), (3, 1, 4, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_every_shape_and_dtype_and_labels_are_passed_on(walk, shape, dtype) -> None:
    asked = []

    def denoiser(x, t, y):
        assert not torch.is_grad_enabled()
        asked.append(y)
        return Prediction(0.5 * x)

    y = torch.arange(3)
    states = list(walk(denoiser, normal(*shape).to(dtype), y=y))
    assert all(isinstance(s, State) and s.x.shape == shape for s in states)
    assert all(s.x.dtype == dtype and bool(s.x.isfinite().all()) for s in states)
    assert asked and all(a is y for a in asked) and torch.is_grad_enabled()


@each_walk
def test_the_same_seed_is_the_same_chain_and_the_global_one_is_left_alone(walk) -> None:
    before = torch.get_rng_state()
    first, again, other = (
        list(walk(PLANE, normal(3, 2), generator=seeded(s)))[-1].x for s in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


@each_walk
def test_nothing_runs_before_the_first_state_is_asked_for(walk) -> None:
    def never(x, t, y):
        raise AssertionError("the denoiser was asked")

    states = walk(never, normal(3, 2))
    assert next(states).x0 is None


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: langevin(PLANE, PROCESS, normal(3, 2), 0, 0.1, 1), r"int in 1..40, got 0"),
        (lambda: langevin(PLANE, PROCESS, normal(3, 2), 41, 0.1, 1), "got 41"),
        (lambda: langevin(PLANE, PROCESS, normal(3, 2), 2.0, 0.1, 1), "got 2.0"),
        (lambda: langevin(PLANE, PROCESS, normal(3, 2), 2, 0.0, 1), "h must be positive .* 0.0"),
        (lambda: langevin(PLANE, PROCESS, normal(3, 2), 2, math.nan, 1), "h must be .* nan"),
        (lambda: langevin(PLANE, PROCESS, normal(3, 2), 2, 0.1, 0), "at least 1, got 0"),
        (lambda: annealed_langevin(PLANE, PROCESS, normal(3, 2), [2, 3]), "times must fall"),
        (lambda: annealed_langevin(PLANE, PROCESS, normal(3, 2), steps=0), "at least 1, got 0"),
        (lambda: annealed_langevin(PLANE, PROCESS, normal(3, 2), snr=0), "snr must be positive"),
        (lambda: predictor_corrector(PLANE, PROCESS, normal(3, 2), eta=2.0), "eta must lie"),
        (lambda: predictor_corrector(PLANE, PROCESS, normal(3, 2), snr=-1.0), "snr must be"),
        (lambda: predictor_corrector(PLANE, PROCESS, normal(3, 2), steps=1.5), "got 1.5"),
        (lambda: step_size(PROCESS, 0, 0.1), r"int in 1..40, got 0"),
    ],
)
def test_what_cannot_walk_is_refused_at_the_call(call, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        call()
