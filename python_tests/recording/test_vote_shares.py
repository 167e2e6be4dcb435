"""Shares of the votes as probabilities: their formula, parts of them, and what cleanlab finds with them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from buffers import generator
from noisy import CLASSES, NUM_SAMPLES, Noisy, plain_loop

from mild_ext import LearningStatus
from mild_ext.recording import dynamics


def recorded(samples: int, classes: int, epochs: int = 9) -> tuple[LearningStatus, torch.Tensor]:
    """A status of random predictions, and these: int64 [epochs, samples], -1 where not seen."""
    rng = generator(0)
    status = LearningStatus(samples, epochs, num_classes=classes)
    predicted = torch.randint(-1, classes, (epochs, samples), generator=rng)
    predicted[:, 0] = -1
    for t in range(epochs):
        index = (predicted[t] >= 0).nonzero()[:, 0]
        logits = torch.nn.functional.one_hot(predicted[t, index], classes).float()
        status.update(index, logits, torch.zeros_like(index))
        status.advance()
    return status, predicted


@pytest.mark.parametrize("smoothing", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("window", [None, slice(2, 6)])
def test_the_formula(smoothing: float, window: slice | None) -> None:
    status, predicted = recorded(75, 5)
    part = predicted[window or slice(None)]
    for i, row in enumerate(status.vote_shares(window, smoothing=smoothing).tolist()):
        votes = [int((part[:, i] == k).sum()) for k in range(5)]
        total = sum(votes) + smoothing
        expected = [(v + smoothing / 5) / total if total else 1 / 5 for v in votes]
        assert row == pytest.approx(expected, rel=1e-6)
    assert status.vote_shares()[0].tolist() == pytest.approx([0.2] * 5)
    assert torch.equal(status.vote_shares(), status.vote_shares(smoothing=1.0))


def test_parts_are_parts_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    status, _ = recorded(200, 7)
    whole = status.vote_shares()
    assert (whole.dtype, whole.shape) == (torch.float32, (200, 7))
    torch.testing.assert_close(whole.sum(1), torch.ones(200))
    monkeypatch.setattr(dynamics, "_CHUNK_BYTES", 4 * 7 * 64)  # 64 samples at a time
    assert torch.equal(status.vote_shares(), whole)
    for part in (
        range(200),
        range(0, 32),
        range(5, 6),
        range(31, 170),
        range(64, 64),
        range(200)[40:],
    ):
        assert torch.equal(status.vote_shares(samples=part), whole[part.start : part.stop])


def test_what_is_wrong_is_named() -> None:
    status, _ = recorded(40, 3)
    for samples in (range(0, 41), range(-1, 4), range(0, 10, 2), range(5, 2)):
        with pytest.raises(ValueError, match=r"samples must be a range with step 1 in \[0, 40\]"):
            status.vote_shares(samples=samples)
    for smoothing in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="smoothing must be at least 0 and finite"):
            status.vote_shares(smoothing=smoothing)
    with pytest.raises(ValueError, match="records 'status', which does not tell"):
        LearningStatus(3, 2).vote_shares()


def test_cleanlab_finds_the_wrong_labels_with_them() -> None:
    """Confident learning, of one training's votes instead of cross-validated probabilities."""
    filter_ = pytest.importorskip("cleanlab.filter")
    rank = pytest.importorskip("cleanlab.rank")
    data = Noisy()
    tracker = plain_loop([10], 10, num_classes=CLASSES, record="classes")
    shares = tracker.status.vote_shares().numpy()
    labels, wrong = data.labels.numpy(), data.wrong.numpy()
    issues = filter_.find_label_issues(labels, shares, n_jobs=1)
    assert issues.shape == (NUM_SAMPLES,)
    assert wrong[issues].mean() > 0.8  # precision; a third of the labels are wrong
    assert issues[wrong].mean() > 0.75  # recall
    quality = rank.get_label_quality_scores(labels, shares)
    order = np.argsort(quality)[: wrong.sum()]
    assert wrong[order].mean() > 0.8
