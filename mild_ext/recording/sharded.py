"""`ShardedStatus`: learning status for data sets whose words do not fit one device.

Each rank keeps its share of the samples, and selection works from the summed histogram.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mild_ext.processes import DEFAULT_TIMEOUT, Group, Wire, add_up, rank, world_size
from mild_ext.recording.status import LearningStatus
from mild_ext.recording.transitions import TransitionTimes


class ShardedStatus:
    """Learning status whose samples are spread over the ranks of a group.

    Rank r keeps the words of the samples ``ids[r]``: consecutive, as many on each rank as the division
    allows. A batch may hold any samples: their statuses are kept aside, 4 bytes per visit, and
    `advance` sends them to their owners (a collective). Works like `LearningStatus` otherwise;
    what has an entry per sample covers this rank's samples, while `histogram` is summed over all
    ranks, so that `select_clean` gives each rank its part of one and the same selection.

    Args:
        num_samples: samples in the data set, all ranks together.
        num_epochs: epochs to record.
        group: process group; None is the default one (or this process alone).
        device: where this rank's words are.
        timeout: seconds to wait for the other ranks in a collective.

    Attributes:
        total_samples: samples in the data set.
        ids: this rank's samples, a range of ids.
        local: their LearningStatus.
    """

    def __init__(
        self,
        num_samples: int,
        num_epochs: int,
        *,
        group: Group = None,
        device: torch.device | str = "cpu",
        timeout: float = DEFAULT_TIMEOUT,
    ) -> None:
        ranks, self.group, self.timeout = world_size(group), group, timeout
        self.total_samples = num_samples
        self._share = -(-num_samples // ranks)
        if self._share >= 1 << 30:
            raise ValueError(
                f"num_samples must leave fewer than 2^30 samples per rank, got {num_samples} for "
                f"{ranks} ranks; use more ranks"
            )
        start = min(rank(group) * self._share, num_samples)
        self.ids = range(start, min(start + self._share, num_samples))
        if len(self.ids) == 0:
            raise ValueError(
                f"num_samples must give every rank a sample, got {num_samples} for {ranks} ranks"
            )
        self.local = LearningStatus(len(self.ids), num_epochs, device=device)
        self._visits: list[Tensor] = []

    @property
    def num_samples(self) -> int:
        """Samples of this rank."""
        return len(self.ids)

    @property
    def num_epochs(self) -> int:
        """Epochs that can be recorded."""
        return self.local.num_epochs

    @property
    def epoch(self) -> int:
        """The current epoch."""
        return self.local.epoch

    @property
    def device(self) -> torch.device:
        """Where this rank's words are."""
        return self.local.device

    def update(self, index: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Record a batch of any samples; as `LearningStatus.update`, but not yet seen by others.

        Raises:
            ValueError: an index is outside ``[0, total_samples)``.
        """
        if self.epoch >= self.num_epochs:
            raise ValueError(f"all {self.num_epochs} epochs are recorded; reset() first")
        if index.shape != labels.shape or index.ndim != 1:
            raise ValueError(
                f"index must be [B] like labels, got {list(index.shape)} and {list(labels.shape)}"
            )
        if len(index) == 0:
            return
        if bool(((index < 0) | (index >= self.total_samples)).any()):
            raise ValueError(f"index must be in [0, {self.total_samples})")
        # The native core says what is memorized: one row of a status of its own per sample of the batch.
        rows = LearningStatus(len(index), 1, device=self.device)
        rows.update(torch.arange(len(index), device=self.device), logits, labels)
        self._visits.append(index.to(torch.int64) * 2 + rows.words[:, 0, 1])

    def sync(self) -> int:
        """Send the visits to the ranks that own the samples; a collective.

        Returns:
            Bytes this rank sent.

        Raises:
            RuntimeError: a rank died, or did not arrive in time. The visits are kept.
        """
        visits = torch.cat(self._visits).unique() if self._visits else torch.empty(0).long()
        sent = 0
        if world_size(self.group) > 1:
            wire = Wire(self.group, self.device, self.timeout)
            wire.check_alive()
            # Sorted by id, so each owner's part is one piece.
            owners = torch.arange(wire.ranks + 1, device=visits.device) * (2 * self._share)
            pieces = torch.searchsorted(visits, owners).diff()
            offsets = (visits % (2 * self._share)).to(torch.int32)
            received = wire.all_to_all(offsets, pieces.tolist())
            sent = offsets.element_size() * (len(offsets) - int(pieces[rank(self.group)]))
            visits = received.to(torch.int64)
        self._visits.clear()
        if len(visits):
            wrong = (visits % 2).to(self.device)
            # Class 0 is the label of all, and the larger logit where the visit was memorized.
            logits = torch.stack([1 - wrong, wrong], dim=1).float()
            labels = torch.zeros_like(wrong)
            self.local.update((visits // 2).to(self.device), logits, labels)
        return sent

    def advance(self) -> None:
        """`sync`, then go on to the next epoch; a collective."""
        self.sync()
        self.local.advance()

    def reset(self) -> None:
        """Forget everything that was recorded on this rank; call it on all."""
        self._visits.clear()
        self.local.reset()

    def histogram(self, epochs: slice | None = None) -> Tensor:
        """Counts over the samples of all ranks, as `LearningStatus.histogram`; a collective."""
        counts = self.local.histogram(epochs)
        if world_size(self.group) > 1:
            wire = Wire(self.group, self.device, self.timeout)
            counts = wire.all_gather(counts.flatten()).sum(0).view_as(counts)
        return counts

    def lookup(self, table: Tensor, epochs: slice | None = None) -> Tensor:
        """`LearningStatus.lookup` for this rank's samples."""
        return self.local.lookup(table, epochs)

    def add_up(self, values: Sequence[float]) -> list[float]:
        """The sums over all ranks of figures about each one's samples; a collective."""
        return add_up(values, self.device, self.group)

    def compute(self, epochs: slice | None = None) -> TransitionTimes:
        """`LearningStatus.compute` for this rank's samples."""
        return self.local.compute(epochs)

    def state_dict(self) -> dict[str, Any]:
        """This rank's state; every rank saves its own. Call it after `sync`."""
        return self.local.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave on the same rank of as many."""
        self._visits.clear()
        self.local.load_state_dict(state)
