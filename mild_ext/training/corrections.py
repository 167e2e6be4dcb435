"""Decisions on labels: read from a file that a person or another program wrote, or noted by ``mild-ext fix``.

A file of corrections is a table (CSV; commas, semicolons or tabs) with at least ``id`` and ``label`` (class
names), and optionally ``given_label`` and ``decision`` (``right``, ``wrong`` or ``relabel``), as ``report.html`` writes
it. Without a decision, a label that differs from the given one relabels, and an empty one decides nothing.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mild_ext.files import spreadsheet_safe, without_apostrophe
from mild_ext.reading import read_text, reading
from mild_ext.spelling import did_you_mean

DECISIONS = ("right", "wrong", "relabel")
#: Columns of ``changes.csv``. ``place`` and ``new_place``: where a file lies without, and with, the change.
CHANGE_COLUMNS = ("id", "given_label", "label", "change", "place", "new_place")
RELABELED, LEFT_OUT = "relabeled", "left out"


@dataclass(frozen=True)
class Change:
    """What happens to one sample.

    Attributes:
        sample: its position in the data set.
        id: its name in the files people read.
        given_label: class name.
        label: the new class name; None where the sample is left out.
    """

    sample: int
    id: str
    given_label: str
    label: str | None


@dataclass(frozen=True)
class Decided:
    """The decisions of a file: the changes, in the data set's order, and how many labels are confirmed."""

    changes: list[Change]
    confirmed: int


def read_corrections(
    path: Path, ids: Sequence[str], given: Sequence[int], classes: Sequence[str]
) -> Decided:
    """Read a file of corrections.

    Args:
        path: the file.
        ids: names of all samples.
        given: their given labels, class numbers.
        classes: names of the classes.

    Raises:
        ValueError: no such file, a missing column, or a line that does not fit the run; the message says which.
    """
    position = {name: k for k, name in enumerate(ids)}
    if len(position) < len(ids):
        raise ValueError("the samples' ids are not unique, so corrections cannot be assigned")
    decided: dict[int, str | None] = {}
    unknown: list[str] = []
    for line, row in _rows(path):
        name = without_apostrophe(row["id"])
        name = name if name in position else row["id"]  # written by hand
        if name not in position:
            unknown.append(row["id"])
            continue
        sample = position[name]
        own = classes[given[sample]]
        label = _decide(row, own, classes, f"{path}, line {line}")
        if label is _OPEN:
            continue
        if decided.setdefault(sample, label) != label:
            raise ValueError(f"{path}, line {line}: {name} is decided twice, and differently")
    if unknown:
        listed = ", ".join(unknown[:3])
        raise ValueError(
            f"{path}: {len(unknown)} ids are not in the run (the first: {listed}; ids there look like {ids[0]})"
        )
    changes = [
        Change(sample, ids[sample], classes[given[sample]], label)
        for sample, label in sorted(decided.items())
        if label != classes[given[sample]]
    ]
    return Decided(changes, len(decided) - len(changes))


#: Of a line that decides nothing.
_OPEN = "\0"


def _decide(row: Mapping[str, str], given: str, classes: Sequence[str], where: str) -> str | None:
    """The label that a line gives; None for a sample without one, `_OPEN` for no decision."""
    noted = without_apostrophe(row.get("given_label") or "")
    if noted and noted != given:
        raise ValueError(
            f"{where}: given_label is {noted!r}, but {given!r} in the run; these corrections are of other labels"
        )
    decision, label = (row.get("decision") or "").lower(), row["label"]
    plain = without_apostrophe(label)
    label = plain if plain in classes else label
    if decision not in (*DECISIONS, ""):
        raise ValueError(
            f"{where}: decision must be one of {', '.join(DECISIONS)}, got {decision!r}"
            f"{did_you_mean(decision, DECISIONS)}"
        )
    if label and label not in classes:
        listed = ", ".join(classes[:20]) + (", ..." if len(classes) > 20 else "")
        raise ValueError(
            f"{where}: there is no class {label!r}{did_you_mean(label, classes)} (classes: {listed})"
        )
    if decision == "right":
        if label and label != given:
            raise ValueError(
                f"{where}: decision is right, but label {label!r} is not the given {given!r}"
            )
        return given
    if decision == "relabel" and not label:
        raise ValueError(f"{where}: decision is relabel, but label is empty")
    if decision == "wrong" and label in ("", given):
        return None  # wrong, and nobody says what would be right
    return label or _OPEN


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """The lines of a table with their numbers, cells stripped."""
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    text = read_text(path)
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    columns = [name.strip() for name in reader.fieldnames or []]
    for needed in ("id", "label"):
        if needed not in columns:
            raise ValueError(
                f"{path} has no column {needed}; it has {', '.join(columns) or 'none'}. Needed are id and label "
                "(class names); decision (right, wrong, relabel) and given_label may be there"
            )
    reader.fieldnames = columns
    return [
        (reader.line_num, {key: (value or "").strip() for key, value in row.items() if key})
        for row in reader
    ]


# ---------------------------------------------------------------------------------- the log of changes


@dataclass(frozen=True)
class LoggedChange:
    """A line of ``changes.csv``; places are relative to the corrected folder, empty elsewhere."""

    id: str
    given_label: str
    label: str
    change: str
    place: str = ""
    new_place: str = ""


def changes_text(log: Sequence[LoggedChange]) -> str:
    """The content of ``changes.csv``."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CHANGE_COLUMNS)
    for entry in log:
        writer.writerow([spreadsheet_safe(getattr(entry, name)) for name in CHANGE_COLUMNS])
    return text.getvalue()


def read_changes(path: Path) -> list[LoggedChange]:
    """Read it back.

    Raises:
        ValueError: there is no such file, or it is no log of changes.
    """
    if not path.is_file():
        raise ValueError(
            f"there is no {path}: mild-ext fix has not written there, or it was undone"
        )
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
    with reading(path):
        if tuple(reader.fieldnames or ()) != CHANGE_COLUMNS:
            raise ValueError("it is no log of changes of mild-ext fix")
        return [
            LoggedChange(**{name: without_apostrophe(row[name] or "") for name in CHANGE_COLUMNS})
            for row in reader
        ]
