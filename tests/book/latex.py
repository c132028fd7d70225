r"""Printed formulas, read: LaTeX as it stands on a page becomes claims about numbers.

A formula is read with a vocabulary that gives the printed names their values::

    words = vocabulary({r"\bar\alpha": [1.0, 0.8, 0.5], r"\beta_t": 0.375, "t": 2})
    assert not wrong(r"\beta_t = 1 - \frac{\bar\alpha_t}{\bar\alpha_{t-1}}", words)

A name is any piece of LaTeX, from ``x_t`` to ``\mathrm E[x_0\mid x_t]``; of two that fit, the
longer is meant. Everything else must be arithmetic that this module knows. A token that is neither
raises :class:`Unreadable`: nothing is skipped but spaces, sizes of brackets and full stops.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import integrate

Scope = dict[str, Any]
Node = Callable[[Scope], Any]
Claim = tuple[str, Node, str, Node, int | None]


class Unreadable(ValueError):
    """The formula holds something that nobody told the reader about."""


# ---- values that are more than numbers -----------------------------------------------------------


@dataclass(frozen=True)
class Normal:
    """A normal distribution as a value: N(mean, cov)."""

    mean: Any
    cov: Any

    def density(self, x: Any) -> float:
        """Of a number, or of a vector with its covariance matrix."""
        gap, cov = x - self.mean, self.cov
        if np.ndim(gap) == np.ndim(cov) == 0:
            return float(np.exp(-(gap**2) / (2 * cov)) / np.sqrt(2 * np.pi * cov))
        gap, cov = np.atleast_1d(gap), np.atleast_2d(cov)
        if len(cov) != len(gap):
            raise Unreadable("a vector needs a covariance matrix")
        square = gap @ np.linalg.solve(cov, gap)
        return float(np.exp(-0.5 * square) / np.sqrt(np.linalg.det(2 * np.pi * cov)))


@dataclass(frozen=True)
class At:
    """A value that depends on other names, on a sum's index say: ``At(lambda v: v("i") ** 2)``."""

    value: Callable[[Callable[[str], Any]], Any]


@dataclass(frozen=True)
class Operator:
    """A function that takes its operand without brackets too: E, tr, log.

    Brackets of the kinds in ``own`` hold its arguments; others belong to the operand, as in
    E (x − y)², which is E of a square. A ``scoped`` one is also told how to look up other names.
    """

    function: Callable[..., Any]
    own: str = "(["
    scoped: bool = False


@dataclass(frozen=True)
class Derivative:
    """A derivative of the operand by a name, ``order`` times, by finite differences."""

    name: str
    order: int = 1
    step: float = 0.02


LOOSE = "["
DIFFERENCES = {  # of eighth order, per power of the step
    1: (1 / 280, -4 / 105, 1 / 5, -4 / 5, 0, 4 / 5, -1 / 5, 4 / 105, -1 / 280),
    2: (-1 / 560, 8 / 315, -1 / 5, 8 / 5, -205 / 72, 8 / 5, -1 / 5, 8 / 315, -1 / 560),
}


# ---- tokens --------------------------------------------------------------------------------------

TOKEN = re.compile(r"\\(?:[A-Za-z]+|.)|\d+(?:\.\d+)?|.", re.DOTALL)
NAMED = re.compile(
    r"\\(operatorname|mathrm|mathbb|mathcal|text)(?![A-Za-z])\s*(?:\{([^{}]*)\}|([A-Za-z]))"
)
CALLIGRAPHIC = {"operatorname": "", "mathrm": "", "mathbb": "", "mathcal": "cal:"}
SPACES = {r"\,", r"\;", r"\!", r"\:", "~", "&", r"\left", r"\right", r"\textstyle", r"\limits"}
SPACES |= {rf"\{size}{side}" for size in ("big", "Big", "bigg", "Bigg") for side in ("", "l", "r")}
SAME = {r"\Vert": r"\|", r"\tfrac": r"\frac", r"\dfrac": r"\frac", r"\bigm": "", "*": r"\ast"}


@lru_cache(maxsize=100_000)
def tokens(latex: str) -> tuple[str, ...]:
    """The tokens of a formula without spaces, sizes, superfluous braces and its number."""
    latex = re.sub(r"\\tag\{[^}]*\}|\\(begin|end)\{[^}]*\}|\$", "", latex)
    found = []
    for token in _raw(latex):
        token = SAME.get(token, token)
        if token and not token.isspace() and not token[1:].isspace() and token not in SPACES:
            found.append(token)
    return tuple(_joined(_unbraced(found)))


def _raw(latex: str) -> Iterator[str]:
    """Commands, numbers and letters; ``\\mathrm E`` and the like are one token, ``{E}``."""
    place = 0
    while place < len(latex):
        if match := NAMED.match(latex, place):
            kind, name = match[1], "~".join((match[2] or match[3] or "").split())
            if kind == "mathrm" and name == "d":
                yield r"\d"
            else:
                yield f'"{name}"' if kind == "text" else f"{{{CALLIGRAPHIC[kind]}{name}}}"
        else:
            match = TOKEN.match(latex, place)
            assert match
            yield match[0]
        place = match.end()


def _unbraced(found: list[str]) -> list[str]:
    """``x_{t}`` as ``x_t``, ``\\bar{x}`` as ``\\bar x``; ``{12}`` keeps its braces."""
    out: list[str] = []
    for token in found:
        out.append(token)
        if token == "}" and len(out) > 2 and out[-3] == "{" and not _long(out[-2]):
            out[-3:] = [out[-2]]
        elif out[-2:] == ["{", "}"]:
            del out[-2:]
    return out


def _long(token: str) -> bool:
    return token in "{}" or (token[0].isdigit() and len(token) > 1)


def _joined(found: list[str]) -> Iterator[str]:
    """Without the line breaks inside a claim, which goes on with a sign or a relation."""
    for token, following in itertools.pairwise([*found, ""]):
        if token == ":" and following == "=":
            continue
        if not (token == r"\\" and following in RELATIONS | {"+", "-"}):
            yield token


RELATIONS = {"=", r"\le", r"\ge", "<", ">", r"\ne", r"\approx", r"\sim"}
RELATIONS |= {r"\leftarrow", r"\propto"}
SEPARATORS = {",", ";", ".", r"\qquad", r"\quad", r"\\"}
SEPARATORS |= {r"\Longrightarrow", r"\Longleftrightarrow", r"\iff"}
CLOSERS = {":", ")", "]", "}", r"\}", r"\rVert", r"\|", r"\mid", "|", "+", "-", "/", "^", "_", "'"}
CONNECTING = {
    '"' + words.replace(" ", "~") + '"'
    for words in (
        "with", "that is", "and", "at", "for every", "for every set of", "samples.",
        "which settles at", "DDIM:", "ancestral:", "tilted:", "Markov", "for some",
    )
}  # fmt: skip


# ---- the vocabulary ------------------------------------------------------------------------------


def vocabulary(*parts: Mapping[str, Any]) -> Scope:
    """Names as they are printed → values; a later part goes over an earlier one."""
    words = {" ".join(tokens(name)): plain(value) for part in parts for name, value in part.items()}
    return {**BASE, **words}


def plain(value: Any) -> Any:
    """Tensors as arrays, arrays without dimensions as numbers."""
    if hasattr(value, "detach"):
        value = value.detach().double().numpy()
    if isinstance(value, np.ndarray) and value.ndim == 0:
        return value.item()
    return value


def look_up(scope: Scope, name: str) -> Any:
    """The value of a name as it is printed, worked out if it depends on others."""
    return _value(scope, " ".join(tokens(name)))


def _value(scope: Scope, words: str) -> Any:
    if words not in scope:
        raise Unreadable(f"nothing is called {words}")
    value = scope[words]
    return plain(value.value(lambda name: look_up(scope, name))) if isinstance(value, At) else value


# ---- arithmetic ----------------------------------------------------------------------------------


def times(a: Any, b: Any) -> Any:
    """A matrix times a matrix or a vector as matrices multiply, everything else by elements."""
    if isinstance(a, Normal) or isinstance(b, Normal):
        raise Unreadable("distributions are not multiplied")
    return a @ b if np.ndim(a) == 2 and np.ndim(b) in (1, 2) else a * b


def power(a: Any, p: Any) -> Any:
    """Powers of numbers by elements, of symmetric matrices by their eigenvalues."""
    if np.ndim(a) == 2:
        if a.shape[0] != a.shape[1]:
            raise Unreadable("a matrix that is not square has no powers")
        values, vectors = np.linalg.eig(a)
        return np.real((vectors * values.astype(complex) ** p) @ np.linalg.inv(vectors))
    return np.float64(a) ** p if np.ndim(a) == 0 else a**p


def norm(a: Any) -> Any:
    """Length along the last axis."""
    return np.sqrt(np.sum(np.square(a), axis=-1)) if np.ndim(a) else abs(a)


def at(table: Any, index: Any) -> Any:
    """An entry of a table, with whole numbers that lie in it."""
    index = tuple(index)
    for i, size in zip(index, np.shape(table), strict=False):
        if not np.isclose(i, round(float(i))) or not 0 <= i < size:
            raise Unreadable(f"no entry {i} in a table of {size}")
    return plain(np.asarray(table)[tuple(round(float(i)) for i in index)])


BASE: Scope = {
    r"\pi": np.pi,
    r"\infty": np.inf,
    "e": np.e,
    r"\log": Operator(np.log),
    r"\ln": Operator(np.log),
    r"\exp": Operator(np.exp),
    r"\sin": Operator(np.sin),
    r"\cos": Operator(np.cos),
    r"\tan": Operator(np.tan),
    r"\cosh": Operator(np.cosh),
    "{tr}": Operator(np.trace, LOOSE),
}


# ---- the reader ----------------------------------------------------------------------------------


class Reader:
    """One formula's tokens, and how far they are read.

    A grammar method reads what its name says and returns a function of the scope, so that a body
    can be worked out again for each index of a sum.
    """

    def __init__(self, found: Sequence[str], scope: Scope) -> None:
        self.found, self.scope, self.place = list(found), scope, 0
        self.walls: set[int] = set()
        self.claims: list[Claim] = []
        self.names: dict[str, list[tuple[str, ...]]] = {}
        for name in scope:
            self._know(name)

    # Tokens

    @property
    def token(self) -> str:
        return self.found[self.place] if self.place < len(self.found) else ""

    def take(self, expected: str = "") -> str:
        token = self.token
        if not token or (expected and token != expected):
            raise Unreadable(f"expected {expected or 'more'} before: {self._rest()}")
        self.place += 1
        return token

    def skip(self, *wanted: str) -> bool:
        if self.token and self.token in wanted:
            self.place += 1
            return True
        return False

    def _rest(self) -> str:
        return " ".join(self.found[self.place :]) or "the end"

    def _know(self, name: str) -> None:
        words = tuple(name.split(" "))
        rest = self.names.setdefault(words[0], [])
        if words not in rest:
            rest.append(words)
            rest.sort(key=len, reverse=True)

    def _name(self) -> str | None:
        """The longest name that stands here."""
        for words in self.names.get(self.token, ()):
            if tuple(self.found[self.place : self.place + len(words)]) == words:
                return " ".join(words)
        return None

    def group(self) -> list[str]:
        """The tokens of the group or the one token that stands here."""
        if self.token != "{":
            token = self.take()
            if token[0].isdigit() and len(token) > 1:  # \frac12 is one half
                self.place -= 1
                self.found[self.place : self.place + 1] = [token[0], token[1:]]
                return [self.take()]
            return [token]
        start, depth = self.place + 1, 0
        while True:
            depth += {"{": 1, "}": -1}.get(self.take(), 0)
            if not depth:
                return self.found[start : self.place - 1]

    # Claims

    def formula(self) -> list[Claim]:
        """Everything that the formula says, claim by claim."""
        while self.token:
            if not self.skip(*SEPARATORS) and not self._connecting():
                self.chain()
        return self.claims

    def _connecting(self) -> bool:
        return self._name() is None and self.skip(*CONNECTING)

    def chain(self) -> None:
        """a = b ≤ c, or a remark: a label with its value, or a condition that is met."""
        start = self.place
        label = self._label()
        left = self.expression()
        if label:
            self._claim(start, label, "=", left, None)
        elif self.token not in RELATIONS:
            self._claim(start, left, "true", left, None)
        names = [self._text(start)]
        while self.token in RELATIONS:
            relation, begin = self.take(), self.place
            right = self.expression()
            names.append(self._text(begin))
            self._claim(start, left, relation, right, self._digits(begin))
            self._range_claim(*names[-2:], relation, left, right)
            left = right

    def _text(self, start: int) -> str:
        return " ".join(self.found[start : self.place])

    def _range_claim(self, a: str, b: str, relation: str, left: Node, right: Node) -> None:
        """x < 1 says that 1 is where the range of x ends, if the vocabulary knows its range."""
        if relation in (r"\le", "<"):
            low, high = self.scope.get(f"{b} \\in"), self.scope.get(f"{a} \\in")
            if isinstance(low, tuple):
                self.claims.append((f"{b} from {a}", left, "=", lambda scope: low[0], None))
            if isinstance(high, tuple):
                self.claims.append((f"{a} to {b}", right, "=", lambda scope: high[1], None))

    def _label(self) -> Node | None:
        """A text of the vocabulary in front of an expression stands for its equals sign."""
        name = self._name()
        if not name or not name.startswith('"') or name.count('"') != 2:
            return None
        following = self.place + len(name.split(" "))
        while following < len(self.found) and self.found[following] in (r"\quad", r"\qquad"):
            following += 1
        if following >= len(self.found) or self.found[following] in RELATIONS | {"+", "-"}:
            return None
        self.place = following
        return lambda scope: _value(scope, name)

    def _digits(self, begin: int) -> int | None:
        """How many decimals a bare number has."""
        number = self.found[begin : self.place]
        bare = len(number) == 1 and number[0][0].isdigit()
        return len(number[0].partition(".")[2]) if bare else None

    def _claim(
        self, start: int, left: Node, relation: str, right: Node, digits: int | None
    ) -> None:
        self.claims.append((self._text(start), left, relation, right, digits))

    # Sums, products and factors

    def expression(self) -> Node:
        sign = -1 if self.token == "-" else 1
        self.skip("+", "-")
        terms = [(sign, self.term())]
        while self.token in ("+", "-") and self.place not in self.walls:
            sign = -1 if self.take() == "-" else 1
            terms.append((sign, self.term()))

        def value(scope: Scope) -> Any:
            total = terms[0][1](scope)
            if terms[0][0] < 0:
                total = -total
            for sign, term in terms[1:]:
                total = total + term(scope) if sign > 0 else total - term(scope)
            return total

        return value

    def term(self) -> Node:
        factors = [(times, self.factor())]
        while True:
            if self.skip("/"):
                factors.append((np.divide, self.factor()))
            elif self.skip(r"\cdot"):
                factors.append((times, self.factor()))
            elif self.skip(r"\odot"):
                factors.append((np.multiply, self.factor()))
            elif self._starts():
                factors.append((times, self.factor()))
            else:
                break

        def value(scope: Scope) -> Any:
            product = factors[0][1](scope)
            for how, factor in factors[1:]:
                product = how(product, factor(scope))
            return product

        return value

    def _starts(self) -> bool:
        """Whether a factor stands here."""
        token = self.token
        if not token or self.place in self.walls:
            return False
        if self._name() is not None:
            return True
        return token not in RELATIONS | SEPARATORS | CLOSERS and token not in CONNECTING

    def factor(self) -> Node:
        """An atom with its indices, its arguments and its power."""
        name = self._name()
        if name is None:
            return self.powers(self.atom())
        value = self.scope.get(name)
        self.place += len(name.split(" "))
        if isinstance(value, Operator):
            return self.powers(self.operator(value))
        if isinstance(value, Derivative):
            return self.derivative(value)
        if callable(value):
            function, arguments = value, self.arguments()
            return self.powers(lambda scope: plain(function(*[a(scope) for a in arguments])))
        return self.powers(lambda scope: _value(scope, name))

    def powers(self, node: Node) -> Node:
        while self.token in ("_", "^") and self.place not in self.walls:
            node = self.index(node) if self.take() == "_" else self.exponent(node)
        return node

    def index(self, table: Node) -> Node:
        indices = self.inside(self.group()).list_of_expressions()
        return lambda scope: at(table(scope), [i(scope) for i in indices])

    def exponent(self, node: Node) -> Node:
        group = self.group()
        if group == [r"\top"]:
            return lambda scope: np.transpose(node(scope))
        exponent = self.inside(group).whole()
        return lambda scope: power(node(scope), exponent(scope))

    def inside(self, found: Sequence[str]) -> Reader:
        return self.with_names(Reader(found, self.scope))

    def with_names(self, reader: Reader) -> Reader:
        reader.names, reader.claims = self.names, self.claims
        return reader

    def whole(self) -> Node:
        """An expression that must be all there is."""
        node = self.expression()
        if self.token:
            raise Unreadable(f"cannot read: {self._rest()}")
        return node

    def list_of_expressions(self) -> list[Node]:
        nodes = [self.expression()]
        while self.skip(",", ";", r"\mid", r"\|", "|"):
            nodes.append(self.expression())
        if self.token:
            raise Unreadable(f"cannot read: {self._rest()}")
        return nodes

    def bracket(self) -> list[str]:
        """The tokens between the bracket here and the one that closes it."""
        pairs = {"(": ")", "[": "]", r"\{": r"\}", r"\lVert": r"\rVert"}
        opener, start, depth = self.take(), self.place, 1
        while depth:
            token = self.take()
            depth += (token == opener) - (token == pairs[opener])
        return self.found[start : self.place - 1]

    def arguments(self) -> list[Node]:
        if self.token not in ("(", "["):
            raise Unreadable(f"a function without arguments before: {self._rest()}")
        return self.inside(self.bracket()).list_of_expressions()

    def operator(self, operator: Operator) -> Node:
        exponent = None
        if self.token == "^":  # cos² x
            self.take()
            exponent = self.inside(self.group()).whole()
        own = bool(self.token) and self.token in operator.own
        operands = self.arguments() if own else [self.factor()]

        def value(scope: Scope) -> Any:
            told = [lambda name: look_up(scope, name)] if operator.scoped else []
            result = plain(operator.function(*told, *[operand(scope) for operand in operands]))
            return result if exponent is None else power(result, exponent(scope))

        return value

    def derivative(self, kind: Derivative) -> Node:
        operand, weights = self.factor(), DIFFERENCES[kind.order]

        def value(scope: Scope) -> Any:
            x, total = scope[kind.name], 0.0
            for k, weight in zip(range(-4, 5), weights, strict=True):
                if weight:
                    total += weight * operand({**scope, kind.name: x + k * kind.step})
            return total / kind.step**kind.order

        return value

    # Atoms

    def atom(self) -> Node:
        token = self.token
        if token and token[0].isdigit():
            number = float(self.take())
            return lambda scope: number
        if token == "(":
            return self.condition_or_value(self.bracket())
        if token == "[":
            return self.inside(self.bracket()).whole()
        if token == "{":
            return self.inside(self.group()).whole()
        if token == r"\lVert":
            inner = self.inside(self.bracket()).whole()
            return lambda scope: norm(inner(scope))
        kinds = {
            "|": self.absolute,
            r"\frac": self.fraction,
            r"\sqrt": self.root,
            r"\underbrace": self.underbrace,
            r"\sum": self.sum_,
            r"\prod": self.sum_,
            r"\int": self.integral,
            r"\#": self.count,
            "{cal:N}": self.normal,
        }
        if token not in kinds:
            raise Unreadable(f"cannot read: {self._rest()}")
        return kinds[token]()

    def condition_or_value(self, found: list[str]) -> Node:
        """(a + b), or (a < b), which is 1 if it is so."""
        reader = self.inside(found)
        left = reader.expression()
        if reader.token not in RELATIONS:
            if reader.token:
                raise Unreadable(f"cannot read: {reader._rest()}")
            return left
        name, relation, begin = reader._text(0), reader.take(), reader.place
        right = reader.whole()
        reader._range_claim(name, reader._text(begin), relation, left, right)
        return lambda scope: float(COMPARE[relation](left(scope), right(scope)))

    def absolute(self) -> Node:
        self.take("|")
        end = self.place
        while self.found[end : end + 1] not in ([], ["|"]):
            end += 1
        inner = self.inside(self.found[self.place : end]).whole()
        self.place = end
        self.take("|")
        return lambda scope: np.abs(inner(scope))

    def fraction(self) -> Node:
        self.take(r"\frac")
        above, below = (self.inside(self.group()).whole() for _ in range(2))
        return lambda scope: np.divide(above(scope), below(scope))

    def root(self) -> Node:
        self.take(r"\sqrt")
        inner = self.inside(self.group()).whole()
        return lambda scope: np.sqrt(inner(scope))

    def underbrace(self) -> Node:
        """What stands above; a name below says the same, a text that is no name is a remark."""
        self.take(r"\underbrace")
        node = self.inside(self.group()).whole()
        self.take("_")
        below = self.group()
        if len(below) > 1 or not below[0].startswith('"') or below[0] in self.scope:
            name = self.inside(below).whole()
            self.claims.append((" ".join(below), name, "=", node, None))
        return node

    def normal(self) -> Node:
        """𝒩(mean, cov) is a distribution, 𝒩(x; mean, cov) its density at x."""
        self.take("{cal:N}")
        found = self.bracket()
        parts = self.inside(found).list_of_expressions()
        if len(parts) == 2 and ";" not in found:
            return lambda scope: Normal(parts[0](scope), parts[1](scope))
        if len(parts) == 3 and found.count(";") == 1:
            return lambda scope: Normal(parts[1](scope), parts[2](scope)).density(parts[0](scope))
        raise Unreadable(f"a normal distribution has a mean and a variance: {' '.join(found)}")

    def count(self) -> Node:
        """#{ j : a ≤ b for some i }."""
        self.take(r"\#")
        reader = self.inside(self.bracket())
        over, colon = reader.take(), reader.take(":")
        assert colon
        for name in list(self.scope):
            if name.endswith(r" \in"):
                reader._know(name.split(" ")[0])
        left, relation, right = reader.expression(), reader.take(), reader.expression()
        some = reader.take() if reader.skip('"for~some"') else None

        def value(scope: Scope) -> Any:
            hits = 0
            for j in self._range(scope, over):
                inner = [{**scope, over: j}]
                if some:
                    inner = [{**scope, over: j, some: i} for i in self._range(scope, some)]
                hits += any(COMPARE[relation](left(one), right(one)) for one in inner)
            return hits

        return value

    # Sums and integrals

    def sum_(self) -> Node:
        combine = np.sum if self.take() == r"\sum" else np.prod
        self.take("_")
        below = self.group()
        above = self.group() if self.skip("^") else None
        names, scopes = self._indices(below, above)
        for name in names:
            self._know(name)
        body = self.term()

        def value(scope: Scope) -> Any:
            return plain(combine([body(inner) for inner in scopes(scope)], axis=0))

        return value

    def _indices(
        self, below: list[str], above: list[str] | None
    ) -> tuple[list[str], Callable[[Scope], Iterator[Scope]]]:
        """The names that a sum runs over, and the scopes in which its body is taken."""
        if above is not None:
            name, equals, *start = below
            if equals != "=":
                raise Unreadable(f"a sum from where? {' '.join(below)}")
            first, last = self.inside(start).whole(), self.inside(above).whole()

            def run(scope: Scope) -> Iterator[Scope]:
                for i in range(round(float(first(scope))), round(float(last(scope))) + 1):
                    yield {**scope, name: i}

            return [name], run
        names = [token for token in below if f"{token} \\in" in self.scope]
        if not names:
            raise Unreadable(f"a sum over what? {' '.join(below)}")
        condition = self._condition(below, names)

        def runs(scope: Scope) -> Iterator[Scope]:
            for values in itertools.product(*(self._range(scope, name) for name in names)):
                inner = {**scope, **dict(zip(names, values, strict=True))}
                if condition(inner):
                    yield inner

        return names, runs

    def _condition(self, below: list[str], names: list[str]) -> Callable[[Scope], bool]:
        """i ≠ j or i ≥ n below a sum; i, j or i alone is no condition."""
        for name in names:
            self._know(name)
        if all(token in (*names, ",") for token in below):
            return lambda scope: True
        reader = self.inside(below)
        left, relation, right = reader.expression(), reader.take(), reader.whole()
        return lambda scope: bool(COMPARE[relation](left(scope), right(scope)))

    @staticmethod
    def _range(scope: Scope, name: str) -> Sequence[Any]:
        if f"{name} \\in" not in scope:
            raise Unreadable(f"what does {name} run over?")
        return scope[f"{name} \\in"]

    def integral(self) -> Node:
        self.take(r"\int")
        ends: list[Node] = []
        for mark in ("_", "^"):
            if self.skip(mark):
                ends.append(self.inside(self.group()).whole())
        wall = self._differential()
        self.walls.add(wall)
        name, after = self._variable(wall)
        self._know(name)
        body = self.term_until(wall)
        self.place = after
        return lambda scope: _integral(body, name, scope, [end(scope) for end in ends])

    def term_until(self, wall: int) -> Node:
        node = self.expression()
        if self.place != wall:
            raise Unreadable(f"cannot read: {self._rest()}")
        return node

    def _differential(self) -> int:
        """Where the dx of this integral stands."""
        depth = 0
        for place in range(self.place, len(self.found)):
            token = self.found[place]
            depth += (token in ("(", "[", "{")) - (token in (")", "]", "}"))
            if token in (r"\d", "d") and depth == 0:
                return place
        raise Unreadable(f"an integral over what? {self._rest()}")

    def _variable(self, wall: int) -> tuple[str, int]:
        end = wall + 2
        if self.found[end : end + 1] == ["_"]:
            grouped = self.found[end + 1] == "{"
            end = self.found.index("}", end) + 1 if grouped else end + 2
        return " ".join(self.found[wall + 1 : end]), end


def _integral(body: Node, name: str, scope: Scope, ends: list[Any]) -> float:
    """By quadrature; without ends over the interval that the vocabulary gives, "x\\in".

    There it may say ``sum``: the body is then an array over all values of a discrete name.
    """
    if not ends and scope.get(f"{name} \\in") is sum:
        return float(np.sum(body(scope)))
    low, high = ends if ends else scope.get(f"{name} \\in", (np.nan, np.nan))
    value, error, *_ = integrate.quad(
        lambda x: body({**scope, name: x}), low, high,
        epsabs=1e-11, epsrel=1e-10, limit=200, full_output=1,
    )  # fmt: skip
    if not error < 1e-6 * (1 + abs(value)):
        raise Unreadable(f"the integral over {name} does not settle")
    return value


# ---- claims --------------------------------------------------------------------------------------

COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    r"\le": lambda a, b: np.all(a <= b + 1e-9 * np.abs(b)),
    r"\ge": lambda a, b: np.all(a >= b - 1e-9 * np.abs(b)),
    "<": lambda a, b: np.all(a < b),
    ">": lambda a, b: np.all(a > b),
    r"\ne": lambda a, b: np.all(a != b),
}


def same(a: Any, b: Any, rtol: float, atol: float = 1e-11) -> bool:
    """Whether two values agree, distributions by mean and covariance."""
    if isinstance(a, Normal) != isinstance(b, Normal):
        return False
    if isinstance(a, Normal):
        return same(a.mean, b.mean, rtol, atol) and same(a.cov, b.cov, rtol, atol)
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    fits = a.ndim == 0 or b.ndim == 0 or a.shape[-1:] == b.shape[-1:]
    return fits and bool(np.isclose(a, b, rtol=rtol, atol=atol).all())


def holds(claim: Claim, scope: Scope, rtol: float, near: float) -> bool:
    """Whether a claim is true in this vocabulary; ``near`` is what ≈ allows.

    A vocabulary with ``\\operatorname{tight}`` is one in which bounds are reached, up to its value.
    """
    _, left, relation, right, digits = claim
    with np.errstate(all="ignore"):
        a = left(scope)
        if relation == "true":
            return same(a, 1.0, rtol)
        b = right(scope)
    if relation == r"\approx":
        if digits is not None:
            return abs(a - b) <= 0.5 * 10.0**-digits
        return same(a, b, near)
    if relation == r"\sim":
        return same(
            a if isinstance(a, Normal) else look_up(scope, r"\operatorname{distribution}")(a),
            b,
            rtol,
        )
    if relation == r"\propto":
        ratio = np.asarray(a) / np.asarray(b)
        return np.ndim(ratio) > 0 and same(ratio, np.full_like(ratio, ratio.flat[0]), rtol)
    if relation in COMPARE:
        tight = scope.get("{tight}")
        return bool(COMPARE[relation](a, b)) and (tight is None or same(a, b, tight))
    return same(a, b, rtol)


def read(latex: str, scope: Scope) -> list[Claim]:
    """The claims of a formula, read with a :func:`vocabulary`."""
    spread = []
    for token in tokens(latex):  # x ← y says that the new x is y
        spread += [token, "="] if token == r"\leftarrow" else [token]
    return Reader(spread, scope).formula()


def wrong(latex: str, scope: Scope, rtol: float = 1e-9, near: float = 1e-3) -> list[str]:
    """The claims of a formula that do not hold, as text."""
    claims = read(latex, scope)
    if not claims:
        raise Unreadable("a formula that claims nothing")
    return [claim[0] for claim in claims if not holds(claim, scope, rtol, near)]
