"""`ShardedStatus`: learning status for data sets whose words do not fit one device.

Each rank keeps its share of the samples, and selection works from the summed histogram.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mild_ext.processes import DEFAULT_TIMEOUT, Group, Wire, add_up, rank, world_size
from mild_ext.recording.dynamics import Dynamics, MajorityVote
from mild_ext.recording.status import IGNORED_LABEL, LearningStatus
from mild_ext.recording.transitions import TransitionTimes


class ShardedStatus:
    """Learning status whose samples are spread over the ranks of a group.

    Rank r keeps the words of the samples ``ids[r]``: consecutive, as many on each rank as the division
    allows. A batch may hold any samples: their visits are kept aside, and `advance` sends them to their
    owners (a collective), 4 bytes each, 12 with more than ``record="status"``. Works like `LearningStatus`
    otherwise; what has an entry per sample covers this rank's samples, while `histogram` and `label_wave`
    are summed over all ranks, so that `select_clean` gives each rank its part of one and the same selection.

    Args:
        num_samples: samples in the data set, all ranks together.
        num_epochs: epochs to record.
        num_classes, record: as in `LearningStatus`.
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
        num_classes: int | None = None,
        record: str | None = None,
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
        self._kinds: dict[str, Any] = {"num_classes": num_classes, "record": record}
        self.local = LearningStatus(len(self.ids), num_epochs, device=device, **self._kinds)
        # Of each batch: sample ids, and what the visits are; for "status" both in one number.
        self._visits: list[Tensor] = []
        self._worst: list[Tensor] = []

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
        counted = labels != IGNORED_LABEL
        if not bool(counted.all()):
            index, logits, labels = index[counted], logits[counted], labels[counted]
        if len(index) == 0:
            return
        if bool(((index < 0) | (index >= self.total_samples)).any()):
            raise ValueError(f"index must be in [0, {self.total_samples})")
        # The native core says what the visits are: one row of a status of its own per sample of the batch.
        rows = LearningStatus(len(index), 1, device=self.device, **self._kinds)
        rows.update(torch.arange(len(index), device=self.device), logits, labels)
        index = index.to(self.device, torch.int64)
        if rows.open_visits is None:
            self._visits.append(index * 2 + rows.words[:, 0, 1])
        else:
            rows.compute()  # raises for a label out of range on a CUDA device
            self._visits.append(index)
            self._worst.append(rows.open_visits)

    def sync(self) -> int:
        """Send the visits to the ranks that own the samples; a collective.

        Returns:
            Bytes this rank sent.

        Raises:
            RuntimeError: a rank died, or did not arrive in time. The visits are kept.
        """
        sent = self._sync_visits() if self.local.open_visits is not None else self._sync_status()
        self._visits.clear()
        self._worst.clear()
        return sent

    def _wire(self) -> Wire | None:
        if world_size(self.group) == 1:
            return None
        wire = Wire(self.group, self.device, self.timeout)
        wire.check_alive()
        return wire

    def _pieces(self, wire: Wire, ordered: Tensor, width: int) -> list[int]:
        """How many of the ordered numbers are each owner's; a sample has ``width`` of them."""
        owners = torch.arange(wire.ranks + 1, device=ordered.device) * (width * self._share)
        pieces: list[int] = torch.searchsorted(ordered, owners).diff().tolist()
        return pieces

    def _sync_status(self) -> int:
        visits = torch.cat(self._visits).unique() if self._visits else torch.empty(0).long()
        sent, wire = 0, self._wire()
        if wire is not None:
            # Sorted by id, so that each owner's part is one piece.
            pieces = self._pieces(wire, visits, 2)
            offsets = (visits % (2 * self._share)).to(torch.int32)
            received = wire.all_to_all(offsets, pieces)
            sent = offsets.element_size() * (len(offsets) - pieces[rank(self.group)])
            visits = received.to(torch.int64)
        if len(visits):
            wrong = (visits % 2).to(self.device)
            # Class 0 is the label of all, and the larger logit where the visit was memorized.
            logits = torch.stack([1 - wrong, wrong], dim=1).float()
            labels = torch.zeros_like(wrong)
            self.local.update((visits // 2).to(self.device), logits, labels)
        return sent

    def _sync_visits(self) -> int:
        ids = torch.cat(self._visits) if self._visits else torch.empty(0).long()
        worst = torch.cat(self._worst) if self._worst else torch.empty(0).long()
        sent, wire = 0, self._wire()
        if wire is not None:
            order = ids.argsort()
            pieces = self._pieces(wire, ids[order], 1)
            offsets = (ids[order] % self._share).to(torch.int32)
            elsewhere = len(offsets) - pieces[rank(self.group)]
            sent = elsewhere * (offsets.element_size() + worst.element_size())
            worst = wire.all_to_all(worst[order], pieces).to(self.device)
            ids = wire.all_to_all(offsets, pieces).to(self.device, torch.int64)
        record = self.local.open_visits
        if len(ids) and record is not None:
            record.scatter_reduce_(0, ids.to(self.device), worst.to(self.device), "amax")
        return sent

    def advance(self) -> None:
        """`sync`, then go on to the next epoch; a collective."""
        self.sync()
        self.local.advance()

    def reset(self) -> None:
        """Forget everything that was recorded on this rank; call it on all."""
        self._visits.clear()
        self._worst.clear()
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

    def label_wave(self, epochs: slice | None = None) -> Tensor:
        """`LearningStatus.label_wave` over the samples of all ranks; a collective."""
        counts = self.local.label_wave(epochs)
        if world_size(self.group) > 1:
            counts = Wire(self.group, self.device, self.timeout).all_gather(counts).sum(0)
        return counts

    def majority_vote(
        self, epochs: slice | None = None, exclude: Tensor | None = None
    ) -> MajorityVote:
        """`LearningStatus.majority_vote` for this rank's samples."""
        return self.local.majority_vote(epochs, exclude)

    def misclassified_for(self, labels: Tensor, epochs: slice | None = None) -> Tensor:
        """`LearningStatus.misclassified_for` for this rank's samples; labels: of these."""
        return self.local.misclassified_for(labels, epochs)

    def shortfall(self, *, first_half: bool = False) -> Tensor:
        """`LearningStatus.shortfall` for this rank's samples."""
        return self.local.shortfall(first_half=first_half)

    def dynamics(self, *, k: int = 3) -> Dynamics:
        """`LearningStatus.dynamics` for this rank's samples."""
        return self.local.dynamics(k=k)

    def state_dict(self) -> dict[str, Any]:
        """This rank's state; every rank saves its own. Call it after `sync`."""
        return self.local.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave on the same rank of as many."""
        self._visits.clear()
        self._worst.clear()
        self.local.load_state_dict(state)
