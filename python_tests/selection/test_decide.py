"""Each rule's arithmetic on histograms small enough to check by hand, and the laws all rules keep."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mild_ext.selection.decide import RULES, decide
from mild_ext.selection.metric_rules import density_scales


def histogram_of(m, p):
    table = np.zeros((p + 1, p + 1), dtype=np.int64)
    np.add.at(table, (np.asarray(m), p), 1)
    return table


@pytest.fixture(scope="module")
def two_groups():
    rng = np.random.default_rng(0)
    m = np.concatenate([2.5 * rng.weibull(1.0, 700), 24 * rng.weibull(4.0, 300)])
    return histogram_of(np.minimum(m, 30).astype(int), 30)


def test_quantile_keeps_the_share_asked_for():
    histogram = histogram_of(np.repeat(np.arange(10), 10), 10)
    for share, kept in ((0.3, 30), (0.34, 30), (0.36, 40), (1.0, 100), (0.001, 10)):
        decision = decide(histogram, "quantile", share)
        assert (histogram * decision.keep).sum() == kept
        assert decision.threshold == kept / 10 - 1


def test_quantile_orders_by_the_metric_where_seen_differs():
    histogram = np.zeros((11, 11), dtype=np.int64)
    histogram[2, 10] = 40  # metric -6
    histogram[1, 5] = 30  # metric -3: fewer errors, yet a higher metric
    histogram[9, 10] = 30  # metric 8
    keep = decide(histogram, "quantile", 0.4).keep
    assert keep[2, 10]
    assert not keep[1, 5]
    assert not keep[9, 10]


def test_scale_and_release_compare_with_the_same_scale(two_groups):
    p = 30
    counts = two_groups[:, p]
    shifted = np.maximum(2.0 * np.arange(p + 1), 0.1)
    limit = density_scales(shifted, counts).max()
    assert 40 < limit < 56  # the late group's 24 epochs, doubled by the metric
    scale = decide(two_groups, "scale", 0.5).keep[:, p]
    assert np.array_equal(scale, shifted <= limit)
    assert 0 < counts[~scale].sum() < 300
    # The released comparison leaves out the shift: a metric of at most 30 is below any such scale.
    release = decide(two_groups, "release", 0.5).keep[:, p]
    assert np.array_equal(release, 2 * np.arange(p + 1) - p <= limit)
    assert release.all()


def test_release_can_drop_where_its_scale_is_small():
    # Nearly everything is learned at once: the scale of the shifted metric is small as well.
    histogram = histogram_of(np.repeat([0, 1, 2, 4, 5, 6, 30], [500, 300, 100, 60, 60, 60, 2]), 30)
    keep = decide(histogram, "release", 0.5).keep[:, 30]
    assert keep[:4].all()
    assert not keep[30]


def test_density_scales_recover_known_ones():
    rng = np.random.default_rng(1)
    x = np.concatenate([3 * rng.weibull(1.5, 6000), 30 * rng.weibull(4.0, 4000)])
    scales = np.sort(density_scales(x, np.ones(len(x))))
    np.testing.assert_allclose(scales, [3, 30], rtol=0.03)
    # Weights are counts.
    values, counts = np.unique(np.ceil(x), return_counts=True)
    again = density_scales(np.repeat(values, counts), np.ones(len(x)))
    np.testing.assert_allclose(density_scales(values, counts), again, rtol=1e-6)


def test_posterior_levels_are_nested(two_groups):
    kept = [decide(two_groups, "posterior", level).keep for level in (0.1, 0.5, 0.9, 0.99)]
    for looser, stricter in itertools.pairwise(kept):
        assert (stricter <= looser).all()
        assert stricter.sum() < looser.sum()


def blended():
    """Many right labels are learned at any time or never; some wrong ones never, by a few epochs."""
    shape = np.round(55 * np.exp(-np.arange(31) / 9) + 18)
    shape[28:] += [4, 10, 130]
    return histogram_of(np.repeat(np.arange(31), 5 * shape.astype(int)), 30)


def test_groups_that_blend_drop_as_many_as_are_expected_to_be_wrong():
    histogram = blended()
    decision = decide(histogram, "posterior", 0.5)
    assert decision.support.supported
    event, censored = decision.mixture.posterior_tables(30)
    clean = np.append(event, censored[-1])
    assert clean[30] > clean[29]  # the clean component outlives the noisy one
    counts = histogram[:, 30] / histogram.sum()
    expected = 1 - counts @ np.minimum.accumulate(clean)
    dropped = histogram[~decision.keep].sum() / histogram.sum()
    assert abs(dropped - expected) <= counts[-3:].max()  # whole counts: as near as they allow
    assert 0 < dropped < 0.3


def test_a_share_to_drop_is_met_as_near_as_whole_counts_allow(two_groups):
    counts = two_groups[:, 30] / two_groups.sum()
    for share in (0.0, 0.1, 0.3, 0.6):
        decision = decide(two_groups, "posterior", 0.5, drop_share=share)
        dropped = counts[~decision.keep[:, 30]].sum()
        reachable = np.append(0.0, np.cumsum(counts[::-1])[:-1])
        assert abs(dropped - share) <= np.abs(reachable - share).min() + 1e-9
        assert np.array_equal(decision.keep[:, 30], decision.probability[:, 30] > 0.5)


def test_collapse_is_refused(two_groups):
    # Hardly anybody is learned early enough for this level.
    decision = decide(two_groups, "posterior", 1 - 1e-15)
    assert decision.keep.all()
    assert not decision.support.supported
    assert "refused" in decision.support.reason


# Four rules on each example: fewer of them in everyday runs, all that a search asks for.
asked_for = settings.default.max_examples
everyday = settings(max_examples=60 if asked_for <= 100 else asked_for)

cells = st.integers(1, 70).flatmap(
    lambda p: st.tuples(
        st.just(p),
        st.lists(
            st.tuples(
                st.integers(0, p),
                st.one_of(st.just(p), st.integers(0, p)),
                st.sampled_from([1, 2, 40, 1000, 10**6, 10**9]),
            ),
            min_size=1,
            max_size=16,
        ),
    )
)
shapes = st.tuples(
    st.integers(1, 200),
    st.sampled_from(["flat", "falling", "rising", "u", "spike", "two"]),
    st.sampled_from([1, 30, 5000, 10**8]),
    st.integers(0, 2**31),
)


def check(histogram):
    decisions = [(rule, decide(histogram, rule, 0.5)) for rule in RULES]
    decisions += [
        ("posterior", decide(histogram, "posterior", level, drop_share=drop, drop_level=level))
        for level, drop in ((0.5, 0.0), (0.2, 0.3), (0.9, 0.95))
    ]
    for rule, decision in decisions:
        assert decision.support.reason
        assert not np.isnan(decision.probability).any()
        assert (decision.probability >= 0).all()
        assert (decision.probability <= 1).all()
        assert decision.keep[0, 0]
        seen = histogram.copy()
        seen[0, 0] = 0
        assert (seen * decision.keep).sum() > 0 or seen.sum() == 0
        size = len(histogram)
        possible = np.arange(size)[:, None] <= np.arange(size)
        for column in range(1, size):  # with n fixed, a sample wrong less often is kept too
            kept = decision.keep[: column + 1, column]
            assert (kept[1:] <= kept[:-1]).all()
        if rule == "posterior":  # with m fixed, one seen more often is kept too
            assert ((decision.keep[:, :-1] <= decision.keep[:, 1:]) | ~possible[:, :-1]).all()


@pytest.mark.slow
@everyday
@given(cells)
def test_any_cells(case):
    p, entries = case
    histogram = np.zeros((p + 1, p + 1), dtype=np.int64)
    for a, b, count in entries:
        histogram[min(a, b), max(a, b)] += count
    check(histogram)


@pytest.mark.slow
@everyday
@given(shapes)
def test_any_shape(case):
    p, shape, total, seed = case
    x = np.arange(p + 1) / p
    density = {
        "flat": np.ones(p + 1),
        "falling": np.exp(-6 * x),
        "rising": np.exp(6 * (x - 1)),
        "u": np.exp(-8 * x) + np.exp(8 * (x - 1)),
        "spike": (np.arange(p + 1) == seed % (p + 1)).astype(float),
        "two": np.isin(np.arange(p + 1), [seed % (p + 1), seed // 7 % (p + 1)]).astype(float),
    }[shape]
    counts = np.random.default_rng(seed).multinomial(total, density / density.sum())
    histogram = np.zeros((p + 1, p + 1), dtype=np.int64)
    histogram[:, p] = counts
    check(histogram)
