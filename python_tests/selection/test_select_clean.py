"""Selection rules, their support test, and that nothing ever collapses."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mild_ext import LearningStatus
from mild_ext.recording.learning_log import LearningLog
from mild_ext.selection import select_clean


def times(m, n, p):
    """What select_clean reads of TransitionTimes."""
    return SimpleNamespace(
        misclassified=torch.as_tensor(m, dtype=torch.int32),
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
        return table.index_put_((t.misclassified.long(), t.seen.long()), one, accumulate=True)

    def lookup(self, table, epochs=None):
        t = self._window(epochs)
        return table[t.misclassified.long(), t.seen.long()]


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
    kept = [select_clean(t, level=level).num_kept for level in (0.05, 0.5, 0.95)]
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
        ("ten samples", [0, 0, 1, 1, 2, 9, 10, 10, 10, 10], [10] * 10, 10, "one component"),
        ("one sample", [4], [10], 10, "one component"),
        ("one epoch", [0] * 60 + [1] * 40, [1] * 100, 1, "one component"),
        ("nobody seen", [0] * 50, [0] * 50, 8, "no sample"),
        ("all learned at once", [0] * 500, [20] * 500, 20, "one component"),
        ("nobody learned", [20] * 500, [20] * 500, 20, "one component"),
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
    with pytest.raises(ValueError, match="level"):
        select_clean(t, level=1.0)
    with pytest.raises(ValueError, match="window"):
        select_clean(t, epochs=slice(1, 2))
    with pytest.raises(TypeError, match="LearningStatus"):
        select_clean([0, 1])
    with pytest.raises(ValueError, match="no samples"):
        select_clean(times([], [], 3))


@pytest.mark.slow
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
    selection = select_clean(times(m, n, p), level=level)
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


def status_of(m, p, seed=0):
    """A real LearningStatus whose samples are wrong in m of p epochs, at random ones."""
    memorized = np.random.default_rng(seed).permuted(np.arange(p)[None] >= m[:, None], axis=1)
    log = LearningLog(memorized=memorized, given_label=np.zeros(len(m), dtype=np.int64))
    return log.status()


def test_real_status_and_its_times_agree():
    m, _ = draw(5)
    status = status_of(m, 30)
    ours = select_clean(status, epochs=slice(0, 30))
    theirs = select_clean(status.compute())
    assert torch.equal(ours.mask, theirs.mask)
    assert torch.equal(ours.clean_probability, theirs.clean_probability)
    assert torch.equal(ours.misclassified, status.compute().misclassified)
    assert torch.equal(ours.seen, status.compute().seen)


def test_a_half_recorded_status_is_judged_by_what_it_has():
    m, _ = draw(6, p=20)
    memorized = np.random.default_rng(0).permuted(np.arange(20)[None] >= m[:, None], axis=1)
    log = LearningLog(memorized=memorized, given_label=np.zeros(len(m), dtype=np.int64))
    whole = log.status()
    half = LearningStatus(len(m), 50)
    words = whole.words.clone()
    half.load_state_dict({"words": words, "num_epochs": 50, "epoch": 20})
    a, b = select_clean(whole, epochs=slice(0, 20)), select_clean(half, epochs=slice(0, 20))
    assert torch.equal(a.mask, b.mask)
    assert select_clean(half).epochs.stop <= 20


def asymmetric(seed=8):
    """Two classes without wrong labels but of different difficulty, two with."""
    rng = np.random.default_rng(seed)
    m, labels, clean = [], [], []
    for label, (scale, noisy) in enumerate([(1.0, 0), (9.0, 0), (1.0, 300), (4.0, 300)]):
        m += [scale * rng.weibull(1.2, 700), 25 * rng.weibull(5.0, noisy)]
        labels += [label] * (700 + noisy)
        clean += [True] * 700 + [False] * noisy
    m = np.minimum(np.concatenate(m), 30).astype(int)
    return m, torch.tensor(labels), np.array(clean)


def test_labels_let_classes_be_judged_apart():
    m, labels, clean = asymmetric()
    t = times(m, np.full(len(m), 30), 30)
    together = select_clean(t, labels=labels, per_class=False)
    apart = select_clean(t, labels=labels, per_class=True)
    assert torch.equal(together.mask, select_clean(t).mask)
    assert torch.equal(together.mask, select_clean(t, labels=labels).mask)
    assert apart.per_class
    assert apart.evaluate(clean).macro_f1 > together.evaluate(clean).macro_f1
    assert [c.label for c in apart.classes] == [0, 1, 2, 3]
    assert not apart.classes[1].supported
    assert apart.classes[1].num_kept == 700
    for c, rate in zip(apart.classes, (None, None, 0.3, 0.3), strict=True):
        assert (c.noise_rate is None) == (rate is None)
        if rate is not None:
            assert c.noise_rate.low <= rate + 0.02
            assert c.noise_rate.high >= rate - 0.02
    per_class = apart.evaluate(clean, per_class=True)
    assert set(per_class) == {0, 1, 2, 3}
    assert per_class[1].num_clean == 700


def test_classes_are_judged_together_unless_asked_for():
    m, _ = draw(9, 1400, 600)
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, 4, len(m)))
    selection = select_clean(times(m, np.full(len(m), 30), 30), labels=labels)
    assert not selection.per_class
    assert torch.equal(selection.mask, select_clean(times(m, np.full(len(m), 30), 30)).mask)
    assert sum(c.num_samples for c in selection.classes) == len(m)
    assert sum(c.num_kept for c in selection.classes) == selection.num_kept


def test_a_class_too_small_to_show_two_groups_is_kept():
    m, _ = draw(10)
    labels = torch.zeros(len(m), dtype=torch.int64)
    labels[::200] = 7
    t = times(m, np.full(len(m), 30), 30)
    selection = select_clean(t, labels=labels, per_class=True)
    assert not selection.classes[1].supported
    assert selection.classes[1].num_kept == selection.classes[1].num_samples == 5


def test_no_class_is_emptied():
    m, _ = draw(11)
    labels = torch.zeros(len(m), dtype=torch.int64)
    labels[torch.from_numpy(np.flatnonzero(m >= 28)[:20])] = 3
    selection = select_clean(times(m, np.full(len(m), 30), 30), labels=labels)
    assert selection.mask[labels == 3].all()
    assert "empty" in selection.classes[1].reason


def test_other_rules():
    m, clean = draw(12)
    t = times(m, np.full(len(m), 30), 30)
    quantile = select_clean(t, "quantile", 0.7)
    assert abs(quantile.num_kept - 700) < 30
    assert quantile.evaluate(clean).macro_f1 > 0.9
    scale = select_clean(t, "scale")
    assert 700 < scale.num_kept < 1000
    with pytest.warns(UserWarning, match="drops nothing"):
        release = select_clean(t, "release")
    assert release.mask.all()
    assert "drops nothing" in release.reason


def test_what_was_not_measured_says_so():
    m, _ = draw(13)
    selection = select_clean(status_of(m, 30))
    for text in (selection.reason, selection.summary()):
        assert "estimated from the counts alone, not measured" in text
    assert not selection.noise_rate.measured
    window = select_clean(status_of(m, 30), epochs=slice(0, 20))
    assert window.reason.count("not measured") == 1


def test_learned_at_once_or_never_is_judged():
    m = np.repeat([0, 20], [500, 300])
    selection = select_clean(times(m, np.full(800, 20), 20))
    assert np.array_equal(selection.mask.numpy(), m == 0)


def test_summary_speaks():
    m, _ = draw(13)
    labels = torch.from_numpy(np.arange(len(m)) % 2)
    selection = select_clean(times(m, np.full(len(m), 30), 30), labels=labels)
    text = selection.summary()
    for words in ("samples kept", "noise rate", "clean component", "class 1", "supported"):
        assert words in text
    lost = select_clean(times([0] * 50, [9] * 50, 9)).summary()
    assert "NOT supported" in lost
    assert repr(selection).startswith("Selection(")


def test_summary_lists_the_classes_that_lose_most():
    rng = np.random.default_rng(0)
    labels = torch.arange(3000) % 30
    late = rng.random(3000) < np.where(labels < 5, 0.9, 0.2)
    start = np.where(late, rng.integers(15, 21, 3000), rng.integers(0, 5, 3000))
    log = LearningLog(memorized=np.arange(20) >= start[:, None], given_label=labels.numpy())
    selection = select_clean(log.status(), labels=labels)
    lines = selection.summary().splitlines()
    listed = [int(line.split()[1].rstrip(":")) for line in lines if line.startswith("class ")]
    assert "of 30 classes, the 20 that lose most:" in lines
    assert len(listed) == 20
    assert set(listed[:5]) == set(range(5))


def test_to_frame():
    pandas = pytest.importorskip("pandas")
    m, _ = draw(14)
    selection = select_clean(status_of(m, 30))
    frame = selection.to_frame()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame["misclassified"]) == selection.misclassified.tolist()
    assert list(~frame["dropped"]) == selection.mask.tolist()
    assert list(frame["clean_probability"]) == selection.clean_probability.tolist()


def test_evaluate_and_best_threshold():
    m, clean = draw(15)
    selection = select_clean(times(m, np.full(len(m), 30), 30))
    quality = selection.evaluate(torch.from_numpy(clean))
    threshold, best = selection.best_threshold(clean)
    assert 0.95 * best < quality.macro_f1 <= best
    assert abs(threshold - selection.threshold) < 6
    assert quality.auroc > 0.97
    with pytest.raises(ValueError, match="labels"):
        selection.evaluate(clean, per_class=True)


def test_agreement_and_removed_share():
    m, _ = draw(16)
    t = times(m, np.full(len(m), 30), 30)
    loose, strict = select_clean(t, level=0.1), select_clean(t, level=0.9)
    assert loose.agreement(loose) == 1.0
    assert loose.agreement(strict) == strict.num_kept / loose.num_kept
    assert loose.agreement(strict.mask) == strict.agreement(loose)
    assert np.isclose(loose.removed_share, 1 - loose.num_kept / len(m))
    with pytest.raises(ValueError, match="bool mask"):
        loose.agreement(torch.ones(3, dtype=torch.bool))


def test_bad_labels():
    t = times([0, 1], [3, 3], 3)
    with pytest.raises(ValueError, match="needs labels"):
        select_clean(t, per_class=True)
    with pytest.raises(TypeError, match="integers"):
        select_clean(t, labels=torch.rand(2))
    with pytest.raises(ValueError, match="shape"):
        select_clean(t, labels=torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"\(0, 1\]"):
        select_clean(t, "quantile", 1.5)


def test_figures_of_a_changed_status_are_refused():
    m, _ = draw(17)
    status = status_of(m, 30)
    selection = select_clean(status)
    kept = selection.clean_probability
    fresh = select_clean(status)
    status.reset()
    assert torch.equal(selection.clean_probability, kept)  # read in time
    with pytest.raises(RuntimeError, match="has changed"):
        _ = fresh.clean_probability
    with pytest.raises(RuntimeError, match="has changed"):
        _ = fresh.seen
