"""Classes: judged apart where that is asked for or pays, never emptied, and figures for each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mild_ext.mixture.follow_up import FollowUp, common_follow_up
from mild_ext.mixture.likelihood import TimeCounts
from mild_ext.selection.evidence import Evidence
from mild_ext.selection.noise_rate import NoiseRate, class_noise_rate
from mild_ext.selection.rules import Decision, decide
from mild_ext.selection.windows import Judged

#: A class with fewer samples than this is judged with all the others.
MIN_CLASS = 100
#: Classes are judged apart if their own mixtures beat the common one by this much BIC a sample.
CLASS_GAIN = 0.4


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
        labels: integers [N].
        overall: what was decided on the counts of all samples.
        rule, level: what is asked for.
        per_class: True and False settle whether classes are judged apart; None: where it pays.
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
    counts = [
        torch.bincount(cell[own], minlength=size**2).reshape(size, size).cpu().numpy()
        for own in members
    ]
    follow_up = common_follow_up(sum(counts, np.zeros((size, size), dtype=np.int64)))
    judged = _judge_apart(counts, overall, rule, level, per_class, follow_up)
    mask = torch.empty(len(cell), dtype=torch.bool, device=device)
    probability = torch.empty(len(cell), device=device)
    classes = []
    decisions = judged or [overall.decision] * len(counts)
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
    return ByClass(judged is not None, mask, probability, tuple(classes))


def _judge_apart(
    counts: list[NDArray[np.int64]],
    overall: Judged,
    rule: str,
    level: float,
    per_class: bool | None,
    follow_up: FollowUp,
) -> list[Decision] | None:
    """Each class's decision on its own counts; None where all follow the common one."""
    common = overall.decision
    if per_class is False or (
        per_class is None and (rule != "posterior" or not common.support.supported)
    ):
        return None
    judged = [
        decide(c, rule, level, follow_up=follow_up) if c.sum() >= MIN_CLASS else common
        for c in counts
    ]
    if per_class is None:
        dropped = sum(float(c[~d.keep].sum()) for c, d in zip(counts, judged, strict=True))
        seen = sum(float(c.sum() - c[0, 0]) for c in counts)
        if dropped < overall.least_drop * seen:
            return None
        if _class_gain(counts, judged, common, follow_up) <= CLASS_GAIN:
            return None
    return judged


def _noise_rate(
    table: NDArray[np.int64], decision: Decision, kept: int, follow_up: FollowUp
) -> NoiseRate | None:
    total = int(table.sum())
    seen = total - int(table[0, 0])
    if not seen or decision.mixture is None or not (decision.probability < 1).any():
        return None
    times = TimeCounts.from_counts(follow_up.counts(table))
    return class_noise_rate(times, decision.mixture, (total - kept) / seen)


def _class_gain(
    counts: list[NDArray[np.int64]],
    judged: list[Decision],
    overall: Decision,
    follow_up: FollowUp,
) -> float:
    """BIC of the common mixture less that of the classes' own, nats a sample of those classes."""
    apart = total = together = 0.0
    for table, decision in zip(counts, judged, strict=True):
        if decision is overall or decision.mixture is None or overall.mixture is None:
            continue
        times = TimeCounts.from_counts(follow_up.counts(table))
        apart += decision.mixture.bic
        together -= 2 * overall.mixture.score(times)
        total += times.total
    if not total or overall.mixture is None:
        return 0.0
    together += overall.mixture.bic + 2 * overall.mixture.log_likelihood_  # its parameters
    return (together - apart) / total
