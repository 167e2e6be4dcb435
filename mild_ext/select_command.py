"""``mild-ext select``: a selection from a saved learning status, without training."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mild_ext.export import selection_table, write_table
from mild_ext.selection import Selection, select_clean
from mild_ext.status import LearningStatus


def main(options: argparse.Namespace) -> int:
    """Run the subcommand; see the parser in cli.py for the options."""
    out = Path(options.out)
    if out.suffix.lower() not in (".csv", ".parquet"):
        raise ValueError(f"--out must end in .csv or .parquet, got {out.name!r}")
    status = LearningStatus.load(options.status)
    epochs = parse_epochs(options.epochs, status.num_epochs)
    labels = _labels("--labels", options.labels, status.num_samples)
    predicted = _labels("--predicted", options.predicted, status.num_samples)
    selection = select_clean(status, options.rule, options.threshold, epochs=epochs)
    write_table(selection_table(selection, given_labels=labels, predicted_labels=predicted), out)
    print(describe(selection, status))
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


def describe(selection: Selection, status: LearningStatus) -> str:
    """What was decided and why, in a few lines."""
    recorded = f"{status.epoch} of {status.num_epochs} epochs recorded"
    lines = [f"{selection.num_samples} samples, {recorded}"]
    if selection.num_unseen:
        lines.append(f"{selection.num_unseen} samples never seen: kept, for lack of evidence")
    if selection.supported:
        dropped = selection.num_samples - selection.num_kept
        lines.append(
            f"{dropped} samples dropped ({dropped / selection.num_samples:.1%}); kept are those "
            f"misclassified in at most {selection.threshold:g} epochs, if seen in all"
        )
    else:
        lines.append("nothing dropped: the data do not support a selection")
    return "\n".join([*lines, selection.reason])


def _labels(option: str, path: str | None, count: int) -> NDArray[np.int64] | None:
    if path is None:
        return None
    labels = np.load(path, allow_pickle=False)
    if not isinstance(labels, np.ndarray) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{option} must name a .npy file of integers, got {path}")
    if labels.shape != (count,):
        raise ValueError(
            f"{option} must hold one label for each of the {count} samples, got shape "
            f"{list(labels.shape)}"
        )
    return labels.astype(np.int64)
