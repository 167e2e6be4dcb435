"""The command ``mild-ext``: parsing only; a subcommand's own module is imported when it runs."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from typing import Any

from mild_ext.booleans import parse_bool


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status is 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    options = build_parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        # File names need not be text, and a terminal need not know every character.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        status: int = options.run(options)
        return status
    except KeyboardInterrupt:
        hint = "; --resume goes on with it" if "resume" in options else ""
        print(f"interrupted{hint}", file=sys.stderr)
        return 130
    except (ValueError, TypeError, ImportError, RuntimeError, OSError) as error:
        if options.traceback:
            raise
        print(f"mild-ext: error: {error}", file=sys.stderr)
        return 1
    except Exception as error:
        if options.traceback:
            raise
        print(
            f"mild-ext: unexpected error: {type(error).__name__}: {error}; please report it with what "
            "mild-ext --traceback ... shows",
            file=sys.stderr,
        )
        return 1


def build_parser() -> argparse.ArgumentParser:
    """The parser of all subcommands."""
    from mild_ext import __version__

    parser = argparse.ArgumentParser(
        prog="mild-ext",
        description="Find wrong labels by watching how each sample is learned.",
    )
    parser.add_argument("--version", action="version", version=f"mild_ext {__version__}")
    parser.add_argument(
        "--traceback", action="store_true", help="show where an error came from in the code"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_info(commands)
    _add_train(commands)
    _add_compare(commands)
    _add_selfcheck(commands)
    _add_bench(commands)
    _add_select(commands)
    _add_report(commands)
    return parser


def _add_info(commands: Any) -> None:
    parser = commands.add_parser("info", help="what was built in, and which devices can be used")
    parser.set_defaults(run=_run_info)


def _run_info(options: argparse.Namespace) -> int:
    from mild_ext.commands.info import main

    return main(options)


def _add_select(commands: Any) -> None:
    parser = commands.add_parser(
        "select",
        help="find wrong labels in a saved learning status or log, without training",
        description="Find wrong labels in a learning status that LearningStatus.save wrote, or in a learning log, "
        "without training.",
        epilog="example: mild-ext select runs/digits/status/round-00.safetensors --out issues.csv",
    )
    parser.add_argument(
        "status",
        metavar="FILE",
        help="saved status (.safetensors), or learning log (.npz) of train --learning-logs",
    )
    parser.add_argument("--out", help="also write a table of the samples: FILE.csv or FILE.parquet")
    parser.add_argument("--rule", default="posterior", help="selection rule (default: posterior)")
    parser.add_argument(
        "--level",
        type=float,
        default=0.5,
        help="a probability, or the share to keep (default: 0.5)",
    )
    parser.add_argument("--epochs", metavar="A:B", help="window of epochs (default: all)")
    parser.add_argument(
        "--labels",
        metavar="FILE.npy",
        help="given labels: figures per class, no class is emptied (default: a log's own)",
    )
    parser.add_argument(
        "--missing",
        choices=("refuse", "drop"),
        default="refuse",
        help="samples without a label (-1, NaN, empty text) in --labels: refuse them, or leave them out "
        "(default: refuse)",
    )
    parser.add_argument(
        "--planted",
        metavar="FILE.safetensors",
        help="the labels planted in the status' round, from a run's planted/: the noise is measured by them",
    )
    parser.add_argument("--predicted", metavar="FILE.npy", help="a model's labels, for the table")
    parser.set_defaults(run=_run_select)


def _run_select(options: argparse.Namespace) -> int:
    from mild_ext.commands.select import main

    return main(options)


def _add_train(commands: Any) -> None:
    parser = commands.add_parser(
        "train",
        help="find the wrong labels of a data set and train a model without them",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Find the wrong labels of a data set and train a model without them.",
        epilog="examples:\n"
        "  mild-ext train --data folder:photos --out runs/photos\n"
        "  mild-ext train --data digits --noise symmetric:0.5 --out runs/digits\n\n" + _data_help(),
    )
    run = _add_run_options(parser)
    run.add_argument("--noise", help="label noise to add, e.g. symmetric:0.5 (default: none)")
    run.add_argument("--seed", type=int, help="seed of everything random (default: 0)")
    run.add_argument("--overwrite", action="store_true", help="delete an earlier run in --out")
    run.add_argument("--resume", action="store_true", help="go on with the run in --out")
    run.add_argument("--tensorboard", action="store_true", help="log for TensorBoard, too")
    run.add_argument("--no-compare", action="store_true", help="train MILD only")
    run.add_argument("--report", action="store_true", help="write report.html at the end")
    run.add_argument(
        "--learning-logs",
        action="store_true",
        help="write logs/round-NN.npz: status, loss and margin of every sample and epoch",
    )
    add_recipe_options(parser)
    parser.set_defaults(run=_run_train)


def _data_help() -> str:
    """What ``--data`` takes."""
    from mild_ext.data.readers.sources import SOURCES

    lines = [f"  {source.form:16} {source.help}" for source in SOURCES.values()]
    lines.append("  module:factory   your own data set in Python")
    return "data (options follow after commas, e.g. folder:photos,size=96):\n" + "\n".join(lines)


def _add_run_options(parser: argparse.ArgumentParser) -> Any:
    """Options of every command that trains."""
    run = parser.add_argument_group("run")
    run.add_argument(
        "--data", help="what to train on, e.g. digits, npz:FILE, folder:DIR, cifar10:ARCHIVE"
    )
    run.add_argument("--out", required=True, help="folder for the results")
    run.add_argument(
        "--recipe", help="name of a preset, or a .toml, .yaml or .json file of settings"
    )
    run.add_argument(
        "--test-fraction",
        type=float,
        default=0.0,
        help="share of each class to set aside for testing, where the data has no test split",
    )
    run.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: auto)")
    run.add_argument(
        "--threads", type=int, default=0, help="CPU threads (default: 0, as many as are worth it)"
    )
    run.add_argument("--quiet", action="store_true", help="print errors and the result only")
    run.add_argument(
        "--checkpoint-seconds",
        type=float,
        default=30.0,
        help="least time between checkpoints inside a round; 0: every epoch (default: 30)",
    )
    return run


def _run_train(options: argparse.Namespace) -> int:
    from mild_ext.commands.train import main

    return main(options)


def _add_compare(commands: Any) -> None:
    parser = commands.add_parser(
        "compare",
        help="MILD against other methods: mean and spread over seeds",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Train MILD and other methods on the same data, noise, seeds and epochs.\n"
        "Run it again to go on with an interrupted comparison or to add noises and seeds.",
        epilog="example: mild-ext compare --data digits --noise symmetric:0.2 symmetric:0.5 "
        "--seeds 0,1,2 --out runs/compare",
    )
    run = _add_run_options(parser)
    run.add_argument("--noise", nargs="+", help="one or more noises (default: none)")
    run.add_argument(
        "--overwrite", action="store_true", help="delete an earlier comparison in --out"
    )
    run.add_argument("--seeds", default="0,1,2", help="seeds (default: 0,1,2)")
    run.add_argument(
        "--methods",
        help="which, separated by commas (default: plain,small-loss,elr,mild,mild-ssl,clean, the last "
        "where the true labels are known)",
    )
    add_recipe_options(parser)
    parser.set_defaults(run=_run_compare)


def _run_compare(options: argparse.Namespace) -> int:
    from mild_ext.commands.compare import main

    return main(options)


def _add_selfcheck(commands: Any) -> None:
    parser = commands.add_parser(
        "selfcheck", help="compare the native core with its reference on a device of this machine"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (default: cpu)")
    parser.set_defaults(run=_run_selfcheck)


def _run_selfcheck(options: argparse.Namespace) -> int:
    from mild_ext.commands.selfcheck import main

    return main(options)


def _add_bench(commands: Any) -> None:
    parser = commands.add_parser(
        "bench", help="the tracker against what people use instead; the share it adds to a step"
    )
    parser.add_argument(
        "what",
        nargs="?",
        choices=("core", "overhead"),
        default="core",
        help="core: update and the passes over the buffer (default); overhead: share of a training step",
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (default: cpu)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="time for each alternative (default: 1)"
    )
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: CPU time of one thread, for a machine that others use too (default: wall)",
    )
    core = parser.add_argument_group("core")
    core.add_argument("--out", help="folder for bench.json and bench.png")
    core.add_argument(
        "--samples", type=int, default=10_000_000, help="of the passes (default: 10 million)"
    )
    core.add_argument(
        "--large", action="store_true", help="also 100 million samples (needs 4 GB of memory)"
    )
    overhead = parser.add_argument_group("overhead")
    overhead.add_argument(
        "--model", help="module:factory; the factory returns (model, one batch of inputs)"
    )
    parser.set_defaults(run=_run_bench)


def _run_bench(options: argparse.Namespace) -> int:
    if options.what == "overhead":
        from mild_ext.commands.bench.overhead import main
    else:
        from mild_ext.commands.bench.recorder import main
    return main(options)


def _add_report(commands: Any) -> None:
    parser = commands.add_parser(
        "report",
        help="one HTML page about a run: the suspicious samples to review, and how they were found",
        description="Write one HTML page about a run: review its suspicious labels and download corrections.csv.",
    )
    parser.add_argument("run_folder", metavar="RUN", help="folder that train wrote")
    parser.add_argument("--out", help="file to write (default: RUN/report.html)")
    parser.add_argument(
        "--suspicious", type=int, help="samples to list, most suspicious first (default: 2000)"
    )
    parser.add_argument("--no-thumbnails", action="store_true", help="do not read the data again")
    parser.add_argument(
        "--data", help="the run's data, where it has moved, or is module:factory or hf:NAME"
    )
    parser.set_defaults(run=_run_report)


def _run_report(options: argparse.Namespace) -> int:
    from mild_ext.commands.report import main

    return main(options)


class _Override(argparse.Action):
    """Collects recipe settings given on the command line in ``options.overrides``."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        namespace.overrides = namespace.overrides | {self.dest: values}


def add_recipe_options(parser: argparse.ArgumentParser) -> None:
    """One option per recipe setting; those given end up in ``options.overrides``."""
    from dataclasses import fields

    from mild_ext.training.recipe import Recipe, setting_types

    group = parser.add_argument_group("recipe settings (default: the recipe's)")
    types = setting_types()
    for item in fields(Recipe):
        kind, optional = types[item.name]
        parse: Any = _parse_bool if kind is bool else kind
        group.add_argument(
            f"--{item.name.replace('_', '-')}",
            dest=item.name,
            action=_Override,
            type=_or_none(parse) if optional else parse,
            choices=item.metadata["choices"] or None,
            default=argparse.SUPPRESS,
            metavar=None if item.metadata["choices"] else kind.__name__.upper(),
            help=item.metadata["help"].replace("%", "%%"),
        )
    parser.set_defaults(overrides={})


def _parse_bool(text: str) -> bool:
    try:
        return parse_bool(text)
    except ValueError as error:  # argparse shows the message of its own error only
        raise argparse.ArgumentTypeError(str(error)) from error


def _or_none(parse: Any) -> Any:
    def parse_optional(text: str) -> Any:
        return None if text.lower() == "none" else parse(text)

    return parse_optional
