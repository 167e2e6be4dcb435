"""The given labels of a data set, as the batches of a training show them."""

from __future__ import annotations

import torch
from torch import Tensor

from mild_ext import processes
from mild_ext.round_end import UNKNOWN


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

    def merge(self, group: processes.Group = None) -> None:
        """Take over what the other ranks have noted; a collective of 8 bytes a sample."""
        if processes.world_size(group) == 1:
            return
        wire = processes.Wire(group, self._rows.device, processes.DEFAULT_TIMEOUT)
        wire.check_alive()
        self.labels.copy_(wire.all_reduce_max(self.labels.clamp(min=UNKNOWN)))
