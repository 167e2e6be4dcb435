"""Samples seen in different numbers of epochs, read as if all had been seen in the same number.

Before a mixture is fitted, counts of (misclassified, seen) become misclassified epochs out of a
common number, as if all had had the same follow-up (the time a subject is
watched, in the words of survival analysis). They can be read in two ways. Where a sampler draws with replacement, or
a loader drops its last batch, samples miss epochs at random: two of three misclassified says more
against a label than two of thirty (`StretchedCounts`). Where samples join or leave, they wait as many epochs
to be memorized as they wait, however long one watches: two of three says as little as two of thirty
(`KaplanMeierCounts`). The counts themselves show which it is. Where all samples were seen equally often, both
change nothing.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mild_ext.mixture.likelihood import Floats, TimeCounts

#: A share is taken of at least so many epochs: one or two seen say too little against a label.
MIN_SEEN = 3
#: StretchedCounts are compared, unless they depend on the epochs seen with more than this correlation ...
MAX_DEPENDENCE = 0.15
#: ... and the waits with less than this part of it.
LESS_DEPENDENT = 0.25


class FollowUp(Protocol):
    """Maps cells (m, n) of (misclassified, seen) in P epochs to counts out of ``num_epochs``.

    A cell may lie between counts: its samples then count for each in part, and what is decided
    about them is interpolated. The count rises with m and falls with n.
    """

    num_epochs: int

    def counts(self, histogram: NDArray[Any]) -> Floats:
        """Samples by count, float64 [num_epochs + 1], from samples by cell [P + 1, P + 1]."""
        ...

    def table(self, values: Floats, unseen: float) -> Floats:
        """Values by cell [P + 1, P + 1] from values by count [num_epochs + 1]; 0 where m > n."""
        ...


def seen_unequally(histogram: NDArray[Any]) -> bool:
    """Whether the samples of counts [P + 1, P + 1] were seen in different numbers of epochs."""
    return int(np.count_nonzero(histogram[:, 1:].any(axis=0))) > 1


def common_follow_up(histogram: NDArray[Any]) -> FollowUp:
    """The reading of counts [P + 1, P + 1] by cell (misclassified, seen)."""
    num_epochs = len(histogram) - 1
    seen = histogram.sum(axis=0, dtype=np.float64)
    seen[0] = 0.0
    if not seen.any():
        return StretchedCounts(num_epochs, num_epochs)
    if seen_unequally(histogram):
        m, n = np.nonzero(histogram)
        m, n = m[n > 0], n[n > 0]
        mass = histogram[m, n].astype(np.float64)
        of_shares = abs(_correlation(m / n, n, mass))
        # A wait can only be compared up to the number of epochs that all of them were watched.
        shortest = int(np.searchsorted(np.cumsum(seen), 0.25 * seen.sum()))
        watched = n >= shortest
        waits = np.minimum(m, shortest)[watched]
        of_waits = abs(_correlation(waits, n[watched], mass[watched]))
        if of_shares > MAX_DEPENDENCE and of_waits < LESS_DEPENDENT * of_shares:
            return KaplanMeierCounts(histogram)
    return StretchedCounts(num_epochs, round(float(seen @ np.arange(len(seen)) / seen.sum())))


def _correlation(x: NDArray[Any], y: NDArray[Any], mass: Floats) -> float:
    x, y = (v - mass @ v / mass.sum() for v in (x, y))
    spread = (mass @ x**2) * (mass @ y**2)
    return float(mass @ (x * y) / np.sqrt(spread)) if spread > 0 else 0.0


class StretchedCounts:
    """Epochs are missed at random: m is stretched to m * common / n. Never memorized stays so.

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
        low, part, mass = (x[self._seen] for x in (self._low, self._part, histogram))
        size = self.num_epochs + 2
        counts = np.zeros(size)
        counts += np.bincount(low, (1 - part) * mass, size)
        counts += np.bincount(low + 1, part * mass, size)
        return counts[:-1]

    def table(self, values: Floats, unseen: float) -> Floats:
        following = np.append(values[1:], values[-1])
        table: Floats = values[self._low] + self._part * (following - values)[self._low]
        table[~self._seen] = 0.0
        table[0, 0] = unseen
        return table


class KaplanMeierCounts:
    """Samples join or leave: memorized after m epochs is m, not yet after n is any count from n on.

    Which, is taken from those watched longer (Kaplan and Meier, 1958).

    Args:
        histogram: counts [P + 1, P + 1] by cell, of some samples seen.
    """

    def __init__(self, histogram: NDArray[Any]) -> None:
        self._longest = len(histogram) - 1
        times = TimeCounts.from_histogram(histogram)
        self.num_epochs = times.num_epochs
        watched = np.cumsum((times.events + times.censored[1:])[::-1])[::-1]
        survival = np.append(1.0, np.cumprod(1.0 - times.events / np.maximum(watched, 1)))
        share = np.append(survival[:-1] - survival[1:], survival[-1])
        # Row n: how the count is distributed of a sample not memorized in its first n epochs.
        self._later = np.triu(np.tile(share, (len(share), 1)))
        self._later[~self._later.any(axis=1), -1] = 1.0
        self._later /= self._later.sum(axis=1, keepdims=True)

    def counts(self, histogram: NDArray[Any]) -> Floats:
        size = self.num_epochs + 1
        table = np.asarray(histogram, dtype=np.float64)
        never = table.diagonal().copy()
        never[0] = 0.0
        counts: Floats = (table.sum(axis=1) - table.diagonal())[:size]
        counts += never[:size] @ self._later
        return counts

    def table(self, values: Floats, unseen: float) -> Floats:
        size = self._longest + 1
        beyond = np.full(size - len(values), values[-1])
        m, n = np.indices((size, size))
        table = np.where(m < n, np.append(values, beyond)[:, None], 0.0)
        np.fill_diagonal(table, np.append(self._later @ values, beyond))
        table[0, 0] = unseen
        return table
