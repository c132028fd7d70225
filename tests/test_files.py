"""`ddpmlib.files`: a file is whole or not there, however it is written."""

import os
from contextlib import suppress

import numpy as np
import pytest

from ddpmlib.files import replacing, write_atomically


def test_a_file_written_piece_by_piece_is_whole_before_it_gets_its_name(tmp_path):
    path = tmp_path / "new folder" / "f"
    with replacing(path) as file:
        file.write(b"123")
        assert not path.exists()
        file.write(b"45")
    assert path.read_bytes() == b"12345" and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("writer", ["", "7"])
def test_a_block_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path, writer):
    write_atomically(tmp_path / "f", b"old")
    with suppress(KeyboardInterrupt), replacing(tmp_path / "f", writer) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert (tmp_path / "f").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_a_failing_disk_leaves_the_old_file(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    write_atomically(tmp_path / "f", b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="cannot write .*f: No space left"):
        write_atomically(tmp_path / "f", b"new")
    assert (tmp_path / "f").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_two_who_write_at_once_do_not_meet(tmp_path):
    with replacing(tmp_path / "f", "1") as first, replacing(tmp_path / "f", "2") as second:
        first.write(b"first")
        second.write(b"second")
    assert (tmp_path / "f").read_bytes() == b"first"  # the outer block ends last


def test_the_next_write_tidies_up_after_a_killed_one(tmp_path):
    (tmp_path / ".f.part").write_bytes(b"half of something")
    write_atomically(tmp_path / "f", b"whole")
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_an_archive_can_be_written_straight_into_it(tmp_path):
    with replacing(tmp_path / "a.npz") as file:
        np.savez(file, x=np.arange(3))
    with np.load(tmp_path / "a.npz") as found:
        assert found["x"].tolist() == [0, 1, 2]
