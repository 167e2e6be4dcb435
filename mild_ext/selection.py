"""Which samples to keep: rules over the fitted mixture, and the test whether to believe it.

A selection is decided on the histogram of (misclassified, seen) alone, as a table that says for
each of its cells whether it is kept. Only the last step, looking every sample up in that table,
depends on the number of samples, and it runs where the status lies.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .weibull import TimeCounts, Weibull, WeibullMixture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RULES = ("posterior",)

#: The support test, see docs/selection.md.
MIN_SAMPLES = 20
MIN_EPOCHS = 2
MIN_SHARE = 0.02
MAX_CONFUSION = 0.35


class Evidence(Protocol):
    """What a selection needs to know: counts of (misclassified, seen), and a look-up per sample."""

    def histogram(self) -> NDArray[np.int64]:
        """Counts [P + 1, P + 1]; cell [0, 0] counts the samples never seen."""
        ...

    def lookup(self, table: Tensor) -> Tensor:
        """``table[misclassified, seen]`` of every sample, [N], for a table [P + 1, P + 1]."""
        ...


class _StatusEvidence:
    def __init__(self, status: Any, epochs: slice | None) -> None:
        self._status, self._epochs = status, epochs

    def histogram(self) -> NDArray[np.int64]:
        return np.asarray(self._status.histogram(self._epochs).cpu().numpy())

    def lookup(self, table: Tensor) -> Tensor:
        result: Tensor = self._status.lookup(table, self._epochs)
        return result


class _TimesEvidence:
    def __init__(self, times: Any) -> None:
        self._misclassified, self._seen = times.memorization, times.seen
        self._size = int(times.num_epochs) + 1

    def histogram(self) -> NDArray[np.int64]:
        cell = self._misclassified.long() * self._size + self._seen.long()
        counts = torch.bincount(cell, minlength=self._size**2)
        return counts.reshape(self._size, self._size).cpu().numpy()

    def lookup(self, table: Tensor) -> Tensor:
        table = table.to(self._seen.device)
        return table[self._misclassified.long(), self._seen.long()]


def _evidence(status_or_times: Any, epochs: slice | None) -> Evidence:
    if hasattr(status_or_times, "histogram") and hasattr(status_or_times, "lookup"):
        return _StatusEvidence(status_or_times, epochs)
    if hasattr(status_or_times, "memorization") and hasattr(status_or_times, "seen"):
        if epochs is not None:
            raise ValueError(
                "transition times are already of one window of epochs; give the window to "
                "compute(epochs), or give the LearningStatus here"
            )
        return _TimesEvidence(status_or_times)
    raise TypeError(
        "status_or_times must be a LearningStatus or its TransitionTimes, got "
        f"{type(status_or_times).__name__}"
    )


@dataclass(frozen=True)
class Support:
    """Whether two components may be believed, why, and the figures behind it."""

    supported: bool
    reason: str
    bic_gain: float = 0.0
    confusion: float = 1.0


def test_support(counts: TimeCounts, mixture: WeibullMixture | None) -> Support:
    """The support test on a fitted mixture; each question is asked only if those before passed."""
    if counts.total <= 0:
        return Support(False, "no sample was seen in these epochs: nothing to judge by")
    if counts.horizon < MIN_EPOCHS:
        return Support(
            False, "one epoch alone cannot tell early from late memorization; record more epochs"
        )
    if counts.total < MIN_SAMPLES:
        return Support(
            False, f"{counts.total:g} samples are too few for a mixture (at least {MIN_SAMPLES})"
        )
    distinct = np.count_nonzero(counts.events) + np.count_nonzero(counts.censored)
    if mixture is None or distinct < 3:
        return Support(False, "the samples do not differ enough in how often they were wrong")
    one = Weibull()._fit(counts)
    gain = one.bic - mixture.bic
    if gain <= 0:
        return Support(
            False,
            "one component explains the counts as well as two (BIC lower by "
            f"{-gain:.1f}): no sign of a group that is learned late",
            gain,
        )
    share = float(mixture.weights_.min())
    confusion = _confusion(counts, mixture)
    if share < MIN_SHARE:
        who = "clean" if mixture.weights_[0] < mixture.weights_[1] else "noisy"
        return Support(
            False, f"the {who} component holds only {share:.1%} of the samples", gain, confusion
        )
    if confusion > MAX_CONFUSION:
        return Support(
            False,
            f"the two components overlap too much: {confusion:.0%} of the smaller one "
            "would be misjudged",
            gain,
            confusion,
        )
    return Support(
        True,
        f"two components explain the counts better than one (BIC lower by {gain:.1f}) and are "
        f"separated ({confusion:.0%} of the smaller one expected to be misjudged)",
        gain,
        confusion,
    )


test_support.__test__ = False  # type: ignore[attr-defined]  # a name pytest would collect


def _confusion(counts: TimeCounts, mixture: WeibullMixture) -> float:
    """Samples the fitted model expects its own posterior to misjudge, per sample of the smaller."""
    event, censored = mixture.posterior_tables(counts.horizon)
    wrong = counts.events @ np.minimum(event, 1 - event)
    wrong += counts.censored[1:] @ np.minimum(censored, 1 - censored)[1:]
    return float(wrong / counts.total / mixture.weights_.min())


@dataclass(frozen=True)
class _Decision:
    """What a rule says about every cell [P + 1, P + 1] of the histogram."""

    keep: NDArray[np.bool_]
    probability: NDArray[np.float32]
    threshold: float
    mixture: WeibullMixture | None
    support: Support


def _cells(event: NDArray[Any], censored: NDArray[Any]) -> NDArray[Any]:
    """Table [P + 1, P + 1] from values of events [P] (m < n) and censored [P + 1] (m = n)."""
    size = len(censored)
    table = np.zeros((size, size), dtype=event.dtype)
    rows, columns = np.triu_indices(size, 1)
    table[rows, columns] = event[rows]
    np.fill_diagonal(table, censored)
    return table


def _keep_up_to(event: NDArray[np.bool_], censored: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """First crossing: keep from 0 upward while the cells pass; monotone in both directions."""
    event = np.logical_and.accumulate(event)
    before = np.concatenate([[True], event])  # all events below n pass
    at = np.append(event, True)  # and so does the event at n itself
    censored = censored & before & at
    censored[0] = True  # never seen: no evidence against it
    return _cells(event, censored)


def _everything(size: int, mixture: WeibullMixture | None, support: Support) -> _Decision:
    return _Decision(
        keep=np.ones((size, size), dtype=np.bool_),
        probability=np.ones((size, size), dtype=np.float32),
        threshold=float(size - 1),
        mixture=mixture,
        support=support,
    )


def _decide(histogram: NDArray[np.int64], level: float) -> _Decision:
    size = len(histogram)
    counts = TimeCounts.from_histogram(histogram)
    mixture = WeibullMixture()._fit(counts) if counts.total > 0 else None
    support = test_support(counts, mixture)
    if not support.supported or mixture is None:
        return _everything(size, mixture, support)
    event, censored = mixture.posterior_tables(size - 1)
    keep = _keep_up_to(event > level, censored > level)
    kept = int((histogram * keep).sum() - histogram[0, 0])
    if kept < max(1.0, MIN_SHARE * counts.total):
        support = Support(
            False,
            f"at level {level:g} only {kept} samples would be kept: refused",
            support.bic_gain,
            support.confusion,
        )
        return _everything(size, mixture, support)
    full = np.flatnonzero(keep[:, -1])
    return _Decision(
        keep=keep,
        probability=_cells(event, censored).astype(np.float32),
        threshold=float(full[-1]) if len(full) else -1.0,
        mixture=mixture,
        support=support,
    )


@dataclass
class Selection:
    """The samples to keep, how sure that is, and why.

    Attributes:
        mask: bool [N], True = keep, on the status' device.
        threshold: largest number of misclassified epochs that is kept, for a sample that was seen
            in every epoch of the window.
        level: least posterior probability of being clean that is kept.
        rule: name of the rule.
        mixture: the fitted :class:`WeibullMixture`; None if no sample was seen.
        supported: False: the data do not support two groups, and everything is kept.
        reason: why, in words.
        histogram: int64 [P + 1, P + 1], counts of (misclassified, seen) it was decided on.
        num_samples, num_kept, num_unseen: counts; unseen samples are kept for lack of evidence.
    """

    mask: Tensor
    threshold: float
    level: float
    rule: str
    mixture: WeibullMixture | None
    supported: bool
    reason: str
    histogram: NDArray[np.int64]
    num_samples: int
    num_kept: int
    num_unseen: int
    _evidence: Evidence = field(repr=False)
    _probability: NDArray[np.float32] = field(repr=False)

    @cached_property
    def clean_probability(self) -> Tensor:
        """Posterior probability of a right label, float32 [N]; computed on first access.

        1 for all where two components are not supported; the clean weight for unseen samples.
        """
        return self._evidence.lookup(torch.from_numpy(self._probability))

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the metric's histogram, the mixture and the threshold; see `mild_ext.report.plots`."""
        from .report.plots import plot_selection

        return plot_selection(self, ax)


def select_clean(
    status_or_times: Any,
    rule: str = "posterior",
    threshold: float = 0.5,
    *,
    epochs: slice | None = None,
) -> Selection:
    """Decide which samples to keep.

    Args:
        status_or_times: a LearningStatus, or the TransitionTimes of one.
        rule: ``posterior``: from zero misclassified epochs upward, keep while the posterior
            probability of the clean component is above ``threshold``.
        threshold: level in (0, 1).
        epochs: window of epochs (default: all recorded).

    Returns:
        A :class:`Selection`. It is never empty: where two components are not supported everything
        is kept, ``supported`` is False and ``reason`` says why.

    Raises:
        TypeError: the first argument is neither of the two.
        ValueError: unknown rule, level out of range, no samples.
    """
    if rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}; got {rule!r}")
    if not 0.0 < threshold < 1.0:
        raise ValueError(f"threshold must lie in (0, 1) for rule {rule!r}, got {threshold!r}")
    evidence = _evidence(status_or_times, epochs)
    histogram = evidence.histogram()
    num_samples = int(histogram.sum())
    if num_samples == 0:
        raise ValueError("there are no samples to select from")
    decision = _decide(histogram, threshold)
    return Selection(
        mask=evidence.lookup(torch.from_numpy(decision.keep)),
        threshold=decision.threshold,
        level=threshold,
        rule=rule,
        mixture=decision.mixture,
        supported=decision.support.supported,
        reason=decision.support.reason,
        histogram=histogram,
        num_samples=num_samples,
        num_kept=int((histogram * decision.keep).sum()),
        num_unseen=int(histogram[0, 0]),
        _evidence=evidence,
        _probability=decision.probability,
    )
