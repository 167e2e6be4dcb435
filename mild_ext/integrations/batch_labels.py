"""The given labels of a data set: as they are handed over, and as the batches of a training show them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mild_ext import processes
from mild_ext.data.labels import Missing, check_labels
from mild_ext.rounds import UNKNOWN
from mild_ext.rounds.round_end import who_takes_part
from mild_ext.selection import PlantedLabels


@dataclass(frozen=True)
class GivenLabels:
    """Labels int64 ``[N]`` (-1 for samples that take no part), who takes part, and the names of the classes."""

    labels: Tensor
    train_ids: Tensor | None
    class_names: tuple[str, ...] | None

    @classmethod
    def of(
        cls, labels: Any, num_samples: int, train_ids: Tensor | None, missing: Missing
    ) -> GivenLabels:
        """Look at labels of any kind; samples that have none are refused, or take no part."""
        part = who_takes_part(train_ids, num_samples)
        checked = check_labels(
            labels,
            count=num_samples,
            missing=missing,
            optional=~part,
            remedy="leave these samples out (missing='drop')",
        )
        unlabeled = part & checked.missing
        ids = part & ~unlabeled if bool(unlabeled.any()) else train_ids
        return cls(checked.values, ids, checked.class_names)


class BatchLabels:
    """Notes the label of every sample that comes by: one write on the device for each batch, no waiting.

    Args:
        num_samples: size of the data set, N; ids are its positions.
        device: where indices and labels will be.
        known: int64 ``[N]``, what is known already, -1 where nothing is; or None.
    """

    def __init__(
        self, num_samples: int, device: torch.device | str, known: Tensor | None = None
    ) -> None:
        # A row before the first sample and one behind the last, for ids out of range: a kernel that wrote
        # them elsewhere would bring the process down, while the status skips such rows and says so later.
        self._rows = torch.full((num_samples + 2,), UNKNOWN, dtype=torch.int64, device=device)
        if known is not None:
            self._rows[1:-1] = known.to(device)

    @property
    def labels(self) -> Tensor:
        """Int64 ``[N]`` on the device, -1 where not known; not a copy."""
        return self._rows[1:-1]

    def update(self, index: Tensor, labels: Tensor) -> None:
        """Note a batch.

        Args:
            index: int64 or int32 ``[B]``, sample ids; those out of range are ignored.
            labels: int64 or int32 ``[B]``, the given labels.
        """
        rows = index.to(torch.int64).clamp(-1, len(self._rows) - 2).add_(1)
        self._rows.scatter_(0, rows, labels.to(torch.int64))

    def require(self, expected: Tensor, planted: PlantedLabels | None) -> None:
        """Make sure that these are the labels that were given.

        Args:
            expected: int64 ``[N]`` on the CPU.
            planted: labels planted, which are not looked at here but by what was recorded.

        Raises:
            ValueError: some differ.
        """
        noted = self.labels.cpu()
        differ = ((noted >= 0) & (noted != expected)).nonzero().flatten()
        if planted is not None:
            differ = differ[~planted.mask[differ]]
        if len(differ):
            first = int(differ[0])
            raise ValueError(
                f"{len(differ)} samples came with another label than labels= says (sample {first}: "
                f"{int(noted[first])}, not {int(expected[first])}); give the labels that the batches carry, or make "
                "the batches carry these: IndexedDataset(dataset, labels=labels)"
            )

    def merge(self, group: processes.Group = None) -> None:
        """Take over what the other ranks have noted; a collective of 8 bytes a sample."""
        if processes.world_size(group) == 1:
            return
        wire = processes.Wire(group, self._rows.device, processes.DEFAULT_TIMEOUT)
        wire.check_alive()
        self.labels.copy_(wire.all_reduce_max(self.labels.clamp(min=UNKNOWN)))
