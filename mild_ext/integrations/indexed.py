"""Data whose items and batches carry the samples' ids, for loops that take mappings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

#: Key of the sample ids in features and batches.
INDEX = "index"


class IndexedItems(Dataset[dict[str, Any]]):
    """A data set of mappings, each with its position in it under the key ``index``.

    Args:
        dataset: map-style data set of mappings.
        labels: int64 ``[N]``, labels in place of the data set's own, e.g. a tracker's ``training_labels``; read
            anew at every access. None leaves them.
        label_key: where a label stands in an item.

    Raises:
        ValueError: labels of another number than items.

    Examples:
        >>> from mild_ext.integrations.transformers import IndexedItems
        >>> IndexedItems([{"labels": 1}, {"labels": 0}])[1]
        {'labels': 0, 'index': 1}
    """

    def __init__(
        self, dataset: Any, labels: Tensor | None = None, label_key: str = "labels"
    ) -> None:
        if labels is not None and len(labels) != len(dataset):
            raise ValueError(f"labels must have length {len(dataset)}, got {len(labels)}")
        self.dataset, self.labels, self.label_key = dataset, labels, label_key

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, i: int) -> dict[str, Any]:
        item = {**self.dataset[i], INDEX: i}
        if self.labels is not None:
            item[self.label_key] = int(self.labels[i])
        return item


class IndexCollator:
    """A data collator that hands the samples' ids past another one, which need not know of them.

    Args:
        collator: makes a batch (a mapping) of a list of features.

    Examples:
        >>> from transformers import default_data_collator
        >>> from mild_ext.integrations.transformers import IndexCollator
        >>> IndexCollator(default_data_collator)([{"labels": 1, "index": 7}])
        {'labels': tensor([1]), 'index': tensor([7])}
    """

    def __init__(self, collator: Callable[[list[Any]], Any]) -> None:
        self.collator = collator

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> Any:
        batch = self.collator([{k: v for k, v in f.items() if k != INDEX} for f in features])
        if all(INDEX in feature for feature in features):
            batch[INDEX] = torch.tensor([int(feature[INDEX]) for feature in features])
        return batch
