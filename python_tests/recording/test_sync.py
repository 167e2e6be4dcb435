"""Several processes that talk over gloo, compared with one process that saw the same batches."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest
import torch
from ranks import run_on_ranks

from mild_ext import processes
from mild_ext.recording import ShardedStatus, epoch_planes
from mild_ext.recording.epoch_planes import merge_epoch_, pack_epoch
from mild_ext.recording.status import LearningStatus
from mild_ext.selection import select_clean

CLASSES = 4


def batches(num_samples, epoch, rank, *, seed=0):
    """What a rank sees in an epoch: uneven numbers of batches, samples of others, duplicates."""
    generator = torch.Generator().manual_seed(1000 * seed + 10 * epoch + rank)
    for _ in range(rank + 1 + epoch % 2):
        index = torch.randint(num_samples, (17,), generator=generator)
        logits = torch.randn(17, CLASSES, generator=generator)
        logits[0, 0] = float("nan")
        labels = torch.randint(CLASSES, (17,), generator=generator)
        yield index, logits, labels


def single_process(num_samples, num_epochs, ranks, idle=None):
    status = LearningStatus(num_samples, num_epochs)
    for epoch in range(num_epochs):
        for rank in range(ranks):
            if rank != idle:
                for batch in batches(num_samples, epoch, rank):
                    status.update(*batch)
        status.advance()
    return status


@pytest.mark.parametrize("num_samples", [1, 8, 13, 1000])
@pytest.mark.parametrize("epoch", [0, 62, 63, 64])
def test_packing_an_epoch_and_merging_it_gives_the_same_words(num_samples, epoch):
    status = LearningStatus(num_samples, 70)
    words = torch.randint(-(2**63), 2**63 - 1, (num_samples, 2, 2))
    status.words.copy_(words)
    planes = pack_epoch(status.words, epoch)
    assert planes.shape == (2, -(-num_samples // 8))
    assert planes.dtype == torch.uint8

    bits = np.unpackbits(planes.numpy(), axis=1, count=num_samples, bitorder="little")
    expected = (words[:, epoch // 64] >> (epoch % 64)) & 1
    np.testing.assert_array_equal(bits, expected.T.numpy())

    merged = torch.zeros_like(words)
    merge_epoch_(merged, epoch, planes)
    np.testing.assert_array_equal(pack_epoch(merged, epoch), planes)
    assert int((merged != 0).sum()) == bits.sum(), "other epochs' bits were touched"


def test_packing_in_pieces_is_the_same_as_at_once(monkeypatch):
    words = torch.randint(-(2**63), 2**63 - 1, (100, 1, 2))
    whole = pack_epoch(words, 3)
    monkeypatch.setattr(epoch_planes, "_ROWS", 16)
    np.testing.assert_array_equal(pack_epoch(words, 3), whole)
    merged = torch.zeros_like(words)
    merge_epoch_(merged, 3, whole)
    np.testing.assert_array_equal(merged, words & (1 << 3))


def test_without_a_process_group_sync_leaves_everything_alone():
    status = LearningStatus(10, 2)
    status.update(torch.arange(3), torch.eye(3), torch.zeros(3, dtype=torch.int64))
    before = status.words.clone()
    assert status.sync() == 0
    assert torch.equal(status.words, before)


def _train(num_samples, num_epochs, idle):
    """Epoch by epoch with sync; returns words, bytes sent per epoch, threshold and kept set."""
    rank = processes.rank()
    status = LearningStatus(num_samples, num_epochs)
    sent = []
    for epoch in range(num_epochs):
        if rank != idle:
            for batch in batches(num_samples, epoch, rank):
                status.update(*batch)
        sent.append(status.sync())
        status.advance()
    return status.words.numpy(), sent, select_clean(status).mask.numpy()


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "num_samples", "idle"), [(2, 200, None), (2, 203, 1), (3, 5, 0)])
def test_synced_words_equal_those_of_one_process(ranks, num_samples, idle):
    num_epochs = 66
    expected = single_process(num_samples, num_epochs, ranks, idle)
    mask = select_clean(expected).mask.numpy()
    for words, sent, kept in run_on_ranks(ranks, _train, num_samples, num_epochs, idle):
        np.testing.assert_array_equal(words, expected.words.numpy())
        np.testing.assert_array_equal(kept, mask)
        assert len(set(sent)) == 1


def _sync_late(num_samples, num_epochs):
    """Sync only after the last advance, then once more after another batch of the last epoch."""
    rank = processes.rank()
    status = LearningStatus(num_samples, num_epochs)
    for epoch in range(num_epochs):
        for batch in batches(num_samples, epoch, rank):
            status.update(*batch)
        if epoch == num_epochs - 1:
            status.sync()
            extra = torch.tensor([rank]), torch.eye(CLASSES)[:1], torch.tensor([rank])
            status.update(*extra)
            status.sync()
        status.advance()
    again = status.sync()
    return status.words.numpy(), again


@pytest.mark.slow
def test_epochs_that_were_not_synced_in_time_travel_with_the_next_sync():
    num_samples, num_epochs = 50, 4
    expected = single_process(num_samples, num_epochs, 2)
    for rank in range(2):
        late = LearningStatus(num_samples, num_epochs)
        for _ in range(num_epochs - 1):
            late.advance()
        late.update(torch.tensor([rank]), torch.eye(CLASSES)[:1], torch.tensor([rank]))
        expected.merge_(late)
    for words, _ in run_on_ranks(2, _sync_late, num_samples, num_epochs):
        np.testing.assert_array_equal(words, expected.words.numpy())


class _Meter:
    """Counts the bytes that this rank hands to the collectives for other ranks."""

    def __init__(self):
        self.sent = 0
        self._patch("all_to_all_single", lambda out, tensor, *args: tensor, full=False)
        self._patch("all_gather", lambda out, tensor, *args: tensor, full=True)

    def _patch(self, name, handed, full):
        original = getattr(torch.distributed, name)

        def counted(*args, **options):
            tensor, ranks = handed(*args), torch.distributed.get_world_size()
            # all-to-all keeps one slice here; all-gather brings the tensor to each other rank.
            self.sent += (
                tensor.nbytes * (ranks - 1) if full else tensor.nbytes * (ranks - 1) // ranks
            )
            return original(*args, **options)

        setattr(torch.distributed, name, counted)


def _traffic(num_samples, num_epochs):
    status = LearningStatus(num_samples, num_epochs)
    meter = _Meter()
    sent = 0
    for _ in range(num_epochs):
        status.update(
            torch.arange(num_samples),
            torch.ones(num_samples, 2),
            torch.ones(num_samples, dtype=torch.int64),
        )
        sent += status.sync()
        status.advance()
    bits = 8 / (num_samples * num_epochs)
    return meter.sent * bits, sent * bits


@pytest.mark.slow
def test_traffic_is_at_most_2_1_bits_per_sample_epoch_and_rank():
    for handed, reported in run_on_ranks(2, _traffic, 1_000_000, 3):
        assert 1.99 < handed <= 2.1
        assert reported == pytest.approx(handed, abs=0.01)


def _differing(what):
    rank = processes.rank()
    status = LearningStatus(10 + (rank if what == "num_samples" else 0), 5)
    if what == "epoch" and rank == 1:
        status.advance()
    with pytest.raises(ValueError, match=f"same {what}, got") as error:
        status.sync()
    return str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["num_samples", "epoch"])
def test_ranks_that_do_not_match_are_told_so(what):
    messages = run_on_ranks(2, _differing, what)
    assert messages[0] == messages[1]


def _abandoned(how):
    rank = processes.rank()
    status = LearningStatus(100, 3)
    status.update(torch.arange(5), torch.randn(5, 3), torch.zeros(5, dtype=torch.int64))
    before = status.words.clone()
    if rank == 1:
        if how == "dies":
            os._exit(1)
        time.sleep(5)
        os._exit(0)
    with pytest.raises(RuntimeError, match="rank 0 of 2 lost contact") as error:
        status.sync(timeout=2)
    assert torch.equal(status.words, before)
    return str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["dies", "sleeps"])
def test_a_rank_that_dies_or_hangs_gives_the_others_an_error(how):
    message, _ = run_on_ranks(2, _abandoned, how)
    assert "resume from the last checkpoint" in message


def _sharded(num_samples, num_epochs):
    rank = processes.rank()
    status = ShardedStatus(num_samples, num_epochs)
    for epoch in range(num_epochs):
        for batch in batches(num_samples, epoch, rank):
            status.update(*batch)
        status.advance()
    selection = select_clean(status)
    return (
        (status.ids.start, status.ids.stop),
        status.local.words.numpy(),
        status.histogram().numpy(),
        selection.mask.numpy(),
        selection.clean_probability.numpy(),
        selection.num_samples,
    )


def _two_groups(status, ids):
    """Right labels early, wrong ones late; the first third of the ids is wrong, so ranks differ."""
    num_samples, num_epochs = 300, 24
    rng = np.random.default_rng(0)
    rate = np.where(np.arange(num_samples) < 100, 0.8, 0.15)  # of being misclassified
    right = torch.from_numpy(rng.random((num_epochs, num_samples)) >= rate)
    ids = torch.tensor(ids)
    for epoch in range(num_epochs):
        logits = torch.where(right[epoch, ids, None], 1.0, -1.0) * torch.tensor([1.0, -1.0])
        status.update(ids, logits, torch.zeros(len(ids), dtype=torch.int64))
        status.advance()
    selections = [select_clean(status), select_clean(status, epochs=slice(8, 18))]
    return [(s.supported, s.mask.numpy(), s.num_kept, s.threshold, s.reason) for s in selections]


def _two_groups_sharded():
    status = ShardedStatus(300, 24)
    return status.ids, _two_groups(status, status.ids)


@pytest.mark.slow
def test_all_ranks_of_a_sharded_status_decide_alike():
    expected = _two_groups(LearningStatus(300, 24), range(300))
    assert [part[0] for part in expected] == [True, True]
    for ids, got in run_on_ranks(3, _two_groups_sharded):
        for (supported, mask, *rest), (_, whole_mask, *whole) in zip(got, expected, strict=True):
            assert supported
            np.testing.assert_array_equal(mask, whole_mask[ids.start : ids.stop])
            assert rest == whole
    with pytest.raises(ValueError, match="split among ranks"):
        select_clean(ShardedStatus(3, 1), labels=torch.zeros(3, dtype=torch.int64))


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "num_samples"), [(2, 201), (3, 100)])
def test_sharded_statuses_together_equal_one_process(ranks, num_samples):
    num_epochs = 12
    expected = single_process(num_samples, num_epochs, ranks)
    selection = select_clean(expected)
    seen = 0
    for ids, words, histogram, mask, probability, total in run_on_ranks(
        ranks, _sharded, num_samples, num_epochs
    ):
        mine = slice(*ids)
        assert ids[0] == seen
        seen = ids[1]
        np.testing.assert_array_equal(words, expected.words[mine].numpy())
        np.testing.assert_array_equal(histogram, expected.histogram().numpy())
        np.testing.assert_array_equal(mask, selection.mask[mine].numpy())
        np.testing.assert_array_equal(probability, selection.clean_probability[mine].numpy())
        assert total == num_samples
    assert seen == num_samples


def _one_rank_reads():
    status = ShardedStatus(300, 24)
    _two_groups(status, status.ids)
    selection = select_clean(status)
    if processes.rank() == 1:
        return 0.0  # gone, for good
    figures = (selection.clean_probability, selection.suspicion, selection.misclassified)
    return float(sum(figure.double().mean() for figure in figures))


@pytest.mark.slow
def test_reading_a_figure_is_no_collective():
    assert run_on_ranks(2, _one_rank_reads, seconds=100)[0] > 0


def test_a_sharded_status_alone_works_as_a_learning_status():
    sharded, expected = ShardedStatus(40, 3), single_process(40, 3, 1)
    for epoch in range(3):
        for batch in batches(40, epoch, 0):
            sharded.update(*batch)
        sharded.advance()
    assert torch.equal(sharded.local.words, expected.words)

    restored = ShardedStatus(40, 3)
    restored.load_state_dict(sharded.state_dict())
    assert torch.equal(restored.histogram(), expected.histogram())
    sharded.reset()
    assert not sharded.local.words.any()
    assert sharded.epoch == 0


def test_a_sharded_status_refuses_what_it_cannot_record():
    status = ShardedStatus(10, 1)
    logits, labels = torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)
    for bad in ([0, 10], [-1, 0]):
        with pytest.raises(ValueError, match=r"index must be in \[0, 10\)"):
            status.update(torch.tensor(bad), logits, labels)
    with pytest.raises(ValueError, match="index must be \\[B\\] like labels"):
        status.update(torch.arange(3), logits, labels)
    status.advance()
    assert not status.local.words.any()
    with pytest.raises(ValueError, match="all 1 epochs are recorded"):
        status.update(torch.arange(2), logits, labels)
    with pytest.raises(ValueError, match="every rank a sample"):
        ShardedStatus(0, 1)


# ---- records of classes and statistics


def _buffers(status):
    record = status._record
    return [x.numpy().copy() for x in (status.words, record.visits, record.planes, record.sums)]


def _train_record(num_samples, num_epochs, idle, record):
    rank = processes.rank()
    status = LearningStatus(num_samples, num_epochs, num_classes=CLASSES, record=record)
    sent = []
    for epoch in range(num_epochs):
        if rank != idle:
            for batch in batches(num_samples, epoch, rank):
                status.update(*batch)
        sent.append(status.sync())
        status.advance()
    return _buffers(status), sent


def single_record(num_samples, num_epochs, ranks, idle, record):
    status = LearningStatus(num_samples, num_epochs, num_classes=CLASSES, record=record)
    for epoch in range(num_epochs):
        for rank in range(ranks):
            if rank != idle:
                for batch in batches(num_samples, epoch, rank):
                    status.update(*batch)
        status.advance()
    return status


@pytest.mark.slow
@pytest.mark.parametrize("record", ["classes", "all"])
@pytest.mark.parametrize(("ranks", "num_samples", "idle"), [(2, 200, None), (3, 61, 0)])
def test_synced_records_equal_those_of_one_process(ranks, num_samples, idle, record):
    expected = _buffers(single_record(num_samples, 7, ranks, idle, record))
    for buffers, sent in run_on_ranks(ranks, _train_record, num_samples, 7, idle, record):
        for ours, theirs in zip(buffers, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert sent == [2 * (ranks - 1) * -(-8 * num_samples // ranks)] * 7


def _advance_without_sync():
    status = LearningStatus(10, 4, num_classes=CLASSES)
    status.sync()
    status.advance()
    if processes.rank() == 1:  # only one forgets it
        status._ranks.restart(0)
    try:
        status.sync()
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.slow
def test_an_epoch_that_one_rank_ended_without_sync_is_raised_on_all():
    for message in run_on_ranks(2, _advance_without_sync):
        assert "after its last update() and before advance()" in message


def _faults_of_one(record):
    status = LearningStatus(10, 4, num_classes=CLASSES, record=record)
    if processes.rank() == 1:
        status._faults[1] = 3  # as a kernel on this rank's device counts them
    try:
        status.sync()
    except ValueError as error:
        status.sync()  # said once
        return str(error)
    return ""


@pytest.mark.slow
@pytest.mark.parametrize("record", ["status", "classes"])
def test_bad_rows_of_one_rank_are_raised_on_all(record):
    for message in run_on_ranks(2, _faults_of_one, record):
        assert "on rank 1 met bad values: 3 rows with a label" in message


def _sharded_record(num_samples, num_epochs, record):
    rank = processes.rank()
    status = ShardedStatus(num_samples, num_epochs, num_classes=CLASSES, record=record)
    for epoch in range(num_epochs):
        for batch in batches(num_samples, epoch, rank):
            status.update(*batch)
        status.advance()
    wave = status.label_wave().numpy()
    vote = status.majority_vote().label.numpy()
    return _buffers(status.local), wave, vote, status.shortfall().numpy()


@pytest.mark.slow
@pytest.mark.parametrize("record", ["classes", "all"])
def test_sharded_records_equal_those_of_one_process(record):
    expected = single_record(101, 7, 2, None, record)
    words, _, _, sums = _buffers(expected)
    results = run_on_ranks(2, _sharded_record, 101, 7, record)
    np.testing.assert_array_equal(np.concatenate([r[0][0] for r in results]), words)
    np.testing.assert_array_equal(np.concatenate([r[0][3] for r in results], axis=1), sums)
    vote = expected.majority_vote().label.numpy()
    np.testing.assert_array_equal(np.concatenate([r[2] for r in results]), vote)
    shortfall = expected.shortfall().numpy()
    np.testing.assert_array_equal(np.concatenate([r[3] for r in results]), shortfall)
    for result in results:
        np.testing.assert_array_equal(result[1], expected.label_wave().numpy())
