"""`ddpmlib.plots`: every pixel where it belongs, and films that need nothing from elsewhere."""

import base64
import errno
import io
import itertools
import os
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ddpmlib import data, plots

mpl = pytest.importorskip("matplotlib")
mpl.use("Agg")
Image = pytest.importorskip("PIL.Image")


@pytest.fixture(autouse=True)
def _close_figures():
    import matplotlib.pyplot as plt

    with mpl.rc_context():
        yield
    plt.close("all")


def images(n=5, c=1, h=3, w=4):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 255, (n, c, h, w), generator=generator, dtype=torch.uint8)


# ---- the style ---------------------------------------------------------------------------------


def test_a_notebook_stores_figures_with_a_palette_and_the_same_size(monkeypatch):
    """Twice the style, once the palette; a printer that gives no PNG in base64 is left alone."""
    formatters = pytest.importorskip("IPython.core.formatters")
    from matplotlib.figure import Figure

    def printed(figure):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        return base64.b64encode(buffer.getvalue()).decode()

    display = formatters.DisplayFormatter()
    display.formatters["image/png"].for_type(Figure, printed)
    shell = SimpleNamespace(kernel=None, display_formatter=display)
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    monkeypatch.setattr("matplotlib.pyplot.switch_backend", lambda name: None)
    plots.style()
    once = display.formatters["image/png"].for_type(Figure)
    plots.style()
    figure = Figure()
    figure.subplots().plot(range(5), color=plots.BLUE)
    found = display.formatters["image/png"].for_type(Figure)(figure)
    small, full = (Image.open(io.BytesIO(base64.b64decode(p))) for p in (found, printed(figure)))
    assert display.formatters["image/png"].for_type(Figure) is once is not printed
    assert small.mode == "P" and small.size == full.size and len(found) < len(printed(figure)) / 2
    gap = np.abs(np.asarray(small.convert("RGB"), int) - np.asarray(full.convert("RGB"), int))
    assert gap.max() < 40 and gap.mean() < 0.2
    display.formatters["image/png"].for_type(Figure, lambda figure: (b"", {}))
    plots.style()
    assert display.formatters["image/png"].for_type(Figure)(figure) == (b"", {})


# ---- sheets ------------------------------------------------------------------------------------


@pytest.mark.parametrize("c", [1, 3])
@pytest.mark.parametrize("pad", [0, 1, 2])
def test_sheet_is_exact_to_the_pixel(c, pad):
    x = images(c=c)
    sheet = plots.sheet(x, ncol=2, pad=pad)
    assert sheet.dtype == np.uint8 and sheet.shape == (9 + 2 * pad, 8 + pad, 3)
    left_over = np.ones(sheet.shape[:2], bool)
    for i in range(5):
        top, left = (i // 2) * (3 + pad), (i % 2) * (4 + pad)
        tile = sheet[top : top + 3, left : left + 4]
        assert np.array_equal(tile, x[i].expand(3, -1, -1).permute(1, 2, 0).numpy())
        left_over[top : top + 3, left : left + 4] = False
    assert left_over.any() and (sheet[left_over] == 255).all()


def test_sheet_scales_and_clips_floats():
    x = images()
    floats = data.to_float(x)
    assert np.array_equal(plots.sheet(floats), plots.sheet(x))
    assert np.array_equal(plots.sheet(floats.double().requires_grad_()), plots.sheet(x))
    assert plots.sheet(torch.full((1, 1, 2, 2), 5.0)).max() == 255
    assert plots.sheet(torch.full((1, 1, 2, 2), -5.0)).max() == 0


def test_sheet_of_few_images_is_as_narrow_as_they_are():
    assert plots.sheet(images(1), ncol=10).shape == (3, 4, 3)
    assert plots.sheet(images(3), ncol=10).shape == (3, 14, 3)


@pytest.mark.parametrize("c", [2, 4, 5])
def test_other_channels_are_shown_side_by_side(c):
    x = images(n=3, c=c)
    sheet = plots.sheet(x, ncol=2)
    assert sheet.shape == (7, 2 * 4 * c + 1, 3)
    for k in range(c):  # of the second image, which begins after one white column
        left = 4 * c + 1 + 4 * k
        assert np.array_equal(sheet[:3, left : left + 4, 0], x[1, k].numpy())
    assert (sheet == sheet[..., :1]).all()


@pytest.mark.parametrize(
    "wrong",
    [torch.zeros(3, 4), torch.zeros(2, 0, 3, 4), torch.zeros(0, 1, 3, 4), torch.zeros(1, 3, 4)],
)
def test_sheet_refuses_other_shapes(wrong):
    with pytest.raises(ValueError, match=r"expected images \(N, C, H, W\), at least one, got"):
        plots.sheet(wrong)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_sheet_refuses_numbers_whose_range_is_unknown(dtype):
    with pytest.raises(ValueError, match="uint8 0..255 or floats"):
        plots.sheet(torch.ones(1, 1, 2, 2, dtype=dtype))


@pytest.mark.parametrize("options", [{"ncol": 0}, {"pad": -1}])
def test_sheet_refuses_impossible_layouts(options):
    with pytest.raises(ValueError, match="need ncol >= 1 and pad >= 0"):
        plots.sheet(images(), **options)


def test_save_grid_zooms_by_whole_pixels(tmp_path):
    path = tmp_path / "a new folder" / "grid.png"
    plots.save_grid(images(), path, ncol=2, least_width=20)
    saved, sheet = np.asarray(Image.open(path)), plots.sheet(images(), ncol=2)
    assert saved.shape == (33, 27, 3)  # 9 pixels wide, three times
    assert np.array_equal(saved[1::3, 1::3], sheet)
    assert np.array_equal(saved, sheet.repeat(3, 0).repeat(3, 1))


def test_a_grid_that_cannot_be_written_leaves_the_older_one(tmp_path, monkeypatch):
    path = tmp_path / "grid.png"
    plots.save_grid(images(), path)
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"cannot write .*grid.png: No space left"):
        plots.save_grid(images(n=2), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


# ---- figures -----------------------------------------------------------------------------------


def test_grid_shows_the_sheet():
    ax = plots.grid(images(), ncol=2, title="five")
    assert np.array_equal(ax.images[0].get_array(), plots.sheet(images(), 2))
    assert ax.get_title() == "five" and not ax.axison
    assert plots.grid(images(), ax=ax) is ax and len(ax.images) == 2


def test_rows_have_their_names_beside_them():
    named = {"first": images(3), "second": images(3)}
    ax = plots.rows(named, title="two")
    shown = ax.get_images()[0].get_array()
    assert np.array_equal(shown, plots.sheet(torch.cat(list(named.values())), ncol=3))
    assert [text.get_text() for text in ax.texts] == list(named) and ax.get_title() == "two"
    for row, text in enumerate(ax.texts):  # images are 3 high, with one pixel between rows
        x, y = text.get_position()
        assert x < 0 and 4 * row < y < 4 * row + 3


@pytest.mark.parametrize("named", [{}, {"a": images(2), "b": images(3)}])
def test_rows_must_be_as_long_as_each_other(named):
    with pytest.raises(ValueError, match="rows of one length"):
        plots.rows(named)


def test_scatter_shows_the_points():
    points = torch.tensor([[0.0, 1.0], [2.0, -1.0]], requires_grad=True)
    ax = plots.scatter(points, reach=3, color="red")
    assert np.array_equal(ax.collections[0].get_offsets(), points.detach().numpy())
    assert ax.get_xlim() == (-3, 3) == ax.get_ylim()
    assert ax.get_xlabel() and ax.get_ylabel() and ax.get_aspect() == 1
    assert mpl.colors.to_hex(ax.collections[0].get_facecolor()[0]) == "#ff0000"
    assert plots.scatter(points, ax=ax) is ax
    for wrong in (torch.zeros(2, 3), torch.zeros(2)):
        with pytest.raises(ValueError, match=r"expected points \(N, 2\)"):
            plots.scatter(wrong)


def test_curve_takes_a_log_or_the_pairs_of_a_card():
    ax = plots.curve({"step": [10, 20], "loss": [0.5, 0.25]}, label="run")
    plots.curve([(10, 0.5), (20, 0.25)], ax=ax)
    for line in ax.lines:
        assert line.get_xdata().tolist() == [10, 20] and line.get_ydata().tolist() == [0.5, 0.25]
    assert len(ax.lines) == 2 and ax.lines[0].get_label() == "run"
    assert ax.get_xlabel() == "training step" and ax.get_yscale() == "log"


def test_style_is_one_for_all_figures():
    plots.style()
    colours = mpl.rcParams["axes.prop_cycle"].by_key()["color"]
    assert tuple(colours) == plots.COLOURS and len(set(colours)) == 7
    assert mpl.rcParams["image.cmap"] == "gray"


# Machado, Oliveira and Fernandes (2009): linear RGB as eyes without one kind of cone see it.
EYES = {
    "all cones": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def lab(colour, eye):
    """CIE L*a*b* of a colour as that eye sees it; a difference of 2.3 is just noticeable."""
    s = np.array(mpl.colors.to_rgb(colour))
    linear = np.where(s <= 0.04045, s / 12.92, ((s + 0.055) / 1.055) ** 2.4)
    seen = (np.array(EYES[eye]) @ linear).clip(0, 1)
    to_xyz = [[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]]
    xyz = np.array(to_xyz) @ seen / [0.9505, 1, 1.0888]
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("eye", EYES)
def test_colours_are_told_apart_with_any_colour_vision(eye):
    seen = [lab(colour, eye) for colour in (*plots.COLOURS, plots.GREY)]
    distances = [np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)]
    assert min(distances) > 12


def test_the_simulation_knows_a_pair_that_is_not_safe():
    red, green = "#C05020", "#808000"
    assert np.linalg.norm(lab(red, "all cones") - lab(green, "all cones")) > 40
    assert np.linalg.norm(lab(red, "deuteranopia") - lab(green, "deuteranopia")) < 12


def test_picture_is_the_figure_and_closes_it():
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(2, 1), dpi=50)
    pixels = plots.picture(figure)
    assert pixels.shape == (50, 100, 3) and pixels.dtype == np.uint8
    assert not plt.get_fignums()


# ---- films -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "new folder/b.GIF"])
def test_a_film_in_a_file_shows_greys_as_they_are(tmp_path, name):
    greys = [plots.sheet(images().roll(k, 0)) for k in range(3)]
    plots.save_film(greys, tmp_path / name, seconds=1.0, hold=2.0)
    with Image.open(tmp_path / name) as film:
        assert film.n_frames == 3 and film.info["loop"] == 0
        for k, expected in enumerate(greys):
            film.seek(k)
            film.load()
            assert np.array_equal(np.asarray(film.convert("RGB")), expected)
            assert film.info["duration"] == [330, 330, 2000][k] or name != "a.gif"


def test_a_film_of_colours_is_exact_in_a_webp(tmp_path):
    colours = [plots.sheet(images(n=9, c=3, h=9, w=9).roll(k, 0)) for k in range(2)]
    plots.save_film(colours, tmp_path / "a.webp")
    with Image.open(tmp_path / "a.webp") as film:
        for k, expected in enumerate(colours):
            film.seek(k)
            assert np.array_equal(np.asarray(film.convert("RGB")), expected)


@pytest.mark.parametrize(
    ("pictures", "name", "match"),
    [
        ([np.zeros((4, 4, 3), np.uint8)], "a.mp4", "a film is a .gif or a .webp file, got .*a.mp4"),
        ([], "a.gif", "at least one frame"),
        ([np.zeros((4, k, 3), np.uint8) for k in (4, 5)], "a.gif", "all of one size"),
    ],
)
def test_what_makes_no_film_is_refused(tmp_path, pictures, name, match):
    with pytest.raises(ValueError, match=match):
        plots.save_film(pictures, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


pytest.importorskip("IPython")


def opened(html):
    (encoded,) = re.findall(r'src="data:image/webp;base64,([A-Za-z0-9+/=]+)"', html.data)
    return Image.open(io.BytesIO(base64.b64decode(encoded, validate=True)))


def frames(n):
    return [torch.full((4, 1, 8, 8), -1 + 2 * k / max(1, n - 1)) for k in range(n)]


@pytest.mark.parametrize("n", [1, 2, 7])
def test_film_has_all_frames_in_order(n):
    film = opened(plots.film(frames(n), "noise turns into digits", ncol=2, width=34))
    assert film.format == "WEBP" and film.n_frames == n
    assert film.size == (34, 34)  # 17 pixels, twice
    levels = []
    for k in range(n):
        film.seek(k)
        levels.append(int(np.asarray(film.convert("RGB"))[8, 8, 0]))
    expected = [255 * k / max(1, n - 1) for k in range(n)]
    assert levels == pytest.approx(expected, abs=12)  # the format is lossy


def test_film_holds_its_last_frame_and_repeats():
    film = opened(plots.film(frames(5), "five", seconds=1.0, hold=2.0))
    durations = []
    for k in range(5):
        film.seek(k)
        film.load()
        durations.append(film.info["duration"])
    assert durations == [200] * 4 + [2000] and film.info["loop"] == 0


def test_film_loads_nothing_and_runs_no_script():
    html = plots.film(frames(2), "two").data
    assert "http" not in html and "<script" not in html and html.count("<") == 1


def test_alternative_text_cannot_break_out_of_its_place():
    alt = "α < β & \"quoted\" 'so' > <script>alert(1)</script>"
    html = plots.film(frames(2), alt).data
    (escaped,) = re.findall(r' alt="([^"]*)" ', html)
    from html import unescape

    assert unescape(escaped) == alt and "<" not in escaped
    assert opened(plots.film(frames(2), alt)).n_frames == 2


def test_film_takes_finished_pictures():
    pictures = [np.full((10, 20, 3), v, np.uint8) for v in (0, 128, 255)]
    film = opened(plots.film(pictures, "three greys", width=40))
    assert film.n_frames == 3 and film.size == (40, 20)


@pytest.mark.parametrize("alt", ["", "  \n"])
def test_film_needs_an_alternative_text(alt):
    with pytest.raises(ValueError, match="alternative text"):
        plots.film(frames(2), alt)


def test_film_needs_frames_that_fit():
    with pytest.raises(ValueError, match="at least one frame"):
        plots.film([], "nothing")
    for wrong in (
        [np.zeros((4, 4, 3), np.float32)],
        [np.zeros((4, 4), np.uint8)],
        [np.zeros((4, 4, 3), np.uint8), np.zeros((5, 4, 3), np.uint8)],
        [torch.zeros(1, 1, 4, 4), torch.zeros(2, 1, 4, 4)],
    ):
        with pytest.raises(ValueError, match="all of one size"):
            plots.film(wrong, "does not fit")
