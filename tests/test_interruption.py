"""`ddpmlib.interruption`: Ctrl-C and SIGTERM end a run after an update, saved, and never in one."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import nn

from ddpmlib import interruption
from ddpmlib.interruption import Interrupted, deferred
from ddpmlib.training import Settings, Trainer, fit

ROOT = Path(__file__).resolve().parent.parent
BOTH = pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
pytestmark = pytest.mark.skipif(os.name != "posix", reason="POSIX signals")


@pytest.fixture(autouse=True)
def handlers():
    """Those of an interactive Python, and each test leaves them as they were."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert not interruption._waiting and not interruption._blocks
    signal.signal(signal.SIGINT, before)


def send(signum):
    os.kill(os.getpid(), signum)


def stopped(work):
    """What a piece of work ends with when a signal comes."""
    with pytest.raises(Interrupted) as caught:
        work()
    return caught.value


@BOTH
def test_a_signal_waits_for_the_end_of_the_block(signum):
    done = []

    def work():
        with deferred():
            send(signum)
            done.append("all of it")
        done.append("no more")

    assert stopped(work).signum == signum and done == ["all of it"]


def test_a_second_signal_does_not_wait():
    done = []

    def work():
        with deferred():
            send(signal.SIGINT)
            done.append("first")
            send(signal.SIGINT)
            done.append("second")

    stopped(work)
    assert done == ["first"]


def test_who_asks_in_between_saves_before_the_end():
    def work():
        with deferred():
            interruption.check(lambda: pytest.fail("nothing came"))
            send(signal.SIGTERM)
            interruption.check(lambda: "it is saved")

    found = stopped(work)
    assert found.kept == "it is saved" and found.signum == signal.SIGTERM


def test_of_blocks_in_blocks_the_outermost_counts():
    done = []

    def work():
        with deferred():
            with deferred():
                send(signal.SIGINT)
            done.append("still")

    stopped(work)
    assert done == ["still"]


def test_another_error_is_not_hidden_and_the_signal_does_not_come_later():
    def work():
        with deferred():
            send(signal.SIGINT)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    with deferred():
        pass


def test_ignored_signals_stay_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as of a command in the background
    try:
        with interruption.heeded(), deferred():
            send(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def test_elsewhere_than_in_the_main_thread_nothing_changes():
    found = []

    def work():
        with interruption.heeded(), deferred():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.SIG_DFL]


@BOTH
def test_heeded_both_signals_raise(signum):
    with pytest.raises(Interrupted) as caught, interruption.heeded():
        send(signum)
    assert caught.value.signum == signum


# ---- training ----------------------------------------------------------------------------------


def loss(model, x, y, generator):
    return (model(x) ** 2).mean()


def trainer(loss=loss):
    torch.manual_seed(0)
    x = torch.randn(10, 2, generator=torch.Generator().manual_seed(1))
    settings = Settings(steps=9, batch_size=5, lr=0.1, warmup=0, ema=0.5)
    return Trainer(nn.Linear(2, 1), loss, x, None, settings, device="cpu")


def interrupting(signum, at):
    calls = []

    def loss_(model, x, y, generator):
        calls.append(1)
        if len(calls) == at:
            send(signum)
        return loss(model, x, y, generator)

    return loss_


@BOTH
@pytest.mark.parametrize("at", [1, 4, 9])
def test_an_update_in_which_a_signal_comes_is_done_and_saved(tmp_path, signum, at):
    one, path, steps = trainer(interrupting(signum, at)), tmp_path / "s.safetensors", []
    found = stopped(lambda: steps.extend(p.step for p in fit(one, checkpoint=path, save_every=3)))
    assert steps == list(range(1, at)) and one.step == at
    assert found.signum == signum and found.kept == f"update {at} is saved"
    resumed, straight = trainer(), trainer()
    resumed.load(path)
    assert resumed.step == at
    for run in (resumed, straight):
        for _ in fit(run):
            pass
    found = resumed.state_dict()
    assert all(torch.equal(found[k], v) for k, v in straight.state_dict().items())


def test_without_a_file_the_trainer_itself_is_whole():
    one, straight = trainer(interrupting(signal.SIGINT, 4)), trainer()
    with pytest.raises(KeyboardInterrupt):
        list(fit(one))
    assert one.step == 4
    for _ in range(4):
        straight.update()
    assert all(torch.equal(one.state_dict()[k], v) for k, v in straight.state_dict().items())
    assert [progress.step for progress in fit(one)] == [5, 6, 7, 8, 9]


# ---- before PyTorch is there ---------------------------------------------------------------------

ENTRIES = {
    "python -m ddpmlib": ["-m", "ddpmlib"],
    "ddpmlib": ["-c", "import sys; from ddpmlib.cli import main; sys.exit(main())"],
}


@BOTH
@pytest.mark.parametrize("entry", ENTRIES)
def test_a_signal_while_pytorch_is_imported_is_one_sentence(tmp_path, signum, entry):
    (tmp_path / "torch").mkdir()
    slow = "import time\nprint('importing', flush=True)\ntime.sleep(600)\n"
    (tmp_path / "torch" / "__init__.py").write_text(slow, "utf-8")
    process = subprocess.Popen(
        [sys.executable, *ENTRIES[entry], "train", "digits"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signum)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 128 + signum
    how = "interrupted" if signum == signal.SIGINT else "ended by SIGTERM"
    assert err == f"\nddpmlib: {how}\n"
