"""How ``mild-ext`` reads its command line: one line for what is wrong, short help and the whole help."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

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
