"""The project files say the same: pyproject, constraints, environment, citation, library."""

import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import distributions, entry_points, requires, version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import ddpmlib
from scripts import freeze

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIREMENTS = [
    Requirement(line) for line in [*PROJECT["dependencies"], *EXTRAS["book"], *EXTRAS["test"]]
]
IN_PROJECT_VENV = Path(sys.prefix).resolve() == (ROOT / ".venv").resolve()


def read_yaml(name: str) -> dict[str, Any]:
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load((ROOT / name).read_text("utf-8"))


def pins() -> dict[str, str]:
    """Name → version of constraints.txt, where every line must be an exact pin."""
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    found = {}
    for line in (text for text in lines if not text.startswith("#")):
        name, exact, pinned = line.partition("==")
        assert exact, f"constraints.txt: {line!r} is not NAME==VERSION"
        assert canonicalize_name(name) not in found, f"constraints.txt pins {name} twice"
        found[canonicalize_name(name)] = pinned
    return found


def run_python(code: str, cwd: Path = ROOT) -> str:
    """The output of the code in a fresh interpreter that can import ddpmlib."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- pins ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=lambda r: r.name)
def test_every_requirement_is_pinned_within_its_bounds(requirement):
    pinned = pins().get(canonicalize_name(requirement.name))
    assert pinned, f"constraints.txt pins no {requirement.name}: run `make constraints`"
    assert requirement.specifier.contains(pinned), f"{requirement} excludes the pin {pinned}"


def test_platform_and_bootstrap_packages_are_not_pinned():
    unwanted = re.compile(r"pip|setuptools|wheel|ddpmlib|triton|(nvidia|cuda)-.*")
    assert [name for name in pins() if unwanted.fullmatch(name)] == []


@pytest.mark.skipif(not IN_PROJECT_VENV, reason="only .venv promises the pinned versions")
@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=lambda r: r.name)
def test_the_pinned_version_is_installed(requirement):
    # A CPU build of torch calls itself 2.15.0+cpu; the pin means both.
    installed = version(requirement.name).partition("+")[0]
    assert installed == pins()[canonicalize_name(requirement.name)], "run `make setup`"


@pytest.mark.skipif(not IN_PROJECT_VENV, reason="needs the metadata of all pinned packages")
def test_the_pins_resolve():
    """Whatever a pinned package requires here is pinned to a version that it allows.

    A pin that is not installed is one that other packages need on another Python or system.
    """
    pinned, wrong = pins(), []
    installed = {canonicalize_name(found.name) for found in distributions()}
    elsewhere = set()
    for name in pinned.keys() & installed:
        for need in map(Requirement, requires(name) or ()):
            if need.marker and not need.marker.evaluate({"extra": ""}):
                elsewhere.add(canonicalize_name(need.name))
                continue
            found = pinned.get(canonicalize_name(need.name))
            free = freeze.NOT_PINNED.match(f"{need.name}==")
            if not free and (found is None or not need.specifier.contains(found, True)):
                wrong.append(f"{name} needs {need}, and the pin is {found}")
    assert wrong == [] and pinned.keys() - installed <= elsewhere


def test_hashes_are_of_the_pinned_versions():
    lines = (ROOT / "hashes.txt").read_text("utf-8").splitlines()
    hashed = re.compile(r"([\w.-]+)==(\S+) --hash=sha256:[0-9a-f]{64}")
    found = [hashed.fullmatch(line) for line in lines if not line.startswith("#")]
    assert None not in found and len(found) >= 50
    versions = {canonicalize_name(match[1]): match[2] for match in found if match}
    assert len(versions) == len(found)  # once each
    assert {name: pins().get(name) for name in versions} == versions, "run `make constraints`"


def test_only_files_for_all_platforms_from_an_index_get_a_hash():
    def item(name, url):
        hashes = {"archive_info": {"hashes": {"sha256": name * 64}}, "url": url}
        return {"download_info": hashes, "metadata": {"name": name, "version": "1"}}

    report = {
        "install": [
            item("b", "https://files.example/b-1-py3-none-any.whl#sha256=0"),
            item("c", "https://files.example/c-1-cp311-cp311-manylinux_2_28_x86_64.whl"),
            item("d", "file:///wheels/d-1-py3-none-any.whl"),
            item("a", "https://files.example/a-1-py2.py3-none-any.whl"),
        ]
    }
    expected = [f"{name}==1 --hash=sha256:{name * 64}" for name in "ab"]
    assert freeze.universal(report) == expected


def test_actions_of_workflows_are_named_by_commit():
    """A tag can be moved to other code; the comment says which release the commit was."""
    workflows = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    lines = [line for path in workflows for line in path.read_text("utf-8").splitlines()]
    used = [line.strip() for line in lines if "uses:" in line]
    named = re.compile(r"- uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")
    assert used and [line for line in used if not named.fullmatch(line)] == []


# --- files in step ------------------------------------------------------------------------------


def test_conda_and_make_install_the_same():
    dependencies = read_yaml("environment.yml")["dependencies"]
    (pip,) = [entry["pip"] for entry in dependencies if isinstance(entry, dict)]
    wanted = ["-c", "constraints.txt", "-e", ".[book,test]"]
    assert [word for line in pip for word in line.split()] == wanted
    script = (ROOT / "scripts" / "setup_venv.py").read_text("utf-8")
    assert f"REQUIREMENTS = {json.dumps(wanted)}" in script


def test_conda_takes_a_python_that_the_project_supports():
    dependencies = read_yaml("environment.yml")["dependencies"]
    (python,) = [d for d in dependencies if isinstance(d, str) and d.startswith("python=")]
    supported = Requirement(f"python{PROJECT['requires-python']}").specifier
    assert supported.contains(python.removeprefix("python=") + ".0")


def test_extras_are_known_and_the_tests_cover_inception():
    assert set(EXTRAS) == {"book", "test", "inception", "tensorboard", "benchmark"}
    assert set(EXTRAS["inception"]) <= set(EXTRAS["test"])


def test_versions_agree():
    assert ddpmlib.__version__ == PROJECT["version"]
    assert read_yaml("CITATION.cff")["version"] == PROJECT["version"]


def test_citation_names_the_same_project():
    citation = read_yaml("CITATION.cff")
    assert citation["license"] == PROJECT["license"]
    assert citation["repository-code"] == PROJECT["urls"]["Repository"]
    assert citation["authors"] == PROJECT["authors"]


def test_console_script_exists():
    (script,) = [s for s in entry_points(group="console_scripts") if s.name == "ddpmlib"]
    assert script.value == PROJECT["scripts"]["ddpmlib"]
    assert callable(script.load())


@pytest.mark.skipif(not IN_PROJECT_VENV, reason="needs hatchling, which .venv has")
def test_wheel_holds_the_library_and_its_licences_and_nothing_else(tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "ddpmlib").rglob("*.py")}
    assert modules <= names
    for folder in ("checkpoints", "results", "statistics"):
        shipped = {path.name for path in (ROOT / "data" / folder).glob("*.*")}
        assert shipped and {f"ddpmlib/{folder}/{name}" for name in shipped} <= names
    assert "ddpmlib/py.typed" in names
    info = f"ddpmlib-{PROJECT['version']}.dist-info"
    assert {f"{info}/licenses/{name}" for name in PROJECT["license-files"]} <= names
    assert {name.partition("/")[0] for name in names} == {"ddpmlib", info}


# --- what an import costs -----------------------------------------------------------------------


@pytest.mark.slow
def test_importing_the_library_loads_only_torch_and_numpy():
    loaded = "import sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    base = run_python(f"import numpy, torch; {loaded}").split()
    ours = run_python(f"import ddpmlib; {loaded}").split()
    assert set(ours) - set(base) - set(sys.stdlib_module_names) == {"ddpmlib"}


BLOCKED = (
    "IPython",
    "matplotlib",
    "PIL",
    "safetensors",
    "scipy",
    "sklearn",
    "torch_fidelity",
    "torchvision",
)
IMPORT_ALL = f"""
import importlib, pkgutil, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED!r}:
            raise ModuleNotFoundError(f"blocked: {{name}}", name=name)

sys.meta_path.insert(0, Blocker())
import ddpmlib
for module in pkgutil.walk_packages(ddpmlib.__path__, "ddpmlib."):
    if module.name.rpartition(".")[2] != "__main__":
        importlib.import_module(module.name)
        print(module.name)
"""


@pytest.mark.slow
def test_every_module_imports_without_the_heavy_packages():
    imported = run_python(IMPORT_ALL).split()
    assert {"ddpmlib.process", "ddpmlib.samplers", "ddpmlib.data"} <= set(imported)
