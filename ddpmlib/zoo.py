"""From recipe to run, from run to checkpoint, from checkpoint to a model that is ready to use.

A run is a folder: ``training.safetensors`` (everything, to resume from), ``log.jsonl``, and at the
end ``model.safetensors`` (averaged weights) with its card ``model.json``. A shipped checkpoint is
the last two and the log, renamed, in ``data/checkpoints``. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddpmlib import data, features, metrics, recipes, samplers
from ddpmlib.denoiser import Denoiser
from ddpmlib.models import Classifier
from ddpmlib.recipes import Recipe
from ddpmlib.training import (
    Trainer,
    default_device,
    fit,
    read_safetensors,
    write_atomically,
    write_safetensors,
)

STATE, LOG, MODEL = "training.safetensors", "log.jsonl", "model.safetensors"
PACKAGE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Card:
    """What is known of a checkpoint; the JSON beside it.

    Attributes:
        name: the checkpoint.
        recipe: how it was made, see :func:`ddpmlib.recipes.to_dict`.
        sha256: of the weights' file.
        parameters: number of weights.
        dtype: of the weights in the file; models are loaded as float32.
        image_shape: (C, H, W).
        num_classes: labels are 0..num_classes−1; 0 for a denoiser that knows no classes.
        training: command, commit, hardware, torch version, seconds, images seen.
        loss: pairs (step, mean loss since the last pair).
        metrics: measurements, each with its sample size.
    """

    name: str
    recipe: dict[str, Any]
    sha256: str
    parameters: int
    dtype: str
    image_shape: tuple[int, ...]
    num_classes: int
    training: dict[str, Any]
    loss: list[tuple[int, float]] = field(default_factory=list)
    metrics: list[dict[str, Any]] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Write as JSON, in one go."""
        write_atomically(path, (json.dumps(asdict(self), indent=1) + "\n").encode())

    @staticmethod
    def read(path: Path) -> Card:
        """Read a card.

        Raises:
            FileNotFoundError, ValueError: if it is missing or not a card.
        """
        if not path.is_file():
            raise FileNotFoundError(f"there is no card {path}: a checkpoint needs its JSON file")
        try:
            values = json.loads(path.read_text())
            return Card(**values | {"image_shape": tuple(values["image_shape"])})
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not a checkpoint card ({error})") from error


# ---- loading -------------------------------------------------------------------------------------


def shipped() -> Path:
    """Where shipped checkpoints lie: inside an installed package, else in the clone's ``data``."""
    inside = PACKAGE / "checkpoints"
    return inside if inside.is_dir() else PACKAGE.parent / "data" / "checkpoints"


def names() -> list[str]:
    """Names of the shipped checkpoints."""
    return sorted(card.stem for card in shipped().glob("*.json"))


def load(name: str | Path, device: torch.device | str | None = None) -> tuple[Any, Card]:
    """A trained model, ready to use, and its card.

    Args:
        name: a shipped checkpoint ("mnist", see :func:`names`), a run's folder, or a weights' file.
        device: where to put it, by default a GPU if there is one.

    Returns:
        a :class:`~ddpmlib.denoiser.Denoiser` or a :class:`~ddpmlib.models.Classifier`, in
        evaluation mode without gradients, and its :class:`Card`.

    Raises:
        FileNotFoundError: if there is no such checkpoint.
        ValueError: if the file is damaged: its SHA-256 is not the card's.
    """
    path = find(name)
    card = _verified(path)
    model = recipes.from_dict(card.recipe).build()
    tensors, _ = read_safetensors(path)
    floats = {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}
    try:
        model.load_state_dict(floats)
    except RuntimeError as error:
        raise ValueError(f"{path} holds other weights than its card's recipe needs") from error
    return model.to(device or default_device()).eval().requires_grad_(False), card


def _verified(path: Path) -> Card:
    """The card of a weights' file whose SHA-256 is the card's."""
    card = Card.read(path.with_suffix(".json"))
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != card.sha256:
        raise ValueError(
            f"{path} is damaged: its SHA-256 is {found[:12]}..., the card says "
            f"{card.sha256[:12]}...; fetch it again, or train it again"
        )
    return card


def find(name: str | Path) -> Path:
    """The weights' file behind a shipped name, a run's folder or a path."""
    path = Path(name)
    candidates = [shipped() / f"{name}.safetensors", path / MODEL, path]
    for candidate in candidates:
        if candidate.is_file() and candidate.suffix == ".safetensors":
            return candidate
    if (path / STATE).is_file():
        raise FileNotFoundError(
            f"the run in {path} is not finished: resume it with `ddpmlib train`"
        )
    raise FileNotFoundError(
        f"no checkpoint {str(name)!r}: give a folder of a finished run, a .safetensors file, or "
        f"one of {', '.join(names()) or '(none shipped)'}"
    )


# ---- training ------------------------------------------------------------------------------------


def train(
    recipe: Recipe,
    folder: Path | str,
    *,
    resume: bool = False,
    device: torch.device | str | None = None,
    bf16: bool | None = None,
    compile: bool = False,
    save_every: int = 500,
    log_every: int = 50,
    command: str = "",
) -> Card:
    """Carry a recipe out in ``folder``: train with a progress bar and a log, then export.

    Args:
        recipe: see :data:`ddpmlib.recipes.RECIPES`.
        folder: where the run lives; created if needed.
        resume: go on from the last saved state, if there is one.
        device, bf16, compile: see :class:`ddpmlib.training.Trainer`.
        save_every, log_every: updates between saves and between lines of the log.
        command: what the card says to repeat the run.

    Returns:
        the card of the exported model.

    Raises:
        FileExistsError: if the folder holds a run and ``resume`` is False.
        ValueError: if the run there has other settings; it is then unchanged.
        TrainingDiverged: if the loss is no longer finite.
    """
    folder = Path(folder)
    state = folder / STATE
    _check_folder(folder, resume)
    torch.manual_seed(recipe.settings.seed)
    images = data.load(recipe.data)
    model = recipe.build()
    trainer = Trainer(
        model, recipe.loss(), images.x_train, images.y_train, recipe.settings,
        device=device, bf16=bf16, compile=compile, recipe=recipes.to_dict(recipe),
    )  # fmt: skip
    if state.exists():
        trainer.load(state)
    if trainer.step == recipe.settings.steps and (finished := _finished(folder)):
        return finished
    log = _Log(folder / LOG, trainer, log_every)
    for progress in log.watch(fit(trainer, checkpoint=state, save_every=save_every)):
        del progress
    switches = {"device": str(trainer.device), "bf16": trainer.bf16, "compile": compile}
    return _export(recipe, trainer, images, folder, log, switches | {"command": command})


def _check_folder(folder: Path, resume: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"a run needs a folder, and {folder} is a file")
    state, model = (folder / STATE).exists(), (folder / MODEL).exists()
    if state and not resume:
        raise FileExistsError(
            f"{folder} already holds a run: go on with it by --resume, or give another folder by "
            "--out"
        )
    if model and not state:  # training from the start would in the end replace it
        raise FileExistsError(
            f"{folder} holds a trained model but no {STATE} to go on from: give another folder by "
            "--out"
        )


def _finished(folder: Path) -> Card | None:
    """The card of a run that was exported as a whole: with its measurements, so it is kept."""
    try:
        return _verified(folder / MODEL)
    except (OSError, ValueError):
        return None


class _Log:
    """Progress bar and JSON lines; after a resume both go on where the saved state stood."""

    def __init__(self, path: Path, trainer: Trainer, every: int) -> None:
        self.path, self.trainer, self.every = path, trainer, every
        self.rows = [row for row in _rows(path) if row["step"] <= trainer.step]
        content = "".join(json.dumps(row) + "\n" for row in self.rows)
        write_atomically(path, content.encode())
        self.seconds = self.rows[-1]["seconds"] if self.rows else 0.0

    def watch(self, updates: Iterator[Any]) -> Iterator[Any]:
        from tqdm import tqdm

        settings, begun = self.trainer.settings, self.trainer.step
        total, count, started, before = 0.0, 0, time.perf_counter(), self.seconds
        last = started
        with tqdm(total=settings.steps, initial=begun, unit="step", disable=None) as bar:
            for p in updates:
                total, count = total + p.loss.float(), count + 1
                if p.step % self.every == 0 or p.step == settings.steps:
                    loss, now = float(total) / count, time.perf_counter()
                    speed = count * settings.batch_size / (now - last)
                    self.seconds = before + now - started
                    self._write(p.step, loss, p.lr, speed)
                    bar.set_postfix_str(f"loss {loss:.4f}, {speed:.0f} images/s")
                    total, count, last = 0.0, 0, now
                bar.update()
                yield p

    def _write(self, step: int, loss: float, lr: float, speed: float) -> None:
        row = {"step": step, "loss": loss, "lr": lr, "images_per_s": round(speed, 1)}
        row["seconds"] = round(self.seconds, 2)
        self.rows.append(row)
        with open(self.path, "a") as file:
            file.write(json.dumps(row) + "\n")


def read_log(path: Path | str) -> dict[str, list[float]]:
    """A run's log as columns: step, loss, lr, images_per_s, seconds.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    rows = _rows(Path(path))
    if not rows and not Path(path).exists():
        raise FileNotFoundError(f"there is no log {path}")
    return {key: [row[key] for row in rows] for key in (rows[0] if rows else ())}


def _rows(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; a kill may have cut the last one, which is then left out."""
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    return [row for row in map(_json_or_none, lines) if isinstance(row, dict) and "step" in row]


def _export(
    recipe: Recipe,
    trainer: Trainer,
    images: data.Images,
    folder: Path,
    log: _Log,
    how: dict[str, Any],
) -> Card:
    averaged = trainer.averaged
    settings = recipe.settings
    card = Card(
        name=recipe.name,
        recipe=recipes.to_dict(recipe),
        sha256="",
        parameters=sum(p.numel() for p in averaged.parameters()),
        dtype="float32",
        image_shape=images.image_shape,
        num_classes=recipe.net.num_classes,
        training=how | {
            "seconds": round(log.seconds, 1),
            "images_seen": settings.steps * settings.batch_size,
            "hardware": hardware(trainer.device),
            "torch": torch.__version__,
            "commit": _commit(),
        },
        loss=_thinned([(row["step"], round(row["loss"], 6)) for row in log.rows]),
    )  # fmt: skip
    return _write_model(averaged.state_dict(), card, folder / MODEL)


def ship(run: Path | str, name: str | None = None, dtype: str = "float16") -> Path:
    """Copy a finished run into the folder of shipped checkpoints.

    Args:
        run: the run's folder.
        name: of the checkpoint, by default the recipe's.
        dtype: "float16" or "float32" for the weights on disk.

    Returns:
        the weights' file.

    Raises:
        FileNotFoundError: if the run is not finished.
        ValueError: for another dtype, a name that is no plain file name, damaged weights, or
            weights too large for float16.
    """
    if dtype not in ("float16", "float32"):
        raise ValueError(f"dtype must be float16 or float32, got {dtype!r}")
    if name is not None and (Path(name).name != name or name.startswith(".")):
        raise ValueError(f"a checkpoint's name is a plain file name, got {name!r}")
    run = Path(run)
    source = run / MODEL if (run / MODEL).is_file() else find(run)
    card, (tensors, _) = _verified(source), read_safetensors(source)
    small = {k: _converted(k, v, getattr(torch, dtype)) for k, v in tensors.items()}
    target = shipped() / f"{name or card.name}.safetensors"
    shutil.copyfile(source.parent / LOG, _made(target).with_suffix(".jsonl"))
    # Metrics belong to the exact weights they were measured on, so they do not travel.
    _write_model(small, replace(card, name=target.stem, dtype=dtype, metrics=[]), target)
    return target


def _converted(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    small = tensor.to(dtype)
    if not bool(small.isfinite().all()):
        raise ValueError(f"{name} does not fit into {dtype}: ship with dtype float32")
    return small


def _write_model(tensors: dict[str, Tensor], card: Card, path: Path) -> Card:
    tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    write_safetensors(path, tensors, {"name": card.name})
    card = replace(card, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    card.write(path.with_suffix(".json"))
    return card


# ---- measuring -----------------------------------------------------------------------------------


def evaluate(
    name: str | Path,
    *,
    n: int = 2000,
    steps: int = 50,
    eta: float = 0.0,
    seed: int = 0,
    batch_size: int = 500,
    device: torch.device | str | None = None,
) -> dict[str, Any]:
    """Measure a checkpoint and write the result into its card.

    A classifier: accuracy on the test set. A denoiser: ``n`` samples, classes in turn, judged by
    the shipped classifier of its data set: class agreement, and the Fréchet distance to the
    training set on the classifier's features, with the floor that ``n`` real test images reach.

    Raises:
        FileNotFoundError: if the checkpoint or the classifier is missing.
        ValueError: if ``n`` is less than 2, or ``steps`` or ``eta`` are out of range.
    """
    if n < 2:
        raise ValueError(f"measuring samples needs at least 2 of them, got n = {n}")
    path = find(name)
    model, card = load(path, device)
    images = data.load(card.recipe["data"])
    started = time.perf_counter()
    if isinstance(model, Classifier):
        _, logits = features.judge(model, images.x_test)
        result = {"metric": "test accuracy", "n": len(logits)}
        result["value"] = metrics.class_agreement(logits, images.y_test)
    else:
        judge = f"{images.name}-classifier"
        classifier, _ = load(judge, device)  # before the long part: it may be missing
        y = classes_in_turn(card, n)
        x0 = generate(
            model, card.image_shape, y, steps, n=n, eta=eta, seed=seed, batch_size=batch_size
        )
        result = {"metric": "samples", "n": n, "steps": steps, "eta": eta, "seed": seed}
        result |= _judged(classifier, x0, y, images) | {"features": judge}
    result["seconds"] = round(time.perf_counter() - started, 1)
    result["hardware"] = hardware(next(model.parameters()).device)
    card.metrics[:] = [m for m in card.metrics if not _same_cell(m, result)] + [result]
    card.write(path.with_suffix(".json"))
    return result


def classes_in_turn(card: Card, n: int) -> Tensor | None:
    """Labels 0, 1, ..., again from 0: (n,) int64; None if the checkpoint knows no classes."""
    return torch.arange(n) % card.num_classes if card.num_classes else None


def generate(
    denoiser: Denoiser,
    image_shape: tuple[int, ...],
    y: Tensor | None,
    steps: int,
    *,
    n: int | None = None,
    eta: float = 0.0,
    seed: int = 0,
    batch_size: int = 500,
) -> Tensor:
    """Samples in batches with a progress bar: (N, C, H, W) on the CPU, one per label, or n."""
    from tqdm import tqdm

    device = next(denoiser.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    total = len(y) if y is not None else n or 1
    times = samplers.uniform_times(denoiser.process.T, steps)
    done = []
    for i in tqdm(range(0, total, batch_size), unit="batch", disable=None):
        size = min(batch_size, total - i)
        noise = torch.randn(size, *image_shape, device=device, generator=generator)
        labels = None if y is None else y[i : i + size].to(device)
        x0 = samplers.draw(
            denoiser, denoiser.process, noise, times, eta=eta, y=labels, generator=generator
        )
        done.append(x0.cpu())
    return torch.cat(done)


def _judged(
    classifier: Classifier, x0: Tensor, y: Tensor | None, images: data.Images
) -> dict[str, Any]:
    fake, logits = features.judge(classifier, x0)
    train, _ = features.judge(classifier, images.x_train)
    # At random, because test sets are sorted: the first half of MNIST's is the easier one.
    order = torch.randperm(len(images.x_test), generator=torch.Generator().manual_seed(0))
    test, _ = features.judge(classifier, images.x_test[order[: len(x0)]])
    agreement = {} if y is None else {"class_agreement": metrics.class_agreement(logits, y)}
    return agreement | {
        "frechet": round(metrics.frechet_distance(fake, train), 4),
        "frechet_floor": round(metrics.frechet_distance(test, train), 4),
        "floor_n": len(test),
    }


def _same_cell(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all(a.get(k) == b.get(k) for k in ("metric", "n", "steps", "eta", "seed"))


# ---- facts for the card --------------------------------------------------------------------------


def hardware(device: torch.device) -> str:
    """The processor that did the work, with its threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [
            line.split(":")[1] for line in info.read_text().splitlines() if "model name" in line
        ]
        cpu = models[0].strip() if models else cpu
    threads = torch.get_num_threads()
    return f"{cpu}, {threads} thread{'s' if threads > 1 else ''}"


def _commit() -> str | None:
    """The commit of the clone that this package lies in; None if it is installed elsewhere."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(PACKAGE), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "zoo.py")  # else the repository is somebody else's
        return git("rev-parse", "HEAD") + (
            " with changes" if git("status", "--porcelain", ".") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return None


def _thinned(pairs: list[tuple[int, float]], most: int = 200) -> list[tuple[int, float]]:
    """At most ``most`` points of a curve, each the mean of its neighbours."""
    size = -(-len(pairs) // most) or 1
    groups = [pairs[i : i + size] for i in range(0, len(pairs), size)]
    return [(g[-1][0], round(sum(v for _, v in g) / len(g), 6)) for g in groups]


def _json_or_none(line: str) -> dict[str, Any] | None:
    """A line of the log; the last one may have been cut by a kill."""
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
