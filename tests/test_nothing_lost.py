"""Killed forty times or measured by thirty-two at once: a run loses no bit, and a card no result.

Forked processes of one that has imported everything, so that many of them cost little. The suite
takes few of them; ``DDPMLIB_KILLS=40 DDPMLIB_EVALUATIONS=32 pytest tests/test_nothing_lost.py``
takes many.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ddpmlib import zoo
from ddpmlib.files import read_safetensors
from ddpmlib.zoo import recipes, runs

ROOT = Path(__file__).resolve().parent.parent
KILLS = int(os.environ.get("DDPMLIB_KILLS", "6"))
EVALUATIONS = int(os.environ.get("DDPMLIB_EVALUATIONS", "8"))
SEED = int(os.environ.get("DDPMLIB_SEED", "0"))
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")

COMMON = r"""
import builtins, json, os, random, signal, sys, time
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path
import torch
torch.set_num_threads(1)
import safetensors.torch, torch._dynamo, tqdm  # once, not in every child
from ddpmlib import data, evaluation, files, locks, zoo
from ddpmlib.evaluation import Sampling, checkpoint, entries
from ddpmlib.models import ClassifierConfig, UNetConfig
from ddpmlib.training import Settings
from ddpmlib.zoo import ClassifierRecipe, DiffusionRecipe, runs
data.load("digits")
NET = UNetConfig(width=8, mults=(1,), attention=(False,), heads=1, groups=4, num_classes=10)
TINY = DiffusionRecipe("tiny", "digits", NET, Settings(steps=2, batch_size=8, warmup=2, ema=0.5))

def child(work):
    pid = os.fork()
    if pid:
        return pid
    try:
        with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
            work()
        os._exit(0)
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)

def code_of(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""

KILL = (
    COMMON
    + r"""
class Slow:
    '''A file on a slow disk: a kill often finds a write half done.'''
    def __init__(self, path, mode):
        self.file = builtins.open(path, mode)
    def write(self, content):
        piece = max(20, min(16384, len(content) // 4))
        for i in range(0, len(content), piece):
            self.file.write(content[i : i + piece])
            self.file.flush()
            time.sleep(0.0005)
    def __getattr__(self, name):
        return getattr(self.file, name)
    def __enter__(self):
        return self
    def __exit__(self, *error):
        self.file.close()

folder, kills, rng = Path(sys.argv[1]), int(sys.argv[2]), random.Random(int(sys.argv[3]))
killed = folder / "killed"
recipe = replace(TINY, settings=replace(TINY.settings, steps=10 * kills))

def train(name, slow):
    if slow:
        files.open = Slow
    how = {"save_every": 3, "log_every": 2, "device": "cpu", "command": "ddpmlib train tiny"}
    runs.train(recipe, folder / name, resume=slow, **how)

def looks():
    '''What changes when something is written.'''
    found = {}
    for path in killed.iterdir() if killed.exists() else ():
        try:
            found[path.name] = path.stat().st_mtime_ns, path.stat().st_size
        except FileNotFoundError:
            pass
    return found

def ended(pid):
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

assert code_of(child(lambda: train("straight", False))) == 0
steps, found = [], {"part": 0, "lock": 0, "torn line": 0, "state without line": 0, "export": 0}
while True:
    pid = child(lambda: train("killed", True))
    if len(steps) < kills:
        for _ in range(rng.randrange(1, 60)):  # changes of the folder
            before = looks()
            while looks() == before and not ended(pid):
                time.sleep(0.0002)
        time.sleep(rng.uniform(0, 0.01))
        os.kill(pid, signal.SIGKILL)
    code = code_of(pid)
    if code == 0:
        break
    assert code == -9, code
    names = [path.name for path in killed.iterdir()] if killed.exists() else []
    found["part"] += any(name.endswith(".part") for name in names)
    found["lock"] += ".lock" in names
    log = (killed / zoo.LOG).read_bytes() if zoo.LOG in names else b""
    found["torn line"] += bool(log) and not log.endswith(b"\n")
    state = killed / zoo.STATE
    step = int(files.read_safetensors(state)[1]["step"]) if state.exists() else -1
    lines = [json.loads(line) for line in log.splitlines() if line.endswith(b"}")]
    last = lines[-1]["step"] if lines else 0
    found["state without line"] += step > 0 and step % 2 == 0 and last < step
    found["export"] += zoo.MODEL in names
    steps.append(step)
print(json.dumps({"steps": steps, "found": found}))
"""
)


def carried_out(script, *words):
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        encoding="utf-8",
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def rows(folder):
    lines = (folder / zoo.LOG).read_text("utf-8").splitlines()
    return [{k: row[k] for k in ("step", "loss", "lr")} for row in map(json.loads, lines)]


@needs_fork
@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_with_the_same_bits_and_the_same_log(tmp_path):
    report = carried_out(KILL, tmp_path, KILLS, SEED)
    print(report)
    assert len(report["steps"]) >= KILLS // 2 and report["found"]["lock"] >= 1, report
    assert report["steps"] == sorted(report["steps"])  # no kill threw the run back
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    assert {p.name for p in killed.iterdir()} == {p.name for p in straight.iterdir()}
    assert (killed / zoo.MODEL).read_bytes() == (straight / zoo.MODEL).read_bytes()
    (found, header), (tensors, other) = (
        read_safetensors(f / zoo.STATE) for f in (killed, straight)
    )
    assert header == other and found.keys() == tensors.keys()  # the digest is one of the header
    assert all(torch.equal(found[name], value) for name, value in tensors.items())
    assert rows(killed) == rows(straight)
    assert [row["step"] for row in rows(killed)] == [*range(2, 10 * KILLS + 1, 2)]
    cards = [zoo.Card.read(folder / "model.json") for folder in (killed, straight)]
    assert cards[0].loss == cards[1].loss and cards[0].sha256 == cards[1].sha256


def test_the_state_of_a_run_is_there_before_its_first_update(tmp_path, monkeypatch):
    def fit(trainer, **options):
        raise KeyboardInterrupt
        yield

    recipe = recipes.changed(recipes.RECIPES["digits-classifier"], {"settings.steps": 3})
    with monkeypatch.context() as patch:
        patch.setattr(runs, "fit", fit)
        with pytest.raises(KeyboardInterrupt):
            runs.train(recipe, tmp_path / "r", device="cpu")
    assert read_safetensors(tmp_path / "r" / zoo.STATE)[1]["step"] == "0"
    assert runs.train(recipe, tmp_path / "r", device="cpu", resume=True).loss[-1][0] == 3


# ---- many at once --------------------------------------------------------------------------------

MANY = (
    COMMON
    + r"""
folder, count = Path(sys.argv[1]), int(sys.argv[2])
extractor = ClassifierRecipe(
    "digits-classifier", "digits", ClassifierConfig(width=4, features=8),
    Settings(steps=4, batch_size=32, warmup=2, ema=0.5),
)
for recipe in (TINY, extractor):
    with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
        runs.train(recipe, folder / recipe.name, device="cpu")
    zoo.ship(folder / recipe.name, folder=folder / "shipped")
path = folder / "shipped" / "tiny.safetensors"
measured, go = os.pipe(), os.pipe()

def measure(seed):
    real = entries.note
    def together(*words):
        '''Write when all have measured.'''
        os.write(measured[1], b"1")
        os.read(go[0], 1)
        return real(*words)
    checkpoint.note = together
    how = Sampling(steps=1, seed=seed)
    evaluation.evaluate(path, how, metrics=["agreement"], n=4, draws=20, device="cpu",
                        extractor="classifier")

pids = [child(lambda seed=seed: measure(seed)) for seed in range(count)]
os.close(measured[1])
for _ in pids:
    assert os.read(measured[0], 1) == b"1"
os.write(go[1], b"1" * count)
print(json.dumps([code_of(pid) for pid in pids]))
"""
)


@needs_fork
@pytest.mark.slow
def test_results_that_are_noted_at_the_same_moment_are_all_noted(tmp_path):
    assert carried_out(MANY, tmp_path, EVALUATIONS) == [0] * EVALUATIONS
    folder = tmp_path / "shipped"
    card = zoo.Card.read(folder / "tiny.json")
    assert sorted(m["seed"] for m in card.metrics) == list(range(EVALUATIONS))
    assert all(0 <= m["class_agreement"] <= 1 for m in card.metrics)
    assert not [p for p in folder.iterdir() if p.name.startswith(".")]
    zoo.load(folder / "tiny.safetensors", "cpu")
