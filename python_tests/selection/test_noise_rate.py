"""Noise rates: from simulated groups of known size, overall and per class."""

import numpy as np
import pytest

from mild_ext.mixture.counts import TimeCounts
from mild_ext.selection.decide import decide
from mild_ext.selection.noise_rate import class_noise_rate, estimate_noise_rate
from mild_ext.selection.support import fit_with_support


def draw(rng, clean, noisy):
    m = np.concatenate([3 * rng.weibull(1.0, clean), 26 * rng.weibull(5.0, noisy)])
    m = np.minimum(m, 30).astype(int)
    events = np.bincount(m[m < 30], minlength=30)
    censored = np.zeros(31)
    censored[30] = (m == 30).sum()
    return TimeCounts(events.astype(float), censored)


def table_of(counts):
    table = np.zeros((31, 31), dtype=np.int64)
    table[:30, 30], table[30, 30] = counts.events, counts.censored[30]
    return table


@pytest.mark.parametrize("rate", [0.1, 0.4, 0.8])
def test_overall(rate):
    rng = np.random.default_rng(0)
    counts = draw(rng, round(5000 * (1 - rate)), round(5000 * rate))
    mixture, support = fit_with_support(counts)
    assert support.supported
    noisy = decide(table_of(counts), "posterior", 0.5).probability
    noisy = 1.0 - float((table_of(counts) * noisy).sum() / counts.total)
    estimate = estimate_noise_rate(counts, mixture, noisy, rate)
    assert abs(estimate.rate - rate) < 0.03
    assert 0 <= estimate.low < rate < estimate.high <= 1
    assert estimate.high - estimate.low < 0.12


def test_disagreeing_estimates_widen_the_interval():
    counts = draw(np.random.default_rng(1), 3000, 1000)
    mixture, _ = fit_with_support(counts)
    narrow = estimate_noise_rate(counts, mixture, 0.25, 0.25)
    wide = estimate_noise_rate(counts, mixture, 0.25, 0.45)
    assert wide.rate == narrow.rate
    assert wide.low == narrow.low
    assert wide.high > 0.45 > narrow.high


def test_classes_share_components_and_have_their_own_rates():
    rng = np.random.default_rng(2)
    sizes = {0.0: (1000, 0), 0.3: (700, 300), 0.9: (100, 900)}
    tables = {rate: draw(rng, *size) for rate, size in sizes.items()}
    everyone = TimeCounts(
        sum(t.events for t in tables.values()), sum(t.censored for t in tables.values())
    )
    mixture, _ = fit_with_support(everyone)
    for rate, table in tables.items():
        estimate = class_noise_rate(table, mixture, rate)
        assert abs(estimate.rate - rate) < 0.04
        assert 0 <= estimate.low <= rate <= estimate.high <= 1
