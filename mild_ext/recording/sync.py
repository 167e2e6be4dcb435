"""Merging a status with those of the other ranks: what they must agree on first, and what then travels.

Before anything else the ranks tell each other their sizes and epochs, and what their devices had to skip, so that a
mistake on one of them is raised on all, instead of leaving the others waiting.

What was packed is what counts as sent: what another thread records while a sync is under way travels with the next one,
or the sync is refused.

A status of ``record="status"`` sends the bit planes of the epochs that have news (`mild_ext.recording.epoch_planes`).
What ``"classes"`` and ``"all"`` keep of ended epochs are sums, which cannot be merged; so there the visits of the open
epoch travel, 8 bytes a sample, and are merged by MAX.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mild_ext.processes import Wire
from mild_ext.recording.epoch_planes import count_epoch, count_planes, merge_epoch_, pack_epoch
from mild_ext.recording.epoch_record import EpochRecord

_FAULTS = (
    "an index out of range [0, num_samples)",
    "a label out of range [0, classes)",
    "the epoch past num_epochs",
)


def fault_error(counts: Sequence[int], where: str = "") -> ValueError:
    """What kernels had to skip; counts: rows with a bad index, a bad label, in a bad epoch."""
    what = ", ".join(
        f"{count} rows with {name}" for count, name in zip(counts, _FAULTS, strict=True) if count
    )
    return ValueError(
        f"earlier calls of update(){where} met bad values: {what}. These rows were not recorded; everything else "
        "was. Look at the index and labels given to update(), and at the number of advance() calls"
    )


class RankMerge:
    """Merges one rank's status with the others', and remembers what they already have of it.

    Args:
        epoch: the open epoch; what lies before is taken to be everybody's.
    """

    def __init__(self, epoch: int = 0) -> None:
        self.restart(epoch)

    def restart(self, epoch: int) -> None:
        """After a reset, a load or a merge: the status stands in ``epoch``."""
        # The last epoch that was merged, and how many of its bits all ranks have.
        self._epoch, self._bits = 0, 0
        # Epochs before this one were merged; of a record only the open epoch can be.
        self._until = epoch
        # Of a record: the sum of the open epoch's visits as all ranks have them. Visits only ever grow.
        self._merged: Tensor | None = None
        self._late: Tensor | None = None

    def end_epoch(self, record: EpochRecord) -> None:
        """Before a record's epoch ends: whether visits have come that the other ranks lack; without waiting for it."""
        if self._merged is not None:
            late = record.visits.sum() != self._merged
            self._late = late if self._late is None else self._late | late
            self._merged = None

    def _news(self, words: Tensor, last: int) -> tuple[int, int]:
        """The epochs with bits that the others have not; an empty range if there are none."""
        # Bits are only ever set, so an epoch has news if and only if its number of bits has grown.
        news = [
            epoch
            for epoch in range(self._epoch, last + 1)
            if count_epoch(words, epoch) != (self._bits if epoch == self._epoch else 0)
        ]
        return (news[0], news[-1] + 1) if news else (1 << 40, 0)

    def merge(
        self,
        wire: Wire,
        sizes: Mapping[str, int],
        words: Tensor,
        record: EpochRecord | None,
        faults: Tensor,
    ) -> int:
        """Merge in place; a collective.

        Args:
            wire: the collectives.
            sizes: what the ranks must have the same of, by name; with ``epoch`` and ``num_epochs``.
            words: int64 ``[N, W, 2]``.
            record: what is kept beside the words, if anything.
            faults: int64 ``[3]``, what this rank's device had to skip; emptied.

        Returns:
            Bytes sent.

        Raises:
            ValueError: sizes or epochs differ, an epoch was ended unmerged, or a rank had bad values.
        """
        epoch = sizes["epoch"]
        last = min(epoch, sizes["num_epochs"] - 1)
        window = self._news(words, last) if record is None else (epoch, epoch + 1)
        unmerged = epoch - self._until
        if self._late is not None and bool(self._late):
            unmerged = max(unmerged, 1)
        mine = [*sizes.values(), *faults.tolist(), unmerged, *window]
        table = wire.all_gather(torch.tensor(mine)).tolist()
        self._agree(table, sizes, faults)
        if record is not None:
            self._require_merged(table, len(sizes) + len(_FAULTS))
            sent = self._merge_visits(wire, record)
            self._until = epoch + 1
            return sent
        sent = 0
        bits = self._bits if self._epoch == last else 0
        first = min(row[-2] for row in table)
        for news in range(first, max(row[-1] for row in table)):
            merged, epoch_bytes = wire.bitwise_or(pack_epoch(words, news).flatten())
            merge_epoch_(words, news, merged.view(2, -1))
            if news == last:
                bits = count_planes(merged)
            sent += epoch_bytes
        self._epoch, self._bits = last, bits
        if first < last and count_epoch(words, last) != bits:
            raise RuntimeError(
                "sync: update() ran in another thread while several epochs were merged, which may have cost it visits; "
                "call sync() in every epoch, or while nothing is recorded"
            )
        return sent

    @staticmethod
    def _agree(table: list[list[int]], sizes: Mapping[str, int], faults: Tensor) -> None:
        for column, name in enumerate(sizes):
            values = [row[column] for row in table]
            if len(set(values)) > 1:
                raise ValueError(
                    f"sync: the ranks' statuses must have the same {name}, got {values} by rank; call "
                    "advance() equally often on every rank, and load the same checkpoint on each"
                )
        first = len(sizes)
        counts = [row[first : first + len(_FAULTS)] for row in table]
        bad = [rank for rank, row in enumerate(counts) if any(row)]
        if bad:
            faults.zero_()
            total = [sum(column) for column in zip(*counts, strict=True)]
            raise fault_error(total, f" on rank{'s' * (len(bad) > 1)} {', '.join(map(str, bad))}")

    @staticmethod
    def _require_merged(table: list[list[int]], column: int) -> None:
        late = max(row[column] for row in table)
        if late > 0:
            raise ValueError(
                f"sync: the last {late} epochs were ended by advance() without sync(), or had visits after it; what "
                "this status keeps of ended epochs are sums, which cannot be merged. Call sync() in every epoch, after "
                "its last update() and before advance()"
            )

    def _merge_visits(self, wire: Wire, record: EpochRecord) -> int:
        packed = record.visits.clone()
        merged = wire.all_reduce_max(packed).to(packed.device)
        if not torch.equal(packed, record.visits):
            raise RuntimeError(
                "sync: update() ran in another thread meanwhile. What it recorded is intact, and not sent; call sync() "
                "again on every rank once nothing is recorded"
            )
        record.visits.copy_(merged)
        self._merged = merged.sum()
        return 2 * (wire.ranks - 1) * -(-record.visits.nbytes // wire.ranks)
