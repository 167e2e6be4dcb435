"""The given labels of a data set: its attribute, if that says what its items say, else the items."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset

from mild_ext.data.indexed import IndexedDataset
from mild_ext.data.labels import CheckedLabels, Missing, check_labels
from mild_ext.data.map_style import in_random_order
from mild_ext.data.missing import bare
from mild_ext.data.random_state import isolated_random_state
from mild_ext.data.sets import ArrayDataset

#: So many items are read twice, to see that their labels stay.
READ_TWICE = 50


@dataclass(frozen=True)
class DatasetLabels:
    """A data set's labels, and what its user should know about where they were found."""

    labels: CheckedLabels
    notes: tuple[str, ...] = ()


def labels_of(dataset: Dataset[Any]) -> Tensor:
    """The labels of a map-style data set as int64 ``[N]``, as its items give them.

    An attribute ``labels`` or ``targets`` is taken instead of reading every item, after it was compared with some
    items (with all, where that takes a few seconds). Where they differ, as with a data set that changes
    labels in ``__getitem__``, the items are followed, with a warning.

    Raises:
        TypeError, ValueError: as `mild_ext.data.check_labels`; or an item has another label each time it is read.
    """
    found = read_labels(dataset)
    for note in found.notes:
        warnings.warn(note, UserWarning, stacklevel=2)
    return found.labels.values


def read_labels(dataset: Any, *, missing: Missing = "refuse") -> DatasetLabels:
    """As `labels_of`, with the names of the classes, and with notes in place of warnings."""
    remedy = "leave these samples out of the data set"
    indexed = dataset if isinstance(dataset, IndexedDataset) else IndexedDataset(dataset)
    count = len(indexed)
    if count == 0:
        raise ValueError("the data set is empty: it has no labels")
    if indexed.labels is not None:
        found = check_labels(indexed.labels, count=count, missing=missing, remedy=remedy)
        return DatasetLabels(CheckedLabels(found.values, found.missing, indexed.class_names))
    indexed.require_one_label()
    items = type(indexed.dataset).__getitem__
    if items is ArrayDataset.__getitem__ or items is TensorDataset.__getitem__:
        whole = indexed.dataset
        values = (
            whole.labels if isinstance(whole, ArrayDataset) else indexed.label_of(whole.tensors)
        )
        found = check_labels(values, count=count, missing=missing, remedy=remedy)
        return DatasetLabels(found)
    notes: list[str] = []
    looked_at: dict[int, Any] = {}
    for attribute, labels in _attributes(indexed.dataset, count):
        if isinstance(labels, str):
            notes.append(
                f"{attribute} of the data set are not its labels ({labels}); its items are read instead"
            )
            continue
        looked_at = looked_at or _some_labels(indexed)
        differ, compared, example = _compare(looked_at, labels)
        if differ == 0:
            if missing == "refuse" and bool(labels.missing.any()):
                check_labels(
                    getattr(indexed.dataset, attribute.strip(".")), count=count, remedy=remedy
                )
            return DatasetLabels(labels, tuple(notes))
        notes.append(
            f"{differ} of {compared} items that were compared have another label than {attribute} says ({example}); "
            "the items are followed, for that is what training sees"
        )
    with isolated_random_state():  # a data set may draw random numbers for its inputs
        values = indexed.own_labels()
    found = check_labels(values, count=count, missing=missing, remedy=remedy)
    _require_steady(indexed, values, looked_at)
    return DatasetLabels(found, tuple(notes))


def _attributes(dataset: Any, count: int) -> list[tuple[str, CheckedLabels | str]]:
    """What may be the labels, by where it was found; text says why it cannot be."""
    if isinstance(dataset, Subset):
        ids = torch.as_tensor(list(dataset.indices))
        return [
            (
                f"{name} of the whole",
                labels
                if isinstance(labels, str)
                else CheckedLabels(labels.values[ids], labels.missing[ids], labels.class_names),
            )
            for name, labels in _attributes(dataset.dataset, len(dataset.dataset))  # type: ignore[arg-type]
        ]
    found: list[tuple[str, CheckedLabels | str]] = []
    for name in ("labels", "targets"):
        try:
            values = getattr(dataset, name, None)
        except Exception as error:  # a property may do, and raise, anything
            found.append((f".{name}", f"they cannot be read: {type(error).__name__}: {error}"))
            continue
        if values is None or isinstance(values, str) or not hasattr(values, "__len__"):
            continue
        if len(values) != count:
            found.append((f".{name}", f"{len(values)} for {count} samples"))
            continue
        try:
            found.append((f".{name}", check_labels(values, missing="drop")))
        except (TypeError, ValueError) as error:
            found.append((f".{name}", str(error)))
    return found


def _some_labels(indexed: IndexedDataset) -> dict[int, Any]:
    """The labels of some items, or of all, by position."""
    with isolated_random_state():
        return {i: indexed.label_of(indexed.item(i)) for i in in_random_order(len(indexed))}


def _compare(looked_at: dict[int, Any], labels: CheckedLabels) -> tuple[int, int, str]:
    """How many items have another label, of how many that were looked at, and one of them in words."""
    order, items = list(looked_at), list(looked_at.values())
    try:
        own = check_labels(items, missing="drop")
    except (TypeError, ValueError) as error:
        return len(items), len(items), str(error)
    ids = torch.tensor(order)
    mine, theirs = (
        _words(own),
        _words(CheckedLabels(labels.values[ids], labels.missing, labels.class_names)),
    )
    rows = [k for k, (a, b) in enumerate(zip(mine, theirs, strict=True)) if a != b]
    example = f"sample {order[rows[0]]}: {mine[rows[0]]} and {theirs[rows[0]]}" if rows else ""
    return len(rows), len(items), example


def _words(labels: CheckedLabels) -> list[Any]:
    """Class numbers, or what they stand for."""
    values: list[Any] = labels.values.tolist()
    names = labels.class_names
    return values if names is None else [None if k < 0 else names[k] for k in values]


def _require_steady(indexed: IndexedDataset, values: Any, before: dict[int, Any]) -> None:
    """Read some items again: a label that is, or was ``before``, another at each access cannot be judged."""
    step = max(1, len(indexed) // READ_TWICE)
    # In another order, for the random numbers are the same as before.
    places = range(0, len(indexed), step)[::-1]
    if getattr(indexed.dataset, "column_names", None):
        return  # a table
    with isolated_random_state():
        again = [(i, indexed.label_of(indexed.item(i))) for i in places]
    again += before.items()
    changed = sum(bare(values[i]) != bare(label) for i, label in again)
    if changed:
        raise ValueError(
            f"{changed} of {len(again)} items have another label when they are read again; labels must stay: draw "
            "label noise once, when the data set is made (mild_ext.corrupt_labels)"
        )
