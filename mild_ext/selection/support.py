"""Whether a window of epochs supports two groups of samples, and how well it separates them.

A mixture always has two components; only this test says whether they mean anything. Its questions,
limits and what they were measured on are in docs/selection.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mild_ext.mixture.likelihood import TimeCounts
from mild_ext.mixture.weibull import Weibull, WeibullMixture

MIN_EPOCHS = 3
MIN_SAMPLES = 20
MIN_GAIN = 0.01  # nats a sample by which two components must beat one (BIC / 2 per sample: half)
MIN_SHARE = 0.005
#: Least shape of the one component. A lower one is a U: many learned at once, the others never.
MIN_SINGLE_SHAPE = 0.5
#: A share below the first needs a confusion below the second: a small late group that blends into
#: the rest is the hard tail of the clean samples.
SMALL_SHARES = ((0.1, 0.4),)
#: The noisy component of the selection rules: its hazard rises with the cube of time or faster, but
#: it is no spike at the end, which would leave every label memorized midway to the clean component.
NOISY_SHAPES = (4.0, 14.0)


@dataclass(frozen=True)
class Support:
    """Whether two components may be believed, why, and the figures behind it.

    Attributes:
        supported: the verdict.
        reason: why, in words.
        gain: BIC of one component less that of two, nats a sample; higher = more support.
        confusion: samples the model expects its own posterior to misjudge, per sample of the
            smaller component, [0, 1]; lower = better separated.
        bimodality: share of the fitted variance of the misclassified count that lies between the
            components, [0, 1]; higher = better separated. Comparable between windows.
    """

    supported: bool
    reason: str
    gain: float = 0.0
    confusion: float = 1.0
    bimodality: float = 0.0


def selection_mixture() -> WeibullMixture:
    """The mixture the selection rules fit: heavy-tailed clean times, noisy hazard that rises."""
    return WeibullMixture(heavy_tail=True, noisy_shapes=NOISY_SHAPES)


def fit_with_support(counts: TimeCounts) -> tuple[WeibullMixture | None, Support]:
    """Fit the mixture and test it. None: there was nothing to fit."""
    if counts.total <= 0:
        return None, Support(False, "no sample was seen in these epochs: nothing to judge by")
    mixture = selection_mixture()._fit(counts)
    return mixture, _judge(counts, mixture)


def _judge(counts: TimeCounts, mixture: WeibullMixture) -> Support:
    if counts.num_epochs < MIN_EPOCHS:
        return Support(
            False,
            f"{counts.num_epochs} epoch{'s' * (counts.num_epochs > 1)} cannot tell early from late "
            f"memorization (at least {MIN_EPOCHS})",
        )
    if counts.total < MIN_SAMPLES:
        return Support(
            False, f"{counts.total:g} samples are too few for a mixture (at least {MIN_SAMPLES})"
        )
    if np.count_nonzero(counts.events) + np.count_nonzero(counts.censored) < 3:
        return Support(False, "the samples do not differ enough in how often they were wrong")
    single = min(
        Weibull(heavy_tail=tail, min_shape=MIN_SINGLE_SHAPE, tol=MIN_GAIN / 1e4)._fit(counts).bic
        for tail in (False, True)
    )
    gain = (single - mixture.bic) / counts.total
    confusion = _confusion(counts, mixture)
    bimodality = _bimodality(mixture, counts.num_epochs)
    share = float(mixture.weights_.min())

    def verdict(supported: bool, reason: str) -> Support:
        return Support(supported, reason, gain, confusion, bimodality)

    if gain <= MIN_GAIN:
        return verdict(
            False,
            "one component explains the counts about as well as two "
            f"(BIC gain {gain:.3f} nats a sample): no sign of a group that is learned late",
        )
    smaller = "clean" if mixture.weights_[0] < mixture.weights_[1] else "noisy"
    if share < MIN_SHARE:
        return verdict(False, f"the {smaller} component holds only {share:.2%} of the samples")
    for limit, most in SMALL_SHARES:
        if share < limit and confusion > most:
            return verdict(
                False,
                f"the {smaller} component is small ({share:.1%}) and blends into the other "
                f"({confusion:.0%} of it would be misjudged): more likely the tail of one group",
            )
    return verdict(
        True,
        f"two components explain the counts better than one (BIC gain {gain:.2f} nats a sample); "
        f"{confusion:.0%} of the smaller one expected to be misjudged",
    )


def _confusion(counts: TimeCounts, mixture: WeibullMixture) -> float:
    event, censored = mixture.posterior_tables(counts.num_epochs)
    wrong = counts.mean(np.minimum(event, 1 - event), np.minimum(censored, 1 - censored))
    return float(min(1.0, wrong / mixture.weights_.min()))


def _bimodality(mixture: WeibullMixture, num_epochs: int) -> float:
    outcome = mixture.outcome_probabilities(num_epochs)
    m = np.arange(num_epochs + 1)
    means = outcome @ m
    variances = outcome @ m**2 - means**2
    between = mixture.weights_.prod() * (means[1] - means[0]) ** 2
    total = between + mixture.weights_ @ variances
    return float(between / total) if total > 0 else 0.0
