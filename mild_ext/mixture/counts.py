"""Times counted in whole epochs, summed up: all that a likelihood of them needs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TimeCounts:
    """Sufficient statistics of censored times: see ``likelihood.py``.

    ``events[m]`` (float64 [p]): weight of the samples memorized after m misclassified epochs;
    ``censored[n]`` (float64 [p + 1]): weight of those misclassified in all n seen epochs.
    """

    events: Floats
    censored: Floats

    @property
    def num_epochs(self) -> int:
        """Largest number of epochs any sample was seen, p."""
        return len(self.events)

    @property
    def total(self) -> float:
        """Total weight (number of samples that were seen at all)."""
        return float(self.events.sum() + self.censored.sum())

    def mean(self, event: Floats, censored: Floats) -> float:
        """Mean of a value per outcome, given for events [>= p] and for censored times [> p]."""
        p = self.num_epochs
        total = self.events @ event[:p] + self.censored[1:] @ censored[1 : p + 1]
        return float(total / self.total)

    @classmethod
    def from_counts(cls, counts: Floats) -> TimeCounts:
        """From the misclassified counts of samples all seen in p epochs, [p + 1]."""
        censored = np.zeros(len(counts))
        censored[-1] = counts[-1]
        return cls(counts[:-1], censored)

    @classmethod
    def from_histogram(cls, histogram: ArrayLike) -> TimeCounts:
        """From counts ``histogram[m, n]`` of (misclassified, seen), shape [P + 1, P + 1]."""
        table = np.asarray(histogram, dtype=np.float64)
        if table.ndim != 2 or table.shape[0] != table.shape[1] or table.shape[0] < 2:
            raise ValueError(
                "histogram must be a square [P + 1, P + 1] table of (misclassified, seen) with "
                f"P >= 1, got shape {table.shape}"
            )
        if not np.isfinite(table).all() or (table < 0).any():
            raise ValueError("histogram must hold finite, non-negative counts")
        if np.tril(table, -1).any():
            raise ValueError("histogram counts samples misclassified more often than seen")
        censored = table.diagonal().copy()
        censored[0] = 0.0  # never seen: no evidence
        events = table.sum(axis=1) - table.diagonal()
        seen = np.flatnonzero(table.sum(axis=0)[1:])
        num_epochs = int(seen[-1]) + 1 if len(seen) else table.shape[0] - 1
        return cls(events[:num_epochs], censored[: num_epochs + 1])


def whole_epochs(values: ArrayLike, name: str) -> NDArray[np.int64]:
    """``values`` as int64 [n], or an error that says what is wrong."""
    array = np.asarray(values)
    if array.dtype.kind not in "iub":
        if array.dtype.kind != "f":
            raise TypeError(f"{name} must hold whole numbers of epochs, got dtype {array.dtype}")
        if not np.isfinite(array).all() or (array != np.floor(array)).any():
            raise ValueError(f"{name} must hold whole numbers of epochs; round them down first")
    if array.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, got shape {array.shape}")
    return array.astype(np.int64)


def counts_of(
    misclassified: ArrayLike, seen: ArrayLike | int | None, sample_weight: ArrayLike | None
) -> TimeCounts:
    """The counts of samples by their misclassified and seen epochs, checked; ``seen=None``: the largest count."""
    m = whole_epochs(misclassified, "misclassified")
    if not len(m):
        raise ValueError("misclassified is empty; a mixture needs at least one sample")
    if seen is None:
        seen = max(int(m.max()), 1)
    n = np.full(len(m), seen) if np.ndim(seen) == 0 else np.asarray(seen)
    n = whole_epochs(n, "seen")
    if n.shape != m.shape:
        raise ValueError(f"seen must have the shape of misclassified {m.shape}, got {n.shape}")
    if (m < 0).any() or (m > n).any():
        raise ValueError("misclassified must lie in [0, seen]")
    weight = None
    if sample_weight is not None:
        weight = np.asarray(sample_weight, dtype=np.float64)
        if weight.shape != m.shape:
            raise ValueError(
                f"sample_weight must have the shape of misclassified {m.shape}, got {weight.shape}"
            )
        if not np.isfinite(weight).all() or (weight < 0).any():
            raise ValueError("sample_weight must be finite and non-negative")
    num_epochs = max(int(n.max()), 1)
    # Events by m, censored by n: the two halves of one count, without a [P + 1, P + 1] table.
    cell = np.where(m < n, m, num_epochs + n)
    both = np.bincount(cell, weights=weight, minlength=2 * num_epochs + 1)
    events, censored = both[:num_epochs], both[num_epochs:].copy()
    censored[0] = 0  # never seen
    return TimeCounts(events.astype(np.float64), censored.astype(np.float64))
