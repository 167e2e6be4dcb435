"""Selection rules, their support test, and that nothing ever collapses."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mild_ext.selection import select_clean


def times(m, n, p):
    """What select_clean reads of TransitionTimes."""
    return SimpleNamespace(
        memorization=torch.as_tensor(m, dtype=torch.int32),
        seen=torch.as_tensor(n, dtype=torch.int32),
        num_epochs=p,
    )


class Status:
    """What select_clean reads of a LearningStatus."""

    def __init__(self, memorized):
        self.memorized = torch.as_tensor(memorized)

    def _window(self, epochs):
        window = self.memorized[:, epochs if epochs is not None else slice(None)]
        p = window.shape[1]
        return times(p - window.sum(dim=1), torch.full((len(window),), p), p)

    def histogram(self, epochs=None):
        t = self._window(epochs)
        table = torch.zeros((t.num_epochs + 1, t.num_epochs + 1), dtype=torch.int64)
        one = torch.ones(len(t.seen), dtype=torch.int64)
        return table.index_put_((t.memorization.long(), t.seen.long()), one, accumulate=True)

    def lookup(self, table, epochs=None):
        t = self._window(epochs)
        return table[t.memorization.long(), t.seen.long()]


def draw(seed, clean=700, noisy=300, p=30):
    rng = np.random.default_rng(seed)
    m = np.concatenate([2.5 * rng.weibull(1.0, clean), 24 * rng.weibull(3.0, noisy)])
    return np.minimum(m, p).astype(np.int64), np.arange(clean + noisy) < clean


def test_posterior_rule_finds_the_clean():
    m, clean = draw(0)
    selection = select_clean(times(m, np.full(len(m), 30), 30))
    assert selection.supported, selection.reason
    assert selection.mask.dtype == torch.bool
    mask = selection.mask.numpy()
    assert (mask == clean).mean() > 0.95
    assert np.array_equal(mask, m <= selection.threshold)
    probability = selection.clean_probability
    assert probability.dtype == torch.float32
    assert torch.equal(probability > 0.5, selection.mask)
    assert selection.num_kept == mask.sum()
    assert selection.level == 0.5


def test_status_and_times_agree():
    m, _ = draw(1)
    memorized = np.random.default_rng(0).permuted(np.arange(30)[None] >= m[:, None], axis=1)
    status = Status(memorized)
    ours, theirs = select_clean(status), select_clean(times(m, np.full(len(m), 30), 30))
    assert torch.equal(ours.mask, theirs.mask)
    assert torch.equal(ours.clean_probability, theirs.clean_probability)
    window = select_clean(status, epochs=slice(10, 30))
    assert np.array_equal(window.histogram, status.histogram(slice(10, 30)).numpy())


def test_higher_level_keeps_less():
    m, _ = draw(2)
    t = times(m, np.full(len(m), 30), 30)
    kept = [select_clean(t, threshold=level).num_kept for level in (0.05, 0.5, 0.95)]
    assert kept[0] > kept[1] > kept[2] > 0


def test_first_crossing():
    # A broad clean component outlives a narrow noisy one: the posterior rises again at the end.
    rng = np.random.default_rng(3)
    m = np.concatenate([6 * rng.weibull(0.6, 8000), 20 * rng.weibull(9.0, 4000)])
    m = np.clip(m, 0, 40).astype(int)
    selection = select_clean(times(m, np.full(len(m), 40), 40))
    event, censored = selection.mixture.posterior_tables(40)
    first = int(np.argmax(event <= 0.5))
    assert censored[-1] > 0.5
    assert selection.threshold == first - 1


def test_never_seen_is_kept_and_counted():
    m, _ = draw(4)
    n = np.full(len(m), 30)
    m[::10] = n[::10] = 0
    selection = select_clean(times(m, n, 30))
    assert selection.num_unseen == 100
    assert selection.mask[::10].all()
    clean_weight = torch.tensor(selection.mixture.weights_[0], dtype=torch.float32)
    assert torch.allclose(selection.clean_probability[::10], clean_weight)


@pytest.mark.parametrize(
    ("name", "m", "n", "p", "word"),
    [
        ("ten samples", [0, 0, 1, 1, 2, 9, 10, 10, 10, 10], [10] * 10, 10, "few"),
        ("one sample", [4], [10], 10, "few"),
        ("one epoch", [0] * 60 + [1] * 40, [1] * 100, 1, "one epoch"),
        ("nobody seen", [0] * 50, [0] * 50, 8, "no sample"),
        ("all learned at once", [0] * 500, [20] * 500, 20, "differ"),
        ("nobody learned", [20] * 500, [20] * 500, 20, "differ"),
        (
            "zero noise",
            np.minimum(3 * np.random.default_rng(0).weibull(1.0, 900), 20).astype(int),
            [20] * 900,
            20,
            "one component",
        ),
        (
            "only noise",
            np.minimum(15 * np.random.default_rng(0).weibull(3.0, 900), 20).astype(int),
            [20] * 900,
            20,
            "one component",
        ),
    ],
)
def test_unsupported_keeps_everything_and_says_why(name, m, n, p, word):
    selection = select_clean(times(m, n, p))
    assert not selection.supported
    assert word in selection.reason
    assert selection.mask.all()
    assert (selection.clean_probability == 1).all()
    assert selection.threshold == p
    assert selection.num_kept == len(m)


def test_bad_arguments():
    t = times([0, 1], [3, 3], 3)
    with pytest.raises(ValueError, match="rule must be one of"):
        select_clean(t, rule="loss")
    with pytest.raises(ValueError, match="threshold"):
        select_clean(t, threshold=1.0)
    with pytest.raises(ValueError, match="window"):
        select_clean(t, epochs=slice(1, 2))
    with pytest.raises(TypeError, match="LearningStatus"):
        select_clean([0, 1])
    with pytest.raises(ValueError, match="no samples"):
        select_clean(times([], [], 3))


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 12).flatmap(
        lambda p: st.lists(
            st.tuples(st.integers(0, p), st.integers(0, p), st.sampled_from([1, 30, 400])),
            min_size=1,
            max_size=10,
        )
    ),
    st.sampled_from([0.01, 0.5, 0.99]),
)
def test_any_histogram_keeps_a_sane_monotone_set(cells, level):
    m = np.repeat([min(a, b) for a, b, _ in cells], [c for *_, c in cells])
    n = np.repeat([max(a, b) for a, b, _ in cells], [c for *_, c in cells])
    p = 12
    selection = select_clean(times(m, n, p), threshold=level)
    assert selection.reason
    assert selection.mask.any()
    assert selection.num_kept == int(selection.mask.sum())
    assert not selection.clean_probability.isnan().any()
    kept = np.zeros((p + 1, p + 1), dtype=bool)
    kept[m, n] = selection.mask.numpy()
    for i, j in zip(m, n, strict=True):
        if kept[i, j]:  # wrong less often among as many seen, or seen more often
            below = (m <= i) & (n >= j)
            assert selection.mask.numpy()[below].all()
