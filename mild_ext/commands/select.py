"""``mild-ext select``: a selection from a saved learning status or log, without training."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mild_ext.data.labels import CheckedLabels, Missing, check_labels, named_as
from mild_ext.data.readers.table_file import cell_text, read_table_file
from mild_ext.reading import read_array
from mild_ext.recording.learning_log import read_learning_log
from mild_ext.recording.status import LearningStatus
from mild_ext.selection import PlantedLabels, Selection, select_clean
from mild_ext.selection.table import write_table


def main(options: argparse.Namespace) -> int:
    """Run the subcommand; see the parser in cli.py for the options."""
    out = None if options.out is None else Path(options.out)
    if out is not None and out.suffix.lower() not in (".csv", ".parquet"):
        raise ValueError(f"--out must end in .csv or .parquet, got {out.name!r}")
    source, planted_file, labels_file = _files(options)
    log = read_learning_log(source) if source.suffix == ".npz" else None
    status = LearningStatus.load(source) if log is None else log.status()
    epochs = parse_epochs(options.epochs, status.num_epochs)
    count = status.num_samples
    labels = _labels("--labels", labels_file, count, options.missing)
    if labels is None and log is not None:
        labels = check_labels(log.given_label, name="the log's given labels")
    predicted = _labels("--predicted", options.predicted, count, "drop")
    planted = None if planted_file is None else PlantedLabels.load(planted_file)
    ids: NDArray[Any] = np.arange(count) if log is None or log.ids is None else log.ids
    names = None if labels is None else labels.class_names
    given = None if labels is None else labels.values
    votes = None if predicted is None else _alike(predicted, labels)
    rows = torch.arange(count) if labels is None else labels.labeled
    if len(rows) < count:
        if planted is not None:
            raise ValueError(
                "--missing drop cannot be used with --planted: planting needs all labels"
            )
        print(f"Left out {count - len(rows):,} of {count:,} samples without a label")
        status, ids = _only(status, rows), ids[rows.numpy()]
        given = None if given is None else given[rows]
        votes = None if votes is None else votes[rows]
    if planted is not None and given is None:
        given = planted.given
    selection = select_clean(
        status, options.rule, options.level, labels=given, epochs=epochs, planted=planted
    )
    selection.class_names = names or selection.class_names
    print(f"{status.num_samples:,} samples, {status.epoch} of {status.num_epochs} epochs recorded")
    print(selection.summary())
    if log is not None and log.clean is not None:
        print(quality(selection, log.clean[rows.numpy()]))
    if out is not None:
        table = selection.table(ids=ids, given_labels=given, predicted_labels=votes)
        write_table(table, out)
        print(f"Wrote {out}")
    return 0


def parse_epochs(text: str | None, num_epochs: int) -> slice | None:
    """A window of epochs, as ``A:B``; either may be left out, and count from the end if negative.

    >>> parse_epochs("-10:", 30)
    slice(-10, None, None)
    """
    if text is None:
        return None
    first, colon, last = text.partition(":")
    try:
        window = slice(int(first) if first else None, int(last) if last else None)
    except ValueError:
        colon = ""
    if not colon:
        raise ValueError(f"--epochs must be A:B, e.g. 10:20 or -10:, got {text!r}")
    start, stop, _ = window.indices(num_epochs)
    if start >= stop:
        raise ValueError(f"--epochs {text} is empty: the status has {num_epochs} epochs")
    return window


def quality(selection: Selection, clean: NDArray[np.bool_]) -> str:
    """How good a selection is, in a line, and what the best threshold would have reached."""
    found = selection.evaluate(clean)
    count, best = selection.best_threshold(clean)
    return (
        f"by the true labels: noise rate {1 - clean.mean():.1%}; kept set's precision "
        f"{found.precision:.3f}, recall {found.recall:.3f}, F1 {found.f1:.3f}; wrong labels' F1 "
        f"{found.noisy_f1:.3f}; macro-F1 {found.macro_f1:.3f} (at most {best:.3f} with a threshold, "
        f"at {count} misclassified epochs); AUROC {found.auroc:.3f}"
    )


def _files(options: argparse.Namespace) -> tuple[Path, str | None, str | None]:
    """The status or log, what was planted, and the given labels; of a run, those of its first round.

    Raises:
        ValueError: the run has none, or there is no such file.
    """
    source = Path(options.status)
    if not source.is_dir():
        if not source.exists():
            raise ValueError(f"there is no file or folder {source}")
        return source, options.planted, options.labels
    status = source / "status" / "round-00.safetensors"
    if not status.is_file():
        found = sorted(source.glob("*.safetensors"))
        hint = f"; name a file, e.g. {found[0]}" if found else ""
        raise ValueError(f"{source} holds no run with a finished round (no {status}){hint}")
    planted, labels = source / "planted" / status.name, source / "given_labels.npy"
    # Planted labels measure the noise for one rule; another one judges by the counts, and has no use for them.
    by_count = options.rule != "posterior" or options.epochs is not None
    known = planted.is_file() and not by_count
    return (
        status,
        options.planted or (str(planted) if known else None),
        options.labels
        or (str(labels) if labels.is_file() and planted.is_file() == known else None),
    )


def _labels(option: str, path: str | None, count: int, missing: Missing) -> CheckedLabels | None:
    if path is None:
        return None
    table = Path(path).suffix.lower() in (".csv", ".parquet")
    loaded = _column(option, Path(path)) if table else read_array(path)
    if loaded.ndim < 1 or len(loaded) != count:
        raise ValueError(
            f"{option} must hold one label for each of the {count} samples, got shape "
            f"{list(loaded.shape)}"
        )
    return check_labels(
        loaded,
        name=f"the labels in {path}",
        missing=missing,
        remedy="leave these samples out with --missing drop",
    )


def _column(option: str, path: Path) -> NDArray[Any]:
    """A table's column ``given_label``, ``label`` or, where there is one only, that: whole numbers, or text.

    Rows are in the samples' order, unless numbers in ``id`` say another.
    """
    table = read_table_file(path)
    named: list[str] = [name for name in ("given_label", "label") if name in table.columns]
    if not named and len(table.columns) == 1:
        named = table.columns
    if not named:
        raise ValueError(
            f"{option} {path} must have a column given_label or label; it has {table.listed()}"
        )
    cells = [cell_text(row[named[0]]) for row in table.rows]
    if "id" in table.columns:
        ids = [cell_text(row["id"]) for row in table.rows]
        if sorted(ids) != sorted(map(str, range(len(ids)))):
            raise ValueError(
                f"{option} {path}: its ids are names, so the samples' order is not known; leave the column out if "
                "the rows are in order"
            )
        cells = [cell for _, cell in sorted(zip(map(int, ids), cells, strict=True))]
    if all(cell.isascii() and cell.isdigit() for cell in cells):
        return np.array([int(cell) for cell in cells], dtype=np.int64)
    return np.array(cells)


def _alike(predicted: CheckedLabels, labels: CheckedLabels | None) -> Tensor:
    """A model's labels, numbered as the given ones where both are text."""
    if predicted.class_names is None or labels is None:
        return predicted.values
    unknown = sorted(set(predicted.class_names) - set(labels.class_names or ()))
    if unknown:
        raise ValueError(
            f"--predicted names the class {unknown[0]!r}, which --labels do not have; write both alike"
        )
    return named_as(predicted, labels.class_names or ()).values


def _only(status: LearningStatus, rows: Tensor) -> LearningStatus:
    """The status of some samples alone."""
    part = LearningStatus(len(rows), status.num_epochs)
    state = {"words": status.words[rows].contiguous(), "epoch": status.epoch}
    part.load_state_dict(part.state_dict() | state)
    return part
