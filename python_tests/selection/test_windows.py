"""Which epochs a selection judges by, and what the course of training says about it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mild_ext import LearningStatus
from mild_ext.recording.learning_log import LearningLog
from mild_ext.selection import select_clean, windows
from mild_ext.selection.decide import Decision, decide
from mild_ext.selection.support import Support
from mild_ext.selection.windows import Judged, _Course, choose_window, recorded_epochs


def recorded(memorized):
    return LearningLog(
        memorized=memorized, given_label=np.zeros(len(memorized), dtype=np.int64)
    ).status()


def judged(stop, bimodality, supported=True):
    """A window of which only the verdict matters."""
    table = np.ones((stop + 1, stop + 1))
    support = Support(supported, "because", bimodality=bimodality)
    histogram = np.ones((stop + 1, stop + 1), dtype=np.int64)
    decision = Decision(table > 0, table.astype(np.float32), 0.0, None, support)
    return Judged(slice(0, stop), histogram, decision)


def test_course_is_what_the_epochs_say():
    rng = np.random.default_rng(3)
    memorized = rng.random((500, 40)) < 0.7
    status = recorded(memorized)
    course = _Course(status, judged(13, 0.5))
    for stop in (13, 27, 40):
        late = ~memorized[:, stop - stop // 3 : stop]
        assert course.error(stop) == pytest.approx(late.mean())
        few = ~memorized[:, stop - 4 : stop]  # a third of the first window's
        assert course.instability(stop) == pytest.approx(
            (few.any(axis=1) & ~few.all(axis=1)).mean()
        )


class Watched:
    """A status that remembers which epochs were looked at."""

    def __init__(self, status):
        self.status, self.asked = status, []

    def histogram(self, epochs):
        self.asked.append((epochs.start, epochs.stop))
        return self.status.histogram(epochs)


def choose(status, epochs):
    histogram = status.histogram(slice(0, epochs)).numpy()
    watched = Watched(status)
    whole = Judged(slice(0, epochs), histogram, decide(histogram, "posterior", 0.5))
    return choose_window(watched, whole, 0.5), watched.asked


def test_course_is_not_asked_about_one_group():
    first = np.floor(3 * np.random.default_rng(4).weibull(1.2, 1000))
    found, asked = choose(recorded(np.arange(30)[None] >= first[:, None]), 30)
    assert found.window == slice(0, 30)
    assert not found.decision.support.supported
    assert sorted(asked) == [(0, 10), (0, 20)]  # windows, but no late epochs


def test_short_runs_are_judged_whole():
    rng = np.random.default_rng(5)
    first = np.concatenate([rng.geometric(0.5, 700), rng.integers(7, 20, 300)])
    status = recorded(np.arange(12)[None] >= first[:, None])
    assert all(start > 0 for start, _ in choose(status, 11)[1])
    assert (0, 8) in choose(status, 12)[1]


def test_first_window_is_the_shortest_that_is_supported(monkeypatch):
    # Training begins slowly: after a third of the epochs nobody has learned anything.
    rng = np.random.default_rng(6)
    first = np.concatenate([11 + rng.geometric(0.5, 700), rng.integers(20, 60, 300)])
    memorized = (np.arange(30)[None] >= first[:, None]) & (rng.random((1000, 30)) < 0.95)
    seen = []
    monkeypatch.setattr(
        windows, "_clearest", lambda course, options: seen.append(course.first) or options[0]
    )
    choose(recorded(memorized), 30)
    assert seen[0].window == slice(0, 20)
    assert seen[0].decision.support.supported


def test_samples_never_seen_are_not_dropped():
    option = judged(10, 0.5)
    option.histogram[0, 0] = 10**6
    probability = np.ones((11, 11), dtype=np.float32)
    probability[0, :2] = 0.4  # never seen; and as likely wrong as right
    decision = replace(option.decision, probability=probability)
    assert option._replace(decision=decision).share_dropped == 1 / 120


def test_settled_training_drops_what_was_never_learned(monkeypatch):
    # Of 800 wrong labels 440 are memorized between epochs 2 and 20; from epoch 20 on nothing moves.
    rng = np.random.default_rng(1)
    clean = np.arange(2000) >= 800
    first = np.where(clean, rng.exponential(2.0, 2000), rng.uniform(2, 20, 2000))
    first[440:800] = 99
    epoch = np.arange(30)[None]
    restless = 0.25 * np.clip((20 - epoch) / 20, 0, 1) * (rng.random((2000, 1)) < 0.7)
    status = recorded((epoch >= first[:, None]) ^ (rng.random((2000, 30)) < restless))
    selection = select_clean(status)
    assert selection.removed_share > 0.25
    assert "training has settled" in selection.reason
    assert selection.noise_rate.high > 0.25
    assert torch.equal(selection.mask, selection.clean_probability > 0.5)
    stricter = select_clean(status, level=0.8)
    assert (stricter.mask <= selection.mask).all()
    assert torch.equal(select_clean(status, epochs=slice(0, 30)).mask, selection.mask)
    monkeypatch.setattr(windows, "SETTLED", 0.0)
    monkeypatch.setattr(windows._Course, "has_memorized", lambda *_: False)
    without = select_clean(status)
    assert without.removed_share < 0.2
    assert without.evaluate(clean).macro_f1 < selection.evaluate(clean).macro_f1 - 0.1


def test_window_is_chosen_where_late_epochs_blur():
    # Clean samples are learned in epochs 0-9; wrong labels all at once at epoch 15, and then every
    # sample is wrong now and then: in all 60 epochs the groups blur.
    rng = np.random.default_rng(7)
    first = np.concatenate([rng.integers(0, 10, 1400), rng.integers(15, 22, 600)])
    often = rng.random((2000, 1)) * 0.5 * (np.arange(60) >= 20)
    memorized = (np.arange(60)[None] >= first[:, None]) & (rng.random((2000, 60)) >= often)
    status = recorded(memorized)
    chosen = select_clean(status)
    assert chosen.epochs in (slice(0, 20), slice(0, 40))
    clean = np.arange(2000) < 1400
    whole = select_clean(status, epochs=slice(0, 60))
    assert chosen.evaluate(clean).macro_f1 > whole.evaluate(clean).macro_f1
    assert len(chosen.histogram) == chosen.epochs.stop + 1
    assert whole.epochs == slice(0, 60)


def test_a_window_ends_before_wrong_labels_are_memorized(monkeypatch):
    # Right labels are learned by epoch 15. Wrong ones are memorized at any time between epochs 15
    # and 45, so their counts run into those of the hard samples, and by the end no error is left.
    rng = np.random.default_rng(11)
    first = np.concatenate([15 * rng.random(1400) ** 2, rng.uniform(15, 45, 600)])
    memorized = np.arange(60)[None] >= first[:, None]
    memorized &= rng.random((2000, 60)) < np.where(np.arange(60) < 20, 0.97, 0.6)
    clean = np.arange(2000) < 1400
    status = recorded(memorized)
    selection = select_clean(status)
    assert selection.epochs == slice(0, 20)
    assert "later ones memorize" in selection.reason
    assert selection.evaluate(clean).macro_f1 > 0.95
    monkeypatch.setattr(windows._Course, "has_memorized", lambda *_: False)
    monkeypatch.setattr(windows._Course, "is_memorizing", lambda *_: False)
    whole = select_clean(status)
    assert whole.epochs == slice(0, 60)
    assert whole.evaluate(clean).macro_f1 < selection.evaluate(clean).macro_f1


@pytest.mark.parametrize("level", [0.3, 0.5, 0.8])
def test_a_given_window_drops_as_many_as_all_epochs_would(level):
    rng = np.random.default_rng(12)
    rate = np.concatenate([rng.beta(1, 4, 1400), rng.beta(6, 2, 600)])  # of being misclassified
    memorized = rng.random((2000, 60)) >= rate[:, None]
    status = recorded(memorized)
    whole = select_clean(status, level=level)
    for window in (slice(0, 24), slice(10, 30), slice(40, 60)):
        part = select_clean(status, level=level, epochs=window)
        assert part.supported
        # The counts are whole numbers: half a step of the histogram is the best one can ask for.
        step = part.histogram.sum(axis=1).max() / 2000
        assert abs(part.removed_share - whole.removed_share) <= step / 2
        assert torch.equal(part.mask, part.clean_probability > level)


def test_epochs_count_as_recorded_up_to_the_last_one_seen():
    status = LearningStatus(6, 13)
    logits, labels = torch.eye(6)[:, :2].contiguous(), torch.zeros(6, dtype=torch.int64)
    assert recorded_epochs(status, status.histogram().numpy()) == 13  # nothing yet
    for epoch in range(9):  # drawn with replacement: nobody is seen in every epoch
        seen = torch.arange(6)[(torch.arange(6) + epoch) % 3 > 0]
        status.update(seen, logits[seen], labels[seen])
        assert recorded_epochs(status, status.histogram().numpy()) == epoch + 1
        status.advance()
    assert select_clean(status).epochs == slice(0, 9)
