"""Checksums of a data set, part by part: whether what is read today is what was read before."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mild_ext.data.batches import Batches
from mild_ext.data.random_state import isolated_random_state, seed_cpu
from mild_ext.data.sets import ArrayDataset, LabeledData


def data_checksums(data: LabeledData, *, workers: int = 0) -> dict[str, str | None]:
    """A checksum for each thing that a training on these data depends on, by its name in words.

    Args:
        data: before label noise was put in. What does not lie in memory is read once.
        workers: processes that read it.

    Returns:
        16 hexadecimal digits each; None where there is no such thing, or where reading a sample twice gives
        two different ones, so that inputs cannot be told from others.
    """
    test = data.test
    return {
        "the training inputs": _of_inputs(data.plain or data.train, workers),
        "the given labels": labels_checksum(data.labels),
        "the true labels": None if data.true_labels is None else labels_checksum(data.true_labels),
        "the test inputs": None if test is None else _of_inputs(test, workers),
        "the test labels": None if test is None else _of_labels(test, workers),
        "the classes": _hex("\0".join(data.class_names).encode("utf-8", "surrogatepass")),
    }


def labels_checksum(labels: Tensor) -> str:
    """16 hexadecimal digits of labels, int64 ``[N]``: those of the SHA-256 of their bytes."""
    return _hex(labels.cpu().contiguous().numpy().tobytes())


def _hex(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _of_labels(dataset: Dataset[Any], workers: int) -> str:
    labels = getattr(dataset, "labels", None)
    if isinstance(labels, Tensor):
        return labels_checksum(labels)
    with isolated_random_state():
        read = [batch[2] for batch in Batches(dataset, batch_size=512, workers=workers).epoch()]
    return labels_checksum(torch.cat(read))


def _of_inputs(dataset: Dataset[Any], workers: int) -> str | None:
    digest = hashlib.sha256()
    if isinstance(dataset, ArrayDataset):
        _add(digest, dataset.inputs)
        return digest.hexdigest()[:16]
    with isolated_random_state():
        twice = set()
        for _ in range(2):
            seed_cpu(0)  # augmentation by the global generators repeats itself
            first = hashlib.sha256()
            _add(first, dataset[0][0])
            twice.add(first.digest())
        if len(twice) > 1:
            return None
        seed_cpu(0)
        for _, inputs, _ in Batches(dataset, batch_size=512, workers=workers).epoch():
            _add(digest, inputs)
    return digest.hexdigest()[:16]


def _add(digest: Any, value: Any) -> None:
    """Tensors by kind, shape and bytes, also those inside dicts and lists; whatever else by its text."""
    if isinstance(value, Tensor):
        values = value.detach().cpu().contiguous()
        digest.update(f"{values.dtype} {tuple(values.shape)}".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().data if values.numel() else b"")
    elif isinstance(value, dict):
        for name in sorted(value):
            digest.update(str(name).encode("utf-8", "surrogatepass"))
            _add(digest, value[name])
    elif isinstance(value, list | tuple):
        for item in value:
            _add(digest, item)
    else:
        digest.update(repr(value).encode("utf-8", "surrogatepass"))
