"""``mild-ext fix``: a run's data set with corrected labels, written beside the original; and back again."""

from __future__ import annotations

import argparse
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mild_ext.data import corrected
from mild_ext.data.readers.table_file import (
    TableFile,
    cell_text,
    read_table_file,
    write_table_file,
)
from mild_ext.files import write_text
from mild_ext.recording.status import LearningStatus
from mild_ext.selection import PlantedLabels, Selection, select_clean
from mild_ext.training.corrections import (
    LEFT_OUT,
    RELABELED,
    Change,
    LoggedChange,
    changes_text,
    read_changes,
    read_corrections,
)
from mild_ext.training.run_folder import RunFolder
from mild_ext.training.suspects import without_apostrophe

#: The log of changes in a corrected folder; of a file, what its name ends in instead of its suffix.
LOG = "changes.csv"
TABLES = (".csv", ".tsv", ".parquet")


@dataclass(frozen=True)
class Samples:
    """What a run was given."""

    folder: RunFolder
    ids: list[str]
    given: list[int]
    classes: list[str]
    root: Path | None
    table: dict[str, Any] | None

    @classmethod
    def of(cls, run: str) -> Samples:
        folder = RunFolder(run)
        data = folder.read_config()["data"]
        ids, given, classes = folder.read_samples()
        root = data.get("root")
        return cls(folder, ids, given, classes, root and Path(root), data.get("table"))


def main(options: argparse.Namespace) -> int:
    """Run the subcommand; see the parser in cli.py for the options."""
    samples, out = Samples.of(options.run_folder), Path(options.out)
    if options.undo:
        print(_undo(samples, out, options.files))
        return 0
    _require_writable(samples, out)
    if options.auto:
        changes, why = _automatic(samples, options.precision)
    else:
        decided = read_corrections(
            Path(options.corrections), samples.ids, samples.given, samples.classes
        )
        changes = decided.changes
        why = f"{options.corrections}: {decided.confirmed:,} labels confirmed as they are"
    if options.wrong == "keep":
        changes = [change for change in changes if change.label is not None]
    _require_labels(changes, out, options.wrong)
    _make_room(samples, out, options.overwrite)
    log = _write(samples, out, changes, options.files)
    write_text(log_path(out), changes_text(log))
    print(_told(samples, out, changes, why, options.quiet))
    return 0


def log_path(out: Path) -> Path:
    """Where the changes of ``out`` are noted."""
    return out / LOG if _is_folder(out) else out.with_suffix(f".{LOG}")


def _is_folder(out: Path) -> bool:
    return out.suffix.lower() not in (*TABLES, ".npy")


# ---------------------------------------------------------------------------------- what to change


def _automatic(samples: Samples, precision: float) -> tuple[list[Change], str]:
    """The suggestions to follow, and why these."""
    selection = first_selection(samples.folder)
    chosen = selection.corrections(least_precision=precision)
    names = samples.classes
    changes = [
        Change(i, samples.ids[i], names[samples.given[i]], names[label])
        for i, label in sorted(zip(chosen.index.tolist(), chosen.label.tolist(), strict=True))
    ]
    return changes, chosen.reason


def first_selection(folder: RunFolder) -> Selection:
    """The selection of a run's first round and its scouts, which see all of the noise, made again from their files.

    Raises:
        ValueError: no finished round, or nothing was planted in it.
    """
    status, planted = folder.path / "status", folder.path / "planted"
    first = "round-00.safetensors"
    if not (status / first).is_file():
        raise ValueError(f"the run in {folder.path} has not finished its first round")
    if not (planted / first).is_file():
        raise ValueError(
            f"nothing was planted in the run in {folder.path}, so nobody knows how often its suggestions are "
            "right: decide yourself, in report.html, and give --corrections"
        )
    scouts = sorted(path.name for path in status.glob("scout-*.safetensors"))
    level = folder.read_settings().recipe.level
    return select_clean(
        [LearningStatus.load(status / name) for name in (first, *scouts)],
        level=level,
        planted=[PlantedLabels.load(planted / name) for name in (first, *scouts)],
    )


# ----------------------------------------------------------------------------------------- writing


def _require_writable(samples: Samples, out: Path) -> None:
    """Refuse what cannot be written from this run's data."""
    if _is_folder(out) and samples.root is None:
        raise ValueError(
            f"--out {out} is a folder, but the data of this run are none of files: name a FILE.csv or FILE.npy"
        )
    source = samples.root if samples.table is None else Path(samples.table["path"])
    if source is not None:
        corrected.require_apart(source, out)
    if out.suffix.lower() == ".parquet" and samples.table is None:
        raise ValueError("--out FILE.parquet is for tables (csv:, parquet:); name a .csv or .npy")


def _require_labels(changes: Sequence[Change], out: Path, wrong: str | None) -> None:
    """A file of labels in the data set's order has no way to leave a sample out."""
    left_out = [change.id for change in changes if change.label is None]
    if out.suffix.lower() == ".npy" and left_out:
        raise ValueError(
            f"{len(left_out)} samples are marked wrong without a label (the first: {left_out[0]}), and a .npy must "
            "hold a label for each: relabel them, give --wrong keep, or write a .csv, which leaves them out"
        )


def _make_room(samples: Samples, out: Path, overwrite: bool) -> None:
    """Remove what fix wrote there before, if asked to; nothing else is ever removed."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise ValueError(f"{out} is there already: use another --out, or --overwrite")
    if not log_path(out).is_file():
        raise ValueError(
            f"{out} was not written by mild-ext fix (no {log_path(out)}), so --overwrite will not replace it"
        )
    log = read_changes(log_path(out))
    if out.is_dir():
        if samples.root is None or not samples.root.is_dir():
            raise ValueError(f"the data that {out} was made from are gone: use another --out")
        moves = {entry.place: entry.new_place or None for entry in log}
        others = corrected.others(samples.root, out, moves, {LOG})
        if others:
            raise ValueError(
                f"{out} holds {len(others)} files that mild-ext fix did not write (the first: {others[0]}), so "
                "--overwrite will not replace it: move them elsewhere, or use another --out"
            )
        shutil.rmtree(out)
    else:
        out.unlink()
    log_path(out).unlink(missing_ok=True)


def _write(samples: Samples, out: Path, changes: Sequence[Change], how: str) -> list[LoggedChange]:
    """Write the corrected data set; returns the log of its changes."""
    places: dict[str, str] = {}
    if _is_folder(out):
        assert samples.root is not None
        moves = _moves(samples, changes)
        out.mkdir(parents=True, exist_ok=True)
        corrected.copy_folder(samples.root, out, moves, how)
        places = {place: to or "" for place, to in moves.items()}
    elif out.suffix.lower() == ".npy":
        corrected.write_labels_npy(out, _numbers(samples, changes))
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
    row = _row_of(table, source)
    column = table["label"]
    labels = {
        row[c.id]: None if c.label is None else _like(source.rows[row[c.id]][column], c.label)
        for c in changes
    }
    rows = corrected.correct_rows(source.rows, column, labels)
    write_table_file(out, source, rows)


def _row_of(table: dict[str, Any], source: TableFile) -> dict[str, int]:
    """The row of each sample id."""
    if table["id"] is None:
        return {str(k): k for k in range(len(source.rows))}
    source.require(table["id"], "the ids of the run", table["path"])
    return {cell_text(row[table["id"]]): k for k, row in enumerate(source.rows)}


def _like(old: Any, label: str) -> Any:
    """A class name as a cell of the old one's type: numbers stay numbers."""
    return type(old)(label) if isinstance(old, int | float) and not isinstance(old, bool) else label


def _row_numbers(samples: Samples) -> dict[str, int]:
    return {name: k for k, name in enumerate(samples.ids)}


# -------------------------------------------------------------------------------------------- undo


def _undo(samples: Samples, out: Path, how: str) -> str:
    """Take the noted changes back in what was written; whatever else was done there stays."""
    log = read_changes(log_path(out))
    if not out.exists():
        raise ValueError(f"there is no {out}")
    stuck: list[str] = []
    if _is_folder(out):
        assert samples.root is not None
        moves = {entry.place: entry.new_place or None for entry in log}
        done, stuck = corrected.undo_folder(samples.root, out, moves, how)
    elif out.suffix.lower() == ".npy":
        done, stuck = _undo_npy(samples, out, log)
    else:
        done, stuck = _undo_csv(samples, out, log)
    text = f"{out}: {done:,} of {len(log):,} changes taken back"
    if stuck:
        left = [entry for entry in log if entry.id in set(stuck)]
        write_text(log_path(out), changes_text(left))
        listed = ", ".join(stuck[:3])
        return f"{text}; {len(stuck):,} could not be, as they were changed again since: {listed}"
    log_path(out).unlink()
    return text


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


def _undo_csv(samples: Samples, out: Path, log: Sequence[LoggedChange]) -> tuple[int, list[str]]:
    """Rows are found by their order: it is refused where some were added or removed since."""
    if samples.table is not None:
        source = read_table_file(Path(samples.table["path"]))
        column = samples.table["label"]
        row = _row_of(samples.table, source)
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


# ------------------------------------------------------------------------------------------- words


def _told(samples: Samples, out: Path, changes: Sequence[Change], why: str, quiet: bool) -> str:
    relabeled = [change for change in changes if change.label is not None]
    left_out = len(changes) - len(relabeled)
    done = f"{len(relabeled):,} of {len(samples.ids):,} labels changed"
    if left_out:
        done += f", {left_out:,} samples left out (wrong, without a label)"
    if quiet:
        return f"{out}: {done}"
    lines = [f"{why}."]
    flows = Counter((change.given_label, change.label) for change in relabeled)
    lines += [f"  {given} -> {label}: {count:,}" for (given, label), count in flows.most_common(10)]
    if len(flows) > 10:
        lines.append(f"  and {len(flows) - 10} other pairs")
    lines.append(f"Wrote {out}: {done}. Every change is noted in {log_path(out)};")
    run = samples.folder.path
    lines.append(f"  mild-ext fix {run} --undo --out {out}   takes them back.")
    if out.suffix.lower() == ".npy":
        classes = json.dumps(dict(enumerate(samples.classes)), ensure_ascii=False)
        lines.append(
            f"Classes: {classes if len(classes) < 300 else 'as in ' + str(run / 'config.json')}"
        )
    return "\n".join(lines)
