"""The support test: what it says of data with one group, with two, and of degenerate data."""

import numpy as np
import pytest

from mild_ext.mixture.counts import TimeCounts
from mild_ext.selection.support import fit_with_support


def counts_of(m, p):
    table = np.zeros((p + 1, p + 1), dtype=np.int64)
    np.add.at(table, (np.minimum(np.asarray(m), p).astype(int), p), 1)
    return TimeCounts.from_histogram(table)


def test_two_separate_groups_are_supported():
    rng = np.random.default_rng(0)
    m = np.concatenate([2 * rng.weibull(1.2, 3000), 27 * rng.weibull(6.0, 1000)])
    mixture, support = fit_with_support(counts_of(m, 30))
    assert support.supported
    assert support.gain > 0.3
    assert support.confusion < 0.05
    assert support.bimodality > 0.8
    assert abs(mixture.weights_[0] - 0.75) < 0.02


@pytest.mark.parametrize("seed", range(5))
def test_one_heavy_tailed_group_is_not(seed):
    # Clean samples that differ in difficulty have a tail that a plain Weibull would not explain.
    rng = np.random.default_rng(seed)
    m = (1.5 * (rng.random(3000) ** -0.8 - 1) ** 0.6).astype(int)
    _, support = fit_with_support(counts_of(m, 30))
    assert not support.supported


def test_few_wrong_labels_are_found_if_they_stand_apart():
    rng = np.random.default_rng(1)
    m = np.concatenate([1.5 * rng.weibull(1.5, 4800), np.full(200, 30)])
    mixture, support = fit_with_support(counts_of(m, 30))
    assert support.supported, support.reason
    assert abs(mixture.weights_[1] - 0.04) < 0.005


def test_learned_at_once_or_never_is_two_groups():
    # As after a round on kept samples, the dropped ones watched: a single Weibull of tiny shape
    # would be a U as well.
    m = np.repeat(np.arange(9), [1950, 144, 53, 29, 16, 15, 15, 26, 1752])
    mixture, support = fit_with_support(counts_of(m, 8))
    assert support.supported, support.reason
    assert support.confusion < 0.1
    assert abs(mixture.weights_[1] - 0.44) < 0.02


def test_more_overlap_means_more_confusion():
    rng = np.random.default_rng(2)
    early = 3 * rng.weibull(1.0, 3000)
    supports = [
        fit_with_support(counts_of(np.concatenate([early, late * rng.weibull(5.0, 2000)]), 30))[1]
        for late in (26, 18, 12)
    ]
    confusion = [s.confusion for s in supports]
    bimodality = [s.bimodality for s in supports]
    assert confusion == sorted(confusion)
    assert bimodality == sorted(bimodality, reverse=True)
    assert confusion[0] < 0.1 < confusion[2]


def test_nothing_seen():
    mixture, support = fit_with_support(TimeCounts(np.zeros(5), np.zeros(6)))
    assert mixture is None
    assert not support.supported
