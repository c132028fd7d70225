"""The mathematics of the live pages, run by Node and held against ddpmlib on random inputs."""

from __future__ import annotations

import json
import shutil
import subprocess
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from ddpmlib import data
from ddpmlib.denoiser import oracle
from ddpmlib.guidance import ClassifierFree
from ddpmlib.prediction import Prediction
from ddpmlib.process import DDPM, schedules
from ddpmlib.samplers import draw, uniform_times
from scripts import playground

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="Node.js is not installed")

PROGRAM = """
const D = require(process.argv[1] + "/diffusion.js");
require(process.argv[1] + "/mixtures.js");
const plain = (_, value) => ArrayBuffer.isView(value) ? Array.from(value) : value;
const given = JSON.parse(require("fs").readFileSync(0, "utf8"));
const answer = new Function("D", ...Object.keys(given), "return " + process.argv[2]);
console.log(JSON.stringify(answer(D, ...Object.values(given)), plain));
"""
N, T = 40, 200


def js(expression: str, **given: Any) -> Any:
    """The value of a JavaScript expression over `D` (diffusion.js) and the given names."""
    numbers = {k: v.tolist() if isinstance(v, Tensor) else v for k, v in given.items()}
    command = [str(NODE), "-e", PROGRAM, str(playground.FOLDER), expression]
    done = subprocess.run(command, input=json.dumps(numbers), capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def close(answer: Any, expected: Tensor) -> None:
    found = torch.tensor(answer, dtype=torch.float64).reshape(expected.shape)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


class Case:
    """A random mixture with three classes under a random schedule, and points near and far."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        table = [schedules.linear, schedules.cosine, schedules.sigmoid][seed % 3](T)
        self.process = DDPM(table)
        weights, stds = self.uniform(7) + 0.1, 0.7 * self.uniform(7) + 0.05
        means, labels = 2 * self.normal(7, 2), torch.tensor([0, 1, 2, 0, 1, 2, 0])
        self.mixture = oracle.Mixture(self.process, weights, means, stds, labels)
        self.x = 3 * self.normal(N, 2)
        self.y = torch.randint(0, 4, (N,), generator=self.generator)  # 3 is the null label
        parts = {"weights": weights, "means": means, "stds": stds, "labels": labels}
        self.given = {"beta": table, "parts": {k: v.tolist() for k, v in parts.items()}}
        self.given |= {"x": self.x.flatten(), "y": torch.where(self.y == 3, -1, self.y)}

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.generator, dtype=torch.float64)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64)

    def js(self, expression: str, **given: Any) -> Any:
        """As :func:`js`, with `P` and `M`, the process and the mixture, and x and y."""
        bound = f"((P, M) => {expression})(D.process(beta), D.mixture(parts))"
        return js(bound, **(self.given | given))


@pytest.fixture(params=range(3))
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


TIMES = [1, 7, 100, T]


@pytest.mark.parametrize("T", [21, 1000])
@pytest.mark.parametrize("name", ["linear", "cosine", "sigmoid"])
@pytest.mark.slow
def test_schedules(name: str, T: int) -> None:
    process = DDPM(getattr(schedules, name)(T))
    beta, alpha_bar = js(f"(b => [b, D.process(b).alphaBar])(D.schedules.{name}(T))", T=T)
    close(beta, process.beta)
    found = torch.tensor(alpha_bar, dtype=torch.float64)
    torch.testing.assert_close(found, process.alpha_bar, rtol=1e-9, atol=0)


def test_times_are_rounded_as_python_does() -> None:
    pairs = [(T, steps) for T in (8, 10, 1000) for steps in range(1, min(T, 300) + 1)]
    assert (1000, 16) in pairs  # 1000 / 16 = 62.5: Python rounds halves to even
    expected = [uniform_times(*pair) for pair in pairs]
    assert js("pairs.map(([T, steps]) => D.uniformTimes(T, steps))", pairs=pairs) == expected


def test_exact_predictions(case: Case) -> None:
    answers = case.js("ts.map(t => [D.denoise(P, M, x, t), D.denoise(P, M, x, t, y)])", ts=TIMES)
    for t, (plain, conditional) in zip(TIMES, answers, strict=True):
        close(plain, case.mixture(case.x, t).x0)
        close(conditional, case.mixture(case.x, t, case.y).x0)


def test_guidance(case: Case) -> None:
    weights = [-1.0, 0.5, 4.0]
    answers = case.js("ws.map(w => D.denoise(P, M, x, 60, y, w))", ws=weights)
    for w, answer in zip(weights, answers, strict=True):
        close(answer, ClassifierFree(case.mixture, w)(case.x, 60, case.y).x0)


def test_density_and_score(case: Case) -> None:
    expression = """ts.map(t => [D.logDensity(P, M, x, t), D.logDensity(P, M, x, t, 1),
        D.score(P, M, x, t), D.score(P, M, x, t, x.map(() => 1), 2.5)])"""
    everything, one = case.mixture, case.mixture.given(1)
    for t, answers in zip([0, *TIMES], case.js(expression, ts=[0, *TIMES]), strict=True):
        score = everything.score(case.x, t)
        close(answers[0], everything.log_prob(case.x, t))
        close(answers[1], one.log_prob(case.x, t))
        close(answers[2], score)
        close(answers[3], 3.5 * one.score(case.x, t) - 2.5 * score)


def test_likely_class(case: Case) -> None:
    answers = case.js("ts.map(t => D.likelyClass(P, M, x, t))", ts=[0, *TIMES])
    for t, answer in zip([0, *TIMES], answers, strict=True):
        assert answer == case.mixture.class_logits(case.x, t).argmax(1).tolist()
    assert len(set(answers[0])) > 1


def test_one_step(case: Case) -> None:
    x0, noise = case.normal(N, 2), case.normal(N, 2)
    steps = [(t, s, e) for t, s in [(T, 199), (150, 30), (9, 0), (1, 0)] for e in (0.0, 0.3, 1.0)]
    expression = "steps.map(([t, s, eta]) => D.step(P, x, x0, t, s, eta, noise))"
    answers = case.js(expression, x0=x0.flatten(), noise=noise.flatten(), steps=steps)
    for (t, s, eta), answer in zip(steps, answers, strict=True):
        close(answer, case.process.step(case.x, Prediction(x0), t, s, eta, noise))


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_a_whole_chain(case: Case, eta: float) -> None:
    """The same noise through ddpmlib's step and its guided oracle ends at the same points."""
    steps, w = 12, 1.5
    expression = """(c => [c.times, c.state(c.steps)])(D.chain({
        proc: P, mix: M, times: D.uniformTimes(P.T, steps), labels: y, w, eta, seed: 3}))"""
    times, end = case.js(expression, steps=steps, w=w, eta=eta)
    assert times == uniform_times(T, steps)
    x, *noises = normals(3, steps)
    guided = ClassifierFree(case.mixture, w)
    for (t, s), noise in zip(pairwise(times), [*noises, noises[0]], strict=True):
        x = case.process.step(x, guided(x, t, case.y), t, s, eta, noise)
    close(end, x)


def normals(seed: int, n: int) -> Tensor:
    """What the seeded generator gives in n draws of N points."""
    expression = "(g => Array.from({length: n}, () => g.normals(size)))(D.random(seed))"
    drawn = js(expression, seed=seed, n=n, size=2 * N)
    return torch.tensor(drawn, dtype=torch.float64).reshape(n, N, 2)


def test_random_numbers_are_fair_and_seeded() -> None:
    one, again, other = (
        np.array(js("(g => [g.uniform(), ...g.normals(4001)])(D.random(seed))", seed=seed))[1:]
        for seed in (5, 5, 6)
    )
    assert (one == again).all() and abs(np.corrcoef(one, other)[0, 1]) < 0.06
    assert stats.kstest(one, "norm").pvalue > 0.01
    uniform = js("(g => Array.from({length: 4000}, () => g.uniform()))(D.random(5))")
    assert stats.kstest(uniform, "uniform").pvalue > 0.01 and 0 <= min(uniform) < max(uniform) < 1


def test_data_are_drawn_from_the_components_of_their_label(case: Case) -> None:
    n, labels = 6000, [-1, 0, 1, 2]
    for label in labels:
        drawn = case.js("D.draw(M, Array(n).fill(label), D.random(1))", n=n, label=label)
        x = torch.tensor(drawn, dtype=torch.float64).reshape(n, 2)
        mixture = case.mixture if label < 0 else case.mixture.given(label)
        share = mixture.log_weights.exp()[:, None]
        mean = (share * mixture.means).sum(0)
        variance = (share * (mixture.variances[:, None] + (mixture.means - mean) ** 2)).sum(0)
        assert ((x.mean(0) - mean).abs() < 4 * (variance / n).sqrt()).all()
        torch.testing.assert_close(x.var(0), variance, rtol=0.1, atol=0)


def test_sliced_distance_and_spread() -> None:
    """A shift by v moves every shadow by its part of v; over the directions that is |v|²/2."""
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moved = x[torch.randperm(50, generator=torch.Generator().manual_seed(1))] + torch.tensor([3, 4])
    distance = js("D.slicedDistance(a, b)", a=x.flatten(), b=moved.flatten())
    assert distance == pytest.approx(5 / 2**0.5, rel=1e-12)
    labels = torch.arange(50) % 3
    centred = torch.cat([x[labels == c] - x[labels == c].mean(0) for c in range(3)])
    spread = js("D.spread(x, y)", x=x.flatten(), y=labels)
    assert spread == pytest.approx(float(centred.pow(2).sum(1).mean().sqrt()), rel=1e-12)


# ---- the data sets -----------------------------------------------------------------------------


def test_mixtures_are_those_of_the_script() -> None:
    assert (playground.FOLDER / "mixtures.js").read_text("utf-8") == playground.script()
    assert js("D.mixtures") == playground.mixtures()


SETS = {
    "ring": lambda n: data.ring(n, modes=6, noise=0.2),
    "moons": lambda n: data.moons(n, noise=0.08),
    "spiral": lambda n: data.spiral(n, noise=0.09),
    "checkerboard": data.checkerboard,
}


@pytest.mark.parametrize("name", SETS)
def test_a_mixture_stands_for_its_data_set(name: str) -> None:
    """The mixture gives fresh points of the data set as much density as it gives its own."""
    torch.manual_seed(0)
    mixture, points = playground.exact(name), SETS[name](4000).double()
    own = mixture.draw(4000, generator=torch.Generator().manual_seed(1))
    gap = mixture.log_prob(own, 0).mean() - mixture.log_prob(points, 0).mean()
    assert abs(float(gap)) < 0.2
    assert (own.mean(0) - points.mean(0)).norm() < 0.1 and (
        own.std(0) - points.std(0)
    ).norm() < 0.06


def test_the_clouds_are_those_of_chapter_11() -> None:
    mixture = playground.exact("clouds")
    assert mixture.means.norm(dim=1).allclose(torch.tensor(0.6).double(), atol=1e-4)
    assert mixture.variances.allclose(torch.tensor(0.45).double() ** 2)
    drawn = draw(mixture, mixture.process, torch.zeros(3, 2).double(), [1000, 0], y=torch.arange(3))
    torch.testing.assert_close(drawn, mixture.means, atol=1e-4, rtol=0)
