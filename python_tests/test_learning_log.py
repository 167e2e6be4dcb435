"""Learning logs survive a round trip and give the status that update would have recorded."""

import numpy as np
import pytest
import torch

from mild_ext import LearningStatus
from mild_ext.learning_log import LearningLog, read_learning_log, write_learning_log


def make(samples=13, epochs=70, seed=0):
    rng = np.random.default_rng(seed)
    return LearningLog(
        memorized=rng.random((samples, epochs)) < 0.6,
        seen=rng.random((samples, epochs)) < 0.8,
        given_label=rng.integers(0, 3, samples),
        true_label=rng.integers(0, 3, samples),
        loss=rng.random((samples, epochs)).astype(np.float16),
        margin=rng.random((samples, epochs)).astype(np.float16),
        label_prob=rng.random((samples, epochs)).astype(np.float16),
        oof_probs=rng.random((samples, 3)).astype(np.float16),
    )


def test_round_trip(tmp_path):
    log = make()
    write_learning_log(tmp_path / "log.npz", log)
    again = read_learning_log(tmp_path / "log.npz")
    for name in log.__dataclass_fields__:
        assert np.array_equal(getattr(again, name), getattr(log, name)), name
    assert [path.name for path in tmp_path.iterdir()] == ["log.npz"]


def test_optional_arrays_may_be_missing(tmp_path):
    log = LearningLog(memorized=np.eye(4, 9, dtype=bool), given_label=np.arange(4))
    write_learning_log(tmp_path / "log.npz", log)
    again = read_learning_log(tmp_path / "log.npz")
    assert again.loss is None
    assert again.clean is None
    assert again.num_epochs == 9
    assert np.array_equal(again.memorized, log.memorized)


def test_status_is_what_update_records():
    log = make()
    status = LearningStatus(13, 70)
    labels = torch.from_numpy(log.given_label)
    for epoch in range(70):
        index = torch.from_numpy(np.flatnonzero(log.seen[:, epoch]))
        wrong = torch.from_numpy(~log.memorized[:, epoch])[index]
        shown = torch.where(wrong, (labels[index] + 1) % 3, labels[index])
        status.update(index, torch.eye(3)[shown], labels[index])
        status.advance()
    theirs = log.status()
    assert torch.equal(theirs.words, status.words)
    assert theirs.epoch == status.epoch


def test_clean_compares_labels():
    log = make()
    assert np.array_equal(log.clean, log.given_label == log.true_label)


def test_what_is_no_log_is_refused(tmp_path):
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(ValueError, match="lacks"):
        read_learning_log(tmp_path / "other.npz")
    np.savez(
        tmp_path / "short.npz",
        memorized=np.zeros((3, 1), np.uint8),
        num_epochs=9,
        given_label=np.zeros(3, int),
    )
    with pytest.raises(ValueError, match="uint8"):
        read_learning_log(tmp_path / "short.npz")
    with pytest.raises(ValueError, match="given_label must have shape"):
        LearningLog(memorized=np.zeros((3, 4), bool), given_label=np.zeros(2, int))
    with pytest.raises(ValueError, match="bool"):
        LearningLog(memorized=np.zeros((3, 4)), given_label=np.zeros(3, int))
