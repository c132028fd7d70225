"""``ddpmlib train | sample | evaluate | statistics | ship | export-web | zoo``: the commands."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ddpmlib.cli import sampling, values

RUNS = Path("runs")
EXAMPLES = """examples:
  ddpmlib train digits                    about a minute on one CPU thread, into runs/digits
  ddpmlib train digits --resume           after an interruption
  ddpmlib train digits --minutes 2        as many steps as fit into two minutes
  torchrun --nproc-per-node 2 -m ddpmlib train digits      in two processes
  ddpmlib sample                          100 samples of the newest run into samples.png
  ddpmlib sample mnist --n 20 --label 7 --steps 20 --eta 1 --out sevens.png
  ddpmlib sample mnist --w 2              guided towards the class
  ddpmlib evaluate mnist                  how good its samples are
  ddpmlib evaluate mnist --metric fid nll --n 5000 --steps 10 --spacing quadratic
  ddpmlib zoo                             what can be trained, and what is there trained
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    Bad input ends with one sentence on stderr and status 2, an interruption with 130. Started by
    ``torchrun``, the processes share the work, and the first one speaks.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    args = _parser().parse_args(words)
    args.command = shlex.join(["ddpmlib", *_repeatable(words)])
    try:
        _run(args)
    except (ValueError, OSError, RuntimeError, FloatingPointError, ImportError) as error:
        # PyTorch adds pages to some messages: the first line says what is wrong.
        lines = str(error).strip().splitlines() or [type(error).__name__]
        process = f" (process {os.environ['RANK']})" if "RANK" in os.environ else ""
        print(f"ddpmlib{process}: {lines[0]}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        hint = "; `--resume` goes on from the last saved state" if args.run is _train else ""
        print(f"\nddpmlib: interrupted{hint}", file=sys.stderr)
        return 130
    return 0


def _run(args: argparse.Namespace) -> None:
    from ddpmlib.training import parallel

    with parallel.joined(args.device) as args.device:
        _settle(args)
        if parallel.is_main():
            args.run(args)
        elif args.run not in (_ship, _zoo):
            with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
                args.run(args)


def _repeatable(words: Sequence[str]) -> list[str]:
    """The words that decide the result: not where it was put, nor that it was interrupted.

    Nor how long it might take: how many steps that were is added when it is known.
    """
    pairs, dropped = zip(["", *words], words, strict=False), ("--out", "--minutes")
    kept = [w for before, w in pairs if before not in dropped and w not in (*dropped, "--resume")]
    return [w for w in kept if not w.startswith(("--out=", "--minutes="))]


def _settle(args: argparse.Namespace) -> None:
    """Threads and device, checked before anything long begins."""
    if not args.threads and not args.device:
        return
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    if args.device:
        try:
            torch.empty(0, device=args.device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise ValueError(f"there is no device {args.device!r} here: try cpu") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ddpmlib",
        description="Train and sample diffusion models.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    train = _verb(verbs, "train", _train, "train a recipe; see `ddpmlib zoo` for the names")
    train.add_argument("recipe", help="name of a recipe, for example digits or mnist")
    train.add_argument("--out", type=Path, help="folder of the run (default: runs/RECIPE)")
    train.add_argument("--resume", action="store_true", help="go on from the last saved state")
    train.add_argument("--init", help="checkpoint whose weights to start from")
    length = train.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, help="instead of the recipe's steps")
    length.add_argument(
        "--minutes",
        type=values.time_limit,
        help="as many steps as fit into this time, judged by the first",
    )
    for name, kind in (("batch-size", int), ("lr", float), ("seed", values.seed)):
        train.add_argument(f"--{name}", type=kind, help=f"instead of the recipe's {name}")
    train.add_argument(
        "--set", nargs="+", default=[], metavar="FIELD=VALUE", dest="changes",
        help="other fields of the recipe, for example schedule=linear T=500 net.width=16",
    )  # fmt: skip
    train.add_argument(
        "--save-every", type=values.positive, default=100, metavar="STEPS", help="default 100"
    )
    train.add_argument(
        "--bf16", action=argparse.BooleanOptionalAction, help="default: on a CUDA GPU"
    )
    train.add_argument("--compile", action="store_true", help="torch.compile the network")
    train.add_argument(
        "--channels-last", action="store_true", help="memory layout of weights and images"
    )
    train.add_argument(
        "--accumulate", type=values.positive, default=1, metavar="PIECES",
        help="cut each process's share of a batch into pieces, for less memory (default 1)",
    )  # fmt: skip

    sample = _verb(verbs, "sample", _sample, "draw a grid of samples into a PNG")
    sample.add_argument(
        "model",
        nargs="?",
        help="name of a run in runs/ or of a shipped checkpoint, a run's folder, or a weights' "
        "file (default: newest run)",
    )
    # Two names, as torchrun takes --n for an abbreviation of options of its own.
    sample.add_argument(
        "--n", "--samples", dest="n", type=values.positive, default=100,
        help="samples (default 100)",
    )  # fmt: skip
    sample.add_argument("--label", type=int, help="one class only (default: every class in turn)")
    sample.add_argument("--out", type=Path, default=Path("samples.png"), help="default samples.png")
    sampling.add_options(sample)

    evaluate = _verb(verbs, "evaluate", _evaluate, "measure a checkpoint and note it in its card")
    evaluate.add_argument("model", nargs="?", help="as for sample")
    evaluate.add_argument(
        "--metric", nargs="+", metavar="METRIC",
        help="some of agreement, fid, is, kid, pr (precision and recall), saturation, nll (bound "
        "on the test images in bits per dimension, always over all T steps, unguided, whatever is "
        "said of the samples); default: all but nll",
    )  # fmt: skip
    evaluate.add_argument(
        "--n", "--samples", dest="n", type=values.positive, default=2000,
        help="samples, test images for nll (default 2000)",
    )  # fmt: skip
    evaluate.add_argument(
        "--judge", default="classifier", choices=("classifier", "inception"),
        help="whose features: the shipped classifier of the data set (default), or Inception, for "
        "colour images",
    )  # fmt: skip
    evaluate.add_argument(
        "--draws", type=values.positive, default=200,
        help="of the bootstrap intervals (default 200)",
    )  # fmt: skip
    evaluate.add_argument(
        "--nll-draws", type=values.positive, default=50, metavar="DRAWS",
        help="random steps of the chain per test image (default 50)",
    )  # fmt: skip
    sampling.add_options(evaluate)

    statistics = _verb(
        verbs, "statistics", _statistics, "write what data sets look like to their judges"
    )
    statistics.add_argument("data", nargs="+", help="names of data sets, for example mnist")
    statistics.add_argument(
        "--judge", default="classifier", choices=("classifier", "inception"),
        help="whose features (default: the shipped classifier's)",
    )  # fmt: skip

    ship = _verb(verbs, "ship", _ship, "copy a finished run into data/checkpoints")
    ship.add_argument("folder", type=Path, help="folder of the run")
    ship.add_argument("--name", help="name of the checkpoint (default: the recipe's)")
    ship.add_argument(
        "--dtype", default="float16", choices=("float16", "float32"), help="default float16"
    )

    web = _verb(
        verbs, "export-web", _export_web, "write a denoiser as a script that draws in a web page"
    )
    web.add_argument("model", help="as for sample")
    web.add_argument(
        "--out", type=Path, default=Path("weights.js"), help="script to write (default weights.js)"
    )

    zoo = _verb(verbs, "zoo", _zoo, "list recipes and shipped checkpoints, or show one card")
    zoo.add_argument("name", nargs="?")
    return parser


def _verb(verbs: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=text, description=text)
    parser.add_argument("--device", help="cpu, cuda or mps (default: a GPU if there is one)")
    parser.add_argument("--threads", type=values.threads, help="CPU threads (one is often fastest)")
    parser.set_defaults(run=run)
    return parser


def _sampling_of(args: argparse.Namespace) -> Any:
    classifier = str(_own_run_or(args.classifier)) if args.classifier else ""
    return sampling.sampling_of(args, classifier)


def _train(args: argparse.Namespace) -> None:
    from ddpmlib import zoo
    from ddpmlib.zoo import recipes, runs

    if args.recipe not in recipes.RECIPES:
        near = difflib.get_close_matches(args.recipe, recipes.RECIPES, n=1)
        hint = f"did you mean {near[0]!r}? There are" if near else "choose one of"
        raise ValueError(f"unknown recipe {args.recipe!r}: {hint} {', '.join(recipes.RECIPES)}")
    recipe = recipes.changed(recipes.RECIPES[args.recipe], _pairs(args.changes))
    given = {k: getattr(args, k) for k in ("steps", "batch_size", "lr", "seed")}
    changes = {k: v for k, v in given.items() if v is not None}
    recipe = dataclasses.replace(recipe, settings=dataclasses.replace(recipe.settings, **changes))
    folder = args.out or RUNS / recipe.name
    if args.resume and not (folder / zoo.STATE).exists():
        print(f"no saved state in {folder}: starting from the beginning")
    card = runs.train(
        recipe,
        folder,
        resume=args.resume,
        minutes=args.minutes,
        init=args.init,
        device=args.device,
        bf16=args.bf16,
        compile=args.compile,
        channels_last=args.channels_last,
        accumulate=args.accumulate,
        save_every=args.save_every,
        command=args.command,
    )
    loss = f"loss {card.loss[-1][1]:.4f}, " if card.loss else ""
    print(f"{folder}: {card.parameters:,} weights, {loss}{card.training['seconds']:.0f} s")


def _pairs(words: Sequence[str]) -> dict[str, Any]:
    """FIELD=VALUE as a dictionary; values are JSON where they read as JSON, else plain words."""
    pairs = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name:
            raise ValueError(f"--set takes FIELD=VALUE, for example T=500, got {word!r}")
        try:
            pairs[name] = json.loads(text)
        except json.JSONDecodeError:
            pairs[name] = text
    return pairs


def _sample(args: argparse.Namespace) -> None:
    from ddpmlib import evaluation, plots
    from ddpmlib.training import parallel

    if args.out.suffix.lower() != ".png" or args.out.is_dir():
        raise ValueError(f"--out names the PNG to write, for example samples.png, got {args.out}")
    denoiser, card = _denoiser(args)
    how = _sampling_of(args)
    x0 = evaluation.generate(
        denoiser,
        card.image_shape,
        _labels(args, card),
        how,
        n=args.n,
        card=card,
        compile=args.compile,
    )
    if parallel.is_main():
        plots.save_grid(x0, args.out, ncol=10)
    guided = "".join(f", {name} {value}" for name, value in how.guidance.record().items())
    drawn = f"{how.steps} steps, eta {how.eta:g}{guided}"
    print(f"{args.out}: {args.n} samples of {card.name}, {drawn}")


def _labels(args: argparse.Namespace, card: Any) -> Any:
    """One label per sample, or None if the model knows no classes."""
    import torch

    from ddpmlib import evaluation

    if args.label is None:
        return evaluation.classes_in_turn(card, args.n)
    if args.unconditional and not args.classifier:
        raise ValueError("--unconditional keeps the --label from the model: leave one of them out")
    if not 0 <= args.label < card.num_classes:
        known = f"must lie in 0..{card.num_classes - 1}" if card.num_classes else "needs classes"
        raise ValueError(f"--label {known} for {card.name}, got {args.label}")
    return torch.full((args.n,), args.label)


def _evaluate(args: argparse.Namespace) -> None:
    from ddpmlib import evaluation

    entries = evaluation.evaluate(
        _model(args), _sampling_of(args), metrics=args.metric, n=args.n, judge=args.judge,
        draws=args.draws, nll_draws=args.nll_draws, compile=args.compile, device=args.device,
    )  # fmt: skip
    for entry in entries:
        for key, value in entry.items():
            print(f"{key:24} {value}")


def _statistics(args: argparse.Namespace) -> None:
    from ddpmlib import data, evaluation
    from ddpmlib.evaluation import statistics
    from ddpmlib.training import parallel

    known = [data.load(name) for name in args.data]  # all of them before the first is written
    for name, images in zip(args.data, known, strict=True):
        network, sha256 = evaluation.network_of(args.judge, images, args.device)
        path = statistics.statistics_path(name, network)
        found = statistics.compute_statistics(network, images)
        if parallel.is_main():
            statistics.write_statistics(found, path, sha256)
        print(f"{path}: {len(images.x_train):,} training and {len(images.x_test):,} test images")


def _ship(args: argparse.Namespace) -> None:
    from ddpmlib import zoo

    print(zoo.ship(args.folder, args.name, args.dtype))


def _export_web(args: argparse.Namespace) -> None:
    from ddpmlib.teaching import web_export

    model, card = _denoiser(args)
    size = web_export.write(model, card, args.out)
    print(f"{args.out}: {size / 1e6:.2f} MB")


def _zoo(args: argparse.Namespace) -> None:
    from ddpmlib import zoo
    from ddpmlib.zoo import recipes

    if args.name:
        card = zoo.find(_own_run_or(args.name)).with_suffix(".json")
        zoo.Card.read(card)  # only what is a card is shown
        print(card.read_text("utf-8"), end="")
        return
    print("recipes:     " + ", ".join(recipes.RECIPES))
    print("checkpoints: " + (", ".join(zoo.names()) or "none"))


def _denoiser(args: argparse.Namespace) -> Any:
    from ddpmlib import zoo
    from ddpmlib.denoiser.denoiser import Denoiser

    model, card = zoo.load(_model(args), args.device)
    if not isinstance(model, Denoiser):
        raise ValueError(f"{card.name} is a classifier: it judges samples but draws none")
    return model, card


def _own_run_or(name: str) -> str | Path:
    """A run in ``runs/`` comes before a shipped checkpoint of its name, once it is finished."""
    from ddpmlib import zoo

    own = RUNS / name
    finished = (own / zoo.MODEL).is_file()
    return own if finished or (own.is_dir() and name not in zoo.names()) else name


def _model(args: argparse.Namespace) -> str | Path:
    if args.model:
        return _own_run_or(args.model)
    finished = sorted(RUNS.glob("*/model.safetensors"), key=lambda p: p.stat().st_mtime)
    finished = [p for p in finished if "classifier" not in p.parent.name]
    if not finished:
        raise FileNotFoundError(
            f"no finished run in {RUNS}/: run `ddpmlib train digits` first, or name a checkpoint, "
            "for example `ddpmlib sample mnist`"
        )
    return finished[-1]
