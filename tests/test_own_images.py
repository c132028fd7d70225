"""From a folder of pictures to samples and numbers, by the command line: `train --images`."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from ddpmlib import data, evaluation, zoo
from ddpmlib.cli import main
from ddpmlib.denoiser import Denoiser
from ddpmlib.evaluation import images
from ddpmlib.models import NoisyClassifierConfig
from ddpmlib.process import DDPM, schedules
from ddpmlib.zoo import recipes, runs, source
from tests.pictures import picture, write_folder

Image = pytest.importorskip("PIL.Image")
SMALL = ["--size", "16", "--steps", "3", "--batch-size", "8", "--device", "cpu"]
DRAWN = ["--steps", "2", "--device", "cpu"]


@pytest.fixture
def cwd(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder of 2 × 45 pictures, a run on them and one of a classifier, to be looked at alone."""
    root = tmp_path_factory.mktemp("finished")
    write_folder(root / "two kinds", 45)
    words = ["train", "--images", str(root / "two kinds"), *SMALL]
    assert main([*words, "--out", str(root / "runs" / "two-kinds")]) == 0
    words += ["--kind", "classifier", "--out", str(root / "runs" / "two-kinds-classifier")]
    assert main(words) == 0
    return root


def card_of(run):
    return zoo.Card.read(Path(run) / "model.json")


def failed(capsys, words):
    capsys.readouterr()
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert err.count("\n") == 1 and err.startswith("ddpmlib: ")
    return out, err


# ---- train -------------------------------------------------------------------------------------


def test_a_folder_becomes_a_run_and_says_so(cwd, capsys):
    write_folder(cwd / "two kinds", 12)
    assert main(["train", "--images", "two kinds", *SMALL]) == 0
    out = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        r"two-kinds: \d+ images to train on and \d+ to test with, 16×16 pixels, RGB, 2 classes",
        out[0],
    )
    assert re.fullmatch(
        r"two-kinds: diffusion, U-Net 32-64, [\d,]+ weights; 3 updates of 8 images, 1 passes over "
        "the data",
        out[1],
    )
    assert out[2] == "too few to test with for `ddpmlib evaluate`, which needs 8"
    assert out[3].startswith("runs/two-kinds: ")
    card = card_of("runs/two-kinds")
    assert card.name == card.recipe["data"] == "two-kinds"
    assert card.training["classes"] == ["bar", "disc"] and card.num_classes == 2
    known = data.from_folder("two kinds", size=(16, 16))
    assert card.training["data_fingerprint"] == known.fingerprint
    where = json.loads(Path("runs/two-kinds/data.json").read_text("utf-8"))
    assert where == {
        "path": str(cwd / "two kinds"), "size": [16, 16], "grey": False, "skip_broken": False,
    }  # fmt: skip
    assert main(["sample", "--n", "4", *DRAWN]) == 0  # the newest run; its images are not needed
    (cwd / "two kinds").rename(cwd / "elsewhere")
    assert main(["sample", "two-kinds", "--n", "4", *DRAWN]) == 0
    assert zoo.load("runs/two-kinds", "cpu")[1] == card


def test_a_card_does_not_say_in_which_folder_the_images_lie(cwd):
    write_folder(cwd / "secret place" / "kinds", 6)
    path = str(cwd / "secret place" / "kinds")
    for words in (["--images", path], [f"--images={path}", "--out", "b"]):
        assert main(["train", *words, *SMALL]) == 0
    for run in ("runs/kinds", "b"):
        assert "secret" not in Path(run, "model.json").read_text("utf-8")
        assert re.match(
            "ddpmlib train --images[ =]kinds --size 16", card_of(run).training["command"]
        )


def test_sides_that_the_net_cannot_halve_become_the_nearest(cwd, capsys):
    write_folder(cwd / "a", 5, size=(41, 54))
    words = ["train", "--images", "a", "--steps", "1", "--batch-size", "2", "--device", "cpu"]
    assert main(words) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == (
        "the net halves sides to 8 parts: images become 40×56 pixels instead of 41×54"
    )
    assert card_of("runs/a").image_shape == (3, 40, 56)


def test_an_archive_a_kind_a_name_and_settings(cwd):
    x = np.stack([picture(i, i % 2, (16, 16), colour=False)[..., 0] for i in range(40)])
    np.savez(cwd / "a.npz", images=x, labels=np.arange(40) % 2)
    words = ["train", "--images", "a.npz", "--name", "marks", "--kind", "noisy-classifier"]
    words += ["--steps", "2", "--lr", "0.004", "--set", "T=30", "reach=1", "--flip"]
    assert main([*words, "--batch-size", "4", "--device", "cpu"]) == 0
    card = card_of("runs/marks-noisy-classifier")
    assert card.name == "marks-noisy-classifier" and card.recipe["data"] == "marks"
    recipe = recipes.from_dict(card.recipe)
    assert recipe.T == 30 and recipe.reach == 1 and recipe.flip
    assert recipe.settings.lr == 0.004 and recipe.net.channels == 1
    assert isinstance(recipe.net, NoisyClassifierConfig) and recipe.net.num_classes == 2


def test_a_recipe_lends_its_net_and_settings(cwd):
    write_folder(cwd / "a", 6)
    words = ["train", "--images", "a", "--recipe", "digits", "--steps", "1", "--size", "10"]
    assert main([*words, "--device", "cpu"]) == 0
    card, digits = card_of("runs/a"), recipes.RECIPES["digits"]
    assert card.image_shape == (3, 10, 10) and card.num_classes == 2
    assert card.recipe["net"]["width"] == digits.net.width
    assert card.recipe["settings"]["lr"] == digits.settings.lr
    assert card.recipe["settings"]["batch_size"] == 8  # of 10 images
    assert recipes.RECIPES["digits"] == digits


@pytest.mark.parametrize(
    ("words", "folder"),
    [
        ([], "runs/a"),
        (["--kind", "classifier"], "runs/a-classifier"),
        (["--name", "b"], "runs/b"),
        (["--set", "name=c"], "runs/c"),
        (["--out", "d", "--skip-broken"], "d"),
    ],
)
def test_a_folder_that_is_taken_is_refused_before_a_picture_is_read(
    cwd, capsys, monkeypatch, words, folder
):
    write_folder(cwd / "a", 4)
    Path(folder).mkdir(parents=True)
    Path(folder, zoo.STATE).write_bytes(b"of another run")
    monkeypatch.setattr(data.own, "from_path", lambda *_, **__: pytest.fail("must not read"))
    out, err = failed(capsys, ["train", "--images", "a", *words, *SMALL])
    assert f"{folder} already holds a run: go on with it by --resume" in err and not out
    Path(folder, zoo.STATE).rename(Path(folder, zoo.MODEL))
    _, err = failed(capsys, ["train", "--images", "a", *words, *SMALL, "--resume"])
    assert f"{folder} holds a trained model but no training.safetensors to go on from" in err


def test_resuming_on_other_images_is_refused(cwd, capsys):
    write_folder(cwd / "a", 12)
    words = ["train", "--images", "a", *SMALL]
    assert main(words) == 0
    assert main([*words, "--resume"]) == 0
    before = {p: p.read_bytes() for p in Path("runs/a").iterdir()}
    Image.fromarray(picture(99, 1)).save(cwd / "a" / data.folders.listed("a").train[0])
    _, err = failed(capsys, [*words, "--resume"])
    assert "was trained on other data" in err and "resume with the same images" in err
    assert {p: p.read_bytes() for p in Path("runs/a").iterdir()} == before


@pytest.mark.parametrize("option", ["--flip", "--recipe mnist"])
def test_what_was_decided_at_the_start_is_not_taken_up_later(cwd, capsys, option):
    write_folder(cwd / "a", 12)
    words = ["train", "--images", "a", *SMALL]
    assert main(words) == 0
    assert main([*words, "--resume"]) == 0
    _, err = failed(capsys, [*words, *option.split(), "--resume"])
    assert "are decided when a run begins" in err


def test_a_run_goes_on_where_its_images_lie_now(cwd):
    write_folder(cwd / "a", 12)
    assert main(["train", "--images", "a", *SMALL]) == 0
    (cwd / "a").rename(cwd / "moved")
    again = ["train", "--images", "moved", "--resume", "--out", "runs/a", "--steps", "4"]
    assert main([*again, "--device", "cpu"]) == 0
    assert card_of("runs/a").recipe["settings"]["steps"] == 4
    assert main(["train", "a", "--resume", "--steps", "5", "--device", "cpu"]) == 0  # by its name
    recipe = recipes.changed(recipes.from_dict(card_of("runs/a").recipe), {"settings.steps": 6})
    assert runs.train(recipe, "runs/a", resume=True, device="cpu").loss[-1][0] == 6
    commands = card_of("runs/a").training["command"]
    assert "--out runs/a" not in commands and "--images moved" in commands


@pytest.mark.parametrize("kind", ["classifier", "noisy-classifier"])
def test_a_classifier_needs_classes(cwd, capsys, kind):
    write_folder(cwd / "a", 6, kinds=())
    _, err = failed(capsys, ["train", "--images", "a", "--kind", kind, *SMALL])
    assert "a has 0 classes, and a classifier needs at least 2: put the pictures" in err
    assert not Path("runs").exists()


def test_broken_files_stop_before_anything_is_written(cwd, capsys):
    write_folder(cwd / "a", 6)
    (cwd / "a" / "bar" / "000.png").write_bytes(b"no")
    _, err = failed(capsys, ["train", "--images", "a", *SMALL])
    assert "1 file cannot be read (bar/000.png: no picture in a known format)" in err
    assert not Path("runs").exists()
    assert main(["train", "--images", "a", "--skip-broken", *SMALL]) == 0
    assert "left out: 1 file cannot be read" in capsys.readouterr().out


# ---- recipes -----------------------------------------------------------------------------------


def dataset(n=40, shape=(3, 40, 56), classes=("a", "b")):
    x = torch.zeros(n, *shape, dtype=torch.uint8)
    y = torch.arange(n) % len(classes) if classes else None
    return data.Dataset("mine", x, y, x[:9], None if y is None else y[:9], classes)


@pytest.mark.parametrize("kind", recipes.OWN_KINDS)
@pytest.mark.parametrize(
    "shape", [(1, 8, 8), (3, 16, 10), (1, 28, 28), (3, 40, 56), (3, 96, 64), (5, 256, 32)]
)
def test_the_chosen_recipe_fits_the_images_and_builds(kind, shape):
    images = dataset(shape=shape)
    recipe = recipes.own_recipe(images, kind)
    recipe.check(images)
    assert recipe.kind == kind and not recipe.flip
    assert recipe.settings.batch_size <= len(images.x_train)
    assert recipes.from_dict(json.loads(json.dumps(recipes.to_dict(recipe)))) == recipe
    model = recipe.build()
    x, generator = data.to_float(images.x_train[:2]), torch.Generator().manual_seed(0)
    assert bool(recipe.loss()(model, x, images.y_train[:2], generator).isfinite())
    lines = recipes.described(recipe, images)
    assert len(lines) == 2 and all(
        line.startswith(("mine: ", f"{recipe.name}: ")) for line in lines
    )


def test_every_side_has_a_nearest_that_the_chosen_net_can_halve():
    for side in range(4, 300):
        size = data.folders.nearest((side, 40), recipes.divisor_for((side, 40)))
        assert all(s % recipes.divisor_for(size) == 0 for s in size)
        assert abs(size[0] - side) <= recipes.divisor_for((side, 40)) / 2


def test_more_images_get_more_updates_and_a_wider_net():
    few, many = (recipes.own_recipe(dataset(n, (1, 8, 8))) for n in (300, 30_000))
    assert few.settings.steps < many.settings.steps and few.net.width < many.net.width
    assert few.net.dropout > many.net.dropout == 0
    assert (few.settings.batch_size, many.settings.batch_size) == (32, 64)
    assert recipes.own_recipe(dataset(5, (1, 8, 8))).settings.batch_size == 4


def test_images_without_classes_have_a_net_without():
    recipe = recipes.own_recipe(dataset(classes=()), flip=True)
    assert recipe.num_classes == 0 and recipe.flip
    with pytest.raises(ValueError, match="of kind diffusion, classifier, .*, got 'gan'"):
        recipes.own_recipe(dataset(), "gan")


# ---- evaluate ----------------------------------------------------------------------------------


def entry_of(run, extractor="classifier", **options):
    how = evaluation.Sampling(steps=2)
    return evaluation.evaluate(
        run, how, n=20, extractor=extractor, draws=20, device="cpu", **options
    )[0]


@pytest.mark.filterwarnings("ignore:.* samples leave the covariance of")
def test_a_classifier_of_the_same_images_is_found_beside_the_run(finished):
    entry = entry_of(finished / "runs" / "two-kinds")
    own = card_of(finished / "runs" / "two-kinds-classifier")
    assert entry["extractor"] == own.sha256[:12] and entry["features"] == "two-kinds-classifier"
    assert {"class_agreement", "frechet", "inception_score", "kid", "precision"} <= entry.keys()
    assert entry in card_of(finished / "runs" / "two-kinds").metrics
    accuracy = evaluation.evaluate(finished / "runs" / "two-kinds-classifier", device="cpu")
    assert accuracy[0]["metric"] == "test accuracy" and 0 <= accuracy[0]["value"] <= 1


def copied(run, target):
    target.mkdir(parents=True)
    for path in run.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


@pytest.mark.filterwarnings("ignore:.* samples leave the covariance of")
def test_without_a_classifier_pixels_are_measured_and_it_is_said(finished, tmp_path, capsys):
    run = copied(finished / "runs" / "two-kinds", tmp_path / "alone")
    entry = entry_of(run, "all")
    said = capsys.readouterr().out
    assert "measured by pixels, without agreement and is" in said
    assert "--kind classifier" in said and said.count("\n") == 1
    assert entry["features"] == "pixels"
    assert {"frechet", "frechet_floor", "kid", "precision", "saturation"} <= entry.keys()
    assert not {"class_agreement", "inception_score"} & entry.keys()
    with pytest.raises(ValueError, match="agreement of two-kinds need a classifier: .* trains one"):
        entry_of(run, "all", metrics=["agreement"])
    own = finished / "runs" / "two-kinds-classifier"
    assert entry_of(run, str(own))["extractor"] == card_of(own).sha256[:12]


@pytest.mark.filterwarnings("ignore:.* samples leave the covariance of")
def test_pixels_that_are_asked_for_say_what_they_leave_out(finished, tmp_path, capsys):
    run = finished / "runs" / "two-kinds"
    entry = entry_of(run, "pixels")
    said = capsys.readouterr().out
    left_out = "measured by pixels, without agreement and is"
    assert said == f"{left_out} (--features classifier gives them)\n"
    assert entry["features"] == "pixels" and "class_agreement" not in entry
    alone = copied(run, tmp_path / "alone")
    entry_of(alone, "pixels")
    hint = (
        "`ddpmlib train --images PATH --name two-kinds --size 16x16 --kind classifier` trains one"
    )
    assert capsys.readouterr().out == f"{left_out} ({hint})\n"
    entry_of(run, "pixels", metrics=["fid"])
    assert capsys.readouterr().out == ""
    with pytest.raises(ValueError, match="agreement of two-kinds need .*: --features classifier"):
        entry_of(run, "pixels", metrics=["agreement", "fid"])


def test_a_classifier_of_other_images_is_refused(finished, tmp_path):
    run = copied(finished / "runs" / "two-kinds", tmp_path / "two-kinds")
    other = copied(finished / "runs" / "two-kinds-classifier", tmp_path / "two-kinds-classifier")
    card = json.loads((other / "model.json").read_text("utf-8"))
    card["training"]["data_fingerprint"] = "0" * 64
    (other / "model.json").write_text(json.dumps(card), "utf-8")
    with pytest.raises(ValueError, match="was trained on other images than two-kinds holds now"):
        entry_of(run)
    with pytest.raises(ValueError, match="two-kinds is no classifier of clean images"):
        entry_of(run, str(run))


def test_with_a_limit_of_time_no_number_of_updates_is_promised():
    digits = data.load("digits")
    recipe = recipes.own_recipe(digits)
    size, steps = recipe.settings.batch_size, recipe.settings.steps
    assert f"{steps:,} updates of {size} images, " in recipes.described(recipe, digits)[1]
    timed = recipes.described(recipe, digits, 2.5)[1]
    assert timed.endswith(f"; as many updates of {size} images as fit into 2.5 minutes")
    assert f"{steps:,} updates" not in timed


def test_a_classifier_of_images_of_another_size_is_refused_and_the_sizes_are_named(finished):
    larger = torch.zeros(4, 3, 20, 16, dtype=torch.uint8)
    y = torch.tensor([0, 1, 0, 1])
    other = data.Dataset("two-kinds", larger, y, larger, y, ("bar", "disc"))
    sizes = "images of 3×16×16, and those of two-kinds are 3×20×16: `ddpmlib train .* --size 20x16"
    with pytest.raises(ValueError, match=sizes):
        images.network_of(str(finished / "runs" / "two-kinds-classifier"), other, "cpu")


@pytest.mark.filterwarnings("ignore:.* samples leave the covariance of")
def test_beside_a_classifier_of_other_images_the_rest_is_measured(finished, tmp_path, capsys):
    run = copied(finished / "runs" / "two-kinds", tmp_path / "two-kinds")
    other = copied(finished / "runs" / "two-kinds-classifier", tmp_path / "two-kinds-classifier")
    card = json.loads((other / "model.json").read_text("utf-8"))
    card["training"]["data_fingerprint"] = "0" * 64
    (other / "model.json").write_text(json.dumps(card), "utf-8")
    entry = entry_of(run, "all")
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("not measured by classifier: two-kinds-classifier was trained on other")
    assert second.startswith("measured by pixels, without agreement and is (")
    assert entry["features"] == "pixels" and {"frechet", "saturation"} <= entry.keys()


def test_a_missing_classifier_is_named_with_the_command_that_trains_it(finished, tmp_path):
    run = copied(finished / "runs" / "two-kinds", tmp_path / "alone")
    command = "`ddpmlib train --images PATH --name two-kinds --size 16x16 --kind classifier`"
    with pytest.raises(FileNotFoundError, match=f"no checkpoint 'two-kinds-classifier': {command}"):
        entry_of(run)
    with pytest.raises(FileNotFoundError, match="measured by classifier, pixels or random"):
        entry_of(run, "robust")


def test_moved_images_are_given_and_changed_ones_are_refused(finished, tmp_path, capsys):
    run = copied(finished / "runs" / "two-kinds", tmp_path / "alone")
    moved = write_folder(tmp_path / "moved", 45)
    where = json.loads((run / "data.json").read_text("utf-8"))
    (run / "data.json").write_text(json.dumps(where | {"path": str(tmp_path / "gone")}), "utf-8")
    words = ["evaluate", str(run), "--metric", "saturation", "--n", "10", *DRAWN]
    err = failed(capsys, words)[1]
    assert "there is no folder" in err and "give --images (images= in Python) to say where" in err
    assert main([*words, "--images", str(moved)]) == 0
    for path in moved.rglob("04*.png"):
        path.unlink()
    _, err = failed(capsys, [*words, "--images", str(moved)])
    assert "was trained on other images than these (" in err and "give those by --images" in err
    (run / "data.json").unlink()
    assert "does not say where its images lie: give --images" in failed(capsys, words)[1]


def test_broken_files_are_left_out_of_a_measurement_too(finished, tmp_path, capsys):
    """The folder of a card that was sent alone does not say that they were left out before."""
    run = copied(finished / "runs" / "two-kinds", tmp_path / "alone")
    (run / "data.json").unlink()
    pictures = write_folder(tmp_path / "pictures", 45)
    (pictures / "bar" / "broken.png").write_bytes(b"no")
    words = ["evaluate", str(run), "--metric", "saturation", "--n", "10", *DRAWN]
    _, err = failed(capsys, [*words, "--images", str(pictures)])
    assert "bar/broken.png" in err and "leave them out by --skip-broken" in err
    assert main([*words, "--images", str(pictures), "--skip-broken"]) == 0
    assert "left out: 1 file cannot be read" in capsys.readouterr().out
    _, err = failed(capsys, [*words, "--skip-broken"])
    assert "--skip-broken is for your own images: give --images too" in err


def test_broken_files_that_came_since_are_left_out_of_a_run_that_goes_on(cwd, capsys):
    write_folder(cwd / "a", 12)
    assert main(["train", "--images", "a", *SMALL]) == 0
    (cwd / "a" / "bar" / "broken.png").write_bytes(b"no")
    again = ["train", "--images", "a", "--resume", "--steps", "4", "--device", "cpu"]
    assert "--skip-broken" in failed(capsys, again)[1]
    assert main([*again, "--skip-broken"]) == 0
    assert source.read_source(Path("runs/a")).skip_broken
    assert main(["train", "a", "--resume", "--steps", "5", "--device", "cpu"]) == 0


class Foreign(torch.nn.Module):
    """A network of somebody else, without classes."""

    def __init__(self, width):
        super().__init__()
        self.inp, self.out = (
            torch.nn.Conv2d(a, b, 3, padding=1) for a, b in ((3, width), (width, 3))
        )

    def forward(self, x, t):
        return self.out(torch.relu(self.inp(x)))


@pytest.mark.filterwarnings("ignore:.* samples leave the covariance of")
def test_a_network_of_ones_own_is_measured_against_images_at_hand(tmp_path, capsys):
    write_folder(tmp_path / "a", 45)
    photos = data.from_folder(tmp_path / "a", size=(16, 16))
    model = Denoiser(Foreign(4), DDPM(schedules.cosine(20)))
    path = tmp_path / "mine"
    zoo.save(model, path, shape=photos.image_shape, build=Foreign, arguments={"width": 4})
    with pytest.raises(ValueError, match="give its constructor, as in zoo.load"):
        entry_of(path, images=photos)
    entry = entry_of(path, "all", images=photos, build=Foreign)
    assert entry["features"] == "pixels" and entry["frechet"] > 0
    assert card_of(path).metrics[0] == entry
    nll = entry_of(path, images=photos, build=Foreign, metrics=["nll"], nll_draws=2)
    assert nll["bits_per_dim"] > 0


def test_images_at_hand_are_taken(finished):
    known = source.read_source(finished / "runs" / "two-kinds")
    at_hand = data.from_path(known.path, "two-kinds", size=(16, 16))
    entry = entry_of(finished / "runs" / "two-kinds", metrics=["saturation"], images=at_hand)
    assert 0 <= entry["saturation"] <= 1


def test_the_bound_is_measured_on_the_own_test_images(finished):
    entry = entry_of(finished / "runs" / "two-kinds", metrics=["nll"], nll_draws=2)
    assert entry["metric"] == "nll" and entry["n"] == 9 and entry["bits_per_dim"] > 0


def test_a_few_test_images_are_too_few(tmp_path):
    x = torch.randint(0, 256, (20, 1, 8, 8), dtype=torch.uint8)
    few = data.Dataset("few", x[:15], None, x[15:], None)
    recipe = recipes.changed(recipes.own_recipe(few), {"settings.steps": 1})
    runs.train(recipe, tmp_path / "r", dataset=few, device="cpu")
    with pytest.raises(ValueError, match="few has 5 test images, and measuring needs at least 8"):
        entry_of(tmp_path / "r", images=few)


@pytest.mark.parametrize("content", ["", "[]", '{"path": 3}', '{"path": "a", "size": [0, 1]}'])
def test_a_damaged_note_is_one_sentence(tmp_path, content):
    (tmp_path / "data.json").write_text(content, "utf-8")
    with pytest.raises(ValueError, match="data.json is damaged .*: give --images"):
        source.read_source(tmp_path)


def test_the_named_sets_need_no_note(tmp_path):
    card = zoo.Card.read(zoo.shipped() / "digits.json")
    assert images.images_of(card, tmp_path).name == "digits"
    assert not list(tmp_path.iterdir())
