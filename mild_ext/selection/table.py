"""Selections as tables: one row per sample, under the column names that label-cleaning tools use.

    id                     the sample's id; the index of a frame
    is_label_issue         True = dropped
    label_quality          float32 in [0, 1], probability that the given label is right; higher = cleaner
    given_label            int64, where given to the function
    predicted_label        int64, the model's, where given to the function
    metric                 int32 in [-P, P], MILD metric; lower = cleaner
    memorization ...       int32, the transition times, see `mild_ext.TransitionTimes`
    seen                   int32, epochs in which the sample was seen
    round_dropped          int64, missing where the sample was kept
    reason                 text, why it was dropped; empty where it was kept

The first columns and their meaning are those of cleanlab's ``CleanLearning.get_label_issues()``.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mild_ext.files import write_atomically

if TYPE_CHECKING:
    import pandas as pd

    from mild_ext.recording.transitions import TransitionTimes
    from mild_ext.selection.select import Selection

Table = dict[str, NDArray[Any]]


def selection_table(
    selection: Selection,
    *,
    ids: Sequence[Any] | ArrayLike | None = None,
    given_labels: ArrayLike | None = None,
    predicted_labels: ArrayLike | None = None,
    round_dropped: ArrayLike | None = None,
    times: TransitionTimes | None = None,
) -> Table:
    """The table of one selection.

    Args:
        selection: N samples.
        ids: ``[N]`` unique ids, numbers or texts; positions in the data set by default.
        given_labels: integers ``[N]``.
        predicted_labels: integers ``[N]``, what a model says.
        round_dropped: integers ``[N]``, -1 where kept; 0 for every dropped sample by default.
        times: transition times to show; those the selection was made from by default.

    Returns:
        Column names and NumPy arrays ``[N]``, in the order above.

    Raises:
        ValueError: a column's length is not N, ids are not unique, or the status has changed since.
    """
    times = _times_of(selection) if times is None else times
    columns = {item.name: getattr(times, item.name) for item in fields(times)}
    return _table(
        kept=_numpy(selection.mask),
        label_quality=_numpy(selection.clean_probability),
        times={name: _numpy(v) for name, v in columns.items() if not isinstance(v, int)},
        round_dropped=round_dropped,
        ids=ids,
        given_labels=given_labels,
        predicted_labels=predicted_labels,
    )


def rounds_table(
    result: Any,
    *,
    ids: Sequence[Any] | ArrayLike | None = None,
    given_labels: ArrayLike | None = None,
    predicted_labels: ArrayLike | None = None,
) -> Table:
    """The table of several rounds; misclassified and seen are from the last that watched the sample.

    Args:
        result: a RoundTracker, or a RoundsResult.
        ids, given_labels, predicted_labels: as for `selection_table`; the result has given labels, a tracker
            once it knows them (-1 for a sample that was in no batch).
    """
    misclassified, seen = _numpy(result.misclassified), _numpy(result.seen)
    times = {
        "metric": 2 * misclassified - seen,
        "memorization": misclassified,
        "forgetting": seen - misclassified,
        "seen": seen,
    }
    if given_labels is None and result.labels is not None:
        given_labels = _numpy(result.labels)
    return _table(
        kept=_numpy(result.round_dropped) < 0,  # samples that took no part were not dropped
        label_quality=_numpy(result.clean_probability),
        times=times,
        round_dropped=_numpy(result.round_dropped),
        ids=ids,
        given_labels=given_labels,
        predicted_labels=predicted_labels,
    )


def to_frame(table: Table) -> pd.DataFrame:
    """The table as a pandas DataFrame, indexed by id."""
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError("to_frame needs pandas: pip install 'mild_ext[export]'") from error
    frame = pd.DataFrame(table)
    frame["round_dropped"] = frame["round_dropped"].astype("Int64").mask(frame["round_dropped"] < 0)
    return frame.set_index("id")


def write_table(table: Table, path: str | os.PathLike[str]) -> None:
    """Write the table as ``.csv`` (needs nothing) or ``.parquet`` (needs the extra ``export``).

    An existing file is replaced only once the new one is complete.

    Raises:
        ValueError: the name ends in neither.
        ImportError: Parquet without pyarrow.
    """
    path = Path(path)
    write = {".csv": _write_csv, ".parquet": _write_parquet}.get(path.suffix.lower())
    if write is None:
        raise ValueError(f"path must end in .csv or .parquet, got {path.name!r}")
    write_atomically(path, lambda temporary: write(table, temporary))


def _write_csv(table: Table, path: Path) -> None:
    columns = {name: values.tolist() for name, values in table.items()}
    columns["label_quality"] = [f"{value:.6g}" for value in columns["label_quality"]]
    columns["round_dropped"] = ["" if value < 0 else value for value in columns["round_dropped"]]
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def _write_parquet(table: Table, path: Path) -> None:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ImportError(
            "Parquet needs pyarrow: pip install 'mild_ext[export]', or write .csv"
        ) from error
    missing = {"round_dropped": table["round_dropped"] < 0}
    arrays = {name: pa.array(values, mask=missing.get(name)) for name, values in table.items()}
    pq.write_table(pa.table(arrays), path)


def _table(
    *,
    kept: NDArray[np.bool_],
    label_quality: NDArray[np.float32],
    times: Table,
    round_dropped: ArrayLike | None,
    ids: Sequence[Any] | ArrayLike | None,
    given_labels: ArrayLike | None,
    predicted_labels: ArrayLike | None,
) -> Table:
    count = len(kept)
    dropped_in = np.where(kept, -1, 0) if round_dropped is None else np.asarray(round_dropped)
    ids = np.arange(count) if ids is None else np.asarray(ids)
    optional = {
        "ids": ids,
        "given_labels": None if given_labels is None else np.asarray(given_labels),
        "predicted_labels": None if predicted_labels is None else np.asarray(predicted_labels),
        "round_dropped": dropped_in,
    }
    for name, values in (optional | times).items():
        if values is not None and values.shape != (count,):
            raise ValueError(
                f"{name} must have one entry for each of the {count} samples, got shape "
                f"{list(values.shape)}"
            )
    if len(np.unique(ids)) != count:
        raise ValueError("ids must be unique, some occur twice")
    table = {
        "id": ids,
        "is_label_issue": ~kept,
        "label_quality": label_quality.astype(np.float32),
        "given_label": optional["given_labels"],
        "predicted_label": optional["predicted_labels"],
        "metric": times["metric"],
        **{name: values for name, values in times.items() if name not in ("metric", "seen")},
        "seen": times["seen"],
        "round_dropped": dropped_in.astype(np.int64),
        "reason": _reasons(~kept, label_quality, times["memorization"], times["seen"]),
    }
    return {name: values for name, values in table.items() if values is not None}


def _reasons(
    dropped: NDArray[np.bool_],
    quality: NDArray[np.float32],
    misclassified: NDArray[np.int32],
    seen: NDArray[np.int32],
) -> NDArray[Any]:
    reasons = np.full(len(dropped), "", dtype=object)
    # Few different texts for many samples: as many as there are pairs of counts.
    facts = np.stack([misclassified[dropped], seen[dropped], quality[dropped]], axis=1)
    facts, which = np.unique(facts, axis=0, return_inverse=True)
    texts = [
        f"misclassified in {m:.0f} of {n:.0f} epochs; label quality {q:.3f}" for m, n, q in facts
    ]
    if texts:
        reasons[dropped] = np.array(texts, dtype=object)[which.ravel()]
    return reasons


def _times_of(selection: Selection) -> TransitionTimes:
    times: TransitionTimes = selection._evidence.transition_times()
    size = len(selection.histogram)
    cells = _numpy(times.memorization).astype(np.int64) * size + _numpy(times.seen)
    counts = np.bincount(cells, minlength=size**2).reshape(size, size)
    # A rank's share of a sharded status is part of the histogram only.
    changed = (counts > selection.histogram).any() or (
        len(cells) == selection.num_samples and (counts != selection.histogram).any()
    )
    if changed:
        raise ValueError(
            "the status has changed since the selection was made; export it before reset(), or give times="
        )
    return times


def _numpy(values: Any) -> NDArray[Any]:
    return np.asarray(values.cpu().numpy() if hasattr(values, "cpu") else values)
