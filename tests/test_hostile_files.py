"""Cards and weights that somebody made to do harm: one sentence each, and nothing else happens."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from ddpmlib import evaluation, files, zoo
from ddpmlib.cli import main
from ddpmlib.cli.text import LONGEST, printable
from ddpmlib.models import ClassifierConfig, NoisyClassifierConfig, UNetConfig
from ddpmlib.training import Settings
from ddpmlib.zoo import checkpoints, recipes

ROOT = Path(__file__).resolve().parent.parent
NET = UNetConfig(width=8, mults=(1,), attention=(False,), heads=1, groups=4, num_classes=10)
TINY = zoo.DiffusionRecipe("tiny", "digits", NET, Settings(steps=1), T=30, schedule="linear")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run, as `ddpmlib train` leaves it."""
    folder = tmp_path / "run"
    model = TINY.build()
    for value in model.parameters():
        torch.nn.init.normal_(value, std=0.02)
    card = zoo.Card(
        "tiny", recipes.to_dict(TINY), "", 1, "float32", (1, 8, 8), 10, {"seconds": 1.0}, [[1, 0.5]]
    )
    zoo.write_model(model.state_dict(), card, folder / zoo.MODEL)
    (folder / zoo.LOG).write_text("", "utf-8")
    return folder


def edited(run: Path, change: Callable[[dict[str, Any]], object], keep: str = "digest") -> None:
    """Edit the card's JSON as a text editor would; without ``keep``, its digest is made to fit."""
    path = run / "model.json"
    values = json.loads(path.read_text("utf-8"))
    change(values)
    if keep != "digest":
        meant = {key: values[key] for key in ("recipe", "image_shape", "num_classes")}
        text = json.dumps(meant, sort_keys=True)
        values["digest"] = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(json.dumps(values), "utf-8")


def rewritten(run: Path, tensors: dict[str, Tensor], header: dict[str, str] | None = None) -> None:
    """Other weights, and a card that bears their SHA-256."""
    content = save(tensors, metadata=header or {})
    (run / zoo.MODEL).write_bytes(content)
    edited(run, lambda card: card.update(sha256=hashlib.sha256(content).hexdigest()))


def refused(run: Path, sentence: str) -> str:
    """Loading fails with one printable sentence, and so do all else who read the checkpoint."""
    with pytest.raises(ValueError, match=sentence) as caught:
        zoo.load(run, "cpu")
    assert "\n" not in str(caught.value)
    for use in (
        lambda: zoo.ship(run, folder=run.parent / "shipped"),
        lambda: evaluation.evaluate(run),
        lambda: zoo.start_from(TINY.build(), run),
    ):
        with pytest.raises(ValueError, match=sentence):
            use()
    assert not (run.parent / "shipped").exists()
    return str(caught.value)


# ---- names -------------------------------------------------------------------------------------

NAMES = ["../victim/evil", "/tmp/evil", "*/alert(1)/*", "a\x1b]52;c;ZXZpbA==\x07", "nul", ".ssh"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("where", ["name", "recipe.name", "recipe.data"])
def test_a_card_with_a_name_that_leads_elsewhere_is_refused(run, where, name):
    outer, _, inner = where.partition(".")
    edited(run, lambda card: card[outer].update({inner: name}) if inner else card.update(name=name))
    said = refused(run, "is not a checkpoint card .a .*'s name is a plain file name")
    assert said.isprintable()


def test_ship_writes_nothing_outside_its_folder(run, tmp_path, monkeypatch):
    shipped, victim = tmp_path / "shipped", tmp_path / "victim" / "evil.safetensors"
    victim.parent.mkdir()
    victim.write_bytes(b"mine")
    monkeypatch.setattr(checkpoints, "shipped", lambda: shipped)
    edited(run, lambda card: card.update(name="../victim/evil"))
    for name in (None, "../victim/evil"):
        with pytest.raises(ValueError, match="plain file name"):
            zoo.ship(run, name)
    assert victim.read_bytes() == b"mine" and list(victim.parent.iterdir()) == [victim]
    assert not shipped.exists()


@pytest.mark.parametrize("sha256", ["../../../etc/x", "0" * 63, "g" * 64, "A" * 64, "", 3])
def test_a_sha256_that_is_none_names_no_part(run, sha256):
    edited(run, lambda card: card.update(sha256=sha256, parts=2))
    refused(run, "is not a checkpoint card .sha256")


# ---- what the terminal is told -------------------------------------------------------------------


def test_only_what_is_printed_is_printed():
    assert printable("Grüße, 12 × 8 µm — ok") == "Grüße, 12 × 8 µm — ok"
    evil = "a\x1b[2J\x07\r\b\x7f\x9b1m\u2028\u202e\udc80\nb"
    shown = printable(evil)
    assert shown.isprintable() and shown.startswith(r"a\x1b[2J\x07\r") and shown.endswith(r"\nb")
    shown.encode("utf-8")  # a name that is no text of the file system included


def shows(capsys, words: list[str]) -> str:
    """What is printed, on stdout and stderr; never a control character but the line feed."""
    capsys.readouterr()
    main(words)
    out, err = capsys.readouterr()
    assert all(line.isprintable() for line in [*out.split("\n"), *err.split("\n")]), (out, err)
    assert "Traceback" not in err
    return out + err


EVIL = "x\x9b2J\u202e\x7f"


def test_a_card_is_shown_and_an_entry_of_it_is_too(run, capsys):
    plain = json.loads((run / "model.json").read_text("utf-8"))
    (run / "model.json").write_text(
        json.dumps(plain | {"training": {EVIL: EVIL}}, ensure_ascii=False, indent=1), "utf-8"
    )
    assert EVIL in (run / "model.json").read_text("utf-8")
    said = shows(capsys, ["zoo", str(run)])
    assert r"x\x9b2J\u202e\x7f" in said and said.count("\n") > 20


def test_a_measurement_is_shown_and_its_text_is_no_second_line(run, capsys, monkeypatch):
    entry = {"fid": 1.5, "hardware": f"{EVIL}\nfid 0.0"}
    monkeypatch.setattr(evaluation, "evaluate", lambda *a, report, **b: report(entry))
    said = shows(capsys, ["evaluate", str(run)])
    assert said.count("\n") == 3  # two values, and the empty line behind each entry
    assert r"x\x9b2J\u202e\x7f\nfid 0.0" in said


def test_a_message_about_a_name_is_shown(run, capsys, tmp_path):
    folder = tmp_path / f"run{EVIL}\x1b[31m"
    run.rename(folder)
    edited(folder, lambda card: card.update(name="\x1b[2J"))
    assert "plain file name" in shows(capsys, ["sample", str(folder)])
    assert r"no checkpoint" in shows(capsys, ["sample", "\x1b[2Jmnist"])
    assert "no checkpoint" in shows(capsys, ["zoo", "a\rb"])


def test_a_message_ends_somewhere(run, capsys):
    edited(run, lambda card: card["recipe"].update(schedule="x" * 10**6), "nothing")
    for words in (["sample", str(run)], ["zoo", "x" * 10**6]):
        assert 100 < len(shows(capsys, words)) < LONGEST + 10


def test_the_command_line_prints_by_these_functions_alone():
    """A word that came from a file reaches the terminal through them or not at all."""
    found = []
    for path in sorted((ROOT / "ddpmlib" / "cli").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            name = node.func.id if isinstance(node, ast.Call) and hasattr(node.func, "id") else ""
            if name == "print" and node.args and path.stem != "text":
                found.append(f"{path.name}:{node.lineno}")
    assert found == []


@pytest.mark.parametrize(
    "error", [MemoryError(), OverflowError("too large"), ZeroDivisionError("x")]
)
def test_a_fault_of_arithmetic_or_memory_is_a_sentence(run, capsys, monkeypatch, error):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr(zoo, "load", fails)
    assert main(["sample", str(run)]) == 2
    err = capsys.readouterr().err
    assert err == f"ddpmlib: {str(error) or 'MemoryError'}\n"


def test_recursion_that_ends_is_a_sentence(run, capsys, monkeypatch):
    def deep(*_, **__):  # raised, not reached: a real one takes all memory on some Python 3.13
        raise RecursionError("maximum recursion depth exceeded")

    monkeypatch.setattr(zoo, "load", deep)
    assert main(["sample", str(run)]) == 2
    assert capsys.readouterr().err.startswith("ddpmlib: maximum recursion depth exceeded")


# ---- what the weights mean ---------------------------------------------------------------------


@pytest.mark.parametrize("field", ["T", "schedule", "predicts", "var_mix", "label_dropout"])
@pytest.mark.parametrize("keep", ["digest", "nothing"])
def test_an_edited_recipe_draws_no_other_samples(run, field, keep):
    value = {"T": 40, "schedule": "cosine", "predicts": "eps", "var_mix": 1.0, "label_dropout": 0}
    edited(run, lambda card: card["recipe"].update({field: value[field]}), keep)
    refused(run, "digest is not that of its" if keep == "digest" else "was written with another")


@pytest.mark.parametrize("keep", ["digest", "nothing"])
@pytest.mark.parametrize(
    ("field", "value"), [("image_shape", [1, 16, 16]), ("num_classes", 3), ("heads", 2)]
)
def test_edited_shapes_classes_and_heads_draw_no_other_samples(run, field, value, keep):
    def change(card):
        (card["recipe"]["net"] if field == "heads" else card)[field] = value

    edited(run, change, keep)
    refused(run, "digest is not that of its" if keep == "digest" else "was written with another")


def test_a_card_without_its_digest_is_refused_and_an_older_one_is_not(run):
    edited(run, lambda card: card.pop("digest"))
    refused(run, "digest is not that of its")
    edited(run, lambda card: card.update(format=2))
    zoo.load(run, "cpu")
    edited(run, lambda card: card["recipe"].update(T=40))
    refused(run, "was written with another recipe")  # the header of the weights remembers


def test_an_older_checkpoint_still_loads(run):
    """Format 2, and weights whose header knows no digest."""
    rewritten(run, files.read_safetensors(run / zoo.MODEL)[0], {"name": "tiny"})
    edited(run, lambda card: [card.pop("digest"), card.update(format=2)])
    assert zoo.load(run, "cpu")[1].name == "tiny"


def test_the_name_and_the_measurements_may_change(run, tmp_path):
    card = zoo.Card.read(run / "model.json")
    replace(card, name="other", metrics=[{"n": 2}]).write(run / "model.json")
    found = zoo.load(run, "cpu")[1]
    assert (found.name, found.metrics, found.digest) == ("other", [{"n": 2}], card.digest)
    again = zoo.load(zoo.ship(run, "third", folder=tmp_path / "shipped"), "cpu")[1]
    assert again.name == "third" and again.digest == card.digest and again.sha256 != card.sha256


def test_the_digest_is_of_the_values_and_not_of_their_order(run):
    card = zoo.Card.read(run / "model.json")
    turned = dict(reversed(card.recipe.items()))
    assert replace(card, recipe=turned, image_shape=[1, 8, 8]).digest == card.digest
    assert replace(card, recipe=card.recipe | {"T": 31}).digest != card.digest


# ---- large, deep, endless ------------------------------------------------------------------------

LARGE = {
    "net.blocks": 10**6,
    "net.width": 10**6,
    "net.channels": 10**6,
    "net.heads": 10**6,
    "net.patch": 10**4,
    "net.groups": 10**6,
    "net.num_classes": 10**9,
    "net.mults": [10**6],
    "net.dropout": 10**400,
    "T": 10**400,
    "settings.seed": 10**400,
    "settings.lr": 10**400,
    "settings.warmup": 10**400,
    "label_dropout": 10**400,
}


@pytest.mark.parametrize("field", LARGE)
def test_a_large_number_in_a_recipe_is_refused_at_once(run, field):
    def change(card):
        *outer, name = field.split(".")
        inner = card["recipe"]
        for key in outer:
            inner = inner[key]
        inner[name] = LARGE[field]

    edited(run, change, "nothing")
    before, started = memory(), time.perf_counter()
    said = refused(run, "the recipe in the card of .* builds nothing")
    assert len(said) < 1000 and memory() - before < 200 and time.perf_counter() - started < 20


def memory() -> float:
    """The most that this process has held so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def test_a_long_list_of_levels_is_refused_at_once(run):
    def change(card):
        card["recipe"]["net"].update(mults=[1] * 10**5, attention=[False] * 10**5)

    edited(run, change, "nothing")
    assert len(refused(run, "at most 12 levels")) < 1000


@pytest.mark.slow
def test_a_network_within_all_limits_is_compared_before_memory_is_taken(run):
    """Each number is possible; the weights would be some petabytes."""

    def change(card):
        net = card["recipe"]["net"]
        net.update(width=8192, mults=[64] * 3, attention=[True] * 3, blocks=64, groups=4, heads=1)

    edited(run, change, "nothing")
    rewritten(run, files.read_safetensors(run / zoo.MODEL)[0])
    before = memory()
    refused(run, "holds other weights than its card's recipe needs")
    assert memory() - before < 500


@pytest.mark.parametrize("config", [UNetConfig, NoisyClassifierConfig, ClassifierConfig])
def test_limits_are_far_above_what_is_trained(config):
    if config is ClassifierConfig:
        config(channels=64, num_classes=100_000, width=2048, features=8192)
        with pytest.raises(ValueError, match="features must be at most 65,536, got 1000000"):
            config(features=10**6)
        return
    config(width=1024, mults=(1, 2, 4, 8, 8, 8), attention=(True,) * 6, blocks=16, heads=64)
    with pytest.raises(ValueError, match="blocks must be at most 64, got 1000000"):
        config(blocks=10**6)


@pytest.mark.parametrize(
    "change",
    [
        {"image_shape": [1, 10**400, 8]},
        {"image_shape": [1, 2**17, 8]},
        {"image_shape": [1] * 6},
        {"num_classes": 10**400},
        {"num_classes": True},
        {"parameters": 10**400},
        {"parameters": -1},
        {"parts": 10**400},
        {"loss": [[1, 10**400]]},
        {"loss": [3]},
        {"loss": [[1, "x"]]},
        {"metrics": [3]},
        {"metrics": ["fid"]},
        {"format": 10**400},
        {"format": 1, "metrics": 3},
    ],
    ids=lambda change: json.dumps(change)[:40],
)
def test_a_card_with_values_that_cannot_be_is_refused(run, change):
    edited(run, lambda card: card.update(change), "nothing")
    said = refused(run, "is not a checkpoint card|is a card of format|digest")
    assert len(said) < 600


@pytest.mark.parametrize(
    "text",
    [
        '{"parts": ' + "9" * 5000 + "}",
        "[" * 100_000,
        '{"recipe": ' * 3000 + "1" + "}" * 3000,
        '{"training": ' + "[" * 200 + "]" * 200 + "}",
        "\udcff",
        "\ufeff{}",
        '{"name": "a\x1bb"}',
    ],
    ids=["digits", "brackets", "objects", "deep", "bytes", "mark", "escape"],
)
def test_json_that_is_made_to_break_a_reader_is_refused(run, text):
    path = run / "model.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    said = refused(run, "model.json is not a checkpoint card")
    assert len(said) < 500


def sparse(path: Path, size: int = 200_000_000_000) -> None:
    """A file of 200 GB that takes no room."""
    with open(path, "r+b" if path.exists() else "wb") as file:
        file.truncate(size)


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Whoever takes 20 GB more fails, and does not take the machine down."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + 20_000_000_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


linux = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")


@linux
@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("name", ["model.json", zoo.MODEL])
def test_a_sparse_file_of_200_gb_is_never_read(run, name):
    sparse(run / name)
    refused(run, "bytes, where .* are the most there can be")


@linux
@pytest.mark.usefixtures("little_memory")
def test_a_sparse_safetensors_file_or_log_is_never_read(run, tmp_path):
    sparse(run / zoo.MODEL)
    for path in (run / zoo.MODEL, tmp_path / "zeros.safetensors"):
        sparse(path)
        with pytest.raises(ValueError, match="is not a whole safetensors file"):
            files.read_safetensors(path)
    sparse(run / zoo.LOG)
    with pytest.raises(ValueError, match="bytes, where"):
        zoo.read_log(run / zoo.LOG)


@pytest.mark.skipif(os.name != "posix", reason="named pipes")
@pytest.mark.parametrize("name", ["model.json", zoo.MODEL, zoo.LOG])
@pytest.mark.slow
def test_a_pipe_in_place_of_a_file_is_not_waited_for(run, name, tmp_path):
    (run / name).unlink()
    os.mkfifo(run / name)
    folder = f"pathlib.Path({str(tmp_path / 'shipped')!r})"
    use = f"ship({str(run)!r}, folder={folder})" if name == zoo.LOG else f"load({str(run)!r})"
    code = f"import pathlib; from ddpmlib import zoo; zoo.{use}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", timeout=120, cwd=ROOT
    )
    assert "FileNotFoundError" in done.stderr, done.stderr
    if name == zoo.LOG:
        with pytest.raises(FileNotFoundError, match="no log"):
            zoo.read_log(run / name)


def test_a_device_in_place_of_a_file_is_not_read(run):
    (run / "model.json").unlink()
    (run / "model.json").symlink_to("/dev/zero")
    with pytest.raises(FileNotFoundError, match="no card"):
        zoo.load(run, "cpu")


@pytest.mark.parametrize("row", ["[" * 10**5, '{"step": ' + "9" * 5000 + "}"])
def test_a_line_of_a_log_that_breaks_a_reader_is_left_out(run, row):
    good = {"step": 1, "loss": 0.5, "lr": 1e-3, "images_per_s": 1.0, "seconds": 2.0}
    lines = [json.dumps(good), row, json.dumps(good | {"seconds": 10**400}), json.dumps(good)]
    (run / zoo.LOG).write_text("\n".join(lines), "utf-8")
    assert zoo.read_log(run / zoo.LOG)["step"] == [1, 1]


# ---- weights that are none -----------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(run, value):
    tensors = files.read_safetensors(run / zoo.MODEL)[0]
    tensors["net.inp.weight"][0, 0, 0, 0] = value
    rewritten(run, tensors)
    refused(run, "is damaged: net.inp.weight is not finite")


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int64, torch.bool])
def test_weights_that_are_whole_numbers_are_refused(run, dtype):
    tensors = files.read_safetensors(run / zoo.MODEL)[0]
    tensors["net.inp.weight"] = tensors["net.inp.weight"].to(dtype)
    rewritten(run, tensors)
    refused(run, rf"net.inp.weight is \(8, 1, 3, 3\) torch.{str(dtype)[6:]}, not .*float32")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_are_taken(run, dtype):
    rewritten(run, {k: v.to(dtype) for k, v in files.read_safetensors(run / zoo.MODEL)[0].items()})
    assert {v.dtype for v in zoo.load(run, "cpu")[0].parameters()} == {torch.float32}


@pytest.mark.parametrize("what", ["fewer", "more", "shape"])
def test_weights_of_another_network_are_refused(run, what):
    tensors = files.read_safetensors(run / zoo.MODEL)[0]
    if what == "fewer":
        del tensors["net.inp.weight"]
    elif what == "more":
        tensors["net.extra"] = torch.zeros(3)
    else:
        tensors["net.inp.weight"] = tensors["net.inp.weight"][:4].clone()
    rewritten(run, tensors)
    refused(run, "holds other weights than its card's recipe needs")


HOSTILE = {
    "pickle": b"\x80\x04cposix\nsystem\n(S'touch owned'\ntR.",
    "empty": b"",
    "short": b"abc",
    "endless header": (2**62).to_bytes(8, "little") + b"{}",
    "no json": (4).to_bytes(8, "little") + b"nope",
    "deep": (20_000).to_bytes(8, "little") + b'{"a":' * 4000,
    "no object": (2).to_bytes(8, "little") + b"[]",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_bytes_that_are_no_safetensors_are_refused(run, name, tmp_path):
    (run / zoo.MODEL).write_bytes(HOSTILE[name])
    with pytest.raises(ValueError, match="is not a whole safetensors file"):
        files.read_safetensors(run / zoo.MODEL)
    sha256 = hashlib.sha256(HOSTILE[name]).hexdigest()
    edited(run, lambda card: card.update(sha256=sha256))
    refused(run, "is not a whole safetensors file")
    assert not list(tmp_path.rglob("owned")) and not Path("owned").exists()


@pytest.mark.parametrize("dtype", ["X1", "I4", "c64", 3])
def test_a_type_that_nobody_knows_is_refused(tmp_path, dtype):
    text = json.dumps({"a": {"dtype": dtype, "shape": [2], "data_offsets": [0, 8]}}).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    with pytest.raises(ValueError, match="is not a whole safetensors file"):
        files.read_safetensors(path)
