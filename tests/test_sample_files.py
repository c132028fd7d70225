"""Samples as files: every pixel of every batch, in order, as the tools of others read them."""

import csv
import errno
import os
import weakref
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from ddpmlib import data, plots
from ddpmlib.evaluation import sample_files
from ddpmlib.evaluation.sample_files import Drawn

Image = pytest.importorskip("PIL.Image")


def pixels(n=7, c=1):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, c, 3, 4), generator=generator, dtype=torch.uint8)


def drawn(x, y=None, names=()):
    """As float images, in batches of three."""
    batches = iter(data.to_float(x).split(3))
    return Drawn(batches, len(x), tuple(x.shape[1:]), y, names)


def hwc(x):
    """What ADM's evaluator is given: (N, H, W, 3)."""
    return x.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()


# ---- which kind --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("out", "writer"),
    [
        ("a.png", "write_grid"), ("new/A.PNG", "write_grid"), ("a.npz", "write_array"),
        ("new", "write_pictures"), ("a.b/", "write_pictures"), ("there.png", "write_pictures"),
    ],
)  # fmt: skip
def test_the_name_decides_the_kind(tmp_path, monkeypatch, out, writer):
    monkeypatch.chdir(tmp_path)
    Path("there.png").mkdir()
    assert sample_files.writer_for(out, (1, 8, 8)) is getattr(sample_files, writer)


@pytest.mark.parametrize(
    ("out", "shape", "match"),
    [
        ("a.jpg", (1, 8, 8), r"a grid \(samples.png\), a folder .* \(samples.npz\), got a.jpg"),
        ("full", (1, 8, 8), "full already holds something: samples go into a new or an empty"),
        ("file", (1, 8, 8), "file already holds something"),
        ("a.npz", (4, 8, 8), "holds grey or RGB images, and these have 4 channels: write a .png"),
    ],
)
def test_what_cannot_be_written_is_refused_before_drawing(tmp_path, monkeypatch, out, shape, match):
    monkeypatch.chdir(tmp_path)
    Path("full").mkdir()
    Path("full/1.png").write_bytes(b"mine")
    Path("file").write_bytes(b"mine")
    with pytest.raises(ValueError, match=match):
        sample_files.writer_for(out, shape)


# ---- what is written ---------------------------------------------------------------------------


@pytest.mark.parametrize("c", [1, 3, 4])
def test_a_grid_holds_all_batches(tmp_path, c):
    x = pixels(n=13, c=c)
    sample_files.write_grid(drawn(x), tmp_path / "a.png")
    plots.save_grid(x, tmp_path / "b.png", ncol=10)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(("c", "mode"), [(1, "L"), (3, "RGB"), (4, "L")])
def test_a_folder_holds_a_picture_of_each_sample(tmp_path, c, mode):
    x = pixels(c=c)
    sample_files.write_pictures(drawn(x), tmp_path / "new" / "samples")
    names = sorted(p.name for p in (tmp_path / "new" / "samples").iterdir())
    assert names == [f"00000{i}.png" for i in range(7)]  # no labels without classes
    for name, one in zip(names, x, strict=True):
        with Image.open(tmp_path / "new" / "samples" / name) as image:
            assert image.mode == mode
            found = torch.from_numpy(np.array(image))
        assert torch.equal(found if c != 3 else found.permute(2, 0, 1), {
            1: one[0], 3: one, 4: torch.cat(list(one), dim=1),
        }[c])  # fmt: skip


def test_labels_lie_beside_the_pictures(tmp_path):
    y = torch.tensor([1, 0, 1, 1, 0, 0, 1])
    sample_files.write_pictures(drawn(pixels(), y, ("a cat", 'a "dog", black')), tmp_path / "a")
    with open(tmp_path / "a" / "labels.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [r["file"] for r in rows] == [f"00000{i}.png" for i in range(7)]
    assert [int(r["label"]) for r in rows] == y.tolist()
    assert [r["class"] for r in rows] == [("a cat", 'a "dog", black')[k] for k in y]
    sample_files.write_pictures(drawn(pixels(), y), tmp_path / "b")
    text = (tmp_path / "b" / "labels.csv").read_text("utf-8")
    assert text.splitlines()[:2] == ["file,label", "000000.png,1"]


@pytest.mark.parametrize("c", [1, 3])
@pytest.mark.parametrize("y", [None, torch.arange(7) % 2])
def test_an_array_is_the_one_that_fid_tools_read(tmp_path, c, y):
    """As ADM's evaluator opens it: `arr_0` of the archive, without pickle, uint8 (N, H, W, 3)."""
    x = pixels(c=c)
    path = tmp_path / "new" / "a.npz"
    sample_files.write_array(drawn(x, y), path)
    with np.load(path, allow_pickle=False) as found:
        assert sorted(found) == (["arr_0"] if y is None else ["arr_0", "arr_1"])
        assert found["arr_0"].dtype == np.uint8 and np.array_equal(found["arr_0"], hwc(x))
        assert y is None or np.array_equal(found["arr_1"], y.numpy())
    with zipfile.ZipFile(path) as archive, archive.open("arr_0.npy") as entry:
        assert np.lib.format.read_magic(entry) == (1, 0)
        assert np.lib.format.read_array_header_1_0(entry)[0] == (7, 3, 4, 3)


def test_the_folder_is_read_by_torch_fidelity(tmp_path):
    utils = pytest.importorskip("torch_fidelity.utils")
    sample_files.write_pictures(drawn(pixels(), torch.arange(7)), tmp_path / "a")
    found = utils.prepare_input_from_id(1, input1=str(tmp_path / "a"), verbose=False)
    assert np.array_equal(torch.stack(list(found)).permute(0, 2, 3, 1).numpy(), hwc(pixels()))


@pytest.mark.parametrize("write", [sample_files.write_pictures, sample_files.write_array])
def test_batches_are_written_as_they_come_and_not_held(tmp_path, write):
    """When a batch is drawn, at most the one before is still there."""
    made, most = [], 0

    def batches():
        nonlocal most
        for _ in range(10):
            most = max(most, sum(one() is not None for one in made))
            x = data.to_float(pixels(4))
            made.append(weakref.ref(x))
            yield x
            del x

    write(Drawn(batches(), 40, (1, 3, 4)), tmp_path / "out.npz")
    assert len(made) == 10 and most <= 1 and (tmp_path / "out.npz").exists()


@pytest.mark.parametrize("name", ["a.npz", "a.png", "a"])
def test_a_write_that_fails_leaves_no_half_file(tmp_path, monkeypatch, name):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    write = sample_files.writer_for(tmp_path / name, (1, 3, 4))
    with pytest.raises(OSError, match=rf"cannot write .*{name}.*: No space left"):
        write(drawn(pixels()), tmp_path / name)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
