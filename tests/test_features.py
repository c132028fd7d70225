"""`features`: images in their range, statistics of one network, Inception by the book."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from ddpmlib import data, files, zoo
from ddpmlib.evaluation import features, metrics, statistics
from ddpmlib.models import Classifier, ClassifierConfig

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def classifier():
    torch.manual_seed(0)
    return Classifier(ClassifierConfig(width=4, features=6, num_classes=3)).eval()


def images(n=7, channels=1, side=8):
    generator = torch.Generator().manual_seed(1)
    shape = (n, channels, side, side)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def small_set(name="digits"):
    x, y = images(40), torch.zeros(40, dtype=torch.int64)
    return data.Dataset(name, x[:30], y[:30], x[30:], y[30:], tuple("0123456789"))


def test_features_and_logits_are_the_classifiers_own(classifier):
    x = data.to_float(images())
    found, logits = features.extract(classifier, x)
    assert found.shape == (7, 6) and logits.shape == (7, 3)
    assert torch.allclose(found, classifier.features(x)) and torch.allclose(logits, classifier(x))
    assert not found.requires_grad and not logits.requires_grad


def test_uint8_and_float_images_are_the_same_images(classifier):
    for a, b in zip(
        features.extract(classifier, images()),
        features.extract(classifier, data.to_float(images())),
        strict=True,
    ):
        assert torch.equal(a, b)


def test_samples_are_clipped_to_the_range_of_images(classifier):
    x = data.to_float(images())
    wild = torch.where(x > 0.5, 9.0, x)
    tame = torch.where(x > 0.5, 1.0, x)
    assert torch.equal(features.extract(classifier, wild)[0], features.extract(classifier, tame)[0])
    assert not torch.equal(
        features.extract(classifier, tame)[0], features.extract(classifier, x)[0]
    )


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_batches_do_not_matter(classifier, batch_size):
    whole, _ = features.extract(classifier, images())
    parts, _ = features.extract(classifier, images(), batch_size)
    assert torch.allclose(whole, parts, atol=1e-6)
    found = features.moments(classifier, images(), batch_size)
    assert found.n == 7 and torch.allclose(found.cov, whole.double().T.cov(), atol=1e-6)


def test_another_shape_is_refused(classifier):
    with pytest.raises(ValueError, match=r"expected images of shape \(B, 1, H, W\)"):
        features.extract(classifier, torch.zeros(2, 3, 8, 8))
    with pytest.raises(ValueError, match="there are no images"):
        features.moments(classifier, images(0))


# ---- statistics --------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where statistics lie in an installed package."""
    (tmp_path / "statistics").mkdir()
    monkeypatch.setattr(files, "PACKAGE", tmp_path)
    return tmp_path / "statistics"


@pytest.fixture
def written(classifier, folder):
    path = statistics.statistics_path("digits")
    statistics.write_statistics(statistics.compute_statistics(classifier, small_set()), path, "abc")
    return path


def test_statistics_are_the_moments_of_both_sets(classifier, written):
    found = statistics.statistics("digits", classifier)
    for part, x in (("train", small_set().x_train), ("test", small_set().x_test)):
        h = features.extract(classifier, x)[0].double()
        moments = getattr(found, part)
        assert moments.n == len(x) and moments.mean.dtype == torch.float64
        assert torch.allclose(moments.mean, h.mean(0), atol=1e-12)
        assert torch.allclose(moments.cov, h.T.cov(), atol=1e-12)
        assert metrics.frechet_distance(moments, h) == pytest.approx(0, abs=1e-9)
    facts = json.loads(written.with_suffix(".json").read_text("utf-8"))
    assert facts["classifier"] == "abc" and (facts["train"], facts["test"]) == (30, 10)
    assert facts["sha256"] == hashlib.sha256(written.read_bytes()).hexdigest()


def test_statistics_of_another_classifier_are_refused_and_not_used(classifier, written):
    with torch.no_grad():
        classifier.head[1].bias[0] += 1e-6
    with pytest.raises(statistics.OtherWeights, match="made with another classifier"):
        statistics.statistics("digits", classifier)
    with torch.no_grad():
        classifier.neck[0].bias += 1
    found = statistics.train_moments(classifier, small_set())
    assert torch.allclose(
        found.mean, features.extract(classifier, small_set().x_train)[0].double().mean(0)
    )


def test_statistics_of_other_data_of_the_name_are_refused_and_not_used(classifier, written):
    """Whatever lies in mnist.npz is not MNIST."""
    known, x = small_set(), images(60)[30:].flip(3)
    other = data.Dataset("digits", x, known.y_train, known.x_test, known.y_test, known.classes)
    assert statistics.statistics("digits", classifier, known.fingerprint).train.n == 30
    with pytest.raises(statistics.OtherData, match="describes other data of this name"):
        statistics.statistics("digits", classifier, other.fingerprint)
    found = statistics.train_moments(classifier, other)
    h = features.extract(classifier, x)[0].double()
    assert torch.allclose(found.mean, h.mean(0), atol=1e-12)
    facts = json.loads(written.with_suffix(".json").read_text("utf-8"))
    assert facts.pop("data_fingerprint") == known.fingerprint
    written.with_suffix(".json").write_text(json.dumps(facts), "utf-8")  # as older versions wrote
    with pytest.raises(statistics.OtherData):
        statistics.statistics("digits", classifier, known.fingerprint)


def test_shipped_statistics_spare_the_work(classifier, written, monkeypatch):
    monkeypatch.setattr(features, "moments", lambda *a: pytest.fail("computed again"))
    assert statistics.train_moments(classifier, small_set()).n == 30


def test_without_statistics_they_are_computed(classifier, folder):
    with pytest.raises(FileNotFoundError, match="`ddpmlib statistics digits` writes them"):
        statistics.statistics("digits", classifier)
    assert statistics.train_moments(classifier, small_set()).n == 30


@pytest.mark.parametrize("damage", ["flipped", "json cut", "json []"])
def test_damaged_statistics_are_an_error_even_where_they_could_be_computed(
    classifier, written, damage
):
    facts = written.with_suffix(".json")
    if damage == "flipped":
        content = written.read_bytes()
        written.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    else:
        facts.write_text("[]" if "[]" in damage else facts.read_text("utf-8")[:-9], "utf-8")
    with pytest.raises(ValueError, match="is damaged|describes no statistics"):
        statistics.train_moments(classifier, small_set())


def test_a_fingerprint_is_of_the_weights_alone(classifier):
    before = statistics.fingerprint(classifier)
    twin = Classifier(classifier.config)
    assert statistics.fingerprint(twin) != before
    twin.load_state_dict(classifier.state_dict())
    assert statistics.fingerprint(twin) == before == statistics.fingerprint(classifier.eval())


SHIPPED = sorted((ROOT / "data" / "statistics").glob("*.safetensors"))


def kind_of(path: Path) -> tuple[str, str]:
    """Name of the data set and kind of features, from the name of a file of statistics."""
    name, _, kind = path.stem.partition("-")
    return name, kind or "classifier"


def test_statistics_ship_for_every_classifier():
    cards = [zoo.Card.read(path) for path in zoo.shipped().glob("*.json")]
    classifiers = {card.name for card in cards if card.recipe["kind"] == "classifier"}
    assert {"-".join(kind_of(path)) for path in SHIPPED} == classifiers
    assert {path.name for path in (ROOT / "data" / "statistics").iterdir()} == {
        path.with_suffix(suffix).name for path in SHIPPED for suffix in (".json", ".safetensors")
    }


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_statistics_belong_to_the_shipped_classifier(path):
    name, kind = kind_of(path)
    classifier, card = zoo.load(f"{name}-{kind}", "cpu")
    found = statistics.statistics(name, classifier, kind=kind)
    assert statistics.statistics_path(name, kind).name == path.name
    assert json.loads(path.with_suffix(".json").read_text("utf-8"))["classifier"] == card.sha256
    floor = metrics.frechet_distance(found.train, found.test)
    assert 0 < floor < found.train.cov.trace() / 10  # the two sets are alike, and not the same
    assert len(found.data_fingerprint) == 64
    if name == "digits":
        assert found.data_fingerprint == data.load("digits").fingerprint
        h, _ = features.extract(classifier, data.load("digits").x_train)
        assert torch.allclose(found.train.mean, h.double().mean(0), atol=1e-4)
        assert metrics.frechet_distance(found.train, h) < 1e-4
        assert statistics.train_moments(classifier, data.load("digits")).n == found.train.n


# ---- Inception ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The user's file of weights if there is one, else random weights in the same form."""
    try:
        return features._inception_weights()
    except FileNotFoundError:
        pass
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")

    class Untrained(module.FeatureExtractorInceptionV3):
        def load_state_dict(self, *args, **options):
            return None

    path = tmp_path_factory.mktemp("weights") / features.INCEPTION_FILE
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_state_dict_from_url", lambda *a, **k: {})
        torch.manual_seed(0)
        network = Untrained("untrained", ["2048"])
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def inception(weights):
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "INCEPTION_SHA256", sha256)
        return features.inception(weights)


@pytest.mark.slow
def test_inception_gives_2048_features_and_1008_logits(inception):
    found, logits = features.extract(inception, images(2, 3, 32))
    assert found.shape == (2, 2048) and logits.shape == (2, 1008)
    assert found.dtype == torch.float32 and bool(found.isfinite().all()) and found.std() > 0
    again, _ = features.extract(inception, data.to_float(images(2, 3, 32)), batch_size=1)
    assert torch.allclose(found, again, rtol=1e-3, atol=1e-5)
    assert not any(p.requires_grad for p in inception.parameters())
    inception.extractor.features_list = ["2048", "logits_unbiased"]  # the extractor's own way
    pool3, expected = inception.extractor(images(2, 3, 32))
    inception.extractor.features_list = ["2048"]
    assert torch.allclose(found, pool3) and torch.allclose(logits, expected, rtol=1e-4, atol=1e-6)


def test_inception_sees_uint8_at_299_pixels_scaled_as_the_graph_did(inception):
    seen = []
    first = inception.extractor.Conv2d_1a_3x3
    hook = first.register_forward_hook(lambda module, args, out: seen.append(*args))
    dark, bright, beyond = (torch.full((1, 3, 16, 16), v) for v in (-1.0, 0.5, 7.0))
    features.extract(inception, torch.cat([dark, bright, beyond]))
    hook.remove()
    (x,) = seen
    assert x.shape == (3, 3, 299, 299)
    # 0.5 is 191.25 of 255, so 191 in a file; the scale is (u − 128) / 128.
    for got, u in zip(x, (0, 191, 255), strict=True):
        assert torch.allclose(got, torch.full_like(got, (u - 128) / 128), atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 1, 32, 32), (3, 32, 32), (2, 4, 32, 32)])
def test_inception_refuses_grey_images(shape):
    with pytest.raises(ValueError, match=r"colour images \(B, 3, H, W\).*the classifier of their"):
        features.Inception(torch.nn.Identity()).features(torch.zeros(shape))


def test_without_weights_one_sentence_says_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setenv("DDPMLIB_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    with pytest.raises(FileNotFoundError) as error:
        features.inception()
    sentence = str(error.value)
    assert features.INCEPTION_FILE in sentence and str(tmp_path / "data") in sentence
    assert "torch-fidelity, release v0.2.0" in sentence and "nothing is downloaded" in sentence
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["data", "torch/hub/checkpoints"])
def test_weights_are_found_in_both_places_and_not_trusted_by_name(tmp_path, monkeypatch, place):
    monkeypatch.setenv("DDPMLIB_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    path = tmp_path / place / features.INCEPTION_FILE
    path.parent.mkdir(parents=True)
    path.write_bytes(b"cos\nsystem\n(S'touch hacked'\ntR.")  # a pickle that would run a command
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="damaged or another file: its SHA-256 is"):
        features.inception()
    assert not (tmp_path / "hacked").exists()


def test_without_torch_fidelity_one_sentence_says_what_to_install(tmp_path, monkeypatch):
    path = tmp_path / "weights"
    path.write_bytes(b"x")
    monkeypatch.setattr(features, "INCEPTION_SHA256", hashlib.sha256(b"x").hexdigest())
    monkeypatch.setitem(__import__("sys").modules, "torch_fidelity", None)
    name = "torch_fidelity.feature_extractor_inceptionv3"
    monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(ImportError, match=r"pip install 'ddpmlib\[inception\]'"):
        features.inception(path)
