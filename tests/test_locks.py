"""`ddpmlib.locks`: one holder at a time, who is named, and whose lock ends with it."""

import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ddpmlib import locks
from ddpmlib.locks import Held, locked

ROOT = Path(__file__).resolve().parent.parent
HOLDER = """
import sys, time
from pathlib import Path
from ddpmlib.locks import locked
with locked(Path(sys.argv[1]), "the run is being trained", "wait"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new folder" / ".lock"


def take(path, wait=0.0):
    return locked(path, "runs/digits is being trained", "wait for it", wait)


@pytest.fixture
def holder(path):
    """Another process that holds the lock."""
    words = [sys.executable, "-c", HOLDER, str(path)]
    process = subprocess.Popen(
        words,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def test_a_second_one_is_told_who_holds_it_and_a_third_finds_it_free(path):
    with take(path):
        with pytest.raises(Held) as caught, take(path):
            pass
        who = rf"process {os.getpid()} on {re.escape(socket.gethostname())}"
        when = r"since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
        assert re.fullmatch(
            rf"runs/digits is being trained by {who} {when}: wait for it", str(caught.value)
        )
    assert not path.exists()
    with take(path):
        pass


def test_another_process_holds_it_until_it_is_killed(path, holder):
    with pytest.raises(Held, match=f"by process {holder.pid} on"), take(path):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert path.exists()  # it had no time to tidy up
    with take(path), pytest.raises(Held, match=f"by process {os.getpid()} on"), take(path):
        pass
    assert not path.exists()


def test_who_waits_gets_it_as_soon_as_it_is_free(path, holder):
    threading.Timer(0.2, holder.stdin.close).start()
    with take(path, wait=60):
        assert holder.wait(60) == 0


def test_of_many_at_once_one_is_inside(path):
    inside, seen = [], []

    def work(i):
        with take(path, wait=60):
            inside.append(i)
            seen.append(len(inside))
            inside.remove(i)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(64)))
    assert seen == [1] * 64 and not path.exists()


def test_an_error_inside_lets_it_go(path):
    with pytest.raises(ZeroDivisionError), take(path):
        raise ZeroDivisionError
    assert not path.exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_does_not_keep_the_lock_of_a_killed_one(path):
    read, write = os.pipe()
    parent = os.fork()
    if not parent:
        with take(path):
            if not os.fork():  # as a worker that reads images
                os.close(read)
                signal.pause()
            os.write(write, b"held")
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.read(read, 4) == b"held"
    os.waitpid(parent, 0)
    with take(path):
        pass
    os.close(write)
    os.close(read)


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", '{"pid": "x", "host": 1, "since": 2}',
     '{"pid": 1, "host": "\\u001b[2J", "since": "now"}'],
)  # fmt: skip
def test_a_holder_without_a_name_is_another_process(path, content):
    with take(path):
        path.write_text(content, "utf-8")
        with pytest.raises(Held, match="by another process: wait for it$"), take(path):
            pass


def without_flock(monkeypatch, how):
    """A system that holds no files: Windows, or a file system that does not know how."""

    def refuse(descriptor, flags):
        raise OSError(38, "Function not implemented")

    if how == "windows":
        monkeypatch.setattr(locks, "fcntl", None)
    else:
        monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.mark.parametrize("how", ["windows", "file system"])
def test_where_the_system_holds_nothing_the_file_is_the_lock(path, monkeypatch, how):
    without_flock(monkeypatch, how)
    sentence = "wait for it, or remove .*lock if that process is gone$"
    with take(path):
        with pytest.raises(Held, match=sentence), take(path):
            pass
        assert path.exists()
    assert not path.exists()
    path.write_text("", "utf-8")  # of a killed one
    with pytest.raises(Held, match="by another process: wait for it, or remove .*lock"), take(path):
        pass
    path.unlink()
    with take(path):
        pass


@pytest.mark.parametrize("how", ["windows", "file system"])
def test_where_the_system_holds_nothing_files_are_written_all_the_same(tmp_path, monkeypatch, how):
    from ddpmlib.files import write_atomically

    without_flock(monkeypatch, how)
    monkeypatch.setattr(locks, "HELD_BY_SYSTEM", how != "windows")
    (tmp_path / ".f.0123abcd.part").write_bytes(b"of one who may live")
    write_atomically(tmp_path / "f", b"whole")
    assert (tmp_path / "f").read_bytes() == b"whole"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_place_that_takes_no_files_is_named(tmp_path):
    (tmp_path / "file").write_text("", "utf-8")
    sentence, path = "cannot write into .*file/run: Not a directory", tmp_path / "file/run/.lock"
    with pytest.raises(OSError, match=sentence), take(path):
        pass
