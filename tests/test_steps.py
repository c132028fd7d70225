"""`samplers`: one loop for every step and hook, also where they meet, and translated models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from ddpmlib import guidance, zoo
from ddpmlib.denoiser import Denoiser, Translated, V, between_steps, oracle
from ddpmlib.models import MLP
from ddpmlib.prediction import Prediction
from ddpmlib.process import (
    DDPM,
    EDM,
    VE,
    VP,
    FlowMatching,
    Process,
    RectifiedFlow,
    SubVP,
    schedules,
)
from ddpmlib.samplers import (
    Ancestral,
    Annealed,
    Corrected,
    Euler,
    EulerMaruyama,
    Heun,
    Langevin,
    State,
    draw,
    even_times,
    karras_times,
    log_snr_times,
    sample,
    step_size,
    uniform_times,
)

F64 = torch.float64
CHAIN = DDPM(schedules.cosine(30))
CHAIN_OF_MNIST = DDPM(schedules.cosine(1000))
PROCESSES: dict[str, Process] = {
    "DDPM": CHAIN, "VP": VP(), "sub-VP": SubVP(), "VE": VE(), "EDM": EDM(),
    "rectified": RectifiedFlow(), "flow matching": FlowMatching(),
}  # fmt: skip
STEPS: dict[str, Any] = {
    "DDIM": Ancestral(0.0), "ancestral": Ancestral(1.0), "Euler": Euler(), "Heun": Heun(),
    "Euler-Maruyama": EulerMaruyama(),
    "corrected": Corrected(Ancestral(1.0), Langevin(partial(step_size, snr=0.1), 2)),
    "annealed": Annealed(Langevin(partial(step_size, snr=0.3), 3)),
}  # fmt: skip
WHOLE = ("DDIM", "ancestral", "corrected", "annealed")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def times_of(process: Process, steps: int = 12) -> list[Any]:
    if process.times_are_whole:
        return uniform_times(process.end, steps)
    return log_snr_times(process, steps, -6.0, 6.0)


def combinations() -> list[tuple[str, str]]:
    return [(p, s) for p in PROCESSES for s in STEPS if p != "DDPM" or s in WHOLE]


def exact_for_a_point() -> list[tuple[str, str]]:
    """Solvers of the ODE follow straight lines exactly, and no others; that of the SDE, none."""
    straight = ("EDM", "rectified", "flow matching")
    return [
        (p, s)
        for p, s in combinations()
        if s in WHOLE or (p in straight and s in ("Euler", "Heun"))
    ]


@pytest.mark.parametrize(("name", "step"), exact_for_a_point())
def test_who_always_predicts_the_same_gets_exactly_that(name: str, step: str) -> None:
    process, point = PROCESSES[name], normal(3, 2)
    x = draw(
        lambda x, t, y=None: Prediction(point), process, normal(3, 2, seed=1), times_of(process),
        step=STEPS[step], generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    torch.testing.assert_close(x, point, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("name", "step"), combinations())
def test_every_hook_works_with_every_step_and_every_wrapper(name: str, step: str) -> None:
    """A hook that pins half of the data is obeyed in each state, and seen by the next step."""
    process = PROCESSES[name]
    exact = oracle.Mixture(
        process, torch.ones(2, dtype=F64), normal(2, 2), torch.full((2,), 0.3, dtype=F64),
        torch.tensor([0, 1]),
    )  # fmt: skip
    guided = guidance.StaticThreshold(guidance.ClassifierFree(exact, 1.5), 3.0)
    seen: list[Tensor] = []

    def spy(x: Tensor, t: Any, y: Any = None) -> Prediction:
        seen.append(x)
        return guided(x, t, y)

    def pin(state: State) -> Tensor:
        return torch.cat([torch.full_like(state.x[:, :1], 0.25), state.x[:, 1:]], dim=1)

    y = torch.tensor([0, 1, 1])
    states = list(
        sample(
            spy,
            process,
            normal(3, 2, seed=1),
            times_of(process, 6),
            step=STEPS[step],
            y=y,
            hook=pin,
            generator=torch.Generator().manual_seed(0),
        )
    )
    assert all(torch.equal(s.x[:, 0], torch.full((3,), 0.25, dtype=F64)) for s in states[1:])
    assert states[-1].x.isfinite().all() and len(states) == 7
    for before in states[1:-1]:
        assert any(torch.equal(before.x, x) for x in seen)


def test_a_step_answers_a_state() -> None:
    process = DDPM(schedules.cosine(10))
    exact = oracle.Gaussian(process, torch.zeros(2), torch.eye(2))
    with pytest.raises(TypeError, match="a step answers a State, got Tensor"):
        draw(
            exact, process, torch.zeros(3, 2), step=lambda denoise, process, past, s, g: past[-1].x
        )


@pytest.mark.parametrize("answer", [None, torch.zeros(3), torch.zeros(2, 2)])
def test_what_a_hook_may_not_answer(answer: Any) -> None:
    with pytest.raises(ValueError, match="a hook answers a tensor of the state's shape"):
        draw(lambda x, t, y=None: Prediction(x), CHAIN, normal(3, 2), hook=lambda state: answer)


@pytest.mark.parametrize("name", PROCESSES)
def test_where_times_rise_the_state_is_noised_and_no_network_is_asked(name: str) -> None:
    process, asked = PROCESSES[name], []
    t, s = process.time_of(torch.tensor([-1.0, 2.0], dtype=F64)).tolist()

    def denoiser(x: Tensor, t: Any, y: Any = None) -> Prediction:
        asked.append(t)
        return Prediction(torch.zeros_like(x))

    x = normal(4, 3)
    states = list(sample(denoiser, process, x, [t, s, t, process.clean], eta=0.0,
                         generator=torch.Generator().manual_seed(3)))  # fmt: skip
    assert asked == [t, t] and states[2].x0 is None
    noise = torch.randn(4, 3, generator=torch.Generator().manual_seed(3), dtype=F64)
    torch.testing.assert_close(states[2].x, process.forward(states[1].x, s, t, noise))


def test_noising_again_keeps_the_distribution() -> None:
    """Down, up and down again by the exact posterior of a point is q(x_s) still."""
    exact = oracle.FiniteData(CHAIN, torch.full((1, 1), 0.5, dtype=F64))
    x = exact.draw(20_000, 20, torch.Generator().manual_seed(0))
    walk = [20, *range(19, 9, -1), 20, *range(19, 9, -1)]
    end = draw(exact, CHAIN, x, walk, generator=torch.Generator().manual_seed(1))
    scale, std = CHAIN.kernel(10, x)
    assert float(end.mean()) == pytest.approx(0.5 * scale, abs=0.02)
    assert float(end.var()) == pytest.approx(std**2, rel=0.05)


@dataclass(frozen=True)
class Recorder:
    """Notes how many states it is handed, and goes on as DDIM."""

    lengths: list[int]

    def __call__(
        self, denoise: Any, process: Process, past: Sequence[State], s: Any, generator: Any
    ) -> State:
        self.lengths.append(len(past))
        assert [state.t for state in past] == sorted((state.t for state in past), reverse=True)
        return Ancestral(0.0)(denoise, process, past, s, generator)


def test_a_step_is_handed_the_latest_states() -> None:
    lengths: list[int] = []
    draw(lambda x, t, y=None: Prediction(x), CHAIN, normal(2, 2), step=Recorder(lengths))
    assert lengths[:6] == [1, 2, 3, 4, 4, 4]


def test_a_model_is_not_walked_with_another_process() -> None:
    model = Denoiser(MLP(2, 8, 1), CHAIN, V)
    for other in (DDPM(schedules.linear(30)), VP()):
        with pytest.raises(ValueError, match="made for DDPM.*not for"):
            sample(model, other, torch.randn(3, 2))
    assert len(list(sample(model, DDPM(schedules.cosine(30)), torch.randn(3, 2)))) == 31
    wrapped = guidance.StaticThreshold(model)
    with pytest.raises(ValueError, match="made for"):
        draw(wrapped, VP(), torch.randn(3, 2), [1.0, 0.0])


def test_a_step_and_eta_exclude_each_other_and_continuous_times_are_given() -> None:
    x = torch.zeros(2)
    with pytest.raises(ValueError, match="eta = 0.0 is for the ancestral step"):
        sample(lambda x, t, y=None: Prediction(x), CHAIN, x, eta=0.0, step=Heun())
    with pytest.raises(ValueError, match="has no times of its own"):
        sample(lambda x, t, y=None: Prediction(x), VP(), x)


# ---- grids of times --------------------------------------------------------------------------


def test_grids_end_in_clean_data_and_start_where_they_are_told() -> None:
    assert even_times(VP(), 4) == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert even_times(FlowMatching(), 2) == [0.0, 0.5, 1.0]
    assert even_times(VP(), 3, last=0.2) == pytest.approx([1.0, 0.6, 0.2, 0.0])
    levels = log_snr_times(EDM(), 5, -4.0, 4.0)
    assert levels[-1] == 0 and torch.tensor(levels[:-1]).log().mul(-2).tolist() == pytest.approx(
        [-4, -2, 0, 2, 4]
    )
    # Karras et al. 2022, eq. 5, by its own formula
    n, rho, low, high = 8, 7, 0.002, 80.0
    expected = [
        (high ** (1 / rho) + i / (n - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho
        for i in range(n)
    ]
    assert karras_times(EDM(), n) == pytest.approx([*expected, 0.0], rel=1e-10)
    sigma = [t / (1 - t) for t in karras_times(RectifiedFlow(), n)[:-1]]
    assert sigma == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize(
    "make",
    [
        lambda: even_times(CHAIN, 3),
        lambda: even_times(VP(), 0),
        lambda: karras_times(EDM(), 5, sigma_min=0.0),
        lambda: karras_times(EDM(), 5, rho=-1.0),
        lambda: log_snr_times(CHAIN, 3, -1.0, 1.0),
    ],
)
def test_grids_that_cannot_be_are_refused(make: Any) -> None:
    with pytest.raises(ValueError, match=r"continuous times|at least 1|need 0 <"):
        make()


# ---- a model of one process answers for another -------------------------------------------------


@pytest.mark.parametrize("name", [n for n in PROCESSES if n != "DDPM"])
def test_a_translated_oracle_is_the_oracle_of_the_other_process(name: str) -> None:
    process = PROCESSES[name]
    weights, means, stds = (
        torch.ones(3, dtype=F64),
        normal(3, 2),
        torch.tensor([0.1, 0.4, 0.7]).to(F64),
    )
    theirs, ours = (oracle.Mixture(p, weights, means, stds) for p in (VP(), process))
    translated, x = Translated(theirs, process), normal(5, 2, seed=1)
    for level in (-3.0, 0.0, 4.0):
        t = float(process.time_of(torch.tensor(level, dtype=F64)))
        for time in (t, torch.full((5,), t, dtype=F64)):
            torch.testing.assert_close(
                translated(x, time).x0, ours(x, time).x0, rtol=1e-8, atol=1e-9
            )


def test_a_chain_is_asked_at_its_nearest_time_or_between() -> None:
    asked: list[Tensor] = []

    class Net(torch.nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            asked.append(t)
            return torch.zeros_like(x)

    model, x = Denoiser(Net(), CHAIN, V), normal(2, 2)
    level = CHAIN.log_snr(torch.tensor([10, 11])).mean()
    sigma = float((-level / 2).exp())
    Translated(model, EDM())(x, sigma)
    Translated(between_steps(model), EDM())(x, sigma)
    assert asked[0].tolist() in ([10, 10], [11, 11]) and asked[0].dtype == torch.int64
    assert bool(((asked[1] > 10) & (asked[1] < 11)).all())
    with pytest.raises(ValueError, match="no steps to ask between"):
        between_steps(between_steps(model))


@pytest.mark.slow
def test_the_mnist_model_by_heun_in_sigma_needs_fewer_calls_than_ddim() -> None:
    """Distance to the end of a fine DDIM chain: Heun with 25 calls beats DDIM with 36."""
    model, card = zoo.load("mnist", device="cpu")
    y = torch.arange(10)
    x = torch.randn(10, *card.image_shape, generator=torch.Generator().manual_seed(0))

    def ddim(steps: int) -> Tensor:
        return draw(model, CHAIN_OF_MNIST, x, uniform_times(CHAIN_OF_MNIST.T, steps), eta=0.0, y=y)

    assert model.process == CHAIN_OF_MNIST
    edm, truth = EDM(), ddim(250)
    translated = Translated(between_steps(model), edm)
    times = karras_times(edm, 13, 0.02, edm.end)
    heun = draw(translated, edm, edm.prior_std * x, times, step=Heun(), y=y)
    away = [float((found - truth).square().mean().sqrt()) for found in (heun, ddim(36), ddim(10))]
    assert away[0] < away[1] < away[2] and away[0] < 0.1
