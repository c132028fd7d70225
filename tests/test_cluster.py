"""book/cluster.md: every command that it shows is one, and what it shows as a script runs."""

import contextlib
import io
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from ddpmlib import files, zoo
from ddpmlib.cli import command
from ddpmlib.models import UNet
from ddpmlib.zoo import RECIPES
from scripts import full_strength

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "book" / "cluster.md").read_text("utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)


(JOB,) = [block for block in blocks("bash") if block.startswith("#!")]
COMMANDS = [
    shlex.split(line)
    for block in blocks("bash")
    for line in block.replace("\\\n", " ").splitlines()
    if block != JOB
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_parses(words, monkeypatch):
    if words[0] == "python":
        assert words[1:3] == ["-m", "scripts.full_strength"]
        monkeypatch.setattr(sys, "argv", words[2:])
        monkeypatch.setattr(full_strength, "_carry_out", lambda *_: None)
        assert full_strength.main() == 0
        return
    if words[0] == "torchrun":
        options, words = words[1 : words.index("-m")], words[words.index("-m") + 1 :]
        pytest.importorskip("torch.distributed.run").get_args_parser().parse_args(
            [*options, "-m", *words]
        )
    assert words[0] == "ddpmlib" and command.parser().parse_args(words[1:]).run


def test_the_estimate_is_what_its_code_prints():
    (code,) = blocks("python")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, {})
    assert len(printed.getvalue().splitlines()) == 5 and printed.getvalue() in PAGE


def test_the_estimate_counts_the_network_that_it_names():
    (code,) = blocks("python")
    known = {}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(code, known)
    with torch.device("meta"):
        parameters = list(UNet(RECIPES["cifar10-ddpm"].net).parameters())
    assert known["GRADIENTS"] == pytest.approx(4 * sum(p.numel() for p in parameters), rel=0.005)


# ---- the Slurm script ----------------------------------------------------------------------------

TOOLS = {  # stand-ins: two "machines" of one process each, both this one
    "srun": """for node in 0 1; do "$@" & done; wait""",
    "scontrol": """[ "$1" = show ] && echo localhost || echo "$@" >> requeued""",
    "torchrun": f"""exec {shlex.quote(sys.executable)} -m torch.distributed.run "$@" """,
}


@pytest.fixture
def cluster(tmp_path):
    """The job's script at toy length, and the environment that Slurm would give it."""
    for name, body in TOOLS.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/usr/bin/env bash\n{body}\n", "utf-8")
        path.chmod(0o755)
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    toy = "train digits --steps 40 --batch-size 64 --set net.width=8 --device cpu --save-every 10"
    job = re.sub(r"train mnist .* --save-every 500", toy, JOB).replace(":29500", f":{port}")
    assert toy in job and str(port) in job
    (tmp_path / "job.sh").write_text(job, "utf-8")
    return tmp_path, os.environ | {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT),
        "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "two", "SLURM_NNODES": "2",
        "SLURM_GPUS_ON_NODE": "1", "CUDA_VISIBLE_DEVICES": "", "HOME": str(tmp_path),
    }  # fmt: skip


@pytest.mark.skipif(os.name != "posix", reason="a shell script")
@pytest.mark.slow
def test_the_slurm_script_trains_and_goes_on_after_it_was_pre_empted(cluster):
    folder, environment = cluster
    state = folder / "runs" / "mnist" / "training.safetensors"
    first = _start(folder, environment)
    try:
        _wait_for(state, first)
    finally:
        os.killpg(first.pid, 15)  # as Slurm ends a job
        first.wait(timeout=600)
    assert not (state.parent / "model.safetensors").exists()
    saved = int(files.read_safetensors(state)[1]["step"])
    again = _start(folder, environment)
    assert again.wait(timeout=600) == 0, (folder / "words").read_text("utf-8")[-3000:]
    assert 0 <= saved < 40 and files.read_safetensors(state)[1]["step"] == "40"
    assert zoo.Card.read(state.parent / "model.json").training["processes"] == 2


@pytest.mark.skipif(os.name != "posix", reason="a shell script")
def test_the_slurm_script_asks_to_be_queued_again_when_its_time_is_up(cluster):
    folder, environment = cluster
    (folder / "bin" / "srun").write_text(
        "#!/usr/bin/env bash\ntouch running; sleep 6000\n", "utf-8"
    )
    job = _start(folder, environment)
    try:
        _wait_for(folder / "running", job)
        job.send_signal(10)  # SIGUSR1, to the shell alone
        job.wait(timeout=600)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, 9)  # what it started sleeps on
    assert (folder / "requeued").read_text("utf-8") == "requeue 7\n"


def _start(folder, environment):
    words = open(folder / "words", "a", encoding="utf-8")  # noqa: SIM115
    return subprocess.Popen(
        ["bash", "job.sh"], cwd=folder, env=environment, stdout=words, stderr=words,
        start_new_session=True,
    )  # fmt: skip


def _wait_for(path, job):
    deadline = time.monotonic() + 600
    while not path.exists() and time.monotonic() < deadline and job.poll() is None:
        time.sleep(0.005)  # a few updates, and the run is over
    assert path.exists(), "it was not written"
