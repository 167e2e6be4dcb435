"""Learning logs survive a round trip and give the status that update would have recorded."""

import numpy as np
import pytest
import torch

from mild_ext import LearningStatus
from mild_ext.recording.learning_log import (
    LearningLog,
    LogRecorder,
    read_learning_log,
    write_learning_log,
)


def make(samples=13, epochs=70, seed=0):
    rng = np.random.default_rng(seed)
    return LearningLog(
        memorized=rng.random((samples, epochs)) < 0.6,
        seen=rng.random((samples, epochs)) < 0.8,
        given_label=rng.integers(0, 3, samples),
        true_label=rng.integers(0, 3, samples),
        ids=rng.permutation(100)[:samples],
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


def test_what_is_recorded_in_training():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (50,), generator=generator)
    status, recorder = LearningStatus(50, 70), LogRecorder(50, 70)
    rows = torch.arange(40)  # the last ten are never seen
    all_logits = torch.randn(70, 40, 4, generator=generator)
    for epoch, logits in enumerate(all_logits):
        seen = rows[rows != epoch]
        status.update(seen, logits[seen], labels[seen])
        recorder.update(epoch, seen, logits[seen], labels[seen])
        status.advance()
    log = recorder.log(status, labels, labels.flip(0))
    assert np.array_equal(log.ids, rows)
    assert np.array_equal(log.given_label, labels[:40])
    assert np.array_equal(log.true_label, labels.flip(0)[:40])
    assert torch.equal(log.status().words, status.words[:40])
    hidden = np.zeros((40, 70), dtype=bool)
    hidden[np.arange(40), np.arange(40)] = True
    assert np.array_equal(log.seen, ~hidden)
    own = all_logits.gather(2, labels[:40].expand(70, 40)[..., None])[..., 0]
    others = all_logits.masked_fill(torch.eye(4, dtype=torch.bool)[labels[:40]], -torch.inf)
    expected = {"loss": all_logits.logsumexp(2) - own, "margin": own - others.amax(2)}
    for name, values in expected.items():
        recorded = getattr(log, name)
        assert recorded.dtype == np.float16
        assert np.array_equal(np.isnan(recorded), hidden)
        np.testing.assert_allclose(
            recorded[~hidden], values.T.numpy()[~hidden], rtol=2e-3, atol=1e-3
        )
    # A margin that float16 cannot hold is as large as it can be.
    huge = LogRecorder(1, 1)
    huge.update(0, torch.tensor([0]), torch.tensor([[1e6, 0.0]]), torch.tensor([0]))
    assert huge.state_dict()["values"][1, 0, 0] == 65504


def test_recorder_goes_on_from_its_state():
    one, other = LogRecorder(3, 2), LogRecorder(3, 2)
    batch = torch.tensor([0, 2]), torch.randn(2, 5), torch.tensor([4, 1])
    one.update(1, *batch)
    other.load_state_dict({name: value.clone() for name, value in one.state_dict().items()})
    assert torch.equal(one.state_dict()["values"].isnan(), other.state_dict()["values"].isnan())
    assert other.state_dict()["values"].nansum() == one.state_dict()["values"].nansum() != 0


def test_files_that_are_no_logs(tmp_path):
    np.save(tmp_path / "array.npy", np.arange(5))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    with pytest.raises(ValueError, match="not an npz file"):
        read_learning_log(tmp_path / "array.npz")
    write_learning_log(tmp_path / "log.npz", make())
    whole = (tmp_path / "log.npz").read_bytes()
    (tmp_path / "half.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="truncated"):
        read_learning_log(tmp_path / "half.npz")
    with pytest.raises(FileNotFoundError, match=r"none\.npz"):
        read_learning_log(tmp_path / "none.npz")


def test_predicted_classes_are_logged_where_the_status_has_them(tmp_path):
    rng = torch.Generator().manual_seed(0)
    status, recorder = LearningStatus(12, 3, num_classes=4), LogRecorder(12, 3)
    given = torch.randint(0, 4, (12,), generator=rng)
    expected = np.full((10, 3), -1)
    for epoch in range(3):
        index = torch.arange(10) if epoch else torch.arange(4)
        logits = torch.randn((len(index), 4), generator=rng)
        status.update(index, logits, given[index])
        recorder.update(epoch, index, logits, given[index])
        expected[: len(index), epoch] = logits.argmax(1).numpy()
        status.advance()
    log = recorder.log(status, given)
    np.testing.assert_array_equal(log.predicted, expected)
    write_learning_log(tmp_path / "log.npz", log)
    np.testing.assert_array_equal(read_learning_log(tmp_path / "log.npz").predicted, expected)
    plain = log.status()
    assert torch.equal(plain.words, status.words[:10])
