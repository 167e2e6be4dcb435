"""What a selection is worth, on logs of real training runs: an easy one, a hard one, one without noise.

The bounds lie a little below what was reached on 2026-11-30: a better rule passes, a worse one does not.
Quality is that of the samples that were trained on their given label. The planted labels count apart.
"""

import numpy as np
import pytest
import torch
from recordings import FOLDER, NAMES, read_recording

from mild_ext import select_clean
from mild_ext.recording.learning_log import read_learning_log
from mild_ext.selection.quality import auroc, best_threshold, evaluate_selection

EASY, HARD, RIGHT = NAMES


def judged(recording, selection):
    """The quality among the samples that were trained on their given label."""
    kept, score = selection.mask.numpy(), selection.clean_probability.numpy()
    others = recording.others
    return evaluate_selection(kept[others], recording.clean[others], score[others])


def planted_found(recording, selection):
    """Share of the planted labels that are dropped, without those that happen to be right."""
    wrong = recording.planted[(recording.trained != recording.true)[recording.planted]]
    return 1.0 - selection.mask.numpy()[wrong].mean()


@pytest.mark.parametrize("name", NAMES)
def test_a_recording_is_what_it_says(name):
    recording, log = read_recording(name), read_learning_log(FOLDER / f"{name}.npz")
    samples, epochs = recording.predicted.shape
    assert (samples, 20 <= epochs <= 30) == (1500, True)
    assert (FOLDER / f"{name}.npz").stat().st_size < 80_000
    assert np.array_equal(log.memorized, recording.log().memorized)
    assert np.array_equal(log.given_label, recording.given)
    assert np.array_equal(log.true_label, recording.true)
    wrong = 1.0 - recording.clean.mean()
    assert wrong == (0.0 if name == RIGHT else pytest.approx(0.38, abs=0.03))

    assert len(recording.planted) == 60
    assert np.array_equal(np.flatnonzero(recording.trained != recording.given), recording.planted)
    assert (recording.withheld == recording.given[recording.planted]).all()
    for labels in (recording.given, recording.trained, recording.true, recording.predicted):
        assert np.array_equal(np.unique(labels), np.arange(10))

    for shortfall, stop in (
        (recording.shortfall, epochs),
        (recording.shortfall_first_half, epochs // 2),
    ):
        assert (shortfall >= 0).all()
        assert (shortfall <= np.log(1e4)).all()
        assert np.array_equal(shortfall == 0, log.memorized[:, :stop].all(axis=1))


@pytest.mark.parametrize("labels", [False, True], ids=["together", "labels given"])
@pytest.mark.parametrize(
    ("name", "macro_f1", "ranking", "planted"),
    [(EASY, 0.965, 0.985, 0.85), (HARD, 0.61, 0.78, 0.55)],
)
def test_wrong_labels_are_found(name, macro_f1, ranking, planted, labels):
    recording = read_recording(name)
    given = torch.from_numpy(recording.trained) if labels else None
    selection = select_clean(recording.log().status(), labels=given)
    quality = judged(recording, selection)
    assert selection.supported, selection.reason
    assert quality.macro_f1 > macro_f1
    assert quality.auroc > ranking
    assert planted_found(recording, selection) > planted


@pytest.mark.parametrize("labels", [False, True], ids=["together", "labels given"])
def test_right_labels_are_kept(labels):
    recording = read_recording(RIGHT)
    given = torch.from_numpy(recording.trained) if labels else None
    selection = select_clean(recording.log().status(), labels=given)
    assert judged(recording, selection).recall > 0.92


def test_half_the_epochs_are_enough_where_it_is_easy():
    recording = read_recording(EASY)
    for epochs in (slice(0, 15), slice(15, 30)):
        selection = select_clean(recording.log().status(), epochs=epochs)
        assert judged(recording, selection).macro_f1 > 0.965


def test_a_late_window_drops_nothing_where_it_cannot_tell():
    # By then the wrong labels of the hard run are half memorized, and all of the other's are right.
    for name in (HARD, RIGHT):
        recording = read_recording(name)
        epochs = recording.predicted.shape[1]
        selection = select_clean(recording.log().status(), epochs=slice(epochs // 2, epochs))
        quality = judged(recording, selection)
        assert selection.mask.all() or quality.macro_f1 > 0.6
        assert selection.reason


def test_the_noise_rate_lies_within_its_bounds_where_it_is_easy():
    recording = read_recording(EASY)
    rate = select_clean(recording.log().status()).noise_rate
    wrong = (recording.trained != recording.true).mean()
    assert rate.low <= wrong <= rate.high
    assert rate.high - rate.low < 0.2


@pytest.mark.parametrize(("name", "reachable"), [(EASY, 0.975), (HARD, 0.73)])
def test_what_a_count_of_misclassified_epochs_can_say_is_in_the_recording(name, reachable):
    recording = read_recording(name)
    others, clean = recording.others, recording.clean
    misclassified = (~recording.log().memorized).sum(axis=1)
    assert best_threshold(misclassified[others], clean[others])[1] > reachable
    # The shortfall tells wrong labels from right ones as well, and the planted from the right.
    assert auroc(-recording.shortfall[others], clean[others]) > 0.75
    right = clean & others
    known = np.concatenate([recording.shortfall[right], recording.shortfall[recording.planted]])
    assert auroc(-known, np.arange(len(known)) < right.sum()) > 0.75


@pytest.mark.parametrize(("name", "macro_f1", "ranking"), [(EASY, 0.965, 0.99), (HARD, 0.72, 0.83)])
def test_planted_labels_find_more(name, macro_f1, ranking):
    recording = read_recording(name)
    selection = select_clean(recording.status(), planted=recording.planted_labels)
    quality = judged(recording, selection)
    assert quality.macro_f1 > macro_f1
    assert quality.auroc > ranking
    rate = selection.noise_rate
    assert rate.low <= 1 - recording.clean[recording.others].mean() <= rate.high
    # A planted sample is judged by the label it came with.
    right = (recording.given == recording.true)[recording.planted]
    kept = selection.mask.numpy()[recording.planted]
    assert kept[right].mean() > kept[~right].mean()


def test_planted_labels_keep_what_is_right():
    recording = read_recording(RIGHT)
    selection = select_clean(recording.status(), planted=recording.planted_labels)
    assert judged(recording, selection).recall > 0.98
    assert "no clear evidence" in selection.reason
