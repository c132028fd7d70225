"""`ddpmlib.data`: a user's own pictures, in folders and files, whatever state they are in."""

import os

import numpy as np
import pytest
import torch

from ddpmlib import data
from ddpmlib.data import arrays, folders, map_style, own, pictures
from tests.pictures import picture, write_folder

Image = pytest.importorskip("PIL.Image")
SIZE = (40, 56)


@pytest.fixture
def told():
    """The sentences that a reader tells."""
    return []


def save(path, pixels, **options):
    Image.fromarray(pixels).save(path, **options)
    return path


# ---- what a folder is --------------------------------------------------------------------------


def test_class_folders_become_labels_by_name(tmp_path, told):
    images = data.from_folder(write_folder(tmp_path / "Two kinds", 12), tell=told.append)
    assert images.name == "Two-kinds" and images.classes == ("bar", "disc")
    assert images.image_shape == (3, 40, 56) and told == []
    assert len(images.x_train) + len(images.x_test) == 24
    for x, y in ((images.x_train, images.y_train), (images.x_test, images.y_test)):
        assert x.dtype == torch.uint8 and y.dtype == torch.int64 and len(x) == len(y)
        for pixels, label in zip(x, y.tolist(), strict=True):
            originals = [picture(i, 1 - label) for i in range(12)]
            assert any(np.array_equal(pixels.permute(1, 2, 0), o) for o in originals)


def test_a_flat_folder_has_no_classes(tmp_path):
    images = data.from_folder(write_folder(tmp_path / "a", 12, kinds=()))
    assert images.classes == () and images.y_train is None and images.y_test is None
    assert len(images.x_train) == 11 and len(images.x_test) == 1


def test_folders_within_the_folder_of_a_class_belong_to_it(tmp_path):
    write_folder(tmp_path, 3)
    write_folder(tmp_path / "bar" / "more" / "deep", 4, kinds=(), start=50)
    images = data.from_folder(tmp_path, "mine")
    assert images.classes == ("bar", "disc")
    labels = torch.cat([images.y_train, images.y_test])
    assert torch.bincount(labels).tolist() == [7, 3]


def test_pictures_beside_folders_of_pictures_are_refused(tmp_path):
    write_folder(tmp_path, 2)
    save(tmp_path / "loose.png", picture(0, 0))
    with pytest.raises(
        ValueError, match=r"holds pictures \(loose.png\) beside .*\(bar, disc\): put"
    ):
        data.from_folder(tmp_path)


def test_hidden_files_are_passed_over_and_others_are_named(tmp_path, told):
    write_folder(tmp_path, 4)
    (tmp_path / ".git").mkdir()
    save(tmp_path / ".git" / "a.png", picture(0, 0))
    for name in (".DS_Store", "Thumbs.db", "bar/.hidden.png", "bar/desktop.ini"):
        (tmp_path / name).write_bytes(b"x")
    images = data.from_folder(tmp_path, tell=told.append)
    assert len(images.x_train) + len(images.x_test) == 8 and told == []
    for name in ("notes.txt", "bar/photo.heic", "film.mp4", "list.csv"):
        (tmp_path / name).write_bytes(b"x")
    data.from_folder(tmp_path, tell=told.append)
    assert told == [
        "left out, as their names are no pictures': 4 files (bar/photo.heic, film.mp4, list.csv, "
        "...)"
    ]


def test_an_empty_or_missing_folder_is_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="no pictures in .*: their names end in .bmp"):
        data.from_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        data.from_folder(tmp_path / "elsewhere")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ValueError, match="a folder or an .npz file, and .*a.txt is neither"):
        data.from_path(tmp_path / "a.txt")


def test_links_that_lead_in_a_ring_end(tmp_path):
    write_folder(tmp_path, 4)
    os.symlink(tmp_path, tmp_path / "bar" / "back")
    os.symlink(tmp_path / "disc", tmp_path / "again")
    images = data.from_folder(tmp_path, "mine")
    assert len(images.x_train) + len(images.x_test) == 8


def test_train_and_test_folders_are_used_as_they_are(tmp_path, told):
    write_folder(tmp_path / "train", 5)
    write_folder(tmp_path / "test", 3, start=50)
    images = data.from_folder(tmp_path, tell=told.append)
    assert images.classes == ("bar", "disc") and "split by its folders" in told[0]
    assert (len(images.x_train), images.y_train.tolist()) == (10, [0] * 5 + [1] * 5)
    (tmp_path / "test" / "bar").rename(tmp_path / "test" / "cross")
    with pytest.raises(ValueError, match="test has classes that .*train has not: cross"):
        data.from_folder(tmp_path)


def test_flat_train_and_test_folders_have_no_classes(tmp_path):
    write_folder(tmp_path / "train", 5, kinds=())
    write_folder(tmp_path / "test", 5, kinds=(), size=(40, 60), start=50)
    images = data.from_folder(tmp_path, "mine", tell=lambda _: None)
    assert images.classes == () and (len(images.x_train), len(images.x_test)) == (5, 5)
    write_folder(tmp_path / "train", 1)
    with pytest.raises(ValueError, match="some pictures lie in folders of classes and some do not"):
        data.from_folder(tmp_path)


# ---- the split ---------------------------------------------------------------------------------


def test_a_tenth_is_kept_for_the_test_by_name():
    names = [f"class/{i:05}.png" for i in range(5000)]
    test = folders.kept_for_test(names)
    assert 400 < len(test) < 600
    assert test == folders.kept_for_test(names[::-1])
    more = [*names, *(f"class/new-{i}.png" for i in range(1000))]
    assert folders.kept_for_test(more) & set(names) == test  # none of the old ones moved


@pytest.mark.parametrize(("n", "expected"), [(1, 0), (2, 1), (3, 1)])
def test_of_few_pictures_one_is_kept_but_never_all(n, expected):
    for start in range(30):
        names = [f"{start + i}.png" for i in range(n)]
        assert len(folders.kept_for_test(names)) == expected


def test_every_class_is_tested(tmp_path):
    images = data.from_folder(write_folder(tmp_path, 3), "mine")
    assert sorted(images.y_test.tolist()) == [0, 1] and len(images.x_train) == 4


def test_the_same_folder_reads_to_the_same_fingerprint(tmp_path):
    images = data.from_folder(write_folder(tmp_path / "a", 6), "mine")
    twin = data.from_folder(write_folder(tmp_path / "b", 6), "mine")
    assert images.fingerprint == twin.fingerprint
    again = own.again(images.source, "mine")
    assert again.fingerprint == images.fingerprint
    (tmp_path / "b" / "bar").rename(tmp_path / "b" / "beam")
    assert data.from_folder(tmp_path / "b", "mine").fingerprint != images.fingerprint


# ---- sizes -------------------------------------------------------------------------------------


def test_the_most_common_size_is_taken_and_told(tmp_path, told):
    write_folder(tmp_path, 6)
    save(tmp_path / "bar" / "odd.png", picture(50, 0, (33, 41)))
    images = data.from_folder(tmp_path, tell=told.append)
    assert images.image_shape == (3, 40, 56)
    assert told == ["12 of 13 pictures are 40×56 pixels: all become so"]


def test_large_pictures_want_a_size(tmp_path):
    write_folder(tmp_path, 2, size=(300, 400))
    with pytest.raises(ValueError, match="300×400, which is more than .*: give a size"):
        data.from_folder(tmp_path)
    assert data.from_folder(tmp_path, size=(30, 40)).image_shape == (3, 30, 40)


@pytest.mark.parametrize(
    ("size", "divisor", "expected"),
    [((40, 56), 8, (40, 56)), ((41, 50), 8, (40, 48)), ((44, 3), 8, (48, 8)), ((7, 9), 4, (8, 8))],
)
def test_the_nearest_size_that_a_net_can_halve(size, divisor, expected):
    assert folders.nearest(size, divisor) == expected


def test_pictures_are_cut_in_the_middle_and_never_distorted():
    """A disc stays round, and lies where it lay."""
    y, x = np.mgrid[:90, :200]
    disc = ((y - 45) ** 2 + (x - 100) ** 2 < 30**2).astype(np.uint8) * 255
    for size in ((40, 40), (40, 60), (60, 40)):
        found = np.asarray(pictures.resized(Image.fromarray(disc), size)) > 127
        assert found.shape == size
        rows, columns = np.flatnonzero(found.any(1)), np.flatnonzero(found.any(0))
        assert abs(len(rows) - len(columns)) <= 1
        scale = max(size[0] / 90, size[1] / 200)
        assert abs(len(rows) - 59 * scale) <= 1.5
        assert abs(rows.mean() - (size[0] - 1) / 2) <= 0.6
        assert abs(columns.mean() - (size[1] - 1) / 2) <= 0.6


def test_scaling_down_is_antialiased_and_the_right_size_stays_as_it_is():
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    small = np.asarray(pictures.resized(Image.fromarray(stripes), (16, 16)))
    assert (
        abs(small[:, 2:-2].astype(int) - 127).max() <= 3
    )  # picking pixels would give black or white
    original = Image.fromarray(stripes)
    assert pictures.resized(original, (64, 64)) is original


# ---- pictures of all kinds ---------------------------------------------------------------------


def read(path, size=SIZE, grey=None):
    return pictures.read_picture(path, size, grey)


def test_exif_orientation_turns_the_picture(tmp_path):
    pixels = picture(0, 0)
    for orientation, turned in ((1, pixels), (3, pixels[::-1, ::-1]), (6, np.rot90(pixels, -1))):
        exif = Image.Exif()
        exif[pictures.ORIENTATION] = orientation
        path = save(tmp_path / "a.png", pixels, exif=exif)
        assert pictures.upright_size(path) == turned.shape[:2]
        assert np.array_equal(read(path, turned.shape[:2]), turned)


def test_transparency_is_laid_on_white(tmp_path):
    pixels = np.zeros((*SIZE, 4), np.uint8)
    pixels[:, :20] = (200, 10, 0, 255)
    pixels[:, 20:30] = (0, 0, 0, 128)
    found = read(save(tmp_path / "a.png", pixels))
    assert found[0, 0].tolist() == [200, 10, 0] and found[0, 40].tolist() == [255, 255, 255]
    assert found[0, 25].tolist() == [127, 127, 127]


@pytest.mark.parametrize("mode", ["P", "LA", "PA", "1", "CMYK", "YCbCr", "L"])
def test_other_modes_become_grey_or_rgb(tmp_path, mode):
    kind = "tif" if mode in ("CMYK", "YCbCr") else "png"
    image = Image.fromarray(picture(0, 0))
    converted = image.quantize(200) if mode in ("P", "PA") else image.convert(mode)
    if mode == "PA":
        converted.info["transparency"] = 3
    converted.save(tmp_path / f"a.{kind}")
    found = read(tmp_path / f"a.{kind}", grey=False)
    assert found.shape == (*SIZE, 3)
    expected = np.asarray(image.convert("L" if mode in ("1", "L", "LA") else "RGB").convert("RGB"))
    if mode not in ("1", "PA"):
        assert abs(found.astype(int) - expected).mean() < 6


def test_sixteen_bits_are_scaled_by_their_whole_range(tmp_path):
    values = np.linspace(0, 65535, 40 * 56).reshape(SIZE).round().astype(np.uint16)
    path = save(tmp_path / "a.png", values)
    found = read(path)
    assert found.shape == SIZE and found.dtype == np.uint8
    assert np.array_equal(found, np.rint(values / 257).astype(np.uint8))
    dark = save(tmp_path / "dark.png", (values // 100).astype(np.uint16))
    assert read(dark).max() == 3  # neither stretched nor clipped


def test_floating_point_pixels_are_refused(tmp_path):
    save(tmp_path / "a.tif", np.ones(SIZE, np.float32))
    with pytest.raises(pictures.BrokenPicture, match="floating-point pixels"):
        read(tmp_path / "a.tif")


def test_of_an_animation_the_first_frame_is_taken(tmp_path, told):
    frames = [Image.fromarray(picture(50 + i, 0)) for i in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert pictures.frames(tmp_path / "a.gif") == 3
    first = np.asarray(Image.open(tmp_path / "a.gif").convert("RGB"))
    assert np.array_equal(read(tmp_path / "a.gif"), first)
    write_folder(tmp_path, 3, kinds=())
    data.from_folder(tmp_path, tell=told.append)
    assert told == ["of 1 file (a.gif), each of several pictures, the first is taken"]


def test_all_grey_pictures_have_one_channel_and_one_coloured_one_makes_three(tmp_path):
    write_folder(tmp_path, 6, colour=False)  # RGB files without a colour
    images = data.from_folder(tmp_path, "mine")
    assert images.image_shape[0] == 1 and images.source.grey
    assert data.from_folder(tmp_path, "mine", grey=False).image_shape[0] == 3
    save(tmp_path / "bar" / "colour.png", picture(9, 0))
    images = data.from_folder(tmp_path, "mine")
    assert images.image_shape[0] == 3 and not images.source.grey
    assert bool((images.x_train[:, :1] == images.x_train).all((1, 2, 3)).any())
    assert data.from_folder(tmp_path, "mine", grey=True).image_shape[0] == 1


def test_photographs_are_read_at_a_fraction_of_their_size(tmp_path):
    y, x = np.mgrid[:1200, :1600]
    photo = np.stack([x / 1600, y / 1200, (x + y) / 2800], axis=-1) * 255
    save(tmp_path / "a.jpg", photo.astype(np.uint8), quality=95)
    found = read(tmp_path / "a.jpg", (30, 40)).astype(float)
    y, x = np.mgrid[:30, :40] + 0.5
    expected = np.stack([x / 40, y / 30, (40 * x + 40 * y) / 2800], axis=-1) * 255
    assert abs(found - expected).max() < 6


# ---- what is broken ----------------------------------------------------------------------------


def break_some(folder):
    good = (folder / "bar" / "000.png").read_bytes()
    (folder / "bar" / "cut.png").write_bytes(good[: len(good) // 2])
    (folder / "bar" / "empty.png").write_bytes(b"")
    (folder / "bar" / "page.png").write_bytes(b"<html>not found</html>")
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 255
    (folder / "bar" / "flipped.png").write_bytes(bytes(flipped))
    os.symlink("nowhere.png", folder / "bar" / "dangling.png")
    return 5


def test_broken_files_stop_and_are_named(tmp_path):
    n = break_some(write_folder(tmp_path, 4))
    with pytest.raises(ValueError, match=f"{n} files cannot be read .bar/cut.png: .*") as caught:
        data.from_folder(tmp_path)
    said = str(caught.value)
    assert "bar/dangling.png: no such file" in said and "bar/empty.png: no picture" in said
    assert said.count(".png: ") == 3 and "; ...)" in said and "--skip-broken" in said
    assert "\n" not in said


def test_broken_files_are_left_out_on_request(tmp_path, told):
    n = break_some(write_folder(tmp_path, 4))
    images = data.from_folder(tmp_path, skip_broken=True, tell=told.append)
    assert len(images.x_train) + len(images.x_test) == 8 and images.source.skip_broken
    assert told == [s for s in told if s.startswith(f"left out: {n} files cannot be read")]


@pytest.mark.parametrize("kind", ["gif", "tif"])
def test_what_breaks_after_its_first_frame_is_left_out_as_told(tmp_path, told, kind):
    write_folder(tmp_path, 4, kinds=())
    first, *others = [Image.fromarray(picture(50 + i, 0)) for i in range(3)]
    path = tmp_path / f"a.{kind}"
    first.save(path, save_all=True, append_images=others)
    break_later_frames(path)
    images = data.from_folder(tmp_path, size=SIZE, skip_broken=True, tell=told.append)
    assert told[0].startswith(f"left out: 1 file cannot be read (a.{kind}: ")
    assert len(images.x_train) + len(images.x_test) == 4


def break_later_frames(path):
    whole = path.read_bytes()
    for n in range(len(whole) - 1, 0, -1):
        path.write_bytes(whole[:n])
        try:
            read(path)
        except pictures.BrokenPicture:
            break
        try:
            pictures.frames(path)
        except pictures.BrokenPicture:
            return
    pytest.fail("no cut breaks the later frames alone")


def test_a_folder_of_broken_files_alone_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(ValueError, match="none of the pictures in .* can be read"):
        data.from_folder(tmp_path, skip_broken=True)
    with pytest.raises(ValueError, match="no picture in .* is left to train on"):
        data.from_folder(tmp_path, size=(8, 8), skip_broken=True, tell=lambda _: None)


def test_a_decompression_bomb_is_not_opened(tmp_path, monkeypatch):
    write_folder(tmp_path, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40 * 56 - 1)
    with pytest.raises(ValueError, match="more than 2,239 pixels"):
        data.from_folder(tmp_path, size=(8, 8))


def test_images_that_do_not_fit_into_memory_are_refused_before_they_are_read(tmp_path, monkeypatch):
    write_folder(tmp_path, 3)
    monkeypatch.setattr(folders, "most_bytes", lambda: 1000)
    monkeypatch.setattr(pictures, "read_picture", lambda *a: pytest.fail("must not read"))
    with pytest.raises(ValueError, match="6 pictures of 40×56 need .* GiB"):
        data.from_folder(tmp_path)


def test_names_are_printed_without_escapes(tmp_path):
    write_folder(tmp_path, 2)
    (tmp_path / "bar" / "\x1b[31mred.png").write_bytes(b"")
    with pytest.raises(ValueError, match="cannot be read") as caught:
        data.from_folder(tmp_path)
    assert "\x1b" not in str(caught.value) and r"\x1b[31mred.png" in str(caught.value)


def test_copies_are_named_and_none_is_trained_on_and_tested(tmp_path, told):
    write_folder(tmp_path, 20, kinds=())
    for i in range(20):
        (tmp_path / f"copy-{i}.png").write_bytes((tmp_path / f"{i:03}.png").read_bytes())
    images = data.from_folder(tmp_path, "mine", tell=told.append)
    assert len(told) == 1 and told[0].startswith("20 pictures twice, for example ")
    train = {x.numpy().tobytes() for x in images.x_train}
    assert train and not any(x.numpy().tobytes() in train for x in images.x_test)


# ---- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a b/", "a-b"),
        ("x/Ünï cøde!", "Uni-cde"),
        ("Bäume", "Baume"),
        ("照片", "images"),
        ("-x", "x"),
        ("--", "images"),
        ("con", "my-con"),
        ("COM1.npz", "my-COM1"),
        ("x" * 200, "x" * 90),
        ("cats.npz", "cats"),
        ("mnist", "my-mnist"),
    ],
)
def test_the_folder_names_the_data(path, name):
    assert own.plain_name(path) == name
    own.check_own_name(name)


@pytest.mark.parametrize("name", ["digits", "Bäume", "-x"])
def test_a_name_is_refused_before_any_picture_is_looked_at(tmp_path, monkeypatch, name):
    monkeypatch.setattr(folders, "listed", lambda *a: pytest.fail("must not look"))
    with pytest.raises(ValueError, match="a data set of this library|is a plain file name"):
        data.from_folder(tmp_path, name)


def test_the_name_of_a_data_set_of_the_library_is_refused(tmp_path):
    with pytest.raises(ValueError, match="digits is a data set of this library"):
        data.from_path(write_folder(tmp_path, 2), "digits")


# ---- arrays and files --------------------------------------------------------------------------


def pixels(n=20, shape=(12, 16, 3), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def test_arrays_have_channels_last_and_tensors_first():
    x = pixels()
    images = data.from_arrays("mine", x, np.arange(20) % 3)
    twin = data.from_arrays("mine", torch.from_numpy(x).permute(0, 3, 1, 2), torch.arange(20) % 3)
    assert images.image_shape == (3, 12, 16) and images.classes == ("0", "1", "2")
    assert torch.equal(images.x_train, twin.x_train) and torch.equal(images.x_test, twin.x_test)
    assert images.fingerprint == twin.fingerprint
    assert len(images.x_test) == 2 and images.y_test.tolist() == [9 % 3, 19 % 3]
    more = data.from_arrays("mine", np.concatenate([x, pixels(7, seed=1)]))
    assert torch.equal(more.x_test, images.x_test)  # none of the old ones moved


@pytest.mark.parametrize(
    ("x", "y", "match"),
    [
        (pixels().astype(np.float32), None, "x must hold uint8 images 0..255, got torch.float32"),
        (pixels().astype(np.int64), None, "uint8 images"),
        (pixels().reshape(20, -1), None, r"must be images \(N, H, W\) or \(N, H, W, C\)"),
        (pixels(0), None, "must be images"),
        (pixels(shape=(3, 40, 56)), None, "56: is the axis of the channels at another place"),
        (np.array(["a"]), None, "must hold numbers"),
        (pixels(), np.arange(19), "19 for 20 images"),
        (pixels(), np.arange(20) - 1, "labels 0..K−1, got -1"),
        (pixels(), np.zeros((20, 2), int), "whole numbers, one per image"),
        (pixels(), np.zeros(20), "whole numbers, one per image"),
    ],
)
def test_other_arrays_are_refused(x, y, match):
    with pytest.raises(ValueError, match=match):
        data.from_arrays("mine", x, y)


def test_a_list_of_images_is_no_array():
    with pytest.raises(TypeError, match="x must be a NumPy array or a tensor, got list"):
        data.from_arrays("mine", [[1, 2]])


@pytest.mark.parametrize("keys", [("x", "y"), ("images", "labels"), ("arr_0", "arr_1")])
def test_archives_with_one_array_of_images(tmp_path, keys):
    x, y = pixels(), np.arange(20) % 2
    np.savez(tmp_path / "my birds.npz", **dict(zip(keys, (x, y), strict=True)))
    images = data.from_path(tmp_path / "my birds.npz")
    assert images.name == "my-birds" and images.classes == ("0", "1")
    assert torch.equal(images.x_train, data.from_arrays("a", x, y).x_train)
    np.savez(tmp_path / "b.npz", **{keys[0]: x[..., 0]})
    assert data.from_path(tmp_path / "b.npz").image_shape == (1, 12, 16)


def test_archives_that_are_split_and_name_their_classes(tmp_path):
    parts = {"x_train": pixels(8), "y_train": np.arange(8) % 2, "x_test": pixels(3, seed=1)}
    parts |= {"y_test": np.zeros(3, int), "classes": np.array(["cat", "dog"])}
    np.savez(tmp_path / "a.npz", **parts)
    images = data.from_path(tmp_path / "a.npz")
    assert images.classes == ("cat", "dog") and len(images.x_test) == 3
    assert own.again(images.source, "a").fingerprint == images.fingerprint
    small = data.from_path(tmp_path / "a.npz", size=(6, 8), grey=True)
    assert small.image_shape == (1, 6, 8)
    assert own.again(small.source, "a").fingerprint == small.fingerprint


@pytest.mark.parametrize("channels", [2, 4])
def test_an_archive_of_other_channels_is_read_again_and_neither_grey_nor_rgb(tmp_path, channels):
    np.savez(tmp_path / "a.npz", x=pixels(shape=(12, 16, channels)))
    images = data.from_path(tmp_path / "a.npz")
    assert images.image_shape == (channels, 12, 16)
    assert own.again(images.source, "a").fingerprint == images.fingerprint
    for grey in (True, False):
        with pytest.raises(ValueError, match=f"images of {channels} channels are neither grey nor"):
            data.from_path(tmp_path / "a.npz", grey=grey)


def test_grey_images_that_were_made_rgb_are_read_again_as_rgb(tmp_path):
    np.savez(tmp_path / "a.npz", x=pixels(shape=(12, 16)))
    images = data.from_path(tmp_path / "a.npz", grey=False)
    assert own.again(images.source, "a").image_shape == images.image_shape == (3, 12, 16)


def test_arrays_are_resized_as_files_are(tmp_path):
    x = pixels(3, (40, 56, 3))
    for i, image in enumerate(x):
        save(tmp_path / f"{i}.png", image)
    found = arrays.resized(torch.from_numpy(x).permute(0, 3, 1, 2), (20, 20))
    for i in range(3):
        assert np.array_equal(found[i].permute(1, 2, 0), read(tmp_path / f"{i}.png", (20, 20)))


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({"a": np.zeros(3)}, "holds a: images are looked for under the names x_train"),
        ({"x": np.zeros((3, 8, 8), np.float32)}, "uint8 images"),
        ({"x": np.array([{}], dtype=object)}, "pickle"),
        (b"", "not a readable .npz"),
        (b"\x80\x04]", "not a readable .npz"),
    ],
)
def test_other_files_are_one_sentence(tmp_path, content, match):
    path = tmp_path / "a.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.savez(path, **content)
    with pytest.raises(ValueError, match=match):
        data.from_path(path)


def test_an_archive_that_unpacks_beyond_the_memory_is_not_unpacked(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((1000, 32, 32), np.uint8))
    monkeypatch.setattr(arrays, "most_bytes", lambda: 100_000)
    with pytest.raises(ValueError, match="do not fit into"):
        data.from_path(tmp_path / "a.npz")


# ---- fingerprints ------------------------------------------------------------------------------


def test_every_part_of_the_training_data_reaches_the_fingerprint():
    x, y = torch.from_numpy(pixels(10, (4, 4, 3))), torch.arange(10) % 2
    found = {
        data.fingerprint(x),
        data.fingerprint(x, y),
        data.fingerprint(x, 1 - y),
        data.fingerprint(x, y, ("a", "b")),
        data.fingerprint(x, y, ("b", "a")),
        data.fingerprint(x, y, ("ab", "")),
        data.fingerprint(x.view(10, 3, 4, 4), y),
        data.fingerprint(x.float(), y),
        data.fingerprint(x.flip(0), y),
        data.fingerprint(x, {"y": y, "z": y}),
    }
    assert len(found) == 10 and all(len(f) == 64 for f in found)
    changed = x.clone()
    changed[7, 1, 2, 0] ^= 1
    assert data.fingerprint(changed) != data.fingerprint(x)
    assert data.fingerprint(x.permute(0, 2, 1, 3).contiguous().permute(0, 2, 1, 3)) in found


def test_the_test_part_is_no_part_of_the_fingerprint():
    x = torch.from_numpy(pixels(10)).permute(0, 3, 1, 2).contiguous()
    a = data.Dataset("a", x[:8], None, x[8:], None)
    b = data.Dataset("b", x[:8], None, x[:1], None)
    assert a.fingerprint == b.fingerprint == data.fingerprint(x[:8])


# ---- map-style data sets -----------------------------------------------------------------------


class Items(torch.utils.data.Dataset):
    """Items in one of the forms that libraries hand out."""

    def __init__(self, form, x, y):
        self.form, self.x, self.y = form, x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        x, y = self.x[i], int(self.y[i])
        return {
            "pil": lambda: (Image.fromarray(x), y),
            "array": lambda: (x, y),
            "tensor": lambda: (torch.from_numpy(x).permute(2, 0, 1), y),
            "mapping": lambda: {"image": Image.fromarray(x), "label": y},
            "bare": lambda: Image.fromarray(x),
        }[self.form]()


@pytest.mark.parametrize("form", ["pil", "array", "tensor", "mapping", "bare"])
def test_items_of_every_form_are_read(form):
    x, y = pixels(9), np.arange(9) % 3
    found, labels = data.from_map_style(Items(form, x, y))
    assert np.array_equal(found.permute(0, 2, 3, 1), x)
    assert labels is None if form == "bare" else labels.tolist() == y.tolist()


def test_other_names_of_columns_and_known_labels():
    items = [{"img": Image.fromarray(x), "fine": i % 2} for i, x in enumerate(pixels(6))]
    _, labels = data.from_map_style(items, image="img", label="fine")
    assert labels.tolist() == [0, 1] * 3
    _, labels = data.from_map_style(items, image="img", labels=[4] * 6)
    assert labels.tolist() == [4] * 6
    with pytest.raises(ValueError, match="5 for 6 images"):
        data.from_map_style(items, image="img", labels=[4] * 5)


def test_pillow_images_of_a_data_set_become_what_files_of_them_would(tmp_path):
    deep = np.linspace(0, 65535, 40 * 56).reshape(SIZE).round().astype(np.uint16)
    clear = np.zeros((*SIZE, 4), np.uint8)
    clear[:, :20] = (200, 10, 0, 255)
    for values in (deep, clear):
        x, _ = data.from_map_style([(Image.fromarray(values), 0)])
        expected = read(save(tmp_path / "a.png", values))
        assert np.array_equal(x[0].permute(1, 2, 0).squeeze(), expected)
    with pytest.raises(ValueError, match="image 0 cannot be read: floating-point pixels"):
        data.from_map_style([(Image.fromarray(np.ones(SIZE, np.float32)), 0)])


def test_a_given_label_comes_before_the_targets_of_the_items():
    items = Items("array", pixels(6), np.arange(6))
    items.targets = [5] * 6
    assert data.from_map_style(items)[1].tolist() == [5] * 6
    assert data.from_map_style(items, label=1)[1].tolist() == list(range(6))
    assert data.from_map_style(items, label=1, labels=[4] * 6)[1].tolist() == [4] * 6
    with pytest.raises(ValueError, match="6 of 6 items have no label at 2, the first .* item 0"):
        data.from_map_style(items, label=2)


def test_labels_of_some_items_alone_are_refused():
    items = [{"image": x, "label": None if i in (2, 4) else i} for i, x in enumerate(pixels(6))]
    with pytest.raises(ValueError, match="2 of 6 items have no label, the first of them item 2: "):
        data.from_map_style(items)
    _, labels = data.from_map_style([{"image": x, "label": None} for x in pixels(6)])
    assert labels is None


def test_what_does_not_fit_stays_where_it_is():
    x, y = pixels(9), np.arange(9) % 3
    items = Items("pil", x, y)
    samples, labels = data.from_map_style(items, limit=9 * 12 * 16 * 3 - 1)
    assert isinstance(samples, map_style.MapStyle) and labels.tolist() == y.tolist()
    assert len(samples) == 9
    found = samples.batch(torch.tensor([8, 0, 3]))
    assert np.array_equal(found.permute(0, 2, 3, 1), x[[8, 0, 3]])
    held, _ = data.from_map_style(items, limit=9 * 12 * 16 * 3)
    assert isinstance(held, torch.Tensor)


def test_known_labels_spare_reading_what_does_not_fit(monkeypatch):
    items = Items("pil", pixels(9), np.arange(9))
    items.targets = list(range(9))
    looked = []
    read_item = Items.__getitem__
    monkeypatch.setattr(
        Items, "__getitem__", lambda self, i: looked.append(i) or read_item(self, i)
    )
    _, labels = data.from_map_style(items, limit=0)
    assert labels.tolist() == list(range(9)) and looked == [0]


@pytest.mark.parametrize(
    ("items", "match"),
    [
        ([], "is empty"),
        ([(torch.rand(3, 4, 4), 0)], "uint8 numbers 0..255, got torch.float32: .*PILToTensor"),
        ([("path.png", 0)], "got str"),
        ([(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), 0)], "got 4 axes"),
        ([(pixels(1)[0], 0), (pixels(1, (8, 8, 3))[0], 0)], "image 1 is .* and image 0 is"),
        ([(pixels(1)[0], 0.5)], "labels are whole numbers"),
    ],
)
def test_items_of_another_kind_are_one_sentence(items, match):
    with pytest.raises(ValueError, match=match):
        data.from_map_style(items)


def test_torchvision_sets_are_taken():
    fake = pytest.importorskip("torchvision.datasets").FakeData(
        size=7, image_size=(3, 10, 10), num_classes=4
    )
    x, y = data.from_map_style(fake)
    assert x.shape == (7, 3, 10, 10) and x.dtype == torch.uint8
    assert y.tolist() == [int(fake[i][1]) for i in range(7)]


def test_a_fingerprint_of_what_is_not_in_memory_is_of_a_part():
    x = pixels(2 * 256, (2, 2, 3))
    y = np.zeros(len(x), int)
    samples = map_style.MapStyle(Items("array", x, y))
    known = data.fingerprint(samples, torch.from_numpy(y))
    assert known == data.fingerprint(
        map_style.MapStyle(Items("array", x.copy(), y)), torch.from_numpy(y)
    )
    changed = x.copy()
    changed[-1] ^= 1
    other = map_style.MapStyle(Items("array", changed, y))
    assert data.fingerprint(other, torch.from_numpy(y)) != known
    assert data.fingerprint(samples, torch.from_numpy(y) + 1) != known
