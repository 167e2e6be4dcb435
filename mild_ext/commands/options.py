"""Options that several commands have: of every command that trains, and of the recipe's settings."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from mild_ext.booleans import parse_bool

#: Settings of a recipe that find, which trains one round, has no use for.
AFTER_THE_FIRST_ROUND = (
    *("rounds", "round_epochs", "final_epochs", "final", "min_removed", "reselect", "round_start"),
    *("validation", "ssl", "ssl_epochs", "ssl_start", "ssl_ratio", "ssl_weight", "ssl_ramp"),
    *("ssl_confidence", "ssl_align"),
)
#: Options of find and train that the short help shows.
SHOWN = (
    *("data", "out", "recipe", "model", "width", "scouts"),
    *("first_epochs", "batch_size", "lr"),
    *("noise", "seed", "device", "resume", "overwrite", "quiet"),
)


def add_finding_options(parser: argparse.ArgumentParser) -> Any:
    """Options of find and train."""
    run = add_run_options(parser)
    run.add_argument(
        "--noise", help="noise to add to right labels, e.g. symmetric:0.5 (default: none)"
    )
    run.add_argument("--seed", type=int, help="seed of everything random (default: 0)")
    run.add_argument("--overwrite", action="store_true", help="delete an earlier run in --out")
    run.add_argument("--resume", action="store_true", help="go on with the run in --out")
    run.add_argument("--tensorboard", action="store_true", help="log for TensorBoard, too")
    run.add_argument("--no-report", action="store_true", help="write no report.html")
    run.add_argument(
        "--learning-logs",
        action="store_true",
        help="write logs/round-NN.npz: status, loss and margin of every sample and epoch",
    )
    return run


def add_run_options(parser: argparse.ArgumentParser) -> Any:
    """Options of every command that trains."""
    run = parser.add_argument_group("run")
    run.add_argument("--data", help="the data set, e.g. folder:DIR or csv:FILE,label=COLUMN")
    run.add_argument("--out", required=True, help="folder for the results")
    run.add_argument(
        "--recipe", help="a preset's name, or a .toml, .yaml or .json file of settings"
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


class _Override(argparse.Action):
    """Collects recipe settings given on the command line in ``options.overrides``."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        namespace.overrides = namespace.overrides | {self.dest: values}


def add_recipe_options(parser: argparse.ArgumentParser, leave_out: Sequence[str] = ()) -> None:
    """One option per recipe setting; those given end up in ``options.overrides``."""
    from dataclasses import fields

    from mild_ext.training.recipe import Recipe, setting_types
    from mild_ext.training.sizing import SIZED

    group = parser.add_argument_group(
        "settings, together a recipe (in brackets: of the default one, without --recipe)"
    )
    types = setting_types()
    for item in fields(Recipe):
        if item.name in leave_out:
            continue
        kind, optional = types[item.name]
        parse: Any = _parse_bool if kind is bool else kind
        default = "none" if item.default is None else str(item.default)
        if item.name in SIZED:
            default = "by the size of the data"
        group.add_argument(
            f"--{item.name.replace('_', '-')}",
            dest=item.name,
            action=_Override,
            type=_or_none(parse, kind) if optional else _named(parse, kind),
            choices=item.metadata["choices"] or None,
            default=argparse.SUPPRESS,
            metavar=None if item.metadata["choices"] else kind.__name__.upper(),
            help=f"{item.metadata['help']} [{default}]".replace("%", "%%"),
        )
    parser.set_defaults(overrides={})


def _parse_bool(text: str) -> bool:
    try:
        return parse_bool(text)
    except ValueError as error:  # argparse shows the message of its own error only
        raise argparse.ArgumentTypeError(str(error)) from error


def _named(parse: Any, kind: type) -> Any:
    """``parse`` under the name of its type, which argparse's message calls it by."""
    if kind is bool:
        return parse

    def parse_value(text: str) -> Any:
        return parse(text)

    parse_value.__name__ = {"int": "whole number", "float": "number"}.get(kind.__name__, "text")
    return parse_value


def _or_none(parse: Any, kind: type) -> Any:
    parse = _named(parse, kind)

    def parse_optional(text: str) -> Any:
        return None if text.lower() == "none" else parse(text)

    parse_optional.__name__ = f"{parse.__name__} or none"
    return parse_optional
