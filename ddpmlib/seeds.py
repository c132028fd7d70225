"""Seeds of PyTorch's generators, counted and not drawn: within a run none comes twice.

PyTorch's CPU generator, a Mersenne Twister, keeps the low 32 bits of its seed, so there are 2³²
streams of random numbers. Who draws 1.6 million seeds at random meets some three hundred of them
twice, and the updates that share one share their noise. Here everything that needs random numbers
of its own has a number below 2³², and a bijection of the numbers below 2³², chosen by the seed of
the run, makes seeds of them that look random.

Guaranteed: in a run of one seed no two of (use, update, piece) have the same stream, nor have two
samples. Not guaranteed: anything between runs of different seeds, or between training and samples.
Any two streams are then the same by a chance of 2⁻³², as of seeds drawn at random.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

USES = ("loss", "dropout")
MOST_UPDATES = 2**23
MOST_PIECES = 2**8
MOST_SAMPLES = 2**32


def of_update(seed: int, use: str, update: int, piece: int = 0) -> int:
    """The seed of one use of random numbers, in one piece of one update of a training run.

    Args:
        seed: of the run.
        use: one of :data:`USES`.
        update: 0..:data:`MOST_UPDATES` − 1.
        piece: of the update's batch, 0..:data:`MOST_PIECES` − 1.

    Returns:
        0..2³² − 1, for this seed never the same for other arguments.

    Raises:
        ValueError: if update or piece is out of range, or the use is unknown.
    """
    if use not in USES:
        raise ValueError(f"random numbers of a training run are for {' or '.join(USES)}, not {use}")
    _check("update", update, MOST_UPDATES)
    _check("piece", piece, MOST_PIECES)
    number = (update * MOST_PIECES + piece) * len(USES) + USES.index(use)
    return scrambled(number, f"training {seed}".encode())


def of_sample(seed: int, number: int) -> int:
    """The seed of the noise of one sample.

    Args:
        seed: of the samples.
        number: which of them, 0..:data:`MOST_SAMPLES` − 1.

    Returns:
        0..2³² − 1, for this seed never the same for another number.

    Raises:
        ValueError: if the number is out of range.
    """
    _check("number", number, MOST_SAMPLES)
    return scrambled(number, f"samples {seed}".encode())


def scrambled(number: int, key: bytes, half: int = 16) -> int:
    """A bijection of the numbers below 2^(2 half), another one for each key.

    A Feistel network of four rounds: each round adds (bit by bit) a hash of one half of the number
    to the other, and can be undone, whatever the hash. With four rounds and good hashes it cannot
    be told from a permutation drawn at random (Luby & Rackoff 1988).

    Args:
        number: 0 ≤ number < 2^(2 half).
        key: at most 64 bytes.
        half: bits of a half.
    """
    left, right = divmod(number, 1 << half)
    for turn in range(4):
        word = bytes([turn]) + right.to_bytes(4, "big")
        digest = int.from_bytes(blake2b(word, digest_size=4, key=key).digest(), "big")
        left, right = right, left ^ (digest % (1 << half))
    return left << half | right


def _check(name: str, value: Any, most: int) -> None:
    if isinstance(value, bool) or not hasattr(value, "__index__") or not 0 <= value < most:
        raise ValueError(f"{name} must lie in 0..{most - 1}, got {value!r}")
