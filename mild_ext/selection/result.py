"""`Selection`: what was decided about every sample, how sure that is, and why."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mild_ext.mixture.follow_up import common_follow_up, seen_unequally
from mild_ext.mixture.weibull import WeibullMixture
from mild_ext.recording.transitions import TransitionTimes
from mild_ext.selection.classes import ClassSelection
from mild_ext.selection.corrections import Corrections, choose_corrections, no_corrections
from mild_ext.selection.evidence import StatusEvidence, TimesEvidence
from mild_ext.selection.noise_rate import Estimate, NoiseRate
from mild_ext.selection.plot import plot_counts
from mild_ext.selection.quality import SelectionQuality, best_threshold, evaluate_selection
from mild_ext.selection.summary import measured_summary
from mild_ext.selection.support import Support
from mild_ext.selection.suspicion import Verdicts
from mild_ext.selection.table import Table, samples_table, to_frame

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

#: Most classes a summary lists.
SHOWN_CLASSES = 20


@dataclass(repr=False)
class Selection:
    """The samples to keep, how sure that is, and why.

    Attributes:
        mask: bool [N], True = keep, on the status' device.
        threshold: largest number of misclassified epochs that is kept, for a sample that was seen
            in every epoch of the window. Where classes were judged apart each has its own, in
            ``classes``, and this is the one that all samples together would have had.
        level: what was asked for: the probability of a right label above which a sample is kept, or, with rule
            ``quantile``, the share to keep.
        rule: name of the rule.
        mixture: the fitted :class:`WeibullMixture`; None if no sample was seen. Its times are in
            epochs of the mean number seen, where samples were seen in different numbers of them.
        supported: False: this run does not tell right from wrong labels, and everything is kept.
        reason: why, in words.
        support: the figures behind the verdict.
        noise_rate: share of wrong labels: measured, with planted labels; otherwise estimated from counts. None
            where ``supported`` is False.
        epochs: the epochs judged by; None if transition times were given.
        histogram: int64 [P + 1, P + 1], counts of (misclassified, seen) in that window.
        num_samples, num_kept, num_unseen: counts; unseen samples are kept for lack of evidence.
        classes: one :class:`ClassSelection` a class, in order; empty without ``labels``.
        per_class: whether each class was judged by its own histogram.
        class_names: the text of each class number, where the labels were text; else None.
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
    _evidence: StatusEvidence | TimesEvidence
    _probability: NDArray[np.float32]
    class_names: tuple[str, ...] | None = None
    _labels: Tensor | None = None
    _class_probability: Tensor | None = None
    _verdicts: Verdicts | None = None
    _own_histogram: NDArray[np.int64] | None = None

    def __repr__(self) -> str:
        return f"Selection({self.summary().splitlines()[0]}; supported={self.supported})"

    @cached_property
    def clean_probability(self) -> Tensor:
        """Probability that the given label is right, float32 [N] in [0, 1]; computed on first access.

        A sample is kept exactly if its probability is above ``level``. With planted labels the mean over all
        samples is 1 less the measured noise rate, and unseen samples have that mean. Without, it is read off the
        fitted mixture: never rising with the misclassified count, and shifted as a whole where the two
        components overlap widely (docs/selection_evidence.md); unseen samples have the clean component's weight.

        1 for all where ``supported`` is False.
        """
        if self._class_probability is not None:
            return self._class_probability
        return self._lookup(torch.from_numpy(self._probability))

    @cached_property
    def suspicion(self) -> Tensor:
        """How suspicious the given label is, float32 [N]; higher = more likely wrong, the dropped above the kept.

        With planted labels: share of misclassified epochs and mean shortfall, more where the network's
        votes for another class are a one-sided confusion. Without, ``1 - clean_probability``, ties broken
        by the share of misclassified epochs. Comparable within one selection only.
        """
        if self._verdicts is not None:
            return self._verdicts.suspicion
        share = self.misclassified / self.seen.clamp(min=1)
        return (1.0 - self.clean_probability) + 1e-3 * share

    @property
    def suggested_label(self) -> Tensor | None:
        """The class most voted for besides the given label, int64 [N]; -1 where there was no such vote.

        None without planted labels.
        """
        return None if self._verdicts is None else self._verdicts.suggested_label

    @property
    def suggestion_confidence(self) -> Tensor | None:
        """Probability that ``suggested_label`` is the true one, if the given one is wrong, float32 [N] in [0, 1].

        None without planted labels, which calibrate it.
        """
        return None if self._verdicts is None else self._verdicts.suggestion_confidence

    @property
    def transition(self) -> Tensor | None:
        """Expected number of samples of true class i (row) wrongly given as class j, float64 [K, K] on the CPU.

        From votes against given labels, corrected by what planted ones show. None without planted labels.
        """
        return None if self._verdicts is None else self._verdicts.transition

    @property
    def estimated_recall(self) -> Estimate | None:
        """Share of the wrong labels that is dropped, measured on planted ones; it holds for noise like these.

        None without planted labels.
        """
        return None if self._verdicts is None else self._verdicts.estimated_recall

    @property
    def estimated_precision(self) -> Estimate | None:
        """Share of the dropped labels that is wrong, by their calibrated probabilities.

        None without planted labels, or where nothing is dropped.
        """
        return None if self._verdicts is None else self._verdicts.estimated_precision

    @property
    def doubt(self) -> str | None:
        """Why a measured verdict should be trusted less, and what to do; None where it need not be."""
        return None if self._verdicts is None else self._verdicts.doubt

    def corrections(self, *, least_precision: float = 0.8) -> Corrections:
        """The suggestions to follow, of which that share is right by the planted samples; see `Corrections`.

        Args:
            least_precision: share of the changed labels that shall be right afterwards, in (0.5, 1].

        Raises:
            ValueError: no planted labels, on which it is counted; or a share out of range.
        """
        if self._verdicts is None:
            raise ValueError(
                "how often suggested labels are right is counted on planted labels, and this selection has "
                "none: plant some, or decide sample by sample"
            )
        rate = self.noise_rate
        if rate is None or rate.plainly_wrong is None:
            return no_corrections(self.reason)
        if rate.low == 0.0:
            return no_corrections("there is no clear evidence of wrong labels")
        verdicts, planted = self._verdicts, self._verdicts.planted
        open_to_change = ~self.mask & (verdicts.suggested_label >= 0)
        probability = (1.0 - self.clean_probability) * verdicts.suggestion_confidence
        return choose_corrections(
            torch.where(open_to_change, probability, 0.0),
            verdicts.suggested_label,
            planted.probability,
            planted.right,
            planted.index,
            rate.plainly_wrong,
            least_precision,
        )

    def corrected_labels(self, *, least_precision: float = 0.8) -> Tensor:
        """The given labels with `corrections` made, int64 [N]; arguments and errors as there."""
        chosen = self.corrections(least_precision=least_precision)
        assert self._labels is not None
        labels = self._labels.to(torch.int64).clone()
        labels[chosen.index.to(labels.device)] = chosen.label.to(labels.device)
        return labels

    @property
    def learned(self) -> float | None:
        """Of the labels that are not plainly wrong, the share that the network predicts in the end, [0, 1].

        Below two thirds it underfits, and what it contradicts may be its own mistakes. None without planted labels.
        """
        return None if self._verdicts is None else self._verdicts.learned

    def _lookup(self, table: Tensor) -> Tensor:
        """A look-up made after the decision: only while the status is as it was decided on."""
        # Of this rank's samples: reading a figure is no collective, whatever the status.
        decided_on = self.histogram if self._own_histogram is None else self._own_histogram
        unchanged = np.array_equal(self._evidence.own_histogram(), decided_on)
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

    def table(self, *, times: TransitionTimes | None = None, **columns: Any) -> Table:
        """One row per sample, as columns of NumPy arrays [N]; see `mild_ext.selection.table`.

        Args:
            times: transition times to show; those the selection was made from by default, together with
                the training dynamics where the status has them.
            **columns: ``ids``, ``given_labels``, ``predicted_labels``, ``round_dropped``, ``dynamics``, as for
                `mild_ext.selection.table.samples_table`.

        Raises:
            ValueError: a column's length is not N, ids are not unique, or the status has changed
                since the selection was made.
        """
        if times is None:
            times = self._transition_times()
            columns.setdefault("dynamics", self._evidence.dynamics())
        fields = {item.name: getattr(times, item.name) for item in dataclasses.fields(times)}
        return samples_table(
            dropped=~self.mask,
            clean_probability=self.clean_probability,
            suspicion=self.suspicion,
            suggested_labels=self.suggested_label,
            suggestion_confidence=self.suggestion_confidence,
            times={name: values for name, values in fields.items() if name != "num_epochs"},
            **columns,
        )

    def to_frame(self, **columns: Any) -> pd.DataFrame:
        """`table` as a pandas DataFrame; needs the extra ``export``."""
        return to_frame(self.table(**columns))

    def _transition_times(self) -> TransitionTimes:
        times: TransitionTimes = self._evidence.transition_times()
        size = len(self.histogram)
        cells = times.misclassified.long() * size + times.seen.long()
        counts = torch.bincount(cells, minlength=size**2).reshape(size, size).cpu().numpy()
        # A rank's share of a sharded status is part of the histogram only.
        changed = (counts > self.histogram).any() or (
            len(cells) == self.num_samples and (counts != self.histogram).any()
        )
        if changed:
            raise ValueError(
                "the status has changed since the selection was made; take its table before reset(), or "
                "give times="
            )
        return times

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

        Returns:
            SelectionQuality. Its ``precision``, ``recall`` and ``f1`` are of *keeping* right labels; those of dropping
            wrong ones, which ``estimated_precision`` and ``estimated_recall`` estimate, are ``noisy_precision`` and
            ``noisy_recall``. ``auroc`` is that of `clean_probability`, ties by the misclassified count.

        Raises:
            TypeError: no bools, such as the true labels themselves.
            ValueError: the shape is wrong, or labels are missing.
        """
        truth = torch.as_tensor(clean).cpu().numpy()
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
        lines = (
            self._mixture_lines()
            if self._verdicts is None
            else self._measured_lines(self._verdicts)
        )
        shown = self.classes
        if len(shown) > SHOWN_CLASSES:
            shown = tuple(sorted(shown, key=lambda c: c.num_kept / c.num_samples)[:SHOWN_CLASSES])
            lines.append(f"of {len(self.classes)} classes, the {SHOWN_CLASSES} that lose most:")
        for c in shown:
            name = c.label if self.class_names is None else self.class_names[c.label]
            line = f"class {name}: {c.num_kept:,} of {c.num_samples:,} kept"
            if c.noise_rate is not None:
                rate = c.noise_rate
                line += f", noise rate {rate.rate:.0%} ({rate.low:.0%} to {rate.high:.0%})"
            lines.append(line)
        return "\n".join(lines)

    def _measured_lines(self, verdicts: Verdicts) -> list[str]:
        return measured_summary(
            self.noise_rate,
            verdicts,
            num_samples=self.num_samples,
            num_kept=self.num_kept,
            num_unseen=self.num_unseen,
            level=self.level,
            reason=self.reason,
        )

    def _mixture_lines(self) -> list[str]:
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
            epochs = common_follow_up(self.histogram).num_epochs
            lines.append(
                f"samples were seen in different numbers of epochs: judged as if all in {epochs}"
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
        return lines

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the metric's histogram, the mixture and the threshold; see `mild_ext.selection.plot`.

        ``save_figure(selection.plot(), path)`` writes the picture.
        """
        if not self.supported:
            return plot_counts(self.histogram, title=f"kept everything: {self.reason}", ax=ax)
        fitted = self.mixture is not None
        return plot_counts(
            self.histogram,
            title=f"kept {self.num_kept:,} of {self.num_samples:,} samples",
            mixture=self.mixture,
            threshold=self.threshold,
            posterior=self.posterior if fitted else None,
            level=self.level if fitted else None,
            ax=ax,
        )
