"""Estimates of the share of wrong labels from counts alone, overall and per class.

They are not calibrated: counts cannot tell a hard right label from a wrong one, so on data that the
network finds hard they are too high, and on systematic confusions mostly too low. Planted labels
measure the rate.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mild_ext.mixture.counts import Floats, TimeCounts
from mild_ext.mixture.likelihood import sigmoid
from mild_ext.mixture.weibull import WeibullMixture

#: Standard errors to either side of an estimate: 95 % of a normal distribution.
Z = 1.96


@dataclass(frozen=True)
class Estimate:
    """A share in [0, 1] with an interval, ``low`` to ``high``, of 90 % confidence."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class NoiseRate:
    """Share of wrong labels among the samples seen, in [0, 1].

    Measured by planted labels, ``low`` and ``high`` are an interval of 90 % confidence, and the rate has
    two parts: `plainly_wrong` labels, which are learned like planted ones, and `contradicted` ones, which
    the network predicts against where it is sure, though they are not: systematic confusions, ambiguous
    samples, or what is left of its own mistakes.

    Without planted labels it is estimated from the counts alone, and nothing has checked it: ``rate`` is the
    mean of ``1 - Selection.clean_probability``. ``low`` and ``high`` are then no confidence interval. They span four
    estimates, widened by `Z` standard errors, which agree only where the mixture fits: that mean, the weight of
    the noisy component, the mean of its posterior, and the share of the samples dropped.

    Of one class, ``rate`` is the mean of ``1 - clean_probability`` where the noise was measured, and otherwise the
    mean posterior of the noisy component, with a weight fitted to that class.

    Attributes:
        rate, low, high: the share, and its interval.
        measured: whether planted labels measured it.
        plainly_wrong: the first part with its interval; None where it was not measured.
    """

    rate: float
    low: float
    high: float
    measured: bool = False
    plainly_wrong: Estimate | None = None

    def record(self) -> dict[str, Any]:
        """Its fields and ``contradicted`` as a dict, for JSON."""
        return asdict(self) | {"contradicted": self.contradicted}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> NoiseRate:
        """What `record` came from."""
        fields = {name: value for name, value in record.items() if name != "contradicted"}
        plain = fields["plainly_wrong"]
        return cls(**fields | {"plainly_wrong": None if plain is None else Estimate(**plain)})

    @property
    def contradicted(self) -> float | None:
        """The second part; None where the rate was not measured."""
        return (
            None if self.plainly_wrong is None else max(0.0, self.rate - self.plainly_wrong.value)
        )


def estimate_noise_rate(
    counts: TimeCounts, mixture: WeibullMixture, noisy_share: float, dropped_share: float
) -> NoiseRate:
    """Noise rate from a fitted, supported mixture, and from what a rule makes of it.

    ``noisy_share``: mean probability of a wrong label as the rule reads it; ``dropped_share``: the
    share it drops.
    """
    soft = _monotone_noisy_share(counts, *mixture.posterior_tables(counts.num_epochs))
    weight = float(mixture.weights_[1])
    sampling = float(np.sqrt(soft * (1 - soft) / max(counts.total, 1.0)))
    error = float(mixture.standard_errors_.weights[1])
    error = max(error if np.isfinite(error) else 0.0, sampling)
    return _span(noisy_share, (noisy_share, soft, weight, dropped_share), error)


def _span(rate: float, guesses: tuple[float, ...], error: float) -> NoiseRate:
    low, high = min(guesses) - Z * error, max(guesses) + Z * error
    return NoiseRate(rate, max(0.0, low), min(1.0, high))


def _monotone_noisy_share(counts: TimeCounts, event: Floats, censored: Floats) -> float:
    """Mean noisy posterior [P], [P + 1] over the counts, made monotone in the count."""
    clean: Floats = np.minimum.accumulate(event)
    at_end = np.minimum(censored, np.append(1.0, clean))
    return 1.0 - counts.mean(clean, at_end)


def class_noise_rate(
    counts: TimeCounts, mixture: WeibullMixture, dropped_share: float, max_iter: int = 500
) -> NoiseRate:
    """Noise rate of one class: the components of ``mixture``, the class's own weights.

    The weight maximizes the class's likelihood (EM over one number; the likelihood is concave).
    """
    odds = [table[0] - table[1] for table in mixture.log_prob_tables(counts.num_epochs)]
    log_odds = np.concatenate([odds[0], odds[1][1:]])
    mass = np.concatenate([counts.events, counts.censored[1:]])
    total = mass.sum()
    weight = float(mixture.weights_[0])
    for _ in range(max_iter):
        prior = np.log(weight) - np.log1p(-weight)
        new = float(mass @ sigmoid(prior + log_odds) / total)
        new = min(max(new, 1e-6), 1 - 1e-6)
        done = abs(new - weight) < 1e-8
        weight = new
        if done:
            break
    prior = np.log(weight) - np.log1p(-weight)
    # Information of the weight: sum of squared scores (f1 - f2) / f.
    score = (sigmoid(prior + log_odds) - weight) / (weight * (1 - weight))
    information = float(mass @ score**2)
    error = 1 / float(np.sqrt(information)) if information > 0 else 1.0
    soft = _monotone_noisy_share(counts, *(sigmoid(prior + table) for table in odds))
    return _span(soft, (soft, 1.0 - weight, dropped_share), error)
