"""What a tracker and a status are handed: labels, batches and ids of any kind, and hints that can be followed."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from mild_ext import LearningStatus
from mild_ext.integrations import RoundTracker


def test_given_labels_may_be_text_and_samples_without_one_are_refused_or_left_out():
    names = ["dog", "cat", None, "dog"]
    with pytest.raises(
        ValueError, match=r"missing for 1 of 4 samples \(row 2: None\).*missing='drop'"
    ):
        RoundTracker(4, [1], labels=names)
    tracker = RoundTracker(4, [1], labels=names, missing="drop")
    assert tracker.class_names == ("cat", "dog")
    assert tracker.labels.tolist() == [1, 0, -1, 1]
    assert tracker.kept.tolist() == [True, True, False, True]
    assert RoundTracker(4, [1], labels=names, train_ids=torch.tensor([0, 1])).kept.sum() == 2


def test_what_is_no_tensor_says_what_to_do():
    tracker = RoundTracker(4, [1])
    with pytest.raises(
        TypeError, match=r"index must be a tensor, got ndarray; use torch.as_tensor\(index\)"
    ):
        tracker.update(np.arange(2), torch.zeros(2, 2), torch.zeros(2).long())
    with pytest.raises(
        TypeError, match=r"got list; ids of samples are their positions, which Indexed"
    ):
        tracker.update(["a7", "b3"], torch.zeros(2, 2), torch.zeros(2).long())
    with pytest.raises(
        TypeError, match=r"number them: mild_ext.data.check_labels\(labels\).values"
    ):
        tracker.update(torch.arange(2), torch.zeros(2, 2), ["dog", "cat"])
    with pytest.raises(TypeError, match="give the tensor of logits itself"):
        tracker.update(torch.arange(2), {"logits": torch.zeros(2, 2)}, torch.zeros(2).long())


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        (
            {"labels": torch.tensor([0.0, 1.0])},
            TypeError,
            r"labels.long\(\) if they are whole numbers",
        ),
        (
            {"labels": torch.eye(2)},
            TypeError,
            r"one-hot labels use labels.argmax\(1\), .*multi-label\) are not",
        ),
        ({"labels": torch.eye(2).long()}, ValueError, r"one-hot labels use labels.argmax\(1\)"),
        ({"labels": torch.tensor([[0], [1]])}, ValueError, r"use labels\[:, 0\].long\(\)"),
        ({"index": torch.tensor([[0, 1]])}, ValueError, r"use index.flatten\(\)"),
        (
            {"logits": torch.zeros(2, 2, device="meta")},
            RuntimeError,
            "no values to record; record where",
        ),
        ({"logits": torch.zeros(2, 3, 4)}, ValueError, "one row per pixel or token"),
    ],
)
def test_a_hint_is_one_that_can_be_followed(batch, error, message):
    status = LearningStatus(4, 1)
    good = {"index": torch.arange(2), "logits": torch.zeros(2, 2), "labels": torch.arange(2)}
    with pytest.raises(error, match=message):
        status.update(**(good | batch))
    assert not status.words.any()


def test_the_hint_for_a_binary_model_can_be_followed():
    index, logits, labels = torch.arange(3), torch.tensor([1.0, -1.0, 2.0]), torch.tensor([1, 0, 0])
    with pytest.raises(
        ValueError, match="binary model's batch of 3 need a status with num_classes=2"
    ):
        LearningStatus(3, 1, num_classes=1).update(index, logits, labels)
    for options in ({"num_classes": 2}, {}):
        status = LearningStatus(3, 1, **options)
        status.update(index, logits, labels)
        assert status.compute().misclassified.tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        (torch.tensor([0, 9]), ValueError, r"train_ids must lie in \[0, 4\).*got 0 to 9"),
        (torch.tensor([-1]), ValueError, "got -1 to -1"),
        (torch.ones(3, dtype=torch.bool), ValueError, r"mask must have shape \[4\], got \[3\]"),
        (torch.tensor([0.0]), TypeError, r"use train_ids.long\(\)"),
        ([], ValueError, "must name at least one"),
    ],
)
def test_samples_that_are_not_there_cannot_take_part(ids, error, message):
    for labels in (None, [0, 1, 0, 1]):
        with pytest.raises(error, match=message):
            RoundTracker(4, [1], train_ids=ids, labels=labels)


def test_a_round_that_begins_anew_holds_nothing_of_what_was_before():
    tracker = RoundTracker(3, [2, 1], labels=[0, 1, 0])

    def epoch():
        tracker.update(torch.arange(3), torch.eye(2)[[0, 1, 0]], torch.tensor([0, 1, 0]))
        return tracker.end_epoch()

    epoch()
    tracker.restart_round()
    assert (tracker.epochs, tracker.status.epoch, bool(tracker.status.words.any())) == (0, 0, False)
    assert epoch() is None
    assert epoch() is not None  # all of the round
    assert (tracker.seen == 2).all()
    tracker.restart_round()  # nothing to begin anew where the rounds are over
    assert tracker.epochs == 2


def _drawn_elsewhere(tracker, how, pipe):
    try:
        if how == "sampler":
            list(tracker.sampler(num_replicas=1))
        else:
            tracker.update(torch.arange(4), torch.eye(4), torch.arange(4))
            tracker.end_epoch()
    except RuntimeError as error:
        pipe.send(str(error))
    else:
        pipe.send("recorded, and lost")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["sampler", "own order"])
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_what_a_launched_process_would_keep_to_itself_is_refused(start, how):
    """As notebook_launcher and mp.spawn start them: the tracker that was made before sees nothing."""
    context = torch.multiprocessing.get_context(start)
    ours, theirs = context.Pipe()
    process = context.Process(target=_drawn_elsewhere, args=(RoundTracker(4, [2]), how, theirs))
    process.start()
    assert ours.poll(120)
    message = ours.recv()
    process.join()
    assert "make it inside the function that is launched" in message
    assert "tracker.save(FILE)" in message


@pytest.mark.slow
def test_accelerates_launcher_says_so_too():
    accelerate = pytest.importorskip("accelerate")
    tracker = RoundTracker(4, [2])

    def train():
        os.environ["OMP_NUM_THREADS"] = "1"  # Accelerate warns, and sets it, where it is not set
        accelerate.Accelerator(cpu=True)
        list(tracker.sampler(num_replicas=1))

    with pytest.raises(Exception, match="make it inside the function that is launched"):
        accelerate.debug_launcher(train, num_processes=2)
