"""What a trainer takes: arrays, tensors, samples that workers read; and what it refuses."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from ddpmlib import data
from ddpmlib.data import MapStyle
from ddpmlib.denoiser import Denoiser, V
from ddpmlib.losses import objectives
from ddpmlib.models import Classifier, ClassifierConfig, UNet, UNetConfig
from ddpmlib.process import DDPM
from ddpmlib.process.schedules import cosine
from ddpmlib.training import Settings, Trainer, fit, inputs, reader

SETTINGS = Settings(steps=12, batch_size=6, lr=3e-3, warmup=3, ema=0.8, seed=5)


def images(n=20):
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(0, 256, (n, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return x, torch.arange(n) % 3


class Items(torch.utils.data.Dataset):
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], int(self.y[i])


def noise_loss(model, x, y, generator):
    return objectives.diffusion_loss(model, x, y, generator, label_dropout=0.3)


def denoiser(num_classes=3):
    torch.manual_seed(0)
    config = UNetConfig(
        width=8, mults=(1,), attention=(False,), heads=2, num_classes=num_classes, dropout=0.2,
        groups=4,
    )  # fmt: skip
    return Denoiser(UNet(config), DDPM(cosine(50)), V)


def trainer(x, y, settings=SETTINGS, model=None, **options):
    return Trainer(model or denoiser(), noise_loss, x, y, settings, device="cpu", **options)


def point_loss(model, x, y, generator):
    return ((model(x.flatten(1)) - 1) ** 2).mean()


def weights(trained):
    return {k: v.clone() for k, v in trained.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# ---- from memory and from elsewhere ------------------------------------------------------------


@pytest.mark.parametrize(
    ("workers", "accumulate"),
    [(0, 1), (0, 3), pytest.param(2, 1, marks=pytest.mark.slow)],
)
def test_memory_and_workers_give_the_same_weights(workers, accumulate):
    x, y = images()
    known = trainer(x, y, accumulate=accumulate)
    losses = [p.loss.item() for p in fit(known)]
    read = trainer(MapStyle(Items(x, y)), y, workers=workers, accumulate=accumulate)
    assert [p.loss.item() for p in fit(read)] == losses
    assert same(weights(known), weights(read))


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_resume_in_the_middle_of_an_epoch_gives_the_same_weights(tmp_path, workers):
    x, y = images()
    samples = MapStyle(Items(x, y))
    known = trainer(x, y)
    list(fit(known))
    first = trainer(samples, y, workers=workers)
    for _ in range(4):  # three batches are an epoch
        first.update()
    first.save(tmp_path / "state")
    second = trainer(samples, y, workers=workers)
    second.load(tmp_path / "state")
    list(fit(second))
    assert same(weights(known), weights(second))


def test_going_back_reads_from_there():
    x, y = images()
    read = trainer(MapStyle(Items(x, y)), y)
    before = weights(read)
    losses = [read.update().loss.item() for _ in range(5)]
    read.load_state_dict(before)
    read.step = 0
    assert [read.update().loss.item() for _ in range(5)] == losses


def test_a_reader_asks_for_each_batch_once_and_in_order():
    asked = []

    class Places:
        def __len__(self):
            return 100

        def batch(self, indices):
            asked.append(indices.tolist())
            return indices[:, None].float()

    found = reader.Reader(Places(), lambda k: torch.tensor([k, 2 * k]), 0, pinned=False)
    assert [found.batch(k)[:, 0].tolist() for k in (0, 1, 2, 7, 8)] == [
        [0, 0], [1, 2], [2, 4], [7, 14], [8, 16],
    ]  # fmt: skip
    assert asked == [[0, 0], [1, 2], [2, 4], [7, 14], [8, 16]]


def test_reading_leaves_the_random_numbers_alone():
    x, y = images()
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    read = reader.Reader(MapStyle(Items(x, y)), lambda k: torch.tensor([k]), 0, pinned=False)
    read.batch(0), read.batch(5)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("workers", [-1, 1.5])
def test_a_number_of_workers_is_a_whole_number(workers):
    with pytest.raises(ValueError, match="workers counts processes"):
        trainer(MapStyle(Items(*images())), images()[1], workers=workers)


# ---- which data --------------------------------------------------------------------------------


def test_a_state_of_other_data_is_refused(tmp_path):
    x, y = images()
    first = trainer(x, y)
    first.update()
    first.save(tmp_path / "state")
    other = x.clone()
    other[3, 0, 2, 1] ^= 1
    for changed in (trainer(other, y), trainer(x, (y + 1) % 3)):
        before = weights(changed)
        with pytest.raises(
            ValueError, match="trained on other data .* resume with the same images"
        ):
            changed.load(tmp_path / "state")
        assert same(before, weights(changed)) and changed.step == 0
    twin = trainer(x.clone(), y.clone())
    twin.load(tmp_path / "state")
    assert twin.step == 1


def test_a_given_fingerprint_is_taken(tmp_path):
    x, y = images()
    first = trainer(x, y, data_fingerprint="abc")
    first.save(tmp_path / "state")
    with pytest.raises(ValueError, match=r"SHA-256 abc\.\.\. there"):
        trainer(x, y).load(tmp_path / "state")
    trainer(x, y, data_fingerprint="abc").load(tmp_path / "state")


# ---- doors -------------------------------------------------------------------------------------


def test_numpy_arrays_train_like_tensors():
    x, y = images()
    known, found = trainer(x, y), trainer(x.numpy(), y.numpy().astype(np.uint8))
    assert [p.loss.item() for p in fit(known)] == [p.loss.item() for p in fit(found)]
    assert found.y.dtype == torch.int64


def test_an_array_that_is_changed_later_does_not_change_the_training():
    x, y = images()
    given = x.numpy().copy()
    found = trainer(given, y)
    given[:] = 0
    assert torch.equal(found.x, x)


@pytest.mark.parametrize(
    ("x", "error", "match"),
    [
        (images()[0].float(), ValueError, r"float images lie in \[-1, 1\], got 0..255"),
        (images()[0].float() / 127.5 - 1.1, ValueError, r"got -1.1..0.9"),
        (torch.full((20, 1, 8, 8), torch.nan), ValueError, "hold NaN or infinity"),
        (torch.full((20, 2), torch.inf), ValueError, "hold NaN or infinity"),
        (images()[0].long(), ValueError, "uint8 images or float points, got torch.int64"),
        (images()[0].short().numpy(), ValueError, "uint8 images or float points"),
        (images()[0] > 3, ValueError, "got torch.bool"),
        (torch.zeros(0, 1, 8, 8), ValueError, "at least one"),
        (torch.tensor(3.0), ValueError, r"samples \(N, ...\)"),
        ([[1.0]] * 20, TypeError, "got list: ddpmlib.data.from_map_style"),
        (Items(*images()), TypeError, "got Items: ddpmlib.data.from_map_style reads"),
    ],
)
def test_other_samples_are_refused(x, error, match):
    with pytest.raises(error, match=match):
        trainer(x, None, model=denoiser(0))


def test_points_may_lie_anywhere_and_images_at_the_edge_of_the_range():
    x = 100 * torch.randn(20, 2)
    assert inputs.checked_samples(x) is x
    edge = torch.tensor([-1.0, 1.0]).repeat(20)[:20].view(20, 1, 1, 1)
    assert inputs.checked_samples(edge) is edge
    list(
        fit(Trainer(nn.Linear(2, 2), point_loss, x, None, replace(SETTINGS, steps=1), device="cpu"))
    )


@pytest.mark.parametrize(
    ("y", "match"),
    [
        (
            images()[1] + 1,
            r"labels must lie in 0..2, as the model knows 3 classes, got 1..3: count",
        ),
        (images()[1] - 1, r"got -1..1$"),
        (torch.full((20,), 3), "got 3..3$"),  # the null label
        (images()[1].numpy()[:-1], "19 labels for 20 samples"),
    ],
)
@pytest.mark.parametrize("kind", ["denoiser", "classifier", "foreign"])
def test_labels_that_the_model_does_not_know_are_refused(y, match, kind):
    class Foreign(nn.Module):
        conditional = True

        def without(self, y):
            return torch.full_like(y, 3)

    model = {
        "denoiser": denoiser,
        "classifier": lambda: Classifier(ClassifierConfig(num_classes=3)),
        "foreign": Foreign,
    }[kind]()
    with pytest.raises(ValueError, match=match):
        inputs.checked_condition(y, 20, model)


def test_labels_of_another_kind_are_refused_and_other_conditions_pass():
    with pytest.raises(TypeError, match="labels are a tensor, an array or a list, got str"):
        inputs.checked_condition("0" * 20, 20, nn.Linear(2, 2))
    with pytest.raises(TypeError, match="labels in a list must be numbers, got <U1"):
        inputs.checked_condition(["0"] * 20, 20, nn.Linear(2, 2))
    with pytest.raises(ValueError, match="labels in a list must make an array: "):
        inputs.checked_condition([[0], [0, 1]] * 10, 20, nn.Linear(2, 2))
    text = {"text": torch.randn(20, 5), "place": torch.randn(20, 2)}
    assert inputs.checked_condition(text, 20, denoiser()) == text
    assert inputs.checked_condition(torch.randn(20, 5), 20, denoiser()).shape == (20, 5)
    assert inputs.checked_condition(torch.arange(20), 20, nn.Linear(2, 2)).tolist() == [*range(20)]


@pytest.mark.parametrize("kind", [list, tuple])
def test_labels_may_be_a_list_or_a_tuple(kind):
    x, y = images()
    given = kind(y.tolist())
    assert torch.equal(inputs.checked_condition(given, 20, denoiser()), y)
    assert torch.equal(inputs.checked_condition({"y": given}, 20, denoiser())["y"], y)
    assert torch.equal(trainer(x, given, model=denoiser(0)).y, y)


def test_a_bounded_part_of_a_set_is_read_for_its_fingerprint():
    x, y = images()
    read = []

    class Samples(MapStyle):
        def batch(self, indices):
            read.append(len(indices))
            return super().batch(indices)

    data.fingerprint(Samples(Items(x.repeat(50, 1, 1, 1), y.repeat(50))), y.repeat(50))
    assert read == [256]
