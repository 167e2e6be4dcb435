"""Whether a window of epochs supports two groups of samples, and how well it separates them.

A mixture always has two components; only this test says whether they mean anything.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mild_ext.mixture.counts import TimeCounts
from mild_ext.mixture.weibull import Weibull, WeibullMixture

#: By how much two components must explain the counts better than one: nats a sample of BIC, which already
#: charges for the larger number of parameters. Asked of each sample and not of all together, since among very
#: many samples two components always explain some detail better.
MIN_GAIN = 0.005
#: The two groups overlap widely where more than this share of the smaller one is expected to be misjudged. The
#: probability of a right label is near a half at many counts then, and where it crosses a level says little.
BLENDED = 0.4
#: A late group smaller than this that blends into the rest is the hard tail of the right labels.
SMALL_SHARE = 0.1
#: Least and largest shape of the noisy component. Wrong labels are memorized late and not at any
#: time, so their hazard rises steeply; a larger shape still would make a spike at the end of the
#: window, and every label memorized midway would pass for a hard right one.
NOISY_SHAPES = (4.0, 14.0)
#: Least shape of the one component that two are compared with. At 1 every sample is as likely to be memorized
#: in any epoch. Below 1 one component could have many samples memorized at once and the others never, which is
#: two groups under the name of one.
SINGLE_SHAPE = 1.0


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
    single = min(
        Weibull(heavy_tail=tail, min_shape=SINGLE_SHAPE, tol=MIN_GAIN / 1e4)._fit(counts).bic
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
    if share < SMALL_SHARE and confusion > BLENDED:
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
