"""What README.md promises: its Python runs, its commands and its links exist."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pictures import write_folder

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)


def commands(program: str) -> list[list[str]]:
    """The command lines of the shell blocks that start with the program, without comments."""
    lines = [
        line.partition("#")[0].split() for block in blocks("bash") for line in block.split("\n")
    ]
    return [words for words in lines if words[:1] == [program]]


@pytest.mark.slow
def test_quick_start_draws_the_picture(tmp_path):
    (code,) = blocks("python")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["digits.png"]
    plt = pytest.importorskip("matplotlib.pyplot")
    assert plt.imread(tmp_path / "digits.png").std() > 0.1  # a picture, not a blank page


def test_make_targets_exist():
    named = {words[1] for words in commands("make")}
    assert {"book", "test"} <= named
    named |= set(re.findall(r"`make ([a-z]+)`", README))
    targets = set(re.findall(r"^([a-z]+):", MAKEFILE, flags=re.MULTILINE))
    assert named <= targets


FASTER = {
    "train": ["--steps", "2"],
    "sample": ["--n", "2", "--sampling-steps", "2"],
    "evaluate": ["--n", "100", "--sampling-steps", "2"],
}


@pytest.mark.slow
def test_training_and_sampling_by_command_line(tmp_path):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    write_folder(tmp_path / "photos")
    for _, verb, *arguments in commands("ddpmlib"):
        command = [sys.executable, "-m", "ddpmlib", verb, *arguments, *FASTER[verb]]
        subprocess.run(command, cwd=tmp_path, env=env, check=True)
    assert {path.name for path in tmp_path.iterdir()} == {
        "photos", "runs", "my_digits.png", "guided.png"
    }  # fmt: skip


@pytest.mark.parametrize(
    "page", [README, (ROOT / "CONTRIBUTING.md").read_text("utf-8")], ids=["README", "CONTRIBUTING"]
)
def test_local_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)#\s]+)", page)
    missing = [link for link in links if "://" not in link and not (ROOT / link).exists()]
    assert missing == []


MODELS = ("mnist", "fashion_mnist", "digits", "cifar10-small")


def card(name):
    return json.loads((ROOT / "data" / "checkpoints" / f"{name}.json").read_text("utf-8"))


def measured(name):
    """The rows of the table that a card stands for; one of dashes if it holds no measurement."""
    seconds, parameters = card(name)["training"]["seconds"], card(name)["parameters"]
    time = f"{seconds / 60:.0f} min" if seconds > 99 else f"{seconds:.0f} s"
    entries = [m for m in card(name)["metrics"] if m["metric"] == "samples"]
    if not entries:
        yield (name, f"{parameters:,}", time, *["–"] * 5)
    for m in entries:
        guided = "".join(f", {k} {v:g}" for k, v in m.get("guidance", {}).items())
        sampler, n = f"{m['steps']} steps, eta {m['eta']:.0f}{guided}", f"{m['n']:,}"
        values = (f"{m['class_agreement']:.1%}".replace("%", " %"), f"{m['frechet']:.2f}")
        floor = f"{m['frechet_floor']:.2f}"
        yield (name, f"{parameters:,}", time, sampler, n, *values, floor)


def test_the_table_of_results_says_what_the_cards_say():
    rows = re.findall(rf"^\| ({'|'.join(MODELS)}) \| (.*) \|$", README, flags=re.MULTILINE)
    shown = [(name, *row.split(" | ")) for name, row in rows]
    assert shown == [row for name in MODELS for row in measured(name)]


def test_the_bound_of_the_colour_model_is_that_of_its_card():
    bound = next(m for m in card("cifar10-small")["metrics"] if m["metric"] == "nll")
    shown = f"{bound['bits_per_dim']:.2f} ± {bound['standard_error']:.2f} bits per dimension"
    assert said(f"{shown} on {bound['n']} test images")


def test_the_hardware_is_that_of_the_cards():
    sentence = README.partition("Each was trained on one thread:")[2].partition(".")[0]
    for name in MODELS:
        xeon = "Xeon" in card(name)["training"]["hardware"]
        assert (name in sentence) != xeon


# What is said beside the table


def results(name):
    return json.loads((ROOT / "data" / "results" / f"{name}.json").read_text("utf-8"))


def said(sentence):
    """Whether it stands in README, wherever its lines break."""
    return " ".join(sentence.split()) in " ".join(README.split())


def test_features_see_what_is_said():
    assert said("noise of deviation 0.05 moves this distance more than a shift by one pixel")
    assert said("principal components of the pixels say the reverse")
    assert said("copies of training images are below it too")
    rows = results("feature_audit")
    for dataset in ("mnist", "fashion_mnist"):
        seen = {(r["space"], r["change"]): r["frechet"] for r in rows if r["dataset"] == dataset}
        assert seen["classifier", "noise 0.05"] > 2 * seen["classifier", "shift by 1 pixel"]
        assert seen["pixels", "shift by 1 pixel"] > 2 * seen["pixels", "noise 0.05"]
        for space in ("classifier", "pixels"):
            assert seen[space, "copies of training images"] < seen[space, "none"]


def test_floors_are_of_as_many_images():
    for name in MODELS:
        for m in card(name)["metrics"]:
            if m["metric"] == "samples":
                assert m["floor_n"] == (355 if name == "digits" else m["n"])
    assert said("(for `digits`, for all 355 that there are)")


def test_guidance_does_what_is_said():
    by_w = {
        m["guidance"]["w"] if "guidance" in m else 0: m["frechet"]
        for m in card("cifar10-small")["metrics"]
        if m.get("steps") == 20 and m["metric"] == "samples"
    }
    assert by_w[1] < by_w[0] / 2 and by_w[4] > by_w[0]
    plain = [
        r
        for r in results("guidance")
        if r["method"] == "classifier_free" and r["threshold"] is False
    ]
    for dataset, best in (("mnist", 0), ("fashion_mnist", 0.5)):
        found = {r["w"]: r for r in plain if r["dataset"] == dataset}
        assert min((w for w in found if w >= 0), key=lambda w: found[w]["frechet"]) == best
        assert found[0.5]["class_agreement"] > found[0]["class_agreement"]
    (third,) = (
        r
        for r in results("guidance_interval")
        if (r["dataset"], r["low"], r["high"], r["w"]) == ("fashion_mnist", 334, 666, 4)
    )
    assert said(f"the Fashion-MNIST model comes to {third['frechet']:.2f}.")
    assert said("--steps 20 --eta 1 --w 4 --interval 334 666") and third["steps"] == 20


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "digits"])
def test_classifiers_are_as_good_as_is_said(name):
    (m,) = card(f"{name}-classifier")["metrics"]
    share = f"{100 * m['value']:.1f} % of {m['n']:,}"
    assert re.search(rf"`{name}-classifier` (is right )?on {share}", " ".join(README.split()))


def test_other_classifiers_are_as_good_as_is_said():
    for data, n in (("digits", 355), ("mnist", 10_000)):
        for name in (f"{data}-robust", f"{data}-independent"):
            (m,) = card(name)["metrics"]
            assert said(f"`{name}` on {100 * m['value']:.1f} %") and m["n"] == n
    (m,) = card("mnist-noisy-classifier")["metrics"]
    at = dict(zip(m["times"], m["at_times"], strict=True))
    shown = f"{at[1]:.1%} at t = 1, {at[500]:.0%} at t = 500, {at[900]:.0%} at t = 900"
    assert said(shown.replace("%", " %"))
