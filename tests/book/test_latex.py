"""`tests.book.latex`: what is read, how it is meant, and that nothing is skipped."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.book.latex import At, Derivative, Operator, Unreadable, read, tokens, vocabulary, wrong

WORDS = {
    "a": 2.0,
    "b": 3.0,
    "n": 4,
    "x": 0.5,
    "t": 2,
    "f": lambda x: x**2,
    r"\bar\alpha": np.array([1.0, 0.8, 0.5, 0.1]),
    r"\alpha": np.array([1.0, 0.8, 0.625, 0.2]),
    r"\hat x_0": 0.7,
    "C": np.array([[2.0, 1.0], [1.0, 3.0]]),
    "v": np.array([3.0, 4.0]),
    r"\mathbb E": Operator(np.mean, "["),
    "r": np.array([1.0, 2.0, 6.0]),
    r"i\in": range(3),
    "r_i": At(lambda look: [1.0, 2.0, 6.0][look("i")]),
    r"\partial_x": Derivative("x"),
    "w": 0.25,
    r"w\in": (0.0, 1.0),
}

TRUE = [
    r"$$ \frac12 a = 1 \tag{9.9} $$",
    r"\frac a{b} = a/b",
    r"a\,b + \tfrac{1}{2}\,n = 8, \qquad a b^2 = 18.",
    r"-a^2 = -4",
    r"\sqrt{a+2} = a = \sqrt4",
    r"\bar\alpha_{t-1} = 0.8, \quad \bar\alpha_t = \alpha_1\alpha_2",
    r"\log\frac{a}{b} = \log a - \log b",
    r"\cos^2 x + \sin^2 x = 1",
    r"\sum_{i=1}^{n} i^2 = 30",
    r"\prod_{i=1}^n i = 24",
    r"\sum_i r_i = 9, \qquad \sum_{i\ne 1} r_i = 7",
    r"\int_0^a f(u)\,\mathrm du = \frac{8}{3}",
    r"\int_0^\infty e^{-u}\,du = 1",
    r"\lVert v\rVert^2 = 25, \qquad |{-a}| = a",
    r"\operatorname{tr} C = 5, \qquad \operatorname{tr}(C)^2 = 15",
    r"\mathbb E\,r^2 = \frac{41}{3}, \qquad \mathbb E[r]^2 = 9",
    r"\partial_x \sin x = \cos x",
    r"a \approx 2.0 < b \le 3",
    r"\underbrace{a + b}_{\text{both}} = 5, \qquad \underbrace{a+1}_{b} = 3",
    r"\mathcal N(x;\ 0,\ 1) = \frac{1}{\sqrt{2\pi}}\,e^{-x^2/2}",
    r"a (a < b) = 2",
    r"0 \le w \le 1",
    r"\begin{align*} a &= 2 \\ &= b - 1, \\ b &= 3 \end{align*}",
]

FALSE = [
    r"\frac12 b = 1",
    r"a = 2 = b",
    r"\bar\alpha_{t-1} = \bar\alpha_t",
    r"a \approx 2.1",
    r"b < a",
    r"a (b < a) = 2",
    r"0 \le w \le 2",
    r"\underbrace{a+2}_{b} = 4",
    r"a = 2, \qquad b = 2",
]

UNREADABLE = [
    r"a = y",
    r"a = 2 \heartsuit",
    r"\alpha_{t+2} = 1",
    r"a = f",
    r"\sum_j r_j = 9",
    r"\tilde\alpha_t = a",
    r"a = (b - 1",
    r"a : b",
    r"\text{so to speak } a = 2",
    r"\underbrace{a}_{\text{two of } a} = 2",
    r"\int_0^1 f(u)",
    "",
]


@pytest.mark.parametrize("tex", TRUE)
def test_what_is_true_is_found_so(tex: str) -> None:
    assert not wrong(tex, vocabulary(WORDS))


@pytest.mark.parametrize("tex", FALSE)
def test_what_is_false_is_found_so(tex: str) -> None:
    assert wrong(tex, vocabulary(WORDS))


@pytest.mark.parametrize("tex", UNREADABLE)
def test_what_nobody_explained_is_not_skipped(tex: str) -> None:
    with pytest.raises(Unreadable):
        wrong(tex, vocabulary(WORDS))


def test_of_two_names_that_fit_the_longer_is_meant() -> None:
    words = vocabulary(WORDS, {r"\bar\alpha_t": 7.0, r"\mathrm E[x\mid t]": 9.0})
    assert not wrong(
        r"\bar\alpha_t = 7, \quad \bar\alpha_1 = 0.8, \quad \mathrm E[x\mid t] = 9", words
    )


def test_spaces_sizes_and_single_braces_say_nothing() -> None:
    assert tokens(r"\left(\bar{\alpha}_{t}\,\right)") == tokens(r"\big( \bar\alpha_t \big)")
    assert tokens("x_{12}") != tokens("x_12")


def test_every_member_of_a_chain_is_a_claim() -> None:
    assert [claim[2] for claim in read(r"a = 2 \le b, \quad b = 3", vocabulary(WORDS))] == [
        "=", r"\le", "=",
    ]  # fmt: skip


def test_a_name_may_depend_on_others() -> None:
    words = vocabulary(WORDS, {"y": At(lambda look: 2 * look("x"))})
    assert not wrong(rf"y = 1, \qquad \partial_x y^2 = 4, \qquad {math.pi:.15f} = \pi", words)
