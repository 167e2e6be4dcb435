"""Samples seen in different numbers of epochs, read as if all had been seen in the same number.

Where a sampler draws with replacement, or a loader drops its last batch, samples miss epochs: two of
three misclassified says more against a label than two of thirty. So before a mixture is fitted,
counts of (misclassified, seen) become misclassified epochs out of a common number, as if all had
had the same follow-up (the time a subject is watched, in the words of survival analysis): the share
of epochs is what stays. Where all samples were seen equally often, nothing changes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mild_ext.mixture.counts import Floats

#: Fewest epochs that say something against a label: a share is taken of at least so many, and a
#: sample misclassified in all of fewer does not count as never memorized.
MIN_SEEN = 3


def seen_unequally(histogram: NDArray[Any]) -> bool:
    """Whether the samples of counts [P + 1, P + 1] were seen in different numbers of epochs."""
    return int(np.count_nonzero(histogram[:, 1:].any(axis=0))) > 1


def common_follow_up(histogram: NDArray[Any]) -> StretchedCounts:
    """The reading of counts [P + 1, P + 1] by cell (misclassified, seen)."""
    num_epochs = len(histogram) - 1
    seen = histogram.sum(axis=0, dtype=np.float64)
    seen[0] = 0.0
    if not seen.any():
        return StretchedCounts(num_epochs, num_epochs)
    return StretchedCounts(num_epochs, round(float(seen @ np.arange(len(seen)) / seen.sum())))


class StretchedCounts:
    """Cells (m, n) of (misclassified, seen) as counts m * common / n; never memorized stays so.

    A cell may lie between counts: its samples then count for each in part, and what is decided
    about them is interpolated. The count rises with m and falls with n.

    Args:
        num_epochs: P, at least 1.
        common: number of epochs, from 1 to P: the mean seen.
    """

    def __init__(self, num_epochs: int, common: int) -> None:
        self.num_epochs = common
        needed = min(MIN_SEEN, common)
        m, n = np.ogrid[: num_epochs + 1, : num_epochs + 1]
        never = (m == n) & (n >= needed)
        stretched = np.minimum(m * (common / np.maximum(n, needed)), common - 1)
        stretched = np.where(never, common, stretched)
        self._low = stretched.astype(np.intp)
        self._part = stretched - self._low
        self._seen = (m <= n) & (n > 0)

    def counts(self, histogram: NDArray[Any]) -> Floats:
        """Samples by count, float64 [num_epochs + 1], from samples by cell [P + 1, P + 1]."""
        low, part, mass = (x[self._seen] for x in (self._low, self._part, histogram))
        size = self.num_epochs + 2
        counts = np.zeros(size)
        counts += np.bincount(low, (1 - part) * mass, size)
        counts += np.bincount(low + 1, part * mass, size)
        return counts[:-1]

    def table(self, values: Floats, unseen: float) -> Floats:
        """Values by cell [P + 1, P + 1] from values by count [num_epochs + 1]; 0 where m > n."""
        following = np.append(values[1:], values[-1])
        table: Floats = values[self._low] + self._part * (following - values)[self._low]
        table[~self._seen] = 0.0
        table[0, 0] = unseen
        return table
