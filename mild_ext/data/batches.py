"""Batches of ``(index, inputs, labels)`` for one epoch after another, seeded per epoch.

Arrays in memory are gathered with one index operation a batch. Any other map-style data set goes
through a `DataLoader` whose workers live for the whole training.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from mild_ext import processes
from mild_ext.data.indexed import IndexedDataset
from mild_ext.data.sets import ArrayDataset

Batch = tuple[Tensor, Any, Tensor]


def batch_ids(
    ids: Tensor, batch_size: int, generator: torch.Generator | None, *, split: bool = False
) -> list[Tensor]:
    """Cut ``ids`` (int64 ``[N]``), shuffled by a CPU ``generator`` where given, into batches.

    With ``split`` it is this process' part of them, where torch.distributed is in use: together the
    processes' batches are those of one.

    A last batch of one sample joins the batch before it: batch norm cannot train on one sample.
    """
    if generator is not None:
        ids = ids[torch.randperm(len(ids), generator=generator).to(ids.device)]
    if split:
        # Equally many for every process: a few ids are repeated to fill up.
        ranks = processes.world_size()
        mine = torch.arange(-(-len(ids) // ranks), device=ids.device) * ranks + processes.rank()
        ids, batch_size = ids[mine % len(ids)], max(1, batch_size // ranks)
    batches = list(ids.split(batch_size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


class _SeededBatches(Sampler[list[Any]]):
    """Batch sampler over fixed ids; hands each sample the epoch's seed along with its id."""

    def __init__(self, ids: Tensor, batch_size: int, shuffle: bool) -> None:
        self.ids, self.batch_size, self.shuffle = ids, batch_size, shuffle
        self.seed = 0

    def __len__(self) -> int:
        return len(batch_ids(self.ids, self.batch_size, None, split=self.shuffle))

    def __iter__(self) -> Iterator[list[Any]]:
        generator = torch.Generator().manual_seed(self.seed) if self.shuffle else None
        for batch in batch_ids(self.ids, self.batch_size, generator, split=self.shuffle):
            yield [(i, self.seed) for i in batch.tolist()] if self.shuffle else batch.tolist()


class Batches:
    """The batches of a data set, or of a part of it.

    Args:
        dataset: map-style data set of ``(input, label)``.
        labels: int64 ``[N]`` labels to use in place of the data set's own, or None.
        ids: int64 ids of the samples to go through, or None for all.
        batch_size: samples per batch.
        shuffle: a new order in every epoch, dealt out to the processes of torch.distributed;
            otherwise the order of ``ids``, and all of them.
        device: where inputs and labels are needed.
        workers: worker processes (not used for arrays).
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        labels: Tensor | None = None,
        *,
        ids: Tensor | None = None,
        batch_size: int = 128,
        shuffle: bool = False,
        device: torch.device | str = "cpu",
        workers: int = 0,
    ) -> None:
        self.device = torch.device(device)
        self.ids = torch.arange(len(dataset)) if ids is None else ids.cpu()  # type: ignore[arg-type]
        if len(self.ids) == 0:
            raise ValueError("there are no samples to make batches of")
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.arrays: ArrayDataset | None = None
        if isinstance(dataset, ArrayDataset):
            labels = dataset.labels if labels is None else labels
            where = _home(dataset.inputs, self.device)
            self.arrays = ArrayDataset(dataset.inputs.to(where), labels.to(where))
            self.ids = self.ids.to(where)
            return
        self.sampler = _SeededBatches(self.ids, batch_size, shuffle)
        self.loader = DataLoader(
            IndexedDataset(dataset, labels),
            batch_sampler=self.sampler,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=self.device.type == "cuda",
        )

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(batch_ids(self.ids, self.batch_size, None, split=self.shuffle))

    def epoch(self, seed: int = 0) -> Iterator[Batch]:
        """The batches of one epoch; the same seed gives the same batches."""
        if self.arrays is not None:
            yield from self._array_epoch(self.arrays, seed)
            return
        self.sampler.seed = seed
        for index, inputs, labels in self.loader:
            labels = labels.to(self.device, torch.int64, non_blocking=True)
            yield self._move(index), self._move(inputs), labels

    def _array_epoch(self, arrays: ArrayDataset, seed: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(seed) if self.shuffle else None
        for index in batch_ids(self.ids, self.batch_size, generator, split=self.shuffle):
            inputs, labels = arrays.gather(index), arrays.labels[index]
            yield self._move(index), self._move(inputs), self._move(labels)

    def _move(self, inputs: Any) -> Any:
        """Tensors, and those inside dicts, lists and tuples, to the device."""
        if isinstance(inputs, Tensor):
            return inputs.to(self.device, non_blocking=True)
        if isinstance(inputs, dict):
            return {key: self._move(value) for key, value in inputs.items()}
        if isinstance(inputs, list | tuple):
            return [self._move(value) for value in inputs]
        return inputs


def _home(inputs: Tensor, device: torch.device) -> torch.device:
    """Where arrays should lie: on the GPU that needs them, if they fill at most a quarter of it."""
    if device.type == "cuda" and inputs.nbytes <= torch.cuda.mem_get_info(device)[0] // 4:
        return device
    return inputs.device
