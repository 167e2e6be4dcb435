"""Which epochs to judge by, and what the course of training says about their verdict.

The counts of one window decide which samples are kept (``decide.py``). The windows side by side show
what none of them can: whether wrong labels have been memorized by its end, and whether training has
settled, so that what is still misclassified is not about to be learned.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mild_ext.selection.decide import Decision, decide, mean_over_seen
from mild_ext.selection.evidence import StatusEvidence, TimesEvidence, recorded_epochs

#: The windows to choose from end after each third of the epochs; late means: in the last third.
PARTS = 3
#: A shorter window than this is not looked at: too few different counts to tell two groups by.
MIN_WINDOW = 8
#: From this bimodality on the groups stand so far apart that the course of training is not asked.
CLEAR_BIMODALITY = 0.8
#: What counts as much less. Wrong labels *have been* memorized where the training error has fallen to this
#: share of what it was at the end of the first window. They *are being* memorized where the first window's
#: instability (samples that change between memorized and misclassified) is this share of today's, or less.
MUCH_LESS = 0.6
#: Training has settled where instability has fallen to less than this share of the first window's: hardly a
#: sample changes any more.
SETTLED = 0.4

#: Every verdict from counts alone says so.
NOT_MEASURED = "estimated from the counts alone, not measured; plant labels to measure it"


class Judged(NamedTuple):
    """A window of epochs, its counts of (misclassified, seen), and what is decided on them."""

    window: slice
    histogram: NDArray[np.int64]
    decision: Decision

    @property
    def share_dropped(self) -> float:
        """Share of the samples seen whose probability of a right label is at most a half."""
        return mean_over_seen(self.histogram, self.decision.probability <= 0.5)

    @property
    def supported(self) -> bool:
        """Whether the window's counts show two groups."""
        return self.decision.support.supported

    @property
    def bimodality(self) -> float:
        """How well the window separates the groups, [0, 1]."""
        return self.decision.support.bimodality

    @property
    def clear(self) -> bool:
        """Whether the groups stand so far apart that nothing else is asked."""
        return self.supported and self.bimodality >= CLEAR_BIMODALITY


def judge(
    evidence: StatusEvidence | TimesEvidence, histogram: NDArray[np.int64], rule: str, level: float
) -> Judged:
    """The window of epochs to judge by, and what the rule decides on its counts.

    A window that the caller gave stays: it says which samples to drop, and all recorded epochs say
    how many. Where none was given, ``posterior`` chooses one, and the other rules take all epochs
    recorded.

    Args:
        evidence: of a status, in the caller's window or without one; or of transition times.
        histogram: its counts of (misclassified, seen), [P + 1, P + 1].
    """
    if isinstance(evidence, TimesEvidence):
        judged = Judged(slice(0, len(histogram) - 1), histogram, decide(histogram, rule, level))
        return _said_to_be_estimated(judged, rule)
    status, whole = evidence.status, histogram
    if evidence.epochs is None:
        window = slice(0, recorded_epochs(status, histogram))
    else:
        whole = evidence.within(None).histogram()
        window = slice(*evidence.epochs.indices(len(whole) - 1)[:2])
    if window.stop - window.start != len(histogram) - 1:
        histogram = evidence.within(window).histogram()
    judged = Judged(window, histogram, decide(histogram, rule, level))
    if rule != "posterior":
        return judged
    if evidence.epochs is None:
        judged = choose_window(status, judged, level)
    else:
        judged = judge_window(status, whole, judged, level)
    return _said_to_be_estimated(judged, rule)


def _said_to_be_estimated(judged: Judged, rule: str) -> Judged:
    return _noted(judged, NOT_MEASURED) if rule == "posterior" and judged.supported else judged


def _noted(judged: Judged, note: str) -> Judged:
    """The same, with a note to the reason."""
    decision = judged.decision
    support = replace(decision.support, reason=f"{decision.support.reason}; {note}")
    return judged._replace(decision=replace(decision, support=support))


def choose_window(status: Any, whole: Judged, level: float) -> Judged:
    """The window to judge by, of those that begin with the first epoch, and its decision.

    All recorded epochs, unless wrong labels have been memorized by the end and the groups separate
    better in a shorter window, or wrong labels are just being memorized there.

    Args:
        status: a LearningStatus or ShardedStatus.
        whole: all recorded epochs, and what rule ``posterior`` decides on them at ``level``.
        level: probability of a right label above which a sample is kept, (0, 1).
    """
    num_epochs = whole.window.stop
    options = [whole]
    for stop in sorted(window_ends(num_epochs), reverse=True):
        window = slice(0, stop)
        counts = np.asarray(status.histogram(window).cpu().numpy())
        options.append(Judged(window, counts, decide(counts, "posterior", level)))
    supported = [option for option in options if option.supported]
    if not supported:
        return whole
    course = _Course(status, supported[-1])
    best = _clearest(course, options)
    if not best.supported:
        return best
    if best is not whole:
        best = _noted(best, "judged by early epochs: later ones memorize wrong labels")
    least = course.least_drop(best, num_epochs)
    if least > best.share_dropped:
        decision = decide(
            best.histogram, "posterior", level, drop_share=least, fitted=best.decision
        )
        note = f"at least {least:.0%} must be wrong: training has settled"
        best = _noted(best._replace(decision=decision), note)
    return best


def window_ends(num_epochs: int) -> set[int]:
    """Where the shorter windows end that `choose_window` looks at."""
    ends = {max(MIN_WINDOW, round(part * num_epochs / PARTS)) for part in range(1, PARTS)}
    return {end for end in ends if end <= round((PARTS - 1) * num_epochs / PARTS)}


def _clearest(course: _Course, options: list[Judged]) -> Judged:
    """All epochs, or if wrong labels have been memorized, the window whose groups separate best.

    Of the options, longest first, without those at whose end wrong labels are being memorized.
    """
    while len(options) > 1 and course.is_memorizing(options[0]):
        options = options[1:]
    whole = options[0]
    if not course.has_memorized(whole):
        return whole
    supported = [option for option in options if option.supported]
    return max(supported, key=lambda option: option.bimodality, default=whole)


class _Course:
    """The course of training, measured against its first window: the shortest that is supported.

    Right labels are learned first. While they are, the error falls and ever fewer samples are unstable
    (memorized in one epoch and misclassified in another soon after). Then the error stays at the
    share of wrong labels, until a network that can memorize these too becomes unstable on them,
    and at last gets them "right". Nothing of this is asked about a window that is clear.
    """

    def __init__(self, status: Any, first: Judged) -> None:
        self.status = status
        self.first = first
        self._counts: dict[tuple[int, int], NDArray[np.float64]] = {}

    def _late(self, stop: int, length: int) -> NDArray[np.float64]:
        """Counts of (misclassified, seen) over the last ``length`` epochs before ``stop``."""
        if (stop, length) not in self._counts:
            counts = self.status.histogram(slice(stop - length, stop)).cpu().numpy()
            self._counts[stop, length] = np.asarray(counts, dtype=np.float64)
        return self._counts[stop, length]

    def error(self, stop: int) -> float:
        """Training error over the last third of the epochs before ``stop``, [0, 1]."""
        counts = self._late(stop, max(1, stop // PARTS))
        epochs = np.arange(len(counts))
        return float(counts.sum(axis=1) @ epochs / max(counts.sum(axis=0) @ epochs, 1.0))

    def instability(self, stop: int) -> float:
        """Share of the samples seen that are unstable in the last epochs before ``stop``, [0, 1].

        Counted over the same number of epochs wherever a window ends: over more, more samples change.
        """
        counts = self._late(stop, max(1, self.first.window.stop // PARTS))
        m, n = np.indices(counts.shape)
        return float(counts[(m > 0) & (m < n)].sum() / max(counts[n > 0].sum(), 1.0))

    def is_memorizing(self, judged: Judged) -> bool:
        """Whether samples are unstable at the end of a window that were not at the end of the first."""
        if judged.clear:
            return False
        first = self.instability(self.first.window.stop)
        return MUCH_LESS * self.instability(judged.window.stop) > first

    def has_memorized(self, judged: Judged) -> bool:
        """Whether much of the error at the end of the first window is gone at the end of this."""
        if judged.clear:
            return False
        return self.error(judged.window.stop) < MUCH_LESS * self.error(self.first.window.stop)

    def least_drop(self, judged: Judged, num_epochs: int) -> float:
        """Share of the samples that must be wrong, if training has settled; else 0.

        Once hardly a sample changes its status any more, no right label is still on its way. What is
        misclassified then is wrong. So is what the first window would drop, as far as it was
        misclassified when that window ended.
        """
        first = self.first.window.stop
        if judged.clear:
            return 0.0
        if self.instability(num_epochs) >= SETTLED * self.instability(first):
            return 0.0
        return max(self.error(num_epochs), min(self.first.share_dropped, self.error(first)))


def judge_window(status: Any, whole: NDArray[np.int64], given: Judged, level: float) -> Judged:
    """What a window given by the caller decides: it says which samples to drop, all recorded epochs how many.

    In a short window the probability of a right label is fitted to few different counts, so where it crosses
    the level is uncertain; which samples it finds more suspicious than others is not.

    ``whole``: the status' counts of (misclassified, seen) in all its epochs, recorded or not.
    """
    if not given.supported:
        return given
    window = slice(0, recorded_epochs(status, whole))
    if window.stop < len(whole) - 1:
        whole = np.asarray(status.histogram(window).cpu().numpy())
    everything = Judged(window, whole, decide(whole, "posterior", level))
    reference = choose_window(status, everything, level)
    if reference.window == given.window:
        return reference
    if not reference.supported:
        return given
    drop = 1.0 - mean_over_seen(reference.histogram, reference.decision.keep)
    decision = decide(
        given.histogram,
        "posterior",
        level,
        drop_share=drop,
        drop_level=level,
        fitted=given.decision,
    )
    return given._replace(decision=decision)
