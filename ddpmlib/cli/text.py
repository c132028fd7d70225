"""What the command line prints: text that the terminal shows and never obeys.

Names, cards and messages come from files that others made. A control character in one could move
the cursor, hide a line, or set the clipboard; it is printed as the escape sequence that a Python
string would show.
"""

from __future__ import annotations

import sys

LONGEST = 2000  # characters of a message: a damaged file may have put all of itself into one


def printable(text: object) -> str:
    """The text with every character that is not printed escaped, line feeds among them.

    >>> print(printable("a\\x1b[2Jb"))
    a\\x1b[2Jb
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text)
    )


def say(text: object) -> None:
    """Print one line of :func:`printable` text."""
    print(printable(text), flush=True)


def complain(text: object) -> None:
    """Print one line of :func:`printable` text, cut where it is too long, on stderr."""
    line = printable(text)
    print(line if len(line) <= LONGEST else f"{line[:LONGEST]} ...", file=sys.stderr)
