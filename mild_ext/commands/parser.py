"""How ``mild-ext`` reads its command line: one line for what is wrong, short help and the whole help."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from mild_ext.booleans import parse_bool
from mild_ext.spelling import did_you_mean

#: Attribute of an action: its help, where the short one leaves it out.
_HIDDEN = "hidden_help"


class Parser(argparse.ArgumentParser):
    """An `argparse.ArgumentParser` that takes no abbreviations and says in one line what is wrong."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        options.setdefault("allow_abbrev", False)
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*arguments, **options)

    def error(self, message: str) -> NoReturn:
        """One line, exit status 2."""
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        # argparse's own message lists the choices alone, and of sub-commands with all their quotes.
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            raise argparse.ArgumentError(
                action,
                f"there is no {value!r}{did_you_mean(str(value), known)} Known: {', '.join(known)}"
                if did_you_mean(str(value), known)
                else f"there is no {value!r}; known: {', '.join(known)}",
            )

    def option_names(self) -> list[str]:
        """Every option there is."""
        return [name for action in self._actions for name in action.option_strings]

    def hide(self, shown: Sequence[str]) -> None:
        """Leave all options but these out of ``--help``; ``--help-all`` shows every one."""
        for action in self._actions:
            if action.dest not in (*shown, "help", "help_all"):
                setattr(action, _HIDDEN, action.help)
                action.help = argparse.SUPPRESS
        self.add_argument(
            "--help-all",
            action=_HelpAll,
            nargs=0,
            default=argparse.SUPPRESS,
            help="show every setting with its default, and the kinds of noise",
        )

    def print_all(self, more: str) -> None:
        """The whole help."""
        for action in self._actions:
            action.help = getattr(action, _HIDDEN, action.help)
        self.epilog = more
        self.print_help()


class _HelpAll(argparse.Action):
    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        parser.print_all(data_help() + "\n\n" + noise_help())
        parser.exit()


def data_help() -> str:
    """What ``--data`` takes."""
    from mild_ext.data.readers.sources import SOURCES

    width = max(len(source.form) for source in SOURCES.values())
    lines = [f"  {source.form:{width}}  {source.help}" for source in SOURCES.values()]
    lines.append(f"  {'module:factory':{width}}  your own data set in Python")
    return "data (options follow after commas, e.g. folder:photos,size=96):\n" + "\n".join(lines)


def noise_help() -> str:
    """What ``--noise`` takes."""
    from mild_ext.data.noise import KINDS

    return (
        "noise to add to right labels, to try things out: KIND:RATE, e.g. symmetric:0.5; KIND is one of\n  "
        + ", ".join(KINDS)
        + "\n  (matrix and labels name a FILE in place of the rate, cifar-n a set and a FILE; see docs/data.md)"
    )


class _Override(argparse.Action):
    """Collects recipe settings given on the command line in ``options.overrides``."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        namespace.overrides = namespace.overrides | {self.dest: values}


def add_recipe_options(parser: argparse.ArgumentParser, leave_out: Sequence[str] = ()) -> None:
    """One option per recipe setting; those given end up in ``options.overrides``."""
    from dataclasses import fields

    from mild_ext.training.recipe import Recipe, setting_types

    group = parser.add_argument_group(
        "recipe settings (in brackets: where no recipe says otherwise)"
    )
    types = setting_types()
    for item in fields(Recipe):
        if item.name in leave_out:
            continue
        kind, optional = types[item.name]
        parse: Any = _parse_bool if kind is bool else kind
        default = "none" if item.default is None else str(item.default)
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
