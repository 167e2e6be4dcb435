"""Samples seen in different numbers of epochs, read as if all had been seen in the same number.

A sampler that draws with replacement, or a loader that drops its last batch, leaves samples out of
epochs at random. What tells two of them apart then is the *share* of the epochs seen in which each
was misclassified: two of three says more against a label than two of thirty. So their counts of
(misclassified, seen) are stretched to a common horizon, the mean number of epochs seen, before a
mixture is fitted to them. Where all samples were seen equally often nothing changes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .likelihood import Floats

#: A share is taken of at least so many epochs: one or two seen say too little against a label.
MIN_SEEN = 3


class CommonHorizon:
    """Maps cells (m, n) of (misclassified, seen) in P epochs to counts of ``horizon`` epochs.

    A stretched count m * horizon / n lies between two whole ones: a sample counts for both, in
    proportion, and what is decided about it is interpolated. Always misclassified stays always
    misclassified. The count rises with m and falls with n.

    Args:
        num_epochs: P, at least 1.
        horizon: number of epochs, from 1 to P.
    """

    def __init__(self, num_epochs: int, horizon: int) -> None:
        self.horizon = horizon
        needed = min(MIN_SEEN, horizon)
        m, n = np.ogrid[: num_epochs + 1, : num_epochs + 1]
        always = (m == n) & (n >= needed)
        stretched = np.minimum(m * (horizon / np.maximum(n, needed)), horizon - 1)
        stretched = np.where(always, horizon, stretched)
        self._low = stretched.astype(np.intp)
        self._part = stretched - self._low
        self._seen = (m <= n) & (n > 0)

    @classmethod
    def of(cls, histogram: NDArray[Any]) -> CommonHorizon:
        """That of counts [P + 1, P + 1]: the mean over the samples seen at all, rounded."""
        seen = histogram.sum(axis=0, dtype=np.float64)[1:]
        epochs = np.arange(1, len(histogram))
        mean = seen @ epochs / seen.sum() if seen.any() else len(seen)
        return cls(len(seen), round(float(mean)))

    def counts(self, histogram: NDArray[Any]) -> Floats:
        """Samples by stretched count, float64 [horizon + 1], from counts [P + 1, P + 1] by cell."""
        low, part, mass = (x[self._seen] for x in (self._low, self._part, histogram))
        size = self.horizon + 2
        counts = np.zeros(size)
        counts += np.bincount(low, (1 - part) * mass, size)
        counts += np.bincount(low + 1, part * mass, size)
        return counts[:-1]

    def table(self, values: Floats, unseen: float) -> Floats:
        """A table [P + 1, P + 1] from values by count [horizon + 1]; 0 where it cannot be, m > n."""
        following = np.append(values[1:], values[-1])
        table: Floats = values[self._low] + self._part * (following - values)[self._low]
        table[~self._seen] = 0.0
        table[0, 0] = unseen
        return table
