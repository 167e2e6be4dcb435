"""What a map-style data set is, some of its items, and columns of Hugging Face tables in place of all of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import IterableDataset, Subset

from mild_ext.data.missing import bare
from mild_ext.data.random_state import isolated_random_state

#: What stands for the items of a data set (an attribute, a column) is compared with so many of them at least, and with
#: more, up to all, as long as it takes no more than so many seconds.
LEAST_LOOKED_AT, SECONDS = 200, 3.0


def require_map_style(dataset: Any, name: str = "dataset") -> None:
    """Raise a TypeError for a stream, and for what has no length or no positions."""
    stream = isinstance(dataset, IterableDataset) or type(dataset).__name__ == "IterableDataset"
    if stream or not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        kind = type(dataset).__name__
        what = f"{kind}, a stream; read it into a list first: list(dataset)" if stream else kind
        raise TypeError(
            f"{name} must be a map-style data set (with __len__ and __getitem__): the samples' numbers are "
            f"their positions; got {what}"
        )
    if isinstance(dataset, Subset):
        _require_positions(dataset, name)
    if hasattr(dataset, "iloc"):  # a pandas frame is gone through by its columns
        raise TypeError(
            f"{name} must be a map-style data set, got a {type(dataset).__name__}; give its rows: "
            'frame.to_dict("records")'
        )
    if isinstance(dataset, Mapping):
        raise TypeError(
            f"{name} must be a map-style data set with the positions 0 .. N - 1 as keys, got "
            f"{type(dataset).__name__}; of splits by name, give one of them"
        )


def _require_positions(subset: Subset[Any], name: str) -> None:
    """Raise where a Subset's indices are no positions in the whole: a mask would be taken for the items 0 and 1."""
    if not len(subset.indices):
        return
    indices, total = torch.as_tensor(list(subset.indices)), len(subset.dataset)  # type: ignore[arg-type]
    if indices.dtype == torch.bool:
        raise TypeError(
            f"{name} is a Subset by a mask, but its indices must be positions: Subset(whole, mask.nonzero().flatten())"
        )
    if indices.is_floating_point() or indices.ndim != 1:
        raise TypeError(f"{name} is a Subset whose indices are {indices.dtype}, not whole numbers")
    if int(indices.min()) < -total or int(indices.max()) >= total:
        raise ValueError(
            f"{name} is a Subset with the indices {int(indices.min())} to {int(indices.max())} of a whole of {total} "
            "samples"
        )
    if isinstance(subset.dataset, Subset):
        _require_positions(subset.dataset, f"the whole of {name}")


def in_random_order(count: int) -> Iterator[int]:
    """Positions of items to look at, at least `LEAST_LOOKED_AT` and then as many as `SECONDS` allow."""
    started = time.monotonic()
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0)).tolist()
    for done, position in enumerate(order):
        if done >= LEAST_LOOKED_AT and time.monotonic() - started > SECONDS:
            return
        yield position


def read_column(table: Any, column: str) -> Sequence[Any]:
    """A column of a Hugging Face table; nothing else of the table is read or decoded."""
    values = table.select_columns([column]).with_format("arrow")[:].column(column)
    # Unsigned numbers stay what they are: the largest of them is what -1 becomes.
    whole = str(values.type).startswith("uint") and values.null_count == 0
    found: Sequence[Any] = values.to_numpy() if whole else values.to_pylist()
    return found


def is_transformed(table: Any) -> bool:
    """Whether a Hugging Face table makes its items with a function of its user's (``with_transform``)."""
    return (getattr(table, "format", None) or {}).get("type") == "custom"


def items_agree(table: Any, column: str, values: Sequence[Any]) -> bool:
    """Whether the items that a transform makes hold what the column holds, or do not have it at all."""
    with isolated_random_state():
        for position in in_random_order(len(table)):
            item = table[position]
            if not isinstance(item, Mapping) or column not in item:
                return True
            if bare(item[column]) != bare(values[position]):
                return False
    return True
