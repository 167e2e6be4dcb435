"""From a measured run to a verdict on every sample: how suspicious, dropped or kept, which label instead.

The suspicion ranks. The measured noise rate and the planted labels make it a probability, by which a
sample is kept or dropped; and the planted labels say how far that can be trusted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mild_ext.mixture.likelihood import sigmoid
from mild_ext.selection.measure_noise import LEAST_VOTES, LEVEL, MOST_CLASSES, Measurement, Z
from mild_ext.selection.noise_rate import Estimate, NoiseRate
from mild_ext.selection.unused import NOT_USED, planted_unused
from mild_ext.selection.votes import PlantedEvidence, separation, some

Floats = NDArray[np.float64]

#: What a nat of a one-sided confusion of classes weighs against being misclassified in every epoch, and against a
#: mean shortfall at its limit, which weighs as much.
PAIR_WEIGHT = 0.4
#: How much of its class's mean suspicion, beyond that of all, is taken off a label: hard classes are not wrong.
CLASS_WEIGHT = 0.5
#: A network that has learned a smaller share of the labels that are not plainly wrong is said to underfit. It changes
#: nothing but the words: on human labels such a network was right where it contradicted.
FITTED = 2 / 3

#: Standard errors by which planted labels must be told from all others where they may look alike.
CLEARLY = 3.0
#: Share of the planted samples' predictions from which on wrong labels were learned as fast as right ones.
MOSTLY_MEMORIZED = 0.75
#: With more noise planted labels are as often right as the others: 1 - rate - rate / (K - 1) must be at least this.
LEAST_TOLD_APART = 0.1

SHORTFALL_LIMIT = math.log(1e4)  # of an epoch, as in the status
_BINS = 512


@dataclass(frozen=True)
class PlantedSuggestions:
    """The planted samples judged by their planted labels, as all others are by their given ones; tensors ``[n]``.

    Attributes:
        index: int64, the samples' ids.
        suggested_label: int64, the class most voted for besides the planted label; -1 where there was none.
        probability: float32 in [0, 1], that the label is wrong and the suggestion right, by their own figures.
        right: bool, the suggestion is the label that was withheld.
    """

    index: Tensor
    suggested_label: Tensor
    probability: Tensor
    right: Tensor


@dataclass(frozen=True)
class Verdicts:
    """A verdict on every sample; tensors ``[N]`` on the status' device.

    Attributes:
        suspicion: float32; higher = more likely a wrong label. Comparable within one selection only.
        threshold: the suspicion from which on samples are dropped.
        mask: bool, True = kept: the probability of a right label is above the level; samples never seen are kept.
        clean_probability: float32 in [0, 1], that the given label is right; its mean is 1 less the noise rate.
        suggested_label: int64, the class most voted for besides the given label; -1 where there was no such vote.
        suggestion_confidence: float32 in [0, 1], that the suggested label is the true one, if the given one is wrong.
        transition: float64 ``[K, K]``, on the CPU: how many samples of true class ``i`` (row) are wrongly given as
            class ``j``; None with too many classes.
        estimated_recall: share of the wrong labels that is dropped; None where nothing may be.
        estimated_precision: share of the dropped labels that is wrong; None where nothing is dropped.
        doubt: why the verdict should be trusted less; None where it need not.
        actionable: whether anything may be dropped: planted labels are told from the others.
        num_planted: planted samples that were seen, by which all this was measured; of all runs.
        num_runs: trainings that were pooled.
        learned: of the labels that are not plainly wrong, the share that the networks predict in the end, [0, 1].
        planted: these judged by their planted labels, to see how right suggestions are.
    """

    suspicion: Tensor
    threshold: float
    mask: Tensor
    clean_probability: Tensor
    suggested_label: Tensor
    suggestion_confidence: Tensor
    transition: Tensor | None
    estimated_recall: Estimate | None
    estimated_precision: Estimate | None
    doubt: str | None
    actionable: bool
    num_planted: int
    num_runs: int
    learned: float
    planted: PlantedSuggestions


def judge_samples(evidence: PlantedEvidence, measured: Measurement, level: float) -> Verdicts:
    """The verdict on every sample of a measured run; ``level``: the probability above which it is kept."""
    rate = measured.noise_rate
    rows = _suspicion(evidence, measured)
    actionable = _is_told_apart(evidence, rows, measured.settled)
    suspicion, ordinary = evidence.over_runs(rows), evidence.ordinary
    planted = _planted_over_runs(evidence, rows, suspicion, rate.rate)
    seen = evidence.weight.sum(0) > 0
    slope, offset = _logistic(suspicion[ordinary], planted, rate.rate, evidence.num_classes)
    threshold = float("inf")
    if slope > 0:
        threshold = (math.log((1 - level) / level) - offset) / slope
    dropped = float((suspicion[ordinary] >= threshold).double().mean())
    found = planted >= threshold
    recall = _recall(int(found.sum()), len(planted), rate.rate, dropped, evidence.num_classes)
    wrong = torch.where(found, torch.sigmoid(slope * planted + offset), 0.0)
    suspicion = _judge_planted_by_given(evidence, suspicion, threshold, dropped)
    mask = suspicion < threshold
    clean = torch.sigmoid(-(slope * suspicion + offset)).float()
    # Rounding shall not part the two: kept exactly where the probability is above the level.
    limit = torch.tensor(level, dtype=clean.dtype, device=clean.device)
    above = limit.nextafter(limit + 1)
    clean = torch.where(mask, clean.maximum(above), clean.minimum(limit))
    precision = _precision(clean[ordinary & ~mask], rate)
    mask = mask | ~seen
    clean = torch.where(seen, clean, 1.0 - rate.rate)
    if not actionable:  # nothing is known of any sample, and nothing dropped
        mask, clean, threshold = torch.ones_like(mask), torch.ones_like(clean), float("inf")
    label, confidence, of_planted = _suggestions(evidence, measured, wrong)
    return Verdicts(
        suspicion=suspicion,
        threshold=threshold,
        mask=mask,
        clean_probability=clean,
        suggested_label=label,
        suggestion_confidence=confidence,
        transition=_transition(evidence, measured, label, 1.0 - clean),
        estimated_recall=recall if actionable else None,
        estimated_precision=precision if actionable else None,
        doubt=NOT_USED
        if planted_unused(evidence, CLEARLY)
        else _doubt(evidence, actionable, measured),
        actionable=actionable,
        num_planted=len(evidence.index),
        num_runs=evidence.num_runs,
        learned=min(measured.learned, 1.0),
        planted=of_planted,
    )


def _suspicion(evidence: PlantedEvidence, measured: Measurement) -> Tensor:
    """float32 ``[R N]``, against the label trained on; 0 where a sample was never seen."""
    share = measured.misclassified_share
    score = torch.where(share >= 0, share, evidence.whole_share).clamp(min=0)
    score = score + evidence.shortfall / SHORTFALL_LIMIT
    total: Tensor = score + _pair_term(measured, evidence.trained)
    return torch.where(evidence.seen, total - CLASS_WEIGHT * _class_mean(evidence, total), 0.0)


def _class_mean(evidence: PlantedEvidence, score: Tensor) -> Tensor:
    """By how much the class of each row's label has a higher mean score than all classes, float32 ``[R N]``.

    A class that the network finds hard has suspicious right labels. Of a class with few samples the mean says
    little: it counts by how much the means of the classes differ beyond what chance makes of them.
    """
    others, classes = evidence.others, evidence.num_classes
    label, values = evidence.trained[others], score[others].double()
    count = torch.bincount(label, minlength=classes).double()
    there = count > 0
    mean = torch.bincount(label, weights=values, minlength=classes) / count.clamp(min=1)
    gap = torch.where(there, mean - values.mean(), 0.0)
    # More runs of the same samples are no more samples.
    chance = values.var() * evidence.num_runs / count.clamp(min=1)
    spread = (gap.square() - chance)[there].mean().clamp(min=0)
    gap = gap * spread / (spread + chance).clamp(min=1e-12)
    return gap.float()[evidence.trained]


def _planted_over_runs(
    evidence: PlantedEvidence, rows: Tensor, suspicion: Tensor, rate: float
) -> Tensor:
    """What the suspicion of the planted rows ``[n]`` would be as a mean over runs, as that of all others is.

    A planted label is of one run, and what one run says scatters more. By how much, the runs show of wrong labels: of
    every sample, in proportion to the probability of a wrong label that single runs give it. That scatter is taken out.
    """
    planted = rows[evidence.index]
    slope = offset = 0.0
    if evidence.num_runs > 1:
        slope, offset = _logistic(rows[evidence.others], planted, rate, evidence.num_classes)
    if slope == 0:
        return planted
    weight = evidence.weight
    runs = (weight > 0).sum(0)
    wrong = evidence.over_runs(torch.sigmoid(slope * rows + offset))
    wrong = torch.where((runs > 1) & evidence.ordinary, wrong, 0.0).double()
    parts = (rows.view(evidence.num_runs, -1) - suspicion) ** 2 * (weight > 0)
    within = parts.sum(0) / (runs - 1).clamp(min=1)
    total = float(wrong.sum())
    if not total:
        return planted
    scatter = float((within * wrong).sum()) / total * (1 - 1 / float((runs * wrong).sum() / total))
    # Planted labels that happen to be true are another group: they widen the whole, and stay out.
    chance = rate / (evidence.num_classes - 1)
    belief = torch.sigmoid(slope * planted.double() + offset)
    share = (1 - chance) * belief / rate
    share = share / (share + chance * (1 - belief) / (1 - rate)).clamp(min=1e-12)
    share = share / share.sum().clamp(min=1e-12)
    middle = float(share @ planted.double())
    variance = float(share @ (planted.double() - middle) ** 2)
    return middle + (planted - middle) * math.sqrt(max(0.0, 1 - scatter / max(variance, 1e-12)))


def _pair_term(measured: Measurement, labels: Tensor) -> Tensor | float:
    """What a label gains by being the one that its votes are mistaken for, one way only."""
    one_sided, runner_up = measured.contradiction.one_sided, measured.votes.runner_up
    if one_sided is None:
        return 0.0
    term: Tensor = PAIR_WEIGHT * one_sided[runner_up.clamp(min=0), labels]
    return torch.where(runner_up >= 0, term, 0.0)


# ------------------------------------------------------------------------------- how far to trust it


def _recall(hits: int, planted: int, rate: float, dropped: float, classes: int) -> Estimate:
    """Share of wrong labels dropped, from the planted ones: ``hits`` of ``planted`` are.

    A few planted labels are the true ones by chance. With k of them, the planted samples are dropped at
    (1 - k) recall + k f, all others at rate recall + (1 - rate) f, f the share of right labels dropped.
    """
    low, high = _beta_interval(hits, planted)
    chance = rate / (classes - 1)
    told_apart = 1 - rate - chance  # the determinant; nothing is known where it vanishes
    if told_apart < LEAST_TOLD_APART:
        return Estimate(hits / planted, 0.0, 1.0)

    def solved(share: float) -> float:
        return float(np.clip(((1 - rate) * share - chance * dropped) / told_apart, 0.0, 1.0))

    return Estimate(solved(hits / planted), solved(low), solved(high))


def _beta_interval(hits: int, total: int) -> tuple[float, float]:
    """Interval of a binomial share (Jeffreys'); it ends at 0 or 1 where nothing speaks against that."""
    tail = (1 - LEVEL) / 2
    from scipy.special import betaincinv  # here: SciPy takes a fifth of a second to load

    low, high = betaincinv(hits + 0.5, total - hits + 0.5, [tail, 1 - tail])
    return float(low) if hits else 0.0, float(high) if hits < total else 1.0


def _precision(clean: Tensor, rate: NoiseRate) -> Estimate | None:
    """Share of the dropped labels that are wrong, from their calibrated probabilities."""
    if not len(clean) or rate.rate == 0:
        return None
    value = 1.0 - float(clean.double().mean())
    low, high = (min(1.0, value * bound / rate.rate) for bound in (rate.low, rate.high))
    return Estimate(value, low, high)


def _logistic(
    suspicion: Tensor, of_planted: Tensor, rate: float, classes: int
) -> tuple[float, float]:
    """Slope and offset of the log-odds of a wrong label in the suspicion, of all others and of planted labels.

    The offset gives the others a mean of the noise rate; the slope is the one under which the planted
    labels, nearly all wrong, are most probable.
    """
    from scipy.optimize import brentq

    if rate * len(suspicion) < 0.5:
        return 0.0, -40.0  # nothing is wrong
    low = float(torch.minimum(suspicion.min(), of_planted.min()))
    high = float(torch.maximum(suspicion.max(), of_planted.max()))
    width = (high - low + 1e-9) / _BINS
    middle = low + width * (np.arange(_BINS, dtype=np.float64) + 0.5)
    others, planted = (
        torch.bincount(((part - low) / width).long().clamp(0, _BINS - 1), minlength=_BINS)
        .cpu()
        .numpy()
        / len(part)
        for part in (suspicion, of_planted)
    )
    chance = rate / (classes - 1)

    def fitted(slope: float) -> tuple[float, float]:
        def excess(offset: float) -> float:
            return float(others @ sigmoid(slope * middle + offset)) - rate

        offset = float(brentq(excess, -40 - slope * high, 40 - slope * low))
        wrong = sigmoid(slope * middle + offset)
        density = (1 - chance) * wrong / rate + chance * (1 - wrong) / (1 - rate)
        return float(planted @ np.log(density + 1e-9)), offset

    slopes = np.exp(np.linspace(np.log(0.5), np.log(60.0), 25))
    fits = [(*fitted(slope), slope) for slope in slopes]
    _, offset, slope = max(fits)
    return float(slope), offset


def _is_told_apart(evidence: PlantedEvidence, suspicion: Tensor, settled: bool) -> bool:
    """Whether the suspicion tells planted labels from all others, beyond chance, and the run is not just begun.

    Where most labels are wrong, the others look much like planted ones, and little can be asked for. More is where
    planted labels may well look like right ones: nothing is learned yet, or everything was at once.
    """
    if evidence.recorded < LEAST_VOTES:
        return False
    error = 1 / math.sqrt(12 * len(evidence.index))  # of the area, if it did not
    asked = Z if settled and not _mostly_memorized(evidence) else CLEARLY
    return separation(suspicion, evidence) - asked * error > 0.5


def _mostly_memorized(evidence: PlantedEvidence) -> bool:
    """Whether by far most predictions of the planted samples are the planted labels."""
    share = float((evidence.planted_predictions == evidence.planted_labels[:, None]).mean())
    return share > MOSTLY_MEMORIZED


def _doubt(evidence: PlantedEvidence, actionable: bool, measured: Measurement) -> str | None:
    if not actionable:
        if _mostly_memorized(evidence):
            return (
                "wrong labels, the planted ones, are learned as fast as all others, so this run does not tell right "
                "from wrong labels. Learn more slowly: with a lower learning rate, a smaller model or stronger "
                "augmentation; if that changes nothing, the inputs may say too little about the labels"
            )
        return (
            "the planted labels look like all others, so this run does not tell right from wrong labels yet. "
            "Train longer, or with a larger model; if that does not help, the inputs may say too little about them"
        )
    if not measured.settled:
        return (
            "training has not settled, so a hard label and a wrong one look alike, and only plain errors and "
            "one-sided confusions are counted. Train longer, or with a larger model"
        )
    if measured.learned < FITTED:
        return (
            f"the network has learned only {measured.learned:.0%} of the labels that are not plainly wrong, so much "
            "of what it contradicts may be its own mistake. Train longer, with smaller batches, or with a larger or a "
            "pretrained model"
        )
    return None


# ------------------------------------------------------------------- planted samples, suggestions


def _judge_planted_by_given(
    evidence: PlantedEvidence, suspicion: Tensor, threshold: float, dropped: float
) -> Tensor:
    """The suspicion with that of samples that were planted in all runs replaced: against their given label.

    The network never learned that label, so its votes cannot be compared with those of others. But these
    samples were drawn at random: they are ranked among themselves, by the share of their votes (but those
    for the planted label) that speak against the given one, and take the others' suspicion at that rank.

    Args:
        dropped: share of the others at or above the threshold.
    """
    rows = evidence.planted_only
    if not len(rows):
        return suspicion
    at_rows = rows.cpu().numpy()
    predicted, labels = (
        x[at_rows] for x in (evidence.planted_predictions, evidence.planted_labels)
    )
    known = (predicted >= 0) & (predicted != labels[:, None])
    against = (known & (predicted != evidence.withheld[at_rows][:, None])).sum(axis=1)
    share = (against + 0.5) / (known.sum(axis=1) + 1)  # few votes say little
    n = len(share)
    rank = np.empty(n, dtype=np.int64)
    rank[np.argsort(share, kind="stable")] = np.arange(n)
    others = suspicion[evidence.ordinary]
    sample = some(others).sort().values
    at = ((torch.from_numpy(rank).to(sample.device) + 0.5) / n * len(sample)).long()
    values = sample[at.clamp(max=len(sample) - 1)]
    if math.isfinite(threshold):
        # Ranks are whole and the others a sample: which side of the threshold is not left to that.
        gone = torch.from_numpy(rank >= n - round(dropped * n)).to(values.device)
        limit = torch.tensor(threshold, dtype=values.dtype, device=values.device)
        below = limit.nextafter(limit - 1)
        values = torch.where(gone, values.maximum(limit), values.minimum(below))
    return suspicion.index_copy(0, evidence.index[rows] % evidence.num_samples, values)


def _suggestions(
    evidence: PlantedEvidence, measured: Measurement, wrong: Tensor
) -> tuple[Tensor, Tensor, PlantedSuggestions]:
    """The class most voted for besides the given label, and how far to believe in it; planted labels' own.

    ``wrong``: probability that each planted label is wrong, by its own figures, float32 [n].

    Votes are scaled so that, over the planted samples, the mean confidence is the share of right suggestions: that
    of suggestions of the label withheld, over the share of these labels that are right.
    """
    votes, index = measured.votes, evidence.index
    suggested, united = votes.runner_up[index], votes.runner_up_share[index]
    right = _suggested_right(evidence, suggested, measured.noise_rate.rate)
    believed = float(united.double().mean())
    label, confidence = (x.clone() for x in evidence.runner_up(votes))
    scale = right / believed if believed else 0.0
    of_planted = PlantedSuggestions(
        index % evidence.num_samples,
        suggested,
        (wrong * (united * scale).clamp(max=1.0)).float(),
        suggested == evidence.given[index],
    )
    # Of a planted sample, the given label is the one to be judged: the class voted for besides both labels.
    best, count, total = evidence.planted_majority(evidence.planted_labels, evidence.withheld)
    share = count / np.maximum(total, 1)
    device, rows = label.device, evidence.planted_only
    sample = index[rows] % evidence.num_samples
    label[sample] = torch.from_numpy(best).to(device)[rows]
    confidence[sample] = torch.from_numpy(share).float().to(device)[rows]
    return label, (confidence * scale).clamp(max=1.0), of_planted


def _suggested_right(evidence: PlantedEvidence, suggested: Tensor, rate: float) -> float:
    """Share of right suggestions, by those ``[n]`` for planted samples; of their withheld labels ``rate`` are wrong."""
    share = float((suggested == evidence.given[evidence.index]).double().mean())
    return min(1.0, share / (1 - rate))


def _transition(
    evidence: PlantedEvidence, measured: Measurement, suggested: Tensor, wrong: Tensor
) -> Tensor | None:
    """Expected number of samples of each true class (row) that are wrongly given as each class (column).

    Every suggestion counts with the probability that its sample's label is wrong. A share of the suggestions
    misses, by the planted samples, into classes that these show too; that part is taken out.
    """
    classes = evidence.num_classes
    if classes > MOST_CLASSES:
        return None
    there = suggested >= 0
    cell = suggested[there] * classes + evidence.given[: evidence.num_samples][there]
    counts = torch.bincount(cell, weights=wrong[there].double(), minlength=classes**2)
    counts = counts.view(classes, classes).cpu()
    guess = measured.votes.runner_up[evidence.index]
    missed = (guess != evidence.given[evidence.index]) & (guess >= 0)
    misses_share = 1.0 - _suggested_right(evidence, guess, measured.noise_rate.rate)
    total = counts.sum(0, keepdim=True)
    misses = torch.bincount(guess[missed], minlength=classes).double().cpu()
    misses = misses / misses.sum().clamp(min=1)
    true = (counts - misses_share * misses[:, None] * total).clamp(min=0)
    true.fill_diagonal_(0)
    return true * total / true.sum(0, keepdim=True).clamp(min=1e-12)
