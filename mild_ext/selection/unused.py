"""Whether a training has used the planted labels at all: in a loop of one's own that is easily forgotten.

The labels that are recorded may be the planted ones while the loss is of the given ones. Then the network learns by
heart the wrong labels it was given, and none of the planted ones: the noise would be measured as far too low.
"""

from __future__ import annotations

from statistics import NormalDist

import torch

from mild_ext.selection.votes import PlantedEvidence

#: The doubt about a selection of such a training.
NOT_USED = (
    "it looks as if the training did not use planted.labels: labels that the network contradicts at first are learned "
    "by heart, but not one in five as many of the planted ones. Compute the loss with planted.labels, those that are "
    "recorded, of every sample that is recorded, and train again. (With PosteriorTargets the labels to learn change on "
    "the way: what they measured is targets.selection)"
)

#: Share of early votes for one other class from which on a network contradicts a label.
AT_ONE = 0.8
#: Which part of the epochs is early, and the least share of the labels contradicted in it that are learned in the end:
#: the first half; or, where the network learns everything by heart at once, the first eighth.
EARLY = (2, 0.0), (8, 0.9)
#: Smallest share of all samples whose contradicted labels are learned: of fewer, these are hard right labels.
LEARNED_BY_HEART = 0.03
#: A planted label is learned with this part of the chance of another contradicted label, or more, where it is used. The
#: others may be right, and easier.
LEAST_PART = 0.2


def planted_unused(evidence: PlantedEvidence, clearly: float) -> bool:
    """Whether contradicted labels are learned by heart in the end, and the planted ones are not.

    Args:
        clearly: standard errors by which too few planted ones must be learned.
    """
    from scipy.special import bdtr  # here: SciPy takes a fifth of a second to load

    epochs, seen, improbable = evidence.recorded, evidence.seen, NormalDist().cdf(-clearly)
    missed = evidence.misclassified_share(slice(2 * epochs // 3, epochs))
    in_the_end = (missed >= 0) & (missed < 0.5)
    if float(in_the_end[evidence.index].double().mean()) >= LEAST_PART:
        return False  # the usual case, which needs no votes
    for part, least in EARLY:
        window = slice(0, max(2, epochs // part))
        if window.stop >= epochs:
            continue
        votes = [status.majority_vote(window) for status in evidence.statuses]
        label, share = (torch.cat([getattr(v, x) for v in votes]) for x in ("label", "share"))
        contradicted = seen & (label >= 0) & (label != evidence.trained) & (share >= AT_ONE)
        learned, others = contradicted & in_the_end, evidence.others
        count, by_heart = int((contradicted & others).sum()), int((learned & others).sum())
        if by_heart < max(1, LEARNED_BY_HEART * evidence.num_others, least * count):
            continue
        planted, hits = (int(rows[evidence.index].sum()) for rows in (contradicted, learned))
        if planted and bdtr(hits, planted, LEAST_PART * by_heart / count) < improbable:
            return True
    return False
