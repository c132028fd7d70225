"""Five processes, all oracles, four samplers: exact truth, approached at the order that is claimed.

Data lie on a line, where truth needs no random numbers. The probability-flow ODE keeps quantiles,
so its solution is known to rounding error for any mixture; the distribution of a stochastic step is
carried along as a density on a grid and held against the exact one.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ddpmlib.denoiser import oracle
from ddpmlib.process import EDM, VE, VP, Process, RectifiedFlow, SubVP
from ddpmlib.samplers import Ancestral, EulerMaruyama, Heun, State, Step, log_snr_times, sample

F64 = torch.float64
PROCESSES = {"VP": VP(), "sub-VP": SubVP(), "VE": VE(), "EDM": EDM(), "rectified": RectifiedFlow()}
LOW, HIGH = -4.0, 3.0  # log-SNRs where the walks begin and end


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=F64)


# weights, means, variances of the components: what each oracle is, said once more
ORACLES: dict[str, tuple[Callable[[Process], object], tuple[Tensor, Tensor, Tensor]]] = {
    "point": (
        lambda process: oracle.FiniteData(process, f64(0.7)),
        (f64(1), f64(0.7), f64(0)),
    ),
    "Gaussian": (
        lambda process: _on_a_line(oracle.Gaussian(process, f64(0.3), f64(0.5)[None])),
        (f64(1), f64(0.3), f64(0.5)),
    ),
    "mixture": (
        lambda process: oracle.Mixture(process, f64(0.3, 0.7), f64(-1, 0.8), f64(0.3, 0.5)),
        (f64(0.3, 0.7), f64(-1, 0.8), f64(0.09, 0.25)),
    ),
    "finite data": (
        lambda process: oracle.FiniteData(process, f64(-1, 0.2, 1.1)),
        (f64(1, 1, 1) / 3, f64(-1, 0.2, 1.1), f64(0, 0, 0)),
    ),
}
ORDERS: dict[str, tuple[Step, int]] = {
    "DDIM": (Ancestral(0.0), 1),
    "Heun": (Heun(), 2),
    "ancestral": (Ancestral(1.0), 1),
    "Euler-Maruyama": (EulerMaruyama(), 1),
}


def _on_a_line(exact: oracle.Gaussian) -> Callable[..., object]:
    """A Gaussian of one dimension for data (B,)."""

    def denoiser(x: Tensor, t: object, y: object = None) -> object:
        found = exact(x[:, None], t)
        return type(found)(found.x0[:, 0])

    return denoiser


class Exact:
    """q(x_t) of a mixture on a line, from its components and the kernel alone."""

    def __init__(self, process: Process, t: float, parts: tuple[Tensor, Tensor, Tensor]) -> None:
        a, b = process.coefficients(torch.tensor(t, dtype=F64))
        self.weights, means, variances = parts
        self.means, self.stds = a * means, (a**2 * variances + b**2).sqrt()

    def cdf(self, x: Tensor) -> Tensor:
        z = (x[:, None] - self.means) / self.stds
        return torch.special.ndtr(z) @ self.weights

    def density(self, x: Tensor) -> Tensor:
        z = (x[:, None] - self.means) / self.stds
        return torch.exp(-0.5 * z**2) / (self.stds * math.sqrt(2 * math.pi)) @ self.weights

    def quantile(self, u: Tensor) -> Tensor:
        reach = float(self.means.abs().max() + 9 * self.stds.max())
        low, high = torch.full_like(u, -reach), torch.full_like(u, reach)
        for _ in range(90):
            middle = (low + high) / 2
            below = self.cdf(middle) < u
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2


def times(process: Process, steps: int) -> list[float]:
    return log_snr_times(process, steps + 1, LOW, HIGH)[:-1]  # not down to clean data


def error_of_ode(process: Process, kind: str, step: Step, steps: int) -> float:
    make, parts = ORACLES[kind]
    walk, u = times(process, steps), torch.linspace(0.02, 0.98, 25, dtype=F64)
    start, end = (Exact(process, t, parts).quantile(u) for t in (walk[0], walk[-1]))
    *_, last = sample(make(process), process, start, walk, step=step)
    return float((last.x - end).abs().max())


def error_of_distribution(process: Process, kind: str, step: Step, steps: int) -> float:
    """Half the L1 distance of the densities at the end, started from the exact one."""
    make, parts = ORACLES[kind]
    walk, denoiser = times(process, steps), make(process)
    exact = Exact(process, walk[0], parts)
    x, density = _grid(exact), None
    density = exact.density(x)
    for t, s in zip(walk, walk[1:], strict=False):
        mean, std = _mean_and_std(step, denoiser, process, x, t, s)
        after = _grid(Exact(process, s, parts))
        z = (after[:, None] - mean) / std
        kernel = torch.exp(-0.5 * z**2) / (std * math.sqrt(2 * math.pi))
        density, x = kernel @ density * (x[1] - x[0]), after
    return 0.5 * float(
        (density - Exact(process, walk[-1], parts).density(x)).abs().sum() * (x[1] - x[0])
    )


def _grid(exact: Exact) -> Tensor:
    reach = 7 * float(exact.stds.max())
    return torch.linspace(
        float(exact.means.min()) - reach, float(exact.means.max()) + reach, 500, dtype=F64
    )


def _mean_and_std(
    step: Step, denoiser: object, process: Process, x: Tensor, t: float, s: float
) -> tuple[Tensor, Tensor]:
    """What the step itself does, read off two draws whose noise is known."""
    drawn, noise = [], []
    for seed in (0, 1):
        noise.append(torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=F64))
        generator = torch.Generator().manual_seed(seed)
        drawn.append(step(denoiser, process, [State(t, x)], s, generator).x)
    std = ((drawn[0] - drawn[1]) / (noise[0] - noise[1])).median()
    mean = drawn[0] - std * noise[0]
    assert float((drawn[1] - std * noise[1] - mean).abs().max()) < 1e-9
    return mean, std


@pytest.mark.parametrize("sampler", ORDERS)
@pytest.mark.parametrize("kind", ORACLES)
@pytest.mark.parametrize("name", PROCESSES)
def test_exact_truth_is_approached_at_the_order(name: str, kind: str, sampler: str) -> None:
    process, (step, order) = PROCESSES[name], ORDERS[sampler]
    of_ode = sampler in ("DDIM", "Heun")
    # Between points the prediction turns sharply: the order shows with more steps.
    many = 160 if kind == "finite data" else 40
    error, few = (error_of_ode, many) if of_ode else (error_of_distribution, 30)
    coarse, fine = error(process, kind, step, few), error(process, kind, step, 2 * few)
    if kind == "point" and sampler in ("DDIM", "ancestral"):
        assert coarse < 1e-9  # whoever always predicts the same is followed exactly
        return
    if fine < 1e-11:  # straight lines: Heun's in σ, towards a point
        return
    assert fine < 0.1
    assert order - 0.3 < math.log2(coarse / fine) < order + 0.6, (coarse, fine)
