"""``mild-ext select``: a selection from a saved learning status or log, without training."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

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
    log = read_learning_log(options.status) if options.status.endswith(".npz") else None
    status = LearningStatus.load(options.status) if log is None else log.status()
    epochs = parse_epochs(options.epochs, status.num_epochs)
    labels = _labels("--labels", options.labels, status.num_samples)
    if labels is None and log is not None:
        labels = log.given_label
    predicted = _labels("--predicted", options.predicted, status.num_samples)
    planted = None if options.planted is None else PlantedLabels.load(options.planted)
    if planted is not None and labels is None:
        labels = planted.given.numpy()
    selection = select_clean(
        status,
        options.rule,
        options.level,
        labels=None if labels is None else torch.from_numpy(labels),
        epochs=epochs,
        planted=planted,
    )
    print(f"{status.num_samples:,} samples, {status.epoch} of {status.num_epochs} epochs recorded")
    print(selection.summary())
    if log is not None and log.clean is not None:
        print(quality(selection, log.clean))
    if out is not None:
        ids = None if log is None else log.ids
        table = selection.table(ids=ids, given_labels=labels, predicted_labels=predicted)
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


def _labels(option: str, path: str | None, count: int) -> NDArray[np.int64] | None:
    if path is None:
        return None
    labels = read_array(path)
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{option} must name a .npy file of integers, got {path}")
    if labels.shape != (count,):
        raise ValueError(
            f"{option} must hold one label for each of the {count} samples, got shape "
            f"{list(labels.shape)}"
        )
    return labels.astype(np.int64)
