"""Laws of the Weibull mixture: likelihood, invariances, recovery of known parameters, edges."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mild_ext.mixture.counts import TimeCounts
from mild_ext.mixture.likelihood import Likelihood
from mild_ext.mixture.weibull import Weibull, WeibullMixture


def draw(rng, size, clean_share, clean, noisy, seen):
    """Whole-epoch counts from a known mixture; components are (shape, scale)."""
    early = rng.random(size) < clean_share
    shape = np.where(early, clean[0], noisy[0])
    scale = np.where(early, clean[1], noisy[1])
    return np.minimum(scale * rng.weibull(1.0, size) ** (1 / shape), seen).astype(np.int64)


@pytest.fixture
def counts_30():
    return draw(np.random.default_rng(0), 5000, 0.7, (1.0, 3.0), (3.0, 25.0), 30)


def test_derivatives_match_finite_differences(counts_30):
    histogram = np.zeros((31, 31))
    np.add.at(histogram, (counts_30, np.full(len(counts_30), 30)), 1)
    histogram[3, 7], histogram[7, 7] = 40, 60  # mixed numbers of seen epochs
    likelihood = Likelihood(TimeCounts.from_histogram(histogram))
    for theta in (
        np.array([[-1.0, 1.5, -4.0, 0.5, 0.8]]),
        np.array([[-1.0, 1.2]]),
        np.array([[-1.0, 1.5, 0.4, -4.0, 0.5, 0.8]]),
        np.array([[-1.0, 1.2, 0.7]]),
        np.array([[0.5, 2.5, 1e-4, -4.0, 0.5, 0.8]]),
    ):
        _, gradient, hessian = likelihood.derivatives(theta)
        step = 1e-5 * np.eye(theta.shape[1])
        slope = [
            (likelihood.value(theta + s) - likelihood.value(theta - s))[0] / 2e-5 for s in step
        ]
        curve = [
            (likelihood.derivatives(theta + s)[1] - likelihood.derivatives(theta - s)[1])[0] / 2e-5
            for s in step
        ]
        np.testing.assert_allclose(gradient[0], slope, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(hessian[0], curve, rtol=1e-5, atol=1e-7)


def test_likelihood_is_the_censored_one():
    mixture = WeibullMixture().fit([0, 1, 2, 2, 6, 7, 8, 8, 8, 1, 0, 0], seen=8)
    cdf = 1 - mixture.sf(np.arange(9))
    prob = np.concatenate([np.diff(cdf, axis=0), mixture.sf([8])]) @ mixture.weights_
    assert np.isclose(prob.sum(), 1)
    by_hand = np.log(prob[[0, 1, 2, 2, 6, 7, 8, 8, 8, 1, 0, 0]]).sum()
    assert np.isclose(mixture.log_likelihood_, by_hand)


def test_trace_rises_to_the_final_likelihood(counts_30):
    mixture = WeibullMixture().fit(counts_30, seen=30)
    assert mixture.converged_
    assert (np.diff(mixture.log_likelihood_trace_) >= 0).all()
    assert mixture.log_likelihood_trace_[-1] == mixture.log_likelihood_
    assert len(mixture.log_likelihood_trace_) > 2


def test_samples_weights_and_histogram_give_the_same_fit(counts_30):
    seen = np.where(np.arange(5000) % 3 == 0, 20, 30)
    m = np.minimum(counts_30, seen)
    histogram = np.zeros((31, 31), dtype=np.int64)
    np.add.at(histogram, (m, seen), 1)
    rows, columns = np.nonzero(histogram)
    fits = [
        WeibullMixture().fit(m, seen),
        WeibullMixture().fit_histogram(histogram),
        WeibullMixture().fit(rows, columns, sample_weight=histogram[rows, columns]),
    ]
    for fit in fits[1:]:
        assert np.array_equal(fit.scales_, fits[0].scales_)
        assert np.array_equal(fit.weights_, fits[0].weights_)
        assert fit.log_likelihood_ == fits[0].log_likelihood_


def test_known_parameters_come_back():
    rng = np.random.default_rng(1)
    inside = []
    for _ in range(100):
        m = draw(rng, 4000, 0.6, (1.2, 3.0), (3.0, 22.0), 30)
        fit = WeibullMixture().fit(m, seen=30)
        errors = fit.standard_errors_
        inside.append(
            (np.abs(fit.shapes_ - [1.2, 3.0]) <= 3 * errors.shapes).all()
            and (np.abs(fit.scales_ - [3.0, 22.0]) <= 3 * errors.scales).all()
            and abs(fit.weights_[0] - 0.6) <= 3 * errors.weights[0]
        )
        assert np.isfinite(errors.scales).all()
        assert errors.scales.max() < 2.0
    assert np.mean(inside) >= 0.95


def test_order_holds_and_can_be_released():
    # A narrow middle and a broad rest: the free optimum is not clean against noisy.
    rng = np.random.default_rng(2)
    m = np.minimum(14 * rng.weibull(0.4, 1000), 30).astype(int)
    m = np.concatenate([m, rng.integers(4, 8, 800)])
    ordered, free = WeibullMixture().fit(m, 30), WeibullMixture(ordered=False).fit(m, 30)
    survival = ordered.sf(np.linspace(1, 30, 200))
    assert (survival[:, 0] <= survival[:, 1] + 1e-9).all()
    crossed = free.sf(np.linspace(1, 30, 200))
    assert (crossed[:, 0] > crossed[:, 1] + 1e-3).any()
    assert free.log_likelihood_ >= ordered.log_likelihood_ - 1e-6


def test_predict_proba_rows(counts_30):
    mixture = WeibullMixture().fit(counts_30, seen=30)
    proba = mixture.predict_proba(np.arange(31))
    assert proba.shape == (31, 2)
    np.testing.assert_allclose(proba.sum(axis=1), 1)
    assert proba[0, 0] > 0.9 > 0.1 > proba[29, 0]
    # Bayes by hand, for an event and for a censored sample.
    s = mixture.sf([4, 5, 12])
    event, censored = (s[0] - s[1]) * mixture.weights_, s[2] * mixture.weights_
    np.testing.assert_allclose(mixture.predict_proba([4], [9])[0], event / event.sum())
    np.testing.assert_allclose(mixture.predict_proba([12], [12])[0], censored / censored.sum())
    # Never seen: the weights themselves.
    np.testing.assert_allclose(mixture.predict_proba([0], [0])[0], mixture.weights_)
    assert mixture.predict_proba([]).shape == (0, 2)


def test_pdf_integrates_to_cdf_and_sample_follows(counts_30):
    mixture = WeibullMixture().fit(counts_30, seen=30)
    x = np.linspace(1.0, 20.0, 20001)
    y = mixture.pdf(x)
    area = ((y[1:] + y[:-1]) / 2 * np.diff(x)[:, None]).sum(axis=0)
    np.testing.assert_allclose(area, mixture.sf([1.0])[0] - mixture.sf([20.0])[0], atol=1e-6)
    times, component = mixture.sample(40_000, seed=3)
    for j in (0, 1):
        mine = times[component == j]
        assert abs((mine > 5).mean() - mixture.sf([5.0])[0, j]) < 0.02
    whole, _ = mixture.sample(100, seen=30, seed=3)
    assert whole.dtype == np.int64
    assert whole.max() <= 30
    assert np.array_equal(whole, np.minimum(mixture.sample(100, seed=3)[0], 30).astype(int))


def test_single_weibull_recovers_and_beats_mixture_on_bic():
    rng = np.random.default_rng(4)
    m = np.minimum(8.0 * rng.weibull(1.7, 3000), 30).astype(int)
    one = Weibull().fit(m, 30)
    assert abs(one.shapes_[0] - 1.7) < 4 * one.standard_errors_.shapes[0] < 0.3
    assert abs(one.scales_[0] - 8.0) < 4 * one.standard_errors_.scales[0] < 1.0
    assert one.bic < WeibullMixture().fit(m, 30).bic


def test_hit_bounds_are_reported_and_their_errors_infinite():
    mixture = WeibullMixture().fit([0] * 50 + [30] * 50, seen=30)
    assert mixture.bounds_hit_
    assert np.isfinite(mixture.scales_).all()
    assert np.isinf(mixture.standard_errors_.scales).any()


def test_a_spike_with_stragglers_converges():
    # The best shape and frailty run along a ridge on which a million samples agree.
    histogram = np.zeros((29, 29), dtype=np.int64)
    histogram[[2, 5, 24], 28] = 10**6, 1000, 1
    for heavy_tail in (False, True):
        assert Weibull(heavy_tail=heavy_tail).fit_histogram(histogram).converged_


def test_bounds_on_the_shapes_hold_and_are_checked():
    m = np.concatenate([np.repeat(np.arange(10), 100), np.full(600, 29), np.full(100, 30)])
    free = WeibullMixture().fit(m, seen=30)
    assert free.shapes_[1] > 20
    for bounds in ((4.0, 14.0), (2.0, 5.0), (6.0, 7.0)):
        mixture = WeibullMixture(noisy_shapes=bounds).fit(m, seen=30)
        assert bounds[0] - 1e-6 <= mixture.shapes_[1] <= bounds[1] + 1e-6
        assert mixture.log_likelihood_ <= free.log_likelihood_ + 1e-6
    for bounds in ((0.0, 5.0), (4.0, 4.5), (5.0, 31.0), (11.0, 20.0)):
        with pytest.raises(ValueError, match="noisy_shapes"):
            WeibullMixture(noisy_shapes=bounds).fit(m, seen=30)
    u_shaped = [0] * 500 + [4] * 10 + [8] * 490
    assert Weibull().fit(u_shaped, seen=8).shapes_[0] < 0.3
    assert Weibull(min_shape=0.5).fit(u_shaped, seen=8).shapes_[0] == pytest.approx(0.5, abs=1e-6)
    with pytest.raises(ValueError, match="min_shape"):
        Weibull(min_shape=10.0).fit(u_shaped, seen=8)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (([],), ValueError, "empty"),
        (([1.5],), ValueError, "whole"),
        ((["a"],), TypeError, "misclassified"),
        (([[1]],), ValueError, "one-dimensional"),
        (([3], 2), ValueError, r"\[0, seen\]"),
        (([-1], 2), ValueError, r"\[0, seen\]"),
        (([1], [2, 3]), ValueError, "shape"),
        (([1], 2, [-1.0]), ValueError, "non-negative"),
        (([1], 2, [1.0, 2.0]), ValueError, "shape"),
        (([0], 0), ValueError, "no sample was seen"),
    ],
)
def test_bad_input(arguments, error, words):
    with pytest.raises(error, match=words):
        WeibullMixture().fit(*arguments)


@pytest.mark.parametrize(
    ("histogram", "words"),
    [
        (np.zeros((3, 4)), "square"),
        (np.full((3, 3), np.nan), "finite"),
        (-np.eye(3), "non-negative"),
        (np.tril(np.ones((3, 3))), "more often than seen"),
    ],
)
def test_bad_histogram(histogram, words):
    with pytest.raises(ValueError, match=words):
        WeibullMixture().fit_histogram(histogram)


def test_unfitted():
    with pytest.raises(RuntimeError, match="fit first"):
        WeibullMixture().predict_proba([1], 2)


@pytest.mark.slow
@given(
    st.integers(1, 12).flatmap(
        lambda p: st.lists(
            st.tuples(st.integers(0, p), st.integers(0, p), st.sampled_from([1, 2, 50, 10**7])),
            min_size=1,
            max_size=12,
        )
    )
)
def test_any_counts_give_a_finite_monotone_fit(cells):
    m = [min(a, b) for a, b, _ in cells] + [0]
    n = [max(a, b) for a, b, _ in cells] + [1]
    weight = [w for *_, w in cells] + [1]
    mixture = WeibullMixture().fit(m, n, sample_weight=weight)
    assert np.isfinite(mixture.shapes_).all()
    assert np.isfinite(mixture.scales_).all()
    assert np.isfinite(mixture.log_likelihood_)
    assert (np.diff(mixture.log_likelihood_trace_) >= 0).all()
    assert not np.isnan(mixture.predict_proba(m, n)).any()
    errors = mixture.standard_errors_
    assert not np.isnan([*errors.weights, *errors.shapes, *errors.scales]).any()
