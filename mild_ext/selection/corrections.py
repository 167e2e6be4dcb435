"""Which suggested labels to follow: those of which enough are right, as planted labels show.

The true label of a planted sample is known (it is the one withheld), so how often suggestions are right is
counted there: a planted sample counts as corrected where its planted label would be dropped and the label
suggested for it is the one withheld. The samples are ordered by the probability that the label is wrong
*and* the suggestion right. Down to a cutoff, ``S`` of the ``N`` other samples would be changed; with a share ``r``
of plainly wrong labels, and of the planted ones a share ``h`` put right down to that cutoff,

    precision = r N h / ((1 - r) S)

of the changes put a label right (a withheld label is itself wrong with probability ``r``). That is too many where
planted labels are surer to be noticed than the wrong ones of the data, or ``r`` is too large: at the strictest cutoffs
it often exceeds 1. So the probabilities are asked as well: they add up to the wrong labels that were measured, all
samples taken together, and their mean over the changes is a second figure. It is too high where classes are mixed up,
of which planted labels show nothing; there the first is low. The smaller of the two counts. The cutoff is
chosen on one half of the planted samples and its precision counted on the other, and the other way round: the
figure is of samples that did not take part in the choice. Where it is too low, the next stricter cutoffs are tried;
of both halves' cutoffs the stricter one is used. Nothing is changed unless more labels are put right than right ones
are lost even where there are fewer wrong ones by a standard error.

Of labels that the network contradicts though they are not learned like planted ones, nothing is taken for granted:
a systematic mix-up of two classes counts against the precision, as do the network's own mistakes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mild_ext.selection.noise_rate import Estimate

#: Planted samples of one half that must be put right before a cutoff can be chosen by them.
LEAST_HITS = 5
#: Standard errors from a figure to either end of its interval, which is of 90 % confidence.
Z = 1.645
#: No smaller precision can be asked for: half of the changes would be for nothing.
LEAST_PRECISION = 0.5

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Corrections:
    """The suggestions to follow; none where too few would be right.

    Attributes:
        index: int64 ``[m]``, ids of the samples, most sure first.
        label: int64 ``[m]``, the label each gets.
        cutoff: least probability of a right correction among them; infinite where there are none.
        precision: share of them that is right: as counted on planted samples that the cutoff was not chosen by, or as
            their probabilities have it, whichever is less.
        reason: why these, or why none, in a sentence.
    """

    index: Tensor
    label: Tensor
    cutoff: float
    precision: Estimate | None
    reason: str


def choose_corrections(
    probability: Tensor,
    suggested: Tensor,
    of_planted: Tensor,
    right: Tensor,
    planted: Tensor,
    rate: Estimate,
    least_precision: float = 0.8,
) -> Corrections:
    """Choose the suggestions to follow; `Selection.corrections` calls it.

    Args:
        probability: float ``[N]`` in [0, 1], that the label is wrong and the suggestion right; 0 for what may not be
            changed.
        suggested: int64 ``[N]``, the suggested labels.
        of_planted: float ``[n]``, that probability of the planted samples, judged by their planted labels.
        right: bool ``[n]``, whether what is suggested for them is the label withheld.
        planted: int64 ``[n]``, ids of the planted samples.
        rate: the measured share of plainly wrong labels.
        least_precision: share of the changed labels that shall be right afterwards, in (0.5, 1].

    Returns:
        Corrections.

    Raises:
        ValueError: a share out of range.
    """
    if not LEAST_PRECISION < least_precision <= 1.0:
        raise ValueError(f"least_precision must lie in (0.5, 1], got {least_precision!r}")
    if rate.low == 0.0:
        return no_corrections(
            "no label is clearly wrong at random, and of others, such as two classes mixed up, planted labels cannot "
            "tell how many suggestions are right. Decide sample by sample"
        )
    others = torch.ones(len(probability), dtype=torch.bool)
    others[planted.cpu()] = False
    return _choose(
        probability.cpu(),
        suggested.cpu(),
        others,
        of_planted.cpu().numpy().astype(np.float64),
        right.cpu().numpy(),
        rate,
        least_precision,
    )


def _choose(
    probability: Tensor,
    suggested: Tensor,
    others: Tensor,
    of_planted: Floats,
    right: NDArray[np.bool_],
    rate: Estimate,
    least: float,
) -> Corrections:
    candidates = np.sort(probability[others].numpy().astype(np.float64))
    candidates = candidates[candidates > 0]
    if not len(candidates):
        return no_corrections("no sample has both a dropped label and a suggestion")
    count = int(others.sum())

    def changed(cutoff: float) -> int:
        """Of the samples that were not planted."""
        return len(candidates) - int(np.searchsorted(candidates, cutoff))

    def precision(share: float, noise: float, number: float) -> float:
        return float(min(1.0, noise * count * share / ((1 - noise) * max(number, 1.0))))

    mean_above = np.cumsum(candidates[::-1]) / np.arange(1, len(candidates) + 1)

    def believed(cutoff: float) -> float:
        """The share of right ones among the samples to be changed, by their probabilities."""
        number = changed(cutoff)
        return float(mean_above[number - 1]) if number else 1.0

    halves = np.arange(len(right)) % 2  # the ids of planted samples are ascending, and say nothing
    fitting: list[Floats] = []
    for half in (0, 1):
        part = np.sort(of_planted[(halves == half) & right & (of_planted > 0)])
        size, above = int((halves == half).sum()), len(part) - np.arange(len(part))
        fits = [
            hits >= LEAST_HITS
            and believed(cutoff) >= least
            and precision(hits / size, rate.value, changed(cutoff)) >= least
            for cutoff, hits in zip(part, above, strict=True)
        ]
        fitting.append(part[np.array(fits, dtype=bool)])
    total, value = len(right), 0.0
    # A cutoff that only just fits one half often fails on the other; then the next stricter ones are tried.
    for cutoffs in zip(*fitting, strict=False):
        hits, found, numbers = 0, 0, []
        for half, cutoff in zip((1, 0), cutoffs, strict=True):
            reached = (halves == half) & (of_planted >= cutoff)
            hits, found = hits + int((reached & right).sum()), found + int(reached.sum())
            numbers.append(changed(cutoff))
        number = sum(numbers) / 2
        value = min(precision(hits / total, rate.value, number), believed(max(cutoffs)))
        if value >= least:
            break
    else:
        return no_corrections(
            f"by the planted samples and the probabilities, no group of suggestions is right in {least:.0%} of the "
            "cases. Ask for less "
            "(--precision), decide sample by sample, or train longer"
        )
    errors = _relative_errors(hits, total, rate)
    estimate = Estimate(value, max(0.0, value * (1 - errors[0])), min(1.0, value * (1 + errors[1])))
    # Changing a wrong label into another wrong one does no harm: only right ones can be lost.
    wrong = min(1.0, rate.value * count * found / (total * max(number, 1.0)))
    doubt = errors[0] / Z
    if value * (1 - doubt) <= 1.0 - wrong * (1 - doubt):
        return no_corrections(
            f"suggestions are right in {estimate.value:.0%} of the cases, but so unsure is that ({estimate.low:.0%} to "
            f"{estimate.high:.0%}) that as many right labels may be lost. Decide sample by sample, or train longer"
        )
    cutoff = max(cutoffs)
    index = (probability >= cutoff).nonzero().flatten()
    index = index[probability[index].argsort(descending=True, stable=True)]
    return Corrections(
        index,
        suggested[index],
        float(cutoff),
        estimate,
        f"of these changes {estimate.value:.0%} put a label right ({estimate.low:.0%} to {estimate.high:.0%}), "
        f"by {len(right):,} planted samples, each half judged by the cutoff of the other, and by the probabilities",
    )


def _relative_errors(hits: int, total: int, rate: Estimate) -> tuple[float, float]:
    """Of a product of a share counted on planted samples and the noise: below, and above.

    Both are measured apart, so their relative errors add up in squares.
    """
    below, above = _beta_interval(hits, total)
    share = max(hits, 1) / total
    return (
        float(np.hypot(1 - below / share, 1 - rate.low / rate.value)),
        float(np.hypot(above / share - 1, rate.high / rate.value - 1)),
    )


def _beta_interval(hits: int, total: int) -> tuple[float, float]:
    """Interval of 90 % of a binomial share (Jeffreys')."""
    from scipy.special import betaincinv  # here: SciPy takes a fifth of a second to load

    low, high = betaincinv(hits + 0.5, total - hits + 0.5, [0.05, 0.95])
    return float(low) if hits else 0.0, float(high) if hits < total else 1.0


def no_corrections(reason: str) -> Corrections:
    """Nothing to change, and why."""
    empty = torch.empty(0, dtype=torch.int64)
    return Corrections(empty, empty, float("inf"), None, f"nothing is changed: {reason}")
