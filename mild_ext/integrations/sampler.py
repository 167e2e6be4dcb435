"""`KeptSampler`: draws the samples that a tracker watches, each rank its part."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data.distributed import DistributedSampler

from mild_ext import processes


class Watcher(Protocol):
    """What the sampler asks of a `mild_ext.integrations.RoundTracker`."""

    seed: int
    epochs: int
    group: processes.Group

    @property
    def watched(self) -> Tensor: ...


class KeptSampler(DistributedSampler[int]):
    """Goes through the samples a tracker watches (its kept ones), each rank through its part.

    The order follows from the tracker's seed and its number of epochs ended, so it changes with every
    epoch without ``set_epoch``, and a resumed training draws what it would have drawn. As
    in torch's DistributedSampler, every rank gets equally many ids: a few are repeated to fill up, or
    some left out with ``drop_last``; neither disturbs the status.

    Args:
        tracker: whose ``watched`` and ``epochs`` count, at the time of iteration.
        shuffle: False: in the order of ids.
        num_replicas, rank: None asks torch.distributed at the time of iteration. Accelerate, and with it
            the Transformers Trainer, deals out batches by itself: give ``num_replicas=1`` there.
        drop_last: leave out the remainder.
    """

    def __init__(
        self,
        tracker: Watcher,
        *,
        shuffle: bool = True,
        num_replicas: int | None = None,
        rank: int | None = None,
        drop_last: bool = False,
    ) -> None:
        # Not DistributedSampler.__init__, which wants to know the process group at once. Being one makes
        # Lightning leave the sampler alone.
        if num_replicas == 1 and rank is None:
            rank = 0
        if (num_replicas is None) != (rank is None):
            raise ValueError("num_replicas and rank must be given together")
        self.tracker, self.shuffle, self.drop_last = tracker, shuffle, drop_last
        self._given = None if num_replicas is None or rank is None else (rank, num_replicas)

    @property
    def rank(self) -> int:  # type: ignore[override]
        """Which part is drawn."""
        return self._given[0] if self._given else processes.rank(self.tracker.group)

    @property
    def num_replicas(self) -> int:  # type: ignore[override]
        """Into how many parts the samples are dealt."""
        return self._given[1] if self._given else processes.world_size(self.tracker.group)

    def __len__(self) -> int:
        """Ids that one rank gets."""
        count, parts = int(self.tracker.watched.sum()), self.num_replicas
        return count // parts if self.drop_last else -(-count // parts)

    def __iter__(self) -> Iterator[int]:
        ids = self.tracker.watched.nonzero().flatten()
        if self.shuffle:
            order = torch.Generator().manual_seed(self.tracker.seed + self.tracker.epochs)
            ids = ids[torch.randperm(len(ids), generator=order)]
        positions = torch.arange(len(self)) * self.num_replicas + self.rank
        return iter(ids[positions % len(ids)].tolist())

    def set_epoch(self, epoch: int) -> None:
        """Does nothing: the tracker knows the epoch."""
