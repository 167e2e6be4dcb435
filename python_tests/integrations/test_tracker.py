"""Rounds in a loop of one's own."""

from __future__ import annotations

import json
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from noisy import NUM_SAMPLES, Noisy, keep_even, plain_loop
from ranks import run_on_ranks
from safetensors.torch import save_file
from torch.utils.data import DataLoader

from mild_ext import IndexedDataset, sealed
from mild_ext.data import ArrayDataset
from mild_ext.integrations import RoundTracker
from mild_ext.integrations.batch_labels import BatchLabels
from mild_ext.recording._native import has_cuda
from mild_ext.selection import select_clean


def test_rounds_find_wrong_labels_and_train_on_the_rest():
    tracker = plain_loop([10, 4], 15)
    wrong = Noisy().wrong
    assert tracker.finished
    assert tracker.stop_reason == tracker.selections[1].reason
    assert (tracker.round, tracker.epochs) == (2, 15)
    dropped = ~tracker.kept
    assert wrong[dropped].float().mean() > 0.8
    assert (wrong & dropped).sum() > 0.7 * wrong.sum()
    assert torch.equal(tracker.round_dropped >= 0, dropped)
    assert len(tracker.selections) == 2
    # Evidence: of the last round that watched the sample.
    dropped_first = tracker.round_dropped == 0
    assert dropped_first.any()
    assert (tracker.seen[dropped_first] == 10).all()
    assert (tracker.seen[tracker.kept] == 4).all()
    assert (tracker.misclassified <= tracker.seen).all()
    assert tracker.clean_probability[dropped_first].max() <= 0.5


def test_the_rounds_end_when_all_are_done():
    tracker = plain_loop([10], 11)
    assert tracker.stop_reason == "the recipe's 1 rounds are done"
    assert not tracker.kept.all()


def test_a_dropped_sample_is_neither_drawn_nor_recorded_in_the_next_round():
    tracker = plain_loop([10, 4], 11)
    assert tracker.round == 1
    assert set(tracker.sampler()) == set(tracker.kept.nonzero().flatten().tolist())
    seen = tracker.status.compute().seen
    assert torch.equal(seen > 0, tracker.kept)


def test_an_unsupported_selection_keeps_everything_and_ends_the_rounds():
    tracker = RoundTracker(30, [1, 5])
    tracker.update(torch.arange(30), torch.eye(3).repeat(10, 1), torch.zeros(30, dtype=torch.int64))
    tracker.end_epoch()
    assert tracker.finished
    assert tracker.kept.all()
    assert tracker.stop_reason == tracker.selections[0].reason
    words = tracker.status.words.clone()
    tracker.update(torch.arange(3), torch.eye(3), torch.zeros(3, dtype=torch.int64))
    tracker.end_epoch()
    assert torch.equal(tracker.status.words, words)
    assert tracker.epochs == 2


def test_a_rule_of_ones_own_is_used():
    strict = partial(select_clean, level=0.95)

    def select(status, *, labels):
        seen.append((status, labels))
        return strict(status, labels=labels)

    tracker, seen = RoundTracker(10, [1], select=select), []
    outcome = tracker.end_epoch()
    assert seen == [(tracker.status, None)], "nothing was recorded, so no label is known"
    assert outcome.stop_reason == tracker.stop_reason


@pytest.mark.parametrize("stop", [3, 10, 12, 14, 15])
def test_a_restored_tracker_goes_on_as_if_nothing_had_happened(stop, tmp_path):
    tracker = plain_loop([10, 4], stop)
    tracker.save(tmp_path / "tracker.safetensors")
    restored = RoundTracker(NUM_SAMPLES, [10, 4], seed=5)
    restored.restore(tmp_path / "tracker.safetensors")
    for name in ("kept", "round_dropped", "misclassified", "seen", "clean_probability"):
        assert torch.equal(getattr(restored, name), getattr(tracker, name)), name
    assert torch.equal(restored.status.words, tracker.status.words)
    for name in ("round", "epochs", "stop_reason", "finished", "round_complete"):
        assert getattr(restored, name) == getattr(tracker, name), name
    assert restored.status.epoch == tracker.status.epoch
    assert list(restored.sampler()) == list(tracker.sampler())


def test_a_state_of_something_else_is_refused(tmp_path):
    tracker = RoundTracker(10, [2])
    with pytest.raises(ValueError, match="must be of 10 samples, got 11"):
        tracker.load_state_dict(RoundTracker(11, [2]).state_dict())
    with pytest.raises(ValueError, match=r"must be of rounds \[2\], got \[3\]"):
        tracker.load_state_dict(RoundTracker(10, [3]).state_dict())
    with pytest.raises(ValueError, match="must be of a RoundTracker"):
        tracker.load_state_dict({})
    with pytest.raises(ValueError, match="damaged: it has no epochs, rounds, status"):
        tracker.load_state_dict({"format": "mild_ext-tracker-3"})
    tracker.status.save(tmp_path / "status.safetensors")
    with pytest.raises(ValueError, match="is no file that a RoundTracker of this version saved"):
        tracker.restore(tmp_path / "status.safetensors")


def test_a_file_of_another_version_and_a_damaged_one_are_refused(tmp_path):
    tracker, path = RoundTracker(10, [2]), tmp_path / "tracker.safetensors"
    old = {"tracker": json.dumps({"format": "mild_ext-tracker-1", "rounds": [2]})}
    save_file({"kept": tracker.kept}, path, metadata=old)
    with pytest.raises(ValueError, match="of this version saved"):
        tracker.restore(path)
    tracker.save(path)
    whole = path.read_bytes()
    for damaged in (whole[:-5], whole[:40], b""):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="is damaged or no safetensors file"):
            tracker.restore(path)
    with pytest.raises(FileNotFoundError):
        tracker.restore(tmp_path / "elsewhere")


def test_a_file_is_replaced_by_a_complete_one_only(tmp_path, monkeypatch):
    path = tmp_path / "tracker.safetensors"
    tracker = RoundTracker(10, [2])
    tracker.save(path)
    before = path.read_bytes()

    def fail(tensors, to, metadata):
        to.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(sealed, "save_file", fail)
    with pytest.raises(OSError, match=r"cannot write.*tracker\.safetensors"):
        tracker.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# ------------------------------------------------------------------------------- labels from batches


def feed(tracker, labels, ids=None):
    """Batches in which every sample is predicted right."""
    ids = tracker.watched.nonzero().flatten() if ids is None else ids
    logits = torch.nn.functional.one_hot(labels[ids].long(), 3).float()
    for batch in ids.split(4):
        rows = torch.isin(ids, batch)
        tracker.update(batch, logits[rows], labels[batch])


def test_labels_are_taken_from_the_batches_until_all_are_known():
    labels = torch.arange(10) % 3
    tracker = RoundTracker(10, [4])
    assert tracker.labels is None
    feed(tracker, labels, torch.arange(6))
    tracker.end_epoch()
    assert tracker.labels.tolist() == [0, 1, 2, 0, 1, 2, -1, -1, -1, -1]
    feed(tracker, labels.int(), torch.arange(4, 10))
    tracker.end_epoch()
    assert torch.equal(tracker.labels, labels)
    feed(tracker, (labels + 1) % 3)  # all is known: nobody looks any more
    tracker.end_epoch()
    assert torch.equal(tracker.labels, labels)


def test_batches_with_other_labels_than_those_given_are_noticed_after_an_epoch():
    """Clean .targets given, and noisy labels in the batches: what was recorded is of neither."""
    tracker = RoundTracker(10, [4], labels=torch.zeros(10, dtype=torch.int64))
    feed(tracker, torch.arange(10) % 3)
    with pytest.raises(
        ValueError, match=r"6 samples came with another label .* \(sample 1: 1, not 0"
    ):
        tracker.end_epoch()
    tracker = RoundTracker(10, [4], labels=(torch.arange(10) % 3).double().numpy())
    for _ in range(4):
        feed(tracker, torch.arange(10) % 3)
        tracker.end_epoch()
    assert tracker.finished


def test_ids_out_of_range_leave_the_labels_alone():
    noted = BatchLabels(5, "cpu", known=torch.tensor([7, -1, -1, -1, -1]))
    noted.update(torch.tensor([-1, -9, 5, 99, 2]), torch.tensor([3, 3, 3, 3, 4]))
    assert noted.labels.tolist() == [7, -1, 4, -1, -1]


def test_labels_noted_amid_an_epoch_survive_a_restart(tmp_path):
    labels = torch.arange(10) % 3
    tracker = RoundTracker(10, [1])
    feed(tracker, labels, torch.arange(6))
    tracker.save(tmp_path / "t")
    restored = RoundTracker(10, [1])
    restored.restore(tmp_path / "t")
    feed(restored, labels, torch.arange(6, 10))
    restored.end_epoch()
    assert torch.equal(restored.labels, labels)


@pytest.mark.cuda
@pytest.mark.skipif(not (torch.cuda.is_available() and has_cuda()), reason="needs a CUDA device")
def test_on_a_device_labels_are_noted_without_waiting_and_bad_ids_spare_them():
    labels = (torch.arange(10) % 3).cuda()
    tracker = RoundTracker(10, [2], device="cuda")
    index, logits = torch.tensor([0, 3, 9, -1, 10]).cuda(), torch.eye(5).cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        tracker.update(index, logits, labels[:5])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    tracker.advance()
    assert tracker.labels.tolist() == [0, -1, -1, 1, -1, -1, -1, -1, -1, 2]
    with pytest.raises(ValueError, match="2 rows with an index out of range"):
        tracker.status.compute()


def keep_but_class_2(status, *, labels):
    return SimpleNamespace(
        mask=labels != 2, clean_probability=(labels != 2).float(), supported=True, reason=""
    )


def test_a_class_that_only_the_batches_know_is_not_emptied():
    tracker = RoundTracker(10, [1, 1], select=keep_but_class_2)
    feed(tracker, torch.arange(10) % 3)
    outcome = tracker.end_epoch()
    assert "would empty class 2" in outcome.refused == tracker.stop_reason
    assert tracker.kept.all()


def _labels_of_two_ranks():
    rank = torch.distributed.get_rank()
    labels = torch.arange(10) % 3
    tracker = RoundTracker(10, [2, 1], select=keep_but_class_2)
    known = []
    for part in (torch.arange(rank, 9, 2), torch.arange(1 - rank, 9, 2)):  # sample 9 is in no batch
        feed(tracker, labels, part)
        known.append(tracker.labels)
        outcome = tracker.end_epoch()
        known.append(tracker.labels)
    alone = [None if x is None else x.numpy() for x in known]
    return alone, tracker.kept.numpy(), outcome.refused


def test_ranks_tell_each_other_the_labels_at_the_end_of_the_round():
    results = run_on_ranks(2, _labels_of_two_ranks)
    for (*during, after), kept, refused in results:
        assert during == [None] * 3, "one merge a round"
        assert after.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, -1]
        assert kept.all()
        assert "would empty class 2" in refused


# ------------------------------------------------------------------------ the options of the rounds


def test_everyone_is_watched_where_dropped_samples_may_return():
    masks = iter([torch.arange(10) % 2 == 0, torch.arange(10) < 5])

    def select(status, *, labels):
        mask = next(masks)
        return SimpleNamespace(mask=mask, clean_probability=mask.float(), supported=True, reason="")

    tracker = RoundTracker(10, [1, 1], reselect="all", select=select)
    for _ in range(2):
        assert sorted(tracker.sampler()) == list(range(10))
        tracker.end_epoch()
    assert tracker.round_dropped.tolist() == [-1] * 5 + [0, 1, 0, 1, 0]
    assert sorted(tracker.sampler()) == list(range(5)), "after the rounds, those kept"


def test_a_round_that_removes_little_is_the_last():
    tracker = RoundTracker(10, [1, 1], select=keep_even, min_removed=0.6)
    tracker.end_epoch()
    assert tracker.stop_reason == (
        "round 0 changed the fate of 5 samples, less than a share of 0.6 of 10"
    )
    assert int(tracker.kept.sum()) == 5


def test_only_train_ids_are_drawn_and_only_dropped_samples_are_label_issues():
    ids = torch.arange(0, NUM_SAMPLES, 2)
    tracker = plain_loop([10, 4], 15, train_ids=ids)
    assert (tracker.seen > 0).nonzero().flatten().tolist() == ids.tolist()
    table = tracker.table()
    issues = torch.from_numpy(table["dropped"])
    assert torch.equal(issues, tracker.round_dropped >= 0)
    assert 0 < issues[::2].float().mean() < 0.5
    assert torch.equal(torch.from_numpy(table["given_label"])[ids], Noisy().labels[ids])
    assert table["given_label"][1] == -1
    assert "given_label" not in RoundTracker(10, [1]).table()


@pytest.mark.parametrize("rounds", [[], [3, 0]])
def test_rounds_without_epochs_are_refused(rounds):
    with pytest.raises(ValueError, match="rounds must name at least one round"):
        RoundTracker(10, rounds)


def test_a_round_cannot_end_early():
    with pytest.raises(RuntimeError, match="0 of 2 epochs"):
        RoundTracker(10, [2]).end_round()


def test_the_sampler_deals_the_kept_samples_to_the_ranks_and_changes_order_by_epoch():
    tracker = RoundTracker(10, [2, 2])
    tracker.kept[3] = False
    kept = set(range(10)) - {3}
    parts = [list(tracker.sampler(num_replicas=4, rank=r)) for r in range(4)]
    assert [len(p) for p in parts] == [3] * 4 == [len(tracker.sampler(num_replicas=4, rank=0))] * 4
    drawn = [i for p in parts for i in p]
    assert set(drawn) == kept
    assert len(drawn) == 12, "three ids are repeated to fill up"

    parts = [list(tracker.sampler(num_replicas=4, rank=r, drop_last=True)) for r in range(4)]
    assert [len(p) for p in parts] == [2] * 4
    assert len({i for p in parts for i in p}) == 8

    before = list(tracker.sampler())
    assert before == list(tracker.sampler())
    tracker.end_epoch()
    assert sorted(tracker.sampler()) == sorted(before)
    assert list(tracker.sampler()) != before
    assert list(tracker.sampler(shuffle=False)) == sorted(kept)
    with pytest.raises(ValueError, match="together"):
        tracker.sampler(num_replicas=2)


# ----------------------------------------------------------------------------------- planted labels


def recite(tracker, ids):
    """Logits of a model that says the right label late, and never a planted one."""
    generator = torch.Generator().manual_seed(tracker.epochs)
    late = torch.rand(tracker.num_samples, generator=generator) < 0.1
    said = torch.where(late | Noisy().wrong, (Noisy().true + 2) % 3, Noisy().true)
    return torch.eye(3)[said[ids]]


def plant_on_a_rank():
    """Two rounds with planting, each rank its part of the samples; what they came to."""
    tracker = RoundTracker(NUM_SAMPLES, [12, 4], labels=Noisy().labels, plant=0.05, num_classes=3)
    planted = []
    while not tracker.finished:
        planted.append(tracker.planted.labels)
        for ids in torch.tensor(list(tracker.sampler())).split(32):
            tracker.update(ids, recite(tracker, ids), tracker.training_labels[ids])
        tracker.end_epoch()
    found = (torch.stack(planted), tracker.kept, tracker.suspicion, tracker.suggested_label)
    return [values.numpy() for values in found]  # tensors would come by a shared file that is gone


@pytest.mark.slow
def test_all_ranks_plant_the_same_and_keep_what_one_process_keeps():
    alone = plant_on_a_rank()
    assert not alone[1].all()
    for found in run_on_ranks(2, plant_on_a_rank):
        for ours, theirs in zip(alone, found, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_workers_see_what_is_planted_and_given_back():
    labels = torch.arange(200) % 2
    tracker = RoundTracker(200, [1, 1], labels=labels, plant=0.05, select=keep_even_of_each)
    data = IndexedDataset(ArrayDataset(torch.zeros(200, 1), labels), tracker.training_labels)
    loader = DataLoader(data, 50, sampler=tracker.sampler(), num_workers=1, persistent_workers=True)
    for expected in (20, 10, 0):
        wrong = 0
        for index, _, trained in loader:
            wrong += int((trained != labels[index]).sum())
            tracker.update(index, torch.eye(2)[labels[index]], trained)
        assert wrong == expected
        tracker.end_epoch()
    assert torch.equal(tracker.training_labels, labels)


def keep_even_of_each(status, *, labels, planted):
    mask = torch.arange(status.num_samples) // 2 % 2 == 0
    return SimpleNamespace(mask=mask, clean_probability=mask.float(), supported=True, reason="")


def test_forgetting_to_swap_the_labels_is_noticed_after_an_epoch():
    labels = Noisy().labels
    tracker = RoundTracker(NUM_SAMPLES, [3], labels=labels, plant=0.05)
    everyone = torch.arange(NUM_SAMPLES)
    tracker.update(everyone, recite(tracker, everyone), labels)
    with pytest.raises(ValueError, match="were trained on other labels than those planted"):
        tracker.end_epoch()


def test_planting_needs_labels():
    with pytest.raises(ValueError, match="planting needs labels="):
        RoundTracker(100, [3], plant=0.05)
    with pytest.raises(RuntimeError, match=r"needs the given labels: RoundTracker"):
        _ = RoundTracker(100, [3]).training_labels


def test_a_restored_tracker_goes_on_with_what_was_planted(tmp_path):
    def make():
        return RoundTracker(NUM_SAMPLES, [2, 2], labels=Noisy().labels, plant=0.05, num_classes=3)

    def epoch(tracker):
        ids = tracker.watched.nonzero().flatten()
        tracker.update(ids, recite(tracker, ids), tracker.training_labels[ids])
        tracker.end_epoch()

    one = make()
    epoch(one)
    one.save(tmp_path / "t.safetensors")
    other = make()
    shared = other.training_labels
    other.restore(tmp_path / "t.safetensors")
    assert other.training_labels is shared
    assert torch.equal(shared, one.training_labels)
    for tracker in (one, other):
        while not tracker.finished:
            epoch(tracker)
    for name in ("kept", "misclassified", "suspicion", "suggested_label", "training_labels"):
        assert torch.equal(getattr(one, name), getattr(other, name))
