"""Which samples to keep: a rule applied to a status, with its evidence and its doubts.

Decisions fall on the histogram of (misclassified, seen) alone (``rules.py``). Only the last step,
looking every sample up in the resulting table, depends on the number of samples, and it runs where
the status lies.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mild_ext.mixture.follow_up import CommonHorizon, common_horizon, seen_unequally
from mild_ext.mixture.likelihood import TimeCounts
from mild_ext.mixture.weibull import WeibullMixture
from mild_ext.selection.noise_rate import NoiseRate, class_noise_rate, estimate_noise_rate
from mild_ext.selection.quality import SelectionQuality, best_threshold, evaluate_selection
from mild_ext.selection.rules import RULES, Decision, decide, mean_over_seen
from mild_ext.selection.support import Support
from mild_ext.selection.windows import Judged, choose_window, judge_window, recorded_epochs

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

#: A class with fewer samples than this is judged with all the others.
MIN_CLASS = 100
#: Most classes a summary lists.
SHOWN_CLASSES = 20
#: Classes are judged apart if their own mixtures beat the common one by this much BIC a sample.
CLASS_GAIN = 0.4


class Evidence(Protocol):
    """What a selection needs to know: counts of (misclassified, seen), and a look-up per sample."""

    def histogram(self) -> NDArray[np.int64]:
        """Counts [P + 1, P + 1]; cell [0, 0] counts the samples never seen."""
        ...

    def lookup(self, table: Tensor) -> Tensor:
        """``table[misclassified, seen]`` of every sample, [N], for a table [P + 1, P + 1]."""
        ...

    def transition_times(self) -> Any:
        """The `TransitionTimes` of every sample."""
        ...


@dataclass(frozen=True)
class _StatusEvidence:
    status: Any
    epochs: slice | None

    def histogram(self) -> NDArray[np.int64]:
        return np.asarray(self.status.histogram(self.epochs).cpu().numpy())

    def lookup(self, table: Tensor) -> Tensor:
        result: Tensor = self.status.lookup(table, self.epochs)
        return result

    def transition_times(self) -> Any:
        return self.status.compute(self.epochs)


@dataclass(frozen=True)
class _TimesEvidence:
    times: Any

    def histogram(self) -> NDArray[np.int64]:
        size = int(self.times.num_epochs) + 1
        cell = self.times.memorization.long() * size + self.times.seen.long()
        return torch.bincount(cell, minlength=size**2).reshape(size, size).cpu().numpy()

    def lookup(self, table: Tensor) -> Tensor:
        table = table.to(self.times.seen.device)
        return table[self.times.memorization.long(), self.times.seen.long()]

    def transition_times(self) -> Any:
        return self.times


def _evidence(status_or_times: Any, epochs: slice | None) -> _StatusEvidence | _TimesEvidence:
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
class ClassSelection:
    """What was decided about the samples of one given label.

    Attributes:
        label: the class.
        num_samples, num_kept: counts.
        threshold: largest misclassified count kept, epochs.
        supported: whether two groups are supported by the class's own histogram, where classes
            were judged apart, else by that of all samples.
        reason: why, in words.
        noise_rate: estimated share of wrong labels; None where two groups are not supported.
    """

    label: int
    num_samples: int
    num_kept: int
    threshold: float
    supported: bool
    reason: str
    noise_rate: NoiseRate | None


@dataclass(repr=False)
class Selection:
    """The samples to keep, how sure that is, and why.

    Attributes:
        mask: bool [N], True = keep, on the status' device.
        threshold: largest number of misclassified epochs that is kept, for a sample that was seen
            in every epoch of the window. Where classes were judged apart each has its own, in
            ``classes``, and this is the one that all samples together would have had.
        level: the level that was asked for: a posterior probability, or a share to keep.
        rule: name of the rule.
        mixture: the fitted :class:`WeibullMixture`; None if no sample was seen. Its times are in
            epochs of the mean number seen, where samples were seen in different numbers of them.
        supported: False: the data do not support two groups, and everything is kept.
        reason: why, in words.
        support: the figures behind the verdict.
        noise_rate: estimated share of wrong labels; None where two groups are not supported.
        epochs: the window of epochs judged by; None if transition times were given.
        histogram: int64 [P + 1, P + 1], counts of (misclassified, seen) in that window.
        num_samples, num_kept, num_unseen: counts; unseen samples are kept for lack of evidence.
        classes: one :class:`ClassSelection` a class, in order; empty without ``labels``.
        per_class: whether each class was judged by its own histogram.
    """

    mask: Tensor
    threshold: float
    level: float
    rule: str
    mixture: WeibullMixture | None
    supported: bool
    reason: str
    support: Support
    noise_rate: NoiseRate | None
    epochs: slice | None
    histogram: NDArray[np.int64]
    num_samples: int
    num_kept: int
    num_unseen: int
    classes: tuple[ClassSelection, ...]
    per_class: bool
    _evidence: _StatusEvidence | _TimesEvidence
    _probability: NDArray[np.float32]
    _labels: Tensor | None = None
    _class_probability: Tensor | None = None

    def __repr__(self) -> str:
        return f"Selection({self.summary().splitlines()[0]}; supported={self.supported})"

    @cached_property
    def clean_probability(self) -> Tensor:
        """Posterior probability of a right label, float32 [N]; computed on first access.

        As the ``posterior`` rule reads it: never rising with the misclassified count, and recentred
        where the components overlap widely (docs/selection.md), so that a sample is kept exactly if
        its probability exceeds the level. 1 for all where two components are not supported; the
        clean weight for unseen samples.
        """
        if self._class_probability is not None:
            return self._class_probability
        return self._lookup(torch.from_numpy(self._probability))

    def _lookup(self, table: Tensor) -> Tensor:
        """A look-up made after the decision: only while the status is as it was decided on."""
        unchanged = np.array_equal(self._evidence.histogram(), self.histogram)
        if not unchanged:
            raise RuntimeError(
                "the learning status has changed since the selection was made, so figures per "
                "sample can no longer be looked up; read clean_probability, misclassified and seen "
                "before status.update() or status.reset()"
            )
        return self._evidence.lookup(table)

    @property
    def posterior(self) -> NDArray[np.float32]:
        """``clean_probability`` by misclassified count, of a sample seen in all P epochs, [P + 1]."""
        return self._probability[:, -1]

    def to_frame(self, **columns: Any) -> pd.DataFrame:
        """One row per sample, as a pandas DataFrame; needs the extra ``export``.

        Args:
            **columns: ``ids``, ``given_labels``, ``predicted_labels``, ``round_dropped``; see
                `mild_ext.selection.table.selection_table`, also for the columns.
        """
        from mild_ext.selection.table import selection_table, to_frame

        return to_frame(selection_table(self, **columns))

    @cached_property
    def misclassified(self) -> Tensor:
        """Misclassified epochs of every sample in the window, int32 [N]; on first access."""
        return self._counts(0)

    @cached_property
    def seen(self) -> Tensor:
        """Epochs of the window in which every sample was seen, int32 [N]; on first access."""
        return self._counts(1)

    def _counts(self, axis: int) -> Tensor:
        counts = torch.arange(len(self.histogram), dtype=torch.float32)
        shape = (len(counts), len(counts))
        table = (counts[:, None] if axis == 0 else counts[None]).expand(shape).contiguous()
        return self._lookup(table).int()

    @property
    def removed_share(self) -> float:
        """Share of the samples seen that is dropped: what a stop rule of the rounds looks at."""
        return (self.num_samples - self.num_kept) / max(1, self.num_samples - self.num_unseen)

    def agreement(self, other: Selection | Tensor) -> float:
        """Jaccard index of the kept sets, in [0, 1]: 1 = the same samples are kept.

        Args:
            other: another selection over the same samples, or its mask, bool [N].
        """
        mask = other.mask if isinstance(other, Selection) else other
        if mask.shape != self.mask.shape or mask.dtype != torch.bool:
            raise ValueError(
                f"other must be a bool mask of shape {tuple(self.mask.shape)}, got "
                f"{mask.dtype} {tuple(mask.shape)}"
            )
        mask = mask.to(self.mask.device)
        either = int((mask | self.mask).sum())
        return int((mask & self.mask).sum()) / either if either else 1.0

    @overload
    def evaluate(
        self, clean: Tensor | NDArray[np.bool_], *, per_class: Literal[False] = False
    ) -> SelectionQuality: ...

    @overload
    def evaluate(
        self, clean: Tensor | NDArray[np.bool_], *, per_class: Literal[True]
    ) -> dict[int, SelectionQuality]: ...

    def evaluate(
        self, clean: Tensor | NDArray[np.bool_], *, per_class: bool = False
    ) -> SelectionQuality | dict[int, SelectionQuality]:
        """Quality against the truth.

        Args:
            clean: bool [N], True where the given label is right (``given == true``).
            per_class: one result for each given label; needs the ``labels`` of ``select_clean``.

        Raises:
            ValueError: the shape is wrong, or labels are missing.
        """
        truth = np.asarray(torch.as_tensor(clean).cpu().numpy(), dtype=bool)
        mask = self.mask.cpu().numpy()
        # Among equal probabilities (all of them, where unsupported) the metric ranks.
        metric = (2 * self.misclassified - self.seen).cpu().numpy() / len(self.histogram)
        score = self.clean_probability.cpu().numpy().astype(np.float64) - 1e-9 * metric
        if not per_class:
            return evaluate_selection(mask, truth, score)
        if self._labels is None:
            raise ValueError("per_class=True needs the labels: select_clean(..., labels=labels)")
        labels = self._labels.cpu().numpy()
        return {
            int(c): evaluate_selection(mask[labels == c], truth[labels == c], score[labels == c])
            for c in np.unique(labels)
        }

    def best_threshold(self, clean: Tensor | NDArray[np.bool_]) -> tuple[int, float]:
        """The count of misclassified epochs that would have been best, and its macro-F1."""
        truth = torch.as_tensor(clean).cpu().numpy()
        return best_threshold(self.misclassified.cpu().numpy(), truth)

    def summary(self) -> str:
        """What was decided and why, in a few lines of text."""
        lines = [
            f"{self.num_kept:,} of {self.num_samples:,} samples kept "
            f"({self.num_kept / self.num_samples:.1%}), rule {self.rule!r}",
            ("supported: " if self.supported else "NOT supported, everything is kept: ")
            + self.reason,
        ]
        last = len(self.histogram) - 1
        if self.epochs is not None:
            window = f"epochs {self.epochs.start} to {self.epochs.stop - 1}"
        else:
            window = f"{last} epochs"
        lines.append(f"judged by {window}")
        if self.supported:
            lines[-1] += (
                f"; kept up to {self.threshold:g} misclassified of {last} "
                f"(a sample seen in all of them)"
            )
        if seen_unequally(self.histogram):
            horizon = common_horizon(self.histogram).horizon
            lines.append(
                f"samples were seen in different numbers of epochs: judged as if all in {horizon}"
            )
        if self.noise_rate is not None:
            rate = self.noise_rate
            lines.append(
                f"estimated noise rate {rate.rate:.1%} (between {rate.low:.1%} and {rate.high:.1%})"
            )
        if self.mixture is not None:
            for name, j in (("clean", 0), ("noisy", 1)):
                lines.append(
                    f"{name} component: weight {self.mixture.weights_[j]:.3f}, "
                    f"shape {self.mixture.shapes_[j]:.2f}, "
                    f"scale {self.mixture.scales_[j]:.3g} epochs"
                )
            if self.mixture.bounds_hit_:
                lines.append("bounds hit: " + ", ".join(self.mixture.bounds_hit_))
        if self.num_unseen:
            lines.append(f"{self.num_unseen:,} samples never seen: kept for lack of evidence")
        shown = self.classes
        if len(shown) > SHOWN_CLASSES:
            shown = tuple(sorted(shown, key=lambda c: c.num_kept / c.num_samples)[:SHOWN_CLASSES])
            lines.append(f"of {len(self.classes)} classes, the {SHOWN_CLASSES} that lose most:")
        for c in shown:
            line = f"class {c.label}: {c.num_kept:,} of {c.num_samples:,} kept"
            if c.noise_rate is not None:
                rate = c.noise_rate
                line += f", noise rate {rate.rate:.0%} ({rate.low:.0%} to {rate.high:.0%})"
            lines.append(line)
        return "\n".join(lines)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the metric's histogram, the mixture and the threshold; see `mild_ext.selection.plot`."""
        from mild_ext.selection.plot import plot_selection

        return plot_selection(self, ax)


def select_clean(
    status_or_times: Any,
    rule: str = "posterior",
    threshold: float = 0.5,
    *,
    labels: Tensor | None = None,
    per_class: bool | None = None,
    epochs: slice | None = None,
) -> Selection:
    """Decide which samples to keep.

    Args:
        status_or_times: a LearningStatus, or the TransitionTimes of one.
        rule: one of

            - ``posterior``: from zero misclassified epochs upward, keep while the posterior
              probability of the clean component is above ``threshold``.
            - ``quantile``: the share ``threshold`` with the lowest metric (a known noise rate).
            - ``scale``: shifted metric at most the larger scale of a density fit.
            - ``release``: the arithmetic of the authors' released code, which compares the
              unshifted metric with a scale of the shifted one. Warns where it drops nothing.
        threshold: level in (0, 1) of ``posterior``, share to keep in (0, 1] of ``quantile``;
            the other rules have none.
        labels: integers [N], the given labels. Worth giving: wrong labels that favour some
            classes (asymmetric noise) show in how the classes differ, no class is emptied, and
            there are figures per class.
        per_class: judge each class by its own histogram. A class of fewer than 100 samples is
            judged with all samples; one whose histogram does not support two groups is kept.
            Default: with labels and rule ``posterior``, if the classes' own mixtures explain the
            counts far better than the common one does.
        epochs: the window of epochs to judge by. Default: all that are recorded; with rule
            ``posterior`` the course of training is looked at as well: if it shows that wrong labels
            have been memorized by the end, the first third, half or two thirds (at least 8 epochs)
            count where they separate better, once training has settled no fewer samples are dropped
            than must be wrong, and before that no more than can be. A window given here says which
            samples to drop, that default how many; it is not supported where it contradicts the
            default.

    Returns:
        A :class:`Selection`. It is never empty: where two components are not supported everything
        is kept, ``supported`` is False and ``reason`` says why.

    Raises:
        TypeError: the first argument is neither of the two, or labels are not integers.
        ValueError: unknown rule, level out of range, no samples, labels of the wrong shape, or
            given with a `ShardedStatus`.

    Example:
        >>> import torch
        >>> from mild_ext import LearningStatus
        >>> status = LearningStatus(num_samples=3, num_epochs=8)
        >>> index, labels = torch.arange(3), torch.tensor([0, 1, 0])
        >>> status.update(index, torch.eye(3)[:, :2] + 0.1, labels)
        >>> selection = select_clean(status)
        >>> bool(selection.mask.all()), selection.supported
        (True, False)
    """
    if rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}; got {rule!r}")
    if rule == "posterior" and not 0.0 < threshold < 1.0:
        raise ValueError(f"threshold must lie in (0, 1) for rule {rule!r}, got {threshold!r}")
    if rule == "quantile" and not 0.0 < threshold <= 1.0:
        raise ValueError(f"threshold must lie in (0, 1] for rule {rule!r}, got {threshold!r}")
    evidence = _evidence(status_or_times, epochs)
    histogram = evidence.histogram()
    num_samples = int(histogram.sum())
    if num_samples == 0:
        raise ValueError("there are no samples to select from")
    if labels is not None and getattr(status_or_times, "total_samples", None) is not None:
        raise ValueError("labels cannot be given with a status that is split among ranks")
    labels = _check_labels(labels, num_samples, per_class)
    if isinstance(evidence, _StatusEvidence):
        num_epochs = len(histogram) - 1
        if epochs is None:  # all epochs recorded so far
            window = slice(0, recorded_epochs(status_or_times, histogram))
        else:
            whole = _StatusEvidence(status_or_times, None).histogram()
            window = slice(*epochs.indices(len(whole) - 1)[:2])
        if window.stop - window.start != num_epochs:
            histogram = _StatusEvidence(status_or_times, window).histogram()
    decision = decide(histogram, rule, threshold)
    least_drop = 0.0
    if isinstance(evidence, _StatusEvidence):
        if epochs is None and rule == "posterior":
            window, histogram, decision, least_drop = choose_window(
                status_or_times, histogram, decision, threshold
            )
        elif rule == "posterior":
            given = Judged(window, histogram, decision)
            decision = judge_window(status_or_times, whole, given, threshold)
        epochs = window
        evidence = _StatusEvidence(status_or_times, window)
    support, reason = decision.support, decision.support.reason
    mask = evidence.lookup(torch.from_numpy(decision.keep))
    classes: tuple[ClassSelection, ...] = ()
    probability = None
    if labels is not None:
        per_class, mask, probability, classes = _by_class(
            evidence, labels, decision, rule, threshold, per_class, least_drop
        )
    # The histogram speaks for all samples, the mask for those of this rank.
    kept = (histogram * decision.keep).sum() if labels is None else mask.sum()
    num_kept = int(kept)
    supported = support.supported or (bool(per_class) and num_kept < num_samples)
    if per_class:
        judged = sum(c.supported for c in classes)
        reason = (
            f"judged class by class, of which {judged} of {len(classes)} support two groups; "
            f"all samples together: {reason}"
        )
    if rule == "release" and num_kept == num_samples:
        reason = (
            "the released rule drops nothing: it compares the metric (at most "
            f"{len(histogram) - 1}) with a scale of the metric shifted by {len(histogram) - 1}"
        )
        warnings.warn(f"{reason}; use rule 'posterior'", UserWarning, stacklevel=2)
    noise_rate = None
    if decision.mixture is not None and (decision.probability < 1).any():
        noisy, dropped = (
            1.0 - mean_over_seen(histogram, table)
            for table in (decision.probability, decision.keep)
        )
        times = TimeCounts.from_counts(common_horizon(histogram).counts(histogram))
        noise_rate = estimate_noise_rate(times, decision.mixture, noisy, dropped)
    return Selection(
        mask=mask,
        threshold=decision.threshold,
        level=threshold,
        rule=rule,
        mixture=decision.mixture,
        supported=supported,
        reason=reason,
        support=support,
        noise_rate=noise_rate,
        epochs=epochs,
        histogram=histogram,
        num_samples=num_samples,
        num_kept=num_kept,
        num_unseen=int(histogram[0, 0]),
        classes=classes,
        per_class=bool(per_class),
        _evidence=evidence,
        _probability=decision.probability,
        _labels=labels,
        _class_probability=probability if per_class else None,
    )


def _check_labels(labels: Tensor | None, num_samples: int, per_class: bool | None) -> Tensor | None:
    if labels is None:
        if per_class:
            raise ValueError("per_class=True needs labels=, the given labels [N]")
        return None
    labels = torch.as_tensor(labels)
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise TypeError(f"labels must be integers, got {labels.dtype}")
    if labels.shape != (num_samples,):
        raise ValueError(f"labels must have shape ({num_samples},), got {tuple(labels.shape)}")
    return labels


def _by_class(
    evidence: Evidence,
    labels: Tensor,
    overall: Decision,
    rule: str,
    level: float,
    per_class: bool | None,
    least_drop: float,
) -> tuple[bool, Tensor, Tensor, tuple[ClassSelection, ...]]:
    """Whether classes are judged apart, the mask, the clean probability, and each class's verdict.

    Here, and only here, arrays with an entry per sample other than the result come into being.
    """
    size = len(overall.keep)
    if size**2 > 2**24:
        raise ValueError(f"figures per class need fewer than 4096 epochs, got {size - 1}")
    cells = torch.arange(size**2, dtype=torch.float32).reshape(size, size)
    cell = evidence.lookup(cells).long()
    device = cell.device
    values, inverse, numbers = torch.unique(
        labels.to(device), return_inverse=True, return_counts=True
    )
    members = inverse.argsort(stable=True).split(numbers.tolist())
    counts = [
        torch.bincount(cell[own], minlength=size**2).reshape(size, size).cpu().numpy()
        for own in members
    ]
    horizon = common_horizon(sum(counts, np.zeros((size, size), dtype=np.int64)))
    judged = [overall] * len(counts)
    if per_class or (per_class is None and rule == "posterior" and overall.support.supported):
        judged = [
            decide(c, rule, level, horizon=horizon) if c.sum() >= MIN_CLASS else overall
            for c in counts
        ]
        if per_class is None:
            dropped = sum(float(c[~d.keep].sum()) for c, d in zip(counts, judged, strict=True))
            seen = sum(float(c.sum() - c[0, 0]) for c in counts)
            per_class = dropped >= least_drop * seen
            per_class = per_class and _class_gain(counts, judged, overall, horizon) > CLASS_GAIN
        if not per_class:
            judged = [overall] * len(counts)
    mask = torch.empty(len(cell), dtype=torch.bool, device=device)
    probability = torch.empty(len(cell), device=device)
    classes = []
    for value, own, table, decision in zip(values.tolist(), members, counts, judged, strict=True):
        keep = torch.from_numpy(decision.keep).to(device).flatten()[cell[own]]
        supported, reason = decision.support.supported, decision.support.reason
        if not keep.any():
            keep = torch.ones_like(keep)
            supported, reason = False, "the selection would empty this class: kept"
        mask[own] = keep
        probability[own] = torch.from_numpy(decision.probability).to(device).flatten()[cell[own]]
        seen = len(own) - int(table[0, 0])
        rate = None
        if supported and seen and decision.mixture is not None and (decision.probability < 1).any():
            times = TimeCounts.from_counts(horizon.counts(table))
            rate = class_noise_rate(times, decision.mixture, float((~keep).sum()) / seen)
        classes.append(
            ClassSelection(
                label=value,
                num_samples=len(own),
                num_kept=int(keep.sum()),
                threshold=decision.threshold,
                supported=supported,
                reason=reason,
                noise_rate=rate,
            )
        )
    return bool(per_class), mask, probability, tuple(classes)


def _class_gain(
    counts: list[NDArray[np.int64]],
    judged: list[Decision],
    overall: Decision,
    horizon: CommonHorizon,
) -> float:
    """BIC of the common mixture less that of the classes' own, nats a sample of those classes."""
    apart = total = together = 0.0
    for table, decision in zip(counts, judged, strict=True):
        if decision is overall or decision.mixture is None or overall.mixture is None:
            continue
        times = TimeCounts.from_counts(horizon.counts(table))
        apart += decision.mixture.bic
        together -= 2 * overall.mixture.score(times)
        total += times.total
    if not total or overall.mixture is None:
        return 0.0
    together += overall.mixture.bic + 2 * overall.mixture.log_likelihood_  # its parameters
    return (together - apart) / total
