"""`ddpmlib.seeds`: no two uses share a seed, and what PyTorch's generators make of seeds."""

from hashlib import blake2b
from itertools import product

import pytest
import torch

from ddpmlib import seeds
from ddpmlib.data import Batches
from ddpmlib.training import Settings


def unscrambled(number, key, half=16):
    """The inverse of the bijection: its rounds undone, last first."""
    left, right = divmod(number, 1 << half)
    for turn in reversed(range(4)):
        word = bytes([turn]) + left.to_bytes(4, "big")
        digest = int.from_bytes(blake2b(word, digest_size=4, key=key).digest(), "big")
        left, right = right ^ (digest % (1 << half)), left
    return left << half | right


@pytest.mark.parametrize("half", [1, 3, 8])
def test_scrambling_is_a_bijection(half):
    every = range(1 << 2 * half)
    assert sorted(seeds.scrambled(i, b"key", half) for i in every) == list(every)


def test_scrambling_can_be_undone_at_full_width():
    places = torch.randint(0, 2**32, (2000,), generator=torch.Generator().manual_seed(0)).tolist()
    for i in [*places, 0, 1, 2**16, 2**32 - 1]:
        found = seeds.scrambled(i, b"a key")
        assert 0 <= found < 2**32 and unscrambled(found, b"a key") == i


def test_no_seed_comes_twice_where_the_birthday_would_bring_some():
    """Of as many seeds drawn at random 8 pairs would be expected to be the same."""
    n = 2**18
    found = {seeds.of_sample(3, i) for i in range(n)}
    assert len(found) == n


def test_seeds_look_drawn_at_random():
    """Each bit is set in half of consecutive seeds, and a step of 1 flips half of all bits."""
    n = 20_000
    found = torch.tensor([seeds.of_sample(0, i) for i in range(n)])
    bits = (found[:, None] >> torch.arange(32)) & 1
    assert ((bits.double().mean(0) - 0.5).abs() < 5 * 0.5 / n**0.5).all()
    flips = (bits[1:] != bits[:-1]).double()
    assert ((flips.mean(0) - 0.5).abs() < 5 * 0.5 / n**0.5).all()
    squares = (torch.bincount(found >> 24, minlength=256) - n / 256).square().sum() / (n / 256)
    assert abs(float(squares) - 255) < 5 * (2 * 255) ** 0.5


def test_other_runs_have_other_seeds():
    runs = [{seeds.of_sample(seed, i) for i in range(1000)} for seed in (0, 1, 2**32 - 1)]
    runs.append({seeds.of_update(0, "loss", i) for i in range(1000)})
    assert len(set.union(*runs)) > 3990  # a chance of 2⁻³² a pair


def test_every_use_of_every_piece_of_every_update_has_a_seed_of_its_own():
    updates, pieces = (0, 1, 2, 4095, seeds.MOST_UPDATES - 1), range(seeds.MOST_PIECES)
    where = list(product(seeds.USES, updates, pieces))
    assert len({seeds.of_update(7, *w) for w in where}) == len(where)


def test_the_numbers_of_a_run_fill_what_there_is(monkeypatch):
    """Counted from 0 to 2³² − 1 without a gap: the packing repeats nothing and wastes nothing."""
    monkeypatch.setattr(seeds, "scrambled", lambda number, key: number)
    assert seeds.of_update(0, "loss", 0, 0) == 0
    last = seeds.of_update(0, "dropout", seeds.MOST_UPDATES - 1, seeds.MOST_PIECES - 1)
    assert last == 2**32 - 1
    found = [seeds.of_update(0, use, u, p) for u, p, use in product((0, 1), range(256), seeds.USES)]
    assert found == list(range(1024))


def test_pytorch_keeps_the_low_32_bits_of_a_seed():
    """On the CPU. If this fails there are more streams, and nothing here is wrong."""
    for seed in (0, 5, 2**32 - 1):
        one, other = (torch.Generator().manual_seed(s) for s in (seed, seed + 2**32))
        assert torch.equal(torch.randn(20, generator=one), torch.randn(20, generator=other))
    different = [torch.randn(20, generator=torch.Generator().manual_seed(s)) for s in range(50)]
    assert len(torch.stack(different).unique(dim=0)) == 50


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (
            lambda: seeds.of_update(0, "loss", 2**23),
            r"update must lie in 0\.\.8388607, got 8388608",
        ),
        (lambda: seeds.of_update(0, "loss", 0, 256), r"piece must lie in 0\.\.255, got 256"),
        (lambda: seeds.of_update(0, "loss", -1), "update must lie"),
        (lambda: seeds.of_update(0, "batch", 0), "for loss or dropout, not batch"),
        (lambda: seeds.of_sample(0, 2**32), "number must lie"),
        (lambda: Settings(steps=2**23 + 1), "steps must be at most 8388608"),
    ],
)
def test_what_cannot_be_counted_is_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_the_longest_run_is_taken():
    assert Settings(steps=2**23).steps == 2**23


def test_epochs_of_a_run_are_other_permutations():
    batches = Batches(10, 10, seed=1)
    assert len({tuple(batches[k].tolist()) for k in range(20)}) == 20
