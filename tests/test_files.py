"""`ddpmlib.files`: a file is whole or not there, however it is written."""

import fcntl
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest

from ddpmlib import locks
from ddpmlib.files import append, check_writable, replacing, write_atomically


def test_a_file_written_piece_by_piece_is_whole_before_it_gets_its_name(tmp_path):
    path = tmp_path / "new folder" / "f"
    with replacing(path) as file:
        file.write(b"123")
        assert not path.exists()
        file.write(b"45")
    assert path.read_bytes() == b"12345" and list(path.parent.iterdir()) == [path]


def test_a_block_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    write_atomically(tmp_path / "f", b"old")
    with suppress(KeyboardInterrupt), replacing(tmp_path / "f") as file:
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
    with replacing(tmp_path / "f") as first, replacing(tmp_path / "f") as second:
        first.write(b"first")
        second.write(b"second")
    assert (tmp_path / "f").read_bytes() == b"first"  # the outer block ends last
    assert len(list(tmp_path.iterdir())) == 1


def test_whoever_reads_while_many_write_reads_a_whole_file(tmp_path):
    contents = {bytes([65 + i]) * 20_000 for i in range(8)}
    write_atomically(tmp_path / "f", min(contents))
    with ThreadPoolExecutor(8) as threads:
        writes = [
            threads.submit(write_atomically, tmp_path / "f", content)
            for content in sorted(contents) * 10
        ]
        reads = 0
        while reads < 200 or not all(write.done() for write in writes):
            assert (tmp_path / "f").read_bytes() in contents
            reads += 1
        assert [write.exception() for write in writes] == [None] * 80
    assert len(list(tmp_path.iterdir())) == 1


def test_the_first_write_of_a_process_tidies_up_after_killed_ones(tmp_path):
    stray = [".f.0123abcd.part", ".g.tar.89abcdef.part"]
    others = ["f.part", ".f.part", ".f.0123abcg.part", "f.0123abcd.part"]  # somebody else's
    for name in stray + others:
        (tmp_path / name).write_bytes(b"half of something")
    write_atomically(tmp_path / "f", b"whole")
    assert {p.name for p in tmp_path.iterdir()} == {"f", *others}


def test_what_is_being_written_is_not_tidied_up(tmp_path):
    with replacing(tmp_path / "f") as file:
        file.write(b"1")
        locks.tidy.cache_clear()  # as in another process
        write_atomically(tmp_path / "g", b"g")
        file.write(b"2")
    assert (tmp_path / "f").read_bytes() == b"12"


def test_a_part_that_is_tidied_up_as_it_is_made_gets_another_name(tmp_path, monkeypatch):
    names, flock = [], fcntl.flock

    def late(descriptor, how):
        if not names:  # between its making and its locking
            (part,) = tmp_path.glob(".*.part")
            names.append(part.name)
            part.unlink()
        flock(descriptor, how)

    monkeypatch.setattr(locks.fcntl, "flock", late)
    write_atomically(tmp_path / "f", b"whole")
    assert names and [p.name for p in tmp_path.iterdir()] == ["f"]


def test_what_is_appended_is_on_the_disk_when_it_returns(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda d: (synced.append(os.fstat(d).st_size), fsync(d)))
    append(tmp_path / "log", b"one\n")
    append(tmp_path / "log", b"two\n")
    assert (tmp_path / "log").read_bytes() == b"one\ntwo\n" and synced == [4, 8]
    with pytest.raises(OSError, match="cannot write .*nowhere/log: No such file"):
        append(tmp_path / "nowhere" / "log", b"one\n")


def test_a_folder_that_takes_no_files_says_so_before_the_work(tmp_path):
    check_writable(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError, match="cannot write into .*nowhere: No such file"):
        check_writable(tmp_path / "nowhere")


def test_an_archive_can_be_written_straight_into_it(tmp_path):
    with replacing(tmp_path / "a.npz") as file:
        np.savez(file, x=np.arange(3))
    with np.load(tmp_path / "a.npz") as found:
        assert found["x"].tolist() == [0, 1, 2]
