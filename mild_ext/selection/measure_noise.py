"""What planted labels tell of one or more runs: how many labels are wrong, and whose votes say so.

Two shares add up to the noise rate. *Plainly wrong* are labels that are learned like the planted ones:
errors that have nothing to do with the sample. *Contradicted* are labels that the network, where its
votes are most united, predicts against, though they are not learned like planted ones: systematic
confusions, ambiguous samples, or the network's own mistakes, which no recording of one network can
tell apart for sure. docs/selection_evidence.md explains each step, benchmarks/selection.md what it was measured on.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mild_ext.selection.noise_rate import Estimate, NoiseRate
from mild_ext.selection.votes import (
    PlantedEvidence,
    Votes,
    choose_count_window,
    running_majority,
)

Floats = NDArray[np.float64]

#: Of the samples voted into a class, the share whose votes count as united: those with the most votes for it.
UNITED = 0.4
#: Votes count up to the last epoch in which no more than this share of the planted samples has been memorized;
#: later ones only repeat the labels.
REMEMBERED = 0.06
#: Fewest epochs whose votes count.
LEAST_VOTES = 3
#: All others are compared with the planted samples where only wrong labels should be left: above the shortfall
#: that this share of the planted samples exceeds. The far tail has more planted samples in it, the near one fewer
#: right labels.
FAR_TAIL, NEAR_TAIL = 0.8, 0.4
#: Right labels thin out faster than planted ones towards large shortfalls: where a share q of the planted samples is
#: left, at most q to this power of the right labels is.
LEAST_POWER = 2.0
#: Some right labels are as hard as planted ones, the more of them the more mistakes the network makes: this times
#: its mistakes is added to the standard error of the plainly wrong share.
HARD_TAIL = 0.12
#: Standard error of the contradicted share among samples that were trained on: the network may have memorized
#: their labels, and contradicts them too rarely then.
MEMORY_ERROR = 0.03
#: Taken for the network's own mistakes among united votes: this times how much more often the less united votes
#: contradict labels.
MISTAKES = 0.72
#: Fewer epochs cannot rank samples by how united their votes are.
LEAST_EPOCHS = 10
#: Training has not settled where more of the planted samples' predictions change from epoch to epoch.
MOST_CHURN = 0.5
#: Confidence of all intervals; its quantile is also what counts as clear.
LEVEL = 0.9
Z = NormalDist().inv_cdf((1 + LEVEL) / 2)

#: Pairs of classes are compared up to so many classes: a table of their square is kept.
MOST_CLASSES = 4096
#: How often the planted samples are drawn anew to see how much chance there is in them; and the shares (their
#: square roots) and the largest power that the likelihood is computed for.
_DRAWS = 24
_ROOTS = np.linspace(0, 1, 41)[:-1]
_LOG_MOST_POWER = np.log(60.0)


@dataclass(frozen=True)
class Contradiction:
    """How often united votes speak against labels.

    Attributes:
        held_out: of the planted samples with the most united votes, the share whose winner is not the label
            that was withheld from the network, [0, 1]; ``held_out_variance`` is its sampling variance.
        seen: of the others with the most united votes, the share whose winner is not the given label.
        mistakes: by how much more the less united votes speak against given labels than the most united ones.
        directional: share of the contradictions that go one way only (class a is predicted for labels b, but
            hardly b for labels a): these are systematic, and no mistakes of the network.
        one_sided: float32 ``[K, K]``, nats by which predicting the row's class for the column's label is
            more frequent than the reverse, beyond chance; None with too many classes to compare.
    """

    held_out: float
    held_out_variance: float
    seen: float
    mistakes: float
    directional: float
    one_sided: Tensor | None


@dataclass(frozen=True)
class Measurement:
    """What the planted labels of a run tell.

    Attributes:
        noise_rate: with its two parts.
        window: the epochs whose misclassified counts tell planted labels from others best.
        misclassified_share: float32 ``[R N]``, of that window; -1 where a sample was not seen in it.
        votes: of the first epochs, up to where planted labels begin to be memorized.
        contradiction: what these votes say.
        settled: False: training was too short, or is still in motion, to tell a wrong label from a hard one.
        learned: of the labels that are not plainly wrong, the share that is predicted in the last third of the
            epochs; 1 or more where all are. The rule does not read it.
    """

    noise_rate: NoiseRate
    window: slice
    misclassified_share: Tensor
    votes: Votes
    contradiction: Contradiction
    settled: bool
    learned: float


def measure(evidence: PlantedEvidence) -> Measurement:
    """Measure the noise of a run by its planted labels."""
    window, share = choose_count_window(evidence)
    stop, found = _vote_window(evidence)
    votes = evidence.votes(slice(0, stop))
    plain, sampling = _plainly_wrong(evidence)
    contradiction = _contradicted(evidence, votes, found)
    settled = evidence.recorded >= LEAST_EPOCHS and _churn(evidence) <= MOST_CHURN
    rate = _join(plain, sampling, contradiction, settled, int(evidence.ordinary.sum()))
    last = evidence.misclassified_share(slice(2 * evidence.recorded // 3, evidence.recorded))[
        evidence.others
    ]
    predicted = 1.0 - float(last[last >= 0].double().mean())
    learned = predicted / max(1.0 - plain, 1e-9)
    return Measurement(rate, window, share, votes, contradiction, settled, learned)


# ------------------------------------------------------------------------------- epochs that count


def _vote_window(evidence: PlantedEvidence) -> tuple[int, float]:
    """The longest run of first epochs in which planted labels are hardly memorized yet.

    Returns:
        Its end, and the share of the planted samples whose votes up to there speak against the planted label.
    """
    labels, epochs = evidence.planted_labels, evidence.recorded
    first = min(LEAST_VOTES, epochs)
    against = [
        float((winner != labels).mean())
        for winner, _ in running_majority(evidence.planted_predictions)
    ][first - 1 :]
    enough = np.flatnonzero(np.array(against) >= (1 - REMEMBERED) * max(against))
    last = int(enough[-1])
    return first + last, against[last]


def _churn(evidence: PlantedEvidence) -> float:
    """Share of the planted samples' predictions that change from one epoch to the next, in the last half."""
    predicted = evidence.planted_predictions
    if predicted.shape[1] < 2:
        return 1.0
    changes = (predicted[:, 1:] != predicted[:, :-1]).mean(axis=0)
    return float(changes[len(changes) // 2 :].mean())


# ---------------------------------------------------------------------------------- plainly wrong


def _plainly_wrong(evidence: PlantedEvidence) -> tuple[float, float]:
    """Share of labels as wrong as planted ones, and its standard error by the samples drawn.

    By the far tail of the whole run's shortfall, unless a nearer tail or the first half says clearly
    less. Right labels as hard as planted ones make the share too high, the less so the nearer the tail;
    a near tail holds few planted samples, so only the upper limit of what it says counts.
    """
    rate, error = _tail_rate(evidence, evidence.shortfall, FAR_TAIL)
    others = (
        (evidence.shortfall, NEAR_TAIL),
        (evidence.early_shortfall, NEAR_TAIL),
        (evidence.early_shortfall, FAR_TAIL),
    )
    for score, tail in others:
        if _tail_rate(evidence, score, tail, draws=0)[0] < rate:
            other, spread = _tail_rate(evidence, score, tail)
            rate = min(rate, other + Z * spread)
    return rate, error


def _tail_rate(
    evidence: PlantedEvidence, score: Tensor, tail: float, draws: int = _DRAWS
) -> tuple[float, float]:
    """The share by one score and tail, and its standard error; without draws the latter is 0.

    Of the others' tail, U(q) = eta q + (1 - eta) q^gamma at the point that a share q of the planted samples
    exceeds: wrong labels fill it like planted ones, right labels faster by a power. Multinomial likelihood
    of the others over the bins of q up to ``tail``; the sampling error of q itself by Dirichlet draws.
    """
    mine = score[evidence.index].double().sort(descending=True).values.cpu().numpy()
    m, n = len(mine), evidence.num_others
    bins = int(np.clip(tail * m / 3, 2, 10))
    k = np.unique(np.maximum(1, np.round(np.arange(1, bins + 1) * tail * m / bins).astype(int)))
    share = np.diff(np.concatenate([[0.0], _tails(evidence, score, mine[k - 1]) / n, [1.0]]))
    parts = np.diff(np.concatenate([[0], k, [m + 1]])).astype(float)
    drawn = np.random.default_rng(0).dirichlet(parts, draws).cumsum(axis=1)[:, :-1]
    q = np.concatenate([(k / (m + 1))[None], drawn])[:, None, :]  # [1 + draws, 1, bins]
    powers = np.exp(np.linspace(np.log(LEAST_POWER), _LOG_MOST_POWER, 16))[:, None]
    wrong, right = _bins(q)[:, None], _bins(q**powers)[:, None]
    eta = (_ROOTS**2)[:, None, None]
    probability = (1 - eta) * right  # [1 + draws, shares, powers, bins + 1]
    probability += eta * wrong
    np.maximum(probability, 1e-12, out=probability)
    likelihood = (np.log(probability, out=probability) @ share).max(axis=2)
    rates = _parabola_peak(likelihood) ** 2
    # Planted labels that happen to be true.
    rates = rates / (1 + rates / (evidence.num_classes - 1))
    return float(rates[0]), float(rates[1:].std()) if draws else 0.0


def _bins(tails: Floats) -> Floats:
    """The mass between tails that grow, from 0 to 1."""
    edges = np.zeros((*tails.shape[:-1], 1))
    return np.diff(np.concatenate([edges, tails, edges + 1], axis=-1))


def _tails(evidence: PlantedEvidence, score: Tensor, cuts: Floats) -> Floats:
    """How many of the others have a score of at least each of the cuts, which fall."""
    ascending = torch.from_numpy(cuts[::-1].copy()).to(score.device)
    passed = torch.searchsorted(ascending, score[evidence.others].double(), right=True)
    numbers = torch.bincount(passed, minlength=len(cuts) + 1).flip(0).cumsum(0)[:-1]
    return numbers.cpu().numpy().astype(np.float64)


def _parabola_peak(values: Floats) -> Floats:
    """Where each row, over the grid of square roots, is highest; by a parabola through three points."""
    best = values.argmax(axis=1)
    i = np.clip(best, 1, values.shape[1] - 2)
    rows = np.arange(len(values))
    a, b, c = (values[rows, i + step] for step in (-1, 0, 1))
    bend = a - 2 * b + c
    shift = np.where(bend < 0, 0.5 * (a - c) / np.where(bend < 0, bend, -1.0), 0.0)
    peak = (i + np.clip(shift, -1, 1)) * (_ROOTS[1] - _ROOTS[0])
    return np.where(best == 0, 0.0, np.maximum(peak, 0.0))


# ----------------------------------------------------------------------------------- contradicted


def _contradicted(evidence: PlantedEvidence, votes: Votes, found: float) -> Contradiction:
    """How often united votes speak against labels; ``found``: of wrong labels, the share they would."""
    classes, found = evidence.num_classes, max(found, 0.5)
    # Others: trained on their given labels.
    others = evidence.others & (votes.winner >= 0)
    winner, given = votes.winner[others], evidence.given[others]
    weight = _united_weight(winner, votes.united[others], classes)
    wrong = (winner != given).double()
    seen, less_united = (
        min(1.0, float(part @ wrong) / max(float(part.sum()), 1e-9) / found)
        for part in (weight, 1 - weight)
    )
    mistakes = max(0.0, less_united - seen)
    # Planted samples: the network has never seen the label that was withheld.
    left = evidence.planted_majority(evidence.planted_labels)
    voted = left.total > 0
    first, count = (torch.from_numpy(values[voted]) for values in (left.winner, left.votes))
    top = _united_weight(first, count, classes).numpy()
    used = float(top.sum())
    missed = float(top @ (first.numpy() != evidence.withheld[voted]))
    held_out = missed / used if used else 0.0
    smooth = (missed + 0.5) / (used + 1)
    # Of two classes, the one that is left says nothing; nor do samples without any other vote.
    variance = smooth * (1 - smooth) / used if classes > 2 and used else np.inf
    if classes > MOST_CLASSES:
        return Contradiction(held_out, variance, seen, mistakes, 0.0, None)
    # More runs say the same of the same samples: no more samples.
    joint = torch.bincount(winner * classes + given, weights=weight, minlength=classes**2)
    joint = joint / evidence.num_runs
    one_sided, directional = _one_sided(joint.view(classes, classes))
    return Contradiction(held_out, variance, seen, mistakes, directional, one_sided)


def _united_weight(winner: Tensor, united: Tensor, classes: int) -> Tensor:
    """float64 ``[n]``: 1 for the most united share `UNITED` of the samples with the same winner, else 0.

    Samples tied at the limit share what is left of it.
    """
    levels = int(united.max()) + 1 if len(united) else 1
    cell = winner * levels + united
    count = torch.bincount(cell, minlength=classes * levels).view(classes, levels).double()
    above = count.flip(1).cumsum(1).flip(1) - count
    left = UNITED * count.sum(1, keepdim=True) - above
    return (left / count.clamp(min=1)).clamp(0, 1).flatten()[cell]


def _one_sided(joint: Tensor) -> tuple[Tensor, float]:
    """Which pairs of classes are confused one way only, from united votes by (winner, given label).

    Returns:
        float32 ``[K, K]`` nats, antisymmetric, 0 where chance explains the difference; and the share of
        the contradictions that are such.
    """
    classes = len(joint)
    total = joint.sum(1, keepdim=True)
    log_share = ((joint + 1) / (total + classes)).log()
    gap = log_share - log_share.T
    error = (1 / (joint + 1) + 1 / (joint.T + 1)).sqrt()
    one_sided = gap.sign() * (gap.abs() - Z * error).clamp(min=0)
    excess = torch.where(one_sided > 0, log_share.exp() * -(-gap.abs()).expm1(), 0.0) * total
    excess.fill_diagonal_(0)
    contradictions = float(joint.sum() - joint.trace())
    return one_sided.float(), min(1.0, float(excess.sum()) / max(contradictions, 1.0))


def _join(plain: float, sampling: float, x: Contradiction, settled: bool, count: int) -> NoiseRate:
    """Plainly wrong, and as much of the contradicted as is no mistake of the network; of ``count`` samples."""
    # One-sided contradictions among less united votes are errors half memorized, no mistakes: they count in all votes.
    seen = min(1.0, x.seen + x.directional * (1 - UNITED) * x.mistakes)
    precision = np.array([1 / x.held_out_variance, 1 / MEMORY_ERROR**2])
    share = float(precision @ [x.held_out, seen] / precision.sum())
    variance = float(1 / precision.sum())
    more, believed = max(0.0, share - plain), 0.0
    if settled and more > 0:
        believed = more**2 / (more**2 + variance + (MISTAKES * x.mistakes) ** 2)
    real = x.directional + (1 - x.directional) * believed
    rate = min(plain + real * more, 0.95)
    plain_variance = sampling**2 + (HARD_TAIL * x.mistakes) ** 2 + plain / count
    doubt = real * (1 - real) if settled else 1.0
    spread = Z * float(np.sqrt(plain_variance + real**2 * variance + doubt * more**2))
    plain_spread = Z * float(np.sqrt(plain_variance))
    return NoiseRate(
        rate=rate,
        low=max(0.0, rate - spread),
        high=min(1.0, rate + spread),
        measured=True,
        plainly_wrong=Estimate(
            plain, max(0.0, plain - plain_spread), min(1.0, plain + plain_spread)
        ),
    )
