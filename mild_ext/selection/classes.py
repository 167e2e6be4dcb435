"""Classes: judged apart where that is asked for, never emptied, and figures for each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mild_ext.mixture.counts import TimeCounts
from mild_ext.mixture.follow_up import StretchedCounts, common_follow_up
from mild_ext.selection.decide import Decision, decide
from mild_ext.selection.evidence import Evidence
from mild_ext.selection.noise_rate import NoiseRate, class_noise_rate
from mild_ext.selection.windows import Judged


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
        noise_rate: share of wrong labels in the class, measured or estimated as that of the selection; None
            where ``supported`` is False.
    """

    label: int
    num_samples: int
    num_kept: int
    threshold: float
    supported: bool
    reason: str
    noise_rate: NoiseRate | None


@dataclass(frozen=True)
class ByClass:
    """What was decided class by class.

    Attributes:
        judged_apart: whether each class was judged by its own counts.
        mask: bool [N], True = keep; no class is empty.
        probability: float32 [N], of a right label.
        classes: one verdict a class, in order.
    """

    judged_apart: bool
    mask: Tensor
    probability: Tensor
    classes: tuple[ClassSelection, ...]

    def reason(self, overall: str) -> str:
        """Why, in words, after what all samples together say."""
        judged = sum(c.supported for c in self.classes)
        return (
            f"judged class by class, of which {judged} of {len(self.classes)} support two groups; "
            f"all samples together: {overall}"
        )


def select_by_class(
    evidence: Evidence,
    labels: Tensor,
    overall: Judged,
    rule: str,
    level: float,
    per_class: bool | None,
) -> ByClass:
    """Decide for each class, by its own counts or by those of all.

    Here, and only here, arrays with an entry per sample other than the result come into being.

    Args:
        evidence: in the window that all samples are judged by.
        labels: integers [N]; -1 for a sample without a label.
        overall: what was decided on the counts of all samples.
        rule, level: what is asked for.
        per_class: whether each class is judged by its own counts alone.
    """
    size = len(overall.histogram)
    if size**2 > 2**24:
        raise ValueError(f"figures per class need fewer than 4096 epochs, got {size - 1}")
    cells = torch.arange(size**2, dtype=torch.float32).reshape(size, size)
    cell = evidence.lookup(cells).long()
    device = cell.device
    values, inverse, numbers = torch.unique(
        labels.to(device), return_inverse=True, return_counts=True
    )
    members = inverse.argsort(stable=True).split(numbers.tolist())
    if int(values[0]) < 0:  # samples without a label are no class
        values, members = values[1:], members[1:]
    counts = [
        torch.bincount(cell[own], minlength=size**2).reshape(size, size).cpu().numpy()
        for own in members
    ]
    follow_up = common_follow_up(sum(counts, np.zeros((size, size), dtype=np.int64)))
    decisions = [overall.decision] * len(counts)
    if per_class:
        decisions = [decide(own, rule, level, follow_up=follow_up) for own in counts]
    mask, probability = (
        torch.from_numpy(table).to(device).flatten()[cell]  # what samples without a label go by
        for table in (overall.decision.keep, overall.decision.probability)
    )
    classes = []
    for value, own, table, decision in zip(
        values.tolist(), members, counts, decisions, strict=True
    ):
        keep = torch.from_numpy(decision.keep).to(device).flatten()[cell[own]]
        probability[own] = torch.from_numpy(decision.probability).to(device).flatten()[cell[own]]
        supported, reason = decision.support.supported, decision.support.reason
        if not keep.any():
            keep = torch.ones_like(keep)
            supported, reason = False, "the selection would empty this class: kept"
        mask[own] = keep
        kept = int(keep.sum())
        classes.append(
            ClassSelection(
                label=value,
                num_samples=len(own),
                num_kept=kept,
                threshold=decision.threshold,
                supported=supported,
                reason=reason,
                noise_rate=_noise_rate(table, decision, kept, follow_up) if supported else None,
            )
        )
    return ByClass(bool(per_class), mask, probability, tuple(classes))


def _noise_rate(
    table: NDArray[np.int64], decision: Decision, kept: int, follow_up: StretchedCounts
) -> NoiseRate | None:
    total = int(table.sum())
    seen = total - int(table[0, 0])
    if not seen or decision.mixture is None or not (decision.probability < 1).any():
        return None
    times = TimeCounts.from_counts(follow_up.counts(table))
    return class_noise_rate(times, decision.mixture, (total - kept) / seen)
