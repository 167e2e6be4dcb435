"""Labels, in whatever people keep them: one place that says what is a label, and what is none.

A label is one class number for each sample. `check_labels` makes int64 ``[N]`` of lists, tuples, NumPy
arrays, tensors, pandas and Arrow columns, of integers, whole floats, booleans or text, and refuses
everything else with what it is and what to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mild_ext.data.label_column import MAX_CLASSES, UNLABELED, Column, array_of

Missing = Literal["refuse", "drop"]


@dataclass(frozen=True)
class CheckedLabels:
    """Labels that were looked at.

    Attributes:
        values: int64 ``[N]`` on the CPU; `UNLABELED` where missing.
        missing: bool ``[N]``, True where there is no label; all False unless they may be dropped.
        class_names: the text of each class number, where the labels were text, categories or booleans.
    """

    values: Tensor
    missing: Tensor
    class_names: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.values)

    @property
    def labeled(self) -> Tensor:
        """Int64, the positions that have a label, ascending."""
        return (~self.missing).nonzero().flatten()


def check_labels(
    labels: Any,
    *,
    name: str = "labels",
    count: int | None = None,
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
    missing: Missing = "refuse",
    optional: Any = None,
    remedy: str = "leave these samples out",
) -> CheckedLabels:
    """One class number for each sample, from whatever holds labels.

    Args:
        labels: a list or tuple, a NumPy array (masked ones too), a tensor, a pandas Series or Categorical, an Arrow
            column, or any sequence; ``[N]`` or ``[N, 1]``. Integers in ``[0, 2^18)`` and floats without a fraction stay
            the numbers they are, and so does text that is nothing but whole numbers. Other text is numbered in
            sorted order, categories in their own order, False and True as 0 and 1; ``class_names`` keeps what
            they were.
        name: what to call them in an error.
        count: N; None takes as many as there are.
        num_classes: K, where labels must lie in ``[0, K)``.
        class_names: the names in the order of their numbers, where these are known: text is looked up in them.
        missing: what to do with samples without a label (None, NaN, -1, -100, empty or blank text, what pandas
            reads as missing, masked entries): "refuse" them, or "drop": give them `UNLABELED`.
        optional: bool ``[N]``, the samples that need no label; None: all need one.
        remedy: what else the reader of an error about missing labels can do, after "fill them in, or".

    Returns:
        CheckedLabels.

    Raises:
        TypeError: these are no class numbers: one-hot, soft, several per sample, values of a regression, or objects.
        ValueError: labels are missing, out of range, of another number than samples, or none at all.

    Examples:
        >>> check_labels(["dog", "cat", "dog"]).values.tolist()
        [1, 0, 1]
        >>> check_labels(["dog", None], missing="drop")
        CheckedLabels(values=tensor([ 0, -1]), missing=tensor([False,  True]), class_names=('dog',))
    """
    if missing not in ("refuse", "drop"):
        raise ValueError(f"missing must be 'refuse' or 'drop', got {missing!r}")
    column = Column(name, *array_of(name, labels), code=_as_code(name, labels))
    column.squeeze()
    if count is not None and len(column) != count:
        raise ValueError(
            f"{name} must have one entry for each of the {count} samples, got shape {list(column.values.shape)}"
        )
    if len(column) == 0:
        raise ValueError(f"{name} must hold at least one label, got none")
    names = column.to_numbers(None if class_names is None else [str(c) for c in class_names])
    absent = torch.from_numpy(column.absent)
    # As int64 before: as unsigned numbers, those of missing labels would become a class.
    values = torch.from_numpy(np.where(column.absent, UNLABELED, column.values.astype(np.int64)))
    needed = absent if optional is None else absent & ~torch.as_tensor(optional).cpu()
    if missing == "refuse" and bool(needed.any()):
        column.refuse_missing(needed, remedy)
    if bool(absent.all()):
        raise ValueError(f"{name} hold no label at all: all {len(column)} entries are missing")
    limit = num_classes if num_classes is not None else (None if names is None else len(names))
    _check_range(name, values, ~absent, limit)
    return CheckedLabels(values, absent, None if names is None else tuple(names))


def number_alike(
    columns: Mapping[str, CheckedLabels], *, compact: bool = False
) -> tuple[dict[str, CheckedLabels], list[str]]:
    """Several columns of labels that mean the same classes, numbered alike.

    Args:
        columns: labels by name.
        compact: numbers without names are counted anew from 0, in ascending order, so that no class is empty.

    Returns:
        The labels, and the name of each class.

    Raises:
        TypeError: some columns are text and others numbers.
    """
    text = [name for name, labels in columns.items() if labels.class_names is not None]
    numbers = [name for name in columns if name not in text]
    if text and numbers:
        raise TypeError(
            f"{', '.join(text)} must name the classes as {', '.join(numbers)} does: one is text, the other "
            "numbers; write both alike"
        )
    if text:
        # In sorted order, unless all were given in one and the same (that of categories, say).
        orders = [labels.class_names or () for labels in columns.values()]
        names = list(orders[0])
        if len(set(orders)) > 1:
            names = sorted({name for order in orders for name in order})
        return {
            key: _renumbered(labels, [names.index(c) for c in labels.class_names or ()])
            for key, labels in columns.items()
        }, names
    found = torch.cat([labels.values[labels.labeled] for labels in columns.values()])
    if not compact:
        return dict(columns), [str(k) for k in range(int(found.max()) + 1)]
    classes = found.unique()
    table = torch.full((int(classes[-1]) + 1,), UNLABELED)
    table[classes] = torch.arange(len(classes))
    return {key: _renumbered(labels, table.tolist()) for key, labels in columns.items()}, [
        str(k) for k in classes.tolist()
    ]


def named_as(labels: CheckedLabels, names: Sequence[str]) -> CheckedLabels:
    """Text labels, numbered in the order of ``names``, which has all of theirs."""
    place = {str(name): number for number, name in enumerate(names)}
    numbers = [place[name] for name in labels.class_names or ()]
    return CheckedLabels(
        _renumbered(labels, numbers).values, labels.missing, tuple(map(str, names))
    )


def _as_code(name: str, labels: Any) -> str:
    """An array of the labels as an expression that can be typed, whatever they are called and kept in."""
    code = name if name.replace(".", "_").isidentifier() else "labels"
    is_array = isinstance(labels, Tensor | np.ndarray) and not isinstance(labels, np.matrix)
    return code if is_array else f"numpy.asarray({code})"


def _renumbered(labels: CheckedLabels, numbers: Sequence[int]) -> CheckedLabels:
    table = torch.tensor([*numbers, UNLABELED], dtype=torch.int64)  # -1 finds the last
    return CheckedLabels(table[labels.values], labels.missing)


def _check_range(name: str, values: Tensor, there: Tensor, limit: int | None) -> None:
    found = values[there]
    largest, smallest = int(found.max()), int(found.min())
    if largest >= MAX_CLASSES:
        raise ValueError(
            f"{name} must lie in [0, {MAX_CLASSES}), got {smallest} to {largest}: these are no class numbers but "
            "ids, perhaps; number the classes 0, 1, 2, ..."
        )
    if limit is not None and largest >= limit:
        raise ValueError(
            f"{name} must lie in [0, {limit}), the number of classes, got {smallest} to {largest}"
        )
