"""``suspects.csv``: all samples of a run, most suspicious first, with class and file names.

    id                     the sample's name (a file, a row of a table), or its number in the data set
    given_label            name of its class
    suggested_label        name of the class the network saw instead; empty where it saw none
    suggestion_confidence  in [0, 1], that the suggestion is right, if the given label is wrong; or empty
    suspicion              higher = more likely wrong; comparable within one run
    dropped                1: the label is taken to be wrong
    line                   of a CSV file without a column of ids: where the sample begins in it

Text that a spreadsheet would take for a formula has an apostrophe before it, which `read_suspects` takes away.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mild_ext.data.readers.table_file import read_table_file
from mild_ext.data.sets import LabeledData
from mild_ext.files import FORMULA_SIGNS, as_text, spreadsheet_safe
from mild_ext.reading import read_text, reading
from mild_ext.training.run_result import RoundsResult

SUSPECTS = "suspects.csv"
COLUMNS = (
    *("id", "given_label", "suggested_label"),
    *("suggestion_confidence", "suspicion", "dropped"),
)


@dataclass(frozen=True)
class Suspect:
    """A line of ``suspects.csv``; ``suggested_label`` is None where nothing is suggested.

    ``line``: of a table without a column of ids, where the sample begins in its CSV file, the header being line 1.
    """

    id: str
    given_label: str
    suggested_label: str | None
    suggestion_confidence: float | None
    suspicion: float
    dropped: bool
    line: int | None = None


def lines_in_file(data: LabeledData) -> list[int] | None:
    """The line of each sample in the CSV file it is of; None where samples have names of their own, or no such file."""
    table = data.table
    if table is None or table["id"] is not None or data.sample_names is None:
        return None
    lines = read_table_file(Path(str(table["path"]))).lines
    return [lines[int(name)] for name in data.sample_names] if lines else None


def sample_ids(data: LabeledData) -> list[str]:
    """What each sample is called in the files people read: its name, or else its number."""
    if data.sample_names is None:
        return [str(k) for k in range(len(data))]
    return [as_text(str(name)) for name in data.sample_names]


def rank_suspects(
    result: RoundsResult,
    ids: Sequence[str],
    class_names: Sequence[str],
    train_ids: Tensor | None = None,
    lines: Sequence[int] | None = None,
) -> list[Suspect]:
    """The samples that took part, the dropped ones before the kept, each most suspicious first.

    Args:
        result: of the rounds.
        ids: names of all samples.
        class_names: names of all classes.
        train_ids: int64 positions of the samples that took part; None for all.
        lines: of `lines_in_file`.
    """
    everyone = torch.arange(len(ids)) if train_ids is None else train_ids
    order = sorted(
        everyone.tolist(), key=lambda i: (bool(result.kept[i]), -float(result.suspicion[i]), i)
    )
    given, suggested = result.labels.tolist(), result.suggested_label.tolist()
    confidence, suspicion = result.suggestion_confidence.tolist(), result.suspicion.tolist()
    kept = result.kept.tolist()
    return [
        Suspect(
            id=ids[i],
            given_label=class_names[given[i]],
            suggested_label=class_names[suggested[i]] if suggested[i] >= 0 else None,
            suggestion_confidence=confidence[i] if suggested[i] >= 0 else None,
            suspicion=suspicion[i],
            dropped=not kept[i],
            line=None if lines is None else lines[i],
        )
        for i in order
    ]


def suspects_text(suspects: Sequence[Suspect]) -> str:
    """The content of the file."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    with_lines = any(s.line is not None for s in suspects)
    writer.writerow([*COLUMNS, *(["line"] if with_lines else [])])
    for s in suspects:
        writer.writerow(
            [
                spreadsheet_safe(s.id),
                spreadsheet_safe(s.given_label),
                spreadsheet_safe(s.suggested_label or ""),
                "" if s.suggestion_confidence is None else f"{s.suggestion_confidence:.6g}",
                f"{s.suspicion:.6g}",
                int(s.dropped),
                *([s.line] if with_lines else []),
            ]
        )
    return text.getvalue()


def read_suspects(path: Path) -> list[Suspect]:
    """Read the file back.

    Raises:
        ValueError: there is no such file, or it lacks a column.
    """
    if not path.is_file():
        raise ValueError(f"there is no {path}; mild-ext find and train write one")
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
    with reading(path):
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"it has no column {', '.join(missing)}")
        return [
            Suspect(
                id=without_apostrophe(row["id"]),
                given_label=without_apostrophe(row["given_label"]),
                suggested_label=without_apostrophe(row["suggested_label"]) or None,
                suggestion_confidence=float(row["suggestion_confidence"] or "nan")
                if row["suggested_label"]
                else None,
                suspicion=float(row["suspicion"]),
                dropped=row["dropped"] == "1",
                line=int(row["line"]) if row.get("line") else None,
            )
            for row in reader
        ]


def without_apostrophe(text: str) -> str:
    """A cell as it was before `mild_ext.files.spreadsheet_safe`.

    >>> without_apostrophe("'=1+1"), without_apostrophe("'tis")
    ('=1+1', "'tis")
    """
    if text.startswith("'") and text[1:].lstrip(" ").startswith(FORMULA_SIGNS):
        return text[1:]
    return text
