"""Two processes do what one does: the same weights, the same samples, the same features.

`torchrun` is started once for all comparisons and a few times for the command line; two Gloo
processes on the CPU stand for any number on any device.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from ddpmlib import cli, files, locks, training
from ddpmlib.training import parallel
from ddpmlib.zoo import run_folder
from tests import parallel_worker as worker

ROOT = Path(__file__).resolve().parent.parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def environment():
    alone = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    kept = {k: v for k, v in os.environ.items() if k not in alone}
    return kept | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}


def torchrun(*words, cwd=ROOT, options=()):
    command = [*TORCHRUN, *options, *map(str, words)]
    return subprocess.run(
        command, cwd=cwd, env=environment(), capture_output=True, encoding="utf-8"
    )


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What each of two processes came to, and the folder with the state that they saved."""
    folder = tmp_path_factory.mktemp("both")
    run = torchrun(ROOT / "tests" / "parallel_worker.py", folder)
    assert run.returncode == 0, run.stderr[-3000:]
    found = [torch.load(folder / f"process{i}.pt", weights_only=True) for i in (0, 1)]
    return found, folder


def compare(found, expected, prefix, tolerance):
    names = [k for k in expected if k.startswith(prefix)]
    assert names and set(names) == {k for k in found if k.startswith(prefix)}
    for k in names:
        torch.testing.assert_close(found[k], expected[k], rtol=tolerance, atol=tolerance, msg=k)


# ---- alone -------------------------------------------------------------------------------------


def test_alone_every_call_is_a_no_op(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with parallel.joined("cpu") as device:
        assert device == "cpu"
    with parallel.joined() as device:
        assert device is None
    assert (parallel.size(), parallel.rank(), parallel.is_main()) == (1, 0, True)
    value = torch.tensor(3.0)
    assert parallel.mean(value) is value
    assert list(parallel.own("abc")) == [(0, "a"), (1, "b"), (2, "c")]
    assert parallel.collected([1, 2]) == [1, 2]
    parallel.wait()


def test_pieces_of_one_process_are_equal_parts_of_the_batch():
    whole, halves = worker.trainer(), worker.trainer(accumulate=2)
    assert torch.equal(whole.batches[0], halves.batches[0])
    with pytest.raises(ValueError, match=r"batch_size = 8 cannot be cut .* a multiple of 3"):
        worker.trainer(accumulate=3)
    with pytest.raises(ValueError, match="cut into at most 256 pieces, got 257"):
        worker.trainer(accumulate=257)
    for wrong in (0, -1, 1.5):
        with pytest.raises(ValueError, match="accumulate counts pieces"):
            worker.trainer(accumulate=wrong)


@pytest.mark.parametrize(
    ("device", "match"), [("mps", "share cpu or cuda"), ("cuda:1", "one GPU each")]
)
def test_devices_that_cannot_be_shared_are_refused(monkeypatch, device, match):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=match), parallel.joined(device):
        pass


def test_more_processes_than_gpus_are_refused(monkeypatch):
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="as many processes as GPUs"), parallel.joined("cuda"):
        pass


# ---- training ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_gradients_of_two_processes_are_those_of_one_in_two_pieces(both):
    (first, _), _ = both
    expected = worker.trained(worker.trainer(accumulate=2), 1)
    compare(first, expected, "gradient.", 1e-6)
    largest = max(v.abs().max() for k, v in expected.items() if k.startswith("gradient."))
    assert largest > 1e-3  # something was compared


@pytest.mark.slow
def test_weights_averages_and_losses_of_two_processes_are_those_of_one_in_two_pieces(both):
    (first, _), _ = both
    expected = worker.trained(worker.trainer(accumulate=2), 3)
    compare(first, expected, "losses", 1e-6)
    compare(first, expected, "state.", 1e-5)


@pytest.mark.slow
def test_each_process_has_noise_of_its_own(both):
    """With the same seed for both, the second piece would be noised like the first."""
    (first, _), _ = both
    whole = worker.trained(worker.trainer(), 1)  # one piece draws other numbers
    assert not torch.allclose(first["losses"][0], whole["losses"][0], rtol=1e-4)


@pytest.mark.slow
def test_everything_is_the_same_on_both_processes_to_the_bit(both):
    (first, second), _ = both
    names = [
        k for k in first if k.startswith(("state.", "losses", "samples", "features", "moments"))
    ]
    assert any(k.startswith("state.ema.") for k in names)
    assert [k for k in names if not torch.equal(first[k], second[k])] == []


@pytest.mark.slow
def test_a_state_goes_on_in_another_number_of_processes(both):
    (first, _), folder = both
    one = worker.trainer(accumulate=2)
    one.load(folder / "state.safetensors")
    assert one.step == 3
    saved, _ = files.read_safetensors(folder / "state.safetensors")
    assert all(torch.equal(saved[k.removeprefix("state.")], first[k])
               for k in first if k.startswith("state."))  # fmt: skip
    straight = worker.trainer(accumulate=2)
    for _ in range(6):
        straight.update()
    for _ in range(3):
        one.update()
    expected = {f"state.{k}": v for k, v in straight.state_dict().items()}
    compare({f"state.{k}": v for k, v in one.state_dict().items()}, expected, "state.", 1e-5)


@pytest.mark.slow
def test_a_batch_that_does_not_divide_is_refused_by_name(both):
    (first, second), _ = both
    assert "3 for each of 2 processes: make it a multiple of 6" in first["refusal"]
    assert first["refusal"] == second["refusal"]


# ---- sharing out --------------------------------------------------------------------------------


@pytest.mark.slow
def test_work_is_dealt_out_without_overlap_and_comes_back_in_order(both):
    (first, second), _ = both
    assert first["own"].tolist() == [0, 2, 4, 6] and second["own"].tolist() == [1, 3, 5]
    assert first["collected"].tolist() == second["collected"].tolist() == list(range(7))
    assert float(first["mean of ranks"]) == float(second["mean of ranks"]) == 0.5


@pytest.mark.slow
def test_samples_of_two_processes_are_those_of_one_to_the_bit(both):
    (first, _), _ = both
    compare(first, worker.measured(), "samples.", 0)


@pytest.mark.slow
def test_samples_of_two_processes_are_those_of_any_batch_size_to_rounding(both):
    (first, _), _ = both
    for eta, w, size in ((0.0, 0.0, 1), (0.5, 2.0, 7), (1.0, 0.0, 500), (1.0, 2.0, 7)):
        expected = worker.samples(eta, w, size)
        torch.testing.assert_close(first[f"samples.{eta}.{w}"], expected, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_features_and_moments_of_two_processes_are_those_of_one(both):
    (first, _), _ = both
    expected = worker.measured()
    compare(first, expected, "features", 0)
    compare(first, expected, "logits", 0)
    compare(first, expected, "moments.", 1e-12)
    assert int(first["n"]) == int(expected["n"]) == 21


# ---- the command line ---------------------------------------------------------------------------

TRAIN = ["-m", "ddpmlib", "train", "digits", "--device", "cpu", "--steps", "40", "--set"]
TRAIN += ["net.width=8", "--save-every", "10", "--out", "run"]


def steps_logged(folder):
    lines = (folder / "log.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line)["step"] for line in lines]


def killed(folder, *options):
    """Exit status of a run whose second process is killed after the first save, and its words."""
    command = [*TORCHRUN, *options, *TRAIN]
    with open(folder / "words", "w+", encoding="utf-8") as words:
        agent = subprocess.Popen(command, cwd=folder, env=environment(), stdout=words, stderr=words)
        try:
            _kill_second_process(agent, folder / "run" / "training.safetensors")
            agent.wait(timeout=600)  # and no process is left behind, waiting
        finally:
            agent.terminate()  # which ends its workers, too; a killed one would leave them
            agent.wait(timeout=600)
        words.seek(0)
        return agent.returncode, words.read()


@pytest.mark.slow
def test_killing_a_process_ends_the_run_and_resume_goes_on(tmp_path):
    assert killed(tmp_path)[0] != 0
    assert not (tmp_path / "run" / "model.safetensors").exists()
    again = torchrun(*TRAIN, "--resume", cwd=tmp_path)
    assert again.returncode == 0, again.stderr[-3000:]
    card = json.loads((tmp_path / "run" / "model.json").read_text("utf-8"))
    assert card["training"]["processes"] == 2
    assert steps_logged(tmp_path / "run")[-1] == 40
    assert again.stdout.count("weights, loss") == 1  # one process speaks


@pytest.mark.slow
def test_all_processes_of_a_run_are_told_who_trains_in_their_folder_and_end(tmp_path):
    with locks.locked(tmp_path / "run" / run_folder.LOCK, "x", "wait"):
        refused = torchrun(*TRAIN, cwd=tmp_path)
    assert refused.returncode != 0
    for rank in (0, 1):
        sentence = f"ddpmlib (process {rank}): run is being trained by process {os.getpid()} on"
        assert refused.stderr.count(sentence) == 1
    assert not (tmp_path / "run" / "training.safetensors").exists()


@pytest.mark.slow
def test_torchrun_starts_a_killed_run_again_and_it_goes_on(tmp_path):
    status, words = killed(tmp_path, "--max-restarts", "1")
    assert status == 0, words[-3000:]
    straight = torchrun(*TRAIN[:-1], "straight", cwd=tmp_path)
    assert straight.returncode == 0, straight.stderr[-3000:]
    runs = [files.read_safetensors(tmp_path / name / "model.safetensors")[0]
            for name in ("run", "straight")]  # fmt: skip
    assert runs[0] and all(torch.equal(runs[0][k], v) for k, v in runs[1].items())


def test_processes_that_start_again_meet_under_another_name(monkeypatch):
    """The store of torchrun outlives a restart, and with it the addresses of the dead."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT", raising=False)
    alone, names = parallel._attempt(), []
    for count in ("0", "1", "2"):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", count)
        names.append(parallel._attempt())
    assert names[0] == alone and len(set(names)) == 3


def _kill_second_process(agent, state):
    deadline = time.monotonic() + 600
    while not state.exists() and time.monotonic() < deadline and agent.poll() is None:
        time.sleep(0.005)  # a few updates, and the run is over
    assert state.exists(), "the run saved nothing"
    (second,) = [
        child
        for child in psutil.Process(agent.pid).children()
        if child.environ().get("RANK") == "1"
    ]
    second.kill()


@pytest.mark.slow
def test_only_a_run_that_torchrun_started_again_resumes_unasked(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training.Trainer, "update", _failing_at(25))
    assert cli.main(TRAIN[2:]) == 2
    assert steps_logged(tmp_path / "run") == []  # the first line is due at 40
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert cli.main(TRAIN[2:]) == 2  # by hand it is refused: two runs in one folder?
    assert "already holds a run" in capsys.readouterr().err
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert cli.main(TRAIN[2:]) == 0
    assert steps_logged(tmp_path / "run")[-1] == 40


def _failing_at(step):
    real = training.Trainer.update

    def update(self):
        if self.step == step:
            raise RuntimeError("a machine went away")
        return real(self)

    return update
