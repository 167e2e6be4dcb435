"""An ``.npz`` file with corrected labels, written beside the original, and changes taken back in it.

``y_train`` gets other labels, of the kind that was there: numbers stay numbers, text stays text. Everything else in
the file is copied as it is. Where samples are left out, every array that has an entry per sample loses theirs.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mild_ext.files import write_atomically
from mild_ext.reading import read_arrays

LABELS = "y_train"
#: Arrays that are not of the training samples, however long they are.
_OF_OTHERS = ("x_test", "y_test", "class_names")

_Array = NDArray[Any]


@dataclass(frozen=True)
class LabeledRows:
    """Which rows of the file a run's samples are, and what they were labeled.

    Attributes:
        rows: of each sample.
        given: class number of each.
        classes: names of the classes.
    """

    rows: Sequence[int]
    given: Sequence[int]
    classes: Sequence[str]


def write_corrected_arrays(
    source: Path, target: Path, samples: LabeledRows, labels: Mapping[int, str | None]
) -> None:
    """Write the file with other labels.

    Args:
        source: the original.
        target: where to write.
        samples: of the run, with the labels that the original has.
        labels: class name by row; None leaves the sample out.
    """
    arrays = read_arrays(source)
    changed = _relabeled(arrays[LABELS], _values(arrays, samples), samples.classes, labels.items())
    gone = [row for row, label in labels.items() if label is None]
    replaced = {LABELS: changed}
    if gone:
        own = {name: arrays[name] for name in _of_samples(arrays)} | replaced
        replaced = {name: np.delete(array, gone, axis=0) for name, array in own.items()}
    _write_like(source, target, replaced)


def undo_corrected_arrays(
    source: Path,
    target: Path,
    samples: LabeledRows,
    labels: Mapping[int, str | None],
) -> tuple[int, list[int]]:
    """Take changes back in ``target``; arguments as for `write_corrected_arrays`.

    Returns:
        How many were taken back, and the rows of those that have another label since.

    Raises:
        ValueError: entries were added or removed since.
    """
    original, now = read_arrays(source), read_arrays(target)
    values = _values(original, samples)
    gone = [row for row, label in labels.items() if label is None]
    count = len(original[LABELS])
    if LABELS not in now or len(now[LABELS]) != count - len(gone):
        raise ValueError(
            f"{target} has not the {count - len(gone):,} labels that fix wrote: entries were added or removed since; "
            "write it anew with --overwrite"
        )
    restored = {LABELS: now[LABELS]}
    if gone:
        there = np.delete(np.arange(count), gone)
        for name in _of_samples(original):
            if name in now and len(now[name]) == len(there):
                whole = original[name].astype(np.result_type(original[name], now[name]))
                whole[there] = now[name]
                restored[name] = whole
    found, old = restored[LABELS].reshape(count), original[LABELS].reshape(count)
    stuck = [
        row for row, label in labels.items() if label is not None and found[row] != values[label]
    ]
    kept = set(stuck)
    back = [row for row in labels if row not in kept]
    restored[LABELS] = restored[LABELS].copy()
    restored[LABELS].reshape(count)[back] = old[back]
    _write_like(target, target, restored)
    return len(back), stuck


def _of_samples(arrays: Mapping[str, _Array]) -> list[str]:
    """The arrays with an entry per training sample."""
    count = len(arrays[LABELS])
    return [
        name
        for name, array in arrays.items()
        if name not in _OF_OTHERS and array.ndim and len(array) == count
    ]


def _values(arrays: Mapping[str, _Array], samples: LabeledRows) -> dict[str, Any]:
    """What each class is called in ``y_train``, by its name: found at a sample of it."""
    labels = arrays[LABELS].reshape(-1)
    values: dict[str, Any] = {}
    for row, number in zip(samples.rows, samples.given, strict=True):
        values.setdefault(samples.classes[number], labels[row])
    for number, name in enumerate(samples.classes):  # a class without a sample
        values.setdefault(name, number if labels.dtype.kind in "biuf" else name)
    return values


def _relabeled(
    labels: _Array,
    values: Mapping[str, Any],
    classes: Sequence[str],
    changes: Any,
) -> _Array:
    text = labels.dtype.kind in "US"
    # Text of a fixed width would cut a longer name off.
    wide = np.array([values[name] for name in classes], dtype=labels.dtype.kind if text else None)
    changed = labels.astype(np.promote_types(labels.dtype, wide.dtype) if text else labels.dtype)
    flat = changed.reshape(-1)
    for row, label in changes:
        if label is not None:
            flat[row] = values[label]
    return changed


def _write_like(source: Path, target: Path, arrays: Mapping[str, _Array]) -> None:
    """The archive with some arrays replaced; what is not is copied as it is."""

    def write(temporary: Path) -> None:
        with zipfile.ZipFile(source) as old, zipfile.ZipFile(temporary, "w") as new:
            for member in old.infolist():
                name = member.filename.removesuffix(".npy")
                info = zipfile.ZipInfo(member.filename, member.date_time)
                info.compress_type = member.compress_type
                with new.open(info, "w", force_zip64=True) as file:
                    if member.filename.endswith(".npy") and name in arrays:
                        np.lib.format.write_array(file, arrays[name], allow_pickle=False)
                    else:
                        with old.open(member) as content:
                            shutil.copyfileobj(content, file)

    write_atomically(target, write)
