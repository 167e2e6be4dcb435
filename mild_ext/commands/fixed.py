"""A run's data with corrected labels, by the kind of file: written beside the original, and changes taken back.

What is written follows from the name: a folder, a table, arrays, or a list of labels. Each kind has its writer and its
way back; the log of changes, which the way back needs, is written by `mild_ext.commands.fix`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mild_ext.data import corrected
from mild_ext.data.corrected_arrays import (
    LabeledRows,
    undo_corrected_arrays,
    write_corrected_arrays,
)
from mild_ext.data.readers.sources import load_npz
from mild_ext.data.readers.table import label_texts
from mild_ext.data.readers.table_file import (
    TableFile,
    cell_text,
    read_table_file,
    write_table_file,
)
from mild_ext.files import without_apostrophe
from mild_ext.training.corrections import LEFT_OUT, RELABELED, Change, LoggedChange
from mild_ext.training.run_folder import RunFolder

#: The log of changes in a corrected folder; of a file, what its name ends in instead of its suffix.
LOG = "changes.csv"
TABLES = (".csv", ".tsv", ".parquet")
ARRAYS = (".npy", ".npz")


@dataclass(frozen=True)
class Samples:
    """What a run was given."""

    folder: RunFolder
    ids: list[str]
    given: list[int]
    classes: list[str]
    root: Path | None
    table: dict[str, Any] | None
    arrays: Path | None
    noise: str | None

    @classmethod
    def of(cls, run: str) -> Samples:
        folder = RunFolder(run)
        config = folder.read_config()
        data, noise = config["data"], config.get("noise")
        ids, given, classes = folder.read_samples()
        root, arrays = data.get("root"), data.get("arrays")
        return cls(
            *(folder, ids, given, classes, root and Path(root), data.get("table")),
            arrays and Path(arrays),
            noise and noise["spec"],
        )

    @property
    def source(self) -> Path | None:
        """The folder or file that the data came from, where it is one that can be written again."""
        table = None if self.table is None else Path(self.table["path"])
        return self.root or self.arrays or table

    def rows(self) -> LabeledRows:
        """Which rows of the arrays the samples are: those of some are called ``row 7``.

        Raises:
            ValueError: the file has other labels by now.
        """
        assert self.arrays is not None
        rows = [_row(name) for name in self.ids]
        now = load_npz(str(self.arrays), missing="drop")
        names = range(len(now)) if now.sample_names is None else map(_row, now.sample_names)
        labels = {
            row: now.class_names[k] for row, k in zip(names, now.labels.tolist(), strict=True)
        }
        if any(labels.get(row) != self.classes[k] for row, k in zip(rows, self.given, strict=True)):
            raise ValueError(f"the labels in {self.arrays} are not those of the run any more")
        return LabeledRows(rows, self.given, self.classes)


def _row(name: str) -> int:
    return int(name.removeprefix("row "))


def log_path(out: Path) -> Path:
    """Where the changes of ``out`` are noted."""
    return out / LOG if is_folder(out) else out.with_suffix(f".{LOG}")


def is_folder(out: Path) -> bool:
    return out.suffix.lower() not in (*TABLES, *ARRAYS)


# ----------------------------------------------------------------------------------------- writing


def require_writable(samples: Samples, out: Path) -> None:
    """Refuse what cannot be written from this run's data."""
    kind = out.suffix.lower()
    if is_folder(out) and samples.root is None:
        raise ValueError(
            f"--out {out} is a folder, but the data of this run are none of files: name a {_files(samples)}"
        )
    if kind == ".parquet" and samples.table is None:
        raise ValueError("--out FILE.parquet is for tables (csv:, parquet:); name a .csv or .npy")
    if kind == ".npz" and samples.arrays is None:
        raise ValueError(f"--out FILE.npz is for data from npz:FILE; name a {_files(samples)}")
    if samples.source is None:
        return
    corrected.require_apart(samples.source, out)
    if samples.noise is not None and _is_written_again(samples, out):
        raise ValueError(
            f"the run added wrong labels itself (--noise {samples.noise}), which {samples.source} has not: there is "
            "nothing in it to correct. Name a FILE.npy for the run's own labels, corrected"
        )


def _is_written_again(samples: Samples, out: Path) -> bool:
    """Whether ``out`` is the data set itself with other labels, not a list of labels."""
    kind = out.suffix.lower()
    return is_folder(out) or kind == ".npz" or (samples.table is not None and kind in TABLES)


def _files(samples: Samples) -> str:
    """The files that can be written, for an error."""
    first = "FILE.npz, " if samples.arrays is not None else ""
    return f"{first}FILE.csv or FILE.npy"


def require_labels(changes: Sequence[Change], out: Path, wrong: str | None) -> None:
    """A file of labels in the data set's order has no way to leave a sample out."""
    left_out = [change.id for change in changes if change.label is None]
    if out.suffix.lower() == ".npy" and left_out:
        raise ValueError(
            f"{len(left_out)} samples are marked wrong without a label (the first: {left_out[0]}), and a .npy must "
            "hold a label for each: relabel them, give --wrong keep, or write another kind of file"
        )


def write_corrected(
    samples: Samples, out: Path, changes: Sequence[Change], how: str
) -> list[LoggedChange]:
    """Write the corrected data set; returns the log of its changes."""
    places: dict[str, str] = {}
    if is_folder(out):
        assert samples.root is not None
        moves = _moves(samples, changes)
        out.mkdir(parents=True, exist_ok=True)
        corrected.copy_folder(samples.root, out, moves, how)
        places = {place: to or "" for place, to in moves.items()}
    elif out.suffix.lower() == ".npy":
        corrected.write_labels_npy(out, _numbers(samples, changes))
    elif out.suffix.lower() == ".npz":
        assert samples.arrays is not None
        rows = samples.rows()
        labels = {rows.rows[change.sample]: change.label for change in changes}
        write_corrected_arrays(samples.arrays, out, rows, labels)
    elif samples.table is not None:
        _write_table(samples, out, changes)
    else:
        corrected.write_labels_csv(out, _labels(samples, changes))
    return [
        LoggedChange(
            change.id,
            change.given_label,
            change.label or "",
            LEFT_OUT if change.label is None else RELABELED,
            change.id if places else "",
            places.get(change.id, ""),
        )
        for change in changes
    ]


def _moves(samples: Samples, changes: Sequence[Change]) -> dict[str, str | None]:
    """New places of files by their places; None leaves one out."""
    taken = set(samples.ids)
    return {
        change.id: None
        if change.label is None
        else corrected.free_place(change.id, change.label, taken)
        for change in changes
    }


def _numbers(samples: Samples, changes: Sequence[Change]) -> list[int]:
    number = {name: k for k, name in enumerate(samples.classes)}
    labels = list(samples.given)
    for change in changes:
        if change.label is not None:
            labels[change.sample] = number[change.label]
    return labels


def _labels(samples: Samples, changes: Sequence[Change]) -> list[tuple[str, str]]:
    """Id and label of every sample that is not left out."""
    by_sample = {change.sample: change.label for change in changes}
    rows = []
    for k, name in enumerate(samples.ids):
        label = by_sample.get(k, samples.classes[samples.given[k]])
        if label is not None:
            rows.append((name, label))
    return rows


def _write_table(samples: Samples, out: Path, changes: Sequence[Change]) -> None:
    """The table the run was made from, all its columns and rows, with other labels."""
    table = samples.table
    assert table is not None
    source = read_table_file(Path(table["path"]))
    row = _row_of(samples, source)
    column = table["label"]
    # As the file spells its classes: " <=50K", with a blank, would else become a class beside "<=50K".
    cells = [cells[column] for cells in source.rows]
    spelled = dict(zip(reversed(label_texts(cells, column)), reversed(cells), strict=True))
    labels = {
        row[c.id]: None
        if c.label is None
        else spelled.get(c.label, _like(source.rows[row[c.id]][column], c.label))
        for c in changes
    }
    rows = corrected.correct_rows(source.rows, column, labels)
    write_table_file(out, source, rows)


def _row_of(samples: Samples, source: TableFile) -> dict[str, int]:
    """The row of each sample id.

    Raises:
        ValueError: the table has other rows or labels by now, so a change might reach another row.
    """
    table = samples.table
    assert table is not None
    if table["id"] is None:
        row = {str(k): k for k in range(len(source.rows))}
    else:
        source.require(table["id"], "the ids of the run", table["path"])
        row = {cell_text(cells[table["id"]]): k for k, cells in enumerate(source.rows)}
    source.require(table["label"], "the labels of the run", table["path"])
    now = label_texts([cells[table["label"]] for cells in source.rows], table["label"])
    for name, given in zip(samples.ids, samples.given, strict=True):
        if name not in row or now[row[name]] != samples.classes[given]:
            found = f"the label {now[row[name]]!r}" if name in row else "no such row"
            raise ValueError(
                f"the rows of {table['path']} are not those of the run any more: {name} had the label "
                f"{samples.classes[given]!r}, and now there is {found}; put back the file the run was made from, or "
                "run mild-ext find on the new one"
            )
    return row


def _like(old: Any, label: str) -> Any:
    """A class name as a cell of the old one's type: numbers stay numbers."""
    return type(old)(label) if isinstance(old, int | float) and not isinstance(old, bool) else label


def _row_numbers(samples: Samples) -> dict[str, int]:
    return {name: k for k, name in enumerate(samples.ids)}


# -------------------------------------------------------------------------------------------- undo


def take_back(
    samples: Samples, out: Path, log: Sequence[LoggedChange], how: str
) -> tuple[int, list[str]]:
    """Take noted changes back in what was written; whatever else was done there stays.

    Returns:
        How many were taken back, and the ids of those that could not be, as they were changed again since.
    """
    if is_folder(out):
        assert samples.root is not None
        moves = {entry.place: entry.new_place or None for entry in log}
        return corrected.undo_folder(samples.root, out, moves, how)
    kind = out.suffix.lower()
    undo = {".npy": _undo_npy, ".npz": _undo_npz}.get(kind, _undo_csv)
    return undo(samples, out, log)


def _undo_npy(samples: Samples, out: Path, log: Sequence[LoggedChange]) -> tuple[int, list[str]]:
    labels = np.load(out, allow_pickle=False)
    if labels.shape != (len(samples.ids),):
        raise ValueError(f"{out} holds {len(labels)} labels, the run has {len(samples.ids)}")
    position = _row_numbers(samples)
    number = {name: k for k, name in enumerate(samples.classes)}
    stuck = []
    for entry in log:
        k = position[entry.id]
        if labels[k] == number[entry.label]:
            labels[k] = number[entry.given_label]
        else:
            stuck.append(entry.id)
    corrected.write_labels_npy(out, labels.tolist())
    return len(log) - len(stuck), stuck


def _undo_npz(samples: Samples, out: Path, log: Sequence[LoggedChange]) -> tuple[int, list[str]]:
    assert samples.arrays is not None
    position, rows = _row_numbers(samples), samples.rows()
    by_row = {rows.rows[position[entry.id]]: entry for entry in log}
    labels = {row: entry.label or None for row, entry in by_row.items()}
    done, stuck = undo_corrected_arrays(samples.arrays, out, rows, labels)
    return done, [by_row[row].id for row in stuck]


def _undo_csv(samples: Samples, out: Path, log: Sequence[LoggedChange]) -> tuple[int, list[str]]:
    """Rows are found by their order: it is refused where some were added or removed since."""
    if samples.table is not None:
        source = read_table_file(Path(samples.table["path"]))
        column = samples.table["label"]
        row = _row_of(samples, source)
        changed = {row[entry.id]: entry for entry in log}
        written = read_table_file(out)
        now, original = written.rows, source.rows
    else:
        column, original = (
            "label",
            [
                {"id": name, "label": samples.classes[label]}
                for name, label in zip(samples.ids, samples.given, strict=True)
            ],
        )
        number = _row_numbers(samples)
        changed = {number[entry.id]: entry for entry in log}
        now = [
            {"id": without_apostrophe(name), "label": without_apostrophe(label)}
            for name, label in corrected.read_labels_csv(out)
        ]
    left_out = sum(entry.change == LEFT_OUT for entry in log)
    if len(now) != len(original) - left_out:
        raise ValueError(
            f"{out} has {len(now):,} rows, fix wrote {len(original) - left_out:,}: rows were added or removed "
            "since, so the changes cannot be found again; write it anew with --overwrite"
        )
    rows, stuck, following = [], [], iter(now)
    for k, original_row in enumerate(original):
        entry = changed.get(k)
        if entry is not None and entry.change == LEFT_OUT:
            rows.append(original_row)
            continue
        current = next(following)
        if entry is not None and cell_text(current[column]) == entry.label:
            current = {**current, column: original_row[column]}
        elif entry is not None:
            stuck.append(entry.id)
        rows.append(current)
    if samples.table is not None:
        write_table_file(out, written, rows)
    else:
        corrected.write_labels_csv(out, [(r["id"], r["label"]) for r in rows])
    return len(log) - len(stuck), stuck
