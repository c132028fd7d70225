"""Slips of the pen in a printed formula, one at a time: each must turn its test red."""

from __future__ import annotations

import re
from collections.abc import Iterator

# What a slip looks for, and what it leaves.
SLIPS = {
    "+ for −": (r"-", "+"),
    "− for +": (r"\+", "-"),
    "no bar": (r"\\bar(?![A-Za-z])", ""),
    "no tilde": (r"\\tilde(?![A-Za-z])", ""),
    "no hat": (r"\\hat(?![A-Za-z])", ""),
    "no root": (r"\\sqrt(?![A-Za-z])", ""),
    "no logarithm": (r"\\(log|ln)(?![A-Za-z])", ""),
    "no exponential": (r"\\exp(?![A-Za-z])", ""),
    "no square": (r"\^2(?![0-9])", ""),
    "no exponent": (r"\^(?!2|\\top)(\{[^{}]*\}|\w)", ""),
    "no half": (r"\\t?frac12(?![0-9])", ""),
    "t for t − 1": (r"(?<=[{(])t-1(?=[})])", "t"),
    "s for t": (r"(?<=_)t(?![A-Za-z])", "s"),
    "t for s": (r"(?<=_)s(?![A-Za-z])", "t"),
    "t for T": (r"(?<=_)T(?![A-Za-z])", "t"),
    "j for i": (r"(?<=_)i(?![A-Za-z])", "j"),
    "β for α": (r"\\alpha(?![A-Za-z])", r"\\beta"),
    "α for β": (r"\\beta(?![A-Za-z])", r"\\alpha"),
    "cos for sin": (r"\\sin(?![A-Za-z])", r"\\cos"),
    "sin for cos": (r"\\cos(?![A-Za-z])", r"\\sin"),
    "≥ for ≤": (r"\\le(?![A-Za-z])", r"\\ge"),
    "≤ for ≥": (r"\\ge(?![A-Za-z])", r"\\le"),
    "> for <": (r"<", ">"),
    "times for over": (r"(?<!\\)/", " "),
    "twice": (r"(?<![A-Za-z])=(?!\{\})", "=2"),
}
DIGIT = re.compile(r"\d")
FRACTION = re.compile(r"\\[td]?frac\s*(?=\{)")
WORDS = re.compile(r"\\(tag|text|begin|end|operatorname|mathrm|mathbb|mathcal)\s*\{[^}]*\}")

# Slips that leave a true formula: tag → slip → why.
HARMLESS = {
    "1.2": {"s for t, 5": "all ε_t have one distribution"},
    "1.4": {"− for +, 1": "ε' and −ε' have one distribution"},
    "1.6": {"no bar, 6": "ε_t and ε̄_t have one distribution"},
    "5.16": dict.fromkeys(("no bar, 4", "no bar, 5"), "ᾱ_1 = α_1"),
    "7.14": {"− for +, 1": "b and −b have one distribution"},
    "7.16": {"2 for 1, 5": "a correlation that is below 1 is below 2"},
    "8.14": {"− for +, 2": "a remainder O(…) has no sign"},
    "8.15": {"− for +, 4": "a remainder O(…) has no sign"},
    "9.5": {"3 for 2, 2": "any two of three alike"},
    "B.6": {"no bar, 3": "ᾱ_0 = α_0"},
}


def slips(latex: str) -> Iterator[tuple[str, str]]:
    """A name and the formula with that slip, for each place where it can be made."""
    words = [range(*match.span()) for match in WORDS.finditer(latex)]

    def places(pattern: str | re.Pattern[str]) -> Iterator[tuple[int, re.Match[str]]]:
        found = list(re.finditer(pattern, latex))
        return enumerate((m for m in found if not any(m.start() in w for w in words)), 1)

    def with_(match: re.Match[str], text: str) -> str:
        return latex[: match.start()] + text + latex[match.end() :]

    for name, (pattern, left) in SLIPS.items():
        for k, match in places(pattern):
            yield f"{name}, {k}", with_(match, match.expand(left))
    for k, match in places(DIGIT):
        digit = str((int(match[0]) + 1) % 10)
        yield f"{digit} for {match[0]}, {k}", with_(match, digit)
    for k, match in places(FRACTION):
        yield f"upside down, {k}", upside_down(latex, match)


def upside_down(latex: str, match: re.Match[str]) -> str:
    r"""The formula with \frac{b}{a} for \frac{a}{b}, which may also be \frac{a}b."""
    middle = after_group(latex, match.end())
    end = after_group(latex, middle)
    above, below = latex[match.end() : middle], latex[middle:end]
    return latex[: match.end()] + below.rjust(len(below) + 1) + above + latex[end:]


def after_group(latex: str, place: int) -> int:
    """Where the argument ends that begins here: a group, a command or a character."""
    if latex[place] != "{":
        command = re.compile(r"\s*(\\[A-Za-z]+|\S)").match(latex, place)
        assert command
        return command.end()
    depth = 0
    while True:
        depth += (latex[place] == "{") - (latex[place] == "}")
        place += 1
        if not depth:
            return place
