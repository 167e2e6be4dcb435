"""The command ``mild-ext``: parsing only; a subcommand's own module is imported when it runs."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Sequence
from typing import Any, cast

from mild_ext.commands.options import (
    AFTER_THE_FIRST_ROUND,
    SHOWN,
    add_finding_options,
    add_recipe_options,
    add_run_options,
)
from mild_ext.commands.parser import Parser
from mild_ext.files import PlainStream

#: Selection rules; as in `mild_ext.selection.decide`, whose import takes longer than a help text may.
SELECTION_RULES = ("posterior", "release", "scale", "quantile")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status is 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):
        # File names need not be text, and a terminal need not know every character.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    with contextlib.ExitStack() as stack:
        # Names of files and classes are others' words: a terminal is shown them, and does not do what they say.
        stack.enter_context(contextlib.redirect_stdout(cast("Any", PlainStream(sys.stdout))))
        errors = PlainStream(sys.stderr, returns=True)
        stack.enter_context(contextlib.redirect_stderr(cast("Any", errors)))
        return _run(arguments)


def _run(arguments: Sequence[str] | None) -> int:
    options = argparse.Namespace(traceback="--traceback" in sys.argv)
    try:
        options = _parse(sys.argv[1:] if arguments is None else arguments)
        status: int = options.run(options)
        return status
    except KeyboardInterrupt:
        print(f"interrupted{_what_is_left(options)}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read our output has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, TypeError, ImportError, RuntimeError, OSError) as error:
        if options.traceback:
            raise
        print(f"mild-ext: error: {_in_one_line(error)}", file=sys.stderr)
        return 1
    except Exception as error:
        if options.traceback:
            raise
        print(
            f"mild-ext: unexpected error: {type(error).__name__}: {_in_one_line(error)}; please report it with what "
            "mild-ext --traceback ... shows",
            file=sys.stderr,
        )
        return 1


def _what_is_left(options: argparse.Namespace) -> str:
    """Of an interrupted run: how to go on with it, or that there is nothing to go on with."""
    if "methods" in options:  # a comparison, which goes on by itself
        return "; give the same command again to go on with it"
    if "resume" not in options:
        return ""
    if "go_on" not in options:
        return "; nothing was learned yet: give the same command again"
    return f"; go on with it: {options.go_on}"


def _in_one_line(error: Exception) -> str:
    return " ".join(filter(None, map(str.strip, str(error).splitlines())))


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    from mild_ext.spelling import did_you_mean

    parser, subparsers = build_parser()
    options, unknown = parser.parse_known_args(arguments)
    if options.command is None:
        parser.print_help()
        parser.exit(0 if not unknown else 2)
    if unknown:
        known = subparsers[options.command].option_names()
        name = unknown[0].partition("=")[0]
        guess = did_you_mean(name, known) if name.startswith("-") else ""
        subparsers[options.command].error(f"there is no argument {unknown[0]}{guess}")
    return options


def build_parser() -> tuple[Parser, dict[str, Parser]]:
    """The parser of all subcommands, and that of each by its name."""
    from mild_ext import __version__

    parser = Parser(
        prog="mild-ext",
        description="Find wrong labels by watching how each sample is learned.",
        epilog="first steps:\n"
        "  mild-ext find --data folder:photos --out runs/photos     which labels are wrong?\n"
        "  mild-ext fix runs/photos --auto --out photos-fixed       correct them, in a copy",
    )
    parser.add_argument("--version", action="version", version=f"mild_ext {__version__}")
    parser.add_argument(
        "--traceback", action="store_true", help="show where an error came from in the code"
    )
    commands = parser.add_subparsers(metavar="COMMAND", dest="command", title="commands")
    for add in (
        *(_add_find, _add_fix, _add_train, _add_report, _add_select),
        *(_add_compare, _add_info, _add_selfcheck, _add_bench),
    ):
        add(commands)
    return parser, commands.choices


def _add_find(commands: Any) -> None:
    parser = commands.add_parser(
        "find",
        help="list the labels that are probably wrong, and what they should be",
        usage="mild-ext find --data DATA --out RUN [options]",
        description="List the labels of a data set that are probably wrong, and what they should be.",
        epilog="data: folder:DIR  csv:FILE,label=COLUMN  parquet:FILE,label=COLUMN  npz:FILE  hf:NAME  digits\n"
        "      module:factory  and others (--help-all); options follow after commas: folder:photos,size=96\n"
        "example: mild-ext find --data folder:photos --out runs/photos",
    )
    add_finding_options(parser)
    add_recipe_options(parser, leave_out=AFTER_THE_FIRST_ROUND)
    parser.hide(SHOWN)
    parser.set_defaults(run=_run_find)


def _run_find(options: argparse.Namespace) -> int:
    from mild_ext.commands.find import main

    return main(options)


def _add_fix(commands: Any) -> None:
    parser = commands.add_parser(
        "fix",
        help="correct labels that find found: to a copy, by your decisions or by itself",
        usage="mild-ext fix RUN (--corrections FILE | --auto | --undo) --out OUT [options]",
        description="Write the data set of a run with corrected labels; the original is never touched.",
        epilog="OUT is a new folder (of a folder: data set; files are copied or linked),\n"
        "FILE.csv or FILE.parquet (of a csv: or parquet: data set the corrected table, of others\n"
        "id and label), or FILE.npy (labels as class numbers). Every change is noted in\n"
        "OUT/changes.csv, or beside the file in FILE.changes.csv.\n"
        "examples:\n"
        "  mild-ext fix runs/photos --corrections corrections.csv --out photos-fixed\n"
        "  mild-ext fix runs/photos --auto --out photos-fixed",
    )
    parser.add_argument("run_folder", metavar="RUN", help="folder that find or train wrote")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--corrections",
        metavar="FILE",
        help="decisions, with a column id and a column label (class names); from report.html, or your own",
    )
    what.add_argument(
        "--auto",
        action="store_true",
        help="follow the suggestions of which enough are right, as counted on planted labels",
    )
    what.add_argument(
        "--undo", action="store_true", help="take the changes noted for OUT back, in OUT"
    )
    parser.add_argument("--out", required=True, help="folder or file to write")
    parser.add_argument(
        "--precision",
        type=float,
        default=0.8,
        help="with --auto: share of the changes that shall be right (default: 0.8)",
    )
    parser.add_argument(
        "--files",
        choices=("copy", "hardlink", "symlink"),
        default="copy",
        help="of a folder: copy its files, or link to them (default: copy)",
    )
    parser.add_argument(
        "--wrong",
        choices=("leave-out", "keep"),
        help="samples marked wrong without a label: leave them out (default; not of .npy), or keep their label",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace what fix wrote to OUT before"
    )
    parser.add_argument("--quiet", action="store_true", help="print errors and one line only")
    parser.set_defaults(run=_run_fix)


def _run_fix(options: argparse.Namespace) -> int:
    from mild_ext.commands.fix import main

    return main(options)


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
        epilog="example: mild-ext select runs/digits --out issues.csv",
    )
    parser.add_argument(
        "status",
        metavar="RUN|FILE",
        help="folder of a run (its first round), saved status (.safetensors), or learning log (.npz) of train "
        "--learning-logs",
    )
    parser.add_argument("--out", help="also write a table of the samples: FILE.csv or FILE.parquet")
    parser.add_argument(
        "--rule",
        default="posterior",
        choices=SELECTION_RULES,
        help="selection rule (default: posterior)",
    )
    parser.add_argument(
        "--level",
        type=float,
        default=0.5,
        help="a probability, or the share to keep (default: 0.5)",
    )
    parser.add_argument("--epochs", metavar="A:B", help="window of epochs (default: all)")
    parser.add_argument(
        "--labels",
        metavar="FILE",
        help="given labels, .npy of integers, or .csv with a column given_label or label: figures per class, no "
        "class is emptied (default: a run's or log's own)",
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
        help="find, and then train a model without the wrong labels",
        usage="mild-ext train --data DATA --out RUN [options]",
        description="Do what find does while training a model, which goes on with what the labels probably should be.",
        epilog="data: folder:DIR  csv:FILE,label=COLUMN  npz:FILE  digits  and others (--help-all)\n"
        "examples:\n"
        "  mild-ext train --data folder:photos --test-fraction 0.2 --out runs/photos\n"
        "  mild-ext train --data digits --noise symmetric:0.5 --out runs/digits",
    )
    run = add_finding_options(parser)
    run.add_argument("--no-compare", action="store_true", help="train MILD only")
    run.add_argument(
        "--report", action="store_true", help="fail at once where report.html cannot be made"
    )
    add_recipe_options(parser)
    parser.hide((*SHOWN, "rounds", "final_epochs", "test_fraction", "no_compare"))
    parser.set_defaults(run=_run_train)


def _run_train(options: argparse.Namespace) -> int:
    from mild_ext.commands.train import main

    return main(options)


def _add_compare(commands: Any) -> None:
    parser = commands.add_parser(
        "compare",
        help="MILD against other methods: mean and spread over seeds",
        description="Train MILD and other methods on the same data, noise and seeds, for as many steps.\n"
        "Run it again to go on with an interrupted comparison or to add noises, seeds and methods.",
        epilog="example: mild-ext compare --data digits --noise symmetric:0.2 symmetric:0.5 "
        "--seeds 0,1,2 --out runs/compare",
    )
    run = add_run_options(parser)
    run.add_argument("--noise", nargs="+", help="one or more noises (default: none)")
    run.add_argument(
        "--overwrite", action="store_true", help="delete an earlier comparison in --out"
    )
    run.add_argument("--seeds", default="0,1,2", help="seeds (default: 0,1,2)")
    run.add_argument(
        "--methods",
        help="which, separated by commas (default: plain,small-loss,elr,mild,mild-rounds,mild-ssl,clean, the last "
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
    parser.add_argument("run_folder", metavar="RUN", help="folder that find or train wrote")
    parser.add_argument("--out", help="file to write (default: in RUN)")
    parser.add_argument(
        "--suspicious", type=int, help="samples to list, most suspicious first (default: 2000)"
    )
    parser.add_argument(
        "--export",
        choices=("label-studio",),
        help="write tasks for another tool instead: label_studio.json, and its labeling interface",
    )
    parser.add_argument("--no-thumbnails", action="store_true", help="do not read the data again")
    parser.add_argument(
        "--data", help="the run's data, where it has moved, or is module:factory or hf:NAME"
    )
    parser.set_defaults(run=_run_report)


def _run_report(options: argparse.Namespace) -> int:
    from mild_ext.commands.report import main

    return main(options)
