"""`IndexedDataset`: one wrapper that gives every sample a number, whatever the data set's items look like."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mild_ext.data.labels import check_labels
from mild_ext.data.map_style import is_transformed, items_agree, read_column, require_map_style
from mild_ext.data.random_state import isolated_random_state, seed_cpu

#: Where something stands in an item: a key, a position, or a function of the item.
Place = str | int | Callable[[Any], Any]

#: Under which keys labels are looked for in items that are mappings.
LABEL_KEYS = ("label", "labels", "target", "targets", "y")
#: What a second label of an item is called: with one of these it must be said which is which.
_OTHER_LABEL = re.compile(
    r"(noisy|clean|true|given|observed|corrupt\w*|human|weak|original)_?(label|target)s?|"
    r"(label|target)s?_?(noisy|clean|true|given|observed|corrupt\w*|human|weak|original)"
)


class IndexedDataset(Dataset[tuple[int, Any, Any]]):
    """Makes any map-style data set give ``(index, input, label)``.

    ``index`` is the sample's number: its position in the wrapped data set, whatever ids of its own it has.

    Args:
        dataset: map-style data set, or a list. Items are ``(input, label)``, mappings as Hugging Face has them, or
            anything else where the next three say what is what. Its length must stay.
        labels: where an item's label is (a key, a position, or a function of the item), or the labels themselves, one
            for each sample, in place of the data set's own: as `mild_ext.data.check_labels` takes them. An int64
            tensor is read anew at every access, so a tracker's ``training_labels``, which change from round to
            round, may be given. None: an item's second entry, or what a mapping has under one of `LABEL_KEYS`.
        inputs: where an item's input is: a key, a position, a function of the item, or several keys, which
            give a dict. None: the first entry, or of a mapping all but label and id.
        index: where an item's own id is, or the ids themselves, one for each sample: of any kind, each once. They are
            kept in ``ids``, for `position_of`. None: there are none.

    Attributes:
        labels: int64 ``[N]``, the labels that take the place of the data set's own, or None.
        class_names: the text of each class number, where ``labels`` found text, else None.
        ids: the samples' own ids in the order of their positions, or None.

    An item may also be asked for as ``(index, seed)``: then the random generators of Python, NumPy
    and torch are seeded from both before the item is read, so random augmentation inside the data
    set comes out the same whatever the number of worker processes, and after a resume.

    Raises:
        TypeError: a stream (IterableDataset), which has no positions; or items in which nothing is found.
        ValueError: labels or ids of another number than samples, ids that occur twice, or labels that are none.
        RuntimeError: when an item is asked for: the data set has grown or shrunk.

    Examples:
        >>> from mild_ext import IndexedDataset
        >>> rows = [{"id": "b7", "text": [1, 2], "label": "dog"}, {"id": "a3", "text": [3, 4], "label": "cat"}]
        >>> data = IndexedDataset(rows, index="id", inputs="text", labels="label")
        >>> data[0], data.class_names, data.position_of("a3")
        ((0, [1, 2], tensor(1)), ('cat', 'dog'), 1)
    """

    def __init__(
        self,
        dataset: Any,
        labels: Any = None,
        *,
        inputs: Place | Sequence[str] | None = None,
        index: Any = None,
    ) -> None:
        require_map_style(dataset)
        self.labels: Tensor | None = None
        self.class_names: tuple[str, ...] | None = None
        self.ids: Sequence[Any] | None = None
        self._position: dict[Any, int] | None = None
        self._label: Place | None = None
        self._id: Place | None = None
        self._inputs = inputs
        self.dataset = dataset
        if isinstance(dataset, IndexedDataset):  # say the rest of what is what
            self.dataset = dataset.dataset
            self.labels, self.class_names = dataset.labels, dataset.class_names
            self.ids, self._id, self._label = dataset.ids, dataset._id, dataset._label
            self._inputs = dataset._inputs if inputs is None else inputs
        self._count = len(self.dataset)
        if is_place(index):
            self._id = index
            index = self._read(index)
        if index is not None:
            self.ids, self._position = list(index), None
            if len(self.ids) != self._count:
                raise ValueError(f"index must have length {self._count}, got {len(self.ids)}")
            self._positions()
        if is_place(labels):
            self._label, self.labels, self.class_names = labels, None, None
            if self._is_column(labels):  # cheap, and nothing else is read
                self._take(self._read(labels))
                names = getattr(self.dataset.features[labels], "names", None)
                self.class_names = self.class_names if names is None else tuple(names)
            elif self._count and isinstance(self._first_label(), str):
                self._take(self._read(labels))
        elif labels is not None:
            if not hasattr(labels, "__len__"):
                raise TypeError(
                    "labels must be a key, a position, a function of an item, or one label for each sample, got "
                    f"{type(labels).__name__}"
                )
            if len(labels) != self._count:
                raise ValueError(f"labels must have length {self._count}, got {len(labels)}")
            self._take(labels)

    def __len__(self) -> int:
        self._require_length()
        return self._count

    def __getitem__(self, index: int | tuple[int, int]) -> tuple[int, Any, Any]:
        if isinstance(index, tuple):
            index, seed = index
            seed_cpu(hash((seed, index)) & (2**63 - 1))
        self._require_length()
        index = operator.index(index)
        if not -self._count <= index < self._count:
            raise IndexError(f"index {index} of {self._count} samples")
        index %= self._count
        item = self.item(index)
        inputs = self._input_of(item, index)
        if self.labels is not None:
            return index, inputs, self.labels[index]
        return index, inputs, _class_number(self.label_of(item), index)

    def position_of(self, sample_id: Any) -> int:
        """The position of the sample with this id of its own.

        Raises:
            KeyError: there is no such id, or there are none at all.
        """
        positions = self._positions()
        if sample_id not in positions:
            raise KeyError(f"no sample has the id {sample_id!r}; ids are those given as index=")
        return positions[sample_id]

    def label_of(self, item: Any) -> Any:
        """The label in an item of the wrapped data set, as it stands there."""
        if self._label is not None:
            return _take_out(item, self._label, "labels")
        if isinstance(item, Mapping):
            return item[_label_key(item)]
        if isinstance(item, list | tuple) and len(item) >= 2:
            return item[1]
        raise TypeError(
            f"items must be (input, label) or mappings, got {_describe(item)}; say where the label is: "
            "IndexedDataset(dataset, inputs=..., labels=...)"
        )

    def own_labels(self) -> Sequence[Any]:
        """The label of every item, as it stands there; of a Hugging Face table without reading its inputs."""
        if self._label is not None:
            return self._read(self._label)
        columns = getattr(self.dataset, "column_names", None)
        if isinstance(columns, list) and columns and self._count:
            item = self.dataset[0] if is_transformed(self.dataset) else dict.fromkeys(columns)
            key = _label_key(item) if isinstance(item, Mapping) else None
            if key in columns:
                return self._read(str(key))
        return [self.label_of(self.item(i)) for i in range(self._count)]

    def item(self, position: int) -> Any:
        """What the wrapped data set has there.

        Raises:
            ValueError: it has nothing there, although its length says so.
        """
        try:
            return self.dataset[position]
        except IndexError as error:
            raise ValueError(
                f"the data set says that it has {self._count} samples, but reading item {position} ends in an "
                f"IndexError: {error}"
            ) from error

    def require_one_label(self) -> None:
        """Raise where items such as ``(input, label, other label)`` leave open which of them counts.

        Raises:
            TypeError: beside the second entry of some items that were looked at, another one looks like a class.
        """
        is_table = getattr(self.dataset, "column_names", None)  # its items are mappings
        if self._label is not None or self.labels is not None or is_table:
            return
        positions = range(0, self._count, max(1, self._count // 50))
        with isolated_random_state():
            items = []
            for position in positions:
                items.append(self.item(position))
                if not isinstance(items[-1], list | tuple) or len(items[-1]) <= 2:
                    return
        for place in range(2, min(map(len, items))):
            entries = [item[place] for item in items]
            if not all(map(_is_number, entries)):
                continue
            numbers = [int(entry) for entry in entries]
            few = 1 < len(set(numbers)) <= len(numbers) / 2  # more are ids
            others = [k for k, item in enumerate(items) if not _equal(item[1], numbers[k])]
            if few and others and numbers != list(positions):
                k = others[0]
                raise TypeError(
                    f"items have two whole numbers that may be the label (item {positions[k]}: {items[k][1]} in "
                    f"place 1, {numbers[k]} in place {place}); say which is: IndexedDataset(dataset, inputs=0, "
                    f"labels=1), or labels={place}"
                )

    # ---- details

    def _input_of(self, item: Any, index: int) -> Any:
        where = self._inputs
        if isinstance(where, str | int) or callable(where):
            return _take_out(item, where, "inputs")
        if where is not None:
            return {key: _take_out(item, key, "inputs") for key in where}
        if isinstance(item, Mapping):
            without = {self._id, self._label}
            if self._label is None and any(key in item for key in LABEL_KEYS):
                without |= {_label_key(item)} if self.labels is None else set(LABEL_KEYS)
            return {key: value for key, value in item.items() if key not in without}
        if isinstance(item, list | tuple) and len(item) >= 1:
            if len(item) > 2 and index > 0 and _is_number(item[0]) and int(item[0]) == index:
                raise TypeError(
                    f"item {index} begins with its own position, so what its input is must be said: "
                    "IndexedDataset(dataset, inputs=1, labels=2)"
                )
            return item[0]
        if self.labels is not None or self._label is not None:
            return item  # nothing but an input
        raise TypeError(
            f"items must be (input, label) or mappings, got {_describe(item)}; say what is what: "
            "IndexedDataset(dataset, inputs=..., labels=...)"
        )

    def _take(self, labels: Any) -> None:
        checked = check_labels(labels, count=self._count)
        self.class_names = checked.class_names
        plain = isinstance(labels, Tensor) and labels.dtype == torch.int64 and labels.ndim == 1
        self.labels = labels if plain else checked.values

    def _first_label(self) -> Any:
        with isolated_random_state():
            return self.label_of(self.item(0))

    def _read(self, where: Place) -> Sequence[Any]:
        """What stands there, of all items; of a Hugging Face table without reading the other columns."""
        if self._is_column(where):
            column = read_column(self.dataset, str(where))
            if not is_transformed(self.dataset) or items_agree(self.dataset, str(where), column):
                return column
        with isolated_random_state():  # a data set may draw random numbers for its inputs
            return [_take_out(self.item(i), where, "index") for i in range(self._count)]

    def _is_column(self, where: Place) -> bool:
        """Whether the data set is a Hugging Face table, and this one of its columns."""
        columns = getattr(self.dataset, "column_names", None)
        if not (isinstance(where, str) and isinstance(columns, list)):
            return False
        if where not in columns:
            raise TypeError(f"there is no column {where!r}; there are {', '.join(columns)}")
        return hasattr(self.dataset, "select_columns")

    def _positions(self) -> dict[Any, int]:
        if self.ids is None:
            raise KeyError("the samples have no ids; give them as index=")
        if self._position is None:
            ids = [
                i.item() if isinstance(i, Tensor | np.generic) and i.ndim == 0 else i
                for i in self.ids
            ]
            self._position = {key: place for place, key in enumerate(ids)}
            if len(self._position) != self._count:
                twice = next(key for place, key in enumerate(ids) if self._position[key] != place)
                raise ValueError(f"index must name each sample once, but {twice!r} occurs twice")
        return self._position

    def _require_length(self) -> None:
        now = len(self.dataset)
        if now != self._count:
            raise RuntimeError(
                f"the data set had {self._count} samples when it was wrapped and has {now} now; data that grow or "
                "shrink cannot be tracked: wrap a copy of fixed length"
            )


def is_place(value: Any) -> bool:
    """Whether this says where something stands in an item."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return (
        isinstance(value, str) or is_number or (callable(value) and not hasattr(value, "__len__"))
    )


def _label_key(item: Mapping[str, Any]) -> str:
    found = [key for key in LABEL_KEYS if key in item]
    if len(found) == 1:
        found += [key for key in item if _OTHER_LABEL.fullmatch(str(key).lower())][:1]
    if len(found) != 1:
        what = (
            f"both {found[0]!r} and {found[1]!r}" if found else f"none of {', '.join(LABEL_KEYS)}"
        )
        raise TypeError(
            f"items that are mappings must have one label, but these have {what} (keys: {', '.join(map(str, item))}); "
            "say which: IndexedDataset(dataset, labels=KEY)"
        )
    return found[0]


def _take_out(item: Any, where: Place, what: str) -> Any:
    if callable(where):
        return where(item)
    try:
        return item[where]
    except (KeyError, IndexError, TypeError) as error:
        raise TypeError(
            f"{what}={where!r} is not in an item, which is {_describe(item)}"
        ) from error


def _describe(item: Any) -> str:
    if isinstance(item, Mapping):
        return f"a mapping with the keys {', '.join(map(str, item))}"
    if isinstance(item, list | tuple):
        return f"a {type(item).__name__} of {len(item)}"
    return f"a {type(item).__name__}"


def _is_number(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.ndim == 0 and not value.is_floating_point()
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _equal(label: Any, number: int) -> bool:
    return _is_number(label) and int(label) == number


def _class_number(label: Any, index: int) -> Any:
    """The label as it is where it is a class number, or one for each token or pixel."""
    if isinstance(label, Tensor | np.ndarray) and label.ndim > 0:
        return label  # looked at where it is recorded
    if _is_number(label) and label >= 0:
        return label
    if isinstance(label, list | tuple) and len(label) != 1:
        raise TypeError(
            f"item {index} has {len(label)} labels; choose one, as in IndexedDataset(dataset, labels=lambda item: ...)"
        )
    if isinstance(label, str):
        raise TypeError(
            f"the label of item {index} is the text {label!r}; have them numbered by saying where they are: "
            "IndexedDataset(dataset, labels=1), or labels=KEY where items are mappings"
        )
    return int(check_labels([label], name=f"labels (of item {index})").values[0])
