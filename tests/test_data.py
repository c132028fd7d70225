"""`ddpmlib.data`: what is read is what was meant, and a file is whole or not there."""

import hashlib
import io
import math
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import torch

from ddpmlib import data
from ddpmlib.data import archives, augment

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("train", "test")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty data directory, with a space in its name, and no network."""
    folder = tmp_path / "my data"
    folder.mkdir()
    monkeypatch.setenv("DDPMLIB_DATA", str(folder))
    monkeypatch.setattr(archives, "_download", lambda name: pytest.fail("must not download"))
    return folder


def arrays(shape=(28, 28), n=(20, 10)):
    rng = np.random.default_rng(0)
    x = [rng.integers(0, 256, (k, *shape), dtype=np.uint8) for k in n]
    y = [np.arange(k, dtype=np.uint8) % 10 for k in n]
    return {"x_train": x[0], "y_train": y[0], "x_test": x[1], "y_test": y[1]}


# ---- sheets ----------------------------------------------------------------------------------


def write_sheets(folder, found, rows=2, columns=2, name="mnist"):
    """The sheets of :func:`ddpmlib.data.archives.unpack`, `rows` × `columns` images on each."""
    image = pytest.importorskip("PIL.Image")
    (folder / name).mkdir(parents=True)
    for part in ("train", "test"):
        x, each = found[f"x_{part}"], rows * columns
        for number in range(len(x) // each):
            lines = x[number * each : (number + 1) * each].reshape(rows, columns, *x.shape[1:])
            sheet = np.concatenate([np.concatenate(list(line), axis=1) for line in lines])
            path = folder / name / f"{part}-{number:02}.webp"
            image.fromarray(sheet).save(path, lossless=True)
        np.save(folder / name / f"{part}-labels.npy", found[f"y_{part}"])


@pytest.mark.parametrize(("name", "shape"), [("mnist", (28, 28)), ("cifar10", (32, 32, 3))])
def test_sheets_become_the_archive_bit_by_bit(cache, tmp_path, name, shape):
    found = arrays(shape, n=(24, 12))
    write_sheets(tmp_path / "sheets", found, rows=2, columns=3, name=name)
    assert data.unpack(tmp_path / "sheets", name) == cache / f"{name}.npz"
    with np.load(cache / f"{name}.npz") as archive:
        assert set(archive) == set(found)
        assert all(np.array_equal(archive[key], value) for key, value in found.items())
    assert data.load(name).image_shape[1:] == shape[:2]


def test_missing_sheets_and_labels_leave_nothing_behind(cache, tmp_path):
    with pytest.raises(data.DataNotAvailable, match="no sheets of mnist: .*labels.npy is missing"):
        data.unpack(tmp_path, "mnist")
    write_sheets(tmp_path, arrays(n=(24, 12)))
    (tmp_path / "mnist" / "train-03.webp").unlink()
    with pytest.raises(ValueError, match="train-labels.npy has 24 labels for 20 images"):
        data.unpack(tmp_path, "mnist")
    for path in (tmp_path / "mnist").glob("train-*.webp"):
        path.unlink()
    with pytest.raises(ValueError, match="24 labels for 0 images"):
        data.unpack(tmp_path, "mnist")
    assert list(cache.iterdir()) == []


# ---- digits ----------------------------------------------------------------------------------


def test_a_file_is_no_data_directory(tmp_path, monkeypatch):
    path = tmp_path / "mnist.npz"
    path.write_bytes(b"")
    monkeypatch.setenv("DDPMLIB_DATA", str(path))
    with pytest.raises(NotADirectoryError, match="must name a folder"):
        data.load("mnist")


def test_digits_are_all_there_once():
    images = data.load("digits")
    assert images.image_shape == (1, 8, 8) and images.num_classes == 10
    assert images.classes == tuple("0123456789")
    assert len(images.x_train) + len(images.x_test) == 1797
    assert len(images.x_train) == len(images.y_train) == 1442
    rows = torch.cat([images.x_train, images.x_test]).flatten(1)
    sklearn = pytest.importorskip("sklearn.datasets").load_digits()
    real = {tuple(np.rint(row * 255 / 16).astype(int)) for row in sklearn.data}
    assert len(real) == 1797  # no two scans are equal, so sets can be compared
    assert {tuple(row.tolist()) for row in rows} == real


def test_digits_keep_each_label_with_its_image():
    sklearn = pytest.importorskip("sklearn.datasets").load_digits()
    label = {
        tuple(np.rint(row * 255 / 16).astype(int)): int(y)
        for row, y in zip(sklearn.data, sklearn.target, strict=True)
    }
    images = data.load("digits")
    for x, y in ((images.x_train, images.y_train), (images.x_test, images.y_test)):
        assert [label[tuple(row.tolist())] for row in x.flatten(1)] == y.tolist()


def test_digits_types_range_and_balance():
    images = data.load("digits")
    for x, y in ((images.x_train, images.y_train), (images.x_test, images.y_test)):
        assert x.dtype == torch.uint8 and y.dtype == torch.int64
        assert int(x.min()) == 0 and int(x.max()) == 255
        share = torch.bincount(y, minlength=10) / len(y)
        assert share.shape == (10,) and float(share.min()) > 0.095 and float(share.max()) < 0.105


def test_digits_are_the_same_every_time():
    a, b = data.load("digits"), data.load("digits")
    for name in archives.KEYS:
        assert torch.equal(getattr(a, name), getattr(b, name))


# ---- archives --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shape", "planes"),
    [("mnist", (28, 28), (1, 28, 28)), ("cifar10", (32, 32, 3), (3, 32, 32))],
)
def test_a_prefilled_archive_is_used_as_it_is(cache, name, shape, planes):
    archive = arrays(shape)
    np.savez(cache / f"{name}.npz", **archive)
    before = (cache / f"{name}.npz").read_bytes()
    images = data.load(name)
    assert images.name == name and images.image_shape == planes and len(images.classes) == 10
    for key in ("x_train", "x_test"):
        found = getattr(images, key)
        assert found.dtype == torch.uint8 and found.is_contiguous()
        expected = archive[key] if len(shape) == 3 else archive[key][..., None]
        assert np.array_equal(found.permute(0, 2, 3, 1).numpy(), expected)
    assert images.y_train.dtype == torch.int64
    assert images.y_train.tolist() == archive["y_train"].tolist()
    assert (cache / f"{name}.npz").read_bytes() == before
    assert [p.name for p in cache.iterdir()] == [f"{name}.npz"]


def whole(folder: Path) -> bytes:
    np.savez(folder / "mnist.npz", **arrays())
    return (folder / "mnist.npz").read_bytes()


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "flipped", "plain array"])
def test_a_damaged_archive_is_one_clear_sentence(cache, damage):
    good = whole(cache)
    if damage == "plain array":
        with open(cache / "mnist.npz", "wb") as file:
            np.save(file, np.zeros(3))
    else:
        middle = len(good) // 2
        flipped = good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :]
        content = {"empty": b"", "text": b"<html>", "cut": good[:middle], "flipped": flipped}
        (cache / "mnist.npz").write_bytes(content[damage])
    with pytest.raises(ValueError, match="not a readable archive .* delete it") as caught:
        data.load("mnist")
    assert str(cache / "mnist.npz") in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"x_train": np.zeros((20, 28, 28), np.float32)},
        {"x_train": np.zeros((20, 784), np.uint8)},
        {"x_train": np.zeros((20, 1, 28, 28), np.uint8)},  # planes first: not this layout
        {"x_train": np.zeros((20, 32, 32), np.uint8)},  # another size than the test images
        {"y_train": np.zeros(19, np.uint8)},
        {"y_train": np.zeros((20, 10), np.uint8)},
        {"y_train": np.zeros(20, np.float32)},
        {"y_test": np.full(10, 10, np.uint8)},
        {"y_test": np.full(10, -1, np.int64)},
        {"x_test": np.zeros((0, 28, 28), np.uint8), "y_test": np.zeros(0, np.uint8)},
        {"x_test": np.uint8(3), "y_test": np.uint8(3)},
    ],
)
def test_an_archive_of_other_content_is_refused(cache, changes):
    np.savez(cache / "mnist.npz", **(arrays() | changes))
    with pytest.raises(ValueError, match="must hold uint8 images .* labels 0..9"):
        data.load("mnist")


def test_an_archive_without_a_key_or_with_pickles_is_refused(cache):
    content = arrays()
    del content["y_test"]
    np.savez(cache / "mnist.npz", **content)
    with pytest.raises(ValueError, match="not a readable archive"):
        data.load("mnist")
    np.savez(cache / "mnist.npz", **(arrays() | {"y_test": np.array([{}] * 10, dtype=object)}))
    with pytest.raises(ValueError, match="pickle"):
        data.load("mnist")


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="'minst'.*digits, mnist, fashion_mnist, cifar10"):
        data.load("minst")


def test_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DDPMLIB_DATA", "~/sets")
    assert data.directory() == tmp_path / "sets"
    for unset in ("", None):
        if unset is None:
            monkeypatch.delenv("DDPMLIB_DATA")
        else:
            monkeypatch.setenv("DDPMLIB_DATA", unset)
        assert data.directory() == tmp_path / ".cache" / "ddpmlib"


def test_real_mnist(tmp_path, monkeypatch):
    tool = ROOT.parent / "shared" / "tools" / "unpack_data.py"
    if not (data.directory() / "mnist.npz").exists():
        if not tool.exists():
            pytest.skip("no mnist.npz in the data directory")
        command = [sys.executable, str(tool), "mnist", "--out", str(tmp_path)]
        subprocess.run(command, check=True, capture_output=True)
        monkeypatch.setenv("DDPMLIB_DATA", str(tmp_path))
    images = data.load("mnist")
    assert images.x_train.shape == (60_000, 1, 28, 28)
    assert images.x_test.shape == (10_000, 1, 28, 28)
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert torch.bincount(images.y_train).tolist() == counts
    counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert torch.bincount(images.y_test).tolist() == counts
    scaled = images.x_train.double() / 255
    assert float(scaled.mean()) == pytest.approx(0.1307, abs=5e-5)
    assert float(scaled.std()) == pytest.approx(0.3081, abs=5e-5)


# ---- sets of one's own -------------------------------------------------------------------------


def own_set(n=(5, 3), shape=(3, 6, 4), **changes):
    x = [torch.zeros(k, *shape, dtype=torch.uint8) for k in n]
    y = [torch.arange(k) % 3 for k in n]
    parts = {"x_train": x[0], "y_train": y[0], "x_test": x[1], "y_test": y[1]}
    return data.Dataset(**{"name": "mine", "classes": ("cat", "dog", "owl")} | parts | changes)


def test_a_data_set_is_whatever_fits_together():
    mine = own_set()
    assert mine.num_classes == 3 and mine.image_shape == (3, 6, 4)
    assert mine.labels("train").tolist() == [0, 1, 2, 0, 1]
    assert mine.labels("test") is mine.y_test
    without_test = own_set(n=(5, 0))
    assert len(without_test.x_test) == len(without_test.labels("test")) == 0


def test_a_data_set_may_have_no_classes():
    bare = own_set(y_train=None, y_test=None, classes=())
    assert bare.num_classes == 0 and bare.y_train is None
    with pytest.raises(ValueError, match="mine has no classes, and this needs"):
        bare.labels("train")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"name": "../mine"}, "data set's name is a plain file name, got '../mine'"),
        ({"name": ""}, "plain file name, got ''"),
        ({"x_train": torch.zeros(5, 3, 6, 4)}, r"x_train of mine must hold uint8 .*torch.float32"),
        ({"x_test": torch.zeros(3, 6, 4, dtype=torch.uint8)}, r"x_test of mine .* \(3, 6, 4\)"),
        ({"n": (0, 3)}, "mine has no images to train on"),
        (
            {"x_test": torch.zeros(3, 1, 6, 4, dtype=torch.uint8)},
            r"one shape, got \(3, 6, 4\), \(1",
        ),
        ({"y_train": torch.zeros(4, dtype=torch.int64)}, r"label for each of 5 images, .* \(4,\)"),
        ({"y_test": torch.zeros(3)}, "y_test of mine must hold one int64 label .*torch.float32"),
        ({"y_test": torch.zeros(3, dtype=torch.uint8)}, "one int64 label .*torch.uint8"),
        ({"y_train": torch.tensor([0, 1, 2, 3, 0])}, r"0..2, one .* 3 classes, but y_train .*0..3"),
        ({"y_test": torch.tensor([0, -1, 2])}, "0..2, .* but y_test holds -1..2"),
        ({"y_test": None}, "mine needs both labels and the names of its classes, or neither"),
        ({"classes": ()}, "or neither"),
        ({"y_train": None, "y_test": None}, "or neither"),
    ],
)
def test_what_does_not_fit_together_is_one_sentence(changes, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        own_set(**changes)
    assert "\n" not in str(caught.value)


def test_a_set_with_a_name_is_found_like_the_others(monkeypatch):
    mine = own_set()
    monkeypatch.setitem(data.DATASETS, "mine", lambda: mine)
    assert data.load("mine") is mine
    with pytest.raises(ValueError, match="cifar10, mine"):
        data.load("yours")


# ---- downloads -------------------------------------------------------------------------------


def digests_of(content):
    """What :data:`ddpmlib.data.archives.DIGESTS` would say of these arrays."""
    return tuple(data.digest(content[f"x_{part}"], content[f"y_{part}"]) for part in PARTS)


@pytest.fixture
def torchvision_datasets(tmp_path, monkeypatch):
    """Downloads are of :func:`arrays`, which are then the published data sets."""
    for name, shape in (("mnist", (28, 28)), ("fashion_mnist", (28, 28)), ("cifar10", (32, 32, 3))):
        monkeypatch.setitem(archives.DIGESTS, name, digests_of(arrays(shape)))
    monkeypatch.setenv("DDPMLIB_DATA", str(tmp_path / "not yet there" / "cache"))
    return pytest.importorskip("torchvision.datasets")


def fake_set(content):
    """Stands in for torchvision's class: same arguments, same attributes."""
    asked = []

    def maker(root, train, download):
        asked.append((train, download))
        assert Path(root).is_dir() and Path(root) != data.directory()
        part = "train" if train else "test"
        x, y = content[f"x_{part}"], content[f"y_{part}"]
        return SimpleNamespace(data=torch.from_numpy(x), targets=torch.from_numpy(y).long())

    return maker, asked


@pytest.mark.parametrize(("name", "maker"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_a_download_is_kept_and_read_back(torchvision_datasets, monkeypatch, name, maker):
    content = arrays()
    fake, asked = fake_set(content)
    monkeypatch.setattr(torchvision_datasets, maker, fake)
    first = data.load(name)
    assert asked == [(True, True), (False, True)]
    assert [p.name for p in data.directory().iterdir()] == [f"{name}.npz"]
    second = data.load(name)
    assert len(asked) == 2  # the second time nothing is asked for
    for key in archives.KEYS:
        assert torch.equal(getattr(first, key), getattr(second, key))
    assert first.y_train.tolist() == content["y_train"].tolist()
    assert first.x_test.flatten().sum() == content["x_test"].sum()


def test_a_download_of_something_else_is_not_kept(torchvision_datasets, monkeypatch):
    """torchvision's checksums are MD5, and its addresses are not ours."""
    content = arrays()
    content["x_test"][3, 0, 0] ^= 1
    monkeypatch.setattr(torchvision_datasets, "FashionMNIST", fake_set(content)[0])
    with pytest.raises(data.DataNotAvailable, match="something else.* test images have") as caught:
        data.load("fashion_mnist")
    assert "\n" not in str(caught.value) and "DDPMLIB_DATA" in str(caught.value)
    assert list(data.directory().iterdir()) == []


def binary_cifar10(content, n, names=None):
    """The archive of CIFAR-10 for C programs, of ``n`` images a file."""
    rows = {
        part: np.concatenate(
            [
                content[f"y_{part}"][:, None],
                content[f"x_{part}"].transpose(0, 3, 1, 2).reshape(-1, 3072),
            ],
            axis=1,
        ).astype(np.uint8)
        for part in ("train", "test")
    }
    found = {f"data_batch_{i}": rows["train"][(i - 1) * n : i * n] for i in range(1, 6)}
    found["test_batch"] = rows["test"]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name in names or found:
            entry = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            entry.size = found[name].size
            archive.addfile(entry, io.BytesIO(found[name].tobytes()))
    return buffer.getvalue()


@pytest.fixture
def cifar10_at_hand(torchvision_datasets, monkeypatch):
    """Makes its public address answer with some bytes; images are few."""
    import torchvision.datasets.utils

    real = archives._records
    monkeypatch.setattr(archives, "_records", lambda archive, name: real(archive, name, 4))
    monkeypatch.setattr(torchvision_datasets, "CIFAR10", lambda *_, **__: pytest.fail("unpickled"))
    monkeypatch.setitem(archives.DIGESTS, "cifar10", digests_of(arrays((32, 32, 3), n=(20, 4))))

    def answers(content):
        def download_url(url, root, filename, md5):
            assert url == archives.CIFAR10 and len(md5) == 32
            (Path(root) / filename).write_bytes(content)

        monkeypatch.setattr(torchvision.datasets.utils, "download_url", download_url)

    return answers


def test_cifar10_is_read_from_plain_bytes(cifar10_at_hand):
    content = arrays((32, 32, 3), n=(20, 4))
    cifar10_at_hand(binary_cifar10(content, 4))
    images = data.load("cifar10")
    assert np.array_equal(images.x_train.permute(0, 2, 3, 1).numpy(), content["x_train"])
    assert np.array_equal(images.x_test.permute(0, 2, 3, 1).numpy(), content["x_test"])
    assert images.y_train.tolist() == content["y_train"].tolist()
    assert [p.name for p in data.directory().iterdir()] == ["cifar10.npz"]


@pytest.mark.parametrize("kind", ["page", "missing", "short", "pickle", "others"])
def test_an_answer_that_is_not_cifar10_is_not_kept(cifar10_at_hand, kind):
    content = arrays((32, 32, 3), n=(20, 4))
    others = arrays((32, 32, 3), n=(20, 4)) | {"y_test": np.array([1, 1, 1, 1])}
    cifar10_at_hand(
        {
            "page": b"<html>",
            "missing": binary_cifar10(content, 4, ["data_batch_1", "test_batch"]),
            "short": binary_cifar10(content, 3),
            "pickle": b"\x80\x04cposix\nsystem\n(S'touch owned'\ntR.",
            "others": binary_cifar10(others, 4),
        }[kind]
    )
    with pytest.raises(data.DataNotAvailable, match="cifar10.npz") as caught:
        data.load("cifar10")
    assert "\n" not in str(caught.value) and not Path("owned").exists()
    assert list(data.directory().iterdir()) == []


# ---- which images they are ---------------------------------------------------------------------


def test_a_digest_is_that_of_its_description():
    x, y = np.zeros((2, 1, 2), np.uint8), np.array([7, 3])
    each = sorted(hashlib.sha256(bytes([0, 0, label])).digest() for label in (7, 3))
    assert data.digest(x, y) == hashlib.sha256(b"(1, 2)" + b"".join(each)).hexdigest()


def test_genuine_arrays_are_told_from_others(monkeypatch):
    content = arrays()
    monkeypatch.setitem(archives.DIGESTS, "mnist", digests_of(content))
    four = [content[key] for key in archives.KEYS]
    assert data.is_genuine("mnist", four)
    assert data.is_genuine("mnist", [four[0], four[1].astype(np.int64), four[2], four[3]])
    order = np.random.default_rng(1).permutation(20)
    assert data.is_genuine("mnist", [four[0][order], four[1][order], *four[2:]])
    assert not data.is_genuine("mnist", [four[0][order], *four[1:]])
    assert not data.is_genuine("mnist", [four[0][:-1], four[1][:-1], *four[2:]])
    assert not data.is_genuine("mnist", [four[0].reshape(20, 14, 56), *four[1:]])
    assert not data.is_genuine("mnist", [four[0], (four[1] + 1) % 10, *four[2:]])
    assert not data.is_genuine("mnist", [four[2], four[3], four[0], four[1]])
    assert not data.is_genuine("mine", four)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
@pytest.mark.slow
def test_the_published_sets_are_genuine(tmp_path, monkeypatch, name):
    sheets = ROOT.parent / "shared" / "data"
    if not (sheets / name).is_dir():
        pytest.skip("no images here")
    monkeypatch.setenv("DDPMLIB_DATA", str(tmp_path))
    data.unpack(sheets, name)
    with np.load(tmp_path / f"{name}.npz") as found:
        assert data.is_genuine(name, [found[key] for key in archives.KEYS])


def test_digits_are_genuine():
    images = data.load("digits")
    parts = (images.x_train[:, 0], images.y_train, images.x_test[:, 0], images.y_test)
    assert data.is_genuine("digits", [part.numpy() for part in parts])


# ---- archives that were made to do harm --------------------------------------------------------

PICKLE = b"\x80\x04cposix\nsystem\n(S'touch owned'\ntR."


@pytest.mark.parametrize("content", [PICKLE, b"\x93NUMPY" + PICKLE, b"PK\x03\x04" + PICKLE])
def test_pickles_in_place_of_arrays_are_refused_and_not_run(cache, tmp_path, content, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (cache / "mnist.npz").write_bytes(content)
    with pytest.raises(ValueError, match="mnist.npz is not a readable archive"):
        data.load("mnist")
    (cache / "mnist.npz").unlink()
    with zipfile.ZipFile(cache / "mnist.npz", "w") as members:
        for key in archives.KEYS:
            members.writestr(f"{key}.npy", content)
    with pytest.raises(ValueError, match="mnist.npz is not a readable archive"):
        data.load("mnist")
    write_sheets(tmp_path, arrays(n=(24, 12)))
    (tmp_path / "mnist" / "train-labels.npy").write_bytes(content)
    with pytest.raises(ValueError, match="train-labels.npy is not a readable array of labels"):
        data.unpack(tmp_path, "mnist")
    assert not (tmp_path / "owned").exists()


def test_objects_in_place_of_labels_are_refused(cache, tmp_path):
    write_sheets(tmp_path, arrays(n=(24, 12)))
    np.save(tmp_path / "mnist" / "train-labels.npy", np.array([{}] * 24, dtype=object))
    with pytest.raises(ValueError, match="not a readable array of labels .*"):
        data.unpack(tmp_path, "mnist")


def test_an_archive_of_zeros_that_fill_the_memory_is_not_unpacked(cache):
    """Some kilobytes on the disk, 4 GB in memory by what the archive says of itself."""
    np.savez(cache / "mnist.npz", **arrays())
    path = cache / "mnist.npz"
    content = bytearray(path.read_bytes())
    place = content.rindex(b"PK\x01\x02")  # of the last member, in the list at the end
    content[place + 24 : place + 28] = (2**32 - 16).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(ValueError, match="not a readable archive .*are the most there can be"):
        data.load("mnist")


def test_a_sparse_archive_or_a_pipe_is_refused_at_once(cache):
    with open(cache / "mnist.npz", "wb") as file:
        file.truncate(200_000_000_000)
    with pytest.raises(ValueError, match="not a readable archive"):
        data.load("mnist")
    if hasattr(os, "mkfifo"):
        (cache / "mnist.npz").unlink()
        os.mkfifo(cache / "mnist.npz")
        with pytest.raises(ValueError, match="mnist.npz is no file: put x_train"):
            data.load("mnist")


@pytest.mark.skipif(os.name != "posix", reason="POSIX file modes")
def test_an_archive_can_be_read_by_those_who_may_read_new_files(torchvision_datasets, monkeypatch):
    monkeypatch.setattr(torchvision_datasets, "MNIST", fake_set(arrays())[0])
    before = os.umask(0o022)
    try:
        data.load("mnist")
    finally:
        os.umask(before)
    assert (data.directory() / "mnist.npz").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    "error",
    [URLError("no route to host"), RuntimeError("Error downloading x.gz"), TimeoutError("slow")],
)
def test_a_failed_download_says_the_way_out_and_leaves_nothing(
    torchvision_datasets, monkeypatch, tmp_path, error
):
    roots = []

    def maker(root, train, download):
        roots.append(Path(root))
        (Path(root) / "half.gz").write_bytes(b"half")
        raise error

    monkeypatch.setattr(torchvision_datasets, "MNIST", maker)
    with pytest.raises(data.DataNotAvailable, match="Connect .*mnist.npz.*DDPMLIB_DATA") as caught:
        data.load("mnist")
    assert "\n" not in str(caught.value) and "digits" in str(caught.value)
    assert list(data.directory().iterdir()) == []
    assert roots and not roots[0].exists()


def test_a_missing_or_broken_torchvision_is_not_a_traceback(torchvision_datasets, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    with pytest.raises(data.DataNotAvailable, match="torchvision"):
        data.load("mnist")


def test_an_unusable_directory_is_noticed_before_the_download(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("", "utf-8")
    monkeypatch.setenv("DDPMLIB_DATA", str(tmp_path / "file"))
    monkeypatch.setattr(archives, "_download", lambda name: pytest.fail("downloaded in vain"))
    with pytest.raises(OSError, match="file"):
        data.load("mnist")


def test_a_full_disk_leaves_no_half_archive(torchvision_datasets, monkeypatch):
    monkeypatch.setattr(torchvision_datasets, "MNIST", fake_set(arrays())[0])
    with monkeypatch.context() as patch:

        def full(descriptor):
            raise OSError(28, "No space left on device")

        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            data.load("mnist")
    assert list(data.directory().iterdir()) == []
    assert len(data.load("mnist").x_train) == 20


def test_the_archive_is_complete_before_it_gets_its_name(torchvision_datasets, monkeypatch):
    monkeypatch.setattr(torchvision_datasets, "MNIST", fake_set(arrays())[0])
    real, seen = os.replace, []

    def replace(source, target):
        with np.load(source) as npz:  # as another process would find it
            seen.append({key: npz[key].shape for key in npz.files})
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    data.load("mnist")
    assert seen == [{key: value.shape for key, value in arrays().items()}]


KILLED = """
import os, signal, numpy as np
from ddpmlib import data
data.archives._download = lambda name: (np.zeros((10, 8, 8), np.uint8), np.arange(10)) * 2
real = np.savez
def cut(file, **kw):
    real(file, **kw)
    file.flush()
    file.truncate(300)
    os.kill(os.getpid(), signal.SIGKILL)
np.savez = cut
data.load("mnist")
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
@pytest.mark.slow
def test_killed_while_writing_leaves_no_half_archive(torchvision_datasets, monkeypatch):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", KILLED], env=env, capture_output=True)
    assert done.returncode == -9, done.stderr
    assert not (data.directory() / "mnist.npz").exists()
    assert len(list(data.directory().glob(".*.part"))) == 1  # it did get as far as writing
    monkeypatch.setattr(torchvision_datasets, "MNIST", fake_set(arrays())[0])
    assert len(data.load("mnist").x_train) == 20


# ---- scaling ---------------------------------------------------------------------------------


def test_all_256_values_survive_the_round_trip():
    x = torch.arange(256, dtype=torch.uint8)
    scaled = data.to_float(x)
    assert scaled.dtype == torch.float32
    assert float(scaled[0]) == -1 and float(scaled[255]) == 1
    assert torch.allclose(scaled.diff(), torch.full((255,), 2 / 255), atol=1e-6)
    assert torch.equal(data.to_uint8(scaled), x)


def test_to_uint8_clips_and_rounds():
    x = torch.tensor([-7.0, -1.0, 0.0, 0.0041, 1.0, 7.0], dtype=torch.float64)
    assert data.to_uint8(x).tolist() == [0, 0, 128, 128, 255, 255]
    assert data.to_uint8(torch.tensor(2 * 100.6 / 255 - 1)).item() == 101


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool])
def test_scaling_twice_is_refused(dtype):
    with pytest.raises(ValueError, match="takes uint8 images"):
        data.to_float(torch.zeros(3, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_to_uint8_refuses_whole_numbers(dtype):
    with pytest.raises(ValueError, match="takes float images"):
        data.to_uint8(torch.zeros(3, dtype=dtype))


# ---- toy sets --------------------------------------------------------------------------------

TOYS = [data.moons, data.spiral, data.checkerboard, data.ring]


@pytest.mark.parametrize("toy", TOYS, ids=lambda f: f.__name__)
def test_toy_sets_are_float32_points_decided_by_the_generator(toy):
    def points(seed, n=500):
        return toy(n, generator=torch.Generator().manual_seed(seed))

    a = points(0)
    assert a.shape == (500, 2) and a.dtype == torch.float32
    assert float(a.abs().max()) < 2.6 and float(a.std(0).min()) > 0.4
    state = torch.get_rng_state()
    assert torch.equal(a, points(0)) and not torch.equal(a, points(1))
    assert torch.equal(state, torch.get_rng_state())
    assert points(0, n=1).shape == (1, 2) and points(0, n=0).shape == (0, 2)


def test_checkerboard_fills_exactly_the_dark_squares():
    x = data.checkerboard(8000, generator=torch.Generator().manual_seed(0))
    square = (x + 2).floor().long()
    assert int(square.min()) == 0 and int(square.max()) == 3
    assert bool(((square[:, 0] + square[:, 1]) % 2 == 0).all())
    counts = torch.bincount(4 * square[:, 0] + square[:, 1], minlength=16)
    dark = counts[counts > 0]
    assert len(dark) == 8
    assert int((dark - 1000).abs().max()) < 5 * math.sqrt(1000)  # uniform over the eight
    inside = x + 2 - square
    assert float((inside.mean(0) - 0.5).abs().max()) < 5 / math.sqrt(12 * 8000)


@pytest.mark.parametrize("modes", [1, 5, 8])
def test_ring_modes_have_their_means_spread_and_shares(modes):
    means = data.ring_means(modes)
    assert means.shape == (modes, 2)
    assert torch.allclose(means.norm(dim=1), torch.full((modes,), 1.5))
    assert torch.allclose(means[0], torch.tensor([1.5, 0.0]))
    x = data.ring(6000, modes, generator=torch.Generator().manual_seed(0))
    nearest = torch.cdist(x, means).argmin(1)
    for k in range(modes):
        mine = x[nearest == k]
        assert abs(len(mine) - 6000 / modes) < 5 * math.sqrt(6000 / modes)
        assert torch.allclose(mine.mean(0), means[k], atol=5 * 0.1 / math.sqrt(len(mine)))
        assert torch.allclose(mine.std(0), torch.full((2,), 0.1), rtol=0.15)


def test_moons_lie_on_two_half_circles():
    x = data.moons(2000, noise=0, generator=torch.Generator().manual_seed(0))
    p = x / 1.25 + torch.tensor([0.5, 0.25])
    upper = torch.isclose(p.norm(dim=1), torch.tensor(1.0), atol=1e-5) & (p[:, 1] >= -1e-5)
    q = p - torch.tensor([1.0, 0.5])
    lower = torch.isclose(q.norm(dim=1), torch.tensor(1.0), atol=1e-5) & (q[:, 1] <= 1e-5)
    assert bool((upper | lower).all())
    assert 850 < int(upper.sum()) < 1150


def test_spiral_is_evenly_filled_along_one_and_a_half_turns():
    x = data.spiral(4000, noise=0, generator=torch.Generator().manual_seed(0))
    turn = x.norm(dim=1) / 1.8
    direction = torch.stack([(3 * math.pi * turn).cos(), (3 * math.pi * turn).sin()], 1)
    assert torch.allclose(x, 1.8 * turn[:, None] * direction, atol=1e-3)
    # Away from the centre, length grows as the square of the radius.
    assert float((turn**2 < 0.5).float().mean()) == pytest.approx(0.5, abs=0.04)


# ---- batches ---------------------------------------------------------------------------------


def test_each_epoch_is_another_permutation():
    batches = data.Batches(103, 10, seed=3)
    assert batches.per_epoch == 10
    epochs = [torch.cat([batches[10 * e + i] for i in range(10)]) for e in range(3)]
    for epoch in epochs:
        assert epoch.dtype == torch.int64 and len(epoch) == 100
        assert len(set(epoch.tolist())) == 100 and set(epoch.tolist()) <= set(range(103))
    assert not torch.equal(epochs[0], epochs[1]) and not torch.equal(epochs[1], epochs[2])
    left_out = {i for e in range(20) for i in range(103)} - set(epochs[0].tolist())
    assert len(left_out) == 3


def test_an_epoch_covers_everything_when_the_batch_divides():
    batches = data.Batches(12, 4, seed=0)
    assert sorted(torch.cat([batches[i] for i in range(3)]).tolist()) == list(range(12))
    assert sorted(data.Batches(5, 5, seed=0)[7].tolist()) == list(range(5))


def test_a_batch_depends_on_seed_and_number_only():
    batches = data.Batches(50, 8, seed=1)
    forward = [batches[k].clone() for k in range(20)]
    torch.manual_seed(99)
    other = data.Batches(50, 8, seed=1)
    for k in (19, 0, 7, 6, 12, 0):
        assert torch.equal(other[k], forward[k])
    assert not torch.equal(data.Batches(50, 8, seed=2)[0], forward[0])


@pytest.mark.parametrize("size", [0, -1, 11])
def test_a_batch_must_fit(size):
    with pytest.raises(ValueError, match=r"batch_size must lie in 1..10 .*, got"):
        data.Batches(10, size, seed=0)


def test_there_is_no_batch_before_the_first():
    with pytest.raises(ValueError, match="counted from 0"):
        data.Batches(10, 2, seed=0)[-1]


# ---- augmentation ----------------------------------------------------------------------------


def test_random_flip_mirrors_whole_images_about_half_of_the_time():
    x = torch.rand(400, 2, 3, 5, generator=torch.Generator().manual_seed(0))
    before = x.clone()
    out = data.random_flip(x, torch.Generator().manual_seed(1))
    mirrored = (out == x.flip(-1)).flatten(1).all(1)
    kept = (out == x).flatten(1).all(1)
    assert bool((mirrored ^ kept).all())
    assert 150 < int(mirrored.sum()) < 250
    assert torch.equal(x, before)
    assert torch.equal(out, data.random_flip(x, torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("reach", [0, 1, 2])
def test_random_shift_moves_each_image_by_each_offset_and_fills_with_black(reach):
    n, (c, h, w) = 600, (2, 6, 7)
    x = torch.rand(n, c, h, w, generator=torch.Generator().manual_seed(0))
    out = data.random_shift(x, torch.Generator().manual_seed(1), reach)
    assert out.shape == x.shape
    seen = {}
    for before, after in zip(x, out, strict=True):
        offsets = [
            (dy, dx)
            for dy in range(-reach, reach + 1)
            for dx in range(-reach, reach + 1)
            if torch.equal(after, shifted(before, dy, dx))
        ]
        assert len(offsets) == 1
        seen[offsets[0]] = seen.get(offsets[0], 0) + 1
    assert len(seen) == (2 * reach + 1) ** 2  # every offset occurs
    assert min(seen.values()) > 0.3 * n / len(seen)


def shifted(image, dy, dx):
    """By rolling a large black canvas, pixel by pixel: slow and plain."""
    c, h, w = image.shape
    canvas = torch.full((c, 3 * h, 3 * w), -1.0)
    canvas[:, h : 2 * h, w : 2 * w] = image
    return torch.roll(canvas, (dy, dx), (1, 2))[:, h : 2 * h, w : 2 * w]


def test_appearance_varies_within_its_bounds_and_shows_the_same():
    """Of a flat grey image only brightness and grain change; of stripes the contrast too."""
    g = torch.Generator().manual_seed(0)
    flat = augment.random_appearance(torch.zeros(2000, 1, 8, 8), g)
    mean, std = flat.mean((1, 2, 3)), flat.std((1, 2, 3))
    assert mean.abs().max() < 0.2 + 0.08 and mean.std() == pytest.approx(0.4 / 12**0.5, rel=0.05)
    assert std.min() > 0 and 0.1 < std.max() < 0.2 and flat.abs().max() <= 1
    halves = torch.full((2000, 1, 8, 8), -0.8)
    halves[..., 4:] = 0.8  # the columns at the edges are far from the step, no blur reaches them
    seen = augment.random_appearance(halves, g)
    step = (seen[..., -2:].mean((1, 2, 3)) - seen[..., :2].mean((1, 2, 3))) / 1.6
    assert 0.6 < step.min() < 0.75 and step.max() < 1.3 and step.std() > 0.1
    clean = (seen[..., -2:].mean((1, 2, 3)) < 0.95) & (seen[..., :2].mean((1, 2, 3)) > -0.95)
    assert step[clean].max() < 1.2 + 0.1  # clipping apart
    again = augment.random_appearance(halves, torch.Generator().manual_seed(3))
    same = augment.random_appearance(halves, torch.Generator().manual_seed(3))
    assert torch.equal(again, same) and not torch.equal(again, seen)


def test_blur_is_a_mean_with_binomial_weights():
    x = torch.zeros(1, 1, 5, 5)
    x[..., 2, 2] = 16.0
    expected = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]])
    assert torch.equal(augment._blurred(x)[0, 0, 1:4, 1:4], expected)
    assert torch.allclose(augment._blurred(torch.full((1, 1, 3, 3), 0.7)), torch.tensor(0.7))
