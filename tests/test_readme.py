"""What README.md promises: its Python runs, its commands and its links exist."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)


def commands(program: str) -> list[list[str]]:
    """The command lines of the shell blocks that start with the program, without comments."""
    lines = [
        line.partition("#")[0].split() for block in blocks("bash") for line in block.split("\n")
    ]
    return [words for words in lines if words[:1] == [program]]


def test_quick_start_draws_the_picture(tmp_path):
    (code,) = blocks("python")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False
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


def test_training_and_sampling_by_command_line(tmp_path):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for _, verb, *arguments in commands("ddpmlib"):
        command = [sys.executable, "-m", "ddpmlib.cli", verb, *arguments, *FASTER[verb]]
        subprocess.run(command, cwd=tmp_path, env=env, check=True)
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "my_digits.png", "guided.png"}


@pytest.mark.parametrize(
    "page", [README, (ROOT / "CONTRIBUTING.md").read_text()], ids=["README", "CONTRIBUTING"]
)
def test_local_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)#\s]+)", page)
    missing = [link for link in links if "://" not in link and not (ROOT / link).exists()]
    assert missing == []


def test_the_table_of_results_says_what_the_cards_say():
    rows = re.findall(r"^\| (mnist|fashion_mnist|digits) \| (.*) \|$", README, flags=re.MULTILINE)
    shown = [(name, *row.split(" | ")) for name, row in rows]
    known = []
    for name in ("mnist", "fashion_mnist", "digits"):
        card = json.loads((ROOT / "data" / "checkpoints" / f"{name}.json").read_text())
        seconds = card["training"]["seconds"]
        time = f"{seconds / 60:.0f} min" if seconds > 99 else f"{seconds:.0f} s"
        for m in (m for m in card["metrics"] if m["metric"] == "samples"):
            guided = "".join(f", {k} {v:g}" for k, v in m.get("guidance", {}).items())
            sampler, n = f"{m['steps']} steps, eta {m['eta']:.0f}{guided}", f"{m['n']:,}"
            judged = (f"{m['class_agreement']:.1%}".replace("%", " %"), f"{m['frechet']:.2f}")
            row = (name, f"{card['parameters']:,}", time, sampler, n, *judged)
            known.append((*row, f"{m['frechet_floor']:.2f}"))
    assert shown == known


def test_a_model_that_nothing_judges_shows_its_bound():
    card = json.loads((ROOT / "data" / "checkpoints" / "cifar10-small.json").read_text())
    training, (bound,) = card["training"], card["metrics"]
    row = f"| cifar10-small | {card['parameters']:,} | {training['seconds'] / 60:.0f} min |"
    assert row in README and training["hardware"].split(",")[0] in " ".join(README.split())
    shown = f"{bound['bits_per_dim']:.2f} ± {bound['standard_error']:.2f} bits per dimension"
    assert f"{shown} on {bound['n']} test images" in README
