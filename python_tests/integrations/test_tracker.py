"""Rounds in a loop of one's own."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from noisy import NUM_SAMPLES, Noisy, plain_loop

from mild_ext.integrations import RoundTracker
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
    assert tracker.stop_reason == "all 1 rounds are done"
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
    tracker = RoundTracker(10, [1], select=lambda status: seen.append(status) or strict(status))
    seen: list = []
    tracker.end_epoch()
    assert seen == [tracker.status]


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
    with pytest.raises(ValueError, match="11 samples, this tracker of 10"):
        tracker.load_state_dict(RoundTracker(11, [2]).state_dict())
    with pytest.raises(ValueError, match=r"rounds \[3\], this tracker of \[2\]"):
        tracker.load_state_dict(RoundTracker(10, [3]).state_dict())
    with pytest.raises(ValueError, match="must be of a RoundTracker"):
        tracker.load_state_dict({})
    tracker.status.save(tmp_path / "status.safetensors")
    with pytest.raises(ValueError, match="was not saved by a RoundTracker"):
        tracker.restore(tmp_path / "status.safetensors")


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
