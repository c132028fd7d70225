"""`process`: what every process must hold, whatever its noise, and where float32 is wrong."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ddpmlib.prediction import Prediction
from ddpmlib.process import (
    DDPM,
    EDM,
    VDM,
    VE,
    VP,
    FlowMatching,
    Interpolated,
    Process,
    RectifiedFlow,
    SubVP,
    ZeroBased,
    schedules,
)

F64 = torch.float64
CHAIN = DDPM(schedules.cosine(40))
PROCESSES: dict[str, Process] = {
    "DDPM": CHAIN, "VP": VP(), "sub-VP": SubVP(), "VE": VE(), "EDM": EDM(), "VDM": VDM(),
    "rectified": RectifiedFlow(), "flow matching": FlowMatching(), "σ_min": FlowMatching(0.01),
    "between": Interpolated(CHAIN),
}  # fmt: skip
CONTINUOUS = {k: v for k, v in PROCESSES.items() if k != "DDPM"}
every = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
continuous = pytest.mark.parametrize("process", CONTINUOUS.values(), ids=CONTINUOUS)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def pair(process: Process) -> tuple:
    """A noisy time t and a less noisy s."""
    t, s = process.time_of(torch.tensor([-2.0, 1.5], dtype=F64)).tolist()
    return t, s


@every
def test_clean_data_are_clean_and_the_end_is_noise(process: Process) -> None:
    x = torch.ones(1, dtype=F64)
    scale, std = process.kernel(process.clean, x)
    assert (float(scale), float(std)) == (1.0, 0.0)
    if math.isfinite(process.end):
        scale, std = process.kernel(process.end, x)
        assert scale**2 < 0.01 * std**2
        assert process.prior_std == pytest.approx(math.hypot(scale, std), rel=1e-3) or isinstance(
            process, VE | EDM
        )
        assert process.prior_std == pytest.approx(std, rel=1e-2)


@every
def test_a_step_forward_and_the_kernel_compose(process: Process) -> None:
    """q(x_s) then q(x_t|x_s) has the moments of q(x_t): coefficients on two independent draws."""
    t, s = pair(process)
    one, zero = torch.ones(1, dtype=F64), torch.zeros(1, dtype=F64)
    (a_t, b_t), (_, b_s) = process.kernel(t, one), process.kernel(s, one)
    on_x0 = process.forward(process.q_sample(one, s, zero), s, t, zero)
    on_first, on_second = process.forward(b_s * one, s, t, zero), process.forward(zero, s, t, one)
    assert float(on_x0) == pytest.approx(a_t, rel=1e-12)
    assert math.hypot(float(on_first), float(on_second)) == pytest.approx(b_t, rel=1e-12)


@every
def test_the_posterior_is_bayes_rule(process: Process) -> None:
    """Precisions add: q(x_s|x_t, x_0) ∝ q(x_t|x_s) q(x_s|x_0)."""
    t, s = pair(process)
    x_t, x0 = normal(5), normal(5, seed=1)
    mean, std = process.posterior(x_t, x0, t, s)
    stride = process.stride(t, s, x_t)
    from_data, from_next = 1 / stride.var_s, stride.ratio**2 / stride.beta
    expected = (stride.scale_s * x0 * from_data + x_t / stride.ratio * from_next) / (
        from_data + from_next
    )
    torch.testing.assert_close(mean, expected, rtol=1e-10, atol=1e-12)
    assert float(std) == pytest.approx((from_data + from_next) ** -0.5, rel=1e-10)


@every
def test_the_step_at_eta_one_is_the_posterior_and_at_zero_keeps_the_noise(process: Process) -> None:
    t, s = pair(process)
    x_t, x0, noise = normal(5), normal(5, seed=1), normal(5, seed=2)
    mean, std = process.posterior(x_t, x0, t, s)
    drawn = process.step(x_t, Prediction(x0), t, s, 1.0, noise)
    torch.testing.assert_close(drawn, mean + std * noise, rtol=1e-10, atol=1e-12)
    still = process.step(x_t, Prediction(x0), t, s, 0.0)
    eps = process.eps_from_x0(x_t, x0, t)
    torch.testing.assert_close(still, process.q_sample(x0, s, eps), rtol=1e-10, atol=1e-12)
    ended = process.step(x_t, Prediction(x0), t, process.clean, 1.0)
    torch.testing.assert_close(ended, x0, rtol=0, atol=1e-12)


@every
@pytest.mark.parametrize("shape", [(), (3,), (2, 4, 4)])
def test_times_of_samples_are_treated_one_by_one(process: Process, shape: tuple) -> None:
    t, s = pair(process)
    ts, ss = (torch.tensor([v, v]) if process.times_are_whole else torch.tensor([v, v], dtype=F64)
              for v in (t, s))  # fmt: skip
    x, x0 = normal(2, *shape), normal(2, *shape, seed=1)
    for one, many in (
        (process.q_sample(x0, t, x), process.q_sample(x0, ts, x)),
        (process.posterior(x, x0, t, s)[0], process.posterior(x, x0, ts, ss)[0]),
        (process.score_from_x0(x, x0, t), process.score_from_x0(x, x0, ts)),
        (process.forward(x0, s, t, x), process.forward(x0, ss, ts, x)),
    ):
        torch.testing.assert_close(one, many, rtol=1e-12, atol=1e-12)


SDES = {
    "VP": (VP(), lambda t: -0.5 * (0.1 + 19.9 * t), lambda t: 0.1 + 19.9 * t),
    "sub-VP": (
        SubVP(),
        lambda t: -0.5 * (0.1 + 19.9 * t),
        lambda t: (0.1 + 19.9 * t) * (1 - math.exp(-2 * (0.1 * t + 9.95 * t**2))),
    ),
    "VE": (
        VE(),
        lambda t: 0.0,
        lambda t: (0.01 * 5000**t) ** 2 * 2 * math.log(5000),
    ),
    "EDM": (EDM(), lambda t: 0.0, lambda t: 2 * t),
    "rectified": (RectifiedFlow(), lambda t: -1 / (1 - t), lambda t: 2 * t / (1 - t)),
    "flow matching": (FlowMatching(), lambda t: 1 / t, lambda t: 2 * (1 - t) / t),
}


@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize("t", [0.01, 0.3, 0.9])
def test_drift_and_diffusion_are_those_of_the_papers(name: str, t: float) -> None:
    """Song et al. 2021 (score SDE, eqs. 9, 11, 12), Karras et al. 2022; rectified by hand."""
    process, f, g2 = SDES[name]
    sign = -1 if name == "flow matching" else 1  # the forward SDE runs against the time
    x, x0 = normal(4), normal(4, seed=1)
    torch.testing.assert_close(process.drift(x, t), f(t) * x, rtol=1e-9, atol=1e-12)
    assert float(process.diffusion(t, x)) ** 2 == pytest.approx(g2(t), rel=1e-9)
    score = process.score_from_x0(x, x0, t)
    for half, found in ((0.5, process.flow(x, x0, t)), (1.0, process.reverse_drift(x, x0, t))):
        expected = f(t) * x - sign * half * g2(t) * score
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("process", [VP(), SubVP()], ids=["VP", "sub-VP"])
def test_float32_times_near_clean_data_lose_nothing(process: Process) -> None:
    """1 − exp(…) in float32 is wrong by 0.6 % (VP) and 1.2 % (sub-VP) at t = 1e-5."""
    t = torch.tensor([1e-5])
    total = 0.1 * 1e-5 + 19.9 / 2 * 1e-10
    exact = -math.expm1(-total) if isinstance(process, SubVP) else math.sqrt(-math.expm1(-total))
    by_hand = process.coefficients(t)[1]
    assert float(by_hand) == pytest.approx(exact, rel=1e-6)
    _, std = process.kernel(t, torch.zeros(1))
    assert std.dtype == torch.float32 and float(std) == pytest.approx(exact, rel=1e-6)
    naive = 1 - torch.exp(-(0.1 * t + 19.9 / 2 * t**2))
    assert abs(float(naive) / (exact if isinstance(process, SubVP) else exact**2) - 1) > 5e-3


@continuous
def test_what_is_no_time_is_refused_in_one_sentence(process: Process) -> None:
    x = torch.zeros(2)
    for wrong in (math.nan, True, "0.5", torch.tensor([1, 2])):
        with pytest.raises(ValueError, match=r"time"):
            process.kernel(wrong, x)
    if math.isfinite(process.end):
        beyond = process.end + (process.end - process.clean)
        before = process.clean - 0.1 * (process.end - process.clean)
        for wrong in (beyond, before, torch.tensor([beyond, beyond])):
            with pytest.raises(ValueError, match="times of .* lie in"):
                process.kernel(wrong, x)
    t, s = pair(process)
    with pytest.raises(ValueError, match="a reverse step goes down in time"):
        process.posterior(x, x, s, t)


def test_a_chain_takes_no_half_times() -> None:
    with pytest.raises(ValueError, match="must be an int"):
        CHAIN.kernel(0.5, torch.zeros(2))
    with pytest.raises(ValueError, match="must be an int"):
        CHAIN.per_sample(0.5, torch.zeros(2))


def test_equal_processes_are_equal_and_others_are_not() -> None:
    same = DDPM(schedules.cosine(40))
    assert same == CHAIN and hash(same) == hash(CHAIN) and VP() == VP(0.1, 20.0)
    assert Interpolated(same) == Interpolated(CHAIN) and ZeroBased(same) == ZeroBased(CHAIN)
    kinds = [*PROCESSES.values(), DDPM(schedules.linear(40)), VP(0.1, 10.0), ZeroBased(CHAIN)]
    assert all(a != b for i, a in enumerate(kinds) for b in kinds[i + 1 :])


def test_between_the_steps_nothing_changes_at_the_steps() -> None:
    between, t = Interpolated(CHAIN), torch.arange(41)
    a, b = between.coefficients(t.to(F64))
    torch.testing.assert_close(a, CHAIN.scale, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(b, CHAIN.std, rtol=1e-10, atol=1e-14)
    asked = torch.linspace(0.05, 39.95, 333, dtype=F64)
    torch.testing.assert_close(between.time_of(between.log_snr(asked)), asked, rtol=1e-9, atol=1e-9)
    a, b = between.coefficients(asked)
    torch.testing.assert_close(a**2 + b**2, torch.ones_like(a))
    assert bool((between.log_snr(asked).diff() < 0).all())


class Circle(Process):
    """A process of two functions, as a reader would write it."""

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cos(math.pi / 2 * t), torch.sin(math.pi / 2 * t)

    def time_of(self, log_snr: Tensor) -> Tensor:
        return torch.atan(torch.exp(-log_snr / 2)) / (math.pi / 2)


def test_two_functions_make_a_process() -> None:
    process, x, x0 = Circle(), normal(3), normal(3, seed=1)
    test_the_posterior_is_bayes_rule(process)
    test_a_step_forward_and_the_kernel_compose(process)
    eps = process.eps_from_x0(x, x0, 0.3)
    v = math.cos(0.15 * math.pi) * eps - math.sin(0.15 * math.pi) * x0
    torch.testing.assert_close(process.velocity(0.3, x0, eps), math.pi / 2 * v)


# ---- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize("process", [RectifiedFlow(), FlowMatching()], ids=repr)
def test_an_sde_does_not_start_where_nothing_is_left_of_the_data(process: Process) -> None:
    x = normal(3, 2)
    for t in (process.end, torch.full((3,), process.end, dtype=F64)):
        for call in (
            lambda t=t: process.drift(x, t),
            lambda t=t: process.diffusion(t, x),
            lambda t=t: process.reverse_drift(x, x, t),
        ):
            with pytest.raises(ValueError, match="nothing is left of the data"):
                call()


@pytest.mark.parametrize("shape", [(2,), (3, 1), (1, 2)])
def test_a_velocity_does_not_stretch_noise_to_the_data(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="eps must have the shape of the data"):
        VP().velocity(0.5, normal(3, 2), normal(*shape))


def test_no_ratio_is_looked_up_outside_the_chain() -> None:
    for t in (-1, CHAIN.T + 1):
        with pytest.raises(ValueError, match=r"times must lie in 0..40"):
            CHAIN.snr(torch.tensor([t]))


@pytest.mark.parametrize("t", [-2, 40, True, 1.5, None, torch.tensor([-2]), torch.tensor([1.0])])
def test_indices_that_count_from_zero_are_refused_in_their_own_count(t) -> None:
    with pytest.raises(
        ValueError, match=r"indices must (lie in -1..39, got (-2|40)\.\.|be an int)"
    ):
        ZeroBased(CHAIN).check_time(t)
