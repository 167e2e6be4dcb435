"""What a selection is made from: counts of (misclassified, seen), and a look-up per sample.

Everything that is decided is decided on the counts; only the last step, looking every sample up in
the resulting table, depends on the number of samples, and it runs where the status lies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mild_ext.mixture.counts import TimeCounts
from mild_ext.selection.planted import PlantedLabels
from mild_ext.selection.table import dynamics_columns


class Evidence(Protocol):
    """What a selection needs to know: counts of (misclassified, seen), and a look-up per sample."""

    def histogram(self) -> NDArray[np.int64]:
        """Counts [P + 1, P + 1]; cell [0, 0] counts the samples never seen."""
        ...

    def own_histogram(self) -> NDArray[np.int64]:
        """The same of this rank's samples alone; never a collective."""
        ...

    def lookup(self, table: Tensor) -> Tensor:
        """``table[misclassified, seen]`` of every sample, [N], for a table [P + 1, P + 1]."""
        ...

    def transition_times(self) -> Any:
        """The `TransitionTimes` of every sample."""
        ...


@dataclass(frozen=True)
class StatusEvidence:
    """A status' evidence in a window of epochs; None: all of them.

    ``planted``: the labels it was trained on, where some were planted.
    """

    status: Any
    epochs: slice | None
    planted: PlantedLabels | None = None

    def within(self, epochs: slice | None) -> StatusEvidence:
        """The same status' evidence in another window."""
        return StatusEvidence(self.status, epochs, self.planted)

    def histogram(self) -> NDArray[np.int64]:
        return np.asarray(self.status.histogram(self.epochs).cpu().numpy())

    def own_histogram(self) -> NDArray[np.int64]:
        own = getattr(self.status, "local", self.status)  # a ShardedStatus' part
        return np.asarray(own.histogram(self.epochs).cpu().numpy())

    def lookup(self, table: Tensor) -> Tensor:
        result: Tensor = self.status.lookup(table, self.epochs)
        return result

    def transition_times(self) -> Any:
        return self.status.compute(self.epochs)

    def dynamics(self) -> dict[str, Tensor]:
        """The columns of training dynamics, where the status has them."""
        without = None if self.planted is None else self.planted.mask
        return dynamics_columns(self.status, without)


@dataclass(frozen=True)
class TimesEvidence:
    """The evidence in transition times, which know their window no more."""

    times: Any
    epochs: None = None

    def within(self, epochs: slice) -> TimesEvidence:
        """Itself: there is no other window."""
        return self

    def histogram(self) -> NDArray[np.int64]:
        size = int(self.times.num_epochs) + 1
        cell = self.times.misclassified.long() * size + self.times.seen.long()
        return torch.bincount(cell, minlength=size**2).reshape(size, size).cpu().numpy()

    def own_histogram(self) -> NDArray[np.int64]:
        return self.histogram()

    def lookup(self, table: Tensor) -> Tensor:
        table = table.to(self.times.seen.device)
        return table[self.times.misclassified.long(), self.times.seen.long()]

    def transition_times(self) -> Any:
        return self.times

    def dynamics(self) -> dict[str, Tensor]:
        """None: transition times do not tell."""
        return {}


def evidence_of(status_or_times: Any, epochs: slice | None) -> StatusEvidence | TimesEvidence:
    """The evidence in a LearningStatus or ShardedStatus, or in TransitionTimes."""
    if hasattr(status_or_times, "histogram") and hasattr(status_or_times, "lookup"):
        return StatusEvidence(status_or_times, epochs)
    if hasattr(status_or_times, "misclassified") and hasattr(status_or_times, "seen"):
        if epochs is not None:
            raise ValueError(
                "transition times are already of one window of epochs; give the window to "
                "compute(epochs), or give the LearningStatus here"
            )
        return TimesEvidence(status_or_times)
    raise TypeError(
        "status_or_times must be a LearningStatus or its TransitionTimes, got "
        f"{type(status_or_times).__name__}"
    )


def recorded_epochs(status: Any, histogram: NDArray[np.int64]) -> int:
    """Number of epochs up to the last in which any sample was seen; all P if none ever was.

    Args:
        status: a LearningStatus or ShardedStatus.
        histogram: its counts of (misclassified, seen) in all P epochs, [P + 1, P + 1].
    """
    low, high = TimeCounts.from_histogram(histogram).num_epochs, len(histogram) - 1
    while low < high:  # the answer lies in [low, high]
        middle = (low + high) // 2
        counts = status.histogram(slice(middle, high))
        if int(counts[0, 0]) < int(counts.sum()):
            low = middle + 1
        else:
            high = middle
    return low
