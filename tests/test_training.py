"""`ddpmlib.training`: a run that is stopped, in whatever way, goes on to the very same bits."""

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ddpmlib import data, files, training
from ddpmlib.denoiser import Denoiser, V
from ddpmlib.losses import ImportanceTimes, l_vlb, objectives
from ddpmlib.models import MLP, UNet, UNetConfig
from ddpmlib.process import DDPM
from ddpmlib.process.schedules import cosine
from ddpmlib.training import Settings, Trainer, TrainingDiverged, fit

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = Settings(steps=12, batch_size=6, lr=3e-3, warmup=3, ema=0.8, weight_decay=0.01, seed=5)


def images(n=20):
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(0, 256, (n, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return x, torch.arange(n) % 3


def unet_loss(model, x, y, generator):
    return objectives.diffusion_loss(model, x, y, generator, label_dropout=0.3)


def unet_trainer(settings=SETTINGS, width=8, loss=unet_loss, **options):
    """A denoiser with dropout (PyTorch's random numbers) and label dropout (the trainer's own)."""
    torch.manual_seed(settings.seed)
    config = UNetConfig(
        width=width, mults=(1, 2), attention=(False, True), heads=2, num_classes=3, dropout=0.2,
        groups=4,
    )  # fmt: skip
    model = Denoiser(UNet(config), DDPM(cosine(50)), V)
    return Trainer(model, loss, *images(), settings, device="cpu", **options)


def line_loss(model, x, y, generator):
    noise = torch.randn(len(x), 2, generator=generator)
    return ((model(x + 0.1 * noise) - 1) ** 2).mean()


def line_trainer(settings=SETTINGS, loss=line_loss, **options):
    """The cheapest trainer that has everything."""
    torch.manual_seed(settings.seed)
    x = torch.randn(30, 2, generator=torch.Generator().manual_seed(2))
    return Trainer(nn.Linear(2, 2), loss, x, None, settings, device="cpu", **options)


def everything(trainer):
    """All that changes while training, as copies."""
    return {k: v.clone() for k, v in trainer.state_dict().items()} | {
        "step": torch.tensor(trainer.step)
    }


def same(a, b):
    different = [k for k in a.keys() | b.keys() if k not in a or k not in b or unequal(a[k], b[k])]
    assert different == []
    return True


def unequal(a, b):
    return a.dtype != b.dtype or not torch.equal(a, b)


def run(trainer, **options):
    losses = [progress.loss.item() for progress in fit(trainer, **options)]
    return losses, everything(trainer)


# ---- a limit of time ---------------------------------------------------------------------------


class Clock:
    """Tells the time that updates and saves have taken, at a fixed price each."""

    def __init__(self, monkeypatch, first, other, save):
        self.now, self.updates, self.saves = 0.0, 0, 0
        update, write = Trainer.update, Trainer.save

        def counted(trainer):
            self.updates += 1
            self.now += first if self.updates == 1 else other
            return update(trainer)

        def saved(trainer, path):
            self.saves += 1
            self.now += save
            write(trainer, path)

        monkeypatch.setattr(Trainer, "update", counted)
        monkeypatch.setattr(Trainer, "save", saved)
        monkeypatch.setattr(training.time_budget.time, "perf_counter", lambda: self.now)


@pytest.mark.parametrize(
    ("seconds", "first", "other", "save", "every"),
    [(100, 1, 1, 0, 10), (500, 30, 2, 5, 100), (2000, 5, 10, 40, 10), (1000, 10, 10, 5, 1)],
)
def test_as_many_updates_as_fit_into_a_time(
    tmp_path, monkeypatch, seconds, first, other, save, every
):
    clock, trainer = Clock(monkeypatch, first, other, save), line_trainer()
    steps = training.updates_within(trainer, seconds, tmp_path / "scratch", every)
    trainer.settings = replace(SETTINGS, steps=steps)
    for _ in fit(trainer, checkpoint=tmp_path / "state", save_every=every):
        pass
    assert 0.9 * seconds < clock.now <= seconds
    assert trainer.step == steps and clock.saves >= 2


def test_a_time_in_which_nothing_fits_is_one_update(tmp_path):
    assert training.updates_within(line_trainer(), 1e-9, tmp_path / "scratch", 100) == 1


@pytest.mark.parametrize("resumed", [False, True])
def test_taking_the_time_leaves_no_trace(tmp_path, resumed):
    trainer, other = unet_trainer(), unet_trainer()
    for one in (trainer, other) if resumed else ():
        one.update()
    before = everything(trainer)
    training.updates_within(trainer, 0.1, tmp_path / "scratch", 10)
    assert same(everything(trainer), before) and list(tmp_path.iterdir()) == []
    trainer.update(), other.update()
    assert same(everything(trainer), everything(other))


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_a_limit_of_time_is_positive(tmp_path, seconds):
    with pytest.raises(ValueError, match="limit of time must be positive and finite"):
        training.updates_within(line_trainer(), seconds, tmp_path / "scratch", 10)


def test_the_time_to_come_is_told_once_after_the_first_updates(monkeypatch):
    Clock(monkeypatch, first=30, other=2, save=0)
    trainer, told = line_trainer(), []
    updates = fit(trainer)
    steps = [p.step for p in training.forecast(updates, trainer.settings.steps, told.append)]
    assert steps == list(range(1, SETTINGS.steps + 1))
    assert told == [2 * (SETTINGS.steps - 8)]


def test_of_a_few_updates_no_time_is_told(monkeypatch):
    Clock(monkeypatch, first=30, other=2, save=0)
    trainer, told = line_trainer(), []
    trainer.settings = replace(SETTINGS, steps=7)
    assert len(list(training.forecast(fit(trainer), 7, told.append))) == 7 and told == []


# ---- resume ------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 5, 11])
@pytest.mark.slow
def test_resume_is_bit_exact(tmp_path, k):
    losses, straight = run(unet_trainer())
    kinds = {name.split(".")[0] for name in straight}
    assert kinds == {"model", "ema", "optimiser", "recent", "step"}  # nothing is left uncompared
    first = unet_trainer()
    for _ in range(k):
        first.update()
    first.save(tmp_path / "a run" / "state.safetensors")
    torch.manual_seed(77)  # whatever happens in between
    torch.rand(5)
    second = unet_trainer(replace(SETTINGS))
    second.load(tmp_path / "a run" / "state.safetensors")
    assert second.step == k and same(everything(first), everything(second))
    later, resumed = run(second)
    assert later == losses[k:]
    assert same(straight, resumed)


def test_moments_are_laid_out_as_their_weights_after_a_resume(tmp_path):
    """A fused kernel goes through the memory of both side by side, whatever their strides say."""
    straight = unet_trainer(channels_last=True)
    for _ in range(3):
        straight.update()
    straight.save(tmp_path / "s.safetensors")
    resumed = unet_trainer(channels_last=True)
    resumed.load(tmp_path / "s.safetensors")
    for trainer in (straight, resumed):
        trainer.update()
        for weight, moments in trainer.optimiser.state.items():
            assert moments["exp_avg"].stride() == weight.stride()
    assert same(everything(straight), everything(resumed))


@pytest.mark.slow
def test_saving_does_not_disturb_the_run(tmp_path):
    _, straight = run(unet_trainer())
    _, saved = run(unet_trainer(), checkpoint=tmp_path / "s.safetensors", save_every=1)
    assert same(straight, saved)
    assert [p.name for p in tmp_path.iterdir()] == ["s.safetensors"]


def test_what_is_loaded_does_not_hang_on_the_file(tmp_path):
    path = tmp_path / "s.safetensors"
    _, straight = run(line_trainer())
    first = line_trainer()
    for _ in range(4):
        first.update()
    first.save(path)
    second = line_trainer()
    second.load(path)
    with open(path, "r+b") as file:  # overwritten in place, as a careless copy does
        file.write(b"\0" * path.stat().st_size)
    assert same(straight, run(second)[1])


def test_same_seed_same_bits_other_seed_other_bits():
    _, a = run(unet_trainer())
    torch.rand(3)
    _, b = run(unet_trainer())
    assert same(a, b)
    _, c = run(unet_trainer(replace(SETTINGS, seed=6)))
    assert all(unequal(a[k], c[k]) for k in a if k.startswith("model.net.inp"))


def test_a_finished_run_has_nothing_left_to_do(tmp_path):
    path = tmp_path / "s.safetensors"
    _, done = run(line_trainer(), checkpoint=path, save_every=5)
    content = path.read_bytes()
    again = line_trainer()
    again.load(path)
    losses, after = run(again, checkpoint=path)
    assert losses == [] and same(done, after) and path.read_bytes() == content


KILL = """
import builtins, json, os, random, signal, sys, time
from pathlib import Path

sys.path[:0] = sys.argv[1:3]
import torch
torch.set_num_threads(1)
import safetensors.torch, torch._dynamo  # once, not in every child
from ddpmlib import files, training
import test_training as t

class Slow:
    '''A file on a slow disk: a kill mostly finds a write half done.'''
    def __init__(self, path, mode):
        self.file = builtins.open(path, mode)
    def write(self, content):
        for i in range(0, len(content), 16384):
            self.file.write(content[i : i + 16384])
            self.file.flush()
            time.sleep(0.0005)
    def __getattr__(self, name):
        return getattr(self.file, name)
    def __enter__(self):
        return self
    def __exit__(self, *error):
        self.file.close()

def child(path, slow):
    pid = os.fork()
    if pid:
        return pid
    try:
        if slow:
            files.open = Slow
        trainer = t.unet_trainer(SETTINGS)
        if path.exists():
            trainer.load(path)
        for _ in training.fit(trainer, checkpoint=path, save_every=1):
            pass
        os._exit(0)
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)

def written(path):
    return path.stat().st_mtime_ns if path.exists() else 0

def parts():
    return list(folder.glob(f".{killed.name}.*.part"))

SETTINGS = t.replace(t.SETTINGS, steps=20)
folder = Path(sys.argv[3])
straight, killed = folder / "straight.safetensors", folder / "killed.safetensors"
assert os.waitstatus_to_exitcode(os.waitpid(child(straight, False), 0)[1]) == 0
rng, steps, halves = random.Random(0), [], 0
while True:
    pid = child(killed, slow=True)
    if len(steps) < 6:
        limit = time.monotonic() + 120
        for _ in range(rng.randrange(1, 4)):  # writes
            before = written(killed)
            while written(killed) == before and time.monotonic() < limit:
                time.sleep(0.0005)
        while not parts() and time.monotonic() < limit:
            time.sleep(0.0005)
        time.sleep(rng.uniform(0, 0.02))
        os.kill(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code == 0:
        break
    assert code == -9, code
    halves += bool(parts())
    steps.append(int(files.read_safetensors(killed)[1]["step"]) if killed.exists() else 0)
print(json.dumps({"steps": steps, "halves": halves}))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
@pytest.mark.slow
def test_killed_again_and_again_during_writes_ends_in_the_same_bits(tmp_path):
    command = [sys.executable, "-c", KILL, str(ROOT), str(ROOT / "tests"), str(tmp_path)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, encoding="utf-8", timeout=600)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert len(report["steps"]) >= 3 and report["halves"] >= 2, report  # it was put to the test
    assert report["steps"] == sorted(report["steps"])  # no kill threw the run back
    straight, header = files.read_safetensors(tmp_path / "straight.safetensors")
    resumed, other = files.read_safetensors(tmp_path / "killed.safetensors")
    assert header == other and header["step"] == "20"
    assert same(straight, resumed)
    assert not list(tmp_path.glob(".*.part"))  # the next process has tidied up


def test_stray_parts_are_harmless(tmp_path):
    path = tmp_path / "s.safetensors"
    part = tmp_path / ".s.safetensors.0123abcd.part"
    part.write_bytes(b"half of something")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        line_trainer().load(path)
    trainer = line_trainer()
    trainer.update()
    trainer.save(path)
    assert not part.exists()
    part.write_bytes(b"half of something")
    again = line_trainer()
    again.load(path)
    assert again.step == 1


# ---- files that do not fit ----------------------------------------------------------------------


@pytest.fixture
def state(tmp_path):
    trainer = unet_trainer(recipe={"data": "digits", "net": {"width": 8, "mults": (1, 2)}})
    trainer.update()
    trainer.update()
    trainer.save(tmp_path / "state.safetensors")
    return tmp_path / "state.safetensors"


def refused(trainer, path, match):
    trainer.update()
    before = everything(trainer)
    with pytest.raises(ValueError, match=match) as caught:
        trainer.load(path)
    assert "\n" not in str(caught.value) and path.name in str(caught.value)
    assert same(before, everything(trainer))


@pytest.mark.parametrize(
    "change",
    [{"steps": 13}, {"lr": 2e-3}, {"batch_size": 5}, {"ema": 0.9}, {"clip": 2.0}, {"seed": 6},
     {"warmup": 2}, {"weight_decay": 0.0}],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_other_settings_are_refused(state, change):
    ((name, value),) = change.items()
    here = f"{name} = {getattr(SETTINGS, name)}, not {value}"
    refused(unet_trainer(replace(SETTINGS, **change)), state, here)


def test_another_recipe_is_refused_though_the_network_is_the_same(state):
    same_recipe = {"data": "digits", "net": {"width": 8, "mults": [1, 2]}}
    trainer = unet_trainer(recipe=same_recipe)
    trainer.load(state)
    assert trainer.step == 2
    unet_trainer().load(state)  # who does not say, is not asked
    refused(unet_trainer(recipe=same_recipe | {"data": "mnist"}), state, "data = digits, not mnist")
    deeper = {"data": "digits", "net": {"width": 8, "mults": [1, 4]}}
    refused(unet_trainer(recipe=deeper), state, r"mults = \[1, 2\], not \[1, 4\]")


def test_other_data_are_refused(state):
    trainer = unet_trainer()
    trainer.x = trainer.x[:-1]
    refused(trainer, state, "samples = 20, not 19: resume with the same images")


def test_another_network_is_refused(state):
    refused(unet_trainer(width=16), state, "another network: model.net.* is .* and .* in the file")


def test_a_larger_network_with_the_same_beginning_is_refused(tmp_path):
    torch.manual_seed(0)
    x = torch.randn(30, 2)
    layers = [nn.Linear(2, 2), nn.Linear(2, 2)]
    long = Trainer(nn.Sequential(*layers), line_loss, x, None, SETTINGS, device="cpu")
    long.update()
    long.save(tmp_path / "long.safetensors")
    short = Trainer(nn.Sequential(layers[0]), line_loss, x, None, SETTINGS, device="cpu")
    refused(short, tmp_path / "long.safetensors", "another network: here is no ema.module.1.bias")
    short.save(tmp_path / "short.safetensors")
    refused(long, tmp_path / "short.safetensors", "another network: model.1.weight .* missing")


def rewritten(path, change_tensors=None, **header):
    tensors, old = files.read_safetensors(path)
    tensors = {k: change_tensors(k, v) for k, v in tensors.items()} if change_tensors else tensors
    kept = {k: v for k, v in (old | header).items() if v is not None}
    tensors = {k: v for k, v in tensors.items() if v is not None}
    # As if it had been saved like that: whatever else is wrong is to be noticed too.
    kept["sha256"] = training.state.digest(tensors, kept)
    save_file(tensors, path, metadata=kept)


@pytest.mark.parametrize(
    "change",
    [
        lambda k, v: v.double() if k.endswith("inp.weight") else v,  # would be rounded silently
        lambda k, v: v[:1].clone() if k == "optimiser.0.exp_avg" else v,
        lambda k, v: None if k == "ema.module.net.inp.bias" else v,
    ],
)
def test_tensors_that_do_not_fit_are_refused(state, change):
    rewritten(state, change)
    refused(unet_trainer(), state, "another network")


@pytest.mark.parametrize(
    "header",
    [{"format": "other"}, {"format": None}, {"step": None}, {"step": "many"}, {"settings": "{"},
     {"settings": None}],
)  # fmt: skip
def test_damaged_headers_are_refused(state, header):
    rewritten(state, **header)
    refused(unet_trainer(), state, "not a training state|damaged header|settings = None")


@pytest.mark.parametrize("keep", [0, 5, 100, 0.5, -1])
def test_truncated_files_are_refused(state, keep):
    content = state.read_bytes()
    cut = int(len(content) * keep) if 0 < keep < 1 else keep
    state.write_bytes(content[:cut])
    refused(unet_trainer(), state, "not a whole safetensors file")


def test_foreign_files_are_refused(tmp_path):
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(3)}, foreign)
    refused(unet_trainer(), foreign, "not a training state of this library")
    torch.save({"weight": torch.zeros(3)}, foreign)
    refused(unet_trainer(), foreign, "not a whole safetensors file")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        unet_trainer().load(tmp_path)


# ---- when it goes wrong -------------------------------------------------------------------------


def breaking_at(step, value=float("nan")):
    """A loss that is no number from update number ``step`` on."""
    calls = []

    def loss(model, x, y, generator):
        calls.append(1)
        return line_loss(model, x, y, generator) * (value if len(calls) >= step else 1)

    return loss


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("check_every", [1, 50])
def test_a_broken_loss_keeps_the_last_good_checkpoint(tmp_path, value, check_every):
    path = tmp_path / "s.safetensors"
    trainer = line_trainer(loss=breaking_at(7, value))
    updates = fit(trainer, checkpoint=path, save_every=5, check_every=check_every)
    assert [next(updates).step for _ in range(5)] == [1, 2, 3, 4, 5]
    kept = path.read_bytes()
    with pytest.raises(TrainingDiverged, match="loss is (nan|inf) at step") as caught:
        list(updates)
    assert trainer.step == (7 if check_every == 1 else 10)
    assert path.read_bytes() == kept
    assert str(path) in str(caught.value) and "Lower the learning rate" in str(caught.value)
    resumed = line_trainer()
    resumed.load(path)
    assert same(run(line_trainer())[1], run(resumed)[1])


def test_a_broken_loss_without_a_checkpoint_promises_none(tmp_path):
    for checkpoint in (None, tmp_path / "never.safetensors"):
        with pytest.raises(TrainingDiverged) as caught:
            run(line_trainer(loss=breaking_at(2)), checkpoint=checkpoint)
        assert "kept" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_last_loss_is_looked_at_too():
    with pytest.raises(TrainingDiverged, match="step 12"):
        run(line_trainer(loss=breaking_at(12)))


@pytest.mark.parametrize("where", ["model", "ema", "optimiser"])
def test_weights_that_are_not_finite_are_never_saved(tmp_path, where):
    path = tmp_path / "s.safetensors"
    trainer = line_trainer()
    trainer.update()
    trainer.save(path)
    kept = path.read_bytes()
    target = {
        "model": trainer.model.weight.data,
        "ema": trainer.ema.module.weight.data,
        "optimiser": trainer.optimiser.state[trainer.model.weight]["exp_avg"],
    }[where]
    target[0, 0] = float("inf")
    with pytest.raises(TrainingDiverged, match=f"{where}.* is not finite after step 1"):
        trainer.save(path)
    assert path.read_bytes() == kept


def test_a_finite_loss_with_an_infinite_gradient_is_not_saved(tmp_path):
    def loss(model, x, y, generator):
        return line_loss(model, x, y, generator) + (model.weight.sum() * 0).sqrt()

    path = tmp_path / "s.safetensors"
    with pytest.raises(TrainingDiverged, match="not finite after step 1"):
        run(line_trainer(loss=loss), checkpoint=path, save_every=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_full_disk_keeps_the_last_checkpoint(tmp_path, monkeypatch, broken):
    path = tmp_path / "s.safetensors"
    trainer = line_trainer()
    updates = fit(trainer, checkpoint=path, save_every=2)
    for _ in range(3):
        next(updates)
    kept = path.read_bytes()

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, broken, full)
    with pytest.raises(OSError, match="cannot write .*s.safetensors: No space left") as caught:
        next(updates)
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == kept and [p.name for p in tmp_path.iterdir()] == [path.name]
    monkeypatch.undo()
    resumed = line_trainer()
    resumed.load(path)
    assert resumed.step == 2 and same(run(line_trainer())[1], run(resumed)[1])


def test_a_path_below_a_file_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("", "utf-8")
    with pytest.raises(OSError, match="cannot write .*file/s.safetensors"):
        line_trainer().save(tmp_path / "file" / "s.safetensors")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write all")
def test_a_folder_that_takes_no_files_is_one_sentence(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PermissionError, match="cannot write .*s.safetensors"):
            line_trainer().save(tmp_path / "s.safetensors")
    finally:
        tmp_path.chmod(0o700)


def test_the_content_is_on_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    events, fsync, rename = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append(os.fstat(fd).st_size), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda *names: (events.append("renamed"), rename(*names)))
    files.write_atomically(tmp_path / "new" / "f", b"12345")
    assert events == [5, "renamed"]
    assert (tmp_path / "new" / "f").read_bytes() == b"12345"


# ---- one update ---------------------------------------------------------------------------------


def test_ema_equals_the_hand_computed_one():
    trainer = line_trainer(settings=replace(SETTINGS, ema=0.4))
    expected = trainer.model.weight.detach().double()
    for n, _ in enumerate(fit(trainer)):
        decay = min(0.4, (1 + n) / (10 + n))  # the bound counts from n = 5 on
        expected = decay * expected + (1 - decay) * trainer.model.weight.detach().double()
        assert torch.allclose(trainer.averaged.weight.double(), expected, atol=1e-6)
    assert not torch.allclose(trainer.averaged.weight, trainer.model.weight)


def test_averaged_is_in_evaluation_mode_and_training_is_not():
    seen = []

    def loss(model, *rest):
        seen.append(model.training)
        return unet_loss(model, *rest)

    trainer = unet_trainer(loss=loss)
    assert not trainer.averaged.training
    trainer.model.eval()  # as after a look at samples
    trainer.update()
    assert seen == [True]


def test_averages_of_normalisation_statistics_follow_the_model():
    def loss(model, x, y, generator):
        return (model(x) ** 2).mean() + line_loss(model[0], x, y, generator)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    trainer = Trainer(model, loss, torch.randn(30, 2) + 3, None, SETTINGS, device="cpu")
    run(trainer)
    assert int(trainer.averaged[1].num_batches_tracked) == 12
    assert torch.equal(trainer.averaged[1].running_mean, model[1].running_mean)


def test_learning_rates():
    s = Settings(steps=110, lr=2.0, warmup=10)
    assert [s.lr_at(k) for k in (0, 4, 9)] == [pytest.approx(v) for v in (0.2, 1.0, 2.0)]
    assert [s.lr_at(k) for k in (10, 35, 60, 85, 110)] == [
        pytest.approx(v, abs=1e-12) for v in (2.0, 1 + 0.5**0.5, 1.0, 1 - 0.5**0.5, 0.0)
    ]
    assert s.lr_at(10_000) == pytest.approx(0, abs=1e-12)
    assert Settings(steps=10, lr=2.0, warmup=0).lr_at(0) == 2.0
    assert Settings(steps=1, lr=2.0, warmup=1).lr_at(0) == 2.0
    short = Settings(steps=3, lr=2.0, warmup=50)
    assert [short.lr_at(k) for k in range(3)] == [pytest.approx(v) for v in (0.04, 0.08, 0.12)]


def test_updates_use_the_learning_rate_of_their_step():
    trainer = line_trainer()
    for k, progress in enumerate(fit(trainer)):
        assert progress.step == k + 1 and progress.lr == SETTINGS.lr_at(k)
        assert trainer.optimiser.param_groups[0]["lr"] == progress.lr


def test_one_update_is_adamw_by_hand():
    settings = replace(SETTINGS, steps=1, warmup=1, lr=0.01, clip=1e9, weight_decay=0.1)
    trainer = line_trainer(settings, loss=lambda m, x, y, g: (m.weight * 3).sum())
    before = trainer.model.weight.detach().clone()
    trainer.update()
    # The first step of Adam is lr · sign(gradient); decay is decoupled from it.
    expected = before * (1 - 0.01 * 0.1) - 0.01
    assert torch.allclose(trainer.model.weight, expected, atol=1e-6)


@pytest.mark.parametrize(("clip", "norm"), [(0.5, 0.5), (1e9, 6.0)])
def test_gradients_are_clipped(clip, norm):
    settings = replace(SETTINGS, clip=clip)
    trainer = line_trainer(settings, loss=lambda m, x, y, g: 3 * m.weight.sum())
    trainer.update()
    assert float(trainer.model.weight.grad.norm()) == pytest.approx(norm, rel=1e-5)


def test_images_stay_uint8_and_are_scaled_on_the_fly():
    x, y = images()
    seen = []

    def loss(model, xb, yb, generator):
        seen.append((xb, yb))
        return model(xb.flatten(1)).mean()

    trainer = Trainer(nn.Linear(64, 1), loss, x, y, SETTINGS, device="cpu")
    run(trainer)
    assert trainer.x.dtype == torch.uint8 and trainer.x.data_ptr() == x.data_ptr()
    for k, (xb, yb) in enumerate(seen):
        index = data.Batches(20, 6, SETTINGS.seed)[k]
        assert xb.dtype == torch.float32 and torch.equal(xb, x[index].float() / 127.5 - 1)
        assert torch.equal(yb, y[index])
    assert len({tuple(xb.flatten().tolist()) for xb, _ in seen}) == 12


def test_points_are_taken_as_they_are():
    seen = []

    def loss(model, x, y, generator):
        seen.append(x)
        assert y is None
        return line_loss(model, x, y, generator)

    trainer = line_trainer(loss=loss)
    trainer.update()
    assert torch.equal(seen[0], trainer.x[data.Batches(30, 6, SETTINGS.seed)[0]])


@pytest.mark.parametrize(("bf16", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_bf16_switch(bf16, dtype):
    seen = []

    def loss(model, x, y, generator):
        out = model(x)
        seen.append(out.dtype)
        return (out.float() ** 2).mean()

    trainer = line_trainer(loss=loss, bf16=bf16)
    run(trainer)
    assert set(seen) == {dtype}
    assert trainer.model.weight.dtype == torch.float32


def test_bf16_is_off_on_the_cpu_unless_asked_for():
    assert line_trainer().bf16 is False and line_trainer(bf16=True).bf16 is True


@pytest.mark.slow
def test_bf16_runs_a_whole_denoiser_and_resumes(tmp_path):
    _, straight = run(unet_trainer(bf16=True))
    first = unet_trainer(bf16=True)
    for _ in range(4):
        first.update()
    first.save(tmp_path / "s.safetensors")
    second = unet_trainer(bf16=True)
    second.load(tmp_path / "s.safetensors")
    assert same(straight, run(second)[1])
    assert straight["model.net.inp.weight"].isfinite().all()


@pytest.mark.slow
def test_compile_switch():
    torch._dynamo.reset()
    cpp = pytest.importorskip("torch._inductor.cpp_builder")
    try:
        cpp.get_cpp_compiler()
    except Exception as error:
        pytest.skip(f"no C++ compiler: {error}")

    def loss(model, x, y, generator):
        return ((model(x) - 1) ** 2).mean()

    _, plain = run(line_trainer(loss=loss))
    trainer = line_trainer(loss=loss, compile=True)
    assert trainer.model._compiled_call_impl is not None
    _, compiled = run(trainer)
    assert torch.allclose(plain["model.weight"], compiled["model.weight"], atol=1e-5)


# ---- a loss that remembers ----------------------------------------------------------------------


class Counts(nn.Module):
    """A loss that grows with every batch it has seen, and has weights that are not trained."""

    def __init__(self, size=2):
        super().__init__()
        self.register_buffer("seen", torch.zeros(size, dtype=torch.int64))

    def forward(self, model, x, y, generator):
        self.seen += len(x)
        return (1 + self.seen.sum() / 100) * line_loss(model, x, y, generator)


@pytest.mark.parametrize("k", [1, 7])
def test_what_a_loss_remembers_is_saved_and_resumed(tmp_path, k):
    losses, straight = run(line_trainer(loss=Counts()))
    assert straight["loss.seen"].tolist() == [72, 72]
    first = line_trainer(loss=Counts())
    for _ in range(k):
        first.update()
    first.save(tmp_path / "s.safetensors")
    second = line_trainer(loss=Counts())
    second.load(tmp_path / "s.safetensors")
    later, resumed = run(second)
    assert later == losses[k:] and same(straight, resumed)


def test_a_state_with_another_memory_is_refused(tmp_path):
    plain, counted = tmp_path / "plain.safetensors", tmp_path / "counted.safetensors"
    for path, loss in ((plain, line_loss), (counted, Counts())):
        trainer = line_trainer(loss=loss)
        trainer.update()
        trainer.save(path)
    refused(line_trainer(), counted, "another network: here is no loss.seen")
    refused(line_trainer(loss=Counts()), plain, "loss.seen is .* here and missing in the file")
    refused(line_trainer(loss=Counts(3)), counted, r"loss.seen is \(3,\) .* and \(2,\)")


def importance_trainer(**options):
    """L_vlb at times drawn by importance; the warm-up of 2 x 5 losses ends within the run."""
    torch.manual_seed(5)
    times = ImportanceTimes(T=5, memory=2)

    class Memory(nn.Module):
        def __init__(self):
            super().__init__()
            self.times = times

        def forward(self, model, x, y, generator):
            return objectives.diffusion_loss(
                model, x, y, generator, objective=l_vlb, times=self.times
            )

    x = torch.randn(30, 2, generator=torch.Generator().manual_seed(2)).clamp(-1, 1)
    model = Denoiser(MLP(2, width=8, depth=1, outputs=2), DDPM(cosine(5)), V, var_mix=None)
    return Trainer(model, Memory(), x, None, SETTINGS, device="cpu", **options)


@pytest.mark.parametrize("k", [1, 10])
def test_importance_times_resume_bit_exact(tmp_path, k):
    losses, straight = run(importance_trainer())
    seen = straight["loss.times.seen"]
    assert seen.sum() == 72 and bool((seen >= 2).all())  # the warm-up is over
    first = importance_trainer()
    for _ in range(k):
        first.update()
    first.save(tmp_path / "s.safetensors")
    second = importance_trainer()
    second.load(tmp_path / "s.safetensors")
    later, resumed = run(second)
    assert later == losses[k:] and same(straight, resumed)
    forgetful = importance_trainer()
    forgetful.load(tmp_path / "s.safetensors")
    forgetful._memory.times.seen.zero_()
    if k == 10:  # without its memory it would draw other times
        assert run(forgetful)[0] != losses[k:]


def test_importance_times_work_in_a_compiled_loss(monkeypatch):
    """The drawing stays outside of the graph: the history is that of the plain run."""
    torch._dynamo.reset()
    losses, straight = run(importance_trainer())
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, mode: real(f, backend="eager"))
    compiled = importance_trainer(compile=True)
    assert compiled.model.net._compiled_call_impl is not None
    found, after = run(compiled)
    assert found == pytest.approx(losses, rel=1e-4)
    assert torch.equal(after["loss.times.seen"], straight["loss.times.seen"])
    history = after["loss.times.history"]
    torch.testing.assert_close(history, straight["loss.times.history"], rtol=1e-3, atol=1e-4)


# ---- what is refused at the door ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"steps": 0}, "steps must be positive"),
        ({"steps": 2.5}, "steps must be a whole number"),
        ({"batch_size": 0}, "batch_size must be positive"),
        ({"lr": 0.0}, "lr must be positive"),
        ({"lr": float("nan")}, "lr must be positive"),
        ({"clip": -1.0}, "clip must be positive"),
        ({"ema": 1.0}, r"ema must lie in \[0, 1\)"),
        ({"ema": -0.1}, r"ema must lie in \[0, 1\)"),
        ({"warmup": -1}, "must not be negative"),
        ({"weight_decay": float("nan")}, "must not be negative"),
        ({"seed": -1}, "seed must lie in"),
        ({"seed": 2**32}, "seed must lie in"),
    ],
)
def test_settings_out_of_range(change, match):
    with pytest.raises(ValueError, match=match):
        replace(SETTINGS, **change)


def test_the_largest_seed_works():
    run(line_trainer(replace(SETTINGS, seed=2**32 - 1, steps=2)))


def test_trainer_refuses_data_that_do_not_fit():
    x, y = images()
    with pytest.raises(ValueError, match="got 19 labels for 20 samples"):
        Trainer(nn.Linear(2, 2), line_loss, x, y[:-1], SETTINGS, device="cpu")
    with pytest.raises(ValueError, match=r"batch_size must lie in 1..20"):
        Trainer(nn.Linear(2, 2), line_loss, x, y, replace(SETTINGS, batch_size=21), device="cpu")


@pytest.mark.parametrize("options", [{"save_every": 0}, {"check_every": 0}])
def test_fit_refuses_to_divide_by_zero(options):
    with pytest.raises(ValueError, match="at least 1 update"):
        next(fit(line_trainer(), **options))


def test_the_hardware_is_a_name_and_how_much_of_it_was_used():
    cpu = torch.device("cpu")
    threads = torch.get_num_threads()
    assert training.device_name(cpu) == training.processor() != ""
    assert training.hardware(cpu).startswith(f"{training.processor()}, {threads} thread")


def test_default_device_is_usable():
    assert torch.empty(1, device=training.default_device()).numel() == 1
