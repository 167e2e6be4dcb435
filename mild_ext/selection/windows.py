"""Which epochs to judge by, and what the course of training says about their verdict.

The counts of one window decide which samples are kept (``rules.py``). The windows side by side show
what none of them can: whether wrong labels have been memorized by its end, and whether training has
settled, so that what is still misclassified is not about to be learned. The questions, their limits
and what these were measured on are in docs/selection.md.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from mild_ext.selection.evidence import StatusEvidence, TimesEvidence, recorded_epochs
from mild_ext.selection.rules import Decision, decide, keep_everything, mean_over_seen

#: Windows of epochs, from the first on, among which to choose, as shares of all.
WINDOWS = (1 / 3, 1 / 2, 2 / 3)
MIN_WINDOW = 8
#: Least bimodality (share of the variance that lies between the groups) of a shorter window where
#: all epochs together show one group.
MIN_BIMODALITY = 0.48
#: From this bimodality on, the groups stand so far apart that nothing else is asked.
CLEAR_BIMODALITY = 0.8

#: Late means: in the last of so many parts of a window.
LATE_PART = 5
#: Fewest epochs over which a sample can be seen to change its status.
MIN_INSTABILITY_EPOCHS = 3
#: Wrong labels are being memorized at the end of a window where this many times as many samples
#: change their status as at the end of the first.
MEMORIZING_INSTABILITY = 1.5
#: They have been where the late error has fallen below this share of the first window's, ...
MEMORIZED_ERROR = 0.63
#: ... or below this one, where more than this part as many samples still change their status.
MEMORIZED_ERROR_UNSTABLE = 0.55
UNSTABLE = 0.5
#: Training has settled where less than this part as many samples change their status as in the first window.
SETTLED_INSTABILITY = 0.4
#: The first window's verdict then holds up to this many times the late error.
MOST_MEMORIZED = 2.0
#: Wrong labels are still misclassified where at least this share of the first window's error is left.
HELD_ERROR = 0.8
#: No more than so many times the late error can then be wrong.
MOST_WRONG = 1.05

#: Least agreement of a given window's selection with that of all recorded epochs, as macro-F1.
MIN_AGREEMENT = 0.8


class Judged(NamedTuple):
    """A window of epochs, its counts of (misclassified, seen), and what is decided on them.

    ``least_drop``: share of the samples seen that must be wrong, as the course of training shows.
    """

    window: slice
    histogram: NDArray[np.int64]
    decision: Decision
    least_drop: float = 0.0

    @property
    def share_dropped(self) -> float:
        """Share of the samples seen whose probability of a right label is at most a half."""
        return mean_over_seen(self.histogram, self.decision.probability <= 0.5)

    @property
    def clear(self) -> bool:
        """Whether the groups stand so far apart that nothing else is asked."""
        support = self.decision.support
        return support.supported and support.bimodality >= CLEAR_BIMODALITY


def judge(
    evidence: StatusEvidence | TimesEvidence, histogram: NDArray[np.int64], rule: str, level: float
) -> Judged:
    """The window of epochs to judge by, and what the rule decides on its counts.

    A window that the caller gave stays; the rule ``posterior`` decides on it in the light of all
    recorded epochs. Where none was given, that rule chooses one, the others take all epochs recorded.

    Args:
        evidence: of a status, in the caller's window or without one; or of transition times.
        histogram: its counts of (misclassified, seen), [P + 1, P + 1].
    """
    if isinstance(evidence, TimesEvidence):
        return Judged(slice(0, len(histogram) - 1), histogram, decide(histogram, rule, level))
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
        return choose_window(status, histogram, judged.decision, level)
    return judged._replace(decision=judge_window(status, whole, judged, level))


def choose_window(
    status: Any, histogram: NDArray[np.int64], decision: Decision, level: float
) -> Judged:
    """The window to judge by, of those that begin with the first epoch, and its decision.

    All recorded epochs, unless wrong labels have been memorized by the end and the groups separate
    better in a shorter window, or wrong labels are just being memorized there.

    Args:
        status: a LearningStatus or ShardedStatus.
        histogram: counts of all recorded epochs, [P + 1, P + 1].
        decision: what rule ``posterior`` decides on these at ``level``.
        level: probability of a right label above which a sample is kept, (0, 1).
    """
    num_epochs = len(histogram) - 1
    options = [Judged(slice(0, num_epochs), histogram, decision)]
    stops = {max(MIN_WINDOW, round(share * num_epochs)) for share in WINDOWS}
    for stop in sorted(stops, reverse=True):
        if stop <= max(WINDOWS) * num_epochs + 0.5:
            window = slice(0, stop)
            counts = np.asarray(status.histogram(window).cpu().numpy())
            options.append(Judged(window, counts, decide(counts, "posterior", level)))
    supported = [o for o in options if o.decision.support.supported]
    if not supported:
        return options[0]
    course = _Course(status, supported[-1])
    best = _clearest(course, options)
    decision = best.decision
    if not decision.support.supported:
        return best
    if best.window.stop < num_epochs:
        decision = _noted(decision, "judged by early epochs: later ones memorize wrong labels")
    least, most = course.least_drop(best, num_epochs), course.most_drop(num_epochs)
    share = max(min(best.share_dropped, most), least)
    if share != best.share_dropped:
        decision = decide(best.histogram, "posterior", level, drop=(share, 0.5), fitted=decision)
        if share < best.share_dropped:
            note = f"at most {share:.0%} can be wrong: no more are misclassified in the end"
        else:
            note = f"at least {share:.0%} must be wrong: training has settled"
        decision = _noted(decision, note)
    return best._replace(decision=decision, least_drop=least)


def _noted(decision: Decision, note: str) -> Decision:
    """The same decision, with a note to its reason."""
    support = replace(decision.support, reason=f"{decision.support.reason}; {note}")
    return replace(decision, support=support)


def _clearest(course: _Course, options: list[Judged]) -> Judged:
    """All epochs, or if wrong labels have been memorized, the window whose groups separate best.

    Of the options, longest first, without those at whose end wrong labels are being memorized.
    """
    while len(options) > 1 and course.is_memorizing(options[0]):
        options = options[1:]
    whole = options[0]
    if not course.has_memorized(whole):
        return whole
    least = 0.0 if whole.decision.support.supported else MIN_BIMODALITY
    supported = [o for o in options if o.decision.support.supported]
    apart = [o for o in supported if o.decision.support.bimodality > least]
    return max(apart, key=lambda o: o.decision.support.bimodality, default=whole)


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
        """Training error over the last fifth of the epochs before ``stop``, [0, 1]."""
        counts = self._late(stop, max(1, stop // LATE_PART))
        epochs = np.arange(len(counts))
        return float(counts.sum(axis=1) @ epochs / max(counts.sum(axis=0) @ epochs, 1.0))

    def instability(self, stop: int) -> float:
        """Share of the samples seen that are unstable in the last epochs before ``stop``, [0, 1].

        Counted over the same number of epochs wherever a window ends: over more, more samples change.
        """
        length = max(MIN_INSTABILITY_EPOCHS, self.first.window.stop // LATE_PART)
        counts = self._late(stop, min(length, stop))
        m, n = np.indices(counts.shape)
        return float(counts[(m > 0) & (m < n)].sum() / max(counts[n > 0].sum(), 1.0))

    def is_memorizing(self, judged: Judged) -> bool:
        """Whether samples are unstable at the end of a window that did not at the end of the first."""
        if judged.clear:
            return False
        most = MEMORIZING_INSTABILITY * self.instability(self.first.window.stop)
        return self.instability(judged.window.stop) > most

    def has_memorized(self, judged: Judged) -> bool:
        """Whether much of the error at the end of the first window is gone at the end of this."""
        if judged.clear:
            return False
        first, stop = self.first.window.stop, judged.window.stop
        unstable = self.instability(stop) > UNSTABLE * self.instability(first)
        least = MEMORIZED_ERROR_UNSTABLE if unstable else MEMORIZED_ERROR
        return self.error(stop) < least * self.error(first)

    def least_drop(self, judged: Judged, num_epochs: int) -> float:
        """Share of the samples that must be wrong, if training has settled; else 0.

        Once hardly a sample changes its status any more, no right label is still on its way. What is
        misclassified then is wrong. So is what the first window would drop, as far as it was
        misclassified when that window ended, and unless most of the error has gone since.
        """
        first = self.first.window.stop
        if judged.clear or self.instability(num_epochs) >= SETTLED_INSTABILITY * self.instability(
            first
        ):
            return 0.0
        late = self.error(num_epochs)
        early = min(self.first.share_dropped, self.error(first), MOST_MEMORIZED * late)
        return max(late, early)

    def most_drop(self, num_epochs: int) -> float:
        """Share of the samples that can be wrong, as long as wrong labels are not memorized; else 1.

        They are all misclassified then, together with the right ones that are not learned.
        """
        late = self.error(num_epochs)
        return MOST_WRONG * late if late >= HELD_ERROR * self.error(self.first.window.stop) else 1.0


def judge_window(status: Any, whole: NDArray[np.int64], given: Judged, level: float) -> Decision:
    """What a window given by the caller says, in the light of all recorded epochs.

    These say how many samples to drop, the window says which: where its own posterior crosses the
    level depends on the tails of the fit, more so the shorter the window. In a late one, a network
    that has memorized wrong labels shows them as quickly as right ones; the window's own counts
    cannot tell, and it is not supported where it contradicts what the earlier epochs say.

    ``whole``: the status' counts of (misclassified, seen) in all its epochs, recorded or not.
    """
    window, histogram, decision, _ = given
    if not decision.support.supported:
        return decision
    num_epochs = recorded_epochs(status, whole)
    everything = whole
    if num_epochs < len(whole) - 1:
        everything = np.asarray(status.histogram(slice(0, num_epochs)).cpu().numpy())
    reference_window, counts, reference, _ = choose_window(
        status, everything, decide(everything, "posterior", level), level
    )
    if reference_window == window:
        return reference
    if not reference.support.supported:
        return decision
    # The histograms speak for all ranks' samples; only how many both keep takes a look at each.
    total, kept = float(counts.sum()), float((counts * reference.keep).sum())
    drop = 1.0 - kept / total
    decision = decide(histogram, "posterior", level, drop=(drop, level), fitted=decision)
    ours_kept = float((histogram * decision.keep).sum())
    ours, theirs = (
        status.lookup(torch.from_numpy(d.keep), w)
        for w, d in ((window, decision), (reference_window, reference))
    )
    both = float((ours & theirs).sum())
    if hasattr(status, "add_up"):  # split among ranks
        (both,) = status.add_up([both])
    neither = total - ours_kept - kept + both
    agreement = both / (ours_kept + kept) + neither / max(2 * total - ours_kept - kept, 1.0)
    if agreement >= MIN_AGREEMENT:
        return decision
    reason = (
        f"this window's selection contradicts the one from epochs {reference_window.start} to "
        f"{reference_window.stop - 1} (agreement {agreement:.2f}, at least {MIN_AGREEMENT:g})"
    )
    return keep_everything(decision, reason)
