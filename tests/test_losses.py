"""`ddpmlib.losses`: the simple loss, its weights, and the value that no network can beat."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from ddpmlib import losses
from ddpmlib.denoiser import EPS, X0, Denoiser, Parameterization, V, learned_var_mix, oracle
from ddpmlib.likelihood import continuous, discretised, elbo, reverse_step_term
from ddpmlib.losses import ImportanceTimes, UniformTimes, l_hybrid, l_simple, l_vlb, weighted
from ddpmlib.models import MLP
from ddpmlib.process import DDPM, schedules

T = 100
PROCESS = DDPM(schedules.cosine(T))
by_name = pytest.mark.parametrize("p", [EPS, X0, V], ids=lambda p: p.name)
SHAPES = [(3,), (3, 2), (3, 5, 3), (3, 1, 4, 4), (3, 2, 4, 5, 5)]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Predicts(nn.Module):
    """Answers in the language of ``p`` for whoever predicts ``x0(x_t, t)``."""

    def __init__(self, x0, p: Parameterization) -> None:
        super().__init__()
        self.x0, self.p = x0, p

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        scale, std = PROCESS.kernel(t, x)
        x0 = self.x0(x, t)
        return self.p.target(x0, (x - scale * x0) / std, scale, std)


@by_name
@pytest.mark.parametrize("shape", SHAPES)
def test_the_truth_costs_nothing_at_any_rank(p: Parameterization, shape: tuple[int, ...]) -> None:
    x0, eps, t = normal(*shape), normal(*shape, seed=1), torch.tensor([2, 50, 99])
    loss = l_simple(Denoiser(Predicts(lambda x, t: x0, p), PROCESS, p), x0, t, eps)
    assert loss.shape == (3,)
    assert float(loss.max()) < 1e-20
    wrong = l_simple(Denoiser(Predicts(lambda x, t: x0 + 1, p), PROCESS, p), x0, t, eps)
    assert float(wrong.min()) > 1e-4


@pytest.mark.equation("3.2")
def test_l_simple_by_hand() -> None:
    """Two samples, two pixels, scale 0.8 and std 0.6: everything can be written out."""
    p = DDPM(torch.tensor([0.0, 0.36], dtype=torch.float64))
    x0 = torch.tensor([[1.0, 2.0], [0.0, -1.0]], dtype=torch.float64)
    eps = torch.tensor([[0.5, -0.5], [1.0, 2.0]], dtype=torch.float64)

    class Double(nn.Module):
        def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
            return 2 * x

    errors = [[0.5 - 2 * 1.1, -0.5 - 2 * 1.3], [1 - 2 * 0.6, 2 - 2 * 0.4]]
    by_hand = [sum(e**2 for e in row) / 2 for row in errors]
    loss = l_simple(Denoiser(Double(), p, EPS), x0, torch.tensor([1, 1]), eps)
    assert loss.tolist() == pytest.approx(by_hand, rel=1e-14)


@pytest.mark.equation("3.2")
def test_one_prediction_three_weights() -> None:
    """‖x_0 − x̂_0‖² costs 1 for x_0, SNR for ε and 1 + SNR for v (Salimans & Ho 2022, section 4)."""
    x0, eps, t = normal(4, 2), normal(4, 2, seed=1), torch.tensor([1, 20, 60, 98])

    def prediction(x: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(x + t[:, None] / T)

    loss = {
        p: l_simple(Denoiser(Predicts(prediction, p), PROCESS, p), x0, t, eps) for p in (EPS, X0, V)
    }
    x_t = PROCESS.q_sample(x0, t, eps)
    torch.testing.assert_close(loss[X0], ((x0 - prediction(x_t, t)) ** 2).mean(1))
    snr = PROCESS.alpha_bar[t] / (1 - PROCESS.alpha_bar[t])
    torch.testing.assert_close(loss[EPS], snr * loss[X0])
    torch.testing.assert_close(loss[V], (1 + snr) * loss[X0])


@pytest.mark.equation("3.2")
@pytest.mark.parametrize("t", [5, 50, 95])
def test_the_oracle_reaches_the_least_possible_loss(t: int) -> None:
    """For data N(0, λ) the noise is uncertain by Var(ε|x_t) = ᾱλ/(ᾱλ + 1 − ᾱ), and no less."""
    variance, n = 0.3, 40_000
    exact = oracle.Gaussian(PROCESS, torch.zeros(1).double(), torch.full((1, 1), variance).double())
    x0, eps = variance**0.5 * normal(n, 1), normal(n, 1, seed=1)
    times = torch.full((n,), t)

    def risk(factor: float) -> float:
        net = Predicts(lambda x, t: factor * exact(x, t).x0, EPS)
        return float(l_simple(Denoiser(net, PROCESS, EPS), x0, times, eps).mean())

    a = float(PROCESS.alpha_bar[t])
    least = a * variance / (a * variance + 1 - a)
    room = 4.5 * least * math.sqrt(2 / n)  # the errors are Gaussian with that variance
    assert risk(1.0) == pytest.approx(least, abs=room)
    assert risk(1.0) < risk(0.8) and risk(1.0) < risk(1.2)


def test_the_loss_teaches_every_parameter() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2, dtype=torch.float64)

        def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
            return self.layer(torch.cat([x, t[:, None] / T + y[:, None]], 1))

    torch.manual_seed(0)
    net = Net()
    x0, eps, t, y = (
        normal(4, 2),
        normal(4, 2, seed=1),
        torch.tensor([1, 9, 50, 99]),
        torch.arange(4),
    )

    def loss() -> Tensor:
        return l_simple(Denoiser(net, PROCESS, V), x0, t, eps, y).mean()

    loss().backward()
    for p in net.parameters():
        flat, step = p.data.view(-1), 1e-5
        for i in range(len(flat)):
            kept = float(flat[i])
            flat[i] = kept + step
            above = float(loss().detach())
            flat[i] = kept - step
            below = float(loss().detach())
            flat[i] = kept
            slope = (above - below) / (2 * step)
            assert float(p.grad.view(-1)[i]) == pytest.approx(slope, abs=1e-8)


def test_bad_input_is_refused() -> None:
    denoiser = Denoiser(Predicts(lambda x, t: x, EPS), PROCESS)
    x0, t = torch.zeros(2, 3), torch.tensor([1, 2])
    with pytest.raises(ValueError, match="eps must have the shape of the data"):
        l_simple(denoiser, x0, t, torch.zeros(2, 1))
    with pytest.raises(ValueError, match="one number per sample"):
        l_simple(denoiser, x0, torch.tensor([1]), x0)
    with pytest.raises(ValueError, match=r"times must lie in 0\.\.100, got 1\.\.101"):
        l_simple(denoiser, x0, torch.tensor([1, 101]), x0)
    for objective in (l_vlb, l_hybrid):
        with pytest.raises(ValueError, match="eps must have the shape of the data"):
            objective(denoiser, x0, t, torch.zeros(2, 1))


# ---- L_vlb and L_hybrid ------------------------------------------------------------------


class Table(nn.Module):
    """Says at each time, to each sample, what stands in its table: 2C channels."""

    def __init__(self, *shape: int, seed: int = 3) -> None:
        super().__init__()
        self.said = nn.Parameter(0.5 * normal(T + 1, *shape, seed=seed))

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return self.said[t]


def grey(*shape: int, seed: int = 0) -> Tensor:
    """8-bit images in [−1, 1]."""
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, generator=g).double() / 127.5 - 1


@pytest.mark.equation("6.9")
@by_name
def test_in_l_hybrid_the_mean_learns_from_l_simple_alone_and_the_variance_from_l_vlb_alone(
    p: Parameterization,
) -> None:
    """To the last bit: half of the output has no other gradient than L_simple's."""
    x0, eps, t = grey(4, 1, 2, 2), normal(4, 1, 2, 2, seed=1), torch.tensor([1, 2, 40, 99])
    net = Table(2, 2, 2)
    learned = Denoiser(net, PROCESS, p, var_mix=None)

    def halves(loss: Tensor) -> tuple[Tensor, Tensor]:
        (gradient,) = torch.autograd.grad(loss.sum(), net.said)
        return gradient[t].chunk(2, 1)

    simple, hybrid, vlb = (halves(f(learned, x0, t, eps)) for f in (l_simple, l_hybrid, l_vlb))
    assert torch.equal(hybrid[0], simple[0])  # λ L_vlb moves the mean by exactly nothing
    torch.testing.assert_close(hybrid[1], 1e-3 * vlb[1], rtol=1e-9, atol=0)
    assert not bool(simple[1].any())  # L_simple says nothing about the variance
    assert float(vlb[0].abs().min()) > 0 and float(vlb[1].abs().min()) > 0
    larger = halves(l_hybrid(learned, x0, t, eps, share=0.5))
    assert torch.equal(larger[0], simple[0])
    torch.testing.assert_close(larger[1], 0.5 * vlb[1], rtol=1e-9, atol=0)


@pytest.mark.equation("6.9")
@by_name
def test_the_value_of_l_hybrid_is_the_sum(p: Parameterization) -> None:
    x0, eps, t = grey(3, 1, 2, 2), normal(3, 1, 2, 2, seed=1), torch.tensor([1, 30, 100])
    learned = Denoiser(Table(2, 2, 2), PROCESS, p, var_mix=None)
    simple, vlb = l_simple(learned, x0, t, eps), l_vlb(learned, x0, t, eps)
    for share in (1e-3, 0.1):
        found = l_hybrid(learned, x0, t, eps, share=share)
        torch.testing.assert_close(found, simple + share * vlb, rtol=1e-12, atol=0)
    for decoder in (continuous,):
        found = l_hybrid(learned, x0, t, eps, decoder=decoder)
        vlb = l_vlb(learned, x0, t, eps, decoder=decoder)
        torch.testing.assert_close(found, simple + 1e-3 * vlb, rtol=1e-12, atol=0)


@pytest.mark.equation("6.7")
def test_l_vlb_by_hand() -> None:
    """t = 2 is a divergence of two Gaussians, t = 1 the share of a Gaussian in a bin."""
    x0, eps = grey(2, 3), normal(2, 3, seed=1)
    t = torch.tensor([2, 1])
    said = Table(6)
    said.said.data[1, :3] = x0[1] + 0.01 * normal(3, seed=4)  # where a plain Φ does not underflow
    learned = Denoiser(said, PROCESS, X0, var_mix=None)
    found = l_vlb(learned, x0, t, eps).detach()
    x_t = PROCESS.q_sample(x0, t, eps)
    for i, u in enumerate((2, 1)):
        guess, v = said.said[u].detach()[:3], (said.said[u].detach()[3:] + 1) / 2
        low = PROCESS.beta_tilde[2]  # β̃_1 = 0 is clipped to β̃_2
        log_var = v * PROCESS.beta[u].log() + (1 - v) * low.log()
        mean, _ = PROCESS.posterior(x_t[i], guess, u, u - 1)
        model = Normal(mean, (0.5 * log_var).exp())
        if u == 2:
            truth = Normal(PROCESS.posterior(x_t[i], x0[i], 2, 1)[0], low.sqrt())
            nats = kl_divergence(truth, model)
        else:
            above = torch.where(x0[i] > 0.999, 1.0, model.cdf(x0[i] + 1 / 255))
            below = torch.where(x0[i] < -0.999, 0.0, model.cdf(x0[i] - 1 / 255))
            nats = -(above - below).log()
        assert float(found[i]) == pytest.approx(T * float(nats.mean()) / math.log(2), rel=1e-6)


@pytest.mark.equation("6.7")
@pytest.mark.parametrize("decoder", [discretised, continuous], ids=["bins", "density"])
@pytest.mark.parametrize("var_mix", [None, 0.0, 1.0])
def test_l_vlb_averaged_over_all_times_is_the_bound_without_its_first_term(
    decoder, var_mix: float | None
) -> None:
    x0 = grey(3, 2, 4)
    denoiser = Denoiser(Table(2 if var_mix is not None else 4, 4), PROCESS, EPS, var_mix)
    bound = elbo(denoiser, PROCESS, x0, decoder=decoder, generator=torch.Generator().manual_seed(7))
    g, total = torch.Generator().manual_seed(7), torch.zeros(3, dtype=torch.float64)
    for t in range(T, 0, -1):  # in the order of the walk down, with the same noise
        eps = torch.randn(x0.shape, generator=g, dtype=torch.float64)
        total += l_vlb(denoiser, x0, torch.full((3,), t), eps, decoder=decoder).detach() / T
    without = (bound.total - bound.prior) / (bound.dims * math.log(2))
    torch.testing.assert_close(total, without, rtol=1e-12, atol=0)


class KnowsTheMean(nn.Module):
    """The exact prediction of ``exact``, and one trainable v' per time."""

    def __init__(self, exact) -> None:
        super().__init__()
        self.exact = exact
        self.place = nn.Parameter(torch.zeros(T + 1, dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return torch.cat([self.exact(x, t).x0, self.place[t][:, None].expand_as(x)], 1)


@pytest.mark.equation("6.1")
@pytest.mark.equation("6.3")
@pytest.mark.parametrize("objective", [l_vlb, l_hybrid])
@pytest.mark.parametrize("c", [0.3, 1.0])
def test_the_learned_variance_ends_at_the_analytic_optimum(objective, c: float) -> None:
    """For data N(0, c²): σ² = β (1 − ᾱ_s + ᾱ_s c²) / (1 − ᾱ_t + ᾱ_t c²)."""
    n, times = 20_000, (2, 5, 20)
    exact = oracle.Gaussian(PROCESS, torch.zeros(1).double(), torch.full((1, 1), c**2).double())
    net = KnowsTheMean(exact)
    learned = Denoiser(net, PROCESS, X0, var_mix=None)
    x0, eps = c * normal(n, 1), normal(n, 1, seed=1)
    optimiser = torch.optim.LBFGS(net.parameters(), max_iter=40, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = sum(objective(learned, x0, torch.full((n,), t), eps).mean() for t in times)
        loss.backward()
        return loss

    optimiser.step(closure)
    a = PROCESS.alpha_bar
    for t in times:
        found = PROCESS.posterior_std(t, t - 1, learned_var_mix(net.place.detach()[t])) ** 2
        spread = 1 - a + a * c**2
        best = float(PROCESS.beta[t] * spread[t - 1] / spread[t])
        assert float(found) == pytest.approx(best, rel=0.03)  # n samples of x_0 and ε
        assert PROCESS.beta_tilde[t] * 0.99 < best <= PROCESS.beta[t] * (1 + 1e-12)


# ---- weightings --------------------------------------------------------------------------


WEIGHTINGS = {
    "simple": losses.simple,
    "uniform_on_x0": losses.uniform_on_x0,
    "truncated_snr": losses.truncated_snr,
    "min_snr": losses.min_snr(5.0),
    "vlb": losses.vlb,
}


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_a_weighting_on_eps_is_the_same_loss_on_x0_and_on_v(name: str) -> None:
    weighting = WEIGHTINGS[name]
    x0, eps, t = normal(4, 2), normal(4, 2, seed=1), torch.tensor([2, 20, 60, 98])

    def prediction(x: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(x + t[:, None] / T)

    found = [
        weighted(weighting, Denoiser(Predicts(prediction, p), PROCESS, p), x0, t, eps)
        for p in (EPS, X0, V)
    ]
    on_eps = weighting(PROCESS, t) * l_simple(
        Denoiser(Predicts(prediction, EPS), PROCESS), x0, t, eps
    )
    x_t = PROCESS.q_sample(x0, t, eps)
    on_x0 = losses.on_x0(weighting, PROCESS, t) * ((x0 - prediction(x_t, t)) ** 2).mean(1)
    for loss in (*found, on_x0):
        torch.testing.assert_close(loss, on_eps, rtol=1e-9, atol=0)


def test_weights_by_their_formulas() -> None:
    t = torch.arange(2, T)
    snr = PROCESS.alpha_bar[t] / (1 - PROCESS.alpha_bar[t])
    before = PROCESS.alpha_bar[t - 1] / (1 - PROCESS.alpha_bar[t - 1])
    expected = {
        "simple": snr,
        "uniform_on_x0": torch.ones_like(snr),
        "truncated_snr": snr.clamp(min=1),
        "min_snr": snr.clamp(max=5),
        "vlb": (before - snr) / 2,
    }
    for name, weighting in WEIGHTINGS.items():
        found = losses.on_x0(weighting, PROCESS, t)
        torch.testing.assert_close(found, expected[name], rtol=1e-9, atol=0)
        assert found.dtype == torch.float64


def test_the_vlb_weight_is_what_the_bound_charges_for_an_error() -> None:
    """With σ² = β̃ the divergence is the weight times |ε − ε̂|²."""
    x0, eps, t = normal(5, 2), normal(5, 2, seed=1), torch.tensor([2, 3, 30, 80, 100])
    denoiser = Denoiser(Predicts(lambda x, t: torch.tanh(x), EPS), PROCESS)
    x_t = PROCESS.q_sample(x0, t, eps)
    nats = reverse_step_term(PROCESS, x0, x_t, denoiser(x_t, t), t, t - 1).mean(1)
    torch.testing.assert_close(
        weighted(losses.vlb, denoiser, x0, t, eps), nats, rtol=1e-6, atol=1e-12
    )


@pytest.mark.parametrize("gamma", [0.0, -1.0, math.nan])
def test_min_snr_needs_a_positive_ratio(gamma: float) -> None:
    with pytest.raises(ValueError, match="gamma .* must be positive"):
        losses.min_snr(gamma)


# ---- how times are drawn -----------------------------------------------------------------


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def told(T: int = 20, memory: int = 3, uniform: float = 1e-3) -> tuple[ImportanceTimes, Tensor]:
    """Times that have seen everything, and the losses (memory, T) that they saw."""
    times = ImportanceTimes(T, memory, uniform)
    seen = 100 / torch.arange(1, T + 1) * (1 + torch.rand(memory, T, generator=generator(5)))
    for row in seen:
        times.update(torch.arange(1, T + 1), row)
    return times, seen.double()


def test_uniform_times_are_uniform_and_weigh_one() -> None:
    t, weight = UniformTimes(5).draw(10_000, generator())
    assert t.dtype == torch.int64 and bool((weight == 1).all())
    counts = torch.bincount(t, minlength=6)
    assert counts[0] == 0 and float((counts[1:] / 2000 - 1).abs().max()) < 0.1


@pytest.mark.equation("6.12")
def test_times_are_drawn_where_the_root_mean_square_of_the_loss_is_large() -> None:
    times, seen = told(uniform=1e-3)
    root = (seen**2).mean(0).sqrt()
    expected = 0.999 * root / root.sum() + 0.001 / 20
    torch.testing.assert_close(times.probabilities(), expected, rtol=1e-6, atol=0)
    assert float(times.probabilities().sum()) == pytest.approx(1, rel=1e-12)
    t, _ = times.draw(100_000, generator())
    share = torch.bincount(t, minlength=21)[1:] / 100_000
    error = (expected * (1 - expected) / 100_000).sqrt()
    assert float(((share - expected) / error).abs().max()) < 4.5


@pytest.mark.equation("6.10")
def test_importance_weights_keep_the_mean_exactly() -> None:
    """By enumeration: Σ_t p_t · w_t · L_t is the plain mean, whatever the losses are."""
    times, _ = told()
    p = times.probabilities()
    t, weight = times.draw(20_000, generator(1))
    assert len(t.unique()) == 20  # every time was drawn, so every weight is known
    per_time = torch.zeros(20, dtype=torch.float64)
    per_time[t - 1] = weight.double()
    torch.testing.assert_close(per_time, 1 / (20 * p), rtol=1e-6, atol=0)
    for loss in (torch.rand(20, generator=generator(2)), torch.arange(20.0), -torch.ones(20)):
        exact = float((p * per_time * loss.double()).sum())
        assert exact == pytest.approx(float(loss.double().mean()), rel=1e-6)


@pytest.mark.equation("6.10")
def test_the_weighted_estimate_is_the_uniform_estimate_in_expectation() -> None:
    """On random losses that depend on time and noise; and here with a smaller error."""
    n, (times, seen) = 40_000, told()
    root = (seen**2).mean(0).sqrt()
    g, estimates = generator(3), {}
    for kind in (UniformTimes(20), times):
        t, weight = kind.draw(n, g)
        loss = root[t - 1] * (1 + 0.3 * torch.randn(n, generator=g).double())
        product = weight.double() * loss
        estimates[type(kind)] = float(product.mean()), float(product.std()) / n**0.5
    truth = float(root.mean())
    for mean, error in estimates.values():
        assert abs(mean - truth) < 4 * error
    assert estimates[ImportanceTimes][1] < 0.6 * estimates[UniformTimes][1]


@pytest.mark.equation("6.12")
def test_until_every_time_was_seen_often_enough_times_are_uniform() -> None:
    times = ImportanceTimes(4, memory=2)
    flat = torch.full((4,), 0.25, dtype=torch.float64)
    for t in (1, 2, 3, 1, 2, 3, 1, 4):  # 4 only once
        assert torch.equal(times.probabilities(), flat)
        times.update(torch.tensor([t]), torch.tensor([float(t)]))
    assert torch.equal(times.probabilities(), flat)
    _, weight = times.draw(9, generator())
    assert bool((weight == 1).all())
    times.update(torch.tensor([4]), torch.tensor([4.0]))
    expected = 0.999 * torch.tensor([1.0, 2.0, 3.0, 4.0]).double() / 10 + 0.001 / 4
    torch.testing.assert_close(times.probabilities(), expected)


def test_only_the_latest_losses_count_also_when_a_batch_repeats_a_time() -> None:
    one, many = ImportanceTimes(2, memory=3), ImportanceTimes(2, memory=3)
    batch_t = torch.tensor([1, 2, 1, 1, 2, 1, 2, 1])
    batch_loss = torch.tensor([9.0, 1.0, 9.0, 3.0, 2.0, 4.0, 3.0, 5.0])
    many.update(batch_t, batch_loss)
    for t, loss in zip(batch_t, batch_loss, strict=True):
        one.update(t[None], loss[None])
    assert torch.equal(one.history, many.history) and torch.equal(one.seen, many.seen)
    assert sorted(many.history[0].tolist()) == [3, 4, 5]  # 9 and 9 are forgotten
    assert many.seen.tolist() == [5, 3]
    many.update(torch.tensor([2]), torch.tensor([7.0]))
    assert sorted(many.history[1].tolist()) == [2, 3, 7]


def test_nothing_to_prefer_is_no_reason_to_divide_by_zero() -> None:
    times = ImportanceTimes(3, memory=1)
    times.update(torch.tensor([1, 2, 3]), torch.zeros(3))
    assert torch.equal(times.probabilities(), torch.full((3,), 1 / 3, dtype=torch.float64))


def test_a_time_without_loss_keeps_its_share_of_uniform_draws() -> None:
    times = ImportanceTimes(3, memory=1, uniform=0.3)
    times.update(torch.tensor([1, 2, 3]), torch.tensor([0.0, 1.0, -1.0]))
    torch.testing.assert_close(times.probabilities(), torch.tensor([0.1, 0.45, 0.45]).double())
    _, weight = times.draw(500, generator())
    assert float(weight.max()) == pytest.approx(1 / 0.3, rel=1e-6)  # none above 1/uniform


def test_losses_are_noted_without_their_history_of_gradients() -> None:
    times = ImportanceTimes(2, memory=1)
    times.update(torch.tensor([1, 2]), torch.ones(2, requires_grad=True) * 2)
    assert not times.history.requires_grad and times.history.flatten().tolist() == [2, 2]


def test_the_state_of_importance_times_is_a_state_dict() -> None:
    times, _ = told()
    again = ImportanceTimes(20, 3)
    again.load_state_dict(times.state_dict())
    assert torch.equal(again.probabilities(), times.probabilities())
    assert all(
        torch.equal(a, b)
        for a, b in zip(times.draw(50, generator(4)), again.draw(50, generator(4)), strict=True)
    )


@pytest.mark.parametrize(
    "options", [{"T": 0}, {"memory": 0}, {"uniform": 0.0}, {"uniform": 1.1}, {"uniform": math.nan}]
)
def test_importance_times_out_of_range(options: dict) -> None:
    with pytest.raises(ValueError, match=r"need T >= 1, memory >= 1 and uniform in \(0, 1\]"):
        ImportanceTimes(**({"T": 5} | options))


@pytest.mark.equation("6.11")
def test_importance_sampling_calms_the_gradient_of_l_vlb() -> None:
    """Exact over times, at given weights: Σ_t E|g_t|² / (T² p_t) for both ways to draw t."""
    process = DDPM(schedules.cosine(40))
    torch.manual_seed(0)
    net = MLP(dim=2, width=16, depth=1, outputs=2)
    learned = Denoiser(net, process, EPS, var_mix=None)
    n, times, square = 6, ImportanceTimes(process.T, memory=6), []
    for t in (torch.tensor([t]) for t in range(1, process.T + 1)):
        norms = []
        for i in range(n):
            x0, eps = 0.5 * normal(1, 2, seed=i).float(), normal(1, 2, seed=100 + i).float()
            loss = l_vlb(learned, x0, t, eps, decoder=continuous)
            gradient = torch.autograd.grad(loss.sum(), list(net.parameters()))
            norms.append(sum(float((g**2).sum()) for g in gradient))
            times.update(t, loss)
        square.append(sum(norms) / n)
    p, E = times.probabilities(), torch.tensor(square, dtype=torch.float64)
    uniform, importance = float(E.mean()), float((E / (process.T**2 * p)).sum())
    least = float(E.sqrt().mean()) ** 2  # p_t ∝ √E|g_t|², by Cauchy and Schwarz
    assert least <= importance < 0.7 * uniform


class Conditional(nn.Module):
    """An answer that depends on the label, in the mean and in the variance."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.3))

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        answer = self.weight * y[:, None].to(x) * torch.ones_like(x)
        return torch.cat([answer, answer - 1], dim=1)


@pytest.mark.parametrize("objective", [l_simple, l_vlb, l_hybrid])
def test_every_objective_hands_the_labels_to_the_network(objective) -> None:
    process = DDPM(schedules.cosine(20))
    denoiser = Denoiser(Conditional(), process, EPS, var_mix=None)
    g = torch.Generator().manual_seed(0)
    x0 = torch.rand(2, 3, generator=g).mul(255).round() / 127.5 - 1
    eps, t = torch.randn(2, 3, generator=g), torch.tensor([7, 12])
    found = [objective(denoiser, x0, t, eps, torch.tensor([y, 1])) for y in (0, 3)]
    assert found[0][0] != found[1][0] and found[0][1] == found[1][1]


def test_the_history_takes_only_what_belongs_to_it() -> None:
    times = ImportanceTimes(5, memory=1)
    for t, loss in ((torch.tensor([0]), torch.ones(1)), (torch.tensor([6]), torch.ones(1))):
        with pytest.raises(ValueError, match=r"one loss for each time in 1\.\.5"):
            times.update(t, loss)
    with pytest.raises(ValueError, match="one loss for each time"):
        times.update(torch.tensor([1, 2]), torch.ones(1))
    assert not times.seen.any()
    every = torch.arange(1, 6)
    times.update(every, torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))
    before = times.probabilities()
    times.update(every, torch.tensor([math.inf, math.nan, -math.inf, math.inf, math.nan]))
    assert torch.equal(times.probabilities(), before)


@pytest.mark.parametrize("share", [-0.1, 1.5, math.nan])
def test_a_share_of_dropped_labels_that_is_no_probability_is_refused(share: float) -> None:
    model = Denoiser(MLP(2, 8, 1), DDPM(schedules.cosine(10)), EPS)
    with pytest.raises(ValueError, match=r"label_dropout must lie in \[0, 1\]"):
        losses.diffusion_loss(model, torch.zeros(3, 2), None, torch.Generator(), share)
