"""`ddpmlib.guidance`: Bayes' rule on exact mixtures, closed forms where guidance is not Bayes."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate
from torch import Tensor, nn

from ddpmlib import evaluation, guidance, zoo
from ddpmlib.denoiser import EPS, X0, Denoiser, FixedVariance, V, oracle, score
from ddpmlib.evaluation import features
from ddpmlib.guidance import (
    ClassifierFree,
    ClassifierGuidance,
    DynamicThreshold,
    MeanShift,
    StaticThreshold,
    Temperature,
    Unconditional,
    class_gradient,
    interval,
    thresholding,
)
from ddpmlib.models import MLP, UNet, UNetConfig
from ddpmlib.prediction import Prediction
from ddpmlib.process import DDPM, ZeroBased, schedules
from ddpmlib.samplers import (
    annealed_langevin,
    ddim_invert,
    draw,
    langevin,
    predictor_corrector,
    sample,
    uniform_times,
)

F64 = torch.float64
T = 40
PROCESS = DDPM(schedules.cosine(T))
TIMES = [1, 5, 20, 35, 39]  # at 40 the cosine schedule leaves ᾱ = 1e-6: rounding is divided by it


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def seeded(seed: int = 10) -> torch.Generator:  # other than that of the starting noise
    return torch.Generator().manual_seed(seed)


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=F64)


def classes(*shape: int, process: DDPM = PROCESS) -> oracle.Mixture:
    """Five components in three classes, overlapping, of unequal weights and widths."""
    return oracle.Mixture(
        process, f64(1, 2, 3, 2, 1), normal(5, *shape, seed=7), f64(0.3, 0.2, 0.6, 0.4, 0.5),
        torch.tensor([0, 1, 2, 0, 1]),
    )  # fmt: skip


PLANE = classes(2)
Y = torch.tensor([0, 1, 2, 0, 1, 2])
X = normal(6, 2, seed=1)


def of(c: int) -> Tensor:
    """Which samples are of the class."""
    return Y.eq(c)


class Spy:
    """Passes on to a denoiser and notes what it is asked."""

    def __init__(self, denoiser=PLANE) -> None:
        self.denoiser, self.process, self.null = denoiser, denoiser.process, 3
        self.asked: list[tuple] = []

    def without(self, y):
        return torch.full_like(y, self.null)

    def __call__(self, x_t, t, y=None):
        self.asked.append((x_t, t, y))
        return self.denoiser(x_t, t, y)


def unasked(x, t):
    raise AssertionError("the classifier was asked")


# ---- the score ---------------------------------------------------------------------------


@pytest.mark.parametrize("t", TIMES)
def test_the_score_of_an_exact_denoiser_is_the_gradient_of_its_density(t: int) -> None:
    torch.testing.assert_close(score(PLANE, X, t), PLANE.score(X, t), rtol=1e-9, atol=1e-9)
    times = torch.full((6,), t)
    torch.testing.assert_close(score(PLANE, X, times), PLANE.score(X, t), rtol=1e-9, atol=1e-9)
    found = score(PLANE, X, t, Y)
    for c in range(3):
        expected = PLANE.given(c).score(X[of(c)], t)
        torch.testing.assert_close(found[of(c)], expected, rtol=1e-9, atol=1e-9)


def test_clean_data_have_no_score() -> None:
    with pytest.raises(ValueError, match="clean data"):
        score(PLANE, X, 0)


# ---- classifier guidance: Bayes' rule on scores ------------------------------------------


def bayes(strength=1.0, exact=PLANE) -> ClassifierGuidance:
    return ClassifierGuidance(Unconditional(exact), exact.class_logits, strength)


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("shape", [(), (2,), (1, 2, 3)])
def test_an_exact_classifier_at_strength_1_gives_the_conditional_prediction(t: int, shape) -> None:
    """∇ log p(x) + ∇ log p(y|x) = ∇ log p(x|y): a sign error of the gradient fails here."""
    exact, x = classes(*shape), normal(6, *shape, seed=1)
    for time in (t, torch.full((6,), t)):
        found = bayes(exact=exact)(x, time, Y).x0
        torch.testing.assert_close(found, exact(x, time, Y).x0, rtol=1e-11, atol=1e-11)
    for c in range(3):
        expected = exact.given(c)(x[of(c)], t).x0
        torch.testing.assert_close(found[of(c)], expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_guided_chains_are_the_conditional_ones_sample_by_sample(eta: float) -> None:
    how = {"times": uniform_times(T, 13), "eta": eta}
    for c in range(3):
        y = torch.full((6,), c)
        found = draw(bayes(), PROCESS, X, y=y, generator=seeded(), **how)
        expected = draw(PLANE.given(c), PROCESS, X, generator=seeded(), **how)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)


def test_guided_samples_have_the_distribution_of_the_class() -> None:
    """Against samples of p(x|y) themselves, in 1-D, by Kolmogorov–Smirnov."""
    from scipy import stats

    process, n = DDPM(schedules.cosine(100)), 2000
    exact = classes(process=process)
    y = torch.full((n,), 1)
    found = draw(bayes(exact=exact), process, normal(n, seed=3), y=y, generator=seeded(1))
    truth = exact.given(1).draw(20_000, generator=seeded(2))
    assert stats.ks_2samp(found.numpy(), truth.numpy()).pvalue > 0.01
    other = exact.given(0).draw(20_000, generator=seeded(2))
    assert stats.ks_2samp(found.numpy(), other.numpy()).pvalue < 1e-6


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("strength", [-1.0, 0.5, 3.0])
def test_the_score_moves_by_strength_times_the_gradient(t: int, strength: float) -> None:
    """The gradient here is that of log p(x|y) − log p(x), two other densities, by autograd."""
    x = X.clone().requires_grad_()
    log_p = torch.stack([PLANE.given(c).log_prob(x, t) for c in range(3)])[Y, torch.arange(6)]
    (slope,) = torch.autograd.grad((log_p - PLANE.log_prob(x, t)).sum(), x)
    found = score(bayes(strength), X, t, Y)
    expected = PLANE.score(X, t) + strength * slope
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("make", [ClassifierGuidance, MeanShift])
def test_strength_0_is_the_unguided_model_and_costs_nothing(make) -> None:
    """Also by a function of t: the classifier is not even asked, the answer is handed through."""
    said = Prediction(X, normal(6, 2))

    def denoiser(x, t, y):
        return said

    denoiser.process = PROCESS
    for nothing in (0, 0.0, -0.0, lambda t: 0.0, interval(2.0, 1, 4)):
        assert make(denoiser, unasked, nothing)(X, 5, Y) is said
        assert make(denoiser, unasked, nothing)(X, 5) is said
    rows = make(PLANE, PLANE.class_logits, f64(0, 0, 1, 1, 0, 2))(X, 20, Y).x0
    still = torch.tensor([True, True, False, False, True, False])
    assert torch.equal(rows[still], PLANE(X, 20, Y).x0[still])
    assert bool((rows[~still] != PLANE(X, 20, Y).x0[~still]).all())


@pytest.mark.parametrize("make", [ClassifierGuidance, MeanShift])
def test_strength_per_sample_and_over_time(make) -> None:
    plain = {s: make(PLANE, PLANE.class_logits, s)(X, 20, Y).x0 for s in (0.5, 2.0)}
    mixed = make(PLANE, PLANE.class_logits, f64(0.5, 2, 2, 0.5, 0.5, 2))(X, 20, Y).x0
    strong = torch.tensor([0, 1, 1, 0, 0, 1], dtype=torch.bool)
    torch.testing.assert_close(mixed, torch.where(strong[:, None], plain[2.0], plain[0.5]))
    timed = make(PLANE, PLANE.class_logits, lambda t: 0.1 * t)
    assert torch.equal(timed(X, 5, Y).x0, make(PLANE, PLANE.class_logits, 0.5)(X, 5, Y).x0)
    assert torch.equal(timed(X, 20, Y).x0, plain[2.0])


def test_gradients_flow_where_samplers_turn_them_off_and_nothing_is_kept() -> None:
    with torch.no_grad():
        slope = class_gradient(PLANE.class_logits, X, 20, Y)
    assert bool((slope != 0).all()) and not slope.requires_grad and not X.requires_grad
    assert not class_gradient(PLANE.class_logits, X, 20, Y).requires_grad


def test_a_recorded_gradient_can_be_differentiated_again() -> None:
    """The divergence of a guided field needs it; without it half of the Jacobian would be lost."""
    guide = bayes(2.0)
    found = torch.autograd.functional.jacobian(lambda x: guide(x[None], 20, Y[:1]).x0[0], X[0])
    h = 1e-5
    columns = [
        (guide(X[:1] + h * e, 20, Y[:1]).x0 - guide(X[:1] - h * e, 20, Y[:1]).x0)[0] / (2 * h)
        for e in torch.eye(2, dtype=F64)
    ]
    torch.testing.assert_close(found, torch.stack(columns, 1), rtol=1e-6, atol=1e-6)


def test_the_classifier_hears_the_time_of_each_sample() -> None:
    asked = []

    def classifier(x, t):
        asked.append(t)
        return PLANE.class_logits(x, t)

    t = torch.tensor([1, 5, 20, 35, 39, 2])
    mixed = ClassifierGuidance(PLANE, classifier)(X, t, Y).x0
    single = [ClassifierGuidance(PLANE, classifier)(X[i : i + 1], int(t[i]), Y[i : i + 1])
              for i in range(6)]  # fmt: skip
    torch.testing.assert_close(mixed, torch.cat([p.x0 for p in single]), rtol=1e-10, atol=1e-10)
    assert torch.equal(asked[0], t) and all(a.dtype == torch.int64 for a in asked)
    assert [a.tolist() for a in asked[1:]] == [[int(i)] for i in t]


def test_a_gradient_that_does_not_fade_explodes_at_the_start_and_three_ways_mend_it() -> None:
    """Any trained classifier has one. 1/√ᾱ_T of the cosine schedule throws the first step out."""
    times, y = [T, 30, 20, 10, 0], torch.zeros(6, dtype=torch.int64)

    def blunt(x, t):  # the same small slope at all times
        return torch.stack([0.1 * x.sum(1), -0.1 * x.sum(1)], 1)

    def size(guide, eta: float) -> float:
        return float(draw(guide, PROCESS, X, times, eta=eta, y=y, generator=seeded()).abs().max())

    free = ClassifierGuidance(Unconditional(PLANE), blunt)
    assert float((free(X, T, y).x0 - PLANE(X, T).x0).abs().min()) > 10
    assert size(free, 0.0) > 5
    later = ClassifierGuidance(Unconditional(PLANE), blunt, interval(1.0, 1, 36))
    assert size(later, 0.0) < 3.5 and size(StaticThreshold(free), 0.0) <= 1
    assert size(MeanShift(Unconditional(PLANE), blunt, 1.0, times), 1.0) < 3.5


# ---- the same as a shift of the mean -----------------------------------------------------


@pytest.mark.parametrize(("t", "s"), [(40, 39), (30, 17), (2, 1), (40, 1)])
@pytest.mark.parametrize("var_mix", [0.0, 1.0, 0.3, normal(6, 2, seed=4).sigmoid()])
def test_the_steps_mean_moves_by_strength_sigma_gradient(t: int, s: int, var_mix) -> None:
    """Algorithm 1 of Dhariwal & Nichol (2021), line by line, against the engine's step."""

    def denoiser(x, t, y):
        return Prediction(PLANE(x, t).x0, var_mix)

    denoiser.process = PROCESS
    guide = MeanShift(denoiser, PLANE.class_logits, 2.5, [t, s])
    noise, prediction = normal(6, 2, seed=5), denoiser(X, t, None)
    found = PROCESS.step(X, guide(X, t, Y), t, s, 1.0, noise)
    mean, _ = PROCESS.posterior(X, prediction.x0, t, s)
    deviation = PROCESS.posterior_std(t, s, var_mix)
    slope = class_gradient(PLANE.class_logits, X, t, Y)
    expected = mean + 2.5 * deviation**2 * slope + deviation * noise
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    assert guide(X, t, Y).var_mix is prediction.var_mix


def shifts(process: DDPM, t: int, s: int, var_mix: float) -> float:
    """The shift of x̂_0 in the mean form over that in the score form, from the wrappers."""
    exact = classes(2, process=process)
    base = FixedVariance(Unconditional(exact), var_mix)
    plain = base(X, t, Y).x0
    mean = MeanShift(base, exact.class_logits, 1.5, [t, s])(X, t, Y).x0 - plain
    free = ClassifierGuidance(base, exact.class_logits, 1.5)(X, t, Y).x0 - plain
    ratio = mean / free
    torch.testing.assert_close(ratio, ratio[0, 0].expand(6, 2), rtol=1e-6, atol=0)
    return float(ratio[0, 0])


@pytest.mark.parametrize("var_mix", [0.0, 1.0])
def test_both_forms_agree_to_first_order_in_the_step(var_mix: float) -> None:
    """Their relative difference halves with the length of the step, down to one part in a few
    hundred; exactly, it is 1 − √(ᾱ_t/ᾱ_s), and with Σ = β̃ also (1−ᾱ_s)/(1−ᾱ_t)."""
    process = DDPM(schedules.cosine(4096))
    apart = []
    for stride in (512, 256, 128, 64, 32):
        t, s = 2048, 2048 - stride
        a, b = float(process.alpha_bar[t]), float(process.alpha_bar[s])
        exact = math.sqrt(a / b) * (1 if var_mix else (1 - b) / (1 - a))
        ratio = shifts(process, t, s, var_mix)
        assert ratio == pytest.approx(exact, rel=1e-9)
        apart.append(1 - ratio)
    halves = [b / a for a, b in pairwise(apart)]
    assert halves[-1] == pytest.approx(0.5, abs=0.02)
    assert apart[-1] < 0.04 and apart[0] > 0.15


@pytest.mark.slow
def test_the_forms_part_in_the_distribution_of_few_steps() -> None:
    """Variance of guided samples at strength 1, where truth is c: the number for where they part.

    From 10 steps the score form draws 40 % too little variance, the mean form 41 % too much.
    """
    process, c = DDPM(schedules.cosine(1000)), 0.25
    pair = Pair(process, c)
    error = {}
    for steps in (10, 50, 250):
        times = uniform_times(1000, steps)
        for form in ("score", "mean"):
            guide = (
                MeanShift(Unconditional(pair), pair.class_logits, 1.0, times)
                if form == "mean"
                else ClassifierGuidance(Unconditional(pair), pair.class_logits)
            )
            error[form, steps] = moments(guide, times, 1.0)[1] / c - 1
    # Both tend to the truth, and so to each other, from opposite sides.
    assert -0.04 < error["score", 250] < 0 < error["mean", 250] < 0.04
    apart = [error["mean", n] - error["score", n] for n in (10, 50, 250)]
    assert apart[0] > 0.7 and apart[0] > 3 * apart[1] and apart[1] > 3 * apart[2]


def test_the_last_step_draws_nothing_so_its_mean_stays() -> None:
    for var_mix in (0.0, 1.0):
        base = FixedVariance(PLANE, var_mix)
        assert torch.equal(MeanShift(base, unasked)(X, 1, Y).x0, PLANE(X, 1, Y).x0)
        assert torch.equal(MeanShift(base, unasked, times=[9, 0])(X, 9, Y).x0, PLANE(X, 9, Y).x0)


@pytest.mark.parametrize("t", [7, 40, 0, torch.tensor([8] * 6)])
def test_a_mean_shift_knows_the_steps_of_its_chain_alone(t) -> None:
    with pytest.raises(ValueError, match="none starts at t = .*give the sampler's times"):
        MeanShift(PLANE, PLANE.class_logits, 1.0, [38, 8, 0])(X, t, Y)


# ---- other strengths than 1: what guidance samples, and what it does not -----------------


class Pair:
    """Class 0 is N(0, c), everything together is N(0, 1): each guided density is a closed form.

    p(y=0|x) is a share of the ratio of both densities, at every noise level a true probability.
    """

    def __init__(self, process: DDPM, c: float) -> None:
        self.process, self.share = process, math.sqrt(c) / 2
        one, zero = f64(1), f64(0)
        self.all = oracle.Mixture(process, one, zero, one)
        self.inside = oracle.Mixture(process, one, zero, f64(math.sqrt(c)))

    def without(self, y):
        return torch.ones_like(y)

    def __call__(self, x_t, t, y=None):
        null = self.all(x_t, t).x0
        inside = self.inside(x_t, t).x0
        return Prediction(null if y is None else torch.where(y == 1, null, inside))

    def class_logits(self, x_t, t):
        ratio = self.inside.log_prob(x_t, t) - self.all.log_prob(x_t, t)
        log_p = math.log(self.share) + ratio
        return torch.stack([log_p, torch.log1p(-log_p.exp())], dim=1)


def moments(denoiser, times: list[int], eta: float, var: float = 1.0) -> tuple[float, float]:
    """Exact mean and variance of what comes out of a chain that is affine, started at N(0, var)."""
    x, none, y = f64(0, 1), f64(0, 0), torch.tensor([0, 0])
    mean, process = 0.0, denoiser.process
    for t, s in pairwise(times):
        prediction = denoiser(x, t, y)
        out = process.step(x, prediction, t, s, eta, none)
        loud = process.step(none, Prediction(none, prediction.var_mix), t, s, eta, f64(1, 1))
        gain = float(out[1] - out[0])
        mean, var = gain * mean + float(out[0]), gain**2 * var + float(loud[0]) ** 2
    return mean, var


def by_ode(c: float, s: float) -> float:
    """Variance at σ = 0 of dx/du = −½ score, u = σ², score = −s x/(c+u) + (s−1) x/(1+u)."""
    return c**s


def by_sde(c: float, s: float) -> float:
    """The same with noise: dV/du = 2V (s/(c+u) − (s−1)/(1+u)) − 1, from infinite noise."""
    rest = integrate.quad(lambda u: (c + u) ** (-2 * s) * (1 + u) ** (2 * (s - 1)), 0, math.inf)
    return c ** (2 * s) * rest[0]


FINE = DDPM(schedules.cosine(500))


def guided(kind: str, strength: float, pair: Pair):
    if kind == "classifier":
        return ClassifierGuidance(Unconditional(pair), pair.class_logits, strength)
    return ClassifierFree(pair, strength - 1)


@pytest.mark.parametrize("kind", ["classifier", "classifier-free"])
@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0, 4.0])
@pytest.mark.slow
def test_guiding_each_noise_level_does_not_sample_the_tilted_distribution(
    kind: str, strength: float
):
    """p(x) p(y|x)^s has precision s/c − (s−1); DDIM ends at c^s, ancestral sampling elsewhere.

    At s = 1, and only there, all three are c. With c = ¼ and s = 2 they are 0.143, 0.063, 0.109.
    The chains' errors are of first order, and so go with twice the finer less the coarser one.
    """
    c, chains = 0.25, []
    tilted = 1 / (strength / c - (strength - 1))
    for T in (125, 250):
        guide = guided(kind, strength, Pair(DDPM(schedules.cosine(T)), c))
        chains.append([moments(guide, uniform_times(T, T), eta)[1] for eta in (0.0, 1.0)])
    ddim, ancestral = (2 * fine - coarse for coarse, fine in zip(*chains, strict=True))
    assert ddim == pytest.approx(by_ode(c, strength), rel=0.01)
    assert ancestral == pytest.approx(by_sde(c, strength), rel=0.02)
    if strength == 1:
        assert by_sde(c, 1) == pytest.approx(c, rel=1e-9) and tilted == c
    else:  # sharper than the tilted distribution for s > 1, wider for s < 1, and by far
        sharper = [tilted / ddim, tilted / ancestral, ancestral / ddim]
        assert all((r > 1.15) == (strength > 1) and (r < 0.98) == (strength < 1) for r in sharper)


def test_at_one_noise_level_the_tilted_distribution_is_the_guided_one() -> None:
    """Langevin at one t does sample q(x_t) p(y|x_t)^s: it is the walk over t that does not."""
    pair, t, s, h = Pair(PROCESS, 0.25), 12, 3.0, 0.02
    a = float(PROCESS.alpha_bar[t])
    var = 1 / (s / (0.25 * a + 1 - a) - (s - 1))
    n, y = 20_000, torch.zeros(20_000, dtype=torch.int64)
    *_, last = langevin(guided("classifier", s, pair), PROCESS, var**0.5 * normal(n), t, h, 60,
                        y=y, generator=seeded(8))  # fmt: skip
    expected = 2 * var**2 / (2 * var - h)
    assert abs(float(last.x.var()) - expected) < 4.5 * expected * math.sqrt(2 / n)


@pytest.mark.slow
def test_guidance_of_a_mixture_misses_the_tilted_distribution_by_what_quadrature_knows() -> None:
    """Wasserstein distance in 1-D. DDIM is a rising map there, so quantiles go to quantiles."""
    exact = oracle.Mixture(
        FINE, f64(1, 1, 1), f64(-1, 0.2, 1), f64(0.4, 0.3, 0.2), torch.tensor([0, 0, 1])
    )
    n = 800
    grid = torch.linspace(-4, 4, 20_001, dtype=F64)
    levels = (torch.arange(n, dtype=F64) + 0.5) / n
    start = math.sqrt(2) * torch.erfinv(2 * levels - 1)

    def distance(s: float) -> float:
        log_tilt = exact.log_prob(grid, 0) + s * exact.class_logits(grid, 0)[:, 0]
        below = torch.softmax(log_tilt, 0).cumsum(0)
        truth = torch.from_numpy(np.interp(levels.numpy(), below.numpy(), grid.numpy()))
        y = torch.zeros(n, dtype=torch.int64)
        found = draw(bayes(s, exact), FINE, start, uniform_times(500, 250), eta=0.0, y=y)
        assert bool((found.diff() > 0).all())
        return float((found - truth).abs().mean())

    close, far = distance(1.0), distance(4.0)
    assert close < 0.01 and far > 0.1 and far > 15 * close


# ---- classifier-free guidance ------------------------------------------------------------


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("w", [-1.0, 0.0, 0.5, 3.0])
def test_w_weighs_as_the_book_says(t: int, w: float) -> None:
    """ε̂ = (1+w) ε_c − w ε_∅: w = 0 is conditional, w = −1 null; reading w as 1 + w fails here."""
    found = PROCESS.eps_from_x0(X, ClassifierFree(PLANE, w)(X, t, Y).x0, t)
    conditional = PROCESS.eps_from_x0(X, PLANE(X, t, Y).x0, t)
    null = PROCESS.eps_from_x0(X, PLANE(X, t).x0, t)
    expected = (1 + w) * conditional - w * null
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("w", [-0.5, 0.0, 1.0, 4.0])
def test_classifier_free_is_classifier_guidance_of_strength_1_plus_w(t: int, w: float) -> None:
    """With exact predictions: s = 1 + w from the unconditional model, w from the conditional."""
    found = ClassifierFree(PLANE, w)(X, t, Y).x0
    torch.testing.assert_close(found, bayes(1 + w)(X, t, Y).x0, rtol=1e-9, atol=1e-9)
    onto = ClassifierGuidance(PLANE, PLANE.class_logits, w)
    torch.testing.assert_close(found, onto(X, t, Y).x0, rtol=1e-9, atol=1e-9)


def test_both_passes_are_one_batch_with_the_null_label_behind() -> None:
    spy = Spy()
    times = torch.tensor([1, 2, 3, 4, 5, 6])
    for t, twice in ((20, torch.tensor(20)), (times, torch.cat([times, times]))):
        found = ClassifierFree(spy, 2.0)(X, t, Y)
        ((x, time, y),) = spy.asked
        assert torch.equal(x, torch.cat([X, X])) and y.tolist() == [*Y.tolist(), *[3] * 6]
        assert torch.equal(torch.as_tensor(time), twice) and found.x0.shape == X.shape
        spy.asked.clear()
    spy.null = 1
    ClassifierFree(spy, 2.0)(X, 20, Y)
    assert spy.asked[0][2][6:].tolist() == [1] * 6


def test_w_0_is_the_plain_model_to_the_bit_and_costs_nothing() -> None:
    spy = Spy()
    for nothing in (0, 0.0, lambda t: 0.0, interval(2.0, 1, 4)):
        found = ClassifierFree(spy, nothing)(X, 20, Y)
        assert torch.equal(found.x0, PLANE(X, 20, Y).x0)
        assert torch.equal(ClassifierFree(spy, nothing)(X, 20).x0, PLANE(X, 20).x0)
        assert [len(x) for x, _, _ in spy.asked] == [6, 6]
        spy.asked.clear()
    w = f64(0, 1, 0, 0, 2, 0)
    found = ClassifierFree(spy, w)(X, 20, Y).x0
    assert torch.equal(found[w == 0], PLANE(X, 20, Y).x0[w == 0])


def test_w_per_sample_and_over_time() -> None:
    plain = {w: ClassifierFree(PLANE, w)(X, 20, Y).x0 for w in (0.5, 2.0)}
    strong = torch.tensor([0, 1, 1, 0, 0, 1], dtype=torch.bool)
    mixed = ClassifierFree(PLANE, torch.where(strong, 2.0, 0.5))(X, 20, Y).x0
    torch.testing.assert_close(mixed, torch.where(strong[:, None], plain[2.0], plain[0.5]))
    timed = ClassifierFree(PLANE, lambda t: torch.where(strong, 0.1 * t, 0.5))
    torch.testing.assert_close(timed(X, 20, Y).x0, mixed)


def test_an_interval_guides_inside_and_nowhere_else() -> None:
    weight = interval(3.0, 5, 20)
    assert [weight(t) for t in (4, 5, 12, 20, 21)] == [0, 3, 3, 3, 0]
    assert weight(torch.tensor([4, 5, 12, 20, 21])).tolist() == [0, 3, 3, 3, 0]
    spy = Spy()
    draw(ClassifierFree(spy, weight), PROCESS, X, eta=0.0, y=Y)
    asked = {t: len(x) for x, t, _ in spy.asked}
    assert asked == {t: 12 if 5 <= t <= 20 else 6 for t in range(1, T + 1)}
    times = torch.tensor([4, 5, 12, 20, 21, 40])
    found = ClassifierFree(PLANE, weight)(X, times, Y).x0
    inside = ClassifierFree(PLANE, 3.0)(X, times, Y).x0
    guides = torch.tensor([False, True, True, True, False, False])[:, None]
    torch.testing.assert_close(found, torch.where(guides, inside, PLANE(X, times, Y).x0))


def test_a_learned_variance_is_the_conditional_one() -> None:
    net = MLP(2, 8, 1, num_classes=3, outputs=2).double()
    for p in net.parameters():
        nn.init.normal_(p, std=0.5, generator=seeded(1))
    denoiser = Denoiser(net, PROCESS, V, var_mix=None)
    found = ClassifierFree(denoiser, 2.0)(X, 20, Y).var_mix
    torch.testing.assert_close(found, denoiser(X, 20, Y).var_mix)
    assert not torch.allclose(found, denoiser(X, 20).var_mix)
    assert ClassifierFree(FixedVariance(PLANE, 0.7), 2.0)(X, 20, Y).var_mix == 0.7


NETS = {
    "mlp": (lambda: MLP(2, 8, 1, num_classes=3), (2,)),
    "unet": (
        lambda: UNet(
            UNetConfig(width=8, mults=(1,), attention=(False,), heads=1, groups=4, num_classes=3)
        ),
        (1, 4, 4),
    ),
}


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("parameterization", [EPS, X0, V], ids=lambda p: p.name)
def test_the_null_label_of_a_network_is_what_y_none_means(kind: str, parameterization) -> None:
    """Two batches by hand, the second with y=None; a null label off by one fails here."""
    build, shape = NETS[kind]
    net = build().double().eval()
    for p in net.parameters():
        nn.init.normal_(p, std=0.3, generator=seeded(len(p)))
    denoiser = Denoiser(net.requires_grad_(False), PROCESS, parameterization)
    x = normal(6, *shape)
    assert denoiser.conditional and denoiser.without(Y).tolist() == [3] * 6
    conditional, null = denoiser(x, 20, Y).x0, denoiser(x, 20).x0
    assert float((conditional - null).abs().max()) > 1e-3
    found = ClassifierFree(denoiser, 1.5)(x, 20, Y).x0
    torch.testing.assert_close(found, 2.5 * conditional - 1.5 * null, rtol=1e-9, atol=1e-9)
    ones = torch.full((6,), 3)
    torch.testing.assert_close(denoiser(x, 20, ones).x0, null, rtol=1e-12, atol=1e-12)


def test_wrappers_pass_on_what_no_condition_is() -> None:
    nested = Temperature(StaticThreshold(FixedVariance(Unconditional(PLANE), 1.0)), 0.5)
    assert nested.conditional and nested.process is PROCESS
    for denoiser in (nested, ClassifierFree(nested, 1.0)):
        assert denoiser.without(Y).tolist() == [3] * len(Y)
    alone = StaticThreshold(FixedVariance(PLANE.given(0), 1.0))
    assert not alone.conditional
    with pytest.raises(ValueError, match="no condition that it can be without"):
        alone.without(Y)


# ---- thresholds --------------------------------------------------------------------------


def says(x0: Tensor, var_mix=0.0):
    def denoiser(x, t, y=None):
        return Prediction(x0, var_mix)

    denoiser.process = PROCESS
    return denoiser


def test_a_static_threshold_clips() -> None:
    x0 = f64(-3, -1, -0.2, 0.7, 1.5)[None]
    found = StaticThreshold(says(x0, 0.3))(x0, 5)
    assert found.x0.tolist() == [[-1, -1, -0.2, 0.7, 1]] and found.var_mix == 0.3
    assert StaticThreshold(says(x0), 2.0)(x0, 5).x0.tolist() == [[-2, -1, -0.2, 0.7, 1.5]]


@pytest.mark.parametrize("quantile", [0.0, 0.5, 0.9, 0.995, 1.0])
@pytest.mark.parametrize("shape", [(6,), (6, 7), (6, 3, 5, 5)])
def test_a_dynamic_threshold_is_imagens(quantile: float, shape: tuple[int, ...]) -> None:
    """Saharia et al. (2022), section 2.3: s = max(1, percentile), clip to ±s, divide by s."""
    x0 = normal(*shape) * torch.linspace(0.2, 4, 6, dtype=F64).reshape(6, *[1] * (len(shape) - 1))
    found = DynamicThreshold(says(x0), quantile)(x0, 5).x0
    for one, image in zip(found, x0.numpy(), strict=True):
        s = max(1.0, np.percentile(np.abs(image), 100 * quantile))
        expected = torch.from_numpy(np.asarray(np.clip(image, -s, s) / s))
        torch.testing.assert_close(one, expected, rtol=0, atol=1e-14)
    assert float(found.abs().max()) <= 1


def test_an_image_in_range_is_left_alone_and_its_neighbours_do_not_matter() -> None:
    x0 = torch.stack([normal(50).clamp(-1, 1), 9 * normal(50), f64(*[0.5] * 49, 7)])
    found = DynamicThreshold(says(x0), 0.9)(x0, 5).x0
    assert torch.equal(found[0], x0[0])
    assert torch.equal(found[2], x0[2].clamp(-1, 1))  # the floor: clipped, not divided
    single = DynamicThreshold(says(x0[1:2]), 0.9)(x0[1:2], 5).x0
    assert torch.equal(found[1:2], single) and float(single.abs().mean()) < 0.6


@settings(deadline=None, max_examples=50, derandomize=True)
@given(share=st.floats(0, 1), n=st.integers(1, 30))
def test_quantiles_are_torchs(share: float, n: int) -> None:
    x = normal(3, n, seed=n)
    expected = torch.quantile(x, share, dim=1)
    torch.testing.assert_close(thresholding._quantile(x, share), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("wrap", [StaticThreshold, DynamicThreshold])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_noise_is_that_of_the_thresholded_prediction(wrap, eta: float) -> None:
    """The step's ε̂ is formed from the edited x̂_0; keeping the old ε̂ would leave the kernel."""
    x_t, t, s = 3 * normal(4, 9), 30, 20
    x0 = 5 * normal(4, 9, seed=2)
    edited = wrap(says(x0))(x_t, t)
    assert float(edited.x0.abs().max()) <= 1
    found = PROCESS.step(x_t, edited, t, s, eta, torch.zeros_like(x_t))
    (scale_t, std_t), (scale_s, _) = (
        (float(PROCESS.scale[u]), float(PROCESS.std[u])) for u in (t, s)
    )
    eps = (x_t - scale_t * edited.x0) / std_t
    drawn = eta**2 * float(PROCESS.variances(t, s)[0])
    expected = scale_s * edited.x0 + math.sqrt(1 - float(PROCESS.alpha_bar[s]) - drawn) * eps
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_thresholds_belong_after_guidance() -> None:
    outside = DynamicThreshold(ClassifierFree(PLANE, 30.0))(X, 30, Y).x0
    inside = ClassifierFree(DynamicThreshold(PLANE), 30.0)(X, 30, Y).x0
    assert float(outside.abs().max()) <= 1 < float(inside.abs().max())


# ---- temperature -------------------------------------------------------------------------


@pytest.mark.parametrize("t", TIMES)
def test_temperature_divides_the_score_and_the_noise(t: int) -> None:
    warm = Temperature(PLANE, 0.4)
    torch.testing.assert_close(score(warm, X, t, Y), score(PLANE, X, t, Y) / 0.4)
    found = PROCESS.eps_from_x0(X, warm(X, t, Y).x0, t)
    torch.testing.assert_close(found, PROCESS.eps_from_x0(X, PLANE(X, t, Y).x0, t) / 0.4)


def test_temperature_1_hands_the_prediction_through() -> None:
    said = Prediction(X)

    def denoiser(x, t, y):
        return said

    denoiser.process = PROCESS
    assert Temperature(denoiser, 1.0)(X, 5) is said and Temperature(denoiser, 1)(X, 5) is said


@pytest.mark.parametrize("temperature", [0.5, 0.8, 1.0, 1.5])
def test_temperature_does_not_sample_the_tempered_distribution(temperature: float) -> None:
    """N(0, c)^{1/τ} has variance cτ; ancestral sampling ends at cτ/(2−τ).

    DDIM ends at σ²(c/(c+σ²))^{1/τ} for the noise σ that it starts from: for τ < 1 the more noise
    there was, the less is left.
    """
    c, tau = 0.3, temperature
    exact = oracle.Mixture(FINE, f64(1), f64(0), f64(math.sqrt(c)))
    times = list(range(475, -1, -1))
    var = float(1 - FINE.alpha_bar[475])
    u = var / (1 - var)
    _, ancestral = moments(Temperature(exact, tau), times, 1.0, var)
    _, ddim = moments(Temperature(exact, tau), times, 0.0, var)
    gone = (c / (c + u)) ** (2 / tau)
    expected = (c - (c + u) * gone) * tau / (2 - tau) + u * gone
    assert ancestral == pytest.approx(expected, rel=0.05)
    assert ddim == pytest.approx(u * (c / (c + u)) ** (1 / tau), rel=0.1)
    if tau < 1:
        assert ancestral == pytest.approx(c * tau / (2 - tau), rel=0.05) and ddim < 0.6 * c * tau


# ---- together ----------------------------------------------------------------------------


def nested(kind: str):
    """Wrappers around the mixture, inside out, in every order that makes sense."""
    logits = PLANE.class_logits
    return {
        "classifier-free": lambda: ClassifierFree(PLANE, 1.5),
        "classifier": lambda: ClassifierGuidance(Unconditional(PLANE), logits, 1.5),
        "mean shift": lambda: MeanShift(FixedVariance(PLANE, 1.0), logits, 1.5),
        "both": lambda: ClassifierGuidance(ClassifierFree(PLANE, 0.7), logits, 0.8),
        "both, interval": lambda: ClassifierGuidance(
            ClassifierFree(PLANE, interval(2.0, 5, 20)), logits, interval(1.0, 10, 30)
        ),
        "cold": lambda: Temperature(ClassifierFree(PLANE, 0.5), 0.9),
        "cold inside": lambda: ClassifierFree(Temperature(PLANE, 0.9), 0.5),
        "clipped": lambda: StaticThreshold(ClassifierFree(PLANE, 1.5), 2.0),
        "thresholded": lambda: DynamicThreshold(ClassifierGuidance(PLANE, logits, 2.0), 0.9),
        "per sample": lambda: ClassifierFree(PLANE, torch.linspace(0, 2, 6)),
        "all": lambda: FixedVariance(
            DynamicThreshold(
                Temperature(ClassifierGuidance(ClassifierFree(PLANE, 1.0), logits, 0.5), 0.95)
            ),
            0.5,
        ),
    }[kind]()


KINDS = ["classifier-free", "classifier", "mean shift", "both", "both, interval", "cold",
         "cold inside", "clipped", "thresholded", "per sample", "all"]  # fmt: skip
WALKS = {
    "DDIM": lambda d: sample(d, PROCESS, X, eta=0.0, y=Y),
    "ancestral": lambda d: sample(d, PROCESS, X, y=Y, generator=seeded()),
    "eta ½": lambda d: sample(d, PROCESS, X, eta=0.5, y=Y, generator=seeded()),
    "inversion": lambda d: ddim_invert(d, PROCESS, 0.3 * X, y=Y),
    "Langevin": lambda d: langevin(d, PROCESS, X, 12, 1e-3, 5, y=Y, generator=seeded()),
    "annealed": lambda d: annealed_langevin(d, PROCESS, X, steps=1, y=Y, generator=seeded()),
    "corrected": lambda d: predictor_corrector(d, PROCESS, X, y=Y, generator=seeded()),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("walk", WALKS)
def test_every_wrapper_walks_in_every_sampler(kind: str, walk: str) -> None:
    guide, grad = nested(kind), torch.is_grad_enabled()
    *_, last = WALKS[walk](guide)
    assert last.x.shape == X.shape and last.x.dtype == F64 and not last.x.requires_grad
    assert bool(last.x.isfinite().all()) and torch.is_grad_enabled() == grad
    *_, plain = WALKS[walk](PLANE)
    assert not torch.equal(last.x, plain.x)
    if kind in ("thresholded", "all") and walk in ("DDIM", "ancestral", "eta ½", "annealed"):
        assert float(last.x.abs().max()) <= 1


@pytest.mark.parametrize("kind", ["classifier-free", "classifier", "both", "cold"])
def test_a_guided_chain_encodes_and_decodes(kind: str) -> None:
    """Inversion under guidance is the inverse of decoding under the same guidance, and no other."""
    guide, times, y = nested(kind), list(range(20, -1, -1)), Y
    start = 0.5 * X
    decoded = draw(guide, PROCESS, start, times, eta=0.0, y=y)
    *_, back = ddim_invert(guide, PROCESS, decoded, times, y=y, refine=25)
    torch.testing.assert_close(back.x, start, rtol=0, atol=1e-8)
    *_, other = ddim_invert(PLANE, PROCESS, decoded, times, y=y, refine=25)
    assert float((other.x - start).abs().max()) > 0.01


def test_strong_guidance_finds_the_class_and_loses_its_breadth() -> None:
    """Low temperature: more of the samples are of the class, and they lie closer together."""
    process, n = DDPM(schedules.cosine(60)), 3000
    exact = classes(2, process=process)
    y = torch.full((n,), 2)
    sure, spread = [], []
    for w in (-1.0, 0.0, 1.0, 4.0):
        x = draw(ClassifierFree(exact, w), process, normal(n, 2), y=y, generator=seeded())
        sure.append(float(exact.class_logits(x, 0)[:, 2].mean()))
        spread.append(float(x.var(0).sum()))
    assert sure == sorted(sure) and sure[3] > sure[1] + 0.2
    assert spread[1:] == sorted(spread[1:], reverse=True) and spread[3] < 0.85 * spread[1]


@pytest.mark.parametrize("shape", [(3,), (3, 2), (3, 5, 3), (3, 1, 4, 4), (3, 2, 4, 5, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_every_shape_and_dtype(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = normal(*shape).to(dtype)

    def denoiser(x, t, y):
        return Prediction(0.1 * expand_labels(y, x) * x)

    def expand_labels(y, x):
        return y.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))

    def logits(x, t):
        flat = x.flatten(1) if x.ndim > 1 else x[:, None]
        return torch.stack([flat.sum(1), -flat.sum(1), 0 * flat[:, 0]], 1)

    denoiser.process, denoiser.without = PROCESS, lambda y: torch.full_like(y, 3)
    y = torch.tensor([0, 1, 2])
    guide = ClassifierGuidance(ClassifierFree(denoiser, 2.0), logits, 0.3)
    guide = DynamicThreshold(Temperature(guide, 0.7))
    for t in (7, torch.tensor([3, 7, 9])):
        found = guide(x, t, y).x0
        assert found.shape == shape and found.dtype == dtype and bool(found.isfinite().all())


@pytest.mark.slow
def test_the_shipped_digits_follow_the_weight() -> None:
    """End to end, by the function that draws for measurements: more weight, surer of the class."""
    denoiser, card = zoo.load("digits", device="cpu")
    classifier, _ = zoo.load("digits-classifier", device="cpu")
    y = torch.arange(40) % 10
    sure = {}
    for name, guide in {
        "null": ClassifierFree(denoiser, -1.0),
        "plain": ClassifierFree(denoiser, 0.0),
        "guided": ClassifierFree(denoiser, 2.0),
        "thresholded": DynamicThreshold(ClassifierFree(denoiser, 2.0)),
        "classifier": ClassifierGuidance(denoiser, lambda x, t: classifier(x), 1.0),
    }.items():
        x0 = evaluation.generate(guide, card.image_shape, y, evaluation.Sampling(steps=8))
        _, logits = features.extract(classifier, x0)
        sure[name] = float(logits.log_softmax(1)[torch.arange(40), y].mean())
    assert sure["null"] < sure["plain"] - 1 and sure["plain"] < sure["guided"]
    assert sure["plain"] < sure["thresholded"] and sure["plain"] != sure["classifier"]
    plain, same = (
        evaluation.generate(d, card.image_shape, y[:9], evaluation.Sampling(steps=3))
        for d in (denoiser, ClassifierFree(denoiser, 0.0))
    )
    assert torch.equal(plain, same)


# ---- bad input ---------------------------------------------------------------------------


def no_process(x, t, y=None):
    return Prediction(x)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: ClassifierFree(no_process, 1.0), "needs a denoiser with a process, and function"),
        (lambda: ClassifierFree(PLANE, math.nan), "w is a finite number.*got nan"),
        (lambda: ClassifierFree(PLANE, math.inf), "w is a finite number.*got inf"),
        (lambda: ClassifierFree(PLANE, "2"), "w is a finite number.*got '2'"),
        (lambda: ClassifierFree(PLANE, torch.ones(2, 3)), "w is a finite number"),
        (lambda: ClassifierFree(PLANE, f64(1, math.nan)), "w is a finite number"),
        (lambda: ClassifierFree(says(X), 1.0), "needs a model with classes and a null label"),
        (
            lambda: ClassifierFree(Denoiser(MLP(2, 8, 1), PROCESS), 1.0),
            "needs a model with classes",
        ),
        (lambda: ClassifierGuidance(PLANE, unasked, None), "strength is a finite number.*None"),
        (lambda: interval(1.0, 5, 4), "need 0 <= low <= high and a finite w, got 5, 4 and 1.0"),
        (lambda: interval(1.0, -1, 4), "need 0 <= low"),
        (lambda: interval(math.nan, 1, 4), "finite w"),
        (lambda: MeanShift(PLANE, unasked, 1.0, [3, 5]), "times must fall"),
        (lambda: StaticThreshold(PLANE, 0.0), "bound must be positive and finite, got 0.0"),
        (lambda: DynamicThreshold(PLANE, 99.5), "quantile is a share .* got 99.5"),
        (lambda: DynamicThreshold(PLANE, math.nan), "quantile is a share"),
        (lambda: Temperature(PLANE, 0.0), "temperature must be positive and finite, got 0.0"),
        (lambda: Temperature(PLANE, math.inf), "temperature must be positive"),
    ],
)
def test_what_cannot_guide_is_refused_at_the_door(make, match: str) -> None:
    with pytest.raises(ValueError, match=match) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "y", "match"),
    [
        (lambda: ClassifierFree(PLANE, 1.0), None, "pulls towards a class: give labels y, or set"),
        (lambda: ClassifierFree(PLANE, f64(1, 2)), Y, "one number per sample"),
        (lambda: ClassifierFree(PLANE, lambda t: math.nan), Y, "a weight is a finite .* t = 20"),
        (lambda: ClassifierFree(PLANE, lambda t: None), Y, "a weight is a finite number"),
        (lambda: bayes(), None, "pulls towards a class: give labels y"),
        (lambda: bayes(), torch.full((6,), 3), "knows the int64 labels 0..2; the null label is"),
        (lambda: bayes(), Y - 1, "knows the int64 labels 0..2"),
        (lambda: bayes(), Y.float(), "knows the int64 labels 0..2"),
        (lambda: bayes(), Y[:2], "one|labels .B,. for B = 6 samples"),
        (
            lambda: ClassifierFree(ClassifierGuidance(PLANE, PLANE.class_logits), 1.0),
            Y,
            "null label is for classifier-free guidance, which belongs inside",
        ),
        (
            lambda: ClassifierGuidance(PLANE, lambda x, t: x.sum(1)),
            Y,
            r"need logits \(B, K\) .* got \(6,\) and \(6,\)",
        ),
        (
            lambda: ClassifierGuidance(PLANE, lambda x, t: x.detach()),
            torch.zeros(6, dtype=torch.int64),
            "answer has no gradient",
        ),
    ],
)
def test_what_does_not_fit_together_is_said(make, y, match: str) -> None:
    with pytest.raises(ValueError, match=match) as caught:
        make()(X, 20, y)
    assert "\n" not in str(caught.value)


def test_a_classifier_of_another_noise_is_refused() -> None:
    class Other(nn.Module):
        process = DDPM(schedules.linear(T))

    for make in (ClassifierGuidance, MeanShift):
        with pytest.raises(ValueError, match="both must see the same x_t"):
            make(PLANE, Other())
    Other.process = DDPM(schedules.cosine(T))
    assert ClassifierGuidance(PLANE, Other()).strength == 1.0


def test_where_nothing_is_left_of_the_data_there_is_nothing_to_divide_by() -> None:
    beta = schedules.cosine(T)
    beta[-1] = 1.0
    process = DDPM(beta)
    exact = classes(2, process=process)
    for guide in (bayes(exact=exact), Temperature(exact, 0.5)):
        with pytest.raises(ValueError, match="at t = 40 nothing is left of the data"):
            guide(X, T, Y)
    shifted = MeanShift(exact, exact.class_logits)(X, T, Y).x0  # divides by √ᾱ_s instead
    assert bool(shifted.isfinite().all())


# ---- small things that would go wrong unnoticed ------------------------------------------------


def test_the_gradient_is_that_of_the_log_probability_whatever_the_logits_share():
    def shifted(x: Tensor, t: Tensor) -> Tensor:
        return PLANE.class_logits(x, t) + 7 * x.square().sum(1, keepdim=True)

    plain = guidance.class_gradient(PLANE.class_logits, X, 20, Y)
    torch.testing.assert_close(guidance.class_gradient(shifted, X, 20, Y), plain)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda d: Temperature(d, 0.5),
        DynamicThreshold,
        StaticThreshold,
        lambda d: ClassifierGuidance(d, PLANE.class_logits, 2.0),
        lambda d: ClassifierFree(d, 2.0),
    ],
)
def test_every_wrapper_passes_the_variance_on(wrap):
    assert wrap(FixedVariance(PLANE, 0.3))(X, 20, Y).var_mix == 0.3


def test_what_is_no_classifier_or_knows_no_class_is_refused():
    logits = PLANE.class_logits
    with pytest.raises(ValueError, match="a classifier is a function"):
        ClassifierGuidance(PLANE, None)
    with pytest.raises(ValueError, match="needs a model with classes"):
        ClassifierFree(PLANE.given(0), 1.0)
    for answer, sentence in (
        (lambda x, t: [1.0, 2.0], "answers logits"),
        (lambda x, t: torch.zeros(len(x), 3, requires_grad=True), "does not depend on x_t"),
    ):
        with pytest.raises(ValueError, match=sentence):
            guidance.class_gradient(answer, X, 20, Y)
    with torch.inference_mode(), pytest.raises(ValueError, match="inference_mode"):
        guidance.class_gradient(logits, X, 20, Y)


def test_a_batch_of_none_is_guided_too():
    denoiser, classifier = (zoo.load(n, "cpu")[0] for n in ("digits", "digits-noisy-classifier"))
    x, y = torch.zeros(0, 1, 8, 8), torch.zeros(0, dtype=torch.int64)
    assert ClassifierGuidance(denoiser, classifier)(x, 500, y).x0.shape == x.shape


def test_a_mean_shift_spares_the_step_to_clean_data_and_no_other_where_indices_count_from_zero():
    process = ZeroBased(DDPM(schedules.cosine(10)))
    exact = oracle.Mixture(
        process, torch.ones(2), torch.tensor([[-1.0], [1.0]]), torch.full((2,), 0.5),
        torch.tensor([0, 1]),
    )  # fmt: skip
    shift = guidance.MeanShift(guidance.Unconditional(exact), exact.class_logits)
    x, y = torch.tensor([[0.1], [0.2]]), torch.tensor([0, 1])
    assert not torch.equal(shift(x, 1, y).x0, exact(x, 1).x0)
    assert torch.equal(shift(x, 0, y).x0, exact(x, 0).x0)
