"""Samples seen in different numbers of epochs: stretched to one number, and judged alike."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mild_ext import select_clean
from mild_ext.mixture.follow_up import StretchedCounts, common_follow_up
from mild_ext.recording.learning_log import LearningLog
from mild_ext.selection.quality import evaluate_selection


def position(follow_up):
    """The stretched count of every cell."""
    return follow_up.table(np.arange(follow_up.num_epochs + 1.0), unseen=-1.0)


@given(st.integers(1, 40).flatmap(lambda p: st.tuples(st.just(p), st.integers(1, p))))
def test_stretched_counts(case):
    num_epochs, h = case
    where = position(StretchedCounts(num_epochs, h))
    assert where[0, 0] == -1.0
    for n in range(1, num_epochs + 1):
        own = where[: n + 1, n]
        assert own[0] == 0.0
        assert (np.diff(own) >= 0).all()
        assert (own[:n] <= h - 1).all()
        assert (where[n + 1 :, n] == 0).all()
        assert (where[:n, n] <= where[:n, n - 1])[where[:n, n - 1] >= 0].all()
        if n >= 3:  # as large a share of the common number, whole epochs left for the rest
            share = np.minimum(np.arange(n) * h / n, h - 1)
            np.testing.assert_allclose(own[:n], share)


def test_samples_seen_equally_often_stay_where_they_are():
    rng = np.random.default_rng(0)
    for num_epochs, seen in ((1, 1), (12, 12), (20, 7)):
        histogram = np.zeros((num_epochs + 1, num_epochs + 1), dtype=np.int64)
        histogram[: seen + 1, seen] = rng.integers(1, 50, seen + 1)
        histogram[0, 0] = 9
        follow_up = common_follow_up(histogram)
        assert follow_up.num_epochs == seen
        assert np.array_equal(follow_up.counts(histogram), histogram[: seen + 1, seen])


@given(st.integers(0, 2**31), st.integers(1, 30))
def test_no_sample_is_lost_and_order_is_kept(seed, num_epochs):
    rng = np.random.default_rng(seed)
    shape = (num_epochs + 1, num_epochs + 1)
    histogram = np.triu(rng.integers(1, 100, shape) * (rng.random(shape) < rng.random()))
    if not histogram[:, 1:].any():
        histogram[0, num_epochs] = 1
    follow_up = common_follow_up(histogram)
    counts = follow_up.counts(histogram)
    assert counts.sum() == pytest.approx(histogram.sum() - histogram[0, 0])
    # What is said of a cell is what is said of its samples' counts.
    values = -np.sort(-rng.random(follow_up.num_epochs + 1))
    table = follow_up.table(values, unseen=0.0)
    assert (histogram * table).sum() == pytest.approx(counts @ values)
    for n in range(1, follow_up.num_epochs + 1):
        assert (np.diff(table[: n + 1, n]) <= 1e-12).all()
        assert (table[: n + 1, n] <= table[: n + 1, min(n + 1, num_epochs)] + 1e-12).all()


def test_nothing_seen():
    histogram = np.zeros((6, 6), dtype=np.int64)
    histogram[0, 0] = 4
    assert common_follow_up(histogram).counts(histogram).sum() == 0


def log(rng, num_samples, num_epochs):
    """Right labels are memorized early and forgotten now and then, wrong ones late."""
    clean = np.arange(num_samples) % 5 < 3
    start = np.where(clean, rng.exponential(5, num_samples), rng.normal(28, 3, num_samples))
    memorized = np.arange(num_epochs) >= start[:, None]
    memorized ^= rng.random(memorized.shape) < 0.05
    return clean, LearningLog(memorized, np.zeros(num_samples, dtype=np.int64))


@pytest.mark.parametrize("shares", [(0.97, 0.97), (0.6, 0.6), (0.3, 1.0)])
def test_epochs_left_out_at_random_change_little(shares):
    rng = np.random.default_rng(2)
    clean, complete = log(rng, 3000, 30)
    share = rng.uniform(*shares, size=(3000, 1))
    seen = rng.random((3000, 30)) < share
    partly = LearningLog(complete.memorized, complete.given_label, seen=seen)
    whole = evaluate_selection(select_clean(complete.status()).mask, clean).macro_f1
    selection = select_clean(partly.status())
    assert selection.supported
    assert evaluate_selection(selection.mask, clean).macro_f1 > whole - 0.05
    # The samples of a class judged apart are read as out of as many epochs as all.
    labels = torch.from_numpy(np.where(share[:, 0] > np.median(share), 1, 0))
    apart = select_clean(partly.status(), labels=labels, per_class=True)
    assert evaluate_selection(apart.mask, clean).macro_f1 > whole - 0.05
    assert apart.noise_rate.low < 0.4 < apart.noise_rate.high


def test_samples_that_leave_are_judged_by_what_was_seen():
    rng = np.random.default_rng(4)
    clean, complete = log(rng, 3000, 30)
    stays = rng.uniform(0.7, 1.0, size=(3000, 1))
    seen = np.arange(30) < np.ceil(stays * 30)
    partly = LearningLog(complete.memorized, complete.given_label, seen=seen)
    selection = select_clean(partly.status())
    assert selection.supported
    whole = evaluate_selection(select_clean(complete.status()).mask, clean).macro_f1
    assert evaluate_selection(selection.mask, clean).macro_f1 > whole - 0.05


def test_one_epoch_seen_is_too_little_against_a_label():
    _, complete = log(np.random.default_rng(3), 3000, 30)
    seen = np.ones((3000, 30), dtype=bool)
    seen[:50, 1:] = False
    wrong = ~complete.memorized[:50, 0]
    assert 0 < wrong.sum() < 50
    partly = LearningLog(complete.memorized, complete.given_label, seen=seen)
    assert select_clean(partly.status()).mask[:50].all()
