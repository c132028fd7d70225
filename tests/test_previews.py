"""Grids while a model is trained: when, of what, and that training does not notice."""

import sys
import types
from dataclasses import replace

import numpy as np
import pytest
import torch

from ddpmlib import plots, samplers, training, zoo
from ddpmlib.files import read_safetensors
from ddpmlib.models import UNetConfig
from ddpmlib.training import Settings
from ddpmlib.zoo import DiffusionRecipe, previews, recipes, runs, tensorboard

Image = pytest.importorskip("PIL.Image")
NET = UNetConfig(
    width=8, mults=(1,), attention=(False,), heads=1, groups=4, num_classes=10, dropout=0.1
)
SETTINGS = Settings(steps=7, batch_size=8, warmup=2, ema=0.5)
TINY = DiffusionRecipe("tiny", "digits", NET, SETTINGS, times="importance")


def train(folder, recipe=TINY, **options):
    return runs.train(recipe, folder, device="cpu", log_every=2, **options)


def grids(folder):
    return {p.name: p.read_bytes() for p in (folder / "samples").iterdir()}


def interrupted(monkeypatch, at):
    def fit(trainer, **options):
        for progress in training.fit(trainer, **options):
            yield progress
            if progress.step == at:
                raise KeyboardInterrupt

    monkeypatch.setattr(runs, "fit", fit)


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """A run with grids; tests only read it."""
    folder = tmp_path_factory.mktemp("runs") / "watched"
    train(folder, sample_every=3)
    return folder


def told(header):
    """All but how the run was watched, and the digest of all."""
    return {k: v for k, v in header.items() if k not in ("stretches", "sha256")}


def test_a_run_that_goes_on_draws_its_grids_as_before(tmp_path):
    train(tmp_path, sample_every=3)
    longer = recipes.changed(TINY, {"settings.steps": 9})
    runs.train(longer, tmp_path, device="cpu", resume=True)
    assert set(grids(tmp_path)) == {f"{k:06d}.png" for k in (3, 6, 7, 9)}


def test_a_run_reaches_the_same_bits_with_grids_and_without(watched, tmp_path):
    """With dropout, drawn labels and drawn times, all of which use random numbers."""
    train(tmp_path)
    assert not (tmp_path / "samples").exists()
    for name in (zoo.STATE, zoo.MODEL):
        found, header = read_safetensors(tmp_path / name)
        expected, same_header = read_safetensors(watched / name)
        assert found.keys() == expected.keys() and told(header) == told(same_header)
        assert [k for k, v in found.items() if not torch.equal(v, expected[k])] == []


def test_nothing_is_drawn_from_the_common_random_numbers(tmp_path):
    trainer = training.Trainer(
        TINY.build(), TINY.loss(), torch.zeros(8, 1, 8, 8), torch.arange(8), SETTINGS, device="cpu"
    )
    trainer.update()
    before = torch.get_rng_state(), trainer.generator.get_state(), trainer.model.training
    previews.Previews(tmp_path, trainer, (1, 8, 8), 10, 1).draw()
    after = torch.get_rng_state(), trainer.generator.get_state(), trainer.model.training
    assert all(torch.equal(a, b) for a, b in zip(before[:2], after[:2], strict=True))
    assert before[2] == after[2] and trainer.averaged.net.inp.weight.grad is None


def test_there_is_a_grid_after_every_so_many_updates_and_at_the_end(watched):
    assert sorted(grids(watched)) == ["000003.png", "000006.png", "000007.png"]
    assert len(set(grids(watched).values())) == 3  # other weights, other samples


def test_a_grid_is_of_the_averaged_weights_the_classes_in_turn_from_noise_of_their_numbers(watched):
    denoiser, _ = zoo.load(watched, "cpu")
    noise = samplers.SampleNoise(0, range(40)).like(torch.empty(40, 1, 8, 8))
    y, times = torch.arange(40) % 10, samplers.uniform_times(1000, 20)
    x0 = samplers.draw(denoiser, denoiser.process, noise, times, eta=0.0, y=y)
    plots.save_grid(x0, watched.parent / "expected.png")
    assert (watched.parent / "expected.png").read_bytes() == grids(watched)["000007.png"]


def test_a_model_without_classes_and_with_few_steps_is_drawn_too(tmp_path):
    recipe = replace(TINY, net=replace(NET, num_classes=0), T=5, times="uniform")
    train(tmp_path, replace(recipe, settings=replace(SETTINGS, steps=1)), sample_every=5)
    assert list(grids(tmp_path)) == ["000001.png"]


@pytest.mark.parametrize("at", [2, 3, 6, 7])
@pytest.mark.slow
def test_an_interrupted_run_comes_to_the_same_grids(watched, tmp_path, monkeypatch, at):
    """Also where it was killed after the state was saved, and before the grid was drawn."""
    with monkeypatch.context() as patch:
        interrupted(patch, at)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, sample_every=3, save_every=1)
    for path in tmp_path.glob(f"samples/00000{at}.png"):
        path.unlink()
    train(tmp_path, sample_every=3, save_every=1, resume=True)
    assert grids(tmp_path) == grids(watched)


def test_the_frames_of_a_film_are_the_grids_in_order(watched, tmp_path):
    found = previews.pictures(watched)
    assert list(found) == [3, 6, 7]
    for step, pixels in found.items():
        with Image.open(watched / "samples" / f"00000{step}.png") as image:
            assert np.array_equal(pixels, np.asarray(image.convert("RGB")))
    folder = tmp_path / "samples"
    folder.mkdir()
    for name in ("1000000.png", "000009.png", "notes.png"):
        (folder / name).write_bytes(grids(watched)["000003.png"])
    assert list(previews.pictures(tmp_path)) == [9, 1_000_000]


def test_what_is_no_grid_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no grids in .*samples: train with --sample-every"):
        previews.pictures(tmp_path)
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "000001.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    with pytest.raises(ValueError, match=r"000001.png is no picture"):
        previews.pictures(tmp_path)


def test_what_draws_no_samples_is_refused_before_training(tmp_path):
    with pytest.raises(ValueError, match="a classifier draws no samples"):
        train(tmp_path / "r", zoo.RECIPES["digits-classifier"], sample_every=1)
    with pytest.raises(ValueError, match="at least 1 update between grids, got 0"):
        train(tmp_path / "r", sample_every=0)
    assert not (tmp_path / "r").exists()


# ---- TensorBoard -------------------------------------------------------------------------------


@pytest.fixture
def writers(monkeypatch):
    """A package that notes what it is told, in place of TensorBoard."""
    made = []

    class SummaryWriter:
        def __init__(self, log_dir, purge_step):
            self.folder, self.purged, self.scalars, self.images = log_dir, purge_step, {}, {}
            self.open = True
            made.append(self)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.open = False

        def add_scalar(self, tag, value, step):
            self.scalars.setdefault(tag, {})[step] = value

        def add_image(self, tag, pixels, step, dataformats):
            assert dataformats == "HWC" and tag == "samples"
            self.images[step] = pixels

    fake = types.ModuleType("torch.utils.tensorboard")
    fake.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    return made


def test_events_are_the_rows_of_the_log_and_the_grids(writers, watched, tmp_path):
    train(tmp_path, sample_every=3, tensorboard=True)
    (writer,) = writers
    assert writer.folder == str(tmp_path / "tensorboard") and writer.purged == 1
    assert not writer.open
    log = zoo.read_log(tmp_path / zoo.LOG)
    assert log["step"] == [2, 4, 6, 7]
    for key, name in (("loss", "loss"), ("lr", "learning rate")):
        assert writer.scalars[name] == dict(zip(log["step"], log[key], strict=True))
    speeds = dict(zip(log["step"], log["images_per_s"], strict=True))
    assert writer.scalars["images per second"] == speeds
    expected = previews.pictures(tmp_path)
    assert writer.images.keys() == expected.keys()
    assert all(np.array_equal(writer.images[k], v) for k, v in expected.items())
    state = read_safetensors(watched / zoo.STATE)[0]
    assert all(
        torch.equal(v, state[k]) for k, v in read_safetensors(tmp_path / zoo.STATE)[0].items()
    )


def test_a_resumed_run_hides_the_events_that_come_again(writers, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupted(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, tensorboard=True, save_every=3)
    train(tmp_path, tensorboard=True, resume=True)
    first, second = writers
    assert not first.open and not second.open and first.purged == 1 and second.purged == 4
    assert list(second.scalars["loss"]) == [4, 6, 7] and not second.images


def test_without_the_package_there_is_one_sentence_and_no_run(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r"pip install 'ddpmlib\[tensorboard\]'"):
        train(tmp_path / "r", tensorboard=True)
    assert not (tmp_path / "r").exists()


def test_events_are_read_by_tensorboard_itself(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard, an extra, is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tmp_path, sample_every=7, tensorboard=True)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    log = zoo.read_log(tmp_path / zoo.LOG)
    found = {e.step: e.value for e in events.Scalars("loss")}
    assert list(found) == log["step"]
    assert list(found.values()) == pytest.approx(log["loss"], rel=1e-6)
    assert [e.step for e in events.Images("samples")] == [7]
    assert tensorboard.EVENTS == "tensorboard"
