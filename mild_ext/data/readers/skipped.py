"""What a reader passes over: counted, named and explained, so that nothing is left out without a word."""

from __future__ import annotations

from mild_ext.data.labels import Missing
from mild_ext.files import as_text

#: So many names are shown of each kind.
SHOWN = 3


class PassedOver:
    """Files and folders that were not read, by the reason why.

    Examples:
        >>> passed = PassedOver()
        >>> passed.add("are no images by their names", "notes.txt")
        >>> passed.messages("photos")
        ['passed over 1 files in photos that are no images by their names (notes.txt)']
    """

    def __init__(self) -> None:
        self._names: dict[tuple[str, str], list[str]] = {}

    def add(self, reason: str, name: str, *, kind: str = "files") -> None:
        """Note a file; ``reason`` goes on after "files in DIR that"."""
        self._names.setdefault((kind, reason), []).append(name)

    def messages(self, where: str) -> list[str]:
        """One line for each reason."""
        lines = []
        for (kind, reason), names in self._names.items():
            shown = ", ".join(map(as_text, sorted(names)[:SHOWN])) + (
                ", ..." if len(names) > SHOWN else ""
            )
            lines.append(f"passed over {len(names)} {kind} in {where} that {reason} ({shown})")
        return lines


def parse_missing(text: str) -> Missing:
    """The option ``missing`` of readers: "refuse" or "drop"."""
    if text == "drop":
        return "drop"
    if text == "refuse":
        return "refuse"
    raise ValueError(f"option missing must be refuse or drop, got {text!r}")


def left_out_unlabeled(count: int, total: int) -> str:
    """The message about samples without a label."""
    return f"left out {count} of {total} training samples without a label"
